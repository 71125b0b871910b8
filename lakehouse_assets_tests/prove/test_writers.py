"""Several writers of one lake at once: many tables, processes and threads, sources that grow meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.errors import TransientError
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.prove.compare import difference
from lakehouse_assets.prove.nursery import Nursery
from lakehouse_assets.prove.proof import ROUNDS, Prover, how
from lakehouse_assets.tables.refresh import refresh
from lakehouse_assets_tests.prove.lab import CHAIN, orders, prover
from lakehouse_assets_tests.tables.lab import Lab

WRITERS = 3
TABLES = ("bronze.t", "silver.t", "silver.t_quarantine", "gold.q", "gold.f")


def at_once(call: Callable[[int], Any]) -> list[Any]:
    """What so many calls at the same moment give."""
    start = threading.Barrier(WRITERS)

    def begin(index: int) -> Any:
        start.wait()
        return call(index)

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(begin, range(WRITERS)))


@pytest.mark.slow
def test_processes_that_run_everything_at_once(tmp_path: Path) -> None:
    """§5.4: processes run all tables of a lake at the same time, round after round: the tables are those of one."""
    orders(tmp_path / "one.db", 30)
    orders(tmp_path / "two.db", 21, first=100)
    with prover(tmp_path, CHAIN, rounds=ROUNDS[:2]) as it, ExitStack() as opened:
        it.points()
        nurseries = [opened.enter_context(Nursery("embedded", it.proof.environ)) for _ in range(WRITERS)]
        for round_ in it.proof.rounds:
            jobs = [it.job("shared", f"writer-{index}", **how(round_)) for index in range(WRITERS)]
            ends = at_once(lambda index, jobs=jobs: nurseries[index].run(jobs[index]))
            errors = [(it.answer(f"writer-{index}") or {}).get("error") for index in range(WRITERS)]
            assert [end.signal for end in ends] == [0] * WRITERS
            assert all(error is None or "another process" in error for error in errors), errors
            assert nurseries[0].run(it.job("shared", "last", **how(round_))).code == 0
            assert told(it, f"clean-{round_.name}", "last") is None


def told(it: Prover, clean: str, found: str) -> str | None:
    """How two reports differ."""
    one, two = it.answer(clean), it.answer(found)
    assert one is not None
    assert two is not None
    return difference(one, two)


def test_threads_that_run_everything_at_once(tmp_path: Path) -> None:
    """§5.4: threads with one engine run all tables at the same time while rows arrive: the tables are those of one."""
    it, clean = Lab(tmp_path / "shared", CHAIN), Lab(tmp_path / "clean", CHAIN)
    rows = [{"id": n, "k": "abc"[n % 3], "v": "x" if n % 5 == 4 else str(n * 20)} for n in range(12)]

    def run(_: int) -> None:
        with suppress(TransientError):  # it gave up after several tries; the last run below makes up for it
            it.run()

    for part in range(3):
        for lab in (it, clean):
            lab.feed("DIR/one.db", rows[part * 4 : part * 4 + 4])
            lab.feed("DIR/two.db", rows[part * 2 : part * 2 + 2])
        at_once(run)
    it.run()
    clean.run()
    assert {table: it.rows(table) for table in TABLES} == {table: clean.rows(table) for table in TABLES}
    assert it.run() == []


def test_threads_with_engines_of_their_own(tmp_path: Path) -> None:
    """§5.4: the same where every thread has an engine of its own."""
    it = Lab(tmp_path / "lake", CHAIN)
    works = [replace(it.work, engine=EmbeddedEngine(Storage())) for _ in range(WRITERS)]
    it.feed("DIR/one.db", [{"id": 1, "k": "a", "v": "1"}, {"id": 2, "k": "b", "v": "x"}])

    def run(index: int) -> None:
        with suppress(TransientError):  # as above
            for table in it.catalog.order():
                list(refresh(works[index], table))

    at_once(run)
    it.run()
    assert it.rows("bronze.t", "k") == [("a",), ("b",)]
    assert it.rows("gold.q", "k", "n", "s") == [("a", 1, 1)]
