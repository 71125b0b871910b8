"""Tests of the write protocol: kills, replays, two writers, foreign commits."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading

import deltalake
import pytest

from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import ForeignCommit, LakeError, NotRunnable
from lakehouse_assets.tables.base import Idle
from lakehouse_assets.tables.refresh import feeds_of, preview
from lakehouse_assets_tests.tables import crash
from lakehouse_assets_tests.tables.lab import Lab

ONE = """
delta_live_store:
  - {entity_id: b, source: stream, source_format: sqlite, destination: bronze.t, source_schema: id BIGINT}
"""
SIGKILLED = -9
KILLS = 4


def grown(parts: int) -> dict:
    """Rows of both feeds after so many parts have arrived."""
    rows = random.Random(7)
    all_rows = {
        s: [{"k": rows.choice("abc"), "v": rows.choice(["1", "2", "-3", "x"])} for _ in range(12)]
        for s in ("one", "two")
    }
    return {source: found[: 4 * parts] for source, found in all_rows.items()}


def once(lake, tmp_path, parts, fatal=0, *rebuild):
    """Run the crash process on so many parts."""
    rows = tmp_path / f"rows{parts}.json"
    rows.write_text(json.dumps(grown(parts)))
    command = [sys.executable, "-m", crash.__name__, str(lake), str(rows), str(fatal), *rebuild]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def tables(lake) -> dict:
    """Every table of a lake, whole."""
    it = Lab(lake, crash.YAML)
    return {table: it.rows(table) for table in crash.TABLES}


@pytest.mark.slow
@pytest.mark.parametrize("rebuild", [False, True])
def test_a_kill_around_any_write_ends_in_equal_tables(tmp_path, rebuild):
    """§7.1: killed before or after any write, then run again: the tables equal those of a run never killed."""
    how = ("rebuild",) if rebuild else ()
    before, clean = tmp_path / "before", tmp_path / "clean"
    assert once(before, tmp_path, 1).returncode == 0
    shutil.copytree(before, clean)
    lived = once(clean, tmp_path, 2, 0, *how)
    assert lived.returncode == 0, lived.stderr
    writes = int(lived.stdout)
    expected = tables(clean)
    seed = random.randrange(1 << 30)
    print("seed", seed)
    for fatal in sorted(random.Random(seed).sample(range(1, writes + 1), KILLS)):
        lake = tmp_path / f"killed{fatal}"
        shutil.copytree(before, lake)
        assert once(lake, tmp_path, 2, fatal, *how).returncode == SIGKILLED
        again = once(lake, tmp_path, 2)
        assert again.returncode == 0, again.stderr
        assert tables(lake) == expected, f"killed at write {fatal}"


def test_two_writers_never_double(tmp_path):
    """A second writer with the same number fails and tries again, or stands down: rows are there once."""
    lake = tmp_path / "lake"
    labs = [Lab(lake, ONE) for _ in range(3)]
    faults = []

    def work(it: Lab) -> None:
        try:
            for _ in range(4):
                it.run()
        except Exception as error:
            faults.append(error)

    for n in range(3):
        for it in labs:
            it.feed("stream", [{"id": 10 * n + i} for i in range(4)])
        threads = [threading.Thread(target=work, args=(it,)) for it in labs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []
    assert labs[0].rows("bronze.t", "id") == sorted(((10 * n + i,) for n in range(3) for i in range(4)), key=repr)


def test_a_foreign_commit_is_named_and_stops_the_table(tmp_path):
    """A commit that somebody else made is refused, the choices are named, and nothing is written."""
    it = Lab(tmp_path / "lake", ONE)
    it.feed("stream", [{"id": 1}])
    it.run()
    table = deltalake.DeltaTable(str(tmp_path / "lake/bronze/t"))
    table.delete("id = 1")
    it.feed("stream", [{"id": 2}])
    with pytest.raises(ForeignCommit, match=r"version 2 of bronze.t changed rows.*\n.*--accept-foreign bronze.t"):
        it.run()
    assert it.rows("bronze.t") == []
    it.run("bronze.t", accept_foreign=True)
    assert it.rows("bronze.t", "id") == [(2,)]
    it.feed("stream", [{"id": 3}])
    it.run()
    assert it.rows("bronze.t", "id") == [(2,), (3,)]


def test_maintenance_of_others_is_no_foreign_commit(tmp_path):
    """Compaction by another tool changes no row: the feed goes on under the next number."""
    it = Lab(tmp_path / "lake", ONE)
    for i in range(3):
        it.feed("stream", [{"id": i}])
        it.run()
    deltalake.DeltaTable(str(tmp_path / "lake/bronze/t")).optimize.z_order(["id"])
    it.feed("stream", [{"id": 3}])
    it.run()
    assert it.rows("bronze.t", "id") == [(i,) for i in range(4)]


def test_a_removed_table_is_not_filled_up_by_guessing(tmp_path):
    """Plans without their table: refused, with the remedy; the remedy works."""
    it = Lab(tmp_path / "lake", ONE)
    for i in (1, 2):
        it.feed("stream", [{"id": i}])
        it.run()
    shutil.rmtree(tmp_path / "lake/bronze/t")
    it.feed("stream", [{"id": 3}])
    with pytest.raises(LakeError, match="bronze.t is not there, but the plans .* end with batch 2"):
        it.run()
    it.run(rebuild=True)
    assert it.rows("bronze.t", "id") == [(1,), (2,), (3,)]


def test_a_preview_writes_nothing(tmp_path):
    """`lakehouse plan` shows what `lakehouse run` would commit, and leaves the disk as it was."""
    it = Lab(tmp_path / "lake", ONE)
    it.feed("stream", [{"id": 1}])
    ((feed, draft),) = preview(it.work, TableName("bronze", "t"))
    assert (feed.name.destination, dict(draft.start), dict(draft.end)) == ("bronze.t", {"row": 0}, {"row": 1})
    assert not (tmp_path / "lake").exists()
    it.run()
    ((_, nothing),) = preview(it.work, TableName("bronze", "t"))
    assert isinstance(nothing, Idle)


def test_a_kind_of_a_later_version_says_so(tmp_path):
    """An entity that cannot run yet fails naming it and what is missing."""
    yaml = (
        ONE
        + """
  - entity_id: h
    source: bronze.t
    source_format: dlt
    destination: silver.h
    primary_keys: [id]
    apply_changes: {sequence_by: id, stored_as_scd_type: 2}
