"""The codec against independent ones: PyKX, asked here, and qpython3, whose frames are recorded in `qipc_frames.json`.

qpython3 needs a numpy before 2, so it cannot be asked here.
"""

from __future__ import annotations

import datetime as dt
import json
import struct
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lakehouse_assets.sources import kdb_pykx, qipc
from lakehouse_assets.sources.kdb_types import BY_NAME
from lakehouse_assets_tests.sources.qipc_lab import CASES, NUMBERS, TIMESTAMPS, Q
from lakehouse_assets_tests.sources.test_qipc_frames import plain, wide

FRAMES = {
    name: bytes.fromhex(frame)
    for name, frame in json.loads(Path(__file__).with_name("qipc_frames.json").read_text())["frames"].items()
}
LITTLE = Q()
DAY = dt.date(2024, 1, 2)
NINE_THIRTY = 1_704_187_800_123_456_789
RECORDED: dict[str, Any] = {
    "boolean": [True, False],
    "byte": [1, 127, 255],
    "short": [1, None],
    "int": [1, None],
    "long": [1, None],
    "real": [1.5, None],
    "float": [1.5, None],
    "symbol": ["trade", None, "a b"],
    "guid": ["00000000-0000-0000-0000-000000000005", None],
    "month": [dt.date(2024, 3, 1), None],
    "date": [dt.date(2024, 3, 4), dt.date(1999, 12, 31), None],
    "datetime": [dt.datetime(2024, 3, 4, 6, 0, 0, 250_000, tzinfo=dt.UTC)],
    "timespan": [5, -7, None],
    "minute": [61 * 60 * 10**9, None],
    "second": [61 * 10**9, None],
    "time": [61_001 * 10**6, None],
    "char": b"text of chars",
    "atom long": 5,
    "atom float": 2.5,
    "atom symbol": "abc",
    "atom date": DAY,
    "atom boolean": True,
    "atom timestamp": np.datetime64("2024-01-02T00:00:00.000000001", "ns"),
    "call": [b"{[t;d] select from t where date=d}", "trade", DAY],
    "keyed": [{"c": "time", "t": "p", "f": None}, {"c": "sym", "t": "s", "f": None}],
}


def joined(value: Any) -> bytes:
    """The whole frame of a value."""
    return b"".join(qipc.encode(value))


@pytest.fixture(scope="module")
def kx() -> Any:
    """PyKX, without a licence."""
    return kdb_pykx.load()


def of_pykx(kx: Any, value: Any) -> bytes:
    """The frame that PyKX makes of a value."""
    made = kx.serialize(value, wait=2)
    return bytes(made.data)


def to_pykx(kx: Any, frame: bytes) -> Any:
    """What PyKX reads in a frame."""
    return kx.deserialize(frame)


@pytest.mark.parametrize("name", RECORDED)
def test_frames_of_qpython_are_read(name: str) -> None:
    """K25, K27: every type, atoms, a call, `meta` as a keyed table."""
    found = qipc.decode(FRAMES[name])
    assert (found.to_pylist() if isinstance(found, (pa.Array, pa.Table)) else found) == RECORDED[name]


def test_timestamps_and_tables_of_qpython_are_read() -> None:
    """K25: a table with a null of each column that has one."""
    assert qipc.decode(FRAMES["timestamp"]).cast(pa.int64()).to_pylist() == [NINE_THIRTY, None]
    table = qipc.decode(FRAMES["table"])
    assert table.drop_columns("time").to_pylist() == [
        {"sym": "a", "price": 1.5, "size": 7, "text": "ab"},
        {"sym": None, "price": None, "size": None, "text": "c d"},
    ]
    assert table.column("time").cast(pa.int64()).to_pylist() == [NINE_THIRTY, None]
    found = qipc.decode(FRAMES["dictionary"])
    assert (found.keys.to_pylist(), found.values.to_pylist()) == (["a", "b"], [1, 2])


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_written_as_qpython_writes_them(name: str) -> None:
    """What was read of qpython3's frame gives the same frame, byte for byte."""
    found = qipc.decode(FRAMES[name])
    vector = isinstance(found, pa.Array) and name in BY_NAME
    assert joined(qipc.QVector(found, name) if vector else found) == FRAMES[name]


_VECTORS: dict[str, tuple[str, Any, list[Any]]] = {
    "boolean": ("BooleanVector", [True, False], [True, False]),
    "guid": ("GUIDVector", [uuid.UUID(int=5)], [str(uuid.UUID(int=5))]),
    "byte": ("ByteVector", [0, 255], [0, 255]),
    "short": ("ShortVector", [1, -2], [1, -2]),
    "int": ("IntVector", [1, -2], [1, -2]),
    "long": ("LongVector", [1, -2], [1, -2]),
    "real": ("RealVector", [1.5, float("nan")], [1.5, None]),
    "float": ("FloatVector", [1.5, float("nan")], [1.5, None]),
    "symbol": ("SymbolVector", ["a", "é", ""], ["a", "é", None]),
    "month": ("MonthVector", np.array(["2024-02", "1999-12"], "datetime64[M]"), [dt.date(2024, 2, 1), dt.date(1999, 12, 1)]),
    "date": ("DateVector", np.array(["2024-01-02", "1969-12-31"], "datetime64[D]"), [DAY, dt.date(1969, 12, 31)]),
    "timespan": ("TimespanVector", np.array([5, -7], "timedelta64[ns]"), [5, -7]),
    "minute": ("MinuteVector", np.array([61], "timedelta64[m]"), [61 * 60 * 10**9]),
    "second": ("SecondVector", np.array([-61], "timedelta64[s]"), [-61 * 10**9]),
    "time": ("TimeVector", np.array([61_001], "timedelta64[ms]"), [61_001 * 10**6]),
}  # fmt: skip


