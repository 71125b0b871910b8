"""A kdb+ table that is landed: replaced when its rows change, left alone when they do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse_assets.sources import qipc
from lakehouse_assets_tests.sources.kdb_desk import ONE, TWO, Desk, Office, table
from lakehouse_assets_tests.sources.kdb_wire import Wire
from lakehouse_assets_tests.tables.lab import Lab

KINDS = {"sym": "symbol", "time": "timestamp", "tags": "long list", "note": "char vector"}
FIRST = table(KINDS, sym=["a", None], time=[1_704_189_600_000_000_001, None], tags=[[1, None], []], note=["x", ""])
SECOND = table(KINDS, sym=["b"], time=[0], tags=[[]], note=["y"])
CATALOG = """
    delta_live_store:
      - entity_id: trades
        source: trade
        source_format: kdb
        destination: bronze.trades
        read_options: {{kdb.host: 127.0.0.1, kdb.port: {port}}}
      - entity_id: symbols
        source: bronze.trades
        source_format: dlt
        destination: silver.symbols
        select_expr: [sym, time_ns]
"""


@pytest.fixture
def office() -> Iterator[Office]:
    """A process with two trades in memory."""
    desk = Desk()
    desk.tables["trade"] = FIRST
    with Wire(desk.serve) as wire:
        yield Office(desk, wire)


@pytest.fixture
def lab(office: Office, tmp_path: Path) -> Lab:
    """A lake that lands the trades, and a table that reads them."""
    return Lab(tmp_path, CATALOG.format(port=office.wire.port))


def test_a_table_is_landed_as_it_is(lab: Lab) -> None:
    """K27: rows, nulls and nanoseconds, with their place and their source."""
    lab.run()
    assert lab.rows("bronze.trades", "sym", "time_ns", "tags", "note", "_position", "_source") == [
        ("a", 1_704_189_600_000_000_001, [1, None], "x", "0", "trades"),
        (None, None, [], "", "1", "trades"),
    ]
    assert lab.rows("silver.symbols") == [("a", 1_704_189_600_000_000_001), (None, None)]


def test_a_table_that_is_the_same_is_not_landed_again(lab: Lab) -> None:
    """K24: a second run writes nothing, and fails nowhere."""
    lab.run()
    before = lab.version("bronze.trades")
    lab.run()
    assert lab.version("bronze.trades") == before


@pytest.mark.parametrize("rows", [SECOND, FIRST.slice(0, 0)], ids=["others", "none"])
def test_a_table_that_changed_is_replaced(lab: Lab, office: Office, rows: object) -> None:
    """Whatever it holds now, and nothing else: a table without rows leaves none."""
    lab.run()
    office.desk.tables["trade"] = rows
    lab.run()
    assert lab.rows("bronze.trades", "sym") == ([("b",)] if rows is SECOND else [])
    assert lab.rows("silver.symbols", "sym") == ([("b",)] if rows is SECOND else [])


def test_dates_on_disk_are_landed_together(lab: Lab, office: Office) -> None:
    """A database by date, with the date as a column."""
    del office.desk.tables["trade"]
    office.desk.stored["trade"] = {ONE: FIRST, TWO: SECOND}
    lab.run()
    assert lab.rows("bronze.trades", "date", "sym") == [(ONE, "a"), (ONE, None), (TWO, "b")]


def test_a_failed_read_leaves_the_table(lab: Lab, office: Office) -> None:
    """What was landed stays as it was, and the next run lands the new rows."""
    lab.run()
    office.desk.tables["trade"] = SECOND
    office.desk.before = lambda name, given: qipc.QServerError("wsfull") if name == "WHOLE_SLICE" and given[2] else None
    with pytest.raises(Exception, match="wsfull"):
        lab.run()
    assert lab.rows("bronze.trades", "sym") == [("a",), (None,)]
    office.desk.before = lambda *_: None
    lab.run()
    assert lab.rows("bronze.trades", "sym") == [("b",)]
