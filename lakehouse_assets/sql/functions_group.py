"""Aggregates and window functions.

What does not belong here: OVER and FILTER themselves (`expressions.py`). Sums and means of doubles depend on the order
of the rows in their last digits, on one engine as between two: round them where that shows.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import exp

from lakehouse_assets.sql.functions import Call, Function
from lakehouse_assets.sql.typed import (
    BIGINT,
    BOOL,
    DOUBLE,
    INT,
    MAX_PRECISION,
    Typed,
    bounded,
    is_decimal,
    is_integral,
    is_orderable,
    refused,
    show,
)


def _distinct(call: Call) -> str:
    return "DISTINCT " if call.distinct else ""


def _count(call: Call) -> Typed:
    if isinstance(call.node.expressions[0] if call.node.expressions else None, exp.Star):
        return call.give(call.aggregate("count(*)"), BIGINT)
    call.expect(1, 100)
    values = [value.sql for value in call.args]
    if len(values) == 1:
        return call.give(call.aggregate(f"count({_distinct(call)}{values[0]})"), BIGINT)
    known = " AND ".join(f"{value} IS NOT NULL" for value in values)
    packed = f"CASE WHEN {known} THEN row({', '.join(values)}) END"
    return call.give(call.aggregate(f"count({_distinct(call)}{packed})"), BIGINT)


def _count_if(call: Call) -> Typed:
    call.expect(1)
    return call.give(call.aggregate(f"count({_distinct(call)}CASE WHEN {call.boolean(0).sql} THEN true END)"), BIGINT)


def _sum(call: Call) -> Typed:
    call.expect(1)
    value = call.number(0)
    if value.type is None:
        return call.give(call.aggregate(f"sum({_distinct(call)}{value.sql})"), None)
    if is_integral(value.type):
        return call.give_cast(call.aggregate(f"sum({_distinct(call)}{value.sql})"), BIGINT)
    if is_decimal(value.type):
        target = bounded(min(value.type.precision + 10, MAX_PRECISION), value.type.scale)
        return call.give_cast(call.aggregate(f"sum({_distinct(call)}{value.sql})"), target)
    return call.give(call.aggregate(f"sum({_distinct(call)}{call.double(0).sql})"), DOUBLE)


def _avg(call: Call) -> Typed:
    call.expect(1)
    if is_decimal(call.args[0].type):
        raise refused("avg() of decimals rounds differently on the engines", "write avg(CAST(x AS DOUBLE))")
    return call.give(call.aggregate(f"avg({_distinct(call)}{call.double(0).sql})"), DOUBLE)


def _extreme(call: Call) -> Typed:
    call.expect(1)
    value = call.args[0]
    if not is_orderable(value.type):
        raise refused(f"{call.name}() of {show(value.type)} is not the same on both engines", "take it of a field")
    return call.give(call.aggregate(f"{call.name}({value.sql})"), value.type)


def _spread(function: str, least: int) -> Callable[[Call], Typed]:
    """Variance and its kin: NaN where a value is not finite (DuckDB raises there)."""

    def build(call: Call) -> Typed:
        call.expect(1)
        if call.distinct:
            raise refused(f"{call.name}(DISTINCT …) is not portable", "select the distinct values first")
        value = call.double(0).sql
        strange = call.aggregate(f"count(CASE WHEN NOT isfinite({value}) THEN 1 END)")
        enough = f"{call.aggregate(f'count({value})')} < {least}"
        finite = call.aggregate(f"{function}(CASE WHEN isfinite({value}) THEN {value} END)")
        return call.give(
            f"CASE WHEN {enough} THEN NULL WHEN {strange} > 0 THEN 'NaN'::DOUBLE ELSE {finite} END", DOUBLE
        )

    return build


_CORR = (
    "try_divide(covar_pop({x}, {y}), stddev_pop(CASE WHEN {y} IS NOT NULL THEN {x} END) "
    "* stddev_pop(CASE WHEN {x} IS NOT NULL THEN {y} END))"
)


def _corr(call: Call) -> Typed:
    """Both engines compute it from covariance and deviations: Spark's own raises where one side is constant."""
    call.expect(2)
    if call.suffix or call.distinct:
        raise refused("corr() with OVER, FILTER or DISTINCT is not portable", "group instead")
    return call.translator.rewrite(call.node, _CORR, x=call.node.expressions[0], y=call.node.expressions[1])


def _covar(call: Call) -> Typed:
    call.expect(2)
    x, y = call.double(0).sql, call.double(1).sql
    least = 1 if call.name == "covar_pop" else 2
    enough = call.aggregate(f"count(CASE WHEN {x} IS NOT NULL AND {y} IS NOT NULL THEN 1 END)")
    strange = call.aggregate(
        f"count(CASE WHEN NOT isfinite({x}) AND {y} IS NOT NULL OR NOT isfinite({y}) AND {x} IS NOT NULL THEN 1 END)"
    )
    fit = f"isfinite({x}) AND isfinite({y})"
    finite = call.aggregate(f"{call.name}(CASE WHEN {fit} THEN {y} END, CASE WHEN {fit} THEN {x} END)")
    return call.give(
        f"CASE WHEN {enough} < {least} THEN NULL WHEN {strange} > 0 THEN 'NaN'::DOUBLE ELSE {finite} END", DOUBLE
    )


