"""Steps that a simulated workspace really runs: what comes back, and how each kind of failure ends.

The workspace is a stand-in for Databricks; Spark, Delta, the environments and the processes are real.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from lakehouse_assets.simulators.workspace.server import Fault, Options, Workspace, serve
from lakehouse_assets_tests.conftest import need_spark
from lakehouse_assets_tests.databricks.lab import EDGE, LAKE, VOLUME, Ended, Lab

pytestmark = [pytest.mark.spark, pytest.mark.timeout(240)]
RUNTIME = "15.4.x-scala2.12"
SERVERLESS = {"serverless": {"environment_version": "2"}}


@pytest.fixture(scope="module")
def workspace(sdk: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """One workspace for the module: its clusters take seconds to start."""
    need_spark()
    base = tmp_path_factory.mktemp("workspace")
    with serve(Options(directory=base / "ws", token="dapi-of-the-launcher")) as found:
        found.make_volume("main.ops.staging")
        found.make_volume("main.lake.tables")
        found.put_secret("edge", "api-key", "hunter2hunter2")
        yield found
        assert found.broken == []


@pytest.fixture(scope="module")
def cluster(workspace: Workspace) -> Mapping[str, Any]:
    """A dedicated cluster of the oldest runtime that keeps running."""
    return {"existing_cluster": workspace.add_cluster(spark_version=RUNTIME, data_security_mode="SINGLE_USER")}


@pytest.fixture
def lab(workspace: Workspace, cluster: Mapping[str, Any], tmp_path: Path) -> Callable[..., Lab]:
    """Makes a project with an empty lake of its own beside the workspace."""
    made = 0

    def make(compute: Mapping[str, Any] = cluster, **config: Any) -> Lab:
        nonlocal made
        made += 1
        found = Lab(tmp_path / f"lab{made}", workspace, compute, lake=f"{LAKE}/{tmp_path.name}-{made}", config=config)
        found.insert(1, 25)
        return found

    return make


def rows(lab: Lab, table: str) -> list[dict[str, Any]]:
    """The rows of a table in the lab's lake, without the time at which they came."""
    found = DeltaTable(str(lab.workspace.path(f"{lab.lake}/{table}"))).to_pyarrow_table().to_pylist()
    return sorted((timeless(row) for row in found), key=str)


