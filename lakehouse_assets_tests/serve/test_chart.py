"""A table as a chart: the points of each line, thinned where there are many, and a picture of them."""

from __future__ import annotations

import datetime as dt
import io
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakehouse_assets.assets import metadata
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.catalog import parse_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.entities.options import Chart
from lakehouse_assets.errors import CatalogError, LakeError
from lakehouse_assets.lake.names import Lake
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number, TableSpec
from lakehouse_assets.serve import chart
from lakehouse_assets.tables.base import Work

COLUMNS = pa.schema(
    [("k", pa.string()), ("day", pa.date32()), ("price", pa.decimal128(18, 6)), ("change", pa.float64())]
)
WANTED = Chart(x="day", y=["price", "change"], by="k")


@pytest.fixture(name="engine")
def _engine() -> EmbeddedEngine:
    return EmbeddedEngine(Storage())


def table(engine: EmbeddedEngine, path: Path, rows: list[tuple[Any, ...]]) -> Any:
    """A table of rows (k, day, price, change)."""
    handle = engine.create(str(path / "t"), TableSpec(COLUMNS))
    data = pa.Table.from_pylist([dict(zip(COLUMNS.names, row, strict=True)) for row in rows], schema=COLUMNS)
    engine.append(handle, engine.from_arrow(data), Number("a", 1))
    return engine.find(str(path / "t"))


def day(number: int) -> dt.date:
    """The n-th day."""
    return dt.date(2020, 1, 1) + dt.timedelta(days=number)


def any_table(engine: EmbeddedEngine, path: Path, data: pa.Table) -> Any:
    """A table of these rows."""
    handle = engine.create(str(path / "t"), TableSpec(data.schema))
    engine.append(handle, engine.from_arrow(data), Number("a", 1))
    return engine.find(str(path / "t"))


def plain(found: list[chart.Line]) -> dict[str, tuple[list[float], list[list[float | None]]]]:
    """Lines as lists, `None` for a gap."""
    return {
        line.label: (
            line.places.tolist(),
            [[None if math.isnan(v) else v for v in values.tolist()] for values in line.values],
        )
        for line in found
    }


def days(*numbers: int) -> list[float]:
    """The places of n-th days."""
    return [float((day(number) - dt.date(1970, 1, 1)).days) for number in numbers]


