"""Corrections of a table without a log, as they are kept in `<destination>__corrections`, and how a batch replays them.

The table of corrections is only appended to; each of its rows took one row out of the quarantine and, unless it was
discarded, put one into the target. Both follow it: the number that they carry says which corrections they show.
A row that would be quarantined goes the way of the newest correction of its id instead, whenever it comes.
What belongs here: ids, that table, following it, replaying it. What does not: making corrections
(`corrections_conformed.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa

from lakehouse_assets.engines.base import Engine, Handle, Relation
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.schemas import holds, same_type
from lakehouse_assets.lake.values import Commit, Number
from lakehouse_assets.sql.expand import quoted, text_literal
from lakehouse_assets.sql.scd import EVENT, listed
from lakehouse_assets.sql.types import spark_type
from lakehouse_assets.tables import evolution, quarantine
from lakehouse_assets.tables.base import Feed, Work, check_ours, feeding
from lakehouse_assets.tables.corrections_ids import id_of
from lakehouse_assets.tables.rules import UPSTREAM, Counts, Held, Judged, Recipe

DISCARDED = "discarded"
"""What `_correction` says of a row of which nothing is to come."""
OF = "__event"
"""The id of a quarantined row while it is judged: a name that no column of a table has."""
SAID = (
    pa.field("_columns", pa.list_(pa.field("element", pa.string()))),
    pa.field("_correction", pa.string()),
    pa.field("_corrected_at", pa.timestamp("us", tz="UTC")),
    pa.field("_batch", pa.int64()),
)
"""The columns of a correction beside its id and the target's, of which it has those that `_columns` names."""


def with_ids(work: Work, rows: Relation) -> Relation:
    """Rows of a quarantine with an id of each (`_event`): rows that were received alike share one."""
    columns = work.engine.schema(rows)
    if EVENT in columns.names:  # the rows that are read bring ids of their own
        return rows
    sql = f"SELECT {listed(columns.names)}, {id_of(columns)} AS {EVENT} FROM broken"
    return work.engine.query(sql, {"broken": rows})


def app_of(table: TableName) -> str:
    """The id under which corrections are numbered, and the other tables carry the number up to which they show them."""
    return FeedName(str(table), "~corrections").app_id


def find(work: Work, table: TableName) -> Handle | None:
    """The table of corrections, if there is one."""
    handle = work.engine.find(work.uri(table.corrections))
    if handle is not None:
        check_ours(handle, table.corrections)
    return handle


def behind(work: Work, entity: Entity) -> bool:
    """Whether there are corrections that the target or the quarantine does not show."""
    kept, app = find(work, entity.table), app_of(entity.table)
    if kept is None:
        return False
    sides = (work.engine.find(work.uri(name)) for name in (entity.table, entity.table.quarantine))
    return any(side is not None and side.number(app) < kept.number(app) for side in sides)


def interrupted(work: Work, entity: Entity) -> bool:
    """Whether a batch put rows into the quarantine and did not reach the target yet."""
    box, target = work.engine.find(work.uri(entity.table.quarantine)), work.engine.find(work.uri(entity.table))
    if box is None:
        return False
    apps = [work.feed_name(feed).app_id for feed in feeding(work, entity.table)]
    return any(box.number(app) > (target.number(app) if target is not None else 0) for app in apps)


def follow(work: Work, entity: Entity) -> dict[TableName, Commit]:
    """Let quarantine and target show every correction; what they show already is left alone.

    While a batch is interrupted nothing is done: whoever makes it good calls this again.

    Raises:
        ConcurrentWriter: somebody else wrote meanwhile; nothing is lost, and calling again goes on.
    """
    table, engine = entity.table, work.engine
    kept, app = find(work, table), app_of(table)
    if kept is None or interrupted(work, entity):
        return {}
    target, box = engine.find(work.uri(table)), engine.find(work.uri(table.quarantine))
    if target is None:
        return {}
    number, commits = Number(app, kept.number(app)), dict[TableName, Commit]()
    if box is not None and box.number(app) < number.value:
        said = _since(engine, kept, box.number(app))
        commits[table.quarantine] = engine.replace(box, _without(work, box, said), number)
    if target.number(app) < number.value:
        said = _since(engine, kept, target.number(app))
        rows = engine.query(f"SELECT * FROM said WHERE _correction <> '{DISCARDED}'", {"said": said})
        commits[table] = engine.append(target, fitted(engine, rows, target.schema), number)
    return commits


def _since(engine: Engine, kept: Handle, number: int) -> Relation:
    return engine.query(f"SELECT * FROM kept WHERE _batch > {number:d}", {"kept": engine.read(kept)})


def _without(work: Work, box: Handle, said: Relation) -> Relation:
    """The quarantine without as many rows of each id as were corrected: the oldest ones, of which all are alike."""
    columns = listed(box.schema.names)
    numbered = f"SELECT *, row_number() OVER (PARTITION BY {EVENT} ORDER BY _batch) AS __n FROM stored"
    taken = f"SELECT {EVENT} AS {OF}, count(*) AS __taken FROM said GROUP BY {EVENT}"
    sql = f"SELECT {columns} FROM ({numbered}) AS q LEFT JOIN ({taken}) AS t ON q.{EVENT} = t.{OF} "
    sql += "WHERE __taken IS NULL OR __n > __taken"
    return work.engine.query(sql, {"stored": with_ids(work, work.engine.read(box)), "said": said})


