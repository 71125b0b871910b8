"""The as-of join as engines give it: equal rows on both, whatever the data, and no task with most of them on Spark."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from lakehouse_assets.engines import asof, spark_asof
from lakehouse_assets.engines.asof_spec import AsOf
from lakehouse_assets.engines.base import Engine
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.engines.spark_asof_plan import homes, planned
from lakehouse_assets.errors import CatalogError, LakeError
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets_tests.engines.asof_cases import BROUGHT, alike, rows_of, tables
from lakehouse_assets_tests.engines.bench import Bench

if TYPE_CHECKING:
    from lakehouse_assets.engines.spark import SparkEngine

PLAIN = AsOf(("sym",), "at", "at", ("row",), BROUGHT)
TASKS = 16


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedEngine]:
    """The embedded engine."""
    engine = EmbeddedEngine(Storage())
    yield engine
    engine.close()


@pytest.fixture(params=["embedded", pytest.param("spark", marks=pytest.mark.spark)])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine."""
    found: Engine = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def many_tasks(spark: SparkEngine) -> Iterator[SparkEngine]:
    """The Spark engine with a shuffle of many tasks, which Spark may put together where it sees fit."""
    told = {"spark.sql.shuffle.partitions": str(TASKS), "spark.sql.adaptive.enabled": "true"}
    before = {name: spark.spark.conf.get(name) for name in told}
    for name, value in told.items():
        spark.spark.conf.set(name, value)
    yield spark
    for name, value in before.items():
        spark.spark.conf.set(name, value)


