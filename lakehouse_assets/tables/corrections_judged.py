"""What corrected rows become: the columns that people or today's select list give them, under the rules of today.

What belongs here: from quarantined rows to judged ones. What does not: which rows are meant and where they go
(`corrections_conformed.py`), reading what is given (`corrections_given.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.engines.base import Handle, Relation
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import SettingsError
from lakehouse_assets.lake.schemas import holds, same_type
from lakehouse_assets.sql.expand import quoted, text_literal
from lakehouse_assets.sql.parse import parse_expression, render
from lakehouse_assets.sql.scd import EVENT
from lakehouse_assets.sql.types import spark_type
from lakehouse_assets.tables import corrections_kept as kept
from lakehouse_assets.tables import evolution
from lakehouse_assets.tables.base import Work, feeding
from lakehouse_assets.tables.conformed import upstream_of
from lakehouse_assets.tables.corrections_given import Asked, assignments
from lakehouse_assets.tables.corrections_kept import OF
from lakehouse_assets.tables.rules import FAILED, UPSTREAM, Judged, Recipe
from lakehouse_assets.tables.view import is_view

WHY = "__reasons"
"""The reasons that speak against a corrected row."""
_UNMADE = "__unmade"
"""The columns of a quarantined row that could not be made, as reasons."""


@dataclass(frozen=True)
class Opened:
    """A table whose rows can be corrected, as it stands when all corrections are shown; `said`: the newest of them."""

    work: Work
    entity: Entity
    target: Handle
    box: Handle
    said: int


@dataclass(frozen=True)
class Meant:
    """Ids in quarantine by what was given for them, and how many that were given left it before."""

    ids: Mapping[str, str]
    gone: int


def own_columns(found: Opened) -> pa.Schema:
    """The columns that can be corrected: those of the target that the quarantine has too."""
    have = {f.name.lower() for f in found.box.schema}
    return pa.schema([f.remove_metadata() for f in found.target.schema if f.name.lower() in have])


def judged_by_today(
    found: Opened, rows: Relation, asked: Asked, given: pa.Table | None, meant: Meant
) -> tuple[Judged, pa.Schema, str]:
    """Corrected rows under today's rules, the columns that they will have, and what is said of them."""
    if given is None and not asked.patch:
        judged = _as_received(found, rows)
        columns = pa.schema([f for f in judged.schema if f.name != OF])
        mode: evolution.Mode = "freeze" if found.entity.lakehouse.evolution == "freeze" else "add_columns"
        fit = evolution.settle(columns, found.target.schema, mode, found.entity.table)
        return judged, fit.columns, "judged again"
    own = own_columns(found)
    if given is not None and asked.file is not None:
        made, rows = _from_file(found, rows, given, own, meant)
        said = f"correction from {asked.file.name}"
    else:
        made, said = assignments(asked.patch, own.names), "correction: " + "; ".join(asked.patch)
    made = _typed(found, rows, made, own)
    items = [f"{made.get(f.name, quoted(f.name))} AS {quoted(f.name)}" for f in own]
    items += [OF, UPSTREAM, f"{_unmade(found.entity, own, made if given is None else {})} AS {_UNMADE}"]
    sql = f"SELECT *, {EVENT} AS {OF} FROM rows"
    recipe = kept.rules_only(Recipe.of(found.entity), tuple(items))
    return Judged(found.work.engine, recipe, found.work.engine.query(sql, {"rows": rows})), own, said


def _as_received(found: Opened, rows: Relation) -> Judged:
    """The rows as they were received, through today's select list."""
    engine, entity = found.work.engine, found.entity
    today, feeds = _read_today(found), feeding(found.work, entity.table)
    if any(feed.select_expr != entity.select_expr for feed in feeds):
        raise SettingsError(
            f"the feeds of {entity.table} have different select lists, and its quarantine does not tell which of "
            "them a row came from", value=", ".join(feed.feed for feed in feeds),
            fix="say what the rows become: --set or --file",
        )  # fmt: skip
    if UPSTREAM in today.names:
        raise SettingsError(
            f"{entity.source} has a column {UPSTREAM} of its own, so the quarantine of {entity.table} does not hold "
            "its rows as they were received", value=UPSTREAM, fix="say what the rows become: --set or --file",
        )  # fmt: skip
    received = list(engine.schema(rows).field(UPSTREAM).type)
    items = [f"{UPSTREAM}.{quoted(f.name)} AS {quoted(f.name)}" for f in received] + [f"{EVENT} AS {OF}"]
    names = {f.name.lower() for f in received}
    gained = [f for f in today if f.name.lower() not in names]
    items += [f"CAST(NULL AS {spark_type(f.type)}) AS {quoted(f.name)}" for f in gained]
    recipe = Recipe.of(entity)
    starred = any(item.strip() == "*" for item in recipe.select)
    select = (*recipe.select, OF) if recipe.select and not starred else recipe.select
    base = engine.query(f"SELECT {', '.join(items)} FROM rows WHERE {UPSTREAM} IS NOT NULL", {"rows": rows})
    return Judged(engine, kept.rules_only(recipe, select), base)


def _read_today(found: Opened) -> pa.Schema:
    """The columns of the table that is read, where it is one: it may have gained some."""
    entity, work = found.entity, found.work
    if not entity.reads_outside and is_view(work, work.catalog.resolve(entity.source)):
        return pa.schema([])
    return upstream_of(work, entity).schema


