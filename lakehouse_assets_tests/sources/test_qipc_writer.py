"""What is encoded decodes to what it was, for every type, and what q has no place for is refused."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.errors import TypeRefused
from lakehouse_assets.sources import qipc
from lakehouse_assets.sources.kdb_types import arrow_of, field
from lakehouse_assets_tests.sources.qipc_lab import CASES, TIMESTAMPS, Q

LITTLE = Q()
FIRST = pa.scalar(1, pa.timestamp("ns", "UTC"))


def joined(value: Any, kind: int = qipc.Kind.RESPONSE) -> bytes:
    """The whole frame of a value."""
    return b"".join(qipc.encode(value, kind))


def again(value: Any) -> Any:
    """What a value is on the other side."""
    return qipc.decode(joined(value))


def typed(kind: str, values: list[Any] | pa.Array) -> pa.Table:
    """A table of one column `c` of q's type."""
    array = values if isinstance(values, pa.Array) else pa.array(values, arrow_of(kind))
    return pa.Table.from_arrays([array], schema=pa.schema([field("c", kind, array.type)]))


@pytest.mark.parametrize("name", [*CASES, "timestamp"])
def test_each_type_is_written_as_it_was_read(name: str) -> None:
    """Byte for byte: every type with nulls and edge values, as a column and inside of lists."""
    rows = len(TIMESTAMPS if name == "timestamp" else CASES[name].found)
    lists = [("l", LITTLE.list(*[LITTLE.case(name)] * rows))] if name != "char" else []
    frame = LITTLE.frame(LITTLE.table([("c", LITTLE.case(name)), *lists]))
    assert joined(qipc.decode(frame)) == frame


def test_text_and_lists_of_lists_are_written_as_they_were_read() -> None:
    """Char vectors, lists of them, lists of lists; empty ones among them."""
    q = LITTLE
    longs = q.list(q.list(q.vector(7, "q", [1]), q.vector(7, "q", [])), q.list())
    columns = [
        ("t", q.list(q.chars("€".encode()), q.chars(b""))),
        ("u", q.list(q.list(q.chars(b"a")), q.list())),
        ("l", longs),
    ]
    frame = q.frame(q.table(columns))
    assert joined(qipc.decode(frame)) == frame


def test_an_empty_table_keeps_its_types() -> None:
    """K23: no row is no reason to forget a type."""
    for name in [*CASES, "timestamp"]:
        assert again(typed(name, [])).schema.equals(typed(name, []).schema, check_metadata=True)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([True]), "boolean"),
        (pa.array([1], pa.int8()), "short"),
        (pa.array([200], pa.uint8()), "byte"),
        (pa.array([1], pa.int16()), "short"),
        (pa.array([60_000], pa.uint16()), "int"),
        (pa.array([1], pa.int32()), "int"),
        (pa.array([2**32 - 1], pa.uint32()), "long"),
        (pa.array([1]), "long"),
        (pa.array([1.5], pa.float32()), "real"),
        (pa.array([1.5]), "float"),
        (pa.array(["a"], pa.large_string()), "symbol"),
        (pa.array(["a", None, "bc", "a"]).dictionary_encode(), "symbol"),
        (pa.array([b"a"]), "char vector"),
        (pa.array([FIRST.as_py()], pa.timestamp("us")), "timestamp"),
        (pa.array([dt.date(2024, 1, 1)]), "date"),
        (pa.array([1], pa.duration("us")), "timespan"),
        (pa.array([1], pa.time32("ms")), "time"),
        (pa.array([1], pa.time32("s")), "second"),
        (pa.array([1], pa.time64("us")), "timespan"),
        (pa.array([[1.5], []]), "float list"),
        (pa.array([], pa.null()), "list"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type),
)
def test_arrow_types_stand_for_types_of_q(array: pa.Array, kind: str) -> None:
    """Without `kdb.type`, each type of Arrow stands for one of q."""
    table = again(pa.table({"c": array}))
    assert table.schema.field("c").metadata[b"kdb.type"].decode() == kind
    assert len(table) == len(array)


