"""Tables with history in the graph: three assets of one step, their generated checks, and the metadata of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from lakehouse_assets.assets.checks import Checks
from lakehouse_assets.assets.metadata_history import followers, of_history
from lakehouse_assets.assets.resources import LakehouseResource
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.lake.values import Number
from lakehouse_assets.tables.refresh import refresh
from lakehouse_assets_tests.assets.house import House, check, key, verdicts

CATALOG = """
delta_live_store:
  - entity_id: readings
    source: ${EDGE_DB}
    source_format: sqlite
    destination: bronze.readings
    read_options: {sqlite.table: readings}
    source_schema: id BIGINT, at STRING, sensor STRING, temp DOUBLE
  - entity_id: periods
    source: bronze.readings
    source_format: dlt
    destination: silver.periods
    primary_keys: [sensor]
    is_quarantined: true
    select_expr: [sensor, "CAST(at AS TIMESTAMP) AS at", temp]
    expectations: {expect_all: {cool: temp < 60}}
    apply_changes: {sequence_by: at, stored_as_scd_type: 2, except_column_list: [at]}
  - entity_id: now
    source: bronze.readings
    source_format: dlt
    destination: silver.now
    primary_keys: [sensor]
    apply_changes: {sequence_by: at, column_list: [sensor, temp]}
  - entity_id: by_sensor
    source: SELECT sensor, count(*) AS periods FROM silver.periods GROUP BY sensor
    source_format: sql
    destination: gold.by_sensor
    primary_keys: [sensor]
    lakehouse: {refresh_key: [sensor]}
  - entity_id: all_of_it
    source: SELECT max(temp) AS top FROM silver.periods
    source_format: sql
    destination: gold.all_of_it
"""
PERIODS = TableName("silver", "periods")


def add(house: House, *events: tuple[str | None, int, float]) -> None:
    """Put events into the source: (sensor, minute, temperature)."""
    rows = [(f"2026-03-01T12:{minute:02d}:00Z", sensor, temp) for sensor, minute, temp in events]
    house.sql("INSERT INTO readings (at, sensor, temp) VALUES (?, ?, ?)", rows)


@pytest.fixture
def periods(tmp_path: Path, instance: dg.DagsterInstance) -> House:
    """A project in which two sensors were read twice; nothing is made of it yet."""
    house = House(tmp_path, instance, CATALOG)
    add(house, ("a", 1, 10.0), ("a", 5, 20.0), ("b", 2, 30.0))
    return house


def run(house: House, *tables: str) -> dg.ExecuteInProcessResult:
    """Land what is new, and materialize tables (default: `silver.periods`)."""
    house.command_line("bronze.readings")
    return house.run(*(tables or ("silver.periods",)))


def facts(result: dg.ExecuteInProcessResult, table: str) -> dict[str, Any]:
    """The metadata of a table's materialization in a run."""
    events = result.get_asset_materialization_events()
    made = next(e.materialization for e in events if e.asset_key == key(table))
    return {name: entry.value for name, entry in made.metadata.items()}


def tamper(house: House, table: str, **change: Any) -> None:
    """Append the first row of a table again, changed, behind the back of its log."""
    with LakehouseResource.of(house.settings).open(house.project) as work:
        handle = work.engine.find(work.uri(TableName(*table.split("."))))
        first = sorted(work.engine.rows(work.engine.read(handle)), key=repr)[0]
        rows = pa.Table.from_pylist([first | change], schema=handle.schema)
        work.engine.append(handle, work.engine.from_arrow(rows), Number("somebody", 1))


def empty(house: House, table: str) -> None:
    """Take all rows out of a table behind the back of its log."""
    with LakehouseResource.of(house.settings).open(house.project) as work:
        handle = work.engine.find(work.uri(TableName(*table.split("."))))
        work.engine.replace(handle, work.engine.from_arrow(handle.schema.empty_table()), Number("somebody", 1))


# specs


def test_the_generated_checks_follow_from_the_type(periods: House) -> None:
    """Design 7.5: type 2 must be a history, type 1 has each key once; all of these block."""
    for table, name in ((PERIODS, "history_well_formed"), (TableName("silver", "now"), "primary_key")):
        checks = Checks(table, periods.catalog.destinations[table])
        assert checks.generated() == ["schema", "rows_reconciled", name]
        assert {s.name for s in checks.specs() if s.blocking} == {"schema", "rows_reconciled", name}
        (described,) = (s.description for s in checks.specs() if s.name == "rows_reconciled")
        assert "one fate" in str(described)


def test_target_quarantine_and_log_are_three_assets_of_one_step(periods: House) -> None:
    """A step that writes a table with history writes its log and, where it is kept, its quarantine."""
    assert periods.keys("silver.periods") == [
        key("silver.periods"), key("silver.periods__changes"), key("silver.periods_quarantine")
    ]  # fmt: skip
    assert periods.keys("silver.now") == [key("silver.now"), key("silver.now__changes")]


# runs


