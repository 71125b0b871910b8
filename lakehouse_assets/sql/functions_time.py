"""Dates and times, all in UTC: parts, arithmetic, truncation, text.

What does not belong here: adding intervals (`expressions.py`), casts (`coerce.py`).
"""

from __future__ import annotations

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.sql import coerce, patterns
from lakehouse_assets.sql.functions import Call, Function
from lakehouse_assets.sql.typed import BIGINT, DATE, INT, STRING, Typed, duckdb_name, is_integral, refused, show, text
from lakehouse_assets.sql.types import TIMESTAMP

_TRUNCATED = {
    "YEAR": "year", "YYYY": "year", "YY": "year", "QUARTER": "quarter", "MONTH": "month", "MM": "month", "MON": "month",
    "WEEK": "week", "DAY": "day", "DD": "day", "HOUR": "hour", "MINUTE": "minute", "SECOND": "second",
    "MILLISECOND": "milliseconds", "MICROSECOND": "microseconds",
}  # fmt: skip
_TRUNCATED_DATES = ("YEAR", "YYYY", "YY", "QUARTER", "MONTH", "MM", "MON", "WEEK")
_MICROS = {
    "MICROSECOND": 1,
    "MILLISECOND": 1000,
    "SECOND": 10**6,
    "MINUTE": 60 * 10**6,
    "HOUR": 3600 * 10**6,
    "DAY": 86400 * 10**6,
    "WEEK": 7 * 86400 * 10**6,
}


def _part(sql: str, time: bool = False):  # type: ignore[no-untyped-def]
    def build(call: Call) -> Typed:
        call.expect(1)
        value = call.timestamp(0) if time else call.date(0)
        return call.give_cast(sql.format(value.sql), INT)

    return build


def _days(sign: str):  # type: ignore[no-untyped-def]
    def build(call: Call) -> Typed:
        call.expect(2)
        if len(call.args) == 2 and call.args[1].type is not None and not is_integral(call.args[1].type):
            raise refused(f"{call.name}() takes whole days, not {show(call.args[1].type)}")
        return call.give(f"({call.date(0).sql} {sign} {call.integer(1).sql})", DATE)

    return build


def _add_months(call: Call) -> Typed:
    call.expect(2)
    return call.give_cast(f"{call.date(0).sql} + to_months({call.integer(1).sql})", DATE)


def _last_day(call: Call) -> Typed:
    call.expect(1)
    return call.give(f"last_day({call.date(0).sql})", DATE)


def _datediff(call: Call) -> Typed:
    call.expect(2, 3)
    if len(call.args) == 3:
        return _timestampdiff(call)
    return call.give_cast(f"({call.date(0).sql} - {call.date(1).sql})", INT)


def _timestampdiff(call: Call) -> Typed:
    call.expect(3)
    unit = _unit(call)
    if unit not in _MICROS:
        raise refused(f"{call.name}({unit}, …) is not the same on both engines", f"use {', '.join(_MICROS)}")
    start, stop = call.timestamp(1), call.timestamp(2)
    return call.give(f"((epoch_us({stop.sql}) - epoch_us({start.sql})) // {_MICROS[unit]})", BIGINT)


def _unit(call: Call) -> str:
    node = call.node.expressions[0]
    return str(node.name).upper() if isinstance(node, exp.Column | exp.Var | exp.Literal) else call.literal(0).upper()


def _date_trunc(call: Call) -> Typed:
    call.expect(2)
    unit = call.literal(0).upper()
    if unit not in _TRUNCATED:
        raise refused(f"date_trunc({unit!r}, …) is not on both engines", f"use {', '.join(_TRUNCATED)}")
    value = call.timestamp(1)
    if value.type is not None:
        value = coerce.cast(value, TIMESTAMP, safe=True)
    return call.give(f"date_trunc('{_TRUNCATED[unit]}', {value.sql})", TIMESTAMP)


def _trunc(call: Call) -> Typed:
    call.expect(2)
    unit = call.literal(1).upper()
    if unit not in _TRUNCATED_DATES:
        raise refused(f"trunc(…, {unit!r}) is not on both engines", f"use {', '.join(_TRUNCATED_DATES)}")
    return call.give_cast(f"date_trunc('{_TRUNCATED[unit]}', {call.date(0).sql})", DATE)


def _date_format(call: Call) -> Typed:
    call.expect(2)
    moment = patterns.moment(call.literal(1), parsing=False)
    return call.give(f"strftime({call.timestamp(0).sql}, {text(moment.strftime)})", STRING)


def _parse(target: pa.DataType, safe: bool):  # type: ignore[no-untyped-def]
    def build(call: Call) -> Typed:
        call.expect(1, 2)
        value = call.args[0]
        if len(call.args) == 1:
            return _parse_iso(call, value, target, safe)
        if value.type is not None and value.type != STRING:
            raise refused(f"{call.name}() with a pattern reads text, not {show(value.type)}")
        moment = patterns.moment(call.literal(1), parsing=True)
        parsed = f"try_strptime({value.sql}, {text(moment.strftime.replace('%g', '%f'))})"
        name = duckdb_name(target)
        parsed = f"CAST({parsed} AS {name})"
        fits = f"regexp_full_match({value.sql}, {text(moment.regex)})"
        sql = f"CASE WHEN {fits} THEN {parsed} END"
        _guard(call, f"^{moment.regex}$", safe)
        if safe:
            return call.give(sql, target)
        failing = f"CAST(error('a value does not fit the pattern: ' || {value.sql}) AS {name})"
        return call.give(f"CASE WHEN {value.sql} IS NOT NULL AND ({sql}) IS NULL THEN {failing} ELSE {sql} END", target)

    return build


