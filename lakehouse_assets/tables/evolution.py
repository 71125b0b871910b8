"""Evolution: how columns that were found become those of a table, when the two are not the same any more.

    add_columns   a new column is added, nullable
    freeze        a new or changed column is an error, before anything is written
    rescue        what has no place goes into `_rescued_data` (`rescue.py`), the rest of the row stays

Whatever the mode: a column that left is NULL, order does not matter, a name that differs in case only is the same
column (spelled as in the table), and a type that the table's type holds without loss is cast.
What does not belong here: where rows come from, how they are judged and written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import SchemaDrift
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.schemas import holds, same_type
from lakehouse_assets.sql.expand import quoted, text_literal
from lakehouse_assets.sql.types import spark_type
from lakehouse_assets.tables.base import Feed, new_fields
from lakehouse_assets.tables.rules import Recipe

Mode = Literal["add_columns", "freeze", "rescue"]
MODES = ("add_columns", "freeze", "rescue")


@dataclass(frozen=True)
class Fit:
    """How the columns that were found become those of a table.

    Attributes:
        columns: the columns of the rows afterwards, named and typed as in the table, new ones among them.
        sources: name in the table -> name as found.
        unknown: found columns that have no place in the table.
        narrow: found columns of which not every value may fit.
    """

    columns: pa.Schema
    sources: Mapping[str, str]
    unknown: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()
    plain: bool = True
    """Whether rows stay as they were found."""

    def batch(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows as found, with the table's names and types; only for a fit without unknown and narrow columns."""
        if self.plain:
            return rows
        arrays = [shaped(rows.column(self.sources[f.name]), f.type) for f in self.columns]
        return pa.RecordBatch.from_arrays(arrays, schema=self.columns)


def mode_of(feed: Feed, plan: Plan) -> Mode:
    """The mode of a batch: `rescue` as its plan recorded it; a rebuild is what thaws a frozen table."""
    if Recipe.recorded(plan.recipe).rescue:
        return "rescue"
    frozen = feed.entity.lakehouse.evolution == "freeze" and not plan.rebuild
    return "freeze" if frozen else "add_columns"


def columns_of(feed: Feed, plan: Plan) -> pa.Schema | None:
    """The columns that a batch has to fit; `None` where there are none yet, or where it brings new ones."""
    starts_over = plan.rebuild and plan.mode == "replace"
    return None if feed.target is None or starts_over else feed.target.schema


def settle(
    found: pa.Schema, table: pa.Schema | None, mode: Mode, who: TableName, known: Collection[str] | None = None
) -> Fit:
    """How the columns `found` become those of the table `who`.

    Args:
        table: its columns now; `None` where they are still free.
        known: names (in lower case) of columns that are declared, and so added although the mode is `rescue`;
            `None`: all of them.

    Raises:
        SchemaDrift: the table is frozen and a column is new or changed, or a type does not fit the table's.
    """
    have = {f.name.lower(): f for f in table or ()}
    fields: list[pa.Field] = []
    sources: dict[str, str] = {}
    new: list[str] = []
    unknown: list[str] = []
    changed: list[tuple[pa.Field, pa.Field]] = []
    for field in found:
        old = have.get(field.name.lower())
        if old is None and mode == "rescue" and known is not None and field.name.lower() not in known:
            unknown.append(field.name)
            continue
        if old is None:
            new.append(field.name)
        elif not holds(old.type, field.type) or (mode == "freeze" and not holds(field.type, old.type)):
            old = _grown(old, field) if mode == "add_columns" else old
            if not holds(old.type, field.type) or mode == "freeze":
                changed.append((field, old))
        fields.append(pa.field(field.name, field.type, metadata=field.metadata) if old is None else _bare(old))
        sources[fields[-1].name] = field.name
    if mode == "freeze" and table is not None and (new or changed):
        raise _frozen(who, found, table, new, changed)
    if mode != "rescue" and changed:
        raise _drifted(who, changed)
    columns = pa.schema(fields)
    same = [f.name for f in columns] == found.names and all(
        a.type == b.type for a, b in zip(columns, found, strict=True)
    )
    return Fit(columns, sources, tuple(unknown), tuple(f.name for f, _ in changed), same and not unknown)


