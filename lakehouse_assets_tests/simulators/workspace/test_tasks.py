"""Tasks that are really executed, on warm clusters: what a program finds there, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.simulators.workspace.records import Run
from lakehouse_assets_tests.simulators.workspace.lab import (
    CLUSTER,
    STAGING,
    VOLUME,
    Lab,
    libraries,
    processes_of,
    until,
)
from lakehouse_assets_tests.simulators.workspace.test_environments import make_wheel

pytestmark = pytest.mark.spark
TABLE = f"{STAGING}/lake/t"
PROBE = """
    import importlib.util, json, os, sys

    def read(path):
        try:
            return open(path).read()
        except OSError as error:
            return type(error).__name__

    found = {
        "names": [name for name in ("spark", "sc", "dbutils", "display", "__file__") if name in globals()],
        "argv": sys.argv,
        "python": list(sys.version_info[:2]),
        "environ": dict(os.environ),
        "modules": [m for m in ("pandas", "deltalake", "click", "lakehouse_assets", "pytest") if importlib.util.find_spec(m)],
        "checkout": os.listdir(CHECKOUT) if os.path.exists(CHECKOUT) else [],
        "tops": [top for top in ("/dbfs", "/Volumes", "/Workspace") if os.path.isdir(top)],
        "fuse": read("/Volumes/main/ops/staging/probe.txt"),
        "secret": dbutils.secrets.get("scope", "key"),
        "session": type(spark).__module__,
        "version": spark.version,
    }
    spark.range(3).write.format("delta").mode("overwrite").save(TABLE)
    spark.range(2).write.mode("overwrite").json(OTHER)
    found["rows"] = spark.read.format("delta").load(TABLE).count()
    import deltalake
    found["delta-rs"] = deltalake.DeltaTable(TABLE).to_pyarrow_table().num_rows
    deltalake.write_deltalake(TABLE, deltalake.DeltaTable(TABLE).to_pyarrow_table(), mode="append")
    found["both"] = spark.read.format("delta").load("dbfs:" + TABLE).count()
    found["other"] = spark.read.json(OTHER).count()
    if "sc" in globals():
        found["conf"] = dict(sc.getConf().getAll())
        found["active"] = type(spark).getActiveSession() is spark
    from databricks.sdk import WorkspaceClient
    found["me"] = WorkspaceClient().current_user.me().user_name
    from pyspark.sql import SparkSession
    found["same"] = SparkSession.builder.getOrCreate() is spark
    print(json.dumps(found))
"""


def probed(lab: Lab, task: Mapping[str, Any], other: str, **body: Any) -> dict[str, Any]:
    """What a program finds on a cluster."""
    from lakehouse_assets_tests.conftest import ROOT

    lab.workspace.path(f"{STAGING}/probe.txt").write_text("seen")
    head = f"    CHECKOUT, TABLE, OTHER = {str(ROOT)!r}, {f'{TABLE}-{other[:3]}'!r}, {other!r}\n"
    run = lab.run(head + PROBE, "--day", "1", task=task, **body)
    assert run.state["result_state"] == "SUCCESS", run.tasks[0].failure
    return json.loads(lab.client.jobs.get_run_output(run.run_id).logs.splitlines()[-1])


@pytest.fixture(scope="module")
def classic(warm: Lab, cluster: str) -> dict[str, Any]:
    """What a program finds on a dedicated cluster."""
    os.environ["LAB_SHELL"] = "of the developer"
    try:
        task = {"existing_cluster_id": cluster, "libraries": libraries("deltalake")}
        return probed(warm, task, "dbfs:/other")
    finally:
        del os.environ["LAB_SHELL"]


@pytest.fixture(scope="module")
def serverless(warm: Lab) -> dict[str, Any]:
    """What a program finds on serverless compute."""
    spec = {"environment_version": "2", "dependencies": ["deltalake"]}
    environments = [{"environment_key": "e", "spec": spec}]
    return probed(warm, {"environment_key": "e"}, f"{STAGING}/other", environments=environments)


def test_a_dedicated_cluster_has_spark_sc_and_dbutils(classic: dict[str, Any]) -> None:
    """As globals, with an active session that `getOrCreate` gives again, and no `__file__`."""
    assert classic["names"] == ["spark", "sc", "dbutils", "display"]
    assert (classic["active"], classic["same"]) == (True, True)
    assert classic["argv"][1:] == ["--day", "1"]


def test_nothing_of_the_developers_machine_is_there(classic: dict[str, Any], warm: Lab) -> None:
    """No variable of the shell, no checkout, only declared packages; a home of its own."""
    assert "LAB_SHELL" not in classic["environ"]
    assert classic["environ"]["HOME"].startswith(str(warm.workspace.directory))
    assert classic["checkout"] == []
    assert classic["modules"] == ["pandas", "deltalake"]


def test_the_files_of_the_workspace_are_there(classic: dict[str, Any]) -> None:
    """Python sees them below /dbfs, /Volumes and /Workspace."""
    assert classic["tops"] == ["/dbfs", "/Volumes", "/Workspace"]
    assert classic["fuse"] == "seen"


def test_spark_and_delta_rs_share_tables(classic: dict[str, Any], warm: Lab) -> None:
    """One path means one table to both, and to whoever arranged the workspace; `dbfs:/` is DBFS."""
    assert [classic[name] for name in ("rows", "delta-rs", "both", "other")] == [3, 3, 6, 2]
    assert (warm.workspace.path(f"{TABLE}-dbf") / "_delta_log").is_dir()
    assert warm.workspace.path("dbfs:/other/_SUCCESS").exists()


def test_secrets_reach_a_task(classic: dict[str, Any]) -> None:
    """Over dbutils, and where the cluster's settings refer to them."""
    assert classic["secret"] == "nobody-may-see-this"
    assert classic["environ"]["LAB_SECRET"] == "nobody-may-see-this"
    assert classic["environ"]["LAB_PLAIN"] == "plain"
    assert classic["conf"]["spark.lab.secret"] == "nobody-may-see-this"


