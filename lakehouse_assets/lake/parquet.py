"""Parquet files that are written before the commit that makes them part of a table.

A batch is streamed into files that nobody sees; when all of it is there, one commit adds them (`DeltaTable.
append_files`). A process that dies in between leaves files that no version names: vacuum takes them away.
What belongs here: file layout, partition values, statistics. What does not: commits.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.errors import LakeError, SchemaDrift, TypeRefused
from lakehouse_assets.lake.delta import DataFile, DeltaTable
from lakehouse_assets.lake.storage import store_fault

GROUP_ROWS = 500_000
"""Rows that are gathered before they become one row group."""
GROUP_BYTES = 96 << 20
"""Bytes that are gathered before they become one row group."""
_LONGEST_STATISTIC = 64


class ParquetStage:
    """Streams record batches of one table into Parquet files, one file for each combination of partition values."""

    def __init__(self, table: DeltaTable) -> None:
        self._table = table
        self._fs, self._root = table.storage.filesystem(table.uri)
        self._schema = pa.schema([field for field in table.schema if field.name not in table.partition_by])
        self._files: dict[tuple[str | None, ...], _File] = {}
        self._gathered: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="parquet")
        self._pending: Future[None] | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Take a batch; its columns must be the table's, by name and type."""
        self._gathered.append(fit(batch, self._table))
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def finish(self) -> list[DataFile]:
        """Close the files and say what they hold; the stage takes nothing more."""
        self._flush()
        self._wait()
        with _store_faults(self._table.uri):
            files = [file.close() for file in self._files.values()]
        self._pool.shutdown()
        return files

    def discard(self) -> None:
        """Give up: close and delete what was written."""
        self._pool.shutdown(cancel_futures=True)
        for file in self._files.values():
            file.discard()

    def _flush(self) -> None:
        if not self._rows:
            return
        self._wait()
        group = pa.Table.from_batches(self._gathered)
        self._gathered, self._rows, self._bytes = [], 0, 0
        self._pending = self._pool.submit(self._write_group, group)

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _write_group(self, group: pa.Table) -> None:
        with _store_faults(self._table.uri):
            for values, rows in _by_partition(group, self._table.partition_by):
                if values not in self._files:
                    named = dict(zip(self._table.partition_by, values, strict=True))
                    path = f"{self._root}/part-{uuid.uuid4()}.parquet"
                    self._files[values] = _File(self._fs, path, self._schema, named)
                self._files[values].write(rows)


class _File:
    def __init__(self, fs: Any, path: str, schema: pa.Schema, values: Mapping[str, str | None]) -> None:
        import pyarrow.parquet as pq

        self._fs, self._path, self._values = fs, path, values
        self._collected: list[Any] = []
        self._sink = fs.open_output_stream(path)
        self._writer = pq.ParquetWriter(
            self._sink, schema, compression="snappy", metadata_collector=self._collected, write_page_checksum=True
        )

    def write(self, rows: pa.Table) -> None:
        self._writer.write_table(rows, row_group_size=GROUP_ROWS)

    def close(self) -> DataFile:
        self._writer.close()
        self._sink.close()
        size = self._fs.get_file_info([self._path])[0].size
        footer = self._collected[0]
        return DataFile(self._path, footer.num_rows, size, self._values, json.dumps(statistics(footer)))

    def discard(self) -> None:
        self._sink.close()
        self._fs.delete_file(self._path)


def fit(batch: pa.RecordBatch, table: DeltaTable) -> pa.RecordBatch:
    """`batch` in the table's column order.

    Raises:
        SchemaDrift: a column is missing, too many or of another type: nothing is ever converted silently.
    """
    compare(batch.schema, table.schema, table.uri)
    return conform(batch, table.schema)


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """`batch` with the columns of `schema`, which have equal types but for the names inside lists and maps."""
    columns = []
    for field in schema:
        column = batch.column(field.name)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def same_type(left: pa.DataType, right: pa.DataType) -> bool:
    """Whether two types are equal but for nullability and the names inside lists and maps."""
    if pa.types.is_list(left) and pa.types.is_list(right):
        return same_type(left.value_type, right.value_type)
    if pa.types.is_map(left) and pa.types.is_map(right):
        return same_type(left.key_type, right.key_type) and same_type(left.item_type, right.item_type)
    if pa.types.is_struct(left) and pa.types.is_struct(right):
        return [f.name for f in left] == [f.name for f in right] and all(
            same_type(a.type, b.type) for a, b in zip(left, right, strict=True)
        )
    return bool(left.equals(right))


