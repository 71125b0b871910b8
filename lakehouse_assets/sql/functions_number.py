"""Numbers: arithmetic functions, rounding, logarithms, choice between values.

What does not belong here: operators (`expressions.py`), aggregates (`functions_group.py`).
"""

from __future__ import annotations

from lakehouse_assets.sql import coerce
from lakehouse_assets.sql.functions import Call, Function
from lakehouse_assets.sql.typed import (
    BIGINT,
    BOOL,
    DOUBLE,
    Typed,
    bounded,
    duckdb_name,
    is_decimal,
    is_float,
    is_orderable,
    refused,
    show,
)

_MAX_SCALE = 15
_FAR = "9223372036854775807"


def _abs(call: Call) -> Typed:
    call.expect(1)
    value = call.number(0)
    if value.type is None:
        return call.give(f"abs({value.sql})", None)
    return call.give_cast(f"abs({coerce.widen(value, value.type).sql})", value.type)


def _sign(call: Call) -> Typed:
    call.expect(1)
    value = call.double(0).sql
    return call.give(
        f"CASE WHEN isnan({value}) OR {value} = 0 THEN {value} ELSE CAST(sign({value}) AS DOUBLE) END", DOUBLE
    )


def _sqrt(call: Call) -> Typed:
    call.expect(1)
    value = call.double(0).sql
    return call.give(f"CASE WHEN {value} < 0 THEN 'NaN'::DOUBLE ELSE sqrt({value}) END", DOUBLE)


def _exp(call: Call) -> Typed:
    call.expect(1)
    return call.give(f"exp({call.double(0).sql})", DOUBLE)


def _logarithm(function: str):  # type: ignore[no-untyped-def]
    def build(call: Call) -> Typed:
        call.expect(1)
        value = call.double(0).sql
        return call.give(f"CASE WHEN {value} > 0 THEN {function}({value}) END", DOUBLE)

    return build


def _power(call: Call) -> Typed:
    call.expect(2)
    return call.give(f"power({call.double(0).sql}, {call.double(1).sql})", DOUBLE)


def _round(call: Call) -> Typed:
    call.expect(1, 2)
    value = call.number(0)
    scale = call.whole(1) if len(call.args) == 2 else 0
    if value.type is None:
        return call.give(f"round({value.sql}, {scale})", None)
    if is_float(value.type):
        return _round_float(call, value, scale)
    if is_decimal(value.type):
        kept = min(scale, value.type.scale)
        target = bounded(max(value.type.precision - value.type.scale + 1 + max(kept, 0), -kept + 1), max(kept, 0))
        return call.give_cast(f"round({value.sql}, {kept})", target)
    if scale >= 0:
        return coerce.widen(value, value.type).named(call.node)
    return call.give_cast(f"round(CAST({value.sql} AS DECIMAL(20,0)), {scale})", value.type)


def _round_float(call: Call, value: Typed, scale: int) -> Typed:
    """Spark rounds the shortest decimal text of a double; a double in decimal text has 17 digits at most."""
    if not 0 <= scale <= _MAX_SCALE:
        raise refused(
            f"round() of {show(value.type)} takes 0 to {_MAX_SCALE} decimals here", "divide, round and multiply"
        )
    wide = coerce.widen(value, DOUBLE).sql if value.type != DOUBLE or value.literal else value.sql
    digits = f"CAST(CAST({wide} AS VARCHAR) AS DECIMAL(38,{scale + 18}))"
    rounded = f"CAST(round({digits}, {scale}) AS DOUBLE)"
    sql = f"CASE WHEN abs({wide}) < 1e{19 - scale} THEN CAST(CAST({rounded} AS VARCHAR) AS DOUBLE) ELSE {wide} END"
    return call.give(f"CAST({sql} AS {duckdb_name(value.type)})", value.type)


def _to_whole(function: str):  # type: ignore[no-untyped-def]
    def build(call: Call) -> Typed:
        call.expect(1)
        value = call.number(0)
        if value.type is None:
            return call.give(f"{function}({value.sql})", None)
        if is_decimal(value.type):
            target = bounded(value.type.precision - value.type.scale + (1 if value.type.scale else 0), 0)
            return call.give_cast(f"{function}({value.sql})", target)
        if is_float(value.type):
            wide = coerce.widen(value, DOUBLE).sql
            return call.give(
                f"CASE WHEN isnan({wide}) THEN 0 WHEN {wide} >= {_FAR}.0::DOUBLE THEN {_FAR} "
                f"WHEN {wide} <= -{_FAR}.0::DOUBLE THEN -{_FAR} - 1 ELSE CAST({function}({wide}) AS BIGINT) END",
                BIGINT,
            )
        return coerce.widen(value, BIGINT).named(call.node)

    return build


def _mod(call: Call) -> Typed:
    call.expect(2)
    return call.translator.remainder(call.node, *call.args)


