"""`lakehouse history`: what happened to a key, a table as it was, and a table put back."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets_tests.cli.history_lake import CATALOG, copied, feed, shared
from lakehouse_assets_tests.cli.lab import Machine

PEOPLE = ("k", "city", "__START_AT", "__END_AT")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A lake to look at: nobody may write it."""
    return shared(tmp_path_factory)


@pytest.fixture
def own(made: Machine, tmp_path: Path) -> Machine:
    """A lake of this test's own."""
    return copied(made, tmp_path)


def answer(machine: Machine, *arguments: object) -> list[dict[str, Any]]:
    """The rows that a command prints as JSON."""
    done = machine.lakehouse("history", *arguments, "--format", "json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


# show


def test_a_history_is_drawn(made: Machine) -> None:
    """F8: rows, gaps and the events that do not show stand on stdout, one a line, and nothing on stderr."""
    done = made.lakehouse("history", "show", "silver.people", 1)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line.startswith(("k=", "[", "15"))]
    assert [line.split("  ")[0] for line in lines] == ["k=1", "[5, 12)", "[12, 20)", "[20, 25)", "[25, …)", "15"]
    assert lines[1].endswith("city=Wien, amount=1")
    assert lines[2].endswith("city=Graz")
    assert lines[4].endswith("no row")
    assert "upsert quarantined: positive" in lines[5]


def test_a_history_is_drawn_as_a_picture(made: Machine, tmp_path: Path) -> None:
    """F8: --png writes a file and says so on stderr; the drawing is printed all the same."""
    picture = tmp_path / "one.png"
    done = made.lakehouse("history", "show", "silver.people", 1, "--png", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert done.stderr == f"drawn: {picture}\n"
    assert "[5, 12)" in done.stdout


def test_a_picture_that_cannot_be_written(made: Machine, tmp_path: Path) -> None:
    """Exit code 2, and which file."""
    done = made.lakehouse("history", "show", "silver.people", 1, "--png", tmp_path / "no" / "one.png")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "one.png" in done.stderr


def test_a_history_as_data(made: Machine) -> None:
    """JSON has the rows, then the events that do not show."""
    rows = answer(made, "show", "silver.people", 1)
    shown = [(row["shows"], row["start"], row["end"], row["values"]) for row in rows]
    assert shown[0] == ("row", 5, 12, {"city": "Wien", "amount": 1})
    assert [each[:3] for each in shown[1:]] == [("row", 12, 20), ("row", 20, 25), ("quarantined", 15, None)]
    assert (rows[3]["operation"], rows[3]["note"]) == ("upsert", "positive")
    assert len(rows[3]["event"]) == 16


def test_the_name_of_a_side_table_is_as_good(made: Machine) -> None:
    """The log and the quarantine lead to the table that they belong to."""
    shown = [
        made.lakehouse("history", "show", f"silver.people{side}", 2).stdout for side in ("", "__changes", "_quarantine")
    ]
    assert "[9, …)" in shown[0]
    assert shown[0] == shown[1] == shown[2]


def test_a_table_of_type_1_has_a_history_of_events(made: Machine) -> None:
    """Its row began with the event that decided it; a deleted key has no row, and its events are marked."""
    assert [(row["shows"], row["start"]) for row in answer(made, "show", "silver.current", 2)] == [
        ("row", 9),
        ("quarantined", 11),
    ]
    assert "row" not in {row["shows"] for row in answer(made, "show", "silver.current", 1)}


@pytest.mark.parametrize("key", ["k=1,city=Graz", '{"city": "Graz", "k": 1}'])
def test_a_key_of_several_columns(made: Machine, key: str) -> None:
    """By name, in any order, or as a JSON object; a sequence of several columns is shown with all of them."""
    assert [(row["start"], row["end"]) for row in answer(made, "show", "silver.pairs", key)] == [
        ({"at": 12, "n": 4}, None)
    ]
    assert "[(12, 4), …)" in made.lakehouse("history", "show", "silver.pairs", key).stdout


@pytest.mark.parametrize("command", ["show", "explain"])
def test_an_unknown_key_names_some_that_are_there(made: Machine, command: str) -> None:
    """Exit code 2, nothing on stdout, and keys to choose from."""
    done = made.lakehouse("history", command, "silver.people", 9)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no event of silver.people has the key k=9" in done.stderr
    assert "k=1; k=2" in done.stderr


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        ("silver.people", "one", "'k' of the key is BIGINT"),
        ("silver.pairs", "1", "k=…,city=…"),
        ("silver.plain", "1", "silver.plain keeps no history: it is a conformed table"),
        ("silver.peple", "1", "did you mean 'silver.people'"),
    ],
)
def test_what_cannot_be_shown_is_wrong_use(made: Machine, table: str, key: str, said: str) -> None:
    """Exit code 2: a key that is none, a table without history, a table that is not there."""
    done = made.lakehouse("history", "show", table, key)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_table_that_was_never_run(machine: Machine, made: Machine) -> None:
    """Exit code 1: it has to be run first, and how."""
    done = made.lakehouse("history", "show", "silver.people", 1, "--root", machine.root)
    assert done.exit_code == 1
    assert "lakehouse run" in done.stderr


