"""How the producer reaches a broker: settings from options, a first contact, errors.

What belongs here: what is wrong between this machine and a broker, said in our words. What does not: topics
(`kafka.py`), what the options mean (`sources/kafka_options.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from lakehouse_assets.errors import LakehouseError, SecretError, SourceError, SourceUnreachable, SourceUnreadable
from lakehouse_assets.secrets import is_reference, is_sensitive

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import Entity

SILENCE = 8.0
"""Seconds without an answer after which a broker is given up."""


@dataclass(frozen=True)
class Client:
    """The settings of both clients; secrets are in them, so nothing shows them."""

    servers: str
    kafka_python: Mapping[str, Any]
    librdkafka: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Client({self.servers!r})"


def client_of(options: Mapping[str, str], environ: Mapping[str, str], topic: str) -> Client:
    """The settings of clients, from options with Spark's names.

    Args:
        options: `kafka.bootstrap.servers`, `kafka.security.protocol`, …; secrets by reference.
        environ: where the values of the references stand.
        topic: the topic that is written.

    Raises:
        SettingsError: an option is unknown, missing or wrong.
        SecretError: a secret stands in clear, or its reference has no value.
    """
    from lakehouse_assets.sources.kafka_options import options_of

    for name, value in options.items():
        if is_sensitive(name) and not is_reference(value):
            fix = f"export a variable, and say '{name}=${{secret:THE_VARIABLE}}'"
            raise SecretError(f"option {name} has to refer to a secret", fix=fix)
    feed = SimpleNamespace(read_options=dict(options), source=topic, destination=f"topic {topic}")
    found = options_of(cast("Entity", feed))
    limits = {"bootstrap_timeout_ms": round(SILENCE * 1000)}
    return Client(found.servers, found.of_kafka_python(environ) | limits, found.of_librdkafka(environ))


def greet(client: Client) -> None:
    """Wait until a broker answers; librdkafka is asked, for it says why one does not.

    Raises:
        SourceUnreadable: it refuses the user, the password or the certificate.
        SourceUnreachable: none answers.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    told: list[Any] = []
    settings: dict[str, Any] = {**client.librdkafka, "log_level": 0, "error_cb": told.append}
    asked = AdminClient(settings)
    deadline = time.monotonic() + SILENCE
    while True:
        try:
            asked.list_topics(timeout=0.5)
            return
        except KafkaException as error:
            last = error.args[0]
        asked.poll(0)  # has the callbacks called
        for code, refusal in ((KafkaError._AUTHENTICATION, _refused), (KafkaError._SSL, _untrusted)):
            if found := next((each for each in told if each.code() == code), None):
                raise refusal(client.servers, found.str())
        if time.monotonic() > deadline:
            causes = [each for each in told if each.code() != KafkaError._ALL_BROKERS_DOWN]
            raise _unreachable(client.servers, (causes or [last])[0].str())


def _refused(servers: str, why: str) -> LakehouseError:
    fix = "correct kafka.sasl.username, kafka.sasl.password (the variable it refers to) or kafka.sasl.mechanism"
    return SourceUnreadable(f"the broker at {servers} refuses user and password: {why}", fix=fix)


def _untrusted(servers: str, why: str) -> LakehouseError:
    fix = "correct kafka.ssl.truststore.location (the authority's PEM file), or kafka.security.protocol"
    return SourceUnreadable(f"no secure connection to the broker at {servers}: {why}", fix=fix)


def _unreachable(servers: str, why: str) -> LakehouseError:
    fix = (
        "start a broker (`lakehouse simulate kafka --broker` has one built in), or correct its address or"
        " kafka.security.protocol; a mock cluster needs kafka.api.version=2.0, too. What was sent is not lost: run this"
        " again, and it goes on"
    )
    return SourceUnreachable(f"no broker answers at {servers}: {why}", fix=fix)


def _while_read(servers: str, error: Any) -> LakehouseError:
    from confluent_kafka import KafkaError

    if error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
        return _forbidden(servers, error.str())
    return _unreachable(servers, error.str())


def _forbidden(servers: str, why: str) -> LakehouseError:
    fix = "let the user create the topic, write to it, read and describe it"
    return SourceUnreadable(f"the broker at {servers} does not permit this: {why}", fix=fix)


@contextmanager
def errors_mapped(client: Client) -> Iterator[None]:
    """The clients' errors as ours; kafka-python's log is silent meanwhile, for the errors say it all."""
    from confluent_kafka import KafkaException
    from kafka.errors import AuthorizationError, KafkaError, RetriableError

    logger = logging.getLogger("kafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except AuthorizationError as error:
        raise _forbidden(client.servers, str(error)) from error
    except RetriableError as error:
        raise _unreachable(client.servers, str(error)) from error
    except KafkaException as error:
        raise _while_read(client.servers, error.args[0]) from error
    except KafkaError as error:
        fix = "correct the cause, and run it again: it goes on where this stopped"
        raise SourceError(f"the broker at {client.servers} refused: {error}", fix=fix) from error
    finally:
        logger.setLevel(level)
