"""`lakehouse prove`."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from lakehouse_assets.cli.prove import COLUMNS
from lakehouse_assets.settings import PACKAGED_CATALOG
from lakehouse_assets_tests.cli.lab import CATALOG, Machine, readings, write
from lakehouse_assets_tests.conftest import Bucket

LEFT_OUT = """
      - {{entity_id: k, source: stream, source_format: kinesis, destination: bronze.stocks}}
      - {{entity_id: j, source: bronze.stocks, source_format: dlt, destination: silver.stocks}}
      - {{entity_id: u, source: /edge.db, source_format: sqlite, destination: bronze.edge, lakehouse: {{landed_by: upload}}}}
"""


@pytest.fixture
def house(machine: Machine) -> Machine:
    """A machine with a catalog and rows."""
    write(machine.database, [*readings(40), ("n/a", 3)])
    machine.declare()
    return machine


@pytest.mark.slow
def test_a_sample_of_kills_ends_equal(house: Machine, tmp_path: Path) -> None:
    """§7.1, F17: points by seed, in the rows that are printed; the lake, the sources and the machine are left alone."""
    house.lakehouse("run", "bronze.readings")
    lake, place = house.files(), tmp_path / "scratch"
    before = house.database.read_bytes()
    how = ("prove", "--samples", 3, "--seed", 11, "--root", place)
    done = house.lakehouse(*how, "--format", "json")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["state"] for row in rows] == ["equal"] * 3
    assert all(row["killed"] and row["engine"] == "embedded" for row in rows)
    assert "seed 11" in done.stderr
    assert "3 kills: 3 equal, 0 different; 0 not reached" in done.stderr
    assert (house.files(), house.database.read_bytes()) == (lake, before)
    assert list(place.iterdir()) == []
    again = list(csv.DictReader(io.StringIO(house.lakehouse(*how, "--format", "csv").stdout)))
    names = ("round", "table", "step", "write", "killed")
    assert [[row[name] for name in names] for row in again] == [[str(row[name]) for name in names] for row in rows]
    assert tuple(again[0]) == COLUMNS


@pytest.mark.slow
def test_a_selection_is_proved_and_what_it_needs_is_run(house: Machine) -> None:
    """Only points of the selected tables are tried; tables of later kinds and of uploaders are left out, and named."""
    house.declare(CATALOG + LEFT_OUT)
    done = house.lakehouse("prove", "silver.*", "bronze.edge", "--samples", 1, "--format", "json")
    assert done.exit_code == 2  # two arguments
    done = house.lakehouse("prove", "silver.* bronze.edge", "--samples", 2, "--seed", 1, "--format", "json")
    assert done.exit_code == 0, done.stderr
    proved = {"silver.readings", "silver.readings_quarantine", "control.batches"}
    assert {row["table"] for row in json.loads(done.stdout)} <= proved
    assert "left out: silver.stocks (made from bronze.stocks)" in done.stderr
    assert "left out: bronze.edge (written by an uploader)" in done.stderr


@pytest.mark.slow
def test_an_object_store_is_proved_request_by_request(house: Machine, s3: Bucket) -> None:
    """A root in an object store over plain HTTP is watched; nothing is left there."""
    from pyarrow.fs import FileSelector

    how = ("--samples", 1, "--seed", 5, "--root", f"{s3.root}/scratch", "--format", "json")
    done = house.lakehouse("prove", "bronze.readings", *how, **s3.options)
    assert done.exit_code == 0, done.stderr
    assert all(row["state"] == "equal" for row in json.loads(done.stdout))
    points = re.search(r"(\d+) points", done.stderr)
    assert points is not None
    assert int(points[1]) > 100  # requests are among them
    fs, path = s3.storage.filesystem(s3.root)
    assert not [info.path for info in fs.get_file_info(FileSelector(path, recursive=True)) if info.is_file]


@pytest.mark.slow
def test_the_shipped_catalog_is_proved_on_simulated_sensors(machine: Machine) -> None:
    """Without a catalog and a database there is something to try."""
    done = machine.lakehouse("prove", "--catalog", PACKAGED_CATALOG, "--samples", 1, "bronze.sensor_readings")
    assert done.exit_code == 0, done.stderr
    assert "simulated sensors: " in done.stderr
    assert "1 kills: 1 equal" in done.stderr


def test_nothing_to_prove_is_wrong_use(machine: Machine) -> None:
    """A catalog without a table that a run writes, a selection without a table, a sample without a point."""
    machine.declare("\n    delta_live_store:" + LEFT_OUT)
    done = machine.lakehouse("prove")
    assert done.exit_code == 2
    assert "none of the tables is written by a run" in done.stderr
    assert machine.lakehouse("prove", "no.such").exit_code == 2
    assert machine.lakehouse("prove", "--samples", 0).exit_code == 2


def test_a_source_that_is_not_there_is_told(machine: Machine) -> None:
    """The run that nobody kills has to succeed first; exit code 1."""
    machine.declare()
    done = machine.lakehouse("prove")
    assert done.exit_code == 1
    assert "failed" in done.stderr
    assert str(machine.database) in done.stderr
