"""A real `dagster dev`: daemon, code server and web server, driven through GraphQL as the UI drives them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets_tests.assets.house import CATALOG

REPOSITORY = Path(__file__).parents[2]
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
LAUNCH = """mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
RUNS = """query ($key: String!, $value: String!) { runsOrError(filter: {tags: [{key: $key, value: $value}]}) {
  ... on Runs { results { runId status assetSelection { path } } } } }"""
SENSOR = """mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
  __typename ... on Sensor { sensorState { status } } ... on PythonError { message } } }"""
SCHEDULE = """mutation ($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) {
  __typename ... on ScheduleStateResult { scheduleState { status } } ... on PythonError { message } } }"""


class Server:
    """`dagster dev` over the small project and a CSV file, in a group of processes of its own."""

    def __init__(self, base: Path) -> None:
        self.base, self.lake = base, base / "lake"
        self.database, self.places = base / "edge.db", base / "places.csv"
        self.sql("CREATE TABLE readings (id INTEGER PRIMARY KEY, at TEXT, sensor TEXT, temp REAL)")
        self.places.write_text("name,height\nTower,10.5\n")
        (base / "catalog").mkdir()
        (base / "catalog" / "house.yaml").write_text(CATALOG.replace('schedule: {cron: "5 * * * *"}', "") + MINUTELY)
        (base / "home").mkdir()
        shutil.copy(REPOSITORY / "dagster.yaml", base / "home")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = (base / "server.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(self.port)],
            cwd=REPOSITORY, env=self._environ(), stdout=self.log, stderr=self.log, start_new_session=True,
        )  # fmt: skip

    def _environ(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "DAGSTER_"))}
        clean.pop("PYTHONDONTWRITEBYTECODE", None)
        return clean | {
            "DAGSTER_HOME": str(self.base / "home"),
            "LAKEHOUSE_CATALOG": str(self.base / "catalog"),
            "LAKEHOUSE_ROOT": str(self.lake),
            "EDGE_DB": str(self.database),
            "PLACES_CSV": str(self.places),
        }

    def sql(self, statement: str) -> None:
        """Run a statement in the source's database."""
        with sqlite3.connect(self.database) as connection:
            connection.execute(statement)
        connection.close()

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data that the web server answers."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.load(answer)
        assert "errors" not in found, found
        return dict(found["data"])

    def wait(self, what: str, holds: Callable[[], Any], seconds: float = 90) -> Any:
        """What `holds` gives once it is true."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.process.poll() is None, self.said()
            try:
                if found := holds():
                    return found
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass  # not up yet
            time.sleep(0.3)
        pytest.fail(f"{what} did not happen within {seconds} s\n{self.said()}")

    def said(self) -> str:
        """The end of the server's log."""
        return (self.base / "server.log").read_text()[-5000:]

    def loaded(self) -> bool:
        """Whether the code location is there."""
        nodes = self.ask("{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }")
        return nodes["repositoriesOrError"].get("nodes") == [
            {"name": "__repository__", "location": {"name": "lakehouse"}}
        ]

    def selector(self, **more: str) -> dict[str, Any]:
        """How the UI names something of the code location."""
        return {"repositoryLocationName": "lakehouse", "repositoryName": "__repository__", **more}

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table; none if it is not there yet."""
        engine = EmbeddedEngine(Storage())
        handle = engine.find(str(self.lake / table.replace(".", "/")))
        found = engine.rows(engine.read(handle)) if handle else []
        engine.close()
        return found

    def stop(self) -> None:
        """End the server and everything it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


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
    selected = [{"path": table.split(".")} for table in tables]
    params = {"selector": server.selector(pipelineName="__ASSET_JOB", assetSelection=selected), "mode": "default"}
    launched = server.ask(LAUNCH, params=params)["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]
    ended = ("SUCCESS", "FAILURE", "CANCELED")
    status = server.wait(
        "the end of the run", lambda: (s := server.ask(RUN, id=run_id)["runOrError"]["status"]) in ended and s
    )
    assert status == "SUCCESS", server.said()


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
