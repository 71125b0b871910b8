"""Casts: how a value of one type becomes another, in DuckDB SQL that answers what Spark's ANSI mode answers.

What belongs here: one piece of SQL a pair of types, written so that a value that does not fit gives NULL; a strict
cast raises where that happens to a value that is not NULL. What does not: deciding that a cast is due.

    text -> number    surrounding blanks are ignored; no `1_000`, no `1e3` or `2.5` for an integer
    text -> time      ISO 8601 only: `2024-01-31`, `2024-01-31 10:20:30.5+01:00`; without a zone it is UTC
    number -> integer cut towards zero, never rounded; NaN and what is out of range do not fit
    double -> decimal rounded half away from zero on the shortest decimal text of the double
    double -> text    refused: the engines write 1e20 differently
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from lakehouse_assets.sql.typed import (
    BINARY,
    BOOL,
    DATE,
    NULL,
    STRING,
    Typed,
    duckdb_name,
    is_decimal,
    is_float,
    is_integral,
    is_number,
    is_timestamp,
    refused,
    same,
    show,
    text,
)
from lakehouse_assets.sql.types import TIMESTAMP, TIMESTAMP_NTZ

YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
"""Four digits that are no year zero."""
_DAY = f"{YEAR}-[0-9]{{1,2}}-[0-9]{{1,2}}"
_CLOCK = "[ T](?:[01]?[0-9]|2[0-3]):[0-5]?[0-9](?::[0-5]?[0-9](?:[.][0-9]{1,9})?)?"
_ZONE = "(?: ?(?:Z|UTC|GMT|[+-](?:0[0-9]|1[0-7])(?::?[0-5][0-9])?))?"
DATE_PATTERN = f"{_DAY}(?:{_CLOCK}{_ZONE})?"
"""Text that may become a date or a timestamp: an ISO 8601 date, with a time and a zone or without."""
NTZ_PATTERN = f"{_DAY}(?:{_CLOCK})?"
"""Text that may become a timestamp without a zone."""
_USUAL_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"

_INTEGER = "[+-]?[0-9]+"
_NUMBER = "[+-]?(?:[0-9]+[.]?[0-9]*|[.][0-9]+)(?:[eE][+-]?[0-9]+)?"
_SPECIAL = "(?i:[+-]?inf(?:inity)?|nan)"
_BLANKS = text(" \t\n\r\f\v")
_AROUND = "[ \\t\\n\\r\\f\\v]*"
_TRUE = "('t', 'true', 'y', 'yes', '1')"
_FALSE = "('f', 'false', 'n', 'no', '0')"
_EXACT_DIGITS = 15
_FLOAT_LIMIT = "3.4028235677973366e38::DOUBLE"
"""Half way between the greatest FLOAT and the next power of two: from there on, rounding gives infinity."""


def cast(value: Typed, target: pa.DataType, safe: bool) -> Typed:
    """`value` as `target`.

    Args:
        value: what is cast; a value of unknown type is cast without care.
        target: the type that it becomes.
        safe: a value that does not fit becomes NULL; otherwise it raises when the query runs.

    Raises:
        SqlError: there is no cast between the two types that both engines share.
    """
    name = duckdb_name(target)
    if value.type is None or value.type == NULL:
        return Typed(f"CAST({value.sql} AS {name})", target, value.node)
    if same(value.type, target):
        return value if value.type == target else Typed(value.sql, target, value.node)
    sql, total = _convert(value.sql, value.type, target)
    if safe or total:
        return Typed(sql, target, value.node)
    message = text(f"a value does not fit {show(target)}: ")
    failing = f"CAST(error({message} || CAST({value.sql} AS VARCHAR)) AS {name})"
    return Typed(
        f"CASE WHEN ({value.sql}) IS NOT NULL AND ({sql}) IS NULL THEN {failing} ELSE {sql} END", target, value.node
    )


def widen(value: Typed, target: pa.DataType | None) -> Typed:
    """`value` as a type that certainly holds it: the least common type of an operation."""
    if target is None or value.type is None or target == NULL:
        return value
    literal = value.literal
    if value.type == target and literal is None:
        return value
    return Typed(f"CAST({value.sql} AS {duckdb_name(target)})", target, value.node)


def _convert(sql: str, source: pa.DataType, target: pa.DataType) -> tuple[str, bool]:
    """The SQL of a cast that gives NULL where the value does not fit, and whether every value fits."""
    for matches, convert in _RULES:
        if matches(source):
            found = convert(sql, source, target)
            if found is not None:
                return found
    raise refused(
        f"there is no cast from {show(source)} to {show(target)} that both engines share", _remedy(source, target)
    )


Converted = tuple[str, bool] | None


def _from_text(sql: str, _source: pa.DataType, target: pa.DataType) -> Converted:
    trimmed = f"trim({sql}, {_BLANKS})"
    name = duckdb_name(target)
    if is_integral(target) or is_decimal(target):  # trim() is slow; this cast skips the same blanks
        pattern = _INTEGER if is_integral(target) else _NUMBER
        return _when(sql, f"{_AROUND}(?:{pattern}){_AROUND}", f"TRY_CAST({sql} AS {name})"), False
    if is_float(target):
        number = f"TRY_CAST(rtrim({trimmed}, 'dDfF') AS {name})"
        special = f"TRY_CAST({trimmed} AS {name})"
        return (
            f"CASE WHEN regexp_full_match({trimmed}, {text(_NUMBER + '[dDfF]?')}) THEN {number} "
            f"WHEN regexp_full_match({trimmed}, {text(_SPECIAL)}) THEN {special} END",
            False,
        )
    if target == BOOL:
        return (
            f"CASE WHEN lower({trimmed}) IN {_TRUE} THEN true WHEN lower({trimmed}) IN {_FALSE} THEN false END",
            False,
        )
    if target == DATE:
        day = f"TRY_CAST(regexp_extract({trimmed}, {text('^' + _DAY)}) AS DATE)"
        usual = f"{sql} GLOB {text(_USUAL_DAY)} AND {sql} NOT LIKE '0000%'"
        return f"CASE WHEN {usual} THEN TRY_CAST({sql} AS DATE) ELSE {_when(trimmed, DATE_PATTERN, day)} END", False
    if target == TIMESTAMP:
        plain = f"regexp_replace({trimmed}, ' ?(Z|UTC|GMT)$', '')"
        stamp = f"TRY_CAST(regexp_replace({plain}, ' ([+-][0-9:]+)$', '\\1') AS TIMESTAMPTZ)"
        return _when(trimmed, DATE_PATTERN, stamp), False
    if target == TIMESTAMP_NTZ:
        return _when(trimmed, NTZ_PATTERN, f"TRY_CAST({trimmed} AS TIMESTAMP)"), False
    return (f"encode({sql})", True) if target == BINARY else None


def _when(subject: str, pattern: str, then: str) -> str:
    return f"CASE WHEN regexp_full_match({subject}, {text(pattern)}) THEN {then} END"


def _from_integral(sql: str, _source: pa.DataType, target: pa.DataType) -> Converted:
    if is_number(target):
        return f"TRY_CAST({sql} AS {duckdb_name(target)})", is_float(target)
    return _from_number(sql, target)


def _from_number(sql: str, target: pa.DataType) -> Converted:
    if target == STRING:
        return f"CAST({sql} AS VARCHAR)", True
    return (f"({sql} <> 0)", True) if target == BOOL else None


def _from_decimal(sql: str, source: pa.DataType, target: pa.DataType) -> Converted:
    name = duckdb_name(target)
    if is_integral(target):
        return f"TRY_CAST(trunc({sql}) AS {name})", False
    if is_decimal(target):
        return f"TRY_CAST({sql} AS {name})", target.precision - target.scale > source.precision - source.scale
    if is_float(target):
        exact = source.precision <= _EXACT_DIGITS
        return (f"CAST({sql} AS {name})" if exact else f"CAST(CAST({sql} AS VARCHAR) AS {name})"), True
    return _from_number(sql, target)


def _from_float(sql: str, _source: pa.DataType, target: pa.DataType) -> Converted:
    name = duckdb_name(target)
    if target == pa.int64():
        edge = f"CASE WHEN {sql} = 9223372036854775808.0::DOUBLE THEN 9223372036854775807 "
        return f"{edge}ELSE TRY_CAST(trunc({sql}) AS BIGINT) END", False
    if is_integral(target):
        return f"TRY_CAST(trunc({sql}) AS {name})", False
    if is_float(target):
        return (f"CAST({sql} AS DOUBLE)" if target == pa.float64() else _narrow(sql)), True
    if is_decimal(target):
        return f"TRY_CAST(CAST(CAST({sql} AS DOUBLE) AS VARCHAR) AS {name})", False
    return (f"({sql} <> 0)", True) if target == BOOL else None


def _narrow(sql: str) -> str:
    """A double as FLOAT; what is too large becomes infinite, as IEEE 754 has it."""
    return (
        f"CASE WHEN isnan({sql}) THEN 'NaN'::FLOAT WHEN {sql} >= {_FLOAT_LIMIT} THEN 'Infinity'::FLOAT "
        f"WHEN {sql} <= -{_FLOAT_LIMIT} THEN '-Infinity'::FLOAT ELSE CAST({sql} AS FLOAT) END"
    )


def _from_bool(sql: str, _source: pa.DataType, target: pa.DataType) -> Converted:
    if is_number(target):
        name = duckdb_name(target)
        return f"CASE WHEN {sql} THEN CAST(1 AS {name}) WHEN NOT {sql} THEN CAST(0 AS {name}) END", True
    return (f"CAST({sql} AS VARCHAR)", True) if target == STRING else None


def _from_time(sql: str, source: pa.DataType, target: pa.DataType) -> Converted:
    if target == DATE or is_timestamp(target):
        return f"CAST({sql} AS {duckdb_name(target)})", True
    if target == STRING:
        plain = f"CAST({sql} AS TIMESTAMP)" if source == TIMESTAMP else sql
        return f"CAST({plain} AS VARCHAR)", True
    return None


def _from_binary(sql: str, _source: pa.DataType, target: pa.DataType) -> Converted:
    return (f"TRY(decode({sql}))", False) if target == STRING else None


_RULES: tuple[tuple[Callable[[pa.DataType], bool], Callable[[str, pa.DataType, pa.DataType], Converted]], ...] = (
    (lambda kind: kind == STRING, _from_text),
    (is_integral, _from_integral),
    (is_decimal, _from_decimal),
    (is_float, _from_float),
    (lambda kind: kind == BOOL, _from_bool),
    (lambda kind: kind == DATE or is_timestamp(kind), _from_time),
    (lambda kind: kind == BINARY, _from_binary),
)


def _remedy(source: pa.DataType, target: pa.DataType) -> str:
    if is_float(source) and target == STRING:
        return "the engines write doubles differently: CAST to DECIMAL(p,s) first"
    if is_timestamp(source) and is_number(target):
        return "use unix_seconds, unix_millis or unix_micros"
    if is_number(source) and is_timestamp(target):
        return "use timestamp_seconds, timestamp_millis or timestamp_micros"
    if pa.types.is_nested(source) or pa.types.is_nested(target):
        return "cast the fields or elements one by one"
    return "go by a type between them"
