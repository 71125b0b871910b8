"""The JSON schema of a catalog file, made from the models, for editors and other tools.

What belongs here: making it and writing it down. What does not: checking a catalog (`catalog.py` says more).

`python -m lakehouse_assets.entities.schema` writes `lakehouse_assets/catalog/schema.json`. A catalog file names it in
its first line: `# yaml-language-server: $schema=PATH/schema.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lakehouse_assets.entities.catalog import TOP_KEY
from lakehouse_assets.entities.model import GENERATED, Entity

_SCALAR = ["string", "number", "boolean"]


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a catalog file."""
    entity = Entity.model_json_schema()
    definitions = entity.pop("$defs")
    for name in GENERATED:
        del entity["properties"][name]
    for name in ("read_options", "table_properties", "spark_conf", "tags"):
        entity["properties"][name]["additionalProperties"] = {"type": _SCALAR}
    for block in (entity, *definitions.values()):
        for field, shape in block.get("properties", {}).items():
            block["properties"][field] = _plain(shape, field not in block.get("required", ()))
    entity["description"] = "The record that declares one table."
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Catalog",
        "description": "Tables that the graph is made of.",
        "type": "object",
        "additionalProperties": False,
        "required": [TOP_KEY],
        "properties": {TOP_KEY: {"type": ["array", "null"], "items": {"$ref": "#/$defs/Entity"}}},
        "$defs": {"Entity": entity, **dict(sorted(definitions.items()))},
    }


def _plain(shape: dict[str, Any], optional: bool) -> dict[str, Any]:
    """A field's schema as a person would write it: no generated title, and null where the field may be left out."""
    shape.pop("title", None)
    if optional and shape.get("type") in ("array", "object"):
        shape["type"] = [shape["type"], "null"]
    elif optional and "$ref" in shape:
        shape = {"anyOf": [{"$ref": shape.pop("$ref")}, {"type": "null"}], **shape}
    return shape


def text() -> str:
    """The schema as it stands in the file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the schema beside the shipped catalog."""
    path = Path(__file__).parents[1] / "catalog" / "schema.json"
    path.write_text(text(), encoding="utf-8")
    print(path)  # noqa: T201 - what a command prints


if __name__ == "__main__":
    main()
