"""The moments at which a process can be killed: every write of an engine and every plan, counted as they come.

What belongs here: delegates that stand around an engine, an appender, a plan book, and count. They know nothing of
any engine, so that whatever keeps the contract of `engines/base.py` can be watched.
What does not: choosing a moment (`proof.py`).
"""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO, TypeVar, cast

import pyarrow as pa

from lakehouse_assets.engines.base import Appender, Engine, Handle
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.lake.names import BATCHES, FeedName
from lakehouse_assets.lake.plans import Ledger, Plan, PlanBook
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Commit, Number
from lakehouse_assets.tables.base import Work

T = TypeVar("T")

Moment = Literal["before", "inside", "after"]
WRITES: Mapping[str, str] = {
    "create": "create",
    "add_columns": "add columns",
    "append": "append",
    "replace": "replace",
    "merge": "merge",
    "rebuild": "rebuild",
    "set_properties": "set properties",
    "compact": "compact",
    "take_apart": "take apart",
    "vacuum": "vacuum",
    "checkpoint": "checkpoint",
    "publish": "publish",
}
"""Method of an engine that writes -> what the report calls it."""
EXTRACT = "extract"
"""What the report calls the copy of a partition of an extract, a write that no engine makes."""
PATIENCE = 30.0
"""Seconds in which a kill that was ordered inside a write must have come."""


@dataclass(frozen=True)
class Kill:
    """Where a process ends: at a moment of its n-th write; inside a write, `delay` seconds after it began."""

    write: int
    moment: Moment
    delay: float = 0.0


@dataclass
class Points:
    """Counts the writes of a process, and ends it with SIGKILL at the chosen one.

    Args:
        root: of the lake: a write's table is told by its URI below it.
        trail: takes a line of JSON when a write begins and another when it ends.
        kill: where to end; `None`: nowhere.
        order: asks somebody outside this process to kill it in so many seconds: a thread of its own might not run
            while a library works.
    """

    root: str
    trail: TextIO
    kill: Kill | None = None
    order: Callable[[float], None] = lambda _: None
    count: int = 0

    def around(self, step: str, write: Callable[..., T], where: Any, *args: Any, **how: Any) -> T:
        """Make a write, with a moment before it and one after it.

        Args:
            where: a handle, the URI of a table, or its name.
        """
        self.count += 1
        number, uri = self.count, str(getattr(where, "uri", where))
        table = uri.removeprefix(self.root).strip("/").replace("/", ".")
        self._say({"write": number, "table": table, "step": step})
        self._pass(number, "before")
        inside = self.kill if self.kill and (self.kill.write, self.kill.moment) == (number, "inside") else None
        if inside is not None:
            self.order(inside.delay)
        began = time.monotonic()
        result = write(where, *args, **how)
        self._say({"write": number, "seconds": time.monotonic() - began})
        if inside is not None:
            time.sleep(PATIENCE)  # the write was faster than expected: the kill is on its way
        self._pass(number, "after")
        return result

    def _pass(self, number: int, moment: Moment) -> None:
        if self.kill is not None and (self.kill.write, self.kill.moment) == (number, moment):
            end_here()

    def _say(self, line: Mapping[str, Any]) -> None:
        self.trail.write(json.dumps(line) + "\n")
        self.trail.flush()


def end_here() -> None:
    """End this process, and what it started, with SIGKILL: nothing can catch it, nothing is flushed."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


class WatchedEngine:
    """Stands for an engine, whichever it is: everything is the engine's own, and its writes are counted."""

    def __init__(self, inner: Engine, points: Points) -> None:
        self._inner = inner
        self._points = points

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return functools.partial(self._points.around, WRITES[name], found) if name in WRITES else found

    def appender(self, handle: Handle) -> Appender:
        """The engine's appender; its commit is a write."""
        return WatchedAppender(self._inner.appender(handle), handle, self._points)


class WatchedAppender(Appender):
    """Stands for an appender, and counts its commit."""

    def __init__(self, inner: Appender, handle: Handle, points: Points) -> None:
        self._inner, self._handle, self._points = inner, handle, points

    def write(self, batch: pa.RecordBatch) -> None:
        """Pass on."""
        self._inner.write(batch)

    def commit(self, number: Number) -> Commit:
        """Commit, which is a write."""
        return self._points.around("append", lambda _: self._inner.commit(number), self._handle)

    def discard(self) -> None:
        """Pass on."""
        self._inner.discard()


class WatchedBook(PlanBook):
    """Plans whose recording is a write, and whose table is made by one."""

    def __init__(self, uri: str, storage: Storage, points: Points) -> None:
        super().__init__(uri, storage)
        self._points = points

    def open(self, *feeds: FeedName) -> Ledger:
        """A ledger that counts."""
        return cast(Ledger, _WatchedLedger(super().open(*feeds), self._points))

    def create(self) -> Any:
        """Make the table of the plans, which is a write."""
        return self._points.around("create", lambda _: super(WatchedBook, self).create(), str(BATCHES))


class _WatchedLedger:
    def __init__(self, inner: Ledger, points: Points) -> None:
        self._inner, self._points = inner, points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def record(self, *plans: Plan) -> tuple[Plan, ...]:
        return self._points.around("plan", lambda _: self._inner.record(*plans), plans[0].feed.destination)


@dataclass(frozen=True)
class WatchedWork(Work):
    """Work whose writes and plans are counted."""

    points: Points = field(kw_only=True)

    @property
    def book(self) -> PlanBook:
        """The plans of the lake, counted."""
        return WatchedBook(self.lake.uri(BATCHES), self.lake.storage, self.points)


def watched(work: Work, points: Points) -> WatchedWork:
    """`work` with every write counted by `points`."""
    given = {name: getattr(work, name) for name in Work.__dataclass_fields__}
    engine = cast(Engine, WatchedEngine(work.engine, points))
    return WatchedWork(**given | {"engine": engine}, points=points)


def owner(table: str, tables: Mapping[str, TableName]) -> TableName | None:
    """The table of a run whose batch a write belongs to: itself, or the one whose quarantine or log it is."""
    sides = (table, table.removesuffix("_quarantine"), table.removesuffix("__changes"))
    return next((tables[side] for side in sides if side in tables), None)