def test_a_task_knows_where_it_runs(classic: dict[str, Any], cluster: str) -> None:
    """The variables and settings of a cluster that clients look at; the SDK needs no credentials."""
    assert (classic["environ"]["DATABRICKS_RUNTIME_VERSION"], classic["version"]) == ("4.2", "4.2.0")
    assert classic["environ"]["DB_CLUSTER_ID"] == cluster
    usage = "spark.databricks.clusterUsageTags"
    assert classic["conf"][f"{usage}.clusterId"] == cluster
    assert classic["conf"][f"{usage}.clusterLogDestination"] == "dbfs:/logs"
    assert classic["me"] == "tester@example.com"


def test_logs_are_delivered(classic: dict[str, Any], warm: Lab, cluster: str) -> None:
    """Where `cluster_log_conf` says."""
    assert "DB_CLUSTER_ID" in warm.workspace.path(f"dbfs:/logs/{cluster}/driver/stdout").read_text()


def test_serverless_speaks_spark_connect(serverless: dict[str, Any]) -> None:
    """There is no `sc` and no /dbfs; tables are shared all the same."""
    assert serverless["names"] == ["spark", "dbutils", "display"]
    assert serverless["session"].startswith("pyspark.sql.connect")
    assert serverless["tops"] == ["/Volumes", "/Workspace"]
    assert [serverless[name] for name in ("rows", "delta-rs", "both", "other")] == [3, 3, 6, 2]
    assert serverless["same"]


@pytest.mark.parametrize(("environment", "python"), [("2", (3, 11)), ("4", (3, 12))])
def test_the_python_of_an_environment_version_is_reported(warm: Lab, environment: str, python: tuple) -> None:
    """Version 2 has Python 3.11 and version 4 has 3.12, whatever runs here."""
    code = "import os, sys; print(sys.version_info[:2], sys.version.split()[0][:4], os.environ['DATABRICKS_RUNTIME_VERSION'])"
    environments = [{"environment_key": "e", "spec": {"environment_version": environment}}]
    run = warm.run(code, task={"environment_key": "e"}, environments=environments)
    said = f"{python} {python[0]}.{python[1]} client.{environment}.0\n"
    assert run.tasks[0].stdout.read_text() == said, run.tasks[0].failure


def test_standard_access_mode_has_no_sc(warm: Lab) -> None:
    """It is Spark Connect, and sees no /dbfs: decided where the cluster is made."""
    cluster = warm.workspace.clusters.get(
        warm.workspace.add_cluster(spark_version="4.2", data_security_mode="USER_ISOLATION")
    )
    assert cluster.connect
    assert "dbfs" not in cluster.tops


def test_a_failing_program_fails_its_run(warm: Lab, cluster: str) -> None:
    """The states and words of a real workspace; the error, its trace and what was printed are in the output."""
    run = warm.run("print('before')\nraise ValueError('no good')", task={"existing_cluster_id": cluster})
    found = warm.client.jobs.get_run(run.run_id)
    message = "Task t failed with message: Workload failed, see run output for details."
    assert (found.state.life_cycle_state.value, found.state.result_state.value) == ("INTERNAL_ERROR", "FAILED")
    assert found.state.state_message == message
    assert found.tasks[0].state.life_cycle_state.value == "TERMINATED"
    output = warm.client.jobs.get_run_output(run.run_id)
    assert output.error == "ValueError: no good"
    assert f'File "{STAGING}/task.py", line 2' in output.error_trace
    assert output.logs == "before\n"


def test_a_program_may_exit_well(warm: Lab, cluster: str) -> None:
    """`sys.exit(0)` is success, another code a failure; nothing that it started is left."""
    code = """
        import subprocess, sys
        subprocess.Popen(["sleep", "600.25"])
        sys.exit(int(sys.argv[1]))
    """
    states = [warm.run(code, n, task={"existing_cluster_id": cluster}).state["result_state"] for n in ("0", "3")]
    assert states == ["SUCCESS", "FAILED"]
    assert not processes_of(Path("600.25"))


