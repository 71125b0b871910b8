"""What Python and Arrow hold as a frame of q, little-endian, as a list of buffers that nobody joins.

What belongs here: the grammar of a message, atoms and tables. What does not: elements of vectors (`qipc_elements.py`),
compression (`qipc_frames.py`).
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lakehouse_assets.errors import TypeRefused
from lakehouse_assets.sources.kdb_types import DICTIONARY, ERROR, KEYS, LIST, NANOSECONDS, SYMBOL, kind_of
from lakehouse_assets.sources.qipc_elements import Buffer, refused, vector, vector_head
from lakehouse_assets.sources.qipc_frames import HEADER, Kind, head
from lakehouse_assets.sources.qipc_reader import QDict, QServerError

_LONG, _FLOAT, _DATE = struct.Struct("<bq"), struct.Struct("<bd"), struct.Struct("<bi")
_EPOCH = dt.date(2000, 1, 1).toordinal()


@dataclass(frozen=True)
class QVector:
    """A vector whose type in q Arrow alone does not say: `QVector(pa.array([1]), "timespan")`."""

    values: pa.Array
    kind: str


def keyed(table: pa.Table, keys: int = 1) -> pa.Table:
    """The table, to be encoded as one keyed by its first `keys` columns."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), KEYS: str(keys).encode()})


def encode(value: Any, kind: int = Kind.RESPONSE) -> list[memoryview]:
    """The frame that holds a value: views of bytes, to be sent one after the other.

    | here | q |
    | --- | --- |
    | `pa.Table` | table, keyed if the schema's metadata says so (`keyed(table)`) |
    | `pa.Array`, `QVector` | vector |
    | tuple `(text, *parameters)` | a call: the text, a char vector, applied to the parameters; alone without any |
    | bool, int, float, str, bytes, date, `np.datetime64` | boolean, long, float, symbol, char vector, date, timestamp |
    | list of str, list of dates | symbol vector, date vector |
    | other lists | general list |
    | `QDict` | dictionary |
    | `QServerError` | error |
    | `None` | `::` |

    The type of a column is that of its field's metadata `kdb.type`, else what Arrow's type stands for; NULL becomes
    q's null. The least number of a type is refused, because in q it is the null; the greatest is q's infinity.

    Raises:
        TypeRefused: q has no type for it, or a value does not fit.
    """
    body = _error(value) if isinstance(value, QServerError) else _object(value)
    views = [memoryview(part) if isinstance(part, bytes) else part.data.cast("B") for part in body]
    size = HEADER + sum(view.nbytes for view in views)
    return [memoryview(head(kind, size)), *views]


def _error(error: QServerError) -> list[Buffer]:
    return [struct.pack("<b", ERROR) + _symbol(error.text)]


def _symbol(text: str) -> bytes:
    if "\0" in text:
        raise refused("a symbol holds a NUL", text)
    return text.encode() + b"\0"


def _object(value: Any) -> list[Buffer]:
    if isinstance(value, pa.Table):
        return _tables(value)
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        return vector(value, None)
    if isinstance(value, QVector):
        return vector(value.values, value.kind)
    if isinstance(value, QDict):
        return [struct.pack("<b", DICTIONARY), *_object(value.keys), *_object(value.values)]
    if isinstance(value, tuple):
        return _call(*value)
    if isinstance(value, list):
        return _list(value)
    return [_atom(value)]


def _call(text: str | bytes, *parameters: Any) -> list[Buffer]:
    query = text.encode() if isinstance(text, str) else text
    return _general([query, *parameters]) if parameters else [_atom(query)]


def _list(values: list[Any]) -> list[Buffer]:
    if values and all(isinstance(item, str) for item in values):
        return [vector_head(SYMBOL, len(values)) + b"".join(map(_symbol, values))]
    if values and all(_is_date(item) for item in values):
        return vector(pa.array(values, pa.date32()), "date")
    return _general(values)


def _general(values: Sequence[Any]) -> list[Buffer]:
    return [vector_head(LIST, len(values)), *(part for item in values for part in _object(item))]


def _is_date(value: Any) -> bool:
    return isinstance(value, dt.date) and not isinstance(value, dt.datetime)


def _atom(value: Any) -> bytes:
    if value is None:
        return b"\x65\x00"
    if isinstance(value, (bool, np.bool_)):
        return struct.pack("<b?", -1, value)
    if isinstance(value, (int, np.integer)):
        if not -(2**63) < value < 2**63:
            raise refused("an integer is none of q's longs", value)
        return _LONG.pack(-7, value)
    if isinstance(value, float):
        return _FLOAT.pack(-9, value)
    if isinstance(value, str):
        return struct.pack("<b", -SYMBOL) + _symbol(value)
    if isinstance(value, (bytes, bytearray)):
        return vector_head(10, len(value)) + value
    if isinstance(value, np.datetime64):
        return _timestamp(value)
    if _is_date(value):
        return _DATE.pack(-14, value.toordinal() - _EPOCH)
    raise TypeRefused(
        f"a {type(value).__name__} has no place in a message to q",
        choices=("bool", "int", "float", "str", "bytes", "date", "datetime64", "list of str", "list of dates"),
    )


def _timestamp(value: np.datetime64) -> bytes:
    if np.isnat(value):
        return _LONG.pack(-12, -(2**63))
    exact = value.astype("datetime64[ns]")
    number = int(exact.astype(np.int64)) - NANOSECONDS
    if exact.astype(value.dtype) != value or number <= -(2**63):
        raise refused("a moment is none of q's timestamps", str(value))
    return _LONG.pack(-12, number)


def _tables(table: pa.Table) -> list[Buffer]:
    keys = int((table.schema.metadata or {}).get(KEYS, b"0"))
    if not keys:
        return _table(table)
    names = list(range(table.num_columns))
    return [struct.pack("<b", DICTIONARY), *_table(table.select(names[:keys])), *_table(table.select(names[keys:]))]


def _table(table: pa.Table) -> list[Buffer]:
    names = b"".join(_symbol(name) for name in table.column_names)
    parts: list[Buffer] = [
        b"\x62\x00\x63" + vector_head(SYMBOL, table.num_columns) + names + vector_head(LIST, table.num_columns)
    ]
    for of, column in zip(table.schema, table.columns, strict=True):
        try:
            parts += vector(column, kind_of(of))
        except TypeRefused as error:
            raise TypeRefused(f"column {of.name!r}: {error.problem}", value=error.value, fix=error.fix) from None
    return parts
