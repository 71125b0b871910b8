"""Comparisons: operators, BETWEEN, IN, LIKE, RLIKE, EXISTS, and what text means that meets something else.

What does not belong here: logic and arithmetic (`expressions.py`), patterns (`patterns.py`).
"""

from __future__ import annotations

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.sql import coerce, functions_text, patterns, typed
from lakehouse_assets.sql.parse import Transform, render
from lakehouse_assets.sql.translator import Core, Kinds
from lakehouse_assets.sql.typed import BOOL, DATE, DOUBLE, NULL, STRING, Typed, refused, show
from lakehouse_assets.sql.types import spark_type

OPERATORS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM",
    exp.NullSafeNEQ: "IS DISTINCT FROM",
}
_PREDICATES = (exp.Is, exp.Not, exp.In, exp.Between, exp.Like, exp.ILike, exp.Escape, exp.RegexpLike, exp.Connector)
_EQUALITIES = ("=", "<>", "IS NOT DISTINCT FROM", "IS DISTINCT FROM")


def clear(node: exp.Expr, *operands: exp.Expr) -> None:
    """Refuse a predicate beside a comparison without parentheses: the engines' grammars read that differently."""
    for operand in operands:
        if isinstance(operand, _PREDICATES):
            raise refused(f"{render(operand)!r} in {render(node)!r} is not clear", "put it in parentheses")


ONE_ROW = "a query inside is not allowed here: one row is judged at a time"


