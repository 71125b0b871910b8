"""One Delta table as it stood at a version: what is in it, and what its log says.

The handle itself comes from delta-rs (`delta.py` opens it). What does not belong here: writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from lakehouse_assets.errors import FeatureRefused, FeedExpired, LakeError
from lakehouse_assets.lake import log
from lakehouse_assets.lake.faults import translated
from lakehouse_assets.lake.files import data_files
from lakehouse_assets.lake.schemas import same_type, widens
from lakehouse_assets.lake.storage import Storage, store_faults
from lakehouse_assets.lake.values import Commit, DataFile, Moved, Within

if TYPE_CHECKING:
    import deltalake

EMBEDDED_REFUSES = (
    "deletionVectors",
    "columnMapping",
    "rowTracking",
    "inCommitTimestamp",
    "typeWidening",
    "v2Checkpoint",
    "clustering",
)
"""Delta features that the embedded engine neither reads nor writes, previews of them included."""


class TableAt:
    """One table as it stood when this handle was opened."""

    def __init__(self, uri: str, storage: Storage, opened: deltalake.DeltaTable) -> None:
        self.uri = uri
        self.storage = storage
        self._opened: deltalake.DeltaTable | None = opened
        self.version: int = opened.version()
        self.schema = pa.schema(opened.schema().to_arrow())
        metadata = opened.metadata()
        self.id = str(metadata.id)
        self.partition_by = tuple(metadata.partition_columns)
        self.properties: dict[str, str] = dict(metadata.configuration)
        self.comment: str | None = metadata.description

    @property
    def _inner(self) -> deltalake.DeltaTable:
        if self._opened is None:
            raise LakeError(f"the handle of {self.uri} has written and is spent", fix="open the table again")
        return self._opened

    def number(self, app_id: str) -> int:
        """The last number that `app_id` committed here; 0 if it never did."""
        with translated(self.uri):
            return self._inner.transaction_version(app_id) or 0

    def features(self) -> tuple[str, ...]:
        """The Delta features in use that the embedded engine neither reads nor writes."""
        named = self._named_features()
        if self.maps_columns:
            named.add("columnMapping")
        return tuple(f for f in EMBEDDED_REFUSES if f in {name.removesuffix("-preview") for name in named})

    def supports(self, feature: str) -> bool:
        """Whether the table's protocol names a Delta feature."""
        return feature in self._named_features()

    def _named_features(self) -> set[str]:
        protocol = self._inner.protocol()
        return {*(protocol.reader_features or ()), *(protocol.writer_features or ())}

    def refuse_features(self) -> None:
        """Raise `FeatureRefused` if the table uses what embedded reads would get wrong."""
        if features := self.features():
            raise FeatureRefused(
                f"the table at {self.uri} uses {', '.join(features)}, which the embedded engine would misread",
                fix="run it with --engine spark, or rewrite the table without these features",
            )

    def files(self, bounds: Mapping[str, int | str] | None = None) -> list[DataFile]:
        """The live files of this version; with `bounds`, without those whose statistics exclude these values."""
        self.refuse_features()
        return self.named_files(bounds)

    def named_files(self, bounds: Mapping[str, int | str] | None = None) -> list[DataFile]:
        """As `files`, but also where their rows are not simply those of the table (deletion vectors)."""
        actions = self._adds()
        return data_files(self.uri, self.file_root(), actions, self.partition_by, bounds or {})

    def null_counts(self, column: str) -> dict[str, int]:
        """Path of a live file -> how many of its rows have NULL in a column, where its log says so.

        Of a struct its first field is looked at: there may be fewer rows in which the whole is NULL, never more.
        """
        actions, root = self._adds(), self.file_root()
        kind = self.schema.field(column).type
        column = f"{column}.{kind.field(0).name}" if pa.types.is_struct(kind) else column
        if f"null_count.{column}" not in actions.schema.names:
            return {}
        counts = actions.column(f"null_count.{column}").to_pylist()
        paths = actions.column("path").to_pylist()
        return {
            f"{root}/{unquote(path)}": count for path, count in zip(paths, counts, strict=True) if count is not None
        }

    def files_within(self, within: Within) -> list[DataFile]:
        """The live files that may hold rows which lie `within`; all where the log does not say."""
        nulls, actions = self.null_counts(within.column), self._adds()
        most: dict[str, Any] = {}  # the highest value of each file
        name = f"max.{within.column}"
        if within.least is not None and type(within.least) in (int, str, date) and name in actions.schema.names:
            paths = (f"{self.file_root()}/{unquote(path)}" for path in actions.column("path").to_pylist())
            most = dict(zip(paths, actions.column(name).to_pylist(), strict=True))

        least: Any = within.least

        def may_hold(file: DataFile) -> bool:
            if nulls.get(file.path) != 0:
                return True
            highest: Any = most.get(file.path)
            return least is not None and (type(highest) is not type(least) or bool(highest >= least))

        return [file for file in self.files() if may_hold(file)]

    def weight(self) -> tuple[int, int]:
        """The number of live files, and their bytes."""
        sizes = self._adds().column("size_bytes").to_pylist()
        return len(sizes), sum(sizes)

    def scattered(self, target_bytes: int) -> list[DataFile]:
        """Files that a compaction into files of `target_bytes` would rewrite: small ones that are not alone."""
        small: dict[tuple[Any, ...], list[DataFile]] = {}
        for file in self.named_files():
            if file.size < target_bytes // 2:
                key = tuple((value is None, value) for value in file.partition_values.values())
                small.setdefault(key, []).append(file)
        return [file for group in small.values() if len(group) > 1 for file in group]

    def has_columns_of(self, file: DataFile) -> bool:
        """Whether a data file has the table's very columns, in name and type."""
        import pyarrow.parquet as pq

        fs, _ = self.storage.filesystem(self.uri)
        with store_faults(self.uri, LakeError):
            found = pq.read_schema(file.path, filesystem=fs)
        stored = {f.name: f.type for f in found}
        return all(
            f.name in stored and same_type(f.type, stored[f.name])
            for f in self.schema
            if f.name not in self.partition_by
        )

    def rows(self) -> int | None:
        """Rows of this version from the files' statistics; `None` if a file has none."""
        counts = self._adds().column("num_records")
        return None if counts.null_count else sum(counts.to_pylist())

    def file_root(self) -> str:
        """The table's path in its file system."""
        return self.storage.filesystem(self.uri)[1]

    def commits(self, start: int, end: int) -> Iterator[tuple[int, list[log.Action]]]:
        """The actions of the versions `start + 1 … end`; `FeedExpired` if one has left the log."""
        return log.commits(self.storage, self.uri, start, end)

    def moved(self, start: int, before: Callable[[int], TableAt]) -> Moved:
        """What moved after version `start`, up to this one; `before` opens the table at an older version.

        Raises:
            FeedExpired: the range, or a file of it, can no longer be read.
            LakeError: the table is older than `start`.
        """
        if start > self.version:
            raise LakeError(
                f"{self.uri} is at version {self.version}, but version {start} of it was read before", fix=log.REBUILD
            )
        commits = list(self.commits(start, self.version))
        if not any(log.changes_rows(commit) for _, commit in commits):
            return Moved("none")
        rewidened = start >= 0 and any(log.changes_columns(commit) for _, commit in commits)
        if rewidened and not widens(before(start).schema, self.schema):
            return Moved("rewritten")
        if not self.maps_columns and (added := self.added_files(commits)) is not None:
            return Moved("append", commits, added)
        if not self.has_change_feed:
            return Moved("rewritten")
        self.require_feed(commits)
        return Moved("images", commits)

    def outcome(self, version: int, commit: Sequence[log.Action], held: Mapping[str, int | None]) -> Commit:
        """What a commit of this table did; `held`: rows of the files before it, by path."""
        metrics = log.info(commit).get("operationMetrics") or {}
        added = [action["add"] for action in commit if "add" in action]
        size = sum(int(add["size"]) for add in added)
        if "numTargetRowsInserted" in metrics:  # Spark's: a merge rewrites rows that it does not change
            inserted, updated, deleted = (int(metrics[f"numTargetRows{w}"]) for w in ("Inserted", "Updated", "Deleted"))
            return Commit(version, inserted, updated, deleted, size)
        root = self.file_root()
        removed = [f"{root}/{unquote(action['remove']['path'])}" for action in commit if "remove" in action]
        return Commit(
            version,
            rows_added=sum(log.records(add) or 0 for add in added),
            rows_removed=sum(held.get(path) or 0 for path in removed),
            bytes_added=size,
        )

    def added_files(self, commits: Sequence[tuple[int, Sequence[log.Action]]]) -> list[DataFile] | None:
        """Files that these commits appended; `None` if one of them removed or rewrote rows.

        Raises:
            FeedExpired: a file was vacuumed.
        """
        added = log.added(commits)
        if added is None:
            return None
        root = self.file_root()
        files = [
            DataFile(f"{root}/{unquote(a['path'])}", log.records(a), a["size"], log.partition_values(a)) for a in added
        ]
        log.require(self.storage, self.uri, [file.path for file in files])
        return files

    def foreign_commits(self, start: int, end: int) -> list[int]:
        """Versions after `start`, up to `end`, that changed rows without this project's mark."""
        return [v for v, commit in self.commits(start, end) if log.changes_rows(commit) and not log.is_ours(commit)]

    def foreign_since_own(self) -> list[int]:
        """Versions after the last one in which this project changed rows, in which somebody else did."""
        found: list[int] = []
        for version in range(self.version, -1, -1):
            try:
                commit = log.actions(self.storage, self.uri, version)
            except FeedExpired:
                break
            if log.changes_rows(commit) and log.is_ours(commit):
                break
            found += [version] if log.changes_rows(commit) else []
        return found[::-1]

    def require_feed(self, commits: Sequence[tuple[int, Sequence[log.Action]]]) -> None:
        """Raise `FeedExpired` if a file of the change data feed of these commits is gone."""
        root = self.file_root()
        log.require(self.storage, self.uri, [f"{root}/{path}" for path in log.changed_paths(commits)])

    def change_feed(self, commits: Sequence[tuple[int, Sequence[log.Action]]]) -> pa.RecordBatchReader:
        """Rows with `_change_type` of these commits (one after the other), from the change data feed.

        Raises:
            FeedExpired: the range can no longer be read, or the table keeps no change data feed.
        """
        with translated(self.uri, otherwise=FeedExpired):
            feed = self._inner.load_cdf(starting_version=commits[0][0], ending_version=commits[-1][0])
            reader = pa.RecordBatchReader.from_stream(feed)
        return pa.RecordBatchReader.from_batches(reader.schema, self._feed(reader))

    def _feed(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        with translated(self.uri, otherwise=FeedExpired):
            yield from reader

    @property
    def has_change_feed(self) -> bool:
        """Whether the table keeps a change data feed."""
        return self.properties.get("delta.enableChangeDataFeed", "false").lower() == "true"

    @property
    def maps_columns(self) -> bool:
        """Whether its files name columns otherwise than the table."""
        return self.properties.get("delta.columnMapping.mode", "none") != "none"

    def _adds(self) -> pa.Table:
        """The add actions of this version, flattened."""
        with translated(self.uri):
            return pa.table(self._inner.get_add_actions(flatten=True))

    def _spend(self) -> deltalake.DeltaTable:
        inner, self._opened = self._inner, None
        return inner
