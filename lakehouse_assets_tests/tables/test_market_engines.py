"""The shipped market catalog over a kdb+ stand-in: embedded, Spark, and both in turn end in the same tables."""

from __future__ import annotations

import importlib.resources
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from lakehouse_assets.engines.base import Engine
from lakehouse_assets.entities.catalog import Catalog, parse_catalog
from lakehouse_assets.simulators.kdb import KdbServer
from lakehouse_assets.simulators.kdb_config import KdbConfig
from lakehouse_assets.sources.base import open_source
from lakehouse_assets_tests.tables.test_two_engines import Lakes

FIRST, SECOND, THIRD, EMPTY = date(2018, 12, 19), date(2018, 12, 20), date(2018, 12, 21), date(2018, 12, 24)
TABLES = {
    "bronze.trades", "bronze.quotes", "silver.trades_with_quotes", "gold.trade_bars", "gold.execution_quality"
}  # fmt: skip


def shipped(server: KdbServer) -> Catalog:
    """The market catalog of the package, which reads from `server`."""
    directory = importlib.resources.files("lakehouse_assets").joinpath("catalog")
    names = ("sql/trade_bars.sql", "sql/execution_quality.sql")
    queries = {name: directory.joinpath(name).read_text() for name in names}
    environ = {"LAKEHOUSE_KDB_HOST": server.host, "LAKEHOUSE_KDB_PORT": str(server.port)}
    return parse_catalog({"market.yaml": directory.joinpath("market.yaml").read_text()}, queries, environ)


@pytest.mark.timeout(900)
def test_the_shipped_market_catalog_gives_equal_tables(spark: Engine, tmp_path: Path) -> None:
    """Design §7.4: days, a new and an empty one, a corrected one, a rebuild of the join and of gold."""
    config = KdbConfig(dates=(FIRST, SECOND), symbols=5, rows=60, quotes=3.0, nulls=0.05, ties=0.2)
    with KdbServer(config) as server:
        lakes = Lakes(tmp_path / "lakes", shipped(server), spark)
        lakes.works = {name: replace(work, open_source=open_source) for name, work in lakes.works.items()}
        lakes.run()
        assert set(lakes.content("embedded")) == TABLES
        lakes.check()
        server.correct(FIRST, dropped=7)
        server.correct(FIRST, "quote")
        server.add(THIRD)
        server.empty(EMPTY)
        lakes.run()
        lakes.check()
        lakes.run("silver.trades_with_quotes", "gold.trade_bars")
        lakes.check()
        rows = lakes.content("embedded")["silver.trades_with_quotes"]["rows"].total()
        assert rows == lakes.content("embedded")["bronze.trades"]["rows"].total() == 3 * 60 - 7
