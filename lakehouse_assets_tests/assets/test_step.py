"""Materializing a destination: what is reported, and how an error is told."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import dagster as dg
import pytest

from lakehouse_assets.assets import metadata
from lakehouse_assets.assets.step import failures
from lakehouse_assets.errors import ForeignTable, LakehouseError, SourceBusy
from lakehouse_assets_tests.assets.house import CATALOG, House, check, facts, key, materialized, verdicts

EARLY_UPLOAD = """
  - entity_id: second
    source: ${EDGE_DB}
    source_format: sqlite
    destination: bronze.readings
    group: sensors
    primary_keys: [id]
    read_options: {sqlite.table: readings}
    source_schema: id BIGINT, at STRING, sensor STRING, temp DOUBLE
    lakehouse: {feed: second}
"""


LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
"""
"""Another process that writes: locks of SQLite do not hold between two libraries of one process."""


def failure(result: dg.ExecuteInProcessResult, table: str) -> tuple[str, dict[str, object]]:
    """What a failed step said: its message, and its metadata."""
    event = next(e for e in result.all_events if e.is_step_failure and e.step_key == table.replace(".", "__"))
    told = event.step_failure_data.user_failure_data
    assert told is not None, event.step_failure_data.error
    return told.description or "", {name: entry.value for name, entry in told.metadata.items()}


def retries(result: dg.ExecuteInProcessResult) -> int:
    """How often a step of the run was tried again."""
    return sum(e.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY for e in result.all_events)


def test_a_run_writes_every_table_and_says_where_each_row_went(house: House) -> None:
    """Rows in = valid + quarantined + dropped, and the materialization says so."""
    house.add(("a", 10.0), ("b", 99.0), ("a", 12.0))
    result = house.run("bronze.readings", "silver.readings", "gold.tops", "gold.alerts")
    assert result.success
    found = facts(result, "silver.readings")
    counts = ("rows_in", "rows_valid", "rows_quarantined", "rows_dropped")
    assert [found[name] for name in counts] == [3, 2, 1, 0]
    assert found["dagster/row_count"] == 2
    assert facts(result, "silver.readings_quarantine")["dagster/row_count"] == 1
    assert [row["reasons"] for row in house.rows("gold.alerts")] == [["temp_in_range"]]
    assert house.rows("gold.tops") == [{"sensor": "a", "top": 12.0, "readings": 2}]


def test_a_materialization_shows_plan_version_columns_and_rows(house: House) -> None:
    """The plan, the table's version, its columns with comments and a preview stand on the materialization."""
    house.add(*[("a", float(n)) for n in range(20)])
    found = facts(house.run("bronze.readings"), "bronze.readings")
    (plan,) = found["plans"]
    assert (plan["number"], plan["mode"], plan["end"]["rowid"]) == (1, "append", 20)
    assert plan["versions"] == {"bronze.readings": found["version"]}
    columns = {c.name: (c.type, c.description) for c in found["dagster/column_schema"].columns}
    assert columns["temp"] == ("DOUBLE", "Air temperature in °C")
    assert found["dagster/uri"] == f"{house.settings.root}/bronze/readings"
    assert len(found["preview"].splitlines()) == 2 + metadata.PREVIEW_ROWS


def test_columns_are_traced_to_their_upstream_columns(house: House) -> None:
    """Column lineage leads through views and quarantines to the columns that are stored."""
    house.add(("a", 10.0), ("b", 99.0))
    result = house.run("bronze.readings", "silver.readings", "gold.tops", "gold.alerts")

    def upstream(table: str, column: str) -> set[tuple[str, str]]:
        deps = facts(result, table)["dagster/column_lineage"].deps_by_column[column]
        return {("/".join(dep.asset_key.path), dep.column_name) for dep in deps}

    assert upstream("bronze.readings", "temp") == {("sources/readings", "temp")}
    assert upstream("silver.readings", "at") == {("bronze/readings", "at")}
    assert ("silver/readings", "temp") in upstream("gold.tops", "top")
    assert upstream("gold.alerts", "reasons") == {("silver/readings_quarantine", "_reasons")}


def test_an_empty_refresh_is_not_new_data(house: House) -> None:
    """A run that finds nothing new materializes with the data version that was there."""
    house.add(("a", 1.0))
    first = house.run("bronze.readings", "silver.readings")
    again = house.run("bronze.readings", "silver.readings")
    for table in ("bronze.readings", "silver.readings", "silver.readings_quarantine"):
        versions = [materialized(r, table).tags[metadata.DATA_VERSION] for r in (first, again)]
        assert versions[0] == versions[1], table
    assert facts(again, "bronze.readings")["batches"] == 0
    assert facts(again, "bronze.readings")["dagster/row_count"] == 1


