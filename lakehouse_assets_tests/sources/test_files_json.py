"""JSON records: lines or whole files, declared or learned columns, and every line that is no record is kept."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse_assets.errors import SourceError, SourceUnreadable, TypeRefused
from lakehouse_assets_tests.sources.files_making import entity, misfits, put, rows, table

SLOWLY = "\n \n"
"""A line of blanks: it is no record, and sends its block to the reader that looks line by line."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the one file of a test goes."""
    return tmp_path / "in" / "a.json"


def read(file: Path, text: bytes | str, **options: Any) -> list[dict[str, Any]]:
    """The rows of one file."""
    put(file, text)
    return rows(entity(file.parent, "json", **options))


def rejected(file: Path, text: bytes | str, **options: Any) -> list[tuple[str, list[str], dict[str, Any]]]:
    """The misfits of one file: position, reasons, what was received."""
    put(file, text)
    return [(m["_position"], m["_reasons"], m["_upstream"]) for m in misfits(entity(file.parent, "json", **options))]


@pytest.mark.parametrize("end", ["", SLOWLY])
def test_columns_are_learned_from_all_records(file: Path, end: str) -> None:
    """Types as Spark infers them; columns in the order in which they come; empty objects are left out."""
    text = (
        '{"a":1,"b":null,"c":[],"d":{},"e":[null],"f":1.5,"g":"2024-01-01 10:00:00","h":[1,2.5],"i":{"x":1},"k":true}\n'
        '{"a":"x","i":{"y":"s","z":{}},"k":1,"l":[{"m":1},{"n":[true]}]}' + end
    )
    put(file, text)
    found = table(entity(file.parent, "json")).schema
    assert {column.name: str(column.type) for column in found if column.name[0] != "_"} == {
        "a": "string", "b": "string", "c": "list<item: string>", "e": "list<item: string>", "f": "double",
        "g": "string", "h": "list<item: double>", "i": "struct<x: int64, y: string>", "k": "string",
        "l": "list<item: struct<m: int64, n: list<item: bool>>>",
    }  # fmt: skip
    assert rows(entity(file.parent, "json"))[0]["a"] == "1"


def test_whole_numbers_beyond_bigint_are_exact(file: Path) -> None:
    """They make the column a decimal; with more digits than a decimal has, their text is kept."""
    text = f'{{"a":{10**22},"b":1,"c":1.5}}\n{{"a":2,"b":{10**40},"c":{2**70}}}\n'
    first, second = read(file, text)
    assert (first["a"], second["a"]) == (Decimal(10**22), Decimal(2))
    assert (first["b"], second["b"]) == ("1", str(10**40))
    assert second["c"] == float(2**70)


@pytest.mark.parametrize(
    "line",
    ["{bad", "5", '"x"', "null", "[1]", '{"a":1}{"a":2}', '{"a":1,"a":2}', '{"a":"\\ud800"}', '{"a":1} x', "{'a':1}"],
)
def test_a_line_that_is_no_record_goes_to_quarantine(file: Path, line: str) -> None:
    """Its text is kept as `_raw`; the lines around it are read."""
    text = '{"a":1}\n' + line + '\n\n{"a":3}\n'
    assert read(file, text, schema="a bigint") == [{"a": 1}, {"a": 3}]
    raw = "1" if line == "[1]" else line
    assert rejected(file, text, schema="a bigint") == [("a.json#1", ["malformed_row"], {"_raw": raw})]


@pytest.mark.parametrize("end", ["", SLOWLY])
@pytest.mark.parametrize("line", ['{"a":1}{"a":2}', '{"a":Inf}', '{"a":1,"u":1,"u":2}', '{"a":[{}', '{"a":-}'])
def test_the_quick_reader_takes_no_line_that_the_careful_one_refuses(file: Path, line: str, end: str) -> None:
    """Arrow's own reader is more lenient in places: two objects on a line, `Inf`, a name that comes twice."""
    text = '{"a":1}\n' + line + '\n{"a":3}\n' + end
    assert read(file, text, schema="a double") == [{"a": 1.0}, {"a": 3.0}]
    assert rejected(file, text, schema="a double") == [("a.json#1", ["malformed_row"], {"_raw": line})]


def test_bytes_that_are_no_text_harm_their_line_only(file: Path) -> None:
    """They are shown escaped."""
    text = b'{"a":1}\n{"a":"\xff"}\n{"a":3}\n'
    assert read(file, text, schema="a bigint") == [{"a": 1}, {"a": 3}]
    assert rejected(file, text, schema="a bigint") == [("a.json#1", ["malformed_row"], {"_raw": '{"a":"\\xff"}'})]


def test_an_array_on_a_line_is_several_records(file: Path) -> None:
    """As in Spark; each has its number."""
    put(file, '[{"a":1},{"a":2}]\n{"a":3}\n')
    found = table(entity(file.parent, "json"))
    assert found.column("a").to_pylist() == [1, 2, 3]
    assert found.column("_position").to_pylist() == ["a.json#0", "a.json#1", "a.json#2"]


@pytest.mark.parametrize("text", ['[{"a":1,\n"b":2},{"a":3}]', '\ufeff [\r\n{"a":1,"b":2},{"a":3,"b":null}]\n'])
def test_a_file_may_be_one_value(file: Path, text: str) -> None:
    """`multiLine`: an array of objects over any number of lines."""
    assert read(file, text, multiLine=True) == [{"a": 1, "b": 2}, {"a": 3, "b": None}]


