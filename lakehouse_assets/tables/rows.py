"""Rows brought to the columns of a table, and rows put together.

What belongs here: what every kind does alike with relations before it writes them. What does not: judging rows.
"""

from __future__ import annotations

import pyarrow as pa

from lakehouse_assets.engines.base import Engine, Relation
from lakehouse_assets.lake.schemas import same_type
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.tables import evolution


def together(engine: Engine, left: Relation, right: Relation) -> Relation:
    """The rows of two relations with the same columns."""
    columns = ", ".join(f"`{name}`" for name in engine.schema(left).names)
    sql = f"SELECT {columns} FROM left_rows UNION ALL SELECT {columns} FROM right_rows"
    return engine.query(sql, {"left_rows": left, "right_rows": right})


def padded(engine: Engine, rows: Relation, columns: pa.Schema) -> Relation:
    """`rows` named and typed as the table has it, with a NULL for every column that only the table has."""
    found = engine.schema(rows)
    have = {f.name.lower(): f for f in found}
    if all(f.name in found.names and same_type(found.field(f.name).type, f.type) for f in columns):
        return rows
    items = []
    for field in columns:
        old = have.pop(field.name.lower(), None)
        sql = (
            evolution.as_sql(quoted(old.name), old.type, field.type) if old else evolution.as_sql("", None, field.type)
        )
        items.append(f"{sql} AS {quoted(field.name)}")
    items += [quoted(f.name) for f in have.values()]
    return engine.query(f"SELECT {', '.join(items)} FROM rows", {"rows": rows})
