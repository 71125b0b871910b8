"""The page of allowed functions, made from the table that translations go by: `python -m lakehouse_assets.sql.page`.

What belongs here: the page. What does not: any function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lakehouse_assets.sql import functions
from lakehouse_assets.sql.functions import CLOCK, INSTEAD, RANDOM, SESSION

_HEAD = """\
# Functions of the portable dialect

Transforms are written in Spark SQL and answer alike on both engines. These are the functions that they may call; any
other is refused when the catalog is loaded. Every function stands in a parity case, asked of DuckDB and of Spark 4.2
(ANSI mode, UTC) over edge values. Where the engines differ, the translation bridges it; the notes say what matters.

This page is generated: `python -m lakehouse_assets.sql.page > docs/functions.md`.
"""
_TITLES = {
    "row": "Of one row",
    "group": "Of several rows: aggregates, with GROUP BY or OVER",
    "window": "Of a window: with OVER and ORDER BY",
}


def page() -> str:
    """The page as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    table = functions.table()
    for kind, title in _TITLES.items():
        yield f"## {title}\n"
        yield from _table(("function", "note"), {name: f.note for name, f in table.items() if f.kind == kind})
    yield "## Refused\n"
    yield f"The clock ({_names(CLOCK)}): use `:run_date`, the UTC date that stands in the batch's plan.  "
    yield f"Chance ({_names(RANDOM)}) and what depends on the session ({_names(SESSION)}): a replay would answer"
    yield "otherwise.\n"
    yield from _table(("function", "instead"), INSTEAD)


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> Iterator[str]:
    yield f"| {head[0]} | {head[1]} |"
    yield "| --- | --- |"
    for name, text in rows.items():
        yield f"| `{name}` | {text.replace('|', chr(92) + '|')} |"
    yield ""


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - what a command prints
