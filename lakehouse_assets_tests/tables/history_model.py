"""What a table with history must hold: a plain, slow, obviously right model of `apply_changes`.

It sorts the events of a key and walks along them. It knows nothing of SQL, batches, logs or arrival order, so whatever
way the events came in, the tables must end as the model says.
What belongs here: the meaning of a declaration. What does not: lakes, engines, expectations of single cases.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

Row = Mapping[str, Any]
AMBIGUOUS, NULL_KEY, NULL_SEQUENCE = "ambiguous_sequence", "null_key", "null_sequence"
APPLIED, SUPERSEDED, QUARANTINED, FILTERED, RETRACTED = "applied", "superseded", "quarantined", "filtered", "retracted"


def _upsert(_: Row) -> str:
    return "upsert"


def _taken(_: Row) -> bool:
    return True


def _unbroken(_: Row) -> Collection[str]:
    return ()


@dataclass(frozen=True)
class Declaration:
    """What an entity says about its history, with functions of a row in the place of SQL.

    Attributes:
        columns: of the target, keys included.
        sequence: the value that orders; for several columns a dictionary of them.
        tracked: columns whose change opens a version; `None`: all but the keys.
        inherits: columns in which NULL keeps what the preceding version has.
        operation: `upsert`, `delete` or `truncate`.
        where: whether an event is taken at all.
        broken: names of the rules that an event breaks, and of the columns it does not fit.
        soft: name of the column that says whether a row is deleted.
    """

    columns: tuple[str, ...]
    keys: tuple[str, ...] = ("k",)
    scd: int = 2
    sequence: Callable[[Row], Any] = itemgetter("ts")
    tracked: tuple[str, ...] | None = None
    inherits: frozenset[str] = frozenset()
    operation: Callable[[Row], str] = _upsert
    where: Callable[[Row], bool] = _taken
    broken: Callable[[Row], Collection[str]] = _unbroken
    soft: str | None = None
    start: str = "__START_AT"
    end: str = "__END_AT"

    @property
    def compared(self) -> tuple[str, ...]:
        """The columns whose change opens a version."""
        return tuple(c for c in self.columns if c not in self.keys) if self.tracked is None else self.tracked


@dataclass
class Answer:
    """The rows of the target, and of every event (by its place in the list) its fate and why it is in quarantine."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    fates: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def quarantine(self, n: int, *reasons: str) -> None:
        """Send an event to quarantine."""
        self.fates[n], self.reasons[n] = QUARANTINED, reasons


@dataclass(frozen=True)
class Event:
    """An event that may be applied; `row` is empty where it deletes."""

    n: int
    at: Any
    row: Row
    deletes: bool


