"""`lakehouse quarantine`: the rows that broke a rule, and the ways out.

What belongs here: arguments and printing. What does not: judging and weaving rows in (`tables/corrections.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lakehouse_assets.cli.options import format_option, of_lake, open_lake, table_of
from lakehouse_assets.cli.output import Row, cell, print_rows, say
from lakehouse_assets.errors import SettingsError

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import TableName
    from lakehouse_assets.tables.base import Work
    from lakehouse_assets.tables.corrections import Requeued

LISTED = ("table", "reason", "rows", "oldest", "newest")
REQUEUED = ("table", "asked", "woven", "still_broken", "unchanged")
FIRST = ("_event", "_reasons")
ASIDE = ("_upstream", "_raw", "_feed", "_batch", "_operation")
"""Columns of a quarantine that people are not shown; JSON and CSV have all."""
RECEIVED = "received"
"""What people are shown in their place: the values as they came, as far as the row does not show them."""
LONGEST = 100
"""Characters of such a value, for people."""
MADE = ("null_key", "null_sequence", "ambiguous_sequence", "beyond_horizon")
"""Reasons that no rule names."""
SHOWN = 100
"""Rows for people, unless `--limit` says otherwise."""
BROKEN_SHOWN = 20
"""Rows that are still broken of which people are told one by one."""


def _has_quarantine(work: Work, table: TableName) -> bool:
    return work.engine.find(work.uri(table.quarantine)) is not None


@click.group()
def quarantine() -> None:
    """List, show, requeue and discard rows that broke a rule.

    A row is named by its id, the column _event of `lakehouse quarantine show`.
    """


@quarantine.command(name="list")
@click.argument("table", required=False)
@of_lake
@format_option("table", "json", "csv")
def list_(table: str | None, form: str, **where: Any) -> None:
    """Count the rows in quarantine by table and reason; a row with two reasons counts under both."""
    work = open_lake(**where)
    tables = [table_of(work, table)] if table else work.catalog.order()
    rows = [row for name in tables if _has_quarantine(work, name) for row in _counts(work, name)]
    print_rows(rows, LISTED, form)
    if not rows:
        say("no row is in quarantine")


def _counts(work: Work, table: TableName) -> list[dict[str, Any]]:
    from lakehouse_assets.tables.corrections import quarantined

    groups = work.engine.query(
        "SELECT _reasons, count(*) AS n, min(_quarantined_at) AS oldest, max(_quarantined_at) AS newest "
        "FROM broken GROUP BY _reasons",
        {"broken": quarantined(work, table)},
    )
    found: dict[str, dict[str, Any]] = {}
    for group in work.engine.rows(groups):
        for reason in group["_reasons"]:
            row = {"table": str(table), "reason": reason, "rows": 0} | {name: group[name] for name in LISTED[3:]}
            row = found.setdefault(reason, row)
            row["rows"] += group["n"]
            row["oldest"] = min(row["oldest"], group["oldest"])
            row["newest"] = max(row["newest"], group["newest"])
    return [found[reason] for reason in sorted(found)]


@quarantine.command()
@click.argument("table")
@click.option("--rule", metavar="R", help="Only rows that broke this rule, or went there for this reason.")
@click.option("--limit", type=click.IntRange(min=0), help=f"Rows at most (table: {SHOWN}; json and csv: all).")
@of_lake
@format_option("table", "json", "csv")
def show(table: str, rule: str | None, limit: int | None, form: str, **where: Any) -> None:
    """Show the rows of TABLE that are in quarantine, each with its id and its reasons."""
    from lakehouse_assets.tables.corrections import quarantined

    work = open_lake(**where)
    name = table_of(work, table)
    _check(work, name, rule)
    most = SHOWN if limit is None and form == "table" else limit
    asked = most + 1 if most is not None and limit is None else most
    found = quarantined(work, name, rule, asked)
    rows = work.engine.rows(found)
    if limit is None and most is not None and len(rows) > most:
        rows = rows[:most]
        say(f"the first {most:,} rows are shown; --limit N shows more, --format csv shows all")
    columns = work.engine.schema(found).names
    columns = [*FIRST, *(column for column in columns if column not in FIRST)]
    if form == "table":
        rows = [{**row, RECEIVED: _received(row)} for row in rows]
        columns = [column for column in columns if column not in ASIDE]
        columns += [RECEIVED] if any(row[RECEIVED] for row in rows) else []
    print_rows(rows, columns, form)
    if not rows:
        say(f"no row of {name} is in quarantine" + (f" for {rule}" if rule else ""))


def _received(row: Row) -> str | None:
    """The row as it was received, shortened; of a typed one what its columns do not show."""
    upstream, raw = row.get("_upstream"), row.get("_raw")
    given = upstream if isinstance(upstream, Mapping) else {}
    told = {
        name: value
        for name, value in given.items()
        if value is not None and not name.startswith("_") and (name not in row or row[name] != value)
    }
    parts = [f"{name}: {_readable(value)}" for name, value in told.items()]
    return ", ".join([*parts, *([_readable(raw)] if raw else [])]) or None


def _readable(value: Any) -> str:
    """A value in a few characters; bytes as text where they are UTF-8."""
    text = cell(value)
    if isinstance(value, bytes):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = f"base64 {text}"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _check(work: Work, table: TableName, rule: str | None) -> None:
    """Raise `SettingsError` if the table has no quarantine, or nothing could have that reason there."""
    if not _has_quarantine(work, table):
        tables = [str(name) for name in work.catalog.order() if _has_quarantine(work, name)]
        raise SettingsError(
            f"{table} has no quarantine: no row of it broke a rule",
            value=str(table),
            choices=tables,
            fix="name one of these" if tables else "no table of this lake has one",
        )
    if rule is None or rule in MADE or rule.startswith(("cast_failed:", "malformed_json:")):
        return
    named = [row["reason"] for row in _counts(work, table)]
    named += [name for feed in work.catalog.destinations[table] for name in feed.expectations.rules]
    if rule not in named:
        raise SettingsError(
            f"{table} has no rule of this name, and no row is in its quarantine for this reason",
            value=rule,
            choices=dict.fromkeys(named),
            fix="name one of these" if named else "the quarantine is empty",
        )


@quarantine.command()
@click.argument("table")
@click.option(
    "--id", "ids", multiple=True, metavar="ID", help="This row, by its id or the beginning of it; may be repeated."
)
@click.option("--rule", metavar="R", help="The rows that broke this rule, or went there for this reason.")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FIXED",
    help="Corrected rows (.csv, .json, .parquet): a column _event with the ids, and the columns to correct.",
)
@click.option(
    "--set", "patch", multiple=True, metavar='"COL = EXPR"', help="Correct a column, in Spark SQL over the row."
)
@click.option("--dry-run", is_flag=True, help="Only judge the corrected rows.")
@of_lake
@format_option("table", "json")
def requeue(
    table: str,
    ids: tuple[str, ...],
    rule: str | None,
    file: Path | None,
    patch: tuple[str, ...],
    dry_run: bool,
    form: str,
    **where: Any,
) -> None:
    """Judge rows of TABLE again, corrected or by the rules of today, and weave those that keep them in.

    \b
    lakehouse quarantine requeue silver.orders --rule amount_positive
    lakehouse quarantine requeue silver.orders --id 4be1c09d5a3f7702 --set "amount = abs(amount)"
    lakehouse quarantine requeue silver.orders --set "country = upper(country)"
    lakehouse quarantine requeue silver.orders --file fixed.csv

    Without --id, --rule and --file, --set corrects every row that is there. A row of a table with history takes the
    place of its own sequence. Rows that still break a rule stay, and are named; exit code 1 if there are any.
    """  # noqa: D301
    if file is not None and (ids or rule or patch):
        raise click.UsageError("--file says which rows and what they become: give it alone")
    if not (ids or rule or file or patch):
        raise click.UsageError("say which rows: --id ID, --rule R, --file FIXED, or all of them with --set")
    from lakehouse_assets.tables.corrections import requeue as weave

    work = open_lake(**where)
    name = table_of(work, table)
    _check(work, name, rule)
    done = weave(work, name, ids=ids, rule=rule, file=file, patch=patch, dry_run=dry_run)
    _report(name, done, form, dry_run=dry_run)


def _report(table: TableName, done: Requeued, form: str, *, dry_run: bool) -> None:
    row: dict[str, Any] = {"table": str(table)} | {field: getattr(done, field) for field in REQUEUED[1:]}
    broken = row["still_broken"] = [_short(one) for one in done.still_broken]
    if form == "table":
        _name(broken)
        row["still_broken"] = len(broken)
    print_rows([row], REQUEUED, form)
    if dry_run:
        say("nothing was written")
    if broken:
        raise click.exceptions.Exit(1)


def _name(broken: Sequence[Row]) -> None:
    """Say which rows are still broken, and why."""
    for row in broken[:BROKEN_SHOWN]:
        values = {name: value for name, value in row.items() if name not in FIRST}
        say(f"still broken: {row['_event']}: {', '.join(row['_reasons'])}: {cell(values)}")
    if len(broken) > BROKEN_SHOWN:
        say(f"… and {len(broken) - BROKEN_SHOWN:,} more; --format json names all")


def _short(row: Row) -> dict[str, Any]:
    """The id, the reasons and the event's own columns."""
    return {name: value for name, value in row.items() if name in FIRST or not name.startswith("_")}


