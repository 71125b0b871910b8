"""The history of one key as a drawing: rows as bars on a common axis, gaps between them, and events that do not show.

What belongs here: plain values in, a layout or text out. What does not: reading tables (`explain.py`), pixels
(`timeline_png.py`), wording of effects (`explain.py`).

A sequence of numbers, dates or times is drawn to scale; any other (text, several columns, NaN) by rank. A row always
has at least one cell, so that short ones show.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rich.cells import cell_len, set_cell_size

MOST_LINES = 200
"""Lines of a drawing; of a longer history the newest are drawn."""
NO_ROW = "no row"
GLYPHS: Mapping[str, str] = {"quarantined": "!", "superseded": "~", "retracted": "×", "filtered": "-"}
"""How an event that does not show is marked, by its fate; "○" where it was applied and changed nothing."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PLAIN_TEXT = re.compile(r"[^\s,=\"]+(?: [^\s,=\"]+)*")
_WORDS = ("NULL", "true", "false")


@dataclass(frozen=True)
class Interval:
    """One row of the table: what held from `start` up to, not including, `end` (None: until now)."""

    start: object
    end: object
    values: Mapping[str, object]


@dataclass(frozen=True)
class Mark:
    """An event that opened, extended or closed nothing: when it was meant for, and why it does not show."""

    sequence: object
    operation: str
    fate: str
    event: str
    origin: str
    note: str


