"""Two engines, one answer: the same runs on either engine, or on both in turn, end in the same tables."""

from __future__ import annotations

import importlib.resources
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.engines.base import Engine
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.catalog import Catalog, parse_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.lake.names import Lake
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.simulators.sensors import write_history
from lakehouse_assets.tables.base import Work
from lakehouse_assets.tables.maintenance import compact
from lakehouse_assets.tables.refresh import refresh
from lakehouse_assets_tests.prove import lab as every
from lakehouse_assets_tests.simulators.device import START
from lakehouse_assets_tests.tables.lab import NOW

TYPES = """
delta_live_store:
  - entity_id: readings
    source: DIR/in
    source_format: cloudFiles
    destination: bronze.readings
    read_options: {cloudFiles.format: json}
    source_schema: "id BIGINT, at TIMESTAMP, local TIMESTAMP_NTZ, day DATE, price DECIMAL(12,4), x DOUBLE, ok BOOLEAN, tags ARRAY<STRING>, place STRUCT<name: STRING, floor: INT>"
    partition_cols: [day]
  - entity_id: prices
    source: bronze.readings
    source_format: dlt
    destination: silver.prices
    is_quarantined: true
    select_expr: [id, day, at, price, "price * 2 AS twice", "place.name AS place", "size(tags) AS tags", "date_trunc('hour', at) AS hour", "coalesce(x, 0) AS x"]
    expectations: {expect_all: {priced: price IS NOT NULL, sane: price < 1000}}
    partition_cols: [day]
  - entity_id: by_day
    source: "SELECT day, count(*) AS n, sum(price) AS total, max(at) AS last, min(x) AS x FROM silver.prices GROUP BY day"
    source_format: sql
    destination: gold.by_day
    partition_cols: [day]
    lakehouse: {refresh_key: [day]}
  - entity_id: ranked
    source: "SELECT place, hour, count(*) AS n, avg(x) AS x, row_number() OVER (ORDER BY count(*) DESC, place, hour) AS rank FROM silver.prices GROUP BY place, hour"
    source_format: sql
    destination: gold.ranked
"""
"""Types, partitions, and values that do not fit."""
ODD = ("NaN", "-0.0", "1e308", "Infinity", "0.1")


class Lakes:
    """Three lakes over the same sources: each engine's own, and one on which they take turns."""

    def __init__(self, directory: Path, catalog: Catalog, spark: Engine) -> None:
        storage = Storage()
        self.embedded: Engine = EmbeddedEngine(storage)
        turns = {
            "embedded": lambda _: self.embedded,
            "spark": lambda _: spark,
            "in turn": lambda n: (self.embedded, spark)[n % 2],
        }
        self.catalog, self.turns = catalog, turns
        self.works = {
            name: Work(catalog, Lake(str(directory / name.replace(" ", "_")), storage), self.embedded,
                       open_source=every.open_any, clock=lambda: NOW)
            for name in turns
        }  # fmt: skip
        self.round = 0

    def run(self, *rebuilt: str) -> None:
        """Refresh every table of every lake; some are started over."""
        for name, work in self.works.items():
            for n, table in enumerate(self.catalog.order()):
                turn = replace(work, engine=self.turns[name](n + self.round))
                for _ in refresh(turn, table, rebuild=str(table) in rebuilt):
                    pass
        self.round += 1

    def compact(self) -> None:
        """Compact every table of every lake."""
        for name, work in self.works.items():
            for n, table in enumerate(self.catalog.order()):
                if self.stored(work, table):
                    compact(replace(work, engine=self.turns[name](n)), table)

    def stored(self, work: Work, table: TableName) -> bool:
        """Whether a table is there."""
        return self.embedded.find(work.uri(table)) is not None

    def content(self, name: str) -> dict[str, Any]:
        """Every table of a lake with its columns, its rows and the numbers of its feeds."""
        work, found = self.works[name], {}
        for table in self.catalog.order():
            for one in (table, table.quarantine):
                handle = self.embedded.find(work.uri(one))
                if handle is None:
                    continue
                rows = Counter(map(exact, self.embedded.rows(self.embedded.read(handle))))
                numbers = {e.feed: handle.number(work.feed_name(e).app_id) for e in self.catalog.destinations[table]}
                found[str(one)] = {
                    "columns": [(f.name, str(f.type)) for f in handle.schema],
                    "properties": handle.properties,
                    "partitioned": handle.partition_by,
                    "numbers": numbers,
                    "rows": rows,
                }
        return found

    def check(self) -> None:
        """All three lakes hold the same."""
        expected = self.content("embedded")
        assert len(expected) > 3
        assert sum(table["rows"].total() for table in expected.values()) > 20
        for name in ("spark", "in turn"):
            found = self.content(name)
            assert found.keys() == expected.keys()
            for table, content in expected.items():
                for what, value in content.items():
                    assert found[table][what] == value, difference(table, what, name, value, found[table][what])