def test_an_untouched_quarantine_keeps_its_data_version(house: House) -> None:
    """A batch without a broken row commits to the quarantine, but its readers have nothing to do."""
    house.add(("a", 99.0))
    first = house.run("bronze.readings", "silver.readings")
    house.add(("a", 1.0))
    second = house.run("bronze.readings", "silver.readings")
    tags = [[materialized(r, t).tags[metadata.DATA_VERSION] for r in (first, second)]
            for t in ("silver.readings", "silver.readings_quarantine")]  # fmt: skip
    assert tags[0][0] != tags[0][1]
    assert tags[1][0] == tags[1][1]


def test_landing_observes_its_source(house: House) -> None:
    """The source is an external asset; each landing says how far it came and what the source looks like."""
    house.add(("a", 1.0), ("a", 2.0))
    house.run("bronze.readings")
    event = house.instance.fetch_observations(dg.AssetKey(["sources", "readings"]), limit=1).records[0]
    found = {name: entry.value for name, entry in event.asset_observation.metadata.items()}
    assert found["last_position"]["rowid"] == 2
    assert found["last_position"] == found["latest_position"]
    assert (found["last_batch"], found["lag_seconds"]) == (1, 0.0)
    assert found["source/table"] == "readings"


def test_a_source_that_cannot_be_observed_does_not_undo_what_was_landed(house: House) -> None:
    """The rows are committed when the source is looked at again: a source that is gone by then is a line in the log."""
    house.add(("a", 1.0))

    def take_away(event: dg.EventLogEntry, _cursor: str) -> None:
        if "batch 1" in event.user_message and house.database.exists():
            house.database.unlink()

    run_id = str(uuid.uuid4())
    house.instance.watch_event_logs(run_id, None, take_away)
    result = house.run("bronze.readings", run_id=run_id)
    assert not house.database.exists()
    assert result.success
    assert facts(result, "bronze.readings")["dagster/row_count"] == 1
    assert house.instance.fetch_observations(dg.AssetKey(["sources", "readings"]), limit=1).records == []


def test_a_terminal_error_is_told_in_full_and_not_tried_again(house: House) -> None:
    """The failure names the problem and the next step, and no retry is wasted on it."""
    house.database.unlink()
    result = house.run("bronze.readings")
    assert not result.success
    text, found = failure(result, "bronze.readings")
    assert "edge.db" in text
    assert found["error"] == "SourceMissing"
    assert found["next"]
    assert retries(result) == 0


