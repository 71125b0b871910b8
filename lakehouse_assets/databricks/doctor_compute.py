"""What `lakehouse doctor --target databricks` looks at in the compute of steps.

What belongs here: runtime, Python, access mode and policy of a job cluster, an existing cluster or serverless compute.
What does not: everything else about a workspace (`doctor.py`); which runtimes are supported (`runtimes.py`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lakehouse_assets.databricks import job
from lakehouse_assets.databricks.config import DatabricksConfig
from lakehouse_assets.databricks.findings import Caller, Finding, ask, failed, not_checked
from lakehouse_assets.databricks.runtimes import Runtime, check_python, supported, supported_environment
from lakehouse_assets.errors import SettingsError
from lakehouse_assets.secrets import is_sensitive

if TYPE_CHECKING:
    from databricks.sdk.service.compute import ClusterDetails

DEDICATED = frozenset({"SINGLE_USER", "DATA_SECURITY_MODE_DEDICATED"})
STANDARD = frozenset({"USER_ISOLATION", "DATA_SECURITY_MODE_STANDARD"})
WITH_DBFS = DEDICATED | {"NONE", "LEGACY_SINGLE_USER", "LEGACY_SINGLE_USER_STANDARD"}
"""Access modes that mount the DBFS root and have `sc`."""
WITH_CATALOG = DEDICATED | STANDARD | {"DATA_SECURITY_MODE_AUTO"}
"""Access modes that reach Unity Catalog, and its volumes with it."""
BROKEN = frozenset({"ERROR", "UNKNOWN"})
"""States of a cluster that does not start by itself when a step comes."""


def examine(config: DatabricksConfig, caller: Caller | None, why: str = "") -> Iterator[Finding]:
    """Every finding about the compute of steps.

    Args:
        caller: who asks the workspace; `None`: nobody can, for the reason `why`.
    """
    compute = config.compute
    if compute.job_cluster is not None:
        yield from _job_cluster(config, compute.job_cluster, caller, why)
    elif compute.existing_cluster and caller:
        yield from check_existing(config, caller, compute.existing_cluster)
    elif compute.existing_cluster:
        yield not_checked(f"cluster {compute.existing_cluster}", why)
    elif compute.serverless:
        version = compute.serverless.environment_version
        yield from check_runtime(config, "environment", lambda: supported_environment(version))


def _job_cluster(
    config: DatabricksConfig, spec: Mapping[str, Any], caller: Caller | None, why: str
) -> Iterator[Finding]:
    yield check_keys(spec)
    yield from check_runtime(config, "runtime", lambda: supported(str(spec["spark_version"])))
    rules: Mapping[str, Any] = {}
    if policy := spec.get("policy_id"):
        if caller:
            found, rules = check_policy(caller, str(policy), _tagged(spec, config.tags))
            yield found
        else:
            yield not_checked(f"cluster policy {policy}", why)
    fixed = rules.get("data_security_mode", {}).get("value")  # what a policy fixes holds where nothing is said
    yield check_access(config, spec.get("data_security_mode") or fixed)
    if caller and spec.get("single_user_name"):
        yield check_user(caller, str(spec["single_user_name"]))


def _tagged(spec: Mapping[str, Any], tags: Mapping[str, str]) -> dict[str, Any]:
    return {**spec, "custom_tags": {**(spec.get("custom_tags") or {}), **tags}}


def check_keys(spec: Mapping[str, Any]) -> Finding:
    """Whether the Clusters API knows every key of a job cluster."""
    try:
        job.check_cluster(spec)
    except SettingsError as error:
        return failed("job cluster", error)
    except ImportError:
        return not_checked("job cluster", "databricks-sdk is not installed")
    return Finding("job cluster", "ok", ", ".join(sorted(spec)))


def check_runtime(config: DatabricksConfig, check: str, find: Callable[[], Runtime]) -> Iterator[Finding]:
    """Whether a runtime is supported, and has the Python of this process where pickles travel.

    Args:
        find: gives the runtime, or raises `SettingsError`.
    """
    try:
        runtime = find()
    except SettingsError as error:
        yield failed(check, error)
        yield not_checked("python there", f"see {check}")
        return
    name = f"environment {runtime.environment}" if check == "environment" else f"Databricks Runtime {runtime.dbr}"
    spark = ".".join(map(str, runtime.spark))
    yield Finding(check, "ok", f"{name}, Spark {spark}, supported until {runtime.support_ends}")
    try:
        check_python(runtime)
    except SettingsError as error:
        if config.via == "launcher":
            yield failed("python there", error)
        else:
            yield Finding("python there", "ok", f"{runtime.python_name}; pipes does not need the one here")
    else:
        yield Finding("python there", "ok", f"{runtime.python_name}, as here")


def check_access(config: DatabricksConfig, mode: str | None) -> Finding:
    """Whether the access mode of a cluster can run steps: it has `sc` and /dbfs, or Unity Catalog, as they need.

    Args:
        mode: `data_security_mode`; `None`: nothing is said.
    """
    check = "access mode"
    where = "compute.job_cluster: " if config.compute.job_cluster is not None else "the cluster (Edit, Access mode): "
    mend = f"set in {where}data_security_mode: SINGLE_USER (dedicated)"
    uses = [name for name in ("volume", "wheel", "unity_catalog") if getattr(config, name)]
    uses += ["root"] if (config.root or "").startswith("/Volumes/") else []
    if config.transport == "dbfs" and mode in STANDARD | {"DATA_SECURITY_MODE_AUTO"}:
        return Finding(check, "missing", f"{mode} has no sc and no /dbfs, which transport dbfs needs",
                       f"{mend}, or in the configuration transport: volumes")  # fmt: skip
    if mode is None:
        told = "not said: the workspace decides, and may choose one without Unity Catalog or without sc"
        return Finding(check, "optional", told, mend)
    if uses and mode not in WITH_CATALOG:
        return Finding(check, "missing", f"{mode} does not reach Unity Catalog, which {', '.join(uses)} needs", mend)
    if mode not in WITH_CATALOG | WITH_DBFS:
        return Finding(check, "missing", f"{mode} is none that steps are known to run in", mend)
    return Finding(check, "ok", mode)


def check_user(caller: Caller, single_user: str) -> Finding:
    """Whether a dedicated cluster is dedicated to who signs in, or to a group of theirs."""
    if single_user in caller.names:
        return Finding("dedicated to", "ok", single_user)
    mend = f"set single_user_name: {caller.name}, or sign in as {single_user}"
    return Finding("dedicated to", "missing", f"{single_user}, and {caller.name} signs in", mend)


def check_policy(caller: Caller, policy_id: str, spec: Mapping[str, Any]) -> tuple[Finding, Mapping[str, Any]]:
    """Whether a cluster policy exists and admits a job cluster; and its rules."""
    check, rules = f"cluster policy {policy_id}", {}

    def look() -> Finding:
        policy = caller.client.cluster_policies.get(policy_id)
        rules.update(json.loads(policy.definition or "{}"))
        return judge(check, policy.name or "", rules, spec)

    other = "databricks cluster-policies list, and set compute.job_cluster.policy_id to one of these"
    fixes = {
        "NotFound": other,
        "InvalidParameterValue": other,
        "PermissionDenied": _allow(caller, "cluster-policies", policy_id, "CAN_USE"),
    }
    return ask(check, f"read the {check}", look, fixes), rules


def judge(check: str, name: str, rules: Mapping[str, Any], spec: Mapping[str, Any]) -> Finding:
    """What a policy has against a job cluster.

    Args:
        rules: the policy's definition: path of an attribute -> rule.
        spec: the job cluster as it is asked for.
    """
    against = [told for path, rule in rules.items() if (told := _against(path, rule, _at(spec, path)))]
    if not against:
        return Finding(check, "ok", f"{name} admits the job cluster")
    found = f"{name} contradicts compute.job_cluster: {'; '.join(told for told, _ in against)}"
    return Finding(check, "missing", found, f"in compute.job_cluster: {'; '.join(mend for _, mend in against)}")


def _at(spec: Mapping[str, Any], path: str) -> Any:
    """The attribute that a policy calls `path`: `autoscale.max_workers`, `spark_conf.spark.sql.shuffle.partitions`."""
    if path in spec:
        return spec[path]
    head, _, rest = path.partition(".")
    inner = spec.get(head)
    return _at(inner, rest) if rest and isinstance(inner, Mapping) else None


def _against(path: str, rule: Mapping[str, Any], given: Any) -> tuple[str, str] | None:
    """What a rule has against a value, and what mends it; a value that is not given is filled in by the policy."""
    if given is None:
        return None
    shown = "a value" if is_sensitive(path) else _plain(given)
    kind = rule.get("type")
    if kind == "fixed" and _plain(rule.get("value")) != _plain(given):
        return f"{path} is {shown}", f"{path}: {'as the policy has it' if is_sensitive(path) else rule.get('value')}"
    if kind == "forbidden":
        return f"{path} is forbidden", f"remove {path}"
    if kind == "allowlist" and _plain(given) not in map(_plain, rule.get("values", ())):
        return f"{path} is {shown}", f"{path}: one of {', '.join(map(str, rule.get('values', ())))}"
    return None


def _plain(value: Any) -> str:
    """A value as text: YAML has numbers as text where JSON has numbers."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_existing(config: DatabricksConfig, caller: Caller, cluster_id: str) -> Iterator[Finding]:
    """Whether an all-purpose cluster exists, works, and can run steps."""
    held: list[ClusterDetails] = []

    def look() -> Finding:
        held.append(cluster := caller.client.clusters.get(cluster_id))
        return check_state(cluster_id, cluster.state.value if cluster.state else "", cluster.state_message or "")

    other = "databricks clusters list, and set compute.existing_cluster to the id of one of these"
    fixes = {
        "NotFound": other,
        "InvalidParameterValue": other,
        "PermissionDenied": _allow(caller, "clusters", cluster_id, "CAN_RESTART"),
    }
    found = ask(f"cluster {cluster_id}", f"read the cluster {cluster_id}", look, fixes)
    yield found
    if not held:
        yield from (not_checked(check, f"see {found.check}") for check in ("runtime", "python there", "access mode"))
        return
    cluster = held[0]
    yield from check_runtime(config, "runtime", lambda: supported(cluster.spark_version or ""))
    yield check_access(config, cluster.data_security_mode.value if cluster.data_security_mode else None)
    if cluster.single_user_name:
        yield check_user(caller, cluster.single_user_name)


def check_state(cluster_id: str, state: str, message: str) -> Finding:
    """Whether a cluster works, or starts by itself when a step comes."""
    if state in BROKEN:
        told = f"{state}: {message}" if message else state
        return Finding(f"cluster {cluster_id}", "missing", told, f"databricks clusters start {shlex.quote(cluster_id)}")
    note = "" if state == "RUNNING" else ": starts when the first step comes"
    return Finding(f"cluster {cluster_id}", "ok", f"{state}{note}")


def _allow(caller: Caller, kind: str, name: str, level: str) -> str:
    """The command that gives the caller a permission on an object of the workspace."""
    whose = "user_name" if "@" in caller.name else "service_principal_name"
    entry = json.dumps({"access_control_list": [{whose: caller.name, "permission_level": level}]})
    return f"databricks permissions update {kind} {shlex.quote(name)} --json {shlex.quote(entry)}"
