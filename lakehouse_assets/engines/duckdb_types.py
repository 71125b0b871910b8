"""Arrow types as DuckDB names them, and DuckDB's Arrow types as Delta holds them.

What does not belong here: Spark's type names (`lakehouse_assets/sql/types.py`).
"""

from __future__ import annotations

import pyarrow as pa

from lakehouse_assets.errors import TypeRefused

_NAMES = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.date32(): "DATE",
    pa.timestamp("us"): "TIMESTAMP",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
}


def duckdb_type(dtype: pa.DataType) -> str:
    """The DuckDB type of a column that Delta holds as `dtype`.

    Raises:
        TypeRefused: Delta holds no such type.
    """
    dtype = canonical(dtype)
    if dtype in _NAMES:
        return _NAMES[dtype]
    if pa.types.is_decimal(dtype):
        return f"DECIMAL({dtype.precision}, {dtype.scale})"
    if pa.types.is_list(dtype):
        return f"{duckdb_type(dtype.value_type)}[]"
    if pa.types.is_map(dtype):
        return f"MAP({duckdb_type(dtype.key_type)}, {duckdb_type(dtype.item_type)})"
    if pa.types.is_struct(dtype):
        return "STRUCT(" + ", ".join(f"{quoted(f.name)} {duckdb_type(f.type)}" for f in dtype) + ")"
    raise TypeRefused(f"Delta holds no {dtype}", fix="cast the column to a type that Delta holds")


def canonical(dtype: pa.DataType) -> pa.DataType:
    """The type that Delta holds for a type that DuckDB or delta-rs gives: one name for list elements, no views."""
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return pa.list_(pa.field("element", canonical(dtype.value_type)))
    if pa.types.is_struct(dtype):
        return pa.struct([pa.field(f.name, canonical(f.type)) for f in dtype])
    if pa.types.is_map(dtype):
        return pa.map_(canonical(dtype.key_type), canonical(dtype.item_type))
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_large_binary(dtype) or pa.types.is_binary_view(dtype):
        return pa.binary()
    if pa.types.is_dictionary(dtype):
        return canonical(dtype.value_type)
    if pa.types.is_timestamp(dtype) and dtype.tz is not None and dtype.unit != "ns":
        return pa.timestamp("us", tz="UTC")
    return dtype


def check_readable(schema: pa.Schema) -> None:
    """Raise `TypeRefused` if DuckDB would cut values of a column: it keeps instants in microseconds."""
    for column in schema:
        if _cuts(column.type):
            raise TypeRefused(
                f"column {column.name!r} holds {column.type}, which the embedded engine would cut to microseconds",
                fix="cast it to microseconds knowingly, or keep the nanoseconds as BIGINT",
            )


def _cuts(dtype: pa.DataType) -> bool:
    if pa.types.is_timestamp(dtype):
        return dtype.unit == "ns" and dtype.tz is not None
    return any(_cuts(dtype.field(index).type) for index in range(dtype.num_fields))


def quoted(name: str) -> str:
    """An identifier of DuckDB."""
    return '"' + name.replace('"', '""') + '"'
