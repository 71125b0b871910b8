"""Python values, as JSON and nested Arrow columns give them, to typed columns; a value that does not fit is marked.

What belongs here: what a value must be to fit a type, and how a value is written as text.
What does not: texts that stand for numbers or times (`files_texts.py`), records.

As in Spark's JSON reader: a number does not fit a text's place unless the column is STRING, which takes the JSON text
of any value; a DOUBLE also takes "NaN" and "Infinity"; a DECIMAL also takes a text; a TIMESTAMP also takes whole
seconds since 1970; BINARY is base64. Stricter than Spark: what would be rounded or become infinite does not fit.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import types as pat

from lakehouse_assets.sources.files_texts import Cast, Patterns, cast_texts
from lakehouse_assets.sql.types import TIMESTAMP

Reader = Callable[[Any], Any]
_FIRST, _LAST = -62_135_596_800, 253_402_300_799
"""The seconds from year 1 to year 9999."""
_SPECIAL = {
    "NaN": math.nan, "INF": math.inf, "+INF": math.inf, "Infinity": math.inf, "+Infinity": math.inf,
    "-INF": -math.inf, "-Infinity": -math.inf,
}  # fmt: skip
_DIGITS = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_EXACT = decimal.Context(prec=100, traps=[decimal.InvalidOperation])


class Number(str):
    """A JSON number with a point or an exponent, as it was written."""

    __slots__ = ()


class MisfitError(ValueError):
    """A value that does not fit its column."""


def column(values: Sequence[Any], to: pa.DataType, patterns: Patterns) -> Cast:
    """Values as a column of type `to`, and which rows did not fit.

    Args:
        values: JSON values (`Number` for fractions) or what Arrow's `to_pylist` gives.
    """
    quick = _quick(values, to, patterns)
    if quick is not None:
        return quick
    read = _reader(to, patterns)
    found: list[Any] = []
    failed: list[bool] = []
    for value in values:
        try:
            found.append(None if value is None else read(value))
            failed.append(False)
        except MisfitError:
            found.append(None)
            failed.append(True)
    return pa.array(found, to), pa.array(failed) if any(failed) else None


def text_of(value: Any) -> str:
    """A value as JSON text, numbers as they were written; a text stands for itself only inside other values."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(k), ensure_ascii=False)}:{text_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(text_of, value)) + "]"
    if isinstance(value, bytes):
        return json.dumps(base64.b64encode(value).decode())
    if value is None or isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(str(value), ensure_ascii=False)


def received(value: Any) -> str | None:
    """A value as the text that was received: a text as it is, everything else as JSON text, NULL as `None`."""
    if value is None or type(value) is str:
        return value
    text = text_of(value)
    return json.loads(text) if text.startswith('"') else text


def _quick(values: Sequence[Any], to: pa.DataType, patterns: Patterns) -> Cast | None:
    """Columns whose values all have the Python type that Arrow expects."""
    kinds = set(map(type, values)) - {type(None)}
    if (kinds <= {str} and pat.is_string(to)) or (kinds <= {bool} and pat.is_boolean(to)):
        return pa.array(values, to), None
    if kinds <= {str} and (pat.is_date(to) or pat.is_timestamp(to)):
        return cast_texts(pa.array(values, pa.string()), to, patterns)
    if kinds <= {int} and pat.is_integer(to):
        try:
            return pa.array(values, to), None
        except (OverflowError, pa.ArrowInvalid):
            return None
    if kinds <= {int, Number} and pat.is_decimal(to):
        return cast_texts(pa.array([v if v is None else str(v) for v in values], pa.string()), to, patterns)
    return None


def _reader(to: pa.DataType, patterns: Patterns) -> Reader:
    """How one value (never NULL) becomes one of type `to`: it raises `MisfitError`."""
    if pat.is_list(to):
        return _listing(_or_null(_reader(to.value_type, patterns)))
    if pat.is_map(to):
        return _mapping(_reader(to.key_type, patterns), _or_null(_reader(to.item_type, patterns)))
    if pat.is_struct(to):
        return _record({f.name: _or_null(_reader(f.type, patterns)) for f in to.fields})
    if pat.is_integer(to):
        return _integer(to.bit_width)
    if pat.is_floating(to):
        return _float(to.bit_width)
    if pat.is_decimal(to):
        return _decimal(to.precision, to.scale)
    if pat.is_date(to) or pat.is_timestamp(to):
        return _moment(to, patterns)
    return {pa.string(): _string, pa.binary(): _binary, pa.bool_(): _boolean}[to]


def _or_null(read: Reader) -> Reader:
    return lambda value: None if value is None else read(value)


def _string(value: Any) -> str:
    return value if type(value) is str else received(value) or ""


def _binary(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (ValueError, TypeError):
        raise MisfitError from None


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise MisfitError
    return value


def _integer(bits: int) -> Reader:
    limit = 1 << (bits - 1)

    def read(value: Any) -> int:
        if type(value) is not int or not -limit <= value < limit:
            raise MisfitError
        return value

    return read


def _float(bits: int) -> Reader:
    def read(value: Any) -> float:
        if type(value) is str and value in _SPECIAL:
            return _SPECIAL[value]
        if type(value) not in (int, float, Number):
            raise MisfitError
        try:
            found = float(value)
            if bits < 64:
                struct.pack("<f", found)
        except OverflowError:
            raise MisfitError from None
        if math.isinf(found) and type(value) is not float:
            raise MisfitError
        return found

    return read


def _decimal(precision: int, scale: int) -> Reader:
    unit = decimal.Decimal(1).scaleb(-scale)

    def read(value: Any) -> decimal.Decimal:
        if type(value) is int or (isinstance(value, str) and _DIGITS.fullmatch(value)):
            value = decimal.Decimal(value)
        if not isinstance(value, decimal.Decimal):
            raise MisfitError
        try:
            found = value.quantize(unit, context=_EXACT)
        except decimal.InvalidOperation:
            raise MisfitError from None
        if found != value or found.adjusted() + scale >= precision:
            raise MisfitError
        return found

    return read


def _moment(to: pa.DataType, patterns: Patterns) -> Reader:
    """Dates as days, times as microseconds."""
    integers = pa.int32() if pat.is_date(to) else pa.int64()

    def read(value: Any) -> int:
        if type(value) is int and to == TIMESTAMP and _FIRST <= value <= _LAST:
            return value * 1_000_000
        if isinstance(value, dt.datetime):
            value = value.astimezone(dt.UTC).isoformat() if value.tzinfo else value.isoformat()
        elif isinstance(value, dt.date):
            value = value.isoformat()
        if type(value) is not str:
            raise MisfitError
        found, failed = cast_texts(pa.array([value]), to, patterns)
        if failed is not None:
            raise MisfitError
        return found.cast(integers)[0].as_py()

    return read


def _listing(read: Reader) -> Reader:
    def read_all(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise MisfitError
        return [read(one) for one in value]

    return read_all


def _mapping(key: Reader, item: Reader) -> Reader:
    def read_all(value: Any) -> list[tuple[Any, Any]]:
        if isinstance(value, dict):
            value = list(value.items())
        if not isinstance(value, list) or not all(isinstance(pair, tuple) for pair in value):
            raise MisfitError
        return [(key(k), item(v)) for k, v in value]

    return read_all


def _record(fields: dict[str, Reader]) -> Reader:
    def read_all(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise MisfitError
        return {name: read(value.get(name)) for name, read in fields.items()}

    return read_all
