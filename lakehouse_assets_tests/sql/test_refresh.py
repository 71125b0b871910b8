"""The proof behind a refresh by key: what it proves is true on data, and what it cannot prove it refuses."""

from __future__ import annotations

from collections import Counter
from functools import cache

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lakehouse_assets.errors import SqlError
from lakehouse_assets.sql.dialect import to_duckdb
from lakehouse_assets.sql.refresh import refresh_fault

COLUMNS = pa.schema([("k", pa.int32()), ("v", pa.int32()), ("w", pa.int32())])
SCHEMAS = {"t": COLUMNS, "u": COLUMNS, "x": COLUMNS}

PROVEN = [
    "SELECT k, sum(v) AS s, count(*) AS n FROM t GROUP BY k",
    "SELECT k, w, max(v) AS m FROM t GROUP BY 1, 2 HAVING count(*) > 1",
    "SELECT * FROM t WHERE v > 0",
    "SELECT t.k, t.v, u.w FROM t JOIN u ON t.k = u.k",
    "SELECT k, t.v, u.w FROM t FULL JOIN u USING (k)",
    "SELECT t.k, u.v FROM t, u WHERE t.k = u.k AND t.v < u.v",
    "SELECT t.k, t.v, u.w FROM t LEFT JOIN u ON t.k <=> u.k AND t.v = u.v",
    "SELECT u.k, t.v, u.w FROM t RIGHT JOIN u ON t.k = u.k",
    "SELECT k, v FROM t LEFT SEMI JOIN u ON t.k = u.k AND t.v <= u.w",
    "SELECT k, v FROM t LEFT ANTI JOIN u ON t.k = u.k",
    "SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v, w) AS r FROM t",
    "SELECT k, v, sum(v) OVER w AS s FROM t WINDOW w AS (PARTITION BY k, w)",
    "SELECT k, sum(sum(v)) OVER (PARTITION BY k) AS s FROM t GROUP BY k, w",
    "WITH a AS (SELECT k, sum(v) AS s FROM t GROUP BY k) SELECT t.k, t.v, a.s FROM t JOIN a ON t.k = a.k",
    "SELECT k, s FROM (SELECT k AS kk, max(v) AS s FROM t GROUP BY k) AS q JOIN u ON q.kk = u.k",
    "SELECT DISTINCT k, v FROM t",
    "SELECT k, v FROM t UNION SELECT k, w FROM u",
    "SELECT k, v FROM t UNION ALL SELECT k, w FROM u WHERE w > 0",
    "SELECT k, v FROM t EXCEPT SELECT k, w FROM u",
    "SELECT k, v FROM t INTERSECT SELECT k, w FROM u",
    "SELECT k, e FROM t LATERAL VIEW explode(array(v, w)) x AS e",
    "SELECT t.k, a.m, b.n FROM t JOIN (SELECT k, max(v) AS m FROM u GROUP BY k) AS a ON t.k = a.k "
    "LEFT JOIN (SELECT k, count(*) AS n FROM x GROUP BY k) AS b ON a.k = b.k",
]

