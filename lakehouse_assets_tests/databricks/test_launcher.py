"""Where a step runs, and what has to hold before it may be sent. What is sent is run in `test_launched.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lakehouse_assets.build import build_defs
from lakehouse_assets.databricks import launcher
from lakehouse_assets.databricks.config import DatabricksConfig
from lakehouse_assets.databricks.launcher import SwitchableStepLauncher
from lakehouse_assets.entities.catalog import load_catalog
from lakehouse_assets.errors import SecretError, SettingsError
from lakehouse_assets.settings import load_settings
from lakehouse_assets_tests.conftest import ROOT

CATALOG = """
delta_live_store:
  - entity_id: things
    source: ${THINGS_CSV}
    source_format: csv
    destination: bronze.things
    read_options: {header: "true"}
    source_schema: name STRING
"""
CONFIG: dict[str, Any] = {
    "volume": "/Volumes/main/ops/staging",
    "root": "s3://bucket/lake",
    "compute": {"serverless": {"environment_version": "2"}},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a catalog and a file that it reads."""
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "things.yaml").write_text(CATALOG)
    (tmp_path / "things.csv").write_text("name\na\nb\n")
    monkeypatch.setenv("THINGS_CSV", str(tmp_path / "things.csv"))
    return tmp_path


def run(project: Path, tags: Mapping[str, str], run_config: Any = None, **settings: Any) -> dg.ExecuteInProcessResult:
    """Run the project's asset in this process."""
    given = {"root": str(project / "lake"), "catalog": project / "catalog"} | settings
    defs = build_defs(load_settings(**given))
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(instance=instance, tags=tags, raise_on_error=False, run_config=run_config)


def failure(result: dg.ExecuteInProcessResult) -> str:
    """What the failed step says."""
    event = next(event for event in result.all_events if event.is_step_failure)
    return event.event_specific_data.error.to_string()


def test_a_step_runs_here_by_default(project: Path) -> None:
    """Without a tag, a setting or credentials, a step runs in place."""
    assert run(project, {}).success


def test_the_tag_of_the_run_decides(project: Path) -> None:
    """The tag stands above the setting, in both directions."""
    assert run(project, {"lakehouse/target": "local"}, target="databricks").success
    assert "nothing says how to get there" in failure(run(project, {"lakehouse/target": "databricks"}))


def test_the_setting_decides_without_a_tag(project: Path) -> None:
    """`LAKEHOUSE_TARGET` is the default."""
    said = failure(run(project, {}, target="databricks"))
    assert "set LAKEHOUSE_DATABRICKS to a file" in said


def test_an_unknown_target_is_refused(project: Path) -> None:
    """The message names the tag, its value and the legal ones."""
    said = failure(run(project, {"lakehouse/target": "databrick"}))
    assert "'databrick'" in said
    assert "legal: local, databricks (did you mean" in said


def test_a_catalog_that_changed_since_the_graph_was_made_is_refused(project: Path) -> None:
    """What runs on the cluster is what the UI shows."""
    (project / "databricks.yaml").write_text(
        f"volume: {CONFIG['volume']}\nroot: s3://b/l\ncompute: {{existing_cluster: a}}"
    )
    settings = load_settings(root="s3://b/l", catalog=project / "catalog", databricks=project / "databricks.yaml")
    made = SwitchableStepLauncher.of(settings, load_catalog(project / "catalog", os.environ))
    assert made._catalog()
    (project / "catalog" / "things.yaml").write_text(CATALOG + "    comment: changed\n")
    with pytest.raises(SettingsError, match="has changed since the graph was made"):
        made._catalog()


@pytest.mark.parametrize(
    ("config", "said"),
    [({"root": "/data/lake"}, "a cluster cannot reach the root"), ({"engine": "embedded"}, "are run by Spark")],
)
def test_the_launchpad_cannot_ask_for_what_a_cluster_cannot_do(config: dict[str, str], said: str) -> None:
    """A root on this machine, or the embedded engine, is refused before anything is sent."""
    with pytest.raises(SettingsError, match=said):
        launcher.check_run_config({"resources": {"lakehouse": {"config": config}}})


def make(project: Path, config: Mapping[str, Any], root: str = "lake") -> Any:
    """The launcher of a configuration."""
    catalog = load_catalog(project / "catalog", os.environ)
    return launcher.make(DatabricksConfig.model_validate(config), catalog, root)


def test_a_root_that_the_cluster_cannot_reach_is_refused(project: Path) -> None:
    """A directory of this machine is not the cluster's."""
    with pytest.raises(SettingsError, match="a cluster cannot reach the lake's root") as caught:
        make(project, CONFIG | {"root": None}, root="lake")
    assert "/Volumes/<catalog>" in str(caught.value)


def test_a_workspace_must_be_named(project: Path, sdk: None) -> None:
    """Without a host the message says where to put it."""
    with pytest.raises(SettingsError, match="DATABRICKS_HOST"):
        make(project, CONFIG)


