"""What the UI shows of a table: facts of its definition, and facts of a run.

What belongs here: metadata as Dagster wants it, the version of a table's data. What does not: deciding what is run or
judged.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from lakehouse_assets.assets.naming import asset_key, digest, owners_of, source_key, tags_of
from lakehouse_assets.entities.catalog import Catalog
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import FeedExpired, LakehouseError
from lakehouse_assets.lake.names import Lake

if TYPE_CHECKING:
    import pyarrow as pa

    from lakehouse_assets.assets.watch import Look
    from lakehouse_assets.engines.base import Handle
    from lakehouse_assets.tables.base import Outcome, Work

DATA_VERSION = "dagster/data_version"
"""The tag of a materialization that holds the version of the data."""
PREVIEW_ROWS = 10
PLANS_SHOWN = 20
_CELL = 60
_RECIPE = (
    "source_format", "source_schema", "select_expr", "expectations", "apply_changes", "is_quarantined", "primary_keys",
    "partition_cols",
)  # fmt: skip


# of a definition


def of_definition(lake: Lake, table: TableName, feeds: Sequence[Entity]) -> dict[str, Any]:
    """Metadata of a table that is known without opening anything."""
    found: dict[str, Any] = {
        "dagster/table_name": str(table),
        "dagster/uri": lake.uri(table),
        "dagster/storage_kind": "parquet" if feeds[0].kind == "extract" else "delta",
        "kind": feeds[0].kind,
        "entities": ", ".join(feed.entity_id for feed in feeds),
    }
    if keys := feeds[0].primary_keys:
        found["primary_keys"] = ", ".join(keys)
    _, refused = owners_of(feeds)
    if refused:
        found["owners"] = ", ".join(refused)
    _, written = tags_of(feeds)
    if written:
        found["tags"] = dg.MetadataValue.json(written)
    return found


def code_version(catalog: Catalog, feeds: Sequence[Entity]) -> str:
    """A hash of all that decides which rows a table holds; paths and schedules are not part of it."""
    return digest(json.dumps([_recipe(catalog, feed) for feed in feeds], sort_keys=True))


def _recipe(catalog: Catalog, entity: Entity) -> dict[str, Any]:
    recipe = entity.model_dump(mode="json", include=set(_RECIPE))
    if entity.reads_outside:
        return recipe
    if entity.kind == "asof":
        recipe["tables"] = list(entity.lakehouse.tables)
        recipe["asof"] = {name: value for name, value in entity.read_options.items() if name.startswith("asof.")}
        recipe["tolerance"] = entity.lakehouse.tolerance
    recipe["source"] = catalog.sql(entity) if entity.source_format == "sql" else entity.source
    views = [up for up in catalog.upstreams(entity.table) if is_view(catalog, up)]
    return recipe | {"views": [code_version(catalog, catalog.destinations[view]) for view in views]}


def is_view(catalog: Catalog, table: TableName) -> bool:
    """Whether a table of the catalog is a view."""
    return any(feed.kind == "view" for feed in catalog.destinations.get(table, ()))


# of a run


@dataclass(frozen=True)
class State:
    """A table as it stands after a run, or as a sensor finds it."""

    handle: Handle
    data_version: str


def state(work: Work, table: TableName, recorded: str | None) -> State | None:
    """The table as it stands; `None` if it is not in the lake.

    Args:
        recorded: the data version that was reported last; it stays as long as no row changes.
    """
    handle = work.engine.find(work.uri(table))
    return State(handle, data_version(work, handle, recorded)) if handle else None


def data_version(work: Work, handle: Handle, recorded: str | None) -> str:
    """The version of a table's data: its id and the Delta version; maintenance and empty batches keep `recorded`."""
    table_id, _, version = (recorded or "").partition("@")
    known = table_id == handle.id and version.isdigit() and int(version) <= handle.version
    return str(recorded) if known and not _moved(work, handle, int(version)) else f"{handle.id}@{handle.version}"


def _moved(work: Work, handle: Handle, version: int) -> bool:
    try:
        return work.engine.changes(handle, version).kind != "none"
    except FeedExpired:
        return True


