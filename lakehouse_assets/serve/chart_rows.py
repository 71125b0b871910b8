"""The rows of a table that its chart draws.

What belongs here: which rows these are, whether their columns can be drawn, what an axis needs to know of their values.
What does not: reading points (`chart.py`, `chart_candles.py`), drawing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakehouse_assets.engines.base import Engine, Handle, Relation
from lakehouse_assets.entities.options import Chart
from lakehouse_assets.errors import CatalogError
from lakehouse_assets.sql.parse import render, shared_expression

STEEP = 50
"""A panel whose values are all above 0 and differ by more than this factor has a logarithmic axis."""
LARGEST = 1e150
"""Numbers beyond are drawn here: an axis needs room to reckon with."""

Floats = npt.NDArray[np.float64]


def drawn(engine: Engine, handle: Handle, chart: Chart) -> Relation:
    """The rows that are drawn: those of the table that meet the chart's condition."""
    rows = engine.read(handle)
    if chart.where is None:
        return rows
    condition = render(shared_expression(chart.where, "the condition of the chart"))
    return engine.query(f"SELECT * FROM stored WHERE {condition}", {"stored": rows})


def numbers_of(chart: Chart) -> list[str]:
    """The columns whose numbers are drawn: of candles their four prices, then the lines, then the volume."""
    if chart.candles is None:
        return list(chart.y)
    bar = chart.candles
    return [bar.open, bar.high, bar.low, bar.close, *chart.y, *([bar.volume] if bar.volume else [])]


def check(handle: Handle, chart: Chart) -> None:
    """Judge what is drawn against the columns of the table.

    Raises:
        CatalogError: the table has no such column, `x` has no order that an axis shows, or a column that is drawn
            holds no numbers.
    """
    for name in (chart.x, *numbers_of(chart), *([chart.by] if chart.by else [])):
        if name not in handle.schema.names:
            raise refused(handle, "draws a column that the table does not have", name, handle.schema.names)
    ordered = [field.name for field in handle.schema if is_number(field.type) or _is_time(field.type)]
    if chart.x not in ordered:
        raise refused(handle, "runs along a column that holds no numbers, dates or timestamps", chart.x, ordered)
    numbers = [field.name for field in handle.schema if is_number(field.type)]
    for name in numbers_of(chart):
        if name not in numbers:
            raise refused(handle, "draws a column that holds no numbers", name, numbers)


def refused(
    handle: Handle, problem: str, value: object, choices: Sequence[str] = (), fix: str = "correct lakehouse.chart"
) -> CatalogError:
    """The error about a chart that does not fit its table."""
    return CatalogError(f"the chart of {handle.uri} {problem}", value=value, choices=choices, fix=fix)


def is_number(kind: pa.DataType) -> bool:
    """Whether values of the type are numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def is_steep(values: Sequence[Floats]) -> bool:
    """Whether an axis of these values is logarithmic: all above 0, the largest more than `STEEP` times the smallest."""
    every = np.concatenate([np.empty(0), *values])
    every = every[~np.isnan(every)]
    return bool(len(every) and every.min() > 1 / LARGEST and every.max() / STEEP > every.min())
