"""Entities, rule by rule: every default, every rule again on assignment, every refusal with its words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lakehouse_assets.entities.model import GENERATED, PROVIDED, ApplyChanges, Entity, Expectations
from lakehouse_assets.entities.options import LakehouseOptions

REQUIRED = {"entity_id": "1", "source": "src", "destination": "dest"}
DEFAULTS: dict[str, Any] = {
    "destination_type": "table",
    "source_format": "cloudFiles",
    "is_streaming": True,
    "primary_keys": [],
    "source_schema": None,
    "select_expr": [],
    "read_options": {},
    "table_properties": {},
    "tags": {},
    "spark_conf": {},
    "partition_cols": [],
    "group": None,
    "comment": None,
    "id": None,
    "created_ts": None,
    "expired_ts": None,
    "created_by": None,
    "modified_by": None,
    "is_enabled": True,
    "is_latest": None,
    "hash": None,
    "expectations": Expectations(),
    "apply_changes": None,
    "is_quarantined": False,
    "lakehouse": LakehouseOptions(),
}
STREAMING = ("cloudFiles", "kafka", "sqlite", "kinesis")
STATIC = ("csv", "json", "parquet", "avro", "orc", "kdb")
LISTS = ("primary_keys", "select_expr", "partition_cols")
MAPS = ("read_options", "table_properties", "tags", "spark_conf")


def entity(**fields: Any) -> Entity:
    """An entity that reads a table of the catalog, with the given fields."""
    return Entity(**{**REQUIRED, "source_format": "dlt", **fields})


def history(**changes: Any) -> Entity:
    """An entity with keys and apply_changes."""
    return entity(primary_keys=["id"], apply_changes={"sequence_by": "seq", **changes})


@pytest.mark.parametrize("field", DEFAULTS)
def test_each_field_has_its_default(field):
    """D1: the default of every field that may be left out."""
    assert getattr(Entity(**REQUIRED), field) == DEFAULTS[field]


def test_three_fields_are_required_and_no_others():
    """D1: entity_id, source, destination."""
    assert [name for name, field in Entity.model_fields.items() if field.is_required()] == list(REQUIRED)


@pytest.mark.parametrize("field", REQUIRED)
def test_a_required_field_that_is_missing(field):
    """D1: the error names the field."""
    with pytest.raises(ValidationError, match=field):
        Entity(**{name: value for name, value in REQUIRED.items() if name != field})


def test_two_entities_do_not_share_their_defaults():
    """D1: the empty lists and maps of one entity are its own."""
    one, other = Entity(**REQUIRED), Entity(**REQUIRED)
    one.tags["pii"] = "yes"
    one.primary_keys.append("id")
    assert (other.tags, other.primary_keys) == ({}, [])


@pytest.mark.parametrize("source_format", STREAMING)
def test_a_streaming_format_that_is_assigned_forces_streaming(source_format):
    """D1: the flag follows an assigned format."""
    found = entity(is_streaming=False)
    found.source_format = source_format
    assert found.is_streaming is True


@pytest.mark.parametrize("source_format", STATIC)
def test_a_static_format_that_is_assigned_forces_no_streaming(source_format):
    """D1: the flag follows an assigned format."""
    found = entity(is_streaming=True)
    found.source_format = source_format
    assert found.is_streaming is False


@pytest.mark.parametrize(("source_format", "flag"), [*((f, True) for f in STREAMING), *((f, False) for f in STATIC)])
def test_the_flag_itself_cannot_be_assigned_against_the_format(source_format, flag):
    """D1: what the format forces stays, whatever is assigned."""
    found = entity(source_format=source_format)
    found.is_streaming = not flag
    assert found.is_streaming is flag


@pytest.mark.parametrize("source_format", ["delta", "dlt"])
def test_delta_and_dlt_keep_what_is_assigned(source_format):
    """D1: here the flag is free."""
    found = entity(source_format=source_format)
    found.is_streaming = False
    assert found.is_streaming is False


ASOF = {"asof.by": "sym", "asof.time": "time", "asof.columns": "bid"}


def test_asof_is_never_streaming():
    """D1: an as-of join reads its tables whole."""
    found = entity(source_format="asof", read_options=ASOF, lakehouse={"tables": ["src", "other"]}, is_streaming=True)
    assert found.is_streaming is False


@pytest.mark.parametrize("field", LISTS)
def test_none_assigned_to_a_list_empties_it(field):
    """D1: None is the empty list on assignment, too."""
    found = entity(**{field: ["a"]})
    setattr(found, field, None)
    assert getattr(found, field) == []


@pytest.mark.parametrize("field", MAPS)
def test_none_assigned_to_a_map_empties_it(field):
    """D1: None is the empty map on assignment, too."""
    found = entity(**{field: {"a": "b"}})
    setattr(found, field, None)
    assert getattr(found, field) == {}


def test_an_empty_group_that_is_assigned_is_none():
    """D1: group "" is no group."""
    found = entity(group="etl")
    found.group = ""
    assert found.group is None


@pytest.mark.parametrize("field", ["expect_all", "expect_all_or_drop", "expect_all_or_fail"])
def test_none_for_a_map_of_rules_is_empty(field):
    """D1, D2: a map of rules may be None."""
    assert getattr(Expectations(**{field: None}), field) == {}


def test_a_dict_assigned_to_expectations_becomes_the_model():
    """D1: on assignment as on construction."""
    found = entity()
    found.expectations = {"expect_all": {"positive": "a > 0"}}  # type: ignore[assignment]
    assert found.expectations == Expectations(expect_all={"positive": "a > 0"})


def test_a_dict_assigned_to_apply_changes_becomes_the_model():
    """D1: on assignment as on construction."""
    found = entity(primary_keys=["id"])
    found.apply_changes = {"sequence_by": "seq", "stored_as_scd_type": 2}  # type: ignore[assignment]
    assert found.apply_changes == ApplyChanges(sequence_by="seq", stored_as_scd_type=2)


def test_models_are_taken_as_they_are():
    """D1: what is a model already stays equal."""
    rules, changes = Expectations(expect_all={"r": "a > 0"}), ApplyChanges(sequence_by="seq")
    found = entity(primary_keys=["id"], expectations=rules, apply_changes=changes)
    assert (found.expectations, found.apply_changes) == (rules, changes)


@pytest.mark.parametrize("field", ["expectations", "apply_changes"])
@pytest.mark.parametrize("value", ["text", 7, ["a"], object()], ids=["text", "number", "list", "object"])
def test_other_types_are_refused_on_assignment(field, value):
    """D1: anything else raises a ValueError, and the entity stays as it was."""
    found = history()
    before = found.model_copy()
    with pytest.raises(ValueError):
        setattr(found, field, value)
    assert found == before


def test_the_model_of_the_other_field_is_refused():
    """D1: expectations are not apply_changes."""
    with pytest.raises(ValueError):
        entity(expectations=ApplyChanges(sequence_by="seq"))


def test_expectations_have_three_fields():
    """D2: expect_all, expect_all_or_drop, expect_all_or_fail."""
    assert list(Expectations.model_fields) == ["expect_all", "expect_all_or_drop", "expect_all_or_fail"]


def test_a_rule_is_sql_text():
    """D2: name to SQL; a rule that is no text is refused."""
    with pytest.raises(ValidationError):
        Expectations(expect_all={"r": ["a > 0"]})  # type: ignore[dict-item]


def test_a_rule_needs_a_name():
    """D2: name to SQL; a rule without a name is refused."""
    with pytest.raises(ValidationError):
        Expectations(expect_all={"": "a > 0"})


@pytest.mark.parametrize(
    ("field", "default"),
    [
        *((name, None) for name in ("where", "apply_as_deletes", "apply_as_truncates", "flow_name")),
        *((f"{name}column_list", None) for name in ("", "except_", "track_history_", "track_history_except_")),
        ("ignore_null_updates_column_list", None),
        ("ignore_null_updates_except_column_list", None),
        ("ignore_null_updates", False),
        ("stored_as_scd_type", 1),
        ("once", False),
    ],
)
def test_each_field_of_apply_changes_has_its_default(field, default):
    """D3: sequence_by is required, the 13 others may be left out."""
    assert getattr(ApplyChanges(sequence_by="seq"), field) == default


def test_apply_changes_needs_a_sequence():
    """D3: sequence_by is required."""
    with pytest.raises(ValidationError, match="sequence_by"):
        ApplyChanges()  # type: ignore[call-arg]


@pytest.mark.parametrize("given", [0, 3, "3", "two", None])
def test_scd_types_that_do_not_exist(given):
    """D3: 1 or 2, and nothing else."""
    with pytest.raises(ValidationError):
        ApplyChanges(sequence_by="seq", stored_as_scd_type=given)


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"column_list": ["id"], "except_column_list": ["b"]}, "except_column_list", "stands beside column_list"),
        (
            {"stored_as_scd_type": 2, "track_history_column_list": ["a"], "track_history_except_column_list": ["b"]},
            "track_history_except_column_list",
            "stands beside track_history_column_list",
        ),
        (
            {"ignore_null_updates_column_list": ["a"], "ignore_null_updates_except_column_list": ["b"]},
            "ignore_null_updates_except_column_list",
            "stands beside ignore_null_updates_column_list",
        ),
        ({"track_history_column_list": ["a"]}, "track_history_column_list", "type 1 keeps no history"),
        ({"track_history_except_column_list": ["a"]}, "track_history_except_column_list", "type 1 keeps no history"),
        ({"column_list": []}, "column_list", "is empty"),
        ({"ignore_null_updates_column_list": []}, "ignore_null_updates_column_list", "is empty"),
        ({"column_list": ["id", "a", "A"]}, "column_list", "'A' is given twice"),
        ({"except_column_list": ["a", "a"]}, "except_column_list", "'a' is given twice"),
        ({"column_list": ["a"]}, "column_list", "leaves out the primary keys id"),
        ({"except_column_list": ["ID"]}, "except_column_list", "names the primary keys id"),
        ({"ignore_null_updates_column_list": ["id"]}, "ignore_null_updates_column_list", "names the primary keys id"),
        ({"column_list": ["id", "__START_AT"]}, "column_list.1", "project's own"),
    ],
    ids=str,
)
def test_refused_combinations_say_where_and_why(changes, where, said):
    """D3: each combination that means nothing is refused, naming the field and the reason."""
    with pytest.raises(ValidationError) as error:
        history(**changes)
    assert f"apply_changes.{where}: " in str(error.value)
    assert said in str(error.value)


def test_a_combination_is_refused_on_assignment():
    """D3: the rules hold for an assigned block; the entity keeps its old one."""
    found = history()
    with pytest.raises(ValidationError, match="type 1 keeps no history"):
        found.apply_changes = {"sequence_by": "seq", "track_history_column_list": ["a"]}  # type: ignore[assignment]
    assert found.apply_changes == ApplyChanges(sequence_by="seq")


def test_keys_cannot_be_taken_from_a_history():
    """D47: apply_changes without primary_keys never becomes a plain table, not by assignment either."""
    found = history()
    with pytest.raises(ValidationError, match="primary_keys"):
        found.primary_keys = []
    assert found.primary_keys == ["id"]
    assert found.kind == "history"


def test_select_and_options_stand_beside_apply_changes():
    """D47: what the original ignored on this path is kept."""
    found = entity(
        source="/events",
        source_format="cloudFiles",
        primary_keys=["id"],
        apply_changes={"sequence_by": "seq"},
        select_expr=["id", "seq"],
        read_options={"cloudFiles.format": "json"},
    )
    assert (found.kind, found.select_expr) == ("history", ["id", "seq"])
    assert found.read_options == {"cloudFiles.format": "json"}


@pytest.mark.parametrize("field", ["expect_all", "expect_all_or_drop", "expect_all_or_fail"])
def test_quarantine_takes_each_kind_of_rule(field):
    """D45: is_quarantined is legal with any of the three maps."""
    found = entity(is_quarantined=True, expectations={field: {"r": "a > 0"}})
    assert (found.is_quarantined, found.kind) == (True, "conformed")


def test_a_view_of_a_table_is_a_view():
    """D48: destination_type view is a kind of its own, with the layer of its name."""
    found = entity(destination="x_gold", destination_type="view")
    assert (found.kind, str(found.table)) == ("view", "gold.x_gold")


def test_generated_and_provided_share_no_field():
    """D5: each field is one or the other, in the order of the fields."""
    assert [name for name in Entity.model_fields if name not in GENERATED] == list(PROVIDED)
    assert len(GENERATED) == 7


@pytest.mark.parametrize("field", [name for name in PROVIDED if name not in ("lakehouse", *REQUIRED)])
def test_a_provided_field_survives_a_round_trip(field):
    """D5: an entity written out and read again is the same entity."""
    found = history()
    assert getattr(Entity.model_validate(found.model_dump()), field) == getattr(found, field)


def test_an_unknown_field_cannot_be_assigned():
    """D1: assignment knows the fields of construction only."""
    found = entity()
    with pytest.raises(ValueError, match="colour"):
        found.colour = "red"  # type: ignore[attr-defined]
