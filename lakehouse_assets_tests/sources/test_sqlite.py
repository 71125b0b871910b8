"""The SQLite source: options, detection, unreadable files, locks, and the contract of sources."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse_assets.errors import (
    IncarnationChanged,
    SettingsError,
    SourceBusy,
    SourceMissing,
    SourceUnreadable,
    TypeRefused,
)
from lakehouse_assets.sources.base import Past, open_source
from lakehouse_assets.sources.sqlite import SqliteSource
from lakehouse_assets.sources.sqlite_db import Connection, Database
from lakehouse_assets_tests.sources.contract import Case, SourceContract
from lakehouse_assets_tests.sources.sqlite_lab import (
    READINGS,
    Follower,
    as_nobody,
    elsewhere,
    entity,
    read,
    readings,
    source,
    values,
    write,
)

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
for statement in sys.argv[2:]:
    connection.execute(statement)
print("ready", flush=True)
sys.stdin.read()
"""
"""A process that runs statements and then waits until its input is closed."""
WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    connection.execute("INSERT INTO readings (t, v) VALUES ('late', 0.5)")
    print("written")
except sqlite3.OperationalError as error:
    print(error)
"""

BUSY = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("PRAGMA synchronous = OFF")
connection.execute("PRAGMA journal_mode = " + sys.argv[2])
end = time.monotonic() + 0.5
while time.monotonic() < end:
    connection.execute("INSERT INTO readings (t, v) VALUES ('a', 1), ('b', 2), ('c', 3)")
"""
"""A process that commits as fast as it can, for half a second."""


class DatabaseCase(Case):
    """A table that grows, with one of several ways to tell what is new."""

    def __init__(self, folder: Path, ddl: str, **options: str) -> None:
        self.path = folder / "edge.db"
        self.ddl = ddl
        self.options = options
        self.made = 0
        write(self.path, ddl)

    def add(self, ids: Sequence[int]) -> None:
        """One row an id, all with the same time, a second after the last."""
        times = [f"2025-05-01T10:{self.made // 60:02d}:{self.made % 60:02d}" for _ in ids]
        self.made += 1
        write(self.path, ("INSERT INTO numbers (id, at) VALUES (?, ?)", list(zip(ids, times, strict=True))))

    def open(self) -> SqliteSource:
        """A source with the options of the case."""
        return source(self.path, options=self.options)

    def swap(self) -> None:
        """The file is made again."""
        self.path.unlink()
        write(self.path, self.ddl)
        self.add(range(100, 120))


class TestByRowid(SourceContract):
    """The contract, for a table that is read by its rowid."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> DatabaseCase:
        """A table with a rowid of its own."""
        return DatabaseCase(tmp_path, "CREATE TABLE numbers (id INTEGER, at TEXT)")


class TestByKey(SourceContract):
    """The contract, for a table without rowid that is read by a key."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> DatabaseCase:
        """A table with an integer key."""
        ddl = "CREATE TABLE numbers (id INTEGER PRIMARY KEY, at TEXT) WITHOUT ROWID"
        return DatabaseCase(tmp_path, ddl, cursor="id")


