"""Casts of a row transform: made tolerant, and judged afterwards.

In `select_expr` a cast that fails must not stop the batch and must not become a silent NULL: the cast is done as a TRY
cast, and a condition beside it tells that a value which was not NULL did not fit. A TRY_CAST that the transform itself
writes is a wish for NULL and is not judged.

What belongs here: both of these for one select item. What does not: what happens to the row (`tables/rules.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from lakehouse_assets.sql.parse import parse_expression, render

_TRIED = {"to_date": "try_to_date", "to_timestamp": "try_to_timestamp", "date": "try_to_date"}
_TELLING = ("from_json",)
"""Functions that are casts by what they do, and never raise: a text that gives NULL did not fit."""


def tolerant(select_expr: str) -> str:
    """A select item in which a cast that fails gives NULL instead of an error.

    Raises:
        SqlError: the item does not parse.
    """
    holder = exp.Select(expressions=[parse_expression(select_expr, f"select item {select_expr!r}")])
    _tolerate(holder)
    return render(holder.expressions[0])


def cast_checks(select_expr: str) -> list[tuple[str, str]]:
    """The column of a select item and the condition, in Spark SQL, that one of its casts failed; empty without casts.

    A cast inside CASE, IF or COALESCE counts only where that branch is taken.

    Raises:
        SqlError: the item does not parse.
    """
    tree = parse_expression(select_expr, f"select item {select_expr!r}")
    conditions = list(dict.fromkeys(_failures(tree, [])))
    if not conditions:
        return []
    condition = " OR ".join(conditions)
    if any(str(node.this).lower() in _TELLING for node in tree.find_all(exp.Anonymous)):
        condition = f"settled({condition})"  # to read a text is dear
    return [(tree.alias_or_name or render(tree), condition)]


def _tolerate(tree: exp.Expr) -> None:
    for node in list(tree.find_all(exp.Cast, exp.Anonymous)):
        if isinstance(node, exp.Anonymous):
            node.set("this", _TRIED.get(str(node.this).lower(), node.this))
        elif not isinstance(node, exp.TryCast):
            node.replace(exp.TryCast(this=node.this, to=node.args["to"], safe=True))


def _text(node: exp.Expr) -> str:
    """A node as tolerant Spark SQL."""
    holder = exp.Select(expressions=[node.copy()])
    _tolerate(holder)
    return render(holder.expressions[0])


def _failures(node: exp.Expr, guards: list[str]) -> Iterator[str]:
    """One condition for each cast below `node`, under the conditions by which the node is reached."""
    operand = _operand(node)
    if operand is not None and not isinstance(operand, exp.Literal | exp.Null):
        parts = [*guards, f"({_text(operand)}) IS NOT NULL", f"({_text(node)}) IS NULL"]
        yield f"({' AND '.join(parts)})"
    for child, added in _children(node):
        yield from _failures(child, [*guards, *added])


def _operand(node: exp.Expr) -> exp.Expr | None:
    if isinstance(node, exp.Cast) and not isinstance(node, exp.TryCast):
        return node.this
    if isinstance(node, exp.Anonymous) and str(node.this).lower() in (*_TRIED, *_TELLING) and node.expressions:
        return node.expressions[0]
    return None


def _children(node: exp.Expr) -> Iterator[tuple[exp.Expr, list[str]]]:
    """The parts of a node, each with the further conditions by which it is reached."""
    name = str(node.this).lower() if isinstance(node, exp.Anonymous) else ""
    if isinstance(node, exp.Case):
        yield from _branches(node)
    elif name == "if" and len(node.expressions) == 3:
        condition, yes, no = node.expressions
        taken = f"coalesce({_text(condition)}, false)"
        yield from ((condition, []), (yes, [taken]), (no, [f"NOT {taken}"]))
    elif name in ("coalesce", "nvl", "ifnull"):
        before: list[str] = []
        for argument in node.expressions:
            yield argument, list(before)
            before.append(f"({_text(argument)}) IS NULL")
    elif not isinstance(node, exp.Lambda):
        yield from ((child, []) for child in node.iter_expressions())


def _branches(node: exp.Case) -> Iterator[tuple[exp.Expr, list[str]]]:
    passed: list[str] = []
    if node.this is not None:
        yield node.this, []
    for branch in node.args["ifs"]:
        condition = _text(branch.this) if node.this is None else f"{_text(node.this)} = {_text(branch.this)}"
        taken = f"coalesce({condition}, false)"
        yield branch.this, list(passed)
        yield branch.args["true"], [*passed, taken]
        passed.append(f"NOT {taken}")
    if node.args.get("default") is not None:
        yield node.args["default"], list(passed)
