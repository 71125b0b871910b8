"""Corrections, retractions and rewinds of a table with history: facts that are appended to its log.

What belongs here: which events are meant, and the facts about them. What does not: tables without a log
(`corrections_conformed.py`), reading what is given (`corrections_given.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from lakehouse_assets.engines.base import Handle, Relation
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import SettingsError
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.values import Commit
from lakehouse_assets.sql.expand import quoted, text_literal
from lakehouse_assets.sql.scd import EVENT, listed, not_before
from lakehouse_assets.sql.types import spark_type
from lakehouse_assets.tables import history_derive
from lakehouse_assets.tables.base import Work, feeding, upstream
from lakehouse_assets.tables.corrections_given import (
    Asked,
    Requeued,
    Rewound,
    assignments,
    from_file,
    patched,
    read_corrections,
)
from lakehouse_assets.tables.history_events import History, revised
from lakehouse_assets.tables.history_log import REFERS, Facts, of_taken
from lakehouse_assets.tables.history_shape import event_columns, sequence_of
from lakehouse_assets.tables.rows import padded, together
from lakehouse_assets.tables.rules import FAILED, MALFORMED, UPSTREAM, Judged, Recipe

FEED = "~corrections"
"""The feed under which the log numbers what people say."""
MOST_NAMED = 1000
"""Rows that are named when they are still broken."""


def requeue(work: Work, table: TableName, asked: Asked, *, dry_run: bool) -> Requeued:
    """See `corrections.requeue`."""
    engine, entity = work.engine, feeding(work, table)[0]
    history_derive.derive(work, entity)
    log, box = upstream(work, table.changes), upstream(work, table.quarantine)
    given = read_corrections(asked.file) if asked.file else None
    ids = tuple(given.column(EVENT).to_pylist()) if given is not None else asked.ids
    with _chosen(work, table, box, ids, asked.rule) as (rows, unchanged):
        feeds = [row["_feed"] for row in engine.rows(engine.query("SELECT DISTINCT _feed FROM rows", {"rows": rows}))]
        plan = _plan(work, table, log)
        said, broken, count, woven = [], list[dict[str, Any]](), 0, 0
        for feed in feeds:
            own = engine.query(f"SELECT * FROM rows WHERE _feed = {text_literal(feed)}", {"rows": rows})
            with engine.held(_corrected(work, _feeder(work, table, feed), plan, log, own, asked, given)) as facts:
                kept = engine.query("SELECT * FROM facts WHERE size(_reasons) = 0", {"facts": facts})
                still = engine.query("SELECT * FROM facts WHERE size(_reasons) > 0", {"facts": facts})
                broken += [{**row, EVENT: row["_refers"]} for row in engine.rows(still, MOST_NAMED)]
                count += _count(work, facts)
                said.append(_both(work, log, kept, own).read_all())
                woven += _count(work, kept)
        if dry_run or not woven:
            return Requeued(count + unchanged, woven, tuple(broken), unchanged)
        relation = engine.from_arrow(pa.concat_tables(said))
        commits = {table.changes: engine.append(log, relation, plan.as_number)}
    derived = history_derive.derive(work, entity)
    commits |= derived.commits if derived else {}
    conflicting = _contradicting(work, table, plan)
    return Requeued(count + unchanged, woven - len(conflicting), (*broken, *conflicting), unchanged, commits)


def _contradicting(work: Work, table: TableName, plan: Plan) -> list[dict[str, Any]]:
    """Corrections of this batch that contradict another event."""
    box = work.engine.read(upstream(work, table.quarantine))
    mine = f"_feed = {text_literal(FEED)} AND _batch = {plan.number:d}"
    return work.engine.rows(work.engine.query(f"SELECT * FROM box WHERE {mine}", {"box": box}), MOST_NAMED)


def _plan(work: Work, table: TableName, log: Handle) -> Plan:
    """The batch of the log under which something is said; unlike others it is made good in one commit."""
    name, now = FeedName(str(table), FEED), work.clock()
    return Plan(name, log.number(name.app_id) + 1, "history", {}, {}, "", run_date=now.date(), planned_at=now)


def _feeder(work: Work, table: TableName, feed: str) -> Entity:
    """The entity whose rules judge the rows of a feed; corrected rows are judged by those of the first one."""
    feeds = feeding(work, table)
    return next((entity for entity in feeds if entity.feed == feed), feeds[0])


@contextmanager
def _chosen(
    work: Work, table: TableName, box: Handle, ids: Sequence[str], rule: str | None
) -> Iterator[tuple[Relation, int]]:
    """The quarantined rows that are meant, held, and how many of the ids left the quarantine before."""
    conditions = [f"array_contains(_reasons, {text_literal(rule)})"] if rule else []
    found, gone = resolve_ids(work, table, box, ids)
    if ids:
        listed_ids = ", ".join(map(text_literal, found)) or "''"
        conditions.append(f"{EVENT} IN ({listed_ids})")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = work.engine.query(f"SELECT * FROM box{where}", {"box": work.engine.read(box)})
    with work.engine.held(rows) as held:
        yield held, gone


def resolve_ids(work: Work, table: TableName, box: Handle, ids: Sequence[str]) -> tuple[list[str], int]:
    """The ids in quarantine that some texts begin, and how many of these are known but not in quarantine any more.

    Raises:
        SettingsError: no event has such an id, or several begin like that.
    """
    engine = work.engine
    there = [r[EVENT] for r in engine.rows(engine.query(f"SELECT {EVENT} FROM box", {"box": engine.read(box)}))]
    found, gone = list[str](), 0
    for text in dict.fromkeys(ids):
        near = [text] if text in there else [known for known in there if text and known.startswith(text)]
        if len(near) > 1:
            raise SettingsError(
                f"several rows in the quarantine of {table} have ids that begin with {text!r}",
                value=text, choices=near[:10], fix="give more of the id",
            )  # fmt: skip
        if near:
            found.append(near[0])
        elif _in_log(work, table, text):
            gone += 1
        else:
            raise SettingsError(
                f"no row in the quarantine of {table} has this id", value=text, choices=there[:10],
                fix=f"see them: lakehouse quarantine show {table}",
            )  # fmt: skip
    return found, gone


def _in_log(work: Work, table: TableName, event: str) -> bool:
    log = work.engine.read(upstream(work, table.changes))
    sql = f"SELECT count(*) AS n FROM log WHERE {EVENT} = {text_literal(event)}"
    return bool(work.engine.rows(work.engine.query(sql, {"log": log}))[0]["n"])


def _corrected(
    work: Work, entity: Entity, plan: Plan, log: Handle, rows: Relation, asked: Asked, given: pa.Table | None
) -> Relation:
    """Facts of corrected rows, with the verdicts of today's rules; `_refers` names the event of each."""
    engine, recipe = work.engine, Recipe.of(entity)
    columns = event_columns(log.schema.names)
    if given is not None:
        base, origin = from_file(work, log.schema, rows, given), f"correction from {asked.file.name}"  # type: ignore[union-attr]
    elif asked.patch:
        base, origin = patched(work, columns, rows, asked.patch), "correction: " + "; ".join(asked.patch)
    else:
        received = engine.schema(rows).field(UPSTREAM).type
        items = [f"{UPSTREAM}.{quoted(f.name)} AS {quoted(f.name)}" for f in received] + [f"{EVENT} AS {REFERS}"]
        base = engine.query(f"SELECT {', '.join(items)} FROM rows WHERE {UPSTREAM} IS NOT NULL", {"rows": rows})
        origin = "judged again"
        if recipe.select:
            judged = Judged(engine, of_taken(recipe), base)
            return _facts(work, entity, plan, judged, origin)
    facts = _facts(work, entity, plan, Judged(engine, of_taken(replace(recipe, select=())), base), origin)
    if given is None and not asked.patch:
        return facts
    said = given.schema.names if given is not None else list(assignments(asked.patch, columns))
    lower = {name.lower() for name in said}
    made = [FAILED + name for name in columns if name.lower() in lower]
    made += [reason for reason, names in recipe.texts().items() if lower.issuperset(names)]
    return _with_failed_casts(work, facts, rows, made)


