"""What the read options of a Kafka topic mean, and how each of three clients is told of it.

| option | default | meaning |
| --- | --- | --- |
| `kafka.bootstrap.servers` | (required) | host:port of one or more brokers, with commas between them |
| `subscribe` | the entity's `source` | the topic; one for each feed |
| `startingOffsets` | earliest | where the first batch starts: earliest, latest, or `{"topic": {"0": 23, "1": -2}}` |
| `startingTimestamp` | | the same by time, in milliseconds since 1970 |
| `startingOffsetsByTimestamp` | | the same for each partition: `{"topic": {"0": 1700000000000}}` |
| `maxOffsetsPerTrigger` | no limit | the offsets after which a batch ends, shared out by what each partition holds |
| `kafka.isolation.level` | read_committed | whether messages of aborted transactions are read, too (read_uncommitted) |
| `kafka.security.protocol` | PLAINTEXT | or SSL, SASL_PLAINTEXT, SASL_SSL |
| `kafka.sasl.mechanism` | PLAIN | or SCRAM-SHA-256, SCRAM-SHA-512 |
| `kafka.sasl.jaas.config` | | user and password as a line of JAAS, as Spark wants it, with references to secrets |
| `kafka.sasl.username`, `kafka.sasl.password` | | the same without JAAS |
| `kafka.ssl.truststore.location` | the system's | the authorities that are trusted, as a PEM file |
| `kafka.ssl.keystore.location` | | key and certificate of this client, as a PEM file |
| `kafka.ssl.key.password` | | the password of that key |
| `kafka.ssl.endpoint.identification.algorithm` | https | whether the broker's name is checked; empty: it is not |
| `kafkaConsumer.pollTimeoutMs` | 120000 | how long a broker may be silent before the batch is given up |
| `kafka.api.version` | auto: asked of the broker | the version of a broker that cannot be asked, such as 2.0 |

What belongs here: reading options, and the settings made of them. What does not: talking to a broker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.secrets import resolve

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import Entity

_SERVERS = "kafka.bootstrap.servers"
_STARTS = ("startingOffsets", "startingTimestamp", "startingOffsetsByTimestamp")
_JAAS, _USER, _PASSWORD = "kafka.sasl.jaas.config", "kafka.sasl.username", "kafka.sasl.password"
_TRUST, _KEY, _KEY_PASSWORD = "kafka.ssl.truststore.location", "kafka.ssl.keystore.location", "kafka.ssl.key.password"
_TYPES = ("kafka.ssl.truststore.type", "kafka.ssl.keystore.type")
_NAMED = "kafka.ssl.endpoint.identification.algorithm"
OPTIONS = (
    _SERVERS, "subscribe", *_STARTS, "maxOffsetsPerTrigger", "failOnDataLoss", "includeHeaders",
    "kafka.isolation.level", "kafka.security.protocol", "kafka.sasl.mechanism", _JAAS, _USER, _PASSWORD, _TRUST, _KEY,
    _KEY_PASSWORD, *_TYPES, _NAMED, "kafkaConsumer.pollTimeoutMs", "kafka.api.version",
)  # fmt: skip
_INSTEAD = {
    "subscribepattern": "declare one entity for each topic; several feeds may share a destination",
    "assign": "a feed reads every partition of its topic",
    "endingoffsets": "a batch ends where the topic ends when it is planned; bound it with maxOffsetsPerTrigger",
    "kafka.group.id": "no consumer group is used: the plans remember what was read",
    "kafka.enable.auto.commit": "no offset is committed to the broker: the plans remember what was read",
}
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_ISOLATION = ("read_committed", "read_uncommitted")
_TRUE_FALSE = ("true", "false")
_OFFSET_WORDS = {"earliest": -2, "latest": -1}
EARLIEST, LATEST = -2, -1
"""Spark's numbers for the two ends of a partition, in `startingOffsets`."""


