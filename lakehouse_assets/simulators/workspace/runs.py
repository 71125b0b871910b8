"""Runs and jobs of the simulated workspace: taken, queued, and brought to their end.

What belongs here: the life of a run from the request to its final state. What does not: what a run is (`records.py`),
executing a task (`tasks.py`).
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lakehouse_assets.simulators.workspace import tasks
from lakehouse_assets.simulators.workspace.api import bad
from lakehouse_assets.simulators.workspace.clusters import Cluster, tail
from lakehouse_assets.simulators.workspace.faults import AT_ONCE
from lakehouse_assets.simulators.workspace.libraries import check_libraries, python_of_serverless
from lakehouse_assets.simulators.workspace.records import Run, TaskRun, now, state

if TYPE_CHECKING:
    from lakehouse_assets.simulators.workspace.server import Workspace

KINDS = (
    "spark_python_task", "python_wheel_task", "notebook_task", "spark_jar_task", "spark_submit_task", "sql_task",
    "dbt_task", "run_job_task", "pipeline_task", "condition_task", "for_each_task",
)  # fmt: skip
EXECUTED = KINDS[:2]
PLACES = ("new_cluster", "existing_cluster_id", "job_cluster_key", "environment_key")
LOG_BYTES = 5 << 20


class Runs:
    """All runs and jobs of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._runs: dict[int, Run] = {}
        self._jobs: dict[int, dict[str, Any]] = {}
        self._tokens: dict[tuple[int, str], int] = {}
        self._slots = threading.Semaphore(workspace.options.slots)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def submit(self, body: Mapping[str, Any], user: str) -> Run:
        """Take a one-time run; the same idempotency token gives the same run."""
        return self._take(body, user, self._workspace.next_id(), "SUBMIT_RUN", 0)

    def _take(self, body: Mapping[str, Any], user: str, job_id: int, kind: str, scope: int) -> Run:
        with self._lock:
            token = str(body.get("idempotency_token") or "")
            if token and (scope, token) in self._tokens:
                return self._runs[self._tokens[scope, token]]
            run = self._make(body, user, job_id, kind)
            run.befallen = self._workspace.next_befall()
            self._runs[run.run_id] = run
            if token:
                self._tokens[scope, token] = run.run_id
            thread = threading.Thread(target=self._execute, args=(run,), daemon=True, name=f"run-{run.run_id}")
            self._threads.append(thread)
        thread.start()
        return run

    def _make(self, body: Mapping[str, Any], user: str, job_id: int, kind: str) -> Run:
        if not body.get("tasks"):
            raise bad("Missing required field: tasks")
        run_id = self._workspace.next_id()
        page = f"{self._workspace.host}/?o=0#job/{job_id}/run/{run_id}"
        places = _Places(self._workspace, body)
        for spec in body["tasks"]:
            places.check(spec)
        found = [places.task(spec) for spec in body["tasks"]]
        return Run(run_id, job_id, body, user, page, found, self._workspace.permissions_of("jobs", job_id), kind=kind)

    def _execute(self, run: Run) -> None:
        try:
            run.begin()
            if run.befallen and run.befallen[0] in AT_ONCE:
                self._befall(run, run.befallen[0])
                return
            with self.slot_of(run.cancelled):
                run.begin()
                for task in _in_order(run.tasks):
                    upstream = [one for one in run.tasks if one.key in _upstream(task)]
                    if any(one.state.get("result_state") != "SUCCESS" for one in upstream):
                        task.finish("SKIPPED", "UPSTREAM_FAILED", "An upstream task failed.")
                    else:
                        tasks.execute(self._workspace, run, task)
        finally:
            for task in run.tasks:
                if task.cluster.source == "JOB":
                    task.cluster.retire()
            if not run.ended:
                run.settle()

    def _befall(self, run: Run, kind: str) -> None:
        life, result, message = AT_ONCE[kind]
        if life == "BLOCKED":
            run.state = state(life, message=message)
            left = run.deadline - time.monotonic()
            cancelled = run.cancelled.wait(None if left == float("inf") else left)
            life, result = "TERMINATED", "CANCELED" if cancelled else "TIMEDOUT"
            message = tasks.CANCELLED if cancelled else tasks.TIMED_OUT
        for task in run.tasks:
            task.finish(life, result, message)

    @contextlib.contextmanager
    def slot_of(self, cancelled: threading.Event) -> Iterator[None]:
        """One of the workspace's slots, or none where the wait for one was cancelled."""
        while not self._slots.acquire(timeout=0.05):
            if cancelled.is_set():
                yield  # each task finds that it was cancelled
                return
        try:
            yield
        finally:
            self._slots.release()

    def get(self, run_id: int) -> Run:
        """A run by its id, or by that of one of its tasks."""
        for run in self.all():
            if run_id == run.run_id or any(task.run_id == run_id for task in run.tasks):
                return run
        raise bad(f"Run {run_id} does not exist.")

    def all(self) -> list[Run]:
        """Every run, in the order of their submission."""
        return list(self._runs.values())

    def output(self, run_id: int) -> dict[str, Any]:
        """What a task printed, and what it failed with."""
        run = self.get(run_id)
        if run_id == run.run_id and len(run.tasks) > 1:
            raise bad("Retrieving the output of runs with multiple tasks is not supported: ask for each task's run.")
        task = next((one for one in run.tasks if one.run_id == run_id), run.tasks[0])
        size = task.stdout.stat().st_size if task.stdout.exists() else 0
        logs = {"logs": tail(task.stdout, LOG_BYTES), "logs_truncated": size > LOG_BYTES}
        return {"metadata": task.describe(), **logs, **task.failure}

    def create_job(self, settings: dict[str, Any], user: str) -> int:
        """Keep a job."""
        if not settings.get("tasks"):
            raise bad("Missing required field: tasks")
        places = _Places(self._workspace, settings)
        for spec in settings["tasks"]:
            places.check(spec)
        job_id = self._workspace.next_id()
        self._jobs[job_id] = {
            "job_id": job_id, "settings": settings, "creator_user_name": user, "created_time": now()
        }  # fmt: skip
        return job_id

    def job(self, job_id: int) -> dict[str, Any]:
        """A job by its id."""
        if job_id not in self._jobs:
            raise bad(f"Job {job_id} does not exist.")
        return self._jobs[job_id]

    def jobs(self) -> list[dict[str, Any]]:
        """Every job."""
        return list(self._jobs.values())

    def delete_job(self, job_id: int) -> None:
        """Forget a job."""
        self.job(job_id)
        del self._jobs[job_id]

    def run_now(self, body: Mapping[str, Any], user: str) -> Run:
        """Run a job, with the parameters of this run."""
        job_id = int(body["job_id"])
        settings = dict(self.job(job_id)["settings"])
        values = {one["name"]: str(one.get("default", "")) for one in settings.get("parameters") or ()}
        values |= {name: str(value) for name, value in (body.get("job_parameters") or {}).items()}
        only = body.get("only")
        specs = [spec for spec in settings["tasks"] if not only or spec["task_key"] in only]
        settings["tasks"] = [_with_parameters(spec, values, body.get("python_params")) for spec in specs]
        settings["idempotency_token"] = body.get("idempotency_token")
        return self._take(settings, user, job_id, "JOB_RUN", job_id)

    def knows_job(self, job_id: int) -> bool:
        """Whether there is such a job, or a run that was given that number."""
        return job_id in self._jobs or any(run.job_id == job_id for run in self.all())

    def close(self) -> None:
        """Cancel every run, and wait for its end."""
        for run in self.all():
            run.cancelled.set()
        for thread in self._threads:
            thread.join(timeout=10)


