"""What a position of a topic is, `{"0": 17, "1": 9}`, and the ranges of offsets between two of them.

What belongs here: arithmetic with offsets. What does not: asking a topic (`kafka_topic.py`), what is done about a loss
(`kafka.py`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lakehouse_assets.sources.base import Position
from lakehouse_assets.sources.kafka_topic import Offsets

LOST = "lost"
"""The key of a start position under which the offsets stand that were lost before it, from and to in turn:
`{"0": [17, 25]}`, or `{"0": [17, 19, 20, 25]}` where 19 is kept."""


def offsets_of(position: Mapping[str, Any]) -> Offsets:
    """The next offset of each partition that a position names."""
    return {int(part): offset for part, offset in position.items() if part != LOST}


def begin_of(start: Position, end: Position) -> Offsets:
    """The first offset of each partition of a range: a partition that the start does not know is new."""
    known = offsets_of(start)
    return {part: known.get(part, 0) for part in offsets_of(end)}


def position_of(offsets: Offsets) -> Position:
    """The position that names these offsets."""
    return {str(part): offset for part, offset in sorted(offsets.items())}


def by_part(lost: Mapping[int, list[int]]) -> dict[str, list[int]]:
    """Ranges of lost offsets as a start names them."""
    return {str(part): spans for part, spans in sorted(lost.items())}


def lost_spans(start: Mapping[str, Any]) -> Iterator[tuple[Any, int, int]]:
    """Partition, first offset and the one after the last, of each range that a start names as lost."""
    for part, spans in start.get(LOST, {}).items():
        for first, last in zip(spans[::2], spans[1::2], strict=True):
            yield part, first, last


def place_of(row: tuple[str | None, str | None]) -> tuple[int, int]:
    """Partition and offset of a row; -1 where it stands for no message."""
    position, text = row
    if position is not None:
        part, _, offset = position.partition(":")
        return int(part), int(offset)
    told = json.loads(text or "{}")
    return told.get("partition", -1), told.get("offset", -1)


def between(begin: int, end: int, kept: Collection[int]) -> list[int]:
    """The ranges of [begin, end) without the offsets that are kept: from and to in turn."""
    spans, at = [], begin
    for offset in (*sorted(kept), end):
        spans += [at, offset] if offset > at else []
        at = offset + 1
    return spans


def bounded(begin: Offsets, end: Offsets, most: int | None) -> Offsets:
    """The end of a batch of at most `most` offsets, shared out by what each partition holds, the rest in order."""
    there = {part: end[part] - begin[part] for part in end}
    total = sum(there.values())
    if most is None or total <= most:
        return end
    share = {part: most * count // total for part, count in there.items()}
    left = most - sum(share.values())
    for part, count in there.items():
        more = min(left, count - share[part])
        share[part], left = share[part] + more, left - more
    return {part: begin[part] + share[part] for part in end}
