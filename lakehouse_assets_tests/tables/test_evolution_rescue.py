"""Tests of `evolution: rescue`: what has no place in the table stays with its row, in `_rescued_data`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pyarrow as pa
import pytest

from lakehouse_assets.errors import TypeRefused
from lakehouse_assets_tests.tables import rescue_crash
from lakehouse_assets_tests.tables.shifting import Shifting, rescued

I32, I64, F64, TEXT = pa.int32(), pa.int64(), pa.float64(), pa.string()
RULES = "expectations: {expect_all: {some: id > 0}}"
BOTH_WAYS = pytest.mark.parametrize("bronze", ["", RULES], ids=["streamed", "judged"])


def landed(tmp_path, bronze="", **types):
    """A bronze table in mode `rescue` with the row (1, …) and these columns."""
    it = Shifting(tmp_path, "rescue", bronze)
    it.feed([{"id": 1, **dict.fromkeys(types)}], id=I64, **types)
    it.run()
    return it


# landed tables


@BOTH_WAYS
def test_a_new_field_is_rescued(tmp_path, bronze):
    """A field that the table does not have goes into `_rescued_data`, with where it came from; no column is added."""
    it = landed(tmp_path, bronze)
    it.feed([{"id": 2, "w": 2.5}, {"id": 3, "w": None}], id=I64, w=F64)
    (outcome,) = it.run()
    assert list(it.columns()) == ["id", "_rescued_data"]
    assert it.rows("bronze.t", "id", "_rescued_data") == [
        (1, None),
        (2, '{"w":"2.5","_source":"stream","_position":"1"}'),
        (3, None),
    ]
    assert (outcome.rows_in, outcome.valid, outcome.quarantined) == (2, 2, 0)
    assert [notice.code for notice in outcome.notices] == ["rescued"]


@BOTH_WAYS
def test_a_dropped_and_a_renamed_field_under_rescue(tmp_path, bronze):
    """A renamed column is NULL from then on, and its values are rescued under the new name."""
    it = landed(tmp_path, bronze, w=F64)
    it.feed([{"id": 2, "weight": 5.0}], id=I64, weight=F64)
    it.run()
    assert rescued(it.rows("bronze.t", "id", "w", "_rescued_data")) == [(1, None, None), (2, None, {"weight": "5.0"})]


@BOTH_WAYS
@pytest.mark.parametrize(
    ("column", "source", "fits", "stored", "misfit", "text"),
    [
        (I32, I64, 7, 7, 1 << 40, str(1 << 40)),
        (I64, F64, 7.0, 7, 7.5, "7.5"),
        (F64, I64, 7, 7.0, (1 << 53) + 1, str((1 << 53) + 1)),
        (I64, TEXT, "7", 7, "seven", "seven"),
        (I64, pa.list_(I64), None, None, [1, 2], "[1,2]"),
    ],
)
def test_a_wider_type_is_tried_value_by_value(tmp_path, bronze, column, source, fits, stored, misfit, text):
    """Values that fit the table's column are kept, the others rescued: nothing is cut or rounded."""
    it = landed(tmp_path, bronze, v=column)
    it.feed([{"id": 2, "v": fits}, {"id": 3, "v": misfit}], id=I64, v=source)
    (outcome,) = it.run()
    assert rescued(it.rows("bronze.t", "id", "v", "_rescued_data")) == [
        (1, None, None),
        (2, stored, None),
        (3, None, {"v": text}),
    ]
    assert it.columns()["v"] == column
    assert [(v.rule, v.broken) for v in outcome.verdicts if v.action == "cast"] == [("cast_failed:v", 1)]


@BOTH_WAYS
def test_a_struct_with_new_fields_keeps_what_fits_and_is_rescued_whole(tmp_path, bronze):
    """The fields that the table has are kept; the value as received, with the new ones, is beside it."""
    it = landed(tmp_path, bronze, at=pa.struct([("x", I64)]))
    it.feed([{"id": 2, "at": {"x": 1, "z": 3}}], id=I64, at=pa.struct([("x", I64), ("z", I64)]))
    it.run()
    assert rescued(it.rows("bronze.t", "id", "at", "_rescued_data"))[1] == (2, {"x": 1}, {"at": '{"x":1,"z":3}'})


