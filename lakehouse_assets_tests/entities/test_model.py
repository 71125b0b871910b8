"""Entities: the 27 fields and their rules, kinds, and the names of tables."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import pytest
from pydantic import ValidationError

from lakehouse_assets.entities.model import GENERATED, PROVIDED, ApplyChanges, Entity, Expectations, TableName
from lakehouse_assets.errors import CatalogError
from lakehouse_assets_tests.entities.lab import entity, history, refused

FIELDS = [
    "entity_id",
    "source",
    "destination",
    "destination_type",
    "source_format",
    "is_streaming",
    "primary_keys",
    "source_schema",
    "select_expr",
    "read_options",
    "table_properties",
    "tags",
    "spark_conf",
    "partition_cols",
    "group",
    "comment",
    "id",
    "created_ts",
    "expired_ts",
    "created_by",
    "modified_by",
    "is_enabled",
    "is_latest",
    "hash",
    "expectations",
    "apply_changes",
    "is_quarantined",
]


def test_the_fields_of_the_seed_stand_in_their_order():
    """D1: the 27 fields, and the block of this project behind them."""
    assert [*FIELDS, "lakehouse"] == list(Entity.model_fields)


def test_generated_and_provided_columns():
    """D5: seven columns are generated, the other twenty (and the block) are provided."""
    assert set(GENERATED) == {"created_by", "created_ts", "modified_by", "expired_ts", "hash", "id", "is_latest"}
    assert set(PROVIDED) == set(Entity.model_fields) - set(GENERATED)
    assert len(PROVIDED) == 21


def test_generated_columns_may_be_given_by_a_store():
    """D5: an entity that comes from a store carries them."""
    found = entity(id="u", created_ts=dt.datetime(2024, 1, 1, tzinfo=dt.UTC), is_latest=True, hash=7)
    assert found.created_ts == dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def test_the_defaults():
    """D1: what an entity means when only the three required fields are given."""
    found = entity()
    assert (found.destination_type, found.source_format, found.is_streaming) == ("table", "cloudFiles", True)
    assert (found.is_enabled, found.is_quarantined, found.apply_changes, found.group) == (True, False, None, None)


@pytest.mark.parametrize("source_format", ["cloudFiles", "kafka", "sqlite", "kinesis"])
def test_streaming_formats_force_streaming(source_format):
    """D1: cloudFiles and kafka (and sqlite, kinesis) are streaming, whatever was given."""
    assert entity(source_format=source_format, is_streaming=False).is_streaming is True


@pytest.mark.parametrize("source_format", ["csv", "json", "parquet", "avro", "orc", "kdb", "sql"])
def test_whole_formats_force_no_streaming(source_format):
    """D1: csv, json, parquet, avro and orc (and kdb, sql) are not, whatever was given."""
    assert entity(source_format=source_format, is_streaming=True).is_streaming is False


@pytest.mark.parametrize("source_format", ["delta", "dlt"])
@pytest.mark.parametrize("given", [True, False])
def test_delta_and_dlt_keep_what_was_given(source_format, given):
    """D1: delta and dlt keep the given value."""
    assert entity(source="x", source_format=source_format, is_streaming=given).is_streaming is given


def test_empty_things_become_what_they_mean():
    """D1: group "" is none; None maps and lists are empty."""
    nothing = dict.fromkeys(
        ["primary_keys", "select_expr", "read_options", "table_properties", "tags", "spark_conf", "partition_cols"]
    )
    found = entity(group="", expectations=None, lakehouse=None, **nothing)
    assert found.group is None
    assert [getattr(found, name) for name in nothing] == [[], [], {}, {}, {}, {}, []]
    assert found.expectations == Expectations()


def test_maps_become_models():
    """D1: a dict becomes Expectations, ApplyChanges."""
    found = entity(**history(), expectations={"expect_all": {"a": "b > 0"}})
    assert isinstance(found.expectations, Expectations)
    assert isinstance(found.apply_changes, ApplyChanges)


@pytest.mark.parametrize("field", ["expectations", "apply_changes"])
@pytest.mark.parametrize("value", ["text", 7, ["a"]])
def test_other_types_raise_value_error(field, value):
    """D1: anything else for expectations and apply_changes raises a ValueError."""
    with pytest.raises(ValueError):
        entity(**{**history(), field: value})


@pytest.mark.parametrize(
    "fields",
    [
        {"entity_id": 7},
        {"entity_id": " "},
        {"source": ""},
        {"source_format": "cloudfiles"},
        {"destination_type": "stream"},
        {"colour": "red"},
        {"primary_keys": "id"},
        {"primary_keys": [""]},
        {"read_options": {"a": ["b"]}},
        {"read_options": {"a": None}},
        {"expectations": {"expect_some": {}}},
        {"expectations": {"expect_all": {"a": " "}}},
        {"lakehouse": {"owner": "x"}},
    ],
    ids=str,
)
def test_strict_fields(fields):
    """D1, D33: unknown fields, wrong types (an int as entity_id) and blanks are refused."""
    assert refused(**fields)


def test_options_are_text_as_spark_has_it():
    """Numbers and booleans in options become Spark's text."""
    found = entity(read_options={"header": True, "maxFilesPerTrigger": 5, "samplingRatio": 0.5}, tags={"pii": None})
    assert found.read_options == {"header": "true", "maxFilesPerTrigger": "5", "samplingRatio": "0.5"}
    assert found.tags == {"pii": ""}


