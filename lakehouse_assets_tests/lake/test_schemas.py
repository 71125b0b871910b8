"""Tests of columns: which a table may have, and which rows fit."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakehouse_assets.errors import SchemaDrift, TypeRefused
from lakehouse_assets.lake.schemas import check_spec, compare, conform, fit, same_type, widens

KV = pa.schema([("k", pa.int64()), ("v", pa.string())])


def test_every_difference_is_named_at_once():
    """Missing, extra, double and other columns stand in one message, with what to do."""
    expected = pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.date32())])
    found = pa.schema([("b", pa.int32()), ("c", pa.date32()), ("c", pa.date32()), ("x", pa.int64())])
    with pytest.raises(SchemaDrift) as caught:
        compare(found, expected, "/lake/t")
    message = str(caught.value)
    for part in (
        "/lake/t",
        "missing: a",
        "not in the table: x",
        "given twice: c",
        "b is int32, not string",
        "select_expr",
    ):
        assert part in message


def test_columns_in_another_order_are_equal():
    """Order, nullability and comments are no difference."""
    turned = pa.schema(
        [pa.field("v", pa.string(), metadata={"comment": "x"}), pa.field("k", pa.int64(), nullable=False)]
    )
    compare(turned, KV, "/lake/t")
    batch = pa.RecordBatch.from_pylist([{"v": "a", "k": 1}], schema=turned)
    assert fit(batch, KV, (), "/lake/t").schema.equals(KV)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (pa.list_(pa.int64()), pa.list_(pa.field("element", pa.int64())), True),
        (pa.list_(pa.int64()), pa.list_(pa.int32()), False),
        (pa.map_(pa.string(), pa.list_(pa.int8())), pa.map_(pa.string(), pa.list_(pa.field("x", pa.int8()))), True),
        (pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.int16()), False),
        (pa.struct([("a", pa.int8())]), pa.struct([pa.field("a", pa.int8(), nullable=False)]), True),
        (pa.struct([("a", pa.int8())]), pa.struct([("b", pa.int8())]), False),
        (pa.struct([("a", pa.int8()), ("b", pa.int8())]), pa.struct([("b", pa.int8()), ("a", pa.int8())]), False),
        (pa.timestamp("us"), pa.timestamp("us", tz="UTC"), False),
        (pa.decimal128(9, 2), pa.decimal128(10, 2), False),
        (pa.string(), pa.large_string(), False),
    ],
)
def test_types_are_equal_but_for_the_names_inside(left, right, same):
    """Libraries name the elements of lists and maps differently; anything else is another type."""
    assert same_type(left, right) is same


def test_names_inside_lists_become_those_of_the_table():
    """Values stay."""
    schema = pa.schema([("l", pa.list_(pa.field("element", pa.map_(pa.string(), pa.struct([("x", pa.int64())])))))])
    other = pa.schema([("l", pa.list_(pa.field("item", pa.map_(pa.string(), pa.struct([("x", pa.int64())])))))])
    batch = pa.RecordBatch.from_pylist([{"l": [[("a", {"x": 1})], None]}, {"l": None}], schema=other)
    assert conform(batch, schema).schema.equals(schema)
    assert conform(batch, schema).to_pylist() == batch.to_pylist()


def test_null_in_a_column_without_null_is_refused():
    """The column is named."""
    schema = pa.schema([pa.field("k", pa.int64(), nullable=False)])
    batch = pa.RecordBatch.from_pylist([{"k": None}], schema=pa.schema([("k", pa.int64())]))
    with pytest.raises(SchemaDrift, match="'k', which is NOT NULL"):
        fit(batch, schema, (), "/lake/t")


@pytest.mark.parametrize("text", ["", "__HIVE_DEFAULT_PARTITION__"])
def test_partition_texts_that_become_null_are_refused(text):
    """Only in partition columns."""
    batch = pa.RecordBatch.from_pylist([{"k": 1, "v": "ok"}, {"k": 2, "v": text}], schema=KV)
    with pytest.raises(TypeRefused, match="'v'"):
        fit(batch, KV, ("v",), "/lake/t")
    assert fit(batch, KV, ("k",), "/lake/t").num_rows == 2


def test_a_partition_column_must_be_there():
    """The message lists the columns."""
    with pytest.raises(SchemaDrift, match="partitioned by d.*legal: k, v".replace(".*", r"[\s\S]*")):
        check_spec(KV, ("d",), "/lake/t")


@pytest.mark.parametrize(
    ("new", "wider"),
    [
        (KV, True),
        (pa.schema([*KV, ("w", pa.int8())]), True),
        (pa.schema([("v", pa.string()), ("k", pa.int64())]), True),
        (pa.schema([("k", pa.int64())]), False),
        (pa.schema([("k", pa.int32()), ("v", pa.string())]), False),
    ],
)
def test_a_schema_is_wider_or_another(new, wider):
    """Columns may be added; one that went or changed makes another table of it."""
    assert widens(KV, new) is wider
