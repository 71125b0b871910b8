"""What a catalog of names is to know after a refresh, and that a run on Spark says all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.engines.spark import SparkEngine
from lakehouse_assets.engines.spark_names import Names
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Card
from lakehouse_assets.tables.publish import cards
from lakehouse_assets.tables.refresh import refresh
from lakehouse_assets_tests.tables.lab import Lab

CATALOG = """
delta_live_store:
  - {entity_id: raw, source: raw, source_format: sqlite, destination: told_bronze.raw, source_schema: "id BIGINT, v BIGINT"}
  - entity_id: readings
    source: told_bronze.raw
    source_format: dlt
    destination: told_silver.readings
    comment: COMMENT
    is_quarantined: true
    select_expr: [id, v]
    expectations: {expect_all: {positive: v > 0}}
    tags: {pii: "no", team: data}
    lakehouse: {columns: {v: what was read}}
  - entity_id: high
    source: SELECT id, v FROM told_silver.readings WHERE v > 10
    source_format: sql
    destination: told_gold.high
    destination_type: view
    comment: High readings
  - entity_id: highest
    source: SELECT max(v) AS v FROM told_gold.high
    source_format: sql
    destination: told_gold.highest
    destination_type: view
  - entity_id: counted
    source: SELECT v, count(*) AS n FROM told_silver.readings GROUP BY v
    source_format: sql
    destination: told_gold.counted
    lakehouse: {refresh_key: [v]}
"""
READINGS = TableName("told_silver", "readings")


class Told(EmbeddedEngine):
    """An engine with a catalog of names that takes down what it is told, and refuses what it is asked to."""

    def __init__(self, refused: str = "") -> None:
        super().__init__(Storage())
        self.told: list[Card] = []
        self._refused = refused

    @property
    def publishes(self) -> bool:
        """It does."""
        return True

    def publish(self, card: Card) -> list[str]:
        """Take it down."""
        self.told.append(card)
        return [f"{card.uri}: no right to"] if self._refused and card.uri.endswith(self._refused) else []


def lab(root: Path, comment: str = "Readings") -> Lab:
    """The lake."""
    return Lab(root, CATALOG.replace("COMMENT", comment))


def test_a_table_is_told_with_all_that_stands_on_it(tmp_path: Path) -> None:
    """Itself, its quarantine, the plans, and every view that reads it in the end; tags go to the quarantine, too."""
    place = lab(tmp_path)
    told = list(cards(place.work, READINGS))
    assert [card.uri.removeprefix(f"{tmp_path}/") for card in told] == [
        "told_silver/readings",
        "told_silver/readings_quarantine",
        "control/batches",
        "told_gold/high",
        "told_gold/highest",
    ]
    table, quarantine, plans, high, highest = told
    assert (table.comment, table.columns, table.tags) == (
        "Readings",
        {"v": "what was read"},
        {"pii": "no", "team": "data"},
    )
    assert (quarantine.comment, quarantine.tags) == (
        "Rows of told_silver.readings that broke a rule, and which",
        table.tags,
    )
    assert (plans.comment, plans.tags, high.comment) == (None, {}, "High readings")
    assert high.inputs == highest.inputs == {"told_silver.readings": f"{tmp_path}/told_silver/readings"}


def test_every_refresh_tells_also_one_without_rows(tmp_path: Path) -> None:
    """A lake that was there before the catalog was set is told by the next run, whatever that finds."""
    place = lab(tmp_path)
    place.feed("raw", [{"id": 1, "v": 5}])
    place.run()
    engine = Told()
    assert place.run("told_silver.readings", engine=engine) == []
    assert [Path(card.uri).name for card in engine.told] == [
        "readings",
        "readings_quarantine",
        "batches",
        "high",
        "highest",
    ]
    engine.close()


def test_what_is_refused_is_a_notice_and_costs_no_row(tmp_path: Path) -> None:
    """The rows are in the table, and the next run says it again."""
    place, engine, heard = lab(tmp_path), Told(refused="silver/readings"), []
    place.feed("raw", [{"id": 1, "v": 5}])
    place.run(engine=engine, notify=lambda entity, notices: heard.extend((entity.entity_id, n) for n in notices))
    assert place.rows("told_silver.readings") == [(1, 5)]
    ((entity, notice),) = ((e, n) for e, n in heard if n.code == "not_published")
    assert (entity, notice.message) == ("readings", f"{tmp_path}/told_silver/readings: no right to")
    engine.close()


@pytest.fixture
def named(spark: SparkEngine, tmp_path: Path) -> Iterator[SparkEngine]:
    """An engine that names its tables, in the session of all tests; the names are given up in the end."""
    assert spark.spark  # it is open from here on, and is taken
    engine = SparkEngine(Storage(), names=Names("spark_catalog", str(tmp_path)))
    yield engine
    for schema in ("told_bronze", "told_silver", "told_gold", "control"):
        engine.spark.sql(f"DROP SCHEMA IF EXISTS spark_catalog.{schema} CASCADE")
    engine.close()


def names_in(engine: SparkEngine, schema: str) -> set[str]:
    """What is registered in a schema; temporary views belong to none, and Spark shows them with every one."""
    shown = engine.spark.sql(f"SHOW TABLES IN spark_catalog.{schema}").collect()
    return {row["tableName"] for row in shown if not row["isTemporary"]}


def asked(engine: SparkEngine, query: str) -> list[tuple[Any, ...]]:
    """The answer of the session, which knows names only."""
    return sorted(map(tuple, engine.spark.sql(query).collect()))


def test_a_run_on_spark_names_every_table_and_view(named: SparkEngine, tmp_path: Path) -> None:
    """`<catalog>.<layer>.<table>` shows what the path holds; what embedded made is named by the first run on Spark."""
    place = lab(tmp_path)
    place.feed("raw", [{"id": 1, "v": 5}, {"id": 2, "v": 50}, {"id": 3, "v": -1}])
    place.run()
    place.feed("raw", [{"id": 4, "v": 50}, {"id": 5, "v": 70}])
    heard: list[Any] = []
    place.run(engine=named, notify=lambda _, notices: heard.extend(notices))
    assert heard == []
    assert names_in(named, "control") == {"batches"}
    assert names_in(named, "told_silver") == {"readings", "readings_quarantine"}
    assert names_in(named, "told_gold") == {"counted", "high", "highest"}
    assert asked(named, "SELECT v, n FROM spark_catalog.told_gold.counted") == [(5, 1), (50, 2), (70, 1)]
    assert asked(named, "SELECT v FROM spark_catalog.told_gold.high") == [(50,), (50,), (70,)]
    assert asked(named, "SELECT v FROM spark_catalog.told_gold.highest") == [(70,)]
    ((plans,),) = asked(named, "SELECT count(*) FROM spark_catalog.control.batches")
    assert plans == 6
    assert place.run(engine=named) == []
    again = lab(tmp_path, "Changed")
    again.streams = place.streams
    for table in again.catalog.order():  # a comment is no news for anybody
        assert list(refresh(replace(again.work, engine=named), table)) == []
    handle = named.find(f"{tmp_path}/told_silver/readings")
    assert handle is not None
    assert handle.comment == "Changed"
