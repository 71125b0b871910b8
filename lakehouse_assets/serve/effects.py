"""What each event of a key did to the rows of a table with history, in words.

What belongs here: plain values in, words out. What does not: reading tables (`explain.py`), deciding what became of an
event (`tables/history_events.py`), drawing (`timeline.py`).
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lakehouse_assets.serve.timeline import Interval, Mark, Timeline, order, range_text, sequence_text

if TYPE_CHECKING:
    from lakehouse_assets.sql.scd import Shape


@dataclass(frozen=True)
class Fact:
    """A fact of the log, and what became of it.

    Attributes:
        kind: `event`, `correction`, or what is said about the fact `refers`: `corrected`, `retracted`, `restored`.
        effect: `opened`, `extended`, `closed` or `none`.
        opens: the start of the row that it belongs to.
    """

    event: str
    kind: str
    operation: str
    sequence: object
    fate: str
    why: str | None = None
    effect: str = "none"
    opens: object = None
    refers: str | None = None
    origin: str | None = None
    feed: str | None = None
    batch: int | None = None
    logged: Any = None

    @property
    def arrival(self) -> tuple[Any, ...]:
        """What is equal for facts that came together, and less for those that came before."""
        return order(self.logged), order(self.batch)


@dataclass(frozen=True)
class Explained:
    """One line of an explanation; `effect` says in words what the event did, or why it does not show."""

    sequence: object
    operation: str
    fate: str
    effect: str
    event: str
    origin: str | None
    feed: str | None
    batch: int | None
    logged: Any

    def row(self) -> dict[str, Any]:
        """This line as a row."""
        return asdict(self)


def fact_of(row: Mapping[str, Any], shape: Shape) -> Fact:
    """A row of the log with its fate as a `Fact`."""
    parts = [row[name] for name in shape.sequence]
    whole = parts[0] if len(parts) == 1 else dict(zip(shape.names, parts, strict=True))
    return Fact(
        event=row["_event"],
        kind=row["_fact"],
        operation=row["_operation"],
        sequence=whole,
        fate=row["_fate"] or row["_fact"],
        why=row["_why"] or ", ".join(row["_reasons"] or ()) or None,
        effect=row["_effect"] or "none",
        opens=row["_opens"] if shape.scd == 2 else whole,
        refers=row["_refers"],
        origin=row["_origin"],
        feed=row["_feed"],
        batch=row["_batch"],
        logged=row["_logged"],
    )


def intervals_of(rows: Iterable[Mapping[str, Any]], shape: Shape, facts: Iterable[Fact]) -> tuple[Interval, ...]:
    """The rows of one key as intervals; a row of type 1 began with the event that decided it."""
    names = [*shape.values, *([shape.soft] if shape.soft else [])]
    if shape.scd == 2:
        found = [Interval(row[shape.start], row[shape.end], {name: row[name] for name in names}) for row in rows]
        return tuple(sorted(found, key=lambda interval: order(interval.start)))
    decided = max((fact.sequence for fact in facts if fact.fate == "applied"), key=order, default=None)
    return tuple(Interval(decided, None, {name: row[name] for name in names}) for row in rows)


DECIDED = "a later event decides"
"""Why an event of a table of type 1 does not show."""


def with_truncates(facts: Iterable[Fact], truncates: Iterable[Fact], intervals: Iterable[Interval]) -> list[Fact]:
    """The facts of a key with the truncates that did something to it: a row ends there, or (type 1) went with it.

    Args:
        truncates: the applied truncates of the table, which belong to no key.
    """
    found, rows = list(facts), _Rows(intervals)
    for truncate in truncates:
        lived = [fact for fact in found if fact.fate == "applied" or fact.why == DECIDED]
        before = [fact for fact in lived if order(fact.sequence) <= order(truncate.sequence)]
        newest = max(before, key=lambda fact: order(fact.sequence), default=None)
        gone = newest is not None and newest.why == DECIDED and newest.operation == "upsert"
        if gone and newest is not None:
            found[found.index(newest)] = replace(newest, why="a truncate came after it")
        if order(truncate.sequence) in rows.ending or gone:
            found.append(replace(truncate, effect="closed"))
    return found


def timeline_of(key: Mapping[str, object], intervals: Iterable[Interval], facts: Iterable[Fact]) -> Timeline:
    """The timeline of a key: its rows, and a mark for every event that opened, extended or closed none."""
    marks = tuple(
        Mark(fact.sequence, fact.operation, fact.fate, fact.event, fact.origin or "", _reason(fact))
        for fact in facts
        if fact.fate != "applied" or fact.effect == "none"
    )
    return Timeline(key, tuple(intervals), marks)


def explained(facts: Iterable[Fact], intervals: Iterable[Interval]) -> list[Explained]:
    """What each fact did, in the order of sequences; those of one sequence in the order in which they came."""
    listed = sorted(facts, key=lambda fact: (order(fact.sequence), fact.arrival, fact.event))
    late, rows = _splitting(listed), _Rows(intervals)
    last = {order(fact.opens): index for index, fact in enumerate(listed) if _shows(fact)}
    found = []
    for index, fact in enumerate(listed):
        said = _effect(fact, rows, late=index in late, tail=last.get(order(fact.opens)) == index)
        said += f", corrects {fact.refers}" if fact.kind == "correction" and fact.refers else ""
        found.append(
            Explained(
                fact.sequence, fact.operation, fact.fate, said, fact.event, fact.origin, fact.feed or None, fact.batch,
                fact.logged,
            )
        )  # fmt: skip
    return found


class _Rows:
    """The rows of a key, found by their starts and ends."""

    def __init__(self, intervals: Iterable[Interval]) -> None:
        self.starting = {order(one.start): one for one in intervals}
        self.ending = {order(one.end): one for one in self.starting.values() if one.end is not None}
        self._starts = sorted(self.starting)

    def after(self, sequence: object) -> Interval | None:
        """The first row that starts after a sequence."""
        at = bisect(self._starts, order(sequence))
        return self.starting[self._starts[at]] if at < len(self._starts) else None


def _shows(fact: Fact) -> bool:
    return fact.fate == "applied" and fact.effect in ("opened", "extended")


def _splitting(facts: Sequence[Fact]) -> set[int]:
    """The applied facts that came when rows before and after their sequence were one: they cut it.

    That is so if of all that had come earlier the event before was an upsert, and there was an event after.
    """
    applied = (index for index, fact in enumerate(facts) if fact.fate == "applied")
    came = sorted(applied, key=lambda index: facts[index].arrival)
    there: list[tuple[Any, bool]] = []
    found = set()
    for _, together in groupby(came, key=lambda index: facts[index].arrival):
        batch = list(together)
        for index in batch:
            at = bisect(there, order(facts[index].sequence), key=lambda one: one[0])
            if 0 < at < len(there) and there[at - 1][1]:
                found.add(index)
        for index in batch:
            insort(there, (order(facts[index].sequence), facts[index].operation == "upsert"), key=lambda one: one[0])
    return found


def _effect(fact: Fact, rows: _Rows, *, late: bool, tail: bool) -> str:
    """What a fact did, in words."""
    if fact.fate != "applied":
        return f"not visible: {_reason(fact)}"
    if fact.effect == "none":
        return f"no effect: {_reason(fact)}"
    ended = rows.ending.get(order(fact.sequence))
    own = rows.starting.get(order(fact.sequence if fact.effect == "closed" else fact.opens))
    if fact.effect == "closed" and own is None:
        return _closed(ended, rows.after(fact.sequence), late=late)
    if own is None:
        return f"{fact.effect} a row that the table does not show yet: it has to be run"
    if fact.effect in ("opened", "closed"):  # a soft delete closes a row and opens one
        return _opened(own, ended, late=late, deletes=fact.operation != "upsert")
    return f"extended {range_text(own.start, own.end)}" + (", its values show" if tail else "")


def _opened(own: Interval, ended: Interval | None, *, late: bool, deletes: bool) -> str:
    opened = f"opened {range_text(own.start, own.end)}" + (" as deleted" if deletes else "")
    if ended is None:
        return opened
    before = range_text(ended.start, ended.end)
    return f"split a row: {before} ends here, {opened}" if late else f"{opened}, closed {before}"


def _closed(ended: Interval | None, after: Interval | None, *, late: bool) -> str:
    if ended is None:  # a table of type 1
        return "deleted the row"
    closed = f"closed {range_text(ended.start, ended.end)}"
    if after is not None:
        closed += f", no row until {sequence_text(after.start)}"
    return f"split a row: {closed}" if late else closed


def _reason(fact: Fact) -> str:
    """Why a fact does not show, or did nothing; or what it says about another one."""
    if fact.why:
        return fact.why
    about = {"corrected": "was corrected", "retracted": "was retracted", "restored": "counts again"}
    if fact.kind in about and fact.refers:
        return f"{fact.refers} {about[fact.kind]}"
    if fact.fate != "applied":
        return fact.fate
    return "it changed nothing" if fact.operation == "upsert" else "there was no row to close"
