"""Sources that grow from round to round, although nobody may write to them: each round shows one batch more.

An incremental source is bounded by its own read option and stopped after so many batches, so it is read by the very
code that reads it every day; what is added to it meanwhile is never looked at. A source that is read as a whole shows
the first rows only, a few more in each round, and so is replaced in each. A source that is read by partition shows the
first ones, the newest of them by half: the next round finds it corrected.
What belongs here: how much of a source a round shows. What does not: reading one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

import pyarrow as pa

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.sources.base import (
    Batch,
    Fingerprint,
    Frame,
    Notice,
    PartitionedSource,
    Past,
    Position,
    Source,
)

BOUNDS: Mapping[str, tuple[str, str]] = {
    "sqlite": ("sqlite.maxRowsPerBatch", "rows"),
    "cloudFiles": ("cloudFiles.maxFilesPerTrigger", "count"),
    "kafka": ("maxOffsetsPerTrigger", ""),
}
"""Format -> the option that bounds its batches, and the key of its positions that counts what was read ("": all do).

A format that is not here is read in one batch."""
_SHOWN = "shown"
"""The key under which the position of a paced whole holds its number of rows."""


def measure(source: Source, rounds: int, most: int) -> int:
    """How many rows (or files, or partitions) a batch may hold so that there is a full one for each round.

    Args:
        most: rows or files of a batch; partitions are counted by the rows that they have on average.
    """
    if _by_partition(source):
        rows = [int(count) for count in source.partitions().values()]
        return max(1, min(len(rows) // rounds, most * len(rows) // max(sum(rows), 1)))
    if source.incremental:
        count = _counted(source)
    else:
        count = sum(
            _size(part) for part in _first(source.read(source.earliest(), source.latest(Past())), rounds * most)
        )
    return max(1, min(count // rounds, most))


def _counted(source: Source) -> int:
    """How much an incremental source holds; nothing where its format cannot bound a batch."""
    if source.entity.source_format not in BOUNDS:
        return 0
    key = BOUNDS[source.entity.source_format][1]
    end = source.latest(Past())
    return int(end.get(key, 0)) if key else sum(end.values()) - sum(source.earliest().values())


def paced(open_source: Callable[[Entity], Source], batch: Mapping[str, int], shown: int) -> Callable[[Entity], Source]:
    """An `open_source` whose sources show so many batches.

    Args:
        batch: id of an entity -> rows, files or partitions of a batch.
    """

    def open_paced(entity: Entity) -> Source:
        rows = batch[entity.entity_id]
        source = open_source(bounded(entity, rows))
        return PacedPartitions(source, rows * shown) if _by_partition(source) else PacedSource(source, rows, shown)

    return open_paced


def bounded(entity: Entity, most: int) -> Entity:
    """The entity with batches of at most so many rows or files, where its format can bound them."""
    if entity.source_format not in BOUNDS:
        return entity
    option = BOUNDS[entity.source_format][0]
    others = {name: value for name, value in entity.read_options.items() if name not in (option, option.split(".")[-1])}
    return entity.model_copy(update={"read_options": {**others, option: str(most)}})


class PacedSource(Source):
    """Stands for a source of which a part is shown.

    Args:
        rows: of a batch; what counts for a source that is read as a whole.
        shown: the number of batches.
    """

    def __init__(self, inner: Source, rows: int, shown: int) -> None:
        super().__init__(inner.entity)
        self._inner = inner
        self._rows = rows * shown
        self._shown = shown
        self.incremental = inner.incremental  # type: ignore[misc]  # it is what the inner one is

    def schema(self) -> pa.Schema:
        """The inner source's columns."""
        return self._inner.schema()

    def columns(self, start: Position, end: Position) -> pa.Schema:
        """The inner source's columns of a range."""
        return self._inner.columns(_bare(start), _bare(end))

    def holds(self, start: Position, end: Position) -> bool:
        """Whether the inner source holds it."""
        return self._inner.holds(_bare(start), _bare(end))

    def resume(self, position: Position) -> Position:
        """The inner source's."""
        return self._inner.resume(_bare(position))

    def frame(self, start: Position, end: Position) -> Frame | None:
        """The inner source's, of a range that needs no cut."""
        return self._inner.frame(_bare(start), _bare(end)) if self.incremental else None

    def earliest(self) -> Position:
        """The inner source's."""
        return self._inner.earliest()

    def latest(self, past: Past) -> Position:
        """The end of the next batch, as long as one is to be shown."""
        if not self.incremental:
            return {**self._inner.latest(past), _SHOWN: self._rows}
        if sum(1 for _ in past.positions()) >= self._shown:
            return past.last or self._inner.earliest()
        return self._inner.latest(past)

    def more(self, past: Past, end: Position) -> bool:
        """What the inner source says."""
        return self._inner.more(past, _bare(end))

    def read(self, start: Position, end: Position) -> Iterator[Batch]:
        """The inner source's rows; of a whole only the first ones."""
        batches = self._inner.read(_bare(start), _bare(end))
        return batches if self.incremental else _first(batches, int(end[_SHOWN]))

    def incarnation(self, position: Position) -> str:
        """The inner source's."""
        return self._inner.incarnation(_bare(position))

    def verify(self, position: Position, recorded: str) -> list[Notice]:
        """The inner source's check."""
        return self._inner.verify(_bare(position), recorded)

    def audit(self, past: Past) -> list[Notice]:
        """The inner source's."""
        return self._inner.audit(past) if self.incremental else []

    def losses(self, past: Past) -> list[Notice]:
        """The inner source's."""
        return self._inner.losses(past) if self.incremental else []

    def describe(self) -> dict[str, Any]:
        """The inner source's facts."""
        return self._inner.describe()

    def close(self) -> None:
        """Close the inner source."""
        self._inner.close()


