"""The as-of join: trades with the quotes that stood at their time, in memory and from Delta to Delta."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Case, Report, Sample

QUOTES = 5
"""Quotes for each trade."""
SYMBOLS = 500
TIMES = 6
"""How often a process joins: the first time warms it up, the rest are its figure."""
KINDS = {"uniform": 0.0, "skewed": 0.6}
"""Name of the data -> the part of its rows that one symbol has beside its share."""
ABOUT = (
    "Each trade gets bid and ask of the last quote of its symbol at or before it: five quotes a trade, 500 symbols, "
    "evenly or with 60 % of the rows in one of them, both sides in the order of time. Each process joins six times; "
    "*inside* is the median of the five after the first. In memory, Arrow tables go in and come out, with symbols as "
    "texts or coded. From Delta to Delta, ours reads two tables and appends to a third; the cogroup is the one that is "
    "taught: `cogroup` and `pandas.merge_asof`. All answers are compared with ours."
)
NOTES = [
    "Ours takes rows in any order, settles ties, lets NULL match nothing and keeps integers whole; polars gives wrong "
    "rows without a word if a side is not sorted, and pandas matches NULL with NULL.",
    "DuckDB's ASOF JOIN is left out: of quotes of one instant it does not take the last.",
    "On two cores skew costs Spark little: that no task has twice the mean of the rows is a test, which counts them.",
]
OURS, CODED = "ours", "ours, symbols coded"
POLARS, POLARS_CODED = "polars join_asof", "polars join_asof, symbols coded"


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `results/asof_join.json`."""
    given = common.options(ABOUT, 1_000_000, 20_000, argv)
    report = Report("asof_join", "As-of join", ABOUT, given, notes=NOTES)
    with common.workplace() as place:
        for kind in KINDS:
            common.sample(common.ours("asof_join", "write_sides", place / kind, given.rows, kind))
            answers: dict[str, Any] = {}
            memory = [
                _case(OURS, place / kind, "in_memory", answers),
                _case(CODED, place / kind, "in_memory", answers, 1),
            ]
            delta = [_case("ours, embedded", place / kind, "from_delta", answers, "embedded")]
            delta += [_case("ours, Spark, warm", place / kind, "from_delta", answers, "spark")]
            if given.peers:
                memory += _peers(place / kind, answers)
                delta += [_case("Spark cogroup with pandas, warm", place / kind, "cogroup", answers, kind_of="peer")]
            rows = common.measured(memory, given.repeat)
            report.table(
                f"In memory, {given.rows:,} trades, {given.rows * QUOTES:,} quotes, {kind}", rows, against=OURS
            )
            report.target(f"peak of the process, {kind}", "at most 1.5 GB", 1_500, rows[0]["peak_mb"]["median"], "MB")
            others = common.measured(delta, given.repeat)
            report.table(f"Delta to Delta, {kind}", others, against="ours, embedded")
            _compare(answers)
            if given.peers:
                _judge(report, rows, others, kind)
    report.write()


def _case(
    name: str, place: Path, function: str, answers: dict[str, Any], *words: object, kind_of: str = "ours"
) -> Case:
    def check(sample: Sample) -> None:
        answers[name] = sample.said["answer"]

    command = common.ours("asof_join", function, place, *words)
    if function.startswith("peer_"):
        command = [str(common.PEER_PYTHON), *command[1:]]
    environ = {"PYSPARK_PYTHON": sys.executable}
    repeat = 1 if "Spark" in name else 1_000  # each of its processes joins often, and takes a minute
    return Case(name, lambda: command, kind_of, inside=_inside, check=check, environ=environ, repeat=repeat)


def _inside(said: Any) -> float:
    return statistics.median(said["seconds"][1:])


