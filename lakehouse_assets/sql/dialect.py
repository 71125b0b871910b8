"""The portable dialect: the part of Spark SQL that both engines answer alike, and its DuckDB SQL.

What belongs here: what other rooms ask of the dialect. What does not: how it is done (`expressions.py`,
`relations.py`, `functions*.py`, `coerce.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.errors import SqlError
from lakehouse_assets.sql import functions, relations
from lakehouse_assets.sql.comparisons import ONE_ROW
from lakehouse_assets.sql.expressions import Translator
from lakehouse_assets.sql.parse import is_cte, parse_query, render, table_name
from lakehouse_assets.sql.scope import Column, Relation, Scope
from lakehouse_assets.sql.spark_versions import Version, spell
from lakehouse_assets.sql.typed import BOOL, NULL, Typed, quoted

_ANY_TYPE = ("coalesce", "nvl", "nvl2", "ifnull", "if", "nullif", "get", "try_element_at")
_TOO_LONG = 5_000_000

FUNCTIONS: Mapping[str, str] = {name: function.note for name, function in functions.table().items()}
"""Every function that a transform may call, each with a note on what it does and what was bridged."""

Columns = Mapping[str, pa.DataType | None]
"""Columns of a row: name to type, None where the type is not known."""


def faults(expression: exp.Expr) -> list[str]:
    """What in a query or an expression leaves the portable dialect, as far as it shows without schemas.

    Args:
        expression: a tree of `parse_query` or `parse_expression`; it is not changed.
    """
    problems: list[str] = []
    if isinstance(expression, exp.Query):
        _collect(expression, problems)
        problems += _undefined(expression)
    else:
        _typed(expression, None, problems)
    return list(dict.fromkeys(problems))


def row_faults(expression: exp.Expr, *, condition: bool = False) -> list[str]:
    """What keeps an expression from making, or judging, one row at a time; `faults` included.

    Args:
        expression: a tree of `parse_expression`; it is not changed.
        condition: it must be true or false as well.
    """
    if _is_star(expression):
        return ["a condition is needed, not all columns"] if condition else []
    problems: list[str] = []
    kind = _typed(expression, None, problems).type
    for node in expression.walk():
        problems += _several_rows(node)
    if condition and not problems and not _may_be_boolean(expression, kind):
        problems.append("it gives no true or false: compare it with something")
    return list(dict.fromkeys(problems))


def _several_rows(node: exp.Expr) -> list[str]:
    if isinstance(node, exp.Query | exp.Exists) or (isinstance(node, exp.In) and node.args.get("query")):
        return [ONE_ROW]
    if isinstance(node, exp.Window):
        return ["OVER is not allowed here: one row is judged at a time (use a table of source_format sql)"]
    if isinstance(node, exp.Anonymous):
        found = functions.table().get(str(node.this).lower())
        if found is not None and found.kind == "group":
            return [f"{node.this}() needs several rows, and one row is judged at a time"]
    return []


def is_boolean(expression: exp.Expr) -> bool:
    """Whether an expression is, or may be, BOOLEAN; a column of unknown type may, arithmetic may not."""
    return _may_be_boolean(expression, type_of(expression, None))


def _may_be_boolean(expression: exp.Expr, kind: pa.DataType | None) -> bool:
    if kind is not None:
        return kind in (BOOL, NULL)
    node = expression.unalias()
    while isinstance(node, exp.Paren):
        node = node.this
    if isinstance(node, exp.Anonymous):
        return str(node.this).lower() in _ANY_TYPE
    return isinstance(node, exp.Column | exp.Dot | exp.Bracket | exp.Case)


def type_of(expression: exp.Expr, columns: Columns | None) -> pa.DataType | None:
    """The Spark type of an expression over the given columns (None: any columns), or None where it is not known."""
    try:
        return _typed(expression, columns, []).type
    except SqlError:
        return None


def outputs(query: exp.Expr) -> list[tuple[str, bool]]:
    """The names of a query's columns, and whether each was made or renamed there; stars are left out."""
    while isinstance(query, exp.SetOperation | exp.Subquery):
        query = query.this
    found = []
    for item in query.expressions if isinstance(query, exp.Select) else ():
        if isinstance(item, exp.Alias):
            found.append((item.alias, not (isinstance(item.this, exp.Column) and item.this.name == item.alias)))
        elif isinstance(item, exp.Column) and not isinstance(item.this, exp.Star):
            found.append((item.name, False))
    return found


