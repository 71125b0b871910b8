"""Corrected rows as people give them: from a file, or by SQL over the rows that are in quarantine.

What belongs here: reading and checking what is given, and what is answered. What does not: judging it, writing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakehouse_assets.engines.base import Relation
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import SettingsError
from lakehouse_assets.lake.values import Commit
from lakehouse_assets.sources.base import Notice
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.sql.parse import parse_expression, render
from lakehouse_assets.sql.scd import EVENT
from lakehouse_assets.sql.types import spark_type
from lakehouse_assets.tables.base import Work
from lakehouse_assets.tables.history_log import REFERS
from lakehouse_assets.tables.history_shape import LANDING, event_columns
from lakehouse_assets.tables.rules import UPSTREAM


@dataclass(frozen=True)
class Asked:
    """Which rows are to be judged again, and what they become."""

    ids: tuple[str, ...] = ()
    rule: str | None = None
    file: Path | None = None
    patch: tuple[str, ...] = ()


@dataclass(frozen=True)
class Requeued:
    """What became of rows that were judged again.

    Attributes:
        asked: rows that were meant.
        woven: of these, those that count now.
        still_broken: those that break a rule still, with `_event` and `_reasons`.
        unchanged: those that were corrected before.
    """

    asked: int = 0
    woven: int = 0
    still_broken: Sequence[Mapping[str, Any]] = ()
    unchanged: int = 0
    commits: Mapping[TableName, Commit] = field(default_factory=dict)


@dataclass(frozen=True)
class Rewound:
    """What a rewind took back, or brought back: events, keys, and the commits."""

    events: int = 0
    keys: int = 0
    commits: Mapping[TableName, Commit] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()


def patched(work: Work, columns: Sequence[str], rows: Relation, patch: Sequence[str]) -> Relation:
    """The rows with `column = expression` applied."""
    made = assignments(patch, columns)
    items = [f"{made.get(name, quoted(name))} AS {quoted(name)}" for name in columns]
    items += _landing(work, rows, "rows")
    return work.engine.query(f"SELECT {', '.join(items)}, {EVENT} AS {REFERS} FROM rows", {"rows": rows})


def _landing(work: Work, rows: Relation, alias: str) -> list[str]:
    """Where and when the rows were landed, by which a sequence may go."""
    received = work.engine.schema(rows).field(UPSTREAM).type
    names = [field.name for field in received if field.name in LANDING]
    return [f"{alias}.{UPSTREAM}.{quoted(name)} AS {quoted(name)}" for name in names]


def assignments(patch: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Column -> expression, of texts such as `v = v / 10`.

    Raises:
        SettingsError: a text is no assignment, or its column is not there.
    """
    known = {name.lower(): name for name in columns}
    found = {}
    for text in patch:
        name, equals, expression = text.partition("=")
        column = known.get(name.strip().strip("`").lower())
        if not equals or not expression.strip():
            raise SettingsError(f"{text!r} corrects nothing", value=text, fix='write "column = expression"')
        if column is None:
            raise SettingsError(
                f"there is no column {name.strip()!r} to correct", value=name.strip(), choices=columns,
                fix="name one of these",
            )  # fmt: skip
        found[column] = render(parse_expression(expression, f"--set {text!r}"))
    return found


def read_corrections(path: Path) -> pa.Table:
    """Corrected rows from a file: texts from CSV, values from JSON lines and Parquet.

    Raises:
        SettingsError: the file cannot be read, or has no column `_event`.
    """
    from pyarrow import csv, json, parquet

    form = path.suffix.lower()
    try:
        if form == ".csv":
            names = csv.open_csv(path).schema.names
            texts = csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=[""],
                quoted_strings_can_be_null=False,
            )  # fmt: skip
            rows = csv.read_csv(path, convert_options=texts)
        elif form in (".json", ".jsonl", ".ndjson"):
            rows = json.read_json(path)
        elif form == ".parquet":
            rows = parquet.read_table(path)
        else:
            raise SettingsError(
                "corrections cannot be read from such a file", value=str(path), choices=(".csv", ".json", ".parquet")
            )
    except (pa.ArrowException, OSError) as error:
        raise SettingsError(f"{path} cannot be read: {error}", value=str(path), fix="mend the file") from error
    if EVENT not in rows.schema.names:
        raise SettingsError(
            f"{path} has no column {EVENT}, so nobody knows which rows it corrects", value=", ".join(rows.schema.names),
            fix="export the rows, correct them, and keep the column: lakehouse quarantine show TABLE --format csv",
        )  # fmt: skip
    return rows


def from_file(work: Work, log: pa.Schema, rows: Relation, given: pa.Table) -> Relation:
    """The rows with the columns that a file has."""
    columns = event_columns(log.names)
    known = {name.lower(): name for name in columns}
    have = {known[name.lower()]: name for name in given.schema.names if name.lower() in known}
    strange = [name for name in given.schema.names if name.lower() not in known and not name.startswith("_")]
    if strange:
        raise SettingsError(
            f"the file has a column {strange[0]!r}, which the table's events do not have", value=strange[0],
            choices=columns, fix="remove or rename it",
        )  # fmt: skip
    items = [
        f"CAST(g.{quoted(have[name])} AS {spark_type(log.field(name).type)}) AS {quoted(name)}"
        if name in have
        else f"r.{quoted(name)}"
        for name in columns
    ]
    items += _landing(work, rows, "r")
    sql = f"SELECT {', '.join(items)}, r.{EVENT} AS {REFERS} FROM rows AS r JOIN given AS g ON r.{EVENT} = g.{EVENT}"
    return work.engine.query(sql, {"rows": rows, "given": work.engine.from_arrow(given)})
