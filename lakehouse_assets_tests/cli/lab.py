"""A machine for tests of the command: directories, SQLite files, catalogs, and the command in process or as a process.

What belongs here: what several test modules need. What does not: expectations.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from lakehouse_assets.cli.main import main
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets_tests.conftest import Elsewhere

COMMAND = (sys.executable, "-m", "lakehouse_assets.cli.main")
READINGS = "CREATE TABLE readings (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp TEXT, v REAL)"
CATALOG = """
    delta_live_store:
      - entity_id: b
        source: {database}
        source_format: sqlite
        destination: bronze.readings
        group: lab
      - entity_id: s
        source: bronze.readings
        source_format: dlt
        destination: silver.readings
        is_quarantined: true
        select_expr: [id, v, "CAST(timestamp AS TIMESTAMP) AS at"]
        expectations: {{expect_all: {{small: v < 90}}}}
      - entity_id: g
        source: "SELECT CAST(v AS BIGINT) % 3 AS third, count(*) AS n, sum(CAST(v AS BIGINT)) AS total
          FROM silver.readings GROUP BY CAST(v AS BIGINT) % 3"
        source_format: sql
        destination: gold.thirds
        primary_keys: [third]
"""
"""SQLite -> bronze -> silver and its quarantine -> gold."""
VOLATILE = ("_ingested_at", "_quarantined_at", "_batch")
"""Columns that say when or in which batch a row was written: equal tables may differ in them."""


def write(database: Path, rows: Iterable[tuple[str | None, Any]], ddl: str = READINGS) -> None:
    """Append rows (timestamp, v) to the table `readings`."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute(ddl.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
        connection.executemany("INSERT INTO readings (timestamp, v) VALUES (?, ?)", rows)


def readings(count: int, first: int = 0) -> list[tuple[str, float]]:
    """Rows (timestamp, v) with v from 0 to 99."""
    return [
        (f"2025-05-{1 + n // 86400:02d}T00:{n // 60 % 60:02d}:{n % 60:02d}", n * 37 % 100 / 1)
        for n in range(first, first + count)
    ]


def execute(database: Path, *statements: str) -> None:
    """Run statements in a database."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


class Machine:
    """A directory with a database, a catalog and a lake; commands run with these as their defaults."""

    def __init__(self, directory: Path, environ: Mapping[str, str] | None = None, root: str | None = None) -> None:
        self.directory = directory
        self.database = directory / "data" / "sensor.db"
        self.root = root or str(directory / "lake")
        self.environ = {"LAKEHOUSE_ROOT": self.root, "LAKEHOUSE_CATALOG": str(directory / "catalog"), **(environ or {})}

    def declare(self, yaml: str = CATALOG, name: str = "lab.yaml") -> None:
        """Put a catalog file there."""
        (self.directory / "catalog").mkdir(exist_ok=True)
        (self.directory / "catalog" / name).write_text(textwrap.dedent(yaml).format(database=self.database))

    def configure(self, text: str = "", **keys: object) -> Path:
        """Put the configuration of an uploader there."""
        path = self.directory / "uploader.yaml"
        path.write_text(textwrap.dedent(text) + "".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items()))
        return path

    def lakehouse(self, *arguments: object, **environ: str) -> Result:
        """The command in this process."""
        runner = CliRunner(env=self.environ | environ)
        return runner.invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)

    def start(self, *arguments: object, **environ: str) -> subprocess.Popen[str]:
        """The command as a process of its own."""
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env=self.variables(**environ),
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def process(self, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
        """The command as a process of its own, to its end."""
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=self.variables(**environ),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def in_(self, place: Elsewhere, *arguments: object) -> subprocess.CompletedProcess[str]:
        """The command in another place, to its end."""
        return place.run(*COMMAND, *map(str, arguments), env=self.variables())

    def variables(self, **environ: str) -> dict[str, str]:
        """The environment of a process on this machine."""
        return dict(os.environ) | self.environ | environ

    def rows(self, table: str, *columns: str, storage: Storage | None = None) -> list[tuple]:
        """The rows of a table of the lake, sorted; without what differs from run to run."""
        return rows_of(f"{self.root}/{table.replace('.', '/')}", *columns, storage=storage)

    def exists(self, table: str) -> bool:
        """Whether the lake has that table."""
        return EmbeddedEngine(Storage()).find(f"{self.root}/{table.replace('.', '/')}") is not None

    def files(self) -> dict[str, int]:
        """Every file of the lake with its size."""
        return {str(path): path.stat().st_size for path in Path(self.root).rglob("*") if path.is_file()}


def rows_of(uri: str, *columns: str, storage: Storage | None = None) -> list[tuple]:
    """The rows of a Delta table, sorted; without what differs from run to run."""
    engine = EmbeddedEngine(storage or Storage())
    handle = engine.find(uri)
    assert handle is not None, f"{uri} does not exist"
    wanted: Sequence[str] = columns or [name for name in handle.schema.names if name not in VOLATILE]
    rows = engine.rows(engine.read(handle))
    for row in rows:
        if isinstance(row.get("_upstream"), dict):
            row["_upstream"] = {name: value for name, value in row["_upstream"].items() if name not in VOLATILE}
    return sorted((tuple(row[name] for name in wanted) for row in rows), key=repr)


def eventually(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until `holds()`."""
    import time

    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.02)


def reports(machine: Machine, *arguments: str, code: int = 0) -> dict[str, dict[str, Any]]:
    """The rows of `--format json`, by table."""
    done = machine.lakehouse(*arguments, "--format", "json")
    assert done.exit_code == code, done.stderr
    return {row["table"]: row for row in json.loads(done.stdout)}