def _pmod(call: Call) -> Typed:
    call.expect(2)
    left, right = call.args
    once = call.translator.remainder(call.node, left, right)
    if is_float(once.type) or is_decimal(once.type):
        raise refused("pmod() takes integers here", "use CASE WHEN x % y < 0 THEN x % y + y ELSE x % y END")
    divisor = coerce.widen(right, once.type).sql
    return call.give(
        f"CASE WHEN {once.sql} < 0 THEN ({once.sql} + {divisor}) % {divisor} ELSE {once.sql} END", once.type
    )


def _try_divide(call: Call) -> Typed:
    call.expect(2)
    left, right = call.double(0), call.double(1)
    if is_decimal(call.args[0].type) or is_decimal(call.args[1].type):
        raise refused("try_divide() of decimals rounds differently on the engines", "CAST both sides to DOUBLE")
    return call.give(f"CASE WHEN {right.sql} <> 0 THEN {left.sql} / {right.sql} END", DOUBLE)


def _negative(call: Call) -> Typed:
    call.expect(1)
    return call.translator.negate(call.node, call.number(0))


def _extreme(function: str):  # type: ignore[no-untyped-def]
    def build(call: Call) -> Typed:
        call.expect(2, 100)
        values, kind = call.alike()
        if not is_orderable(kind) or kind == BOOL:
            raise refused(f"{call.name}() of {show(kind)} is not the same on both engines", "use CASE")
        return call.give(f"{function}({', '.join(value.sql for value in values)})", kind)

    return build


def _coalesce(call: Call) -> Typed:
    call.expect(1, 100)
    values, kind = call.alike()
    return call.give(f"coalesce({', '.join(value.sql for value in values)})", kind)


def _two(call: Call) -> Typed:
    call.expect(2)
    return _coalesce(call)


def _if(call: Call) -> Typed:
    call.expect(3)
    condition = call.boolean(0)
    (yes, no), kind = call.alike((1, 2))
    return call.give(f"CASE WHEN {condition.sql} THEN {yes.sql} ELSE {no.sql} END", kind)


def _nvl2(call: Call) -> Typed:
    call.expect(3)
    (yes, no), kind = call.alike((1, 2))
    return call.give(f"CASE WHEN {call.args[0].sql} IS NOT NULL THEN {yes.sql} ELSE {no.sql} END", kind)


def _nullif(call: Call) -> Typed:
    call.expect(2)
    first = call.args[0]
    equal = call.translator.compare("=", *call.args)
    return call.give(f"CASE WHEN {equal.sql} THEN NULL ELSE {coerce.widen(first, first.type).sql} END", first.type)


def _isnull(call: Call) -> Typed:
    call.expect(1)
    return call.give(f"({call.args[0].sql} IS NULL)", BOOL)


def _isnotnull(call: Call) -> Typed:
    call.expect(1)
    return call.give(f"({call.args[0].sql} IS NOT NULL)", BOOL)


def _isnan(call: Call) -> Typed:
    call.expect(1)
    value = call.double(0).sql
    return call.give(f"coalesce(isnan({value}), false)", BOOL)


_ULP = "last digit of the double may differ between machines"

FUNCTIONS = {
    "abs": Function("absolute value, of the same type; the smallest integer raises", _abs),
    "sign": Function("-1.0, 0.0 or 1.0", _sign),
    "signum": Function("-1.0, 0.0 or 1.0", _sign),
    "sqrt": Function("NaN for negative numbers", _sqrt),
    "exp": Function(_ULP, _exp),
    "ln": Function(f"NULL for zero and below; {_ULP}", _logarithm("ln")),
    "log10": Function(f"NULL for zero and below; {_ULP}", _logarithm("log10")),
    "log2": Function(f"NULL for zero and below; {_ULP}", _logarithm("log2")),
    "power": Function(_ULP, _power),
    "pow": Function(_ULP, _power),
    "round": Function("halves away from zero on the decimal text of the number; a literal number of decimals", _round),
    "floor": Function("BIGINT of doubles and integers, DECIMAL of decimals", _to_whole("floor")),
    "ceil": Function("BIGINT of doubles and integers, DECIMAL of decimals", _to_whole("ceil")),
    "ceiling": Function("BIGINT of doubles and integers, DECIMAL of decimals", _to_whole("ceil")),
    "mod": Function("remainder with the sign of the first operand; zero raises", _mod),
    "pmod": Function("remainder that is not negative, of integers; zero raises", _pmod),
    "try_divide": Function("division of doubles that gives NULL for zero", _try_divide),
    "negative": Function("the number with the other sign", _negative),
    "greatest": Function("NULL is skipped, NaN is the greatest", _extreme("greatest")),
    "least": Function("NULL is skipped, NaN is the greatest", _extreme("least")),
    "coalesce": Function("the first value that is not NULL", _coalesce),
    "nvl": Function("the second value where the first is NULL", _two),
    "ifnull": Function("the second value where the first is NULL", _two),
    "nvl2": Function("the second value where the first is not NULL, else the third", _nvl2),
    "nullif": Function("NULL where both are equal", _nullif),
    "if": Function("the second value where the condition is true, else the third", _if),
    "isnull": Function("whether the value is NULL", _isnull),
    "isnotnull": Function("whether the value is not NULL", _isnotnull),
    "isnan": Function("whether the double is NaN; false for NULL", _isnan),
}
