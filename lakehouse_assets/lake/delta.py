"""Delta tables through delta-rs: the only module that imports deltalake.

A `DeltaTable` here is one handle: a table as it stood when it was opened. Every write goes through the handle whose
number was read, carries that number, and fails as `ConcurrentWriter` if somebody committed the same number first.
What does not belong here: SQL, entities, plans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from lakehouse_assets.errors import (
    ConcurrentWriter,
    FeatureRefused,
    FeedExpired,
    LakeError,
    LakehouseError,
    StoreFailed,
)
from lakehouse_assets.lake import log
from lakehouse_assets.lake.log import MARK
from lakehouse_assets.lake.storage import Storage, check_writable, first_line, is_local, store_fault

if TYPE_CHECKING:
    import deltalake

EMBEDDED_REFUSES = (
    "deletionVectors",
    "columnMapping",
    "rowTracking",
    "inCommitTimestamp",
    "typeWidening",
    "v2Checkpoint",
)


@dataclass(frozen=True)
class Number:
    """The number that a write commits: at most one commit of a table carries `value` for `app_id`."""

    app_id: str
    value: int
    plan: str = ""


@dataclass(frozen=True)
class Commit:
    """What a write did: the table's version after it, and rows and bytes; `skipped` if the number was there already."""

    version: int
    rows_added: int = 0
    rows_updated: int = 0
    rows_removed: int = 0
    bytes_added: int = 0
    skipped: bool = False


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of a table: its full path in the table's file system, and its partition values as text."""

    path: str
    rows: int | None = None
    size: int = 0
    partition_values: Mapping[str, str | None] = field(default_factory=dict)
    stats: str = "{}"


@dataclass(frozen=True)
class TableSpec:
    """What a table is created with; nothing of it is altered later except added columns."""

    schema: pa.Schema
    partition_by: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    comment: str | None = None


