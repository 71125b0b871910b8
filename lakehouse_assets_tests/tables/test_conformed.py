"""Tests of conformed tables and of their rules and quarantine."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from lakehouse_assets.errors import ExpectationFailed, IncarnationChanged, LakeError
from lakehouse_assets.sources.memory import MemorySource
from lakehouse_assets_tests.tables.lab import Lab

YAML = """
delta_live_store:
  - entity_id: b
    source: stream
    source_format: sqlite
    destination: bronze.t
    source_schema: id BIGINT, v STRING, w DOUBLE
  - entity_id: s
    source: bronze.t
    source_format: dlt
    destination: silver.t
    select_expr: {select}
    is_quarantined: {quarantined}
    expectations: {rules}
"""
SELECT = "[id, CAST(v AS INT) AS n, w]"


def lab(tmp_path, rules="{}", quarantined="false", select=SELECT):
    """A bronze stream and a silver table over it."""
    return Lab(tmp_path / "lake", YAML.format(select=select, rules=rules, quarantined=quarantined))


def row(number, v="1", w=1.0):
    """A bronze row."""
    return {"id": number, "v": v, "w": w}


def test_new_upstream_rows_are_selected_and_typed(tmp_path):
    """Each batch holds the upstream rows since the last one, selected and cast."""
    it = lab(tmp_path)
    it.feed("stream", [row(1, "7"), row(2, "8")])
    it.run()
    it.feed("stream", [row(3, "9")])
    it.run()
    assert it.rows("silver.t") == [(1, 7, 1.0), (2, 8, 1.0), (3, 9, 1.0)]


def test_a_second_run_writes_nothing(tmp_path):
    """Nothing new upstream: no commit anywhere, not even a plan."""
    it = lab(tmp_path)
    it.feed("stream", [row(1)])
    it.run()
    before = [it.version(t) for t in ("bronze.t", "silver.t", "control.batches")]
    assert it.run() == []
    assert [it.version(t) for t in ("bronze.t", "silver.t", "control.batches")] == before


def test_a_null_verdict_is_broken(tmp_path):
    """D43: a rule that evaluates to NULL sends the row to quarantine, never to neither table."""
    it = lab(tmp_path, "{expect_all: {w_positive: w > 0}}", "true")
    it.feed("stream", [row(1, w=1.0), row(2, w=None), row(3, w=-1.0)])
    it.run()
    assert it.rows("silver.t", "id") == [(1,)]
    assert it.rows("silver.t_quarantine", "id", "_reasons") == [(2, ["w_positive"]), (3, ["w_positive"])]


def test_rules_are_judged_as_written(tmp_path):
    """D44: a rule with OR is not torn apart by the rules beside it."""
    it = lab(tmp_path, "{expect_all: {a: id = 1 OR w > 5, b: w < 100}}", "true")
    it.feed("stream", [row(1, w=1.0), row(2, w=1.0), row(3, w=200.0), row(4, w=50.0)])
    it.run()
    assert it.rows("silver.t", "id") == [(1,), (4,)]
    assert it.rows("silver.t_quarantine", "id", "_reasons") == [(2, ["a"]), (3, ["b"])]


def test_a_quarantined_row_carries_all_its_reasons(tmp_path):
    """D45: rows that break `expect_all` or `expect_all_or_drop` go to quarantine with every reason."""
    rules = "{expect_all: {w_positive: w > 0}, expect_all_or_drop: {id_small: id < 10}}"
    it = lab(tmp_path, rules, "true")
    it.feed("stream", [row(1), row(20, w=-1.0), row(21)])
    outcome = it.run()[-1]
    assert it.rows("silver.t_quarantine", "id", "_reasons") == [(20, ["w_positive", "id_small"]), (21, ["id_small"])]
    assert (outcome.rows_in, outcome.valid, outcome.quarantined, outcome.dropped) == (3, 1, 2, 0)


def test_without_quarantine_expect_all_keeps_and_counts(tmp_path):
    """Without `is_quarantined`, `expect_all` keeps the row and counts it."""
    it = lab(tmp_path, "{expect_all: {w_positive: w > 0}}")
    it.feed("stream", [row(1), row(2, w=-1.0)])
    outcome = it.run()[-1]
    assert it.rows("silver.t", "id") == [(1,), (2,)]
    assert [(v.rule, v.broken) for v in outcome.verdicts if v.rule == "w_positive"] == [("w_positive", 1)]
    assert not it.exists("silver.t_quarantine")


def test_without_quarantine_or_drop_drops_and_counts(tmp_path):
    """Without `is_quarantined`, `expect_all_or_drop` drops the row and counts it by reason."""
    it = lab(tmp_path, "{expect_all_or_drop: {w_positive: w > 0}}")
    it.feed("stream", [row(1), row(2, w=-1.0)])
    outcome = it.run()[-1]
    assert it.rows("silver.t", "id") == [(1,)]
    assert (outcome.rows_in, outcome.valid, outcome.quarantined, outcome.dropped) == (2, 1, 0, 1)


def test_a_failed_cast_always_goes_to_quarantine(tmp_path):
    """A failed cast is never a silent NULL: the row goes to quarantine as received, whatever the entity says."""
    it = lab(tmp_path)
    it.feed("stream", [row(1, "7"), row(2, "x7"), row(3, None)])
    it.run()
    assert it.rows("silver.t") == [(1, 7, 1.0), (3, None, 1.0)]
    ((id_, reasons, received),) = it.rows("silver.t_quarantine", "id", "_reasons", "_upstream")
    assert (id_, reasons, received["v"]) == (2, ["cast_failed:n"], "x7")


def test_or_fail_stops_before_any_write(tmp_path):
    """`expect_all_or_fail`: nothing is written, and the error names the rule, the count and a row."""
    it = lab(tmp_path, "{expect_all: {w_positive: w > 0}, expect_all_or_fail: {id_small: id < 10}}", "true")
    it.feed("stream", [row(1, w=-1.0), row(99)])
    with pytest.raises(ExpectationFailed, match=r"1 of 2 rows broke the rule 'id_small', e.g. .*99"):
        it.run()
    assert not it.exists("silver.t")
    assert not it.exists("silver.t_quarantine")


def test_a_mended_rule_frees_the_batch_that_or_fail_stopped(tmp_path):
    """A plan that no table carries is made again with the mended rules, over the same range."""
    it = lab(tmp_path, "{expect_all_or_fail: {id_small: id < 10}}")
    it.feed("stream", [row(1), row(99)])
    with pytest.raises(ExpectationFailed):
        it.run()
    it.declare(YAML.format(select=SELECT, rules="{expect_all_or_fail: {id_small: id < 100}}", quarantined="false"))
    it.run()
    assert it.rows("silver.t", "id") == [(1,), (99,)]


def test_a_quarantine_without_rules_stays_an_ordinary_table(tmp_path):
    """D49: `is_quarantined` without rules makes an ordinary table and an empty quarantine."""
    it = lab(tmp_path, "{}", "true")
    it.feed("stream", [row(1)])
    it.run()
    assert it.rows("silver.t", "id") == [(1,)]
    assert it.rows("silver.t_quarantine") == []


def test_a_quarantine_can_be_read_downstream(tmp_path):
    """`_quarantine` tables are legal upstreams and are followed like others."""
    it = lab(tmp_path, "{expect_all: {w_positive: w > 0}}", "true")
    more = """
  - entity_id: a
    source: silver.t_quarantine
    source_format: dlt
    destination: gold.alerts
    select_expr: [id, _reasons AS reasons]
