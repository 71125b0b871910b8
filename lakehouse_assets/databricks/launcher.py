"""Where a step runs: here, or on Databricks, as the tag of its run says.

Loading this, or running a step here, imports nothing of Databricks and needs no credentials: the real launcher is made
when the first step is sent. What belongs here: the choice, and what must hold before a step may be sent. What does
not: sending it (`step.py`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.execution.plan.execute_step import core_dagster_event_sequence_for_step
from pydantic import Field

from lakehouse_assets.assets.maintenance import KEY
from lakehouse_assets.assets.naming import asset_key
from lakehouse_assets.assets.step import failure_of
from lakehouse_assets.databricks.config import DatabricksConfig, overlap, reachable, read_config
from lakehouse_assets.databricks.package import build, catalog_hash, libraries
from lakehouse_assets.databricks.staging import TEMPORARY
from lakehouse_assets.entities.catalog import Catalog, load_catalog
from lakehouse_assets.errors import LakehouseError, NotRunnable, SecretError, SettingsError
from lakehouse_assets.secrets import is_sensitive, references, resolve
from lakehouse_assets.settings import Settings

if TYPE_CHECKING:
    from dagster._core.execution.context.system import StepExecutionContext

    from lakehouse_assets.databricks.step import DatabricksStepLauncher

TARGET_TAG = "lakehouse/target"
TARGETS = ("local", "databricks")


def target_of(tags: Mapping[str, str], default: str) -> str:
    """Where a run's steps are done.

    Raises:
        SettingsError: the tag names no target.
    """
    target = tags.get(TARGET_TAG, default)
    if target not in TARGETS:
        raise SettingsError(
            f"the run's tag {TARGET_TAG} names no target",
            value=target,
            choices=TARGETS,
            fix=f"launch it again with {TARGET_TAG}: local or databricks",
        )
    return target


class SwitchableStepLauncher(dg.ConfigurableResource, dg.StepLauncher):
    """Runs each step where the run's tag `lakehouse/target` says: `local` or `databricks`."""

    target: str = Field("local", description="Where steps run whose run has no tag lakehouse/target")
    databricks: str | None = Field(None, description="The YAML file that says how steps run on Databricks")
    root: str = Field("", description="The lake's root here; the configuration of Databricks may name another")
    catalog: str = Field("", description="The directory of the catalog that the graph was made from")
    catalog_sha256: str = Field("", description="What its files were when the graph was made")

    @classmethod
    def of(cls, settings: Settings, catalog: Catalog) -> SwitchableStepLauncher:
        """The launcher that the settings describe, for the steps of `catalog`."""
        return cls(
            target=settings.target,
            databricks=str(settings.databricks) if settings.databricks else None,
            root=settings.root,
            catalog=str(settings.catalog),
            catalog_sha256=catalog_hash(catalog),
        )

    def launch_step(self, step_context: StepExecutionContext) -> Iterator[dg.DagsterEvent]:
        """Run the step here, or send it to Databricks."""
        with _failures():
            launcher = None
            if target_of(step_context.dagster_run.tags, self.target) == "databricks":
                launcher = self._launcher(step_context)
        if launcher is None:
            yield from core_dagster_event_sequence_for_step(step_context)
            return
        with _failures():
            yield from launcher.launch_step(step_context)

    def _launcher(self, step: StepExecutionContext) -> DatabricksStepLauncher | None:
        """The real launcher; `None`: the step runs here, and sends its work by Pipes.

        Raises:
            SettingsError: the configuration is missing or not legal.
            NotRunnable: dagster-databricks is not installed.
        """
        check_run_config(step.run_config)
        if self.databricks is None:
            raise SettingsError(
                "the run is for Databricks, and nothing says how to get there",
                fix="set LAKEHOUSE_DATABRICKS to a file like infra/databricks/serverless.yaml",
            )
        config = read_config(Path(self.databricks), os.environ)
        catalog = self._catalog()
        if config.via == "pipes":
            _check_known(step, catalog)
            return None
        return make(config, catalog, self.root)

    def _catalog(self) -> Catalog:
        catalog = load_catalog(Path(self.catalog), os.environ)
        if catalog_hash(catalog) != self.catalog_sha256:
            raise SettingsError(
                f"the catalog {self.catalog} has changed since the graph was made from it",
                fix="reload the code location (dagster dev: Deployment, Reload), and run again",
            )
        return catalog


