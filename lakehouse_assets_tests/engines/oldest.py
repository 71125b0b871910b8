"""The engine contract and the dialect on the Spark and Delta of the oldest supported Databricks Runtime.

This file is run in the environment of that runtime, which `make setup-runtime` makes: by `test_spark_oldest.py`, and
as a whole by `make test-runtime`. The environment that runs the other tests has another Spark.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.engines.spark import SparkEngine
from lakehouse_assets.engines.spark_frames import parquet, stage
from lakehouse_assets.engines.spark_session import Local
from lakehouse_assets.engines.spark_types import schema_of
from lakehouse_assets.errors import FeatureRefused, SqlError
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.sql.dialect import to_spark
from lakehouse_assets.sql.spark_versions import DELTA, as_of
from lakehouse_assets_tests.conftest import QUICK, ROOT
from lakehouse_assets_tests.engines import test_spark
from lakehouse_assets_tests.engines.bench import Bench, Table
from lakehouse_assets_tests.engines.contract import EngineContract
from lakehouse_assets_tests.engines.test_spark import (  # noqa: F401 - some run here with the fixture of this file
    FEATURES,
    own_table,
    test_a_rebuild_with_other_columns_stays_clustered,
    test_files_with_deletion_vectors_are_rewritten_or_followed_exactly,
    test_numbers_are_used_up_before_the_rows_come,
    test_the_session_forgets_what_a_command_was_told,
)
from lakehouse_assets_tests.sql.parity.answers import PARAMS, answers, cases, describe, same
from lakehouse_assets_tests.sql.parity.tables import tables

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # py4j leaves sockets open

RUNTIME = ROOT / "infra" / "local" / "runtime-15.4"


class OldestSpark(SparkEngine):
    """The engine, which says what it reads with the oldest Delta."""

    reads_features = SparkEngine.reads_features - DELTA.keys()


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkEngine]:
    """One Spark engine for all tests."""
    engine = OldestSpark(Storage(), Local(memory="2g", threads=2, jars=RUNTIME / "jars", more=QUICK))
    yield engine
    engine.close()


class TestOldest(EngineContract):
    """The contract, run by the oldest Spark."""

    @pytest.fixture
    def engine(self, spark: SparkEngine) -> SparkEngine:
        """The engine."""
        return spark


@pytest.mark.parametrize("feature", [name for name, given in FEATURES.items() if not given.keys() & DELTA.keys()])
def test_a_table_of_the_oldest_spark_may_use_what_embedded_lacks(
    spark: SparkEngine, tmp_path: Path, feature: str
) -> None:
    """Design §5: as on the newest Spark, but for what its Delta does not know."""
    test_spark.test_a_table_of_spark_may_use_what_embedded_lacks(spark, tmp_path, feature)


def test_what_the_oldest_delta_does_not_know_is_refused(spark: SparkEngine, tmp_path: Path) -> None:
    """A property that it would forget is refused, and no table is made."""
    with pytest.raises(FeatureRefused, match="enableInCommitTimestamps"):
        own_table(spark, tmp_path, **FEATURES["inCommitTimestamp"])
    assert spark.find(str(tmp_path / "own")) is None


def test_a_table_of_the_oldest_spark_may_be_clustered(spark: SparkEngine, tmp_path: Path) -> None:
    """`cluster_by` becomes liquid clustering; a compaction clusters, changes no row and moves nobody downstream."""
    table = own_table(spark, tmp_path, ("k", "v"))
    (detail,) = spark.spark.sql(f"DESCRIBE DETAIL delta.`{table.uri}`").collect()
    assert (detail["clusteringColumns"], detail["description"]) == (["k", "v"], "kept by Spark")
    table.append((4, "d"))
    before = table.version
    assert not table.compact().skipped
    assert table.rows() == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]
    assert table.moved(before) == ("none", [])


def test_the_oldest_delta_compacts_no_table_that_is_clustered_by_one_column(spark: SparkEngine, tmp_path: Path) -> None:
    """It is refused, in words that say why, and the table stays as it was."""
    table = own_table(spark, tmp_path, ("k",))
    table.append((4, "d"))
    before = table.version
    with pytest.raises(FeatureRefused, match="Hilbert clustering by zero or one column"):
        table.compact()
    assert (table.version, len(table.rows())) == (before, 4)


def test_directories_named_after_values_are_left_to_spark(spark: SparkEngine, tmp_path: Path) -> None:
    """The oldest Delta names directories after values: embedded goes on where it can, and refuses the others."""
    embedded, bench = EmbeddedEngine(Storage()), Bench(spark, str(tmp_path))
    schema = pa.schema([("p", pa.string()), ("v", pa.int64())])
    plain, odd = (bench.table(schema, (p, 1), partition_by=["p"]) for p in ("a b", "Köln"))
    Table(embedded, plain.uri, first=2).replace(("a b", 2), partitions=[{"p": "a b"}])
    assert Table(spark, plain.uri).rows() == Table(embedded, plain.uri).rows() == [("a b", 2)]
    with pytest.raises(FeatureRefused, match="Köln"):
        Table(embedded, odd.uri, first=2).replace(("Köln", 2), partitions=[{"p": "Köln"}])
    odd.replace(("Köln", 2), partitions=[{"p": "Köln"}])
    assert odd.rows() == Table(embedded, odd.uri).rows() == [("Köln", 2)]
    embedded.close()


def test_bytes_that_are_no_text(spark: SparkEngine) -> None:
    """A cast of BINARY to STRING fails on what is no UTF-8, and a TRY_CAST gives NULL, as on the newest Spark."""
    texts = [b"", "Köln".encode(), "\ufffd".encode(), "🤦".encode(), None]
    broken = [b"\xff", b"a\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"]
    both = {"t": spark.from_arrow(pa.table({"b": texts + broken}))}
    found = [row["s"] for row in spark.rows(spark.query("SELECT TRY_CAST(b AS STRING) AS s FROM t", both))]
    assert found == ["", "Köln", "\ufffd", "🤦", None, *[None] * len(broken)]
    for value in broken:
        one = {"t": spark.from_arrow(pa.table({"b": [value]}))}
        with pytest.raises(SqlError, match="INVALID_UTF8_STRING"):
            spark.rows(spark.query("SELECT CAST(b AS STRING) AS s FROM t", one))


def collected(frame: DataFrame, columns: pa.Schema) -> pa.Table:
    """The rows of a frame, without the files that the engine would write."""
    batches = frame._collect_as_arrow()
    return pa.Table.from_batches(batches).cast(columns) if batches else columns.empty_table()


def test_the_oldest_spark_answers_what_is_recorded(spark: SparkEngine, tmp_path: Path) -> None:
    """Design §7.4: a transform answers on the oldest Spark what it answers on the newest."""
    session, recorded, data = spark.spark, answers(), tables()
    for name, table in data.items():
        stage(str(tmp_path / name), table.to_reader(), table.schema)
        parquet(session, str(tmp_path / name), table.schema).createOrReplaceTempView(name)
    schemas, version, wrong = {name: table.schema for name, table in data.items()}, as_of(session.version), []
    for case in cases():
        then = {name: value for name, value in recorded[case.text].items() if name != "case"}
        try:
            frame = session.sql(to_spark(case.sql, schemas, params=PARAMS, version=version))
            columns = schema_of(frame.schema.jsonValue())
            now = describe(collected(frame, columns))
        except Exception as error:
            now = {"raises": str(error)[:200]}
        alike = "raises" in now or all(same(now[name], then.get(name), case.close) for name in now)
        if now.keys() != then.keys() or not alike:
            wrong.append((case.text, now, then))
    assert not wrong, f"{len(wrong)} answers differ: (case, now, recorded) {wrong[:3]}"
