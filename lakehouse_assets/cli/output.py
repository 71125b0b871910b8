"""How rows and messages are printed: tables for people, JSON and CSV for programs.

What belongs here: text of values and rows. What does not: where rows come from.

In JSON a decimal is a string (no reader rounds it), `NaN`, `Infinity` and `-Infinity` are those words as strings
(JSON has no such numbers, and `null` is NULL), times are ISO 8601 with `Z` where they are instants, bytes are base64,
a map is a list of `[key, value]`. CSV is RFC 4180 with a header: NULL is an empty field, an empty text is `""`, and a
list, map or struct is its JSON.
"""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from lakehouse_assets.errors import SettingsError

Row = Mapping[str, Any]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NEEDS_QUOTES = re.compile(r'[",\r\n]|^\s|\s$')


def say(message: str) -> None:
    """A message on stderr."""
    click.echo(message, err=True)


def print_rows(rows: Iterable[Row], columns: Sequence[str], form: str) -> None:
    """Print rows on stdout.

    Args:
        rows: read once, and only as far as they are printed.
        columns: names and order; shown even when there are no rows.
        form: "table", "json" or "csv".
    """
    printers: dict[str, Callable[[Iterable[Row], Sequence[str]], None]] = {
        "table": _print_table,
        "json": _print_json,
        "csv": _print_csv,
    }
    printers[form](rows, columns)


def _print_json(rows: Iterable[Row], columns: Sequence[str]) -> None:
    between = "[\n"
    for row in rows:
        click.echo(between + json.dumps({name: plain(row[name]) for name in columns}, ensure_ascii=False), nl=False)
        between = ",\n"
    click.echo("[]" if between == "[\n" else "\n]")


def _print_csv(rows: Iterable[Row], columns: Sequence[str]) -> None:
    for line in _csv_lines(rows, columns):
        click.echo(line + "\r\n", nl=False)


def _csv_lines(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    yield ",".join(_csv_field(name) for name in columns)
    for row in rows:
        # a line with one NULL would be an empty line, which readers skip
        yield ",".join(_csv_field(row[name]) for name in columns) or ('""' if len(columns) == 1 else "")


def _csv_field(value: Any) -> str:
    if value is None:
        return ""
    text = cell(value)
    return '"' + text.replace('"', '""') + '"' if text == "" or _NEEDS_QUOTES.search(text) else text


def _print_table(rows: Iterable[Row], columns: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    listed = list(rows)
    for name in columns:
        numeric = any(_is_number(row[name]) for row in listed)
        table.add_column(Text(shown(name)), justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        table.add_row(*(Text("" if row[name] is None else shown(cell(row[name]))) for name in columns))
    width = None if sys.stdout.isatty() else 100_000
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def shown(text: str) -> str:
    """`text` without control characters, which a terminal would obey."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def cell(value: Any) -> str:
    """A value as the text of a cell."""
    if isinstance(value, str):
        return value
    ready = plain(value)
    return ready if isinstance(ready, str) else json.dumps(ready, ensure_ascii=False)


def plain(value: Any) -> Any:
    """A value as JSON can hold it; see the module for what becomes of which type."""
    if value is None or isinstance(value, str | bool | int):
        return value
    for kind, turn in _PLAIN.items():
        if isinstance(value, kind):
            return turn(value)
    return str(value)


def _plain_float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


_PLAIN: dict[Any, Callable[[Any], Any]] = {
    float: _plain_float,
    Decimal: lambda value: format(value, "f"),
    datetime: lambda value: value.isoformat().replace("+00:00", "Z"),
    date: lambda value: value.isoformat(),
    time: lambda value: value.isoformat(),
    bytes: lambda value: base64.b64encode(value).decode(),
    Mapping: lambda value: {str(key): plain(item) for key, item in value.items()},
    list: lambda value: [plain(item) for item in value],
    tuple: lambda value: [plain(item) for item in value],
}


def is_terminal() -> bool:
    """Whether stderr, where progress goes, is a terminal."""
    return sys.stderr.isatty()


def write_picture(path: Path, picture: bytes) -> None:
    """Write a drawing to a file that the command line named.

    Raises:
        SettingsError: the file cannot be written.
    """
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise SettingsError(
            f"--png: {str(path)!r} cannot be written: {error.strerror}", fix="name a file in a directory of yours"
        ) from error
    say(f"drawn: {path}")
