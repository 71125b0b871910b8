"""Engines that break the write protocol on purpose: stand-ins for a fault that a proof must find.

What belongs here: one fault each. What does not: expectations.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from lakehouse_assets.engines.base import Appender, Handle
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.values import Commit, Number

SECONDS = 0.3
"""How long a torn write lies open."""


class Unnumbered(EmbeddedEngine):
    """Writes rows to a quarantine without their number: a replay writes them once more."""

    def _append(self, handle, relation, number: Number) -> Commit:
        if handle.uri.endswith("_quarantine"):
            number = Number("nobody", handle.number("nobody") + 1)
        return super()._append(handle, relation, number)


class Spawning:
    """Starts a process of its own, as an engine on a JVM does, and is killed."""

    @classmethod
    def of(cls, _settings: object, _storage: object) -> None:
        """Leave the id of the process in a file."""
        process = subprocess.Popen(["sleep", "300"])
        Path(os.environ["SPAWNED"]).write_text(str(process.pid))
        os.kill(os.getpid(), signal.SIGKILL)


class Torn(EmbeddedEngine):
    """Commits the number first and the rows later: a kill between the two loses the rows."""

    def appender(self, handle: Handle) -> Appender:
        """An appender in two commits."""
        return TornAppender(self, handle, super().appender(handle))


class TornAppender(Appender):
    """The number first, then the rows."""

    def __init__(self, engine: EmbeddedEngine, handle: Handle, inner: Appender) -> None:
        self._engine, self._handle, self._inner = engine, handle, inner

    def write(self, batch) -> None:
        """Pass on."""
        self._inner.write(batch)

    def commit(self, number: Number) -> Commit:
        """Two commits, and time between them."""
        first = EmbeddedEngine.appender(self._engine, self._engine.find(self._handle.uri))
        first.commit(number)
        time.sleep(SECONDS)
        return self._inner.commit(Number("nobody", self._handle.number("nobody") + 1))

    def discard(self) -> None:
        """Pass on."""
        self._inner.discard()
