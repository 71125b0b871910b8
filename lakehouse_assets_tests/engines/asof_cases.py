"""The plain meaning of an as-of join, and random cases of it.

What belongs here: a reference that is slow and plainly right, tables to join. What does not: an engine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from lakehouse_assets.engines.asof_columns import nanoseconds
from lakehouse_assets.engines.asof_spec import AsOf

UTC = pa.timestamp("us", tz="UTC")
LEFT = pa.schema([("id", pa.int64()), ("sym", pa.string()), ("day", pa.int32()), ("at", UTC)])
RIGHT = pa.schema(
    [
        ("sym", pa.string()), ("day", pa.int32()), ("at", UTC), ("row", pa.int64()),
        ("bid", pa.float64()), ("ask", pa.float64()), ("venue", pa.string()),
    ]
)  # fmt: skip
BROUGHT = {"bid": "bid", "ask": "best_ask", "venue": "venue", "at": "quoted_at"}


def expected(left: pa.Table, right: pa.Table, how: AsOf) -> list[tuple[Any, ...]]:
    """The rows of the join: every right row is looked at for every left row."""
    columns = {name: right[name].to_pylist() for name in right.schema.names if name != how.right_time}
    columns[how.right_time] = _ticks(right[how.right_time])
    brought = {name: right[name].to_pylist() for name in how.columns}
    rights = [{name: values[i] for name, values in columns.items()} for i in range(right.num_rows)]
    times, step = _ticks(left[how.time]), nanoseconds(left.schema.field(how.time).type)
    rows = []
    for index, row in enumerate(left.to_pylist()):
        best = _best(row, times[index], rights, how, step)
        rows.append((*row.values(), *(None if best is None else brought[name][best] for name in how.columns)))
    return rows


def _best(row: dict[str, Any], time: int | None, rights: list[dict[str, Any]], how: AsOf, step: int) -> int | None:
    if time is None or any(row[name] is None for name in how.by):
        return None
    before: list[tuple[Any, ...]] = []
    after: list[tuple[Any, ...]] = []
    for index, other in enumerate(rights):
        there = other[how.right_time]
        if there is None or any(other[name] != row[name] for name in how.by):
            continue
        if how.skip_nulls and any(other[name] is None for name in how.columns):
            continue
        if how.tolerance is not None and abs(there - time) * step > how.tolerance:
            continue
        entry = (there, *(place(other[name]) for name in how.order), index)
        if there < time or (there == time and not how.strict):
            before.append(entry)
        if there > time or (there == time and not how.strict):
            after.append(entry)
    found = []
    if before and how.direction in ("backward", "nearest"):
        found.append(max(before))
    if after and how.direction in ("forward", "nearest"):
        found.append(min(after))
    return min(found, key=lambda entry: abs(entry[0] - time))[-1] if found else None


def place(value: Any) -> tuple[Any, ...]:
    """Where a value stands among those of its column: NULL first, -0.0 before 0.0, NaN last."""
    if value is None:
        return (0,)
    if isinstance(value, float):
        return (2,) if math.isnan(value) else (1, value, math.copysign(1, value))
    return (1, value.encode() if isinstance(value, str) else value)


def _ticks(column: pa.ChunkedArray) -> list[int | None]:
    return column.cast(pa.int64()).to_pylist()


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    """The rows of a table."""
    return [tuple(row.values()) for row in table.to_pylist()]


def alike(found: list[tuple[Any, ...]], wanted: list[tuple[Any, ...]]) -> bool:
    """Whether rows are equal in this order; NaN is NaN, and -0.0 is not 0.0."""
    return [tuple(map(repr, row)) for row in found] == [tuple(map(repr, row)) for row in wanted]


def tables(rng: random.Random, rows: tuple[int, int], *, span: int = 12, keys: int = 3) -> tuple[pa.Table, pa.Table]:
    """Two sides with ties, NULL everywhere, odd floats, and in no order."""
    times = sorted(rng.randrange(-span, span) for _ in range(max(1, span // 2)))

    def some(choices: list[Any]) -> Callable[[], Any]:
        return lambda: rng.choice(choices)

    def column(make: Callable[[], Any], count: int, dtype: pa.DataType, nulls: float = 0.1) -> pa.Array:
        return pa.array([None if rng.random() < nulls else make() for _ in range(count)], dtype)

    names = [f"s{i}" for i in range(keys)]
    odd = [0.0, -0.0, math.nan, 1.5, -2.5, math.inf, 1.25]
    left = [
        pa.array(range(rows[0]), pa.int64()), column(some(names), rows[0], pa.string()),
        column(some([1, 2]), rows[0], pa.int32(), 0.05), column(some(times), rows[0], pa.int64()).cast(UTC),
    ]  # fmt: skip
    right = [
        column(some([*names, "none"]), rows[1], pa.string()), column(some([1, 2]), rows[1], pa.int32(), 0.05),
        column(some(times), rows[1], pa.int64()).cast(UTC), column(lambda: rng.randrange(3), rows[1], pa.int64()),
        column(some(odd), rows[1], pa.float64(), 0.2), column(some(odd), rows[1], pa.float64(), 0.2),
        column(some(["é", "z", "", "x"]), rows[1], pa.string(), 0.2),
    ]  # fmt: skip
    return pa.Table.from_arrays(left, schema=LEFT), pa.Table.from_arrays(right, schema=RIGHT)