@dataclass(frozen=True)
class Story:
    """What runs one after the other reported.

    Attributes:
        first: three events in order and a broken one.
        idle: nothing new.
        elsewhere: nothing new, after the command line brought an event of `a`.
        later: an event of `b`, in order.
        late: an event of `a`, late.
    """

    first: dg.ExecuteInProcessResult
    idle: dg.ExecuteInProcessResult
    elsewhere: dg.ExecuteInProcessResult
    later: dg.ExecuteInProcessResult
    late: dg.ExecuteInProcessResult


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """One project, run five times."""
    with dg.DagsterInstance.ephemeral() as instance:
        house = House(tmp_path_factory.mktemp("story"), instance, CATALOG)
        add(house, ("a", 1, 10.0), ("a", 5, 20.0), ("b", 2, 30.0), ("b", 7, 99.0))
        found = [run(house, "silver.periods", "silver.now"), house.run("silver.periods")]
        add(house, ("a", 9, 11.0))
        house.command_line("bronze.readings", "silver.periods")
        found.append(house.run("silver.periods"))
        for event in (("b", 9, 31.0), ("a", 3, 15.0)):
            add(house, event)
            found.append(run(house))
        yield Story(*found)


def test_a_run_reports_target_quarantine_and_log_with_their_rows(story: Story) -> None:
    """Each asset has the row count of its own table, and every check passes but that of the broken rule."""
    assert story.first.success
    tables = (
        "silver.periods",
        "silver.periods__changes",
        "silver.periods_quarantine",
        "silver.now",
        "silver.now__changes",
    )
    assert [facts(story.first, table)["dagster/row_count"] for table in tables] == [3, 4, 1, 2, 4]
    assert {name: passed for name, passed in verdicts(story.first).items() if not passed} == {"periods.cool": False}


def test_every_event_is_reconciled(story: Story) -> None:
    """Design 7.3: rows in, and the fates of the events that were looked at."""
    found = {name: entry.value for name, entry in check(story.first, "periods.rows_reconciled").metadata.items()}
    assert (found["rows_in"], found["events_checked"]) == (4, 4)
    assert [found[f] for f in ("applied", "superseded", "quarantined", "filtered", "retracted")] == [3, 0, 1, 0, 0]


def test_an_idle_run_repeats_the_verdicts(story: Story) -> None:
    """Nothing moved: the verdict of the last batch stands, with the version it is about."""
    for name in ("periods.history_well_formed", "periods.rows_reconciled"):
        first, again = check(story.first, name), check(story.idle, name)
        assert "no new rows" in str(again.metadata["note"].value)
        assert again.metadata["checked_version"].value == first.metadata["checked_version"].value


def test_what_the_command_line_wrote_is_checked_by_the_next_run(story: Story) -> None:
    """A run that finds nothing new looks at a table that changed since the last verdict."""
    found = check(story.elsewhere, "periods.history_well_formed")
    assert found.metadata["rows_checked"].value == 3
    assert "note" not in found.metadata
    assert check(story.elsewhere, "periods.rows_reconciled").metadata["events_checked"].value == 3


def test_only_keys_that_changed_are_looked_at(story: Story) -> None:
    """The verdict is about the rows and events of the touched key alone, its broken event among them."""
    assert check(story.later, "periods.history_well_formed").metadata["rows_checked"].value == 2
    assert check(story.later, "periods.rows_reconciled").metadata["events_checked"].value == 3


def test_the_schema_is_what_the_column_lists_leave(story: Story) -> None:
    """A column that `except_column_list` takes out is selected but not missed; the history columns are expected."""
    found = check(story.first, "periods.schema")
    assert found.passed
    assert found.metadata["declared"].value == 4


def test_late_events_are_counted_in_the_metadata(story: Story) -> None:
    """F14: keys touched, closed rows changed and how far back, of all batches of the run."""
    found = facts(story.late, "silver.periods")
    assert (found["touched_keys"], found["late_keys"], found["closed_rows_changed"]) == (1, 1, 1)
    assert found["oldest_changed"].startswith("2026-03-01 12:01")
    assert "oldest_changed" not in facts(story.later, "silver.periods")


def test_rows_that_cannot_be_a_history_fail_the_check(periods: House) -> None:
    """Design 7.5: a second open row is counted, shown, and stays a failure until it is mended."""
    periods.command_line("bronze.readings", "silver.periods")
    tamper(periods, "silver.periods", __END_AT=None)
    for _ in range(2):  # the second one is idle, and looks at everything because the first one failed
        found = check(periods.run("silver.periods"), "periods.history_well_formed")
        assert not found.passed
        assert found.severity == dg.AssetCheckSeverity.ERROR
        assert found.metadata["several_open"].value == 2
        assert found.metadata["start_is_doubled"].value == 1
        assert found.metadata["examples"].value[0]["sensor"] == "a"
        assert "note" not in found.metadata
    assert check(periods.run("silver.periods", full_refresh=True), "periods.history_well_formed").passed


def test_a_key_that_is_there_twice_fails_type_1(periods: House) -> None:
    """Design 7.5: type 1 has one row a key."""
    periods.command_line("bronze.readings", "silver.now")
    tamper(periods, "silver.now", temp=-1.0)
    found = check(periods.run("silver.now"), "now.primary_key")
    assert not found.passed
    assert found.metadata["key_is_doubled"].value == 1


