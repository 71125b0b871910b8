"""What Dagster loads, in processes of their own: as its servers and command lines load it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
HEAVY = (
    "pyspark", "pykx", "kafka", "confluent_kafka", "boto3", "botocore", "dagster_databricks", "duckdb", "deltalake",
    "pandas", "pyarrow.dataset", "pyarrow.parquet", "adbc_driver_sqlite", "fsspec",
)  # fmt: skip
LOAD = """
import json, sys, time
start = time.process_time()
from lakehouse_assets.definitions import defs
repository = defs().get_repository_def()
seconds = time.process_time() - start
assets = len(repository.asset_graph.get_all_asset_keys())
print(json.dumps({"seconds": seconds, "assets": assets, "modules": list(sys.modules)}))
"""
PIPELINE = """
  - {{entity_id: b{n}, source: /data/{n}.db, source_format: sqlite, destination: bronze.t{n}, group: g{g},
     read_options: {{sqlite.table: t}}, source_schema: "id BIGINT, at STRING, temp DOUBLE", primary_keys: [id]}}
  - {{entity_id: s{n}, source: bronze.t{n}, source_format: dlt, destination: silver.t{n}, group: g{g},
     primary_keys: [id], is_quarantined: true, select_expr: [id, "CAST(at AS TIMESTAMP) AS at", temp],
     expectations: {{expect_all: {{low: temp < 60, high: temp > -20}},
     expect_all_or_fail: {{has_id: id IS NOT NULL}}}}}}
  - {{entity_id: a{n}, source: silver.t{n}_quarantine, source_format: dlt, destination: gold.a{n}, group: g{g},
     select_expr: [id, temp, _reasons AS reasons]}}
  - {{entity_id: h{n}, source_format: sql, destination: gold.h{n}, group: g{g}, primary_keys: [day],
     source: "SELECT CAST(at AS DATE) AS day, max(temp) AS top FROM silver.t{n} GROUP BY CAST(at AS DATE)",
     lakehouse: {{schedule: {{cron: "{n} * * * *"}}}}}}
"""


def run(*command: object, **environ: str) -> str:
    """What a command of the environment prints; its settings are those given, and no others."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "DAGSTER_"))}
    clean.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [str(part) for part in command], cwd=REPOSITORY, env=clean | environ, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_loading_imports_nothing_heavy() -> None:
    """The definitions load without an engine, a client of a source or a cloud SDK."""
    found = json.loads(run(sys.executable, "-c", LOAD).splitlines()[-1])
    assert [name for name in HEAVY if name in found["modules"]] == []
    assert found["assets"] > 5


def test_importing_the_definitions_does_nothing() -> None:
    """No file, environment or clock is read before `defs` is called: a wrong setting is no trouble at import."""
    run(sys.executable, "-c", "import lakehouse_assets.definitions, lakehouse_assets.build", LAKEHOUSE_ENGINE="abacus")


def test_a_hundred_entities_load_fast(tmp_path: Path) -> None:
    """A fresh process has the definitions of 100 entities in less than 3 s of its own (other work on the machine aside)."""
    text = "".join(PIPELINE.format(n=n, g=n % 5) for n in range(25))
    (tmp_path / "many.yaml").write_text(f"delta_live_store:{text}")
    times = []
    for _ in range(3):
        found = json.loads(run(sys.executable, "-c", LOAD, LAKEHOUSE_CATALOG=str(tmp_path)).splitlines()[-1])
        assert found["assets"] == 151  # with maintenance
        times.append(found["seconds"])
        if times[-1] < 3:
            return
    pytest.fail(f"the definitions of 100 entities took {min(times):.1f} s at best, not less than 3 s")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [("dg", "check", "defs"), ("dagster", "definitions", "validate", "-w", "workspace.yaml")],
    ids=["dg", "dagster"],
)
def test_the_command_lines_of_dagster_accept_the_definitions(command: tuple[str, ...], tmp_path: Path) -> None:
    """`dg check defs` and `dagster definitions validate -w workspace.yaml` pass in the repository."""
    tool, *arguments = command
    run(
        Path(sys.executable).with_name(tool),
        *arguments,
        DAGSTER_HOME=str(tmp_path),
        DG_CLI_CONFIG=str(tmp_path / "dg.toml"),
    )
