"""The shipped market in a real `dagster dev` beside a stand-in for a kdb+ process, driven as the UI drives it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.settings import PACKAGED_CATALOG
from lakehouse_assets.simulators.kdb import KdbServer
from lakehouse_assets.simulators.kdb_config import KdbConfig
from lakehouse_assets_tests.automation.dev_server import DevServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SENSOR = """mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
  __typename ... on Sensor { sensorState { status } } ... on PythonError { message } } }"""
TICKS = """query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) {
  ... on Sensor { sensorState { ticks(limit: 5) { status skipReason error { message } } } } } }"""
RUNS = """query ($key: String!, $value: String!) { runsOrError(filter: {tags: [{key: $key, value: $value}]}) {
  ... on Runs { results { runId status assetSelection { path } tags { key value } } } } }"""
BACKFILL = """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILLED = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
  __typename ... on PartitionBackfill { status } } }"""
DAYS = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetPartitionStatuses { ... on TimePartitionStatuses { ranges { startKey endKey status } } } } } }"""
WANTED = tuple(date(2018, 12, day) for day in (6, 7, 10, 11, 12))


@pytest.fixture
def kdb() -> Iterator[KdbServer]:
    """A stand-in that is not started, with a port of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = KdbServer(KdbConfig(port=port, dates=WANTED, rows=200))
    yield found
    found.stop()


@pytest.fixture
def server(tmp_path: Path, kdb: KdbServer) -> Iterator[DevServer]:
    """A server over the shipped catalog, with automation switched off; no kdb+ process is there yet."""
    environ = {
        "LAKEHOUSE_ROOT": str(tmp_path / "lake"),
        "LAKEHOUSE_CATALOG": str(PACKAGED_CATALOG),
        "LAKEHOUSE_KDB_PORT": str(kdb.port),
    }
    found = DevServer(tmp_path, environ)
    try:
        found.wait("the code location", found.loaded)
        yield found
    finally:
        found.stop()


def start(server: DevServer, *sensors: str) -> None:
    """Switch sensors on."""
    for name in sensors:
        begun = server.ask(SENSOR, selector=server.selector(sensorName=name))["startSensor"]
        assert begun["sensorState"]["status"] == "RUNNING", begun


def ticks(server: DevServer, sensor: str) -> list[dict[str, Any]]:
    """The last ticks of a sensor."""
    return list(server.ask(TICKS, selector=server.selector(sensorName=sensor))["sensorOrError"]["sensorState"]["ticks"])


def runs(server: DevServer, tag: str, value: str) -> list[dict[str, Any]]:
    """The runs with a tag."""
    return list(server.ask(RUNS, key=tag, value=value)["runsOrError"]["results"])


def made(server: DevServer, table: str) -> list[tuple[str, str]]:
    """The ranges of days that the UI shows as materialized."""
    node = server.ask(DAYS, key={"path": table.split(".")})["assetNodeOrError"]
    ranges = node["assetPartitionStatuses"]["ranges"]
    return [(one["startKey"], one["endKey"]) for one in ranges if one["status"] == "MATERIALIZED"]


def days_of(server: DevServer, table: str) -> set[str]:
    """The days that a table has rows of."""
    engine = EmbeddedEngine(Storage())
    handle = engine.find(str(server.base / "lake" / table.replace(".", "/")))
    rows = engine.rows(engine.query("SELECT DISTINCT date FROM t", {"t": engine.read(handle)})) if handle else []
    engine.close()
    return {str(row["date"]) for row in rows}


def version_of(server: DevServer, table: str) -> int:
    """The version of a table."""
    engine = EmbeddedEngine(Storage())
    handle = engine.find(str(server.base / "lake" / table.replace(".", "/")))
    engine.close()
    return handle.version if handle else -1


def test_a_backfill_over_ten_days_is_one_run(server: DevServer, kdb: KdbServer) -> None:
    """The button Backfill over ten days of extracts, bronze and silver: one run, and every day is materialized."""
    kdb.start()
    tables = ("extract.trade", "extract.quote", "bronze.trades", "bronze.quotes", "silver.trades_with_quotes")
    params = {
        "partitionNames": [f"2018-12-{day:02}" for day in range(4, 14)],
        "assetSelection": [{"path": table.split(".")} for table in tables],
        "tags": [],
    }
    launched = server.ask(BACKFILL, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def ended() -> str | None:
        status = str(server.ask(BACKFILLED, id=launched["backfillId"])["partitionBackfillOrError"]["status"])
        return status if status.startswith("COMPLETED") else None

    assert server.wait("the end of the backfill", ended) == "COMPLETED_SUCCESS"
    (run,) = runs(server, "dagster/backfill", launched["backfillId"])
    assert len(run["assetSelection"]) == len(tables)
    for table in tables:
        assert made(server, table) == [("2018-12-04", "2018-12-13")], table
    assert days_of(server, "silver.trades_with_quotes") == {str(day) for day in WANTED}


def test_the_market_runs_by_itself(server: DevServer, kdb: KdbServer) -> None:
    """Without a process it is told, and nothing is requested; with one, days flow to gold; so does a correction."""
    start(server, "partitions", "derived_tables")
    skipped = server.wait("a tick", lambda: [t for t in ticks(server, "partitions") if t["status"] == "SKIPPED"])
    assert "its source cannot be read (SourceUnreachable)" in skipped[0]["skipReason"]
    assert not runs(server, "dagster/sensor_name", "partitions")

    kdb.start()
    wanted = {str(day) for day in WANTED}
    server.wait("gold", lambda: days_of(server, "gold.trade_bars") == wanted, 150)
    requested = runs(server, "dagster/sensor_name", "partitions")
    assert sorted(run["assetSelection"][0]["path"][1] for run in requested) == ["quote", "trade"]
    server.wait("rest", lambda: version_of(server, "gold.execution_quality") >= 0)

    before = version_of(server, "gold.trade_bars")
    kdb.correct(WANTED[0], dropped=3)
    server.wait("the correction in gold", lambda: version_of(server, "gold.trade_bars") > before, 150)
    again = [run for run in runs(server, "dagster/sensor_name", "partitions") if run not in requested]
    assert {(tag["key"], tag["value"]) for run in again for tag in run["tags"]} >= {
        ("dagster/asset_partition_range_start", str(WANTED[0])),
        ("dagster/asset_partition_range_end", str(WANTED[0])),
    }
