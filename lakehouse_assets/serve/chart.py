"""A table as a chart: lines along a column, a panel for each value that is drawn, as a PNG of bounded size.

What belongs here: reading the points, thinning them so that peaks stay, and drawing them.
What does not: what an entity draws (`lakehouse.chart`), which rows that are (`chart_rows.py`), candles
(`chart_candles.py`), histories of keys (`timeline_png.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.engines.base import Engine, Handle, Relation
from lakehouse_assets.entities.options import Chart
from lakehouse_assets.errors import LakeError
from lakehouse_assets.serve import canvas, chart_candles
from lakehouse_assets.serve.canvas import AXIS_LETTERS, Pen
from lakehouse_assets.serve.chart_rows import LARGEST, Floats, check, drawn, is_number, is_steep
from lakehouse_assets.sql.expand import quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

READ = 2_000_000
"""Rows that are read as they are, about; of more every n-th is, the newest of each line among them."""
POINTS = 4000
"""Places of all lines together, at most."""
LINES = 12
"""Lines of a panel, the first ones by name; a legend with more cannot be read."""
INCHES_WIDE, INCHES_A_PANEL, DPI = 9.0, 2.6, 80
LABEL_LETTERS = 40
"""Letters that have room in the legend."""
MICROSECONDS_A_DAY = 86_400_000_000
FIRST_DAY, LAST_DAY = -719_162.0, 2_932_896.0
"""0001-01-01 and 9999-12-31 in days since 1970-01-01: the days that an axis can name; others are drawn there."""


@dataclass(frozen=True)
class Line:
    """One line of every panel.

    Attributes:
        label: the value of `by`; "NULL" for none, an empty text where the chart has no `by`.
        places: where its points stand, ascending; dates and times in days since 1970-01-01 (UTC).
        values: an array as long as `places` for each panel; NaN is a gap.
    """

    label: str
    places: Floats
    values: tuple[Floats, ...]


def png(engine: Engine, handle: Handle, chart: Chart, title: str) -> bytes:
    """A chart of a table at the handle's version: 720 pixels wide, some 200 high for each panel.

    Raises:
        NotRunnable: matplotlib is not installed.
        CatalogError: the table has no such column, `x` has no order that an axis shows, a column that is drawn holds no
            numbers, or candles share a place.
        LakeError: matplotlib cannot draw these values.
        SqlError: the condition does not fit the table's columns.
    """
    canvas.check_installed()
    title = f"{title}, {chart.where}" if chart.where else title
    if chart.candles is not None:
        bars = chart_candles.bars(engine, handle, chart)
        with _told(title):
            return chart_candles.png(bars, chart, chart.candles, title)
    found = lines(engine, handle, chart)
    dated = not is_number(handle.schema.field(chart.x).type)
    size = (INCHES_WIDE, INCHES_A_PANEL * len(chart.y) + 0.4)
    with _told(title):
        return canvas.png(size, DPI, lambda figure: paint(figure, chart, found, title, dated=dated), "constrained")


@contextmanager
def _told(title: str) -> Iterator[None]:
    """What matplotlib refuses is an error of the table."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise LakeError(
            f"the chart of {title} cannot be drawn: {' '.join(str(error).split())[:200]}",
            fix="draw other columns, or leave out lakehouse.chart",
        ) from error


# points


def lines(engine: Engine, handle: Handle, chart: Chart) -> list[Line]:
    """The points of each line in the order of `x`, at most `POINTS` places; rows without a place are left out.

    Raises:
        CatalogError: the table has no such column, `x` has no order that an axis shows, or one of `y` no numbers.
    """
    check(handle, chart)
    stored = {"stored": drawn(engine, handle, chart)}
    by = f"s.{quoted(chart.by)}" if chart.by else "''"
    there = f"FROM stored AS s WHERE s.{quoted(chart.x)} IS NOT NULL"
    counted = f"SELECT {by} AS _line, count(*) AS _rows {there} GROUP BY 1 ORDER BY 1 LIMIT {LINES}"
    groups = engine.rows(engine.query(counted, stored))
    every = -(-sum(int(group["_rows"]) for group in groups) // READ) or 1
    counts = [-(-int(group["_rows"]) // every) for group in groups]
    if not counts:
        return []
    columns = _columns(engine, engine.query(_ordered(chart, by, there, every, sum(counts)), stored))
    found, start = [], 0
    for group, count, most in zip(groups, counts, _shares(counts), strict=True):
        places, *values = (column[start : start + count] for column in columns)
        label = "NULL" if group["_line"] is None else str(group["_line"])
        found.append(_thinned(_cleaned(label, places, values), most))
        start += count
    return found


def _ordered(chart: Chart, by: str, there: str, every: int, limit: int) -> str:
    """The query of the points: line after line, each in the order of `x`; the lines that are drawn come first."""
    names = ["_x", *(f"_y{index}" for index in range(len(chart.y)))]
    read = [f"s.{quoted(column)} AS {name}" for column, name in zip((chart.x, *chart.y), names, strict=True)]
    if every > 1:
        read.append(f"row_number() OVER (PARTITION BY {by} ORDER BY s.{quoted(chart.x)} DESC) AS _nth")
    points = f"(SELECT {by} AS _line, {', '.join(read)} {there}) AS points"
    thin = f" WHERE (_nth - 1) % {every} = 0" if every > 1 else ""
    return f"SELECT {', '.join(names)} FROM {points}{thin} ORDER BY _line, _x LIMIT {limit}"


def _columns(engine: Engine, relation: Relation) -> list[Floats]:
    """The relation's columns as numbers."""
    parts: list[list[Floats]] = [[np.empty(0)] for _ in engine.schema(relation)]
    with engine.batches(relation) as reader:
        for batch in reader:
            for part, column in zip(parts, batch.columns, strict=True):
                part.append(_floats(column))
    return [np.concatenate(part) for part in parts]


def _floats(column: pa.Array) -> Floats:
    """Numbers, NaN where there is none; dates and times in days since 1970-01-01."""
    days = 1
    if pa.types.is_date(column.type):
        column = column.cast(pa.date32()).cast(pa.int32())
    elif pa.types.is_timestamp(column.type):
        column, days = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()), MICROSECONDS_A_DAY
    return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)) / days


