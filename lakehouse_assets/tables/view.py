"""Views: queries that are not stored, expanded where they are used.

What belongs here: which stored tables a query reads in the end, and its text with views expanded.
It is computed by the engine.
"""

from __future__ import annotations

from lakehouse_assets.engines.base import Relation
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.sql.expand import expand
from lakehouse_assets.sql.parse import parse_query, tables
from lakehouse_assets.tables.base import Work, upstream


def stored(work: Work, table: TableName) -> tuple[TableName, ...]:
    """The stored tables that `table` reads, directly or through views; in a stable order."""
    found: dict[TableName, None] = {}
    for name in work.catalog.upstreams(table):
        found |= dict.fromkeys(stored(work, name) if is_view(work, name) else (name,))
    return tuple(sorted(found))


def is_view(work: Work, table: TableName) -> bool:
    """Whether `table` is a view of the catalog."""
    return any(entity.kind == "view" for entity in work.catalog.destinations.get(table, ()))


def reads_views(work: Work, table: TableName) -> bool:
    """Whether `table` reads a view."""
    return any(is_view(work, name) for name in work.catalog.upstreams(table))


def expanded(work: Work, table: TableName) -> str:
    """The query of `table` over stored tables only: every view that it names stands in it as a subquery."""
    entity = work.catalog.destinations[table][0]
    text = work.catalog.sql(entity)
    views = {name: expanded(work, name) for name in work.catalog.upstreams(table) if is_view(work, name)}
    if not views:
        return text
    written = {name: work.catalog.resolve(name) for name in tables(parse_query(text, str(table)))}
    return expand(text, {name: views[resolved] for name, resolved in written.items() if resolved in views})


def result(work: Work, sql: str, plan: Plan) -> Relation:
    """The rows of a query over stored tables, at the versions that the plan pins."""
    inputs = {}
    for name in tables(parse_query(sql, plan.feed.destination)):
        table = work.catalog.resolve(name)
        inputs[name] = work.engine.read(upstream(work, table, int(plan.end[str(table)])))
    return work.engine.query(sql, inputs, {"run_date": plan.run_date})
