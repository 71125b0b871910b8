"""Sensors: a tick over real sources, a real lake and a real instance."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lakehouse_assets.assets.factory import written
from lakehouse_assets.assets.metadata import DATA_VERSION
from lakehouse_assets.assets.resources import LakehouseResource
from lakehouse_assets.assets.watch import watchable
from lakehouse_assets.automation import sensors
from lakehouse_assets.automation.sensors import BACKOFF_SECONDS, FAILURES, SourceTick, Turn, active_assets
from lakehouse_assets.entities.model import TableName
from lakehouse_assets_tests.assets.house import CATALOG, House, key

BROKEN = """
  - entity_id: broken
    source: /nowhere/none.db
    source_format: sqlite
    destination: bronze.broken
    read_options: {sqlite.table: readings}
    source_schema: id BIGINT
  - entity_id: uploads
    source: /edge/uploads
    source_format: delta
    destination: bronze.uploads
    lakehouse: {landed_by: upload}
"""


def tick(house: House, sensor: str, cursor: str | None = None) -> Any:
    """One tick of a sensor of the definitions, as the daemon makes it."""
    resources = {"lakehouse": LakehouseResource.of(house.settings)}
    context = dg.build_sensor_context(
        house.instance, cursor=cursor, definitions=house.defs, sensor_name=sensor, resources=resources
    )
    return house.defs.resolve_sensor_def(sensor).evaluate_tick(context)


def launch(house: House, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """The run that a request asks for."""
    graph = house.defs.resolve_implicit_global_asset_job_def()
    return graph.execute_in_process(
        instance=house.instance, asset_selection=list(request.asset_selection or ()), tags=dict(request.tags),
        raise_on_error=False,
    )  # fmt: skip


@contextmanager
def at(house: House, later: float = 0.0, **how: Any) -> Iterator[SourceTick]:
    """A tick of the source sensor, `later` seconds from now; what it logs stands in `house.told`."""
    house.told = []
    with LakehouseResource.of(house.settings).open(house.project) as work:
        yield SourceTick(work, house.instance, house.told.append, now=lambda: time.time() + later, **how)


def look(house: House, later: float = 0.0) -> dg.SensorResult:
    """What the source sensor says, `later` seconds from now."""
    made = written(house.catalog)
    with at(house, later) as found:
        return found.run([made[table] for table in watchable(house.catalog)], None)


def test_a_source_with_new_rows_requests_a_run(house: House) -> None:
    """The table that is behind is requested with everything that is written with it, and nothing below it."""
    house.add(("a", 1.0))
    (request,) = tick(house, "sources").run_requests
    assert request.asset_selection == [key("bronze.readings")]
    assert request.tags["lakehouse/table"] == "bronze.readings"
    assert launch(house, request).success
    result = tick(house, "sources")
    assert not result.run_requests
    assert result.skip_message == "nothing new"
    house.add(("a", 2.0))
    (again,) = tick(house, "sources").run_requests
    assert again.run_key != request.run_key


def test_the_same_rows_are_requested_under_the_same_key(house: House) -> None:
    """A second tick before the run starts asks for the same run, so Dagster launches it once."""
    house.add(("a", 1.0))
    first, second = (tick(house, "sources").run_requests[0].run_key for _ in range(2))
    assert first == second


def test_rows_that_came_after_a_canceled_run_are_requested(house: House) -> None:
    """Somebody who cancels a run has said no to that run, not to the rows that come later."""
    house.add(("a", 1.0))
    canceled = tick(house, "sources").run_requests[0].run_key
    house.add(("a", 2.0))
    assert tick(house, "sources").run_requests[0].run_key != canceled


def test_nothing_is_requested_while_a_run_is_active(house: House) -> None:
    """A run that waits in the queue will read the new rows as well."""
    house.add(("a", 1.0))
    graph = house.defs.resolve_implicit_global_asset_job_def()
    selected = frozenset([key("bronze.readings")])
    house.instance.create_run_for_job(graph.get_subset(asset_selection=selected), asset_selection=selected)
    result = tick(house, "sources")
    assert not result.run_requests
    assert "a run is active" in result.skip_message


def test_a_run_of_a_whole_job_is_active_for_all_its_assets(house: House) -> None:
    """A job's run names no assets; those that it plans count."""
    house.instance.create_run_for_job(house.defs.resolve_job_def("sensors_job"))
    assert active_assets(house.instance) >= {
        key("bronze.readings"),
        key("silver.readings_quarantine"),
        key("gold.tops"),
    }


