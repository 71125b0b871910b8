"""The typing policy of the SQLite source: what fits, what goes to quarantine, and that nothing is lost or changed."""

from __future__ import annotations

import math
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse_assets.errors import TypeRefused
from lakehouse_assets.sources.base import Past
from lakehouse_assets_tests.sources.sqlite_lab import Follower, read, source, write

TOO_BIG = 2**53 + 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "edge.db"


def land(path: Path, declared: str, *cells: Any, **fields: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    """Store cells in a column `x` of a declared type; what fits, and the misfits."""
    write(path, f"CREATE TABLE t (n INTEGER PRIMARY KEY, x {declared})")
    write(path, ("INSERT INTO t VALUES (?, ?)", list(enumerate(cells))))
    follower = Follower(path, **fields)
    follower.catch_up()
    return [row["x"] for row in follower.rows], follower.misfits


def type_of(path: Path, declared: str, strict: str = "") -> pa.DataType:
    """The type of a column of a declared type, in an empty table."""
    write(path, f"CREATE TABLE t (n INTEGER PRIMARY KEY, x {declared}) {strict}")
    with source(path) as one:
        return one.schema().field("x").type


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("INTEGER", pa.int64()), ("BIGINT", pa.int64()), ("UNSIGNED BIG INT", pa.int64()),
        ("FLOATING POINT", pa.int64()),
        ("REAL", pa.float64()), ("DOUBLE PRECISION", pa.float64()), ("FLOAT", pa.float64()),
        ("TEXT", pa.string()), ("VARCHAR(20)", pa.string()), ("NCHAR(5)", pa.string()), ("CLOB", pa.string()),
        ("BLOB", pa.binary()), ("", pa.string()),
        ("BOOLEAN", pa.bool_()), ("bool", pa.bool_()),
        ("NUMERIC", pa.float64()), ("DECIMAL(10, 2)", pa.float64()), ("Money", pa.float64()),
        ("DATE", pa.string()), ("DATETIME", pa.string()), ("TIMESTAMP", pa.string()), ("JSON", pa.string()),
        ("STRING", pa.string()), ("UUID", pa.string()),
    ],
)  # fmt: skip
def test_a_declared_type_has_one_type_by_its_affinity(path: Path, declared: str, expected: pa.DataType) -> None:
    """The written policy, by SQLite's rules of affinity (a floating POINT is an integer there)."""
    assert type_of(path, declared) == expected


def test_any_of_a_strict_table_is_typed_by_its_values(path: Path) -> None:
    """ANY in a STRICT table keeps what it gets, so the values say the type; elsewhere it is just a word."""
    write(path, "CREATE TABLE t (x ANY) STRICT", "INSERT INTO t VALUES (1)")
    with source(path) as one:
        assert one.schema().field("x").type == pa.int64()


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([1, 2], pa.int64()), ([1, 2.5], pa.float64()), ([2.5], pa.float64()), (["a"], pa.string()),
        ([b"a"], pa.binary()), ([None], pa.string()), ([None, 3], pa.int64()), ([1, "a", "b"], pa.string()),
        ([1, 2, "a"], pa.int64()),
    ],
    ids=str,
)  # fmt: skip
def test_an_untyped_column_is_typed_by_its_first_values(path: Path, cells: list[Any], expected: pa.DataType) -> None:
    """One class of values gives its type, integers with reals doubles, a mixture the type of most values."""
    fit, misfits = land(path, "", *cells)
    with source(path) as one:
        assert one.schema().field("x").type == expected
    assert len(fit) + len(misfits) == len(cells)


def test_an_untyped_column_is_typed_by_the_first_rows_whatever_its_indices(path: Path) -> None:
    """An index, which SQLite prefers to a wide table, would show the numbers before the text that came first."""
    write(path, f"CREATE TABLE t (x, {', '.join(f'wide{n} TEXT' for n in range(20))})", "CREATE INDEX i ON t (x)")
    write(path, ("INSERT INTO t (x) VALUES (?)", [("a",)] * 1000))
    write(path, ("INSERT INTO t (x) VALUES (?)", [(n,) for n in range(2000)]))
    with source(path) as one:
        assert one.schema().field("x").type == pa.string()


