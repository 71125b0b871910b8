"""Conformed tables: the new rows of an upstream table, selected, typed, judged and split into target and quarantine.

Where the upstream table only appends, a batch is its new rows; where rows were changed or removed there, the batch
starts the table over from the upstream version at hand.
What does not belong here: history (`apply_changes`), reading from outside.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from lakehouse_assets.engines.base import Handle, Relation
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import IncarnationChanged, SourceMissing
from lakehouse_assets.lake.delta import Commit
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.storage import normalize
from lakehouse_assets.sources.base import Notice
from lakehouse_assets.tables import corrections_kept, evolution, quarantine, rescue, sieve, view
from lakehouse_assets.tables.base import (
    Draft,
    Feed,
    Idle,
    Mode,
    Outcome,
    Work,
    target_of,
    upstream,
    with_comments,
)
from lakehouse_assets.tables.rows import padded
from lakehouse_assets.tables.rules import Judged, Recipe
from lakehouse_assets.tables.sides import keeps_change_feed, quarantine_of, with_misfits

FROM_THE_START = -1
"""The upstream version before the first one."""


def draft(work: Work, feed: Feed) -> Draft | Idle:
    """What the next batch would read: the upstream versions after the last plan's, up to the newest."""
    recipe = recipe_of(work, feed.entity)
    if "view" in recipe:
        return _draft_over_view(work, feed, recipe)
    source = upstream_of(work, feed.entity)
    if feed.last is None or feed.rebuild:
        mode: Mode = "replace" if feed.starts_over else "append"
        return Draft(mode, {"version": FROM_THE_START}, {"version": source.version}, source.id, recipe)
    if "version" not in feed.last.end:  # it read a view before
        return Draft("replace", {"version": FROM_THE_START}, {"version": source.version}, source.id, recipe)
    check_incarnation(feed.entity, feed.last.incarnation, source.id)
    start = int(feed.last.end["version"])
    kind = work.engine.changes(source, start).kind
    if kind == "none" and corrections_kept.behind(work, feed.entity):
        kind = "append"  # a batch without rows, after which the table follows its corrections
    if kind == "none":
        return Idle()
    notices: tuple[Notice, ...] = ()
    if feed.last.recipe_hash != Plan.hash_of(recipe):
        notices = (Notice("recipe_changed", f"{feed.entity.table}: earlier rows were made by another recipe"),)
    if kind == "append":
        return Draft("append", {"version": start}, {"version": source.version}, source.id, recipe, notices)
    return Draft("replace", {"version": FROM_THE_START}, {"version": source.version}, source.id, recipe, notices)


def _draft_over_view(work: Work, feed: Feed, recipe: Mapping[str, Any]) -> Draft | Idle:
    """Over a view the whole is read again whenever a table behind it moved."""
    handles = {name: upstream(work, name) for name in view.stored(work, work.catalog.resolve(feed.entity.source))}
    end = {str(name): handle.version for name, handle in handles.items()}
    incarnation = ",".join(handle.id for handle in handles.values())
    if feed.last is None or feed.rebuild:
        return Draft("replace" if feed.starts_over else "append", {}, end, incarnation, recipe)
    if feed.last.recipe_hash != Plan.hash_of(recipe) or set(feed.last.end) != set(end):
        return Draft("replace", {}, end, incarnation, recipe)
    check_incarnation(feed.entity, feed.last.incarnation, incarnation)
    moved = [work.engine.changes(h, int(feed.last.end[str(name)])).kind != "none" for name, h in handles.items()]
    moved.append(corrections_kept.behind(work, feed.entity))
    return Draft("replace", {}, end, incarnation, recipe) if any(moved) else Idle()


def recipe_of(work: Work, entity: Entity) -> dict[str, Any]:
    """What makes the rows of a conformed table: the entity's recipe, and the query of the view that it reads."""
    recipe = Recipe.of(entity).record()
    if not entity.reads_outside and view.is_view(work, source := work.catalog.resolve(entity.source)):
        recipe["view"] = view.expanded(work, source)
    return recipe


def upstream_of(work: Work, entity: Entity, version: int | None = None) -> Handle:
    """The table that a conformed entity reads: one of the catalog, or (`delta` with a path) one that stands elsewhere.

    Raises:
        SourceMissing: there is no Delta table at the path.
    """
    if not entity.reads_outside:
        return upstream(work, work.catalog.resolve(entity.source), version)
    handle = work.engine.find(normalize(entity.source), version)
    if handle is None:
        raise SourceMissing(f"{entity.table}: there is no Delta table at {entity.source}", fix="give the table's path")
    return handle


def check_incarnation(entity: Entity, recorded: str, found: str) -> None:
    """Raise `IncarnationChanged` if an upstream table was dropped and made again."""
    if recorded != found:
        raise IncarnationChanged(
            f"{entity.table}: the upstream table {entity.source} is not the one that was read before "
            f"(its id was {recorded}, now it is {found})",
            fix=f"bring the old table back, or rebuild: lakehouse run --full-refresh {entity.table}",
        )


