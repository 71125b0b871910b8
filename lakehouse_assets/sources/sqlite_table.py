"""What a database holds: its tables and their columns, found, checked and typed.

What belongs here: the choice of table and of timestamp column, the names of columns, their types by the policy.
What does not: the policy itself (`sqlite_types.py`), rows (`sqlite_reader.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from lakehouse_assets.errors import SourceMissing, TypeRefused, did_you_mean
from lakehouse_assets.sources.sqlite_db import Connection
from lakehouse_assets.sources.sqlite_types import Affinity, Column, affinity, check_declared, column_type, quoted, ref
from lakehouse_assets.sql.types import FORBIDDEN_IN_NAMES, arrow_schema

RESERVED = frozenset(
    {"_ingested_at", "_source", "_position", "_upstream", "_reasons"}
    | {"_change_type", "_commit_version", "_commit_timestamp"}
)
"""Names that the lake adds to a row, or Delta to a change."""
_HEAD = 1000
"""How many of the first rows tell the type of a column without one."""
_WIDEST = 900
"""Columns that can be read: SQLite returns 2,000 at most, and takes conditions of 1,000 parts, and a column that is
checked value by value takes two."""


@dataclass(frozen=True)
class Declared:
    """A column as CREATE TABLE declares it."""

    name: str
    type: str
    key: int
    """Its place in the primary key, from 1; 0 where it is no part of it."""
    generated: bool
    affinity: Affinity


@dataclass(frozen=True)
class Table:
    """A table of the database.

    Args:
        name: as in the database, whatever case was asked for.
        columns: all of them, generated ones included.
        rowid: the name under which the rowid is reached; `None` where it cannot be (WITHOUT ROWID).
        alias: the column that is another name of the rowid (INTEGER PRIMARY KEY), so that VACUUM does not renumber it.
    """

    name: str
    columns: tuple[Declared, ...]
    rowid: str | None
    alias: str | None

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that tell rows apart: the primary key, or all stored columns where there is none."""
        key = sorted((column for column in self.columns if column.key), key=lambda column: column.key)
        return tuple(column.name for column in key or self.columns if column.key or not column.generated)

    def origin(self, indexed: bool = False) -> str:
        """The FROM clause; the table is called `t`. Without index it is read in the order of its rowid."""
        return f"FROM {quoted(self.name)} AS t{'' if indexed or not self.rowid else ' NOT INDEXED'}"

    def column(self, name: str) -> Declared | None:
        """The column of that name, whatever the case of ASCII letters, as in SQLite."""
        near = [column for column in self.columns if column.name.lower() == name.lower()]
        return next((column for column in near if column.name == name), near[0] if near else None)


def find_table(connection: Connection, path: str, wanted: str | None) -> Table:
    """The table called `wanted`, or the only one that there is.

    Raises:
        SourceMissing: there is none, there are several, or not the one that is wanted; says what was found.
    """
    found = connection.rows("SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' ORDER BY name")
    mine = [row for row in found if not row[0].lower().startswith("sqlite_")]
    tables = {name: (bool(wr), bool(strict)) for name, kind, wr, strict in mine if kind == "table"}
    others = [f"{name} (a {kind})" for name, kind, *_ in mine if kind in ("view", "virtual")]
    if wanted is not None:
        name = wanted if wanted in tables else next((one for one in tables if one.lower() == wanted.lower()), None)
        if name is None:
            raise SourceMissing(
                f"sqlite.table: the database {path} has no such table",
                value=wanted,
                choices=tables or ["no table at all"],
                fix=f"name one of its tables{'; it also has ' + ', '.join(others) if others else ''}",
            )
    elif len(tables) == 1:
        name = next(iter(tables))
    else:
        seen = f"holds {len(tables)} tables: {', '.join(tables)}" if tables else "holds no table"
        raise SourceMissing(
            f"the database {path} {seen}{'; and ' + ', '.join(others) if others else ''}",
            fix="name one with the read option sqlite.table" if tables else "check `source`, or create the table first",
        )
    return _inspect(connection, name, *tables[name])


def _inspect(connection: Connection, name: str, without_rowid: bool, strict: bool) -> Table:
    found = connection.rows("SELECT name, type, pk, hidden FROM pragma_table_xinfo(?) WHERE hidden <> 1", name)
    columns = tuple(
        Declared(column, kind or "", key, hidden in (2, 3), affinity(kind or "", strict))
        for column, kind, key, hidden in found
    )
    if without_rowid:
        return Table(name, columns, None, None)
    keys = [column for column in columns if column.key]  # one without an index of its own is the rowid
    indexed = connection.value("SELECT count(*) FROM pragma_index_list(?) WHERE origin = 'pk'", name)
    alias = keys[0].name if len(keys) == 1 and not indexed else None
    taken = {column.name.lower() for column in columns}
    hidden = next((rowid for rowid in ("rowid", "_rowid_", "oid") if rowid not in taken), None)
    return Table(name, columns, alias or hidden, alias)


