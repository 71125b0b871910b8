"""Columns that stand in paths: `day=2024-01-01/shop=7/part.csv`.

What belongs here: their names, types and values. What does not: listing.

As in Spark, a column is INT where every value is a whole number (BIGINT where one needs it; `01` is 1), DATE where
every value is yyyy-MM-dd, else STRING; `__HIVE_DEFAULT_PARTITION__` and a file outside of such a directory are NULL.
Spark also guesses doubles and timestamps: those stay STRING here. A column that is declared in `source_schema` has the
declared type. The path's value stands before one of the same name in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import pyarrow as pa

from lakehouse_assets.sources.files_listing import FileStat, partition_of
from lakehouse_assets.sources.files_texts import Patterns, cast_texts
from lakehouse_assets.sources.files_types import check_name

_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def partition_columns(files: Iterable[FileStat]) -> pa.Schema:
    """The columns that the paths of these files hold, with their types.

    Raises:
        TypeRefused: a table cannot have a column of this name.
    """
    values: dict[str, list[str]] = {}
    for file in files:
        for key, text in partition_of(file.path).items():
            values.setdefault(key, []).extend([] if text is None else [text])
    return pa.schema([(check_name(key), _type(texts)) for key, texts in values.items()])


def partition_values(
    named: Mapping[str, str | None], columns: Mapping[str, pa.DataType], patterns: Patterns
) -> tuple[dict[str, pa.Scalar], set[str]]:
    """The values of `columns` as a path names them, and those of them that do not fit their type (NULL then)."""
    given = {name.lower(): text for name, text in named.items()}
    values: dict[str, pa.Scalar] = {}
    failed: set[str] = set()
    for name, to in columns.items():
        array, mask = cast_texts(pa.array([given.get(name.lower())], pa.string()), to, patterns)
        values[name] = array[0]
        if mask is not None:
            failed.add(name)
    return values, failed


def _type(texts: list[str]) -> pa.DataType:
    if texts and all(_INTEGER.fullmatch(text) for text in texts):
        return pa.int32() if all(-(2**31) <= int(text) < 2**31 for text in texts) else pa.int64()
    if texts and all(_DATE.fullmatch(text) for text in texts):
        array, failed = cast_texts(pa.array(sorted(set(texts))), pa.date32(), Patterns())
        return array.type if failed is None else pa.string()
    return pa.string()
