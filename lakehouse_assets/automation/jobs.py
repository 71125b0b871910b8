"""Jobs: for each group of tables one that refreshes it and one that starts it over; for everything; for maintenance.

A job asks for no partition: it makes all that is behind, of tables with days as of others (`whole`). Days by choice are
materialized from the graph.

What belongs here: selections with a name. What does not: when they run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from lakehouse_assets.assets.maintenance import KEY
from lakehouse_assets.assets.naming import asset_key, group_of, op_name
from lakehouse_assets.assets.step import CONFIRM_TAG, RESET_TAG, Destination
from lakehouse_assets.entities.model import TableName

EVERYTHING = "everything"
MAINTENANCE = "maintenance"


def build_jobs(written: Mapping[TableName, Destination]) -> list[UnresolvedAssetJobDefinition]:
    """The jobs over the tables that runs write."""
    groups: dict[str, list[Destination]] = {}
    for made in written.values():
        groups.setdefault(group_of(made.feeds), []).append(made)
    jobs = [
        dg.define_asset_job(f"{group}_job", selection(members), description=f"Refresh the tables of the group {group}")
        for group, members in sorted(groups.items())
    ]
    jobs += [_reset(group, members) for group, members in sorted(groups.items())]
    if written:
        every = selection(list(written.values()))
        jobs.append(dg.define_asset_job(EVERYTHING, every, description="Refresh every table"))
        upkeep = dg.AssetSelection.assets(KEY)
        jobs.append(dg.define_asset_job(MAINTENANCE, upkeep, description="Compact, vacuum and checkpoint every table"))
    return jobs


def whole(
    jobs: Sequence[UnresolvedAssetJobDefinition],
    assets: Sequence[dg.AssetsDefinition | dg.AssetSpec],
    resources: Mapping[str, object],
    executor: dg.ExecutorDefinition,
) -> list[dg.JobDefinition]:
    """The jobs over the same tables, taken without their days.

    Dagster runs a job over tables with days for days that somebody chose, where all of them have the same ones.
    Taken without them, a table is made where it is behind, and its step reports each day that moved.
    """
    plain = dg.map_asset_specs(lambda spec: spec.replace_attributes(partitions_def=None), assets)
    defs = dg.Definitions(assets=list(plain), jobs=list(jobs), resources=resources, executor=executor)
    return [defs.resolve_job_def(job.name) for job in jobs]


def _reset(group: str, members: Sequence[Destination]) -> UnresolvedAssetJobDefinition:
    """Start a group over: every table and its plans together, from the sources on, once that is confirmed by a tag."""
    again = {op_name(made.table): {"config": {"full_refresh": True}} for made in members}
    return dg.define_asset_job(
        f"{group}_reset",
        selection(members),
        config={"ops": again},
        tags={RESET_TAG: group},
        description=f"Start every table of the group {group} over from its sources. Nothing is touched unless the run "
        f"is launched with the tag {CONFIRM_TAG}: {group}",
    )


def selection(made: Sequence[Destination]) -> dg.AssetSelection:
    """The assets of some destinations, and their checks."""
    return dg.AssetSelection.assets(*(asset_key(output) for one in made for output in one.outputs))
