"""What the peers do with a Kafka topic, and with the JSON that was landed of one: run with the peers' own environment.

    benchmarks/.venv/bin/python benchmarks/peers_kafka.py confluent_arrow SERVERS TOPIC TARGET

Imports nothing of the project. Each reads a topic from its start to where it ended when it was looked at first, and
says how many rows it has. Printed is JSON: how long the function took, and those rows. Libraries are imported before
the clock starts. What does not belong here: other sources (`peers.py`), Spark, which the project's environment has.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

BATCH_ROWS = 16_000
SMALL_QUEUES = {"queued.min.messages": 20_000, "queued.max.messages.kbytes": 16_384, "fetch.queue.backoff.ms": 5}
"""With librdkafka's defaults (queues of 64 MB, and a second's sleep where one is full) it is slower."""
PRICES = ("Open", "High", "Low", "Close", "Adj Close")


def _consumer(servers: str, topic: str) -> tuple[Any, dict[int, int]]:
    """A consumer at the start of every partition, and how many messages each holds."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": "peer", "enable.auto.commit": False, **SMALL_QUEUES})
    parts = [TopicPartition(topic, part, 0) for part in consumer.list_topics(topic).topics[topic].partitions]
    ends = {part.partition: consumer.get_watermark_offsets(part)[1] for part in parts}
    consumer.assign(parts)
    return consumer, ends


def _messages(servers: str, topic: str) -> Iterator[list[Any]]:
    consumer, ends = _consumer(servers, topic)
    left = sum(ends.values())
    while left:
        found = consumer.consume(1_000, 1.0)
        left -= len(found)
        yield found
    consumer.close()


def confluent_consume(servers: str, topic: str, _: str) -> int:
    """Reads the messages, and does nothing with them."""
    return sum(len(found) for found in _messages(servers, topic))


def _batches(servers: str, topic: str) -> Iterator[Any]:
    """The columns of Kafka but the headers, as Arrow."""
    waiting: list[Any] = []
    for found in _messages(servers, topic):
        waiting += found
        if len(waiting) >= BATCH_ROWS:
            yield _arrow(waiting)
            waiting = []
    if waiting:
        yield _arrow(waiting)


def _arrow(messages: list[Any]) -> Any:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays(
        [
            pa.array([m.key() for m in messages], pa.binary()),
            pa.array([m.value() for m in messages], pa.binary()),
            pa.array([m.topic() for m in messages], pa.string()),
            pa.array([m.partition() for m in messages], pa.int32()),
            pa.array([m.offset() for m in messages], pa.int64()),
            pa.array([m.timestamp()[1] * 1000 for m in messages], pa.timestamp("us", tz="UTC")),
        ],
        schema=_schema(),
    )


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        {
            "key": pa.binary(),
            "value": pa.binary(),
            "topic": pa.string(),
            "partition": pa.int32(),
            "offset": pa.int64(),
            "timestamp": pa.timestamp("us", tz="UTC"),
        }
    )


def _rows(table: str) -> int:
    import pyarrow as pa
    from deltalake import DeltaTable

    return int(sum(pa.table(DeltaTable(table).get_add_actions()).column("num_records").to_pylist()))


def _written(batches: Iterator[Any], target: str) -> int:
    import pyarrow as pa
    from deltalake import write_deltalake

    write_deltalake(target, pa.RecordBatchReader.from_batches(_schema(), batches))
    return _rows(target)


def confluent_arrow(servers: str, topic: str, target: str) -> int:
    """With confluent-kafka, as Arrow, streamed into delta-rs."""
    return _written(_batches(servers, topic), target)


def kafkapython_arrow(servers: str, topic: str, target: str) -> int:
    """The same with kafka-python."""
    return _written(_polled(servers, topic), target)