def _cleaned(label: str, places: Floats, values: Sequence[Floats]) -> Line:
    """A line without places that are no numbers; values that are none are gaps."""
    kept = np.isfinite(places)
    finite = (np.where(np.isfinite(value[kept]), value[kept], np.nan) for value in values)
    return Line(label, places[kept], tuple(np.clip(value, -LARGEST, LARGEST) for value in finite))


def _shares(counts: Sequence[int]) -> list[int]:
    """How many of `POINTS` each line may have: what a short line leaves goes to the longer ones."""
    shares, left = [0] * len(counts), POINTS
    for done, index in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
        shares[index] = min(counts[index], left // (len(counts) - done))
        left -= shares[index]
    return shares


def _thinned(line: Line, most: int) -> Line:
    """At most `most` places: the ends, and of each bucket of neighbours the least and the largest of each value.

    A bucket without any value keeps its first place, so that a long gap stays one.
    """
    count = len(line.places)
    if count <= most:
        return line
    buckets = max((most - 2) // (2 * max(len(line.values), 1)), 1)
    wide = -(-count // buckets)
    starts = np.arange(-(-count // wide)) * wide
    kept = [np.array([0, count - 1])]
    for value in line.values:
        for sign in (1.0, -1.0):
            filled = np.full(len(starts) * wide, np.inf)
            filled[:count] = np.where(np.isnan(value), np.inf, sign * value)
            kept.append(starts + filled.reshape(len(starts), wide).argmin(axis=1))
    chosen = np.unique(np.concatenate(kept))
    return Line(line.label, line.places[chosen], tuple(value[chosen] for value in line.values))


# pixels


def paint(figure: Figure, chart: Chart, found: Sequence[Line], title: str, *, dated: bool) -> None:
    """Draw lines into an empty figure, a panel for each of `y`; `dated`: the places are days."""
    pen = Pen()
    panels: list[Axes] = list(figure.subplots(len(chart.y), 1, sharex=True, squeeze=False)[:, 0])
    low, high = (FIRST_DAY, LAST_DAY) if dated else (-LARGEST, LARGEST)
    places = [np.clip(line.places, low, high) for line in found]
    for index, (axes, name) in enumerate(zip(panels, chart.y, strict=True)):
        handles = [
            axes.plot(place, line.values[index], linewidth=0.9)[0] for place, line in zip(places, found, strict=True)
        ]
        _paint_axes(axes, pen.legible(name, AXIS_LETTERS), pen, [line.values[index] for line in found])
        if dated:
            canvas.name_days(axes)
        if index == 0 and chart.by and handles:
            labels = [pen.legible(line.label, LABEL_LETTERS) for line in found]
            legend = axes.legend(handles, labels, loc="upper left", prop=pen.font(7), frameon=False)
            for text in legend.get_texts():
                text.set_parse_math(False)
    _span(panels[0], np.concatenate([np.empty(0), *places]), low, high)
    panels[0].set_title(
        pen.legible(title, canvas.TITLE_LETTERS), loc="left", fontproperties=pen.font(10), parse_math=False
    )


def _paint_axes(axes: Axes, name: str, pen: Pen, values: Sequence[Floats]) -> None:
    axes.set_ylabel(name, fontproperties=pen.font(8), parse_math=False)
    canvas.settle(axes)
    if is_steep(values):
        axes.set_yscale("log")


def _span(axes: Axes, places: Floats, low: float, high: float) -> None:
    """The places with a margin, within what an axis can name."""
    if len(places):
        first, last = float(places.min()), float(places.max())
        margin = 0.05 * (last - first) or max(abs(first) * 1e-6, 1.0)
        axes.set_xlim(max(first - margin, low), min(last + margin, high))
