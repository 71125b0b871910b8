"""The proof that a query table may be refreshed by key.

A query Q over upstream tables may be refreshed for some values of its key, if filtering every upstream table to these
values and running Q gives the rows of Q with these values, whatever the tables hold. The proof goes through the query
from the tables outwards and keeps, for every relation, the columns that are the key:

    table           the columns of these names
    join            the key must be equated with every joined table; of an outer join only the kept side carries it
    WHERE, HAVING   anything about one row or one group, but no query inside
    GROUP BY        the key must be among the grouping columns; an aggregate without GROUP BY has no key
    OVER            the key must be among the partitioning columns
    UNION, …        the key must stand at the same position on both sides
    LIMIT           no proof

What belongs here: the proof. What does not: refreshing (`tables/query.py`). It is conservative: what it cannot prove
is refused, and the refresh is full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from lakehouse_assets.errors import LakehouseError
from lakehouse_assets.sql import functions
from lakehouse_assets.sql.parse import parse_query, render, table_name

Ref = tuple[str, str]
"""A column in FROM: the alias of its relation and its name, both in lower case; alias "" for a merged column."""


def refresh_fault(sql: str, key: Sequence[str]) -> str | None:
    """Why a key does not prove that a refresh by key equals a full one; None when it does.

    Every upstream table must have the columns of the key under these very names.

    Args:
        sql: the query, in Spark SQL.
        key: the columns of the refresh key.
    """
    if not key:
        return "no refresh key is declared"
    try:
        query = parse_query(sql, "the query")
    except LakehouseError as error:
        return error.problem
    proof = _Proof(tuple(dict.fromkeys(name.lower() for name in key)))
    try:
        outputs = proof.query(query, {})
    except _UnprovenError as reason:
        return str(reason)
    for name in proof.key:
        carriers = {output.name for output in outputs if output.key == name}
        if name not in carriers:
            return f"the column {name!r} of the refresh key is not in the result under its own name"
    return None


class _UnprovenError(Exception):
    """The proof stops here; the message says why."""


@dataclass(frozen=True)
class _Output:
    """A column of a relation: its name (`*` for unknown ones), and which column of the key it is, if any."""

    name: str
    key: str | None = None


@dataclass
class _Sources:
    """FROM as far as it is read: the relations' columns, and for each column of the key the columns that equal it."""

    relations: dict[str, list[_Output]] = field(default_factory=dict)
    carriers: dict[str, set[Ref]] = field(default_factory=dict)
    merged: set[str] = field(default_factory=set)


Env = Mapping[str, list[_Output]]


