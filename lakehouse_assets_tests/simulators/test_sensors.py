"""The simulated edge device: the table it makes, what its readings say, what is wrong with some, how it writes."""

from __future__ import annotations

import csv
import hashlib
import importlib.resources
import itertools
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from lakehouse_assets.entities.catalog import load_catalog
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import SettingsError, SourceUnreadable
from lakehouse_assets.simulators.sensors import Summary, live, write_history
from lakehouse_assets.simulators.sensors_fleet import fleet
from lakehouse_assets.simulators.sensors_stream import ANOMALIES, FAULTS, ReadingStream
from lakehouse_assets.simulators.sensors_weather import stations

START = datetime(2025, 5, 1, tzinfo=UTC)
CLEAN = {"fault_rate": 0.0, "anomaly_rate": 0.0}
CHANNELS = ("temperature", "humidity", "pressure", "vibration", "voltage")
IN_RANGE = {
    "temperature": "temperature BETWEEN -20 AND 60",
    "humidity": "humidity BETWEEN 5 AND 95",
    "pressure": "pressure BETWEEN 950 AND 1050",
    "vibration": "vibration BETWEEN 0 AND 10",
    "voltage": "voltage BETWEEN 20 AND 25",
}
COLUMNS = """
    id INTEGER, timestamp TEXT!, sensor_id TEXT!, temperature REAL, humidity REAL, pressure REAL, vibration REAL,
    voltage REAL, status_code INTEGER, anomaly_flag INTEGER, anomaly_type TEXT, firmware_version TEXT, model TEXT,
    manufacturer TEXT, location TEXT, latitude REAL, longitude REAL, original_timezone TEXT, serial_number TEXT,
    manufacture_date TEXT, deployment_type TEXT, installation_date TEXT, height_meters REAL, orientation_degrees REAL,
    instance_id TEXT, sensor_type TEXT
"""


