"""What is submitted for a step: the run, its compute, libraries and permissions, as the Jobs API takes them.

What belongs here: from the configuration to the request. What does not: sending and following it (`step.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lakehouse_assets.databricks.config import Accessor, DatabricksConfig
from lakehouse_assets.errors import SettingsError

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

TASK = "dagster-task"
ENVIRONMENT = "lakehouse"


def request(
    config: DatabricksConfig, name: str, token: str, main: str, directory: str, libraries: Sequence[str]
) -> dict[str, Any]:
    """The arguments of `jobs.submit` for one step.

    Args:
        name: what the run is called in the workspace.
        token: makes the request idempotent.
        main: the file that is run, with `directory` as its argument.
        libraries: what is installed from the package index, pinned.
    """
    from databricks.sdk.service import compute, jobs

    task: dict[str, Any] = {
        "task_key": TASK,
        "spark_python_task": {"python_file": main, "parameters": [directory]},
        "timeout_seconds": config.run_timeout,
    }
    found: dict[str, Any] = {
        "run_name": name,
        "idempotency_token": token,
        "timeout_seconds": config.run_timeout,
        "access_control_list": [
            jobs.JobAccessControlRequest.from_dict(entry) for entry in access(config.permissions.run)
        ]
        or None,
    }
    wheel = [config.wheel] if config.wheel else []
    if serverless := config.compute.serverless:
        spec = compute.Environment(
            environment_version=serverless.environment_version, dependencies=[*libraries, *wheel]
        )
        found["environments"] = [jobs.JobEnvironment(ENVIRONMENT, spec)]
        found["budget_policy_id"] = serverless.budget_policy_id
        task["environment_key"] = ENVIRONMENT
    else:
        task["libraries"] = [*({"pypi": {"package": pin}} for pin in libraries), *({"whl": path} for path in wheel)]
        task |= _cluster(config)
    return found | {"tasks": [jobs.SubmitTask.from_dict(task)]}


def _cluster(config: DatabricksConfig) -> dict[str, Any]:
    if config.compute.existing_cluster:
        return {"existing_cluster_id": config.compute.existing_cluster}
    spec = dict(config.compute.job_cluster or {})
    return {"new_cluster": spec | {"custom_tags": {**spec.get("custom_tags", {}), **config.tags}}}


def check_cluster(spec: Mapping[str, Any]) -> None:
    """Raise `SettingsError` if a job cluster has keys that the Clusters API does not know."""
    from databricks.sdk.service.compute import ClusterSpec

    unknown = sorted(spec.keys() - ClusterSpec.__dataclass_fields__.keys())
    if unknown:
        raise SettingsError(
            f"compute.job_cluster: unknown keys {', '.join(unknown)}",
            choices=sorted(ClusterSpec.__dataclass_fields__),
            fix="name them as the Clusters API does",
        )


def access(permissions: Mapping[Any, Sequence[Accessor]]) -> list[dict[str, str]]:
    """Permissions as a list of who has which level."""
    return [
        {"permission_level": level, **who.model_dump(exclude_none=True)}
        for level, everyone in permissions.items()
        for who in everyone
    ]


def spark_version(config: DatabricksConfig, client: WorkspaceClient) -> str | None:
    """The runtime that a step will find; `None` on serverless compute."""
    if config.compute.job_cluster is not None:
        return str(config.compute.job_cluster["spark_version"])
    if config.compute.existing_cluster:
        return client.clusters.get(config.compute.existing_cluster).spark_version
    return None


def token(*parts: object) -> str:
    """An idempotency token: the same parts give the same one."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()
