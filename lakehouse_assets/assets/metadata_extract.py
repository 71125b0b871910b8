"""What is told of extracts: files, rows and checksums of the days that a run was about, and what their source offers.

What belongs here: the materialization of an extract, the observation of its source. What does not: tables
(`metadata.py`), the version of each day (`partitions.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import dagster as dg

from lakehouse_assets.assets.metadata import column_schema, markdown, of_description, of_outcomes
from lakehouse_assets.assets.naming import asset_key, digest, source_key
from lakehouse_assets.assets.partitions import NOTHING
from lakehouse_assets.entities.model import Entity

if TYPE_CHECKING:
    from lakehouse_assets.lake.extracts import Extract
    from lakehouse_assets.sources.base import PartitionedSource
    from lakehouse_assets.tables.base import Outcome, Work

SHOWN = 31
"""Days of which the files are listed: the newest of a run."""
_COLUMNS = ("date", "rows", "bytes", "checksum", "fingerprint")


def extracted(
    work: Work, entity: Entity, keys: Sequence[str] | None, outcomes: Sequence[Outcome]
) -> dg.MaterializeResult:
    """The materialization of some days of an extract (`None`: of all)."""
    from lakehouse_assets.tables.extract import extracts_of

    store = extracts_of(work, entity)
    wanted = None if keys is None else set(keys)
    there = [key for key in store.partitions() if wanted is None or key in wanted]
    found = [extract for key in there if (extract := store.find(key)) is not None]
    facts: dict[str, Any] = {
        "dagster/uri": store.uri,
        "bytes": sum(one.bytes for one in found),
    }
    if keys is None or len(keys) == 1:
        facts["dagster/row_count" if keys is None else "dagster/partition_row_count"] = sum(one.rows for one in found)
    if found:
        facts["dagster/column_schema"] = column_schema(found[-1].schema, entity.lakehouse.columns)
        facts["files"] = dg.MetadataValue.md(markdown([_file(one) for one in found[-SHOWN:]], _COLUMNS))
    if outcomes:
        facts |= of_outcomes(outcomes)
    return dg.MaterializeResult(asset_key(entity.table), facts, data_version=dg.DataVersion(_version(keys, found)))


def _version(keys: Sequence[str] | None, found: Sequence[Extract]) -> str:
    """That of all files, or of the file of the one day that a run is about."""
    if keys is None:
        return digest("".join(f"{one.key}{one.checksum}" for one in found)) if found else "none"
    return found[0].checksum if len(keys) == 1 and found else NOTHING


def _file(one: Extract) -> dict[str, Any]:
    return {
        "date": one.key,
        "rows": one.rows,
        "bytes": one.bytes,
        "checksum": one.checksum[:16],
        "fingerprint": one.fingerprint,
    }


def observed(work: Work, entity: Entity) -> dg.AssetObservation:
    """What the source of an extract looks like now: what it says of itself, and which of its days are not extracted.

    Raises:
        LakehouseError: it cannot be asked.
    """
    from lakehouse_assets.tables.extract import extracts_of

    with work.open_source(entity) as opened:
        source = cast("PartitionedSource", opened)
        offered = source.partitions()
        facts = of_description(source.describe())
    missing = sorted(set(offered) - set(extracts_of(work, entity).partitions()))
    facts |= {"days": len(offered), "days_not_extracted": len(missing)}
    facts |= {"newest_day": max(offered), "rows_of_newest_day": int(offered[max(offered)])} if offered else {}
    return dg.AssetObservation(source_key(entity), metadata=facts)