def test_a_file_that_is_one_object_is_one_record(file: Path) -> None:
    """And what is no object among several is malformed, as is a file that is no JSON."""
    assert read(file, '{"a":\n1}', multiLine=True) == [{"a": 1}]
    assert rejected(file, '[{"a":1},7]', multiLine=True) == [("a.json#1", ["malformed_row"], {"_raw": "7"})]
    assert rejected(file, '{"a":\n', multiLine=True, schema="a int") == [
        ("a.json#0", ["malformed_row"], {"_raw": '{"a":\n'})
    ]


def test_values_are_read_as_the_declared_types(file: Path) -> None:
    """A name that is absent is NULL, one that is not declared is left out; names are exact."""
    ddl = "i int, m decimal(5,2), t timestamp, d date, s string, l array<int>, o struct<x: int, y: string>, z int"
    text = (
        '{"i":1,"m":1.25,"t":"2024-07-01T12:00:00","d":"2024-07-01","s":{"k":[1.0]},"l":[1,null],'
        '"o":{"x":1,"w":2},"Z":5}'
    )
    expected = {
        "i": 1, "m": Decimal("1.25"), "t": dt.datetime(2024, 7, 1, 10, tzinfo=dt.UTC), "d": dt.date(2024, 7, 1),
        "s": '{"k":[1.0]}', "l": [1, None], "o": {"x": 1, "y": None}, "z": None,
    }  # fmt: skip
    assert read(file, text, schema=ddl, timeZone="Europe/Vienna") == [expected]


@pytest.mark.parametrize("end", ["", SLOWLY])
def test_a_value_that_does_not_fit_sends_its_row_to_quarantine(file: Path, end: str) -> None:
    """With the whole record as received, fields that are not declared too."""
    text = '{"a":1,"t":"2024-01-01"}\n{"a":2,"t":"soon","u":[1.50,"x"]}\n{"a":3,"t":null}' + end
    ddl = "a int, t timestamp"
    assert [row["a"] for row in read(file, text, schema=ddl)] == [1, 3]
    expected = ("a.json#1", ["cast_failed:t"], {"a": "2", "t": "soon", "u": '[1.50,"x"]'})
    assert rejected(file, text, schema=ddl) == [expected]


def test_a_misfit_of_the_quick_reader_is_kept_whole(file: Path) -> None:
    """Where a block is read at once, the line of a misfit is looked up again."""
    text = '{"a":1,"t":"2024-01-01"}\n{"a":2,"t":"soon"}\n'
    assert rejected(file, text, schema="a int, t timestamp") == [
        ("a.json#1", ["cast_failed:t"], {"a": "2", "t": "soon"})
    ]


def test_names_that_differ_in_case_only_are_refused(file: Path) -> None:
    """A table cannot hold both; declaring one of them reads that one."""
    text = '{"a":1,"A":2}\n'
    with pytest.raises(SourceUnreadable, match="'a', 'A'"):
        read(file, text)
    assert read(file, text, schema="A int") == [{"A": 2}]


def test_a_name_without_a_place_in_a_table_is_refused(file: Path) -> None:
    """Inside of objects too."""
    with pytest.raises(TypeRefused, match="b c"):
        read(file, '{"a":{"b c":1}}\n')


def test_a_value_nested_beyond_all_measure_is_malformed(file: Path) -> None:
    """Readers that recurse would end the process."""
    deep = '{"a":' + "[" * 200_000 + "]" * 200_000 + "}"
    assert read(file, deep + '\n{"a":[1]}\n', schema="a array<int>") == [{"a": [1]}]


def test_a_file_without_records_has_no_columns(file: Path) -> None:
    """Empty lines teach nothing; declared columns are there."""
    assert read(file, "\n\n", schema="a int") == []


PRIMITIVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "x", "2024-01-01", "NaN", "Infinity", "ü\n\u0000", "5", "😀"])
)
VALUES = st.recursive(
    PRIMITIVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)
TEXTS = st.sampled_from(["", "x", "ü\n\u0000", "2024-01-01", "2024-02-30", "2024-01-01T10:00:00.5Z", "5", "😀"])
LONGS = st.integers(-(2**63), 2**63 - 1)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False) | LONGS
ALIKE = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "a": st.none() | LONGS,
            "b": st.none() | DOUBLES,
            "c": st.none() | TEXTS,
            "t": st.none() | TEXTS,
            "l": st.none() | st.lists(st.none() | DOUBLES, max_size=2),
            "s": st.none() | st.fixed_dictionaries({}, optional={"x": LONGS, "y": TEXTS | st.lists(st.booleans())}),
        },
    ),
    min_size=1,
    max_size=5,
)
"""Records whose values mostly have one type a name: what the quick reader takes."""
MIXED = st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3), min_size=1, max_size=6)
DDL = "a bigint, b double, c string, t timestamp, l array<double>, s struct<x: bigint, y: string>"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ALIKE | MIXED, st.sampled_from([None, DDL]))
def test_the_quick_reader_and_the_careful_one_agree(file: Path, records: list[dict[str, Any]], ddl: str | None) -> None:
    """Rows, types and misfits are the same whichever reads a block."""
    records = records if ddl else [*records, {"n": 1}]
    text = "\n".join(json.dumps(record) for record in records)
    outcomes = []
    for end in ("", SLOWLY):
        put(file, text + end)
        found = entity(file.parent, "json", schema=ddl)
        outcomes.append((_table(found), misfits(found)))
    assert outcomes[0] == outcomes[1]


def _table(found: Any) -> Any:
    try:
        read = table(found)
    except (SourceError, TypeRefused) as error:
        return str(error)
    return read.schema, read.to_pylist()
