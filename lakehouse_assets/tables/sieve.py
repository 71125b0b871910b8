"""One pass over the rows of a batch: most of them go to the target as they come, the others are set aside and sorted.

Judging a row may cost more than writing it, so where an engine streams, each is judged once. Nothing is visible before
all are: rows for the target are staged in files that no commit names, and the quarantine is committed first.
What belongs here: that pass. What does not: verdicts (`rules.py`), batches that replace or are corrected
(`conformed.py`).
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.entities.model import TableName
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.values import Commit
from lakehouse_assets.tables import corrections_kept, evolution, quarantine
from lakehouse_assets.tables.base import Feed, Outcome, Work, target_of
from lakehouse_assets.tables.rows import padded
from lakehouse_assets.tables.rules import KEPT_OUT, SUSPECT, Held, Judged, Recipe
from lakehouse_assets.tables.sides import keeps_change_feed, quarantine_of, with_misfits


def applies(work: Work, feed: Feed, plan: Plan, recipe: Recipe) -> bool:
    """Whether rows of a batch can be written while they are judged: none stops it, none was corrected by hand."""
    return (
        work.engine.streams
        and plan.mode == "append"
        and not recipe.may_stop
        and corrections_kept.find(work, feed.entity.table) is None
    )


def sorted_out(batch: pa.RecordBatch, aside: quarantine.Spool, columns: list[str], names: list[str]) -> pa.RecordBatch:
    """Set the suspects of a batch aside, with `columns`; the columns `names` of the rows that go to the target."""
    suspect = batch.column(SUSPECT)
    if not pc.any(suspect).as_py():
        return batch.select(names)
    aside.add(batch.filter(suspect).select(columns))
    return batch.filter(pc.invert(batch.column(KEPT_OUT))).select(names)


def keep(work: Work, feed: Feed, plan: Plan, judged: Judged, misfits: quarantine.Spool | None) -> Outcome:
    """Write a batch whose rows are judged as they come.

    Args:
        misfits: rows that did not fit their columns, filled while the others are read.
    """
    engine, entity, names = work.engine, feed.entity, judged.schema.names
    settled = evolution.columns_of(feed, plan)
    fit = evolution.settle(judged.schema, settled, evolution.mode_of(feed, plan), entity.table)
    target = target_of(work, entity, plan, fit.columns, change_feed=keeps_change_feed(work, entity))
    sifted = judged.sifted()
    kept = pa.schema([field for field in engine.schema(sifted) if field.name not in (SUSPECT, KEPT_OUT)])
    stage, rows = engine.appender(target), 0
    try:
        with quarantine.Spool(kept) as aside:
            for batch in engine.batches(sifted):
                rows += batch.num_rows
                fitting = fit.batch(sorted_out(batch, aside, kept.names, names))
                stage.write(evolution.widened(fitting, target.schema))
                work.progress(str(entity.table), rows)
            with engine.held(engine.from_arrow(aside.taken())) as suspects:
                held = Held(suspects, suspects)
                counts = judged.count(held, rows)
                unfit = misfits.count if misfits else 0
                commits: dict[TableName, Commit] = {}
                box = quarantine_of(work, entity, fit.columns, judged.upstream, needed=counts.quarantined + unfit > 0)
                if box is not None:
                    broken = judged.broken(held, quarantine.BATCH_COLUMNS, quarantine.params(plan))
                    broken = with_misfits(engine, padded(engine, broken, box.schema), misfits, plan)
                    commits[entity.table.quarantine] = engine.append(box, broken, plan.as_number)
                commits[entity.table] = stage.commit(plan.as_number)
    except BaseException:
        stage.discard()
        raise
    return counts.outcome(plan, commits, unfit)
