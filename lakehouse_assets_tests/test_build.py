"""The assembly of the graph."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import yaml

from lakehouse_assets.assets.resources import LakehouseResource
from lakehouse_assets.build import build_defs
from lakehouse_assets.entities.catalog import parse_catalog
from lakehouse_assets.errors import CatalogError
from lakehouse_assets.settings import Settings
from lakehouse_assets_tests import graph
from lakehouse_assets_tests.assets.house import CATALOG, key

REPOSITORY = Path(__file__).parent.parent


def build(**settings: object) -> dg.Definitions:
    """The definitions of the small project."""
    environ = {"EDGE_DB": "/data/edge.db"}
    return build_defs(Settings(root="/lake", **settings), parse_catalog({"c.yaml": CATALOG}, {}, environ), environ)


def test_the_graph_of_the_shipped_catalog_is_as_recorded() -> None:
    """Keys, dependencies, groups, kinds, owners, checks, jobs, schedules and sensors change on purpose only."""
    found = graph.text(graph.shipped())
    assert found == graph.FILE.read_text(encoding="utf-8"), (
        f"the graph has changed; if that is meant, run `{graph.COMMAND}` and commit the difference of graph.json"
    )


def test_the_definitions_hold_together() -> None:
    """Dagster resolves every key, resource and job."""
    dg.Definitions.validate_loadable(build())
    dg.Definitions.validate_loadable(graph.shipped())


@pytest.mark.parametrize("automation", ["stopped", "running"])
def test_automation_is_switched_by_a_setting(automation: str) -> None:
    """Sensors and schedules start stopped, unless the setting says otherwise; `make dev` does."""
    repository = build(automation=automation).get_repository_def()
    states = {s.default_status.value for s in [*repository.sensor_defs, *repository.schedule_defs]}
    assert states == {automation.upper()}
    assert {s.name for s in repository.sensor_defs} == {"sources", "commits", "derived_tables", "failures"}


def test_a_resource_can_be_replaced() -> None:
    """What is given takes the place of what the settings describe."""
    other = LakehouseResource(root="/elsewhere")
    environ = {"EDGE_DB": "/data/edge.db"}
    catalog = parse_catalog({"c.yaml": CATALOG}, {}, environ)
    defs = build_defs(Settings(root="/lake"), catalog, environ, resources={"lakehouse": other})
    assert defs.resources is not None
    assert defs.resources["lakehouse"] is other


def test_a_catalog_of_ones_own_is_loaded_from_its_directory(tmp_path: Path) -> None:
    """The settings name the catalog, the environment fills its variables."""
    (tmp_path / "mine.yaml").write_text(CATALOG)
    defs = build_defs(Settings(root="/lake", catalog=tmp_path), environ={"EDGE_DB": "/data/edge.db"})
    assert defs.resolve_asset_graph().has(key("gold.alerts"))
    with pytest.raises(CatalogError, match="EDGE_DB"):
        build_defs(Settings(root="/lake", catalog=tmp_path), environ={})


def test_a_catalog_without_tables_is_an_empty_graph() -> None:
    """When everything is disabled there is nothing to run, and nothing breaks."""
    catalog = parse_catalog({"c.yaml": "delta_live_store: []\n"}, {}, {})
    dg.Definitions.validate_loadable(build_defs(Settings(root="/lake"), catalog, {}))


def test_the_instance_file_is_accepted_and_complete(tmp_path: Path) -> None:
    """dagster.yaml says everything that a deployment decides, and Dagster takes it."""
    text = (REPOSITORY / "dagster.yaml").read_text()
    (tmp_path / "dagster.yaml").write_text(text)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_retries_enabled
        pools = instance.get_concurrency_config().pool_config
        assert (pools.default_pool_limit, pools.pool_granularity.value) == (1, "op")
    wanted = {"telemetry", "run_coordinator", "concurrency", "run_retries", "run_monitoring", "sensors", "schedules"}
    assert wanted | {"backfills", "auto_materialize", "retention", "freshness", "python_logs"} <= set(
        yaml.safe_load(text)
    )
