"""Trades and quotes of a day: a walk of each symbol between the real high and low, from the real open to the close.

All chance is a hash of (seed, day, symbol, number of the row), so a symbol's day does not hang on when, or after what,
it is made; nor on other symbols, but for how many rows it has. Rows of a symbol are in order of time, symbols in order
of name, those of NULL first, as q stores them.

What belongs here: numbers. What does not: which days and versions of them exist (`kdb_database.py`).
"""

from __future__ import annotations

import datetime as dt
from functools import cached_property
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakehouse_assets.simulators.kdb_config import KdbConfig
from lakehouse_assets.simulators.kdb_prices import CALENDAR, bar, indices
from lakehouse_assets.sources.kdb_types import field

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

OPEN, CLOSE, ZONE = dt.time(9, 30), dt.time(16, 0), "America/New_York"
TICK = 100
"""Ticks of a unit of price."""
TEN_SECONDS = 10_000_000_000
CONDITIONS = ("", "F", "I", "T")
"""What `cond` says; most often nothing, which is NULL."""
_NS = pa.timestamp("ns", "UTC")
TRADE = pa.schema(
    [
        field("time", "timestamp", _NS),
        field("sym", "symbol", pa.dictionary(pa.int32(), pa.string())),
        field("price", "float", pa.float64()),
        field("size", "long", pa.int64()),
        field("side", "char", pa.string()),
        field("cond", "symbol", pa.dictionary(pa.int32(), pa.string())),
    ]
)
QUOTE = pa.schema(
    [
        field("time", "timestamp", _NS),
        field("sym", "symbol", pa.dictionary(pa.int32(), pa.string())),
        field("bid", "float", pa.float64()),
        field("ask", "float", pa.float64()),
        field("bsize", "long", pa.int64()),
        field("asize", "long", pa.int64()),
    ]
)
TABLES = {"quote": QUOTE, "trade": TRADE}
"""The tables and their columns but `date`."""
_GOLDEN = 0x9E3779B97F4A7C15
_FINE, _COARSE = 391, 5
"""Points of a symbol's walk: one a minute, or a few where symbols are many."""
_MANY = 10_000


def mixed(numbers: Hashes) -> Hashes:
    """A hash of each number: the finalizer of SplitMix64."""
    made = numbers + np.uint64(_GOLDEN)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        made ^= made >> np.uint64(shift)
        made *= np.uint64(factor)
    made ^= made >> np.uint64(31)
    return made


def _unit(hashes: Hashes) -> Floats:
    """From 0 to 1, without it."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _bits(hashes: Hashes, first: int, count: int) -> Whole:
    return ((hashes >> np.uint64(first)) & np.uint64((1 << count) - 1)).astype(np.int64)


class _Walks(NamedTuple):
    """The walk of every symbol on a day: prices at equidistant points (symbols x points), and the range in ticks."""

    prices: Floats
    low: Whole
    high: Whole


class _Rows(NamedTuple):
    """The rows of a table on a day: symbols, instants (ns since 1970), the walk's prices in ticks, and chance."""

    codes: npt.NDArray[np.int32]
    times: Whole
    ticks: Whole
    chance: Hashes


