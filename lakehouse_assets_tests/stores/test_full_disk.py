"""Tests of a disk that fills up in the middle of a run: whatever was being written, room makes it good."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from lakehouse_assets.errors import LakehouseError
from lakehouse_assets.tables.maintenance import compact
from lakehouse_assets_tests.cli.lab import rows_of
from lakehouse_assets_tests.conftest import Elsewhere
from lakehouse_assets_tests.stores.graph import TABLES, feed, graph


def fill_while_running(disk: str, seed: str) -> list[object]:
    """Runs with ever so little more room, until one goes through; errors, the tables before room, and those after."""
    chance, lab = random.Random(int(seed)), graph(f"{disk}/lake")
    feed(chance, lab)
    lab.run()
    feed(chance, lab)
    told: list[list[object]] = []
    for room in range(0, 400, 12):
        ballast = _fill(Path(disk), room * 1024)
        try:
            lab.run()
            for table in ("bronze.t", "silver.t"):
                compact(lab.work, lab.catalog.resolve(table))
        except LakehouseError as error:
            told.append([type(error).__name__, error.transient, str(error), bool(lab.rows("bronze.t"))])
        else:
            break
        finally:
            ballast.unlink()
    lab.run()
    return [told, {table: [repr(row) for row in _rows(lab, table)] for table in TABLES}]


def undisturbed(root: str, seed: str) -> dict[str, list[str]]:
    """The tables of the same rows on a disk with room."""
    chance, lab = random.Random(int(seed)), graph(root)
    for _ in range(2):
        feed(chance, lab)
        lab.run()
    return {table: [repr(row) for row in _rows(lab, table)] for table in TABLES}


def _rows(lab, table: str) -> list[tuple]:
    return rows_of(f"{lab.lake.root}/{table.replace('.', '/')}")


def _fill(disk: Path, room: int) -> Path:
    """Fill the disk up to so many bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(b"x" * max(free - room, 0))
    return ballast


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_step_of_a_run(on_tiny_disk: Elsewhere, tmp_path: Path) -> None:
    """§7.1: no room for a plan, a staged file, a commit, a merge or a compaction: named, and made good by room."""
    told, tables = on_tiny_disk.call(fill_while_running, tmp_path / "disk", 7)
    assert len(told) > 3
    for name, transient, message, readable in told:
        assert (name, transient, readable) == ("StoreFailed", True, True), message
        assert "is full; nothing was half-written" in message
        assert "free space, run again" in message
    assert tables == undisturbed(str(tmp_path / "clean"), "7")
