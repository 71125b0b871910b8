"""The id of a quarantined row: a hash of what was received, the same on both engines and after every rebuild.

What was received is written as one text, column by column in the order of their names, NULLs left out, so that a
column that is added later changes no id. When it was received (`_ingested_at`) does not count, nor the batch.
What does not belong here: what is done with ids.

A DOUBLE is written with 37 digits after the point below 1, with 18 from there on, with none from 1e20 on: that tells
all of them apart from 1e-20 to 1e38; beyond that only the sign tells. Of bytes that are no text only the length tells.
Rows that differ in nothing else share an id, and are corrected together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa

from lakehouse_assets.sql.expand import quoted, text_literal
from lakehouse_assets.tables.rules import UPSTREAM

_WHEN = ("_ingested_at",)
"""Columns of a received row that are not the same after the upstream table was rebuilt."""
_RAW = ("_raw", "_source", "_position")
"""What tells rows apart that have no types."""


def id_of(columns: pa.Schema) -> str:
    """The Spark SQL of the id (16 hex digits) over rows of a quarantine with these columns."""
    raw = [columns.field(name) for name in _RAW if name in columns.names]
    text = _fields([(f, quoted(f.name)) for f in raw], 0)
    if UPSTREAM in columns.names:
        received = [f for f in columns.field(UPSTREAM).type if f.name not in _WHEN]
        typed = _fields([(f, f"{UPSTREAM}.{quoted(f.name)}") for f in received], 0)
        text = f"CASE WHEN {UPSTREAM} IS NULL THEN {text} ELSE {typed} END"
    return f"substring(md5({text}), 1, 16)"


def _fields(fields: Iterable[tuple[pa.Field, str]], depth: int) -> str:
    """The fields that are not NULL, by name."""
    ordered = sorted(fields, key=lambda pair: pair[0].name.lower())
    parts = [
        f"coalesce(concat({text_literal(f.name.lower() + '=')}, {_text(sql, f.type, depth)}, ';'), '')"
        for f, sql in ordered
    ]
    return f"concat('', {', '.join(parts)})" if parts else "''"


def _text(sql: str, kind: pa.DataType, depth: int) -> str:
    """A value as text; NULL if it is."""
    return next(text for is_kind, text in _TEXTS if is_kind(kind))(sql, kind, depth)


def _plain(sql: str, _kind: pa.DataType, _depth: int) -> str:
    return f"CAST({sql} AS STRING)"


def _measured(sql: str, _kind: pa.DataType, _depth: int) -> str:
    return f"concat(CAST(char_length({sql}) AS STRING), ':', {sql})"


def _bytes(sql: str, _kind: pa.DataType, _depth: int) -> str:
    return f"coalesce(TRY_CAST({sql} AS STRING), concat('bytes ', CAST(length({sql}) AS STRING)))"


def _moment(sql: str, kind: pa.DataType, _depth: int) -> str:
    return f"CAST(unix_micros({sql}) AS STRING)" if kind.tz else f"CAST({sql} AS STRING)"


def _number(sql: str, _kind: pa.DataType, depth: int) -> str:
    v = f"v{depth}"
    size = f"abs({v})"

    def digits(scale: int) -> str:
        return f"CAST(TRY_CAST({v} AS DECIMAL(38, {scale})) AS STRING)"

    text = (
        f"CASE WHEN {v} IS NULL THEN NULL WHEN isnan({v}) THEN 'nan' "
        f"WHEN {size} >= 1e38 THEN CASE WHEN {v} > 0 THEN '+' ELSE '-' END "
        f"WHEN {size} >= 1e20 THEN {digits(0)} WHEN {size} >= 1 THEN {digits(18)} WHEN {size} >= 1e-20 THEN "
        f"{digits(37)} WHEN {v} > 0 THEN 'tiny' WHEN {v} < 0 THEN '-tiny' ELSE '0' END"
    )
    return f"get(transform(array(CAST({sql} AS DOUBLE)), {v} -> {text}), 0)"


def _struct(sql: str, kind: pa.DataType, depth: int) -> str:
    inner = _fields([(f, f"{sql}.{quoted(f.name)}") for f in kind], depth)
    return f"CASE WHEN {sql} IS NOT NULL THEN concat('{{', {inner}, '}}') END"


def _list(sql: str, kind: pa.DataType, depth: int) -> str:
    v = f"v{depth}"
    element = f"concat(coalesce({_text(v, kind.value_type, depth + 1)}, '-'), ';')"
    return f"concat('[', array_join(transform({sql}, {v} -> {element}), ''), ']')"


def _map(sql: str, kind: pa.DataType, depth: int) -> str:
    keys = _list(f"map_keys({sql})", pa.list_(kind.key_type), depth)
    values = _list(f"map_values({sql})", pa.list_(kind.item_type), depth)
    return f"concat({keys}, {values})"


def _nothing(_sql: str, _kind: pa.DataType, _depth: int) -> str:
    return "CAST(NULL AS STRING)"


_TEXTS: Sequence[tuple[Callable[[pa.DataType], bool], Callable[[str, pa.DataType, int], str]]] = (
    (pa.types.is_null, _nothing),
    (pa.types.is_string, _measured),
    (pa.types.is_large_string, _measured),
    (pa.types.is_binary, _bytes),
    (pa.types.is_timestamp, _moment),
    (pa.types.is_floating, _number),
    (pa.types.is_struct, _struct),
    (pa.types.is_map, _map),
    (pa.types.is_list, _list),
    (lambda _kind: True, _plain),
)
"""Types, and how a value of them is written."""
