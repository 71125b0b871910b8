"""A small project for tests of the graph: a SQLite file, a catalog over it, a Dagster instance; everything is real."""

from __future__ import annotations

import sqlite3
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse_assets.assets.resources import LakehouseResource, Project
from lakehouse_assets.build import build_defs
from lakehouse_assets.entities.catalog import parse_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.settings import Settings
from lakehouse_assets.tables.refresh import refresh

CATALOG = """
delta_live_store:
  - entity_id: readings
    source: ${EDGE_DB}
    source_format: sqlite
    destination: bronze.readings
    group: sensors
    primary_keys: [id]
    read_options: {sqlite.table: readings}
    source_schema: id BIGINT, at STRING, sensor STRING, temp DOUBLE
    lakehouse:
      owners: ["team:edge"]
      schedule: {cron: "5 * * * *"}
      columns: {temp: Air temperature in °C}
  - entity_id: readings-silver
    source: bronze.readings
    source_format: dlt
    destination: silver.readings
    group: sensors
    primary_keys: [id]
    is_quarantined: true
    select_expr: [id, "CAST(at AS TIMESTAMP) AS at", sensor, temp]
    expectations:
      expect_all: {temp_in_range: "temp < 60"}
      expect_all_or_fail: {has_sensor: "sensor IS NOT NULL"}
  - entity_id: warm
    source: SELECT sensor, temp FROM silver.readings WHERE temp > 0
    source_format: sql
    destination: silver.warm
    destination_type: view
    group: sensors
  - entity_id: tops
    source: SELECT sensor, max(temp) AS top, count(*) AS readings FROM silver.warm GROUP BY sensor
    source_format: sql
    destination: gold.tops
    group: sensors
    primary_keys: [sensor]
  - entity_id: alerts
    source: silver.readings_quarantine
    source_format: dlt
    destination: gold.alerts
    group: sensors
    select_expr: [id, temp, _reasons AS reasons]
"""
"""A pipeline with every way to read: a source, a table, a view, a quarantine."""

TABLES = ("bronze.readings", "silver.readings", "gold.tops", "gold.alerts")


class House:
    """A project below `base`, with its definitions and an instance."""

    def __init__(self, base: Path, instance: dg.DagsterInstance, yaml: str = CATALOG, **settings: Any) -> None:
        self.base, self.instance = base, instance
        self.database = base / "edge.db"
        if not self.database.exists():
            self.sql("CREATE TABLE readings (id INTEGER PRIMARY KEY, at TEXT, sensor TEXT, temp REAL)")
        self.settings = Settings(root=str(base / "lake"), **settings)
        self.declare(yaml)

    def declare(self, yaml: str) -> None:
        """Use another catalog from now on."""
        environ = {"EDGE_DB": str(self.database)}
        self.catalog = parse_catalog({"house.yaml": textwrap.dedent(yaml)}, {}, environ)
        self.project = Project(self.settings, self.catalog, environ)
        self.defs = build_defs(self.settings, self.catalog, environ)

    def sql(self, statement: str, rows: Iterable[tuple[Any, ...]] = ()) -> None:
        """Run a statement in the source's database, once or once a row."""
        with sqlite3.connect(self.database) as connection:
            connection.executemany(statement, rows) if rows else connection.execute(statement)
        connection.close()

    def add(self, *readings: tuple[str | None, float | str | None]) -> None:
        """Put readings into the source: (sensor, temperature)."""
        self.sql(
            "INSERT INTO readings (at, sensor, temp) VALUES ('2026-03-01T12:00:00Z', ?, ?)",
            [(s, t) for s, t in readings],
        )

    def run(self, *tables: str, full_refresh: bool = False, **job: Any) -> dg.ExecuteInProcessResult:
        """Materialize tables as the UI would; failures are in the result."""
        made = [key for table in tables for key in self.keys(table)]
        config = {"ops": {table.replace(".", "__"): {"config": {"full_refresh": full_refresh}} for table in tables}}
        graph = self.defs.resolve_implicit_global_asset_job_def()
        return graph.execute_in_process(
            instance=self.instance, asset_selection=made, run_config=config, raise_on_error=False, **job
        )

    def keys(self, table: str) -> list[dg.AssetKey]:
        """The assets that are made together with a table."""
        definition = self.defs.resolve_asset_graph().assets_def_for_key(key(table))
        return sorted(definition.keys)

    def command_line(self, *tables: str) -> None:
        """Refresh tables outside Dagster."""
        with LakehouseResource.of(self.settings).open(self.project) as work:
            for table in tables:
                list(refresh(work, TableName(*table.split("."))))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a stored table."""
        with LakehouseResource.of(self.settings).open(self.project) as work:
            handle = work.engine.find(work.uri(TableName(*table.split("."))))
            return work.engine.rows(work.engine.read(handle)) if handle else []


def key(table: str) -> dg.AssetKey:
    """The key of `layer.table`."""
    return dg.AssetKey(table.split("."))


def materialized(result: dg.ExecuteInProcessResult, table: str) -> dg.AssetMaterialization:
    """The last materialization of a table in a run."""
    return result.asset_materializations_for_node(table.replace("_quarantine", "").replace(".", "__"))[
        -1 if table.endswith("_quarantine") else 0
    ]


def facts(result: dg.ExecuteInProcessResult, table: str) -> Mapping[str, Any]:
    """The metadata of that materialization, as plain values."""
    return {name: entry.value for name, entry in materialized(result, table).metadata.items()}


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Check -> whether it passed, of a run."""
    return {f"{e.asset_key.path[-1]}.{e.check_name}": e.passed for e in result.get_asset_check_evaluations()}


def check(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    """The evaluation of one check of a run: `readings.schema`."""
    return next(e for e in result.get_asset_check_evaluations() if f"{e.asset_key.path[-1]}.{e.check_name}" == name)
