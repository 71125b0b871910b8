"""Reading: a filtered aggregate over a Delta table, and whether a process that stops half-way ends well."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import common, data
from benchmarks.common import Case, Report, Sample
from benchmarks.peers import QUERY

TABLE = "bronze.readings"
TIMES = 15
"""How often a process asks: the first answer warms it up, the rest are its figure."""
EXITS = 50
ABOUT = (
    "`SELECT sensor_id, count(*), avg(temperature) … WHERE status = 1 AND humidity > 50 GROUP BY sensor_id` over a "
    "table of readings. Each process opens the table and asks 15 times; *inside* is the median of the 14 times "
    "after the first, from opening the table to the last row in Python. Ours takes the query as Spark SQL. "
    "All answers are compared with ours."
)
NOTES = [
    "A table of one large file is read by the file's own columns where they are the table's: given types "
    "beforehand, DuckDB does not look into the file, and reads it with one thread.",
    "The ratio to the fastest is taken inside, where starting Python and importing libraries does not count.",
    "DuckDB over delta-rs's pyarrow data set is left out: processes that end while it is being read often die at exit.",
]


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `results/reading.json`."""
    given = common.options(ABOUT, 10_000_000, 50_000, argv)
    report = Report("reading", "Reading", ABOUT, given, notes=NOTES)
    with common.workplace() as place:
        files, lake = place / "files", place / "lake"
        common.sample(common.ours("data", "reading_files", files, given.rows))
        common.sample(common.run_command(common.catalog_of(place / "catalog", data.reading_catalog(files)), lake))
        answers: dict[str, list[dict[str, Any]]] = {}
        cases = [_case("ours, engine.query", common.ours("reading", "ask_often", lake), "ours", answers)]
        if given.peers:
            table = lake / TABLE.replace(".", "/")
            for name, function in _PEERS.items():
                cases.append(_case(name, common.peer(function, table, TIMES), "peer", answers))
        rows = common.measured(cases, given.repeat)
        report.table(f"A filtered aggregate over {given.rows:,} rows", rows, against=cases[0].name)
        rows_cli = common.measured([_command_line(lake)], given.repeat)
        report.table("The same through `lakehouse sql`, the whole process", rows_cli)
        _compare(answers)
        _judge(report, rows)
        bad = _exits(lake, 5 if given.quick else EXITS)
        report.target(f"bad exits of {5 if given.quick else EXITS} half-read readers", "none", 0, bad, "exits")
    report.write()


DUCKDB = "DuckDB read_parquet(file_uris)"
_PEERS = {
    DUCKDB: "read_duckdb",
    "polars scan_delta, streaming": "read_polars",
    "deltalake QueryBuilder": "read_datafusion",
}


def _case(name: str, command: list[str], kind: str, answers: dict[str, list[dict[str, Any]]]) -> Case:
    def check(sample: Sample) -> None:
        answers[name] = _answer(sample.said)["rows"]

    return Case(name, lambda: command, kind, inside=_warm, check=check)


def _warm(said: Any) -> float:
    return statistics.median(_answer(said)["seconds"][1:])


def _answer(said: Any) -> Any:
    return said.get("answer", said)


def _command_line(lake: Path) -> Case:
    command = [str(common.LAKEHOUSE), "sql", "--root", str(lake), "--format", "json", QUERY.format(table=TABLE)]
    return Case("ours, lakehouse sql", lambda: command)


def _compare(answers: dict[str, list[dict[str, Any]]]) -> None:
    """Every answer is ours, but for the last digits of sums in another order."""
    (ours, *others) = answers.items()
    for name, answer in others:
        assert len(answer) == len(ours[1]), f"{name} has {len(answer)} rows, ours has {len(ours[1])}"
        for mine, theirs in zip(ours[1], answer, strict=True):
            same = (mine["sensor_id"], mine["readings"]) == (theirs["sensor_id"], theirs["readings"])
            assert same, (name, mine, theirs)
            assert abs(mine["mean"] - theirs["mean"]) < 1e-9 * abs(mine["mean"]), (name, mine, theirs)


def _judge(report: Report, rows: list[dict[str, Any]]) -> None:
    peers = [row for row in rows if row["kind"] == "peer"]
    if peers:
        plain = next(row for row in peers if row["name"] == DUCKDB)
        found = rows[0]["inside_seconds"]["median"] / plain["inside_seconds"]["median"]
        report.target("inside, against DuckDB over the same files", "at most 1.3 times", 1.3, found, "×")
        fastest = min(peers, key=lambda row: float(row["inside_seconds"]["median"]))
        found = rows[0]["inside_seconds"]["median"] / fastest["inside_seconds"]["median"]
        report.target(f"inside, against the fastest ({fastest['name']})", "at most 1.3 times", 1.3, found, "×")


def _exits(lake: Path, count: int) -> int:
    """How many of `count` processes that stop half-way do not exit with 0."""

    def bad(_: int) -> bool:
        try:
            common.sample(common.ours("reading", "read_half", lake))
        except common.BenchmarkFailed as failure:
            common.say(str(failure))
            return True
        return False

    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(bad, range(count)))


# what runs in processes of its own


def _opened(root: str) -> tuple[Any, Any]:
    import os

    from lakehouse_assets.engines.base import open_engine
    from lakehouse_assets.lake.names import Lake
    from lakehouse_assets.lake.storage import Storage
    from lakehouse_assets.settings import load_settings

    settings = load_settings(root=root)
    lake = Lake(settings.root, Storage.of(settings, os.environ))
    return lake, open_engine(settings, lake.storage)


def ask_often(root: str) -> dict[str, Any]:
    """Ask as `lakehouse sql` does, several times."""
    from lakehouse_assets.serve.query import ask

    lake, engine = _opened(root)
    seconds, rows = [], []
    for _ in range(TIMES):
        began = time.perf_counter()
        rows = engine.rows(ask(lake, engine, QUERY.format(table=TABLE)))
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "rows": rows}


def read_half(root: str) -> int:
    """Read one batch of many, and leave the reader open."""
    from lakehouse_assets.serve.query import ask

    lake, engine = _opened(root)
    reader = engine.batches(ask(lake, engine, f"SELECT * FROM {TABLE}"))
    return int(reader.read_next_batch().num_rows)


if __name__ == "__main__":
    main()