def test_the_seeds_example_of_assigning_fields():
    """Seed 003: an entity is changed from Auto Loader to static CSV by assigning fields; the rules hold again."""
    found = entity(read_options={"cloudFiles.format": "csv", "header": "true"})
    found.source_format = "csv"
    assert found.is_streaming is False
    found.read_options = {"header": "true", "inferSchema": "true"}
    assert found.read_options["inferSchema"] == "true"


@pytest.mark.parametrize(
    ("field", "value"),
    [("source_format", "xml"), ("destination", "a_quarantine"), ("read_options", {"password": "x"}), ("colour", "red")],
)
def test_a_refused_assignment_changes_nothing(field, value):
    """D15's kind: a value that is refused leaves the entity as it was."""
    found = entity()
    before = found.model_dump()
    with pytest.raises(ValidationError):
        setattr(found, field, value)
    assert found.model_dump() == before


def test_parts_are_changed_as_a_whole():
    """A part is frozen: it is assigned anew, so that the rules of the entity hold."""
    found = entity(**history())
    with pytest.raises(ValidationError):
        found.apply_changes.stored_as_scd_type = 2  # type: ignore[union-attr]


def test_rules_come_from_three_maps():
    """D2: expect_all, expect_all_or_drop, expect_all_or_fail."""
    rules = Expectations(expect_all={"a": "x"}, expect_all_or_drop={"b": "y"}, expect_all_or_fail={"c": "z"})
    assert rules.rules == {"a": "x", "b": "y", "c": "z"}


def test_the_fourteen_fields_of_apply_changes():
    """D3: the 13 fields of the seed, and `once`, which its schema allowed and its class refused."""
    seed = [
        "sequence_by",
        "where",
        "ignore_null_updates",
        "apply_as_deletes",
        "apply_as_truncates",
        "column_list",
        "except_column_list",
        "stored_as_scd_type",
        "track_history_column_list",
        "track_history_except_column_list",
        "flow_name",
        "ignore_null_updates_column_list",
        "ignore_null_updates_except_column_list",
    ]
    assert list(ApplyChanges.model_fields) == [*seed, "once"]
    assert ApplyChanges(sequence_by="s", once=True).once
    assert ApplyChanges(sequence_by="s").stored_as_scd_type == 1


@pytest.mark.parametrize("given", [2, "2"])
def test_the_scd_type_may_be_text(given):
    """D3: YAML may give it as text."""
    assert ApplyChanges(sequence_by="s", stored_as_scd_type=given).stored_as_scd_type == 2


