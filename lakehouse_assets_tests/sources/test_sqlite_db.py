"""SQLite files: those that cannot be read, locks, snapshots, and writers beside the reader."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from lakehouse_assets.errors import SourceBusy, SourceMissing, SourceUnreadable
from lakehouse_assets.sources.base import Past
from lakehouse_assets.sources.sqlite import SqliteSource
from lakehouse_assets.sources.sqlite_db import Connection, Database
from lakehouse_assets_tests.sources.sqlite_lab import (
    READINGS,
    Follower,
    as_nobody,
    elsewhere,
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "edge.db"


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


def test_a_database_in_utf16_is_read(path: Path) -> None:
    """The encoding of the file does not show in the rows."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            f"PRAGMA encoding = 'UTF-16le'; {READINGS}; INSERT INTO readings (t) VALUES ('grün 🌱')"
        )
    follower = Follower(path)
    assert values(follower.catch_up(), "t") == ["grün 🌱"]
    assert follower.step() is False
