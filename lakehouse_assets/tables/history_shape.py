"""What a table with `apply_changes` is made of: its sequence, its columns, and what must not change between runs.

What belongs here: reading `apply_changes` against the columns that events really have. What does not: any rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.entities.model import ApplyChanges, Entity, TableName
from lakehouse_assets.errors import SchemaDrift, SqlError
from lakehouse_assets.sources.base import ROW_FIELDS
from lakehouse_assets.sql.parse import parse_expression, render
from lakehouse_assets.sql.scd import Shape
from lakehouse_assets.sql.typed import is_orderable
from lakehouse_assets.sql.types import spark_type

LANDING = frozenset({*(field.name for field in ROW_FIELDS), "_ingested_at", "_rescued_data"})
"""Columns of a landed upstream that say where a row came from; they are no part of an event."""
SEQUENCE = "_sequence"
FACTS = (
    "_fact", "_event", "_refers", "_operation", "_filtered", "_reasons", "_upstream", "_raw", "_feed", "_batch",
    "_origin", "_logged",
)  # fmt: skip
"""The log's own columns, beside those of the sequence."""


@dataclass(frozen=True)
class Order:
    """How events are ordered: the expressions, what they are called, and the log's columns that hold them."""

    expressions: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the log."""
        return sequence_columns(len(self.expressions))


def sequence_columns(parts: int) -> tuple[str, ...]:
    """The columns of the log that hold a sequence of so many parts."""
    return (SEQUENCE,) if parts == 1 else tuple(f"{SEQUENCE}_{index}" for index in range(1, parts + 1))


def sequence_of(sequence_by: str) -> Order:
    """The parts of `sequence_by`: one expression, or those of `struct(…)`."""
    tree = parse_expression(sequence_by, "sequence_by")
    parts: list[exp.Expr] = [tree]
    if isinstance(tree, exp.Anonymous | exp.Struct) and str(getattr(tree, "this", "") or "struct").lower() == "struct":
        parts = list(tree.expressions)
    names = [part.alias_or_name or f"s{index}" for index, part in enumerate(parts, 1)]
    if not parts or len({name.lower() for name in names}) < len(names):
        raise SqlError(
            "sequence_by: struct() needs at least one part, and each its own name", value=sequence_by,
            fix="give the parts aliases: struct(a AS day, b AS n)",
        )  # fmt: skip
    return Order(tuple(render(part.unalias()) for part in parts), tuple(names))


def event_columns(columns: Iterable[str]) -> list[str]:
    """Those of some columns that are the event's own, neither the landing's nor the log's."""
    return [name for name in columns if name not in LANDING and not is_fact(name)]


def is_fact(name: str) -> bool:
    """Whether a column is the log's own."""
    return name in FACTS or is_sequence(name)


def is_sequence(name: str) -> bool:
    """Whether a column of the log holds a part of the sequence."""
    return name == SEQUENCE or (name.startswith(f"{SEQUENCE}_") and name[10:].isdigit())


def shape_of(entity: Entity, log: pa.Schema) -> Shape:
    """The target that `apply_changes` describes, over the columns of its log.

    Raises:
        SchemaDrift: a column that it names is not there, or has a type that cannot do what is asked of it.
    """
    changes = _changes(entity)
    have = {name.lower(): name for name in event_columns(log.names)}
    sequence = sequence_of(changes.sequence_by)
    keys = _found(entity, "primary_keys", entity.primary_keys, have)
    columns = _chosen(entity, "column_list", "except_column_list", list(have.values()), have)
    history = entity.lakehouse.history
    shape = Shape(
        tuple(keys),
        sequence.columns,
        sequence.names,
        tuple(columns),
        changes.stored_as_scd_type,
        tuple(_tracked(entity, sequence, keys, columns, have)),
        tuple(_inherited(entity, keys, columns, have)),
        tuple(name for name in columns if has_map(log.field(name).type)),
        history.start_at,
        history.end_at,
        history.soft_deletes,
    )
    _check_types(entity, shape, log)
    return shape


