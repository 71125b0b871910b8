"""What a Kafka topic is now: its id, its partitions, the offsets that they hold. Asked through kafka-python.

What belongs here: look-ups, and kafka-python's failures as errors of this project.
What does not: messages (`kafka_reader.py`), what a position is (`kafka.py`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse_assets.errors import LakehouseError, SourceMissing, SourceUnreachable, SourceUnreadable
from lakehouse_assets.sources.kafka_options import KafkaOptions

if TYPE_CHECKING:
    from kafka import KafkaAdminClient

Offsets = dict[int, int]
"""Partition -> offset."""
NO_TOPIC_ID = "no-topic-id"
"""What stands before a topic's name in its identity where the broker gives topics no id (Kafka before 2.8)."""
_PATIENCE_MS = 10_000
"""How long to look for a broker."""
_NO_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Look:
    """A topic as it stands.

    Attributes:
        id: the topic's own, which a topic of the same name that is made later does not have; `no-topic-id:<name>`
            where the broker gives none.
        first: the offset of each partition's first message that is still there.
        end: the offset after each partition's last message; of committed ones where only those are read.
    """

    id: str
    first: Offsets
    end: Offsets


class Topic:
    """One topic, looked at through one connection, which is made when it is needed."""

    def __init__(self, options: KafkaOptions, destination: str) -> None:
        self._options = options
        self._destination = destination
        self._admin: KafkaAdminClient | None = None
        self._greeted = False

    def look(self) -> Look:
        """The topic as it is now.

        Raises:
            SourceMissing: there is no such topic.
            SourceUnreachable: no broker answers.
            SourceUnreadable: the broker refuses this client.
        """
        with self._told():
            identity, partitions = self._described()
            return Look(identity, self._offsets(partitions, -2), self._offsets(partitions, -1))

    def heights(self) -> tuple[str, Offsets]:
        """The topic's id, and the offset after each partition's last message, committed or not."""
        with self._told():
            identity, partitions = self._described()
            return identity, self._offsets(partitions, -1, committed=False)

    def identity(self) -> str:
        """The id of the topic of that name."""
        with self._told():
            return self._described()[0]

    def at(self, moments: Mapping[int, int]) -> Offsets:
        """The first offset of each partition whose message is not older than a time.

        Args:
            moments: partition -> milliseconds since 1970. A partition without such a message is not in the answer.
        """
        with self._told():
            found = self._asked(moments)
            return {partition: offset for partition, offset in found.items() if offset >= 0}

    def close(self) -> None:
        """Let go of the connection; the next look makes another."""
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()

    def _described(self) -> tuple[str, list[int]]:
        from kafka.errors import for_code

        name = self._options.topic
        (found,) = self._client().describe_topics([name])
        if found["error_code"]:
            raise for_code(found["error_code"])(name)
        identity = str(found.get("topic_id") or _NO_ID)
        partitions = sorted(part["partition_index"] for part in found["partitions"])
        return (f"{NO_TOPIC_ID}:{name}" if identity == _NO_ID else identity), partitions

    def _offsets(self, partitions: list[int], which: int, *, committed: bool = True) -> Offsets:
        found = self._asked(dict.fromkeys(partitions, which), committed=committed)
        return {partition: found[partition] for partition in partitions}

    def _asked(self, moments: Mapping[int, int], *, committed: bool = True) -> Offsets:
        from kafka import IsolationLevel, TopicPartition

        committed = committed and self._options.committed
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        asked = {TopicPartition(self._options.topic, part): moment for part, moment in moments.items()}
        found = self._client().list_partition_offsets(asked, level) if asked else {}
        return {place.partition: value.offset for place, value in found.items()}

    def _client(self) -> KafkaAdminClient:
        from kafka import KafkaAdminClient

        if self._admin is None:
            _be_quiet()
            settings = self._options.of_kafka_python(os.environ)
            patience = min(_PATIENCE_MS, round(self._options.timeout * 1000))
            name = f"{self._destination}: the topic {self._options.topic!r} of {self._options.servers}"
            if not self._greeted:
                _greet(name, self._options, patience / 1000)
                self._greeted = True
            times = {"bootstrap_timeout_ms": patience, "request_timeout_ms": 3 * _PATIENCE_MS}
            self._admin = KafkaAdminClient(client_id="lakehouse", **settings, **times)
        return self._admin

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Failures of kafka-python as ours."""
        try:
            yield
        except LakehouseError:
            raise
        except Exception as error:
            self.close()
            told = error_of(error, self._options, self._destination, self._others)
            if told is None:
                raise
            raise told from error

    def _others(self) -> list[str]:
        """The topics that there are, for an error that tells of one that is not."""
        try:
            return sorted(name for name in self._client().list_topics() if not name.startswith("__"))
        except Exception:  # the error that is being told is the one that counts
            return []
        finally:
            self.close()


def error_of(
    error: Exception, options: KafkaOptions, destination: str, others: Callable[[], list[str]] = list
) -> LakehouseError | None:
    """What an error of kafka-python means; `None` where it is none of Kafka's."""
    from kafka import errors

    name = f"{destination}: the topic {options.topic!r} of {options.servers}"
    if isinstance(error, errors.UnknownTopicOrPartitionError | errors.InvalidTopicError):
        return SourceMissing(
            f"{name} does not exist",
            value=options.topic,
            choices=others(),
            fix="create it, or correct source or subscribe",
        )
    refused = (
        errors.SaslAuthenticationFailedError, errors.UnsupportedSaslMechanismError,
        errors.IllegalSaslStateError, errors.TopicAuthorizationFailedError, errors.ClusterAuthorizationFailedError,
        errors.GroupAuthorizationFailedError,
    )  # fmt: skip
    if isinstance(error, refused):
        return refusal(name, options, _said(error))
    if isinstance(error, errors.KafkaConfigurationError | errors.IncompatibleBrokerVersion):
        fix = "check the read options kafka.*; an old broker or a stand-in may need kafka.api.version"
        return SourceUnreadable(f"{name} cannot be read: {error}", fix=fix)
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return SourceUnreadable(f"{name} cannot be read: {error}", fix="check the files that kafka.ssl.* name")
    if isinstance(error, errors.KafkaError | ConnectionError | TimeoutError):
        return unreachable(name, options, _said(error))
    return None