def make(config: DatabricksConfig, catalog: Catalog, root: str) -> DatabricksStepLauncher:
    """The launcher that a configuration describes.

    Args:
        root: the lake's root here, unless the configuration names one.

    Raises:
        NotRunnable: dagster-databricks is not installed.
        SettingsError: the root cannot be reached from there, or a secret has no place.
    """
    from lakehouse_assets.databricks import job

    root = config.root or root
    if not reachable(root):
        raise SettingsError(
            "a cluster cannot reach the lake's root",
            value=root,
            choices=("s3://…", "abfss://…", "/Volumes/<catalog>/<schema>/<volume>/…"),
            fix="say `root:` in the configuration of Databricks, or move the lake to an object store",
        )
    if overlap(root, config.volume):
        raise SettingsError(
            f"the lake's root {root} and the staging directory {config.volume} stand in one another",
            fix="give steps a directory of their own: `volume:` in the configuration of Databricks",
        )
    if config.compute.job_cluster is not None:
        job.check_cluster(config.compute.job_cluster)
    extras = ["aws"] if root.startswith("s3://") else ["azure"] if root.startswith("abfss://") else []
    signing = credentials(config, os.environ)
    with _superseded(), _signing_by(signing):
        found: DatabricksStepLauncher = _class()(
            config,
            signing,
            build(catalog, with_code=config.wheel is None),
            environment(config, catalog, root),
            secrets(config, catalog),
            (*libraries(extras), *config.libraries),
        )
    return found


def _class() -> Any:
    """The class that launches.

    Raises:
        NotRunnable: dagster-databricks is not installed.
    """
    try:
        from lakehouse_assets.databricks.step import DatabricksStepLauncher
    except ImportError as error:
        raise NotRunnable(
            f"steps cannot be sent to Databricks: {error}",
            fix="pip install 'lakehouse-assets[databricks]', or make setup-jvm in the repository",
        ) from error
    return DatabricksStepLauncher


