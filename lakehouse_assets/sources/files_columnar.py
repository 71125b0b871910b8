"""Parquet and ORC: files with columns, types and a footer.

What belongs here: opening them and streaming their batches. What does not: casts (`files_formats.py` asks for them).

Parquet is read a few thousand rows at a time, ORC stripe by stripe. A Parquet INT96 is an instant in UTC, as for
Spark: read in microseconds, because nanoseconds would wrap outside of the years 1678 to 2261, and compared with the
nanoseconds where these are right, because microseconds alone would be cut.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.errors import TypeRefused
from lakehouse_assets.sources.files_formats import TypedFormat
from lakehouse_assets.sources.files_listing import FileStat

BATCH_ROWS = 16_384
_NANO_RANGE = 9_223_372_036_854_775
"""The microseconds around 1970 that nanoseconds reach."""


class ParquetFormat(TypedFormat):
    """Parquet files."""

    def own_schema(self, file: FileStat) -> pa.Schema:
        """The columns from the footer; INT96 as instants in nanoseconds."""
        import pyarrow.parquet as pq

        with self.place.reading(file), self.place.seekable(file) as stream:
            footer = pq.ParquetFile(stream)
            return _with_instants(footer.schema_arrow, self._int96(footer.schema, file))

    def batches(self, file: FileStat) -> Iterator[pa.RecordBatch]:
        """Batches of at most `BATCH_ROWS` rows."""
        import pyarrow.parquet as pq

        with self.place.reading(file), self.place.seekable(file) as stream:
            reader = pq.ParquetFile(stream, coerce_int96_timestamp_unit="us", page_checksum_verification=True)
            old = self._int96(reader.schema, file)
            if not old:
                yield from reader.iter_batches(BATCH_ROWS, use_threads=False)
                return
            with self.place.seekable(file) as again:
                nanos = pq.ParquetFile(again).iter_batches(BATCH_ROWS, columns=old, use_threads=False)
                for batch, exact in zip(reader.iter_batches(BATCH_ROWS, use_threads=False), nanos, strict=True):
                    yield _instants(batch, exact)

    def _int96(self, schema: pa.parquet.ParquetSchema, file: FileStat) -> list[str]:
        columns = [schema.column(at) for at in range(len(schema))]
        found = [column for column in columns if column.physical_type == "INT96"]
        nested = [column.path for column in found if "." in column.path]
        if nested:
            raise TypeRefused(
                f"{self.who}: {self.place.uri(file.path)}: the column {nested[0]!r} holds INT96 times inside another "
                "value, which cannot be checked for lost digits",
                value="INT96",
                fix="write the file with timestamps of the type INT64 (spark.sql.parquet.outputTimestampType)",
            )
        return [column.path for column in found]


def _with_instants(schema: pa.Schema, names: list[str]) -> pa.Schema:
    for name in names:
        at = schema.get_field_index(name)
        schema = schema.set(at, pa.field(name, pa.timestamp("ns", tz="UTC")))
    return schema


def _instants(batch: pa.RecordBatch, nanos: pa.RecordBatch) -> pa.RecordBatch:
    """INT96 columns as instants in microseconds; as texts where any has a part below the microsecond."""
    for name in nanos.schema.names:
        at = batch.schema.get_field_index(name)
        micros, exact = batch.column(at).cast(pa.int64()), nanos.column(name).cast(pa.int64())
        inside = pc.and_(pc.less(micros, _NANO_RANGE), pc.greater(micros, -_NANO_RANGE))
        cut = pc.and_(inside, pc.not_equal(pc.multiply(pc.if_else(inside, micros, 0), 1000), exact))
        column = batch.column(at).cast(pa.timestamp("us", tz="UTC"))
        if pc.any(cut).as_py():
            column = _marked(column, exact, cut)
        batch = batch.set_column(at, pa.field(name, column.type), column)
    return batch


def _marked(micros: pa.Array, nanos: pa.Array, cut: pa.Array) -> pa.Array:
    """The column as texts, those with lost digits in full: such a text does not fit a timestamp."""
    in_full = nanos.cast(pa.timestamp("ns", tz="UTC")).cast(pa.string())
    return pc.if_else(cut, in_full, micros.cast(pa.string()))


class OrcFormat(TypedFormat):
    """ORC files."""

    def own_schema(self, file: FileStat) -> pa.Schema:
        """The columns from the footer."""
        from pyarrow import orc

        with self.place.reading(file), self.place.seekable(file) as stream:
            return orc.ORCFile(stream).schema

    def batches(self, file: FileStat) -> Iterator[pa.RecordBatch]:
        """One stripe at a time."""
        from pyarrow import orc

        with self.place.reading(file), self.place.seekable(file) as stream:
            reader = orc.ORCFile(stream)
            for stripe in range(reader.nstripes):
                yield reader.read_stripe(stripe)
