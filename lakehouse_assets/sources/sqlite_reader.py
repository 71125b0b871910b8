"""Rows: from SQLite to batches, in two ways that agree.

What belongs here: the columns of a batch, the fast way, the exact way, the misfits.
What does not: which rows are read (`sqlite_rowid.py`, `sqlite_cursor.py`), what fits (`sqlite_types.py`).

The fast way lets SQLite check the class of every cell and return only rows that fit; the driver writes them to Arrow.
The exact way reads each cell with its class, and tells fit from misfit in Python. It reads what the fast way left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from lakehouse_assets.sources.base import MISFIT_SCHEMA, ROW_FIELDS, Batch
from lakehouse_assets.sources.sqlite_db import Connection
from lakehouse_assets.sources.sqlite_table import Table
from lakehouse_assets.sources.sqlite_types import Cell, Column, Text, literal, ref

_EXACT_ROWS = 4096
"""Rows that the exact way holds at a time."""

Read = tuple[str, Sequence[Cell]]
"""A row as the exact way reads it: its place in the stream, and its cells in the order that was asked for."""


@dataclass(frozen=True)
class Place:
    """What `_position` says of a row: an SQL expression that is a text, or an integer (a rowid), and never NULL."""

    sql: str
    seed: str = "''"


@dataclass(frozen=True)
class Query:
    """A part of a table.

    Args:
        where: a condition on the table `t`.
        params: its parameters.
        indexed: whether SQLite may use an index, and so choose the order.
    """

    where: str
    params: tuple[object, ...] = ()
    indexed: bool = False


@dataclass(frozen=True)
class Reader:
    """Reads rows of one table.

    Args:
        table: the table.
        columns: what is read of it.
        place: what `_position` says.
        stream: what `_source` says.
    """

    table: Table
    columns: tuple[Column, ...]
    place: Place
    stream: str

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the source, without `ROW_FIELDS`."""
        return pa.schema([pa.field(column.name, column.type, column.nullable) for column in self.columns])

    @cached_property
    def full_schema(self) -> pa.Schema:
        """The columns of a batch."""
        return pa.schema([*self.schema, *ROW_FIELDS])

    @cached_property
    def fits(self) -> str:
        """The condition under which the driver reads a row without loss; never NULL."""
        return f"({' AND '.join(fits for column in self.columns if (fits := column.fits_sql())) or 1})"

    def fast(self, connection: Connection, query: Query, size: int) -> Iterator[Batch]:
        """The rows that fit, in batches of at most `size` rows, in the order in which SQLite finds them.

        Rows with text that is not UTF-8, which SQL cannot see, come as misfits.
        """
        values = ", ".join(ref(column.source) for column in self.columns)
        where = f"({query.where}) AND {self.fits}"
        select = f"SELECT {values}, {self.place.sql} {self.table.origin(query.indexed)} WHERE {where}"
        seeds = [*(column.seed for column in self.columns), self.place.seed]
        for read in connection.stream(seeds, select, query.params, size):
            yield from self._checked(read)

    def rest(self, connection: Connection, query: Query) -> Iterator[Batch]:
        """The rows that `fast` leaves out, the exact way."""
        unfit = Query(f"({query.where}) AND NOT {self.fits}", query.params, query.indexed)
        return self.exact(connection, unfit)

    def exact(self, connection: Connection, query: Query) -> Iterator[Batch]:
        """All rows of `query`, the exact way."""
        values = [ref(column.source) for column in self.columns]
        for rows in self.cells(connection, query, values):
            yield self.batch(rows)

    def cells(self, connection: Connection, query: Query, values: Sequence[str]) -> Iterator[list[Read]]:
        """The rows of `query` as they are stored: bounded lists of rows, with the cells of `values` (SQL)."""
        pairs = "".join(f", {_tagged(value)}, {_real(value)}" for value in values)
        place = f"CAST({self.place.sql} AS TEXT)"
        select = f"SELECT {place}{pairs} {self.table.origin(query.indexed)} WHERE {query.where}"
        seeds = ["''", *["''", "0.0"] * len(values)]
        for read in connection.stream(seeds, select, query.params, _EXACT_ROWS):
            places = [place.decode(errors="replace") for place in read.column(0).cast(pa.binary()).to_pylist()]
            columns = [
                list(map(_cell, _bytes(read, at), read.column(at + 1).to_pylist()))
                for at in range(1, read.num_columns, 2)
            ]
            yield list(zip(places, zip(*columns, strict=True) if columns else ((),) * len(places), strict=True))

    def batch(self, rows: Sequence[Read]) -> Batch:
        """Rows read the exact way, told apart: the cells are those of the columns, in their order."""
        fit: list[Read] = []
        unfit: list[tuple[Read, list[str]]] = []
        for row in rows:
            reasons = [c.name for c, cell in zip(self.columns, row[1], strict=True) if not c.fits(cell)]
            if reasons:
                unfit.append((row, reasons))
            else:
                fit.append(row)
        misfits = self._misfits(unfit)
        return Batch(self._rows(fit), misfits, None if misfits is None else self._rows([row for row, _ in unfit]))

    def _rows(self, rows: Sequence[Read]) -> pa.RecordBatch:
        """Rows in the columns' types; a value that does not fit is NULL."""
        arrays: list[pa.Array] = [
            pa.array([c.value(cells[at]) if c.fits(cells[at]) else None for _, cells in rows], c.type)
            for at, c in enumerate(self.columns)
        ]
        arrays += [pa.array([place for place, _ in rows], pa.string()), pa.repeat(pa.scalar(self.stream), len(rows))]
        return pa.RecordBatch.from_arrays(arrays, schema=self.full_schema)

    def _misfits(self, rows: Sequence[tuple[Read, list[str]]]) -> pa.RecordBatch | None:
        if not rows:
            return None
        names = [column.name for column in self.columns]
        upstream = [
            json.dumps(dict(zip(names, map(literal, cells), strict=True)), ensure_ascii=False) for (_, cells), _ in rows
        ]
        reasons = [[f"cast_failed:{name}" for name in failed] for _, failed in rows]
        places = [place for (place, _), _ in rows]
        return pa.RecordBatch.from_arrays(
            [pa.array(upstream), pa.array(reasons), pa.array(places), pa.array([self.stream] * len(rows))],
            schema=MISFIT_SCHEMA,
        )

    def _checked(self, read: pa.RecordBatch) -> Iterator[Batch]:
        arrays = [column.array(array) for column, array in zip(self.columns, read.columns, strict=False)]
        arrays += [read.columns[-1].cast(pa.string()), pa.repeat(pa.scalar(self.stream), read.num_rows)]
        rows = pa.RecordBatch.from_arrays(arrays, schema=self.full_schema)
        try:
            rows.validate(full=True)
        except pa.ArrowInvalid:
            yield from self._without_bad_text(rows)
        else:
            yield Batch(rows)

    def _without_bad_text(self, rows: pa.RecordBatch) -> Iterator[Batch]:
        """Rows with text that is not UTF-8 are taken apart again, and told from the others the exact way."""
        texts = [_bytes(rows, at) for at, field in enumerate(rows.schema) if field.type == pa.string()]
        bad = sorted(
            {row for column in texts for row, text in enumerate(column) if Text(text or b"").decoded() is None}
        )
        fit = set(range(rows.num_rows)).difference(bad)
        yield Batch(rows.take(pa.array(sorted(fit), pa.int64())))
        broken = rows.take(pa.array(bad, pa.int64()))
        places = [place.decode(errors="replace") for place in _bytes(broken, len(self.columns))]
        cells = [[column.cell(value) for value in _bytes(broken, at)] for at, column in enumerate(self.columns)]
        yield self.batch(list(zip(places, zip(*cells, strict=True), strict=True)))


def _bytes(batch: pa.RecordBatch, at: int) -> list[Any]:
    """A column as Python values, text undecoded."""
    column = batch.column(at)
    return list((column.cast(pa.binary()) if column.type == pa.string() else column).to_pylist())


def _tagged(value: str) -> str:
    """A cell as text: its class as first letter, then what a text can say of it."""
    return (
        f"CASE typeof({value}) WHEN 'text' THEN 't' || {value} WHEN 'integer' THEN 'i' || {value} "
        f"WHEN 'blob' THEN 'b' || hex({value}) WHEN 'real' THEN 'r' END"
    )


def _real(value: str) -> str:
    return f"CASE typeof({value}) WHEN 'real' THEN {value} END"


_UNTAG: dict[bytes, Callable[[bytes], Cell]] = {
    b"t": Text,
    b"i": int,
    b"b": lambda digits: bytes.fromhex(digits.decode()),
}


def _cell(tagged: bytes | None, real: float | None) -> Cell:
    if tagged is None:
        return None
    return real if tagged == b"r" else _UNTAG[tagged[:1]](tagged[1:])