def test_a_failed_run_is_tried_again_later_and_later(house: House) -> None:
    """Each failed run over the same batch doubles the wait; the next request has a key of its own."""
    house.add(("a", 1.0))
    keys = []
    for attempt in range(3):
        (request,) = look(house, later=BACKOFF_SECONDS * 2**attempt).run_requests
        keys.append(request.run_key)
        fail(house, request)
        waiting = look(house)
        assert not waiting.run_requests
        assert f"after {attempt + 1} failed runs" in str(waiting.skip_reason.skip_message)
        almost = BACKOFF_SECONDS * 2**attempt - 5
        assert not look(house, later=almost).run_requests
    assert len(set(keys)) == 3


def fail(house: House, request: dg.RunRequest) -> None:
    """A run over the requested batch that fails."""
    hidden = house.database.with_suffix(".away")
    house.database.rename(hidden)
    assert not launch(house, request).success
    hidden.rename(house.database)


def test_new_rows_do_not_hide_that_runs_fail(house: House) -> None:
    """The wait counts failures over the batch that is due, however far its source has moved since."""
    house.add(("a", 1.0))
    fail(house, look(house).run_requests[0])
    house.add(("a", 2.0))
    assert not look(house).run_requests


def test_after_several_failures_somebody_has_to_look(house: House) -> None:
    """The sensor gives up on a batch, says so every time, and goes on once a run has succeeded."""
    house.add(("a", 1.0))
    for _ in range(FAILURES):
        fail(house, look(house, later=1e6).run_requests[0])
    given_up = look(house, later=1e6)
    assert not given_up.run_requests
    assert "gave up" in str(given_up.skip_reason.skip_message)
    assert "nothing more is requested" in house.told[0]
    house.run("bronze.readings")
    house.add(("a", 2.0))
    assert look(house).run_requests


def test_an_interrupted_batch_is_taken_up(house: House) -> None:
    """A plan that was recorded and not written is a reason to run, although the source has not moved."""
    house.add(("a", 1.0))
    house.run("bronze.readings")
    shutil.rmtree(house.base / "lake" / "bronze" / "readings")
    assert look(house).run_requests


