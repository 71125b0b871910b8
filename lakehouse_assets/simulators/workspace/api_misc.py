"""The rest of the simulated workspace's REST API: secrets, permissions, clusters, policies, identity, faults on demand.

What belongs here: endpoints that are a few lines each. What does not: files (`api_dbfs.py`, `api_files.py`), jobs
(`api_jobs.py`).
"""

# ruff: noqa: ARG001 - every endpoint is given the workspace and the call

from __future__ import annotations

import base64
import threading
from typing import TYPE_CHECKING, Any

from lakehouse_assets.simulators.workspace.api import ApiError, Call, Routes, bad, denied, missing
from lakehouse_assets.simulators.workspace.clusters import StartFailed
from lakehouse_assets.simulators.workspace.faults import Fault
from lakehouse_assets.simulators.workspace.runtimes import SERVERLESS

if TYPE_CHECKING:
    from lakehouse_assets.simulators.workspace.server import Workspace

WHO = ("user_name", "group_name", "service_principal_name")
LEVELS = {
    "jobs": ("CAN_VIEW", "CAN_MANAGE_RUN", "CAN_MANAGE", "IS_OWNER"),
    "clusters": ("CAN_ATTACH_TO", "CAN_RESTART", "CAN_MANAGE"),
}


def create_scope(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Make a scope of secrets."""
    scope = str(call.need("scope"))
    if scope in workspace.secrets:
        raise ApiError(400, "RESOURCE_ALREADY_EXISTS", f"Scope {scope} already exists!")
    workspace.secrets[scope] = {}
    return {}


def list_scopes(workspace: Workspace, call: Call) -> dict[str, Any]:
    """The scopes."""
    return {"scopes": [{"name": name, "backend_type": "DATABRICKS"} for name in workspace.secrets]}


def _scope(workspace: Workspace, call: Call) -> dict[str, bytes]:
    scope = str(call.need("scope"))
    if scope not in workspace.secrets:
        raise missing(f"Scope {scope} does not exist!")
    return workspace.secrets[scope]


def put_secret(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Write a secret."""
    scope, key = _scope(workspace, call), str(call.need("key"))
    text = call.body.get("string_value")
    scope[key] = text.encode() if text is not None else base64.b64decode(call.need("bytes_value"))
    return {}


def list_secrets(workspace: Workspace, call: Call) -> dict[str, Any]:
    """The names of the secrets of a scope."""
    return {"secrets": [{"key": key, "last_updated_timestamp": 0} for key in _scope(workspace, call)]}


def get_secret(workspace: Workspace, call: Call) -> dict[str, Any]:
    """The value of a secret: tasks alone may ask."""
    if not call.from_cluster:
        raise denied("secrets/get can be called from a cluster only, by DBUtils")
    value = workspace.secret(str(call.need("scope")), str(call.need("key")))
    return {"key": call.query["key"], "value": base64.b64encode(value).decode()}


def _object(workspace: Workspace, kind: str, name: str) -> list[dict[str, Any]]:
    if kind == "clusters":
        workspace.clusters.get(name)
    elif not (name.isdigit() and workspace.jobs.knows_job(int(name))):
        raise missing(f"Job {name} does not exist.")
    return workspace.permissions_of(kind, name)


def _entries(call: Call, kind: str) -> list[dict[str, Any]]:
    entries = list(call.need("access_control_list"))
    for entry in entries:
        if sum(name in entry for name in WHO) != 1 or entry.get("permission_level") not in LEVELS[kind]:
            raise bad(f"An entry needs one of {', '.join(WHO)} and one of {', '.join(LEVELS[kind])}: {entry}")
    return entries


def get_permissions(workspace: Workspace, call: Call, kind: str, name: str) -> dict[str, Any]:
    """Who may do what with a job or a cluster."""
    described = []
    for entry in _object(workspace, kind, name):
        who = {key: value for key, value in entry.items() if key != "permission_level"}
        level = {"permission_level": entry["permission_level"], "inherited": False}
        described.append({**who, "all_permissions": [level]})
    kept = {"object_id": f"/{kind}/{name}", "object_type": kind.removesuffix("s")}
    return {**kept, "access_control_list": described}


def update_permissions(workspace: Workspace, call: Call, kind: str, name: str) -> dict[str, Any]:
    """Add to who may do what."""
    _object(workspace, kind, name).extend(_entries(call, kind))
    return get_permissions(workspace, call, kind, name)


def set_permissions(workspace: Workspace, call: Call, kind: str, name: str) -> dict[str, Any]:
    """Say anew who may do what."""
    _object(workspace, kind, name)[:] = _entries(call, kind)
    return get_permissions(workspace, call, kind, name)


def get_cluster(workspace: Workspace, call: Call) -> dict[str, Any]:
    """What is known of a cluster."""
    return workspace.clusters.get(str(call.need("cluster_id"))).describe()


def list_clusters(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Every cluster."""
    return {"clusters": [cluster.describe() for cluster in workspace.clusters.all()]}


def create_cluster(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Make an all-purpose cluster; its Spark starts at once."""
    cluster = workspace.clusters.create(call.body, "API")
    cluster.state = "PENDING"

    def start() -> None:
        try:
            cluster.environment()
        except (StartFailed, ApiError) as error:
            cluster.state, cluster.reason = "ERROR", str(error)[:200]

    threading.Thread(target=start, daemon=True, name=f"start-{cluster.cluster_id}").start()
    return {"cluster_id": cluster.cluster_id}


def terminate_cluster(workspace: Workspace, call: Call) -> dict[str, Any]:
    """End a cluster's Spark; the next task starts it again."""
    workspace.clusters.get(str(call.need("cluster_id"))).stop()
    return {}


def spark_versions(workspace: Workspace, call: Call) -> dict[str, Any]:
    """The runtimes that a cluster can have."""
    names = [name for name in workspace.options.runtimes if name != SERVERLESS]
    return {"versions": [{"key": name, "name": f"{name} (simulated)"} for name in names]}


def library_status(workspace: Workspace, call: Call) -> dict[str, Any]:
    """What is installed on a cluster."""
    cluster = workspace.clusters.get(str(call.need("cluster_id")))
    statuses = [{"library": library, "status": "INSTALLED"} for library in cluster.libraries]
    return {"cluster_id": cluster.cluster_id, "library_statuses": statuses}


def get_policy(workspace: Workspace, call: Call) -> dict[str, Any]:
    """A cluster policy."""
    policy = str(call.need("policy_id"))
    if policy not in workspace.policies:
        raise missing(f"Cluster policy {policy} does not exist")
    return dict(workspace.policies[policy])


def list_policies(workspace: Workspace, call: Call) -> dict[str, Any]:
    """The cluster policies."""
    return {"policies": list(workspace.policies.values())}


def me(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Who asks."""
    email = [{"value": call.user, "primary": True}]
    return {"id": "1", "userName": call.user, "displayName": call.user, "active": True, "emails": email}


def well_known(workspace: Workspace, call: Call) -> dict[str, Any]:
    """What newer SDKs ask first, without a token."""
    return {"oidc_endpoint": f"{workspace.host}/oidc", "workspace_id": "0"}


def add_fault(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Let a fault strike (of the simulator; a real workspace needs no telling)."""
    workspace.fail(Fault.of(call.body))
    return {}


def add_befall(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Let something befall the next run."""
    workspace.befall(str(call.need("kind")), after=float(call.body.get("after") or 0.0))
    return {}


_OBJECT = "/api/2.0/permissions/(jobs|clusters)/([^/]+)"
_CLUSTERS = "/api/2.[01]/clusters"
ROUTES: Routes = (
    ("POST", "/api/2.0/secrets/scopes/create", create_scope),
    ("GET", "/api/2.0/secrets/scopes/list", list_scopes),
    ("POST", "/api/2.0/secrets/put", put_secret),
    ("GET", "/api/2.0/secrets/list", list_secrets),
    ("GET", "/api/2.0/secrets/get", get_secret),
    ("GET", _OBJECT, get_permissions),
    ("PATCH", _OBJECT, update_permissions),
    ("PUT", _OBJECT, set_permissions),
    ("GET", f"{_CLUSTERS}/get", get_cluster),
    ("GET", f"{_CLUSTERS}/list", list_clusters),
    ("POST", f"{_CLUSTERS}/create", create_cluster),
    ("POST", f"{_CLUSTERS}/delete", terminate_cluster),
    ("GET", f"{_CLUSTERS}/spark-versions", spark_versions),
    ("GET", "/api/2.0/libraries/cluster-status", library_status),
    ("GET", "/api/2.0/policies/clusters/get", get_policy),
    ("GET", "/api/2.0/policies/clusters/list", list_policies),
    ("GET", "/api/2.0/preview/scim/v2/Me", me),
    ("GET", "/.well-known/databricks-config", well_known),
    ("POST", "/simulator/faults", add_fault),
    ("POST", "/simulator/befall", add_befall),
)
