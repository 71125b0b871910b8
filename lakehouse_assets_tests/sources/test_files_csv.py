"""CSV as Spark reads it, where Spark loses nothing; every row that is none goes to quarantine with its text."""

from __future__ import annotations

import bz2
import datetime as dt
import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.errors import SourceUnreadable, TypeRefused
from lakehouse_assets.sources.files_blocks import BLOCK_BYTES
from lakehouse_assets_tests.sources.files_making import entity, misfits, naive, put, rows, table


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the one file of a test goes."""
    return tmp_path / "in" / "a.csv"


def read(file: Path, text: bytes | str, **options: Any) -> list[tuple[Any, ...]]:
    """The rows of one file, as tuples."""
    put(file, text)
    return [tuple(row.values()) for row in rows(entity(file.parent, **options))]


def rejected(file: Path, text: bytes | str, **options: Any) -> list[tuple[str, list[str], dict[str, Any]]]:
    """The misfits of one file: position, reasons, what was received."""
    put(file, text)
    return [(m["_position"], m["_reasons"], m["_upstream"]) for m in misfits(entity(file.parent, **options))]


def test_without_a_header_columns_are_numbered(file: Path) -> None:
    """`_c0`, `_c1`, … of the first record; all are texts."""
    put(file, "a,b\n1,2\n")
    found = table(entity(file.parent))
    assert found.schema.names[:2] == ["_c0", "_c1"]
    assert rows(entity(file.parent)) == [{"_c0": "a", "_c1": "b"}, {"_c0": "1", "_c1": "2"}]


def test_a_header_names_the_columns(file: Path) -> None:
    """Empty names become `_c<place>`, names that come twice (in any case) get their place at the end: as in Spark."""
    put(file, "a,A,,b,b,c\n1,2,3,4,5,6\n")
    assert list(rows(entity(file.parent, header=True))[0]) == ["a0", "A1", "_c2", "b3", "b4", "c"]


@pytest.mark.parametrize(
    ("null", "expected"),
    [
        (None, [("1", None, None), ("2", "NA", "NA")]),
        ("NA", [("1", None, ""), ("2", None, None)]),
    ],
)
def test_null_is_what_spark_takes_for_null(file: Path, null: str | None, expected: list[tuple[Any, ...]]) -> None:
    """Nothing is NULL; `""` is the empty text, which is NULL unless `nullValue` is another; quotes do not matter."""
    options = {} if null is None else {"nullValue": null}
    assert read(file, 'a,b,c\n1,,""\n2,"NA",NA\n', header=True, **options) == expected


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa,b\n1,ü\n2,\n",
        "a,b\r\n1,ü\r\n2,\r\n",
        "a,b\r1,ü\r2,\r",
        "a,b\n1,ü\n2,",
        "\n\na,b\n\n1,ü\n   \n2,\n\n",
        '"a","b"\n"1","ü"\n"2",\n',
    ],
    ids=["bom", "crlf", "cr", "no last line end", "blank lines", "quotes"],
)
@pytest.mark.parametrize("multi", [False, True])
def test_one_content_in_many_forms(file: Path, text: str, multi: bool) -> None:
    """Byte order mark, line ends, blank lines and quotes do not change what is read."""
    assert read(file, text, header=True, multiLine=multi) == [("1", "ü"), ("2", None)]


@pytest.mark.parametrize("encoding", ["UTF-16", "UTF-16LE", "ISO-8859-1", "windows-1252"])
def test_other_encodings_are_read(file: Path, encoding: str) -> None:
    """`encoding` (or `charset`) names any that Python knows."""
    assert read(file, "a\nü\n".encode(encoding), header=True, encoding=encoding) == [("ü",)]


def test_bytes_that_an_encoding_does_not_have_are_an_error(file: Path) -> None:
    """The encoding is wrong for the whole file: it is named, and nothing is guessed."""
    with pytest.raises(SourceUnreadable, match=r"a\.csv is not text in cp1252[\s\S]*'encoding'"):
        read(file, b"a\n\x81\n", encoding="windows-1252")


def test_separators_quotes_and_comments_can_be_chosen(file: Path) -> None:
    """`sep`, `quote`, `comment`; a comment mark inside a line is text."""
    text = "#note\na;b\n'1;2';x\n#3;4\n5;#6\n"
    assert read(file, text, header=True, sep=";", quote="'", comment="#") == [("1;2", "x"), ("5", "#6")]


def test_a_quoted_value_may_hold_lines_with_multiline(file: Path) -> None:
    """Line ends inside quotes are kept, as LF."""
    assert read(file, 'a,b\r\n1,"x\r\n\r\ny"\r\n', header=True, multiLine=True) == [("1", "x\n\ny")]


def test_without_multiline_a_broken_value_harms_its_lines_only(file: Path) -> None:
    """Both halves are malformed, with their text; the next row is a row."""
    text = 'a,b\n1,"x\ny"\n2,z\n'
    assert read(file, text, header=True) == [("2", "z")]
    assert rejected(file, text, header=True) == [
        ("a.csv#0", ["malformed_row"], {"_raw": '1,"x'}),
        ("a.csv#1", ["malformed_row"], {"_raw": 'y"'}),
    ]


@pytest.mark.parametrize("line", [b"1", b"1,2,3", b'1,"2', b'1,"2"x', b"1,\xff"], ids=repr)
def test_a_malformed_line_goes_to_quarantine(file: Path, line: bytes) -> None:
    """Too few or many fields, quotes that do not match, bytes that are no text: its text is kept as `_raw`."""
    text = b"a,b\n0,0\n" + line + b"\n9,9\n"
    assert read(file, text, header=True) == [("0", "0"), ("9", "9")]
    raw = line.decode("utf-8", "backslashreplace")
    assert rejected(file, text, header=True) == [("a.csv#1", ["malformed_row"], {"_raw": raw})]


def test_the_mode_failfast_stops_at_the_first_misfit(file: Path) -> None:
    """Row, file and value are named."""
    with pytest.raises(SourceUnreadable, match=r"row 1 of .*a\.csv does not fit \(cast_failed:a\)[\s\S]*\"x\""):
        read(file, "1\nx\n", schema="a int", mode="FAILFAST")
    with pytest.raises(SourceUnreadable, match="malformed_row"):
        read(file, "1\n1,2\n", schema="a int", mode="FAILFAST")


def test_values_are_cast_to_the_declared_types(file: Path) -> None:
    """Every type that a text can have."""
    ddl = "i int, l bigint, d double, m decimal(5,2), b boolean, y date, t timestamp, n timestamp_ntz, s string"
    text = "1,2,3.5,4.25,true,2024-01-02,2024-01-02T03:04:05+01:00,2024-01-02 03:04:05,x\n,,,,,,,,\n"
    time = naive(2024, 1, 2, 3, 4, 5)
    instant = dt.datetime(2024, 1, 2, 2, 4, 5, tzinfo=dt.UTC)
    first = (1, 2, 3.5, Decimal("4.25"), True, dt.date(2024, 1, 2), instant, time, "x")
    assert read(file, text, schema=ddl) == [first, (None,) * 9]


def test_a_value_that_does_not_fit_sends_its_row_to_quarantine(file: Path) -> None:
    """As received, with every reason; never a silent NULL, and the other rows are read."""
    text = "a,b,c\n1,2,x\no1,2.5,y\n3,,z\n"
    ddl = "a int, b int, c string"
    assert read(file, text, header=True, schema=ddl) == [(1, 2, "x"), (3, None, "z")]
    expected = ("a.csv#1", ["cast_failed:a", "cast_failed:b"], {"a": "o1", "b": "2.5", "c": "y"})
    assert rejected(file, text, header=True, schema=ddl) == [expected]


def test_misfits_stand_in_the_order_of_the_file(file: Path) -> None:
    """Malformed rows and rows that do not fit, each with its number."""
    found = rejected(file, "x\n1,2\ny\n", schema="a int")
    assert [(position, reasons) for position, reasons, _ in found] == [
        ("a.csv#0", ["cast_failed:a"]), ("a.csv#1", ["malformed_row"]), ("a.csv#2", ["cast_failed:a"]),
    ]  # fmt: skip


def test_formats_of_dates_can_be_given(file: Path) -> None:
    """`dateFormat`, `timestampFormat` and `timeZone` are Spark's; another form does not fit."""
    options = {"dateFormat": "dd.MM.yyyy", "timestampFormat": "dd.MM.yyyy HH:mm", "timeZone": "Europe/Vienna"}
    found = read(file, "31.12.2024,01.07.2024 12:00\n2024-12-31,\n", schema="d date, t timestamp", **options)
    assert found == [(dt.date(2024, 12, 31), dt.datetime(2024, 7, 1, 10, tzinfo=dt.UTC))]


