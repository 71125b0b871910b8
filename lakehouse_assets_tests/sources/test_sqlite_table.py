"""SQLite databases: which table is read, by which column, and which names its columns may have."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakehouse_assets.errors import SourceBusy, SourceMissing, TypeRefused
from lakehouse_assets.sources.base import Past
from lakehouse_assets.sources.sqlite import SqliteSource
from lakehouse_assets_tests.sources.sqlite_lab import READINGS, Follower, readings, source, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "edge.db"


def test_u2_the_only_table_is_found(path: Path) -> None:
    """U2: one table that is not SQLite's own needs no name; views and indices do not count."""
    write(path, READINGS, "CREATE VIEW w AS SELECT * FROM readings", "CREATE INDEX i ON readings (t)", "ANALYZE")
    with source(path) as one:
        assert one.schema().names == ["id", "t", "v"]


def test_u2_no_table_is_an_error_that_says_what_was_found(path: Path) -> None:
    """U2: an empty database, and one with a view only."""
    write(path, "CREATE VIEW only_this AS SELECT 1 AS one")
    with source(path) as one, pytest.raises(SourceMissing, match=r"holds no table; and only_this \(a view\)"):
        one.schema()


def test_u2_several_tables_are_an_error_that_lists_them(path: Path) -> None:
    """U2: the choice is the user's."""
    write(path, "CREATE TABLE a (x)", "CREATE TABLE b (x)")
    with source(path) as one, pytest.raises(SourceMissing, match=r"holds 2 tables: a, b(.|\n)*sqlite\.table"):
        one.latest(Past())


def test_u2_a_table_that_is_not_there_is_refused_with_the_nearest(path: Path) -> None:
    """`sqlite.table` misspelt."""
    write(path, READINGS, "CREATE TABLE other (x)")
    with (
        source(path, options={"table": "reading"}) as one,
        pytest.raises(SourceMissing, match="did you mean 'readings'"),
    ):
        one.latest(Past())


def test_a_table_is_found_whatever_the_case(path: Path) -> None:
    """SQLite does not tell READINGS from readings, so the option does not either."""
    write(readings(path, 1), "CREATE TABLE other (x)")
    assert len(Follower(path, options={"table": "READINGS"}).catch_up()) == 1


def test_u10_any_name_of_a_table_or_column_is_quoted(path: Path) -> None:
    """U10: names with quotes, dots, keywords and other letters are read as they are."""
    names = ['"', "a.b", "select", "ü", "x'y", "[z]", "`", "rowid"]
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    write(
        path,
        f'CREATE TABLE "we""ird; table" ({columns})',
        f'INSERT INTO "we""ird; table" VALUES ({", ".join("12345678")})',
    )
    follower = Follower(path)
    assert follower.catch_up() == [dict(zip(names, range(1, 9), strict=True))]


@pytest.mark.parametrize("name", ["Adj Close", "a,b", "a;b", "a{b", "a}b", "a(b", "a)b", "a\nb", "a\tb", "a=b"])
def test_a_column_name_that_delta_cannot_hold_is_refused(path: Path, name: str) -> None:
    """The message says how to mend it; leaving the column out by source_schema works."""
    write(path, f'CREATE TABLE t (id INTEGER, "{name}" TEXT)', "INSERT INTO t VALUES (1, 'x')")
    with source(path) as one, pytest.raises(TypeRefused, match=r"RENAME COLUMN.*source_schema"):
        one.schema()
    assert Follower(path, source_schema="id bigint").catch_up() == [{"id": 1}]


@pytest.mark.parametrize("name", ["_source", "_Position", "_ingested_at", "_change_type"])
def test_a_column_name_of_the_lake_is_refused(path: Path, name: str) -> None:
    """A source column must not hide what the lake writes beside each row."""
    write(path, f"CREATE TABLE t (id INTEGER, {name} TEXT)")
    with source(path) as one, pytest.raises(TypeRefused, match="keeps for itself"):
        one.schema()


def test_names_that_differ_in_case_only_are_refused(path: Path) -> None:
    """SQLite tells É from é, Delta does not."""
    write(path, "CREATE TABLE t (É TEXT, é TEXT)")
    with source(path) as one, pytest.raises(TypeRefused, match="differ in case only: É and é"):
        one.schema()


