"""The q IPC codec: frames of a kdb+ process to Arrow and Python, and back.

    decode(frame)        table -> pa.Table; vector -> pa.Array; atom -> Python; an error of q is raised
    encode(value, kind)  the other way: a list of views of bytes, to be sent one after the other
    header(first)        what the first 8 bytes of a frame say
    compress, decompress q's own compression of a frame

What belongs here: the two doors of the codec. What does not: what a type means (`kdb_types.py`), connections
(`kdb_client.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.sources.kdb_types import INFINITIES, typed
from lakehouse_assets.sources.qipc_frames import Header, Kind, compress, decompress, header, malformed
from lakehouse_assets.sources.qipc_reader import QDict, QServerError, Reader
from lakehouse_assets.sources.qipc_writer import QVector, encode, keyed

__all__ = [
    "Header", "Kind", "QDict", "QServerError", "QVector",
    "compress", "decode", "decompress", "encode", "header", "keyed",
]  # fmt: skip


def decode(
    frame: bytes | bytearray | memoryview, infinities: str = "refuse", types: Mapping[str, str] | None = None
) -> Any:
    """What a whole frame holds.

    | q | here |
    | --- | --- |
    | table | `pa.Table`; each field's metadata says q's type under `kdb.type` |
    | keyed table | the same, key columns first; the schema's metadata says how many under `kdb.keys` |
    | vector | `pa.Array`, of chars `bytes` |
    | atom | bool, int, float, str (symbol, guid), bytes (char), date, datetime (of q's datetime), `np.datetime64`
    | | (timestamp), int nanoseconds (timespan, time, minute, second); a null is `None` |
    | general list | `list` |
    | dictionary | `QDict` |
    | `::` | `None` |

    Args:
        infinities: `refuse` those of integers and times, or make them `null`.
        types: column to the letter that `meta` shows, for columns of lists without any element.

    Raises:
        QServerError: the frame holds an error of q.
        SourceUnreadable: the frame is cut or malformed.
        TypeRefused: a type or a value that is not held, with its column and row.
    """
    if infinities not in INFINITIES:
        raise SettingsError("`kdb.infinities` is not known", value=infinities, choices=INFINITIES)
    said = header(frame)
    if said.length != len(frame):
        raise malformed(f"it is cut: {len(frame)} bytes, and its header says {said.length}")
    plain = decompress(frame)
    found = Reader(plain, big_endian=not plain[0], infinities=infinities).message()
    return typed(found, types) if types and isinstance(found, pa.Table) else found
