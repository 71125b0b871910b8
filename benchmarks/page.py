"""The page `docs/benchmarks.md`, made of the JSON of every benchmark: `python -m benchmarks.page`.

What belongs here: how figures are shown. What does not: any figure, or a word about one: those come with the JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT

ORDER = (
    "sqlite_to_bronze",
    "bronze_to_silver",
    "kafka_to_bronze",
    "json_to_silver",
    "history",
    "stocks_end_to_end",
    "kdb_to_delta",
    "asof_join",
    "reading",
    "idle_and_small_runs",
    "definitions",
    "launched_steps",
)
PAGE = ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Made by `python -m benchmarks.page` of `benchmarks/results/*.json`: do not edit it.

Ours and the peers run in turn (A B C, A B C, …), each in a process of its own. *Seconds* are those
of the whole process, from its start to its exit: median, with the fastest and the slowest run in brackets. *CPU* is
user and system time, *peak* the most memory that was resident at once (10⁶ bytes), both as the operating system
counted them. *Inside* is what the process itself measured, without its start. Read ratios, and take those under 1.3 as
ties.
"""
REPEAT = """## How to repeat them

```
make bench-setup      the peers, into benchmarks/.venv
make bench            everything, and this page (forty minutes; needs Java 17 and Maven)
make bench QUICK=1    small sizes: whether it runs; writes nothing that is kept
```

One table: `.venv/bin/python -m benchmarks.reading --rows 1000000 --repeat 5`.
"""


def write(results: str | Path = RESULTS, target: str | Path = PAGE) -> None:
    """Write the page of the results that there are."""
    found = [json.loads(path.read_text()) for name in ORDER if (path := Path(results) / f"{name}.json").exists()]
    Path(target).write_text(rendered(found))


def rendered(found: Sequence[Mapping[str, Any]]) -> str:
    """The page."""
    parts = [HEAD, *_verdicts(found), *(part for one in found for part in _section(one)), REPEAT]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _verdicts(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    lines = ["| table | figure | bound | found | |", "| --- | --- | --- | ---: | --- |"]
    for one in found:
        for target in one["targets"]:
            verdict = "" if target["bound"] == "for comparison" else "met" if target["met"] else "**missed**"
            value = f"{_figure(target['found'])} {target['unit']}"
            lines.append(f"| {one['title']} | {target['what']} | {target['bound']} | {value} | {verdict} |")
    yield "## Bounds\n"
    yield "\n".join(lines)


def _section(one: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {one['title']}\n\n{one['about']}"
    yield f"Measured {_where(one)}. Again: `{one['repeat_with']}`."
    for table in one["tables"]:
        yield f"### {table['title']}\n"
        yield "\n".join(_table(table))
    if one["notes"]:
        yield "\n".join(f"- {note}" for note in one["notes"])


def _where(one: Mapping[str, Any]) -> str:
    machine, measured = one["machine"], one["measured"]
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"]["ours"].items())
    peers = ", ".join(
        f"{name} {version}"
        for name, version in one["versions"]["peers"].items()
        if one["versions"]["ours"].get(name) != version
    )
    return (
        f"{measured['at']} on {machine['cores']} cores and {machine['memory_gb']} GB ({machine['system']}), Python "
        f"{machine['python']}, load {measured['load']} before and {measured['load_after']} after; {versions}"
        + (f"; peers: {peers}" if peers else "")
    )


def _table(table: Mapping[str, Any]) -> Iterator[str]:
    rows = table["rows"]
    own = tuple(dict.fromkeys(name for row in rows for name in row.get("figures", {})))
    columns = (*_COLUMNS[:_OWN], *own, *_COLUMNS[_OWN:])
    shown = [column for column in columns if any(_cell(column, row, table) for row in rows)]
    yield f"| | {' | '.join(shown)} |"
    yield f"| --- |{' ---: |' * len([c for c in shown if c != 'note'])}{' --- |' if 'note' in shown else ''}"
    for row in rows:
        name = f"**{row['name']}**" if row["kind"] == "ours" else row["name"]
        yield f"| {name} | {' | '.join(_cell(column, row, table) for column in shown)} |"


_COLUMNS = ("seconds", "inside", "rows/s", "rows/s inside", "CPU s", "peak MB", "ratio", "n", "note")
_OWN = _COLUMNS.index("ratio")
"""Where the columns stand that a table has of its own."""


def _cell(column: str, row: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    if column in ("seconds", "inside"):
        return _spread(row.get("seconds" if column == "seconds" else "inside_seconds"))
    if column in ("rows/s", "rows/s inside"):
        rate = row.get("rows_per_second" if column == "rows/s" else "inside_rows_per_second")
        return "" if rate is None else f"{rate / 1000:,.0f} k"
    if column in ("CPU s", "peak MB"):
        found = row.get("cpu_seconds" if column == "CPU s" else "peak_mb")
        return "" if found is None else _figure(found["median"])
    if column == "ratio":
        return _ratio(row, table)
    if column in _COLUMNS:
        return str(row[column])
    found = row.get("figures", {}).get(column)
    return "" if found is None else _figure(found)


def _ratio(row: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    """How many times as long as the row that the table is measured against; inside where both have that."""
    base = next((other for other in table["rows"] if other["name"] == table["against"]), None)
    if base is None:
        return ""
    figure = "inside_seconds" if all("inside_seconds" in other for other in table["rows"]) else "seconds"
    return f"{row[figure]['median'] / base[figure]['median']:.2f}×"


def _spread(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    if found["min"] == found["max"]:
        return _figure(found["median"])
    return f"{_figure(found['median'])} ({_figure(found['min'])}–{_figure(found['max'])})"


def _figure(value: float) -> str:
    """A number with three digits that count."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write docs/benchmarks.md of the results.")
    parser.add_argument("--results", default=str(RESULTS), help="the directory of the JSON files")
    parser.add_argument("--page", default=str(PAGE), help="the page")
    given = parser.parse_args()
    write(given.results, given.page)
