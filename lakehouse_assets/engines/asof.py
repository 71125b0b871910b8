"""The as-of join over Arrow data, in the memory of this process: exact, and as fast as sorted data allows.

The right rows are put in the order of time and cut into slices that fit the processor's caches; within a slice, rows
of one key are brought together by a radix sort of small integers, and all left rows of the slice's span are found with
one binary search. What a slice leaves unanswered is answered by the last row of that key in the slices before it.
What belongs here: arrays. What does not: relations of an engine, and whether columns fit (`asof_columns.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.engines.asof_columns import nanoseconds, result_columns
from lakehouse_assets.engines.asof_spec import AsOf, Direction
from lakehouse_assets.engines.asof_ties import Settler

Ints: TypeAlias = npt.NDArray[np.int64]
Codes: TypeAlias = npt.NDArray[np.int32]
SLICE_ROWS = 1 << 16
"""Right rows that are looked at together."""
_RADIX = 1 << 15
"""Codes below it are sorted by NumPy's radix sort, which knows 16 bits."""
_CODED_ROWS = 1 << 20
_FAR = int(np.iinfo(np.uint64).max)
"""No two times are further apart."""


def join(left: pa.Table, right: pa.Table, how: AsOf, threads: int = 2) -> pa.Table:
    """The as-of join of two tables, in the order of the left one.

    Raises:
        CatalogError: the columns do not fit.
    """
    result_columns(left.schema, right.schema, how)
    return brought(left, right, how, matches(left, right, how, threads))


def brought(left: pa.Table, right: pa.Table, how: AsOf, found: Ints) -> pa.Table:
    """The left table with columns of the found right rows; -1: none."""
    index = pa.array(found, mask=found < 0)
    arrays = [*left.columns, *(right[name].take(index) for name in how.columns)]
    return pa.Table.from_arrays(arrays, schema=result_columns(left.schema, right.schema, how))


