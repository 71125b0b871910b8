"""Arrow types as DuckDB names them.

What does not belong here: Spark's type names (`lakehouse_assets/sql/types.py`).
"""

from __future__ import annotations

import pyarrow as pa

from lakehouse_assets.engines.arrow_types import canonical
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


def quoted(name: str) -> str:
    """An identifier of DuckDB."""
    return '"' + name.replace('"', '""') + '"'
