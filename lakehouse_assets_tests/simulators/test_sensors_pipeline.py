"""The shipped sensors pipeline on a simulated edge device: U22's modes are tables, and every reading is somewhere."""

from __future__ import annotations

import importlib.resources
import json
import sqlite3
import statistics
from collections import Counter, defaultdict
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.catalog import load_catalog
from lakehouse_assets.lake.names import Lake
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.simulators.sensors import Summary, write_history
from lakehouse_assets.tables.base import Work
from lakehouse_assets.tables.refresh import refresh
from lakehouse_assets_tests.simulators.device import START, rows

CHANNELS = ("temperature", "humidity", "pressure", "vibration", "voltage")


class Pipeline:
    """The shipped tables of group `sensors` over one SQLite file."""

    def __init__(self, directory: Path) -> None:
        self.database = directory / "edge.db"
        catalog = load_catalog(
            Path(str(importlib.resources.files("lakehouse_assets").joinpath("catalog"))),
            {"LAKEHOUSE_SENSOR_DB": str(self.database)},
        )
        storage = Storage()
        self.work = Work(catalog, Lake(str(directory / "lake"), storage), EmbeddedEngine(storage))

    def run(self) -> dict[str, int]:
        """Refresh every table; the rows that each took in, where there was something new."""
        tables = self.work.catalog.select("group:sensors")
        return {str(table): outcome.rows_in for table in tables for outcome in refresh(self.work, table)}

    def table(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table."""
        engine = self.work.engine
        handle = engine.find(f"{self.work.lake.root}/{name.replace('.', '/')}")
        assert handle is not None
        return [dict(row) for row in engine.rows(engine.read(handle))]


@pytest.fixture(name="written", scope="module")
def _written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, list[Summary]]:
    """Two stretches of readings, each carried through the pipeline after it was written."""
    pipeline, summaries = Pipeline(tmp_path_factory.mktemp("pipeline")), []
    for hour in (0, 5):
        start = START + timedelta(hours=hour)
        rates = {"fault_rate": 0.03, "anomaly_rate": 0.03}
        summaries.append(write_history(pipeline.database, start=start, hours=5, sensors=6, **rates))
        pipeline.run()
    return pipeline, summaries


@pytest.fixture(name="pipeline")
def _pipeline(written: tuple[Pipeline, list[Summary]]) -> Pipeline:
    return written[0]


def test_every_reading_is_somewhere(written: tuple[Pipeline, list[Summary]]) -> None:
    """U27: texts are in bronze's quarantine, anomalies and NULLs in silver's, all other readings in silver."""
    pipeline, summaries = written
    faults = sum((Counter(summary.faults) for summary in summaries), Counter())
    anomalies = sum(sum(summary.anomalies.values()) for summary in summaries)
    landed = sum(summary.rows for summary in summaries) - faults["text_value"]

    assert len(pipeline.table("bronze.sensor_readings_quarantine")) == faults["text_value"]
    assert len(pipeline.table("bronze.sensor_readings")) == landed
    assert len(pipeline.table("silver.sensor_readings_quarantine")) == anomalies + faults["null_value"]
    assert len(pipeline.table("silver.sensor_readings")) == landed - anomalies - faults["null_value"]


def test_nothing_new_writes_nothing(pipeline: Pipeline) -> None:
    """A run without new readings takes nothing in."""
    assert pipeline.run() == {}


def test_schematized(pipeline: Pipeline) -> None:
    """U22: schematized readings have typed times, the day, and `reading_id` in the place of `id`."""
    source = {row[0]: row for row in rows(pipeline.database)}
    found = pipeline.table("silver.sensor_readings")

    assert "id" not in found[0]
    for row in found:
        assert row["timestamp"].isoformat() == source[row["reading_id"]][1]
        assert row["reading_date"] == row["timestamp"].date()


def test_raw(pipeline: Pipeline) -> None:
    """U22: raw readings are the time and a JSON text, with the values of the file; what is NULL is left out."""
    columns = [name for name, *_ in rows(pipeline.database, "SELECT name FROM pragma_table_info('sensor_readings')")]
    source = {row[0]: dict(zip(columns, row, strict=True)) for row in rows(pipeline.database)}
    found = pipeline.table("silver.sensor_readings_raw")

    assert len(found) == len(pipeline.table("bronze.sensor_readings"))
    assert found[0].keys() == {"timestamp", "reading_string"}
    for row in found:
        reading = json.loads(row["reading_string"])
        assert reading == {name: value for name, value in source[reading["id"]].items() if value is not None}
        assert row["timestamp"] == reading["timestamp"]


def test_secure(pipeline: Pipeline) -> None:
    """U22: sanitized readings are the valid ones with coordinates rounded to two decimals, and nothing else changed."""
    exact = {row["reading_id"]: row for row in pipeline.table("silver.sensor_readings")}
    found = pipeline.table("silver.sensor_readings_secure")

    assert len(found) == len(exact)
    for row in found:
        truth = exact[row["reading_id"]]
        assert row == {**truth, "latitude": round(truth["latitude"], 2), "longitude": round(truth["longitude"], 2)}


def test_hourly(pipeline: Pipeline) -> None:
    """U22: aggregated readings hold each channel's min, max and mean and the count, by hour, sensor and place."""
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in pipeline.table("silver.sensor_readings"):
        hour = row["timestamp"].replace(minute=0, second=0)
        groups[hour, row["sensor_id"], row["location"]].append(row)
    found = pipeline.table("gold.sensor_hourly")

    assert len(found) == len(groups) == 10 * 6
    for row in found:
        members = groups[row["start_window"], row["sensor_id"], row["location"]]
        assert row["end_window"] - row["start_window"] == timedelta(hours=1)
        assert row["reading_date"] == row["start_window"].date()
        assert row["reading_count"] == len(members)
        for channel in CHANNELS:
            values = [member[channel] for member in members]
            assert (row[f"{channel}_min"], row[f"{channel}_max"]) == (min(values), max(values))
            assert row[f"{channel}_avg"] == pytest.approx(statistics.fmean(values), abs=1e-6)


def test_alerts(pipeline: Pipeline) -> None:
    """U22: filtered readings tell which sensor, when and why; those with anomaly_flag = 1 are emergencies."""
    broken = {row["reading_id"]: row for row in pipeline.table("silver.sensor_readings_quarantine")}
    found = pipeline.table("gold.sensor_alerts")

    assert len(found) == len(broken)
    for row in found:
        cause = broken[row["reading_id"]]
        assert (row["sensor_id"], row["timestamp"]) == (cause["sensor_id"], cause["timestamp"])
        assert row["reasons"] == cause["_reasons"] != []
        assert row["severity"] == ("emergency" if cause["anomaly_flag"] == 1 else "warning")
        assert (row["anomaly_type"] is not None) == (row["severity"] == "emergency")


def test_texts_that_need_escapes(tmp_path: Path) -> None:
    """U22: raw readings stay JSON whatever a device writes into its texts."""
    pipeline = Pipeline(tmp_path)
    write_history(pipeline.database, start=START, hours=0.01, sensors=1, fault_rate=0, anomaly_rate=0)
    with closing(sqlite3.connect(pipeline.database)) as connection:
        connection.execute("""UPDATE sensor_readings SET model = 'a"b\\c' || char(10) || 'd', location = 'Zürich'""")
        connection.commit()
    pipeline.run()

    (row,) = pipeline.table("silver.sensor_readings_raw")
    reading = json.loads(row["reading_string"])
    assert (reading["model"], reading["location"]) == ('a"b\\c d', "Zürich")
