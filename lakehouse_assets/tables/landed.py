"""Landed tables: rows of the outside world as received, with `_ingested_at`, `_source` and `_position`.

Incremental sources append; sources that are read whole replace the table when their fingerprint changes. A row with
a value that does not fit its column goes to quarantine as a whole, whatever the entity says; only with `evolution:
rescue` it stays, with the value beside it (`rescue.py`).
What does not belong here: how a source is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol, runtime_checkable

import pyarrow as pa

from lakehouse_assets.engines.base import Relation
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import SourceMissing, TypeRefused
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.sources.base import ROW_FIELDS, Batch, Frame, Notice, Past, Position, Source
from lakehouse_assets.sql.types import arrow_schema, ddl
from lakehouse_assets.tables import conformed, evolution, quarantine, rescue, sides
from lakehouse_assets.tables.base import Draft, Feed, Idle, Mode, Outcome, Work, check_next, target_of, upstream
from lakehouse_assets.tables.rules import UPSTREAM, Recipe

_TEXTS = ("csv", "json")
"""Formats whose fields can be kept as they are written."""
INGESTED_AT = pa.field("_ingested_at", pa.timestamp("us", tz="UTC"))
"""When the batch was planned: the same at every replay."""
KEPT = "kept"
"""The key of a plan's recipe under which the number of an interrupted batch stands whose rows are in the quarantine:
the plan makes what is left of that batch, and adds nothing to the quarantine but rows that stand for what was lost."""


@runtime_checkable
class Leaves(Protocol):
    """A source that goes on with an interrupted batch when rows of its range are gone: their loss is told."""

    def left(
        self, start: Position, end: Position, kept: Iterable[tuple[str | None, str | None]], *, told: bool
    ) -> tuple[Position, list[Notice]]:
        """The start of what is left of a range, which names what was lost since.

        Args:
            kept: rows of the range that are kept: `_position`, or where it is NULL the row as text.
            told: whether a row stands for each loss that `start` names.
        """


def draft(work: Work, feed: Feed) -> Draft | Idle:
    """What the next batch would read: from the last plan's end to what the source holds now."""
    with work.open_source(feed.entity) as source:
        last = None if feed.rebuild else feed.last
        notices = source.verify(dict(last.end), last.incarnation) if last else []
        since = Past() if feed.rebuild else feed.past
        end = source.latest(since)
        if feed.past.last:
            past = replace(feed.past, incarnation=feed.last.incarnation if feed.last else None)
            notices += source.losses(past) if feed.rebuild else source.audit(past)
        if last and end == last.end:
            return Idle(tuple(notices))
        replaces = feed.starts_over or (last is not None and not source.incremental)
        mode: Mode = "replace" if replaces else "append"
        start = source.resume(dict(last.end)) if last and source.incremental else source.earliest()
        recipe = Recipe.of(feed.entity).record()
        more = source.incremental and source.more(since, end)
        return Draft(mode, start, end, source.incarnation(end), recipe, tuple(notices), more)


def replayable(work: Work, feed: Feed, plan: Plan) -> bool:
    """Whether the source still holds what an interrupted plan reads: files may have been rewritten since."""
    with work.open_source(feed.entity) as source:
        return source.holds(dict(plan.start), dict(plan.end))


def left(work: Work, feed: Feed, plan: Plan, *, told: bool) -> tuple[Position, list[Notice]] | None:
    """Where what is left of an interrupted plan starts whose rows are in the quarantine; `None`: it cannot be told.

    Args:
        told: whether the quarantine carries the number of the plan.
    """
    with work.open_source(feed.entity) as source:
        if not isinstance(source, Leaves):
            return None
        source.verify(dict(plan.end), plan.incarnation)
        return source.left(dict(plan.start), dict(plan.end), _kept(work, feed, plan), told=told)


def _kept(work: Work, feed: Feed, plan: Plan) -> Iterator[tuple[str | None, str | None]]:
    """The rows of an interrupted batch in the quarantine: their positions, or where they have none as received."""
    box = upstream(work, feed.entity.table.quarantine)
    received = box.schema.field(UPSTREAM).type if UPSTREAM in box.schema.names else pa.null()
    is_there = pa.types.is_struct(received) and received.get_field_index("_position") >= 0
    places = [f"{UPSTREAM}._position"] if is_there else []
    places += ["_position"] if "_position" in box.schema.names else []
    place = f"coalesce({', '.join([*places, 'CAST(NULL AS STRING)'])})"
    rows = work.engine.query(
        f"SELECT {place} AS place, CASE WHEN {place} IS NULL THEN _raw END AS text FROM box "
        "WHERE _batch = :batch AND _quarantined_at = CAST(:planned_at AS TIMESTAMP)",
        {"box": work.engine.read(box)},
        {"batch": plan.recipe.get(KEPT, plan.number), "planned_at": plan.planned_at},
    )
    for batch in work.engine.batches(rows):
        yield from zip(batch.column("place").to_pylist(), batch.column("text").to_pylist(), strict=True)