def _parse_iso(call: Call, value: Typed, target: pa.DataType, safe: bool) -> Typed:
    """Without a pattern it is a cast, on Spark as well."""
    found = call.translator.cast(call.node, call.node.expressions[0], value, target, safe)
    return found.named(call.node)


def _guard(call: Call, pattern: str, safe: bool) -> None:
    """Let Spark read only what fits the pattern exactly (`yyyy` takes years of more digits there)."""
    call.translator.guard(call.node.expressions[0], pattern, safe)


def _make_date(call: Call) -> Typed:
    call.expect(3)
    parts = ", ".join(call.integer(i, BIGINT).sql for i in range(3))
    return call.give(f"make_date({parts})", DATE)


def _epoch(unit: int):  # type: ignore[no-untyped-def]
    def build(call: Call) -> Typed:
        call.expect(1)
        if call.args[0].type == STRING:
            raise refused(f"{call.name}() of text depends on a pattern", "write to_timestamp(…) inside")
        micros = f"epoch_us({call.timestamp(0).sql})"
        if call.name == "unix_timestamp":
            return call.give(f"({micros} // {unit})", BIGINT)
        if unit == 1:
            return call.give(micros, BIGINT)
        return call.give(f"(({micros} - (({micros} % {unit}) + {unit}) % {unit}) // {unit})", BIGINT)

    return build


def _from_epoch(unit: int):  # type: ignore[no-untyped-def]
    def build(call: Call) -> Typed:
        call.expect(1)
        return call.give(f"make_timestamptz({call.integer(0, BIGINT).sql} * {unit})", TIMESTAMP)

    return build


def _date(call: Call) -> Typed:
    call.expect(1)
    return call.translator.cast(call.node, call.node.expressions[0], call.args[0], DATE, False).named(call.node)


_UTC = "in UTC"

FUNCTIONS = {
    "year": Function(_UTC, _part("year({})")),
    "quarter": Function(_UTC, _part("quarter({})")),
    "month": Function(_UTC, _part("month({})")),
    "day": Function(f"of the month, {_UTC}", _part("day({})")),
    "dayofmonth": Function(_UTC, _part("day({})")),
    "dayofweek": Function("1 is Sunday", _part("dayofweek({}) + 1")),
    "weekday": Function("0 is Monday", _part("isodow({}) - 1")),
    "dayofyear": Function(_UTC, _part("dayofyear({})")),
    "weekofyear": Function("of the ISO year", _part("weekofyear({})")),
    "hour": Function(_UTC, _part("hour({})", time=True)),
    "minute": Function(_UTC, _part("minute({})", time=True)),
    "second": Function("whole seconds", _part("second({})", time=True)),
    "date_add": Function("days later", _days("+")),
    "dateadd": Function("days later", _days("+")),
    "date_sub": Function("days earlier", _days("-")),
    "add_months": Function("the same day, or the last one of a shorter month", _add_months),
    "last_day": Function("of the month", _last_day),
    "datediff": Function("days from the second to the first; with a unit: as timestampdiff", _datediff),
    "date_diff": Function("days from the second to the first; with a unit: as timestampdiff", _datediff),
    "timestampdiff": Function("whole units from the second argument to the third; days and shorter", _timestampdiff),
    "date_trunc": Function("the start of the unit, as TIMESTAMP; weeks begin on Monday", _date_trunc),
    "trunc": Function("the start of the year, quarter, month or week, as DATE", _trunc),
    "date_format": Function("text by a literal pattern; English names", _date_format),
    "to_date": Function("text in ISO 8601, or by a literal pattern; what does not fit raises", _parse(DATE, False)),
    "try_to_date": Function("text in ISO 8601, or by a literal pattern; what does not fit is NULL", _parse(DATE, True)),
    "to_timestamp": Function(
        "text in ISO 8601, or by a literal pattern; what does not fit raises", _parse(TIMESTAMP, False)
    ),
    "try_to_timestamp": Function(
        "text in ISO 8601, or by a literal pattern; what does not fit is NULL", _parse(TIMESTAMP, True)
    ),
    "date": Function("CAST AS DATE", _date),
    "make_date": Function("a day that does not exist raises", _make_date),
    "unix_timestamp": Function("whole seconds since 1970, cut towards zero", _epoch(10**6)),
    "unix_seconds": Function("whole seconds since 1970, rounded down", _epoch(10**6)),
    "unix_millis": Function("whole milliseconds since 1970, rounded down", _epoch(1000)),
    "unix_micros": Function("microseconds since 1970", _epoch(1)),
    "timestamp_seconds": Function("of whole seconds since 1970", _from_epoch(10**6)),
    "timestamp_millis": Function("of milliseconds since 1970", _from_epoch(1000)),
    "timestamp_micros": Function("of microseconds since 1970", _from_epoch(1)),
}
