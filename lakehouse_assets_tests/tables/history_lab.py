"""A lake with a stream of events and tables with history over it, and events to feed.

What belongs here: what several modules about history need. What does not: the meaning of a declaration
(`history_model.py`), cases (`history_cases.py`).
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.engines.base import Engine
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.sources.base import Source, open_source
from lakehouse_assets.sources.memory import MemorySource
from lakehouse_assets.tables.base import Outcome
from lakehouse_assets_tests.tables.history_model import Declaration, Row, plain, rank
from lakehouse_assets_tests.tables.lab import Lab

STREAM = "id BIGINT, k STRING, ts BIGINT, op STRING, a STRING, b BIGINT"
"""The columns of events where a test needs no others; `id` tells them apart and is in no target."""
ASIDE = ("id", "op", "ts")
"""The columns of events that the targets leave out."""


ENGINES = ("embedded", pytest.param("spark", marks=pytest.mark.spark))
PERIOD = ("k", "a", "__START_AT", "__END_AT")
ALL = ("silver.t", "silver.t_quarantine", "silver.t__changes")
REBUILD = r"lakehouse run --full-refresh silver\.t"


def engine_of(request: pytest.FixtureRequest) -> Engine:
    """The engine that a test was asked to run with."""
    found: Engine = EmbeddedEngine(Storage()) if request.param == "embedded" else request.getfixturevalue("spark")
    return found


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    return engine_of(request)


@pytest.fixture
def embedded() -> Engine:
    """The engine in this process, for what no engine has a part in."""
    return EmbeddedEngine(Storage())


def history(name: str = "t", *, feed: str | None = None, **given: Any) -> dict[str, Any]:
    """An entity with history over `bronze.events`; `given` holds fields of the entity and of `apply_changes`."""
    fields = {"keys": "primary_keys", "select": "select_expr", "rules": "expectations", "quarantined": "is_quarantined"}
    own = ("source", "source_format", "lakehouse", "partition_cols", "table_properties")
    entity = {
        "entity_id": feed or name,
        "source": "bronze.events",
        "source_format": "dlt",
        "destination": f"silver.{name}",
        "primary_keys": ["k"],
    }
    changes: dict[str, Any] = {"sequence_by": "ts", "stored_as_scd_type": 2, "apply_as_deletes": "op = 'd'"}
    if not {"column_list", "select"} & given.keys():
        changes["except_column_list"] = list(ASIDE)
    for field, value in given.items():
        (entity if field in fields or field in own else changes)[fields.get(field, field)] = value
    changes |= {"flow_name": feed} if feed else {}
    return entity | {"apply_changes": {field: value for field, value in changes.items() if value is not None}}


def landed(source: str = "stream", destination: str = "bronze.events", columns: str = STREAM) -> dict[str, Any]:
    """An entity that lands a stream in memory."""
    return {
        "entity_id": destination.replace(".", "_"),
        "source": source,
        "source_format": "sqlite",
        "destination": destination,
        "source_schema": columns,
    }


class HistoryLab(Lab):
    """A lake in which a stream is landed without an engine to choose, and `engine` makes the tables with history."""

    def __init__(self, root: Path | str, *entities: Mapping[str, Any], engine: Engine, columns: str = STREAM) -> None:
        self.makes, self.columns, self._ids = engine, columns, count(1)
        super().__init__(root, self.text(*entities))

    def text(self, *entities: Mapping[str, Any]) -> str:
        """The catalog of the stream and these entities."""
        first = [] if any(e["destination"] == "bronze.events" for e in entities) else [landed(columns=self.columns)]
        return json.dumps({"delta_live_store": [*first, *entities]})

    def redeclare(self, *entities: Mapping[str, Any], columns: str | None = None) -> None:
        """Use other entities from now on, and other columns of the stream, which are NULL in what there is."""
        self.columns = columns or self.columns
        self.declare(self.text(*entities))

    def open(self, entity: Entity) -> Source:
        """A stream in memory, which may be read in large batches, and stays the same when it gets a column."""
        if entity.source_format != "sqlite":
            return open_source(entity)
        return _Stream(entity, self.streams.setdefault(entity.source, []))

    def feed(self, source: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to the stream of that source, each with an `id` if it has none."""
        entity = next(e for e in self.catalog.entities if e.source == source)
        stream = _Stream(entity, self.streams.setdefault(source, []))
        stream.append([row if "id" in row else {"id": next(self._ids), **row} for row in rows])

    def run(self, *tables: str, rebuild: bool = False, **how: Any) -> list[Outcome]:
        """Refresh tables in this order (default: all)."""
        found: list[Outcome] = []
        for name in tables or [str(table) for table in self.catalog.order()]:
            engine = self.engine if name.startswith("bronze.") else self.makes
            found += super().run(name, rebuild=rebuild, **{"engine": engine, **how})
        return found

    def batch(self, *rows: Mapping[str, Any], **how: Any) -> list[Outcome]:
        """Feed rows and run everything."""
        self.feed("stream", rows)
        return self.run(**how)

    def columns_of(self, table: str) -> list[str]:
        """The columns of a table, in their order."""
        handle = self.engine.find(f"{self.lake.root}/{table.replace('.', '/')}")
        return list(handle.schema.names) if handle else []

    def found(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        """Rows of a table, sorted, with equal values for equal ones; none where the table is not there."""
        rows = self.rows(table, *columns) if self.exists(table) else []
        return sorted((tuple(map(plain, row)) for row in rows), key=repr)

    def versions(self, *tables: str) -> list[int]:
        """The versions of tables; -1 where one is not there."""
        return [self.version(table) if self.exists(table) else -1 for table in tables]


def lab(directory: Path, engine: Engine, *tables: Mapping[str, Any], columns: str = STREAM) -> HistoryLab:
    """A lake with a stream and these tables over it (default: `silver.t`)."""
    return HistoryLab(directory / "lake", *(tables or (history(),)), engine=engine, columns=columns)


class _Stream(MemorySource):
    def schema(self) -> Any:
        return self._schema or super().schema()

    def append(self, rows: Any) -> None:
        columns = self.schema()
        if self.stream and self.stream[0].schema != columns:  # the table got a column, or lost one
            self.stream[:] = [b.from_pylist(b.to_pylist(), schema=columns) for b in self.stream]
        super().append(rows)

    def verify(self, position: Any, recorded: str) -> list[Any]:
        return []


def expected(rows: Iterable[Row], *columns: str) -> list[tuple[Any, ...]]:
    """Rows of the model as `HistoryLab.found` gives those of a table."""
    return sorted((tuple(plain(row[c]) for c in columns) for row in rows), key=repr)


def up(ts: int | None, a: str | None = None, b: int | None = None, op: str | None = None) -> dict[str, Any]:
    """An upsert."""
    return {"ts": ts, "op": op, "a": a, "b": b}


def rm(ts: int | None, a: str | None = None, b: int | None = None) -> dict[str, Any]:
    """A delete."""
    return up(ts, a, b, "d")


def of(k: str | None, *events: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Events of a key."""
    return [{"k": k, **event} for event in events]


def operation(row: Row) -> str:
    """What `op` says."""
    return {"d": "delete", "t": "truncate"}.get(row["op"], "upsert")


def declared(**given: Any) -> Declaration:
    """A declaration of the model over events with `STREAM`'s columns."""
    return Declaration(**{"columns": ("k", "a", "b"), "operation": operation, **given})


def random_events(chance: random.Random, key: str, most: int = 9) -> list[dict[str, Any]]:
    """A few events of a key, close together, so that they meet: ties, copies, deletes, NULLs."""

    def one() -> dict[str, Any]:
        ts = None if chance.random() < 0.05 else chance.randrange(8)
        a = chance.choice("xyz") if chance.random() < 0.8 else None
        return up(ts, a, chance.choice((1, 1, 2, None, 100)), chance.choice((*"uuuuud", None)))

    return of(key, *(one() for _ in range(chance.randint(1, most))))


def check_invariants(of_table: Declaration, rows: Sequence[Row]) -> None:
    """Raise AssertionError where rows cannot be a history."""
    by_key: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        by_key[plain([row[key] for key in of_table.keys])].append(row)
    compared = [*of_table.compared, *([of_table.soft] if of_table.soft else [])]
    for own in by_key.values():
        if of_table.scd == 1:
            assert len(own) == 1, own
            continue
        own.sort(key=lambda row: rank(row[of_table.start]))
        periods = [(rank(row[of_table.start]), row[of_table.end]) for row in own]
        assert all(end is None or start < rank(end) for start, end in periods), own
        assert all(end is not None for _, end in periods[:-1]), own
        for left, right in pairwise(own):
            end, start = rank(left[of_table.end]), rank(right[of_table.start])
            assert end <= start, own
            undone = of_table.soft and left[of_table.soft]  # a deleted row may be followed by an equal one that is not
            assert end < start or undone or any(plain(left[c]) != plain(right[c]) for c in compared), own
