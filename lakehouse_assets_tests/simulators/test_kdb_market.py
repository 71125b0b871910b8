"""The market of the kdb+ stand-in: prices within the real ones, spreads, sessions, ties, nulls, skew, and one seed."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.simulators.kafka_prices import read_rows
from lakehouse_assets.simulators.kdb_config import Fault, KdbConfig
from lakehouse_assets.simulators.kdb_market import Market
from lakehouse_assets.simulators.kdb_prices import bar, indices, trading_days

DAY, SUMMER = date(2018, 12, 21), date(2018, 7, 2)
PLAIN = KdbConfig(rows=4000, quotes=2, nulls=0, ties=0)


def columns(table: pa.Table) -> dict[str, np.ndarray]:
    """The columns as numpy has them; times as nanoseconds, symbols as objects."""
    made = {name: table.column(name).combine_chunks() for name in table.column_names}
    made["time"] = made["time"].cast(pa.int64())
    return {name: np.array(array.to_pylist()) for name, array in made.items()}


def test_trades_walk_from_the_real_open_to_the_real_close_within_high_and_low() -> None:
    """Every trade lies within the real range of the day, which is reached; the first and the last lie at its ends."""
    real = next(row.fields for row in read_rows() if row.fields["Index"] == "SP500" and row.fields["Date"] == str(DAY))
    found = columns(Market(KdbConfig(rows=40_000, nulls=0, ties=0)).table("trade", DAY))
    price = found["price"][found["sym"] == "SP500"]
    low, high = float(real["Low"]), float(real["High"])
    assert low <= price.min() < low + 0.05 * (high - low)
    assert high >= price.max() > high - 0.05 * (high - low)
    assert abs(price[0] - float(real["Open"])) < 0.05 * (high - low)
    assert abs(price[-1] - float(real["Close"])) < 0.05 * (high - low)


def test_every_symbol_stays_within_its_range_on_every_day() -> None:
    """Series that have a close alone, too, have a range around it, and prices are whole cents."""
    for day in trading_days(date(2018, 11, 26), DAY)[::4]:
        found = columns(Market(PLAIN).table("trade", day))
        for name in indices():
            price, real = found["price"][found["sym"] == name], bar(name, day, PLAIN.seed)
            assert real.low <= price.min() <= price.max() <= real.high
            assert np.array_equal(np.round(price, 2), price)


def test_the_spread_is_positive_and_trades_lie_near_the_quotes() -> None:
    """Ask above bid in every quote; a trade is at most a few basis points away from the last quote before it."""
    market = Market(KdbConfig(rows=2000, quotes=20, nulls=0))
    trade, quote = columns(market.table("trade", DAY)), columns(market.table("quote", DAY))
    assert (quote["ask"] > quote["bid"]).all()
    for name in indices():
        mine, theirs = trade["sym"] == name, quote["sym"] == name
        at = np.searchsorted(quote["time"][theirs], trade["time"][mine], side="right") - 1
        middle = ((quote["bid"] + quote["ask"]) / 2)[theirs][np.maximum(at, 0)]
        away = np.abs(trade["price"][mine] / middle - 1)[at >= 0]
        assert np.median(away) < 0.001


@pytest.mark.parametrize(("day", "opens"), [(DAY, 14.5), (SUMMER, 13.5)])
def test_sessions_are_those_of_new_york_in_utc(day: date, opens: float) -> None:
    """From 09:30 to 16:00 in New York, an hour earlier in UTC in summer; nanoseconds, ascending within a symbol."""
    found = columns(Market(PLAIN).table("quote", day))
    begin = int(np.datetime64(day, "ns").astype(np.int64)) + int(opens * 3600) * 10**9
    assert begin <= found["time"].min() < begin + 60 * 10**9
    assert begin + 6.5 * 3600 * 10**9 > found["time"].max() > begin + 6.4 * 3600 * 10**9
    assert (found["time"] % 1000 != 0).mean() > 0.9
    for name in indices():
        assert (np.diff(found["time"][found["sym"] == name]) >= 0).all()


def test_ties() -> None:
    """The declared share of rows stands at the instant of the row before or at a full ten seconds; else none does."""

    def tied(share: float) -> tuple[int, int]:
        found = columns(Market(KdbConfig(rows=40_000, nulls=0, ties=share)).table("trade", DAY))
        again = (np.diff(found["time"]) == 0) & (found["sym"][1:] == found["sym"][:-1])
        return int(again.sum()), int((found["time"] % 10**10 == 0).sum())

    assert tied(0) == (0, 0)
    moved = tied(0.05)
    assert min(moved) > 100
    assert 0.03 < sum(moved) / 40_000 < 0.06


def test_nulls() -> None:
    """The declared share of prices, bids, asks and symbols is NULL; none with 0. NULL symbols stand first."""
    market = Market(KdbConfig(rows=20_000, quotes=1, nulls=0.02))
    trade, quote = market.table("trade", DAY), market.table("quote", DAY)
    for column in (trade.column("price"), trade.column("sym"), quote.column("bid"), quote.column("ask")):
        assert 0.015 < column.null_count / 20_000 < 0.025
    assert trade.column("sym").slice(0, trade.column("sym").null_count).null_count == trade.column("sym").null_count
    plain = Market(PLAIN).table("trade", DAY)
    assert [name for name in plain.column_names if plain.column(name).null_count] == ["cond"]


def test_symbols() -> None:
    """As many as are asked for, made from the indices and named after them, sorted as q stores them."""
    assert Market(KdbConfig(symbols=1)).names.to_pylist() == ["SP500"]
    names = Market(KdbConfig(symbols=4001)).names.to_pylist()
    assert len(set(names)) == 4001
    assert names == sorted(names)
    assert {name.split(".")[0] for name in names} == set(indices())
    found = columns(Market(KdbConfig(symbols=50, rows=5000, nulls=0)).table("trade", DAY))["sym"].tolist()
    assert found == sorted(found)
    assert len(set(found)) > 45


def test_skew() -> None:
    """One symbol has the declared share of all rows, and the rows of a date stay as many."""
    found = columns(Market(KdbConfig(symbols=40, rows=10_000, skew=0.6, nulls=0)).table("trade", DAY))["sym"]
    assert len(found) == 10_000
    assert (found == "SP500").sum() == pytest.approx(6000, abs=1)


def test_one_seed_one_day() -> None:
    """The same seed and day give the same rows in any order of asking; another seed or day gives others."""
    one, two = Market(PLAIN), Market(PLAIN)
    two.table("quote", SUMMER)
    assert one.table("trade", DAY).equals(two.table("trade", DAY))
    sizes, other = one.table("trade", DAY).column("size"), Market(KdbConfig(rows=4000, nulls=0, ties=0, seed=8))
    assert not sizes.equals(one.table("trade", SUMMER).column("size"))
    assert not sizes.equals(other.table("trade", DAY).column("size"))


def test_a_symbol_does_not_hang_on_the_others() -> None:
    """With as many rows, a symbol has the same prices however many others there are."""
    few = columns(Market(KdbConfig(rows=1000, skew=1, symbols=4, nulls=0)).table("trade", DAY))
    many = columns(Market(KdbConfig(rows=1000, skew=1, symbols=400, nulls=0)).table("trade", DAY))
    assert all(np.array_equal(few[name], many[name]) for name in few)


def test_in_memory_rows_are_in_order_of_time() -> None:
    """As a process that takes rows in through the day has them."""
    found = columns(Market(KdbConfig(rows=1000, kind="memory")).table("trade", DAY))
    assert (np.diff(found["time"]) >= 0).all()


def test_what_is_refused() -> None:
    """Days without real prices, shares above one, kinds and faults that nobody knows."""
    with pytest.raises(SettingsError, match="1999-01-04 to 2018-12-31"):
        trading_days(date(2018, 12, 22), date(2018, 12, 23))
    for wrong in ({"nulls": 1.5}, {"kind": "splayed"}, {"symbols": 0}):
        with pytest.raises(SettingsError):
            KdbConfig(**wrong)
    with pytest.raises(SettingsError, match="kill"):
        Fault("explode")


def test_options_travel() -> None:
    """Options survive the way to a process; the password is not shown."""
    config = KdbConfig(password="s3cret", denied=("quote",), dates=(DAY,), skew=0.6)
    assert KdbConfig.from_json(config.to_json()) == config
    assert "s3cret" not in repr(config)
