"""What must hold of a table with history, asked of its rows: periods, keys, and a fate for every event.

Each question goes to all keys, or to those that changed since it was asked last: a write moves rows of its keys only.
What belongs here: the questions, in SQL for both engines. What does not: who asks (`assets/checks_history.py`), making
rows (`history_derive.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lakehouse_assets.engines.base import Engine, Handle, Relation
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import FeedExpired
from lakehouse_assets.sql import scd
from lakehouse_assets.sql.expand import quoted, text_literal
from lakehouse_assets.sql.scd import DELETE, EVENT, Shape, listed, not_before, unpacked
from lakehouse_assets.tables.base import Work, upstream
from lakehouse_assets.tables.history_events import ROWWISE, History, revised

EXAMPLES = 3
"""How many of the rows that break something are shown."""
FATES = ("applied", "superseded", "quarantined", "filtered", "retracted")
_SPOKEN = "_fact IN ('event', 'correction')"
"""Facts that have a fate; the others speak about them."""


@dataclass(frozen=True)
class Findings:
    """What came of a question.

    Attributes:
        counts: how much was looked at, by what it is.
        faults: what does not hold -> how often; empty if all holds.
        examples: a few of the rows that break something.
    """

    counts: Mapping[str, int]
    faults: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[Mapping[str, Any], ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all holds."""
        return not self.faults


def check(work: Work, entity: Entity) -> dict[str, Findings]:
    """Every question, of all keys of a table that is in the lake.

    Args:
        entity: the (first) one that feeds it.

    Raises:
        LakeError: the table or its log is not there.
    """
    target, log = upstream(work, entity.table), upstream(work, entity.table.changes)
    history = History(work, entity, log)
    rows = work.engine.read(target)
    periods = "history_well_formed" if history.shape.scd == 2 else "primary_key"
    found = {periods: well_formed(work.engine, history.shape, rows)}
    return found | {"fates": fates(history, quarantined(work, entity))}


def quarantined(work: Work, entity: Entity) -> Relation | None:
    """The rows of the quarantine of a table; `None` if it has none."""
    box = work.engine.find(work.uri(entity.table.quarantine))
    return None if box is None else work.engine.read(box)


def touched(engine: Engine, handle: Handle, keys: Sequence[str], since: int | None) -> Relation | None:
    """The keys (maybe several times) of which a row changed after a version; `None`: all, or nobody can tell.

    Args:
        since: `None` for all.
    """
    if since is None:
        return None
    try:
        changes = engine.changes(handle, since)
    except FeedExpired:
        return None
    if changes.kind == "none":
        return engine.query(f"SELECT {listed(keys)} FROM stored WHERE false", {"stored": engine.read(handle)})
    if changes.relation is None:
        return None
    return engine.query(f"SELECT {listed(keys)} FROM moved", {"moved": changes.relation})


def _of(engine: Engine, keys: Sequence[str], rows: Relation, of: Relation | None) -> Relation:
    """Those of some rows that have one of the keys; a NULL is a key like any other here."""
    if of is None:
        return rows
    on = " AND ".join(f"r.{quoted(key)} <=> k.{quoted(key)}" for key in keys)
    return engine.query(f"SELECT r.* FROM stored AS r LEFT SEMI JOIN keys AS k ON {on}", {"stored": rows, "keys": of})


# periods


def well_formed(engine: Engine, shape: Shape, rows: Relation, of: Relation | None = None) -> Findings:
    """Whether the rows of each key can be a history (type 2), or are one row (type 1).

    Args:
        rows: those of the target.
        of: the keys to look at; absent: all.
    """
    chosen = _of(engine, shape.keys, rows, of)
    flags = _flags_of_periods(shape) if shape.scd == 2 else _flags_of_keys(shape)
    named = ", ".join(f"coalesce({sql}, false) AS {name}" for name, sql in flags.items())
    source = _neighbours(shape) if shape.scd == 2 else _numbered(shape)
    marked = engine.query(f"SELECT *, {named} FROM ({source}) AS placed", {"stored": chosen})
    sums = ", ".join(f"count_if({name}) AS {name}" for name in flags)
    row = engine.rows(engine.query(f"SELECT count(*) AS looked, {sums} FROM marked", {"marked": marked}))[0]
    looked = {"rows_checked": int(row.pop("looked"))}
    faults = {name: int(count) for name, count in row.items() if count}
    return Findings(looked, faults, _examples(engine, shape, marked, flags) if faults else ())


