"""Arrays, structs and maps, and the functions that take a lambda.

What does not belong here: `x[i]` and `x.y` (`expressions.py`), explode (`relations.py`).
"""

from __future__ import annotations

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.sql import coerce
from lakehouse_assets.sql.functions import Call, Function
from lakehouse_assets.sql.typed import (
    BOOL,
    INT,
    NULL,
    STRING,
    Typed,
    common,
    duckdb_name,
    element_type,
    quoted,
    refused,
    show,
    text,
)
from lakehouse_assets.sql.types import check_column


def _array(call: Call) -> Typed:
    call.expect(1, 1000)
    values, kind = call.alike()
    sql = f"[{', '.join(value.sql for value in values)}]"
    return call.give(sql, None if kind is None else pa.list_(kind))


def _array_contains(call: Call) -> Typed:
    call.expect(2)
    items, wanted = call.array(0), call.args[1]
    if items.type is not None and wanted.type is not None:
        if wanted.type == NULL:
            raise refused("array_contains() of NULL always is NULL", "test the elements with exists(…, x -> x IS NULL)")
        kind = common(items.type.value_type, wanted.type)
        wanted = coerce.widen(wanted, kind)
        items = coerce.widen(items, pa.list_(kind))
    return call.give(
        f"CASE WHEN {items.sql} IS NULL OR {wanted.sql} IS NULL THEN NULL "
        f"WHEN list_contains({items.sql}, {wanted.sql}) THEN true "
        f"WHEN len({items.sql}) > list_count({items.sql}) THEN NULL ELSE false END",
        BOOL,
    )


def _size(call: Call) -> Typed:
    call.expect(1)
    value = call.args[0]
    if value.type is not None and pa.types.is_map(value.type):
        return call.give_cast(f"cardinality({value.sql})", INT)
    return call.give_cast(f"len({call.array(0).sql})", INT)


def _get(call: Call) -> Typed:
    call.expect(2)
    items, at = call.array(0), call.integer(1, pa.int64()).sql
    kind = element_type(items.type)
    return call.give(f"CASE WHEN {at} >= 0 THEN ({items.sql})[{at} + 1] END", kind)


def _try_element_at(call: Call) -> Typed:
    call.expect(2)
    items = call.args[0]
    if items.type is not None and pa.types.is_map(items.type):
        key = coerce.widen(call.args[1], common(items.type.key_type, call.args[1].type))
        return call.give(f"({items.sql})[{key.sql}]", items.type.item_type)
    if call.whole(1) == 0:
        raise refused("the first element has the index 1")
    kind = call.array(0).type
    return call.give(f"({items.sql})[{call.whole(1)}]", element_type(kind))


def _struct(call: Call) -> Typed:
    call.expect(1, 1000)
    names = [_field_name(node, position) for position, node in enumerate(call.node.expressions)]
    return _pack(call, names, call.args)


def _field_name(node: exp.Expr, position: int) -> str:
    if isinstance(node, exp.Alias):
        return node.alias
    return node.name if isinstance(node, exp.Column | exp.Dot) else f"col{position + 1}"


def _named_struct(call: Call) -> Typed:
    if not call.args or len(call.args) % 2:
        raise refused("named_struct() takes names and values by turns", "write named_struct('a', a, 'b', b)")
    names = [call.literal(i) for i in range(0, len(call.args), 2)]
    return _pack(call, names, call.args[1::2])


def _pack(call: Call, names: list[str], values: list[Typed]) -> Typed:
    if len({name.lower() for name in names}) != len(names):
        raise refused(f"{call.name}() has two fields of one name", "give each an alias of its own")
    if any(value.type == NULL for value in values):
        raise refused(f"{call.name}() has a field that is NULL and has no type", "write CAST(NULL AS type)")
    fields = ", ".join(
        f"{quoted(check_column(n))} := {coerce.widen(v, v.type).sql}" for n, v in zip(names, values, strict=True)
    )
    if any(value.type is None for value in values):
        return call.give(f"struct_pack({fields})", None)
    kind = pa.struct([pa.field(n, v.type) for n, v in zip(names, values, strict=True)])
    return call.give(f"struct_pack({fields})", kind)


