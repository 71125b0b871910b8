"""The quarantine of a table: the rows that broke a rule or did not fit a column, with the reasons.

Columns: those of the target as far as they could be made, `_reasons` (the names of the broken rules,
`cast_failed:<column>`, or `malformed_json:<column>` in place of all that follows from a text that is no JSON),
`_upstream` (the row as received, typed), `_raw` (the row as received where it has no type: a JSON object of texts),
`_batch` (the number of the plan) and `_quarantined_at`.
What does not belong here: deciding which rows are broken (`rules.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Self

import pyarrow as pa

from lakehouse_assets.errors import StoreFailed
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.sources.base import MISFIT_SCHEMA
from lakehouse_assets.tables.rules import UPSTREAM

BATCH_COLUMNS = {
    "_raw": "CAST(NULL AS STRING)",
    "_batch": "CAST(:batch AS BIGINT)",
    "_quarantined_at": "CAST(:planned_at AS TIMESTAMP)",
}
"""What a quarantined row carries besides its columns, its reasons and its upstream row, as Spark SQL."""


def schema(target: pa.Schema, upstream: pa.Schema) -> pa.Schema:
    """The columns of the quarantine of a table with columns `target`, fed by rows with columns `upstream`."""
    own = [f.remove_metadata() for f in target]
    received = [] if UPSTREAM in target.names else [pa.field(UPSTREAM, pa.struct(list(upstream)))]
    return pa.schema(
        [
            *own,
            pa.field("_reasons", pa.list_(pa.field("element", pa.string()))),
            *received,
            pa.field("_raw", pa.string()),
            pa.field("_batch", pa.int64()),
            pa.field("_quarantined_at", pa.timestamp("us", tz="UTC")),
        ]
    )


def params(plan: Plan) -> dict[str, object]:
    """The parameters of `BATCH_COLUMNS`."""
    return {"batch": plan.number, "planned_at": plan.planned_at}


@contextmanager
def _spilling() -> Iterator[None]:
    """A temporary file that cannot be written, as one of our errors."""
    try:
        yield
    except OSError as error:
        raise StoreFailed(
            f"rows that are set aside do not fit into the directory for temporary files, {tempfile.gettempdir()}: "
            f"{error.strerror or error}",
            fix="free space there, or set TMPDIR to another directory, and run again",
        ) from error


class Spool:
    """Rows of a batch that wait in a temporary file, made with the first of them: misfits, or others."""

    def __init__(self, columns: pa.Schema = MISFIT_SCHEMA) -> None:
        self.count = 0
        self._columns = columns
        self._file: IO[bytes] | None = None
        self._writer: pa.RecordBatchWriter | None = None

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows."""
        with _spilling():
            if self._writer is None:
                self._file = tempfile.TemporaryFile(prefix="lakehouse-aside-")
                self._writer = pa.ipc.new_stream(self._file, self._columns)
            self._writer.write_batch(rows)
        self.count += rows.num_rows

    def taken(self) -> pa.RecordBatchReader:
        """What was taken, once; nothing more is taken then."""
        if self._writer is None or self._file is None:
            return pa.RecordBatchReader.from_batches(self._columns, [])
        with _spilling():
            self._writer.close()
            self._file.seek(0)
        return pa.ipc.open_stream(self._file)

    def reader(self, columns: pa.Schema, plan: Plan) -> pa.RecordBatchReader:
        """The misfits that were taken, as rows of a quarantine with `columns`."""
        return pa.RecordBatchReader.from_batches(columns, self._rows(columns, plan))

    def _rows(self, columns: pa.Schema, plan: Plan) -> Iterator[pa.RecordBatch]:
        for rows in self.taken():
            yield _quarantined(rows, columns, plan)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()


def _quarantined(rows: pa.RecordBatch, columns: pa.Schema, plan: Plan) -> pa.RecordBatch:
    count, moment = rows.num_rows, pa.scalar(plan.planned_at, pa.timestamp("us", tz="UTC"))
    known = {
        "_reasons": rows.column("_reasons"),
        "_raw": rows.column("_upstream"),
        "_position": rows.column("_position"),
        "_source": rows.column("_source"),
        "_batch": pa.repeat(pa.scalar(plan.number, pa.int64()), count),
        "_quarantined_at": pa.repeat(moment, count),
        "_ingested_at": pa.repeat(moment, count),
    }
    arrays = [known[f.name].cast(f.type) if f.name in known else pa.nulls(count, f.type) for f in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=columns)
