"""What passes through a write: numbers, commits, data files, and what a table is made with.

What belongs here: plain values. What does not: anything that opens a table or a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal

import pyarrow as pa


@dataclass(frozen=True)
class Number:
    """The number that a write commits: at most one commit of a table carries `value` for `app_id`.

    Attributes:
        also: numbers of further feeds that the same commit uses up, so that nobody can commit them later.
    """

    app_id: str
    value: int
    plan: str = ""
    also: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Commit:
    """What a write did: the table's version after it, and rows and bytes; `skipped` if the number was there already."""

    version: int
    rows_added: int = 0
    rows_updated: int = 0
    rows_removed: int = 0
    bytes_added: int = 0
    skipped: bool = False


@dataclass(frozen=True)
class Within:
    """Where the rows of a table lie that a merge may touch: they hold NULL in a column, or at least a value.

    Attributes:
        least: an integer, a date, a moment or a text; `None`: only rows with NULL there are touched.
    """

    column: str
    least: int | str | date | datetime | None = None


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of a table: its full path in the table's file system, and its partition values as text."""

    path: str
    rows: int | None = None
    size: int = 0
    partition_values: Mapping[str, str | None] = field(default_factory=dict)
    stats: str = "{}"


@dataclass(frozen=True)
class TableSpec:
    """What a table is created with; nothing of it is altered later except added columns.

    Attributes:
        cluster_by: columns that an engine which clusters keeps near each other; others pay no heed to it.
    """

    schema: pa.Schema
    partition_by: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    comment: str | None = None
    cluster_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """What a catalog of names is to know about a table, or a view.

    Attributes:
        uri: where the table stands, or would: its name follows from that.
        columns: column to comment.
        query: a view's, in Spark SQL over stored tables; `inputs`: these as written there, to their URIs.
    """

    uri: str
    comment: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    query: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Moved:
    """What moved in a table between two versions, as its log says.

    Attributes:
        kind: `none`, `append` (`files` hold the new rows), `images` (the change data feed of `commits` holds them) or
            `rewritten` (a reader has to start over).
        commits: the versions of the range with their actions.
    """

    kind: Literal["none", "append", "images", "rewritten"]
    commits: Sequence[tuple[int, Sequence[Mapping[str, Any]]]] = ()
    files: Sequence[DataFile] = ()
