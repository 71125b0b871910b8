"""The Spark engine keeps the contract, and what only it promises."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.engines.spark import SparkEngine
from lakehouse_assets.engines.spark_session import Local, jvm_memory
from lakehouse_assets.errors import ConcurrentWriter, FeatureRefused, SettingsError
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number, TableSpec
from lakehouse_assets_tests.engines.bench import APP, KV, Bench, Table
from lakehouse_assets_tests.engines.contract import EngineContract
from lakehouse_assets_tests.engines.contract_writes import ODD


class TestSpark(EngineContract):
    """The contract, run by Spark."""

    @pytest.fixture
    def engine(self, spark):
        """The engine."""
        return spark


OWN = {"lakehouse.writers": "spark"}
"""A table that Spark alone writes."""


def own_table(engine: SparkEngine, place: Path, cluster_by: tuple[str, ...] = (), **properties: str) -> Table:
    """Such a table with three rows, and a change feed."""
    uri = str(place / "own")
    given = {**OWN, "delta.enableChangeDataFeed": "true", **properties}
    engine.create(uri, TableSpec(KV, (), given, "kept by Spark", cluster_by))
    table = Table(engine, uri)
    table.append((1, "a"), (2, "b"), (3, "c"))
    return table


FEATURES = {
    "deletionVectors": {"delta.enableDeletionVectors": "true"},
    "columnMapping": {"delta.columnMapping.mode": "name"},
    "rowTracking": {"delta.enableRowTracking": "true"},
    "typeWidening": {"delta.enableTypeWidening": "true"},
    "inCommitTimestamp": {"delta.enableInCommitTimestamps": "true"},
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_table_of_spark_may_use_what_embedded_lacks(spark: SparkEngine, tmp_path: Path, feature: str) -> None:
    """Design §5: Spark writes, reads and follows it exactly; embedded refuses it by the feature's name."""
    table = own_table(spark, tmp_path, **FEATURES[feature])
    before = table.version
    table.merge([(1, "A"), (4, "d")], [(2, None)])
    assert table.rows() == [(1, "A"), (3, "c"), (4, "d")]
    kind, images = table.moved(before)
    assert kind == "images"
    assert images == [
        (1, "A", "update_postimage"),
        (1, "a", "update_preimage"),
        (2, "b", "delete"),
        (4, "d", "insert"),
    ]
    between = table.version
    table.append((5, "e"))
    kind, rows = table.moved(between)
    assert (kind, [row[:2] for row in rows]) in (("append", [(5, "e")]), ("images", [(5, "e")]))
    assert (table.number, table.open().foreign_commits(0, table.version)) == (3, [])
    embedded = EmbeddedEngine(Storage())
    with pytest.raises(FeatureRefused, match=feature):
        embedded.read(embedded.find(table.uri))
    embedded.close()


def test_a_table_of_spark_may_be_clustered(spark: SparkEngine, tmp_path: Path) -> None:
    """`cluster_by` becomes liquid clustering; a compaction clusters, changes no row and moves nobody downstream."""
    table = own_table(spark, tmp_path, ("k",))
    (detail,) = spark.spark.sql(f"DESCRIBE DETAIL delta.`{table.uri}`").collect()
    assert (detail["clusteringColumns"], detail["description"]) == (["k"], "kept by Spark")
    table.append((4, "d"))
    before = table.version
    assert not table.compact().skipped
    assert table.rows() == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]
    assert table.moved(before) == ("none", [])


def test_a_rebuild_with_other_columns_stays_clustered(spark: SparkEngine, tmp_path: Path) -> None:
    """Delta forgets the clustering with the schema: it is declared again for the columns that are left."""
    table = own_table(spark, tmp_path, ("k",))
    columns = pa.schema([("k", pa.int64()), ("w", pa.string())])
    spark.rebuild(table.open(), table.relation([(1, "x")], columns), columns, table.next())
    (detail,) = spark.spark.sql(f"DESCRIBE DETAIL delta.`{table.uri}`").collect()
    assert (detail["clusteringColumns"], table.rows()) == (["k"], [(1, "x")])


