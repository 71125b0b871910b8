"""Queries: SELECT, FROM, joins, WITH, set operations, in DuckDB SQL that leaves nothing implicit.

What belongs here: which columns a query has and what its clauses mean. What does not: expressions (`expressions.py`).
Stars are written out, every column is qualified and named, keys of ORDER BY say where NULL goes, and the branches of
a UNION are brought to one type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.errors import LakehouseError, SqlError
from lakehouse_assets.sql import coerce, typed
from lakehouse_assets.sql.expressions import Translator
from lakehouse_assets.sql.parse import render, table_name
from lakehouse_assets.sql.scope import Column, Relation, Scope
from lakehouse_assets.sql.typed import INT, NULL, Typed, quoted, refuse, show

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

Output = list[tuple[str, pa.DataType | None]]


@dataclass(frozen=True)
class Result:
    """A translated query: DuckDB SQL, and its columns (None where they are not known)."""

    sql: str
    columns: Output | None


class QueryTranslator:
    """Translates a query and all queries inside.

    Args:
        schemas: tables as written to their columns; None when no schema is known at all.
        names: tables as written to the name that DuckDB knows them by.
        params: the values of parameters; None where only types matter.
        problems: where faults are collected; None to raise the first.
    """

    def __init__(
        self,
        schemas: Mapping[str, pa.Schema] | None,
        names: Mapping[str, str],
        params: Mapping[str, object] | None = None,
        problems: list[str] | None = None,
    ) -> None:
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
            refuse("WITH RECURSIVE is not portable", "write the steps out")
        self.ctes.append({})
        try:
            heads = [self._cte(cte) for cte in clause.expressions]
            body = self._body(node, parent, exists)
        finally:
            self.ctes.pop()
        return replace(body, sql=f"WITH {', '.join(heads)} {body.sql}")

    def subquery(self, node: exp.Expr, scope: Scope, *, exists: bool = False) -> tuple[str, list[pa.DataType | None] | None]:
        """A query inside an expression; see `expressions.Queries`."""
        found = self.query(node, scope, exists=exists)
        return found.sql, None if found.columns is None else [kind for _, kind in found.columns]

    def _body(self, node: exp.Expr, parent: Scope | None, exists: bool) -> Result:
        if isinstance(node, exp.Subquery):
            if any(node.args.get(part) for part in ("order", "limit", "offset", "alias")):
                refuse("ORDER BY or LIMIT after a query in parentheses is not portable", "put them inside")
            return self.query(node.this, parent, exists=exists)
        if isinstance(node, exp.Select):
            return _Select(self, node, parent, exists).result()
        if isinstance(node, exp.SetOperation):
            return self._set_operation(node, parent)
        refuse(f"{render(node)!r} is not a query", "write a SELECT")

    def _cte(self, cte: exp.CTE) -> str:
        found = self.query(cte.this)
        found = rename(found, [column.name for column in cte.args["alias"].columns])
        self.ctes[-1][cte.alias.lower()] = found.columns
        return f"{quoted(cte.alias)} AS ({found.sql})"

    def cte(self, name: str) -> Output | None | bool:
        """The columns of a visible CTE (None where they are not known), or False if there is none."""
        for known in reversed(self.ctes):
            if name.lower() in known:
                return known[name.lower()]
        return False

    def _set_operation(self, node: exp.SetOperation, parent: Scope | None) -> Result:
        word = type(node).__name__.upper()
        if node.args.get("by_name") or any(node.args.get(part) for part in ("side", "kind", "on")):
            refuse(f"{word} BY NAME is not portable", "list the columns in the same order")
        for side in (node.left, node.right):
            if isinstance(side, exp.SetOperation) and type(side) is not type(node) and exp.Intersect in (type(side), type(node)):
                refuse("INTERSECT binds more tightly than UNION and EXCEPT", "put it in parentheses")
        left, right = self.query(node.left, parent), self.query(node.right, parent)
        columns = left.columns if left.columns is None or right.columns is None else _unite(word, left.columns, right.columns)
        sides = [_fit(result, columns) for result in (left, right)]
        every = "" if node.args.get("distinct") else " ALL"
        if every and word != "UNION":
            refuse(f"{word} ALL is not portable", f"use {word}")
        sql = f"({sides[0]}) {word}{every} ({sides[1]})"
        scope = Scope([Relation(("",), [Column(n, quoted(n), k) for n, k in columns])]) if columns else Scope([Relation(("",), None)])
        translator = Translator(scope, self, self.params, self.problems)
        return Result(sql + tail(node, translator, [name for name, _ in columns or []]), columns)


def _unite(word: str, left: Output, right: Output) -> Output:
    if len(left) != len(right):
        refuse(f"the sides of {word} have {len(left)} and {len(right)} columns", "select the same number")
    united: Output = []
    for (name, first), (_, second) in zip(left, right, strict=True):
        try:
            united.append((name, typed.common(first, second)))
        except SqlError as error:
            refuse(f"column {name!r} of {word}: {error.problem}", error.fix)
    return united


def _fit(result: Result, columns: Output | None) -> str:
    """A branch of a set operation, cast to the types of the whole where they differ."""
    if columns is None or result.columns is None or [k for _, k in result.columns] == [k for _, k in columns]:
        return result.sql
    names = [f"c{position}" for position in range(len(columns))]
    items = ", ".join(
        f"{name} AS {quoted(column)}" if kind is None or kind == NULL else f"CAST({name} AS {typed.duckdb_name(kind)}) AS {quoted(column)}"
        for name, (column, kind) in zip(names, columns, strict=True)
    )
    return f"SELECT {items} FROM ({result.sql}) AS branch({', '.join(names)})"


def rename(result: Result, names: list[str]) -> Result:
    """A query under other column names: `AS t(a, b)`."""
    if not names:
        return result
    if result.columns is None:
        return Result(f"SELECT * FROM ({result.sql}) AS renamed({', '.join(map(quoted, names))})", None)
    if len(names) != len(result.columns):
        refuse(f"{len(names)} names for {len(result.columns)} columns", "name each column once")
    columns = [(name, kind) for name, (_, kind) in zip(names, result.columns, strict=True)]
    return Result(f"SELECT * FROM ({result.sql}) AS renamed({', '.join(map(quoted, names))})", columns)


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
                refuse(f"{part.upper()} takes an integer literal")
            sql += f" {part.upper()} {count.this}"
    return sql


def _order_key(item: exp.Ordered, translator: Translator, outputs: list[str]) -> str:
    key = item.this
    if isinstance(key, exp.Literal) and not key.is_string:
        if not 1 <= int(key.this) <= max(len(outputs), 1):
            refuse(f"ORDER BY {key.this}: there are {len(outputs)} columns")
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
        self.translator = Translator(self.scope, queries, queries.params, queries.problems)

    def result(self) -> Result:
        node = self.node
        for part, message in _REFUSED.items():
            if node.args.get(part):
                self._fault(message)
        source = self._from()
        self.translator.windows = {str(w.this.name).lower(): w for w in node.args.get("windows") or ()}
        where = self._clause("WHERE", node.args.get("where"))
        columns, items = self._items()
        having = self._clause("HAVING", node.args.get("having"))
        group = self._group(columns, items)
        names = [name for name, _ in columns or []]
        listed = ", ".join(items if columns is None else (f"{i} AS {quoted(n)}" for i, n in zip(items, names, strict=True)))
        sql = f"SELECT {self._distinct()}{listed}{source}{where}{group}{having}{tail(node, self.translator, names)}"
        return Result(sql, columns)

    def _fault(self, message: str) -> None:
        if self.queries.problems is None:
            refuse(message)
        self.queries.problems.append(message)

    def _distinct(self) -> str:
        distinct = self.node.args.get("distinct")
        if distinct is not None and distinct.args.get("on"):
            self._fault("DISTINCT ON is not in Spark: number the rows with row_number() and keep the first")
        return "DISTINCT " if distinct is not None else ""

    def _clause(self, word: str, clause: exp.Expr | None) -> str:
        return "" if clause is None else f" {word} {self._safely(clause.this, word)}"

    def _safely(self, node: exp.Expr, word: str) -> str:
        try:
            return self.translator.condition(node, f"the condition of {word}").sql
        except LakehouseError as error:
            self._fault(error.problem + (f": {error.fix}" if error.fix else ""))
            return "true"

    # FROM

    def _from(self) -> str:
        clause = self.node.args.get("from_")
        if clause is None:
            return ""
        sql = f" FROM {self._relation(clause.this)}"
        for join in self.node.args.get("joins") or ():
            sql += self._join(join)
        for lateral in self.node.args.get("laterals") or ():
            sql += self._lateral(lateral)
        return sql

    def _relation(self, node: exp.Expr) -> str:
        for part in ("joins", "laterals", "pivots", "sample", "hints", "when", "version", "ordinality"):
            if node.args.get(part):
                refuse(f"{render(node)!r}: {part} inside FROM is not portable", "write it as a query of its own")
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            return self._table(node)
        if isinstance(node, exp.Subquery):
            return self._derived(node)
        refuse(f"{render(node)!r} cannot stand in FROM", "name a table, or write a query in parentheses")

    def _table(self, node: exp.Table) -> str:
        written = table_name(node)
        alias = node.alias or node.name
        names = (alias.lower(),) if node.alias else (alias.lower(), written.lower())
        columns = self._columns_of(node, written)
        known = self.queries.names.get(written.lower())
        local = len(node.parts) == 1 and self.queries.cte(node.name) is not False
        source = quoted(node.name) if local else quoted(known) if known else ".".join(quoted(p.name) for p in node.parts)
        self._add(Relation(names, None if columns is None else _qualified(alias, columns)))
        return f"{source} AS {quoted(alias)}{self._renamed(node, columns)}"

    def _renamed(self, node: exp.Expr, columns: Output | None) -> str:
        given = node.args["alias"].columns if node.args.get("alias") else []
        if not given:
            return ""
        refuse(f"{render(node)!r}: column names in FROM go with a query in parentheses", "write (SELECT … ) AS t(a, b)")

    def _columns_of(self, node: exp.Table, written: str) -> Output | None:
        if len(node.parts) == 1:
            found = self.queries.cte(node.name)
            if found is not False:
                return found  # type: ignore[return-value]
        if self.queries.schemas is None:
            return None
        schema = self.queries.schemas.get(written.lower())
        if schema is None:
            raise SqlError(f"there is no table {written!r}", value=written, choices=self.queries.schemas)
        return [(field.name, field.type) for field in schema]

    def _derived(self, node: exp.Subquery) -> str:
        found = self.queries.query(node.this, None)
        given = node.args["alias"].columns if node.args.get("alias") else []
        found = rename(found, [column.name for column in given])
        alias = node.alias or f"query_{len(self.scope.relations)}"
        self._add(Relation((alias.lower(),), None if found.columns is None else _qualified(alias, found.columns)))
        return f"({found.sql}) AS {quoted(alias)}"

    def _add(self, relation: Relation) -> None:
        if any(relation.names[0] in known.names[:1] for known in self.scope.relations):
            refuse(f"two tables in FROM are called {relation.names[0]!r}", "give each an alias of its own")
        self.scope.relations.append(relation)

    def _join(self, join: exp.Join) -> str:
        side, kind = str(join.side or "").upper(), str(join.kind or "").upper()
        if join.args.get("method") or join.args.get("global_") or kind not in ("", "INNER", "OUTER", "CROSS", "SEMI", "ANTI"):
            refuse(f"{render(join)!r} is not portable", "use INNER, LEFT, RIGHT, FULL, CROSS, LEFT SEMI or LEFT ANTI JOIN")
        before = list(self.scope.relations)
        source = self._relation(join.this)
        if kind in ("SEMI", "ANTI"):
            head = f" {kind} JOIN {source}"
        else:
            head = f" {side + ' ' if side else ''}{'CROSS ' if kind == 'CROSS' else ''}JOIN {source}"
        condition = self._condition(join, before, side)
        if kind in ("SEMI", "ANTI"):
            del self.scope.relations[len(before) :]
        if kind == "CROSS":
            return head
        return f"{head} ON {condition or 'true'}"

    def _condition(self, join: exp.Join, before: list[Relation], side: str) -> str:
        on, using = join.args.get("on"), join.args.get("using")
        if on is not None:
            return self._safely(on, "ON")
        parts = []
        for column in using or ():
            parts.append(self._using(column.name, before, side))
        return " AND ".join(parts)

    def _using(self, name: str, before: list[Relation], side: str) -> str:
        right = self.scope.relations[-1]
        if right.columns is None or any(relation.columns is None for relation in before):
            return "true"
        merged = [c for c in self.scope.merged if c.name.lower() == name.lower()]
        lefts = merged or [c for relation in before for c in relation.find(name) if c.sql not in self.scope.hidden]
        rights = right.find(name)
        if len(lefts) != 1 or len(rights) != 1:
            refuse(f"USING ({name}): each side needs the column exactly once", "use ON")
        one, other = lefts[0], rights[0]
        equal = self.translator.compare(self.node, "=", Typed(one.sql, one.type), Typed(other.sql, other.type))
        kind = typed.common(one.type, other.type)
        sides = [coerce.widen(Typed(c.sql, c.type), kind).sql for c in (one, other)]
        sql = {"RIGHT": sides[1], "FULL": f"coalesce({sides[0]}, {sides[1]})"}.get(side, sides[0])
        self.scope.hidden |= {one.sql, other.sql}
        self.scope.merged = [c for c in self.scope.merged if c.name.lower() != name.lower()]
        self.scope.merged.append(Column(one.name, sql, kind))
        return equal.sql

    def _lateral(self, lateral: exp.Lateral) -> str:
        call = lateral.this
        name = str(call.this).lower() if isinstance(call, exp.Anonymous) else ""
        if not lateral.args.get("view") or name not in ("explode", "posexplode") or len(call.expressions) != 1:
            refuse(f"{render(lateral)!r} is not portable", "use LATERAL VIEW [OUTER] explode(array) or posexplode(array)")
        items = self.translator.visit(call.expressions[0])
        if items.type is not None and not typed.is_list(items.type):
            refuse(f"{name}() takes an ARRAY here, not {show(items.type)}")
        inner = items.type.value_type if items.type is not None else None
        given = [column.name for column in lateral.args["alias"].columns]
        names = given or (["col"] if name == "explode" else ["pos", "col"])
        if len(names) != (1 if name == "explode" else 2):
            refuse(f"{name}() gives {1 if name == 'explode' else 2} columns", "name each")
        alias = lateral.args["alias"].name or f"view_{len(self.scope.relations)}"
        selected = f"unnest({items.sql}) AS {quoted(names[-1])}"
        columns: Output = [(names[-1], inner)]
        if name == "posexplode":
            selected += f", CAST(generate_subscripts({items.sql}, 1) - 1 AS INTEGER) AS {quoted(names[0])}"
            columns.insert(0, (names[0], INT))
        self._add(Relation((alias.lower(),), _qualified(alias, columns)))
        outer = bool(lateral.args.get("outer"))
        join = f" {'LEFT' if outer else 'CROSS'} JOIN LATERAL (SELECT {selected}) AS {quoted(alias)}"
        return join + (" ON true" if outer else "")

    # SELECT

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
        return columns, items

    def _name(self, item: exp.Expr) -> str:
        if isinstance(item, exp.Alias):
            return item.alias
        return item.name if isinstance(item, exp.Column | exp.Dot) else render(item).lower()

    def _check_names(self, columns: Output) -> None:
        seen: set[str] = set()
        for name, _ in columns:
            if name.lower() in seen:
                self._fault(f"the column {name!r} is made twice: give each an alias of its own, or join with USING")
            seen.add(name.lower())

    def _star(self, item: exp.Expr) -> list[Column] | None | bool:
        """The columns of `*`, None where they are not known, False where the item is no star."""
        inner = item.this if isinstance(item, exp.Column) else item
        if not isinstance(inner, exp.Star):
            return False
        if inner.args.get("replace") or inner.args.get("rename"):
            refuse("* REPLACE and * RENAME are not portable", "use * EXCEPT (…) and name the columns")
        qualifier = item.table if isinstance(item, exp.Column) else None
        found = self.scope.star(qualifier)
        left_out = {column.name.lower() for column in inner.args.get("except_") or ()}
        if found is None:
            return None
        unknown = left_out - {column.name.lower() for column in found}
        if unknown:
            refuse(f"* EXCEPT: there is no column {sorted(unknown)[0]!r}")
        return [column for column in found if column.name.lower() not in left_out]

    def _group(self, columns: Output | None, items: list[str]) -> str:
        group = self.node.args.get("group")
        if group is None:
            return ""
        if any(group.args.get(part) for part in _GROUPS) or any(not _plain(e) for e in group.expressions):
            self._fault("GROUP BY ALL, ROLLUP, CUBE and GROUPING SETS are not in the shared part: list the columns")
            return ""
        keys = []
        for key in group.expressions:
            if isinstance(key, exp.Literal) and not key.is_string:
                position = int(key.this)
                if not 1 <= position <= len(items):
                    refuse(f"GROUP BY {position}: there are {len(items)} columns")
                keys.append(items[position - 1])
            else:
                keys.append(self.translator.visit(key).sql)
        return f" GROUP BY {', '.join(keys)}"


def _plain(node: exp.Expr) -> bool:
    return not isinstance(node, exp.Rollup | exp.Cube | exp.GroupingSets | exp.Tuple)


def _qualified(alias: str, columns: Output) -> list[Column]:
    return [Column(name, f"{quoted(alias)}.{quoted(name)}", kind) for name, kind in columns]


def check_output(columns: Output) -> None:
    """Refuse columns that no table can hold.

    Raises:
        SqlError: a column has no type.
    """
    for name, kind in columns:
        if kind == NULL:
            refuse(f"the column {name!r} is NULL and has no type", f"write CAST(NULL AS type) AS {name}")
        if kind is not None and (pa.types.is_duration(kind) or pa.types.is_interval(kind)):
            refuse(f"the column {name!r} is an INTERVAL, which no table holds", "use timestampdiff or unix_seconds")

