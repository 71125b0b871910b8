"""A table as a chart: lines along a column, a panel for each value that is drawn, as a PNG of bounded size.

What belongs here: reading the points, thinned where there are many, and drawing them.
What does not: what an entity draws (`lakehouse.chart`), histories of keys (`timeline_png.py`).
"""

from __future__ import annotations

import datetime as dt
import decimal
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakehouse_assets.engines.base import Engine, Handle
from lakehouse_assets.entities.options import Chart
from lakehouse_assets.errors import CatalogError, NotRunnable
from lakehouse_assets.sql.expand import quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 4000
"""Points of all lines together, about: of more rows every n-th is drawn, the newest of each line among them."""
LINES = 12
"""Lines of a panel, the first ones by name; a legend with more cannot be read."""
INCHES_WIDE, INCHES_A_PANEL, DPI = 9.0, 2.6, 80
_HIDDEN = "_nth"

Line = tuple[list[Any], list[list[Any]]]
"""The places of a line, and for each panel its values there."""


def png(engine: Engine, handle: Handle, chart: Chart, title: str) -> bytes:
    """A chart of a table at the handle's version: 720 pixels wide, some 200 high for each panel.

    Raises:
        NotRunnable: matplotlib is not installed.
        CatalogError: the table has no such column, or one of `y` holds no numbers.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NotRunnable(
            f"drawing a chart needs matplotlib, which is not installed ({error})",
            fix="install it: pip install 'lakehouse-assets[charts]'",
        ) from error
    found = lines(engine, handle, chart)
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever this machine's matplotlibrc says
        size = (INCHES_WIDE, INCHES_A_PANEL * len(chart.y) + 0.4)
        figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
        panels = figure.subplots(len(chart.y), 1, sharex=True, squeeze=False)[:, 0]
        for index, (axes, name) in enumerate(zip(panels, chart.y, strict=True)):
            _paint(axes, name, found, index)
        panels[0].set_title(title, loc="left", fontsize=10, parse_math=False)
        if chart.by and found:
            panels[0].legend(loc="upper left", fontsize=7, frameon=False)
        target = io.BytesIO()
        FigureCanvasAgg(figure).print_png(target, metadata={"Software": None})
    return target.getvalue()


def lines(engine: Engine, handle: Handle, chart: Chart) -> dict[str, Line]:
    """The points of each line, in the order of `x`; places without a value are left out.

    Raises:
        CatalogError: the table has no such column.
    """
    _check(handle, chart)
    rows = {"stored": engine.read(handle)}
    count = int(engine.rows(engine.query("SELECT count(*) AS n FROM stored", rows))[0]["n"])
    by = quoted(chart.by) if chart.by else "''"
    names = [quoted(name) for name in (chart.x, *chart.y)]
    numbered = f"row_number() OVER (PARTITION BY {by} ORDER BY {names[0]} DESC) AS {_HIDDEN}"
    sql = (
        f"SELECT {by} AS _line, {', '.join(names)} FROM (SELECT *, {numbered} FROM stored) AS numbered "
        f"WHERE {names[0]} IS NOT NULL AND ({_HIDDEN} - 1) % {-(-count // POINTS) or 1} = 0 ORDER BY 1, 2"
    )
    found: dict[str, Line] = {}
    for row in engine.rows(engine.query(sql, rows)):
        label = str(row["_line"])
        if label not in found and len(found) == LINES:
            break
        places, values = found.setdefault(label, ([], [[] for _ in chart.y]))
        places.append(_plain(row[chart.x]))
        for index, name in enumerate(chart.y):
            values[index].append(_plain(row[name]))
    return found


def _check(handle: Handle, chart: Chart) -> None:
    for name in (chart.x, *chart.y, *([chart.by] if chart.by else [])):
        if name not in handle.schema.names:
            raise CatalogError(
                f"the chart of {handle.uri} draws a column that the table does not have",
                value=name,
                choices=handle.schema.names,
                fix="correct lakehouse.chart",
            )
    numbers = [field.name for field in handle.schema if _is_number(field.type)]
    for name in chart.y:
        if name not in numbers:
            raise CatalogError(
                f"the chart of {handle.uri} draws a column that holds no numbers",
                value=name,
                choices=numbers,
                fix="correct lakehouse.chart",
            )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, decimal.Decimal) else value


def _paint(axes: Axes, name: str, found: dict[str, Line], index: int) -> None:
    for label, (places, values) in found.items():
        axes.plot(places, _numbers(values[index]), label=label or name, linewidth=0.9)
    axes.set_ylabel(name, fontsize=8, parse_math=False)
    axes.tick_params(labelsize=7)
    axes.grid(visible=True, color="#e6e8eb", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if any(isinstance(place, dt.date) for places, _ in found.values() for place in places[:1]):
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _numbers(values: Sequence[Any]) -> list[float]:
    """The values, NaN (a gap) where there is none."""
    return [float("nan") if value is None else float(value) for value in values]
