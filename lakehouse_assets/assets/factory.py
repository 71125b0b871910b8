"""From a catalog to the assets of the graph.

One destination is one multi-asset: the target, its quarantine where the entity keeps one or another table reads it,
its log where it has one. What the lake does not write itself (sources, views, tables that an uploader writes) is an
external asset. What belongs here: definitions. What does not: what a step does (`step.py`).

No `from __future__ import annotations` here: Dagster reads the annotations of a step as they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

import dagster as dg

from lakehouse_assets.assets.checks import Checks
from lakehouse_assets.assets.metadata import code_version, is_view, of_definition
from lakehouse_assets.assets.naming import (
    asset_key,
    group_of,
    kinds_of,
    op_name,
    owners_of,
    source_key,
    source_kind,
    tags_of,
)
from lakehouse_assets.assets.partitions import BACKFILL, makes, mark, partitions_of, reads_days
from lakehouse_assets.assets.resources import LakehouseResource, Project, RefreshConfig
from lakehouse_assets.assets.step import Destination, Event, check_confirmed, failures, materialize
from lakehouse_assets.entities.catalog import Catalog
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.lake.names import Lake

RETRIES = dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)
"""For errors that trying again can help; a terminal error stops at once, whatever this says."""
SHORTEST = timedelta(minutes=1)
"""The shortest freshness window that Dagster watches."""
NEVER = timedelta(days=36500)
Derived = Callable[[Sequence[dg.AssetKey], Sequence[dg.AssetKey], str | None], dg.AutomationCondition]
"""The views among a table's dependencies, those of which it reads all days, and for a table that reads days the tag of
runs that make it -> when it is refreshed."""
Elsewhere = Callable[[dg.AssetExecutionContext], Iterator[Event] | None]
"""A step -> what it yields when its work is done in another place; `None`: it is done here."""


def build_assets(
    project: Project,
    tables: Mapping[TableName, Destination],
    derived: Derived,
    elsewhere: Elsewhere = lambda _: None,
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Every asset of a catalog.

    Args:
        project: the catalog, and where its lake is.
        tables: what `written` says of it.
        derived: when a table that reads other tables is refreshed.
        elsewhere: asked by every step before it begins.
    """
    catalog, lake = project.catalog, Lake(project.settings.root)
    found: list[dg.AssetsDefinition | dg.AssetSpec] = []
    for table, feeds in catalog.destinations.items():
        if table not in tables:
            found.append(_spec(catalog, lake, table, feeds, table))
            continue
        views = [asset_key(name) for name in _upstreams(catalog, table) if is_view(catalog, name)]
        partial = [asset_key(name) for name in _upstreams(catalog, table) if _is_partial(catalog, table, name)]
        tag = makes(asset_key(table)) if reads_days(catalog, table) else None
        condition = None if feeds[0].reads_outside else derived(views, partial, tag)
        found.append(_multi_asset(project, lake, tables[table], condition, elsewhere))
    return found + list(_sources(catalog))


def _is_partial(catalog: Catalog, table: TableName, upstream: TableName) -> bool:
    """Whether a table without partitions reads one that has some: days without data are never made there."""
    has_none = partitions_of(catalog, table) is None
    return has_none and not is_view(catalog, upstream) and partitions_of(catalog, upstream) is not None


def is_external(feeds: Sequence[Entity]) -> bool:
    """Whether a run never writes the table: a view, or one that an uploader writes."""
    return feeds[0].kind == "view" or feeds[0].lakehouse.landed_by is not None


def written(catalog: Catalog) -> dict[TableName, Destination]:
    """The destinations that runs write, upstream tables first, each with what is written together with it."""
    read = {name for table in catalog.destinations for name in catalog.upstreams(table)}
    found: dict[TableName, Destination] = {}
    for table in catalog.order():
        feeds = catalog.destinations[table]
        if is_external(feeds):
            continue
        outputs = [table]
        if any(feed.is_quarantined for feed in feeds) or table.quarantine in read:
            outputs.append(table.quarantine)
        if feeds[0].kind == "history":
            outputs.append(table.changes)
        found[table] = Destination(table, feeds, tuple(outputs), Checks(table, feeds))
    return found


