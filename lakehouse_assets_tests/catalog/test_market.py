"""The shipped market pipeline over the stand-in for a kdb+ process: rows as served, days, corrections, faults of the original."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse_assets.entities.catalog import load_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import LakeError, SourceError
from lakehouse_assets.settings import PACKAGED_CATALOG, Settings
from lakehouse_assets.simulators.kdb import KdbServer
from lakehouse_assets.simulators.kdb_config import KdbConfig
from lakehouse_assets.sources.kdb_client import KdbServer as Address
from lakehouse_assets.sources.kdb_client import OwnClient
from lakehouse_assets.sources.kdb_types import held
from lakehouse_assets.tables.base import Outcome, Work, open_work
from lakehouse_assets.tables.refresh import refresh

DAYS = (date(2018, 12, 19), date(2018, 12, 20))
TABLES = ("extract.trade", "extract.quote", "bronze.trades", "bronze.quotes", "silver.trades_with_quotes")
GOLD = ("gold.trade_bars", "gold.execution_quality")


class Market:
    """The shipped catalog over a stand-in."""

    def __init__(self, root: Path, server: KdbServer) -> None:
        environ = {"LAKEHOUSE_KDB_HOST": server.host, "LAKEHOUSE_KDB_PORT": str(server.port)}
        self.root, self.server = root, server
        self.work: Work = open_work(Settings(root=str(root)), load_catalog(PACKAGED_CATALOG, environ), environ)

    def run(self, *tables: str) -> list[Outcome]:
        """Refresh tables in order; all of the pipeline if none is named."""
        names = [TableName(*name.split(".")) for name in tables or TABLES + GOLD]
        return [outcome for name in names for outcome in refresh(self.work, name)]

    def table(self, name: str, columns: str = "*", where: str = "true") -> pa.Table:
        """Rows of a table."""
        handle = self.work.engine.find(f"{self.root}/{name.replace('.', '/')}")
        assert handle is not None
        sql = f"SELECT {columns} FROM t WHERE {where}"
        return self.work.engine.batches(self.work.engine.query(sql, {"t": self.work.engine.read(handle)})).read_all()

    def served(self, table: str, day: date) -> pa.Table:
        """The rows of a day as the process has them, asked for in q."""
        client = OwnClient(Address(self.server.host, self.server.port))
        try:
            return held(client.table(f"select from {table} where date={day:%Y.%m.%d}"))
        finally:
            client.close()


@pytest.fixture(scope="module")
def server() -> Iterator[KdbServer]:
    """Two days of a few hundred trades."""
    with KdbServer(KdbConfig(dates=DAYS, symbols=6, rows=400, nulls=0.01, ties=0.3)) as found:
        yield found


@pytest.fixture
def market(tmp_path: Path, server: KdbServer) -> Market:
    """A lake of its own."""
    return Market(tmp_path / "lake", server)


def test_bronze_holds_the_rows_as_they_are_served(market: Market) -> None:
    """K21, K31, K32: a first run makes all that is not there; every row of trade and quote with its values, sizes included, in its place."""
    market.run(*TABLES[:4])
    for table, bronze in (("trade", "bronze.trades"), ("quote", "bronze.quotes")):
        for day in DAYS:
            rows = market.served(table, day).drop_columns(["date"])
            ours = market.table(bronze, where=f"date = DATE '{day}'").sort_by("_row")
            assert ours.select(rows.column_names).to_pylist() == rows.to_pylist()
            assert ours["_row"].to_pylist() == list(range(rows.num_rows))


def test_prices_and_mids_are_doubles(market: Market) -> None:
    """K33: no price is cut to four bytes on its way."""
    market.run(*TABLES)
    schema = market.table(TABLES[4]).schema
    assert {schema.field(name).type for name in ("price", "bid", "ask", "mid", "spread")} == {pa.float64()}


def test_each_trade_has_the_quote_that_was_the_case(market: Market) -> None:
    """K34: of every trade, the last quote of its symbol at or before it, of one instant the last one; NULL matches none."""
    market.run(*TABLES)
    for day in DAYS:
        quotes = market.served("quote", day).to_pylist()
        found = market.table(TABLES[4], where=f"date = DATE '{day}'").sort_by("_row").to_pylist()
        trades = market.served("trade", day).to_pylist()
        assert len(found) == len(trades)
        for trade, row in zip(trades, found, strict=True):
            before = [q for q in quotes if q["sym"] == trade["sym"] is not None and q["time_ns"] <= trade["time_ns"]]
            last = max(enumerate(before), key=lambda one: (one[1]["time_ns"], one[0]), default=(0, None))[1]
            expected = (None, None) if last is None else (last["bid"], last["ask"])
            assert (row["bid"], row["ask"], row["price"]) == (*expected, trade["price"])


def test_bars_are_those_of_the_trades(market: Market) -> None:
    """Gold: open, high, low, close, volume and VWAP of the trades that have symbol, price and size; one bar a day each."""
    market.run()
    trades = [t for day in DAYS for t in market.served("trade", day).to_pylist() if t["sym"] and t["price"] is not None]
    bars = market.table(GOLD[0]).to_pylist()
    for width in ("1m", "5m", "1d"):
        of_width = [bar for bar in bars if bar["width"] == width]
        assert sum(bar["trades"] for bar in of_width) == len(trades)
        assert sum(bar["volume"] for bar in of_width) == sum(t["size"] for t in trades)
    for bar in (bar for bar in bars if bar["width"] == "1d"):
        own = [t for t in trades if (t["sym"], t["date"]) == (bar["sym"], bar["date"])]
        first, last = min(own, key=lambda t: t["time_ns"]), max(reversed(own), key=lambda t: t["time_ns"])
        prices = [t["price"] for t in own]
        assert [float(bar[name]) for name in ("open", "high", "low", "close")] == pytest.approx(
            [first["price"], max(prices), min(prices), last["price"]], abs=1e-6
        )
        vwap = sum(t["price"] * t["size"] for t in own) / sum(t["size"] for t in own)
        assert bar["vwap"] == pytest.approx(vwap, rel=1e-9)


def test_columns_and_tables_are_described(market: Market) -> None:
    """K38: every table has a comment, tags and owners; columns carry their comments in the table itself."""
    market.run()
    for name in (*TABLES, *GOLD):
        (entity,) = market.work.catalog.destinations[TableName(*name.split("."))]
        assert entity.comment
        assert entity.tags == {"pipeline": "market"}
        assert entity.lakehouse.owners
    handle = market.work.engine.find(f"{market.root}/gold/trade_bars")
    assert handle is not None
    assert {f.name: f.metadata[b"comment"] for f in handle.schema}["vwap"] == b"Volume-weighted price"


def test_an_extract_says_what_it_holds(market: Market) -> None:
    """K30: rows, a checksum and what the source said stand in the footer; a file that was damaged is refused."""
    market.run("extract.trade")
    path = market.root / "extract" / "trade" / f"date={DAYS[0]}" / "trade.parquet"
    footer = pq.read_metadata(path).metadata[b"lakehouse.extract"]
    assert b'"rows": 400' in footer
    assert b"checksum" in footer
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(LakeError, match=str(DAYS[0])):
        market.run("bronze.trades")


def test_what_changed_at_the_source_is_made_again(market: Market) -> None:
    """K24: a second run writes nothing; a corrected day is made again, down to gold, and equals a lake made at once."""
    market.run()
    assert market.run() == []
    with KdbServer(replace(market.server.config, port=0)) as other:
        other.correct(DAYS[0], dropped=3)
        late, fresh = Market(market.root, other), Market(market.root.parent / "fresh", other)
        made = {(str(next(iter(o.commits))), o.plan.feed.partition) for o in late.run()}
        assert made == {
            ("extract.trade", str(DAYS[0])),
            ("bronze.trades", str(DAYS[0])),
            (TABLES[4], str(DAYS[0])),
            *((g, "") for g in GOLD),
        }
        fresh.run()
    for name in (TABLES[4], *GOLD):
        columns = late.table(name).schema.names
        order = [(column, "ascending") for column in columns]
        assert late.table(name).sort_by(order).equals(fresh.table(name).sort_by(order)), name


def test_a_day_without_rows(tmp_path: Path) -> None:
    """Issue: an empty date is a date without rows, down to gold; when it gets some they are there."""
    with KdbServer(KdbConfig(dates=DAYS, symbols=3, rows=50)) as kdb:
        kdb.empty(DAYS[0])
        market = Market(tmp_path / "lake", kdb)
        market.run()
        assert set(market.table("bronze.trades")["date"].to_pylist()) == {DAYS[1]}
        kdb.add(DAYS[0])
        market.run()
        assert set(market.table("gold.execution_quality")["date"].to_pylist()) == set(DAYS)


def test_a_column_that_older_days_lack(tmp_path: Path) -> None:
    """Issue: columns that changed between dates: a date that the process cannot read any more is named, the others go on."""
    with KdbServer(KdbConfig(dates=DAYS, symbols=3, rows=50)) as kdb:
        market = Market(tmp_path / "lake", kdb)
        market.run("extract.trade", "bronze.trades")
        kdb.change(DAYS[1], "added")
        with pytest.raises(SourceError, match=rf"failed \({DAYS[0]}\).*venue"):
            market.run("extract.trade")
        market.run("bronze.trades")
        rows = market.table("bronze.trades").to_pylist()
        assert len(rows) == 100
        assert {row["date"] for row in rows if row["venue"] is not None} == {DAYS[1]}


def test_a_symbol_with_most_of_the_rows(tmp_path: Path) -> None:
    """K36: one symbol with 60 % of all rows changes nothing about the answer."""
    with KdbServer(KdbConfig(dates=DAYS[:1], symbols=40, rows=3_000, skew=0.6)) as kdb:
        market = Market(tmp_path / "lake", kdb)
        market.run()
        joined = market.table(TABLES[4])
        assert joined.num_rows == 3_000
        counts = joined.group_by("sym").aggregate([([], "count_all")])
        assert max(counts["count_all"].to_pylist()) > 1_700


@pytest.mark.slow
def test_a_million_symbols(tmp_path: Path) -> None:
    """Issue: as many symbols as rows; each trade is in the answer once."""
    with KdbServer(KdbConfig(dates=DAYS[:1], symbols=1_000_000, rows=1_000_000, quotes=0.1, nulls=0)) as kdb:
        market = Market(tmp_path / "lake", kdb)
        market.run(*TABLES)
        joined = market.table(TABLES[4], "sym, _row, bid")
        assert sorted(joined["_row"].to_pylist()) == list(range(1_000_000))
        assert len(set(joined["sym"].to_pylist())) > 600_000
        assert 0 < joined["bid"].null_count < 1_000_000
