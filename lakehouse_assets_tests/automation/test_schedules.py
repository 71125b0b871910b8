"""Schedules and jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from lakehouse_assets.assets.maintenance import KEY
from lakehouse_assets.automation.jobs import MAINTENANCE
from lakehouse_assets.automation.schedules import schedule_name
from lakehouse_assets.errors import CatalogError
from lakehouse_assets_tests.assets.house import CATALOG, House, key

MORE = """
  - entity_id: same
    source: bronze.readings
    source_format: dlt
    destination: silver.same
    lakehouse: {schedule: {cron: "5 * * * *"}}
  - entity_id: vienna
    source: bronze.readings
    source_format: dlt
    destination: silver.vienna
    is_quarantined: true
    expectations: {expect_all: {ok: "temp > 0"}}
    lakehouse: {schedule: {cron: "5 * * * *", timezone: Europe/Vienna}}
"""


def selected(house: House, schedule: str) -> set[dg.AssetKey]:
    """The assets that a schedule refreshes."""
    job = house.defs.resolve_schedule_def(schedule).job
    return set(house.defs.resolve_job_def(job.name).asset_layer.executable_asset_keys)


def test_tables_with_one_cron_line_share_a_schedule(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """One schedule for each cron line and time zone, with everything that is written with its tables."""
    house = House(tmp_path, instance, CATALOG + MORE)
    names = {s.name: s for s in house.defs.get_repository_def().schedule_defs}
    assert set(names) == {"at_5_x_x_x_x", schedule_name("5 * * * *", "Europe/Vienna"), MAINTENANCE}
    assert selected(house, "at_5_x_x_x_x") == {key("bronze.readings"), key("silver.same")}
    vienna = names[schedule_name("5 * * * *", "Europe/Vienna")]
    assert vienna.execution_timezone == "Europe/Vienna"
    assert selected(house, vienna.name) == {key("silver.vienna"), key("silver.vienna_quarantine")}


def test_a_tick_requests_a_run_that_does_its_work(house: House) -> None:
    """The run of a schedule lands what is new."""
    house.add(("a", 1.0))
    schedule = house.defs.resolve_schedule_def("at_5_x_x_x_x")
    moment = datetime(2026, 3, 1, 12, 5, tzinfo=UTC)
    context = dg.build_schedule_context(
        house.instance, scheduled_execution_time=moment, repository_def=house.defs.get_repository_def()
    )
    (request,) = schedule.evaluate_tick(context).run_requests
    job = house.defs.resolve_job_def(schedule.job.name)
    assert job.execute_in_process(instance=house.instance, tags=dict(request.tags)).success
    assert len(house.rows("bronze.readings")) == 1


@pytest.mark.parametrize(
    ("cron", "zone", "name"),
    [
        ("5 * * * *", "UTC", "at_5_x_x_x_x"),
        ("*/5 1-3 * * 1,2", "UTC", "at_x_per_5_1_to_3_x_x_1_and_2"),
        ("@daily", "UTC", "at_daily"),
    ],
)
def test_a_schedule_is_named_by_its_cron_line(cron: str, zone: str, name: str) -> None:
    """The name can be read, and Dagster accepts it."""
    assert schedule_name(cron, zone) == name


def test_different_cron_lines_have_different_names() -> None:
    """No two schedules meet in one name."""
    lines = [
        ("1 2 * * *", "UTC"),
        ("1 2 * * *", "Europe/Vienna"),
        ("1-2 * * * *", "UTC"),
        ("1,2 * * * *", "UTC"),
        ("*/2 * * * *", "UTC"),
    ]
    assert len({schedule_name(*line) for line in lines}) == len(lines)


def test_a_cron_line_that_dagster_refuses_names_its_table(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """The error says which table asks for it."""
    with pytest.raises(CatalogError, match=r"bronze\.readings"):
        House(tmp_path, instance, CATALOG.replace("5 * * * *", "0 0 * * abc"))


def test_there_is_a_job_for_each_group_and_one_for_everything(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """A job holds what its group writes; views and sources are not run."""
    house = House(tmp_path, instance, CATALOG + MORE)
    names = {job.name for job in house.defs.get_repository_def().get_all_jobs() if not job.name.startswith("__")}
    assert names == {"sensors_job", "sensors_reset", "silver_job", "silver_reset", "everything", MAINTENANCE}
    keys = set(house.defs.resolve_job_def("everything").asset_layer.executable_asset_keys)
    assert keys == set(house.defs.resolve_asset_graph().executable_asset_keys) - {KEY}
    assert key("silver.warm") not in keys
    assert key("silver.vienna_quarantine") in set(
        house.defs.resolve_job_def("silver_job").asset_layer.executable_asset_keys
    )
