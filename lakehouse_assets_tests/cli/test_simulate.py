"""`lakehouse simulate sensors`."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lakehouse_assets_tests.cli.lab import Machine, eventually


def everything(path: Path) -> list[tuple]:
    """All readings of a file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM sensor_readings").fetchall()


def test_history(machine: Machine) -> None:
    """Hours of readings, about one a minute and sensor; the same arguments write the same rows."""
    paths = [machine.directory / name for name in ("a.db", "b.db", "c.db")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        how = ("--hours", "2", "--sensors", "3", "--start", "2025-05-01", "--seed", seed)
        done = machine.lakehouse("simulate", "sensors", "--database", path, *how)
        assert done.exit_code == 0, done.stderr
        assert f"{path}: " in done.stderr
    one, two, three = map(everything, paths)
    assert 300 < len(one) <= 370
    assert one == two
    assert one != three


def test_about_so_many_rows(machine: Machine) -> None:
    """`--rows N` instead of hours."""
    path = machine.directory / "a.db"
    machine.lakehouse(
        "simulate", "sensors", "--database", path, "--rows", "1000", "--sensors", "10", "--fault-rate", "0"
    )
    assert len(everything(path)) == 1000


def test_live_until_stopped(machine: Machine) -> None:
    """`--live` writes until SIGTERM, then says what it wrote and ends with 0."""
    path = machine.directory / "live.db"
    child = machine.start("simulate", "sensors", "--database", path, "--live", "--rate", "300")
    eventually(lambda: path.exists() and _count(path) > 20)
    child.send_signal(signal.SIGTERM)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 0
    assert f"{_count(path):,} readings" in told


def _count(path: Path) -> int:
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        if not connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'sensor_readings'").fetchone()[0]:
            return 0
        return connection.execute("SELECT count(*) FROM sensor_readings").fetchone()[0]


def test_live_for_so_many_rows(machine: Machine) -> None:
    """`--live --rows N` ends by itself."""
    path = machine.directory / "live.db"
    done = machine.lakehouse("simulate", "sensors", "--database", path, "--live", "--rate", "5000", "--rows", "500")
    assert done.exit_code == 0
    assert len(everything(path)) >= 500


@pytest.mark.parametrize(
    "how", [("--live", "--hours", "1"), ("--rate", "5"), ("--hours", "1", "--rows", "5"), ("--live", "--rate", "-1")]
)
def test_arguments_that_do_not_go_together(machine: Machine, how: tuple[str, ...]) -> None:
    """Wrong use: exit code 2, no file."""
    done = machine.lakehouse("simulate", "sensors", "--database", machine.directory / "a.db", *how)
    assert done.exit_code == 2
    assert not (machine.directory / "a.db").exists()


def test_a_file_that_is_no_database_is_left_as_it_is(machine: Machine) -> None:
    """Exit code 1, and the file is as it was."""
    path = machine.directory / "notes.txt"
    path.write_text("notes " * 500)
    assert machine.lakehouse("simulate", "sensors", "--database", path).exit_code == 1
    assert path.read_text() == "notes " * 500
