"""The as-of join over Arrow data is its plain meaning, whatever the data; what does not fit is refused by name."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import random
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.engines import asof
from lakehouse_assets.engines.asof_columns import result_columns
from lakehouse_assets.engines.asof_spec import AsOf
from lakehouse_assets.errors import CatalogError
from lakehouse_assets_tests.engines.asof_cases import (
    BROUGHT,
    LEFT,
    RIGHT,
    UTC,
    alike,
    expected,
    rows_of,
    tables,
)

SIZES = (0, 1, 2, 7, 40)
HOWS = st.builds(
    AsOf,
    by=st.sampled_from([("sym",), ("sym", "day"), ("day", "sym")]),
    time=st.just("at"),
    right_time=st.just("at"),
    tie=st.sampled_from([(), ("row",), ("row", "venue")]),
    columns=st.sampled_from([BROUGHT, {"bid": "bid"}, {"venue": "v", "ask": "a"}]),
    direction=st.sampled_from(["backward", "forward", "nearest"]),
    tolerance=st.sampled_from([None, 0, 2_000, 3_999, 10**30]),
    strict=st.booleans(),
    skip_nulls=st.booleans(),
)
"""Every way to join two sides that `tables` makes."""


@st.composite
def cases(draw: st.DrawFn) -> tuple[pa.Table, pa.Table, AsOf]:
    """Two small sides, and a way to join them."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    left, right = tables(rng, (draw(st.sampled_from(SIZES)), draw(st.sampled_from(SIZES))))
    if draw(st.booleans()):
        left, right = left.sort_by("at"), right.sort_by("at")
    return left, right, draw(HOWS)


PLAIN = AsOf(("sym",), "at", "at", ("row",), BROUGHT)


def joined(left: pa.Table, right: pa.Table, how: AsOf, slice_rows: int = asof.SLICE_ROWS) -> list[tuple[Any, ...]]:
    """The rows of the join, with the right side cut into slices of a size."""
    found = asof.matches(left, right, how, 2, slice_rows)
    index = pa.array(found, mask=found < 0)
    arrays = [*left.columns, *(right[name].take(index) for name in how.columns)]
    return rows_of(pa.table(arrays, names=[str(n) for n in range(len(arrays))]))


@settings(max_examples=200, deadline=None)
@given(case=cases(), slice_rows=st.sampled_from([1, 3, 10, 1 << 19]))
def test_the_join_is_its_plain_meaning(case: tuple[pa.Table, pa.Table, AsOf], slice_rows: int) -> None:
    """K34: ties, NULL, gaps, disorder, every option, and any cut of the right side into slices."""
    left, right, how = case
    assert alike(joined(left, right, how, slice_rows), expected(left, right, how))


@settings(max_examples=50, deadline=None)
@given(case=cases(), seed=st.integers(0, 2**32))
def test_the_order_of_rows_does_not_matter(case: tuple[pa.Table, pa.Table, AsOf], seed: int) -> None:
    """Design §7.2: shuffled sides, in other chunks and with coded texts, give the same rows."""
    left, right, how = case
    rng = random.Random(seed)
    mixed = joined(_mixed(left, rng), _mixed(right, rng), how)
    assert alike(sorted(mixed, key=_id), sorted(joined(left, right, how), key=_id))


def _id(row: tuple[Any, ...]) -> int:
    return int(row[0])


def _mixed(table: pa.Table, rng: random.Random) -> pa.Table:
    order = list(range(table.num_rows))
    rng.shuffle(order)
    table, cut = table.take(pa.array(order, pa.int64())), rng.randrange(table.num_rows + 1)
    at = table.schema.get_field_index("sym")
    coded = [part.set_column(at, "sym", part["sym"].dictionary_encode()) for part in (table[:cut], table[cut:])]
    return pa.concat_tables(coded)


def trades(*times: int, dtype: pa.DataType = UTC) -> pa.Table:
    """Trades of one symbol."""
    return pa.table({"sym": ["a"] * len(times), "at": pa.array(times, pa.int64()).cast(dtype)})


def quotes(*rows: tuple[int, float | None], dtype: pa.DataType = UTC) -> pa.Table:
    """Quotes of one symbol: time and bid; their row numbers are their order."""
    columns = {"sym": ["a"] * len(rows), "at": pa.array([row[0] for row in rows], pa.int64()).cast(dtype)}
    bids = pa.array([row[1] for row in rows], pa.float64())
    return pa.table(columns | {"row": pa.array(range(len(rows)), pa.int64()), "bid": bids})


