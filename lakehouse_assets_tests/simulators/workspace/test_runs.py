"""Runs and jobs, without executing anything: what is refused, what befalls a run, how it is described."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lakehouse_assets.errors import SettingsError
from lakehouse_assets_tests.simulators.workspace.lab import (
    CLUSTER,
    STAGING,
    TASK,
    Lab,
    hollow,
    laboratory,
    libraries,
    until,
)
from lakehouse_assets_tests.simulators.workspace.test_environments import make_wheel

ON_CLUSTER = {**TASK, "new_cluster": CLUSTER}
SERVERLESS = {**TASK, "environment_key": "e"}


@pytest.mark.parametrize(
    ("kind", "life", "result"),
    [
        ("skipped", "SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED"),
        ("timedout", "TERMINATED", "TIMEDOUT"),
        ("library_failed", "INTERNAL_ERROR", "FAILED"),
        ("internal_error", "INTERNAL_ERROR", "FAILED"),
    ],
)
def test_what_befalls_a_run_before_it_starts(lab: Lab, kind: str, life: str, result: str) -> None:
    """The state is that of a real workspace; nothing is executed, and the next run is as ever."""
    lab.workspace.befall(kind)
    run = lab.submit(ON_CLUSTER)
    found = lab.client.jobs.get_run(run.run_id).state
    assert (found.life_cycle_state.value, found.result_state.value) == (life, result)
    assert found.state_message
    assert not run.tasks[0].directory.exists()
    assert lab.workspace.next_befall() is None


def test_a_blocked_run_waits_until_it_is_cancelled(lab: Lab) -> None:
    """BLOCKED, then CANCELED."""
    lab.workspace.befall("blocked")
    run = lab.start(ON_CLUSTER)
    until(lambda: run.state["life_cycle_state"] == "BLOCKED")
    lab.client.jobs.cancel_run(run.run_id)
    assert lab.ended(run).state["result_state"] == "CANCELED"
    assert run.state["user_cancelled_or_timedout"]


def test_a_blocked_run_times_out(lab: Lab) -> None:
    """BLOCKED, then TIMEDOUT after `timeout_seconds`."""
    lab.workspace.befall("blocked")
    assert lab.submit(ON_CLUSTER, timeout_seconds=0.2).state["result_state"] == "TIMEDOUT"


def test_another_process_says_what_befalls_a_run(lab: Lab) -> None:
    """Over HTTP; what cannot befall a run is refused with what can."""
    assert lab.ask("POST", "/simulator/befall", {"kind": "skipped"})[0] == 200
    assert lab.submit(ON_CLUSTER).state["life_cycle_state"] == "SKIPPED"
    with pytest.raises(SettingsError, match="dead_cluster"):
        lab.workspace.befall("dead_clutser")


def test_a_token_makes_a_submission_idempotent(lab: Lab) -> None:
    """The same token is the same run; another is another."""
    for _ in range(2):
        lab.workspace.befall("skipped")
    body = {"tasks": [ON_CLUSTER], "idempotency_token": "once"}
    first, again = (lab.ask("POST", "/api/2.2/jobs/runs/submit", body)[2] for _ in range(2))
    other = lab.ask("POST", "/api/2.2/jobs/runs/submit", {**body, "idempotency_token": "twice"})[2]
    assert first == again != other


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ({"task_key": "t", "new_cluster": CLUSTER}, "exactly one type of task"),
        ({"task_key": "t", "new_cluster": CLUSTER, "notebook_task": {}}, "not notebook_task"),
        (TASK, "exactly one of new_cluster"),
        ({**ON_CLUSTER, "existing_cluster_id": "1"}, "exactly one of new_cluster"),
        ({**TASK, "existing_cluster_id": "none"}, "Cluster none does not exist"),
        ({**TASK, "job_cluster_key": "none"}, "no job cluster none"),
        ({**SERVERLESS, "environment_key": "none"}, "environment none is not among"),
        ({**SERVERLESS, "libraries": libraries("click")}, "not supported on serverless"),
        ({**ON_CLUSTER, "libraries": [{"jar": "dbfs:/x.jar"}]}, "installs libraries of the kinds"),
        ({**ON_CLUSTER, "task_key": None}, "task_key"),
    ],
)
def test_an_impossible_task_is_refused(lab: Lab, task: dict, named: str) -> None:
    """400 with what is wrong; there is no run."""
    body = {"tasks": [task], "environments": [{"environment_key": "e", "spec": {"environment_version": "2"}}]}
    status, _, answer = lab.ask("POST", "/api/2.2/jobs/runs/submit", body)
    assert status == 400
    assert named in answer["message"]
    assert not lab.workspace.runs


@pytest.mark.parametrize("spec", [{}, {"environment_version": "9"}, {"client": "x"}])
def test_an_unknown_environment_version_is_refused(lab: Lab, spec: dict) -> None:
    """The legal ones are named."""
    body = {"tasks": [SERVERLESS], "environments": [{"environment_key": "e", "spec": spec}]}
    status, _, answer = lab.ask("POST", "/api/2.2/jobs/runs/submit", body)
    assert (status, "1, 2, 3, 4" in answer["message"]) == (400, True)


def test_a_run_without_tasks_is_refused(lab: Lab) -> None:
    """400."""
    assert lab.ask("POST", "/api/2.2/jobs/runs/submit", {})[0] == 400


@pytest.mark.parametrize("call", ["get_run", "get_run_output", "cancel_run"])
def test_an_unknown_run_is_named(lab: Lab, call: str) -> None:
    """By its number."""
    with pytest.raises(lab.errors.DatabricksError, match="Run 1 does not exist"):
        getattr(lab.client.jobs, call)(1)


def test_a_missing_library_fails_the_run(lab: Lab) -> None:
    """A declared library that cannot be had: INTERNAL_ERROR with what is installed, and no Spark was started."""
    run = lab.submit({**ON_CLUSTER, "libraries": libraries("click==0.0.1")})
    assert (run.state["life_cycle_state"], run.state["result_state"]) == ("INTERNAL_ERROR", "FAILED")
    assert run.state["state_message"].startswith("Task t failed with message: Library installation failed")
    assert "click==0.0.1 (from click==0.0.1) (installed on this machine: 8" in run.state["state_message"]
    assert not run.tasks[0].cluster.directory.exists()


def test_a_missing_wheel_fails_the_run(lab: Lab) -> None:
    """So does a file that is not there."""
    run = lab.submit({**ON_CLUSTER, "libraries": [{"whl": "/Volumes/main/ops/staging/a-1-py3-none-any.whl"}]})
    assert "there is no file a-1-py3-none-any.whl" in run.state["state_message"]


def test_another_python_is_believed(tmp_path: Path, sdk: None) -> None:
    """`python` of the options: a package that does not run on it is not installed."""
    with laboratory(tmp_path / "ws", runtimes=hollow(tmp_path / "runtime"), python="3.13") as lab:
        make_wheel(lab.workspace.path(STAGING), python="<3.13")
        run = lab.submit({**ON_CLUSTER, "libraries": [{"whl": f"{STAGING}/thing-1.0-py3-none-any.whl"}]})
        assert "requires a different Python: 3.13 not in '<3.13'" in run.state["state_message"]


def test_only_so_many_runs_are_executed_at_once(tmp_path: Path, sdk: None) -> None:
    """The others wait in their turn, and can be cancelled while they do."""
    with laboratory(tmp_path / "ws", runtimes=hollow(tmp_path / "runtime"), slots=1) as lab:
        held = lab.workspace.jobs.slot_of(threading.Event())
        with held:
            run = lab.start({**ON_CLUSTER, "libraries": libraries("no-such-package")})
            other = lab.start({**ON_CLUSTER, "libraries": libraries("no-such-package")})
            lab.client.jobs.cancel_run(other.run_id)
            assert lab.ended(other).state["result_state"] == "CANCELED"
            assert run.state["life_cycle_state"] == "PENDING"
        assert lab.ended(run).state["result_state"] == "FAILED"


def test_a_reference_to_a_missing_secret_fails_the_run(lab: Lab) -> None:
    """`{{secrets/..}}` in a cluster's variables is resolved where the cluster starts."""
    cluster = {**CLUSTER, "spark_env_vars": {"A": "{{secrets/scope/none}}"}}
    run = lab.submit({**TASK, "new_cluster": cluster})
    assert "Secret does not exist with scope: scope and key: none" in run.state["state_message"]


