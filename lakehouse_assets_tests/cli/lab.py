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

NOBODY = 65534
READINGS = "CREATE TABLE readings (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp TEXT, v REAL)"
_AS_NOBODY = f"""
import json, os, sys
from lakehouse_assets.cli.main import main
warm, arguments = json.loads(sys.argv[1])
main(warm, standalone_mode=False)
sys.stdout.flush()
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
print("--- as nobody ---", file=sys.stderr)
main(arguments)
"""
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
        return self._popen(["-m", "lakehouse_assets.cli.main", *map(str, arguments)], environ)

    def process(self, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
        """The command as a process of its own, to its end."""
        return self._ended(self.start(*arguments, **environ))

    def as_nobody(self, *arguments: object, warm: Sequence[object]) -> subprocess.CompletedProcess[str]:
        """The command as an unprivileged user, to its end.

        Args:
            warm: the same command with arguments that work. It is run first, before the process becomes that user, who
                may not be allowed to read the interpreter's files: so all of them are loaded by then.
        """
        told = [[str(argument) for argument in words] for words in (warm, arguments)]
        return self._ended(self._popen(["-c", _AS_NOBODY, json.dumps(told)], {}))

    def _popen(self, words: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LAKEHOUSE_"))}
        return subprocess.Popen(
            [sys.executable, *words],
            env=env | self.environ | environ,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _ended(self, child: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        try:
            out, err = child.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

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
