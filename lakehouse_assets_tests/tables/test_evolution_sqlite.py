"""Tests of `evolution: rescue` over SQLite: a table there may hold any value in any column, and gain columns."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from lakehouse_assets.sources.base import open_source
from lakehouse_assets_tests.tables.lab import Lab

YAML = """
delta_live_store:
  - entity_id: b
    source: {path}
    source_format: sqlite
    destination: bronze.t
    lakehouse: {{evolution: rescue}}
    {more}
"""


def lab(tmp_path, more=""):
    """A lake over a database `edge.db`."""
    it = Lab(tmp_path / "lake", YAML.format(path=tmp_path / "edge.db", more=more))
    it.work = replace(it.work, open_source=open_source)
    return it


def write(tmp_path, *statements):
    """Run statements on the database."""
    with closing(sqlite3.connect(tmp_path / "edge.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def rescued(it, *columns):
    """Rows with what was rescued as objects."""
    rows = it.rows("bronze.t", *columns, "_rescued_data")
    return [(*row[:-1], None if row[-1] is None else json.loads(row[-1])) for row in rows]


@pytest.mark.parametrize("more", ["", "expectations: {expect_all: {some: id > 0}}"], ids=["streamed", "judged"])
def test_values_of_another_class_are_rescued_as_literals(tmp_path, more):
    """U: a value that does not fit is kept as its SQL literal, which tells text from blobs; so is the rest of the row."""
    write(
        tmp_path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, temp REAL, name TEXT)",
        "INSERT INTO t VALUES (1, 20.5, 'a'), (2, 'it''s', 'b'), (3, 1.5, X'00ff')",
    )
    it = lab(tmp_path, more)
    (outcome,) = it.run()
    assert rescued(it, "id", "temp", "name") == [
        (1, 20.5, "a", None),
        (2, None, "b", {"temp": "'it''s'", "_source": "b", "_position": "2"}),
        (3, 1.5, None, {"name": "X'00FF'", "_source": "b", "_position": "3"}),
    ]
    assert (outcome.rows_in, outcome.valid, outcome.quarantined) == (3, 3, 0)
    assert not it.exists("bronze.t_quarantine")


def test_text_that_is_no_utf8_is_rescued(tmp_path):
    """Bytes that are no text do not fit a text column: they are kept in hexadecimal."""
    write(
        tmp_path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)",
        "INSERT INTO t VALUES (1, 'a'), (2, CAST(X'ff' AS TEXT))",
    )
    it = lab(tmp_path)
    it.run()
    assert [(i, n, r and r["name"]) for i, n, r in rescued(it, "id", "name")] == [
        (1, "a", None),
        (2, None, "CAST(X'FF' AS TEXT)"),
    ]


def test_a_column_that_the_table_gained_is_rescued(tmp_path):
    """ALTER TABLE ADD COLUMN: without `source_schema` the lake's table is what counts, with it the declared columns."""
    write(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, temp REAL)", "INSERT INTO t VALUES (1, 20.5)")
    it = lab(tmp_path)
    it.run()
    write(tmp_path, "ALTER TABLE t ADD COLUMN hum INTEGER", "INSERT INTO t VALUES (2, 21.5, 47), (3, 22.5, 'wet')")
    it.run()
    assert [(i, t, r and r["hum"]) for i, t, r in rescued(it, "id", "temp")] == [
        (1, 20.5, None),
        (2, 21.5, "47"),
        (3, 22.5, "'wet'"),
    ]


def test_columns_beyond_the_declared_ones_are_rescued(tmp_path):
    """`source_schema` says which columns are known; values of the others are kept beside the row."""
    write(
        tmp_path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, temp REAL, hum INTEGER)",
        "INSERT INTO t VALUES (1, 20.5, 47), (2, 'x', NULL)",
    )
    it = lab(tmp_path, 'source_schema: "id BIGINT, temp DOUBLE"')
    it.run()
    assert [(i, t, {k: v for k, v in r.items() if not k.startswith("_")}) for i, t, r in rescued(it, "id", "temp")] == [
        (1, 20.5, {"hum": "47"}),
        (2, None, {"temp": "'x'"}),
    ]
