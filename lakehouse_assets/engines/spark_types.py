"""Spark's types as Arrow's and back, through the JSON that Spark and Delta write schemas in.

What does not belong here: Spark's type names as people write them (`lakehouse_assets/sql/types.py`).
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from lakehouse_assets.errors import TypeRefused

_NAMES: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "byte": pa.int8(),
    "short": pa.int16(),
    "integer": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "timestamp_ntz": pa.timestamp("us"),
    "void": pa.null(),
}
_WRITTEN = {dtype: name for name, dtype in _NAMES.items()}


def schema_of(found: dict[str, Any]) -> pa.Schema:
    """The Arrow schema of a struct in Spark's JSON, nullable throughout, without metadata."""
    return pa.schema([(field["name"], arrow_of(field["type"])) for field in found["fields"]])


def arrow_of(kind: Any) -> pa.DataType:
    """The Arrow type of a type in Spark's JSON.

    Raises:
        TypeRefused: Delta holds no such type.
    """
    if isinstance(kind, dict):
        if kind["type"] == "struct":
            return pa.struct(list(schema_of(kind)))
        if kind["type"] == "array":
            return pa.list_(pa.field("element", arrow_of(kind["elementType"])))
        if kind["type"] == "map":
            return pa.map_(arrow_of(kind["keyType"]), arrow_of(kind["valueType"]))
    elif kind in _NAMES:
        return _NAMES[kind]
    elif match := re.fullmatch(r"decimal\((\d+),\s*(-?\d+)\)", kind):
        return pa.decimal128(int(match[1]), int(match[2]))
    raise TypeRefused("Delta holds no column of this type", value=str(kind), fix="cast it to a type that Delta holds")


def struct_of(schema: pa.Schema) -> dict[str, Any]:
    """An Arrow schema in Spark's JSON, with its comments."""
    return {"type": "struct", "fields": [_field(field) for field in schema]}


def _field(field: pa.Field) -> dict[str, Any]:
    comment = (field.metadata or {}).get(b"comment")
    metadata = {"comment": comment.decode()} if comment else {}
    return {"name": field.name, "type": _written(field.type), "nullable": field.nullable, "metadata": metadata}


def _written(dtype: pa.DataType) -> Any:
    if dtype in _WRITTEN:
        return _WRITTEN[dtype]
    if pa.types.is_decimal(dtype):
        return f"decimal({dtype.precision},{dtype.scale})"
    if pa.types.is_list(dtype):
        return {"type": "array", "elementType": _written(dtype.value_type), "containsNull": True}
    if pa.types.is_map(dtype):
        kinds = {"keyType": _written(dtype.key_type), "valueType": _written(dtype.item_type)}
        return {"type": "map", **kinds, "valueContainsNull": True}
    if pa.types.is_struct(dtype):
        return struct_of(pa.schema(list(dtype)))
    raise TypeRefused(f"Delta holds no {dtype}", fix="cast the column to a type that Delta holds")