@dataclass(frozen=True)
class Timeline:
    """The rows of one key in the order of their starts, and the events that do not show."""

    key: Mapping[str, object]
    intervals: tuple[Interval, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Line:
    """One line of a drawing.

    Attributes:
        kind: `row`, `gap`, or the fate of a mark.
        left: where it begins, from 0 (the first event) to 1 (the last); None: it has no place on the axis.
        right: where a row or gap ends; None: it does not end (or it is a mark).
    """

    kind: str
    label: str
    left: float | None
    right: float | None
    text: str


@dataclass(frozen=True)
class Layout:
    """A drawing before it is drawn.

    Attributes:
        ends: (place, text) of the first and the last tick of the axis.
        ticks: the place of every sequence.
        left_out: rows and marks, the oldest, that have no line.
    """

    title: str
    ends: tuple[tuple[float, str], ...]
    ticks: tuple[float, ...]
    lines: tuple[Line, ...]
    left_out: int


# order and places


def order(sequence: object) -> tuple[Any, ...]:
    """A sort key of sequences of one type, as SQL orders them: NULL first, NaN last, several columns one by one."""
    if sequence is None:
        return (0,)
    if isinstance(sequence, Mapping):
        return (1, tuple(order(part) for part in sequence.values()))
    if isinstance(sequence, float) and math.isnan(sequence):
        return (2,)
    return (1, sequence)


def places(sequences: Iterable[object]) -> Callable[[object], float]:
    """Where each sequence stands between the first (0) and the last (1): to scale if all are numbers or times."""
    known = sorted(_distinct(sequences), key=order)
    numbers = [_number(sequence) for sequence in known]
    if None in numbers:
        numbers = [float(rank) for rank in range(len(known))]
    low, high = (numbers[0], numbers[-1]) if numbers else (0.0, 0.0)
    span = float(high or 0) - float(low or 0)
    at = {
        order(sequence): (float(number or 0) - float(low or 0)) / span if span else 0.0
        for sequence, number in zip(known, numbers, strict=True)
    }
    return lambda sequence: at[order(sequence)]


def _distinct(sequences: Iterable[object]) -> list[object]:
    return list({order(sequence): sequence for sequence in sequences if sequence is not None}.values())


def _number(sequence: object) -> float | None:
    """A sequence as a number that keeps distances; None where there is none."""
    if isinstance(sequence, bool):
        return None
    if isinstance(sequence, int | float | Decimal):
        number = float(sequence)
        return number if math.isfinite(number) else None
    if isinstance(sequence, dt.datetime):
        return (sequence if sequence.tzinfo else sequence.replace(tzinfo=dt.UTC)).timestamp()
    return float(sequence.toordinal()) if isinstance(sequence, dt.date) else None


# text


def shown(text: str) -> str:
    """`text` on one line, without characters that a terminal would obey."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def text_of(value: object) -> str:
    """A value as people read it: NULL, ISO times with `Z`, a text in quotes only where it would be misread."""
    if isinstance(value, str):
        plain = _PLAIN_TEXT.fullmatch(value) and value not in _WORDS
        return shown(value if plain else json.dumps(value, ensure_ascii=False))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}={text_of(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(text_of, value)) + "]"
    return _scalar(value)


def _scalar(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "NULL", True: "true", False: "false"}[value]
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat().replace("+00:00", "Z")
    return value.hex() if isinstance(value, bytes) else str(value)


def sequence_text(sequence: object) -> str:
    """A sequence as people read it; of several columns the values alone."""
    if isinstance(sequence, Mapping):
        return "(" + ", ".join(text_of(part) for part in sequence.values()) + ")"
    return text_of(sequence)


def range_text(start: object, end: object, write: Callable[[object], str] = sequence_text) -> str:
    """A half-open range: `[3, 7)`, `[7, …)`."""
    return f"[{write(start)}, {'…' if end is None else write(end)})"


def values_text(values: Mapping[str, object]) -> str:
    """Columns and their values: `city=Graz, name=NULL`."""
    return ", ".join(f"{shown(name)}={text_of(value)}" for name, value in values.items())


# layout


def layout(timeline: Timeline, most: int = MOST_LINES) -> Layout:
    """What is drawn where: the newest rows and the newest marks of their time, at most `most` of both together."""
    intervals = timeline.intervals[-(most - min(len(timeline.marks), most // 4)) :]
    since = order(intervals[0].start) if len(intervals) < len(timeline.intervals) else ()
    marks = [mark for mark in timeline.marks if mark.sequence is None or order(mark.sequence) >= since]
    marks.sort(key=lambda mark: order(mark.sequence))
    marks = marks[max(len(marks) - (most - len(intervals)), 0) :]
    left_out = len(timeline.intervals) + len(timeline.marks) - len(intervals) - len(marks)
    known = sorted(_distinct(_sequences(intervals, marks)), key=order)
    place, write = places(known), _writer(known)
    return Layout(
        values_text(timeline.key),
        tuple((place(sequence), write(sequence)) for sequence in known[:1] + known[1:][-1:]),
        tuple(place(sequence) for sequence in known),
        (*_row_lines(intervals, place, write), *(_mark_line(mark, place, write) for mark in marks)),
        left_out,
    )


def _sequences(intervals: Iterable[Interval], marks: Iterable[Mark]) -> Iterator[object]:
    for interval in intervals:
        yield interval.start
        yield interval.end
    for mark in marks:
        yield mark.sequence


def _row_lines(
    intervals: Iterable[Interval], place: Callable[[object], float], write: Callable[[object], str]
) -> Iterator[Line]:
    def line(kind: str, start: object, end: object, text: str) -> Line:
        left = None if start is None else place(start)
        return Line(kind, range_text(start, end, write), left, None if end is None else place(end), text)

    before: Interval | None = None
    for interval in intervals:
        if before is not None and before.end is not None and order(before.end) < order(interval.start):
            yield line("gap", before.end, interval.start, NO_ROW)
        yield line("row", interval.start, interval.end, values_text(changed(before, interval)) or "same values")
        before = interval
    if before is not None and before.end is not None:
        yield line("gap", before.end, None, NO_ROW)


def changed(before: Interval | None, interval: Interval) -> dict[str, object]:
    """The values of an interval that differ from those of the one before; all of the first one."""
    old = {} if before is None else before.values
    return {
        name: value for name, value in interval.values.items() if name not in old or order(value) != order(old[name])
    }


def _mark_line(mark: Mark, place: Callable[[object], float], write: Callable[[object], str]) -> Line:
    note = f"{mark.operation} {mark.fate}" + (f": {mark.note}" if mark.note else "")
    text = shown(", ".join(part for part in (note, mark.event, mark.origin) if part))
    return Line(mark.fate, write(mark.sequence), None if mark.sequence is None else place(mark.sequence), None, text)


def _writer(sequences: Iterable[object]) -> Callable[[object], str]:
    """How the sequences of a drawing are written: times as dates, or to the minute, where that loses nothing of any."""
    times = [sequence for sequence in sequences if isinstance(sequence, dt.datetime)]
    if not times or any(moment.second or moment.microsecond for moment in times):
        return sequence_text
    days = not any(moment.hour or moment.minute for moment in times)

    def write(sequence: object) -> str:
        if not isinstance(sequence, dt.datetime):
            return sequence_text(sequence)
        return text_of(sequence.date()) if days else sequence.isoformat(timespec="minutes").replace("+00:00", "Z")

    return write


# the terminal


def draw(timeline: Timeline, width: int = 100) -> str:
    """A timeline for the terminal, in lines of at most `width` cells (40 at least).

    One line a row: its range, a bar on the common axis, the values that differ from the row before. Gaps are dotted.
    Events that do not show follow, one a line, each marked at its place.
    """
    drawing, width = layout(timeline), max(width, 40)
    title = fit(drawing.title, width).rstrip()
    if not drawing.lines:
        return f"{title}\nno row and no event"
    labels = min(max(cell_len(line.label) for line in drawing.lines), width // 2)
    bars = max(10, min(60, (width - labels) // 2))
    notes = width - labels - bars - 4
    lines = [title, "", *_axis(drawing, labels + 2, bars, width)]
    for line in drawing.lines:
        bar = "".join(_cells(line, bars))
        lines.append(f"{fit(line.label, labels)}  {bar}  {fit(line.text, notes)}".rstrip())
    if drawing.left_out:
        lines.append(left_out_text(drawing))
    return "\n".join(lines)


def left_out_text(drawing: Layout) -> str:
    """What is said about rows and marks that are not drawn."""
    return f"{drawing.left_out:,} older rows and events are not drawn"


def fit(text: str, width: int) -> str:
    """`text` in exactly `width` cells: padded, or cut with "…"."""
    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _cell(place: float, bars: int) -> int:
    """The cell of a place; the last ones stay free for what is still open."""
    return round(place * (bars - 4))


def _cells(line: Line, bars: int) -> list[str]:
    """The cells of a line between the axis's ends."""
    cells = [" "] * bars
    if line.kind not in ("row", "gap"):
        if line.left is not None:
            cells[_cell(line.left, bars)] = GLYPHS.get(line.kind, "○")
        return cells
    first = 0 if line.left is None else _cell(line.left, bars)
    last = bars if line.right is None else max(_cell(line.right, bars), first + 1)
    cells[first:last] = ["█" if line.kind == "row" else "·"] * (last - first)
    if line.right is None and line.kind == "row":
        cells[-1] = "▶"
    return cells


def _axis(drawing: Layout, indent: int, bars: int, width: int) -> Iterator[str]:
    """The texts of the axis's ends above a rule with a tick for each sequence."""
    rule = ["─"] * bars
    for tick in drawing.ticks:
        rule[_cell(tick, bars)] = "┬"
    texts = [text for _, text in drawing.ends]
    if len(texts) > 1:
        texts.insert(1, " " * max(bars - cell_len(texts[0]) - cell_len(texts[1]), 3))
    yield " " * indent + fit("".join(texts), width - indent).rstrip()
    yield " " * indent + "".join(rule)
