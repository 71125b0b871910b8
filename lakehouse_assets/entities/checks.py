"""Rules between the fields of one entity: which combinations are refused, and what to do instead.

What belongs here: checks that need one entity and no SQL parser. What does not: checks of one field (`model.py`),
of SQL (`transforms.py`), of several entities (`catalog.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lakehouse_assets.entities import asof
from lakehouse_assets.errors import CatalogError
from lakehouse_assets.secrets import is_reference, is_sensitive

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import ApplyChanges, Entity

RESERVED_COLUMNS = (
    "_ingested_at", "_source", "_position", "__START_AT", "__END_AT", "_reasons", "_upstream", "_batch",
    "_rescued_data",
)  # fmt: skip
"""Columns that the project adds to tables; no entity may make one of its own under such a name."""
RESERVED_SUFFIXES = ("_quarantine", "__changes", "__corrections", "__batches")
"""Endings of tables that stand beside a destination."""
RESERVED_LAYER = "control"
RESERVED_REASONS = ("null_key", "null_sequence", "ambiguous_sequence")
RESERVED_PREFIXES = ("cast_failed", "malformed_json")
_CLEAR_JAAS = re.compile(r"(?:passw\w*|secret|token)\s*=\s*\\?[\"']?(?!\$\{secret:|\{\{\s*secrets/)[^\s\"';]", re.I)
_USER_INFO = re.compile(r"://[^/@\s:]*:([^/@\s]+)@")


@dataclass(frozen=True)
class Misfit:
    """One thing that is wrong with an entity: where (a path of fields), what, and what would be legal."""

    where: tuple[str | int, ...]
    problem: str
    value: object = None
    choices: tuple[str, ...] = ()
    fix: str | None = None

    def __str__(self) -> str:
        return f"{'.'.join(str(part) for part in self.where)}: {self.problem}" + (f"; {self.fix}" if self.fix else "")


class MisdeclaredError(ValueError):
    """The fields of an entity contradict each other: `misfits` holds every contradiction."""

    def __init__(self, misfits: tuple[Misfit, ...]) -> None:
        self.misfits = misfits
        super().__init__("\n".join(str(misfit) for misfit in misfits))


def misfits(entity: Entity) -> Iterator[Misfit]:
    """Everything about `entity` that its own fields show to be wrong."""
    yield from _destination(entity)
    for field in ("read_options", "table_properties", "spark_conf"):
        yield from _secrets(field, getattr(entity, field))
    user_info = _USER_INFO.search(entity.source)
    if user_info and not is_reference(user_info[1]):
        yield Misfit(("source",), "holds a password in clear", fix="write ${secret:NAME} in its place")
    yield from _columns(entity)
    yield from _rules(entity)
    yield from _by_format(entity)
    yield from _view(entity)
    if entity.apply_changes:
        yield from _apply_changes(entity, entity.apply_changes)
    yield from _lakehouse(entity)
    yield from _history(entity)


def _destination(entity: Entity) -> Iterator[Misfit]:
    try:
        table = entity.table
    except CatalogError as error:
        yield Misfit(("destination",), error.problem, entity.destination, fix=error.fix)
        return
    if table.layer == RESERVED_LAYER:
        yield Misfit(
            ("destination",),
            f"the layer {RESERVED_LAYER!r} is kept for the project's own tables",
            entity.destination,
            fix="choose another layer, such as bronze, silver or gold",
        )
    for suffix in RESERVED_SUFFIXES:
        if table.name.lower().endswith(suffix):
            yield Misfit(
                ("destination",),
                f"a name that ends in {suffix!r} is kept for the table beside a destination",
                entity.destination,
                fix="choose another name",
            )


def _secrets(field: str, options: Mapping[str, str]) -> Iterator[Misfit]:
    for name, value in options.items():
        clear = (is_sensitive(name) and not is_reference(value)) or (
            "jaas" in name.lower() and bool(_CLEAR_JAAS.search(value))
        )
        user_info = _USER_INFO.search(value)
        if clear or (user_info and not is_reference(user_info[1])):
            yield Misfit(
                (field, name),
                f"the option {name!r} must hold a reference to a secret, not the secret itself and not ${{VAR}}",
                "(hidden)",
                ("${secret:NAME}", "{{secrets/scope/key}}"),
                "put the secret into an environment variable NAME and write ${secret:NAME}",
            )


def _twice(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name.lower() in seen or seen.add(name.lower())]  # type: ignore[func-returns-value]


def _columns(entity: Entity) -> Iterator[Misfit]:
    for field in ("primary_keys", "partition_cols"):
        names: list[str] = getattr(entity, field)
        for name in _twice(names):
            yield Misfit((field,), f"the column {name!r} is given twice", name, fix="give it once")
        for position, name in enumerate(names):
            if name in RESERVED_COLUMNS:
                yield Misfit((field, position), f"the column {name!r} is the project's own", name, fix="choose another")


def _rules(entity: Entity) -> Iterator[Misfit]:
    seen: dict[str, str] = {}
    for field in ("expect_all", "expect_all_or_drop", "expect_all_or_fail"):
        for name in getattr(entity.expectations, field):
            where = ("expectations", field, name)
            label = check_label(name)
            if label in seen:
                yield Misfit(
                    where, f"the rule {name!r} has the name of {seen[label]!r}", name, fix="give each rule its own name"
                )
            seen.setdefault(label, name)
            if name in RESERVED_REASONS or name.startswith(RESERVED_PREFIXES):
                yield Misfit(where, f"{name!r} is a reason of the project's own", name, fix="choose another rule name")
    for name in entity.lakehouse.severity:
        if name not in entity.expectations.rules:
            choices = tuple(entity.expectations.rules)
            yield Misfit(("lakehouse", "severity", name), "names no rule of this entity", name, choices)


def check_label(rule: str) -> str:
    """The name of a rule in letters, digits and `_`: what a check is called; two rules never share one."""
    return re.sub(r"[^A-Za-z0-9]+", "_", rule).strip("_").lower() or "_"


_NO_SELECT = {"sql": "write it in the query"}
_NO_EVENTS = ("sql", "asof")
_NO_SCHEMA = {
    "dlt": "its columns come from its upstream: type them in select_expr (CAST)",
    "delta": "a Delta table has a schema of its own: type columns in select_expr (CAST)",
    "sql": "its columns come from the query",
    "asof": "its columns come from its two upstream tables",
    "kafka": "its columns are given (key, value, topic, partition, offset, timestamp, timestampType, headers): take "
    "values apart in a table that reads this one, with from_json",
}


def _by_format(entity: Entity) -> Iterator[Misfit]:
    form = entity.source_format
    if entity.source_schema and form in _NO_SCHEMA:
        yield Misfit(("source_schema",), f"has no meaning for source_format {form!r}", fix=_NO_SCHEMA[form])
    if entity.select_expr and form in _NO_SELECT:
        yield Misfit(("select_expr",), f"has no meaning for source_format {form!r}", fix=_NO_SELECT[form])
    if entity.apply_changes and form in _NO_EVENTS:
        yield Misfit(
            ("apply_changes",),
            f"a table of source_format {form!r} gives no events",
            fix="apply changes in a table of source_format dlt that reads the events",
        )
    if form == "dlt" and any(mark in entity.source for mark in "/\\:"):
        yield Misfit(
            ("source",),
            "source_format dlt reads a table of the catalog, and this is a path",
            entity.source,
            fix="name the table, or use source_format delta (a Delta table elsewhere) or cloudFiles (files)",
        )
    if form == "asof":
        yield from _asof(entity)
    if form == "kdb":
        from lakehouse_assets.entities import partitions  # which is made of what stands here

        yield from partitions.of_kdb(entity)
    if form != "kafka" and entity.lakehouse.on_data_loss:
        where, value = ("lakehouse", "on_data_loss"), entity.lakehouse.on_data_loss
        yield Misfit(where, "belongs to source_format kafka alone", value, fix="remove it")
    if form != "asof" and entity.lakehouse.tables:
        yield Misfit(
            ("lakehouse", "tables"), "belongs to source_format asof alone", entity.lakehouse.tables, fix="remove it"
        )


def _asof(entity: Entity) -> Iterator[Misfit]:
    tables = entity.lakehouse.tables
    if len(tables) != 2 or tables[0] != entity.source:
        yield Misfit(
            ("lakehouse", "tables"),
            "an as-of join needs its two upstream tables, the left one equal to source",
            tables,
            fix=f"write lakehouse: {{tables: [{entity.source}, RIGHT]}}",
        )
    for fault in asof.faults(entity):
        yield Misfit(("read_options", fault.option), fault.problem, fault.value, fault.choices)
    if entity.expectations.rules or entity.is_quarantined:
        fix = "judge its rows in a table of source_format dlt that reads this one"
        yield Misfit(("expectations",), "an as-of join keeps every left row", fix=fix)
    if entity.partition_cols and entity.select_expr:
        column = entity.partition_cols[0]
        if not any(item.strip() in ("*", column, f"`{column}`") for item in entity.select_expr):
            yield Misfit(
                ("select_expr",),
                f"the partition column {column!r} has to come as it is: a row belongs to the day that it is made of",
                entity.select_expr,
                fix=f"select {column} itself, and anything made of it under another name",
            )
    if len(entity.partition_cols) > 1:
        fix = "keep the column by which both upstream tables are made"
        yield Misfit(("partition_cols",), "an as-of join is made by one column", entity.partition_cols, fix=fix)


def _view(entity: Entity) -> Iterator[Misfit]:
    if entity.destination_type != "view":
        return
    if entity.reads_outside or entity.source_format == "asof":
        yield Misfit(
            ("source_format",),
            "a view reads tables of the catalog",
            entity.source_format,
            ("dlt", "delta", "sql"),
            "land the source in a table and let the view read that table",
        )
    for field in ("apply_changes", "is_quarantined", "partition_cols"):
        if getattr(entity, field):
            yield Misfit((field,), "a view stores nothing", fix="use destination_type: table, or remove it")
    if entity.expectations.rules:
        yield Misfit(
            ("expectations",),
            "a view is never written, so its rules would never be judged",
            fix="use destination_type: table, or put the rules on the table that the view reads",
        )


_PAIRS = (
    ("column_list", "except_column_list"),
    ("track_history_column_list", "track_history_except_column_list"),
    ("ignore_null_updates_column_list", "ignore_null_updates_except_column_list"),
)
_MAY_BE_EMPTY = ("track_history_column_list",)


def _apply_changes(entity: Entity, changes: ApplyChanges) -> Iterator[Misfit]:
    if not entity.primary_keys:
        yield Misfit(
            ("primary_keys",),
            "apply_changes needs to know the columns that identify a row",
            fix="list them under primary_keys",
        )
    if changes.flow_name and entity.lakehouse.feed and changes.flow_name != entity.lakehouse.feed:
        yield Misfit(
            ("lakehouse", "feed"), "differs from apply_changes.flow_name", entity.lakehouse.feed, (changes.flow_name,)
        )
    for include, exclude in _PAIRS:
        if getattr(changes, include) is not None and getattr(changes, exclude) is not None:
            yield Misfit(
                ("apply_changes", exclude), f"stands beside {include}: one excludes the other", fix="keep one of them"
            )
    for name in (name for pair in _PAIRS for name in pair if getattr(changes, name) is not None):
        yield from _change_list(entity, changes, name)


def _history(entity: Entity) -> Iterator[Misfit]:
    """The block `lakehouse.history`: it belongs to tables with `apply_changes`, and its columns to type 2."""
    history, changes = entity.lakehouse.history, entity.apply_changes
    where = ("lakehouse", "history")
    if changes is None:
        if history != type(history)():
            yield Misfit(where, "belongs to tables with apply_changes alone", fix="declare apply_changes, or remove it")
        return
    made = [name for name in (history.start_at, history.end_at, history.soft_deletes) if name]
    for name in _twice(made):
        yield Misfit(where, f"the column {name!r} is made twice", name, fix="give each its own name")
    keys = {key.lower() for key in entity.primary_keys}
    for field in ("start_at", "end_at", "soft_deletes"):
        name = getattr(history, field)
        if name and name.lower() in keys:
            yield Misfit((*where, field), f"{name!r} is a primary key", name, fix="choose another name")
        given = name != type(history).model_fields[field].default
        if field != "soft_deletes" and changes.stored_as_scd_type == 1 and given:
            fix = "use stored_as_scd_type: 2, or remove it"
            yield Misfit((*where, field), "type 1 keeps no history", name, fix=fix)


def _change_list(entity: Entity, changes: ApplyChanges, field: str) -> Iterator[Misfit]:
    names: list[str] = getattr(changes, field)
    where = ("apply_changes", field)
    keys = {key.lower() for key in entity.primary_keys}
    given = {name.lower() for name in names}
    if field.startswith("track_history") and changes.stored_as_scd_type == 1:
        yield Misfit(where, "type 1 keeps no history to track", fix="use stored_as_scd_type: 2, or remove the list")
    if not names and "except" not in field and field not in _MAY_BE_EMPTY:
        yield Misfit(where, "is empty", fix="name at least one column, or remove the list")
    for name in _twice(names):
        yield Misfit(where, f"the column {name!r} is given twice", name, fix="give it once")
    for position, name in enumerate(names):
        if name in RESERVED_COLUMNS:
            yield Misfit((*where, position), f"the column {name!r} is the project's own", name, fix="remove it")
    if field == "column_list" and not keys <= given:
        missing = [key for key in entity.primary_keys if key.lower() not in given]
        yield Misfit(where, f"leaves out the primary keys {', '.join(missing)}", names, fix="add them")
    elif field != "column_list" and keys & given:
        yield Misfit(where, f"names the primary keys {', '.join(sorted(keys & given))}", names, fix="remove them")


def _lakehouse(entity: Entity) -> Iterator[Misfit]:
    options = entity.lakehouse
    if options.landed_by:
        yield from _landed_elsewhere(entity)
    if options.refresh_key and entity.kind != "query":
        yield Misfit(
            ("lakehouse", "refresh_key"),
            "belongs to query tables (source_format sql, destination_type table) alone",
            options.refresh_key,
            fix="remove it",
        )
    if options.cluster_by and entity.partition_cols:
        yield Misfit(
            ("lakehouse", "cluster_by"), "a table is clustered or partitioned, not both", fix="keep one of them"
        )
    if options.cluster_by and options.writers != "spark":
        yield Misfit(
            ("lakehouse", "cluster_by"),
            "only a table that Spark alone writes can be clustered",
            options.cluster_by,
            fix="say `writers: spark` beside it, or remove it",
        )
    yield from _evolution(entity)
    if options.lag and entity.source_format != "kafka":
        yield Misfit(("lakehouse", "lag"), "belongs to source_format kafka alone", fix="remove it")
    if options.lag and None not in (options.lag.warn, options.lag.fail) and options.lag.warn > options.lag.fail:  # type: ignore[operator]
        yield Misfit(("lakehouse", "lag", "warn"), "is more than fail", options.lag.warn, fix="warn before it fails")
    if options.chart and entity.kind == "view":
        yield Misfit(("lakehouse", "chart"), "a view is never written, so nothing draws it", fix="use a table")
    fresh = options.freshness
    if fresh and fresh.warn_delta and fresh.fail_delta and fresh.warn_delta > fresh.fail_delta:
        yield Misfit(("lakehouse", "freshness", "warn"), "is later than fail", fresh.warn, fix="warn before it fails")


def _evolution(entity: Entity) -> Iterator[Misfit]:
    """Where rows are not received but made, there is nothing to freeze or to rescue: the SQL names the columns."""
    mode = entity.lakehouse.evolution
    where = ("lakehouse", "evolution")
    if mode is None or mode == "add_columns":
        return
    if entity.lakehouse.landed_by:
        yield Misfit(where, "the uploader writes this table, not a run here", mode, fix="remove it")
    elif entity.kind in ("query", "view", "asof"):
        yield Misfit(
            where,
            f"a {entity.kind} has the columns of its SQL: there is nothing to {mode}",
            mode,
            ("add_columns",),
            "remove it; freeze or rescue belongs to the landed or conformed table that is read",
        )
    elif mode == "rescue" and entity.kind not in ("landed", "conformed"):
        yield Misfit(
            where,
            f"a table of kind {entity.kind} keeps no values beside their row",
            mode,
            ("add_columns", "freeze"),
            "rescue in a landed or conformed table that comes before it",
        )


def _landed_elsewhere(entity: Entity) -> Iterator[Misfit]:
    if not entity.reads_outside:
        yield Misfit(
            ("lakehouse", "landed_by"),
            "an uploader lands outside sources alone",
            entity.source_format,
            fix="use the uploader's source_format (sqlite, …) or delta, or remove landed_by",
        )
    for field in ("select_expr", "apply_changes", "is_quarantined", "partition_cols"):
        if getattr(entity, field):
            yield Misfit(
                (field,),
                "the uploader writes this table, not a run here",
                fix="declare it on a table of source_format dlt that reads this one",
            )
