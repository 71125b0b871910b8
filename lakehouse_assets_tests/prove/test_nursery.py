"""The processes of a proof: real ones, really killed, with all that they started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse_assets.errors import LakeError
from lakehouse_assets.prove.nursery import End, Nursery, kill_group
from lakehouse_assets_tests.cli.lab import eventually
from lakehouse_assets_tests.prove import broken


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """A cold one: what its children need they import themselves."""
    with Nursery("cold", os.environ) as it:
        yield it


def alive(pid: int) -> bool:
    """Whether a process runs: one that is dead and not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_that_fails_says_so_and_the_next_one_lives(nursery: Nursery) -> None:
    """An exit code is no signal; the nursery goes on."""
    for _ in range(2):
        end = nursery.run({"environ": dict(os.environ)})
        assert (end.signal, end.code, end.killed) == (0, 1, False)


def test_a_child_can_be_killed_from_outside(nursery: Nursery) -> None:
    """`started` is told the process id in time; what died of SIGKILL is known as killed."""
    pids: list[int] = []

    def kill(pid: int) -> None:
        pids.append(pid)
        assert os.getpgid(pid) == pid != os.getpgrp()
        kill_group(pid)

    end = nursery.run({"environ": dict(os.environ)}, kill)
    assert end.killed
    assert not alive(pids[0])


def test_what_a_child_started_dies_with_it(nursery: Nursery, tmp_path: Path) -> None:
    """A JVM that outlived its Python would go on writing: the whole group is killed."""
    spawned = tmp_path / "pid"
    environ = {**os.environ, "SPAWNED": str(spawned)}
    job = {"environ": environ, "settings": {"root": str(tmp_path)}, "engine_class": f"{broken.__name__}:Spawning"}
    assert nursery.run({**job, "answer": str(tmp_path / "answer")}).killed
    eventually(lambda: not alive(int(spawned.read_text())))


def test_only_sigkill_counts() -> None:
    """A child that fell over by another signal was not killed by the proof."""
    assert End(9, 0, 0.0).killed
    assert not End(11, 0, 0.0).killed
    assert not End(0, 137, 0.0).killed


def test_a_nursery_that_does_not_run_says_so() -> None:
    """Used outside its block it refuses."""
    with pytest.raises(LakeError, match="not running"):
        Nursery("cold", {}).run({})


def test_a_nursery_leaves_nothing_behind() -> None:
    """When its block ends, it has ended."""
    with Nursery("cold", os.environ) as it:
        process = it._process
        assert process is not None
        pid = process.pid
        assert alive(pid)
    eventually(lambda: not alive(pid))
