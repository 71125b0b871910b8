"""`lakehouse quarantine`: the rows that broke a rule, and the ways out."""

from __future__ import annotations

import csv
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets_tests.cli.history_lake import CATALOG, copied, feed, shared
from lakehouse_assets_tests.cli.lab import Machine

PEOPLE = ("k", "city", "amount", "__START_AT", "__END_AT")
MENDED = [
    (1, "Graz", 1, 12, 15), (1, "Linz", 1, 20, 25), (1, "Melk", 1, 15, 20), (1, "Wien", 1, 5, 12),
    (2, "Bonn", 1, 9, 11), (2, "Kiel", 2, 11, None),
]  # fmt: skip
"""The rows of `silver.people` as they would be had every amount been right the first time."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A lake to look at: nobody may write it."""
    return shared(tmp_path_factory)


@pytest.fixture
def own(made: Machine, tmp_path: Path) -> Machine:
    """A lake of this test's own."""
    return copied(made, tmp_path)


def answer(machine: Machine, *arguments: object, code: int = 0) -> list[dict[str, Any]]:
    """The rows that a command prints as JSON."""
    done = machine.lakehouse("quarantine", *arguments, "--format", "json")
    assert done.exit_code == code, done.stderr
    return json.loads(done.stdout)


def ids(machine: Machine, table: str) -> dict[str, str]:
    """City (or amount) of the rows in quarantine -> their ids."""
    return {str(row.get("city", row["amount"])): row["_event"] for row in answer(machine, "show", table)}


# list and show


def test_rows_are_counted_by_table_and_reason(made: Machine) -> None:
    """All tables of the catalog that have any, with and without history, or one of them."""
    found = [(row["table"], row["reason"], row["rows"]) for row in answer(made, "list")]
    assert found == [(f"silver.{name}", "positive", 2) for name in ("people", "current", "plain")]
    (row,) = answer(made, "list", "silver.plain")
    assert (row["table"], row["rows"]) == ("silver.plain", 2)
    assert row["oldest"] <= row["newest"]


def test_an_empty_quarantine_is_said(made: Machine) -> None:
    """No rows on stdout, a word on stderr."""
    done = made.lakehouse("quarantine", "list", "silver.pairs", "--format", "json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, [])
    assert done.stderr == "no row is in quarantine\n"


@pytest.mark.parametrize("table", ["silver.people", "silver.plain"])
def test_rows_are_shown_with_ids_and_reasons(made: Machine, table: str) -> None:
    """The id that requeue and discard take, the reasons, the row; for a table without history, too."""
    rows = answer(made, "show", table)
    assert sorted(row["amount"] for row in rows) == [-2, -1]
    assert all(row["_reasons"] == ["positive"] for row in rows)
    assert len({row["_event"] for row in rows}) == 2


def test_a_table_for_people_leaves_out_what_is_for_programs(made: Machine) -> None:
    """Id, reasons and columns; the row as received is in JSON and CSV."""
    header = made.lakehouse("quarantine", "show", "silver.people").stdout.splitlines()[1].split()
    assert header[:2] == ["_event", "_reasons"]
    assert "city" in header
    assert "_upstream" not in header


MESSAGES = """
    delta_live_store:
      - entity_id: b
        source: "{database}"
        source_format: sqlite
        destination: bronze.m
        read_options: {{sqlite.table: m}}
      - entity_id: s
        source: bronze.m
        source_format: dlt
        destination: silver.m
        is_quarantined: true
        select_expr: [id, "CAST(from_json(CAST(value AS STRING), 'v STRING').v AS INT) AS v"]
"""


def test_people_are_shown_what_was_received(machine: Machine) -> None:
    """The message as text where it is UTF-8, shortened, without what the row shows anyway; JSON has all of it."""
    given = [(1, b'{"v":"x"}', "n"), (2, b"\xff\xfe", None), (3, b"{" * 500, None), (4, b'{"v":"4"}', None)]
    machine.database.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(machine.database)) as connection, connection:
        connection.execute("CREATE TABLE m (id INTEGER PRIMARY KEY, value BLOB, note TEXT)")
        connection.executemany("INSERT INTO m VALUES (?, ?, ?)", given)
    machine.declare(MESSAGES)
    assert machine.lakehouse("run", "+silver.m").exit_code == 0
    done = machine.lakehouse("quarantine", "show", "silver.m")
    _, header, _, *lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert header.split() == ["_event", "_reasons", "id", "v", "_quarantined_at", "received"]
    for received in ('value: {"v":"x"}, note: n', "value: base64 //4=", "value: " + "{" * 99 + "…"):
        assert [line.endswith("  " + received) for line in lines].count(True) == 1
    whole = {row["id"]: row for row in answer(machine, "show", "silver.m", "--rule", "malformed_json:value")}
    assert sorted(whole) == [2, 3]
    assert "received" not in whole[2]
    assert whole[2]["_upstream"]["value"] == "//4="


