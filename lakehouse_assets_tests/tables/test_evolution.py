"""Tests of what becomes of a table when the columns of its source change: every row of the table in docs/evolution.md."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakehouse_assets.errors import SchemaDrift
from lakehouse_assets_tests.tables.lab import Lab
from lakehouse_assets_tests.tables.shifting import Shifting

I32, I64, F64, TEXT = pa.int32(), pa.int64(), pa.float64(), pa.string()
RULES = "expectations: {expect_all: {some: id > 0}}"
BOTH_WAYS = pytest.mark.parametrize("bronze", ["", RULES], ids=["streamed", "judged"])
"""A landed table passes rows through, or judges them: two ways that must agree."""


def made(tmp_path, mode=None, bronze="", **types):
    """A bronze table with the row (1, …) and these columns."""
    it = Shifting(tmp_path, mode, bronze)
    it.feed([{"id": 1, **dict.fromkeys(types)}], id=I64, **types)
    it.run()
    return it


@BOTH_WAYS
@pytest.mark.parametrize("mode", [None, "add_columns"])
def test_a_new_column_is_added(tmp_path, bronze, mode):
    """`add_columns`, the default: a new column is added; earlier rows hold NULL."""
    it = made(tmp_path, mode, bronze)
    it.feed([{"id": 2, "w": 2.5}], id=I64, w=F64)
    it.run()
    assert it.rows("bronze.t", "id", "w") == [(1, None), (2, 2.5)]


@BOTH_WAYS
def test_a_dropped_column_is_null_from_then_on(tmp_path, bronze):
    """A column that left the source stays in the table; new rows hold NULL."""
    it = made(tmp_path, None, bronze, w=F64)
    it.feed([{"id": 2}], id=I64)
    it.run()
    assert it.rows("bronze.t", "id", "w") == [(1, None), (2, None)]


@BOTH_WAYS
def test_a_renamed_column_is_a_new_one_beside_the_old(tmp_path, bronze):
    """Nothing tells a renamed column from a dropped and a new one: that is what it is."""
    it = made(tmp_path, None, bronze, w=F64)
    it.feed([{"id": 2, "weight": 5.0}], id=I64, weight=F64)
    it.run()
    assert it.rows("bronze.t", "id", "w", "weight") == [(1, None, None), (2, None, 5.0)]


@BOTH_WAYS
@pytest.mark.parametrize("mode", ["add_columns", "freeze", "rescue"])
def test_order_does_not_matter(tmp_path, bronze, mode):
    """Columns are found by name: another order is no change."""
    it = made(tmp_path, mode, bronze, v=TEXT, w=F64)
    before = list(it.columns())
    it.feed([{"w": 2.0, "v": "b", "id": 2}], w=F64, v=TEXT, id=I64)
    it.run()
    assert it.rows("bronze.t", "id", "v", "w") == [(1, None, None), (2, "b", 2.0)]
    assert [name for name in it.columns() if name != "_rescued_data"] == [n for n in before if n != "_rescued_data"]


@BOTH_WAYS
@pytest.mark.parametrize("mode", ["add_columns", "freeze", "rescue"])
def test_another_case_is_the_same_column(tmp_path, bronze, mode):
    """The table says `Temp`, the source now `temp`: one column, spelled as in the table."""
    it = made(tmp_path, mode, bronze, Temp=F64)
    it.feed([{"ID": 2, "temp": 21.5}], ID=I64, temp=F64)
    it.run()
    assert it.rows("bronze.t", "id", "Temp") == [(1, None), (2, 21.5)]
    assert [name for name in it.columns() if name != "_rescued_data"] == ["id", "Temp"]


@BOTH_WAYS
@pytest.mark.parametrize(
    ("column", "source", "value", "stored"),
    [
        (I64, I32, 7, 7),
        (F64, pa.float32(), 0.5, 0.5),
        (F64, I32, 7, 7.0),
        (pa.decimal128(20, 2), pa.decimal128(10, 1), "1.5", "1.50"),
        (pa.decimal128(12, 2), I32, 7, "7.00"),
    ],
)
def test_a_narrower_type_is_cast(tmp_path, bronze, column, source, value, stored):
    """A type of which every value fits the table's type is cast without loss."""
    from decimal import Decimal

    it = made(tmp_path, None, bronze, v=column)
    it.feed([{"id": 2, "v": Decimal(value) if isinstance(value, str) else value}], id=I64, v=source)
    it.run()
    expected = Decimal(stored) if isinstance(stored, str) else stored
    assert it.rows("bronze.t", "id", "v") == [(1, None), (2, expected)]
    assert it.columns()["v"] == column