@pytest.mark.parametrize(
    ("declared", "cells"),
    [
        ("INTEGER", [0, 1, -1, 2**63 - 1, -(2**63), None]),
        ("REAL", [0.0, 1.5, -2.25, 1e308, 5e-324, math.inf, -math.inf, None, 3.0, 0.1]),
        ("TEXT", ["", "a", "grün 🌱", "it's", "a\0b", "\0", None, "1", "nul\0"]),
        ("BLOB", [b"", b"\xff\0", None]),
        ("BOOLEAN", [True, False, None]),
        ("NUMERIC", [2**53, -(2**53), 0.5, None]),
        ("DATETIME", ["2025-05-01T10:00:00Z", "", None, "2025-05-01"]),
    ],
)
def test_values_that_fit_arrive_as_they_are(path: Path, declared: str, cells: list[Any]) -> None:
    """Extremes of every class, infinities and NUL characters included."""
    assert land(path, declared, *cells) == (cells, [])


@pytest.mark.parametrize(
    ("declared", "cell", "text"),
    [
        ("INTEGER", 2.5, "2.5"), ("INTEGER", "x", "'x'"), ("INTEGER", b"\x01", "X'01'"), ("INTEGER", 1e19, "1e+19"),
        ("INTEGER", math.inf, "9.0e+999"), ("INTEGER", -math.inf, "-9.0e+999"),
        ("REAL", "n/a", "'n/a'"), ("REAL", "", "''"), ("REAL", b"", "X''"),
        ("TEXT", b"text", "X'74657874'"), ("TEXT", b"", "X''"),
        ("BLOB", "text", "'text'"), ("BLOB", 1, "1"), ("BLOB", 0.1, "0.1"),
        ("BOOLEAN", 2, "2"), ("BOOLEAN", "yes", "'yes'"), ("BOOLEAN", 0.5, "0.5"),
        ("NUMERIC", TOO_BIG, str(TOO_BIG)), ("NUMERIC", "1,5", "'1,5'"), ("DECIMAL(9,2)", b"1", "X'31'"),
        ("DATE", b"\xff", "X'FF'"), ("REAL", "it's\0", "CAST(X'6974277300' AS TEXT)"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_sends_its_row_to_the_misfits(
    path: Path, declared: str, cell: Any, text: str
) -> None:
    """The row goes whole, each value as SQL literal, with the column as reason; its neighbours are not touched."""
    fit, misfits = land(path, declared, None, cell, None)
    assert fit == [None, None]
    assert misfits == [
        {
            "_upstream": {"n": "1", "x": text},
            "_reasons": ["cast_failed:x"],
            "_position": "1",
            "_source": "readings",
        }
    ]


def test_text_that_is_not_utf8_is_a_misfit(path: Path) -> None:
    """SQLite stores any bytes as text; no bytes are replaced."""
    write(path, "CREATE TABLE t (n INTEGER PRIMARY KEY, x TEXT, y TEXT)", "INSERT INTO t VALUES (1, 'a', 'b')")
    write(path, "INSERT INTO t VALUES (2, CAST(x'61FF62' AS TEXT), 'c')", "INSERT INTO t VALUES (3, 'd', NULL)")
    follower = Follower(path)
    assert follower.catch_up() == [{"n": 1, "x": "a", "y": "b"}, {"n": 3, "x": "d", "y": None}]
    assert [misfit["_upstream"] for misfit in follower.misfits] == [
        {"n": "2", "x": "CAST(X'61FF62' AS TEXT)", "y": "'c'"}
    ]
    assert follower.misfits[0]["_reasons"] == ["cast_failed:x"]


def test_all_reasons_of_a_row_are_given(path: Path) -> None:
    """A row with several misfits names each column, in the order of the table."""
    write(path, "CREATE TABLE t (a REAL, b INTEGER, c TEXT)", "INSERT INTO t VALUES ('x', 'y', x'00')")
    follower = Follower(path)
    follower.catch_up()
    assert follower.misfits[0]["_reasons"] == ["cast_failed:a", "cast_failed:b", "cast_failed:c"]


def test_numbers_in_a_text_column_are_text_already(path: Path) -> None:
    """SQLite's TEXT affinity makes them text when they are stored."""
    assert land(path, "TEXT", 5, 2.5) == (["5", "2.5"], [])


def test_numbers_in_a_date_column_are_its_text(path: Path) -> None:
    """SQLite keeps no text that looks like a number in such a column, so the text says which number it was."""
    assert land(path, "DATETIME", 1746057600, "20250501", 1746057600.25, 1e20, math.inf) == (
        ["1746057600", "20250501", "1746057600.25", "1e+20", "9.0e+999"],
        [],
    )


def test_minus_zero_keeps_its_sign(path: Path) -> None:
    """SQLite stores -0.0 as it is where no affinity makes it an integer."""
    fit, _ = land(path, "", -0.0, 1.5)
    assert struct.pack(">d", fit[0]) == struct.pack(">d", _stored(path, "SELECT x FROM t WHERE n = 0"))


def _stored(path: Path, sql: str) -> Any:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchone()[0]


def test_a_leading_column_of_nulls_keeps_its_type(path: Path) -> None:
    """The type comes from the declaration, not from the first batch: text after 70,000 NULLs is read."""
    write(path, "CREATE TABLE t (x TEXT, y REAL, z BLOB)")
    write(path, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 70000) "
                "INSERT INTO t SELECT NULL, NULL, NULL FROM n", "INSERT INTO t VALUES ('a', 1.5, x'00')")  # fmt: skip
    follower = Follower(path)
    follower.catch_up()
    assert follower.rows[-1] == {"x": "a", "y": 1.5, "z": b"\0"}
    assert len(follower.rows) == 70_001


def test_generated_columns_are_read(path: Path) -> None:
    """Virtual and stored ones, typed as they are declared."""
    write(path, "CREATE TABLE t (a INTEGER, b TEXT AS (a || '!') VIRTUAL, c REAL AS (a / 2.0) STORED)",
          "INSERT INTO t (a) VALUES (5)")  # fmt: skip
    assert Follower(path).catch_up() == [{"a": 5, "b": "5!", "c": 2.5}]


def test_a_declared_schema_decides(path: Path) -> None:
    """`source_schema` gives names, types and choice of the columns, whatever SQLite declares."""
    write(path, "CREATE TABLE t (a INTEGER, b TEXT, c, d TEXT)", "INSERT INTO t VALUES (1, 'x', 2.5, 'left out')")
    follower = Follower(path, source_schema="c double, A tinyint, b string")
    assert follower.catch_up() == [{"c": 2.5, "A": 1, "b": "x"}]
    with source(path, source_schema="c double, A tinyint, b string") as one:
        assert one.schema() == pa.schema([("c", pa.float64()), ("A", pa.int8()), ("b", pa.string())])


@pytest.mark.parametrize(
    ("spark", "fits", "not_fits"),
    [
        ("tinyint", [-128, 127], [-129, 128]), ("smallint", [-(2**15)], [2**15]), ("int", [2**31 - 1], [2**31]),
        ("bigint", [2**63 - 1], [2.5, "x"]), ("boolean", [0, 1], [2, -1]), ("double", [1, 2.5], [TOO_BIG, "x"]),
        ("string", ["x"], [1, 2.5, b"x"]), ("binary", [b"x"], ["x", 1]),
    ],
)  # fmt: skip
def test_the_range_of_a_declared_type_is_kept(path: Path, spark: str, fits: list[Any], not_fits: list[Any]) -> None:
    """A number that the declared type cannot hold is a misfit, not another number."""
    fit, misfits = land(path, "", *fits, *not_fits, source_schema=f"n bigint, x {spark}")
    assert fit == fits
    assert len(misfits) == len(not_fits)


def test_null_does_not_fit_a_column_that_is_declared_not_null(path: Path) -> None:
    """NOT NULL in `source_schema` is a rule of the type."""
    fit, misfits = land(path, "TEXT", "a", None, source_schema="n bigint, x string not null")
    assert fit == ["a"]
    assert misfits[0]["_upstream"]["x"] == "NULL"


@pytest.mark.parametrize("spark", ["timestamp", "date", "decimal(9,2)", "float", "array<int>"])
def test_a_type_that_sqlite_does_not_store_is_refused(path: Path, spark: str) -> None:
    """The value is landed as received; where to cast it instead is said."""
    write(path, "CREATE TABLE t (x TEXT)")
    with source(path, source_schema=f"x {spark}") as one, pytest.raises(TypeRefused, match=r"select_expr"):
        one.schema()


CELLS = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 2, 127, 128, 2**31, 2**53, TOO_BIG, -TOO_BIG]),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.sampled_from(["1", "1.5", " 7", "0x10", "1e5", "inf", "2025-05-01", "x'00'", "a\0b"]),
    st.binary(max_size=5),
)
DECLARED = st.sampled_from(["INTEGER", "REAL", "TEXT", "BLOB", "", "NUMERIC", "DATETIME", "BOOLEAN", "DECIMAL(9,2)"])
SPARK = st.sampled_from([None, "tinyint", "int", "bigint", "double", "string", "binary", "boolean"])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(declared=DECLARED, spark=SPARK, cells=st.lists(CELLS, max_size=12), broken=st.booleans())
def test_no_value_is_lost_or_changed(
    tmp_path: Path, declared: str, spark: str | None, cells: list[Any], broken: bool
) -> None:
    """Whatever is stored under whatever type: each row arrives once, its value equal or as a literal of it.

    Equal means: SQLite itself, asked for the class and value that it stores, gives the same value, bit for bit.
    """
    path = tmp_path / "edge.db"
    path.unlink(missing_ok=True)
    schema = f"n bigint, x {spark}" if spark else None
    write(path, f"CREATE TABLE t (n INTEGER PRIMARY KEY, x {declared})")
    write(path, ("INSERT INTO t VALUES (?, ?)", list(enumerate(cells))))
    if broken:
        write(path, "INSERT INTO t VALUES (100, CAST(x'FF' AS TEXT))")
    with source(path, source_schema=schema) as one:
        rows, misfits = read(one, one.earliest(), one.latest(Past()))
        kind = one.schema().field("x").type
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = lambda data: ("text", data)
        stored = dict(connection.execute("SELECT n, x FROM t"))
        found = {int(misfit["_upstream"]["n"]): misfit["_upstream"]["x"] for misfit in misfits}
        assert sorted([*found, *(row["n"] for row in rows)]) == sorted(stored)
        for n, text in found.items():
            (again,) = connection.execute(f"SELECT {text}").fetchone()
            assert _same(again, stored[n]), (text, stored[n])
    for row in rows:
        assert _says(kind, row["x"], stored[row["n"]]), (kind, row, stored[row["n"]])


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other  # a literal -0.0 is read by SQLite as 0.0
    return type(one) is type(other) and one == other


