"""`lakehouse plan` of tables with history: what it says of their sequences."""

from __future__ import annotations

import json

import pytest

from lakehouse_assets_tests.cli.history_lake import CATALOG, FIRST, THEN, Event, feed
from lakehouse_assets_tests.cli.lab import Machine, reports

TIED: tuple[Event, ...] = ((1, 5, "u", "Rom", 1), (2, None, "u", "Ulm", 1))


@pytest.fixture
def people(machine: Machine) -> Machine:
    """A lake with events that are landed and not read yet: one contradicts another, one has no sequence."""
    machine.declare(CATALOG)
    feed(machine, (*FIRST, *TIED))
    assert machine.lakehouse("run", "bronze.events").exit_code == 0
    return machine


def test_a_sequence_is_looked_at_before_the_first_run(people: Machine) -> None:
    """F18: NULLs and ties are notes of the plan, and numbers in JSON; tables without history have none."""
    found = reports(people, "plan", "silver.*")
    row = found["silver.people"]
    assert row["does"] == "history"
    assert row["notes"][0] == "the table is made"
    assert row["notes"][1].startswith("sequence ts (BIGINT), 5 events looked at")
    assert "1 (20 %) have no sequence and would be quarantined" in row["notes"]
    assert row["lint"] | {"ties": 2, "null_sequences": 1, "events": 5, "late": 1} == row["lint"]
    assert found["silver.plain"]["lint"] is None


def test_the_table_for_people_shows_the_notes(people: Machine) -> None:
    """In the column of notes; the numbers are for programs."""
    done = people.lakehouse("plan", "silver.people")
    assert "share key and sequence with a different one" in done.stdout
    assert "lint" not in done.stdout


def test_another_sequence_can_be_tried(people: Machine) -> None:
    """F18: `--sequence-by` takes the place of the declared one, in this look only."""
    (row,) = reports(people, "plan", "silver.people", "--sequence-by", "struct(ts, id)").values()
    assert (row["lint"]["sequence_by"], row["lint"]["ties"]) == ("struct(ts, id)", 0)
    (row,) = reports(people, "plan", "silver.people", "--sequence-by", "id").values()
    assert row["lint"]["null_sequences"] == 0
    (row,) = reports(people, "plan", "silver.people").values()
    assert row["lint"]["sequence_by"] == "ts"


def test_another_sequence_can_be_tried_where_nothing_is_new(people: Machine) -> None:
    """It is tried on all rows that are there; the plan still says that a run would do nothing."""
    people.lakehouse("run", "silver.people")
    (row,) = reports(people, "plan", "silver.people").values()
    assert (row["does"], row["lint"], row["notes"]) == ("nothing", None, [])
    (row,) = reports(people, "plan", "silver.people", "--sequence-by", "id").values()
    assert (row["does"], row["lint"]["events"], row["lint"]["ties"]) == ("nothing", 5, 0)


def test_late_events_are_told_of(people: Machine) -> None:
    """New events are compared with the log of the table."""
    people.lakehouse("run", "silver.people")
    feed(people, THEN)
    people.lakehouse("run", "bronze.events")
    (row,) = reports(people, "plan", "silver.people").values()
    assert row["lint"]["compared"]
    assert (row["lint"]["late"], row["lint"]["lateness"]) == (1, 8)  # 12 after 20; 11 after 25 breaks a rule


def test_looking_writes_nothing(people: Machine) -> None:
    """Not a file of the lake changes."""
    before = people.files()
    people.lakehouse("plan", "silver.*", "--sequence-by", "id")
    assert people.files() == before


def test_an_expression_that_is_none_is_refused(people: Machine) -> None:
    """The command fails with what is wrong; a type without an order is refused, too."""
    for sequence_by, said in (("ts +", "not Spark SQL"), ("nothing", "there is no column"), ("ts > 5", "be ordered")):
        done = people.lakehouse("plan", "silver.people", "--sequence-by", sequence_by)
        assert done.exit_code == 1
        assert said in done.stderr


def test_only_tables_with_history_have_a_sequence(people: Machine) -> None:
    """To try one on other tables alone is a mistake, which is named."""
    done = people.lakehouse("plan", "silver.plain", "--sequence-by", "id")
    assert done.exit_code != 0
    assert "tables with history" in done.stderr


def test_a_declared_sequence_that_cannot_be_looked_at_is_a_note(people: Machine) -> None:
    """A plan is still a plan: what the run would do is shown, with what is wrong."""
    path = people.directory / "catalog" / "lab.yaml"
    path.write_text(path.read_text().replace("sequence_by: ts\n", "sequence_by: nothing\n"))
    (row,) = reports(people, "plan", "silver.people").values()
    assert row["does"] == "history"
    assert any(note.startswith("the sequence could not be looked at: ") for note in row["notes"])


def test_a_table_that_follows_is_looked_at_later(machine: Machine) -> None:
    """Its upstream is not there yet: there is no event to look at, and no error."""
    machine.declare(CATALOG)
    feed(machine, FIRST)
    done = machine.lakehouse("plan", "*", "--format", "json")
    rows = {row["table"]: row for row in json.loads(done.stdout)}
    assert rows["silver.people"]["does"] == "follows bronze.events"
    assert rows["silver.people"]["lint"] is None
