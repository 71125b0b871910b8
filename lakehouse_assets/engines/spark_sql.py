"""The commands of Spark SQL by which the Spark engine makes and merges tables.

What does not belong here: transforms (`lakehouse_assets/sql`), running anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

import pyarrow as pa

from lakehouse_assets.engines.base import OPERATION, Handle
from lakehouse_assets.lake.delta import DEFAULTS
from lakehouse_assets.lake.schemas import plain
from lakehouse_assets.lake.values import TableSpec, Within
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.sql.types import spark_type


def at(uri: str) -> str:
    """The table at a path."""
    return f"delta.{quoted(uri)}"


def create(target: str, spec: TableSpec, location: str | None = None) -> str:
    """The command that makes an empty table: `at` a path, or under a name with a location."""
    properties = DEFAULTS | dict(spec.properties)
    columns = ", ".join(_column(field) for field in plain(spec.schema))
    text = f"CREATE TABLE IF NOT EXISTS {target} ({columns}) USING delta"
    if spec.partition_by:
        text += f" PARTITIONED BY ({', '.join(map(quoted, spec.partition_by))})"
    elif spec.cluster_by:
        text += f" CLUSTER BY ({', '.join(map(quoted, spec.cluster_by))})"
    text += f" LOCATION {literal(location)}" if location else ""
    text += f" COMMENT {literal(spec.comment)}" if spec.comment else ""
    return text + f" TBLPROPERTIES ({', '.join(f'{literal(k)} = {literal(v)}' for k, v in properties.items())})"


def _column(field: pa.Field) -> str:
    comment = (field.metadata or {}).get(b"comment")
    text = f"{quoted(field.name)} {spark_type(field.type)}" + ("" if field.nullable else " NOT NULL")
    return text + (f" COMMENT {literal(comment.decode())}" if comment else "")


def set_properties(target: str, properties: Mapping[str, str]) -> str:
    """The command that changes properties of a table."""
    listed = ", ".join(f"{literal(name)} = {literal(value)}" for name, value in properties.items())
    return f"ALTER TABLE {target} SET TBLPROPERTIES ({listed})"


def merge_into(target: str, handle: Handle, source: str, keys: Sequence[str], within: Within | None = None) -> str:
    """The command that upserts and deletes by key, among the rows that lie `within`."""
    on = " AND ".join(f"t.{quoted(key)} <=> s.{quoted(key)}" for key in keys)
    on += "" if within is None else f" AND {_lying(within)}"
    names = [quoted(name) for name in handle.schema.names]
    updated = ", ".join(f"t.{name} = s.{name}" for name in names)
    inserted = ", ".join(f"s.{name}" for name in names)
    return (
        f"MERGE INTO {target} AS t USING {quoted(source)} AS s ON {on} "
        f"WHEN MATCHED AND s.{OPERATION} = 'd' THEN DELETE "
        f"WHEN MATCHED AND s.{OPERATION} = 'u' THEN UPDATE SET {updated} "
        f"WHEN NOT MATCHED AND s.{OPERATION} = 'u' THEN INSERT ({', '.join(names)}) VALUES ({inserted})"
    )


def _lying(within: Within) -> str:
    column, least = f"t.{quoted(within.column)}", within.least
    if least is None:
        return f"{column} IS NULL"
    if isinstance(least, datetime):
        text = f"TIMESTAMP{'' if least.tzinfo else '_NTZ'} '{least.isoformat(sep=' ')}'"
    elif isinstance(least, date):
        text = f"DATE '{least.isoformat()}'"
    else:
        text = str(least) if isinstance(least, int) else literal(least)
    return f"({column} IS NULL OR {column} >= {text})"


def literal(text: str) -> str:
    """A text of Spark SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
