"""What happened to one key of a table with history, read from the lake; and the table as it was at a sequence.

What belongs here: reading log and table for a key. What does not: wording (`effects.py`), drawing (`timeline.py`),
deciding what became of an event (`tables/history_events.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import SettingsError
from lakehouse_assets.serve.arguments import key_of, moment_of
from lakehouse_assets.serve.effects import (
    Explained,
    Fact,
    explained,
    fact_of,
    intervals_of,
    timeline_of,
    with_truncates,
)
from lakehouse_assets.serve.timeline import Interval, Timeline, order, values_text

if TYPE_CHECKING:
    from lakehouse_assets.engines.base import Handle, Relation
    from lakehouse_assets.sql.scd import Shape
    from lakehouse_assets.tables.base import Work

SHOWN_KEYS = 5
"""How many of the keys that are there are named where one is not."""


@dataclass(frozen=True)
class Kept:
    """A table with history that is in the lake: its declaration, its log, and itself."""

    entity: Entity
    shape: Shape
    log: Handle
    target: Handle

    @property
    def keys(self) -> pa.Schema:
        """The key columns."""
        return pa.schema([self.log.schema.field(name) for name in self.shape.keys])


def kept(work: Work, table: TableName) -> Kept:
    """A table with history, checked against what the catalog says of it.

    Raises:
        SettingsError: the table is of another kind.
        LakeError: it was not made yet.
        SchemaDrift: it was made by another declaration.
    """
    from lakehouse_assets.tables.base import upstream
    from lakehouse_assets.tables.history_shape import check_drift, declared, shape_of

    entity = history_entity(work, table)
    target, log = upstream(work, table), upstream(work, table.changes)
    shape = shape_of(entity, log.schema)
    check_drift(entity, declared(shape, log.schema), target.properties)
    return Kept(entity, shape, log, target)


def history_entity(work: Work, table: TableName) -> Entity:
    """The (first) entity of a table with history.

    Raises:
        SettingsError: the table is of another kind; those with history are named.
    """
    feeds = work.catalog.destinations.get(table, ())
    if feeds and feeds[0].kind == "history":
        return feeds[0]
    tables = [str(name) for name, entities in work.catalog.destinations.items() if entities[0].kind == "history"]
    raise SettingsError(
        f"{table} keeps no history: " + (f"it is a {feeds[0].kind} table" if feeds else "no entity makes it"),
        value=str(table),
        choices=tables,
        fix="name one of these" if tables else "a table with apply_changes has one; this catalog declares none",
    )


def history_of(work: Work, table: TableName, key: Mapping[str, object] | str) -> Timeline:
    """The rows of a key and the events that do not show.

    Args:
        key: column to value, or a text as the command line takes it.

    Raises:
        SettingsError: the key is not legible, or no event has it.
    """
    values, facts, intervals = _of_key(work, kept(work, table), key)
    return timeline_of(values, intervals, facts)


def explain(work: Work, table: TableName, key: Mapping[str, object] | str) -> list[Explained]:
    """What each event of a key did, or why it does not show, in the order of sequences.

    Raises:
        SettingsError: the key is not legible, or no event has it.
    """
    _, facts, intervals = _of_key(work, kept(work, table), key)
    return explained(facts, intervals)


def _of_key(
    work: Work, of: Kept, key: Mapping[str, object] | str
) -> tuple[dict[str, object], list[Fact], tuple[Interval, ...]]:
    from lakehouse_assets.tables.history_events import fates

    values = key_of(key, of.keys) if isinstance(key, str) else dict(key)
    facts = [fact_of(row, of.shape) for row in work.engine.rows(fates(work, of.entity, values))]
    rows = work.engine.rows(_rows_of(work, of, values))
    if not facts and not rows:
        raise _unknown(work, of, values)
    intervals = intervals_of(rows, of.shape, facts)
    return values, with_truncates(facts, _truncates(work, of), intervals), intervals


def _truncates(work: Work, of: Kept) -> list[Fact]:
    """The truncates of a table that count, in the order of their sequences."""
    from lakehouse_assets.tables.history_events import EFFECTIVE, History

    history = History(work, of.entity, of.log)
    if not history.truncates:
        return []
    rows = work.engine.rows(history.live(history.facts, f"{EFFECTIVE} AND _operation = 'truncate'"))
    told = {"_fate": "applied", "_why": None, "_effect": None, "_opens": None}
    return sorted((fact_of(row | told, of.shape) for row in rows), key=lambda fact: order(fact.sequence))


def _rows_of(work: Work, of: Kept, values: Mapping[str, object]) -> Relation:
    wanted = pa.Table.from_pylist([dict(values)], schema=of.keys)
    on = " AND ".join(f"t.`{name}` <=> wanted.`{name}`" for name in of.shape.keys)
    relations = {"stored": work.engine.read(of.target), "wanted": work.engine.from_arrow(wanted)}
    return work.engine.query(f"SELECT t.* FROM stored AS t LEFT SEMI JOIN wanted ON {on}", relations)


def _unknown(work: Work, of: Kept, values: Mapping[str, object]) -> SettingsError:
    names = ", ".join(f"`{name}`" for name in of.shape.keys)
    known = " AND ".join(f"`{name}` IS NOT NULL" for name in of.shape.keys)
    some = work.engine.query(
        f"SELECT DISTINCT {names} FROM log WHERE {known} ORDER BY {names} LIMIT {SHOWN_KEYS}",
        {"log": work.engine.read(of.log)},
    )
    examples = "; ".join(values_text(row) for row in work.engine.rows(some))
    return SettingsError(
        f"no event of {of.entity.table} has the key {values_text(values)}",
        fix=f"give a key that is there, such as {examples}" if examples else "the log holds no event yet",
    )


def sequence_parts(of: Kept, text: str) -> list[object]:
    """The parts of a sequence of a table, typed, from text.

    Args:
        text: a number, a text, an ISO date or time (without a zone: UTC); of several columns a JSON object, or the
            values with commas between.

    Raises:
        SettingsError: the text is no such sequence.
    """
    from lakehouse_assets.tables.history_shape import sequence_type

    return moment_of(text, sequence_type(of.shape, of.log.schema), f"a sequence of {of.entity.table}")


def as_of(work: Work, table: TableName, moment: str) -> Relation:
    """The rows of a table of type 2 as they were at a sequence, by key.

    Args:
        moment: a sequence as text, see `sequence_parts`.

    Raises:
        SettingsError: the table is of type 1, or the text is no such sequence.
    """
    from lakehouse_assets.sql.scd import not_before, unpacked

    of = kept(work, table)
    if of.shape.scd != 2:
        raise SettingsError(
            f"{table} keeps the newest row of each key only (stored_as_scd_type: 1), so it has no past",
            fix=f'ask its log: lakehouse sql "SELECT * FROM {table.changes}"; or declare stored_as_scd_type: 2',
        )
    fields = [of.log.schema.field(name) for name in of.shape.sequence]
    values = sequence_parts(of, moment)
    parts = {f"at_{n}": pa.array([value], f.type) for n, (value, f) in enumerate(zip(values, fields, strict=True))}
    asked = pa.table(parts)
    at = [f"asked.`{name}`" for name in asked.column_names]
    begun = not_before(at, unpacked(of.shape, of.shape.start, "t."))
    ends = not_before(unpacked(of.shape, of.shape.end, "t."), at, strictly=True)
    names = ", ".join(f"t.`{name}`" for name in of.shape.keys)
    sql = f"SELECT t.* FROM stored AS t CROSS JOIN asked WHERE {begun} AND (t.`{of.shape.end}` IS NULL OR {ends})"
    stored = {"stored": work.engine.read(of.target), "asked": work.engine.from_arrow(asked)}
    return work.engine.query(f"{sql} ORDER BY {names}", stored)
