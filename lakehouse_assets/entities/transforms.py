"""Checks of the SQL in one entity: it parses, stays in the portable dialect, and judges or makes one row at a time.

What belongs here: checks that need one entity and the SQL room. What does not: what is portable (`sql/dialect.py`),
which tables exist (`catalog.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lakehouse_assets.entities.checks import RESERVED_COLUMNS, Misfit
from lakehouse_assets.errors import LakehouseError

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlglot import exp

    from lakehouse_assets.entities.model import Entity

Where = tuple[str | int, ...]

_QUARANTINE_COLUMNS = ("_reasons", "_upstream", "_batch")
_HISTORY_COLUMNS = ("__START_AT", "__END_AT")
_KEPT_FROM_UPSTREAM = {
    "landed": RESERVED_COLUMNS,
    "extract": RESERVED_COLUMNS,
    "conformed": _QUARANTINE_COLUMNS,
    "history": (*_QUARANTINE_COLUMNS, *_HISTORY_COLUMNS),
}
_APPENDED = frozenset({"cloudFiles", "kafka", "kinesis", "sqlite"})


def misfits(entity: Entity, query: str | None) -> Iterator[Misfit]:
    """Everything about the SQL of `entity` that can be seen without its data.

    Args:
        entity: whose own fields hold together already.
        query: the text of a query entity, where it has one.
    """
    if entity.source_schema:
        yield from _source_schema(entity)
    for position, text in enumerate(entity.select_expr):
        yield from _row_expression(("select_expr", position), text, "a select item", boolean=False)
    yield from _outputs(entity)
    for field in ("expect_all", "expect_all_or_drop", "expect_all_or_fail"):
        for name, text in getattr(entity.expectations, field).items():
            yield from _row_expression(("expectations", field, name), text, f"rule {name!r}", boolean=True)
    if entity.apply_changes:
        for field in ("sequence_by", "where", "apply_as_deletes", "apply_as_truncates"):
            text = getattr(entity.apply_changes, field)
            if text is not None:
                where = ("apply_changes", field)
                yield from _row_expression(where, text, field, boolean=field != "sequence_by")
    if query is not None:
        yield from _query(query)
    yield from _columns_exist(entity)


def _refused(where: Where, error: LakehouseError) -> Misfit:
    return Misfit(where, error.problem, error.value, error.choices, error.fix)


def _source_schema(entity: Entity) -> Iterator[Misfit]:
    from lakehouse_assets.sql.types import arrow_schema

    where = ("source_schema",)
    try:
        schema = arrow_schema(entity.source_schema or "")
    except LakehouseError as error:
        yield _refused(where, error)
        return
    for name in schema.names:
        if name in RESERVED_COLUMNS:
            yield Misfit(where, f"the column {name!r} is the project's own", name, fix="name it otherwise")


def _row_expression(where: Where, text: str, what: str, *, boolean: bool) -> Iterator[Misfit]:
    from lakehouse_assets.sql import dialect, parse

    try:
        tree = parse.shared_expression(text, what)
    except LakehouseError as error:
        yield _refused(where, error)
        return
    yield from (Misfit(where, problem, text) for problem in dialect.row_faults(tree, condition=boolean))


def _query(text: str) -> Iterator[Misfit]:
    from lakehouse_assets.sql import dialect, parse

    try:
        tree = parse.parse_query(text, "the query")
    except LakehouseError as error:
        yield Misfit(("source",), error.problem, fix=error.fix)
        return
    for problem in dialect.faults(tree):
        yield Misfit(("source",), problem)
    for name, renamed in dialect.outputs(tree):
        if renamed and name in RESERVED_COLUMNS:
            yield Misfit(("source",), f"the column {name!r} is the project's own", name, fix="give it another alias")


def _outputs(entity: Entity) -> Iterator[Misfit]:
    """Names of the columns that `select_expr` makes: each needs one, a legal one, once."""
    from lakehouse_assets.sql import types

    kept = _KEPT_FROM_UPSTREAM.get(entity.kind, ())
    seen: set[str] = set()
    for where, tree in _select_items(entity):
        name, renamed = output_name(tree)
        if name is None:
            yield Misfit(where, "makes a column without a name", entity.select_expr[where[1]], fix="add AS name")
            continue
        if name == "*":
            continue
        try:
            types.check_column(name)
        except LakehouseError as error:
            yield _refused(where, error)
        if name.lower() in seen:
            yield Misfit(where, f"the column {name!r} is made twice", name, fix="give each an alias of its own")
        seen.add(name.lower())
        if name in kept or (renamed and name in RESERVED_COLUMNS):
            yield Misfit(where, f"the column {name!r} is the project's own", name, fix="give it another alias")


def _select_items(entity: Entity) -> Iterator[tuple[tuple[str, int], exp.Expr]]:
    """The select items that parse, each with its place."""
    from lakehouse_assets.sql import parse

    for position, text in enumerate(entity.select_expr):
        try:
            yield ("select_expr", position), parse.shared_expression(text, "a select item")
        except LakehouseError:
            continue  # reported where the expression itself is judged


def output_name(tree: exp.Expr) -> tuple[str | None, bool]:
    """The name of the column that a select item makes (`*` for all), and whether it was made or renamed here."""
    from sqlglot import exp

    if isinstance(tree, exp.Alias):
        bare = isinstance(tree.this, exp.Column) and tree.this.name == tree.alias
        return tree.alias, not bare
    if isinstance(tree, exp.Star) or (isinstance(tree, exp.Column) and isinstance(tree.this, exp.Star)):
        return "*", False
    if isinstance(tree, exp.Column | exp.Dot):
        return tree.name, isinstance(tree, exp.Dot)
    return None, True


def known_columns(entity: Entity) -> dict[str, pa.DataType | None] | None:
    """The columns that the entity certainly has, with their types where these are known; None where any may come."""
    from lakehouse_assets.sql import dialect
    from lakehouse_assets.sql.types import arrow_schema

    declared: dict[str, pa.DataType | None] | None = None
    if entity.source_schema:
        try:
            declared = {field.name.lower(): field.type for field in arrow_schema(entity.source_schema)}
        except LakehouseError:
            return None
    if not entity.select_expr:
        return declared
    found: dict[str, pa.DataType | None] = {}
    for _, tree in _select_items(entity):
        name, _renamed = output_name(tree)
        if name is None or name == "*":
            return None
        found[name.lower()] = dialect.type_of(tree, declared) if entity.partition_cols else None
    return found


def _columns_exist(entity: Entity) -> Iterator[Misfit]:
    if not (entity.primary_keys or entity.partition_cols):
        return
    columns = known_columns(entity)
    for field in ("primary_keys", "partition_cols"):
        for position, name in enumerate(getattr(entity, field)):
            if columns is not None and name.lower() not in columns:
                yield Misfit((field, position), f"there is no column {name!r}", name, tuple(columns))
    if columns is None or entity.source_format in _APPENDED:
        return
    for position, name in enumerate(entity.partition_cols):
        if not can_partition(columns.get(name.lower())):
            yield Misfit(
                ("partition_cols", position),
                f"{name!r} cannot split a table whose rows are merged or replaced: it is {columns[name.lower()]}",
                name,
                ("DATE", "TINYINT", "SMALLINT", "INT", "BIGINT"),
                "partition by a date or an integer",
            )


def can_partition(kind: pa.DataType | None) -> bool:
    """Whether a column of this type may split a table that is merged or replaced; an unknown type may."""
    import pyarrow as pa

    return kind is None or pa.types.is_date(kind) or pa.types.is_integer(kind)
