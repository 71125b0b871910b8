"""DuckDB SQL that reads the files of a Delta table, and predicates that select partitions.

Files are read by name with the table's own types: columns that a file lacks are NULL, types are never guessed.
Partition values come from the log, not from the paths: there they lose their types and NULLs.
What does not belong here: Spark SQL (`lakehouse_assets/sql`), running anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from lakehouse_assets.engines.duckdb_types import duckdb_type, quoted
from lakehouse_assets.lake.values import DataFile

_FILE, _PATH = "__lakehouse_file", "__lakehouse_path"


def scan(schema: pa.Schema, partition_by: Sequence[str], files: Sequence[DataFile], prefix: str) -> str:
    """A SELECT of the rows of `files` (at least one), whose paths DuckDB reaches under `prefix`."""
    paths = ", ".join(literal(prefix + file.path) for file in files)
    stored = [f for f in schema if f.name not in partition_by]
    columns = ", ".join(
        f"{literal(f.name)}: {{name: {literal(f.name)}, type: {literal(duckdb_type(f.type))}, default_value: NULL}}"
        for f in stored
    )
    if not partition_by:
        return f"SELECT * FROM read_parquet([{paths}], schema = MAP {{{columns}}})"
    rows = ", ".join(
        "(" + ", ".join([literal(prefix + f.path), *(value(f.partition_values.get(p)) for p in partition_by)]) + ")"
        for f in files
    )
    names = ", ".join(quoted(name) for name in (_PATH, *partition_by))
    chosen = ", ".join(
        f"CAST(p.{quoted(f.name)} AS {duckdb_type(f.type)}) AS {quoted(f.name)}"
        if f.name in partition_by
        else f"d.{quoted(f.name)}"
        for f in schema
    )
    return (
        f"SELECT {chosen} FROM read_parquet([{paths}], schema = MAP {{{columns}}}, filename = '{_FILE}') d "
        f'JOIN (VALUES {rows}) p({names}) ON d."{_FILE}" = p."{_PATH}"'
    )


def partitions_predicate(partitions: Sequence[Mapping[str, Any]]) -> str:
    """What selects the rows of these partitions (column -> value), in the SQL that delta-rs takes."""
    names = list(partitions[0])
    if len(names) == 1:
        return _is_one_of(names[0], [values[names[0]] for values in partitions])
    grouped: dict[str, tuple[Any, list[Mapping[str, Any]]]] = {}
    for values in partitions:
        rest = {name: item for name, item in values.items() if name != names[0]}
        grouped.setdefault(repr(values[names[0]]), (values[names[0]], []))[1].append(rest)
    terms = [f"({_is_one_of(names[0], [first])} AND {partitions_predicate(rest)})" for first, rest in grouped.values()]
    return _any(terms)


def _any(terms: Sequence[str]) -> str:
    """Terms joined by OR as a balanced tree: a chain of thousands exhausts the stack of whoever plans it."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({_any(terms[:half])} OR {_any(terms[half:])})"


def _is_one_of(name: str, values: Sequence[Any]) -> str:
    texts = dict.fromkeys(_text(item) for item in values if item is not None)
    terms = [f"{quoted(name)} IN ({', '.join(map(literal, texts))})"] if texts else []
    terms += [f"{quoted(name)} IS NULL"] if None in values else []
    return f"({' OR '.join(terms)})"


def _text(item: Any) -> str:
    return str(item).lower() if isinstance(item, bool) else str(item)


def literal(text: str) -> str:
    """A text of DuckDB and delta-rs."""
    return "'" + text.replace("'", "''") + "'"


def value(text: str | None) -> str:
    """A text, or NULL."""
    return "NULL" if text is None else literal(text)
