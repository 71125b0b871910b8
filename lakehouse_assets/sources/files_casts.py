"""Typed values (of Parquet, ORC, Avro) to the columns of a table; a value that does not fit is marked.

What belongs here: which type may become which, and that nothing is lost on the way: a number, date or time fits
when casting it back gives the same again. What does not: texts (`files_texts.py`), nested values
(`files_values.py`), types alone (`files_types.py`).
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as pat

from lakehouse_assets.sources.files_texts import Cast, Patterns, bisected, cast_texts, localized
from lakehouse_assets.sources.files_types import declared_type, is_listing
from lakehouse_assets.sources.files_values import column
from lakehouse_assets.sql.types import TIMESTAMP, TIMESTAMP_NTZ


def cast_values(values: pa.Array, to: pa.DataType, patterns: Patterns) -> Cast:
    """A column of a file as a column of type `to`, and which rows did not fit.

    Raises:
        LookupError: the types do not go together.
    """
    values = plain(values)
    if values.type == to:
        return values, None
    if not castable(values.type, to):
        raise LookupError(f"{values.type} is not {to}")
    if pat.is_null(values.type):
        return pa.nulls(len(values), to), None
    if pat.is_nested(values.type):
        return _nested(values, to, patterns)
    if is_text(values.type):
        return cast_texts(values.cast(pa.string()), to, patterns)
    if pat.is_timestamp(values.type):
        return _instants(values, to, patterns.zone)
    if pat.is_date(values.type) and pat.is_timestamp(to):
        naive, failed = bisected(values, lambda some: some.cast(TIMESTAMP_NTZ))
        return (naive if to == TIMESTAMP_NTZ else localized(naive, patterns.zone)), failed
    if pat.is_time(values.type) or pat.is_duration(values.type):
        values = values.cast(to) if pat.is_string(to) else values.view(f"int{values.type.bit_width}")
    found, failed = bisected(values, lambda some: some.cast(to))
    if pat.is_string(to) or pat.is_binary(to):
        return found, failed
    return _exact(values, found, failed)


def castable(dt: pa.DataType, to: pa.DataType) -> bool:
    """Whether values of a file's type (`plain`) can be told apart as values of a column's type at all."""
    if dt == to or pat.is_null(dt):
        return True
    if is_listing(dt):
        return pat.is_list(to) and castable(dt.value_type, to.value_type)
    if pat.is_map(dt):
        return pat.is_map(to) and castable(dt.key_type, to.key_type) and castable(dt.item_type, to.item_type)
    if pat.is_struct(dt):
        inner = {f.name: f.type for f in dt.fields}
        return pat.is_struct(to) and all(castable(inner.get(f.name, pa.null()), f.type) for f in to.fields)
    if pat.is_nested(to) or pat.is_nested(dt):
        return False
    return is_text(dt) or pat.is_string(to) or _related(dt, to)


def _related(dt: pa.DataType, to: pa.DataType) -> bool:
    """Whether two plain types, none of them a text, are of one kind."""
    if _is_number(dt):
        return _is_number(to)
    if pat.is_timestamp(dt):
        return to == TIMESTAMP or (dt.tz is None and (to == TIMESTAMP_NTZ or pat.is_date(to)))
    if pat.is_date(dt):
        return pat.is_date(to) or pat.is_timestamp(to)
    if pat.is_time(dt) or pat.is_duration(dt):
        return to == pa.int64()
    return pat.is_binary(to) and (pat.is_large_binary(dt) or pat.is_fixed_size_binary(dt) or pat.is_binary_view(dt))


def plain(values: pa.Array) -> pa.Array:
    """`values` without dictionary, run-end or extension around them, nested names and nullability as in a table."""
    if isinstance(values, pa.ExtensionArray):
        return plain(values.storage)
    if pat.is_run_end_encoded(values.type):
        return plain(pc.run_end_decode(values))
    if pat.is_dictionary(values.type):
        return plain(values.dictionary_decode())
    if pat.is_float16(values.type):
        return values.cast(pa.float32())
    if pat.is_nested(values.type) and values.type != (normal := declared_type(values.type)):
        return values.cast(normal)
    return values


def is_text(dt: pa.DataType) -> bool:
    """Whether values are texts, however they are laid out."""
    return pat.is_string(dt) or pat.is_large_string(dt) or pat.is_string_view(dt)


def _is_number(dt: pa.DataType) -> bool:
    whole = pat.is_decimal(dt) and dt.scale >= 0
    return pat.is_integer(dt) or pat.is_floating(dt) or pat.is_boolean(dt) or whole


def _exact(values: pa.Array, found: pa.Array, failed: pa.Array | None) -> Cast:
    """Rows whose value, cast back, is another one do not fit either."""
    back = found.cast(values.type, safe=False)
    same = pc.equal(back, values)
    if pat.is_floating(values.type):
        same = pc.or_(same, pc.and_(pc.is_nan(back), pc.is_nan(values)))
    return _both((found, pc.invert(pc.fill_null(same, True))), failed)


def _instants(values: pa.Array, to: pa.DataType, zone: str) -> Cast:
    """Times of any unit: the part below the microsecond must be nothing; without a zone they are read in `zone`."""
    micros = pa.timestamp("us", tz=values.type.tz)
    if pat.is_string(to):
        return values.cast(to), None
    whole, failed = bisected(values, lambda some: some.cast(micros, safe=some.type.unit != "ns"))
    if values.type.unit == "ns":
        whole, failed = _exact(values, whole, failed)
    if pat.is_date(to):
        return _exact(whole, whole.cast(to, safe=False), failed)
    if to == TIMESTAMP and values.type.tz is None:
        return localized(whole, zone), failed
    return whole.cast(to), failed


def _both(cast: Cast, failed: pa.Array | None) -> Cast:
    """The column with two reasons not to fit; rows that do not fit are NULL."""
    values, more = cast
    masks = [mask for mask in (more, failed) if mask is not None]
    if not masks:
        return values, None
    mask = masks[0] if len(masks) == 1 else pc.or_(*masks)
    if not pc.any(mask).as_py():
        return values, None
    return pc.if_else(mask, pa.scalar(None, values.type), values), mask


def _nested(values: pa.Array, to: pa.DataType, patterns: Patterns) -> Cast:
    """Lists, maps and structs whose parts change: value by value."""
    rows = []
    unreadable = []
    for value in values:
        try:
            rows.append(python_value(value))
            unreadable.append(False)
        except ValueError:  # a part below the microsecond has no Python value
            rows.append(None)
            unreadable.append(True)
    return _both(column(rows, to, patterns), pa.array(unreadable) if any(unreadable) else None)


def python_value(scalar: pa.Scalar) -> Any:
    """A value as Python holds it, whatever other libraries are installed: Arrow would give one of pandas, if it can.

    Raises:
        ValueError: it has a part below the microsecond.
    """
    kind = _in_micros(scalar.type)
    return (scalar if kind == scalar.type else scalar.cast(kind)).as_py()


def _in_micros(kind: pa.DataType) -> pa.DataType:
    """The type with microseconds in the place of nanoseconds."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", tz=kind.tz)
    if pa.types.is_time64(kind):
        return pa.time64("us")
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_in_micros(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(_in_micros(kind.key_type), _in_micros(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_in_micros(field.type)) for field in kind])
    return kind