class DeltaTable:
    """One table as it stood when this handle was opened."""

    def __init__(self, uri: str, storage: Storage, inner: deltalake.DeltaTable) -> None:
        self.uri = uri
        self.storage = storage
        self._inner = inner
        self.version: int = inner.version()
        self.schema = pa.schema(inner.schema().to_arrow())
        metadata = inner.metadata()
        self.id = str(metadata.id)
        self.partition_by = tuple(metadata.partition_columns)
        self.properties: dict[str, str] = dict(metadata.configuration)
        self.comment = metadata.description

    def number(self, app_id: str) -> int:
        """The last number that `app_id` committed here; 0 if it never did."""
        return self._inner.transaction_version(app_id) or 0

    def features(self) -> tuple[str, ...]:
        """The Delta features in use that this engine neither reads nor writes."""
        protocol = self._inner.protocol()
        named = {*(protocol.reader_features or ()), *(protocol.writer_features or ())}
        if self.properties.get("delta.columnMapping.mode", "none") != "none":
            named.add("columnMapping")
        return tuple(feature for feature in EMBEDDED_REFUSES if feature in named)

    def refuse_features(self) -> None:
        """Raise `FeatureRefused` if the table uses what embedded reads would get wrong."""
        if features := self.features():
            raise FeatureRefused(
                f"the table at {self.uri} uses {', '.join(features)}, which the embedded engine would misread",
                fix="run it with --engine spark, or rewrite the table without these features",
            )

    def files(self, bounds: Mapping[str, Any] | None = None) -> list[DataFile]:
        """The live files of this version; with `bounds`, without those whose statistics exclude these values."""
        self.refuse_features()
        root = self._file_root()
        actions = pa.table(self._inner.get_add_actions(flatten=True)).to_pylist()
        return [
            DataFile(
                f"{root}/{unquote(action['path'])}",
                action.get("num_records"),
                action["size_bytes"],
                {name: _partition_text(action[f"partition.{name}"]) for name in self.partition_by},
            )
            for action in actions
            if all(_may_hold(action, name, value) for name, value in (bounds or {}).items())
        ]

    def rows(self) -> int | None:
        """Rows of this version from the files' statistics; `None` if a file has none."""
        counts = pa.table(self._inner.get_add_actions(flatten=True)).column("num_records")
        return None if counts.null_count else sum(counts.to_pylist())

    def _file_root(self) -> str:
        return self.storage.filesystem(self.uri)[1]

    def commits(self, start: int, end: int) -> Iterator[tuple[int, list[log.Action]]]:
        """The actions of the versions `start + 1 … end`; `FeedExpired` if one has left the log."""
        return log.commits(self.storage, self.uri, start, end)

    def added_files(self, start: int, end: int) -> list[DataFile] | None:
        """Files that the versions `start + 1 … end` appended; `None` if one of them removed or rewrote rows.

        Raises:
            FeedExpired: a version has left the log, or a file was vacuumed.
        """
        added = log.added(self.commits(start, end))
        if added is None:
            return None
        root = self._file_root()
        files = [
            DataFile(f"{root}/{unquote(a['path'])}", log.records(a), a["size"], a.get("partitionValues") or {})
            for a in added
        ]
        log.require(self.storage, self.uri, [file.path for file in files])
        return files

    def data_changed(self, start: int, end: int) -> bool:
        """Whether a version after `start`, up to `end`, changed rows (maintenance does not)."""
        return any(log.changes_rows(actions) for _, actions in self.commits(start, end))

    def foreign_commits(self, start: int, end: int) -> list[int]:
        """Versions after `start`, up to `end`, that changed rows without this project's mark."""
        return [v for v, actions in self.commits(start, end) if log.changes_rows(actions) and not log.is_ours(actions)]

    def change_feed(self, start: int, end: int) -> pa.RecordBatchReader:
        """Rows with `_change_type` of the versions `start + 1 … end`, from the change data feed.

        Raises:
            FeedExpired: the range can no longer be read, or the table keeps no change data feed.
        """
        with _translated(self.uri, FeedExpired):
            reader = self._inner.load_cdf(starting_version=start + 1, ending_version=end)
            return pa.RecordBatchReader.from_stream(reader)

    @property
    def has_change_feed(self) -> bool:
        """Whether the table keeps a change data feed."""
        return self.properties.get("delta.enableChangeDataFeed", "false").lower() == "true"

    def append(self, data: pa.RecordBatchReader, *numbers: Number) -> Commit:
        """Append rows under one or several numbers; their columns must be the table's."""
        return self._write(data, *numbers, mode="append")

    def append_files(self, files: Sequence[DataFile], number: Number) -> Commit:
        """Commit Parquet files that were written beforehand (none: an empty commit that only carries the number)."""
        from deltalake.transaction import AddAction

        root = self._file_root() + "/"
        actions = [
            AddAction(file.path.removeprefix(root), file.size, file.partition_values, _now_ms(), True, file.stats)
            for file in files
        ]
        if not actions:
            return self._write(pa.schema(self.schema).empty_table(), number, mode="append")
        with _translated(self.uri):
            self._inner.create_write_transaction(
                actions,
                "append",
                self._inner.schema(),
                partition_by=list(self.partition_by) or None,
                commit_properties=_properties(number),
            )
        return self._committed(
            number, rows_added=sum(file.rows or 0 for file in files), bytes_added=sum(file.size for file in files)
        )

    def rewrite_files(self, old: Sequence[DataFile], new: Sequence[DataFile], number: Number) -> Commit:
        """Replace files by files that hold the same rows (compaction): no row changes, and nobody downstream moves."""
        from deltalake.transaction import AddAction, RemoveAction

        root = self._file_root() + "/"
        actions: list[Any] = [
            AddAction(f.path.removeprefix(root), f.size, f.partition_values, _now_ms(), False, f.stats) for f in new
        ]
        actions += [
            RemoveAction(f.path.removeprefix(root), False, _now_ms(), f.size, dict(f.partition_values)) for f in old
        ]
        with _translated(self.uri):
            self._inner.create_write_transaction(
                actions,
                "append",
                self._inner.schema(),
                partition_by=list(self.partition_by) or None,
                commit_properties=_properties(number),
            )
        return self._committed(number)

    def vacuum(self, retention_hours: int, *, dry_run: bool = False) -> list[str]:
        """Delete files that no version of the last `retention_hours` names; returns their paths."""
        import deltalake

        with _translated(self.uri):
            return self._inner.vacuum(
                retention_hours,
                dry_run=dry_run,
                enforce_retention_duration=False,
                commit_properties=deltalake.CommitProperties(custom_metadata={MARK: "vacuum"}),
            )

    def committed_at(self, version: int) -> int:
        """When `version` was committed, in milliseconds since 1970.

        Raises:
            FeedExpired: the version has left the log.
        """
        _, actions = next(iter(self.commits(version - 1, version)))
        return int(next((a["commitInfo"].get("timestamp", 0) for a in actions if "commitInfo" in a), 0))

    def overwrite(self, data: pa.RecordBatchReader, number: Number, predicate: str = "true") -> Commit:
        """Replace the rows that `predicate` selects by `data` (`"true"`: all), in one commit.

        `predicate` must cover every row of `data`. A bare overwrite from a stale handle is not a whole replace, so
        the predicate is always given.
        """
        return self._write(data, number, mode="overwrite", predicate=predicate)

    def overwrite_schema(self, data: pa.RecordBatchReader, number: Number) -> Commit:
        """Replace all rows and the schema, in one commit."""
        return self._write(data, number, mode="overwrite", predicate="true", schema_mode="overwrite")

    def add_columns(self, fields: Sequence[pa.Field], plan: str = "") -> None:
        """Add nullable columns at the end; a commit of its own that changes no row."""
        import deltalake

        wider = pa.schema([*self.schema, *(item.with_nullable(True) for item in fields)])
        with _translated(self.uri):
            deltalake.write_deltalake(
                self._inner,
                wider.empty_table(),
                mode="append",
                schema_mode="merge",
                commit_properties=deltalake.CommitProperties(custom_metadata={MARK: plan or "add_columns"}),
            )

    def _write(self, data: Any, *numbers: Number, **how: Any) -> Commit:
        import deltalake

        with _translated(self.uri):
            deltalake.write_deltalake(self._inner, data, commit_properties=_properties(*numbers), **how)
        return self._committed(numbers[0], **self._metrics())

    def merge(self, source: pa.RecordBatchReader | pa.Table, keys: Sequence[str], op: str, number: Number) -> Commit:
        """Upsert and delete by key in one commit; NULL keys match NULL keys.

        Args:
            source: the table's columns and the column `op`: "u" inserts or updates the row, "d" deletes it; at most
                one row a key, and at least one row (an empty merge would make no commit).
        """
        columns = {f'"{name}"': f's."{name}"' for name in self.schema.names}
        on = " AND ".join(f't."{key}" IS NOT DISTINCT FROM s."{key}"' for key in keys)
        with _translated(self.uri):
            metrics = (
                self._inner.merge(source, on, source_alias="s", target_alias="t", commit_properties=_properties(number))
                .when_matched_delete(predicate=f"s.\"{op}\" = 'd'")
                .when_matched_update(updates=columns, predicate=f"s.\"{op}\" = 'u'")
                .when_not_matched_insert(updates=columns, predicate=f"s.\"{op}\" = 'u'")
                .execute()
            )
        return self._committed(
            number,
            rows_added=metrics["num_target_rows_inserted"],
            rows_updated=metrics["num_target_rows_updated"],
            rows_removed=metrics["num_target_rows_deleted"],
        )

    def _committed(self, number: Number, **facts: int) -> Commit:
        newest = open_table(self.uri, self.storage).version
        for version, actions in self.commits(self.version, newest):
            if any(
                (t := a.get("txn")) and (t["appId"], t["version"]) == (number.app_id, number.value) for a in actions
            ):
                return Commit(version, **facts)
        return Commit(newest, **facts)

    def _metrics(self) -> dict[str, int]:
        metrics = self._inner.history(1)[0].get("operationMetrics") or {}
        return {"rows_added": int(metrics.get("num_added_rows") or 0)}


