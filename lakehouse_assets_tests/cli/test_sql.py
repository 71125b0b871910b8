"""`lakehouse sql`."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from decimal import Decimal

import deltalake
import pyarrow as pa
import pytest

from lakehouse_assets_tests.cli.lab import Machine


@pytest.fixture
def lab(machine: Machine) -> Machine:
    """A lake with one table of every kind of value."""
    rows = pa.table(
        {
            "id": pa.array([1, 2], pa.int64()),
            "price": pa.array([Decimal("0.10"), None], pa.decimal128(20, 2)),
            "ratio": pa.array([float("nan"), 0.5], pa.float64()),
            "at": pa.array([datetime(2025, 5, 1, 12, tzinfo=UTC), None], pa.timestamp("us", tz="UTC")),
            "raw": pa.array([b"\x00\x01", None], pa.binary()),
            "name": pa.array(["Zürich, CH", ""], pa.string()),
        }
    )
    deltalake.write_deltalake(f"{machine.root}/silver/items", rows)
    return machine


def test_json_is_rows_on_stdout_and_nothing_else(lab: Machine) -> None:
    """An array of row objects, lossless."""
    done = lab.process("sql", "SELECT * FROM silver.items ORDER BY id", "--format", "json")
    assert done.returncode == 0
    assert done.stderr == ""
    one, two = json.loads(done.stdout)
    raw = base64.b64encode(b"\x00\x01").decode()
    assert one == {
        "id": 1,
        "price": "0.10",
        "ratio": "NaN",
        "at": "2025-05-01T12:00:00Z",
        "raw": raw,
        "name": "Zürich, CH",
    }
    assert two == {"id": 2, "price": None, "ratio": 0.5, "at": None, "raw": None, "name": ""}


def test_csv(lab: Machine) -> None:
    """RFC 4180 on stdout."""
    done = lab.lakehouse("sql", "SELECT name, price FROM silver.items ORDER BY id", "--format", "csv")
    assert done.stdout_bytes == 'name,price\r\n"Zürich, CH",0.10\r\n"",\r\n'.encode()


def test_a_table_for_people(lab: Machine) -> None:
    """Headers and values."""
    done = lab.lakehouse("sql", "SELECT id, name FROM silver.items ORDER BY id")
    assert [line.split() for line in done.stdout.splitlines() if "Zürich" in line] == [["1", "Zürich,", "CH"]]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_limit(lab: Machine, form: str) -> None:
    """`--limit N` in every format, in the order of the query; it says nothing."""
    done = lab.lakehouse(
        "sql", "SELECT id + 40 AS n FROM silver.items ORDER BY id DESC", "--limit", "1", "--format", form
    )
    assert "42" in done.stdout
    assert "41" not in done.stdout
    assert done.stderr == ""


def test_a_long_table_says_that_there_is_more(machine: Machine) -> None:
    """A table for people ends after 1,000 rows and says so; CSV is whole."""
    deltalake.write_deltalake(f"{machine.root}/silver/many", pa.table({"n": list(range(1001))}))
    done = machine.lakehouse("sql", "SELECT n FROM silver.many ORDER BY n")
    assert "the first 1,000 rows are shown" in done.stderr
    assert " 999 " in done.stdout
    assert "1000" not in done.stdout
    assert len(machine.lakehouse("sql", "SELECT n FROM silver.many", "--format", "csv").stdout.splitlines()) == 1002


def test_an_empty_answer(lab: Machine) -> None:
    """No rows: an empty array, a header alone."""
    query = "SELECT id FROM silver.items WHERE id > 5"
    assert json.loads(lab.lakehouse("sql", query, "--format", "json").stdout) == []
    assert lab.lakehouse("sql", query, "--format", "csv").stdout_bytes == b"id\r\n"


@pytest.mark.parametrize("query", ["SELECT * FROM silver.item", "DELETE FROM silver.items", "SELEC 1"])
def test_what_cannot_be_asked_is_wrong_use(lab: Machine, query: str) -> None:
    """Exit code 2, the reason on stderr, nothing on stdout."""
    done = lab.lakehouse("sql", query, "--format", "json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")


def test_without_a_lake_the_root_is_named(machine: Machine) -> None:
    """Exit code 1: there is no lake."""
    done = machine.lakehouse("sql", "SELECT * FROM silver.items")
    assert done.exit_code == 1
    assert f"there is no lake at {machine.root}" in done.stderr
