"""How a table is brought up to date: number, plan, write; and what happens after a kill at any point of that.

    1. n is the number in the target. 2. Plan n+1, if it is recorded, was interrupted: replay exactly its range.
    Otherwise a kind drafts it from plan n's end; nothing new: stop; else record it. 3. The kind writes, every commit
    carrying n+1; a table that has n+1 already is skipped. 4. A second writer with the same number fails
    (`ConcurrentWriter`) and tries again, or finds the other's plan and replays it: it never doubles.

What belongs here: the protocol. What does not: what any kind reads or writes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from lakehouse_assets.engines.base import Handle
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import ConcurrentWriter, ForeignCommit, LakeError, NotRunnable, SourceError
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.plans import Ledger, Plan
from lakehouse_assets.lake.storage import check_writable
from lakehouse_assets.sources.base import LOSSES, Notice, Past
from lakehouse_assets.tables import conformed, history, landed, query
from lakehouse_assets.tables.base import Draft, Feed, Idle, Outcome, Work, check_ours, numbered
from lakehouse_assets.tables.history_reorder import reorder
from lakehouse_assets.tables.publish import publish
from lakehouse_assets.tables.rules import Recipe

T = TypeVar("T")

KINDS: Mapping[str, ModuleType] = {"landed": landed, "conformed": conformed, "history": history, "query": query}
"""Kind -> the module that drafts and writes it; views are not written at all."""
ATTEMPTS = 6
"""How often a batch is tried again when another process commits first."""


def refresh(work: Work, table: TableName, *, rebuild: bool = False) -> Iterator[Outcome]:
    """Bring `table` up to date, batch by batch; nothing is yielded when there is nothing new.

    Args:
        rebuild: start the table over from its sources, under the next numbers.

    Raises:
        LakehouseError: the batch that failed left every table but the plans as it was.
    """
    feeds = feeds_of(work, table)
    if not feeds:
        return
    check_writable(work.lake.root)
    has_log = feeds[0].kind == "history"
    if has_log and rebuild:
        work = replace(work, remake=True)
        _retrying(reorder, work, feeds)
        _retrying(_plan_changed_streams, work, feeds)
    elif has_log:
        yield from _caught_up(work, feeds)
    elif rebuild:
        _retrying(_plan_rebuild, work, feeds)
    for entity in _replacing_first(work, feeds):
        while (outcome := _retrying(_step, work, entity)) is not None:
            yield outcome
            if not outcome.more:  # what came since is the next run's: a source that never rests would hold this one
                break
    if has_log and rebuild:
        yield from _caught_up(work, feeds)
    if notices := publish(work, table):
        work.notify(feeds[0], notices)


def _caught_up(work: Work, feeds: Sequence[Entity]) -> Iterator[Outcome]:
    """What it took to let tables follow their log."""
    outcome = _retrying(history.catch_up, work, feeds)
    if outcome is not None:
        yield outcome


def _replacing_first(work: Work, feeds: Sequence[Entity]) -> list[Entity]:
    """Feeds in order, but first the one whose waiting plan replaces what the table holds: the others append to it."""

    def waits_to_replace(entity: Entity) -> bool:
        opened = _open(work, entity, checked=False)
        return opened.pending is not None and opened.pending.mode == "replace"

    return sorted(feeds, key=waits_to_replace, reverse=True) if len(feeds) > 1 else list(feeds)


def feeds_of(work: Work, table: TableName) -> tuple[Entity, ...]:
    """The entities that feed `table` and that this version can run; none for a view.

    Raises:
        NotRunnable: it needs a kind that this version lacks.
    """
    entities = tuple(e for e in work.catalog.destinations.get(table, ()) if e.kind != "view")
    for entity in entities:
        if entity.kind not in KINDS:
            raise NotRunnable(
                f"entity {entity.entity_id!r} ({table}) is a table of kind {entity.kind!r}, which this version only "
                "validates",
                value=entity.kind,
                choices=(*KINDS, "view"),
                fix="run the other tables by name, or disable the entity (is_enabled: false)",
            )
        if entity.lakehouse.landed_by == "upload":
            return ()
    return entities


@dataclass(frozen=True)
class Opened:
    """A feed as it stands: its plans, and the interrupted one if there is one."""

    feed: Feed
    ledger: Ledger
    pending: Plan | None = None


def preview(work: Work, table: TableName, *, rebuild: bool = False) -> Iterator[tuple[Feed, Plan | Draft | Idle]]:
    """What `refresh` would do first, for each feed: replay a plan, make a draft, or nothing. Writes nothing.

    Raises:
        SettingsError: an option of a source has a value that it cannot have, whatever waits to be replayed.
    """
    for index, entity in enumerate(feeds_of(work, table)):
        if entity.reads_outside and entity.source_format != "delta":
            work.open_source(entity).close()  # it judges its options when it is made, and opens nothing
        opened = _open(work, entity, checked=not rebuild)
        feed = _rebuilt(opened.feed, index == 0) if rebuild else opened.feed
        waiting = None if rebuild else opened.pending
        yield feed, waiting or KINDS[entity.kind].draft(work, feed)


def _retrying(call: Callable[..., T], *args: object) -> T:
    retrying = Retrying(
        retry=retry_if_exception_type(ConcurrentWriter),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
    )
    return retrying(call, *args)


def _step(work: Work, entity: Entity) -> Outcome | None:
    """One batch of one feed; `None` if there is nothing new."""
    opened = _open(work, entity)
    feed, kind = opened.feed, KINDS[entity.kind]
    if opened.pending is not None and _replayable(work, feed, opened.pending):
        plan = _same_or_mended(work, entity, opened.pending, opened.ledger)
        outcome = kind.write(work, feed, plan)
        replayed = () if plan.rebuild else (Notice("replayed", f"batch {plan.number} was interrupted and made again"),)
        return replace(outcome, notices=(*replayed, *outcome.notices), more=True)
    if opened.pending is None:
        _check_renamed(work, feed, opened.ledger)
        _check_foreign(work, entity, feed.target, feed.last)
        feed = replace(feed, starts_over=_only_quarantine_left(work, feed))
    elif opened.pending.mode == "replace":
        feed = replace(feed, rebuild=opened.pending.rebuild, starts_over=True)
    elif opened.pending.mode == "append" and _keeps_a_part(work, entity, opened.pending):
        return _rest(work, feed, opened.pending, opened.ledger)
    draft = kind.draft(work, feed)
    if isinstance(draft, Idle):
        work.notify(entity, draft.notices)
        return None
    if draft.mode == "replace" and len(feeds_of(work, entity.table)) > 1:
        raise LakeError(
            f"{entity.table}: the feed {feed.name.feed!r} starts over, but the table has other feeds as well",
            fix=f"lakehouse run --full-refresh {entity.table}",
        )
    (plan,) = opened.ledger.record(_planned(work, feed, draft, opened.ledger))
    outcome = kind.write(work, feed, plan)
    return replace(outcome, notices=(*draft.notices, *outcome.notices), more=draft.more)


def _replayable(work: Work, feed: Feed, plan: Plan) -> bool:
    """Whether an interrupted plan can still be made; only what stands outside the lake can have changed."""
    outside = feed.entity.reads_outside and feed.entity.source_format != "delta"
    return not outside or landed.replayable(work, feed, plan)


def _only_quarantine_left(work: Work, feed: Feed) -> bool:
    """Whether a table and its plans are gone but its quarantine is not: the first batch replaces both."""
    return feed.target is None and feed.last is None and _carried_by_quarantine(work, feed.entity, feed.name) > 0


def _carried_by_quarantine(work: Work, entity: Entity, name: FeedName) -> int:
    box = work.engine.find(work.uri(entity.table.quarantine))
    return box.number(name.app_id) if box is not None else 0


def _keeps_a_part(work: Work, entity: Entity, plan: Plan) -> bool:
    """Whether rows of an interrupted batch are in the quarantine."""
    return landed.KEPT in plan.recipe or _carried_by_quarantine(work, entity, plan.feed) >= plan.number


def _rest(work: Work, feed: Feed, plan: Plan, ledger: Ledger) -> Outcome:
    """Make what is left of an interrupted batch that keeps a part, as a batch of its own.

    It has another number, so that a writer that stalled in the middle of the old one cannot mix with it.

    Raises:
        SourceError: the source cannot tell what is left.
    """
    told = _carried_by_quarantine(work, feed.entity, plan.feed) >= plan.number
    found = landed.left(work, feed, plan, told=told)
    if found is None:
        raise SourceError(
            f"{feed.entity.table}: batch {plan.number} was interrupted after its quarantine was written, and what it "
            "read was rewritten since",
            fix=f"rebuild the table: lakehouse run --full-refresh {feed.entity.table}",
        )
    start, notices = found
    recipe = {**plan.recipe, landed.KEPT: plan.recipe.get(landed.KEPT, plan.number)}
    (rest,) = ledger.record(replace(plan, number=plan.number + 1, start=start, recipe=recipe))
    outcome = landed.write(work, feed, rest)
    said = Notice("replayed", f"batch {plan.number} was interrupted; what is left of it was made as {rest.number}")
    return replace(outcome, notices=(said, *notices, *outcome.notices), more=True)


def _plan_rebuild(work: Work, feeds: Sequence[Entity]) -> None:
    """Record, in one commit, that every feed is read from its start again; the first one replaces the table.

    One commit, because a kill between two of them would leave a table with some of its feeds only.
    """
    names = [work.feed_name(entity) for entity in feeds]
    ledger = work.book.open(*names)
    plans = []
    for index, entity in enumerate(feeds):
        feed = _rebuilt(_open(work, entity, checked=False).feed, index == 0)
        draft = KINDS[entity.kind].draft(work, feed)
        losses = [notice.message for notice in draft.notices if notice.code in LOSSES]
        if losses and not work.accept_loss:
            raise SourceError(
                f"{entity.table}: a rebuild would lose rows: {'; '.join(losses)}",
                fix="run it with --accept-loss if that is meant",
            )
        plans.append(_planned(work, feed, draft, ledger))
    first = replace(plans[0], also={plan.feed.app_id: plan.follows for plan in plans[1:]})
    ledger.record(first, *plans[1:])


def _plan_changed_streams(work: Work, feeds: Sequence[Entity]) -> None:
    """Record that feeds of a log whose stream is another one now are read from its start: copies count once."""
    for entity in feeds:
        opened = _open(work, entity)
        if opened.pending is None and history.is_another(work, opened.feed):
            draft = history.draft(work, _rebuilt(opened.feed, False))
            if isinstance(draft, Draft):
                opened.ledger.record(_planned(work, opened.feed, draft, opened.ledger))


def _rebuilt(feed: Feed, first: bool) -> Feed:
    return replace(feed, rebuild=True, starts_over=first)


def _open(work: Work, entity: Entity, *, checked: bool = True) -> Opened:
    """A feed as it stands; unless `checked`, also where table and plans disagree (a rebuild mends that)."""
    target = work.engine.find(work.uri(numbered(entity)))
    if target is not None:
        check_ours(target, numbered(entity))
        work.engine.refuse_writers(target)
    elif entity.lakehouse.writers:
        work.engine.refuse_writer(entity.lakehouse.writers, work.uri(entity.table))
    name = work.feed_name(entity)
    number = target.number(name.app_id) if target else 0
    ledger = work.book.open(name)
    last = ledger.last(name)
    behind = last is not None and last.number > number
    done = next(reversed(ledger.history(name, number)), None) if behind else last
    positions = functools.cache(lambda: [dict(plan.end) for plan in ledger.history(name, number)])
    past = Past(positions, dict(done.end) if done else None, lambda: _first_start(ledger, name, number))
    feed = Feed(entity, name, target, done, past)
    if last is not None and last.number > number and (last.mode == "replace" or last.follows == number):
        return Opened(feed, ledger, last)
    if checked:
        _check_step(work, name, last, number, done, target)
    return Opened(feed, ledger)


def _first_start(ledger: Ledger, name: FeedName, number: int) -> dict[str, Any] | None:
    """Where the first batch since the last rebuild started."""
    first = next(iter(ledger.history(name, number)), None)
    return dict(first.start) if first else None


def _check_step(
    work: Work, name: FeedName, last: Plan | None, number: int, done: Plan | None, target: Handle | None
) -> None:
    """Raise `LakeError` if table and plans disagree, unless another process is just moving them on.

    A table may carry a batch that a newer plan meant to supersede: then that batch is what the next one follows.
    """
    planned = last.number if last else 0
    if planned == number or (last is not None and done is not None and last.follows < number < planned):
        return
    again = work.engine.find(target.uri) if target else None
    if again is not None and again.number(name.app_id) != number:
        raise ConcurrentWriter(f"another process is feeding {name.destination}", fix="run again")
    state = "is not there" if target is None else f"carries batch {number}"
    raise LakeError(
        f"{name.destination} {state}, but the plans of {name.app_id} end with batch {planned}: "
        "the table or the plans were removed or restored",
        fix=f"bring back what is missing, or rebuild: lakehouse run --full-refresh {name.destination}",
    )


def _check_foreign(work: Work, entity: Entity, target: Handle | None, last: Plan | None) -> None:
    """Raise `ForeignCommit` if somebody else changed rows of the table or its quarantine since the last plan."""
    if target is None or last is None or work.accept_foreign:
        return
    box = work.engine.find(work.uri(entity.table.quarantine)) if entity.kind != "history" else None
    looked = [(numbered(entity), target, last.target_version)]
    looked += [(entity.table.quarantine, box, last.quarantine_version)] if box is not None else []
    for name, handle, since in looked:
        for version in handle.foreign_commits(since, handle.version):
            raise ForeignCommit(
                f"version {version} of {name} changed rows and was not written by this project",
                fix=f"rebuild the table: lakehouse run --full-refresh {entity.table}; or keep the change: "
                f"lakehouse run --accept-foreign {entity.table}",
                version=version,
            )


def _check_renamed(work: Work, feed: Feed, ledger: Ledger) -> None:
    """Raise `LakeError` if a feed without plans meets a table whose feeds have names that no entity has any more."""
    if feed.target is None or feed.last is not None:
        return
    destination = str(feed.entity.table)
    declared = [entity for entity in work.catalog.entities if entity.table == feed.entity.table]  # disabled ones, too
    gone = ledger.feeds(destination) - {work.feed_name(entity).feed for entity in declared}
    if gone:
        raise LakeError(
            f"{destination} was fed under the name {sorted(gone)[0]!r}, which no entity has any more; the feed "
            f"{feed.name.feed!r} would read everything again and double its rows",
            fix=f"keep the old name, or start over: lakehouse run --full-refresh {destination}",
        )


def _same_or_mended(work: Work, entity: Entity, plan: Plan, ledger: Ledger) -> Plan:
    """An interrupted plan as it was, or, if no table carries it yet and the rules were mended, with the new rules."""
    if entity.kind == "query":
        return plan
    reads_table = entity.kind == "conformed" or (entity.kind == "history" and not history.lands(entity))
    recipe = conformed.recipe_of(work, entity) if reads_table else Recipe.of(entity).record()
    if plan.recipe_hash == Plan.hash_of(recipe):
        return plan
    if recipe.get("view") != plan.recipe.get("view") or _keeps_a_part(work, entity, plan):
        return plan
    return ledger.record(replace(plan, recipe=recipe))[0]


def _planned(work: Work, feed: Feed, draft: Draft, ledger: Ledger) -> Plan:
    """The plan that a draft becomes, under a number that no plan and no table of the feed has carried."""
    planned = ledger.last(feed.name)
    app_id = feed.name.app_id
    box = work.engine.find(work.uri(feed.entity.table.quarantine))
    carried = feed.target.number(app_id) if feed.target else 0
    number = max(planned.number if planned else 0, carried, box.number(app_id) if box else 0) + 1
    follows = carried
    if feed.rebuild:  # the commit that replaces the table uses up the number between, for every feed
        number, follows = number + 1, number
    now = work.clock()
    return Plan(
        feed.name,
        number,
        draft.mode,
        draft.start,
        draft.end,
        draft.incarnation,
        draft.recipe,
        feed.target.version if feed.target else -1,
        now.date(),
        now,
        rebuild=feed.rebuild,
        follows=follows,
        quarantine_version=box.version if box else -1,
    )
