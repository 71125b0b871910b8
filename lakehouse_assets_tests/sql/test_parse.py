"""Parsing: one query or one expression, and the tables that a query names."""

from __future__ import annotations

import pytest

from lakehouse_assets.errors import SqlError
from lakehouse_assets.sql.parse import parse_expression, parse_query, render, select, tables


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 AS a",
        "SELECT a FROM t;",
        "WITH q AS (SELECT a FROM t) SELECT a FROM q",
        "SELECT a FROM t UNION ALL SELECT a FROM u",
        "(SELECT a FROM t)",
        "-- a comment\nSELECT a FROM t",
    ],
)
def test_queries_parse(text):
    """SELECT, WITH and set operations are queries; a `;` at the end and comments are allowed."""
    assert parse_query(text, "the query").expressions or parse_query(text, "the query").this


@pytest.mark.parametrize(
    "text",
    ["DELETE FROM t", "SELECT 1; SELECT 2", "DROP TABLE t", "INSERT INTO t SELECT 1", "", "SELECT FROM WHERE", "a + 1"],
)
def test_anything_but_one_query_is_refused(text):
    """A transform reads: one SELECT and nothing else."""
    with pytest.raises(SqlError, match=r"gold\.x"):
        parse_query(text, "gold.x")


@pytest.mark.parametrize("text", ["a", "a + 1 AS b", "*", "CAST(a AS INT)", "count(*)", "a -- why\n"])
def test_expressions_parse(text):
    """One expression or select item."""
    assert render(parse_expression(text, "rule"))


@pytest.mark.parametrize(
    "text",
    [
        "a, b",
        "a FROM secrets",
        "a; DROP TABLE t",
        "DISTINCT a",
        "a >",
        "",
        "a WHERE b",
        "a LIMIT 1",
        "a UNION SELECT b",
    ],
)
def test_anything_but_one_expression_is_refused(text):
    """A rule or select item cannot smuggle in another clause; the message names the rule and its text."""
    with pytest.raises(SqlError, match="rule 'r'") as error:
        parse_expression(text, "rule 'r'")
    assert error.value.value == text


def test_errors_carry_no_class_names():
    """What the parser misses is said in plain words."""
    with pytest.raises(SqlError, match="something is missing") as error:
        parse_expression("a >", "rule")
    assert "class" not in str(error.value)


def test_a_tree_can_be_changed_without_harm():
    """Trees are kept for the next who asks; each gets a copy."""
    parse_expression("a + 1", "rule").set("this", None)
    assert render(parse_expression("a + 1", "rule")) == "a + 1"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("SELECT a FROM silver.t", {"silver.t"}),
        ("SELECT a FROM t JOIN main.gold.u USING (a)", {"t", "main.gold.u"}),
        ("SELECT a FROM t WHERE a IN (SELECT b FROM u)", {"t", "u"}),
        ("WITH q AS (SELECT a FROM t) SELECT a FROM q", {"t"}),
        ("WITH t AS (SELECT a FROM t) SELECT a FROM t", {"t"}),
        (
            "WITH q AS (SELECT a FROM t), r AS (SELECT a FROM q) SELECT a FROM r JOIN silver.q USING (a)",
            {"t", "silver.q"},
        ),
        ("SELECT a FROM (WITH q AS (SELECT a FROM t) SELECT a FROM q) JOIN q USING (a)", {"t", "q"}),
        ("WITH Q AS (SELECT 1 AS a) SELECT a FROM q", set()),
        ("SELECT a FROM `odd name`", {"odd name"}),
    ],
)
def test_the_tables_of_a_query(text, names):
    """Tables as they are written; a CTE is none where it is visible, and one where it is not."""
    assert set(tables(parse_query(text, "the query"))) == names


def test_a_select_is_built_from_items():
    """Items become a select list, without their comments; no items select everything."""
    assert select(["a", "CAST(b AS INT) AS c -- why"], "bronze.t") == "SELECT a, CAST(b AS INT) AS c FROM bronze.t"
    assert select([], "bronze.t") == "SELECT * FROM bronze.t"
