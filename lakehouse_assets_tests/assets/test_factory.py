"""From a catalog to the assets of the graph."""

from __future__ import annotations

import textwrap
from datetime import timedelta

import dagster as dg
import pytest

from lakehouse_assets.build import build_defs
from lakehouse_assets.entities.catalog import parse_catalog
from lakehouse_assets.settings import Settings
from lakehouse_assets_tests.assets.house import CATALOG, key

MORE = """
  - entity_id: current
    source: silver.readings
    source_format: dlt
    destination: silver.current
    primary_keys: [sensor]
    apply_changes: {sequence_by: id, stored_as_scd_type: 2}
  - entity_id: moves
    source: SELECT sensor FROM silver.current__changes
    source_format: sql
    destination: gold.moves
  - entity_id: unfit
    source: bronze.readings_quarantine
    source_format: dlt
    destination: gold.unfit
    select_expr: [_raw AS row_as_received]
  - entity_id: south
    source: s3://edge/uploads
    source_format: delta
    destination: bronze.uploads
    lakehouse: {landed_by: upload, freshness: {fail: 1 hour}}
  - entity_id: uploads
    source: bronze.uploads
    source_format: dlt
    destination: silver.uploads
    group: far / away
    tags: {"cost centre": north/south}
    comment: What came in
    lakehouse: {owners: ["team:edge", "a@example.technology"], freshness: {warn: 10 seconds}}
  - entity_id: off
    source: bronze.uploads
    source_format: dlt
    destination: silver.off
    is_enabled: false
"""


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    """The definitions of a catalog with every kind of asset."""
    environ = {"EDGE_DB": "/data/edge.db"}
    return build_defs(
        Settings(root="/lake"), parse_catalog({"c.yaml": textwrap.dedent(CATALOG + MORE)}, {}, environ), environ
    )


@pytest.fixture(scope="module")
def graph(defs: dg.Definitions) -> dg.AssetGraph:
    """Their graph."""
    return defs.resolve_asset_graph()


def spec(defs: dg.Definitions, table: str) -> dg.AssetSpec:
    """The definition of one asset."""
    return next(s for s in defs.resolve_all_asset_specs() if s.key == key(table))


def parents(defs: dg.Definitions, table: str) -> set[str]:
    """What an asset depends on."""
    return {"/".join(dep.asset_key.path) for dep in spec(defs, table).deps}


def test_one_destination_is_one_step(defs: dg.Definitions, graph: dg.AssetGraph) -> None:
    """Target and quarantine are written together, and cannot be picked apart; a history brings its log."""
    assert graph.assets_def_for_key(key("silver.readings")).keys == {
        key("silver.readings"),
        key("silver.readings_quarantine"),
    }
    assert not graph.assets_def_for_key(key("silver.readings")).can_subset
    assert graph.assets_def_for_key(key("silver.current")).keys == {
        key("silver.current"),
        key("silver.current__changes"),
    }
    assert graph.assets_def_for_key(key("gold.alerts")).keys == {key("gold.alerts")}


def test_a_quarantine_that_another_table_reads_is_in_the_graph(defs: dg.Definitions, graph: dg.AssetGraph) -> None:
    """Rows that do not fit go to quarantine whatever the entity says: a reader of it has an upstream that is written."""
    assert key("bronze.readings_quarantine") in graph.assets_def_for_key(key("bronze.readings")).keys
    assert parents(defs, "gold.unfit") == {"bronze/readings_quarantine"}


def test_an_edge_is_what_a_table_reads(defs: dg.Definitions) -> None:
    """Sources, tables, quarantines and logs are upstreams under their own keys."""
    assert parents(defs, "bronze.readings") == {"sources/readings"}
    assert parents(defs, "silver.readings") == {"bronze/readings"}
    assert parents(defs, "silver.readings_quarantine") == {"bronze/readings"}
    assert parents(defs, "gold.alerts") == {"silver/readings_quarantine"}
    assert parents(defs, "gold.moves") == {"silver/current__changes"}


def test_a_reader_of_a_view_reads_what_the_view_reads(defs: dg.Definitions, graph: dg.AssetGraph) -> None:
    """A view is an asset that nothing writes; the stored tables behind it are upstreams of its readers, too."""
    assert not graph.get(key("silver.warm")).is_executable
    assert parents(defs, "silver.warm") == {"silver/readings"}
    assert parents(defs, "gold.tops") == {"silver/warm", "silver/readings"}


def test_what_others_write_is_external(graph: dg.AssetGraph, defs: dg.Definitions) -> None:
    """Sources and uploaded tables are in the graph, and a run never writes them."""
    for name in ("sources.readings", "bronze.uploads"):
        assert not graph.get(key(name)).is_executable
    assert parents(defs, "bronze.uploads") == set()
    assert spec(defs, "sources.readings").kinds == {"sqlite"}
    assert spec(defs, "bronze.uploads").freshness_policy is not None


def test_a_disabled_entity_is_not_in_the_graph(graph: dg.AssetGraph) -> None:
    """`is_enabled: false` takes the table out."""
    assert not graph.has(key("silver.off"))


def test_an_asset_says_what_it_is(defs: dg.Definitions) -> None:
    """Name, place, kind of storage, group, owners, tags and description come from the entity."""
    found = spec(defs, "silver.uploads")
    assert found.metadata["dagster/table_name"] == "silver.uploads"
    assert found.metadata["dagster/uri"] == "/lake/silver/uploads"
    assert found.metadata["dagster/storage_kind"] == "delta"
    assert (found.group_name, found.description) == ("far___away", "What came in")
    assert found.owners == ["team:edge"]
    assert found.metadata["owners"] == "a@example.technology"
    assert found.tags["cost_centre"] == "north_south"
    assert found.metadata["tags"].value == {"cost centre": "north/south"}
    assert spec(defs, "silver.readings").kinds == {"sql", "delta", "silver"}


def test_each_destination_has_a_pool_of_its_own(defs: dg.Definitions, graph: dg.AssetGraph) -> None:
    """Two runs do not write one table at a time, and tables do not wait for each other."""
    pools = [graph.assets_def_for_key(key(t)).op.pool for t in ("silver.readings", "bronze.readings")]
    assert pools == ["silver.readings", "bronze.readings"]


def test_freshness_windows_fit_what_dagster_watches(defs: dg.Definitions) -> None:
    """A window shorter than a minute is a minute; without `fail` nothing fails."""
    policy = spec(defs, "silver.uploads").freshness_policy
    assert policy.warn_window.to_timedelta() == timedelta(minutes=1)
    assert policy.fail_window.to_timedelta() > timedelta(days=3650)
    assert spec(defs, "gold.tops").freshness_policy is None


def test_only_derived_tables_follow_others(graph: dg.AssetGraph) -> None:
    """A landed table is refreshed by its source or its schedule, a derived one by what it reads."""
    assert graph.get(key("bronze.readings")).automation_condition is None
    for name in ("silver.readings", "silver.readings_quarantine", "gold.tops", "silver.uploads"):
        assert graph.get(key(name)).automation_condition is not None, name