class TestByTimestamp(SourceContract):
    """The contract, for a table without rowid that is read by a timestamp."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> DatabaseCase:
        """A table whose rows share times."""
        return DatabaseCase(tmp_path, "CREATE TABLE numbers (id INTEGER PRIMARY KEY, at DATETIME) WITHOUT ROWID")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "edge.db"


# options


@pytest.mark.parametrize(
    ("name", "near"), [("sqlite.tabel", "sqlite.table"), ("sqlite.max_rows_per_batch", "sqlite.maxRowsPerBatch")]
)
def test_an_unknown_option_is_refused_with_the_nearest_name(path: Path, name: str, near: str) -> None:
    """An option that is misspelt is not ignored."""
    with pytest.raises(SettingsError, match=f"did you mean '{near}'"):
        SqliteSource(entity(path, read_options={name: "x"}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", "soon"),
        ("timeout", "-1"),
        ("maxRowsPerBatch", "0"),
        ("maxRowsPerBatch", "1.5"),
        ("count_check", "1"),
    ],
)
def test_an_option_with_an_impossible_value_is_refused(path: Path, name: str, value: str) -> None:
    """The message names the option and the legal values; nothing is opened for it."""
    with pytest.raises(SettingsError, match=rf"sqlite\.{name} has a value"):
        source(path, options={name: value})


def test_a_batch_ends_after_the_rows_that_the_option_says(path: Path) -> None:
    """`sqlite.maxRowsPerBatch` bounds each batch; all rows come, in order, in several."""
    follower = Follower(readings(path, 7), options={"maxRowsPerBatch": "3"})
    assert values(follower.catch_up(), "id") == list(range(1, 8))
    assert [position["rows"] for position in follower.positions] == [3, 6, 7]


def test_the_count_check_can_be_turned_off(path: Path) -> None:
    """`sqlite.count_check: false`: the audit says nothing of deleted rows; by default it does."""
    for options, codes in (({}, ["rows_missing"]), ({"count_check": "false"}, [])):
        path.unlink(missing_ok=True)
        follower = Follower(readings(path, 3), options=options)
        follower.catch_up()
        write(path, "DELETE FROM readings WHERE id = 1")
        assert list(follower.audit()) == codes


def test_a_sqlite_entity_opens_this_source(path: Path) -> None:
    """The registry of formats leads here."""
    assert isinstance(open_source(entity(path)), SqliteSource)


# tables and columns


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


# files that cannot be read


def test_a_missing_file_is_named_and_not_made(path: Path) -> None:
    """A path without a file: SourceMissing, and no empty database is left behind."""
    with source(path) as one, pytest.raises(SourceMissing, match=r"edge\.db"):
        one.latest(Past())
    assert not path.exists()


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    """`source` names a directory."""
    with source(tmp_path) as one, pytest.raises(SourceMissing, match="not a file"):
        one.latest(Past())


def test_a_file_that_is_no_database_says_so(path: Path) -> None:
    """Any other file."""
    path.write_text("timestamp,value\n" * 100)
    with source(path) as one, pytest.raises(SourceUnreadable, match="not an SQLite database"):
        one.schema()


def test_a_corrupt_page_is_named_while_it_is_read(path: Path) -> None:
    """Damage in the middle of a table ends the read with an error; nothing is skipped."""
    write(path, READINGS, ("INSERT INTO readings (t) VALUES (?)", [("x" * 500,)] * 500))
    with source(path) as one:
        end = one.latest(Past())
    with path.open("r+b") as file:
        file.seek(4096 * 30)
        file.write(os.urandom(4096))
    with source(path) as one, pytest.raises(SourceUnreadable, match=r"corrupt(.|\n)*integrity_check"):
        read(one, {"rowid": None, "rows": 0}, end)


def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    """Read permission is missing, as for an unprivileged user."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    path = readings(tmp_path / "edge.db", 1)
    path.chmod(0o000)

    def task() -> None:
        with source(path) as one, pytest.raises(SourceUnreadable, match=r"user \d+(.|\n)*read permission"):
            one.latest(Past())

    as_nobody(task)


def test_a_wal_database_in_a_directory_without_permission_says_so(tmp_path: Path) -> None:
    """In WAL mode a reader needs the -shm file, which it cannot make there."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    path = tmp_path / "edge.db"
    elsewhere(HOLD, path, "PRAGMA journal_mode = WAL", READINGS)
    path.chmod(0o644)
    assert [file.name for file in tmp_path.iterdir()] == ["edge.db"]

    def task() -> None:
        with source(path) as one, pytest.raises(SourceUnreadable, match=r"WAL mode.*not writable"):
            one.latest(Past())

    as_nobody(task)


def test_an_unprivileged_user_reads_what_it_may(tmp_path: Path) -> None:
    """Read permission on file and directories is all it takes."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    path = readings(tmp_path / "edge.db", 3)
    path.chmod(0o444)
    as_nobody(lambda: _expect(len(Follower(path).catch_up()) == 3))


def _expect(holds: bool) -> None:
    assert holds


@pytest.mark.parametrize("name", ["a b?c#d%20e&mode=rwc", "ü'\"", "file:x", "C:\\x", "100%"])
def test_any_path_is_encoded(tmp_path: Path, name: str) -> None:
    """Characters that mean something in a URI are part of the name."""
    assert len(Follower(readings(tmp_path / name, 2)).catch_up()) == 2


