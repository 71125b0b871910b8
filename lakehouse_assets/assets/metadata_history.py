"""What the UI shows of a run of a table with history: who is behind after late events, and a timeline of a few keys.

What belongs here: Markdown for one materialization, made of what changed in it. What does not: the numbers
(`metadata.py`), what became of an event (`serve/explain.py`), drawing (`serve/timeline.py`).

Only keys that changed are read, and only where that is quick: a large table is asked by people, not by every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from lakehouse_assets.assets.metadata import plain
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import FeedExpired, LakehouseError
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.sql.scd import listed, unpacked

if TYPE_CHECKING:
    from lakehouse_assets.engines.base import Handle, Relation
    from lakehouse_assets.sql.scd import Shape
    from lakehouse_assets.tables.base import Outcome, Work

DRAWN = 2
"""Keys of which a timeline is drawn."""
NAMED = 5
"""Values of a refresh key that are named in the report."""
ROWS = 20
"""Rows of a key that are drawn, the newest."""
LARGEST = 64 << 20
"""Bytes of a table of which keys are drawn; finding those in a larger one would hold up the run."""
WIDTH = 120


def of_history(work: Work, table: TableName, handle: Handle, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Metadata of a run of a table with history, beside its numbers: `late_data` and `timeline`, both Markdown.

    The rows are committed by now: what keeps it from being told is said, and is no failure.

    Args:
        handle: the table after the run.
        outcomes: the batches of the run.
    """
    versions = [
        outcome.commits[table].version
        for outcome in outcomes
        if table in outcome.commits and not outcome.commits[table].skipped
    ]
    if not versions:
        return {}
    by_key = any(outcome.facts.get("touched_keys") for outcome in outcomes)
    texts: dict[str, str | None] = {}
    try:
        with ExitStack() as opened:
            moved = _moved(work, handle, min(versions) - 1) if by_key else None
            if moved is not None:
                moved = opened.enter_context(work.engine.held(moved))
            texts["late_data"] = late_report(work, table, outcomes, moved)
            texts["timeline"] = _timelines(work, table, handle, moved)
    except LakehouseError as error:
        texts["timeline"] = f"It could not be read what changed: {error.problem}"
    return {name: dg.MetadataValue.md(text) for name, text in texts.items() if text}


def _moved(work: Work, handle: Handle, since: int) -> Relation | None:
    """The rows that changed after a version, before and after; `None` where nobody can tell."""
    try:
        return work.engine.changes(handle, since).relation
    except FeedExpired:
        return None


# late data


@dataclass(frozen=True)
class Follower:
    """A table that reads another one, and how it follows when rows of that change that were there before.

    Attributes:
        key: the columns by which it is refreshed; empty: as a whole.
        why: why it is not refreshed by key.
    """

    table: TableName
    key: tuple[str, ...] = ()
    why: str = ""


def followers(work: Work, table: TableName) -> Iterator[Follower]:
    """The stored tables that read `table`, directly or through views."""
    from lakehouse_assets.tables import view

    for name, feeds in work.catalog.destinations.items():
        if view.is_view(work, name) or name == table or table not in view.stored(work, name):
            continue
        yield _follower(work, name, feeds[0])


def _follower(work: Work, name: TableName, entity: Entity) -> Follower:
    from lakehouse_assets.tables import view

    if entity.kind == "history":
        return Follower(name, why="it reads all rows again, and events count once")
    if entity.kind != "query":
        return Follower(name, why="it starts over, because rows were changed")
    key = tuple(entity.lakehouse.refresh_key)
    if not key:
        return Follower(name, why="it declares no `lakehouse: {refresh_key: [...]}`")
    if view.reads_views(work, name):
        return Follower(name, why="it reads a view")
    if fault := work.catalog.refresh_fault(entity):
        return Follower(name, why=fault)
    if not entity.primary_keys and list(entity.partition_cols) != list(key):
        return Follower(name, why="it declares no primary_keys")
    return Follower(name, key)