def test_rules_judge_the_row_that_is_left(tmp_path):
    """A NULL that rescue left breaks a rule like any other; the quarantined row carries its rescued data."""
    rules = "is_quarantined: true, expectations: {expect_all: {v_given: v IS NOT NULL}}"
    it = landed(tmp_path, rules, v=I64)
    it.feed([{"id": 2, "v": "7"}, {"id": 3, "v": "x"}], id=I64, v=TEXT)
    it.run()
    assert it.rows("bronze.t", "id", "v") == [(2, 7)]
    found = rescued(it.rows("bronze.t_quarantine", "id", "_reasons", "_rescued_data"))
    assert found[1] == (3, ["v_given"], {"v": "x"})


def test_a_rule_can_ask_for_rows_without_rescued_data(tmp_path):
    """`_rescued_data IS NULL` is a rule like any other."""
    it = landed(tmp_path, "is_quarantined: true, expectations: {expect_all: {whole: _rescued_data IS NULL}}")
    it.feed([{"id": 2, "w": 1.0}, {"id": 3, "w": None}], id=I64, w=F64)
    it.run()
    assert it.rows("bronze.t", "id") == [(1,), (3,)]


def test_a_select_list_does_not_lose_what_was_rescued(tmp_path):
    """`select_expr` names the table's columns; `_rescued_data` comes with them."""
    it = Shifting(tmp_path, "rescue", "source_schema: 'id BIGINT, v STRING', select_expr: [id, CAST(v AS INT) AS n]")
    it.feed([{"id": 1, "v": "7", "w": 1.0}, {"id": 2, "v": "x", "w": None}], id=I64, v=TEXT, w=F64)
    it.run()
    assert rescued(it.rows("bronze.t", "id", "n", "_rescued_data")) == [(1, 7, {"w": "1.0"}), (2, None, {"n": "x"})]


def test_a_declared_column_is_added(tmp_path):
    """Under `rescue` a column is added by declaring it; from then on its values are no more rescued."""
    it = Shifting(tmp_path, "rescue", "source_schema: id BIGINT")
    it.feed([{"id": 1, "w": 1.0}], id=I64, w=F64)
    it.run()
    it.declare("rescue", "source_schema: 'id BIGINT, w DOUBLE'")
    it.feed([{"id": 2, "w": 2.0}], id=I64, w=F64)
    it.run()
    assert rescued(it.rows("bronze.t", "id", "w", "_rescued_data")) == [(1, None, {"w": "1.0"}), (2, 2.0, None)]


def test_the_mode_can_be_changed(tmp_path):
    """From `rescue` to `add_columns`: `_rescued_data` stays, and is NULL for rows that come then; and back."""
    it = landed(tmp_path)
    it.declare("add_columns")
    it.feed([{"id": 2, "w": 2.0}], id=I64, w=F64)
    it.run()
    it.declare("rescue")
    it.feed([{"id": 3, "w": 3.0, "x": 1}], id=I64, w=F64, x=I64)
    it.run()
    rows = rescued(it.rows("bronze.t", "id", "w", "_rescued_data"))
    assert rows == [(1, None, None), (2, 2.0, None), (3, 3.0, {"x": "1"})]


def test_a_field_under_a_name_that_rescue_needs_is_refused(tmp_path):
    """A source with a field `_rescued_data` of its own is refused by name: nothing would tell the two apart."""
    it = landed(tmp_path)
    it.feed([{"id": 2, "_Rescued_Data": "x"}], id=I64, _Rescued_Data=TEXT)
    with pytest.raises(TypeRefused, match="_Rescued_Data"):
        it.run()


def silver(tmp_path, fields="", mode="rescue", **types):
    """A silver table in mode `rescue` over a bronze stream with these columns."""
    it = Shifting(tmp_path, mode, "", fields)
    it.feed([{"id": 1, **dict.fromkeys(types)}], id=I64, **types)
    it.run()
    return it


