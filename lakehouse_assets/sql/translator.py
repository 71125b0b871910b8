"""The core of translating expressions: the walk, conditions, casts, and changes to the tree.

What belongs here: what every part of the translator needs. What does not: single operators (`expressions.py`,
`comparisons.py`), calls (`calls.py`).

Where Spark would convert text in silence, the tree itself gets the explicit TRY_CAST, so that Spark's text, rendered
from the same tree, means the same.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.errors import LakehouseError
from lakehouse_assets.sql import coerce, typed
from lakehouse_assets.sql.parse import parse_expression, render
from lakehouse_assets.sql.scope import Scope
from lakehouse_assets.sql.typed import BOOL, DATE, NULL, STRING, Typed, refused, show
from lakehouse_assets.sql.types import TIMESTAMP, TIMESTAMP_NTZ

Kinds = list[pa.DataType | None] | None
"""The types of a query's columns, None where they are not known."""

_BLANKS = "[ \\t\\n\\r\\f\\x0B]*"


class Queries(Protocol):
    """What translates a subquery."""

    def subquery(self, node: exp.Expr, scope: Scope, *, exists: bool = False) -> tuple[str, Kinds]:
        """The DuckDB SQL of a query and the types of its columns."""


class Core:
    """The part of a translator that the others build on.

    Args:
        scope: what names mean.
        queries: what translates subqueries.
        params: the values of parameters; None where only types matter.
        problems: where faults are collected, while the tree stays as it is; None to raise the first, and to make
            the tree explicit.
        for_spark: whether anybody renders the tree afterwards; else it need not be made explicit.
    """

    HANDLERS: ClassVar[Mapping[type, Callable[[Any, Any], Typed]]] = {}

    def __init__(
        self,
        scope: Scope,
        queries: Queries | None = None,
        params: Mapping[str, object] | None = None,
        problems: list[str] | None = None,
        *,
        for_spark: bool = True,
    ) -> None:
        self.for_spark = for_spark and problems is None
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

    def _handler(self, node: exp.Expr) -> Callable[[Any, Any], Typed]:
        handler = self.HANDLERS.get(type(node))
        if handler is None:
            raise refused(f"{render(node)!r} is not in the part of Spark SQL that both engines share", _remedy(node))
        return handler

    def condition(self, node: exp.Expr, what: str) -> Typed:
        """A value that must be BOOLEAN."""
        value = self.visit(node)
        if value.type not in (None, BOOL, NULL):
            raise refused(
                f"{what} must be true or false, and {render(node)!r} is {show(value.type)}", "compare it with something"
            )
        return value

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

    def with_variable(self, name: str, value: Typed, body: exp.Expr) -> Typed:
        """A lambda's body, in which `name` means `value`."""
        outer = self.scope
        self.scope = Scope(parent=outer, variables={name.lower(): value})
        try:
            return self.visit(body)
        finally:
            self.scope = outer

    def cast(self, node: exp.Expr, operand: exp.Expr, value: Typed, target: pa.DataType, safe: bool) -> Typed:
        """A cast; where Spark reads more than the shared subset, the tree gets a guard."""
        found = coerce.cast(value, target, safe)
        if value.type == STRING and (target == DATE or typed.is_timestamp(target)):
            pattern = coerce.NTZ_PATTERN if target == TIMESTAMP_NTZ else coerce.DATE_PATTERN
            if value.literal is None or not re.fullmatch(pattern, value.literal):
                self.guard(operand, f"^{_BLANKS}(?:{pattern}){_BLANKS}\\z", safe)
        if value.type == typed.BINARY and target == STRING and self.for_spark:
            name = "try_validate_utf8" if safe else "validate_utf8"
            self.replace(node, exp.Anonymous(this=name, expressions=[node.copy()]))
        return found

    def guard(self, operand: exp.Expr, pattern: str, safe: bool) -> None:
        """Let Spark see only text that fits a pattern; other text becomes NULL, or text that certainly fails."""
        if not self.for_spark:
            return
        other = "NULL" if safe else f"concat('not of the form that both engines read: ', {render(operand)})"
        fits = exp.RegexpLike(this=operand.copy(), expression=exp.Literal.string(pattern))
        guarded = exp.Anonymous(this="if", expressions=[fits, operand.copy(), parse_expression(other, "guard")])
        self.replace(operand, guarded)

    def moment_literal(self, value: Typed) -> Typed:
        """A text literal that stands where a date or a timestamp is due."""
        written = (value.literal or "").strip()
        try:
            if not re.fullmatch(coerce.DATE_PATTERN, written):
                raise ValueError(written)
            day = dt.date(*map(int, re.split("[ T]", written)[0].split("-")))
        except ValueError:
            raise refused(
                f"the text {written!r} is not an ISO date or timestamp", "write it as 2024-01-31 or 2024-01-31 10:20:30"
            ) from None
        if re.fullmatch("[0-9]+-[0-9]+-[0-9]+", written):
            return Typed(f"DATE '{day.isoformat()}'", DATE, value.node)
        return coerce.cast(value, TIMESTAMP, safe=True)

    def ordered(self, node: exp.Expr, key: Typed) -> str:
        """One key of ORDER BY, with its direction and the place of NULL written out."""
        if not typed.is_orderable(key.type):
            raise refused(f"{show(key.type)} has no order that both engines share", "order by its fields")
        descending = bool(node.args.get("desc"))
        first = node.args.get("nulls_first")
        first = not descending if first is None else bool(first)
        return f"{key.sql} {'DESC' if descending else 'ASC'} NULLS {'FIRST' if first else 'LAST'}"


def _remedy(node: exp.Expr) -> str:
    if isinstance(node, exp.Concat):
        return "adjacent texts: write a quote inside text as \\', and join texts with ||"
    if isinstance(node, exp.Array):
        return "write get(array(…), i) instead of array(…)[i]"
    if isinstance(node, exp.Tuple):
        return "use struct(…), or compare the values one by one"
    return "use operators and functions that both have"
