"""The quarantine of a table with history: the events that do not count, as they stand now.

It is made from the log, so an event leaves it when it is woven in, and enters it when a later one contradicts it.
What belongs here: the table, and what changes in it. What does not: which events are broken (`history_events.py`).
"""

from __future__ import annotations

import pyarrow as pa

from lakehouse_assets.engines.base import OPERATION, Handle, Relation
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.lake.values import Commit, Number
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.sql.scd import EVENT, listed, same_keys
from lakehouse_assets.tables.base import Work, ensure, is_read
from lakehouse_assets.tables.history_events import REVISING, History
from lakehouse_assets.tables.history_shape import event_columns
from lakehouse_assets.tables.rows import padded

_MOMENT = pa.field("_quarantined_at", pa.timestamp("us", tz="UTC"))


def whole(work: Work, entity: Entity, history: History, number: Number) -> Commit | None:
    """Make the quarantine anew from the whole log; `None` if there is none and nothing to keep."""
    made = _box(work, entity, history, history.broken(history.facts))
    return None if made is None else work.engine.rebuild(made[0], made[1], made[0].schema, number)


def settle(
    work: Work, entity: Entity, history: History, new: Relation, late: Relation | None, number: Number
) -> Commit | None:
    """Bring the quarantine up to new facts; nothing is read where nothing can have changed.

    Args:
        late: the keys whose older events are looked at again.
    """
    facts = new if late is None else _around(history, new, late)
    speaking = history.count(f"new WHERE size(_reasons) > 0 OR {REVISING}", new=new)
    known = late is not None and work.engine.find(work.uri(entity.table.quarantine)) is not None
    if not speaking and not known and not history.is_tied(history.events(facts)):
        return None
    made = _box(work, entity, history, history.broken(facts))
    if made is None:
        return None
    box, rows = made
    with work.engine.held(rows) as wanted:
        stored = work.engine.read(box)
        concerned = _concerned(history, stored, new, late, wanted)
        with (
            work.engine.held(concerned) as old,
            work.engine.held(_difference(history, box, wanted, old)) as difference,
        ):
            moved = history.count("difference", difference=difference)
            return work.engine.merge(box, difference, [EVENT], number) if moved else None


def _around(history: History, new: Relation, late: Relation) -> Relation:
    """The new facts, and all facts of late keys."""
    shape = history.shape
    return history.ask(
        f"SELECT f.* FROM new AS f LEFT ANTI JOIN late AS x ON {same_keys(shape, 'f', 'x')} UNION ALL "
        f"SELECT f.* FROM log AS f LEFT SEMI JOIN late AS x ON {same_keys(shape, 'f', 'x')}",
        new=new, late=late, log=history.facts,
    )  # fmt: skip


def _box(work: Work, entity: Entity, history: History, broken: Relation) -> tuple[Handle, Relation] | None:
    """The table, and rows in its columns, one for each event; `None` where there is nothing to keep."""
    name = entity.table.quarantine
    wanted = work.engine.find(work.uri(name)) is not None or entity.is_quarantined or is_read(work, name)
    if not wanted and not history.count("broken", broken=broken):
        return None
    columns = schema(history)
    box = ensure(work, entity, name, columns, change_feed=True, indexed=[EVENT])
    chosen = ", ".join(
        f"{'_logged' if field.name == _MOMENT.name else quoted(field.name)} AS {quoted(field.name)}"
        for field in columns
    )
    first = f"row_number() OVER (PARTITION BY {EVENT} ORDER BY _batch) AS __n"
    rows = history.ask(f"SELECT {chosen} FROM (SELECT *, {first} FROM broken) AS numbered WHERE __n = 1", broken=broken)
    return box, padded(work.engine, rows, box.schema)


def schema(history: History) -> pa.Schema:
    """The columns of the quarantine: the event's, why it is there, what was received, and where that came from."""
    log = history.columns
    own = [log.field(name).remove_metadata() for name in event_columns(log.names)]
    kept = ("_reasons", "_upstream", "_raw", EVENT, "_operation", *history.shape.sequence, "_feed", "_batch", "_origin")
    return pa.schema([*own, *(log.field(name) for name in kept), _MOMENT])


def _concerned(history: History, stored: Relation, new: Relation, late: Relation | None, wanted: Relation) -> Relation:
    """The rows there whose place may change: those that new facts are or speak of, and those of late keys."""
    relations = {"stored": stored, "new": new, "wanted": wanted}
    ids = (
        f"SELECT _refers AS {EVENT} FROM new WHERE _refers IS NOT NULL UNION SELECT {EVENT} FROM new UNION SELECT "
        f"{EVENT} FROM wanted"
    )
    if late is not None:
        relations["late"] = late
        on = same_keys(history.shape, "s", "x")
        ids += f" UNION SELECT s.{EVENT} FROM stored AS s LEFT SEMI JOIN late AS x ON {on}"
    return history.ask(f"SELECT q.* FROM stored AS q LEFT SEMI JOIN ({ids}) AS i ON q.{EVENT} = i.{EVENT}", **relations)


def _difference(history: History, box: Handle, wanted: Relation, old: Relation) -> Relation:
    columns = listed(box.schema.names)
    return history.ask(
        f"SELECT {columns}, 'u' AS {OPERATION} FROM wanted AS w LEFT ANTI JOIN old AS o ON w.{EVENT} = o.{EVENT} AND "
        f"w._reasons <=> o._reasons UNION ALL SELECT {columns}, 'd' AS {OPERATION} FROM old AS o LEFT ANTI JOIN "
        f"wanted AS w ON w.{EVENT} = o.{EVENT}",
        wanted=wanted, old=old,
    )  # fmt: skip
