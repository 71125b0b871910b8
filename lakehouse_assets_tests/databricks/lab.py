"""A project whose steps go to a simulated workspace: its catalog, its settings, and runs that another process could do.

Runs go through the module `lakehouse_assets.definitions` and an instance on disk, as `dagster dev` runs them.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from lakehouse_assets.simulators.workspace.server import Workspace
from lakehouse_assets_tests.databricks.runner import run

ROOT = Path(__file__).parents[2]
VOLUME = "/Volumes/main/ops/staging"
LAKE = "/Volumes/main/lake/tables"
EDGE = "/Volumes/main/lake/tables/edge.db"
SMALL = """
delta_live_store:
  - entity_id: readings-bronze
    source: ${READINGS_DB}
    source_format: sqlite
    destination: bronze.readings
    group: readings
    primary_keys: [id]
    read_options: {sqlite.table: readings}
    source_schema: id BIGINT, sensor STRING, temp DOUBLE
  - entity_id: readings-silver
    source: bronze.readings
    source_format: dlt
    destination: silver.readings
    group: readings
    primary_keys: [id]
    is_quarantined: true
    select_expr: [id, sensor, temp, temp * 2 AS twice]
    expectations:
      expect_all_or_drop: {warm: temp > -50}
"""
TARGET = {"lakehouse/target": "databricks"}
ALL = ("bronze/readings", "silver/readings")
ONE_BY_ONE = {"execution": {"config": {"max_concurrent": 1}}}


@dataclass
class Lab:
    """A small project beside a workspace.

    Attributes:
        base: where everything is: catalog, configuration, Dagster's home.
        lake: the lake's root in the workspace.
        config: the configuration of Databricks, over the one that `compute` gives.
    """

    base: Path
    workspace: Workspace
    compute: Mapping[str, Any]
    lake: str = LAKE
    config: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("catalog", "home"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "dagster.yaml", self.base / "home")
        (self.base / "catalog" / "readings.yaml").write_text(SMALL)
        self.write_config(self.config)
        self.workspace.path(EDGE).unlink(missing_ok=True)
        self.sql("CREATE TABLE readings (id INTEGER PRIMARY KEY, sensor TEXT, temp REAL)")

    def write_config(self, more: Mapping[str, Any]) -> None:
        """Write the configuration of Databricks."""
        found = {
            "volume": VOLUME, "root": self.lake, "compute": dict(self.compute), "poll_seconds": 0.2,
            "env": {"READINGS_DB": EDGE}, **more,
        }  # fmt: skip
        (self.base / "databricks.yaml").write_text(yaml.safe_dump({k: v for k, v in found.items() if v is not None}))

    def sql(self, text: str) -> None:
        """Run a statement on the database at the edge, which stands in the workspace's volume."""
        with sqlite3.connect(self.workspace.path(EDGE)) as connection:
            connection.executescript(text)
        connection.close()

    def insert(self, first: int, last: int) -> None:
        """Readings `first` to `last`; every tenth breaks the rule."""
        rows = ",".join(f"({n}, 's{n % 3}', {-99.0 if n % 10 == 0 else n / 4})" for n in range(first, last + 1))
        self.sql(f"INSERT INTO readings VALUES {rows}")

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a process that works on the project."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "DATABRICKS_"))}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        return kept | {
            "DAGSTER_HOME": str(self.base / "home"),
            "LAKEHOUSE_ROOT": str(self.workspace.path(self.lake)),
            "LAKEHOUSE_CATALOG": str(self.base / "catalog"),
            "LAKEHOUSE_DATABRICKS": str(self.base / "databricks.yaml"),
            "READINGS_DB": str(self.workspace.path(EDGE)),
            "DATABRICKS_HOST": self.workspace.host,
            "DATABRICKS_TOKEN": self.workspace.token,
            **self.environ,
        }

    def run(self, *assets: str, tags: Mapping[str, str] = TARGET) -> Ended:
        """Run assets in this process, one step after the other, and tell how that ended; absent: all of the catalog."""
        with patch.dict(os.environ, self.variables, clear=True):
            return Ended(run(assets or ALL, tags, ONE_BY_ONE))

    @contextmanager
    def started(self, *assets: str, tags: Mapping[str, str] = TARGET) -> Iterator[subprocess.Popen[str]]:
        """A process that runs assets, and prints how that ended as JSON."""
        asked = {"assets": assets or ALL, "tags": dict(tags)}
        command = [sys.executable, "-m", "lakehouse_assets_tests.databricks.runner", json.dumps(asked)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, env=self.variables, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()


@dataclass(frozen=True)
class Ended:
    """A run as its instance has it: see `runner.py`."""

    facts: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.facts[name]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind."""
        return [event for event in self.facts["events"] if event["type"] == kind]