def test_declared_columns_are_found_by_name(file: Path) -> None:
    """Whatever their order and case; what is not declared is left out, what a file lacks is NULL."""
    assert read(file, "B,c,a\n2,3,1\n", header=True, schema="a int, b int, d int") == [(1, 2, None)]


def test_declared_columns_may_be_taken_by_place(file: Path) -> None:
    """`enforceSchema: true`, Spark's default, is a choice here: it gives columns other names."""
    assert read(file, "Adj Close,Volume\n1.5,2\n", header=True, schema="c double, v int", enforceSchema=True) == [
        (1.5, 2)
    ]
    with pytest.raises(SourceUnreadable, match=r"has 2 columns \(Adj Close, Volume\), source_schema has 1"):
        read(file, "Adj Close,Volume\n1.5,2\n", header=True, schema="c double", enforceSchema=True)


def test_a_file_without_any_declared_column_is_refused(file: Path) -> None:
    """Most often the separator or the header is declared wrongly: reading only NULLs would hide it."""
    with pytest.raises(SourceUnreadable, match=r"none of the declared columns \(a, b\) \(got 'a;b'\)[\s\S]*sep"):
        read(file, "a;b\n1;2\n", header=True, schema="a int, b int")


def test_a_name_without_a_place_in_a_table_is_refused(file: Path) -> None:
    """With the way around: declare names, and take the columns by place."""
    with pytest.raises(TypeRefused, match=r"Adj Close[\s\S]*enforceSchema"):
        read(file, "Adj Close\n1\n", header=True)