def fitted(engine: Engine, rows: Relation, columns: pa.Schema) -> Relation:
    """Rows in exactly these columns; NULL where they lack one, or hold in it what it does not."""
    have = {f.name.lower(): f for f in engine.schema(rows)}
    items = [f"{_fitting(have.get(f.name.lower()), f.type)[0]} AS {quoted(f.name)}" for f in columns]
    return engine.query(f"SELECT {', '.join(items)} FROM rows", {"rows": rows})


def _fitting(have: pa.Field | None, wanted: pa.DataType, of: str = "") -> tuple[str, str]:
    """The SQL of a column as another type, and the condition that its value fits."""
    if have is None:
        return evolution.as_sql("", None, wanted), "true"
    sql = of + quoted(have.name)
    if same_type(have.type, wanted) or holds(wanted, have.type):
        return evolution.as_sql(sql, have.type, wanted), "true"
    plain = not pa.types.is_nested(wanted) and not pa.types.is_binary(wanted)
    if plain and (pa.types.is_string(have.type) or pa.types.is_integer(have.type)):
        tried = f"TRY_CAST({sql} AS {spark_type(wanted)})"
        return tried, f"({sql} IS NULL OR {tried} IS NOT NULL)"
    return evolution.as_sql("", None, wanted), f"{sql} IS NULL"


def breaking(judged: Judged) -> dict[str, str]:
    """The flags that keep a corrected row where it is -> the reasons that they are."""
    failing = {name for action, name, _ in judged.recipe.listed() if action == "expect_all_or_fail"}
    deciding = judged.deciding()
    return {flag: name for flag, name in judged.reasons().items() if flag in deciding or name in failing}


@dataclass(frozen=True)
class Split:
    """The rows of a batch as they go to the tables: its plan says, too, which corrections these show then."""

    plan: Plan
    counts: Counts
    valid: Relation
    broken: Callable[[], Relation]


@contextmanager
def replayed(work: Work, feed: Feed, plan: Plan, judged: Judged, held: Held, counts: Counts) -> Iterator[Split]:
    """The rows of a batch, those with a correction corrected if they keep the rules of the batch then.

    Args:
        counts: of the rows as they were judged; those of the answer count a corrected row as valid, and a discarded
            one as dropped.
    """

    def broken() -> Relation:
        return judged.broken(held, quarantine.BATCH_COLUMNS, quarantine.params(plan))

    valid = judged.valid(held, counts)
    anew = plan.mode == "replace" or _is_empty(work, feed)
    concerned = feed.entity.kind == "conformed" and (anew or counts.quarantined > 0)
    kept = find(work, feed.entity.table) if concerned else None
    if kept is None:
        yield Split(plan, counts, valid, broken)
        return
    known = _known(work, feed, plan, kept)
    marked = replace(plan, also={**plan.also, **_marks(plan, known, anew)})
    if not counts.quarantined:
        yield Split(marked, counts, valid, broken)
        return
    with _corrected(work, judged, broken(), kept, known) as made:
        after = replace(
            counts,
            quarantined=counts.quarantined - made.corrected - made.discarded,
            dropped=counts.dropped + made.discarded,
        )
        columns = listed(judged.schema.names)
        both = f"SELECT {columns} FROM valid UNION ALL SELECT {columns} FROM woven"
        whole = work.engine.query(both, {"valid": valid, "woven": made.woven}) if made.corrected else valid
        yield Split(marked, after, whole, lambda: made.left)


@dataclass(frozen=True)
class _Corrected:
    """Quarantined rows of a batch by what was said about them: those that are woven in, and those that are left."""

    woven: Relation
    left: Relation
    corrected: int
    discarded: int


@contextmanager
def _corrected(work: Work, judged: Judged, broken: Relation, kept: Handle, known: int) -> Iterator[_Corrected]:
    engine = work.engine
    columns = engine.schema(broken).names
    with ExitStack() as opened:
        rows = opened.enter_context(engine.held(with_ids(work, broken)))
        said = _newest(engine, kept, known, rows)
        mended = opened.enter_context(engine.held(_mended(engine, judged, rows, said)))
        gone = opened.enter_context(engine.held(_gone(engine, said)))
        relations = {"rows": rows, "mended": mended, "gone": gone}
        on_mended, on_gone = f"q.{EVENT} = m.{OF}", f"q.{EVENT} = g.{OF}"
        own = listed(judged.schema.names, "m.")
        woven = engine.query(f"SELECT {own} FROM rows AS q JOIN mended AS m ON {on_mended}", relations)
        out = engine.query(f"SELECT q.{EVENT} FROM rows AS q LEFT SEMI JOIN gone AS g ON {on_gone}", relations)
        left = f"SELECT q.* FROM rows AS q LEFT ANTI JOIN mended AS m ON {on_mended}"
        left = f"SELECT {listed(columns)} FROM ({left}) AS q LEFT ANTI JOIN gone AS g ON {on_gone}"
        yield _Corrected(woven, engine.query(left, relations), count(engine, woven), count(engine, out))