def rows(path: Path, sql: str = "SELECT * FROM sensor_readings ORDER BY id") -> list[tuple[Any, ...]]:
    """What the file answers to `sql`."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def one(path: Path, sql: str) -> Any:
    """The single value that the file answers to `sql`."""
    return rows(path, sql)[0][0]


@pytest.fixture(name="disturbed", scope="module")
def _disturbed(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """A day of 10 sensors by the minute, with many faults and anomalies."""
    path = tmp_path_factory.mktemp("sensors") / "disturbed.db"
    return write_history(path, start=START, days=1, sensors=10, fault_rate=0.05, anomaly_rate=0.05)


def test_columns(tmp_path: Path) -> None:
    """U26: the table has exactly the 26 columns of the edge device, with their declared types."""
    path = write_history(tmp_path / "s.db", start=START, hours=1).path

    found = rows(path, "SELECT name, type || iif(\"notnull\", '!', '') FROM pragma_table_info('sensor_readings')")

    assert [f"{name} {kind}" for name, kind in found] == [text.strip() for text in COLUMNS.split(",")]


def test_key_and_default(tmp_path: Path) -> None:
    """U26: id is an AUTOINCREMENT key, and anomaly_flag is 0 where a writer says nothing."""
    path = write_history(tmp_path / "s.db", start=START, hours=1).path
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO sensor_readings (timestamp, sensor_id) VALUES ('t', 's')")
        newest = connection.execute("SELECT id, anomaly_flag FROM sensor_readings ORDER BY id DESC").fetchone()
        sequence = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'sensor_readings'").fetchone()

    assert newest == (sequence[0], 0)


def test_indices(tmp_path: Path) -> None:
    """U26: timestamp and sensor_id have an index each, and nothing else has."""
    path = write_history(tmp_path / "s.db", start=START, hours=1).path

    found = rows(path, "SELECT i.name FROM pragma_index_list('sensor_readings') AS l, pragma_index_info(l.name) AS i")

    assert sorted(found) == [("sensor_id",), ("timestamp",)]


def test_the_only_table(tmp_path: Path) -> None:
    """U2: the readings are the only table of the file, so that a reader finds them without being told."""
    path = write_history(tmp_path / "s.db", start=START, hours=1).path

    assert rows(path, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'") == [
        ("sensor_readings",)
    ]


def test_same_seed_same_rows(tmp_path: Path) -> None:
    """The same arguments write the same rows, faults and anomalies included, in another process too."""
    first = write_history(tmp_path / "first.db", start=START, hours=6, fault_rate=0.05, anomaly_rate=0.05)
    code = (
        "import sys; from datetime import datetime; from lakehouse_assets.simulators.sensors import write_history; "
        "write_history(sys.argv[1], start=datetime(2025, 5, 1), hours=6, fault_rate=0.05, anomaly_rate=0.05)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "second.db")], check=True)

    assert rows(first.path) == rows(tmp_path / "second.db")


def test_another_seed_other_rows(tmp_path: Path) -> None:
    """Another seed gives other sensors and other readings."""
    paths = [write_history(tmp_path / f"{seed}.db", start=START, hours=1, seed=seed).path for seed in (1, 2)]

    assert not {row[3:] for row in rows(paths[0])} & {row[3:] for row in rows(paths[1])}


def test_every_sensor_reads_at_every_tick(tmp_path: Path) -> None:
    """Without faults each sensor reads once an interval, from the start up to but not including the end."""
    path = write_history(tmp_path / "s.db", start=START, hours=2, sensors=5, interval=600, **CLEAN).path

    stamps = [(START + timedelta(minutes=10 * tick)).isoformat() for tick in range(12)]
    assert rows(path, "SELECT timestamp, count(DISTINCT sensor_id), count(*) FROM sensor_readings GROUP BY 1") == [
        (stamp, 5, 5) for stamp in stamps
    ]


def test_arrival_follows_time(tmp_path: Path) -> None:
    """Without faults readings arrive in the order of their times, over several chunks."""
    path = write_history(tmp_path / "s.db", start=START, days=1.5, sensors=20, **CLEAN).path

    stamps = [stamp for (stamp,) in rows(path, "SELECT timestamp FROM sensor_readings ORDER BY id")]
    assert stamps == sorted(stamps)
    assert len(stamps) == 36 * 60 * 20


@pytest.mark.parametrize(
    ("start", "interval", "first", "second"),
    [
        (START, 60, "2025-05-01T00:00:00+00:00", "2025-05-01T00:01:00+00:00"),
        (START, 0.5, "2025-05-01T00:00:00.000+00:00", "2025-05-01T00:00:00.500+00:00"),
        (START.replace(tzinfo=None), 60, "2025-05-01T00:00:00+00:00", "2025-05-01T00:01:00+00:00"),
        (START.astimezone(ZoneInfo("Asia/Kolkata")), 60, "2025-05-01T00:00:00+00:00", "2025-05-01T00:01:00+00:00"),
    ],
)
def test_timestamps(tmp_path: Path, start: datetime, interval: float, first: str, second: str) -> None:
    """Timestamps are ISO text in UTC, as fine as the interval needs; a start without a zone is UTC."""
    path = write_history(tmp_path / "s.db", start=start, hours=0.1, sensors=1, interval=interval, **CLEAN).path

    assert rows(path, "SELECT timestamp FROM sensor_readings ORDER BY id LIMIT 2") == [(first,), (second,)]


@pytest.mark.parametrize("channel", CHANNELS)
def test_clean_readings_are_in_range(clean_years: Path, channel: str) -> None:
    """U27: without anomalies every reading of four years is in range, real heat waves and cold snaps included."""
    assert one(clean_years, f"SELECT count(*) FROM sensor_readings WHERE ({IN_RANGE[channel]}) IS NOT TRUE") == 0


@pytest.fixture(name="clean_years", scope="module")
def _clean_years(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sensors") / "clean.db"
    start = datetime(2012, 1, 1, tzinfo=UTC)
    return write_history(path, start=start, days=1461, sensors=12, interval=3 * 3600, **CLEAN).path


@pytest.mark.parametrize(("location", "day", "zone"), [("Seattle", "2013-07-01", "America/Los_Angeles"),
                                                       ("New York", "2014-01-07", "America/New_York")])  # fmt: skip
def test_temperatures_replay_observed_days(tmp_path: Path, location: str, day: str, zone: str) -> None:
    """At 6 and at 15 local time a sensor reads the extremes that were observed there on that day."""
    text = importlib.resources.files("lakehouse_assets.simulators").joinpath("data/weather.csv").read_text("utf-8")
    observed = next(r for r in csv.DictReader(text.splitlines()) if (r["location"], r["date"]) == (location, day))
    for name, hour in (("temp_min", 6), ("temp_max", 15)):
        moment = datetime.combine(date.fromisoformat(day), datetime.min.time(), ZoneInfo(zone)).replace(hour=hour)
        path = tmp_path / f"{name}.db"
        write_history(path, start=moment, hours=0.01, sensors=48, **CLEAN)
        found = rows(path, f"SELECT temperature FROM sensor_readings WHERE location = '{location}'")
        assert len(found) == 8
        assert all(abs(reading - float(observed[name])) < 1.3 for (reading,) in found)  # bias and noise


@pytest.mark.parametrize("name", ["Seattle", "New York"])
def test_temperature_has_no_jumps(name: str) -> None:
    """From the afternoon to the next morning it grows colder, then warmer; nothing jumps at midnight or elsewhere."""
    station = stations()[name]
    warmest = datetime(2013, 7, 1, 15, tzinfo=station.zone)
    course = [station.at(warmest + timedelta(minutes=10 * tick)).temperature for tick in range(24 * 6 + 1)]
    night, day = course[: 15 * 6 + 1], course[15 * 6 :]

    assert night == sorted(night, reverse=True)
    assert day == sorted(day)
    assert max(abs(b - a) for a, b in itertools.pairwise(course)) < 1


def test_weather_repeats_on_the_same_calendar_day(tmp_path: Path) -> None:
    """The four years replay for ever, and 1 May stays 1 May: 1,461 days later the weather is the same."""
    first, later = (
        write_history(tmp_path / f"{shift}.db", start=START + timedelta(days=shift), days=1, sensors=2, **CLEAN).path
        for shift in (0, 1461)
    )

    assert rows(first, "SELECT temperature, humidity, vibration, voltage FROM sensor_readings") == rows(
        later, "SELECT temperature, humidity, vibration, voltage FROM sensor_readings"
    )


def test_air_is_drier_when_it_is_warm(tmp_path: Path) -> None:
    """Humidity follows the temperature of the day: its lowest hour is the afternoon, not the night."""
    path = write_history(tmp_path / "s.db", start=START, days=30, sensors=2, interval=3600, **CLEAN).path

    afternoon, night = (
        one(path, f"SELECT avg(humidity) FROM sensor_readings WHERE location='Seattle' AND timestamp LIKE '%T{hour}:%'")
        for hour in ("22", "13")  # 15:00 and 06:00 in Seattle
    )
    assert afternoon < night - 20


def test_sensors_stand_in_real_places(tmp_path: Path) -> None:
    """Sensors are spread over six cities in two time zones, each near its city with exact coordinates."""
    path = write_history(tmp_path / "s.db", start=START, hours=0.1, sensors=24, **CLEAN).path

    found = rows(
        path, "SELECT location, original_timezone, count(DISTINCT sensor_id) FROM sensor_readings GROUP BY 1, 2"
    )
    assert {(city, zone) for city, zone, _ in found} == {
        ("Seattle", "America/Los_Angeles"), ("Tacoma", "America/Los_Angeles"), ("Everett", "America/Los_Angeles"),
        ("New York", "America/New_York"), ("Newark", "America/New_York"), ("Yonkers", "America/New_York"),
    }  # fmt: skip
    assert {count for *_, count in found} == {4}
    assert rows(path, "SELECT count(*) FROM sensor_readings WHERE round(latitude, 2) = latitude") < [(3,)]


def test_more_sensors_only_add_some(tmp_path: Path) -> None:
    """A larger fleet of the same seed holds the same sensors and more."""
    fields = "sensor_id, serial_number, latitude, longitude, manufacture_date, installation_date, deployment_type"
    small, large = (
        set(rows(write_history(tmp_path / f"{n}.db", start=START, hours=0.1, sensors=n, **CLEAN).path,
                 f"SELECT DISTINCT {fields} FROM sensor_readings"))
        for n in (3, 9)
    )  # fmt: skip

    assert small < large


def test_sensors_are_made_before_they_are_mounted(disturbed: Summary) -> None:
    """Dates of a sensor are ISO text, and it was made before it was mounted, before it read."""
    assert one(
        disturbed.path,
        "SELECT count(*) FROM sensor_readings "
        "WHERE NOT (date(manufacture_date) < date(installation_date) AND date(installation_date) < date(timestamp))",
    ) == 0  # fmt: skip


def test_anomalies_are_out_of_range(disturbed: Summary) -> None:
    """U27: an anomaly is flagged, named, and out of range in the channel that its name tells, and there alone."""
    for kind, (channel, _, _) in ANOMALIES.items():
        others = " AND ".join(rule for name, rule in IN_RANGE.items() if name != channel)
        bad = f"NOT ({IN_RANGE[channel]}) AND {others} AND anomaly_flag = 1 AND status_code = 1"
        found = rows(disturbed.path, f"SELECT {bad} FROM sensor_readings WHERE anomaly_type = '{kind}'")

        assert Counter(found) == {(1,): disturbed.anomalies[kind]}


def test_anomalies_are_counted(disturbed: Summary) -> None:
    """U27: every flagged row has a type, and the summary counts all kinds of them at about the chosen rate."""
    counts = dict(
        rows(disturbed.path, "SELECT anomaly_type, count(*) FROM sensor_readings WHERE anomaly_flag = 1 GROUP BY 1")
    )

    assert counts == disturbed.anomalies
    assert counts.keys() == ANOMALIES.keys()
    assert sum(counts.values()) == pytest.approx(0.05 * disturbed.rows, rel=0.2)


def test_unflagged_readings_are_in_range_or_faulty(disturbed: Summary) -> None:
    """U27: a reading without flag that is not in range is a fault: a NULL or a text, with status 2."""
    fine = " AND ".join(IN_RANGE.values())
    unflagged = "anomaly_flag = 0 AND status_code = 0"
    broken = one(disturbed.path, f"SELECT count(*) FROM sensor_readings WHERE {unflagged} AND ({fine}) IS NOT TRUE")

    assert broken == 0


@pytest.mark.parametrize(("kind", "test"), [("null_value", "IS NULL"), ("text_value", "GLOB '*[^0-9.]*'")])
def test_broken_values(disturbed: Summary, kind: str, test: str) -> None:
    """A NULL, or a text in a REAL column, stands in one channel of a reading; the summary counts them."""
    wanted = "null" if kind == "null_value" else "text"
    broken = " + ".join(f"(typeof({channel}) = '{wanted}')" for channel in CHANNELS)

    assert Counter(rows(disturbed.path, f"SELECT {broken}, status_code FROM sensor_readings WHERE {broken}")) == {
        (1, 2): disturbed.faults[kind]
    }


def test_readings_sent_twice(disturbed: Summary) -> None:
    """A reading that is sent twice stands there twice, with equal sensor, time and values and an id of its own."""
    double = rows(
        disturbed.path,
        "SELECT timestamp, sensor_id, count(*), count(DISTINCT temperature) FROM sensor_readings "
        "GROUP BY 1, 2 HAVING count(*) > 1",
    )

    assert {row[2:] for row in double} == {(2, 1)}
    assert len(double) == disturbed.faults["resent"]


def test_late_readings(disturbed: Summary) -> None:
    """U8: some readings arrive after newer ones: their id is higher, their time is lower."""
    newest, late = "", 0
    for (stamp,) in rows(disturbed.path, "SELECT timestamp FROM sensor_readings ORDER BY id"):
        late += stamp < newest
        newest = max(newest, stamp)

    assert 0 <= disturbed.faults["late"] - late <= 10  # the last ones of all may find nothing newer
    assert late > 50


def test_silent_sensors(disturbed: Summary) -> None:
    """A sensor that falls silent leaves a gap of several readings; the summary counts what is missing."""
    present = rows(disturbed.path, "SELECT DISTINCT sensor_id, timestamp FROM sensor_readings")
    ticks = [(START + timedelta(minutes=tick)).isoformat() for tick in range(24 * 60)]
    sensors = {sensor for sensor, _ in present}
    missing = {(sensor, tick) for sensor in sensors for tick in ticks} - set(present)

    assert len(missing) == disturbed.faults["dropout"]
    for sensor in sensors:
        gaps = re.findall("0+", "".join(str(int((sensor, tick) not in missing)) for tick in ticks[:-30]))
        assert gaps
        assert min(map(len, gaps)) >= 3


def test_every_fault_occurs(disturbed: Summary) -> None:
    """The summary counts every kind of fault that there is."""
    assert set(disturbed.faults) == set(FAULTS)
    assert min(disturbed.faults.values()) > 50


def test_summary_counts_rows(disturbed: Summary) -> None:
    """The summary's rows are those in the file: all ticks of all sensors, without the missing, with the repeated."""
    expected = 24 * 60 * 10 - disturbed.faults["dropout"] + disturbed.faults["resent"]

    assert disturbed.rows == expected == one(disturbed.path, "SELECT count(*) FROM sensor_readings")


