"""Tables that are read by rowid: the stream of rows in the order in which they were made.

What belongs here: positions, closed ranges, parallel reading, the identity of the stream, the count check.
What does not: tables without a rowid, and timestamp cursors (`sqlite_cursor.py`).

A position is `{"rowid": 120, "rows": 117}`: the last rowid that was read, and how many rows were read until then.
The range between two positions is closed: rows that are added later have a greater rowid, because one writer at a time
gives them out. Limits: rows that are updated, deleted or inserted with a smaller rowid of their own are not seen by
`latest`; the count check tells of the last two, and a rebuild repairs all three.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.errors import IncarnationChanged
from lakehouse_assets.sources.base import Batch, Notice, Past, Position
from lakehouse_assets.sources.sqlite_db import Connection, Database
from lakehouse_assets.sources.sqlite_reader import Place, Query, Reader
from lakehouse_assets.sources.sqlite_table import Table
from lakehouse_assets.sources.sqlite_types import Cell, digest, ref

READERS = 2
"""Connections, each with a thread, that read a large range at the same time."""
CHUNK = 65_536
"""Rows that one thread reads at a time, fewer where rows are large."""
_CHUNK_BYTES = 128 * 2**20
LOOKED_UP = 4096
"""Rows of a chunk that are looked up one by one; where more are left out, the chunk is read once more."""
_LEAST = -(2**63)
_SEARCHED = 100_000
"""Rows that are searched for one that may have been renumbered."""
EMPTY = "empty"
"""The identity of a stream of which no row was read."""
GONE = "gone"
"""The identity of a stream whose last row is not there."""


def place_of(table: Table) -> Place:
    """`_position` of a table with a rowid: the rowid."""
    return Place(ref(str(table.rowid)), "0")


class RowidStream:
    """The rows of a table in the order of their rowid.

    Args:
        database: where the table is.
        reader: of the table.
        destination: for messages.
        most: the number of rows at which a batch ends; `None`: without limit.
    """

    def __init__(self, database: Database, reader: Reader, destination: str, most: int | None) -> None:
        self._database = database
        self.reader = reader
        self._table = reader.table
        self._destination = destination
        self._most = most
        self._rowid = ref(str(self._table.rowid))
        self._from = self._table.origin()
        self._verified: tuple[Position, str] | None = None

    def earliest(self) -> Position:
        """Before any rowid, negative ones included."""
        return {"rowid": None, "rows": 0}

    def latest(self, past: Past) -> Position:
        """The last rowid, or that of the last row which a batch may hold; `past.last` when there is no newer row."""
        start = past.last or self.earliest()
        low = _rowid(start)
        with self._database.snapshot() as (connection, _):
            last = connection.value(f"SELECT max({self._rowid}) {self._from}")
            if last is None or (low is not None and last <= low):
                return start
            after = self._range(low, None)
            if self._most is not None:
                ids = f"SELECT {self._rowid} AS id {self._from} WHERE {after.where} ORDER BY 1 LIMIT {self._most}"
                last, count = connection.rows(f"SELECT max(id), count(*) FROM ({ids})", *after.params)[0]
            else:
                count = self._count(connection, self._range(low, last))
        return {"rowid": last, "rows": start["rows"] + count}

    def read(self, start: Position, end: Position) -> Iterator[Batch]:
        """The rows of a closed range, in the order of their rowid."""
        low, high = _rowid(start), _rowid(end)
        if high is None or (low is not None and high <= low):
            return
        rows = max(1, end["rows"] - start["rows"])
        size = chunk_rows(rows, self._database.size())
        with self._database.snapshot(READERS if rows > size else 0) as (connection, others):
            if self._verified:
                self._check(connection, *self._verified)
            low = self._before_first(connection) if low is None else low
            chunks = self._chunks(connection, low, high, rows, size)
            if others:
                yield from self._parallel(others, chunks, size)
            else:
                for chunk in chunks:
                    yield from self._chunk(connection, *chunk, size)

    def _before_first(self, connection: Connection) -> int | None:
        """The number before the first rowid, if there is such a number."""
        first = connection.value(f"SELECT min({self._rowid}) {self._from}")
        return None if first in (None, _LEAST) else first - 1

    def _chunks(
        self, connection: Connection, low: int | None, high: int, rows: int, size: int
    ) -> Iterator[tuple[int | None, int]]:
        """Cut a range into ranges of at most `size` rows each."""
        dense = low is not None and high - low == rows
        while low is None or low < high:
            if dense and low is not None:
                cut = low + size
            else:
                after = self._range(low, high)
                cut = connection.value(
                    f"SELECT {self._rowid} {self._from} WHERE {after.where} ORDER BY 1 LIMIT 1 OFFSET {size - 1}",
                    *after.params,
                )
            cut = high if cut is None else min(cut, high)
            yield low, cut
            low = cut

    def _parallel(
        self, connections: list[Connection], chunks: Iterator[tuple[int | None, int]], size: int
    ) -> Iterator[Batch]:
        """Read chunks at the same time, and return them in their order; a chunk more than there are threads waits."""
        idle: SimpleQueue[Connection] = SimpleQueue()
        for connection in connections:
            idle.put(connection)

        def task(low: int | None, high: int) -> list[Batch]:
            connection = idle.get()
            try:
                return list(self._chunk(connection, low, high, size))
            finally:
                idle.put(connection)

        pending: deque[Future[list[Batch]]] = deque()
        with ThreadPoolExecutor(len(connections), thread_name_prefix="sqlite") as pool:
            try:
                for chunk in chunks:
                    pending.append(pool.submit(task, *chunk))
                    if len(pending) > len(connections):
                        yield from pending.popleft().result()
                while pending:
                    yield from pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _chunk(self, connection: Connection, low: int | None, high: int, size: int) -> Iterator[Batch]:
        """The rows of a small range: those that fit the fast way, then what that left out the exact way."""
        query = self._range(low, high)
        places: list[pa.Array] = []
        for batch in self.reader.fast(connection, query, size):
            places += [part.column("_position") for part in (batch.rows, batch.misfits) if part is not None]
            yield batch
        seen = pa.chunked_array(places, pa.string()).cast(pa.int64())
        left = self._left_out(connection, query, low, high, seen)
        if left is None:
            yield from self.reader.rest(connection, query)
        elif left:
            ids = ", ".join(map(str, left))
            yield from self.reader.exact(connection, Query(f"{self._rowid} IN ({ids})"))

    def _left_out(
        self, connection: Connection, query: Query, low: int | None, high: int, seen: pa.ChunkedArray
    ) -> list[int] | None:
        """The rowids of a range that were not seen, but for some that are not there; `None` where they are many."""
        if low is not None and high - low == len(seen):
            return []
        if low is not None and high - low - len(seen) <= LOOKED_UP:
            return _without(pa.chunked_array([pa.array(range(low + 1, high + 1), pa.int64())]), seen)
        missing = self._count(connection, query) - len(seen)
        if not missing:
            return []
        if missing > LOOKED_UP:
            return None
        ids = f"SELECT {self._rowid} {self._from} WHERE {query.where}"
        found = [read.column(0) for read in connection.stream(["0"], ids, query.params, CHUNK)]
        return _without(pa.chunked_array(found, pa.int64()), seen)

    def incarnation(self, position: Position) -> str:
        """Hashes of the values of the row at `position`, by column: so a column that is added later changes nothing."""
        if _rowid(position) is None:
            return EMPTY
        with self._database.snapshot() as (connection, _):
            names = [column.name for column in self._table.columns if not column.generated]
            cells = self._row(connection, position["rowid"], names)
        return GONE if cells is None else json.dumps(_hashes(names, cells), ensure_ascii=False, separators=(",", ":"))

    def verify(self, position: Position, recorded: str) -> list[Notice]:
        """Compare the row at `position` with the one that was read there; `read` does so again in its snapshot."""
        with self._database.snapshot() as (connection, _):
            notices = self._check(connection, position, recorded)
        self._verified = (position, recorded)
        return notices

    def _check(self, connection: Connection, position: Position, recorded: str) -> list[Notice]:
        if _rowid(position) is None:
            return []
        known: Mapping[str, str] = json.loads(recorded) if recorded.startswith("{") else {}
        names = [column.name for column in self._table.columns if column.name in known]
        cells = self._row(connection, position["rowid"], names)
        if cells is None:
            return self._missing(connection, position, known)
        found = _hashes(names, cells)
        differing = [name for name in names if found[name] != known[name]]
        if names and not differing:
            return []
        where = f"differs in {', '.join(differing)}" if differing else "has none of the columns that it had"
        raise self._renumbered(connection, position, known) or self._refusal(
            position,
            "changed",
            f"the row {position['rowid']} {where}: the table was made again or restored and has grown past that row "
            f"since, or the row was updated",
        )

    def _missing(self, connection: Connection, position: Position, known: Mapping[str, str]) -> list[Notice]:
        rowid = position["rowid"]
        given = self._sequence(connection)
        if given is not None and given >= rowid:
            return [
                Notice(
                    "pruned",
                    f"{self._destination}: the last row that was read, {rowid}, was deleted in the source; its table "
                    f"{self._table.name!r} never gives out an id twice (AUTOINCREMENT has reached {given}), so reading "
                    f"goes on behind it",
                )
            ]
        last = connection.value(f"SELECT max({self._rowid}) {self._from}")
        if last is None:
            raise self._refusal(position, "emptied", "the table is empty: it was emptied, or made again")
        if moved := self._renumbered(connection, position, known):
            raise moved
        if last > rowid:
            raise self._refusal(position, "deleted", f"the row {rowid} was deleted, and its id may be given out again")
        reached = "" if given is None else f" (AUTOINCREMENT has only reached {given})"
        raise self._refusal(
            position,
            "truncated",
            f"its last row is {last}: it was truncated, restored from an older copy or made again{reached}",
        )

    def _renumbered(
        self, connection: Connection, position: Position, known: Mapping[str, str]
    ) -> IncarnationChanged | None:
        moved = self._moved(connection, position, known)
        if moved is None:
            return None
        return self._refusal(
            position,
            "renumbered",
            f"the row that stood at {position['rowid']} now stands at {moved}: VACUUM renumbers a table without an "
            f"INTEGER PRIMARY KEY",
        )

    def _refusal(self, position: Position, seen: str, what: str) -> IncarnationChanged:
        return IncarnationChanged(
            f"{self._destination}: table {self._table.name!r} of {self._database.path} is not as it was when "
            f"{position['rows']} rows were read up to rowid {position['rowid']}: {what}",
            fix=f"bring the old database back, or read the new one from its start: lakehouse run --full-refresh "
            f"{self._destination} (or give it its own feed name, to keep what was read)",
            position=dict(position),
            seen=seen,
        )

    def _moved(self, connection: Connection, position: Position, known: Mapping[str, str]) -> str | None:
        """Where the row that was read last stands now, if the table can be renumbered and the row is not far away."""
        names = [column.name for column in self._table.columns if column.name in known]
        if self._table.alias or not names:
            return None
        near = (
            f"{self._rowid} IN (SELECT {self._rowid} {self._from} WHERE {self._rowid} < ? ORDER BY 1 DESC "
            f"LIMIT {_SEARCHED})"
        )
        for rows in self.reader.cells(connection, Query(near, (position["rowid"],)), [ref(name) for name in names]):
            for place, cells in rows:
                if _hashes(names, cells) == {name: known[name] for name in names}:
                    return place
        return None

    def audit(self, past: Past) -> list[Notice]:
        """Compare the number of rows up to the position with the number that was read."""
        if past.last is None or _rowid(past.last) is None:
            return []
        with self._database.snapshot() as (connection, _):
            found = self._count(connection, self._range(None, past.last["rowid"]))
        return count_notice(self._destination, self._table.name, past.last["rows"], found)

    def describe(self) -> dict[str, Any]:
        """The cursor, the last value, and whether ids are stable."""
        with self._database.snapshot() as (connection, _):
            last = connection.value(f"SELECT max({self._rowid}) {self._from}")
            given = self._sequence(connection)
        ids = "never given out twice (AUTOINCREMENT)" if given is not None else "kept by VACUUM"
        return {
            "cursor": self._table.rowid,
            "last_rowid": last,
            "ids": ids if self._table.alias else "renumbered by VACUUM",
        }

    def _range(self, low: int | None, high: int | None) -> Query:
        parts = [(f"{self._rowid} > ?", low), (f"{self._rowid} <= ?", high)]
        given = [(sql, value) for sql, value in parts if value is not None]
        return Query(" AND ".join(sql for sql, _ in given) or "1", tuple(value for _, value in given))

    def _count(self, connection: Connection, query: Query) -> int:
        return int(connection.value(f"SELECT count(*) {self._from} WHERE {query.where}", *query.params))

    def _row(self, connection: Connection, rowid: int, names: list[str]) -> tuple[Cell, ...] | None:
        query = Query(f"{self._rowid} = ?", (rowid,))
        for rows in self.reader.cells(connection, query, [ref(name) for name in names]):
            return tuple(rows[0][1])
        return None

    def _sequence(self, connection: Connection) -> int | None:
        """The greatest rowid that was ever given out, where SQLite keeps it (AUTOINCREMENT)."""
        if not connection.value("SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'"):
            return None
        kept = "SELECT CAST(max(seq) AS INTEGER) FROM sqlite_sequence WHERE name = ?"
        return cast("int | None", connection.value(kept, self._table.name))


def chunk_rows(rows: int, size: int) -> int:
    """How many rows are read at a time: fewer where they are large, as far as the size of the file (bytes) tells."""
    return max(1, min(CHUNK, _CHUNK_BYTES * rows // max(1, size)))


def _without(ids: pa.ChunkedArray, seen: pa.ChunkedArray) -> list[int]:
    """`ids` that are not `seen`, in their order."""
    return cast("list[int]", ids.filter(pc.invert(pc.is_in(ids, value_set=seen))).to_pylist())


def _rowid(position: Position) -> int | None:
    """The rowid of a position of this kind of stream."""
    if "rowid" not in position:
        raise IncarnationChanged(
            "the table was read by another cursor before, and is read by its rowid now",
            value=json.dumps(position)[:200],
            fix="set the read option sqlite.cursor as it was, or rebuild with --full-refresh",
            seen="cursor",
        )
    return cast("int | None", position["rowid"])


def _hashes(names: list[str], cells: tuple[Cell, ...] | Any) -> dict[str, str]:
    return {name: digest(cell, size=6).hex() for name, cell in zip(names, cells, strict=True)}


def count_notice(destination: str, table: str, read: int, found: int) -> list[Notice]:
    """What the count check says: nothing when as many rows are there as were read."""
    if found == read:
        return []
    more = found > read
    what = (
        f"{found - read} rows came late: they were added behind the position and are not read"
        if more
        else f"{read - found} rows were deleted since they were read, or were replaced by newer ones"
    )
    return [
        Notice(
            "rows_late" if more else "rows_missing",
            f"{destination}: table {table!r} has {found} rows up to the position, {read} were read: {what}. "
            f"Reading goes on; to take the table as it is now, rebuild it: lakehouse run --full-refresh {destination}",
        )
    ]