def test_a_column_that_no_text_can_be_is_refused(file: Path) -> None:
    """An array in a CSV file, as in Spark."""
    with pytest.raises(SourceUnreadable, match=r"column 'a'[\s\S]*from_json"):
        read(file, "[1]\n", schema="a array<int>")


def test_files_with_more_columns_unite(file: Path) -> None:
    """A column that came later is NULL in older files; each file has its own order."""
    put(file, "a,b\n1,2\n")
    put(file.parent / "b.csv", "c,b,a\n3,2,1\n")
    put(file.parent / "c.csv", "")
    put(file.parent / "d.csv", "a,b\n")
    assert rows(entity(file.parent, header=True)) == [{"a": "1", "b": "2", "c": None}, {"a": "1", "b": "2", "c": "3"}]


def test_types_are_inferred_over_all_files(file: Path) -> None:
    """The narrowest type that every text fits, in Spark's order; no text at all is STRING."""
    put(file, "i,l,m,d,y,t,b,s,n,u\n1,1,1,1,2024-01-01,2024-01-01,true,x,,007\n")
    put(
        file.parent / "b.csv", f"i,l,m,d,y,t,b,s,n,u\n-2,{2**40},{10**20},1.5,2024-02-29,2024-01-01 10:00,FALSE,1,,+8\n"
    )
    found = table(entity(file.parent, header=True, inferSchema=True)).schema
    assert [str(kind) for kind in found.types[:10]] == [
        "int32", "int64", "decimal128(21, 0)", "double", "date32[day]", "timestamp[us, tz=UTC]", "bool", "string",
        "string", "int32",
    ]  # fmt: skip
    assert rows(entity(file.parent, header=True, inferSchema=True))[1]["m"] == Decimal(10**20)


def test_compressed_files_are_read(file: Path) -> None:
    """The name's end says how, as in Spark."""
    put(file.with_suffix(".csv.gz"), gzip.compress(b"1\n"))
    put(file.with_suffix(".csv.bz2"), bz2.compress(b"2\n"))
    assert rows(entity(file.parent)) == [{"_c0": "2"}, {"_c0": "1"}]


def test_a_broken_compressed_file_is_named(file: Path) -> None:
    """Half a file is not read as if it were whole."""
    with pytest.raises(SourceUnreadable, match=r"a\.csv\.gz cannot be read"):
        read(file.with_suffix(".csv.gz"), gzip.compress(bytes(range(256)) * 500)[:-30])


@pytest.mark.parametrize("mark", ["", '"'])
def test_rows_keep_their_numbers_over_blocks(file: Path, mark: str) -> None:
    """A file larger than a block: every row once, numbered through, misfits and malformed ones too."""
    count = BLOCK_BYTES * 2 // 40
    lines = [f"{at},{mark}{'x' * 35}{mark}" for at in range(count)]
    lines[7], lines[count - 3], lines[count // 2] = "7", "bad,x", f'{count // 2},"x'
    put(file, "\n".join(["id,s", *lines]))
    found = table(entity(file.parent, header=True, schema="id bigint, s string"))
    expected = [at for at in range(count) if at not in (7, count - 3, count // 2)]
    assert found.column("id").to_pylist() == expected
    assert found.column("_position").to_pylist() == [f"a.csv#{at}" for at in expected]
    numbers = [m["_position"] for m in misfits(entity(file.parent, header=True, schema="id bigint, s string"))]
    assert numbers == ["a.csv#7", f"a.csv#{count // 2}", f"a.csv#{count - 3}"]


def test_a_field_that_only_looks_quoted_is_text(file: Path) -> None:
    """A quote in the middle of a value, blanks before one, a backslash outside of quotes: as in Spark."""
    assert read(file, '5" x, "q" ,C:\\temp\n') == [('5" x', ' "q" ', "C:\\temp")]


def test_both_ways_to_escape_a_quote_are_read(file: Path) -> None:
    """A doubled quote (where Spark, told nothing, keeps the raw text) and a backslash."""
    assert read(file, '"x""y","p\\"q","r\\\\","C:\\temp"\n') == [('x"y', 'p"q', "r\\", "C:\\temp")]
    assert read(file, '"x""y","p\\q\\\\"\n', escape='"') == [('x"y', "p\\q\\\\")]


def test_no_quoting_at_all(file: Path) -> None:
    """An empty `quote` makes quotes plain text."""
    assert read(file, '"a,b"\n', quote="") == [('"a', 'b"')]
