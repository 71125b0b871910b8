"""The one table of kdb's types: what each is called, how q writes it, and what Arrow and Delta hold instead.

What belongs here: the table, what follows from it (fields, what Delta holds), and the page that is made of it:
`python -m lakehouse_assets.sources.kdb_types > docs/kdb_types.md`. What does not: bytes (`qipc*.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakehouse_assets.errors import TypeRefused

TYPE = b"kdb.type"
"""The key of a field's metadata under which q's name of its type stands."""
KEYS = b"kdb.keys"
"""The key of a schema's metadata under which the number of key columns of a keyed table stands."""
DAYS = 10_957
"""From 1970-01-01, where Arrow counts from, to 2000-01-01, where q counts from."""
NANOSECONDS = DAYS * 86_400 * 1_000_000_000
CHARS, OF = "char vector", " list"
LIST, CHAR, SYMBOL, TABLE, DICTIONARY, NULL, SORTED, ERROR = 0, 10, 11, 98, 99, 101, 127, -128
"""q's numbers of what is not just a vector of numbers."""
INFINITIES = ("refuse", "null")
_UTC_NS, _UTC_US = pa.timestamp("ns", tz="UTC"), pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class QType:
    """One simple type of q.

    Attributes:
        number: q's number of its vectors; atoms have the negative one.
        char: the letter that `meta` shows; the same in upper case for a column of vectors.
        dtype: how numpy reads one element, without byte order; empty: elements differ in length.
        sentinel: whether the least number of `dtype` is q's null, and the greatest and its negative are infinities.
        arrow: what a decoded column is.
        delta: what the lake holds of it.
        null: how q writes the null, which becomes NULL.
        infinities: how q writes the infinities.
        unit: nanoseconds of one step, for what is held as nanoseconds.
        note: what else matters.
    """

    number: int
    char: str
    name: str
    dtype: str
    arrow: pa.DataType
    delta: str
    null: str
    infinities: str = ""
    sentinel: bool = True
    unit: int = 0
    note: str = ""

    @property
    def width(self) -> int:
        """Bytes of one element; 0: they differ."""
        return np.dtype(self.dtype).itemsize if self.dtype else 0


_TABLE = (
    QType(1, "b", "boolean", "u1", pa.bool_(), "BOOLEAN", "", sentinel=False),
    QType(2, "g", "guid", "V16", pa.string(), "STRING", "0Ng", sentinel=False, note="36 characters, lower case"),
    QType(4, "x", "byte", "u1", pa.int16(), "SMALLINT", "", sentinel=False, note="0x00 to 0xff as 0 to 255; no null"),
    QType(5, "h", "short", "i2", pa.int16(), "SMALLINT", "0Nh", "0Wh, -0Wh"),
    QType(6, "i", "int", "i4", pa.int32(), "INT", "0Ni", "0Wi, -0Wi"),
    QType(7, "j", "long", "i8", pa.int64(), "BIGINT", "0N", "0W, -0W"),
    QType(8, "e", "real", "f4", pa.float32(), "FLOAT", "0Ne", "0We, -0We", False, note="infinities are held"),
    QType(9, "f", "float", "f8", pa.float64(), "DOUBLE", "0n", "0w, -0w", False, note="infinities are held"),
    QType(10, "c", "char", "u1", pa.string(), "STRING", '" "', sentinel=False, note="one character of ASCII"),
    QType(11, "s", "symbol", "", pa.string(), "STRING", "`", sentinel=False, note="UTF-8"),
    QType(12, "p", "timestamp", "i8", _UTC_NS, "TIMESTAMP", "0Np", "0Wp, -0Wp",
          note="UTC; microseconds (rounded down), and all nanoseconds since 1970 in the BIGINT `<name>_ns`; "
               "refused after 2262-04-11T23:47:16.854775807"),
    QType(13, "m", "month", "i4", pa.date32(), "DATE", "0Nm", "0Wm, -0Wm", note="its first day; years 1 to 9999"),
    QType(14, "d", "date", "i4", pa.date32(), "DATE", "0Nd", "0Wd, -0Wd", note="years 1 to 9999"),
    QType(15, "z", "datetime", "f8", _UTC_US, "TIMESTAMP", "0Nz", "0wz, -0wz", False,
          note="UTC; days as a float, rounded to q's milliseconds; years 1 to 9999"),
    QType(16, "n", "timespan", "i8", pa.int64(), "BIGINT", "0Nn", "0Wn, -0Wn", unit=1, note="nanoseconds"),
    QType(17, "u", "minute", "i4", pa.int64(), "BIGINT", "0Nu", "0Wu, -0Wu", unit=60_000_000_000, note="nanoseconds"),
    QType(18, "v", "second", "i4", pa.int64(), "BIGINT", "0Nv", "0Wv, -0Wv", unit=1_000_000_000, note="nanoseconds"),
    QType(19, "t", "time", "i4", pa.int64(), "BIGINT", "0Nt", "0Wt, -0Wt", unit=1_000_000, note="nanoseconds"),
)  # fmt: skip
BY_NUMBER: Mapping[int, QType] = {q.number: q for q in _TABLE}
BY_NAME: Mapping[str, QType] = {q.name: q for q in _TABLE}
BY_CHAR: Mapping[str, QType] = {q.char: q for q in _TABLE}
REFUSED = {
    "enumeration": "types 20 to 76 count in a list that stays on the server; let it send symbols: `value column`",
    "mixed list": "a column whose rows are of several types; let the server send columns of one type",
    "dictionary, table": "as a column or inside one; let the server send columns",
    "function": "types 100 to 112 are not data",
    "text that is not UTF-8": "symbols and chars in another encoding are refused with the number of their row",
    "infinity": 'of integers and times: refused by name, unless `kdb.infinities: "null"` makes it NULL',
}
"""What q has and the lake does not hold: why, or what to do instead."""


