"""The sensor of extracts: a tick over days in memory, a real lake and a real instance."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lakehouse_assets.assets.factory import written
from lakehouse_assets.assets.resources import LakehouseResource, Project
from lakehouse_assets.automation.partitions import (
    FIRST_TAG,
    LAST_TAG,
    PARTITIONS,
    REQUESTS,
    PartitionTick,
    in_a_row,
)
from lakehouse_assets.automation.sensors import BACKOFF_SECONDS, FAILURES
from lakehouse_assets.entities.catalog import parse_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.settings import Settings
from lakehouse_assets.simulators.kdb import KdbServer
from lakehouse_assets.simulators.kdb_config import Fault, KdbConfig
from lakehouse_assets.sources.kdb_queries import FINGERPRINT
from lakehouse_assets.tables.refresh import refresh
from lakehouse_assets_tests.assets.house import House, key
from lakehouse_assets_tests.automation.market_house import DAY, EXTRACTS, LATER, NEXT, MarketHouse

TRADE = "extract.trade"


@pytest.fixture
def market(tmp_path: Path, instance: dg.DagsterInstance) -> MarketHouse:
    """A market of three days; nothing is made yet."""
    found = MarketHouse(tmp_path, instance)
    found.day(DAY, NEXT, LATER)
    return found


@pytest.fixture
def extracted(market: MarketHouse) -> MarketHouse:
    """The same, with all days extracted."""
    assert market.run(*EXTRACTS, first=DAY, last=LATER).success
    return market


def spans(result: Any) -> list[tuple[str, str, str]]:
    """Table, first and last day of every run that a tick requests."""
    return [
        (".".join(request.asset_selection[0].path), request.tags[FIRST_TAG], request.tags[LAST_TAG])
        for request in result.run_requests or ()
    ]


def look(market: MarketHouse, later: float = 0.0, cursor: str | None = None, **how: Any) -> dg.SensorResult:
    """What the sensor says of trades, `later` seconds from now; what it logs stands in `market.told`."""
    market.told.clear()
    made = written(market.catalog)[TableName("extract", "trade")]
    with market.lakehouse.open(market.project) as work:
        tick = PartitionTick(work, market.instance, market.told.append, now=lambda: time.time() + later, **how)
        return tick.run([made], cursor)


def said(result: dg.SensorResult) -> str:
    """Why nothing was requested."""
    assert not result.run_requests
    return str(result.skip_reason.skip_message) if result.skip_reason else ""


def test_new_days_are_requested_once(market: MarketHouse) -> None:
    """Days that follow each other are one run of the extract alone; when they are extracted, nothing is requested."""
    first = market.tick(PARTITIONS)
    assert spans(first) == [(table, DAY, LATER) for table in EXTRACTS]
    assert [r.run_key for r in market.tick(PARTITIONS).run_requests] == [r.run_key for r in first.run_requests]
    for request in first.run_requests:
        assert market.launch(request).success
    assert market.tick(PARTITIONS).skip_message == "nothing new"
    market.day("2024-01-05")
    assert spans(market.tick(PARTITIONS)) == [(table, "2024-01-05", "2024-01-05") for table in EXTRACTS]


def test_a_corrected_day_is_requested_by_its_row_count(extracted: MarketHouse) -> None:
    """A row more or less: the day is requested again, and no other; at once, before its checksum has its turn."""
    extracted.put("trade", LATER, (1, "A", 1.0))
    assert spans(look(extracted, checksum_seconds=0.0)) == [(TRADE, LATER, LATER)]
    extracted.days["trade"][LATER] = extracted.days["trade"][NEXT]
    extracted.put("trade", DAY, (1, "A", 1.0))
    result = extracted.tick(PARTITIONS)
    assert spans(result) == [(TRADE, DAY, DAY)]
    assert extracted.launch(result.run_requests[0]).success
    assert extracted.tick(PARTITIONS).skip_message == "nothing new"


def test_a_corrected_day_is_requested_by_its_checksum(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """As many rows, one price another: the day is requested again, though it is the oldest of many."""
    market = MarketHouse(tmp_path, instance)
    market.day(DAY, *(f"2024-0{month}-0{day}" for month in range(2, 6) for day in range(1, 8)))
    market.command_line(TRADE)
    assert spans(look(market)) == []
    market.day(DAY, price=99.0)
    assert spans(look(market)) == [(TRADE, DAY, DAY)]


def test_a_day_that_goes_back_and_forth_is_requested_each_time(extracted: MarketHouse) -> None:
    """A correction that is taken back, and made again: the third run is no repetition of the first."""
    old, new = extracted.days["trade"][DAY], None
    extracted.put("trade", DAY, (1, "A", 1.0))
    new = extracted.days["trade"][DAY]
    keys = set()
    for number, rows in enumerate((new, old, new, old)):
        extracted.days["trade"][DAY] = rows
        (request,) = look(extracted, later=number * BACKOFF_SECONDS * 2).run_requests or ()
        keys.add(request.run_key)
        assert extracted.launch(request).success
    assert len(keys) == 4


def test_a_source_that_does_not_answer_holds_up_nothing(market: MarketHouse) -> None:
    """It is told, by the log and by the tick; the other extract is requested."""
    del market.days["quote"]
    result = market.tick(PARTITIONS)
    assert spans(result) == [(TRADE, DAY, LATER)]
    market.run(TRADE, first=DAY, last=LATER)
    market.broken.add("all")
    assert "extract.trade: its source cannot be read (SourceUnreachable)" in said(look(market))
    assert "nobody answers" in market.told[0]


def test_a_day_that_fails_is_requested_later_and_later(market: MarketHouse) -> None:
    """One bad day: the others are extracted; it is requested alone, after longer and longer waits, then no more."""
    market.broken.add(NEXT)
    assert not market.launch(look(market).run_requests[0]).success  # type: ignore[index]
    keys = set()
    for attempt in range(FAILURES):
        later = BACKOFF_SECONDS * 2 ** max(attempt - 1, 0)
        if attempt:
            assert f"{NEXT}: waits" in said(look(market, later=later - 10))
        result = look(market, later=later)
        assert spans(result) == [(TRADE, NEXT, NEXT)]
        (request,) = result.run_requests or ()
        keys.add(request.run_key)
        assert not market.launch(request).success
    assert len(keys) == FAILURES
    assert f"{NEXT}: gave up after {FAILURES} runs" in said(look(market, later=1e6))
    assert "nothing more is requested" in market.told[0]


def test_a_day_that_fails_holds_up_no_other(market: MarketHouse) -> None:
    """New days are requested apart from one that failed, though they follow it; and the source's mending is noticed."""
    market.broken.add(LATER)
    for _ in range(2):
        market.launch(look(market).run_requests[0])  # type: ignore[index]
    market.day("2024-01-05")
    assert spans(look(market)) == [(TRADE, "2024-01-05", "2024-01-05")]
    market.put("trade", LATER, (1, "A", 1.0))
    assert (TRADE, LATER, LATER) in spans(look(market))