def late_report(work: Work, table: TableName, outcomes: Sequence[Outcome], moved: Relation | None) -> str | None:
    """What late events changed and which tables are behind because of it, as Markdown; `None` if nothing was late.

    Args:
        moved: the rows that changed, if they can be told.
    """
    told = [outcome.facts for outcome in outcomes if outcome.facts.get("closed_rows_changed")]
    if not told:
        return None
    keys, rows = sum(facts["late_keys"] for facts in told), sum(facts["closed_rows_changed"] for facts in told)
    since = [str(facts["oldest_changed"]) for facts in told if facts.get("oldest_changed")]
    head = f"Late events of {_count(keys, 'key')} changed {_count(rows, 'closed row')} of {table}"
    head += f", back to {since[0]}." if len(since) == 1 else "."
    lines = [f"| {_code(one.table)} | {_follows(work, one, moved)} |" for one in followers(work, table)]
    if not lines:
        return f"{head} No table of the catalog reads it."
    return "\n".join([head, "", "| behind until its next run | what of it is made again |", "| --- | --- |", *lines])


def _follows(work: Work, one: Follower, moved: Relation | None) -> str:
    if not one.key:
        return f"all of it: {one.why}"
    columns = ", ".join(_code(name) for name in one.key)
    if moved is None:
        return f"the touched values of {columns}"
    names = listed(one.key)
    sql = f"SELECT DISTINCT {names} FROM moved"
    count = work.engine.rows(work.engine.query(f"SELECT count(*) AS n FROM ({sql}) AS keys", {"moved": moved}))[0]["n"]
    some = work.engine.rows(work.engine.query(f"{sql} ORDER BY {names} LIMIT {NAMED}", {"moved": moved}))
    shown = ", ".join(_code(" / ".join(_text(row[name]) for name in one.key)) for row in some)
    return f"{_count(count, 'value')} of {columns}: {shown}{', …' if count > len(some) else ''}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _code(value: object) -> str:
    return f"`{str(value).replace('`', chr(39)).replace('|', '¦')}`"


def _text(value: object) -> str:
    return "NULL" if value is None else " ".join(str(plain(value)).split())[:60]


# timelines


def _timelines(work: Work, table: TableName, handle: Handle, moved: Relation | None) -> str | None:
    """A drawing of a few keys of a table of type 2 that changed, those first of which most rows did."""
    from lakehouse_assets.serve.explain import intervals_of
    from lakehouse_assets.serve.timeline import Timeline, draw
    from lakehouse_assets.tables.base import upstream
    from lakehouse_assets.tables.history_shape import shape_of

    shape = shape_of(work.catalog.destinations[table][0], upstream(work, table.changes).schema)
    if shape.scd != 2:
        return None
    hint = f"Events that do not show, and any other key: `lakehouse history show {table} KEY`."
    if handle.weight()[1] > LARGEST:
        return hint
    of_keys: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in work.engine.rows(_newest_rows(work, handle, shape, moved)):
        of_keys.setdefault(tuple(repr(row[name]) for name in shape.keys), []).append(row)
    drawn = []
    for rows in of_keys.values():
        key = {name: rows[0][name] for name in shape.keys}
        drawn.append(draw(Timeline(key, intervals_of(rows, shape, ()), ()), WIDTH))
    return "\n\n".join([*(f"```text\n{text.replace('```', chr(39) * 3)}\n```" for text in drawn), hint])


def _newest_rows(work: Work, handle: Handle, shape: Shape, moved: Relation | None) -> Relation:
    """The newest rows of a few keys that changed; of a table that was made anew, of any."""
    keys = listed(shape.keys)
    stored = work.engine.read(handle)
    relations = {"stored": stored} if moved is None else {"stored": stored, "moved": moved}
    some = f"SELECT DISTINCT {keys} FROM (SELECT {keys} FROM stored LIMIT {DRAWN}) AS few"
    if moved is not None:
        some = f"SELECT {keys} FROM moved GROUP BY {keys} ORDER BY count(*) DESC, {keys} LIMIT {DRAWN}"
    order = ", ".join(f"{part} DESC" for part in unpacked(shape, shape.start, "s."))
    rank = f"row_number() OVER (PARTITION BY {listed(shape.keys, 's.')} ORDER BY {order}) AS __n"
    on = " AND ".join(f"s.{quoted(name)} <=> k.{quoted(name)}" for name in shape.keys)
    rows = f"SELECT s.*, {rank} FROM stored AS s LEFT SEMI JOIN ({some}) AS k ON {on}"
    return work.engine.query(
        f"SELECT {listed(handle.schema.names)} FROM ({rows}) AS ranked WHERE __n <= {ROWS} ORDER BY {keys}", relations
    )