def test_a_failed_cast_is_rescued(tmp_path):
    """The row stays with NULL in the column; the value as received and where it came from are in `_rescued_data`."""
    it = silver(tmp_path, "select_expr: [id, CAST(v AS INT) AS n, TRY_CAST(v AS INT) AS m]", v=TEXT)
    it.feed([{"id": 2, "v": "7"}, {"id": 3, "v": "x7"}], id=I64, v=TEXT)
    outcome = it.run()[-1]
    assert it.rows("silver.t", "id", "n", "_rescued_data") == [
        (1, None, None),
        (2, 7, None),
        (3, None, '{"n":"x7","_source":"stream","_position":"2"}'),
    ]
    assert not it.it.exists("silver.t_quarantine")
    assert (outcome.rows_in, outcome.valid, outcome.quarantined) == (2, 2, 0)
    assert [(v.rule, v.broken, v.rows) for v in outcome.verdicts] == [("cast_failed:n", 1, 2)]


def test_a_cast_over_several_columns_rescues_all_of_them(tmp_path):
    """A column made of several upstream columns is rescued as an object of them."""
    it = silver(tmp_path, "select_expr: [id, CAST(v AS INT) + CAST(w AS INT) AS n]", v=TEXT, w=TEXT)
    it.feed([{"id": 2, "v": "1", "w": "b"}], id=I64, v=TEXT, w=TEXT)
    it.run()
    assert rescued(it.rows("silver.t", "id", "n", "_rescued_data"))[1] == (2, None, {"n": {"v": "1", "w": "b"}})


def test_a_cast_of_a_field_rescues_the_struct(tmp_path):
    """What an item reads is told by its columns: of a field the whole struct is kept, as JSON text."""
    it = silver(tmp_path, "select_expr: [id, CAST(at.x AS INT) AS n]", at=pa.struct([("x", TEXT)]))
    it.feed([{"id": 2, "at": {"x": "b"}}], id=I64, at=pa.struct([("x", TEXT)]))
    it.run()
    assert rescued(it.rows("silver.t", "id", "n", "_rescued_data"))[1] == (2, None, {"n": '{"x":"b"}'})


def test_rows_that_do_not_say_where_they_came_from_name_the_table(tmp_path):
    """Where the upstream table has no `_source` and `_position`, `_source` is that table."""
    it = Shifting(tmp_path, "rescue", "select_expr: [id, v]", "select_expr: [id, CAST(v AS INT) AS n]")
    it.feed([{"id": 2, "v": "x"}], id=I64, v=TEXT)
    it.run()
    assert it.rows("silver.t", "_rescued_data") == [('{"n":"x","_source":"bronze.t"}',)]


def test_rules_still_judge_after_a_rescued_cast(tmp_path):
    """NULL is broken, rescued or not; `_upstream` of the quarantine is the upstream row as received."""
    fields = (
        "select_expr: [id, CAST(v AS INT) AS n], is_quarantined: true, expectations: {expect_all: {n_positive: n > 0}}"
    )
    it = silver(tmp_path, fields, v=TEXT)
    it.feed([{"id": 2, "v": "7"}, {"id": 3, "v": "x"}], id=I64, v=TEXT)
    it.run()
    assert it.rows("silver.t", "id", "n") == [(2, 7)]
    (_, found) = it.rows("silver.t_quarantine", "id", "_reasons", "_upstream", "_rescued_data")
    assert (found[0], found[1], found[2]["v"], json.loads(found[3])["n"]) == (3, ["n_positive"], "x", "x")


def test_a_new_upstream_column_is_rescued(tmp_path):
    """Without a select list an upstream column that the table lacks is rescued; a list that names it adds it."""
    it = silver(tmp_path)
    it.feed([{"id": 2, "w": 2.5}, {"id": 3, "w": None}], id=I64, w=F64)
    it.run()
    assert list(it.columns("silver.t")) == ["id", "_rescued_data"]
    assert rescued(it.rows("silver.t", "id", "_rescued_data")) == [(1, None), (2, {"w": "2.5"}), (3, None)]
    it.declare("rescue", silver="select_expr: [id, w]")
    it.feed([{"id": 4, "w": 4.5}], id=I64, w=F64)
    it.run()
    assert rescued(it.rows("silver.t", "id", "w", "_rescued_data"))[-1] == (4, 4.5, None)


