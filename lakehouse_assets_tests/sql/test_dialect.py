"""The portable dialect: what it refuses and says, what it makes explicit, how names and parameters come in."""

from __future__ import annotations

import datetime as dt

import duckdb
import pyarrow as pa
import pytest

from lakehouse_assets.errors import SqlError
from lakehouse_assets.sql.dialect import (
    FUNCTIONS,
    explicit,
    faults,
    is_boolean,
    outputs,
    row_faults,
    to_duckdb,
    to_spark,
    type_of,
)
from lakehouse_assets.sql.parse import parse_expression, parse_query, render

SCHEMAS = {
    "t": pa.schema(
        [
            ("id", pa.int32()),
            ("s", pa.string()),
            ("n", pa.int64()),
            ("f", pa.float64()),
            ("de", pa.decimal128(10, 2)),
            ("wide", pa.decimal128(30, 2)),
            ("d", pa.date32()),
            ("ts", pa.timestamp("us", tz="UTC")),
            ("ntz", pa.timestamp("us")),
            ("b", pa.bool_()),
            ("arr", pa.list_(pa.int32())),
            ("st", pa.struct([("x", pa.int32())])),
            ("m", pa.map_(pa.string(), pa.int32())),
            ("bin", pa.binary()),
        ]
    ),
    "silver.u": pa.schema([("id", pa.int64()), ("v", pa.string())]),
}


def refusal(expression: str) -> str:
    """Why a select item over t is refused."""
    with pytest.raises(SqlError) as error:
        to_duckdb(f"SELECT {expression} AS r FROM t", SCHEMAS)
    return str(error.value)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("lengthh(s)", "did you mean length()"),
        ("from_json(s, 'a INT')", "declare it STRING and CAST it"),
        ("max_by(s, n)", "row_number()"),
        ("collect_list(s)", "order"),
        ("window(ts, '1 hour')", "date_trunc"),
        ("explode(arr)", "LATERAL VIEW"),
        ("now()", ":run_date"),
        ("current_date", ":run_date"),
        ("current_timestamp()", ":run_date"),
        ("uuid()", "another answer each time"),
        ("rand()", "another answer each time"),
        ("current_user()", "who runs the query"),
        ("s + 1", "CAST"),
        ("s = n", "CAST"),
        ("f = '5'", "without quotes"),
        ("b = 1", "do not mix"),
        ("coalesce(s, n)", "do not mix"),
        ("CASE WHEN b THEN s ELSE n END", "do not mix"),
        ("d = 'soon'", "not an ISO date"),
        ("d - d", "datediff"),
        ("ts + 1", "INTERVAL"),
        ("ts > ntz", "do not mix"),
        ("de / 2", "CAST one side to DOUBLE"),
        ("avg(de)", "avg(CAST(x AS DOUBLE))"),
        ("wide * wide", "38 digits"),
        ("CAST(f AS STRING)", "DECIMAL(p,s) first"),
        ("concat(s, f)", "DECIMAL(p,s) first"),
        ("CAST(ts AS BIGINT)", "unix_seconds"),
        ("CAST(n AS TIMESTAMP)", "timestamp_seconds"),
        ("m = m", "maps cannot be compared"),
        ("arr < arr", "no order"),
        ("min(st)", "not the same on both engines"),
        ("row_number() OVER (ORDER BY st)", "no order"),
        ("row_number()", "needs OVER"),
        ("row_number() OVER (PARTITION BY id)", "needs ORDER BY"),
        ("sum(s)", "must be a number"),
        ("upper(s, s)", "takes 1 arguments"),
        ("upper(DISTINCT s)", "no aggregate"),
        ("s LIKE n", "literal"),
        ("s RLIKE '(?=a)'", "not the same on both engines"),
        ("regexp_replace(s, 'a*', '')", "empty text"),
        ("regexp_extract(s, 'a', 1)", "no group 1"),
        ("date_format(ts, 'YYYY')", "not the same on both engines"),
        ("date_trunc('century', ts)", "not on both engines"),
        ("round(f, -2)", "decimals"),
        ("'it''s'", "\\'"),
        ("array(1, 2)[0]", "get(array"),
        ("(id, n) IN ((1, 2))", "one by one"),
        ("id = n IN (1)", "parentheses"),
        ("b IS NULL IS TRUE", "parentheses"),
        (":nope", "has no value"),
        ("nope", "did you mean"),
        ("st.y", "there is no field 'y'"),
        ("t.nope", "no column"),
        ("n AND b", "an operand of AND"),
        ("INTERVAL 1 DAY", "INTERVAL"),
        ("NULL", "has no type"),
        ("get(arr, s)", "must be an integer"),
        ("named_struct('a', 1, 'A', 2)", "two fields of one name"),
        ("filter(arr, x -> x)", "must give true or false"),
        ("s COLLATE utf8_lcase", "not in the part"),
        ("percentile_cont(0.5) WITHIN GROUP (ORDER BY n)", "not in the part"),
    ],
)
def test_what_differs_is_refused_with_its_remedy(expression, reason):
    """Design §7.4: what the engines answer differently is refused, and the message says what to write instead."""
    said = refusal(expression) if expression != "nope" else refusal("idd")
    assert reason in said


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT id FROM t QUALIFY row_number() OVER (ORDER BY id) = 1", "QUALIFY"),
        ("SELECT id FROM t TABLESAMPLE (10 PERCENT)", "sample"),
        ("SELECT id, count(*) FROM t GROUP BY CUBE (id)", "list the columns"),
        ("SELECT id FROM t, t", "called 't'"),
        ("SELECT t.*, u.* FROM t JOIN silver.u AS u ON t.id = u.id", "'id' is made twice"),
        ("SELECT id FROM t JOIN silver.u ON t.id = u.id", "may mean several"),
        ("SELECT id FROM nowhere", "no table 'nowhere'"),
        ("SELECT id FROM t UNION SELECT id, v FROM silver.u", "14 and 2 columns"),
        ("SELECT id FROM t UNION SELECT v FROM silver.u", "column 'id' of UNION"),
        ("SELECT id FROM t JOIN silver.u USING (nope)", "exactly once"),
        ("SELECT id FROM t WHERE id", "must be true or false"),
        ("SELECT id FROM t LIMIT id", "integer literal"),
        ("SELECT id FROM t ORDER BY 2", "1 columns"),
        ("SELECT id FROM t LATERAL VIEW explode(m) x AS k, v", "ARRAY"),
        ("SELECT * FROM (VALUES (1)) AS v(a)", "cannot stand in FROM"),
        ("SELECT nope.* FROM t", "no table 'nope'"),
        ("SELECT * EXCEPT (nope) FROM t", "no column 'nope'"),
        ("WITH RECURSIVE q AS (SELECT 1 AS a) SELECT a FROM q", "RECURSIVE"),
        ("SELECT (SELECT id, n FROM t) AS r", "one column"),
    ],
)
def test_clauses_that_differ_are_refused(query, reason):
    """Design §7.4: so are clauses."""
    query = query.replace("SELECT id FROM t UNION SELECT id, v", "SELECT * FROM t UNION SELECT id, v")
    with pytest.raises(SqlError) as error:
        to_duckdb(query, SCHEMAS)
    assert reason in str(error.value)


