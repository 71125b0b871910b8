"""Steps whose work goes to Databricks by Dagster Pipes: the choice, what is heard, and real runs.

The workspace of the runs is a stand-in for Databricks; Spark, Delta, the environments and the processes are real.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from deltalake import DeltaTable

from lakehouse_assets.databricks import pipes_main
from lakehouse_assets.databricks.pipes import Pipes
from lakehouse_assets.entities.catalog import load_catalog
from lakehouse_assets.errors import LaunchLost
from lakehouse_assets.settings import load_settings
from lakehouse_assets.simulators.workspace.server import Fault, Options, Workspace, serve
from lakehouse_assets_tests.conftest import ROOT, need_spark
from lakehouse_assets_tests.databricks.lab import EDGE, LAKE, VOLUME, Ended, Lab

RUNTIME = "15.4.x-scala2.12"
SERVERLESS = {"serverless": {"environment_version": "2"}}
PIPES = {"via": "pipes"}
SILVER = ["silver/readings", "silver/readings_quarantine"]


# the orchestrator's side


@pytest.mark.parametrize(
    ("version", "said", "runs"),
    [("1", "this serverless environment version is not supported", 0), ("3", "raise run_timeout", 1)],
    ids=["unsupported", "another Python"],
)
def test_where_work_may_be_sent(sdk: None, tmp_path: Path, version: str, said: str, runs: int) -> None:
    """Not to an unsupported runtime; to one with another Python it may, since no pickle travels; the run times out."""
    with serve(Options(directory=tmp_path / "ws", token="t")) as workspace:
        for volume in ("main.ops.staging", "main.lake.tables"):
            workspace.make_volume(volume)
        workspace.befall("timedout")
        project = Lab(tmp_path / "lab", workspace, {"serverless": {"environment_version": version}}, config=PIPES)
        ended = project.run("bronze/readings")
        assert said in ended.of("STEP_FAILURE")[0]["error"]
        assert len(workspace.runs) == runs


@pytest.mark.parametrize(("tag", "via"), [("local", "pipes"), ("databricks", "launcher")])
def test_other_steps_are_left_alone(tmp_path: Path, tag: str, via: str) -> None:
    """A run for this machine, and a configuration that sends whole steps."""
    file = tmp_path / "databricks.yaml"
    file.write_text(json.dumps({"via": via, "volume": VOLUME, "compute": SERVERLESS}))
    settings = load_settings(databricks=file)
    context: Any = SimpleNamespace(run=SimpleNamespace(tags={"lakehouse/target": tag}))
    assert Pipes(settings, load_catalog(settings.catalog, {}))(context) is None


def test_a_cluster_sends_nothing_further() -> None:
    """Where no configuration is named, a step is never asked for its tags."""
    settings = load_settings(target="databricks")
    context: Any = None
    assert Pipes(settings, load_catalog(settings.catalog, {}))(context) is None


def test_a_file_of_messages_that_is_cut_waits(sdk: None, tmp_path: Path) -> None:
    """Half a file is not taken for a whole one, wherever it ends; at the end of the run it is lost, and told."""
    from lakehouse_assets.databricks.pipes_client import MessageFiles

    heard: list[Any] = []
    handler: Any = SimpleNamespace(handle_message=heard.append, received_closed_message=False)
    file, whole = tmp_path / "1.json", b'{"n": 1}\n{"n": 2}' + pipes_main.END
    staging: Any = SimpleNamespace(
        on_cluster=str, get=lambda path: file.read_bytes() if path.endswith("/1.json") else None
    )
    reader = MessageFiles(staging, "place", pauses=(0.01,))
    with reader.read_messages(handler):
        for size in (0, 5, 8, 9, len(whole) - 1):
            file.write_bytes(whole[:size])
            reader.hand_on(final=False)
            assert heard == []
        with pytest.raises(LaunchLost, match="cut off"):
            reader.hand_on(final=True)
        file.write_bytes(whole)
        reader.hand_on(final=True)
        reader.hand_on(final=True)
    assert heard == [{"n": 1}, {"n": 2}]


# runs


@pytest.fixture(scope="module")
def workspace(sdk: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """One workspace for the module: its Spark takes seconds to start."""
    need_spark()
    with serve(Options(directory=tmp_path_factory.mktemp("workspace") / "ws", token="dapi-of-pipes")) as found:
        found.make_volume("main.ops.staging")
        found.make_volume("main.lake.tables")
        found.put_secret("edge", "api-key", "hunter2hunter2")
        yield found
        assert found.broken == []


@pytest.fixture
def lab(workspace: Workspace, tmp_path: Path) -> Callable[..., Lab]:
    """Makes a project with an empty lake of its own beside the workspace."""

    def make(compute: Mapping[str, Any] = SERVERLESS, **config: Any) -> Lab:
        lake = f"{LAKE}/{tmp_path.name}"
        found = Lab(tmp_path / "lab", workspace, compute, lake=lake, config={**PIPES, **config})
        found.insert(1, 25)
        return found

    return make


def rows(lab: Lab, table: str) -> list[dict[str, Any]]:
    """The rows of a table in the lab's lake, without what differs between places and times."""
    found = DeltaTable(str(lab.workspace.path(f"{lab.lake}/{table}"))).to_pyarrow_table().to_pylist()
    own = ("_ingested_at", "_source", "_upstream", "_quarantined_at")
    kept = [{name: value for name, value in row.items() if name not in own} for row in found]
    return sorted(kept, key=str)


