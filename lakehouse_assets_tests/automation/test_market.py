"""The market by itself: what follows a day that is new or corrected, jobs over tables with days and without, resets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lakehouse_assets.assets.maintenance import KEY
from lakehouse_assets.assets.step import CONFIRM_TAG
from lakehouse_assets.automation.partitions import PARTITIONS
from lakehouse_assets.databricks.provenance import target_of
from lakehouse_assets_tests.assets.house import check, facts, key
from lakehouse_assets_tests.automation.market_house import (
    BY_DAY,
    CATALOG,
    DAY,
    EXTRACTS,
    LATER,
    NEXT,
    TABLES,
    MarketHouse,
    failures,
)

DERIVED = BY_DAY[2:]
OTHER_DAYS = """
  - entity_id: xo
    source: order
    source_format: kdb
    destination: extract.order
    group: market
    read_options: {kdb.host: localhost, kdb.port: 5000, kdb.partition: date}
    lakehouse: {partitions: {cadence: daily, start: "2023-01-02"}, schedule: {cron: "5 * * * *"}}
"""


class Daemon:
    """Evaluates the conditions tick by tick, as the daemon does, and runs what they request, one run a table."""

    def __init__(self, market: MarketHouse) -> None:
        self.market = market
        self.cursor: Any = None

    def tick(self) -> dict[str, set[str | None]]:
        """Table -> days that this tick requests."""
        result = dg.evaluate_automation_conditions(
            self.market.defs, self.market.instance, asset_selection=dg.AssetSelection.all(), cursor=self.cursor
        )
        self.cursor = result.cursor
        keys = self.market.defs.resolve_asset_graph().executable_asset_keys
        return {".".join(k.path): set(result.get_requested_partitions(k)) for k in keys if result.get_num_requested(k)}

    def make(self, asked: dict[str, set[str | None]]) -> None:
        """Run what a tick requested as Dagster does: tables of the same days in one run, others in runs of their own."""
        groups: dict[frozenset[str | None], list[str]] = {}
        for table in (table for table in TABLES if table in asked):
            groups.setdefault(frozenset(asked[table]), []).append(table)
        for days, tables in groups.items():
            span = sorted(day for day in days if day)
            result = self.market.run(*tables, first=span[0] if span else "", last=span[-1] if span[1:] else "")
            assert result.success, failures(result)

    def settle(self) -> list[dict[str, set[str | None]]]:
        """What the ticks request until nothing is requested any more, and is run."""
        found = []
        while asked := self.tick():
            found.append(asked)
            self.make(asked)
            assert len(found) < 10, found
        return found


@pytest.fixture
def market(tmp_path: Path, instance: dg.DagsterInstance) -> MarketHouse:
    """A market of three days; nothing is made yet."""
    found = MarketHouse(tmp_path, instance)
    found.day(DAY, NEXT, LATER)
    return found


@pytest.fixture
def daemon(market: MarketHouse) -> Daemon:
    """A daemon that has seen the empty project once."""
    found = Daemon(market)
    assert found.tick() == {}
    return found


def sensed(market: MarketHouse) -> None:
    """A tick of the sensor of extracts, and the runs that it requests."""
    for request in market.tick(PARTITIONS).run_requests or ():
        assert market.launch(request).success


def test_new_days_flow_to_gold_by_themselves(market: MarketHouse, daemon: Daemon) -> None:
    """The sensor extracts, the conditions do the rest: bronze and silver of these days, then gold; each once."""
    sensed(market)
    days = {DAY, NEXT, LATER}
    assert daemon.settle() == [dict.fromkeys(DERIVED, days), {"gold.bars": {None}}]
    assert market.highs() == {DAY: 11.0, NEXT: 11.0, LATER: 11.0}


def test_a_corrected_old_day_flows_to_gold_by_itself(market: MarketHouse, daemon: Daemon) -> None:
    """A day of years ago, as many rows, another price: that day is made anew, of the table that changed and above it."""
    sensed(market)
    daemon.settle()
    market.put("trade", DAY, (5, "A", 10.0), (1, "A", 99.0), (7, None, 12.0))
    sensed(market)
    assert daemon.settle() == [{"bronze.trades": {DAY}, "silver.joined": {DAY}}, {"gold.bars": {None}}]
    assert market.highs() == {DAY: 99.0, NEXT: 11.0, LATER: 11.0}


@pytest.mark.slow
def test_a_run_that_found_nothing_new_requests_nothing(market: MarketHouse, daemon: Daemon) -> None:
    """A day, or a range of days, that is extracted once more is no new data."""
    sensed(market)
    daemon.settle()
    assert market.run(*EXTRACTS, first=DAY).success
    assert market.run(*BY_DAY, first=DAY, last=LATER).success
    assert daemon.tick() == {}


def test_only_days_that_moved_are_followed(market: MarketHouse, daemon: Daemon) -> None:
    """One run over all days, one of which changed: that one is followed."""
    sensed(market)
    daemon.settle()
    market.day(NEXT, price=50.0)
    market.run("extract.trade", first=DAY, last=LATER)
    assert daemon.tick() == {"bronze.trades": {NEXT}, "silver.joined": {NEXT}}


@pytest.mark.slow
def test_a_missing_day_does_not_block_gold(market: MarketHouse, daemon: Daemon) -> None:
    """Thousands of days have no data, and of one only trades are there: gold is made of what there is."""
    market.put("trade", "2024-01-05", (5, "A", 10.0))
    sensed(market)
    daemon.settle()
    assert set(market.highs()) == {DAY, NEXT, LATER}
    assert market.made("silver.joined") == {DAY, NEXT, LATER}
    market.day("2024-01-05")
    sensed(market)
    daemon.settle()
    assert set(market.highs()) == {DAY, NEXT, LATER, "2024-01-05"}


def test_gold_waits_for_a_first_day(market: MarketHouse, daemon: Daemon) -> None:
    """In an empty lake nothing can be read: gold is not requested until silver has a day."""
    assert daemon.tick() == {}
    market.run(*EXTRACTS, *DERIVED[:2], first=DAY)
    assert "gold.bars" not in Daemon(market).tick()


def test_a_day_that_failed_does_not_stop_the_others(market: MarketHouse, daemon: Daemon) -> None:
    """The run over three days failed at one of them: the other two are followed up to gold."""
    market.broken.add(NEXT)
    for request in market.tick(PARTITIONS).run_requests:
        market.launch(request)
    daemon.settle()
    assert set(market.highs()) == {DAY, LATER}


def test_a_failed_blocking_check_stops_gold(market: MarketHouse, daemon: Daemon) -> None:
    """Nothing is built on days that broke a blocking check, until it passes again."""
    sensed(market)
    daemon.settle()
    market.day(NEXT, price=50.0)
    market.run(*BY_DAY, first=NEXT)
    judge(market, passed=False)
    assert daemon.tick() == {}
    judge(market, passed=True)
    assert daemon.tick() == {"gold.bars": {None}}


def judge(market: MarketHouse, *, passed: bool) -> None:
    """Report a verdict of the blocking check `schema` on the newest data of silver."""
    severity, silver = dg.AssetCheckSeverity.ERROR, key("silver.joined")
    judged = target_of(market.instance, silver)
    market.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(silver, "schema", passed, {}, target_materialization_data=judged, severity=severity)
    )


def test_a_run_of_everything_is_followed_by_nothing(market: MarketHouse, daemon: Daemon) -> None:
    """What one run has changed and read is not requested again, whichever of the days were reported last."""
    market.run("extract.trade", first="2024-01-06")  # Dagster compares with what was there at the last tick
    daemon.settle()
    assert market.job("market_job").success
    assert daemon.tick() == {}
    market.day(DAY, NEXT, price=50.0)
    assert market.run(*TABLES, first=DAY, last=LATER).success
    assert daemon.tick() == {}
    assert market.highs() == {DAY: 51.0, NEXT: 51.0, LATER: 11.0}


@pytest.mark.slow
def test_what_was_missing_is_made_once(market: MarketHouse) -> None:
    """Automation that is switched on late makes what is missing, once."""
    assert market.run(*EXTRACTS, first=DAY, last=LATER).success
    daemon = Daemon(market)
    days = {DAY, NEXT, LATER}
    assert daemon.settle() == [dict.fromkeys(DERIVED, days), {"gold.bars": {None}}]


def test_days_of_the_command_line_are_reported(market: MarketHouse, daemon: Daemon) -> None:
    """What no run of Dagster extracted is reported day by day, once, with its rows; so it is followed."""
    market.command_line(*EXTRACTS, partitions=[DAY, NEXT])
    events = market.tick("commits").asset_events
    assert {(e.asset_key.path[1], e.partition, e.metadata["dagster/partition_row_count"].value) for e in events} == {
        ("trade", DAY, 3), ("trade", NEXT, 3), ("quote", DAY, 2), ("quote", NEXT, 2),
    }  # fmt: skip
    for event in events:
        market.instance.report_runless_asset_event(event)
    assert not market.tick("commits").asset_events
    assert daemon.tick() == {table: {DAY, NEXT} for table in DERIVED}


@pytest.mark.slow
def test_commits_of_dagster_are_not_reported_again(market: MarketHouse) -> None:
    """A day, a range, a job: each has told what it made."""
    market.run(*TABLES, first=DAY)
    market.run(*TABLES, first=DAY, last=NEXT)
    assert not market.tick("commits").asset_events
    market.job("market_job")
    assert not market.tick("commits").asset_events


def test_a_corrected_day_of_the_command_line_is_reported(market: MarketHouse) -> None:
    """Of a table that runs made, one day is made anew by the command line: that day is reported, and no other."""
    market.job("market_job")
    market.day(NEXT, price=50.0)
    market.command_line(*BY_DAY)
    events = market.tick("commits").asset_events
    assert {(e.asset_key.path[1], e.partition) for e in events} == {
        ("trade", NEXT), ("trades", NEXT), ("joined", NEXT),
    }  # fmt: skip


def test_jobs_take_tables_with_days_and_without(market: MarketHouse) -> None:
    """A group's job and that of everything ask for no day, and make bronze, silver and gold of all that is behind."""
    assert market.job("everything").success
    assert market.highs() == {DAY: 11.0, NEXT: 11.0, LATER: 11.0}
    for name in ("market_job", "market_reset", "everything"):
        job = market.defs.resolve_job_def(name)
        assert job.partitions_def is None
        assert job.asset_layer.executable_asset_keys == {key(table) for table in TABLES}, name
    assert market.defs.resolve_job_def("maintenance").asset_layer.executable_asset_keys == {KEY}


