"""Progress of long work on stderr: bars on a terminal, plain lines elsewhere.

What belongs here: showing what is told. What does not: measuring work.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lakehouse_assets.cli.output import is_terminal, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY = 5.0
"""Seconds between two plain lines."""


class RowProgress:
    """Rows so far and rows a second, for one thing at a time."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Self:
        if is_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[rate]}"))
            self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def start(self, name: str) -> None:
        """Work on `name` begins."""
        self._began = self._told = time.monotonic()
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(name, total=None, rate="")

    def rows(self, name: str, count: int, total: int | None = None) -> None:
        """`count` rows (of `total`) so far."""
        now = time.monotonic()
        rate = f"{count:,} rows, {count / max(now - self._began, 1e-9):,.0f} rows/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, rate=rate, completed=count, total=total)
        elif self._bar is None and now - self._told >= EVERY:
            self._told = now
            say(f"{name}: {rate}")

    def line(self, message: str) -> None:
        """A message that stays."""
        if self._bar is not None:
            self._bar.console.print(message, highlight=False, markup=False)
        else:
            say(message)
