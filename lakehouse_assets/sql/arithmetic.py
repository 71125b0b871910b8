"""Arithmetic as Spark's ANSI mode does it: result types, division by zero, intervals, elements, window frames.

What belongs here: operators on values that are translated already. What does not: walking the tree
(`expressions.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.sql import coerce
from lakehouse_assets.sql.typed import (
    BIGINT,
    DATE,
    DAY_TIME,
    DOUBLE,
    INT,
    NULL,
    YEAR_MONTH,
    Typed,
    bounded,
    common,
    decimal_of,
    duckdb_name,
    is_decimal,
    is_float,
    is_integral,
    is_list,
    is_number,
    is_timestamp,
    refused,
    show,
)
from lakehouse_assets.sql.types import TIMESTAMP

DAYS = pa.duration("s")
"""The type of an interval of whole days: it keeps a date a date."""

_SYMBOLS: dict[type[exp.Expr], str] = {
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
    exp.IntDiv: "div",
    exp.Mod: "%",
}
_INTERVALS = (DAYS, DAY_TIME, YEAR_MONTH)
_MICROS = {
    "MICROSECOND": 1,
    "MILLISECOND": 1000,
    "SECOND": 10**6,
    "MINUTE": 60 * 10**6,
    "HOUR": 3600 * 10**6,
    "DAY": 86400 * 10**6,
    "WEEK": 7 * 86400 * 10**6,
}
_MONTHS = {"MONTH": 1, "QUARTER": 3, "YEAR": 12}
_WORD = 18
"""The digits of a decimal that DuckDB keeps in 64 bits, and within which it overflows instead of widening."""
_PAIR = re.compile(r"\s*([+-]?\d+)\s*([A-Za-z]+)\s*")


def binary(node: exp.Expr, left: Typed, right: Typed) -> Typed:
    """`left op right`, where op is that of the node."""
    symbol = _SYMBOLS[type(node)]
    if left.type in _INTERVALS or right.type in _INTERVALS:
        return _with_interval(symbol, left, right)
    if left.type == DATE and symbol in "+-" and (is_integral(right.type) or right.type is None):
        return Typed(f"({left.sql} {symbol} {coerce.widen(right, INT).sql})", DATE if right.type is not None else None)
    for value in (left, right):
        if value.type not in (None, NULL) and not is_number(value.type):
            raise refused(f"{show(value.type)} cannot stand beside {symbol!r}", _moment_remedy(value.type))
    if left.type is None or right.type is None:
        return Typed(f"({left.sql} {symbol} {right.sql})", None)
    if left.type == NULL or right.type == NULL:
        raise refused(f"NULL stands beside {symbol!r}: the result always is NULL", "leave it out")
    if symbol == "%":
        return remainder(left, right)
    if symbol in ("/", "div"):
        return _divide(symbol, left, right)
    return _simple(symbol, left, right)


def _moment_remedy(kind: pa.DataType | None) -> str:
    if kind == DATE or is_timestamp(kind):
        return "use date_add, datediff, timestampdiff, or add an INTERVAL"
    return "write the CAST to a number"


def _simple(symbol: str, left: Typed, right: Typed) -> Typed:
    if is_float(left.type) or is_float(right.type) or not (is_decimal(left.type) or is_decimal(right.type)):
        kind = common(left.type, right.type)
        return Typed(f"({coerce.widen(left, kind).sql} {symbol} {coerce.widen(right, kind).sql})", kind)
    a, b = _as_decimal(left), _as_decimal(right)
    if symbol == "*":
        kind = bounded(a.precision + b.precision + 1, a.scale + b.scale)
        if a.precision + b.precision > _WORD >= max(a.precision, b.precision):
            a = pa.decimal128(_WORD + 1, a.scale)
    else:
        scale = max(a.scale, b.scale)
        kind = bounded(max(a.precision - a.scale, b.precision - b.scale) + scale + 1, scale)
        a = b = kind
    sides = (coerce.widen(left, a).sql, coerce.widen(right, b).sql)
    return Typed(f"CAST({sides[0]} {symbol} {sides[1]} AS {duckdb_name(kind)})", kind)


def _as_decimal(value: Typed) -> pa.Decimal128Type:
    return decimal_of(value.type, value.literal if is_integral(value.type) else None)


def _divide(symbol: str, left: Typed, right: Typed) -> Typed:
    decimal = (is_decimal(left.type) or is_decimal(right.type)) and not (is_float(left.type) or is_float(right.type))
    if decimal and symbol == "/":
        raise refused("division of decimals rounds differently on the engines", "CAST one side to DOUBLE")
    if symbol == "/":
        a, b = coerce.cast(left, DOUBLE, safe=True), coerce.cast(right, DOUBLE, safe=True)
        return Typed(_unless_zero(b.sql, f"{a.sql} / {b.sql}", DOUBLE), DOUBLE)
    if not (is_integral(left.type) and is_integral(right.type)):
        raise refused(f"div takes integers here, not {show(left.type)} and {show(right.type)}", "use floor(x / y)")
    a, b = coerce.widen(left, BIGINT), coerce.widen(right, BIGINT)
    return Typed(_unless_zero(b.sql, f"{a.sql} // {b.sql}", BIGINT), BIGINT)


def _unless_zero(divisor: str, sql: str, kind: pa.DataType) -> str:
    if re.fullmatch(r"CAST\(\(?-?[0-9]*[1-9][0-9]*\)? AS [A-Z]+\)", divisor):
        return f"({sql})"
    failing = f"CAST(error('division by zero: use try_divide or nullif') AS {duckdb_name(kind)})"
    return f"CASE WHEN {divisor} = 0 THEN {failing} ELSE {sql} END"


def remainder(left: Typed, right: Typed) -> Typed:
    """`left % right` with the sign of `left`; zero raises."""
    for value in (left, right):
        if value.type is not None and not is_number(value.type):
            raise refused(f"{show(value.type)} has no remainder", "write the CAST to a number")
    if left.type is None or right.type is None:
        return Typed(f"({left.sql} % {right.sql})", None)
    kind = common(left.type, right.type)
    if is_decimal(kind):
        a, b = _as_decimal(left), _as_decimal(right)
        scale = max(a.scale, b.scale)
        kind = bounded(min(a.precision - a.scale, b.precision - b.scale) + scale, scale)
        wide = bounded(max(a.precision - a.scale, b.precision - b.scale) + scale, scale)
        sides = coerce.widen(left, wide).sql, coerce.widen(right, wide).sql
        return Typed(_unless_zero(sides[1], f"CAST({sides[0]} % {sides[1]} AS {duckdb_name(kind)})", kind), kind)
    assert kind is not None
    sides = coerce.widen(left, kind).sql, coerce.widen(right, kind).sql
    return Typed(_unless_zero(sides[1], f"{sides[0]} % {sides[1]}", kind), kind)


def negate(value: Typed) -> Typed:
    """The number with the other sign; the smallest integer raises."""
    if value.type is not None and not is_number(value.type):
        raise refused(f"{show(value.type)} has no sign", "write the CAST to a number")
    if value.type is None:
        return Typed(f"(- {value.sql})", None)
    return Typed(f"CAST(- {coerce.widen(value, value.type).sql} AS {duckdb_name(value.type)})", value.type)


def interval(node: exp.Interval) -> Typed:
    """An interval literal: of days, of days and time, or of months and years."""
    this, unit = node.this, node.args.get("unit")
    written = str(this.this) if isinstance(this, exp.Literal) else ""
    if isinstance(this, exp.Neg) and isinstance(this.this, exp.Literal):
        written = f"-{this.this.this}"
    pairs = [(written, str(unit.name))] if unit is not None else _PAIR.findall(written)
    if unit is None and _PAIR.sub("", written):
        pairs = []
    micros, months, days = 0, 0, True
    for count, name in pairs:
        singular = name.upper().removesuffix("S")
        if not re.fullmatch(r"[+-]?\d+", count) or singular not in {**_MICROS, **_MONTHS}:
            pairs = []
            break
        days = days and singular in ("DAY", "WEEK")
        micros += int(count) * _MICROS.get(singular, 0)
        months += int(count) * _MONTHS.get(singular, 0)
    if not pairs or (micros and months):
        raise refused(
            f"{node.sql()!r} is no interval that both engines share",
            "write INTERVAL 90 MINUTES, INTERVAL 1 DAY or INTERVAL 2 MONTHS",
        )
    if months or (not micros and not days):
        return Typed(f"INTERVAL '{months} months'", YEAR_MONTH)
    return Typed(f"INTERVAL '{micros} microseconds'", DAYS if days else DAY_TIME)


def _with_interval(symbol: str, left: Typed, right: Typed) -> Typed:
    if right.type not in _INTERVALS and symbol == "+":
        left, right = right, left
    if symbol not in "+-" or right.type not in _INTERVALS:
        raise refused(f"an INTERVAL cannot stand beside {symbol!r}", "add it to a date or a timestamp, or subtract it")
    if left.type is None or right.type is None:
        return Typed(f"({left.sql} {symbol} {right.sql})", None)
    if left.type in _INTERVALS:
        if YEAR_MONTH in (left.type, right.type) and left.type != right.type:
            raise refused("intervals of months and of days do not mix", "add them one after the other")
        return Typed(f"({left.sql} {symbol} {right.sql})", left.type if left.type == right.type else DAY_TIME)
    if left.type == DATE and right.type == DAY_TIME:
        left = coerce.cast(left, TIMESTAMP, safe=True)
    if left.type != DATE and not is_timestamp(left.type):
        raise refused(f"an INTERVAL cannot be added to {show(left.type)}", "CAST it to DATE or TIMESTAMP")
    return Typed(f"CAST({left.sql} {symbol} {right.sql} AS {duckdb_name(left.type)})", left.type)


def element(items: Typed, index: Typed) -> Typed:
    """`items[index]`: of an array (from 0; beyond its end raises) or of a map (NULL where the key is missing)."""
    if items.type is None:
        return Typed(f"({items.sql})[{index.sql}]", None)
    if pa.types.is_map(items.type):
        key = coerce.widen(index, common(items.type.key_type, index.type))
        return Typed(f"({items.sql})[{key.sql}]", items.type.item_type)
    if not is_list(items.type):
        raise refused(f"{show(items.type)} has no elements", "use [..] on an ARRAY or a MAP")
    if index.type is not None and not is_integral(index.type):
        raise refused(f"the index of an ARRAY is an integer, not {show(index.type)}")
    at, inner = coerce.widen(index, BIGINT).sql, items.type.value_type
    failing = f"CAST(error('the index is beyond the end of the array: use get') AS {duckdb_name(inner)})"
    return Typed(
        f"CASE WHEN {items.sql} IS NULL OR {at} IS NULL THEN NULL WHEN {at} >= 0 AND {at} < len({items.sql}) "
        f"THEN ({items.sql})[{at} + 1] ELSE {failing} END",
        inner,
    )


def frame(spec: exp.WindowSpec, keys: Sequence[Typed], visit: Callable[[exp.Expr], Typed]) -> str:
    """The frame of a window."""
    kind = str(spec.args.get("kind") or "").upper()
    if kind not in ("ROWS", "RANGE") or spec.args.get("exclude"):
        raise refused(f"the window frame {kind} is not on both engines", "use ROWS or RANGE")
    start = _bound(kind, spec.args.get("start"), spec.args.get("start_side"), keys, visit)
    if spec.args.get("end") is None:
        return f"{kind} {start}"
    return f"{kind} BETWEEN {start} AND {_bound(kind, spec.args['end'], spec.args.get('end_side'), keys, visit)}"


def _bound(kind: str, value: object, side: object, keys: Sequence[Typed], visit: Callable[[exp.Expr], Typed]) -> str:
    direction = f" {str(side).upper()}" if side else ""
    if isinstance(value, str):
        return f"{value.upper()}{direction}"
    assert isinstance(value, exp.Expr)
    distance = visit(value)
    if kind == "ROWS" and not (distance.literal or "").isdigit():
        raise refused("the distance of a ROWS frame must be an integer literal")
    if kind == "RANGE" and (len(keys) != 1 or not _fits_range(keys[0].type, distance.type)):
        raise refused(
            "a RANGE frame with a distance needs one ORDER BY key of a matching type", "use an INTERVAL for timestamps"
        )
    return f"{distance.sql}{direction}"


def _fits_range(key: pa.DataType | None, distance: pa.DataType | None) -> bool:
    if key is None or distance is None:
        return True
    if distance in (DAYS, DAY_TIME):
        return is_timestamp(key)
    return is_integral(key) and is_integral(distance)
