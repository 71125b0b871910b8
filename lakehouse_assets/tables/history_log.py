"""The log of a table with `apply_changes`: what a batch of received rows says, as facts that are only ever appended.

A fact is an event with its operation, its sequence, where it came from, and the verdicts on it, evaluated when it came.
What became of it is not in the log: later facts can change that (`history_derive.py`).
What belongs here: from received rows to facts. What does not: the target, plans.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pyarrow as pa

from lakehouse_assets.engines.base import Engine, Handle, Relation
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import ExpectationFailed, SchemaDrift
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.values import Commit
from lakehouse_assets.sql.expand import quoted, text_literal
from lakehouse_assets.sql.scd import ambiguous, same_keys
from lakehouse_assets.sql.types import spark_type
from lakehouse_assets.tables import evolution, history_derive, quarantine
from lakehouse_assets.tables.base import Feed, Verdict, Work, ensure
from lakehouse_assets.tables.history_events import History
from lakehouse_assets.tables.history_shape import (
    Order,
    check_sequence,
    event_columns,
    has_map,
    is_fact,
    is_sequence,
    sequence_of,
)
from lakehouse_assets.tables.rows import padded, together
from lakehouse_assets.tables.rules import UPSTREAM, Held, Judged, Recipe

Also = Callable[[Relation, list[str], list[str]], Relation]
"""Facts, their keys and the columns of their sequence -> more facts."""
REFERS = "__refers"
"""The column of a corrected row that names the event which it takes the place of."""
NULL_KEY, NULL_SEQUENCE, BEYOND_HORIZON = "null_key", "null_sequence", "beyond_horizon"
_TEXTLESS = (pa.types.is_nested, pa.types.is_floating, pa.types.is_binary)
"""Types whose values have no text that both engines share."""


@dataclass(frozen=True)
class Logged:
    """What a batch added to the log."""

    commit: Commit
    rows: int
    quarantined: int
    filtered: int
    verdicts: tuple[Verdict, ...]


def append(
    work: Work,
    feed: Feed,
    plan: Plan,
    rows: Relation,
    misfits: quarantine.Spool | None = None,
    *,
    again: bool,
    newest: object = None,
    also: Also | None = None,
    known: bool = False,
) -> Logged:
    """Judge received rows by the plan's recipe and append them to the log, in the one commit that has its number.

    Args:
        misfits: rows that did not fit their columns, filled while `rows` is read.
        again: whether `rows` may be read several times.
        newest: the newest sequence that the log knew before, where the entity has a horizon.
        also: makes further facts out of those of the rows.
        known: the log may have events among these already: these are left out.

    Raises:
        ExpectationFailed: a row broke a rule that stops the run; nothing was written.
        SchemaDrift: the columns of the events do not fit those of the log; nothing was written.
    """
    engine, entity = work.engine, feed.entity
    judged = Judged(engine, of_taken(Recipe.recorded(plan.recipe)), rows)
    order = sequence_of(plan.recipe["changes"]["sequence_by"])
    with judged.held(again=again) as held:
        counts = judged.count(held)
        said = Facts(work, entity, plan, judged, order, newest=newest)
        facts = said.relation(held)
        columns = _columns(feed, plan, engine.schema(facts), order)
        if not work.remake:
            history_derive.check(work, entity, columns)
        if also is not None:
            facts = together(
                engine, facts, padded(engine, also(facts, said.keys, list(order.columns)), engine.schema(facts))
            )
        if misfits is not None and misfits.count:
            facts = together(engine, padded(engine, facts, columns), _misfit_facts(work, plan, misfits, columns))
        log = open_log(work, entity, columns)
        if known:
            facts = _unknown(engine, padded(engine, facts, log.schema), log, said)
        check_invalid(work, entity, facts, log)
        commit = engine.append(log, padded(engine, facts, log.schema), plan.as_number)
    fates = "count_if(NOT _filtered AND size(_reasons) > 0) AS quarantined, count_if(_filtered) AS filtered"
    mine = f"_feed = {text_literal(plan.feed.feed)} AND _batch = {plan.number:d}"
    found = engine.changes(_fresh(work, entity), log.version).relation
    row = {"n": 0, "quarantined": 0, "filtered": 0}
    if found is not None:
        row = engine.rows(engine.query(f"SELECT count(*) AS n, {fates} FROM log WHERE {mine}", {"log": found}))[0]
    return Logged(commit, row["n"], row["quarantined"], row["filtered"], counts.verdicts)


def of_taken(recipe: Recipe) -> Recipe:
    """The recipe with rules that an event keeps if the table does not take it at all (`where`)."""
    where = (recipe.changes or {}).get("where")
    if not where:
        return recipe
    taken = {
        action: {name: f"NOT coalesce({where}, false) OR ({sql})" for name, sql in rules.items()}
        for action, rules in (recipe.rules or {}).items()
    }
    return replace(recipe, rules=taken)


def _fresh(work: Work, entity: Entity) -> Handle:
    handle = work.engine.find(work.uri(entity.table.changes))
    assert handle is not None, "the log was there a moment ago"
    return handle


def _unknown(engine: Engine, facts: Relation, log: Handle, said: Facts) -> Relation:
    """The facts whose events the log does not have yet."""
    comparable = [name for name in said.columns if not has_map(said.judged.schema.field(name).type)]
    same = " AND ".join(f"n.{quoted(name)} <=> l.{quoted(name)}" for name in (*comparable, "_operation", "_feed"))
    sql = f"SELECT n.* FROM facts AS n LEFT ANTI JOIN log AS l ON {same} AND l._fact = 'event'"
    return engine.query(sql, {"facts": facts, "log": engine.read(log)})


def open_log(work: Work, entity: Entity, columns: pa.Schema) -> Handle:
    """The log, made if it is not there, widened if events have new columns."""
    sequence = [name for name in columns.names if name.startswith("_sequence")]
    skipping = [*entity.primary_keys, *sequence, "_fact", "_feed", "_batch"]
    return ensure(work, entity, entity.table.changes, columns, change_feed=False, indexed=skipping)


def _columns(feed: Feed, plan: Plan, found: pa.Schema, order: Order) -> pa.Schema:
    """The columns of the log after this batch."""
    table = feed.entity.table
    check_sequence(table, [found.field(name) for name in order.columns])
    _check_horizon(feed.entity, found.field(order.columns[0]).type)
    kept = None if feed.target is None else feed.target.schema
    if kept is not None:
        _check_order(feed.entity, found, kept, order)
    return evolution.settle(found, kept, evolution.mode_of(feed, plan), table.changes).columns


def _check_horizon(entity: Entity, kind: pa.DataType) -> None:
    """Raise `SchemaDrift` if events have to be younger than a duration, and are ordered by no time."""
    if entity.lakehouse.horizon and not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise SchemaDrift(
            f"{entity.table}: a horizon needs a sequence that is a time, and sequence_by is {spark_type(kind)}",
            value=spark_type(kind),
            choices=("TIMESTAMP", "DATE"),
            fix="order by a time, or remove lakehouse: {horizon: …}",
        )


def _check_order(entity: Entity, found: pa.Schema, kept: pa.Schema, order: Order) -> None:
    """Raise `SchemaDrift` if events are ordered by something of another type than those in the log."""
    old = [field for field in kept if is_sequence(field.name)]
    new = [found.field(name) for name in order.columns]
    if [f.name for f in old] == [f.name for f in new] and all(a.type == b.type for a, b in zip(old, new, strict=True)):
        return
    was, now = (", ".join(spark_type(field.type) for field in fields) for fields in (old, new))
    raise SchemaDrift(
        f"{entity.table}: the sequence is {now} now, and the events in the log are ordered by {was} "
        "(SEQUENCING_TYPE_DRIFT)",
        value=now,
        choices=(was,),
        fix=f"order the events in the log anew and make the table again: lakehouse run --full-refresh {entity.table}; "
        "or cast the new sequence to the type of the old one in sequence_by",
        code="SEQUENCING_TYPE_DRIFT",
    )


class Facts:
    """The SQL that makes facts out of judged rows.

    Attributes:
        keys: the key columns, as the rows spell them.
    """

    def __init__(
        self,
        work: Work,
        entity: Entity,
        plan: Plan,
        judged: Judged,
        order: Order,
        *,
        newest: object = None,
        kind: str = "event",
        origin: str | None = None,
    ) -> None:
        self.work, self.entity, self.plan, self.judged, self.order = work, entity, plan, judged, order
        self.newest, self.kind, self.origin = newest, kind, origin
        self.changes = plan.recipe["changes"]
        clash = [name for name in event_columns(judged.schema.names) if name.lower() in _reserved()]
        clash += [name for name in judged.schema.names if is_fact(name) and name != UPSTREAM]
        if clash:
            raise SchemaDrift(
                f"{self.entity.table}: the events have a column {clash[0]!r}, which is a name of the log's own",
                value=clash[0],
                fix=f"rename it in select_expr: `{clash[0]}` AS something_else",
            )
        self.columns = [name for name in event_columns(judged.schema.names) if name != REFERS]
        have = {name.lower(): name for name in self.columns}
        missing = [key for key in self.entity.primary_keys if key.lower() not in have]
        if missing:
            raise SchemaDrift(
                f"{self.entity.table}: primary_keys names the column {missing[0]!r}, which its events do not have",
                value=missing[0],
                choices=self.columns,
                fix="name one of these, or select it in select_expr",
            )
        self.keys = [have[key.lower()] for key in self.entity.primary_keys]

    def relation(self, held: Held) -> Relation:
        """The facts of the rows that are held."""
        engine = self.work.engine
        own = ", ".join(quoted(name) for name in self.columns)
        evaluated = f"SELECT {own}, {UPSTREAM}, {self._evaluated()} FROM judged"
        reasons = f"SELECT *, {self._reasons()} AS _reasons FROM ({evaluated}) AS evaluated"
        sequence = ", ".join(quoted(name) for name in self.order.columns)
        sql = (
            f"SELECT {own}, {text_literal(self.kind)} AS _fact, {self._id()} AS _event, {self._refers()} AS _refers, "
            f"_operation, "
            f"{sequence}, _filtered, _reasons, CASE WHEN size(_reasons) > 0 THEN {UPSTREAM} END AS {UPSTREAM}, "
            f"CAST(NULL AS STRING) AS _raw, {text_literal(self.plan.feed.feed)} AS _feed, "
            f"CAST(:batch AS BIGINT) AS _batch, {self._origin()} AS _origin, CAST(:planned_at AS TIMESTAMP) AS _logged "
            f"FROM ({reasons}) AS reasoned"
        )
        params = {**quarantine.params(self.plan), **({} if self.newest is None else {"newest": self.newest})}
        return engine.query(sql, {"judged": held.rows}, params)

    def _evaluated(self) -> str:
        """The operation, the sequence, and whether the entity takes the event, each evaluated once."""
        truncates, deletes, where = (self.changes[n] for n in ("apply_as_truncates", "apply_as_deletes", "where"))
        cases = [f"WHEN {sql} THEN '{name}'" for sql, name in ((truncates, "truncate"), (deletes, "delete")) if sql]
        operation = f"CASE {' '.join(cases)} ELSE 'upsert' END" if cases else "'upsert'"
        filtered = f"NOT coalesce({where}, false)" if where else "false"
        parts = [f"{sql} AS {quoted(c)}" for sql, c in zip(self.order.expressions, self.order.columns, strict=True)]
        flags = [f"{flag} AS {flag}" for flag in self.judged.flags()]
        return ", ".join(
            [f"{operation} AS _operation", f"{filtered} OR ({self.judged.dropped()}) AS _filtered", *parts, *flags]
        )

    def _reasons(self) -> str:
        named = self.judged.reasons()
        cases = [(flag, named[flag]) for flag in self.judged.deciding()]
        some = " OR ".join(f"{quoted(key)} IS NULL" for key in self.keys)
        cases.append((f"_operation <> 'truncate' AND ({some})", NULL_KEY))
        cases.append((" AND ".join(f"{quoted(name)} IS NULL" for name in self.order.columns), NULL_SEQUENCE))
        if self.newest is not None and (horizon := self.entity.lakehouse.horizon_delta):
            seconds = int(horizon.total_seconds())
            late = f"CAST({quoted(self.order.columns[0])} AS TIMESTAMP) < :newest - INTERVAL '{seconds}' SECOND"
            cases.append((late, BEYOND_HORIZON))
        items = ", ".join(f"CASE WHEN {when} THEN {text_literal(name)} END" for when, name in cases)
        return f"filter(array({items}), reason -> reason IS NOT NULL)"

    def _id(self) -> str:
        """An id of its own for every fact; copies of a row within a batch may share one."""
        kinds = {name: self.judged.schema.field(name).type for name in self.columns}
        telling = [name for name, kind in kinds.items() if not any(of(kind) for of in _TEXTLESS)]
        texts = [f"coalesce(concat('=', CAST({quoted(name)} AS STRING)), '-')" for name in telling]
        texts += ["_operation", f"coalesce({self._origin()}, '')", f"coalesce({self._refers()}, '')"]
        texts += ["CAST(:batch AS STRING)"]
        whole = f"concat_ws('|', {', '.join([text_literal(self.plan.feed.feed), *texts])})"
        if len(telling) < len(kinds):
            by = ", ".join(map(quoted, telling)) or "_operation"
            whole = (
                f"concat_ws('|', {whole}, CAST(row_number() OVER (PARTITION BY {by} ORDER BY _operation) AS STRING))"
            )
        return f"substring(md5({whole}), 1, 16)"

    def _refers(self) -> str:
        return f"{UPSTREAM}.{quoted(REFERS)}" if REFERS in self.judged.upstream.names else "CAST(NULL AS STRING)"

    def _origin(self) -> str:
        if self.origin is not None:
            return text_literal(self.origin)
        upstream = self.judged.upstream.names
        if "_source" in upstream and "_position" in upstream:
            return f"concat_ws(' ', {UPSTREAM}.`_source`, {UPSTREAM}.`_position`)"
        version = self.plan.end.get("version")
        return text_literal(self.entity.source if version is None else f"{self.entity.source} version {version}")


def _reserved() -> frozenset[str]:
    return frozenset({"_operation", "_reasons"})


def _misfit_facts(work: Work, plan: Plan, misfits: quarantine.Spool, columns: pa.Schema) -> Relation:
    """Rows that did not fit their columns, as facts that are quarantined."""
    engine = work.engine
    received = pa.schema([*quarantine.schema(pa.schema([]), pa.schema([])).remove(1), *_ORIGIN])
    rows = engine.from_arrow(misfits.reader(received, plan))
    given = {
        "_fact": "'event'",
        "_event": "substring(md5(concat_ws('|', _source, _position, _raw, CAST(_batch AS STRING))), 1, 16)",
        "_operation": "'upsert'",
        "_filtered": "false",
        "_reasons": "_reasons",
        "_raw": "_raw",
        "_feed": text_literal(plan.feed.feed),
        "_batch": "_batch",
        "_origin": "concat_ws(' ', _source, _position)",
        "_logged": "_quarantined_at",
    }
    items = (
        f"{given[field.name]} AS {quoted(field.name)}"
        if field.name in given
        else f"CAST(NULL AS {spark_type(field.type)}) AS {quoted(field.name)}"
        for field in columns
    )
    return engine.query(f"SELECT {', '.join(items)} FROM unfit", {"unfit": rows})


_ORIGIN = (pa.field("_source", pa.string()), pa.field("_position", pa.string()))


def check_invalid(work: Work, entity: Entity, facts: Relation, log: Handle) -> None:
    """Raise `ExpectationFailed` if events cannot be sequenced and the entity says that this stops the run."""
    options, changes, engine = entity.lakehouse.history, entity.apply_changes, work.engine
    if changes and changes.apply_as_truncates and changes.stored_as_scd_type == 2 and options.truncates == "refuse":
        sql = "SELECT count(*) AS n FROM facts WHERE _operation = 'truncate' AND NOT _filtered"
        if engine.rows(engine.query(sql, {"facts": facts}))[0]["n"]:
            raise ExpectationFailed(
                f"{entity.table}: a truncate came, and lakehouse.history.truncates says refuse",
                value="refuse",
                choices=("close", "refuse"),
                fix="take it out upstream, or let it close every row: lakehouse: {history: {truncates: close}}",
            )
    if options.invalid != "fail":
        return
    for reason, what in ((NULL_KEY, "have no key"), (NULL_SEQUENCE, "have no sequence")):
        sql = f"SELECT count(*) AS n FROM facts WHERE NOT _filtered AND array_contains(_reasons, '{reason}')"
        _refuse(entity, engine.rows(engine.query(sql, {"facts": facts}))[0]["n"], reason, what)
    history = History(work, entity, log)
    with_all = padded(engine, facts, log.schema)
    keys = same_keys(history.shape, "f", "x")
    around = history.ask(f"SELECT f.* FROM log AS f LEFT SEMI JOIN new AS x ON {keys}", log=history.facts, new=with_all)
    events = history.judged(together(engine, with_all, around))
    if history.is_tied(events):
        contradicting = history.ask(ambiguous(history.shape), events=events)
        _refuse(entity, history.count("c", c=contradicting), "ambiguous_sequence", "contradict each other")


def _refuse(entity: Entity, count: int, reason: str, what: str) -> None:
    if count:
        raise ExpectationFailed(
            f"{entity.table}: {count} events {what} ({reason}), and lakehouse.history.invalid says fail",
            value=reason,
            choices=("quarantine", "fail"),
            fix="mend the rows upstream, or keep them aside: lakehouse: {history: {invalid: quarantine}}",
        )