def test_runs_are_listed(lab: Lab) -> None:
    """The latest first; only those of a job, only those that are active."""
    for _ in range(2):
        lab.workspace.befall("skipped")
    first, second = lab.submit(ON_CLUSTER), lab.submit(ON_CLUSTER, run_name="second")
    assert [(one.run_id, one.run_name) for one in lab.client.jobs.list_runs()] == [
        (second.run_id, "second"),
        (first.run_id, "Untitled"),
    ]
    assert [one.run_id for one in lab.client.jobs.list_runs(job_id=first.job_id)] == [first.run_id]
    assert not list(lab.client.jobs.list_runs(active_only=True))


def test_a_job_is_kept_and_run(lab: Lab) -> None:
    """With the parameters of the run; only the tasks that are asked for."""
    work = {"python_file": TASK["spark_python_task"]["python_file"], "parameters": ["--day", "{{job.parameters.day}}"]}
    tasks = [{**ON_CLUSTER, "task_key": key, "spark_python_task": work} for key in ("a", "b")]
    job = lab.ask(
        "POST", "/api/2.2/jobs/create", {"name": "j", "tasks": tasks, "parameters": [{"name": "day", "default": "1"}]}
    )
    job_id = job[2]["job_id"]
    assert [one.job_id for one in lab.client.jobs.list(name="j")] == [job_id]
    assert lab.client.jobs.get(job_id).settings.name == "j"
    lab.workspace.befall("skipped")
    answer = lab.ask("POST", "/api/2.2/jobs/run-now", {"job_id": job_id, "job_parameters": {"day": "2"}, "only": ["b"]})
    run = lab.ended(lab.workspace.jobs.get(answer[2]["run_id"]))
    assert [(task.key, task.spec["spark_python_task"]["parameters"]) for task in run.tasks] == [("b", ["--day", "2"])]
    lab.client.jobs.delete(job_id)
    with pytest.raises(lab.errors.DatabricksError, match="does not exist"):
        lab.client.jobs.get(job_id)


def test_a_failed_task_fails_those_that_depend_on_it(lab: Lab) -> None:
    """UPSTREAM_FAILED, and the run names the task that failed."""
    first = {**ON_CLUSTER, "task_key": "first", "libraries": libraries("no-such-package")}
    second = {**ON_CLUSTER, "task_key": "second", "depends_on": [{"task_key": "first"}]}
    run = lab.submit(second, first)
    states = {task.key: task.state["result_state"] for task in run.tasks}
    assert states == {"first": "FAILED", "second": "UPSTREAM_FAILED"}
