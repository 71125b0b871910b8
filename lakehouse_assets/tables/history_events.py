"""From facts of a log to events: which of them count, what they amount to, and what became of each.

A fact counts unless its own verdicts speak against it, or a later fact does: it was corrected, or retracted and not
restored. What belongs here: that, and the events that the one text (`sql/scd.py`) takes. What does not: which keys are
looked at, what is written (`history_derive.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from lakehouse_assets.engines.base import Engine, Handle, Relation
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.sql import scd
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.sql.scd import DELETE, EVENT, Shape, listed, unpacked
from lakehouse_assets.sql.types import spark_type
from lakehouse_assets.tables.base import Work, upstream
from lakehouse_assets.tables.history_shape import shape_of

EFFECTIVE = "_fact IN ('event', 'correction') AND NOT _filtered AND size(_reasons) = 0"
"""Facts that shape the target, as far as they themselves say."""
REVISING = "_fact IN ('corrected', 'retracted', 'restored')"
"""Facts that speak about another one (`_refers`), under its key and sequence."""
TOUCHING = f"(({EFFECTIVE}) OR {REVISING})"
ROWWISE = "_operation <> 'truncate'"


class History:
    """The log of one table at a version, and the questions that it answers.

    Attributes:
        shape: what the target is made of.
        columns: those of the log.
        facts: the rows of the log.
        truncates: whether a feed of the table can empty it.
    """

    def __init__(self, work: Work, entity: Entity, log: Handle) -> None:
        self.engine: Engine = work.engine
        self.shape: Shape = shape_of(entity, log.schema)
        self.columns: pa.Schema = log.schema
        self.facts = work.engine.read(log)
        feeds = work.catalog.destinations.get(entity.table, (entity,))
        self.truncates = any(feed.apply_changes and feed.apply_changes.apply_as_truncates for feed in feeds)

    def ask(self, sql: str, **relations: Relation) -> Relation:
        """The answer to a question."""
        return self.engine.query(sql, relations)

    def count(self, source: str, **relations: Relation) -> int:
        """How many rows there are in `source`: what may stand after FROM."""
        return int(self.engine.rows(self.ask(f"SELECT count(*) AS n FROM {source}", **relations))[0]["n"])

    def kind(self, column: str) -> str:
        """The type of a column of the log; others hold text."""
        return spark_type(self.columns.field(column).type) if column in self.columns.names else "STRING"

    # facts that count

    @cached_property
    def is_revised(self) -> bool:
        """Whether any fact speaks about another one."""
        return self.count(f"log WHERE {REVISING}", log=self.facts) > 0

    def live(self, facts: Relation, condition: str) -> Relation:
        """Those of some facts for which a condition holds, and of which no later fact says otherwise."""
        alive = f"SELECT * FROM facts WHERE {condition}"
        if not self.is_revised:
            return self.ask(alive, facts=facts)
        gone = f"SELECT {EVENT} FROM ({revised('log')}) AS revised WHERE __fate IS NOT NULL"
        sql = f"SELECT f.* FROM ({alive}) AS f LEFT ANTI JOIN ({gone}) AS d ON f.{EVENT} = d.{EVENT}"
        return self.ask(sql, facts=facts, log=self.facts)

    # events

    def events(self, facts: Relation, keys: Relation | None = None) -> Relation:
        """The live events among facts; a truncate deletes every key that is there (`keys`, or those of the facts)."""
        live = self.live(facts, f"{EFFECTIVE} AND {ROWWISE}")
        sql, relations = f"SELECT {self.as_event('f')} FROM live AS f", {"live": live}
        columns = [*self.shape.keys, *self.shape.sequence, DELETE, *self.shape.values, EVENT]
        return self._with_truncates(sql, relations, columns, live if keys is None else keys)

    def with_truncates(self, events: Relation, columns: Sequence[str]) -> Relation:
        """Events with these columns, and a delete of each of their keys at each truncate."""
        return self._with_truncates(f"SELECT {listed(columns)} FROM own", {"own": events}, columns, events)

    def _with_truncates(
        self, sql: str, relations: dict[str, Relation], columns: Sequence[str], keys: Relation
    ) -> Relation:
        """The rows of a query, and a delete of each key at the sequence of each truncate, with these columns."""
        if not self.truncates:
            return self.engine.query(sql, relations)
        shape = self.shape
        known = {**{name: f"k.{quoted(name)}" for name in shape.keys}, DELETE: "true", EVENT: f"t.{EVENT}"}
        known |= {name: f"t.{quoted(name)}" for name in (*shape.sequence, "_operation")}
        items = (
            f"{known[name] if name in known else f'CAST(NULL AS {self.kind(name)})'} AS {quoted(name)}"
            for name in columns
        )
        sql += (
            f" UNION ALL SELECT {', '.join(items)} FROM (SELECT DISTINCT {listed(shape.keys)} FROM known) AS k "
            "CROSS JOIN truncates AS t"
        )
        truncates = self.live(self.facts, f"{EFFECTIVE} AND NOT ({ROWWISE})")
        return self.engine.query(sql, relations | {"truncates": truncates, "known": keys})

    def as_event(self, alias: str) -> str:
        """A fact as an event; what a delete says besides its key counts for nothing."""
        shape, delete = self.shape, f"{alias}._operation <> 'upsert'"
        values = [
            f"CASE WHEN {delete} THEN NULL ELSE {alias}.{quoted(name)} END AS {quoted(name)}" for name in shape.values
        ]
        head = listed((*shape.keys, *shape.sequence), f"{alias}.")
        return ", ".join([head, f"{delete} AS {DELETE}", *values, f"{alias}.{EVENT}"])

    def as_base(self, alias: str) -> str:
        """A row of the target as the event that stands for all before it."""
        shape = self.shape
        nulls = [f"CAST(NULL AS {self.kind(name)})" for name in shape.sequence]
        parts = unpacked(shape, shape.start, f"{alias}.") if shape.scd == 2 else nulls
        sequence = [f"{sql} AS {quoted(name)}" for sql, name in zip(parts, shape.sequence, strict=True)]
        delete = f"{alias}.{quoted(shape.soft)}" if shape.soft else "false"
        values = [f"{alias}.{quoted(name)}" for name in shape.values]
        keys = [f"{alias}.{quoted(name)}" for name in shape.keys]
        return ", ".join([*keys, *sequence, f"{delete} AS {DELETE}", *values, f"CAST(NULL AS STRING) AS {EVENT}"])

    def is_tied(self, events: Relation) -> bool:
        """Whether two events of a key share a sequence."""
        return bool(self.engine.rows(self.ask(scd.ties(self.shape), events=events), 1))

    def rows(self, events: Relation) -> Relation:
        """The rows of the target that events make."""
        return self.ask(scd.target(self.shape, tied=self.is_tied(events)), events=events)

    # facts that do not

    def judged(self, facts: Relation) -> Relation:
        """The live upserts and deletes among facts with all columns of the log."""
        live = self.live(facts, f"{EFFECTIVE} AND {ROWWISE}")
        values = [
            f"CASE WHEN _operation <> 'upsert' THEN NULL ELSE {quoted(name)} END AS {quoted(name)}"
            for name in self.shape.values
        ]
        rest = [name for name in self.columns.names if name not in self.shape.values]
        sql = f"SELECT {listed(rest)}, {', '.join([*values, ''])}_operation <> 'upsert' AS {DELETE} FROM live"
        return self._with_truncates(sql, {"live": live}, [*rest, *self.shape.values, DELETE], live)

    def broken(self, facts: Relation) -> Relation:
        """The facts that belong into quarantine, with `_reasons`: by their own verdicts, or contradicting others."""
        columns = listed(name for name in self.columns.names if name != "_reasons")
        own = "_fact IN ('event', 'correction') AND NOT _filtered AND size(_reasons) > 0"
        sql, relations = f"SELECT {columns}, _reasons FROM own", {"own": self.live(facts, own)}
        events = self.judged(facts)
        if self.is_tied(events):
            relations["contradicting"] = self.ask(scd.ambiguous(self.shape), events=events)
            sql += f" UNION ALL SELECT {columns}, array('ambiguous_sequence') AS _reasons FROM contradicting"
        return self.engine.query(sql, relations)


def revised(log: str) -> str:
    """The SQL that gives each event of which another fact of `log` speaks, with `__fate` and `__why`.

    `__fate` is NULL where the event counts again.
    """
    latest = (
        "SELECT _refers, _fact, row_number() OVER (PARTITION BY _refers ORDER BY _batch DESC) AS __n "
        f"FROM {log} WHERE _fact IN ('retracted', 'restored')"
    )
    fate = "WHEN r._fact = 'retracted' THEN 'retracted' WHEN c._refers IS NOT NULL THEN"
    return (
        f"SELECT coalesce(c._refers, r._refers) AS {EVENT}, CASE {fate} 'superseded' END AS __fate, "
        f"CASE {fate} 'corrected' END AS __why "
        f"FROM (SELECT DISTINCT _refers FROM {log} WHERE _fact = 'corrected') AS c FULL OUTER JOIN "
        f"(SELECT _refers, _fact FROM ({latest}) AS latest WHERE __n = 1) AS r ON c._refers = r._refers"
    )


def fates(work: Work, entity: Entity, key: Mapping[str, Any] | None = None) -> Relation:
    """What became of every event and correction in the log (of one key): its columns, `_fate`, `_why`, `_effect`.

    `_fate` is `applied`, `superseded`, `quarantined`, `filtered` or `retracted`; `_effect` is `opened`, `extended`,
    `closed` or `none`; `_opens` (type 2) is the start of the visible row that an event is part of.

    Args:
        key: key column -> value, as Python holds it.
    """
    log, target = upstream(work, entity.table.changes), upstream(work, entity.table)
    history = History(work, entity, log)
    told = _told(history, key)
    kept = listed(history.columns.names)
    columns = [*history.columns.names, DELETE, "__fate", "__why"]
    own = history.ask(f"SELECT {listed(columns)} FROM told", told=told)
    events = history.with_truncates(own, columns)
    judged = history.ask(scd.fates(history.shape), events=events)
    judged = history.ask(f"SELECT * FROM judged WHERE {ROWWISE}", judged=judged)
    both = history.ask(
        f"SELECT {kept}, _fate, _why FROM judged UNION ALL SELECT {kept}, __fate AS _fate, __why AS _why FROM told "
        "WHERE __fate IS NOT NULL",
        judged=judged, told=told,
    )  # fmt: skip
    return _with_effects(history, both, work.engine.read(target))


def _told(history: History, key: Mapping[str, Any] | None) -> Relation:
    """The facts of a key with `__fate` and `__why`, where these need no comparison with others."""
    chosen = f"{ROWWISE} AND _fact IN ('event', 'correction')"
    params: dict[str, object] = {}
    for index, (name, value) in enumerate((key or {}).items()):
        if value is None:
            chosen += f" AND {quoted(name)} IS NULL"
            continue
        chosen += f" AND {quoted(name)} = :key_{index}"
        params[f"key_{index}"] = value
    sql = (
        "SELECT f.*, CASE WHEN r.__fate IS NOT NULL THEN r.__fate WHEN f._filtered THEN 'filtered' WHEN "
        "size(f._reasons) > 0 THEN 'quarantined' END AS __fate, CASE WHEN r.__fate IS NOT NULL THEN r.__why WHEN "
        "f._filtered OR size(f._reasons) > 0 THEN array_join(f._reasons, ', ') END AS __why "
        f"FROM (SELECT *, _operation <> 'upsert' AS {DELETE} FROM log WHERE {chosen}) AS f "
        f"LEFT JOIN ({revised('log')}) AS r ON f.{EVENT} = r.{EVENT}"
    )
    return history.engine.query(sql, {"log": history.facts}, params)


def _with_effects(history: History, events: Relation, target: Relation) -> Relation:
    shape = history.shape
    on = scd.same_keys(shape, "f", "t")
    if shape.scd == 1:
        effect = (
            "CASE WHEN f._fate <> 'applied' THEN 'none' WHEN f._operation = 'upsert' THEN 'opened' ELSE 'closed' END"
        )
        return history.ask(f"SELECT f.*, {effect} AS _effect FROM events AS f", events=events)
    at = [f"f.{quoted(name)}" for name in shape.sequence]
    start, end = unpacked(shape, shape.start, "t."), unpacked(shape, shape.end, "t.")
    ended = f"t.{quoted(shape.end)} IS NULL OR NOT {scd.not_before(at, end)}"
    holds = f"{on} AND f._fate = 'applied' AND {scd.not_before(at, start)} AND ({ended})"
    same = " AND ".join(f"{a} <=> {b}" for a, b in zip(at, end, strict=True))
    closes = f"{scd.same_keys(shape, 'f', 'c')} AND f._fate = 'applied' AND " + same.replace("t.", "c.")
    first = " AND ".join(f"{a} <=> {b}" for a, b in zip(at, start, strict=True))
    effect = (
        "CASE WHEN f._fate <> 'applied' THEN 'none' WHEN f._operation <> 'upsert' AND "
        f"c.{quoted(shape.keys[0])} IS NOT NULL THEN 'closed' WHEN f._operation <> 'upsert' THEN 'none' "
        f"WHEN {first} THEN 'opened' ELSE 'extended' END"
    )
    return history.ask(
        f"SELECT f.*, {effect} AS _effect, t.{quoted(shape.start)} AS _opens FROM events AS f "
        f"LEFT JOIN target AS t ON {holds} LEFT JOIN target AS c ON {closes}",
        events=events, target=target,
    )  # fmt: skip