@dataclass(frozen=True)
class Start:
    """Where the first batch starts: one value for all partitions, and others for some.

    Attributes:
        by: whether values are offsets (`EARLIEST` and `LATEST` among them) or milliseconds since 1970.
        default: for partitions that are not named; `None`: every partition has to be named.
    """

    by: Literal["offset", "time"] = "offset"
    default: int | None = EARLIEST
    named: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Credentials:
    """User and password, as they are written: references to secrets."""

    user: str
    password: str


@dataclass(frozen=True)
class KafkaOptions:
    """The options of one topic, checked; secrets still are references."""

    servers: str
    topic: str
    start: Start = Start()
    most: int | None = None
    committed: bool = True
    protocol: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    credentials: Credentials | None = None
    trusted: str | None = None
    key: str | None = None
    key_password: str | None = None
    named: bool = True
    timeout: float = 120.0
    version: tuple[int, ...] | None = None

    @property
    def _sasl(self) -> bool:
        return self.protocol.startswith("SASL")

    @property
    def _tls(self) -> bool:
        return self.protocol.endswith("SSL")

    def of_kafka_python(self, environ: Mapping[str, str]) -> dict[str, Any]:
        """The settings of kafka-python's clients, secrets resolved."""
        found: dict[str, Any] = {"bootstrap_servers": self.servers.split(","), "security_protocol": self.protocol}
        if self.version:
            found["api_version"] = self.version
        if self._sasl and self.credentials:
            found |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": resolve(self.credentials.user, environ),
                "sasl_plain_password": resolve(self.credentials.password, environ),
            }
        if self._tls:
            found |= {"ssl_check_hostname": self.named, "ssl_cafile": self.trusted}
            found |= {"ssl_certfile": self.key, "ssl_keyfile": self.key} if self.key else {}
            found |= {"ssl_password": resolve(self.key_password, environ)} if self.key_password else {}
        return found

    def of_librdkafka(self, environ: Mapping[str, str]) -> dict[str, Any]:
        """The settings of librdkafka's clients, secrets resolved."""
        found: dict[str, Any] = {"bootstrap.servers": self.servers, "security.protocol": self.protocol}
        if self._sasl and self.credentials:
            found |= {
                "sasl.mechanism": self.mechanism,
                "sasl.username": resolve(self.credentials.user, environ),
                "sasl.password": resolve(self.credentials.password, environ),
            }
        if self._tls:
            found["ssl.endpoint.identification.algorithm"] = "https" if self.named else "none"
            found |= {"ssl.ca.location": self.trusted} if self.trusted else {}
            found |= {"ssl.key.location": self.key, "ssl.certificate.location": self.key} if self.key else {}
            found |= {"ssl.key.password": resolve(self.key_password, environ)} if self.key_password else {}
        return found

    def of_spark(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The options of Spark's Kafka source, secrets resolved."""
        found = {_SERVERS: self.servers, "subscribe": self.topic, "kafka.security.protocol": self.protocol}
        found["kafka.isolation.level"] = _ISOLATION[0] if self.committed else _ISOLATION[1]
        found["kafkaConsumer.pollTimeoutMs"] = str(round(self.timeout * 1000))
        if self._sasl and self.credentials:
            found |= {"kafka.sasl.mechanism": self.mechanism, _JAAS: self._jaas(environ)}
        if self._tls:
            found[_NAMED] = "https" if self.named else ""
            found |= {_TRUST: self.trusted, _TYPES[0]: "PEM"} if self.trusted else {}
            found |= {_KEY: self.key, _TYPES[1]: "PEM"} if self.key else {}
            found |= {_KEY_PASSWORD: resolve(self.key_password, environ)} if self.key_password else {}
        return found

    def _jaas(self, environ: Mapping[str, str]) -> str:
        assert self.credentials is not None
        module = "plain.PlainLoginModule" if self.mechanism == "PLAIN" else "scram.ScramLoginModule"
        user, password = (resolve(text, environ) for text in (self.credentials.user, self.credentials.password))
        given = f"username={_in_jaas(user)} password={_in_jaas(password)}"
        return f"org.apache.kafka.common.security.{module} required {given};"


def _in_jaas(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def topic_of(entity: Entity) -> str:
    """The topic that an entity reads, as it is written."""
    return entity.read_options.get("subscribe", entity.source).strip()


def options_of(entity: Entity) -> KafkaOptions:
    """The options of an entity.

    Raises:
        SettingsError: one is missing, unknown, or has a value that it cannot have.
    """
    reader = _Reader(entity)
    reader.refuse_unknown()
    protocol = reader.one_of("kafka.security.protocol", _PROTOCOLS)
    return KafkaOptions(
        servers=reader.servers(),
        topic=reader.topic(),
        start=reader.start(),
        most=reader.number("maxOffsetsPerTrigger"),
        committed=reader.one_of("kafka.isolation.level", _ISOLATION) == _ISOLATION[0],
        protocol=protocol,
        mechanism=reader.one_of("kafka.sasl.mechanism", _MECHANISMS),
        credentials=reader.credentials(protocol),
        trusted=reader.pem(_TRUST, _TYPES[0]),
        key=reader.pem(_KEY, _TYPES[1]),
        key_password=reader.given.get(_KEY_PASSWORD),
        named=reader.given.get(_NAMED, "https").strip().lower() not in ("", "none"),
        timeout=(reader.number("kafkaConsumer.pollTimeoutMs") or 120_000) / 1000,
        version=reader.version(),
    )


def faults_of(entity: Entity) -> list[SettingsError]:
    """Everything that is wrong with the options of an entity, as errors; no broker is asked, no secret resolved."""
    reader = _Reader(entity)
    judged: tuple[Callable[[], object], ...] = (
        reader.refuse_unknown,
        reader.servers,
        reader.topic,
        reader.start,
        lambda: reader.number("maxOffsetsPerTrigger"),
        lambda: reader.one_of("kafka.isolation.level", _ISOLATION),
        lambda: reader.one_of("kafka.sasl.mechanism", _MECHANISMS),
        lambda: reader.credentials(reader.one_of("kafka.security.protocol", _PROTOCOLS)),
        lambda: reader.pem(_TRUST, _TYPES[0]),
        lambda: reader.pem(_KEY, _TYPES[1]),
        lambda: reader.number("kafkaConsumer.pollTimeoutMs"),
        reader.version,
    )
    found: dict[str, SettingsError] = {}
    for judge in judged:
        try:
            judge()
        except SettingsError as error:
            found.setdefault(str(error), error)
    return list(found.values())


class _Reader:
    def __init__(self, entity: Entity) -> None:
        self.entity = entity
        self.given = entity.read_options

    def refuse_unknown(self) -> None:
        for name in self.given:
            if name not in OPTIONS:
                fix = _INSTEAD.get(name.lower(), "correct or remove it")
                raise self._error("a kafka source has no such read option", name, OPTIONS, fix)
        if self.one_of("failOnDataLoss", _TRUE_FALSE) == "false":
            fix = "say `lakehouse: {on_data_loss: mark}`: the lost offsets are then rows of the quarantine"
            raise self._error("failOnDataLoss: false would lose offsets in silence", "false", ("true",), fix)
        if self.one_of("includeHeaders", _TRUE_FALSE) == "false" and "includeHeaders" in self.given:
            raise self._error("headers are always landed, as received", "false", ("true",), "remove includeHeaders")

    def servers(self) -> str:
        found = self.given.get(_SERVERS, "").replace(" ", "")
        if not re.fullmatch(r"[^,\s]+:\d{1,5}(,[^,\s]+:\d{1,5})*", found):
            fix = f"give read_options: {{{_SERVERS}: host:9092}}, with a comma between several"
            raise self._error(f"{_SERVERS} must name the brokers", found or None, (), fix)
        return found

    def topic(self) -> str:
        found = topic_of(self.entity)
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", found):
            fix = "name one topic; declare one entity for each topic (several feeds may share a destination)"
            raise self._error("a feed reads one topic", found, ("letters, digits, '.', '_' and '-'",), fix)
        return found

    def start(self) -> Start:
        named = [name for name in _STARTS if name in self.given]
        if len(named) > 1:
            raise self._error("the start is given twice", " and ".join(named), (), "keep one of them")
        if not named:
            return Start()
        text = self.given[named[0]].strip()
        if named[0] == "startingTimestamp":
            return Start("time", self.number(named[0]))
        if named[0] == "startingOffsets" and text in _OFFSET_WORDS:
            return Start("offset", _OFFSET_WORDS[text])
        values = self._by_partition(named[0], text)
        return Start("offset" if named[0] == "startingOffsets" else "time", None, values)

    def _by_partition(self, name: str, text: str) -> dict[str, int]:
        legal = (*(_OFFSET_WORDS if name == "startingOffsets" else ()), f'{{"{self.topic()}": {{"0": 23, "1": 42}}}}')
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        inner = found.get(self.topic()) if isinstance(found, dict) else None
        least = EARLIEST if name == "startingOffsets" else 0
        right = isinstance(inner, dict) and len(found) == 1 and all(
            re.fullmatch(r"0|[1-9]\d{0,8}", part) and type(value) is int and value >= least
            for part, value in inner.items()
        )  # fmt: skip
        if not right:
            raise self._error(f"the read option {name} has a value that it cannot have", text, legal, "correct it")
        return dict(inner or {})

    def number(self, name: str) -> int | None:
        value = self.given.get(name)
        if value is None:
            return None
        if not re.fullmatch(r"0*[1-9]\d{0,17}", value.strip()):
            problem = f"the read option {name} has a value that it cannot have"
            raise self._error(problem, value, ("a whole number from 1",), "correct or remove it")
        return int(value)

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        """The value of an option, the first choice where it is not given."""
        value = self.given.get(name, choices[0]).strip()
        found = next((choice for choice in choices if choice.lower() == value.lower()), None)
        if found is None:
            raise self._error(f"the read option {name} has a value that it cannot have", value, choices, "correct it")
        return found

    def credentials(self, protocol: str) -> Credentials | None:
        line = self.given.get(_JAAS)
        if line is not None:
            user, password = (_of_jaas(line, name) for name in ("username", "password"))
        else:
            user, password = self.given.get(_USER), self.given.get(_PASSWORD)
        if not protocol.startswith("SASL"):
            if user or password:
                fix = "say kafka.security.protocol: SASL_SSL (or SASL_PLAINTEXT), or remove them"
                raise self._error("user and password are given, but the protocol sends none", protocol, (), fix)
            return None
        if not user or not password:
            fix = f'give {_USER} and {_PASSWORD}: ${{secret:NAME}}, or {_JAAS} with username="…" and password="…"'
            raise self._error(f"{protocol} needs a user and a password", None, (), fix)
        return Credentials(user, password)

    def pem(self, name: str, kind: str) -> str | None:
        if name not in self.given:
            return None
        if self.given.get(kind, "PEM").upper() != "PEM":
            fix = "convert it (keytool -importkeystore, openssl pkcs12) and give the PEM file"
            raise self._error(f"{kind} must be PEM: both engines read that", self.given[kind], ("PEM",), fix)
        return self.given[name]

    def version(self) -> tuple[int, ...] | None:
        value = self.given.get("kafka.api.version")
        if value is None or value.strip() == "auto":
            return None
        if not re.fullmatch(r"\d{1,2}\.\d{1,2}", value.strip()):
            problem = "the read option kafka.api.version has a value that it cannot have"
            raise self._error(problem, value, ("auto", "2.0", "3.9"), "correct or remove it")
        return tuple(map(int, value.split(".")))

    def _error(self, problem: str, value: object, choices: tuple[str, ...], fix: str) -> SettingsError:
        return SettingsError(f"{self.entity.destination}: {problem}", value=value, choices=choices, fix=fix)


def _of_jaas(line: str, name: str) -> str | None:
    found = re.search(rf"""\b{name}\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s;"']+))""", line)
    if found is None:
        return None
    text = next(part for part in found.groups() if part is not None)
    return re.sub(r"\\(.)", r"\1", text)
