"""The proof itself: every kind survives kills, and a broken engine is found. A failing test prints its seed."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from lakehouse_assets.cli.prove import ProxyWire
from lakehouse_assets.errors import LakeError, SettingsError
from lakehouse_assets.prove.points import EXTRACT, WRITES
from lakehouse_assets.prove.proof import LOSSES, ROUNDS, Point, Round, sample
from lakehouse_assets.simulators.faulty_store import FaultyProxy
from lakehouse_assets.simulators.kdb import KdbServer
from lakehouse_assets.simulators.kdb_config import KdbConfig
from lakehouse_assets.simulators.kdb_prices import trading_days
from lakehouse_assets.sources import base
from lakehouse_assets_tests.conftest import Bucket
from lakehouse_assets_tests.prove import broken
from lakehouse_assets_tests.prove.lab import EVERY, SMALL, furnish, orders, prover, topic, wrong
from lakehouse_assets_tests.tables.partition_lab import CATALOG

FIRST = ROUNDS[:1]


@pytest.mark.slow
def test_every_kind_and_source_survives_kills(tmp_path: Path, seed: int) -> None:
    """§7.1, F17: a kill before, inside or after any write of any kind ends in the tables of a run never killed."""
    furnish(tmp_path)
    with topic() as entities, prover(tmp_path, EVERY + entities, seed=seed) as it:
        points = it.points()
        seldom = {"publish", "set properties"}  # what Spark alone does, and what a changed declaration does
        assert {point.step for point in points} == {*WRITES.values(), "plan", EXTRACT} - seldom
        assert {point.table for point in points} >= {str(table) for table in it.proof.tables} - {"silver.large"}
        trials = [it.trial(point) for point in sample(points, 3, seed)]
    assert not wrong(trials)
    assert all(trial.killed for trial in trials)


@pytest.mark.slow
def test_a_topic_survives_kills(tmp_path: Path, seed: int) -> None:
    """§7.1: a topic and what follows it: killed before, inside and after its writes, in every round."""
    with topic() as entities, prover(tmp_path, f"delta_live_store:{entities}", seed=seed) as it:
        points = it.points()
        assert {point.table for point in points} >= {"bronze.topic", "silver.topic"}
        trials = [it.trial(point) for point in [*sample(points, 5, seed), points[-1]]]
    assert not wrong(trials)
    assert all(trial.killed for trial in trials)


@pytest.mark.slow
def test_a_kdb_process_survives_kills(tmp_path: Path, seed: int) -> None:
    """§7.1: days of a kdb+ process, what is loaded and joined of them: killed before, inside and after their writes."""
    days = tuple(trading_days(date(2018, 12, 3), date(2018, 12, 6)))
    with KdbServer(KdbConfig(dates=days, rows=40, quotes=2.0)) as server:
        yaml = (
            CATALOG.replace("localhost", server.host)
            .replace("5000", str(server.port))
            .replace("2024-01-02", "2018-12-03")
        )
        with prover(tmp_path, yaml, seed=seed, open_source=f"{base.__name__}:open_source") as it:
            points = it.points()
            assert {(point.table, point.step) for point in points} >= {
                ("extract.trade", EXTRACT), ("bronze.quotes", "replace"), ("silver.joined", "replace")
            }  # fmt: skip
            trials = [it.trial(point) for point in sample(points, 5, seed)]
    assert not wrong(trials)
    assert all(trial.killed for trial in trials)


@pytest.mark.slow
def test_every_point_of_a_small_catalog(tmp_path: Path, seed: int) -> None:
    """§7.1: exhaustive, where it takes no time: before and inside each write of a table and its quarantine, after the last."""
    orders(tmp_path / "one.db", 30)
    with prover(tmp_path, SMALL, seed=seed, rounds=FIRST) as it:
        points = it.points()
        trials = [it.trial(point) for point in [*points[::3], *points[1::3], points[-1]]]
    assert not wrong(trials)
    assert [trial.killed for trial in trials] == [True] * len(trials)
    assert [trial.point.moment for trial in trials[-2:]] == ["inside", "after"]


@pytest.mark.slow
def test_an_object_store_survives_lost_requests(tmp_path: Path, seed: int, s3: Bucket) -> None:
    """§7.1: killed at a request to an object store that is lost, cut, or answered to nobody."""
    orders(tmp_path / "one.db", 30)
    with FaultyProxy(s3.options["AWS_ENDPOINT_URL"]) as proxy:
        how = {"environ": s3.options, "wire": ProxyWire(proxy), "rounds": FIRST}
        with prover(tmp_path, SMALL, seed=seed, root=f"{s3.root}/scratch", **how) as it:
            requests = [point for point in it.points() if point.is_request]
            trials = [it.trial(point) for loss in LOSSES for point in _some(requests, loss, seed)]
            it.close()
    assert not wrong(trials)
    assert all(trial.killed for trial in trials)


def _some(points: list[Point], loss: str, seed: int) -> list[Point]:
    return sample([point for point in points if point.moment == loss], 2, seed)


@pytest.mark.slow
def test_an_engine_that_doubles_rows_is_found(tmp_path: Path) -> None:
    """Rows without their number are written again by the replay: the proof says which, and how often."""
    orders(tmp_path / "one.db", 30)
    how = {"engine_class": f"{broken.__name__}:Unnumbered", "rounds": FIRST}
    with prover(tmp_path, SMALL, **how) as it:
        at = [point for point in it.points() if point.table.endswith("_quarantine") and point.step == "append"]
        before, after = (it.trial(point) for point in at if point.moment != "inside")
    assert before.state == "equal"
    assert (after.killed, after.state) == (True, "different")
    assert after.difference is not None
    assert "bronze.orders_quarantine: 6 rows, not 3; 0 missing, 3 too many" in after.difference
    assert "n/a" in after.difference


@pytest.mark.slow
def test_an_engine_that_loses_rows_inside_a_write_is_found(tmp_path: Path) -> None:
    """A write in two commits loses its rows when the process dies between them: only a kill inside finds it."""
    orders(tmp_path / "one.db", 30)
    how = {"engine_class": f"{broken.__name__}:Torn", "rounds": FIRST}
    with prover(tmp_path, SMALL, **how) as it:
        at = {p.moment: p for p in it.points() if p.table == "bronze.orders" and p.step == "append"}
        around = [it.trial(at[moment]).state for moment in ("before", "after")]
        inside = it.trial(replace(at["inside"], delay=broken.SECONDS / 2))
    assert around == ["equal", "equal"]
    assert (inside.killed, inside.state) == (True, "different")
    assert "bronze.orders: 0 rows, not 27; 27 missing, 0 too many" in str(inside.difference)


@pytest.mark.slow
def test_a_point_that_is_not_reached_says_so(tmp_path: Path) -> None:
    """A process that ended by itself was not killed: its point counts as not reached, never as equal."""
    orders(tmp_path / "one.db", 9)
    with prover(tmp_path, SMALL, rounds=FIRST) as it:
        it.points()
        trial = it.trial(Point(FIRST[0], "bronze.orders", "append", 1000, "before"))
    assert (trial.killed, trial.state) == (False, "not reached")
    assert "ended by itself with code 0" in str(trial.difference)
    assert trial.row()["killed"] is None


def test_a_clean_run_that_fails_is_no_proof(tmp_path: Path) -> None:
    """Where the run that nobody kills fails, its error is told, and what to do."""
    with prover(tmp_path, SMALL, rounds=FIRST) as it, pytest.raises(LakeError, match="nobody kills") as failed:
        it.points()
    assert "one.db" in str(failed.value)


def test_a_sample_is_repeated_by_its_seed() -> None:
    """The same seed draws the same points, in their order; never more than there are."""
    points = [Point(Round("first", 1), "t", "append", n, "before") for n in range(50)]
    drawn = sample(points, 5, 7)
    assert drawn == sample(points, 5, 7) != sample(points, 5, 8)
    assert [point.write for point in drawn] == sorted(point.write for point in drawn)
    assert sample(points, 100, 7) == points
    with pytest.raises(SettingsError):
        sample(points, 0, 7)