def test_shown_rows_are_limited(made: Machine) -> None:
    """`--limit`."""
    assert len(answer(made, "show", "silver.people", "--limit", 1)) == 1


def test_a_long_table_says_that_there_is_more(machine: Machine) -> None:
    """A table for people ends after 100 rows and says so; CSV is whole, and says nothing."""
    machine.declare(CATALOG)
    feed(machine, [(k, 1, "u", "Wien", -1) for k in range(101)])
    assert machine.lakehouse("run", "+silver.people").exit_code == 0
    done = machine.lakehouse("quarantine", "show", "silver.people")
    assert "the first 100 rows are shown" in done.stderr
    assert done.stdout.count("Wien") == 100
    whole = machine.lakehouse("quarantine", "show", "silver.people", "--format", "csv")
    assert (len(whole.stdout.splitlines()), whole.stderr) == (102, "")


def test_rows_are_shown_by_rule(own: Machine) -> None:
    """Only those that broke it; a rule that is kept has none."""
    assert len(answer(own, "show", "silver.people", "--rule", "positive")) == 2
    done = own.lakehouse("quarantine", "show", "silver.people", "--rule", "null_key", "--format", "json")
    assert (json.loads(done.stdout), done.stderr) == ([], "no row of silver.people is in quarantine for null_key\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "silver.people", "--rule", "positiv"), "did you mean 'positive'"),
        (("show", "silver.pairs"), "silver.pairs has no quarantine"),
        (("show", "silver.peple"), "did you mean 'silver.people'"),
        (("requeue", "silver.people"), "--id ID, --rule R, --file FIXED"),
        (("requeue", "silver.people", "--rule", "nonsense"), "legal: positive"),
        (("requeue", "silver.people", "--id", "nonsense"), "nonsense"),
        (("requeue", "silver.people", "--set", "amont = 1"), "amont"),
        (("requeue", "silver.people", "--file", "nowhere.csv"), "nowhere.csv"),
        (("discard", "silver.people"), "--id"),
        (("discard", "silver.people", "--id", "nonsense"), "nonsense"),
    ],
)
def test_wrong_use(made: Machine, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, nothing on stdout, nothing written, and what is legal."""
    before = made.files()
    done = made.lakehouse("quarantine", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert made.files() == before


def test_a_file_is_given_alone(made: Machine, tmp_path: Path) -> None:
    """It says which rows, and what they become."""
    fixed = tmp_path / "fixed.csv"
    fixed.write_text("_event,amount\n")
    assert (
        made.lakehouse("quarantine", "requeue", "silver.people", "--file", fixed, "--rule", "positive").exit_code == 2
    )


# requeue


def test_all_rows_are_corrected_with_an_expression(own: Machine) -> None:
    """F1: each is woven in at its own sequence: the rows are those of a table in which it was right the first time."""
    (row,) = answer(own, "requeue", "silver.people", "--set", "amount = abs(amount)")
    assert (row["asked"], row["woven"], row["still_broken"]) == (2, 2, [])
    assert own.rows("silver.people", *PEOPLE) == MENDED
    assert answer(own, "list", "silver.people") == []


def test_a_correction_made_twice_changes_nothing(own: Machine) -> None:
    """F2: nothing is left to correct, and no file of the lake differs."""
    for _ in range(2):
        assert (
            own.lakehouse(
                "quarantine", "requeue", "silver.people", "--rule", "positive", "--set", "amount = abs(amount)"
            ).exit_code
            == 0
        )
        files = own.files()
    again = answer(own, "requeue", "silver.people", "--rule", "positive", "--set", "amount = abs(amount)")
    assert again[0]["woven"] == 0
    assert own.files() == files
    assert own.rows("silver.people", *PEOPLE) == MENDED


def test_one_row_is_corrected_by_its_id(own: Machine) -> None:
    """The others stay."""
    kiel = ids(own, "silver.people")["Kiel"]
    assert answer(own, "requeue", "silver.people", "--id", kiel, "--set", "amount = 2")[0]["woven"] == 1
    assert set(ids(own, "silver.people")) == {"Melk"}


def test_rows_are_corrected_by_a_file(own: Machine, tmp_path: Path) -> None:
    """A CSV with `_event` and the columns to correct."""
    fixed = tmp_path / "fixed.csv"
    with fixed.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerows(
            [
                ("_event", "amount"),
                *((event, {"Melk": 1, "Kiel": 2}[city]) for city, event in ids(own, "silver.people").items()),
            ]
        )
    assert answer(own, "requeue", "silver.people", "--file", fixed)[0]["woven"] == 2
    assert own.rows("silver.people", *PEOPLE) == MENDED


def test_rows_that_still_break_a_rule_stay_and_are_named(own: Machine) -> None:
    """Exit code 1; the others are woven in."""
    arguments = ("quarantine", "requeue", "silver.people", "--set", "amount = amount + 2")
    done = own.lakehouse(*arguments)
    assert done.exit_code == 1
    assert "still broken" in done.stderr
    assert "positive" in done.stderr
    assert "Kiel" in done.stderr
    assert set(ids(own, "silver.people")) == {"Kiel"}


def test_rows_that_still_break_a_rule_as_data(own: Machine) -> None:
    """JSON has each with its id, the reasons, and its columns as corrected."""
    kiel = ids(own, "silver.people")["Kiel"]
    (row,) = answer(own, "requeue", "silver.people", "--id", kiel, "--set", "amount = 0", code=1)
    (broken,) = row["still_broken"]
    assert broken == {
        "_event": kiel,
        "_reasons": ["positive"],
        "id": 7,
        "k": 2,
        "ts": 11,
        "op": "u",
        "city": "Kiel",
        "amount": 0,
    }


def test_a_dry_requeue_writes_nothing(own: Machine) -> None:
    """It judges, says what would come of it, and writes no file."""
    before = own.files()
    (row,) = answer(own, "requeue", "silver.people", "--set", "amount = abs(amount)", "--dry-run")
    assert (row["asked"], row["woven"]) == (2, 2)
    assert own.files() == before


def test_a_table_without_history_gets_its_rows_back(own: Machine) -> None:
    """Corrections of a conformed table go to the table itself, and a rebuild brings them back."""
    assert answer(own, "requeue", "silver.plain", "--set", "amount = abs(amount)")[0]["woven"] == 2
    amounts = [row[0] for row in own.rows("silver.plain", "amount")]
    assert (sorted(amounts), len(amounts)) == ([1, 1, 1, 1, 1, 1, 2], 7)
    assert own.lakehouse("run", "--full-refresh", "silver.plain").exit_code == 0
    assert sorted(row[0] for row in own.rows("silver.plain", "amount")) == sorted(amounts)


# discard


@pytest.mark.parametrize("table", ["silver.people", "silver.plain"])
def test_rows_are_discarded(own: Machine, table: str) -> None:
    """They leave the quarantine for good, and the table stays as it is."""
    before = own.rows(table)
    one = ids(own, table).popitem()[1]
    assert answer(own, "discard", table, "--id", one) == [{"table": table, "discarded": 1}]
    assert one not in ids(own, table).values()
    assert own.lakehouse("run", "*").exit_code == 0
    assert len(ids(own, table)) == 1
    assert own.rows(table) == before


def test_rows_that_were_discarded_are_told(machine: Machine) -> None:
    """Those, not all that leave the quarantine: the other side of a contradiction goes back to the table by itself."""
    machine.declare(CATALOG)
    feed(machine, [(1, 1, "u", "Wien", 1), (1, 1, "u", "Graz", 1), (2, 1, "u", "Bonn", -1)])
    assert machine.lakehouse("run", "+silver.people").exit_code == 0
    known = ids(machine, "silver.people")
    assert sorted(known) == ["Bonn", "Graz", "Wien"]
    (told,) = answer(machine, "discard", "silver.people", "--id", known["Graz"])
    assert told["discarded"] == 1
    assert list(ids(machine, "silver.people")) == ["Bonn"]
    (told,) = answer(machine, "discard", "silver.people", "--id", known["Graz"], "--id", known["Bonn"][:12])
    assert told["discarded"] == 1
