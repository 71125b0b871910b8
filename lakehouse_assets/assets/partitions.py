"""Days of tables: which tables have them, which of them a run is about, which version of its data each of them has.

A run over one day reports that day as Dagster does it. A run over several days, or over all that are behind, can give
Dagster one version for all of them only: it gives none (`NOTHING`, which is never taken for a change), and then reports
each day by itself, with the version of that day. So what reads the table follows exactly the days that moved.
What belongs here: Dagster's partitions of tables. What does not: which partitions are behind (`tables/refresh.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import dagster as dg

from lakehouse_assets.assets.metadata import DATA_VERSION, code_version
from lakehouse_assets.assets.naming import asset_key
from lakehouse_assets.entities.catalog import Catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.entities.options import Partitions

if TYPE_CHECKING:
    from lakehouse_assets.tables.base import Outcome, Work

BACKFILL = dg.BackfillPolicy.single_run()
"""A backfill over a range of days is one run: a partition that is not behind costs it next to nothing."""
NOTHING = ""
"""The version of a day without data, and of an event that says nothing of one: Dagster never takes it for a change."""
MAKES = "lakehouse/makes/"
"""A run has a tag that begins so for each table by day, or above one, that it makes; see `mark`."""
_CODE_VERSION, _GIVEN = "dagster/code_version", "dagster/data_version_is_user_provided"


def partitions_of(catalog: Catalog, table: TableName) -> dg.PartitionsDefinition | None:
    """The days of a table: those that its extract declares; `None`: it has none."""
    declared = _declared(catalog, table)
    return None if declared is None else _daily(declared)


def _declared(catalog: Catalog, table: TableName) -> Partitions | None:
    """What the extract declares of which a table is made partition by partition."""
    found = catalog.destinations.get(table, ())
    if not found:
        return None
    feed = found[0]
    if feed.kind == "extract":
        return feed.lakehouse.partitions
    if feed.kind == "asof" and feed.partition_cols:
        return _declared(catalog, catalog.upstreams(table)[0])
    if feed.kind == "conformed" and not feed.reads_outside:
        upstream = catalog.resolve(feed.source)
        above = catalog.destinations.get(upstream, ())
        return _declared(catalog, upstream) if above and above[0].kind == "extract" else None
    return None


@cache
def _daily(declared: Partitions) -> dg.PartitionsDefinition:
    """One definition for all tables that share it."""
    return dg.DailyPartitionsDefinition(declared.start, timezone=declared.timezone, end_offset=1)


class Context(Protocol):
    """What knows which days a run is about."""

    @property
    def has_partition_key(self) -> bool:
        """Whether it is about one."""

    @property
    def has_partition_key_range(self) -> bool:
        """Whether it is about several."""

    @property
    def partition_keys(self) -> Sequence[str]:
        """Which they are."""


def keys_of(catalog: Catalog, table: TableName, context: Context) -> list[str] | None:
    """The days of a table that a run is about; `None`: all that are behind, or the table has no days."""
    if partitions_of(catalog, table) is None or not (context.has_partition_key or context.has_partition_key_range):
        return None
    return list(context.partition_keys)


def reads_days(catalog: Catalog, table: TableName) -> bool:
    """Whether a table reads one that has days."""
    return any(partitions_of(catalog, name) is not None for name in catalog.upstreams(table))


def makes(key: dg.AssetKey) -> str:
    """The tag of a run that makes a table."""
    return MAKES + ".".join(key.path)


def mark(context: dg.AssetExecutionContext, tables: Collection[dg.AssetKey]) -> None:
    """Let a run say which of some tables it makes, before it reports any of them.

    Dagster itself can tell only of the day that was reported last whether what follows it was made by the same run.
    A step that runs on a cluster has not got the run; then what follows is looked at once more, in vain.
    """
    run = context.run
    made = set(run.asset_selection or context.job_def.asset_layer.executable_asset_keys) & set(tables)
    tags = {makes(key): "true" for key in sorted(made)}
    if not tags.keys() <= run.tags.keys() and context.instance.has_run(run.run_id):
        context.instance.add_run_tags(run.run_id, tags)


def days_between(first: str, last: str) -> list[str]:
    """The days of a range, both ends included."""
    begin = date.fromisoformat(first)
    return [str(begin + timedelta(days=n)) for n in range((date.fromisoformat(last) - begin).days + 1)]


def versions(work: Work, table: TableName, keys: Collection[str] | None = None) -> dict[str, str]:
    """Day -> version of its data, of the days that are there: what was extracted, or which batch made it.

    Args:
        keys: only these; `None`: all.
    """
    feed = work.catalog.destinations[table][0]
    wanted = None if keys is None else set(keys)
    if feed.kind == "extract":
        from lakehouse_assets.tables.extract import extracts_of

        store = extracts_of(work, feed)
        there = [key for key in store.partitions() if wanted is None or key in wanted]
        return {key: extract.checksum for key in there if (extract := store.find(key)) is not None}
    handle = work.engine.find(work.uri(table))
    if handle is None:
        return {}
    made = [key for key in work.book.open().partitions(str(table)) if wanted is None or key in wanted]
    numbers = {key: handle.number(work.feed_name(feed, key).app_id) for key in sorted(made)}
    return {key: f"{handle.id}@{number}" for key, number in numbers.items() if number}


def recorded(instance: dg.DagsterInstance, table: TableName) -> Mapping[str, str]:
    """Day -> version that was reported last."""
    found = instance.event_log_storage.get_latest_tags_by_partition(
        asset_key(table), dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION]
    )
    return {key: tags.get(DATA_VERSION, NOTHING) for key, tags in found.items()}


def moved(now: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """The days whose data are not what was reported last."""
    return sorted(key for key, version in now.items() if before.get(key, NOTHING) != version)


def event(catalog: Catalog, table: TableName, key: str, version: str, **facts: Any) -> dg.AssetMaterialization:
    """The event that says that a day has this version of its data."""
    code = code_version(catalog, catalog.destinations[table])
    tags = {DATA_VERSION: version, _GIVEN: "true", _CODE_VERSION: code}
    return dg.AssetMaterialization(asset_key(table), partition=key, metadata=facts, tags=tags)


def events(
    work: Work, instance: dg.DagsterInstance, table: TableName, keys: Collection[str] | None, made: Sequence[Outcome]
) -> Iterator[dg.AssetMaterialization]:
    """What a run says of each day by itself, once it has said its part of all of them.

    Args:
        keys: the days of the run, all of which are told; `None`: those are told that moved.
    """
    now = versions(work, table, keys)
    told = moved(now, recorded(instance, table)) if keys is None else sorted(keys)
    rows = {outcome.plan.feed.partition: outcome.valid for outcome in made}
    if not set(now) & set(told) <= set(rows):
        rows = rows_of(work, table, told) | rows
    for key in told:
        counted = {"dagster/partition_row_count": rows.get(key, 0)}
        yield event(work.catalog, table, key, now.get(key, NOTHING), **counted)


def rows_of(work: Work, table: TableName, keys: Sequence[str]) -> dict[str, int]:
    """Day -> number of rows, of days that have some."""
    feed = work.catalog.destinations[table][0]
    if feed.kind == "extract":
        from lakehouse_assets.tables.extract import extracts_of

        store = extracts_of(work, feed)
        return {key: extract.rows for key in keys if (extract := store.find(key)) is not None}
    handle = work.engine.find(work.uri(table))
    if handle is None:
        return {}
    column = f"`{feed.partition_cols[0]}`"
    rows = work.engine.read(handle)
    if len(keys) == 1:
        rows = work.engine.read(handle, partition={feed.partition_cols[0]: date.fromisoformat(keys[0])})
    counts = work.engine.query(f"SELECT {column} AS day, count(*) AS n FROM stored GROUP BY {column}", {"stored": rows})
    wanted = set(keys)
    return {str(row["day"]): int(row["n"]) for row in work.engine.rows(counts) if str(row["day"]) in wanted}
