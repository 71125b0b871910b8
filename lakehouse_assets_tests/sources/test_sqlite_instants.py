"""Cursor columns of SQLite tables: which value comes later, and which is no time or number at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from lakehouse_assets.errors import SourceError
from lakehouse_assets.sources.sqlite_db import Connection
from lakehouse_assets.sources.sqlite_instants import TIME, Cursor
from lakehouse_assets_tests.sources.sqlite_lab import follow, put, values, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "edge.db"


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("2025-05-01T00:00:00+00:00", "2025-05-01 23:59:59"),
        ("2025-05-01 12:00:00", "2025-05-01T12:00:01Z"),
        ("2025-05-01T12:00:00+02:00", "2025-05-01T10:30:00Z"),
        ("2025-05-01T12:00:00+0200", "2025-05-01T10:30:00+00"),
        ("2025-05-01T23:30:00-05:00", "2025-05-02T05:00:00Z"),
        ("2025-05-01", "2025-05-01T00:00:01"),
        ("2025-05-01T10:00:00.999999", "2025-05-01T10:00:01,5"),
        ("1969-12-31T23:59:59.5Z", "1970-01-01"),
        ("2025-05-01T10:00", "2025-05-01T10:00:30.123456789+00:00"),
    ],
)
def test_u9_timestamps_are_compared_as_instants(path: Path, first: str, later: str) -> None:
    """U9: blank or T, zones, fractions: the later instant is later, whatever the text sorts like."""
    follower = follow(put(path, first))
    follower.catch_up()
    put(path, later)
    assert values(follower.catch_up(), "at") == [later]
    assert follower.audit().keys() <= {"assumed_utc"}


def key_of(path: Path, cursor: Cursor, kind: str, value: Any) -> Any:
    """The key of a value, as SQLite computes it."""
    put(path, value)
    with Connection(path, 1) as connection:
        return connection.value(f"SELECT {cursor.key(kind)} FROM readings AS t ORDER BY rowid DESC LIMIT 1")


@pytest.mark.parametrize(
    "text", ["now", "2460000.5", "12:00", "", "2025-05-01x", "01/05/2025", "20250501", "x", b"2025-05-01"]
)
def test_what_is_no_time_has_no_key(path: Path, text: Any) -> None:
    """SQLite takes more for a time than there should be: 'now', a Julian day, a time of day."""
    assert key_of(path, Cursor("at", timedelta(0), None), TIME, text) is None


@pytest.mark.parametrize("zone", ["Europe/Vienna", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"])
def test_times_without_zone_are_in_the_source_time_zone(path: Path, zone: str) -> None:
    """`source_timezone` holds for times that name no zone, through the year and its changes; and for those only."""
    cursor = Cursor("at", timedelta(0), zone)
    start = datetime(2025, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    for hours in [*range(0, 24 * 365, 977), *range(24 * 88, 24 * 89), *range(24 * 298, 24 * 299)]:
        wall = start + timedelta(hours=hours, minutes=17)
        expected = int(wall.replace(tzinfo=ZoneInfo(zone)).timestamp())
        skipped = datetime.fromtimestamp(expected, ZoneInfo(zone)).replace(tzinfo=None) != wall
        assert key_of(path, cursor, TIME, wall.isoformat()) == expected or skipped
    assert key_of(path, cursor, TIME, "2025-05-01T10:00:00Z") == int(datetime(2025, 5, 1, 10, tzinfo=UTC).timestamp())


def test_naive_times_without_a_declared_zone_are_reported(path: Path) -> None:
    """They are taken for UTC, and the count check says so."""
    follower = follow(put(path, "2025-05-01T10:00:00"))
    follower.catch_up()
    assert "declare `source_timezone`" in follower.audit()["assumed_utc"]
    declared = follow(path, lakehouse={"source_timezone": "Europe/Vienna"})
    declared.catch_up()
    assert declared.audit() == {}


@pytest.mark.parametrize("declared", ["INTEGER", "REAL", "", "DATETIME"])
def test_numbers_are_their_own_keys(path: Path, declared: str) -> None:
    """Epoch seconds, milliseconds, counters, reals, negative ones: the greater number is later."""
    write(path, f"CREATE TABLE readings (at {declared}, v)")
    follower = follow(path)
    for number in (-5, 0, 7, 7.5, 2**40, 2**40 + 1):
        write(path, ("INSERT INTO readings VALUES (?, ?)", [(number, str(number))]))
        if declared != "INTEGER" or number != 7.5:
            assert values(follower.catch_up(), "v") == [str(number)] or follower.misfits
    assert len(follower.rows) + len(follower.misfits) == 6
    assert follower.audit() == {}


def test_a_cursor_that_holds_neither_numbers_nor_times_is_refused(path: Path) -> None:
    """Text that has an order of its own only; an example is shown."""
    put(path, "01/05/2025 10:00")
    with pytest.raises(SourceError, match=r"no ISO 8601 time \(got '01/05/2025 10:00"):
        follow(path).step()
