"""Launched steps: what it costs to send a step to Databricks, taken on the simulated workspace.

The workspace is served by this process; each case is sent from processes of its own. What belongs here: cases, and
where the time of a step goes. What does not: the step that does nothing (`nothing.py`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import common, data, nothing
from benchmarks.common import Report

if TYPE_CHECKING:
    from lakehouse_assets.simulators.workspace.records import Run
    from lakehouse_assets.simulators.workspace.server import Workspace

RUNTIME = "15.4.x-scala2.12"
POLL_SECONDS = 0.5
STEPS = 2
"""Steps that a process sends, one after the other: the first pays for imports."""
ROWS = 25
VOLUME, LAKES = "/Volumes/main/ops/staging", "/Volumes/main/lake/tables"
EDGE = f"{LAKES}/edge.db"
PROJECT, NOTHING = "lakehouse_assets.definitions", "nothing"
STOCK_CASE = "dagster-databricks, DBFS, cluster"
TARGET = {"lakehouse/target": "databricks"}
VERSIONS = ("dagster-databricks", "databricks-sdk", "pyspark", "delta-spark")
ABOUT = (
    f"Steps are sent to the simulated workspace, where compute runs already: a cluster of runtime 15.4 (Spark 3.5) in "
    f"dedicated mode, and serverless compute (Spark 4.2 by Spark Connect). Both launchers ask every {POLL_SECONDS} s. "
    "*Inside* is the whole of a step, from the moment that Dagster hands it over until the next could begin; "
    "*overhead* is what of it is not the step itself. It is spent in turn: *sent* (checked, packed, uploaded, "
    "submitted), *prepared* (until the task's process starts: the workspace's own), *loaded* (until the step begins: "
    "Python, a session of the running Spark, the package, the definitions), *step*, and *ended* (the process ends, its "
    "last events come, files are deleted). Parts are medians in seconds."
)
NOTES = [
    "Not counted: starting Spark, and installing libraries; both are done before. On Databricks a job cluster takes "
    "minutes, and requests take longer than on this machine: read the number of requests beside the seconds.",
    "With the default of `poll_seconds` (5 s) the end of a step is noticed 2.25 s later on average than here.",
    "Steps of both launchers carry their declared libraries; dagster-databricks' is given a package of one file, ours "
    "sends the project and its catalog, and checks on the cluster that it is the same.",
    "A full run sends up to four steps at once, each from a process of its own; the workspace executes two at a time.",
]


@dataclass(frozen=True)
class Way:
    """One way to have a step done.

    Attributes:
        asset: of the module `module`.
        config: the configuration of Databricks; `None`: the step is not sent by ours.
    """

    name: str
    module: str
    asset: str
    config: Mapping[str, Any] | None = None
    kind: str = "ours"
    note: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def tags(self) -> Mapping[str, str]:
        """Of its runs."""
        return TARGET if self.config else {}


@dataclass(frozen=True)
class Step:
    """A step that was done: seconds of its parts, in turn, and what it took."""

    parts: Mapping[str, float]
    requests: float
    polls: float
    staged: int

    @property
    def whole(self) -> float:
        """Seconds from the hand-over to the end."""
        return sum(self.parts.values())


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `results/launched_steps.json`."""
    given = common.options(ABOUT, 20_000, 1_000, argv)
    if lacking := missing():
        common.say(f"left out: {lacking}")
        return
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in VERSIONS)
    report = Report("launched_steps", "Launched steps", ABOUT, given, notes=[*NOTES, f"Beside it: {versions}."])
    with common.workplace() as place, _workspace(place) as bench:
        ways = _ways(bench, peers=given.peers)
        found = bench.measured(ways, given.repeat, STEPS)
        _tables(report, ways, found)
        report.write()  # full runs take long: this much is there
        _full_runs(report, bench)
        broken = bench.workspace.broken
        assert not broken, broken
    report.write()


def missing() -> str:
    """What this benchmark lacks on this machine; "": nothing."""
    from lakehouse_assets.engines.spark_session import missing as spark_lacks
    from lakehouse_assets.simulators.workspace.runtimes import runtimes

    if importlib.util.find_spec("dagster_databricks") is None:
        return "dagster-databricks is not installed: make setup-jvm"
    if faults := spark_lacks():
        return f"{'; '.join(faults)}: make setup-jvm"
    return runtimes()[RUNTIME].missing() or ""


# the workspace, and processes that send steps to it


