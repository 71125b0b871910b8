"""`lakehouse run` and `lakehouse plan`: bring tables up to date, or show what that would do.

What belongs here: arguments, progress, the summary. What does not: the order of a run (`runner.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lakehouse_assets.cli.options import (
    catalog_option,
    engine_option,
    format_option,
    open_catalog,
    open_settings,
    root_option,
)
from lakehouse_assets.cli.output import cell, print_rows, say
from lakehouse_assets.cli.progress import RowProgress
from lakehouse_assets.errors import SettingsError

if TYPE_CHECKING:
    from lakehouse_assets.cli.runner import Report
    from lakehouse_assets.entities.model import TableName
    from lakehouse_assets.lake.plans import Plan
    from lakehouse_assets.tables.base import Draft, Feed, Idle, Work

F = TypeVar("F", bound=Callable[..., Any])

SUMMARY = ("table", "state", "rows_in", "valid", "quarantined", "dropped", "version", "seconds")
"""The columns of the summary for people; JSON has all of them."""
SHORT = 60
"""Characters of a position that people are shown."""
INTENTS = ("table", "does", "reads", "start", "end", "notes")


def _selecting(command: F) -> F:
    """The arguments that `run` and `plan` share."""
    options = [
        click.argument("selection", required=False),
        click.option(
            "--partition",
            metavar="DAY[..DAY]",
            help="Only these days of tables that are made by day; others run as a whole.",
        ),
        catalog_option,
        root_option,
        engine_option,
        click.option(
            "--full-refresh", multiple=True, metavar="TABLE", help="Start TABLE and all that is made from it over."
        ),
        click.option("--accept-loss", is_flag=True, help="Start over even if the source no longer holds all rows."),
        click.option("--accept-foreign", is_flag=True, help="Keep what somebody else changed in a table, and go on."),
        format_option("table", "json"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_selecting
@click.option("--dagster-pipes-context", hidden=True)
@click.option("--dagster-pipes-messages", hidden=True)
def run(form: str, dagster_pipes_context: str | None, dagster_pipes_messages: str | None, **given: Any) -> None:
    """Bring the tables of SELECTION up to date: only what is new is read, and nothing is ever written twice.

    \b
    lakehouse run '*'                                 every table
    lakehouse run bronze.sensor_readings+             a table and all that is made from it
    lakehouse run +gold.sensor_hourly                 a table and all that it is made from
    lakehouse run group:sensors                       also tag:KEY, tag:KEY=VALUE, silver.*
    lakehouse run --full-refresh silver.sensor_readings

    A table that fails holds up the tables that read it; the others run. Exit code 1 if any failed.
    """  # noqa: D301
    if dagster_pipes_context and dagster_pipes_messages:
        _run_for_pipes(dagster_pipes_context, dagster_pipes_messages, **given)
        return
    from lakehouse_assets.cli.runner import run_tables

    with RowProgress() as progress:
        work, tables, rebuild, days = _prepared(**given, progress=progress.rows)
        reports = []
        started = lambda table: progress.start(str(table))  # noqa: E731
        for report in run_tables(work, tables, rebuild, partitions=days, started=started):
            progress.line(line_of(report))
            reports.append(report)
    print_rows([report.row() for report in reports], SUMMARY if form == "table" else list(reports[0].row()), form)
    _conclude(reports)


def _run_for_pipes(
    context: str, messages: str, catalog: Path | None, root: str | None, engine: str | None, **_: Any
) -> None:
    """Make the assets that a step of Dagster asks for, and report to it: what it sent says which."""
    from lakehouse_assets.databricks import pipes_main

    pipes_main.main(pipes_main.params_of(context, messages), {}, catalog=catalog, root=root, engine=engine)


@click.command()
@_selecting
@click.option(
    "--sequence-by", metavar="SQL", help="Try another expression as the sequence of the selected tables with history."
)
def plan(form: str, sequence_by: str | None, **given: Any) -> None:
    """Show what `run` with the same arguments would read and write first; nothing is written.

    Of a table with history a sample of what would be read is looked at: whether its sequence has NULLs, ties or
    times in the future, and how late events come.

    \b
    lakehouse plan '*'
    lakehouse plan silver.customers --sequence-by "struct(updated_at, id)"
    """  # noqa: D301
    from lakehouse_assets.cli.runner import plan_tables

    work, tables, rebuild, days = _prepared(**given)
    if sequence_by is not None:
        _check_history(work, tables, sequence_by)
    intents = list(plan_tables(work, tables, rebuild, sequence_by, partitions=days))
    rows = [intent.row() for intent in intents]
    _print_intents(rows, form)
    errors = [intent for intent in intents if intent.error]
    for intent in errors:
        say(f"{intent.table} would fail: {intent.error}")
    if not errors and all(row["does"].startswith("nothing") for row in rows):
        say("nothing new: a run would write nothing")
    if errors:
        raise click.exceptions.Exit(1)


def print_plan(previews: Iterable[tuple[Feed, Plan | Draft | Idle]], place: str, form: str) -> None:
    """Print what comes next for the feeds of the table at `place`."""
    from lakehouse_assets.cli.runner import intent_of

    intents = [intent_of(feed.entity.table, feed, following) for feed, following in previews]
    _print_intents([{**intent.row(), "table": place} for intent in intents], form)


def _print_intents(rows: list[dict[str, Any]], form: str) -> None:
    if form == "table":
        rows = [{**row, "notes": "; ".join(row["notes"]) or None, **_short(row, "start", "end")} for row in rows]
    columns = list(INTENTS) if form == "table" else list(rows[0]) if rows else list(INTENTS)
    print_rows(rows, columns, form)


def _short(row: Mapping[str, Any], *names: str) -> dict[str, str | None]:
    """Positions for people: one of many files would fill the screen."""
    texts = {name: None if row[name] is None else cell(row[name]) for name in names}
    return {name: text if text is None or len(text) <= SHORT else text[:SHORT] + "…" for name, text in texts.items()}


def _prepared(
    selection: str | None,
    partition: str | None,
    catalog: Path | None,
    root: str | None,
    engine: str | None,
    full_refresh: Sequence[str],
    **more: Any,
) -> tuple[Work, tuple[TableName, ...], tuple[TableName, ...], list[str] | None]:
    """The work, the tables in order, those of them that start over, and the days that are asked for."""
    from lakehouse_assets.cli.runner import to_rebuild
    from lakehouse_assets.tables.base import open_work

    if not selection and not full_refresh:
        raise click.UsageError("name the tables: a SELECTION such as '*', or --full-refresh TABLE")
    settings = open_settings(catalog=catalog, root=root, engine=engine)
    if settings.target == "databricks":
        say("LAKEHOUSE_TARGET=databricks is for runs of Dagster; this command runs here")
    entities = open_catalog(settings)
    chosen = set(entities.select(selection)) if selection else set()
    work = open_work(settings, entities, os.environ, **more)
    rebuild = to_rebuild(work, full_refresh)
    if rebuild:
        say(f"to be started over: {', '.join(map(str, rebuild))}")
    tables = tuple(table for table in entities.order() if table in chosen or table in rebuild)
    if partition is not None and rebuild:
        raise SettingsError(
            "--full-refresh starts a table over as a whole, and --partition asks for some days",
            value=", ".join(map(str, rebuild)),
            fix="leave one of them out: a day that is behind is made again without --full-refresh",
        )
    return work, tables, rebuild, None if partition is None else _days(work, tables, partition)


def _days(work: Work, tables: Sequence[TableName], asked: str) -> list[str]:
    """The days of `2024-01-02` or `2024-01-02..2024-01-31`."""
    from lakehouse_assets.tables.partitions import day_of
    from lakehouse_assets.tables.refresh import is_by_day

    if not any(is_by_day(work, table) for table in tables):
        raise SettingsError(
            "--partition selects days of tables that are made by day, and none of these is",
            value=asked,
            fix="leave it out, or select an extract or what is loaded from one",
        )
    first, dots, last = asked.partition("..")
    if dots and not (first and last):
        raise SettingsError("--partition has one end only", value=asked, fix="write both days: 2024-01-02..2024-01-31")
    start, end = day_of(first), day_of(last or first)
    if end < start:
        raise SettingsError("--partition begins after it ends", value=asked, fix="write the earlier day first")
    return [(start + timedelta(days=step)).isoformat() for step in range((end - start).days + 1)]


def _check_history(work: Work, tables: Sequence[TableName], sequence_by: str) -> None:
    kinds = {work.catalog.destinations[table][0].kind for table in tables}
    if "history" not in kinds:
        raise SettingsError(
            "--sequence-by is tried on tables with history, and none of these is",
            value=sequence_by,
            fix=f"leave it out, or select a table with apply_changes (these are {', '.join(sorted(kinds))} tables)",
        )


def line_of(report: Report) -> str:
    """One line about a table that is done."""
    if report.state == "failed":
        return f"{report.table}: FAILED: {report.error}"
    if report.state == "skipped":
        return f"{report.table}: skipped, because {report.because} did not run"
    if report.state == "written":
        apart = f", {report.quarantined:,} to quarantine" if report.quarantined else ""
        dropped = f", {report.dropped:,} dropped" if report.dropped else ""
        rate = report.rows_in / max(report.seconds, 1e-9)
        text = f"{report.rows_in:,} rows in{apart}{dropped}, version {report.version}, {report.seconds:.1f} s"
        text += f" ({rate:,.0f} rows/s)"
    else:
        text = _STATES[report.state]
    return "\n".join([f"{report.table}: {text}", *(f"  {notice.code}: {notice.message}" for notice in report.notices)])


_STATES = {"unchanged": "nothing new", "view": "a view, not stored", "landed elsewhere": "an uploader writes it"}


def _conclude(reports: Sequence[Report]) -> None:
    """Say how it went; exit code 1 if a table failed."""
    written = [report for report in reports if report.state == "written"]
    failed = [str(report.table) for report in reports if report.state == "failed"]
    skipped = [str(report.table) for report in reports if report.state == "skipped"]
    if not written and not failed:
        say("nothing new: no table was written")
    if failed:
        held_up = f"; skipped: {', '.join(skipped)}" if skipped else ""
        say(f"failed: {', '.join(failed)}{held_up}; written: {len(written)} of {len(reports)} tables")
        raise click.exceptions.Exit(1)
