"""A simulated workspace for tests, with the unmodified SDK as its client.

What belongs here: what several test modules need. What does not: expectations.
"""

from __future__ import annotations

import http.client
import io
import json
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lakehouse_assets.errors import NotRunnable
from lakehouse_assets.simulators.workspace.records import Run
from lakehouse_assets.simulators.workspace.runtimes import SERVERLESS, Runtime, own_packages
from lakehouse_assets.simulators.workspace.server import Options, Workspace, serve

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

VOLUME = "main.ops.staging"
STAGING = "/Volumes/main/ops/staging"
TOKEN = "dapi-test"
TASK = {"task_key": "t", "spark_python_task": {"python_file": f"{STAGING}/task.py"}}
CLUSTER = {"spark_version": "4.2", "node_type_id": "local", "num_workers": 0}


class Lab:
    """A workspace with a volume, and ways to ask it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        workspace.make_volume(VOLUME)

    @cached_property
    def client(self) -> WorkspaceClient:
        """The unmodified SDK, with the workspace's token."""
        from databricks.sdk import WorkspaceClient

        return WorkspaceClient(host=self.workspace.host, token=self.workspace.token)

    @property
    def errors(self) -> ModuleType:
        """The SDK's errors."""
        from databricks.sdk import errors

        return errors

    def ask(
        self, method: str, path: str, body: Any = None, token: str | None = TOKEN
    ) -> tuple[int, Mapping[str, str], Any]:
        """A request without the SDK: status, headers and body of the answer."""
        connection = http.client.HTTPConnection(self.workspace.host.removeprefix("http://"), timeout=30)
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            found = answer.read()
        finally:
            connection.close()
        with_json = answer.headers["Content-Type"] == "application/json" and found
        return answer.status, answer.headers, json.loads(found) if with_json else found

    def submit(self, *tasks: Mapping[str, Any], **body: Any) -> Run:
        """Submit a run and wait for its end."""
        return self.ended(self.start(*tasks, **body))

    def start(self, *tasks: Mapping[str, Any], **body: Any) -> Run:
        """Submit a run."""
        return self.workspace.jobs.submit({"tasks": list(tasks), **body}, "tester@example.com")

    def ended(self, run: Run) -> Run:
        """A run, when it has ended."""
        until(lambda: run.ended)
        return run

    def script(self, text: str, name: str = "task.py") -> str:
        """Put a Python file into the volume, and give its path."""
        path = f"{STAGING}/{name}"
        self.client.files.upload(path, io.BytesIO(textwrap.dedent(text).encode()), overwrite=True)
        return path

    def run(self, text: str, *arguments: str, task: Mapping[str, Any], **body: Any) -> Run:
        """Run a Python program as the only task of a run."""
        work = {"python_file": self.script(text), "parameters": list(arguments)}
        return self.submit({"task_key": "t", "spark_python_task": work, **task}, **body)


def until(holds: Any, seconds: float = 90) -> None:
    """Wait until `holds()`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.01)


def processes_of(directory: Path) -> list[str]:
    """The command lines of the processes of this machine that name a directory; those that have ended do not count."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line:
            found.append(line)
    return found


@contextmanager
def laboratory(directory: Path, **options: Any) -> Iterator[Lab]:
    """A workspace in a directory; at its end nothing of the simulator itself may have failed."""
    with serve(Options(**{"directory": directory, "token": TOKEN, **options})) as workspace:
        yield Lab(workspace)
    assert not workspace.broken


def hollow(directory: Path) -> Mapping[str, Runtime]:
    """Runtimes without a Spark: for tests that never get as far as starting one."""
    site = directory / "lib" / own_packages().parent.name / "site-packages"
    (site / "pyspark").mkdir(parents=True)
    (directory / "delta-spark_1.jar").touch()
    python = site.parent.name.removeprefix("python")
    names = ("4.2", SERVERLESS)
    return {name: Runtime(name, python, "4.2.0", "4.4.0", site, directory, base=()) for name in names}


def libraries(*packages: str) -> Sequence[Mapping[str, Any]]:
    """Libraries of a cluster."""
    return [{"pypi": {"package": package}} for package in packages]


def refusal(directory: str) -> str:
    """What the simulator says where it does not start."""
    try:
        with serve(Options(Path(directory))):
            return ""
    except NotRunnable as error:
        return str(error)
