"""A stand-in for a kdb+ process: it speaks q IPC, and serves trades and quotes that walk around real daily prices.

    with KdbServer(KdbConfig(rows=1000, user="me", password="word")) as server:
        OwnClient(...)            # at server.host, server.port
        server.correct(date(2018, 12, 20))
        server.arm(Fault("kill", after=100_000, query="sublist"))

It runs as a process of its own, because clients that wait in C (PyKX) hold the interpreter of theirs, and it ends with
the process that started it, however that one ends. `python -m lakehouse_assets.simulators.kdb OPTIONS` is that process:
it takes orders as lines of JSON and answers each with a line.

What belongs here: the process. What does not: what it serves (`kdb_database.py`, `kdb_market.py`), what it understands
(`kdb_answers.py`), connections (`kdb_wire.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
import threading
from datetime import date
from types import TracebackType
from typing import Any, Self, TextIO

from lakehouse_assets.errors import LakehouseError, SettingsError, SourceUnreachable
from lakehouse_assets.simulators.kdb_config import Fault, KdbConfig

_KEPT = ("correct", "add", "empty", "remove", "change")
"""Orders that a process which is started anew is given again: its data are what they were."""
_ENDED = "the kdb+ stand-in has ended"


class KdbServer:
    """The stand-in in a process of its own. `start` it, or use it in a `with` statement.

    Attributes:
        host, port: where it listens, when it is started.
    """

    def __init__(self, config: KdbConfig | None = None) -> None:
        self.config = config or KdbConfig()
        self.host = self.config.host
        self.port = self.config.port
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._orders: list[str] = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Start it, and wait until it listens; after its end it is started anew: same port, same data, no fault armed.

        Raises:
            SourceUnreachable: it does not start.
        """
        if self.running:
            return self
        self.kill()
        command = [sys.executable, "-m", "lakehouse_assets.simulators.kdb"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        given = dataclasses.replace(self.config, port=self.port)
        try:
            self.port = int(self._said(given.to_json()))
            for order in self._orders:
                self._said(order)
        except BaseException:
            self.kill()
            raise
        return self

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None, "it is not started"
        return self._process.pid

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._forget()

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._forget()

    def correct(self, day: date, table: str = "trade", dropped: int = 0) -> None:
        """Change about a hundredth of a date's rows, and drop the last `dropped` of them."""
        self._order("correct", str(day), table, dropped)

    def add(self, day: date) -> None:
        """Add a date (a trading day), or give an emptied one its rows again."""
        self._order("add", str(day))

    def empty(self, day: date) -> None:
        """Take all rows of a date away, or add a date without rows."""
        self._order("empty", str(day))

    def remove(self, day: date) -> None:
        """Take a date away, partition and all."""
        self._order("remove", str(day))

    def change(self, day: date, how: str, table: str = "trade") -> None:
        """Change the columns from a date on: `added`, `retyped` or `dropped` (`kdb_database.Database.change`)."""
        self._order("change", str(day), how, table)

    def arm(self, fault: Fault) -> None:
        """Let something go wrong with an answer to come."""
        self._order("arm", dataclasses.asdict(fault))

    def queries(self) -> list[str]:
        """The texts of all queries that it took, in order."""
        return list(self._order("queries"))

    def connections(self) -> int:
        """How many connections it admitted."""
        return int(self._order("connections"))

    def _order(self, name: str, *arguments: Any) -> Any:
        order = json.dumps([name, *arguments])
        done = self._said(order)
        if name in _KEPT:
            self._orders.append(order)
        return done

    def _said(self, line: str) -> Any:
        """What it answers to a line.

        Raises:
            SettingsError: it refuses the order.
            SourceUnreachable: it has ended.
        """
        with self._lock:
            process = self._process
            if process is None or process.stdin is None or process.stdout is None:
                raise SourceUnreachable(_ENDED, fix="start it")
            try:
                process.stdin.write(line + "\n")
                process.stdin.flush()
                answered = process.stdout.readline()
            except OSError:
                answered = ""
            if not answered:
                raise SourceUnreachable(f"{_ENDED}: {self._last_words(process)}", fix="start it")
        ok, value = json.loads(answered)
        if not ok:
            raise SettingsError(value)
        return value

    @staticmethod
    def _last_words(process: subprocess.Popen[str]) -> str:
        try:
            _, told = process.communicate(timeout=10)
        except (subprocess.TimeoutExpired, ValueError):
            return ""
        return told.strip()[-1000:]

    def _forget(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # what was not sent is not needed
                    stream.close()


class _Orders:
    """Carries out what the process is told over its standard input."""

    def __init__(self, config: KdbConfig) -> None:
        from lakehouse_assets.simulators.kdb_answers import Answers
        from lakehouse_assets.simulators.kdb_database import Database
        from lakehouse_assets.simulators.kdb_wire import Listener

        self.database = Database(config)
        self.listener = Listener(config, Answers(self.database))

    def carry_out(self, name: str, *arguments: Any) -> Any:
        """Do it; what it gives."""
        if name == "arm":
            return self.listener.arm(Fault(**arguments[0]))
        if name in ("queries", "connections"):
            return getattr(self.listener, name)
        day, *others = arguments
        return getattr(self.database, name)(date.fromisoformat(day), *others)


def _lines(parent: int) -> Any:
    """Lines of standard input, until it ends or the parent has gone (others may hold the pipe open)."""
    pending = b""
    while os.getppid() == parent:
        if not select.select([0], [], [], 0.2)[0]:
            continue
        some = os.read(0, 1 << 16)
        if not some:
            return
        *whole, pending = (pending + some).split(b"\n")
        for line in whole:
            yield line.decode()


def main(out: TextIO = sys.stdout) -> None:
    """Serve as told by the first line of standard input; then take orders until it ends."""
    parent = os.getppid()
    lines = _lines(parent)
    orders: _Orders | None = None
    for line in lines:
        try:
            if orders is None:
                orders = _Orders(KdbConfig.from_json(line))
                value: Any = orders.listener.port
            else:
                value = orders.carry_out(*json.loads(line))
            answer = [True, value]
        except (LakehouseError, OSError) as error:
            answer = [False, str(error)]
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
