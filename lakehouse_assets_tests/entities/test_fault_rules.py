"""Faults of one entity, rule by rule: where they stand, what they say, and which SQL is refused."""

from __future__ import annotations

import pytest

from lakehouse_assets.entities.model import GENERATED
from lakehouse_assets.errors import CatalogError
from lakehouse_assets_tests.entities.lab import CONFORMED, LANDED, listed
from lakehouse_assets_tests.entities.rules import QUERY, faults_of, only_fault, parse


@pytest.mark.parametrize(
    ("fields", "field", "nearest"),
    [
        ("sorce_format: csv", "sorce_format", "source_format"),
        ("is_quarantine: true", "is_quarantine", "is_quarantined"),
        ("expectations: {expect_al: {}}", "expectations.expect_al", "expect_all"),
        (
            "apply_changes: {sequence_by: s, stored_as_scd_typ: 2}",
            "apply_changes.stored_as_scd_typ",
            "stored_as_scd_type",
        ),
        ("lakehouse: {refresh_keys: [a]}", "lakehouse.refresh_keys", "refresh_key"),
        ("lakehouse: {schedule: {corn: '@daily'}}", "lakehouse.schedule.corn", "cron"),
        ("lakehouse: {freshness: {wran: 1 day}}", "lakehouse.freshness.wran", "warn"),
    ],
)
def test_an_unknown_field_gets_the_nearest_name(fields, field, nearest):
    """D1: unknown fields are refused wherever they stand, with the nearest legal name."""
    found = next(
        f for f in faults_of({"c.yaml": listed(f"{LANDED}, primary_keys: [id], {fields}")}) if "unknown" in f.problem
    )
    assert (".".join(map(str, found.field)), found.nearest) == (field, nearest)


@pytest.mark.parametrize("field", GENERATED)
def test_a_generated_field_does_not_stand_in_a_file(field):
    """D5: each of the seven is filled in by the store."""
    found = only_fault(f"{LANDED}, {field}: x")
    assert (found.field, found.fix) == ((field,), "remove it")


@pytest.mark.parametrize("field", ["entity_id", "source", "destination"])
def test_a_missing_field_has_the_line_of_its_entity(field):
    """D1: a required field that is missing is named, with the line where the entity begins."""
    rest = ", ".join(part for part in LANDED.split(", ") if not part.startswith(field))
    found = only_fault("entity_id: z, source: /data/z, destination: bronze.z", rest)
    assert (found.line, found.field, found.problem) == (3, (field,), "the field is missing")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ("lakehouse: {refresh_key: [a]}", "lakehouse.refresh_key"),
        ("lakehouse: {tables: [a, b]}", "lakehouse.tables"),
        ("primary_keys: [id], apply_changes: {sequence_by: s, column_list: [a]}", "apply_changes.column_list"),
    ],
)
def test_a_fault_may_be_about_a_list(fields, field):
    """A fault whose value is a list is told like any other."""
    found = only_fault(f"{LANDED}, {fields}")
    assert ".".join(map(str, found.field)) == field
    assert isinstance(found.value, list)


def test_values_and_choices_are_kept_as_facts():
    """A fault can be read by a program: entity, field, value, choices, nearest."""
    found = only_fault(f"{LANDED}, source_format: parqet")
    assert (found.entity, found.field, found.value, found.nearest) == ("a", ("source_format",), "parqet", "parquet")
    assert {"cloudFiles", "sqlite", "kafka", "kinesis", "kdb", "sql", "asof"} <= set(found.choices)


def test_the_line_of_a_fault_is_the_line_of_its_field():
    """The line points at the rule, not at the entity."""
    text = (
        "delta_live_store:\n  - entity_id: a\n    source: /d\n    destination: bronze.a\n    expectations:\n"
        '      expect_all:\n        good: "x > 0"\n        bad: "x >"\n'
    )
    (found,) = faults_of({"c.yaml": text})
    assert (found.line, found.field) == (8, ("expectations", "expect_all", "bad"))


def test_apply_changes_without_keys_is_a_fault_of_the_catalog():
    """D47: no silent plain table."""
    found = only_fault(f"{LANDED}, apply_changes: {{sequence_by: s}}")
    assert (found.field, found.fix) == (("primary_keys",), "list them under primary_keys")


def test_quarantine_loads_beside_apply_changes():
    """D46: quarantine is not switched off by keys and apply_changes."""
    catalog = parse(
        f'{LANDED}, primary_keys: [id], apply_changes: {{sequence_by: s}}, is_quarantined: true, expectations: {{expect_all: {{r: "x > 0"}}}}'
    )
    assert str(catalog.resolve("bronze.a_quarantine")) == "bronze.a_quarantine"


def test_quarantine_without_rules_loads_as_a_table():
    """D49: it makes nothing temporary."""
    assert parse(f"{LANDED}, is_quarantined: true").entities[0].kind == "landed"


def test_a_rule_may_hold_or():
    """D44: rules are expressions of their own, so OR and AND in one of them are legal."""
    assert parse(f'{LANDED}, expectations: {{expect_all: {{r: "a > 0 OR b > 0", s: "c > 0 AND d > 0"}}}}').order()


