"""Entities: the 27 fields, their rules, and the combinations that are refused."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from lakehouse_assets.entities.checks import check_label
from lakehouse_assets.entities.model import GENERATED, PROVIDED, ApplyChanges, Entity, Expectations, TableName
from lakehouse_assets.errors import CatalogError

FIELDS = (
    "entity_id source destination destination_type source_format is_streaming primary_keys source_schema select_expr "
    "read_options table_properties tags spark_conf partition_cols group comment id created_ts expired_ts created_by "
    "modified_by is_enabled is_latest hash expectations apply_changes is_quarantined"
).split()
CHANGES = {"sequence_by": "seq"}


def entity(**fields: Any) -> Entity:
    """An entity with the given fields over the least that there must be."""
    return Entity(**{"entity_id": "1", "source": "/data/dataset1", "destination": "dataset1_bronze", **fields})


def refused(**fields: Any) -> str:
    """Why an entity with these fields is refused."""
    with pytest.raises(ValueError) as error:
        entity(**fields)
    return str(error.value)


def history(**changes: Any) -> dict[str, Any]:
    """Fields of an entity with apply_changes."""
    return {"source_format": "dlt", "source": "x", "primary_keys": ["id"], "apply_changes": {**CHANGES, **changes}}


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
    seed = (
        "sequence_by where ignore_null_updates apply_as_deletes apply_as_truncates column_list except_column_list "
        "stored_as_scd_type track_history_column_list track_history_except_column_list flow_name "
        "ignore_null_updates_column_list ignore_null_updates_except_column_list"
    ).split()
    assert list(ApplyChanges.model_fields) == [*seed, "once"]
    assert ApplyChanges(sequence_by="s", once=True).once
    assert ApplyChanges(sequence_by="s").stored_as_scd_type == 1


@pytest.mark.parametrize("given", [2, "2"])
def test_the_scd_type_may_be_text(given):
    """D3: YAML may give it as text."""
    assert ApplyChanges(sequence_by="s", stored_as_scd_type=given).stored_as_scd_type == 2


def test_apply_changes_needs_keys():
    """D47: without primary_keys the seed made a plain table in silence; here it is refused."""
    assert "primary_keys" in refused(**{**history(), "primary_keys": []})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sequence_by": ""}, "blank"),
        ({"stored_as_scd_type": 3}, "1 or 2"),
        ({"column_list": ["id"], "except_column_list": ["b"]}, "one excludes the other"),
        ({"stored_as_scd_type": 2, "track_history_column_list": ["a"], "track_history_except_column_list": ["b"]}, "one excludes"),
        ({"ignore_null_updates_column_list": ["a"], "ignore_null_updates_except_column_list": ["b"]}, "one excludes"),
        ({"track_history_column_list": ["a"]}, "type 1 keeps no history"),
        ({"track_history_except_column_list": ["a"]}, "type 1 keeps no history"),
        ({"ignore_null_updates_column_list": []}, "is empty"),
        ({"column_list": []}, "is empty"),
        ({"column_list": ["a"]}, "leaves out the primary keys id"),
        ({"except_column_list": ["ID"]}, "names the primary keys id"),
        ({"stored_as_scd_type": 2, "track_history_column_list": ["id", "a"]}, "names the primary keys"),
        ({"column_list": ["id", "a", "A"]}, "given twice"),
        ({"column_list": ["id", "__START_AT"]}, "project's own"),
        ({"stored_as_scd_type": 2, "apply_as_truncates": "op = 't'"}, "truncate"),
        ({"flow_name": "a b"}, "feed name"),
    ],
    ids=str,
)  # fmt: skip
def test_combinations_of_apply_changes_that_are_refused(changes, reason):
    """Changes 5.2: what Spark's AUTO CDC refuses is refused, with the reason."""
    assert reason in refused(**history(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"stored_as_scd_type": 2, "track_history_except_column_list": ["seq"]},
        {"stored_as_scd_type": 2, "track_history_column_list": []},
        {"ignore_null_updates": True},
        {"ignore_null_updates_column_list": ["a"]},
        {"column_list": ["id", "a"], "apply_as_deletes": "op = 'd'", "apply_as_truncates": "op = 't'"},
        {"sequence_by": "struct(a, b)", "where": "a > 0", "flow_name": "edge-1"},
    ],
    ids=str,
)
def test_combinations_of_apply_changes_that_are_legal(changes):
    """Changes 5.2: and what makes sense is taken."""
    assert entity(**history(**changes)).kind == "history"


def test_quarantine_without_rules_is_legal():
    """D49: it does not make the table temporary; only rows that do not fit their columns go there."""
    assert entity(is_quarantined=True).is_quarantined


