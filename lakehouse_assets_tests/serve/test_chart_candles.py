"""A table as candles: which bars, of which symbols, and a picture of them."""

from __future__ import annotations

import datetime as dt
import io
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakehouse_assets.assets import metadata
from lakehouse_assets.engines.base import Engine, Handle
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.engines.spark import SparkEngine
from lakehouse_assets.entities.catalog import parse_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.entities.options import Candles, Chart
from lakehouse_assets.errors import CatalogError, LakehouseError
from lakehouse_assets.lake.names import Lake
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number, TableSpec
from lakehouse_assets.serve import canvas, chart, chart_candles
from lakehouse_assets.tables.base import Work

COLUMNS = pa.schema([
    ("sym", pa.string()), ("at", pa.timestamp("us", "UTC")), ("width", pa.string()), ("open", pa.decimal128(18, 6)),
    ("high", pa.float64()), ("low", pa.float64()), ("close", pa.float64()), ("volume", pa.int64()),
    ("vwap", pa.float64()),
])  # fmt: skip
BAR = Candles(open="open", high="high", low="low", close="close", volume="volume")
WANTED = Chart(x="at", candles=BAR, y=["vwap"], by="sym", where="width = '1d'")


@pytest.fixture(name="engine")
def _engine() -> EmbeddedEngine:
    return EmbeddedEngine(Storage())


def at(number: int) -> dt.datetime:
    """The n-th day."""
    return dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=number)


def bar(sym: str | None, when: dt.datetime | None, width: str = "1d", **values: Any) -> dict[str, Any]:
    """A bar from 10 to 12, between 9 and 13."""
    plain = {"open": Decimal(10), "high": 13.0, "low": 9.0, "close": 12.0, "volume": 100, "vwap": 11.0}
    return {"sym": sym, "at": when, "width": width, **plain, **values}


def table(engine: Engine, path: Path, rows: list[dict[str, Any]], columns: pa.Schema = COLUMNS) -> Handle:
    """A table of bars."""
    handle = engine.create(str(path / "t"), TableSpec(columns))
    engine.append(handle, engine.from_arrow(pa.Table.from_pylist(rows, schema=columns)), Number("a", 1))
    found = engine.find(str(path / "t"))
    assert found is not None
    return found


def closes(found: chart_candles.Bars) -> dict[str, list[float | None]]:
    """The closes of each panel, `None` for a gap."""
    return {p.label: [None if math.isnan(value) else value for value in p.values[3].tolist()] for p in found.panels}


