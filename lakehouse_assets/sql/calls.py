"""Calls: functions, aggregates with FILTER, window functions with OVER.

What does not belong here: single functions (`functions_*.py`), window frames (`arithmetic.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sqlglot import exp

from lakehouse_assets.sql import arithmetic, functions
from lakehouse_assets.sql.parse import render
from lakehouse_assets.sql.translator import Core
from lakehouse_assets.sql.typed import Typed, refused

if TYPE_CHECKING:
    from lakehouse_assets.sql.expressions import Translator

_UNIT_FIRST = ("timestampdiff", "datediff", "date_diff")


class Calls(Core):
    """The calls of a translator."""

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
            raise refused(
                f"{name}(x IGNORE NULLS) is not in open-source Spark", f"write {name}(x) IGNORE NULLS OVER (…)"
            )
        if (distinct or suffix) and function.kind == "row":
            raise refused(f"{name}() is no aggregate: DISTINCT, FILTER and OVER do not go with it")
        if ignore_nulls and function.kind != "window":
            raise refused(f"{name}() takes no IGNORE NULLS")
        args = [self._argument(name, nodes, position) for position in range(len(nodes))]
        whole = cast("Translator", self)
        return function.build(functions.Call(name, args, node, whole, suffix, distinct, ignore_nulls))

    def _argument(self, name: str, nodes: list[exp.Expr], position: int) -> Typed:
        node = nodes[position]
        unit = name in _UNIT_FIRST and position == 0 and len(nodes) == 3
        if unit or isinstance(node, exp.Lambda) or (isinstance(node, exp.Star) and name == "count"):
            return Typed("", None, node)
        return self.visit(node)

    def _filtered(self, node: exp.Filter) -> Typed:
        return self._function(_called(node.this), self._filter_clause(node))

    def _filter_clause(self, node: exp.Filter) -> str:
        condition = self.condition(node.expression.this, "the condition of FILTER")
        return f" FILTER (WHERE {condition.sql})"

    def _extract(self, node: exp.Extract) -> Typed:
        part = str(node.this.name).lower()
        names = {"year", "quarter", "month", "day", "hour", "minute", "dayofweek", "week"}
        if part not in names:
            raise refused(
                f"EXTRACT({part.upper()} …) is not the same on both engines", f"use {', '.join(sorted(names)).upper()}"
            )
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
            over = self.windows.get(node.alias.lower(), node)
            if over is node:
                raise refused(f"there is no window {node.alias!r}", "write OVER (…), or name it under WINDOW")
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


def _called(node: exp.Expr) -> exp.Anonymous:
    if not isinstance(node, exp.Anonymous):
        raise refused(f"{render(node)!r} is no function")
    return node
