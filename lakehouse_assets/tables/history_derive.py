"""From the log of a table to its quarantine and its target: pure functions of the log, for the keys that changed.

The number in the target says which version of the log it shows. A key is late if the log already knew an event of it
that is not older than the new ones: then its events are read again, from the row on that the oldest new one falls
into. Otherwise its open row stands for everything before. Both go through the same text (`sql/scd.py`).

What belongs here: which keys are looked at, what differs, the commits. What does not: which facts count
(`history_events.py`), making facts (`history_log.py`).
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa

from lakehouse_assets.engines.base import OPERATION, Handle, Relation
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import ConcurrentWriter, ForeignCommit
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.values import Commit, Number, Within
from lakehouse_assets.sql.expand import quoted, text_literal
from lakehouse_assets.sql.scd import listed, not_before, same_keys, unpacked
from lakehouse_assets.tables import history_quarantine
from lakehouse_assets.tables.base import Work, check_ours, ensure, new_fields, with_comments
from lakehouse_assets.tables.history_events import EFFECTIVE, ROWWISE, TOUCHING, History
from lakehouse_assets.tables.history_shape import check_drift, declared, shape_of, target_schema
from lakehouse_assets.tables.rows import padded

REVISIONS = 1 << 16
"""Rebuilds of one version of a log that can be told apart."""
_EXACT = (pa.types.is_integer, pa.types.is_date, pa.types.is_timestamp, pa.types.is_string)
"""Types of a sequence whose bounds can be given to an engine as they are."""


@dataclass(frozen=True)
class Late:
    """What events that came late did to rows that were closed already.

    Attributes:
        keys: keys that were read again.
        split: closed rows that were split, moved or taken back.
        since: the start of the oldest of them, as text.
    """

    keys: int = 0
    split: int = 0
    since: str | None = None


@dataclass(frozen=True)
class Derived:
    """What following the log did: the version that is shown now, the commits, and how late events were."""

    version: int
    commits: dict[TableName, Commit] = field(default_factory=dict)
    late: Late = Late()
    touched: int = 0


def shown(handle: Handle | None, table: TableName) -> int:
    """The version of the log that a target or quarantine shows; -1 if it shows none."""
    return (handle.number(app_of(table)) // REVISIONS) - 1 if handle is not None else -1


def app_of(table: TableName) -> str:
    """The id under which target and quarantine carry the version of the log."""
    return FeedName(str(table), "~derived").app_id


def behind(work: Work, entity: Entity) -> bool:
    """Whether the log has facts that the target does not show."""
    log = work.engine.find(work.uri(entity.table.changes))
    target = work.engine.find(work.uri(entity.table))
    if log is None:
        return False
    since = shown(target, entity.table)
    return log.version > since and (since < 0 or work.engine.changes(log, since).kind != "none")


def derive(work: Work, entity: Entity, *, again: bool = False) -> Derived | None:
    """Bring quarantine and target up to the log; `None` if they are, or there is no log.

    Args:
        again: make both anew from the whole log, whatever they show and whatever changed in the declaration.

    Raises:
        SchemaDrift: the declaration makes other rows of the events that are there.
        ForeignCommit: somebody else changed the target.
    """
    log = work.engine.find(work.uri(entity.table.changes))
    if log is None:
        return None
    check_ours(log, entity.table.changes)
    target = work.engine.find(work.uri(entity.table))
    since = shown(target, entity.table)
    if not again and since >= 0 and work.engine.changes(log, since).kind == "none":
        return None
    return _Derivation(work, entity, log, target, since).run(again=again or since < 0)


def check(work: Work, entity: Entity, columns: pa.Schema) -> None:
    """Raise `SchemaDrift` if a log with these columns cannot feed the target that is there."""
    shape = shape_of(entity, columns)
    target = work.engine.find(work.uri(entity.table))
    if target is not None:
        check_ours(target, entity.table)
        check_drift(entity, declared(shape, columns), target.properties)


class _Derivation:
    """One pass from the log to the tables beside it."""

    def __init__(self, work: Work, entity: Entity, log: Handle, target: Handle | None, since: int) -> None:
        self.work, self.engine, self.entity, self.table = work, work.engine, entity, entity.table
        self.log, self.target, self.since = log, target, since
        self.history = History(work, entity, log)
        self.shape = self.history.shape
        self.columns = target_schema(self.shape, log.schema)
        self.properties = declared(self.shape, log.schema)

    def run(self, *, again: bool) -> Derived:
        """Make both tables show the log; `again`: anew, whatever they show."""
        if self.target is not None and not again:
            check_drift(self.entity, self.properties, self.target.properties)
            self._check_foreign(self.target)
        if again:
            return self._whole()
        found = self.engine.changes(self.log, self.since).relation
        if found is None:  # a column of the log grew inside, as that of rows as received does
            return self._whole()
        with self.engine.held(found) as new:
            emptied = f"new WHERE NOT ({ROWWISE}) AND {TOUCHING}"
            if self.history.truncates and self.history.count(emptied, new=new):
                return self._whole()
            return self._touched(new)

    def _check_foreign(self, target: Handle) -> None:
        """Raise `ForeignCommit` if somebody else changed rows since this project last wrote some."""
        if self.work.accept_foreign:
            return
        box = self.engine.find(self.work.uri(self.table.quarantine))
        for handle, name in ((target, self.table), (box, self.table.quarantine)):
            for version in handle.foreign_since_own() if handle is not None else ():
                raise ForeignCommit(
                    f"version {version} of {name} changed rows and was not written by this project",
                    fix=f"make the table again from its log: lakehouse run --full-refresh {self.table}; or keep the "
                    f"change until its keys change again: lakehouse run --accept-foreign {self.table}",
                    version=version,
                )

    def _number(self, target: Handle) -> Number:
        box = self.engine.find(self.work.uri(self.table.quarantine))
        carried = max(handle.number(app_of(self.table)) for handle in (target, box) if handle is not None)
        least = (self.log.version + 1) * REVISIONS
        return Number(app_of(self.table), least if carried < least else carried + 1)

    def _opened(self) -> Handle:
        """The target, made if it is not there; columns that events have gained are added."""
        if self.target is not None and not new_fields(self.target.schema, self.columns):
            return self.target
        ends = (self.shape.start, self.shape.end) if self.shape.scd == 2 else ()
        apart = {"lakehouse.apart": self.shape.end} if self.shape.scd == 2 else {}
        indexed, properties = (*self.shape.keys, *ends), {**self.properties, **apart}
        return ensure(
            self.work, self.entity, self.table, self.columns, change_feed=True, indexed=indexed, properties=properties
        )

    # everything

    def _whole(self) -> Derived:
        """Both tables anew from the whole log."""
        target = self._opened() if self.target is None else self.target
        number = self._number(target)
        commits: dict[TableName, Commit] = {}
        if (kept := history_quarantine.whole(self.work, self.entity, self.history, number)) is not None:
            commits[self.table.quarantine] = kept
        rows = padded(self.engine, self.history.rows(self.history.events(self.history.facts)), self.columns)
        columns = with_comments(self.columns, self.entity.lakehouse.columns)
        commits[self.table] = self.engine.rebuild(target, rows, columns, number)
        self._declare()
        self._tidy()
        return Derived(self.log.version, commits)

    def _declare(self) -> None:
        """The properties that tell how the rows were made; after the rows, so that a kill between is noticed."""
        made = self.engine.find(self.work.uri(self.table))
        if made is not None and any(made.properties.get(name) != value for name, value in self.properties.items()):
            self.engine.set_properties(made, self.properties)

    def _tidy(self) -> None:
        """Keep open rows in files of their own; somebody else who writes meanwhile is not in the way."""
        made = self.engine.find(self.work.uri(self.table))
        if made is not None and self.shape.scd == 2:
            with suppress(ConcurrentWriter):
                self.engine.take_apart(made)

    # the keys that changed

    def _touched(self, new: Relation) -> Derived:
        target = self._opened()
        number = self._number(target)
        history, held, commits = self.history, self.engine.held, dict[TableName, Commit]()
        with ExitStack() as opened:
            touched = opened.enter_context(held(self._first(new)))
            found = opened.enter_context(held(self._late(new, touched, target)))
            count, late_count = history.count("t", t=touched), history.count("t", t=found)
            late = found if late_count else None
            kept = history_quarantine.settle(self.work, self.entity, history, new, late, number)
            commits |= {} if kept is None else {self.table.quarantine: kept}
            old = opened.enter_context(held(self._old(target, touched, late)))
            events = opened.enter_context(held(self._events(new, late, old)))
            change = opened.enter_context(held(self._difference(history.rows(events), old)))
            within, report = self._reach(change, old, late_count)
            commits[self.table] = self.engine.merge(target, change, self.shape.row_keys, number, within)
        self._tidy()
        return Derived(self.log.version, commits, report, count)

    def _first(self, new: Relation) -> Relation:
        """The keys that new facts touch, each with the oldest sequence and whether older facts were revised."""
        keys, parts = listed(self.shape.keys), listed(self.shape.sequence)
        known = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in self.shape.keys)
        ranked = (
            f"SELECT {keys}, {parts}, row_number() OVER (PARTITION BY {keys} ORDER BY {parts}) AS __n, "
            f"max(CASE WHEN _fact = 'event' THEN 0 ELSE 1 END) OVER (PARTITION BY {keys}) AS __revised "
            f"FROM new WHERE {ROWWISE} AND {TOUCHING} AND {known}"
        )
        return self.history.ask(f"SELECT {keys}, {parts}, __revised FROM ({ranked}) AS ranked WHERE __n = 1", new=new)

    def _late(self, new: Relation, touched: Relation, target: Handle) -> Relation:
        """The touched keys of which the log knew a fact already that is not older than the new ones.

        A row that stays although it was deleted is no event that others can follow: its key counts as late.
        """
        shape = self.shape
        batches = self.engine.rows(self.history.ask("SELECT DISTINCT _feed, _batch FROM new", new=new))
        mine = " OR ".join(f"(l._feed = {text_literal(b['_feed'])} AND l._batch = {b['_batch']:d})" for b in batches)
        after = not_before(_qualified("l", shape.sequence), _qualified("t", shape.sequence))
        least, params = self._least(touched, shape.sequence[0], f"l.{quoted(shape.sequence[0])}")
        columns = listed((*shape.keys, *shape.sequence), "t.")
        sql = (
            f"SELECT {columns} FROM touched AS t WHERE t.__revised = 1 UNION SELECT {columns} FROM touched AS t JOIN "
            f"log AS l ON {same_keys(shape, 'l', 't')} AND {after} WHERE NOT ({mine}){least}"
        )
        if self.history.truncates:
            sql += f" UNION SELECT {columns} FROM touched AS t JOIN log AS l ON {after} WHERE NOT (l.{ROWWISE})"
        relations = {"touched": touched, "log": self.history.facts}
        if shape.soft:
            relations["stored"] = self._stored(target, None)
            is_open = f" AND s.{quoted(shape.end)} IS NULL" if shape.scd == 2 else ""
            sql += (
                f" UNION SELECT {columns} FROM touched AS t JOIN stored AS s ON {same_keys(shape, 's', 't')} WHERE "
                f"s.{quoted(shape.soft)}{is_open}"
            )
        return self.engine.query(sql, relations, params)

    def _least(self, rows: Relation, column: str, bounded: str) -> tuple[str, dict[str, object]]:
        """A bound on a column that leaves no row out, by which an engine can skip files; none where it has no text."""
        kind = self.log.schema.field(self.shape.sequence[0]).type
        if len(self.shape.sequence) > 1 or not any(is_exact(kind) for is_exact in _EXACT):
            return "", {}
        least = self.engine.rows(self.history.ask(f"SELECT min({quoted(column)}) AS least FROM t", t=rows))[0]["least"]
        if least is None or (isinstance(least, datetime) and least.tzinfo is None):  # no parameter has that type
            return "", {}
        return f" AND {bounded} >= :least", {"least": least}

    def _old(self, target: Handle, touched: Relation, late: Relation | None) -> Relation:
        """The rows that may change: the open rows of touched keys, and what a late key showed from its event on."""
        shape = self.shape
        columns = listed(self.columns.names, "t.")
        sql = f"SELECT {columns} FROM stored AS t LEFT SEMI JOIN touched AS x ON {same_keys(shape, 't', 'x')}"
        if shape.scd == 1:
            return self.engine.query(sql, {"stored": self._stored(target, None), "touched": touched})
        end = f"t.{quoted(shape.end)}"
        sql += f" WHERE {end} IS NULL"
        if late is None:
            return self.engine.query(sql, {"stored": self._stored(target, Within(shape.end)), "touched": touched})
        after = not_before(unpacked(shape, shape.end, "t."), _qualified("x", shape.sequence))
        least, params = self._least(late, shape.sequence[0], end)
        if shape.inherited or shape.soft:  # then a late key is made again as a whole
            after, least, params = "true", "", {}
        sql += (
            f" UNION ALL SELECT {columns} FROM stored AS t LEFT SEMI JOIN late AS x ON {same_keys(shape, 't', 'x')} "
            f"AND {after} WHERE {end} IS NOT NULL{least}"
        )
        within = Within(shape.end, params["least"]) if params else None  # type: ignore[arg-type]
        relations = {"stored": self._stored(target, within), "touched": touched, "late": late}
        return self.engine.query(sql, relations, params)

    def _stored(self, target: Handle, within: Within | None) -> Relation:
        return padded(self.engine, self.engine.read(target, within), self.columns)

    def _events(self, new: Relation, late: Relation | None, old: Relation) -> Relation:
        """What the text takes: new events after the open rows of their keys, and the whole of late keys."""
        shape, history = self.shape, self.history
        relations = {"new": new, "old": old}
        without = ""
        if late is not None:
            relations |= {"late": late, "again": self._again(late, old)}
            without = f" LEFT ANTI JOIN late AS x ON {same_keys(shape, 'f', 'x')}"
        facts = f"SELECT * FROM new WHERE {EFFECTIVE} AND {ROWWISE}"
        sql = f"SELECT {history.as_event('f')} FROM ({facts}) AS f{without}"
        sql += f" UNION ALL SELECT {history.as_base('f')} FROM old AS f{without}"
        sql += " UNION ALL SELECT * FROM again" if late is not None else ""
        return self.engine.query(sql, relations)

    def _again(self, late: Relation, old: Relation) -> Relation:
        """The events of late keys, from the start of the oldest row on that may change."""
        shape = self.shape
        relations: dict[str, Relation] = {"late": late, "log": self.history.facts}
        if shape.scd == 1 or shape.inherited or shape.soft:
            chosen = f"SELECT f.* FROM log AS f LEFT SEMI JOIN late AS x ON {same_keys(shape, 'f', 'x')}"
            return self.history.events(self.engine.query(chosen, relations), late)
        keys, parts = listed(shape.keys), listed(shape.sequence)
        pairs = zip(unpacked(shape, shape.start, "o."), shape.sequence, strict=True)
        starts = ", ".join(f"{sql} AS {quoted(name)}" for sql, name in pairs)
        both = (
            f"SELECT {keys}, {parts} FROM late UNION ALL SELECT {listed(shape.keys, 'o.')}, {starts} FROM old AS o "
            f"LEFT SEMI JOIN late AS x ON {same_keys(shape, 'o', 'x')}"
        )
        rank = f"row_number() OVER (PARTITION BY {keys} ORDER BY {parts}) AS __n"
        first = self.history.ask(
            f"SELECT {keys}, {parts} FROM (SELECT *, {rank} FROM ({both}) AS both) AS ranked WHERE __n = 1",
            late=late,
            old=old,
        )
        after = not_before(_qualified("f", shape.sequence), _qualified("b", shape.sequence))
        least, params = self._least(first, shape.sequence[0], f"f.{quoted(shape.sequence[0])}")
        chosen = (
            f"SELECT f.* FROM log AS f LEFT SEMI JOIN first AS b ON {same_keys(shape, 'f', 'b')} AND {after} "
            f"WHERE true{least}"
        )
        return self.history.events(self.engine.query(chosen, relations | {"first": first}, params), late)

    def _difference(self, rows: Relation, old: Relation) -> Relation:
        """What a merge has to do: rows that are new or differ, and rows that are gone."""
        shape, columns = self.shape, listed(self.columns.names)
        compared = "false" if shape.opaque else _equal(self.columns.names)
        sql = (
            f"SELECT {columns}, 'u' AS {OPERATION} FROM made AS n LEFT ANTI JOIN old AS o ON {compared} "
            f"UNION ALL SELECT {columns}, 'd' AS {OPERATION} FROM old AS n LEFT ANTI JOIN made AS o ON "
            f"{_equal(shape.row_keys)}"
        )
        with_all = padded(self.engine, rows, self.columns)
        return self.history.ask(sql, made=with_all, old=old)

    def _reach(self, change: Relation, old: Relation, late: int) -> tuple[Within | None, Late]:
        """Where in the target the rows lie that a merge changes, and what late events did to closed ones."""
        shape = self.shape
        if shape.scd == 1:
            return None, Late(late)
        if not late:
            return Within(shape.end), Late()
        single = len(shape.sequence) == 1
        bounds = f", min(n.{quoted(shape.end)}) AS least, min(n.{quoted(shape.start)}) AS since" if single else ""
        sql = (
            f"SELECT count(*) AS split{bounds} FROM (SELECT n.* FROM old AS n LEFT SEMI JOIN change AS o ON "
            f"{_equal(shape.row_keys)} WHERE n.{quoted(shape.end)} IS NOT NULL) AS n"
        )
        row = self.engine.rows(self.history.ask(sql, old=old, change=change))[0]
        since = None if row.get("since") is None else str(row["since"])
        report = Late(late, row["split"], since)
        if not row["split"]:
            return Within(shape.end), report
        exact = single and any(is_exact(self.log.schema.field(shape.sequence[0]).type) for is_exact in _EXACT)
        return (Within(shape.end, row["least"]) if exact else None), report


def _qualified(alias: str, columns: tuple[str, ...]) -> list[str]:
    return [f"{alias}.{quoted(name)}" for name in columns]


def _equal(columns: tuple[str, ...] | list[str]) -> str:
    return " AND ".join(f"n.{quoted(name)} <=> o.{quoted(name)}" for name in columns)