def test_a_path_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    """File names are bytes."""
    path = os.fsencode(tmp_path) + b"/\xff.db"
    readings(tmp_path / "x.db", 2).rename(os.fsdecode(path))
    assert len(Follower(os.fsdecode(path)).catch_up()) == 2


# locks


def holding(path: Path, *statements: str) -> subprocess.Popen[str]:
    """Another process in the middle of a transaction."""
    command = [sys.executable, "-c", HOLD, str(path), *statements]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_locked_database_is_busy_and_then_is_not(path: Path) -> None:
    """A writer that holds the file: a transient error after the timeout; afterwards the same source reads on."""
    readings(path, 3)
    with source(path, options={"timeout": "0.05"}) as one:
        writer = holding(path, "BEGIN EXCLUSIVE")
        with writer, pytest.raises(SourceBusy, match=r"locked(.|\n)*sqlite\.timeout") as caught:
            one.latest(Past())
        assert caught.value.transient
        assert one.latest(Past()) == {"rowid": 3, "rows": 3}


def test_a_lock_is_waited_for(path: Path) -> None:
    """A writer that is done within the timeout is not noticed."""
    readings(path, 3)
    with source(path, options={"timeout": "30"}) as one, holding(path, "BEGIN EXCLUSIVE") as writer:
        ending = subprocess.Popen(["sleep", "0.3"], stdout=writer.stdin)  # holds the pipe open for a while
        assert writer.stdin
        writer.stdin.close()
        assert one.latest(Past()) == {"rowid": 3, "rows": 3}
        ending.wait()


def test_a_hot_journal_is_busy_until_a_writer_recovers(path: Path) -> None:
    """A writer died in the middle of a transaction: a reader must not see the torn pages, nor may it mend them."""
    readings(path, 500)
    torn = ("PRAGMA cache_size = 1", "PRAGMA cache_spill = 1", "BEGIN", "UPDATE readings SET t = hex(randomblob(500))")
    writer = holding(path, *torn)
    with writer:
        writer.kill()
    assert path.with_name("edge.db-journal").exists()
    with source(path) as one, pytest.raises(SourceBusy, match="hot rollback journal"):
        one.latest(Past())
    write(path, "INSERT INTO readings (t) VALUES ('recovered')")
    assert len(Follower(path).catch_up()) == 501


def test_a_wal_database_is_read_while_it_is_written(path: Path) -> None:
    """WAL mode: committed rows are seen though they are in the -wal file only, open transactions are not."""
    elsewhere(HOLD, path, "PRAGMA journal_mode = WAL", READINGS)
    add = "INSERT INTO readings (t) VALUES ('a')"
    with holding(path, add, add, "BEGIN", add):
        follower = Follower(path)
        assert values(follower.catch_up(), "id") == [1, 2]
        with SqliteSource(follower.entity) as one:
            assert one.describe()["journal_mode"] == "wal"


def test_the_lock_of_a_reader_holds_while_other_sources_come_and_go(path: Path) -> None:
    """A process loses its locks on a file with the first descriptor that it closes, but for those of one SQLite."""
    readings(path, 100)
    with source(path) as one, source(path) as other:
        batches = one.read(one.earliest(), one.latest(Past()))
        next(batches)
        other.describe()
        other.close()
        assert elsewhere(WRITE, path) == "database is locked\n"
        batches.close()
        assert elsewhere(WRITE, path) == "written\n"


def test_connections_of_one_snapshot_see_the_same(path: Path) -> None:
    """Several connections in one snapshot: no commit comes between them or later; else one connection reads alone."""
    elsewhere(HOLD, path, "PRAGMA journal_mode = WAL", READINGS)
    with Database(str(path), 1).snapshot(readers=2) as (first, others):
        assert len(others) == 2
        assert elsewhere(WRITE, path) == "written\n"
        counts = [one.value("SELECT count(*) FROM readings") for one in (first, *others)]
        assert counts == [0, 0, 0]
    with Database(str(path), 1).snapshot(readers=2) as (first, others):
        assert [one.value("SELECT count(*) FROM readings") for one in (first, *others)] == [1, 1, 1]


class Crowded(Connection):
    """A connection that is always late: another process commits before it begins."""

    def begin(self) -> None:
        """Begin after the commit."""
        elsewhere(WRITE, self._path)
        super().begin()


