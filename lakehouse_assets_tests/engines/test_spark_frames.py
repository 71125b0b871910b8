"""What passes between Spark and Arrow, through files."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa

from lakehouse_assets.engines.spark import SparkEngine


def test_instants_of_any_year_come_out_of_spark(spark: SparkEngine) -> None:
    """Beyond the years that 64 bits of nanoseconds hold, too: a stream and held rows have them as rows do."""
    days = [dt.datetime(1, 1, 1), dt.datetime(1582, 10, 10, 1), dt.datetime(1900, 1, 1), dt.datetime(9999, 12, 31, 23)]
    aware = [day.replace(tzinfo=dt.UTC) for day in days]
    given = pa.table({"t": pa.array(aware, pa.timestamp("us", tz="UTC")), "n": pa.array(days, pa.timestamp("us"))})
    relation = spark.query("SELECT t, n FROM x", {"x": spark.from_arrow(given)})
    assert spark.batches(relation).read_all() == given
    with spark.held(relation) as held:
        assert spark.batches(held).read_all() == given
    assert spark.rows(relation) == given.to_pylist()