def _with_failed_casts(work: Work, facts: Relation, rows: Relation, made: Sequence[str]) -> Relation:
    """Corrected facts, of which a value that could not be had and that nobody gave is still missing."""
    given = [f"reason <> {text_literal(reason)}" for reason in made]
    left = " AND ".join([f"(reason LIKE '{FAILED}%' OR reason LIKE '{MALFORMED}%')", *given])
    names = work.engine.schema(facts).names
    items = [
        "CASE WHEN size(f._reasons) = 0 THEN r._left ELSE f._reasons END AS _reasons"
        if name == "_reasons"
        else f"f.{quoted(name)}"
        for name in names
    ]
    sql = (
        f"SELECT {', '.join(items)} FROM facts AS f JOIN (SELECT {EVENT}, filter(_reasons, reason -> {left}) AS _left "
        f"FROM rows) AS r ON f._refers = r.{EVENT}"
    )
    return work.engine.query(sql, {"facts": facts, "rows": rows})


def _facts(work: Work, entity: Entity, plan: Plan, judged: Judged, origin: str) -> Relation:
    recorded = replace(plan, recipe=judged.recipe.record())
    order = sequence_of(recorded.recipe["changes"]["sequence_by"])
    made = Facts(work, entity, recorded, judged, order, kind="correction", origin=origin)
    with judged.held(again=True) as held:
        return made.relation(held)