def plain(value: Any) -> Any:
    """A value such that equal ones (null-safe: NaN is NaN, 0.0 is -0.0) are `==`, and can be in a set."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    if isinstance(value, Mapping):
        return tuple((name, plain(item)) for name, item in value.items())
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def rank(value: Any) -> tuple[Any, ...]:
    """What a sequence is sorted by: several columns one after the other; NULL first, NaN above infinity."""
    if isinstance(value, Mapping | tuple):  # as it is, or as `plain` gives it
        return tuple(rank(item) for item in dict(value).values())
    if value is None:
        return (0,)
    return (2,) if plain(value) == "NaN" else (1, value)


def answer(declared: Declaration, events: Sequence[Row], retracted: Collection[int] = ()) -> Answer:
    """What must come of events, in whatever order they stand."""
    found = Answer()
    truncates: list[Event] = []
    by_key: dict[Any, list[Event]] = defaultdict(list)
    for n, row in enumerate(events):
        if n in retracted:
            found.fates[n] = RETRACTED
        elif not declared.where(row):
            found.fates[n] = FILTERED
        elif reasons := tuple(_reasons(declared, row)):
            found.quarantine(n, *reasons)
        else:
            operation = declared.operation(row)
            values = {c: row[c] for c in declared.columns} if operation == "upsert" else {}
            event = Event(n, declared.sequence(row), values, operation != "upsert")
            if operation == "truncate":
                truncates.append(event)
            else:
                by_key[plain([row[key] for key in declared.keys])].append(event)
    for event in truncates:
        first = min(other.n for other in truncates if rank(other.at) == rank(event.at))
        found.fates[event.n] = APPLIED if event.n == first else SUPERSEDED
    for own in by_key.values():
        steps = [*_steps(found, own, truncates)]
        settled = [*_inherited(declared, steps)]
        found.rows += _newest(declared, found, own, settled) if declared.scd == 1 else _versions(declared, settled)
    return found


def _reasons(declared: Declaration, row: Row) -> Iterator[str]:
    truncates = declared.operation(row) == "truncate"
    if not truncates and any(row[key] is None for key in declared.keys):
        yield NULL_KEY
    if declared.sequence(row) is None:
        yield NULL_SEQUENCE
    yield from declared.broken(row)


def _steps(found: Answer, own: Sequence[Event], truncates: Sequence[Event]) -> Iterator[Event]:
    """One event for each moment of a key: a delete if there is one, else the upsert if there is but one."""
    moments: dict[Any, list[Event]] = defaultdict(list)
    for event in [*own, *truncates]:
        moments[rank(event.at)].append(event)
    for _, there in sorted(moments.items(), key=itemgetter(0)):
        deletes = [event for event in there if event.deletes]
        different = {plain(event.row) for event in there}
        if not deletes and len(different) > 1:
            for event in there:
                found.quarantine(event.n, AMBIGUOUS)
            continue
        winner = (deletes or there)[0]
        for event in there:
            found.fates.setdefault(event.n, APPLIED if event is winner else SUPERSEDED)  # truncates have theirs
        yield winner


def _inherited(declared: Declaration, steps: Sequence[Event]) -> Iterator[Event]:
    """The events with the values that they inherit: from the one before, and from none across a delete."""
    before: dict[str, Any] = {}
    for event in steps:
        if event.deletes:
            before = {}
            yield event
            continue
        kept = {c for c in declared.inherits if event.row[c] is None}
        before = {c: before.get(c) if c in kept else value for c, value in event.row.items()}
        yield Event(event.n, event.at, before, False)


def _newest(
    declared: Declaration, found: Answer, own: Sequence[Event], steps: Sequence[Event]
) -> Iterator[dict[str, Any]]:
    """The row of a key without history; every event before the one that decides counts no more."""
    mine = {event.n for event in own}
    found.fates.update({event.n: SUPERSEDED for event in steps[:-1] if event.n in mine})
    upserts = [event for event in steps if not event.deletes]
    if upserts and not steps[-1].deletes:
        yield {**steps[-1].row, **_flag(declared, False)}
    elif upserts and declared.soft:
        yield {**upserts[-1].row, **_flag(declared, True)}


def _versions(declared: Declaration, steps: Sequence[Event]) -> Iterator[dict[str, Any]]:
    """The rows of a key: values of the last event of each run of equal ones, from the first one's sequence."""
    current: dict[str, Any] | None = None  # the row that is still open
    deleted = False
    for event in steps:
        if event.deletes:
            if current is None or deleted:
                continue
            yield {**current, declared.end: event.at}
            deleted = True
            current = {**current, **_flag(declared, True), declared.start: event.at} if declared.soft else None
            continue
        row = {**event.row, **_flag(declared, False)}
        if current is not None and not deleted and all(_same(current, row, c) for c in declared.compared):
            current = {**row, declared.start: current[declared.start]}
            continue
        if current is not None:
            yield {**current, declared.end: event.at}
        current, deleted = {**row, declared.start: event.at}, False
    if current is not None:
        yield {**current, declared.end: None}


def _same(left: Row, right: Row, column: str) -> bool:
    return bool(plain(left[column]) == plain(right[column]))


def _flag(declared: Declaration, deleted: bool) -> dict[str, bool]:
    return {declared.soft: deleted} if declared.soft else {}