def test_the_graph_knows_its_days_beside_the_jobs(market: MarketHouse) -> None:
    """Jobs leave days out; a click in the graph does not."""
    graph = market.defs.get_repository_def().asset_graph
    assert all(graph.get(key(table)).partitions_def is not None for table in BY_DAY)
    assert market.run(*TABLES, first=NEXT).success


@pytest.mark.slow
def test_tables_of_other_days_load_too(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """Two extracts that begin on different days: Dagster has no job over both with days, and one without."""
    market = MarketHouse(tmp_path, instance, CATALOG + OTHER_DAYS)
    dg.Definitions.validate_loadable(market.defs)
    market.days["order"] = {}
    market.day(DAY)
    result = market.job("everything")
    assert result.success, failures(result)
    assert market.highs() == {DAY: 11.0}


def test_a_schedule_asks_for_no_day(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """By the clock a table with days is brought up to date as it is by a job: what is behind."""
    market = MarketHouse(tmp_path, instance, CATALOG + OTHER_DAYS)
    (schedule,) = (one for one in market.defs.get_repository_def().schedule_defs if one.name == "at_5_x_x_x_x")
    (request,) = schedule.evaluate_tick(dg.build_schedule_context(instance)).run_requests or ()
    assert not request.asset_selection
    market.day(DAY)
    market.days["order"] = {DAY: market.days["trade"][DAY]}
    assert market.job(schedule.job_name).success
    assert market.made("extract.order") == {DAY}
    assert market.made("extract.trade") == set()


def test_a_reset_makes_every_day_again(market: MarketHouse, daemon: Daemon) -> None:
    """With the tag that confirms it: every day is extracted, loaded and joined again, under the next numbers."""
    assert market.job("market_job").success
    daemon.tick()
    before = {table: market.versions(table) for table in DERIVED}
    assert not market.job("market_reset").success
    result = market.job("market_reset", tags={CONFIRM_TAG: "market"})
    assert result.success, failures(result)
    assert sorted(market.asked) == sorted([DAY, NEXT, LATER] * 4)
    assert facts(result, "bronze.trades")["batches"] == 3
    for table in DERIVED:
        after = market.versions(table)
        assert all(after[day] != before[table][day] for day in (DAY, NEXT, LATER)), table
    assert market.highs() == {DAY: 11.0, NEXT: 11.0, LATER: 11.0}
    assert daemon.tick() == {}


def test_checks_of_tables_by_day_are_evaluated(market: MarketHouse) -> None:
    """A run over a day judges what it wrote."""
    result = market.run(*TABLES, first=DAY)
    for table, rows in (("trades", 3), ("quotes", 2), ("joined", 3)):
        verdict = check(result, f"{table}.rows_reconciled")
        assert verdict.passed
        assert verdict.metadata["rows_in"].value == rows
    assert check(result, "bars.primary_key").passed