def test_quarantine_goes_with_apply_changes():
    """D46: the seed's limitation is lifted."""
    assert entity(**history(), is_quarantined=True, expectations={"expect_all": {"a": "b > 0"}}).kind == "history"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"expectations": {"expect_all": {"a": "x"}, "expect_all_or_drop": {"a": "y"}}}, "has the name of"),
        ({"expectations": {"expect_all": {"not null": "x", "not_null": "y"}}}, "has the name of"),
        ({"expectations": {"expect_all": {"null_key": "x"}}}, "reason of the project's own"),
        ({"lakehouse": {"severity": {"a": "warn"}}}, "names no rule"),
        ({"primary_keys": ["id", "ID"]}, "given twice"),
        ({"partition_cols": ["_ingested_at"]}, "project's own"),
        ({"source_format": "sql", "source": "SELECT 1", "select_expr": ["a"]}, "write it in the query"),
        ({"source_format": "sql", "source": "SELECT 1", "source_schema": "a INT"}, "come from the query"),
        ({"source_format": "dlt", "source": "x", "source_schema": "a INT"}, "select_expr"),
        ({"source_format": "delta", "source_schema": "a INT"}, "schema of its own"),
        ({"source_format": "dlt", "source": "/a/path"}, "this is a path"),
        ({"source_format": "sql", "source": "SELECT 1", "primary_keys": ["a"], "apply_changes": CHANGES}, "gives no events"),
        ({"source_format": "asof", "source": "trades"}, "two upstream tables"),
        ({"source_format": "asof", "source": "trades", "lakehouse": {"tables": ["quotes", "trades"]}}, "left one equal"),
        ({"lakehouse": {"tables": ["a", "b"]}}, "asof alone"),
        ({"destination_type": "view"}, "a view reads tables"),
        ({"destination_type": "view", **history()}, "a view stores nothing"),
        ({"destination_type": "view", "source_format": "dlt", "source": "x", "is_quarantined": True}, "stores nothing"),
        ({"destination_type": "view", "source_format": "dlt", "source": "x", "expectations": {"expect_all": {"a": "b"}}}, "never be judged"),
        ({"lakehouse": {"refresh_key": ["a"]}}, "query tables"),
        ({"source_format": "dlt", "source": "x", "lakehouse": {"landed_by": "upload"}}, "outside sources alone"),
        ({"lakehouse": {"landed_by": "upload"}, "select_expr": ["a"]}, "the uploader writes this table"),
        ({"partition_cols": ["d"], "lakehouse": {"cluster_by": ["a"]}}, "not both"),
        ({"lakehouse": {"freshness": {"warn": "2 hours", "fail": "1 hour"}}}, "later than fail"),
        ({**history(flow_name="a"), "lakehouse": {"feed": "b"}}, "differs from apply_changes.flow_name"),
    ],
    ids=str,
)  # fmt: skip
def test_fields_that_contradict_each_other(fields, reason):
    """A field that would have no effect, or an effect that nobody expects, is refused with what to do."""
    assert reason in refused(**fields)


def test_every_contradiction_is_told_at_once():
    """One refusal names all of them."""
    said = refused(primary_keys=["a", "a"], partition_cols=["_source"], lakehouse={"refresh_key": ["a"]})
    assert all(reason in said for reason in ("given twice", "project's own", "query tables"))


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "landed"),
        ({"source_format": "sqlite"}, "landed"),
        ({"source_format": "kafka"}, "landed"),
        ({"source_format": "kdb"}, "landed"),
        ({"source_format": "kdb", "read_options": {"kdb.partition": "date"}}, "extract"),
        ({"source_format": "dlt", "source": "x"}, "conformed"),
        ({"source_format": "delta"}, "conformed"),
        ({"source_format": "delta", "lakehouse": {"landed_by": "upload"}}, "landed"),
        (history(), "history"),
        ({"source_format": "sql", "source": "SELECT 1"}, "query"),
        ({"source_format": "sql", "source": "SELECT 1", "destination_type": "view"}, "view"),
        ({"source_format": "dlt", "source": "x", "destination_type": "view"}, "view"),
        ({"source_format": "asof", "source": "a", "lakehouse": {"tables": ["a", "b"]}}, "asof"),
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


@pytest.mark.parametrize(
    "destination",
    ["x_quarantine", "silver.x__changes", "x__corrections", "x__batches", "X_QUARANTINE", "control.batches", "a-b"],
)
def test_names_that_are_kept(destination):
    """Design §3: names beside a destination and the layer `control` are the project's own."""
    assert refused(destination=destination)


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