def test_summary_reads_well(disturbed: Summary) -> None:
    """The summary is a line for people."""
    line = str(disturbed)

    assert f"{disturbed.rows:,} readings of 10 sensors" in line
    assert f"{disturbed.faults['dropout']:,} dropout" in line


@pytest.mark.parametrize("kind", ["fault_rate", "anomaly_rate"])
def test_everything_can_go_wrong(tmp_path: Path, kind: str) -> None:
    """A rate of 1 befalls every reading."""
    rates = {**CLEAN, kind: 1.0}
    summary = write_history(tmp_path / "s.db", start=START, hours=2, sensors=3, **rates)

    fine = one(summary.path, "SELECT count(*) FROM sensor_readings WHERE status_code = 0 AND anomaly_flag = 0")
    assert fine == summary.faults.get("late", 0) + 2 * summary.faults.get("resent", 0)
    assert sum(summary.anomalies.values()) == (360 if kind == "anomaly_rate" else 0)


def test_history_is_appended(tmp_path: Path) -> None:
    """A second stretch is appended to the first: no row changes, ids go on, the indices stay."""
    path = tmp_path / "s.db"
    first = write_history(path, start=START, hours=1, **CLEAN)
    before = rows(path)
    second = write_history(path, start=START + timedelta(hours=1), hours=1, **CLEAN)

    after = rows(path)
    assert after[: len(before)] == before
    assert [row[0] for row in after] == list(range(1, first.rows + second.rows + 1))


