"""Tables that are loaded from extracts: the rows of each file as they are, in a partition of their own.

A batch is one file; it is loaded again when the file is another one.
What belongs here: files to partitions. What does not: making the files (`extract.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import ConcurrentWriter, LakeError, SchemaDrift, SourceMissing
from lakehouse_assets.lake.extracts import Extract
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.schemas import holds
from lakehouse_assets.tables import extract, partitions
from lakehouse_assets.tables.base import Draft, Feed, Idle, Outcome, Work
from lakehouse_assets.tables.landed import INGESTED_AT
from lakehouse_assets.tables.rows import padded

SOURCE = pa.field("_source", pa.string())


def applies(work: Work, entity: Entity) -> bool:
    """Whether the entity reads an extract."""
    return entity.kind == "conformed" and not entity.reads_outside and _extract(work, entity) is not None


def _extract(work: Work, entity: Entity) -> Entity | None:
    """The entity that makes the extract which `entity` reads; `None`: it reads something else."""
    feeds = work.catalog.destinations.get(work.catalog.resolve(entity.source), ())
    return feeds[0] if feeds and feeds[0].kind == "extract" else None


def _upstream(work: Work, entity: Entity) -> Entity:
    found = _extract(work, entity)
    if found is None:
        raise SourceMissing(f"{entity.table}: {entity.source} is no extract", fix="see the catalog")
    return found


def offers(work: Work, entity: Entity) -> Mapping[str, partitions.Offer]:
    """What each partition would be made of: the file that is there."""
    found = extract.offers(work, _upstream(work, entity))
    return {key: {"fault": str(one)} if isinstance(one, LakeError) else _offer(one) for key, one in found.items()}


def _offer(found: Extract) -> partitions.Offer:
    return {"checksum": found.checksum, "rows": found.rows}


def draft(work: Work, feed: Feed) -> Draft | Idle:
    """The batch that loads one file."""
    entity, key = _upstream(work, feed.entity), feed.name.partition
    found = extract.extracts_of(work, entity).find(key)
    if found is None and (feed.starts_over or feed.rebuild):
        raise SourceMissing(
            f"{feed.entity.table}: a rebuild was interrupted before it made {key}, and the extract {entity.table} of "
            f"{key} is gone",
            fix=f"extract it again: lakehouse run {entity.table} --partition {key}; or start over: "
            f"lakehouse run --full-refresh {feed.entity.table}",
        )
    offer = None if found is None else _offer(found)
    moved = feed.last is None or feed.last.end != offer
    return partitions.drafted(feed, offer, feed.entity.source, recipe_of(feed.entity), moved=moved)


def check_rebuild(work: Work, entity: Entity) -> None:
    """Raise before a rebuild is planned, if no table can hold what all files hold."""
    columns_of(work, entity)


def recipe_of(_entity: Entity) -> dict[str, Any]:
    """Rows are loaded as they are."""
    return {}


def replayable(work: Work, feed: Feed, plan: Plan) -> bool:
    """Whether the file that an interrupted batch read is still there."""
    found = extract.extracts_of(work, _upstream(work, feed.entity)).find(plan.feed.partition)
    return found is not None and _offer(found) == plan.end


def write(work: Work, feed: Feed, plan: Plan) -> Outcome:
    """Load the file.

    Raises:
        ConcurrentWriter: it was replaced since the batch was planned.
        SourceBusy: it was replaced while it was read.
    """
    entity = _upstream(work, feed.entity)
    store = extract.extracts_of(work, entity)
    found = store.find(plan.feed.partition)
    if found is None:
        raise SourceMissing(
            f"{feed.entity.table}: the extract {entity.table} of {plan.feed.partition} is gone",
            fix=f"extract it again: lakehouse run {entity.table} --partition {plan.feed.partition}",
        )
    if _offer(found) != plan.end:
        raise ConcurrentWriter(f"the extract {found.path} was replaced since the batch was planned", fix="run again")
    day = pa.field(extract.column_of(entity), pa.date32())
    columns = pa.schema([day, *found.schema, SOURCE, INGESTED_AT])
    rows = _dated(work, feed, plan, columns, store.read(found))
    relation = work.engine.from_arrow(pa.RecordBatchReader.from_batches(columns, rows))
    if plan.mode == "replace":  # the other days follow into the columns that the table gets now
        relation = padded(work.engine, relation, pa.schema([day, *columns_of(work, feed.entity), SOURCE, INGESTED_AT]))
    return partitions.put(work, feed, plan, relation)


def columns_of(work: Work, entity: Entity) -> pa.Schema:
    """The columns that hold the rows of all files: each as wide as the widest, new ones behind the others.

    Raises:
        SchemaDrift: there is no type for a column that holds the values of two files.
    """
    found: dict[str, tuple[str, pa.Field]] = {}
    for key, one in extract.offers(work, _upstream(work, entity)).items():
        if isinstance(one, LakeError):
            raise one
        for field in one.schema:
            first, old = found.get(field.name.lower(), (key, field))
            if not (holds(old.type, field.type) or holds(field.type, old.type)):
                raise SchemaDrift(
                    f"{entity.table}: {field.name} is {old.type} in the extract of {first} and {field.type} in that of "
                    f"{key}, and neither holds the values of the other",
                    fix=f"mend the column at the source and extract one of the days again, then: lakehouse run "
                    f"--full-refresh {entity.table}",
                )
            wider = field if holds(field.type, old.type) else old
            found[field.name.lower()] = (first, wider.with_name(old.name))
    return pa.schema([field for _, field in found.values()])


def _dated(
    work: Work, feed: Feed, plan: Plan, columns: pa.Schema, batches: pa.RecordBatchReader
) -> Iterator[pa.RecordBatch]:
    day, count = partitions.day_of(plan.feed.partition), 0
    for batch in batches:
        count += batch.num_rows
        work.progress(str(feed.entity.table), count)
        given = (day, feed.entity.source, plan.planned_at)
        own = [
            pa.repeat(pa.scalar(value, field.type), batch.num_rows)
            for value, field in zip(given, (columns[0], SOURCE, INGESTED_AT), strict=True)
        ]
        yield pa.RecordBatch.from_arrays([own[0], *batch.columns, own[1], own[2]], schema=columns)
