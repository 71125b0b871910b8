"""Streams of record batches that keep the error that ended them.

A library that reads an Arrow stream turns an error of ours into a text of its own. Here the error itself is kept, so
that the seam around the library raises it as it was.
What belongs here: watching streams. What does not: where they come from.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from lakehouse_assets.errors import LakeError


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
            yield from inner
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise
