"""Words of a catalog as words that Dagster accepts."""

from __future__ import annotations

import dagster as dg
import pytest

from lakehouse_assets.assets import naming
from lakehouse_assets.entities.model import Entity


def entity(**fields: object) -> Entity:
    """A plain entity with these fields."""
    return Entity(**({"entity_id": "e", "source": "data", "source_format": "csv", "destination": "bronze.t"} | fields))


def test_different_texts_get_different_names() -> None:
    """Characters that Dagster refuses are replaced, and two texts never meet in one name."""
    assert naming.distinct("plain_1") == "plain_1"
    assert naming.distinct("a b") != naming.distinct("a-b")
    assert naming.distinct("a b").startswith("a_b_")


def test_the_key_of_a_source_does_not_depend_on_the_machine() -> None:
    """A source is named by its entity, never by a path or a host."""
    here, there = entity(source="/here/a.csv"), entity(source="/there/b.csv")
    assert naming.source_key(here) == naming.source_key(there) == dg.AssetKey(["sources", "e"])


def test_a_group_holds_letters_digits_and_underscores() -> None:
    """The group is the entity's, made legal; without one it is the layer."""
    assert naming.group_of([entity(group="edge / north")]) == "edge___north"
    assert naming.group_of([entity()]) == "bronze"


def test_an_owner_that_dagster_refuses_is_kept_apart() -> None:
    """An owner is never dropped: what Dagster refuses goes to the metadata."""
    owners = ["team:edge", "a@example.org", "a@example.technology"]
    assert naming.owners_of([entity(lakehouse={"owners": owners})]) == (owners[:2], owners[2:])


def test_tags_are_made_legal_and_the_original_is_kept() -> None:
    """Tags that Dagster refuses are changed, and what was written is not lost."""
    written = {"cost centre": "north/south", "empty": ""}
    legal, original = naming.tags_of([entity(tags=written)])
    assert legal == {"cost_centre": "north_south", "empty": ""}
    assert original == written
    dg.AssetSpec("t", tags=legal)
    assert naming.tags_of([entity(tags={"a": "b"})]) == ({"a": "b"}, {})


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({}, {"csv", "delta", "bronze"}),
        ({"source_format": "cloudFiles", "read_options": {"cloudFiles.format": "JSON"}}, {"json", "delta", "bronze"}),
        ({"source": "bronze.x", "source_format": "dlt", "destination": "silver.t"}, {"sql", "delta", "silver"}),
        (
            {"source": "SELECT 1 AS a", "source_format": "sql", "destination": "gold.v", "destination_type": "view"},
            {"sql", "view", "gold"},
        ),
    ],
)
def test_kinds_say_what_a_table_is_made_of(fields: dict, kinds: set[str]) -> None:
    """The kinds are the layer, how the table is stored, and where its rows come from."""
    assert naming.kinds_of([entity(**fields)]) == kinds


def test_the_check_of_a_rule_never_takes_the_name_of_a_generated_one() -> None:
    """Rules may have any name; their checks have distinct legal names."""
    names = naming.check_names(["ok", "temp > 50", "temp < 50", "schema"], {"schema"})
    assert names["ok"] == "ok"
    assert names["schema"] == "rule_schema"
    assert len(set(names.values())) == 4
    for name in names.values():
        dg.AssetCheckSpec(name, asset="t")
