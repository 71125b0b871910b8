"""Types: which column type a declared SQLite type becomes, which values fit it, and how each value is written.

What belongs here: the policy below, as SQL and as Python. What does not: reading (`sqlite_reader.py`).

SQLite types values, not columns. The policy, by the affinity that SQLite derives from the declared type:

    declared                          column    values that fit it (NULL always does)
    INTEGER affinity: INT, BIGINT …   BIGINT    integers
    REAL affinity: REAL, DOUBLE …     DOUBLE    reals
    TEXT affinity: TEXT, VARCHAR …    STRING    text in UTF-8 (NUL characters included)
    BLOB                              BINARY    blobs
    BOOLEAN, BOOL                     BOOLEAN   0 and 1
    NUMERIC, DECIMAL(p,s), NUMBER …   DOUBLE    reals, and integers of at most 53 bits
    DATE, DATETIME, STRING, JSON …    STRING    text as received; numbers as the text that SQLite makes a number of
                                                (it keeps no text that looks like a number in such a column)
    none, or ANY in a STRICT table    the type of the first 1,000 values: one class of values gives its type, integers
                                      with reals DOUBLE, another mixture that of most values, no value at all STRING

`source_schema` overrides it column by column, with the types BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, DOUBLE, STRING,
BINARY. Whatever does not fit goes to quarantine with its row; nothing is rounded, cut or made NULL.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from lakehouse_assets.errors import TypeRefused

EXACT = 2**53
"""Integers up to this size have a double of their own."""
_INFINITE = "9.0e+999"
_SEEDS = {pa.float64(): "0.0", pa.string(): "''", pa.binary(): "x''"}
_RANGES = {pa.int8(): 7, pa.int16(): 15, pa.int32(): 31, pa.int64(): 63}
_BOOL = re.compile(r"\bBOOL(EAN)?\b", re.IGNORECASE)
_NUMBER = re.compile(r"\b(NUM|NUMERIC|NUMBER|DEC|DECIMAL|MONEY|CURRENCY)\b", re.IGNORECASE)
_CLASSES = {"integer": pa.int64(), "real": pa.float64(), "text": pa.string(), "blob": pa.binary()}


class Text(bytes):
    """The bytes of a TEXT value, which need not be UTF-8; plain `bytes` are a BLOB."""

    def decoded(self) -> str | None:
        """The text, or `None` when it is not UTF-8."""
        try:
            return self.decode()
        except UnicodeDecodeError:
            return None


Cell = int | float | Text | bytes | None
"""A value as SQLite stores it."""


class Affinity(StrEnum):
    """How SQLite converts what is stored in a column."""

    INTEGER = "INTEGER"
    TEXT = "TEXT"
    NONE = "NONE"
    REAL = "REAL"
    NUMERIC = "NUMERIC"


def affinity(declared: str, strict: bool = False) -> Affinity:
    """The affinity of a declared type, by SQLite's rules in their order."""
    name = declared.upper()
    if strict and name == "ANY":
        return Affinity.NONE
    if "INT" in name:
        return Affinity.INTEGER
    if any(part in name for part in ("CHAR", "CLOB", "TEXT")):
        return Affinity.TEXT
    if not name or "BLOB" in name:
        return Affinity.NONE
    return Affinity.REAL if any(part in name for part in ("REAL", "FLOA", "DOUB")) else Affinity.NUMERIC


@dataclass(frozen=True)
class Column:
    """A column of the source, and what its values become.

    Args:
        name: the column's name in the bronze table.
        source: its name in SQLite.
        affinity: of the declared type.
        type: what it becomes.
        nullable: whether NULL fits.
        is_rowid: whether it is another name of the rowid, and so always an integer.
    """

    name: str
    source: str
    affinity: Affinity
    type: pa.DataType
    nullable: bool = True
    is_rowid: bool = False

    @property
    def seed(self) -> str:
        """A literal that gives the driver the type to read."""
        return _SEEDS.get(self.type, "0")

    @property
    def numbers_as_text(self) -> bool:
        """Whether numbers become text: where text that looks like a number cannot be in the column."""
        return self.type == pa.string() and self.affinity not in (Affinity.TEXT, Affinity.NONE)

    def fits_sql(self) -> str | None:
        """A condition, never NULL, that only holds for values that fit and that the driver reads without loss.

        It may leave out values that `fits` accepts: they are read one by one. `None`: every value fits. Comparisons
        are used for typeof() where they tell as much, because they are faster: numbers sort before text and text
        before blobs; the unary plus keeps SQLite from converting what it compares.
        """
        name = ref(self.source)
        if self.is_rowid and self.type == pa.int64():
            return None
        fits = self._class_sql(name)
        return fits if self.nullable else f"({name} IS NOT NULL AND {fits})"

    def _class_sql(self, name: str) -> str:
        text, blob = f"(+{name} COLLATE BINARY >= '')", f"(+{name} COLLATE BINARY >= x'')"
        if self.type == pa.string():
            if not self.numbers_as_text:
                return f"({blob} IS NOT TRUE AND {text} IS NOT FALSE)"
            classes = "'text', 'null'" if self.affinity is Affinity.REAL else "'text', 'null', 'integer'"
            return f"typeof({name}) IN ({classes})"
        if self.type == pa.binary():
            return f"typeof({name}) IN ('blob', 'null')"
        if self.type == pa.float64():
            if self.affinity is Affinity.REAL:
                return f"{text} IS NOT TRUE"
            exact = f"(typeof({name}) = 'integer' AND {name} BETWEEN {-EXACT} AND {EXACT})"
            return f"(typeof({name}) IN ('real', 'null') OR {exact})"
        if self.type == pa.int64():
            return f"typeof({name}) IN ('integer', 'null')"
        low, high = self._range()
        return f"({name} IS NULL OR (typeof({name}) = 'integer' AND {name} BETWEEN {low} AND {high}))"

    def _range(self) -> tuple[int, int]:
        bits = _RANGES.get(self.type, 0)
        return (-(2**bits), 2**bits - 1) if bits else (0, 1)

    def fits(self, cell: Cell) -> bool:
        """Whether `value` keeps everything that `cell` says."""
        if cell is None:
            return self.nullable
        if self.type == pa.string():
            return cell.decoded() is not None if isinstance(cell, Text) else self.numbers_as_text and _is_number(cell)
        if self.type == pa.binary():
            return isinstance(cell, bytes) and not isinstance(cell, Text)
        if self.type == pa.float64():
            return isinstance(cell, float) or (isinstance(cell, int) and abs(cell) <= EXACT)
        low, high = self._range()
        return isinstance(cell, int) and low <= cell <= high

    def value(self, cell: Cell) -> object:
        """A cell that fits, as Python value of the column's type."""
        if cell is None or self.type == pa.binary():
            return cell
        if self.type == pa.string():
            return cell.decode() if isinstance(cell, Text) else literal(cell)
        return float(cell) if self.type == pa.float64() else bool(cell) if self.type == pa.bool_() else cell

    def cell(self, value: object) -> Cell:
        """The cell that `value` was made of; `value` is of the column's type, text as bytes."""
        if isinstance(value, bytes) and self.type == pa.string():
            digits = self.numbers_as_text and re.fullmatch(rb"-?\d+", value)
            return int(value) if digits else Text(value)
        return int(value) if isinstance(value, bool) else value  # type: ignore[return-value]

    def array(self, read: pa.Array) -> pa.Array:
        """What the driver read, in the column's type."""
        return read if read.type == self.type else read.cast(self.type)