def recorded_version(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """The data version of the last materialization that was reported."""
    event = instance.get_latest_materialization_event(key)
    found = event.asset_materialization if event else None
    return (found.tags or {}).get(DATA_VERSION) if found else None


def of_table(work: Work, handle: Handle, comments: Mapping[str, str]) -> dict[str, Any]:
    """Metadata of a stored table: rows, version, columns, a preview."""
    rows = work.engine.read(handle)
    count = work.engine.rows(work.engine.query("SELECT count(*) AS n FROM stored", {"stored": rows}))[0]["n"]
    some = work.engine.query(f"SELECT * FROM stored LIMIT {PREVIEW_ROWS}", {"stored": rows})
    return {
        "dagster/row_count": int(count),
        "dagster/column_schema": column_schema(handle.schema, comments),
        "dagster/uri": handle.uri,
        "version": handle.version,
        "engine": work.engine.name,
        "preview": dg.MetadataValue.md(markdown(work.engine.rows(some), handle.schema.names)),
    }


def chart(work: Work, table: TableName, handle: Handle, feeds: Sequence[Entity]) -> dict[str, Any]:
    """The chart of a table, where an entity says what is drawn: `chart`, a picture in Markdown.

    The rows are committed by now: what keeps it from being drawn is told in its place.
    """
    wanted = next((feed.lakehouse.chart for feed in feeds if feed.lakehouse.chart), None)
    if wanted is None:
        return {}
    from lakehouse_assets.serve.chart import png

    try:
        picture = png(work.engine, handle, wanted, str(table))
    except LakehouseError as error:
        return {"chart": dg.MetadataValue.md(f"not drawn: {str(error).splitlines()[0]}")}  # with the value, not the fix
    data = base64.b64encode(picture).decode()
    return {"chart": dg.MetadataValue.md(f"![{table}](data:image/png;base64,{data})")}


def column_schema(columns: pa.Schema, comments: Mapping[str, str]) -> dg.TableSchema:
    """The columns of a table with their Spark types and comments."""
    from lakehouse_assets.sql.types import spark_type

    return dg.TableSchema(
        columns=[
            dg.TableColumn(f.name, spark_type(f.type), description=comments.get(f.name) or _comment(f)) for f in columns
        ]
    )


def _comment(column: pa.Field) -> str | None:
    found = (column.metadata or {}).get(b"comment")
    return found.decode() if found else None


def of_outcomes(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Metadata of the batches of a run: where each row went, and the plans that were made."""
    found: dict[str, Any] = {
        "batches": len(outcomes),
        "rows_in": sum(outcome.rows_in for outcome in outcomes),
        "rows_valid": sum(outcome.valid for outcome in outcomes),
        "rows_quarantined": sum(outcome.quarantined for outcome in outcomes),
        "rows_dropped": sum(outcome.dropped for outcome in outcomes),
        "plans": dg.MetadataValue.json([_plan(outcome) for outcome in outcomes[-PLANS_SHOWN:]]),
    }
    found |= _facts(outcomes)
    if notices := [f"{n.code}: {n.message}" for outcome in outcomes for n in outcome.notices]:
        found["notices"] = dg.MetadataValue.md("\n".join(f"- {notice}" for notice in notices))
    return found


def _facts(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What only some kinds of tables have to tell: numbers of all batches together, of texts the least."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for outcome in outcomes for name in outcome.facts):
        values = [outcome.facts[name] for outcome in outcomes if name in outcome.facts]
        counts = [value for value in values if isinstance(value, int)]
        found[name] = sum(counts) if len(counts) == len(values) else min(map(str, values), key=_in_order)
    return found


def _in_order(text: str) -> tuple[int, decimal.Decimal, str]:
    """A sort key of numbers and times that are given as texts."""
    try:
        number = decimal.Decimal(text)
    except decimal.InvalidOperation:
        return 1, decimal.Decimal(0), text
    return (0, number, text) if number.is_finite() else (1, decimal.Decimal(0), text)


def _plan(outcome: Outcome) -> dict[str, Any]:
    plan = outcome.plan
    return {
        "feed": plan.feed.app_id,
        "number": plan.number,
        "mode": plan.mode,
        "rebuild": plan.rebuild,
        "start": clipped(plan.start),
        "end": clipped(plan.end),
        "plan_id": plan.plan_id,
        "versions": {str(table): commit.version for table, commit in outcome.commits.items()},
    }


def clipped(position: Mapping[str, Any]) -> Any:
    """A position as JSON data; a long one (a list of files) as the beginning of its text."""
    text = json.dumps(plain(position), sort_keys=True)
    return json.loads(text) if len(text) <= 1000 else f"{text[:1000]}… ({len(text)} characters)"


def of_source(found: Look, now: dt.datetime) -> dict[str, Any]:
    """Metadata of an observation: what a source says of itself, where reading ended, and how far that is behind."""
    facts = of_description(found.facts)
    facts["latest_position"] = dg.MetadataValue.json(clipped(found.latest))
    if found.last:
        age = (now - found.last.planned_at).total_seconds()
        facts["last_position"] = dg.MetadataValue.json(clipped(found.last.end))
        facts["last_batch"] = found.last.number
        facts["lag_seconds"] = round(age, 1) if found.is_behind else 0.0
    if found.lag is not None:
        facts["lag"] = found.waiting
        facts["lag_by_part"] = dg.MetadataValue.json(dict(found.lag))
    return facts


def of_description(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a source says of itself, as metadata."""
    return {f"source/{name}": _shown(value) for name, value in facts.items()}


def _shown(value: Any) -> Any:
    shown = plain(value)
    return dg.MetadataValue.json(shown) if isinstance(shown, dict | list) else str(shown)


def column_lineage(work: Work, feeds: Iterable[Entity], columns: Sequence[str]) -> dg.TableColumnLineage | None:
    """Which upstream column each column comes from; `None` where the SQL does not tell."""
    found: dict[str, list[dg.TableColumnDep]] = {}
    for feed in feeds:
        for column, deps in _lineage(work, feed, columns).items():
            known = found.setdefault(column, [])
            known += [dep for dep in deps if dep not in known]
    return dg.TableColumnLineage(found) if any(found.values()) else None


def _lineage(work: Work, entity: Entity, columns: Sequence[str]) -> dict[str, list[dg.TableColumnDep]]:
    from lakehouse_assets.sql.lineage import column_lineage as lineage_of
    from lakehouse_assets.sql.parse import parse_query, tables
    from lakehouse_assets.tables import view

    if entity.reads_outside:
        passed = [] if entity.select_expr else [name for name in columns if not name.startswith("_")]
        return {name: [dg.TableColumnDep(source_key(entity), name)] for name in passed}
    if entity.kind == "asof":
        return _lineage_of_asof(work, entity)
    sql = view.expanded(work, entity.table) if entity.kind == "query" else work.catalog.sql(entity)
    names = {name: work.catalog.resolve(name) for name in tables(parse_query(sql, str(entity.table)))}
    handles = {name: work.engine.find(work.uri(table)) for name, table in names.items()}
    found = lineage_of(sql, {name: handle.schema for name, handle in handles.items() if handle})
    return {
        column: [dg.TableColumnDep(asset_key(names[upstream]), name) for upstream, name in deps]
        for column, deps in found.items()
    }


def _lineage_of_asof(work: Work, entity: Entity) -> dict[str, list[dg.TableColumnDep]]:
    """Columns of the left table keep their names in the join; those of the right one are named by the entity."""
    import pyarrow as pa

    from lakehouse_assets.entities.asof import brought
    from lakehouse_assets.sql.lineage import column_lineage as lineage_of

    left, right = (work.catalog.resolve(name) for name in entity.lakehouse.tables)
    handle = work.engine.find(work.uri(left))
    origin = {name: (left, name) for name in handle.schema.names} if handle else {}
    origin |= {named: (right, name) for name, named in brought(entity).items()}
    joined = pa.schema([(name, pa.string()) for name in origin])
    found = lineage_of(f"SELECT {', '.join(entity.select_expr) or '*'} FROM joined", {"joined": joined})
    return {
        column: [dg.TableColumnDep(asset_key(origin[name][0]), origin[name][1]) for _, name in deps if name in origin]
        for column, deps in found.items()
    }


# values


def plain(value: Any) -> Any:
    """`value` as JSON data: what JSON lacks (times, decimals, bytes, NaN) as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as a Markdown table; long cells are cut."""
    if not rows:
        return "(no rows)"
    lines = [list(columns), ["---"] * len(columns), *([_cell(row[name]) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    found = plain(value)
    text = "" if found is None else found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"