def by_id(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows in the order of their first column."""
    return sorted(rows, key=lambda row: int(row[0]))


def test_an_engine_joins_relations(engine: Engine, tmp_path: Path) -> None:
    """K34: tables, Arrow data and queries are joined, and the result is a relation like any other."""
    left, right = tables(random.Random(1), (40, 60))
    table = Bench(engine, str(tmp_path)).table(left.schema)
    engine.append(table.open(), engine.from_arrow(left), table.next())
    quotes = engine.query("SELECT * FROM q WHERE venue IS NULL OR venue <> 'x'", {"q": engine.from_arrow(right)})
    joined = engine.asof(engine.read(table.open()), quotes, PLAIN)
    kept = right.filter(pa.array([venue != "x" for venue in right["venue"].to_pylist()]))
    wanted = asof.join(left, kept, PLAIN)
    assert engine.schema(joined).equals(wanted.schema)
    with engine.batches(joined) as reader:
        assert alike(by_id(rows_of(reader.read_all())), rows_of(wanted))
    counted = engine.query("SELECT count(*) AS n, count(j.quoted_at) AS found FROM j", {"j": joined})
    found = wanted.num_rows - wanted["quoted_at"].null_count
    assert 0 < found < 40
    assert engine.rows(counted) == [{"n": 40, "found": found}]


def test_ties_are_decided_alike(engine: Engine) -> None:
    """Design §7.4: the order of values is one: NULL first, -0.0 before 0.0, NaN last, texts by their bytes."""
    ladders = [[None, -np.inf, -0.0, 0.0, 2.0, np.inf, np.nan], [None, "", "Z", "a", "é", "🤦"]]
    pairs = [[pair for two in itertools.pairwise(ladder) for pair in (two, two[::-1])] for ladder in ladders]
    highest = [[two[1] for two in itertools.pairwise(ladder) for _ in range(2)] for ladder in ladders]
    for found, wanted in zip(pairs, highest, strict=True):
        left = pa.table({"k": range(len(found)), "at": [5] * len(found)})
        right = pa.table({"k": [k for k in range(len(found)) for _ in "ab"], "at": [5] * len(found) * 2})
        right = right.append_column("v", pa.array([value for pair in found for value in pair]))
        how = AsOf(("k",), "at", "at", (), {"v": "v"})
        rows = engine.rows(engine.asof(engine.from_arrow(left), engine.from_arrow(right), how))
        assert [repr(row["v"]) for row in sorted(rows, key=lambda row: int(row["k"]))] == list(map(repr, wanted))


LOW, HIGH = -(2**63), 2**63 - 1


@pytest.mark.parametrize(
    ("dtype", "times", "more", "wanted"),
    [
        (pa.int64(), [LOW, 0, HIGH], {"direction": "nearest"}, [1, 2, 2]),
        (pa.int64(), [LOW, 0, HIGH], {"tolerance": 10, "strict": True}, [None, None, None]),
        (pa.timestamp("us"), [7, 8, 9], {"tolerance": 2_999, "direction": "forward"}, [None, 1, 1]),
    ],
)
def test_times_of_every_kind(
    engine: Engine, dtype: pa.DataType, times: list[int], more: dict[str, Any], wanted: list[int | None]
) -> None:
    """Integers to their ends, where no difference runs over, and instants without a zone."""
    ends = [LOW, HIGH] if pa.types.is_integer(dtype) else [10, 20]
    left = pa.table({"id": [0, 1, 2], "k": ["a"] * 3, "at": pa.array(times, pa.int64()).cast(dtype)})
    right = pa.table({"k": ["a"] * 2, "at": pa.array(ends, pa.int64()).cast(dtype), "v": [1, 2]})
    how = AsOf(("k",), "at", "at", (), {"v": "v"}, **more)
    rows = engine.rows(engine.asof(engine.from_arrow(left), engine.from_arrow(right), how))
    assert [row["v"] for row in sorted(rows, key=lambda row: int(row["id"]))] == wanted


def test_an_engine_refuses_what_does_not_fit(engine: Engine) -> None:
    """By name, before anything is read."""
    left, right = tables(random.Random(1), (2, 2))
    how = AsOf(("sym",), "at", "at", (), {"bid": "id"})
    with pytest.raises(CatalogError, match="'bid' as 'id'"):
        engine.asof(engine.from_arrow(left), engine.from_arrow(right), how)


def test_a_stream_on_a_side_is_read_once(embedded: EmbeddedEngine) -> None:
    """A joined stream gives its rows once; a second reader is told, and is not given nothing."""
    left, right = tables(random.Random(1), (5, 5))
    joined = embedded.asof(embedded.from_arrow(left.to_reader()), embedded.from_arrow(right), PLAIN)
    assert len(embedded.rows(joined)) == 5
    with pytest.raises(LakeError, match="read twice"):
        embedded.rows(joined)


HOWS = [
    PLAIN,
    AsOf(("sym", "day"), "at", "at", (), BROUGHT, "forward", 7_000, skip_nulls=True),
    AsOf(("sym",), "at", "at", ("row", "venue"), BROUGHT, "nearest", 20_000, strict=True),
    AsOf(("day",), "at", "at", (), {"bid": "bid"}, "nearest"),
    AsOf(("sym",), "at", "at", (), BROUGHT, "backward", strict=True, skip_nulls=True),
    AsOf(("sym",), "at", "at", (), BROUGHT, "forward", strict=True),
]


@pytest.mark.parametrize("rows", [(600, 900), (900, 25)])
def test_engines_give_equal_rows(many_tasks: SparkEngine, rows: tuple[int, int]) -> None:
    """K39: random data with ties, NULL, odd floats, gaps and few keys, cut into many slices, most ways to join."""
    for seed, how in enumerate(HOWS):
        left, right = tables(random.Random(seed), rows, span=400)
        there = spark_asof.asof(many_tasks.from_arrow(left), many_tasks.from_arrow(right), how, rows_of_task=20)
        with many_tasks.batches(there) as reader:
            found = by_id(rows_of(reader.read_all()))
        assert alike(found, rows_of(asof.join(left, right, how))), how


def skewed(trades: int, quotes: int) -> tuple[pa.Table, pa.Table]:
    """Two sides of 200 symbols, one of which has 60 % of the rows."""
    rng = np.random.default_rng(5)

    def side(rows: int, first: int) -> dict[str, Any]:
        symbols = np.where(rng.random(rows) < 0.6, 0, rng.integers(1, 200, rows))
        times = pa.array(np.sort(rng.integers(0, 10**9, rows))).cast(pa.timestamp("us", tz="UTC"))
        return {"id": np.arange(first, first + rows), "sym": pa.array(symbols).cast(pa.string()), "at": times}

    left, right = pa.table(side(trades, 0)), pa.table(side(quotes, 10**6))
    return left, right.append_column("bid", pa.array(rng.random(quotes))).rename_columns(["row", "sym", "at", "bid"])


def test_no_task_has_most_of_a_skewed_symbol(many_tasks: SparkEngine) -> None:
    """K36, K39: with 60 % of the rows in one symbol no task has twice the mean, and the answer is the plain one."""
    from pyspark.sql import functions as F  # noqa: N812

    left, right = skewed(10_000, 40_000)
    how = AsOf(("sym",), "at", "at", ("row",), {"bid": "bid"})
    sides = many_tasks.from_arrow(left), many_tasks.from_arrow(right)
    join = spark_asof.Join(left.schema, right.schema, how, 1_000)
    counted = [F.spark_partition_id().alias("task"), F.col("side")]
    with many_tasks._frame(sides[0]) as trades, many_tasks._frame(sides[1]) as quotes:
        spread = Counter(tuple(row) for row in join.spread(trades, quotes).select(*counted).collect())
        ended = Counter(row[0] for row in join.of(trades, quotes).select(counted[0]).collect())
    tasks = [sum(spread[task, side] for side in (0, 1)) for task in range(TASKS)]
    assert 50_000 <= sum(tasks) < 50_500
    assert max(tasks) <= 2 * sum(tasks) / TASKS, tasks
    assert ended == {task: spread[task, 1] for task in range(TASKS)}
    with many_tasks.batches(spark_asof.asof(*sides, how, 1_000)) as reader:
        found = reader.read_all().sort_by("id")
    assert found.equals(asof.join(left, right, how))


def test_numbers_are_sent_where_spark_sends_them(many_tasks: SparkEngine) -> None:
    """The hash of this project is Spark's own."""
    for tasks in (2, TASKS, 200):
        numbers = ", ".join(f"({number})" for number in homes(tasks))
        found = many_tasks.spark.sql(f"SELECT pmod(hash(v), {tasks}) FROM VALUES {numbers} AS t(v)").collect()
        assert [row[0] for row in found] == list(range(tasks))


def test_a_key_with_most_rows_is_cut_into_slices_of_equal_weight() -> None:
    """By the sample's quantiles; what is small stays whole, and all tasks get about the same."""
    rng = random.Random(3)
    sample = [(("big",), rng.randrange(10**6)) for _ in range(6_000)]
    sample += [((f"s{rng.randrange(40)}",), rng.randrange(10**6)) for _ in range(4_000)]
    placed = {one.key: one for one in planned(sample, 8)}
    big = placed["big",]
    assert len(big.tasks) == len(big.bounds) + 1 == 20
    loads, slices = Counter[int](), Counter[int]()
    for key, time in sample:
        index = sum(bound <= time for bound in placed[key].bounds)
        loads[placed[key].tasks[index]] += 1
        slices[index] += key == ("big",)
    assert max(loads.values()) < 1.1 * min(loads.values())
    assert max(slices.values()) < 1.05 * min(slices.values())


def test_an_instant_is_never_cut() -> None:
    """A key whose rows are all of one instant, or of two, has as many slices."""
    for times, slices in (([7], 1), ([7, 9], 2)):
        (one,) = planned([(("a",), time) for time, _ in itertools.product(times, range(500))], 8)
        assert len(one.tasks) == slices
