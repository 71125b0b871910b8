"""Which upstream columns each column of a query comes from.

What belongs here: column lineage as facts for people. What does not: anything that must be exact to be right; what
cannot be traced is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.lineage import lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope

from lakehouse_assets.errors import LakehouseError
from lakehouse_assets.sql.parse import Transform, is_cte, parse_query, table_name


def column_lineage(sql: str, schemas: Mapping[str, pa.Schema]) -> dict[str, list[tuple[str, str]]]:
    """The upstream columns behind each column of a query.

    Args:
        sql: Spark SQL.
        schemas: tables as written in ``sql`` to their columns.

    Returns:
        Column to (table as written, column) pairs, sorted; nothing for columns that cannot be traced.
    """
    known = {name.lower(): (name, schema) for name, schema in schemas.items()}
    try:
        tree = parse_query(sql, "the query")
        tables = _plain_tables(tree)
        shapes: dict[str, object] = {
            plain: {f.name: "string" for f in known[name][1]} for plain, name in tables.items() if name in known
        }
        qualified = qualify(tree, schema=shapes, dialect=Transform, validate_qualify_columns=False, identify=False)
        scope = build_scope(qualified)
    except (LakehouseError, SqlglotError):
        return {}
    columns = [item.alias_or_name for item in qualified.selects] if isinstance(qualified, exp.Query) else []
    return {
        column: _sources(column, qualified, scope, shapes, tables, known)
        for column in columns
        if column and column != "*"
    }


def _plain_tables(tree: exp.Expr) -> dict[str, str]:
    """Give every table a name of one part; that name to the written one, in lower case."""
    found: dict[str, str] = {}
    for table in list(tree.find_all(exp.Table)):
        if is_cte(table):
            continue
        written = table_name(table).lower()
        plain = f"upstream_{len(found)}"
        found[plain] = written
        alias = exp.TableAlias(this=exp.to_identifier(table.alias or table.name))
        table.replace(exp.Table(this=exp.to_identifier(plain), alias=alias))
    return found


def _sources(
    column: str,
    tree: exp.Expr,
    scope: Scope | None,
    shapes: dict[str, object],
    tables: Mapping[str, str],
    known: Mapping[str, tuple[str, pa.Schema]],
) -> list[tuple[str, str]]:
    try:
        root = lineage(column, tree, shapes, scope=scope, dialect=Transform, trim_selects=False)
    except (SqlglotError, ValueError, KeyError):
        return []
    found: set[tuple[str, str]] = set()
    for node in root.walk():
        source = node.expression
        if node.downstream or not isinstance(source, exp.Table):
            continue
        written = tables.get(source.name.lower(), "")
        name = node.name.rsplit(".", 1)[-1].strip('`"')
        if written in known and name != "*":
            table, schema = known[written]
            exact = next((f.name for f in schema if f.name.lower() == name.lower()), None)
            if exact is not None:
                found.add((table, exact))
    return sorted(found)