@pytest.mark.parametrize("name", _VECTORS)
def test_vectors_of_pykx_are_read(name: str, kx: Any) -> None:
    """K25: what PyKX makes of numpy's and Python's values."""
    of, given, expected = _VECTORS[name]
    assert qipc.decode(of_pykx(kx, getattr(kx, of)(given))).to_pylist() == expected


def test_timestamps_and_tables_of_pykx_are_read(kx: Any) -> None:
    """K23: a plain and a keyed table that PyKX makes of a frame of pandas."""
    frame = pd.DataFrame({"sym": ["a", "b"], "time": pd.to_datetime([NINE_THIRTY, 1]), "price": [1.5, float("nan")]})
    table = qipc.decode(of_pykx(kx, kx.toq(frame)))
    assert table.drop_columns("time").to_pydict() == {"sym": ["a", "b"], "price": [1.5, None]}
    assert table.column("time").cast(pa.int64()).to_pylist() == [NINE_THIRTY, 1]
    keyed = qipc.decode(of_pykx(kx, kx.toq(frame.set_index("sym"))))
    assert keyed.equals(table)
    assert keyed.schema.metadata == {b"kdb.keys": b"1"}


def _everything(q: Q) -> bytes:
    """A keyed table with two rows of every type that PyKX reads, texts and lists."""
    kinds = [name for name in NUMBERS if name != "datetime"]
    given = {name: ("q", TIMESTAMPS) if name == "timestamp" else CASES[name][1:3] for name in kinds}
    columns = [(name, q.vector(NUMBERS[name], code, values[-2:])) for name, (code, values) in given.items()]
    lists = [
        ("texts", q.list(q.chars(b"ab"), q.chars(b""))),
        ("lists", q.list(q.vector(7, "q", [1]), q.vector(7, "q", []))),
    ]
    return q.dictionary(q.table([("key", q.symbols("a", ""))]), q.table([*columns, *lists]))


def test_pykx_reads_what_is_written(kx: Any) -> None:
    """Every type but datetime, which it deprecates: read and written again by PyKX, the frame is the same."""
    frame = LITTLE.frame(_everything(LITTLE))
    assert joined(qipc.decode(frame)) == frame
    assert of_pykx(kx, to_pykx(kx, frame)) == frame


def test_pykx_reads_big_endian_alike(kx: Any) -> None:
    """PyKX makes of the big-endian frame the little-endian one that stands for the same."""
    big_one = Q(">").frame(_everything(Q(">")))
    little = of_pykx(kx, to_pykx(kx, big_one))
    assert little == LITTLE.frame(_everything(LITTLE))
    assert qipc.decode(big_one).equals(qipc.decode(little))


def test_pykx_reads_lengths_of_8_bytes_alike(kx: Any) -> None:
    """The format of vectors over 2^31 elements: bit 7 of the attribute, and 8 bytes."""
    frame = LITTLE.frame(struct.pack("<bBq", 7, 0x80, 2) + LITTLE.elements("q", [5, 6]))
    assert to_pykx(kx, frame).py() == qipc.decode(frame).to_pylist() == [5, 6]


def test_pykx_inflates_alike(kx: Any) -> None:
    """Both lengths of the inflated length; and a big-endian frame."""
    frame = plain()
    compressed = qipc.compress(frame)
    for one in (compressed, wide(compressed)):
        assert of_pykx(kx, to_pykx(kx, one)) == frame == bytes(qipc.decompress(one))
    assert kdb_pykx.inflate(compressed)[8:] == frame[8:]


def test_large_frames_are_inflated_by_pykx() -> None:
    """A frame over a megabyte gives the same bytes by PyKX as by this codec; datetimes, which it deprecates, too."""
    at = np.arange(120_000)
    noise = np.random.default_rng(1).integers(0, 2**30, len(at))
    moments = pa.array(at * 86_400_000_000, pa.timestamp("us", "UTC"))
    schema = pa.schema(
        [
            pa.field("t", moments.type, metadata={"kdb.type": "datetime"}),
            pa.field("n", pa.int64()),
            pa.field("z", pa.int64()),
        ]
    )
    frame = joined(pa.Table.from_arrays([moments, pa.array(noise), pa.array(at * 0)], schema=schema))
    compressed = qipc.compress(frame)
    assert 1 << 20 < len(compressed) < len(frame) // 2
    found = kdb_pykx.inflate(compressed)
    assert found is not None
    assert found[8:] == frame[8:]
    assert qipc.decode(compressed).equals(qipc.decode(frame))


def test_what_pykx_does_not_inflate_is_left_to_the_codec() -> None:
    """An error of q inside, and a damaged frame: `None`, so that this codec says what is wrong."""
    error = qipc.compress(LITTLE.frame(b"\x80" + b"a" * 3000 + b"\0"))
    assert kdb_pykx.inflate(error) is None
    with pytest.raises(qipc.QServerError):
        qipc.decode(error)
    compressed = bytearray(qipc.compress(plain()))
    compressed[20:40] = bytes(20)
    assert kdb_pykx.inflate(bytes(compressed)) is None


@pytest.mark.parametrize(
    "value",
    [True, 5, 2.5, "abc", b"xyz", DAY, ["a", "b"], [DAY], np.datetime64(5, "ns")],
    ids=lambda value: f"{type(value).__name__}",
)
def test_parameters_are_what_pykx_reads(value: Any, kx: Any) -> None:
    """What a query is given means the same to PyKX, and to this codec what PyKX makes of it."""
    read = to_pykx(kx, joined(value))
    if not isinstance(value, np.datetime64):
        assert read.py() == value
    again = qipc.decode(of_pykx(kx, read))
    assert (again.to_pylist() if isinstance(again, pa.Array) else again) == value
