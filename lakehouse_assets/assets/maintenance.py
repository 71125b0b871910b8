"""Maintenance as an asset: all tables of the catalog and the plans, with what was done to each as metadata.

Nothing depends on the asset, and what it does changes no row: the versions of the tables' data stay, so that nothing
downstream is requested. What belongs here: the definition and its metadata. What does not: what is done
(`tables/maintenance.py`), when (`automation/schedules.py`).

No `from __future__ import annotations` here: Dagster reads the annotations of a step as they are.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from lakehouse_assets.assets.factory import RETRIES, Elsewhere
from lakehouse_assets.assets.metadata import markdown
from lakehouse_assets.assets.resources import LakehouseResource, Project
from lakehouse_assets.assets.step import Event, failures
from lakehouse_assets.errors import LakeError, TransientError

if TYPE_CHECKING:
    from lakehouse_assets.tables.maintenance import Upkeep

KEY = dg.AssetKey(["control", "maintenance"])
"""The key of the asset."""
SHORTEST_HOURS = 24
"""Younger files may belong to a batch that still runs."""


class MaintenanceConfig(dg.Config):
    """What a run of the maintenance does; everything, unless the launcher of the run says otherwise."""

    tables: str = Field("*", description="Which tables, as in `lakehouse maintain`; * has the plans, too")
    retention_hours: int = Field(168, ge=SHORTEST_HOURS, description="How long to keep files that no version names")
    dry_run: bool = Field(False, description="Only look what there is to do")


def build_maintenance(project: Project, elsewhere: Elsewhere = lambda _: None) -> dg.AssetsDefinition:
    """The asset that maintains the lake of a project; `elsewhere` is asked before it begins."""

    @dg.asset(
        key=KEY,
        group_name="control",
        kinds={"delta"},
        description="Compacts, vacuums and checkpoints every table of the catalog and the plans; changes no row",
        pool="/".join(KEY.path),
        retry_policy=RETRIES,
    )
    def maintenance(
        context: dg.AssetExecutionContext,
        config: MaintenanceConfig,
        lakehouse: LakehouseResource,
        step_launcher: dg.ResourceParam[dg.StepLauncher],  # noqa: ARG001  # Dagster asks it to run the step
    ) -> Iterator[Event]:
        sent = elsewhere(context)
        yield from [_maintain(project, context, config, lakehouse)] if sent is None else sent

    return maintenance


def _maintain(
    project: Project, context: dg.AssetExecutionContext, config: MaintenanceConfig, lakehouse: LakehouseResource
) -> dg.MaterializeResult:
    from lakehouse_assets.tables.maintenance import chosen, maintain

    with failures(), lakehouse.open(project) as work:
        done: list[Upkeep] = []
        retention = timedelta(hours=config.retention_hours)
        for one in maintain(work, chosen(work, config.tables), retention=retention, dry_run=config.dry_run):
            context.log.info(str(one))
            done.append(one)
        _check(done)
    return dg.MaterializeResult(KEY, facts_of(done))


def facts_of(done: "Sequence[Upkeep]") -> dict[str, Any]:
    """What was done, in sum and by table."""
    rows = [one.row() for one in done]
    columns = [
        "table",
        "state",
        "files_before",
        "files_after",
        "bytes_before",
        "bytes_after",
        "deleted",
        "held_back_by",
    ]
    return {
        "tables": len(rows),
        "files_before": sum(row["files_before"] for row in rows),
        "files_after": sum(row["files_after"] for row in rows),
        "bytes_before": sum(row["bytes_before"] for row in rows),
        "bytes_after": sum(row["bytes_after"] for row in rows),
        "files_deleted": sum(row["deleted"] for row in rows),
        "held_back_by": dg.MetadataValue.json({row["table"]: row["held_back_by"] for row in rows
                                               if row["held_back_by"]}),
        "by_table": dg.MetadataValue.md(markdown(rows, columns)),
        "report": dg.MetadataValue.json(rows),
    }  # fmt: skip


def _check(done: "Sequence[Upkeep]") -> None:
    """Raise what went wrong, when all that could be done was done: transient only if trying again can help all of it.

    Raises:
        TransientError: every failure is one.
        LakeError: at least one is not.
    """
    failed = [(one.table, one.error) for one in done if one.state == "failed" and one.error]
    if failed:
        kind = TransientError if all(error.transient for _, error in failed) else LakeError
        raise kind(
            f"{len(failed)} of {len(done)} tables could not be maintained: "
            + "; ".join(f"{table}: {error}" for table, error in failed),
            fix="see the errors; the other tables are maintained",
        )