def _said(error: Exception) -> str:
    """The kind of an error and its words; kafka-python's own errors say their kind themselves."""
    kind, words = type(error).__name__, str(error)
    return words if words.startswith(kind) else f"{kind}: {words}"


def _greet(name: str, options: KafkaOptions, seconds: float) -> None:
    """Wait until a broker lets this client in; librdkafka is asked, for kafka-python does not say why one does not."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    told: list[KafkaError] = []
    try:
        settings: dict[str, Any] = {**options.of_librdkafka(os.environ), "log_level": 0, "error_cb": told.append}
        client = AdminClient(settings)
    except KafkaException as error:
        raise misset(name, error.args[0].str()) from None
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            client.list_topics(timeout=0.5)
            return
        except KafkaException as error:
            last = error.args[0].str()
        client.poll(0)  # has the callback called
        for found in told:
            if found.code() == KafkaError._AUTHENTICATION:
                raise refusal(name, options, found.str())
            if found.code() == KafkaError._SSL:
                raise untrusted(name, options, found.str())
    causes = [found.str() for found in told if found.code() != KafkaError._ALL_BROKERS_DOWN]
    cause = (causes or [last])[0]
    raise (untrusted if "SSL " in cause else unreachable)(name, options, cause)


def misset(name: str, said: str) -> SourceUnreadable:
    """Settings of which no client can be made."""
    fix = "check the read options kafka.*, and the files that kafka.ssl.* name"
    return SourceUnreadable(f"{name} cannot be read: {said}", fix=fix)


def untrusted(name: str, options: KafkaOptions, said: str) -> SourceUnreadable:
    """A broker and a client that do not agree on TLS."""
    return SourceUnreadable(
        f"{name} cannot be read: {options.protocol} fails: {said}",
        fix="check kafka.ssl.truststore.location (the authority that signed the broker's certificate, PEM), the host "
        "name in kafka.bootstrap.servers, kafka.ssl.keystore.location if the broker asks for a certificate, and that "
        "the port speaks TLS (kafka.security.protocol)",
    )


def refusal(name: str, options: KafkaOptions, said: str) -> SourceUnreadable:
    """A broker that does not let this client in."""
    how = f" with {options.mechanism}" if options.protocol.startswith("SASL") else ""
    return SourceUnreadable(
        f"{name} refused this client ({options.protocol}{how}): {said}",
        fix="check user, password, kafka.sasl.mechanism and kafka.security.protocol, and the rights of the user on "
        "the topic (describe, read)",
    )


def unreachable(name: str, options: KafkaOptions, said: str) -> SourceUnreachable:
    """A broker that does not answer."""
    return SourceUnreachable(
        f"{name} cannot be reached: no broker answers over {options.protocol} ({said})",
        fix="check that the broker runs, kafka.bootstrap.servers, kafka.security.protocol and the certificates; a "
        "stand-in or a broker before 2.0 needs kafka.api.version: 2.0",
    )


def _be_quiet() -> None:
    """kafka-python logs every failed connection as an error; what fails here is raised."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