# explain


def test_every_event_is_explained(made: Machine) -> None:
    """F8: which event from where opened, split or closed each row, and why one does not show; by sequence."""
    rows = answer(made, "explain", "silver.people", 1)
    assert [(row["sequence"], row["operation"], row["fate"], row["effect"]) for row in rows] == [
        (5, "upsert", "applied", "opened [5, 12)"),
        (12, "upsert", "applied", "split a row: [5, 12) ends here, opened [12, 20)"),
        (15, "upsert", "quarantined", "not visible: positive"),
        (20, "upsert", "applied", "opened [20, 25), closed [12, 20)"),
        (25, "delete", "applied", "closed [20, 25)"),
    ]
    assert [row["batch"] for row in rows] == [1, 2, 2, 1, 2]
    assert [row["origin"] for row in rows] == ["b 1", "b 4", "b 5", "b 2", "b 6"]


def test_events_of_type_1_are_explained(made: Machine) -> None:
    """An event that a later one decided over is superseded, a delete takes the row away."""
    said = {row["sequence"]: (row["fate"], row["effect"]) for row in answer(made, "explain", "silver.current", 1)}
    assert said[5][0] == said[20][0] == "superseded"
    assert said[25] == ("applied", "deleted the row")


def test_an_explanation_as_csv(made: Machine) -> None:
    """A line an event, with its header."""
    done = made.lakehouse("history", "explain", "silver.people", 2, "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(line["sequence"], line["effect"]) for line in lines] == [
        ("9", "opened [9, …)"),
        ("11", "not visible: positive"),
    ]


# as-of


@pytest.mark.parametrize(
    ("moment", "cities"),
    [(4, []), (5, ["Wien"]), (11, ["Wien", "Bonn"]), (12, ["Graz", "Bonn"]), (24, ["Linz", "Bonn"]), (25, ["Bonn"])],
)
def test_a_table_as_it_was(made: Machine, moment: int, cities: list[str]) -> None:
    """5.2: START <= t AND (t < END OR END IS NULL), by key."""
    assert [row["city"] for row in answer(made, "as-of", "silver.people", moment)] == cities


@pytest.mark.parametrize("moment", ["12,4", '{"at": 12, "n": 4}'])
def test_as_of_a_sequence_of_several_columns(made: Machine, moment: str) -> None:
    """Compared column by column: (12, 4) is there, (20, 2) is not yet."""
    assert {row["city"] for row in answer(made, "as-of", "silver.pairs", moment)} == {"Wien", "Graz", "Bonn", "Kiel"}


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_as_of_is_limited(made: Machine, form: str) -> None:
    """`--limit` in every format."""
    done = made.lakehouse("history", "as-of", "silver.people", 20, "--limit", 1, "--format", form)
    assert "Linz" in done.stdout
    assert "Bonn" not in done.stdout


