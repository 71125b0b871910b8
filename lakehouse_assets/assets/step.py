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
from lakehouse_assets.assets.metadata_history import of_history
from lakehouse_assets.assets.naming import asset_key, source_key
from lakehouse_assets.assets.resources import LakehouseResource, Project, RefreshConfig
from lakehouse_assets.assets.watch import look
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import ExpectationFailed, LakehouseError, SettingsError

if TYPE_CHECKING:
    from lakehouse_assets.sources.base import Notice
    from lakehouse_assets.tables.base import Outcome, Work

PROGRESS_SECONDS = 5.0
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
    with failures(), lakehouse.open(project, **more) as work:
        try:
            outcomes = _refresh(work, destination.table, config, context)
        except ExpectationFailed as error:
            yield from destination.checks.refused(error)
            raise
        yield from _report(work, destination, context, outcomes)


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


def _refresh(work: Work, table: TableName, config: RefreshConfig, context: dg.AssetExecutionContext) -> list[Outcome]:
    from lakehouse_assets.tables.refresh import refresh

    outcomes = []
    for outcome in refresh(work, table, rebuild=config.full_refresh):
        outcomes.append(outcome)
        context.log.info(
            f"{table} batch {outcome.plan.number} ({outcome.plan.mode}): {outcome.rows_in} rows in, {outcome.valid} "
            f"valid, {outcome.quarantined} quarantined, {outcome.dropped} dropped"
        )
        _tell(context, outcome.notices)
    if not outcomes:
        context.log.info(f"{table}: nothing new")
    return outcomes


def _tell(context: dg.AssetExecutionContext, notices: Sequence[Notice]) -> None:
    for notice in notices:
        context.log.warning(f"{notice.code}: {notice.message}")


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
    work: Work, destination: Destination, context: dg.AssetExecutionContext, outcomes: Sequence[Outcome]
) -> Iterator[Event]:
    lag = _observe(work, destination, context)
    for table in destination.outputs:
        key = asset_key(table)
        found = metadata.state(work, table, metadata.recorded_version(context.instance, key))
        if found is None:  # a quarantine or log that no row was sent to yet
            yield dg.MaterializeResult(key, {"dagster/row_count": 0}, data_version=dg.DataVersion("none"))
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
        yield dg.MaterializeResult(key, facts, results, dg.DataVersion(found.data_version))


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
