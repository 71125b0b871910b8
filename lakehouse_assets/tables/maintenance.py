"""Maintenance: fewer and larger files, room on the disk, a log that opens fast; nothing is taken from a reader.

A compaction changes no row and moves nobody downstream. A vacuum keeps every file that the slowest consumer of the
table still needs, and every file that a running batch may have staged. A checkpoint adds a file to the log; entries of
the log are never deleted, because ranges are read from them.
What belongs here: whom to wait for. What does not: how files are rewritten or deleted (the engine's).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from lakehouse_assets.engines.base import Handle
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import ConcurrentWriter, FeatureRefused, FeedExpired, ForeignTable, LakehouseError
from lakehouse_assets.lake import log
from lakehouse_assets.lake.names import BATCHES
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.values import Commit
from lakehouse_assets.tables import view
from lakehouse_assets.tables.base import Work, check_ours, written_with

T = TypeVar("T")
TARGET_BYTES = 128 << 20
"""How large compacted files become; files of less than half of it are small."""
RETENTION = timedelta(days=7)
"""How long files stay that no version names any more, where nothing else is asked for."""
YOUNGEST = timedelta(days=1)
"""A file younger than that is never deleted: a batch that still runs may have staged it, or be reading it."""
MARGIN = timedelta(hours=1)
"""What is kept beyond the oldest file that a consumer needs: change data is written before its commit."""
ATTEMPTS = 4
"""How often a compaction is tried again when somebody else commits meanwhile."""


@dataclass(frozen=True)
class Hold:
    """A consumer that still needs files which no current version names.

    Attributes:
        consumer: the table that reads.
        version: the version up to which it has read.
        since: when the first of these files was given up.
    """

    consumer: TableName
    version: int
    since: datetime


@dataclass(frozen=True)
class Vacuumed:
    """What a vacuum did: the files that it deleted, how far back it kept them, and which consumers held it back."""

    table: TableName
    deleted: tuple[str, ...]
    retention: timedelta
    held_back_by: tuple[Hold, ...] = ()


State = Literal["done", "planned", "left out", "failed"]
_FOREIGN = (ForeignTable, FeatureRefused)
"""What makes a table one that somebody else looks after."""


@dataclass(frozen=True)
class Upkeep:
    """What was done to one table, or would be (`planned`); nothing of it changed a row.

    Attributes:
        files: live files before and after.
        bytes: of these files, before and after.
        rewritten: small files that became larger ones.
        deleted: files that no version names any more, deleted.
        held_back_by: the consumers because of which more was kept than asked for.
        checkpoint: whether the log was summed up.
    """

    table: TableName
    state: State
    files: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)
    rewritten: int = 0
    deleted: int = 0
    held_back_by: tuple[Hold, ...] = ()
    checkpoint: bool = False
    error: LakehouseError | None = None

    def __str__(self) -> str:
        """One line for people."""
        if self.error is not None:
            return f"{self.table}: {self.state}: {self.error}"
        would = "would be " if self.state == "planned" else ""
        text = f"{self.table}: {self.files[0]} files, {self.rewritten} {would}compacted, {self.deleted} {would}deleted"
        held = ", ".join(str(hold.consumer) for hold in self.held_back_by)
        return f"{text}; files are kept for {held}" if held else text

    def row(self) -> dict[str, Any]:
        """This upkeep as a row."""
        return {
            "table": str(self.table),
            "state": self.state,
            "files_before": self.files[0],
            "files_after": self.files[1],
            "bytes_before": self.bytes[0],
            "bytes_after": self.bytes[1],
            "rewritten": self.rewritten,
            "deleted": self.deleted,
            "held_back_by": [f"{hold.consumer}, which has read up to version {hold.version}, since "
                             f"{hold.since:%Y-%m-%d %H:%M}" for hold in self.held_back_by],
            "checkpoint": self.checkpoint,
            "error": None if self.error is None else str(self.error),
        }  # fmt: skip


def maintain(
    work: Work, tables: Iterable[TableName], *, retention: timedelta = RETENTION, dry_run: bool = False
) -> Iterator[Upkeep]:
    """Compact, vacuum and checkpoint tables and all that is written with them, each reported when it is done.

    A table that fails does not stop the others; one that is not there is left out without a word, one that another
    project or engine looks after is left out with the reason.

    Args:
        retention: how long to keep files that no version names any more; a day at least.
        dry_run: only look what there is to do.
    """
    for table in tables:
        for name in written_with(work, table):
            try:
                found = _upkeep(work, name, max(retention, YOUNGEST), dry_run=dry_run)
            except LakehouseError as error:
                found = Upkeep(name, "left out" if isinstance(error, _FOREIGN) else "failed", error=error)
            if found is not None:
                yield found


def chosen(work: Work, selection: str) -> tuple[TableName, ...]:
    """The stored tables of a selection; of `*` also the plans, which come last.

    Raises:
        CatalogError: there is no such table.
    """
    tables = work.catalog.select(selection)
    plans = (BATCHES,) if selection.strip() == "*" else ()
    return (*(table for table in tables if not view.is_view(work, table)), *plans)


def _upkeep(work: Work, table: TableName, retention: timedelta, *, dry_run: bool) -> Upkeep | None:
    handle = _maintained(work, table)
    if handle is None:
        return None
    files, size = handle.weight()
    if dry_run:
        swept, rewritten = _vacuumed(work, table, handle, retention, dry_run=True), len(handle.scattered(TARGET_BYTES))
        found = Upkeep(table, "planned", (files, files), (size, size), rewritten, len(swept.deleted))
        return replace(found, held_back_by=swept.held_back_by)
    rewritten = _retrying(lambda name: _compacted(work, name)[1], table)
    swept = _vacuumed(work, table, _present(work, table), retention)
    handle = _present(work, table)
    summed_up = work.engine.checkpoint(handle)
    files_now, size_now = handle.weight()
    return Upkeep(
        table,
        "done",
        (files, files_now),
        (size, size_now),
        rewritten,
        len(swept.deleted),
        swept.held_back_by,
        summed_up,
    )


def compact(work: Work, table: TableName, *, target_bytes: int = TARGET_BYTES) -> dict[TableName, Commit]:
    """Rewrite small files of `table` and its quarantine into larger ones; tables that are not there are left out.

    Raises:
        ForeignTable: this project did not make the table.
        ConcurrentWriter: somebody else kept committing meanwhile; nothing was changed.
    """

    def once(name: TableName) -> Commit:
        return _compacted(work, name, target_bytes)[0]

    done = {name: _retrying(once, name) for name in written_with(work, table)}
    return {name: commit for name, commit in done.items() if commit.version >= 0}


def _compacted(work: Work, table: TableName, target_bytes: int = TARGET_BYTES) -> tuple[Commit, int]:
    """The commit of a compaction, and how many files it rewrote; version -1 where the table is not there."""
    handle = _maintained(work, table)
    if handle is None:
        return Commit(-1, skipped=True), 0
    small = len(handle.scattered(target_bytes))
    commit = work.engine.compact(handle, target_bytes)
    return commit, 0 if commit.skipped else small


def vacuum(
    work: Work, table: TableName, *, retention: timedelta = RETENTION, youngest: timedelta = YOUNGEST
) -> tuple[Vacuumed, ...]:
    """Delete files of `table` and its quarantine that nobody needs any more.

    Args:
        retention: how long to keep files that no version names any more.
        youngest: the least age of a file that is deleted, whatever `retention` says.

    Raises:
        ForeignTable: this project did not make the table.
    """
    return tuple(
        _vacuumed(work, name, handle, max(retention, youngest))
        for name in written_with(work, table)
        if (handle := _maintained(work, name)) is not None
    )


def _vacuumed(work: Work, table: TableName, handle: Handle, wanted: timedelta, *, dry_run: bool = False) -> Vacuumed:
    now = datetime.now(UTC)
    holds = tuple(hold for hold in _holds(work, table, handle) if now - hold.since + MARGIN > wanted)
    kept = max([wanted, *(now - hold.since + MARGIN for hold in holds)])
    # files are dated by the store and judged by this process's clock
    ahead = timedelta() if dry_run else work.lake.storage.ahead(handle.uri)
    hours = math.ceil((kept + ahead if ahead > MARGIN else kept) / timedelta(hours=1))
    deleted = handle.stale(hours) if dry_run else work.engine.vacuum(handle, hours)
    return Vacuumed(table, tuple(deleted), timedelta(hours=hours), holds)


def _present(work: Work, table: TableName) -> Handle:
    """A fresh handle of a table that was there a moment ago."""
    handle = _maintained(work, table)
    if handle is None:
        raise ConcurrentWriter(f"{table} was removed while it was maintained", fix="run again")
    return handle


def _maintained(work: Work, table: TableName) -> Handle | None:
    """A handle of the table, if it is there and ours to maintain."""
    handle = work.engine.find(work.uri(table))
    if handle is not None:
        check_ours(handle, table)
        if table != BATCHES:
            work.engine.refuse_writers(handle)
    return handle


def _holds(work: Work, table: TableName, handle: Handle) -> Iterator[Hold]:
    """The consumers that need files which `handle` no longer names, and since when."""
    for consumer in work.catalog.destinations:
        if view.is_view(work, consumer) or table not in view.stored(work, consumer):
            continue
        for plan, pending in _newest_plans(work, consumer):
            if handle.id in plan.incarnation.split(",") and (since := _needed(work, plan, pending, table, handle)):
                yield Hold(consumer, _version(plan.end, table), datetime.fromtimestamp(since / 1000, UTC))


def _newest_plans(work: Work, consumer: TableName) -> Iterator[tuple[Plan, bool]]:
    """The newest plan of each feed of a consumer, and whether it is still to be made good."""
    target = work.engine.find(work.uri(consumer))
    for entity in work.catalog.destinations[consumer]:
        name = work.feed_name(entity)
        plan = work.book.open(name).last(name)
        if plan is not None:
            yield plan, target is None or target.number(name.app_id) < plan.number


def _needed(work: Work, plan: Plan, pending: bool, table: TableName, handle: Handle) -> int | None:
    """When the first file was given up that a consumer with this plan needs; `None` if it needs none."""
    start, end = _version(plan.start, table), _version(plan.end, table)
    since = [_given_up(work, handle, end, snapshot=pending)]
    if pending and start >= 0:
        since.append(_given_up(work, handle, start, snapshot=False))
    return min((time for time in since if time is not None), default=None)


def _given_up(work: Work, handle: Handle, version: int, *, snapshot: bool) -> int | None:
    range_ = log.commits(work.lake.storage, handle.uri, version, handle.version)
    try:
        return log.needed_since(range_, snapshot=snapshot)
    except FeedExpired:
        return None  # the consumer can no longer go on from there, whatever is kept


def _version(position: Mapping[str, object], table: TableName) -> int:
    """The version of `table` in the position of a feed with several upstream tables or with this one."""
    return int(str(position.get(str(table), position.get("version", -1))))


def _retrying(call: Callable[[TableName], T], table: TableName) -> T:
    retrying = Retrying(
        retry=retry_if_exception_type(ConcurrentWriter),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
    )
    return retrying(call, table)
