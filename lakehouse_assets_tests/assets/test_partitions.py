"""Days of tables: which tables have them, and what a run says of each of them; runs, lake and instance are real."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lakehouse_assets.assets.metadata import DATA_VERSION
from lakehouse_assets.assets.partitions import NOTHING, days_between, makes, partitions_of
from lakehouse_assets.entities.catalog import load_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.settings import PACKAGED_CATALOG
from lakehouse_assets_tests.assets.house import check, facts, key
from lakehouse_assets_tests.automation.market_house import (
    BY_DAY,
    DAY,
    EXTRACTS,
    LATER,
    NEXT,
    TABLES,
    MarketHouse,
    failures,
)

WEEKEND = ("2024-01-06", "2024-01-07")


@pytest.fixture
def market(tmp_path: Path, instance: dg.DagsterInstance) -> MarketHouse:
    """A market of three days; nothing is made yet."""
    found = MarketHouse(tmp_path, instance)
    found.day(DAY, NEXT, LATER)
    return found


def made(result: dg.ExecuteInProcessResult, table: str) -> list[tuple[str | None, str]]:
    """The day and the version of every materialization of a table in a run, in order."""
    found = (e.event_specific_data.materialization for e in result.get_asset_materialization_events())  # type: ignore[union-attr]
    return [(one.partition, (one.tags or {})[DATA_VERSION]) for one in found if one.asset_key == key(table)]


def test_what_is_made_from_extracts_has_their_days(market: MarketHouse) -> None:
    """Extracts, what is loaded from them and joined of that are partitioned by day, from their start in their zone."""
    graph = market.defs.resolve_asset_graph()
    for table in BY_DAY:
        days = graph.get(key(table)).partitions_def
        assert isinstance(days, dg.DailyPartitionsDefinition), table
        assert (days.get_first_partition_key(), str(days.timezone)) == (DAY, "Europe/Amsterdam")
        policy = graph.get(key(table)).backfill_policy
        assert policy is not None
        assert policy.max_partitions_per_run is None, "a backfill is one run"
    assert graph.get(key("gold.bars")).partitions_def is None


def test_today_is_a_day(market: MarketHouse) -> None:
    """The day that has begun can be made: its partition does not wait for midnight."""
    days = partitions_of(market.catalog, TableName("extract", "trade"))
    assert days is not None
    assert days.has_partition_key(str(datetime.now(UTC).date()))


def test_the_shipped_market_has_days(market: MarketHouse) -> None:
    """Of the packaged catalog extracts, bronze and silver of the market have the days of their extracts; gold none."""
    catalog = load_catalog(PACKAGED_CATALOG, {})
    days = {str(table) for table in catalog.destinations if partitions_of(catalog, table) is not None}
    assert days == {
        "extract.trade", "extract.quote", "bronze.trades", "bronze.quotes", "silver.trades_with_quotes",
    }  # fmt: skip


def test_a_click_on_a_day_makes_that_day_only(market: MarketHouse) -> None:
    """A run over one day copies, loads and joins it; the other days of the source are left alone."""
    result = market.run(*TABLES, first=NEXT)
    assert result.success, failures(result)
    assert set(market.asked) == {NEXT}
    assert {table: market.made(table) for table in BY_DAY} == {table: {NEXT} for table in BY_DAY}
    assert market.highs() == {NEXT: 11.0}
    assert facts(result, "silver.joined")["dagster/partition_row_count"] == 3
    for table in BY_DAY:
        ((day, version),) = made(result, table)  # one event, with the version of the day
        assert day == NEXT
        assert version != NOTHING


def test_a_range_is_one_run_that_reports_each_day(market: MarketHouse) -> None:
    """Ten days at once: every day has its event, with rows and a version of its own; days without data have none."""
    result = market.run(*BY_DAY, first=DAY, last="2024-01-11")
    assert result.success, failures(result)
    ten = set(days_between(DAY, "2024-01-11"))
    for table in BY_DAY:
        assert market.made(table) == ten
        versions = market.versions(table)
        assert {day for day, version in versions.items() if version != NOTHING} == {DAY, NEXT, LATER}
        assert rows(market, table) == {day: 3 if day in (DAY, NEXT, LATER) else 0 for day in ten} or "quote" in table
    assert len(market.rows("silver.joined")) == 9


def rows(market: MarketHouse, table: str) -> Mapping[str, int]:
    """Day -> rows that its last event tells."""
    found: dict[str, Any] = {}
    records = market.instance.fetch_materializations(key(table), limit=1000, ascending=True).records
    for record in records:
        event = record.asset_materialization
        if event and event.partition and "dagster/partition_row_count" in event.metadata:
            found[event.partition] = event.metadata["dagster/partition_row_count"].value
    return found


@pytest.mark.parametrize("table", BY_DAY)
def test_a_day_without_data_is_made_with_no_rows(market: MarketHouse, table: str) -> None:
    """A weekend: its run succeeds, tells of no rows, and gives no version that anything would follow."""
    market.run(*BY_DAY, first=DAY)
    result = market.run(*BY_DAY, first=WEEKEND[0])
    assert result.success, failures(result)
    assert facts(result, table)["dagster/partition_row_count"] == 0
    assert market.versions(table)[WEEKEND[0]] == NOTHING


@pytest.mark.parametrize("last", ["", WEEKEND[1]])
def test_days_without_data_may_be_the_first(market: MarketHouse, last: str) -> None:
    """In an empty lake a weekend makes no table, and no trouble: checks pass and say that there is none."""
    result = market.run(*BY_DAY[:4], first=WEEKEND[0], last=last)
    assert result.success, failures(result)
    assert market.made("bronze.trades") == set(WEEKEND if last else WEEKEND[:1])
    assert check(result, "trades.schema").metadata["note"].value == "there is no table yet"
    assert market.rows("bronze.trades") == []


def test_only_days_that_moved_get_another_version(market: MarketHouse) -> None:
    """A corrected day among others in one run: its version is another one, those of the others are what they were."""
    market.run(*BY_DAY, first=DAY, last=LATER)
    before = {table: market.versions(table) for table in BY_DAY}
    market.put("trade", NEXT, (9, "A", 99.0))
    market.run(*BY_DAY, first=DAY, last=LATER)
    for table in BY_DAY:
        after = market.versions(table)
        moved = {day for day in after if after[day] != before[table][day]}
        assert moved == (set() if "quote" in table else {NEXT}), table


def test_the_version_of_a_range_is_no_change(market: MarketHouse) -> None:
    """What a range says of all its days comes first and says nothing of their data; then each day speaks for itself."""
    result = market.run("extract.trade", first=DAY, last=LATER)
    told = made(result, "extract.trade")
    assert told[:3] == [(DAY, NOTHING), (NEXT, NOTHING), (LATER, NOTHING)]
    assert [day for day, version in told[3:] if version != NOTHING] == [DAY, NEXT, LATER]


def test_a_day_that_fails_does_not_hide_the_others(market: MarketHouse) -> None:
    """The run fails and names the day; the days that were made are reported, so that what reads them follows."""
    market.broken.add(NEXT)
    result = market.run("extract.trade", first=DAY, last=LATER)
    assert not result.success
    assert f"1 partition(s) failed ({NEXT})" in failures(result)
    assert market.made("extract.trade") == {DAY, LATER}


def test_a_run_without_a_day_makes_all_that_is_behind(market: MarketHouse) -> None:
    """A job asks for no day: what is behind is made, each day that moved is reported, and nothing the second time."""
    result = market.job("market_job")
    assert result.success, failures(result)
    assert {table: market.made(table) for table in BY_DAY} == {table: {DAY, NEXT, LATER} for table in BY_DAY}
    assert market.highs() == {DAY: 11.0, NEXT: 11.0, LATER: 11.0}
    assert [day for day, _ in made(market.job("market_job"), "silver.joined")] == [None]


def test_a_run_says_what_it_makes(market: MarketHouse) -> None:
    """The tags by which what follows knows that the run has read what it changed: of tables that read days, no others."""
    result = market.run("extract.trade", "bronze.trades", first=DAY)
    run = market.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert [tag for tag in run.tags if tag.startswith("lakehouse/makes/")] == [makes(key("bronze.trades"))]


def test_columns_of_a_join_name_where_they_come_from(market: MarketHouse) -> None:
    """An as-of join: columns of the left table, those that were brought, and what was computed of both."""
    result = market.run(*BY_DAY, first=DAY)
    deps = facts(result, "silver.joined")["dagster/column_lineage"].deps_by_column
    told = {name: {f"{d.asset_key.path[1]}.{d.column_name}" for d in found} for name, found in deps.items()}
    assert told["price"] == {"trades.price"}
    assert told["bid"] == {"quotes.bid"}
    assert told["mid"] == {"quotes.bid", "quotes.ask"}


def test_the_days_of_a_range_are_all_of_it() -> None:
    """Both ends are included; a range of one day is that day."""
    assert days_between("2024-02-28", "2024-03-01") == ["2024-02-28", "2024-02-29", "2024-03-01"]
    assert days_between(DAY, DAY) == [DAY]
    assert BY_DAY[:2] == EXTRACTS
