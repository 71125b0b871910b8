"""Tests of watched streams: read once, their error kept, small batches gathered."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakehouse_assets.errors import LakeError
from lakehouse_assets.lake import streams
from lakehouse_assets.lake.streams import Watched, gathered


def batches(*sizes, column="a"):
    """Record batches of so many rows."""
    schema = pa.schema([(column, pa.int64())])
    return [pa.record_batch([range(size)], schema=schema) for size in sizes]


def reader(*sizes, fails=None):
    """A stream of batches, which may end with an error."""

    def rows():
        yield from batches(*sizes)
        if fails:
            raise fails

    return pa.RecordBatchReader.from_batches(batches(0)[0].schema, rows())


def test_a_stream_is_opened_once():
    """A second reader would find no rows."""
    watched = Watched(reader(3))
    assert watched.open().read_all().num_rows == 3
    with pytest.raises(LakeError, match="read twice"):
        watched.open()


def test_the_error_is_kept():
    """It is the very error that the stream raised."""
    error = ValueError("x")
    watched = Watched(reader(3, fails=error))
    with pytest.raises(ValueError, match="x"):
        watched.open().read_all()
    assert watched.error is error


def test_a_stream_that_is_left_has_no_error():
    """To stop reading is no failure."""
    watched = Watched(reader(20_000, 20_000))
    with watched.open() as opened:
        opened.read_next_batch()
    assert watched.error is None


def test_small_batches_are_gathered():
    """Rows keep their order; large batches pass as they are; none is lost at the end."""
    found = list(gathered(batches(*[1] * 25_000, 50_000, 3)))
    assert [batch.num_rows for batch in found] == [10_000, 10_000, 55_000, 3]
    assert list(gathered(batches(0, 0))) == []
    large = batches(streams.ENOUGH_ROWS)
    assert next(iter(gathered(large))) is large[0]


def test_few_rows_of_many_bytes_are_not_gathered_without_end():
    """Memory is bounded by bytes too."""
    wide = [pa.record_batch([["x" * 1_000_000]], names=["a"])] * 50
    assert max(batch.nbytes for batch in gathered(wide)) <= streams.ENOUGH_BYTES + 2_000_000
