"""Killed with SIGKILL at random moments while rows arrive, then run to the end: the tables equal a clean run's, whole.

Kills at chosen moments, of every kind of table: `lakehouse prove` (`lakehouse_assets_tests/prove/`).

A failing test prints its seed; LAKEHOUSE_TEST_SEED repeats it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lakehouse_assets.lake.storage import Storage
from lakehouse_assets_tests.cli.lab import Machine, readings, rows_of, write
from lakehouse_assets_tests.conftest import Bucket

pytestmark = pytest.mark.slow

WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("PRAGMA synchronous = OFF")
for part in range(int(sys.argv[2]) // 10):
    connection.execute("BEGIN IMMEDIATE")
    for n in range(part * 10, part * 10 + 10):
        moment = f"2025-05-01T{n // 3600 % 24:02d}:{n // 60 % 60:02d}:{n % 60:02d}"
        value = "n/a" if n % 10 == 3 else n * 37 % 100
        connection.execute("INSERT INTO readings (timestamp, v) VALUES (?, ?)", (moment, value))
    connection.execute("COMMIT")
    time.sleep(float(sys.argv[3]))
"""
"""Appends rows, ten a transaction, the same ones every time; every tenth one does not fit its column."""
RUN = ("bronze.readings", "bronze.readings_quarantine", "silver.readings", "silver.readings_quarantine", "gold.thirds")


@pytest.fixture
def chance() -> random.Random:
    """The moments of the kills."""
    seed = int(os.environ.get("LAKEHOUSE_TEST_SEED") or random.randrange(1 << 30))
    print("LAKEHOUSE_TEST_SEED =", seed)
    return random.Random(seed)


@contextmanager
def rows_arriving(database: Path, count: int, seconds: float) -> Iterator[None]:
    """A process that appends rows for about so long; it has ended when the block ends."""
    write(database, [])
    pause = str(10 * seconds / count)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(database), str(count), pause])
    try:
        yield
        assert writer.wait(timeout=120) == 0
    finally:
        writer.kill()
        writer.wait()


def killed(machine: Machine, kills: int, chance: random.Random, *command: object) -> None:
    """Start the command and kill it, so often, each time a random moment after it began to work."""
    for _ in range(kills):
        child = machine.start(*command)
        try:
            assert child.stderr is not None
            child.stderr.readline()  # it begins to work when it says its first word
            time.sleep(chance.uniform(0.0, 0.8))
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate(timeout=60)


def kill_uploads(machine: Machine, kills: int, chance: random.Random, rows: int, table: str) -> None:
    """Kill uploads into `table` while rows arrive, then upload the rest."""
    machine.configure(sqlite=str(machine.database), table_path=table, interval=0.01, batch_rows=40)
    command = ("upload", "--config", machine.directory / "uploader.yaml")
    with rows_arriving(machine.database, rows, seconds=kills):
        killed(machine, kills, chance, *command)
    last = machine.process(*command, "--once")
    assert last.returncode == 0, last.stderr


def assert_uploaded_once(machine: Machine, table: str, storage: Storage | None = None) -> None:
    """The uploaded tables equal those of one clean upload."""
    clean = str(machine.directory / "clean" / "readings")
    command = ("upload", "--config", machine.directory / "uploader.yaml", "--once", "--batch-rows", 1000)
    done = machine.process(*command, "--table-path", clean)
    assert done.returncode == 0, done.stderr
    for suffix in ("", "_quarantine"):
        assert rows_of(table + suffix, storage=storage) == rows_of(clean + suffix)


def test_a_killed_upload_loses_and_doubles_nothing(machine: Machine, chance: random.Random) -> None:
    """§7.1, U6, U7: kills at random moments while rows arrive, on a local disk."""
    table = f"{machine.root}/bronze/readings"
    kill_uploads(machine, 2, chance, 300, table)
    assert_uploaded_once(machine, table)


def test_a_killed_upload_to_s3_loses_and_doubles_nothing(tmp_path: Path, chance: random.Random, s3: Bucket) -> None:
    """§7.1: the same on an object store."""
    machine = Machine(tmp_path, s3.options)
    kill_uploads(machine, 2, chance, 200, f"{s3.root}/edge/readings")
    assert_uploaded_once(machine, f"{s3.root}/edge/readings", s3.storage)


def test_a_killed_run_ends_in_the_tables_of_a_clean_one(machine: Machine, chance: random.Random) -> None:
    """§7.1: the command is killed again and again while rows arrive: whole tables equal those of one clean run."""
    machine.declare()
    with rows_arriving(machine.database, 300, seconds=2):
        for _ in range(2):
            child = machine.start("run", "*")
            time.sleep(chance.uniform(0.6, 2.0))
            child.send_signal(signal.SIGKILL)
            child.communicate(timeout=60)
    last = machine.process("run", "*")
    assert last.returncode == 0, last.stderr
    assert "nothing new: no table was written" in machine.lakehouse("run", "*").stderr
    clean = Machine(machine.directory, root=str(machine.directory / "clean"))
    done = clean.lakehouse("run", "*")
    assert done.exit_code == 0, done.stderr
    for table in RUN:
        assert machine.rows(table) == clean.rows(table), table


def test_many_kills(machine: Machine, chance: random.Random) -> None:
    """§7.1: many kills of uploads, on a local disk."""
    kill_uploads(machine, 12, chance, 3000, f"{machine.root}/bronze/readings")
    assert_uploaded_once(machine, f"{machine.root}/bronze/readings")


def test_many_kills_on_s3(tmp_path: Path, chance: random.Random, s3: Bucket) -> None:
    """§7.1: many kills of uploads, on an object store."""
    machine = Machine(tmp_path, s3.options)
    kill_uploads(machine, 6, chance, 600, f"{s3.root}/edge/readings")
    assert_uploaded_once(machine, f"{s3.root}/edge/readings", s3.storage)


def test_two_nodes_with_equal_paths_feed_one_table_at_the_same_time(tmp_path: Path) -> None:
    """Two uploaders with one configuration and equal paths, told apart by NODE_ID: every row of both, once."""
    table = str(tmp_path / "lake" / "readings")
    nodes = [Machine(tmp_path / name) for name in ("one", "two")]
    for number, node in enumerate(nodes):
        node.directory.mkdir()
        write(node.database, readings(200, first=number * 1000))
        node.configure(sqlite="data/sensor.db", table_path=table, batch_rows=40)
    children = [
        node.start("upload", "--config", "uploader.yaml", "--once", NODE_ID=node.directory.name) for node in nodes
    ]
    for child in children:
        _, told = child.communicate(timeout=120)
        assert child.returncode == 0, told
    expected = sorted(
        [
            (node.directory.name, row[0])
            for number, node in enumerate(nodes)
            for row in readings(200, first=number * 1000)
        ],
        key=repr,
    )
    assert rows_of(table, "_source", "timestamp") == expected