def _examples(
    engine: Engine, shape: Shape, marked: Relation, flags: Mapping[str, str]
) -> tuple[Mapping[str, Any], ...]:
    reasons = ", ".join(f"CASE WHEN {name} THEN {text_literal(name)} END" for name in flags)
    period = (shape.start, shape.end) if shape.scd == 2 else ()
    order = listed((*shape.keys, *(_parts("s", shape) if period else ())))
    sql = (
        f"SELECT {listed((*shape.keys, *period))}, filter(array({reasons}), name -> name IS NOT NULL) AS faults "
        f"FROM marked WHERE {' OR '.join(flags)} ORDER BY {order} LIMIT {EXAMPLES}"
    )
    return tuple(engine.rows(engine.query(sql, {"marked": marked})))


def _parts(letter: str, shape: Shape) -> list[str]:
    return [f"__{letter}{index}" for index in range(len(shape.sequence))]


def _neighbours(shape: Shape) -> str:
    """Each row with the parts of its start (`__s…`), its end (`__e…`) and the next start (`__n…`) of its key."""
    starts, ends, nexts = (_parts(letter, shape) for letter in "sen")
    cut = [f"{sql} AS {name}" for name, sql in zip(starts, unpacked(shape, shape.start), strict=True)]
    cut += [f"{sql} AS {name}" for name, sql in zip(ends, unpacked(shape, shape.end), strict=True)]
    compared = [*(name for name in shape.tracked if name not in shape.opaque), *((shape.soft,) if shape.soft else ())]
    columns = dict.fromkeys((*shape.keys, shape.start, shape.end, *compared))
    window = f"(PARTITION BY {listed(shape.keys)} ORDER BY {listed(starts)})"
    whole = f"(PARTITION BY {listed(shape.keys)})"
    same = " AND ".join(f"{quoted(name)} <=> lead({quoted(name)}) OVER {window}" for name in compared)
    items = [f"lead({start}) OVER {window} AS {name}" for start, name in zip(starts, nexts, strict=True)]
    items += [
        f"row_number() OVER {window} < count(*) OVER {whole} AS __followed",
        f"sum(CASE WHEN {quoted(shape.end)} IS NULL THEN 1 ELSE 0 END) OVER {whole} AS __open",
        f"{same or 'true'} AS __same",
    ]
    return f"SELECT *, {', '.join(items)} FROM (SELECT {listed(columns)}, {', '.join(cut)} FROM stored) AS parts"


def _flags_of_periods(shape: Shape) -> dict[str, str]:
    start, end, following = (_parts(letter, shape) for letter in "sen")
    closed = f"{quoted(shape.end)} IS NOT NULL"
    meets = " AND ".join(f"{a} <=> {b}" for a, b in zip(end, following, strict=True))
    twice = " AND ".join(f"{a} <=> {b}" for a, b in zip(start, following, strict=True))
    return {
        "key_is_null": _some_null(shape),
        "start_is_null": f"{quoted(shape.start)} IS NULL",
        "end_not_after_start": f"{closed} AND NOT {not_before(end, start, strictly=True)}",
        "overlaps_next": f"__followed AND (NOT ({closed}) OR {not_before(end, following, strictly=True)})",
        "several_open": f"NOT ({closed}) AND __open > 1",
        "start_is_doubled": f"__followed AND {twice}",
        "equals_next": f"__followed AND {closed} AND {meets} AND __same",
    }


def _numbered(shape: Shape) -> str:
    keys = listed(shape.keys)
    return f"SELECT {keys}, row_number() OVER (PARTITION BY {keys} ORDER BY {keys}) AS __n FROM stored"


def _flags_of_keys(shape: Shape) -> dict[str, str]:
    return {"key_is_null": _some_null(shape), "key_is_doubled": "__n > 1"}


def _some_null(shape: Shape) -> str:
    return " OR ".join(f"{quoted(key)} IS NULL" for key in shape.keys)


# fates


def fates(history: History, stored: Relation | None, of: Relation | None = None) -> Findings:
    """Whether every event of a log has exactly one fate, and the quarantine holds those whose fate it is.

    Args:
        stored: the rows of the quarantine, if there is one.
        of: the keys to look at; absent: all.
    """
    engine, keys = history.engine, history.shape.keys
    facts = _of(engine, keys, history.facts, of)
    with engine.held(_told(history, facts)) as told, engine.held(_decided(history, told)) as decided:
        events = history.count(f"log WHERE {_SPOKEN}", log=facts)
        by_fate = {
            row["_fate"]: int(row["n"])
            for row in engine.rows(history.ask("SELECT _fate, count(*) AS n FROM e GROUP BY _fate", e=decided))
        }
        counts = {"events_checked": events, **{fate: by_fate.get(fate, 0) for fate in FATES}}
        faults, examples = _against_quarantine(history, decided, stored, of)
    if events != sum(counts[fate] for fate in FATES) or set(by_fate) - set(FATES):
        faults = {"events_without_one_fate": abs(events - sum(counts[fate] for fate in FATES)) or 1, **faults}
    return Findings(counts, faults, examples)


