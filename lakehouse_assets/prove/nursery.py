"""A warm process that forks children for jobs, so that a child costs no time to start, and reports how each ended.

`python -m lakehouse_assets.prove.nursery` reads a job a line on stdin. For each it forks a child, the leader of a
process group of its own, and writes two lines: the child's id, and how it ended. A child may order its own death:
the nursery, which does nothing else, kills it in time, whatever library the child is in.
What belongs here: processes. What does not: what they do (`child.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from lakehouse_assets.errors import LakeError

WARM: Mapping[str, tuple[str, ...]] = {
    "embedded": (
        "deltalake", "duckdb", "sqlglot", "tenacity", "pyarrow.fs", "pyarrow.parquet", "lakehouse_assets.prove.child",
        "lakehouse_assets.engines.embedded", "lakehouse_assets.sources.files", "lakehouse_assets.sources.sqlite",
    ),
    "spark": ("pyspark", "pyarrow.fs", "pyarrow.parquet", "lakehouse_assets.prove.child"),
}  # fmt: skip
"""Engine -> what its children would import; imported once, and used by nobody before the fork."""


@dataclass(frozen=True)
class End:
    """How a child ended: by which signal (0: none), with which exit code, after how many seconds."""

    signal: int
    code: int
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether it really died of SIGKILL."""
        return self.signal == signal.SIGKILL


class Nursery:
    """The process that forks children, as its parent sees it: one child at a time.

    Args:
        engine: what the children will compute with.
        environ: the environment of the nursery; a job carries that of its child.
    """

    def __init__(self, engine: str, environ: Mapping[str, str]) -> None:
        self._engine = engine
        self._environ = dict(environ)
        self._process: subprocess.Popen[str] | None = None
        self._child = 0

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", __name__, self._engine]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=self._environ, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        if self._child:
            kill_group(self._child)
        process.wait()
        process.stdout.close()

    def run(self, job: Mapping[str, Any], started: Callable[[int], None] = lambda _: None) -> End:
        """Do a job in a child of its own; `started` is told its process id.

        Raises:
            LakeError: the nursery itself came to an end.
        """
        process, began = self._process, time.monotonic()
        if process is None or process.stdin is None:
            raise LakeError("the process that starts children is not running", fix="use it in a `with` block")
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        self._child = int(self._told()["pid"])
        started(self._child)
        ended = self._told()
        self._child = 0
        return End(ended["signal"], ended["code"], time.monotonic() - began)

    def _told(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process and self._process.stdout else ""
        if not line:
            raise LakeError("the process that starts children ended; its last words stand above", fix="run it again")
        told: dict[str, Any] = json.loads(line)
        return told


def kill_group(pid: int) -> None:
    """Kill a child and whatever it started, if any of it is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def main(engine: str) -> None:
    """The nursery itself: jobs from stdin, reports to stdout; what children print goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this process
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in WARM.get(engine, ()):
        importlib.import_module(name)
    for line in sys.stdin:
        orders, ordering = os.pipe()
        pid = os.fork()
        if pid == 0:
            _live(json.loads(line), ordering)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # the child does the same: whoever comes first
        os.close(ordering)
        print(json.dumps({"pid": pid}), file=answers, flush=True)
        _obey(orders, pid)
        status = os.waitpid(pid, 0)[1]
        kill_group(pid)  # what it started, a JVM say, dies with it
        ended = {"signal": status & 0x7F, "code": status >> 8}
        print(json.dumps(ended), file=answers, flush=True)


def _live(job: dict[str, Any], ordering: int) -> None:
    """A child, from its birth to its end; it never comes back from here."""
    code = 1
    try:
        with contextlib.suppress(PermissionError):
            os.setpgid(0, 0)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        from lakehouse_assets.prove.child import perform

        def order(delay: float) -> None:
            os.write(ordering, f"{delay}\n".encode())

        code = perform(job, order)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _obey(orders: int, pid: int) -> None:
    """Kill the child when it ordered it; come back when it is dead, or about to be."""
    with os.fdopen(orders) as told:
        line = told.readline()
        if line:
            select.select([told], [], [], float(line))  # readable again: it ended before
            kill_group(pid)


if __name__ == "__main__":
    main(sys.argv[1])
