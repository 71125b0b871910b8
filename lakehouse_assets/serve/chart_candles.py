"""Bars of trading as candles: a panel for each symbol, lines over them, volume below, as a PNG of bounded size.

Bars stand side by side, whatever time lies between them: nights and weekends take no room. All panels share their
places, so a symbol that has no bar at one of them shows a gap there.
What belongs here: reading the bars, and drawing them. What does not: lines along an axis (`chart.py`).
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lakehouse_assets.engines.base import Engine, Handle, Relation
from lakehouse_assets.entities.options import Candles, Chart
from lakehouse_assets.serve import canvas
from lakehouse_assets.serve.canvas import AXIS_LETTERS, BLUE, INK, OCHRE, RED, SLATE, VIOLET, Pen
from lakehouse_assets.serve.chart_rows import LARGEST, Floats, check, drawn, is_steep, numbers_of, refused
from lakehouse_assets.sql.expand import quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Place: TypeAlias = dt.date | float
"""Where a bar stands: a date, a timestamp or a number."""
PANELS, COLUMNS = 4, 2
"""Symbols of a picture, and how many are side by side."""
CANDLES = 80
"""Places of a panel; of more the newest are drawn."""
NAMED = 4
"""Places that are named below a panel, about."""
INCHES_WIDE, INCHES_A_PANEL, INCHES_OF_VOLUME, INCHES_OF_TITLE, DPI = 9.0, 2.6, 0.7, 0.5, 80
LABEL_LETTERS = 40
"""Letters that have room above a panel."""
LINES = (INK, OCHRE, VIOLET, SLATE)
"""Colours of the lines over the candles."""
BAR = 0.7
"""How wide a candle is, in parts of its place."""


@dataclass(frozen=True)
class Panel:
    """The bars of one symbol.

    Attributes:
        label: the value of `by`; "NULL" for none, an empty text where the chart has no `by`.
        values: a row for open, high, low, close, each line, and the volume if it is drawn; a column for each place.
            NaN is a gap.
    """

    label: str
    values: Floats


@dataclass(frozen=True)
class Bars:
    """What is drawn: panels by name, over the same places.

    Attributes:
        places: ascending, at most `CANDLES`.
        cut: whether there are older ones.
    """

    places: tuple[Place, ...]
    cut: bool
    panels: tuple[Panel, ...]


# bars


def bars(engine: Engine, handle: Handle, chart: Chart) -> Bars:
    """The newest bars of the symbols that have most rows in the table.

    Raises:
        CatalogError: the table has no such column, `x` has no order that an axis shows, a column that is drawn holds
            no numbers, or two candles of a panel share a place.
    """
    check(handle, chart)
    rows = _rows(engine, handle, chart)
    found = sorted({row["_x"] for row in rows})
    places = {place: slot for slot, place in enumerate(found[-CANDLES:])}
    panels = []
    for value, group in itertools.groupby(rows, key=lambda row: row["_panel"]):
        values = np.full((len(numbers_of(chart)), len(places)), math.nan)
        last = None
        for row in group:
            if row["_x"] == last:
                raise _doubled(handle, chart, value, last)
            last = row["_x"]
            if last in places:
                values[:, places[last]] = [_number(row[f"_v{index}"]) for index in range(len(values))]
        panels.append(Panel("NULL" if value is None else str(value), values))
    return Bars(tuple(places), len(found) > CANDLES, tuple(panels))


def _rows(engine: Engine, handle: Handle, chart: Chart) -> list[dict[str, Any]]:
    """Bars by panel and place: of at most `PANELS` panels, at the newest places and one more."""
    by, x = f"s.{quoted(chart.by)}" if chart.by else "''", f"s.{quoted(chart.x)}"
    read = ", ".join(f"s.{quoted(name)} AS _v{index}" for index, name in enumerate(numbers_of(chart)))
    rows = {"drawn": drawn(engine, handle, chart)}
    with engine.held(_most_rows(engine, handle, chart, by)) as chosen:
        of_chosen = f"FROM drawn AS s JOIN chosen AS c ON {by} <=> c._panel"
        newest = f"SELECT {x} AS _x {of_chosen} WHERE {x} IS NOT NULL GROUP BY 1 ORDER BY 1 DESC LIMIT {CANDLES + 1}"
        with engine.held(engine.query(newest, {**rows, "chosen": chosen})) as places:
            query = (
                f"SELECT {by} AS _panel, {x} AS _x, {read} {of_chosen} JOIN newest AS n ON {x} = n._x "
                f"ORDER BY 1, 2 LIMIT {PANELS * (CANDLES + 1) + 1}"
            )
            found = engine.rows(engine.query(query, {**rows, "chosen": chosen, "newest": places}))
    return [row for row in found if not isinstance(row["_x"], float) or math.isfinite(row["_x"])]


def _most_rows(engine: Engine, handle: Handle, chart: Chart, by: str) -> Relation:
    """The values of `by` with most rows in the table, drawn or not, among those that have something to draw."""
    rows = {"stored": engine.read(handle), "drawn": drawn(engine, handle, chart)}
    there = f"SELECT {by} AS _panel FROM drawn AS s WHERE s.{quoted(chart.x)} IS NOT NULL GROUP BY 1"
    counted = f"SELECT {by} AS _panel, count(*) AS _rows FROM stored AS s GROUP BY 1"
    query = (
        f"SELECT a._panel FROM ({counted}) AS a JOIN ({there}) AS b ON a._panel <=> b._panel "
        f"ORDER BY a._rows DESC, a._panel LIMIT {PANELS}"
    )
    return engine.query(query, rows)


def _number(value: Any) -> float:
    number = math.nan if value is None else float(value)
    return min(max(number, -LARGEST), LARGEST) if math.isfinite(number) else math.nan


def _doubled(handle: Handle, chart: Chart, value: object, place: Place | None) -> Exception:
    of = f" of {chart.by} {value}" if chart.by else ""
    fix = "let lakehouse.chart draw fewer rows: a condition as `where`, or the column of symbols as `by`"
    return refused(handle, f"draws several candles{of} at one place", str(place), fix=fix)


# pixels


def png(found: Bars, chart: Chart, candles: Candles, title: str) -> bytes:
    """The bars as a PNG: 720 pixels wide, some 260 high for every two panels."""
    high = math.ceil(max(len(found.panels), 1) / _columns(found))
    below = INCHES_OF_VOLUME if candles.volume else 0.0
    size = (INCHES_WIDE, high * (INCHES_A_PANEL + below) + INCHES_OF_TITLE)
    return canvas.png(size, DPI, lambda figure: paint(figure, found, chart, candles, title), "constrained")


def paint(figure: Figure, found: Bars, chart: Chart, candles: Candles, title: str) -> None:
    """Draw bars into an empty figure: a panel for each symbol, with another one for its volume below."""
    pen, wide, each = Pen(), _columns(found), 2 if candles.volume else 1
    panels = found.panels or (Panel("", np.full((len(numbers_of(chart)), 0), math.nan)),)
    high = math.ceil(len(panels) / wide)
    ratios = [INCHES_A_PANEL, INCHES_OF_VOLUME][:each] * high
    grid = figure.subplots(each * high, wide, squeeze=False, height_ratios=ratios)
    for index in range(high * wide):
        row, column = divmod(index, wide)
        cell: list[Axes] = [grid[each * row + part, column] for part in range(each)]
        if index < len(panels):
            _paint_panel(cell, panels[index], found.places, chart, candles, pen)
        else:
            for axes in cell:
                axes.remove()
    labels = [pen.legible(name, AXIS_LETTERS) for name in chart.y] if found.panels else []
    cut = f", the newest {CANDLES}" if found.cut else ""
    room = canvas.TITLE_LETTERS - len(cut) - sum(len(label) + 6 for label in labels)
    text = pen.legible(title, max(room, 30)) + cut
    figure.suptitle(text, x=0.01, ha="left", fontproperties=pen.font(10), parse_math=False)
    if labels:
        legend = figure.legend(
            grid[0, 0].get_lines(),
            labels,
            loc="outside upper right",
            ncols=len(labels),
            prop=pen.font(8),
            frameon=False,
        )
        for label in legend.get_texts():
            label.set_parse_math(False)


def _columns(found: Bars) -> int:
    return min(max(len(found.panels), 1), COLUMNS)


def _paint_panel(
    cell: Sequence[Axes], panel: Panel, places: Sequence[Place], chart: Chart, candles: Candles, pen: Pen
) -> None:
    """One symbol: candles and lines, and its volume below if the cell has a second panel."""
    axes, below, slots = cell[0], cell[-1], np.arange(len(places), dtype=float)
    opened, high, low, closed = prices = panel.values[:4]
    whole = ~np.isnan(prices).any(axis=0)
    axes.use_sticky_edges = False  # room below the lowest candle
    for chosen, colour in ((whole & (closed >= opened), BLUE), (whole & (closed < opened), RED)):
        _paint_candles(axes, slots[chosen], prices[:, chosen], colour)
        if candles.volume:
            below.bar(slots[chosen], np.nan_to_num(panel.values[-1, chosen]), width=BAR, color=colour)
    few = len(places) <= CANDLES // 2
    for line, colour in zip(panel.values[4 : 4 + len(chart.y)], LINES, strict=False):
        axes.plot(slots, line, color=colour, linewidth=1.1 if few else 0.8, marker="." if few else None, markersize=4)
    named = list(range(0, len(places), math.ceil(len(places) / NAMED) or 1))
    names = _names([places[slot] for slot in named])
    for part in cell:
        canvas.settle(part)
        part.set_axisbelow(True)
        part.set_xlim(-0.7, max(len(places), 1) - 0.3)
        part.set_xticks(named, labels=names if part is below else [""] * len(named))
    axes.set_title(pen.legible(panel.label, LABEL_LETTERS), loc="left", fontproperties=pen.font(8), parse_math=False)
    if is_steep([low, high]):
        axes.set_yscale("log")
    if candles.volume:
        below.set_ylabel(pen.legible(candles.volume, AXIS_LETTERS), fontproperties=pen.font(7), parse_math=False)
        canvas.name_amounts(below)
    if not places:
        for part in cell:
            part.set_yticks([])


def _paint_candles(axes: Axes, slots: Floats, prices: Floats, colour: str) -> None:
    """Wicks from low to high, bodies from open to close."""
    opened, high, low, closed = prices
    axes.vlines(slots, low, high, color=colour, linewidth=0.9)
    high_of_body, bottom = abs(closed - opened), np.minimum(opened, closed)
    axes.bar(slots, high_of_body, width=BAR, bottom=bottom, color=colour, edgecolor=colour, linewidth=0.9)


def _names(places: Sequence[Place]) -> list[str]:
    """Texts of places: days as dates, times with their day below."""
    if all(isinstance(place, dt.datetime) and place.time() == dt.time() for place in places):
        return [place.date().isoformat() for place in places if isinstance(place, dt.datetime)]
    return [_name(place) for place in places]


def _name(place: Place) -> str:
    if isinstance(place, dt.datetime):
        seconds = "%H:%M:%S" if place.second else "%H:%M"
        return f"{place.strftime(seconds)}{'Z' if place.tzinfo else ''}\n{place.date().isoformat()}"
    return place.isoformat() if isinstance(place, dt.date) else f"{place:g}"