class _Places:
    """Where the tasks of one run are executed: job clusters are made once a run."""

    def __init__(self, workspace: Workspace, body: Mapping[str, Any]) -> None:
        self._workspace = workspace
        self._environments = {one["environment_key"]: one.get("spec") or {} for one in body.get("environments") or ()}
        self._shared = {one["job_cluster_key"]: one["new_cluster"] for one in body.get("job_clusters") or ()}
        self._made: dict[str, Cluster] = {}

    def check(self, spec: Mapping[str, Any]) -> None:
        """Refuse a task that cannot be executed here, or not at all."""
        key = spec.get("task_key")
        if not key:
            raise bad("Missing required field: task_key")
        kinds = [kind for kind in KINDS if kind in spec]
        if len(kinds) != 1:
            raise bad(f"Task {key} must have exactly one type of task: it has {kinds or 'none'}")
        if kinds[0] not in EXECUTED:
            raise bad(f"Task {key}: the simulator executes {' and '.join(EXECUTED)}, not {kinds[0]}")
        places = [place for place in PLACES if spec.get(place)]
        if len(places) != 1:
            raise bad(f"Task {key} must have exactly one of {', '.join(PLACES)}: it has {places or 'none'}")
        check_libraries(spec.get("libraries") or ())
        if places[0] == "environment_key":
            if spec["environment_key"] not in self._environments:
                raise bad(f"Task {key}: environment {spec['environment_key']} is not among the environments of the run")
            if spec.get("libraries"):
                raise bad(f"Task {key}: libraries are not supported on serverless compute: use the environment")
            python_of_serverless(self._environments[spec["environment_key"]])
        if places[0] == "job_cluster_key" and spec["job_cluster_key"] not in self._shared:
            raise bad(f"Task {key}: there is no job cluster {spec['job_cluster_key']}")

    def task(self, spec: Mapping[str, Any]) -> TaskRun:
        """The task, on its cluster."""
        run_id = self._workspace.next_id()
        directory = self._workspace.directory / "runs" / str(run_id)
        environment = self._environments.get(spec.get("environment_key"), {})
        return TaskRun(run_id, spec, self._cluster(spec), directory, environment)

    def _cluster(self, spec: Mapping[str, Any]) -> Cluster:
        clusters = self._workspace.clusters
        if "new_cluster" in spec:
            return clusters.create(spec["new_cluster"], "JOB")
        if spec.get("existing_cluster_id"):
            return clusters.get(str(spec["existing_cluster_id"]))
        if key := spec.get("job_cluster_key"):
            if key not in self._made:
                self._made[key] = clusters.create(self._shared[key], "JOB")
            return self._made[key]
        return clusters.serverless()


def _upstream(task: TaskRun) -> set[str]:
    return {str(one["task_key"]) for one in task.spec.get("depends_on") or ()}


def _in_order(all_tasks: Sequence[TaskRun]) -> Iterator[TaskRun]:
    """Each task after those that it depends on; one at a time."""
    done: set[str] = set()
    waiting = list(all_tasks)
    while waiting:
        task = next((one for one in waiting if _upstream(one) <= done), waiting[0])
        waiting.remove(task)
        done.add(task.key)
        yield task


def _with_parameters(spec: Mapping[str, Any], values: Mapping[str, str], given: Sequence[str] | None) -> dict[str, Any]:
    """A task of a job with `{{job.parameters.NAME}}` replaced, or with the parameters of this run."""
    kind = next(kind for kind in KINDS if kind in spec)

    def filled(text: str) -> str:
        return re.sub(r"\{\{job\.parameters\.([^}]+)\}\}", lambda match: values.get(match[1].strip(), match[0]), text)

    work = dict(spec[kind])
    if "parameters" in work or given:
        work["parameters"] = [filled(text) for text in given or work["parameters"]]
    if "named_parameters" in work:
        work["named_parameters"] = {name: filled(text) for name, text in work["named_parameters"].items()}
    return {**spec, kind: work}
