"""What a run tells of extracts, and of the source behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lakehouse_assets.assets.metadata_extract import SHOWN
from lakehouse_assets_tests.assets.house import facts
from lakehouse_assets_tests.automation.market_house import DAY, LATER, NEXT, MarketHouse

SOURCE = dg.AssetKey(["sources", "xt"])


@pytest.fixture
def market(tmp_path: Path, instance: dg.DagsterInstance) -> MarketHouse:
    """A market of three days; nothing is made yet."""
    found = MarketHouse(tmp_path, instance)
    found.day(DAY, NEXT, LATER)
    return found


def observed(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """What a run observed of the source of trades."""
    found = [e.event_specific_data.asset_observation for e in result.get_asset_observation_events()]  # type: ignore[union-attr]
    (one,) = (observation for observation in found if observation.asset_key == SOURCE)
    return {name: entry.value for name, entry in one.metadata.items()}


def test_a_run_tells_the_file_of_its_day(market: MarketHouse) -> None:
    """Rows, bytes, checksum and fingerprint of the day that was made, and the columns."""
    told = facts(market.run("extract.trade", first=NEXT), "extract.trade")
    assert told["dagster/partition_row_count"] == told["rows_valid"] == 3
    assert told["bytes"] > 0
    lines = told["files"].splitlines()
    assert lines[0] == "| date | rows | bytes | checksum | fingerprint |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {NEXT}"]
    assert [column.name for column in told["dagster/column_schema"].columns] == ["time", "sym", "price", "_row"]


def test_a_run_over_everything_tells_the_newest_files(market: MarketHouse) -> None:
    """Rows of all days together; of very many files the newest are listed."""
    days = [f"2024-03-{day:02}" for day in range(1, 32)]
    market.day(*days)
    told = facts(market.run("extract.trade"), "extract.trade")
    assert told["dagster/row_count"] == 3 * 34
    listed = [line.split(" | ")[0].removeprefix("| ") for line in told["files"].splitlines()[2:]]
    assert listed == days
    assert len(listed) == SHOWN


def test_the_source_is_observed(market: MarketHouse) -> None:
    """A run says what the source offers now, and how much of it is not extracted."""
    told = observed(market.run("extract.trade", first=DAY))
    assert (told["days"], told["days_not_extracted"]) == (3, 2)
    assert (told["newest_day"], told["rows_of_newest_day"]) == (LATER, 3)
    assert told["source/kind"] == "memory"
    assert observed(market.job("market_job"))["days_not_extracted"] == 0


def test_a_source_that_has_nothing_is_observed_too(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """No day at all is no trouble."""
    result = MarketHouse(tmp_path, instance).run("extract.trade", first=DAY)
    assert result.success
    assert observed(result)["days"] == 0
