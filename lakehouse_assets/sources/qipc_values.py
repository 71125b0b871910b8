"""One vector of q as Arrow: the bytes of its elements in, an array out, its buffers aligned and copied once.

What belongs here: nulls, infinities, epochs, units and text. What does not: where a vector begins (`qipc_reader.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakehouse_assets.sources.kdb_types import BY_NUMBER, DAYS, NANOSECONDS, QType

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
LAST_TIMESTAMP = 2**63 - 1 - NANOSECONDS
"""The last nanosecond since 2000 that has a number of nanoseconds since 1970."""
FIRST_DAY, LAST_DAY = -719_162 - DAYS, 2_932_896 - DAYS
"""0001-01-01 and 9999-12-31, in days since 2000."""
FIRST_MONTH, LAST_MONTH = -1999 * 12, 8000 * 12 - 1
MOST = 2**31 - 1
"""Bytes of text, or elements of lists, that one Arrow array of the types used here holds."""
_DAY_MS = 86_400_000
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_DASHES = (8, 13, 18, 23)
_DIGITS = [place for place in range(36) if place not in _DASHES]


class Unheld(Exception):
    """An element that Arrow or the lake has no place for: what it is, and its number in the vector."""

    def __init__(self, problem: str, index: int) -> None:
        super().__init__(problem, index)
        self.problem, self.index = problem, index


def array(number: int, raw: Bytes, big_endian: bool = False, infinities: str = "refuse") -> pa.Array:
    """The elements of a vector of q's type `number`, which has a fixed width, as Arrow.

    Args:
        raw: the bytes of the elements, nothing else.
        infinities: `refuse`, or `null` to make NULL of those of integers and times.

    Raises:
        Unheld: an element has no place.
    """
    q = BY_NUMBER[number]
    if q.sentinel:
        return _whole(q, raw, big_endian, infinities == "null")
    if q.name in ("real", "float"):
        return _real(q, raw, big_endian)
    if q.name == "datetime":
        return _datetime(raw, big_endian, infinities == "null")
    return _BYTES[q.name](raw)


def _own(raw: Bytes, dtype: str, big_endian: bool) -> tuple[pa.Buffer, npt.NDArray]:
    """A copy of numbers in an aligned buffer of their own, in this machine's byte order."""
    given = raw.view(np.dtype(dtype).newbyteorder(">" if big_endian else "<"))
    buffer = pa.allocate_buffer(given.nbytes)
    mine = np.frombuffer(buffer, np.dtype(dtype))
    mine[:] = given
    return buffer, mine


def _made(values: npt.NDArray) -> pa.Buffer:
    return pa.py_buffer(np.ascontiguousarray(values))


def _array(arrow: pa.DataType, buffer: pa.Buffer, count: int, null: Mask | None = None) -> pa.Array:
    valid, nulls = _valid(null)
    return pa.Array.from_buffers(arrow, count, [valid, buffer], nulls)


def _valid(null: Mask | None) -> tuple[pa.Buffer | None, int]:
    """The validity bitmap of Arrow, if there are nulls, and how many there are."""
    nulls = 0 if null is None else int(np.count_nonzero(null))
    return (None if null is None or not nulls else _made(np.packbits(~null, bitorder="little"))), nulls


def _whole(q: QType, raw: Bytes, big_endian: bool, lenient: bool) -> pa.Array:
    buffer, mine = _own(raw, q.dtype, big_endian)
    null = _sentinels(q, mine, lenient)
    if q.arrow in (pa.int16(), pa.int32()) or q.unit == 1 or q.name == "long":
        return _array(q.arrow, buffer, len(mine), null)
    if null is not None:
        mine[null] = 0
    if q.name == "timestamp":
        _within(q, mine, -(2**63), LAST_TIMESTAMP, "is after 2262-04-11T23:47:16.854775807")
        mine += NANOSECONDS
    elif q.name == "date":
        _within(q, mine, FIRST_DAY, LAST_DAY, "lies outside of the years 1 to 9999")
        mine += DAYS
    elif q.name == "month":
        _within(q, mine, FIRST_MONTH, LAST_MONTH, "lies outside of the years 1 to 9999")
        months = (mine.astype(np.int64) + 360).astype("datetime64[M]")
        mine[:] = months.astype("datetime64[D]").astype(np.int64)
    else:
        most = (2**63 - 1) // q.unit
        _within(q, mine, -most, most, "does not fit into nanoseconds of 64 bits")
        buffer = _made(mine.astype(np.int64) * q.unit)
    return _array(q.arrow, buffer, len(mine), null)


def _sentinels(q: QType, mine: npt.NDArray, lenient: bool) -> Mask | None:
    """Where the nulls are, and the infinities if they become nulls; `None`: nowhere."""
    if not len(mine):
        return None
    most = np.iinfo(mine.dtype).max
    low, high = mine.min(), mine.max()
    if low > -most and high < most:
        return None
    null: Mask = mine == -most - 1
    endless = (mine == most) | (mine == -most)
    if not endless.any():
        return null
    if not lenient:
        _first(endless, lambda at: f"is an infinity of type {q.name} ({'-' if mine[at] < 0 else ''}0W)")
    return null | endless


