"""The Spark engine: Spark computes and commits; here with a local session, on a cluster with the cluster's own.

A relation is a function that makes a frame, so it holds no state; each use makes it afresh. Spark starts the
transaction of a write when the write runs, not when the handle was opened. So the number fences a write in two ways:
it is compared with a fresh handle before, and Delta skips a number that was committed meanwhile. Every commit bears a
mark of its own, by which a write that was skipped is told from one that was made.
"""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pyarrow as pa

from lakehouse_assets.engines import spark_asof, spark_upkeep
from lakehouse_assets.engines.arrow_inputs import Input, inputs_of, passed_on
from lakehouse_assets.engines.arrow_types import canonical, check_readable
from lakehouse_assets.engines.base import OPERATION, Appender, Changes, Engine, Handle, Relation
from lakehouse_assets.engines.partitions import Quotes, partitions_predicate
from lakehouse_assets.engines.spark_appender import SparkAppender
from lakehouse_assets.engines.spark_commits import Commits, mark_of
from lakehouse_assets.engines.spark_frames import (
    SparkRelation,
    Spool,
    Staging,
    fitted,
    for_spark,
    hands_over_arrow,
    loaded,
    nullable,
    parquet,
    rows_of_files,
    stream,
    struct,
)
from lakehouse_assets.engines.spark_names import Names, Registry, Target
from lakehouse_assets.engines.spark_publish import publish
from lakehouse_assets.engines.spark_session import (
    REPOSITORY_JARS,
    Local,
    jvm_memory,
    open_session,
    require,
    spark_faults,
    told,
)
from lakehouse_assets.engines.spark_sql import at, create, literal, merge_into, set_properties
from lakehouse_assets.engines.spark_types import schema_of, struct_of
from lakehouse_assets.engines.unity_sql import full
from lakehouse_assets.errors import LakeError
from lakehouse_assets.lake.delta import DeltaTable, create_table, find_table, open_table
from lakehouse_assets.lake.schemas import (
    check_columns,
    check_spec,
    checked,
    compare,
    conform,
    plain,
    with_columns,
)
from lakehouse_assets.lake.storage import Storage, normalize
from lakehouse_assets.lake.streams import Watched
from lakehouse_assets.lake.values import Card, Commit, DataFile, Number, TableSpec, Within
from lakehouse_assets.settings import Settings, checked_directory
from lakehouse_assets.sql import dialect
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.sql.spark_versions import Version, as_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class SparkEngine(Engine):
    """See the module. One instance may be used from several threads."""

    name: ClassVar[str] = "spark"
    reads_features: ClassVar[frozenset[str]] = frozenset(
        {"deletionVectors", "columnMapping", "rowTracking", "inCommitTimestamp", "typeWidening", "clustering"}
    )

    loads: ClassVar[frozenset[str]] = frozenset({"kafka"})
    asof = staticmethod(spark_asof.asof)

    def __init__(self, storage: Storage, local: Local | None = None, names: Names | None = None) -> None:
        self._storage = storage
        self._local = local or Local()
        self._commits = Commits(storage)
        self._registry = Registry(names, lambda: self.spark)
        self._spool = Spool(self._local.temp_directory)
        self._names = itertools.count()
        self._id = uuid.uuid4().hex[:8]
        self._session: SparkSession | None = None

    @classmethod
    def of(cls, settings: Settings, storage: Storage) -> SparkEngine:
        temp = checked_directory(settings.temp_directory)
        jars = settings.spark_jars or REPOSITORY_JARS
        require(jars)
        local = Local(jvm_memory(settings.memory_limit), settings.threads, jars, temp, settings.spark_conf)
        return cls(storage, local, Names.of(settings))

    @property
    def spark(self) -> SparkSession:
        """The session, opened when it is first needed."""
        with _opening:
            if self._session is None:
                self._session = open_session(self._local)
            return self._session

    @functools.cached_property
    def _version(self) -> Version:
        return as_of(self.spark.version)  # over Spark Connect that is a question to the server

    # tables

    def find(self, uri: str, version: int | None = None) -> DeltaTable | None:
        return find_table(uri, self._storage, version)

    def create(self, uri: str, spec: TableSpec) -> DeltaTable:
        free = self._registry.free(normalize(uri))
        uri = checked(uri, spec)
        if spec.properties.get("lakehouse.writers") != self.name:  # a table of both engines is made as both make it
            create_table(uri, self._storage, spec)
        else:
            command = create(full(free), spec, uri) if free else create(at(uri), spec)
            with self._told({_METADATA: mark_of("create")}), spark_faults("CREATE TABLE", uri):
                self.spark.sql(command)
        self._registry.writable(uri)
        return open_table(uri, self._storage)

    def add_columns(self, handle: Handle, fields: Sequence[pa.Field]) -> DeltaTable:
        wider = with_columns(handle.schema, fields)
        check_columns(wider, handle.uri)
        self._enable(handle, wider)
        with spark_faults("add columns", handle.uri):
            empty = self.spark.createDataFrame([], struct(wider))
            told = {"userMetadata": mark_of("add_columns"), "mergeSchema": "true"}
            self._registry.writable(handle.uri).append(empty, told)
        return open_table(handle.uri, self._storage)

    def _enable(self, handle: Handle, columns: pa.Schema) -> None:
        """Let a table hold TIMESTAMP_NTZ, if it is to: Spark wants that said in a commit of its own, before."""
        if "timestamp_ntz" not in json.dumps(struct_of(columns)) or cast(DeltaTable, handle).supports("timestampNtz"):
            return
        with self._told({_METADATA: mark_of("enable")}), spark_faults("ALTER TABLE", handle.uri):
            target = self._registry.writable(handle.uri).sql
            self.spark.sql(set_properties(target, {"delta.feature.timestampNtz": "supported"}))

    def set_properties(self, handle: Handle, properties: Mapping[str, str]) -> None:
        with self._told({_METADATA: mark_of("properties")}), spark_faults("ALTER TABLE", handle.uri):
            self.spark.sql(set_properties(self._registry.writable(handle.uri).sql, properties))

    def read(  # Spark skips files
        self, handle: Handle, within: Within | None = None, partition: Mapping[str, Any] | None = None
    ) -> SparkRelation:
        def make(staging: Staging) -> DataFrame:
            return self._registry.readable(handle.uri).read(staging.spark, versionAsOf=handle.version)

        return SparkRelation(make, nullable(handle.schema))

    def changes(self, handle: Handle, start: int) -> Changes:
        table = cast(DeltaTable, handle)
        moved = table.changes(start)
        if moved.kind == "append":
            return Changes("append", self._added(table, moved.files))
        if moved.kind == "images":
            first, last = moved.commits[0][0], moved.commits[-1][0]

            def make(staging: Staging) -> DataFrame:
                found = self._registry.readable(table.uri).read(
                    staging.spark, readChangeFeed="true", startingVersion=first, endingVersion=last
                )
                return found.select(*(quoted(n) for n in (*table.schema.names, "_change_type", "_commit_version")))

            added = [pa.field("_change_type", pa.string()), pa.field("_commit_version", pa.int64())]
            return Changes("images", SparkRelation(make, pa.schema([*nullable(table.schema), *added])))
        return Changes(moved.kind)

    def _added(self, table: DeltaTable, files: Sequence[DataFile]) -> SparkRelation:
        if not files:
            return self.from_arrow(nullable(table.schema).empty_table())
        return SparkRelation(lambda staging: rows_of_files(staging.spark, table, files), nullable(table.schema))

    # relations

    def from_arrow(self, data: pa.Table | pa.RecordBatchReader) -> SparkRelation:
        check_readable(data.schema)
        name = self._name("arrow")
        source: Input = data if isinstance(data, pa.Table) else Watched(data)
        columns = pa.schema([pa.field(f.name, canonical(f.type)) for f in data.schema])
        return SparkRelation(lambda staging: staging.arrow(name, source, columns), columns, {name: source}, source)

    def load(self, form: str, options: Mapping[str, str], select: Sequence[str], columns: pa.Schema) -> SparkRelation:
        return SparkRelation(lambda staging: loaded(staging.spark, form, options, select), columns)

    def query(
        self, sql: str, relations: Mapping[str, Relation], params: Mapping[str, object] | None = None
    ) -> SparkRelation:
        used = {name: cast(SparkRelation, relation) for name, relation in relations.items()}
        names = {name: self._name("in") for name in used}
        text = dialect.to_spark(sql, {n: r.columns for n, r in used.items()}, names, params or {}, self._version)
        inputs = inputs_of(used.values())

        def make(staging: Staging) -> DataFrame:
            for name, relation in used.items():
                staging.view(names[name], relation.make(staging))
            return staging.spark.sql(text)

        with spark_faults(sql), Staging(self.spark, self._spool) as empty:
            for name, relation in used.items():
                empty.view(names[name], self.spark.createDataFrame([], struct(relation.columns)))
            columns = schema_of(self.spark.sql(text).schema.jsonValue())
        return SparkRelation(make, columns, inputs)

    def schema(self, relation: Relation) -> pa.Schema:
        return cast(SparkRelation, relation).columns

    @contextmanager
    def held(self, relation: Relation) -> Iterator[SparkRelation]:
        columns, path, over = cast(SparkRelation, relation).columns, self._spool.place("held"), threading.Event()

        def make(staging: Staging) -> DataFrame:
            if over.is_set():
                raise LakeError("a relation was read that is no longer held", fix="read it inside the block")
            return parquet(staging.spark, for_spark(path), columns)

        with self._parquet(relation, path):
            try:
                yield SparkRelation(make, columns)
            finally:
                over.set()

    @contextmanager
    def _parquet(self, relation: Relation, path: str) -> Iterator[None]:
        """The relation's rows as a directory of Parquet files, until the block ends."""
        try:
            with self._frame(relation) as frame:
                frame.write.parquet(for_spark(path))
            yield
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def batches(self, relation: Relation) -> pa.RecordBatchReader:
        used = cast(SparkRelation, relation)
        return pa.RecordBatchReader.from_batches(used.columns, self._stream(used))

    def _stream(self, relation: SparkRelation) -> Iterator[pa.RecordBatch]:
        if relation.plain is not None:
            yield from passed_on(relation.plain, relation.columns)
            return
        path = self._spool.place("out")
        with self._parquet(relation, path):
            yield from stream(path, relation.columns)

    def rows(self, relation: Relation, limit: int | None = None) -> list[dict[str, Any]]:
        used = cast(SparkRelation, relation)
        if used.plain is not None:
            return super().rows(relation, limit)
        first = used if limit is None else replace(used, make=lambda staging: used.make(staging).limit(limit))
        if not hands_over_arrow():
            return super().rows(first)
        with self._frame(first) as frame:
            found = frame.toArrow()
        return [row for batch in found.to_batches() for row in conform(batch, used.columns).to_pylist()]

    @contextmanager
    def _frame(self, relation: Relation, uri: str = "") -> Iterator[DataFrame]:
        """The relation's frame, with what it reads staged until the block ends; errors of Spark are ours."""
        with spark_faults("a relation", uri), Staging(self.spark, self._spool) as staging:
            yield cast(SparkRelation, relation).make(staging)

    # writes

    def appender(self, handle: Handle) -> Appender:
        return SparkAppender(self, handle, self._spool.place("append"))

    def _append(self, handle: Handle, relation: Relation | None, number: Number) -> Commit:
        if relation is None:
            relation = self.from_arrow(nullable(handle.schema).empty_table())
        return self._write(handle, relation, number, lambda target, frame, told: target.append(frame, told))

    def _replace(
        self, handle: Handle, relation: Relation, number: Number, partitions: Sequence[Mapping[str, Any]] | None
    ) -> Commit:
        if partitions is not None and not partitions:
            return self._append(handle, None, number)
        where = None if partitions is None else partitions_predicate(partitions, Quotes(quoted, literal))
        return self._write(handle, relation, number, lambda target, frame, told: target.overwrite(frame, told, where))

    def _rebuild(self, handle: Handle, relation: Relation, columns: pa.Schema, number: Number) -> Commit:
        columns = plain(columns)
        if columns.equals(plain(handle.schema), check_metadata=True):
            return self._replace(handle, relation, number, None)
        check_spec(columns, handle.partition_by, handle.uri)
        self._commits.check(handle, number)
        self._enable(handle, columns)

        def how(target: Target, frame: DataFrame, told: Mapping[str, str]) -> None:
            target.rebuild(frame, told, handle.partition_by)

        writable = self._registry.writable(handle.uri)
        clustered = spark_upkeep.clustered_by(self.spark, writable, cast(DeltaTable, handle))
        commit = self._write(handle, relation, number, how, columns)
        if kept := [name for name in clustered if name in columns.names]:  # Delta forgets them with the schema
            with self._told({_METADATA: mark_of("cluster")}), spark_faults("ALTER TABLE", handle.uri):
                self.spark.sql(f"ALTER TABLE {writable.sql} CLUSTER BY ({', '.join(map(quoted, kept))})")
        return commit

    def _write(
        self,
        handle: Handle,
        relation: Relation,
        number: Number,
        how: Callable[[Target, DataFrame, Mapping[str, str]], None],
        columns: pa.Schema | None = None,
    ) -> Commit:
        columns = columns or handle.schema
        compare(self.schema(relation), columns, handle.uri)
        target = self._registry.writable(handle.uri)

        def write(mark: str) -> None:
            told = {"userMetadata": mark, "txnAppId": number.app_id, "txnVersion": str(number.value)}
            with self._frame(relation, handle.uri) as frame:
                how(target, fitted(frame, columns, handle.partition_by), told)

        return self._once(handle, number, write)

    def _merge(
        self, handle: Handle, relation: Relation, keys: Sequence[str], number: Number, within: Within | None
    ) -> Commit:
        columns = pa.schema([*handle.schema, pa.field(OPERATION, pa.string())])
        compare(self.schema(relation), columns, handle.uri)
        target = self._registry.writable(handle.uri).sql

        def write(mark: str) -> None:
            with self._frame(relation, handle.uri) as frame, Staging(self.spark, self._spool) as staging:
                source = self._name("merge")
                staging.view(source, fitted(frame, columns, handle.partition_by))
                told = {_APP: number.app_id, _VERSION: str(number.value), _METADATA: mark}
                if any("." in name for name in handle.partition_by):
                    told[_REPARTITION] = "false"  # Delta would look for a field of a struct
                with self._told(told):
                    self.spark.sql(merge_into(target, handle, source, keys, within))

        return self._once(handle, number, write)

    def _once(self, handle: Handle, number: Number, write: Callable[[str], None]) -> Commit:
        return self._commits.once(handle, number, write, lambda table, used: self._append(table, None, used))

    def _told(self, settings: Mapping[str, str]) -> AbstractContextManager[None]:
        return told(self.spark, settings)

    # maintenance

    def compact(self, handle: Handle, target_bytes: int) -> Commit:
        before = self._commits.newest(handle)
        sizes = {_MAX: str(target_bytes), _MIN: str(target_bytes // 2)}
        mark = mark_of("compact")
        with self._told({_METADATA: mark, **sizes}), spark_faults("OPTIMIZE", handle.uri):
            self.spark.sql(f"OPTIMIZE {self._registry.writable(handle.uri).sql}").collect()
        return self._commits.made(before, mark, {}) or Commit(before.version, skipped=True)

    def vacuum(self, handle: Handle, retention_hours: int) -> list[str]:
        target = self._registry.writable(handle.uri)
        with self._told(spark_upkeep.TOLD), spark_faults("VACUUM", handle.uri):
            return spark_upkeep.vacuum(self.spark, self._storage, target, retention_hours)

    # the catalog of names

    @property
    def publishes(self) -> bool:
        return self._registry.names is not None

    def publish(self, card: Card) -> list[str]:
        with self._told({_METADATA: mark_of("publish")}):
            return publish(self._registry, self.spark, card, self.find, self._version)

    def close(self) -> None:
        """Delete the staged files; the session stays, it is the process's."""
        self._spool.close()
        self._session = None

    def _name(self, kind: str) -> str:
        return f"lakehouse_{self._id}_{kind}_{next(self._names)}"


_APP, _VERSION = "spark.databricks.delta.write.txnAppId", "spark.databricks.delta.write.txnVersion"
_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
_MAX, _MIN = "spark.databricks.delta.optimize.maxFileSize", "spark.databricks.delta.optimize.minFileSize"
_REPARTITION = "spark.databricks.delta.merge.repartitionBeforeWrite.enabled"
_opening = threading.RLock()
