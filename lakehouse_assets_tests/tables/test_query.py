"""Tests of query tables and views: every refresh equals a full one."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse_assets.errors import ExpectationFailed
from lakehouse_assets.tables import query
from lakehouse_assets_tests.tables.lab import Lab

FACTS = """
delta_live_store:
  - {entity_id: b, source: stream, source_format: sqlite, destination: bronze.t, source_schema: "k STRING, d DATE, v BIGINT"}
"""
BY_KEY = (
    FACTS
    + """
  - entity_id: q
    source: "SELECT k, count(*) AS n, min(v) AS low FROM bronze.t GROUP BY k"
    source_format: sql
    destination: gold.q
    primary_keys: [k]
    lakehouse: {refresh_key: [k]}
  - entity_id: r
    source: "SELECT k, n * 10 AS tens FROM gold.q WHERE n < 3"
    source_format: sql
    destination: gold.r
    primary_keys: [k]
    lakehouse: {refresh_key: [k]}
"""
)
BY_DAY = (
    FACTS
    + """
  - entity_id: q
    source: "SELECT d, count(*) AS n, max(v) AS high FROM bronze.t GROUP BY d"
    source_format: sql
    destination: gold.q
    primary_keys: [d]
    partition_cols: [d]
    lakehouse: {refresh_key: [d]}
"""
)


def batches(rows):
    """Bronze rows from (k, day, v)."""
    return [{"k": k, "d": dt.date(2026, 1, day) if day else None, "v": v} for k, day, v in rows]


def test_a_refresh_by_key_writes_only_what_differs(tmp_path):
    """Only the touched keys are recomputed, in one commit with deletes and inserts."""
    it = Lab(tmp_path / "lake", BY_KEY)
    it.feed("stream", batches([("a", 1, 1), ("b", 1, 2), ("a", 1, 3)]))
    it.run()
    assert it.rows("gold.q") == [("a", 2, 1), ("b", 1, 2)]
    it.feed("stream", batches([("a", 2, 0), (None, 2, 9)]))
    (_, outcome, _) = it.run()
    commit = next(iter(outcome.commits.values()))
    assert outcome.plan.mode == "keys"
    assert (commit.rows_added, commit.rows_updated, commit.rows_removed) == (1, 1, 0)
    assert it.rows("gold.q") == [("a", 3, 0), ("b", 1, 2), (None, 1, 9)]


def test_a_refresh_by_key_writes_a_table_anew_of_which_most_differs(tmp_path):
    """A new value beside every row of most keys: the table is written anew, the rows of other keys stay, and none is lost."""
    catalog = (
        FACTS
        + """
  - entity_id: q
    source: "SELECT k, d, v, max(v) OVER (PARTITION BY k) AS high FROM bronze.t"
    source_format: sql
    destination: gold.q
    primary_keys: [k, v]
    lakehouse: {refresh_key: [k]}
