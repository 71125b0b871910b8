"""What kinds of tables share: the work they are given, the draft they answer with, and the outcome they report.

What belongs here: value objects and the small lookups that every kind needs. What does not: any kind's own rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from lakehouse_assets.engines.base import Engine, Handle, Relation, open_engine
from lakehouse_assets.entities.catalog import Catalog
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import ConcurrentWriter, FeatureRefused, ForeignTable, LakeError
from lakehouse_assets.lake.delta import Commit, TableSpec
from lakehouse_assets.lake.names import BATCHES, FeedName, Lake
from lakehouse_assets.lake.plans import Plan, PlanBook
from lakehouse_assets.lake.storage import Storage, is_local
from lakehouse_assets.lake.table import EMBEDDED_REFUSES
from lakehouse_assets.settings import Settings
from lakehouse_assets.sources.base import Notice, Past, Source, open_source

Mode = Literal["append", "replace", "keys", "partitions", "history"]
"""How a batch changes the target: adds rows, starts it over, refreshes the touched keys or partitions, or is added to
its log, of which the target is made."""


def _now() -> datetime:
    return datetime.now(UTC)


def _silent(_table: str, _rows: int) -> None:
    """Progress that nobody watches."""


def _unheard(_entity: Entity, _notices: Sequence[Notice]) -> None:
    """Notices that nobody hears."""


@dataclass(frozen=True)
class Work:
    """What a refresh works with.

    Attributes:
        progress: told (table, rows so far) while rows stream in.
        notify: told (entity, notices) when a feed has nothing new; otherwise notices stand in the outcome.
        accept_loss: a rebuild may lose rows that the source no longer holds.
        accept_foreign: commits of others are kept, and no longer a reason to stop.
        remake: tables with history are made anew from their logs, so that it is no matter how they were made.
    """

    catalog: Catalog
    lake: Lake
    engine: Engine
    open_source: Callable[[Entity], Source] = open_source
    clock: Callable[[], datetime] = _now
    progress: Callable[[str, int], None] = _silent
    notify: Callable[[Entity, Sequence[Notice]], None] = _unheard
    accept_loss: bool = False
    accept_foreign: bool = False
    remake: bool = False

    @property
    def book(self) -> PlanBook:
        """The plans of the lake."""
        return PlanBook(self.lake.uri(BATCHES), self.lake.storage)

    def uri(self, table: TableName) -> str:
        """The URI of `table`."""
        return self.lake.uri(table)

    def feed_name(self, entity: Entity, partition: str = "") -> FeedName:
        """The name under which `entity` feeds its destination, or a partition of it."""
        return FeedName(str(entity.table), entity.feed, partition)


def open_work(settings: Settings, catalog: Catalog, environ: Mapping[str, str], **more: Any) -> Work:
    """The work that settings describe: their lake and their engine, over `catalog`; `more` sets fields of `Work`."""
    lake = Lake(settings.root, Storage.of(settings, environ))
    return Work(catalog, lake, open_engine(settings, lake.storage), **more)


@dataclass(frozen=True)
class Feed:
    """One entity that feeds one table, with what is known of it before a batch is drafted.

    Attributes:
        target: the table, if it exists.
        last: the last plan that was made good.
        past: the end positions of all plans since the last rebuild.
        rebuild: the feed is read from its start again.
        starts_over: a rebuild's first feed, which replaces what the table holds (further feeds append to that).
    """

    entity: Entity
    name: FeedName
    target: Handle | None
    last: Plan | None = None
    past: Past = field(default_factory=Past)
    rebuild: bool = False
    starts_over: bool = False


@dataclass(frozen=True)
class Draft:
    """What the next batch of a feed would read, and how it would be written.

    Attributes:
        more: the source held more when this was drafted: it bounds its batches.
    """

    mode: Mode
    start: Mapping[str, Any]
    end: Mapping[str, Any]
    incarnation: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()
    more: bool = False


@dataclass(frozen=True)
class Idle:
    """There is nothing new to read."""

    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """How a rule was kept in a batch: rows that broke it, and a few of them."""

    rule: str
    action: Literal["expect_all", "expect_all_or_drop", "expect_all_or_fail", "cast"]
    broken: int
    rows: int
    examples: tuple[Mapping[str, Any], ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no row broke the rule."""
        return self.broken == 0