WAITING = """
    import signal, subprocess, sys, time
    from pyspark.sql.functions import udf
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "600.5"])
    print("waits", flush=True)
    spark.range(1).select(udf(lambda _: time.sleep(600))("id")).collect()
"""


@pytest.fixture(params=["classic", "serverless"])
def waiting(request: pytest.FixtureRequest, warm: Lab, cluster: str) -> Run:
    """A run whose program waits for a Spark job that does not end, and minds no SIGTERM."""
    where, body = {"existing_cluster_id": cluster}, {}
    if request.param == "serverless":
        spec = {"environment_version": "2"}
        where, body = {"environment_key": "e"}, {"environments": [{"environment_key": "e", "spec": spec}]}
    work = {"python_file": warm.script(WAITING)}
    run = warm.start({"task_key": "t", "spark_python_task": work, **where}, **body)
    until(lambda: run.ended or (run.tasks[0].stdout.exists() and run.tasks[0].stdout.read_text()))
    assert not run.ended, run.tasks[0].failure
    time.sleep(1)
    return run


def test_a_cancelled_run_ends_with_all_of_it(warm: Lab, waiting: Run) -> None:
    """CANCELED; a program that ignores SIGTERM is killed with its children, and its Spark job is stopped."""
    log = waiting.tasks[0].cluster.directory / "stderr"
    seen = len(log.read_text())
    warm.client.jobs.cancel_run(waiting.run_id)
    warm.ended(waiting)
    assert (waiting.state["result_state"], waiting.state["state_message"]) == ("CANCELED", "Run cancelled.")
    assert not processes_of(Path("600.5"))
    until(lambda: "SPARK_JOB_CANCELLED" in log.read_text()[seen:], 10)


def test_a_run_times_out(warm: Lab, cluster: str) -> None:
    """TIMEDOUT after its `timeout_seconds`."""
    run = warm.run("import time; time.sleep(600)", task={"existing_cluster_id": cluster}, timeout_seconds=1)
    assert run.state["result_state"] == "TIMEDOUT"
    assert run.tasks[0].execution_duration < 10_000


def test_a_wheel_task_calls_its_entry_point(warm: Lab, cluster: str, tmp_path: Path) -> None:
    """By its name in the package's metadata, with its parameters; the wheel comes from a volume."""
    shutil.copy(make_wheel(tmp_path), warm.workspace.path(STAGING))
    work = {"package_name": "thing", "entry_point": "start", "parameters": ["a"], "named_parameters": {"b": "c"}}
    libs = [{"whl": f"{STAGING}/thing-1.0-py3-none-any.whl"}]
    run = warm.submit({"task_key": "t", "python_wheel_task": work, "existing_cluster_id": cluster, "libraries": libs})
    assert run.tasks[0].stdout.read_text() == "called with ['a', '--b=c']\n", run.tasks[0].failure


def test_a_file_that_is_not_there(warm: Lab, cluster: str) -> None:
    """The run names it."""
    work = {"python_file": f"/Volumes/{VOLUME.replace('.', '/')}/none.py"}
    run = warm.submit({"task_key": "t", "spark_python_task": work, "existing_cluster_id": cluster})
    assert "Cannot read the python file /Volumes/main/ops/staging/none.py" in run.state["state_message"]


def test_a_cluster_dies_under_a_run(warm: Lab) -> None:
    """The run says which cluster and why; of a job cluster nothing is left, not even while a program waits for it."""
    warm.workspace.befall("dead_cluster", after=0.5)
    run = warm.run("import time; time.sleep(600)", task={"new_cluster": CLUSTER})
    cluster = run.tasks[0].cluster
    assert (run.state["life_cycle_state"], run.state["result_state"]) == ("INTERNAL_ERROR", "FAILED")
    assert f"Cluster '{cluster.cluster_id}' was terminated. Reason: DRIVER_UNREACHABLE" in run.state["state_message"]
    found = warm.client.clusters.get(cluster.cluster_id)
    assert (found.state.value, found.termination_reason.code.value) == ("TERMINATED", "DRIVER_UNREACHABLE")
    until(lambda: not processes_of(cluster.directory), 5)


def test_the_oldest_runtime(oldest: Lab) -> None:
    """A job cluster with Spark 3.5 executes a task and writes a Delta table; it lives as long as its run."""
    code = """
        spark.range(3).write.format("delta").mode("overwrite").save("/Volumes/main/ops/staging/lake/old")
        print(spark.version, spark.read.format("delta").load("/Volumes/main/ops/staging/lake/old").count(), sc.version)
    """
    run = oldest.run(code, task={"new_cluster": {**CLUSTER, "spark_version": "15.4.x-scala2.12"}})
    assert run.tasks[0].stdout.read_text() == "3.5.0 3 3.5.0\n", run.tasks[0].failure
    until(lambda: not processes_of(run.tasks[0].cluster.directory), 5)
