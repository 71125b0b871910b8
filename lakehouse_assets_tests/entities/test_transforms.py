"""The SQL of entities: rules, select items, schemas, queries."""

from __future__ import annotations

import pytest

from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import CatalogError
from lakehouse_assets_tests.entities.lab import CONFORMED, LANDED, fault, listed, parse


def test_the_sql_of_an_entity():
    """A query stands in the entity or in a file beside it; other tables select from their source."""
    catalog = parse(
        listed(
            LANDED,
            'entity_id: b, source: bronze.a, source_format: dlt, destination: silver.b, select_expr: ["id", "x AS y"]',
            "entity_id: c, source: sql/c.sql, source_format: sql, destination: gold.c",
        ),
        {"sql/c.sql": "SELECT id FROM silver.b -- all\n", "sql/unused.sql": "x"},
    )
    landed, conformed, query = catalog.entities
    assert catalog.sql(query) == "SELECT id FROM silver.b -- all\n"
    assert catalog.sql(conformed) == "SELECT id, x AS y FROM bronze.a"
    assert catalog.relations(query) == {"silver.b": TableName("silver", "b")}
    assert list(catalog.queries) == ["sql/c.sql"]
    with pytest.raises(CatalogError, match="has no SQL"):
        catalog.sql(landed)


@pytest.mark.parametrize("path", ["sql/d.sql", "../secret.sql", "/etc/c.sql"])
def test_a_sql_file_that_is_not_there(path):
    """A missing file, or one outside the catalog's directory, is a fault with the nearest name."""
    said = fault(
        listed(f"entity_id: c, source: {path}, source_format: sql, destination: gold.c"), {"sql/c.sql": "SELECT 1 AS a"}
    )
    assert "no such SQL file" in said


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ('select_expr: ["a +"]', "not Spark SQL"),
        ('select_expr: ["a + 1"]', "without a name"),
        ('select_expr: ["a AS x", "b AS X"]', "made twice"),
        ('select_expr: ["a AS `b c`"]', "alias"),
        ('select_expr: ["sum(a) AS x"]', "several rows"),
        ('select_expr: ["a AS _position"]', "project's own"),
        ('select_expr: ["_reasons"]', "project's own"),
        ('select_expr: ["explode(a) AS x"]', "LATERAL VIEW"),
        ('expectations: {expect_all: {r: "a +"}}', "not Spark SQL"),
        ('expectations: {expect_all_or_drop: {r: "a + 1"}}', "true or false"),
        ('expectations: {expect_all_or_fail: {r: "max(a) > 1"}}', "several rows"),
        ('expectations: {expect_all: {r: "a IN (SELECT 1)"}}', "query inside"),
        ('primary_keys: [k], select_expr: ["a", "b"]', "no column 'k'"),
        ('partition_cols: [p], select_expr: ["CAST(a AS STRING) AS p"]', "DATE"),
        ('primary_keys: [k], apply_changes: {sequence_by: "now()"}', ":run_date"),
        ('primary_keys: [k], apply_changes: {sequence_by: s, apply_as_deletes: "op"}', None),
        ('primary_keys: [k], apply_changes: {sequence_by: s, apply_as_deletes: "op + 1"}', "true or false"),
        ('primary_keys: [k], apply_changes: {sequence_by: s}, select_expr: ["k", "s", "__START_AT"]', "project's own"),
        ('select_expr: ["*", "_ingested_at"]', None),
        ('partition_cols: [p], select_expr: ["CAST(a AS DATE) AS p", "*"]', None),
        ('partition_cols: [p], select_expr: ["CAST(a AS DATE) AS p"]', None),
    ],
)
def test_the_sql_of_rules_and_select_items(fields, reason):
    """Issue: unparsable SQL, functions outside the dialect, clocks, names and types are found when the catalog loads."""
    text = listed(LANDED, f"{CONFORMED}, {fields}")
    if reason is None:
        assert parse(text).order()
    else:
        assert reason in fault(text)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ('source_schema: "id INT, name STRNG"', "STRING"),
        ('source_schema: "id INT, _source STRING"', "project's own"),
        ('source_schema: "id INT", primary_keys: [nr]', "no column 'nr'"),
        ('source_format: csv, source_schema: "id STRING", partition_cols: [id]', "DATE"),
        ('source_schema: "id STRING", partition_cols: [id]', None),
        ('source_schema: "id INT, at TIMESTAMP", primary_keys: [ID]', None),
    ],
)
def test_the_schema_of_a_source(fields, reason):
    """A declared schema must be legal, hold the keys, and split replaced tables by dates or integers."""
    text = listed(f"{LANDED}, {fields}")
    if reason is None:
        assert parse(text).order()
    else:
        assert reason in fault(text)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT id FROM", "not Spark SQL"),
        ("DELETE FROM bronze.a", "not a query"),
        ("SELECT id FROM bronze.a LIMIT 5", "LIMIT without ORDER BY"),
        ("SELECT uuid() AS u FROM bronze.a", "another answer"),
        ("SELECT id AS _batch FROM bronze.a", "project's own"),
        ("SELECT id FROM bronze.b", "did you mean 'bronze.a'"),
        ("WITH q AS (SELECT id FROM bronze.a) SELECT id FROM q", None),
    ],
)
def test_the_sql_of_a_query_table(query, reason):
    """Issue: the same holds for queries."""
    text = listed(LANDED, f'entity_id: q, source: "{query}", source_format: sql, destination: gold.q')
    if reason is None:
        assert parse(text).order()
    else:
        assert reason in fault(text)


def test_the_refresh_key_counts_where_it_is_proven():
    """Design §5: a declared key that is proven is the key; else the refresh is full, and it can be asked why."""
    query = "entity_id: {0}, source: SELECT k AS k FROM bronze.a{1}, source_format: sql, destination: gold.{0}, lakehouse: {{refresh_key: [k]}}"
    catalog = parse(listed(LANDED, query.format("x", ""), query.format("y", " ORDER BY k LIMIT 1")))
    _, proven, unproven = catalog.entities
    assert catalog.refresh_key(proven) == ("k",)
    assert catalog.refresh_key(unproven) == ()
    assert "LIMIT" in (catalog.refresh_fault(unproven) or "")
