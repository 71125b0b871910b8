"""One batch of one feed, and what happens after a kill at any point of it.

    1. n is the number in the target. 2. Plan n+1, if it is recorded, was interrupted: replay exactly its range.
    Otherwise a kind drafts it from plan n's end; nothing new: stop; else record it. 3. The kind writes, every commit
    carrying n+1; a table that has n+1 already is skipped. 4. A second writer with the same number fails
    (`ConcurrentWriter`) and tries again, or finds the other's plan and replays it: it never doubles.

What belongs here: the protocol. What does not: what any kind reads or writes, which tables are refreshed
(`refresh.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from lakehouse_assets.engines.base import Handle
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import ConcurrentWriter, FeedExpired, ForeignCommit, LakeError, SourceError
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.plans import Ledger, Plan
from lakehouse_assets.sources.base import Notice, Past
from lakehouse_assets.tables import asof, conformed, history, landed, loaded, query
from lakehouse_assets.tables.base import Draft, Feed, Idle, Outcome, Work, check_ours, feeding, numbered
from lakehouse_assets.tables.rules import Recipe

T = TypeVar("T")

KINDS: Mapping[str, ModuleType] = {
    "landed": landed, "conformed": conformed, "history": history, "query": query, "asof": asof,
}  # fmt: skip
"""Kind -> the module that drafts and writes it; views are not written at all, and extracts are no tables."""
ATTEMPTS, ATTEMPTS_OF_A_PARTITION = 6, 30
"""How often a batch is tried again when another process commits first: partitions are made at the same time."""


def module_of(work: Work, entity: Entity) -> ModuleType:
    """What drafts and writes the batches of an entity."""
    return loaded if loaded.applies(work, entity) else KINDS[entity.kind]


def by_partition(work: Work, entity: Entity) -> bool:
    """Whether the table is made partition by partition, each with numbers of its own."""
    return module_of(work, entity) in (loaded, asof)


@dataclass(frozen=True)
class Opened:
    """A feed as it stands: its plans, and the interrupted one if there is one."""

    feed: Feed
    ledger: Ledger
    pending: Plan | None = None


def retrying(call: Callable[..., T], *args: object, attempts: int = ATTEMPTS) -> T:
    """What a call gives, made again while other processes commit first."""
    again = Retrying(
        retry=retry_if_exception_type(ConcurrentWriter),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
    )
    return again(call, *args)


def step(work: Work, entity: Entity, key: str = "") -> Outcome | None:
    """One batch of one feed, or of a partition of it; `None` if there is nothing new."""
    opened = open_feed(work, entity, key)
    feed, kind = opened.feed, module_of(work, entity)
    if opened.pending is not None and (again := _replayed(work, feed, opened.pending, opened.ledger)) is not None:
        return again
    if opened.pending is None:
        _check_renamed(work, feed, opened.ledger)
        _check_foreign(work, entity, feed.target, feed.last)
        feed = replace(feed, starts_over=_only_quarantine_left(work, feed))
    elif opened.pending.mode == "replace":
        feed = replace(feed, rebuild=opened.pending.rebuild, starts_over=True)
    elif opened.pending.mode == "append" and _keeps_a_part(work, entity, opened.pending):
        return _rest(work, feed, opened.pending, opened.ledger)
    rebuilt = opened.pending is not None and opened.pending.rebuild
    draft = kind.draft(work, replace(feed, rebuild=True) if rebuilt else feed)
    if isinstance(draft, Idle):
        work.notify(entity, draft.notices)
        return None
    if draft.mode == "replace" and len(feeding(work, entity.table)) > 1:
        raise LakeError(
            f"{entity.table}: the feed {feed.name.feed!r} starts over, but the table has other feeds as well",
            fix=f"lakehouse run --full-refresh {entity.table}",
        )
    plan = planned(work, feed, draft, opened.ledger)
    if opened.pending is not None and by_partition(work, entity):  # the other partitions of a rebuild wait for that
        plan = replace(plan, also=opened.pending.also)
    (plan,) = opened.ledger.record(plan)
    outcome = kind.write(work, feed, plan)
    return replace(outcome, notices=(*draft.notices, *outcome.notices), more=draft.more)


def _replayed(work: Work, feed: Feed, pending: Plan, ledger: Ledger) -> Outcome | None:
    """An interrupted batch, made again; `None` if what it was to read is gone, or another, and nothing was written."""
    kind = module_of(work, feed.entity)
    if not _replayable(work, feed, pending):
        return None
    plan = _same_or_mended(work, feed.entity, pending, ledger)
    try:
        outcome = kind.write(work, feed, plan)
    except FeedExpired:
        if kind is not asof:  # which writes all it has in one commit, and reads whole partitions
            raise
        return None
    replayed = () if plan.rebuild else (Notice("replayed", f"batch {plan.number} was interrupted and made again"),)
    return replace(outcome, notices=(*replayed, *outcome.notices), more=True)


def _replayable(work: Work, feed: Feed, plan: Plan) -> bool:
    """Whether an interrupted plan can still be made; only what stands outside the lake can have changed."""
    kind = module_of(work, feed.entity)
    if kind in (loaded, asof):
        return bool(kind.replayable(work, feed, plan))
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


def open_feed(work: Work, entity: Entity, key: str = "", *, checked: bool = True) -> Opened:
    """A feed, or a partition of it, as it stands.

    Args:
        checked: absent, also where table and plans disagree (a rebuild mends that).
    """
    target = work.engine.find(work.uri(numbered(entity)))
    if target is not None:
        check_ours(target, numbered(entity))
        work.engine.refuse_writers(target)
    elif entity.lakehouse.writers:
        work.engine.refuse_writer(entity.lakehouse.writers, work.uri(entity.table))
    name = work.feed_name(entity, key)
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
    moved = again is not None and again.number(name.app_id) != number
    if moved or (name.partition and replacing(work, name.destination, again) not in (None, name.partition)):
        raise ConcurrentWriter(f"another process is feeding {name.destination}", fix="run again")
    state = "is not there" if target is None else f"carries batch {number}"
    raise LakeError(
        f"{name.destination} {state}, but the plans of {name.app_id} end with batch {planned}: "
        "the table or the plans were removed or restored",
        fix=f"bring back what is missing, or rebuild: lakehouse run --full-refresh {name.destination}",
    )


def replacing(work: Work, destination: str, target: Handle | None) -> str | None:
    """The partition with which an interrupted rebuild has yet to replace a table: all others wait for it."""
    for key, plan in work.book.open().partitions(destination).items():
        if plan.mode == "replace" and (target is None or target.number(plan.feed.app_id) < plan.number):
            return key
    return None


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
    if entity.kind == "query" or by_partition(work, entity):
        return plan
    reads_table = entity.kind == "conformed" or (entity.kind == "history" and not history.lands(entity))
    recipe = conformed.recipe_of(work, entity) if reads_table else Recipe.of(entity).record()
    if plan.recipe_hash == Plan.hash_of(recipe):
        return plan
    if recipe.get("view") != plan.recipe.get("view") or _keeps_a_part(work, entity, plan):
        return plan
    return ledger.record(replace(plan, recipe=recipe))[0]


def planned(work: Work, feed: Feed, draft: Draft, ledger: Ledger) -> Plan:
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
