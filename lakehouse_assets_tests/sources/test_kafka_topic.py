"""Who is let in: protocols, passwords and certificates of a real broker, and what an error says when they are wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import LakehouseError, SecretError, SourceUnreachable, SourceUnreadable
from lakehouse_assets.sources.base import Past
from lakehouse_assets.sources.kafka import KafkaSource
from lakehouse_assets_tests.kafka_broker import PASSWORD, Broker
from lakehouse_assets_tests.sources.kafka_lab import PATIENCE_MS, Shop, values, whole

SECRET, WRONG = "${secret:KAFKA_PASSWORD}", "${secret:KAFKA_WRONG}"
NOT_IT = "this-is-not-it"
STORE = "kafka.ssl.keystore.location"
TRUST = "kafka.ssl.truststore.location"


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    monkeypatch.setenv("KAFKA_WRONG", NOT_IT)


@pytest.fixture(scope="module")
def strict() -> Iterator[Broker]:
    """A broker that asks for a certificate on its TLS listener, and knows PLAIN alone on its SASL one."""
    from lakehouse_assets_tests.conftest import need_kafka

    need_kafka()
    both = {"listener.name.ssl.ssl.client.auth": "required", "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN"}
    with Broker(**both) as broker:
        yield broker


def filled(broker: Broker) -> str:
    """A topic with one message."""
    shop = Shop(broker.plain)
    name = shop.topic()
    shop.send(name, ["here"])
    return name


@pytest.fixture(scope="module")
def topic(kafka: Broker) -> str:
    """A topic on the broker that lives as long as the tests."""
    return filled(kafka)


@pytest.fixture(scope="module")
def closed(strict: Broker) -> str:
    """A topic on the strict broker."""
    return filled(strict)


def source_on(name: str, options: Mapping[str, str]) -> KafkaSource:
    """A source with these options."""
    given = {"kafkaConsumer.pollTimeoutMs": PATIENCE_MS, **options}
    return KafkaSource(
        Entity(entity_id="k", source=name, source_format="kafka", destination="bronze.k", read_options=given)
    )


def refused(name: str, options: Mapping[str, str]) -> LakehouseError:
    """The error of a source that does not get in; it comes in time, and tells no secret."""
    began = time.monotonic()
    with source_on(name, options) as source, pytest.raises(LakehouseError) as error:
        source.latest(Past())
    assert time.monotonic() - began < 12
    told = f"{error.value!s}{error.value!r}{vars(error.value)}{error.value.__cause__!r}"
    assert PASSWORD not in told
    assert NOT_IT not in told
    return error.value


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_who_has_the_password_gets_in(kafka: Broker, topic: str, protocol: str, mechanism: str) -> None:
    """Every mechanism, with TLS and without; and nothing that is shown tells the password."""
    with source_on(topic, kafka.options(protocol, mechanism, SECRET)) as source:
        assert values(whole(source)) == ["here"]
        shown = f"{json.dumps(source.describe())}{source._options!r}{source!r}{vars(source)}"
        frame = source.frame(source.earliest(), source.latest(Past()))
    assert PASSWORD not in shown
    assert PASSWORD not in repr(frame)
    assert PASSWORD in frame.options["kafka.sasl.jaas.config"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_who_has_a_wrong_password_is_told_so(kafka: Broker, topic: str, protocol: str, mechanism: str) -> None:
    """Not as a broker that cannot be reached."""
    error = refused(topic, kafka.options(protocol, mechanism, WRONG))
    assert isinstance(error, SourceUnreadable)
    assert f"refused this client ({protocol} with {mechanism})" in str(error)


def test_a_user_and_password_as_a_line_of_jaas(kafka: Broker, topic: str) -> None:
    """The way Spark wants it: the very same option."""
    options = kafka.options("SASL_PLAINTEXT")
    user = options.pop("kafka.sasl.username")
    del options["kafka.sasl.password"]
    line = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    options["kafka.sasl.jaas.config"] = f'{line} username="{user}" password="{SECRET}";'
    with source_on(topic, options) as source:
        assert values(whole(source)) == ["here"]


@pytest.mark.slow
def test_a_mechanism_that_the_broker_lacks(strict: Broker, closed: str) -> None:
    """The broker's own are named."""
    error = refused(closed, strict.options("SASL_PLAINTEXT", "SCRAM-SHA-256", SECRET))
    assert isinstance(error, SourceUnreadable)
    assert "supported mechanisms: PLAIN" in str(error)


