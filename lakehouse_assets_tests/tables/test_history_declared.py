"""Tests of what a table with history is declared with: its columns, their values, and drift between runs."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import deltalake
import pyarrow as pa
import pytest

from lakehouse_assets.errors import ForeignCommit, ForeignTable, LakehouseError
from lakehouse_assets_tests.tables.history_cases import TABLES, shown
from lakehouse_assets_tests.tables.history_lab import (
    ALL,
    PERIOD,
    REBUILD,
    expected,
    history,
    lab,
    of,
    up,
)
from lakehouse_assets_tests.tables.history_lab import embedded as embedded  # a fixture
from lakehouse_assets_tests.tables.history_lab import engine as engine  # a fixture
from lakehouse_assets_tests.tables.history_model import Declaration, answer, plain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(
    ("given", "columns"),
    [
        ({"column_list": ["k", "b"]}, ["k", "b"]),
        ({"except_column_list": ["id", "ts", "op", "a"]}, ["k", "b"]),
        ({"except_column_list": None}, ["id", "k", "ts", "op", "a", "b"]),
        ({"select": ["upper(a) AS name", "k", "ts", "op"]}, ["name", "k", "ts", "op"]),
    ],
    ids=["list", "except", "all", "select"],
)
def test_columns_of_the_target(tmp_path, embedded, given, columns):
    """Spec changes 5.2, D47: `column_list`, `except_column_list` and `select_expr` decide; periods come last."""
    it = lab(tmp_path, embedded, history(**given))
    it.batch(*of("k", up(5, "x", 1)))
    assert it.columns_of("silver.t") == [*columns, "__START_AT", "__END_AT"]
    assert "_upstream" in it.columns_of("silver.t__changes")


def test_a_renamed_column_of_history_leaves_the_name_free(tmp_path, embedded):
    """What the columns of history are called is for the entity to say."""
    names = {"start_at": "valid_from", "end_at": "valid_to"}
    it = lab(tmp_path, embedded, history(lakehouse={"history": names}))
    it.batch(*of("k", up(5, "x", 1)))
    assert it.columns_of("silver.t") == ["k", "a", "b", "valid_from", "valid_to"]


NESTED = "id BIGINT, k STRING, ts BIGINT, op STRING, a DOUBLE, s STRUCT<x: INT, y: STRING>, l ARRAY<INT>, m MAP<STRING, INT>, d DECIMAL(10, 2), at TIMESTAMP, raw BINARY"
NOON = datetime.fromisoformat("2024-01-01T12:00:00+00:00")


def nested(ts, a=1.0, s=None, ls=None, m=None):
    """An event with values of every kind."""
    more = {"op": None, "d": None, "at": NOON, "raw": b"\x00"}
    return {"k": "k", "ts": ts, "a": a, "s": s, "l": ls, "m": m, **more}


def test_values_are_compared_null_safely(tmp_path, engine):
    """Spec changes 5.5: NaN is NaN, 0.0 is -0.0, a NULL struct is no struct of NULLs; an untracked map is fine."""
    tracked = ["a", "s", "l", "d", "at", "raw"]
    it = lab(
        tmp_path,
        engine,
        history(track_history_column_list=tracked, except_column_list=["id", "op", "ts"]),
        columns=NESTED,
    )
    nan, nulls = float("nan"), {"x": None, "y": None}
    rows = [
        nested(1, nan), nested(2, nan), nested(3, 0.0), nested(4, -0.0), nested(5, 0.0, nulls), nested(6, 0.0, nulls),
        nested(7, 0.0, None), nested(8, 0.0, None, []), nested(9, 0.0, None, [None]), nested(10, 0.0, None, [None]),
        nested(11, 0.0, {"x": 1, "y": "z"}, [1, 2], {"p": 1}), nested(12, 0.0, {"x": 1, "y": "z"}, [1, 2], {"p": 2}),
    ]  # fmt: skip
    it.batch(*rows[::2])
    it.batch(*rows[1::2])
    assert it.found("silver.t", "__START_AT", "__END_AT") == sorted(
        [(1, 3), (3, 5), (5, 7), (7, 8), (8, 9), (9, 11), (11, None)], key=repr
    )
    (last,) = [row for row in it.rows("silver.t", "__END_AT", "s", "l", "m") if row[0] is None]
    assert [plain(value) for value in last[1:3]] == [(("x", 1), ("y", "z")), (1, 2)]
    assert dict(last[3]) == {"p": 2}


def test_copies_with_odd_values_are_one(tmp_path, engine):
    """Two events that are equal null-safely are copies, not ambiguous."""
    it = lab(tmp_path, engine, history(except_column_list=["id", "op", "ts", "m"]), columns=NESTED)
    rows = [nested(1, float("nan"), {"x": None, "y": "z"}, [None, 1]), nested(2, 0.0, None, [])]
    it.batch(*rows)
    it.batch(*rows, nested(2, -0.0, None, []))
    assert it.found("silver.t", "a", "__START_AT", "__END_AT") == [("NaN", 1, 2), (0.0, 2, None)]
    assert it.found("silver.t_quarantine", "id") == []


def test_zero_is_one_key(tmp_path, engine):
    """Spec changes 5.5: 0.0 and -0.0 are one key, too."""
    it = lab(tmp_path, engine, columns="id BIGINT, k DOUBLE, ts BIGINT, op STRING, a STRING")
    rows = [{"k": k, "ts": ts, "op": None, "a": a} for k, ts, a in ((0.0, 1, "x"), (-0.0, 2, "y"), (1.0, 1, "z"))]
    it.batch(*rows[:1])
    it.batch(*rows[1:])
    model = answer(Declaration(("k", "a")), rows)
    assert it.found("silver.t", *PERIOD) == expected(model.rows, *PERIOD)


def test_a_tracked_map_is_refused(tmp_path, engine):
    """Spec changes 5.5, D14: the entries of a map have no order, so maps are not compared."""
    it = lab(tmp_path, engine, columns=NESTED)
    it.feed("stream", [nested(1)])
    with pytest.raises(LakehouseError, match="(?i)map"):
        it.run()
    assert it.versions(*ALL) == [-1, -1, -1]


DRIFTS = {
    "keys": (history(), history(keys=["k", "b"]), "(?i)key"),
    "scd type": (history(), history(stored_as_scd_type=1), "(?i)type|scd"),
    "sequence type": (history(), history(sequence_by="CAST(ts AS STRING)"), "(?i)sequence"),
    "sequence of several": (history(), history(sequence_by="struct(ts, b)"), "(?i)sequence"),
    "tracked": (history(), history(track_history_column_list=["a"]), "(?i)track"),
    "tracked less": (history(track_history_column_list=["a"]), history(track_history_column_list=["b"]), "(?i)track"),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_drift_is_refused_with_the_remedy(tmp_path, embedded, name):
    """Spec changes 5.2: keys, sequence type, type and tracked columns stay; a rebuild from the log takes the new ones."""
    before, after, message = DRIFTS[name]
    it = lab(tmp_path, embedded, before)
    it.batch(*of("k", up(5, "x", 1), up(7, "y", 2)))
    stands, versions = it.rows("silver.t"), it.versions(*ALL)
    it.redeclare(after)
    it.feed("stream", of("k", up(9, "z", 3)))
    with pytest.raises(LakehouseError, match=message) as refused:
        it.run()
    assert "lakehouse run --full-refresh silver.t" in str(refused.value)
    assert (it.rows("silver.t"), it.versions(*ALL)) == (stands, versions)
    it.run("silver.t", rebuild=True)
    assert "z" in {a for (a,) in it.found("silver.t", "a")}
    assert it.run() == []


def test_drift_is_refused_on_either_engine(tmp_path, engine):
    """Spec changes 5.2: the type of the sequence is told by the engine."""
    it = lab(tmp_path, engine)
    it.batch(*of("k", up(5, "x", 1)))
    it.redeclare(history(sequence_by="CAST(ts AS DOUBLE)"))
    it.feed("stream", of("k", up(9, "z", 3)))
    with pytest.raises(LakehouseError, match=REBUILD):
        it.run()
    it.run("silver.t", rebuild=True)
    assert it.found("silver.t", *PERIOD) == [("k", "x", 5.0, 9.0), ("k", "z", 9.0, None)]


SAME = {
    "default and explicit": (history(), history(track_history_column_list=["a", "b"])),
    "another order and case": (
        history(track_history_column_list=["a", "b"]),
        history(track_history_column_list=["B", "A"]),
    ),
    "all but": (history(track_history_column_list=["a"]), history(track_history_except_column_list=["b"])),
    "another expression of the type": (history(), history(sequence_by="ts + 0")),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_no_drift(tmp_path, embedded, name):
    """Spec changes 5.2: the same set of tracked columns, however it is said; another sequence of the same type."""
    before, after = SAME[name]
    it = lab(tmp_path, embedded, before)
    it.batch(*of("k", up(5, "x", 1)))
    it.redeclare(after)
    it.batch(*of("k", up(9, "y", 1)))
    assert it.found("silver.t", *PERIOD) == [("k", "x", 5, 9), ("k", "y", 9, None)]


WIDE = "id BIGINT, k STRING, ts BIGINT, op STRING, a STRING, b BIGINT, c STRING"


def wide(c, ts=9):
    """An event with a new column."""
    return {"k": "k", "c": c, **up(ts, "y", 2)}


@pytest.mark.parametrize("name", ["one", "pinned"])
def test_a_new_column_is_added(tmp_path, engine, name):
    """Spec changes 5.2, 5.5: type 1, and type 2 with tracked columns named: added, NULL in earlier rows."""
    entity = history(**TABLES[name][0])
    it = lab(tmp_path, engine, entity)
    it.batch(*of("k", up(5, "x", 1)), *of("l", up(5, "x", 1)))
    it.redeclare(entity, columns=WIDE)
    it.batch(wide("new"))
    if name == "one":
        assert it.found("silver.t", "k", "a", "c") == [("k", "y", "new"), ("l", "x", None)]
    else:
        want = [("k", "x", 5, 9, None), ("k", "y", 9, None, "new"), ("l", "x", 5, None, None)]
        assert it.found("silver.t", *PERIOD, "c") == want
    rows = it.found("silver.t")
    it.run("silver.t", rebuild=True)
    assert Counter(map(frozenset, it.found("silver.t"))) == Counter(map(frozenset, rows))


def test_a_new_column_is_refused_where_all_are_tracked(tmp_path, embedded):
    """Spec changes 5.2: with default tracking a new column would change what a version is; nothing is written."""
    it = lab(tmp_path, embedded)
    it.batch(*of("k", up(5, "x", 1)))
    before = it.versions(*ALL)
    it.redeclare(history(), columns=WIDE)
    it.feed("stream", [wide("new")])
    with pytest.raises(LakehouseError, match=REBUILD):
        it.run()
    assert it.versions(*ALL) == before
    it.run("silver.t", rebuild=True)
    assert it.found("silver.t", *PERIOD, "c") == [("k", "x", 5, 9, None), ("k", "y", 9, None, "new")]


@pytest.mark.parametrize("name", ["one", "pinned", "nulls_pinned", "nulls_one"])
def test_a_column_that_is_missing(tmp_path, embedded, name):
    """Spec changes 5.2, 5.5: what comes without a column has NULL there, which is "not said" only if NULLs are ignored."""
    given, model = TABLES[name]
    it = lab(tmp_path, embedded, history(**given))
    it.batch(*of("k", up(5, "x", 1)))
    columns = ["id", "k", "ts", "op", "a"]
    it.redeclare(history(**given, select=columns, except_column_list=["id", "op", "ts"]))
    it.batch(*of("k", up(9, "y", 2)))
    rows = answer(model, of("k", up(5, "x", 1), up(9, "y", None))).rows
    assert it.found("silver.t", *shown(name)) == expected(rows, *shown(name))


def retyped(kind):
    """A table whose column `b` has another type."""
    return history(
        select=["id", "k", "ts", "op", "a", f"CAST(b AS {kind}) AS b"], except_column_list=["id", "op", "ts"]
    )


@pytest.mark.parametrize("kind", ["STRING", "DOUBLE", "DECIMAL(30, 2)"])
def test_a_column_of_another_type_is_refused(tmp_path, embedded, kind):
    """Spec changes 5.2: a column that became wider, or another one altogether, is refused; nothing is written."""
    it = lab(tmp_path, embedded, retyped("BIGINT"))
    it.batch(*of("k", up(5, "x", 1)))
    before = it.versions(*ALL)
    it.redeclare(retyped(kind))
    it.feed("stream", of("k", up(9, "y", 2)))
    with pytest.raises(LakehouseError, match="b"):
        it.run()
    assert it.versions(*ALL) == before


def test_a_column_that_became_narrower_fits(tmp_path, embedded):
    """Spec changes 5.2, decided: as in every table, an integer stands in a wider one, whose type stays."""
    it = lab(tmp_path, embedded, retyped("BIGINT"))
    it.batch(*of("k", up(5, "x", 2**40)))
    it.redeclare(retyped("INT"))
    it.batch(*of("k", up(9, "y", 2)))
    assert it.found("silver.t", *PERIOD, "b") == [("k", "x", 5, 9, 2**40), ("k", "y", 9, None, 2)]


def test_a_nested_field_is_added(tmp_path, engine):
    """Spec changes 5.2: a struct that gains a field: added, NULL in earlier rows."""
    first = "id BIGINT, k STRING, ts BIGINT, op STRING, a STRING, s STRUCT<x: INT>"
    entity = history(track_history_column_list=["a"])
    it = lab(tmp_path, engine, entity, columns=first)
    it.batch({"k": "k", "ts": 1, "op": None, "a": "x", "s": {"x": 1}})
    it.redeclare(entity, columns=first.replace("x: INT", "x: INT, y: STRING"))
    it.batch({"k": "k", "ts": 2, "op": None, "a": "y", "s": {"x": 2, "y": "z"}})
    assert it.found("silver.t", "a", "s") == [("x", (("x", 1), ("y", None))), ("y", (("x", 2), ("y", "z")))]


def test_nothing_new_commits_nothing(tmp_path, engine):
    """A run that finds nothing new writes no table, no plan."""
    it = lab(tmp_path, engine)
    it.batch(*of("k", up(5, "x")))
    before = it.versions(*ALL, "control.batches")
    assert it.run() == []
    assert it.versions(*ALL, "control.batches") == before


def test_foreign_rows_are_refused(tmp_path, embedded):
    """Spec changes 5.2, decided: a table that this project did not make is not taken over, and a changed one is told."""
    path = str(tmp_path / "lake" / "silver" / "t")
    embedded_rows = pa.table({"k": ["k"], "a": ["x"], "__START_AT": [1], "__END_AT": pa.array([None], pa.int64())})
    deltalake.write_deltalake(path, embedded_rows)
    it = lab(tmp_path, embedded)
    it.feed("stream", of("k", up(5, "x")))
    with pytest.raises(ForeignTable):
        it.run()


def test_a_target_that_others_changed_is_told(tmp_path, embedded):
    """Rows that somebody else wrote into the target stop the next run."""
    it = lab(tmp_path, embedded)
    it.batch(*of("k", up(5, "x")))
    deltalake.DeltaTable(str(tmp_path / "lake" / "silver" / "t")).delete()
    it.feed("stream", of("k", up(9, "y")))
    with pytest.raises(ForeignCommit):
        it.run()
    it.run("silver.t", rebuild=True)
    assert it.found("silver.t", *PERIOD) == [("k", "x", 5, 9), ("k", "y", 9, None)]
