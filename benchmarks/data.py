"""Data to measure with, the same in every run: a SQLite table of 26 columns, files of readings, prices in a topic.

What belongs here: making rows, and the catalogs that declare them. What does not: measuring (`common.py`).
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

SENSOR_COLUMNS = {
    "id": ("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT", "i"),
    "timestamp": ("TEXT NOT NULL", "STRING", "strftime('%Y-%m-%dT%H:%M:%S', 1700000000 + i, 'unixepoch') || '+00:00'"),
    "sensor_id": ("TEXT NOT NULL", "STRING", "'sensor-' || (i % 120)"),
    "temperature": ("REAL", "DOUBLE", "15 + (i * 7919 % 10007) / 1000.0"),
    "humidity": ("REAL", "DOUBLE", "30 + (i * 104729 % 40009) / 1000.0"),
    "pressure": ("REAL", "DOUBLE", "990 + (i * 1299709 % 30011) / 1000.0"),
    "vibration": ("REAL", "DOUBLE", "(i * 15485863 % 9973) / 1000.0"),
    "voltage": ("REAL", "DOUBLE", "21 + (i * 32452843 % 3001) / 1000.0"),
    "status_code": ("INTEGER", "BIGINT", "i % 3"),
    "anomaly_flag": ("INTEGER DEFAULT 0", "BIGINT", "i % 50 = 0"),
    "anomaly_type": ("TEXT", "STRING", "CASE WHEN i % 50 = 0 THEN 'spike' END"),
    "firmware_version": ("TEXT", "STRING", "'2.' || (i % 7) || '.1'"),
    "model": ("TEXT", "STRING", "'TH-' || (100 + i % 5)"),
    "manufacturer": ("TEXT", "STRING", "'Maker ' || (i % 4)"),
    "location": ("TEXT", "STRING", "'Place number ' || (i % 40)"),
    "latitude": ("REAL", "DOUBLE", "40 + (i % 120) / 77.0"),
    "longitude": ("REAL", "DOUBLE", "-74 + (i % 120) / 77.0"),
    "original_timezone": ("TEXT", "STRING", "'America/New_York'"),
    "serial_number": ("TEXT", "STRING", "'SN' || (1000000 + i % 120)"),
    "manufacture_date": ("TEXT", "STRING", "'2023-02-' || (10 + i % 18)"),
    "deployment_type": ("TEXT", "STRING", "CASE i % 2 WHEN 0 THEN 'fixed' ELSE 'mobile' END"),
    "installation_date": ("TEXT", "STRING", "'2023-05-' || (10 + i % 18)"),
    "height_meters": ("REAL", "DOUBLE", "1.5 + i % 9"),
    "orientation_degrees": ("REAL", "DOUBLE", "(i % 120) * 3.0"),
    "instance_id": ("TEXT", "STRING", "'edge-' || (i % 3)"),
    "sensor_type": ("TEXT", "STRING", "'environment'"),
}
"""Column -> its declaration in SQLite, its type in the lake, and its value in row i: what an edge device writes."""

READING_COLUMNS = {
    "id": ("i", "BIGINT"),
    "at": ("strftime(TIMESTAMP '2024-01-01' + to_milliseconds(i * 250), '%Y-%m-%dT%H:%M:%S.%gZ')", "STRING"),
    "sensor_id": ("'sensor-' || (i % 500)", "STRING"),
    "location": ("'place ' || (i % 40)", "STRING"),
    "status": ("i % 3", "BIGINT"),
    "temperature": ("CASE WHEN i % 200 = 0 THEN 99.5 ELSE 15 + (i * 7919 % 10007) / 1000.0 END::DOUBLE", "DOUBLE"),
    "humidity": ("CASE WHEN i % 500 = 1 THEN NULL ELSE 30 + (i * 104729 % 40009) / 1000.0 END::DOUBLE", "DOUBLE"),
    "pressure": ("CASE WHEN i % 500 = 2 THEN 1200 ELSE 990 + (i * 1299709 % 30011) / 1000.0 END::DOUBLE", "DOUBLE"),
    "vibration": ("CASE WHEN i % 2000 = 3 THEN 11 ELSE (i * 15485863 % 9973) / 1000.0 END::DOUBLE", "DOUBLE"),
    "voltage": ("CASE WHEN i % 2000 = 4 THEN 2 ELSE 21 + (i * 32452843 % 3001) / 1000.0 END::DOUBLE", "DOUBLE"),
}
"""Column -> its value in row i as DuckDB SQL, and its type; one row in a hundred breaks one of `RULES`."""

RULES = {
    "temperature_in_range": "temperature BETWEEN -20 AND 60",
    "humidity_in_range": "humidity BETWEEN 5 AND 95",
    "pressure_in_range": "pressure BETWEEN 950 AND 1050",
    "vibration_in_range": "vibration <= 10",
    "voltage_in_range": "voltage BETWEEN 20 AND 25",
}
FILE_ROWS = 1_000_000


def broken(rows: int) -> int:
    """How many of the first `rows` readings break a rule."""
    every = ((200, 0), (500, 1), (500, 2), (2000, 3), (2000, 4))
    return sum(len(range(first, rows, step)) for step, first in every)


def sensor_database(path: Path, rows: int, *, misfit_every: int = 0) -> Path:
    """A SQLite table `sensor_readings`; one row in `misfit_every` has a text where a number belongs."""
    values = {name: made for name, (_, _, made) in SENSOR_COLUMNS.items()}
    if misfit_every:
        values["temperature"] = f"CASE WHEN i % {misfit_every} = 0 THEN 'n/a' ELSE {values['temperature']} END"
    columns = ", ".join(f"{name} {declared}" for name, (declared, _, _) in SENSOR_COLUMNS.items())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"CREATE TABLE sensor_readings ({columns})")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            f"INSERT INTO sensor_readings SELECT {', '.join(values.values())} FROM n",
            (rows,),
        )
        connection.commit()
    return path


def sensor_catalog(database: Path) -> str:
    """A catalog that lands `sensor_readings` of a database."""
    schema = ", ".join(f"{name} {kind}" for name, (_, kind, _) in SENSOR_COLUMNS.items())
    return f"""
