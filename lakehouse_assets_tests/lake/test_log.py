"""Tests of what the log of a table says: which commits changed rows, what they added, what somebody still needs."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from lakehouse_assets.errors import FeedExpired, LakeError
from lakehouse_assets.lake import log
from lakehouse_assets.lake.delta import create_table, find_table
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number, TableSpec

SCHEMA = pa.schema([("v", pa.string())])
STORAGE = Storage()


def add(path: str, changes: bool = True, **more: object) -> dict:
    """An `add` action."""
    return {"add": {"path": path, "size": 1, "dataChange": changes, **more}}


def remove(path: str, at: int, changes: bool | None = True) -> dict:
    """A `remove` action; its `dataChange` may be left out."""
    return {"remove": {"path": path, "deletionTimestamp": at} | ({} if changes is None else {"dataChange": changes})}


def info(at: int = 0, **more: object) -> dict:
    """A `commitInfo` action."""
    return {"commitInfo": {"timestamp": at, **more}}


def range_of(*commits: list[dict]) -> list[tuple[int, list[dict]]]:
    """Commits, numbered from version 1."""
    return list(enumerate(commits, 1))


@pytest.fixture
def table(tmp_path):
    """A table with two appends."""
    uri = str(tmp_path / "t")
    create_table(uri, STORAGE, TableSpec(SCHEMA))
    for number, text in enumerate(("a\u2028b\x85c", "d"), 1):
        rows = pa.table({"v": [text]}, schema=SCHEMA)
        find_table(uri, STORAGE).append(rows.to_reader(), Number("feed", number))
    return find_table(uri, STORAGE)


def test_a_commit_is_read_line_by_line(table):
    """Texts in statistics may hold anything that some programs take for the end of a line."""
    commits = dict(log.commits(STORAGE, table.uri, 0, 2))
    assert [log.carries(commits[n], "feed", n) for n in (1, 2)] == [True, True]
    assert [log.records(a) for a in log.added(range_of(*commits.values()))] == [1, 1]


def test_an_empty_range_reads_nothing(table):
    """Versions after the newest, up to the newest: none."""
    assert list(log.commits(STORAGE, table.uri, 2, 2)) == []


def test_a_version_that_left_the_log_is_named(table):
    """The error carries the version and what to do."""
    with pytest.raises(FeedExpired, match=r"version 3 of .* left its log\b[\s\S]*--full-refresh") as caught:
        list(log.commits(STORAGE, table.uri, 1, 3))
    assert caught.value.facts["version"] == 3


def test_a_broken_version_is_named(table):
    """A file of the log that is no JSON is an error of the lake, not of this code."""
    from pathlib import Path

    (Path(table.uri) / "_delta_log" / f"{2:020d}.json").write_text('{"add": ')
    with pytest.raises(LakeError, match="version 2 in the log"):
        list(log.commits(STORAGE, table.uri, 0, 2))


def test_added_rows_are_those_of_appends():
    """Adds with rows are found, those of maintenance are not; a removal or a deletion vector ends it."""
    moved = [add("moved", False), remove("a", 1, False)]
    assert [a["path"] for a in log.added(range_of([add("a")], moved, [info(), add("b")]))] == ["a", "b"]
    assert log.added(range_of()) == []
    assert log.added(range_of([add("a")], [remove("a", 1)])) is None
    assert log.added(range_of([add("a")], [remove("a", 1, None)])) is None
    assert log.added(range_of([add("a", deletionVector={"storageType": "u"})])) is None


@pytest.mark.parametrize(
    ("commit", "changes"),
    [
        ([info()], False),
        ([{"metaData": {}}, {"protocol": {}}], False),
        ([add("a", False), remove("b", 1, False)], False),
        ([add("a")], True),
        ([remove("a", 1)], True),
        ([remove("a", 1, None)], True),
    ],
)
def test_a_commit_changes_rows_or_not(commit, changes):
    """Maintenance and metadata change no row."""
    assert log.changes_rows(commit) is changes


def test_the_commits_of_this_project_carry_its_mark():
    """The mark stands in the commit info, or, written by Spark, in its user metadata."""
    assert log.is_ours([info(lakehouse="plan")])
    assert log.is_ours([info(userMetadata=json.dumps({"lakehouse": "plan"}))])
    assert not log.is_ours([info(operation="WRITE")])
    assert not log.is_ours([add("a")])


def test_the_change_feed_stands_in_its_own_files_or_in_the_data():
    """A commit with change data is read from there, any other from the files that it added and removed."""
    commits = range_of(
        [add("a%20b"), remove("c", 1)], [{"cdc": {"path": "_change_data/x"}}, add("d")], [add("moved", False)]
    )
    assert log.changed_paths(commits) == ["a b", "c", "_change_data/x"]


def test_a_null_partition_value_has_two_spellings():
    """NULL stands in the log as null or as an empty text."""
    assert log.partition_values({"partitionValues": {"a": "", "b": None, "c": "x"}}) == {"a": None, "b": None, "c": "x"}
    assert log.partition_values({}) == {}


def test_a_reader_of_changes_needs_what_came_and_went():
    """Rows that were added and compacted away, rows that were removed, change data; not what was there before."""
    compaction = [add("big", False), remove("old", 100, False), remove("new", 200, False)]
    assert log.needed_since(range_of([add("new")], compaction), snapshot=False) == 200
    assert log.needed_since(range_of(compaction), snapshot=False) is None
    assert log.needed_since(range_of([add("x")]), snapshot=False) is None
    assert log.needed_since(range_of([remove("old", 70)], compaction), snapshot=False) == 70
    assert log.needed_since(range_of([info(50), {"cdc": {"path": "c"}}, add("a")]), snapshot=False) == 50


def test_a_reader_of_a_version_needs_every_file_of_it():
    """Whatever removed a file since."""
    commits = range_of([remove("a", 300, False)], [remove("b", 100, False)])
    assert log.needed_since(commits, snapshot=True) == 100
    assert log.needed_since(range_of([add("a")]), snapshot=True) is None


def test_files_that_are_gone_are_expired(table):
    """The first missing file is named."""
    paths = [file.path for file in table.files()]
    log.require(STORAGE, table.uri, paths)
    log.require(STORAGE, table.uri, [])
    with pytest.raises(FeedExpired, match=r"gone\.parquet .* was vacuumed"):
        log.require(STORAGE, table.uri, [*paths, f"{table.uri}/gone.parquet"])


def test_the_time_of_a_commit():
    """In milliseconds; nothing is made up."""
    assert (log.committed_at([add("a"), info(5)]), log.committed_at([add("a")])) == (5, 0)