def timeless(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the times at which it was written."""
    kept = {name: value for name, value in row.items() if name not in ("_ingested_at", "_quarantined_at")}
    return {name: timeless(value) if isinstance(value, dict) else value for name, value in kept.items()}


def failed(ended: Ended) -> str:
    """The error of the step that failed."""
    assert ended.status == "FAILURE"
    return str(ended.of("STEP_FAILURE")[0]["error"])


def states(workspace: Workspace, count: int) -> list[str | None]:
    """How the last runs of the workspace ended."""
    return [run.state.get("result_state") for run in workspace.runs[-count:]]


@pytest.fixture(scope="module")
def ran(workspace: Workspace, cluster: Mapping[str, Any], tmp_path_factory: Any) -> tuple[Lab, list[Ended]]:
    """Two batches on the cluster, and then a local run with nothing new."""
    base = tmp_path_factory.mktemp("success")
    lab = Lab(base, workspace, cluster, lake=f"{LAKE}/success", config={"secrets": {"KEY": _SECRET}})
    lab.insert(1, 25)
    first = lab.run()
    assert first.status == "SUCCESS", first.text[-3000:]
    lab.insert(26, 40)
    return lab, [first, lab.run("bronze/readings"), lab.run("silver/readings"), lab.run(tags={})]


class TestASuccess:
    """A pipeline that is launched, once, and looked at from all sides."""

    def test_the_tables_are_those_of_a_local_run(self, ran: Any, workspace: Workspace, tmp_path: Path) -> None:
        """Whole tables equal: bronze, silver and quarantine, written by Spark there and by embedded here."""
        lab, _ = ran
        here = Lab(tmp_path, workspace, lab.compute, lake=f"{LAKE}/here")
        here.insert(1, 25)
        here.run(tags={})
        here.insert(26, 40)
        assert here.run(tags={}).status == "SUCCESS"
        for table in ("bronze/readings", "silver/readings", "silver/readings_quarantine"):
            assert rows(lab, table) == rows(here, table)

    def test_checks_and_metadata_are_those_of_a_local_run(self, ran: Any, workspace: Workspace, tmp_path: Path) -> None:
        """The same checks with the same verdicts, and the same metadata on the same assets."""
        lab, (first, *_) = ran
        here = Lab(tmp_path, workspace, lab.compute, lake=f"{LAKE}/checks")
        here.insert(1, 25)
        local = here.run(tags={})

        def told(ended: Ended) -> list[Any]:
            kinds = ("ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION")
            keep = ("asset", "check", "passed", "metadata")
            return [{k: e[k] for k in keep if k in e} for kind in kinds for e in ended.of(kind)]

        assert told(first) == told(local)

    def test_inputs_are_those_that_the_step_read(self, ran: Any) -> None:
        """The version of what was read, and the event of it, are the orchestrator's; not INITIAL and NULL."""
        _, (first, *_) = ran
        made = {event["asset"]: event["tags"] for event in first.of("ASSET_MATERIALIZATION")}
        read = made["silver/readings"]
        assert read["dagster/input_data_version/bronze/readings"] == made["bronze/readings"]["dagster/data_version"]
        assert read["dagster/input_event_pointer/bronze/readings"].isdigit()

    def test_a_launched_asset_turns_stale_when_its_upstream_moves(self, ran: Any) -> None:
        """As a local one does; and is fresh again after its own run."""
        _, (first, upstream, downstream, _) = ran
        assert [ended.stale["silver/readings"] for ended in (first, upstream, downstream)] == [
            "FRESH",
            "STALE",
            "FRESH",
        ]

    def test_a_run_with_nothing_new_keeps_the_version_of_the_data(self, ran: Any) -> None:
        """What is known of earlier runs travels with the step: both targets count one history."""
        _, (_, upstream, downstream, again) = ran
        before = {
            e["asset"]: e["tags"]["dagster/data_version"]
            for r in (upstream, downstream)
            for e in r.of("ASSET_MATERIALIZATION")
        }
        after = {e["asset"]: e["tags"]["dagster/data_version"] for e in again.of("ASSET_MATERIALIZATION")}
        assert before == after

    def test_a_check_names_the_materialization_that_it_judged(self, ran: Any) -> None:
        """The target of a check is an event of this instance and this run."""
        _, (first, *_) = ran
        assert all(first.run_id in event["target"] for event in first.of("ASSET_CHECK_EVALUATION"))

    def test_the_staging_directory_is_empty_afterwards(self, ran: Any, workspace: Workspace) -> None:
        """What was staged is deleted when the step has succeeded."""
        staged = [path for path in workspace.path(VOLUME).rglob("*") if path.is_file()]
        assert staged == []

    def test_a_log_line_appears_once(self, ran: Any) -> None:
        """No copy of the output of the cluster is added to the events."""
        _, (first, *_) = ran
        lines = [line for line in first.logs if "25 rows in" in line]
        assert len(lines) == 2
        assert not [line for line in first.logs if "Captured std" in line]

    def test_no_secret_leaves_its_place(self, ran: Any, workspace: Workspace) -> None:
        """Design §7.9: not in what was staged, the requests, the events, the tags or the output."""
        _, (first, *_) = ran
        sent = b"".join(
            request.body if isinstance(request.body, bytes) else repr(request.body).encode()
            for request in workspace.requests
        )
        printed = b"".join(path.read_bytes() for path in workspace.path("/Workspace").parent.glob("runs/*/std*"))
        for secret in (b"hunter2hunter2", b"dapi-of-the-launcher"):
            assert secret not in sent
            assert secret not in printed
            assert secret.decode() not in first.text + str(first.tags)

    def test_the_run_in_the_workspace_is_named(self, ran: Any) -> None:
        """The event log leads to the run on Databricks."""
        _, (first, *_) = ran
        assert [event for event in first.of("ENGINE_EVENT") if "Waiting for Databricks run" in event["message"]]


_SECRET = {"scope": "edge", "key": "api-key"}


def test_serverless_runs_the_same(lab: Callable[..., Lab]) -> None:
    """Serverless compute has no SparkContext and no DBFS: Spark Connect and a volume are enough."""
    project = lab(SERVERLESS)
    assert project.run().status == "SUCCESS"
    assert len(rows(project, "silver/readings")) == 23


def test_a_cluster_for_each_step_with_permissions(lab: Callable[..., Lab], workspace: Workspace) -> None:
    """A job cluster lives as long as its step; run and cluster get the permissions, the cluster the tags."""
    new = {
        "spark_version": RUNTIME,
        "node_type_id": "m6gd.large",
        "num_workers": 1,
        "data_security_mode": "SINGLE_USER",
    }
    who = [{"group_name": "analysts"}]
    project = lab(
        {"job_cluster": new},
        permissions={"run": {"CAN_VIEW": who}, "cluster": {"CAN_ATTACH_TO": who}},
        tags={"team": "edge"},
    )
    assert project.run("bronze/readings").status == "SUCCESS"
    run = workspace.runs[-1]
    assert run.body["access_control_list"] == [{"group_name": "analysts", "permission_level": "CAN_VIEW"}]
    assert run.body["tasks"][0]["new_cluster"]["custom_tags"] == {"team": "edge"}
    assert [
        r for r in workspace.requests if r.method == "PATCH" and "/permissions/clusters/" in r.path and r.status == 200
    ]


def test_the_dbfs_root_of_old_workspaces(lab: Callable[..., Lab], workspace: Workspace) -> None:
    """The other transport: files through the DBFS API, read by the step under /dbfs; nothing of them stays."""
    project = lab(transport="dbfs", volume=None)
    assert project.run("bronze/readings").status == "SUCCESS"
    assert [path for path in workspace.path("dbfs:/lakehouse_staging").rglob("*") if path.is_file()] == []


def test_a_failure_has_the_remote_error_and_its_cause(lab: Callable[..., Lab], workspace: Workspace) -> None:
    """The step's failure is the remote exception; the run in the workspace has failed, too, and is not tried again."""
    project = lab()
    project.sql("ALTER TABLE readings RENAME TO elsewhere")
    said = failed(project.run("bronze/readings"))
    assert "SourceMissing" in said
    assert "caused by the following exception" in said
    assert states(workspace, 1) == ["FAILED"]
    assert "readings" in str(workspace.runs[-1].tasks[0].failure)


def test_a_transient_failure_is_tried_again(lab: Callable[..., Lab], workspace: Workspace) -> None:
    """A source that is busy: the retry policy of the step holds, with a run in the workspace for each attempt."""
    project = lab()
    holder = sqlite3.connect(workspace.path(EDGE), isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    before = len(workspace.runs)
    ended = _while(lambda: len(workspace.runs) > before + 1, holder.close, lambda: project.run("bronze/readings"))
    assert ended.status == "SUCCESS"
    assert len(ended.of("STEP_UP_FOR_RETRY")) >= 1
    assert states(workspace, 2) == ["FAILED", "SUCCESS"]


def _while(until: Callable[[], bool], then: Callable[[], None], work: Callable[[], Any]) -> Any:
    """Do `work`; beside it, wait for `until` and do `then`."""
    import threading

    def watch() -> None:
        deadline = time.monotonic() + 120
        while not until() and time.monotonic() < deadline:
            time.sleep(0.1)
        then()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return work()
    finally:
        watcher.join()


@pytest.mark.parametrize("fate", ["dead_cluster", "skipped", "evicted"])
def test_what_was_lost_is_tried_again(lab: Callable[..., Lab], workspace: Workspace, fate: str) -> None:
    """A cluster that dies, a run that is skipped or evicted: the step is tried again, and the rows are there once."""
    project = lab()
    workspace.befall(fate)
    ended = project.run("bronze/readings")
    assert ended.status == "SUCCESS", ended.text[-2000:]
    assert "the step is tried again as its retry policy says" in ended.of("STEP_UP_FOR_RETRY")[0]["error"]
    assert len(rows(project, "bronze/readings")) == 25


@pytest.mark.parametrize(
    ("fate", "said"), [("timedout", "raise run_timeout"), ("library_failed", "no matching distribution")]
)
def test_what_would_fail_again_is_not_tried_again(
    lab: Callable[..., Lab], workspace: Workspace, fate: str, said: str
) -> None:
    """A run that timed out, or whose libraries do not install, ends the step at once and says what to do."""
    workspace.befall(fate)
    ended = lab().run("bronze/readings")
    assert said in failed(ended)
    assert ended.of("STEP_UP_FOR_RETRY") == []


def test_a_library_that_does_not_exist(lab: Callable[..., Lab]) -> None:
    """The message names the package."""
    project = lab(SERVERLESS, libraries=["no-such-package==1.0"])
    assert "no-such-package" in failed(project.run("bronze/readings"))


def test_a_bad_secret_stops_before_any_work(lab: Callable[..., Lab]) -> None:
    """The message names scope and key, and the command that mends it; no table is made."""
    project = lab(secrets={"KEY": {"scope": "edge", "key": "gone"}})
    said = failed(project.run("bronze/readings"))
    assert "the secret edge/gone for KEY cannot be read" in said
    assert "databricks secrets put-secret edge gone" in said
    assert not workspace_has(project, "bronze/readings")


def workspace_has(lab: Lab, table: str) -> bool:
    """Whether the lab's lake has a table."""
    return lab.workspace.path(f"{lab.lake}/{table}/_delta_log").exists()


@pytest.mark.parametrize(
    ("path", "status", "times"),
    [
        (r"/jobs/runs/get$", 503, 2),
        (r"/jobs/runs/get$", 429, 2),
        (r"/jobs/runs/submit", 429, 1),
        (r"/fs/files/.*events", 503, 2),
    ],
    ids=["get 503", "get 429", "submit 429", "events 503"],
)
def test_a_busy_workspace_is_waited_for(
    lab: Callable[..., Lab], workspace: Workspace, path: str, status: int, times: int
) -> None:
    """429 and 503 are asked again; one step, one run, no second attempt."""
    project, before = lab(), len(workspace.runs)
    workspace.fail(Fault(path=path, status=status, times=times, retry_after=1))
    ended = project.run("bronze/readings")
    assert (ended.status, ended.of("STEP_UP_FOR_RETRY")) == ("SUCCESS", [])
    assert len(workspace.runs) == before + 1


def test_a_file_of_events_that_is_cut_is_read_again(lab: Callable[..., Lab], workspace: Workspace) -> None:
    """Half a file is not taken for the whole one."""
    project = lab()
    workspace.fail(Fault(method="GET", path=r"/fs/files/.*events", truncate=True, times=2))
    ended = project.run("bronze/readings")
    assert ended.status == "SUCCESS"
    assert len(ended.of("STEP_START")) == 1


def test_files_of_failed_steps_are_swept(lab: Callable[..., Lab], workspace: Workspace) -> None:
    """They are kept for a while, and deleted by a later launch; what is young, or not ours, stays."""
    workspace.befall("timedout")
    assert lab().run("bronze/readings").status == "FAILURE"
    volume = workspace.path(VOLUME)
    failed_step = next(path for path in volume.iterdir() if ".bronze__readings." in path.name)
    others = [volume / "not-ours", volume / "temp" / "a-colleagues", volume / "temp" / "readings"]
    spilled, young = volume / "temp" / "lakehouse-spark-old", volume / "temp" / "lakehouse-spark-young"
    for path in (*others, spilled, young):
        path.mkdir(parents=True, exist_ok=True)
    for path in (*others, spilled, failed_step):
        os.utime(path, (time.time() - 3 * 86_400,) * 2)
    assert lab(keep_failed_hours=0).run("bronze/readings").status == "SUCCESS"
    assert not failed_step.exists()
    assert not spilled.exists()
    assert all(path.exists() for path in (*others, young))


def test_another_python_is_refused_on_the_cluster(sdk: None, lab: Callable[..., Lab], tmp_path: Path) -> None:
    """A cluster that says it runs another Python (a stand-in) refuses the step before anything is unpickled."""
    with serve(Options(directory=tmp_path / "ws", token="t", python="3.12")) as other:
        other.make_volume("main.ops.staging")
        other.make_volume("main.lake.tables")
        compute = {"existing_cluster": other.add_cluster(spark_version=RUNTIME, data_security_mode="SINGLE_USER")}
        said = failed(Lab(tmp_path / "lab", other, compute).run("bronze/readings"))
    assert "packed by Python 3.11, and this cluster runs Python 3.12" in said


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        (
            {"job_cluster": {"spark_version": "16.4.x-scala2.12", "num_workers": 1}},
            "has Python 3.12 and this is Python 3.11",
        ),
        (
            {"job_cluster": {"spark_version": "12.2.x-scala2.12", "num_workers": 1}},
            "this Databricks Runtime is not supported",
        ),
        ({"serverless": {"environment_version": "4"}}, "has Python 3.12 and this is Python 3.11"),
        ({"job_cluster": {"spark_version": RUNTIME, "nodes": 1}}, "unknown keys nodes"),
        ({"existing_cluster": "gone"}, "databricks clusters list"),
    ],
    ids=["python", "runtime", "environment", "key", "cluster"],
)
def test_compute_that_cannot_work_is_refused_before_anything_is_sent(
    lab: Callable[..., Lab], workspace: Workspace, compute: Mapping[str, Any], said: str
) -> None:
    """The runtime's Python, an unsupported runtime, an unknown key, a cluster that is gone: no run is submitted."""
    before = len(workspace.runs)
    assert said in failed(lab(compute).run("bronze/readings"))
    assert len(workspace.runs) == before


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"volume": "/Volumes/main/ops/gone"}, "create the volume"),
        ({"transport": "dbfs", "volume": None}, "a workspace without DBFS root needs `transport: volumes`"),
    ],
    ids=["volume", "dbfs"],
)
def test_a_staging_place_that_is_not_there(sdk: None, tmp_path: Path, config: dict[str, Any], said: str) -> None:
    """A missing volume, or a workspace without DBFS root, is told with what to do."""
    with serve(Options(directory=tmp_path / "ws", token="t", dbfs=False)) as bare:
        bare.make_volume("main.lake.tables")
        compute = {"existing_cluster": bare.add_cluster(spark_version=RUNTIME, data_security_mode="SINGLE_USER")}
        assert said in failed(Lab(tmp_path / "lab", bare, compute, config=config).run("bronze/readings"))


def test_a_wrong_token_is_told(lab: Callable[..., Lab]) -> None:
    """The message says where the token is taken from."""
    project = lab()
    project.environ = {"DATABRICKS_TOKEN": "dapi-wrong"}
    assert "lakehouse doctor --target databricks" in failed(project.run("bronze/readings"))
