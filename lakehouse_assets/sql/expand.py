"""Texts put into queries: views in the place of their names, and literals.

What belongs here: rewriting table references, quoting. What does not: knowing which name is a view.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlglot import exp

from lakehouse_assets.sql.parse import is_cte, parse_query, render, table_name


def expand(text: str, views: Mapping[str, str]) -> str:
    """`text` with every table that `views` names replaced by its query, under the alias it had or its last name."""
    tree = parse_query(text, "query")
    for table in list(tree.find_all(exp.Table)):
        name = table_name(table)
        if name in views and not is_cte(table):
            alias = table.alias or table.name
            table.replace(parse_query(views[name], name).subquery(alias))
    return render(tree)


def quoted(name: str) -> str:
    """A name as an identifier of Spark SQL, whatever it holds."""
    return "`" + name.replace("`", "``") + "`"


def text_literal(text: str) -> str:
    """A text as a literal of Spark SQL."""
    return render(exp.Literal.string(text))