def bids(left: pa.Table, right: pa.Table, **how: Any) -> list[float | None]:
    """The bid of each trade."""
    spec = AsOf(("sym",), "at", "at", ("row",), {"bid": "bid"}, **how)
    found: list[float | None] = asof.join(left, right, spec)["bid"].to_pylist()
    return found


def test_the_last_of_tied_quotes_counts() -> None:
    """K34: of quotes of one instant the last row, 3.5 of {1.5, 3.5}; looking forward, the first."""
    tied = quotes((5, 1.5), (5, 3.5))
    assert bids(trades(4, 5, 6), tied) == [None, 3.5, 3.5]
    assert bids(trades(4, 5, 6), tied, direction="forward") == [1.5, 1.5, None]


def test_ties_without_an_order_are_decided_by_what_is_brought() -> None:
    """The rows of an instant may come in any order: NULL is first, then numbers, -0.0 before 0.0, NaN last."""
    ladder = [None, -np.inf, -0.0, 0.0, 2.0, np.inf, np.nan]
    how = AsOf(("sym",), "at", "at", (), {"bid": "bid"})
    for low, high in itertools.pairwise(ladder):
        for pair in ((low, high), (high, low)):
            (found,) = asof.join(trades(5), quotes((5, pair[0]), (5, pair[1])), how)["bid"].to_pylist()
            assert repr(found) == repr(high)


def test_a_quote_without_a_bid_counts_unless_told() -> None:
    """K35: the last quote is taken as it is; `skip_nulls` goes back to one that is whole."""
    right = quotes((1, 1.0), (2, None))
    assert bids(trades(3), right) == [None]
    assert bids(trades(3), right, skip_nulls=True) == [1.0]


def test_the_tolerance_is_inclusive_and_in_nanoseconds() -> None:
    """Whatever the unit of the columns; what is left over of a unit does not reach further."""
    right = quotes((10, 1.0))
    assert bids(trades(12), right, tolerance=2_000) == [1.0]
    assert bids(trades(12), right, tolerance=1_999) == [None]
    fine = pa.timestamp("ns")
    assert bids(trades(12, dtype=fine), quotes((10, 1.0), dtype=fine), tolerance=2) == [1.0]
    assert bids(trades(12, dtype=pa.int64()), quotes((10, 1.0), dtype=pa.int32()), tolerance=1) == [None]


def test_of_equally_near_quotes_the_earlier_counts() -> None:
    """The later one does only if it is nearer."""
    right = quotes((10, 1.0), (20, 2.0))
    assert bids(trades(15, 16), right, direction="nearest") == [1.0, 2.0]


def test_the_trades_own_instant_does_not_count_when_strict() -> None:
    """In every direction."""
    right = quotes((9, 1.0), (10, 2.0), (12, 3.0))
    found = {d: bids(trades(10), right, direction=d, strict=True) for d in ("backward", "forward", "nearest")}
    assert found == {"backward": [1.0], "forward": [3.0], "nearest": [1.0]}


def test_times_at_the_ends_of_what_an_integer_holds() -> None:
    """No difference of two times runs over."""
    low, high = -(2**63), 2**63 - 1
    left, right = trades(low, 0, high, dtype=pa.int64()), quotes((low, 1.0), (high, 2.0), dtype=pa.int64())
    assert bids(left, right, direction="nearest") == [1.0, 2.0, 2.0]
    assert bids(left, right, tolerance=10) == [1.0, None, 2.0]
    assert bids(left, right, tolerance=2**64, strict=True) == [None, 1.0, 1.0]
    assert bids(left, right, tolerance=10, strict=True) == [None, None, None]


def test_a_trade_without_symbol_or_time_is_kept_and_finds_nothing() -> None:
    """K34, K37: NULL does not match NULL, and no trade is lost."""
    nothing = pa.array([None, None], pa.string())
    left = pa.table({"sym": nothing, "at": pa.array([5, None], pa.int64())})
    right = pa.table({"sym": nothing, "at": pa.array([1, None], pa.int64()), "row": [0, 1], "bid": [1.0, 2.0]})
    assert bids(left, right) == [None, None]
    assert bids(left.set_column(0, "sym", [["a", "a"]]), quotes((1, 1.0), dtype=pa.int64())) == [1.0, None]


