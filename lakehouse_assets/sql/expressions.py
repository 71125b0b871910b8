"""Expressions: Spark SQL trees to DuckDB SQL, with the type of every part.

What belongs here: names, literals, parameters, logic, CASE, arithmetic, casts, and the table that says which node is
translated by what. What does not: comparisons (`comparisons.py`), calls (`calls.py`), casts between types
(`coerce.py`), FROM and SELECT (`relations.py`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.errors import LakehouseError
from lakehouse_assets.sql import arithmetic, coerce, functions, typed
from lakehouse_assets.sql.calls import Calls
from lakehouse_assets.sql.comparisons import OPERATORS, Comparisons, clear
from lakehouse_assets.sql.parse import Transform, parse_expression, render
from lakehouse_assets.sql.scope import fields
from lakehouse_assets.sql.typed import BOOL, DATE, DOUBLE, NULL, STRING, Typed, refused
from lakehouse_assets.sql.types import TIMESTAMP, arrow_type

PARAMETERS: Mapping[str, pa.DataType] = {"run_date": DATE}
"""The parameters that a transform may name, with `:` before them, and their types."""


class Translator(Comparisons, Calls):
    """Translates the expressions of one SELECT; see `translator.Core`."""

    # names and literals

    def _column(self, node: exp.Column) -> Typed:
        if isinstance(node.this, exp.Star):
            raise refused("t.* can only stand alone in a select list")
        parts = [part.name for part in node.parts]
        bare = len(parts) == 1 and not node.this.quoted and parts[0].lower() in (*functions.CLOCK, *functions.SESSION)
        try:
            found = self.scope.resolve(node, parts)
        except LakehouseError:
            if bare:
                functions.lookup(parts[0])
            raise
        if bare and found.type is None:
            functions.lookup(parts[0])
        return found

    def _identifier(self, node: exp.Identifier) -> Typed:
        return self.scope.resolve(node, [node.name])

    def _dot(self, node: exp.Dot) -> Typed:
        if not isinstance(node.expression, exp.Identifier):
            raise refused(f"{render(node)!r}: a field name must follow the dot")
        return fields(self.visit(node.this), [node.expression.name])

    def _literal(self, node: exp.Literal) -> Typed:
        if node.is_string:
            return Typed(typed.text(node.this), STRING)
        return _number(str(node.this))

    def _raw_string(self, node: exp.RawString) -> Typed:
        return Typed(typed.text(str(node.this)), STRING)

    def _boolean(self, node: exp.Boolean) -> Typed:
        return Typed("true" if node.this else "false", BOOL)

    def _null(self, node: exp.Null) -> Typed:
        return Typed("NULL", NULL)

    def _placeholder(self, node: exp.Placeholder) -> Typed:
        name = str(node.this or "")
        if self.params is None:
            if name not in PARAMETERS:
                raise refused(f"there is no parameter :{name}", f"use {', '.join(':' + known for known in PARAMETERS)}")
            return Typed("NULL", PARAMETERS[name])
        if name not in self.params:
            raise refused(f"the parameter :{name} has no value", f"known: {', '.join(self.params) or 'none'}")
        value, spark = _parameter(name, self.params[name])
        self.replace(node, parse_expression(spark, f":{name}"))
        return value

    def _interval(self, node: exp.Interval) -> Typed:
        return arithmetic.interval(node)

    # structure

    def _paren(self, node: exp.Paren) -> Typed:
        inner = self.visit(node.this)
        return Typed(f"({inner.sql})", inner.type)

    def _alias(self, node: exp.Alias) -> Typed:
        return self.visit(node.this)

    def _connector(self, node: exp.Connector) -> Typed:
        word = "AND" if isinstance(node, exp.And) else "OR"
        left, right = (
            self.condition(node.this, f"an operand of {word}"),
            self.condition(node.expression, f"an operand of {word}"),
        )
        return Typed(f"({left.sql} {word} {right.sql})", BOOL)

    def _not(self, node: exp.Not) -> Typed:
        return Typed(f"(NOT {self.condition(node.this, 'the operand of NOT').sql})", BOOL)

    def _is(self, node: exp.Is) -> Typed:
        clear(node, node.this)
        value, what = self.visit(node.this), node.expression
        if isinstance(what, exp.Null):
            return Typed(f"({value.sql} IS NULL)", BOOL)
        if isinstance(what, exp.Boolean) and value.type in (None, BOOL, NULL):
            return Typed(
                f"(coalesce({value.sql}, {'false' if what.this else 'true'}) = {'true' if what.this else 'false'})",
                BOOL,
            )
        raise refused(f"{render(node)!r}: IS takes NULL, and TRUE or FALSE for a BOOLEAN")

    def _case(self, node: exp.Case) -> Typed:
        subject = self.visit(node.this) if node.this is not None else None
        conditions, results = [], []
        for branch in node.args["ifs"]:
            if subject is None:
                conditions.append(self.condition(branch.this, "a condition of CASE").sql)
            else:
                conditions.append(self.compare("=", subject, self.visit(branch.this)).sql)
            results.append(self.visit(branch.args["true"]))
        default = node.args.get("default")
        if default is not None:
            results.append(self.visit(default))
        kind = typed.common_of(result.type for result in results)
        values = [coerce.widen(result, kind).sql for result in results]
        whens = " ".join(f"WHEN {c} THEN {v}" for c, v in zip(conditions, values, strict=False))
        last = f" ELSE {values[-1]}" if default is not None else ""
        return Typed(f"CASE {whens}{last} END", kind)

    # comparison

    # arithmetic

    def _arithmetic(self, node: exp.Binary) -> Typed:
        return arithmetic.binary(node, self.visit(node.this), self.visit(node.expression))

    def remainder(self, node: exp.Expr, left: Typed, right: Typed) -> Typed:
        """`left % right`."""
        return arithmetic.remainder(left, right)

    def _neg(self, node: exp.Neg) -> Typed:
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return _number(f"-{node.this.this}")
        return self.negate(node, self.visit(node.this))

    def negate(self, node: exp.Expr, value: Typed) -> Typed:
        """The number with the other sign."""
        return arithmetic.negate(value)

    def _concat(self, node: exp.DPipe) -> Typed:
        sides = [self.visit(node.this), self.visit(node.expression)]
        texts = [s if s.type in (None, STRING) else coerce.cast(s, STRING, safe=True) for s in sides]
        return Typed(f"({texts[0].sql} || {texts[1].sql})", STRING)

    def _bracket(self, node: exp.Bracket) -> Typed:
        items, index = self.visit(node.this), self.visit(node.expressions[0])
        if len(node.expressions) != 1:
            raise refused(f"{render(node)!r}: one index is needed")
        return arithmetic.element(items, index)

    # casts

    def _cast(self, node: exp.Cast) -> Typed:
        target = arrow_type(node.to.sql(dialect=Transform))
        operand = node.this
        value = self.visit(operand)
        return self.cast(node, node.this, value, target, safe=isinstance(node, exp.TryCast))

    # calls


def _number(written: str) -> Typed:
    """A numeric literal: INT, BIGINT or DECIMAL by its digits; DOUBLE with an exponent."""
    if "e" in written.lower():
        return Typed(f"CAST('{written}' AS DOUBLE)", DOUBLE)
    digits = written.lstrip("-")
    if "." in digits:
        whole, _, rest = digits.partition(".")
        scale = len(rest)
        precision = max(len((whole + rest).lstrip("0")), scale, 1)
        kind = typed.bounded(precision, scale)
        return Typed(f"CAST('{written}' AS {typed.duckdb_name(kind)})", kind)
    value = int(written)
    for kind, bits in ((typed.INT, 31), (typed.BIGINT, 63)):
        if -(2**bits) <= value < 2**bits:
            return Typed(f"({written})" if value < 0 else written, kind)
    kind = typed.bounded(len(digits.lstrip("0")), 0)
    return Typed(f"CAST('{written}' AS {typed.duckdb_name(kind)})", kind)


def _parameter(name: str, value: object) -> tuple[Typed, str]:
    """The value of a parameter: as DuckDB SQL, and as Spark SQL."""
    if PARAMETERS.get(name) == DATE and isinstance(value, str):
        value = dt.date.fromisoformat(value)
    if value is None:
        return Typed("NULL", NULL), "NULL"
    if isinstance(value, bool):
        return Typed(str(value).lower(), BOOL), str(value).lower()
    if isinstance(value, int):
        return Typed(f"CAST({value} AS BIGINT)", typed.BIGINT), f"CAST({value} AS BIGINT)"
    if isinstance(value, dt.datetime):
        utc = value.astimezone(dt.UTC) if value.tzinfo else value
        stamp = utc.replace(tzinfo=None).isoformat(sep=" ") + "+00:00"
        return Typed(f"CAST('{stamp}' AS TIMESTAMPTZ)", TIMESTAMP), f"CAST('{stamp}' AS TIMESTAMP)"
    if isinstance(value, dt.date):
        return Typed(f"DATE '{value.isoformat()}'", DATE), f"CAST('{value.isoformat()}' AS DATE)"
    if isinstance(value, str):
        return Typed(typed.text(value), STRING), exp.Literal.string(value).sql(dialect=Transform)
    raise refused(
        f"the parameter :{name} cannot be a {type(value).__name__}",
        "give a date, a timestamp, text, an integer or a boolean",
    )


_HANDLERS: dict[type, Callable[[Any, Any], Typed]] = {
    **dict.fromkeys(OPERATORS, Translator._comparison),
    exp.Column: Translator._column,
    exp.Identifier: Translator._identifier,
    exp.Dot: Translator._dot,
    exp.Literal: Translator._literal,
    exp.RawString: Translator._raw_string,
    exp.Boolean: Translator._boolean,
    exp.Null: Translator._null,
    exp.Placeholder: Translator._placeholder,
    exp.Interval: Translator._interval,
    exp.Paren: Translator._paren,
    exp.Alias: Translator._alias,
    exp.And: Translator._connector,
    exp.Or: Translator._connector,
    exp.Not: Translator._not,
    exp.Is: Translator._is,
    exp.Case: Translator._case,
    exp.Between: Translator._between,
    exp.In: Translator._in,
    exp.Exists: Translator._exists,
    exp.Subquery: Translator._subquery,
    exp.Like: Translator._like,
    exp.ILike: Translator._like,
    exp.Escape: Translator._like,
    exp.RegexpLike: Translator._rlike,
    exp.Add: Translator._arithmetic,
    exp.Sub: Translator._arithmetic,
    exp.Mul: Translator._arithmetic,
    exp.Div: Translator._arithmetic,
    exp.IntDiv: Translator._arithmetic,
    exp.Mod: Translator._arithmetic,
    exp.Neg: Translator._neg,
    exp.DPipe: Translator._concat,
    exp.Bracket: Translator._bracket,
    exp.Cast: Translator._cast,
    exp.TryCast: Translator._cast,
    exp.Anonymous: Translator._call,
    exp.Filter: Translator._filtered,
    exp.Extract: Translator._extract,
    exp.Window: Translator._window,
}

Translator.HANDLERS = _HANDLERS
