"""SQLite tables that are read by a cursor column: equal, late and missing values, identity, the count check."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse_assets.errors import IncarnationChanged, SettingsError, SourceError
from lakehouse_assets.sources import sqlite_cursor
from lakehouse_assets.sources.base import Past
from lakehouse_assets.sources.sqlite_db import Connection
from lakehouse_assets.sources.sqlite_instants import NUMBER, TIME, Cursor
from lakehouse_assets_tests.sources.sqlite_lab import BAG, Follower, follow, put, read, source, values, write

KEYED = "CREATE TABLE readings (s TEXT, timestamp TEXT, v REAL, PRIMARY KEY (s, timestamp)) WITHOUT ROWID"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "edge.db"


# equal values


def test_u8_rows_with_the_last_timestamp_that_come_later_are_read_once(path: Path) -> None:
    """U8: the boundary is inclusive, and what was read at it is not read again."""
    write(path, KEYED, "INSERT INTO readings VALUES ('a', '2025-05-01 10:00:00', 1)")
    follower = Follower(path)
    follower.catch_up()
    write(path, "INSERT INTO readings VALUES ('b', '2025-05-01 10:00:00', 2), ('A', '2025-05-01 10:00:00', 3)")
    assert sorted(values(follower.catch_up(), "s")) == ["A", "b"]
    assert follower.step() is False


def test_u8_equal_rows_count_as_often_as_they_are_there(path: Path) -> None:
    """U8: a table without a key; two equal rows were read, two more come, then one: five rows in the lake."""
    now = "2025-05-01 10:00:00"
    follower = follow(put(path, now, now))
    assert len(follower.catch_up()) == 2
    put(path, now, now)
    assert len(follower.catch_up()) == 2
    put(path, now)
    assert len(follower.catch_up()) == 1
    assert follower.step() is False


def test_u24_a_bounded_batch_keeps_equal_timestamps_together(path: Path) -> None:
    """U24: six rows of one time and a bound of two: six rows in one batch."""
    follower = follow(put(path, *["2025-05-01"] * 6, "2025-05-02"), options={"maxRowsPerBatch": "2"})
    assert len(follower.catch_up()) == 7
    assert [position["rows"] for position in follower.positions] == [6, 7]


def test_fractions_of_a_second_are_told_apart_by_their_rows(path: Path) -> None:
    """Keys are whole seconds; rows within one are known by their contents, so nothing is lost or doubled."""
    follower = follow(put(path, "2025-05-01T10:00:00.900"))
    follower.catch_up()
    put(path, "2025-05-01T10:00:00.100", "2025-05-01T10:00:00.9001")
    assert len(follower.catch_up()) == 2
    assert follower.step() is False


# values without a key


def test_rows_without_a_cursor_value_are_read_once_and_reported(path: Path) -> None:
    """NULL and what is no time are read when they are first seen, with their multiplicity, and counted."""
    follower = follow(put(path, "2025-05-01", None, None, "soon", b"\1"))
    follower.catch_up()
    assert len(follower.rows) + len(follower.misfits) == 5
    put(path, None, "2025-05-02")
    assert sorted(map(str, values(follower.catch_up(), "at"))) == ["2025-05-02", "None"]
    assert follower.step() is False
    assert "is no time or number in 5 rows" in follower.audit()["no_cursor"]


def test_a_table_with_null_cursors_only_is_read(path: Path) -> None:
    """No value at all, then values: the stream goes on."""
    follower = follow(put(path, None, None))
    assert len(follower.catch_up()) == 2
    put(path, "2025-05-01", None)
    assert len(follower.catch_up()) == 2
    assert follower.step() is False


def test_infinite_numbers_are_values_without_a_key(path: Path) -> None:
    """An infinity must not end the stream."""
    write(path, "CREATE TABLE readings (at REAL, v)", "INSERT INTO readings VALUES (9e999, 1), (-9e999, 2), (5, 3)")
    follower = follow(path)
    assert sorted(values(follower.catch_up(), "v")) == [1, 2, 3]
    write(path, "INSERT INTO readings VALUES (6, 4)")
    assert values(follower.catch_up(), "v") == [4]


def test_text_that_is_no_time_and_sorts_far_away_is_reported(path: Path) -> None:
    """A look that an index serves does not see it; the count check does, and names the remedy."""
    follower = follow(put(path, "2025-05-01"))
    follower.catch_up()
    put(path, "01/05/2025")
    follower.catch_up()
    assert "in 1 rows that came since and are not read: a rebuild reads them" in follower.audit()["rows_unread"]


# late rows


def test_rows_within_the_lookback_are_read_late(path: Path) -> None:
    """`lookback: 1 hour`: rows up to an hour older than the newest are read when they come, each once."""
    follower = follow(put(path, "2025-05-01T10:00:00Z", "2025-05-01T12:00:00Z"), lakehouse={"lookback": "1 hour"})
    follower.catch_up()
    put(path, "2025-05-01T11:00:00Z", "2025-05-01T11:30:00Z", "2025-05-01T12:00:00Z")
    assert len(follower.catch_up()) == 3
    put(path, "2025-05-01T14:00:00Z", "2025-05-01T11:30:00Z")
    assert len(follower.catch_up()) == 2
    assert follower.step() is False
    assert follower.audit() == {}


def test_rows_later_than_the_lookback_are_found_by_the_count_check(path: Path) -> None:
    """They are not read, and it is said how many there are and what repairs it."""
    follower = follow(put(path, "2025-05-01T12:00:00Z"), lakehouse={"lookback": "1 hour"})
    follower.catch_up()
    assert follower.audit() == {}
    put(path, "2025-05-01T10:59:59Z", "2025-05-01T10:00:00Z")
    assert follower.catch_up() == []
    assert "3 rows up to the position, 1 were read: 2 rows came late" in follower.audit()["rows_late"]


def test_deleted_rows_are_counted(path: Path) -> None:
    """Within the lookback and before it."""
    follower = follow(put(path, "2025-05-01", "2025-05-02", "2025-05-03T00:00:00Z"), lakehouse={"lookback": "25 hours"})
    follower.catch_up()
    write(path, "DELETE FROM readings WHERE at IN ('2025-05-01', '2025-05-02')")
    assert "1 rows up to the position, 3 were read: 2 rows were deleted" in follower.audit()["rows_missing"]


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_the_lookback_knows_the_unit_of_epoch_numbers(path: Path, unit: int) -> None:
    """Seconds, milli-, micro- and nanoseconds since 1970 are told by their size."""
    write(path, "CREATE TABLE readings (at INTEGER, v)")
    now = 1_746_057_600
    add = "INSERT INTO readings VALUES (?, 1)"
    write(path, (add, [(now * unit,)]))
    follower = follow(path, lakehouse={"lookback": "10 seconds"})
    follower.catch_up()
    write(path, (add, [((now - 10) * unit,), ((now - 11) * unit,)]))
    assert values(follower.catch_up(), "at") == [(now - 10) * unit]


def test_the_lookback_of_a_counter_is_refused(path: Path) -> None:
    """A number that counts no seconds has no hours."""
    write(path, "CREATE TABLE readings (at INTEGER, v)", "INSERT INTO readings VALUES (17, 1)")
    with pytest.raises(SettingsError, match="numbers such as 17"):
        follow(path, lakehouse={"lookback": "1 hour"}).step()


def test_more_rows_than_a_position_remembers_are_refused(path: Path) -> None:
    """The limit is named with the remedy; nothing is read half."""
    rows = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= {sqlite_cursor.REMEMBERED})"
    write(path, BAG, f"INSERT INTO readings {rows} SELECT '2025-05-01', i FROM n")
    with pytest.raises(SourceError, match=r"more than 100000 rows(.|\n)*shorten `lookback`"):
        follow(path).step()


# closed ranges


def test_a_closed_range_is_the_same_whatever_came_since(path: Path) -> None:
    """Replay: rows at the boundary, within the lookback, and without a value, that came after the plan are left out."""
    times = ["2025-05-01T09:00:00Z", "2025-05-01T12:00:00Z", None, "2025-05-01T11:30:00Z"]
    with source(put(path, *times), options={"cursor": "at"}, lakehouse={"lookback": "1 hour"}) as one:
        end = json.loads(json.dumps(one.latest(Past())))
        first = read(one, one.earliest(), end)
        put(path, "2025-05-01T12:00:00Z", "2025-05-01T11:00:00Z", "2025-05-01T12:30:00Z", None)
        assert read(one, one.earliest(), end) == first
        assert len(first[0]) == 4
        assert len(read(one, end, one.latest(Past.of(end)))[0]) == 4


def test_misfits_are_found_on_both_sides_of_the_lookback(path: Path) -> None:
    """Rows read in bulk and rows read one by one: what does not fit goes to the misfits, by the same policy."""
    write(path, "CREATE TABLE readings (k INTEGER PRIMARY KEY, at TEXT, v REAL) WITHOUT ROWID")
    cells = [(1, "2025-05-01", 1.5), (2, "2025-05-01", "odd"), (3, "2025-05-03", "odd"), (4, "2025-05-03", 2.5)]
    write(path, ("INSERT INTO readings VALUES (?, ?, ?)", cells))
    write(path, "INSERT INTO readings VALUES (5, '2025-05-02', 1), (6, CAST(x'323032352D30352D3031FF' AS TEXT), 1)")
    follower = Follower(path, options={"cursor": "at"})
    follower.catch_up()
    assert sorted(values(follower.rows, "k")) == [1, 4, 5]
    assert sorted(misfit["_upstream"]["k"] for misfit in follower.misfits) == ["2", "3", "6"]
    assert {misfit["_position"] for misfit in follower.misfits} >= {"2025-05-01 2", "2025-05-03 3"}


def test_the_key_need_not_be_among_the_columns_that_are_read(path: Path) -> None:
    """Rows are told apart by the table's key, whatever `source_schema` leaves out."""
    write(path, KEYED, "INSERT INTO readings VALUES ('a', '2025-05-01', 1), ('b', '2025-05-01', 1)")
    follower = Follower(path, source_schema="v double")
    assert follower.catch_up() == [{"v": 1.0}] * 2
    write(path, "INSERT INTO readings VALUES ('c', '2025-05-01', 1)")
    assert follower.catch_up() == [{"v": 1.0}]