def test_units_of_arrow_are_nanoseconds_of_q() -> None:
    """Times and spans of any unit become the same moment and the same length."""
    arrays = {
        "a": pa.array([1], pa.time32("s")),
        "b": pa.array([1000], pa.time32("ms")),
        "c": pa.array([1_000_000], pa.duration("us")),
        "d": pa.array([10**9], pa.time64("ns")),
    }
    assert again(pa.table(arrays)).to_pylist() == [dict.fromkeys("abcd", 10**9)]


def test_slices_and_chunks_are_written_whole() -> None:
    """Arrays that begin in the middle of a buffer, and columns of several chunks, with nulls and without."""
    for values in (
        pa.array(["a", "bb", None, "cc", "dd"]),
        pa.array(["a", "b", "c", "d", "e"]),
        pa.array(["a", "bb", "c", "ddd", "e"]),
        pa.array([["a"], ["bb", "c"], [], ["ddd"], ["e"]]),
        pa.array([1, None, 3, 4, 5]),
        pa.array([1.5, None, 3, 4, 5]),
        pa.array([True, None, False, True, True]).fill_null(False),
        pa.array([0, None, 2, 3, 4], pa.timestamp("ns", "UTC")),
        pa.array([[1], None, [2, 3], [], [4]]).fill_null([]),
        pa.array(["a", None, "ccc", "a", "bb"]).dictionary_encode(),
    ):
        table = pa.table({"c": pa.chunked_array([values.slice(1, 3), values.slice(4), values.slice(5), values[:2]])})
        assert again(table).column("c").to_pylist() == table.column("c").to_pylist()


def test_keyed_tables() -> None:
    """A table with `kdb.keys` is written as a keyed one: a dictionary of two tables."""
    table = qipc.keyed(pa.table({"a": [1], "b": ["x"], "c": [2.5]}), 2)
    assert joined(table)[8] == 99
    assert again(table).schema.metadata == {b"kdb.keys": b"2"}
    assert again(table).to_pylist() == table.to_pylist()


def test_values_that_are_no_tables() -> None:
    """Vectors, vectors whose type Arrow does not say, dictionaries, lists, nothing."""
    assert again(pa.array(["trade", "quote"])).to_pylist() == ["trade", "quote"]
    assert joined(qipc.QVector(pa.array([60 * 10**9]), "minute"))[8] == 17
    assert again(qipc.QDict(["a", "b"], pa.array([1, 2]))).keys.to_pylist() == ["a", "b"]
    assert again([1, "a", None, [2.5, b"x"]]) == [1, "a", None, [2.5, b"x"]]
    assert again(None) is None
    assert again([]) == []


def test_a_call_is_its_text_applied_to_its_parameters() -> None:
    """The text is a char vector, a str among the parameters a symbol: user text never becomes q text."""
    assert again(("{x}", 'a";exit 0')) == [b"{x}", 'a";exit 0']
    assert again(("tables[]",)) == b"tables[]"


def test_an_error_is_written_as_one() -> None:
    """What a stand-in answers with."""
    with pytest.raises(qipc.QServerError, match="'wsfull"):
        again(qipc.QServerError("wsfull"))


def test_kinds_of_frames() -> None:
    """The header says what the frame is for, and how long it is with all its buffers."""
    for kind in qipc.Kind:
        frame = joined(pa.array([1, 2]), kind)
        said = qipc.header(frame[:8])
        assert (said.kind, said.length, said.compressed, said.big_endian) == (kind, len(frame), 0, False)


