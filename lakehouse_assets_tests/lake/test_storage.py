"""Tests of where a lake can stand: legal roots, permissions, full disks, and what failures of a store become."""

from __future__ import annotations

import contextlib
import errno
import os
import string
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import SecretStr

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.errors import LakeError, LakehouseError, NotRunnable, RootUnusable, StoreFailed
from lakehouse_assets.lake.delta import DeltaTable, create_table, find_table
from lakehouse_assets.lake.parquet import ParquetStage
from lakehouse_assets.lake.storage import Storage, check_writable, first_line, is_local, normalize, store_fault
from lakehouse_assets.lake.values import Number, TableSpec
from lakehouse_assets.settings import load_settings

SCHEMA = pa.schema([("k", pa.int64()), ("v", pa.binary())])
ILLEGAL = "[]*?%#^|\\\n\t\r\0\x7f"
LEGAL = "".join(c for c in string.printable if c not in ILLEGAL + "/\x0b\x0c") + "üé😀 \u00a0"


def rows(count: int, size: int = 10) -> pa.RecordBatch:
    """Rows that no compression makes smaller."""
    return pa.record_batch([range(count), [os.urandom(size) for _ in range(count)]], schema=SCHEMA)


def append(table: DeltaTable, batch: pa.RecordBatch, number: int) -> None:
    """Append a batch as the engine does: staged, then committed."""
    stage = ParquetStage(table)
    try:
        stage.write(batch)
        table.append_files(stage.finish(), Number("t", number))
    except LakehouseError:
        stage.discard()
        raise


@pytest.mark.parametrize("character", list(ILLEGAL))
def test_a_root_with_a_character_that_delta_misreads_is_refused(tmp_path, character):
    """Brackets, wildcards, `% # ^ |`, backslashes and control characters make delta-rs panic or write elsewhere."""
    for root in (f"{tmp_path}/a{character}b", f"s3://bucket/a{character}b", f"file://{tmp_path}/{character}"):
        with pytest.raises(RootUnusable, match=r"choose a path without"):
            normalize(root)
        with pytest.raises(RootUnusable):
            find_table(root, Storage())
        with pytest.raises(RootUnusable):
            create_table(root, Storage(), TableSpec(SCHEMA))
    assert list(tmp_path.iterdir()) == []


def test_any_other_character_is_legal_in_a_root(tmp_path):
    """Spaces, quotes, unicode and the rest: what is written there is there, and is read back."""
    root = normalize(f"{tmp_path}/{LEGAL}")
    table = create_table(f"{root}/bronze/t", Storage(), TableSpec(SCHEMA))
    append(table, rows(3), 1)
    table = find_table(f"{root}/bronze/t", Storage())
    assert (table.rows(), [Path(file.path).exists() for file in table.files()]) == (3, [True])
    assert (tmp_path / LEGAL / "bronze" / "t" / "_delta_log").is_dir()


def test_a_local_root_is_absolute_in_one_spelling(tmp_path, monkeypatch):
    """Relative paths, `file://` and trailing slashes name the same table."""
    monkeypatch.chdir(tmp_path)
    assert {normalize(root) for root in ("lake", "./lake/", f"file://{tmp_path}/lake", "x/../lake")} == {
        f"{tmp_path}/lake"
    }


def test_a_root_in_an_object_store_keeps_its_scheme():
    """`s3://` and `s3a://` lose only the slash at the end."""
    assert (normalize("s3://bucket/a b/"), normalize("s3a://bucket")) == ("s3://bucket/a b", "s3a://bucket")
    assert [is_local(root) for root in ("lake", "file:///lake", "s3://b")] == [True, True, False]


@pytest.mark.parametrize("root", ["gs://bucket", "az://container/x", "hdfs://host/x", "http://host/x"])
def test_a_store_without_support_is_named_with_the_legal_ones(root):
    """The message lists what a root may be."""
    with pytest.raises(RootUnusable, match=r"legal: a local path, file://, s3://, abfss://"):
        normalize(root)
    with pytest.raises(NotRunnable, match=r"s3://"):
        Storage().filesystem(root)


def test_the_options_come_from_the_environment_and_the_settings():
    """`AWS_*` variables reach the store, settings win, and short names are understood."""
    settings = load_settings(storage_options={"region": SecretStr("eu-west-1"), "aws_session_token": SecretStr("t")})
    environ = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "key", "OTHER": "x"}
    storage = Storage.of(settings, environ)
    assert storage.options == {"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SESSION_TOKEN": "t"}