EXTRACT = {
    "source_format": "kdb",
    "destination": "extract.trade",
    "read_options": {"kdb.partition": "date"},
    "lakehouse": {"partitions": {"cadence": "daily", "start": "2024-01-02"}},
}
ASOF = {
    "source_format": "asof",
    "source": "a",
    "lakehouse": {"tables": ["a", "b"]},
    "read_options": {"asof.by": "sym", "asof.time": "time", "asof.columns": "bid"},
}


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "landed"),
        ({"source_format": "sqlite"}, "landed"),
        ({"source_format": "kafka"}, "landed"),
        ({"source_format": "kdb"}, "landed"),
        (EXTRACT, "extract"),
        ({"source_format": "dlt", "source": "x"}, "conformed"),
        ({"source_format": "delta"}, "conformed"),
        ({"source_format": "delta", "lakehouse": {"landed_by": "upload"}}, "landed"),
        (history(), "history"),
        ({"source_format": "sql", "source": "SELECT 1"}, "query"),
        ({"source_format": "sql", "source": "SELECT 1", "destination_type": "view"}, "view"),
        ({"source_format": "dlt", "source": "x", "destination_type": "view"}, "view"),
        (ASOF, "asof"),
    ],
    ids=str,
)
def test_the_kind_of_a_table(fields, kind):
    """Design §4: the kind follows from the format, the type and apply_changes."""
    assert entity(**fields).kind == kind


@pytest.mark.parametrize(
    ("destination", "outside", "table"),
    [
        ("dataset1_bronze", True, "bronze.dataset1_bronze"),
        ("dataset1_silver", True, "silver.dataset1_silver"),
        ("dataset1_gold", False, "gold.dataset1_gold"),
        ("dataset1", True, "bronze.dataset1"),
        ("dataset1", False, "silver.dataset1"),
        ("_gold", False, "silver._gold"),
        ("raw.dataset1_gold", True, "raw.dataset1_gold"),
        ("main.etl.dataset1", True, "etl.dataset1"),
    ],
)
def test_the_layer_of_a_destination(destination, outside, table):
    """Design §3: an explicit layer, else the suffix (which stays), else bronze from outside and silver from a table."""
    assert str(TableName.parse(destination, outside)) == table


@pytest.mark.parametrize("destination", ["a-b", "a b", "a.b.c.d", "a/b", "", "bronze.", ".x", "ä", "x" * 201])
def test_destinations_that_name_no_table(destination):
    """Design §3: letters, digits and `_` only, as layer.table."""
    with pytest.raises(CatalogError):
        TableName.parse(destination, True)


def test_the_tables_beside_a_table():
    """Design §3: quarantine, log and corrections stand beside their destination."""
    table = TableName("silver", "x")
    assert [str(t) for t in (table.quarantine, table.changes, table.corrections)] == [
        "silver.x_quarantine",
        "silver.x__changes",
        "silver.x__corrections",
    ]
    assert sorted([TableName("silver", "a"), TableName("bronze", "b")])[0].layer == "bronze"


@pytest.mark.parametrize("source", ["/lake/t", "s3://b/t", "C:\\t", "./t"])
def test_delta_reads_outside_where_its_source_is_a_path(source):
    """A Delta table elsewhere is outside, a name is a table of the catalog."""
    assert entity(source=source, source_format="delta").reads_outside
    assert not entity(source="dataset0", source_format="delta").reads_outside


def test_the_feed_of_an_entity():
    """Design §3: a feed is named by flow_name or by `feed`."""
    assert entity().feed == ""
    assert entity(lakehouse={"feed": "north"}).feed == "north"
    assert entity(**history(flow_name="south")).feed == "south"


def test_the_model_loads_without_heavy_libraries():
    """Design §2: reading entities needs neither Arrow nor a SQL parser."""
    code = (
        "import sys, lakehouse_assets.entities.model\n"
        "print([m for m in ('pyarrow', 'sqlglot', 'duckdb', 'deltalake', 'dagster', 'pyspark') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
