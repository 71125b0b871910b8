"""What tests of the simulated edge device share."""

from __future__ import annotations

import importlib.resources
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lakehouse_assets.entities.catalog import load_catalog
from lakehouse_assets.entities.model import Entity

START = datetime(2025, 5, 1, tzinfo=UTC)
CLEAN = {"fault_rate": 0.0, "anomaly_rate": 0.0}


def rows(path: Path, sql: str = "SELECT * FROM sensor_readings ORDER BY id") -> list[tuple[Any, ...]]:
    """What the file answers to `sql`."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def one(path: Path, sql: str) -> Any:
    """The single value that the file answers to `sql`."""
    return rows(path, sql)[0][0]


def declared() -> dict[str, Entity]:
    """The entities of the shipped catalog's sensors pipeline, by destination."""
    directory = importlib.resources.files("lakehouse_assets").joinpath("catalog")
    return {e.destination: e for e in load_catalog(Path(str(directory)), {}).entities if e.group == "sensors"}
