"""Delta tables through delta-rs: the only module that imports deltalake.

A `DeltaTable` here is one handle: a table as it stood when it was opened. Every write goes through the handle whose
number was read, carries that number, and fails as `ConcurrentWriter` if somebody committed the same number first.
A handle writes once; after that it is spent.
What does not belong here: SQL, entities, plans, Parquet files.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakehouse_assets.errors import ConcurrentWriter, FeatureRefused, FeedExpired, LakeError, StoreFailed
from lakehouse_assets.lake import log
from lakehouse_assets.lake.faults import translated
from lakehouse_assets.lake.log import MARK, WRITE
from lakehouse_assets.lake.lying import lying
from lakehouse_assets.lake.schemas import check_columns, check_spec, checked, plain, with_columns
from lakehouse_assets.lake.storage import Storage, normalize
from lakehouse_assets.lake.streams import Watched
from lakehouse_assets.lake.table import TableAt
from lakehouse_assets.lake.values import Commit, DataFile, Moved, Number, TableSpec, Within

if TYPE_CHECKING:
    import deltalake

CHECKPOINT_INTERVAL = 20
"""Commits after which a table's log is summed up: whoever opens the table reads those that came since, one by one."""
INDEXED_COLUMNS = 8
"""Columns (the first) of which the log of a table that is made here says what each file holds, unless its entity says
otherwise: whoever opens the table reads all of that. DuckDB skips by what stands in the files themselves."""
DEFAULTS = {
    "delta.checkpointInterval": str(CHECKPOINT_INTERVAL),
    "delta.enableExpiredLogCleanup": "false",
    "delta.dataSkippingNumIndexedCols": str(INDEXED_COLUMNS),
    "delta.randomizeFilePrefixes": "true",  # Spark names no directory after a partition's value
}
"""Properties of every table, unless its entity says otherwise."""


