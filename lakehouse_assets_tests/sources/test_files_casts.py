"""Typed values become columns without loss: a number, date or time that would change is marked."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lakehouse_assets.errors import SourceUnreadable, TypeRefused
from lakehouse_assets.sources.files_casts import cast_values
from lakehouse_assets.sources.files_texts import Patterns
from lakehouse_assets.sources.files_types import column_type, columns_of, united, widened
from lakehouse_assets.sources.files_values import Number, column, received
from lakehouse_assets.sql.types import TIMESTAMP, TIMESTAMP_NTZ
from lakehouse_assets_tests.sources.files_making import naive

MISFIT = "misfit"
NOON = naive(2024, 7, 1, 12)


def marked(values: pa.Array, failed: pa.Array | None) -> list[Any]:
    """Values, `MISFIT` where one does not fit."""
    mask = [False] * len(values) if failed is None else failed.to_pylist()
    assert all(value is None for value, bad in zip(values.to_pylist(), mask, strict=True) if bad)
    return [MISFIT if bad else value for value, bad in zip(values.to_pylist(), mask, strict=True)]


def cast(values: pa.Array, to: pa.DataType, zone: str = "UTC") -> list[Any]:
    """The values as a column of type `to`."""
    found, failed = cast_values(values, to, Patterns(zone=zone))
    assert found.type == to
    return marked(found, failed)


@pytest.mark.parametrize(
    ("values", "to", "expected"),
    [
        (pa.array([300, 5, None]), pa.int8(), [MISFIT, 5, None]),
        (pa.array([1.5, 2.0]), pa.int64(), [MISFIT, 2]),
        (pa.array([2**53 + 1, 5]), pa.float64(), [MISFIT, 5.0]),
        (pa.array([1.1, 1.5]), pa.float32(), [MISFIT, 1.5]),
        (pa.array([5, 1]), pa.bool_(), [MISFIT, True]),
        (pa.array([2**63], pa.uint64()), pa.decimal128(20, 0), [Decimal(2**63)]),
        (pa.array([Decimal("1.25"), Decimal("1.50")]), pa.decimal128(9, 1), [MISFIT, Decimal("1.5")]),
        (pa.array([1, 2.5], pa.float16()), pa.float32(), [1.0, 2.5]),
        (pa.array([86_400_001, 86_400_000], pa.date64()), pa.date32(), [MISFIT, dt.date(1970, 1, 2)]),
        (pa.array([NOON, naive(2024, 1, 1)]), pa.date32(), [MISFIT, dt.date(2024, 1, 1)]),
        (pa.array([1, 1000], pa.timestamp("ns")), TIMESTAMP_NTZ, [MISFIT, naive(1970, 1, 1, 0, 0, 0, 1)]),
        (pa.array([2**62, 0], pa.timestamp("s")), TIMESTAMP_NTZ, [MISFIT, naive(1970, 1, 1)]),
        (pa.array([1], pa.time64("us")), pa.int64(), [1]),
        (pa.array([1], pa.time32("s")), pa.string(), ["00:00:01"]),
        (pa.array([7], pa.duration("ms")), pa.int64(), [7]),
        (pa.array([b"\xff", b"a"]), pa.string(), [MISFIT, "a"]),
        (pa.array([b"ab"], pa.binary(2)), pa.binary(), [b"ab"]),
        (pa.array(["5", "x"], pa.large_string()), pa.int32(), [5, MISFIT]),
        (pa.array(["5", "x"], pa.string_view()), pa.int32(), [5, MISFIT]),
        (pa.array(["a", None]).dictionary_encode(), pa.string(), ["a", None]),
        (pc.run_end_encode(pa.array([1, 1, 2])), pa.int64(), [1, 1, 2]),
        (pa.array([None]), pa.int32(), [None]),
        (pa.array([True]), pa.string(), ["true"]),
        (pa.array([[1, None], [300], None]), pa.list_(pa.int8()), [[1, None], MISFIT, None]),
        (pa.array([[1, 2]], pa.list_(pa.int32(), 2)), pa.list_(pa.int32()), [[1, 2]]),
        (pa.array([[1], [1000]], pa.list_(pa.timestamp("ns"))), pa.list_(TIMESTAMP_NTZ),
         [MISFIT, [naive(1970, 1, 1, 0, 0, 0, 1)]]),
        (pa.array([{"a": 1}]), pa.struct([("b", pa.string()), ("a", pa.int32())]), [{"b": None, "a": 1}]),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())), pa.map_(pa.string(), pa.int64()), [[("k", 1)]]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)  # fmt: skip
def test_a_value_fits_or_is_marked(values: pa.Array, to: pa.DataType, expected: list[Any]) -> None:
    """Casting back must give the same again."""
    assert cast(values, to) == expected


def test_nan_survives() -> None:
    """NaN is not equal to itself and still fits."""
    (value,) = cast(pa.array([float("nan")]), pa.float32())
    assert value != value


def test_times_without_a_zone_are_read_in_the_zone_of_the_source() -> None:
    """Alone and inside of lists; TIMESTAMP_NTZ keeps them."""
    instant = dt.datetime(2024, 7, 1, 10, tzinfo=dt.UTC)
    assert cast(pa.array([NOON]), TIMESTAMP, "Europe/Vienna") == [instant]
    assert cast(pa.array([[NOON]]), pa.list_(TIMESTAMP), "Europe/Vienna") == [[instant]]
    assert cast(pa.array([NOON]), TIMESTAMP_NTZ, "Europe/Vienna") == [NOON]
    zoned = pa.array([instant], pa.timestamp("ms", "Asia/Tokyo"))
    assert cast(zoned, TIMESTAMP, "Europe/Vienna") == [instant]


@pytest.mark.parametrize(
    ("values", "to"),
    [
        (pa.array([1]), TIMESTAMP),
        (pa.array([1]), pa.list_(pa.int64())),
        (pa.array([NOON], pa.timestamp("us", "UTC")), TIMESTAMP_NTZ),
        (pa.array([{"a": 1}]), pa.struct([("a", TIMESTAMP)])),
        (pa.array([NOON]), pa.int64()),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else str(value),
)
def test_types_that_do_not_go_together_are_refused(values: pa.Array, to: pa.DataType) -> None:
    """No row could fit: that is a fault of the declaration, not of the rows."""
    with pytest.raises(LookupError):
        cast(values, to)


@pytest.mark.parametrize(
    ("own", "table"),
    [
        (pa.uint8(), pa.int16()),
        (pa.uint64(), pa.decimal128(20, 0)),
        (pa.float16(), pa.float32()),
        (pa.timestamp("ns"), TIMESTAMP),
        (pa.timestamp("s", "Asia/Tokyo"), TIMESTAMP),
        (pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.large_list(pa.field("element", pa.uint8(), nullable=False)), pa.list_(pa.int16())),
        (pa.struct([pa.field("a", pa.int8(), nullable=False)]), pa.struct([("a", pa.int8())])),
        (pa.uuid(), pa.binary()),
        (pa.null(), pa.string()),
    ],
    ids=str,
)
def test_a_type_has_a_lossless_column(own: pa.DataType, table: pa.DataType) -> None:
    """The table of types in the module's docstring."""
    assert column_type(own, "c") == table


