"""Relations over Arrow data: tables, and streams that can be read once.

What belongs here: what engines do alike with the Arrow data that a relation names. What does not: an engine's frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import pyarrow as pa

from lakehouse_assets.engines.base import Relation
from lakehouse_assets.errors import LakeError
from lakehouse_assets.lake.schemas import conform
from lakehouse_assets.lake.streams import Watched

BATCH_ROWS = 30_000
"""Rows of a record batch that leaves an engine."""

Input: TypeAlias = "pa.Table | Watched"
"""Arrow data that a relation reads by name."""


class OverArrow(Relation):
    """A relation, and the Arrow data that it reads.

    Attributes:
        inputs: that data, by name.
        plain: the input that the relation is, row for row; it need not pass through the engine, which might read far
            ahead of a slow reader.
    """

    columns: pa.Schema
    inputs: Mapping[str, Input]
    plain: Input | None

    @property
    def streams(self) -> set[str]:
        """The inputs that can be read once."""
        return {name for name, data in self.inputs.items() if isinstance(data, Watched)}


def passed_on(data: Input, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of an input as they are."""
    for batch in data.to_reader(BATCH_ROWS) if isinstance(data, pa.Table) else data.open():
        yield conform(batch, columns)


def inputs_of(relations: Iterable[OverArrow]) -> dict[str, Input]:
    """The inputs of the relations that a query reads.

    Raises:
        LakeError: two of them read the same stream, so one would find no rows.
    """
    relations = list(relations)
    streams = [name for relation in relations for name in relation.streams]
    if len(streams) > len(set(streams)):
        raise LakeError("two relations of one query read the same stream", fix="hold it while it is used twice")
    return {name: data for relation in relations for name, data in relation.inputs.items()}
