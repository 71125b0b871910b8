"""Several writers of one lake whose tables are made by partition: each makes another day, some the same, one a rebuild."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import ConcurrentWriter
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number
from lakehouse_assets.tables.base import Work
from lakehouse_assets.tables.refresh import refresh
from lakehouse_assets_tests.conftest import ROOT
from lakehouse_assets_tests.tables import partition_lab
from lakehouse_assets_tests.tables.partition_lab import MADE, PartitionLab, days_of

KEPT = MADE[2:]
DAYS = sorted(days_of("trade"))


def lake(directory: Path) -> PartitionLab:
    """A lake over six days, none of which is made."""
    it = PartitionLab(directory)
    it.days = {table: days_of(table) for table in ("trade", "quote")}
    return it


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What calls at the same moment give."""
    start = threading.Barrier(len(calls))

    def begin(call: Callable[[], Any]) -> Any:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(begin, calls))


def apart(it: PartitionLab) -> Work:
    """The lake's work with an engine of its own."""
    return replace(it.work, engine=EmbeddedEngine(Storage()))


def content(it: PartitionLab) -> dict[str, Any]:
    """Every table by column; which day came first decides about the order of columns."""
    found = {}
    for table in KEPT:
        names = sorted(it.engine.find(it.work.uri(TableName(*table.split(".")))).schema.names)
        found[table] = it.rows(table, *(name for name in names if not name.startswith("_ingested")))
    return found


def check(it: PartitionLab, clean: Path) -> None:
    """The lake holds what one run makes, each plan is that of a commit, and nothing is left to do."""
    it.run("gold.bars")
    assert it.run() == []
    one = lake(clean)
    one.run()
    assert content(it) == content(one)
    for table in KEPT[:3]:
        handle = it.engine.find(it.work.uri(TableName(*table.split("."))))
        plans = it.work.book.open().partitions(table)
        assert sorted(plans) == DAYS
        numbers = {key: handle.number(plan.feed.app_id) for key, plan in plans.items()}
        assert numbers == {key: plan.number for key, plan in plans.items()}
        assert {key: plan.revision for key, plan in plans.items()} == numbers  # each batch was planned once


@pytest.mark.slow
def test_processes_that_make_days_at_once(tmp_path: Path) -> None:
    """§5.4: eight processes, of which two and two make the same day: all end well, nothing is doubled or lost."""
    begin = tmp_path / "begin"
    command = [sys.executable, "-W", "error", "-m", partition_lab.__name__, str(tmp_path / "lake"), str(begin)]
    keys = [*DAYS, *DAYS[:2]]
    processes = [
        subprocess.Popen([*command, key], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for key in keys
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    begin.touch()
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    assert ended == [("", 0)] * len(keys)
    check(lake(tmp_path / "lake"), tmp_path / "clean")


def test_threads_that_make_days_at_once(tmp_path: Path) -> None:
    """§5.4: the same of threads with engines of their own, table by table."""
    it = lake(tmp_path / "lake")
    works = [(apart(it), key) for key in [*DAYS, *DAYS[:2]]]
    for table in MADE[:5]:
        name = TableName(*table.split("."))
        at_once([lambda t=name, w=work, k=key: list(refresh(w, t, partitions=[k])) for work, key in works])
    check(it, tmp_path / "clean")


def test_a_rebuild_while_days_are_made(tmp_path: Path) -> None:
    """A rebuild and runs of single days end well, and no day is lost to the commit that replaces the table."""
    it = lake(tmp_path / "lake")
    for table in MADE[:5]:
        it.run(table, partitions=DAYS[2:4])
    it.run("extract.trade", "extract.quote")
    name = TableName("bronze", "trades")
    works = [(apart(it), [key]) for key in DAYS] + [(apart(it), None)]
    at_once([lambda w=work, k=keys: list(refresh(w, name, partitions=k, rebuild=k is None)) for work, keys in works])
    it.run()
    assert it.run() == []
    one = lake(tmp_path / "clean")
    one.run()
    assert content(it) == content(one)


def test_a_table_is_not_replaced_over_a_day_that_was_made_meanwhile(tmp_path: Path) -> None:
    """The commit that replaces a table is refused when a partition was committed since the table was looked at."""
    it = lake(tmp_path / "lake")
    it.run("extract.trade", "bronze.trades", partitions=DAYS[:1])
    uri = it.work.uri(TableName("bronze", "trades"))
    stale = it.engine.find(uri)
    rows = it.engine.query("SELECT * FROM t", {"t": it.engine.read(it.engine.find(uri))})
    it.run("extract.trade", "bronze.trades", partitions=DAYS[2:3])
    with pytest.raises(ConcurrentWriter):
        it.engine.rebuild(stale, rows, stale.schema, Number("another", 1))
    assert {str(row[0]) for row in it.rows("bronze.trades", "date")} == {DAYS[0], DAYS[2]}
