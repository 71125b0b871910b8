"""Several tables, one after the other: what fails holds up what reads it, and nothing else.

What belongs here: the order of a run, what is skipped, what is reported. What does not: how one table is refreshed
(`tables/refresh.py`), printing (`run.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import LakehouseError, SettingsError
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.sources.base import Notice
from lakehouse_assets.tables import view
from lakehouse_assets.tables.base import Draft, Feed, Idle, Outcome, Work
from lakehouse_assets.tables.refresh import preview, refresh

if TYPE_CHECKING:
    from lakehouse_assets.serve.lint import Lint

State = Literal["written", "unchanged", "failed", "skipped", "view", "landed elsewhere"]


@dataclass
class Report:
    """What a run did to one table."""

    table: TableName
    kind: str
    state: State = "unchanged"
    batches: int = 0
    rows_in: int = 0
    valid: int = 0
    quarantined: int = 0
    dropped: int = 0
    version: int | None = None
    seconds: float = 0.0
    notices: list[Notice] = field(default_factory=list)
    error: LakehouseError | None = None
    because: TableName | None = None

    def add(self, outcome: Outcome) -> None:
        """Count a batch."""
        self.state = "written"
        self.batches += 1
        self.rows_in += outcome.rows_in
        self.valid += outcome.valid
        self.quarantined += outcome.quarantined
        self.dropped += outcome.dropped
        if self.table in outcome.commits:  # a batch of a log may change nothing in the table that is made of it
            self.version = outcome.commits[self.table].version
        self.notices += outcome.notices

    def row(self) -> dict[str, Any]:
        """This report as a row."""
        return {
            "table": str(self.table),
            "kind": self.kind,
            "state": self.state,
            "rows_in": self.rows_in,
            "valid": self.valid,
            "quarantined": self.quarantined,
            "dropped": self.dropped,
            "batches": self.batches,
            "version": self.version,
            "seconds": round(self.seconds, 3),
            "notices": [notice.message for notice in self.notices],
            "error": None if self.error is None else str(self.error),
            "because": None if self.because is None else str(self.because),
        }


def run_tables(
    work: Work,
    tables: Sequence[TableName],
    rebuild: Iterable[TableName] = (),
    *,
    partitions: Sequence[str] | None = None,
    started: Callable[[TableName], None] = lambda _: None,
) -> Iterator[Report]:
    """Bring tables up to date, each reported when it is done.

    Args:
        tables: upstream tables first.
        rebuild: those of them that are started over.
        partitions: days of tables that are made by day; `None`: all that are behind.
        started: told when a table begins.
    """
    again, held_up = frozenset(rebuild), set[TableName]()
    for table in tables:
        report = _begin(work, table)
        culprit = next((name for name in _reads(work, table) if name in held_up), None)
        if culprit is not None:
            report.state, report.because = "skipped", culprit
        elif report.state == "unchanged":
            started(table)
            _refresh(work, report, partitions, rebuild=table in again)
        if report.state in ("failed", "skipped"):
            held_up.add(table)
        yield report


def _begin(work: Work, table: TableName) -> Report:
    entity = work.catalog.destinations[table][0]
    if entity.kind == "view":
        return Report(table, entity.kind, "view")
    return Report(table, entity.kind, "landed elsewhere" if entity.lakehouse.landed_by else "unchanged")


def _refresh(work: Work, report: Report, partitions: Sequence[str] | None, *, rebuild: bool) -> None:
    began = time.monotonic()

    def notify(_entity: Entity, notices: Sequence[Notice]) -> None:
        report.notices += notices

    try:
        told = replace(work, notify=notify)
        for outcome in refresh(told, report.table, rebuild=rebuild, partitions=partitions):
            fresh = rebuild and outcome.plan.rebuild  # it was planned a moment ago, not interrupted
            report.add(replace(outcome, notices=_without_replayed(outcome)) if fresh else outcome)
    except LakehouseError as error:
        report.state, report.error = "failed", error
    unique = {notice.message: notice for notice in report.notices}
    report.notices = list(unique.values())
    report.seconds = time.monotonic() - began


def _without_replayed(outcome: Outcome) -> tuple[Notice, ...]:
    return tuple(notice for notice in outcome.notices if notice.code != "replayed")


def _reads(work: Work, table: TableName) -> list[TableName]:
    """The tables whose run `table` waits for: its stored upstream tables, a quarantine being its owner's."""
    return [work.catalog.base(name) for name in view.stored(work, table)]


def to_rebuild(work: Work, names: Iterable[str]) -> tuple[TableName, ...]:
    """The tables that start over when `names` do: themselves and all that is made from them.

    Raises:
        CatalogError: there is no such table.
        SettingsError: it is not written by a run.
    """
    chosen: set[TableName] = set()
    for name in names:
        table = work.catalog.base(work.catalog.resolve(name))
        if _begin(work, table).state != "unchanged":
            raise SettingsError(
                f"{table} is not written by a run, so it cannot be rebuilt",
                value=name,
                fix="rebuild what it reads or what reads it; an uploaded table: lakehouse upload --full-refresh",
            )
        chosen |= {t for t in work.catalog.select(f"{table}+") if _begin(work, t).state == "unchanged"}
    return tuple(table for table in work.catalog.order() if table in chosen)