class DeltaTable(TableAt):
    """One table as it stood when this handle was opened, to be read any number of times and written once."""

    def append(self, data: pa.RecordBatchReader, *numbers: Number) -> Commit:
        """Append rows under one or several numbers; their columns must be the table's."""
        return self._write(data, *numbers, mode="append")

    def append_files(self, files: Sequence[DataFile], number: Number) -> Commit:
        """Commit Parquet files that were written beforehand (none: an empty commit that only carries the number)."""
        if not files:
            return self._write(self.schema.empty_table().to_reader(), number, mode="append")
        return self._commit_files([], files, number, changes_data=True)

    def rewrite_files(self, old: Sequence[DataFile], new: Sequence[DataFile], number: Number) -> Commit:
        """Replace files by files that hold the same rows (compaction): no row changes, and nobody downstream moves.

        Refused if anybody committed anything since the handle was opened: delta-rs does not notice that two
        compactions removed the same files.
        """
        self._refuse_odd_paths()
        return self._commit_files(old, new, number, changes_data=False)

    def _refuse_odd_paths(self) -> None:
        """Raise `FeatureRefused` where removing a file would leave it live.

        Other writers may log paths with letters as they are; delta-rs encodes them when it removes them, and whoever
        reads the log takes that for another file.
        """
        if odd := [path for path in self._adds().column("path").to_pylist() if not path.isascii()]:
            raise FeatureRefused(
                f"the table at {self.uri} names files in a way that delta-rs cannot remove: {odd[0]!r}",
                fix="run it with --engine spark",
            )

    def _commit_files(
        self,
        old: Sequence[DataFile],
        new: Sequence[DataFile],
        number: Number,
        *,
        changes_data: bool,
        held: Mapping[str, int | None] | None = None,
    ) -> Commit:
        from deltalake.transaction import AddAction, RemoveAction

        root, now = self.file_root() + "/", _now_ms()
        actions: list[Any] = [
            AddAction(f.path.removeprefix(root), f.size, f.partition_values, now, changes_data, f.stats) for f in new
        ]
        actions += [
            RemoveAction(f.path.removeprefix(root), changes_data, now, f.size, dict(f.partition_values)) for f in old
        ]

        def commit(table: deltalake.DeltaTable) -> None:
            table.create_write_transaction(
                actions,
                "append",
                table.schema(),
                partition_by=list(self.partition_by) or None,
                commit_properties=self._properties(number, retries=None if changes_data else 0),
            )

        return self._once(commit, number, held=held)

    def replace_files(self, new: Sequence[DataFile], number: Number) -> Commit:
        """Replace all rows by those of Parquet files that were written beforehand."""
        self._refuse_odd_paths()
        held = {file.path: file.rows for file in self.files()}
        return self._commit_files(self.files(), new, number, changes_data=True, held=held)

    def overwrite(self, data: pa.RecordBatchReader, number: Number, predicate: str = "true") -> Commit:
        """Replace the rows that `predicate` selects by `data` (`"true"`: all), in one commit.

        `predicate` must cover every row of `data`. A bare overwrite from a stale handle is not a whole replace, so
        the predicate is always given.
        """
        self._refuse_odd_paths()
        held = {file.path: file.rows for file in self.files()}
        return self._write(data, number, held=held, mode="overwrite", predicate=predicate)

    def overwrite_schema(self, data: pa.RecordBatchReader, number: Number) -> Commit:
        """Replace all rows and the schema, in one commit."""
        self._refuse_odd_paths()
        check_spec(data.schema, self.partition_by, self.uri)
        held = {file.path: file.rows for file in self.files()}
        return self._write(data, number, held=held, mode="overwrite", predicate="true", schema_mode="overwrite")

    def add_columns(self, fields: Sequence[pa.Field], plan: str = "") -> None:
        """Add nullable columns at the end, or structs that gained fields; a commit that changes no row."""
        import deltalake

        wider = with_columns(self.schema, fields)
        check_columns(wider, self.uri)
        marked = deltalake.CommitProperties(custom_metadata={MARK: plan or "add_columns"})
        new = [field for field in wider if field.name not in self.schema.names]
        with translated(self.uri):
            if len(new) == len(fields):  # a merge of schemas would move partition columns behind the others
                found = deltalake.Schema.from_arrow(pa.schema(new)).fields
                self._spend().alter.add_columns(found, commit_properties=marked)
                return
            deltalake.write_deltalake(
                self._spend(), wider.empty_table(), mode="append", schema_mode="merge", commit_properties=marked
            )

    def merge(
        self,
        source: pa.RecordBatchReader | pa.Table,
        keys: Sequence[str],
        op: str,
        number: Number,
        within: Within | None = None,
    ) -> Commit:
        """Upsert and delete by key in one commit; NULL keys match NULL keys.

        Args:
            source: the table's columns and the column `op`: "u" inserts or updates the row, "d" deletes it; at most
                one row a key, and at least one row (an empty merge would make no commit).
            within: where every row lies that has one of these keys: other files are not opened.
        """
        self._refuse_odd_paths()
        columns = {_quoted(name): f"s.{_quoted(name)}" for name in self.schema.names}
        on = " AND ".join(f"(t.{_quoted(key)} IS NOT DISTINCT FROM s.{_quoted(key)})" for key in keys)
        on += "" if within is None else f" AND {lying(within)}"
        rows = Watched(source.to_reader() if isinstance(source, pa.Table) else source)
        deleted, upserted = f"s.{_quoted(op)} = 'd'", f"s.{_quoted(op)} = 'u'"
        metrics: dict[str, Any] = {}

        def commit(table: deltalake.DeltaTable) -> None:
            merger = table.merge(
                rows.open(), on, source_alias="s", target_alias="t", commit_properties=self._properties(number)
            )
            merger = merger.when_matched_delete(predicate=deleted)
            merger = merger.when_matched_update(updates=columns, predicate=upserted)
            metrics.update(merger.when_not_matched_insert(updates=columns, predicate=upserted).execute())
            if (table.transaction_version(number.app_id) or 0) < number.value:  # nothing matched: nothing was committed
                _append_nothing(table, self.schema, self._properties(number))

        done = self._once(commit, number, rows)
        if not metrics:  # the answer was lost
            metrics |= log.info(log.actions(self.storage, self.uri, done.version))["operationMetrics"]
        added, updated, removed = (metrics[f"num_target_rows_{what}"] for what in ("inserted", "updated", "deleted"))
        return Commit(done.version, added, updated, removed, done.bytes_added)

    def set_properties(self, properties: Mapping[str, str]) -> None:
        """Change properties in a commit of its own; no row changes."""
        import deltalake

        with translated(self.uri):
            self._spend().alter.set_table_properties(
                dict(properties),
                raise_if_not_exists=False,
                commit_properties=deltalake.CommitProperties(custom_metadata={MARK: "set_properties"}),
            )

    def vacuum(self, retention_hours: int, *, dry_run: bool = False) -> list[str]:
        """Delete files that no version of the last hours names, abandoned ones included; returns their paths.

        A file that no version names goes by its own age, so files of a batch that is still running stay as long as
        they are younger than `retention_hours`.
        """
        self.refuse_features()  # files that only a deletion vector names would be taken for abandoned ones
        if not dry_run and not self.vacuum(retention_hours, dry_run=True):
            return []  # delta-rs would make two commits that say so
        with translated(self.uri):
            return (self._inner if dry_run else self._spend()).vacuum(
                retention_hours, dry_run=dry_run, enforce_retention_duration=False, full=True
            )

    def stale(self, retention_hours: int) -> list[str]:
        """What `vacuum` would delete."""
        return self.vacuum(retention_hours, dry_run=True)

    def checkpoint(self) -> bool:
        """Sum up the log of this version in one file; no commit. Returns whether there was something to sum up."""
        self.refuse_features()
        if log.last_checkpoint(self.storage, self.uri) >= self.version:
            return False
        with translated(self.uri):
            self._inner.create_checkpoint()
        return True

    def _write(
        self, data: pa.RecordBatchReader, *numbers: Number, held: Mapping[str, int | None] | None = None, **how: Any
    ) -> Commit:
        import deltalake

        rows = Watched(data)

        def commit(table: deltalake.DeltaTable) -> None:
            deltalake.write_deltalake(table, rows.open(), commit_properties=self._properties(*numbers), **how)

        return self._once(commit, numbers[0], rows, held)

    def changes(self, start: int) -> Moved:
        """What moved after version `start`, up to this one."""
        return self.moved(start, lambda version: open_table(self.uri, self.storage, version))

    def _once(
        self,
        write: Callable[[deltalake.DeltaTable], None],
        number: Number,
        rows: Watched | None = None,
        held: Mapping[str, int | None] | None = None,
    ) -> Commit:
        """Write through this handle, and find the commit that it made.

        A store may execute a commit and never say so; delta-rs then tries again and finds itself in the way. So a
        write is looked for before it is called failed: its files may stand in the table.

        Args:
            rows: the stream that is written; what it raises is raised here.
            held: rows of the files before the write, by path, to count what was removed.
        """
        try:
            with translated(self.uri, rows):
                write(self._spend())
        except (ConcurrentWriter, StoreFailed):
            if (arrived := self._arrived()) is None:
                raise
        else:
            arrived = self._arrived()
        if arrived is None:
            raise LakeError(f"the commit of {number} is not in the log of {self.uri}", fix=log.REBUILD)
        version, commit = arrived
        return self.outcome(version, commit, held or {})

    def _arrived(self) -> tuple[int, Sequence[log.Action]] | None:
        """The version that this handle's write became, and its actions; `None` if it became none."""
        for version in itertools.count(self.version + 1):
            try:
                commit = log.actions(self.storage, self.uri, version)
            except FeedExpired:
                break
            if log.written_by(commit, self._write_id):
                return version, commit
        return None

    @cached_property
    def _write_id(self) -> str:
        """By which a commit is known to be this handle's: another process may write the same plan."""
        return uuid.uuid4().hex

    def _properties(self, *numbers: Number, retries: int | None = None) -> deltalake.CommitProperties:
        from deltalake import CommitProperties, Transaction

        return CommitProperties(
            custom_metadata={MARK: numbers[0].plan or numbers[0].app_id, WRITE: self._write_id},
            max_commit_retries=retries,
            app_transactions=[
                Transaction(app_id, value)
                for number in numbers
                for app_id, value in ((number.app_id, number.value), *number.also)
            ],
        )