def test_the_catalog_sees_faults_without_schemas():
    """Functions outside the dialect and clock functions are found when no column is known, all of them."""
    found = faults(parse_query("SELECT now() AS a, lengthh(x) AS b, rand() AS c FROM t LIMIT 3", "q"))
    assert [text.split("(")[0] for text in found[:3]] == ["now", "the function lengthh", "rand"]
    assert "LIMIT without ORDER BY" in found[3]


@pytest.mark.parametrize(
    "text", ["temp > 50", "a.b.c = d[0] AND upper(e) LIKE 'x%'", "x IN (1, 2.5) OR y <=> z", "s.f IS NULL"]
)
def test_columns_of_unknown_type_are_no_fault(text):
    """Without a schema nothing is known of a column, and nothing is held against it."""
    assert faults(parse_expression(text, "rule")) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sum(a) > 1", "several rows"),
        ("rank() OVER (ORDER BY a) = 1", "OVER"),
        ("a IN (SELECT b FROM t)", "query inside"),
        ("EXISTS (SELECT 1 FROM t)", "query inside"),
        ("explode(a)", "LATERAL VIEW"),
    ],
)
def test_a_row_rule_sees_one_row(text, reason):
    """Aggregates, windows, queries and generators have no place in rules and select items."""
    assert reason in " ".join(row_faults(parse_expression(text, "rule")))


@pytest.mark.parametrize(
    ("text", "boolean"),
    [
        ("a > 1", True),
        ("a", True),
        ("NOT a", True),
        ("a AND b IS NULL", True),
        ("coalesce(a, false)", True),
        ("CASE WHEN a THEN b END", True),
        ("contains(a, 'x')", True),
        ("a + 1", False),
        ("'yes'", False),
        ("1", False),
        ("upper(a)", False),
        ("a || b", False),
        ("CAST(a AS INT)", False),
        ("abs(a)", False),
    ],
)
def test_a_rule_must_look_like_a_condition(text, boolean):
    """A rule that certainly gives no true or false is refused when the catalog is loaded."""
    assert is_boolean(parse_expression(text, "rule")) is boolean
    assert bool(row_faults(parse_expression(text, "rule"), condition=True)) is not boolean


def test_a_star_is_a_select_item_and_no_rule():
    """`*` selects every column; as a rule it is refused."""
    assert row_faults(parse_expression("*", "item")) == []
    assert row_faults(parse_expression("*", "rule"), condition=True)


def test_the_type_of_an_expression():
    """Types are Spark's; an unknown column makes an unknown type, a cast a known one."""
    columns = {"a": pa.int32(), "x": pa.decimal128(10, 2)}
    assert type_of(parse_expression("a + 1.5", "e"), columns) == pa.decimal128(12, 1)
    assert type_of(parse_expression("x * a", "e"), columns) == pa.decimal128(21, 2)
    assert type_of(parse_expression("nope", "e"), columns) is None
    assert type_of(parse_expression("CAST(b AS DATE) AS d", "e"), None) == pa.date32()
    assert type_of(parse_expression("b + 1", "e"), None) is None