def detect_timestamp(table: Table) -> str:
    """The column that tells when a row was made: the first that is called `timestamp` or declared as some `date`.

    Raises:
        SourceMissing: there is none; lists the columns.
    """
    for column in table.columns:
        if column.name.lower() == "timestamp" or "date" in column.type.lower():
            return column.name
    raise SourceMissing(
        f"table {table.name!r} has no rowid, and no column that is called `timestamp` or declared as a date: its "
        f"columns are {', '.join(f'{column.name} {column.type}'.strip() for column in table.columns)}",
        fix="name the column by which new rows are told with the read option sqlite.cursor",
    )


def find_columns(connection: Connection, table: Table, declared: str | None) -> tuple[Column, ...]:
    """The columns that are read, with their types: all of them by the policy, or those of `declared`.

    Args:
        declared: the entity's `source_schema`, Spark DDL.

    Raises:
        SourceMissing: a declared column is not in the table.
        TypeRefused: a name or a type has no place in the lake; says what to do about it.
    """
    if declared:
        columns = tuple(_declared(table, field) for field in arrow_schema(declared))
    else:
        found = _head(connection, table)
        columns = tuple(
            Column(
                column.name,
                column.name,
                column.affinity,
                column_type(_typed(column), column.affinity, found.get(column.name, {})),
                is_rowid=column.name == table.alias,
            )
            for column in table.columns
        )
    _check_names(table, [column.name for column in columns])
    return columns


def _typed(column: Declared) -> str:
    return "" if column.type.upper() == "ANY" else column.type


def _declared(table: Table, field: pa.Field) -> Column:
    column = table.column(field.name)
    if column is None:
        raise SourceMissing(
            f"source_schema: the SQLite table {table.name!r} has no such column",
            value=field.name,
            choices=[column.name for column in table.columns],
            fix="take it out of source_schema, or add it to the table",
        )
    check_declared(field, table.name)
    return Column(
        field.name, column.name, column.affinity, field.type, field.nullable, is_rowid=column.name == table.alias
    )


def _head(connection: Connection, table: Table) -> dict[str, Counter[str]]:
    """For columns without a type: how many of the first values are of which class."""
    names = [c.name for c in table.columns if c.affinity is Affinity.NONE and not _typed(c)]
    if not names:
        return {}
    kinds = ", ".join(f"typeof({ref(name)})" for name in names)
    rows = connection.rows(f"SELECT {kinds} {table.origin()} LIMIT {_HEAD}")
    return {name: Counter(row[at] for row in rows) for at, name in enumerate(names)}


def _check_names(table: Table, names: Sequence[str]) -> None:
    remedy = "rename it (ALTER TABLE … RENAME COLUMN), or leave it out by listing the other columns in source_schema"
    for name in names:
        if not name or any(character in FORBIDDEN_IN_NAMES for character in name):
            raise TypeRefused(
                f"a column of the SQLite table {table.name!r} has a name that Delta cannot hold: it is empty or has a "
                f"blank or one of , ; {{ }} ( ) =",
                value=name,
                fix=remedy,
            )
        if name.lower() in RESERVED:
            raise TypeRefused(
                f"a column of the SQLite table {table.name!r} has a name that the lake keeps for itself",
                value=name,
                fix=remedy,
            )
    twice = _same_but_for_case(names)
    if twice:
        raise TypeRefused(
            f"two columns of the SQLite table {table.name!r} have names that differ in case only: "
            f"{' and '.join(twice)}",
            fix=remedy,
        )
    if len(names) > _WIDEST:
        raise TypeRefused(
            f"the SQLite table {table.name!r} has {len(names)} columns, and at most {_WIDEST} can be read at once",
            fix="list those that are needed in source_schema",
        )


def _same_but_for_case(names: Iterable[str]) -> list[str]:
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            return [seen[name.lower()], name]
        seen[name.lower()] = name
    return []


def find_cursor(table: Table, wanted: str | None) -> str | None:
    """The column that orders the rows, or `None` for the rowid.

    Args:
        wanted: the read option `sqlite.cursor`.

    Raises:
        SourceMissing: there is no such column; lists those that there are.
    """
    if wanted is None:
        return None if table.rowid else detect_timestamp(table)
    column = table.column(wanted)
    if column is not None:
        return None if column.name == table.alias else column.name
    if table.rowid and wanted.lower() in ("rowid", "_rowid_", "oid"):
        return None
    names = [column.name for column in table.columns]
    raise SourceMissing(
        f"sqlite.cursor: table {table.name!r} has no such column"
        + ("" if table.rowid else ", and no rowid")
        + did_you_mean(wanted, names),
        value=wanted,
        choices=[*names, *(["rowid"] if table.rowid else [])],
        fix="name the column by which new rows are told",
    )
