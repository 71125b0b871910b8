"""Interim: to be replaced by the full proof."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from lakehouse_assets.sql.parse import parse_query


def refresh_fault(sql: str, key: Sequence[str]) -> str | None:
    """Why the key does not prove that a partial refresh equals a full one."""
    if not key:
        return "no key"
    tree = parse_query(sql, "query")
    if not isinstance(tree, exp.Select) or tree.args.get("joins") or tree.find(exp.Window) or tree.find(exp.Subquery):
        return "not a plain select"
    group = tree.args.get("group")
    names = {e.name for e in group.expressions} if group else set(key)
    outputs = {e.alias_or_name for e in tree.expressions}
    return None if set(key) <= names and set(key) <= outputs else "the key does not group the query"
