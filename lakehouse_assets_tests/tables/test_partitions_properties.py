"""Random histories of days: whatever came, was corrected, emptied or widened, and was run in between, in whichever parts.

In the end the tables are those that one run makes of the last state.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse_assets.entities.model import TableName
from lakehouse_assets_tests.tables.partition_lab import MADE, SCHEMAS, PartitionLab, days_of

DAYS = ("2024-01-02", "2024-01-03", "2024-01-04")
WIDER = pa.field("cond", pa.string())
keys, sides = st.sampled_from(DAYS), st.sampled_from(("trade", "quote"))
tables = st.sampled_from(MADE)
ROW = st.tuples(
    st.integers(0, 4), st.sampled_from(("A", "B", None)), st.one_of(st.none(), st.integers(0, 9).map(float))
)
rows = st.lists(ROW, max_size=4)
EVENTS = st.one_of(
    st.tuples(st.just("put"), sides, keys, rows),  # a new day, or a correction of it; empty at times
    st.tuples(st.just("put"), sides, keys, rows),
    st.tuples(st.just("widen"), sides, keys, rows),
    st.tuples(st.just("run"), st.lists(tables, min_size=1, max_size=6, unique=True)),
    st.tuples(st.just("run"), st.just(MADE)),
    st.tuples(st.just("some"), st.lists(keys, min_size=1, max_size=2, unique=True)),
    st.tuples(st.just("rebuild"), st.sampled_from(MADE[2:5])),
)


def put(it: PartitionLab, table: str, key: str, given: Sequence[tuple], *, wider: bool) -> None:
    """Let a day hold rows; quotes have an ask above their bid."""
    schema = SCHEMAS[table].append(WIDER) if wider else SCHEMAS[table]
    more = ("Z",) if wider else ()
    if table == "quote":
        given = [(*row, None if row[2] is None else row[2] + 1) for row in given]
    it.put(table, key, *((*row, *more) for row in given), schema=schema)


def run(it: PartitionLab, wanted: Any, days: Any = None) -> None:
    """Run tables in their order, as far as what they read is there."""
    for table in MADE:
        above = {"silver.joined": MADE[2:4], "gold.bars": MADE[4:5]}.get(table, ())
        if table in wanted and all(it.exists(name) for name in above):
            it.run(table, partitions=days)


def play(it: PartitionLab, event: tuple) -> None:
    """Let something happen."""
    match event:
        case ("put" | "widen" as how, table, key, given):
            put(it, table, key, given, wider=how == "widen")
        case ("run", wanted):
            run(it, wanted)
        case ("some", days):
            run(it, MADE, days)
        case ("rebuild", table):
            if it.exists(table):
                it.run(table, rebuild=True)


def content(it: PartitionLab) -> dict[str, Any]:
    """Every table by its columns, whichever came first, and what its extracts say."""
    found: dict[str, Any] = {}
    for table in MADE[2:]:
        handle = it.engine.find(it.work.uri(TableName(*table.split("."))))
        names = sorted(name for name in handle.schema.names if name != "_ingested_at") if handle else []
        found[table] = (names, it.rows(table, *names) if handle else [])
    return found


def plain(it: PartitionLab) -> list[tuple]:
    """What `silver.joined` is to hold, the slow way: each trade with the last quote at or before it, of its symbol."""
    found = []
    for key, trades in it.days["trade"].items():
        quotes = it.days["quote"].get(key)
        for trade in trades.to_pylist():
            last = [
                (quote["time"], n, quote["bid"])
                for n, quote in enumerate(quotes.to_pylist() if quotes is not None else ())
                if quote["sym"] == trade["sym"] is not None and quote["time"] <= trade["time"]
            ]
            found.append(
                (key, trade["sym"], trade["time"], trade["price"], max(last, key=lambda q: q[:2])[2] if last else None)
            )
    return sorted(found, key=repr)


def follow(events: list[tuple]) -> None:
    """Let it all happen in one lake, and run the last state in another."""
    with tempfile.TemporaryDirectory() as place:
        it = PartitionLab(Path(place) / "lake")
        it.days = {
            "trade": {DAYS[0]: days_of("trade")["2024-01-02"]},
            "quote": {DAYS[0]: days_of("quote")["2024-01-02"]},
        }
        for event in events:
            play(it, event)
        it.run()
        assert it.run() == []
        at_once = PartitionLab(Path(place) / "at once")
        at_once.days = it.days
        at_once.run()
        found, expected = content(it), content(at_once)
        for table, (names, held) in expected.items():
            common = [name for name in found[table][0] if name in names]  # a column stays when no day has it any more
            assert common == names
            assert it.rows(table, *common) == held
        joined = it.rows("silver.joined", "date", "sym", "time", "price", "bid")
        assert sorted(((str(row[0]), *row[1:]) for row in joined), key=repr) == plain(it)


HOW = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=3, **HOW)
@given(st.lists(EVENTS, min_size=2, max_size=5))
def test_a_few_histories_of_days_end_in_their_last_state(events: list[tuple]) -> None:
    """§5.4: no order of arrivals, corrections and partial runs leaves a trace in the tables."""
    follow(events)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=30, **HOW)
@given(st.lists(EVENTS, min_size=4, max_size=12))
def test_histories_of_days_end_in_their_last_state(events: list[tuple]) -> None:
    """§5.4: the same, of longer histories and more of them."""
    follow(events)
