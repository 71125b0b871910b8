"""A small lake for tests of kinds of tables: a catalog from YAML text, streams in memory, everything else real."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.catalog import Catalog, parse_catalog
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.lake.names import Lake
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.sources.base import Source, open_source
from lakehouse_assets.sources.memory import MemorySource
from lakehouse_assets.tables.base import Outcome, Work
from lakehouse_assets.tables.refresh import refresh

_OF_THE_RUN = ("_ingested_at", "_quarantined_at", "_batch")
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Lab:
    """A lake at `root` with the catalog in `yaml`; sqlite entities are fed from `streams` by destination."""

    def __init__(
        self, root: Path | str, yaml: str, sql: Mapping[str, str] | None = None, storage: Storage | None = None
    ):
        self.streams: dict[str, list] = {}
        self.storage = storage or Storage()
        self.engine = EmbeddedEngine(self.storage)
        self.lake = Lake(str(root), self.storage)
        self.declare(yaml, sql)

    def declare(self, yaml: str, sql: Mapping[str, str] | None = None) -> None:
        """Use another catalog from now on."""
        self.catalog: Catalog = parse_catalog({"lab.yaml": textwrap.dedent(yaml)}, sql or {}, {})
        self.work = Work(self.catalog, self.lake, self.engine, open_source=self.open, clock=lambda: NOW)

    def open(self, entity: Entity) -> Source:
        """A stream in memory for `sqlite` entities, the real source for the others."""
        if entity.source_format != "sqlite":
            return open_source(entity)
        return MemorySource(entity, self.streams.setdefault(entity.source, []), batch_rows=3)

    def feed(self, source: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to the stream of that source."""
        entity = next(e for e in self.catalog.entities if e.source == source)
        MemorySource(entity, self.streams.setdefault(source, [])).append(rows)

    def run(
        self, *tables: str, rebuild: bool = False, partitions: Sequence[str] | None = None, **how: Any
    ) -> list[Outcome]:
        """Refresh tables in this order (default: all)."""
        names = [TableName(*name.split(".")) for name in tables] or self.catalog.order()
        return [
            outcome
            for name in names
            for outcome in refresh(replace(self.work, **how), name, rebuild=rebuild, partitions=partitions)
        ]

    def rows(self, table: str, *columns: str) -> list[tuple]:
        """Rows of a table, sorted; without the columns that say when and in which batch they came."""
        handle = self.engine.find(f"{self.lake.root}/{table.replace('.', '/')}")
        assert handle is not None, f"{table} does not exist"
        wanted = columns or tuple(n for n in handle.schema.names if n not in _OF_THE_RUN)
        return sorted((tuple(row[c] for c in wanted) for row in self.engine.rows(self.engine.read(handle))), key=repr)

    def exists(self, table: str) -> bool:
        """Whether the table is in the lake."""
        return self.engine.find(f"{self.lake.root}/{table.replace('.', '/')}") is not None

    def version(self, table: str) -> int:
        """The Delta version of a table."""
        return self.engine.find(f"{self.lake.root}/{table.replace('.', '/')}").version