def test_all_panels_share_their_places(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Bars stand by time whatever lies between; a symbol without a bar at a place has a gap; NULL is a symbol."""
    rows = [bar("b", at(7), close=2.0), bar("a", at(9), close=3.0), bar("b", at(1), close=1.0), bar(None, at(7)),
            bar("a", None)]  # fmt: skip
    found = chart_candles.bars(engine, table(engine, tmp_path, rows), WANTED)
    assert found.places == (at(1), at(7), at(9))
    assert closes(found) == {"NULL": [None, 12.0, None], "a": [None, None, 3.0], "b": [1.0, 2.0, None]}


def test_a_panel_holds_each_column_in_its_row(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Open, high, low, close, the lines, the volume; what is no number is a gap."""
    rows = [bar("a", at(1)), bar("a", at(2), high=math.inf, vwap=None)]
    (panel,) = chart_candles.bars(engine, table(engine, tmp_path, rows), WANTED).panels
    assert panel.values[:, 0].tolist() == [10, 13, 9, 12, 11, 100]
    assert [math.isnan(value) for value in panel.values[:, 1]] == [False, True, False, False, True, False]


def test_the_symbols_with_most_rows_are_drawn(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Four at most, by the rows that the table has of them; one without a row that is drawn is none of them."""
    rows = [bar(sym, at(0)) for sym in "abcdef"]
    rows += [bar(sym, at(number), "1m") for sym in "fdxb" for number in range(3)]
    found = chart_candles.bars(engine, table(engine, tmp_path, rows), WANTED)
    assert [panel.label for panel in found.panels] == ["a", "b", "d", "f"]


def test_the_newest_bars_are_drawn(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Of more places than have room the newest, whichever symbol has a bar there; and the chart knows."""
    count = chart_candles.CANDLES + 5
    rows = [bar("a", at(number), close=float(number)) for number in range(count)] + [bar("b", at(0)), bar("b", at(90))]
    found = chart_candles.bars(engine, table(engine, tmp_path, rows), WANTED)
    assert found.places == (*(at(number) for number in range(6, count)), at(90))
    assert found.cut
    assert closes(found)["a"][0] == 6
    assert closes(found)["b"] == [None] * (len(found.places) - 1) + [12.0]


def test_bars_that_all_have_room_are_not_cut(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """As many places as there is room for: all of them."""
    rows = [bar("a", at(number)) for number in range(chart_candles.CANDLES)]
    found = chart_candles.bars(engine, table(engine, tmp_path, rows), WANTED)
    assert (len(found.places), found.cut) == (chart_candles.CANDLES, False)


def test_candles_at_one_place_are_refused(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Bars of several widths without a condition: the error names symbol and place, and what to write."""
    rows = [bar("a", at(number), width) for width in ("1d", "5m") for number in range(200)]
    wanted = Chart(x="at", candles=BAR, by="sym")
    with pytest.raises(CatalogError, match=r"several candles of sym a at one place \(got '2024-") as told:
        chart.png(engine, table(engine, tmp_path, rows), wanted, "t")
    assert "where" in str(told.value)


@pytest.mark.parametrize(
    ("change", "value"), [({"high": "peak"}, "peak"), ({"low": "sym"}, "sym"), ({"volume": "width"}, "width")]
)
def test_a_column_that_is_no_candle_is_named(
    engine: EmbeddedEngine, tmp_path: Path, change: dict[str, str], value: str
) -> None:
    """A column that is not there, or holds no numbers, with those that could be drawn."""
    wanted = WANTED.model_copy(update={"candles": BAR.model_copy(update=change)})
    with pytest.raises(CatalogError, match=value) as told:
        chart.png(engine, table(engine, tmp_path, [bar("a", at(0))]), wanted, "t")
    assert "close" in str(told.value)


def test_a_condition_about_another_column_is_an_error_of_the_chart(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """The column is named, so the run can say why nothing is drawn."""
    wanted = WANTED.model_copy(update={"where": "breadth = 1"})
    with pytest.raises(LakehouseError, match="breadth"):
        chart.png(engine, table(engine, tmp_path, [bar("a", at(0))]), wanted, "t")


DECLARED = """
delta_live_store:
  - entity_id: bars
    source: none.db
    source_format: sqlite
    destination: bronze.t
    read_options: {sqlite.table: t}
    lakehouse: {chart: %s}
"""


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ("{x: at, candles: {open: a, high: b, low: c}}", "close: the field is missing"),
        ("{x: at, candles: {open: a, high: b, low: c, close: d, vwap: e}}", "vwap"),
        ("{x: at}", "draws nothing"),
        ("{x: at, y: []}", "draws nothing"),
        ("{x: at, y: [v], where: 'a ='}", "not Spark SQL"),
        ("{x: at, y: [v], where: 'a = 1) OR (b = 2'}", "not Spark SQL"),
        ("{x: at, y: [v], where: 'sum(a) > 1'}", "sum"),
        ("{x: at, y: [v], where: 'a = 1, b = 2'}", "one expression"),
        ("{x: at, y: [v], where: 'nothing_like_it(a)'}", "nothing_like_it"),
    ],
)
def test_a_chart_that_cannot_be_drawn_is_refused_at_load(declared: str, told: str) -> None:
    """What the catalog shows to be wrong is a fault of the catalog, in the field `chart`."""
    with pytest.raises(CatalogError) as refused:
        parse_catalog({"c.yaml": DECLARED % declared}, {}, {})
    assert told in str(refused.value)
    assert "lakehouse.chart" in str(refused.value)


def test_a_run_shows_candles_in_its_metadata(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """The PNG stands in the Markdown of the table's metadata."""
    text = "{x: at, candles: {open: open, high: high, low: low, close: close}, y: [vwap], by: sym}"
    catalog = parse_catalog({"c.yaml": DECLARED % text}, {}, {})
    work, name = Work(catalog, Lake(str(tmp_path), Storage()), engine), TableName("bronze", "t")
    handle = table(engine, tmp_path, [bar("a", at(0))])
    shown = metadata.chart(work, name, handle, catalog.destinations[name])["chart"].value
    assert shown.startswith("![bronze.t](data:image/png;base64,iVBOR")


@pytest.mark.parametrize(("symbols", "high"), [(0, 304), (1, 304), (3, 568), (9, 568)])
def test_a_picture_of_candles_is_of_bounded_size(
    engine: EmbeddedEngine, tmp_path: Path, symbols: int, high: int
) -> None:
    """720 pixels wide, two panels side by side, four at most; names are never mathematics."""
    import matplotlib.image

    rows = [bar(f"$a_{sym}", at(number), close=9.0 + number % 4) for sym in range(symbols) for number in range(9)]
    handle = table(engine, tmp_path, rows)
    picture = chart.png(engine, handle, WANTED, r"gold.$\frac{$t_1")
    assert matplotlib.image.imread(io.BytesIO(picture)).shape[:2] == (high, 720)


def test_equal_bars_give_equal_pictures(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Nothing of the time or of the order of rows goes into the file."""
    rows = [bar(sym, at(number)) for sym in "ab" for number in range(3)]
    (tmp_path / "other").mkdir()
    handle, other = table(engine, tmp_path, rows), table(engine, tmp_path / "other", rows[::-1])
    assert chart.png(engine, handle, WANTED, "t") == chart.png(engine, other, WANTED, "t")


def painted(engine: EmbeddedEngine, path: Path, rows: list[dict[str, Any]], wanted: Chart = WANTED) -> Any:
    """The panels of a picture."""
    from matplotlib.figure import Figure

    figure = Figure()
    assert wanted.candles is not None
    found = chart_candles.bars(engine, table(engine, path, rows), wanted)
    chart_candles.paint(figure, found, wanted, wanted.candles, "t")
    return figure.axes


def test_a_candle_spans_open_and_close_its_wick_high_and_low(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Rising ones are blue, falling ones red; one without all its prices is a gap; volume stands below."""
    from matplotlib.colors import to_hex

    rows = [bar("a", at(0)), bar("a", at(1), open=Decimal(12), close=10.0), bar("a", at(2), low=None)]
    prices, volume = painted(engine, tmp_path, rows)
    bodies = {(round(b.get_x() + b.get_width() / 2), b.get_y(), b.get_height()) for b in prices.patches}
    assert bodies == {(0, 10.0, 2.0), (1, 10.0, 2.0)}
    colours = {round(body.get_x() + body.get_width() / 2): to_hex(body.get_facecolor()) for body in prices.patches}
    assert colours == {0: canvas.BLUE, 1: canvas.RED}
    wicks = [segment.tolist() for lines in prices.collections for segment in lines.get_segments()]
    assert wicks == [[[0, 9], [0, 13]], [[1, 9], [1, 13]]]
    assert prices.get_lines()[0].get_ydata().tolist() == [11, 11, 11]
    assert [patch.get_height() for patch in volume.patches] == [100, 100]


def test_the_lowest_candle_stands_above_the_axis(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """A candle whose body is its lowest price is not cut off; the volume starts at 0."""
    prices, volume = painted(engine, tmp_path, [bar("a", at(0), low=10.0)])
    assert prices.get_ylim()[0] < 10
    assert volume.get_ylim()[0] == 0


@pytest.mark.parametrize(
    ("places", "names"),
    [
        ([at(0), at(1)], ["2024-01-01", "2024-01-02"]),
        ([at(0), at(0) + dt.timedelta(hours=9)], ["00:00Z\n2024-01-01", "09:00Z\n2024-01-01"]),
        ([at(0) + dt.timedelta(seconds=5)], ["00:00:05Z\n2024-01-01"]),
    ],
)
def test_days_are_named_by_date_and_times_with_theirs(
    engine: EmbeddedEngine, tmp_path: Path, places: list[dt.datetime], names: list[str]
) -> None:
    """The names stand below the lowest panel alone."""
    prices, volume = painted(engine, tmp_path, [bar("a", place) for place in places])
    assert [text.get_text() for text in volume.get_xticklabels()] == names
    assert {text.get_text() for text in prices.get_xticklabels()} == {""}


@pytest.mark.parametrize("kind", [pa.date32(), pa.int64(), pa.float64(), pa.decimal128(25, 2), pa.timestamp("us")])
def test_candles_stand_along_any_order(engine: EmbeddedEngine, tmp_path: Path, kind: pa.DataType) -> None:
    """Dates, numbers and local times; without a column of symbols there is one panel, without volume no other."""
    columns = COLUMNS.set(1, pa.field("at", kind))
    places = pa.array([2, 1], pa.int32()).cast(pa.date32()) if kind == pa.date32() else pa.array([2, 1]).cast(kind)
    rows = [bar("a", place) for place in places.to_pylist()]
    handle = table(engine, tmp_path, rows, columns)
    wanted = Chart(x="at", candles=BAR.model_copy(update={"volume": None}))
    found = chart_candles.bars(engine, handle, wanted)
    assert list(found.places) == sorted(places.to_pylist())
    assert [panel.label for panel in found.panels] == [""]
    assert chart.png(engine, handle, wanted, "t").startswith(b"\x89PNG")


def test_any_price_is_drawn_or_a_gap(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """The largest numbers, infinite ones, and a place that is none."""
    odd = [1.7e308, -1.7e308, 5e-324, math.inf, math.nan, 0.0]
    columns = COLUMNS.set(1, pa.field("at", pa.float64()))
    rows = [bar("a", place, high=value, close=value) for place, value in zip([*range(5), math.nan], odd, strict=True)]
    handle = table(engine, tmp_path, rows, columns)
    assert chart_candles.bars(engine, handle, WANTED).places == (0, 1, 2, 3, 4)
    assert chart.png(engine, handle, WANTED, "t").startswith(b"\x89PNG")


def test_a_condition_narrows_lines_as_well(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Rows that do not meet it, or of which it is unknown, are not drawn; a comment in it ends nothing."""
    rows = [bar("a", at(0), "1d", vwap=1.0), bar("a", at(1), "5m", vwap=2.0), {**bar("a", at(2)), "width": None}]
    handle = table(engine, tmp_path, rows)
    (line,) = chart.lines(engine, handle, Chart(x="at", y=["vwap"], where="width = '1d' -- days"))
    assert line.values[0].tolist() == [1.0]


@pytest.mark.slow
def test_both_engines_find_the_same_bars(spark: SparkEngine, engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Symbols, places and values, NULL symbols and the cut among them."""
    names = [*"abcde", None]
    rows = [bar(sym, at(number), close=float(number)) for sym in names for number in range(100) if number % 7]
    rows += [bar(sym, at(number), "1m") for sym in (None, "e", "d") for number in range(9)]
    handle = table(engine, tmp_path, rows)
    there = spark.find(handle.uri)
    assert there is not None
    here, other = chart_candles.bars(engine, handle, WANTED), chart_candles.bars(spark, there, WANTED)
    assert (here.places, here.cut, closes(here)) == (other.places, other.cut, closes(other))
    assert [panel.label for panel in here.panels] == ["NULL", "a", "d", "e"]
