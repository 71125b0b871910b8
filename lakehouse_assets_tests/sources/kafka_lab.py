"""Topics to test with: made, filled, emptied, deleted on a real broker, and entities that read them.

What belongs here: what several test modules need. What does not: the broker (`kafka_broker.py`), expectations.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.sources.base import Past, Position
from lakehouse_assets.sources.kafka import KafkaSource

PATIENCE_MS = "4000"
_numbers = itertools.count()


def wait_for(met: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.05)


class Shop:
    """Topics of one broker, each with a name of its own."""

    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        self.producer = self._producer()

    def _producer(self) -> Producer:
        more = {"message.max.bytes": 20_000_000, "linger.ms": 0, "max.in.flight": 1, "log_level": 0}
        return Producer({"bootstrap.servers": self.servers, **more})

    def topic(self, partitions: int = 1, name: str | None = None, **config: Any) -> str:
        """The name of a new topic, which is there when this returns."""
        name = name or f"topic-{next(_numbers)}"
        given = {key.replace("_", "."): str(value) for key, value in config.items()}
        for future in self.admin.create_topics([NewTopic(name, partitions, 1, config=given)]).values():
            future.result(20)
        wait_for(lambda: self._ready(name, partitions), f"{name} is there")
        return name

    def _ready(self, name: str, partitions: int) -> bool:
        found = self.admin.list_topics(name, timeout=10).topics[name]
        return found.error is None and sum(part.leader >= 0 for part in found.partitions.values()) == partitions

    def delete(self, name: str) -> None:
        """Delete a topic; it is gone when this returns."""
        for future in self.admin.delete_topics([name]).values():
            future.result(20)
        wait_for(lambda: name not in self.admin.list_topics(timeout=10).topics, f"{name} is gone")

    def again(self, name: str, partitions: int = 1, count: int = 0) -> None:
        """Put another topic of that name, with so many messages, in the place of one."""
        self.delete(name)
        self.topic(partitions, name)
        self.send(name, [str(n) for n in range(count)])

    def widen(self, name: str, partitions: int) -> None:
        """Add partitions."""
        for future in self.admin.create_partitions([NewPartitions(name, partitions)]).values():
            future.result(20)
        wait_for(lambda: self._ready(name, partitions), f"{name} has {partitions} partitions")
        self.producer = self._producer()  # the old one learns of them later

    def send(self, name: str, values: Iterable[Any], partition: int = 0, **how: Any) -> None:
        """Produce values (texts, bytes or None) to a partition; `how` goes to each."""
        failed: list[Any] = []

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(error)

        for value in values:
            while True:
                try:
                    self.producer.produce(name, value, partition=partition, on_delivery=delivered, **how)
                    break
                except BufferError:
                    self.producer.poll(0.1)
        assert self.producer.flush(60) == 0
        assert not failed, failed[:3]

    def configure(self, name: str, **config: Any) -> None:
        """Change the configuration of a topic."""
        kinds = [
            ConfigEntry(key.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
            for key, value in config.items()
        ]
        asked = ConfigResource(ResourceType.TOPIC, name, incremental_configs=kinds)
        for future in self.admin.incremental_alter_configs([asked]).values():
            future.result(20)

    def sender(self, transaction: str) -> Producer:
        """A producer whose transactions can be begun."""
        producer = Producer({"bootstrap.servers": self.servers, "transactional.id": transaction, "log_level": 0})
        producer.init_transactions(20)
        return producer

    def remove_before(self, name: str, offsets: Mapping[int, int]) -> None:
        """Remove what stands before an offset, as retention does."""
        asked = [TopicPartition(name, part, offset) for part, offset in offsets.items()]
        for future in self.admin.delete_records(asked).values():
            future.result(20)

    def ends(self, name: str, partition: int = 0) -> tuple[int, int]:
        """The first offset of a partition, and the one after its last."""
        place = TopicPartition(name, partition)
        return tuple(
            next(iter(self.admin.list_offsets({place: spec}).values())).result(20).offset
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
        )

    def entity(self, name: str, lakehouse: Mapping[str, Any] | None = None, **options: Any) -> Entity:
        """An entity that reads a topic; `_` in the names of options stands for itself, so give dotted ones by `**`."""
        return Entity(
            entity_id="k",
            source=name,
            source_format="kafka",
            destination="bronze.k",
            read_options=self.options(**options),
            lakehouse=dict(lakehouse or {}),
        )

    def options(self, **options: Any) -> dict[str, str]:
        """Read options for this broker."""
        own = {"kafka.bootstrap.servers": self.servers, "kafkaConsumer.pollTimeoutMs": PATIENCE_MS}
        return own | {key: str(value) for key, value in options.items()}

    def open(self, name: str, lakehouse: Mapping[str, Any] | None = None, **options: Any) -> KafkaSource:
        """A source on a topic."""
        return KafkaSource(self.entity(name, lakehouse, **options))


class _Odd(str):
    """A text that is encoded as no UTF-8."""

    def encode(self, *how: Any) -> bytes:
        """Two bytes that no text begins with."""
        return b"\xff\xfe"


def odd_headers(shop: Shop, name: str, value: bytes | None) -> None:
    """Send a message with the key `k1` and a header whose name is not UTF-8, which librdkafka does not send."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=shop.servers)
    try:
        producer.send(name, key=b"k1", value=value, headers=[(_Odd("h"), b"1")]).get(20)
    finally:
        producer.close()


def rows(source: KafkaSource, start: Position, end: Position) -> pa.Table:
    """All rows of a range."""
    found = [batch.rows for batch in source.read(start, end)]
    schema = pa.schema([*source.schema(), pa.field("_position", pa.string()), pa.field("_source", pa.string())])
    return pa.Table.from_batches(found, schema)


def whole(source: KafkaSource) -> pa.Table:
    """All rows from the start to the end."""
    return rows(source, source.earliest(), source.latest(Past()))


def values(table: pa.Table) -> list[str | None]:
    """The values as texts, by partition and offset."""
    ordered = table.sort_by([("partition", "ascending"), ("offset", "ascending")])
    return [None if value is None else value.decode() for value in ordered.column("value").to_pylist()]


def places(table: pa.Table) -> Sequence[tuple[int, int]]:
    """Partition and offset of each row, as they come."""
    return list(zip(table.column("partition").to_pylist(), table.column("offset").to_pylist(), strict=True))
