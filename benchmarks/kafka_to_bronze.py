"""Kafka -> bronze: the messages of a topic landed as a Delta table, by what reads topics, from a real broker."""

from __future__ import annotations

import statistics
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import common, data
from benchmarks.common import Case, Report, Sample
from lakehouse_assets_tests.kafka_broker import LIBS, Broker, missing

TOPIC = "Stocks"
LARGE = 5
"""How many times the messages the topic has for the bound of the memory."""
WARM, COLD = "Spark Structured Streaming, warm", "Spark Structured Streaming, cold"
ABOUT = (
    "A topic of 4 partitions with JSON messages of about 174 bytes, on an Apache Kafka broker on the same machine, "
    "becomes a Delta table on the same disk: key, value, topic, partition, offset, timestamp, its type, headers. Ours "
    "is the whole command `lakehouse run`: a plain topic, and the shipped `bronze.stocks` with its month, partitioned "
    "by it; plan, number, `_ingested_at`, `_source` and `_position` included. *Inside* is what the run reports for "
    "the table; for Spark it is the query (`availableNow`) without the start of its session, which is told apart; for "
    "the others the function, without the start of its process. A warm session has run the same query once before."
)
NOTES = [
    "confluent-kafka, kafka-python and dlt take no headers and no type of the timestamp; the first two keep no "
    "position: they would read the topic again. Spark keeps a checkpoint, dlt a state.",
    "Broker, reader and writer share the cores, for all cases alike.",
]


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `results/kafka_to_bronze.json`."""
    given = common.options(ABOUT, 1_000_000, 5_000, argv)
    report = Report("kafka_to_bronze", "Kafka → bronze", ABOUT, given, notes=[*NOTES, beside(peers=given.peers)])
    with common.workplace() as place, broker(quick=given.quick) as kafka:
        lab = _Lab(place, kafka.bootstrap, given.rows)
        lab.produce(0, given.rows)
        rows = common.measured([*lab.ours(), *(lab.peers() if given.peers else ())], given.repeat)
        for row in rows:
            if row["name"] in lab.sessions:
                row["figures"] = {"session s": statistics.median(lab.sessions[row["name"]])}
        report.table(f"{given.rows:,} messages", rows, against=rows[0]["name"])
        lab.produce(given.rows, given.rows * (LARGE - 1))
        lab.rows = given.rows * LARGE
        large = common.measured(lab.ours(), 1)
        report.table(f"{lab.rows:,} messages", large)
    _judge(report, rows, large)
    report.write()


def broker(*, quick: bool) -> Broker:
    """A broker that is not started yet; `quick` starts soon, and is slower."""
    if faults := missing():
        raise SystemExit(f"there is no broker to measure with (`make setup-kafka`): {'; '.join(faults)}")
    return Broker(quick=quick, memory="1g")


def beside(*, peers: bool) -> str:
    """A note that says the versions of the broker and of what reads it."""
    jar = next(LIBS.glob("kafka_*.jar"), Path("kafka_none"))
    names = ("confluent-kafka", "kafka-python", *(("pyspark", "delta-spark") if peers else ()))
    found = (_installed(name) for name in names)
    return f"Beside it: Apache Kafka {jar.stem.rpartition('-')[2]}, {', '.join(found)}."


def _installed(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"no {name}"


class _Lab:
    """A topic, and who lands it.

    Attributes:
        rows: the messages that the topic holds.
        sessions: case -> how long the start of its Spark session took, each time.
    """

    def __init__(self, place: Path, servers: str, rows: int) -> None:
        self.place, self.servers, self.rows = place, servers, rows
        self.sessions: dict[str, list[float]] = {}
        self.catalog = common.catalog_of(place / "catalog", data.topic_catalog(servers, TOPIC))

    def produce(self, first: int, count: int) -> None:
        """Send messages, in a process of its own."""
        common.sample(common.ours("data", "produce_prices", self.servers, TOPIC, first, count))

    def ours(self) -> list[Case]:
        """A plain topic, and the shipped table."""
        return [
            self._ours("ours", self.catalog, "bronze.messages", "as it is"),
            self._ours("ours, bronze.stocks", None, "bronze.stocks", "with year_month, partitioned by it"),
        ]

    def _ours(self, name: str, catalog: Path | None, table: str, note: str) -> Case:
        def check(sample: Sample) -> None:
            (found,) = sample.said
            assert (found["rows_in"], found["valid"]) == (self.rows, self.rows), found

        def command() -> list[str]:
            return common.run_command(catalog, common.fresh(self.place / "lake"), table)

        inside, environ = common.seconds_of(table), {"LAKEHOUSE_KAFKA": self.servers, "LAKEHOUSE_KAFKA_TOPIC": TOPIC}
        return Case(name, command, note=note, rows=self.rows, inside=inside, check=check, environ=environ)

    def peers(self) -> list[Case]:
        """Spark in the project's own environment, the others in theirs; and reading without writing."""
        return [
            self._spark(WARM, 2),
            self._spark(COLD, 1),
            self._peer("confluent-kafka → write_deltalake", "confluent_arrow"),
            self._peer("dlt resource of Arrow → Delta", "dlt_arrow", "messages read by confluent-kafka"),
            self._peer("kafka-python → write_deltalake", "kafkapython_arrow"),
            self._peer("confluent-kafka, reading only", "confluent_consume", kind="limit"),
        ]

    def _spark(self, name: str, times: int) -> Case:
        def command() -> list[str]:
            target = common.fresh(self.place / "peer")
            return common.ours("kafka_to_bronze", "stream_spark", self.servers, TOPIC, target, times)

        def check(sample: Sample) -> None:
            assert sample.said["rows"] == self.rows, sample.said
            self.sessions.setdefault(name, []).append(sample.said["session"])

        note = "the second query of a session" if times > 1 else "the first query of a session"
        return Case(name, command, "peer", note, self.rows, inside=common.peer_seconds, check=check)

    def _peer(self, name: str, function: str, note: str = "", kind: str = "peer") -> Case:
        def command() -> list[str]:
            target = common.fresh(self.place / "peer")
            return _kafka_peer(function, self.servers, TOPIC, target)

        def check(sample: Sample) -> None:
            assert sample.said["answer"] == self.rows, sample.said

        return Case(name, command, kind, note, self.rows, inside=common.peer_seconds, check=check)


