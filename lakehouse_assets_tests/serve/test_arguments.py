"""Keys and sequences as people type them."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.serve.arguments import key_of, moment_of, typed
from lakehouse_assets.sql.types import TIMESTAMP, TIMESTAMP_NTZ

NOON = dt.datetime(2025, 5, 1, 12)
ONE = pa.schema([("id", pa.int64())])
NAME = pa.schema([("name", pa.string())])
TWO = pa.schema([("market", pa.string()), ("n", pa.int32())])
PAIR = pa.struct([("day", pa.date32()), ("n", pa.int64())])


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("-42", pa.int64(), -42),
        ("4.20", pa.decimal128(10, 2), Decimal("4.20")),
        ("0.5", pa.float64(), 0.5),
        (" a=b,c ", pa.string(), " a=b,c "),
        ("true", pa.bool_(), True),
        ("2025-05-01", pa.date32(), dt.date(2025, 5, 1)),
        ("2025-05-01T12:00:00Z", TIMESTAMP, NOON.replace(tzinfo=dt.UTC)),
        ("2025-05-01 12:00", TIMESTAMP, NOON.replace(tzinfo=dt.UTC)),
        ("2025-05-01T14:00:00+02:00", TIMESTAMP, NOON.replace(tzinfo=dt.UTC)),
        ("2025-05-01", TIMESTAMP, dt.datetime(2025, 5, 1, tzinfo=dt.UTC)),
        ("2025-05-01T12:00", TIMESTAMP_NTZ, NOON),
        ("AAE=", pa.binary(), b"\x00\x01"),
    ],
)
def test_a_text_is_read_by_the_type_of_its_column(text: str, kind: pa.DataType, value: object) -> None:
    """Numbers, texts as they are, ISO dates, ISO times (without a zone: UTC), base64."""
    assert typed(text, kind, "x") == value


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("4.0", pa.int64(), "x is BIGINT"),
        ("1_000", pa.int64(), "such as 42"),
        ("300", pa.int8(), "x is TINYINT"),
        ("4.205", pa.decimal128(10, 2), r"x is DECIMAL\(10,2\)"),
        ("NaN", pa.decimal128(10, 2), "4.20"),
        ("yes", pa.bool_(), "true or false"),
        ("01.05.2025", pa.date32(), "2025-05-01"),
        ("2025-05-01T12:00:00Z", pa.date32(), "ISO date"),
        ("noon", TIMESTAMP, "2025-05-01T12:00:00Z"),
        ("2025-05-01T12:00:00Z", TIMESTAMP_NTZ, "without a zone"),
        ("x", pa.list_(pa.string()), "cannot be given as text"),
    ],
)
def test_a_text_that_is_no_such_value_is_refused(text: str, kind: pa.DataType, said: str) -> None:
    """The error names the type, the text and how to write it; nothing is rounded or cut."""
    with pytest.raises(SettingsError, match=said) as raised:
        typed(text, kind, "x")
    assert raised.value.value == text


@pytest.mark.parametrize(
    ("text", "columns", "key"),
    [
        ("17", ONE, {"id": 17}),
        ("id=17", ONE, {"id": 17}),
        ('{"id": 17}', ONE, {"id": 17}),
        ('{"id": null}', ONE, {"id": None}),
        ("a,b=c", NAME, {"name": "a,b=c"}),
        ("{", NAME, {"name": "{"}),
        ('{"name": "name=x"}', NAME, {"name": "name=x"}),
        ("market=XETRA,n=2", TWO, {"market": "XETRA", "n": 2}),
        ("n=2, market=X,Y=Z", TWO, {"market": "X,Y=Z", "n": 2}),
        ('{"market": "X", "n": 2}', TWO, {"market": "X", "n": 2}),
    ],
)
def test_keys(text: str, columns: pa.Schema, key: dict[str, Any]) -> None:
    """The value alone, `a=1,b=x` in any order (values may hold commas and "="), or a JSON object; NULL in JSON."""
    assert key_of(text, columns) == key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("XETRA", r"2 columns(.|\n)*market=…,n=…"),
        ("market=XETRA", "lacks n"),
        ('{"market": "X", "n": 2, "m": 1}', r"no part 'm'(.|\n)*legal: market, n"),
        ("market=X,n=two", "'n' of the key is INT"),
        ('{"market": [1], "n": 2}', "one value"),
    ],
)
def test_a_key_that_is_not_whole_is_refused(text: str, said: str) -> None:
    """The columns that a key has are named."""
    with pytest.raises(SettingsError, match=said):
        key_of(text, TWO)


@pytest.mark.parametrize("text", ["2025-05-01,3", "2025-05-01, 3", '{"n": 3, "day": "2025-05-01"}'])
def test_a_sequence_of_several_columns(text: str) -> None:
    """The values with commas between, or a JSON object; in the order of the columns."""
    assert moment_of(text, PAIR, "the sequence") == [dt.date(2025, 5, 1), 3]


def test_a_part_of_a_sequence_may_be_null() -> None:
    """In a JSON object, as the first of its values."""
    assert moment_of('{"day": "2025-05-01", "n": null}', PAIR, "the sequence") == [dt.date(2025, 5, 1), None]


@pytest.mark.parametrize("text", ["2025-05-01", "2025-05-01,3,4", '{"day": "2025-05-01"}', "x,3"])
def test_a_sequence_that_is_not_whole_is_refused(text: str) -> None:
    """All parts are asked for, and named."""
    with pytest.raises(SettingsError, match="day"):
        moment_of(text, PAIR, "the sequence")
