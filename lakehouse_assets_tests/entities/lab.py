"""What the tests of entities share: a small entity, and why one is refused."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from lakehouse_assets.entities.catalog import Catalog, parse_catalog
from lakehouse_assets.entities.faults import Fault
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import CatalogError

CHANGES = {"sequence_by": "seq"}
LANDED = "entity_id: a, source: /data/a, destination: bronze.a"
CONFORMED = "entity_id: b, source: bronze.a, source_format: dlt, destination: silver.b"


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


def parse(text: str, sql: dict[str, str] | None = None, **environ: str) -> Catalog:
    """The catalog of one file."""
    return parse_catalog({"c.yaml": textwrap.dedent(text)}, sql or {}, environ)


def listed(*entities: str) -> str:
    """A file with entities, each given by its fields in flow style."""
    return "delta_live_store:\n" + "".join(f"  - {{{fields}}}\n" for fields in entities)


def faults(text: str, sql: dict[str, str] | None = None, **environ: str) -> tuple[Fault, ...]:
    """What is wrong with a file."""
    with pytest.raises(CatalogError) as error:
        parse(text, sql, **environ)
    return error.value.facts["faults"]


def fault(text: str, sql: dict[str, str] | None = None, **environ: str) -> str:
    """The one thing that is wrong with a file."""
    (found,) = faults(text, sql, **environ)
    return str(found)