def _kafka_peer(function: str, *words: object) -> list[str]:
    return [str(common.PEER_PYTHON), str(common.HERE / "peers_kafka.py"), function, *map(str, words)]


def _judge(report: Report, rows: list[dict[str, Any]], large: list[dict[str, Any]]) -> None:
    names = {row["name"] for row in rows}
    for row in rows[:2]:
        name, rate = row["name"], row["inside_rows_per_second"]
        report.target(f"rows/s inside, {name}", "at least 600,000", 600_000, rate, "rows/s", least=True)
        if WARM in names:
            times = common.ratio(rows, WARM, name, "inside_seconds")
            report.target(f"{name}, inside, against warm Spark", "at least 3.5 times as fast", 3.5, times, "×",
                          least=True)  # fmt: skip
            times = common.ratio(rows, COLD, name)
            report.target(f"{name}, whole process, against Spark", "at least 10 times as fast", 10, times, "×",
                          least=True)  # fmt: skip
    for row in (*rows[:2], *large):
        what = f"peak with {row['rows']:,} messages, {row['name']}"
        report.target(what, "at most 350 MB", 350, row["peak_mb"]["median"], "MB")


def stream_spark(servers: str, topic: str, target: str, times: str) -> dict[str, float]:
    """Spark reads a topic into Delta tables, one after the other, on two cores; the last one is measured."""
    rows, seconds = 0, 0.0
    spark, session = opened_spark()
    for turn in range(int(times)):
        began = time.perf_counter()
        messages = (
            spark.readStream.format("kafka")
            .option("kafka.bootstrap.servers", servers)
            .option("subscribe", topic)
            .option("startingOffsets", "earliest")
            .option("includeHeaders", "true")
            .load()
        )
        stream = messages.writeStream.format("delta").option("checkpointLocation", f"{target}/{turn}-checkpoint")
        stream.trigger(availableNow=True).start(f"{target}/{turn}").awaitTermination()
        seconds = time.perf_counter() - began
        rows = spark.read.format("delta").load(f"{target}/{turn}").count()
    closed_spark(spark)
    return {"inside": seconds, "session": session, "rows": rows}


def opened_spark() -> tuple[Any, float]:
    """A session of Spark on two cores, and how long its start took."""
    from lakehouse_assets.engines.spark_session import REPOSITORY_JARS, Local, open_session

    began = time.perf_counter()
    spark = open_session(Local("4g", 2, REPOSITORY_JARS, None, {}))
    return spark, time.perf_counter() - began


def closed_spark(spark: Any) -> None:
    """Stop a session and its JVM, and wait for that, so that its time and its memory are counted."""
    gateway = spark.sparkContext._gateway
    spark.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()


if __name__ == "__main__":
    main()