@pytest.mark.parametrize(
    ("kind", "values", "problem"),
    [
        ("long", pa.array([-(2**63)]), "does not fit into q's long"),
        ("int", pa.array([-(2**31)], pa.int32()), "does not fit into q's int"),
        ("int", pa.array([2**31]), "does not fit into q's int"),
        ("short", pa.array([-(2**15), 1], pa.int16()), "does not fit into q's short"),
        ("long", pa.array([1.5]), "has no integers"),
        ("byte", pa.array([256]), "none of q's bytes"),
        ("byte", pa.array([-1, None]), "none of q's bytes"),
        ("char", pa.array(["ab"]), "not one character of ASCII"),
        ("char", pa.array(["é"]), "not one character of ASCII"),
        ("symbol", pa.array(["a\0"]), "NUL"),
        ("symbol", pa.array(["a\0"]).dictionary_encode(), "NUL"),
        ("guid", pa.array(["no guid"]), "no guid"),
        ("month", pa.array([dt.date(2024, 1, 2)]), "not the first of its month"),
        ("minute", pa.array([1]), "no whole minutes"),
        ("time", pa.array([1_000_001]), "no whole times"),
        ("second", pa.array([2**62 // 10**9 * 10**9]), "does not fit into q's second"),
        ("timestamp", pa.array([-(2**63) + 1], pa.timestamp("ns")), "earlier than q's timestamps"),
        ("timestamp", pa.array([dt.datetime(2300, 1, 1)], pa.timestamp("us")), "does not fit into nanoseconds"),
        ("datetime", pa.array([1], pa.timestamp("us", "UTC")), "milliseconds"),
        ("decimal", pa.array([1]), "no such type"),
    ],
)
def test_what_q_has_no_place_for_is_refused(kind: str, values: pa.Array, problem: str) -> None:
    """K27: nothing turns into another value, or into q's null, on the way; the column is named."""
    with pytest.raises(TypeRefused, match=rf"column 'c': .*{problem}|{problem}"):
        qipc.encode(typed(kind, values))


@pytest.mark.parametrize(
    "value",
    [-(2**63), 2**63, "a\0b", dt.datetime(2024, 1, 1), object(), np.datetime64("1600-01-01", "s"), pa.table({"c": pa.array([None])})],
    ids=["null", "large", "nul", "datetime", "object", "early", "typeless"],
)  # fmt: skip
def test_values_without_a_place_are_refused(value: Any) -> None:
    """An integer that would be q's null, a symbol with a NUL, an ambiguous datetime, rows without a type."""
    with pytest.raises(TypeRefused):
        qipc.encode(value)


_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=5)
_COLUMNS = {
    "long": st.none() | st.integers(-(2**63) + 2, 2**63 - 2),
    "short": st.none() | st.integers(-(2**15) + 2, 2**15 - 2),
    "symbol": st.none() | _TEXT,
    "char vector": _TEXT | st.just(""),
    "float": st.none() | st.floats(allow_nan=False),
    "date": st.none() | st.dates(),
    "datetime": st.none() | st.datetimes().map(lambda value: value.replace(microsecond=1000, tzinfo=dt.UTC)),
    "timespan": st.none() | st.integers(-(2**63) + 2, 2**63 - 2),
    "time": st.none() | st.integers(-(2**31) + 2, 2**31 - 2).map(lambda value: value * 10**6),
    "guid": st.none() | st.uuids().filter(lambda value: value.int > 0).map(str),
    "long list": st.lists(st.none() | st.integers(-5, 5), max_size=3),
    "symbol list": st.lists(st.none() | _TEXT, max_size=3),
    "char vector list": st.lists(_TEXT, max_size=3),
}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_table_comes_back_as_it_was(data: st.DataObject) -> None:
    """Rows, order, nulls and types, whatever the table."""
    rows = data.draw(st.integers(0, 6))
    columns = {}
    for kind, values in _COLUMNS.items():
        columns[kind] = data.draw(st.lists(values, min_size=rows, max_size=rows))
    table = pa.Table.from_arrays(
        [pa.array(values, arrow_of(kind)) for kind, values in columns.items()],
        schema=pa.schema([field(kind, kind, arrow_of(kind)) for kind in columns]),
    )
    types = {"char vector": "C", "long list": "J", "symbol list": "S"}
    found = qipc.decode(joined(table), types=types)
    for kind in columns:
        if rows and kind == "char vector list" and not any(columns[kind]):
            continue  # lists without any element say no type
        if kind == "char vector list" and not rows:
            continue
        assert found.column(kind).to_pylist() == columns[kind]
        assert found.schema.field(kind).equals(table.schema.field(kind), check_metadata=True)