"""
    )
    it = Lab(tmp_path / "lake", yaml)
    with pytest.raises(NotRunnable, match=r"entity 'h' \(silver.h\) is a table of kind 'history'"):
        feeds_of(it.work, TableName("silver", "h"))


def test_the_rows_of_a_plan_carry_its_number(tmp_path):
    """The number stands in the commit that holds the rows, with the plan's id beside it."""
    it = Lab(tmp_path / "lake", ONE)
    it.feed("stream", [{"id": 1}])
    (outcome,) = it.run()
    log = [json.loads(line) for line in (tmp_path / f"lake/bronze/t/_delta_log/{1:020d}.json").read_text().splitlines()]
    assert next(a["txn"] for a in log if "txn" in a) == {"appId": "lakehouse/bronze.t", "version": 1}
    assert next(a["commitInfo"] for a in log if "commitInfo" in a)["lakehouse"] == outcome.plan.plan_id
    assert any("add" in action for action in log)


def test_a_restored_table_is_noticed(tmp_path):
    """`restore` rewinds the rows but not the number: noticed as a foreign commit, never skipped."""
    it = Lab(tmp_path / "lake", ONE)
    for i in range(2):
        it.feed("stream", [{"id": i}])
        it.run()
    deltalake.DeltaTable(str(tmp_path / "lake/bronze/t")).restore(1)
    it.feed("stream", [{"id": 2}])
    with pytest.raises(ForeignCommit):
        it.run()