@BOTH_WAYS
@pytest.mark.parametrize(("column", "source"), [(I32, I64), (I64, F64), (F64, I64), (I64, TEXT), (TEXT, I64)])
def test_a_wider_type_is_refused_with_the_remedies(tmp_path, bronze, column, source):
    """A type that the table's does not hold is an error before anything is written, never a truncation."""
    it = made(tmp_path, None, bronze, v=column)
    before = it.it.version("bronze.t")
    it.feed([{"id": 2, "v": "1" if source == TEXT else 1}], id=I64, v=source)
    with pytest.raises(SchemaDrift, match=rf"v is {source}, not {column}") as error:
        it.run()
    assert "--full-refresh bronze.t" in str(error.value)
    assert "evolution: rescue" in str(error.value)
    assert it.it.version("bronze.t") == before
    it.run("bronze.t", rebuild=True)
    assert it.columns()["v"] == source


def test_a_rebuild_takes_the_new_spelling(tmp_path):
    """`--full-refresh` gives the table the columns of the source as they are now, spelling included."""
    it = made(tmp_path, None, "", Temp=F64, gone=F64)
    it.feed([{"id": 2, "temp": 1.5}], id=I64, temp=F64)
    it.run("bronze.t", rebuild=True)
    assert list(it.columns()) == ["id", "temp"]


@BOTH_WAYS
def test_a_struct_gains_and_loses_fields(tmp_path, bronze):
    """Fields of structs are columns too: new ones are added, those that left are NULL, case does not matter."""
    it = made(tmp_path, None, bronze, at=pa.struct([("X", I64), ("y", I64)]))
    it.feed([{"id": 2, "at": {"z": 3, "x": 1}}], id=I64, at=pa.struct([("z", I64), ("x", I32)]))
    it.run()
    assert it.rows("bronze.t", "id", "at") == [(1, None), (2, {"X": 1, "y": None, "z": 3})]


@BOTH_WAYS
def test_a_frozen_table_names_the_new_column(tmp_path, bronze):
    """`freeze`: the error names the new column, the one that may have been renamed, the modes and the next step."""
    it = made(tmp_path, "freeze", bronze, w=F64)
    before = it.it.version("bronze.t")
    it.feed([{"id": 2, "weight": 1.0}], id=I64, weight=F64)
    with pytest.raises(SchemaDrift, match=r"bronze.t: the source has new columns \(weight\)") as error:
        it.run()
    assert "perhaps renamed: w" in str(error.value)
    assert error.value.choices == ("add_columns", "freeze", "rescue")
    assert "--full-refresh bronze.t" in str(error.value)
    assert it.it.version("bronze.t") == before


@BOTH_WAYS
def test_a_frozen_table_refuses_a_changed_type(tmp_path, bronze):
    """`freeze`: even a type that would fit is a change, and is named."""
    it = made(tmp_path, "freeze", bronze, v=I64)
    it.feed([{"id": 2, "v": 1}], id=I64, v=I32)
    with pytest.raises(SchemaDrift, match=r"changed columns \(v is int32, not int64\) and the table is frozen"):
        it.run()


def test_a_frozen_table_takes_what_is_left_of_its_columns(tmp_path):
    """`freeze`: a column that left is NULL; nothing about the table changes."""
    it = made(tmp_path, "freeze", "", w=F64)
    it.feed([{"id": 2}], id=I64)
    it.run()
    assert it.rows("bronze.t", "id", "w") == [(1, None), (2, None)]


def test_a_rebuild_thaws_a_frozen_table(tmp_path):
    """`--full-refresh` is the step by which a frozen table takes new columns; then it is frozen again."""
    it = made(tmp_path, "freeze")
    it.feed([{"id": 2, "w": 1.0}], id=I64, w=F64)
    it.run("bronze.t", rebuild=True)
    assert it.rows("bronze.t", "id", "w") == [(2, 1.0), (None, None)]
    it.feed([{"id": 3, "x": 1.0}], id=I64, x=F64)
    with pytest.raises(SchemaDrift, match="frozen"):
        it.run()


def test_a_rebuild_thaws_every_feed(tmp_path):
    """A rebuild of a frozen table with several feeds takes the new columns of all of them."""
    yaml = """
delta_live_store:
  - {entity_id: a, source: one, source_format: sqlite, destination: bronze.t, lakehouse: {feed: a, evolution: freeze}}
  - {entity_id: b, source: two, source_format: sqlite, destination: bronze.t, lakehouse: {feed: b, evolution: freeze}}
"""
    it = Lab(tmp_path / "lake", yaml)
    for name in ("one", "two"):
        it.streams[name] = [pa.RecordBatch.from_pylist([{"id": 1}])]
    it.run()
    it.streams["two"][:] = [pa.RecordBatch.from_pylist([{"id": 1, "w": 2.5}])]
    it.run(rebuild=True)
    assert it.rows("bronze.t", "id", "w", "_source") == [(1, 2.5, "two"), (1, None, "one")]


def test_a_frozen_table_looks_at_what_is_selected(tmp_path):
    """`freeze` judges the table's columns: a source column that `select_expr` leaves out does not matter."""
    it = made(tmp_path, "freeze", "select_expr: [id, upper(v) AS v]", v=TEXT)
    it.feed([{"id": 2, "v": "b", "more": 1}], id=I64, v=TEXT, more=I64)
    it.run()
    assert it.rows("bronze.t", "id", "v") == [(1, None), (2, "B")]


