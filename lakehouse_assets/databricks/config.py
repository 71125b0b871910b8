"""How steps run on Databricks: a YAML file, checked as a whole.

What belongs here: keys, and what each may hold. What does not: launching (`step.py`); anything about a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lakehouse_assets.entities import yaml_lines
from lakehouse_assets.errors import SettingsError, did_you_mean
from lakehouse_assets.secrets import is_reference, is_sensitive

_CLOUD = ("s3://", "abfss://")
_VOLUME = re.compile(r"/Volumes/[^/]+/[^/]+/[^/]+(/.*)?")
_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"


def reachable(root: str) -> bool:
    """Whether a cluster can reach a lake's root: an object store or a Unity Catalog volume."""
    return root.startswith(_CLOUD) or _VOLUME.fullmatch(root.rstrip("/")) is not None


def overlap(root: str | None, volume: str | None) -> bool:
    """Whether one of two directories is the other, or stands in it."""
    one, two = (f"{(path or '').rstrip('/')}/" for path in (root, volume))
    return "/" not in (one, two) and (one.startswith(two) or two.startswith(one))


def _reachable(root: str) -> str:
    if not reachable(root):
        raise ValueError(
            f"a cluster cannot reach the root {root!r}: it must start with s3://, abfss:// or "
            "/Volumes/<catalog>/<schema>/<volume>"
        )
    return root


def _is_volume(path: str) -> str:
    if not _VOLUME.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError("must be a path in a volume: /Volumes/<catalog>/<schema>/<volume>/…")
    return path.rstrip("/")


def _is_package(pin: str) -> str:
    if pin.startswith("-") or "://" in pin:  # which may hold a password
        raise ValueError("must name a package as pip does: name==version; options and addresses are not taken")
    return pin


def _is_staging(path: str) -> str:
    if not path.startswith("/") or path.startswith(("/Volumes/", "/dbfs")):
        raise ValueError("must be an absolute path of DBFS without its scheme, such as /lakehouse/staging")
    return path.rstrip("/")


def _typed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a cluster with its numbers and flags as such: the reader of the file leaves them as text."""
    return {name: value if name in _TEXTS else _scalar(value) for name, value in spec.items()}


def _scalar(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _typed(value)
    if not isinstance(value, str):
        return value
    return {"true": True, "false": False}.get(value, int(value) if re.fullmatch(r"\d+", value) else value)


_TEXTS = frozenset({"spark_conf", "spark_env_vars", "custom_tags", "spark_version", "policy_id", "instance_pool_id"})
"""What the Clusters API wants as text even where it looks like a number."""


def _refers(text: str) -> str:
    if not is_reference(text):
        raise ValueError("must be a reference to a secret: ${secret:NAME}")
    return text


Volume = Annotated[str, AfterValidator(_is_volume)]
Reference = Annotated[str, AfterValidator(_refers)]
Root = Annotated[str, AfterValidator(_reachable)]
Seconds = Annotated[int, Field(gt=0, le=7 * 86_400)]


class Strict(BaseModel):
    """A mapping of which every key is known."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


class SecretRef(Strict):
    """Where a secret stands in the workspace; only the cluster reads it."""

    scope: str
    key: str


class ServicePrincipal(Strict):
    """OAuth credentials of a service principal."""

    client_id: str
    client_secret: Reference


class AzurePrincipal(Strict):
    """Credentials of a service principal of Microsoft Entra ID."""

    client_id: str
    client_secret: Reference
    tenant_id: str


class Serverless(Strict):
    """Serverless compute for jobs."""

    environment_version: str = Field(pattern=r"^\d+$")
    """The version of the environment: it decides the version of Python (docs/databricks_runtimes.md)."""
    budget_policy_id: str | None = None


