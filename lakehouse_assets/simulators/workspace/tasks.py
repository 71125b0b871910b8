"""Executing one task: its environment, its cluster's Spark, a process of its own, and what became of it.

What belongs here: from a task that is due to its final state. What does not: runs and their states (`runs.py`,
`records.py`), what the process does (`driver.py`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lakehouse_assets.simulators.workspace.api import ApiError
from lakehouse_assets.simulators.workspace.clusters import (
    StartFailed,
    base_environment,
    tail,
    write_private,
)
from lakehouse_assets.simulators.workspace.environments import LibraryFailed
from lakehouse_assets.simulators.workspace.faults import KILLING
from lakehouse_assets.simulators.workspace.libraries import declared, python_of_serverless
from lakehouse_assets.simulators.workspace.records import Run, TaskRun, state

if TYPE_CHECKING:
    from lakehouse_assets.simulators.workspace.server import Workspace

CANCELLED = "Run cancelled."
TIMED_OUT = "Run timed out."
FAILED = "Workload failed, see run output for details"
DRIVER_LOST = (
    "The spark driver has stopped unexpectedly and is restarting. Your notebook will be automatically reattached"
)
_TICK = 0.02
_T = TypeVar("_T")


def _begin(make: Callable[[], _T]) -> Future[_T]:
    """Make something in a thread of its own."""
    future: Future[_T] = Future()

    def call() -> None:
        try:
            future.set_result(make())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


class _Ended(Exception):
    """The task has to end now: how."""

    def __init__(self, *end: str) -> None:
        super().__init__(*end)
        self.end = end


def execute(workspace: Workspace, run: Run, task: TaskRun) -> None:
    """Execute a task; it is in a final state afterwards, whatever happens."""
    work = _Work(workspace, run, task)
    try:
        work.do()
    except _Ended as ended:
        task.finish(*ended.end)
    except (LibraryFailed, StartFailed, ApiError) as error:
        task.failure = {"error": str(error)}
        task.finish("INTERNAL_ERROR", "FAILED", str(error))
    except Exception as error:  # a fault of the simulator's own ends the run, visibly
        workspace.broken.append(repr(error))
        task.failure = {"error": f"the simulator failed: {error!r}"}
        task.finish("INTERNAL_ERROR", "FAILED", f"the simulator failed: {error!r}")


class _Work:
    """One execution."""

    def __init__(self, workspace: Workspace, run: Run, task: TaskRun) -> None:
        self.workspace, self.run, self.task = workspace, run, task
        self.begun = time.monotonic()
        self.session = str(uuid.UUID(int=task.run_id))
        self.deadline = min(run.deadline, self.begun + float(task.spec.get("timeout_seconds") or "inf"))

    def do(self) -> None:
        """Prepare the task, run it, say how it ended."""
        self._look()
        (self.task.directory / "tmp").mkdir(parents=True)
        python = self._unless_ended(self._environment)
        variables = self._unless_ended(lambda: self.task.cluster.environment(self.session))
        self.task.setup_duration = int(1000 * (time.monotonic() - self.begun))
        token = self.workspace.issue_token(self.run.user)
        process = self._start(python, variables, token)
        try:
            code = self._wait(process)
        finally:
            self.workspace.revoke_token(token)
            self._end(process)
        self._judge(code)

    def _look(self) -> None:
        """Raise `_Ended` if the run was cancelled or has timed out."""
        if self.run.cancelled.is_set():
            raise _Ended("TERMINATED", "CANCELED", CANCELLED)
        if time.monotonic() > self.deadline:
            raise _Ended("TERMINATED", "TIMEDOUT", TIMED_OUT)

    def _unless_ended(self, make: Callable[[], _T]) -> _T:
        """What `make` gives, without waiting for it once the run has to end."""
        future = _begin(make)
        while not future.done():
            self._look()
            time.sleep(_TICK)
        return future.result()

    def _reported(self) -> str:
        """The Python that the task is told it runs on."""
        if self.workspace.options.python:
            return self.workspace.options.python
        if self.task.cluster.serverless:
            return python_of_serverless(self.task.environment)
        return self.task.cluster.runtime.python

    def _environment(self) -> Path:
        cluster, libraries = self.task.cluster, self.task.libraries
        if not cluster.serverless:
            libraries = cluster.install(libraries)
        requirements, wheels = declared(self.workspace, libraries)
        return self.workspace.environments.make(cluster.runtime, self._reported(), requirements, wheels)

    def _start(self, python: Path, spark: dict[str, str], token: str) -> subprocess.Popen[bytes]:
        task, processes = self.task, self.workspace.processes
        spec = task.directory / "task.json"
        write_private(spec, {**self._program(), **self._surroundings(token)})
        version = task.cluster.runtime.name.partition(".x")[0]
        if task.cluster.serverless:
            version = f"client.{task.environment.get('environment_version') or task.environment.get('client')}.0"
        environment = {
            **base_environment(python, task.directory),
            "DATABRICKS_RUNTIME_VERSION": version,
            "DB_RUN_ID": self.session,
            **({} if task.cluster.serverless else {"DB_CLUSTER_ID": task.cluster.cluster_id}),
            **spark,
            **task.cluster.variables(),
        }
        command = [str(python), str(processes.scripts / "driver.py"), str(spec)]
        process = processes.start(command, environment, task.directory, tops=task.cluster.tops)
        task.state = state("RUNNING", message="In run")
        self.run.started()
        return process

    def _surroundings(self, token: str) -> dict[str, Any]:
        return {
            "host": self.workspace.host,
            "token": token,
            "connect": self.task.cluster.connect,
            "python": [int(part) for part in self._reported().split(".")],
            "failure": str(self.task.directory / "failure.json"),
            "alive": self.workspace.processes.alive,
        }

    def _program(self) -> dict[str, Any]:
        if work := self.task.spec.get("python_wheel_task"):
            named = [f"--{name}={value}" for name, value in (work.get("named_parameters") or {}).items()]
            given = [*(work.get("parameters") or ()), *named]
            return {"package": work["package_name"], "entry_point": work["entry_point"], "arguments": given}
        work = self.task.spec["spark_python_task"]
        name = str(work["python_file"])
        file = self.workspace.path(name)
        if not file.is_file():
            message = f"Cannot read the python file {name}. Please check driver logs for more details."
            self.task.failure = {"error": message}
            raise _Ended("INTERNAL_ERROR", "FAILED", message)
        path = [] if name.startswith("dbfs:") else [str(Path(name).parent)]
        return {"file": str(file), "name": name, "arguments": work.get("parameters") or [], "path": path}

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        started = time.monotonic()
        kind, after = self.run.befallen or ("", 0.0)
        try:
            while process.poll() is None:
                self._look()
                if kind in KILLING and time.monotonic() - started >= after:
                    self._kill_cluster(process, kind)
                time.sleep(_TICK)
        finally:
            self.task.execution_duration = int(1000 * (time.monotonic() - started))
        return process.returncode

    def _kill_cluster(self, process: subprocess.Popen[bytes], kind: str) -> None:
        code, message = KILLING[kind]
        self.workspace.processes.end(process, kill=True)
        self.task.cluster.stop(code)
        raise _Ended("INTERNAL_ERROR", "FAILED", message.format(cluster=self.task.cluster.cluster_id))

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """End what is left of the task: its children, its Spark jobs; deliver its logs."""
        gracefully = process.poll() is None
        self.workspace.processes.end(process, kill=not gracefully)
        if gracefully or process.returncode < 0 or self.task.cluster.connect:
            self.task.cluster.forget(self.session)
        for place in (self.task.cluster.spec.get("cluster_log_conf") or {}).values():
            target = self.workspace.path(str(place["destination"])) / self.task.cluster.cluster_id / "driver"
            target.mkdir(parents=True, exist_ok=True)
            for log in (self.task.stdout, self.task.stderr):
                shutil.copy(log, target / log.name)

    def _judge(self, code: int) -> None:
        if code == 0:
            self.task.finish("TERMINATED", "SUCCESS", "")
            return
        failure = self.task.directory / "failure.json"
        if failure.exists():
            self.task.failure = json.loads(failure.read_text())
            self.task.finish("TERMINATED", "FAILED", FAILED)
            return
        how = f"the driver ended with signal {-code}" if code < 0 else f"the driver ended with exit code {code}"
        message = f"{DRIVER_LOST}." if code < 0 else FAILED
        self.task.failure = {"error": f"{message.rstrip('.')} ({how})", "error_trace": tail(self.task.stderr)}
        self.task.finish("TERMINATED", "FAILED", message)
