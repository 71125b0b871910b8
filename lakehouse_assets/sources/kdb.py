"""kdb+ tables: extracted date by date (`kdb.partition`), or read whole when they change.

**By date**: `partitions` gives every date with its number of rows, `fingerprint` rows and a checksum of one date,
`read_partition` its rows in the order in which they are stored, `kdb.sliceRows` at a time, with their number in `_row`.
A date that changes while it is read is refused, not mixed: its fingerprint is asked before and after. Dates may differ
in their columns: `columns_of` says those of one.

**Whole**: the position is `{"fingerprint": "rows:checksum"}`; when it changes, everything is read again. Any content is
this source's content, so it has no incarnation to lose. A table that is partitioned by date is read date after date.

Every row's `_position` is its number in its part, behind the date and `#` where there is one. One source has one
connection, which is made when the first question is asked and made anew between two questions only.

What belongs here: partitions, positions, rows. What does not: see `kdb_options.py` (options), `kdb_table.py` (what a
table is), `kdb_client.py` (connections), `kdb_types.py` (types).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.errors import SchemaDrift, SourceBusy
from lakehouse_assets.sources.base import ROW_FIELDS, Batch, Fingerprint, PartitionedSource, Past, Position
from lakehouse_assets.sources.kdb_columns import ROW
from lakehouse_assets.sources.kdb_options import options_of
from lakehouse_assets.sources.kdb_table import KdbTable, Part
from lakehouse_assets.sources.kdb_types import field

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import Entity

_NOTHING: Position = {"fingerprint": "0:"}


class KdbSource(PartitionedSource):
    """A table of a kdb+ process.

    Args:
        entity: `source`, or the option `kdb.table`, names the table.

    Raises:
        SettingsError: an option is unknown, missing, or has a value that it cannot have.
    """

    def __init__(self, entity: Entity) -> None:
        super().__init__(entity)
        self.options = options_of(entity)
        self._stream = entity.feed or entity.entity_id

    def partitions(self) -> Mapping[str, str]:
        """Date -> row count of every date, those without rows included; empty without `kdb.partition`.

        Raises:
            SourceMissing: there is no such table or column.
            SourceError: the column does not part the table, or rows have no date.
        """
        return {} if self.options.partition is None else self._dates()

    def fingerprint(self, key: str) -> Fingerprint:
        """Rows and checksum of one date, now.

        Raises:
            SourceMissing: there is no such date.
        """
        return self._table.fingerprint(self._table.part(key))

    def columns_of(self, key: str) -> pa.Schema:
        """The columns of one date as extracted: `_row` last, without the partition column.

        Raises:
            SourceMissing: there is no such date.
            TypeRefused: a column has no type, or one that is not held.
        """
        return self._table.schema(self._table.part(key))

    def read_partition(self, key: str) -> Iterator[pa.RecordBatch]:
        """The rows of one date in stored order, in slices of at most `kdb.sliceRows`.

        Raises:
            SourceMissing: there is no such date.
            SourceBusy: the date changed while it was read; what was given must not be used.
            TypeRefused: a value is not held, with its column and row.
        """
        for part in self._table.slices(self._table.part(key)):
            yield part.rows

    def schema(self) -> pa.Schema:
        """The columns of the whole table: of one by date those of its newest date, the partition column first."""
        return self._columns

    def earliest(self) -> Position:
        """The position of no rows at all."""
        return dict(_NOTHING)

    def latest(self, past: Past) -> Position:
        """The fingerprint of all rows that are there now."""
        return _position(self._prints())

    def holds(self, start: Position, end: Position) -> bool:
        """Whether the table still is that of `end`: `read` cannot give its rows where it is not."""
        return self.latest(Past()) == end

    def incarnation(self, position: Position) -> str:
        """Always the same: a source that is read as a whole may change as it likes."""
        return "whole"

    def read(self, start: Position, end: Position) -> Iterator[Batch]:
        """All rows, part after part.

        Raises:
            SourceBusy: the table is not that of `end`, or changed while it was read.
            SchemaDrift: a date has other columns than the newest.
        """
        if end == start:
            return
        prints = self._prints()
        if _position(prints) != end:
            raise SourceBusy(
                f"{self.entity.destination}: the table {self.options.table!r} at kdb+ {self.options.host}:"
                f"{self.options.port} is not that which was to be read: rows came, went or changed",
                fix="try again: the plan is made anew for the rows that are there then",
            )
        columns = self.schema()
        for part, known in prints.items():
            for given in self._table.slices(part, known):
                yield Batch(self._received(part, given.rows, columns))

    def describe(self) -> dict[str, Any]:
        """Server, table, client, columns with the letters of their types, and where there are dates their span."""
        table, options = self._table, self.options
        found: dict[str, Any] = {
            "kind": "kdb",
            "server": f"{options.host}:{options.port}",
            "tls": options.tls,
            "client": options.client,
            "table": options.table,
            "columns": dict(table.letters),
            "partitioned_by": table.field,
            "partition": options.partition,
        }
        if options.partition:
            dates = table.dates()
            found |= {"rows": sum(dates.values()), "dates": len(dates)}
            found |= {"first": str(min(dates)), "last": str(max(dates))} if dates else {}
        return found

    def close(self) -> None:
        """End the connection, and forget what was found."""
        if "_table" in self.__dict__:
            self._table.close()
        for name in ("_table", "_columns"):
            self.__dict__.pop(name, None)

    @cached_property
    def _table(self) -> KdbTable:
        return KdbTable(self.options.connect(os.environ), self.options, self.entity.destination)

    @cached_property
    def _columns(self) -> pa.Schema:
        keys = self._keys()
        part = self._table.part(keys[-1] if keys else None)
        columns = [of for of in self._table.schema(part) if of.name != ROW.name]
        if part.column:
            columns.insert(0, field(part.column, "date", pa.date32()))
        return pa.schema(columns)

    def _keys(self) -> list[str | None]:
        return list(self._dates()) if self._table.column else [None]

    def _prints(self) -> dict[Part, Fingerprint]:
        parts = [self._table.part(key) for key in self._keys()]
        return {part: self._table.fingerprint(part) for part in parts}

    def _dates(self) -> dict[str, str]:
        return {str(day): str(rows) for day, rows in self._table.dates().items()}

    def _received(self, part: Part, rows: pa.RecordBatch, columns: pa.Schema) -> pa.RecordBatch:
        """Rows as they are landed."""
        arrays = dict(zip(rows.schema.names, rows.columns, strict=True))
        place = pc.cast(arrays.pop(ROW.name), pa.string())
        if part.column:
            arrays[part.column] = pa.repeat(pa.scalar(part.date, pa.date32()), rows.num_rows)
            place = pc.binary_join_element_wise(str(part.date), place, "#")
        if {of.name: of.type for of in columns} != {name: array.type for name, array in arrays.items()}:
            raise SchemaDrift(
                f"{self.entity.destination}: {part} has other columns than the newest date, so it cannot be read with "
                f"the others: {', '.join(sorted(set(columns.names) ^ set(arrays))) or 'of other types'}",
                fix="extract it by date",
            )
        source = pa.repeat(pa.scalar(self._stream, pa.string()), rows.num_rows)
        schema = pa.schema([*columns, *ROW_FIELDS])
        return pa.RecordBatch.from_arrays([*(arrays[name] for name in columns.names), place, source], schema=schema)


def _position(prints: Mapping[Part, Fingerprint]) -> Position:
    """The position of a table whose parts have these fingerprints."""
    rows = sum(known.rows for known in prints.values())
    if not rows:
        return dict(_NOTHING)
    if len(prints) == 1 and Part() in prints:
        return {"fingerprint": str(prints[Part()])}
    text = "\n".join(f"{part.date} {known}" for part, known in prints.items())
    return {"fingerprint": str(Fingerprint(rows, hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()))}
