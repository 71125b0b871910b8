"""Parquet files that are written before the commit that makes them part of a table.

A batch is streamed into files that nobody sees; when all of it is there, one commit adds them (`DeltaTable.
append_files`). A process that dies in between leaves files that no version names: vacuum takes them away.
What belongs here: file layout, partition values, statistics. What does not: commits.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.errors import LakeError, TypeRefused
from lakehouse_assets.lake.delta import DeltaTable
from lakehouse_assets.lake.schemas import NO_PARTITION_VALUE, PARTITION_TYPES, fit, refuse_partition_text
from lakehouse_assets.lake.storage import store_faults
from lakehouse_assets.lake.values import DataFile

GROUP_ROWS = 500_000
"""Rows that are gathered before they become one row group."""
GROUP_BYTES = 16 << 20
"""Bytes that are gathered before they become one row group."""
FILE_BYTES = 512 << 20
"""Bytes after which a file is closed and the next one begun."""
OPEN_FILES = 100
"""Files that are open at the same time; where there are more partition values, files are closed and others begun."""
_LONGEST_STATISTIC = 64
_DAYS = (date.min.toordinal() - date(1970, 1, 1).toordinal(), date.max.toordinal() - date(1970, 1, 1).toordinal())


class ParquetStage:
    """Streams record batches of one table into Parquet files; a file holds one combination of partition values."""

    def __init__(self, table: DeltaTable, file_bytes: int = FILE_BYTES) -> None:
        self._table = table
        self._file_bytes = file_bytes
        self._fs, self._root = table.storage.filesystem(table.uri)
        self._schema = pa.schema([field for field in table.schema if field.name not in table.partition_by])
        self._indexed = indexed(table)
        self._open: dict[tuple[str | None, ...], _File] = {}
        self._done: list[DataFile] = []
        self._paths: list[str] = []
        self._gathered: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="parquet")
        self._pending: Future[None] | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Take a batch; its columns must be the table's, by name and type."""
        if not batch.num_rows:
            fit(batch, self._table.schema, self._table.partition_by, self._table.uri)
            return
        self._gathered.append(fit(batch, self._table.schema, self._table.partition_by, self._table.uri))
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def finish(self) -> list[DataFile]:
        """Close the files and say what they hold; the stage takes nothing more."""
        self._flush()
        self._wait()
        with store_faults(self._table.uri, LakeError):
            self._close_all()
        self._pool.shutdown()
        return self._done

    def discard(self) -> None:
        """Give up: close and delete what was written."""
        self._pool.shutdown(cancel_futures=True)
        for file in self._open.values():
            file.abandon()
        for path in self._paths:
            with contextlib.suppress(OSError):  # a file that stays is no part of the table: vacuum takes it away
                self._fs.delete_file(path)

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
        with store_faults(self._table.uri, LakeError):
            for values, rows in by_partition(group, self._table.partition_by):
                file = self._open.get(values) or self._begin(values)
                file.write(rows)
                if file.size() >= self._file_bytes:
                    self._done.append(self._open.pop(values).close())

    def _begin(self, values: tuple[str | None, ...]) -> _File:
        if len(self._open) >= OPEN_FILES:
            self._close_all()
        path = f"{self._root}/part-{uuid.uuid4()}.parquet"
        self._paths.append(path)
        named = dict(zip(self._table.partition_by, values, strict=True))
        self._open[values] = _File(self._fs, path, self._schema, named, self._indexed)
        return self._open[values]

    def _close_all(self) -> None:
        while self._open:
            values = next(iter(self._open))
            self._done.append(self._open[values].close())
            del self._open[values]


class _File:
    def __init__(
        self, fs: Any, path: str, schema: pa.Schema, values: Mapping[str, str | None], indexed: pa.Schema
    ) -> None:
        import pyarrow.parquet as pq

        self._fs, self._path, self._schema, self._values, self._indexed = fs, path, schema, values, indexed
        self._collected: list[Any] = []
        self._sink = fs.open_output_stream(path)
        self._writer = pq.ParquetWriter(
            self._sink, schema, compression="snappy", metadata_collector=self._collected, write_page_checksum=True
        )

    def write(self, rows: pa.Table) -> None:
        self._writer.write_table(rows, row_group_size=GROUP_ROWS)

    def size(self) -> int:
        return int(self._sink.tell())

    def close(self) -> DataFile:
        self._writer.close()
        size = self.size()
        self._sink.close()
        footer = self._collected[0]
        stats = json.dumps(statistics(footer, self._indexed), ensure_ascii=False)  # delta-rs misreads \ud83d\ude00
        return DataFile(self._path, footer.num_rows, size, self._values, stats)

    def abandon(self) -> None:
        for part in (self._writer, self._sink):
            with contextlib.suppress(OSError, RuntimeError):  # a full disk takes no footer; the file is deleted anyway
                part.close()
        self._writer.is_open = False  # a writer that failed to close would try again, and warn, when it is collected


