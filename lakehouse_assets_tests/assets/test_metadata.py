"""What the UI shows of a table, and the version of its data."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from pathlib import Path

import pyarrow as pa

from lakehouse_assets.assets import metadata
from lakehouse_assets.assets.resources import LakehouseResource
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.lake.delta import Number
from lakehouse_assets.tables.base import Work
from lakehouse_assets_tests.assets.house import House

BRONZE = TableName("bronze", "readings")


def version_of(work: Work, recorded: str | None) -> str:
    """The data version of bronze.readings."""
    found = metadata.state(work, BRONZE, recorded)
    assert found is not None
    return found.data_version


def test_values_become_json_that_a_browser_reads() -> None:
    """Times, decimals, bytes and NaN are told as text: JSON has none of them."""
    row = {"at": dt.datetime(2026, 3, 1, tzinfo=dt.UTC), "d": decimal.Decimal("1.10"), "b": b"\x01"}
    row |= {"nan": float("nan"), "deep": [{"inf": float("inf")}], "none": None, "yes": True, "n": 3}
    found = metadata.plain(row)
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "at": "2026-03-01T00:00:00+00:00", "d": "1.10", "b": "01", "nan": "nan", "deep": [{"inf": "inf"}],
        "none": None, "yes": True, "n": 3,
    }  # fmt: skip


def test_a_preview_is_one_line_a_row() -> None:
    """A cell with bars or line ends does not break the table, a long one is cut."""
    text = metadata.markdown([{"a": "x|y\nz", "b": "w" * 200}], ["a", "b"])
    lines = text.splitlines()
    assert len(lines) == 3
    assert r"x\|y z" in lines[2]
    assert len(lines[2]) < 100
    assert metadata.markdown([], ["a"]) == "(no rows)"


def test_a_long_position_is_cut() -> None:
    """A position that lists thousands of files does not fill the event log."""
    assert metadata.clipped({"rowid": 3}) == {"rowid": 3}
    assert len(metadata.clipped({"files": ["x" * 50] * 100})) < 1100


def test_the_data_version_changes_with_the_rows_only(house: House) -> None:
    """An empty batch and maintenance are commits, but no new data."""
    house.add(("a", 1.0), ("a", 2.0))
    house.command_line("bronze.readings")
    with LakehouseResource.of(house.settings).open(house.project) as work:
        first = version_of(work, None)
        handle = work.engine.find(work.uri(BRONZE))
        work.engine.append(handle, None, Number("somebody", 1))
        handle = work.engine.find(work.uri(BRONZE))
        assert handle.version > int(first.split("@")[1])
        assert version_of(work, first) == first
        rows = work.engine.from_arrow(pa.table(handle.schema.empty_table()))
        work.engine.append(handle, rows, Number("somebody", 2))
        assert version_of(work, first) == first
    house.add(("a", 3.0))
    house.command_line("bronze.readings")
    with LakehouseResource.of(house.settings).open(house.project) as work:
        assert version_of(work, first) != first


def test_a_table_that_was_made_again_has_another_data_version(house: House, tmp_path: Path) -> None:
    """The version names the table itself: a new table with the same number of commits is other data."""
    house.add(("a", 1.0))
    house.command_line("bronze.readings")
    with LakehouseResource.of(house.settings).open(house.project) as work:
        first = version_of(work, None)
    (tmp_path / "lake").rename(tmp_path / "old")
    house.command_line("bronze.readings")
    with LakehouseResource.of(house.settings).open(house.project) as work:
        assert version_of(work, first) != first
        assert version_of(work, first).split("@")[1] == first.split("@")[1]


def test_a_recorded_version_of_somebody_else_is_not_trusted(house: House) -> None:
    """A data version that this project did not write says nothing about the table."""
    house.add(("a", 1.0))
    house.command_line("bronze.readings")
    with LakehouseResource.of(house.settings).open(house.project) as work:
        assert version_of(work, "by hand") == version_of(work, None)
        assert version_of(work, "x@999") == version_of(work, None)


def test_column_comments_are_shown(house: House) -> None:
    """Each column has its Spark type and its comment."""
    house.add(("a", 1.0))
    house.command_line("bronze.readings")
    with LakehouseResource.of(house.settings).open(house.project) as work:
        handle = work.engine.find(work.uri(BRONZE))
        columns = {c.name: c for c in metadata.column_schema(handle.schema, {"sensor": "Who"}).columns}
    assert (columns["temp"].type, columns["temp"].description) == ("DOUBLE", "Air temperature in °C")
    assert columns["sensor"].description == "Who"


def test_the_code_version_follows_the_recipe_not_the_place(tmp_path: Path, house: House) -> None:
    """A changed rule, query or view is another code version; another path or schedule is not."""
    silver, gold = TableName("silver", "readings"), TableName("gold", "tops")

    def versions() -> list[str]:
        return [metadata.code_version(house.catalog, house.catalog.destinations[t]) for t in (BRONZE, silver, gold)]

    before = versions()
    text = next(iter(house.catalog.files.values()))
    house.database = tmp_path / "elsewhere.db"
    house.declare(text.replace("5 * * * *", "6 * * * *"))
    assert versions() == before
    house.declare(text.replace("temp < 60", "temp < 61"))
    assert [a == b for a, b in zip(versions(), before, strict=True)] == [True, False, True]
    house.declare(text.replace("temp > 0", "temp > 1"))
    assert [a == b for a, b in zip(versions(), before, strict=True)] == [True, True, False]
