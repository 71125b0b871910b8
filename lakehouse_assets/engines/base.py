"""The contract of an engine. Differences between engines are capability attributes here, never `if`s in callers.

A relation is an engine's own lazy frame: callers pass it back to the engine that made it and look into it only
through `schema`, `batches` and `rows`. A handle is one table as it stood when it was opened; a write goes through the
handle whose number was read.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import pyarrow as pa

from lakehouse_assets.engines.asof_spec import AsOf
from lakehouse_assets.errors import FeatureRefused
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Card, Commit, Number, TableSpec, Within
from lakehouse_assets.settings import Settings

OPERATION = "_op"
"""The column of a merge's source that says what to do with the row: "u" upsert, "d" delete."""


class Handle(Protocol):
    """One table as it stood when it was opened."""

    uri: str
    version: int
    id: str
    schema: pa.Schema
    partition_by: tuple[str, ...]
    properties: dict[str, str]
    comment: str | None

    def number(self, app_id: str) -> int:
        """The last number that `app_id` committed; 0 if none."""

    def foreign_commits(self, start: int, end: int) -> list[int]:
        """Versions in (start, end] that changed rows and were not written by this project."""

    def foreign_since_own(self) -> list[int]:
        """Versions after the last one in which this project changed rows, in which somebody else did."""

    def weight(self) -> tuple[int, int]:
        """The number of live files, and their bytes."""

    def scattered(self, target_bytes: int) -> Sequence[object]:
        """The files that a compaction into files of `target_bytes` would rewrite."""

    def stale(self, retention_hours: int) -> list[str]:
        """The files that a vacuum would delete."""


class Relation(ABC):
    """An engine's lazy frame."""


@dataclass(frozen=True)
class Changes:
    """What moved in a table between two versions.

    Attributes:
        kind: `none`: no row changed; `append`: `relation` holds the new rows; `images`: `relation` holds both images
            with `_change_type` (insert, delete, update_preimage, update_postimage); `rewritten`: rows were removed or
            rewritten and the table keeps no change data feed, so a reader has to start over.
    """

    kind: Literal["none", "append", "images", "rewritten"]
    relation: Relation | None = None


class Appender(ABC):
    """Takes record batches in bounded memory; nothing is visible before `commit`."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Take a batch whose columns are the table's, by name and type (else `SchemaDrift`)."""

    @abstractmethod
    def commit(self, number: Number) -> Commit:
        """Append what was taken, in one commit that carries `number`."""

    @abstractmethod
    def discard(self) -> None:
        """Give up what was taken."""


