"""Events of a log put into another order: the sequence is made again out of the columns that they have.

A log only ever grows, except here: when the type of `sequence_by` changed and its table is made again. What every event
said stays; only the columns of the sequence are others.
What does not belong here: everything else about a log (`history_log.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from lakehouse_assets.engines.base import Relation
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import SchemaDrift
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.values import Number
from lakehouse_assets.sql.expand import quoted, text_literal
from lakehouse_assets.tables.base import Work
from lakehouse_assets.tables.history_shape import Order, check_sequence, is_sequence, sequence_of


def reorder(work: Work, feeds: Sequence[Entity]) -> None:
    """Order the events in the log by what the entities say now, if that has another type.

    Raises:
        SchemaDrift: an event that had a sequence would have none.
        SqlError: the sequence needs a column that the events do not have.
    """
    table, engine = feeds[0].table, work.engine
    log = engine.find(work.uri(table.changes))
    if log is None:
        return
    orders = {feed.feed: sequence_of(feed.apply_changes.sequence_by) for feed in feeds if feed.apply_changes}
    columns = next(iter(orders.values())).columns
    rows = engine.read(log)
    old = [field for field in log.schema if is_sequence(field.name)]
    new = engine.schema(engine.query(f"SELECT {', '.join(_made(orders))} FROM log", {"log": rows}))
    if [f.name for f in old] == list(columns) and all(a.type == b.type for a, b in zip(old, new, strict=True)):
        return
    check_sequence(table, list(new))
    _check_kept(work, feeds[0], rows, [field.name for field in old], orders)
    app_id = FeedName(str(table), "~order").app_id
    ordered, schema = _ordered(work, rows, log.schema, orders, new)
    engine.rebuild(log, ordered, schema, Number(app_id, log.number(app_id) + 1))


def _made(orders: dict[str, Order]) -> list[str]:
    """The parts of the sequence, each made as the feed of the event says; corrections go by the first feed."""
    first, *others = orders.items()
    items = []
    for index, column in enumerate(first[1].columns):
        sql = first[1].expressions[index]
        for name, order in others:
            sql = f"CASE WHEN _feed = {text_literal(name)} THEN {order.expressions[index]} ELSE {sql} END"
        items.append(f"{sql} AS {quoted(column)}")
    return items


def _check_kept(work: Work, entity: Entity, rows: Relation, old: Sequence[str], orders: dict[str, Order]) -> None:
    kept = ", ".join(f"{quoted(name)} AS {quoted(f'__old_{i}')}" for i, name in enumerate(old))
    had = " OR ".join(f"{quoted(f'__old_{i}')} IS NOT NULL" for i in range(len(old)))
    columns = next(iter(orders.values())).columns
    has = " OR ".join(f"{quoted(name)} IS NOT NULL" for name in columns)
    sql = f"SELECT count(*) AS n FROM (SELECT {kept}, {', '.join(_made(orders))} FROM log) AS made "
    lost = work.engine.rows(work.engine.query(f"{sql}WHERE ({had}) AND NOT ({has})", {"log": rows}))[0]["n"]
    if lost:
        raise SchemaDrift(
            f"{entity.table}: {lost} events in its log would have no sequence any more",
            value=entity.apply_changes.sequence_by if entity.apply_changes else None,
            fix="choose a sequence_by that all events have, or feed a new table",
        )


def _ordered(
    work: Work, rows: Relation, log: pa.Schema, orders: dict[str, Order], new: pa.Schema
) -> tuple[Relation, pa.Schema]:
    """The facts with the new sequence, and what that says about their verdicts."""
    items, fields, made = [], [], False
    some = " OR ".join(f"({item.rpartition(' AS ')[0]}) IS NOT NULL" for item in _made(orders))
    for field in log:
        if is_sequence(field.name):
            if not made:
                items += _made(orders)
                fields += list(new)
            made = True
            continue
        fields.append(field)
        if field.name == "_reasons":
            others = "filter(_reasons, reason -> reason <> 'null_sequence')"
            missing = f"NOT ({some}) AND _fact IN ('event', 'correction') AND size({others}) = 0"
            items.append(f"CASE WHEN {missing} THEN array('null_sequence') ELSE {others} END AS _reasons")
        else:
            items.append(quoted(field.name))
    schema = pa.schema([pa.field(f.name, f.type) for f in fields])
    return work.engine.query(f"SELECT {', '.join(items)} FROM log", {"log": rows}), schema
