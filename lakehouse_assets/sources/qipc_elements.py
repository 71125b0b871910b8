"""The elements of one Arrow array as a vector of q: null to sentinel, epochs, units and text, the other way.

What belongs here: one vector, its head and its elements. What does not: messages (`qipc_writer.py`), and the way from q
to Arrow (`qipc_values.py`).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.errors import TypeRefused
from lakehouse_assets.sources.kdb_types import BY_NAME, CHARS, DAYS, LIST, NANOSECONDS, OF, QType

Buffer = bytes | npt.NDArray
_WIDE = 0x80
_BY_ARROW = {
    pa.bool_(): "boolean", pa.int8(): "short", pa.uint8(): "byte", pa.int16(): "short", pa.uint16(): "int",
    pa.int32(): "int", pa.uint32(): "long", pa.int64(): "long", pa.float32(): "real", pa.float64(): "float",
    pa.string(): "symbol", pa.large_string(): "symbol", pa.binary(): CHARS, pa.large_binary(): CHARS,
    pa.date32(): "date", pa.time32("s"): "second", pa.time32("ms"): "time",
}  # fmt: skip


def refused(problem: str, value: object = None) -> TypeRefused:
    """The error of a value that q has no place for."""
    return TypeRefused(problem, value=value)


def vector_head(number: int, count: int) -> bytes:
    """What stands before the elements of a vector: 8 bytes of length where 4 do not do."""
    if count < 2**31:
        return struct.pack("<bBi", number, 0, count)
    return struct.pack("<bBq", number, _WIDE, count)


def vector(array: pa.Array | pa.ChunkedArray, kind: str | None) -> list[Buffer]:
    """A vector of q: its head, then its elements, one buffer for each chunk of Arrow.

    Args:
        kind: q's name of the type; `None`: what Arrow's type stands for.

    Raises:
        TypeRefused: q has no such type, or a value does not fit.
    """
    name = kind or _kind(array.type)
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    if name == "list" and len(array):
        raise refused("rows without a type")
    if name == "list" or name == CHARS or name.endswith(OF):
        return [vector_head(LIST, len(array)), *(_rows(chunk, name)[0] for chunk in chunks if len(chunk))]
    if name not in BY_NAME:
        raise TypeRefused("q has no such type", value=name, choices=BY_NAME)
    q = BY_NAME[name]
    return [vector_head(q.number, len(array)), *(_elements(chunk, q) for chunk in chunks if len(chunk))]


def _kind(arrow: pa.DataType) -> str:
    if pa.types.is_timestamp(arrow):
        return "timestamp"
    if pa.types.is_duration(arrow) or pa.types.is_time64(arrow):
        return "timespan"
    if pa.types.is_dictionary(arrow):
        return _kind(arrow.value_type)
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        return _kind(arrow.value_type) + OF
    if pa.types.is_null(arrow):
        return "list"
    if arrow not in _BY_ARROW:
        raise TypeRefused("q has no type for it", value=str(arrow), choices=[str(known) for known in _BY_ARROW])
    return _BY_ARROW[arrow]


def _rows(array: pa.Array, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray]:
    """Elements one after the other as bytes, and where each ends; rows of lists are vectors, NULL is an empty one."""
    if name == CHARS:
        texts = array.cast(pa.large_binary())
        texts = texts.fill_null(b"") if texts.null_count else texts
        data, offsets = _text_bytes(texts)
        return _headed(BY_NAME["char"].number, np.diff(offsets), data, offsets[1:])
    if name.endswith(OF):
        inner = name.removesuffix(OF)
        counts = _numpy(pc.list_value_length(array).fill_null(0)).astype(np.int64)
        data, ends = _rows(array.flatten(), inner)
        number = BY_NAME[inner].number if inner in BY_NAME else LIST
        return _headed(number, counts, data, np.concatenate(([0], ends))[np.cumsum(counts)])
    if not len(array):
        return np.empty(0, np.uint8), np.empty(0, np.int64)
    found = _elements(array, BY_NAME[name])
    data = np.frombuffer(found if isinstance(found, bytes) else found.data, np.uint8)
    if name == "symbol":
        return data, np.flatnonzero(data == 0) + 1
    return data, np.arange(1, len(array) + 1) * BY_NAME[name].width


def _headed(
    number: int, counts: npt.NDArray, data: npt.NDArray[np.uint8], ends: npt.NDArray
) -> tuple[npt.NDArray[np.uint8], npt.NDArray]:
    """Vectors of `counts` elements whose bytes end at `ends` of `data`, each behind its head; where they end then."""
    heads = np.zeros(len(counts), np.dtype([("number", "i1"), ("attribute", "u1"), ("count", "<i4")]))
    heads["number"], heads["count"] = number, counts
    size = heads.itemsize
    starts = np.concatenate(([0], ends[:-1])) + size * np.arange(len(counts)) if len(counts) else np.empty(0, np.int64)
    made = np.empty(len(data) + heads.nbytes, np.uint8)
    elements = np.ones(len(made), np.bool_)
    for step in range(size):
        elements[starts + step] = False
    made[elements] = data
    made[~elements] = heads.view(np.uint8)
    return made, ends + size * np.arange(1, len(counts) + 1)


def _text_bytes(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray]:
    """The bytes of large texts without nulls, and the offsets in them, from 0 on."""
    _, places, data = texts.buffers()
    offsets = np.frombuffer(places, np.int64, len(texts) + 1, texts.offset * 8) if len(texts) else np.zeros(1, np.int64)
    given = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]] if data else np.empty(0, np.uint8)
    return given, offsets - offsets[0]


def _elements(array: pa.Array, q: QType) -> Buffer:
    if q.name in _SPECIAL:
        return _SPECIAL[q.name](array)
    if q.name in ("real", "float"):
        whole = array.cast(q.arrow)
        return _numpy(whole.fill_null(float("nan")) if whole.null_count else whole)
    null = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    values = _whole(array, q)
    dtype = np.dtype(q.dtype)
    least = np.iinfo(dtype).min
    low, high = (values.min(), values.max()) if null is None else _range(values, null)
    if low <= least or high > np.iinfo(dtype).max:
        raise refused(f"a number does not fit into q's {q.name}", int(low if low <= least else high))
    values = values.astype(dtype, copy=False)
    if null is not None:
        values = np.where(null, dtype.type(least), values)
    return values


def _range(values: npt.NDArray, null: npt.NDArray[np.bool_]) -> tuple[int, int]:
    some = values[~null]
    return (int(some.min()), int(some.max())) if len(some) else (0, 0)


def _whole(array: pa.Array, q: QType) -> npt.NDArray:
    """Q's numbers of an array, as integers of any width; at nulls they are anything."""
    if q.name == "timestamp":
        moments = _nanoseconds(array)
        early = moments <= -(2**63) + NANOSECONDS
        if early.any() and pc.any(pc.and_(pa.array(early), array.is_valid())).as_py():
            raise refused("a moment is earlier than q's timestamps", int(moments[np.argmax(early)]))
        return moments - NANOSECONDS
    if q.name == "month":
        days = array.cast(pa.date32())
        months = _numbers(days).astype("datetime64[D]").astype("datetime64[M]")
        if not pc.all(pc.equal(pc.day(days), 1)).as_py() and days.null_count < len(days):
            raise refused("a date that is not the first of its month is none of q's months")
        return months.astype(np.int64) - 360
    if q.name == "date":
        return _numbers(array.cast(pa.date32())).astype(np.int64) - DAYS
    if not q.unit:
        return _numbers(array)
    spans = _numbers(array) if pa.types.is_integer(array.type) else _nanoseconds(array)
    whole, rest = np.divmod(spans, q.unit) if q.unit > 1 else (spans, np.zeros(1, np.int64))
    if rest.any():
        raise refused(f"nanoseconds that are no whole {q.name}s", int(spans[np.argmax(rest != 0)]))
    return whole


