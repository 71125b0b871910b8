"""A stand-in for an edge device: a SQLite file that fills with sensor readings, as history or live.

What belongs here: the table, the file, the clock. What does not: what the readings say (`sensors_stream.py`,
`sensors_fleet.py`, `sensors_weather.py`). Needs nothing but the standard library.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Protocol

from lakehouse_assets.errors import SettingsError, SourceUnreadable
from lakehouse_assets.simulators.sensors_fleet import IDENTITY_COLUMNS, fleet
from lakehouse_assets.simulators.sensors_stream import CHANNELS, CHUNK, Reading, ReadingStream

TABLE = "sensor_readings"
DDL = (
    f"""CREATE TABLE IF NOT EXISTS {TABLE} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    timestamp TEXT NOT NULL,
    sensor_id TEXT NOT NULL,
    temperature REAL,
    humidity REAL,
    pressure REAL,
    vibration REAL,
    voltage REAL,
    status_code INTEGER,
    anomaly_flag INTEGER DEFAULT 0,
    anomaly_type TEXT,
    firmware_version TEXT,
    model TEXT,
    manufacturer TEXT,
    location TEXT,
    latitude REAL,
    longitude REAL,
    original_timezone TEXT,
    serial_number TEXT,
    manufacture_date TEXT,
    deployment_type TEXT,
    installation_date TEXT,
    height_meters REAL,
    orientation_degrees REAL,
    instance_id TEXT,
    sensor_type TEXT
)""",
    f"CREATE INDEX IF NOT EXISTS idx_{TABLE}_timestamp ON {TABLE} (timestamp)",
    f"CREATE INDEX IF NOT EXISTS idx_{TABLE}_sensor_id ON {TABLE} (sensor_id)",
)
"""The table and its indices."""

BLOCK = 64  # rows a statement: one step of SQLite for many rows is nearly twice as fast as one step each
ROWS_A_CHUNK = 20_000
SECONDS_A_COMMIT = 0.1


class Stop(Protocol):
    """What ends `live`: a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether to stop."""

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for it to be set."""


@dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        path: the SQLite file.
        sensors: how many sensors there are.
        rows: how many rows were written.
        anomalies: rows by anomaly type.
        faults: rows by kind of fault; `dropout` counts the rows that are missing.
        seconds: how long it took.
    """

    path: Path
    sensors: int
    rows: int
    anomalies: dict[str, int]
    faults: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        faults = ", ".join(f"{count:,} {kind}" for kind, count in self.faults.items()) or "none"
        return (
            f"{self.path}: {self.rows:,} readings of {self.sensors} sensors in {self.seconds:.1f} s "
            f"({self.rows / max(self.seconds, 1e-9):,.0f} rows/s), {sum(self.anomalies.values()):,} anomalies; "
            f"faults: {faults}"
        )


def write_history(
    path: str | Path,
    *,
    start: datetime,
    hours: float = 0,
    days: float = 0,
    sensors: int = 12,
    interval: float = 60,
    seed: int = 7,
    fault_rate: float = 0.002,
    anomaly_rate: float = 0.005,
    wal: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Write the readings of a stretch of the past, all or none; an existing file gets them appended.

    The same arguments write the same rows.

    Args:
        path: the SQLite file; its directory is made.
        start: the time of the first readings; UTC where it names no time zone.
        hours: how long the stretch is, together with `days`.
        days: see `hours`.
        sensors: how many sensors read.
        interval: seconds between two readings of a sensor.
        seed: what all chance is drawn from: the sensors from it alone, what befalls their readings also from the start.
        fault_rate: the share of readings that a fault befalls, 0 to 1.
        anomaly_rate: the share of readings that are out of range, 0 to 1.
        wal: whether a new file gets SQLite's write-ahead log.
        progress: told the number of ticks done and to do after each chunk.

    Raises:
        SettingsError: an argument is out of its range.
        SourceUnreadable: the file is no SQLite database, has another table of that name, or cannot be written.
    """
    _check("interval", interval, 1e-6 <= interval <= 1e8, "0.000001 to 100,000,000 seconds")
    _check("hours and days", f"{hours} h, {days} d", 0 < hours + 24 * days <= 1e6, "together up to 1,000,000 hours")
    step, span = timedelta(seconds=interval), timedelta(days=days, hours=hours)
    moment = start if start.tzinfo else start.replace(tzinfo=UTC)
    ticks = -(-span // step)
    writer = _Writer(path, moment, sensors, seed, fault_rate, anomaly_rate)
    with writer.database(wal) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # nobody misses a stand-in's last rows after a power cut
        chunk = max(1, min(CHUNK, ROWS_A_CHUNK // sensors))
        with _transaction(connection):
            connection.execute(DDL[0])
            for done in range(0, ticks, chunk):
                writer.insert(connection, writer.stream.readings(moment + step * done, step, min(chunk, ticks - done)))
                if progress:
                    progress(min(done + chunk, ticks), ticks)
            writer.insert(connection, writer.stream.drain())
            for index in DDL[1:]:  # last: sorting a new table once is faster than keeping its indices in order
                connection.execute(index)
    return writer.summary()


def live(
    path: str | Path,
    *,
    stop: Stop,
    rate: float = 10,
    sensors: int = 12,
    seed: int = 7,
    fault_rate: float = 0.002,
    anomaly_rate: float = 0.005,
    wal: bool = True,
    max_rows: int | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Write readings as time passes, until `stop` is set or `max_rows` are written; commits ten times a second at most.

    All sensors read together, `rate / sensors` times a second. What they read depends on the arguments and the time
    of the first readings, not on how fast the machine is.

    Args:
        path: the SQLite file; its directory is made, an existing file gets the readings appended.
        stop: what ends it; looked at before each commit.
        rate: rows a second over all sensors.
        sensors: how many sensors read.
        seed: what all chance is drawn from: the sensors from it alone, what befalls their readings also from the start.
        fault_rate: the share of readings that a fault befalls, 0 to 1.
        anomaly_rate: the share of readings that are out of range, 0 to 1.
        wal: whether a new file gets SQLite's write-ahead log, so that readers never wait.
        max_rows: where to stop at the latest; at the end of a tick, so a little more may be written.
        clock: asked once for the time of the first readings.
        progress: told the number of rows written after each commit.

    Raises:
        SettingsError: an argument is out of its range.
        SourceUnreadable: the file is no SQLite database, has another table of that name, or cannot be written.
    """
    _check("rate", rate, 1e-3 <= rate <= 1e7, "0.001 to 10,000,000 rows a second")
    start = clock()
    start -= timedelta(microseconds=start.microsecond % 1000)
    writer = _Writer(path, start, sensors, seed, fault_rate, anomaly_rate)
    step = timedelta(microseconds=max(1, round(sensors / rate * 1e6)))
    with writer.database(wal) as connection:
        for statement in DDL:
            connection.execute(statement)
        began, done = time.monotonic(), 0
        while not stop.is_set() and (max_rows is None or writer.rows < max_rows):
            due = int((time.monotonic() - began) / step.total_seconds()) + 1 - done
            if due > 0:
                ticks = min(due, CHUNK, due if max_rows is None else -(-(max_rows - writer.rows) // sensors))
                with _transaction(connection):
                    writer.insert(connection, writer.stream.readings(start + step * done, step, ticks))
                done += ticks
                if progress:
                    progress(writer.rows)
            stop.wait(max(SECONDS_A_COMMIT, began + step.total_seconds() * done - time.monotonic()))
        with _transaction(connection):
            writer.insert(connection, writer.stream.drain())
    return writer.summary()


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; an error leaves it to the closing of the connection to roll back."""
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


class _Writer:
    """A fleet, its stream, and the statements that put readings into the table.

    Attributes:
        rows: how many were put there.
    """

    def __init__(
        self, path: str | Path, start: datetime, sensors: int, seed: int, fault_rate: float, anomaly_rate: float
    ) -> None:
        _check("sensors", sensors, 1 <= sensors <= ROWS_A_CHUNK, f"1 to {ROWS_A_CHUNK}")
        _check("fault_rate", fault_rate, 0 <= fault_rate <= 1, "0 to 1")
        _check("anomaly_rate", anomaly_rate, 0 <= anomaly_rate <= 1 - fault_rate, "0 to 1, with fault_rate 1 at most")
        self.path = Path(path)
        self.rows = 0
        self._fleet = fleet(sensors, seed)
        chance = f"{seed} {start.astimezone(UTC).isoformat()}"  # another stretch of time, other noise and faults
        self.stream = ReadingStream(self._fleet, chance, fault_rate, anomaly_rate)
        self._began = time.monotonic()

    @contextmanager
    def database(self, wal: bool) -> Iterator[sqlite3.Connection]:
        """A connection that knows the fleet; errors of SQLite and of the file system become ours."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        is_new = not self.path.exists()
        try:
            with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
                if wal and is_new:
                    connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"CREATE TEMP TABLE fleet (n INTEGER PRIMARY KEY, {', '.join(IDENTITY_COLUMNS)})")
                marks = ", ".join("?" * (1 + len(IDENTITY_COLUMNS)))
                identities = ((number, *sensor.identity) for number, sensor in enumerate(self._fleet))
                connection.executemany(f"INSERT INTO fleet VALUES ({marks})", identities)
                yield connection
        except sqlite3.Error as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> SourceUnreadable:
        return SourceUnreadable(
            f"{self.path}: cannot write sensor readings: {error}",
            fix=f"give a new path, or a database that nobody has locked and whose {TABLE} this simulator made",
            path=str(self.path),
        )

    def insert(self, connection: sqlite3.Connection, readings: Sequence[Reading]) -> None:
        """Append `readings` in their order."""
        whole = len(readings) - len(readings) % BLOCK
        blocks = (list(chain.from_iterable(readings[at : at + BLOCK])) for at in range(0, whole, BLOCK))
        connection.executemany(_insert(BLOCK), blocks)
        connection.executemany(_insert(1), readings[whole:])
        self.rows += len(readings)

    def summary(self) -> Summary:
        """What was written so far."""
        return Summary(
            path=self.path,
            sensors=len(self._fleet),
            rows=self.rows,
            anomalies=dict(sorted(self.stream.anomalies.items())),
            faults=dict(sorted(self.stream.faults.items())),
            seconds=time.monotonic() - self._began,
        )


def _insert(rows: int) -> str:
    """The statement that appends `rows` readings: what changes is bound, what does not comes from the fleet."""
    names = ("timestamp", "n", *CHANNELS, "status_code", "anomaly_flag", "anomaly_type")
    bound = [name for name in names if name != "n"]
    values = ", ".join(["(" + ", ".join("?" * len(names)) + ")"] * rows)
    return (
        f"INSERT INTO {TABLE} ({', '.join(bound)}, {', '.join(IDENTITY_COLUMNS)}) "
        f"SELECT {', '.join(f'reading.column{names.index(name) + 1}' for name in bound)}, "
        f"{', '.join(f'fleet.{name}' for name in IDENTITY_COLUMNS)} "
        f"FROM (VALUES {values}) AS reading CROSS JOIN temp.fleet ON fleet.n = reading.column2"
    )


def _check(name: str, value: object, fits: bool, legal: str) -> None:
    if not fits:
        raise SettingsError(f"simulated sensors: {name} is out of its range", value=value, choices=[legal])
