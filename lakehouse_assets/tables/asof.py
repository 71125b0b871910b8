"""As-of joins: each row of the left table with the row of the right one that was the case at its time.

With a partition column the join is made partition by partition, of the same partition of both tables: again when one of
the two was. Without one it is made as a whole.
What belongs here: which versions are joined, and the select list over them. What does not: the join (`engines/asof*`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lakehouse_assets.engines.asof_spec import AsOf
from lakehouse_assets.engines.base import Handle, Relation
from lakehouse_assets.entities import asof as options
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import FeedExpired, IncarnationChanged
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.tables import partitions
from lakehouse_assets.tables.base import Draft, Feed, Idle, Outcome, Work, feeding, upstream

Sides = Sequence[tuple[TableName, Handle]]
"""The left table and the right one."""
_MICROSECOND = 1_000


def offers(work: Work, entity: Entity) -> Mapping[str, partitions.Offer]:
    """What each partition would be made of: the batches of both tables that made it there."""
    sides = _sides(work, entity)
    if not entity.partition_cols:
        return {partitions.WHOLE: {}}
    keys = sorted(work.book.open().partitions(str(sides[0])))
    handles = _opened(work, entity)
    return {key: _numbers(work, handles, key) for key in keys}


def draft(work: Work, feed: Feed) -> Draft | Idle:
    """The batch that joins one partition."""
    handles, key = _opened(work, feed.entity), feed.name.partition
    end = {"at": {str(name): handle.version for name, handle in handles}, **_numbers(work, handles, key)}
    incarnation = ",".join(handle.id for _, handle in handles)
    last = feed.last
    if last is not None and not feed.rebuild:
        _check_incarnations(feed.entity, last.incarnation, handles)
    return partitions.drafted(
        feed, end, incarnation, recipe_of(feed.entity), moved=last is None or _moved(work, handles, last, key, end)
    )


def _moved(work: Work, handles: Sides, last: Plan, key: str, end: Mapping[str, Any]) -> bool:
    if key != partitions.WHOLE:
        return last.end.get("numbers") != end["numbers"]
    try:
        return any(work.engine.changes(h, int(last.end["at"][str(name)])).kind != "none" for name, h in handles)
    except FeedExpired:  # it cannot be said any more, and whole tables are joined
        return True


def replayable(work: Work, feed: Feed, plan: Plan) -> bool:
    """Whether an interrupted batch would join what there is now; else it is planned anew, for nothing was written."""
    if plan.recipe_hash != Plan.hash_of(recipe_of(feed.entity)):
        return False
    handles, key = _opened(work, feed.entity), feed.name.partition
    if plan.incarnation != ",".join(handle.id for _, handle in handles):
        return False
    if key != partitions.WHOLE:  # versions move with every other partition
        return bool(plan.end["numbers"] == _numbers(work, handles, key)["numbers"])
    return bool(plan.end["at"] == {str(name): handle.version for name, handle in handles})


def write(work: Work, feed: Feed, plan: Plan) -> Outcome:
    """Join the versions that the plan pins, and put the result in the place of the partition's rows."""
    entity, engine = feed.entity, work.engine
    handles = _opened(work, entity, plan.end["at"])
    _check_incarnations(entity, plan.incarnation, handles)
    left, right = (_rows(work, entity, handle, plan) for _, handle in handles)
    asked = plan.recipe["asof"]
    how = AsOf(**{**asked, "by": tuple(asked["by"]), "tie": tuple(asked["tie"])})
    keep = ", ".join(f"`{name}`" for name in dict.fromkeys(how.right_columns))
    joined = engine.asof(left, engine.query(f"SELECT {keep} FROM rows", {"rows": right}), how)
    items = ", ".join(plan.recipe["select"]) or "*"
    return partitions.put(work, feed, plan, engine.query(f"SELECT {items} FROM joined", {"joined": joined}))


def recipe_of(entity: Entity) -> dict[str, Any]:
    """The join in full, and the select list over it."""
    asked = asdict(spec(entity))
    return {"asof": {**asked, "columns": dict(asked["columns"])}, "select": list(entity.select_expr)}


def spec(entity: Entity) -> AsOf:
    """What the entity asks for."""
    given = entity.read_options
    time = given["asof.time"].strip()
    tolerance = entity.lakehouse.tolerance_delta
    return AsOf(
        by=options.listed(entity, "asof.by"),
        time=time,
        right_time=given.get("asof.rightTime", time).strip(),
        tie=options.listed(entity, "asof.tie"),
        columns=options.brought(entity),
        direction=given.get("asof.direction", "backward"),  # type: ignore[arg-type]  # the catalog has checked it
        tolerance=None if tolerance is None else round(tolerance.total_seconds() * 1_000_000) * _MICROSECOND,
        strict=given.get("asof.strict") == "true",
        skip_nulls=given.get("asof.skipNulls") == "true",
    )


def _sides(work: Work, entity: Entity) -> list[TableName]:
    return [work.catalog.resolve(name) for name in entity.lakehouse.tables]


def _opened(work: Work, entity: Entity, at: Mapping[str, int] | None = None) -> Sides:
    """Both tables, at versions or as they are now; a table may be joined with itself."""
    return [(name, upstream(work, name, int(at[str(name)]) if at else None)) for name in _sides(work, entity)]


def _check_incarnations(entity: Entity, recorded: str, handles: Sides) -> None:
    """Raise `IncarnationChanged` if one of the tables was dropped and made again."""
    for (name, handle), was in zip(handles, recorded.split(","), strict=True):
        if handle.id != was:
            raise IncarnationChanged(
                f"{entity.table}: the upstream table {name} is not the one that was joined before (its id was {was}, "
                f"now it is {handle.id})",
                fix=f"bring the old table back, or rebuild: lakehouse run --full-refresh {entity.table}",
            )


def _numbers(work: Work, handles: Sides, key: str) -> dict[str, Any]:
    """The batch that made a partition, of each table."""
    if key == partitions.WHOLE:
        return {}
    named = {name: work.feed_name(feeding(work, name)[0], key).app_id for name, _ in handles}
    return {"numbers": {str(name): handle.number(named[name]) for name, handle in handles}}


def _rows(work: Work, entity: Entity, handle: Handle, plan: Plan) -> Relation:
    """The rows of one partition of a table, or all of them."""
    if plan.feed.partition == partitions.WHOLE:
        return work.engine.read(handle)
    column, day = entity.partition_cols[0], partitions.day_of(plan.feed.partition)
    rows = work.engine.read(handle, partition={column: day})
    return work.engine.query(f"SELECT * FROM rows WHERE `{column}` = CAST(:day AS DATE)", {"rows": rows}, {"day": day})