"""
    it.declare(YAML.format(select=SELECT, rules="{expect_all: {w_positive: w > 0}}", quarantined="true") + more)
    it.feed("stream", [row(1), row(2, w=-1.0)])
    it.run()
    it.feed("stream", [row(3, w=-5.0)])
    it.run()
    assert it.rows("gold.alerts") == [(2, ["w_positive"]), (3, ["w_positive"])]


def test_a_rebuilt_upstream_starts_the_table_over(tmp_path):
    """A commit upstream that is no append starts the conformed table over, quarantine included."""
    it = lab(tmp_path, "{expect_all: {w_positive: w > 0}}", "true")
    it.feed("stream", [row(1), row(2, w=-1.0)])
    it.run()
    it.run("bronze.t", rebuild=True)
    it.run()
    assert it.rows("silver.t", "id") == [(1,)]
    assert it.rows("silver.t_quarantine", "id") == [(2,)]


def test_a_recreated_upstream_is_refused(tmp_path):
    """An upstream table that was dropped and made again is another feed: refused, with the choice named."""
    import shutil

    it = lab(tmp_path)
    it.feed("stream", [row(1)])
    it.run()
    for gone in ("bronze", "control"):
        shutil.rmtree(tmp_path / "lake" / gone)
    with pytest.raises(LakeError, match="full-refresh silver.t"):
        it.run("bronze.t", "silver.t")


def test_an_upstream_with_another_id_is_named(tmp_path):
    """The incarnation of an upstream table is its Delta id."""
    import shutil

    it = lab(tmp_path)
    it.feed("stream", [row(1)])
    it.run()
    shutil.rmtree(tmp_path / "lake" / "bronze")
    it.run("bronze.t", rebuild=True)
    with pytest.raises(IncarnationChanged, match="bronze.t is not the one that was read before"):
        it.run("silver.t")


def test_a_missing_upstream_is_named(tmp_path):
    """A table whose upstream was never made says which one to run first."""
    it = lab(tmp_path)
    with pytest.raises(LakeError, match="run it first: lakehouse run bronze.t"):
        it.run("silver.t")


def test_a_new_upstream_column_is_added(tmp_path):
    """A new selected column is added; earlier rows hold NULL."""
    it = lab(tmp_path)
    it.feed("stream", [row(1)])
    it.run()
    it.declare(YAML.format(select="[id, CAST(v AS INT) AS n, w, w * 2 AS twice]", rules="{}", quarantined="false"))
    it.feed("stream", [row(2)])
    it.run()
    assert it.rows("silver.t") == [(1, 1, 1.0, None), (2, 1, 1.0, 2.0)]


def test_a_new_upstream_column_reaches_the_quarantine(tmp_path):
    """The quarantine holds upstream rows as received, also those from before and after a column came or went."""
    rules = "{expect_all: {w_positive: w > 0}}"
    it = lab(tmp_path, rules, "true")
    it.feed("stream", [row(1, w=-1.0)])
    it.run()
    wide = YAML.replace("w DOUBLE", "w DOUBLE, x STRING")
    it.declare(wide.format(select=SELECT, rules=rules, quarantined="true"))
    it.streams["stream"] = [b.append_column("x", pa.array(["old"] * b.num_rows)) for b in it.streams["stream"]]
    it.work = replace(it.work, open_source=lambda e: _Same(e, it.streams["stream"]))
    it.feed("stream", [row(2, w=-2.0) | {"x": "new"}])
    it.run()
    it.declare(YAML.format(select=SELECT, rules=rules, quarantined="true"))
    it.streams["stream"] = [b.drop_columns("x") for b in it.streams["stream"]]
    it.work = replace(it.work, open_source=lambda e: _Same(e, it.streams["stream"]))
    it.feed("stream", [row(3, w=-3.0)])
    it.run()
    found = [(u["id"], u["x"]) for (u,) in it.rows("silver.t_quarantine", "_upstream")]
    assert sorted(found) == [(1, None), (2, "new"), (3, None)]


class _Same(MemorySource):
    """A stream that stays the same although its rows got a column."""

    def verify(self, position, recorded):
        """Nothing to say."""
        return []


TEXTS = """
delta_live_store:
  - {{entity_id: b, source: stream, source_format: sqlite, destination: bronze.t, source_schema: "id BIGINT, a STRING, b STRING, n STRING"}}
  - entity_id: s
    source: bronze.t
    source_format: dlt
    destination: silver.t
    is_quarantined: true
    select_expr:
      - id
      - CAST(n AS INT) AS n
      - CASE WHEN id < 10 THEN CAST(from_json(a, 'x STRING').x AS INT) END AS ax
      - from_json(b, 'y STRING').y AS b_y
      - transform(array(b), one -> from_json(concat(one, substring(b, 1, 0)), 'y STRING').y)[0] AS again
    expectations:
      expect_all: {{some_x: ax > 0, some_y: b_y IS NOT NULL, some_n: n > 0, some_id: id > 0}}
      {more}