def _both(work: Work, log: Handle, kept: Relation, rows: Relation) -> pa.RecordBatchReader:
    """Corrections, and for each what it says about the event that it takes the place of."""
    engine = work.engine
    own = [name for name in engine.schema(kept).names if name != UPSTREAM]
    corrections = padded(engine, engine.query(f"SELECT {listed(own)} FROM kept", {"kept": kept}), log.schema)
    about = _about(
        work, log, rows, "corrected", "SELECT _refers AS _event, _feed, _batch, _origin, _logged FROM kept", kept
    )
    return engine.batches(together(engine, corrections, about))


def _about(work: Work, log: Handle, rows: Relation, fact: str, said: str, kept: Relation) -> Relation:
    """Facts that speak of the events in `rows`, under their keys and sequences.

    Args:
        said: the SQL that gives `_event` and the batch under which it is said, over `kept`.
    """
    engine = work.engine
    have = {f.name.lower(): f.name for f in engine.schema(rows)}
    given = {
        "_fact": text_literal(fact),
        EVENT: f"substring(md5(concat_ws('|', {text_literal(fact)}, r.{EVENT}, CAST(s._batch AS STRING))), 1, 16)",
        "_refers": f"r.{EVENT}",
        "_operation": "r._operation",
        "_filtered": "false",
        "_reasons": "filter(array('none'), reason -> reason <> 'none')",
        "_feed": "s._feed",
        "_batch": "s._batch",
        "_origin": "s._origin",
        "_logged": "s._logged",
    }
    kept_from = [name for name in log.schema.names if not name.startswith("_") or name.startswith("_sequence")]
    given |= {name: f"r.{quoted(have[name.lower()])}" for name in kept_from if name.lower() in have}
    items = [
        f"{given[f.name]} AS {quoted(f.name)}"
        if f.name in given
        else f"CAST(NULL AS {spark_type(f.type)}) AS {quoted(f.name)}"
        for f in log.schema
    ]
    sql = f"SELECT {', '.join(items)} FROM rows AS r JOIN ({said}) AS s ON r.{EVENT} = s.{EVENT}"
    return padded(engine, engine.query(sql, {"rows": rows, "kept": kept}), log.schema)


def discard(work: Work, table: TableName, ids: Sequence[str]) -> Mapping[TableName, Commit]:
    """See `corrections.discard`."""
    entity = feeding(work, table)[0]
    history_derive.derive(work, entity)
    log, box = upstream(work, table.changes), upstream(work, table.quarantine)
    with _chosen(work, table, box, ids, None) as (rows, _):
        if not _count(work, rows):
            return {}
        return _say(work, entity, log, rows, "retracted", "discarded from quarantine")


