"""Casts in row transforms: made tolerant, and judged.

A cast that fails must neither stop the batch nor become a silent NULL: it is executed as TRY_CAST, and a boolean
expression beside it says whether a value that was there became NULL. What does not belong here: what happens then.
"""

from __future__ import annotations

from sqlglot import exp

from lakehouse_assets.sql.parse import parse_expression, render


def tolerant(item: str) -> str:
    """A select item with every CAST made a TRY_CAST."""
    return render(_tolerant(parse_expression(item, "select_expr")))


def cast_checks(item: str) -> list[tuple[str, str]]:
    """(output column, SQL that is true where a cast in the item failed) for each select item that casts."""
    tree = parse_expression(item, "select_expr")
    casts = [cast for cast in tree.find_all(exp.Cast) if type(cast) is exp.Cast]
    if not casts:
        return []
    failed = [f"({render(_tolerant(c.this))}) IS NOT NULL AND ({render(_tolerant(c))}) IS NULL" for c in casts]
    return [(tree.alias_or_name, " OR ".join(f"({f})" for f in failed))]


def _tolerant(tree: exp.Expression) -> exp.Expression:
    return tree.copy().transform(
        lambda node: exp.TryCast(this=node.this, to=node.args["to"]) if type(node) is exp.Cast else node
    )