def test_nothing_is_requested_while_a_run_is_active(market: MarketHouse) -> None:
    """A run that waits in the queue extracts what is behind by then."""
    graph = market.defs.resolve_implicit_global_asset_job_def()
    chosen = frozenset([key(TRADE)])
    market.instance.create_run_for_job(
        graph.get_subset(asset_selection=chosen), asset_selection=chosen, tags={"dagster/partition": DAY}
    )
    result = market.tick(PARTITIONS)
    assert spans(result) == [("extract.quote", DAY, LATER)]
    market.instance.create_run_for_job(market.defs.resolve_job_def("market_job"))
    assert market.tick(PARTITIONS).skip_message == "extract.trade: a run is active; extract.quote: a run is active"


def test_days_before_the_start_are_told_and_not_requested(extracted: MarketHouse) -> None:
    """What the graph has no partition for cannot be run; the tick says so and names the option."""
    extracted.day("2023-12-28", "2023-12-29")
    text = said(look(extracted))
    assert "2 day(s) of its source (from 2023-12-28 to 2023-12-29) are left out" in text
    assert "partitions: start" in text
    extracted.day("2024-01-05")
    assert spans(look(extracted)) == [(TRADE, "2024-01-05", "2024-01-05")]


def clock(step: float) -> Callable[[], float]:
    """A clock that goes on by so much whenever it is read."""
    ticks = iter(range(1_000_000))
    return lambda: next(ticks) * step