@dataclass(frozen=True)
class Intent:
    """What a run would do first to one feed of a table."""

    table: TableName
    kind: str
    does: str
    feed: str = ""
    reads: str = ""
    start: Any = None
    end: Any = None
    notes: tuple[str, ...] = ()
    lint: Lint | None = None
    error: LakehouseError | None = None

    def row(self) -> dict[str, Any]:
        """This intent as a row."""
        return {
            "table": str(self.table),
            "kind": self.kind,
            "does": self.does,
            "feed": self.feed,
            "reads": self.reads,
            "start": self.start,
            "end": self.end,
            "notes": [*self.notes, *(self.lint.notes() if self.lint else ())],
            "lint": None if self.lint is None else self.lint.row(),
            "error": None if self.error is None else str(self.error),
        }


def plan_tables(
    work: Work,
    tables: Sequence[TableName],
    rebuild: Iterable[TableName] = (),
    sequence_by: str | None = None,
    *,
    partitions: Sequence[str] | None = None,
) -> Iterator[Intent]:
    """What `run_tables` would do, without writing; of tables with history also what their sequence is worth.

    A table whose upstream is about to be written follows it: its own range is known only then.

    Args:
        sequence_by: tried instead of the declared sequences.
        partitions: days of tables that are made by day; `None`: all that are behind.

    Raises:
        SqlError: it is no expression over the events' columns.
        SchemaDrift: events cannot be ordered by its type.
    """
    again, moving, held_up = frozenset(rebuild), set[TableName](), set[TableName]()
    for table in tables:
        begun = _begin(work, table)
        reads = _reads(work, table)
        leads = [str(name) for name in reads if name in moving]
        culprit = next((name for name in reads if name in held_up), None)
        if begun.state != "unchanged":
            yield Intent(table, begun.kind, _NOT_WRITTEN[begun.state])
            continue
        if culprit is not None:
            held_up.add(table)
            yield Intent(table, begun.kind, "skip", reads=str(culprit), notes=(f"{culprit} cannot run",))
            continue
        intents = list(_intents(work, table, leads, sequence_by, partitions, rebuild=table in again))
        if any(intent.error for intent in intents):
            held_up.add(table)
        elif any(intent.does != "nothing" for intent in intents):
            moving.add(table)
        yield from intents


_NOT_WRITTEN = {"view": "nothing: a view is not stored", "landed elsewhere": "nothing: an uploader writes it"}


def _intents(
    work: Work,
    table: TableName,
    leads: Sequence[str],
    sequence_by: str | None,
    partitions: Sequence[str] | None,
    *,
    rebuild: bool,
) -> Iterator[Intent]:
    kind = work.catalog.destinations[table][0].kind
    follows = f"follows {', '.join(dict.fromkeys(leads))}"
    try:
        for feed, next_ in preview(work, table, rebuild=rebuild, partitions=partitions):
            intent = intent_of(table, feed, next_)
            if leads and intent.does == "nothing":
                intent = replace(intent, does=follows)
            elif leads:
                intent = replace(intent, notes=(*intent.notes, follows))
            yield _linted(work, intent, feed, next_, sequence_by)
    except LakehouseError as error:
        # the usual one: an upstream table is not there yet, and is about to be made
        yield Intent(table, kind, follows) if leads else Intent(table, kind, "fail", error=error)


def _linted(work: Work, intent: Intent, feed: Feed, following: Plan | Draft | Idle, sequence_by: str | None) -> Intent:
    """The intent with a look at the sequence of its events; a declared one that cannot be looked at is a note."""
    from lakehouse_assets.serve.lint import lint

    if feed.entity.kind != "history":
        return intent
    try:
        return replace(intent, lint=lint(work, feed, following, sequence_by))
    except LakehouseError as error:
        if sequence_by is not None:
            raise
        return replace(intent, notes=(*intent.notes, f"the sequence could not be looked at: {error.problem}"))


def intent_of(table: TableName, feed: Feed, following: Plan | Draft | Idle) -> Intent:
    """What comes next for a feed, as an intent."""
    entity = feed.entity
    reads = "" if entity.kind == "query" else entity.source
    name = feed.name.partition or entity.feed
    reads += f" of {feed.name.partition}" if feed.name.partition else ""
    if isinstance(following, Idle):
        notes = tuple(notice.message for notice in following.notices)
        return Intent(table, entity.kind, "nothing", name, reads, notes=notes)
    if isinstance(following, Plan):
        does = f"replay batch {following.number} ({following.mode})"
        notes = (f"batch {following.number} was interrupted",)
    else:
        does, notes = following.mode, tuple(notice.message for notice in following.notices)
        if feed.rebuild:
            does = "rebuild" if feed.starts_over else "rebuild (append)"
        elif feed.last is not None and Plan.hash_of(following.recipe) != feed.last.recipe_hash:
            notes = (*notes, "the recipe has changed since the last batch")
        if feed.target is None and not (entity.kind == "extract" and following.start):
            notes = (*notes, "the table is made")
    return Intent(table, entity.kind, does, name, reads, dict(following.start), dict(following.end), notes)