def _logical(function: str) -> Callable[[Call], Typed]:
    def build(call: Call) -> Typed:
        call.expect(1)
        return call.give(call.aggregate(f"{function}({call.boolean(0).sql})"), BOOL)

    return build


def _needs_order(call: Call) -> None:
    if not call.suffix:
        raise refused(f"{call.name}() needs OVER (…)", f"write {call.name}() OVER (PARTITION BY … ORDER BY …)")
    if "ORDER BY" not in call.suffix:
        raise refused(f"{call.name}() needs ORDER BY in OVER (…): without it the answer is not defined")


def _rank(call: Call) -> Typed:
    call.expect(0)
    _needs_order(call)
    return call.give_cast(call.aggregate(f"{call.name}()"), INT)


def _share(call: Call) -> Typed:
    call.expect(0)
    _needs_order(call)
    return call.give(call.aggregate(f"{call.name}()"), DOUBLE)


def _ntile(call: Call) -> Typed:
    call.expect(1)
    _needs_order(call)
    return call.give_cast(call.aggregate(f"ntile({call.whole(0)})"), INT)


def _nulls(call: Call) -> str:
    return " IGNORE NULLS" if call.ignore_nulls else ""


def _neighbour(call: Call) -> Typed:
    call.expect(1, 3)
    _needs_order(call)
    kind = call.args[0].type
    offset = call.whole(1) if len(call.args) > 1 else 1
    rest = ""
    if len(call.args) == 3:
        (value, default), kind = call.alike((0, 2))
        rest = f", {default.sql}"
    else:
        value = call.args[0]
    return call.give(call.aggregate(f"{call.name}({value.sql}, {offset}{rest}{_nulls(call)})"), kind)


def _edge(call: Call) -> Typed:
    call.expect(1)
    _needs_order(call)
    return call.give(call.aggregate(f"{call.name}({call.args[0].sql}{_nulls(call)})"), call.args[0].type)


_DEFINED = "needs ORDER BY; a literal offset"
_FLOAT_SUM = "of doubles: the last digits depend on the order of the rows"

FUNCTIONS = {
    "count": Function("of rows, or of rows without NULL", _count, "group"),
    "count_if": Function("of rows for which the condition is true", _count_if, "group"),
    "sum": Function(f"BIGINT of integers, a wider DECIMAL of decimals; {_FLOAT_SUM}", _sum, "group"),
    "avg": Function(f"DOUBLE; {_FLOAT_SUM}", _avg, "group"),
    "mean": Function(f"DOUBLE; {_FLOAT_SUM}", _avg, "group"),
    "min": Function("NaN is the greatest double; of 0.0 and -0.0 it may keep either", _extreme, "group"),
    "max": Function("NaN is the greatest double; of 0.0 and -0.0 it may keep either", _extreme, "group"),
    "stddev": Function("of a sample; NULL of one row", _spread("stddev_samp", 2), "group"),
    "std": Function("of a sample; NULL of one row", _spread("stddev_samp", 2), "group"),
    "stddev_samp": Function("of a sample; NULL of one row", _spread("stddev_samp", 2), "group"),
    "stddev_pop": Function("of a population", _spread("stddev_pop", 1), "group"),
    "variance": Function("of a sample; NULL of one row", _spread("var_samp", 2), "group"),
    "var_samp": Function("of a sample; NULL of one row", _spread("var_samp", 2), "group"),
    "var_pop": Function("of a population", _spread("var_pop", 1), "group"),
    "corr": Function("NULL where one side is constant", _corr, "group"),
    "covar_samp": Function("of a sample", _covar, "group"),
    "covar_pop": Function("of a population", _covar, "group"),
    "bool_and": Function("whether all are true; NULL is skipped", _logical("bool_and"), "group"),
    "every": Function("whether all are true; NULL is skipped", _logical("bool_and"), "group"),
    "bool_or": Function("whether one is true; NULL is skipped", _logical("bool_or"), "group"),
    "any": Function("whether one is true; NULL is skipped", _logical("bool_or"), "group"),
    "some": Function("whether one is true; NULL is skipped", _logical("bool_or"), "group"),
    "row_number": Function("INT; needs ORDER BY", _rank, "window"),
    "rank": Function("INT; needs ORDER BY", _rank, "window"),
    "dense_rank": Function("INT; needs ORDER BY", _rank, "window"),
    "percent_rank": Function("needs ORDER BY", _share, "window"),
    "cume_dist": Function("needs ORDER BY", _share, "window"),
    "ntile": Function("INT; needs ORDER BY; a literal number", _ntile, "window"),
    "lag": Function(_DEFINED, _neighbour, "window"),
    "lead": Function(_DEFINED, _neighbour, "window"),
    "first_value": Function("needs ORDER BY; IGNORE NULLS is allowed", _edge, "window"),
    "last_value": Function("needs ORDER BY; IGNORE NULLS is allowed", _edge, "window"),
}