class Comparisons(Core):
    """The comparisons of a translator."""

    def _comparison(self, node: exp.Expr) -> Typed:
        clear(node, node.this, node.expression)
        left, right = self.visit(node.this), self.visit(node.expression)
        return self.compare(OPERATORS[type(node)], left, right)

    def compare(self, operator: str, left: Typed, right: Typed) -> Typed:
        """A comparison of two values, brought to one type as Spark does, or more explicitly."""
        left, right = self._meet(left, right), self._meet(right, left)
        kind = typed.common(left.type, right.type)
        if kind is not None and pa.types.is_map(kind):
            raise refused("maps cannot be compared", "compare their values by key")
        if operator not in _EQUALITIES and not typed.is_orderable(kind):
            raise refused(f"{show(kind)} has no order that both engines share", "compare its fields")
        return Typed(f"({coerce.widen(left, kind).sql} {operator} {coerce.widen(right, kind).sql})", BOOL)

    def _meet(self, value: Typed, other: Typed) -> Typed:
        """Text that meets a number or a moment, made what it meets; the tree gets the TRY_CAST."""
        if value.type != STRING or other.type in (None, NULL, STRING):
            return value
        if other.type == DATE or typed.is_timestamp(other.type):
            return self.moment_literal(value) if value.literal is not None else self._try_cast(value, other.type)
        if value.literal is not None:
            raise refused(
                f"the text {value.literal!r} meets {show(other.type)}", "write the value without quotes, or CAST it"
            )
        if typed.is_float(other.type) or (typed.is_number(other.type) and other.literal is not None):
            return self._try_cast(value, DOUBLE)
        raise refused(f"STRING meets {show(other.type)}", f"write CAST(… AS {show(other.type)})")

    def _try_cast(self, value: Typed, target: pa.DataType) -> Typed:
        node = value.node
        if node is None:
            return coerce.cast(value, target, safe=True)
        inner = node.copy()
        explicit = exp.TryCast(this=inner, to=exp.DataType.build(spark_type(target), dialect=Transform), safe=True)
        self.replace(node, explicit)
        return self.cast(explicit, inner, value.named(inner), target, safe=True).named(explicit)

    def _between(self, node: exp.Between) -> Typed:
        clear(node, node.this, node.args["low"], node.args["high"])
        value, low, high = self.visit(node.this), self.visit(node.args["low"]), self.visit(node.args["high"])
        at_least = self.compare(">=", value, low)
        at_most = self.compare("<=", value if node.this is value.node else self.visit(node.this), high)
        return Typed(f"({at_least.sql} AND {at_most.sql})", BOOL)

    def _in(self, node: exp.In) -> Typed:
        if isinstance(node.this, exp.Tuple):
            raise refused("IN of several columns is not portable", "join, or compare them one by one")
        clear(node, node.this)
        value = self.visit(node.this)
        if node.args.get("query") is not None:
            return self._in_query(node, value)
        options = [self.visit(option) for option in node.expressions]
        if not options:
            raise refused(f"{render(node)!r}: IN takes a list of values or a query")
        texts = value.type == STRING
        if texts and all(option.type != STRING for option in options):
            value = self._meet(value, options[0])
        options = [self._meet(option, value) for option in options]
        kind = typed.common_of([value.type, *(option.type for option in options)])
        listed = ", ".join(coerce.widen(option, kind).sql for option in options)
        return Typed(f"({coerce.widen(value, kind).sql} IN ({listed}))", BOOL)

    def _in_query(self, node: exp.In, value: Typed) -> Typed:
        sql, kinds = self._query(node.args["query"])
        if kinds is None:
            return Typed(f"({value.sql} IN ({sql}))", BOOL)
        if len(kinds) != 1:
            raise refused("the query after IN must give one column")
        kind = typed.common(value.type, kinds[0])
        if kind is not None and kinds[0] != kind:
            sql = f"SELECT CAST(c AS {typed.duckdb_name(kind)}) FROM ({sql}) AS q(c)"
        return Typed(f"({coerce.widen(value, kind).sql} IN ({sql}))", BOOL)

    def _exists(self, node: exp.Exists) -> Typed:
        sql, _ = self._query(node.this, exists=True)
        return Typed(f"EXISTS ({sql})", BOOL)

    def _subquery(self, node: exp.Expr) -> Typed:
        sql, kinds = self._query(node)
        if kinds is not None and len(kinds) != 1:
            raise refused("a query that stands for a value must give one column")
        return Typed(f"({sql})", kinds[0] if kinds else None)

    def _query(self, node: exp.Expr, *, exists: bool = False) -> tuple[str, Kinds]:
        if self.queries is None:
            raise refused(ONE_ROW)
        return self.queries.subquery(node, self.scope, exists=exists)

    def _like(self, node: exp.Expr) -> Typed:
        escape = "\\"
        if isinstance(node, exp.Escape):
            escape = str(node.expression.this)
            node = node.this
        return self.like(
            node, self.visit(node.this), self.visit(node.expression), escape, fold=isinstance(node, exp.ILike)
        )

    def like(self, node: exp.Expr, value: Typed, pattern: Typed, escape: str, *, fold: bool) -> Typed:
        """LIKE with a literal pattern; `fold` compares in lower case."""
        if value.type not in (None, STRING, NULL):
            raise refused(f"LIKE takes STRING, not {show(value.type)}", "write the CAST")
        if pattern.literal is None or pattern.type != STRING or len(escape) != 1:
            raise refused("the pattern of LIKE must be a literal", "use contains, startswith or endswith")
        written = patterns.like(pattern.literal, escape)
        subject = value.sql
        if fold:
            if not written.isascii():
                raise refused("ILIKE with letters beyond ASCII is not the same on both engines", "use lower(x) LIKE …")
            subject, written = f"({functions_text.lower(subject)})", written.lower()
        return Typed(f"({subject} LIKE {typed.text(written)} ESCAPE {typed.text(escape)})", BOOL)

    def _rlike(self, node: exp.RegexpLike) -> Typed:
        value, pattern = self.visit(node.this), self.visit(node.expression)
        if value.type not in (None, STRING, NULL) or pattern.literal is None:
            raise refused("RLIKE takes STRING and a literal pattern", "write the pattern itself")
        portable = patterns.regex(pattern.literal)
        self.replace(node.expression, exp.Literal.string(portable))
        return Typed(f"regexp_matches({value.sql}, {typed.text(portable)})", BOOL)