def test_checksums_take_turns(extracted: MarketHouse) -> None:
    """A tick without time compares one day, and the next one goes on there: each day has its turn, the oldest too."""
    extracted.day(LATER, price=99.0)
    cursor: str | None = None
    found = []
    for _ in range(3):
        result = look(extracted, cursor=cursor, checksum_seconds=0.0)
        cursor = result.cursor
        found.append(spans(result))
    assert found == [[], [], [(TRADE, LATER, LATER)]]
    assert set(json.loads(cursor or "")) == {TRADE}


def test_row_counts_take_turns_too(extracted: MarketHouse) -> None:
    """Footers of many files cost time as well; new days are noticed at every tick whatever the time."""
    extracted.put("trade", LATER, (1, "A", 1.0))
    extracted.day("2024-01-05")
    cursor: str | None = None
    found = []
    for _ in range(3):
        result = look(extracted, cursor=cursor, seconds=0.0)
        cursor = result.cursor
        found.append(spans(result))
    new = (TRADE, "2024-01-05", "2024-01-05")
    assert found == [[new], [new], [(TRADE, LATER, "2024-01-05")]]


STALLING = """
delta_live_store:
  - entity_id: xt
    source: trade
    source_format: kdb
    destination: extract.trade
    read_options: {kdb.host: 127.0.0.1, kdb.port: PORT, kdb.partition: date}
    lakehouse: {partitions: {cadence: daily, start: "2018-12-03"}}
"""


def test_a_source_that_stalls_is_given_up_in_time(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """It answers nothing: the tick ends in time; it stalls at a checksum: what was found before is requested."""
    with KdbServer(KdbConfig(dates=(date(2018, 12, 20), date(2018, 12, 21)), rows=10)) as server:
        catalog = parse_catalog({"c.yaml": STALLING.replace("PORT", str(server.port))}, {}, {})
        settings = Settings(root=str(tmp_path / "lake"))
        made, project = written(catalog)[TableName("extract", "trade")], Project(settings, catalog, {})
        told: list[str] = []
        with LakehouseResource.of(settings).open(project) as work:
            list(refresh(work, made.table, partitions=["2018-12-20"]))
            server.arm(Fault("stall"))
            start = time.monotonic()
            result = PartitionTick(work, instance, told.append, seconds=0.5).run([made], None)
            assert "its source cannot be read (SourceUnreachable)" in said(result)
            server.arm(Fault("stall", query=FINGERPRINT))
            result = PartitionTick(work, instance, told.append, seconds=0.5).run([made], None)
            assert spans(result) == [(TRADE, "2018-12-21", "2018-12-21")]
            assert "2018-12-20 could not be compared" in told[-1]
            assert time.monotonic() - start < 5


def test_a_tick_requests_a_bounded_number_of_runs(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """Very many gaps: some runs now, the others at the next ticks."""
    market = MarketHouse(tmp_path, instance)
    days = [f"2024-{month:02}-15" for month in range(1, 13)]
    market.day(*days)
    assert len(look(market).run_requests or ()) == REQUESTS


def test_days_of_a_run_follow_each_other() -> None:
    """Weekends and holidays, which the source has not, lie within a run; a day that is in order ends it, and a gap."""
    order = ["2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09", "2024-01-10", "2024-03-01"]
    assert in_a_row(order, set(order) - {"2024-01-09"}) == [order[:3], ["2024-01-10"], ["2024-03-01"]]
    assert in_a_row(order, set()) == []


def test_a_catalog_without_extracts_has_no_such_sensor(house: House) -> None:
    """There is no sensor that has nothing to look at."""
    assert PARTITIONS not in {sensor.name for sensor in house.defs.get_repository_def().sensor_defs}