def _polled(servers: str, topic: str) -> Iterator[Any]:
    import pyarrow as pa
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=servers, max_poll_records=BATCH_ROWS, enable_auto_commit=False)
    parts = [TopicPartition(topic, part) for part in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(parts)
    consumer.seek_to_beginning()
    left = sum(consumer.end_offsets(parts).values())
    while left:
        for records in consumer.poll(timeout_ms=1_000).values():
            left -= len(records)
            columns = [
                [r.key for r in records],
                [r.value for r in records],
                [r.topic for r in records],
                [r.partition for r in records],
                [r.offset for r in records],
                [r.timestamp * 1000 for r in records],
            ]
            arrays = [pa.array(values, kind) for values, kind in zip(columns, _schema().types, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=_schema())
    consumer.close()


def dlt_arrow(servers: str, topic: str, target: str) -> int:
    """With a dlt resource that yields the Arrow batches, into a Delta table on disk."""
    import dlt
    import pyarrow as pa

    def messages() -> Iterator[Any]:
        for batch in _batches(servers, topic):
            yield pa.Table.from_batches([batch])

    pipeline = dlt.pipeline(
        "bench",
        pipelines_dir=f"{target}/state",
        destination=dlt.destinations.filesystem(f"{target}/lake"),
        dataset_name="d",
    )
    resource = dlt.resource(messages, name="messages")
    pipeline.run(resource, table_format="delta", write_disposition="append").raise_on_failed_jobs()
    return _rows(f"{target}/lake/d/messages")


# JSON -> silver


def _flat(name: str) -> str:
    """A name that Delta takes."""
    return name.replace(" ", "_")


def polars_json(bronze: str, target: str) -> list[int]:
    """polars, a JSONPath for each field, NULL where it is no JSON; bytes that are no UTF-8 would end it; two tables."""
    import polars as pl
    from deltalake import write_deltalake

    text = pl.col("value").cast(pl.String)
    field = {name: text.str.json_path_match(f"$['{name}']") for name in ("Index", "Date", *PRICES, "Volume")}
    raw = pl.scan_delta(bronze).with_columns(**{f"raw {name}": found for name, found in field.items()})
    typed = raw.with_columns(
        pl.col("raw Index").alias("Index"),
        pl.col("raw Date").str.to_date("%Y-%m-%d", strict=False).alias("Date"),
        *[pl.col(f"raw {name}").cast(pl.Decimal(18, 6), strict=False).alias(_flat(name)) for name in PRICES],
        pl.col("raw Volume").cast(pl.Int64, strict=False).alias("Volume"),
    )
    misfit = [pl.col(f"raw {name}").is_not_null() & pl.col(_flat(name)).is_null() for name in field]
    missing = [pl.col(name).is_null() for name in ("Index", "Date", "Close")]
    whole = typed.with_columns(_broken=pl.any_horizontal(*misfit, *missing)).drop([f"raw {name}" for name in field])
    found = whole.collect(engine="streaming")
    broken = found.filter("_broken").drop("_broken")
    fits = found.filter(~pl.col("_broken")).drop("_broken", "key", "value", "headers")
    write_deltalake(f"{target}/quarantine", broken)
    write_deltalake(f"{target}/silver", fits)
    return [len(fits), len(broken)]


_LIBRARIES = {
    "confluent": ("confluent_kafka", "pyarrow"),
    "kafkapython": ("kafka", "pyarrow"),
    "dlt": ("dlt", "confluent_kafka", "pyarrow"),
    "polars": ("polars",),
    "arrow": ("pandas", "deltalake"),
    "json": ("deltalake",),
}
"""Part of a function's name -> what it imports; pandas, because pyarrow would import it at the first list."""


def _run(name: str, *words: str) -> None:
    for part, libraries in _LIBRARIES.items():
        if part in name:
            for library in libraries:
                importlib.import_module(library)
    began = time.perf_counter()
    answer = globals()[name](*words)
    sys.stdout.write(json.dumps({"inside": time.perf_counter() - began, "answer": answer}) + "\n")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    _run(*sys.argv[1:])
