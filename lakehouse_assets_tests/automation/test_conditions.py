"""When a derived table is refreshed."""

from __future__ import annotations

import time

import dagster as dg
import pytest

from lakehouse_assets.automation.conditions import derived
from lakehouse_assets_tests.assets.house import House, key


class Daemon:
    """Evaluates the conditions tick by tick, as the daemon does."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.cursor = None

    def tick(self) -> set[str]:
        """The tables that this tick requests."""
        result = dg.evaluate_automation_conditions(
            self.house.defs, self.house.instance, asset_selection=dg.AssetSelection.all(), cursor=self.cursor
        )
        self.cursor = result.cursor
        graph = self.house.defs.resolve_asset_graph()
        keys = [k for k in graph.executable_asset_keys if result.get_num_requested(k)]
        return {".".join(k.path) for k in keys}


DERIVED = {"silver.readings", "silver.readings_quarantine", "gold.tops", "gold.alerts"}


@pytest.fixture
def daemon(house: House) -> Daemon:
    """A daemon that has seen the empty project once."""
    found = Daemon(house)
    assert found.tick() == set()
    return found


def move(house: House, *tables: str) -> None:
    """Report new data of tables, as if somebody had written them."""
    for table in tables:
        version = {"dagster/data_version": f"{table}@{time.monotonic_ns()}"}
        house.instance.report_runless_asset_event(dg.AssetMaterialization(key(table), tags=version))


def test_new_bronze_rows_request_everything_below_once(house: House, daemon: Daemon) -> None:
    """One tick requests silver, its quarantine's readers and gold, through views as well; the next one nothing."""
    house.add(("a", 1.0), ("b", 99.0))
    house.run("bronze.readings")
    assert daemon.tick() == DERIVED
    assert daemon.tick() == set()
    house.run("silver.readings", "gold.tops", "gold.alerts")
    assert daemon.tick() == set()


def test_a_run_that_found_nothing_new_requests_nothing(house: House, daemon: Daemon) -> None:
    """An empty materialization is not new data."""
    house.add(("a", 1.0))
    house.run("bronze.readings")
    assert daemon.tick() == DERIVED
    house.run("bronze.readings")
    assert daemon.tick() == set()
    house.add(("a", 2.0))
    house.run("bronze.readings")
    assert daemon.tick() == DERIVED


def test_only_what_moved_is_followed(house: House, daemon: Daemon) -> None:
    """A quarantine that moved requests its readers, and not those of the target beside it."""
    move(house, "bronze.readings", *DERIVED)
    daemon.tick()
    move(house, "silver.readings_quarantine")
    assert daemon.tick() == {"gold.alerts"}
    move(house, "silver.readings")
    assert daemon.tick() == {"gold.tops"}


def test_an_update_in_the_tick_of_a_request_is_not_forgotten(house: House, daemon: Daemon) -> None:
    """Rows that land while silver is being refreshed are refreshed by the next run, not by the next rows."""
    move(house, "bronze.readings")
    assert daemon.tick() == DERIVED
    move(house, *sorted(DERIVED))
    move(house, "bronze.readings")
    assert daemon.tick() == DERIVED


def test_eager_as_it_comes_forgets_that_update(instance: dg.DagsterInstance) -> None:
    """Why the condition is not plain eager: an update after the target's own, in one tick, is taken for handled."""
    condition = dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window())
    assert requests_after_a_race(instance, condition) == 0
    assert requests_after_a_race(instance, derived()) == 1


def requests_after_a_race(instance: dg.DagsterInstance, condition: dg.AutomationCondition) -> int:
    """How often a target is requested whose upstream moved after it was refreshed, within one tick."""

    @dg.asset
    def up(context) -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion(context.run.run_id))

    @dg.asset(deps=[up], automation_condition=condition)
    def down() -> None: ...

    defs, everything = dg.Definitions(assets=[up, down]), dg.AssetSelection.all()
    cursor = dg.evaluate_automation_conditions(defs, instance, everything).cursor
    dg.materialize([up], instance=instance)
    cursor = dg.evaluate_automation_conditions(defs, instance, everything, cursor=cursor).cursor
    dg.materialize([down], instance=instance)
    dg.materialize([up], instance=instance)
    return dg.evaluate_automation_conditions(defs, instance, everything, cursor=cursor).total_requested


def test_a_failed_blocking_check_stops_what_reads_the_table(house: House, daemon: Daemon) -> None:
    """Nothing is built on rows that broke a blocking check, in later runs neither, until it passes again."""
    move(house, "bronze.readings", *DERIVED)
    daemon.tick()
    move(house, "silver.readings")
    judge(house, passed=False)
    assert daemon.tick() == set()
    judge(house, passed=True)
    assert daemon.tick() == {"gold.tops"}


def judge(house: House, *, passed: bool) -> None:
    """Report a verdict of the blocking check `schema` on the newest data of silver."""
    severity = dg.AssetCheckSeverity.ERROR
    house.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(key("silver.readings"), "schema", passed, metadata={}, severity=severity)
    )


def test_rows_that_stop_a_batch_request_nothing_below(house: House, daemon: Daemon) -> None:
    """`expect_all_or_fail` broke: silver did not move, so nothing follows, neither now nor later."""
    house.add((None, 1.0))
    house.run("bronze.readings")
    assert daemon.tick() == DERIVED
    assert not house.run("silver.readings", "gold.tops", "gold.alerts").success
    assert daemon.tick() == set()
    assert daemon.tick() == set()


def test_a_commit_of_others_is_followed_although_no_check_was_run(house: House, daemon: Daemon) -> None:
    """Data that was reported without checks is followed: a check that did not run has not failed."""
    house.add(("a", 1.0))
    house.run("bronze.readings")
    daemon.tick()
    move(house, "bronze.readings")
    assert daemon.tick() == DERIVED


def test_what_is_missing_is_built_once_when_its_upstream_is_there(house: House) -> None:
    """Automation that is switched on late builds what is missing, once."""
    move(house, "bronze.readings")
    daemon = Daemon(house)
    assert daemon.tick() == DERIVED
    assert daemon.tick() == set()
    assert daemon.tick() == set()