class Engine(ABC):
    """Reads, computes and writes.

    Class attributes:
        name: `embedded` or `spark`; recorded in the plans.
        reads_features: Delta features that this engine reads and writes although `embedded` does not.
        streams: its batches come as they are computed, and its appender takes them as they come: one pass over rows
            that go several ways costs less than reading them again.
        loads: formats of the outside world that this engine reads by itself, in parallel.
    """

    name: ClassVar[str]
    reads_features: ClassVar[frozenset[str]] = frozenset()
    streams: ClassVar[bool] = False
    loads: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    @abstractmethod
    def of(cls, settings: Settings, storage: Storage) -> Self:
        """The engine that the settings describe; opens nothing yet.

        Raises:
            NotRunnable: something that it needs is not on this machine.
        """

    @abstractmethod
    def find(self, uri: str, version: int | None = None) -> Handle | None:
        """A fresh handle of the table at `uri`, or `None` if there is none."""

    @abstractmethod
    def create(self, uri: str, spec: TableSpec) -> Handle:
        """Create an empty table, or open the one that is there."""

    @abstractmethod
    def add_columns(self, handle: Handle, fields: Sequence[pa.Field]) -> Handle:
        """Add nullable columns in a commit of its own; returns a fresh handle."""

    @abstractmethod
    def set_properties(self, handle: Handle, properties: Mapping[str, str]) -> None:
        """Change properties of a table in a commit of its own; no row changes."""

    @abstractmethod
    def read(
        self, handle: Handle, within: Within | None = None, partition: Mapping[str, Any] | None = None
    ) -> Relation:
        """The table's rows at the handle's version.

        Args:
            within: only rows that lie there are needed; others may come as well.
            partition: only rows with these values of partition columns are needed; others may come as well.

        Raises:
            FeatureRefused: the table uses a Delta feature that this engine would misread.
        """

    @abstractmethod
    def changes(self, handle: Handle, start: int) -> Changes:
        """What moved after version `start`, up to the handle's version.

        Raises:
            FeedExpired: the range can no longer be read.
        """

    @abstractmethod
    def from_arrow(self, data: pa.Table | pa.RecordBatchReader) -> Relation:
        """A relation of Arrow data; one made of a reader can be used once."""

    def load(self, form: str, options: Mapping[str, str], select: Sequence[str], columns: pa.Schema) -> Relation:
        """A closed range of the outside world, read when the relation is used.

        Args:
            form: one of `loads`.
            options: what the engine's reader is told.
            select: Spark SQL items that make `columns` of what it gives.

        Raises:
            FeatureRefused: this engine has no reader for the format.
        """
        raise FeatureRefused(
            f"the engine {self.name!r} does not read {form} by itself",
            value=form,
            choices=sorted(self.loads),
            fix="read it through its source",
        )

    @abstractmethod
    def query(
        self, sql: str, relations: Mapping[str, Relation], params: Mapping[str, object] | None = None
    ) -> Relation:
        """The result of a Spark SQL query over relations by the names that it uses; `:name` takes `params["name"]`."""

    @abstractmethod
    def asof(self, left: Relation, right: Relation, how: AsOf) -> Relation:
        """Every left row once, with the columns of the right row that was the case at its time; NULL if none was.

        Raises:
            CatalogError: the columns do not fit.
        """

    @abstractmethod
    def schema(self, relation: Relation) -> pa.Schema:
        """The relation's columns."""

    @abstractmethod
    @contextmanager
    def held(self, relation: Relation) -> Iterator[Relation]:
        """The relation computed once and kept, spilled to disk if need be, until the block ends."""

    @abstractmethod
    def batches(self, relation: Relation) -> pa.RecordBatchReader:
        """The relation's rows as a stream."""

    def rows(self, relation: Relation, limit: int | None = None) -> list[dict[str, Any]]:
        """Rows as dictionaries: for small results, samples and people."""
        found: list[dict[str, Any]] = []
        with self.batches(relation) as reader:
            for batch in reader:
                found += batch.to_pylist()
                if limit is not None and len(found) >= limit:
                    return found[:limit]
        return found

    def append(self, handle: Handle, relation: Relation | None, number: Number) -> Commit:
        """Append rows (none: an empty commit that carries the number)."""
        return self._unless_done(handle, number) or self._append(handle, relation, number)

    def replace(
        self, handle: Handle, relation: Relation, number: Number, partitions: Sequence[Mapping[str, Any]] | None = None
    ) -> Commit:
        """Replace all rows, or those of `partitions` (partition column -> value), by the relation's, in one commit."""
        return self._unless_done(handle, number) or self._replace(handle, relation, number, partitions)

    def merge(
        self, handle: Handle, relation: Relation, keys: Sequence[str], number: Number, within: Within | None = None
    ) -> Commit:
        """Upsert and delete by key in one commit: the table's columns plus `OPERATION`; NULL keys match NULL keys.

        Args:
            within: where every row lies that has one of these keys, so that the others need not be looked at.
        """
        return self._unless_done(handle, number) or self._merge(handle, relation, keys, number, within)

    def rebuild(self, handle: Handle, relation: Relation, columns: pa.Schema, number: Number) -> Commit:
        """Replace all rows and the schema by the relation's, in one commit; `columns` adds their comments."""
        return self._unless_done(handle, number) or self._rebuild(handle, relation, columns, number)

    @abstractmethod
    def appender(self, handle: Handle) -> Appender:
        """A stream into the table; its `commit` checks the number as `append` does."""

    @abstractmethod
    def compact(self, handle: Handle, target_bytes: int) -> Commit:
        """Rewrite small files into larger ones; no row changes.

        Raises:
            ConcurrentWriter: somebody committed since the handle was opened.
        """

    def take_apart(self, handle: Handle) -> Commit:
        """Rewrite files that hold open and closed rows of a table with history, if that is worth it; no row changes.

        An engine whose merges skip rows by other means does nothing.

        Raises:
            ConcurrentWriter: somebody committed since the handle was opened.
        """
        return Commit(handle.version, skipped=True)

    @abstractmethod
    def vacuum(self, handle: Handle, retention_hours: int) -> list[str]:
        """Delete files that no version of the last hours names."""

    def checkpoint(self, handle: Handle) -> bool:
        """Sum up the log of the handle's version in one file, so that opening the table stays cheap; no commit.

        Returns:
            Whether a file was written; an engine whose commits do it by themselves writes none.
        """
        return False

    @property
    def publishes(self) -> bool:
        """Whether this engine keeps a catalog of names, so that `publish` does something."""
        return False

    def publish(self, card: Card) -> list[str]:
        """Let the catalog of names know a table that is there, or a view; repeated, it changes nothing.

        Returns:
            What the catalog refused, in words: no row depends on it.

        Raises:
            ForeignTable: the table's name is taken by another one.
        """
        return []

    def close(self) -> None:
        """Let go of everything."""

    @staticmethod
    def _unless_done(handle: Handle, number: Number) -> Commit | None:
        if handle.number(number.app_id) >= number.value:
            return Commit(handle.version, skipped=True)
        return None

    def refuse_writers(self, handle: Handle) -> None:
        """Raise `FeatureRefused` if the table is kept for another engine."""
        self.refuse_writer(handle.properties.get("lakehouse.writers", "both"), handle.uri)

    def refuse_writer(self, writers: str, where: str) -> None:
        """Raise `FeatureRefused` unless `writers` is both engines, or this one."""
        if writers not in ("both", self.name):
            raise FeatureRefused(
                f"the table at {where} may only be written by the engine {writers!r}",
                value=self.name,
                choices=(writers,),
                fix=f"run it with --engine {writers}",
            )

    @abstractmethod
    def _append(self, handle: Handle, relation: Relation | None, number: Number) -> Commit: ...

    @abstractmethod
    def _replace(
        self, handle: Handle, relation: Relation, number: Number, partitions: Sequence[Mapping[str, Any]] | None
    ) -> Commit: ...

    @abstractmethod
    def _merge(
        self, handle: Handle, relation: Relation, keys: Sequence[str], number: Number, within: Within | None
    ) -> Commit: ...

    @abstractmethod
    def _rebuild(self, handle: Handle, relation: Relation, columns: pa.Schema, number: Number) -> Commit: ...


ENGINES: Mapping[str, str] = {
    "embedded": "lakehouse_assets.engines.embedded:EmbeddedEngine",
    "spark": "lakehouse_assets.engines.spark:SparkEngine",
}
"""Name of an engine -> the class that it is."""


def open_engine(settings: Settings, storage: Storage) -> Engine:
    """The engine that `settings.engine` names.

    Raises:
        NotRunnable: something that it needs is not on this machine.
    """
    module, name = ENGINES[settings.engine].split(":")
    engine: Engine = getattr(importlib.import_module(module), name).of(settings, storage)
    return engine