def test_connections_that_cannot_meet_are_not_used(path: Path) -> None:
    """A commit between the beginnings is noticed, however often it is tried; the connections are given up then."""
    elsewhere(HOLD, path, "PRAGMA journal_mode = WAL", READINGS)
    database = Database(str(path), 1)
    with Connection(path, 1) as first, Connection(path, 1) as second, Crowded(path, 1) as late:
        assert database._meet(first, [second], database.identity())
        first.end()
        second.end()
        assert not database._meet(first, [second, late], database.identity())


def test_a_file_that_was_replaced_meanwhile_is_noticed(path: Path) -> None:
    """Connections to two files never count as one snapshot."""
    database = Database(str(readings(path, 3)), 1)
    with Connection(path, 1) as first, Connection(path, 1) as second:
        before = database.identity()
        path.rename(path.with_name("old.db"))
        readings(path, 3)
        assert not database._meet(first, [second], before)


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_nothing_is_lost_or_doubled_while_another_process_writes(path: Path, journal: str) -> None:
    """Batches that are read while rows are committed all the time: every row once, in order."""
    follower = Follower(write(path, READINGS), options={"timeout": "30"})
    with subprocess.Popen([sys.executable, "-c", BUSY, str(path), journal]) as writer:
        while writer.poll() is None:
            follower.step()
    follower.catch_up()
    assert values(follower.rows, "id") == list(range(1, follower.positions[-1]["rows"] + 1))
    assert len(follower.positions) > 1
    assert follower.audit() == {}


def test_the_source_holds_no_lock_between_calls(path: Path) -> None:
    """A writer is never kept waiting by a source that is only open."""
    readings(path, 3)
    with source(path) as one:
        one.latest(Past())
        one.describe()
        assert elsewhere(WRITE, path) == "written\n"
        assert one.latest(Past()) == {"rowid": 4, "rows": 4}


def test_the_database_is_never_written(path: Path) -> None:
    """Reading leaves the bytes of the file as they are, and nothing beside it."""
    before = readings(path, 50).read_bytes()
    follower = Follower(path)
    follower.catch_up()
    follower.audit()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["edge.db"]


def test_the_description_says_what_is_read(path: Path) -> None:
    """Path, table, cursor, journal mode, size and last rowid."""
    with source(readings(path, 3)) as one:
        assert one.describe() == {
            "kind": "sqlite",
            "path": str(path),
            "table": "readings",
            "journal_mode": "delete",
            "bytes": path.stat().st_size,
            "cursor": "id",
            "last_rowid": 3,
            "ids": "never given out twice (AUTOINCREMENT)",
        }


def test_another_way_of_reading_is_refused(path: Path) -> None:
    """Positions of a rowid and of a cursor are not mixed up when the option changes."""
    follower = Follower(readings(path, 3))
    follower.catch_up()
    with (
        source(path, options={"cursor": "t"}) as one,
        pytest.raises(IncarnationChanged, match="by its rowid before"),
    ):
        one.latest(follower.past)
    other = Follower(path, options={"cursor": "v"})
    other.catch_up()
    with source(path) as one, pytest.raises(IncarnationChanged, match="another cursor before"):
        one.latest(other.past)


def test_rows_say_of_which_feed_they_are(path: Path) -> None:
    """`_source` is the feed's name, else the entity's id; never a path, so that nodes with equal paths stay apart."""
    readings(path, 1)
    for lakehouse, expected in (({}, "readings"), ({"feed": "node-7"}, "node-7")):
        with source(path, lakehouse=lakehouse) as one:
            (batch,) = one.read(one.earliest(), one.latest(Past()))
            assert batch.rows.select(["_position", "_source"]).to_pylist() == [{"_position": "1", "_source": expected}]
            assert batch.rows.schema.field("_source").type == pa.string()


def test_a_database_in_utf16_is_read(path: Path) -> None:
    """The encoding of the file does not show in the rows."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            f"PRAGMA encoding = 'UTF-16le'; {READINGS}; INSERT INTO readings (t) VALUES ('grün 🌱')"
        )
    follower = Follower(path)
    assert values(follower.catch_up(), "t") == ["grün 🌱"]
    assert follower.step() is False
