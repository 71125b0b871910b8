"""A producer of daily prices: each row of a CSV file is in the topic once, whatever happened before.

The topic is the only memory. A run reads what it holds (`kafka_held.py`), then sends the rows that are missing, so
a run after a finished one adds nothing, and a run after a killed one goes on where that one got to. The producer is
idempotent and waits for all replicas: a repeated request adds no message. Rows are keyed by Index and dealt out as
Java's clients do, so all rows of an Index are in one partition, in their order.

What belongs here: topics and sending. What does not: what is sent (`kafka_prices.py`), how a broker is reached
(`kafka_client.py`), a broker (`kafka_mock.py`).
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lakehouse_assets.simulators.kafka_client import SILENCE, Client, errors_mapped, greet
from lakehouse_assets.simulators.kafka_held import FAULT, HEADER, LIVE, Held, held
from lakehouse_assets.simulators.kafka_prices import PACKAGED, Message, Selection, faults, read_rows, walk

TOPIC, PARTITIONS = "Stocks", 4
IN_FLIGHT = 10_000
"""Messages that are sent and not confirmed: what bounds the memory of a producer."""
KEPT = {"retention.ms": "-1"}
STALLED = 60.0
"""Seconds without a confirmation after which a broker is given up."""


@dataclass(frozen=True)
class Production:
    """What is to be in a topic.

    Attributes:
        csv: the file; `None`: the packaged one.
        selection: which of its rows.
        partitions: of the topic, where it is made; it keeps its messages for ever.
        rate: rows a second; `None`: as fast as it goes.
        append: send every row, whatever the topic holds.
        faults: so many malformed messages after the rows; those that are there already count.
        live: made-up days after the last row, until stopped; so many rows a second.
        seed: what those are drawn from.
    """

    topic: str = TOPIC
    csv: Path | None = None
    selection: Selection = field(default_factory=Selection)
    partitions: int = PARTITIONS
    rate: float | None = None
    append: bool = False
    faults: int = 0
    live: float | None = None
    seed: int = 7

    @property
    def name(self) -> str:
        """Of the file, for messages."""
        return str(self.csv or PACKAGED)


@dataclass
class Summary:
    """What a run found in the topic and what it sent: rows, malformed messages, made-up days."""

    topic: str
    held: int = 0
    rows: int = 0
    faults: int = 0
    live: int = 0

    def __str__(self) -> str:
        parts = [f"{self.held:,} rows were there", f"{self.rows:,} sent"]
        parts += [f"{self.faults:,} malformed messages"] if self.faults else []
        parts += [f"{self.live:,} made-up days"] if self.live else []
        return f"{self.topic}: {', '.join(parts)}"


def produce(
    production: Production,
    client: Client,
    *,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] = lambda _: None,
    ready: Callable[[Summary], None] = lambda _: None,
) -> Summary:
    """Bring the rows of a file into a topic: those that it lacks.

    Args:
        client: how the broker is reached (`kafka_client.client_of`).
        stop: ends it in order, after what was sent is confirmed.
        progress: told how many messages were sent.
        ready: told once the rows are in the topic, before the made-up days.

    Raises:
        SourceMissing, SourceUnreadable: of the file, or of the broker (user, password, certificate).
        SourceUnreachable: no broker answers; run it again, and it goes on.
        SourceError: the topic holds something else (see `kafka_held.held`).
    """
    next(read_rows(production.csv), None)  # before anything is made: a wrong file changes nothing
    summary, stop = Summary(production.topic), stop or threading.Event()
    greet(client)
    with errors_mapped(client):
        there = _prepare(production, client)
        summary.held = there.rows
        with _Sender(production.topic, client, stop, progress) as sender:
            last = _send_rows(production, there, sender, summary)
            missing = itertools.islice(faults(production.faults, production.csv), there.faults, None)
            summary.faults = sender.send(missing, None, FAULT)
            sender.confirm()
            ready(summary)
            if production.live:
                newest = last | {key.decode(): json.loads(value) for key, value in there.live.items() if key}
                summary.live = sender.send(walk(newest.values(), production.seed), production.live, LIVE)
    return summary


def _send_rows(production: Production, there: Held, sender: _Sender, summary: Summary) -> dict[str, Mapping[str, str]]:
    """Send the rows that are not there; the last row of each Index, sent or not."""
    last: dict[str, Mapping[str, str]] = {}

    def missing() -> Iterator[Message]:
        for row, meant in production.selection.mark(read_rows(production.csv)):
            if meant:
                last[row.fields["Index"]] = row.fields
                found = row.message
                if row.number > there.last.get(found.key, 0):
                    yield found

    summary.rows = sender.send(missing(), production.rate)
    return last


def _prepare(production: Production, client: Client) -> Held:
    """Make the topic if it is not there, and see what it holds."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({**client.librdkafka, "log_level": 0})
    if production.topic not in admin.list_topics(timeout=SILENCE).topics:
        _make_topic(production, client)
        return Held()
    rows = production.selection.mark(read_rows(production.csv))
    if production.append:
        return Held()
    return held(client, production.topic, production.name, rows, alone=bool(production.live))