def test_a_view_loads_and_has_no_side_tables():
    """D48: a view is a destination; nothing stands beside it, because it stores nothing."""
    catalog = parse(LANDED, CONFORMED + ", destination_type: view")
    assert [e.kind for e in catalog.entities] == ["landed", "view"]
    with pytest.raises(CatalogError, match="no entity makes this table"):
        catalog.resolve("silver.b_quarantine")


def test_a_declared_schema_belongs_to_the_reader():
    """D41: source_schema on a table of the catalog, where it would type the target, is refused."""
    assert only_fault(LANDED, f"{CONFORMED}, source_schema: id INT").field == ("source_schema",)


def test_kafka_takes_its_topic_as_source():
    """D41: a topic is no path; source alone is enough."""
    entity = parse("entity_id: k, source: Stocks, source_format: kafka, destination: bronze.k").entities[0]
    assert (entity.reads_outside, entity.kind) == (True, "landed")


@pytest.mark.parametrize(
    "call", ["current_date()", "current_timestamp()", "now()", "localtimestamp()", "rand()", "uuid()"]
)
@pytest.mark.parametrize(
    "fields",
    [
        QUERY.format("SELECT CALL AS x FROM bronze.a"),
        CONFORMED + ', select_expr: ["CALL AS x"]',
        CONFORMED + ', expectations: {expect_all: {r: "CALL = x"}}',
        CONFORMED + ', primary_keys: [id], apply_changes: {sequence_by: s, where: "x = CALL"}',
    ],
    ids=["query", "select", "rule", "where"],
)
def test_what_a_replay_would_answer_otherwise_is_refused(fields, call):
    """Clocks and chance are refused in queries, select items, rules and conditions, pointing to :run_date."""
    assert ":run_date" in only_fault(LANDED, fields.replace("CALL", call)).problem


def test_the_clock_without_argument_is_refused():
    """unix_timestamp() is a clock, unix_timestamp(column) is none."""
    assert only_fault(LANDED, CONFORMED + ', select_expr: ["unix_timestamp() AS x"]').field == ("select_expr", 0)
    assert parse(LANDED, CONFORMED + ', select_expr: ["unix_timestamp(at) AS x"]').order()


def test_the_day_of_the_plan_is_legal():
    """:run_date is what a clock is replaced by."""
    assert parse(LANDED, QUERY.format("SELECT id, :run_date AS day FROM bronze.a")).order()


@pytest.mark.parametrize(("function", "nearest"), [("cuont", "count"), ("uper", "upper"), ("coalesc", "coalesce")])
def test_a_function_outside_the_dialect_gets_the_nearest(function, nearest):
    """Functions that the engines do not share are refused; the nearest one is pointed out."""
    found = only_fault(LANDED, QUERY.format(f"SELECT {function}(id) AS x FROM bronze.a"))
    assert f"{function}()" in found.problem
    assert f"did you mean {nearest}()" in found.problem


def test_every_fault_of_a_query_is_told():
    """Several wrong functions are several faults."""
    found = faults_of({"c.yaml": listed(LANDED, QUERY.format("SELECT cuont(id) AS x, now() AS y FROM bronze.a"))})
    assert len(found) == 2


@pytest.mark.parametrize(
    "query", ["SELECT 1 AS a; SELECT 2 AS a", "DROP TABLE bronze.a", "INSERT INTO bronze.a SELECT 1", "SELEC id"]
)
def test_a_query_is_one_select(query):
    """Anything but one query is refused, at the field that holds it."""
    assert only_fault(LANDED, QUERY.format(query)).field == ("source",)


def test_a_missing_sql_file_gets_the_nearest():
    """Bad input: the file is named, and the nearest that is there."""
    found = only_fault(LANDED, QUERY.format("sql/hourl.sql"), sql={"sql/hourly.sql": "SELECT id FROM bronze.a"})
    assert (found.value, found.nearest) == ("sql/hourl.sql", "sql/hourly.sql")


def test_a_sql_file_that_does_not_parse_is_a_fault_of_its_entity():
    """Bad input: bad SQL in a file is told at the entity that uses it."""
    found = only_fault(LANDED, QUERY.format("sql/q.sql"), sql={"sql/q.sql": "SELECT id FROM"})
    assert (found.entity, found.line) == ("q", 3)


def test_a_dot_slash_before_a_sql_file_is_legal():
    """./sql/q.sql is sql/q.sql."""
    catalog = parse(LANDED, QUERY.format("./sql/q.sql"), sql={"sql/q.sql": "SELECT id FROM bronze.a"})
    assert catalog.sql(catalog.entities[1]) == "SELECT id FROM bronze.a"


def test_disabled_entities_are_checked_by_themselves():
    """A disabled entity is still an entity: bad SQL in it is a fault."""
    assert only_fault(LANDED, f'{CONFORMED}, is_enabled: false, select_expr: ["x +"]').entity == "b"