@contextmanager
def _superseded() -> Iterator[None]:
    """Do not repeat to users that step launchers are superseded by Pipes.

    There is no plan to remove them, and they are what lets resources and checks travel with the step
    (docs/databricks_launch_or_pipes.md).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.SupersessionWarning)
        yield


@contextmanager
def _signing_by(credentials: Mapping[str, Any]) -> Iterator[None]:
    """Let the SDK heed the given credentials alone: it refuses to choose where the environment holds others, too."""
    kind = next((kind for name, kind in _AUTH.items() if name in credentials), None)
    before = os.environ.get("DATABRICKS_AUTH_TYPE")
    if kind is None or before is not None:
        yield
        return
    os.environ["DATABRICKS_AUTH_TYPE"] = kind
    try:
        yield
    finally:
        del os.environ["DATABRICKS_AUTH_TYPE"]


_AUTH = {"databricks_token": "pat", "oauth_credentials": "oauth-m2m", "azure_credentials": "azure-client-secret"}


def credentials(config: DatabricksConfig, environ: Mapping[str, str]) -> dict[str, Any]:
    """What the stock launcher takes to sign in; secrets are resolved here and nowhere before.

    Raises:
        SettingsError: no host is named.
        SecretError: a reference has no value.
    """
    host = config.host or environ.get("DATABRICKS_HOST")
    if not host:
        raise SettingsError("no workspace is named", fix="set DATABRICKS_HOST, or `host:` in the configuration")
    found: dict[str, Any] = {"databricks_host": host.rstrip("/")}
    if config.token or environ.get("DATABRICKS_TOKEN"):
        given = config.token is not None or not (config.service_principal or config.azure_principal)
        if given:
            found["databricks_token"] = _clean(config.token or "${secret:DATABRICKS_TOKEN}", environ)
    if own := config.service_principal:
        found["oauth_credentials"] = {
            "client_id": own.client_id, "client_secret": _clean(own.client_secret, environ)
        }  # fmt: skip
    if azure := config.azure_principal:
        found["azure_credentials"] = {
            "azure_client_id": azure.client_id,
            "azure_client_secret": _clean(azure.client_secret, environ),
            "azure_tenant_id": azure.tenant_id,
        }
    return found


def _clean(reference: str, environ: Mapping[str, str]) -> str:
    """A secret without the line end that files give it.

    Raises:
        SecretError: it has no value, or holds a blank or another character that no credential has.
    """
    value = resolve(reference, environ).strip()
    if not value or not value.isprintable() or " " in value:
        raise SecretError(
            f"the value of {reference} is no credential: it is empty, or holds blanks", fix="set it again"
        )
    return value


def environment(config: DatabricksConfig, catalog: Catalog, root: str) -> dict[str, str]:
    """The variables that the definitions need on the cluster: the lake, the engine, what the catalog reads."""
    if clear := [name for name in catalog.variables if is_sensitive(name)]:
        raise SecretError(
            f"the catalog uses {', '.join(f'${{{name}}}' for name in clear)}, whose value would travel in clear",
            fix="write ${secret:NAME} in the catalog, and say in the configuration where NAME stands",
        )
    found = {**catalog.variables, "LAKEHOUSE_ROOT": root, "LAKEHOUSE_ENGINE": "spark"}
    if config.unity_catalog:
        found["LAKEHOUSE_UNITY_CATALOG"] = config.unity_catalog
    if config.volume:
        found["LAKEHOUSE_TEMP_DIRECTORY"] = f"{config.volume}/{TEMPORARY}"
    return found


def secrets(config: DatabricksConfig, catalog: Catalog) -> dict[str, dict[str, str]]:
    """The secrets that the catalog refers to: variable -> scope and key.

    Raises:
        SecretError: `${secret:NAME}` is used, and the configuration does not say where NAME stands.
    """
    found: dict[str, dict[str, str]] = {}
    unplaced: dict[str, str] = {}
    for reference in (reference for text in catalog.files.values() for reference in references(text)):
        if reference.scope and reference.key:
            found[reference.variable] = {"scope": reference.scope, "key": reference.key}
        elif reference.variable not in config.secrets:
            unplaced[reference.variable] = reference.text
    if unplaced:
        places = ", ".join(f"{name}: {{scope: …, key: …}}" for name in unplaced)
        raise SecretError(
            f"the catalog refers to {', '.join(unplaced.values())}, and the configuration of Databricks does not say "
            "where that stands",
            fix=f"add to it: secrets: {{{places}}}",
        )
    return found


def _check_known(step: StepExecutionContext, catalog: Catalog) -> None:
    """Raise `NotRunnable` if Pipes would not send the step: it knows the tables of the catalog, and maintenance."""
    tables = [name for table in catalog.destinations for name in (table, table.quarantine, table.changes)]
    known = {KEY, *(asset_key(table) for table in tables)}
    if others := sorted(key.to_user_string() for key in step.get_output_asset_keys() - known):
        raise NotRunnable(
            f"{', '.join(others)} cannot be sent by Pipes: only tables of the catalog, and maintenance, can",
            fix="say `via: launcher` in the configuration of Databricks",
        )


def check_run_config(run_config: Mapping[str, Any]) -> None:
    """Raise `SettingsError` if the launchpad's configuration asks for what a cluster cannot do."""
    given = run_config.get("resources", {}).get("lakehouse", {}).get("config", {})
    root = given.get("root")
    if isinstance(root, Mapping):
        root = os.environ.get(str(root.get("env")), root)
    if root and not reachable(str(root)):
        raise SettingsError(
            "resources.lakehouse.root: a cluster cannot reach the root",
            value=root,
            fix="remove it from the run's configuration",
        )
    if given.get("engine", "spark") != "spark":
        raise SettingsError(
            "resources.lakehouse.engine: steps on Databricks are run by Spark",
            value=given["engine"],
            choices=("spark",),
            fix=f"remove it from the run's configuration, or launch with {TARGET_TAG}: local",
        )


@contextmanager
def _failures() -> Iterator[None]:
    """Errors of ours as failures of Dagster; what Dagster raises itself passes."""
    try:
        yield
    except LakehouseError as error:
        raise failure_of(error) from error
