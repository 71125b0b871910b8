"""Change data as one Spark SQL text: from the facts of some keys to the rows of an SCD1 or SCD2 table, and to fates.

The text is a pure function of a relation `events` (one row per live event of the keys at hand): full rebuild, late
events and in-order events all go through it. An in-order batch does not need the past: the open row of a key enters
as one more event at its own `START`.

    ties   (only where two events of a key share a sequence) a delete beats upserts, identical upserts are one,
           different ones cancel each other: they are ambiguous
    filled NULLs that mean "not said" take the value of the event before, back to the last delete
    marked an event is a head if what is tracked differs from the event before, or that one was a delete
    SCD2   a row for each run of events from a head on: START of its head, values of its tail, END where the next begins
    SCD1   the row of the last event

What does not belong here: which events are read and where rows are written (`tables/history_derive.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lakehouse_assets.sql.expand import quoted, text_literal

DELETE = "__delete"
"""The column of `events` that tells a delete from an upsert."""
EVENT = "_event"
"""The id of an event; an open row that enters as an event has none."""


@dataclass(frozen=True)
class Shape:
    """What a target is made of.

    Attributes:
        keys: the columns that identify a row.
        sequence: the columns of `events` that order the events of a key, the first one first.
        names: what the parts of the sequence are called where there are several.
        columns: all columns of the target that come from events, the keys among them, in order.
        scd: 1 or 2.
        tracked: columns whose change opens a version.
        inherited: columns in which NULL means that the event says nothing.
        opaque: columns whose values cannot be compared (maps).
        start: the column of an SCD2 row in which its first sequence stands; `end`: that of the next.
        soft: the flag of deleted rows that stay; `None`: they go.
    """

    keys: tuple[str, ...]
    sequence: tuple[str, ...]
    names: tuple[str, ...]
    columns: tuple[str, ...]
    scd: int = 2
    tracked: tuple[str, ...] = ()
    inherited: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()
    start: str = "__START_AT"
    end: str = "__END_AT"
    soft: str | None = None

    @property
    def values(self) -> tuple[str, ...]:
        """The columns without the keys."""
        return tuple(name for name in self.columns if name not in self.keys)

    @property
    def compared(self) -> tuple[str, ...]:
        """The columns by which two events are told apart."""
        return tuple(name for name in self.values if name not in self.opaque)

    @property
    def row_keys(self) -> tuple[str, ...]:
        """What identifies a row of the target."""
        return (*self.keys, self.start) if self.scd == 2 else self.keys

    @property
    def output(self) -> tuple[str, ...]:
        """The columns of the target, in order."""
        soft = (self.soft,) if self.soft else ()
        return (*self.columns, *soft, *((self.start, self.end) if self.scd == 2 else ()))


def listed(names: Iterable[str], alias: str = "") -> str:
    """Names as a select list."""
    return ", ".join(f"{alias}{quoted(name)}" for name in names)


def packed(shape: Shape, alias: str = "") -> str:
    """The sequence as one value: as it is, or a struct of its parts."""
    if len(shape.sequence) == 1:
        return f"{alias}{quoted(shape.sequence[0])}"
    parts = (
        f"{text_literal(name)}, {alias}{quoted(part)}" for name, part in zip(shape.names, shape.sequence, strict=True)
    )
    return f"named_struct({', '.join(parts)})"


def unpacked(shape: Shape, column: str, alias: str = "") -> list[str]:
    """The parts of a packed sequence that stands in a column."""
    whole = f"{alias}{quoted(column)}"
    if len(shape.sequence) == 1:
        return [whole]
    return [f"{whole}.{quoted(name)}" for name in shape.names]


def not_before(left: Sequence[str], right: Sequence[str], *, strictly: bool = False) -> str:
    """The condition that one sequence (its parts in SQL) is not before another; a part that is NULL comes first."""
    if len(left) == 1:
        return f"{left[0]} {'>' if strictly else '>='} {right[0]}"
    terms = []
    for index, (a, b) in enumerate(zip(left, right, strict=True)):
        same = [f"{x} <=> {y}" for x, y in zip(left[:index], right[:index], strict=True)]
        terms.append(" AND ".join([*same, f"({a} > {b} OR ({b} IS NULL AND {a} IS NOT NULL))"]))
    if not strictly:
        terms.append(" AND ".join(f"{x} <=> {y}" for x, y in zip(left, right, strict=True)))
    return "(" + " OR ".join(f"({term})" for term in terms) + ")"


def same_keys(shape: Shape, left: str, right: str) -> str:
    """The condition that two rows have the same key; keys of events are never NULL."""
    return " AND ".join(f"{left}.{quoted(key)} = {right}.{quoted(key)}" for key in shape.keys)


def ties(shape: Shape) -> str:
    """Whether `events` has two events of one key with one sequence: a row if so."""
    by = listed((*shape.keys, *shape.sequence))
    return f"SELECT 1 AS tied FROM (SELECT {by} FROM events GROUP BY {by} HAVING count(*) > 1) AS doubled LIMIT 1"


def target(shape: Shape, *, tied: bool) -> str:
    """The rows of the target.

    Args:
        tied: whether `events` may hold several events of one key with one sequence.
    """
    steps = [("one", _resolved(shape, tied=tied)), *_filled(shape, "one")]
    source = steps[-1][0]
    if shape.soft:
        steps += _soft(shape, source)
        source = steps[-1][0]
    if shape.scd == 1:
        steps.append(("newest", _newest(shape, source)))
        body = f"SELECT {listed(shape.output)} FROM newest WHERE __rank = 1"
        body += "" if shape.soft else f" AND NOT {DELETE}"
    else:
        steps += [("marked", _marked(shape, source)), ("runs", _runs(shape))]
        body = f"SELECT {listed((*shape.columns, *((shape.soft,) if shape.soft else ())))}, "
        body += f"__start AS {quoted(shape.start)}, __end AS {quoted(shape.end)} FROM runs WHERE __last"
        body += "" if shape.soft else f" AND NOT {DELETE}"
    return _with(steps) + body


def fates(shape: Shape) -> str:
    """What became of each event in `events`: all its columns, `_fate` and `_why`.

    `events` has a column `__fate` here: what became of an event that counts no more (`__why`), else NULL.
    """
    decided = "true"
    if shape.scd == 1:
        later = ", ".join(f"{quoted(name)} DESC" for name in shape.sequence)
        decided = f"row_number() OVER (PARTITION BY {listed(shape.keys)} ORDER BY __wins DESC, {later}) = 1"
    steps = [
        ("judged", f"{_judged(shape, 'living')}"),
        ("decided", f"SELECT *, {decided} AS __decides FROM (SELECT *, {_WINS} AS __wins FROM judged) AS winners"),
    ]
    cases = (
        ("__wins AND __decides", "applied", "CAST(NULL AS STRING)"),
        ("__wins", "superseded", "'a later event decides'"),
        (f"NOT {DELETE} AND __deletes > 0", "superseded", "'a delete has the same sequence'"),
        (f"{DELETE} OR __differing = 1", "superseded", "'the same event is there already'"),
    )
    fate = " ".join(f"WHEN {when} THEN '{fate}'" for when, fate, _ in cases)
    why = " ".join(f"WHEN {when} THEN {why}" for when, _, why in cases)
    body = (
        f"SELECT *, CASE {fate} ELSE 'quarantined' END AS _fate, CASE {why} ELSE 'ambiguous_sequence' END AS _why "
        "FROM decided"
    )
    return _with([("living", "SELECT * FROM events WHERE __fate IS NULL"), *steps]) + body


def ambiguous(shape: Shape) -> str:
    """The events that cancel each other, each copy of them: the rows of `events` as they came."""
    steps = [("judged", _judged(shape, "events"))]
    return _with(steps) + f"SELECT * FROM judged WHERE NOT {DELETE} AND __deletes = 0 AND __differing > 1"


_WINS = f"(__copy = 1 AND ({DELETE} OR (__deletes = 0 AND __differing = 1)))"


def _with(steps: Sequence[tuple[str, str]]) -> str:
    return "WITH " + ", ".join(f"{name} AS ({text})" for name, text in steps) + " "


def _window(shape: Shape) -> str:
    return f"(PARTITION BY {listed(shape.keys)} ORDER BY {listed(shape.sequence)})"


def _so_far(shape: Shape, more: str = "") -> str:
    return f"(PARTITION BY {listed(shape.keys)}{more} ORDER BY {listed(shape.sequence)} {_ROWS})"


def _judged(shape: Shape, source: str) -> str:
    """`source` with what its ties amount to: copies, deletes and different upserts of one key and sequence."""
    at = listed((*shape.keys, *shape.sequence))
    told_apart = listed((*shape.keys, *shape.sequence, DELETE, *shape.compared))
    copies = f"SELECT *, row_number() OVER (PARTITION BY {told_apart} ORDER BY {EVENT}) AS __copy FROM {source}"
    return (
        f"SELECT *, sum(CASE WHEN {DELETE} THEN 1 ELSE 0 END) OVER (PARTITION BY {at}) AS __deletes, "
        f"sum(CASE WHEN __copy = 1 AND NOT {DELETE} THEN 1 ELSE 0 END) OVER (PARTITION BY {at}) AS __differing "
        f"FROM ({copies}) AS copies"
    )


def _resolved(shape: Shape, *, tied: bool) -> str:
    columns = listed((*shape.keys, *shape.sequence, DELETE, *shape.values))
    source = f"({_judged(shape, 'events')}) AS judged WHERE {_WINS}" if tied else "events"
    return f"SELECT {columns} FROM {source}"


def _filled(shape: Shape, source: str) -> list[tuple[str, str]]:
    """NULLs that say nothing take the last value that was said since the last delete."""
    if not shape.inherited:
        return []
    segments = f"SELECT *, sum(CASE WHEN {DELETE} THEN 1 ELSE 0 END) OVER {_so_far(shape)} AS __segment FROM {source}"
    within = _so_far(shape, ", __segment")
    values = [
        f"last_value({quoted(name)}) IGNORE NULLS OVER {within} AS {quoted(name)}"
        if name in shape.inherited
        else quoted(name)
        for name in shape.values
    ]
    rest = listed((*shape.keys, *shape.sequence, DELETE))
    return [("segments", segments), ("filled", f"SELECT {', '.join([rest, *values])} FROM segments")]


def _soft(shape: Shape, source: str) -> list[tuple[str, str]]:
    """Deletes that leave a row: the last values, flagged; one that has nothing to delete leaves none."""
    known = (
        f"SELECT *, lag({DELETE}) OVER {_window(shape)} AS __before FROM {source}",
        f"SELECT * FROM known WHERE NOT {DELETE} OR NOT coalesce(__before, true)",
    )
    values = [
        f"CASE WHEN {DELETE} THEN lag({quoted(name)}) OVER {_window(shape)} ELSE {quoted(name)} END AS {quoted(name)}"
        for name in shape.values
    ]
    rest = listed((*shape.keys, *shape.sequence, DELETE))
    flag = f"{DELETE} AS {quoted(shape.soft or '')}"
    kept = f"SELECT {', '.join([rest, *values, flag])} FROM effective"
    return [("known", known[0]), ("effective", known[1]), ("kept", kept)]


def _newest(shape: Shape, source: str) -> str:
    order = ", ".join(f"{quoted(name)} DESC" for name in shape.sequence)
    rank = f"row_number() OVER (PARTITION BY {listed(shape.keys)} ORDER BY {order}) AS __rank"
    return f"SELECT *, {rank} FROM {source}"


def _marked(shape: Shape, source: str) -> str:
    """Each event with whether it opens a row."""
    window = _window(shape)
    tracked = [name for name in shape.tracked if name not in shape.opaque]
    differs = " OR ".join(f"NOT ({quoted(name)} <=> lag({quoted(name)}) OVER {window})" for name in tracked)
    delete = "true" if shape.soft else "false"
    head = (
        f"CASE WHEN {DELETE} THEN {delete} WHEN coalesce(lag({DELETE}) OVER {window}, true) THEN true "
        f"ELSE {differs or 'false'} END"
    )
    return f"SELECT *, {packed(shape)} AS __at, {head} AS __head FROM {source}"


def _runs(shape: Shape) -> str:
    """Each event with where its row starts and ends, and whether it is the last one of its row."""
    window = _window(shape)
    starts = f"last_value(CASE WHEN __head THEN __at END) IGNORE NULLS OVER {_so_far(shape)} AS __start"
    breaks = f"coalesce(lead({DELETE} OR __head) OVER {window}, true) AS __last"
    return f"SELECT *, {starts}, lead(__at) OVER {window} AS __end, {breaks} FROM marked"


_ROWS = "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
