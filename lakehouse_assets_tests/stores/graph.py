"""A small graph of every kind of write, for lakes in bad places: two feeds, quarantine, a merge, a whole query."""

from __future__ import annotations

import random
from pathlib import Path

from lakehouse_assets.lake.storage import Storage
from lakehouse_assets_tests.cli.lab import rows_of
from lakehouse_assets_tests.tables.lab import Lab

YAML = """
delta_live_store:
  - entity_id: a
    source: one
    source_format: sqlite
    destination: bronze.t
    source_schema: "k STRING, v STRING"
    lakehouse: {feed: one}
  - entity_id: b
    source: two
    source_format: sqlite
    destination: bronze.t
    source_schema: "k STRING, v STRING"
    lakehouse: {feed: two}
  - entity_id: s
    source: bronze.t
    source_format: dlt
    destination: silver.t
    select_expr: [k, CAST(v AS INT) AS v]
    is_quarantined: true
    expectations: {expect_all: {positive: v > 0}}
  - entity_id: q
    source: "SELECT k, count(*) AS n, sum(v) AS s FROM silver.t GROUP BY k"
    source_format: sql
    destination: gold.q
    primary_keys: [k]
    lakehouse: {refresh_key: [k]}
  - {entity_id: f, source: "SELECT max(n) AS most FROM gold.q", source_format: sql, destination: gold.f}
"""
TABLES = ("bronze.t", "silver.t", "silver.t_quarantine", "gold.q", "gold.f")


def graph(root: Path | str, storage: Storage | None = None) -> Lab:
    """The graph on a lake."""
    return Lab(root, YAML, storage=storage)


def feed(chance: random.Random, *labs: Lab) -> None:
    """The same few rows into both feeds of each lake; some of them do not fit, some break the rule."""
    for source in ("one", "two"):
        rows = [{"k": chance.choice("abcd"), "v": chance.choice(["1", "2", "-1", "x", "5"])} for _ in range(2)]
        for lab in labs:
            lab.feed(source, rows)


def assert_equal(lab: Lab, clean: Lab) -> None:
    """Every table, whole; what says when a row came may differ."""
    for table in TABLES:
        place = table.replace(".", "/")
        found, expected = (rows_of(f"{it.lake.root}/{place}", storage=it.storage) for it in (lab, clean))
        assert found == expected, table
