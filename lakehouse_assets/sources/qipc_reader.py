"""Walks the message in a plain frame: atoms become Python, vectors and tables Arrow.

What belongs here: the grammar of a message, and names of columns. What does not: elements (`qipc_values.py`), the frame
and its compression (`qipc_frames.py`), columns of lists (`qipc_nested.py`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakehouse_assets.errors import SourceError, TypeRefused
from lakehouse_assets.sources.kdb_types import (
    BY_NUMBER,
    CHAR,
    DICTIONARY,
    ERROR,
    KEYS,
    LIST,
    NULL,
    REFUSED,
    SORTED,
    SYMBOL,
    TABLE,
    field,
    number_name,
)
from lakehouse_assets.sources.qipc_frames import malformed
from lakehouse_assets.sources.qipc_nested import lists
from lakehouse_assets.sources.qipc_values import Unheld, array, symbols

DEEPEST = 64
"""Lists and dictionaries inside each other that are followed."""
_WIDE = 0x80
_ATTRIBUTES = 4
_WINDOW = 1 << 20


class QServerError(SourceError):
    """The error that a q process answered with: `QServerError("type")`."""

    @property
    def text(self) -> str:
        """Q's own text, without the tick."""
        return self.problem

    def _message(self) -> str:
        return f"the kdb server answered with the error '{self.problem}"


@dataclass(frozen=True)
class QDict:
    """A dictionary of q that is no keyed table: keys and values as they decode."""

    keys: Any
    values: Any


@dataclass(frozen=True)
class Place:
    """Where in a message something stands, for messages: a column, and how deep."""

    column: str | None = None
    depth: int = 0

    def deeper(self, column: str | None = None) -> Place:
        """The place of something inside.

        Raises:
            SourceUnreadable: too deep to be data.
        """
        if self.depth >= DEEPEST:
            raise malformed(f"lists inside each other, {DEEPEST} deep")
        return replace(self, column=column or self.column, depth=self.depth + 1)

    def refused(self, what: str, row: int | None = None, fix: str | None = None) -> TypeRefused:
        """The error of something that is not held, here."""
        row_text = "" if row is None else f"row {row}"
        column_text = "" if self.column is None else f"column {self.column!r}"
        where = " of ".join(part for part in (row_text, column_text) if part) or "the answer"
        return TypeRefused(f"{where} {what}", fix=fix, column=self.column, row=row)


