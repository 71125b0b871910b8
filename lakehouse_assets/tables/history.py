"""Tables with history: events become facts in a log, and the log becomes an SCD1 or SCD2 table and its quarantine.

A batch is added to the log under the number of its feed; quarantine and target follow the log (`history_derive.py`).
So a kill between the three is mended by whoever runs next, and several feeds, corrections and rewinds all end in the
same place: in facts.
What does not belong here: what a fact is (`history_log.py`), what a target is made of (`history_shape.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from lakehouse_assets.engines.base import Relation
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import IncarnationChanged
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.sources.base import Notice
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.tables import conformed, history_derive, history_log, history_snapshots, landed, quarantine, view
from lakehouse_assets.tables.base import Draft, Feed, Idle, Outcome, Work, upstream
from lakehouse_assets.tables.history_derive import Derived
from lakehouse_assets.tables.history_events import EFFECTIVE
from lakehouse_assets.tables.history_log import Logged
from lakehouse_assets.tables.history_shape import sequence_of


def lands(entity: Entity) -> bool:
    """Whether events come from a source outside the lake, not from a Delta table."""
    return entity.reads_outside and entity.source_format != "delta"


def draft(work: Work, feed: Feed) -> Draft | Idle:
    """What the next batch would read.

    An upstream table that was rewritten is read again as a whole; what the log has already is not added again.
    """
    changes = feed.entity.apply_changes
    if changes is not None and changes.once and feed.last is not None and not feed.rebuild:
        return Idle()
    drafted = landed.draft(work, feed) if lands(feed.entity) else conformed.draft(work, feed)
    if isinstance(drafted, Idle):
        return drafted
    notices = drafted.notices
    if drafted.mode == "replace" and feed.last is not None and not feed.entity.lakehouse.history.snapshots:
        said = f"{feed.entity.table}: {feed.entity.source} was rewritten and is read again; events count once"
        notices = (*notices, Notice("read_again", said))
    return replace(drafted, mode="history", notices=notices)


def is_another(work: Work, feed: Feed) -> bool:
    """Whether the stream behind a feed is not the one that was read before."""
    try:
        draft(work, feed)
    except IncarnationChanged:
        return True
    return False


def write(work: Work, feed: Feed, plan: Plan) -> Outcome:
    """Add the batch to the log, then let quarantine and target follow.

    Where these are to be made again anyway (`work.remake`) they are, once, when the log is complete (`catch_up`).
    """
    logged = _log(work, feed, plan)
    derived = None if work.remake else history_derive.derive(work, feed.entity)
    return _outcome(work, feed.entity, plan, logged, derived)


def catch_up(work: Work, feeds: Sequence[Entity]) -> Outcome | None:
    """Let quarantine and target follow a log that moved without them: a run was killed, or somebody corrected it.

    With `work.remake` both are made anew from the whole log.
    """
    entity = feeds[0]
    derived = history_derive.derive(work, entity, again=work.remake)
    if derived is None:
        return None
    now = work.clock()
    name = FeedName(str(entity.table), "~derived")
    end = {"log": derived.version}
    plan = Plan(name, derived.version, "history", {}, end, "", run_date=now.date(), planned_at=now, rebuild=work.remake)
    return replace(_outcome(work, entity, plan, None, derived), more=True)


def _log(work: Work, feed: Feed, plan: Plan) -> Logged:
    entity = feed.entity
    add = partial(history_log.append, work, feed, plan, newest=_newest(work, feed))
    snapshots = entity.lakehouse.history.snapshots
    also = history_snapshots.Absent(work, feed).deletes if snapshots else None
    if lands(entity):
        with work.open_source(entity) as source, quarantine.Spool() as misfits:
            source.verify(dict(plan.end), plan.incarnation)
            rows = work.engine.from_arrow(landed.received(work, feed, plan, source, misfits))
            return add(rows, misfits, again=False, also=also)
    from_the_start = plan.start.get("version", conformed.FROM_THE_START) == conformed.FROM_THE_START
    known = from_the_start and feed.last is not None and not snapshots
    return add(_upstream_rows(work, feed, plan), again=True, also=also, known=known)


def _upstream_rows(work: Work, feed: Feed, plan: Plan) -> Relation:
    """The rows of the plan's range: what an upstream table gained, or all that it (or a view) holds."""
    if "view" in plan.recipe:
        return view.result(work, plan.recipe["view"], plan)
    source = conformed.upstream_of(work, feed.entity, int(plan.end["version"]))
    conformed.check_incarnation(feed.entity, plan.incarnation, source.id)
    start = int(plan.start["version"])
    if start == conformed.FROM_THE_START:
        return work.engine.read(source)
    moved = work.engine.changes(source, start)
    if moved.kind == "append" and moved.relation is not None:
        return moved.relation
    return work.engine.read(source) if moved.kind != "none" else work.engine.from_arrow(source.schema.empty_table())


def _newest(work: Work, feed: Feed) -> Any:
    """The newest sequence that the log knows, where the entity has a horizon and orders by a time."""
    log, changes = feed.target, feed.entity.apply_changes
    if feed.entity.lakehouse.horizon_delta is None or log is None or changes is None:
        return None
    column = sequence_of(changes.sequence_by).columns[0]
    kind = log.schema.field(column).type if column in log.schema.names else None
    if kind is None or not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return None  # refused before anything is written
    sql = f"SELECT max(CAST({quoted(column)} AS TIMESTAMP)) AS newest FROM log WHERE {EFFECTIVE}"
    return work.engine.rows(work.engine.query(sql, {"log": work.engine.read(log)}))[0]["newest"]


def _contradictions(work: Work, entity: Entity, derived: Derived) -> tuple[Notice, ...]:
    """What a person should know when events contradict each other now: none of them counts."""
    commit = derived.commits.get(entity.table.quarantine)
    if commit is None or not commit.rows_added:
        return ()
    box = work.engine.read(upstream(work, entity.table.quarantine))
    sql = "SELECT count(*) AS n FROM broken WHERE array_contains(_reasons, 'ambiguous_sequence')"
    count = work.engine.rows(work.engine.query(sql, {"broken": box}))[0]["n"]
    if not count:
        return ()
    said = f"{entity.table}: {count} events contradict each other, so none of them counts: they are in quarantine"
    return (Notice("contradictions", f"{said}; lakehouse quarantine show {entity.table}"),)


def _outcome(work: Work, entity: Entity, plan: Plan, logged: Logged | None, derived: Derived | None) -> Outcome:
    commits = {} if logged is None else {entity.table.changes: logged.commit}
    commits |= derived.commits if derived else {}
    notices: tuple[Notice, ...] = ()
    facts: Mapping[str, Any] = {}
    if derived is not None:
        late = derived.late
        facts = {"touched_keys": derived.touched, "late_keys": late.keys, "closed_rows_changed": late.split}
        facts |= {"oldest_changed": late.since} if late.since else {}
        if late.split:
            said = f"{entity.table}: late events of {late.keys} keys changed {late.split} closed rows"
            notices = (Notice("late_events", said + (f", the oldest since {late.since}" if late.since else "")),)
        notices += _contradictions(work, entity, derived)
    if logged is None:
        return Outcome(plan, commits, notices=notices, facts=facts)
    valid = logged.rows - logged.quarantined - logged.filtered
    return Outcome(
        plan, commits, logged.rows, valid, logged.quarantined, logged.filtered, logged.verdicts, notices, facts=facts
    )
