"""What `lakehouse doctor --target databricks` looks at: whether steps that are sent there can run.

Each check is a function from what it needs to a finding, which holds the command or the GRANT that mends it. What
belongs here: packages, the configuration, the workspace, who signs in, files, secrets. What does not: compute
(`doctor_compute.py`), Unity Catalog (`doctor_catalog.py`); mending; anything that starts a cluster. Nothing is changed
but a probe file, which is removed at once.
"""

from __future__ import annotations

import json
import posixpath
import shlex
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from lakehouse_assets.databricks import doctor_compute
from lakehouse_assets.databricks.config import DatabricksConfig, reachable, read_config
from lakehouse_assets.databricks.doctor_catalog import check_unity_catalog, identifier
from lakehouse_assets.databricks.faults import api_faults
from lakehouse_assets.databricks.findings import ASK, Caller, Finding, ask, failed, not_checked
from lakehouse_assets.databricks.package import DISTRIBUTION
from lakehouse_assets.databricks.staging import DbfsStaging, Staging, VolumeStaging
from lakehouse_assets.entities.catalog import Catalog
from lakehouse_assets.errors import LakehouseError, LaunchRefused, SecretError, SettingsError
from lakehouse_assets.lake.names import BATCHES
from lakehouse_assets.secrets import references
from lakehouse_assets.settings import Settings
from lakehouse_assets.sql.expand import quoted

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

INSTALL = f"pip install '{DISTRIBUTION}[databricks]', or make setup-jvm in the repository"
SECONDS = 10
"""How long an answer may take."""
PATIENCE = 15
"""Seconds during which the workspace is asked again when it is busy."""
EXAMPLES = "infra/databricks/job_cluster.yaml, existing_cluster.yaml or serverless.yaml"