def reported(ended: Ended) -> list[Any]:
    """The materializations and checks of a run, with their metadata."""
    kinds = ("ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION")
    keep = ("asset", "check", "passed", "metadata")
    return [{k: e[k] for k in keep if k in e} for kind in kinds for e in ended.of(kind)]


@pytest.fixture(scope="module")
def ran(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Ended, Ended, Lab, Ended]:
    """A run on serverless compute, one with nothing new, and the same run here."""
    base = tmp_path_factory.mktemp("success")
    config = {**PIPES, "secrets": {"KEY": {"scope": "edge", "key": "api-key"}}}
    here = Lab(base / "here", workspace, SERVERLESS, lake=f"{LAKE}/pipes-here")
    here.insert(1, 25)
    local = here.run(tags={})
    there = Lab(base / "there", workspace, SERVERLESS, lake=f"{LAKE}/pipes-there", config=config)
    there.insert(1, 25)
    first = there.run()
    assert first.status == "SUCCESS", first.text[-3000:]
    return there, first, there.run("silver/readings"), here, local


@pytest.mark.spark
class TestASuccess:
    """A pipeline on serverless compute, run once, and looked at from all sides."""

    def test_the_tables_are_those_of_a_local_run(self, ran: Any) -> None:
        """Bronze, silver and quarantine, row for row."""
        there, _, _, here, _ = ran
        for table in ("bronze/readings", *SILVER):
            assert rows(there, table) == rows(here, table)

    def test_checks_and_metadata_are_those_of_a_local_run(self, ran: Any) -> None:
        """The same checks with the same verdicts, and the same metadata on the same assets."""
        _, first, _, _, local = ran
        assert reported(first) == reported(local)
        assert len(first.of("ASSET_OBSERVATION")) == len(local.of("ASSET_OBSERVATION")) == 1

    def test_inputs_are_those_that_the_step_read(self, ran: Any) -> None:
        """The version of what was read, and the event of it, so that the asset turns stale when that moves."""
        _, first, *_ = ran
        made = {event["asset"]: event["tags"] for event in first.of("ASSET_MATERIALIZATION")}
        read = made["silver/readings"]
        assert read["dagster/input_data_version/bronze/readings"] == made["bronze/readings"]["dagster/data_version"]
        assert read["dagster/input_event_pointer/bronze/readings"].isdigit()

    def test_a_run_with_nothing_new_repeats_what_is_known(self, ran: Any) -> None:
        """What is known of earlier runs is sent along: the data keeps its version, a broken rule stays broken."""
        _, first, again, *_ = ran
        made = [
            {e["asset"]: e["tags"]["dagster/data_version"] for e in ended.of("ASSET_MATERIALIZATION")}
            for ended in (first, again)
        ]
        assert made[1].items() <= made[0].items()
        verdicts = [
            e["passed"] for ended in (first, again) for e in ended.of("ASSET_CHECK_EVALUATION") if e["check"] == "warm"
        ]
        assert verdicts == [False, False]
        assert any("nothing new" in line for line in again.logs)

    def test_the_staging_directory_is_empty_afterwards(self, ran: Any, workspace: Workspace) -> None:
        """What was staged is deleted when the step has succeeded."""
        assert [path for path in workspace.path(VOLUME).rglob("*") if path.is_file()] == []

    def test_a_log_line_appears_once(self, ran: Any) -> None:
        """And nothing arrives after the last word."""
        _, first, *_ = ran
        assert len([line for line in first.logs if "25 rows in" in line]) == 2
        assert not [line for line in first.logs if "unexpected message" in line or "did not receive" in line]

    def test_no_secret_leaves_its_place(self, ran: Any, workspace: Workspace) -> None:
        """Design §7.9: not in what was sent, the messages, the events, the tags or the output."""
        _, first, *_ = ran
        bodies = [request.body for request in workspace.requests]
        sent = b"".join(body if isinstance(body, bytes) else str(body).encode() for body in bodies)
        printed = b"".join(path.read_bytes() for path in workspace.path("/Workspace").parent.glob("runs/*/std*"))
        for secret in ("hunter2hunter2", "dapi-of-pipes"):
            assert secret.encode() not in sent + printed
            assert secret not in first.text + str(first.tags)

    def test_the_run_in_the_workspace_is_named(self, ran: Any) -> None:
        """The event log leads to the run on Databricks."""
        _, first, *_ = ran
        assert len([e for e in first.of("ENGINE_EVENT") if "Waiting for Databricks run" in e["message"]]) == 2


