"""A bad network in a process of its own: delta-rs holds the interpreter's lock while it waits for some answers.

What belongs here: reaching a `FaultyProxy` of another process. What does not: which stores there are (`conftest.py`).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from lakehouse_assets.simulators.faulty_store import Fault, FaultyProxy


class RemoteProxy:
    """A `FaultyProxy` that runs elsewhere; faults with a `call` cannot be sent there."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.url: str = pipe.recv()

    def at(self, k: int | Collection[int], fault: Fault, **which: str) -> None:
        """See `FaultyProxy.at`."""
        self._ask("at", k, fault, **which)

    def always(self, fault: Fault, **which: str) -> None:
        """See `FaultyProxy.always`."""
        self._ask("always", fault, **which)

    def heal(self) -> None:
        """See `FaultyProxy.heal`."""
        self._ask("heal")

    @property
    def requests(self) -> list[tuple[str, str]]:
        """Every request that arrived so far."""
        return self._ask("requests")

    @property
    def struck(self) -> list[tuple[str, str]]:
        """Those that a fault happened to."""
        return self._ask("struck")

    def _ask(self, name: str, *args: Any, **how: Any) -> Any:
        self._pipe.send((name, args, how))
        return self._pipe.recv()


@contextmanager
def proxy_before(target: str) -> Iterator[RemoteProxy]:
    """A proxy before `target` for as long as the block lasts."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(target, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield RemoteProxy(ours)
    finally:
        ours.close()  # it ends when nobody can ask it any more
        process.join(timeout=20)


def _serve(target: str, pipe: Connection) -> None:
    with FaultyProxy(target) as proxy:
        pipe.send(proxy.url)
        while True:
            try:
                name, args, how = pipe.recv()
            except EOFError:
                return
            found = getattr(proxy, name)
            pipe.send(found(*args, **how) if callable(found) else found)
