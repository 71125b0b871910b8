"""The broker that tests run against: it dies and comes back with its data, and all its doors are open."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from lakehouse_assets_tests.kafka_broker import Broker


def put(address: str, topic: str, many: int) -> None:
    """Send so many messages and wait until the broker has them."""
    producer = Producer({"bootstrap.servers": address})
    for number in range(many):
        producer.produce(topic, f"{number}".encode(), partition=0)
    assert not producer.flush(20)


def end(address: str, topic: str) -> int:
    """How many messages a topic holds."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "nobody"})
    _, found = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)
    consumer.close()
    return found


def make(address: str, topic: str, **config: Any) -> None:
    """Make a topic."""
    admin = AdminClient({"bootstrap.servers": address})  # what it promises ends with it
    for done in admin.create_topics([NewTopic(topic, 1, config=config)]).values():
        done.result(20)


def test_killed_and_started_again(kafka_brokers: Callable[..., Broker]) -> None:
    """SIGKILL, then the same data on the same port; nothing is left when it is closed."""
    broker = kafka_brokers()
    make(broker.plain, "t")
    put(broker.plain, "t", 100)
    first, address = broker.pid, broker.bootstrap
    broker.kill()
    assert not broker.running
    assert not os.path.exists(f"/proc/{first}")
    broker.start()
    assert broker.bootstrap == address
    assert end(address, "t") == 100
    broker.stop()
    broker.start()
    assert end(address, "t") == 100
    assert broker.log.count("Kafka Server started") == 3
    last = broker.pid
    broker.close()
    assert not broker.directory.exists()
    assert not os.path.exists(f"/proc/{last}")


def test_configured(kafka_brokers: Callable[..., Broker]) -> None:
    """Properties with dots or underscores reach the broker: a message above the limit is refused."""
    from confluent_kafka import KafkaError

    broker = kafka_brokers(message_max_bytes=2000, **{"log.retention.check.interval.ms": 300})
    make(broker.plain, "t")
    refused: list[Any] = []
    producer = Producer({"bootstrap.servers": broker.plain})
    producer.produce("t", os.urandom(3000), on_delivery=lambda error, _: refused.append(error.code()))
    producer.flush(10)
    assert refused == [KafkaError.MSG_SIZE_TOO_LARGE]
