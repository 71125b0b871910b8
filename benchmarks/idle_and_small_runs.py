"""Idle and small runs: what a run with nothing new costs, one row after many commits, and a plan beside its commit."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import common, data
from benchmarks.common import Case, Report

ENTITIES = 50
FEW, MANY = 10, 1_000
LEAST = 5
"""Runs of each landing at least: their figures are small, and close to each other."""
TIMES = 10
"""Rows that a process lands, one by one; its figure is their median."""
ABOUT = (
    "A run with nothing new is `lakehouse run '*'` on a lake that is up to date, the whole process; *inside* is what "
    "the run reports, as a mean over its tables. A landing is one row from SQLite into a Delta table, with plan and "
    "number, in a process that is warm: *inside* is the median of ten. The cost of a plan is the median of recording "
    "one and of committing one row beside it, on disk and on an S3 emulator on the same machine."
)
S3 = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `results/idle_and_small_runs.json`."""
    given = common.options(ABOUT, MANY, 30, argv)
    report = Report("idle_and_small_runs", "Idle and small runs", ABOUT, given)
    with common.workplace() as place:
        _idle(report, place)
        _landings(report, place)
        _plans(report, place)
    report.write()


# a run with nothing new


def _idle(report: Report, place: Path) -> None:
    given = report.options
    entities = 6 if given.quick else ENTITIES
    many = common.catalog_of(place / "many", data.many_catalog(str(place / "many.db"), entities))
    data.many_tables(place / "many.db", entities // 2)
    database = str(place / "sensors.db")
    sensors = {"LAKEHOUSE_SENSOR_DB": database}
    rows = 1_000 if given.quick else 20_000
    command = [str(common.LAKEHOUSE), "simulate", "sensors", "--database", database, "--rows", str(rows)]
    common.sample(command)
    cases = [
        _idle_case("ours, the shipped sensors", None, place / "lake-shipped", sensors, "group:sensors"),
        _idle_case(f"ours, {entities} entities", many, place / "lake-many", {}, "*"),
    ]
    if given.peers:
        idle = common.peer("idle_dlt", data.sensor_database(place / "dlt.db", rows), place / "dlt")
        cases.append(Case("dlt, one table, incremental", lambda: idle, "peer"))
    for case in cases:  # what there is, is landed
        common.sample(case.command(), environ=case.environ)
    found = common.measured(cases, given.repeat)
    report.table("A run with nothing new", found)
    report.target("the shipped sensors, from the shell", "under 3 s", 3, found[0]["seconds"]["median"], "s")
    for row in found[:2]:
        each = 1_000 * row["inside_seconds"]["median"]
        report.target(f"inside, a table ({row['name'][6:]})", "under 100 ms", 100, each, "ms")


def _idle_case(name: str, catalog: Path | None, lake: Path, environ: Mapping[str, str], selection: str) -> Case:
    def mean(said: Any) -> float:
        return statistics.mean(row["seconds"] for row in said)

    return Case(name, lambda: common.run_command(catalog, lake, selection), inside=mean, environ=environ)


# one row after many commits


def _landings(report: Report, place: Path) -> None:
    given = report.options
    first = place / "landings" / "first"
    first.mkdir(parents=True)
    common.sample(common.ours("idle_and_small_runs", "land", first, FEW))
    lakes = {FEW: shutil.copytree(first, place / "landings" / "few"), given.rows: first}
    common.sample(common.ours("idle_and_small_runs", "land", first, given.rows - FEW))
    cases = [_land_case(commits, lake) for commits, lake in lakes.items()]
    if given.peers:
        for commits in lakes:
            table = place / "landings" / f"peer-{commits}"
            common.sample(common.peer("land_delta", table, commits))
            cases.append(_land_peer(commits, table))
    found = common.measured(cases, given.repeat if given.quick else max(given.repeat, LEAST))
    report.table("Landing one row", found)
    slower = found[1]["inside_seconds"]["median"] / found[0]["inside_seconds"]["median"]
    report.target(f"after {given.rows:,} commits, against {FEW}", "at most 1.5 times", 1.5, slower, "×")


def _land_case(commits: int, lake: Path) -> Case:
    command = common.ours("idle_and_small_runs", "land", lake, TIMES)
    return Case(f"ours, after {commits:,} commits", lambda: command, inside=statistics.median)


def _land_peer(commits: int, table: Path) -> Case:
    def median(said: Any) -> float:
        return statistics.median(said["answer"]["seconds"])

    name = f"write_deltalake, after {commits:,} commits"
    return Case(name, lambda: common.peer("land_delta", table, TIMES), "peer", "no source, no plan", inside=median)


def land(place: str, count: str) -> list[float]:
    """Seconds of each of `count` landings of one row; in a process of its own."""
    from lakehouse_assets.entities.catalog import load_catalog
    from lakehouse_assets.entities.model import TableName
    from lakehouse_assets.settings import load_settings
    from lakehouse_assets.tables.base import open_work
    from lakehouse_assets.tables.refresh import refresh

    database = Path(place) / "edge.db"
    if not database.exists():
        data.many_tables(database, 1, rows=0)
    catalog = common.catalog_of(Path(place) / "catalog", data.many_catalog(str(database), 1))
    settings = load_settings(root=f"{place}/lake", catalog=catalog)
    work = open_work(settings, load_catalog(catalog, os.environ), os.environ)
    seconds = []
    for _ in range(int(count)):
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("INSERT INTO t_0 (at, sensor_id, temperature, status) VALUES ('t', 's', 1.5, 1)")
            connection.commit()
        began = time.perf_counter()
        (outcome,) = refresh(work, TableName("bronze", "t_0"))
        seconds.append(time.perf_counter() - began)
        assert outcome.valid == 1
    return seconds


# a plan beside its commit


def _plans(report: Report, place: Path) -> None:
    times = 5 if report.options.quick else 30
    rows = []
    with _s3_server() as endpoint:
        for where, root in (("on disk", str(place / "plans")), ("on S3 (emulator)", "s3://bench/plans")):
            parts = common.sample(common.ours("idle_and_small_runs", "plan_and_commit", root, endpoint, times)).said
            rows += [common.plain_row(f"{what}, {where}", seconds) for what, seconds in parts.items()]
            share = rows[-2]["inside_seconds"]["median"] / rows[-1]["inside_seconds"]["median"]
            report.target(f"a plan {where}, against the commit of one row", "for comparison", 1e9, share, "×")
    report.table("A plan beside its commit", rows)


def plan_and_commit(root: str, endpoint: str, times: str) -> dict[str, list[float]]:
    """Seconds of recording a plan, and of committing one row under its number; in a process of its own."""
    import pyarrow as pa

    from lakehouse_assets.engines.embedded import EmbeddedEngine
    from lakehouse_assets.lake.names import FeedName
    from lakehouse_assets.lake.plans import Plan, PlanBook
    from lakehouse_assets.lake.storage import Storage
    from lakehouse_assets.lake.values import TableSpec

    storage = Storage({**S3, "AWS_ENDPOINT_URL": endpoint} if root.startswith("s3") else {})
    engine, feed = EmbeddedEngine(storage), FeedName("bronze.t", "default")
    rows = pa.table({"id": [1], "v": ["x"]})
    engine.create(f"{root}/bronze/t", TableSpec(rows.schema))
    found: dict[str, list[float]] = {"recording a plan": [], "committing one row": []}
    for number in range(1, int(times) + 1):
        began = time.perf_counter()
        ledger = PlanBook(f"{root}/control/batches", storage).open(feed)
        ledger.last(feed)
        (plan,) = ledger.record(Plan(feed, number, "append", {"rowid": number - 1}, {"rowid": number}, "one"))
        between = time.perf_counter()
        handle = engine.find(f"{root}/bronze/t")
        assert handle is not None
        engine.append(handle, engine.from_arrow(rows), plan.as_number)
        found["recording a plan"].append(between - began)
        found["committing one row"].append(time.perf_counter() - between)
    return found


@contextmanager
def _s3_server() -> Iterator[str]:
    """The address of an S3 server with an empty bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as server:
        try:
            _wait_for(port, server)
            endpoint = f"http://127.0.0.1:{port}"
            common.sample(common.ours("idle_and_small_runs", "make_bucket", endpoint))
            yield endpoint
        finally:
            server.terminate()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise common.BenchmarkFailed("the S3 server did not start: is moto[server] installed?")


def make_bucket(endpoint: str) -> None:
    """Make the bucket; in a process of its own."""
    from pyarrow.fs import S3FileSystem

    S3FileSystem(
        access_key=S3["AWS_ACCESS_KEY_ID"],
        secret_key=S3["AWS_SECRET_ACCESS_KEY"],
        region=S3["AWS_REGION"],
        endpoint_override=endpoint,
        allow_bucket_creation=True,
    ).create_dir("bench")


if __name__ == "__main__":
    main()
