"""The jobs of the bundle: one for each group of the shipped catalog, with a task for each table that a run writes.

`databricks bundle validate` and `deploy` call `load_resources` (see `python` in databricks.yml). What belongs here:
what follows from the catalog, and the two choices that YAML cannot make (who schedules, what computes). What does not:
places, sizes and people; those are variables in databricks.yml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from databricks.bundles.core import Bundle, Resources
from databricks.bundles.jobs import Job

from lakehouse_assets.assets.naming import group_of
from lakehouse_assets.databricks.runtimes import supported, supported_environment
from lakehouse_assets.entities.catalog import Catalog, load_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import CatalogError, SettingsError
from lakehouse_assets.settings import PACKAGED_CATALOG

WHEEL = "../../dist/*.whl"
"""The wheel that the bundle builds, from the directory of this file."""
PACKAGE = "lakehouse_assets"
ENTRY_POINT = "lakehouse-task"
KEY = "lakehouse"
"""The name of a job's cluster, or of its serverless environment."""
SCHEDULERS = ("dagster", "bundle")
COMPUTES = ("cluster", "serverless")
DEVELOPMENT = frozenset({"dev"})
"""The targets in which nothing starts by itself."""
STORAGE = "LAKEHOUSE_STORAGE_OPTIONS"
UNITY = "LAKEHOUSE_UNITY_CATALOG"
WITH_VARIABLES = 5
"""The first serverless environment in which a task can be given environment variables."""

_WORDS = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")


def load_resources(bundle: Bundle) -> Resources:
    """The jobs of the shipped catalog.

    Raises:
        SettingsError: a variable of the bundle has no legal value.
        CatalogError: the catalog is wrong, names a variable that `environment` lacks, or cannot be scheduled as a job.
    """
    resources = Resources()
    catalog = load_catalog(PACKAGED_CATALOG, bundle.variables["environment"])
    for group, job in jobs_of(catalog, bundle).items():
        resources.add_job(group, Job.from_dict(job))
    return resources


def jobs_of(catalog: Catalog, bundle: Bundle) -> dict[str, Any]:
    """The settings of a job for each group of tables; references to variables are left for the CLI to resolve."""
    paused = pause_status(bundle)
    compute, of_task = _compute(bundle)
    jobs: dict[str, Any] = {}
    for group, tables in groups(catalog).items():
        jobs[group] = {
            "name": f"lakehouse {group}",
            "description": f"Brings the tables of the group {group} up to date; a run with nothing new writes nothing",
            "tasks": [{**_task(catalog, table, tables), **of_task} for table in tables],
            **_schedule(catalog, group, tables, paused),
            **compute,
            "max_concurrent_runs": 1,
            "queue": {"enabled": True},
            "timeout_seconds": "${var.timeout_seconds}",
            "health": {
                "rules": [{"metric": "RUN_DURATION_SECONDS", "op": "GREATER_THAN", "value": "${var.slow_seconds}"}]
            },
            "email_notifications": "${var.notifications}",
            "notification_settings": {"no_alert_for_skipped_runs": True, "no_alert_for_canceled_runs": True},
            "tags": {"project": PACKAGE, "pipeline": group, "target": "${bundle.target}"},
        }
    return jobs


def groups(catalog: Catalog) -> dict[str, tuple[TableName, ...]]:
    """The tables that runs write by group, upstream tables first; views and uploaded tables are not among them."""
    found: dict[str, list[TableName]] = {}
    for table in catalog.order():
        feeds = catalog.destinations[table]
        if feeds[0].kind != "view" and not feeds[0].lakehouse.landed_by:
            found.setdefault(group_of(feeds), []).append(table)
    return {group: tuple(tables) for group, tables in found.items()}


def task_key(table: TableName) -> str:
    """The name of a table's task; names of tables have no hyphen, so no two are alike."""
    return f"{table.layer}-{table.name}"


def needs(catalog: Catalog, table: TableName, tables: Sequence[TableName]) -> tuple[TableName, ...]:
    """Those of `tables` that have to be up to date before `table`, seen through what is not among them."""
    found: dict[TableName, None] = {}
    seen, waiting = {table}, [table]
    while waiting:
        for upstream in map(catalog.base, catalog.upstreams(waiting.pop())):
            if upstream in tables:
                found[upstream] = None
            elif upstream not in seen:
                waiting.append(upstream)
            seen.add(upstream)
    return tuple(up for up in tables if up in found and up != table)


def _task(catalog: Catalog, table: TableName, tables: Sequence[TableName]) -> dict[str, Any]:
    return {
        "task_key": task_key(table),
        "description": catalog.destinations[table][0].comment or str(table),
        "depends_on": [{"task_key": task_key(up)} for up in needs(catalog, table, tables)],
        "python_wheel_task": {
            "package_name": PACKAGE,
            "entry_point": ENTRY_POINT,
            "parameters": ["run", "--engine", "spark", "--root", "${var.root}", str(table)],
        },
        "timeout_seconds": "${var.task_timeout_seconds}",
        "max_retries": 1,  # a batch that was interrupted is replayed exactly
        "min_retry_interval_millis": 60_000,
    }


