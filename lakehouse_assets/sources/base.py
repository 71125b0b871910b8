"""The contract of a source, and the registry that opens one for an entity.

What belongs here: the abstract base, the value objects that cross it, the names of the formats.
What does not: anything about Delta, plans or Dagster.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pyarrow as pa

from lakehouse_assets.errors import IncarnationChanged, NotRunnable, SettingsError, SourceError

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import Entity

Position = dict[str, Any]
"""A JSON object that only its source understands: `{"rowid": 120}`; totally ordered per stream."""

MISFIT_SCHEMA = pa.schema(
    [
        pa.field("_upstream", pa.string()),  # JSON object: column -> the value as received, as text
        pa.field("_reasons", pa.list_(pa.string())),  # ["cast_failed:temperature", …]
        pa.field("_position", pa.string()),
        pa.field("_source", pa.string()),
    ]
)
"""Rows that hold a value which does not fit its column: the whole row as received, and why."""

ROW_FIELDS = (pa.field("_position", pa.string()), pa.field("_source", pa.string()))
"""What every row carries besides the source's own columns: where in the stream it stood, and of which stream."""


@dataclass(frozen=True)
class Batch:
    """A part of a closed range: rows that fit (`schema()` + `ROW_FIELDS`), and rows that do not (`MISFIT_SCHEMA`).

    Attributes:
        kept: the misfits with typed values (columns as in `rows`), NULL where a value does not fit: one row for each
            misfit all of whose reasons are `cast_failed:<column>`, in the order of `misfits`. Without it, misfits can
            only be quarantined as a whole.
    """

    rows: pa.RecordBatch
    misfits: pa.RecordBatch | None = None
    kept: pa.RecordBatch | None = None


LOSSES = frozenset({"rows_missing", "files_missing", "pruned"})
"""Codes of notices that tell of rows which the source no longer holds."""


@dataclass(frozen=True)
class Notice:
    """Something a person should know that does not stop the batch; `code` is stable, `message` is for reading."""

    code: str
    message: str


def _never() -> None:
    """No plan was made."""


@dataclass(frozen=True)
class Past:
    """The plans that were made for this stream since its last rebuild.

    Attributes:
        positions: where they ended, oldest first.
        last: where the last one ended.
        first: where the first one started; `None` where that is not known.
        incarnation: of the stream in which the last one was made; `None` where that is not known.
    """

    positions: Callable[[], Iterable[Position]] = field(default=tuple)
    last: Position | None = None
    first: Callable[[], Position | None] = _never
    incarnation: str | None = None

    @classmethod
    def of(cls, *positions: Position) -> Self:
        """A past of given positions."""
        return cls(lambda: positions, positions[-1] if positions else None)


@dataclass(frozen=True)
class Frame:
    """A closed range as a reader of Spark's own gives it.

    Attributes:
        format, options: what the reader is told; secrets are resolved, so this is never recorded or shown.
        select: Spark SQL that makes `schema()` and `ROW_FIELDS` of what it gives.
        misfits: rows of the range that no reader gives.
    """

    format: str
    options: Mapping[str, str] = field(repr=False)
    select: tuple[str, ...]
    misfits: Batch | None = None


class Source(ABC):
    """One stream of the outside world. Opened lazily, used as a context manager, never written to.

    Class attributes:
        incremental: `True`: new rows append after a position. `False`: the whole is read when it changes.
    """

    incremental: ClassVar[bool] = True

    def __init__(self, entity: Entity) -> None:
        self.entity = entity

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Columns as received, without `ROW_FIELDS`; types that Delta holds without loss."""

    def columns(self, start: Position, end: Position) -> pa.Schema:
        """The columns of a closed range: `schema()`, unless the columns are learned from the data itself."""
        return self.schema()

    def holds(self, start: Position, end: Position) -> bool:
        """Whether the range can still be read; what was rewritten or removed cannot."""
        return True

    def resume(self, position: Position) -> Position:
        """Where a batch after `position` starts: there, unless the source has to say more about what lies between."""
        return position

    def frame(self, start: Position, end: Position) -> Frame | None:
        """The range for an engine that reads such a source by itself; `None`: there is no such reader."""
        return None

    @abstractmethod
    def earliest(self) -> Position:
        """The position before the first row that the source still holds."""

    @abstractmethod
    def latest(self, past: Past) -> Position:
        """Where a batch that starts after `past` would end now. Cheap: it is what a sensor asks.

        Equal to `past.last` when there is nothing new. May be nearer than the newest row where the entity bounds a
        batch; the caller asks again until nothing is new.
        """

    def more(self, past: Past, end: Position) -> bool:
        """Whether a bound on batches, and not the end of the stream, ended the batch for which `latest` said `end`.

        Rows that arrived since do not count: a stream that never rests would otherwise never be read to its end.

        Args:
            past: what `latest` was asked with.
        """
        return False

    @abstractmethod
    def read(self, start: Position, end: Position) -> Iterator[Batch]:
        """The rows after `start` up to and including `end`, in bounded memory; the same rows at every call."""

    @abstractmethod
    def incarnation(self, position: Position) -> str:
        """Which stream this is, as seen at `position`: a topic id, a hash of the boundary row, …; never a path."""

    def verify(self, position: Position, recorded: str) -> list[Notice]:
        """Check that the stream still is the one in which `position` was recorded.

        Raises:
            IncarnationChanged: it is another one.
        """
        found = self.incarnation(position)
        if found != recorded:
            raise IncarnationChanged(
                f"{self.entity.destination}: the source {self.entity.source!r} is not the one that was read up to "
                f"{position}: its identity was {recorded!r}, now it is {found!r}",
                fix=f"bring the old source back, or rebuild from the new one: lakehouse run --full-refresh "
                f"{self.entity.destination} (or give the new source its own feed name)",
                position=position,
            )
        return []

    def audit(self, past: Past) -> list[Notice]:
        """What a careful look finds that `latest` cannot see: rows that came late, vanished or were rewritten."""
        return []

    def lag(self, position: Position | None) -> Mapping[str, int] | None:
        """How many rows are still to be read after `position` (`None`: from the start), by part of the stream.

        Cheap, as `latest`; `None`: a source that cannot tell without reading.
        """
        return None

    def losses(self, past: Past) -> list[Notice]:
        """What a table would lose that is read from the start again: rows of `past` that the source no longer holds."""
        return [notice for notice in self.audit(past) if notice.code in LOSSES]

    def partitions(self) -> Mapping[str, str]:
        """Key -> fingerprint, for sources that are read by partition; empty for the others."""
        return {}

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Facts for people (kind, location, table, size, last value): no secret in them."""

    def close(self) -> None:
        """Let go of files and connections; calling it twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class Fingerprint:
    """What a partition holds at its source: how many rows, and a checksum of all of them in their order.

    Attributes:
        checksum: any text without a colon; equal for equal rows, whoever asks and whenever.
    """

    rows: int
    checksum: str

    def __str__(self) -> str:
        return f"{self.rows}:{self.checksum}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The fingerprint that `str` wrote.

        Raises:
            SourceError: the text is no fingerprint.
        """
        rows, colon, checksum = text.partition(":")
        if not (colon and rows.isascii() and rows.isdigit()):
            raise SourceError(
                "a fingerprint is the number of rows, a colon and a checksum",
                value=text,
                fix="see who wrote it: fingerprints are recorded by the plans of this project alone",
            )
        return cls(int(rows), checksum)


