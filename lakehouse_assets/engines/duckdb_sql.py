"""DuckDB SQL that reads the files of a Delta table.

Files are read by name with the table's own types: columns that a file lacks are NULL, types are never guessed.
Partition values come from the log, not from the paths: there they lose their types and NULLs.
What does not belong here: Spark SQL (`lakehouse_assets/sql`), running anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from lakehouse_assets.engines.duckdb_types import duckdb_type, quoted
from lakehouse_assets.lake.values import DataFile

_FILE, _PATH = "__lakehouse_file", "__lakehouse_path"


def scan(
    schema: pa.Schema, partition_by: Sequence[str], files: Sequence[DataFile], prefix: str, *, as_is: bool = False
) -> str:
    """A SELECT of the rows of `files` (at least one), whose paths DuckDB reaches under `prefix`.

    Args:
        as_is: the files have the table's very columns; DuckDB then opens them early, and reads one in several threads.
    """
    paths = ", ".join(literal(prefix + file.path) for file in files)
    stored = [f for f in schema if f.name not in partition_by]
    columns = ", ".join(
        f"{literal(f.name)}: {{name: {literal(f.name)}, type: {literal(duckdb_type(f.type))}, default_value: NULL}}"
        for f in stored
    )
    read = f"[{paths}]" if as_is else f"[{paths}], schema = MAP {{{columns}}}"
    if not partition_by:
        return f"SELECT {', '.join(quoted(f.name) for f in schema)} FROM read_parquet({read})"
    if all(f.partition_values == files[0].partition_values for f in files):
        chosen = ", ".join(
            f"CAST({value(files[0].partition_values.get(f.name))} AS {duckdb_type(f.type)}) AS {quoted(f.name)}"
            if f.name in partition_by
            else quoted(f.name)
            for f in schema
        )
        return f"SELECT {chosen} FROM read_parquet({read})"
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
        f"SELECT {chosen} FROM read_parquet({read}, filename = '{_FILE}') d "
        f'JOIN (VALUES {rows}) p({names}) ON d."{_FILE}" = p."{_PATH}"'
    )


def literal(text: str) -> str:
    """A text of DuckDB and delta-rs."""
    return "'" + text.replace("'", "''") + "'"


def value(text: str | None) -> str:
    """A text, or NULL."""
    return "NULL" if text is None else literal(text)