def pause_status(bundle: Bundle) -> str:
    """Whether the schedules of the jobs are paused: always, unless the bundle is asked to schedule a real target."""
    scheduler = _chosen(bundle, "scheduler", SCHEDULERS)
    return "UNPAUSED" if scheduler == "bundle" and bundle.target not in DEVELOPMENT else "PAUSED"


def _compute(bundle: Bundle) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the variable `compute` means for a job, and for each of its tasks."""
    serverless = _chosen(bundle, "compute", COMPUTES) == "serverless"
    return _serverless(bundle) if serverless else _on_a_cluster(bundle)


def _environment(bundle: Bundle) -> dict[str, str]:
    """The environment of every task."""
    catalog = bundle.variables["unity_catalog"]
    return {**bundle.variables["environment"], **({UNITY: catalog} if catalog else {})}


def _on_a_cluster(bundle: Bundle) -> tuple[dict[str, Any], dict[str, Any]]:
    environment, scope = _environment(bundle), bundle.variables["secret_scope"]
    supported(str(bundle.variables["spark_version"]))
    if scope:
        environment[STORAGE] = f"{{{{secrets/{scope}/storage-options}}}}"
    cluster = dict(bundle.variables["cluster"])
    if bundle.variables["policy_id"]:  # an empty text is no policy
        cluster["policy_id"] = bundle.variables["policy_id"]
    cluster["spark_env_vars"] = {**cluster.get("spark_env_vars", {}), **environment}
    job = {"job_clusters": [{"job_cluster_key": KEY, "new_cluster": cluster}]}
    return job, {"job_cluster_key": KEY, "libraries": [{"whl": WHEEL}]}


def _serverless(bundle: Bundle) -> tuple[dict[str, Any], dict[str, Any]]:
    version, scope = str(bundle.variables["environment_version"]), bundle.variables["secret_scope"]
    supported_environment(version)
    if int(version) < WITH_VARIABLES:
        raise SettingsError(
            "tasks cannot be given environment variables in this serverless environment",
            value=version,
            fix=f"--var environment_version={WITH_VARIABLES}",
        )
    if scope:
        raise SettingsError(
            "serverless tasks are handed no secrets",
            value=f"secret_scope={scope}",
            fix="leave secret_scope empty and take a root that needs none, or set compute to cluster",
        )
    spec = {"environment_version": version, "dependencies": [WHEEL]}
    variables = {"variables": _environment(bundle)}
    job = {
        "environments": [{"environment_key": KEY, "spec": spec}],
        "environment_variables": [{"environment_variables_key": KEY, "spec": variables}],
    }
    return job, {"environment_key": KEY, "environment_variables_key": KEY}


def _chosen(bundle: Bundle, variable: str, choices: Sequence[str]) -> str:
    value = str(bundle.variables[variable])
    if value not in choices:
        raise SettingsError(
            f"the variable {variable} of the bundle has no legal value",
            value=value,
            choices=choices,
            fix=f"--var {variable}={choices[0]}",
        )
    return value


def _schedule(catalog: Catalog, group: str, tables: Sequence[TableName], paused: str) -> Mapping[str, Any]:
    """The schedule that the tables of a group ask for; nothing where none asks."""
    asked = dict.fromkeys(
        (feed.lakehouse.schedule.cron, feed.lakehouse.schedule.timezone)
        for table in tables
        for feed in catalog.destinations[table]
        if feed.lakehouse.schedule
    )
    if not asked:
        return {}
    if len(asked) > 1:
        raise CatalogError(
            f"a job has one schedule, and the tables of the group {group} ask for several",
            value="; ".join(f"{cron} ({zone})" for cron, zone in asked),
            fix="give them the same schedule, or put them in different groups",
        )
    cron, zone = next(iter(asked))
    return {"schedule": {"quartz_cron_expression": quartz(cron), "timezone_id": zone, "pause_status": paused}}


def quartz(cron: str) -> str:
    """A cron line in the syntax of Quartz: seconds first, days of the week by name, `?` for the day that is not asked.

    Raises:
        CatalogError: Quartz cannot say it.
    """
    fields = _WORDS.get(cron.strip(), cron).split()
    if len(fields) != 5:
        raise CatalogError(
            "the schedule is not a cron line", value=cron, fix="write five fields: minute hour day month weekday"
        )
    minute, hour, day, month, weekday = fields
    if weekday == "*":
        return f"0 {minute} {hour} {day} {month} ?"
    if day != "*":
        raise CatalogError(
            "a Databricks job is not scheduled by day of the month and of the week at once",
            value=cron,
            fix="write * for one of them",
        )
    return f"0 {minute} {hour} ? {month} {','.join(_weekdays(weekday, cron))}"


def _weekdays(text: str, cron: str) -> Iterator[str]:
    for part in text.upper().split(","):
        if not re.fullmatch(r"([0-7]|[A-Z]{3})(-([0-7]|[A-Z]{3}))?", part):
            raise CatalogError("the days of the week cannot be translated", value=cron, fix="write 1-5 or MON,WED")
        yield re.sub(r"[0-7]", lambda day: _DAYS[int(day[0])], part)