def test_a_long_table_says_that_there_is_more(machine: Machine) -> None:
    """A table for people ends after 1,000 rows and says so; CSV is whole, and says nothing."""
    machine.declare(CATALOG)
    feed(machine, [(k, 1, "u", "Wien", 1) for k in range(1001)])
    assert machine.lakehouse("run", "+silver.people").exit_code == 0
    done = machine.lakehouse("history", "as-of", "silver.people", 1)
    assert "the first 1,000 rows are shown" in done.stderr
    assert done.stdout.count("Wien") == 1000
    whole = machine.lakehouse("history", "as-of", "silver.people", 1, "--format", "csv")
    assert (whole.stdout.count("Wien"), whole.stderr) == (1001, "")


@pytest.mark.parametrize(
    ("table", "moment", "said"),
    [
        ("silver.people", "yesterday", "a sequence of silver.people is BIGINT"),
        ("silver.pairs", "12", "2 parts"),
        ("silver.current", "12", "stored_as_scd_type: 1"),
        ("silver.plain", "12", "keeps no history"),
    ],
)
def test_a_moment_that_is_none(made: Machine, table: str, moment: str, said: str) -> None:
    """Exit code 2: what a sequence of the table is, or that it has no past."""
    done = made.lakehouse("history", "as-of", table, moment)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


# rewind


def test_rewind_and_undo(own: Machine) -> None:
    """F9: events after a sequence are taken back, the keys are made again, and --undo gives the same rows as before."""
    before = own.rows("silver.people", *PEOPLE)
    done = own.lakehouse("history", "rewind", "silver.people", "--after", 12)
    assert done.exit_code == 0, done.stderr
    assert "lakehouse history rewind silver.people --after 12 --undo" in done.stderr
    assert own.rows("silver.people", *PEOPLE) == [(1, "Graz", 12, None), (1, "Wien", 5, 12), (2, "Bonn", 9, None)]
    fates = {row["sequence"]: row["fate"] for row in answer(own, "explain", "silver.people", 1)}
    assert fates == {5: "applied", 12: "applied", 15: "retracted", 20: "retracted", 25: "retracted"}
    assert answer(own, "rewind", "silver.people", "--after", 12, "--undo")[0]["does"] == "restored"
    assert own.rows("silver.people", *PEOPLE) == before


def test_rewind_from_a_position(own: Machine) -> None:
    """F9: what was read after a position of the feed is taken back, and nothing that was read before."""
    assert answer(own, "rewind", "silver.people", "--from-position", 1)[0]["events"] == 4
    assert own.rows("silver.people", *PEOPLE) == [(1, "Linz", 20, None), (1, "Wien", 5, 20), (2, "Bonn", 9, None)]


def test_a_dry_rewind_writes_nothing(own: Machine) -> None:
    """It counts events and keys, and not a file of the lake differs."""
    before = own.files()
    (row,) = answer(own, "rewind", "silver.people", "--after", 10, "--dry-run")
    assert (row["does"], row["keys"], row["version"]) == ("would be retracted", 2, None)
    assert row["events"] == 5
    assert own.files() == before


def test_a_rewind_that_hits_nothing(own: Machine) -> None:
    """It says so and writes nothing."""
    before = own.files()
    done = own.lakehouse("history", "rewind", "silver.people", "--after", 100)
    assert (done.exit_code, own.files()) == (0, before)
    assert "no event lies there" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("silver.people",),
        ("silver.people", "--after", "5", "--from-position", "3"),
        ("silver.people", "--after", "yesterday"),
        ("silver.people", "--from-position", "nowhere"),
        ("silver.plain", "--after", "5"),
    ],
)
def test_a_rewind_needs_one_bound_and_a_history(made: Machine, arguments: tuple[str, ...]) -> None:
    """Exit code 2: no bound, two bounds, a bound that is no sequence, a table without a log."""
    before = made.files()
    done = made.lakehouse("history", "rewind", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert made.files() == before