def _numbers(array: pa.Array) -> npt.NDArray:
    if not (pa.types.is_integer(array.type) or pa.types.is_date32(array.type)):
        raise refused(f"an Arrow column of {array.type} has no integers for q")
    plain = array.view(pa.int32()) if pa.types.is_date32(array.type) else array
    return _numpy(plain.fill_null(0) if plain.null_count else plain)


def _nanoseconds(array: pa.Array) -> npt.NDArray:
    """Nanoseconds of times and spans of any unit, and of integers that are nanoseconds already."""
    kind = array.type
    try:
        if pa.types.is_timestamp(kind):
            array = array.cast(pa.timestamp("ns", kind.tz))
        elif pa.types.is_duration(kind):
            array = array.cast(pa.duration("ns"))
        elif pa.types.is_time(kind):
            array = array.cast(pa.time64("ns"))
    except pa.ArrowInvalid:
        raise refused(f"a value of {kind} does not fit into nanoseconds") from None
    return _numbers(array if pa.types.is_integer(array.type) else array.view(pa.int64()))


def _numpy(array: pa.Array) -> npt.NDArray:
    found = array.to_numpy(zero_copy_only=False)
    return found if found.dtype.byteorder in "=<|" else found.astype(found.dtype.newbyteorder("<"))


def _boolean(array: pa.Array) -> Buffer:
    return _numpy(array.cast(pa.bool_()).fill_null(False)).astype(np.uint8)


