"""Processes of the simulated workspace: each in a file tree of its own, and none that outlives the simulator.

What belongs here: starting a process where `/dbfs`, `/Volumes` and `/Workspace` are the workspace's and the developer's
checkout is not, and ending it. What does not: what it runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from lakehouse_assets.errors import NotRunnable, SettingsError

_HERE = Path(__file__).parent
SCRIPTS = ("namespace.sh", "driver.py", "jvm.py")
TOPS = ("dbfs", "Volumes", "Workspace")
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
GRACE = 2.0
"""Seconds between asking a process to end and ending it."""


class Processes:
    """Starts processes for a workspace in `directory`, and ends all of them when it is closed.

    Each inherits the reading end of a pipe whose writing end only this process holds: the programs that are started
    here (`driver.py`, `jvm.py`) end when it is closed, so that nothing is left even where the simulator was killed.
    """

    def __init__(self, directory: Path, hide: Sequence[Path], keep: Sequence[Path] = ()) -> None:
        self.directory = directory
        for path in (directory, *hide, *keep):
            if ":" in str(path):
                raise SettingsError(
                    "a directory's name has a colon, which parts directories here", value=str(path), fix="rename it"
                )
        self._kept = ":".join(map(str, (directory, *keep)))
        self._hidden = ":".join(str(path.resolve()) for path in hide)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False
        (directory / "root").mkdir(exist_ok=True)
        self.scripts = directory / "scripts"
        self.scripts.mkdir(exist_ok=True)
        for name in SCRIPTS:
            shutil.copy(_HERE / name, self.scripts / name)
        self._check()
        self.alive, self._held = os.pipe()

    def _check(self) -> None:
        command = self._wrapped(["/bin/true"], TOPS)
        done = subprocess.run(command, env={"PATH": SYSTEM_PATH}, cwd="/", capture_output=True, text=True)
        if done.returncode:
            raise NotRunnable(
                f"the simulated workspace cannot give its tasks a file tree of their own: {done.stderr.strip()}",
                fix="allow user namespaces, on Linux: sysctl -w kernel.unprivileged_userns_clone=1 "
                "kernel.apparmor_restrict_unprivileged_userns=0, or docker run --security-opt seccomp=unconfined",
            )

    def _wrapped(self, command: Sequence[str], tops: Sequence[str]) -> list[str]:
        tree = (str(self.directory), self._hidden, self._kept, ":".join(tops))
        return ["bash", str(self.scripts / "namespace.sh"), *tree, *command]

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        *,
        tops: Sequence[str] = TOPS,
        talk: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a program in `directory`, which also takes its output (`stdout`, `stderr`).

        Args:
            tops: which of the workspace's directories it sees.
            talk: whether it is told things on its standard input.
        """
        with (directory / "stdout").open("ab") as out, (directory / "stderr").open("ab") as err, self._lock:
            if self._closed:
                raise RuntimeError("the simulated workspace has ended")
            process = subprocess.Popen(
                self._wrapped(command, tops),
                stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
                pass_fds=(self.alive,),
            )
            self._running.add(process)
        return process

    def end(self, process: subprocess.Popen[bytes], *, kill: bool = False) -> None:
        """End a process and all of its group; unless it is to be killed, it has a moment to do so itself."""
        if not kill:
            _signal(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        _signal(process, signal.SIGKILL)
        process.wait()
        if process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()
        with self._lock:
            self._running.discard(process)

    def close(self) -> None:
        """End everything that was started here and still runs."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            self.end(process, kill=True)
        for end in (self._held, self.alive):
            with contextlib.suppress(OSError):
                os.close(end)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
