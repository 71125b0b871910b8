"""Whether the columns of two relations fit an as-of join, and what it gives.

What belongs here: refusals, each by the name of its column, before anything is read. What does not: joining.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
from pyarrow import types

from lakehouse_assets.engines.asof_spec import DIRECTIONS, AsOf
from lakehouse_assets.errors import CatalogError


def result_columns(left: pa.Schema, right: pa.Schema, how: AsOf) -> pa.Schema:
    """The columns of the result: the left ones, then the brought ones, which may be NULL.

    Raises:
        CatalogError: the join cannot be made of these columns; the message names the first that does not fit.
    """
    _check_options(how)
    _check_there("left", left, (*how.by, how.time))
    _check_there("right", right, how.right_columns)
    for name in how.by:
        _check_key(name, left.field(name).type, right.field(name).type)
    _check_times(how, left.field(how.time).type, right.field(how.right_time).type)
    for name in how.order:
        if not _plain(right.field(name).type, floats=True):
            raise CatalogError(
                f"the as-of join cannot order rows by the right column {name!r}, which holds {right.field(name).type}",
                fix="bring the parts of it that are needed, each as a column of its own",
            )
    _check_names(left, how)
    brought = [pa.field(name, right.field(source).type) for source, name in how.columns.items()]
    return pa.schema([*left, *brought])


def nanoseconds(dtype: pa.DataType) -> int:
    """How many nanoseconds one step of a time column is."""
    return {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[dtype.unit] if types.is_timestamp(dtype) else 1


def _check_options(how: AsOf) -> None:
    if not how.by:
        raise CatalogError("the as-of join has no key column", fix="name the columns that both sides share in by")
    if how.direction not in DIRECTIONS:
        raise CatalogError("the as-of join looks nowhere", value=how.direction, choices=DIRECTIONS)
    if how.tolerance is not None and how.tolerance < 0:
        raise CatalogError(
            "the tolerance of the as-of join is negative", value=how.tolerance, fix="give nanoseconds, 0 or more"
        )


def _check_there(side: str, columns: pa.Schema, names: Iterable[str]) -> None:
    for name in names:
        if (count := columns.names.count(name)) != 1:
            raise CatalogError(
                f"the {side} side of the as-of join has {'no' if count == 0 else 'more than one'} column {name!r}",
                value=name,
                choices=columns.names,
            )


def _check_key(name: str, left: pa.DataType, right: pa.DataType) -> None:
    left, right = _decoded(left), _decoded(right)
    if left != right:
        raise CatalogError(
            f"the key {name!r} of the as-of join is {left} on the left side and {right} on the right",
            fix="cast one of them",
        )
    if not _plain(left, floats=False):
        raise CatalogError(
            f"the as-of join cannot match rows by the key {name!r}, which holds {left}",
            fix="cast it to a text or an integer",
        )


def _check_times(how: AsOf, left: pa.DataType, right: pa.DataType) -> None:
    for side, name, dtype in (("left", how.time, left), ("right", how.right_time, right)):
        if not types.is_timestamp(dtype) and not types.is_signed_integer(dtype):
            raise CatalogError(
                f"the {side} time {name!r} of the as-of join holds {dtype}",
                fix="give a timestamp, or an integer of nanoseconds",
            )
    if left != right and not (types.is_signed_integer(left) and types.is_signed_integer(right)):
        raise CatalogError(
            f"the times of the as-of join differ: {how.time!r} is {left} and {how.right_time!r} is {right}",
            fix="cast one of them to the other's unit and zone",
        )


def _check_names(left: pa.Schema, how: AsOf) -> None:
    taken = {name.lower(): name for name in left.names}  # names in a table differ in more than capitals
    for source, name in how.columns.items():
        if (other := taken.get(name.lower())) is not None:
            raise CatalogError(
                f"the as-of join brings {source!r} as {name!r}, and there is a column {other!r} already",
                fix="bring it under another name",
            )
        taken[name.lower()] = name


def _decoded(dtype: pa.DataType) -> pa.DataType:
    return dtype.value_type if types.is_dictionary(dtype) else dtype


def _plain(dtype: pa.DataType, *, floats: bool) -> bool:
    """Whether values of a type have one order that everybody knows."""
    return any(is_kind(_decoded(dtype)) for is_kind in _kinds(floats))


def _kinds(floats: bool) -> Iterator[Callable[[pa.DataType], bool]]:
    yield from (types.is_integer, types.is_boolean, types.is_temporal, types.is_decimal)
    yield from (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    if floats:
        yield types.is_floating