@pytest.mark.parametrize(
    "own",
    [pa.time64("us"), pa.duration("ns"), pa.decimal256(50, 2), pa.month_day_nano_interval(), pa.list_(pa.time32("s"))],
    ids=str,
)
def test_a_type_without_a_lossless_column_is_refused(own: pa.DataType) -> None:
    """The message names the column and says what to declare."""
    with pytest.raises(TypeRefused, match=r"column 'c(\[\])?'.*\n.*source_schema"):
        columns_of(pa.schema([("c", own)]))


def test_a_name_without_a_place_in_a_table_is_refused() -> None:
    """Blanks and commas cannot stand in the name of a Delta column."""
    with pytest.raises(TypeRefused, match="Adj Close"):
        columns_of(pa.schema([("Adj Close", pa.float64())]))


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (pa.int8(), pa.int64(), pa.int64()),
        (pa.int32(), pa.float64(), pa.float64()),
        (pa.int16(), pa.float32(), pa.float32()),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.int64(), pa.float64(), None),
        (pa.decimal128(5, 2), pa.int32(), pa.decimal128(12, 2)),
        (pa.decimal128(38, 0), pa.decimal128(5, 5), None),
        (pa.string(), pa.int32(), None),
        (pa.date32(), TIMESTAMP, None),
        (pa.list_(pa.int8()), pa.list_(pa.int16()), pa.list_(pa.int16())),
        (pa.struct([("a", pa.int8())]), pa.struct([("b", pa.string()), ("a", pa.int32())]),
         pa.struct([("a", pa.int32()), ("b", pa.string())])),
    ],
    ids=str,
)  # fmt: skip
def test_two_types_widen_without_loss_or_not_at_all(
    one: pa.DataType, other: pa.DataType, both: pa.DataType | None
) -> None:
    """Integers and floats meet only where every integer has its float."""
    assert widened(one, other) == both
    back = widened(other, one)
    assert (back is None) == (both is None)