def _told(history: History, facts: Relation) -> Relation:
    """Events and corrections with what the log itself says of their fate (`__fate`, `__why`); else that is NULL."""
    shape = history.shape
    values = [
        f"CASE WHEN f._operation <> 'upsert' THEN NULL ELSE f.{quoted(name)} END AS {quoted(name)}"
        for name in shape.compared
    ]
    columns = ", ".join([listed((*shape.keys, *shape.sequence), "f."), *values])
    said = "WHEN r.__fate IS NOT NULL THEN"
    sql = (
        f"SELECT {columns}, f.{EVENT}, f._operation, f._operation <> 'upsert' AS {DELETE}, "
        f"CASE {said} r.__fate WHEN f._filtered THEN 'filtered' WHEN size(f._reasons) > 0 THEN 'quarantined' "
        f"WHEN f._operation = 'truncate' THEN 'applied' END AS __fate, "
        f"CASE {said} r.__why ELSE array_join(f._reasons, ', ') END AS __why "
        f"FROM (SELECT * FROM log WHERE {_SPOKEN}) AS f LEFT JOIN ({revised('log')}) AS r ON f.{EVENT} = r.{EVENT}"
    )
    return history.ask(sql, log=facts)


def _decided(history: History, told: Relation) -> Relation:
    """The id of each of them with its fate and why."""
    shape = history.shape
    columns = [*shape.keys, *shape.sequence, *shape.compared, EVENT, "_operation", DELETE]
    undecided = f"SELECT {listed(columns)} FROM told WHERE {ROWWISE} AND __fate IS NULL"
    events = history.with_truncates(history.ask(undecided, told=told), columns)
    living = history.ask("SELECT *, CAST(NULL AS STRING) AS __fate, CAST(NULL AS STRING) AS __why FROM e", e=events)
    judged = history.ask(scd.fates(shape), events=living)
    return history.ask(
        f"SELECT {EVENT}, _fate, _why FROM judged WHERE {ROWWISE} UNION ALL "
        f"SELECT {EVENT}, __fate AS _fate, __why AS _why FROM told WHERE __fate IS NOT NULL",
        judged=judged, told=told,
    )  # fmt: skip


def _against_quarantine(
    history: History, decided: Relation, stored: Relation | None, of: Relation | None
) -> tuple[dict[str, int], tuple[Mapping[str, Any], ...]]:
    """Where quarantine and fates differ."""
    engine = history.engine
    wanted = f"SELECT DISTINCT {EVENT}, _why FROM e WHERE _fate = 'quarantined'"
    if stored is None:
        lacking = history.count(f"({wanted}) AS w", e=decided)
        return ({"missing_in_quarantine": lacking} if lacking else {}), ()
    box = _of(engine, history.shape.keys, stored, of)
    kept = f"SELECT {EVENT}, array_join(_reasons, ', ') AS _why, count(*) OVER (PARTITION BY {EVENT}) AS n FROM q"
    case = (
        f"CASE WHEN q.{EVENT} IS NULL THEN 'missing_in_quarantine' WHEN w.{EVENT} IS NULL THEN 'surplus_in_quarantine' "
        "WHEN q.n > 1 THEN 'doubled_in_quarantine' WHEN NOT (q._why <=> w._why) THEN 'other_reasons_in_quarantine' END"
    )
    differing = history.ask(
        f"SELECT * FROM (SELECT coalesce(w.{EVENT}, q.{EVENT}) AS event, w._why AS reasons, q._why AS kept_reasons, "
        f"{case} AS fault FROM ({wanted}) AS w FULL OUTER JOIN ({kept}) AS q ON w.{EVENT} = q.{EVENT}) AS both "
        "WHERE fault IS NOT NULL",
        e=decided, q=box,
    )  # fmt: skip
    with engine.held(differing) as found:
        sums = engine.rows(history.ask("SELECT fault, count(*) AS n FROM d GROUP BY fault ORDER BY fault", d=found))
        some = history.ask(f"SELECT * FROM d ORDER BY fault, event LIMIT {EXAMPLES}", d=found)
        return {row["fault"]: int(row["n"]) for row in sums}, tuple(engine.rows(some)) if sums else ()
