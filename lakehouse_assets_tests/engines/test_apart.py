"""Open and closed rows of a table with history stand in files of their own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse_assets.engines import apart
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Within
from lakehouse_assets_tests.engines.bench import Bench, Table

SCHEMA = pa.schema([("k", pa.int64()), ("v", pa.string()), ("start", pa.int64()), ("end", pa.int64())])
PROPERTIES = {"lakehouse.apart": "end", "delta.dataSkippingStatsColumns": "k,start,end"}
COUNT = 120_000


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Tables of the embedded engine."""
    return Bench(EmbeddedEngine(Storage()), str(tmp_path))


def rows() -> pa.Table:
    """Enough rows to be worth a commit: of a hundred one is open."""
    ends = [None if n % 100 == 0 else COUNT - n for n in range(COUNT)]
    return pa.table({"k": range(COUNT), "v": ["x"] * COUNT, "start": range(COUNT), "end": ends}, SCHEMA)


def nulls(table: Table) -> list[tuple[int | None, int]]:
    """Rows, and open rows, of each file."""
    handle = table.open()
    found = handle.null_counts("end")
    return sorted((file.rows, found[file.path]) for file in handle.files())


def test_mixed_files_are_taken_apart_and_no_row_changes(bench: Bench) -> None:
    """The same rows, in files for open and for closed ones; nobody downstream moves, and it is done once."""
    table = bench.table(SCHEMA, properties=PROPERTIES)
    bench.engine.append(table.open(), bench.engine.from_arrow(rows()), table.next())
    before, held = table.version, table.rows()
    assert not bench.engine.take_apart(table.open()).skipped
    assert nulls(table) == [(COUNT // 100, COUNT // 100), (COUNT - COUNT // 100, 0)]
    assert table.rows() == held
    assert table.moved(before) == ("none", [])
    assert bench.engine.take_apart(table.open()).skipped


def test_a_whole_replace_writes_them_apart(bench: Bench) -> None:
    """A rebuild lays files out as merges like them, in the one commit that has its number."""
    table = bench.table(SCHEMA, (1, "old", 1, None), properties=PROPERTIES, feed=True)
    before = table.version
    commit = bench.engine.replace(table.open(), bench.engine.from_arrow(rows()), table.next())
    assert (commit.version, commit.rows_added, commit.rows_removed) == (before + 1, COUNT, 1)
    assert nulls(table) == [(COUNT // 100, COUNT // 100), (COUNT - COUNT // 100, 0)]
    kind, images = table.moved(before)
    assert (kind, len(images)) == ("images", COUNT + 1)


def test_a_merge_within_open_rows_opens_no_file_of_closed_ones(bench: Bench) -> None:
    """However long the history is: files of closed rows stay as they are."""
    table = bench.table(SCHEMA, properties=PROPERTIES)
    bench.engine.replace(table.open(), bench.engine.from_arrow(rows()), table.next())
    closed = {file.path for file in table.open().files() if not table.open().null_counts("end")[file.path]}
    change = table.changes_to([(0, "x", 0, 7), (0, "y", 7, None)])
    bench.engine.merge(table.open(), change, ["k", "start"], table.next(), Within("end"))
    assert closed <= {file.path for file in table.open().files()}
    assert apart.mixed(table.open()) == []  # one closed row is not worth a commit


def test_a_table_that_does_not_ask_for_it_stays_as_it_is(bench: Bench) -> None:
    """Only tables with history are laid out so."""
    table = bench.table(SCHEMA)
    bench.engine.append(table.open(), bench.engine.from_arrow(rows()), table.next())
    assert bench.engine.take_apart(table.open()).skipped
