"""Runs and their tasks as records: in which state they are, and what the API says of them.

What belongs here: a run and a task as data. What does not: taking a run and its order of tasks (`runs.py`), executing a
task (`tasks.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lakehouse_assets.simulators.workspace.clusters import Cluster
from lakehouse_assets.simulators.workspace.libraries import of_serverless

State = dict[str, Any]


def now() -> int:
    """Milliseconds, as the API counts time."""
    return int(time.time() * 1000)


def state(life: str, result: str | None = None, message: str = "") -> State:
    """A state as the API says it."""
    ended = {"result_state": result} if result else {}
    by_others = result in ("CANCELED", "TIMEDOUT")
    return {"life_cycle_state": life, **ended, "state_message": message, "user_cancelled_or_timedout": by_others}


@dataclass
class TaskRun:
    """One task of a run.

    Attributes:
        spec: as it was submitted.
        environment: the spec of its serverless environment.
        directory: where it works and logs.
    """

    run_id: int
    spec: Mapping[str, Any]
    cluster: Cluster
    directory: Path
    environment: Mapping[str, Any] = field(default_factory=dict)
    state: State = field(default_factory=lambda: state("PENDING"))
    start_time: int = field(default_factory=now)
    end_time: int = 0
    setup_duration: int = 0
    execution_duration: int = 0
    failure: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name in the run."""
        return str(self.spec["task_key"])

    @property
    def stdout(self) -> Path:
        """What it printed."""
        return self.directory / "stdout"

    @property
    def stderr(self) -> Path:
        """What it complained of."""
        return self.directory / "stderr"

    @property
    def libraries(self) -> Sequence[Mapping[str, Any]]:
        """What it declares."""
        if self.cluster.serverless:
            return of_serverless(self.environment.get("dependencies") or ())
        return self.spec.get("libraries") or ()

    def finish(self, life: str, result: str | None, message: str) -> None:
        """Put it into its final state."""
        self.state, self.end_time = state(life, result, message), now()

    def describe(self) -> dict[str, Any]:
        """As the API says it."""
        cluster = {} if self.cluster.serverless else {"cluster_instance": {"cluster_id": self.cluster.cluster_id}}
        return {
            **self.spec,
            **cluster,
            "run_id": self.run_id,
            "state": self.state,
            "attempt_number": 0,
            "start_time": self.start_time,
            "end_time": self.end_time,
            "setup_duration": self.setup_duration,
            "execution_duration": self.execution_duration,
            "cleanup_duration": 0,
        }


@dataclass
class Run:
    """One run: of a job, or submitted once.

    Attributes:
        body: as it was submitted.
        permissions: who may do what with it.
        befallen: what befalls it, and how many seconds after its task has started.
        deadline: when it times out, on the monotonic clock.
    """

    run_id: int
    job_id: int
    body: Mapping[str, Any]
    user: str
    page: str
    tasks: list[TaskRun]
    permissions: list[dict[str, Any]]
    befallen: tuple[str, float] | None = None
    kind: str = "SUBMIT_RUN"
    state: State = field(default_factory=lambda: state("PENDING"))
    start_time: int = field(default_factory=now)
    end_time: int = 0
    deadline: float = float("inf")
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def ended(self) -> bool:
        """Whether its state is final."""
        return self.state["life_cycle_state"] in ("TERMINATED", "INTERNAL_ERROR", "SKIPPED")

    def begin(self) -> None:
        """Its time runs from now on."""
        self.deadline = time.monotonic() + float(self.body.get("timeout_seconds") or "inf")

    def started(self) -> None:
        """The first of its tasks runs."""
        if not self.ended:
            self.state = state("RUNNING", message="In run")

    def settle(self) -> None:
        """Put it into the final state that its tasks amount to."""
        self.end_time = now()
        failed = next((task for task in self.tasks if task.state.get("result_state") != "SUCCESS"), None)
        if failed is None:
            self.state = state("TERMINATED", "SUCCESS")
            return
        life, result, message = (failed.state.get(key) for key in ("life_cycle_state", "result_state", "state_message"))
        if result == "FAILED":
            life, message = "INTERNAL_ERROR", f"Task {failed.key} failed with message: {str(message).rstrip('.')}."
        self.state = state(str(life), result, str(message))

    def describe(self) -> dict[str, Any]:
        """As the API says it."""
        described = [task.describe() for task in self.tasks]
        cluster = {"cluster_instance": described[0]["cluster_instance"]} if "cluster_instance" in described[0] else {}
        return {
            **(cluster if len(described) == 1 else {}),
            "run_id": self.run_id,
            "job_id": self.job_id,
            "number_in_job": self.run_id,
            "run_name": self.body.get("run_name") or self.body.get("name") or "Untitled",
            "run_type": self.kind,
            "run_page_url": self.page,
            "creator_user_name": self.user,
            "format": "MULTI_TASK",
            "trigger": "ONE_TIME",
            "state": self.state,
            "start_time": self.start_time,
            "end_time": self.end_time,
            "setup_duration": 0,
            "execution_duration": 0,
            "cleanup_duration": 0,
            "tasks": described,
        }
