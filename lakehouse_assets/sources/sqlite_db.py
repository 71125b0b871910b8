"""The seam to SQLite: read-only connections, snapshots, and SQLite's failures as errors of this project.

What belongs here: opening, look-ups, streams of Arrow batches, several connections in one snapshot.
What does not: what a table looks like (`sqlite_table.py`), which rows are read (`sqlite_rowid.py`, `sqlite_cursor.py`).

Everything goes through one copy of the SQLite library (the one inside the ADBC driver), and the database file is
never opened by other means: POSIX drops all locks that a process holds on a file as soon as the process closes any
descriptor of it, so a second copy of the library, or a plain `open()`, would let a writer in while rows are read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import pyarrow as pa

from lakehouse_assets.errors import LakehouseError, SourceBusy, SourceMissing, SourceUnreadable

_LOCKED = ("is locked", "locking protocol")
_CHANGED = ("no such column", "no such table", "schema has changed")
_EFFECTIVE = os.access in os.supports_effective_ids
_ATTEMPTS = 5
"""How often several connections try to meet in one snapshot before one connection reads alone."""


class Connection:
    """One read-only connection. Used by one thread at a time.

    Args:
        path: the database file.
        timeout: seconds to wait for a lock.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        from adbc_driver_sqlite import dbapi

        self._path = path
        with seam(path):
            self._link = dbapi.connect(f"file:{quote(os.fsencode(path.absolute()))}?mode=ro", autocommit=True)
        self.rows(f"PRAGMA busy_timeout = {round(timeout * 1000)}")

    def rows(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """All rows of a look-up; every column holds one type (or NULL)."""
        with seam(self._path), self._link.cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchall()

    def row(self, sql: str, *params: object) -> tuple[Any, ...] | None:
        """The first row of a look-up."""
        found = self.rows(sql, *params)
        return found[0] if found else None

    def value(self, sql: str, *params: object) -> Any:
        """The first value of the first row of a look-up; `None` without a row."""
        found = self.row(sql, *params)
        return found[0] if found else None

    def stream(
        self, seeds: Sequence[str], select: str, params: Sequence[object], size: int
    ) -> Iterator[pa.RecordBatch]:
        """The rows of `select` in batches of at most `size`.

        The driver takes the types from the first batch, NULLs and all. So a row of `seeds` goes first, one literal
        for each column (`0`, `0.0`, `''`, `x''`), and is dropped again.
        """
        head = ", ".join(f"{seed} AS c{n}" for n, seed in enumerate(seeds))
        with seam(self._path), self._link.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(size + 1)})
            cursor.execute(f"SELECT {head} UNION ALL {select}", tuple(params))
            skip = 1
            for batch in cursor.fetch_record_batch():
                if batch.num_rows > skip:
                    yield batch.slice(skip)
                skip = 0

    def begin(self) -> None:
        """Start a read transaction: what is seen stays as it is now until `end`."""
        self.rows("BEGIN")
        self.rows("SELECT count(*) FROM sqlite_schema")

    def end(self) -> None:
        """End the read transaction."""
        self.rows("ROLLBACK")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._link.close()


