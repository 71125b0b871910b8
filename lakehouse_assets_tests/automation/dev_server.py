"""`dagster dev` over a catalog, in a group of processes of its own, asked through GraphQL as the UI asks it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
LAUNCH = """mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"
ENDED = ("SUCCESS", "FAILURE", "CANCELED")


class DevServer:
    """The server.

    Args:
        base: an empty directory, in which Dagster's home is made.
        environ: what the processes see besides what the tests' own process sees.
    """

    def __init__(self, base: Path, environ: Mapping[str, str]) -> None:
        self.base = base
        (base / "home").mkdir()
        shutil.copy(REPOSITORY / "dagster.yaml", base / "home")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = (base / "server.log").open("w")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "DAGSTER_"))}
        clean.pop("PYTHONDONTWRITEBYTECODE", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(self.port)],
            cwd=REPOSITORY, env={**clean, "DAGSTER_HOME": str(base / "home"), **environ}, stdout=self.log,
            stderr=self.log, start_new_session=True,
        )  # fmt: skip

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

    def stop(self) -> None:
        """End the server and everything it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def launch(self, *tables: str, tags: Mapping[str, str] | None = None) -> str:
        """What the button Materialize does, with tags as the launchpad sets them; the id of the run."""
        selected = [{"path": table.split(".")} for table in tables]
        params = {
            "selector": self.selector(pipelineName="__ASSET_JOB", assetSelection=selected),
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]},
        }
        launched = self.ask(LAUNCH, params=params)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def ended(self, run_id: str, seconds: float = 90) -> str:
        """The status of a run once it has ended."""

        def status() -> str | None:
            found = self.ask(RUN, id=run_id)["runOrError"]["status"]
            return found if found in ENDED else None

        return str(self.wait("the end of the run", status, seconds))

    def terminate(self, run_id: str) -> None:
        """What the button Terminate does."""
        assert self.ask(TERMINATE, id=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"