def _first(bad: Mask, problem: str | Callable[[int], str]) -> None:
    """Raise for the first of what is bad, if any is."""
    if bad.any():
        at = int(np.argmax(bad))
        raise Unheld(problem if isinstance(problem, str) else problem(at), at)


def _within(q: QType, mine: npt.NDArray, least: int, most: int, problem: str) -> None:
    if len(mine) and (int(mine.min()) < least or int(mine.max()) > most):
        _first((mine < least) | (mine > most), f"is a {q.name} that {problem}")


def _real(q: QType, raw: Bytes, big_endian: bool) -> pa.Array:
    buffer, mine = _own(raw, q.dtype, big_endian)
    if not len(mine) or not np.isnan(mine.min()):
        return _array(q.arrow, buffer, len(mine))
    return _array(q.arrow, buffer, len(mine), np.isnan(mine))


def _datetime(raw: Bytes, big_endian: bool, lenient: bool) -> pa.Array:
    given = raw.view(">f8" if big_endian else "<f8").astype(np.float64)
    endless = np.isinf(given)
    if not lenient:
        _first(endless, lambda at: f"is an infinity of type datetime ({'-' if given[at] < 0 else ''}0w)")
    null = endless | np.isnan(given)
    days = np.where(null, 0.0, given)
    outside = (days < FIRST_DAY) | (days >= LAST_DAY + 1)
    _first(outside, "is a datetime that lies outside of the years 1 to 9999")
    moments = (np.rint(days * _DAY_MS).astype(np.int64) + DAYS * _DAY_MS) * 1000
    return _array(BY_NUMBER[15].arrow, _made(moments), len(given), null)


def _boolean(raw: Bytes) -> pa.Array:
    return pa.Array.from_buffers(pa.bool_(), len(raw), [None, _made(np.packbits(raw != 0, bitorder="little"))], 0)


def _byte(raw: Bytes) -> pa.Array:
    return _array(pa.int16(), _made(raw.astype(np.int16)), len(raw))


def _guid(raw: Bytes) -> pa.Array:
    given = raw.reshape(-1, 16)
    null: Mask = given.max(axis=1, initial=0) == 0
    text = np.full((len(given), 36), ord("-"), np.uint8)
    text[:, _DIGITS[0::2]] = _HEX[given >> 4]
    text[:, _DIGITS[1::2]] = _HEX[given & 15]
    return _texts(text[~null].reshape(-1), np.where(null, 0, 36), null)


def _char(raw: Bytes) -> pa.Array:
    _first(raw > 127, lambda at: f"is the char 0x{raw[at]:02x}, which is no text in UTF-8")
    null = raw == 32
    return _texts(raw[~null], (~null).astype(np.int64), null)


_BYTES: dict[str, Callable[[Bytes], pa.Array]] = {"boolean": _boolean, "byte": _byte, "guid": _guid, "char": _char}


def _texts(data: Bytes, lengths: npt.NDArray, null: Mask | None) -> pa.Array:
    """Texts of these lengths, one after the other in `data`, which is not checked."""
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return _text_array(data, ends, null)


def _text_array(data: Bytes, ends: npt.NDArray, null: Mask | None) -> pa.Array:
    if int(ends[-1]) > MOST:
        raise Unheld("is where the texts of a column pass 2 GB: ask for fewer rows", int(np.argmax(ends > MOST)) - 1)
    valid, nulls = _valid(null)
    buffers = [valid, _made(ends.astype(np.int32)), _made(data)]
    return pa.Array.from_buffers(pa.string(), len(ends) - 1, buffers, nulls)


def symbols(raw: Bytes, stops: npt.NDArray) -> pa.Array:
    """Symbols as Arrow: `raw` are texts with a NUL after each, `stops` where the NULs are; an empty one is NULL.

    Raises:
        Unheld: a symbol is not UTF-8.
    """
    count = len(stops)
    ends = np.zeros(count + 1, np.int64)
    ends[1:] = stops - np.arange(count)
    lengths = np.diff(ends)
    if count and len(raw) == count * (int(lengths[0]) + 1) and (lengths == lengths[0]).all():
        data = raw.reshape(count, -1)[:, :-1].reshape(-1)
    else:
        data = raw[raw != 0]
    null = lengths == 0
    return _checked(_text_array(data, ends, null if null.any() else None), data)


def texts(data: Bytes, lengths: npt.NDArray) -> pa.Array:
    """Char vectors as Arrow text: `data` are their bytes; an empty one is an empty text.

    Raises:
        Unheld: one is not UTF-8.
    """
    return _checked(_texts(data, lengths, None), data)


def _checked(made: pa.Array, data: Bytes) -> pa.Array:
    if len(data) and int(data.max()) > 127:
        try:
            made.validate(full=True)
        except pa.ArrowInvalid:
            index, value = next(
                (i, v) for i, v in enumerate(made.view(pa.binary()).to_pylist()) if v is not None and not _utf8(v)
            )
            raise Unheld(f"is the text {value!r}, which is not UTF-8", index) from None
    return made


def _utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
