"""An expression of a transform as DuckDB SQL together with its Spark type, and the rules by which Spark mixes types.

What belongs here: the pair, the type families, the least common type, the result types of decimals (Spark's, in ANSI
mode). What does not: casts (`coerce.py`), functions, queries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.errors import LakehouseError, SqlError
from lakehouse_assets.sql.types import TIMESTAMP, TIMESTAMP_NTZ, spark_type

DAY_TIME = pa.duration("us")
"""The type of an interval of days, hours, minutes and seconds; it never is a column."""
YEAR_MONTH = pa.month_day_nano_interval()
"""The type of an interval of years and months; it never is a column."""
MAX_PRECISION = 38

BOOL, INT, BIGINT = pa.bool_(), pa.int32(), pa.int64()
DOUBLE, STRING, DATE, BINARY, NULL = pa.float64(), pa.string(), pa.date32(), pa.binary(), pa.null()

_INTEGRAL_DIGITS = {pa.int8(): 3, pa.int16(): 5, pa.int32(): 10, pa.int64(): 20}
_WIDTH = {pa.int8(): 1, pa.int16(): 2, pa.int32(): 3, pa.int64(): 4}
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
    pa.null(): "INTEGER",
    TIMESTAMP: "TIMESTAMPTZ",
    TIMESTAMP_NTZ: "TIMESTAMP",
}


@dataclass(frozen=True)
class Typed:
    """A piece of DuckDB SQL and the Spark type of its value.

    Attributes:
        sql: DuckDB SQL that can stand anywhere an operand can.
        type: its type as Arrow has it; `pa.null()` for NULL; None when it is not known (no schema was given).
        node: the Spark expression that it came from.
    """

    sql: str
    type: pa.DataType | None = None
    node: exp.Expr | None = None

    @property
    def literal(self) -> str | None:
        """The text of a literal (string or number, with its sign), else None."""
        node = self.node
        while isinstance(node, exp.Paren):
            node = node.this
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
            return f"-{node.this.this}"
        return str(node.this) if isinstance(node, exp.Literal | exp.RawString) else None

    def named(self, node: exp.Expr) -> Typed:
        """The same value, come from another node."""
        return replace(self, node=node)


def refused(problem: str, fix: str | None = None) -> SqlError:
    """The error for an expression that leaves the portable dialect."""
    return SqlError(problem, fix=fix)


def show(kind: pa.DataType | None) -> str:
    """A type as Spark names it, for messages."""
    if kind is None:
        return "an unknown type"
    if kind == NULL:
        return "NULL"
    if kind in (DAY_TIME, YEAR_MONTH):
        return "INTERVAL"
    try:
        return spark_type(kind)
    except LakehouseError:
        return str(kind)


def duckdb_name(kind: pa.DataType) -> str:
    """A type as DuckDB names it."""
    if kind in _NAMES:
        return _NAMES[kind]
    if is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_list(kind):
        return f"{duckdb_name(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"MAP({duckdb_name(kind.key_type)}, {duckdb_name(kind.item_type)})"
    if pa.types.is_struct(kind):
        return "STRUCT(" + ", ".join(f"{quoted(f.name)} {duckdb_name(f.type)}" for f in kind.fields) + ")"
    raise refused(f"{show(kind)} cannot be a column", "give it another type with CAST")


def quoted(name: str) -> str:
    """An identifier of DuckDB."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string literal of DuckDB."""
    return "'" + value.replace("'", "''") + "'"


def is_integral(kind: pa.DataType | None) -> bool:
    """TINYINT, SMALLINT, INT or BIGINT."""
    return kind in _WIDTH


def is_decimal(kind: pa.DataType | None) -> bool:
    """DECIMAL(p,s)."""
    return kind is not None and pa.types.is_decimal128(kind)


def is_float(kind: pa.DataType | None) -> bool:
    """FLOAT or DOUBLE."""
    return kind is not None and pa.types.is_floating(kind)