def _says(kind: pa.DataType, value: Any, stored: Any) -> bool:
    """Whether a value in a column of this type says exactly what is stored."""
    if stored is None or value is None:
        return value is stored
    if isinstance(stored, tuple):
        return kind == pa.string() and value.encode() == stored[1]
    if isinstance(stored, bytes):
        return kind == pa.binary() and value == stored
    if kind == pa.string() and isinstance(stored, int):
        return bool(value == str(stored))
    if kind == pa.string():
        return float(value.replace("9.0e+999", "inf")) == stored and not value.lstrip("-").isdigit()
    if isinstance(stored, float):
        return struct.pack(">d", value) == struct.pack(">d", stored)
    return int(value) == stored


def test_a_table_of_many_columns_is_read(path: Path) -> None:
    """Hundreds of columns, each checked; more than SQLite can return twice are refused with the remedy."""
    write(path, f"CREATE TABLE t ({', '.join(f'c{n} REAL' for n in range(900))})")
    write(path, f"INSERT INTO t VALUES ({', '.join(['0.5'] * 900)})", "INSERT INTO t (c899) VALUES ('odd')")
    follower = Follower(path)
    assert len(follower.catch_up()) == 1
    assert follower.misfits[0]["_reasons"] == ["cast_failed:c899"]
    path.unlink()
    write(path, f"CREATE TABLE t ({', '.join(f'c{n}' for n in range(1200))})")
    with source(path) as one, pytest.raises(TypeRefused, match=r"1200 columns(.|\n)*source_schema"):
        one.schema()
