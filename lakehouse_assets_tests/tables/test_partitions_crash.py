"""Kills of runs of tables that are made by partition: SIGKILL of real processes, then another run, then whole tables.

The processes and their points of death are those of the proof (`lakehouse_assets.prove`): each plan, each copy of a day
to a file, each replace commit, in a first run, in one with corrected days and new columns, and in a rebuild.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from lakehouse_assets.prove.proof import ROUNDS, Point, sample
from lakehouse_assets_tests.prove.conftest import seed as seed  # a fixture
from lakehouse_assets_tests.prove.lab import prover, wrong
from lakehouse_assets_tests.tables import partition_lab
from lakehouse_assets_tests.tables.partition_lab import CATALOG, PartitionLab

FIRST, MORE, _, REBUILD = ROUNDS
KILLS = 10
DAY = "2024-01-02"
DAYS = f"{partition_lab.__name__}:open_days"


def kinds(points: list[Point]) -> set[tuple[str, str]]:
    """(table, step) of the points."""
    return {(point.table, point.step) for point in points}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_between_a_day_at_the_source_and_gold_change_nothing(tmp_path: Path, seed: int) -> None:
    """§7.1: before, inside and after plans, files and commits of every table, whole tables are those of no kill."""
    with prover(tmp_path, CATALOG, seed=seed, open_source=DAYS, rounds=(FIRST, MORE)) as it:
        points = it.points()
        steps = {
            (name, step) for name in ("bronze.trades", "bronze.quotes", "silver.joined") for step in ("plan", "replace")
        }
        assert kinds(points) >= steps | {
            ("extract.trade", "extract"),
            ("extract.quote", "extract"),
            ("gold.bars", "replace"),
        }
        trials = [it.trial(point) for point in sample(points, KILLS, seed)]
    assert not wrong(trials), json.dumps([trial.row() for trial in trials], indent=1)
    assert all(trial.killed for trial in trials)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_in_the_middle_of_a_rebuild_change_nothing(tmp_path: Path, seed: int) -> None:
    """§7.1: a rebuild replaces a table with one of its days; whoever comes next makes the others."""
    with prover(tmp_path, CATALOG, seed=seed, open_source=DAYS, rounds=(FIRST, MORE, REBUILD)) as it:
        points = [point for point in it.points() if point.round == REBUILD]
        replaced = [
            point for point in points if point.step in ("plan", "rebuild", "replace") and point.moment == "after"
        ]
        assert {point.table for point in replaced} >= {"bronze.trades", "bronze.quotes", "silver.joined"}
        trials = [it.trial(point) for point in [*sample(replaced, KILLS // 2, seed), *sample(points, KILLS // 2, seed)]]
    assert not wrong(trials), json.dumps([trial.row() for trial in trials], indent=1)
    assert all(trial.killed for trial in trials)


def test_what_a_killed_process_left_of_a_file_does_no_harm(tmp_path: Path) -> None:
    """An unfinished file is no partition, is read by nobody, and is removed when it is a day old."""
    it = PartitionLab(tmp_path / "lake")
    it.day(DAY)
    it.run()
    directory = tmp_path / "lake" / "extract" / "trade" / f"date={DAY}"
    young, old, empty = (directory / f"_unfinished-{name}.parquet" for name in ("young", "old", "empty"))
    for path in (young, old):
        shutil.copy(directory / "trade.parquet", path)
    empty.touch()
    day_ago = time.time() - 86_401
    os.utime(old, (day_ago, day_ago))
    other = tmp_path / "lake" / "extract" / "trade" / "date=2024-01-03"
    other.mkdir()
    shutil.copy(
        directory / "trade.parquet", other / "_unfinished-whole.parquet"
    )  # killed before its first day was named
    assert it.run() == []
    it.day(DAY, price=20.0)
    it.run()
    assert it.rows("gold.bars", "high")[-1] == (22.0,)
    assert {path.name for path in directory.iterdir()} == {"trade.parquet", young.name, empty.name}
    assert len(it.rows("bronze.trades")) == 3
