"""`lakehouse simulate workspace`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lakehouse_assets_tests.cli.lab import Machine, eventually
from lakehouse_assets_tests.conftest import need_spark
from lakehouse_assets_tests.simulators.workspace.lab import CLUSTER, processes_of


@contextmanager
def serving(machine: Machine, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The command as a process, with the host and the token that it names."""
    child = machine.start("simulate", "workspace", "--port", "0", *arguments)
    try:
        told = ""
        while "export" not in told:
            line = child.stderr.readline()
            assert line, f"it ended: {told}"
            told += line
        yield child, *re.search(r"DATABRICKS_HOST=(\S+) DATABRICKS_TOKEN=(\S+)", told).groups()
    finally:
        child.kill()
        child.communicate()


def ask(host: str, token: str, path: str, body: dict | None = None) -> dict:
    """A request to the workspace."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(host + path, content, {"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_stopped(machine: Machine, number: int) -> None:
    """It names host and token, has the volumes that were asked for, and ends with 0."""
    with serving(machine, "--token", "dapi-mine", "--volume", "main.ops.staging") as (child, host, token):
        assert token == "dapi-mine"
        assert ask(host, token, "/api/2.1/unity-catalog/volumes/main.ops.staging")["name"] == "staging"
        child.send_signal(number)
        assert child.wait(30) == 0


def test_files_stay_in_a_directory_that_was_given(machine: Machine) -> None:
    """`--directory`."""
    kept = machine.directory / "kept"
    with serving(machine, "--directory", str(kept)) as (child, host, token):
        ask(host, token, "/api/2.0/dbfs/mkdirs", {"path": "/a"})
        child.terminate()
        child.wait(30)
    assert (kept / "dbfs" / "a").is_dir()


def test_a_wrong_python_is_wrong_use(machine: Machine) -> None:
    """Exit code 2, and the legal form."""
    done = machine.lakehouse("simulate", "workspace", "--port", "0", "--python", "4")
    assert done.exit_code == 2
    assert "3.12" in done.stderr


@pytest.mark.spark
def test_nothing_is_left_of_a_simulator_that_was_killed(machine: Machine) -> None:
    """SIGKILL gives no time to clean up: its Spark ends all the same."""
    need_spark()
    kept = machine.directory / "kept"
    with serving(machine, "--directory", str(kept)) as (child, host, token):
        cluster = ask(host, token, "/api/2.1/clusters/create", CLUSTER)["cluster_id"]
        path = f"/api/2.1/clusters/get?cluster_id={cluster}"
        eventually(lambda: ask(host, token, path)["state"] == "RUNNING")
        assert processes_of(kept / "clusters")
        os.kill(child.pid, signal.SIGKILL)
        eventually(lambda: not processes_of(kept / "clusters"), 20)
