"""The stocks pipeline while everything is killed: producer, broker and consumer, at random, by SIGKILL.

`LAKEHOUSE_CHAOS_SECONDS=300` makes it five minutes; what went wrong with which seed is in the failure.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lakehouse_assets_tests.catalog.stocks_lab import FIELDS, Model, Pipeline, columns, message

if TYPE_CHECKING:
    from lakehouse_assets_tests.kafka_broker import Broker

SECONDS = float(os.environ.get("LAKEHOUSE_CHAOS_SECONDS", "45"))
ROWS_A_SECOND = 400
INDICES = [f"IDX{number:02}" for number in range(20)]
LIMIT = 240
"""Seconds after the last kill within which everything has to be in its place."""


class Victim:
    """A process that is started again whenever it ends."""

    def __init__(self, name: str, command: list[str], environ: dict[str, str], log: Path) -> None:
        self.name, self.kills, self.runs = name, 0, 0
        self._command, self._environ, self._log = command, environ, log
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self) -> None:
        """Start it, unless it runs."""
        if self._process is None or self._process.poll() is not None:
            self.runs += 1
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(self._command, env=self._environ, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it at once, wherever it is."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self.kills += 1

    def finish(self) -> None:
        """Run it to its end, again and again until it succeeds."""
        until = time.monotonic() + LIMIT
        self.kill()
        while True:
            done = subprocess.run(self._command, env=self._environ, capture_output=True, timeout=LIMIT, check=False)
            if done.returncode == 0:
                return
            assert time.monotonic() < until, f"{self.name} does not succeed: {done.stderr.decode()[-3000:]}"


def prices(chance: random.Random, count: int) -> Iterator[list[str]]:
    """Rows of a CSV file: days out of order, repeated, with equal and with contradicting closes."""
    for _ in range(count):
        day = f"2024-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
        close = f"{chance.choice([100, 101, 102.5]):.6f}" if chance.random() < 0.4 else f"{chance.uniform(1, 999):.6f}"
        yield [chance.choice(INDICES), day, "", "", "", close, close, str(chance.randint(0, 9))]


def held(broker: Broker, topic: str) -> dict[tuple[int, int], bytes | None]:
    """Every message of the topic, read by a client of its own."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "check", "enable.partition.eof": True})
    try:
        parts = list(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, part, 0) for part in parts])
        found, open_parts = {}, set(parts)
        while open_parts:
            for one in consumer.consume(1000, 1.0):
                error = one.error()
                if error is None:
                    found[one.partition(), one.offset()] = one.value()
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_parts.discard(one.partition())
        return found
    finally:
        consumer.close()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 3 * LIMIT)
def test_nothing_is_lost_or_doubled_whatever_is_killed(tmp_path: Path, kafka_brokers: Callable[..., Broker]) -> None:
    """Q12: bronze holds each (partition, offset) once, each row of the CSV is there once, and history is the model's."""
    seed = int.from_bytes(os.urandom(4))
    chance, broker, topic = random.Random(seed), kafka_brokers(), "Chaos"
    broker.start()
    rows = list(prices(chance, int(SECONDS * ROWS_A_SECOND)))
    with (tmp_path / "prices.csv").open("w", newline="") as file:
        csv.writer(file).writerows([FIELDS, *rows])
    lakehouse = [sys.executable, "-m", "lakehouse_assets.cli.main"]
    environ = {**os.environ, "LAKEHOUSE_KAFKA": broker.bootstrap, "LAKEHOUSE_KAFKA_TOPIC": topic}
    send = [*lakehouse, "simulate", "kafka", "--bootstrap-servers", broker.bootstrap, "--topic", topic,
            "--csv", str(tmp_path / "prices.csv")]  # fmt: skip
    producer = Victim("producer", [*send, "--rate", str(ROWS_A_SECOND)], environ, tmp_path / "producer.log")
    root = str(tmp_path / "lake")
    consumer = Victim("consumer", [*lakehouse, "run", "group:stocks", "--root", root], environ, tmp_path / "run.log")
    broker_kills = 0
    until = time.monotonic() + SECONDS
    try:
        while time.monotonic() < until:
            pause = time.monotonic() + chance.uniform(0.2, 4)
            while time.monotonic() < pause:
                producer.watch()
                consumer.watch()
                time.sleep(0.05)
            victim = chance.choice([producer, consumer, consumer, broker])
            victim.kill()
            if victim is broker:
                broker_kills += 1
                time.sleep(chance.uniform(0, 1))
                broker.start()
        producer.kill()
        Victim("producer", send, environ, tmp_path / "producer.log").finish()
        consumer.finish()
    finally:
        with suppress(ProcessLookupError):
            producer.kill()
            consumer.kill()
    told = f"seed {seed}; killed: producer {producer.kills}, consumer {consumer.kills}, broker {broker_kills}"
    print(f"{told}; {len(rows)} rows in {producer.runs} runs of the producer and {consumer.runs} of the consumer")
    assert min(producer.kills, consumer.kills) > 0 or SECONDS < 30, told
    topic_holds, lake = held(broker, topic), Pipeline(tmp_path)
    bronze = lake.table("bronze.stocks")
    assert Counter((row["partition"], row["offset"]) for row in bronze) == Counter(topic_holds.keys()), told
    assert {(row["partition"], row["offset"]): row["value"] for row in bronze} == topic_holds, told
    sent = Counter(message(index, day, close, Volume=volume) for index, day, *_, close, _, volume in rows)
    assert Counter(map(_sorted, topic_holds.values())) == Counter(map(_sorted, sent.elements())), told
    model = Model(tuple(topic_holds.values()))
    assert lake.history() == model.history(), told
    names = ("Index", "Date", "Close", "Adj_Close", "Latest_Close", "Latest_Adj_Close", "Close_Diff")
    assert columns(lake.table("gold.updated_stocks"), *names) == model.beside(), told


def _sorted(value: bytes | None) -> str:
    """A message, whatever the order of its fields."""
    return json.dumps(json.loads(value or b"null"), sort_keys=True)