@quarantine.command()
@click.argument("table")
@click.option(
    "--id",
    "ids",
    multiple=True,
    required=True,
    metavar="ID",
    help="This row, by its id or the beginning of it; may be repeated.",
)
@of_lake
@format_option("table", "json")
def discard(table: str, ids: tuple[str, ...], form: str, **where: Any) -> None:
    """Take rows out of the quarantine of TABLE for good: they are wrong, and nothing is to come of them.

    The log of a table with history still holds them, marked as retracted.
    """
    from lakehouse_assets.tables.corrections import discard as drop

    work = open_lake(**where)
    name = table_of(work, table)
    _check(work, name, None)
    count = _meant(work, name, ids)
    drop(work, name, ids)
    print_rows([{"table": str(name), "discarded": count}], ("table", "discarded"), form)


def _meant(work: Work, table: TableName, ids: Sequence[str]) -> int:
    """How many rows have these ids; with a contradiction more than these leave the quarantine."""
    from lakehouse_assets.sql.expand import text_literal
    from lakehouse_assets.tables.corrections import quarantined

    meant = " OR ".join(f"startswith(_event, {text_literal(text)})" for text in ids)
    counted = work.engine.query(f"SELECT count(*) AS n FROM broken WHERE {meant}", {"broken": quarantined(work, table)})
    return int(work.engine.rows(counted)[0]["n"])
