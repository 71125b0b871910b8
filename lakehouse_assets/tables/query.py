"""Query tables: the result of a SQL file over pinned upstream versions, refreshed whole, by key or by partition.

A refresh by key recomputes the query over the upstream rows of the touched keys only; the catalog has proven that
this gives the same rows as the whole query. Deletes and inserts are one commit.
What does not belong here: the proof (`lakehouse_assets/sql/refresh.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lakehouse_assets.engines.base import OPERATION, Changes, Engine, Handle, Relation
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import ExpectationFailed
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.sql.parse import parse_query, tables
from lakehouse_assets.tables import view
from lakehouse_assets.tables.base import Draft, Feed, Idle, Mode, Outcome, Work, target_of, upstream, with_comments
from lakehouse_assets.tables.conformed import check_incarnation
from lakehouse_assets.tables.rows import together

FEW_KEYS = 8
"""Keys of which the rows are compared, to tell whether most of a table differs."""
MANY_ROWS = 50_000
"""Rows of the touched keys from which that is worth asking."""


def draft(work: Work, feed: Feed) -> Draft | Idle:
    """What the next batch would read: the newest versions of the upstream tables, and the keys touched since."""
    entity = feed.entity
    handles = {name: upstream(work, name) for name in view.stored(work, entity.table)}
    end = {str(name): handle.version for name, handle in handles.items()}
    incarnation = ",".join(handle.id for handle in handles.values())
    today = work.clock().date().isoformat()
    recipe = _recipe(work, entity, today)
    if feed.last is None or feed.rebuild:
        return Draft("replace", {}, end, incarnation, recipe)
    if Plan.hash_of(recipe) != feed.last.recipe_hash or set(feed.last.end) != set(end):
        return Draft("replace", {}, end, incarnation, recipe)
    check_incarnation(entity, feed.last.incarnation, incarnation)
    moved = [_changes(work, name, int(feed.last.end[str(name)])).kind for name in handles]
    if all(kind == "none" for kind in moved):
        return Idle()
    mode: Mode = "replace" if "rewritten" in moved or not recipe["key"] else _by(entity)
    return Draft(mode, dict(feed.last.end), end, incarnation, recipe)


def _recipe(work: Work, entity: Entity, today: str) -> dict[str, Any]:
    """The query in full, what it is refreshed by, and the day if the query uses it: a new day refreshes all of it."""
    sql = view.expanded(work, entity.table)
    proven = not view.reads_views(work, entity.table) and work.catalog.refresh_fault(entity) is None
    merged = entity.primary_keys or _by(entity) == "partitions"  # rows without keys cannot be put in their places
    key = list(entity.lakehouse.refresh_key) if proven and merged else []
    return {"sql": sql, "key": key, "keys": list(entity.primary_keys), **({"day": today} if ":run_date" in sql else {})}


def _by(entity: Entity) -> Mode:
    return "partitions" if list(entity.partition_cols) == list(entity.lakehouse.refresh_key) else "keys"


def _changes(work: Work, name: TableName, start: int, end: int | None = None) -> Changes:
    return work.engine.changes(upstream(work, name, end), start)


def write(work: Work, feed: Feed, plan: Plan) -> Outcome:
    """Make the batch over the upstream versions that the plan pins."""
    entity, engine = feed.entity, work.engine
    pinned = {TableName(*name.split(".")): int(version) for name, version in plan.end.items()}
    handles = {name: upstream(work, name, pinned[name]) for name in sorted(pinned)}
    check_incarnation(entity, plan.incarnation, ",".join(handle.id for handle in handles.values()))
    inputs = {str(name): engine.read(handle) for name, handle in handles.items()}
    if plan.mode == "replace":
        with engine.held(_result(work, plan, inputs)) as held:
            target = target_of(work, entity, plan, engine.schema(held), change_feed=True)
            return _replace(work, entity, plan, target, held)
    key = plan.recipe["key"]
    with engine.held(_touched(work, plan, handles, key)) as touched:
        near = {name: engine.query(_of_keys(key), {"rows": rows, "touched": touched}) for name, rows in inputs.items()}
        with engine.held(_result(work, plan, near)) as held:
            target = target_of(work, entity, plan, engine.schema(held), change_feed=True)
            if plan.mode == "partitions":
                return _replace(work, entity, plan, target, held, engine.rows(touched))
            return _merge(work, entity, plan, target, held, touched)


def _result(work: Work, plan: Plan, inputs: Mapping[str, Relation]) -> Relation:
    sql = plan.recipe["sql"]
    written = {
        name: inputs[str(work.catalog.resolve(name))] for name in tables(parse_query(sql, plan.feed.destination))
    }
    return work.engine.query(sql, written, {"run_date": plan.run_date})


def _touched(work: Work, plan: Plan, handles: Mapping[TableName, Handle], key: Sequence[str]) -> Relation:
    """The distinct values of the refresh key in everything that moved, from both images."""
    moved: dict[str, Relation] = {}
    for index, (name, handle) in enumerate(handles.items()):
        changes = work.engine.changes(handle, int(plan.start[str(name)]))
        if changes.relation is not None:
            moved[f"moved_{index}"] = changes.relation
    columns = ", ".join(f"`{name}`" for name in key)
    return work.engine.query(" UNION ".join(f"SELECT DISTINCT {columns} FROM {name}" for name in moved), moved)


def _of_keys(key: Sequence[str]) -> str:
    on = " AND ".join(f"rows.`{name}` <=> touched.`{name}`" for name in key)
    return f"SELECT rows.* FROM rows LEFT SEMI JOIN touched ON {on}"


def _replace(
    work: Work,
    entity: Entity,
    plan: Plan,
    target: Handle,
    rows: Relation,
    partitions: Sequence[Mapping[str, Any]] | None = None,
) -> Outcome:
    check_keys(work, entity, rows)
    count = _count(work, rows)
    if partitions is None:
        columns = with_comments(work.engine.schema(rows), entity.lakehouse.columns)
        commit = work.engine.rebuild(target, rows, columns, plan.as_number)
    else:
        commit = work.engine.replace(target, rows, plan.as_number, partitions)
    return Outcome(plan, {entity.table: commit}, count, count)


def _merge(work: Work, entity: Entity, plan: Plan, target: Handle, rows: Relation, touched: Relation) -> Outcome:
    """Only rows that differ are written: the new and changed ones, and deletes for those that vanished.

    Where most of the table differs, writing it anew costs less than a merge and leaves the same rows.
    """
    check_keys(work, entity, rows)
    engine, key, keys = work.engine, plan.recipe["key"], plan.recipe["keys"]
    count, old = _count(work, rows), engine.read(target)
    if count >= MANY_ROWS and _mostly_new(work, plan, old, rows, touched):
        on = " AND ".join(f"rows.`{name}` <=> touched.`{name}`" for name in key)
        others = engine.query(
            f"SELECT rows.* FROM rows LEFT ANTI JOIN touched ON {on}", {"rows": old, "touched": touched}
        )
        commit = engine.replace(target, together(engine, rows, others), plan.as_number)
    else:
        old = engine.query(_of_keys(key), {"rows": old, "touched": touched})
        with engine.held(_difference(engine, old, rows, keys)) as held:
            commit = engine.merge(target, held, keys, plan.as_number)
    return Outcome(plan, {entity.table: commit}, count, count)


def _mostly_new(work: Work, plan: Plan, old: Relation, rows: Relation, touched: Relation) -> bool:
    """Whether most rows of the table are of touched keys, and differ from what they become, as a few keys tell."""
    engine, key = work.engine, plan.recipe["key"]
    with engine.held(engine.query(f"SELECT * FROM touched LIMIT {FEW_KEYS}", {"touched": touched})) as few:
        was, is_now = (engine.query(_of_keys(key), {"rows": some, "touched": few}) for some in (old, rows))
        with engine.held(was) as was, engine.held(is_now) as is_now:
            looked = max(_count(work, was), _count(work, is_now))
            if 2 * _count(work, _difference(engine, was, is_now, plan.recipe["keys"])) < looked:
                return False
    return 2 * _count(work, engine.query(_of_keys(key), {"rows": old, "touched": touched})) >= _count(work, old)


def _difference(engine: Engine, old: Relation, new: Relation, keys: Sequence[str]) -> Relation:
    """What makes `new` of `old`: rows to write, and rows to delete."""
    columns = engine.schema(new).names
    same = " AND ".join(f"n.`{name}` <=> o.`{name}`" for name in columns)
    gone = " AND ".join(f"n.`{name}` <=> o.`{name}`" for name in keys)
    chosen = ", ".join(f"`{name}`" for name in columns)
    return engine.query(
        f"SELECT {chosen}, 'u' AS {OPERATION} FROM new_rows AS n LEFT ANTI JOIN old_rows AS o ON {same} "
        f"UNION ALL SELECT {chosen}, 'd' AS {OPERATION} FROM old_rows AS o LEFT ANTI JOIN new_rows AS n ON {gone}",
        {"new_rows": new, "old_rows": old},
    )


def check_keys(work: Work, entity: Entity, rows: Relation) -> None:
    """Raise `ExpectationFailed` unless the primary keys are unique: a merge could not tell the rows apart."""
    if not entity.primary_keys:
        return
    columns = ", ".join(f"`{name}`" for name in entity.primary_keys)
    sql = f"SELECT {columns}, count(*) AS rows FROM result GROUP BY {columns} HAVING count(*) > 1"
    double = work.engine.rows(work.engine.query(sql, {"result": rows}), 3)
    if double:
        raise ExpectationFailed(
            f"{entity.table}: the query gives several rows for one primary key ({', '.join(entity.primary_keys)}), "
            f"e.g. {double[0]}",
            fix="group by the primary keys, or declare the columns that tell the rows apart",
        )


def _count(work: Work, rows: Relation) -> int:
    return int(work.engine.rows(work.engine.query("SELECT count(*) AS n FROM result", {"result": rows}))[0]["n"])