def column_type(declared: str, kind: Affinity, found: Mapping[str, int]) -> pa.DataType:
    """The type of a column by the policy.

    Args:
        declared: the declared type, as in CREATE TABLE.
        kind: its affinity.
        found: for a column without a type: how many of its first values are `integer`, `real`, `text`, `blob`.
    """
    if kind is Affinity.NONE:
        return pa.binary() if declared else _type_of(found)
    if kind is Affinity.NUMERIC:
        if _BOOL.search(declared):
            return pa.bool_()
        return pa.float64() if _NUMBER.search(declared) else pa.string()
    return {Affinity.INTEGER: pa.int64(), Affinity.REAL: pa.float64(), Affinity.TEXT: pa.string()}[kind]


def _type_of(found: Mapping[str, int]) -> pa.DataType:
    classes = {name: count for name, count in found.items() if name in _CLASSES and count}
    if set(classes) == {"integer", "real"}:
        return pa.float64()
    return _CLASSES[Counter(classes).most_common(1)[0][0]] if classes else pa.string()


def check_declared(field: pa.Field, table: str) -> None:
    """Refuse a type of `source_schema` that values of SQLite do not have.

    Raises:
        TypeRefused: with what to declare instead.
    """
    if field.type in _RANGES or field.type in _SEEDS or field.type == pa.bool_():
        return
    raise TypeRefused(
        f"source_schema: column {field.name!r} of the SQLite table {table!r} is declared {field.type}, but SQLite only "
        f"holds integers, reals, text and blobs",
        value=str(field.type),
        choices=["BOOLEAN", "TINYINT", "SMALLINT", "INT", "BIGINT", "DOUBLE", "STRING", "BINARY"],
        fix="declare the type of the stored values here (STRING for a time in text), and cast in the select_expr of "
        "the entity that reads the table",
    )


def quoted(name: str) -> str:
    """An identifier, safe in SQL whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def ref(name: str) -> str:
    """A column of the table that is called `t` in the query.

    Always qualified: SQLite takes a quoted name that it does not know for a string, unless a table stands before it.
    """
    return "t." + quoted(name)


def literal(cell: Cell) -> str:
    """The SQL literal of a value, as SQLite's quote() writes it, but lossless: `NULL`, `5`, `2.5`, `'it''s'`, `X'00'`.

    Reals have the shortest digits that read back as the same number. Text that has no literal (NUL characters, bytes
    that are not UTF-8) is written as CAST(X'…' AS TEXT).
    """
    if cell is None:
        return "NULL"
    if isinstance(cell, Text):
        text = cell.decoded()
        plain = text is not None and "\0" not in text
        return "'" + str(text).replace("'", "''") + "'" if plain else f"CAST(X'{cell.hex().upper()}' AS TEXT)"
    if isinstance(cell, bytes):
        return f"X'{cell.hex().upper()}'"
    if isinstance(cell, float) and abs(cell) == float("inf"):
        return _INFINITE if cell > 0 else "-" + _INFINITE
    return repr(cell)


def digest(*cells: Cell, size: int = 12) -> bytes:
    """A hash of values with their storage classes: equal for equal cells only."""
    found = hashlib.blake2b(digest_size=size)
    for cell in cells:
        tag, body = _exact(cell)
        found.update(tag + struct.pack(">q", len(body)) + body)
    return found.digest()


def _exact(cell: Cell) -> tuple[bytes, bytes]:
    if cell is None:
        return b"n", b""
    if isinstance(cell, float):
        return b"r", struct.pack(">d", cell)
    if isinstance(cell, int):
        return b"i", str(cell).encode()
    return (b"t", bytes(cell)) if isinstance(cell, Text) else (b"b", cell)


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float)
