"""`lakehouse entities`: what a catalog declares, and what is wrong with it.

What belongs here: printing entities and faults. What does not: reading and checking a catalog (`entities/catalog.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lakehouse_assets.cli.options import catalog_option, format_option, open_catalog, open_settings
from lakehouse_assets.cli.output import print_rows, say
from lakehouse_assets.errors import CatalogError

if TYPE_CHECKING:
    from lakehouse_assets.entities.catalog import Catalog
    from lakehouse_assets.entities.model import Entity

COLUMNS = ("entity_id", "table", "kind", "source_format", "source", "feed", "group", "enabled", "upstreams")
FAULTS = ("file", "line", "entity", "field", "problem", "value", "choices", "nearest", "fix")


@click.group()
def entities() -> None:
    """List, validate and show the entities of a catalog."""


@entities.command(name="list")
@catalog_option
@format_option("table", "json", "csv")
def list_(catalog: Path | None, form: str) -> None:
    """List the entities, upstream tables first."""
    loaded = open_catalog(open_settings(catalog=catalog))
    place = {table: number for number, table in enumerate(loaded.order())}
    ordered = sorted(loaded.entities, key=lambda entity: place.get(entity.table, len(place)))
    print_rows([_row(loaded, entity) for entity in ordered], COLUMNS, form)


def _row(catalog: Catalog, entity: Entity) -> dict[str, Any]:
    upstreams = [str(table) for table in catalog.upstreams(entity.table)] if entity.is_enabled else []
    return {
        "entity_id": entity.entity_id,
        "table": str(entity.table),
        "kind": entity.kind,
        "source_format": entity.source_format,
        "source": " ".join(entity.source.split()),
        "feed": entity.feed or None,
        "group": entity.group,
        "enabled": entity.is_enabled,
        "upstreams": ", ".join(upstreams) or None,
    }


@entities.command()
@catalog_option
@format_option("table", "json")
def validate(catalog: Path | None, form: str) -> None:
    """Check the whole catalog and show every fault; exit code 2 if there is one."""
    from lakehouse_assets.sources.base import FORMATS

    settings = open_settings(catalog=catalog)
    try:
        loaded = open_catalog(settings)
        _check_options(loaded)
    except CatalogError as error:
        if form == "json" and "faults" in error.facts:
            print_rows([_fault_row(fault) for fault in error.facts["faults"]], FAULTS, form)
        raise
    if form == "json":
        print_rows([], FAULTS, form)
    say(f"{settings.catalog}: {len(loaded.entities)} entities make {len(loaded.destinations)} tables; no faults")
    for table, feeds in loaded.destinations.items():
        form = feeds[0].source_format
        if feeds[0].reads_outside and form not in (*FORMATS, "delta"):
            say(f"note: {table} has source_format {form!r}, which this version validates and does not read")


def _check_options(catalog: Catalog) -> None:
    """Raise `CatalogError` if a source could not be opened with the options that its entity gives; none is opened."""
    from lakehouse_assets.entities import yaml_lines
    from lakehouse_assets.entities.catalog import TOP_KEY
    from lakehouse_assets.entities.checks import Misfit
    from lakehouse_assets.entities.faults import Place, refuse
    from lakehouse_assets.sources.base import option_faults

    documents = [(name, yaml_lines.read(text)) for name, text in sorted(catalog.files.items())]
    places = [Place(name, doc, at) for name, doc in documents for at in range(len(doc.data[TOP_KEY] or ()))]
    faults = []
    for place, entity in zip(places, catalog.entities, strict=True):
        for error in option_faults(entity) if entity.is_enabled else ():
            choices = tuple(map(str, error.choices))
            misfit = Misfit(("read_options",), error.problem, error.value, choices, error.fix)
            faults.append(place.fault(entity, misfit))
    if faults:
        raise refuse(faults)


def _fault_row(fault: Any) -> dict[str, Any]:
    row = {name: getattr(fault, name) for name in FAULTS}
    return {**row, "field": ".".join(str(part) for part in fault.field) or None, "choices": list(fault.choices)}


@entities.command()
@click.argument("name")
@catalog_option
@format_option("table", "json")
def show(name: str, catalog: Path | None, form: str) -> None:
    """Show everything about NAME, an entity id or a table: what was given as YAML, or all fields as JSON."""
    loaded = open_catalog(open_settings(catalog=catalog))
    found = [entity for entity in loaded.entities if entity.entity_id == name]
    if not found:
        found = list(loaded.destinations[loaded.base(_resolved(loaded, name))])
    if form == "json":
        rows = [_described(loaded, entity) for entity in found]
        print_rows(rows, list(rows[0]), form)
        return
    import yaml

    for entity in found:
        row = {key: value for key, value in _described(loaded, entity, given=True).items() if value}
        click.echo(yaml.safe_dump(row, sort_keys=False, allow_unicode=True, width=120).rstrip("\n"))


def _resolved(catalog: Catalog, name: str) -> Any:
    try:
        return catalog.resolve(name)
    except CatalogError as error:
        ids = [entity.entity_id for entity in catalog.entities]
        raise CatalogError(
            "no entity has this id, and none makes this table", value=name, choices=[*ids, *error.choices]
        ) from None


def _described(catalog: Catalog, entity: Entity, *, given: bool = False) -> dict[str, Any]:
    """All fields of an entity, or only those that differ from their default, with what follows from them."""
    from lakehouse_assets.entities.model import PROVIDED

    dumped = entity.model_dump(mode="json", exclude_defaults=given)
    upstreams = catalog.upstreams(entity.table) if entity.is_enabled else ()
    return {
        "table": str(entity.table),
        "kind": entity.kind,
        "upstreams": [str(table) for table in upstreams],
        **{key: dumped.get(key) for key in PROVIDED},
        "sql": None if entity.reads_outside else catalog.sql(entity),
    }