def write(work: Work, feed: Feed, plan: Plan) -> Outcome:
    """Make the batch: quarantine first, target last; then both follow the corrections that they do not show yet."""
    outcome = _write(work, feed, plan)
    return replace(outcome, commits={**outcome.commits, **corrections_kept.follow(work, feed.entity)})


def _write(work: Work, feed: Feed, plan: Plan) -> Outcome:
    if "view" in plan.recipe:
        return keep(work, feed, plan, view.result(work, plan.recipe["view"], plan))
    source = upstream_of(work, feed.entity, int(plan.end["version"]))
    check_incarnation(feed.entity, plan.incarnation, source.id)
    start = int(plan.start["version"])
    if start == FROM_THE_START:
        return keep(work, feed, plan, work.engine.read(source), again=True)
    moved = work.engine.changes(source, start)
    rows = moved.relation or work.engine.from_arrow(source.schema.empty_table())
    return keep(work, feed, plan, rows, again=moved.kind == "append")


def keep(
    work: Work,
    feed: Feed,
    plan: Plan,
    rows: Relation,
    misfits: quarantine.Spool | None = None,
    declared: Collection[str] = frozenset(),
    *,
    again: bool = False,
) -> Outcome:
    """Judge rows by the plan's recipe and write them: what every kind does whose rows go to target and quarantine.

    Args:
        misfits: rows that did not fit their columns, filled while `rows` is read.
        declared: columns, in lower case, that are meant to be in the table beside those that the recipe names.
        again: whether `rows` may be read several times, and are the same each time: files of a version, no stream.

    Raises:
        SchemaDrift: the rows' columns do not fit the table's; nothing was written.
    """
    engine, recipe = work.engine, Recipe.recorded(plan.recipe)
    table = evolution.columns_of(feed, plan)
    if not recipe.rescue:
        judged = Judged(engine, recipe, rows)
        if sieve.applies(work, feed, plan, recipe):
            return sieve.keep(work, feed, plan, judged, misfits)
        columns = evolution.settle(judged.schema, table, evolution.mode_of(feed, plan), feed.entity.table).columns
        return _keep(work, feed, plan, judged, columns, misfits, again=again)
    known = None if table is None else {*recipe.named(), *declared}
    with rescue.judged(engine, recipe, rows, table, known, feed.entity.table, feed.entity.source) as (judged, rescued):
        outcome = _keep(work, feed, plan, judged, judged.schema, misfits)
        verdicts = [*outcome.verdicts, *rescued.verdicts(outcome.rows_in)]
        return replace(outcome, verdicts=verdicts, notices=rescued.notices())


def _keep(
    work: Work,
    feed: Feed,
    plan: Plan,
    judged: Judged,
    columns: pa.Schema,
    misfits: quarantine.Spool | None,
    *,
    again: bool = False,
) -> Outcome:
    """Write judged rows, whose columns become `columns` in the table."""
    entity, engine = feed.entity, work.engine
    with (
        judged.held(again=again) as held,
        corrections_kept.replayed(work, feed, plan, judged, held, judged.count(held)) as split,
    ):
        counts = split.counts
        unfit = misfits.count if misfits else 0
        target = target_of(work, entity, plan, columns, change_feed=keeps_change_feed(work, entity))
        commits: dict[TableName, Commit] = {}
        needed = counts.quarantined + unfit > 0
        box = quarantine_of(work, entity, columns, judged.upstream, needed=needed)
        if box is not None:
            broken = split.broken() if plan.rebuild else padded(engine, split.broken(), box.schema)
            broken = with_misfits(engine, broken, misfits, plan)
            commits[entity.table.quarantine] = put(work, box, split.plan, broken, entity, retyped=True)
        commits[entity.table] = put(work, target, split.plan, split.valid, entity)
    return counts.outcome(plan, commits, unfit)


def put(work: Work, handle: Handle, plan: Plan, rows: Relation, entity: Entity, *, retyped: bool = False) -> Commit:
    """Write a batch's rows into a table as the plan's mode says.

    Args:
        retyped: where all rows are replaced, columns may get other types, as rows in a quarantine are as received.
    """
    engine = work.engine
    if plan.rebuild and plan.mode == "replace":
        columns = with_comments(engine.schema(rows), entity.lakehouse.columns)
        return engine.rebuild(handle, rows, columns, plan.as_number)
    rows = padded(engine, rows, handle.schema)
    if plan.mode == "append":
        return engine.append(handle, rows, plan.as_number)
    if retyped:
        return engine.rebuild(handle, rows, engine.schema(rows), plan.as_number)
    return engine.replace(handle, rows, plan.as_number)
