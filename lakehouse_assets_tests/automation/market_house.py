"""A market in small: extracts by day from days in memory, tables by day above them, gold above these; Dagster is real."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import pyarrow as pa

from lakehouse_assets.assets.metadata import DATA_VERSION
from lakehouse_assets.assets.resources import LakehouseResource, Project
from lakehouse_assets.automation.partitions import FIRST_TAG, LAST_TAG
from lakehouse_assets.build import build_defs
from lakehouse_assets.entities.catalog import parse_catalog
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import SourceError, SourceUnreachable
from lakehouse_assets.settings import Settings
from lakehouse_assets.sources.base import Source, open_source
from lakehouse_assets.tables.base import Work
from lakehouse_assets.tables.refresh import refresh
from lakehouse_assets_tests.assets.house import key
from lakehouse_assets_tests.tables.partition_lab import SCHEMAS, Days, Memory

CATALOG = """
delta_live_store:
  - &extract
    entity_id: xt
    source: trade
    source_format: kdb
    destination: extract.trade
    group: market
    read_options: {kdb.host: localhost, kdb.port: 5000, kdb.partition: date}
    lakehouse: {partitions: {cadence: daily, start: "2024-01-02", timezone: Europe/Amsterdam}}
  - {<<: *extract, entity_id: xq, source: quote, destination: extract.quote}
  - &load
    entity_id: t
    source: extract.trade
    source_format: dlt
    destination: bronze.trades
    group: market
    partition_cols: [date]
  - {<<: *load, entity_id: q, source: extract.quote, destination: bronze.quotes}
  - entity_id: j
    source: bronze.trades
    source_format: asof
    destination: silver.joined
    group: market
    partition_cols: [date]
    read_options: {asof.by: sym, asof.time: time, asof.tie: _row, asof.columns: "bid, ask"}
    select_expr: [date, sym, time, price, bid, ask, (bid + ask) / 2 AS mid]
    lakehouse: {tables: [bronze.trades, bronze.quotes]}
  - entity_id: g
    source: "SELECT date, sym, count(*) AS trades, max(price) AS high FROM silver.joined WHERE sym IS NOT NULL GROUP BY date, sym"
    source_format: sql
    destination: gold.bars
    group: market
    primary_keys: [date, sym]
    partition_cols: [date]
    lakehouse: {refresh_key: [date]}
