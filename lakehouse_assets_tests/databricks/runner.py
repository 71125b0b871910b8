"""Runs assets of the project as a run worker does, and prints as JSON what the instance has of the run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.loader import LoadingContextForTest
from dagster._serdes import serialize_value

MODULE = "lakehouse_assets.definitions"


def run(assets: Sequence[str], tags: Mapping[str, str], run_config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run and report."""
    repository = ReconstructableRepository.for_module(MODULE, "defs")
    job = repository.get_reconstructable_job("__ASSET_JOB")
    graph = repository.get_definition().asset_graph
    chosen = dg.AssetSelection.assets(*(dg.AssetKey(name.split("/")) for name in assets))
    keys = sorted(chosen.required_multi_asset_neighbors().resolve(graph), key=str)
    with dg.DagsterInstance.get() as instance:
        try:
            result = dg.execute_job(
                job, instance=instance, tags=tags, asset_selection=keys, run_config=run_config, raise_on_error=False
            )
            run_id = result.run_id
        except DagsterExecutionInterruptedError:
            run_id = instance.get_runs(limit=1)[0].run_id
        return report(instance, run_id, graph)


def report(instance: dg.DagsterInstance, run_id: str, graph: Any) -> dict[str, Any]:
    """What the instance has."""
    found = instance.get_run_by_id(run_id)
    entries = instance.all_logs(run_id)
    statuses = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return {
        "run_id": run_id,
        "status": found.status.value if found else None,
        "tags": dict(found.tags) if found else {},
        "events": [event_of(entry) for entry in entries if entry.dagster_event],
        "stale": {key.to_user_string(): statuses.get_status(key).value for key in graph.materializable_asset_keys},
        "logs": [entry.user_message for entry in entries if not entry.dagster_event],
        "text": "\n".join(serialize_value(entry) for entry in entries),
    }


def event_of(entry: Any) -> dict[str, Any]:
    """An event as plain data."""
    event = entry.dagster_event
    data = event.event_specific_data
    found = {"type": event.event_type_value, "step": event.step_key, "message": event.message}
    if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION:
        made = data.materialization
        found |= {
            "asset": made.asset_key.to_user_string(),
            "tags": dict(made.tags or {}),
            "metadata": sorted(made.metadata),
        }
    if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        found |= {"asset": data.asset_key.to_user_string(), "check": data.check_name, "passed": data.passed}
        found |= {"metadata": sorted(data.metadata), "target": str(data.target_materialization_data)}
    error = getattr(data, "error", None)
    if error is not None:
        found |= {"error": error.to_string()}
    return found


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))))
