"""The written table of types: lossless both ways, or refused with a remedy."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakehouse_assets.errors import SqlError, TypeRefused
from lakehouse_assets.sql.types import arrow_schema, arrow_type, check_column, ddl, spark_type

PAIRS = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "DECIMAL(10,2)": pa.decimal128(10, 2),
    "STRING": pa.string(),
    "BINARY": pa.binary(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    "TIMESTAMP_NTZ": pa.timestamp("us"),
    "ARRAY<INT>": pa.list_(pa.int32()),
    "MAP<STRING, DOUBLE>": pa.map_(pa.string(), pa.float64()),
    "STRUCT<a: INT, b: ARRAY<STRING>>": pa.struct([("a", pa.int32()), ("b", pa.list_(pa.string()))]),
}


@pytest.mark.parametrize(("spark", "arrow"), PAIRS.items(), ids=list(PAIRS))
def test_a_type_goes_both_ways(spark, arrow):
    """Design §7.8: each Spark type has one Arrow type, and comes back from it."""
    assert arrow_type(spark) == arrow
    assert spark_type(arrow) == spark


@pytest.mark.parametrize(
    ("written", "arrow"),
    [
        ("byte", pa.int8()),
        ("short", pa.int16()),
        ("integer", pa.int32()),
        ("long", pa.int64()),
        ("real", pa.float32()),
        ("decimal", pa.decimal128(10, 0)),
        ("dec(5)", pa.decimal128(5, 0)),
        ("numeric( 12 , 4 )", pa.decimal128(12, 4)),
        ("timestamp_ltz", pa.timestamp("us", tz="UTC")),
        ("map<string,struct<x:int,y:array<date>>>", pa.map_(pa.string(), pa.struct([("x", pa.int32()), ("y", pa.list_(pa.date32()))]))),
        ("struct<>", pa.struct([])),
    ],
)  # fmt: skip
def test_other_spellings_are_read(written, arrow):
    """Spark's synonyms and its defaults mean what they mean in Spark."""
    assert arrow_type(written) == arrow


@pytest.mark.parametrize(
    ("arrow", "spark"),
    [
        (pa.uint8(), "SMALLINT"),
        (pa.uint16(), "INT"),
        (pa.uint32(), "BIGINT"),
        (pa.uint64(), "DECIMAL(20,0)"),
        (pa.float16(), "FLOAT"),
        (pa.large_string(), "STRING"),
        (pa.string_view(), "STRING"),
        (pa.large_binary(), "BINARY"),
        (pa.binary(4), "BINARY"),
        (pa.timestamp("s"), "TIMESTAMP_NTZ"),
        (pa.timestamp("ms", tz="Europe/Vienna"), "TIMESTAMP"),
        (pa.date64(), "DATE"),
        (pa.large_list(pa.int8()), "ARRAY<TINYINT>"),
        (pa.dictionary(pa.int8(), pa.string()), "STRING"),
    ],
)
def test_wider_types_hold_every_value(arrow, spark):
    """Design §7.8: unsigned and other Arrow types get the Spark type that holds all their values."""
    assert spark_type(arrow) == spark


@pytest.mark.parametrize(
    "arrow",
    [
        pa.timestamp("ns"),
        pa.time64("us"),
        pa.duration("s"),
        pa.null(),
        pa.decimal256(50, 2),
        pa.decimal128(5, -2),
        pa.month_day_nano_interval(),
        pa.list_(pa.timestamp("ns", tz="UTC")),
    ],
    ids=str,
)
def test_what_would_be_cut_is_refused(arrow):
    """Design §7.8: a type that Delta cannot hold without loss is refused, with what to do instead."""
    with pytest.raises(TypeRefused) as error:
        spark_type(arrow)
    assert error.value.fix


@pytest.mark.parametrize(
    "spark", ["VARCHAR(10)", "CHAR(1)", "VOID", "INTERVAL", "VARIANT", "DECIMAL(39,2)", "DECIMAL(3,4)"]
)
def test_spark_types_without_a_lossless_place_are_refused(spark):
    """Design §7.8: such a type is refused with its remedy."""
    with pytest.raises(TypeRefused) as error:
        arrow_type(spark)
    assert error.value.fix


def test_a_misspelt_type_names_the_legal_ones():
    """An unknown type lists the legal ones and points to the nearest."""
    with pytest.raises(TypeRefused, match="BIGINT") as error:
        arrow_schema("id BIGNT")
    assert "STRING" in error.value.choices


@pytest.mark.parametrize(
    "text", ["", "id", "id INT name STRING", "id INT,", "a ARRAY<INT", "a INT NOT", "a INT COMMENT", ", a INT"]
)
def test_broken_ddl_is_refused(text):
    """DDL that does not parse says what is missing."""
    with pytest.raises((SqlError, TypeRefused), match="."):
        arrow_schema(text)


def test_ddl_keeps_nullability_comments_and_odd_names():
    """NOT NULL, COMMENT and quoted names survive a round trip."""
    text = "id BIGINT NOT NULL COMMENT 'it\\'s', `ä-b` STRUCT<x: INT NOT NULL, `y z`: STRING>"
    with pytest.raises(TypeRefused, match="y z"):
        arrow_schema(text)
    schema = arrow_schema(text.replace("`y z`", "`y-z`"))
    assert schema.field("id").metadata == {b"comment": b"it's"}
    assert not schema.field("id").nullable
    assert not schema.field("ä-b").type.field("x").nullable
    assert arrow_schema(ddl(schema)).equals(schema, check_metadata=True)


def test_a_struct_around_the_columns_is_taken_off():
    """`STRUCT<…>` around the columns means the same, as Spark's schema strings have it."""
    assert arrow_schema("struct<id: int, name: string>") == arrow_schema("id INT, name STRING")


def test_a_column_given_twice_is_refused():
    """Spark does not tell upper and lower case apart, so `id` and `ID` are one name."""
    with pytest.raises(SqlError, match="twice"):
        arrow_schema("id INT, ID STRING")


@pytest.mark.parametrize("name", ["a b", "a,b", "a;b", "a{b", "a}b", "a(b", "a)b", "a\nb", "a\tb", "a=b", ""])
def test_names_that_delta_cannot_hold_are_refused(name):
    """Seed 002's `Adj Close`: such a column is refused, and the remedy is an alias."""
    with pytest.raises(TypeRefused, match="AS ") as error:
        check_column(name)
    assert "alias" in (error.value.fix or "")


def test_ddl_names_the_column_that_is_refused():
    """The column stands in the message."""
    with pytest.raises(TypeRefused, match="'when'"):
        ddl(pa.schema([("id", pa.int32()), ("when", pa.timestamp("ns"))]))