def by_partition(group: pa.Table, names: Sequence[str]) -> Iterator[tuple[tuple[str | None, ...], pa.Table]]:
    """The rows of each combination of partition values, in their order, without the partition columns."""
    if not names:
        yield (), group
        return
    keyed = group.select(list(names)).rename_columns([f"k{index}" for index in range(len(names))])
    order = [(name, "ascending") for name in keyed.column_names]
    counts = keyed.group_by(keyed.column_names).aggregate([([], "count_all")]).sort_by(order).to_pylist()
    rows = group.drop_columns(list(names))
    if len(counts) > 1:
        rows = rows.take(pc.sort_indices(keyed, sort_keys=order))
    start = 0
    for row in counts:
        *values, count = row.values()
        yield tuple(map(partition_text, names, values)), rows.slice(start, count)
        start += count


def partition_text(name: str, value: object) -> str | None:
    """A partition value as Delta writes it.

    Raises:
        TypeRefused: a text that Delta reads back as NULL, or a type that has no exact text.
    """
    if value is None:
        return None
    if value in NO_PARTITION_VALUE:
        refuse_partition_text(name)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime) or not isinstance(value, int | str | date):
        raise TypeRefused(
            f"the partition column {name!r} has values of type {type(value).__name__}",
            choices=PARTITION_TYPES,
            fix="partition by a date or an integer made from it",
        )
    return str(value)


def of_partition(files: Sequence[DataFile], values: Mapping[str, Any]) -> list[DataFile]:
    """The files whose partition columns have these values."""
    wanted = {name: partition_text(name, value) for name, value in values.items()}
    return [file for file in files if all(file.partition_values.get(name) == text for name, text in wanted.items())]


def indexed(table: DeltaTable) -> pa.Schema:
    """The columns of which a table keeps statistics in its log, as its properties say."""
    if named := table.properties.get("delta.dataSkippingStatsColumns"):
        names = {name.strip(" `") for name in named.split(",")}
        return pa.schema([field for field in table.schema if field.name in names])
    most = int(table.properties.get("delta.dataSkippingNumIndexedCols", "32"))
    stored = [field for field in table.schema if field.name not in table.partition_by]
    return pa.schema(stored if most < 0 else stored[:most])


def statistics(footer: Any, schema: pa.Schema) -> dict[str, Any]:
    """Delta's statistics of a file, from its Parquet footer, of the columns of `schema`; bounds only where exact.

    Floating point has none (NaN), timestamps have none (Delta keeps milliseconds), nor have long texts.
    """
    stats: dict[str, Any] = {"numRecords": footer.num_rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    for index in range(footer.num_columns):
        path = footer.schema.column(index).path
        if path not in schema.names or pa.types.is_nested(schema.field(path).type):
            continue
        chunks = [footer.row_group(group).column(index).statistics for group in range(footer.num_row_groups)]
        if not chunks or any(chunk is None or not chunk.has_null_count for chunk in chunks):
            continue
        stats["nullCount"][path] = sum(chunk.null_count for chunk in chunks)
        _bound(stats, schema.field(path), chunks)
    return stats


def _bound(stats: dict[str, Any], field: pa.Field, chunks: Sequence[Any]) -> None:
    filled = [chunk for chunk in chunks if chunk.num_values]
    if not filled or not all(chunk.has_min_max for chunk in filled):
        return
    if pa.types.is_integer(field.type):
        low, high = min(c.min for c in filled), max(c.max for c in filled)
    elif pa.types.is_date32(field.type):
        first, last = min(c.min_raw for c in filled), max(c.max_raw for c in filled)
        if not (_DAYS[0] <= first and last <= _DAYS[1]):
            return
        low, high = min(c.min for c in filled).isoformat(), max(c.max for c in filled).isoformat()
    elif pa.types.is_string(field.type):
        low, high = min(c.min for c in filled), max(c.max for c in filled)
        if max(len(low), len(high)) > _LONGEST_STATISTIC:
            return
    else:
        return
    stats["minValues"][field.name], stats["maxValues"][field.name] = low, high