@pytest.mark.parametrize(
    "name", ["kafka.sasl.password", "token", "client_secret", "kafka.sasl.jaas.config", "fs.s3a.access.key"]
)
@pytest.mark.parametrize("value", ["hunter2", "${PASSWORD}", ""])
def test_secrets_are_references(name, value):
    """Design §7.9: an option whose name says password, token, secret or jaas holds a reference, and is never shown."""
    said = refused(read_options={name: value})
    assert "reference to a secret" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("value", ["${secret:KAFKA_PASSWORD}", "{{secrets/kafka/password}}"])
def test_references_are_kept_as_they_are(value):
    """Design §7.9: a reference stays one."""
    assert entity(read_options={"kafka.sasl.password": value}).read_options == {"kafka.sasl.password": value}


def test_a_password_beside_a_reference_is_seen():
    """Design §7.9: a JAAS line with a user by reference and a password in clear is refused; with both it is legal."""
    line = 'PlainLoginModule required username="${secret:USER}" password="%s";'
    assert "reference" in refused(read_options={"kafka.sasl.jaas.config": line % "hunter2"})
    assert entity(read_options={"kafka.sasl.jaas.config": line % "${secret:PW}"})


@pytest.mark.parametrize("field", ["table_properties", "spark_conf"])
def test_the_other_options_are_watched_as_well(field):
    """Design §7.9: Spark settings carry keys, too."""
    assert "reference" in refused(**{field: {"fs.azure.account.oauth2.client.secret": "x"}})


def test_a_password_in_a_url_is_refused():
    """Design §7.9: `user:password@host` in a source or option is a secret in clear."""
    assert "password in clear" in refused(source="mongodb://me:hunter2@host/db")
    assert "reference" in refused(read_options={"url": "jdbc:postgresql://me:hunter2@host/db"})
    assert entity(source="mongodb://me:${secret:PW}@host/db")


@pytest.mark.parametrize(
    ("options", "legal"),
    [
        ({"source_timezone": "Europe/Vienna"}, True),
        ({"source_timezone": "Mars/Olympus"}, False),
        ({"lookback": "90 minutes", "horizon": "2 days", "tolerance": "1 second"}, True),
        ({"lookback": "soon"}, False),
        ({"lookback": "0 days"}, False),
        ({"partitions": {"cadence": "daily", "start": "2024-01-31"}}, True),
        ({"partitions": {"cadence": "daily", "start": "31.01.2024"}}, False),
        ({"partitions": {"cadence": "secondly", "start": "2024-01-31"}}, False),
        ({"schedule": {"cron": "44 7 * * 1-5", "timezone": "Europe/Amsterdam"}}, True),
        ({"schedule": {"cron": "@daily"}}, True),
        ({"schedule": {"cron": "*/15 * * * *"}}, True),
        ({"schedule": {"cron": "61 * * * *"}}, False),
        ({"schedule": {"cron": "44 37 8 * * ?"}}, False),
        ({"owners": ["team:edge", "a@example.org"]}, True),
        ({"owners": ["edge"]}, False),
        ({"evolution": "rescue", "writers": "spark", "cluster_by": ["a"]}, True),
        ({"evolution": "guess"}, False),
        ({"feed": "a/b"}, False),
        ({"columns": {"id": "the key"}}, True),
    ],
    ids=str,
)
def test_the_block_of_this_project(options, legal):
    """Design §3: what the seed's fields do not hold stands in one strict block."""
    if legal:
        assert entity(lakehouse=options).lakehouse
    else:
        assert refused(lakehouse=options)


def test_durations_are_time_deltas():
    """Durations in words come out as `timedelta`."""
    options = entity(lakehouse={"lookback": "1 day 12 hours", "freshness": {"warn": "90 minutes"}}).lakehouse
    assert options.lookback_delta == dt.timedelta(days=1, hours=12)
    assert options.horizon_delta is None
    assert options.freshness is not None
    assert options.freshness.warn_delta == dt.timedelta(minutes=90)
    assert options.freshness.fail_delta is None


def test_the_name_of_a_check():
    """A rule may have any name; its check has letters, digits and `_`."""
    assert check_label("Temp > 50 °C!") == "temp_50_c"


def test_the_model_loads_without_heavy_libraries():
    """Design §2: reading entities needs neither Arrow nor a SQL parser."""
    code = (
        "import sys, lakehouse_assets.entities.model\n"
        "print([m for m in ('pyarrow', 'sqlglot', 'duckdb', 'deltalake', 'dagster', 'pyspark') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