def examine(settings: Settings, catalog: Catalog | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Every finding about steps on Databricks.

    Args:
        catalog: the tables that are run; `None`: they could not be loaded.
    """
    packages = [check_package(need) for need in needed()]
    yield from packages
    try:
        config = configuration(settings, environ)
    except LakehouseError as error:
        yield failed("configuration", error)
        for check in ("root", "host", "token", "compute", "files", "secrets", "Unity Catalog"):
            yield not_checked(check, "there is no legal configuration")
        return
    yield Finding("configuration", "ok", str(settings.databricks))
    yield check_root(config, settings.root)
    yield from check_places(config, catalog)
    if lacking := [finding.check for finding in packages if finding.state != "ok"]:
        why = f"see {' and '.join(lacking)}"
        found, caller = [not_checked("host", why), not_checked("token", why)], None
    else:
        found, caller = sign_in(config, environ)
        why = next((f"nobody is signed in, see {one.check}" for one in found if one.state == "missing"), "")
    yield from found
    yield from doctor_compute.examine(config, caller, why)
    yield from _with(caller, why, config, settings.root, catalog)


def _with(
    caller: Caller | None, why: str, config: DatabricksConfig, root: str, catalog: Catalog | None
) -> Iterator[Finding]:
    """What can be seen only by somebody who is signed in."""
    scopes = secret_scopes(config, catalog)
    if caller is None:
        names = ["files", *(f"secret scope {scope}" for scope in scopes)]
        yield from (not_checked(name, why) for name in (*names, *(["Unity Catalog"] if config.unity_catalog else [])))
        return
    yield from check_files(config, root, caller)
    yield from (check_scope(caller, scope, keys) for scope, keys in scopes.items())
    if config.unity_catalog:
        yield from check_unity_catalog(caller, config.unity_catalog, layers(catalog))


def needed() -> Iterator[Requirement]:
    """The packages that reach a workspace, with the versions that fit."""
    from importlib.metadata import PackageNotFoundError, requires

    for owner, name in ((DISTRIBUTION, "dagster-databricks"), ("dagster-databricks", "databricks-sdk")):
        try:
            lines = requires(owner) or ()
        except PackageNotFoundError:
            lines = ()
        yield next((need for line in lines if (need := Requirement(line)).name == name), Requirement(name))


def check_package(need: Requirement) -> Finding:
    """Whether a package is installed in a version that fits."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version(need.name)
    except PackageNotFoundError:
        return Finding(f"package {need.name}", "missing", "not installed", INSTALL)
    fits = need.specifier.contains(found, prereleases=True)
    told = f"{found} ({need.specifier})" if need.specifier else found
    return Finding(f"package {need.name}", "ok" if fits else "missing", told, None if fits else INSTALL)


def configuration(settings: Settings, environ: Mapping[str, str]) -> DatabricksConfig:
    """The configuration that the settings name.

    Raises:
        SettingsError: they name none, or it is not legal.
    """
    if settings.databricks is None:
        raise SettingsError(
            "nothing says how to get to Databricks", fix=f"export LAKEHOUSE_DATABRICKS=a copy of {EXAMPLES}"
        )
    return read_config(Path(settings.databricks), environ)


def check_root(config: DatabricksConfig, root: str) -> Finding:
    """Whether a cluster can reach the lake's root.

    Args:
        root: that of the settings, which holds unless the configuration names another.
    """
    place = config.root or root
    if reachable(place):
        return Finding("root", "ok", f"{place} can be reached from a cluster")
    mend = "say `root:` in the configuration: s3://…, abfss://… or /Volumes/<catalog>/<schema>/<volume>/…"
    return Finding("root", "missing", f"a cluster cannot reach {place!r}", mend)


def check_places(config: DatabricksConfig, catalog: Catalog | None) -> Iterator[Finding]:
    """The secrets of the catalog of which nothing says where they stand."""
    if catalog is None:
        yield not_checked("secrets of the catalog", "the catalog cannot be loaded")
        return
    found = {one.variable for text in catalog.files.values() for one in references(text) if one.scope is None}
    for name in sorted(found - config.secrets.keys()):
        told = f"the catalog refers to ${{secret:{name}}}, and nothing says where it stands in the workspace"
        mend = f"add to the configuration: secrets: {{{name}: {{scope: <scope>, key: <key>}}}}"
        yield Finding(f"secret {name}", "missing", told, mend)


def secret_scopes(config: DatabricksConfig, catalog: Catalog | None) -> dict[str, set[str]]:
    """The secrets that steps read on the cluster: scope -> keys."""
    found: dict[str, set[str]] = {}
    for ref in config.secrets.values():
        found.setdefault(ref.scope, set()).add(ref.key)
    for text in (*(catalog.files.values() if catalog else ()), json.dumps(config.compute.job_cluster or {})):
        for one in references(text):
            if one.scope and one.key:
                found.setdefault(one.scope, set()).add(one.key)
    return found


def sign_in(config: DatabricksConfig, environ: Mapping[str, str]) -> tuple[list[Finding], Caller | None]:
    """What is found about host and token, and who is signed in where both hold."""
    host = (config.host or environ.get("DATABRICKS_HOST", "")).rstrip("/")
    answers = check_host(host)
    if answers.state != "ok":
        return [answers, not_checked("token", "see host")], None
    try:
        caller = who(config, environ)
    except LakehouseError as error:
        problem, fix = error.problem.partition(" Config: ")[0], renewal(config, host)
        if isinstance(error, SecretError):
            fix = f"{error.fix}: {fix}"
        elif "more than one authorization method" in problem:  # the SDK takes the environment's in besides
            fix = f"export DATABRICKS_AUTH_TYPE={_kind(config)}, or unset the variables of the others"
        return [answers, failed("token", error if error.transient else LaunchRefused(problem, fix=fix))], None
    return [answers, Finding("token", "ok", f"{caller.name} ({caller.client.config.auth_type})")], caller


def _kind(config: DatabricksConfig) -> str:
    """What the SDK calls the credentials of a configuration."""
    return "oauth-m2m" if config.service_principal else "azure-client-secret" if config.azure_principal else "pat"


def check_host(host: str) -> Finding:
    """Whether a workspace answers at an address; no credentials are sent."""
    import requests

    where = "export DATABRICKS_HOST=https://<workspace>: the address that the browser shows for the workspace"
    if not host:
        return Finding("host", "missing", "no workspace is named", where)
    parts = urlsplit(host if "://" in host else f"https://{host}")
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # what stands before an @ may be a secret
    try:
        with requests.Session() as session:
            session.auth = _no_credentials
            known = session.get(f"{shown}/.well-known/databricks-config", timeout=SECONDS, allow_redirects=False)
            if known.ok and "oidc_endpoint" in known.text:
                return Finding("host", "ok", shown)
            closed = session.get(f"{shown}/api/2.0/preview/scim/v2/Me", timeout=SECONDS, allow_redirects=False)
    except (requests.RequestException, ValueError) as error:
        return Finding("host", "missing", f"{shown} does not answer: {type(error).__name__}",
                       f"curl -I {shlex.quote(shown)}; if it is not the workspace: {where}")  # fmt: skip
    if closed.status_code == 401:
        return Finding("host", "ok", shown)
    return Finding("host", "missing", f"{shown} answers, but not as a workspace (HTTP {closed.status_code})", where)


def _no_credentials(request: Any) -> Any:
    """In place of those that `requests` would take from ~/.netrc."""
    return request


def who(config: DatabricksConfig, environ: Mapping[str, str]) -> Caller:
    """Who signs in, as the workspace names them.

    Raises:
        SecretError: a reference has no value.
        LakehouseError: nobody can sign in.
    """
    with api_faults("say who signs in"):
        client = sign(config, environ)
        user = client.current_user.me()
    groups = tuple(group.display for group in user.groups or () if group.display)
    return Caller(client, user.user_name or user.display_name or "", groups)


def sign(config: DatabricksConfig, environ: Mapping[str, str]) -> WorkspaceClient:
    """A client that signs in as the launcher does, and gives up soon."""
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config, azure_service_principal, oauth_service_principal, pat_auth

    from lakehouse_assets.databricks.launcher import credentials

    given = credentials(config, environ)
    how: dict[str, Any] = {"host": given["databricks_host"], "http_timeout_seconds": SECONDS}
    if "databricks_token" in given:
        how |= {"token": given["databricks_token"], "credentials_strategy": pat_auth}
    elif "oauth_credentials" in given:
        how |= {**given["oauth_credentials"], "credentials_strategy": oauth_service_principal}
    elif "azure_credentials" in given:
        how |= {**given["azure_credentials"], "credentials_strategy": azure_service_principal}
    return WorkspaceClient(config=Config(retry_timeout_seconds=PATIENCE, product="lakehouse-assets", **how))


def renewal(config: DatabricksConfig, host: str) -> str:
    """How credentials that work are made."""
    if own := config.service_principal:
        variable = next(references(own.client_secret)).variable
        return (
            f"make a new secret for the service principal {own.client_id} "
            f"(databricks account service-principal-secrets create <id>), and export {variable}=<it>"
        )
    if azure := config.azure_principal:
        variable = next(references(azure.client_secret)).variable
        return f"az ad app credential reset --id {azure.client_id}, and export {variable}=<the password it prints>"
    variable = next(references(config.token)).variable if config.token else "DATABRICKS_TOKEN"
    return (
        f"databricks auth login --host {shlex.quote(host)} && databricks tokens create --comment lakehouse "
        f"--lifetime-seconds 7776000, and export {variable}=<the token_value it prints>"
    )


def check_files(config: DatabricksConfig, root: str, caller: Caller) -> Iterator[Finding]:
    """Where the files of steps, the lake and the wheel stand, as far as it is this workspace that keeps them."""
    if config.transport == "dbfs":
        yield check_dbfs(caller, config.staging_prefix)
    paths = [path for path in (config.volume, config.root or root) if path and path.startswith("/Volumes/")]
    volumes = dict.fromkeys("/".join(path.split("/")[:5]) for path in paths)
    yield from (check_volume(caller, volume) for volume in volumes)
    if config.wheel:
        yield check_wheel(caller, config.wheel)


def check_volume(caller: Caller, path: str) -> Finding:
    """Whether a volume exists, and can be written and read.

    Args:
        path: of the volume, or below it.
    """
    catalog, schema, volume = path.split("/")[2:5]
    name, check = identifier(catalog, schema, volume), f"volume {catalog}.{schema}.{volume}"

    def look() -> Finding:
        caller.client.volumes.read(f"{catalog}.{schema}.{volume}")
        return _probed(check, VolumeStaging(caller.client, f"/Volumes/{catalog}/{schema}/{volume}"))

    grants = (
        f"GRANT USE CATALOG ON CATALOG {identifier(catalog)} TO {quoted(caller.name)}; "
        f"GRANT USE SCHEMA ON SCHEMA {identifier(catalog, schema)} TO {quoted(caller.name)}; "
        f"GRANT READ VOLUME, WRITE VOLUME ON VOLUME {name} TO {quoted(caller.name)}"
    )
    create = f"CREATE SCHEMA IF NOT EXISTS {identifier(catalog, schema)}; CREATE VOLUME {name}"
    return ask(check, f"write and read {check}", look, {"NotFound": create, "PermissionDenied": grants})


def check_dbfs(caller: Caller, prefix: str) -> Finding:
    """Whether the workspace still has a DBFS root that can be written and read."""
    volumes = "in the configuration: transport: volumes, and volume: /Volumes/<catalog>/<schema>/<volume>/lakehouse"
    return ask(
        "DBFS root",
        f"write and read dbfs:{prefix}",
        lambda: _probed("DBFS root", DbfsStaging(caller.client, "")),
        {"DatabricksError": volumes},
    )


def _probed(check: str, staging: Staging) -> Finding:
    """Write a file at the top of a place, read it, and remove it."""
    place, data = f".lakehouse-doctor-{uuid.uuid4().hex[:8]}", b"probe of lakehouse doctor"
    staging.make(place)
    staging.put(f"{place}/probe", data)
    try:
        back = staging.get(f"{place}/probe")
    finally:
        staging.delete(place)
    if back != data:
        return Finding(check, "missing", f"{staging.base or 'dbfs:/'} gave back another file than was written", ASK)
    return Finding(check, "ok", f"{staging.base or 'dbfs:/'} can be written and read")


def check_wheel(caller: Caller, path: str) -> Finding:
    """Whether the wheel stands where the configuration says."""

    def look() -> Finding:
        caller.client.files.get_metadata(path)
        return Finding("wheel", "ok", path)

    upload = f"make wheel && databricks fs cp dist/{posixpath.basename(path)} dbfs:{path} --overwrite"
    return ask("wheel", f"find {path}", look, {"NotFound": upload})


def check_scope(caller: Caller, scope: str, keys: Collection[str]) -> Finding:
    """Whether a secret scope exists, can be read and has these keys; no value is read."""
    check, named = f"secret scope {scope}", shlex.quote(scope)
    puts = [f"databricks secrets put-secret {named} {shlex.quote(key)}" for key in sorted(keys)]

    def look() -> Finding:
        there = {secret.key for secret in caller.client.secrets.list_secrets(scope)}
        lacking = sorted(set(keys) - there)
        if not lacking:
            return Finding(check, "ok", f"has {', '.join(sorted(keys))}")
        mend = "; ".join(f"databricks secrets put-secret {named} {shlex.quote(key)}" for key in lacking)
        return Finding(check, "missing", f"has no {', '.join(lacking)}", mend)

    fixes = {
        "NotFound": "; ".join((f"databricks secrets create-scope {named}", *puts)),
        "PermissionDenied": f"databricks secrets put-acl {named} {shlex.quote(caller.name)} READ",
    }
    return ask(check, f"list the secrets of {scope}", look, fixes)


def layers(catalog: Catalog | None) -> tuple[str, ...]:
    """The schemas that the tables of a catalog stand in."""
    return tuple(sorted({BATCHES.layer, *(table.layer for table in (catalog.destinations if catalog else ()))}))