class Reader:
    """Reads the message of one plain frame from front to back; one use.

    Args:
        frame: the whole frame, its header included.
    """

    def __init__(
        self,
        frame: bytes | bytearray | memoryview,
        *,
        big_endian: bool = False,
        infinities: str = "refuse",
    ) -> None:
        self.bytes = np.frombuffer(frame, np.uint8)
        self.view = memoryview(frame)
        self.end = len(self.view)
        self.at = 8
        self.big_endian = big_endian
        self.infinities = infinities
        order = ">" if big_endian else "<"
        self._int, self._long = struct.Struct(order + "i"), struct.Struct(order + "q")
        self.head = struct.Struct(order + "bBi")

    @cached_property
    def plain(self) -> bytes:
        """The frame as bytes, which are searched faster than a view, for symbols one by one."""
        return bytes(self.view)

    def message(self) -> Any:
        """What the frame holds.

        Raises:
            QServerError: an error.
            SourceUnreadable: it is cut, or no message of q.
            TypeRefused: a type or a value that is not held.
        """
        if self.at < self.end and self.view[self.at] == ERROR & 0xFF:
            self.at += 1
            text = self.text().decode("utf-8", "replace")
            self._done()
            raise QServerError(text)
        found = self._object(Place())
        self._done()
        return found

    def _done(self) -> None:
        if self.at != self.end:
            raise malformed(f"{self.end - self.at} bytes after its end")

    def take(self, count: int) -> int:
        """Where the next `count` bytes begin, which are passed over."""
        start = self.at
        if count > self.end - start:
            raise malformed(f"it is cut: {count} bytes are due at {start}, {self.end - start} are left")
        self.at = start + count
        return start

    def number(self) -> int:
        """The type that follows; atoms are negative."""
        found = self.view[self.take(1)]
        return found - 256 if found > 127 else found

    def count(self) -> int:
        """The attribute, which is dropped, and the number of elements that follow: 4 bytes, or 8."""
        attribute = self.view[self.take(1)]
        if attribute & ~_WIDE > _ATTRIBUTES:
            raise malformed(f"attribute {attribute} of a vector, which q does not have")
        if attribute & _WIDE:
            (found,) = self._long.unpack_from(self.view, self.take(8))
        else:
            (found,) = self._int.unpack_from(self.view, self.take(4))
        if not 0 <= found <= self.end - self.at:
            raise malformed(f"a vector of {found} elements in {self.end - self.at} bytes")
        return int(found)

    def text(self) -> bytes:
        """The bytes up to the next NUL, which is passed over."""
        start = self.at
        window = 256
        while True:
            stop = bytes(self.view[start : start + window]).find(0)
            if stop >= 0:
                self.at = start + stop + 1
                return bytes(self.view[start : start + stop])
            if start + window >= self.end:
                raise malformed("it is cut: a symbol without end")
            window *= 16

    def fixed(self, number: int, count: int) -> npt.NDArray[np.uint8]:
        """The bytes of `count` elements of a type with a fixed width."""
        size = count * BY_NUMBER[number].width
        start = self.take(size)
        return self.bytes[start : start + size]

    def symbol_span(self, count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray]:
        """The bytes of `count` symbols, and where in them their NULs are."""
        start, found = self.at, 0
        stops: list[npt.NDArray] = []
        at = start
        while found < count:
            if at >= self.end:
                raise malformed(f"it is cut: {found} of {count} symbols")
            some = np.flatnonzero(self.bytes[at : at + _WINDOW] == 0)[: count - found]
            stops.append(some + (at - start))
            found += len(some)
            at += _WINDOW
        places = np.concatenate(stops) if stops else np.empty(0, np.int64)
        self.at = start + (int(places[-1]) + 1 if count else 0)
        return self.bytes[start : self.at], places

    def simple(self, number: int, count: int, place: Place) -> pa.Array:
        """A vector of a simple type, behind its count."""
        try:
            if number == SYMBOL:
                return symbols(*self.symbol_span(count))
            return array(number, self.fixed(number, count), self.big_endian, self.infinities)
        except Unheld as unheld:
            raise place.refused(unheld.problem, unheld.index) from None

    def _object(self, place: Place) -> Any:
        number = self.number()
        if number == LIST:
            inner = place.deeper()
            return [self._object(inner) for _ in range(self.count())]
        if number == CHAR:
            start = self.take(self.count())
            return bytes(self.view[start : self.at])
        if number in BY_NUMBER:
            return self.simple(number, self.count(), place)
        if -number in BY_NUMBER:
            return self._atom(-number, place)
        if number == TABLE:
            return self._table()
        if number in (DICTIONARY, SORTED):
            return self._dictionary(place.deeper())
        if number == NULL:
            self.take(1)
            return None
        raise self.unheld(number, place)

    def unheld(self, number: int, place: Place, row: int | None = None) -> Exception:
        """The error of a type that is not held, or that does not exist."""
        name = number_name(number)
        if name.startswith("enumeration"):
            return place.refused(f"is an {name}", row, fix=REFUSED["enumeration"])
        if name.startswith("function"):
            return place.refused(f"is a {name}, not data", row, fix="let the query end in a value")
        if name.startswith("type"):
            return malformed(f"{name} at byte {self.at - 1}, which q does not send")
        return place.refused(f"is a {name}", row, fix=REFUSED["dictionary, table"])

    def _atom(self, number: int, place: Place) -> Any:
        if number == CHAR:
            found = bytes(self.view[self.take(1) : self.at])
            return None if found == b" " else found
        found = self.simple(number, 1, place)
        if BY_NUMBER[number].name == "timestamp" and found[0].is_valid:
            return np.datetime64(found.view(pa.int64())[0].as_py(), "ns")
        return found[0].as_py()

    def _dictionary(self, place: Place) -> Any:
        keys, values = self._object(place), self._object(place)
        if not (isinstance(keys, pa.Table) and isinstance(values, pa.Table)):
            return QDict(keys, values)
        if keys.num_rows != values.num_rows:
            raise malformed(f"a keyed table of {keys.num_rows} keys and {values.num_rows} rows")
        fields = distinct([*keys.schema, *values.schema])
        schema = pa.schema(fields, {KEYS: str(keys.num_columns).encode()})
        return pa.Table.from_arrays([*keys.columns, *values.columns], schema=schema)

    def _table(self) -> pa.Table:
        self.take(1)
        if self.number() != DICTIONARY or self.number() != SYMBOL:
            raise malformed("a table without names of columns")
        names = self.simple(SYMBOL, self.count(), Place()).fill_null("").to_pylist()
        if self.number() != LIST or self.count() != len(names):
            raise malformed("a table that has not one column for each name")
        fields, columns = [], []
        for name in names:
            kind, column = self._column(Place(name))
            fields.append(field(name, kind, column.type))
            columns.append(column)
        if len({len(column) for column in columns}) > 1:
            raise malformed("a table whose columns differ in length")
        return pa.Table.from_arrays(columns, schema=pa.schema(distinct(fields)))

    def _column(self, place: Place) -> tuple[str, pa.Array]:
        number = self.number()
        if number == LIST:
            return lists(self, self.count(), place)
        if number not in BY_NUMBER:
            if -number in BY_NUMBER:
                raise malformed(f"column {place.column!r} is an atom")
            raise self.unheld(number, place)
        return BY_NUMBER[number].name, self.simple(number, self.count(), place)


def distinct(fields: list[pa.Field]) -> list[pa.Field]:
    """The fields with names of their own: what comes again is numbered as q does, `c`, `c1`, `c2`.

    Raises:
        TypeRefused: such a name is that of another column.
    """
    given = {of.name for of in fields}
    seen: dict[str, int] = {}
    found = []
    for of in fields:
        times = seen[of.name] = seen.get(of.name, -1) + 1
        name = f"{of.name}{times}" if times else of.name
        if times and name in given:
            raise TypeRefused(
                f"column {of.name!r} comes {times + 1} times, and {name!r}, as q would call it, is a column already",
                fix="name the columns in the query",
                column=of.name,
            )
        found.append(of.with_name(name))
    return found