def _make_topic(production: Production, client: Client) -> None:
    """A topic that keeps its messages: it is the memory of what was sent."""
    from kafka import KafkaAdminClient
    from kafka.errors import TopicAlreadyExistsError, UnknownBrokerIdError

    replicas = 1 if "api_version" in client.kafka_python else -1  # an old broker has no default of its own
    described = {"num_partitions": production.partitions, "replication_factor": replicas, "configs": KEPT}
    with closing(KafkaAdminClient(**client.kafka_python)) as admin:
        try:
            admin.create_topics({production.topic: described}, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            return
        except UnknownBrokerIdError:  # a mock cluster has no controller, and makes a topic when it is asked for
            return


class _Sender:
    """Sends messages in their order, never too many at once, and knows which are confirmed."""

    def __init__(self, topic: str, client: Client, stop: threading.Event, progress: Callable[[int], None]) -> None:
        from kafka import KafkaProducer

        self._topic, self._stop, self._progress = topic, stop, progress
        self._sent = 0
        self._pending: deque[Any] = deque()
        hour = 3_600_000  # nothing is given up in the middle: what follows would be sent without it
        how = {"acks": "all", "enable_idempotence": True, "delivery_timeout_ms": hour, "linger_ms": 5}
        how |= {"reconnect_backoff_max_ms": 500}
        blocks = round(STALLED * 1000)
        self._producer = KafkaProducer(**client.kafka_python, **how, batch_size=65_536, max_block_ms=blocks)

    def __enter__(self) -> _Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed = kind is not None
        try:
            if not failed:
                self.confirm()
        except BaseException:
            failed = True
            raise
        finally:
            if failed:  # close() would wait for what nobody confirms
                self._producer.flush = _no_flush
            self._producer.close(timeout=0 if failed else STALLED)

    def send(self, messages: Iterator[Message], rate: float | None, marked: bytes | None = None) -> int:
        """Send all, until stopped; how many."""
        headers = [(HEADER, marked)] if marked else None
        begun, count = time.monotonic(), 0
        for key, value in messages:
            if self._stop.is_set() or (rate and self._stop.wait(max(0.0, begun + count / rate - time.monotonic()))):
                break
            partition = 0 if key is None else None  # in order, too
            self._pending.append(self._producer.send(self._topic, value, key, headers, partition))
            count += 1
            self._sent += 1
            if len(self._pending) >= IN_FLIGHT:
                self.confirm(IN_FLIGHT // 2)
            if rate or not self._sent % 1000:
                self._progress(self._sent)
        self._progress(self._sent)
        return count

    def confirm(self, but: int = 0) -> None:
        """Wait until all messages are in the topic, but for the last so many."""
        while len(self._pending) > but:
            self._pending[0].get(timeout=STALLED)
            self._pending.popleft()


def _no_flush(timeout: float | None = None) -> None:
    """What is not confirmed is given up."""