def test_u3_the_timestamp_of_a_table_without_rowid_is_found(path: Path) -> None:
    """U3: the first column called `timestamp`, or declared as some `date`."""
    write(path, "CREATE TABLE t (k TEXT PRIMARY KEY, made DATETIME, TimeStamp TEXT) WITHOUT ROWID")
    with source(path) as one:
        assert one.describe()["cursor"] == "made"
    path.unlink()
    write(path, "CREATE TABLE t (k TEXT PRIMARY KEY, TimeStamp TEXT, made DATE) WITHOUT ROWID")
    with source(path) as one:
        assert one.describe()["cursor"] == "TimeStamp"


def test_u3_no_timestamp_is_an_error_that_lists_the_columns(path: Path) -> None:
    """U3: a table without rowid and without a timestamp needs a cursor."""
    write(path, "CREATE TABLE t (k TEXT PRIMARY KEY, seen INTEGER, odd) WITHOUT ROWID")
    with source(path) as one, pytest.raises(SourceMissing, match=r"k TEXT, seen INTEGER, odd(.|\n)*sqlite\.cursor"):
        one.latest(Past())


def test_a_cursor_that_is_not_there_is_refused_with_the_nearest(path: Path) -> None:
    """`sqlite.cursor` misspelt; the rowid is among the choices."""
    readings(path, 1)
    with source(path, options={"cursor": "idd"}) as one, pytest.raises(SourceMissing, match=r"t, v, rowid(.|\n)*'id'"):
        one.latest(Past())


@pytest.mark.parametrize("cursor", ["rowid", "_ROWID_", "id", "ID"])
def test_the_rowid_by_any_of_its_names_is_the_rowid(path: Path, cursor: str) -> None:
    """An INTEGER PRIMARY KEY is the rowid under another name."""
    with source(readings(path, 2), options={"cursor": cursor}) as one:
        assert one.latest(Past()) == {"rowid": 2, "rows": 2}


@pytest.mark.parametrize("key", ["id INT PRIMARY KEY", "id INTEGER PRIMARY KEY DESC", "id TEXT PRIMARY KEY", "id, n"])
def test_only_an_integer_primary_key_is_the_rowid(path: Path, key: str) -> None:
    """A key of another kind stands beside the rowid, which VACUUM renumbers then."""
    write(path, f"CREATE TABLE readings ({key})")
    with source(path) as one:
        description = one.describe()
    assert (description["cursor"], description["ids"]) == ("rowid", "renumbered by VACUUM")


def test_u10_an_added_column_shows_in_the_schema(path: Path) -> None:
    """U10: the schema is that of the table now, for a source that is open too, and does not end the stream."""
    follower = Follower(readings(path, 2))
    with SqliteSource(follower.entity) as one:
        assert one.schema().names == ["id", "t", "v"]
        follower.catch_up()
        write(
            path, "ALTER TABLE readings ADD COLUMN w TEXT NOT NULL DEFAULT 'new'", "INSERT INTO readings (v) VALUES (9)"
        )
        assert one.schema().names == ["id", "t", "v", "w"]
    assert follower.catch_up() == [{"id": 3, "t": None, "v": 9.0, "w": "new"}]


def test_u10_a_dropped_or_renamed_column_does_not_end_the_stream(path: Path) -> None:
    """U10: the identity of a row is compared in the columns that are still there."""
    follower = Follower(readings(path, 2))
    follower.catch_up()
    write(path, "ALTER TABLE readings DROP COLUMN t", "ALTER TABLE readings RENAME COLUMN v TO volts")
    write(path, "INSERT INTO readings (volts) VALUES (9)")
    assert follower.catch_up() == [{"id": 3, "volts": 9.0}]


def test_a_column_of_the_declared_schema_must_be_there(path: Path) -> None:
    """A declared column that the table lacks is named, with the nearest."""
    readings(path, 1)
    with (
        source(path, source_schema="id bigint, vv double") as one,
        pytest.raises(SourceMissing, match="did you mean 'v'"),
    ):
        one.schema()


def test_a_column_that_vanishes_while_it_is_read_is_no_text(path: Path) -> None:
    """SQLite takes a quoted name that it does not know for a string; here it is an error that a retry can mend."""
    readings(path, 2)
    with source(path) as one:
        end = one.latest(Past())
        stream = one._opened()
        write(path, "ALTER TABLE readings DROP COLUMN t")
        with pytest.raises(SourceBusy, match="changed while it was read"):
            list(stream.read(one.earliest(), end))
