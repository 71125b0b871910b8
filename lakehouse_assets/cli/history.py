"""`lakehouse history`: what happened to a key, a table as it was, and a table put back.

What belongs here: arguments and printing. What does not: what became of an event (`serve/explain.py`), drawing
(`serve/timeline.py`), taking events back (`tables/corrections.py`).
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lakehouse_assets.cli.options import format_option, of_lake, open_lake, table_of
from lakehouse_assets.cli.output import print_rows, say, write_picture

if TYPE_CHECKING:
    from lakehouse_assets.serve.timeline import Timeline

TIMELINE = ("shows", "start", "end", "operation", "event", "origin", "note", "values")
EXPLAINED = ("sequence", "operation", "fate", "effect", "event", "origin", "feed", "batch", "logged")
REWOUND = ("table", "does", "events", "keys", "version")
WIDTH = 120
"""Cells of a drawing where stdout is no terminal."""
SHOWN = 1000
"""Rows of a table for people, unless `--limit` says otherwise."""


@click.group()
def history() -> None:
    """Show, explain and rewind the history of a table with `apply_changes`.

    KEY is the value of the key column; of several columns a=1,b=x or a JSON object. Sequences are written as they
    are: 42, 2025-05-01T12:00:00Z (without a zone: UTC); of several columns with commas between, or a JSON object.
    """


@history.command()
@click.argument("table")
@click.argument("key")
@click.option(
    "--png", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the drawing to FILE, too."
)
@of_lake
@format_option("table", "json", "csv")
def show(table: str, key: str, png: Path | None, form: str, **where: Any) -> None:
    """Draw the rows of KEY in TABLE on a line of time, with gaps and the events that do not show.

    \b
    lakehouse history show silver.customers 17
    lakehouse history show silver.prices market=XETRA,symbol=SAP --png sap.png
    """  # noqa: D301
    from lakehouse_assets.serve.explain import history_of
    from lakehouse_assets.serve.timeline import draw

    work = open_lake(**where)
    found = history_of(work, table_of(work, table), key)
    if png is not None:
        from lakehouse_assets.serve.timeline_png import png as picture

        write_picture(png, picture(found))
    if form == "table":
        click.echo(draw(found, shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH))
    else:
        print_rows(_timeline_rows(found), TIMELINE, form)


def _timeline_rows(timeline: Timeline) -> Iterator[dict[str, Any]]:
    empty = dict.fromkeys(TIMELINE)
    for interval in timeline.intervals:
        yield empty | {"shows": "row", "start": interval.start, "end": interval.end, "values": dict(interval.values)}
    for mark in timeline.marks:
        said = {"operation": mark.operation, "event": mark.event, "origin": mark.origin or None, "note": mark.note}
        yield empty | {"shows": mark.fate, "start": mark.sequence} | said


@history.command()
@click.argument("table")
@click.argument("key")
@of_lake
@format_option("table", "json", "csv")
def explain(table: str, key: str, form: str, **where: Any) -> None:
    """List every event of KEY in TABLE: where it came from, what it opened, extended, split or closed, or why not."""
    from lakehouse_assets.serve.explain import explain as explained
    from lakehouse_assets.serve.timeline import sequence_text

    work = open_lake(**where)
    rows = [line.row() for line in explained(work, table_of(work, table), key)]
    if form == "table":
        rows = [{**row, "sequence": sequence_text(row["sequence"])} for row in rows]
    print_rows(rows, EXPLAINED, form)


@history.command(name="as-of")
@click.argument("table")
@click.argument("time")
@click.option("--limit", type=click.IntRange(min=0), help=f"Rows at most (table: {SHOWN}; json and csv: all).")
@of_lake
@format_option("table", "json", "csv")
def as_of(table: str, time: str, limit: int | None, form: str, **where: Any) -> None:
    """Show the rows of TABLE (type 2) that held at TIME, a value of the sequence, by key.

    \b
    lakehouse history as-of silver.customers 2025-05-01
    lakehouse history as-of silver.prices 1200 --format csv > prices.csv
    """  # noqa: D301
    from lakehouse_assets.serve.explain import as_of as rows_at
    from lakehouse_assets.serve.query import first

    work = open_lake(**where)
    name = table_of(work, table)
    found = rows_at(work, name, time)
    columns = work.engine.schema(found).names
    most = SHOWN if limit is None and form == "table" else None
    if limit is not None or most is not None:
        found = first(work.engine, found, limit if limit is not None else SHOWN + 1)
    rows = (row for batch in work.engine.batches(found) for row in batch.to_pylist())
    print_rows(_cut(rows, most), columns, form)


def _cut(rows: Iterator[dict[str, Any]], most: int | None) -> Iterator[dict[str, Any]]:
    """The rows; from row `most` on, only a message that there are more."""
    for number, row in enumerate(rows):
        if number == most:
            say(f"the first {most:,} rows are shown; --limit N shows more, --format csv shows all")
            return
        yield row


@history.command()
@click.argument("table")
@click.option("--after", metavar="SEQUENCE", help="Take back every event with a greater sequence.")
@click.option("--from-position", metavar="P", help="Take back what was read after P, where a batch began or ended.")
@click.option("--undo", is_flag=True, help="Let these events count again.")
@click.option("--dry-run", is_flag=True, help="Only count what would be taken back.")
@of_lake
@format_option("table", "json")
def rewind(
    table: str, after: str | None, from_position: str | None, undo: bool, dry_run: bool, form: str, **where: Any
) -> None:
    """Take events of TABLE back: they stay in its log, marked as retracted, and the touched keys are made again.

    \b
    lakehouse history rewind silver.customers --after 2025-05-01 --dry-run
    lakehouse history rewind silver.customers --after 2025-05-01
    lakehouse history rewind silver.customers --after 2025-05-01 --undo

    A position is that of a feed: for a table that reads another one its version, as `lakehouse plan` shows it.
    Nothing is read again from the source, and nothing is lost: --undo with the same bound brings the table back.
    """  # noqa: D301
    if (after is None) == (from_position is None):
        raise click.UsageError("say from where: either --after SEQUENCE or --from-position P")
    from lakehouse_assets.serve.explain import kept, sequence_parts
    from lakehouse_assets.tables.corrections import rewind as take_back

    work = open_lake(**where)
    name = table_of(work, table)
    of = kept(work, name)
    bound = None if after is None else sequence_parts(of, after)
    done = take_back(work, name, after=bound, position=from_position, undo=undo, dry_run=dry_run)
    for notice in done.notices:
        say(f"{notice.code}: {notice.message}")
    does = "restored" if undo else "retracted"
    commit = done.commits.get(name)
    row = {
        "table": str(name),
        "does": f"would be {does}" if dry_run else does,
        "events": done.events,
        "keys": done.keys,
        "version": commit.version if commit else None,
    }
    print_rows([row], REWOUND, form)
    if not done.events:
        say("no event lies there: nothing was written" if not dry_run else "no event lies there")
    elif not dry_run and not undo:
        given = ("--after", after) if after is not None else ("--from-position", from_position)
        say(f"to bring them back: lakehouse history rewind {name} {given[0]} {shlex.quote(str(given[1]))} --undo")