def test_u10_an_added_column_doubles_nothing(path: Path) -> None:
    """U10: rows are told apart by the columns that there were when reading began."""
    follower = follow(put(path, "2025-05-01", "2025-05-01"))
    follower.catch_up()
    write(path, "ALTER TABLE readings ADD COLUMN w INTEGER DEFAULT 7")
    assert follower.step() is False
    write(path, "INSERT INTO readings VALUES ('2025-05-01', 2, 8)")
    assert follower.catch_up() == [{"at": "2025-05-01", "v": 2, "w": 8}]


def test_an_index_on_the_cursor_is_used(path: Path) -> None:
    """With an index, neither the newest value nor the rows since a position need the whole table."""
    write(path, "CREATE TABLE readings (k TEXT PRIMARY KEY, timestamp TEXT, v) WITHOUT ROWID")
    write(path, "CREATE INDEX i ON readings (timestamp)")
    cursor = Cursor("timestamp", timedelta(0), None)
    conditions = [cursor.between(TIME, 10**9, 2 * 10**9), *cursor.loose(TIME, 10**9)]
    conditions += [cursor.between(NUMBER, 5, 9), *cursor.loose(NUMBER)]
    with Connection(path, 1) as connection:
        for where in conditions:
            plan = connection.rows(f"EXPLAIN QUERY PLAN SELECT v FROM readings AS t WHERE {where}")
            assert all("SCAN" not in detail for *_, detail in plan), plan