class PacedPartitions(PartitionedSource):
    """Stands for a source that is read by partition, of which the first ones are shown, and half of the last of these.

    Args:
        count: how many are shown.
    """

    def __init__(self, inner: PartitionedSource, count: int) -> None:
        super().__init__(inner.entity)
        self._inner = inner
        self._count = count

    def partitions(self) -> Mapping[str, str]:
        """The inner source's, as far as they are shown."""
        found = list(self._inner.partitions().items())[: self._count]
        return {key: str(self._rows(int(rows), key == found[-1][0])) for key, rows in found}

    def fingerprint(self, key: str) -> Fingerprint:
        """The inner source's; of a half its own."""
        whole = self._inner.fingerprint(key)
        half = self._is_half(key)
        return Fingerprint(self._rows(whole.rows, half), whole.checksum + ("-half" if half else ""))

    def columns_of(self, key: str) -> pa.Schema:
        """The inner source's."""
        return self._inner.columns_of(key)

    def read_partition(self, key: str) -> Iterator[pa.RecordBatch]:
        """The inner source's rows; of a half the first ones."""
        left = self.fingerprint(key).rows
        for batch in self._inner.read_partition(key):
            yield batch.slice(0, left)
            left -= min(left, batch.num_rows)

    def _is_half(self, key: str) -> bool:
        return key == max(self.partitions(), default=None)

    @staticmethod
    def _rows(whole: int, half: bool) -> int:
        return (whole + 1) // 2 if half else whole

    def schema(self) -> pa.Schema:
        """The inner source's."""
        return self._inner.schema()

    def earliest(self) -> Position:
        """The inner source's."""
        return self._inner.earliest()

    def latest(self, past: Past) -> Position:
        """The inner source's."""
        return self._inner.latest(past)

    def read(self, start: Position, end: Position) -> Iterator[Batch]:
        """The inner source's rows."""
        return self._inner.read(start, end)

    def incarnation(self, position: Position) -> str:
        """The inner source's."""
        return self._inner.incarnation(position)

    def describe(self) -> dict[str, Any]:
        """The inner source's facts."""
        return self._inner.describe()

    def close(self) -> None:
        """Close the inner source."""
        self._inner.close()


def _by_partition(source: Source) -> TypeGuard[PartitionedSource]:
    """Whether the source is extracted partition by partition; one that could be may also be read as a whole."""
    return source.entity.kind == "extract" and isinstance(source, PartitionedSource)


def _bare(position: Position) -> Position:
    return {key: value for key, value in position.items() if key != _SHOWN}


def _size(batch: Batch) -> int:
    return int(batch.rows.num_rows + (batch.misfits.num_rows if batch.misfits else 0))


def _first(batches: Iterator[Batch], most: int) -> Iterator[Batch]:
    """The first rows of a stream, misfits counted."""
    left = most
    for batch in batches:
        if left <= 0:
            return
        rows = batch.rows.slice(0, left)
        left -= rows.num_rows
        misfits = batch.misfits.slice(0, left) if batch.misfits else None
        left -= misfits.num_rows if misfits else 0
        yield Batch(rows, misfits)
