"""`lakehouse maintain`: fewer and larger files, room on the disk, a log that opens fast; no row changes.

What belongs here: arguments and printing. What does not: what is done to a table (`tables/maintenance.py`).
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import click

from lakehouse_assets.cli.options import (
    catalog_option,
    engine_option,
    format_option,
    open_catalog,
    open_settings,
    root_option,
)
from lakehouse_assets.cli.output import print_rows, say

COLUMNS = ("table", "state", "files_before", "files_after", "bytes_before", "bytes_after", "deleted", "held_back_by")
"""The columns for people; JSON has all of them."""


@click.command()
@click.argument("selection", default="*")
@click.option("--dry-run", is_flag=True, help="Only show what there is to do.")
@click.option(
    "--retention",
    type=click.IntRange(min=24),
    metavar="HOURS",
    default=168,
    show_default=True,
    help="How long to keep files that no version names any more; 24 at least, because younger ones may belong to a "
    "batch that still runs.",
)
@catalog_option
@root_option
@engine_option
@format_option("table", "json")
def maintain(
    selection: str,
    dry_run: bool,
    retention: int,
    catalog: Path | None,
    root: str | None,
    engine: str | None,
    form: str,
) -> None:
    """Compact, vacuum and checkpoint the tables of SELECTION (default: all, and the plans).

    No row changes, no table downstream is refreshed, and files that a table downstream has not read yet are kept.
    A table that fails does not stop the others. Exit code 1 if any failed.
    """
    from lakehouse_assets.tables.base import open_work
    from lakehouse_assets.tables.maintenance import chosen
    from lakehouse_assets.tables.maintenance import maintain as upkeep

    settings = open_settings(catalog=catalog, root=root, engine=engine)
    work = open_work(settings, open_catalog(settings), os.environ)
    done = []
    for one in upkeep(work, chosen(work, selection), retention=timedelta(hours=retention), dry_run=dry_run):
        say(str(one))
        done.append(one)
    if not done:
        say("none of these tables is in the lake yet")
    rows = [one.row() for one in done]
    if form == "table":
        rows = [{**row, "held_back_by": "; ".join(row["held_back_by"]) or None} for row in rows]
    print_rows(rows, COLUMNS if form == "table" or not rows else list(rows[0]), form)
    if any(one.state == "failed" for one in done):
        raise click.exceptions.Exit(1)
