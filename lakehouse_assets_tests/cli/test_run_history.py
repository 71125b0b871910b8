"""`lakehouse run --full-refresh` of what a table with history is made of."""

from __future__ import annotations

from lakehouse_assets_tests.cli.lab import Machine, readings, write

OVER_HISTORY = """
    delta_live_store:
      - entity_id: readings
        source: {database}
        source_format: sqlite
        destination: bronze.readings
        read_options: {{sqlite.table: readings}}
      - entity_id: kept
        source: bronze.readings
        source_format: dlt
        destination: silver.kept
        primary_keys: [id]
        apply_changes: {{sequence_by: timestamp, stored_as_scd_type: 2}}
      - entity_id: counted
        source: SELECT count(*) AS n FROM silver.kept
        source_format: sql
        destination: gold.counted
"""


def test_what_comes_before_a_history_can_be_started_over(machine: Machine) -> None:
    """The history reads the rewritten table again, finds no new fact, and the run goes on to what reads it."""
    write(machine.database, readings(10))
    machine.declare(OVER_HISTORY)
    assert machine.lakehouse("run", "*").exit_code == 0
    done = machine.lakehouse("run", "--full-refresh", "bronze.readings", "--format", "json")
    assert done.exit_code == 0, done.output
    assert "silver.kept" in done.stdout
    assert "nothing new" in machine.lakehouse("run", "*").stderr
