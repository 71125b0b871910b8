"""The JSON schema of a catalog file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import lakehouse_assets
from lakehouse_assets.entities import schema
from lakehouse_assets.entities.model import PROVIDED
from lakehouse_assets_tests.entities.test_catalog import SEED

FILE = Path(lakehouse_assets.__file__).parent / "catalog" / "schema.json"


def errors(data: Any) -> list[str]:
    """What the schema says against some data."""
    return [error.message for error in jsonschema.Draft202012Validator(schema.json_schema()).iter_errors(data)]


def one(**fields: Any) -> dict[str, Any]:
    """A catalog of one entity."""
    return {"delta_live_store": [{"entity_id": "1", "source": "s", "destination": "d", **fields}]}


def test_the_file_is_kept_in_step():
    """Issue: the schema in the repository is the one that the models make (python -m lakehouse_assets.entities.schema)."""
    assert FILE.read_text("utf-8") == schema.text()


def test_every_field_is_described():
    """An editor shows what a field is."""
    definitions = schema.json_schema()["$defs"]
    assert list(definitions["Entity"]["properties"]) == list(PROVIDED)
    missing = [
        f"{name}.{field}"
        for name, block in definitions.items()
        for field, shape in block["properties"].items()
        if not shape.get("description")
    ]
    assert missing == []


def test_the_example_of_the_seed_is_valid():
    """Seed 003: the README's example, as an editor reads it."""
    assert errors(yaml.safe_load(SEED)) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"read_options": {"header": True, "n": 5}},
        {"primary_keys": None, "tags": None, "expectations": None, "apply_changes": None, "lakehouse": None},
        {"apply_changes": {"sequence_by": "s", "once": True}},
        {"lakehouse": {"schedule": {"cron": "@daily"}}},
    ],
    ids=str,
)
def test_what_loads_is_valid(fields):
    """D1, D3: None for maps and lists, scalars as options, and `once` are legal."""
    assert errors(one(**fields)) == []


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"delta_live_store": [{"entity_id": "1"}]},
        {"delta_live_store": [], "more": 1},
        one(colour="red"),
        one(hash="generated"),
        one(source_format="xml"),
        one(apply_changes={}),
        one(lakehouse={"partitions": {"cadence": "daily"}}),
    ],
    ids=str,
)
def test_what_does_not_load_is_not_valid(data):
    """Unknown and generated fields, missing ones and wrong values are marked in the editor."""
    assert errors(data)