# identity


def test_a_truncated_or_restored_table_is_named(path: Path) -> None:
    """The newest rows are gone."""
    follower = follow(put(path, "2025-05-01", "2025-05-02"))
    follower.catch_up()
    write(path, "DELETE FROM readings WHERE at = '2025-05-02'")
    assert refused(follower) == "truncated"


def test_an_emptied_table_is_named(path: Path) -> None:
    """No row has a value."""
    follower = follow(put(path, "2025-05-01"))
    follower.catch_up()
    write(path, "DELETE FROM readings")
    assert refused(follower) == "emptied"


def test_a_recreated_table_is_named(path: Path) -> None:
    """Newer rows, but none of those that were read last; with rows of the same time too."""
    for times in (["2025-05-02"], ["2025-05-01T00:00:00", "2025-05-02"]):
        path.unlink(missing_ok=True)
        follower = follow(put(path, "2025-05-01"))
        follower.catch_up()
        path.unlink()
        put(path, *times)
        assert refused(follower) == "changed"


def test_some_of_the_last_rows_deleted_is_a_notice(path: Path) -> None:
    """The others prove that the stream is the same."""
    write(path, KEYED, "INSERT INTO readings VALUES ('a', '2025-05-01', 1), ('b', '2025-05-01', 2)")
    follower = Follower(path)
    follower.catch_up()
    write(path, "DELETE FROM readings WHERE s = 'a'", "INSERT INTO readings VALUES ('c', '2025-05-01', 3)")
    assert values(follower.catch_up(), "s") == ["c"]
    follower.step()
    assert [notice.code for notice in follower.notices] == []


