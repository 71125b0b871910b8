"""What the engine contract works with: tables at fresh places, rows in and out, by the contract of an engine only."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from lakehouse_assets.engines.base import OPERATION, Engine, Handle, Relation
from lakehouse_assets.lake.values import Commit, Number, TableSpec

APP = "lakehouse/silver.t"
KV = pa.schema([("k", pa.int64()), ("v", pa.string())])
Rows = Sequence[tuple]


class Table:
    """One table: opened afresh for every step, with rows as tuples in the order of its columns."""

    def __init__(self, engine: Engine, uri: str, first: int = 1) -> None:
        self.engine, self.uri = engine, uri
        self._numbers = itertools.count(first)

    def open(self, version: int | None = None) -> Handle:
        """A fresh handle."""
        handle = self.engine.find(self.uri, version)
        assert handle is not None, f"no table at {self.uri}"
        return handle

    @property
    def version(self) -> int:
        """The newest version."""
        return self.open().version

    @property
    def number(self) -> int:
        """The number that the table carries."""
        return self.open().number(APP)

    def next(self) -> Number:
        """The number after the last one that this object used."""
        return Number(APP, next(self._numbers), "plan")

    def relation(self, rows: Iterable[tuple], schema: pa.Schema | None = None) -> Relation:
        """A relation of rows, by default with the table's columns."""
        schema = schema or self.open().schema
        columns = list(zip(*rows, strict=True)) or [[] for _ in schema]
        arrays = [pa.array(list(values), f.type) for values, f in zip(columns, schema, strict=True)]
        return self.engine.from_arrow(pa.Table.from_arrays(arrays, schema=schema))

    def append(self, *rows: tuple) -> Commit:
        """Append rows under the next number."""
        return self.engine.append(self.open(), self.relation(rows), self.next())

    def replace(self, *rows: tuple, partitions: Sequence[Mapping[str, Any]] | None = None) -> Commit:
        """Replace rows under the next number."""
        return self.engine.replace(self.open(), self.relation(rows), self.next(), partitions)

    def changes_to(self, upserts: Rows, deletes: Rows = ()) -> Relation:
        """The source of a merge."""
        schema = pa.schema([*self.open().schema, pa.field(OPERATION, pa.string())])
        return self.relation([*((*row, "u") for row in upserts), *((*row, "d") for row in deletes)], schema)

    def merge(self, upserts: Rows, deletes: Rows = (), keys: Sequence[str] = ("k",)) -> Commit:
        """Merge under the next number."""
        return self.engine.merge(self.open(), self.changes_to(upserts, deletes), keys, self.next())

    def compact(self, target_bytes: int = 1 << 20) -> Commit:
        """Compact."""
        return self.engine.compact(self.open(), target_bytes)

    def rows(self, version: int | None = None) -> list[tuple]:
        """All rows at a version, in a stable order."""
        return in_order(self.engine.rows(self.engine.read(self.open(version))))

    def moved(self, start: int) -> tuple[str, list[tuple]]:
        """What moved since version `start`: the kind, and new rows or images as (row…, change type)."""
        changes = self.engine.changes(self.open(), start)
        if changes.relation is None:
            return changes.kind, []
        names = [*self.open().schema.names, *(["_change_type"] if changes.kind == "images" else [])]
        return changes.kind, in_order({n: row[n] for n in names} for row in self.engine.rows(changes.relation))


def in_order(rows: Iterable[Mapping[str, Any]]) -> list[tuple]:
    """Rows as tuples, sorted by their text: a table has no order."""
    return sorted((tuple(row.values()) for row in rows), key=repr)


class Bench:
    """Makes tables of an engine at fresh places below a root."""

    def __init__(self, engine: Engine, root: str) -> None:
        self.engine, self._root = engine, root
        self._count = itertools.count()

    def place(self) -> str:
        """A URI where nothing stands."""
        return f"{self._root}/t{next(self._count)}"

    def table(
        self,
        schema: pa.Schema = KV,
        *rows: tuple,
        partition_by: Sequence[str] = (),
        feed: bool = False,
        properties: Mapping[str, str] | None = None,
    ) -> Table:
        """A new table with rows; `feed`: with a change data feed."""
        uri = self.place()
        properties = {"delta.enableChangeDataFeed": str(feed).lower(), **(properties or {})}
        self.engine.create(uri, TableSpec(schema, tuple(partition_by), properties))
        table = Table(self.engine, uri)
        if rows:
            table.append(*rows)
        return table

    def copy(self, of: Table) -> Table:
        """A copy of a local table: as it stands, under its numbers, at a fresh place."""
        uri = self.place()
        shutil.copytree(of.uri, uri)
        return Table(self.engine, uri, first=of.number + 1)


def move_file(table: Table, version: int, name: str) -> None:
    """Let the file that a version added stand under another path, written in the log as it is."""
    entry = Path(table.uri) / "_delta_log" / f"{version:020d}.json"
    lines = [json.loads(line) for line in entry.read_text().splitlines()]
    (add,) = (line["add"] for line in lines if "add" in line)
    place = Path(table.uri) / name
    place.parent.mkdir(exist_ok=True)
    (Path(table.uri) / unquote(add["path"])).rename(place)
    add["path"] = name
    for file in (entry, Path(table.uri) / unquote(place.name)):
        file.with_name(f".{file.name}.crc").unlink(missing_ok=True)  # Hadoop's, of what stood there before
    entry.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