def _say(work: Work, entity: Entity, log: Handle, rows: Relation, fact: str, why: str) -> dict[TableName, Commit]:
    """Append a fact about each of some events, and let the tables follow."""
    plan = _plan(work, entity.table, log)
    said = (
        f"SELECT DISTINCT {EVENT}, {text_literal(FEED)} AS _feed, CAST({plan.number:d} AS BIGINT) AS _batch, "
        f"{text_literal(why)} AS _origin, CAST(:at AS TIMESTAMP) AS _logged FROM rows"
    )
    spoken = work.engine.query(said, {"rows": rows}, {"at": plan.planned_at})
    facts = _about(work, log, rows, fact, "SELECT * FROM kept", spoken)
    commits = {entity.table.changes: work.engine.append(log, facts, plan.as_number)}
    derived = history_derive.derive(work, entity)
    return commits | (derived.commits if derived else {})


def rewind(
    work: Work, table: TableName, after: Sequence[object] | None, position: str | None, *, undo: bool, dry_run: bool
) -> Rewound:
    """See `corrections.rewind`."""
    entity, engine = feeding(work, table)[0], work.engine
    history_derive.derive(work, entity)
    log = upstream(work, table.changes)
    history = History(work, entity, log)
    params: dict[str, object] = {}
    if after is not None:
        values = pa.Table.from_pylist(
            [dict(zip(history.shape.sequence, after, strict=True))],
            schema=pa.schema([log.schema.field(name) for name in history.shape.sequence]),
        )
        later = not_before(
            [f"f.{quoted(n)}" for n in history.shape.sequence], [f"b.{quoted(n)}" for n in history.shape.sequence],
            strictly=True,
        )  # fmt: skip
        chosen = f"SELECT f.* FROM log AS f JOIN bound AS b ON {later}"
        relations = {"log": history.facts, "bound": engine.from_arrow(values)}
    else:
        chosen = f"SELECT f.* FROM log AS f WHERE {_read_after(work, table, position or '')}"
        relations = {"log": history.facts}
    gone = f"SELECT {EVENT} FROM ({revised('log')}) AS revised WHERE __fate = 'retracted'"
    join = "LEFT SEMI JOIN" if undo else "LEFT ANTI JOIN"
    facts = "_fact IN ('event', 'correction')"
    sql = f"SELECT f.* FROM (SELECT * FROM ({chosen}) AS f WHERE {facts}) AS f {join} ({gone}) AS g "
    sql += f"ON f.{EVENT} = g.{EVENT}"
    with engine.held(engine.query(sql, relations, params)) as rows:
        keys = listed(history.shape.keys)
        counts = engine.rows(engine.query(
            f"SELECT count(*) AS n FROM (SELECT DISTINCT {keys} FROM rows) AS keys", {"rows": rows}
        ))[0]["n"]  # fmt: skip
        events = _count(work, rows)
        if dry_run or not events:
            return Rewound(events, counts)
        why = f"rewind after {position if after is None else ', '.join(map(str, after))}"
        commits = _say(work, entity, log, rows, "restored" if undo else "retracted", why)
    return Rewound(events, counts, commits)


def _read_after(work: Work, table: TableName, position: str) -> str:
    """The condition that a fact was read after a position, in a batch of any feed of the table.

    Raises:
        SettingsError: no batch began or ended there.
    """
    names = [work.feed_name(entity) for entity in feeding(work, table)]
    ledger = work.book.open(*names)
    try:
        wanted = json.loads(position)
    except ValueError:
        wanted = position
    conditions, choices = [], dict[str, None]()
    for name in names:
        for plan in ledger.history(name):
            for at, least in ((plan.start, plan.number), (plan.end, plan.number + 1)):
                shown = next(iter(at.values())) if len(at) == 1 else dict(at)
                choices[json.dumps(shown)] = None
                if wanted in (shown, dict(at)):
                    conditions.append(f"(f._feed = {text_literal(name.feed)} AND f._batch >= {least:d})")
    if not conditions:
        raise SettingsError(
            f"no batch of {table} began or ended at this position", value=position, choices=list(choices)[:20],
            fix="give a position at which a batch began or ended",
        )  # fmt: skip
    return " OR ".join(conditions)


def _count(work: Work, rows: Relation) -> int:
    return int(work.engine.rows(work.engine.query("SELECT count(*) AS n FROM rows", {"rows": rows}))[0]["n"])