def compare(found: pa.Schema, expected: pa.Schema, uri: str) -> None:
    """Raise `SchemaDrift` unless both schemas have the same columns, in any order, of the same types."""
    missing = [name for name in expected.names if name not in found.names]
    extra = [name for name in found.names if name not in expected.names]
    other = [
        f"{field.name} is {found.field(field.name).type}, not {field.type}"
        for field in expected
        if field.name in found.names and not same_type(found.field(field.name).type, field.type)
    ]
    faults = [
        *([f"missing: {', '.join(missing)}"] if missing else []),
        *([f"not in the table: {', '.join(extra)}"] if extra else []),
        *other,
    ]
    if faults:
        raise SchemaDrift(
            f"the rows for {uri} do not have the table's columns: {'; '.join(faults)}",
            fix="cast or alias the columns in select_expr, or rebuild the table: lakehouse run --full-refresh TABLE",
        )


def _by_partition(group: pa.Table, names: tuple[str, ...]) -> Iterator[tuple[tuple[str | None, ...], pa.Table]]:
    if not names:
        yield (), group
        return
    distinct = group.select(list(names)).group_by(list(names)).aggregate([]).to_pylist()
    for row in distinct:
        mask = None
        for name in names:
            column = group.column(name)
            match = pc.is_null(column) if row[name] is None else pc.fill_null(pc.equal(column, row[name]), False)
            mask = match if mask is None else pc.and_(mask, match)
        values = tuple(partition_text(name, row[name]) for name in names)
        yield values, group.filter(mask).drop_columns(list(names))


def partition_text(name: str, value: object) -> str | None:
    """A partition value as Delta writes it.

    Raises:
        TypeRefused: the empty string (Delta reads it back as NULL), or a type that has no exact text.
    """
    if value is None:
        return None
    if value == "":
        raise TypeRefused(f"the partition column {name!r} holds an empty string, which Delta reads back as NULL")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime) or not isinstance(value, int | str | date):
        raise TypeRefused(
            f"the partition column {name!r} has values of type {type(value).__name__}",
            choices=("date", "integer", "string", "boolean"),
            fix="partition by a date or an integer made from it",
        )
    return str(value)


def statistics(footer: Any) -> dict[str, Any]:
    """Delta's statistics of a file, from its Parquet footer; bounds only where they are exact."""
    stats: dict[str, Any] = {"numRecords": footer.num_rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    for index in range(footer.num_columns):
        column = footer.schema.column(index)
        if "." in column.path or footer.num_row_groups == 0:
            continue
        chunks = [footer.row_group(group).column(index).statistics for group in range(footer.num_row_groups)]
        if any(chunk is None or not chunk.has_null_count for chunk in chunks):
            continue
        stats["nullCount"][column.path] = sum(chunk.null_count for chunk in chunks)
        bounded = [chunk for chunk in chunks if chunk.has_min_max]
        if len(bounded) == len([chunk for chunk in chunks if chunk.num_values]) and bounded:
            _bound(stats, column.path, min(c.min for c in bounded), max(c.max for c in bounded))
    return stats


def _bound(stats: dict[str, Any], name: str, low: object, high: object) -> None:
    exact: Callable[[Any], bool] = lambda v: (
        (isinstance(v, int) and not isinstance(v, bool))
        or (isinstance(v, date) and not isinstance(v, datetime))
        or (isinstance(v, str) and len(v) <= _LONGEST_STATISTIC)
    )
    if exact(low) and exact(high):
        stats["minValues"][name] = low.isoformat() if isinstance(low, date) else low
        stats["maxValues"][name] = high.isoformat() if isinstance(high, date) else high


@contextmanager
def _store_faults(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise store_fault(uri, error, LakeError) from error