def _bare(field: pa.Field) -> pa.Field:
    return pa.field(field.name, field.type)


def _grown(old: pa.Field, field: pa.Field) -> pa.Field:
    """A struct of the table with the fields that are new in it."""
    return next(iter(new_fields([old], [field])), old)


def _frozen(
    who: TableName, found: pa.Schema, table: pa.Schema, new: list[str], changed: list[tuple[pa.Field, pa.Field]]
) -> SchemaDrift:
    names = {name.lower() for name in found.names}
    gone = [name for name in table.names if name.lower() not in names and not name.startswith("_")]
    problems = [f"new columns ({', '.join(new)})"] if new else []
    problems += [f"changed columns ({_described(changed)})"] if changed else []
    renamed = f"; gone meanwhile, perhaps renamed: {', '.join(gone)}" if new and gone else ""
    return SchemaDrift(
        f"{who}: the source has {' and '.join(problems)} and the table is frozen{renamed}",
        choices=MODES,
        fix="take the column over as it should be named and typed in select_expr, choose another "
        f"`lakehouse: {{evolution: …}}`, or rebuild the table with the new columns: lakehouse run --full-refresh {who}",
    )


def _drifted(who: TableName, changed: list[tuple[pa.Field, pa.Field]]) -> SchemaDrift:
    return SchemaDrift(
        f"{who}: a column of the source has a type that the table's column does not hold: {_described(changed)}",
        fix=f"rebuild the table with the new type: lakehouse run --full-refresh {who}; or cast the column in "
        "select_expr; or keep the values that fit and the others beside them: `lakehouse: {evolution: rescue}`",
    )


def _described(changed: list[tuple[pa.Field, pa.Field]]) -> str:
    return ", ".join(f"{new.name} is {new.type}, not {old.type}" for new, old in changed)


def widened(batch: pa.RecordBatch, columns: pa.Schema) -> pa.RecordBatch:
    """`batch` with a NULL for every column that only the table has (columns that left the source)."""
    missing = [f for f in columns if f.name not in batch.schema.names]
    for field in missing:
        batch = batch.append_column(field, pa.nulls(batch.num_rows, field.type))
    return batch


def shaped(values: pa.Array, to: pa.DataType) -> pa.Array:
    """Values as type `to`, which holds all of them; the fields of structs by name, whatever the case."""
    if values.type == to:
        return values
    if not pa.types.is_struct(to):
        return values.cast(to)
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), to)
    inner = {f.name.lower(): part for f, part in zip(values.type, values.flatten(), strict=True)}
    parts = [
        shaped(inner[f.name.lower()], f.type) if f.name.lower() in inner else pa.nulls(len(values), f.type) for f in to
    ]
    return pa.StructArray.from_arrays(parts, fields=list(to), mask=values.is_null())


def as_sql(sql: str, have: pa.DataType | None, wanted: pa.DataType) -> str:
    """Spark SQL that gives `sql`, of type `have` (`None`: there is no such column), as the type `wanted`."""
    if have is None:
        return f"CAST(NULL AS {spark_type(wanted)})"
    if same_type(have, wanted):
        return sql
    if not (pa.types.is_struct(wanted) and pa.types.is_struct(have)):
        return f"CAST({sql} AS {spark_type(wanted)})" if holds(wanted, have) else sql
    inner = {f.name.lower(): f for f in have}
    fields = []
    for field in wanted:
        found = inner.get(field.name.lower())
        part = as_sql(f"{sql}.{quoted(found.name)}", found.type, field.type) if found else as_sql("", None, field.type)
        fields.append(f"{text_literal(field.name)}, {part}")
    return f"CASE WHEN {sql} IS NOT NULL THEN named_struct({', '.join(fields)}) END"