def test_a_secret_that_is_not_there(kafka: Broker, topic: str) -> None:
    """The variable is named."""
    error = refused(topic, kafka.options("SASL_PLAINTEXT", "PLAIN", "${secret:KAFKA_NOWHERE}"))
    assert isinstance(error, SecretError)
    assert "KAFKA_NOWHERE" in str(error)


def test_tls_with_an_authority_that_is_trusted(kafka: Broker, topic: str) -> None:
    """A file with the authority's certificate is enough."""
    with source_on(topic, kafka.options("SSL")) as source:
        assert values(whole(source)) == ["here"]


def test_tls_with_an_authority_that_is_not_trusted(kafka: Broker, topic: str) -> None:
    """The system's authorities did not sign this broker's certificate."""
    options = {k: v for k, v in kafka.options("SSL").items() if "truststore" not in k}
    error = refused(topic, options)
    assert isinstance(error, SourceUnreadable)
    assert "verify failed" in str(error)
    assert TRUST in str(error)


@pytest.mark.parametrize("name", [TRUST, STORE])
@pytest.mark.parametrize("text", [None, "no certificate"], ids=["no file", "no PEM"])
def test_files_that_are_no_certificates(kafka: Broker, topic: str, tmp_path, name: str, text: str | None) -> None:
    """A file that is not there, or something else: an error of the settings, at once."""
    path = tmp_path / "some.pem"
    if text is not None:
        path.write_text(text)
    error = refused(topic, kafka.options("SSL") | {name: str(path)})
    assert isinstance(error, SourceUnreadable)
    assert "the files that kafka.ssl.* name" in str(error)


def test_another_host_name(kafka: Broker, topic: str) -> None:
    """The certificate is not for this name: refused, unless the check is switched off."""
    port = kafka.ssl.split(":")[1]
    options = kafka.options("SSL") | {"kafka.bootstrap.servers": f"127.1:{port}"}
    error = refused(topic, options)
    assert isinstance(error, SourceUnreadable)
    assert "host name" in str(error)
    with source_on(topic, options | {"kafka.ssl.endpoint.identification.algorithm": ""}) as source:
        assert values(whole(source)) == ["here"]


@pytest.mark.slow
def test_a_broker_that_asks_for_a_certificate(strict: Broker, closed: str) -> None:
    """With one it lets in, without it does not, and the option is named."""
    with source_on(closed, strict.options("SSL") | {STORE: str(strict.client)}) as source:
        assert values(whole(source)) == ["here"]
    assert STORE in str(refused(closed, strict.options("SSL")))


def test_the_wrong_protocol(kafka: Broker, topic: str) -> None:
    """TLS to a port without, and the other way round: an error in time that names the option."""
    plain, tls = kafka.options(), kafka.options("SSL")
    for options in (plain | {"kafka.bootstrap.servers": kafka.ssl}, tls | {"kafka.bootstrap.servers": kafka.plain}):
        assert "kafka.security.protocol" in str(refused(topic, options))


@pytest.mark.slow
@pytest.mark.parametrize("servers", ["127.0.0.1:9", "nowhere.invalid:9092"])
@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_no_broker(servers: str, protocol: str) -> None:
    """Nobody there: an error that a later run may not have."""
    soon = {"kafkaConsumer.pollTimeoutMs": "1500"}
    error = refused("t", soon | {"kafka.bootstrap.servers": servers, "kafka.security.protocol": protocol})
    assert isinstance(error, SourceUnreachable)
    assert servers in str(error)


@pytest.mark.parametrize("dies", ["kill", "stop"])
def test_a_broker_that_dies_while_it_is_read(kafka_brokers: Callable[..., Broker], dies: str) -> None:
    """The reader gives up in bounded time: it never hangs, and never ends as if it were complete."""
    broker = kafka_brokers()
    shop = Shop(broker.plain)
    name = shop.topic()
    shop.send(name, ["x" * 1000] * 100_000)
    with shop.open(name) as source:
        batches = source.read(source.earliest(), source.latest(Past()))
        next(batches)
        getattr(broker, dies)()
        began = time.monotonic()
        with pytest.raises(SourceUnreachable, match="cannot be reached"):
            list(batches)
        assert time.monotonic() - began < 2 * int(PATIENCE_MS) / 1000 + 6
    broker.start()
    with shop.open(name) as source:
        assert whole(source).num_rows == 100_000