"""
EXTRACTS = ("extract.trade", "extract.quote")
BY_DAY = (*EXTRACTS, "bronze.trades", "bronze.quotes", "silver.joined")
TABLES = (*BY_DAY, "gold.bars")
DAY, NEXT, LATER = "2024-01-02", "2024-01-03", "2024-01-04"


class Broken(Memory):
    """Days in memory of which some cannot be read, or none."""

    broken: set[str]

    def columns_of(self, key: str) -> pa.Schema:
        """Fails for a day that is broken, in a way that trying again does not mend."""
        if key in self.broken:
            raise SourceError(f"{key} is broken", fix="mend it")
        return super().columns_of(key)

    def partitions(self) -> dict[str, str]:
        """Fails if everything is."""
        if "all" in self.broken:
            raise SourceUnreachable("nobody answers", fix="start it")
        return dict(super().partitions())


class MemoryLakehouse(LakehouseResource):
    """The lakehouse whose extracts read days in memory: those of the house at its root."""

    houses: ClassVar[dict[str, MarketHouse]] = {}

    @contextmanager
    def open(self, project: Project, **more: Any) -> Iterator[Work]:
        """As always, with another way to open the sources of extracts."""
        with super().open(project, open_source=self.houses[self.root].source, **more) as work:
            yield work


class MarketHouse:
    """The project below `base`, with its definitions, an instance, and the days that its sources have."""

    def __init__(self, base: Path, instance: dg.DagsterInstance, yaml: str = CATALOG) -> None:
        self.instance = instance
        self.days: dict[str, Days] = {"trade": {}, "quote": {}}
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.told: list[str] = []
        self.settings = Settings(root=str(base / "lake"))
        self.catalog = parse_catalog({"market.yaml": textwrap.dedent(yaml)}, {}, {})
        self.project = Project(self.settings, self.catalog, {})
        self.lakehouse = MemoryLakehouse(root=self.settings.root, engine=self.settings.engine)
        MemoryLakehouse.houses[self.settings.root] = self
        self.defs = build_defs(self.settings, self.catalog, {}, resources={"lakehouse": self.lakehouse})

    def source(self, entity: Entity) -> Source:
        """Days in memory in place of kdb+."""
        if entity.kind != "extract":
            return open_source(entity)
        found = Broken(entity, self.days[entity.source], self.asked)
        found.broken = self.broken
        return found

    def day(self, *keys: str, price: float = 10.0) -> None:
        """Days of three trades and two quotes."""
        for day in keys:
            self.put("trade", day, (5, "A", price), (1, "A", price + 1), (7, None, price + 2))
            self.put("quote", day, (2, "A", 1.0, 3.0), (4, "A", 2.0, 4.0))

    def put(self, table: str, day: str, *rows: tuple[Any, ...]) -> None:
        """Let a day hold these rows."""
        columns = SCHEMAS[table]
        arrays = [pa.array([row[at] for row in rows], field.type) for at, field in enumerate(columns)]
        self.days[table][day] = pa.table(arrays, schema=columns)

    def run(self, *tables: str, first: str = "", last: str = "", **how: Any) -> dg.ExecuteInProcessResult:
        """Materialize tables as the UI would: all of them for a day, or for a range of days."""
        how |= {"partition_key": first} if first and not last else {}
        tags = {FIRST_TAG: first, LAST_TAG: last} if last else {}
        graph = self.defs.resolve_implicit_global_asset_job_def()
        return graph.execute_in_process(
            instance=self.instance, asset_selection=[key(table) for table in tables], raise_on_error=False, tags=tags,
            **how,
        )  # fmt: skip

    def job(self, name: str, **how: Any) -> dg.ExecuteInProcessResult:
        """Run a job as the UI would."""
        found = self.defs.resolve_job_def(name)
        return found.execute_in_process(instance=self.instance, raise_on_error=False, **how)

    def launch(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """The run that a sensor asks for."""
        graph = self.defs.resolve_implicit_global_asset_job_def()
        return graph.execute_in_process(
            instance=self.instance, asset_selection=list(request.asset_selection or ()), tags=dict(request.tags),
            partition_key=request.partition_key, raise_on_error=False,
        )  # fmt: skip

    def tick(self, sensor: str, cursor: str | None = None) -> Any:
        """One tick of a sensor of the definitions."""
        context = dg.build_sensor_context(
            self.instance, cursor=cursor, definitions=self.defs, sensor_name=sensor,
            resources={"lakehouse": self.lakehouse},
        )  # fmt: skip
        return self.defs.resolve_sensor_def(sensor).evaluate_tick(context)

    def command_line(self, *tables: str, partitions: Sequence[str] | None = None) -> None:
        """Refresh tables outside Dagster."""
        with self.lakehouse.open(self.project) as work:
            for table in tables:
                list(refresh(work, TableName(*table.split(".")), partitions=partitions))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a stored table; none if it is not there."""
        with self.lakehouse.open(self.project) as work:
            handle = work.engine.find(work.uri(TableName(*table.split("."))))
            return work.engine.rows(work.engine.read(handle)) if handle else []

    def highs(self) -> dict[str, float]:
        """Day -> the highest price of `A` in gold."""
        return {str(row["date"]): row["high"] for row in self.rows("gold.bars") if row["sym"] == "A"}

    def made(self, table: str) -> set[str]:
        """The days of a table that Dagster takes for materialized."""
        return set(self.instance.get_materialized_partitions(key(table)))

    def versions(self, table: str) -> dict[str, str]:
        """Day -> version that was reported last."""
        found = self.instance.event_log_storage.get_latest_tags_by_partition(
            key(table), dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION]
        )
        return {day: tags[DATA_VERSION] for day, tags in found.items()}


def failures(result: dg.ExecuteInProcessResult) -> str:
    """What the failed steps of a run say."""
    return "\n".join(str(e.event_specific_data) for e in result.all_events if e.is_step_failure)