def find_table(uri: str, storage: Storage, version: int | None = None) -> DeltaTable | None:
    """A fresh handle of the table at `uri`, at `version` or its newest; `None` if no table is there.

    Raises:
        FeedExpired: that version has left the log.
    """
    import deltalake
    from deltalake.exceptions import TableNotFoundError

    uri = normalize(uri)
    options = storage.delta_options(uri) or None
    try:
        with translated(uri, passing=(TableNotFoundError,)):
            inner = deltalake.DeltaTable(uri, version=version, storage_options=options)
    except TableNotFoundError:
        _absent(uri, storage, version)
        return None
    except LakeError:
        if version is not None:
            _absent(uri, storage, version)
        raise
    return DeltaTable(uri, storage, inner)


def _absent(uri: str, storage: Storage, version: int | None) -> None:
    """Say why a version cannot be opened although the table can."""
    newest = find_table(uri, storage) if version is not None else None
    if newest is None or version is None:
        return
    if version > newest.version:
        raise LakeError(f"{uri} has no version {version}", fix=f"its newest version is {newest.version}")
    raise FeedExpired(f"version {version} of {uri} has left its log", fix=log.REBUILD, version=version)


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

    uri, properties = checked(uri, spec), DEFAULTS | dict(spec.properties)
    try:
        with translated(uri):
            deltalake.DeltaTable.create(
                uri,
                plain(spec.schema),
                mode="ignore",
                partition_by=list(spec.partition_by) or None,
                description=spec.comment,
                configuration=properties,
                storage_options=storage.delta_options(uri) or None,
                commit_properties=deltalake.CommitProperties(custom_metadata={MARK: "create"}, max_commit_retries=0),
                raise_if_key_not_exists=False,
            )
    except (ConcurrentWriter, StoreFailed):
        if (theirs := find_table(uri, storage)) is not None:
            return theirs
        raise
    return open_table(uri, storage)


def _append_nothing(table: deltalake.DeltaTable, schema: pa.Schema, how: deltalake.CommitProperties) -> None:
    import deltalake

    deltalake.write_deltalake(table, schema.empty_table(), mode="append", commit_properties=how)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
