"""The embedded engine's as-of join: both sides come into memory when the result is read, and it leaves in batches.

What belongs here: how the join meets relations. What does not: joining (`asof.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import cast

import pyarrow as pa

from lakehouse_assets.engines import asof
from lakehouse_assets.engines.arrow_inputs import BATCH_ROWS, OverArrow
from lakehouse_assets.engines.asof_columns import result_columns
from lakehouse_assets.engines.asof_spec import AsOf
from lakehouse_assets.engines.base import Engine, Relation
from lakehouse_assets.lake.schemas import conform
from lakehouse_assets.lake.streams import Watched
from lakehouse_assets.sql.expand import quoted


class Joined(Watched):
    """The rows of an as-of join, computed each time they are read: as often as the sides can be."""

    def __init__(self, engine: Engine, left: Relation, right: Relation, how: AsOf, threads: int) -> None:
        self._left, self._right = cast(OverArrow, left), cast(OverArrow, right)
        self.schema = result_columns(self._left.columns, self._right.columns, how)
        self.error: BaseException | None = None
        self._engine, self._how = engine, how
        self._threads = threads or len(os.sched_getaffinity(0))

    def open(self) -> pa.RecordBatchReader:
        """The rows, from the beginning."""
        return pa.RecordBatchReader.from_batches(self.schema, self._batches(self._joined()))

    def _joined(self) -> pa.RecordBatchReader:
        left = _table(self._engine, self._left, self._left.columns.names)
        right = _table(self._engine, self._right, self._how.right_columns)
        joined = asof.join(left, right, self._how, self._threads)
        batches = (conform(batch, self.schema) for batch in joined.to_batches(BATCH_ROWS))
        return pa.RecordBatchReader.from_batches(self.schema, batches)


def _table(engine: Engine, relation: OverArrow, names: Sequence[str]) -> pa.Table:
    """Columns of a relation in memory."""
    if isinstance(relation.plain, pa.Table):
        return relation.plain.select(names)  # as it is: coded texts are matched faster
    columns = ", ".join(map(quoted, names))
    with engine.batches(engine.query(f"SELECT {columns} FROM side", {"side": relation})) as reader:
        return reader.read_all()