def _lambda(call: Call, boolean: bool) -> tuple[Typed, Typed, str]:
    call.expect(2)
    items = call.array(0)
    node = call.node.expressions[1]
    if not isinstance(node, exp.Lambda) or len(node.expressions) != 1:
        raise refused(
            f"{call.name}() takes an array and a lambda of one parameter", f"write {call.name}(items, x -> …)"
        )
    name = node.expressions[0].name
    kind = element_type(items.type)
    body = call.translator.with_variable(name, Typed(quoted(name), kind), node.this)
    if boolean and body.type not in (None, BOOL, NULL):
        raise refused(f"{call.name}(): the lambda must give true or false, not {show(body.type)}")
    return items, body, quoted(name)


def _filter(call: Call) -> Typed:
    items, body, name = _lambda(call, boolean=True)
    return call.give(f"list_filter({items.sql}, lambda {name}: {body.sql})", items.type)


def _transform(call: Call) -> Typed:
    items, body, name = _lambda(call, boolean=False)
    kind = None if body.type is None else pa.list_(body.type)
    return call.give(f"list_transform({items.sql}, lambda {name}: {coerce.widen(body, body.type).sql})", kind)


def _exists(call: Call) -> Typed:
    """True if one is true, else NULL if one is NULL, else false."""
    items, body, name = _lambda(call, boolean=True)
    judged = f"list_transform({items.sql}, lambda {name}: CAST({body.sql} AS {duckdb_name(BOOL)}))"
    return call.give(
        f"CASE WHEN {items.sql} IS NULL THEN NULL WHEN list_contains({judged}, true) THEN true "
        f"WHEN len({judged}) > list_count({judged}) THEN NULL ELSE false END",
        BOOL,
    )


def _map_keys(call: Call) -> Typed:
    call.expect(1)
    kind = call.args[0].type
    if kind is not None and not pa.types.is_map(kind):
        raise refused(f"{call.name}() takes a MAP, not {show(kind)}")
    inner = None if kind is None else pa.list_(kind.key_type if call.name == "map_keys" else kind.item_type)
    return call.give(f"{call.name}({call.args[0].sql})", inner)


def _array_join(call: Call) -> Typed:
    call.expect(2)
    items = call.array(0)
    if element_type(items.type) not in (None, STRING):
        raise refused("array_join() joins an array of STRING", "write transform(items, x -> CAST(x AS STRING))")
    separator = text(call.literal(1))
    return call.give(
        f"CASE WHEN {items.sql} IS NOT NULL THEN coalesce(array_to_string({items.sql}, {separator}), '') END", STRING
    )


FUNCTIONS = {
    "array": Function("an array of one type", _array),
    "array_contains": Function("NULL where it is not found but a NULL is", _array_contains),
    "array_join": Function("an array of text, joined by a literal; NULL is skipped", _array_join),
    "size": Function("of an array or map; NULL for NULL", _size),
    "cardinality": Function("of an array or map; NULL for NULL", _size),
    "array_size": Function("of an array; NULL for NULL", _size),
    "get": Function("an element of an array by index (0 is the first), NULL beyond its end", _get),
    "try_element_at": Function(
        "an element by literal index (1 is the first, -1 the last) or key, NULL if it is not there", _try_element_at
    ),
    "struct": Function("a struct of named values", _struct),
    "named_struct": Function("a struct of names and values by turns", _named_struct),
    "filter": Function("the elements for which a lambda is true", _filter),
    "transform": Function("every element through a lambda", _transform),
    "exists": Function("whether a lambda is true for an element", _exists),
    "map_keys": Function("of a map", _map_keys),
    "map_values": Function("of a map", _map_keys),
}