def test_options_of_the_client_keep_their_names():
    """How often and how long to try is said in delta-rs's small letters, for every store; Azure's have their prefix."""
    given = {"max_retries": "2", "RETRY_TIMEOUT": "10s", "azure_storage_sas_token": "t"}
    settings = load_settings(storage_options={name: SecretStr(text) for name, text in given.items()})
    storage = Storage.of(settings, {"AZURITE_BLOB_STORAGE_URL": "http://127.0.0.1:1", "AZURE_CLIENT_ID": "id"})
    assert storage.options == {
        "AZURITE_BLOB_STORAGE_URL": "http://127.0.0.1:1",
        "AZURE_CLIENT_ID": "id",
        "AZURE_STORAGE_SAS_TOKEN": "t",
        "max_retries": "2",
        "retry_timeout": "10s",
    }


def test_a_clock_that_is_ahead_of_the_disk_is_noticed(tmp_path):
    """A file that was just written tells how far; nothing stays behind."""
    assert abs(Storage().ahead(str(tmp_path)).total_seconds()) < 5
    assert list(tmp_path.iterdir()) == []


def test_options_stay_where_they_are_needed():
    """Nothing of the options is in a text of the storage, and local tables get none of them."""
    storage = Storage({"AWS_SECRET_ACCESS_KEY": "hidden"})
    assert "hidden" not in repr(storage)
    assert (storage.delta_options("/lake"), storage.delta_options("s3://b")) == (
        {},
        {"AWS_SECRET_ACCESS_KEY": "hidden"},
    )


