"""Frames of q made by hand, in either byte order; each type with its edge values.

What belongs here: bytes and what they mean. What does not: the codec that is tested.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

DAY = dt.date
UTC = dt.UTC
_GUID = bytes(range(16))


class Case(NamedTuple):
    """The elements of a type: how `struct` writes them, what stands in the frame, and what is decoded of it."""

    number: int
    code: str
    given: list[Any]
    found: list[Any]


def moment(*parts: int) -> dt.datetime:
    """A moment in UTC."""
    return dt.datetime(*parts, tzinfo=UTC)


CASES = {
    "boolean": Case(1, "B", [1, 0], [True, False]),
    "guid": Case(2, "16s", [bytes(16), _GUID], [None, "00010203-0405-0607-0809-0a0b0c0d0e0f"]),
    "byte": Case(4, "B", [0, 127, 128, 255], [0, 127, 128, 255]),
    "short": Case(5, "h", [-(2**15), -(2**15) + 2, 0, 2**15 - 2], [None, -(2**15) + 2, 0, 2**15 - 2]),
    "int": Case(6, "i", [-(2**31), -(2**31) + 2, 0, 2**31 - 2], [None, -(2**31) + 2, 0, 2**31 - 2]),
    "long": Case(7, "q", [-(2**63), -(2**63) + 2, 0, 2**63 - 2], [None, -(2**63) + 2, 0, 2**63 - 2]),
    "real": Case(8, "f", [float("nan"), 0.5, float("inf"), -float("inf")], [None, 0.5, float("inf"), -float("inf")]),
    "float": Case(9, "d", [float("nan"), 5e-324, float("inf"), -1.5], [None, 5e-324, float("inf"), -1.5]),
    "char": Case(10, "c", [b" ", b"a", b"\0", b"~"], [None, "a", "\0", "~"]),
    "symbol": Case(11, "", [b"", b"a", "Zürich €".encode(), b"a b"], [None, "a", "Zürich €", "a b"]),
    "month": Case(
        13, "i", [-(2**31), -23988, 0, 290, 95999], [None, DAY(1, 1, 1), DAY(2000, 1, 1), DAY(2024, 3, 1), DAY(9999, 12, 1)]
    ),
    "date": Case(
        14, "i", [-(2**31), -730119, 0, 8766, 2921939], [None, DAY(1, 1, 1), DAY(2000, 1, 1), DAY(2024, 1, 1), DAY(9999, 12, 31)]
    ),
    "datetime": Case(
        15,
        "d",
        [float("nan"), 0.5, -0.25, 8766 + 1 / 86_400_000],
        [None, moment(2000, 1, 1, 12), moment(1999, 12, 31, 18), moment(2024, 1, 1, 0, 0, 0, 1000)],
    ),
    "timespan": Case(16, "q", [-(2**63), -(2**63) + 2, 1, 2**63 - 2], [None, -(2**63) + 2, 1, 2**63 - 2]),
    "minute": Case(17, "i", [-(2**31), -1, 1439], [None, -60_000_000_000, 86_340_000_000_000]),
    "second": Case(
        18, "i", [-(2**31), -(2**31) + 2, 2**31 - 2], [None, (-(2**31) + 2) * 10**9, (2**31 - 2) * 10**9]
    ),
    "time": Case(19, "i", [-(2**31), -(2**31) + 2, 1, 2**31 - 2], [None, (-(2**31) + 2) * 10**6, 10**6, (2**31 - 2) * 10**6]),
}  # fmt: skip
"""Every type but timestamp, whose nanoseconds Python does not hold."""
TIMESTAMPS = [-(2**63), -(2**63) + 2, -1, 0, 2**63 - 1 - 946_684_800 * 10**9]
"""Since 2000: null, the first, one before, the epoch, the last that has nanoseconds since 1970."""
SENTINELS = {
    "short": ("h", 2**15 - 1), "int": ("i", 2**31 - 1), "long": ("q", 2**63 - 1), "timestamp": ("q", 2**63 - 1),
    "month": ("i", 2**31 - 1), "date": ("i", 2**31 - 1), "timespan": ("q", 2**63 - 1), "minute": ("i", 2**31 - 1),
    "second": ("i", 2**31 - 1), "time": ("i", 2**31 - 1), "datetime": ("d", float("inf")),
}  # fmt: skip
"""The infinity of each type that has one and does not hold it."""
NUMBERS = {name: case.number for name, case in CASES.items()} | {"timestamp": 12}


class Q:
    """Writes messages in one byte order: `<` little-endian, `>` big-endian."""

    def __init__(self, order: str = "<") -> None:
        self.order = order

    def elements(self, code: str, values: Sequence[Any]) -> bytes:
        """The elements of a vector; no code: symbols."""
        if not code:
            return b"".join(value + b"\0" for value in values)
        return b"".join(struct.pack(self.order + code, value) for value in values)

    def vector(self, number: int, code: str, values: Sequence[Any], attribute: int = 0) -> bytes:
        """A vector."""
        return struct.pack(self.order + "bBi", number, attribute, len(values)) + self.elements(code, values)

    def case(self, name: str) -> bytes:
        """The vector of a case."""
        if name == "timestamp":
            return self.vector(12, "q", TIMESTAMPS)
        return self.vector(*CASES[name][:3])

    def symbols(self, *values: bytes | str) -> bytes:
        """A symbol vector."""
        return self.vector(11, "", [value.encode() if isinstance(value, str) else value for value in values])

    def chars(self, text: bytes) -> bytes:
        """A char vector."""
        return struct.pack(self.order + "bBi", 10, 0, len(text)) + text

    def list(self, *items: bytes) -> bytes:
        """A general list."""
        return struct.pack(self.order + "bBi", 0, 0, len(items)) + b"".join(items)

    def dictionary(self, keys: bytes, values: bytes, number: int = 99) -> bytes:
        """A dictionary, or a keyed table."""
        return struct.pack("b", number) + keys + values

    def table(self, columns: Sequence[tuple[str, bytes]], attribute: int = 0) -> bytes:
        """A table."""
        names = self.symbols(*(name for name, _ in columns))
        return bytes((98, attribute)) + self.dictionary(names, self.list(*(column for _, column in columns)))

    def frame(self, message: bytes, kind: int = 2) -> bytes:
        """The frame around a message."""
        size = 8 + len(message)
        low = (size & 0xFFFFFFFF).to_bytes(4, "little" if self.order == "<" else "big")
        return bytes((self.order == "<", kind, 0, size >> 32)) + low + message