def _peers(place: Path, answers: dict[str, Any]) -> list[Case]:
    functions: dict[str, tuple[str, tuple[object, ...]]] = {
        POLARS: ("peer_polars", ()),
        POLARS_CODED: ("peer_polars", (1,)),
        "pandas merge_asof": ("peer_pandas", ()),
    }
    return [
        _case(name, place, function, answers, *words, kind_of="peer") for name, (function, words) in functions.items()
    ]


def _compare(answers: dict[str, Any]) -> None:
    """Every answer is ours, but for the last digits of sums in another order."""
    for name, answer in answers.items():
        for mine, theirs in zip(answers[OURS], answer, strict=True):
            assert abs(mine - theirs) < 1e-9 * abs(mine) + 1e-9, (name, answer, answers[OURS])


def _judge(report: Report, rows: list[dict[str, Any]], others: list[dict[str, Any]], kind: str) -> None:
    for mine, theirs in ((OURS, POLARS), (CODED, POLARS_CODED)):
        found = common.ratio(rows, mine, theirs, "inside_seconds")
        report.target(f"{mine} / {theirs}, {kind}", "at most 1.3", 1.3, found, "x")
    cogroup = "Spark cogroup with pandas, warm"
    found = common.ratio(others, cogroup, "ours, embedded", "inside_seconds")
    report.target(f"cogroup / ours, embedded, Delta to Delta, {kind}", "at least 5", 5, found, "x", least=True)
    found = common.ratio(others, "ours, Spark, warm", cogroup, "inside_seconds")
    report.target(f"ours, Spark / cogroup, Delta to Delta, {kind}", "at most 1.3", 1.3, found, "x")


# what runs in processes of its own


