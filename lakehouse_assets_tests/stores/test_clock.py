"""Tests of lakes under a clock that jumps: numbers, plans and retention do not depend on anybody's idea of the time."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse_assets.lake.values import Number
from lakehouse_assets_tests.conftest import ROOT, need
from lakehouse_assets_tests.stores import clock
from lakehouse_assets_tests.stores.graph import TABLES, assert_equal, feed, graph

DAY = 86_400
SEEN = """
import json, sys, time, deltalake, duckdb, pyarrow as pa
deltalake.write_deltalake(sys.argv[1], pa.table({"a": [1]}))
commit = json.loads(open(sys.argv[1] + "/_delta_log/00000000000000000000.json").readline())["commitInfo"]
print(json.dumps([time.time(), commit["timestamp"] / 1000, duckdb.sql("SELECT epoch(now())").fetchone()[0]]))
"""


@pytest.fixture
def jumping(tmp_path: Path) -> Path:
    """The file that says how far the clock of other processes is from the truth."""
    there = clock.library()
    need(there is not None and there.exists(), "libfaketime (of the dev packages)", "`make setup`")
    clock.turn(tmp_path / "clock", 0)
    return tmp_path / "clock"


def process(clock_file: Path, *arguments: object) -> str:
    """What a process under that clock says."""
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    environ = os.environ | clock.faked(clock_file)
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_jump_reaches_native_code(jumping: Path, tmp_path: Path) -> None:
    """Python, delta-rs and DuckDB of the child all see it; else the other tests here would prove nothing."""
    clock.turn(jumping, 400)
    seen = json.loads(process(jumping, "-c", SEEN, tmp_path / "t"))
    assert all(abs(moment - time.time() - 400 * DAY) < 60 for moment in seen), seen


@pytest.mark.slow
def test_a_clock_that_jumps_changes_no_table(jumping: Path, tmp_path: Path) -> None:
    """Runs, compactions and vacuums while the clock goes back and forward by years: whole tables as without it."""
    seed = int(os.environ.get("LAKEHOUSE_TEST_SEED") or random.randrange(1 << 30))
    print("LAKEHOUSE_TEST_SEED =", seed)
    gone = int(process(jumping, "-m", clock.__name__, tmp_path / "lake", jumping, seed).splitlines()[-1])
    assert gone > 0, "the vacuums deleted nothing, so this shows nothing"
    clean, chance = graph(tmp_path / "clean"), random.Random(seed)
    for _ in clock.DAYS:
        feed(chance, clean)
        clean.run()
    lab = graph(tmp_path / "lake")
    assert_equal(lab, clean)
    lab.streams = clean.streams  # what comes later is read on from where the wrong clocks left off
    feed(chance, clean)
    clean.run()
    lab.run()
    assert_equal(lab, clean)
    assert all(lab.version(table) > 0 for table in TABLES)


@pytest.mark.slow
@pytest.mark.parametrize("days", [400, -400])
def test_a_vacuum_under_a_wrong_clock_leaves_a_running_batch_its_files(
    jumping: Path, tmp_path: Path, days: int
) -> None:
    """Rows that another process staged and has not committed yet are there when it does."""
    lab = graph(tmp_path / "lake")
    feed(random.Random(1), lab)
    lab.run("bronze.t")
    before = lab.rows("bronze.t")
    handle = lab.engine.find(f"{tmp_path}/lake/bronze/t")
    stage = lab.engine.appender(handle)
    stage.write(pa.RecordBatch.from_pylist([dict.fromkeys(handle.schema.names) | {"k": "z"}], schema=handle.schema))
    stage._stage._flush()
    stage._stage._wait()
    clock.turn(jumping, days)
    process(jumping, "-m", clock.__name__, tmp_path / "lake")
    stage.commit(Number("lakehouse/other", 1))
    assert len(lab.rows("bronze.t")) == len(before) + 1
