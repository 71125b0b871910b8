"""Kills of the Spark engine: real ones, of Python and Java together. A failing test prints its seed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.engines.base import Engine
from lakehouse_assets.prove.child import perform
from lakehouse_assets.prove.nursery import End, Nursery
from lakehouse_assets.prove.proof import ROUNDS, Proof, Prover, sample
from lakehouse_assets.settings import Settings
from lakehouse_assets_tests.conftest import QUICK
from lakehouse_assets_tests.prove.lab import CHAIN, catalog_of, orders, wrong

KILLS = 5


class Half:
    """A nursery that does here, with the session that is open, what nobody is going to kill: a JVM takes long to start."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery

    def run(self, job: Mapping[str, Any], started: Callable[[int], None] = lambda _: None) -> End:
        """Do a job: in a process of its own if it is to be killed."""
        if job["kill"]:
            return self._nursery.run(job, started)
        before = dict(os.environ)
        try:
            return End(0, perform(dict(job), lambda _: None), 0.0)
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def spark_prover(directory: Path, yaml: str, number: int) -> Iterator[Prover]:
    """A prover of the Spark engine."""
    desk, catalog = directory / "desk", catalog_of(directory, yaml)
    desk.mkdir()
    settings = Settings(root=str(directory / "lakes"), engine="spark", memory_limit="1GB", threads=2, spark_conf=QUICK)
    with Nursery("spark", os.environ) as nursery:
        proof = Proof(settings, catalog, dict(os.environ), tuple(catalog.order()), settings.root, desk, number)
        yield Prover(proof, Half(nursery))  # type: ignore[arg-type]


@pytest.mark.timeout(1200)
def test_kills_of_spark_end_equal(spark: Engine, tmp_path: Path, seed: int) -> None:
    """§7.1, F17: killed before, inside and after writes of Spark, every table ends as if nothing had happened."""
    for n, name in enumerate(("one", "two")):
        orders(tmp_path / f"{name}.db", 20, first=100 * n)
    with spark_prover(tmp_path, CHAIN, seed) as it:
        points = it.points()
        assert {point.round.name for point in points} == {r.name for r in ROUNDS}
        trials = [it.trial(point) for point in sample(points, KILLS, seed)]
    assert not wrong(trials), json.dumps([trial.row() for trial in trials], indent=1)
    assert all(trial.killed for trial in trials)
