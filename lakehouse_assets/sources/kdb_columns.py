"""The columns of rows that came from kdb+, brought to those of their part and to what the lake holds.

What belongs here: what follows from decoded tables alone. What does not: questions to a process (`kdb_table.py`), the
type map (`kdb_types.py`).
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.errors import SourceError, TypeRefused
from lakehouse_assets.sources.kdb_types import held, kind_of

ROW = pa.field("_row", pa.int64())
"""The number of a row within its part, from 0: what orders rows of one instant."""


def numbered(table: pa.Table, first: int) -> pa.Table:
    """The rows with their numbers from `first` on."""
    numbers = pa.array(np.arange(first, first + table.num_rows, dtype=np.int64))
    return table.replace_schema_metadata().append_column(ROW, numbers)


def untyped(arrow: pa.DataType) -> bool:
    """Whether a column of lists has no element that tells its type."""
    return untyped(arrow.value_type) if pa.types.is_list(arrow) else pa.types.is_null(arrow)


def fitted(table: pa.Table, expected: pa.Schema, where: str) -> pa.Table:
    """Decoded rows with the decoded columns of their part: lists without any element get the type of the others.

    Args:
        where: which rows these are, for the message.

    Raises:
        SourceError: they have other columns.
    """
    if table.column_names == expected.names:
        columns = [_told(column, of.type) for column, of in zip(table.columns, expected, strict=True)]
        if all(column.type == of.type for column, of in zip(columns, expected, strict=True)):
            return pa.Table.from_arrays(columns, schema=expected)
    one, other = ({f"{of.name} ({_kind(of)})" for of in columns} for columns in (expected, table.schema))
    raise SourceError(
        f"{where}: they have {', '.join(sorted(other - one)) or 'no other column'} where the others have "
        f"{', '.join(sorted(one - other)) or 'the same in another order'}",
        fix="see the table there: some of its rows have other types than others",
    )


def microseconds(table: pa.Table, first: int, where: str) -> pa.Table:
    """A decoded table as Delta holds it, without a column for nanoseconds.

    Args:
        first: the number of the first row, for the message.

    Raises:
        TypeRefused: a timestamp has parts of a microsecond.
    """
    columns, fields = [], []
    for of, column in zip(table.schema, table.columns, strict=True):
        both = held(pa.Table.from_arrays([column], schema=pa.schema([of])))
        if both.num_columns > 1:
            _refuse_parts(of.name, both.column(1), first, where)
        columns.append(both.column(0))
        fields.append(both.schema.field(0))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def moved(error: TypeRefused, first: int) -> TypeRefused:
    """The error of a row of a slice, with the number of the row in its part."""
    row = error.facts.get("row")
    if not first or row is None:
        return error
    problem = re.sub(rf"\brow {row} of\b", f"row {first + row} of", error.problem, count=1)
    return TypeRefused(problem, value=error.value, fix=error.fix, **{**error.facts, "row": first + row})


def _refuse_parts(name: str, nanoseconds: pa.ChunkedArray, first: int, where: str) -> None:
    rows, values = np.arange(len(nanoseconds)), nanoseconds.combine_chunks()
    while pa.types.is_list(values.type):
        rows, values = rows[pc.list_parent_indices(values).to_numpy()], values.flatten()
    odd = np.flatnonzero(values.fill_null(0).to_numpy() % 1000)
    if len(odd):
        row = first + int(rows[odd[0]])
        raise TypeRefused(
            f"{where}: row {row} of column {name!r} has parts of a microsecond",
            value=f"{values[int(odd[0])].as_py()} ns since 1970",
            fix="say kdb.nanoseconds: column, or round it at the source",
            column=name,
            row=row,
        )


def _told(column: pa.ChunkedArray, arrow: pa.DataType) -> pa.ChunkedArray:
    if not untyped(column.type):
        return column
    return pa.chunked_array([_empties(chunk, arrow) for chunk in column.chunks], arrow)


def _empties(array: pa.Array, arrow: pa.DataType) -> pa.Array:
    if pa.types.is_null(array.type):
        empty: object = [] if pa.types.is_list(arrow) else "" if pa.types.is_string(arrow) else None
        return pa.array([empty] * len(array), arrow)
    if not pa.types.is_list(arrow):
        return array
    return pa.ListArray.from_arrays(array.offsets, _empties(array.values, arrow.value_type))


def _kind(of: pa.Field) -> str:
    return kind_of(of) or str(of.type)
