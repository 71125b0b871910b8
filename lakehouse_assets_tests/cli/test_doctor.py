"""`lakehouse doctor`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets_tests.cli.lab import Machine, readings, write
from lakehouse_assets_tests.conftest import Elsewhere


@pytest.fixture
def lab(machine: Machine) -> Machine:
    """A machine that lacks nothing."""
    write(machine.database, readings(3))
    machine.declare()
    return machine


def findings(machine: Machine, code: int = 0, **environ: str) -> dict[str, dict[str, Any]]:
    """The findings, by check."""
    done = machine.lakehouse("doctor", "--format", "json", **environ)
    assert done.exit_code == code, done.stdout + done.stderr
    return {row["check"]: row for row in json.loads(done.stdout)}


def test_a_machine_that_lacks_nothing(lab: Machine) -> None:
    """Everything that embedded runs need is ok; exit code 0; nothing is left behind."""
    found = findings(lab)
    assert {row["state"] for row in found.values()} <= {"ok", "optional"}
    assert {"python", "package duckdb", "java", "catalog", "lake", "plans", "temporary files"} <= set(found)
    assert "table readings" in found["source of bronze.readings"]["found"]
    assert sorted(path.name for path in lab.directory.iterdir()) == ["catalog", "data"]
    assert "everything that embedded runs need is there" in lab.lakehouse("doctor").stderr


def test_a_missing_source_is_named_with_its_remedy(lab: Machine) -> None:
    """A source that cannot be reached: missing, exit code 1."""
    lab.database.unlink()
    row = findings(lab, code=1)["source of bronze.readings"]
    assert row["state"] == "missing"
    assert str(lab.database) in row["found"]
    assert row["mend"]


def test_the_shipped_source_is_mended_by_a_command(lab: Machine) -> None:
    """For the shipped sensors the remedy is the command that simulates them."""
    del lab.environ["LAKEHOUSE_CATALOG"]
    row = findings(lab, code=1, LAKEHOUSE_SENSOR_DB=str(lab.directory / "none.db"))["source of bronze.sensor_readings"]
    assert row["mend"] == f"lakehouse simulate sensors --database {lab.directory / 'none.db'}"


def test_a_catalog_with_faults_is_named(lab: Machine) -> None:
    """The faults are shown, and the command that shows them alone."""
    lab.declare("delta_live_store: [{{entity_id: a}}]")
    row = findings(lab, code=1)["catalog"]
    assert "lab.yaml:1" in row["found"]
    assert row["mend"].startswith("lakehouse entities validate")


def test_a_root_below_a_file_is_named(lab: Machine) -> None:
    """A lake that cannot be written."""
    row = findings(lab, code=1, LAKEHOUSE_ROOT=str(lab.database / "lake"))["lake"]
    assert row["state"] == "missing"


def test_a_lake_without_permission_is_named(lab: Machine, as_nobody: Elsewhere) -> None:
    """An unprivileged user who may not write the lake is told so; exit code 1."""
    Path(lab.root).mkdir(mode=0o555)
    done = lab.in_(as_nobody, "doctor", "--format", "json")
    assert done.returncode == 1
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert rows["lake"]["state"] == "missing"
    assert "no permission to" in rows["lake"]["found"]
    assert "owner" in rows["lake"]["mend"]


def test_a_place_for_temporary_files_that_is_not_there(lab: Machine) -> None:
    """LAKEHOUSE_TEMP_DIRECTORY must be there."""
    row = findings(lab, code=1, LAKEHOUSE_TEMP_DIRECTORY=str(lab.directory / "none"))["temporary files"]
    assert "LAKEHOUSE_TEMP_DIRECTORY" in row["mend"]


@pytest.mark.parametrize(("engine", "state", "code"), [("embedded", "optional", 0), ("spark", "missing", 1)])
def test_what_spark_needs(lab: Machine, tmp_path: Path, engine: str, state: str, code: int) -> None:
    """Without Java and Delta's jars embedded runs lack nothing; where Spark is the engine, both are missing."""
    (tmp_path / "bin").mkdir()
    bare = {"PATH": str(tmp_path / "bin"), "JAVA_HOME": "", "LAKEHOUSE_SPARK_JARS": str(tmp_path)}
    found = findings(lab, code=code, LAKEHOUSE_ENGINE=engine, **bare)
    assert [found[check]["state"] for check in ("java", "spark jars")] == [state, state]
    assert "JDK 17" in found["java"]["mend"]
    assert "make setup-jvm" in found["spark jars"]["mend"]


def test_plans_of_a_lake_are_found(lab: Machine) -> None:
    """After a run the plans are there; the probe of the lake leaves no file."""
    lab.lakehouse("run", "*")
    before = lab.files()
    assert "version" in findings(lab)["plans"]["found"]
    assert lab.files() == before


def test_a_lake_on_a_store_that_there_is_not(lab: Machine) -> None:
    """A scheme without a store is named."""
    assert "gs://" in findings(lab, code=1, LAKEHOUSE_ROOT="gs://bucket/lake")["lake"]["found"]


def test_the_disk_is_looked_at(lab: Machine) -> None:
    """Free space is told for the lake and for spilling."""
    found = findings(lab)
    assert found["space for the lake"]["found"].endswith(str(lab.directory))
    assert "GB free" in found["space to spill"]["found"]
    assert os.statvfs(lab.directory).f_bavail > 0