@dataclass(frozen=True)
class _Proof:
    key: tuple[str, ...]

    def query(self, node: exp.Expr, env: Env) -> list[_Output]:
        clause = node.args.get("with_")
        if clause is not None:
            known = dict(env)
            for cte in clause.expressions:
                outputs = self.query(cte.this, known)
                known[cte.alias.lower()] = _renamed(outputs, cte.args["alias"].columns)
            env = known
        if node.args.get("limit") is not None or node.args.get("offset") is not None:
            raise _UnprovenError("LIMIT keeps rows by comparing them with rows of other keys")
        if isinstance(node, exp.Subquery):
            return self.query(node.this, env)
        if isinstance(node, exp.SetOperation):
            return self.set_operation(node, env)
        if isinstance(node, exp.Select):
            return self.select(node, env)
        raise _UnprovenError(f"{render(node)!r} is not understood")

    def set_operation(self, node: exp.SetOperation, env: Env) -> list[_Output]:
        left, right = self.query(node.left, env), self.query(node.right, env)
        if any(output.name == "*" for output in (*left, *right)):
            raise _UnprovenError(
                "the columns of a UNION, INTERSECT or EXCEPT are not all named: write them instead of *"
            )
        for name in self.key:
            if not any(a.key == b.key == name for a, b in zip(left, right, strict=False)):
                raise _UnprovenError(
                    f"{name!r} does not stand at one position on both sides of {type(node).__name__.upper()}"
                )
        same = [a.key if a.key == b.key else None for a, b in zip(left, right, strict=False)]
        return [_Output(output.name, kept) for output, kept in zip(left, same, strict=False)]

    def select(self, node: exp.Select, env: Env) -> list[_Output]:
        clause = node.args.get("from_")
        if clause is None:
            raise _UnprovenError("a SELECT without FROM has no key")
        sources = _Sources()
        self.add(sources, clause.this, env)
        for name in self.key:
            sources.carriers[name] = self.columns(sources, [next(iter(sources.relations))], name)
        where = list(_conjuncts(node.args["where"].this)) if node.args.get("where") else []
        where = [term for term in where if isinstance(term, exp.EQ)]  # `<=>` would keep rows that a RIGHT JOIN filled
        for join in node.args.get("joins") or ():
            self.join(sources, join, env, where)
        for lateral in node.args.get("laterals") or ():
            alias = lateral.args["alias"]
            sources.relations[alias.name.lower()] = [_Output(column.name.lower()) for column in alias.columns]
        self.no_queries(node)
        outputs = list(self.outputs(node, sources))
        self.grouped(node, sources)
        self.windows(node, sources)
        return outputs

    # FROM

    def add(self, sources: _Sources, node: exp.Expr, env: Env) -> str:
        """Add a relation to FROM; its alias."""
        if isinstance(node, exp.Table):
            alias = (node.alias or node.name).lower()
            local = env.get(node.name.lower()) if len(node.parts) == 1 else None
            outputs = local if local is not None else [*(_Output(name, name) for name in self.key), _Output("*")]
        elif isinstance(node, exp.Subquery):
            alias = (node.alias or f"query_{len(sources.relations)}").lower()
            outputs = _renamed(self.query(node.this, env), node.args["alias"].columns if node.args.get("alias") else [])
        else:
            raise _UnprovenError(f"{render(node)!r} is not a table")
        for name in self.key:
            if not any(output.key == name for output in outputs):
                what = table_name(node) if isinstance(node, exp.Table) else alias
                raise _UnprovenError(f"the key column {name!r} does not come out of {what!r}")
        sources.relations[alias] = list(outputs)
        return alias

    def columns(self, sources: _Sources, aliases: Sequence[str], name: str) -> set[Ref]:
        """The columns of some relations that are the column `name` of the key."""
        return {(alias, o.name) for alias in aliases for o in sources.relations[alias] if o.key == name}

    def join(self, sources: _Sources, join: exp.Join, env: Env, where: Sequence[exp.Expr]) -> None:
        side, kind = str(join.side or "").upper(), str(join.kind or "").upper()
        alias = self.add(sources, join.this, env)
        using = [column.name.lower() for column in join.args.get("using") or ()]
        on = list(_conjuncts(join.args["on"])) if join.args.get("on") is not None else []
        inner = not side and kind in ("", "INNER", "CROSS")
        for name in self.key:
            new = self.columns(sources, [alias], name)
            merged = name in using and ("", name) in new | self.refs_named(sources, alias, name, new)
            if not merged and not self.equated(sources, [*on, *(where if inner else [])], sources.carriers[name], new):
                raise _UnprovenError(
                    f"{render(join)!r} does not equate the key column {name!r}: each joined table must be joined by it"
                )
            sources.carriers[name] = self.after(sources.carriers[name], new, side, kind, name, merged)
        sources.merged |= set(using)
        if kind in ("SEMI", "ANTI"):
            del sources.relations[alias]

    def refs_named(self, sources: _Sources, alias: str, name: str, new: set[Ref]) -> set[Ref]:
        """{("", name)} if USING (name) merges two columns that both are the key."""
        left = {ref for ref in sources.carriers[name] if ref[1] == name}
        return {("", name)} if left and (alias, name) in new else set()

    def after(self, old: set[Ref], new: set[Ref], side: str, kind: str, name: str, merged: bool) -> set[Ref]:
        """The columns that are the key once the join is made."""
        both = {("", name)} if merged else set()
        if side == "FULL":
            if not merged:
                raise _UnprovenError(f"a FULL JOIN keeps the key {name!r} in one column only with USING ({name})")
            return both
        if side == "LEFT" or kind in ("SEMI", "ANTI"):
            return old | both
        return new | both if side == "RIGHT" else old | new | both

    def equated(self, sources: _Sources, terms: Sequence[exp.Expr], old: set[Ref], new: set[Ref]) -> bool:
        for term in terms:
            if isinstance(term, exp.EQ | exp.NullSafeEQ):
                left, right = self.ref(sources, term.this), self.ref(sources, term.expression)
                if (left in old and right in new) or (left in new and right in old):
                    return True
        return False

    # columns

    def ref(self, sources: _Sources, node: exp.Expr | None) -> Ref | None:
        """The column in FROM that an expression is, if it is nothing but a column."""
        while isinstance(node, exp.Paren):
            node = node.this
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            return None
        name = node.name.lower()
        if node.table:
            alias = node.table.lower()
            return (alias, name) if alias in sources.relations and len(node.parts) == 2 else None
        if name in sources.merged:
            return ("", name)
        homes = [a for a, outputs in sources.relations.items() if any(o.name == name for o in outputs)]
        return (homes[0], name) if len(homes) == 1 else None

    def key_of(self, sources: _Sources, node: exp.Expr | None) -> str | None:
        """The column of the key that an expression is."""
        found = self.ref(sources, node)
        return next((name for name in self.key if found in sources.carriers[name]), None) if found else None

    def outputs(self, node: exp.Select, sources: _Sources) -> Iterator[_Output]:
        for item in node.expressions:
            star = item.this if isinstance(item, exp.Column) else item
            if isinstance(star, exp.Star):
                yield from self.star(sources, item, star)
            else:
                expression = item.this if isinstance(item, exp.Alias) else item
                yield _Output((item.alias_or_name or render(item)).lower(), self.key_of(sources, expression))

    def star(self, sources: _Sources, item: exp.Expr, star: exp.Star) -> Iterator[_Output]:
        left_out = {column.name.lower() for column in star.args.get("except_") or ()}
        qualifier = item.table.lower() if isinstance(item, exp.Column) else ""
        if not qualifier:
            for name in sources.merged - left_out:
                yield _Output(name, next((k for k in self.key if ("", name) in sources.carriers[k]), None))
        for alias, outputs in sources.relations.items():
            if qualifier in ("", alias):
                for output in outputs:
                    if output.name not in left_out and (qualifier or output.name not in sources.merged):
                        carried = (k for k in self.key if (alias, output.name) in sources.carriers[k])
                        yield _Output(output.name, next(carried, None))

    # aggregates and windows

    def grouped(self, node: exp.Select, sources: _Sources) -> None:
        group = node.args.get("group")
        if group is None:
            if any(_aggregates(node)):
                raise _UnprovenError("an aggregate without GROUP BY puts the rows of all keys together")
            return
        if any(value for part, value in group.args.items() if part != "expressions"):
            raise _UnprovenError("GROUP BY is not a plain list of columns")
        found = {self.key_of(sources, self.group_key(node, sources, key)) for key in group.expressions}
        self.need(found, "GROUP BY")

    def group_key(self, node: exp.Select, sources: _Sources, key: exp.Expr) -> exp.Expr | None:
        """What a key of GROUP BY means: an expression, the item at a position, or the item of that alias."""
        if isinstance(key, exp.Literal) and not key.is_string and str(key.this).isdigit():
            position = int(key.this)
            key = node.expressions[position - 1] if 1 <= position <= len(node.expressions) else key
            return key.this if isinstance(key, exp.Alias) else key
        if isinstance(key, exp.Column) and self.ref(sources, key) is None:
            for item in node.expressions:
                if isinstance(item, exp.Alias) and item.alias.lower() == key.name.lower():
                    return item.this
        return key

    def windows(self, node: exp.Select, sources: _Sources) -> None:
        named = {str(window.this.name).lower(): window for window in node.args.get("windows") or ()}
        for window in _inside(node, exp.Window):
            if window.parent is node and window.arg_key == "windows":
                continue
            over = named.get(window.alias.lower(), window) if window.args.get("alias") is not None else window
            found = {self.key_of(sources, item) for item in over.args.get("partition_by") or ()}
            self.need(found, f"PARTITION BY of {render(window)!r}")

    def need(self, found: set[str | None], where: str) -> None:
        missing = [name for name in self.key if name not in found]
        if missing:
            raise _UnprovenError(f"{where} does not name the key column {missing[0]!r}")

    def no_queries(self, node: exp.Select) -> None:
        for part, value in node.args.items():
            if part in ("with_", "from_"):
                continue
            for item in value if isinstance(value, list) else [value]:
                roots = [item.args.get("on")] if isinstance(item, exp.Join) else [item]
                for root in roots:
                    if isinstance(root, exp.Expr) and any(root.find_all(exp.Query)):
                        raise _UnprovenError("a query inside an expression may read rows of other keys")


