"""SQLite databases, read incrementally: by rowid, or by a cursor column where there is no rowid.

What belongs here: the read options, and the choice of stream.
What does not: see `sqlite_db.py` (connections), `sqlite_table.py` (what is in the database), `sqlite_types.py` (the
typing policy), `sqlite_reader.py` (rows), `sqlite_rowid.py` and `sqlite_cursor.py` (positions, identity, count check).

| option | default | meaning |
| --- | --- | --- |
| `sqlite.table` | the only table | the table that is read |
| `sqlite.cursor` | the rowid | the column by which new rows are told; without a rowid: the timestamp that is found |
| `sqlite.timeout` | 5 | seconds to wait for a lock |
| `sqlite.maxRowsPerBatch` | no limit | the rows after which a batch ends (a cursor's equal values stay together) |
| `sqlite.count_check` | true | whether `audit` counts the rows up to the position |

Read-only and exact for tables to which rows are added. Updated rows are not read again, deleted rows stay in the lake;
the count check tells of deleted and late rows, and a rebuild takes the table as it is. While a batch is read, a writer
of a database in rollback mode waits: use WAL mode, or bound the batches. A process that reads must not write the same
file through another copy of the SQLite library (`sqlite3` of Python), nor open it by other means: see `sqlite_db.py`.
Of a database in WAL mode SQLite makes the -wal and -shm files, where they are not there, even for a reader.
Text of a database in UTF-16 arrives as SQLite converts it to UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.sources.base import Batch, Notice, Past, Position, Source
from lakehouse_assets.sources.sqlite_cursor import CursorStream
from lakehouse_assets.sources.sqlite_db import Connection, Database
from lakehouse_assets.sources.sqlite_instants import Cursor
from lakehouse_assets.sources.sqlite_reader import Reader
from lakehouse_assets.sources.sqlite_rowid import RowidStream, place_of
from lakehouse_assets.sources.sqlite_table import Table, find_columns, find_cursor, find_table

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import Entity

OPTIONS = ("sqlite.table", "sqlite.cursor", "sqlite.timeout", "sqlite.maxRowsPerBatch", "sqlite.count_check")


class _Options(NamedTuple):
    table: str | None
    cursor: str | None
    timeout: float
    most: int | None
    count_check: bool


class SqliteSource(Source):
    """A table of an SQLite database.

    Args:
        entity: `source` is the path of the database file.

    Raises:
        SettingsError: an option is unknown, or has a value that it cannot have.
    """

    def __init__(self, entity: Entity) -> None:
        super().__init__(entity)
        self._options = _options(entity)
        self._database = Database(entity.source, self._options.timeout)
        self._stream: RowidStream | CursorStream | None = None
        self._found: tuple[object, int] | None = None

    def schema(self) -> pa.Schema:
        """The columns of the table as it is now, typed by the policy of `sqlite_types.py` or by `source_schema`."""
        return self._opened().reader.schema

    def earliest(self) -> Position:
        """Before the first row that there can be."""
        return self._opened().earliest()

    def latest(self, past: Past) -> Position:
        """The last row now, or the last that fits into a batch. One look-up by key, and a count of the new rows."""
        return self._opened().latest(past)

    def more(self, past: Past, end: Position) -> bool:
        """Whether the batch is full."""
        rows = end["rows"] - (past.last or self.earliest())["rows"]
        return self._options.most is not None and bool(rows >= self._options.most)

    def read(self, start: Position, end: Position) -> Iterator[Batch]:
        """The rows of a closed range, all of them in one snapshot of the database."""
        yield from self._opened().read(start, end)

    def incarnation(self, position: Position) -> str:
        """Hashes of the row or rows at `position`."""
        return self._opened().incarnation(position)

    def verify(self, position: Position, recorded: str) -> list[Notice]:
        """Compare the row or rows at `position` with those that were read.

        Raises:
            IncarnationChanged: restored, truncated, made again or renumbered; says what was seen.
        """
        return self._opened().verify(position, recorded)

    def audit(self, past: Past) -> list[Notice]:
        """Count the rows up to the position, and compare with the number of rows that were read."""
        return self._opened().audit(past) if self._options.count_check else []

    def describe(self) -> dict[str, Any]:
        """The file, its journal and size, the table, the cursor and its last value."""
        stream = self._opened()
        with self._database.snapshot() as (connection, _):
            journal = connection.value("PRAGMA journal_mode")
        return {
            "kind": "sqlite",
            "path": str(self._database.path),
            "table": stream.reader.table.name,
            "journal_mode": journal,
            "bytes": self._database.size(),
            **stream.describe(),
        }

    def close(self) -> None:
        """Forget what was found in the database; it is open only while something is read."""
        self._stream = None

    def _opened(self) -> RowidStream | CursorStream:
        """The stream, as the database is now: another file, or another schema, is looked at again."""
        with self._database.snapshot() as (connection, _):
            found = (self._database.identity(), connection.value("PRAGMA schema_version"))
            if self._stream is None or found != self._found:
                table = find_table(connection, self.entity.source, self._options.table)
                self._stream = self._stream_of(connection, table)
                self._found = found
        return self._stream

    def _stream_of(self, connection: Connection, table: Table) -> RowidStream | CursorStream:
        columns = find_columns(connection, table, self.entity.source_schema)
        name = find_cursor(table, self._options.cursor)
        stream, destination = self.entity.feed or self.entity.entity_id, self.entity.destination
        if name is None:
            reader = Reader(table, columns, place_of(table), stream)
            return RowidStream(self._database, reader, destination, self._options.most)
        block = self.entity.lakehouse
        cursor = Cursor(name, block.lookback_delta or timedelta(0), block.source_timezone)
        reader = Reader(table, columns, cursor.place(table), stream)
        return CursorStream(self._database, reader, destination, self._options.most, cursor)


def _options(entity: Entity) -> _Options:
    given = entity.read_options
    for name in given:
        if name not in OPTIONS:
            raise SettingsError(
                f"{entity.destination}: a sqlite source has no such read option",
                value=name,
                choices=OPTIONS,
                fix="correct or remove it",
            )
    return _Options(
        table=given.get("sqlite.table"),
        cursor=given.get("sqlite.cursor"),
        timeout=float(
            _checked(entity, "sqlite.timeout", "5", r"\d{1,6}(\.\d+)?", "a number of seconds such as 5 or 0.5")
        ),
        most=int(_checked(entity, "sqlite.maxRowsPerBatch", "0", r"0*[1-9]\d{0,17}", "a number of rows from 1"))
        or None,
        count_check=_checked(entity, "sqlite.count_check", "true", "(?i:true|false)", "true or false").lower()
        == "true",
    )


def _checked(entity: Entity, name: str, default: str, pattern: str, legal: str) -> str:
    value = entity.read_options.get(name)
    if value is None:
        return default
    if not re.fullmatch(pattern, value.strip()):
        raise SettingsError(
            f"{entity.destination}: the read option {name} has a value that it cannot have",
            value=value,
            choices=[legal],
            fix="correct or remove it",
        )
    return value.strip()
