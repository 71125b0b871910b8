"""Tables that are read by a cursor column: no rowid, or one that cannot be trusted.

What belongs here: positions, windows, exact de-duplication, the identity of the stream, the count check.
What does not: keys and time zones (`sqlite_instants.py`), tables read by rowid (`sqlite_rowid.py`).

A position is the last key `at`, the key `from` from which on rows are remembered, and hashes of the rows that were
read with a key in between (`seen`) or with no key (`loose`): of their primary key, or of all their values where there
is none; equal rows count as often as they are there. The next batch reads from `from` on, leaves out what is
remembered, and ends in a position of its own; so rows that come later with a key already seen are read once, and a
range is read again as it was, whatever came since.

Limits. Rows that come with a key older than `lookback` behind the last are not read, or with a range that is read again
(the count check finds them; so it does the repeated hour of a zone with daylight saving time, unless the lookback is as
long). One value far in the future makes all others late. A position remembers up to 100,000 rows. Without an index on
the cursor each look reads the whole table, with one it reads the times of a day. Updates and deletes as with rowids.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lakehouse_assets.errors import IncarnationChanged, SourceError
from lakehouse_assets.sources.base import Batch, Notice, Past, Position
from lakehouse_assets.sources.sqlite_db import Connection, Database
from lakehouse_assets.sources.sqlite_instants import NUMBER, TIME, Cursor, Key
from lakehouse_assets.sources.sqlite_marks import Left, Mark, packed
from lakehouse_assets.sources.sqlite_reader import Query, Read, Reader
from lakehouse_assets.sources.sqlite_rowid import EMPTY, GONE, count_notice
from lakehouse_assets.sources.sqlite_types import Affinity, digest, ref

REMEMBERED = 100_000
"""Rows that a position remembers at most: 1.6 MB."""
_CHUNK = 32_768


class CursorStream:
    """The rows of a table in the order of a cursor column.

    Args:
        database: where the table is.
        reader: of the table.
        destination: for messages.
        most: the number of rows at which a batch ends, but for rows of the same key; `None`: without limit.
        cursor: the cursor column.
    """

    def __init__(self, database: Database, reader: Reader, destination: str, most: int | None, cursor: Cursor) -> None:
        self._database = database
        self.reader = reader
        self._table = reader.table
        self._destination = destination
        self._most = most
        self._cursor = cursor
        self._from = self._table.origin(indexed=True)

    def earliest(self) -> Position:
        """Before any key, and before rows without one."""
        return {"at": None, "rows": 0}

    def latest(self, past: Past) -> Position:
        """The last key, or that at which a batch is full; `past.last` when there is no row that was not read."""
        position = past.last or self.earliest()
        start = Mark.of(position)
        with self._database.snapshot() as (connection, _):
            kind = start.kind or self._kind(connection)
            at = self._end(connection, kind, start.at)
            if at is None:
                self._refuse_unusable(connection)
            since = None if at is None else self._cursor.back(kind, at)
            end = Mark(at, since, at if at is None else kind, start.key or self._table.key, loose=start.loose.copy())
            fresh = self._count(connection, self._middle(kind, start, end)) + self._remember(
                connection, kind, start, end
            )
        return replace(end, rows=start.rows + fresh).position() if fresh else position

    def _remember(self, connection: Connection, kind: str, start: Mark, end: Mark) -> int:
        """Note the rows that `end` has to remember, and return how many of those in reach were not read yet."""
        fresh = 0
        remembered = end.loose.total()
        old = Left(start)
        for rows in self._reach(connection, kind, start, end, ()):
            for _, (*identity, key) in rows:
                hashed = digest(*identity)
                new = not old.take(key, hashed)
                fresh += new
                kept = end.seen if end.holds(key) else end.loose if key is None and new else None
                if kept is not None:
                    kept[hashed] += 1
                    remembered += 1
            if remembered > REMEMBERED:
                raise self._too_many(end)
        return fresh

    def read(self, start: Position, end: Position) -> Iterator[Batch]:
        """The rows of a closed range: first those out of reach of both ends, then, one by one, those within."""
        low, high = Mark.of(start), Mark.of(end)
        if low == high:
            return
        with self._database.snapshot() as (connection, _):
            kind = high.kind or self._kind(connection)
            middle = self._middle(kind, low, high)
            if middle:
                yield from self._outside(connection, middle)
            old, known = Left(low), Left(high)
            columns = [ref(column.source) for column in self.reader.columns]
            for rows in self._reach(connection, kind, low, high, columns):
                chosen = [
                    (place, cells[: len(columns)])
                    for place, cells in rows
                    if _wanted(old, known, cells[-1], digest(*cells[len(columns) : -1]))
                ]
                if chosen:
                    yield self.reader.batch(chosen)

    def _outside(self, connection: Connection, middle: Query) -> Iterator[Batch]:
        seen = 0
        for batch in self.reader.fast(connection, middle, _CHUNK):
            seen += batch.rows.num_rows + (batch.misfits.num_rows if batch.misfits else 0)
            yield batch
        if seen < self._count(connection, middle):
            yield from self.reader.rest(connection, middle)

    def _middle(self, kind: str, start: Mark, end: Mark) -> Query | None:
        """The rows between the last key of `start` and the first that `end` remembers."""
        if end.since is None or (start.at is not None and end.since <= start.at):
            return None
        return Query(self._cursor.between(kind, start.at, end.since, above=True, below=True), indexed=True)

    def _reach(
        self, connection: Connection, kind: str, start: Mark, end: Mark, columns: Sequence[str]
    ) -> Iterator[list[Read]]:
        """The rows that one of two positions remembers or would: cells of `columns`, of the identity, and the key."""
        between = self._cursor.between
        parts = [between(kind, start.since, start.at)] if start.at is not None else []
        if start.at is None or end.since is None or end.since > start.at:
            parts += [between(kind, end.since, end.at)] if end.at is not None else []
        elif end.at != start.at:
            parts.append(between(kind, start.at, end.at, above=True))
        values = [*columns, *self._identity(end), self._cursor.key(kind)]
        for part in [*parts, *self._cursor.loose(kind, start.since)]:
            yield from self.reader.cells(connection, Query(part, indexed=True), values)

    def _identity(self, mark: Mark) -> list[str]:
        """The columns by which rows are told apart, as they were when the first position was made."""
        for name in mark.key:
            if self._table.column(name) is None:
                raise self._refusal(mark, "changed", f"the column {name!r}, by which rows are told apart, is not there")
        return [ref(name) for name in mark.key]

    def _kind(self, connection: Connection) -> str:
        """What the keys are: by the declared type where it decides, else what most values are."""
        column = self._table.column(self._cursor.name)
        declared = column.affinity if column else Affinity.NONE
        if declared in (Affinity.TEXT, Affinity.INTEGER, Affinity.REAL):
            return TIME if declared is Affinity.TEXT else NUMBER
        counts = ", ".join(f"count({self._cursor.key(kind)})" for kind in (TIME, NUMBER))
        times, numbers = connection.rows(f"SELECT {counts} {self._from}")[0]
        return NUMBER if numbers > times else TIME

    def _end(self, connection: Connection, kind: str, at: Key | None) -> Key | None:
        """The last key, or that of the last row which a batch may hold."""
        where = self._cursor.between(kind, at, None, above=True)
        key = self._cursor.key(kind)
        last: Key | None = connection.value(f"SELECT max({key}) {self._from} WHERE {where}")
        if last is not None and self._most is not None:
            keys = f"SELECT {key} AS k {self._from} WHERE {where} ORDER BY k LIMIT 1 OFFSET {self._most - 1}"
            full = connection.value(keys)
            last = last if full is None else full
        return at if last is None else last

    def _count(self, connection: Connection, query: Query | None) -> int:
        return connection.value(f"SELECT count(*) {self._from} WHERE {query.where}") if query else 0

    def incarnation(self, position: Position) -> str:
        """A hash of the rows at the last key that were read and are there."""
        mark = Mark.of(position)
        if mark.at is None:
            return EMPTY
        with self._database.snapshot() as (connection, _):
            present = self._present(connection, mark, mark.at)
        return hashlib.blake2b(packed(present), digest_size=16).hexdigest() if present else GONE

    def _present(self, connection: Connection, mark: Mark, low: Key) -> Counter[bytes]:
        """Which of the rows with a key from `low` on that are remembered are there."""
        query = Query(self._cursor.between(str(mark.kind), low, mark.at), indexed=True)
        found: Counter[bytes] = Counter()
        for rows in self.reader.cells(connection, query, self._identity(mark)):
            found.update(digest(*cells) for _, cells in rows)
        return found & mark.seen

    def verify(self, position: Position, recorded: str) -> list[Notice]:
        """Compare the rows at the last key with those that were read."""
        mark = Mark.of(position)
        found = self.incarnation(position)
        if found == recorded:
            return []
        if found != GONE:
            return [
                Notice(
                    "boundary_changed",
                    f"{self._destination}: some of the last rows that were read from {self._table.name!r} were deleted "
                    f"or updated in the source; the others are there, so reading goes on",
                )
            ]
        with self._database.snapshot() as (connection, _):
            last = self._end(connection, str(mark.kind), None)
        if last is None:
            raise self._refusal(mark, "emptied", "no row has a cursor value now")
        if mark.at is not None and last < mark.at:
            raise self._refusal(mark, "truncated", f"the last value is {last} now: it was truncated or restored")
        raise self._refusal(
            mark, "changed", "none of the rows that were read with that value is there: the table was made again or "
            "restored, or the rows were deleted or updated"
        )  # fmt: skip

    def audit(self, past: Past) -> list[Notice]:
        """Compare the rows up to the position with those that were read; tell of rows without a cursor value."""
        if past.last is None or not past.last["rows"]:
            return []
        mark = Mark.of(past.last)
        notices: list[Notice] = []
        with self._database.snapshot() as (connection, _):
            kind = mark.kind or self._kind(connection)
            found = 0
            if mark.at is not None and mark.since is not None:
                older = Query(self._cursor.between(kind, None, mark.since, below=True), indexed=True)
                found = self._count(connection, older) + self._present(connection, mark, mark.since).total()
                if self._cursor.zone is None and kind == TIME and self._assumed(connection, mark):
                    notices.append(self._notice("assumed_utc", "holds times without a zone, which are taken for UTC: "
                                                "declare `source_timezone`"))  # fmt: skip
            loose, unread = self._loose(connection, kind, mark)
        if mark.loose:
            notices.append(self._notice("no_cursor", f"is no time or number in {mark.loose.total()} rows: they were "
                                        f"read when they were first seen, whatever their age"))  # fmt: skip
        if unread:
            notices.append(self._notice("rows_unread", f"is no time in {unread} rows that came since and are not read: "
                                        f"a rebuild reads them"))  # fmt: skip
        return [*notices, *count_notice(self._destination, self._table.name, mark.rows, found + loose)]

    def _loose(self, connection: Connection, kind: str, mark: Mark) -> tuple[int, int]:
        """How many rows without a key were read, and how many will not be found by the next look."""
        old = Left(mark)
        read = unread = 0
        found = f"(({' OR '.join(self._cursor.loose(kind, mark.since))}) IS TRUE)"
        for part in self._cursor.loose(kind):
            for rows in self.reader.cells(connection, Query(part, indexed=True), [*self._identity(mark), found]):
                for _, (*identity, is_found) in rows:
                    if old.take(None, digest(*identity)):
                        read += 1
                    elif not is_found:
                        unread += 1
        return read, unread

    def _assumed(self, connection: Connection, mark: Mark) -> bool:
        where = self._cursor.between(TIME, mark.since, mark.at)
        return bool(
            connection.value(f"SELECT EXISTS (SELECT 1 {self._from} WHERE {where} AND {self._cursor.zoneless})")
        )

    def describe(self) -> dict[str, Any]:
        """The cursor and its last value."""
        with self._database.snapshot() as (connection, _):
            kind = self._kind(connection)
            last = self._end(connection, kind, None)
        shown = last if last is None or kind == NUMBER else datetime.fromtimestamp(last, UTC).isoformat()
        return {"cursor": self._cursor.name, "cursor_kind": kind, "last_value": shown}

    def _refuse_unusable(self, connection: Connection) -> None:
        place = self.reader.place.sql
        example = connection.value(f"SELECT {place} {self._from} WHERE {self._cursor.ref} IS NOT NULL LIMIT 1")
        if example is not None:
            raise SourceError(
                f"{self._destination}: the cursor column {self._cursor.name!r} of table {self._table.name!r} holds no "
                f"number and no ISO 8601 time",
                value=example,
                fix="name another column with sqlite.cursor, one with numbers or times such as 2025-05-01T10:00:00Z",
            )

    def _too_many(self, end: Mark) -> SourceError:
        return SourceError(
            f"{self._destination}: more than {REMEMBERED} rows of table {self._table.name!r} have a value of "
            f"{self._cursor.name!r} within the lookback of the last one ({end.since} to {end.at}), or none at all: a "
            f"position cannot remember them all",
            fix="shorten `lookback`, or name a cursor column that tells rows apart better"
            + (" (sqlite.cursor: rowid)" if self._table.rowid else ""),
        )

    def _refusal(self, mark: Mark, seen: str, what: str) -> IncarnationChanged:
        return IncarnationChanged(
            f"{self._destination}: table {self._table.name!r} of {self._database.path} is not as it was when "
            f"{mark.rows} rows were read up to {self._cursor.name} = {mark.at}: {what}",
            fix=f"bring the old database back, or read the new one from its start: lakehouse run --full-refresh "
            f"{self._destination} (or give it its own feed name, to keep what was read)",
            seen=seen,
        )

    def _notice(self, code: str, what: str) -> Notice:
        return Notice(code, f"{self._destination}: the cursor {self._cursor.name!r} of {self._table.name!r} {what}")


def _wanted(old: Left, known: Left, key: Any, hashed: bytes) -> bool:
    """Whether a row belongs to the range: not read before its start, and there when its end was planned."""
    was_read = old.take(key, hashed)
    was_there = known.take(key, hashed) or not known.reaches(key)
    return was_there and not was_read
