"""What happens when a destination is materialized: refresh it, judge it, report it; and how an error is told.

What belongs here: the one way from `tables.refresh` to Dagster's events. What does not: the graph (`factory.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg

from lakehouse_assets.assets import metadata
from lakehouse_assets.assets.checks import Checks, Evidence
from lakehouse_assets.assets.metadata_extract import extracted, observed
from lakehouse_assets.assets.metadata_history import of_history
from lakehouse_assets.assets.naming import asset_key, source_key
from lakehouse_assets.assets.partitions import NOTHING, events, keys_of, partitions_of, rows_of, versions
from lakehouse_assets.assets.resources import LakehouseResource, Project, RefreshConfig
from lakehouse_assets.assets.watch import look
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import ExpectationFailed, LakehouseError, SettingsError

if TYPE_CHECKING:
    from lakehouse_assets.sources.base import Notice
    from lakehouse_assets.tables.base import Outcome, Work

PROGRESS_SECONDS = 5.0
NO_DATA = "no_such_partition"
"""The code of a notice of a day that a source has nothing of: in a range of days weekends are no trouble."""
RESET_TAG, CONFIRM_TAG = "lakehouse/reset", "lakehouse/confirm"
"""The tag of a run that starts a group of tables over, and the one by which a person confirms it: both the group."""
Event = dg.MaterializeResult | dg.AssetCheckResult


@dataclass(frozen=True)
class Destination:
    """A table, the entities that feed it, the tables that are written with it, and their checks."""

    table: TableName
    feeds: tuple[Entity, ...]
    outputs: tuple[TableName, ...]
    checks: Checks


def materialize(
    project: Project,
    destination: Destination,
    context: dg.AssetExecutionContext,
    config: RefreshConfig,
    lakehouse: LakehouseResource,
) -> Iterator[Event]:
    """Refresh a destination and report every table of it.

    Raises:
        dagster.Failure: it was not refreshed; retries are allowed where they can help.
    """
    more = {
        "accept_loss": config.accept_loss,
        "accept_foreign": config.accept_foreign,
        "progress": _progress(context),
        "notify": lambda _entity, notices: _tell(context, notices),
    }
    keys = keys_of(project.catalog, destination.table, context)
    with failures(), lakehouse.open(project, **more) as work:
        outcomes: list[Outcome] = []
        try:
            outcomes.extend(_refresh(work, destination.table, config, keys, context))
        except LakehouseError as error:
            _tell_others(work, destination, context)
            if isinstance(error, ExpectationFailed):
                yield from destination.checks.refused(error)
            raise
        yield from _report(work, destination, context, keys, outcomes)
        if keys is None or len(keys) > 1:
            _tell_days(work, destination, context, keys, outcomes)


def check_confirmed(context: dg.AssetExecutionContext) -> None:
    """Raise `SettingsError` if the run is one that starts a group over, and nobody confirmed that.

    A run's tags are what a person gives when it is launched; a schedule or a slip of the mouse gives none.
    """
    group = context.run.tags.get(RESET_TAG)
    if group and context.run.tags.get(CONFIRM_TAG) != group:
        raise SettingsError(
            f"this run starts every table of the group {group!r} over from its sources, and that is not confirmed",
            value=context.run.tags.get(CONFIRM_TAG),
            choices=[group],
            fix=f"launch it with the tag {CONFIRM_TAG}: {group}",
        )


@contextmanager
def failures() -> Iterator[None]:
    """The one place where an error becomes Dagster's: retried where that can help, never where it cannot.

    An error that is none of ours is a fault of this project; it is not tried again either.
    """
    try:
        yield
    except LakehouseError as error:
        raise failure_of(error) from error
    except Exception as error:
        facts = {"error": type(error).__name__, "problem": str(error)}
        raise dg.Failure(f"{type(error).__name__}: {error}", metadata=facts, allow_retries=False) from error


def failure_of(error: LakehouseError) -> dg.Failure:
    """The failure that an error of ours is for Dagster, with what is known of it as metadata."""
    facts = {"error": type(error).__name__, "problem": error.problem}
    facts |= {"value": str(error.value)} if error.value is not None else {}
    facts |= {"legal": ", ".join(error.choices)} if error.choices else {}
    facts |= {"next": error.fix} if error.fix else {}
    return dg.Failure(str(error), metadata=facts, allow_retries=error.transient)


def _refresh(
    work: Work, table: TableName, config: RefreshConfig, keys: list[str] | None, context: dg.AssetExecutionContext
) -> Iterator[Outcome]:
    from lakehouse_assets.tables.refresh import refresh

    made = 0
    for outcome in refresh(work, table, rebuild=config.full_refresh, partitions=keys):
        made += 1
        name = f"{table} {outcome.plan.feed.partition}".rstrip()
        context.log.info(
            f"{name} batch {outcome.plan.number} ({outcome.plan.mode}): {outcome.rows_in} rows in, {outcome.valid} "
            f"valid, {outcome.quarantined} quarantined, {outcome.dropped} dropped"
        )
        _tell(context, outcome.notices)
        yield outcome
    if not made:
        context.log.info(f"{table}: nothing new")


def _tell_days(
    work: Work,
    destination: Destination,
    context: dg.AssetExecutionContext,
    keys: Sequence[str] | None,
    outcomes: Sequence[Outcome],
) -> None:
    """Report the days of a table that moved, each by itself; a table without days has none."""
    if partitions_of(work.catalog, destination.table) is None:
        return
    for event in events(work, context.instance, destination.table, keys, outcomes):
        context.log_event(event)


def _tell_others(work: Work, destination: Destination, context: dg.AssetExecutionContext) -> None:
    """Report the days that moved: one that failed does not hide the others."""
    try:
        _tell_days(work, destination, context, None, ())
    except LakehouseError as error:
        context.log.warning(f"{destination.table}: the days that moved could not be reported: {error}")


def _tell(context: dg.AssetExecutionContext, notices: Sequence[Notice]) -> None:
    for notice in notices:
        told = context.log.info if notice.code == NO_DATA else context.log.warning
        told(f"{notice.code}: {notice.message}")


def _progress(context: dg.AssetExecutionContext) -> Callable[[str, int], None]:
    """Tells the log how many rows came in, every few seconds."""
    told = time.monotonic()

    def tell(table: str, rows: int) -> None:
        nonlocal told
        if time.monotonic() - told >= PROGRESS_SECONDS:
            told = time.monotonic()
            context.log.info(f"{table}: {rows:,} rows so far")

    return tell


def _report(
    work: Work,
    destination: Destination,
    context: dg.AssetExecutionContext,
    keys: Sequence[str] | None,
    outcomes: Sequence[Outcome],
) -> Iterator[Event]:
    if destination.feeds[0].kind == "extract":
        _observe_extract(work, destination.feeds[0], context)
        yield extracted(work, destination.feeds[0], keys, outcomes)
        return
    lag = _observe(work, destination, context)
    for table in destination.outputs:
        key = asset_key(table)
        found = metadata.state(work, table, _recorded(work, table, context))
        if found is None:  # a quarantine or log that no row was sent to yet
            none = dg.DataVersion("none" if keys is None else NOTHING)
            unjudged = list(destination.checks.unjudged()) if table == destination.table else []
            yield dg.MaterializeResult(key, _no_rows(keys), unjudged, none)
            continue
        facts = metadata.of_table(work, found.handle, _comments(destination))
        results: list[dg.AssetCheckResult] = []
        if table == destination.table:
            facts |= metadata.of_outcomes(outcomes)
            if destination.feeds[0].kind == "history":
                facts |= of_history(work, table, found.handle, outcomes)
            lineage = metadata.column_lineage(work, destination.feeds, found.handle.schema.names)
            facts |= {"dagster/column_lineage": lineage} if lineage else {}
            facts |= metadata.chart(work, table, found.handle, destination.feeds) if outcomes else {}
            notices = _notices(work, destination, outcomes)
            newest = _newest(work, destination)
            evidence = Evidence(work, found.handle, context.instance, outcomes, notices, newest, lag)
            results = list(destination.checks.results(evidence))
        if keys is not None and len(keys) == 1:
            facts["dagster/partition_row_count"] = rows_of(work, table, keys).get(keys[0], 0)
        version = found.data_version if keys is None else _version(work, table, keys)
        yield dg.MaterializeResult(key, facts, results, dg.DataVersion(version))


def _no_rows(keys: Sequence[str] | None) -> dict[str, int]:
    """The metadata of a table that is not there."""
    return {"dagster/row_count": 0} | (
        {"dagster/partition_row_count": 0} if keys is not None and len(keys) == 1 else {}
    )


def _recorded(work: Work, table: TableName, context: dg.AssetExecutionContext) -> str | None:
    """The version of the table that was reported last; of one with days it is of a day, which says nothing of all."""
    if partitions_of(work.catalog, table) is not None:
        return None
    return metadata.recorded_version(context.instance, asset_key(table))


def _version(work: Work, table: TableName, keys: Sequence[str]) -> str:
    """That of the one day that a run is about; of several days each has its own, which is told by itself."""
    return versions(work, table, keys).get(keys[0], NOTHING) if len(keys) == 1 else NOTHING


def _comments(destination: Destination) -> dict[str, str]:
    return {name: text for feed in destination.feeds for name, text in feed.lakehouse.columns.items()}


def _newest(work: Work, destination: Destination) -> datetime | None:
    """When the last batch was planned, where the entity says how old its data may be."""
    if not destination.feeds[0].lakehouse.freshness:
        return None
    names = [work.feed_name(feed) for feed in destination.feeds]
    ledger = work.book.open(*names)
    return max((plan.planned_at for name in names if (plan := ledger.last(name))), default=None)


def _notices(work: Work, destination: Destination, outcomes: Sequence[Outcome]) -> list[Notice]:
    """What a source said although nothing was new: the batches of a run tell it themselves."""
    from lakehouse_assets.tables.base import Draft, Idle
    from lakehouse_assets.tables.refresh import preview

    if outcomes or destination.feeds[0].kind != "landed":
        return []
    drafts = (draft for _, draft in preview(work, destination.table))
    return [notice for draft in drafts if isinstance(draft, Draft | Idle) for notice in draft.notices]


def _observe_extract(work: Work, entity: Entity, context: dg.AssetExecutionContext) -> None:
    """Report what the source of an extract looks like now; one that cannot be asked is a line in the log."""
    try:
        context.log_event(observed(work, entity))
    except LakehouseError as error:
        context.log.warning(f"{source_key(entity).to_user_string()} could not be observed: {error}")


def _observe(work: Work, destination: Destination, context: dg.AssetExecutionContext) -> int | None:
    """Report what a landed table's sources look like now: where reading ended, and whether they moved on since.

    The rows are committed by now: a source that cannot be looked at is a line in the log.

    Returns:
        What waits in all of them together; `None` where one cannot tell.
    """
    waiting: list[int | None] = []
    for feed in destination.feeds:
        if feed.kind != "landed":
            continue
        try:
            found = look(work, feed, describe=True)
        except LakehouseError as error:
            context.log.warning(f"{source_key(feed).to_user_string()} could not be observed: {error}")
            waiting.append(None)
            continue
        waiting.append(found.waiting)
        context.log_event(dg.AssetObservation(source_key(feed), metadata=metadata.of_source(found, work.clock())))
    told = [count for count in waiting if count is not None]
    return sum(told) if told and len(told) == len(waiting) else None
