"""What the tests of evolution share: a bronze stream whose columns change, and a silver table over it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from lakehouse_assets.sources.memory import MemorySource
from lakehouse_assets_tests.tables.lab import Lab

ROW_COLUMNS = ("_position", "_source")


class SameStream(MemorySource):
    """A stream that stays the same although its columns change."""

    def incarnation(self, position):
        """Always the same."""
        return "same"


class Shifting:
    """A lake with `bronze.t`, fed by a stream whose columns change, and with `silver` also `silver.t`."""

    def __init__(self, root, mode: str | None = None, bronze: str = "", silver: str | None = None) -> None:
        self.it = Lab(root / "lake", self.yaml(mode, bronze, silver))
        self.stream = self.it.streams.setdefault("stream", [])
        self.declare(mode, bronze, silver)

    @staticmethod
    def yaml(mode, bronze, silver):
        """The catalog; `bronze` and `silver` are further fields of these entities."""
        block = f", lakehouse: {{evolution: {mode}}}" if mode else ""
        text = "delta_live_store:\n"
        text += "  - {entity_id: b, source: stream, source_format: sqlite, destination: bronze.t%s%s}\n"
        text = text % (block if silver is None else "", f", {bronze}" if bronze else "")
        if silver is not None:
            more = f", {silver}" if silver else ""
            text += f"  - {{entity_id: s, source: bronze.t, source_format: dlt, destination: silver.t{block}{more}}}\n"
        return text

    def declare(self, mode=None, bronze="", silver=None):
        """Use another catalog from now on."""
        self.it.declare(self.yaml(mode, bronze, silver))
        self.it.work = replace(self.it.work, open_source=lambda e: SameStream(e, self.stream, batch_rows=2))

    def feed(self, rows: list[Mapping[str, Any]], **types: pa.DataType):
        """Append rows with just these columns; the earlier rows are in the past and get them as NULL."""
        schema = pa.schema(list(types.items()))
        count = sum(batch.num_rows for batch in self.stream)
        past = pa.RecordBatch.from_arrays([pa.nulls(count, f.type) for f in schema], schema=schema)
        self.stream[:] = [past, pa.RecordBatch.from_pylist([dict(row) for row in rows], schema=schema)]

    def run(self, *tables, **how):
        """Refresh."""
        return self.it.run(*tables, **how)

    def rows(self, table="bronze.t", *columns):
        """Rows with these columns."""
        return self.it.rows(table, *columns)

    def columns(self, table="bronze.t"):
        """The table's own columns and their types."""
        handle = self.it.engine.find(f"{self.it.lake.root}/{table.replace('.', '/')}")
        return {f.name: f.type for f in handle.schema if f.name not in (*ROW_COLUMNS, "_ingested_at")}


def rescued(rows):
    """The last value of each row as an object, without where it came from."""
    found = []
    for row in rows:
        values = None if row[-1] is None else json.loads(row[-1])
        for name in ("_source", "_position"):
            _ = values and values.pop(name, None)
        found.append((*row[:-1], values))
    return found