"""
    )
    it = Lab(tmp_path / "lake", catalog)
    keys = "abcdefghijkl"
    it.feed("stream", batches([(key, 1, v) for v in range(query.MANY_ROWS // 10) for key in keys]))
    it.run()
    it.feed("stream", batches([(key, 2, query.MANY_ROWS) for key in keys[1:]]))
    (_, outcome) = it.run()
    commit = next(iter(outcome.commits.values()))
    before, rows = query.MANY_ROWS // 10 * len(keys), it.rows("gold.q")
    assert outcome.plan.mode == "keys"
    assert (commit.rows_removed, commit.rows_added) == (before, before + len(keys) - 1)
    assert len(rows) == before + len(keys) - 1
    assert {(row[0], row[-1]) for row in rows} == {("a", query.MANY_ROWS // 10 - 1)} | {
        (key, query.MANY_ROWS) for key in keys[1:]
    }


def test_a_key_that_leaves_the_result_is_deleted(tmp_path):
    """A key whose rows no longer pass the query disappears from the table."""
    it = Lab(tmp_path / "lake", BY_KEY)
    it.feed("stream", batches([("a", 1, 1), ("a", 1, 1), ("b", 1, 1)]))
    it.run()
    assert it.rows("gold.r") == [("a", 20), ("b", 10)]
    it.feed("stream", batches([("a", 1, 1)]))
    it.run()
    assert it.rows("gold.r") == [("b", 10)]


def test_a_refresh_by_partition_replaces_the_touched_ones(tmp_path):
    """Partitions that moved are replaced, the others stay; a NULL partition is one of them."""
    it = Lab(tmp_path / "lake", BY_DAY)
    it.feed("stream", batches([("a", 1, 1), ("a", 2, 2), ("a", None, 3)]))
    it.run()
    it.feed("stream", batches([("a", 2, 7), ("a", None, 8), ("a", 3, 9)]))
    (_, outcome) = it.run()
    assert outcome.plan.mode == "partitions"
    assert sorted(row[1:] for row in it.rows("gold.q")) == [(1, 1), (1, 9), (2, 7), (2, 8)]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(
        st.lists(
            st.tuples(st.sampled_from(["a", "b", "ü", None]), st.sampled_from([1, 2, None]), st.integers(-2, 2)),
            max_size=5,
        ),
        min_size=2,
        max_size=4,
    ),
    yaml=st.sampled_from([BY_KEY, BY_DAY]),
)
@pytest.mark.slow
def test_every_refresh_equals_a_full_one(tmp_path_factory, data, yaml):
    """By key and by partition: after any batches the tables equal those of one full refresh."""
    step, whole = (Lab(tmp_path_factory.mktemp("lake"), yaml) for _ in range(2))
    for part in data:
        step.feed("stream", batches(part))
        step.run()
        whole.feed("stream", batches(part))
    whole.run()
    for table in step.catalog.order()[1:]:
        assert step.rows(str(table)) == whole.rows(str(table))


def test_nothing_new_upstream_writes_nothing(tmp_path):
    """A second run finds nothing to do."""
    it = Lab(tmp_path / "lake", BY_KEY)
    it.feed("stream", batches([("a", 1, 1)]))
    it.run()
    assert it.run() == []


def test_a_changed_query_refreshes_fully(tmp_path):
    """Another text is another result: the table is refreshed whole, its schema too."""
    it = Lab(tmp_path / "lake", BY_KEY)
    it.feed("stream", batches([("a", 1, 1)]))
    it.run()
    it.declare(BY_KEY.replace("min(v) AS low", "min(v) AS low, max(v) AS high"))
    it.run()
    assert it.rows("gold.q", "k", "n", "low", "high") == [("a", 1, 1, 1)]


def test_a_key_with_two_rows_is_refused(tmp_path):
    """Primary keys that are not unique stop the table before it is written."""
    it = Lab(tmp_path / "lake", BY_KEY.replace('GROUP BY k"', 'GROUP BY k, v"'))
    it.feed("stream", batches([("a", 1, 1), ("a", 1, 2)]))
    with pytest.raises(ExpectationFailed, match="several rows for one primary key"):
        it.run()
    assert it.rows("gold.q") == []


def test_a_view_is_expanded_where_it_is_used(tmp_path):
    """D48: a view stores nothing, and what reads it computes over what it reads."""
    yaml = (
        FACTS
        + """
  - {entity_id: v, source: bronze.t, source_format: dlt, destination: silver.v, destination_type: view, select_expr: ["k", "v + 1 AS w"]}
  - {entity_id: q, source: "SELECT x.k, sum(x.w) AS s FROM silver.v AS x GROUP BY x.k", source_format: sql, destination: gold.q}
"""
    )
    it = Lab(tmp_path / "lake", yaml)
    it.feed("stream", batches([("a", 1, 1), ("a", 1, 2)]))
    it.run()
    assert not it.exists("silver.v")
    assert it.rows("gold.q") == [("a", 5)]


def test_run_date_is_the_plans(tmp_path):
    """`:run_date` is the plan's day; when the day changes, a table that uses it refreshes fully."""
    from dataclasses import replace
    from datetime import timedelta

    from lakehouse_assets_tests.tables.lab import NOW

    yaml = (
        FACTS
        + """
  - {entity_id: q, source: "SELECT k, :run_date AS day FROM bronze.t", source_format: sql, destination: gold.q}
"""
    )
    it = Lab(tmp_path / "lake", yaml)
    it.feed("stream", batches([("a", 1, 1)]))
    it.run()
    assert [str(day) for _, day in it.rows("gold.q")] == ["2026-03-01"]
    assert it.run() == []
    it.work = replace(it.work, clock=lambda: NOW + timedelta(days=1))
    it.run()
    assert [str(day) for _, day in it.rows("gold.q")] == ["2026-03-02"]


