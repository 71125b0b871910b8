"""SQLite tables that are read by rowid: closed ranges, many rows, the identity of the stream, the count check."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse_assets.errors import IncarnationChanged
from lakehouse_assets.sources import sqlite_rowid
from lakehouse_assets.sources.base import Batch, Past
from lakehouse_assets.sources.sqlite import SqliteSource
from lakehouse_assets.sources.sqlite_db import Connection, Database
from lakehouse_assets.sources.sqlite_reader import Query, Reader
from lakehouse_assets.sources.sqlite_rowid import RowidStream
from lakehouse_assets_tests.sources.sqlite_lab import READINGS, Follower, read, readings, source, values, write

PLAIN = "CREATE TABLE readings (t TEXT, v REAL)"
KEYED = "CREATE TABLE readings (id INTEGER PRIMARY KEY, t TEXT)"
MANY = 3 * sqlite_rowid.CHUNK + 17


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "edge.db"


def plain(path: Path, *texts: str) -> Path:
    """A table without any key, with these texts."""
    made = [] if path.exists() else [PLAIN]
    return write(path, *made, ("INSERT INTO readings VALUES (?, 1.5)", [(text,) for text in texts]))


def refused(follower: Follower) -> str:
    """What was seen when the next batch was refused."""
    with pytest.raises(IncarnationChanged, match="--full-refresh") as caught:
        follower.step()
    return str(caught.value.facts["seen"])


# ranges


def test_u8_new_rows_are_read_once_whatever_their_time(path: Path) -> None:
    """U8: rows with an older or equal timestamp that are committed later have a greater rowid, and are read."""
    follower = Follower(readings(path, 2))
    follower.catch_up()
    write(path, "INSERT INTO readings (t) VALUES ('t2')", "INSERT INTO readings (t) VALUES ('t0')")
    assert values(follower.catch_up(), "t") == ["t2", "t0"]
    assert follower.step() is False


def test_u24_a_bounded_batch_does_not_cut_equal_timestamps_away(path: Path) -> None:
    """U24: six rows of the same time, read two by two: six."""
    write(path, READINGS, ("INSERT INTO readings (t) VALUES (?)", [("same",)] * 6))
    assert values(Follower(path, options={"maxRowsPerBatch": "2"}).catch_up(), "id") == [1, 2, 3, 4, 5, 6]


def test_an_empty_table_is_followed_from_its_first_row(path: Path) -> None:
    """Nothing, then rows: the identity of the empty stream stays, and every row comes."""
    write(path, READINGS)
    with source(path) as one:
        start = one.latest(Past())
        recorded = one.incarnation(start)
        assert start == one.earliest() == {"rowid": None, "rows": 0}
        readings(path, 3)
        assert one.incarnation(start) == recorded
        assert one.verify(start, recorded) == []
        assert values(read(one, start, one.latest(Past.of(start)))[0], "id") == [1, 2, 3]


def test_rowids_below_one_are_read(path: Path) -> None:
    """Negative rowids, zero and the extremes of 64 bits are rows as any other."""
    ids = [-(2**63), -5, 0, 7, 2**63 - 1]
    write(path, KEYED, ("INSERT INTO readings VALUES (?, 'x')", [(n,) for n in ids]))
    follower = Follower(path, options={"maxRowsPerBatch": "2"})
    assert values(follower.catch_up(), "id") == ids


def test_equal_rows_are_as_many_as_there_are(path: Path) -> None:
    """A table without a key may hold the same row several times."""
    follower = Follower(plain(path, "a", "a", "a"))
    follower.catch_up()
    plain(path, "a", "a")
    assert values(follower.catch_up(), "t") == ["a", "a"]


def test_a_closed_range_is_the_same_whatever_came_since(path: Path) -> None:
    """Replay: rows after the end are not read, and the positions of rows are their rowids."""
    with source(readings(path, 3)) as one:
        end = one.latest(Past())
        first = [batch.rows.to_pylist() for batch in one.read(one.earliest(), end)]
        readings(path, 3, first=4)
        assert [batch.rows.to_pylist() for batch in one.read(one.earliest(), end)] == first
    assert [row["_position"] for row in first[0]] == ["1", "2", "3"]


def many(path: Path, step: int = 1) -> Path:
    """A table of `MANY` rows, with ids `step` apart."""
    rows = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})"
    return write(path, READINGS, f"INSERT INTO readings {rows} SELECT i * {step}, 't' || i, i / 2.0 FROM n")


@pytest.mark.parametrize("step", [1, 3], ids=["dense", "sparse"])
def test_many_rows_are_read_in_order_by_several_threads(path: Path, step: int) -> None:
    """A large range is read in chunks, at the same time, and comes in the order of its rowids, each row once."""
    with source(many(path, step)) as one:
        batches = [batch.rows for batch in one.read(one.earliest(), one.latest(Past()))]
    ids = [n for batch in batches for n in batch.column("id").to_pylist()]
    assert ids == [n * step for n in range(1, MANY + 1)]
    assert max(batch.num_rows for batch in batches) <= sqlite_rowid.CHUNK
    assert len(batches) >= 4


def test_misfits_and_holes_in_many_rows_are_found(path: Path) -> None:
    """Among many rows every one is checked: each misfit is found, wherever it stands, and nothing is missing."""
    many(path)
    odd = [1, 2, sqlite_rowid.CHUNK, sqlite_rowid.CHUNK + 1, 2 * sqlite_rowid.CHUNK, MANY]
    write(path, ("UPDATE readings SET v = 'odd' WHERE id = ?", [(n,) for n in odd]))
    write(
        path, "UPDATE readings SET t = CAST(x'FF' AS TEXT) WHERE id = 100000", "DELETE FROM readings WHERE id % 7 = 5"
    )
    with source(path) as one:
        end = one.latest(Past())
        batches = list(one.read(one.earliest(), end))
    found = {int(at) for batch in batches if batch.misfits for at in batch.misfits.column("_position").to_pylist()}
    ids = {n for batch in batches for n in batch.rows.column("id").to_pylist()}
    kept = {n for n in range(1, MANY + 1) if n % 7 != 5}
    assert found == {n for n in [*odd, 100_000] if n in kept}
    assert ids == kept - found
    assert end["rows"] == len(kept)


class Once(Reader):
    """A reader that must not go through a range for a second time."""

    def rest(self, connection: Connection, query: Query) -> Iterator[Batch]:
        """What the fast way left out, by a second look at every row."""
        raise AssertionError(f"read once more: {query}")


@pytest.mark.parametrize("step", [1, 3], ids=["dense", "sparse"])
def test_a_few_misfits_are_looked_up_and_their_chunk_is_not_read_again(path: Path, step: int) -> None:
    """One misfit costs the look-up of one row; where too many rows are left out, the chunk is read once more."""
    write(many(path, step), f"UPDATE readings SET v = 'odd' WHERE id % {step * 997} = 0")
    with source(path) as one:
        kept = one._opened().reader
        careful = Once(kept.table, kept.columns, kept.place, kept.stream)
        stream = RowidStream(Database(str(path), 5), careful, "bronze.readings", None)
        end = stream.latest(Past())
        misfits = [misfit for batch in stream.read(stream.earliest(), end) for misfit in _misfits(batch)]
        assert misfits == [str(n * step) for n in range(997, MANY + 1, 997)]
        write(path, f"UPDATE readings SET v = 'odd' WHERE id <= {step * (sqlite_rowid.LOOKED_UP + 99)}")
        with pytest.raises(AssertionError, match="read once more"):
            list(stream.read(stream.earliest(), end))


@pytest.mark.parametrize("first", [1, -(2**63)], ids=["from one", "from the least"])
@pytest.mark.parametrize("odd", [3, sqlite_rowid.LOOKED_UP + 1], ids=["few", "many"])
def test_rows_of_a_chunk_come_in_the_same_order_however_they_are_found(path: Path, odd: int, first: int) -> None:
    """First the rows that SQLite tells to fit, then the others, both in the order of their rowid, each once."""
    write(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, at DATETIME)")
    texts = [(first + 2 * n, f"t{n}") for n in range(50)]
    reals = [(first + 2 * n + 1, n + 0.5) for n in range(odd)]  # they fit, but SQL does not say so
    blobs = [(first + 2 * (odd + n) + 101, b"x") for n in range(odd)]
    write(path, ("INSERT INTO t VALUES (?, ?)", [*texts, *reals, *blobs]))
    with source(path) as one:
        batches = list(one.read(one.earliest(), one.latest(Past())))
    places = [int(at) for batch in batches for at in batch.rows.column("_position").to_pylist()]
    assert places == [at for at, _ in [*texts, *reals]]
    assert [int(at) for batch in batches for at in _misfits(batch)] == [at for at, _ in blobs]


def _misfits(batch: Batch) -> list[str]:
    return batch.misfits.column("_position").to_pylist() if batch.misfits else []


def test_a_chunk_of_misfits_only_is_found(path: Path) -> None:
    """Nothing fits: everything is a misfit, nothing is lost."""
    write(path, "CREATE TABLE t (v REAL)", ("INSERT INTO t VALUES (?)", [("x",)] * 10_000))
    follower = Follower(path)
    follower.catch_up()
    assert (len(follower.rows), len(follower.misfits)) == (0, 10_000)


@pytest.mark.parametrize(
    ("rows", "size", "most"), [(100, 2**30, 12), (10, 2**40, 1), (10**6, 2**28, 65_536), (10**6, 2**31, 62_500)]
)
def test_large_rows_are_read_a_few_at_a_time(rows: int, size: int, most: int) -> None:
    """Memory is bounded in bytes too: a chunk holds 128 MB of the file on average, and at least a row."""
    assert sqlite_rowid.chunk_rows(rows, size) == most


def test_a_reader_that_stops_early_leaves_no_lock_and_no_thread(path: Path) -> None:
    """A large range that is left half-read: the database can be written at once, and read again."""
    with source(many(path)) as one:
        end = one.latest(Past())
        batches = one.read(one.earliest(), end)
        next(batches)
        batches.close()
        write(path, "INSERT INTO readings (t) VALUES ('x')")
        assert sum(batch.rows.num_rows for batch in one.read(one.earliest(), end)) == MANY


# identity


def test_a_truncated_table_is_named(path: Path) -> None:
    """The last rows are gone and ids may come again."""
    write(path, KEYED, ("INSERT INTO readings VALUES (?, 'x')", [(1,), (2,), (3,)]))
    follower = Follower(path)
    follower.catch_up()
    write(path, "DELETE FROM readings WHERE id > 1")
    assert refused(follower) == "truncated"


def test_an_emptied_table_is_named(path: Path) -> None:
    """No row is left."""
    write(path, KEYED, "INSERT INTO readings VALUES (1, 'x')")
    follower = Follower(path)
    follower.catch_up()
    write(path, "DELETE FROM readings")
    assert refused(follower) == "emptied"


def test_a_deleted_boundary_whose_id_may_return_is_named(path: Path) -> None:
    """Without AUTOINCREMENT nobody can say what happened behind the position."""
    write(path, KEYED, ("INSERT INTO readings VALUES (?, 'x')", [(1,), (2,)]))
    follower = Follower(path)
    follower.catch_up()
    write(path, "DELETE FROM readings WHERE id = 2", "INSERT INTO readings VALUES (3, 'y')")
    assert refused(follower) == "deleted"


def test_a_restored_backup_is_named(path: Path) -> None:
    """An older copy that has not grown past the position yet, and one that has."""
    backup = shutil.copy(readings(path, 2), path.with_name("backup.db"))
    readings(path, 3, first=3)
    follower = Follower(path)
    follower.catch_up()
    shutil.copy(backup, path)
    assert refused(follower) == "truncated"
    readings(path, 2, first=3)
    write(path, "INSERT INTO readings (t) VALUES ('other'), ('more')")
    assert refused(follower) == "changed"


def test_a_recreated_database_is_named(path: Path) -> None:
    """Another file in the same place, grown past the position: its row there is another one."""
    follower = Follower(readings(path, 3))
    follower.catch_up()
    path.unlink()
    write(path, READINGS, ("INSERT INTO readings (t) VALUES (?)", [("new",)] * 9))
    with pytest.raises(IncarnationChanged, match=r"the row 3 differs in t, v: the table was made again"):
        follower.step()


def test_a_renumbered_table_is_named(path: Path) -> None:
    """VACUUM renumbers the rowids of a table without INTEGER PRIMARY KEY; it says where the row is now."""
    for texts, deleted in (("abcde", "b"), ("abcdefgh", "ab")):
        path.unlink(missing_ok=True)
        follower = Follower(plain(path, *texts))
        follower.catch_up()
        plain(path, "x", "y", "z")
        write(path, *(f"DELETE FROM readings WHERE t = '{text}'" for text in deleted), "VACUUM")
        assert refused(follower) == "renumbered"


def test_vacuum_that_renumbers_nothing_is_no_matter(path: Path) -> None:
    """With an INTEGER PRIMARY KEY, or without deleted rows."""
    for make in (lambda: readings(path, 5), lambda: plain(path, "a", "b")):
        path.unlink(missing_ok=True)
        follower = Follower(make())
        follower.catch_up()
        write(path, "VACUUM", "INSERT INTO readings (t) VALUES ('new')")
        assert values(follower.catch_up(), "t") == ["new"]


def test_pruning_is_a_notice_where_ids_cannot_return(path: Path) -> None:
    """AUTOINCREMENT at or past the position: the rows were pruned, reading goes on, and it is said."""
    follower = Follower(readings(path, 5))
    follower.catch_up()
    write(path, "DELETE FROM readings")
    assert follower.step() is False
    assert [notice.code for notice in follower.notices] == ["pruned"]
    readings(path, 2, first=6)
    assert values(follower.catch_up(), "id") == [6, 7]


def test_a_younger_autoincrement_is_no_pruning(path: Path) -> None:
    """A table made again has not given out the id of the position: it is another stream."""
    follower = Follower(readings(path, 5))
    follower.catch_up()
    path.unlink()
    readings(path, 2)
    with pytest.raises(IncarnationChanged, match="AUTOINCREMENT has only reached 2") as caught:
        follower.step()
    assert caught.value.facts["seen"] == "truncated"


def test_an_updated_boundary_row_is_refused(path: Path) -> None:
    """It cannot be told from a row of another database; the columns that differ are named."""
    follower = Follower(readings(path, 3))
    follower.catch_up()
    write(path, "UPDATE readings SET v = 99 WHERE id = 3")
    with pytest.raises(IncarnationChanged, match=r"differs in v: (.|\n)*or the row was updated"):
        follower.step()


def test_what_was_verified_is_verified_again_in_the_snapshot_that_is_read(path: Path) -> None:
    """A database that is replaced between `verify` and `read` is refused by `read`."""
    follower = Follower(readings(path, 3))
    follower.catch_up()
    readings(path, 3, first=4)
    with SqliteSource(follower.entity) as one:
        one.verify(follower.positions[-1], follower.incarnations[-1])
        end = one.latest(follower.past)
        write(path, "UPDATE readings SET t = 'other' WHERE id = 3")
        with pytest.raises(IncarnationChanged):
            read(one, follower.positions[-1], end)


# count check


def test_late_rows_below_the_position_are_counted(path: Path) -> None:
    """A row with an id of its own that is smaller than the position is not read, and the check says so."""
    follower = Follower(readings(path, 3, first=10))
    follower.catch_up()
    assert follower.audit() == {}
    write(path, "INSERT INTO readings VALUES (5, 'late', 1)")
    assert follower.catch_up() == []
    assert "4 rows up to the position, 3 were read: 1 rows came late" in follower.audit()["rows_late"]


def test_deleted_rows_are_counted(path: Path) -> None:
    """Deleted rows stay in the lake; the check says how many, and that a rebuild repairs it."""
    follower = Follower(readings(path, 9))
    follower.catch_up()
    write(path, "DELETE FROM readings WHERE id < 4")
    message = follower.audit()["rows_missing"]
    assert "6 rows up to the position, 9 were read: 3 rows were deleted" in message
    assert "lakehouse run --full-refresh bronze.readings" in message


def test_the_count_check_of_a_stream_of_which_nothing_was_read_is_silent(path: Path) -> None:
    """There is nothing to compare."""
    write(path, READINGS)
    with source(path) as one:
        assert one.audit(Past()) == one.audit(Past.of(one.earliest())) == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 5)),
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("prune"), st.integers(1, 4)),
        st.tuples(st.just("vacuum"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, most=st.sampled_from([None, "1", "3"]))
def test_every_row_is_read_once_in_any_life_of_a_table(tmp_path: Path, steps: list[Any], most: str | None) -> None:
    """Rows are added, read in batches, pruned after that, and the file is vacuumed: each row once, in order."""
    path = tmp_path / "edge.db"
    path.unlink(missing_ok=True)
    write(path, READINGS)
    follower = Follower(path, options={"maxRowsPerBatch": most} if most else {})
    made = 0
    for step, number in steps:
        if step == "add":
            readings(path, number, first=made + 1)
            made += number
        elif step == "read":
            follower.step()
        elif step == "prune" and follower.rows:
            write(path, f"DELETE FROM readings WHERE id <= {follower.rows[-1]['id']} AND id % {number} = 0")
        elif step == "vacuum":
            write(path, "VACUUM")
    follower.catch_up()
    assert values(follower.rows, "id") == list(range(1, made + 1))
