"""How a table is brought up to date: which feeds, which partitions, in which order, and how it starts over.

What belongs here: tables as a whole. What does not: one batch and its number (`batch.py`), what any kind reads or
writes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import LakehouseError, SourceError
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.storage import check_writable
from lakehouse_assets.sources.base import LOSSES
from lakehouse_assets.tables import extract, history, loaded
from lakehouse_assets.tables import partitions as parts
from lakehouse_assets.tables.base import Draft, Feed, Idle, Outcome, Work
from lakehouse_assets.tables.batch import (
    ATTEMPTS_OF_A_PARTITION,
    KINDS,
    by_partition,
    module_of,
    open_feed,
    planned,
    replacing,
    retrying,
    step,
)  # fmt: skip
from lakehouse_assets.tables.history_reorder import reorder
from lakehouse_assets.tables.publish import publish


def refresh(
    work: Work, table: TableName, *, rebuild: bool = False, partitions: Collection[str] | None = None
) -> Iterator[Outcome]:
    """Bring `table` up to date, batch by batch; nothing is yielded when there is nothing new.

    Args:
        rebuild: start the table over from its sources, under the next numbers.
        partitions: only these, of a table that is made partition by partition; others are made as a whole.

    Raises:
        LakehouseError: the batch that failed left every table but the plans as it was.
    """
    feeds = feeds_of(work, table)
    if not feeds:
        return
    check_writable(work.lake.root)
    if feeds[0].kind == "extract":
        yield from extract.refresh(work, feeds[0], partitions, rebuild=rebuild)
        return
    if by_partition(work, feeds[0]):
        yield from refresh_partitions(work, feeds[0], partitions, rebuild=rebuild)
    else:
        yield from _refresh(work, feeds, rebuild=rebuild)
    if notices := publish(work, table):
        work.notify(feeds[0], notices)


def _refresh(work: Work, feeds: Sequence[Entity], *, rebuild: bool) -> Iterator[Outcome]:
    """Bring a table that is kept as a whole up to date."""
    has_log = feeds[0].kind == "history"
    if has_log and rebuild:
        work = replace(work, remake=True)
        retrying(reorder, work, feeds)
        retrying(_plan_changed_streams, work, feeds)
    elif has_log:
        yield from _caught_up(work, feeds)
    elif rebuild:
        retrying(plan_rebuild, work, [(entity, "") for entity in feeds])
    for entity in _replacing_first(work, feeds):
        while (outcome := retrying(step, work, entity)) is not None:
            yield outcome
            if not outcome.more:  # what came since is the next run's: a source that never rests would hold this one
                break
    if has_log and rebuild:
        yield from _caught_up(work, feeds)


def _caught_up(work: Work, feeds: Sequence[Entity]) -> Iterator[Outcome]:
    """What it took to let tables follow their log."""
    outcome = retrying(history.catch_up, work, feeds)
    if outcome is not None:
        yield outcome


def _replacing_first(work: Work, feeds: Sequence[Entity]) -> list[Entity]:
    """Feeds in order, but first the one whose waiting plan replaces what the table holds: the others append to it."""

    def waits_to_replace(entity: Entity) -> bool:
        opened = open_feed(work, entity, checked=False)
        return opened.pending is not None and opened.pending.mode == "replace"

    return sorted(feeds, key=waits_to_replace, reverse=True) if len(feeds) > 1 else list(feeds)


def feeds_of(work: Work, table: TableName) -> tuple[Entity, ...]:
    """The entities by which a run feeds `table`; none for a view, and for a table that an uploader writes."""
    entities = work.catalog.destinations.get(table, ())
    return tuple(entity for entity in entities if entity.kind != "view" and entity.lakehouse.landed_by != "upload")


def preview(
    work: Work, table: TableName, *, rebuild: bool = False, partitions: Collection[str] | None = None
) -> Iterator[tuple[Feed, Plan | Draft | Idle]]:
    """What `refresh` would do first, for each feed: replay a plan, make a draft, or nothing. Writes nothing.

    Raises:
        SettingsError: an option of a source has a value that it cannot have, whatever waits to be replayed.
    """
    feeds = feeds_of(work, table)
    if feeds and (feeds[0].kind == "extract" or by_partition(work, feeds[0])):
        found = list(preview_partitions(work, feeds[0], partitions, rebuild=rebuild))
        yield from found or [(Feed(feeds[0], work.feed_name(feeds[0]), None), Idle())]
        return
    for index, entity in enumerate(feeds):
        if entity.reads_outside and entity.source_format != "delta":
            work.open_source(entity).close()  # it judges its options when it is made, and opens nothing
        opened = open_feed(work, entity, checked=not rebuild)
        feed = rebuilt(opened.feed, index == 0) if rebuild else opened.feed
        waiting = None if rebuild else opened.pending
        yield feed, waiting or KINDS[entity.kind].draft(work, feed)


def plan_rebuild(work: Work, feeds: Sequence[tuple[Entity, str]], lost: Sequence[tuple[Entity, str]] = ()) -> None:
    """Record, in one commit, that every feed (an entity, or a partition of it) is read from its start again.

    The first one replaces the table. One commit, because a kill between two of them would leave a table with some of
    its feeds only.

    Args:
        lost: partitions that the table has no more when it is replaced: they are made of nothing by that commit.
    """
    names = [work.feed_name(entity, key) for entity, key in (*feeds, *lost)]
    ledger = work.book.open(*names)
    plans = []
    for index, (entity, key) in enumerate(feeds):
        feed = rebuilt(open_feed(work, entity, key, checked=False).feed, index == 0)
        draft = module_of(work, entity).draft(work, feed)
        losses = [notice.message for notice in draft.notices if notice.code in LOSSES]
        if losses and not work.accept_loss:
            raise SourceError(
                f"{entity.table}: a rebuild would lose rows: {'; '.join(losses)}",
                fix="run it with --accept-loss if that is meant",
            )
        plans.append(planned(work, feed, draft, ledger))
    nothing = Draft("partitions", {}, {}, "")
    dropped = [
        planned(work, rebuilt(open_feed(work, entity, key, checked=False).feed, False), nothing, ledger)
        for entity, key in lost
    ]
    also = {plan.feed.app_id: plan.follows for plan in plans[1:]}
    first = replace(plans[0], also=also | {plan.feed.app_id: plan.number for plan in dropped})
    ledger.record(first, *plans[1:], *dropped)


def _plan_changed_streams(work: Work, feeds: Sequence[Entity]) -> None:
    """Record that feeds of a log whose stream is another one now are read from its start: copies count once."""
    for entity in feeds:
        opened = open_feed(work, entity)
        if opened.pending is None and history.is_another(work, opened.feed):
            draft = history.draft(work, rebuilt(opened.feed, False))
            if isinstance(draft, Draft):
                opened.ledger.record(planned(work, opened.feed, draft, opened.ledger))


def rebuilt(feed: Feed, first: bool) -> Feed:
    """A feed that is read from its start again."""
    return replace(feed, rebuild=True, starts_over=first)


def is_by_day(work: Work, table: TableName) -> bool:
    """Whether a table is made day by day."""
    return any(e.kind == "extract" or (by_partition(work, e) and e.partition_cols) for e in feeds_of(work, table))


def refresh_partitions(work: Work, entity: Entity, keys: Collection[str] | None, *, rebuild: bool) -> Iterator[Outcome]:
    """Make the partitions of a table that are behind; one that fails holds up no other.

    Raises:
        LakehouseError: what the first partition that failed raised, once the others are done.
    """
    if rebuild:
        keys = None
        retrying(_plan_partitions_anew, work, entity)
    failed: list[tuple[str, LakehouseError]] = []
    waiting = partitions_behind(work, entity, keys)
    while waiting:
        key = waiting.pop(0)
        try:
            outcome = retrying(step, work, entity, key, attempts=ATTEMPTS_OF_A_PARTITION)
            while outcome is not None:
                yield outcome
                outcome = retrying(step, work, entity, key, attempts=ATTEMPTS_OF_A_PARTITION) if outcome.more else None
        except parts.Outdated:
            retrying(_plan_partitions_anew, work, entity, attempts=ATTEMPTS_OF_A_PARTITION)
            waiting = partitions_behind(work, entity, keys)
        except LakehouseError as error:
            failed.append((key, error))
            if replacing(work, str(entity.table), work.engine.find(work.uri(entity.table))) == key:
                break
    if failed:
        raise extract.first_of(entity, failed) from failed[0][1]


def preview_partitions(
    work: Work, entity: Entity, keys: Collection[str] | None, *, rebuild: bool
) -> Iterator[tuple[Feed, Plan | Draft | Idle]]:
    """What would be done to the partitions that are behind."""
    if entity.kind == "extract":
        yield from extract.behind(work, entity, keys)
        return
    module = module_of(work, entity)
    found = sorted(module.offers(work, entity)) if rebuild else partitions_behind(work, entity, keys)
    for index, key in enumerate(found):
        opened = open_feed(work, entity, key, checked=not rebuild)
        feed = rebuilt(opened.feed, index == 0) if rebuild else opened.feed
        yield feed, (None if rebuild else opened.pending) or module.draft(work, feed)


def partitions_behind(work: Work, entity: Entity, keys: Collection[str] | None = None) -> list[str]:
    """The partitions of a table that were interrupted, or that are made of something else than what is offered now.

    Args:
        keys: only these; but one with which an interrupted rebuild replaces the table comes before all others.
    """
    module = module_of(work, entity)
    offers, made = module.offers(work, entity), work.book.open().partitions(str(entity.table))
    target, recipe = work.engine.find(work.uri(entity.table)), Plan.hash_of(module.recipe_of(entity))
    waiting: dict[str, bool] = {}
    for key in sorted({*offers, *made}):
        plan = made.get(key)
        number = target.number(work.feed_name(entity, key).app_id) if target else 0
        if plan is not None and plan.number > number:
            waiting[key] = plan.mode == "replace"
        elif key in offers and not (plan and plan.recipe_hash == recipe and parts.is_offer(plan.end, offers[key])):
            waiting[key] = False
    wanted = [key for key, first in waiting.items() if first or keys is None or key in keys]
    return sorted(wanted, key=lambda key: (not waiting[key], key))


def _plan_partitions_anew(work: Work, entity: Entity) -> None:
    """Record that every partition is made again; the first one replaces the table.

    Raises:
        SourceError: the table has partitions that nothing offers any more.
    """
    module = module_of(work, entity)
    if module is loaded:
        loaded.check_rebuild(work, entity)
    offers = module.offers(work, entity)
    made = work.book.open().partitions(str(entity.table))
    gone = sorted(key for key, plan in made.items() if plan.end and key not in offers)
    if gone and not work.accept_loss:
        raise SourceError(
            f"{entity.table}: a rebuild would lose the partitions {extract.days(gone)}: {entity.source} lacks them now",
            fix="run it with --accept-loss if that is meant",
        )
    if offers:
        plan_rebuild(work, [(entity, key) for key in sorted(offers)], [(entity, key) for key in gone])