def test_the_environment_of_the_step(project: Path) -> None:
    """What the catalog reads, where the lake is, and Spark as the engine travel with the step."""
    catalog = load_catalog(project / "catalog", os.environ)
    found = launcher.environment(DatabricksConfig.model_validate(CONFIG), catalog, "s3://bucket/lake")
    assert found["LAKEHOUSE_ENGINE"] == "spark"
    assert found["LAKEHOUSE_ROOT"] == "s3://bucket/lake"
    assert found["THINGS_CSV"] == str(project / "things.csv")


def test_secrets_of_the_catalog_travel_as_scope_and_key(project: Path) -> None:
    """Design §7.9: `{{secrets/…}}` names its place; `${secret:NAME}` needs one in the configuration."""
    (project / "catalog" / "things.yaml").write_text(
        CATALOG + "    comment: '{{secrets/ops/api-key}} ${secret:TOKEN}'\n"
    )
    catalog = load_catalog(project / "catalog", os.environ)
    with pytest.raises(SecretError, match=r"secrets: \{TOKEN: \{scope: …, key: …\}\}"):
        launcher.secrets(DatabricksConfig.model_validate(CONFIG), catalog)
    config = DatabricksConfig.model_validate(CONFIG | {"secrets": {"TOKEN": {"scope": "ops", "key": "token"}}})
    assert launcher.secrets(config, catalog) == {"OPS_API_KEY": {"scope": "ops", "key": "api-key"}}


@pytest.mark.parametrize(
    ("config", "environ", "expected"),
    [
        ({}, {"DATABRICKS_TOKEN": "t"}, {"databricks_token": "t"}),
        ({"token": "${secret:MINE}"}, {"MINE": "m", "DATABRICKS_TOKEN": "t"}, {"databricks_token": "m"}),
        (
            {"service_principal": {"client_id": "i", "client_secret": "${secret:S}"}},
            {"S": "s", "DATABRICKS_TOKEN": "t"},
            {"oauth_credentials": {"client_id": "i", "client_secret": "s"}},
        ),
        ({}, {"DATABRICKS_TOKEN": "t\n"}, {"databricks_token": "t"}),
        ({}, {}, {}),
    ],
    ids=["environment", "reference", "principal", "from a file", "unified"],
)
def test_how_a_launcher_signs_in(config: dict[str, Any], environ: dict[str, str], expected: dict[str, Any]) -> None:
    """The configuration before the environment; nothing at all leaves it to Databricks' unified authentication."""
    found = launcher.credentials(
        DatabricksConfig.model_validate(CONFIG | config), environ | {"DATABRICKS_HOST": "https://w/"}
    )
    assert found == {"databricks_host": "https://w", **expected}


def test_the_given_credentials_are_the_only_ones(project: Path, sdk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other credentials in the environment do not make the SDK refuse to choose."""
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "id")
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "other")
    monkeypatch.setenv("DATABRICKS_TOKEN", "mine")
    made = make(project, CONFIG)
    assert made.client.config.auth_type == "pat"
    assert "DATABRICKS_AUTH_TYPE" not in os.environ


def test_a_token_that_is_none_is_not_told() -> None:
    """What could not be sent is refused by the name of its variable; its value is not repeated."""
    environ = {"DATABRICKS_HOST": "https://w", "DATABRICKS_TOKEN": "dapi one\ntwo"}
    with pytest.raises(SecretError) as caught:
        launcher.credentials(DatabricksConfig.model_validate(CONFIG), environ)
    assert "DATABRICKS_TOKEN" in str(caught.value)
    assert "dapi" not in str(caught.value)


def test_a_password_in_a_plain_variable_does_not_travel(project: Path) -> None:
    """A variable of the catalog whose name says secret is refused: its value would stand in the staging directory."""
    (project / "catalog" / "things.yaml").write_text(CATALOG + "    comment: ${EDGE_PASSWORD}\n")
    catalog = load_catalog(project / "catalog", os.environ | {"EDGE_PASSWORD": "hunter2"})
    with pytest.raises(SecretError, match=r"\$\{EDGE_PASSWORD\}, whose value would travel in clear") as caught:
        launcher.environment(DatabricksConfig.model_validate(CONFIG), catalog, "s3://b/l")
    assert "hunter2" not in str(caught.value)


def test_root_and_staging_must_not_overlap(project: Path, sdk: None) -> None:
    """A sweep of the staging directory could meet tables; also where the root comes from the settings."""
    with pytest.raises(SettingsError, match="stand in one another"):
        make(project, CONFIG | {"root": None}, root="/Volumes/main/ops/staging/lake")


def test_loading_the_definitions_needs_nothing_of_databricks(tmp_path: Path) -> None:
    """A clean process without a variable loads every definition, and imports neither pyspark nor dagster_databricks."""
    code = (
        "import sys; from lakehouse_assets.definitions import defs; "
        "assert defs().resolve_all_asset_specs(); "
        "heavy = {'pyspark', 'dagster_databricks', 'databricks', 'pykx', 'kafka', 'boto3', 'delta'}; "
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
