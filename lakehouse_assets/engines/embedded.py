"""The embedded engine: DuckDB computes, delta-rs stores, Arrow carries; one process, no JVM, no server.

The only module that imports duckdb. A relation is a text of DuckDB SQL plus the Arrow data that it names, so it holds
no state; a new cursor runs it. Delta files are read by DuckDB's own Parquet reader with the table's schema, because
reading through delta-rs's data set aborts at exit when a scan ends early.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pyarrow as pa

from lakehouse_assets.engines import apart, duckdb_stores
from lakehouse_assets.engines.arrow_inputs import BATCH_ROWS, Input, OverArrow, inputs_of, passed_on
from lakehouse_assets.engines.arrow_types import canonical, check_readable
from lakehouse_assets.engines.asof_embedded import Joined
from lakehouse_assets.engines.asof_spec import AsOf
from lakehouse_assets.engines.base import OPERATION, Appender, Changes, Engine, Handle, Relation
from lakehouse_assets.engines.duckdb_sql import literal, scan
from lakehouse_assets.engines.duckdb_types import quoted
from lakehouse_assets.engines.partitions import Quotes, partitions_predicate
from lakehouse_assets.engines.staging import StagedAppender
from lakehouse_assets.errors import (
    FeedExpired,
    LakehouseError,
    SqlError,
    StoreFailed,
)
from lakehouse_assets.lake import log
from lakehouse_assets.lake.delta import DeltaTable, create_table, find_table
from lakehouse_assets.lake.names import MAINTENANCE
from lakehouse_assets.lake.parquet import of_partition
from lakehouse_assets.lake.schemas import compare, conform, fit, plain
from lakehouse_assets.lake.storage import Storage, first_line, is_local, store_fault
from lakehouse_assets.lake.streams import ENOUGH_ROWS, Watched
from lakehouse_assets.lake.values import Commit, DataFile, Number, TableSpec, Within
from lakehouse_assets.settings import Settings, checked_directory
from lakehouse_assets.sql import dialect

if TYPE_CHECKING:
    import duckdb


LARGE_BYTES = 1 << 20
"""The size from which a file is worth several threads."""
LARGE_FILES = 8
"""As many files as DuckDB has too few of to read each in one thread; of more, none is looked into."""


@dataclass(frozen=True)
class DuckRelation(OverArrow):
    """DuckDB SQL, and the Arrow data that it refers to by name."""

    sql: str
    columns: pa.Schema
    inputs: Mapping[str, Input] = field(default_factory=dict)
    plain: Input | None = None


class EmbeddedEngine(Engine):
    """See the module. One instance may be used from several threads."""

    name: ClassVar[str] = "embedded"
    streams: ClassVar[bool] = True

    def __init__(
        self, storage: Storage, *, memory_limit: str = "2GB", temp_directory: str | None = None, threads: int = 0
    ) -> None:
        self._storage = storage
        self._spill = temp_directory
        self._config = {"memory_limit": memory_limit, "preserve_insertion_order": "true"}
        self._config |= {"autoinstall_known_extensions": "false"}
        self._config |= {"threads": str(threads)} if threads else {}
        self._names = itertools.count()
        self._lock = threading.RLock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._reached: set[str] = set()

    @classmethod
    def of(cls, settings: Settings, storage: Storage) -> EmbeddedEngine:
        spill = checked_directory(settings.temp_directory)
        if not os.environ.get("ARROW_DEFAULT_MEMORY_POOL"):
            pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own choice keeps a sixth more memory than is in use
        return cls(storage, memory_limit=settings.memory_limit, temp_directory=spill, threads=settings.threads)

    # tables

    def find(self, uri: str, version: int | None = None) -> DeltaTable | None:
        return find_table(uri, self._storage, version)

    def create(self, uri: str, spec: TableSpec) -> DeltaTable:
        return create_table(uri, self._storage, spec)

    def add_columns(self, handle: Handle, fields: Sequence[pa.Field]) -> DeltaTable:
        self._table(handle).add_columns(fields)
        return cast(DeltaTable, self.find(handle.uri))

    def set_properties(self, handle: Handle, properties: Mapping[str, str]) -> None:
        self._table(handle).set_properties(properties)

    def read(
        self, handle: Handle, within: Within | None = None, partition: Mapping[str, Any] | None = None
    ) -> DuckRelation:
        table = self._table(handle)
        files = table.files() if within is None else table.files_within(within)
        return self._scan(table, files if partition is None else of_partition(files, partition))

    def changes(self, handle: Handle, start: int) -> Changes:
        table = self._table(handle)
        moved = table.changes(start)
        if moved.kind == "append":
            return Changes("append", self._scan(table, moved.files))
        if moved.kind == "images" and log.has_encoded_paths(moved.commits):
            return Changes("rewritten")  # delta-rs does not find the files of its own change data feed then
        if moved.kind == "images":
            return Changes("images", self.from_arrow(table.change_feed(moved.commits)))
        return Changes(moved.kind)

    # relations

    def from_arrow(self, data: pa.Table | pa.RecordBatchReader) -> DuckRelation:
        check_readable(data.schema)
        name = self._name("arrow")
        source: Input = Watched(data) if isinstance(data, pa.RecordBatchReader) else data
        columns = pa.schema([pa.field(f.name, canonical(f.type)) for f in data.schema])
        return DuckRelation(f'SELECT * FROM "{name}"', columns, {name: source}, source)

    def query(
        self, sql: str, relations: Mapping[str, Relation], params: Mapping[str, object] | None = None
    ) -> DuckRelation:
        used = {name: cast(DuckRelation, relation) for name, relation in relations.items()}
        names = {name: self._name("in") for name in used}
        text = dialect.to_duckdb(sql, {name: r.columns for name, r in used.items()}, names, params or {})
        inputs = inputs_of(used.values())
        ctes = ", ".join(
            f"{quoted(names[name])} AS {_kept(relation, text, names[name])} ({relation.sql})"
            for name, relation in used.items()
        )
        whole = f"WITH {ctes} SELECT * FROM ({text})" if ctes else text
        return DuckRelation(whole, self._describe(whole, inputs, sql), inputs)

    def asof(self, left: Relation, right: Relation, how: AsOf) -> DuckRelation:
        return self.from_arrow(Joined(self, left, right, how, int(self._config.get("threads", 0))))

    def schema(self, relation: Relation) -> pa.Schema:
        return cast(DuckRelation, relation).columns

    @contextmanager
    def held(self, relation: Relation) -> Iterator[DuckRelation]:
        duck, name = cast(DuckRelation, relation), self._name("held")
        with self._cursor(duck) as cursor:
            cursor.execute(f'CREATE TABLE "{name}" AS {duck.sql}')
        try:
            yield DuckRelation(f'SELECT * FROM "{name}"', duck.columns)
        finally:
            with self._cursor() as cursor:
                cursor.execute(f'DROP TABLE IF EXISTS "{name}"')

    def batches(self, relation: Relation) -> pa.RecordBatchReader:
        duck = cast(DuckRelation, relation)
        return pa.RecordBatchReader.from_batches(duck.columns, self._stream(duck))

    def _stream(self, duck: DuckRelation) -> Iterator[pa.RecordBatch]:
        if duck.plain is not None:
            yield from passed_on(duck.plain, duck.columns)
            return
        with self._cursor(duck) as cursor:
            for batch in cursor.execute(duck.sql).to_arrow_reader(BATCH_ROWS):
                yield conform(batch, duck.columns)

    # writes

    def appender(self, handle: Handle) -> Appender:
        return StagedAppender(self._table(handle))

    def _append(self, handle: Handle, relation: Relation | None, number: Number) -> Commit:
        appender = self.appender(handle)
        try:
            if relation is not None:
                with self.batches(relation) as reader:
                    compare(reader.schema, handle.schema, handle.uri)
                    for batch in reader:
                        appender.write(batch)
            return appender.commit(number)
        except BaseException:
            appender.discard()
            raise

    def _replace(
        self, handle: Handle, relation: Relation, number: Number, partitions: Sequence[Mapping[str, Any]] | None
    ) -> Commit:
        table = self._table(handle)
        if partitions is not None and not partitions:
            return table.append_files([], number)
        if partitions is None and apart.column_of(table):
            return self._write_apart(table, relation, lambda files: table.replace_files(files, number))
        predicate = "true" if partitions is None else partitions_predicate(partitions, Quotes(quoted, literal))
        return table.overwrite(self._fitted(relation, table, table.schema), number, predicate)

    def _merge(
        self, handle: Handle, relation: Relation, keys: Sequence[str], number: Number, within: Within | None
    ) -> Commit:
        table = self._table(handle)
        with_operation = pa.schema([*table.schema, pa.field(OPERATION, pa.string())])
        reader = self._fitted(relation, table, with_operation)
        first = next((batch for batch in reader if batch.num_rows), None)
        if first is None:
            return table.append_files([], number)
        rest = pa.RecordBatchReader.from_batches(reader.schema, itertools.chain([first], reader))
        return table.merge(rest, keys, OPERATION, number, within)

    def _rebuild(self, handle: Handle, relation: Relation, columns: pa.Schema, number: Number) -> Commit:
        table, columns = self._table(handle), plain(columns)
        if columns.equals(plain(table.schema), check_metadata=True):
            return self._replace(handle, relation, number, None)
        return table.overwrite_schema(self._fitted(relation, table, columns), number)

    def _write_apart(
        self, table: DeltaTable, relation: Relation, commit: Callable[[Sequence[DataFile]], Commit]
    ) -> Commit:
        """Write rows into files for open and for closed ones, and commit these."""
        duck = cast(DuckRelation, relation)
        compare(duck.columns, table.schema, table.uri)
        ordered = replace(duck, sql=f"SELECT * FROM ({duck.sql}) ORDER BY {apart.order(table)}", plain=None)
        stage = apart.Apart(table)
        try:
            for batch in self._fitted(ordered, table, table.schema):
                stage.write(batch)
            files = stage.finish()
        except BaseException:
            stage.discard()
            raise
        return commit(files)

    def _fitted(self, relation: Relation, table: DeltaTable, columns: pa.Schema) -> pa.RecordBatchReader:
        """The relation's rows in the order of `columns`, or `SchemaDrift` before anything is read."""
        reader = self.batches(relation)
        compare(reader.schema, columns, table.uri)
        by = [name for name in table.partition_by if name in columns.names]
        return pa.RecordBatchReader.from_batches(columns, (fit(batch, columns, by, table.uri) for batch in reader))

    # maintenance

    def compact(self, handle: Handle, target_bytes: int) -> Commit:
        table = self._table(handle)
        table.refuse_features()
        number = Number(MAINTENANCE, table.number(MAINTENANCE) + 1)
        if apart.column_of(table):
            return self.take_apart(table)
        old = table.scattered(target_bytes)
        if not old:
            return Commit(table.version, skipped=True)
        stage = StagedAppender(table, target_bytes)
        try:
            for batch in self._stream(self._scan(table, old)):
                stage.write(batch)
            return stage.rewrite(old, number)
        except BaseException:
            stage.discard()
            raise

    def take_apart(self, handle: Handle) -> Commit:
        table = self._table(handle)
        old = apart.mixed(table)
        if not old:
            return Commit(table.version, skipped=True)
        number = Number(MAINTENANCE, table.number(MAINTENANCE) + 1)
        return self._write_apart(table, self._scan(table, old), lambda new: table.rewrite_files(old, new, number))

    def vacuum(self, handle: Handle, retention_hours: int) -> list[str]:
        return self._table(handle).vacuum(retention_hours)

    def checkpoint(self, handle: Handle) -> bool:
        return self._table(handle).checkpoint()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection, self._reached = None, set()

    # inside

    def _table(self, handle: Handle) -> DeltaTable:
        return cast(DeltaTable, handle)

    def _name(self, kind: str) -> str:
        return f"{kind}_{next(self._names)}"

    def _scan(self, table: DeltaTable, files: Sequence[DataFile]) -> DuckRelation:
        if not files:
            return self.from_arrow(table.schema.empty_table())
        prefix = "" if is_local(table.uri) else self._reach(table.uri)
        few = len(files) <= LARGE_FILES and max(file.size for file in files) >= LARGE_BYTES
        as_is = few and all(table.has_columns_of(file) for file in files)
        return DuckRelation(scan(table.schema, table.partition_by, files, prefix, as_is=as_is), table.schema)

    def _describe(self, sql: str, inputs: Mapping[str, Input], original: str) -> pa.Schema:
        empty = {name: data.schema.empty_table() for name, data in inputs.items()}
        with self._cursor(DuckRelation(original, pa.schema([]), empty)) as cursor:
            schema = cursor.execute(f"SELECT * FROM ({sql}) LIMIT 0").to_arrow_reader(1).schema
        return pa.schema([pa.field(f.name, canonical(f.type)) for f in schema])

    @contextmanager
    def _cursor(self, duck: DuckRelation | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own, which knows the relation's inputs; what goes wrong on it is one of our errors."""
        inputs = duck.inputs if duck else {}
        with self._lock:
            cursor = self._open().cursor()
        try:
            with _duckdb_faults(duck.sql if duck else "", inputs):
                cursor.execute("SET TimeZone = 'UTC'")
                for name, data in inputs.items():
                    cursor.register(name, data.open() if isinstance(data, Watched) else _gathered(data))
                yield cursor
        finally:
            cursor.close()

    def _open(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        with self._lock:
            if self._connection is None:
                # of its own: an engine that closes deletes what any engine left in the directory that it spilled to
                place = self._spill or tempfile.gettempdir()
                os.makedirs(place, exist_ok=True)
                spill = f"{place}/lakehouse-spill-{os.getpid()}-{uuid.uuid4().hex[:8]}"
                self._connection = duckdb.connect(config=cast(Any, self._config | {"temp_directory": spill}))
            return self._connection

    def _reach(self, uri: str) -> str:
        """What paths of the store of `uri` begin with, for DuckDB."""
        store = duckdb_stores.store_of(uri)
        with self._lock:
            if store not in self._reached:
                duckdb_stores.register(self._open(), self._storage, uri)
                self._reached.add(store)
        return f"{store}://"


def _gathered(data: pa.Table) -> pa.Table:
    """A table whose chunks are not small: DuckDB pays for each of them."""
    chunks = max((column.num_chunks for column in data.columns), default=0)
    return data.combine_chunks() if chunks > 1 + data.num_rows // ENOUGH_ROWS else data


def _kept(relation: DuckRelation, text: str, name: str) -> str:
    """Whether DuckDB keeps a relation while it runs a query: it must, if the query reads a stream several times."""
    return "MATERIALIZED" if relation.streams and text.count(quoted(name)) > 1 else "NOT MATERIALIZED"


@contextmanager
def _duckdb_faults(sql: str, inputs: Mapping[str, Input]) -> Iterator[None]:
    """Turn errors of DuckDB into ours; this is the one seam where they are known."""
    import duckdb

    try:
        yield
    except LakehouseError:
        raise
    except (duckdb.Error, pa.ArrowException, OSError) as error:  # a stream's later batches fail in Arrow's classes
        for data in inputs.values():
            if isinstance(data, Watched) and data.error is not None:
                raise data.error from None
        raise _fault(error, sql) from error


def _fault(error: Exception, sql: str) -> LakehouseError:
    """The error of ours that one of DuckDB amounts to; by its text, which is all that is left of it in a stream."""
    text = str(error)
    if "Out of Memory Error" in text or "No space left" in text:
        return StoreFailed(
            f"the embedded engine ran out of memory or spill space: {first_line(error)}",
            fix="raise LAKEHOUSE_MEMORY_LIMIT or free space in LAKEHOUSE_TEMP_DIRECTORY, and run again",
        )
    of_a_store = text.startswith(("OSError", "FileNotFoundError"))  # raised by pyarrow's file system under DuckDB
    cut_off = "No magic bytes" in text and "://" in text  # the answer about its length was
    if (
        of_a_store
        or cut_off
        or any(w in text for w in ("IO Error", "HTTP Error"))
        or isinstance(error.__cause__, OSError)
    ):
        if any(word in text for word in ("No files found", "No such file", "does not exist", "not found")):
            return FeedExpired(f"a file was vacuumed before it was read: {first_line(error)}", fix=log.REBUILD)
        if of_a_store:
            return store_fault("the files of a table", error, StoreFailed)
        return StoreFailed(f"reading or spilling failed: {first_line(error)}", fix="run again")
    return SqlError(f"the query failed: {first_line(error)}", value=sql[:500], fix="mend the expression")