def _is_empty(work: Work, feed: Feed) -> bool:
    """Whether no batch of any feed was written to the target yet."""
    target = feed.target
    return target is None or not any(
        target.number(work.feed_name(entity).app_id) for entity in feeding(work, feed.entity.table)
    )


def _known(work: Work, feed: Feed, plan: Plan, kept: Handle) -> int:
    """The newest correction that the batch knows; a replay knows those that its quarantine was made with."""
    box = work.engine.find(work.uri(feed.entity.table.quarantine))
    if box is not None and box.number(plan.feed.app_id) >= plan.number:
        return box.number(_known_app(plan))
    return kept.number(app_of(feed.entity.table))


def _known_app(plan: Plan) -> str:
    return FeedName(plan.feed.destination, "~known", plan.feed.feed).app_id


def _marks(plan: Plan, known: int, anew: bool) -> dict[str, int]:
    """The numbers that the commits of a batch carry: what it knew, and what tables that start over show then."""
    if not known:
        return {}
    return {_known_app(plan): known} | ({FeedName(plan.feed.destination, "~corrections").app_id: known} if anew else {})


def _newest(engine: Engine, kept: Handle, known: int, rows: Relation) -> Relation:
    """The newest correction of each id among the rows."""
    ranked = (
        f"SELECT *, row_number() OVER (PARTITION BY {EVENT} ORDER BY _batch DESC) AS __n FROM kept "
        f"WHERE _batch <= {known:d}"
    )
    columns = listed(kept.schema.names, "c.")
    sql = f"SELECT {columns} FROM (SELECT * FROM ({ranked}) AS r WHERE __n = 1) AS c "
    sql += f"LEFT SEMI JOIN rows AS q ON c.{EVENT} = q.{EVENT}"
    return engine.query(sql, {"kept": engine.read(kept), "rows": rows})


def _gone(engine: Engine, said: Relation) -> Relation:
    return engine.query(f"SELECT {EVENT} AS {OF} FROM said WHERE _correction = '{DISCARDED}'", {"said": said})


def _mended(engine: Engine, judged: Judged, rows: Relation, said: Relation) -> Relation:
    """Corrected rows, one for each id (`OF`), in the columns of the batch: those that keep its rules."""
    have = {f.name.lower(): f for f in engine.schema(said)}
    unmade = judged.recipe.unmade(judged.schema.names)
    fits = [(f.name, *_column(have.get(f.name.lower()), f, unmade[f.name])) for f in judged.schema]
    items = [f"{sql} AS {quoted(name)}" for name, sql, _ in fits]
    items += [f"c.{EVENT} AS {OF}", f"q.{UPSTREAM}"]
    one = f"SELECT *, row_number() OVER (PARTITION BY {EVENT} ORDER BY _batch) AS __n FROM rows"
    sql = (
        f"SELECT {', '.join(items)} FROM said AS c JOIN (SELECT * FROM ({one}) AS n WHERE __n = 1) AS q "
        f"ON c.{EVENT} = q.{EVENT} WHERE c._correction <> {text_literal(DISCARDED)} AND "
        + " AND ".join(condition for *_, condition in fits)
    )
    again = Judged(engine, rules_only(judged.recipe), engine.query(sql, {"said": said, "rows": rows}))
    keeps = f"NOT ({' OR '.join(breaking(again)) or 'false'})"
    sql = f"SELECT {listed([*judged.schema.names, OF])} FROM judged WHERE {keeps}"
    return engine.query(sql, {"judged": again.relation})


def _column(have: pa.Field | None, wanted: pa.Field, unmade: Sequence[str]) -> tuple[str, str]:
    """A column of a corrected row `c`, and the condition that it has one.

    What the correction does not know, because the select list has gained it since, is as received (`q`).
    """
    made = f"q.{quoted(wanted.name)}"
    made_fits = " AND ".join(f"NOT array_contains(q._reasons, {text_literal(reason)})" for reason in unmade)
    if have is None:
        return made, made_fits
    sql, fits = _fitting(have, wanted.type, "c.")
    known = f"array_contains(c._columns, {text_literal(wanted.name.lower())})"
    return f"CASE WHEN {known} THEN {sql} ELSE {made} END", f"CASE WHEN {known} THEN {fits} ELSE {made_fits} END"


def rules_only(recipe: Recipe, select: tuple[str, ...] = ()) -> Recipe:
    """The recipe that judges corrected rows."""
    return replace(recipe, select=select, rescue=False)


def count(engine: Engine, rows: Relation) -> int:
    """How many rows there are."""
    return int(engine.rows(engine.query("SELECT count(*) AS n FROM rows", {"rows": rows}))[0]["n"])
