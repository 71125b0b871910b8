"""The one place where the graph is assembled: from settings and a catalog to Dagster's definitions.

What belongs here: putting the rooms together. What does not: anything at import; anything a room could do itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from lakehouse_assets.assets.factory import build_assets, written
from lakehouse_assets.assets.maintenance import build_maintenance
from lakehouse_assets.assets.partitions import partitions_of
from lakehouse_assets.assets.resources import LakehouseResource, Project
from lakehouse_assets.automation.conditions import derived
from lakehouse_assets.automation.failures import build_failure_sensor
from lakehouse_assets.automation.jobs import build_jobs, whole
from lakehouse_assets.automation.lag import build_lag_sensors
from lakehouse_assets.automation.partitions import build_partition_sensors
from lakehouse_assets.automation.produce import build_producers
from lakehouse_assets.automation.schedules import build_schedules, jobs_of_schedules
from lakehouse_assets.automation.sensors import build_sensors
from lakehouse_assets.databricks.executor import by_target
from lakehouse_assets.databricks.launcher import SwitchableStepLauncher
from lakehouse_assets.databricks.pipes import Pipes
from lakehouse_assets.entities.catalog import Catalog, load_catalog
from lakehouse_assets.settings import Settings, load_settings

FOLLOW = "derived_tables"
"""The sensor that refreshes derived tables."""
FOLLOW_SECONDS = 5
"""How often it looks: between a landed batch and gold it has to look once for each step on the way."""


def build_defs(
    settings: Settings | None = None,
    catalog: Catalog | None = None,
    environ: Mapping[str, str] | None = None,
    resources: Mapping[str, object] | None = None,
) -> dg.Definitions:
    """Every definition of the project.

    Args:
        settings: absent: those of this process.
        catalog: absent: the one that the settings name.
        environ: what `${VAR}` and references to secrets mean; absent: the environment of this process.
        resources: taken in place of those that the settings describe, by name.

    Raises:
        SettingsError: a setting is not legal.
        CatalogError: the catalog has faults (all of them).
    """
    environ = os.environ if environ is None else environ
    settings = settings or load_settings()
    project = Project(settings, catalog or load_catalog(settings.catalog, environ), environ)
    tables = written(project.catalog)
    runs = settings.automation == "running"
    sensors = dg.DefaultSensorStatus.RUNNING if runs else dg.DefaultSensorStatus.STOPPED
    schedules = dg.DefaultScheduleStatus.RUNNING if runs else dg.DefaultScheduleStatus.STOPPED
    elsewhere = Pipes(settings, project.catalog)
    follow = dg.AutomationConditionSensorDefinition(
        FOLLOW,
        target=dg.AssetSelection.all(),
        minimum_interval_seconds=FOLLOW_SECONDS,
        default_status=sensors,
        description="Refreshes a table when the data of a table that it reads has changed",
    )
    assets = [
        *build_assets(project, tables, derived, elsewhere),
        *([build_maintenance(project, elsewhere)] if tables else []),
    ]
    bound = {
        "lakehouse": LakehouseResource.of(settings),
        "step_launcher": SwitchableStepLauncher.of(settings, project.catalog),
        **(resources or {}),
    }
    executor = by_target(settings.target)
    jobs: Sequence[Any] = [*build_jobs(tables), *jobs_of_schedules(project.catalog, tables)]
    if any(partitions_of(project.catalog, table) is not None for table in tables):
        jobs = whole(jobs, assets, bound, executor)
    return dg.Definitions(
        assets=assets,
        jobs=[*jobs, *build_producers(project)],
        schedules=build_schedules(tables, schedules, {job.name: job for job in jobs}),
        sensors=[
            *build_sensors(project, tables, sensors),
            *build_lag_sensors(project, tables, sensors),
            *build_partition_sensors(project, tables, sensors),
            follow,
            build_failure_sensor(settings, sensors),
        ],
        resources=bound,
        executor=executor,
    )