@dataclass(frozen=True)
class Outcome:
    """What a batch did: rows in = valid + quarantined + dropped, and the commits by table.

    Attributes:
        more: there was more to read when the batch was planned, or may have been.
        facts: what only some kinds of tables have to tell.
    """

    plan: Plan
    commits: Mapping[TableName, Commit]
    rows_in: int = 0
    valid: int = 0
    quarantined: int = 0
    dropped: int = 0
    verdicts: Sequence[Verdict] = ()
    notices: tuple[Notice, ...] = ()
    more: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


def upstream(work: Work, table: TableName, version: int | None = None) -> Handle:
    """A handle of an upstream table.

    Raises:
        LakeError: it was not made yet.
    """
    handle = work.engine.find(work.uri(table), version)
    if handle is None:
        uploaded = any(entity.lakehouse.landed_by == "upload" for entity in feeding(work, table))
        raise LakeError(
            f"the table {table} is not in the lake {work.lake.root} yet",
            fix=f"upload to {work.uri(table)} first" if uploaded else f"run it first: lakehouse run {table}",
        )
    return handle


def table_properties(work: Work, entity: Entity, *, change_feed: bool) -> dict[str, str]:
    """The properties a table of `entity` is created with: whose it is, its keys, its writers, and the user's own.

    On an object store the engine that makes a table is its only writer, unless the entity says otherwise: there the
    commits of the two engines do not exclude each other.

    Raises:
        FeatureRefused: the user's own turn on a feature that the embedded engine would misread.
    """
    writers = entity.lakehouse.writers or ("both" if is_local(work.lake.root) else work.engine.name)
    off = ("false", "none")
    given = {name: value.lower() for name, value in entity.table_properties.items()}
    refused = [name for name, value in given.items() if _is_spark_only(name) and value not in off]
    if refused and writers != "spark":
        raise FeatureRefused(
            f"entity {entity.entity_id!r}: table_properties {', '.join(refused)} make a table that only Spark can read",
            fix="remove them, or say `lakehouse: {writers: spark}`",
        )
    return {
        **entity.table_properties,
        "lakehouse.destination": str(entity.table),
        "lakehouse.kind": entity.kind,
        "lakehouse.keys": ",".join(entity.primary_keys),
        "lakehouse.writers": writers,
        "delta.enableChangeDataFeed": "true" if change_feed else "false",
    }


def _is_spark_only(name: str) -> bool:
    """Whether a property turns on a Delta feature that embedded refuses."""
    return name in _SPARK_ONLY or name.removeprefix("delta.feature.") in EMBEDDED_REFUSES


_SPARK_ONLY = frozenset(
    {
        "delta.enableDeletionVectors",
        "delta.columnMapping.mode",
        "delta.enableRowTracking",
        "delta.enableInCommitTimestamps",
        "delta.enableTypeWidening",
    }
)


def with_comments(schema: pa.Schema, comments: Mapping[str, str]) -> pa.Schema:
    """`schema`, nullable throughout, with the entity's column comments."""
    return pa.schema(
        [
            pa.field(f.name, f.type, metadata={"comment": comments[f.name]} if f.name in comments else f.metadata)
            for f in schema
        ]
    )


def ensure(
    work: Work,
    entity: Entity,
    table: TableName,
    schema: pa.Schema,
    *,
    change_feed: bool,
    indexed: Sequence[str] = (),
    properties: Mapping[str, str] | None = None,
) -> Handle:
    """The table, made from the entity if it is not there, widened if the rows have new columns.

    Args:
        indexed: columns whose statistics the log of the table keeps; none: the first ones.
        properties: more of these, for a table that is made.

    Raises:
        ForeignTable: a table that this project did not make stands there.
    """
    uri = work.uri(table)
    handle = work.engine.find(uri)
    if handle is None:
        own = table == entity.table
        made = table_properties(work, entity, change_feed=change_feed) | {"lakehouse.destination": str(table)}
        made |= {"delta.dataSkippingStatsColumns": ",".join(indexed)} if _can_be_named(indexed) else {}
        made |= properties or {}
        spec = TableSpec(
            with_comments(schema, entity.lakehouse.columns),
            tuple(entity.partition_cols) if own else (),
            made,
            entity.comment if own else about(entity, table),
            tuple(entity.lakehouse.cluster_by) if own and made["lakehouse.writers"] == "spark" else (),
        )
        return work.engine.create(uri, spec)
    check_ours(handle, table)
    work.engine.refuse_writers(handle)
    new = new_fields(handle.schema, schema)
    return work.engine.add_columns(handle, new) if new else handle


