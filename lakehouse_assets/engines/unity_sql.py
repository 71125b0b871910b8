"""The commands by which a catalog of names (Unity Catalog) is told of tables and views.

What belongs here: texts, made of names and words. What does not: running them, knowing what is there
(`spark_names.py`). Names are quoted whatever they hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import pyarrow as pa

from lakehouse_assets.engines.spark_sql import literal
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.sql.types import spark_type

Name: TypeAlias = tuple[str, str, str]
"""Catalog, schema, table."""


def full(name: Sequence[str]) -> str:
    """A name in SQL."""
    return ".".join(map(quoted, name))


def create_schema(name: Name) -> str:
    """Make the schema of a table."""
    return f"CREATE SCHEMA IF NOT EXISTS {full(name[:2])}"


def register(name: Name, uri: str) -> str:
    """Name the table that stands at a place; its columns and properties come from its log."""
    return f"CREATE TABLE IF NOT EXISTS {full(name)} USING delta LOCATION {literal(uri)}"


def describe(name: Name) -> str:
    """Ask what stands under a name, and where."""
    return f"DESCRIBE TABLE EXTENDED {full(name)}"


def columns_of(name: Name) -> str:
    """Ask which columns Unity Catalog knows of a table."""
    return (
        f"SELECT column_name, full_data_type FROM {quoted(name[0])}.information_schema.columns "
        f"WHERE table_schema = {literal(name[1].lower())} AND table_name = {literal(name[2].lower())} "
        "ORDER BY ordinal_position"
    )


def synchronize(name: Name, schema: pa.Schema, known: Sequence[tuple[str, str]]) -> list[str]:
    """The command after which Unity Catalog knows the columns of the log, where it knows others (`known`).

    Columns are written past the catalog where a table is rebuilt by its path, and by the embedded engine.
    """
    have = [(column.lower(), _bare(kind)) for column, kind in known]
    are = [(field.name.lower(), _bare(spark_type(field.type))) for field in schema]
    return [] if have == are else [f"MSCK REPAIR TABLE {full(name)} SYNC METADATA"]


def _bare(kind: str) -> str:
    """A type in one spelling."""
    return re.sub(r"[\s`]", "", kind).lower()


def comments(
    name: Name, comment: str | None, schema: pa.Schema, wanted: str | None, columns: Mapping[str, str]
) -> list[str]:
    """The commands after which a table and its columns have the wanted comments; none where they have them.

    Args:
        comment: what the table has now; `schema`: its columns, with what they have now.
        columns: column to comment; a comment that is not wanted any more stays.
    """
    found = [f"COMMENT ON TABLE {full(name)} IS {literal(wanted)}"] if wanted and wanted != comment else []
    for field in schema:
        text = columns.get(field.name)
        if text is not None and text != (field.metadata or {}).get(b"comment", b"").decode():
            found.append(f"ALTER TABLE {full(name)} ALTER COLUMN {quoted(field.name)} COMMENT {literal(text)}")
    return found


def tags_of(name: Name) -> str:
    """Ask for the tags of a table or view."""
    catalog, schema, table = name
    return (
        f"SELECT tag_name, tag_value FROM {quoted(catalog)}.information_schema.table_tags "
        f"WHERE schema_name = {literal(schema.lower())} AND table_name = {literal(table.lower())}"
    )


def set_tags(name: Name, has: Mapping[str, str], wanted: Mapping[str, str], kind: str = "TABLE") -> list[str]:
    """The command after which a table (or a `VIEW`) has the wanted tags; none where it has them. Others stay."""
    new = {key: text for key, text in wanted.items() if has.get(key) != text}
    listed = ", ".join(f"{literal(key)} = {literal(text)}" for key, text in new.items())
    return [f"ALTER {kind} {full(name)} SET TAGS ({listed})"] if new else []


def create_view(name: Name, query: str, names: Sequence[str], comment: str | None, columns: Mapping[str, str]) -> str:
    """Make a view, or another in its place.

    Args:
        names: the names of the query's columns.
        columns: column to comment.
    """
    listed = ", ".join(quoted(n) + (f" COMMENT {literal(columns[n])}" if n in columns else "") for n in names)
    said = f" COMMENT {literal(comment)}" if comment else ""
    return f"CREATE OR REPLACE VIEW {full(name)} ({listed}){said} AS {query}"
