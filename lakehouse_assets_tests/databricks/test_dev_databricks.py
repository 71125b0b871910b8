"""The shipped pipeline of sensors, launched in `dagster dev` by a run tag, against a run on this machine.

The workspace is a stand-in for Databricks; `dagster dev`, Spark, Delta and every process are real.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.catalog import load_catalog
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.settings import PACKAGED_CATALOG
from lakehouse_assets.simulators.sensors import write_history
from lakehouse_assets.simulators.workspace.server import Fault, Options, Workspace, serve
from lakehouse_assets_tests.automation.dev_server import DevServer
from lakehouse_assets_tests.conftest import need_spark

pytestmark = [pytest.mark.spark, pytest.mark.timeout(600)]
RUNTIME = "15.4.x-scala2.12"
EDGE, LAKES, STAGING = "/Volumes/main/lake/edge/sensors.db", "/Volumes/main/lake", "/Volumes/main/ops/staging"
TABLES = tuple(
    str(output)
    for table, feeds in load_catalog(PACKAGED_CATALOG, {}).destinations.items()
    if feeds[0].group == "sensors"
    for output in ([table, table.quarantine] if any(feed.is_quarantined for feed in feeds) else [table])
    if feeds[0].kind != "view"
)
"""Every table of the shipped sensors pipeline that a run writes."""
TIMES = ("_ingested_at", "_quarantined_at", "quarantined_at")


@pytest.fixture(scope="module")
def workspace(sdk: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with the readings of a few hours in a volume."""
    need_spark()
    with serve(Options(directory=tmp_path_factory.mktemp("workspace") / "ws", token="dapi-test")) as found:
        found.make_volume("main.ops.staging")
        found.make_volume("main.lake.edge")
        found.make_volume("main.lake.tables")
        write_history(found.path(EDGE), start=datetime(2026, 3, 1, tzinfo=UTC), hours=6, interval=300)
        yield found


@pytest.fixture(scope="module")
def server(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """`dagster dev` on the shipped catalog, whose lake here is a directory of the workspace's volume."""
    base = tmp_path_factory.mktemp("dev")
    environ = {
        "LAKEHOUSE_ROOT": str(workspace.path(f"{LAKES}/tables/local")),
        "LAKEHOUSE_SENSOR_DB": str(workspace.path(EDGE)),
        "LAKEHOUSE_DATABRICKS": str(base / "databricks.yaml"),
        "DATABRICKS_HOST": workspace.host,
        "DATABRICKS_TOKEN": workspace.token,
    }
    found = DevServer(base, environ)
    try:
        found.wait("the code location", found.loaded, 120)
        yield found
    finally:
        found.stop()


def configured(server: DevServer, name: str, compute: Mapping[str, Any], **more: Any) -> None:
    """Write the configuration of Databricks; steps read it when they are launched."""
    config = {
        "volume": STAGING, "root": f"{LAKES}/tables/{name}", "compute": dict(compute), "poll_seconds": 0.3,
        "env": {"LAKEHOUSE_SENSOR_DB": EDGE}, **more,
    }  # fmt: skip
    kept = {key: value for key, value in config.items() if value is not None}
    (server.base / "databricks.yaml").write_text(yaml.safe_dump(kept))


def tables(workspace: Workspace, name: str) -> dict[str, list[str]]:
    """Every row of every table of a lake, but the times at which they were written."""
    engine = EmbeddedEngine(Storage())
    found = {}
    for table in TABLES:
        handle = engine.find(str(workspace.path(f"{LAKES}/tables/{name}") / table.replace(".", "/")))
        assert handle is not None, table
        found[table] = sorted(repr(timeless(row)) for row in engine.rows(engine.read(handle)))
    engine.close()
    return found


def timeless(value: Any) -> Any:
    """A value without times of writing; floats to twelve digits, because the order of a sum decides about the last."""
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in TIMES}
    return float(f"{value:.12g}") if isinstance(value, float) else value


@pytest.fixture(scope="module")
def local(server: DevServer, workspace: Workspace) -> dict[str, list[str]]:
    """What a run on this machine makes."""
    assert server.ended(server.launch(*TABLES), 200) == "SUCCESS", server.said()
    return tables(workspace, "local")


@pytest.mark.parametrize("name", ["dbfs_dedicated", "volumes_dedicated", "volumes_serverless"])
def test_the_lake_is_that_of_a_local_run(
    server: DevServer, workspace: Workspace, local: dict[str, list[str]], name: str
) -> None:
    """The tag of the run sends every step there, by either transport, to either compute; every table is equal."""
    compute: dict[str, Any] = {"serverless": {"environment_version": "2"}}
    if name.endswith("dedicated"):
        compute = {"existing_cluster": workspace.add_cluster(spark_version=RUNTIME, data_security_mode="SINGLE_USER")}
    more = {"transport": "dbfs", "volume": None} if name.startswith("dbfs") else {}
    configured(server, name, compute, **more)
    run_id = server.launch(*TABLES, tags={"lakehouse/target": "databricks"})
    assert server.ended(run_id, 500) == "SUCCESS", server.said()
    assert tables(workspace, name) == local


def check_cancel(server: DevServer, workspace: Workspace, name: str, **more: Any) -> None:
    """Terminate a run as soon as it has begun in the workspace: both are cancelled, and neither has failed."""
    cluster = {"spark_version": RUNTIME, "num_workers": 1, "node_type_id": "m6gd.large"}
    configured(server, name, {"job_cluster": {**cluster, "data_security_mode": "SINGLE_USER"}}, **more)
    before = len(workspace.runs)
    run_id = server.launch("bronze.sensor_readings", tags={"lakehouse/target": "databricks"})
    server.wait("the run in the workspace", lambda: len(workspace.runs) > before, 120)
    server.terminate(run_id)
    assert server.ended(run_id) == "CANCELED"
    ended = server.wait("its end there", lambda: workspace.runs[-1].state.get("result_state"), 60)
    assert ended == "CANCELED"


def test_a_cancel_reaches_the_cluster(server: DevServer, workspace: Workspace) -> None:
    """Terminate in the UI cancels the run in the workspace, and the run here is cancelled, not failed."""
    check_cancel(server, workspace, "cancelled")


def test_a_cancel_while_permissions_are_set_reaches_the_cluster(server: DevServer, workspace: Workspace) -> None:
    """A request for permissions that takes long does not leave the run in the workspace behind."""
    workspace.fail(Fault(method="PATCH", path="/permissions/clusters/", delay=8))
    permissions = {"cluster": {"CAN_ATTACH_TO": [{"group_name": "analysts"}]}}
    check_cancel(server, workspace, "granted", permissions=permissions)