def test_a_conformed_table_over_a_view_follows_what_the_view_reads(tmp_path):
    """A row transform over a view is made again whenever a table behind the view moved."""
    yaml = (
        FACTS
        + """
  - {entity_id: v, source: "SELECT k, sum(v) AS s FROM bronze.t GROUP BY k", source_format: sql, destination: silver.v, destination_type: view}
  - {entity_id: c, source: silver.v, source_format: dlt, destination: gold.c, select_expr: ["k", "s * 2 AS twice"]}
"""
    )
    it = Lab(tmp_path / "lake", yaml)
    it.feed("stream", batches([("a", 1, 1)]))
    it.run()
    it.feed("stream", batches([("a", 1, 2), ("b", 1, 5)]))
    it.run()
    assert it.rows("gold.c") == [("a", 6), ("b", 10)]
    assert it.run() == []


def test_a_delta_table_that_stands_elsewhere_is_followed(tmp_path):
    """`source_format: delta` with a path reads a table that somebody else writes, version by version."""
    import deltalake
    import pyarrow as pa

    elsewhere = str(tmp_path / "elsewhere")
    deltalake.write_deltalake(elsewhere, pa.table({"k": ["a"]}))
    yaml = f"""
delta_live_store:
  - {{entity_id: d, source: {elsewhere}, source_format: delta, destination: silver.d, select_expr: [upper(k) AS k]}}
"""
    it = Lab(tmp_path / "lake", yaml)
    it.run()
    deltalake.write_deltalake(elsewhere, pa.table({"k": ["b"]}), mode="append")
    it.run()
    assert it.rows("silver.d") == [("A",), ("B",)]
    assert it.run() == []


def test_a_refresh_key_without_primary_keys_refreshes_in_full(tmp_path):
    """Rows that have no keys cannot be put in the places of others: the table is made anew each time."""
    lab = Lab(
        tmp_path,
        """
        delta_live_store:
          - {entity_id: b, source: one, source_format: sqlite, destination: bronze.t, source_schema: "k STRING, v INT"}
          - {entity_id: q, source: "SELECT k, count(*) AS n FROM bronze.t GROUP BY k", source_format: sql, destination: gold.q, lakehouse: {refresh_key: [k]}}
        """,
    )
    for n in range(3):
        lab.feed("one", [{"k": "a", "v": n}, {"k": f"b{n}", "v": n}])
        (outcome,) = [o for o in lab.run() if o.plan.feed.destination == "gold.q"]
        assert outcome.plan.mode == "replace"
    assert lab.rows("gold.q") == [("a", 3), ("b0", 1), ("b1", 1), ("b2", 1)]


def test_partitions_of_any_text_are_followed(tmp_path):
    """A query that reads a table partitioned by texts with marks in them follows every change of it."""
    lab = Lab(
        tmp_path,
        """
        delta_live_store:
          - {entity_id: b, source: one, source_format: sqlite, destination: bronze.t, source_schema: "k STRING, v INT"}
          - {entity_id: q, source: "SELECT k, count(*) AS n FROM bronze.t GROUP BY k", source_format: sql, destination: gold.q, partition_cols: [k], lakehouse: {refresh_key: [k]}}
          - {entity_id: r, source: "SELECT k, max(n) AS n FROM gold.q GROUP BY k", source_format: sql, destination: gold.r, primary_keys: [k], lakehouse: {refresh_key: [k]}}
        """,
    )
    texts = ["a b", "a:b", "a/b", "a+b", "ü", "plain", "50%"]
    for n in range(3):
        lab.feed("one", [{"k": text, "v": n} for text in texts])
        lab.run()
    assert lab.rows("gold.r") == sorted([(text, 3) for text in texts], key=repr)