def is_number(kind: pa.DataType | None) -> bool:
    """Anything that can be added."""
    return is_integral(kind) or is_decimal(kind) or is_float(kind)


def is_timestamp(kind: pa.DataType | None) -> bool:
    """TIMESTAMP or TIMESTAMP_NTZ."""
    return kind is not None and pa.types.is_timestamp(kind)


def is_list(kind: pa.DataType | None) -> bool:
    """ARRAY."""
    return kind is not None and pa.types.is_list(kind)


def element_type(kind: pa.DataType | None) -> pa.DataType | None:
    """The type of an array's elements; None of anything else."""
    return kind.value_type if kind is not None and pa.types.is_list(kind) else None


def is_orderable(kind: pa.DataType | None) -> bool:
    """Whether both engines order values of this type alike; nested ones they do not, because of NULLs inside."""
    return kind is None or not (pa.types.is_nested(kind) or kind in (DAY_TIME, YEAR_MONTH))


def same(left: pa.DataType, right: pa.DataType) -> bool:
    """Whether two types hold the same values; names of list elements and nullability do not count."""
    if left == right:
        return True
    if pa.types.is_list(left) and pa.types.is_list(right):
        return same(left.value_type, right.value_type)
    if pa.types.is_map(left) and pa.types.is_map(right):
        return same(left.key_type, right.key_type) and same(left.item_type, right.item_type)
    if pa.types.is_struct(left) and pa.types.is_struct(right):
        return len(left.fields) == len(right.fields) and all(
            a.name == b.name and same(a.type, b.type) for a, b in zip(left.fields, right.fields, strict=True)
        )
    return False


def decimal_of(kind: pa.DataType, literal: str | None = None) -> pa.Decimal128Type:
    """The decimal that holds every value of an integral type, or the digits of an integral literal."""
    if is_decimal(kind):
        return kind
    digits = len(literal.lstrip("-0")) if literal is not None else _INTEGRAL_DIGITS[kind]
    return pa.decimal128(max(digits, 1), 0)


def wider_decimal(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """The decimal that holds every value of both."""
    a, b = decimal_of(left), decimal_of(right)
    scale = max(a.scale, b.scale)
    return bounded(max(a.precision - a.scale, b.precision - b.scale) + scale, scale)


def bounded(precision: int, scale: int) -> pa.DataType:
    """DECIMAL(precision, scale), if there is one: beyond 38 digits Spark starts to round, which is refused here."""
    if precision > MAX_PRECISION:
        raise refused(
            f"the result would need DECIMAL({precision},{scale}), and there are {MAX_PRECISION} digits at most",
            "CAST the operands to smaller decimals, or to DOUBLE",
        )
    return pa.decimal128(precision, scale)


def common(left: pa.DataType | None, right: pa.DataType | None) -> pa.DataType | None:
    """The least common type of two values, as Spark's ANSI mode has it; strings mix with nothing here.

    Raises:
        SqlError: there is none, or Spark would guess.
    """
    if left is None or right is None:
        return None
    if left == NULL or same(left, right):
        return right
    if right == NULL:
        return left
    if is_number(left) and is_number(right):
        return _common_number(left, right)
    pair = {left, right}
    for stamp in (TIMESTAMP, TIMESTAMP_NTZ):
        if pair == {DATE, stamp}:
            return stamp
    if is_list(left) and is_list(right):
        inner = common(left.value_type, right.value_type)
        return None if inner is None else pa.list_(inner)
    raise refused(f"{show(left)} and {show(right)} do not mix", "make them one type with CAST")


def _common_number(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    if is_integral(left) and is_integral(right):
        return max(left, right, key=_WIDTH.__getitem__)
    if is_float(left) or is_float(right):
        return left if left == right else DOUBLE
    return wider_decimal(left, right)


def common_of(kinds: Iterable[pa.DataType | None]) -> pa.DataType | None:
    """The least common type of several values; NULL when all of them are NULL."""
    found: pa.DataType | None = NULL
    for kind in kinds:
        found = common(found, kind)
    return found
