"""The real daily prices that simulated trades and quotes walk around: the packaged prices.csv.

What belongs here: days and their open, high, low and close. What does not: trades and quotes (`kdb_market.py`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from datetime import date
from functools import cache
from importlib.resources import files
from random import Random
from typing import NamedTuple

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.simulators.kafka_prices import DAILY_RANGE

CALENDAR = "SP500"
"""The index whose days are the trading days."""


class Bar(NamedTuple):
    """A day of an index; NaN is what its series lacks."""

    open: float
    high: float
    low: float
    close: float


class _Series(NamedTuple):
    days: list[date]
    bars: list[Bar]


@cache
def _series() -> Mapping[str, _Series]:
    """The rows of each index, in order of days, which is that of the file."""
    import pyarrow as pa
    from pyarrow import csv

    prices = csv.ConvertOptions(column_types={name.capitalize(): pa.float64() for name in Bar._fields})
    with files(__package__).joinpath("data/prices.csv").open("rb") as file:
        table = csv.read_csv(file, convert_options=prices)
    found: dict[str, _Series] = {}
    columns = [table.column(name).to_pylist() for name in ("Index", "Date", "Open", "High", "Low", "Close")]
    for index, day, *bar in zip(*columns, strict=True):
        days, bars = found.setdefault(index, _Series([], []))
        days.append(day)
        bars.append(Bar(*(math.nan if price is None else price for price in bar)))
    return dict(sorted(found.items()))


def indices() -> tuple[str, ...]:
    """The names of the series, sorted."""
    return tuple(_series())


def trading_days(since: date, until: date) -> tuple[date, ...]:
    """The days from one to another, both included, that have a real price of the index `CALENDAR`.

    Raises:
        SettingsError: there is none.
    """
    days = _series()[CALENDAR].days
    found = tuple(day for day in days if since <= day <= until)
    if not found:
        raise SettingsError(
            f"there are no trading days from {since} to {until}",
            fix=f"name days from {days[0]} to {days[-1]}: those that have real prices",
        )
    return found


def bar(index: str, day: date, seed: int) -> Bar:
    """The real prices of a day; what a series lacks is drawn from the seed.

    A day that the series lacks begins and ends at the close of the day before it (of its first day, if there is none
    before). A series without opening prices opens at that close, too.
    """
    days, bars = _series()[index]
    at = max(bisect_right(days, day) - 1, 0)
    found, before = bars[at], bars[max(at - 1, 0)]
    if days[at] != day:
        found, before = Bar(math.nan, math.nan, math.nan, found.close), found
    close = found.close
    opened = before.close if math.isnan(found.open) else found.open
    if not math.isnan(found.high + found.low):
        high, low = found.high, found.low
    else:
        chance = Random(f"{seed}/{index}/{day}")
        high = max(opened, close) * (1 + abs(chance.gauss(0, DAILY_RANGE)) + 0.001)
        low = min(opened, close) * (1 - abs(chance.gauss(0, DAILY_RANGE)) - 0.001)
    return Bar(opened, max(high, opened, close), min(low, opened, close), close)
