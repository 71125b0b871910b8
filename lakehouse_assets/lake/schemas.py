"""Which columns a table may have, and whether rows fit them: nothing is ever converted silently.

What belongs here: schemas, and record batches brought into a table's order. What does not: files and commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.errors import FeatureRefused, SchemaDrift, TypeRefused
from lakehouse_assets.lake.storage import check_writable, is_local, normalize
from lakehouse_assets.lake.values import TableSpec
from lakehouse_assets.sql.types import arrow_type, check_column, spark_type

PARTITION_TYPES = ("date", "integer", "string", "boolean")
NO_PARTITION_VALUE = ("", "__HIVE_DEFAULT_PARTITION__")
"""Texts that a partition column cannot hold: Delta reads them back as NULL."""


def check_spec(schema: pa.Schema, partition_by: Sequence[str], uri: str) -> None:
    """Raise `TypeRefused` unless Delta holds these columns exactly, and can partition by those it is to be split by."""
    check_columns(schema, uri)
    if gone := [name for name in partition_by if name not in schema.names]:
        raise SchemaDrift(
            f"{uri} is partitioned by {', '.join(gone)}, which is not among its columns",
            choices=schema.names,
            fix="keep the column, or make the table under another name with other partition_cols",
        )
    for name in partition_by:
        dtype = schema.field(name).type
        exact = (pa.types.is_integer, pa.types.is_date32, pa.types.is_string, pa.types.is_boolean)
        if not any(matches(dtype) for matches in exact):
            raise TypeRefused(
                f"{uri}: the partition column {name!r} is of type {dtype}, whose values have no exact text",
                choices=PARTITION_TYPES,
                fix="partition by a date or an integer made from it",
            )


def check_columns(columns: Iterable[pa.Field], where: str) -> None:
    """Raise `TypeRefused` unless Delta holds each column of the table or struct at `where` as it is, under its name."""
    seen: dict[str, str] = {}
    for column in columns:
        check_column(column.name)
        if (other := seen.get(column.name.lower())) is not None:
            raise TypeRefused(
                f"{where}: two columns are named {other!r} and {column.name!r}, which Delta takes for one",
                fix="give one of them an alias",
            )
        seen[column.name.lower()] = column.name
        _check_type(column.type, f"{where}: column {column.name!r}")


def _check_type(dtype: pa.DataType, where: str) -> None:
    if pa.types.is_struct(dtype):
        if not dtype.num_fields:
            raise TypeRefused(f"{where} is a struct without fields, which no Parquet file holds", fix="leave it out")
        check_columns(list(dtype), where)
    elif pa.types.is_list(dtype):
        _check_type(dtype.value_type, where)
    elif pa.types.is_map(dtype):
        _check_type(dtype.key_type, where)
        _check_type(dtype.item_type, where)
    else:
        _check_flat(dtype, where)


def _check_flat(dtype: pa.DataType, where: str) -> None:
    try:
        spark = spark_type(dtype)
    except TypeRefused as error:
        raise TypeRefused(f"{where}: {error.problem}", value=error.value, fix=error.fix) from None
    if arrow_type(spark) != dtype:
        raise TypeRefused(f"{where}: Delta holds no {dtype}", fix=f"cast it: CAST(… AS {spark})")


def plain(schema: pa.Schema) -> pa.Schema:
    """`schema` with nothing but names, types, nullability and comments: no field ids of a file that it came from."""
    return pa.schema([_plain(field) for field in schema])


def _plain(field: pa.Field) -> pa.Field:
    comment = (field.metadata or {}).get(b"comment")
    metadata = {b"comment": comment} if comment else None
    return pa.field(field.name, _plain_type(field.type), nullable=field.nullable, metadata=metadata)


def _plain_type(dtype: pa.DataType) -> pa.DataType:
    if pa.types.is_list(dtype):
        return pa.list_(_plain(dtype.value_field).with_name("element"))
    if pa.types.is_map(dtype):
        return pa.map_(_plain(dtype.key_field), _plain(dtype.item_field))
    if pa.types.is_struct(dtype):
        return pa.struct([_plain(field) for field in dtype])
    return dtype


def fit(batch: pa.RecordBatch, schema: pa.Schema, partition_by: Sequence[str], uri: str) -> pa.RecordBatch:
    """`batch` in the order of the table's columns `schema`.

    Raises:
        SchemaDrift: a column is missing, too many or of another type, or holds NULL where the table holds none.
        TypeRefused: a partition column holds a text that Delta reads back as NULL.
    """
    compare(batch.schema, schema, uri)
    for column in schema:
        if not column.nullable and batch.column(column.name).null_count:
            raise SchemaDrift(
                f"the rows for {uri} hold NULL in the column {column.name!r}, which is NOT NULL there",
                fix="filter these rows out, or make the column nullable",
            )
    for name in partition_by:
        if pa.types.is_string(schema.field(name).type):
            found = pc.is_in(batch.column(name), value_set=pa.array(NO_PARTITION_VALUE))
            if pc.any(found).as_py():
                refuse_partition_text(name)
    return conform(batch, schema)


def refuse_partition_text(name: str) -> None:
    """Raise `TypeRefused` for a partition value that Delta cannot hold."""
    raise TypeRefused(
        f"the partition column {name!r} holds an empty string (or {NO_PARTITION_VALUE[1]}), which Delta reads back "
        "as NULL",
        fix=f"give it another text, or NULL: nullif({name}, '')",
    )


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """`batch` with the columns of `schema`, which have equal types but for the names inside lists and maps."""
    columns = []
    for field in schema:
        column = batch.column(field.name)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def same_type(left: pa.DataType, right: pa.DataType) -> bool:
    """Whether two types are equal but for nullability and the names inside lists and maps."""
    if pa.types.is_list(left) and pa.types.is_list(right):
        return same_type(left.value_type, right.value_type)
    if pa.types.is_map(left) and pa.types.is_map(right):
        return same_type(left.key_type, right.key_type) and same_type(left.item_type, right.item_type)
    if pa.types.is_struct(left) and pa.types.is_struct(right):
        return [f.name for f in left] == [f.name for f in right] and all(
            same_type(a.type, b.type) for a, b in zip(left, right, strict=True)
        )
    return bool(left.equals(right))


def compare(found: pa.Schema, expected: pa.Schema, uri: str) -> None:
    """Raise `SchemaDrift` unless both schemas have the same columns, in any order, of the same types."""
    names = found.names
    missing = [name for name in expected.names if name not in names]
    extra = [name for name in names if name not in expected.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    other = [
        f"{field.name} is {found.field(field.name).type}, not {field.type}"
        for field in expected
        if names.count(field.name) == 1 and not same_type(found.field(field.name).type, field.type)
    ]
    faults = [
        *([f"missing: {', '.join(missing)}"] if missing else []),
        *([f"not in the table: {', '.join(extra)}"] if extra else []),
        *([f"given twice: {', '.join(twice)}"] if twice else []),
        *other,
    ]
    if faults:
        raise SchemaDrift(
            f"the rows for {uri} do not have the table's columns: {'; '.join(faults)}",
            fix="cast or alias the columns in select_expr, or rebuild the table: lakehouse run --full-refresh TABLE",
        )


def with_columns(schema: pa.Schema, fields: Iterable[pa.Field]) -> pa.Schema:
    """`schema` with nullable columns added at the end, or with structs that gained fields in their places."""
    given = {field.name: field.with_nullable(True) for field in fields}
    return pa.schema([*(given.pop(f.name, f) for f in schema), *given.values()])


def widens(old: pa.Schema, new: pa.Schema) -> bool:
    """Whether every column of `old` is in `new` with the same type: columns were only added."""
    return all(f.name in new.names and same_type(f.type, new.field(f.name).type) for f in old)


def holds(wide: pa.DataType, narrow: pa.DataType) -> bool:
    """Whether a column of type `wide` takes every value of type `narrow` as it is, by a cast that both engines have.

    Integers into wider integers, decimals and floats, decimals into decimals with more digits on both sides, FLOAT into
    DOUBLE; structs field by field, whatever their order and case. Lists and maps only as they are.
    """
    if same_type(wide, narrow) or pa.types.is_null(narrow):
        return True
    if pa.types.is_struct(wide) and pa.types.is_struct(narrow):
        fields = {f.name.lower(): f.type for f in wide}
        return all(f.name.lower() in fields and holds(fields[f.name.lower()], f.type) for f in narrow)
    if pa.types.is_integer(narrow):
        return _holds_integers(wide, narrow.bit_width)
    if pa.types.is_decimal(narrow) and pa.types.is_decimal(wide):
        return wide.scale >= narrow.scale and wide.precision - wide.scale >= narrow.precision - narrow.scale
    return bool(pa.types.is_float32(narrow) and pa.types.is_float64(wide))


def _holds_integers(wide: pa.DataType, bits: int) -> bool:
    if pa.types.is_decimal(wide):
        return bool(wide.precision - wide.scale >= len(str(2 ** (bits - 1))))
    if pa.types.is_floating(wide):
        return bits * 2 <= wide.bit_width
    return bool(pa.types.is_integer(wide) and wide.bit_width >= bits)


def checked(uri: str, spec: TableSpec) -> str:
    """Where a table of this kind can be made, in one spelling.

    Raises:
        TypeRefused: Delta cannot hold its columns, or cannot be partitioned by them.
        FeatureRefused: with these properties the numbers, or the rows, could not be relied on.
        RootUnusable: nothing can be written there.
    """
    uri = normalize(uri)
    check_spec(spec.schema, spec.partition_by, uri)
    for name in spec.properties:
        if name == "delta.setTransactionRetentionDuration":
            raise FeatureRefused(f"{uri}: {name} lets the numbers of the batches expire", fix="leave it out")
        if name.startswith("delta.constraints."):
            raise FeatureRefused(
                f"{uri}: {name} would not be checked: rows are staged as files", fix="declare it under expectations"
            )
    if is_local(uri):
        check_writable(uri)
    return uri
