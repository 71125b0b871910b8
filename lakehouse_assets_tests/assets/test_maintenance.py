"""Maintenance in the graph: what it tells, and that it moves nobody."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lakehouse_assets.assets.maintenance import KEY
from lakehouse_assets.assets.metadata import recorded_version
from lakehouse_assets.assets.resources import LakehouseResource
from lakehouse_assets.automation.jobs import MAINTENANCE
from lakehouse_assets_tests.assets.house import TABLES, House, key


@pytest.fixture
def lived_in(house: House) -> House:
    """The small project after three runs over everything, some rows in quarantine."""
    for n in range(3):
        house.add(("a", float(n)), ("b", 99.0))
        assert house.run(*TABLES).success
    return house


def maintain(house: House, **config: Any) -> dg.ExecuteInProcessResult:
    """A run of the job."""
    job = house.defs.resolve_job_def(MAINTENANCE)
    return job.execute_in_process(
        instance=house.instance, run_config={"ops": {"control__maintenance": {"config": config}}}, raise_on_error=False
    )


def facts(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of a run."""
    (told,) = result.asset_materializations_for_node("control__maintenance")
    return {name: entry.value for name, entry in told.metadata.items()}


def contents(house: House) -> dict[str, list[str]]:
    """The rows of every table."""
    tables = (*TABLES, "silver.readings_quarantine", "control.batches")
    return {table: sorted(map(repr, house.rows(table))) for table in tables}


def test_maintenance_tells_of_every_table_and_changes_no_row(lived_in: House) -> None:
    """Every stored table, its quarantine and the plans: fewer files, the same rows; then there is nothing left to do."""
    before = contents(lived_in)
    found = facts(maintain(lived_in))
    rows = {row["table"]: row for row in found["report"]}
    assert set(rows) == set(before)
    assert {row["state"] for row in rows.values()} == {"done"}
    assert (rows["bronze.readings"]["files_before"], rows["bronze.readings"]["files_after"]) == (3, 1)
    assert rows["control.batches"]["files_after"] == 1
    assert found["files_after"] < found["files_before"]
    assert "bronze.readings" in found["by_table"]
    assert contents(lived_in) == before
    again = facts(maintain(lived_in))
    assert {(row["rewritten"], row["checkpoint"]) for row in again["report"]} == {(0, False)}


def test_maintenance_moves_nobody_downstream(lived_in: House) -> None:
    """No data version moves, no condition requests a run, no sensor reports a commit; the next rows arrive once."""
    tables = (*TABLES, "silver.readings_quarantine")
    versions = {table: recorded_version(lived_in.instance, key(table)) for table in tables}
    seen = conditions(lived_in)
    maintain(lived_in)
    assert conditions(lived_in, seen.cursor).total_requested == 0
    context = dg.build_sensor_context(
        lived_in.instance,
        definitions=lived_in.defs,
        sensor_name="commits",
        resources={"lakehouse": LakehouseResource.of(lived_in.settings)},
    )
    assert not lived_in.defs.resolve_sensor_def("commits").evaluate_tick(context).asset_events
    assert lived_in.run(*TABLES).success
    assert {table: recorded_version(lived_in.instance, key(table)) for table in tables} == versions
    lived_in.add(("c", 5.0))
    lived_in.run(*TABLES)
    assert len(lived_in.rows("bronze.readings")) == 7
    assert len(lived_in.rows("silver.readings")) == 4


def conditions(house: House, cursor: Any = None) -> dg.EvaluateAutomationConditionsResult:
    """One tick of the sensor that refreshes derived tables."""
    everything = dg.AssetSelection.all()
    return dg.evaluate_automation_conditions(house.defs, house.instance, asset_selection=everything, cursor=cursor)


def test_a_table_that_cannot_be_maintained_does_not_stop_the_others(lived_in: House) -> None:
    """The run fails and names it; the tables before and after it are done, and trying again is not asked for in vain."""
    for file in Path(lived_in.settings.root, "silver", "readings").glob("*.parquet"):
        file.unlink()
    result = maintain(lived_in)
    assert not result.success
    (event,) = (event for event in result.all_events if event.is_step_failure)
    assert "1 of 6 tables could not be maintained: silver.readings:" in str(event.step_failure_data.error)
    with LakehouseResource.of(lived_in.settings).open(lived_in.project) as work:
        names = ("bronze/readings", "control/batches", "gold/tops")
        assert [work.engine.find(f"{lived_in.settings.root}/{name}").weight()[0] for name in names] == [1, 1, 1]


def test_a_selection_and_a_dry_run(lived_in: House) -> None:
    """`tables` names what is looked at, `dry_run` leaves every file as it is."""
    root = Path(lived_in.settings.root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    (row,) = facts(maintain(lived_in, tables="bronze.readings", dry_run=True))["report"][:1]
    assert (row["table"], row["state"], row["rewritten"]) == ("bronze.readings", "planned", 3)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_maintenance_is_scheduled_daily(lived_in: House) -> None:
    """A tick of the schedule requests the asset, and nothing else."""
    schedule = lived_in.defs.resolve_schedule_def(MAINTENANCE)
    context = dg.build_schedule_context(
        lived_in.instance,
        scheduled_execution_time=datetime(2026, 3, 1, 2, 30, tzinfo=UTC),
        repository_def=lived_in.defs.get_repository_def(),
    )
    (request,) = schedule.evaluate_tick(context).run_requests
    assert request.asset_selection == [KEY]
    assert not lived_in.defs.resolve_asset_graph().get(KEY).child_keys
