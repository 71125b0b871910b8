"""A lake with events of a few people and tables with history over them, for tests of the commands that show them.

What belongs here: the catalog, its events, a lake made once and copied. What does not: expectations.

    silver.people   type 2, by k       silver.current  type 1, by k
    silver.pairs    type 2, by k and city, ordered by two columns
    silver.plain    no history, with a rule
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from lakehouse_assets_tests.cli.lab import Machine

Event = tuple[int | None, int | None, str, str | None, int | None]
CATALOG = """
    delta_live_store:
      - entity_id: b
        source: "{database}"
        source_format: sqlite
        destination: bronze.events
        read_options: {{sqlite.table: events}}
      - &people
        entity_id: people
        source: bronze.events
        source_format: dlt
        destination: silver.people
        primary_keys: [k]
        is_quarantined: true
        expectations: {{expect_all: {{positive: amount > 0}}}}
        apply_changes:
          sequence_by: ts
          stored_as_scd_type: 2
          apply_as_deletes: op = 'd'
          except_column_list: [id, ts, op]
      - <<: *people
        entity_id: current
        destination: silver.current
        apply_changes: {{sequence_by: ts, apply_as_deletes: op = 'd', except_column_list: [id, ts, op]}}
      - <<: *people
        entity_id: pairs
        destination: silver.pairs
        primary_keys: [k, city]
        is_quarantined: false
        expectations: {{}}
        apply_changes: {{sequence_by: "struct(ts AS at, id AS n)", stored_as_scd_type: 2, where: op <> 'd'}}
      - entity_id: plain
        source: bronze.events
        source_format: dlt
        destination: silver.plain
        is_quarantined: true
        select_expr: [id, k, amount]
        expectations: {{expect_all: {{positive: amount > 0}}}}
"""
FIRST: tuple[Event, ...] = ((1, 5, "u", "Wien", 1), (1, 20, "u", "Linz", 1), (2, 9, "u", "Bonn", 1))
THEN: tuple[Event, ...] = (
    (1, 12, "u", "Graz", 1),  # late: splits [5, 20)
    (1, 15, "u", "Melk", -1),  # broken
    (1, 25, "d", None, 1),
    (2, 11, "u", "Kiel", -2),  # broken
)
"""Key, sequence, operation, city, amount: what a second run finds."""


def feed(machine: Machine, events: Iterable[Event]) -> None:
    """Append events to the machine's database."""
    machine.database.parent.mkdir(parents=True, exist_ok=True)
    ddl = "(id INTEGER PRIMARY KEY, k INTEGER, ts INTEGER, op TEXT, city TEXT, amount INTEGER)"
    with closing(sqlite3.connect(machine.database)) as connection, connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS events {ddl}")
        connection.executemany("INSERT INTO events (k, ts, op, city, amount) VALUES (?, ?, ?, ?, ?)", events)


def make(directory: Path) -> Machine:
    """A machine whose lake has seen both batches."""
    machine = Machine(directory)
    machine.declare(CATALOG)
    for events in (FIRST, THEN):
        feed(machine, events)
        done = machine.lakehouse("run", "*")
        assert done.exit_code == 0, done.stderr
    return machine


def shared(factory: pytest.TempPathFactory) -> Machine:
    """The one lake of this process that tests only look at."""
    directory = factory.getbasetemp() / "history_lake"
    if directory.exists():
        return Machine(directory)
    directory.mkdir()
    return make(directory)


def copied(made: Machine, directory: Path) -> Machine:
    """A machine with a copy of that lake, its catalog and its database."""
    shutil.copytree(made.directory, directory, dirs_exist_ok=True)
    machine = Machine(directory)
    machine.declare(CATALOG)
    return machine
