"""Columns whose rows are lists: char vectors become text, vectors become lists, lists of them lists of lists.

What belongs here: a general list as one Arrow array. What does not: simple vectors (`qipc_values.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakehouse_assets.sources.kdb_types import (
    BY_NUMBER,
    CHAR,
    CHARS,
    LIST,
    OF,
    REFUSED,
    SYMBOL,
    number_name,
)
from lakehouse_assets.sources.qipc_frames import malformed
from lakehouse_assets.sources.qipc_values import MOST, Bytes, Unheld, array, symbols, texts

if TYPE_CHECKING:
    from lakehouse_assets.sources.qipc_reader import Place, Reader


_HEAD = 6
"""Bytes of a vector's type, attribute and length."""


class _Level:
    """The rows of one depth, found but not read: how many elements each has, and where in the frame they begin."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.counts: list[int] = []
        self.spans: list[tuple[int, int]] = []
        self.inner: _Level | None = None

    def fill(self, reader: Reader, rows: int, place: Place) -> None:
        """Find this many more rows."""
        end = len(self.counts) + rows
        while len(self.counts) < end:
            self._one(reader, place)
            if self.number:
                self._run(reader, end - len(self.counts))

    def _one(self, reader: Reader, place: Place) -> None:
        number = reader.number()
        if number != LIST and number not in BY_NUMBER:
            raise _not_a_list(reader, number, place, len(self.counts))
        count = reader.count()
        if number != LIST or count:
            if self.number not in (None, number):
                raise _mixed(self.number, number, place, len(self.counts))
            self.number = number
        if number == LIST and count:
            self.inner = self.inner or _Level()
            self.inner.fill(reader, count, place.deeper())
        elif count:
            start = reader.at
            reader.take(count * BY_NUMBER[number].width)
            if number == SYMBOL:
                reader.at = _behind(reader.plain, start, count)
            self.spans.append((start, reader.at))
        self.counts.append(count)

    def _run(self, reader: Reader, most: int) -> None:
        """Rows of the same type, or empty, as long as nothing is odd about them; the odd one is left to `_one`."""
        mine = self.number or 0
        width = BY_NUMBER[mine].width
        at, end, view, unpack = reader.at, reader.end, reader.view, reader.head.unpack_from
        for _ in range(most):
            if end - at < _HEAD:
                break
            number, attribute, count = unpack(view, at)
            if attribute or count < 0 or count > end - at or (number != mine and (number or count)):
                break
            start = at + _HEAD
            stop = start + count * width if width else _behind(reader.plain, start, count)
            if stop > end:
                break
            if count:
                self.spans.append((start, stop))
            self.counts.append(count)
            at = stop
        reader.at = at

    def made(self, reader: Reader) -> tuple[str, pa.Array]:
        """Q's name and the array.

        Raises:
            Unheld: with the number of the row at this depth.
        """
        counts = np.array(self.counts, np.int64)
        if self.number is None:
            return "list", pa.nulls(len(counts))
        if self.number == CHAR:
            return CHARS, texts(self._elements(reader), counts)
        try:
            inner, values = self._values(reader)
        except Unheld as unheld:
            row = int(np.searchsorted(np.cumsum(counts), unheld.index, side="right"))
            raise Unheld(f"holds a value that {unheld.problem}", row) from None
        return inner + OF, _list_array(values, counts)

    def _values(self, reader: Reader) -> tuple[str, pa.Array]:
        if self.inner is not None:
            return self.inner.made(reader)
        number = self.number or 0
        raw = self._elements(reader)
        if number == SYMBOL:
            return BY_NUMBER[number].name, symbols(raw, np.flatnonzero(raw == 0))
        return BY_NUMBER[number].name, array(number, raw, reader.big_endian, reader.infinities)

    def _elements(self, reader: Reader) -> Bytes:
        """The bytes of all elements, one row after the other: heads lie between any two of them in the frame."""
        if not self.spans:
            return np.empty(0, np.uint8)
        spans = np.array(self.spans, np.int64)
        first, last = int(spans[0, 0]), int(spans[-1, 1])
        steps = np.zeros(last - first + 1, np.int8)
        steps[spans[:, 0] - first] = 1
        steps[spans[:, 1] - first] = -1
        return reader.bytes[first:last][np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)]


def lists(reader: Reader, count: int, place: Place) -> tuple[str, pa.Array]:
    """A column that is a general list of `count` rows: q's name of its type, and the array.

    Rows are vectors of one type, or lists of such. An empty general list stands for an empty list of whatever the
    others are; a column without any element has Arrow's null type (`kdb_types.typed` mends it).

    Raises:
        TypeRefused: rows of several types, atoms among them, or a value that is not held.
    """
    level = _Level()
    level.fill(reader, count, place.deeper())
    try:
        return level.made(reader)
    except Unheld as unheld:
        raise place.refused(unheld.problem, unheld.index) from None


def _behind(plain: bytes, at: int, count: int) -> int:
    """Where the bytes behind `count` symbols begin.

    Raises:
        SourceUnreadable: the frame ends before.
    """
    for _ in range(count):
        at = plain.find(b"\0", at) + 1
        if not at:
            raise malformed("it is cut: a symbol without end")
    return at


def _list_array(values: pa.Array, counts: npt.NDArray) -> pa.Array:
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    if int(ends[-1]) > MOST:
        raise Unheld(
            "is where the lists of a column pass 2^31 elements: ask for fewer rows", int(np.argmax(ends > MOST)) - 1
        )
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), values)


def _mixed(first: int | None, number: int, place: Place, row: int) -> Exception:
    names = number_name(first or 0), number_name(number)
    return place.refused(
        f"is a vector of {names[1]}, and rows before it are of {names[0]}: a mixed list", row, REFUSED["mixed list"]
    )


def _not_a_list(reader: Reader, number: int, place: Place, row: int) -> Exception:
    if -number in BY_NUMBER or number_name(number).startswith("null"):
        return place.refused(f"is one {number_name(number)}, not a list: a mixed list", row, REFUSED["mixed list"])
    return reader.unheld(number, place, row)
