"""What the simulated sensors read: weather, places, anomalies and faults."""

from __future__ import annotations

import csv
import hashlib
import importlib.resources
import itertools
import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from lakehouse_assets.simulators.sensors import Summary, write_history
from lakehouse_assets.simulators.sensors_fleet import fleet
from lakehouse_assets.simulators.sensors_stream import ANOMALIES, FAULTS, ReadingStream
from lakehouse_assets.simulators.sensors_weather import stations
from lakehouse_assets_tests.simulators.device import CLEAN, START, declared, one, rows

CHANNELS = ("temperature", "humidity", "pressure", "vibration", "voltage")
IN_RANGE = {
    "temperature": "temperature BETWEEN -20 AND 60",
    "humidity": "humidity BETWEEN 5 AND 95",
    "pressure": "pressure BETWEEN 950 AND 1050",
    "vibration": "vibration BETWEEN 0 AND 10",
    "voltage": "voltage BETWEEN 20 AND 25",
}


@pytest.fixture(name="disturbed", scope="module")
def _disturbed(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """A day of 10 sensors by the minute, with many faults and anomalies."""
    path = tmp_path_factory.mktemp("sensors") / "disturbed.db"
    return write_history(path, start=START, days=1, sensors=10, fault_rate=0.05, anomaly_rate=0.05)


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
    return write_history(path, start=start, days=1461, sensors=6, interval=3 * 3600, **CLEAN).path


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


@pytest.mark.parametrize("name", ["Seattle", "New York"])
def test_weather_repeats_on_the_same_calendar_day(name: str) -> None:
    """The four years replay for ever, and 1 May stays 1 May: 1,461 days later the weather is the same."""
    station = stations()[name]
    first, later = (station.at(START + timedelta(days=days, hours=3)) for days in (0, 1461))

    assert first._replace(pressure=0) == later._replace(pressure=0)


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
        gaps = re.findall("0+(?=1)", "".join(str(int((sensor, tick) not in missing)) for tick in ticks))
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


@pytest.mark.parametrize("size", [1, 7])
def test_readings_do_not_depend_on_chunks(size: int) -> None:
    """A stream gives the same readings and counts whether it is asked tick by tick or for all ticks at once."""
    step, streams = timedelta(seconds=30), [ReadingStream(fleet(3, 7), "7", 0.1, 0.1) for _ in range(2)]
    whole = streams[0].readings(START, step, 700)
    parts = [streams[1].readings(START + step * done, step, size) for done in range(0, 700, size)]

    assert [reading for part in parts for reading in part] == whole
    assert (streams[0].faults, streams[0].anomalies) == (streams[1].faults, streams[1].anomalies)
    assert streams[0].drain() == streams[1].drain()


def test_weather_file_is_the_source_file() -> None:
    """The weather is byte for byte the file whose source and licence stand beside it, and it is small."""
    data = importlib.resources.files("lakehouse_assets.simulators").joinpath("data")
    content = data.joinpath("weather.csv").read_bytes()

    note = data.joinpath("weather.md").read_text("utf-8")
    assert hashlib.sha256(content).hexdigest() in note
    assert "public domain" in note
    assert "https://github.com/vega/vega-datasets" in note
    assert len(content) <= 200_000


def test_catalog_rules_judge_as_expected(disturbed: Summary) -> None:
    """U27: the rules of the shipped catalog break for every anomaly, NULL and text, and for nothing else."""
    silver = declared()["silver.sensor_readings"]
    valid = " AND ".join(f"({rule}) IS TRUE" for rule in silver.expectations.expect_all.values())
    faulty = disturbed.faults["null_value"] + disturbed.faults["text_value"]
    broken = one(disturbed.path, f"SELECT count(*) FROM sensor_readings WHERE NOT ({valid})")

    assert silver.is_quarantined
    assert broken == sum(disturbed.anomalies.values()) + faulty
