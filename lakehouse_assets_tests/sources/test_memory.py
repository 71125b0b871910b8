"""The stream in memory keeps the contract of a source and refuses what a real one would."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import IncarnationChanged, SourceMissing
from lakehouse_assets.sources.base import Past
from lakehouse_assets.sources.memory import MemorySource
from lakehouse_assets_tests.sources.contract import Case, SourceContract, drain, table_of


def entity(**fields: object) -> Entity:
    """An entity for a stream in memory."""
    return Entity(**{"entity_id": "m", "source": "numbers", "destination": "bronze.numbers", **fields})  # type: ignore[arg-type]


class MemoryCase(Case):
    """A list of batches that several sources share."""

    def __init__(self) -> None:
        self.source = MemorySource(entity(source_schema="id bigint, name string"), batch_rows=2)

    def add(self, ids: Sequence[int]) -> None:
        """Append rows."""
        self.source.append([{"id": value, "name": f"n{value}"} for value in ids])

    def open(self) -> MemorySource:
        """Another source on the same list."""
        return MemorySource(self.source.entity, self.source.stream, batch_rows=2)

    def swap(self) -> None:
        """Other rows in the same list."""
        self.source.stream.clear()
        self.add(range(100, 120))


class TestMemory(SourceContract):
    """The contract, in memory."""

    @pytest.fixture
    def case(self) -> MemoryCase:
        """An empty list of batches."""
        return MemoryCase()


def test_a_range_beyond_the_stream_is_refused() -> None:
    """A stream that became shorter than a recorded range cannot be replayed: it says so, with the remedy."""
    source = MemorySource(entity())
    source.append([{"id": 1}])
    with pytest.raises(IncarnationChanged, match="has 1 rows, but the range ends after row 3"):
        list(source.read({"row": 0}, {"row": 3}))


def test_a_shorter_stream_is_another_one() -> None:
    """A position past the end of the stream has no row to be known by."""
    source = MemorySource(entity())
    source.append([{"id": 1}, {"id": 2}])
    recorded = source.incarnation({"row": 2})
    source.stream.clear()
    with pytest.raises(IncarnationChanged):
        source.verify({"row": 2}, recorded)


def test_arrow_is_appended_as_it_is() -> None:
    """Tables and record batches keep their types; rows of another schema are refused."""
    source = MemorySource(entity())
    source.append(pa.table({"id": pa.array([1], pa.int16())}))
    source.append(pa.record_batch({"id": pa.array([2], pa.int16())}))
    assert source.schema() == pa.schema([("id", pa.int16())])
    assert drain(source, Past())[0] == [1, 2]
    with pytest.raises(ValueError, match="the stream holds"):
        source.append(pa.table({"id": pa.array([1], pa.int64())}))


def test_rows_say_their_number_and_their_stream() -> None:
    """`_position` is the row's number from 0, `_source` the entity's source."""
    source = MemorySource(entity())
    source.append([{"id": 7}])
    source.append([{"id": 8}])
    rows = table_of(source, {"row": 1}, {"row": 2}).to_pylist()
    assert rows == [{"id": 8, "_position": "1", "_source": "numbers"}]


def test_an_empty_stream_without_a_schema_says_so() -> None:
    """There is nothing to learn the columns from."""
    with pytest.raises(SourceMissing, match="declare source_schema"):
        MemorySource(entity()).schema()