def test_a_broken_source_does_not_stop_the_others(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """The one is told, the others are requested."""
    house = House(tmp_path, instance, CATALOG + BROKEN)
    house.add(("a", 1.0))
    result = look(house)
    assert [request.asset_selection for request in result.run_requests] == [[key("bronze.readings")]]
    assert "bronze.broken: SourceMissing" in house.told[0]
    house.run("bronze.readings")
    assert "bronze.broken: its source cannot be read" in str(look(house).skip_reason.skip_message)


def test_an_uploaded_table_has_no_source_to_look_at(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """What an uploader writes is never landed here."""
    uploaded = CATALOG.replace("lakehouse:\n", "lakehouse:\n      landed_by: upload\n", 1)
    assert TableName("bronze", "readings") in watchable(House(tmp_path, instance).catalog)
    assert watchable(House(tmp_path, instance, uploaded).catalog) == []


@pytest.mark.parametrize(("seconds", "expected"), [(2.5, [["a", "b", "c"], ["d", "e", "a"]]), (0.0, [["a"], ["b"]])])
def test_a_tick_stops_in_time_and_the_next_one_goes_on_there(seconds: float, expected: list[list[str]]) -> None:
    """Work a tick is bounded: every table has its turn, at least one a tick."""
    clock = iter(float(n) for n in range(100))
    turn = Turn(seconds, lambda: next(clock))
    cursor: str | None = None
    for wanted in expected:
        taken = list(turn.take("abcde", cursor))
        assert [item for _, item in taken] == wanted
        cursor = taken[-1][0]
    assert set(json.loads(cursor or "")) == {"next"}


def test_a_cursor_of_a_larger_catalog_is_no_trouble() -> None:
    """Tables may have left the catalog since the last tick."""
    assert [item for _, item in Turn().take("ab", '{"next": 7}')] == ["b", "a"]
    assert list(Turn().take("", None)) == []


def test_commits_of_the_command_line_are_reported(house: House) -> None:
    """What a run of Dagster did not write is reported with its data version, once."""
    house.add(("a", 1.0), ("b", 99.0))
    house.command_line("bronze.readings", "silver.readings")
    events = {e.asset_key: e for e in tick(house, "commits").asset_events}
    assert set(events) == {key(t) for t in ("bronze.readings", "silver.readings", "silver.readings_quarantine")}
    assert events[key("silver.readings")].metadata["dagster/row_count"].value == 1
    report(house, events.values())
    assert tick(house, "commits").asset_events == []
    house.add(("a", 2.0))
    house.command_line("bronze.readings")
    assert [e.asset_key for e in tick(house, "commits").asset_events] == [key("bronze.readings")]


def report(house: House, events: Any) -> None:
    """What the daemon does with the events of a tick."""
    for event in events:
        house.instance.report_runless_asset_event(event)


def test_commits_of_dagster_are_not_reported_again(house: House) -> None:
    """A run has told of its commits; one that found nothing new, too."""
    house.add(("a", 1.0))
    house.run("bronze.readings", "silver.readings", "gold.tops", "gold.alerts")
    assert tick(house, "commits").asset_events == []
    house.run("bronze.readings", "silver.readings")
    assert tick(house, "commits").asset_events == []


def test_a_run_that_has_not_ended_reports_for_itself(house: House) -> None:
    """The table of an active run is left for the next tick."""
    house.add(("a", 1.0))
    house.command_line("bronze.readings")
    run = house.instance.create_run_for_job(house.defs.resolve_job_def("sensors_job"))
    assert tick(house, "commits").asset_events == []
    house.instance.report_run_canceled(run)
    assert [e.asset_key for e in tick(house, "commits").asset_events] == [key("bronze.readings")]


def test_a_run_that_failed_after_a_commit_is_made_good(house: House) -> None:
    """Batches that a failed run committed are reported, so that downstream sees them."""
    house.add(("a", 1.0))
    house.run("bronze.readings")
    reported = house.instance.get_latest_materialization_event(key("bronze.readings"))
    house.add(("a", 2.0))
    house.command_line("bronze.readings")  # stands for a run that died before it could report
    (event,) = tick(house, "commits").asset_events
    assert event.tags[DATA_VERSION] != reported.asset_materialization.tags[DATA_VERSION]


def test_an_uploaded_table_is_reported(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """What an uploader commits is seen, so that its readers follow."""
    upload = CATALOG.replace("destination: silver.readings\n", "destination: bronze.uploads\n").replace(
        "silver.readings", "bronze.uploads"
    )
    House(tmp_path, instance, upload).add(("a", 1.0))
    House(tmp_path, instance, upload).command_line("bronze.readings", "bronze.uploads")
    house = House(tmp_path, instance, CATALOG + BROKEN)
    assert key("bronze.uploads") in {e.asset_key for e in tick(house, "commits").asset_events}


def test_a_table_that_cannot_be_opened_does_not_stop_the_others(house: House) -> None:
    """A damaged log is told; the other tables are reported."""
    house.add(("a", 1.0))
    house.command_line("bronze.readings", "silver.readings")
    for commit in (house.base / "lake" / "bronze" / "readings" / "_delta_log").glob("*.json"):
        commit.write_text("not json")
    keys = {e.asset_key for e in tick(house, "commits").asset_events}
    assert keys == {key("silver.readings"), key("silver.readings_quarantine")}


def test_a_catalog_without_sources_has_no_source_sensor(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """There is no sensor that has nothing to look at."""
    only = """
    delta_live_store:
      - {entity_id: one, source: SELECT 1 AS a, source_format: sql, destination: gold.one}
    """
    house = House(tmp_path, instance, only)
    names = {sensor.name for sensor in house.defs.get_repository_def().sensor_defs}
    assert sensors.SOURCES not in names
    assert sensors.COMMITS in names