class Market:
    """The symbols of a stand-in, and what is traded in them on a day."""

    def __init__(self, config: KdbConfig) -> None:
        self.config = config

    @cached_property
    def names(self) -> pa.Array:
        """The symbols, sorted; the index of a name is its code."""
        found: list[str] = []
        for base, many in zip(indices(), self._many, strict=True):
            width = max(3, len(str(many)))
            found += [f"{base}.{number:0{width}d}" if number else base for number in range(many)]
        return pa.array(found, pa.string())

    @cached_property
    def _many(self) -> list[int]:
        """How many symbols are made of each index."""
        bases = len(indices())
        order = [CALENDAR, *(name for name in indices() if name != CALENDAR)]  # a single symbol is that index
        return [(self.config.symbols + bases - 1 - order.index(name)) // bases for name in indices()]

    @cached_property
    def _identities(self) -> Hashes:
        """A number of each symbol that is its own however many others there are."""
        parts = [np.arange(many, dtype=np.uint64) + np.uint64(base << 40) for base, many in enumerate(self._many)]
        return mixed(np.concatenate(parts))

    @cached_property
    def _bases(self) -> Whole:
        return np.repeat(np.arange(len(self._many)), self._many)

    def _counts(self, rows: int) -> Whole:
        """The rows of each symbol: they sum up to `rows`."""
        weights = -np.log1p(-_unit(self._identities)) + 0.1
        hot, held = self._many[: indices().index(CALENDAR)], 0
        if self.config.skew is not None:
            place = sum(hot)
            held = rows if len(weights) == 1 else round(rows * self.config.skew)
            weights[place] = 0
        ends = np.rint(np.cumsum(weights) / max(weights.sum(), 1e-9) * (rows - held)).astype(np.int64)
        counts = np.diff(ends, prepend=0)
        if self.config.skew is not None:
            counts[place] += held
        return counts

    def table(self, name: str, day: dt.date) -> pa.Table:
        """All rows of a table on a day, without its column `date`."""
        config = self.config
        many = config.rows if name == "trade" else round(config.rows * config.quotes)
        walks = self._walks(day)
        rows = self._rows(day, many, walks, stream=1 if name == "trade" else 2)
        columns = self._trades(rows, walks) if name == "trade" else self._quotes(rows)
        return self._stored(rows, columns, TABLES[name])

    def _keys(self, day: dt.date, stream: int) -> Hashes:
        salt = mixed(np.array([self.config.seed % 2**64], np.uint64))[0]
        return mixed(self._identities + salt + np.uint64(day.toordinal() << 8 | stream))

    def _walks(self, day: dt.date) -> _Walks:
        bars = np.array([bar(name, day, self.config.seed) for name in indices()])[self._bases]
        first = np.concatenate([np.arange(many) == 0 for many in self._many])
        scale = np.where(first, 1.0, 0.5 + _unit(mixed(self._identities)))
        opened, high, low, close = (bars * scale[:, None]).T
        points = _FINE if len(scale) <= _MANY else _COARSE
        place = np.linspace(0, 1, points)
        chance = mixed(self._keys(day, 0)[:, None] + np.arange(points).astype(np.uint64))
        steps = sum((_bits(chance, bit, 16) for bit in (16, 32, 48)), _bits(chance, 0, 16)) / 2**17 - 1  # about normal
        walk = np.cumsum(steps, axis=1)
        walk -= walk[:, :1] + (walk[:, -1:] - walk[:, :1]) * place
        widest = np.abs(walk).max(axis=1, keepdims=True)
        walk *= (high - low)[:, None] * 0.75 / np.maximum(widest, 1e-9)
        prices = np.clip(opened[:, None] + (close - opened)[:, None] * place + walk, low[:, None], high[:, None])
        every, inner = np.arange(len(prices)), prices[:, 1:-1]
        inner[every, inner.argmax(axis=1)] = high
        inner[every, inner.argmin(axis=1)] = low
        least = np.ceil(low * TICK - 1e-6).astype(np.int64)
        return _Walks(prices, least, np.maximum(np.floor(high * TICK + 1e-6).astype(np.int64), least))

    def _rows(self, day: dt.date, many: int, walks: _Walks, stream: int) -> _Rows:
        counts = self._counts(many)
        codes = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        number = np.arange(many) - np.repeat(np.cumsum(counts) - counts, counts)
        chance = mixed(self._keys(day, stream)[codes] + number.astype(np.uint64))
        share = (number + _unit(chance)) / counts[codes]
        points = walks.prices.shape[1]
        place = share * (points - 1)
        left = np.minimum(place.astype(np.int64), points - 2)
        at = codes.astype(np.int64) * points + left
        flat = walks.prices.reshape(-1)
        price = flat[at] + (flat[at + 1] - flat[at]) * (place - left)
        more = mixed(chance)
        return _Rows(codes, self._times(day, share, number == 0, more), np.rint(price * TICK).astype(np.int64), more)

    def _times(self, day: dt.date, share: Floats, first: npt.NDArray[np.bool_], chance: Hashes) -> Whole:
        """More rows at the open and the close than at noon; some moved back to a full ten seconds or the row before."""
        begin, end = (dt.datetime.combine(day, at, ZoneInfo(ZONE)) for at in (OPEN, CLOSE))
        length = int((end - begin).total_seconds()) * 1_000_000_000
        elapsed = share - 0.6 * np.sin(2 * np.pi * share) / (2 * np.pi)
        times = np.minimum((elapsed * length).astype(np.int64), length - 1)
        before = np.where(first, 0, np.roll(times, 1)) if len(times) else times
        tied = _bits(chance, 52, 12) < self.config.ties * 4096
        times = np.where(tied, np.maximum(times - times % TEN_SECONDS, before), times)
        return times + int(begin.timestamp()) * 1_000_000_000

    def _trades(self, rows: _Rows, walks: _Walks) -> list[pa.Array]:
        buys = _bits(rows.chance, 0, 1).astype(np.bool_)
        half = self._spread(rows) // 2 * np.minimum(_bits(rows.chance, 1, 2), 1)  # a quarter trades at the middle
        ticks = rows.ticks + np.where(buys, half, -half)
        ticks = np.clip(ticks, walks.low[rows.codes], walks.high[rows.codes])
        more = mixed(rows.chance)
        size = 1 + (-np.log1p(-_unit(more)) * 200).astype(np.int64)
        size = np.where(_bits(more, 0, 2) > 0, (size + 99) // 100 * 100, size)
        condition = np.maximum(_bits(more, 2, 4) - 12, 0).astype(np.int32)
        side = pa.DictionaryArray.from_arrays(pa.array(buys.astype(np.int32)), pa.array(["S", "B"]))
        cond = pa.DictionaryArray.from_arrays(
            pa.array(condition, mask=condition == 0), pa.array(CONDITIONS, pa.string())
        )
        return [self._prices(ticks, rows.chance, 4), pa.array(size), side.cast(pa.string()), cond]

    def _quotes(self, rows: _Rows) -> list[pa.Array]:
        spread = self._spread(rows)
        bid = rows.ticks - spread // 2
        more = mixed(rows.chance)
        sizes = [pa.array(100 * (1 + _bits(more, bit, 5))) for bit in (0, 8)]
        return [self._prices(bid, rows.chance, 4), self._prices(bid + spread, rows.chance, 20), *sizes]

    @staticmethod
    def _spread(rows: _Rows) -> Whole:
        """One to four basis points, at least a tick."""
        return 1 + rows.ticks * (1 + _bits(rows.chance, 50, 2)) // 10_000

    def _prices(self, ticks: Whole, chance: Hashes, bit: int) -> pa.Array:
        return pa.array(ticks / TICK, mask=self._null(chance, bit))

    def _null(self, chance: Hashes, bit: int) -> npt.NDArray[np.bool_] | None:
        share = self.config.nulls
        return _bits(chance, bit, 15) < max(1, round(share * 32_768)) if share else None

    def _stored(self, rows: _Rows, columns: list[pa.Array], schema: pa.Schema) -> pa.Table:
        """The table in stored order: NULL symbols go to the front, or all rows by time."""
        null = self._null(rows.chance, 35)
        sym = pa.DictionaryArray.from_arrays(pa.array(rows.codes, mask=null), self.names)
        times = pa.array(rows.times).view(schema.field(0).type)
        made = pa.Table.from_arrays([times, sym, *columns], schema=schema)
        if self.config.kind == "memory":
            return made.take(pa.array(np.argsort(rows.times, kind="stable")))
        if null is None or not null.any():
            return made
        front = np.flatnonzero(null)
        front = front[np.argsort(rows.times[front], kind="stable")]
        return pa.concat_tables([made.take(pa.array(front)), made.filter(pa.array(~null))]).combine_chunks()
