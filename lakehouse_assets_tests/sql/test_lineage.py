"""Column lineage: which upstream columns are behind each column."""

from __future__ import annotations

import pyarrow as pa

from lakehouse_assets.sql.lineage import column_lineage

SCHEMAS = {
    "silver.t": pa.schema([("k", pa.int32()), ("V", pa.int32()), ("arr", pa.list_(pa.int32()))]),
    "u": pa.schema([("k", pa.int32()), ("w", pa.int32())]),
}


def test_a_column_is_traced_through_ctes_and_joins():
    """Aggregates, aliases, CTEs and joins are seen through; names come as the tables have them."""
    sql = (
        "WITH a AS (SELECT k, sum(v) AS s FROM silver.t GROUP BY k) "
        "SELECT a.k, s / u.w AS r, u.*, e FROM a JOIN u ON a.k = u.k JOIN silver.t AS t ON t.k = u.k "
        "LATERAL VIEW explode(t.arr) x AS e"
    )
    found = column_lineage(sql, SCHEMAS)
    assert found["r"] == [("silver.t", "V"), ("u", "w")]
    assert found["w"] == [("u", "w")]
    assert found["e"] == [("silver.t", "arr")]


def test_both_sides_of_a_union_count():
    """A column of a UNION comes from both sides."""
    found = column_lineage("SELECT k, v FROM silver.t UNION ALL SELECT w, k FROM u", SCHEMAS)
    assert found["k"] == [("silver.t", "k"), ("u", "w")]


def test_a_constant_comes_from_nowhere():
    """A column without upstream has no lineage."""
    assert column_lineage("SELECT count(*) AS n, 1 AS one FROM u", SCHEMAS) == {"n": [], "one": []}


def test_what_cannot_be_traced_is_left_out():
    """Unknown tables, unknown columns and text that is no SQL give less, never an error."""
    assert column_lineage("SELECT a FROM nowhere", {}) == {"a": []}
    assert column_lineage("SELECT FROM", SCHEMAS) == {}
    assert column_lineage("SELECT nope FROM u", SCHEMAS)["nope"] == []