def explicit(expression: exp.Expr, schemas: Mapping[str, pa.Schema]) -> exp.Expr:
    """The expression with the casts that Spark would make in silence, or that only Spark can make, written out.

    Text that meets a number or a moment gets a TRY_CAST; text that becomes a moment is guarded, so that both engines
    read the same forms; patterns become those that both engines read alike.

    Args:
        expression: a query, or an expression over the columns of all ``schemas``.
        schemas: tables as written to their columns.

    Raises:
        SqlError: it leaves the portable dialect.
    """
    if isinstance(expression, exp.Query):
        tree = expression.copy()
        relations.QueryTranslator(schemas, {}).query(tree)
        return tree
    columns = {field.name: field.type for schema in schemas.values() for field in schema}
    holder = exp.Select(expressions=[expression.copy()])
    _translator(columns, None).visit(holder.expressions[0])
    return holder.expressions[0]


def to_duckdb(
    sql: str,
    schemas: Mapping[str, pa.Schema],
    names: Mapping[str, str] | None = None,
    params: Mapping[str, object] | None = None,
) -> str:
    """A query of the portable dialect as DuckDB SQL, for sessions whose time zone is UTC.

    Args:
        sql: Spark SQL.
        schemas: tables as written in ``sql`` to their columns.
        names: tables as written to the identifier that DuckDB knows them by.
        params: the values of `:name`.

    Raises:
        SqlError: it does not parse, names what is not there, or leaves the portable dialect.
    """
    translator = relations.QueryTranslator(schemas, names or {}, params or {}, for_spark=False)
    found = translator.query(parse_query(sql, "the query"))
    relations.check_output(found.columns or [])
    if len(found.sql) > _TOO_LONG:
        raise SqlError("the query nests its expressions too deeply", fix="make the inner ones columns of a CTE")
    return found.sql


def to_spark(
    sql: str,
    schemas: Mapping[str, pa.Schema],
    names: Mapping[str, str] | None = None,
    params: Mapping[str, object] | None = None,
    version: Version | None = None,
) -> str:
    """A query of the portable dialect as the Spark SQL that answers alike; see `explicit`.

    Args:
        sql: Spark SQL.
        schemas: tables as written in ``sql`` to their columns.
        names: tables as written to the identifier that the session knows them by.
        params: the values of `:name`.
        version: the Spark that is to run it; by default the newest.

    Raises:
        SqlError: as `to_duckdb`.
        NotRunnable: that Spark is too old for it.
    """
    tree = parse_query(sql, "the query")
    found = relations.QueryTranslator(schemas, {}, params or {}).query(tree)
    relations.check_output(found.columns or [])
    known = {written.lower(): name for written, name in (names or {}).items()}
    for table in list(tree.find_all(exp.Table)):
        name = known.get(table_name(table).lower())
        if name is not None and not is_cte(table):
            alias = exp.TableAlias(this=exp.to_identifier(table.alias or table.name, quoted=True))
            table.replace(exp.Table(this=exp.to_identifier(name, quoted=True), alias=alias))
    return render(tree if version is None else spell(tree, version))


def _collect(tree: exp.Query, problems: list[str]) -> None:
    try:
        relations.QueryTranslator(None, {}, None, problems).query(tree)
    except SqlError as error:
        problems.append(error.problem + (f": {error.fix}" if error.fix else ""))


def _typed(tree: exp.Expr, columns: Columns | None, problems: list[str]) -> Typed:
    return _translator(columns, problems).visit(tree)


def _translator(columns: Columns | None, problems: list[str] | None) -> Translator:
    known = None if columns is None else [Column(name, quoted(name), kind) for name, kind in columns.items()]
    return Translator(Scope([Relation(("row",), known)]), None, None, problems)


def _is_star(expression: exp.Expr) -> bool:
    return isinstance(expression, exp.Star) or (
        isinstance(expression, exp.Column) and isinstance(expression.this, exp.Star)
    )


def _undefined(tree: exp.Query) -> list[str]:
    """Parts of a query whose answer depends on the order in which rows happen to come."""
    message = "LIMIT without ORDER BY keeps other rows each time: order by columns that are unique together"
    parts = (part.parent for part in tree.find_all(exp.Limit, exp.Offset))
    return [message for query in parts if query is not None and query.args.get("order") is None]
