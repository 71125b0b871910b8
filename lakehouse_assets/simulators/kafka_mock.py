"""A stand-in for a Kafka cluster, in this process: the mock cluster of librdkafka.

It is there without Java and in no time, and it forgets everything when it ends. It keeps about the last 5 MB of each
partition, makes a topic (4 partitions) when it is asked for, and has no security, no topic ids, no transactions of
its own and no administration. What is proven with it is proven again with a real broker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lakehouse_assets.errors import SourceUnreachable
from lakehouse_assets.simulators.kafka_client import Client, client_of

VERSION = "2.0"
"""As which broker clients have to take it (`kafka.api.version`): it cannot be asked as newer ones are."""
PARTITIONS = 4


@contextmanager
def mock_client(environ: Mapping[str, str], topic: str) -> Iterator[Client]:
    """How a cluster that lives as long as the block is reached."""
    with mock_cluster() as address:
        yield client_of({"kafka.bootstrap.servers": address, "kafka.api.version": VERSION}, environ, topic)


@contextmanager
def mock_cluster() -> Iterator[str]:
    """The address (host:port) of a cluster of one broker that lives as long as the block."""
    from confluent_kafka import Producer

    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = producer.list_topics(timeout=10).brokers.values()
    if not brokers:
        raise SourceUnreachable("the mock cluster did not start", fix="run this again")
    try:
        yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    finally:
        producer.flush(0)  # the cluster is the producer's, and ends with it
        del producer