def write(work: Work, feed: Feed, plan: Plan) -> Outcome:
    """Make the batch: quarantine first, target last."""
    with work.open_source(feed.entity) as source:
        source.verify(dict(plan.end), plan.incarnation)  # it may have been replaced since the plan was made
        if KEPT in plan.recipe:
            _tell_lost(work, feed, plan, source)
        rescues = Recipe.recorded(plan.recipe).rescue
        wider = _wider(work, feed.entity, plan) if rescues else feed.entity
        if wider is feed.entity:
            return _write(work, feed, plan, source)
    with work.open_source(wider) as source:
        return _write(work, feed, plan, source)


def _tell_lost(work: Work, feed: Feed, plan: Plan, source: Source) -> None:
    """Add to the quarantine what was lost, under the plan's number: so nothing else is added under it."""
    if (target := work.engine.find(work.uri(feed.entity.table))) is not None:
        check_next(feed.entity, plan, target)
    box, start = upstream(work, feed.entity.table.quarantine), dict(plan.start)
    with quarantine.Spool() as lost:
        for batch in source.read(start, start):
            if batch.misfits is not None:
                lost.add(batch.misfits)
        work.engine.append(box, work.engine.from_arrow(lost.reader(box.schema, plan)), plan.as_number)


def _wider(work: Work, entity: Entity, plan: Plan) -> Entity:
    """The entity, declared with the fields that the range holds beyond its `source_schema`: they are to be rescued.

    Files whose fields are found by their place (no header, `enforceSchema`) have no others.
    """
    by_place = entity.read_options.get("enforceSchema", "").lower() == "true"
    if not entity.source_schema or by_place:
        return entity
    declared = arrow_schema(entity.source_schema)
    with work.open_source(entity.model_copy(update={"source_schema": None})) as source:
        try:
            found = source.columns(dict(plan.start), dict(plan.end))
        except SourceMissing:  # there is nothing to learn fields from
            return entity
        except TypeRefused as error:
            raise TypeRefused(
                f"{entity.table}: a field beyond source_schema cannot be rescued: {error.problem}",
                value=error.value,
                fix="rename it at the source, or choose another `lakehouse: {evolution: …}`: then it is left out",
            ) from None
    known = {name.lower() for name in declared.names}
    more = [field for field in found if field.name.lower() not in known]
    if not more or len(more) == len(found):
        return entity
    rescue.refuse_own(pa.schema(more), entity.table)
    if entity.read_options.get("cloudFiles.format", entity.source_format) in _TEXTS:
        more = [field.with_type(pa.string()) for field in more]
    return entity.model_copy(update={"source_schema": ddl(pa.schema([*declared, *more]))})


def received(work: Work, feed: Feed, plan: Plan, source: Source, misfits: quarantine.Spool) -> pa.RecordBatchReader:
    """The rows of a batch as they are landed; those that do not fit their columns go to `misfits` meanwhile."""
    start, end = dict(plan.start), dict(plan.end)
    columns = pa.schema([*source.columns(start, end), *ROW_FIELDS, INGESTED_AT])
    rows = _rows(work, feed, plan, columns, misfits, source.read(start, end))
    return pa.RecordBatchReader.from_batches(columns, rows)


def _write(work: Work, feed: Feed, plan: Plan, source: Source) -> Outcome:
    start, end = dict(plan.start), dict(plan.end)
    columns = pa.schema([*source.columns(start, end), *ROW_FIELDS, INGESTED_AT])
    recipe = Recipe.recorded(plan.recipe)
    frame = None if recipe.rescue or not work.engine.loads else source.frame(start, end)
    with quarantine.Spool() as misfits:
        if frame is not None and frame.format in work.engine.loads:
            return conformed.keep(work, feed, plan, _loaded(work, plan, frame, columns, misfits), misfits)
        batches = source.read(start, end)
        if recipe.rescue:
            return _rescued(work, feed, plan, columns, batches, misfits)
        rows = _rows(work, feed, plan, columns, misfits, batches)
        if plan.mode == "append" and recipe.passes_all:
            return _streamed(work, feed, plan, columns, pa.RecordBatchReader.from_batches(columns, rows), misfits)
        relation = work.engine.from_arrow(pa.RecordBatchReader.from_batches(columns, rows))
        if plan.mode == "append" and recipe.judges_nothing:
            made = work.engine.batches(recipe.selected(work.engine, relation))
            return _streamed(work, feed, plan, columns, made, misfits)
        return conformed.keep(work, feed, plan, relation, misfits)


