"""The Spark engine's as-of join: both sides in one frame by key and time, and the last right row carried along.

Spark's window functions do the join; they keep every type, spill to disk, and need no Python on the workers. Keys with
many rows are cut into slices of time (`spark_asof_plan.py`), each of which is given the right row that stands when it
begins (or, looking forward, the one that comes after its end); so the answer is that of the whole, and rows are spread
evenly over the tasks.
What belongs here: frames. What does not: where the cuts are.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from lakehouse_assets.engines.arrow_inputs import inputs_of
from lakehouse_assets.engines.asof_columns import nanoseconds, result_columns
from lakehouse_assets.engines.asof_spec import AsOf, Direction
from lakehouse_assets.engines.base import Relation
from lakehouse_assets.engines.spark_asof_plan import Placed, homes, planned
from lakehouse_assets.engines.spark_frames import SparkRelation, Staging
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.sql.types import spark_type

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import StructType

ROWS_OF_TASK = 200_000
"""Fewer rows are not worth a task of their own."""
SAMPLE_ROWS = 20_000
"""Rows that the cuts are made by, at least."""
SAMPLE_OF_TASK = 1_000
"""Rows of the sample for each task, at least."""
_TASKS = 200
"""Tasks at most where the session does not say."""
_ALL = Decimal(2**64)
"""Further than any two times are apart."""


def asof(left: Relation, right: Relation, how: AsOf, rows_of_task: int = ROWS_OF_TASK) -> SparkRelation:
    """The as-of join of two relations; see `Engine.asof`."""
    one, other = cast(SparkRelation, left), cast(SparkRelation, right)
    columns = result_columns(one.columns, other.columns, how)

    def make(staging: Staging) -> DataFrame:
        return Join(one.columns, other.columns, how, rows_of_task).of(one.make(staging), other.make(staging))

    return SparkRelation(make, columns, inputs_of([one, other]))


@dataclass(frozen=True)
class Join:
    """The join of two frames.

    The rows of both sides that can match stand in one frame: the keys `k0`, `k1`, …, the time `t` in its unit, `side`
    (0: right, 1: left), `r` (a right row: its time, then what orders it and what is brought), `l` (a left row).
    """

    left: pa.Schema
    right: pa.Schema
    how: AsOf
    rows_of_task: int = ROWS_OF_TASK

    @property
    def keys(self) -> list[str]:
        """The names of the key columns."""
        return [f"k{index}" for index in range(len(self.how.by))]

    def of(self, left: DataFrame, right: DataFrame) -> DataFrame:
        """The result."""
        from pyspark.sql import functions as F  # noqa: N812

        spread = self.spread(left, right)
        by = [*self.keys, *(name for name in ("slice", "place") if name in spread.columns)]
        found = {direction: self._standing(direction, by) for direction in self.how.passes}
        rows = spread.select("side", "t", "l", *(column.alias(name) for name, column in found.items()))
        chosen = self._chosen()
        brought = [chosen.getField(f"c_{source}").alias(name) for source, name in self.how.columns.items()]
        kept = [F.col("l").getField(name).alias(name) for name in self.left.names]
        return rows.where("side = 1").select(*kept, *brought).unionAll(self._unmatched(left))

    def spread(self, left: DataFrame, right: DataFrame) -> DataFrame:
        """The rows of both sides that can match, on the tasks that will join them."""
        lefts, rights = self._lefts(left), self._rights(right)
        spark, both = left.sparkSession, self._union(lefts, rights)
        rows = both.count()
        tasks = min(_tasks(spark), -(-rows // self.rows_of_task))
        if tasks < 2:
            return both
        share = min(1.0, max(SAMPLE_ROWS, SAMPLE_OF_TASK * tasks) / rows)
        sample = both.select(*self.keys, "t").sample(fraction=share, seed=1).collect()
        placed = planned([(tuple(row[:-1]), row[-1]) for row in sample], tasks)
        if not placed:
            return both.repartition(tasks, *self.keys)
        return _Spreading(spark, self, both.select(*self.keys).schema, placed, tasks).of(both, rights)

    def _lefts(self, left: DataFrame) -> DataFrame:
        from pyspark.sql import functions as F  # noqa: N812

        row = F.struct(*(F.col(quoted(name)) for name in self.left.names)).alias("l")
        there = _all(F.col(quoted(name)).isNotNull() for name in (*self.how.by, self.how.time))
        keys = self._keys()
        return left.where(there).select(*keys, self._ticks(self.left, self.how.time), F.lit(1).alias("side"), row)

    def _rights(self, right: DataFrame) -> DataFrame:
        from pyspark.sql import functions as F  # noqa: N812

        needed = [*self.how.by, self.how.right_time, *(self.how.columns if self.how.skip_nulls else ())]
        time = self._ticks(self.right, self.how.right_time)
        row = [time]
        for name in self.how.order:
            column = F.col(quoted(name))
            row.append(column.alias(f"c_{name}"))
            if pa.types.is_floating(self.right.field(name).type):  # Spark does not tell -0.0 from 0.0
                row.append(F.when(column == 0, column.cast("string")).alias(f"z_{name}"))
        there = _all(F.col(quoted(name)).isNotNull() for name in needed)
        return right.where(there).select(*self._keys(), time, F.lit(0).alias("side"), F.struct(*row).alias("r"))

    def _unmatched(self, left: DataFrame) -> DataFrame:
        """The left rows that match nothing, whatever the right side holds."""
        from pyspark.sql import functions as F  # noqa: N812

        there = _all(F.col(quoted(name)).isNotNull() for name in (*self.how.by, self.how.time))
        nothing = [
            F.lit(None).cast(spark_type(self.right.field(source).type)).alias(name)
            for source, name in self.how.columns.items()
        ]
        return left.where(~there).select(*(F.col(quoted(name)) for name in self.left.names), *nothing)

    def _keys(self) -> list[Column]:
        from pyspark.sql import functions as F  # noqa: N812

        return [F.col(quoted(name)).alias(key) for key, name in zip(self.keys, self.how.by, strict=True)]

    def _ticks(self, columns: pa.Schema, name: str) -> Column:
        from pyspark.sql import functions as F  # noqa: N812

        time = F.col(quoted(name))
        stamps = pa.types.is_timestamp(columns.field(name).type)
        return (F.unix_micros(time.cast("timestamp")) if stamps else time.cast("bigint")).alias("t")

    def _union(self, lefts: DataFrame, rights: DataFrame) -> DataFrame:
        return lefts.unionByName(rights, allowMissingColumns=True)

    def _standing(self, direction: Direction, by: list[str]) -> Column:
        """The right row that stands at each row, in a direction."""
        from pyspark.sql import Window
        from pyspark.sql import functions as F  # noqa: N812

        side = F.desc("side") if self.how.strict else F.asc("side")
        order = [F.asc("t"), side, F.asc("r")] if direction == "backward" else [F.desc("t"), side, F.desc("r")]
        until_here = Window.partitionBy(*by).orderBy(*order).rowsBetween(Window.unboundedPreceding, 0)
        return F.last("r", ignorenulls=True).over(until_here)

    def _chosen(self) -> Column:
        """Of the rows that were found the one that counts."""
        from pyspark.sql import functions as F  # noqa: N812

        if self.how.direction == "nearest":
            before, after = F.col("backward"), F.col("forward")
            sooner = after.isNull() | (_distance(before) <= _distance(after))
            chosen = F.when(before.isNotNull() & sooner, before).otherwise(after)
        else:
            chosen = F.col(self.how.direction)
        if self.how.tolerance is None:
            return chosen
        reach = self.how.tolerance // nanoseconds(self.left.field(self.how.time).type)
        return F.when(_distance(chosen) <= F.lit(min(Decimal(reach), _ALL)), chosen)


def _distance(row: Column) -> Column:
    """How far a right row is away: two integers may be further apart than an integer holds."""
    from pyspark.sql import functions as F  # noqa: N812

    here, there = F.col("t").cast("decimal(20,0)"), row.getField("t").cast("decimal(20,0)")
    return F.abs(here - there)


def _all(conditions: Iterable[Column]) -> Column:
    return functools.reduce(operator.and_, conditions)


def _tasks(spark: SparkSession) -> int:
    """The tasks of a shuffle, as the session says."""
    said = spark.conf.get("spark.sql.shuffle.partitions", "") or ""
    return max(1, int(said)) if said.isdigit() else _TASKS  # on Databricks it may be "auto"


@dataclass(frozen=True)
class _Spreading:
    """Puts rows on tasks as was planned."""

    spark: SparkSession
    join: Join
    key_columns: StructType
    placed: list[Placed]
    tasks: int

    @property
    def cuts(self) -> int:
        """How often a key is cut at most."""
        return max(len(one.bounds) for one in self.placed)

    def of(self, both: DataFrame, rights: DataFrame) -> DataFrame:
        """All rows, each right row of an edge in every slice that it stands in, on their tasks."""
        from pyspark.sql import functions as F  # noqa: N812

        rows = self._located(both)
        for direction in self.join.how.passes if self.cuts else ():
            carried = self._carried(direction, self._located(rights).where("size(bounds) > 0"))
            rows = rows.unionByName(carried, allowMissingColumns=True)
        task = F.coalesce(
            F.get("tasks", F.col("slice")), F.expr(f"pmod(hash({', '.join(self.join.keys)}), {self.tasks})")
        )
        place = F.get(F.array(*map(F.lit, homes(self.tasks))), task)
        return rows.withColumn("place", place).drop("tasks", "bounds").repartition(self.tasks, "place")

    def _located(self, rows: DataFrame) -> DataFrame:
        """Rows with the slice that their time lies in: how many bounds are not later, by binary search."""
        from pyspark.sql import functions as F  # noqa: N812

        rows = rows.join(F.broadcast(self._plan()), self.join.keys, "left").withColumn("slice", F.lit(0))
        half = 1 << self.cuts.bit_length() >> 1
        while half:
            here = F.col("slice")
            later = F.col("t") >= F.get("bounds", here + F.lit(half - 1))
            rows = rows.withColumn("slice", here + F.when(later, F.lit(half)).otherwise(F.lit(0)))
            half >>= 1
        return rows

    def _plan(self) -> DataFrame:
        from pyspark.sql.types import ArrayType, IntegerType, LongType, StructField, StructType

        more = [StructField("bounds", ArrayType(LongType())), StructField("tasks", ArrayType(IntegerType()))]
        columns = StructType([*self.key_columns.fields, *more])
        return self.spark.createDataFrame([(*one.key, one.bounds, one.tasks) for one in self.placed], columns)

    def _carried(self, direction: Direction, rights: DataFrame) -> DataFrame:
        """The right row at the edge of each slice, in the slices up to the next one that has right rows."""
        from pyspark.sql import Window
        from pyspark.sql import functions as F  # noqa: N812

        keys, backward = self.join.keys, direction == "backward"
        outermost = F.max if backward else F.min
        by_slice = Window.partitionBy(*keys).orderBy("slice")
        last = F.coalesce(F.lead("slice").over(by_slice), F.size("bounds"))
        until = last if backward else F.coalesce(F.lag("slice").over(by_slice), F.lit(0))
        edges = rights.groupBy(*keys, "slice", "bounds").agg(outermost("t").alias("t"))
        edges = edges.withColumn("until", until).drop("bounds").where("until <> slice")
        at = rights.join(F.broadcast(edges), [*keys, "slice", "t"])
        step = F.lit(1 if backward else -1)
        rows = at.groupBy(*keys, "slice", "t", "until", "tasks").agg(outermost("r").alias("r"))
        each = F.explode(F.sequence(F.col("slice") + step, F.col("until")))
        return rows.select(*keys, "t", F.lit(0).alias("side"), "r", "tasks", each.alias("slice"))