def test_checking_leaves_the_tree_as_it_is():
    """Faults and types are asked of trees that others share."""
    tree = parse_expression("CAST(s AS DATE) > '2024-01-01' AND s RLIKE 'a$'", "rule")
    before = render(tree)
    faults(tree)
    type_of(tree, {"s": pa.string()})
    assert render(tree) == before


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("s > 50", "TRY_CAST(s AS DOUBLE) > 50"),
        ("s BETWEEN 1 AND 2", "TRY_CAST(s AS DOUBLE) BETWEEN 1 AND 2"),
        ("s IN (1, 2)", "TRY_CAST(s AS DOUBLE) IN (1, 2)"),
        ("s = f", "TRY_CAST(s AS DOUBLE) = f"),
        ("n > 50", "n > 50"),
        ("d > '2024-01-01'", "d > '2024-01-01'"),
        ("s RLIKE 'a.c$'", "s RLIKE 'a[^\\\\n]c\\\\z'"),
    ],
)
def test_what_spark_would_convert_in_silence_is_written_out(text, written):
    """Seed 003's rule `temp > 50` on a text column: a TRY_CAST on both engines, and text that is no number breaks it."""
    assert render(explicit(parse_expression(text, "rule"), {"t": SCHEMAS["t"]})) == written


def test_text_that_becomes_a_moment_is_guarded_on_spark():
    """Spark reads `10:11` as today and names of zones as well: both engines read ISO 8601 only."""
    spark = to_spark("SELECT TRY_CAST(s AS TIMESTAMP) AS r FROM t", SCHEMAS)
    assert spark.startswith("SELECT TRY_CAST(IF(s RLIKE '^")
    strict = to_spark("SELECT CAST(s AS DATE) AS r FROM t", SCHEMAS)
    assert "CONCAT('not of the form" in strict


def test_invalid_utf8_is_null_on_both():
    """Bytes become text only where they are UTF-8."""
    assert "TRY_VALIDATE_UTF8(TRY_CAST(bin AS STRING))" in to_spark(
        "SELECT TRY_CAST(bin AS STRING) AS r FROM t", SCHEMAS
    )


def test_tables_get_the_names_that_the_engine_knows():
    """A table is replaced by its name in the engine, under its alias, or the last part of its name; CTEs are not."""
    sql = "WITH u AS (SELECT v FROM silver.u) SELECT u.v, x.id FROM u JOIN silver.u AS x ON u.v = x.v"
    names = {"silver.u": "in 7", "u": "wrong"}
    assert to_duckdb(sql, SCHEMAS, names).count('"in 7"') == 2
    assert "wrong" not in to_duckdb(sql, SCHEMAS, names) + to_spark(sql, SCHEMAS, names)
    assert "FROM `in 7` AS `u`" in to_spark("SELECT u.v FROM silver.u", SCHEMAS, names)


@pytest.mark.parametrize(
    ("value", "duck", "spark"),
    [
        ("2024-05-06", "DATE '2024-05-06'", "CAST('2024-05-06' AS DATE)"),
        (dt.date(2024, 5, 6), "DATE '2024-05-06'", "CAST('2024-05-06' AS DATE)"),
    ],
)
def test_the_day_of_the_plan_is_a_date(value, duck, spark):
    """Design §5: `:run_date` replaces the clock."""
    sql = "SELECT :run_date AS r FROM t"
    assert duck in to_duckdb(sql, SCHEMAS, params={"run_date": value})
    assert spark in to_spark(sql, SCHEMAS, params={"run_date": value})


@pytest.mark.parametrize("value", [True, 7, "it's", dt.datetime(2024, 5, 6, 7, 8, tzinfo=dt.UTC), None])
def test_other_parameters_keep_their_type(value):
    """Parameters are values, never text that is pasted in."""
    sql = to_duckdb("SELECT coalesce(:p, :p) IS NULL AS missing, id FROM t", SCHEMAS, params={"p": value})
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("t", SCHEMAS["t"].empty_table())
        assert connection.execute(sql).fetchall() == []


def test_names_of_columns_come_as_written():
    """Upper and lower case do not tell columns apart; the result has the spelling of the select list, as in Spark."""
    sql = to_duckdb("SELECT ID, T.N AS Big, st.X FROM t", SCHEMAS)
    with duckdb.connect() as connection:
        connection.register("t", SCHEMAS["t"].empty_table())
        assert [column[0] for column in connection.execute(sql).description] == ["ID", "Big", "X"]


def test_the_outputs_of_a_query():
    """Which columns are made or renamed, so that the project's own names can be kept free."""
    query = parse_query("SELECT a, b AS c, d AS d, *, e + 1 AS f FROM t", "q")
    assert outputs(query) == [("a", False), ("c", True), ("d", False), ("f", True)]


def test_every_function_has_a_note():
    """The table of functions is documentation, too."""
    assert all(FUNCTIONS.values())
    assert len(FUNCTIONS) > 140
