"""`lakehouse chart`: a table of a lake as a PNG."""

from __future__ import annotations

import pytest

from lakehouse_assets_tests.cli.lab import Machine, readings, write

CHARTED = """
    delta_live_store:
      - entity_id: readings
        source: {database}
        source_format: sqlite
        destination: bronze.readings
        read_options: {{sqlite.table: readings}}
        lakehouse: {{chart: {{x: id, y: [v]}}}}
      - entity_id: plain
        source: bronze.readings
        source_format: dlt
        destination: silver.readings
"""


@pytest.fixture(name="house")
def _house(machine: Machine) -> Machine:
    write(machine.database, readings(10))
    machine.declare(CHARTED)
    return machine


def test_a_table_is_drawn_as_its_entity_says(house: Machine) -> None:
    """The file is a PNG, and stderr says where it is."""
    house.lakehouse("run", "*")
    done = house.lakehouse("chart", "bronze.readings", "--png", house.directory / "t.png")
    assert done.exit_code == 0, done.output
    assert (house.directory / "t.png").read_bytes().startswith(b"\x89PNG")
    assert "t.png" in done.stderr


def test_a_table_without_chart_is_wrong_use(house: Machine) -> None:
    """The error names the tables that have one, and what to declare."""
    house.lakehouse("run", "*")
    done = house.lakehouse("chart", "silver.readings", "--png", house.directory / "t.png")
    assert done.exit_code == 2
    assert "bronze.readings" in done.stderr
    assert "chart:" in done.stderr


def test_a_file_that_cannot_be_written_is_named(house: Machine) -> None:
    """A directory that is not there."""
    house.lakehouse("run", "*")
    done = house.lakehouse("chart", "bronze.readings", "--png", house.directory / "none" / "t.png")
    assert done.exit_code == 2
    assert "none/t.png" in done.stderr
