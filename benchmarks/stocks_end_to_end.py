"""From a topic to gold: new messages of the shipped stocks, from a sensor's tick until both gold tables show them."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import common, data
from benchmarks.common import Report
from benchmarks.kafka_to_bronze import broker

if TYPE_CHECKING:
    from lakehouse_assets_tests.automation.dev_server import DevServer

NEW = 100_000
GOLD = ("gold/updated_stocks", "gold/index_returns")
PROCESS, DAEMON = "tick and run in one process", "dagster dev"
ABOUT = (
    "A lake holds the messages of 500 indices, each message another day of its index; then 100,000 more are in the "
    "topic, the next 200 days of every index, one in a thousand malformed. *One process* is warm, it has landed as "
    "many before: *inside* is a tick of the sensor `sources` over the shipped catalog, and a run of `stocks_job` in "
    "the same process. *dagster dev* is the daemon with its automation running, which has done the same once before: "
    "*inside* begins with the tick of `sources` that requested the run, as the instance recorded it, and ends with the "
    "commit by which the later of the two gold tables has a row for each message that fits. Until the tick, 30 seconds "
    "can pass: that is the interval of the sensor."
)
NOTES = [
    "The parts of dagster dev, in turn: *landing* (from the tick until the run of bronze has ended), *noticed* (until "
    "the automation has requested the next run), *derived* (until gold is fresh). A run starts a process of its own, "
    "and in it the definitions are loaded.",
]


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `results/stocks_end_to_end.json`."""
    given = common.options(ABOUT, 1_000_000, 5_000, argv)
    report = Report("stocks_end_to_end", "From topic to gold", ABOUT, given, notes=NOTES)
    new = min(NEW, given.rows // 5)
    found = []
    with common.workplace() as place, broker(quick=given.quick) as kafka:
        for name, function in ((PROCESS, "in_process"), (DAEMON, "in_daemon")):
            topic, lake = function, place / function
            environ = {"LAKEHOUSE_KAFKA": kafka.bootstrap, "LAKEHOUSE_KAFKA_TOPIC": topic}
            common.sample(common.ours("data", "produce_prices", kafka.bootstrap, topic, 0, given.rows))
            common.sample(common.run_command(None, lake, "group:stocks"), environ=environ)
            command = common.ours(
                "stocks_end_to_end", function, kafka.bootstrap, topic, lake, given.rows, new, given.repeat
            )
            found.append(_row(name, common.sample(command, environ=environ), new))
    report.table(f"{new:,} new messages, {given.rows:,} before", found)
    for row, limit in zip(found, (6, 15), strict=True):
        what = f"from the tick to gold, {row['name']}"
        report.target(what, f"under {limit} s", limit, row["inside_seconds"]["median"], "s")
    report.write()


def _row(name: str, sample: common.Sample, rows: int) -> dict[str, Any]:
    turns = sample.said
    seconds = [turn["inside"] for turn in turns]
    row = common.plain_row(name, seconds)
    parts = {key: statistics.median(turn[key] for turn in turns) for key in turns[0] if key != "inside"}
    common.say(f"  {name}: {', '.join(f'{one:.2f}' for one in seconds)} s; {parts}, {sample.peak_mb:.0f} MB")
    rate = round(rows / row["inside_seconds"]["median"])
    return row | {"rows": rows, "inside_rows_per_second": rate, "figures": parts}


# what runs in processes of its own


class _Stream:
    """A topic that gets more messages, and the lake that follows it."""

    def __init__(self, servers: str, topic: str, lake: str, held: str, new: str) -> None:
        self.servers, self.topic, self.lake = servers, topic, Path(lake)
        self.sent, self.new = int(held), int(new)

    def grow(self) -> None:
        """Send the next messages, in a process of its own."""
        command = common.ours("data", "produce_prices", self.servers, self.topic, self.sent, self.new)
        common.sample(command)
        self.sent += self.new

    def fresh_at(self) -> float | None:
        """When gold was fresh, in seconds since the epoch; `None` if it is not."""
        import pyarrow as pa
        from deltalake import DeltaTable

        moments = []
        for name in GOLD:
            table = DeltaTable(str(self.lake / name))
            counts = pa.table(table.get_add_actions()).column("num_records").to_pylist()
            if sum(counts) != self.sent - data.unfit_messages(self.sent):
                return None
            moments.append(table.history(1)[0]["timestamp"] / 1_000)
        return max(moments)


def in_process(servers: str, topic: str, lake: str, held: str, new: str, times: str) -> list[dict[str, float]]:
    """A tick and a run of the group in this process, several times; the first time is not told."""
    import dagster as dg

    from lakehouse_assets.assets.resources import LakehouseResource
    from lakehouse_assets.build import build_defs
    from lakehouse_assets.entities.catalog import load_catalog
    from lakehouse_assets.settings import PACKAGED_CATALOG, Settings

    settings, environ = Settings(root=lake), dict(os.environ)
    stream = _Stream(servers, topic, lake, held, new)
    defs = build_defs(settings, load_catalog(PACKAGED_CATALOG, environ), environ)
    sensor, job = defs.resolve_sensor_def("sources"), defs.resolve_job_def("stocks_job")
    turns = []
    with _instance() as instance:
        for _ in range(int(times) + 1):
            stream.grow()
            began = time.perf_counter()
            context = dg.build_sensor_context(
                instance,
                definitions=defs,
                sensor_name="sources",
                resources={"lakehouse": LakehouseResource.of(settings)},
            )
            requests = sensor.evaluate_tick(context).run_requests or ()
            ticked = time.perf_counter()
            assert [request.asset_selection for request in requests] == [[dg.AssetKey(["bronze", "stocks"])]]
            assert job.execute_in_process(instance=instance).success
            ended = time.perf_counter()
            assert stream.fresh_at() is not None
            turns.append({"inside": ended - began, "tick s": ticked - began, "run s": ended - ticked})
    return turns[1:]


@contextmanager
def _instance() -> Iterator[Any]:
    """An instance on disk, as a project has it."""
    import dagster as dg

    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.local_temp(home) as instance:
        yield instance


TICKS = """query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor {
  sensorState { ticks(limit: 20) { timestamp endTimestamp status runIds } } } } }"""
RUNS = """query ($after: Float) { runsOrError(filter: {createdAfter: $after}) { ... on Runs { results {
  runId status creationTime startTime endTime assetSelection { path } } } } }"""
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
QUIET_SECONDS = 15
"""After so long without a run nothing is left of what the start of the daemon brought."""


def in_daemon(servers: str, topic: str, lake: str, held: str, new: str, times: str) -> list[dict[str, float]]:
    """The daemon follows the topic, several times; the first time is not told."""
    from lakehouse_assets_tests.automation.dev_server import DevServer

    stream = _Stream(servers, topic, lake, held, new)
    environ = {
        "LAKEHOUSE_ROOT": lake,
        "LAKEHOUSE_KAFKA": servers,
        "LAKEHOUSE_KAFKA_TOPIC": topic,
        "LAKEHOUSE_AUTOMATION": "running",
        "LAKEHOUSE_SENSOR_DB": f"{lake}-no-sensors.db",
    }
    base = Path(f"{lake}-server")
    base.mkdir()
    server = DevServer(base, environ)
    try:
        server.wait("the code location", server.loaded)
        return [_followed(server, stream) for _ in range(int(times) + 1)][1:]
    finally:
        server.stop()


def _followed(server: DevServer, stream: _Stream) -> dict[str, float]:
    """How long it took from the tick until gold was fresh, and the parts of it."""
    server.wait("quiet", lambda: _quiet(server), 300)
    before = max((tick["timestamp"] for tick in _ticks(server, 0)), default=0.0)
    server.wait("a tick that ended", lambda: [t for t in _ticks(server, before) if t["endTimestamp"]], 120)
    stream.grow()  # at once after a tick: the next one sees all of them
    grown = time.time()
    fresh = server.wait("fresh gold", stream.fresh_at, 300)
    runs = _runs(server, grown)
    tick = min((tick for tick in _ticks(server, grown) if tick["runIds"]), key=lambda tick: tick["timestamp"])
    landed = next(run for run in runs if run["runId"] in tick["runIds"])
    derived = min((run for run in runs if _is_of(run, "silver", "stocks")), key=lambda run: run["creationTime"])
    return {
        "inside": fresh - tick["timestamp"],
        "landing s": landed["endTime"] - tick["timestamp"],
        "noticed s": derived["creationTime"] - landed["endTime"],
        "derived s": fresh - derived["creationTime"],
    }


def _quiet(server: DevServer) -> bool:
    runs = _runs(server, 0)
    last = max((run["endTime"] or 0.0 for run in runs), default=0.0)
    return all(run["status"] in ENDED for run in runs) and time.time() - last > QUIET_SECONDS


def _ticks(server: DevServer, after: float) -> list[dict[str, Any]]:
    """Ticks of `sources` that began after a moment, newest first."""
    found = server.ask(TICKS, selector=server.selector(sensorName="sources"))["sensorOrError"]
    return [tick for tick in found["sensorState"]["ticks"] if tick["timestamp"] > after]


def _runs(server: DevServer, after: float) -> list[dict[str, Any]]:
    return list(server.ask(RUNS, after=after)["runsOrError"]["results"])


def _is_of(run: dict[str, Any], *path: str) -> bool:
    return any(asset["path"] == list(path) for asset in run["assetSelection"] or ())


if __name__ == "__main__":
    main()
