"""`lakehouse demo`."""

from __future__ import annotations

import time

import pytest

from lakehouse_assets_tests.cli.lab import Machine

pytestmark = pytest.mark.slow


def test_the_demo_tells_its_story(machine: Machine) -> None:
    """History, new rows, nothing new; gold, alerts and quarantine are shown; a second demo goes on with the first.

    Its own work takes under 60 s for a week of readings; here it is a tenth of a day.
    """
    began = time.monotonic()
    done = machine.lakehouse("demo", "--directory", machine.directory / "demo", "--days", "0.1")
    assert done.exit_code == 0, done.stderr
    assert time.monotonic() - began < 60
    told = done.stderr
    assert "silver.sensor_readings: " in told
    third = told.split("4. a third run finds nothing new, and writes nothing")[1]
    assert third.count(": nothing new") == told.split("3. new readings")[0].count("rows in")
    assert "temperature_avg" in done.stdout
    assert "emergency" in done.stdout
    assert "in quarantine, with reasons" in done.stdout
    root = f"{machine.directory}/demo/lake"
    query = "SELECT count(*) AS n FROM silver.sensor_readings_quarantine"
    first = machine.lakehouse("sql", query, "--root", root, "--format", "csv").stdout.split()[1]
    assert int(first) > 0

    again = machine.lakehouse("demo", "--directory", machine.directory / "demo")
    assert again.exit_code == 0, again.stderr
    assert "is there: this demo goes on with it" in again.stderr


def test_a_fresh_demo_starts_over(machine: Machine) -> None:
    """`--fresh` removes what an earlier demo built, and nothing else in the directory."""
    directory = machine.directory / "demo"
    directory.mkdir()
    (directory / "sensors.db").write_text("no database " * 1000)
    (directory / "mine.txt").write_text("mine")
    assert machine.lakehouse("demo", "--directory", directory, "--days", "0.02").exit_code == 1
    assert machine.lakehouse("demo", "--directory", directory, "--days", "0.02", "--fresh").exit_code == 0
    assert (directory / "mine.txt").read_text() == "mine"