def _multi_asset(
    project: Project,
    lake: Lake,
    made: Destination,
    condition: dg.AutomationCondition | None,
    elsewhere: Elsewhere,
) -> dg.AssetsDefinition:
    specs = [_spec(project.catalog, lake, made.table, made.feeds, output, condition) for output in made.outputs]
    days = partitions_of(project.catalog, made.table)
    above = [asset_key(table) for table in project.catalog.destinations if reads_days(project.catalog, table)]

    @dg.multi_asset(
        name=op_name(made.table),
        specs=specs,
        check_specs=made.checks.specs(),
        pool=str(made.table),
        retry_policy=RETRIES,
        backfill_policy=None if days is None else BACKFILL,
    )
    def step(
        context: dg.AssetExecutionContext,
        config: RefreshConfig,
        lakehouse: LakehouseResource,
        step_launcher: dg.ResourceParam[dg.StepLauncher],  # noqa: ARG001  # Dagster asks it to run the step
    ) -> Iterator[Event]:
        with failures():
            check_confirmed(context)
        if days is not None:
            mark(context, above)
        sent = elsewhere(context)
        yield from materialize(project, made, context, config, lakehouse) if sent is None else sent

    return step


def _spec(
    catalog: Catalog,
    lake: Lake,
    table: TableName,
    feeds: Sequence[Entity],
    output: TableName,
    condition: dg.AutomationCondition | None = None,
) -> dg.AssetSpec:
    own = output == table
    external = is_external(feeds)
    tags, _ = tags_of(feeds)
    owners, _ = owners_of(feeds)
    return dg.AssetSpec(
        asset_key(output),
        deps=_deps(catalog, table, feeds),
        description=_description(table, output, feeds),
        metadata=of_definition(lake, output, feeds),
        group_name=group_of(feeds),
        code_version=None if external else code_version(catalog, feeds),
        automation_condition=condition,
        owners=owners,
        tags=tags,
        kinds=kinds_of(feeds),
        freshness_policy=freshness_policy(feeds[0]) if own and feeds[0].kind != "view" else None,
        partitions_def=None if external else partitions_of(catalog, table),
    )


def _description(table: TableName, output: TableName, feeds: Sequence[Entity]) -> str | None:
    if output == table.quarantine:
        return f"Rows of {table} that broke a rule or did not fit a column, each with its reasons"
    if output == table.changes:
        return f"Every event of {table}, append-only"
    return next((feed.comment for feed in feeds if feed.comment), None)


def _deps(catalog: Catalog, table: TableName, feeds: Sequence[Entity]) -> list[dg.AssetKey]:
    """What a table reads: sources, tables, views, and what these read (a view holds no rows to be seen moving)."""
    if feeds[0].lakehouse.landed_by:
        return []
    outside = [source_key(feed) for feed in feeds if feed.reads_outside]
    return [*outside, *(asset_key(name) for name in _upstreams(catalog, table))]


def _upstreams(catalog: Catalog, table: TableName) -> list[TableName]:
    found: dict[TableName, None] = {}
    for name in catalog.upstreams(table):
        found[name] = None
        if is_view(catalog, name):
            found |= dict.fromkeys(_upstreams(catalog, name))
    return list(found)


def freshness_policy(entity: Entity) -> dg.FreshnessPolicy | None:
    """How long a table may go without a run before the UI says so; how old its rows are is a check of its own."""
    asked = entity.lakehouse.freshness
    if asked is None or not (asked.warn or asked.fail):
        return None
    fail = max(asked.fail_delta or NEVER, SHORTEST)
    warn = max(asked.warn_delta, SHORTEST) if asked.warn_delta else None
    return dg.FreshnessPolicy.time_window(fail_window=fail, warn_window=warn if warn and warn < fail else None)


def _sources(catalog: Catalog) -> Iterator[dg.AssetSpec]:
    """What landed tables read, as external assets; each landing says how far it came."""
    for feeds in catalog.destinations.values():
        for feed in feeds:
            if feed.reads_outside and not feed.lakehouse.landed_by:
                yield dg.AssetSpec(
                    source_key(feed),
                    description=f"What {feed.table} is landed from",
                    metadata={"format": feed.source_format, "source": feed.source},
                    group_name=group_of(feeds),
                    kinds={source_kind(feed)},
                )