@pytest.fixture(scope="module")
def broken(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A run whose source lacks its table; what was staged for it is kept."""
    config = {**PIPES, "secrets": {"KEY": {"scope": "edge", "key": "api-key"}}}
    base = tmp_path_factory.mktemp("failure")
    project = Lab(base, workspace, SERVERLESS, lake=f"{LAKE}/pipes-broken", config=config)
    project.sql("ALTER TABLE readings RENAME TO elsewhere")
    return project.run("bronze/readings")


@pytest.mark.spark
def test_a_failure_has_the_remote_error_and_its_cause(broken: Ended, workspace: Workspace) -> None:
    """The step's failure is the remote one, with its cause; the run has failed, too, and is not tried again."""
    said = str(broken.of("STEP_FAILURE")[0]["error"])
    assert "OnCluster: SourceMissing: " in said
    assert "caused by the following exception" in said
    assert broken.of("STEP_UP_FOR_RETRY") == broken.of("ASSET_MATERIALIZATION") == []
    assert workspace.runs[-1].state["result_state"] == "FAILED"


@pytest.mark.spark
def test_no_secret_is_in_what_is_kept(broken: Ended, workspace: Workspace) -> None:
    """Design §7.9: not in the description of the step, nor in its messages, which stay for a while after a failure."""
    place = workspace.path(VOLUME) / f"{broken.run_id}.bronze__readings.0"
    kept = {path.name: path.read_bytes() for path in place.iterdir()}
    assert kept.keys() >= {"context.json", "code.zip", "1.json"}
    assert b"edge" in kept["context.json"]
    assert not [name for name, data in kept.items() if b"hunter2hunter2" in data or b"dapi-of-pipes" in data]


@pytest.mark.spark
def test_a_transient_failure_is_tried_again(lab: Callable[..., Lab], workspace: Workspace) -> None:
    """A source that is busy: the retry policy of the step holds, with a run in the workspace for each attempt."""
    project = lab()
    holder = sqlite3.connect(workspace.path(EDGE), isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    before = len(workspace.runs)
    freed = threading.Thread(target=lambda: (_wait_for(lambda: len(workspace.runs) > before + 1), holder.close()))
    freed.start()
    ended = project.run("bronze/readings")
    freed.join()
    assert ended.status == "SUCCESS"
    assert "SourceBusy" in ended.of("STEP_UP_FOR_RETRY")[0]["error"]
    assert [run.state["result_state"] for run in workspace.runs[-2:]] == ["FAILED", "SUCCESS"]


def _wait_for(it: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not it() and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.spark
def test_what_was_lost_is_tried_again(lab: Callable[..., Lab], workspace: Workspace) -> None:
    """A run that is skipped says nothing: the step is tried again; a cut file of messages on the way does no harm."""
    project = lab()
    workspace.befall("skipped")
    workspace.fail(Fault(method="GET", path=r"/fs/files/.*/1\.json", truncate=True, times=1))
    ended = project.run("bronze/readings")
    assert ended.status == "SUCCESS"
    assert "LaunchLost" in ended.of("STEP_UP_FOR_RETRY")[0]["error"]
    assert len(rows(project, "bronze/readings")) == 25


@pytest.mark.spark
def test_a_cancel_is_recorded_as_one(lab: Callable[..., Lab], workspace: Workspace) -> None:
    """The run on Databricks is cancelled, and Dagster's run as well: no success, no materialization."""
    project, before = lab(), len(workspace.runs)
    with project.started("bronze/readings") as process:
        _wait_for(lambda: len(workspace.runs) > before and workspace.runs[-1].state["life_cycle_state"] == "RUNNING")
        with dg.DagsterInstance.from_config(str(project.base / "home")) as instance:
            instance.report_run_canceling(instance.get_runs()[0])  # as the UI does
        os.kill(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    ended = Ended(json.loads(out.splitlines()[-1]))
    assert ended.status == "CANCELED", err
    assert "the step was interrupted" in ended.of("STEP_FAILURE")[0]["error"]
    assert ended.of("STEP_UP_FOR_RETRY") == ended.of("ASSET_MATERIALIZATION") == []
    _wait_for(lambda: "result_state" in workspace.runs[-1].state)
    assert workspace.runs[-1].state["result_state"] == "CANCELED"


@pytest.mark.spark
def test_the_wheel_on_a_cluster(lab: Callable[..., Lab], workspace: Workspace, wheel: Path) -> None:
    """An installed wheel is entered by its own command; classic compute takes the same volume."""
    target = workspace.path(f"{VOLUME}/{wheel.name}")
    target.write_bytes(wheel.read_bytes())
    compute = {"existing_cluster": workspace.add_cluster(spark_version=RUNTIME, data_security_mode="SINGLE_USER")}
    project = lab(compute, wheel=f"{VOLUME}/{wheel.name}")
    ended = project.run("bronze/readings")
    target.unlink()
    assert ended.status == "SUCCESS", ended.text[-3000:]
    assert workspace.runs[-1].body["tasks"][0]["python_wheel_task"]["parameters"][0] == "run"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel."""
    out = tmp_path_factory.mktemp("dist")
    uv = str(Path(sys.executable).parent / "uv")
    build = (uv, "build", "--quiet", "--wheel", "--python", sys.executable, "--out-dir", str(out))
    if subprocess.run([*build, "--offline"], cwd=ROOT, capture_output=True).returncode:
        subprocess.run(build, cwd=ROOT, check=True)
    return next(out.glob("*.whl"))