def test_a_quarantine_that_lost_a_row_fails_the_reconciliation(periods: House) -> None:
    """Design 7.3: the quarantine holds exactly the events whose fate it is."""
    add(periods, ("b", 7, 99.0))
    periods.command_line("bronze.readings", "silver.periods")
    empty(periods, "silver.periods_quarantine")
    add(periods, ("b", 8, 12.0))
    periods.command_line("bronze.readings")
    made = {"silver__periods": {"config": {"accept_foreign": True}}}
    graph = periods.defs.resolve_implicit_global_asset_job_def()
    result = graph.execute_in_process(
        instance=periods.instance,
        asset_selection=periods.keys("silver.periods"),
        run_config={"ops": made},
        raise_on_error=False,
    )
    found = check(result, "periods.rows_reconciled")
    assert not found.passed
    assert found.metadata["missing_in_quarantine"].value == 1
    assert found.metadata["examples"].value[0]["reasons"] == "cool"


def test_a_declaration_that_no_longer_fits_the_rows_fails_the_schema(periods: House) -> None:
    """F16: even where a run has nothing to write, other keys than those of the rows are told of."""
    periods.command_line("bronze.readings", "silver.periods")
    periods.declare(CATALOG.replace("primary_keys: [sensor]\n    is_q", "primary_keys: [sensor, temp]\n    is_q"))
    found = check(periods.run("silver.periods"), "periods.schema")
    assert not found.passed
    assert "KEY_DRIFT" in str(found.metadata["problem"].value)


# metadata


def report(house: House) -> dict[str, str]:
    """What a run of `silver.periods` has to tell, as Markdown by name."""
    with LakehouseResource.of(house.settings).open(house.project) as work:
        list(refresh(work, TableName("bronze", "readings")))
        outcomes = list(refresh(work, PERIODS))
        handle = work.engine.find(work.uri(PERIODS))
        return {name: str(value.value) for name, value in of_history(work, PERIODS, handle, outcomes).items()}


def test_late_data_says_which_tables_are_behind_and_how_they_follow(periods: House) -> None:
    """F14: a table with a proven refresh key is told its keys, another one is made again as a whole."""
    report(periods)
    add(periods, ("a", 3, 15.0), ("b", 9, 1.0))
    told = report(periods)["late_data"]
    assert told.startswith("Late events of 1 key changed 1 closed row of silver.periods, back to 2026-03-01 12:01")
    assert "| `gold.by_sensor` | 2 values of `sensor`: `a`, `b` |" in told
    assert "| `gold.all_of_it` | all of it: it declares no" in told


def test_events_in_order_make_no_late_report(periods: House) -> None:
    """Nothing closed changed: there is nothing to tell, but the timeline."""
    report(periods)
    add(periods, ("a", 9, 15.0))
    assert set(report(periods)) == {"timeline"}


def test_a_timeline_shows_keys_of_which_most_rows_changed(periods: House) -> None:
    """F8: two of them, each with all its rows, as drawings in code blocks."""
    add(periods, *((sensor, minute, 1.0 * minute) for sensor in "cd" for minute in (1, 9)))
    report(periods)
    add(
        periods, ("a", 9, 1.0), ("b", 9, 1.0), *((sensor, minute, 1.0 * minute) for sensor in "cd" for minute in (3, 5))
    )
    drawn = report(periods)["timeline"]
    assert drawn.startswith("```text\nsensor=c\n")
    assert [line for line in drawn.splitlines() if line.startswith("sensor=")] == ["sensor=c", "sensor=d"]
    assert all(drawn.count(f"temp={minute}.0") == 2 for minute in (1, 3, 5, 9))
    assert "lakehouse history show silver.periods KEY" in drawn


def test_a_table_made_anew_draws_some_of_its_keys(periods: House) -> None:
    """The first run knows no touched keys; a run without new rows draws none."""
    assert "sensor=" in report(periods)["timeline"]
    assert report(periods) == {}


def test_every_table_that_reads_it_is_found_once(periods: House) -> None:
    """Directly or through a view; a view itself holds no rows."""
    viewed = (
        CATALOG
        + """
  - {entity_id: v, source: SELECT * FROM silver.periods, source_format: sql, destination: silver.v, destination_type: view}
  - {entity_id: w, source: "SELECT sensor, count(*) AS n FROM silver.v GROUP BY sensor", source_format: sql,
     destination: gold.w, primary_keys: [sensor], lakehouse: {refresh_key: [sensor]}}
"""
    )
    periods.declare(viewed)
    with LakehouseResource.of(periods.settings).open(periods.project) as work:
        found = {str(one.table): (one.key, one.why) for one in followers(work, PERIODS)}
    assert found.keys() == {"gold.by_sensor", "gold.all_of_it", "gold.w"}
    assert found["gold.by_sensor"] == (("sensor",), "")
    assert found["gold.w"] == ((), "it reads a view")