def _from_file(
    found: Opened, rows: Relation, given: pa.Table, own: pa.Schema, meant: Meant
) -> tuple[dict[str, str], Relation]:
    """Column -> the column of the answer that holds what the file says, and the rows with these.

    Raises:
        SettingsError: the file has a column that the table lacks, or corrects a row in two ways.
    """
    engine, known = found.work.engine, {name.lower(): name for name in own.names}
    have = {known[name.lower()]: name for name in given.schema.names if name.lower() in known and name != EVENT}
    strange = [name for name in given.schema.names if name.lower() not in known and not name.startswith("_")]
    if strange:
        raise SettingsError(
            f"the file has a column {strange[0]!r}, which {found.entity.table} does not have", value=strange[0],
            choices=own.names, fix="remove or rename it",
        )  # fmt: skip
    made = {name: f"__given_{index}" for index, name in enumerate(have)}
    full = pa.array([meant.ids.get(text) for text in given.column(EVENT).to_pylist()], pa.string())
    table = pa.table({OF: full} | {made[name]: given.column(found_as) for name, found_as in have.items()})
    with_values = engine.query(
        f"SELECT DISTINCT * FROM given WHERE {OF} IS NOT NULL", {"given": engine.from_arrow(table)}
    )
    twice = engine.rows(
        engine.query(
            f"SELECT {OF} FROM (SELECT {OF}, count(*) AS n FROM given GROUP BY {OF}) AS c WHERE n > 1 ORDER BY {OF}",
            {"given": with_values},
        )
    )
    if twice:
        raise SettingsError(
            "the file corrects a row in two ways; rows that were received alike are corrected together",
            value=twice[0][OF], fix="leave one of them",
        )  # fmt: skip
    columns = [*(f"r.{quoted(f.name)}" for f in engine.schema(rows)), *(f"g.{quoted(name)}" for name in made.values())]
    sql = f"SELECT {', '.join(columns)} FROM rows AS r JOIN given AS g ON r.{EVENT} = g.{OF}"
    return made, engine.query(sql, {"rows": rows, "given": with_values})


def _typed(found: Opened, rows: Relation, made: Mapping[str, str], own: pa.Schema) -> dict[str, str]:
    """Column -> SQL of the column's type; a text or an integer that does not fit is a failed cast.

    Raises:
        SettingsError: another type would lose something on the way.
    """
    typed = {name: f"CAST(NULL AS {spark_type(own.field(name).type)})" for name, sql in made.items() if sql == "NULL"}
    made = {name: sql for name, sql in made.items() if name not in typed}
    if not made:
        return typed
    items = [f"{sql} AS c{index}" for index, sql in enumerate(made.values())]
    engine = found.work.engine
    kinds = [f.type for f in engine.schema(engine.query(f"SELECT {', '.join(items)} FROM rows", {"rows": rows}))]
    for (name, sql), kind in zip(made.items(), kinds, strict=True):
        wanted = own.field(name).type
        plain = not pa.types.is_nested(wanted) and not pa.types.is_binary(wanted)
        tried = plain and any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_integer, pa.types.is_null))
        if same_type(kind, wanted):
            typed[name] = _judgeable(sql)
        elif tried or holds(wanted, kind):
            typed[name] = _judgeable(f"CAST({sql} AS {spark_type(wanted)})")
        else:
            raise SettingsError(
                f"{name} of {found.entity.table} would become {spark_type(kind)}, and it is {spark_type(wanted)}",
                value=sql, fix=f"cast it: CAST(… AS {spark_type(wanted)})",
            )  # fmt: skip
    return typed


def _judgeable(sql: str) -> str:
    """SQL in which the cast of a literal is judged, too: in a catalog its author would notice."""
    tree = parse_expression(sql, sql)
    for node in tree.find_all(exp.Cast):
        if isinstance(node.this, exp.Literal):
            node.set("this", exp.Paren(this=node.this.copy()))
    return render(tree)


def _unmade(entity: Entity, own: pa.Schema, made: Mapping[str, str]) -> str:
    """As reasons, the columns of a row that could not be made, without those that are said."""
    cases = []
    for name, reasons in Recipe.of(entity).unmade(name for name in own.names if name not in made).items():
        so = " OR ".join(f"array_contains(_reasons, {text_literal(reason)})" for reason in reasons)
        cases.append(f"CASE WHEN {so} THEN {text_literal(FAILED + name)} END")
    return f"filter(array({', '.join(cases) or 'CAST(NULL AS STRING)'}), reason -> reason IS NOT NULL)"


def facts(work: Work, judged: Judged, columns: pa.Schema) -> Relation:
    """Corrected rows in their columns, with their ids and the reasons that speak against them."""
    against: dict[str, list[str]] = {}
    for flag, name in kept.breaking(judged).items():
        against.setdefault(name, []).append(flag)
    if _UNMADE in judged.schema.names:  # a value that did not fit its column, and nobody said another one
        for name in columns.names:
            reason = FAILED + name
            unsaid = f"(array_contains({_UNMADE}, {text_literal(reason)}) AND {quoted(name)} IS NULL)"
            against.setdefault(reason, []).append(unsaid)
    cases = ", ".join(f"CASE WHEN {' OR '.join(so)} THEN {text_literal(name)} END" for name, so in against.items())
    reasons = f"filter(array({cases or 'CAST(NULL AS STRING)'}), reason -> reason IS NOT NULL)"
    have = {f.name.lower(): f for f in judged.schema}
    items = [f"{quoted(have[name.lower()].name)} AS {quoted(name)}" for name in columns.names]
    sql = f"SELECT {', '.join(items)}, {OF}, {reasons} AS {WHY} FROM judged"
    return work.engine.query(sql, {"judged": judged.relation})


def told(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as people are told of it."""
    names = {OF: EVENT, WHY: "_reasons"}
    return {names.get(name, name): value for name, value in row.items() if name not in names.values()}