delta_live_store:
  - entity_id: sensors
    source: {database}
    source_format: sqlite
    destination: bronze.sensor_readings
    read_options: {{sqlite.table: sensor_readings}}
    source_schema: {schema}
"""


def reading_files(directory: str, rows: str) -> None:
    """Write readings as Parquet files into a directory."""
    import duckdb

    Path(directory).mkdir(parents=True, exist_ok=True)
    columns = ", ".join(f"{value} AS {name}" for name, (value, _) in READING_COLUMNS.items())
    with duckdb.connect() as connection:
        for first in range(0, int(rows), FILE_ROWS):
            last = min(int(rows), first + FILE_ROWS)
            path = f"{directory}/part-{first // FILE_ROWS:04d}.parquet"
            connection.execute(f"COPY (SELECT {columns} FROM range({first}, {last}) AS t(i)) TO '{path}'")


def reading_catalog(directory: Path, *, silver: str = "") -> str:
    """A catalog that lands readings; `silver` adds entities (`silver_entity`)."""
    schema = ", ".join(f"{name} {kind}" for name, (_, kind) in READING_COLUMNS.items())
    return f"""
delta_live_store:
  - entity_id: readings
    source: {directory}
    source_format: cloudFiles
    destination: bronze.readings
    read_options: {{cloudFiles.format: parquet}}
    source_schema: {schema}
{silver}"""


def silver_entity(*, typed: bool) -> str:
    """The entity that judges readings by `RULES`; `typed` has their times made out of text first."""
    at = "CAST(at AS TIMESTAMP) AS at" if typed else "at"
    select = ["id AS reading_id", at, *[name for name in READING_COLUMNS if name not in ("id", "at")]]
    rules = "\n".join(f"        {name}: {sql}" for name, sql in RULES.items())
    return f"""
  - entity_id: silver
    source: bronze.readings
    source_format: dlt
    destination: silver.readings
    is_quarantined: true
    select_expr: {select}
    expectations:
      expect_all:
{rules}
"""


def many_catalog(database: str, entities: int) -> str:
    """A catalog of `entities` entities: half of them land a table `t_<i>` each, the others judge its rows."""
    found = ["delta_live_store:"]
    for index in range(entities):
        number = index // 2
        found.append(_LANDS.format(n=number, database=database) if index % 2 == 0 else _JUDGES.format(n=number))
    return "\n".join(found)


_LANDS = """
  - entity_id: bronze-{n}
    source: {database}
    source_format: sqlite
    destination: bronze.t_{n}
    group: g{n}
    primary_keys: [id]
    read_options: {{sqlite.table: t_{n}}}
    source_schema: id BIGINT, at STRING, sensor_id STRING, temperature DOUBLE, status BIGINT"""
_JUDGES = """
  - entity_id: silver-{n}
    source: bronze.t_{n}
    source_format: dlt
    destination: silver.t_{n}
    group: g{n}
    is_quarantined: true
    select_expr: [id, CAST(at AS TIMESTAMP) AS at, sensor_id, temperature, status]
    expectations:
      expect_all: {{warm: temperature < 60, has_sensor: sensor_id IS NOT NULL}}"""


def many_tables(path: Path, tables: int, rows: int = 100) -> Path:
    """A SQLite file with the tables that `many_catalog` lands."""
    with closing(sqlite3.connect(path)) as connection:
        for number in range(tables):
            connection.execute(
                f"CREATE TABLE t_{number} (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT, sensor_id TEXT, "
                "temperature REAL, status INTEGER)"
            )
            values = [(f"2024-01-01 00:{i % 60:02d}:00", f"s{i}", i / 3, i) for i in range(rows)]
            connection.executemany(
                f"INSERT INTO t_{number} (at, sensor_id, temperature, status) VALUES (?, ?, ?, ?)", values
            )
        connection.commit()
    return path


INDICES = 500
PARTITIONS = 4
FIRST_DAY = date(1980, 1, 1)
UNFIT_EVERY = 1_001
"""One message in so many is malformed: three of four are cut off, the fourth has a text where its close belongs."""


def unfit_messages(messages: int) -> int:
    """How many of the first `messages` are malformed."""
    return messages // UNFIT_EVERY


def produce_prices(servers: str, topic: str, first: str, count: str) -> None:
    """Send `count` messages of about 174 bytes from number `first` on: each is another day of one of 500 indices.

    A topic that is not there is made, with 4 partitions. Messages are keyed by index.
    """
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    settings: dict[str, str | int | float | bool] = {"bootstrap.servers": servers}
    admin = AdminClient(settings)
    if topic not in admin.list_topics(timeout=30).topics:
        for made in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
            made.result()
    producer = Producer({**settings, "linger.ms": 50, "queue.buffering.max.messages": 1_000_000})
    for number in range(int(first), int(first) + int(count)):
        key, value = price(number)
        producer.produce(topic, value, key)
        if number % 1_000 == 0:
            producer.poll(0)
    if left := producer.flush():
        raise RuntimeError(f"{left} messages were not sent")


def price(number: int) -> tuple[bytes, bytes]:
    """Key and value of a message."""
    index = f"IDX{number % INDICES:03d}"
    day, close = FIRST_DAY + timedelta(days=number // INDICES), 2_500 + number * 7_919 % 100_003 / 100
    text = (
        f'{{"Index":"{index}","Date":"{day}","Open":"{close - 1.5:.6f}","High":"{close + 2.25:.6f}",'
        f'"Low":"{close - 3.75:.6f}","Close":"{close:.6f}","Adj Close":"{close * 0.98:.6f}",'
        f'"Volume":"{877_000_000 + number}"}}'
    )
    if (number + 1) % UNFIT_EVERY == 0:
        bad = (number + 1) // UNFIT_EVERY
        text = text.replace(f'"Close":"{close:.6f}"', '"Close":"n/a"', 1) if bad % 4 == 0 else text[: 40 + bad % 90]
    return index.encode(), text.encode()


def topic_catalog(servers: str, topic: str) -> str:
    """A catalog that lands a topic as it is."""
    return f"""
delta_live_store:
  - entity_id: messages
    source: {topic}
    source_format: kafka
    destination: bronze.messages
    read_options: {{kafka.bootstrap.servers: "{servers}"}}
"""
