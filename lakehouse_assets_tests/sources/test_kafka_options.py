"""What read options mean for each of the three clients, and what is refused; without a broker."""

from __future__ import annotations

import json

import pytest

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import SettingsError
from lakehouse_assets.sources.kafka_options import EARLIEST, LATEST, OPTIONS, KafkaOptions, Start, faults_of, options_of
from lakehouse_assets.sources.kafka_reader import COLUMNS

SERVERS = {"kafka.bootstrap.servers": "one:9092, two:9093"}
USER = {"kafka.sasl.username": "u", "kafka.sasl.password": "${secret:P}"}
SASL = {"kafka.security.protocol": "SASL_SSL", **USER}


def options(source: str = "t", **given: str) -> KafkaOptions:
    """The options of an entity."""
    return options_of(entity(source, **given))


def entity(source: str = "t", **given: str) -> Entity:
    """An entity that reads a topic."""
    fields = {"entity_id": "k", "source": source, "source_format": "kafka", "destination": "bronze.k"}
    return Entity(**fields, read_options={**SERVERS, **given})


def test_little_is_needed() -> None:
    """The brokers and a topic: everything, committed messages alone, no security."""
    found = options()
    assert (found.servers, found.topic, found.start) == ("one:9092,two:9093", "t", Start())
    assert found.start == Start("offset", EARLIEST)
    assert (found.committed, found.most, found.timeout) == (True, None, 120)
    assert found.of_kafka_python({}) == {
        "bootstrap_servers": ["one:9092", "two:9093"],
        "security_protocol": "PLAINTEXT",
    }
    assert found.of_librdkafka({}) == {"bootstrap.servers": "one:9092,two:9093", "security.protocol": "PLAINTEXT"}
    assert found.of_spark({}) == {
        "kafka.bootstrap.servers": "one:9092,two:9093",
        "subscribe": "t",
        "kafka.security.protocol": "PLAINTEXT",
        "kafka.isolation.level": "read_committed",
        "kafkaConsumer.pollTimeoutMs": "120000",
    }


