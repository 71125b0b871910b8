"""Expressions: Spark SQL trees to DuckDB SQL, with the type of every part.

What belongs here: operators, literals, names, CASE, casts, calls, OVER. What does not: single functions
(`functions_*.py`), casts between types (`coerce.py`), FROM and SELECT (`relations.py`).

Where Spark would convert text in silence, the tree itself gets the explicit TRY_CAST, so that Spark's text, rendered
from the same tree, means the same.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Protocol

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.errors import LakehouseError
from lakehouse_assets.sql import arithmetic, coerce, functions, patterns, typed
from lakehouse_assets.sql.parse import Transform, parse_expression, render
from lakehouse_assets.sql.scope import Scope
from lakehouse_assets.sql.typed import BOOL, DATE, DOUBLE, NULL, STRING, Typed, refuse, show
from lakehouse_assets.sql.types import TIMESTAMP, TIMESTAMP_NTZ, arrow_type, spark_type

PARAMETERS: Mapping[str, pa.DataType] = {"run_date": DATE}
"""The parameters that a transform may name, with `:` before them, and their types."""

_BLANKS = "[ \\t\\n\\r\\f\\x0B]*"
_COMPARISONS = {exp.EQ: "=", exp.NEQ: "<>", exp.GT: ">", exp.GTE: ">=", exp.LT: "<", exp.LTE: "<=",
                exp.NullSafeEQ: "IS NOT DISTINCT FROM", exp.NullSafeNEQ: "IS DISTINCT FROM"}  # fmt: skip
_EQUALITIES = ("=", "<>", "IS NOT DISTINCT FROM", "IS DISTINCT FROM")
_UNIT_FIRST = ("timestampdiff", "datediff", "date_diff")


class Queries(Protocol):
    """What translates a subquery."""

    def subquery(self, node: exp.Expr, scope: Scope, *, exists: bool = False) -> tuple[str, list[pa.DataType | None] | None]:
        """The DuckDB SQL of a query and the types of its columns."""


class Translator:
    """Translates the expressions of one SELECT.

    Args:
        scope: what names mean.
        queries: what translates subqueries.
        params: the values of parameters; None where only types matter.
        problems: where faults are collected, while the tree stays as it is; None to raise the first, and to make
            the tree explicit.
    """

    def __init__(
        self,
        scope: Scope,
        queries: Queries | None = None,
        params: Mapping[str, object] | None = None,
        problems: list[str] | None = None,
    ) -> None:
        self.scope = scope
        self.queries = queries
        self.params = params
        self.problems = problems
        self.windows: Mapping[str, exp.Window] = {}
        self._moved: dict[int, exp.Expr] = {}

    def visit(self, node: exp.Expr) -> Typed:
        """The value of a node."""
        try:
            found = self._handler(node)(self, node)
        except LakehouseError as error:
            if self.problems is None:
                raise
            self.problems.append(error.problem + (f": {error.fix}" if error.fix else ""))
            found = Typed("NULL", None)
        return found.named(self._moved.pop(id(node), node))

    def _handler(self, node: exp.Expr) -> Callable[[Translator, exp.Expr], Typed]:
        if type(node) in _COMPARISONS:
            return Translator._comparison
        handler = _HANDLERS.get(type(node))
        if handler is None:
            refuse(f"{render(node)!r} is not in the part of Spark SQL that both engines share", _remedy(node))
        return handler

    # names and literals

    def _column(self, node: exp.Column) -> Typed:
        if isinstance(node.this, exp.Star):
            refuse("t.* can only stand alone in a select list")
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
        from lakehouse_assets.sql.scope import fields

        if not isinstance(node.expression, exp.Identifier):
            refuse(f"{render(node)!r}: a field name must follow the dot")
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
                refuse(f"there is no parameter :{name}", f"use {', '.join(':' + known for known in PARAMETERS)}")
            return Typed("NULL", PARAMETERS[name])
        if name not in self.params:
            refuse(f"the parameter :{name} has no value", f"known: {', '.join(self.params) or 'none'}")
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

    def condition(self, node: exp.Expr, what: str) -> Typed:
        """A value that must be BOOLEAN."""
        value = self.visit(node)
        if value.type not in (None, BOOL, NULL):
            refuse(f"{what} must be true or false, and {render(node)!r} is {show(value.type)}", "compare it with something")
        return value

    def _connector(self, node: exp.Connector) -> Typed:
        word = "AND" if isinstance(node, exp.And) else "OR"
        left, right = self.condition(node.this, f"an operand of {word}"), self.condition(node.expression, f"an operand of {word}")
        return Typed(f"({left.sql} {word} {right.sql})", BOOL)

    def _not(self, node: exp.Not) -> Typed:
        return Typed(f"(NOT {self.condition(node.this, 'the operand of NOT').sql})", BOOL)

    def _is(self, node: exp.Is) -> Typed:
        value, what = self.visit(node.this), node.expression
        if isinstance(what, exp.Null):
            return Typed(f"({value.sql} IS NULL)", BOOL)
        if isinstance(what, exp.Boolean) and value.type in (None, BOOL, NULL):
            return Typed(f"(coalesce({value.sql}, {'false' if what.this else 'true'}) = {'true' if what.this else 'false'})", BOOL)
        refuse(f"{render(node)!r}: IS takes NULL, and TRUE or FALSE for a BOOLEAN")

    def _case(self, node: exp.Case) -> Typed:
        subject = self.visit(node.this) if node.this is not None else None
        conditions, results = [], []
        for branch in node.args["ifs"]:
            if subject is None:
                conditions.append(self.condition(branch.this, "a condition of CASE").sql)
            else:
                conditions.append(self.compare(branch, "=", subject, self.visit(branch.this)).sql)
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

    def _comparison(self, node: exp.Expr) -> Typed:
        left, right = self.visit(node.this), self.visit(node.expression)
        return self.compare(node, _COMPARISONS[type(node)], left, right)

    def compare(self, node: exp.Expr, operator: str, left: Typed, right: Typed) -> Typed:
        """A comparison of two values, brought to one type as Spark does, or more explicitly."""
        left, right = self._meet(left, right), self._meet(right, left)
        kind = typed.common(left.type, right.type)
        if kind is not None and pa.types.is_map(kind):
            refuse("maps cannot be compared", "compare their values by key")
        if operator not in _EQUALITIES and not typed.is_orderable(kind):
            refuse(f"{show(kind)} has no order that both engines share", "compare its fields")
        return Typed(f"({coerce.widen(left, kind).sql} {operator} {coerce.widen(right, kind).sql})", BOOL)

    def _meet(self, value: Typed, other: Typed) -> Typed:
        """Text that meets a number or a moment, made what it meets; the tree gets the TRY_CAST."""
        if value.type != STRING or other.type in (None, NULL, STRING):
            return value
        if other.type == DATE or typed.is_timestamp(other.type):
            return self.moment_literal(value) if value.literal is not None else self._try_cast(value, other.type)
        if value.literal is not None:
            refuse(f"the text {value.literal!r} meets {show(other.type)}", "write the value without quotes, or CAST it")
        if typed.is_float(other.type) or (typed.is_number(other.type) and other.literal is not None):
            return self._try_cast(value, DOUBLE)
        refuse(f"STRING meets {show(other.type)}", f"write CAST(… AS {show(other.type)})")

    def _try_cast(self, value: Typed, target: pa.DataType) -> Typed:
        node = value.node
        if node is None:
            return coerce.cast(value, target, safe=True)
        inner = node.copy()
        explicit = exp.TryCast(this=inner, to=exp.DataType.build(spark_type(target), dialect=Transform), safe=True)
        self.replace(node, explicit)
        return self.cast(explicit, inner, value.named(inner), target, safe=True).named(explicit)

    def moment_literal(self, value: Typed) -> Typed:
        """A text literal that stands where a date or a timestamp is due."""
        written = (value.literal or "").strip()
        try:
            if not re.fullmatch(coerce.DATE_PATTERN, written):
                raise ValueError(written)
            day = datetime.date(*map(int, re.split("[ T]", written)[0].split("-")))
        except ValueError:
            refuse(f"the text {written!r} is not an ISO date or timestamp", "write it as 2024-01-31 or 2024-01-31 10:20:30")
        if re.fullmatch("[0-9]+-[0-9]+-[0-9]+", written):
            return Typed(f"DATE '{day.isoformat()}'", DATE, value.node)
        return coerce.cast(value, TIMESTAMP, safe=True)

    def _between(self, node: exp.Between) -> Typed:
        value, low, high = self.visit(node.this), self.visit(node.args["low"]), self.visit(node.args["high"])
        at_least = self.compare(node, ">=", value, low)
        at_most = self.compare(node, "<=", value if node.this is value.node else self.visit(node.this), high)
        return Typed(f"({at_least.sql} AND {at_most.sql})", BOOL)

    def _in(self, node: exp.In) -> Typed:
        if isinstance(node.this, exp.Tuple):
            refuse("IN of several columns is not portable", "join, or compare them one by one")
        value = self.visit(node.this)
        if node.args.get("query") is not None:
            return self._in_query(node, value)
        options = [self.visit(option) for option in node.expressions]
        if not options:
            refuse(f"{render(node)!r}: IN takes a list of values or a query")
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
            refuse("the query after IN must give one column")
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
            refuse("a query that stands for a value must give one column")
        return Typed(f"({sql})", kinds[0] if kinds else None)

    def _query(self, node: exp.Expr, *, exists: bool = False) -> tuple[str, list[pa.DataType | None] | None]:
        if self.queries is None:
            refuse("a query inside an expression needs a table to read", "use a table of source_format sql")
        return self.queries.subquery(node, self.scope, exists=exists)

    def _like(self, node: exp.Expr) -> Typed:
        escape = "\\"
        if isinstance(node, exp.Escape):
            escape = str(node.expression.this)
            node = node.this
        return self.like(node, self.visit(node.this), self.visit(node.expression), escape, fold=isinstance(node, exp.ILike))

    def like(self, node: exp.Expr, value: Typed, pattern: Typed, escape: str, *, fold: bool) -> Typed:
        """LIKE with a literal pattern; `fold` compares in lower case."""
        if value.type not in (None, STRING, NULL):
            refuse(f"LIKE takes STRING, not {show(value.type)}", "write the CAST")
        if pattern.literal is None or pattern.type != STRING or len(escape) != 1:
            refuse("the pattern of LIKE must be a literal", "use contains, startswith or endswith")
        written = patterns.like(pattern.literal, escape)
        subject = value.sql
        if fold:
            if not written.isascii():
                refuse("ILIKE with letters beyond ASCII is not the same on both engines", "use lower(x) LIKE …")
            subject, written = f"lower({subject})", written.lower()
        return Typed(f"({subject} LIKE {typed.text(written)} ESCAPE {typed.text(escape)})", BOOL)

    def _rlike(self, node: exp.RegexpLike) -> Typed:
        value, pattern = self.visit(node.this), self.visit(node.expression)
        if value.type not in (None, STRING, NULL) or pattern.literal is None:
            refuse("RLIKE takes STRING and a literal pattern", "write the pattern itself")
        portable = patterns.regex(pattern.literal)
        self.replace(node.expression, exp.Literal.string(portable))
        return Typed(f"regexp_matches({value.sql}, {typed.text(portable)})", BOOL)

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
            refuse(f"{render(node)!r}: one index is needed")
        return arithmetic.element(items, index)

    # casts

    def _cast(self, node: exp.Cast) -> Typed:
        target = arrow_type(node.to.sql(dialect=Transform))
        operand = node.this
        value = self.visit(operand)
        return self.cast(node, node.this, value, target, safe=isinstance(node, exp.TryCast))

    def cast(self, node: exp.Expr, operand: exp.Expr, value: Typed, target: pa.DataType, safe: bool) -> Typed:
        """A cast; where Spark reads more than the shared subset, the tree gets a guard."""
        found = coerce.cast(value, target, safe)
        if value.type == STRING and (target == DATE or typed.is_timestamp(target)):
            pattern = coerce.NTZ_PATTERN if target == TIMESTAMP_NTZ else coerce.DATE_PATTERN
            if value.literal is None or not re.fullmatch(pattern, value.literal):
                self.guard(operand, f"^{_BLANKS}(?:{pattern}){_BLANKS}\\z", safe)
        if value.type == typed.BINARY and target == STRING:
            name = "try_validate_utf8" if safe else "validate_utf8"
            self.replace(node, exp.Anonymous(this=name, expressions=[node.copy()]))
        return found

    def guard(self, operand: exp.Expr, pattern: str, safe: bool) -> None:
        """Let Spark see only text that fits a pattern; other text becomes NULL, or text that certainly fails."""
        if self.problems is not None:
            return
        other = "NULL" if safe else f"concat('not of the form that both engines read: ', {render(operand)})"
        fits = exp.RegexpLike(this=operand.copy(), expression=exp.Literal.string(pattern))
        guarded = exp.Anonymous(this="if", expressions=[fits, operand.copy(), parse_expression(other, "guard")])
        self.replace(operand, guarded)

    def replace(self, node: exp.Expr, new: exp.Expr) -> None:
        """Put another node in the place of one, so that Spark's text means what DuckDB's does."""
        if self.problems is None:
            if node.parent is not None:
                node.replace(new)
            self._moved[id(node)] = new

    def rewrite(self, node: exp.Expr, template: str, **parts: exp.Expr) -> Typed:
        """Replace a node by an expression made of its parts, and translate that."""
        new = parse_expression(template.format(**{name: render(part) for name, part in parts.items()}), "rewrite")
        self.replace(node, new)
        return self.visit(new)

    # calls

    def _call(self, node: exp.Anonymous) -> Typed:
        return self._function(node, "")

    def _function(self, node: exp.Anonymous, suffix: str, ignore_nulls: bool = False) -> Typed:
        name = str(node.this).lower()
        function = functions.lookup(name)
        nodes = list(node.expressions)
        distinct = bool(nodes) and isinstance(nodes[0], exp.Distinct)
        if distinct:
            nodes = list(nodes[0].expressions)
        if nodes and isinstance(nodes[0], exp.IgnoreNulls | exp.RespectNulls):
            ignore_nulls = isinstance(nodes[0], exp.IgnoreNulls)
            nodes[0] = nodes[0].this
        if (distinct or suffix) and function.kind == "row":
            refuse(f"{name}() is no aggregate: DISTINCT, FILTER and OVER do not go with it")
        if ignore_nulls and function.kind != "window":
            refuse(f"{name}() takes no IGNORE NULLS")
        args = [self._argument(name, nodes, position) for position in range(len(nodes))]
        return function.build(functions.Call(name, args, node, self, suffix, distinct, ignore_nulls))

    def _argument(self, name: str, nodes: list[exp.Expr], position: int) -> Typed:
        node = nodes[position]
        unit = name in _UNIT_FIRST and position == 0 and len(nodes) == 3
        if unit or isinstance(node, exp.Lambda) or (isinstance(node, exp.Star) and name == "count"):
            return Typed("", None, node)
        return self.visit(node)

    def with_variable(self, name: str, value: Typed, body: exp.Expr) -> Typed:
        """A lambda's body, in which `name` means `value`."""
        outer = self.scope
        self.scope = Scope(parent=outer, variables={name.lower(): value})
        try:
            return self.visit(body)
        finally:
            self.scope = outer

    def _filtered(self, node: exp.Filter) -> Typed:
        return self._function(_called(node.this), self._filter_clause(node))

    def _filter_clause(self, node: exp.Filter) -> str:
        condition = self.condition(node.expression.this, "the condition of FILTER")
        return f" FILTER (WHERE {condition.sql})"

    def _extract(self, node: exp.Extract) -> Typed:
        part = str(node.this.name).lower()
        names = {"year", "quarter", "month", "day", "hour", "minute", "dayofweek", "week"}
        if part not in names:
            refuse(f"EXTRACT({part.upper()} …) is not the same on both engines", f"use {', '.join(sorted(names)).upper()}")
        call = exp.Anonymous(this={"week": "weekofyear"}.get(part, part), expressions=[node.expression.copy()])
        self.replace(node, call)
        return self._function(call, "")

    def _window(self, node: exp.Window) -> Typed:
        inner, ignore, clause = node.this, False, ""
        if isinstance(inner, exp.IgnoreNulls | exp.RespectNulls):
            ignore, inner = isinstance(inner, exp.IgnoreNulls), inner.this
        if isinstance(inner, exp.Filter):
            clause, inner = self._filter_clause(inner), inner.this
        over = node
        if node.args.get("alias") is not None:
            over = self.windows.get(node.alias.lower())
            if over is None:
                refuse(f"there is no window {node.alias!r}", "write OVER (…), or name it under WINDOW")
        return self._function(_called(inner), f"{clause} OVER ({self._over(over)})", ignore)

    def _over(self, node: exp.Window) -> str:
        parts = []
        if node.args.get("partition_by"):
            parts.append("PARTITION BY " + ", ".join(self.visit(item).sql for item in node.args["partition_by"]))
        order = node.args.get("order")
        keys = [self.visit(item.this) for item in order.expressions] if order else []
        if order:
            parts.append("ORDER BY " + ", ".join(map(self.ordered, order.expressions, keys)))
        if node.args.get("spec"):
            parts.append(arithmetic.frame(node.args["spec"], keys, self.visit))
        return " ".join(parts)

    def ordered(self, node: exp.Expr, key: Typed) -> str:
        """One key of ORDER BY, with its direction and the place of NULL written out."""
        if not typed.is_orderable(key.type):
            refuse(f"{show(key.type)} has no order that both engines share", "order by its fields")
        descending = bool(node.args.get("desc"))
        first = node.args.get("nulls_first")
        first = not descending if first is None else bool(first)
        return f"{key.sql} {'DESC' if descending else 'ASC'} NULLS {'FIRST' if first else 'LAST'}"