def test_files_unite_by_name() -> None:
    """Columns of later files are added; upper and lower case are one name."""
    one, other = pa.schema([("a", pa.int8()), ("b", pa.string())]), pa.schema([("C", pa.bool_()), ("A", pa.int32())])
    expected = pa.schema([("a", pa.int32()), ("b", pa.string()), ("C", pa.bool_())])
    assert united([("1", one), ("2", other)], "t") == expected


def test_files_that_disagree_are_named() -> None:
    """File, column and both types stand in the message."""
    one, other = pa.schema([("a", pa.int8())]), pa.schema([("a", pa.string())])
    with pytest.raises(SourceUnreadable, match=r"'a' is TINYINT in 1\.csv and STRING in 2\.csv"):
        united([("1.csv", one), ("2.csv", other)], "t")


def test_one_file_with_a_name_twice_is_refused() -> None:
    """A table does not tell `a` from `A`."""
    with pytest.raises(SourceUnreadable, match="'a', 'A'"):
        united([("1.json", pa.schema([("a", pa.int8()), ("A", pa.int8())]))], "t")


@pytest.mark.parametrize(
    ("to", "value", "expected"),
    [
        (pa.int32(), 5, 5),
        (pa.int32(), "5", MISFIT),
        (pa.int32(), Number("1.0"), MISFIT),
        (pa.int32(), True, MISFIT),
        (pa.int32(), 2**31, MISFIT),
        (pa.string(), 5, "5"),
        (pa.string(), Number("1.50"), "1.50"),
        (pa.string(), True, "true"),
        (pa.string(), {"x": [1, Number("1.0"), None, "ü"]}, '{"x":[1,1.0,null,"ü"]}'),
        (pa.float64(), 5, 5.0),
        (pa.float64(), Number("1e400"), MISFIT),
        (pa.float64(), "Infinity", float("inf")),
        (pa.float64(), "5", MISFIT),
        (pa.float32(), Number("1e39"), MISFIT),
        (pa.decimal128(5, 2), Number("1.5"), Decimal("1.50")),
        (pa.decimal128(5, 2), "1.5", Decimal("1.50")),
        (pa.decimal128(5, 2), Number("1.239"), MISFIT),
        (pa.decimal128(5, 2), 12345, MISFIT),
        (pa.decimal128(5, 2), "NaN", MISFIT),
        (TIMESTAMP, 5, dt.datetime(1970, 1, 1, 0, 0, 5, tzinfo=dt.UTC)),
        (TIMESTAMP, "2024-07-01T12:00:00Z", dt.datetime(2024, 7, 1, 12, tzinfo=dt.UTC)),
        (TIMESTAMP, 10**15, MISFIT),
        (TIMESTAMP, Number("1.5"), MISFIT),
        (pa.date32(), "2024-07-01", dt.date(2024, 7, 1)),
        (pa.date32(), 5, MISFIT),
        (pa.bool_(), "true", MISFIT),
        (pa.bool_(), 1, MISFIT),
        (pa.binary(), "aGk=", b"hi"),
        (pa.binary(), "%", MISFIT),
        (pa.list_(pa.int32()), [1, None], [1, None]),
        (pa.list_(pa.int32()), [1, "x"], MISFIT),
        (pa.list_(pa.int32()), 1, MISFIT),
        (pa.struct([("x", pa.int32())]), {"x": 1, "y": 2}, {"x": 1}),
        (pa.struct([("x", pa.int32())]), {"x": "q"}, MISFIT),
        (pa.struct([("x", pa.int32())]), 5, MISFIT),
        (pa.map_(pa.string(), pa.int32()), {"k": 1}, [("k", 1)]),
        (pa.map_(pa.string(), pa.int32()), [1], MISFIT),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_json_value_fits_or_is_marked(to: pa.DataType, value: Any, expected: Any) -> None:
    """Alone, and beside a value of another kind (which takes the column the slow way)."""
    assert marked(*column([value], to, Patterns())) == [expected]
    assert marked(*column([value, None, ...], to, Patterns()))[0] == expected


def test_what_was_received_is_kept_as_text() -> None:
    """A text stands for itself, everything else as JSON or in its usual form; NULL stays NULL."""
    key = uuid.UUID(int=1)
    values = ["x", None, 5, Number("1.0"), [1], dt.date(2024, 1, 1), b"hi", key]
    assert [received(value) for value in values] == ["x", None, "5", "1.0", "[1]", "2024-01-01", "aGk=", str(key)]
