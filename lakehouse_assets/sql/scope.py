"""Which columns an expression can name, and what each name means.

What belongs here: relations in FROM, their columns, resolving a name as Spark does (upper and lower case alike).
What does not: reading FROM (`relations.py`), anything about values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.errors import SqlError
from lakehouse_assets.sql.typed import Typed, quoted, refused, show


@dataclass(frozen=True)
class Column:
    """A column that can be named: how DuckDB reads it, and its type."""

    name: str
    sql: str
    type: pa.DataType | None = None


@dataclass
class Relation:
    """Something in FROM.

    Attributes:
        names: the ways to qualify its columns, in lower case: the alias, or the table's name and its parts.
        columns: its columns; None where they are not known.
    """

    names: tuple[str, ...]
    columns: Sequence[Column] | None

    def find(self, name: str) -> list[Column]:
        """The columns of that name."""
        return [column for column in self.columns or () if column.name.lower() == name.lower()]


@dataclass
class Scope:
    """The relations of one SELECT.

    Attributes:
        relations: in the order of FROM.
        parent: the scope around a subquery.
        hidden: columns that only a qualified name reaches (the copies that USING merged).
        merged: the columns that USING merged, which an unqualified name means.
        aliases: select items that a later item, GROUP BY or HAVING may name.
        variables: the parameters of lambdas around the expression.
    """

    relations: list[Relation] = field(default_factory=list)
    parent: Scope | None = None
    hidden: set[str] = field(default_factory=set)
    merged: list[Column] = field(default_factory=list)
    aliases: dict[str, Typed] = field(default_factory=dict)
    variables: dict[str, Typed] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether some relation's columns are not known."""
        return any(relation.columns is None for relation in self.relations)

    def star(self, qualifier: str | None = None) -> list[Column] | None:
        """What `*` or `qualifier.*` means; None where it is not known."""
        if qualifier is None:
            if self.open:
                return None
            rest = [c for r in self.relations for c in r.columns or () if c.sql not in self.hidden]
            return [*self.merged, *rest]
        for relation in self.relations:
            if qualifier.lower() in relation.names:
                return None if relation.columns is None else list(relation.columns)
        raise refused(f"there is no table {qualifier!r} in FROM", f"name one of {', '.join(self.qualifiers())}")

    def qualifiers(self) -> list[str]:
        """The names that can stand before a column."""
        return [relation.names[0] for relation in self.relations]

    def resolve(self, node: exp.Expr, parts: Sequence[str]) -> Typed:
        """What `a`, `a.b`, `a.b.c` … means: a column, or a field of a struct column.

        Raises:
            SqlError: nothing of that name, or several.
        """
        found = self._here(node, parts)
        if found is not None:
            return found
        outer = self.parent
        while outer is not None:
            found = outer._here(node, parts)
            if found is not None:
                return found
            outer = outer.parent
        written = ".".join(parts)
        if self.open or any(scope.open for scope in self._outers()):
            return Typed(".".join(map(quoted, parts)), None, node)
        raise SqlError(
            f"there is no column {written!r}", value=written, choices=self._choices(), fix="name one of these"
        )

    def _outers(self) -> list[Scope]:
        return [] if self.parent is None else [self.parent, *self.parent._outers()]

    def _choices(self) -> list[str]:
        return [c.name for c in self.merged] + [c.name for r in self.relations for c in r.columns or ()]

    def _here(self, node: exp.Expr, parts: Sequence[str]) -> Typed | None:
        variable = self.variables.get(parts[0].lower())
        if variable is not None:
            return fields(variable.named(node), parts[1:])
        for length in range(len(parts) - 1, 0, -1):
            qualifier = ".".join(parts[:length]).lower()
            for relation in self.relations:
                if qualifier in relation.names:
                    if relation.columns is None:
                        return Typed(".".join(map(quoted, parts[length - 1 :])), None, node)
                    columns = relation.find(parts[length])
                    if columns:
                        return self._only(node, columns, parts[length:])
        columns = [c for c in self.merged if c.name.lower() == parts[0].lower()]
        columns += [c for r in self.relations for c in r.find(parts[0]) if c.sql not in self.hidden]
        if columns:
            return self._only(node, columns, parts)
        alias = self.aliases.get(parts[0].lower())
        return None if alias is None else fields(alias.named(node), parts[1:])

    def _only(self, node: exp.Expr, columns: Sequence[Column], parts: Sequence[str]) -> Typed:
        if len(columns) > 1:
            raise refused(
                f"the column {parts[0]!r} may mean several",
                f"write {' or '.join(q + '.' + parts[0] for q in self.qualifiers())}",
            )
        return fields(Typed(columns[0].sql, columns[0].type, node), parts[1:])


def fields(value: Typed, names: Sequence[str]) -> Typed:
    """A field of a struct, of a field of a field, and so on."""
    for name in names:
        if value.type is None:
            value = Typed(f"struct_extract({value.sql}, '{name}')", None, value.node)
            continue
        if not pa.types.is_struct(value.type):
            raise refused(f"{show(value.type)} has no field {name!r}", "name a column, or a field of a STRUCT column")
        known = [f for f in value.type.fields if f.name.lower() == name.lower()]
        if len(known) != 1:
            choices = ", ".join(f.name for f in value.type.fields)
            raise refused(f"there is no field {name!r} in the struct", f"name one of {choices}")
        value = Typed(f"struct_extract({value.sql}, {_text(known[0].name)})", known[0].type, value.node)
    return value


def _text(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def table_scope(schemas: Mapping[str, pa.Schema | None]) -> Scope:
    """A scope of some tables, each under its own name."""
    relations = []
    for name, schema in schemas.items():
        columns = (
            None if schema is None else [Column(f.name, f"{quoted(name)}.{quoted(f.name)}", f.type) for f in schema]
        )
        relations.append(Relation((name.lower(),), columns))
    return Scope(relations)
