"""The part of the engine contract about what moved: changes between versions, old versions, ranges that are gone."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse_assets.errors import FeedExpired, LakeError
from lakehouse_assets_tests.engines.bench import KV, Bench, Table, move_file


def drop_version(table: Table, version: int) -> None:
    """Take a version out of a local table's log, as log clean-up does."""
    (Path(table.uri) / "_delta_log" / f"{version:020d}.json").unlink()


class FeedContract:
    """Changes."""

    def test_nothing_moved(self, bench: Bench) -> None:
        """From the newest version on, and over commits that change no row, nothing moved."""
        table = bench.table(KV, (1, "a"))
        before = table.version
        assert table.moved(before) == ("none", [])
        bench.engine.append(table.open(), None, table.next())
        bench.engine.add_columns(table.open(), [pa.field("w", pa.int64())])
        assert table.moved(before) == ("none", [])

    def test_appends_are_new_rows(self, bench: Bench) -> None:
        """Over appends, what moved is the rows that were added, exactly those of the range."""
        table = bench.table(KV, (1, "a"))
        before = table.version
        table.append((2, "b"))
        between = table.version
        table.append((3, "c"))
        assert table.moved(before) == ("append", [(2, "b"), (3, "c")])
        assert table.moved(between) == ("append", [(3, "c")])
        old = bench.engine.changes(table.open(between), before)
        assert bench.engine.rows(old.relation) == [{"k": 2, "v": "b"}]
        assert table.moved(0)[1] == table.rows()

    def test_appends_to_partitions_are_new_rows(self, bench: Bench) -> None:
        """Partition values of new rows come back typed."""
        schema = pa.schema([("d", pa.date32()), ("p", pa.string()), ("v", pa.int64())])
        table = bench.table(schema, (None, None, 1), partition_by=["d", "p"])
        before = table.version
        rows = [(dt.date(2024, 1, 1), "a b/ü", 2), (None, "x", 3), (dt.date(2024, 1, 1), None, 4)]
        table.append(*rows)
        assert table.moved(before) == ("append", sorted(rows, key=repr))

    def test_compaction_ripples_nowhere(self, bench: Bench) -> None:
        """A compaction in the range, before or behind it, moves nothing and hides nothing."""
        table = bench.table(KV, (1, "a"))
        before = table.version
        table.append((2, "b"))
        assert not table.compact().skipped
        table.append((3, "c"))
        assert table.moved(before) == ("append", [(2, "b"), (3, "c")])
        between = table.version
        assert not table.compact().skipped
        assert table.moved(between) == ("none", [])
        assert table.moved(before) == ("append", [(2, "b"), (3, "c")])

    @pytest.mark.parametrize("partition_by", [[], ["d"]], ids=["whole", "partitioned"])
    def test_merges_and_replaces_give_both_images(self, bench: Bench, partition_by: list) -> None:
        """A table with a change feed says what was there before and what is there now."""
        schema = pa.schema([("k", pa.int64()), ("d", pa.date32())])
        one, two = dt.date(2024, 1, 1), dt.date(2024, 1, 2)
        table = bench.table(schema, (1, one), (2, one), (3, two), partition_by=partition_by, feed=True)
        before = table.version
        table.merge([(1, two), (4, None)], [(3, None)])
        kind, images = table.moved(before)
        assert kind == "images"
        assert images == sorted(
            [
                (1, one, "update_preimage"),
                (1, two, "update_postimage"),
                (3, two, "delete"),
                (4, None, "insert"),
            ],
            key=repr,
        )
        before = table.version
        table.replace((9, one))
        kind, images = table.moved(before)
        assert (kind, sorted(key for key, *_ in images)) == ("images", [1, 2, 4, 9])
        before = table.version
        table.append((10, one))
        table.compact()
        assert table.moved(before) == ("append", [(10, one)])

    def test_images_over_a_compaction_and_an_added_column(self, bench: Bench) -> None:
        """Maintenance and new columns in the range leave the images exact."""
        table = bench.table(KV, (1, "a"), (2, "b"), feed=True)
        before = table.version
        table.merge([(1, "A")])
        assert not table.compact().skipped or table.append((3, "c"))
        bench.engine.add_columns(table.open(), [pa.field("w", pa.int64())])
        table.merge([(2, "B", 7)])
        kind, images = table.moved(before)
        assert kind == "images"
        assert [image for image in images if image[-1] != "insert"] == [
            (1, "A", None, "update_postimage"),
            (1, "a", None, "update_preimage"),
            (2, "B", 7, "update_postimage"),
            (2, "b", None, "update_preimage"),
        ]

    def test_images_may_be_asked_for_twice_in_a_query(self, bench: Bench) -> None:
        """A query that reads the images several times sees all of them each time."""
        table = bench.table(KV, (1, "a"), (2, "b"), feed=True)
        before = table.version
        table.merge([(1, "A"), (2, "B")])
        changes = bench.engine.changes(table.open(), before).relation
        sql = "SELECT a.k FROM moved AS a JOIN moved AS b ON a.k = b.k AND a._change_type <> b._change_type"
        assert sorted(row["k"] for row in bench.engine.rows(bench.engine.query(sql, {"moved": changes}))) == [
            1,
            1,
            2,
            2,
        ]

    def test_without_a_change_feed_a_reader_starts_over(self, bench: Bench) -> None:
        """Rows that were removed or rewritten without a feed are `rewritten`."""
        table = bench.table(KV, (1, "a"), (2, "b"))
        before = table.version
        table.merge([(1, "A")])
        assert table.moved(before) == ("rewritten", [])
        table.append((3, "c"))
        assert table.moved(before) == ("rewritten", [])
        assert table.moved(table.version - 1) == ("append", [(3, "c")])

    def test_other_columns_make_a_reader_start_over(self, bench: Bench) -> None:
        """Over a rebuild with other columns the images of old rows have no columns to stand in."""
        table = bench.table(KV, (1, "a"), feed=True)
        before = table.version
        columns = pa.schema([("k", pa.string())])
        bench.engine.rebuild(table.open(), table.relation([("x",)], columns), columns, table.next())
        assert table.moved(before) == ("rewritten", [])
        assert table.moved(table.version) == ("none", [])

    def test_old_versions_are_read(self, bench: Bench) -> None:
        """A handle of an older version reads the rows and columns of that version."""
        table = bench.table(KV, (1, "a"))
        before = table.version
        table.replace((2, "b"))
        bench.engine.add_columns(table.open(), [pa.field("w", pa.int64())])
        assert (table.rows(before), table.open(before).schema.names) == ([(1, "a")], ["k", "v"])
        assert table.rows() == [(2, "b", None)]

    def test_a_version_that_is_not_there_yet_is_named(self, bench: Bench) -> None:
        """Asking for a version of the future, or for changes since one, is an error that names both versions."""
        table = bench.table(KV, (1, "a"))
        with pytest.raises(LakeError, match="no version 7"):
            bench.engine.find(table.uri, 7)
        with pytest.raises(LakeError, match="version 7"):
            bench.engine.changes(table.open(), 7)

    def test_a_range_that_left_the_log_is_expired(self, bench: Bench) -> None:
        """A missing version in the range is `FeedExpired`, with the remedy, and so is opening it."""
        table = bench.table(KV, (1, "a"), properties={"delta.checkpointInterval": "5"})
        for n in range(6):  # a checkpoint lets the log go
            table.append((n, "x"))
        drop_version(table, 3)
        with pytest.raises(FeedExpired, match="--full-refresh"):
            table.moved(2)
        assert table.moved(3)[0] == "append"
        with pytest.raises(FeedExpired):
            bench.engine.find(table.uri, 3)
        assert len(table.rows()) == 7

    def test_files_that_were_vacuumed_are_expired(self, bench: Bench) -> None:
        """Appended rows whose files are gone, images whose files are gone, an old version whose files are gone."""
        table = bench.table(KV, (1, "a"), (2, "b"), feed=True)
        start = table.version
        table.append((3, "c"))
        table.merge([(1, "A")])
        merged = table.version
        table.replace((9, "z"))
        assert bench.engine.vacuum(table.open(), 0)
        with pytest.raises(FeedExpired):
            bench.engine.changes(table.open(merged - 1), start)
        with pytest.raises(FeedExpired):
            bench.engine.changes(table.open(), merged - 1)
        with pytest.raises(FeedExpired):
            table.rows(start)
        assert table.rows() == [(9, "z")]

    def test_files_of_one_name_in_several_partitions(self, bench: Bench) -> None:
        """Another writer may call files alike: each row comes once, with the values of its own partition."""
        schema = pa.schema([("p", pa.string()), ("v", pa.int64())])
        table = bench.table(schema, ("a", 0), partition_by=["p"])
        before = table.version
        for n, p in enumerate("ab"):
            table.append((p, n + 1))
            move_file(table, before + n + 1, f"p={p}/part-3.parquet")
        assert table.moved(before) == ("append", [("a", 1), ("b", 2)])
        assert table.rows() == [("a", 0), ("a", 1), ("b", 2)]

    def test_paths_with_marks(self, bench: Bench) -> None:
        """A table stands below any directory that a lake may have."""
        below = Bench(bench.engine, f"{bench.place()}/la ke{{x}} ü+&'")
        table = below.table(KV, (1, "a"), feed=True)
        before = table.version
        table.append((2, "b"))
        assert table.moved(before) == ("append", [(2, "b")])
        table.merge([(1, "A")])
        assert table.moved(before)[0] == "images"
        assert table.rows() == [(1, "A"), (2, "b")]