class PartitionedSource(Source):
    """A source whose rows stand in partitions by date, each of which is extracted by itself and as a whole.

    A key is an ISO date. A partition may change afterwards; its fingerprint does then.
    """

    incremental: ClassVar[bool] = False

    @abstractmethod
    def partitions(self) -> Mapping[str, str]:
        """Key -> quick fingerprint (the row count as text) of every date of the table, in the order of dates. Cheap."""

    @abstractmethod
    def fingerprint(self, key: str) -> Fingerprint:
        """Rows and checksum of one partition at the source, now.

        Raises:
            SourceMissing: there is no such partition.
        """

    @abstractmethod
    def columns_of(self, key: str) -> pa.Schema:
        """The columns of one partition as extracted: with `_row`, without the partition column.

        Raises:
            SourceMissing: there is no such partition.
        """

    @abstractmethod
    def read_partition(self, key: str) -> Iterator[pa.RecordBatch]:
        """The rows of one partition in stored order, in bounded slices with the schema `columns_of(key)`.

        `_row` (int64) is the number of the row within its partition, from 0. An empty partition gives no batch.

        Raises:
            SourceMissing: there is no such partition.
            SourceBusy: the partition changed while it was read; what was given must not be used.
        """


FORMATS: Mapping[str, str] = {
    "sqlite": "lakehouse_assets.sources.sqlite:SqliteSource",
    "cloudFiles": "lakehouse_assets.sources.files:DiscoveredFiles",
    "kafka": "lakehouse_assets.sources.kafka:KafkaSource",
    "csv": "lakehouse_assets.sources.files:WholeFiles",
    "json": "lakehouse_assets.sources.files:WholeFiles",
    "parquet": "lakehouse_assets.sources.files:WholeFiles",
    "avro": "lakehouse_assets.sources.files:WholeFiles",
    "orc": "lakehouse_assets.sources.files:WholeFiles",
    "kdb": "lakehouse_assets.sources.kdb:KdbSource",
}
"""source_format -> the class that reads it. A format that is not here is declared now and runs later."""


_JUDGES: Mapping[str, str] = {
    "kafka": "lakehouse_assets.sources.kafka_options:faults_of",
    "kdb": "lakehouse_assets.sources.kdb_options:faults_of",
}
"""source_format -> what judges the options of an entity without asking a server."""


def option_faults(entity: Entity) -> Sequence[SettingsError]:
    """Everything that is wrong with the options of an entity, as far as its format can tell without being opened."""
    if entity.source_format not in _JUDGES:
        return ()
    module, name = _JUDGES[entity.source_format].split(":")
    faults: Sequence[SettingsError] = getattr(importlib.import_module(module), name)(entity)
    return faults


def open_source(entity: Entity) -> Source:
    """The source of `entity`, not yet opened.

    Raises:
        NotRunnable: the format has no reader in this version.
    """
    if entity.source_format not in FORMATS:
        raise NotRunnable(
            f"entity {entity.entity_id!r} ({entity.destination}): there is no reader for source_format "
            f"{entity.source_format!r} in this version",
            choices=sorted(FORMATS),
            fix="disable the entity (is_enabled: false) or run the others by name",
        )
    module, name = FORMATS[entity.source_format].split(":")
    return getattr(importlib.import_module(module), name)(entity)