def test_partition_values_outlive_both_engines(spark: SparkEngine, tmp_path: Path) -> None:
    """What Spark wrote embedded replaces, merges and compacts, and the other way round: no row stays that was removed."""
    embedded = EmbeddedEngine(Storage())
    schema = pa.schema([("p", pa.string()), ("v", pa.int64())])
    table = Bench(spark, str(tmp_path)).table(schema, *((p, n) for n, p in enumerate(ODD)), partition_by=["p"])
    table.append(*((p, n + 100) for n, p in enumerate(ODD)))
    ours = Table(embedded, table.uri, first=table.number + 1)
    before = ours.rows()
    assert before == table.rows()
    assert not ours.compact().skipped
    assert ours.rows() == table.rows() == before
    ours.replace((ODD[4], -1), partitions=[{"p": ODD[4]}])
    ours.merge([("Köln", 0)], [(ODD[5], 5)], keys=["v"])
    theirs = Table(spark, table.uri, first=ours.number + 1)
    assert ours.rows() == theirs.rows()
    theirs.replace((ODD[3], -2), partitions=[{"p": ODD[3]}])
    theirs.merge([("Köln", 1)], [], keys=["v"])
    assert ours.rows() == theirs.rows()
    last = Table(embedded, table.uri, first=theirs.number + 1)
    last.replace(("Köln", 9))
    assert last.rows() == theirs.rows() == [("Köln", 9)]
    embedded.close()


def test_files_with_deletion_vectors_are_rewritten_or_followed_exactly(spark: SparkEngine, tmp_path: Path) -> None:
    """Rows that a deletion vector hides are not read, whatever the version."""
    table = own_table(spark, tmp_path, **FEATURES["deletionVectors"])
    before = table.version
    spark.spark.sql(f"DELETE FROM delta.`{table.uri}` WHERE k = 2")
    assert table.rows() == [(1, "a"), (3, "c")]
    assert table.rows(before) == [(1, "a"), (2, "b"), (3, "c")]
    assert table.moved(before) == ("images", [(2, "b", "delete")])
    assert table.open().foreign_commits(before, table.version) == [table.version]


def test_numbers_are_used_up_before_the_rows_come(spark: SparkEngine, tmp_path: Path) -> None:
    """A write with further numbers fences their feeds first, in commits without rows; a replay after a kill goes on."""
    table = Bench(spark, str(tmp_path)).table(KV, (1, "a"))
    other, stale = "lakehouse/silver.t/other", table.open()
    number = Number(APP, 3, "plan", ((other, 7),))
    spark.append(table.open(), None, Number(other, 7))  # as a process that was killed after it left the table
    spark.replace(table.open(), table.relation([(2, "b")]), number)
    handle = table.open()
    assert (handle.number(APP), handle.number(other), table.rows()) == (3, 7, [(2, "b")])
    with pytest.raises(ConcurrentWriter):
        spark.append(stale, table.relation([(9, "z")]), Number(other, 7))
    assert table.rows() == [(2, "b")]


def test_the_session_forgets_what_a_command_was_told(spark: SparkEngine, tmp_path: Path) -> None:
    """Numbers that a merge told the session do not reach the next write."""
    table = Bench(spark, str(tmp_path)).table(KV, (1, "a"))
    table.merge([(2, "b")])
    spark.spark.createDataFrame([(3, "c")], "k long, v string").write.format("delta").mode("append").save(table.uri)
    assert (table.number, len(table.rows())) == (2, 3)


def test_closing_leaves_no_file_behind(spark: SparkEngine, tmp_path: Path) -> None:
    """Staged rows, held relations and half-read streams are gone with the engine; the session goes on."""
    engine = SparkEngine(Storage(), Local(temp_directory=str(tmp_path / "spill")))
    with engine.held(engine.from_arrow(pa.table({"a": range(10)}))) as held:
        half = engine.batches(held)
        half.read_next_batch()
        assert list((tmp_path / "spill").rglob("*.parquet"))
    engine.appender(Bench(engine, str(tmp_path)).table(KV).open()).write(pa.record_batch([[1], ["x"]], schema=KV))
    engine.close()
    assert list((tmp_path / "spill").iterdir()) == []
    assert spark.spark.sql("SELECT 1 AS a").collect()[0]["a"] == 1


@pytest.mark.parametrize(
    ("limit", "megabytes"), [("2GB", "2048m"), ("500MB", "512m"), ("1.5 GiB", "1536m"), ("4294967296", "4096m")]
)
def test_a_memory_limit_in_the_spelling_of_the_jvm(limit: str, megabytes: str) -> None:
    """`LAKEHOUSE_MEMORY_LIMIT` is one setting for both engines; a JVM needs half a gigabyte."""
    assert jvm_memory(limit) == megabytes


def test_a_memory_limit_that_is_none() -> None:
    """The error names the variable and shows what is legal."""
    with pytest.raises(SettingsError, match=r"(?s)LAKEHOUSE_MEMORY_LIMIT.*2GB"):
        jvm_memory("much")