"""


@pytest.mark.parametrize(
    ("row", "reasons"),
    [
        ({"id": 1, "a": "{", "b": '{"y":"1"}', "n": "1"}, ["malformed_json:a"]),
        ({"id": 1, "a": "{", "b": "[", "n": "1"}, ["malformed_json:a", "malformed_json:b"]),
        ({"id": 1, "a": '{"x":"u"}', "b": "{}", "n": "1"}, ["cast_failed:ax", "some_x", "some_y"]),
        ({"id": -1, "a": '{"x":"1"}', "b": "[", "n": "-1"}, ["malformed_json:b", "some_n", "some_id"]),
        ({"id": 1, "a": "{", "b": '{"y":"1"}', "n": "v"}, ["malformed_json:a", "cast_failed:n", "some_n"]),
        ({"id": 11, "a": "{", "b": '{"y":"1"}', "n": "1"}, ["some_x"]),
    ],
    ids=["one", "two", "no text", "other rules", "other casts", "not reached"],
)
def test_of_a_text_that_is_no_json_that_is_the_reason(tmp_path, row, reasons):
    """In place of what follows from it alone: its columns, and the rules that look at these; once for each text."""
    it = Lab(tmp_path, TEXTS.format(more=""))
    it.feed("stream", [row])
    *_, outcome = it.run()
    assert it.rows("silver.t_quarantine", "_reasons") == [(reasons,)]
    assert {v.rule: v.broken for v in outcome.verdicts if v.broken} == dict.fromkeys(reasons, 1)


def test_a_text_that_is_no_json_stops_where_a_rule_says_so(tmp_path):
    """`expect_all_or_fail` holds, whatever the reason is."""
    it = Lab(tmp_path, TEXTS.format(more="expect_all_or_fail: {known: b_y IS NOT NULL}"))
    it.feed("stream", [{"id": 1, "a": '{"x":"1"}', "b": "[", "n": "1"}])
    with pytest.raises(ExpectationFailed, match="known"):
        it.run()
