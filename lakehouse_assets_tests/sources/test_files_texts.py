"""What a text must be to fit a column: nothing is rounded, cut or guessed, and what does not fit is marked."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.sources.files_texts import Patterns, cast_texts, pattern_of
from lakehouse_assets.sql.types import TIMESTAMP, TIMESTAMP_NTZ
from lakehouse_assets_tests.sources.files_making import naive

MISFIT = "misfit"
"""What stands for a text that does not fit."""


def cast(texts: list[str | None], to: pa.DataType, patterns: Patterns | None = None) -> list[Any]:
    """The values of texts, `MISFIT` where one does not fit."""
    values, failed = cast_texts(pa.array(texts, pa.string()), to, patterns or Patterns())
    assert values.type == to
    mask = [False] * len(texts) if failed is None else failed.to_pylist()
    assert all(value is None for value, bad in zip(values.to_pylist(), mask, strict=True) if bad)
    return [MISFIT if bad else value for value, bad in zip(values.to_pylist(), mask, strict=True)]


def utc(*parts: int) -> dt.datetime:
    """An instant."""
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("to", "text", "value"),
    [
        (pa.int32(), "5", 5),
        (pa.int32(), "+5", 5),
        (pa.int32(), "007", 7),
        (pa.int32(), "-0", 0),
        (pa.int32(), " 5", MISFIT),
        (pa.int32(), "5.0", MISFIT),
        (pa.int32(), "0x10", MISFIT),
        (pa.int32(), "1_0", MISFIT),
        (pa.int32(), "", MISFIT),
        (pa.int32(), "2147483648", MISFIT),
        (pa.int8(), "-128", -128),
        (pa.int8(), "128", MISFIT),
        (pa.int64(), "9223372036854775807", 2**63 - 1),
        (pa.int64(), "9223372036854775808", MISFIT),
        (pa.int64(), "99999999999999999999", MISFIT),
        (pa.float64(), "+1.5", 1.5),
        (pa.float64(), ".5", 0.5),
        (pa.float64(), "5.", 5.0),
        (pa.float64(), "1e3", 1000.0),
        (pa.float64(), "Infinity", float("inf")),
        (pa.float64(), "-Inf", float("-inf")),
        (pa.float64(), "1e400", MISFIT),
        (pa.float64(), "nan", MISFIT),
        (pa.float64(), "1,5", MISFIT),
        (pa.float64(), "1d", MISFIT),
        (pa.float32(), "1e39", MISFIT),
        (pa.decimal128(5, 2), "1.5", Decimal("1.50")),
        (pa.decimal128(5, 2), "1.500", Decimal("1.50")),
        (pa.decimal128(5, 2), "1e2", Decimal("100.00")),
        (pa.decimal128(5, 2), "1.239", MISFIT),
        (pa.decimal128(5, 2), "12345", MISFIT),
        (pa.decimal128(5, 2), "1,5", MISFIT),
        (pa.decimal128(2, 2), ".25", Decimal("0.25")),
        (pa.decimal128(2, 2), "1", MISFIT),
        (pa.decimal128(38, 0), "9" * 38, Decimal("9" * 38)),
        (pa.decimal128(38, 0), "9" * 39, MISFIT),
        (pa.bool_(), "TRUE", True),
        (pa.bool_(), "false", False),
        (pa.bool_(), "1", MISFIT),
        (pa.bool_(), "t", MISFIT),
        (pa.date32(), "2024-01-05", dt.date(2024, 1, 5)),
        (pa.date32(), "2024-1-5", dt.date(2024, 1, 5)),
        (pa.date32(), "0001-01-01", dt.date(1, 1, 1)),
        (pa.date32(), "2024-02-30", MISFIT),
        (pa.date32(), "2024", MISFIT),
        (pa.date32(), "2024-01-05T10:00", MISFIT),
        (pa.date32(), "20240105", MISFIT),
        (TIMESTAMP, "2024-01-05", utc(2024, 1, 5)),
        (TIMESTAMP, "2024-01-05 10", utc(2024, 1, 5, 10)),
        (TIMESTAMP, "2024-01-05T10:00", utc(2024, 1, 5, 10)),
        (TIMESTAMP, "2024-1-5 1:2:3", utc(2024, 1, 5, 1, 2, 3)),
        (TIMESTAMP, "2024-01-05T10:00:00.1Z", utc(2024, 1, 5, 10, 0, 0, 100_000)),
        (TIMESTAMP, "2024-01-05 10:00:00+02:00", utc(2024, 1, 5, 8)),
        (TIMESTAMP, "2024-01-05 10:00:00 -0230", utc(2024, 1, 5, 12, 30)),
        (TIMESTAMP, "2024-01-05 10:00:00.123456000", utc(2024, 1, 5, 10, 0, 0, 123_456)),
        (TIMESTAMP, "2024-01-05 10:00:00.123456789", MISFIT),
        (TIMESTAMP, "2024-01-05 24:00:00", MISFIT),
        (TIMESTAMP, "2024-02-30 10:00:00", MISFIT),
        (TIMESTAMP, "1704448800", MISFIT),
        (TIMESTAMP_NTZ, "2024-01-05 10:00:00", naive(2024, 1, 5, 10)),
        (TIMESTAMP_NTZ, "2024-01-05 10:00:00Z", MISFIT),
        (pa.string(), "", ""),
        (pa.binary(), "ü", "ü".encode()),
    ],
    ids=str,
)
def test_a_text_fits_or_is_marked(to: pa.DataType, text: str, value: Any) -> None:
    """The value stands beside NULL and another text of the same kind, so that one text does not judge the column."""
    assert cast([text, None], to) == [value, None]
    assert cast([text, "no value at all"], to)[0] == value


def test_nan_is_a_double() -> None:
    """NaN, spelled so, is a value."""
    (value,) = cast(["NaN"], pa.float64())
    assert value != value


def test_times_without_a_zone_are_read_in_the_zone_of_the_source() -> None:
    """An hour that comes twice is its first, a skipped one counts as if the clock ran on; a zone in the text wins."""
    texts = ["2024-07-01 12:00:00", "2024-10-27 02:30:00", "2024-03-31 02:30:00", "2024-07-01 12:00:00Z"]
    expected = [utc(2024, 7, 1, 10), utc(2024, 10, 27, 0, 30), utc(2024, 3, 31, 1, 30), utc(2024, 7, 1, 12)]
    assert cast(texts, TIMESTAMP, Patterns(zone="Europe/Vienna")) == expected
    assert cast(texts[:3], TIMESTAMP, Patterns(zone="Europe/Vienna")) == expected[:3]


def test_a_pattern_is_matched_exactly() -> None:
    """`timestampFormat` and `dateFormat` say how texts look; others do not fit."""
    patterns = Patterns.of("d.M.yyyy", "dd/MM/yyyy 'at' HH:mm:ss.SSSXXX", "UTC")
    assert cast(["5.1.2024", "05.01.2024", "2024-01-05", "31.2.2024"], pa.date32(), patterns) == [
        dt.date(2024, 1, 5), dt.date(2024, 1, 5), MISFIT, MISFIT,
    ]  # fmt: skip
    texts = ["05/01/2024 at 10:00:00.250+01:00", "5/1/2024 at 10:00:00.250+01:00", "2024-01-05 10:00:00"]
    assert cast(texts, TIMESTAMP, patterns) == [utc(2024, 1, 5, 9, 0, 0, 250_000), MISFIT, MISFIT]


@pytest.mark.parametrize("pattern", ["dd MMM yyyy", "yyyy-MM-dd hh:mm a", "yyyy-MM", "yyyy-MM-dd[ HH:mm]", "yy-MM-dd"])
def test_a_pattern_that_is_not_read_is_refused(pattern: str) -> None:
    """Letters without an exact meaning here are named, with the way around."""
    with pytest.raises(SettingsError, match="date pattern"):
        pattern_of(pattern)


def test_a_list_is_no_text() -> None:
    """A nested type cannot be read from a text."""
    with pytest.raises(LookupError):
        cast_texts(pa.array(["[1]"]), pa.list_(pa.int32()), Patterns())


def test_many_misfits_cost_little() -> None:
    """A column of which no text fits is found out at once, not text by text."""
    texts = pa.array([f"2024-{13 + at % 80}-01 10:00:00" for at in range(50_000)])
    values, failed = cast_texts(texts, TIMESTAMP, Patterns())
    assert values.null_count == 50_000
    assert failed is not None
    assert failed.true_count == 50_000


@settings(max_examples=100, deadline=None)
@given(st.lists(st.datetimes(naive(1, 1, 1), naive(9999, 12, 31)), min_size=1, max_size=5), st.booleans())
def test_every_time_in_iso_form_comes_back(times: list[dt.datetime], mixed: bool) -> None:
    """What `isoformat` writes is read to the same microsecond, by the quick way and by the other."""
    texts = [time.isoformat() for time in times] + (["2024-1-1"] if mixed else [])
    assert cast(texts, TIMESTAMP_NTZ)[: len(times)] == times
    assert cast(texts, TIMESTAMP)[: len(times)] == [time.replace(tzinfo=dt.UTC) for time in times]


@settings(max_examples=100, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**12), max_value=10**12))
def test_a_decimal_is_exact_or_marked(number: Decimal) -> None:
    """Whatever the scale asked for: the same number, or a misfit."""
    (value,) = cast([f"{number:f}"], pa.decimal128(12, 2))
    exact = number == number.quantize(Decimal("0.01")) and abs(number) < 10**10
    assert value == number if exact else value is MISFIT
