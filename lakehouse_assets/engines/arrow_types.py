"""Arrow types as Delta holds them, whoever gives the data.

What does not belong here: names of types in any SQL.
"""

from __future__ import annotations

import pyarrow as pa

from lakehouse_assets.errors import TypeRefused


def canonical(dtype: pa.DataType) -> pa.DataType:
    """The type that Delta holds for one that a library gives: one name for list elements, no views."""
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
    """Raise `TypeRefused` if values of a column would be cut: engines keep instants in microseconds."""
    for column in schema:
        if _cuts(column.type):
            raise TypeRefused(
                f"column {column.name!r} holds {column.type}, which would be cut to microseconds",
                fix="cast it to microseconds knowingly, or keep the nanoseconds as BIGINT",
            )


def _cuts(dtype: pa.DataType) -> bool:
    if pa.types.is_timestamp(dtype):
        return dtype.unit == "ns" and dtype.tz is not None
    return any(_cuts(dtype.field(index).type) for index in range(dtype.num_fields))