def _changes(entity: Entity) -> ApplyChanges:
    if entity.apply_changes is None:
        raise SqlError(f"{entity.table} has no apply_changes", fix="declare it in the catalog")
    return entity.apply_changes


def _found(entity: Entity, field: str, names: Iterable[str], have: Mapping[str, str]) -> list[str]:
    found = []
    for name in names:
        if name.lower() not in have:
            raise SchemaDrift(
                f"{entity.table}: {field} names the column {name!r}, which its events do not have",
                value=name, choices=tuple(have.values()), fix="name one of these, or select it in select_expr",
            )  # fmt: skip
        found.append(have[name.lower()])
    return found


def _chosen(entity: Entity, include: str, exclude: str, all_: Sequence[str], have: Mapping[str, str]) -> list[str]:
    """The columns that a pair of lists leaves, in the order of `all_`."""
    changes = _changes(entity)
    wanted, unwanted = getattr(changes, include), getattr(changes, exclude)
    if wanted is not None:
        chosen = set(_found(entity, f"apply_changes.{include}", wanted, have))
        return [name for name in all_ if name in chosen]
    left_out = set(_found(entity, f"apply_changes.{exclude}", unwanted or (), have))
    return [name for name in all_ if name not in left_out]


def _tracked(
    entity: Entity, sequence: Order, keys: Sequence[str], columns: Sequence[str], have: Mapping[str, str]
) -> list[str]:
    changes = _changes(entity)
    if changes.stored_as_scd_type == 1:
        return []
    free = [name for name in columns if name not in keys]
    tracked = _chosen(entity, "track_history_column_list", "track_history_except_column_list", free, have)
    asked = changes.track_history_column_list or ()
    lost = [name for name in asked if have[name.lower()] not in columns]
    if lost:
        raise SchemaDrift(
            f"{entity.table}: track_history_column_list names {lost[0]!r}, which is not a column of the table",
            value=lost[0], choices=free, fix="take it into the table, or out of the list",
        )  # fmt: skip
    if entity.lakehouse.history.snapshots and changes.track_history_column_list is None:
        of_snapshot = {name.lower().strip("`") for name in sequence.expressions}  # differs in every snapshot
        tracked = [name for name in tracked if name.lower() not in of_snapshot]
    return tracked


def _inherited(entity: Entity, keys: Sequence[str], columns: Sequence[str], have: Mapping[str, str]) -> list[str]:
    changes = _changes(entity)
    lists = (changes.ignore_null_updates_column_list, changes.ignore_null_updates_except_column_list)
    if not changes.ignore_null_updates and all(names is None for names in lists):
        return []
    free = [name for name in columns if name not in keys]
    include, exclude = "ignore_null_updates_column_list", "ignore_null_updates_except_column_list"
    return _chosen(entity, include, exclude, free, have)


def has_map(kind: pa.DataType) -> bool:
    """Whether a type is or holds a map, which Spark cannot compare."""
    if pa.types.is_map(kind):
        return True
    if pa.types.is_list(kind):
        return has_map(kind.value_type)
    return pa.types.is_struct(kind) and any(has_map(field.type) for field in kind)


def _check_types(entity: Entity, shape: Shape, log: pa.Schema) -> None:
    for key in shape.keys:
        if pa.types.is_nested(log.field(key).type):
            raise SchemaDrift(
                f"{entity.table}: the key {key!r} is {spark_type(log.field(key).type)}, by which rows cannot be found",
                fix="select its parts as columns of their own and make them the keys",
            )
    changes = _changes(entity)
    maps = [name for name in shape.tracked if name in shape.opaque]
    if maps and changes.track_history_column_list is None and changes.track_history_except_column_list is None:
        fix = f"leave it out: track_history_except_column_list: [{', '.join(maps)}]"
    else:
        fix = "take it out of what is tracked"
    if maps:
        raise SchemaDrift(
            f"{entity.table}: the column {maps[0]!r} holds a map, and maps cannot be compared, so it cannot be tracked",
            value=maps[0], fix=fix,
        )  # fmt: skip
    for name in (shape.start, shape.end, shape.soft):
        if name and name.lower() in {column.lower() for column in shape.columns} and _is_made(shape, name):
            raise SchemaDrift(
                f"{entity.table}: its events have a column {name!r}, and the table makes one of that name",
                value=name,
                fix="rename it in select_expr, leave it out (except_column_list), or name the table's own otherwise: "
                "lakehouse: {history: {start_at: …, end_at: …, soft_deletes: …}}",
            )