class Bench:
    """A workspace with compute that runs, and how steps get there."""

    def __init__(self, place: Path, workspace: Workspace) -> None:
        self.place, self.workspace = place, workspace
        self.cluster = workspace.add_cluster(spark_version=RUNTIME, data_security_mode="SINGLE_USER")
        self.staged: dict[int, int] = {}
        self._lakes = 0
        self.edge = workspace.path(EDGE)
        data.many_tables(self.edge, 1, rows=ROWS)
        common.catalog_of(place / "catalog", data.many_catalog("${BENCH_DB}", 1))
        (place / "code").mkdir()
        shutil.copy(nothing.__file__, place / "code")

    def config(self, compute: Mapping[str, Any], transport: str = "volumes", **env: str) -> dict[str, Any]:
        """A configuration of Databricks with a lake of its own."""
        self._lakes += 1
        found = {"root": f"{LAKES}/lake{self._lakes}", "compute": dict(compute), "poll_seconds": POLL_SECONDS}
        where = {"volume": VOLUME} if transport == "volumes" else {}
        return {**found, **where, "transport": transport, "env": {"BENCH_DB": EDGE, **env}}

    def measured(self, ways: Sequence[Way], repeat: int, steps: int) -> dict[str, list[list[Step]]]:
        """The steps of every process of every way; ways take turns."""
        sent = [way for way in ways if way.kind != "limit"]
        for way in sent:  # compute starts, and environments are made
            common.say(f"  {way.name}: warming up")
            self.send(way, 1)
        found: dict[str, list[list[Step]]] = {way.name: [] for way in ways}
        for turn in range(repeat):
            for way in ways if turn == 0 else sent:  # Spark starts once here: its process does all steps
                done = self.send(way, steps if way in sent else repeat + 1)
                found[way.name].append(done)
                common.say(f"  {way.name}: {', '.join(f'{one.whole:.2f}' for one in done)} s")
        return found

    def send(self, way: Way, count: int) -> list[Step]:
        """Let a process of its own do a step `count` times."""
        runs, requests = len(self.workspace.runs), len(self.workspace.requests)
        asked = {"module": way.module, "assets": [way.asset], "tags": dict(way.tags), "count": count}
        said = self.sample(way.config, "do", json.dumps(asked), way.environ)
        sent = self.workspace.runs[runs:]
        assert len(sent) in (0, count), [run.state for run in sent]
        asked_for = self.workspace.requests[requests:]
        polls = sum(bool(_POLL.search(request.path + request.query.get("path", ""))) for request in asked_for)
        took = (len(asked_for) / count, polls / count)
        if not sent:
            return [Step(parts_of(events, None), *took, 0) for events in said]
        return [
            Step(parts_of(events, run), *took, self.staged[run.run_id]) for events, run in zip(said, sent, strict=True)
        ]

    def sample(self, config: Mapping[str, Any] | None, function: str, asked: str, environ: Mapping[str, str]) -> Any:
        """What a function of this module says in a process of its own."""
        lake = common.fresh(self.place / "lake-here")
        (self.place / "databricks.json").write_text(json.dumps(config))  # JSON is YAML
        home = self.place / "home"
        home.mkdir(exist_ok=True)
        shutil.copy(common.ROOT / "dagster.yaml", home)
        told: dict[str, Any] = {
            "host": self.workspace.host, "token": self.workspace.token, "cluster": self.cluster,
            "poll_seconds": POLL_SECONDS,
        }  # fmt: skip
        variables = {
            "DAGSTER_HOME": str(home),
            "LAKEHOUSE_ROOT": str(self.workspace.path(config["root"]) if config else lake),
            "LAKEHOUSE_CATALOG": str(self.place / "catalog"),
            "LAKEHOUSE_DATABRICKS": str(self.place / "databricks.json"),
            "DATABRICKS_HOST": told["host"],
            "DATABRICKS_TOKEN": told["token"],
            "BENCH_DB": str(self.edge),
            nothing.STOCK: json.dumps(told),
            "PYTHONPATH": str(self.place / "code"),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        return common.sample(common.ours("launched_steps", function, asked), environ=variables | dict(environ)).said

    def watch(self, over: threading.Event) -> None:
        """Note what was staged for each run, while it is there."""
        while not over.wait(0.02):
            for run in self.workspace.runs[len(self.staged) :]:
                file = self.workspace.path(run.body["tasks"][0]["spark_python_task"]["python_file"])
                self.staged[run.run_id] = sum(path.stat().st_size for path in file.parent.iterdir())


_POLL = re.compile(r"/jobs/runs/get$|events-\d|_events\.pkl")


@contextmanager
def _workspace(place: Path) -> Iterator[Bench]:
    from lakehouse_assets.simulators.workspace.server import Options, serve

    with serve(Options(directory=place / "workspace", token="dapi-bench")) as workspace:
        workspace.make_volume("main.ops.staging")
        workspace.make_volume("main.lake.tables")
        bench, over = Bench(place, workspace), threading.Event()
        watcher = threading.Thread(target=bench.watch, args=(over,), daemon=True)
        watcher.start()
        try:
            yield bench
        finally:
            over.set()
            watcher.join()


def _ways(bench: Bench, *, peers: bool) -> list[Way]:
    cluster, serverless = {"existing_cluster": bench.cluster}, {"serverless": {"environment_version": "2"}}

    def empty(name: str, *config: Any) -> Way:
        return Way(f"ours, {name}: nothing", NOTHING, "by_ours", bench.config(*config))

    def landing(name: str, *config: Any) -> Way:
        return Way(f"ours, {name}: a landing", PROJECT, "bronze/t_0", bench.config(*config))

    stock = Way(f"{STOCK_CASE}: nothing", NOTHING, "by_stock", kind="peer")
    return [
        *[stock] * peers,
        empty("DBFS, cluster", cluster, "dbfs"),
        empty("volume, cluster", cluster),
        empty("volume, serverless", serverless),
        landing("volume, cluster", cluster),
        landing("volume, serverless", serverless),
        Way("here, Spark warm: a landing", PROJECT, "bronze/t_0", kind="limit", environ={"LAKEHOUSE_ENGINE": "spark"}),
    ]


# where the time of a step goes


def parts_of(events: Sequence[tuple[str, float]], run: Run | None) -> dict[str, float]:
    """Seconds of the parts of a step: of the events of its Dagster run, and what the workspace has of it."""
    at: dict[str, float] = dict(reversed(events))  # the first of each kind
    turns = [at["ENGINE_EVENT"], at["STEP_START"], at["STEP_SUCCESS"], at["RUN_SUCCESS"]]
    names = ["loaded", "step", "ended"]
    if run is not None:
        (task,) = run.tasks
        turns[1:1] = [run.start_time / 1000, (task.start_time + task.setup_duration) / 1000]
        names[:1] = ["sent", "prepared", "loaded"]
    return {name: until - since for name, (since, until) in zip(names, pairwise(turns), strict=True)}


def do(asked: str) -> list[list[tuple[str, float]]]:
    """Do a step several times, each in a run of its own; in a process of its own: the events of each run, with times.

    Raises:
        AssertionError: a run did not succeed.
    """
    given = json.loads(asked)
    found = []
    for _ in range(given["count"]):
        insert(Path(os.environ["BENCH_DB"]))
        found.append(ran(given["module"], given["assets"], given["tags"], {"max_concurrent": 1})[0])
    return found


def insert(path: Path) -> None:
    """Some more rows for the next landing."""
    with closing(sqlite3.connect(path)) as connection:
        rows = [("2024-01-01 00:00:00", f"s{n}", n / 4, n) for n in range(ROWS)]
        connection.executemany("INSERT INTO t_0 (at, sensor_id, temperature, status) VALUES (?, ?, ?, ?)", rows)
        connection.commit()


def ran(
    module: str, assets: Sequence[str], tags: Mapping[str, str], executor: Mapping[str, Any]
) -> tuple[list[tuple[str, float]], int]:
    """Run assets as a run worker does: its events with their times, and how many steps it had."""
    import dagster as dg
    from dagster._core.definitions.reconstruct import ReconstructableRepository

    repository = ReconstructableRepository.for_module(module, "defs")
    graph = repository.get_definition().asset_graph
    chosen = dg.AssetSelection.assets(*(dg.AssetKey(name.split("/")) for name in assets))
    keys = sorted(chosen.required_multi_asset_neighbors().resolve(graph), key=str)
    config = {"execution": {"config": dict(executor)}} if module == PROJECT and executor else {}
    with dg.DagsterInstance.get() as instance:
        result = dg.execute_job(
            repository.get_reconstructable_job("__ASSET_JOB"), instance=instance, tags=tags, asset_selection=keys,
            run_config=config, raise_on_error=False,
        )  # fmt: skip
        entries = [entry for entry in instance.all_logs(result.run_id) if entry.dagster_event]
    events = [(entry.dagster_event.event_type.name, entry.timestamp) for entry in entries if entry.dagster_event]
    assert result.success, [entry.dagster_event.message for entry in entries if entry.dagster_event]
    steps = sum(kind == "STEP_SUCCESS" for kind, _ in events)
    return events, steps


def _tables(report: Report, ways: Sequence[Way], found: Mapping[str, list[list[Step]]]) -> None:
    warm = {name: [step for steps in processes for step in steps[1:]] for name, processes in found.items()}
    first = {name: [steps[0] for steps in processes] for name, processes in found.items()}
    report.table("A step, of a process that has sent one before", [_row(way, warm[way.name]) for way in ways])
    sent = [way for way in ways if way.kind != "limit"]
    report.table("The first step of a process", [_row(way, first[way.name]) for way in sent])
    rows = [_requests(way, warm[way.name]) for way in sent]
    report.table("Requests of a step, and what is uploaded", rows)
    for way in sent:
        each = [step.whole - step.parts["step"] for step in warm[way.name]]
        report.target(f"overhead of a step ({way.name})", "for comparison", 1e9, _median(each), "s")


def _row(way: Way, steps: Sequence[Step]) -> dict[str, Any]:
    row = common.plain_row(way.name, [step.whole for step in steps], way.note, way.kind)
    parts = {name: _median([step.parts[name] for step in steps]) for name in steps[0].parts}
    return {**row, "figures": {"overhead": _median([step.whole - step.parts["step"] for step in steps]), **parts}}


def _requests(way: Way, steps: Sequence[Step]) -> dict[str, Any]:
    fixed = _median([step.requests - step.polls for step in steps])
    figures = {"requests": fixed, "while it runs": _median([step.polls for step in steps])}
    staged = _median([step.staged / 1000 for step in steps])
    return {"name": way.name, "kind": way.kind, "note": "", "n": len(steps), "figures": {**figures, "kB": staged}}


def _median(values: Sequence[float]) -> float:
    return common.spread(values)["median"]


# a full run of the shipped pipeline


def _full_runs(report: Report, bench: Bench) -> None:
    from lakehouse_assets.settings import PACKAGED_CATALOG

    quick = report.options.quick
    path = bench.workspace.path(f"{LAKES}/sensors.db")
    command = [common.LAKEHOUSE, "simulate", "sensors", "--database", path, "--rows", report.options.rows]
    common.sample([str(word) for word in command])
    there = {"LAKEHOUSE_SENSOR_DB": f"{LAKES}/sensors.db"}
    ways: dict[str, Any] = {
        "here, embedded engine": (None, {}),
        "launched, volume, cluster": (bench.config({"existing_cluster": bench.cluster}, **there), {}),
        "launched, volume, serverless": (bench.config({"serverless": {"environment_version": "2"}}, **there), {}),
    }
    rows = []
    for name, (config, environ) in list(ways.items())[-1 if quick else 0 :]:
        runs, requests = len(bench.workspace.runs), len(bench.workspace.requests)
        variables = {"LAKEHOUSE_CATALOG": str(PACKAGED_CATALOG), "LAKEHOUSE_SENSOR_DB": str(path), **environ}
        seconds, steps = bench.sample(config, "full", json.dumps(bool(config)), variables)
        sent, asked = len(bench.workspace.runs) - runs, len(bench.workspace.requests) - requests
        common.say(f"  a full run, {name}: {seconds:.1f} s, {steps} steps, {sent} runs, {asked} requests")
        row = common.plain_row(name, [seconds], kind="ours" if config else "limit")
        rows.append({**row, "figures": {"steps": steps, "runs there": sent, "requests": asked}})
    report.table(f"A full run of the shipped pipeline, {report.options.rows:,} readings", rows)
    report.target("steps of a full run, each a run there", "for comparison", 1e9, rows[-1]["figures"]["runs there"], "")


def full(launched: str) -> tuple[float, int]:
    """Run every table of the shipped catalog; in a process of its own: its seconds, and how many steps it had."""
    from lakehouse_assets.entities.catalog import load_catalog
    from lakehouse_assets.settings import PACKAGED_CATALOG

    catalog = load_catalog(PACKAGED_CATALOG, os.environ)
    tables = [str(table).replace(".", "/") for table in catalog.select("group:sensors")]
    began = time.perf_counter()
    _, steps = ran(PROJECT, tables, TARGET if json.loads(launched) else {}, {})
    return time.perf_counter() - began, steps


if __name__ == "__main__":
    main()
