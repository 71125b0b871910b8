"""`lakehouse plan`."""

from __future__ import annotations

from pathlib import Path

from lakehouse_assets_tests.cli.lab import Machine, readings, reports, write


def test_plan_writes_nothing_at_all(lab: Machine) -> None:
    """`plan` before the first run makes no directory, no table and no plan."""
    done = lab.lakehouse("plan", "*")
    assert done.exit_code == 0
    assert not Path(lab.root).exists()


def test_plan_says_what_a_run_would_read_and_write(lab: Machine) -> None:
    """Mode, start, end, and the tables that follow."""
    found = reports(lab, "plan", "*")
    bronze = found["bronze.readings"]
    assert bronze["does"] == "append"
    assert (bronze["start"]["rowid"], bronze["end"]["rowid"]) == (None, 200)
    assert bronze["notes"] == ["the table is made"]
    assert found["silver.readings"]["does"] == "follows bronze.readings"
    assert found["gold.thirds"]["does"] == "follows silver.readings"


def test_plan_after_a_run_changes_no_file(lab: Machine) -> None:
    """`plan` with something new to read: no file changes, not even the plans."""
    lab.lakehouse("run", "*")
    write(lab.database, readings(5, first=200))
    before = lab.files()
    found = reports(lab, "plan", "*")
    assert lab.files() == before
    assert (found["bronze.readings"]["start"]["rowid"], found["bronze.readings"]["end"]["rowid"]) == (200, 205)


def test_plan_without_anything_new_says_so(lab: Machine) -> None:
    """All tables are up to date."""
    lab.lakehouse("run", "*")
    done = lab.lakehouse("plan", "*")
    assert "nothing new: a run would write nothing" in done.stderr


def test_plan_tells_of_a_changed_recipe(lab: Machine) -> None:
    """A rule that was changed since the last batch is told of."""
    lab.lakehouse("run", "*")
    path = lab.directory / "catalog" / "lab.yaml"
    path.write_text(path.read_text().replace("v < 90", "v < 80"))
    write(lab.database, readings(5, first=200))
    lab.lakehouse("run", "bronze.readings")
    assert (
        "the recipe has changed since the last batch"
        in reports(lab, "plan", "silver.readings")["silver.readings"]["notes"]
    )


def test_plan_of_a_rebuild(lab: Machine) -> None:
    """`plan --full-refresh` shows the rebuild and writes nothing."""
    lab.lakehouse("run", "*")
    before = lab.files()
    found = reports(lab, "plan", "--full-refresh", "silver.readings")
    assert found["silver.readings"]["does"] == "rebuild"
    assert set(found) == {"silver.readings", "gold.thirds"}
    assert lab.files() == before


def test_plan_tells_what_would_fail(lab: Machine) -> None:
    """A table that would fail is named with its error, what reads it is skipped; exit code 1."""
    lab.database.unlink()
    found = reports(lab, "plan", "*", code=1)
    assert found["bronze.readings"]["does"] == "fail"
    assert "no such database file" in found["bronze.readings"]["error"]
    assert found["silver.readings"]["does"] == "skip"
