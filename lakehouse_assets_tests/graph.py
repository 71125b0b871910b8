"""The graph of the shipped catalog in one JSON file, so that no change of it goes unseen.

`python -m lakehouse_assets_tests.graph` writes `graph.json` anew; look at the difference before it is committed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse_assets.build import build_defs
from lakehouse_assets.settings import PACKAGED_CATALOG, Settings

FILE = Path(__file__).with_name("graph.json")
COMMAND = "python -m lakehouse_assets_tests.graph"


def shipped() -> dg.Definitions:
    """The definitions of the shipped catalog, whatever this machine's environment says."""
    return build_defs(Settings(root="/lake", catalog=PACKAGED_CATALOG, automation="stopped"), environ={})


def snapshot(defs: dg.Definitions) -> dict[str, Any]:
    """Everything about a graph that others build on: keys, dependencies, groups, kinds, owners, checks, automation."""
    repository = defs.get_repository_def()
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    return {
        "assets": {_name(key): _asset(defs, key) for key in sorted(defs.resolve_asset_graph().get_all_asset_keys())},
        "jobs": {
            job.name: sorted(map(_name, job.asset_layer.executable_asset_keys))
            for job in sorted(jobs, key=lambda job: job.name)
        },
        "schedules": {
            s.name: {"cron": s.cron_schedule, "timezone": s.execution_timezone, "assets": _scheduled(defs, s)}
            for s in sorted(repository.schedule_defs, key=lambda s: s.name)
        },
        "sensors": {
            s.name: {"type": s.sensor_type.value, "default": s.default_status.value}
            for s in sorted(repository.sensor_defs, key=lambda s: s.name)
        },
    }


def _asset(defs: dg.Definitions, key: dg.AssetKey) -> dict[str, Any]:
    graph = defs.resolve_asset_graph()
    node = graph.get(key)
    checks = (graph.get(check) for check in graph.get_check_keys_for_assets({key}))
    return {
        "deps": sorted(map(_name, node.parent_keys)),
        "group": node.group_name,
        "kinds": sorted(node.kinds),
        "owners": list(node.owners),
        "tags": {name: value for name, value in sorted(node.tags.items()) if not name.startswith("dagster/kind/")},
        "checks": {check.key.name: "blocking" if check.blocking else "telling" for check in
                   sorted(checks, key=lambda check: check.key.name)},
        "written": node.is_executable,
        "follows": node.automation_condition.get_label() if node.automation_condition else None,
        "fresh": bool(node.freshness_policy),
        **({"days": str(node.partitions_def)} if node.partitions_def else {}),
    }  # fmt: skip


def _scheduled(defs: dg.Definitions, schedule: dg.ScheduleDefinition) -> list[str]:
    return sorted(map(_name, defs.resolve_job_def(schedule.job.name).asset_layer.executable_asset_keys))


def _name(key: dg.AssetKey) -> str:
    return "/".join(key.path)


def text(defs: dg.Definitions) -> str:
    """The snapshot as it stands in the file."""
    return json.dumps(snapshot(defs), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(shipped()), encoding="utf-8")