REFUSED = {
    "SELECT v, sum(w) AS s FROM t GROUP BY v": "GROUP BY does not name",
    "SELECT max(k) AS k, v FROM t GROUP BY v": "GROUP BY does not name the key column 'k'",
    "SELECT sum(v) AS k FROM t": "without GROUP BY",
    "SELECT k, v FROM t ORDER BY v LIMIT 3": "LIMIT",
    "SELECT k, rank() OVER (ORDER BY v) AS r FROM t": "PARTITION BY",
    "SELECT k, sum(v) OVER (PARTITION BY w) AS s FROM t": "PARTITION BY",
    "SELECT t.k, u.v FROM t JOIN u ON t.v = u.v": "does not equate the key column 'k'",
    "SELECT t.k, u.v FROM t CROSS JOIN u": "does not equate",
    "SELECT t.k, u.v FROM t JOIN u ON t.k = u.k OR t.v = u.v": "does not equate",
    "SELECT t.k, u.v FROM t JOIN u ON t.k = u.k + 1": "does not equate",
    "SELECT t.k, u.v FROM t LEFT JOIN u ON t.v = u.v WHERE t.k = u.k": "does not equate",
    "SELECT u.k, t.v FROM t LEFT JOIN u ON t.k = u.k": "not in the result",
    "SELECT t.k, t.v FROM t FULL JOIN u ON t.k = u.k": "FULL JOIN",
    "SELECT t.k, t.v FROM t LEFT JOIN u ON t.k = u.k LEFT JOIN x ON u.k <=> x.k": "does not equate",
    "SELECT k, v FROM t WHERE v > (SELECT avg(v) FROM u)": "query inside an expression",
    "SELECT k, v FROM t WHERE k IN (SELECT k FROM u)": "query inside an expression",
    "SELECT k, v FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.k)": "query inside an expression",
    "SELECT k, v FROM t UNION ALL SELECT v, k FROM u": "at one position on both sides",
    "SELECT * FROM t UNION ALL SELECT * FROM u": "not all named",
    "SELECT k + 1 AS k, v FROM t": "not in the result under its own name",
    "SELECT k AS j, v FROM t": "not in the result under its own name",
    "SELECT v AS k, k AS v FROM t": "not in the result under its own name",
    "SELECT k FROM (SELECT DISTINCT v, w FROM t) AS q": "does not come out of",
    "SELECT q.k FROM (SELECT k, v FROM t ORDER BY v LIMIT 1) AS q": "LIMIT",
    "SELECT t.k, u.v FROM t CROSS JOIN u WHERE t.k <=> u.k": "does not equate",
    "SELECT j AS k FROM (SELECT k, k AS j FROM t UNION ALL SELECT k, v AS j FROM u) AS q": "not in the result",
    "SELECT 1 AS k": "without FROM",
    "SELECT k, count(*) AS n FROM t GROUP BY ROLLUP (k)": "GROUP BY does not name",
    "SELECT k FROM": "not Spark SQL",
}


def table(rows: list[tuple[int | None, int | None, int | None]]) -> pa.Table:
    """Rows of k, v, w."""
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return pa.table(dict(zip("kvw", (pa.array(column, pa.int32()) for column in columns), strict=True)))


SMALL = st.one_of(st.none(), st.integers(0, 3))
ROWS = st.lists(st.tuples(SMALL, SMALL, SMALL), max_size=8)
CONNECTION = duckdb.connect()


@cache
def translated(sql: str) -> str:
    """DuckDB SQL of a query over t, u and x."""
    return to_duckdb(sql, SCHEMAS)


def answer(sql: str, data: dict[str, pa.Table]) -> Counter:
    """The rows of a query, each with its count."""
    with CONNECTION.cursor() as cursor:
        for name, rows in data.items():
            cursor.register(name, rows)
        return Counter(map(tuple, cursor.execute(translated(sql)).fetchall()))


def partial_equals_full(sql: str, data: dict[str, pa.Table], keys: set[int | None]) -> None:
    """Filtering every upstream table to some keys gives the rows of the whole answer with these keys."""
    near = {
        name: table([tuple(row.values()) for row in rows.to_pylist() if row["k"] in keys])
        for name, rows in data.items()
    }
    with CONNECTION.cursor() as cursor:
        for name, rows in data.items():
            cursor.register(name, rows)
        names = [column[0] for column in cursor.execute(translated(sql)).description]
    at = names.index("k")
    full = Counter({row: count for row, count in answer(sql, data).items() if row[at] in keys})
    assert answer(sql, near) == full


