"""Queries: SELECT, WITH, set operations, in DuckDB SQL that leaves nothing implicit.

What belongs here: which columns a query has and what its clauses mean. What does not: FROM (`joins.py`), expressions
(`expressions.py`).
Stars are written out, every column is qualified and named, keys of ORDER BY say where NULL goes, and the branches of
a UNION are brought to one type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.errors import LakehouseError, SqlError
from lakehouse_assets.sql import coerce, joins, typed
from lakehouse_assets.sql.expressions import Translator
from lakehouse_assets.sql.joins import Output, Result, rename
from lakehouse_assets.sql.parse import render
from lakehouse_assets.sql.scope import Column, Relation, Scope
from lakehouse_assets.sql.typed import NULL, Typed, quoted, refused

_REFUSED = {
    "qualify": "QUALIFY is not in open-source Spark: filter in a query around this one",
    "sort": "SORT BY does not order a result: use ORDER BY",
    "cluster": "CLUSTER BY is about Spark's partitions: leave it out",
    "distribute": "DISTRIBUTE BY is about Spark's partitions: leave it out",
    "hint": "hints are for one engine only: leave it out",
    "pivots": "PIVOT is not portable: use CASE or FILTER",
    "sample": "samples differ from run to run: leave it out",
    "into": "SELECT INTO is not portable: leave it out",
    "match": "MATCH_RECOGNIZE is not portable",
    "kind": "SELECT AS STRUCT is not portable: use struct(…)",
}
_GROUPS = ("all", "totals", "rollup", "cube", "grouping_sets")


class QueryTranslator:
    """Translates a query and all queries inside.

    Args:
        schemas: tables as written to their columns; None when no schema is known at all.
        names: tables as written to the name that DuckDB knows them by.
        params: the values of parameters; None where only types matter.
        problems: where faults are collected; None to raise the first.
        for_spark: whether the tree is rendered for Spark afterwards.
    """

    def __init__(
        self,
        schemas: Mapping[str, pa.Schema] | None,
        names: Mapping[str, str],
        params: Mapping[str, object] | None = None,
        problems: list[str] | None = None,
        *,
        for_spark: bool = True,
    ) -> None:
        self.for_spark = for_spark
        self.schemas = None if schemas is None else {name.lower(): schema for name, schema in schemas.items()}
        self.names = {name.lower(): known for name, known in names.items()}
        self.params = params
        self.problems = problems
        self.ctes: list[dict[str, Output | None]] = []

    def query(self, node: exp.Expr, parent: Scope | None = None, *, exists: bool = False) -> Result:
        """A query of any shape."""
        clause = node.args.get("with_")
        if clause is None:
            return self._body(node, parent, exists)
        if clause.args.get("recursive"):
            raise refused("WITH RECURSIVE is not portable", "write the steps out")
        self.ctes.append({})
        try:
            heads = [self._cte(cte) for cte in clause.expressions]
            body = self._body(node, parent, exists)
        finally:
            self.ctes.pop()
        return replace(body, sql=f"WITH {', '.join(heads)} {body.sql}")

    def subquery(
        self, node: exp.Expr, scope: Scope, *, exists: bool = False
    ) -> tuple[str, list[pa.DataType | None] | None]:
        """A query inside an expression; see `expressions.Queries`."""
        found = self.query(node, scope, exists=exists)
        return found.sql, None if found.columns is None else [kind for _, kind in found.columns]

    def _body(self, node: exp.Expr, parent: Scope | None, exists: bool) -> Result:
        if isinstance(node, exp.Subquery):
            if any(node.args.get(part) for part in ("order", "limit", "offset", "alias")):
                raise refused("ORDER BY or LIMIT after a query in parentheses is not portable", "put them inside")
            return self.query(node.this, parent, exists=exists)
        if isinstance(node, exp.Select):
            return _Select(self, node, parent, exists).result()
        if isinstance(node, exp.SetOperation):
            return self._set_operation(node, parent)
        raise refused(f"{render(node)!r} is not a query", "write a SELECT")

    def _cte(self, cte: exp.CTE) -> str:
        found = self.query(cte.this)
        found = rename(found, [column.name for column in cte.args["alias"].columns])
        self.ctes[-1][cte.alias.lower()] = found.columns
        return f"{quoted(cte.alias)} AS ({found.sql})"

    def safely(self, translator: Translator, node: exp.Expr, word: str) -> str:
        """A condition; its faults are collected where faults are."""
        try:
            return translator.condition(node, f"the condition of {word}").sql
        except LakehouseError as error:
            self.fault(error.problem + (f": {error.fix}" if error.fix else ""))
            return "true"

    def fault(self, message: str) -> None:
        """Collect a fault, or raise it where faults are not collected."""
        if self.problems is None:
            raise refused(message)
        self.problems.append(message)

    def cte(self, name: str) -> Output | bool | None:
        """The columns of a visible CTE (None where they are not known), or False if there is none."""
        for known in reversed(self.ctes):
            if name.lower() in known:
                return known[name.lower()]
        return False

    def _set_operation(self, node: exp.SetOperation, parent: Scope | None) -> Result:
        word = type(node).__name__.upper()
        if node.args.get("by_name") or any(node.args.get(part) for part in ("side", "kind", "on")):
            raise refused(f"{word} BY NAME is not portable", "list the columns in the same order")
        left, right = self.query(node.left, parent), self.query(node.right, parent)
        columns = (
            left.columns if left.columns is None or right.columns is None else _unite(word, left.columns, right.columns)
        )
        sides = [_fit(result, columns) for result in (left, right)]
        every = "" if node.args.get("distinct") else " ALL"
        if every and word != "UNION":
            raise refused(f"{word} ALL is not portable", f"use {word}")
        sql = f"({sides[0]}) {word}{every} ({sides[1]})"
        scope = (
            Scope([Relation(("",), [Column(n, quoted(n), k) for n, k in columns])])
            if columns
            else Scope([Relation(("",), None)])
        )
        translator = Translator(scope, self, self.params, self.problems, for_spark=self.for_spark)
        return Result(sql + tail(node, translator, [name for name, _ in columns or []]), columns)


def _unite(word: str, left: Output, right: Output) -> Output:
    if len(left) != len(right):
        raise refused(f"the sides of {word} have {len(left)} and {len(right)} columns", "select the same number")
    united: Output = []
    for (name, first), (_, second) in zip(left, right, strict=True):
        try:
            united.append((name, typed.common(first, second)))
        except SqlError as error:
            raise refused(f"column {name!r} of {word}: {error.problem}", error.fix) from None
    return united


def _fit(result: Result, columns: Output | None) -> str:
    """A branch of a set operation, cast to the types of the whole where they differ."""
    if columns is None or result.columns is None or [k for _, k in result.columns] == [k for _, k in columns]:
        return result.sql
    names = [f"c{position}" for position in range(len(columns))]
    items = ", ".join(
        f"{name} AS {quoted(column)}"
        if kind is None or kind == NULL
        else f"CAST({name} AS {typed.duckdb_name(kind)}) AS {quoted(column)}"
        for name, (column, kind) in zip(names, columns, strict=True)
    )
    return f"SELECT {items} FROM ({result.sql}) AS branch({', '.join(names)})"


def tail(node: exp.Expr, translator: Translator, outputs: list[str]) -> str:
    """ORDER BY, LIMIT and OFFSET of a query."""
    sql = ""
    order = node.args.get("order")
    if order is not None:
        sql += " ORDER BY " + ", ".join(_order_key(item, translator, outputs) for item in order.expressions)
    for part in ("limit", "offset"):
        clause = node.args.get(part)
        if clause is not None:
            count = clause.expression
            if not isinstance(count, exp.Literal) or not str(count.this).isdigit():
                raise refused(f"{part.upper()} takes an integer literal")
            sql += f" {part.upper()} {count.this}"
    return sql


def _order_key(item: exp.Ordered, translator: Translator, outputs: list[str]) -> str:
    key = item.this
    if isinstance(key, exp.Literal) and not key.is_string:
        if not 1 <= int(key.this) <= max(len(outputs), 1):
            raise refused(f"ORDER BY {key.this}: there are {len(outputs)} columns")
        return translator.ordered(item, Typed(str(key.this), None))
    if isinstance(key, exp.Column) and not key.table:
        for name in outputs:
            if name.lower() == key.name.lower():
                return translator.ordered(item, Typed(quoted(name), _kind(translator, name)))
    return translator.ordered(item, translator.visit(key))


def _kind(translator: Translator, name: str) -> pa.DataType | None:
    known = translator.scope.aliases.get(name.lower())
    return known.type if known else None


class _Select:
    """One SELECT while it is translated."""

    def __init__(self, queries: QueryTranslator, node: exp.Select, parent: Scope | None, exists: bool) -> None:
        self.queries, self.node, self.exists = queries, node, exists
        self.scope = Scope(parent=parent)
        self.translator = Translator(self.scope, queries, queries.params, queries.problems, for_spark=queries.for_spark)

    def result(self) -> Result:
        node = self.node
        for part, message in _REFUSED.items():
            if node.args.get(part):
                self.queries.fault(message)
        source = joins.FromClause(self.queries, self.translator).sql(node)
        self.translator.windows = {str(w.this.name).lower(): w for w in node.args.get("windows") or ()}
        where = self._clause("WHERE", node.args.get("where"))
        columns, items = self._items()
        having = self._clause("HAVING", node.args.get("having"))
        group = self._group(columns, items)
        names = [name for name, _ in columns or []]
        listed = ", ".join(
            items if columns is None else (f"{i} AS {quoted(n)}" for i, n in zip(items, names, strict=True))
        )
        sql = f"SELECT {self._distinct()}{listed}{source}{where}{group}{having}{tail(node, self.translator, names)}"
        return Result(sql, columns)

    def _distinct(self) -> str:
        distinct = self.node.args.get("distinct")
        if distinct is not None and distinct.args.get("on"):
            self.queries.fault("DISTINCT ON is not in Spark: number the rows with row_number() and keep the first")
        return "DISTINCT " if distinct is not None else ""

    def _clause(self, word: str, clause: exp.Expr | None) -> str:
        return "" if clause is None else f" {word} {self.queries.safely(self.translator, clause.this, word)}"

    def _items(self) -> tuple[Output | None, list[str]]:
        columns: Output | None = []
        items: list[str] = []
        for item in self.node.expressions:
            star = self._star(item)
            if star is None:
                columns = None
                items.append("*")
            elif star is not False:
                assert isinstance(star, list)
                items += [column.sql for column in star]
                columns = None if columns is None else [*columns, *((c.name, c.type) for c in star)]
            else:
                value = self.translator.visit(item)
                name = self._name(item)
                items.append(coerce.widen(value, value.type).sql if value.literal is not None else value.sql)
                columns = None if columns is None else [*columns, (name, value.type)]
                self.scope.aliases.setdefault(name.lower(), Typed(f"({value.sql})", value.type))
        if columns is not None and not self.exists:
            self._check_names(columns)
        if self.queries.problems is None:
            written = [part for item in self.node.expressions for part in self._without_except(item)]
            self.node.set("expressions", written)
        return columns, items

    def _without_except(self, item: exp.Expr) -> list[exp.Expr]:
        """A select item as every Spark reads it: `* EXCEPT (…)`, which came with 4.0, as the columns that are left."""
        inner, star = item.this if isinstance(item, exp.Column) else item, self._star(item)
        if not isinstance(star, list) or not inner.args.get("except_"):
            return [item]
        table = item.args.get("table")
        return [
            exp.Column(this=exp.to_identifier(column.name, quoted=True), table=table and table.copy())
            for column in star
        ]

    def _name(self, item: exp.Expr) -> str:
        if isinstance(item, exp.Alias):
            return item.alias
        return item.name if isinstance(item, exp.Column | exp.Dot) else render(item).lower()

    def _check_names(self, columns: Output) -> None:
        seen: set[str] = set()
        for name, _ in columns:
            if name.lower() in seen:
                self.queries.fault(
                    f"the column {name!r} is made twice: give each an alias of its own, or join with USING"
                )
            seen.add(name.lower())

    def _star(self, item: exp.Expr) -> list[Column] | bool | None:
        """The columns of `*`, None where they are not known, False where the item is no star."""
        inner = item.this if isinstance(item, exp.Column) else item
        if not isinstance(inner, exp.Star):
            return False
        if inner.args.get("replace") or inner.args.get("rename"):
            raise refused("* REPLACE and * RENAME are not portable", "use * EXCEPT (…) and name the columns")
        qualifier = item.table if isinstance(item, exp.Column) else None
        found = self.scope.star(qualifier)
        left_out = {column.name.lower() for column in inner.args.get("except_") or ()}
        if found is None:
            return None
        unknown = left_out - {column.name.lower() for column in found}
        if unknown:
            raise refused(f"* EXCEPT: there is no column {sorted(unknown)[0]!r}")
        return [column for column in found if column.name.lower() not in left_out]

    def _group(self, columns: Output | None, items: list[str]) -> str:
        group = self.node.args.get("group")
        if group is None:
            return ""
        if any(group.args.get(part) for part in _GROUPS) or any(not _plain(e) for e in group.expressions):
            self.queries.fault(
                "GROUP BY ALL, ROLLUP, CUBE and GROUPING SETS are not in the shared part: list the columns"
            )
            return ""
        keys = []
        for key in group.expressions:
            if isinstance(key, exp.Literal) and not key.is_string:
                position = int(key.this)
                if not 1 <= position <= len(items):
                    raise refused(f"GROUP BY {position}: there are {len(items)} columns")
                keys.append(items[position - 1])
            else:
                keys.append(self.translator.visit(key).sql)
        return f" GROUP BY {', '.join(keys)}"


def _plain(node: exp.Expr) -> bool:
    return not isinstance(node, exp.Rollup | exp.Cube | exp.GroupingSets | exp.Tuple)


def check_output(columns: Output) -> None:
    """Refuse columns that no table can hold.

    Raises:
        SqlError: a column has no type.
    """
    for name, kind in columns:
        if kind == NULL:
            raise refused(f"the column {name!r} is NULL and has no type", f"write CAST(NULL AS type) AS {name}")
        if kind is not None and (pa.types.is_duration(kind) or pa.types.is_interval(kind)):
            raise refused(
                f"the column {name!r} is an INTERVAL, which no table holds", "use timestampdiff or unix_seconds"
            )