class Database:
    """A database file. It is open only while a snapshot is: whatever happens to it in between is seen by the next one.

    Args:
        path: the database file.
        timeout: seconds to wait for a lock.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self.path = Path(path)
        self._timeout = timeout

    @contextlib.contextmanager
    def snapshot(self, readers: int = 0) -> Iterator[tuple[Connection, list[Connection]]]:
        """A connection for look-ups and `readers` more for bulk, all of them in the same snapshot.

        The list is empty when the connections could not meet in one snapshot, because commits kept coming between:
        then the first connection reads alone.
        """
        with contextlib.ExitStack() as stack:
            identity = self.identity()
            first, *others = [stack.enter_context(Connection(self.path, self._timeout)) for _ in range(1 + readers)]
            if not (others and self._meet(first, others, identity)):
                others = []
                first.begin()
            yield first, others

    def _meet(self, first: Connection, others: list[Connection], identity: tuple[int, int]) -> bool:
        """Begin on all connections, and prove that nobody committed meanwhile: the first sees no other version."""
        for _ in range(_ATTEMPTS):
            before = first.value("PRAGMA data_version")
            for connection in (*others, first):
                connection.begin()
            if first.value("PRAGMA data_version") == before and self.identity() == identity:
                return True
            for connection in (*others, first):
                connection.end()
        return False

    def identity(self) -> tuple[int, int]:
        """Device and inode of the file.

        Raises:
            SourceMissing: there is no file.
            SourceUnreadable: there is no permission.
        """
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            raise SourceMissing(
                "there is no such database file", value=str(self.path), fix="check `source`; SQLite makes no file here"
            ) from None
        except OSError as error:
            raise _no_permission(self.path, str(error)) from None
        if not os.path.isfile(self.path):
            raise SourceMissing("this is not a file", value=str(self.path), fix="name the database file in `source`")
        if not os.access(self.path, os.R_OK, effective_ids=_EFFECTIVE):
            raise _no_permission(self.path, "permission denied")
        return found.st_dev, found.st_ino

    def size(self) -> int:
        """The size of the file in bytes."""
        return os.stat(self.path).st_size


@contextlib.contextmanager
def seam(path: Path) -> Iterator[None]:
    """Turn the driver's errors into errors of this project.

    Raises:
        SourceBusy: locked, changed while it was read, or left half-written by a writer that has to recover it.
        SourceUnreadable: not a database, a corrupt page, no permission, anything else that SQLite refuses.
    """
    from adbc_driver_manager import Error

    try:
        yield
    except Error as error:
        raise _translated(path, str(error).splitlines()[0]) from error


def _translated(path: Path, message: str) -> LakehouseError:
    said = message.rsplit(": ", 1)[-1] if "failed to open" not in message else "unable to open database file"
    if any(part in message for part in _LOCKED):
        return SourceBusy(f"{path} is locked by a writer: {said}", fix="try again, or raise `sqlite.timeout` (seconds)")
    if any(part in message for part in _CHANGED):
        return SourceBusy(f"{path} changed while it was read: {message}", fix="try again")
    if "attempt to write a readonly database" in message and os.path.exists(f"{path}-journal"):
        return SourceBusy(
            f"{path} was left in the middle of a transaction (a hot rollback journal), which only a writer may undo",
            fix="start the program that writes it, or open it once with write permission; then try again",
        )
    if "attempt to write a readonly database" in message or "unable to open database file" in message:
        return _cannot_open(path)
    if "not a database" in message:
        return SourceUnreadable(f"{path} is not an SQLite database (or an encrypted one)", fix="check `source`")
    if "malformed" in message:
        return SourceUnreadable(
            f"{path} is corrupt: {said}", fix="check it with `PRAGMA integrity_check`, and restore or `.recover` it"
        )
    return SourceUnreadable(f"{path} cannot be read: {message}", fix="see what SQLite says")


def _cannot_open(path: Path) -> LakehouseError:
    folder = path.absolute().parent
    if os.access(folder, os.W_OK, effective_ids=_EFFECTIVE):
        return _no_permission(path, "SQLite is unable to open it, or its -wal and -shm files")
    return SourceUnreadable(
        f"{path} cannot be read by user {os.geteuid()}: it is in WAL mode, and its -shm file is not there or not "
        f"writable, and cannot be made because the directory {folder} is not writable",
        fix="allow writing to the directory, keep a writer running, or set `PRAGMA journal_mode = DELETE`",
    )


def _no_permission(path: Path, why: str) -> SourceUnreadable:
    return SourceUnreadable(
        f"{path} cannot be opened by user {os.geteuid()}: {why}",
        fix="give read permission on the file (and search permission on its directories)",
    )
