"""Spark SQL text as a tree: one query or one expression, and the tables that a query names.

What belongs here: parsing, and errors about text that is not one SELECT or one expression.
What does not: which functions are allowed (`dialect.py`), what an expression means (`types.py`, `typing.py`).

Every function call stays what was written (an `exp.Anonymous` with Spark's name): what a function means on each
engine is decided in this project's own table, not by the parser.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import sqlglot
from sqlglot import exp
from sqlglot.dialects.spark import Spark

from lakehouse_assets.errors import SqlError

_QUERY_PARTS = (
    "from_",
    "joins",
    "laterals",
    "where",
    "group",
    "having",
    "order",
    "limit",
    "distinct",
    "with_",
    "into",
    "windows",
    "qualify",
    "sort",
    "cluster",
    "distribute",
    "offset",
    "hint",
    "pivots",
    "sample",
)


class Transform(Spark):
    """The dialect of transforms: Spark SQL whose function calls are left as they are written."""

    class Parser(Spark.Parser):  # type: ignore[misc, valid-type]
        """Spark's parser without its table of functions."""

        STRICT_CAST = True
        FUNCTIONS: dict = {}  # noqa: RUF012 - the parser's own declaration
        FUNCTION_PARSERS = {  # noqa: RUF012
            name: parser
            for name, parser in Spark.Parser.FUNCTION_PARSERS.items()
            if name in ("CAST", "TRY_CAST", "EXTRACT")
        }
        NO_PAREN_FUNCTIONS: dict = {}  # noqa: RUF012
        NO_PAREN_FUNCTION_PARSERS = {  # noqa: RUF012
            name: parser for name, parser in Spark.Parser.NO_PAREN_FUNCTION_PARSERS.items() if name == "CASE"
        }


def parse_query(text: str, where: str) -> exp.Query:
    """The tree of one query: SELECT, WITH … SELECT, or a UNION, INTERSECT or EXCEPT of queries.

    Args:
        text: Spark SQL; a `;` at its end and comments are allowed.
        where: what the text is, for the error: "gold.sensor_hourly".

    Raises:
        SqlError: it does not parse, or is something else.
    """
    tree = _query(text, where)
    return tree.copy()


def parse_expression(text: str, where: str) -> exp.Expr:
    """The tree of one expression or select item: `temp > 50`, `CAST(a AS INT) AS b`, `*`.

    Args:
        text: Spark SQL.
        where: what the text is, for the error: "rule 'temp_gt_50'".

    Raises:
        SqlError: it does not parse, or is more than one expression.
    """
    return _expression(text, where).copy()


def shared_expression(text: str, where: str) -> exp.Expr:
    """The tree of `parse_expression`, shared by all who ask for it: it must not be changed."""
    return _expression(text, where)


def render(tree: exp.Expr) -> str:
    """Spark SQL of a tree, without comments."""
    return tree.sql(dialect=Transform, comments=False)


def tables(query: exp.Expr) -> tuple[str, ...]:
    """The names of the tables that a query reads, as written and in order; CTEs are not tables."""
    found = dict.fromkeys(table_name(table) for table in query.find_all(exp.Table, bfs=False) if not is_cte(table))
    return tuple(found)


def table_name(table: exp.Table) -> str:
    """The name of a table as it was written, without quotes: `silver.orders`."""
    return ".".join(part.name for part in table.parts)


def is_cte(table: exp.Table) -> bool:
    """Whether a name in FROM is that of a CTE which is visible there."""
    if len(table.parts) > 1:
        return False
    name = table.name.lower()
    inner: exp.Expr = table
    node = table.parent
    while node is not None:
        clause = node.args.get("with_")
        if clause:
            ctes = clause.expressions
            visible = ctes[: ctes.index(inner)] if inner in ctes and inner.parent is clause else ctes
            if any(cte.alias.lower() == name for cte in visible):
                return True
        if not isinstance(node, exp.With):
            inner = node
        node = node.parent
    return False


def select(exprs: Sequence[str], source: str) -> str:
    """The text of `SELECT exprs FROM source`; no expressions select `*`.

    Args:
        exprs: select items in Spark SQL.
        source: the name of a table, as it may stand in FROM.

    Raises:
        SqlError: an item does not parse.
    """
    items = [render(_expression(expr, f"select item {expr!r}")) for expr in exprs] or ["*"]
    return f"SELECT {', '.join(items)} FROM {source}"


def _parse(text: str, where: str, before: str = "") -> list[exp.Expr]:
    try:
        return [tree for tree in sqlglot.parse(before + text, dialect=Transform) if tree is not None]
    except sqlglot.errors.SqlglotError as error:
        raise SqlError(f"{where}: not Spark SQL: {_plain(error)}", value=text, fix="mend the SQL") from None


def _plain(error: Exception) -> str:
    details = getattr(error, "errors", None)
    if not details:
        return str(error).split("\n")[0]
    first = details[0]
    description = first["description"]
    if "Required keyword" in description or "SENTINEL" in description:
        description = "something is missing"
    near = str(first.get("highlight") or "").strip()
    return f"{description} in line {first['line']}" + (f" near {near!r}" if near else "")


@functools.lru_cache(maxsize=4096)
def _query(text: str, where: str) -> exp.Query:
    trees = _parse(text, where)
    if len(trees) != 1:
        raise SqlError(f"{where}: one query is needed, {len(trees)} statements were found", value=text,
                       fix="write one SELECT")  # fmt: skip
    tree = trees[0]
    if isinstance(tree, exp.Subquery) and not tree.alias:
        tree = tree.unnest()
    if not isinstance(tree, exp.Select | exp.SetOperation):
        raise SqlError(f"{where}: not a query", value=text, fix="write one SELECT (WITH and UNION are allowed)")
    return tree


@functools.lru_cache(maxsize=16384)
def _expression(text: str, where: str) -> exp.Expr:
    trees = _parse(text, where, "SELECT ")
    tree = trees[0] if len(trees) == 1 else None
    extra = not isinstance(tree, exp.Select) or any(tree.args.get(part) for part in _QUERY_PARTS)
    if not isinstance(tree, exp.Select) or extra or len(tree.expressions) != 1:
        raise SqlError(f"{where}: one expression is needed", value=text, fix="give each expression an entry of its own")
    return tree.expressions[0]
