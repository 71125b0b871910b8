"""What the tests of the SQLite source share: databases made in one call, and everything that a source reads of them.

Databases are written while no source reads them, or by another process: POSIX locks protect nobody from a second copy
of the SQLite library in the same process.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.sources.base import Notice, Past, Position
from lakehouse_assets.sources.sqlite import SqliteSource

NOBODY = 65534
READINGS = "CREATE TABLE readings (id INTEGER PRIMARY KEY AUTOINCREMENT, t TEXT, v REAL)"
"""A small table whose ids never come again."""
BAG = "CREATE TABLE readings (at TEXT, v)"
"""A table without any key: equal rows are rows."""


def entity(path: Path | str, **fields: Any) -> Entity:
    """An entity that reads a database; `options` are its read options without `sqlite.`."""
    options = {f"sqlite.{name}": value for name, value in fields.pop("options", {}).items()}
    given = {"entity_id": "readings", "source": str(path), "destination": "bronze.readings", "source_format": "sqlite"}
    return Entity(**{**given, "read_options": options, **fields})


def source(path: Path | str, **fields: Any) -> SqliteSource:
    """A source on a database."""
    return SqliteSource(entity(path, **fields))


def write(path: Path, *statements: str | tuple[str, Sequence[Any]] | tuple[str, list[Any]]) -> Path:
    """Run statements on a database, each a text or a text with rows of parameters, and commit."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for statement in statements:
            text, rows = (statement, [()]) if isinstance(statement, str) else statement
            connection.executemany(text, rows) if "?" in text else connection.execute(text)
            if not text.upper().startswith(("VACUUM", "PRAGMA")):
                connection.commit()
    return path


def readings(path: Path, count: int, first: int = 1) -> Path:
    """A database with `READINGS` and rows `first` to `first + count - 1`."""
    rows = [(n, f"t{n}", n / 2) for n in range(first, first + count)]
    made = [] if path.exists() else [READINGS]
    return write(path, *made, ("INSERT INTO readings VALUES (?, ?, ?)", rows))


def elsewhere(code: str, *args: object) -> str:
    """Run Python in another process and return what it prints."""
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def read(one: SqliteSource, start: Position, end: Position) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of a range without their place, and its misfits with `_upstream` decoded."""
    rows: list[dict[str, Any]] = []
    misfits: list[dict[str, Any]] = []
    for batch in one.read(start, end):
        rows += [{k: v for k, v in row.items() if k not in ("_position", "_source")} for row in batch.rows.to_pylist()]
        misfits += batch.misfits.to_pylist() if batch.misfits else []
    return rows, [{**misfit, "_upstream": json.loads(misfit["_upstream"])} for misfit in misfits]


class Follower:
    """Reads a database again and again as a pipeline does: each time with a new source, from where the last ended.

    Attributes:
        positions: the ends of the batches so far.
        incarnations: the identity that was recorded with each.
        rows: all rows that were read.
        misfits: all that did not fit.
    """

    def __init__(self, path: Path | str, **fields: Any) -> None:
        self.entity = entity(path, **fields)
        self.positions: list[Position] = []
        self.incarnations: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.misfits: list[dict[str, Any]] = []
        self.notices: list[Notice] = []

    @property
    def past(self) -> Past:
        """What was read."""
        return Past.of(*self.positions)

    def step(self) -> bool:
        """One batch; whether there was something new."""
        with SqliteSource(self.entity) as one:
            self.notices = one.verify(self.positions[-1], self.incarnations[-1]) if self.positions else []
            start = self.positions[-1] if self.positions else one.earliest()
            end = json.loads(json.dumps(one.latest(self.past)))
            if end == start:
                return False
            self.incarnations.append(one.incarnation(end))
            rows, misfits = read(one, start, end)
            self.rows += rows
            self.misfits += misfits
            self.positions.append(end)
            return True

    def catch_up(self) -> list[dict[str, Any]]:
        """All batches that there are now; the rows that they brought."""
        before = len(self.rows)
        while self.step():
            pass
        return self.rows[before:]

    def audit(self) -> dict[str, str]:
        """What the count check says: code to message."""
        with SqliteSource(self.entity) as one:
            return {notice.code: notice.message for notice in one.audit(self.past)}


def put(path: Path, *times: Any) -> Path:
    """Add a row for each time to a table of the kind `BAG`, made at the first call."""
    made = [] if path.exists() else [BAG]
    return write(path, *made, ("INSERT INTO readings VALUES (?, 1)", [(time,) for time in times]))


def follow(path: Path, **fields: Any) -> Follower:
    """A follower of a table of the kind `BAG`, by its time."""
    return Follower(path, options={"cursor": "at", **fields.pop("options", {})}, **fields)


def as_nobody(task: Callable[[], object]) -> None:
    """Run `task` in a child process as an unprivileged user, and fail as it fails."""
    if os.geteuid() != 0:
        task()
        return
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            task()
            code = 0
        except BaseException:  # the child must not return into the test runner
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def values(rows: Iterable[dict[str, Any]], name: str) -> list[Any]:
    """One column of rows."""
    return [row[name] for row in rows]
