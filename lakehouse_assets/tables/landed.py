"""Landed tables: rows of the outside world as received, with `_ingested_at`, `_source` and `_position`.

Incremental sources append; sources that are read whole replace the table when their fingerprint changes. A row with
a value that does not fit its column goes to quarantine as a whole, whatever the entity says.
What does not belong here: how a source is read.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from lakehouse_assets.errors import NotRunnable, SchemaDrift
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.sources.base import ROW_FIELDS, Batch, Past, Position
from lakehouse_assets.tables import conformed, quarantine
from lakehouse_assets.tables.base import Draft, Feed, Idle, Mode, Outcome, Work, target_of
from lakehouse_assets.tables.rules import Recipe

INGESTED_AT = pa.field("_ingested_at", pa.timestamp("us", tz="UTC"))
"""When the batch was planned: the same at every replay."""


def draft(work: Work, feed: Feed) -> Draft | Idle:
    """What the next batch would read: from the last plan's end to what the source holds now."""
    with work.open_source(feed.entity) as source:
        last = None if feed.rebuild else feed.last
        notices = source.verify(dict(last.end), last.incarnation) if last else []
        end = source.latest(Past() if feed.rebuild else feed.past)
        notices += source.audit(feed.past) if feed.past.last else []
        if last and end == last.end:
            return Idle(tuple(notices))
        replaces = feed.starts_over or (last is not None and not source.incremental)
        mode: Mode = "replace" if replaces else "append"
        start = dict(last.end) if last and source.incremental else source.earliest()
        recipe = Recipe.of(feed.entity).record()
        more = source.incremental and source.latest(_and_then(Past() if feed.rebuild else feed.past, end)) != end
        return Draft(mode, start, end, source.incarnation(end), recipe, tuple(notices), more)


def _and_then(past: Past, end: Position) -> Past:
    """The past after a batch that ends at `end`."""
    return Past(lambda: [*past.positions(), end], end)


def replayable(work: Work, feed: Feed, plan: Plan) -> bool:
    """Whether the source still holds what an interrupted plan reads: files may have been rewritten since."""
    with work.open_source(feed.entity) as source:
        return source.holds(dict(plan.end))


def write(work: Work, feed: Feed, plan: Plan) -> Outcome:
    """Make the batch: quarantine first, target last."""
    with work.open_source(feed.entity) as source, quarantine.Spool() as misfits:
        start, end = dict(plan.start), dict(plan.end)
        source.verify(end, plan.incarnation)  # it may have been replaced since the plan was made
        columns = pa.schema([*source.columns(start, end), *ROW_FIELDS, INGESTED_AT])
        rows = _rows(work, feed, plan, columns, misfits, source.read(start, end))
        check_evolution(feed, columns)
        if plan.mode == "append" and Recipe.recorded(plan.recipe).passes_all:
            return _stream(work, feed, plan, columns, rows, misfits)
        relation = work.engine.from_arrow(pa.RecordBatchReader.from_batches(columns, rows))
        return conformed.keep(work, feed, plan, relation, misfits)


def _rows(
    work: Work, feed: Feed, plan: Plan, columns: pa.Schema, misfits: quarantine.Spool, batches: Iterator[Batch]
) -> Iterator[pa.RecordBatch]:
    """The rows that fit, with `_ingested_at`; the others go to the spool."""
    count = 0
    for batch in batches:
        if batch.misfits is not None and batch.misfits.num_rows:
            misfits.add(batch.misfits)
        if not batch.rows.num_rows:
            continue
        count += batch.rows.num_rows
        work.progress(str(feed.entity.table), count)
        arrays = dict(zip(batch.rows.schema.names, batch.rows.columns, strict=True))
        arrays[INGESTED_AT.name] = pa.repeat(pa.scalar(plan.planned_at, INGESTED_AT.type), batch.rows.num_rows)
        yield pa.RecordBatch.from_arrays([arrays[f.name] for f in columns], schema=columns)


def _stream(
    work: Work,
    feed: Feed,
    plan: Plan,
    columns: pa.Schema,
    rows: Iterator[pa.RecordBatch],
    misfits: quarantine.Spool,
) -> Outcome:
    """Rows that only pass through: staged as they arrive, in bounded memory."""
    entity = feed.entity
    target = target_of(work, entity, plan, columns, change_feed=conformed.keeps_change_feed(work, entity))
    stage, count = work.engine.appender(target), 0
    try:
        for batch in rows:
            count += batch.num_rows
            stage.write(widened(batch, target.schema))
        commits = {}
        box = conformed.quarantine_of(work, entity, columns, columns, needed=misfits.count > 0)
        if box is not None:
            received = work.engine.from_arrow(misfits.reader(box.schema, plan))
            commits[entity.table.quarantine] = work.engine.append(box, received, plan.as_number)
        commits[entity.table] = stage.commit(plan.as_number)
    except BaseException:
        stage.discard()
        raise
    return Outcome(plan, commits, count + misfits.count, count, misfits.count)


def check_evolution(feed: Feed, columns: pa.Schema) -> None:
    """What the entity's `evolution` says about columns that the table does not have.

    Raises:
        SchemaDrift: there are new columns and the table is frozen.
        NotRunnable: `rescue` was asked for.
    """
    mode = feed.entity.lakehouse.evolution
    if mode == "rescue":
        raise NotRunnable(
            f"{feed.entity.table}: evolution `rescue` is not in this version", choices=("add_columns", "freeze")
        )
    if mode != "freeze" or feed.target is None:
        return
    new = [name for name in columns.names if name not in feed.target.schema.names]
    if new:
        raise SchemaDrift(
            f"{feed.entity.table}: the source has new columns ({', '.join(new)}) and the table is frozen",
            fix="say `lakehouse: {evolution: add_columns}`, or leave the columns out with select_expr",
        )


def widened(batch: pa.RecordBatch, columns: pa.Schema) -> pa.RecordBatch:
    """`batch` with a NULL for every column that only the table has (columns that left the source)."""
    missing = [f for f in columns if f.name not in batch.schema.names]
    for field in missing:
        batch = batch.append_column(field, pa.nulls(batch.num_rows, field.type))
    return batch
