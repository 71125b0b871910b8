"""One table of a kdb+ process: what it is, which dates it has, what they hold, its rows slice by slice.

What belongs here: the questions that are asked of the process, and answers as the lake holds them.
What does not: q's text (`kdb_queries.py`), connections (`kdb_client.py`), positions and plans (`kdb.py`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import pyarrow as pa

from lakehouse_assets.errors import (
    LakehouseError,
    SourceBusy,
    SourceError,
    SourceMissing,
    SourceUnreadable,
    TypeRefused,
)
from lakehouse_assets.sources import kdb_queries as q
from lakehouse_assets.sources.base import Fingerprint
from lakehouse_assets.sources.kdb_client import KdbClient, Param
from lakehouse_assets.sources.kdb_columns import ROW, fitted, microseconds, moved, numbered, untyped
from lakehouse_assets.sources.kdb_options import KdbOptions
from lakehouse_assets.sources.kdb_types import held, schema_of, typed

_OWN = frozenset({ROW.name, "_position", "_source", "_ingested_at"})
_SHOWN = 5
_LOOK = 1000
"""Rows that are looked at for the type of a column of lists, where no other place tells it."""
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Part:
    """A part of a table that is read by itself: a date, or where `date` is `None` the whole table.

    Attributes:
        column: the partition column; `None` of a whole table.
    """

    column: str | None = None
    date: dt.date | None = None

    def __str__(self) -> str:
        return f"{self.column} {self.date}" if self.column else "the whole table"


@dataclass(frozen=True)
class Slice:
    """Rows of a part as the lake holds them; `first` is the number of the first one."""

    first: int
    rows: pa.RecordBatch


class KdbTable:
    """A table, over one connection, which is made when the first question is asked.

    Args:
        who: the destination, for messages.
    """

    def __init__(self, client: KdbClient, options: KdbOptions, who: str) -> None:
        self.options = options
        self._client = client
        self._who = f"{who}: kdb+ {options.host}:{options.port}"
        self._where = f"{self._who}, table {options.table!r}"

    @cached_property
    def letters(self) -> Mapping[str, str]:
        """The columns and the letters of their types, as `meta` shows them: of the newest date of a partitioned table.

        Raises:
            SourceMissing: there is no such table; its error names those that are there.
        """
        tables = _texts(self._ask("its tables", lambda: self._client.value(q.TABLES)))
        if self.options.table not in tables:
            raise SourceMissing(
                f"{self._who} has no such table",
                value=self.options.table,
                choices=tables,
                fix="name one of them as `source` or kdb.table"
                if tables
                else "see whether the process loaded its data",
            )
        found = self._ask("its columns", lambda: self._client.table(q.META, self.options.table))
        names, kinds = found.column("c").to_pylist(), found.column("t").to_pylist()
        return {name or "": kind or " " for name, kind in zip(names, kinds, strict=True)}

    @cached_property
    def field(self) -> str | None:
        """The column by which the table is partitioned on disk; `None`: it is not."""
        self.letters  # noqa: B018 - the table is there
        asked = self._ask("how it is partitioned", lambda: self._client.value(q.PARTITION_FIELD, self.options.table))
        return str(asked) if asked else None

    def part(self, key: str | None) -> Part:
        """The part of a key, an ISO date; of `None` the whole table.

        Raises:
            SourceMissing: the key is no date, or the table has none.
        """
        if key is None:
            return Part()
        try:
            found = dt.date.fromisoformat(key)
        except ValueError:
            found = None
        if found is None or self.column is None:
            raise SourceMissing(
                f"{self._where} has no such partition",
                value=key,
                choices=["YYYY-MM-DD"] if self.column else [],
                fix="name a date" if self.column else "name its date column as kdb.partition",
            )
        return Part(self.column, found)

    @cached_property
    def column(self) -> str | None:
        """The date column that parts the table: that which the entity names, else that of a partitioned table.

        Raises:
            SourceMissing: the table has no such column.
            SourceError: it is no date, or another one than the table is partitioned by.
        """
        named = self.options.partition or self.field
        if self.field not in (None, named):
            raise SourceError(
                f"{self._where} is partitioned by another column",
                value=named,
                choices=[self.field],
                fix="name that one",
            )
        if named is not None and named not in self.letters:
            dates = [name for name, letter in self.letters.items() if letter == "d"]
            raise SourceMissing(
                f"{self._where} has no such column",
                value=named,
                choices=dates,
                fix="name a date column as kdb.partition",
            )
        if named is not None and self.letters[named] != "d":
            fix = "let the process show it with a date column"
            raise SourceError(
                f"{self._where}: the column {named!r} is no date: `meta` shows {self.letters[named]!r}",
                fix=fix
                if self.field
                else "name a date column as kdb.partition, or leave it out to read the whole table",
            )
        return named

    def dates(self) -> dict[dt.date, int]:
        """The rows of every date, in the order of dates.

        Raises:
            SourceError: rows have no date.
        """
        column = self.column or ""
        found = self._ask("its dates", lambda: self._client.table(q.PARTITIONS, self.options.table, column))
        days, rows = (found.column(place).to_pylist() for place in (0, 1))
        counts = dict(zip(days, rows, strict=True))
        if counts.pop(None, 0):
            raise SourceError(
                f"{self._where}: rows without a {column} belong to no partition",
                fix=f"give them a {column} at the source, or remove kdb.partition: the table is read whole then",
            )
        return {day: int(counts[day]) for day in sorted(counts)}

    def check(self, part: Part) -> None:
        """See that a part is there.

        Raises:
            SourceMissing: it is not; the error names the nearest that are.
        """
        if part.date is None:
            return
        known = self.dates()
        if part.date not in known:
            near = sorted(known, key=lambda day: abs((day - part.date).days))[:_SHOWN]  # type: ignore[operator]
            raise SourceMissing(
                f"{self._where} has no such partition",
                value=str(part.date),
                choices=sorted(map(str, near)),
                fix="extract one of its dates",
            )

    def fingerprint(self, part: Part) -> Fingerprint:
        """Rows and checksum of a part, now.

        Raises:
            SourceMissing: there is no such part.
        """
        found = self._fingerprint(part)
        if not found.rows:
            self.check(part)
        return found

    def schema(self, part: Part) -> pa.Schema:
        """The columns of a part as the lake holds them, with `_row`, without the partition column.

        Raises:
            SourceMissing: there is no such part.
            TypeRefused: a column has no type, or one that is not held.
        """
        self.check(part)
        return self._schema(self._expected(part))

    def slices(self, part: Part, known: Fingerprint | None = None) -> Iterator[Slice]:
        """The rows of a part in stored order, `kdb.sliceRows` at a time, with the columns of `schema(part)`.

        Args:
            known: the part's fingerprint, where it was asked already.

        Raises:
            SourceBusy: the part changed while it was read: known after the last slice.
            SourceError: a slice has other columns than the part.
        """
        before = known or self.fingerprint(part)
        expected = self._expected(part)
        schema = self._schema(expected)
        first = 0
        while first < before.rows:
            rows = min(self.options.slice_rows, before.rows - first)
            try:
                made = self._kept(self._fitted(part, expected, first, rows), first)
            except (SourceError, TypeRefused) as error:
                if error.facts.get("fault") in (None, "server"):
                    self._compare(part, before)
                raise
            for batch in pa.Table.from_arrays(made.columns, schema=schema).to_batches():
                yield Slice(first, batch)
                first += batch.num_rows
            del made, batch
        self._compare(part, before)

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def _fingerprint(self, part: Part) -> Fingerprint:
        text, given = self._asked(part, q.FINGERPRINT, q.WHOLE_FINGERPRINT)
        asked = self._ask(f"the fingerprint of {part}", lambda: self._client.value(text, *given))
        try:
            rows, checksum = asked
            return Fingerprint(int(rows), bytes(checksum.to_pylist()).hex())
        except (TypeError, ValueError, AttributeError):
            raise SourceUnreadable(f"{self._who}: {asked!r} is no fingerprint", fault="answer") from None

    def _compare(self, part: Part, before: Fingerprint) -> None:
        after = self._fingerprint(part)
        if after != before:
            raise SourceBusy(
                f"{self._where}: {part} changed while it was read: {before.rows:,} rows "
                f"before, {after.rows:,} after" + (", of other values" if after.rows == before.rows else ""),
                fix="try again, when the process that writes it is done",
            )

    def _fitted(self, part: Part, expected: pa.Schema, first: int, rows: int) -> pa.Table:
        """Rows with the decoded columns of their part: lists without any element get the type of the others."""
        found = self._slice(part, first, rows)
        where = f"{self._where}, rows {first} to {first + rows} of {part}"
        if found.num_rows != rows:
            raise SourceError(
                f"{where}: {found.num_rows} rows came", fix="see the table there: it is shorter than it says"
            )
        return fitted(found, expected, where)

    def _schema(self, expected: pa.Schema) -> pa.Schema:
        return self._kept(expected.empty_table(), 0).schema

    def _kept(self, table: pa.Table, first: int) -> pa.Table:
        """Rows as the lake holds them, with their numbers."""
        if self.options.nanoseconds == "refuse":
            return numbered(microseconds(table, first, self._where), first)
        return numbered(held(table), first)

    def _expected(self, part: Part) -> pa.Schema:
        """The decoded columns of a part, each with a type."""
        if part.column is None and self.field:  # it has no date yet, and is not read as one piece
            return schema_of(self.letters)
        found = self._slice(part, 0, 0)
        if any(untyped(of.type) for of in found.schema):
            found = typed(self._slice(part, 0, _LOOK), self.letters)
        for of in found.schema:
            if untyped(of.type):
                raise TypeRefused(
                    f"{self._where}: no row of {part} says of what the lists in column "
                    f"{of.name!r} are, and neither does `meta`",
                    column=of.name,
                    fix="leave the column out at the source, or type it there",
                )
            if of.name.lower() in _OWN:
                raise TypeRefused(
                    f"{self._where}: the column {of.name!r} has a name of the project's own",
                    column=of.name,
                    fix="rename it at the source",
                )
        return found.schema

    def _slice(self, part: Part, first: int, rows: int) -> pa.Table:
        """Rows as they decode, without the partition column."""
        text, given = self._asked(part, q.SLICE, q.WHOLE_SLICE)
        try:
            what = f"rows {first} to {first + rows} of {part}"
            return self._ask(what, lambda: self._client.table(text, *given, first, rows))
        except TypeRefused as error:
            raise moved(error, first) from None

    def _asked(self, part: Part, of_date: str, of_whole: str) -> tuple[str, tuple[Param, ...]]:
        """The text of a question about a part, and what it is asked with."""
        if part.column is None or part.date is None:
            return of_whole, (self.options.table,)
        return of_date, (self.options.table, part.column, part.date)

    def _ask(self, what: str, ask: Callable[[], _Answer]) -> _Answer:
        """An answer of the process; its errors say for which table it was asked, and what."""
        try:
            return ask()
        except LakehouseError as error:
            raise type(error)(
                f"{self._where}, {what}: {error.problem}",
                value=error.value,
                choices=error.choices,
                fix=error.fix,
                **{**error.facts, "table": self.options.table},
            ) from None


def _texts(found: Any) -> list[str]:
    return [str(name) for name in found.to_pylist()] if isinstance(found, pa.Array) else []