def test_a_wider_upstream_type_is_tried_value_by_value(tmp_path):
    """BIGINT into an INT column under `rescue`: what fits is kept, what does not is rescued."""
    it = silver(tmp_path, v=I32)
    it.feed([{"id": 2, "v": 7}, {"id": 3, "v": 1 << 40}], id=I64, v=I64)
    it.run("bronze.t", rebuild=True)
    it.run("silver.t")
    rows = rescued(it.rows("silver.t", "id", "v", "_rescued_data"))
    assert rows[:2] == [(2, 7, None), (3, None, {"v": str(1 << 40)})]
    assert it.columns("silver.t")["v"] == I32


def test_what_the_upstream_rescued_stays_inside(tmp_path):
    """Rescued twice: what the upstream table rescued is kept within the table's own."""
    it = Shifting(tmp_path)
    yaml = """
delta_live_store:
  - {entity_id: b, source: stream, source_format: sqlite, destination: bronze.t, source_schema: "id BIGINT, v STRING", lakehouse: {evolution: rescue}}
  - {entity_id: s, source: bronze.t, source_format: dlt, destination: silver.t, select_expr: [id, CAST(v AS INT) AS n], lakehouse: {evolution: rescue}}
  - {entity_id: p, source: bronze.t, source_format: dlt, destination: silver.p}
"""
    it.yaml = lambda *_: yaml
    it.declare()
    it.feed([{"id": 1, "v": "x", "w": 1}, {"id": 2, "v": "2", "w": 2}], id=I64, v=TEXT, w=I64)
    it.run()
    ((_, both), (_, one)) = rescued(it.rows("silver.t", "id", "_rescued_data"))
    assert (both["n"], json.loads(both["_rescued_data"])["w"], one["w"]) == ("x", "1", "2")
    assert rescued(it.rows("silver.p", "id", "_rescued_data"))[1] == (2, {"w": "2"})


# exactly once


def dropped(root, judged, mode="rescue"):
    """A lake whose second file waits: values that do not fit, an unknown field, half a row."""
    (root / "drop").mkdir(parents=True)
    it = rescue_crash.lake(root, judged, mode)
    (root / "drop" / "a.csv").write_text("id,v\n1,1\n")
    it.run()
    (root / "drop" / "b.csv").write_text("id,v,w\n2,x,\n3,3,new\n-1,-1,\n4\n")
    return it


def killed(root, judged, mode="rescue"):
    """Run until the quarantine is written, in a process that is killed then."""
    how = [sys.executable, "-m", "lakehouse_assets_tests.tables.rescue_crash", str(root)]
    done = subprocess.run([*how, "judged" if judged else "streamed", mode], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("judged", [False, True], ids=["streamed", "judged"])
def test_a_kill_between_quarantine_and_target_changes_nothing(tmp_path, judged):
    """Invariant 1: the quarantine has the batch, the target does not: the replay ends as if nothing had happened."""
    whole, cut = dropped(tmp_path / "whole", judged), dropped(tmp_path / "cut", judged)
    whole.run()
    killed(tmp_path / "cut", judged)
    assert {batch for (batch,) in cut.rows("bronze.c_quarantine", "_batch")} == {2}
    assert len(cut.rows("bronze.c")) == 1
    cut.run()
    for table, columns in (("bronze.c", ()), ("bronze.c_quarantine", ("_reasons", "_raw"))):
        found = cut.rows(table, *columns, "id", "v", "_position", "_rescued_data")
        expected = whole.rows(table, *columns, "id", "v", "_position", "_rescued_data")
        assert rescued(found) == rescued(expected)
        assert found
    assert cut.run() == []


def test_the_plan_says_whether_values_are_rescued(tmp_path):
    """A batch whose quarantine was written is replayed in the mode of its plan: no row is in both tables, or in none."""
    dropped(tmp_path, False, "add_columns")
    killed(tmp_path, False, "add_columns")
    it = rescue_crash.lake(tmp_path, False, "rescue")
    it.run()
    assert it.rows("bronze.c", "id") == [(-1,), (1,), (3,)]
    assert sorted(reasons for (reasons,) in it.rows("bronze.c_quarantine", "_reasons")) == [
        ["cast_failed:v"],
        ["malformed_row"],
    ]
