"""A real Apache Kafka broker in a process of its own: one node in KRaft mode, all ways in, all data in one directory.

What belongs here: starting, killing and describing a broker. What does not: topics and messages, which tests make with
kafka-python or confluent-kafka, and the fixtures (`conftest.py`).
"""

from __future__ import annotations

import base64
import ctypes
import ipaddress
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIBS = Path(__file__).parents[1] / "infra" / "local" / "kafka" / "libs"
"""Where `make setup-kafka` puts the jars."""
READY = "Kafka Server started"
USER = "reader"
PASSWORD = "nobody-may-see-this"
LISTENERS = {"PLAIN": "PLAINTEXT", "SASL": "SASL_PLAINTEXT", "SSL": "SSL", "SASLSSL": "SASL_SSL"}
"""Name of each listener for clients, and its protocol."""
ADDRESSES = {"plain": "PLAINTEXT", "sasl": "SASL_PLAINTEXT", "ssl": "SSL", "sasl_ssl": "SASL_SSL"}
"""The attribute of a broker that holds the address for each protocol."""
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
"""What makes a JVM start soon; a broker that is measured goes without."""
ONE_NODE = {
    "auto.create.topics.enable": "false",  # to look at a topic that is not there does not make it
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "broker.session.timeout.ms": "2000",  # a broker that was killed is back after so long
    "broker.heartbeat.interval.ms": "200",
    "log.initial.task.delay.ms": "500",  # retention and cleaning begin soon
    "log.cleaner.dedupe.buffer.size": "4194304",
    "num.partitions": "1",
}


def missing() -> list[str]:
    """What this machine lacks to run a broker; nothing if it can."""
    faults = [] if shutil.which("java") else ["Java 17 is not installed"]
    return faults if list(LIBS.glob("kafka_*.jar")) else [*faults, f"Kafka's jars are not in {LIBS}"]