def _is_made(shape: Shape, name: str) -> bool:
    return name == shape.soft or shape.scd == 2


def check_sequence(table: TableName, fields: Iterable[pa.Field]) -> None:
    """Raise `SchemaDrift` if a part of a sequence has a type without an order that both engines share."""
    for field in fields:
        if not is_orderable(field.type) or pa.types.is_boolean(field.type) or pa.types.is_null(field.type):
            raise SchemaDrift(
                f"{table}: sequence_by is {field.type}, by which events cannot be ordered",
                choices=("BIGINT", "DECIMAL(p,s)", "DATE", "TIMESTAMP", "STRING"),
                fix="order by a number, a time or a text; by several of them with struct(a, b)",
            )


def sequence_type(shape: Shape, log: pa.Schema) -> pa.DataType:
    """The type of the sequence, as `__START_AT` holds it."""
    kinds = [log.field(name).type for name in shape.sequence]
    return kinds[0] if len(kinds) == 1 else pa.struct(list(zip(shape.names, kinds, strict=True)))


def target_schema(shape: Shape, log: pa.Schema) -> pa.Schema:
    """The columns of the target."""
    kind = sequence_type(shape, log)
    own = {shape.start: kind, shape.end: kind, shape.soft: pa.bool_()}
    return pa.schema([pa.field(name, own[name] if name in own else log.field(name).type) for name in shape.output])


def declared(shape: Shape, log: pa.Schema) -> dict[str, str]:
    """What stands in the target's properties, because a change of it would make other rows of the same events."""
    found = {
        "lakehouse.keys": ",".join(shape.keys),
        "lakehouse.scd": str(shape.scd),
        "lakehouse.sequence": spark_type(sequence_type(shape, log)),
        "lakehouse.soft_deletes": shape.soft or "",
    }
    if shape.scd == 2:
        found["lakehouse.tracked"] = ",".join(sorted(name.lower() for name in shape.tracked))
        found["lakehouse.history"] = f"{shape.start},{shape.end}"
    return found


_MEANING = {
    "lakehouse.keys": ("primary_keys", "KEY_DRIFT"),
    "lakehouse.scd": ("stored_as_scd_type", "SCD_TYPE_DRIFT"),
    "lakehouse.sequence": ("the type of sequence_by", "SEQUENCING_TYPE_DRIFT"),
    "lakehouse.tracked": ("the columns whose history is tracked", "TRACK_HISTORY_DRIFT"),
    "lakehouse.history": ("the history columns (start_at, end_at)", "HISTORY_COLUMNS_DRIFT"),
    "lakehouse.soft_deletes": ("soft_deletes", "SOFT_DELETES_DRIFT"),
}


def check_drift(entity: Entity, wanted: Mapping[str, str], kept: Mapping[str, str]) -> None:
    """Raise `SchemaDrift` if the table was made by another declaration.

    Args:
        wanted: what `declared` gives now.
        kept: the target's properties.
    """
    for name, (what, code) in _MEANING.items():
        old, new = kept.get(name, ""), wanted.get(name, "")
        if old.lower() == new.lower() or name not in kept or name not in wanted:
            continue
        more = ""
        if name == "lakehouse.tracked" and (found := set(new.split(",")) - set(old.split(","))):
            names = ", ".join(sorted(found))
            more = f"; or keep what was tracked: track_history_except_column_list: [{names}]"
        raise SchemaDrift(
            f"{entity.table}: {what} changed from {old or 'nothing'} to {new or 'nothing'} ({code}), and the rows "
            "that are there were made the old way",
            value=new,
            choices=(old,),
            fix=f"make the table again from its log: lakehouse run --full-refresh {entity.table}{more}",
            code=code,
        )
