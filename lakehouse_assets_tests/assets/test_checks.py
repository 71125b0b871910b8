"""Asset checks: those of the expectations, and those that follow from the entity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from lakehouse_assets.assets.checks import Checks, Evidence
from lakehouse_assets.assets.resources import LakehouseResource
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.lake.delta import Commit
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.tables.base import Outcome
from lakehouse_assets_tests.assets.house import CATALOG, House, check, key, verdicts

SILVER = TableName("silver", "readings")


def checks_of(house: House, table: TableName) -> Checks:
    """The checks of a table of the small project."""
    return Checks(table, house.catalog.destinations[table])


def silver(house: House, *below: str) -> dg.ExecuteInProcessResult:
    """A run of silver (and tables below it) over bronze rows that were landed before."""
    house.command_line("bronze.readings")
    return house.run("silver.readings", *below)


def test_every_expectation_is_a_check_with_counts_and_examples(house: House) -> None:
    """The check of a rule says how many rows broke it, out of how many, and shows some."""
    house.add(("a", 1.0), ("b", 99.0), ("c", 77.0))
    result = silver(house)
    found = check(result, "readings.temp_in_range")
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert (found.metadata["rows_judged"].value, found.metadata["rows_broken"].value) == (3, 2)
    assert [row["sensor"] for row in found.metadata["examples"].value] == ["b", "c"]
    assert check(result, "readings.has_sensor").passed


def test_only_a_rule_that_stops_the_run_blocks(house: House) -> None:
    """`expect_all_or_fail` is an error and blocks; the others warn, unless the entity says error."""
    loud = CATALOG.replace(
        "    is_quarantined: true", "    is_quarantined: true\n    lakehouse: {severity: {temp_in_range: error}}"
    )
    house.declare(loud)
    checks = checks_of(house, SILVER)
    assert {r.name: r.severity.value for r in checks.rules} == {"temp_in_range": "ERROR", "has_sensor": "ERROR"}
    blocking = {spec.name for spec in checks.specs() if spec.blocking}
    assert blocking == {"has_sensor", "schema", "rows_reconciled"}


def test_which_checks_are_generated_follows_from_the_entity(house: House) -> None:
    """A landed table is audited against its source, a query table has its keys checked."""
    names = {str(t): set(checks_of(house, t).generated()) for t in house.catalog.destinations}
    assert names["bronze.readings"] == {"schema", "rows_reconciled", "values_fit", "source_audit"}
    assert names["silver.readings"] == {"schema", "rows_reconciled", "values_fit"}
    assert names["gold.tops"] == {"schema", "rows_reconciled", "primary_key"}


def test_a_run_without_new_rows_repeats_the_last_verdict(house: House) -> None:
    """What was wrong with the rows is still wrong: an idle run does not turn a warning green."""
    house.add(("b", 99.0))
    silver(house)
    result = silver(house)
    found = check(result, "readings.temp_in_range")
    assert not found.passed
    assert found.metadata["rows_broken"].value == 1
    assert "no new rows" in str(found.metadata["note"].value)
    house.add(("b", 1.0))
    assert check(silver(house), "readings.temp_in_range").passed


def test_a_check_without_a_verdict_passes_and_says_why(house: House, tmp_path: Path) -> None:
    """A table that others filled before has not been judged here: zero rows were judged, and it says so."""
    house.add(("b", 99.0))
    house.command_line("bronze.readings", "silver.readings")
    found = check(house.run("silver.readings"), "readings.temp_in_range")
    assert found.passed
    assert found.metadata["rows_judged"].value == 0


def test_a_value_that_does_not_fit_is_seen(house: House) -> None:
    """Rows with a value that does not fit its column go to quarantine, and the check warns."""
    house.add(("a", 1.0), ("a", "warm"))
    result = house.run("bronze.readings")
    found = check(result, "readings.values_fit")
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert found.metadata["values_unfit"].value == 1
    assert found.metadata["quarantine"].value == "bronze.readings_quarantine"
    assert len(house.rows("bronze.readings")) == 1


def test_a_failed_cast_is_counted_by_column(house: House) -> None:
    """A conformed table says which cast failed."""
    house.add(("a", 1.0))
    house.sql("UPDATE readings SET at = 'yesterday'")
    found = check(silver(house), "readings.rows_reconciled")
    assert found.passed
    result = house.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(key("silver.readings"), "values_fit"), limit=1
    )[0].evaluation
    assert not result.passed
    assert result.metadata["cast_failed:at"].value == 1


@pytest.mark.parametrize("fault", ["missing", "differing"])
def test_a_column_that_is_not_as_declared_fails_the_schema(house: House, fault: str) -> None:
    """Every column that the entity declares is in the table, with the type that it declares."""
    house.add(("a", 1.0))
    assert check(house.run("bronze.readings"), "readings.schema").passed
    bronze = TableName("bronze", "readings")
    declared = (
        {"sensor STRING": "sensor BINARY"} if fault == "differing" else {"temp DOUBLE": "temp DOUBLE, wet DOUBLE"}
    )
    ((old, new),) = declared.items()
    house.declare(CATALOG.replace(old, new))
    with LakehouseResource.of(house.settings).open(house.project) as work:
        handle = work.engine.find(work.uri(bronze))
        evidence = Evidence(work, handle, house.instance, ())
        (found,) = [r for r in checks_of(house, bronze).results(evidence) if r.check_name == "schema"]
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.ERROR
    assert {"missing", "differing"} & set(found.metadata) == {fault}
    told = found.metadata[fault].value
    assert told == "wet" if fault == "missing" else list(told) == ["sensor"]


def test_a_comment_for_a_column_that_is_not_there_is_told(house: House) -> None:
    """A comment without a column is a slip, not a fault of the table."""
    house.declare(CATALOG.replace("{temp: Air temperature in °C}", "{tmp: Air temperature in °C}"))
    house.add(("a", 1.0))
    found = check(house.run("bronze.readings"), "readings.schema")
    assert found.passed
    assert found.metadata["comments_without_column"].value == "tmp"


def test_keys_that_are_null_fail_the_primary_key(house: House) -> None:
    """A query table must not hold a NULL key."""
    house.declare(CATALOG.replace("sensor IS NOT NULL", "id IS NOT NULL"))
    house.add((None, 1.0), ("a", 1.0))
    result = silver(house, "gold.tops")
    found = check(result, "tops.primary_key")
    assert not found.passed
    assert (found.metadata["keys_null"].value, found.metadata["keys_doubled"].value) == (1, 0)


def test_keys_that_are_there_twice_fail_the_primary_key_before_anything_is_written(house: House) -> None:
    """A query that gives several rows for a key stops, and its check says so."""
    twice = "SELECT sensor, temp AS top, 1 AS readings FROM silver.warm"
    house.declare(
        CATALOG.replace("SELECT sensor, max(temp) AS top, count(*) AS readings FROM silver.warm GROUP BY sensor", twice)
    )
    house.add(("a", 1.0), ("a", 2.0))
    result = silver(house, "gold.tops")
    assert not result.success
    assert verdicts(result)["tops.primary_key"] is False
    assert house.rows("gold.tops") == []


def test_rows_that_came_late_are_told(house: House) -> None:
    """What the count check of the source finds is a warning on the landed table, new rows or not."""
    house.add(("a", 1.0), ("a", 2.0))
    house.run("bronze.readings")
    house.sql("DELETE FROM readings WHERE id = 1")
    found = check(house.run("bronze.readings"), "readings.source_audit")
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert "rows_missing" in found.metadata


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        ({"rows_in": 3, "valid": 2, "quarantined": 1}, None),
        ({"rows_in": 4, "valid": 2, "quarantined": 1}, "4 rows in"),
        ({"rows_in": 4, "valid": 3, "quarantined": 1}, "3 rows for silver.readings"),
    ],
)
def test_rows_are_reconciled_with_what_was_committed(house: House, outcome: dict[str, int], fault: str | None) -> None:
    """Counts that do not add up, or that differ from the commits, fail the check."""
    house.add(("a", 1.0))
    house.command_line("bronze.readings", "silver.readings")
    plan = Plan(FeedName("silver.readings"), 7, "append", {}, {}, "")
    commits = {SILVER: Commit(1, rows_added=2), SILVER.quarantine: Commit(1, rows_added=1)}
    with LakehouseResource.of(house.settings).open(house.project) as work:
        handle = work.engine.find(work.uri(SILVER))
        evidence = Evidence(work, handle, house.instance, [Outcome(plan, commits, **outcome)])
        (found,) = [r for r in checks_of(house, SILVER).results(evidence) if r.check_name == "rows_reconciled"]
    assert found.passed is (fault is None)
    if fault:
        assert fault in str(found.metadata["faults"].value)


@pytest.mark.parametrize(("age", "passed", "severity"), [(1, True, "WARN"), (3, False, "WARN"), (30, False, "ERROR")])
def test_old_data_is_told_although_runs_go_on(house: House, age: int, passed: bool, severity: str) -> None:
    """Freshness is the age of the last batch with new data: a run that finds nothing does not renew it."""
    house.declare(CATALOG.replace("owners:", "freshness: {warn: 2 hours, fail: 1 day}\n      owners:", 1))
    house.add(("a", 1.0))
    house.command_line("bronze.readings")
    newest = datetime(2026, 3, 1, tzinfo=UTC)
    bronze = TableName("bronze", "readings")
    with LakehouseResource.of(house.settings).open(house.project, clock=lambda: newest + timedelta(hours=age)) as work:
        evidence = Evidence(work, work.engine.find(work.uri(bronze)), house.instance, (), (), newest)
        (found,) = [r for r in checks_of(house, bronze).results(evidence) if r.check_name == "freshness"]
    assert (found.passed, found.severity.value) == (passed, severity)


def test_a_rule_is_judged_in_the_step_that_writes(house: House) -> None:
    """No check has a step of its own: all of them come with the materialization."""
    house.add(("a", 1.0))
    result = house.run("bronze.readings", "silver.readings")
    steps = {e.step_key for e in result.all_events if e.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION}
    assert steps == {"bronze__readings", "silver__readings"}
    assert set(verdicts(result)) >= {"readings.schema", "readings.temp_in_range", "readings.source_audit"}