def about(entity: Entity, table: TableName) -> str:
    """The comment of a table that stands beside an entity's own."""
    if table == entity.table.changes:
        return f"The log of {entity.table}: every event, correction and retraction, append-only"
    if table == entity.table.corrections:
        return f"What people made of quarantined rows of {entity.table}; a rebuild makes it again"
    return f"Rows of {entity.table} that broke a rule, and which"


def _can_be_named(columns: Sequence[str]) -> bool:
    """Whether a table's property can list these columns: there is something to list, and no name has a mark in it."""
    return bool(columns) and all(re.fullmatch(r"[A-Za-z_]\w*", name) for name in columns)


def target_of(work: Work, entity: Entity, plan: Plan, schema: pa.Schema, *, change_feed: bool) -> Handle:
    """The table that a plan writes, as `ensure` gives it, if the plan still is the next one.

    Raises:
        ConcurrentWriter: another batch was committed since the plan was made, so its range no longer fits.
    """
    handle = ensure(work, entity, entity.table, schema, change_feed=change_feed)
    check_next(entity, plan, handle)
    return handle


def check_next(entity: Entity, plan: Plan, target: Handle) -> None:
    """Raise `ConcurrentWriter` if another batch was committed to `target` since the plan was made."""
    carried = target.number(plan.feed.app_id)
    if plan.mode != "replace" and carried != plan.follows and carried < plan.number:
        raise ConcurrentWriter(
            f"{entity.table} carries batch {carried}, and plan {plan.number} follows batch {plan.follows}",
            fix="run again",
        )


def new_fields(have: Iterable[pa.Field], wanted: Iterable[pa.Field]) -> list[pa.Field]:
    """The fields of `wanted` that `have` lacks, and its structs that would gain fields, as they would be then.

    Names that differ in case only are one column, as in Delta; it stays as it is spelled in `have`.
    """
    known = {f.name.lower(): f for f in have}
    found = []
    for new in wanted:
        old = known.get(new.name.lower())
        if old is None:
            found.append(new)
        elif pa.types.is_struct(new.type) and pa.types.is_struct(old.type):
            more = {f.name.lower(): f for f in new_fields(old.type, new.type)}
            if more:
                merged = [more.pop(f.name.lower(), f) for f in old.type]
                found.append(new.with_name(old.name).with_type(pa.struct([*merged, *more.values()])))
    return found


def check_ours(handle: Handle, table: TableName) -> None:
    """Raise `ForeignTable` unless this project made the table for `table`."""
    owner = handle.properties.get("lakehouse.destination")
    if owner != str(table):
        raise ForeignTable(
            f"the table at {handle.uri} was not made for {table}"
            + (f" but for {owner}" if owner else ": it does not carry the property lakehouse.destination"),
            fix="move it away, choose another destination, or read it with source_format: delta",
        )


def feeding(work: Work, table: TableName) -> tuple[Entity, ...]:
    """The entities that feed `table`; for one that stands beside another, those that feed that one."""
    for name, entities in work.catalog.destinations.items():
        if table in (name, name.quarantine, name.changes, name.corrections):
            return entities
    return ()


def written_with(work: Work, table: TableName) -> tuple[TableName, ...]:
    """A destination and the tables that are written together with it, as far as they exist."""
    kinds = {entity.kind for entity in work.catalog.destinations.get(table, ())}
    sides: tuple[TableName, ...] = (table.quarantine,) if kinds else ()
    if "conformed" in kinds and work.engine.find(work.uri(table.corrections)) is not None:
        sides += (table.corrections,)
    return (table, *sides, *((table.changes,) if "history" in kinds else ()))


def numbered(entity: Entity) -> TableName:
    """The table whose commits carry the numbers of a feed: the log, where the entity's table is made from one."""
    return entity.table.changes if entity.kind == "history" else entity.table


def is_read(work: Work, table: TableName) -> bool:
    """Whether another table of the catalog reads `table`."""
    return any(table in work.catalog.upstreams(name) for name in work.catalog.destinations)


def relation_of(work: Work, table: TableName, version: int | None = None) -> Relation:
    """The rows of a stored table."""
    return work.engine.read(upstream(work, table, version))
