"""Tables whose open rows stand in files of their own: those with NULL in the column that `lakehouse.apart` names.

A merge that closes rows then opens these files only, however long the history grows; closed rows stand in the order in
which they were closed, so an event that comes late opens the files of its time. It is a layout: a file that holds both
is read and merged like any other, and is taken apart again when it holds too much that is closed.
What does not belong here: SQL, commits.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.engines.duckdb_types import quoted
from lakehouse_assets.lake.delta import DeltaTable
from lakehouse_assets.lake.parquet import ParquetStage
from lakehouse_assets.lake.values import DataFile

PROPERTY = "lakehouse.apart"
MOST_CLOSED = 0.25
"""Closed rows among open ones, as a share of these, from which their files are taken apart."""
FEWEST = 100_000
"""Closed rows for which that is worth a commit."""
_EACH_GROUP = 1
"""Bytes after which a file of closed rows is full: each row group is a file."""


def column_of(table: DeltaTable) -> str | None:
    """The column that tells open rows from closed ones, if the table is kept so."""
    name = table.properties.get(PROPERTY)
    return name if name in table.schema.names else None


def order(table: DeltaTable) -> str:
    """DuckDB SQL that orders rows for `Apart`: open ones, then closed ones as they were closed."""
    name = column_of(table) or ""
    kind = table.schema.field(name).type
    whole = quoted(name)
    parts = [f"{whole}.{quoted(field.name)}" for field in kind] if pa.types.is_struct(kind) else [whole]
    return ", ".join([f"{whole} IS NOT NULL", *(f"{part} NULLS FIRST" for part in parts)])


class Apart:
    """Takes rows in `order`, and writes them into files for open rows and files for closed ones."""

    def __init__(self, table: DeltaTable) -> None:
        self._column = column_of(table) or ""
        self._open, self._closed = ParquetStage(table), ParquetStage(table, _EACH_GROUP)

    def write(self, batch: pa.RecordBatch) -> None:
        """Take a batch."""
        ends = batch.column(batch.schema.get_field_index(self._column))
        still_open = pc.is_null(ends)
        for stage, mask in ((self._open, still_open), (self._closed, pc.invert(still_open))):
            rows = batch.filter(mask)
            if rows.num_rows:
                stage.write(rows)

    def finish(self) -> list[DataFile]:
        """Close the files and say what they hold."""
        return [*self._open.finish(), *self._closed.finish()]

    def discard(self) -> None:
        """Give up: delete what was written."""
        self._open.discard()
        self._closed.discard()


def mixed(table: DeltaTable) -> list[DataFile]:
    """The files that hold open and closed rows, if it is worth taking them apart."""
    name = column_of(table)
    if name is None:
        return []
    files, open_rows, closed_rows = [], 0, 0
    counts = table.null_counts(name)
    for file in table.files():
        rows, nulls = file.rows or 0, counts.get(file.path)
        if nulls is None or nulls:
            open_rows += nulls or 0
            closed_rows += rows - (nulls or 0)
        if nulls is None or 0 < nulls < rows:
            files.append(file)
    return files if closed_rows > max(FEWEST, MOST_CLOSED * open_rows) else []
