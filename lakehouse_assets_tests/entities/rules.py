"""What the tests of single rules share: catalogs of one line an entity, and their faults as records."""

from __future__ import annotations

import pytest

from lakehouse_assets.entities.catalog import Catalog, parse_catalog
from lakehouse_assets.entities.faults import Fault
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import CatalogError
from lakehouse_assets_tests.entities.lab import listed

QUERY = 'entity_id: q, source: "{0}", source_format: sql, destination: gold.q'


def parse(*entities: str, sql: dict[str, str] | None = None, **environ: str) -> Catalog:
    """The catalog of these entities in one file."""
    return parse_catalog({"c.yaml": listed(*entities)}, sql or {}, environ)


def faults_of(texts: dict[str, str], sql: dict[str, str] | None = None, **environ: str) -> tuple[Fault, ...]:
    """What is wrong with these files."""
    with pytest.raises(CatalogError) as error:
        parse_catalog(texts, sql or {}, environ)
    return error.value.facts["faults"]


def only_fault(*entities: str, sql: dict[str, str] | None = None, **environ: str) -> Fault:
    """The one thing that is wrong with these entities."""
    (found,) = faults_of({"c.yaml": listed(*entities)}, sql, **environ)
    return found


def names(tables: tuple[TableName, ...]) -> str:
    """Tables as text, in their order."""
    return " ".join(map(str, tables))