def matches(left: pa.Table, right: pa.Table, how: AsOf, threads: int = 2, slice_rows: int = SLICE_ROWS) -> Ints:
    """The number of the right row for each left row; -1: none."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        coder = Coder([left[name] for name in how.by], pool)
        codes = coder.codes([right[name] for name in how.by])
        lefts = Side.of(left, how.time, coder.left)
        rights = Side.of(right, how.right_time, codes, tuple(how.columns) if how.skip_nulls else ())
        search = _Search(lefts, rights, Settler(right, how.order), coder.count, how.strict, slice_rows)
        both = [search.run(direction, pool) for direction in how.passes]
    if how.tolerance is not None:
        reach = how.tolerance // nanoseconds(left.schema.field(how.time).type)
        both = [np.where(_distance(lefts, rights, one) <= np.uint64(min(reach, _FAR)), one, -1) for one in both]
    found = np.full(left.num_rows, -1, np.int64)
    found[lefts.rows] = both[0] if len(both) == 1 else _nearer(lefts, rights, *both)
    return found


def _distance(lefts: Side, rights: Side, found: Ints) -> npt.NDArray[np.uint64]:
    """How far the found rows are away: exact for any two times; the largest number where none is found."""
    there = rights.times_by_row[found] if len(rights.times_by_row) else np.zeros_like(found)
    early, late = np.minimum(there, lefts.times), np.maximum(there, lefts.times)
    away: npt.NDArray[np.uint64] = late.view(np.uint64) - early.view(np.uint64)
    away[found < 0] = _FAR
    return away


def _nearer(lefts: Side, rights: Side, before: Ints, after: Ints) -> Ints:
    """Of two found rows the nearer one, and the earlier if they are equally far."""
    sooner = _distance(lefts, rights, before) <= _distance(lefts, rights, after)
    return np.where((before >= 0) & (sooner | (after < 0)), before, after)


class Coder:
    """Numbers the keys of the left side: equal keys have equal codes, below `count`; -1: a key with NULL.

    Attributes:
        left: the codes of the left rows.
    """

    def __init__(self, columns: Sequence[pa.ChunkedArray], pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._values = [_distinct(column) for column in columns]
        self._pairs: list[Ints] = []
        self.left = self._code(columns[0], 0)
        self.count = len(self._values[0])
        for index in range(1, len(columns)):
            pairs = self._paired(self.left, columns[index], index)
            known, codes = np.unique(pairs, return_inverse=True)
            if nulls := int(len(known) > 0 and known[0] < 0):
                known = known[1:]
            self.left = (codes - nulls).astype(np.int32)
            self._pairs.append(known)
            self.count = len(known)

    def codes(self, columns: Sequence[pa.ChunkedArray]) -> Codes:
        """The codes of other rows; -1, too, for a key that no left row has."""
        codes = self._code(columns[0], 0)
        for index, known in enumerate(self._pairs, 1):
            pairs = self._paired(codes, columns[index], index)
            at = np.minimum(known.searchsorted(pairs), max(0, len(known) - 1))
            codes = np.where(known[at] == pairs, at, -1).astype(np.int32) if len(known) else np.full_like(codes, -1)
        return codes

    def _paired(self, codes: Codes, column: pa.ChunkedArray, index: int) -> Ints:
        more = self._code(column, index)
        pairs = codes.astype(np.int64) * len(self._values[index]) + more
        pairs[(codes < 0) | (more < 0)] = -1
        return pairs

    def _code(self, column: pa.ChunkedArray, index: int) -> Codes:
        parts = [column.slice(start, _CODED_ROWS) for start in range(0, len(column), _CODED_ROWS)]
        coded = list(self._pool.map(lambda part: _coded(part, self._values[index]), parts))
        return np.concatenate(coded) if coded else np.zeros(0, np.int32)


def _distinct(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = pa.chunked_array([chunk.dictionary for chunk in column.chunks], column.type.value_type)
    return pc.unique(column).drop_null()


def _coded(column: pa.ChunkedArray, values: pa.Array) -> Codes:
    parts = []
    for chunk in column.chunks:
        found = pc.index_in(chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk, value_set=values)
        codes = found.fill_null(-1).to_numpy(zero_copy_only=False)
        if pa.types.is_dictionary(chunk.type):
            codes = np.append(codes, np.int32(-1))[chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
        parts.append(codes)
    return np.concatenate(parts)


@dataclass(frozen=True)
class Side:
    """The rows of one side that can match, in the order of time.

    Attributes:
        rows: their numbers in the table; a slice of everything if they are the table as it stands.
        codes: their keys.
        times: their times.
        times_by_row: the times of all rows of the table.
    """

    rows: Ints | slice
    codes: Codes
    times: Ints
    times_by_row: Ints

    @classmethod
    def of(cls, table: pa.Table, time: str, codes: Codes, needed: Sequence[str] = ()) -> Side:
        """The side of a table whose keys have these codes; rows count that have no NULL in time and `needed`."""
        times, counts = _ticks(table[time]), codes >= 0
        for name in (time, *needed):
            if table[name].null_count:
                counts &= table[name].is_valid().to_numpy()
        if counts.all() and _ascending(times):
            return cls(slice(None), codes, times, times)
        rows = np.flatnonzero(counts)
        if not _ascending(times[rows]):
            rows = rows[np.argsort(times[rows])]
        return cls(rows, codes[rows], times[rows], times)

    def numbers(self, positions: Ints, start: int) -> Ints:
        """The numbers in the table of rows that are counted from `start`."""
        positions = positions + start
        return positions if isinstance(self.rows, slice) else self.rows[positions]


def _ticks(column: pa.ChunkedArray) -> Ints:
    """Times as integers of their unit; those that are NULL are 0."""
    whole = pa.int64()
    stamps = pa.types.is_timestamp(column.type)
    parts = [(chunk.view(whole) if stamps else chunk.cast(whole)).fill_null(0).to_numpy() for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _ascending(times: Ints) -> bool:
    return bool((times[1:] >= times[:-1]).all())


@dataclass(frozen=True)
class _Found:
    """What a slice gives: the rows that its left rows found, and what it leaves to left rows further on."""

    rows: Ints
    keys: Codes
    left_over: Ints


@dataclass(frozen=True)
class _Search:
    """The search for one direction, slice by slice."""

    lefts: Side
    rights: Side
    settler: Settler
    count: int
    strict: bool
    slice_rows: int

    def run(self, direction: Direction, pool: ThreadPoolExecutor) -> Ints:
        """The number of the right row for each of the left rows in the order of time; -1: none."""
        found = np.full(len(self.lefts.times), -1, np.int64)
        if not len(self.rights.times):
            return found
        spans = self._spans() if direction == "backward" else self._spans()[::-1]
        standing = np.full(self.count, -1, np.int64)
        slices = pool.map(lambda span: self._slice(direction, *span), spans)
        for (_, left), one in zip(spans, slices, strict=True):
            found[left] = np.where(one.rows >= 0, one.rows, standing[self.lefts.codes[left]])
            standing[one.keys] = one.left_over
        return found

    def _spans(self) -> list[tuple[slice, slice]]:
        """Slices of the right rows that cut no instant in two, and the left rows of the same time."""
        times = self.rights.times
        cuts = sorted({int(times.searchsorted(times[at])) for at in range(0, len(times), self.slice_rows)} - {0})
        others = [int(self.lefts.times.searchsorted(times[cut])) for cut in cuts]
        rights = zip([0, *cuts], [*cuts, len(times)], strict=True)
        lefts = zip([0, *others], [*others, len(self.lefts.times)], strict=True)
        return [(slice(*right), slice(*left)) for right, left in zip(rights, lefts, strict=True)]

    def _slice(self, direction: Direction, right: slice, left: slice) -> _Found:
        codes, times = self.rights.codes[right], self.rights.times[right]
        order = _by_code(codes, self.count)
        codes = codes[order]
        rows = self.settler.settled(self.rights.numbers(order, right.start), codes, times[order])
        at = self._place(direction, codes, order, times, left) - (direction == "backward")
        inside = np.clip(at, 0, len(codes) - 1)
        hit = (inside == at) & (codes[inside] == self.lefts.codes[left])
        changes = np.flatnonzero(codes[1:] != codes[:-1])
        ends = np.append(changes, len(codes) - 1) if direction == "backward" else np.append(0, changes + 1)
        return _Found(np.where(hit, rows[inside], -1), codes[ends], rows[ends])

    def _place(self, direction: Direction, codes: Codes, order: Ints, times: Ints, left: slice) -> Ints:
        """For each left row the place in the right rows by key and time: those before it are too early, or not later.

        A row's place among all in the order of time stands for its time, so key and time are one number.
        """
        wanted, width = self.lefts.codes[left], len(times) + 1
        side: Literal["left", "right"] = "right" if (direction == "backward") != self.strict else "left"
        early = times.searchsorted(self.lefts.times[left], side)
        by_key = _by_code(wanted, self.count)
        place = np.empty(len(wanted), np.int64)
        # in this order the binary search finds its way in the cache
        place[by_key] = (codes * np.int64(width) + order).searchsorted((wanted * np.int64(width) + early)[by_key])
        return place


def _by_code(codes: Codes, count: int) -> Ints:
    """The order of rows by code, and within one as they stand."""
    low = np.argsort((codes & (_RADIX - 1)).astype(np.int16), kind="stable")
    if count <= _RADIX:
        return low
    return low[np.argsort((codes[low] >> 15).astype(np.int16), kind="stable")]