def test_a_transient_error_is_tried_again(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """A database that is locked for a moment costs a retry, not a run."""
    quick = CATALOG.replace("{sqlite.table: readings}", "{sqlite.table: readings, sqlite.timeout: 0.05}")
    house = House(tmp_path, instance, quick)
    house.add(("a", 1.0))
    writer = subprocess.Popen(
        [sys.executable, "-c", LOCK, house.database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with writer:
        assert writer.stdout
        assert writer.stdout.readline() == "locked\n"

        def let_go(event: dg.EventLogEntry, _cursor: str) -> None:
            if event.dagster_event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY:
                writer.communicate("let go\n")

        run_id = str(uuid.uuid4())
        instance.watch_event_logs(run_id, None, let_go)
        result = house.run("bronze.readings", run_id=run_id)
    assert result.success
    assert retries(result) == 1
    assert len(house.rows("bronze.readings")) == 1


@pytest.mark.parametrize(
    ("error", "again"), [(SourceBusy("busy"), True), (ForeignTable("theirs", fix="move it"), False)]
)
def test_an_error_says_whether_a_retry_can_help(error: LakehouseError, again: bool) -> None:
    """Transient errors may be retried, terminal ones never."""
    with pytest.raises(dg.Failure) as caught, failures():
        raise error
    assert caught.value.allow_retries is again
    assert caught.value.metadata["error"].value == type(error).__name__


def test_a_broken_batch_leaves_every_table_as_it_was(house: House) -> None:
    """`expect_all_or_fail`: the check fails, nothing is written, downstream does not run."""
    house.add(("a", 1.0))
    assert house.run("bronze.readings", "silver.readings", "gold.tops").success
    house.add((None, 2.0), ("b", 99.0))
    result = house.run("bronze.readings", "silver.readings", "gold.tops")
    assert not result.success
    assert [row["id"] for row in house.rows("silver.readings")] == [1]
    assert house.rows("silver.readings_quarantine") == []
    failed = check(result, "readings.has_sensor")
    assert not failed.passed
    assert failed.metadata["rows_broken"].value == 1
    assert failed.metadata["examples"].value[0]["id"] == 2
    assert "tops.schema" not in verdicts(result)
    _, told = failure(result, "silver.readings")
    assert "has_sensor" in str(told["problem"])
    assert retries(result) == 0


def test_a_mended_rule_frees_the_batch(house: House) -> None:
    """After the rule was changed the stopped batch is made again by the new rule."""
    house.add((None, 2.0))
    assert not house.run("bronze.readings", "silver.readings").success
    house.declare(CATALOG.replace("sensor IS NOT NULL", "sensor IS NOT NULL OR temp > 1"))
    assert house.run("silver.readings").success
    assert [row["id"] for row in house.rows("silver.readings")] == [1]


def test_a_full_refresh_starts_the_table_over(house: House) -> None:
    """The launcher of a run may ask for a rebuild, per table."""
    house.add(("a", 1.0), ("a", 2.0))
    house.run("bronze.readings")
    house.sql("UPDATE readings SET temp = 7 WHERE id = 1")
    assert house.run("bronze.readings", full_refresh=True).success
    assert [row["temp"] for row in house.rows("bronze.readings")] == [7.0, 2.0]


def test_a_rebuild_that_would_lose_rows_has_to_be_told_so(house: House) -> None:
    """Rows that the source no longer holds are lost only if the launcher accepts it."""
    house.add(("a", 1.0), ("a", 2.0), ("a", 3.0))
    house.run("bronze.readings")
    house.sql("DELETE FROM readings WHERE id = 1")
    refused = house.run("bronze.readings", full_refresh=True)
    assert not refused.success
    assert "accept" in failure(refused, "bronze.readings")[0]
    graph = house.defs.resolve_implicit_global_asset_job_def()
    config = {"ops": {"bronze__readings": {"config": {"full_refresh": True, "accept_loss": True}}}}
    result = graph.execute_in_process(
        instance=house.instance, asset_selection=[key("bronze.readings")], run_config=config, raise_on_error=False
    )
    assert result.success
    assert [row["id"] for row in house.rows("bronze.readings")] == [2, 3]


def test_a_table_that_this_version_cannot_run_fails_by_name_and_the_others_run(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """What only later versions run is an asset all the same: materializing it names it and what is missing."""
    later = """
  - entity_id: trades
    source: trades
    source_format: kinesis
    destination: bronze.trades
    source_schema: price DOUBLE
"""
    house = House(tmp_path, instance, CATALOG + later)
    house.add(("a", 1.0))
    result = house.run("bronze.trades", "bronze.readings", "silver.readings")
    assert not result.success
    assert "kinesis" in failure(result, "bronze.trades")[0]
    assert retries(result) == 0
    assert len(house.rows("silver.readings")) == 1


def test_several_entities_feed_one_asset(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """The feeds of one destination are one step, and the plans of all of them are shown."""
    first = CATALOG.replace("lakehouse:\n      owners", "lakehouse:\n      feed: first\n      owners", 1)
    house = House(tmp_path, instance, first + EARLY_UPLOAD)
    house.add(("a", 1.0))
    result = house.run("bronze.readings")
    assert result.success, result.all_events
    found = facts(result, "bronze.readings")
    assert {plan["feed"] for plan in found["plans"]} == {
        "lakehouse/bronze.readings/first",
        "lakehouse/bronze.readings/second",
    }
    assert (found["rows_in"], found["dagster/row_count"]) == (2, 2)
    assert check(result, "readings.rows_reconciled").passed


def test_another_root_can_be_chosen_for_one_run(house: House, tmp_path: Path) -> None:
    """The launchpad may send a run into a scratch lake; the project's lake is not touched."""
    house.add(("a", 1.0))
    graph = house.defs.resolve_implicit_global_asset_job_def()
    config = {"resources": {"lakehouse": {"config": {"root": str(tmp_path / "scratch")}}}}
    result = graph.execute_in_process(
        instance=house.instance, asset_selection=[key("bronze.readings")], run_config=config
    )
    assert result.success
    assert house.rows("bronze.readings") == []
    assert (tmp_path / "scratch" / "bronze" / "readings" / "_delta_log").is_dir()


def test_a_lake_that_cannot_be_opened_is_told(house: House) -> None:
    """The error of opening the lake is told like any other."""
    graph = house.defs.resolve_implicit_global_asset_job_def()
    config = {"resources": {"lakehouse": {"config": {"root": "gs://bucket/lake"}}}}
    result = graph.execute_in_process(
        instance=house.instance, asset_selection=[key("bronze.readings")], run_config=config, raise_on_error=False
    )
    assert not result.success
    assert "gs://" in failure(result, "bronze.readings")[0]
