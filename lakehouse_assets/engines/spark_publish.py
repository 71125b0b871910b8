"""What a catalog of names is told about tables and views: comments, tags, the queries of views.

What belongs here: comparing what is said with what is to be said. What does not: names and places (`spark_names.py`),
the commands (`unity_sql.py`). What is not as it should be is said again by the next run.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lakehouse_assets.engines import unity_sql
from lakehouse_assets.engines.base import Handle
from lakehouse_assets.engines.spark_frames import nullable
from lakehouse_assets.engines.spark_names import Found, Registry
from lakehouse_assets.engines.spark_session import spark_faults
from lakehouse_assets.engines.unity_sql import Name, full
from lakehouse_assets.errors import ForeignTable, LakehouseError
from lakehouse_assets.lake.values import Card
from lakehouse_assets.sql import dialect
from lakehouse_assets.sql.spark_versions import Version

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Ask = Callable[[str], Sequence[Any]]
"""Runs a command, and gives its rows."""


def publish(
    registry: Registry, spark: SparkSession, card: Card, find: Callable[[str], Handle | None], version: Version
) -> list[str]:
    """As `Engine.publish`."""
    if (name := registry.name_of(card.uri)) is None:
        return []
    handle = None if card.query else find(card.uri)
    if handle is not None:
        registry.writable(card.uri)

    def ask(command: str) -> list[Any]:
        return spark.sql(command).collect()

    unity = in_unity(registry)
    try:
        with spark_faults(full(name), card.uri):
            if handle is not None:
                say_table(ask, name, handle, card, unity=unity)
            elif card.query and (query := view_query(registry, card, find, version)):
                registry.ensure_schema(name)
                columns = spark.sql(query).schema.names
                say_view(ask, name, registry.look(name), query, columns, card, unity=unity)
    except LakehouseError as error:
        return [f"{'.'.join(name)}: {error.problem}"]
    return []


def in_unity(registry: Registry) -> bool:
    """Whether the session has Unity Catalog's own commands: a Databricks Runtime, and a catalog that is Unity's."""
    return registry.names is not None and registry.names.in_unity and "DATABRICKS_RUNTIME_VERSION" in os.environ


def say_table(ask: Ask, name: Name, handle: Handle, card: Card, *, unity: bool) -> None:
    """Let a registered table have its comments, and in Unity Catalog its columns and tags."""
    if unity:
        known = [(str(row[0]), str(row[1])) for row in ask(unity_sql.columns_of(name))]
        _all(ask, unity_sql.synchronize(name, handle.schema, known))
    _all(ask, unity_sql.comments(name, handle.comment, handle.schema, card.comment, card.columns))
    if unity:
        _tag(ask, name, card, "TABLE")


def say_view(
    ask: Ask, name: Name, found: Found | None, query: str, columns: Sequence[str], card: Card, *, unity: bool
) -> None:
    """Let a view be there with its query, comments and tags; one that is as it should be is not touched.

    Raises:
        ForeignTable: the name is that of a table.
    """
    if found is not None and not found.is_view:
        raise ForeignTable(
            f"{'.'.join(name)} is a table in the catalog, and a view here", fix=f"DROP TABLE {full(name)}"
        )
    if found is None or not _is_so(found, query, card):
        ask(unity_sql.create_view(name, query, columns, card.comment, card.columns))
    if unity:
        _tag(ask, name, card, "VIEW")


def _is_so(found: Found, query: str, card: Card) -> bool:
    text = found.details.get("View Text", "")
    return text.split() == query.split() and found.details.get("Comment", "") == (card.comment or "")


def _tag(ask: Ask, name: Name, card: Card, kind: str) -> None:
    if card.tags:
        has = {str(row[0]): str(row[1]) for row in ask(unity_sql.tags_of(name))}
        _all(ask, unity_sql.set_tags(name, has, card.tags, kind))


def _all(ask: Ask, commands: Sequence[str]) -> None:
    for command in commands:
        ask(command)


def view_query(registry: Registry, card: Card, find: Callable[[str], Handle | None], version: Version) -> str | None:
    """The query of a view over the names of its tables; `None` as long as one of them is not registered.

    Raises:
        SqlError: the query needs what only a run has (`:run_date`).
    """
    handles = {written: find(uri) for written, uri in card.inputs.items()}
    names = {written: registry.readable(uri).name for written, uri in card.inputs.items()}
    if not all(handles.values()) or not all(names.values()):
        return None
    key = uuid.uuid4().hex
    tokens = {written: f"t{number}_{key}" for number, written in enumerate(names)}
    schemas = {written: nullable(handle.schema) for written, handle in handles.items() if handle}
    text = dialect.to_spark(card.query or "", schemas, tokens, {}, version)
    for written, token in tokens.items():  # the dialect puts one identifier for a table
        text = text.replace(f"`{token}`", str(names[written]))
    return text