def test_history_is_all_or_nothing(tmp_path: Path) -> None:
    """A history that is broken off leaves the file as it was."""
    path = write_history(tmp_path / "s.db", start=START, hours=0.1).path
    before = rows(path)

    def give_up(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(SourceUnreadable):
        write_history(path, start=START, days=1, progress=give_up)

    assert rows(path) == before


def test_directories_are_made(tmp_path: Path) -> None:
    """The directory of the file need not be there."""
    assert write_history(tmp_path / "a" / "b" / "s.db", start=START, hours=0.1).path.is_file()


def test_progress_is_told(tmp_path: Path) -> None:
    """Long histories tell how far they are, up to the end."""
    told: list[tuple[int, int]] = []
    write_history(
        tmp_path / "s.db", start=START, days=1.5, sensors=20, progress=lambda *step: told.append(step), **CLEAN
    )

    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1] == (36 * 60, 36 * 60)


@pytest.mark.parametrize("wal", [False, True])
def test_journal_mode(tmp_path: Path, wal: bool) -> None:
    """A new file gets the write-ahead log where it is asked for, else none: then the one file is everything."""
    path = write_history(tmp_path / "s.db", start=START, hours=1, wal=wal).path

    assert one(path, "PRAGMA journal_mode") == ("wal" if wal else "delete")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"interval": 0}, "interval"),
        ({"interval": -1}, "interval"),
        ({"interval": float("nan")}, "interval"),
        ({"hours": 0}, "hours and days"),
        ({"hours": -1}, "hours and days"),
        ({"hours": float("inf")}, "hours and days"),
        ({"sensors": 0}, "sensors"),
        ({"sensors": 1_000_000}, "sensors"),
        ({"fault_rate": 1.5}, "fault_rate"),
        ({"fault_rate": -0.1}, "fault_rate"),
        ({"anomaly_rate": 2}, "anomaly_rate"),
        ({"fault_rate": 0.6, "anomaly_rate": 0.6}, "anomaly_rate"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, Any], named: str) -> None:
    """An argument out of its range is refused by name, with what is legal, and no file is made."""
    with pytest.raises(SettingsError, match=f"{named} is out of its range .*\n  legal: "):
        write_history(tmp_path / "s.db", start=START, **{"hours": 1, **arguments})

    assert not (tmp_path / "s.db").exists()