def test_subscribe_names_the_topic() -> None:
    """Then `source` is a name for people."""
    assert options("prices", subscribe="T.o_p-1").topic == "T.o_p-1"


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({"startingOffsets": "earliest"}, Start("offset", EARLIEST)),
        ({"startingOffsets": " latest "}, Start("offset", LATEST)),
        ({"startingOffsets": '{"t": {"0": 23, "12": -1, "1": -2}}'}, Start("offset", None, {"0": 23, "12": -1, "1": -2})),
        ({"startingTimestamp": "1700000000000"}, Start("time", 1_700_000_000_000)),
        ({"startingOffsetsByTimestamp": '{"t": {"0": 0}}'}, Start("time", None, {"0": 0})),
    ],
    ids=str,
)  # fmt: skip
def test_where_a_feed_starts(given: dict, start: Start) -> None:
    """Spark's ways to say it."""
    assert options(**given).start == start


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kafka.bootstrap.servers": ""}, "must name the brokers"),
        ({"kafka.bootstrap.servers": "host"}, "must name the brokers"),
        ({"kafka.bootstrap.servers": "host:1,"}, "must name the brokers"),
        ({"subscribe": "a,b"}, "declare one entity for each topic"),
        ({"subscribe": "a*"}, "one topic"),
        ({"subscribePattern": "a.*"}, "declare one entity for each topic"),
        ({"assign": '{"t": [0]}'}, "reads every partition"),
        ({"endingOffsets": "latest"}, "maxOffsetsPerTrigger"),
        ({"kafka.group.id": "g"}, "the plans remember"),
        ({"kafka.max.poll.records": "1"}, "no such read option"),
        ({"failOnDataLoss": "false"}, "on_data_loss: mark"),
        ({"failOnDataLoss": "maybe"}, "cannot have"),
        ({"includeHeaders": "false"}, "headers are always landed"),
        ({"startingOffsets": "newest"}, "cannot have"),
        ({"startingOffsets": '{"other": {"0": 1}}'}, "cannot have"),
        ({"startingOffsets": '{"t": {"0": 1}, "u": {}}'}, "cannot have"),
        ({"startingOffsets": '{"t": {"0": -3}}'}, "cannot have"),
        ({"startingOffsets": '{"t": {"0": 1.5}}'}, "cannot have"),
        ({"startingOffsets": '{"t": {"0": true}}'}, "cannot have"),
        ({"startingOffsets": '{"t": {"-1": 1}}'}, "cannot have"),
        ({"startingOffsets": '{"t": {"00": 1}}'}, "cannot have"),
        ({"startingOffsets": '{"t": [1]}'}, "cannot have"),
        ({"startingOffsetsByTimestamp": "latest"}, "cannot have"),
        ({"startingOffsetsByTimestamp": '{"t": {"0": -1}}'}, "cannot have"),
        ({"startingTimestamp": "2025-01-01"}, "cannot have"),
        ({"startingTimestamp": "1", "startingOffsets": "latest"}, "given twice"),
        ({"maxOffsetsPerTrigger": "0"}, "cannot have"),
        ({"maxOffsetsPerTrigger": "many"}, "cannot have"),
        ({"kafkaConsumer.pollTimeoutMs": "-1"}, "cannot have"),
        ({"kafka.isolation.level": "serializable"}, "cannot have"),
        ({"kafka.security.protocol": "TLS"}, "cannot have"),
        ({"kafka.api.version": "two"}, "cannot have"),
        ({**SASL, "kafka.sasl.mechanism": "GSSAPI"}, "cannot have"),
        ({"kafka.security.protocol": "SASL_SSL"}, "needs a user and a password"),
        ({"kafka.security.protocol": "SASL_SSL", "kafka.sasl.username": "u"}, "needs a user and a password"),
        ({"kafka.security.protocol": "SASL_SSL", "kafka.sasl.jaas.config": "M required password='${secret:P}';"}, "needs a user"),
        (USER, "the protocol sends none"),
        ({"kafka.ssl.truststore.location": "/a.jks", "kafka.ssl.truststore.type": "JKS"}, "must be PEM"),
        ({"kafka.ssl.keystore.location": "/a.p12", "kafka.ssl.keystore.type": "PKCS12"}, "must be PEM"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused(given: dict, said: str) -> None:
    """By the name of the table, with what would be legal or what to do instead; no secret is told."""
    with pytest.raises(SettingsError) as refused:
        options(**given)
    assert said in str(refused.value)
    assert "bronze.k" in str(refused.value)
    assert refused.value.fix


def test_an_unknown_option_names_those_that_there_are() -> None:
    """The choices are every option."""
    with pytest.raises(SettingsError) as refused:
        options(**{"kafka.acks": "all"})
    assert set(refused.value.choices) == set(OPTIONS)


def test_harmless_options_are_taken() -> None:
    """What Spark users write and what is so anyway."""
    assert options(failOnDataLoss="true", includeHeaders="TRUE") == options()
    assert options(**{"kafka.security.protocol": "plaintext"}) == options()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_user_and_password_for_each_client(mechanism: str) -> None:
    """The secret is resolved when a client is made, and not before."""
    found = options(**SASL, **{"kafka.sasl.mechanism": mechanism})
    environ = {"P": 'pa"ss\\word'}
    assert 'pa"ss' not in repr(found)
    assert found.of_kafka_python(environ) | {"sasl_mechanism": mechanism, "sasl_plain_password": environ["P"]} == (
        found.of_kafka_python(environ)
    )
    assert found.of_librdkafka(environ)["sasl.password"] == environ["P"]
    line = found.of_spark(environ)["kafka.sasl.jaas.config"]
    assert line.endswith('required username="u" password="pa\\"ss\\\\word";')
    assert ("PlainLoginModule" in line) == (mechanism == "PLAIN")


def test_a_line_of_jaas_is_understood_and_made_again() -> None:
    """Quoted either way, with the reference in it."""
    for line in (
        'org.apache.kafka.common.security.plain.PlainLoginModule required username="u" password="${secret:P}";',
        "x.PlainLoginModule required password='${secret:P}' username=u ;",
    ):
        found = options(**{"kafka.security.protocol": "SASL_SSL", "kafka.sasl.jaas.config": line})
        assert found.of_librdkafka({"P": "it"})["sasl.username"] == "u"
        assert found.of_librdkafka({"P": "it"})["sasl.password"] == "it"
        assert 'username="u" password="it"' in found.of_spark({"P": "it"})["kafka.sasl.jaas.config"]


def test_tls_for_each_client() -> None:
    """Authority, own key and certificate, and the name check."""
    files = {"kafka.ssl.truststore.location": "/ca.pem", "kafka.ssl.keystore.location": "/me.pem"}
    found = options(**{"kafka.security.protocol": "SSL", **files, "kafka.ssl.key.password": "${secret:K}"})
    assert found.of_kafka_python({"K": "k"}).items() >= {
        "ssl_cafile": "/ca.pem", "ssl_certfile": "/me.pem", "ssl_keyfile": "/me.pem", "ssl_password": "k",
        "ssl_check_hostname": True,
    }.items()  # fmt: skip
    assert found.of_librdkafka({"K": "k"}).items() >= {
        "ssl.ca.location": "/ca.pem", "ssl.key.location": "/me.pem", "ssl.certificate.location": "/me.pem",
        "ssl.key.password": "k", "ssl.endpoint.identification.algorithm": "https",
    }.items()  # fmt: skip
    assert found.of_spark({"K": "k"}).items() >= {
        **files, "kafka.ssl.truststore.type": "PEM", "kafka.ssl.keystore.type": "PEM", "kafka.ssl.key.password": "k",
        "kafka.ssl.endpoint.identification.algorithm": "https",
    }.items()  # fmt: skip
    unnamed = options(**{"kafka.security.protocol": "SSL", "kafka.ssl.endpoint.identification.algorithm": ""})
    assert unnamed.of_kafka_python({})["ssl_check_hostname"] is False
    assert unnamed.of_librdkafka({})["ssl.endpoint.identification.algorithm"] == "none"
    assert unnamed.of_spark({})["kafka.ssl.endpoint.identification.algorithm"] == ""


def test_the_range_for_spark() -> None:
    """Both ends as Spark wants them, new partitions from 0, and the columns of the landed table."""
    from lakehouse_assets.sources.kafka import KafkaSource

    frame = KafkaSource(entity()).frame({"0": 3}, {"0": 5, "1": 7})
    assert frame.format == "kafka"
    assert json.loads(frame.options["startingOffsets"]) == {"t": {"0": 3, "1": 0}}
    assert json.loads(frame.options["endingOffsets"]) == {"t": {"0": 5, "1": 7}}
    assert frame.options["failOnDataLoss"] == frame.options["includeHeaders"] == "true"
    assert len(frame.select) == len(COLUMNS.names) + 2
    assert frame.misfits is None


def test_all_faults_are_found_at_once() -> None:
    """Without a broker: each fault once, with what would be legal; none where there is none."""
    given = {
        "kafka.bootstrap.servers": "one",
        "startingOffset": "latest",
        "startingOffsets": '{"other": {"0": 1}}',
        "maxOffsetsPerTrigger": "0",
        "kafka.isolation.level": "dirty",
        "kafka.security.protocol": "SASL_SSL",
        "kafka.sasl.mechanism": "PLAIN_TEXT",
        "kafka.ssl.truststore.location": "ca.jks",
        "kafka.ssl.truststore.type": "JKS",
        "kafkaConsumer.pollTimeoutMs": "soon",
        "kafka.api.version": "old",
    }
    found = faults_of(entity(**given))
    assert [error.value for error in found] == [
        "startingOffset", "one", '{"other": {"0": 1}}', "0", "dirty", "PLAIN_TEXT", None, "JKS", "soon", "old",
    ]  # fmt: skip
    assert "startingOffsets" in str(found[0])
    assert len(faults_of(entity("a,b", startingOffsets='{"t": {"0": 1}}'))) == 1
    assert faults_of(entity(**SASL)) == []
    for error in found:
        assert str(error).startswith("bronze.k: ")


def refusal(of: Entity) -> str | None:
    """What `options_of` says of an entity that it refuses."""
    try:
        options_of(of)
    except SettingsError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "name", sorted({*OPTIONS} - {"kafka.sasl.jaas.config", "kafka.sasl.password", "kafka.ssl.key.password"})
)
def test_what_cannot_be_read_has_a_fault(name: str) -> None:
    """An entity that `options_of` refuses has a fault, and one that it takes has none."""
    broken = entity(**{name: "\x00"})
    told, found = refusal(broken), list(map(str, faults_of(broken)))
    assert told in found if told else found == []
