"""Files on an object store: listed, read and refused as on a disk."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pyarrow import fs

from lakehouse_assets.errors import SettingsError, SourceMissing, SourceUnreadable, StoreFailed
from lakehouse_assets.sources.base import Past, Source, open_source
from lakehouse_assets_tests.sources.contract import Case, SourceContract
from lakehouse_assets_tests.sources.files_making import discovered, entity, misfits, rows

SECRET = "not-for-anybodys-eyes"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server that speaks S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> fs.S3FileSystem:
    """The store with an empty bucket `b<number>`, and the environment that leads to it."""
    for name, text in {
        "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, text)
    return fs.S3FileSystem(
        endpoint_override=endpoint, region="eu-west-1", access_key="id", secret_key=SECRET, allow_bucket_creation=True
    )


def put(store: fs.S3FileSystem, path: str, text: str) -> None:
    """Write an object."""
    store.create_dir(path.split("/")[0])
    with store.open_output_stream(path) as stream:
        stream.write(text.encode())


class S3Case(Case):
    """A prefix of a bucket; each step adds one object."""

    secrets = (SECRET,)

    def __init__(self, store: fs.S3FileSystem, bucket: str) -> None:
        self.store = store
        self.bucket = bucket
        self.written = 0
        store.create_dir(f"{bucket}/in")

    def add(self, ids: Sequence[int]) -> None:
        """One more object, if there is a row to write."""
        if ids:
            lines = "".join(f"{value}\n" for value in ids)
            put(self.store, f"{self.bucket}/in/part-{self.written:03}.csv", f"id\n{lines}")
            self.written += 1

    def open(self) -> Source:
        """A fresh source."""
        return open_source(discovered(f"s3://{self.bucket}/in", schema="id bigint", header=True))

    def swap(self) -> None:
        """Other objects under the names of the old ones."""
        count, self.written = self.written, 0
        for _ in range(count):
            self.add(range(50))


class TestOnS3(SourceContract):
    """The contract, on an object store."""

    @pytest.fixture
    def case(self, store: fs.S3FileSystem, tmp_path: Path) -> S3Case:
        """An empty prefix."""
        return S3Case(store, tmp_path.name.replace("_", "-")[:50])


def test_rows_name_their_object(store: fs.S3FileSystem) -> None:
    """`_source` is the object's URI; partition directories become columns."""
    put(store, "rows/in/day=2024-01-02/a.csv", "x\n1\n")
    with open_source(discovered("s3://rows/in", header=True)) as source:
        (batch,) = source.read(source.earliest(), source.latest(Past()))
    assert batch.rows.to_pylist()[0]["_source"] == "s3://rows/in/day=2024-01-02/a.csv"
    assert batch.rows.schema.names == ["x", "day", "_position", "_source"]
    assert misfits(discovered("s3://rows/in", header=True)) == []


def test_globs_and_single_objects_work(store: fs.S3FileSystem) -> None:
    """`source` may be one object, or a glob over objects."""
    put(store, "globs/in/a.csv", "1\n")
    put(store, "globs/in/b.csv", "2\n")
    put(store, "globs/in/c.txt", "3\n")
    assert rows(entity("s3://globs/in/b.csv")) == [{"_c0": "2"}]
    assert rows(entity("s3a://globs/*/*.csv")) == [{"_c0": "1"}, {"_c0": "2"}]


def test_a_missing_prefix_names_what_is_near(store: fs.S3FileSystem) -> None:
    """An object store has no empty directories: a prefix without objects is missing, and its neighbours are named."""
    put(store, "near/orders/a.csv", "1\n")
    with (
        pytest.raises(SourceMissing, match=r"s3://near/order'.*\n.*did you mean 'orders'"),
        open_source(entity("s3://near/order")) as source,
    ):
        source.latest(Past())


def test_a_store_out_of_reach_is_worth_another_try(store: fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is transient."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with (
        pytest.raises(StoreFailed, match="the object store failed for s3://x/in"),
        open_source(entity("s3://x/in")) as source,
    ):
        source.latest(Past())


def test_keys_in_the_source_are_refused() -> None:
    """Credentials have no place in a URI, as references neither."""
    with (
        pytest.raises(SettingsError, match=r"holds credentials\n.*AWS_"),
        open_source(entity("s3://key:${secret:KEY}@bucket/in")) as source,
    ):
        source.latest(Past())


def test_a_denied_bucket_is_unreadable(store: fs.S3FileSystem, endpoint: str) -> None:
    """What the store denies is named as a matter of permission."""
    put(store, "denied/in/a.csv", "1\n")
    _ask(f"{endpoint}/moto-api/reset-auth", "0")
    try:
        with (
            pytest.raises(SourceUnreadable, match="no permission to read s3://denied/in"),
            open_source(entity("s3://denied/in")) as source,
        ):
            source.latest(Past())
    finally:
        _ask(f"{endpoint}/moto-api/reset-auth", "1000000000")


def _ask(url: str, body: str) -> None:
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "text/plain"})
    with urllib.request.urlopen(request) as answer:
        answer.read()