@pytest.mark.parametrize("sql", PROVEN)
@settings(max_examples=8, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(t=ROWS, u=ROWS, x=ROWS, keys=st.sets(SMALL))
def test_what_is_proven_holds(sql, t, u, x, keys):
    """Design §5: where the key is proven, a refresh by key equals a full one, NULL keys included."""
    assert refresh_fault(sql, ["k"]) is None
    partial_equals_full(sql, {"t": table(t), "u": table(u), "x": table(x)}, keys)


@pytest.mark.parametrize(("sql", "reason"), REFUSED.items(), ids=list(REFUSED))
def test_what_cannot_be_proven_is_refused(sql, reason):
    """Design §5: the loader proves the key, else the refresh is full; the reason is said."""
    assert reason in (refresh_fault(sql, ["k"]) or "proven")


def test_without_a_key_there_is_nothing_to_prove():
    """An empty key proves nothing."""
    assert refresh_fault(PROVEN[0], []) == "no refresh key is declared"


def test_each_column_of_a_key_is_needed():
    """A key of two columns needs both of them in every place."""
    sql = "SELECT k, w, sum(v) AS s FROM t GROUP BY k, w"
    assert refresh_fault(sql, ["k", "w"]) is None
    assert "'w'" in (refresh_fault("SELECT k, max(w) AS w FROM t GROUP BY k", ["k", "w"]) or "")


def test_the_key_is_found_in_upper_and_lower_case():
    """Spark's names do not tell cases apart, and neither does the proof."""
    assert refresh_fault("SELECT T.K, sum(v) AS s FROM t GROUP BY K", ["k"]) is None


ON = st.sampled_from(
    ["{l}.k = {r}.k", "{l}.k <=> {r}.k", "{l}.v = {r}.v", "{l}.k = {r}.k AND {l}.v <= {r}.w", "{l}.k = {r}.v"]
)
SOURCE = st.sampled_from(
    [
        "t",
        "u",
        "x",
        "(SELECT k, max(v) AS v, min(w) AS w FROM t GROUP BY k)",
        "(SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v, w) AS w FROM u)",
        "(SELECT k, v, rank() OVER (PARTITION BY w ORDER BY v) AS w FROM u)",
        "(SELECT v AS k, max(k) AS v, max(w) AS w FROM x GROUP BY v)",
        "(SELECT DISTINCT k, v, v AS w FROM x)",
        "(SELECT k, v, w FROM t UNION SELECT k, w, v FROM u)",
    ]
)
JOIN = st.sampled_from(
    ["JOIN", "LEFT JOIN", "RIGHT JOIN", "LEFT SEMI JOIN", "LEFT ANTI JOIN", "FULL JOIN", "CROSS JOIN"]
)
WHERE = st.sampled_from(["", " WHERE a.v > 0", " WHERE a.v IS NULL OR a.w < 2", " WHERE a.k = b.k"])
SELECT = st.sampled_from(
    [
        "a.k, a.v",
        "b.k, a.v, b.w",
        "a.k, count(*) AS n{group_a}",
        "a.v AS k, count(*) AS n{group_v}",
        "b.k, max(a.v) AS n{group_b}",
        "a.k, sum(a.v) OVER (PARTITION BY a.k) AS s",
        "a.k, sum(b.v) OVER (PARTITION BY a.w) AS s",
        "DISTINCT a.k, a.w",
    ]
)


@st.composite
def queries(draw):
    """A query over two relations, with any join and any grouping; not all of them make sense."""
    join = draw(JOIN)
    on = "" if join == "CROSS JOIN" else " ON " + draw(ON).format(l="a", r="b")
    select = draw(SELECT)
    group = {"{group_a}": " GROUP BY a.k", "{group_v}": " GROUP BY a.v", "{group_b}": " GROUP BY b.k"}
    clause = next((text for mark, text in group.items() if mark in select), "")
    for mark in group:
        select = select.replace(mark, "")
    return f"SELECT {select} FROM {draw(SOURCE)} AS a {join} {draw(SOURCE)} AS b{on}{draw(WHERE)}{clause}"


@pytest.mark.slow
@settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(sql=queries(), t=ROWS, u=ROWS, x=ROWS, keys=st.sets(SMALL))
def test_whatever_is_proven_holds(sql, t, u, x, keys):
    """Design §5: no query that the proof accepts, however it is built, refreshes wrongly by key."""
    assume(refresh_fault(sql, ["k"]) is None)
    try:
        translated(sql)
    except SqlError:
        assume(False)
    partial_equals_full(sql, {"t": table(t), "u": table(u), "x": table(x)}, keys)
