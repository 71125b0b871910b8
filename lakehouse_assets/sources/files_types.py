"""The types of files: what a Parquet, Avro or ORC column becomes, and how the columns of several files unite.

What belongs here: types only. What does not: values (`files_casts.py`).

    file's type                        column
    int8 … int64, float, double, bool, string, binary, date, decimal(p ≤ 38)   the same
    uint8, uint16, uint32              smallint, int, bigint
    uint64                             decimal(20,0)
    float16                            float
    timestamp with a zone              timestamp (the instant; the zone's name is dropped)
    timestamp without a zone           timestamp, read in the source's time zone (TIMESTAMP_NTZ where declared so)
    timestamp in nanoseconds           timestamp; a value with a part below the microsecond does not fit
    dictionary, run-end, views, large  their plain type
    uuid and other extensions          their storage
    list, map, struct                  the same, of columns
    time, duration, interval, union, decimal with more than 38 digits or a negative scale   refused
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
from pyarrow import types as pat

from lakehouse_assets.errors import SourceUnreadable, TypeRefused
from lakehouse_assets.sql.types import TIMESTAMP, arrow_type, check_column, spark_type

_INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
_DIGITS = {pa.int8(): 3, pa.int16(): 5, pa.int32(): 10, pa.int64(): 19}


def column_type(dt: pa.DataType, column: str) -> pa.DataType:
    """The type of a column that holds every value of a file's type.

    Raises:
        TypeRefused: there is none; the message names the column.
    """
    if isinstance(dt, pa.BaseExtensionType):
        return column_type(dt.storage_type, column)
    if pat.is_run_end_encoded(dt) or pat.is_dictionary(dt):
        return column_type(dt.value_type, column)
    if pat.is_null(dt):
        return pa.string()
    if pat.is_timestamp(dt):
        return TIMESTAMP
    if is_listing(dt):
        return pa.list_(column_type(dt.value_type, f"{column}[]"))
    if pat.is_map(dt):
        return pa.map_(column_type(dt.key_type, f"{column}.key"), column_type(dt.item_type, f"{column}.value"))
    if pat.is_struct(dt):
        return pa.struct([pa.field(check_name(f.name), column_type(f.type, f"{column}.{f.name}")) for f in dt.fields])
    try:
        return arrow_type(spark_type(dt))
    except TypeRefused as error:
        raise TypeRefused(
            f"column {column!r}: {error.problem}",
            value=str(dt),
            fix=f"declare the columns in source_schema, {column!r} among them: {_declaration(dt)}",
        ) from None


def columns_of(schema: pa.Schema) -> pa.Schema:
    """The columns that hold a file's schema.

    Raises:
        TypeRefused: a type or a name has no place in Delta.
    """
    return pa.schema([pa.field(check_name(f.name), column_type(f.type, f.name)) for f in schema])


def check_name(name: str) -> str:
    """The name of a column of a file, if a table's column can have it.

    Raises:
        TypeRefused: it cannot.
    """
    try:
        return check_column(name)
    except TypeRefused as error:
        raise TypeRefused(
            error.problem,
            value=name,
            fix="declare the columns in source_schema under names that a table can have: a column of another name is "
            "left out (csv with enforceSchema: true takes the columns by their place)",
        ) from None


def is_listing(dt: pa.DataType) -> bool:
    """Whether a value is a list, however it is laid out."""
    views = pat.is_list_view(dt) or pat.is_large_list_view(dt)
    return pat.is_list(dt) or pat.is_large_list(dt) or pat.is_fixed_size_list(dt) or views


def declared_type(dt: pa.DataType) -> pa.DataType:
    """A declared type with all its nested parts nullable, as rows of files have them."""
    if pat.is_list(dt):
        return pa.list_(declared_type(dt.value_type))
    if pat.is_map(dt):
        return pa.map_(declared_type(dt.key_type), declared_type(dt.item_type))
    if pat.is_struct(dt):
        return pa.struct([pa.field(f.name, declared_type(f.type)) for f in dt.fields])
    return dt


def united(schemas: Iterable[tuple[str, pa.Schema]], who: str) -> pa.Schema:
    """One schema for the columns of several files: by name (upper and lower case are the same), each type widened.

    Args:
        schemas: a file's name and its columns (`columns_of`), in the order in which they are read.
        who: the entity, for messages.

    Raises:
        SourceUnreadable: two files, or one file twice, have a column with types that no type holds.
    """
    found: dict[str, tuple[pa.Field, str]] = {}
    for file, schema in schemas:
        for column in schema:
            key = column.name.lower()
            if sum(name.lower() == key for name in schema.names) > 1:
                raise _ambiguous(who, file, column.name, schema)
            first, where = found.setdefault(key, (column, file))
            both = widened(first.type, column.type)
            if both is None:
                raise SourceUnreadable(
                    f"{who}: the column {first.name!r} is {spark_type(first.type)} in {where} and "
                    f"{spark_type(column.type)} in {file}; no type holds both",
                    fix="mend one of the files, keep them in two directories, or declare source_schema "
                    "(rows that do not fit it go to quarantine)",
                    file=file,
                    column=first.name,
                )
            found[key] = (pa.field(first.name, both), where)
    return pa.schema([column for column, _ in found.values()])


def _ambiguous(who: str, file: str, column: str, schema: pa.Schema) -> SourceUnreadable:
    twins = ", ".join(repr(name) for name in schema.names if name.lower() == column.lower())
    return SourceUnreadable(
        f"{who}: {file} has several columns with one name: {twins} (a table does not tell upper from lower case)",
        fix="rename one of them, or declare in source_schema the one that is meant",
        file=file,
    )


def widened(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds all values of two column types; `None` where there is none."""
    if one == other:
        return one
    if one in _INTEGERS and other in _INTEGERS:
        return max(one, other, key=_INTEGERS.index)
    if pat.is_struct(one) and pat.is_struct(other):
        return _widened_struct(one, other)
    if pat.is_list(one) and pat.is_list(other):
        value = widened(one.value_type, other.value_type)
        return value and pa.list_(value)
    if pat.is_map(one) and pat.is_map(other):
        key, item = widened(one.key_type, other.key_type), widened(one.item_type, other.item_type)
        return pa.map_(key, item) if key and item else None
    return _widened_number(one, other)


def _widened_number(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    pair = {one, other}
    if pat.is_floating(one) or pat.is_floating(other):
        narrow = {pa.int8(), pa.int16(), pa.float32()}
        return pa.float32() if pair <= narrow else pa.float64() if pair <= narrow | {pa.int32(), pa.float64()} else None
    if not all(dt in _INTEGERS or pat.is_decimal(dt) for dt in pair):
        return None
    whole = max(_DIGITS[dt] if dt in _INTEGERS else dt.precision - dt.scale for dt in pair)
    scale = max(0 if dt in _INTEGERS else dt.scale for dt in pair)
    return pa.decimal128(whole + scale, scale) if whole + scale <= 38 else None


def _widened_struct(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    fields = {f.name: f.type for f in one.fields}
    for f in other.fields:
        both = widened(fields.get(f.name, f.type), f.type)
        if both is None:
            return None
        fields[f.name] = both
    return pa.struct(list(fields.items()))


def _declaration(dt: pa.DataType) -> str:
    if pat.is_time(dt):
        return f"as STRING (the time as text) or BIGINT (the count of its unit, {dt.unit})"
    if pat.is_duration(dt):
        return f"as BIGINT (the count of its unit, {dt.unit})"
    if pat.is_decimal(dt):
        return "as STRING (its digits as text)"
    return "leave it out there"