class Broker:
    """One broker: `start`, `kill` (SIGKILL), `stop` (in order) and `start` again, on the same data and ports.

    Its data, keys and log lie in a temporary directory that `close` removes. Should this process die, it dies too.

    Args:
        quick: start soon; False for measurements.
        memory: the heap of its JVM.
        config: properties of the broker beyond the defaults, with dots or underscores:
            `Broker(message_max_bytes=5_000_000)`, `Broker(**{"log.retention.check.interval.ms": 200})`.

    Attributes:
        plain, sasl, ssl, sasl_ssl: the address of each listener (host:port). SASL admits `USER` with `PASSWORD` by
            PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
        ca: the certificate that signed the broker's, in PEM.
        client: key and certificate of a client that the broker trusts, in one PEM file; the listener `ssl` asks for
            one and does without it (unless `**{"listener.name.ssl.ssl.client.auth": "required"}`).
    """

    def __init__(self, *, quick: bool = True, memory: str = "512m", **config: object) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="kafka-"))
        self.ca, self.client = self.directory / "ca.pem", self.directory / "client.pem"
        self._properties = self.directory / "server.properties"
        self._log = self.directory / "broker.log"
        self._java = ("java", f"-Xmx{memory}", *(QUICK if quick else ()), *_logging(), "-cp", f"{LIBS}/*")
        self._process: subprocess.Popen[bytes] | None = None
        self._launcher = ThreadPoolExecutor(1)  # a broker dies with the thread that launched it
        ports = _free_ports(len(LISTENERS) + 1)
        self.plain, self.sasl, self.ssl, self.sasl_ssl = (f"127.0.0.1:{port}" for port in ports[1:])
        _make_certificates(self.directory)
        given = {name if "." in name else name.replace("_", "."): str(value) for name, value in config.items()}
        properties = self._defaults(ports[0]) | given
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))

    @property
    def bootstrap(self) -> str:
        """The address for clients without security."""
        return self.plain

    @property
    def log(self) -> str:
        """What the broker wrote to its log in all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int:
        """Of the running broker."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 60) -> Self:
        """Start it and wait until it serves; no effect on a running one."""
        if self.running:
            return self
        if not (self.directory / "data").exists():
            self._format()
        before = len(self.log)
        with self._log.open("ab") as log:
            command = (*self._java, "kafka.Kafka", str(self._properties))
            quiet = subprocess.DEVNULL
            how = {"stdin": quiet, "stdout": log, "stderr": log, "cwd": self.directory}
            launched = self._launcher.submit(subprocess.Popen, command, **how, preexec_fn=_die_with(os.getpid()))
            self._process = launched.result()
        deadline = time.monotonic() + timeout
        while READY not in self.log[before:]:
            if not self.running or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the broker did not start:\n{self.log[before:][-4000:]}")
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """End it at once (SIGKILL), as a power cut would; what it had not flushed is in the page cache."""
        self._end(signal.SIGKILL, timeout=30)

    def stop(self, timeout: float = 30) -> None:
        """End it in order (SIGTERM); SIGKILL if it takes longer than `timeout` seconds."""
        try:
            self._end(signal.SIGTERM, timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def close(self) -> None:
        """End it and remove its data."""
        self.kill()
        self._launcher.shutdown()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def options(
        self, protocol: str = "PLAINTEXT", mechanism: str = "PLAIN", password: str = PASSWORD
    ) -> dict[str, str]:
        """How to reach it, with Spark's names: `kafka.bootstrap.servers` and what the protocol needs.

        Args:
            protocol: PLAINTEXT, SASL_PLAINTEXT, SSL or SASL_SSL.
            mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
            password: of `USER`; a reference to a secret, or a wrong one.
        """
        address = getattr(self, {known: name for name, known in ADDRESSES.items()}[protocol])
        options = {"kafka.bootstrap.servers": address, "kafka.security.protocol": protocol}
        if "SASL" in protocol:
            user = {"kafka.sasl.username": USER, "kafka.sasl.password": password}
            options |= {"kafka.sasl.mechanism": mechanism} | user
        if "SSL" in protocol:
            options |= {"kafka.ssl.truststore.location": str(self.ca), "kafka.ssl.truststore.type": "PEM"}
        return options

    def _end(self, number: int, timeout: float) -> None:
        if self._process is not None:
            if self.running:
                self._process.send_signal(number)
            self._process.wait(timeout)
            self._process = None

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        users = [f"{mechanism}=[name={USER},password={PASSWORD}]" for mechanism in SCRAM]
        scram = [word for user in users for word in ("--add-scram", user)]
        tool = (
            *self._java,
            "kafka.tools.StorageTool",
            "format",
            f"--cluster-id={cluster}",
            "-c",
            str(self._properties),
            *scram,
        )
        done = subprocess.run(tool, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"the broker's directory was not formatted:\n{done.stdout}{done.stderr}")

    def _defaults(self, controller: int) -> dict[str, str]:
        addresses = dict(zip(LISTENERS, (self.plain, self.sasl, self.ssl, self.sasl_ssl), strict=True))
        named = [f"{name}://{address}" for name, address in addresses.items()]
        protocols = {"CONTROLLER": "PLAINTEXT"} | LISTENERS
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": ",".join([*named, f"CONTROLLER://127.0.0.1:{controller}"]),
            "advertised.listeners": ",".join(named),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAIN",
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "log.dirs": str(self.directory / "data"),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.directory / "server.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca),
            "listener.name.ssl.ssl.client.auth": "requested",
            "sasl.enabled.mechanisms": ",".join(("PLAIN", *SCRAM)),
            **_logins("SASL"),
            **_logins("SASLSSL"),
            **ONE_NODE,
        }


def _logins(listener: str) -> dict[str, str]:
    common = "org.apache.kafka.common.security"
    prefix = f"listener.name.{listener.lower()}"
    plain = f'{common}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    scram = {
        f"{prefix}.{name.lower()}.sasl.jaas.config": f"{common}.scram.ScramLoginModule required;" for name in SCRAM
    }
    return {f"{prefix}.plain.sasl.jaas.config": plain} | scram


def _logging() -> tuple[str, ...]:
    simple = "-Dorg.slf4j.simpleLogger"
    started = f"{simple}.log.kafka.server.KafkaRaftServer=info"
    return f"{simple}.defaultLogLevel=warn", started, f"{simple}.showDateTime=true"


def _die_with(parent: int) -> Any:
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork

    def in_child() -> None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return in_child


def _free_ports(many: int) -> list[int]:
    """Ports that nobody listens on, below those that the system gives to clients: they are free after a restart too."""
    found: list[int] = []
    held: list[socket.socket] = []
    try:
        while len(found) < many:
            port = random.SystemRandom().randrange(10_000, 32_000)
            held.append(socket.socket())
            try:
                held[-1].bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    finally:
        for one in held:
            one.close()
    return found


def _make_certificates(directory: Path) -> None:
    """`ca.pem`, and `server.pem` and `client.pem` with key and certificate, signed by it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the broker's authority")])
    ca = _certificate(name, key, name, key, authority=True)
    (directory / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    for who in ("server", "client"):
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)])
        signed = _certificate(subject, own, name, key, authority=False)
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        text = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + signed.public_bytes(pem)
        (directory / f"{who}.pem").write_bytes(text)


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    of_signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    usage = x509.KeyUsage(True, False, False, False, False, authority, authority, False, False)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=2))
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=True).add_extension(of_signer, critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    if not authority:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer, hashes.SHA256())
