"""Fixtures that every room's tests share: a clean environment, object stores, an unprivileged user, a tiny disk.

What belongs here: places to test in. What does not: data and helpers of one room.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lakehouse_assets.engines.spark_session import Local, missing
from lakehouse_assets.lake.storage import Storage

if TYPE_CHECKING:
    from lakehouse_assets.engines.spark import SparkEngine
    from lakehouse_assets_tests.kafka_broker import Broker

ROOT = Path(__file__).parent.parent
_CALL = (
    "import importlib, json, sys; "
    "print(json.dumps(getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*sys.argv[3:])))"
)
NOBODY = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
"""A user without rights over anything: files stay readable by their owner's bits, and no capability is left."""
TINY_DISK = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private", "sh", "-c")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings and credentials of whoever runs it."""
    for name in os.environ:
        if name.startswith(("LAKEHOUSE_", "AWS_", "AZURE_", "AZURITE_", "DATABRICKS_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _reachable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Other users may pass through pytest's directories: what a test forbids is forbidden by the test alone."""
    base = tmp_path_factory.getbasetemp()
    for directory in (base, *base.parents):
        if directory.stat().st_uid != os.geteuid() or directory == Path(tempfile.gettempdir()):
            break
        directory.chmod(directory.stat().st_mode | 0o055)


@dataclass(frozen=True)
class Bucket:
    """A fresh bucket: its root, and the options that reach it."""

    root: str
    options: dict[str, str]

    @property
    def storage(self) -> Storage:
        """How a lake reaches it."""
        return Storage(self.options)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server in a process of its own: delta-rs holds the interpreter's lock while it waits for some answers."""
    with served(sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p") as endpoint:
        yield endpoint


@contextmanager
def served(*command: str) -> Iterator[str]:
    """The address of a server, which takes a free port as the last word of its command line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = subprocess.DEVNULL
    with subprocess.Popen([*command, str(port)], stdin=quiet, stdout=quiet, stderr=quiet) as server:
        try:
            _wait_for(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the server did not start: {server.args}")


_buckets = itertools.count()


@pytest.fixture
def s3(s3_endpoint: str) -> Bucket:
    """A fresh bucket on the S3 server."""
    from pyarrow.fs import S3FileSystem

    options = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "nobody-may-see-this",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    name = f"bucket-{next(_buckets)}"
    S3FileSystem(
        access_key="key",
        secret_key="nobody-may-see-this",
        region="us-east-1",
        endpoint_override=s3_endpoint,
        allow_bucket_creation=True,
    ).create_dir(name)
    return Bucket(f"s3://{name}", options)


AZURITE = ROOT / "infra" / "local" / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The emulator's account, which everybody knows."""


def need(there: bool, what: str, remedy: str) -> None:
    """Skip a test that needs `what`, and say how to get it; under `CI` everything has to be there."""
    if there:
        return
    if "CI" in os.environ:
        pytest.fail(f"{what} is needed here: {remedy}")
    pytest.skip(f"{what} is not on this machine: {remedy}")


@pytest.fixture(scope="session")
def azurite_endpoint() -> Iterator[str]:
    """An Azure storage server in a process of its own."""
    need(shutil.which("node") is not None, "node (Node.js, for Azurite)", "install it, then `make setup-azurite`")
    need(AZURITE.exists(), "Azurite", "`make setup-azurite`")
    flags = ("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent", "--blobPort")
    with served("node", str(AZURITE), *flags) as endpoint:
        yield endpoint


@pytest.fixture
def azure(azurite_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A fresh container on the Azure storage server; delta-rs takes the server's address from the environment."""
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", azurite_endpoint)
    options = {
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURITE_BLOB_STORAGE_URL": azurite_endpoint,
        "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY,
    }
    bucket = Bucket(f"abfss://container-{next(_buckets)}@{ACCOUNT}.dfs.core.windows.net", options)
    fs, container = bucket.storage.filesystem(bucket.root)
    fs.create_dir(container)
    return bucket


def need_kafka() -> None:
    """Skip a test that needs a Kafka broker, where none can run; under `CI` it has to."""
    from lakehouse_assets_tests import kafka_broker

    lacking = kafka_broker.missing()
    need(not lacking, "a Kafka broker", f"{'; '.join(lacking)}: `make setup-kafka`")


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    """A Kafka broker that lives as long as the tests: nobody ends it, and each test has topics of its own."""
    need_kafka()
    from lakehouse_assets_tests.kafka_broker import Broker

    with Broker() as broker:
        yield broker


@pytest.fixture
def kafka_brokers() -> Iterator[Callable[..., Broker]]:
    """Makes and starts brokers that a test may kill or configure; they are ended and removed with the test."""
    need_kafka()
    from lakehouse_assets_tests.kafka_broker import Broker

    with ExitStack() as stack:
        yield lambda **config: stack.enter_context(Broker(**config))


QUICK = {
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Ddelta.log.cacheSize=10",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.shuffle.partitions": "1",
    "spark.default.parallelism": "1",
    "spark.databricks.delta.writeChecksumFile.enabled": "false",
}
"""What makes a session quick with a few rows: nothing is compiled for a single use, no task is without rows."""


def need_spark() -> None:
    """Skip a test that needs the Spark engine, where it cannot run; under `CI` it has to."""
    lacking = missing()
    need(not lacking, "the Spark engine", f"{'; '.join(lacking)}: `make setup-jvm`")


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkEngine]:
    """One Spark engine for all tests: a session takes ten seconds to start."""
    need_spark()
    from lakehouse_assets.engines.spark import SparkEngine

    engine = SparkEngine(Storage(), Local(memory="2g", threads=2, more=QUICK))
    yield engine
    engine.close()


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of Spark take time, and those of a Kafka broker. Spark's run in one worker, simulated workspaces in another."""
    for item in items:
        if {"kafka", "kafka_brokers"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
        if "spark" in getattr(item, "fixturenames", ()) or item.get_closest_marker("spark"):
            item.add_marker(pytest.mark.slow)
            apart = {"databricks", "workspace"} & set(item.path.parts)
            item.add_marker(pytest.mark.xdist_group("workspace" if apart else "spark"))


class Elsewhere:
    """Runs functions and commands in a place that a prefix of the command line makes.

    A function is one at the top of a module; it takes texts, and gives what JSON holds.
    """

    def __init__(self, wrap: Callable[[Sequence[str]], Sequence[str]]) -> None:
        self._wrap = wrap

    def run(self, *command: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run a command; how it ended is the caller's to judge."""
        return subprocess.run(self._wrap(command), capture_output=True, text=True, cwd=ROOT, timeout=120, **how)

    def call(self, function: Callable[..., Any], *args: object) -> Any:
        """Call a function in a process of its own."""
        named = (function.__module__, function.__qualname__, *map(str, args))
        done = self.run(sys.executable, "-c", _CALL, *named)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def _can_unshare() -> bool:
    return subprocess.run([*NOBODY, "true"], capture_output=True).returncode == 0


def _need_namespaces() -> None:
    need(_can_unshare(), "a user namespace", "allow `unshare --user`")


@pytest.fixture
def as_nobody() -> Elsewhere:
    """A place without rights: modes of files and directories hold there, for root too."""
    if os.getuid() == 0:
        _need_namespaces()
        return Elsewhere(lambda command: [*NOBODY, *command])
    return Elsewhere(lambda command: list(command))


@pytest.fixture
def on_tiny_disk(tmp_path: Path) -> Elsewhere:
    """A place where the directory `disk` of `tmp_path` is a disk of one megabyte."""
    _need_namespaces()
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'PATH=$PATH:/usr/sbin:/sbin; mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    return Elsewhere(lambda command: [*TINY_DISK, mount, str(disk), *command])


@pytest.fixture
def in_process() -> Elsewhere:
    """A process of its own, and nothing else about it."""
    return Elsewhere(lambda command: list(command))
