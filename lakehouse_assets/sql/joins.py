"""FROM: tables, queries in parentheses, joins and LATERAL VIEW, in DuckDB SQL.

What belongs here: which relations a SELECT reads and how they are joined. What does not: its other clauses
(`relations.py`), what a name means (`scope.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.errors import SqlError
from lakehouse_assets.sql import coerce, typed
from lakehouse_assets.sql.parse import render, table_name
from lakehouse_assets.sql.scope import Column, Relation
from lakehouse_assets.sql.typed import INT, Typed, quoted, refused, show

if TYPE_CHECKING:
    from lakehouse_assets.sql.expressions import Translator
    from lakehouse_assets.sql.relations import QueryTranslator

Output = list[tuple[str, pa.DataType | None]]


@dataclass(frozen=True)
class Result:
    """A translated query: DuckDB SQL, and its columns (None where they are not known)."""

    sql: str
    columns: Output | None


class FromClause:
    """Translates FROM, and fills the translator's scope with what it reads."""

    def __init__(self, queries: QueryTranslator, translator: Translator) -> None:
        self.queries, self.translator, self.scope = queries, translator, translator.scope

    def sql(self, node: exp.Select) -> str:
        """The FROM clause of a SELECT; its relations are added to the scope."""
        clause = node.args.get("from_")
        if clause is None:
            return ""
        sql = f" FROM {self._relation(clause.this)}"
        for join in node.args.get("joins") or ():
            sql += self._join(join)
        for lateral in node.args.get("laterals") or ():
            sql += self._lateral(lateral)
        return sql

    def _relation(self, node: exp.Expr) -> str:
        for part in ("joins", "laterals", "pivots", "sample", "hints", "when", "version", "ordinality"):
            if node.args.get(part):
                raise refused(f"{render(node)!r}: {part} inside FROM is not portable", "write it as a query of its own")
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            return self._table(node)
        if isinstance(node, exp.Subquery):
            return self._derived(node)
        raise refused(f"{render(node)!r} cannot stand in FROM", "name a table, or write a query in parentheses")

    def _table(self, node: exp.Table) -> str:
        written = table_name(node)
        alias = node.alias or node.name
        names = (alias.lower(),) if node.alias else (alias.lower(), written.lower())
        columns = self._columns_of(node, written)
        known = self.queries.names.get(written.lower())
        local = len(node.parts) == 1 and self.queries.cte(node.name) is not False
        source = (
            quoted(node.name) if local else quoted(known) if known else ".".join(quoted(p.name) for p in node.parts)
        )
        self._add(Relation(names, None if columns is None else _qualified(alias, columns)))
        if node.args.get("alias") and node.args["alias"].columns:
            raise refused(f"{render(node)!r}: column names go with a query", "write (SELECT … FROM …) AS t(a, b)")
        return f"{source} AS {quoted(alias)}"

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
            raise refused(f"two tables in FROM are called {relation.names[0]!r}", "give each an alias of its own")
        self.scope.relations.append(relation)

    def _join(self, join: exp.Join) -> str:
        side, kind = str(join.side or "").upper(), str(join.kind or "").upper()
        if (
            join.args.get("method")
            or join.args.get("global_")
            or kind not in ("", "INNER", "OUTER", "CROSS", "SEMI", "ANTI")
        ):
            raise refused(
                f"{render(join)!r} is not portable", "use INNER, LEFT, RIGHT, FULL, CROSS, LEFT SEMI or LEFT ANTI JOIN"
            )
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
            return self.queries.safely(self.translator, on, "ON")
        return " AND ".join(self._using(column.name, before, side) for column in using or ())

    def _using(self, name: str, before: list[Relation], side: str) -> str:
        right = self.scope.relations[-1]
        if right.columns is None or any(relation.columns is None for relation in before):
            return "true"
        merged = [c for c in self.scope.merged if c.name.lower() == name.lower()]
        lefts = merged or [c for relation in before for c in relation.find(name) if c.sql not in self.scope.hidden]
        rights = right.find(name)
        if len(lefts) != 1 or len(rights) != 1:
            raise refused(f"USING ({name}): each side needs the column exactly once", "use ON")
        one, other = lefts[0], rights[0]
        kind = typed.common(one.type, other.type)
        equal = self.translator.compare("=", Typed(one.sql, one.type), Typed(other.sql, other.type))
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
            raise refused(
                f"{render(lateral)!r} is not portable", "use LATERAL VIEW [OUTER] explode(array) or posexplode(array)"
            )
        items = self.translator.visit(call.expressions[0])
        if items.type is not None and not typed.is_list(items.type):
            raise refused(f"{name}() takes an ARRAY here, not {show(items.type)}")
        inner = items.type.value_type if items.type is not None else None
        given = [column.name for column in lateral.args["alias"].columns]
        names = given or (["col"] if name == "explode" else ["pos", "col"])
        if len(names) != (1 if name == "explode" else 2):
            raise refused(f"{name}() gives {1 if name == 'explode' else 2} columns", "name each")
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


def rename(result: Result, names: list[str]) -> Result:
    """A query under other column names: `AS t(a, b)`."""
    if not names:
        return result
    if result.columns is None:
        return Result(f"SELECT * FROM ({result.sql}) AS renamed({', '.join(map(quoted, names))})", None)
    if len(names) != len(result.columns):
        raise refused(f"{len(names)} names for {len(result.columns)} columns", "name each column once")
    columns = [(name, kind) for name, (_, kind) in zip(names, result.columns, strict=True)]
    return Result(f"SELECT * FROM ({result.sql}) AS renamed({', '.join(map(quoted, names))})", columns)


def _qualified(alias: str, columns: Output) -> list[Column]:
    return [Column(name, f"{quoted(alias)}.{quoted(name)}", kind) for name, kind in columns]