def number_name(number: int) -> str:
    """What q's type number is called, atoms and the types that are not data included."""
    if abs(number) in BY_NUMBER:
        return BY_NUMBER[abs(number)].name
    names = {0: "list", 98: "table", 99: "dictionary", 101: "null (::)", 127: "sorted dictionary"}
    if 20 <= abs(number) <= 76:
        return f"enumeration (type {number})"
    return names.get(number, f"function (type {number})" if 100 <= number <= 112 else f"type {number}")


def field(name: str, kind: str, arrow: pa.DataType) -> pa.Field:
    """A nullable field whose metadata says q's type."""
    return pa.field(name, arrow, metadata={TYPE: kind.encode()})


def kind_of(of: pa.Field) -> str | None:
    """Q's name of a field's type, if its metadata says one."""
    return (of.metadata or {}).get(TYPE, b"").decode() or None


def arrow_of(kind: str) -> pa.DataType:
    """What a decoded column of q's type `kind` is: `long`, `char vector`, `long list`, `char vector list`."""
    if kind.endswith(OF):
        return pa.list_(arrow_of(kind.removesuffix(OF)))
    if kind == CHARS:
        return pa.string()
    if kind not in BY_NAME:
        raise TypeRefused("q has no such type", value=kind, choices=(*BY_NAME, CHARS))
    return BY_NAME[kind].arrow


def kind_of_char(char: str, column: str = "") -> str:
    """Q's name of the type that `meta` shows as `char`: `j` long, `J` long list, `C` char vector.

    Raises:
        TypeRefused: `meta` shows no type: rows of several types, or no row at all in a column of lists.
    """
    if char == "C":
        return CHARS
    if char.lower() in BY_CHAR and char.strip():
        return BY_CHAR[char.lower()].name + (OF if char.isupper() else "")
    raise TypeRefused(
        f"column {column!r} has no single type: `meta` shows {char!r}",
        column=column,
        fix="leave the column out, or let the server send one type",
    )


def schema_of(columns: Mapping[str, str]) -> pa.Schema:
    """The decoded schema of columns: name to the letter that `meta` shows."""
    kinds = {name: kind_of_char(char, name) for name, char in columns.items()}
    return pa.schema([field(name, kind, arrow_of(kind)) for name, kind in kinds.items()])


def typed(table: pa.Table, columns: Mapping[str, str]) -> pa.Table:
    """The table with types for columns of lists that have none, because no row has an element to tell it.

    Args:
        columns: name to the letter that `meta` shows, of this table or of another day's; a blank leaves a column.
    """
    for place, of in enumerate(table.schema):
        char = columns.get(of.name, " ")
        if of.type == pa.null() and char.isupper():
            kind = kind_of_char(char, of.name)
            empty = pa.array(["" if kind == CHARS else []] * len(table), arrow_of(kind))
            table = table.set_column(place, field(of.name, kind, empty.type), empty)
    return table


