"""The part of the engine contract about streams into tables, compaction, vacuum, and tables of others."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse_assets.errors import ConcurrentWriter, FeatureRefused
from lakehouse_assets.lake import log
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number, TableSpec
from lakehouse_assets_tests.engines.bench import APP, KV, Bench, Table

FOREIGN = {
    "deletionVectors": (
        {"reader": ["deletionVectors"], "writer": ["deletionVectors"]},
        {"delta.enableDeletionVectors": "true"},
    ),
    "columnMapping": ({"reader": ["columnMapping"], "writer": ["columnMapping"]}, {"delta.columnMapping.mode": "name"}),
    "rowTracking": ({"reader": [], "writer": ["rowTracking", "domainMetadata"]}, {"delta.enableRowTracking": "true"}),
    "typeWidening": ({"reader": ["typeWidening"], "writer": ["typeWidening"]}, {"delta.enableTypeWidening": "true"}),
    "inCommitTimestamp": ({"reader": [], "writer": ["inCommitTimestamp"]}, {}),
    "clustering": ({"reader": [], "writer": ["clustering", "domainMetadata"]}, {}),
}


def foreign_table(place: Path, features: dict, properties: dict) -> None:
    """A table as another writer leaves it: its log says which features it uses."""
    log = place / "_delta_log"
    log.mkdir(parents=True)
    readers, writers = features["reader"], features["writer"]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": readers, "writerFeatures": writers}
    if not readers + writers:
        protocol = {"minReaderVersion": 2, "minWriterVersion": 5}
    elif not readers:
        protocol = {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": writers}
    maps = "delta.columnMapping.mode" in properties
    mapped = {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "col-1"}
    field = {"name": "k", "type": "long", "nullable": True, "metadata": mapped if maps else {}}
    metadata = {
        "id": "5fba94ed-9794-4965-ba6e-6ee3c0d22af9",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": [field]}),
        "partitionColumns": [],
        "configuration": properties | ({"delta.columnMapping.maxColumnId": "1"} if maps else {}),
        "createdTime": 0,
    }
    lines = [{"protocol": protocol}, {"metaData": metadata}]
    (log / f"{0:020d}.json").write_text("\n".join(map(json.dumps, lines)))


def read_or_refused(bench: Bench, place: Path, feature: str) -> None:
    """An engine that says it reads a feature reads the table; any other refuses it by name."""
    handle = bench.engine.find(str(place))
    assert handle is not None
    if feature in bench.engine.reads_features:
        assert bench.engine.rows(bench.engine.read(handle)) == []
        return
    with pytest.raises(FeatureRefused, match=feature):
        bench.engine.rows(bench.engine.read(handle))


def small_files(bench: Bench, count: int = 4, **how) -> Table:
    """A table of several small files."""
    table = bench.table(KV, **how)
    for n in range(count):
        table.append((n, "x"))
    return table


class UpkeepContract:
    """Streams into tables, and maintenance."""

    def test_an_appender_shows_nothing_before_its_commit(self, bench: Bench) -> None:
        """Batches are taken one by one; the table has them all or none."""
        table = bench.table(KV, (0, "a"))
        before = table.version
        appender = bench.engine.appender(table.open())
        for start in (1, 3):
            appender.write(pa.record_batch([[start, start + 1], ["x", None]], schema=KV))
        assert (table.version, table.rows()) == (before, [(0, "a")])
        commit = appender.commit(table.next())
        assert table.rows() == [(0, "a"), (1, "x"), (2, None), (3, "x"), (4, None)]
        assert (commit.version, commit.rows_added, table.number) == (before + 1, 4, 2)

    def test_a_discarded_appender_leaves_nothing(self, bench: Bench) -> None:
        """What was taken and given up is in no version and on no disk."""
        table = bench.table(KV, (0, "a"))
        files = {path.name for path in Path(table.uri).rglob("*.parquet")}
        appender = bench.engine.appender(table.open())
        for _ in range(3):
            appender.write(pa.record_batch([range(300_000), ["x"] * 300_000], schema=KV))
        appender.discard()
        appender.discard()
        assert {path.name for path in Path(table.uri).rglob("*.parquet")} == files
        assert table.rows() == [(0, "a")]

    def test_an_appender_that_lost_leaves_nothing(self, bench: Bench) -> None:
        """Refused because of its number, or skipped because of it: its files are deleted again."""
        table = bench.table(KV)
        late, later = (bench.engine.appender(table.open()) for _ in range(2))
        late.write(pa.record_batch([[7], ["late"]], schema=KV))
        table.append((1, "a"))
        with pytest.raises(ConcurrentWriter):
            late.commit(Number(APP, 1))
        late.discard()
        done = bench.engine.appender(table.open())
        done.write(pa.record_batch([[7], ["done"]], schema=KV))
        assert done.commit(Number(APP, 1)).skipped
        later.discard()
        assert len(list(Path(table.uri).rglob("*.parquet"))) == 1
        assert table.rows() == [(1, "a")]

    def test_discarding_after_the_commit_changes_nothing(self, bench: Bench) -> None:
        """Rows that were committed stay, whatever is done with the appender afterwards."""
        table = bench.table(KV)
        appender = bench.engine.appender(table.open())
        appender.write(pa.record_batch([[1], ["a"]], schema=KV))
        appender.commit(table.next())
        appender.discard()
        assert table.rows() == [(1, "a")]

    def test_an_appender_without_rows_carries_its_number(self, bench: Bench) -> None:
        """Nothing was taken: the commit is empty, and the number moves."""
        table = bench.table(KV, (1, "a"))
        appender = bench.engine.appender(table.open())
        appender.write(pa.RecordBatch.from_pylist([], schema=KV))
        appender.commit(table.next())
        assert (table.number, table.rows()) == (2, [(1, "a")])

    def test_more_partitions_than_open_files(self, bench: Bench) -> None:
        """Any number of partition values in one batch is written, each row once."""
        schema = pa.schema([("p", pa.int64()), ("v", pa.int64())])
        rows = [(n % 250, n) for n in range(1000)]
        table = bench.table(schema, *rows, partition_by=["p"])
        assert sorted(table.rows()) == sorted(rows)

    @pytest.mark.parametrize("partition_by", [[], ["k"]], ids=["whole", "partitioned"])
    def test_compaction_keeps_rows_and_numbers(self, bench: Bench, partition_by: list) -> None:
        """Small files become larger ones in one commit that moves no row and carries its own number."""
        table = small_files(bench, partition_by=partition_by)
        for n in range(4):
            table.append((n, "y"))
        rows, before = table.rows(), table.version
        commit = table.compact()
        assert (table.rows(), table.version, commit.version) == (rows, before + 1, before + 1)
        assert table.number == 8
        assert table.moved(before) == ("none", [])
        assert table.rows(before) == rows
        assert table.compact().skipped, "there is nothing left to compact"
        table.append((9, "z"))
        assert table.rows() == [*rows, (9, "z")]

    def test_a_checkpoint_changes_nothing(self, bench: Bench) -> None:
        """The log is summed up without a commit: rows, numbers and ranges stay, and writers go on."""
        table = small_files(bench)
        rows, before = table.rows(), table.version
        written = bench.engine.checkpoint(table.open())
        assert (table.rows(), table.version, table.number) == (rows, before, 4)
        assert not bench.engine.checkpoint(table.open()), "there is nothing left to sum up"
        if written:
            assert log.last_checkpoint(Storage(), table.uri) == before
            for path in Path(table.uri, "_delta_log").glob("*.json"):
                path.rename(path.with_suffix(".away"))
            assert (table.rows(), table.version, table.number) == (rows, before, 4)
            for path in Path(table.uri, "_delta_log").glob("*.away"):
                path.rename(path.with_suffix(".json"))
        table.append((9, "z"))
        assert table.moved(before) == ("append", [(9, "z")])
        assert table.rows() == [*rows, (9, "z")]

    def test_one_small_file_is_left_alone(self, bench: Bench) -> None:
        """A compaction that would change nothing makes no commit; large files are not rewritten."""
        table = bench.table(KV, (1, "a"))
        before = table.version
        assert table.compact().skipped
        table.append((2, "b"))
        assert table.compact(target_bytes=10).skipped
        assert table.version == before + 1

    def test_two_compactions_do_not_double(self, bench: Bench) -> None:
        """A compaction from a stale handle is refused, and its files are deleted again."""
        table = small_files(bench)
        first, second = table.open(), table.open()
        rows = table.rows()
        bench.engine.compact(first, 1 << 20)
        with pytest.raises(ConcurrentWriter):
            bench.engine.compact(second, 1 << 20)
        assert table.rows() == rows
        assert len(list(Path(table.uri).rglob("*.parquet"))) == 5

    def test_a_writer_that_is_older_than_a_compaction(self, bench: Bench) -> None:
        """Appends go on beside a compaction; what rewrites rows is refused and tried again."""
        table = small_files(bench)
        append, merge = table.open(), table.open()
        table.compact()
        bench.engine.append(append, table.relation([(9, "z")]), Number(APP, 9))
        with pytest.raises(ConcurrentWriter):
            bench.engine.merge(merge, table.changes_to([(0, "new")]), ["k"], Number(APP, 10))
        assert table.rows() == [(0, "x"), (1, "x"), (2, "x"), (3, "x"), (9, "z")]

    def test_vacuum_deletes_what_no_version_needs(self, bench: Bench) -> None:
        """Files of replaced rows go when they are old enough, with the files of batches that died; live rows stay."""
        table = bench.table(KV, (1, "a"), feed=True)
        table.merge([(1, "b")])
        orphan = Path(table.uri) / "part-of-a-batch-that-died.parquet"
        orphan.write_bytes(b"half a file")
        before = table.version
        assert bench.engine.vacuum(table.open(), 1) == []
        assert (table.version, orphan.exists()) == (before, True)
        gone = bench.engine.vacuum(table.open(), 0)
        assert len(gone) == 3, "the replaced file, the change data file and the orphan"
        assert not orphan.exists()
        assert (table.rows(), table.number) == ([(1, "b")], 2)
        assert table.moved(before) == ("none", [])

    def test_column_mapping_of_the_older_protocol_is_refused(self, bench: Bench, tmp_path: Path) -> None:
        """Before features had names, a property said it."""
        foreign_table(tmp_path / "old", {"reader": [], "writer": []}, {"delta.columnMapping.mode": "name"})
        read_or_refused(bench, tmp_path / "old", "columnMapping")

    @pytest.mark.parametrize("feature", FOREIGN)
    def test_tables_with_features_that_would_be_misread(self, bench: Bench, tmp_path: Path, feature: str) -> None:
        """A table that uses what this engine lacks is refused by the feature's name, before a row is read."""
        foreign_table(tmp_path / "foreign", *FOREIGN[feature])
        read_or_refused(bench, tmp_path / "foreign", feature)

    def test_a_table_of_an_unknown_feature_is_refused(self, bench: Bench, tmp_path: Path) -> None:
        """What nobody here knows cannot be read rightly either."""
        place = tmp_path / "foreign"
        foreign_table(place, {"reader": ["aFeatureOfTheFuture"], "writer": ["aFeatureOfTheFuture"]}, {})
        with pytest.raises(FeatureRefused):
            bench.engine.rows(bench.engine.read(bench.engine.find(str(place))))

    def test_a_table_kept_for_another_engine_is_not_written(self, bench: Bench) -> None:
        """`lakehouse.writers` names who may write; the error says how to run instead."""
        place = bench.place()
        other = "spark" if bench.engine.name == "embedded" else "embedded"
        for writers in ("both", bench.engine.name):
            bench.engine.refuse_writers(
                bench.engine.create(bench.place(), TableSpec(KV, (), {"lakehouse.writers": writers}))
            )
        handle = bench.engine.create(place, TableSpec(KV, (), {"lakehouse.writers": other}))
        with pytest.raises(FeatureRefused, match=f"--engine {other}"):
            bench.engine.refuse_writers(handle)

    def test_commits_of_others_are_seen(self, bench: Bench) -> None:
        """Commits of this project are told from those of others; maintenance of others changes no row."""
        table = small_files(bench)
        table.merge([(0, "b")])
        table.replace((5, "c"))
        table.compact()
        bench.engine.add_columns(table.open(), [pa.field("w", pa.int64())])
        handle = table.open()
        assert handle.foreign_commits(0, handle.version) == []
        foreign_append(table)
        handle = table.open()
        assert handle.foreign_commits(0, handle.version) == [handle.version]
        assert handle.foreign_commits(handle.version, handle.version) == []


def foreign_append(table: Table) -> None:
    """A commit by somebody else: the last append once more, without this project's mark."""
    log = Path(table.uri) / "_delta_log"
    versions = sorted(log.glob("*.json"))
    lines = [json.loads(line) for path in versions for line in path.read_text().splitlines()]
    add = next(line for line in reversed(lines) if "add" in line and line["add"]["dataChange"])
    info = {"commitInfo": {"timestamp": 0, "operation": "WRITE", "userName": "somebody"}}
    (log / f"{len(versions):020d}.json").write_text("\n".join(map(json.dumps, [info, add])))
