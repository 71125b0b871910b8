"""Corrections of a table without a log: kept beside it, so that a rebuild makes them again.

A correction is first appended to `<destination>__corrections`; then the row leaves the quarantine and enters the
target. Both follow that table (`corrections_kept.py`), so that a kill anywhere is mended by whoever comes next.
What belongs here: which rows are meant, and saying what they become. What does not: tables with a log
(`corrections_history.py`), what the rows become (`corrections_judged.py`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile

import pyarrow as pa

from lakehouse_assets.engines.base import Handle, Relation
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import ConcurrentWriter, LakeError, SettingsError
from lakehouse_assets.lake.schemas import holds
from lakehouse_assets.lake.values import Commit, Number
from lakehouse_assets.sql.expand import quoted, text_literal
from lakehouse_assets.sql.scd import EVENT, listed
from lakehouse_assets.sql.types import spark_type
from lakehouse_assets.tables import corrections_kept as kept
from lakehouse_assets.tables.base import Work, check_ours, ensure, feeding, upstream
from lakehouse_assets.tables.corrections_given import Asked, Requeued, read_corrections
from lakehouse_assets.tables.corrections_judged import WHY, Meant, Opened, facts, judged_by_today, own_columns, told
from lakehouse_assets.tables.corrections_kept import DISCARDED, OF, SAID, with_ids

__all__ = ["discard", "requeue", "with_ids"]
MOST_NAMED = 1000
"""Rows that are named when they are still broken."""


def requeue(work: Work, table: TableName, asked: Asked, *, dry_run: bool) -> Requeued:
    """See `corrections.requeue`."""
    found = _opened(work, table)
    given = read_corrections(asked.file) if asked.file else None
    ids = asked.ids if given is None else _named(given)
    if given is not None and not ids:
        return Requeued()
    meant = _resolved(found, ids)
    with _rows(found, meant, bool(ids), asked.rule) as rows:
        judged, columns, said = judged_by_today(found, rows, asked, given, meant)
        with work.engine.held(facts(work, judged, columns)) as made:
            still = work.engine.query(f"SELECT * FROM made WHERE size({WHY}) > 0", {"made": made})
            broken = [told(row) for row in work.engine.rows(still, MOST_NAMED)]
            good = work.engine.query(f"SELECT * FROM made WHERE size({WHY}) = 0", {"made": made})
            woven, count = kept.count(work.engine, good), kept.count(work.engine, made)
            if dry_run or not woven:
                return Requeued(count + meant.gone, woven, tuple(broken), meant.gone)
            _widen(found, columns)
            commits = _say(found, columns, good, said)
    commits |= kept.follow(work, found.entity)
    return Requeued(count + meant.gone, woven, tuple(broken), meant.gone, commits)


def discard(work: Work, table: TableName, ids: Sequence[str]) -> Mapping[TableName, Commit]:
    """See `corrections.discard`."""
    found = _opened(work, table)
    meant = _resolved(found, ids)
    if not meant.ids:
        return {}
    with _rows(found, meant, True, None) as rows:
        columns = own_columns(found)
        made = work.engine.query(f"SELECT {listed(columns.names)}, {EVENT} AS {OF} FROM rows", {"rows": rows})
        commits = _say(found, columns, made, DISCARDED)
    return commits | kept.follow(work, found.entity)


# what stands there


def _opened(work: Work, table: TableName) -> Opened:
    """The table and its quarantine, after what an interrupted correction left over was made good.

    Raises:
        SettingsError: rows of this table cannot be corrected here.
        LakeError: a batch was interrupted.
    """
    entity = _correctable(work, table)
    handle = upstream(work, table)
    check_ours(handle, table)
    work.engine.refuse_writers(handle)
    if work.engine.find(work.uri(table.quarantine)) is None:
        raise SettingsError(
            f"{table} has no quarantine: no row of it broke a rule", value=str(table), fix="there is nothing to correct"
        )
    kept.follow(work, entity)
    if kept.interrupted(work, entity):
        raise LakeError(
            f"{table}: a batch was interrupted after its quarantine was written",
            fix=f"make it good: lakehouse run {table}",
        )
    book = kept.find(work, table)  # before the quarantine is looked at: who corrects a row meanwhile is noticed
    said = book.number(kept.app_of(table)) if book is not None else 0
    return Opened(work, entity, upstream(work, table), upstream(work, table.quarantine), said)


def _correctable(work: Work, table: TableName) -> Entity:
    entity = feeding(work, table)[0]
    if entity.kind != "conformed":
        readers = [str(name) for name in work.catalog.destinations if table in work.catalog.upstreams(name)]
        what = "holds rows as they were received" if entity.kind == "landed" else "is made by a query"
        raise SettingsError(
            f"{table} {what}: they are not corrected there", value=entity.kind, choices=("conformed", "history"),
            fix="land a value that does not fit as text (source_schema), or beside its row "
            "(lakehouse: {evolution: rescue}), and correct it in the conformed table that reads it"
            + (f": {', '.join(readers)}" if readers else ""),
        )  # fmt: skip
    return entity


# which rows are meant


def _named(given: pa.Table) -> tuple[str, ...]:
    """The ids in a file of corrections."""
    ids = given.column(EVENT).to_pylist()
    if not all(isinstance(text, str) and text for text in ids):
        raise SettingsError(
            f"a row of the file has no {EVENT}, so nobody knows which row it corrects",
            fix="remove the row, or add its id",
        )
    return tuple(ids)


def _resolved(found: Opened, given: Sequence[str]) -> Meant:
    """The ids in quarantine that some texts begin.

    Raises:
        SettingsError: no row has, or had, such an id, or several begin like that.
    """
    if not given:
        return Meant({}, 0)
    work, table = found.work, found.entity.table
    there = _ids(work, with_ids(work, work.engine.read(found.box)))
    book = kept.find(work, table)
    before = _ids(work, work.engine.read(book)) if book is not None else []
    ids, gone = dict[str, str](), 0
    for text in dict.fromkeys(given):
        near = _near(text, there)
        if len(near) > 1:
            raise SettingsError(
                f"several rows in the quarantine of {table} have ids that begin with {text!r}",
                value=text, choices=near[:10], fix="give more of the id",
            )  # fmt: skip
        if near:
            ids[text] = near[0]
        elif _near(text, before):
            gone += 1
        else:
            raise SettingsError(
                f"no row in the quarantine of {table} has this id", value=text, choices=there[:10],
                fix=f"see them: lakehouse quarantine show {table}",
            )  # fmt: skip
    return Meant(ids, gone)


def _ids(work: Work, rows: Relation) -> list[str]:
    sql = f"SELECT DISTINCT {EVENT} FROM rows WHERE {EVENT} IS NOT NULL"
    return sorted(row[EVENT] for row in work.engine.rows(work.engine.query(sql, {"rows": rows})))


def _near(text: str, ids: Sequence[str]) -> list[str]:
    """The sorted ids that a text begins; the one that it is, if there is one."""
    at = bisect_left(ids, text) if text else len(ids)
    near = list(takewhile(lambda known: known.startswith(text), ids[at:]))
    return near[:1] if near[:1] == [text] else near


@contextmanager
def _rows(found: Opened, meant: Meant, by_id: bool, rule: str | None) -> Iterator[Relation]:
    """The rows that are meant, held; with one row all others that were received alike."""
    engine = found.work.engine
    with engine.held(with_ids(found.work, engine.read(found.box))) as rows:
        conditions = [f"array_contains(_reasons, {text_literal(rule)})"] if rule else []
        chosen, relations = "SELECT * FROM rows", {"rows": rows}
        if by_id:
            table = pa.table({OF: pa.array(sorted(set(meant.ids.values())), pa.string())})
            relations["ids"] = engine.from_arrow(table)
            chosen = f"SELECT r.* FROM rows AS r LEFT SEMI JOIN ids AS i ON r.{EVENT} = i.{OF}"
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        sql = f"SELECT q.* FROM rows AS q LEFT SEMI JOIN (SELECT * FROM ({chosen}) AS c{where}) AS c "
        sql += f"ON q.{EVENT} = c.{EVENT}"
        with engine.held(engine.query(sql, relations)) as wanted:
            yield wanted


# what is said


def _widen(found: Opened, columns: pa.Schema) -> None:
    """Add the columns to the target that today's select list has and yesterday's had not."""
    ensure(found.work, found.entity, found.entity.table, columns, change_feed=False)


def _say(found: Opened, columns: pa.Schema, rows: Relation, said: str) -> dict[TableName, Commit]:
    """Append corrections: the commit with which they hold."""
    work, entity, engine = found.work, found.entity, found.work.engine
    name, app = entity.table.corrections, kept.app_of(entity.table)
    wanted = pa.schema([pa.field(EVENT, pa.string()), *(f for f in columns if f.name != EVENT), *SAID])
    handle = ensure(work, entity, name, wanted, change_feed=False, indexed=["_batch"])
    _check_types(found, handle, wanted)
    _check_still(found, handle)
    number = max(side.number(app) for side in (handle, found.box, found.target)) + 1
    items = [f"{OF} AS {EVENT}", *(quoted(f.name) for f in columns if f.name != EVENT)]
    known = ", ".join(text_literal(name.lower()) for name in columns.names)
    items += [
        f"array({known}) AS _columns",
        f"{text_literal(said)} AS _correction",
        "CAST(:at AS TIMESTAMP) AS _corrected_at",
    ]
    items += [f"CAST({number:d} AS BIGINT) AS _batch"]
    made = engine.query(f"SELECT {', '.join(items)} FROM rows", {"rows": rows}, {"at": work.clock()})
    return {name: engine.append(handle, kept.fitted(engine, made, handle.schema), Number(app, number))}


def _check_still(found: Opened, handle: Handle) -> None:
    """Raise `ConcurrentWriter` if the rows that are corrected may not be in quarantine any more."""
    app, box = kept.app_of(found.entity.table), upstream(found.work, found.entity.table.quarantine)
    if handle.number(app) != found.said or box.version != found.box.version:
        raise ConcurrentWriter(f"somebody else changed the quarantine of {found.entity.table}", fix="ask again")


def _check_types(found: Opened, handle: Handle, wanted: pa.Schema) -> None:
    have = {f.name.lower(): f for f in handle.schema}
    for field in wanted:
        old = have[field.name.lower()]
        if not holds(old.type, field.type):
            raise LakeError(
                f"the column {field.name} of {found.entity.table} is {spark_type(field.type)} now, and corrections of "
                f"it were kept as {spark_type(old.type)}",
                value=spark_type(field.type), choices=(spark_type(old.type),),
                fix=f"give the column its old type, or move {handle.uri} away: no rebuild makes its corrections then",
            )  # fmt: skip