def test_many_symbols() -> None:
    """More symbols than the radix sort has codes for, each with its own quotes."""
    count = 100_000
    names = pa.array(np.random.default_rng(1).permutation(count)).cast(pa.string())
    left = pa.table({"sym": names, "at": pa.array(np.full(count, 5))})
    right = pa.table({"sym": names[::-1], "at": pa.array(np.full(count, 4)), "bid": names[::-1]})
    found = asof.join(left, right, AsOf(("sym",), "at", "at", (), {"bid": "bid"}))
    assert found["bid"].combine_chunks().equals(names)


def test_columns_of_the_result_are_the_left_ones_then_the_brought() -> None:
    """Under the names that they are given, with the right side's types."""
    found = result_columns(LEFT, RIGHT, PLAIN)
    brought = [("bid", pa.float64()), ("best_ask", pa.float64()), ("venue", pa.string()), ("quoted_at", UTC)]
    assert found.equals(pa.schema([*LEFT, *(pa.field(*column) for column in brought)]))


def _with(schema: pa.Schema, name: str, dtype: pa.DataType) -> pa.Schema:
    return schema.set(schema.get_field_index(name), pa.field(name, dtype))


MISFITS: dict[str, tuple[pa.Schema, pa.Schema, dict[str, Any]]] = {
    "brings 'bid' as 'SYM', and there is a column 'sym'": (LEFT, RIGHT, {"columns": {"bid": "SYM"}}),
    "brings 'bid' as 'id', and there is a column 'Id'": (
        LEFT.set(0, pa.field("Id", pa.int64())),
        RIGHT,
        {"columns": {"bid": "id"}},
    ),
    "brings 'ask' as 'x', and there is a column 'x'": (LEFT, RIGHT, {"columns": {"bid": "x", "ask": "x"}}),
    "left side .* no column 'when'": (LEFT, RIGHT, {"time": "when"}),
    "right side .* no column 'mid'": (LEFT, RIGHT, {"columns": {"mid": "mid"}}),
    "right side .* no column 'seq'": (LEFT, RIGHT, {"tie": ("seq",)}),
    "right side .* more than one column 'bid'": (LEFT, pa.schema([*RIGHT, RIGHT.field("bid")]), {}),
    "key 'sym' .* is string on the left side and int64": (LEFT, _with(RIGHT, "sym", pa.int64()), {}),
    "cannot match rows by the key 'sym'": (_with(LEFT, "sym", pa.float64()), _with(RIGHT, "sym", pa.float64()), {}),
    "left time 'at' .* holds date32": (_with(LEFT, "at", pa.date32()), RIGHT, {}),
    "times .* differ: 'at' is timestamp.us, tz=UTC. and 'at' is timestamp.ns": (
        LEFT,
        _with(RIGHT, "at", pa.timestamp("ns", tz="UTC")),
        {},
    ),
    "differ: .*Asia/Tokyo": (LEFT, _with(RIGHT, "at", pa.timestamp("us", tz="Asia/Tokyo")), {}),
    "differ: .* int64": (LEFT, _with(RIGHT, "at", pa.int64()), {}),
    "right column 'bid', which holds list": (LEFT, _with(RIGHT, "bid", pa.list_(pa.float64())), {}),
    "no key column": (LEFT, RIGHT, {"by": ()}),
    "looks nowhere": (LEFT, RIGHT, {"direction": "sideways"}),
    "tolerance .* negative": (LEFT, RIGHT, {"tolerance": -1}),
}


@pytest.mark.parametrize("words", MISFITS)
def test_what_does_not_fit_is_refused_by_name(words: str) -> None:
    """Before anything is read, and the message says which column."""
    left, right, how = MISFITS[words]
    with pytest.raises(CatalogError, match=words):
        result_columns(left, right, dataclasses.replace(PLAIN, **how))


def test_every_type_of_key_matches() -> None:
    """Keys are texts, bytes, integers, days, instants, decimals, truth values."""
    values = {
        pa.string(): ["é", ""], pa.binary(): [b"\xff", b""], pa.int8(): [-1, 0], pa.int64(): [2**62, 0],
        pa.date32(): [dt.date(2024, 3, 1), dt.date(1969, 1, 1)], UTC: [dt.datetime(2024, 3, 1), dt.datetime(1969, 1, 1)],
        pa.decimal128(5, 2): [Decimal("1.25"), Decimal("-3.00")], pa.bool_(): [True, False],
    }  # fmt: skip
    for dtype, two in values.items():
        left = pa.table({"sym": pa.array([*two, None], dtype), "at": [5, 5, 5]})
        right = pa.table({"sym": pa.array(two[::-1], dtype), "at": [4, 4], "row": [0, 1], "bid": [1.0, 2.0]})
        assert bids(left, right) == [2.0, 1.0, None], dtype