def _renamed(outputs: list[_Output], columns: Sequence[exp.Expr]) -> list[_Output]:
    if not columns:
        return outputs
    if any(output.name == "*" for output in outputs) or len(outputs) != len(columns):
        raise _UnprovenError("columns are renamed while it is not known which there are: write them instead of *")
    return [_Output(column.name.lower(), output.key) for column, output in zip(columns, outputs, strict=True)]


def _conjuncts(node: exp.Expr) -> Iterator[exp.Expr]:
    while isinstance(node, exp.Paren):
        node = node.this
    if isinstance(node, exp.And):
        yield from _conjuncts(node.this)
        yield from _conjuncts(node.expression)
    else:
        yield node


def _inside(node: exp.Select, *kinds: type[exp.Expr]) -> Iterator[exp.Expr]:
    """Nodes of a SELECT, but not those of queries inside FROM, joins or WITH."""
    for part, value in node.args.items():
        if part in ("with_", "from_", "joins"):
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, exp.Expr):
                yield from item.find_all(*kinds)


def _aggregates(node: exp.Select) -> Iterator[exp.Expr]:
    """Calls of aggregates that are not window functions."""
    for call in _inside(node, exp.Anonymous):
        known = functions.table().get(str(call.this).lower())
        parent = call.parent
        while isinstance(parent, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
            parent = parent.parent
        over = isinstance(parent, exp.Window) and not isinstance(call.parent, exp.Ordered)
        if known is not None and known.kind == "group" and not (over and _is_called(parent, call)):
            yield call


def _is_called(window: exp.Expr | None, call: exp.Expr) -> bool:
    """Whether a window is OVER of this very call, rather than a clause that holds it."""
    inner = window.this if window is not None else None
    while isinstance(inner, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
        inner = inner.this
    return inner is call