def exact(row: Mapping[str, Any]) -> str:
    """A row as a text; of doubles what does not depend on the order of rows: twelve digits, and no sign of 0."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return f"{value + 0.0:.12g}"
        if isinstance(value, Mapping):
            return {name: plain(item) for name, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return repr(plain(row))


def difference(table: str, what: str, lake: str, ours: Any, theirs: Any) -> str:
    """What differs, in a few lines."""
    if isinstance(ours, Counter):
        ours, theirs = list((ours - theirs).elements())[:3], list((theirs - ours).elements())[:3]
    return f"{table}: {what} of the lake {lake!r} differ\n  embedded: {ours}\n  {lake}: {theirs}"


def grow_every(directory: Path, n: int) -> None:
    """More rows of each kind of source of the catalog with every kind of table."""
    if n == 0:
        every.furnish(directory)
        return
    every.orders(directory / "one.db", 10, first=200 * n)
    (directory / "found" / f"more{n}.csv").write_text(f"k,day,n\nb,2025-05-0{n},{n}\nq,2025-06-01,oops\n")
    (directory / "wider" / f"more{n}.json").write_text(json.dumps({"k": str(n), "later": {"a": n}}) + "\n")
    (directory / "whole" / f"more{n}.csv").write_text(f"k,name\nz{n},name\n")


def grow_types(directory: Path, n: int) -> None:
    """Readings with odd values; some fit no column."""
    (directory / "in").mkdir(exist_ok=True)
    lines = [
        {
            "id": 100 * n + i,
            "at": f"2024-0{1 + n}-29T0{i % 10}:59:59.999999Z" if n != 1 else f"2024-02-29T0{i % 10}:00:00Z",
            "local": f"1969-12-31T23:59:59.{i:06d}",
            "day": None if i == 5 else f"2024-02-{10 + (i + n) % 4}",
            "price": ["12.3456", 7, "99999999.9999", None, "much"][i % 5],
            "x": float(ODD[i % 5]) if i % 5 in (1, 2, 4) else i,
            "ok": i % 2 == 0,
            "tags": [] if i % 3 else ["ü", None, "\U0001f600"],
            "place": None if i == 7 else {"name": "abc"[i % 3], "floor": i},
        }
        for i in range(12)
    ]
    (directory / "in" / f"{n}.json").write_text("\n".join(map(json.dumps, lines)) + "\n")


def grow_chain(directory: Path, n: int) -> None:
    """Rows for both feeds of the chain."""
    for name in ("one", "two"):
        with closing(sqlite3.connect(directory / f"{name}.db")) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY AUTOINCREMENT, k TEXT, v TEXT)"
            )
            rows = [("abcde"[i % 5], f"{(i * 37 + n) % 120}" if i % 7 else "x") for i in range(15)]
            connection.executemany("INSERT INTO orders (k, v) VALUES (?, ?)", rows)


FOREIGN: dict[str, tuple[str, Callable[[Path, int], None], str]] = {
    "a chain with two feeds": (every.CHAIN, grow_chain, "bronze.t"),
    "every kind": (every.EVERY, grow_every, "silver.orders"),
    "types": (TYPES, grow_types, "silver.prices"),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_catalog_gives_equal_tables(spark: Engine, tmp_path: Path, name: str) -> None:
    """Design §7.4: batches, quarantines, refreshes by key, a rebuild and a compaction give the same on both engines."""
    yaml, grow, rebuilt = FOREIGN[name]
    lakes = Lakes(tmp_path / "lakes", every.catalog_of(tmp_path, yaml), spark)
    grow(tmp_path, 0)
    lakes.run()
    lakes.check()
    grow(tmp_path, 1)
    lakes.run(rebuilt)
    lakes.compact()
    grow(tmp_path, 2)
    lakes.run()
    lakes.check()


@pytest.mark.timeout(900)
def test_the_shipped_catalog_gives_equal_tables(spark: Engine, tmp_path: Path) -> None:
    """Design §7.4: the sensors pipeline over simulated readings, in three batches."""
    directory = Path(str(importlib.resources.files("lakehouse_assets").joinpath("catalog")))
    text = {name: (directory / name).read_text() for name in ("sensors.yaml", "sql/sensor_hourly.sql")}
    queries = {name: query for name, query in text.items() if name.endswith(".sql")}
    environ = {"LAKEHOUSE_SENSOR_DB": str(tmp_path / "edge.db")}
    catalog = parse_catalog({"sensors.yaml": text["sensors.yaml"]}, queries, environ)
    lakes = Lakes(tmp_path / "lakes", catalog, spark)
    for hour in (0, 2, 4):
        start, rates = START + timedelta(hours=hour), {"fault_rate": 0.05, "anomaly_rate": 0.05}
        write_history(tmp_path / "edge.db", start=start, hours=2, sensors=3, **rates)
        lakes.run()
    lakes.check()
