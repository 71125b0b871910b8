"""Combinations of fields that are refused, names and secrets included."""

from __future__ import annotations

import pytest

from lakehouse_assets.entities.checks import check_label
from lakehouse_assets_tests.entities.lab import CHANGES, entity, history, refused


def asof(**options):
    """The fields of an as-of join, with read options of its own."""
    given = {"asof.by": "sym", "asof.time": "time", "asof.columns": "bid"} | options
    return {"source_format": "asof", "source": "a", "lakehouse": {"tables": ["a", "b"]}, "read_options": given}


def extract(**fields):
    """The fields of an extract."""
    days = {"partitions": {"cadence": "daily", "start": "2024-01-02"}}
    return {
        "source_format": "kdb",
        "destination": "extract.trade",
        "read_options": {"kdb.partition": "date"},
        "lakehouse": days,
        **fields,
    }


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


@pytest.mark.parametrize("choice", ["fail", "mark"])
def test_a_topic_may_lose_data_in_either_way(choice):
    """Stop, or mark what was lost: both belong to a topic."""
    assert entity(source_format="kafka", lakehouse={"on_data_loss": choice}).lakehouse.on_data_loss == choice


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
        ({"source_format": "kafka", "source_schema": "a INT"}, "from_json"),
        ({"lakehouse": {"on_data_loss": "mark"}}, "belongs to source_format kafka alone"),
        ({"source_format": "kafka", "lakehouse": {"on_data_loss": "drop"}}, "'fail' or 'mark'"),
        ({"source_format": "dlt", "source": "/a/path"}, "this is a path"),
        ({"source_format": "sql", "source": "SELECT 1", "primary_keys": ["a"], "apply_changes": CHANGES}, "gives no events"),
        ({"source_format": "asof", "source": "trades"}, "two upstream tables"),
        ({"source_format": "asof", "source": "trades", "lakehouse": {"tables": ["quotes", "trades"]}}, "left one equal"),
        ({"lakehouse": {"tables": ["a", "b"]}}, "asof alone"),
        (asof(**{"asof.by": ""}), "asof.by: is missing"),
        (asof(**{"asof.direction": "sideways"}), "asof.direction: has another value"),
        (asof(**{"asof.strict": "yes"}), "asof.strict: has another value"),
        (asof(**{"asof.columns": "bid + ask"}), "is no column"),
        (asof(**{"asof.tie": "a AS b"}), "is no column"),
        (asof(**{"asof.keys": "sym"}), "is no option of an as-of join"),
        (asof(**{"asof.columns": "bid, bid AS b2"}), "'bid' stands there twice: bring it once"),
        (asof(**{"asof.columns": "bid, ask AS bid"}), "'bid' stands there twice as a name"),
        (extract(destination="bronze.trade"), "is extracted into files"),
        (extract(lakehouse={}), "needs the day with which it starts"),
        (extract(lakehouse={"partitions": {"cadence": "weekly", "start": "2024-01-02"}}), "made by day"),
        (extract(select_expr=["a"]), "holds rows as they come"),
        (extract(expectations={"expect_all": {"a": "b > 0"}}), "holds rows as they come"),
        ({"source_format": "kdb", "destination": "extract.t", "read_options": {"kdb.host": "h"}}, "holds extracts"),
        ({**asof(), "partition_cols": ["date", "sym"]}, "made by one column"),
        ({**asof(), "expectations": {"expect_all": {"a": "b > 0"}}}, "keeps every left row"),
        ({"destination_type": "view"}, "a view reads tables"),
        ({"destination_type": "view", **history()}, "a view stores nothing"),
        ({"destination_type": "view", "source_format": "dlt", "source": "x", "is_quarantined": True}, "stores nothing"),
        ({"destination_type": "view", "source_format": "dlt", "source": "x", "expectations": {"expect_all": {"a": "b"}}}, "never be judged"),
        ({"lakehouse": {"refresh_key": ["a"]}}, "query tables"),
        ({"source_format": "dlt", "source": "x", "lakehouse": {"landed_by": "upload"}}, "outside sources alone"),
        ({"lakehouse": {"landed_by": "upload"}, "select_expr": ["a"]}, "the uploader writes this table"),
        ({"partition_cols": ["d"], "lakehouse": {"cluster_by": ["a"]}}, "not both"),
        ({"source_format": "sql", "source": "SELECT 1 AS a", "lakehouse": {"evolution": "rescue"}}, "a query has the columns of"),
        ({"source_format": "sql", "source": "SELECT 1 AS a", "lakehouse": {"evolution": "freeze"}}, "nothing to freeze"),
        ({"source_format": "dlt", "source": "x", "destination_type": "view", "lakehouse": {"evolution": "rescue"}}, "a view has"),
        ({**history(), "lakehouse": {"evolution": "rescue"}}, "of kind history keeps no values beside their row"),
        ({"lakehouse": {"landed_by": "upload", "evolution": "rescue"}}, "the uploader writes this table"),
        ({"partition_cols": ["_rescued_data"]}, "the project's own"),
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
    "destination",
    ["x_quarantine", "silver.x__changes", "x__corrections", "x__batches", "X_QUARANTINE", "control.batches", "a-b"],
)
def test_names_that_are_kept(destination):
    """Design §3: names beside a destination and the layer `control` are the project's own."""
    assert refused(destination=destination)


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


def test_the_name_of_a_check():
    """A rule may have any name; its check has letters, digits and `_`."""
    assert check_label("Temp > 50 °C!") == "temp_50_c"
