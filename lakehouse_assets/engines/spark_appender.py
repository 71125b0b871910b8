"""The Spark engine's appender: record batches in a file beside Spark, which appends them in one commit."""

from __future__ import annotations

import pyarrow as pa

from lakehouse_assets.engines.base import Appender, Engine, Handle
from lakehouse_assets.engines.spark_frames import SparkRelation, StagedFile, for_spark, nullable, parquet
from lakehouse_assets.lake.schemas import fit
from lakehouse_assets.lake.values import Commit, Number


class SparkAppender(Appender):
    """Batches in a file beside Spark, which appends them when they are committed."""

    def __init__(self, engine: Engine, handle: Handle, path: str) -> None:
        self._engine, self._handle, self._path = engine, handle, path
        self._columns = nullable(handle.schema)
        self._file: StagedFile | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Take a batch whose columns are the table's."""
        fitted = fit(batch, self._handle.schema, self._handle.partition_by, self._handle.uri)
        if fitted.num_rows:
            self._file = self._file or StagedFile(self._path, self._columns)
            self._file.write(fitted.cast(self._columns))

    def commit(self, number: Number) -> Commit:
        """Append what was taken, in one commit that carries `number`."""
        relation = None
        if self._file is not None:
            self._file.close()
            relation = SparkRelation(lambda s: parquet(s.spark, for_spark(self._path), self._columns), self._columns)
        try:
            return self._engine.append(self._handle, relation, number)
        finally:
            self.discard()

    def discard(self) -> None:
        """Delete the file."""
        if self._file is not None:
            self._file.delete()
            self._file = None