def test_not_a_database(tmp_path: Path) -> None:
    """A file that is no database is refused by name, and left as it is."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database, and long enough to be looked at " * 20)
    before = path.read_bytes()

    with pytest.raises(SourceUnreadable, match=r"notes\.txt: cannot write sensor readings: file is not a database"):
        write_history(path, start=START, hours=1)

    assert path.read_bytes() == before


def test_another_table_of_that_name(tmp_path: Path) -> None:
    """A table of the same name with other columns is refused, and nothing is added."""
    path = tmp_path / "s.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE sensor_readings (id INTEGER PRIMARY KEY, timestamp TEXT)")

    with pytest.raises(SourceUnreadable, match="no column named temperature"):
        write_history(path, start=START, hours=1)

    assert rows(path) == []
    assert rows(path, "SELECT name FROM sqlite_master") == [("sensor_readings",)]


def test_live_ends_at_max_rows(tmp_path: Path) -> None:
    """Live writing stops at the tick in which the wanted number of rows is reached."""
    summary = live(tmp_path / "s.db", stop=threading.Event(), rate=5000, sensors=4, max_rows=398, **CLEAN)

    assert summary.rows == 400 == one(summary.path, "SELECT count(*) FROM sensor_readings")


def test_live_keeps_its_rate(tmp_path: Path) -> None:
    """In about half a second at 400 rows a second about 200 rows are written, not all at once."""
    stop, told = threading.Event(), list[int]()
    timer = threading.Timer(0.55, stop.set)
    timer.start()
    began = time.monotonic()
    summary = live(tmp_path / "s.db", stop=stop, rate=400, sensors=4, progress=told.append, **CLEAN)
    seconds = time.monotonic() - began

    assert 0.5 < seconds < 5
    assert 400 * (seconds - 0.35) <= summary.rows <= 400 * seconds + 4
    assert told == sorted(set(told))
    assert 3 <= len(told) <= 10 * seconds + 1


def test_live_rows_follow_from_the_first_time(tmp_path: Path) -> None:
    """The same first time and arguments give the same readings, whatever batches they are written in."""
    written = []
    for pause in (0.0, 0.3):
        path, batches = tmp_path / f"{pause}.db", list[int]()

        def told(count: int, pause: float = pause, batches: list[int] = batches) -> None:
            batches.append(count)
            time.sleep(pause)

        live(path, stop=threading.Event(), rate=1500, sensors=3, max_rows=300, clock=lambda: START, progress=told)
        written.append((batches, rows(path)[:200]))

    assert written[0][0] != written[1][0]
    assert written[0][1] == written[1][1]
    assert written[0][1][0][1] == "2025-05-01T00:00:00.000+00:00"


@pytest.mark.parametrize("size", [1, 7])
def test_readings_do_not_depend_on_chunks(size: int) -> None:
    """A stream gives the same readings and counts whether it is asked tick by tick or for all ticks at once."""
    step, streams = timedelta(seconds=30), [ReadingStream(fleet(3, 7), 7, 0.1, 0.1) for _ in range(2)]
    whole = streams[0].readings(START, step, 700)
    parts = [streams[1].readings(START + step * done, step, size) for done in range(0, 700, size)]

    assert [reading for part in parts for reading in part] == whole
    assert (streams[0].faults, streams[0].anomalies) == (streams[1].faults, streams[1].anomalies)
    assert streams[0].drain() == streams[1].drain()


def test_live_reads_the_clock(tmp_path: Path) -> None:
    """Live readings carry the present time."""
    summary = live(tmp_path / "s.db", stop=threading.Event(), rate=1000, sensors=2, max_rows=2)

    found = datetime.fromisoformat(one(summary.path, "SELECT min(timestamp) FROM sensor_readings"))
    assert abs(datetime.now(UTC) - found) < timedelta(seconds=30)


def test_live_can_be_read_meanwhile(tmp_path: Path) -> None:
    """While live writing goes on a reader sees whole commits and never waits: the file has a write-ahead log."""
    stop, path, seen = threading.Event(), tmp_path / "s.db", list[int]()

    def look(_: int) -> None:
        seen.append(one(path, "SELECT count(*) FROM sensor_readings"))
        if len(seen) == 3:
            stop.set()

    live(path, stop=stop, rate=200, sensors=2, progress=look, **CLEAN)

    assert one(path, "PRAGMA journal_mode") == "wal"
    assert seen == sorted(set(seen))
    assert all(count % 2 == 0 for count in seen)


def test_live_goes_on_after_history(tmp_path: Path) -> None:
    """Live readings are appended to a history, by the same sensors."""
    path = tmp_path / "s.db"
    history = write_history(path, start=START, hours=0.1, sensors=3, **CLEAN)
    live(path, stop=threading.Event(), rate=300, sensors=3, max_rows=3, **CLEAN)

    assert one(path, "SELECT max(id) FROM sensor_readings") == history.rows + 3
    assert one(path, "SELECT count(DISTINCT serial_number) FROM sensor_readings") == 3


def test_live_writes_nothing_after_stop(tmp_path: Path) -> None:
    """A stop that is set already leaves an empty table with its indices."""
    stop = threading.Event()
    stop.set()

    assert live(tmp_path / "s.db", stop=stop).rows == 0
    assert one(tmp_path / "s.db", "SELECT count(*) FROM sqlite_master WHERE name LIKE 'idx_%'") == 2


@pytest.mark.parametrize("rate", [0, -1, float("inf")])
def test_live_bad_rate(tmp_path: Path, rate: float) -> None:
    """A rate that is not positive is refused."""
    with pytest.raises(SettingsError, match="rate is out of its range"):
        live(tmp_path / "s.db", stop=threading.Event(), rate=rate)


def test_weather_file_is_the_source_file() -> None:
    """The weather is byte for byte the file whose source and licence stand beside it, and it is small."""
    data = importlib.resources.files("lakehouse_assets.simulators").joinpath("data")
    content = data.joinpath("weather.csv").read_bytes()

    note = data.joinpath("weather.md").read_text("utf-8")
    assert hashlib.sha256(content).hexdigest() in note
    assert "public domain" in note
    assert "https://github.com/vega/vega-datasets" in note
    assert len(content) <= 200_000


@pytest.fixture(name="declared", scope="module")
def _declared() -> dict[str, Entity]:
    """The entities of the shipped catalog's sensors pipeline, by destination."""
    directory = importlib.resources.files("lakehouse_assets").joinpath("catalog")
    return {e.destination: e for e in load_catalog(Path(str(directory)), {}).entities if e.group == "sensors"}


