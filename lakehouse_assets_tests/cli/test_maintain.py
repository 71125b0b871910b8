"""`lakehouse maintain`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lakehouse_assets_tests.cli.lab import Machine, readings, write

TABLES = {"bronze.readings", "silver.readings", "silver.readings_quarantine", "gold.thirds", "control.batches"}


@pytest.fixture
def lab(machine: Machine) -> Machine:
    """A machine whose lake has seen three runs."""
    machine.declare()
    for n in range(3):
        write(machine.database, readings(50, first=50 * n))
        assert machine.lakehouse("run", "*").exit_code == 0
    return machine


def report(machine: Machine, *arguments: str, code: int = 0) -> dict[str, dict]:
    """The rows of `--format json`, by table."""
    done = machine.lakehouse("maintain", *arguments, "--format", "json")
    assert done.exit_code == code, done.stderr
    return {row["table"]: row for row in json.loads(done.stdout)}


def test_every_table_and_the_plans_are_maintained(lab: Machine) -> None:
    """Without a selection: all that is stored; rows stay, a run finds nothing new, and goes on afterwards."""
    before = {table: lab.rows(table) for table in TABLES - {"control.batches"}}
    found = report(lab)
    assert set(found) == TABLES
    assert (found["bronze.readings"]["files_before"], found["bronze.readings"]["files_after"]) == (3, 1)
    assert {table: lab.rows(table) for table in before} == before
    assert "nothing new: no table was written" in lab.lakehouse("run", "*").stderr
    write(lab.database, readings(1, first=150))
    assert lab.lakehouse("run", "*").exit_code == 0
    assert len(lab.rows("bronze.readings")) == 151


def test_a_dry_run_writes_nothing(lab: Machine) -> None:
    """`--dry-run` says what there is to do, and leaves every file as it is."""
    before = lab.files()
    done = lab.lakehouse("maintain", "--dry-run")
    assert done.exit_code == 0
    assert "bronze.readings: 3 files, 3 would be compacted, 0 would be deleted" in done.stderr
    assert lab.files() == before


def test_a_selection_names_the_tables(lab: Machine) -> None:
    """A selection as in `run`: a table comes with its quarantine, and the plans are left alone."""
    assert set(report(lab, "silver.readings")) == {"silver.readings", "silver.readings_quarantine"}
    assert set(report(lab, "group:lab")) == {"bronze.readings"}
    assert lab.lakehouse("maintain", "silver.reading").exit_code == 2


def test_retention_is_a_day_at_least(lab: Machine) -> None:
    """Younger files may belong to a batch that still runs."""
    done = lab.lakehouse("maintain", "--retention", "23")
    assert done.exit_code == 2
    assert "x>=24" in done.stderr


def test_a_table_that_fails_is_named_and_the_others_are_done(lab: Machine) -> None:
    """Exit code 1; the message names the table and what is wrong."""
    for file in Path(lab.root, "silver", "readings").glob("*.parquet"):
        file.unlink()
    found = report(lab, code=1)
    assert {table: row["state"] for table, row in found.items() if row["state"] != "done"} == {
        "silver.readings": "failed"
    }
    assert found["silver.readings"]["error"]


def test_an_empty_lake_is_maintained(machine: Machine) -> None:
    """Nothing is there yet: nothing to do, and nothing is made."""
    machine.declare()
    done = machine.lakehouse("maintain")
    assert done.exit_code == 0
    assert "none of these tables is in the lake yet" in done.stderr
    assert not Path(machine.root).exists()
