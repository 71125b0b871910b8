"""Streams of record batches that keep the error that ended them.

A library that reads an Arrow stream turns an error of ours into a text of its own. Here the error itself is kept, so
that the seam around the library raises it as it was.
What belongs here: watching streams. What does not: where they come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from lakehouse_assets.errors import LakeError

ENOUGH_ROWS = 10_000
"""Rows of a batch that is passed on as it is."""
ENOUGH_BYTES = 16 << 20
"""Bytes after which smaller batches are passed on together."""


class Watched:
    """A stream for one reader, and the error that it ended with.

    Attributes:
        error: what the stream raised while it was read.
    """

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self.schema: pa.Schema = reader.schema
        self.error: BaseException | None = None
        self._inner: pa.RecordBatchReader | None = reader

    def open(self) -> pa.RecordBatchReader:
        """The stream; it can be read once.

        Raises:
            LakeError: it was read before, so a second reader would find no rows.
        """
        inner, self._inner = self._inner, None
        if inner is None:
            raise LakeError("a stream of rows was read twice", fix="hold the relation while it is used several times")
        return pa.RecordBatchReader.from_batches(self.schema, self._batches(inner))

    def _batches(self, inner: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            yield from gathered(inner)
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise


def gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches that are not small: readers pay for each batch, in time and memory."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if batch.num_rows >= ENOUGH_ROWS and not waiting:
            yield batch
            continue
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= ENOUGH_ROWS or size >= ENOUGH_BYTES:
            yield pa.concat_batches(waiting)
            waiting, rows, size = [], 0, 0
    if rows:
        yield pa.concat_batches(waiting)