def _called(node: exp.Expr) -> exp.Anonymous:
    if not isinstance(node, exp.Anonymous):
        refuse(f"{render(node)!r} is no function")
    return node


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
        value = datetime.date.fromisoformat(value)
    if value is None:
        return Typed("NULL", NULL), "NULL"
    if isinstance(value, bool):
        return Typed(str(value).lower(), BOOL), str(value).lower()
    if isinstance(value, int):
        return Typed(f"CAST({value} AS BIGINT)", typed.BIGINT), f"CAST({value} AS BIGINT)"
    if isinstance(value, datetime.datetime):
        utc = value.astimezone(datetime.UTC) if value.tzinfo else value
        stamp = utc.replace(tzinfo=None).isoformat(sep=" ") + "+00:00"
        return Typed(f"CAST('{stamp}' AS TIMESTAMPTZ)", TIMESTAMP), f"CAST('{stamp}' AS TIMESTAMP)"
    if isinstance(value, datetime.date):
        return Typed(f"DATE '{value.isoformat()}'", DATE), f"CAST('{value.isoformat()}' AS DATE)"
    if isinstance(value, str):
        return Typed(typed.text(value), STRING), exp.Literal.string(value).sql(dialect=Transform)
    refuse(f"the parameter :{name} cannot be a {type(value).__name__}", "give a date, a timestamp, text, an integer or a boolean")


def _remedy(node: exp.Expr) -> str:
    if isinstance(node, exp.Concat):
        return "adjacent texts: write a quote inside text as \\', and join texts with ||"
    if isinstance(node, exp.Array):
        return "write get(array(…), i) instead of array(…)[i]"
    if isinstance(node, exp.Tuple):
        return "use struct(…), or compare the values one by one"
    return "see docs/sql.md for the list"


_HANDLERS: dict[type, Callable[..., Typed]] = {
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
