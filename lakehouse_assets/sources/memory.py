"""A stream that lives in memory: for unit tests of tables and pipelines, users' own included.

What belongs here: the honest stand-in that keeps the contract of a source. What does not: faults on purpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from lakehouse_assets.errors import IncarnationChanged, SourceMissing
from lakehouse_assets.sources.base import ROW_FIELDS, Batch, Past, Position, Source

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import Entity

Rows: TypeAlias = pa.RecordBatch | pa.Table | Sequence[Mapping[str, Any]]
"""Rows to append: Arrow, or dictionaries."""


class MemorySource(Source):
    """Rows in memory; the position is `{"row": count}`, the incarnation a hash of the last row up to it.

    Several sources can be opened on one list: `MemorySource(entity, source.stream)` sees what the other appends.

    Args:
        entity: its `source` becomes the rows' `_source`, its `source_schema` their schema where it is given.
        stream: the rows so far; this very list is kept and grows with `append`.
        schema: the columns, where the entity gives none and the stream is empty.
        batch_rows: the most rows in one batch of a read.
    """

    def __init__(
        self,
        entity: Entity,
        stream: list[pa.RecordBatch] | None = None,
        *,
        schema: pa.Schema | None = None,
        batch_rows: int = 10_000,
    ) -> None:
        super().__init__(entity)
        self.stream: list[pa.RecordBatch] = [] if stream is None else stream
        self.batch_rows = batch_rows
        self._schema = schema or _declared(entity)

    def append(self, rows: Rows) -> None:
        """Put rows at the end of the stream; they must have its schema."""
        table = _table(rows, self._schema or (self.stream[0].schema if self.stream else None))
        if self.stream and not table.schema.equals(self.stream[0].schema):
            raise ValueError(f"the stream holds {self.stream[0].schema}, not {table.schema}")
        self.stream.extend(table.to_batches())

    def schema(self) -> pa.Schema:
        """The columns of the rows.

        Raises:
            SourceMissing: nothing was appended and no schema is declared.
        """
        if self.stream:
            return self.stream[0].schema
        if self._schema is None:
            raise SourceMissing(
                f"{self.entity.destination}: the stream in memory is empty and has no schema",
                fix="append rows first, or declare source_schema",
            )
        return self._schema

    def earliest(self) -> Position:
        """Before the first row."""
        return {"row": 0}

    def latest(self, past: Past) -> Position:
        """After the last row."""
        return {"row": self._count()}

    def read(self, start: Position, end: Position) -> Iterator[Batch]:
        """The rows from number `start` up to `end`, at most `batch_rows` at a time.

        Raises:
            IncarnationChanged: the stream is shorter than `end`.
        """
        if end["row"] > self._count():
            raise IncarnationChanged(
                f"{self.entity.destination}: the stream in memory has {self._count()} rows, but the range ends after "
                f"row {end['row']}",
                fix=f"read from its start: lakehouse run --full-refresh {self.entity.destination}",
            )
        first = 0
        for batch in self.stream:
            low, high = max(start["row"] - first, 0), min(end["row"] - first, batch.num_rows)
            for at in range(low, high, self.batch_rows):
                yield Batch(self._with_fields(batch.slice(at, min(self.batch_rows, high - at)), first + at))
            first += batch.num_rows

    def incarnation(self, position: Position) -> str:
        """A hash of the last row up to `position`; "absent" where the stream is shorter."""
        wanted = position["row"]
        for batch in self.stream:
            if wanted <= batch.num_rows:
                row = batch.slice(wanted - 1, 1).to_pylist() if wanted else []
                return hashlib.sha256(repr(row).encode()).hexdigest()
            wanted -= batch.num_rows
        return "absent" if wanted else hashlib.sha256(b"[]").hexdigest()

    def describe(self) -> dict[str, Any]:
        """Kind, name and number of rows."""
        return {"kind": "memory", "location": self.entity.source, "rows": self._count()}

    def _count(self) -> int:
        return sum(batch.num_rows for batch in self.stream)

    def _with_fields(self, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
        positions = pa.array([str(first + at) for at in range(batch.num_rows)], pa.string())
        sources = pa.repeat(pa.scalar(self.entity.source, pa.string()), batch.num_rows)
        columns = [*batch.columns, positions, sources]
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema([*batch.schema, *ROW_FIELDS]))


def _declared(entity: Entity) -> pa.Schema | None:
    if not entity.source_schema:
        return None
    from lakehouse_assets.sql.types import arrow_schema

    return arrow_schema(entity.source_schema)


def _table(rows: Rows, schema: pa.Schema | None) -> pa.Table:
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