def _byte(array: pa.Array) -> Buffer:
    if array.null_count:
        raise refused("a NULL is none of q's bytes")
    values = _numbers(array)
    if values.min() < 0 or values.max() > 255:
        raise refused("a number is none of q's bytes", int(values.min() if values.min() < 0 else values.max()))
    return values.astype(np.uint8)


def _guid(array: pa.Array) -> Buffer:
    try:
        return b"".join(uuid.UUID(text).bytes if text else bytes(16) for text in array.to_pylist())
    except ValueError as error:
        raise refused(f"a text is no guid: {error}") from None


def _char(array: pa.Array) -> Buffer:
    texts = array.cast(pa.string()).fill_null(" ").to_pylist()
    wrong = next((text for text in texts if len(text) != 1 or ord(text) > 127), None)
    if wrong is not None:
        raise refused("a text is not one character of ASCII", wrong)
    return "".join(texts).encode()


def _datetime(array: pa.Array) -> Buffer:
    micro = array.cast(pa.timestamp("us", array.type.tz), safe=True)
    numbers = _numbers(micro.view(pa.int64()))
    if (numbers % 1000).any():
        raise refused("a moment has more than q's milliseconds of a datetime")
    days = (numbers // 1000 - DAYS * 86_400_000) / 86_400_000
    if micro.null_count:
        days[micro.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return days


def _symbols(array: pa.Array) -> Buffer:
    if pa.types.is_dictionary(array.type):
        return _dictionary_symbols(array)
    texts = array.cast(pa.large_string())
    if texts.null_count:
        texts = texts.fill_null("")
    count = len(texts)
    given, offsets = _text_bytes(texts)
    if len(given) and not given.min():
        raise refused("a symbol holds a NUL")
    width, rest = divmod(len(given), count)
    if not rest and (np.diff(offsets) == width).all():
        out = np.zeros((count, width + 1), np.uint8)
        out[:, :width] = given.reshape(count, width)
        return out.reshape(-1)
    made = np.zeros(len(given) + count, np.uint8)
    keep = np.ones(len(made), np.bool_)
    keep[offsets[1:] + np.arange(count)] = False
    made[keep] = given
    return made


def _dictionary_symbols(array: pa.DictionaryArray) -> Buffer:
    """By the distinct ones: each is written once into a row of bytes, and the rows are picked."""
    words = [text.encode() + b"\0" for text in (word or "" for word in array.dictionary.to_pylist())] + [b"\0"]
    if any(0 in word[:-1] for word in words):
        raise refused("a symbol holds a NUL")
    codes = _numpy(array.indices.fill_null(len(words) - 1) if array.indices.null_count else array.indices)
    lengths = np.array([len(word) for word in words])
    width = int(lengths.max())
    rows = np.frombuffer(b"".join(word.ljust(width, b"\0") for word in words), np.uint8).reshape(-1, width)
    picked = rows[codes]
    if (lengths[codes] == width).all():
        return picked.reshape(-1)
    return picked[(np.arange(width) < lengths[:, None])[codes]]


_SPECIAL: dict[str, Callable[[pa.Array], Buffer]] = {
    "boolean": _boolean, "byte": _byte, "guid": _guid, "char": _char, "datetime": _datetime, "symbol": _symbols,
}  # fmt: skip