# conformed tables


def silver(tmp_path, mode=None, fields="", **types):
    """A silver table with the row (1, …) and these columns."""
    it = Shifting(tmp_path, mode, "", fields)
    it.feed([{"id": 1, **dict.fromkeys(types)}], id=I64, **types)
    it.run()
    return it


def test_a_new_upstream_column_is_added(tmp_path):
    """Conformed, `add_columns`: a column that the upstream table gained is added."""
    it = silver(tmp_path)
    it.feed([{"id": 2, "w": 2.5}], id=I64, w=F64)
    it.run()
    assert it.rows("silver.t", "id", "w") == [(1, None), (2, 2.5)]


def test_a_dropped_upstream_column_is_null(tmp_path):
    """Conformed: a column that the upstream was rebuilt without stays, and is NULL."""
    it = silver(tmp_path, w=F64)
    it.feed([{"id": 2}], id=I64)
    it.run("bronze.t", rebuild=True)
    it.run("silver.t")
    assert it.rows("silver.t", "id", "w") == [(2, None), (None, None)]


def test_a_renamed_upstream_column_is_a_new_one(tmp_path):
    """Conformed: a renamed column is a new one beside the old; with an alias it goes on under its old name."""
    it = silver(tmp_path, w=F64)
    it.feed([{"id": 2, "weight": 5.0}], id=I64, weight=F64)
    it.run()
    assert it.rows("silver.t", "id", "w", "weight") == [(1, None, None), (2, None, 5.0)]
    it.declare(silver="select_expr: [id, weight AS w]")
    it.feed([{"id": 3, "weight": 6.0}], id=I64, weight=F64)
    it.run()
    assert it.rows("silver.t", "id", "w")[-1] == (3, 6.0)


def test_another_case_and_order_upstream_are_no_change(tmp_path):
    """Conformed: the table's spelling and order stay."""
    it = silver(tmp_path, "freeze", Temp=F64)
    it.feed([{"temp": 2.5, "ID": 2}], temp=F64, ID=I64)
    it.run("bronze.t", rebuild=True)
    it.run("silver.t")
    assert it.rows("silver.t", "id", "Temp") == [(2, 2.5), (None, None)]
    assert list(it.columns("silver.t")) == ["id", "Temp"]


def test_a_narrower_upstream_type_is_cast(tmp_path):
    """Conformed: INT into a BIGINT column, also where rows go to quarantine."""
    it = silver(tmp_path, None, f"is_quarantined: true, {RULES}", v=I64)
    it.feed([{"id": 2, "v": 7}, {"id": -2, "v": 8}], id=I64, v=I32)
    it.run("bronze.t", rebuild=True)
    it.run("silver.t")
    assert it.rows("silver.t", "id", "v") == [(2, 7)]
    assert (-2, 8) in it.rows("silver.t_quarantine", "id", "v")
    assert it.columns("silver.t")["v"] == I64


def test_a_wider_upstream_type_is_refused(tmp_path):
    """Conformed: BIGINT does not go into an INT column; nothing is written before the error."""
    it = silver(tmp_path, None, f"is_quarantined: true, {RULES}", v=I32)
    before = it.it.version("silver.t"), it.it.version("silver.t_quarantine")
    it.feed([{"id": 2, "v": 7}], id=I64, v=I64)
    it.run("bronze.t", rebuild=True)
    with pytest.raises(SchemaDrift, match=r"silver.t: .*v is int64, not int32"):
        it.run("silver.t")
    assert (it.it.version("silver.t"), it.it.version("silver.t_quarantine")) == before


def test_a_frozen_conformed_table_refuses_a_new_column(tmp_path):
    """Conformed, `freeze`: the new upstream column is named, and nothing is written."""
    it = silver(tmp_path, "freeze")
    before = it.it.version("silver.t")
    it.feed([{"id": 2, "w": 1.0}], id=I64, w=F64)
    with pytest.raises(SchemaDrift, match=r"silver.t: the source has new columns \(w\) and the table is frozen"):
        it.run()
    assert it.it.version("silver.t") == before
    it.declare("freeze", silver="select_expr: [id]")
    it.run()
    assert it.rows("silver.t", "id") == [(1,), (2,)]


def test_a_quarantine_takes_rows_as_received_whatever_they_were_before(tmp_path):
    """A column that the table casts may change its type upstream: the quarantine's rows as received change with it."""
    it = silver(tmp_path, None, f"is_quarantined: true, select_expr: [id, CAST(v AS BIGINT) AS v], {RULES}", v=I32)
    it.feed([{"id": 2, "v": "7"}, {"id": -2, "v": "8"}], id=I64, v=TEXT)
    it.run("bronze.t", rebuild=True)
    it.run("silver.t")
    assert it.rows("silver.t", "id", "v") == [(2, 7)]
    assert [row["v"] for i, row in it.rows("silver.t_quarantine", "id", "_upstream") if i == -2] == ["8"]
