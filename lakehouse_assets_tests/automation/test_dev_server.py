"""A real `dagster dev`: daemon, code server and web server, driven through GraphQL as the UI drives them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets_tests.assets.house import CATALOG
from lakehouse_assets_tests.automation.dev_server import DevServer

MINUTELY = """
  - entity_id: places
    source: ${PLACES_CSV}
    source_format: csv
    destination: bronze.places
    group: places
    read_options: {header: "true"}
    source_schema: name STRING, height DOUBLE
    lakehouse: {schedule: {cron: "* * * * *"}}
"""
RUNS = """query ($key: String!, $value: String!) { runsOrError(filter: {tags: [{key: $key, value: $value}]}) {
  ... on Runs { results { runId status assetSelection { path } } } } }"""
SENSOR = """mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
  __typename ... on Sensor { sensorState { status } } ... on PythonError { message } } }"""
SCHEDULE = """mutation ($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) {
  __typename ... on ScheduleStateResult { scheduleState { status } } ... on PythonError { message } } }"""


class Server(DevServer):
    """The small project and a CSV file."""

    def __init__(self, base: Path) -> None:
        self.lake = base / "lake"
        self.database, self.places = base / "edge.db", base / "places.csv"
        self.sql("CREATE TABLE readings (id INTEGER PRIMARY KEY, at TEXT, sensor TEXT, temp REAL)")
        self.places.write_text("name,height\nTower,10.5\n")
        (base / "catalog").mkdir()
        (base / "catalog" / "house.yaml").write_text(CATALOG.replace('schedule: {cron: "5 * * * *"}', "") + MINUTELY)
        environ = {
            "LAKEHOUSE_CATALOG": str(base / "catalog"),
            "LAKEHOUSE_ROOT": str(self.lake),
            "EDGE_DB": str(self.database),
            "PLACES_CSV": str(self.places),
        }
        super().__init__(base, environ)

    def sql(self, statement: str) -> None:
        """Run a statement in the source's database."""
        with sqlite3.connect(self.database) as connection:
            connection.execute(statement)
        connection.close()

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table; none if it is not there yet."""
        engine = EmbeddedEngine(Storage())
        handle = engine.find(str(self.lake / table.replace(".", "/")))
        found = engine.rows(engine.read(handle)) if handle else []
        engine.close()
        return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that is up, with automation switched off."""
    found = Server(tmp_path)
    try:
        found.wait("the code location", found.loaded)
        yield found
    finally:
        found.stop()


def materialize(server: Server, *tables: str) -> None:
    """What the button Materialize does, until the run has ended."""
    assert server.ended(server.launch(*tables)) == "SUCCESS", server.said()


@pytest.mark.slow
def test_the_graph_works_as_the_ui_drives_it(server: Server) -> None:
    """Clicking materialize, a sensor tick, a tick of the automation and a schedule tick each do their work."""
    started = server.ask(SCHEDULE, selector=server.selector(scheduleName="at_x_x_x_x_x"))["startSchedule"]
    assert started["scheduleState"]["status"] == "RUNNING", started

    server.sql("INSERT INTO readings (at, sensor, temp) VALUES ('2026-03-01T12:00:00Z', 'a', 10), ('x', 'b', 99)")
    materialize(server, "bronze.readings", "silver.readings", "silver.readings_quarantine")
    assert [row["sensor"] for row in server.rows("silver.readings")] == ["a"]
    assert [row["sensor"] for row in server.rows("silver.readings_quarantine")] == ["b"]
    assert server.rows("gold.tops") == []

    server.wait("the run of the schedule", lambda: [r["name"] for r in server.rows("bronze.places")] == ["Tower"])
    assert server.ask(RUNS, key="dagster/schedule_name", value="at_x_x_x_x_x")["runsOrError"]["results"]

    for name in ("derived_tables", "sources"):
        begun = server.ask(SENSOR, selector=server.selector(sensorName=name))["startSensor"]
        assert begun["sensorState"]["status"] == "RUNNING", begun
    server.sql("INSERT INTO readings (at, sensor, temp) VALUES ('2026-03-01T13:00:00Z', 'a', 20)")
    server.wait("the run of the source sensor", lambda: len(server.rows("bronze.readings")) == 3)
    runs = server.ask(RUNS, key="dagster/sensor_name", value="sources")["runsOrError"]["results"]
    assert [run["assetSelection"] for run in runs] == [[{"path": ["bronze", "readings"]}]]

    server.wait("the run of the automation", lambda: [r["top"] for r in server.rows("gold.tops")] == [20.0])
    assert server.ask(RUNS, key="dagster/sensor_name", value="derived_tables")["runsOrError"]["results"]
