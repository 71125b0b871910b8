"""Tests of the seam around delta-rs and DuckDB: every class that they raise is known, and becomes one of ours."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest
from deltalake import exceptions

from lakehouse_assets.engines.base import open_engine
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.errors import (
    ConcurrentWriter,
    FeatureRefused,
    FeedExpired,
    LakeError,
    LakehouseError,
    SchemaDrift,
    SettingsError,
    SqlError,
    StoreFailed,
)
from lakehouse_assets.lake.faults import KNOWN, translated
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.streams import Watched
from lakehouse_assets.lake.values import Number, TableSpec
from lakehouse_assets.settings import load_settings

DELTA = {name: cls for name, cls in vars(exceptions).items() if isinstance(cls, type)}
CONFLICT = "Failed to commit transaction: Concurrent transaction failed."


def become(error: Exception, **how: object) -> LakehouseError:
    """What an error of delta-rs becomes."""
    with pytest.raises(LakehouseError) as caught, translated("/lake/t", **how):
        raise error
    return caught.value


def test_every_class_of_delta_rs_is_known():
    """A class that a new release brings has to be looked at: add it to KNOWN, and map it in `delta_fault`."""
    assert set(DELTA) == set(KNOWN)


@pytest.mark.parametrize("name", DELTA)
def test_every_class_of_delta_rs_is_translated(name):
    """None of them leaves the lake; the cause is kept for who looks."""
    cause = DELTA[name]("something")
    error = become(cause)
    assert "/lake/t" in str(error)
    assert "something" in str(error)
    assert error.__cause__ is cause


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.CommitFailedError(CONFLICT), ConcurrentWriter),
        (exceptions.CommitFailedError("Failed to commit transaction: 0"), ConcurrentWriter),
        (exceptions.DeltaError("Delta transaction failed, version 7 already exists."), ConcurrentWriter),
        (exceptions.CommitFailedError("Unsupported table features required: [DeletionVectors]"), FeatureRefused),
        (exceptions.CommitFailedError("… but Delta table is append-only"), FeatureRefused),
        (exceptions.DeltaError("Kernel error: Unsupported: Feature 'x' is not supported"), FeatureRefused),
        (exceptions.SchemaMismatchError("Field k has another type"), SchemaDrift),
        (exceptions.DeltaProtocolError("broken"), LakeError),
        (OSError("Generic S3 error ↳ timed out"), StoreFailed),
        (OSError("No space left on device (os error 28)"), StoreFailed),
        (ValueError("arrow: invalid argument"), LakeError),
        (NotImplementedError("arrow"), LakeError),
        (RuntimeError("lock"), LakeError),
        (pa.ArrowInvalid("arrow"), LakeError),
        (Exception("what Rust has no class for"), LakeError),
    ],
)
def test_errors_of_delta_rs_have_a_class_each(error, expected):
    """A conflict can be tried again, a feature cannot: they are told apart by what they say."""
    assert type(become(error)) is expected


def test_the_caller_says_what_anything_else_is():
    """A range that cannot be read is expired; a class that the caller handles passes."""
    assert type(become(exceptions.DeltaError("?"), otherwise=FeedExpired)) is FeedExpired
    with pytest.raises(exceptions.TableNotFoundError), translated("/t", passing=(exceptions.TableNotFoundError,)):
        raise exceptions.TableNotFoundError("?")


def test_errors_of_ours_and_mistakes_pass():
    """The seam changes neither what is translated already nor what is a bug here."""
    for error in (SqlError("x"), KeyError("x"), TypeError("x"), AttributeError("x")):
        with pytest.raises(type(error)) as caught, translated("/t"):
            raise error
        assert caught.value is error


def test_the_error_of_a_stream_wins():
    """What delta-rs makes of it is of no interest."""
    rows = Watched(pa.table({"a": [1]}).to_reader())
    rows.error = StoreFailed("the source's disk")
    with pytest.raises(StoreFailed, match="the source's disk"), translated("/t", rows):
        raise exceptions.DeltaError("Unknown error: the source's disk. Detail: Python exception")


def test_every_class_of_duckdb_is_one_error():
    """The engine catches the root of DuckDB's classes; a new one below it needs no change."""
    classes = [cls for cls in vars(duckdb).values() if isinstance(cls, type) and issubclass(cls, Exception)]
    outside = {cls for cls in classes if not issubclass(cls, duckdb.Error | Warning)}
    assert {cls.__name__ for cls in outside} <= {"Warning"}
    assert len(classes) > 20


@pytest.fixture
def engine():
    """An embedded engine that may use little memory and spill nowhere."""
    engine = EmbeddedEngine(Storage(), memory_limit="20MB", threads=1)
    yield engine
    engine.close()


def test_a_file_that_is_gone_is_expired(engine, tmp_path):
    """A data file that was vacuumed under a reader is named with the remedy."""
    schema = pa.schema([("k", pa.int64())])
    place = str(tmp_path / "t")
    engine.append(engine.create(place, TableSpec(schema)), engine.from_arrow(pa.table({"k": [1]})), Number("t", 1))
    relation = engine.read(engine.find(place))
    next((tmp_path / "t").glob("*.parquet")).unlink()
    with pytest.raises(FeedExpired, match="--full-refresh"):
        engine.rows(relation)


def test_a_file_that_is_broken_is_no_fault_of_the_query(engine, tmp_path):
    """A data file that is no Parquet is an error that can be looked into, with the file named."""
    place = str(tmp_path / "t")
    table = engine.create(place, TableSpec(pa.schema([("k", pa.int64())])))
    engine.append(table, engine.from_arrow(pa.table({"k": [1]})), Number("t", 1))
    file = next((tmp_path / "t").glob("*.parquet"))
    file.write_bytes(b"not parquet at all, but long enough to be looked at")
    with pytest.raises(LakehouseError, match=file.name):
        engine.rows(engine.read(engine.find(place)))


def hold_too_much(spill: str) -> list[object]:
    """Hold more than memory and the disk to spill to can take; then something small."""
    engine = EmbeddedEngine(Storage(), memory_limit="10MB", temp_directory=spill, threads=1)
    rows = engine.from_arrow(pa.table({"a": pa.array(range(4_000_000), pa.int64())}))
    found: list[object] = []
    try:
        engine.held(rows).__enter__()
    except LakehouseError as error:
        found = [type(error).__name__, error.transient, str(error)]
    with engine.held(engine.from_arrow(pa.table({"a": [1]}))) as held:
        found.append(engine.rows(held))
    engine.close()
    return found


def test_too_little_memory_and_disk_is_named_with_the_settings(on_tiny_disk, tmp_path):
    """Memory and spill space are the machine's: the error names both settings, and the engine goes on."""
    name, transient, message, rows = on_tiny_disk.call(hold_too_much, tmp_path / "disk")
    assert (name, transient, rows) == ("StoreFailed", True, [{"a": 1}])
    assert "LAKEHOUSE_MEMORY_LIMIT" in message
    assert "LAKEHOUSE_TEMP_DIRECTORY" in message


def test_a_directory_to_spill_to_that_cannot_be_made(tmp_path):
    """The setting is named before anything is written."""
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "spill", tmp_path / "file", "/proc/nope"):
        with pytest.raises(SettingsError, match="LAKEHOUSE_TEMP_DIRECTORY"):
            open_engine(load_settings(temp_directory=place), Storage())
