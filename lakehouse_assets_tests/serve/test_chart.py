"""A table as a chart: the points of each line, thinned where there are many, and a picture of them."""

from __future__ import annotations

import datetime as dt
import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.options import Chart
from lakehouse_assets.errors import CatalogError
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number, TableSpec
from lakehouse_assets.serve import chart

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


def test_each_value_of_by_has_its_line_in_the_order_of_x(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Lines by name, points by x; a decimal is a number, NULL a gap, a place without x is left out."""
    rows = [("b", day(1), Decimal("2.5"), None), ("a", day(3), Decimal(1), 0.5), ("a", day(2), Decimal(3), -1.0),
            ("a", None, Decimal(9), 9.0)]  # fmt: skip
    found = chart.lines(engine, table(engine, tmp_path, rows), WANTED)
    assert found == {"a": ([day(2), day(3)], [[3.0, 1.0], [-1.0, 0.5]]), "b": ([day(1)], [[2.5], [None]])}


def test_many_points_are_thinned_and_the_newest_stays(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Of more rows than are drawn every n-th is, counted from the newest of each line."""
    rows = [(name, day(number), Decimal(number), 0.0) for name in "ab" for number in range(6000)]
    found = chart.lines(engine, table(engine, tmp_path, rows), WANTED)
    assert sum(len(places) for places, _ in found.values()) == chart.POINTS
    assert {places[-1] for places, _ in found.values()} == {day(5999)}


def test_a_legend_stays_legible(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Of more values of `by` than a legend holds the first by name are drawn."""
    rows = [(f"k{number:02}", day(0), Decimal(1), 0.0) for number in range(chart.LINES + 5)]
    found = chart.lines(engine, table(engine, tmp_path, rows), WANTED)
    assert list(found) == [f"k{number:02}" for number in range(chart.LINES)]


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


@pytest.mark.parametrize(("wanted", "value"), [(Chart(x="no", y=["price"]), "no"), (Chart(x="day", y=["k"]), "k")])
def test_a_column_that_cannot_be_drawn_is_named(
    engine: EmbeddedEngine, tmp_path: Path, wanted: Chart, value: str
) -> None:
    """A column that is not there, or whose values are no numbers, with those that could be drawn."""
    with pytest.raises(CatalogError, match=value) as told:
        chart.png(engine, table(engine, tmp_path, [("a", day(1), Decimal(1), 1.0)]), wanted, "t")
    assert "price" in str(told.value)
