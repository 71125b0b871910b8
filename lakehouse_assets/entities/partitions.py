"""Tables that are made partition by partition: what has to fit between one and what it reads.

What belongs here: which entities have partitions, and rules between two of them. What does not: making partitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lakehouse_assets.entities.checks import Misfit

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import Entity

Where = tuple[str | int, ...]
EXTRACTS = "extract"
"""The layer of Parquet extracts."""


def of_kdb(entity: Entity) -> Iterator[Misfit]:
    """A table by date is extracted: its file holds rows as they are, and stands where extracts stand."""
    from_extract = entity.table.layer == EXTRACTS
    if entity.kind != "extract":
        if from_extract:
            fix = "say kdb.partition, or choose another layer: a table that is read whole is a table of the lake"
            yield Misfit(("destination",), f"the layer {EXTRACTS!r} holds extracts", entity.destination, fix=fix)
        return
    if not from_extract:
        fix = f"write {EXTRACTS}.{entity.table.name}, and load it into {entity.table} (source_format: dlt)"
        yield Misfit(("destination",), "a kdb+ table by date is extracted into files", entity.destination, fix=fix)
    days = entity.lakehouse.partitions
    if days is None:
        fix = "write lakehouse: {partitions: {cadence: daily, start: 2024-01-31}}"
        yield Misfit(("lakehouse", "partitions"), "an extract needs the day with which it starts", fix=fix)
    elif days.cadence != "daily":
        yield Misfit(("lakehouse", "partitions", "cadence"), "an extract is made by day", days.cadence, ("daily",))
    for field in ("select_expr", "is_quarantined", "partition_cols", "primary_keys", "apply_changes"):
        if getattr(entity, field):
            fix = "say it at the table that is loaded from it, or at one that reads that table"
            yield Misfit((field,), "an extract holds rows as they come", fix=fix)
    if entity.expectations.rules:
        yield Misfit(("expectations",), "an extract holds rows as they come", fix="judge them in a table of the lake")


def misfits(entity: Entity, where: Where, name: str, upstream: Sequence[Entity], feeds: int) -> Iterator[Misfit]:
    """What does not fit between an entity and a table that it reads.

    Args:
        name: the upstream table, as it is written.
        upstream: the entities that make it.
        feeds: how many entities make the entity's own table.
    """
    if not upstream:
        return
    if upstream[0].kind == "extract" and feeds > 1:
        fix = "give each its own table, and unite them in one that reads both"
        yield Misfit(("destination",), f"a table that is loaded from the extract {name} has one feed", fix=fix)
    if upstream[0].kind == "extract":
        yield from _of_extract(entity, where, name, upstream[0])
    elif entity.kind == "asof" and entity.partition_cols:
        found = upstream[0].partition_cols
        if found != entity.partition_cols:
            yield Misfit(
                ("partition_cols",),
                f"the as-of join is made by {entity.partition_cols[0]!r}, and {name} is not partitioned by it alone",
                entity.partition_cols,
                tuple(found),
                "load both tables from extracts by that column, or leave partition_cols out to make it as a whole",
            )


def _of_extract(entity: Entity, where: Where, name: str, extract: Entity) -> Iterator[Misfit]:
    column = extract.read_options["kdb.partition"]
    if entity.source_format != "dlt" or entity.destination_type == "view":
        yield Misfit(
            where,
            f"{name} is an extract: files, not a table",
            name,
            fix="load it into a table of source_format dlt, and read that one",
        )
        return
    for field in ("select_expr", "apply_changes", "is_quarantined"):
        if getattr(entity, field):
            fix = "do that in a table that reads this one"
            yield Misfit(
                (field,), f"a table that is loaded from the extract {name} holds its rows as they are", fix=fix
            )
    if entity.expectations.rules:
        fix = "judge rows in a table that reads this one"
        yield Misfit(
            ("expectations",), f"a table that is loaded from the extract {name} holds its rows as they are", fix=fix
        )
    if entity.lakehouse.evolution == "rescue":
        fix = "freeze it, or leave it out: new columns are added"
        yield Misfit(("lakehouse", "evolution"), "every value of an extract fits its column", "rescue", fix=fix)
    if entity.partition_cols != [column]:
        yield Misfit(
            ("partition_cols",),
            f"a table that is loaded from the extract {name} is partitioned as that is",
            entity.partition_cols,
            fix=f"write partition_cols: [{column}]",
        )
