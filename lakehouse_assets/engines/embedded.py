"""The embedded engine: DuckDB computes, delta-rs stores, Arrow carries; one process, no JVM, no server.

The only module that imports duckdb. A relation is a text of DuckDB SQL plus the Arrow data that it names, so it holds
no state; a new cursor runs it. Delta files are read by DuckDB's own Parquet reader with the table's schema, because
reading through delta-rs's data set aborts at exit when a scan ends early.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pyarrow as pa

from lakehouse_assets.engines.base import OPERATION, Appender, Changes, Engine, Handle, Relation
from lakehouse_assets.engines.duckdb_types import canonical, duckdb_type
from lakehouse_assets.errors import LakehouseError, SqlError, StoreFailed
from lakehouse_assets.lake.delta import Commit, DataFile, DeltaTable, Number, TableSpec, create_table, find_table
from lakehouse_assets.lake.parquet import ParquetStage, compare, conform
from lakehouse_assets.lake.storage import Storage, first_line, is_local
from lakehouse_assets.settings import Settings
from lakehouse_assets.sql import dialect

if TYPE_CHECKING:
    import duckdb

BATCH_ROWS = 100_000
"""Rows of a record batch that leaves the engine."""


@dataclass(frozen=True)
class DuckRelation(Relation):
    """DuckDB SQL, and the Arrow data that it refers to by name."""

    sql: str
    columns: pa.Schema
    inputs: Mapping[str, Any] = field(default_factory=dict)


class EmbeddedEngine(Engine):
    """See the module. One instance may be used from several threads."""

    name: ClassVar[str] = "embedded"

    def __init__(
        self, storage: Storage, *, memory_limit: str = "2GB", temp_directory: str | None = None, threads: int = 0
    ) -> None:
        self._storage = storage
        self._config = {"memory_limit": memory_limit, "preserve_insertion_order": "true"}
        self._config |= {"temp_directory": str(temp_directory)} if temp_directory else {}
        self._config |= {"threads": str(threads)} if threads else {}
        self._names = itertools.count()
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None

    @classmethod
    def of(cls, settings: Settings, storage: Storage) -> EmbeddedEngine:
        spill = str(settings.temp_directory) if settings.temp_directory else None
        return cls(storage, memory_limit=settings.memory_limit, temp_directory=spill, threads=settings.threads)

    # tables

    def find(self, uri: str, version: int | None = None) -> DeltaTable | None:
        return find_table(uri, self._storage, version)

    def create(self, uri: str, spec: TableSpec) -> DeltaTable:
        return create_table(uri, self._storage, spec)

    def add_columns(self, handle: Handle, fields: Sequence[pa.Field]) -> DeltaTable:
        self._table(handle).add_columns(fields)
        return cast(DeltaTable, self.find(handle.uri))

    def read(self, handle: Handle) -> DuckRelation:
        table = self._table(handle)
        return self._scan(table, table.files())

    def changes(self, handle: Handle, start: int) -> Changes:
        table = self._table(handle)
        if start >= table.version or not table.data_changed(start, table.version):
            return Changes("none")
        if (added := table.added_files(start, table.version)) is not None:
            return Changes("append", self._scan(table, added))
        if not table.has_change_feed:
            return Changes("rewritten")
        return Changes("images", self.from_arrow(table.change_feed(start, table.version)))

    # relations

    def from_arrow(self, data: pa.Table | pa.RecordBatchReader) -> DuckRelation:
        name = self._name("arrow")
        return DuckRelation(f'SELECT * FROM "{name}"', data.schema, {name: data})

    def query(
        self, sql: str, relations: Mapping[str, Relation], params: Mapping[str, object] | None = None
    ) -> DuckRelation:
        used = {name: cast(DuckRelation, relation) for name, relation in relations.items()}
        names = {name: self._name("in") for name in used}
        text = dialect.to_duckdb(sql, {name: r.columns for name, r in used.items()}, names, params or {})
        ctes = ", ".join(f'"{names[name]}" AS NOT MATERIALIZED ({relation.sql})' for name, relation in used.items())
        inputs = {key: data for relation in used.values() for key, data in relation.inputs.items()}
        whole = f"WITH {ctes} SELECT * FROM ({text})" if ctes else text
        return DuckRelation(whole, self._describe(whole, inputs, sql), inputs)

    def schema(self, relation: Relation) -> pa.Schema:
        return cast(DuckRelation, relation).columns

    @contextmanager
    def held(self, relation: Relation) -> Iterator[DuckRelation]:
        duck, name = cast(DuckRelation, relation), self._name("held")
        with self._cursor(duck.inputs) as cursor, _duckdb_faults(duck.sql):
            cursor.execute(f'CREATE TABLE "{name}" AS {duck.sql}')
        try:
            yield DuckRelation(f'SELECT * FROM "{name}"', duck.columns)
        finally:
            with self._cursor({}) as cursor:
                cursor.execute(f'DROP TABLE "{name}"')

    def batches(self, relation: Relation) -> pa.RecordBatchReader:
        duck = cast(DuckRelation, relation)
        return pa.RecordBatchReader.from_batches(duck.columns, self._stream(duck))

    def _stream(self, duck: DuckRelation) -> Iterator[pa.RecordBatch]:
        with self._cursor(duck.inputs) as cursor, _duckdb_faults(duck.sql):
            for batch in cursor.execute(duck.sql).to_arrow_reader(BATCH_ROWS):
                yield conform(batch, duck.columns)

    # writes

    def appender(self, handle: Handle) -> Appender:
        return _EmbeddedAppender(self, self._table(handle))

    def _append(self, handle: Handle, relation: Relation | None, number: Number) -> Commit:
        appender = self.appender(handle)
        try:
            if relation is not None:
                with self.batches(relation) as reader:
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
        predicate = "true" if partitions is None else " OR ".join(_partition_predicate(values) for values in partitions)
        return table.overwrite(self._fitted(relation, table), number, predicate)

    def _merge(self, handle: Handle, relation: Relation, keys: Sequence[str], number: Number) -> Commit:
        table = self._table(handle)
        reader = self.batches(relation)
        compare(_without(reader.schema, OPERATION), table.schema, table.uri)
        first = next(iter(reader), None)
        if first is None:
            return table.append_files([], number)
        rest = pa.RecordBatchReader.from_batches(reader.schema, itertools.chain([first], reader))
        return table.merge(rest, keys, OPERATION, number)

    def _rebuild(self, handle: Handle, relation: Relation, columns: pa.Schema, number: Number) -> Commit:
        table = self._table(handle)
        if columns.equals(table.schema, check_metadata=True):
            return table.overwrite(self._fitted(relation, table), number)
        rows = (conform(batch, columns) for batch in self.batches(relation))
        return table.overwrite_schema(pa.RecordBatchReader.from_batches(columns, rows), number)

    def _fitted(self, relation: Relation, table: DeltaTable) -> pa.RecordBatchReader:
        reader = self.batches(relation)
        compare(reader.schema, table.schema, table.uri)
        return pa.RecordBatchReader.from_batches(table.schema, (conform(batch, table.schema) for batch in reader))

    # maintenance

    def compact(self, handle: Handle, number: Number, target_bytes: int) -> Commit:
        table = self._table(handle)
        small: dict[tuple[Any, ...], list[DataFile]] = {}
        for file in table.files():
            if file.size < target_bytes // 2:
                small.setdefault(tuple(sorted(file.partition_values.items())), []).append(file)
        old = [file for group in small.values() if len(group) > 1 for file in group]
        if not old or handle.number(number.app_id) >= number.value:
            return Commit(table.version, skipped=True)
        stage = ParquetStage(table)
        try:
            for batch in self._stream(self._scan(table, old)):
                stage.write(batch)
            return table.rewrite_files(old, stage.finish(), number)
        except BaseException:
            stage.discard()
            raise

    def vacuum(self, handle: Handle, retention_hours: int) -> list[str]:
        return self._table(handle).vacuum(retention_hours)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # inside

    def _table(self, handle: Handle) -> DeltaTable:
        return cast(DeltaTable, handle)

    def _name(self, kind: str) -> str:
        return f"{kind}_{next(self._names)}"

    def _scan(self, table: DeltaTable, files: Sequence[DataFile]) -> DuckRelation:
        if not files:
            empty = self.from_arrow(table.schema.empty_table())
            return DuckRelation(empty.sql, table.schema, empty.inputs)
        prefix = "" if is_local(table.uri) else table.uri.split("://")[0].replace("s3a", "s3") + "://"
        paths = ", ".join(_literal(prefix + file.path) for file in files)
        stored = [f for f in table.schema if f.name not in table.partition_by]
        columns = ", ".join(
            f"{_literal(f.name)}: {{name: {_literal(f.name)}, type: {_literal(duckdb_type(f.type))}, "
            "default_value: NULL}"
            for f in stored
        )
        options = f"schema = MAP {{{columns}}}"
        if not table.partition_by:
            return DuckRelation(f"SELECT * FROM read_parquet([{paths}], {options})", table.schema)
        return DuckRelation(_partitioned(table, files, prefix, paths, options), table.schema)

    def _describe(self, sql: str, inputs: Mapping[str, Any], original: str) -> pa.Schema:
        empty = {name: data.schema.empty_table() for name, data in inputs.items()}
        with self._cursor(empty) as cursor, _duckdb_faults(original):
            schema = cursor.execute(f"SELECT * FROM ({sql}) LIMIT 0").to_arrow_reader(1).schema
        return pa.schema([pa.field(f.name, canonical(f.type)) for f in schema])

    @contextmanager
    def _cursor(self, inputs: Mapping[str, Any]) -> Iterator[duckdb.DuckDBPyConnection]:
        cursor = self._open().cursor()
        try:
            cursor.execute("SET TimeZone = 'UTC'")
            for name, data in inputs.items():
                cursor.register(name, data)
            yield cursor
        finally:
            cursor.close()

    def _open(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        with self._lock:
            if self._connection is None:
                self._connection = duckdb.connect(config=cast(Any, self._config))
                if self._storage.options.get("AWS_ACCESS_KEY_ID") or self._storage.options.get("AWS_ENDPOINT_URL"):
                    _register_s3(self._connection, self._storage)
            return self._connection


class _EmbeddedAppender(Appender):
    def __init__(self, engine: EmbeddedEngine, table: DeltaTable) -> None:
        self._table = table
        self._stage = ParquetStage(table)

    def write(self, batch: pa.RecordBatch) -> None:
        self._stage.write(batch)

    def commit(self, number: Number) -> Commit:
        files = self._stage.finish()
        if self._table.number(number.app_id) >= number.value:
            self._stage.discard()
            return Commit(self._table.version, skipped=True)
        return self._table.append_files(files, number)

    def discard(self) -> None:
        self._stage.discard()


def _partitioned(table: DeltaTable, files: Sequence[DataFile], prefix: str, paths: str, options: str) -> str:
    """Partition values come from the log, not from the paths: there they lose their types and NULLs."""
    rows = ", ".join(
        "(" + ", ".join([_literal(prefix + f.path), *(_value(f.partition_values[p]) for p in table.partition_by)]) + ")"
        for f in files
    )
    names = ", ".join(f'"{name}"' for name in ("__path", *table.partition_by))
    chosen = ", ".join(
        f'CAST(p."{f.name}" AS {duckdb_type(f.type)}) AS "{f.name}"'
        if f.name in table.partition_by
        else f'd."{f.name}"'
        for f in table.schema
    )
    return (
        f"SELECT {chosen} FROM read_parquet([{paths}], {options}, filename = '__file') d "
        f'JOIN (VALUES {rows}) p({names}) ON d."__file" = p."__path"'
    )


def _register_s3(connection: duckdb.DuckDBPyConnection, storage: Storage) -> None:
    from fsspec.implementations.arrow import ArrowFSWrapper

    class S3(ArrowFSWrapper):
        protocol = "s3"

    fs, _ = storage.filesystem("s3://bucket")
    connection.register_filesystem(S3(fs))


def _partition_predicate(values: Mapping[str, Any]) -> str:
    terms = [
        f'"{name}" IS NULL' if value is None else f'"{name}" = {_value(str(value))}' for name, value in values.items()
    ]
    return "(" + " AND ".join(terms) + ")"


def _without(schema: pa.Schema, name: str) -> pa.Schema:
    return pa.schema([f for f in schema if f.name != name])


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _value(text: str | None) -> str:
    return "NULL" if text is None else _literal(text)


@contextmanager
def _duckdb_faults(sql: str) -> Iterator[None]:
    """Turn errors of DuckDB into ours; this is the one seam where they are known."""
    import duckdb

    try:
        yield
    except LakehouseError:
        raise
    except duckdb.OutOfMemoryException as error:
        raise StoreFailed(
            f"the embedded engine ran out of memory or spill space: {first_line(error)}",
            fix="raise LAKEHOUSE_MEMORY_LIMIT or free space in LAKEHOUSE_TEMP_DIRECTORY, and run again",
        ) from error
    except duckdb.Error as error:
        text = str(error)
        if "No space left" in text or isinstance(error.__cause__, OSError):
            raise StoreFailed(f"reading or spilling failed: {first_line(error)}", fix="run again") from error
        raise SqlError(f"the query failed: {first_line(error)}", value=sql[:500], fix="mend the expression") from error
