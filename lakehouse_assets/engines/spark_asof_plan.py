"""Where the keys of an as-of join are cut, and which task takes which slice: by a sample of the rows.

Answers do not rest on it: the same rows are found wherever the cuts are.
What belongs here: arithmetic on the sample. What does not: frames.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

UNEVEN = 1.5
"""Keys are cut where a task would else get this many times the mean; a sample does not see every row."""
SLICES_OF_TASK = 4
"""A slice of a key that is cut holds at most this part of the mean, so that tasks can be filled evenly."""
_SEEN = 1 / 32
"""Keys with less than this part of the mean are left to chance, of which there are many."""


@dataclass(frozen=True)
class Placed:
    """A key that has its place.

    Attributes:
        key: its values.
        bounds: the times at which a slice begins; before the first there is a slice, too.
        tasks: the task of each slice, one more than there are bounds.
    """

    key: tuple[Any, ...]
    bounds: list[int]
    tasks: list[int]


def planned(sample: Iterable[tuple[tuple[Any, ...], int]], tasks: int) -> list[Placed]:
    """The places of the keys that have more than a few of the rows; they are cut only if tasks are uneven otherwise.

    Args:
        sample: keys and times of rows of both sides.
        tasks: how many there are.
    """
    times: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for key, time in sample:
        times[key].append(time)
    mean = sum(map(len, times.values())) / tasks
    seen = {key: sorted(found) for key, found in times.items() if len(found) > max(1.0, mean * _SEEN)}
    light = mean - sum(map(len, seen.values())) / tasks
    placed, heaviest = _filled(seen, {key: [] for key in seen}, light, tasks)
    if heaviest > UNEVEN * mean:
        cuts = {key: _bounds(found, math.ceil(len(found) / mean * SLICES_OF_TASK)) for key, found in seen.items()}
        placed, _ = _filled(seen, cuts, light, tasks)
    return placed


def _filled(
    times: dict[tuple[Any, ...], list[int]], cuts: dict[tuple[Any, ...], list[int]], light: float, tasks: int
) -> tuple[list[Placed], float]:
    """Slices on tasks, the largest first, each on the emptiest, and what the fullest task holds."""
    slices = [
        (end - start, key, index)
        for key, found in times.items()
        for index, (start, end) in enumerate(_spans(found, cuts[key]))
    ]
    loads = [(light, task) for task in range(tasks)]
    taken = {key: [0] * (len(bounds) + 1) for key, bounds in cuts.items()}
    for weight, key, index in sorted(slices, key=lambda one: -one[0]):
        load, taken[key][index] = loads[0]
        heapq.heapreplace(loads, (load + weight, taken[key][index]))
    return [Placed(key, bounds, taken[key]) for key, bounds in cuts.items()], max(loads)[0]


def _bounds(times: list[int], slices: int) -> list[int]:
    """The times that cut sorted times into so many slices, fewer where one instant has many rows."""
    return sorted({times[len(times) * index // slices] for index in range(1, slices)} - {times[0]})


def _spans(times: list[int], bounds: list[int]) -> Iterable[tuple[int, int]]:
    return itertools.pairwise([0, *(bisect_left(times, bound) for bound in bounds), len(times)])


def homes(tasks: int) -> list[int]:
    """For each task a number that Spark's hash sends there."""
    found: dict[int, int] = {}
    for number in itertools.count():
        found.setdefault(_murmur3(number) % tasks, number)
        if len(found) == tasks:
            return [found[task] for task in range(tasks)]
    raise AssertionError("unreachable")


def _murmur3(number: int, seed: int = 42) -> int:
    """Spark's hash of an INT (Murmur3, 32 bits), as a signed number."""
    mixed = number * 0xCC9E2D51 & _32
    mixed = _rotated(mixed, 15) * 0x1B873593 & _32
    state = (_rotated(seed ^ mixed, 13) * 5 + 0xE6546B64) & _32
    state ^= 4  # bytes
    state = (state ^ state >> 16) * 0x85EBCA6B & _32
    state = (state ^ state >> 13) * 0xC2B2AE35 & _32
    state ^= state >> 16
    return state - (1 << 32) if state >> 31 else state


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _32


_32 = 0xFFFFFFFF