def _loaded(work: Work, plan: Plan, frame: Frame, columns: pa.Schema, misfits: quarantine.Spool) -> Relation:
    """The rows of a batch as the engine's own reader gives them, with `_ingested_at`."""
    if frame.misfits is not None and frame.misfits.misfits is not None:
        misfits.add(frame.misfits.misfits)
    received = pa.schema([field for field in columns if field.name != INGESTED_AT.name])
    rows = work.engine.load(frame.format, frame.options, frame.select, received)
    stamped = f"SELECT *, CAST(:planned_at AS TIMESTAMP) AS {INGESTED_AT.name} FROM received"
    return work.engine.query(stamped, {"received": rows}, {"planned_at": plan.planned_at})


def _streamed(
    work: Work, feed: Feed, plan: Plan, received: pa.Schema, rows: pa.RecordBatchReader, misfits: quarantine.Spool
) -> Outcome:
    """Rows that nothing can keep out, brought to the columns of the table as they arrive."""
    table, mode = evolution.columns_of(feed, plan), evolution.mode_of(feed, plan)
    fit = evolution.settle(rows.schema, table, mode, feed.entity.table)
    return _stream(work, feed, plan, received, fit.columns, map(fit.batch, rows), misfits)


def _rescued(
    work: Work, feed: Feed, plan: Plan, columns: pa.Schema, batches: Iterator[Batch], misfits: quarantine.Spool
) -> Outcome:
    """A batch of which what has no place in the table is kept beside its row."""
    entity, recipe = feed.entity, Recipe.recorded(plan.recipe)
    own = {field.name for field in (*ROW_FIELDS, INGESTED_AT)}
    rescue.refuse_own(pa.schema([f for f in columns if f.name not in own]), entity.table)
    table = None if recipe.select else evolution.columns_of(feed, plan)  # a select list is what has to fit the table
    given = arrow_schema(entity.source_schema).names if entity.source_schema else []
    declared = own | {name.lower() for name in given}
    known = None if table is None and not given else declared
    kept = rescue.Rescue(evolution.settle(columns, table, "rescue", entity.table, known), entity.table)
    rows = _rows(work, feed, plan, columns, misfits, batches, kept)
    if plan.mode == "append" and recipe.passes_all:
        outcome = _stream(work, feed, plan, columns, kept.columns, rows, misfits)
    else:
        relation = work.engine.from_arrow(pa.RecordBatchReader.from_batches(kept.columns, rows))
        outcome = conformed.keep(work, feed, plan, relation, misfits, declared)
    verdicts = [*outcome.verdicts, *kept.verdicts(outcome.rows_in)]
    return replace(outcome, verdicts=verdicts, notices=(*kept.notices(), *outcome.notices))


def _rows(
    work: Work,
    feed: Feed,
    plan: Plan,
    columns: pa.Schema,
    misfits: quarantine.Spool,
    batches: Iterator[Batch],
    kept: rescue.Rescue | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows that fit, with `_ingested_at`; the others go to the spool, or with them what can be kept of them."""
    count = 0

    def dated(rows: pa.RecordBatch) -> pa.RecordBatch:
        arrays = dict(zip(rows.schema.names, rows.columns, strict=True))
        arrays[INGESTED_AT.name] = pa.repeat(pa.scalar(plan.planned_at, INGESTED_AT.type), rows.num_rows)
        return pa.RecordBatch.from_arrays([arrays[f.name] for f in columns], schema=columns)

    for batch in batches:
        unfit, found = batch.misfits, []
        if batch.rows.num_rows:
            found = [dated(batch.rows) if kept is None else kept.rows(dated(batch.rows))]
        if kept is not None and unfit is not None and batch.kept is not None:
            unfit, typed = kept.misfits(unfit, dated(batch.kept))
            found.append(typed)
        if unfit is not None and unfit.num_rows:
            misfits.add(unfit)
        for rows in found:
            count += rows.num_rows
            work.progress(str(feed.entity.table), count)
            yield rows


def _stream(
    work: Work,
    feed: Feed,
    plan: Plan,
    received: pa.Schema,
    columns: pa.Schema,
    rows: Iterator[pa.RecordBatch],
    misfits: quarantine.Spool,
) -> Outcome:
    """Rows that only pass through: staged as they arrive, in bounded memory."""
    entity = feed.entity
    target = target_of(work, entity, plan, columns, change_feed=sides.keeps_change_feed(work, entity))
    stage, count = work.engine.appender(target), 0
    try:
        for batch in rows:
            count += batch.num_rows
            stage.write(evolution.widened(batch, target.schema))
        commits = {}
        box = sides.quarantine_of(work, entity, columns, received, needed=misfits.count > 0)
        if box is not None:
            unfit = work.engine.from_arrow(misfits.reader(box.schema, plan))
            commits[entity.table.quarantine] = work.engine.append(box, unfit, plan.as_number)
        commits[entity.table] = stage.commit(plan.as_number)
    except BaseException:
        stage.discard()
        raise
    return Outcome(plan, commits, count + misfits.count, count, misfits.count)