def find_table(uri: str, storage: Storage, version: int | None = None) -> DeltaTable | None:
    """A fresh handle of the table at `uri`, at `version` or its newest; `None` if no table is there."""
    import deltalake
    from deltalake.exceptions import TableNotFoundError

    try:
        with _translated(uri, passing=(TableNotFoundError,)):
            inner = deltalake.DeltaTable(uri, version=version, storage_options=storage.delta_options(uri) or None)
    except TableNotFoundError:
        return None
    return DeltaTable(uri, storage, inner)


def open_table(uri: str, storage: Storage, version: int | None = None) -> DeltaTable:
    """A fresh handle of the table at `uri`.

    Raises:
        LakeError: no table is there.
    """
    table = find_table(uri, storage, version)
    if table is None:
        raise LakeError(f"there is no Delta table at {uri}", fix="run what makes it first: lakehouse run TABLE")
    return table


def create_table(uri: str, storage: Storage, spec: TableSpec) -> DeltaTable:
    """Create an empty table; if another process created it meanwhile, theirs is opened."""
    import deltalake

    properties = {"delta.checkpointInterval": "50", "delta.enableExpiredLogCleanup": "false"} | dict(spec.properties)
    if is_local(uri):
        check_writable(uri)
    try:
        with _translated(uri):
            deltalake.DeltaTable.create(
                uri,
                spec.schema,
                mode="ignore",
                partition_by=list(spec.partition_by) or None,
                description=spec.comment,
                configuration=properties,
                storage_options=storage.delta_options(uri) or None,
                commit_properties=deltalake.CommitProperties(custom_metadata={MARK: "create"}),
                raise_if_key_not_exists=False,
            )
    except (ConcurrentWriter, StoreFailed):
        if (theirs := find_table(uri, storage)) is not None:
            return theirs
        raise
    return open_table(uri, storage)


@contextmanager
def _translated(
    uri: str, otherwise: type[LakehouseError] = LakeError, passing: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn errors of delta-rs into ours; this is the one seam where they are known."""
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        yield
    except passing:
        raise
    except CommitFailedError as error:
        raise ConcurrentWriter(
            f"another process committed to {uri} first; nothing of this write was kept ({first_line(error)})",
            fix="run again: the same batch is taken up from its plan",
        ) from error
    except (DeltaError, OSError) as error:
        raise store_fault(uri, error, otherwise) from error


def _may_hold(action: Mapping[str, Any], name: str, value: Any) -> bool:
    low, high = action.get(f"min.{name}"), action.get(f"max.{name}")
    return low is None or high is None or low <= value <= high


def _partition_text(value: Any) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _properties(*numbers: Number) -> deltalake.CommitProperties:
    from deltalake import CommitProperties, Transaction

    return CommitProperties(
        custom_metadata={MARK: numbers[0].plan or numbers[0].app_id},
        app_transactions=[Transaction(number.app_id, number.value) for number in numbers],
    )


def _now_ms() -> int:
    import time

    return time.time_ns() // 1_000_000
