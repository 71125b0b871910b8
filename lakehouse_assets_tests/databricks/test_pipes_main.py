"""The cluster's side of Dagster Pipes, in this process and with the embedded engine: what is made, what is reported."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.metadata import metadata_map_from_external
from dagster_pipes import PIPES_PROTOCOL_VERSION_FIELD, PipesContext, PipesUnityCatalogVolumesContextLoader
from dagster_pipes import encode_param as encoded

from lakehouse_assets.assets.step import failure_of
from lakehouse_assets.databricks import pipes_main, step_main
from lakehouse_assets.errors import SourceBusy
from lakehouse_assets_tests.conftest import ROOT
from lakehouse_assets_tests.databricks.lab import SMALL


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a catalog, a source with 25 rows and a lake."""
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "readings.yaml").write_text(SMALL)
    with sqlite3.connect(tmp_path / "edge.db") as source:
        source.execute("CREATE TABLE readings (id INTEGER PRIMARY KEY, sensor TEXT, temp REAL)")
        rows = [(n, f"s{n % 3}", -99.0 if n % 10 == 0 else n / 4) for n in range(1, 26)]
        source.executemany("INSERT INTO readings VALUES (?, ?, ?)", rows)
    source.close()
    for name, value in {"READINGS_DB": "edge.db", "LAKEHOUSE_CATALOG": "catalog", "LAKEHOUSE_ROOT": "lake"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    return tmp_path


def parameters(place: Path, keys: Sequence[str], sent: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """The two parameters of Pipes for a step that makes these assets."""
    context = {
        "asset_keys": list(keys), "code_version_by_asset_key": {}, "provenance_by_asset_key": {}, "run_id": "run",
        "partition_key": None, "partition_key_range": None, "partition_time_window": None, "job_name": "job",
        "retry_number": 0, "extras": {pipes_main.SENT: sent} if sent else {},
    }  # fmt: skip
    (place / "context.json").write_text(json.dumps(context))
    (place / "messages").mkdir(exist_ok=True)
    return encoded({"path": str(place / "context.json")}), encoded({"path": str(place / "messages")})


def messages(place: Path) -> list[dict[str, Any]]:
    """What was reported, as any reader of Pipes takes it: lines that are no message are passed over."""
    files = sorted((place / "messages").iterdir(), key=lambda file: int(file.stem))
    lines = [json.loads(line) for file in files for line in file.read_text().split("\n")]
    return [line for line in lines if PIPES_PROTOCOL_VERSION_FIELD in line]


def work(place: Path, keys: Sequence[str], sent: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Do the work of a step, and give what it reported."""
    loader = pipes_main.params_of(*parameters(place, keys, sent))
    with PipesContext(loader, PipesUnityCatalogVolumesContextLoader(), pipes_main.MessageFiles()) as pipes:
        pipes_main.work(pipes, {})
    return messages(place)


def of(told: Sequence[Mapping[str, Any]], method: str) -> list[Any]:
    """The parameters of the messages of a kind."""
    return [message["params"] for message in told if message["method"] == method]


def test_the_asked_assets_are_made_and_reported(place: Path) -> None:
    """Every output with its data version, every check, the observation of the source, the log lines; opened, closed."""
    told = work(place, ["bronze/readings"])
    (made,) = of(told, "report_asset_materialization")
    assert made["metadata"]["dagster/row_count"] == {"type": "int", "raw_value": 25}
    assert made["data_version"].endswith(f"@{made['metadata']['version']['raw_value']}")
    assert {check["check_name"] for check in of(told, "report_asset_check")} >= {"schema", "rows_reconciled"}
    assert [True for one in of(told, "report_custom_message") if pipes_main.OBSERVED in one["payload"]] == [True]
    assert [line["message"] for line in of(told, "log") if "25 rows in" in line["message"]]
    assert [told[0]["method"], told[-1]["method"]] == ["opened", "closed"]


def test_the_configuration_of_the_step_holds(place: Path) -> None:
    """A full refresh that the launchpad asks for starts the table over there, too."""
    work(place, ["bronze/readings"])
    told = work(place, ["bronze/readings"], {"config": {"full_refresh": True}})
    plans = of(told, "report_asset_materialization")[-1]["metadata"]["plans"]["raw_value"]
    assert [plan["rebuild"] for plan in plans] == [True]


def test_maintenance_goes_the_same_way(place: Path) -> None:
    """The asset that is no table is made by the same entry."""
    work(place, ["bronze/readings"])
    told = work(place, ["control/maintenance"], {"config": {"dry_run": True}})
    assert of(told, "report_asset_materialization")[-1]["metadata"]["tables"]["raw_value"] >= 1


def test_assets_of_another_catalog_are_refused(place: Path) -> None:
    """The message names what was asked for, and what the catalog has."""
    with pytest.raises(dg.Failure, match=r"(?s)got 'gold/other'.*legal: bronze\.readings.*deploy the catalog"):
        work(place, ["gold/other"])


def test_the_command_line_takes_the_parameters_of_pipes(place: Path) -> None:
    """`lakehouse run` is the same entry; a failure is reported with its class and cause before the process fails."""
    (place / "edge.db").unlink()
    context, told = parameters(place, ["bronze/readings"])
    command = [sys.executable, "-m", "lakehouse_assets.cli.main", "run"]
    given = ["--dagster-pipes-context", context, "--dagster-pipes-messages", told]
    done = subprocess.run([*command, *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (failure,) = [one["payload"][pipes_main.FAILED] for one in of(messages(place), "report_custom_message")]
    assert failure["causes"][0].startswith("SourceMissing: ")
    assert failure["metadata"]["error"]["raw_value"] == "SourceMissing"
    assert failure["allow_retries"] is False


def test_what_may_be_tried_again_is_told() -> None:
    """A transient error keeps its class on the way; what is none of ours is not tried again."""
    assert pipes_main.told(failure_of(SourceBusy("busy")))["allow_retries"] is True
    assert pipes_main.told(KeyError("x")) == {
        "text": "KeyError: 'x'", "causes": [], "allow_retries": False, "metadata": {}
    }  # fmt: skip


def test_metadata_arrives_as_it_was() -> None:
    """Every type that a step reports comes back equal."""
    column = dg.TableColumn(
        "id", "bigint", "the key", dg.TableColumnConstraints(nullable=False, unique=True, other=["x"]), {"a": "b"}
    )
    given = {
        "whole": 3, "part": 0.5, "yes": True, "none": None, "text": "t", "json": dg.MetadataValue.json({"a": [1]}),
        "md": dg.MetadataValue.md("**x**"), "url": dg.MetadataValue.url("http://127.0.0.1"),
        "path": dg.MetadataValue.path("/x"), "at": dg.MetadataValue.timestamp(1.5),
        "dagster/column_schema": dg.TableSchema(columns=[column, dg.TableColumn("name", "string")]),
        "dagster/column_lineage": dg.TableColumnLineage({"id": [dg.TableColumnDep(dg.AssetKey(["a", "b"]), "id")]}),
    }  # fmt: skip
    sent = json.loads(json.dumps(pipes_main.external(given)))
    assert metadata_map_from_external(sent) == dg.AssetMaterialization("any", metadata=given).metadata


def test_another_python_is_not_refused_there(tmp_path: Path) -> None:
    """What was sent is checked on the cluster all the same: here, its hash is wrong."""
    (tmp_path / "code.zip").write_bytes(b"other")
    sent = {"place": str(tmp_path), "python": "3.12", "dagster": dg.__version__, "code_sha256": "0" * 64}
    with pytest.raises(step_main.Refused, match="the code in the staging directory is not what was sent"):
        pipes_main.prepare(sent, {})
