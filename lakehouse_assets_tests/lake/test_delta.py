"""Tests of handles on Delta tables: one write each, exact files, old versions, and whose commit was whose."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from lakehouse_assets.errors import (
    ConcurrentWriter,
    FeatureRefused,
    FeedExpired,
    LakeError,
    SchemaDrift,
    SourceBusy,
    TypeRefused,
)
from lakehouse_assets.lake.delta import create_table, find_table, open_table
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number, TableSpec

KV = pa.schema([("k", pa.int64()), ("v", pa.string())])
STORAGE = Storage()


@pytest.fixture
def uri(tmp_path):
    """The place of a new, empty table."""
    place = str(tmp_path / "t")
    create_table(place, STORAGE, TableSpec(KV))
    return place


def reader(*rows, schema=KV):
    """Rows as a stream."""
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema).to_reader()


def append(uri, *rows, number=None):
    """Append rows under the next number of `feed`."""
    table = open_table(uri, STORAGE)
    return table.append(reader(*rows), number or Number("feed", table.number("feed") + 1))


def test_a_handle_writes_once(uri):
    """After a write, or a write that was refused, every use of the handle is an error that says to open another."""
    done, refused = open_table(uri, STORAGE), open_table(uri, STORAGE)
    done.append(reader((1, "a")), Number("feed", 1))
    with pytest.raises(ConcurrentWriter):
        refused.append(reader((1, "a")), Number("feed", 1))
    for handle in (done, refused):
        for use in (handle.files, handle.rows, handle.features, lambda h=handle: h.number("feed")):
            with pytest.raises(LakeError, match=r"is spent[\s\S]*open the table again"):
                use()
        with pytest.raises(LakeError, match="is spent"):
            handle.append(reader((2, "b")), Number("feed", 2))
    assert open_table(uri, STORAGE).rows() == 1


def test_a_commit_knows_its_own_version(uri):
    """Between the handle and the commit others may have committed: the version is that of our commit."""
    late = open_table(uri, STORAGE)
    append(uri, (1, "a"))
    append(uri, (2, "b"))
    commit = late.append(reader((3, "c"), (4, "d")), Number("other", 1))
    assert (commit.version, commit.rows_added) == (3, 2)
    assert open_table(uri, STORAGE, 3).number("other") == 1
    assert open_table(uri, STORAGE, 2).number("other") == 0


def test_one_commit_may_carry_several_numbers(uri):
    """Each counts for its own feed, and each fences."""
    stale = open_table(uri, STORAGE)
    open_table(uri, STORAGE).append(reader((1, "a")), Number("a", 3), Number("b", 5))
    table = open_table(uri, STORAGE)
    assert [table.number(app_id) for app_id in ("a", "b", "c")] == [3, 5, 0]
    with pytest.raises(ConcurrentWriter):
        stale.append(reader((2, "b")), Number("c", 1), Number("b", 5))


def test_numbers_survive_checkpoints(uri):
    """A number stays readable however many commits follow."""
    append(uri, (0, "x"), number=Number("old", 7))
    for _ in range(55):
        append(uri)
    assert (Path(uri) / "_delta_log" / "_last_checkpoint").exists()
    assert open_table(uri, STORAGE).number("old") == 7


def test_the_log_is_never_cleaned_up(uri):
    """What the tables are created with keeps every version, and the numbers with it."""
    properties = open_table(uri, STORAGE).properties
    assert properties["delta.enableExpiredLogCleanup"] == "false"
    assert "delta.setTransactionRetentionDuration" not in properties


def test_a_table_with_local_timestamps_asks_for_no_more_than_that(tmp_path):
    """Adding columns and writing leave the protocol as it was made: no feature that other readers lack comes in."""
    uri = str(tmp_path / "t")
    create_table(uri, STORAGE, TableSpec(pa.schema([("t", pa.timestamp("us"))])))
    before = deltalake.DeltaTable(uri).protocol()
    open_table(uri, STORAGE).add_columns([pa.field("n", pa.timestamp("us")), pa.field("s", pa.string())])
    table = open_table(uri, STORAGE)
    row = (dt.datetime.fromisoformat("2024-01-01"), None, "x")
    table.overwrite(reader(row, schema=table.schema), Number("feed", 1))
    after = deltalake.DeltaTable(uri).protocol()
    assert (after.reader_features, after.writer_features) == (before.reader_features, before.writer_features)
    assert after.reader_features == ["timestampNtz"]


def test_files_are_left_out_by_their_statistics(uri):
    """Bounds on integers and texts exclude files; what has no statistics may hold anything."""
    for row in ((1, "a"), (5, "z" * 100), (9, None)):
        append(uri, row)
    table = open_table(uri, STORAGE)
    assert len(table.files()) == 3
    assert [len(table.files(bounds={"k": k})) for k in (1, 5, 7)] == [1, 1, 0]
    assert len(table.files(bounds={"v": "a"})) == 2, "nothing is known of a file without a text"
    assert len(table.files(bounds={"v": "z" * 100})) == 2
    assert len(table.files(bounds={"k": "1"})) == 3, "statistics of another type exclude nothing"
    assert len(table.files(bounds={"nowhere": 1})) == 3


def test_rows_are_counted_from_statistics(uri):
    """Without reading a file; unknown where a file says nothing."""
    append(uri, (1, "a"), (2, "b"))
    append(uri, (3, "c"))
    assert open_table(uri, STORAGE).rows() == 3
    deltalake.write_deltalake(
        uri,
        pa.table({"k": [4], "v": ["d"]}),
        mode="append",
    )
    assert open_table(uri, STORAGE).rows() == 4


def test_a_spec_is_checked_before_anything_is_made(tmp_path):
    """A column that Delta cannot hold, or a partition column that is not there: no directory is left."""
    for spec in (
        TableSpec(pa.schema([("t", pa.time64("us"))])),
        TableSpec(KV, ("nowhere",)),
        TableSpec(pa.schema([("x", pa.float64())]), ("x",)),
    ):
        with pytest.raises((TypeRefused, SchemaDrift)):
            create_table(str(tmp_path / "t"), STORAGE, spec)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["delta.setTransactionRetentionDuration", "delta.constraints.positive"])
def test_properties_that_cannot_be_relied_on_are_refused(tmp_path, name):
    """Numbers that expire would let a batch in twice; constraints would not be checked."""
    with pytest.raises(FeatureRefused, match=name):
        create_table(str(tmp_path / "t"), STORAGE, TableSpec(KV, properties={name: "interval 1 day"}))
    assert list(tmp_path.iterdir()) == []


def test_a_table_remembers_no_file_that_its_columns_came_from(tmp_path):
    """Field ids and the like, at any depth, are no part of a column; its comment is."""
    ids = {"PARQUET:field_id": "7"}
    deep = pa.struct([pa.field("x", pa.list_(pa.field("item", pa.int64(), metadata=ids)), metadata=ids)])
    named = pa.map_(pa.string(), pa.field("value", pa.int64(), metadata=ids))
    schema = pa.schema([pa.field("k", deep, metadata=ids | {"comment": "the key"}), pa.field("m", named)])
    table = create_table(str(tmp_path / "t"), STORAGE, TableSpec(schema))
    table.add_columns([pa.field("n", pa.int64(), metadata=ids)])
    log = (tmp_path / "t" / "_delta_log").glob("*.json")
    assert not any("field_id" in path.read_text() for path in log)
    table = open_table(table.uri, STORAGE)
    assert table.schema.field("k").metadata == {b"comment": b"the key"}
    assert table.schema.names == ["k", "m", "n"]


def test_a_rebuild_keeps_the_partition_columns(tmp_path):
    """A new schema without the partition column is refused, and nothing changes."""
    uri = str(tmp_path / "t")
    create_table(uri, STORAGE, TableSpec(KV, ("k",)))
    append(uri, (1, "a"))
    narrow = pa.schema([("v", pa.string())])
    with pytest.raises(SchemaDrift, match="partitioned by k"):
        open_table(uri, STORAGE).overwrite_schema(reader(("b",), schema=narrow), Number("feed", 2))
    assert open_table(uri, STORAGE).rows() == 1


def test_a_table_that_is_not_there(tmp_path):
    """Looking gives nothing, opening is an error with the next step; a directory alone is no table."""
    assert find_table(str(tmp_path), STORAGE) is None
    assert find_table(str(tmp_path / "nowhere"), STORAGE, 3) is None
    with pytest.raises(LakeError, match=r"there is no Delta table at [\s\S]*lakehouse run TABLE"):
        open_table(str(tmp_path), STORAGE)


def test_a_log_without_its_start_is_an_error(uri):
    """A table whose log lost its first version is broken, not absent."""
    append(uri, (1, "a"))
    (Path(uri) / "_delta_log" / f"{0:020d}.json").unlink()
    with pytest.raises(LakeError):
        find_table(uri, STORAGE)


def test_an_old_version_that_left_the_log(tmp_path):
    """With a checkpoint the table lives on; the versions before it are expired, with the remedy."""
    uri = str(tmp_path / "t")
    create_table(uri, STORAGE, TableSpec(KV, properties={"delta.checkpointInterval": "3"}))
    for n in range(5):
        append(uri, (n, "x"))
    (Path(uri) / "_delta_log" / f"{0:020d}.json").unlink()
    assert open_table(uri, STORAGE).rows() == 5
    with pytest.raises(FeedExpired, match="--full-refresh"):
        open_table(uri, STORAGE, 1)


def test_what_a_stream_raises_is_raised(uri):
    """Through delta-rs too, in its own class, and the table is as it was."""

    def batches():
        yield from reader((1, "a"))
        raise SourceBusy("locked")

    for write in ("append", "overwrite"):
        table = open_table(uri, STORAGE)
        with pytest.raises(SourceBusy, match="locked"):
            getattr(table, write)(pa.RecordBatchReader.from_batches(KV, batches()), Number("feed", 1))
    assert open_table(uri, STORAGE).version == 0


def test_a_mistake_of_the_caller_is_not_dressed_up(uri):
    """What delta-rs cannot have raised stays what it is."""

    def batches():
        raise KeyError("a mistake")
        yield

    with pytest.raises(KeyError):
        open_table(uri, STORAGE).append(pa.RecordBatchReader.from_batches(KV, batches()), Number("feed", 1))


def test_an_append_only_table_is_not_rewritten(tmp_path):
    """A table whose owner forbids removals refuses them by name, and a retry would not help."""
    uri = str(tmp_path / "t")
    create_table(uri, STORAGE, TableSpec(KV, properties={"delta.appendOnly": "true"}))
    append(uri, (1, "a"))
    with pytest.raises(FeatureRefused, match="append-only"):
        open_table(uri, STORAGE).overwrite(reader((2, "b")), Number("feed", 2))
    assert open_table(uri, STORAGE).rows() == 1


def test_a_foreign_binary_partition_is_refused(tmp_path):
    """A partition value that has no exact text is refused by the column's name."""
    uri = str(tmp_path / "t")
    deltalake.write_deltalake(uri, pa.table({"b": [b"\xff"], "k": [1]}), partition_by="b")
    with pytest.raises(FeatureRefused, match="binary column 'b'"):
        open_table(uri, STORAGE).files()