def test_a_root_is_made(tmp_path):
    """A root that is missing is made with its parents; object stores are asked at the first write."""
    check_writable(str(tmp_path / "a" / "b"))
    check_writable("s3://bucket/nowhere")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_root_that_is_a_file_is_refused(tmp_path):
    """The message says why it cannot be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RootUnusable, match=r"cannot be made"):
        check_writable(str(tmp_path / "file" / "lake"))


def check_root(root: str) -> list[str]:
    """What a look at a root says."""
    try:
        check_writable(root)
    except RootUnusable as error:
        return [str(error), error.fix]
    return []


def test_a_root_without_permission_is_refused(tmp_path, as_nobody):
    """A directory that is not writable, and one whose parent is not: user and path are named, and what to do."""
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    message, fix = as_nobody.call(check_root, closed)
    assert "is not writable for user" in message
    assert f"chmod u+w {closed}" in fix
    message, fix = as_nobody.call(check_root, closed / "lake")
    assert "cannot be made: Permission denied" in message
    assert "--root" in fix
    assert as_nobody.call(check_root, tmp_path) == []


def write_without_permission(place: str) -> list[str]:
    """Try to append to a table: the class of the error, and the rows afterwards."""
    table = find_table(place, Storage())
    try:
        append(table, rows(5), 2)
    except LakehouseError as error:
        return [type(error).__name__, str(error), str(find_table(place, Storage()).rows())]
    return []


@pytest.mark.parametrize("closed", [".", "_delta_log"])
def test_a_table_without_permission_is_not_written(tmp_path, as_nobody, closed):
    """Neither a file nor a commit can be written: `RootUnusable`, and the table is as it was."""
    place = tmp_path / "t"
    append(create_table(str(place), Storage(), TableSpec(SCHEMA)), rows(3), 1)
    files = sorted(place.rglob("*"))
    (place / closed).chmod(0o555)
    name, message, count = as_nobody.call(write_without_permission, place)
    assert (name, count) == ("RootUnusable", "3")
    assert "no permission" in message
    assert str(place) in message
    assert sorted(place.rglob("*")) == files


def read_without_permission(place: str) -> list[str]:
    """Try to open a table: the class of the error."""
    try:
        find_table(place, Storage())
    except LakehouseError as error:
        return [type(error).__name__, str(error)]
    return []


def test_a_table_that_may_not_be_read_is_not_taken_for_absent(tmp_path, as_nobody):
    """A log without read permission is an error, or else a new table would be made over it."""
    place = tmp_path / "t"
    append(create_table(str(place), Storage(), TableSpec(SCHEMA)), rows(3), 1)
    (place / "_delta_log").chmod(0o000)
    name, message = as_nobody.call(read_without_permission, place)
    (place / "_delta_log").chmod(0o755)
    assert name == "RootUnusable"
    assert "no permission" in message


PAGE = 4096


def fill_the_disk(disk: str) -> list[object]:
    """Append on a disk with less and less room, then with room again: errors, rows, number and stray files each time."""
    place, ballast = f"{disk}/lake/t", Path(disk) / "ballast"
    engine = EmbeddedEngine(Storage())
    engine.append(engine.create(place, TableSpec(SCHEMA)), engine.from_arrow(table_of(10)), Number("t", 1))
    found: list[object] = []

    def attempt(count: int, size: int = 10) -> None:
        try:
            engine.append(engine.find(place), engine.from_arrow(table_of(count, size)), Number("t", 2))
        except LakehouseError as error:
            found.append([type(error).__name__, error.transient, str(error)])
        table = engine.find(place)
        stray = len(list(Path(place).glob("*.parquet"))) - len(table.files())
        found.append([table.rows(), table.number("t"), stray])

    attempt(3000, 1000)
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * PAGE) == PAGE:
            continue
    attempt(1)
    os.truncate(ballast, ballast.stat().st_size - PAGE)
    attempt(1)
    ballast.unlink()
    attempt(100, 1000)
    return found


def table_of(count: int, size: int = 10) -> pa.Table:
    """Rows as a table."""
    return pa.Table.from_batches([rows(count, size)])


def test_a_full_disk_leaves_everything_as_it_was(on_tiny_disk, tmp_path):
    """No room for the rows, for a file at all, or for the commit: `StoreFailed`, nothing half-written; room mends it."""
    found = on_tiny_disk.call(fill_the_disk, tmp_path / "disk")
    assert len(found) == 7
    for error, state in zip(found[0:6:2], found[1:6:2], strict=True):
        assert error[:2] == ["StoreFailed", True]
        assert "is full; nothing was half-written" in error[2]
        assert "free space" in error[2]
        assert state == [10, 1, 0]
    assert found[6] == [110, 2, 0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreFailed),
        (OSError("Generic LocalFileSystem error ↳ No space left on device (os error 28)"), StoreFailed),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StoreFailed),
        (PermissionError(errno.EACCES, "Permission denied"), RootUnusable),
        (OSError(errno.EROFS, "Read-only file system"), RootUnusable),
        (OSError("Unable to create dir (os error 13)"), RootUnusable),
        (OSError("AWS Error ACCESS_DENIED during PutObject operation"), RootUnusable),
        (OSError("Generic S3 error: Server returned non-2xx status code: 403 Forbidden"), RootUnusable),
        (OSError("AWS Error NO_SUCH_BUCKET during HeadObject"), RootUnusable),
        (OSError("Azure Error: [ContainerNotFound] 404 The specified container does not exist."), RootUnusable),
        (OSError("Azure Error: [AuthorizationFailure] 403 Server failed to authenticate"), RootUnusable),
        (OSError("Generic MicrosoftAzure error ↳ Invalid Access Key"), RootUnusable),
        (OSError("Azure Error: [ServerBusy] 503"), StoreFailed),
        (OSError("Generic MicrosoftAzure error ↳ error sending request"), StoreFailed),
        (OSError("Generic S3 error ↳ error sending request ↳ operation timed out"), StoreFailed),
        (OSError("AWS Error SLOW_DOWN during PutObject"), StoreFailed),
        (OSError("Input/output error (os error 5)"), StoreFailed),
        (OSError("something else"), LakeError),
    ],
)
def test_failures_of_a_store_have_a_class_each(error, expected):
    """A full disk or a busy store can be tried again, a missing permission cannot."""
    found = store_fault("/lake/t", error, LakeError)
    assert type(found) is expected
    assert "/lake/t" in str(found)


def test_an_error_is_said_in_one_line():
    """The drawing and the colours of a library's message are left out."""
    text = "Generic S3 error\n      \x1b[31m↳\x1b[0m Error performing PUT\n       \x1b[31m↳\x1b[0m refused\n"
    assert first_line(OSError(text)) == "Generic S3 error: Error performing PUT: refused"
    assert first_line(OSError("x" * 500)) == "x" * 300
    assert first_line(KeyError()) == "KeyError"
