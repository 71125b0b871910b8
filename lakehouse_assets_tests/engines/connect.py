"""The Spark engine over Spark Connect: `serve PORT` is the server, a directory makes it print what it found as JSON."""

from __future__ import annotations

import json
import signal
import sys

from lakehouse_assets.engines.spark import SparkEngine
from lakehouse_assets.engines.spark_session import Local, configuration
from lakehouse_assets.errors import ConcurrentWriter
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number
from lakehouse_assets_tests.conftest import QUICK
from lakehouse_assets_tests.engines.bench import KV, Bench
from lakehouse_assets_tests.engines.contract_races import WRITES

NAMES = [name for name in WRITES if name != "compact"]


def serve(port: str) -> None:
    """Serve Spark Connect on a port of this machine until the process is ended."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]")
    for name, value in configuration(Local(memory="1g", threads=2, more=QUICK)).items():
        builder = builder.config(name, value)
    builder = builder.config("spark.plugins", "org.apache.spark.sql.connect.SparkConnectPlugin")
    builder.config("spark.connect.grpc.binding.port", port).getOrCreate()
    signal.pause()


def writes(bench: Bench, name: str) -> dict:
    """One kind of write: under a number, as a replay, and from a handle that is stale."""
    table = bench.table(KV, (1, "a"), (2, "b"), feed=True)
    before, stale = table.version, table.open()
    number = Number("lakehouse/silver.t/other", 1, "plan")
    commit = WRITES[name](table, table.open(), number)
    rows, version = table.rows(), table.version
    again = WRITES[name](table, table.open(), number)
    try:
        WRITES[name](table, stale, number)
        raced = "committed"
    except ConcurrentWriter:
        raced = "refused"
    return {
        "made": [commit.version - before, version - before, table.open().number(number.app_id)],
        "foreign": table.open().foreign_commits(before, version),
        "replayed": [again.skipped, table.version - version, table.rows() == rows],
        "raced": raced,
        "rows": rows,
        "moved": table.moved(before)[0],
    }


def main(directory: str) -> None:
    """Try every kind of write over the server that `SPARK_REMOTE` names."""
    engine = SparkEngine(Storage())
    bench = Bench(engine, directory)
    found: dict = {name: writes(bench, name) for name in NAMES}
    found["session"] = type(engine.spark).__module__
    nothing = bench.table(KV, (1, "a"))
    nothing.merge([], [(9, None)])
    found["empty merge"] = [nothing.number, nothing.rows()]
    query = engine.query("SELECT max(k) AS k FROM t", {"t": engine.read(nothing.open())})
    with engine.held(query) as held:
        found["held"] = [engine.rows(held), engine.batches(held).read_all().to_pylist()]
    engine.close()
    print(json.dumps(found))


if __name__ == "__main__":
    serve(sys.argv[2]) if sys.argv[1] == "serve" else main(sys.argv[1])
