"""Whether an expression can order the events of a table with history: a look at a sample of what would be read.

A sequence is good if it is never NULL, no two different events of a key share one, and events come nearly in its
order. What belongs here: the sample, the counts, their wording. What does not: printing, the tables themselves.

Events are taken in the order in which they came: by `_ingested_at` where the upstream table has it, else as they are
read. At most `SAMPLE` of them are looked at, and nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from lakehouse_assets.engines.base import Handle, Relation
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.serve.timeline import order
from lakehouse_assets.sql import scd
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.sql.scd import DELETE, EVENT, Shape, listed, not_before, same_keys
from lakehouse_assets.sql.types import spark_type
from lakehouse_assets.tables import conformed, history, landed, quarantine, view
from lakehouse_assets.tables.base import Draft, Feed, Idle, Work
from lakehouse_assets.tables.history_events import EFFECTIVE, ROWWISE
from lakehouse_assets.tables.history_log import NULL_KEY, NULL_SEQUENCE, Facts, of_taken
from lakehouse_assets.tables.history_shape import check_sequence, sequence_of, shape_of
from lakehouse_assets.tables.rules import Judged, Recipe

SAMPLE = 100_000
"""The most events that are looked at."""
ARRIVAL = "__arrival"
"""The column that numbers the events of a sample as they came."""
Lateness = timedelta | int | float | Decimal


@dataclass(frozen=True)
class Lint:
    """What a sample says about a sequence; counts are of its events.

    Attributes:
        type: of the sequence; of several columns all of them.
        events: those that the table takes (`where`); truncates and rows that failed a rule are among them.
        bounded: there were more than these.
        ties: upserts that share key and sequence with a different one: they are ambiguous.
        future: events whose sequence is later than the clock; `ahead`: by how much the latest one is.
        late: events that came after a later one of the same key, in the sample or in the log.
        lateness: how far the latest comer was behind the newest sequence of all that had come before it.
        compared: whether the log was looked at, too.
    """

    sequence_by: str
    type: str
    events: int
    bounded: bool = False
    null_keys: int = 0
    null_sequences: int = 0
    ties: int = 0
    future: int = 0
    ahead: timedelta | None = None
    late: int = 0
    lateness: Lateness | None = None
    compared: bool = False
    horizon: timedelta | None = None
    examples: tuple[Mapping[str, Any], ...] = field(default=())

    def row(self) -> dict[str, Any]:
        """This as JSON-ready names and values; durations in seconds."""
        found = asdict(self)
        for name in ("ahead", "lateness", "horizon"):
            found[name] = found[name].total_seconds() if isinstance(found[name], timedelta) else found[name]
        return found | {"examples": list(self.examples)}

    def notes(self) -> tuple[str, ...]:
        """What is worth knowing, in words: one line if nothing speaks against the sequence."""
        of = f"{'the first ' if self.bounded else ''}{self.events:,} events"
        head = f"sequence {self.sequence_by} ({self.type}), {of} looked at"
        if not self.events:
            return (f"sequence {self.sequence_by} ({self.type}): there are no events to look at",)
        return (head + ("" if any(self._said()) else ": no NULLs, no ties, in order"), *self._said())

    def _said(self) -> Iterator[str]:
        for count, what in ((self.null_keys, "have no key"), (self.null_sequences, "have no sequence")):
            if count:
                yield f"{self._share(count)} {what} and would be quarantined"
        if self.ties:
            some = f", e.g. {_text(self.examples[0])}" if self.examples else ""
            yield (
                f"{self._share(self.ties)} share key and sequence with a different one and would be quarantined as "
                f"ambiguous{some}: add a column that tells them apart, as struct(a, b)"
            )
        if self.future:
            ahead = f", by up to {_duration(self.ahead)}" if self.ahead else ""
            yield f"{self._share(self.future)} lie in the future of this clock{ahead}"
        if self.late:
            where = "the log or the sample" if self.compared else "the sample"
            yield f"{self._share(self.late)} come late: {where} has a later one of the same key"
        if self.lateness:
            yield from self._of_lateness(self.lateness)

    def _of_lateness(self, lateness: Lateness) -> Iterator[str]:
        if not isinstance(lateness, timedelta):
            yield f"the latest comer is {lateness:,} behind the newest event before it"
            return
        verdict = "a horizon must be longer"
        if self.horizon is not None:
            verdict = "longer than" if lateness > self.horizon else "within"
            verdict += f" the horizon of {_duration(self.horizon)}"
        yield f"the latest comer is {_duration(lateness)} behind the newest event before it: {verdict}"

    def _share(self, count: int) -> str:
        share = 100 * count / self.events
        return f"{count:,} ({share:.{0 if share >= 10 else 1 if share >= 0.1 else 3}f} %)"


def _duration(span: timedelta) -> str:
    days, rest = divmod(int(abs(span).total_seconds()), 86400)
    hours, rest = divmod(rest, 3600)
    parts = ((days, "d"), (hours, "h"), (rest // 60, "min"), (rest % 60, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or f"{abs(span).total_seconds():g} s"


def _text(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in row.items())


def lint(work: Work, feed: Feed, following: Plan | Draft | Idle, sequence_by: str | None = None) -> Lint | None:
    """Look at the events that a feed would read next; `None` if there are none and no other sequence is asked about.

    Args:
        feed: one of a table with history, as `preview` gives it.
        following: what comes next for it; where that is nothing, `sequence_by` is tried on its upstream's rows.
        sequence_by: another expression than the declared one.

    Raises:
        SqlError: it is no expression over the events' columns.
        SchemaDrift: events cannot be ordered by its type.
    """
    if isinstance(following, Idle):
        if sequence_by is None:
            return None
        following = history.draft(work, replace(feed, rebuild=True))
        if isinstance(following, Idle):
            return None
    entity = feed.entity if sequence_by is None else _with_sequence(feed.entity, sequence_by)
    feed = replace(feed, entity=entity)
    plan = _plan(work, feed, following)
    rows = _numbered(_sample(work, feed, plan))
    bounded = rows.num_rows > SAMPLE
    changes = entity.apply_changes
    with_log = sequence_by is None and not feed.rebuild
    with _events(work, feed, plan, rows.slice(0, SAMPLE)) as events:
        look = _Look(work, feed, events, with_log=with_log)
        return replace(look.found(changes.sequence_by if changes else ""), bounded=bounded)


def _with_sequence(entity: Entity, sequence_by: str) -> Entity:
    changes = entity.apply_changes
    assert changes is not None, "a table with history has apply_changes"
    return entity.model_copy(update={"apply_changes": changes.model_copy(update={"sequence_by": sequence_by})})


def _plan(work: Work, feed: Feed, following: Plan | Draft) -> Plan:
    """The range that would be read, with what the entity says of it as it stands here."""
    recipe = {**following.recipe, **Recipe.of(feed.entity).record()}
    now = work.clock()
    start, end, incarnation = following.start, following.end, following.incarnation
    return Plan(feed.name, 0, "history", start, end, incarnation, recipe, run_date=now.date(), planned_at=now)


# the sample


def _sample(work: Work, feed: Feed, plan: Plan) -> pa.Table:
    """The first rows of the range as they would be received, one more than are looked at if there are more."""
    entity, engine = feed.entity, work.engine
    if history.lands(entity):
        with work.open_source(entity) as source, quarantine.Spool() as misfits:
            return _first(landed.received(work, feed, plan, source, misfits))
    some = engine.query(f"SELECT * FROM received LIMIT {SAMPLE + 1}", {"received": _stored(work, feed, plan)})
    with engine.batches(some) as reader:
        return reader.read_all()


def _first(reader: pa.RecordBatchReader) -> pa.Table:
    """The first rows of a stream; it is not read any further."""
    found, count = [], 0
    for batch in reader:
        found.append(batch)
        count += batch.num_rows
        if count > SAMPLE:
            break
    return pa.Table.from_batches(found, reader.schema).slice(0, SAMPLE + 1)


def _stored(work: Work, feed: Feed, plan: Plan) -> Relation:
    """The rows that an upstream table gained in the range, or all of a view or of a table that was rewritten."""
    if "view" in plan.recipe:
        return view.result(work, plan.recipe["view"], plan)
    source = conformed.upstream_of(work, feed.entity, int(plan.end["version"]))
    start = int(plan.start["version"])
    if start != conformed.FROM_THE_START:
        moved = work.engine.changes(source, start)
        if moved.kind == "append" and moved.relation is not None:
            return moved.relation
    return work.engine.read(source)


def _numbered(rows: pa.Table) -> pa.Table:
    """The rows in the order in which they came, with `ARRIVAL`."""
    import pyarrow.compute as pc

    if "_ingested_at" in rows.schema.names:
        rows = rows.take(pc.sort_indices(rows.column("_ingested_at")))
    return rows.append_column(ARRIVAL, pa.array(range(rows.num_rows), pa.int64()))


@contextmanager
def _events(work: Work, feed: Feed, plan: Plan, rows: pa.Table) -> Iterator[_Events]:
    """The events that rows are, judged by the rules, as far as the table takes them."""
    engine, entity = work.engine, feed.entity
    recipe = of_taken(Recipe.recorded(plan.recipe))
    recipe = replace(recipe, select=(*recipe.select, ARRIVAL)) if recipe.select else recipe
    judged = Judged(engine, recipe, engine.from_arrow(rows))
    sequence = sequence_of(plan.recipe["changes"]["sequence_by"])
    with judged.held(again=True) as held:
        facts = Facts(work, entity, plan, judged, sequence).relation(held)
        columns = engine.schema(facts)
        kinds = [columns.field(name) for name in sequence.columns]
        check_sequence(entity.table, kinds)
        shape = shape_of(entity, columns.remove(columns.get_field_index(ARRIVAL)))
        flags = [
            f"array_contains(_reasons, '{NULL_KEY}') AS __no_key",
            f"array_contains(_reasons, '{NULL_SEQUENCE}') AS __no_sequence",
            f"size(_reasons) = 0 AND {ROWWISE} AS __counts",
        ]
        wanted = listed((*shape.keys, *shape.sequence, *shape.compared))
        items = [wanted, f"_operation <> 'upsert' AS {DELETE}", *flags]
        sql = (
            f"SELECT {', '.join(items)}, {ARRIVAL}, CAST({ARRIVAL} AS STRING) AS {EVENT} FROM facts WHERE NOT _filtered"
        )
        with engine.held(engine.query(sql, {"facts": facts})) as found:
            yield _Events(found, shape, kinds)


@dataclass(frozen=True)
class _Events:
    """Events of a sample; those that no verdict is against have `__counts`."""

    rows: Relation
    shape: Shape
    kinds: list[pa.Field]


# what is counted


class _Look:
    """The counts of one sample."""

    def __init__(self, work: Work, feed: Feed, events: _Events, *, with_log: bool) -> None:
        self.work, self.engine, self.feed = work, work.engine, feed
        self.shape, self.kinds = events.shape, events.kinds
        self.all = events.rows
        self.living = self._ask("SELECT * FROM events WHERE __counts", events=events.rows)
        self.log = self._comparable(feed.target) if with_log else None

    def _ask(self, sql: str, **relations: Relation) -> Relation:
        return self.engine.query(sql, relations)

    def _comparable(self, log: Handle | None) -> Relation | None:
        """The events of the log that count, if they are ordered by the same types."""
        if log is None:
            return None
        have = {field.name: field.type for field in log.schema}
        if any(have.get(field.name) != field.type for field in self.kinds):
            return None
        return self._ask(f"SELECT * FROM log WHERE {EFFECTIVE} AND {ROWWISE}", log=self.engine.read(log))

    def found(self, sequence_by: str) -> Lint:
        """All of them."""
        counts = "count(*) AS events, count_if(__no_key) AS null_keys, count_if(__no_sequence) AS null_sequences"
        (row,) = self.engine.rows(self._ask(f"SELECT {counts} FROM events", events=self.all))
        ties, examples = self._ties()
        kinds = ", ".join(spark_type(field.type) for field in self.kinds)
        looked = Lint(
            sequence_by, kinds, **row, ties=ties, examples=examples, compared=self.log is not None,
            horizon=self.feed.entity.lakehouse.horizon_delta,
        )  # fmt: skip
        return self._in_order(looked)

    def _ties(self) -> tuple[int, tuple[Mapping[str, Any], ...]]:
        """How many events contradict others, and some of their keys and sequences."""
        if not self.engine.rows(self._ask(scd.ties(self.shape), events=self.living), 1):
            return 0, ()
        with self.engine.held(self._ask(scd.ambiguous(self.shape), events=self.living)) as tied:
            count = self.engine.rows(self._ask("SELECT count(*) AS n FROM tied", tied=tied))[0]["n"]
            names = listed((*self.shape.keys, *self.shape.sequence))
            some = self._ask(f"SELECT {names} FROM tied ORDER BY {ARRIVAL} LIMIT 1", tied=tied)
            named = dict(zip(self.shape.sequence, self.shape.names, strict=True))
            rows = [{named.get(name, name): value for name, value in row.items()} for row in self.engine.rows(some)]
        return int(count), tuple(rows)

    def _in_order(self, looked: Lint) -> Lint:
        """The counts of events by when they came."""
        keys, parts, now = self.shape.keys, self.shape.sequence, self.work.clock()
        late, newest = self._behind_log()
        newest_of: dict[tuple[Any, ...], Any] = {}
        ahead: list[timedelta] = []
        lateness: Any = None
        columns = listed((*keys, *parts))
        sql = f"SELECT {columns}, {ARRIVAL} FROM events ORDER BY {ARRIVAL}"
        for row in self.engine.rows(self._ask(sql, events=self.living)):
            first, key = row[parts[0]], tuple(row[name] for name in keys)
            place = tuple(order(row[name]) for name in parts)
            if place < newest_of.get(key, place):
                late.add(row[ARRIVAL])
            newest_of[key] = max(place, newest_of.get(key, place))
            ahead += [span] if (span := _ahead(first, now)) else []
            if (behind := _between(first, newest)) is not None and (lateness is None or behind > lateness):
                lateness = behind
            newest = max(first, newest, key=order)
        return replace(
            looked, future=len(ahead), ahead=max(ahead, default=None), late=len(late), lateness=lateness or None
        )

    def _behind_log(self) -> tuple[set[int], Any]:
        """The events of which the log has a later one, and the newest sequence that it has."""
        if self.log is None:
            return set(), None
        log, mine = ([f"{alias}.{quoted(name)}" for name in self.shape.sequence] for alias in "le")
        on = f"{same_keys(self.shape, 'l', 'e')} AND {not_before(log, mine, strictly=True)}"
        sql = f"SELECT e.{ARRIVAL} FROM events AS e LEFT SEMI JOIN log AS l ON {on}"
        late = {row[ARRIVAL] for row in self.engine.rows(self._ask(sql, events=self.living, log=self.log))}
        first = quoted(self.shape.sequence[0])
        newest = self.engine.rows(self._ask(f"SELECT max({first}) AS newest FROM log", log=self.log))[0]["newest"]
        return late, newest


def _ahead(value: object, now: datetime) -> timedelta | None:
    """How far a time lies in the future; `None` if it does not, or is none."""
    if isinstance(value, datetime):
        span = (value if value.tzinfo else value.replace(tzinfo=now.tzinfo)) - now
    elif isinstance(value, date):
        span = value - now.date()
    else:
        return None
    return span if span > timedelta() else None


def _between(value: Any, newest: Any) -> Lateness | None:
    """How far a sequence is behind the newest one; `None` if it is not, or that has no measure."""
    if value is None or newest is None or isinstance(value, str | bool | bytes) or order(value) >= order(newest):
        return None
    behind: Lateness = newest - value
    return behind if isinstance(behind, timedelta) or math.isfinite(behind) else None