def test_catalog_declares_the_table_that_is_written(declared: dict[str, Entity]) -> None:
    """U26: the bronze table of the shipped catalog has the columns of the file, with types that hold them."""
    spark = {"INTEGER": "BIGINT", "TEXT": "STRING", "REAL": "DOUBLE"}
    columns = [text.strip().rstrip("!").split() for text in COLUMNS.split(",")]
    bronze = declared["bronze.sensor_readings"]

    assert [text.split() for text in (bronze.source_schema or "").split(",")] == [[n, spark[t]] for n, t in columns]
    assert bronze.lakehouse.columns.keys() == {name for name, _ in columns}
    assert bronze.read_options == {"sqlite.table": "sensor_readings"}


def test_catalog_rules_judge_as_expected(declared: dict[str, Entity], disturbed: Summary) -> None:
    """U27: the rules of the shipped catalog break for every anomaly, NULL and text, and for nothing else."""
    silver = declared["silver.sensor_readings"]
    valid = " AND ".join(f"({rule}) IS TRUE" for rule in silver.expectations.expect_all.values())
    faulty = disturbed.faults["null_value"] + disturbed.faults["text_value"]
    broken = one(disturbed.path, f"SELECT count(*) FROM sensor_readings WHERE NOT ({valid})")

    assert silver.is_quarantined
    assert broken == sum(disturbed.anomalies.values()) + faulty


def test_catalog_has_the_modes(declared: dict[str, Entity]) -> None:
    """U22: raw, schematized, sanitized, filtered and aggregated readings are tables of the shipped catalog."""
    made = {table: entity.select_expr for table, entity in declared.items()}

    assert len(made["silver.sensor_readings_raw"]) == 2
    assert made["silver.sensor_readings_raw"][1].endswith("AS reading_string")
    assert "id AS reading_id" in made["silver.sensor_readings"]
    assert "round(latitude, 2) AS latitude" in made["silver.sensor_readings_secure"]
    assert declared["gold.sensor_alerts"].source == "silver.sensor_readings_quarantine"
    assert declared["gold.sensor_hourly"].lakehouse.refresh_key == ["reading_date", "sensor_id"]


def test_standard_library_only() -> None:
    """The stand-in imports nothing but the standard library and itself."""
    code = (
        "import sys; before = set(sys.modules); import lakehouse_assets.simulators.sensors; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names); "
        "print({m for m in new if not m.startswith('_sysconfigdata')})"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert found.strip() == "{'lakehouse_assets'}"