class Compute(Strict):
    """What runs a step: exactly one of the three."""

    job_cluster: Annotated[Mapping[str, Any], AfterValidator(_typed)] | None = None
    """A cluster for each step, as the Clusters API describes one: spark_version, node_type_id, num_workers, …"""
    existing_cluster: str | None = None
    """The id of an all-purpose cluster."""
    serverless: Serverless | None = None

    @model_validator(mode="after")
    def _one(self) -> Compute:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of job_cluster, existing_cluster, serverless (got {given or 'none'})")
        if self.job_cluster is not None and "spark_version" not in self.job_cluster:
            raise ValueError("job_cluster needs a spark_version, such as 15.4.x-scala2.12")
        for part in ("spark_env_vars", "spark_conf"):
            told = (self.job_cluster or {}).get(part) or {}
            if clear := [name for name, value in told.items() if is_sensitive(name) and not is_reference(str(value))]:
                raise ValueError(
                    f"job_cluster.{part}: {', '.join(clear)}: write {{{{secrets/scope/key}}}}, not the secret"
                )
        return self


class Accessor(Strict):
    """Who is given a permission: exactly one of the three."""

    user_name: str | None = None
    group_name: str | None = None
    service_principal_name: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Accessor:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("names exactly one of user_name, group_name, service_principal_name")
        return self


RunLevel = Literal["CAN_VIEW", "CAN_MANAGE_RUN", "CAN_MANAGE", "IS_OWNER"]
ClusterLevel = Literal["CAN_ATTACH_TO", "CAN_RESTART", "CAN_MANAGE"]


class Permissions(Strict):
    """Who else may see or manage what is launched: level -> who."""

    run: Mapping[RunLevel, tuple[Accessor, ...]] = Field(default_factory=dict)
    cluster: Mapping[ClusterLevel, tuple[Accessor, ...]] = Field(default_factory=dict)
    """Of the job cluster of a step; those of an existing cluster are not changed."""


class DatabricksConfig(Strict):
    """Where and how steps run that are sent to Databricks."""

    host: str | None = None
    """The address of the workspace; absent: `DATABRICKS_HOST`."""
    token: Reference | None = None
    """An access token; absent, and no principal either: what Databricks' unified authentication finds."""
    service_principal: ServicePrincipal | None = None
    azure_principal: AzurePrincipal | None = None
    via: Literal["launcher", "pipes"] = "launcher"
    """What carries a step there and its events back (docs/databricks_launch_or_pipes.md)."""
    transport: Literal["volumes", "dbfs"] = "volumes"
    """How files get to the cluster: Unity Catalog volumes through the Files API, or the DBFS root of old workspaces."""
    volume: Volume | None = None
    """Where the files of a launched step stand in a volume while it runs (transport volumes)."""
    staging_prefix: Annotated[str, AfterValidator(_is_staging)] = "/lakehouse_staging"
    """Where they stand in the DBFS root (transport dbfs)."""
    root: Root | None = None
    """The lake's root as the cluster sees it; absent: the root of the settings."""
    unity_catalog: str | None = None
    """The catalog of Unity Catalog in which the tables are registered; absent: tables are paths only."""
    compute: Compute
    wheel: Volume | None = None
    """The wheel of this project in a volume; absent: its package is sent along with each step."""
    libraries: tuple[Annotated[str, AfterValidator(_is_package)], ...] = ()
    """Further packages of the step, as pip names them (`confluent-kafka==2.12.0`); the project's own are added."""
    env: Mapping[str, str] = Field(default_factory=dict)
    """Environment variables of the step; nothing secret."""
    secrets: Mapping[Annotated[str, Field(pattern=_NAME)], SecretRef] = Field(default_factory=dict)
    """Environment variables whose values the cluster takes from its secret scopes."""
    permissions: Permissions = Permissions()
    tags: Mapping[str, str] = Field(default_factory=dict)
    """Custom tags of job clusters, for the bill."""
    run_timeout: Seconds = 7200
    """Seconds after which Databricks stops the run of a step."""
    lost_after: Seconds = 300
    """Seconds without an answer of the workspace after which a step is given up."""
    poll_seconds: Annotated[float, Field(gt=0, le=600)] = 5.0
    keep_failed_hours: Annotated[float, Field(ge=0)] = 24.0
    """How long the files of a failed step are kept in the staging directory."""

    @model_validator(mode="after")
    def _fits(self) -> DatabricksConfig:
        if self.transport == "volumes" and self.volume is None:
            raise ValueError("transport volumes needs `volume: /Volumes/<catalog>/<schema>/<volume>/…`")
        if overlap(self.root, self.volume):
            raise ValueError("root and volume stand in one another: give steps a directory of their own")
        if self.poll_seconds > self.lost_after:
            raise ValueError("poll_seconds must not be longer than lost_after")
        if self.compute.serverless and self.transport == "dbfs":
            raise ValueError("serverless compute cannot read the DBFS root: use transport volumes")
        if self.unity_catalog and (self.root or "").startswith("/Volumes/"):
            raise ValueError("unity_catalog: tables cannot be registered in a volume: give an s3:// or abfss:// root")
        if self.permissions.cluster and self.compute.job_cluster is None:
            raise ValueError("permissions.cluster is for job clusters: those of other compute are not changed")
        return self

    @model_validator(mode="after")
    def _keeps_secrets(self) -> DatabricksConfig:
        if len([x for x in (self.token, self.service_principal, self.azure_principal) if x]) > 1:
            raise ValueError("give one of token, service_principal and azure_principal")
        if clear := [name for name in self.env if is_sensitive(name)]:
            raise ValueError(f"env: {', '.join(clear)}: a secret belongs into `secrets:` as scope and key")
        if both := self.env.keys() & self.secrets.keys():
            raise ValueError(f"{', '.join(sorted(both))} stands in env and in secrets")
        return self


