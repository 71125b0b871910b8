"""What an engine's catalog of names is to know of a table that was brought up to date, and of the views over it.

What belongs here: what the entities say about their tables. What does not: saying it (the engine's `publish`).
Rows and numbers never depend on it: what was not said is said by the next run.
"""

from __future__ import annotations

from collections.abc import Iterator

from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.lake.names import BATCHES
from lakehouse_assets.lake.values import Card
from lakehouse_assets.sources.base import Notice
from lakehouse_assets.sql.parse import parse_query, tables
from lakehouse_assets.tables import view
from lakehouse_assets.tables.base import Work, about, feeding, written_with


def publish(work: Work, table: TableName) -> list[Notice]:
    """Let the catalog of names know a table, its quarantine, the plans, and the views over them.

    Returns:
        What the catalog refused to be told.

    Raises:
        ForeignTable: a table's name is taken there by another one.
    """
    if not work.engine.publishes:
        return []
    return [Notice("not_published", text) for card in cards(work, table) for text in work.engine.publish(card)]


def cards(work: Work, table: TableName) -> Iterator[Card]:
    """What is to be known, tables first; of tables that an uploader writes, too, where `table` reads them."""
    uploaded = [name for name in view.stored(work, table) if _is_uploaded(work, name)]
    for name in (*uploaded, table):
        for part in written_with(work, name):
            yield of_table(work, part)
    yield Card(work.uri(BATCHES))
    told = {*written_with(work, table), *uploaded}
    for name in work.catalog.order():
        if view.is_view(work, name) and told.intersection(view.stored(work, name)):
            yield of_view(work, name)


def of_table(work: Work, name: TableName) -> Card:
    """What the entities of a table, or of the table that a quarantine belongs to, say."""
    feeds = feeding(work, name)
    own = next((feed.comment for feed in feeds if feed.comment), None)
    comment = own if name == feeds[0].table else about(feeds[0], name)
    return Card(work.uri(name), comment, _columns(feeds), _tags(feeds))


def of_view(work: Work, name: TableName) -> Card:
    """What the entity of a view says, and its query over stored tables."""
    entity = work.catalog.destinations[name][0]
    query = view.expanded(work, name)
    inputs = {written: work.uri(work.catalog.resolve(written)) for written in tables(parse_query(query, str(name)))}
    return Card(work.uri(name), entity.comment, _columns([entity]), _tags([entity]), query, inputs)


def _columns(feeds: tuple[Entity, ...] | list[Entity]) -> dict[str, str]:
    return {column: text for feed in feeds for column, text in feed.lakehouse.columns.items()}


def _tags(feeds: tuple[Entity, ...] | list[Entity]) -> dict[str, str]:
    return {key: text for feed in feeds for key, text in feed.tags.items()}


def _is_uploaded(work: Work, name: TableName) -> bool:
    return any(feed.lakehouse.landed_by == "upload" for feed in work.catalog.destinations.get(name, ()))
