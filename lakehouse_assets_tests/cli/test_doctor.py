"""`lakehouse doctor`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.simulators.workspace.server import Options, serve
from lakehouse_assets_tests.cli.lab import COMMAND, Machine, readings, write
from lakehouse_assets_tests.conftest import ROOT, Elsewhere, need


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


@pytest.mark.slow
def test_a_broker_is_only_missed_where_one_is_named(lab: Machine) -> None:
    """The shipped prices need a broker: without LAKEHOUSE_KAFKA that is a hint, with it a fault, each with a command."""
    del lab.environ["LAKEHOUSE_CATALOG"]
    row = findings(lab, code=1)["source of bronze.stocks"]
    assert row["state"] == "optional"
    assert "lakehouse simulate kafka --broker" in row["mend"]
    row = findings(lab, code=1, LAKEHOUSE_KAFKA="127.0.0.1:1")["source of bronze.stocks"]
    assert row["state"] == "missing"
    assert "127.0.0.1:1" in row["found"]


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


CONFIG = """
volume: /Volumes/main/ops/lakehouse
root: s3://bucket/lake
compute: {serverless: {environment_version: "%s"}}
"""
ENVIRONMENT, OTHER = ("2", "3") if sys.version_info[:2] == (3, 11) else ("3", "2")
"""A serverless environment with the Python of this process, and one with another."""


@pytest.fixture
def sent(lab: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine that sends steps to a workspace which is not there yet; no database is needed here."""
    lab.database.unlink()
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(lab.directory / "none.cfg"))
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (lab.directory / "databricks.yaml").write_text(CONFIG % ENVIRONMENT)
    lab.environ["LAKEHOUSE_DATABRICKS"] = str(lab.directory / "databricks.yaml")
    return lab


def need_sdk() -> None:
    """Skip a test that needs the packages which reach a workspace."""
    there = importlib.util.find_spec("dagster_databricks") is not None
    need(there, "the package dagster-databricks", "`make setup-jvm`")


def test_a_workspace_that_lacks_nothing(sent: Machine) -> None:
    """`--target databricks`: all is ok, exit code 0; the catalog's sources are the cluster's to reach."""
    need_sdk()
    with serve(Options(directory=sent.directory / "workspace", token="dapi-test")) as workspace:
        workspace.make_volume("main.ops.lakehouse")
        sent.environ |= {"DATABRICKS_HOST": workspace.host, "DATABRICKS_TOKEN": workspace.token}
        done = sent.lakehouse("doctor", "--target", "databricks", "--format", "json")
    assert done.exit_code == 0, done.stdout
    assert "everything that steps on Databricks need is there" in done.stderr
    found = {row["check"]: row["state"] for row in json.loads(done.stdout)}
    assert {"python", "catalog", "token", "environment", "volume main.ops.lakehouse"} <= found.keys()
    assert not [check for check in found if check.startswith("source of")]
    assert "dapi-test" not in done.output


def test_the_target_of_the_settings_is_the_default(sent: Machine) -> None:
    """LAKEHOUSE_TARGET says which machine is looked at, and `--target` overrides it."""
    need_sdk()
    found = findings(sent, code=1, LAKEHOUSE_TARGET="databricks")
    assert "DATABRICKS_HOST" in found["host"]["mend"]
    assert found["token"]["state"] == "not checked"
    local = sent.lakehouse("doctor", "--target", "local", "--format", "json", LAKEHOUSE_TARGET="databricks")
    assert "host" not in {row["check"] for row in json.loads(local.stdout)}


@pytest.mark.parametrize(("version", "check"), [("1", "environment"), (OTHER, "python there")])
def test_an_environment_that_cannot_run_steps(sent: Machine, version: str, check: str) -> None:
    """One that is not supported, or has another Python, is missing: exit code 1; it takes no workspace to say so."""
    (sent.directory / "databricks.yaml").write_text(CONFIG % version)
    done = sent.lakehouse("doctor", "--target", "databricks", "--format", "json")
    assert done.exit_code == 1
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert rows[check]["state"] == "missing"
    assert rows[check]["mend"]


def test_a_broken_catalog_and_a_databricks_without_configuration(sent: Machine) -> None:
    """Each is told; neither hides the other, and there is no traceback."""
    del sent.environ["LAKEHOUSE_DATABRICKS"]
    sent.declare("delta_live_store: [{{entity_id: a}}]")
    found = findings(sent, code=1, LAKEHOUSE_TARGET="databricks")
    assert (found["catalog"]["state"], found["configuration"]["state"]) == ("missing", "missing")
    assert found["host"]["found"] == "not checked: there is no legal configuration"


def test_a_machine_without_the_packages(sent: Machine, tmp_path: Path) -> None:
    """Without the SDK the command that installs it is told, and what needs it is not checked."""
    (tmp_path / "packages").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("databricks", "dagster_databricks")):
            (tmp_path / "packages" / path.name).symlink_to(path)
    environ = sent.variables(PYTHONPATH=f"{ROOT}:{tmp_path / 'packages'}", LAKEHOUSE_TARGET="databricks")
    command = [COMMAND[0], "-S", *COMMAND[1:], "doctor", "--format", "json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    found = {row["check"]: row for row in json.loads(done.stdout)}
    assert "pip install 'lakehouse-assets[databricks]'" in found["package databricks-sdk"]["mend"]
    assert [found[check]["state"] for check in ("host", "token", "files")] == ["not checked"] * 3
    assert found["environment"]["state"] == "ok"
