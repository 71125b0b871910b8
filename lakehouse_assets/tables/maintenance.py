"""Maintenance: fewer and larger files, and room on the disk, without taking anything from a reader.

A compaction changes no row and moves nobody downstream. A vacuum keeps every file that the slowest consumer of the
table still needs, and every file that a running batch may have staged.
What belongs here: whom to wait for. What does not: how files are rewritten or deleted (the engine's).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from lakehouse_assets.engines.base import Handle
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import ConcurrentWriter, FeedExpired
from lakehouse_assets.lake import log
from lakehouse_assets.lake.names import BATCHES
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.values import Commit, Number
from lakehouse_assets.tables import view
from lakehouse_assets.tables.base import Work, check_ours

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


def compact(work: Work, table: TableName, *, target_bytes: int = TARGET_BYTES) -> dict[TableName, Commit]:
    """Rewrite small files of `table` and its quarantine into larger ones; tables that are not there are left out.

    Raises:
        ForeignTable: this project did not make the table.
        ConcurrentWriter: somebody else kept committing meanwhile; nothing was changed.
    """

    def once(name: TableName) -> Commit:
        handle = _maintained(work, name)
        if handle is None:
            return Commit(-1, skipped=True)
        app_id = f"lakehouse/maintenance/{name}"
        return work.engine.compact(handle, Number(app_id, handle.number(app_id) + 1), target_bytes)

    done = {name: _retrying(once, name) for name in _with_quarantine(work, table)}
    return {name: commit for name, commit in done.items() if commit.version >= 0}


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
        for name in _with_quarantine(work, table)
        if (handle := _maintained(work, name)) is not None
    )


def _vacuumed(work: Work, table: TableName, handle: Handle, wanted: timedelta) -> Vacuumed:
    now = datetime.now(UTC)
    holds = tuple(hold for hold in _holds(work, table, handle) if now - hold.since + MARGIN > wanted)
    kept = max([wanted, *(now - hold.since + MARGIN for hold in holds)])
    hours = math.ceil(kept / timedelta(hours=1))
    deleted = work.engine.vacuum(handle, hours)
    return Vacuumed(table, tuple(deleted), timedelta(hours=hours), holds)


def _with_quarantine(work: Work, table: TableName) -> tuple[TableName, ...]:
    return (table, table.quarantine) if table in work.catalog.destinations else (table,)


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


def _retrying(call: Callable[[TableName], Commit], table: TableName) -> Commit:
    retrying = Retrying(
        retry=retry_if_exception_type(ConcurrentWriter),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
    )
    return retrying(call, table)