def test_each_value_of_by_has_its_line_in_the_order_of_x(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Lines by name, points by x; a decimal is a number, NULL a gap, a place without x is left out."""
    rows = [("b", day(1), Decimal("2.5"), None), ("a", day(3), Decimal(1), 0.5), ("a", day(2), Decimal(3), -1.0),
            ("a", None, Decimal(9), 9.0), (None, day(4), Decimal(4), 4.0)]  # fmt: skip
    found = plain(chart.lines(engine, table(engine, tmp_path, rows), WANTED))
    assert found == {
        "NULL": (days(4), [[4.0], [4.0]]),
        "a": (days(2, 3), [[3.0, 1.0], [-1.0, 0.5]]),
        "b": (days(1), [[2.5], [None]]),
    }


def test_peaks_stay_where_points_are_thinned(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Of more rows than are drawn the ends of each line stay, and the single peak and trough of each value."""
    rows = [(name, day(number), Decimal(5), 5.0) for name in "ab" for number in range(6001)]
    rows[3003] = ("a", day(3003), Decimal(900), 5.0)
    rows[3007] = ("a", day(3007), Decimal(5), -900.0)
    found = chart.lines(engine, table(engine, tmp_path, rows), WANTED)
    assert sum(len(line.places) for line in found) <= chart.POINTS
    assert {(line.places[0], line.places[-1]) for line in found} == {tuple(days(0, 6000))}
    assert (found[0].values[0].max(), found[0].values[1].min()) == (900, -900)
    assert set(days(3003, 3007)) <= set(found[0].places.tolist())


def test_thinned_places_are_rows_of_the_table(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Each place keeps the values of its own row, in order, from the first to the last; a long gap stays a gap."""
    wave = [None if 8000 <= n < 12_000 else math.sin(n) for n in range(20_000)]
    data = pa.table({"x": [*range(20_000)], "y": wave})
    (line,) = chart.lines(engine, any_table(engine, tmp_path, data), Chart(x="x", y=["y"]))
    assert (np.diff(line.places) > 0).all()
    assert (line.places[0], line.places[-1]) == (0, 19_999)
    assert plain([line])[""][1] == [[wave[int(place)] for place in line.places]]
    assert ((line.places >= 8000) & (line.places < 12_000)).any()


def test_a_peak_among_gaps_stays(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """A place without a value is neither the least nor the largest of its neighbours."""
    values: list[float | None] = [None if n % 2 else math.sin(n) for n in range(20_000)]
    values[5000], values[15_000] = 9.0, -9.0
    data = pa.table({"x": [*range(20_000)], "y": values})
    (line,) = chart.lines(engine, any_table(engine, tmp_path, data), Chart(x="x", y=["y"]))
    assert (np.nanmax(line.values[0]), np.nanmin(line.values[0])) == (9.0, -9.0)


def test_a_short_line_beside_a_long_one_is_drawn_whole(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """What a short line leaves of the points goes to the long one."""
    rows = [("a", day(n), Decimal(n % 9), 0.1 * n) for n in range(9000)] + [
        ("b", day(n), Decimal(n), 1.0) for n in range(30)
    ]
    long, short = chart.lines(engine, table(engine, tmp_path, rows), WANTED)
    assert short.places.tolist() == days(*range(30))
    assert 0.8 * chart.POINTS < len(long.places) <= chart.POINTS - 30


def test_of_very_many_rows_every_nth_is_read(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Above the rows that are read as they are every n-th is, counted from the newest of each line."""
    count = chart.READ + 100
    key = np.where(np.arange(count) % 2 == 0, "a", "b")
    data = pa.table({"k": key, "x": np.arange(count), "y": np.arange(count, dtype=np.float64)})
    found = chart.lines(engine, any_table(engine, tmp_path, data), Chart(x="x", y=["y"], by="k"))
    assert [line.places[-1] for line in found] == [count - 2, count - 1]
    assert all(((line.places[-1] - line.places) % 4 == 0).all() for line in found)
    assert sum(len(line.places) for line in found) <= chart.POINTS


def test_columns_may_have_any_names(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Columns named like those of the query, one column as x, y and by, and y given twice."""
    names = ["_nth", "_line", "_x", "_y0", "_y1", "_rows", "s", "points", "a`c"]
    data = pa.table({name: [10 * index + 2, 10 * index + 1] for index, name in enumerate(names)})
    handle = any_table(engine, tmp_path, data)
    found = plain(chart.lines(engine, handle, Chart(x="_nth", y=["_line", "_x", "_nth", "a`c"])))
    assert found == {"": ([1, 2], [[11, 12], [21, 22], [1, 2], [81, 82]])}
    found = plain(chart.lines(engine, handle, Chart(x="_y0", y=["_y0", "_y1", "_y1"], by="_line")))
    assert found == {"11": ([31], [[31], [41], [41]]), "12": ([32], [[32], [42], [42]])}
    assert plain(chart.lines(engine, handle, Chart(x="_x", y=["_x"], by="_x"))) == {
        "21": ([21], [[21]]),
        "22": ([22], [[22]]),
    }
    assert plain(chart.lines(engine, handle, Chart(x="s", y=["points", "_rows"]))) == {
        "": ([61, 62], [[71, 72], [51, 52]])
    }


def test_a_legend_stays_legible(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Of more values of `by` than a legend holds the first by name are drawn."""
    rows = [(f"k{number:02}", day(0), Decimal(1), 0.0) for number in range(chart.LINES + 5)]
    found = chart.lines(engine, table(engine, tmp_path, rows), WANTED)
    assert [line.label for line in found] == [f"k{number:02}" for number in range(chart.LINES)]


def test_a_chart_is_a_picture_of_bounded_size(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """A PNG, 720 pixels wide, equal for equal tables; names are never taken for mathematics."""
    import matplotlib.image

    rows = [("$a_b", day(number), Decimal(number % 7), 0.1 * number) for number in range(50)]
    handle = table(engine, tmp_path, rows)
    picture = chart.png(engine, handle, WANTED, "gold.$t_1")
    assert matplotlib.image.imread(io.BytesIO(picture)).shape[1] == 720
    assert picture == chart.png(engine, handle, WANTED, "gold.$t_1")


def test_an_empty_table_has_an_empty_chart(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """No rows: axes without lines."""
    assert chart.png(engine, table(engine, tmp_path, []), WANTED, "t").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("wanted", "value"),
    [(Chart(x="no", y=["price"]), "no"), (Chart(x="day", y=["k"]), "k"), (Chart(x="k", y=["price"]), "k")],
)
def test_a_column_that_cannot_be_drawn_is_named(
    engine: EmbeddedEngine, tmp_path: Path, wanted: Chart, value: str
) -> None:
    """A column that is not there, or whose values have no place on an axis, with those that could be drawn."""
    with pytest.raises(CatalogError, match=value) as told:
        chart.png(engine, table(engine, tmp_path, [("a", day(1), Decimal(1), 1.0)]), wanted, "t")
    assert "price" in str(told.value)


@pytest.mark.parametrize(
    ("values", "steep"),
    [
        ([1, 51], True),
        ([1, 50], False),
        ([0, 51], False),
        ([-1, 51], False),
        ([math.nan, 1, 51], True),
        ([math.nan], False),
        ([], False),
    ],
)
def test_an_axis_of_steep_values_is_logarithmic(values: list[float], steep: bool) -> None:
    """All above 0, and the largest more than 50 times the smallest, whichever line they are of; a gap is no value."""
    assert chart.is_steep([np.array(values[:2], float), np.array(values[2:], float)]) is steep


def test_each_panel_has_its_own_kind_of_axis(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Prices from 1 to 1000 grow by factors, changes below 0 by differences."""
    from matplotlib.figure import Figure

    rows = [("a", day(n), Decimal(10**n), -0.1 * n) for n in range(4)]
    figure = Figure()
    found = chart.lines(engine, table(engine, tmp_path, rows), WANTED)
    chart.paint(figure, WANTED, found, "t", dated=True)
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]


ODD = [r"$\frac{$", "$a_b$", "_hidden", "a\0b", "日本", "\n\t", "\U0001f4c8", "", "x" * 5000, None]


def test_any_value_of_by_stands_in_the_legend(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """No name is mathematics, hidden, too long or a warning; a letter that the font lacks is a box."""
    from matplotlib.figure import Figure

    rows = [(name, day(n), Decimal(n), 0.0) for name in ODD for n in range(3)]
    handle = table(engine, tmp_path, rows)
    assert chart.png(engine, handle, WANTED, r"gold.$\frac{$日\0").startswith(b"\x89PNG")
    figure = Figure()
    chart.paint(figure, WANTED, chart.lines(engine, handle, WANTED), "t", dated=True)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    shown = {text.get_text() for text in legend.get_texts()}
    assert shown == {r"$\frac{$", "$a_b$", "_hidden", "a□b", "□□", "□", "", "x" * 39 + "…", "NULL"}


@pytest.mark.parametrize(
    "numbers",
    [
        [math.inf, -math.inf, math.nan, 1.0],
        [math.inf] * 4,
        [1.7e308, -1.7e308, 0.0, 1.0],
        [5e-324, 1.0, 1e-300, 1.7e308],
        [5e-324, 0.0, 1e-310, -5e-324],
        [1e300] * 4,
    ],
)
def test_any_number_is_drawn_or_a_gap(engine: EmbeddedEngine, tmp_path: Path, numbers: list[float]) -> None:
    """An infinite value is a gap, a place that is none is left out; the largest and smallest numbers are drawn."""
    data = pa.table({"x": [1.0, 2.0, 3.0, 4.0], "y": numbers})
    handle = any_table(engine, tmp_path, data)
    (line,) = chart.lines(engine, handle, Chart(x="x", y=["y"]))
    assert np.isfinite(line.values[0]).tolist() == [math.isfinite(number) for number in numbers]
    (turned,) = chart.lines(engine, handle, Chart(x="y", y=["x"]))
    assert len(turned.places) == sum(map(math.isfinite, numbers))
    for wanted in (Chart(x="x", y=["y"]), Chart(x="y", y=["x"])):
        assert chart.png(engine, handle, wanted, "t").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "dates",
    [
        [dt.date.min, dt.date.max],
        [dt.date.min],
        [dt.date.max],
        [dt.date(2020, 1, 1), dt.date.max],
        [dt.date.min, dt.date(1, 1, 3)],
        [dt.date(9999, 12, 1), dt.date.max],
        [dt.date(2020, 1, 1)],
        [None],
    ],
)
@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC")])
def test_any_date_is_drawn(engine: EmbeddedEngine, tmp_path: Path, dates: list[Any], kind: pa.DataType) -> None:
    """The first and the last day of the calendar, alone and together."""
    data = pa.table({"x": pa.array(dates, pa.date32()).cast(kind), "y": [1.0] * len(dates)})
    handle = any_table(engine, tmp_path, data)
    assert chart.png(engine, handle, Chart(x="x", y=["y"]), "t").startswith(b"\x89PNG")


def test_a_time_stands_where_its_date_does(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Noon of a day lies half a day after the day."""
    noon = dt.datetime.combine(day(1), dt.time(12))
    handle = any_table(engine, tmp_path, pa.table({"x": pa.array([noon], pa.timestamp("us", "UTC")), "y": [1]}))
    assert plain(chart.lines(engine, handle, Chart(x="x", y=["y"]))) == {"": ([days(1)[0] + 0.5], [[1.0]])}


def test_what_matplotlib_refuses_is_an_error_of_the_table(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """A picture without panels, which no catalog can ask for: the error names the table and the reason."""
    handle = table(engine, tmp_path, [("a", day(1), Decimal(1), 1.0)])
    with pytest.raises(LakeError, match=r"gold\.t cannot be drawn: Number of rows") as told:
        chart.png(engine, handle, Chart.model_construct(x="day", y=[], by=None), "gold.t")
    assert isinstance(told.value.__cause__, ValueError)


DRAWN = """
delta_live_store:
  - entity_id: readings
    source: none.db
    source_format: sqlite
    destination: bronze.t
    read_options: {sqlite.table: t}
    lakehouse: {chart: {x: day, y: [absent]}}
"""


def test_a_chart_that_fails_is_told_in_its_place(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """The run goes on: its metadata says that the chart is not drawn, and why, naming the value."""
    name = TableName("bronze", "t")
    catalog = parse_catalog({"c.yaml": DRAWN}, {}, {})
    work = Work(catalog, Lake(str(tmp_path), Storage()), engine)
    handle = table(engine, tmp_path, [("a", day(1), Decimal(1), 1.0)])
    told = metadata.chart(work, name, handle, catalog.destinations[name])["chart"].value
    assert told.startswith("not drawn: the chart of ")
    assert told.endswith("draws a column that the table does not have (got 'absent')")
