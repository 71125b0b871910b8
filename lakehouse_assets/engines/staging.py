"""The embedded engine's appender: Parquet files staged beside the table, then one commit that names them.

What belongs here: when staged files may be deleted again. What does not: writing Parquet (`lake/parquet.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from lakehouse_assets.engines.base import Appender
from lakehouse_assets.errors import ConcurrentWriter, FeatureRefused, LakehouseError
from lakehouse_assets.lake.delta import DeltaTable, find_table
from lakehouse_assets.lake.parquet import FILE_BYTES, ParquetStage
from lakehouse_assets.lake.storage import is_local
from lakehouse_assets.lake.values import Commit, DataFile, Number


class StagedAppender(Appender):
    """Files staged beside the table; they are deleted again only while it is certain that no commit names them."""

    def __init__(self, table: DeltaTable, file_bytes: int = FILE_BYTES) -> None:
        self._table = table
        self._stage = ParquetStage(table, file_bytes)
        self._may_be_committed = False

    def write(self, batch: pa.RecordBatch) -> None:
        """Take a batch whose columns are the table's."""
        self._stage.write(batch)

    def commit(self, number: Number) -> Commit:
        """Append what was taken, in one commit that carries `number`."""
        return self._commit(number, lambda files: self._table.append_files(files, number))

    def rewrite(self, old: Sequence[DataFile], number: Number) -> Commit:
        """Put what was staged in the place of `old`, which holds the same rows."""
        return self._commit(number, lambda files: self._table.rewrite_files(old, files, number))

    def _commit(self, number: Number, commit: Callable[[list[DataFile]], Commit]) -> Commit:
        files = self._stage.finish()
        if self._table.number(number.app_id) >= number.value:
            self.discard()
            return Commit(self._table.version, skipped=True)
        self._may_be_committed = True
        try:
            return commit(files)
        except (ConcurrentWriter, FeatureRefused):
            self._may_be_committed = False  # refused before anything was written
            raise
        except LakehouseError:
            self._may_be_committed = not self._is_missing(number)
            raise

    def _is_missing(self, number: Number) -> bool:
        """Whether a commit that failed left nothing behind; on an object store it may still arrive."""
        if not is_local(self._table.uri):
            return False
        try:
            table = find_table(self._table.uri, self._table.storage)
        except LakehouseError:
            return False
        return table is not None and table.number(number.app_id) < number.value

    def discard(self) -> None:
        """Give up what was taken, unless a commit may name it."""
        if not self._may_be_committed:
            self._stage.discard()