def write_sides(place: str, trades: str, kind: str) -> None:
    """Two Parquet files, and two Delta tables of the same rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lakehouse_assets.engines.embedded import EmbeddedEngine
    from lakehouse_assets.lake.storage import Storage
    from lakehouse_assets.lake.values import Number, TableSpec

    rng, engine = np.random.default_rng(7), EmbeddedEngine(Storage())
    names = pa.array([f"SYM{index:04d}" for index in range(SYMBOLS)])
    Path(place).mkdir(parents=True)
    for side, count in (("trades", int(trades)), ("quotes", int(trades) * QUOTES)):
        codes = np.where(rng.random(count) < KINDS[kind], 0, rng.integers(0, SYMBOLS, count))
        times = pa.array(1_704_205_800_000_000 + np.sort(rng.integers(0, 23_400_000_000, count)))
        own = {"price": rng.random(count)} if side == "trades" else {"bid": rng.random(count), "ask": rng.random(count)}
        columns = {"sym": names.take(pa.array(codes)), "time": times.cast(pa.timestamp("us", tz="UTC")), **own}
        table = pa.table(columns | {"row" if side == "quotes" else "id": np.arange(count)})
        pq.write_table(table, f"{place}/{side}.parquet")
        handle = engine.create(f"{place}/{side}", TableSpec(table.schema))
        engine.append(handle, engine.from_arrow(table), Number("bench", 1))
    engine.close()


def _timed(join: Callable[[], Any], answer: Callable[[Any], list[float]]) -> dict[str, Any]:
    seconds, more = [], 0.0
    for turn in range(TIMES):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        found = join()
        seconds.append(time.perf_counter() - began)
        more = more if turn else (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / common.MB
    return {"seconds": seconds, "answer": answer(found), "more_mb": round(more)}


def _sides(place: str, coded: str) -> tuple[Any, Any]:
    import pyarrow.parquet as pq

    read = {"read_dictionary": ["sym"]} if coded else {}
    return pq.read_table(f"{place}/trades.parquet", **read), pq.read_table(f"{place}/quotes.parquet", **read)


def _answer(joined: Any) -> list[float]:
    import pyarrow.compute as pc

    return [joined.num_rows, joined["bid"].null_count, pc.sum(joined["bid"]).as_py(), pc.sum(joined["ask"]).as_py()]


def _how() -> Any:
    from lakehouse_assets.engines.asof_spec import AsOf

    return AsOf(("sym",), "time", "time", ("row",), {"bid": "bid", "ask": "ask"})


def in_memory(place: str, coded: str = "") -> dict[str, Any]:
    """Our join of two Arrow tables."""
    from lakehouse_assets.engines import asof

    left, right = _sides(place, coded)
    return _timed(lambda: asof.join(left, right, _how(), len(os.sched_getaffinity(0))), _answer)


def from_delta(place: str, name: str) -> dict[str, Any]:
    """Our join of two Delta tables, appended to a third."""
    from lakehouse_assets.engines.base import open_engine
    from lakehouse_assets.lake.storage import Storage
    from lakehouse_assets.lake.values import Number, TableSpec
    from lakehouse_assets.settings import load_settings

    settings = load_settings(root=place, engine=name)
    engine = open_engine(settings, Storage.of(settings, os.environ))
    target = f"{place}/joined-{os.getpid()}"

    def join() -> None:
        sides = [engine.read(engine.find(f"{place}/{side}")) for side in ("trades", "quotes")]  # type: ignore[arg-type]
        joined = engine.asof(sides[0], sides[1], _how())
        handle = engine.find(target) or engine.create(target, TableSpec(engine.schema(joined)))
        engine.append(handle, joined, Number("bench", handle.number("bench") + 1))

    def answer(_: None) -> list[float]:
        rows = engine.read(engine.find(target))  # type: ignore[arg-type]
        sums = "count(*) AS n, count(*) - count(t.bid) AS missing, sum(t.bid) AS bid, sum(t.ask) AS ask"
        return [
            float(value) / TIMES
            for value in engine.rows(engine.query(f"SELECT {sums} FROM t", {"t": rows}))[0].values()
        ]

    return _timed(join, answer)


def cogroup(place: str) -> dict[str, Any]:
    """The cogroup that is taught, by Spark with Delta's jars."""
    import pandas as pd

    from lakehouse_assets.engines.spark import SparkEngine
    from lakehouse_assets.engines.spark_session import Local
    from lakehouse_assets.lake.storage import Storage

    spark, target = SparkEngine(Storage(), Local()).spark, f"{place}/cogrouped"
    schema = "sym string, time timestamp, price double, id bigint, bid double, ask double"

    def merge(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
        quotes = right.sort_values(["time", "row"]).drop(columns=["sym", "row"])
        return pd.merge_asof(left.sort_values("time"), quotes, on="time")

    def join() -> None:
        left, right = (spark.read.format("delta").load(f"{place}/{side}") for side in ("trades", "quotes"))
        joined = left.groupBy("sym").cogroup(right.groupBy("sym")).applyInPandas(merge, schema)
        joined.write.format("delta").mode("overwrite").save(target)

    def answer(_: None) -> list[float]:
        found = spark.read.format("delta").load(target)
        sums = ("count(*)", "count(*) - count(bid)", "sum(bid)", "sum(ask)")
        return [float(value) for value in found.selectExpr(*sums).collect()[0]]

    return _timed(join, answer)


def peer_polars(place: str, coded: str = "") -> dict[str, Any]:
    """Both sides as they are, which polars believes to be sorted."""
    import polars as pl

    left, right = _sides(place, coded)

    def join() -> Any:
        sides = pl.from_arrow(left), pl.from_arrow(right.drop_columns(["row"]))
        return sides[0].join_asof(sides[1], on="time", by="sym", check_sortedness=False).to_arrow()

    return _timed(join, _answer)


def peer_pandas(place: str) -> dict[str, Any]:
    """With symbols as pandas holds them."""
    import pandas as pd
    import pyarrow as pa

    left, right = _sides(place, "")

    def join() -> Any:
        joined = pd.merge_asof(left.to_pandas(), right.drop_columns(["row"]).to_pandas(), on="time", by="sym")
        return pa.Table.from_pandas(joined, preserve_index=False)

    return _timed(join, _answer)


if __name__ == "__main__":
    main()