def read_config(path: Path, environ: Mapping[str, str]) -> DatabricksConfig:
    """The configuration in a file; `${VAR}` and `${VAR:-default}` are replaced in its values.

    Raises:
        SettingsError: it is not legal, with every fault at once.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise SettingsError(
            f"LAKEHOUSE_DATABRICKS: the configuration {str(path)!r} cannot be read: {error.strerror}",
            fix="name a file like infra/databricks/serverless.yaml",
        ) from error
    faults: list[str] = []
    document = yaml_lines.read(text)
    faults.extend(f"{path}:{trouble.line}: {trouble.problem}" for trouble in document.troubles)
    data = document.data if document.data is not None else {}
    if not faults and not isinstance(data, dict):
        faults.append(f"{path}:1: must hold keys and values, such as `volume: /Volumes/main/ops/lakehouse`")
    if not faults:
        data = _expanded(data, yaml_lines.Expansion(environ), str(path), faults)
    if not faults:
        try:
            return DatabricksConfig.model_validate(data)
        except ValidationError as error:
            faults.extend(_faults(error, document, str(path)))
    listed = "\n".join(f"  {fault}" for fault in faults)
    raise SettingsError(f"the configuration of Databricks is not legal:\n{listed}", fix="mend the file")


def _expanded(value: Any, expansion: yaml_lines.Expansion, where: str, faults: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _expanded(inner, expansion, f"{where}, {key}", faults) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner, expansion, where, faults) for inner in value]
    if not isinstance(value, str):
        return value
    text, problems = expansion(value)
    faults.extend(f"{where}: {problem}" for problem in problems)
    return text


def _faults(error: ValidationError, document: yaml_lines.Document, name: str) -> Iterator[str]:
    """Each fault with its line and its key; never a value, which may be a secret."""
    for fault in error.errors(include_url=False):
        keys = fault["loc"]
        where = f"{name}:{document.line(keys)}" if keys else name
        path = ".".join(str(key) for key in keys)
        if fault["type"] == "extra_forbidden":
            near = did_you_mean(str(keys[-1]), DatabricksConfig.model_fields) if len(keys) == 1 else ""
            legal = f"; legal: {', '.join(DatabricksConfig.model_fields)}" if len(keys) == 1 else ""
            yield f"{where}: unknown key {path!r}{near}{legal}"
        else:
            cause = fault.get("ctx", {}).get("error")
            yield f"{where}: {path + ': ' if path else ''}{cause or fault['msg']}"