def test_a_dropped_key_column_is_named(path: Path) -> None:
    """Rows cannot be told apart any more."""
    write(path, "CREATE TABLE readings (at TEXT, v, w)", "INSERT INTO readings VALUES ('2025-05-01', 1, 2)")
    follower = follow(path)
    follower.catch_up()
    write(path, "ALTER TABLE readings DROP COLUMN w")
    with pytest.raises(IncarnationChanged, match="the column 'w', by which rows are told apart"):
        follower.step()


def refused(follower: Follower) -> str:
    """What was seen when the next batch was refused."""
    with pytest.raises(IncarnationChanged, match="--full-refresh") as caught:
        follower.step()
    return str(caught.value.facts["seen"])


# any life of a table

ZERO = datetime(2025, 5, 1, tzinfo=UTC)
FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.250+00:00", "+02:00")


def spelt(second: int, how: int) -> str:
    """An instant, in one of several ways."""
    at = ZERO + timedelta(seconds=second)
    if FORMATS[how] == "+02:00":
        return (at + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%S+0200")
    return at.strftime(FORMATS[how])


LIFE = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=4)),
        st.tuples(st.just("null"), st.none()),
        st.tuples(st.just("read"), st.none()),
        st.tuples(st.just("replay"), st.none()),
    ),
    max_size=14,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(life=LIFE, most=st.sampled_from([None, "1", "3"]), keyed=st.booleans())
def test_every_row_is_read_once_in_any_life_of_a_table(
    tmp_path: Path, life: list[Any], most: str | None, keyed: bool
) -> None:
    """Rows come in any spelling, up to 20 s late, equal or without a value; every batch can be read again as it was."""
    path = tmp_path / "edge.db"
    path.unlink(missing_ok=True)
    end = "PRIMARY KEY (n)) WITHOUT ROWID" if keyed else "v)"
    write(path, f"CREATE TABLE readings (n INTEGER, at TEXT, {end}")
    options = {"cursor": "at", **({"maxRowsPerBatch": most} if most else {})}
    follower = Follower(path, options=options, lakehouse={"lookback": "30 seconds"})
    made: list[tuple[int, str | None]] = []

    def add(times: list[str | None]) -> None:
        rows = [(len(made) + at if keyed else 0, time) for at, time in enumerate(times)]
        made.extend(rows)
        write(path, ("INSERT INTO readings (n, at) VALUES (?, ?)", rows))

    now = 0
    for step, given_times in life:
        if step == "add":
            now += 5
            add([spelt(now - late + 20, how) for late, how in given_times])
        elif step == "null":
            add([None])
        elif step == "read":
            follower.step()
        else:
            _replay(follower)
    follower.catch_up()
    _replay(follower)
    assert Counter((row["n"], row["at"]) for row in follower.rows) == Counter(made)
    assert follower.audit().keys() <= {"assumed_utc", "no_cursor"}


def _replay(follower: Follower) -> None:
    """Read every batch again: together they give what was read."""
    with source(follower.entity.source, options=_options(follower), lakehouse={"lookback": "30 seconds"}) as one:
        starts = [one.earliest(), *follower.positions[:-1]]
        rows = [row for start, end in zip(starts, follower.positions, strict=False) for row in read(one, start, end)[0]]
    assert Counter(map(repr, rows)) == Counter(map(repr, follower.rows))


def _options(follower: Follower) -> dict[str, str]:
    return {name.removeprefix("sqlite."): value for name, value in follower.entity.read_options.items()}
