"""Interim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import sqlglot
from sqlglot import exp

from lakehouse_assets.sql.parse import is_cte, parse_query, table_name

FUNCTIONS: dict[str, str] = {}


def faults(expression: exp.Expr) -> list[str]:
    return []


def _prepare(sql: str, names: Mapping[str, str], params: Mapping[str, Any]) -> str:
    tree = parse_query(sql, "query")
    for table in list(tree.find_all(exp.Table)):
        written = table_name(table)
        if not is_cte(table) and written in names:
            table.replace(exp.to_table(names[written], quoted=True).as_(table.alias or table.name) if False else exp.Table(this=exp.to_identifier(names[written], quoted=True), alias=exp.TableAlias(this=exp.to_identifier(table.alias or table.name, quoted=True))))
    for node in list(tree.find_all(exp.Placeholder)):
        value = params[str(node.this)]
        node.replace(exp.cast(exp.Literal.string(str(value)), "date" if len(str(value)) == 10 else "timestamptz"))
    return tree.sql(dialect="spark")


def to_duckdb(
    sql: str,
    schemas: Mapping[str, pa.Schema],
    names: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> str:
    text = _prepare(sql, names or {}, params or {})
    return sqlglot.transpile(text, read="spark", write="duckdb")[0]


def to_spark(
    sql: str,
    schemas: Mapping[str, pa.Schema],
    names: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> str:
    return _prepare(sql, names or {}, params or {})


def row_faults(expression: exp.Expr) -> list[str]:
    return []


def is_boolean(expression: exp.Expr) -> bool:
    return True


def type_of(expression: exp.Expr, columns: Any = None) -> Any:
    return None


def outputs(query: exp.Expr) -> list[tuple[str, bool]]:
    return []
