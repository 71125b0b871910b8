"""The simulated edge device: the table it makes, and how it writes histories and live."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.errors import SettingsError, SourceUnreadable
from lakehouse_assets.simulators.sensors import live, write_history
from lakehouse_assets_tests.simulators.device import CLEAN, START, declared, one, rows

COLUMNS = """
    id INTEGER, timestamp TEXT!, sensor_id TEXT!, temperature REAL, humidity REAL, pressure REAL, vibration REAL,
    voltage REAL, status_code INTEGER, anomaly_flag INTEGER, anomaly_type TEXT, firmware_version TEXT, model TEXT,
    manufacturer TEXT, location TEXT, latitude REAL, longitude REAL, original_timezone TEXT, serial_number TEXT,
    manufacture_date TEXT, deployment_type TEXT, installation_date TEXT, height_meters REAL, orientation_degrees REAL,
    instance_id TEXT, sensor_type TEXT
"""


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


def test_another_time_other_chance(tmp_path: Path) -> None:
    """Another stretch of time has the same sensors, but what befalls their readings differs: nothing repeats."""
    paths = [
        write_history(tmp_path / f"{day}.db", start=START + timedelta(days=day), hours=8, anomaly_rate=0.05).path
        for day in (0, 1)
    ]

    identity = "SELECT DISTINCT sensor_id, serial_number, latitude FROM sensor_readings ORDER BY 1"
    assert rows(paths[0], identity) == rows(paths[1], identity)
    events = "SELECT sensor_id, substr(timestamp, 12), anomaly_type FROM sensor_readings WHERE anomaly_flag = 1"
    assert len(set(rows(paths[0], events)) & set(rows(paths[1], events))) < 10


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
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
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


def test_no_directory(tmp_path: Path) -> None:
    """Where no directory can be made the path is named, with the reason."""
    (tmp_path / "file").touch()

    with pytest.raises(SourceUnreadable, match=r"file/s\.db: cannot write sensor readings: .*File exists"):
        write_history(tmp_path / "file" / "s.db", start=START, hours=1)


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


def test_catalog_declares_the_table_that_is_written() -> None:
    """U26: the bronze table of the shipped catalog has the columns of the file, with types that hold them."""
    spark = {"INTEGER": "BIGINT", "TEXT": "STRING", "REAL": "DOUBLE"}
    columns = [text.strip().rstrip("!").split() for text in COLUMNS.split(",")]
    bronze = declared()["bronze.sensor_readings"]

    assert [text.split() for text in (bronze.source_schema or "").split(",")] == [[n, spark[t]] for n, t in columns]
    assert bronze.lakehouse.columns.keys() == {name for name, _ in columns}
    assert bronze.read_options == {"sqlite.table": "sensor_readings"}


def test_catalog_has_the_modes() -> None:
    """U22: raw, schematized, sanitized, filtered and aggregated readings are tables of the shipped catalog."""
    made = {table: entity.select_expr for table, entity in declared().items()}

    assert len(made["silver.sensor_readings_raw"]) == 2
    assert made["silver.sensor_readings_raw"][1].endswith("AS reading_string")
    assert "id AS reading_id" in made["silver.sensor_readings"]
    assert "CAST(CAST(latitude AS DECIMAL(9, 2)) AS DOUBLE) AS latitude" in made["silver.sensor_readings_secure"]
    assert declared()["gold.sensor_alerts"].source == "silver.sensor_readings_quarantine"
    assert declared()["gold.sensor_hourly"].lakehouse.refresh_key == ["reading_date", "sensor_id"]


def test_standard_library_only() -> None:
    """The stand-in imports nothing but the standard library and itself."""
    code = (
        "import sys; before = set(sys.modules); import lakehouse_assets.simulators.sensors; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names); "
        "print({m for m in new if not m.startswith('_sysconfigdata')})"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert found.strip() == "{'lakehouse_assets'}"