def held_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of `held(table)`, from that of the decoded table."""
    return held(schema.empty_table()).schema


def held(table: pa.Table) -> pa.Table:
    """A decoded table as Delta holds it: nanoseconds become microseconds, beside a column `<name>_ns` with them all.

    Microseconds are rounded down, before 1970 too. Lists of timestamps become two lists.

    Raises:
        TypeRefused: the table has a column of that name already.
    """
    columns: list[pa.ChunkedArray] = []
    fields: list[pa.Field] = []
    for of, column in zip(table.schema, table.columns, strict=True):
        if not _nanoseconds(of.type):
            columns.append(column)
            fields.append(of)
            continue
        if f"{of.name}_ns" in table.column_names:
            raise TypeRefused(
                f"the nanoseconds of column {of.name!r} go into {of.name + '_ns'!r}, which is a column of the table",
                column=of.name,
                fix="rename one of them in the query",
            )
        parts = [_parts(chunk) for chunk in column.chunks]
        both = (_replaced(of.type, _UTC_US), _replaced(of.type, pa.int64()))
        columns += [pa.chunked_array([part[i] for part in parts], kind) for i, kind in enumerate(both)]
        fields += [of.with_type(both[0]), field(f"{of.name}_ns", "long", both[1])]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, table.schema.metadata))


def _nanoseconds(arrow: pa.DataType) -> bool:
    return _nanoseconds(arrow.value_type) if pa.types.is_list(arrow) else arrow == _UTC_NS


def _replaced(arrow: pa.DataType, leaf: pa.DataType) -> pa.DataType:
    return pa.list_(_replaced(arrow.value_type, leaf)) if pa.types.is_list(arrow) else leaf


def _parts(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Microseconds and nanoseconds of timestamps, or of lists of them."""
    if pa.types.is_list(array.type):
        values = _parts(array.values)
        made = [pa.ListArray.from_arrays(array.offsets, part, mask=array.is_null() if array.null_count else None)
                for part in values]  # fmt: skip
        return made[0], made[1]
    nanoseconds = array.view(pa.int64())
    valid, data = nanoseconds.buffers()
    whole = np.frombuffer(data, np.int64, len(array), array.offset * 8) if len(array) else np.empty(0, np.int64)
    if array.offset and valid is not None:
        valid = pa.py_buffer(np.packbits(array.is_valid().to_numpy(zero_copy_only=False), bitorder="little"))
    micro = pa.py_buffer(np.floor_divide(whole, 1000))
    return pa.Array.from_buffers(_UTC_US, len(array), [valid, micro], array.null_count), nanoseconds


_HEAD = """\
# Types of kdb+

What each type of q becomes when a table is read, and what the lake holds. NULL stands for q's null of the type; no
sentinel of q is ever a number here. Infinities of integers and times are refused by name, or made NULL where the entity
says `kdb.infinities: "null"`. Every Arrow field says in its metadata, under `kdb.type`, what q called its type.

This page is generated: `python -m lakehouse_assets.sources.kdb_types > docs/kdb_types.md`.
"""
_TAIL = """\
## Made of them

| q | `meta` | Arrow | held as | notes |
| --- | --- | --- | --- | --- |
| char vectors | `C` | string | STRING | UTF-8; an empty one is an empty text, not NULL |
| lists of one type | upper case | list<…> | ARRAY<…> | of every type above, to any depth; nulls inside become NULL |
| keyed table | | | its key columns, then the others | |
| a name that comes twice | | | `c`, `c1`, `c2` as q does | refused where `c1` is a column already |
| a column without rows and type | a blank | null | as the columns' `meta` says | |

## Refused

"""


def page() -> str:
    """The page as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "| q | number | `meta` | null | infinities | Arrow | held as | notes |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for q in _TABLE:
        null = f"`` {q.null} ``" if "`" in q.null else f"`{q.null}`" if q.null else ""
        infinities = f"`{q.infinities}`" if q.infinities else ""
        yield f"| {q.name} | {q.number} | `{q.char}` | {null} | {infinities} | {q.arrow} | {q.delta} | {q.note} |"
    yield ""
    yield _TAIL.rstrip("\n") + "\n"
    yield "| what | why, or what to do |"
    yield "| --- | --- |"
    for name, why in REFUSED.items():
        yield f"| {name} | {why} |"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - what a command prints
