"""Schedules: one for each cron line and time zone, with the tables that ask for it; and one for maintenance.

What belongs here: the clock. What does not: following other tables (`conditions.py`) or sources (`sensors.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition as Unresolved

from lakehouse_assets.assets.maintenance import KEY
from lakehouse_assets.assets.naming import asset_key, distinct
from lakehouse_assets.assets.partitions import partitions_of
from lakehouse_assets.assets.step import Destination
from lakehouse_assets.automation.jobs import MAINTENANCE, selection
from lakehouse_assets.entities.catalog import Catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import CatalogError

_WORDS = {"*": "x", "/": "_per_", ",": "_and_", "-": "_to_", "@": "", " ": "_"}


DAILY = "30 2 * * *"
"""When the lake is maintained (UTC)."""


def build_schedules(
    written: Mapping[TableName, Destination],
    status: dg.DefaultScheduleStatus,
    jobs: Mapping[str, dg.JobDefinition] | None = None,
) -> list[dg.ScheduleDefinition]:
    """The schedules of the tables that runs write.

    Args:
        written: the tables.
        status: whether they run from the start.
        jobs: those of `jobs_of_schedules`, by name, where they are needed.

    Raises:
        CatalogError: Dagster does not understand a cron line.
    """
    jobs = jobs or {}
    found = [
        _schedule(cron, zone, made, status, jobs.get(job_name(cron, zone)))
        for (cron, zone), made in _asked(written).items()
    ]
    return [*found, _maintenance(status)] if written else found


def jobs_of_schedules(catalog: Catalog, written: Mapping[TableName, Destination]) -> list[Unresolved]:
    """The jobs of the schedules over tables with days: without a job of its own a schedule asks for one of the days."""
    return [
        dg.define_asset_job(job_name(cron, zone), selection(made), description=f"Refresh {_names(made)}")
        for (cron, zone), made in _asked(written).items()
        if any(partitions_of(catalog, one.table) is not None for one in made)
    ]


def _asked(written: Mapping[TableName, Destination]) -> dict[tuple[str, str], list[Destination]]:
    """Cron line and zone -> the tables that ask for it."""
    asked: dict[tuple[str, str], list[Destination]] = {}
    for made in written.values():
        for schedule in dict.fromkeys((f.lakehouse.schedule.cron, f.lakehouse.schedule.timezone)
                                      for f in made.feeds if f.lakehouse.schedule):  # fmt: skip
            asked.setdefault(schedule, []).append(made)
    return dict(sorted(asked.items()))


def _names(made: Sequence[Destination]) -> str:
    return ", ".join(str(one.table) for one in made)


def job_name(cron: str, zone: str) -> str:
    """The name of the job of a schedule over tables with days."""
    return f"{schedule_name(cron, zone)}_job"


def _maintenance(status: dg.DefaultScheduleStatus) -> dg.ScheduleDefinition:
    request = dg.RunRequest(asset_selection=[KEY])
    return dg.ScheduleDefinition(
        name=MAINTENANCE,
        cron_schedule=DAILY,
        execution_timezone="UTC",
        target=dg.AssetSelection.assets(KEY),
        execution_fn=lambda _: request,
        default_status=status,
        description="Compacts, vacuums and checkpoints every table",
    )


def schedule_name(cron: str, zone: str) -> str:
    """The name of a schedule: `at_5_x_x_x_x` for minute 5 of every hour, with the zone where it is not UTC."""
    text = " ".join(cron.split()) + ("" if zone == "UTC" else f" {zone}")
    for sign, word in _WORDS.items():
        text = text.replace(sign, word)
    return f"at_{distinct(text)}"


def _schedule(
    cron: str,
    zone: str,
    made: Sequence[Destination],
    status: dg.DefaultScheduleStatus,
    job: dg.JobDefinition | None,
) -> dg.ScheduleDefinition:
    tables, request = _names(made), dg.RunRequest()
    if job is None:  # names its assets, so that conditions see what the run refreshes
        request = dg.RunRequest(asset_selection=[asset_key(output) for one in made for output in one.outputs])
    try:
        return dg.ScheduleDefinition(
            name=schedule_name(cron, zone),
            cron_schedule=cron,
            execution_timezone=zone,
            target=job or selection(made),
            execution_fn=lambda _: request,
            default_status=status,
            description=f"Refreshes {tables}",
        )
    except dg.DagsterInvalidDefinitionError as error:
        raise CatalogError(
            f"the schedule of {tables} is not one that Dagster understands: {error}",
            value=cron,
            fix="write five fields: minute hour day month weekday",
        ) from error
