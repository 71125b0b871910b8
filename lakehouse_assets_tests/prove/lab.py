"""A house for proofs: sources of every kind in a directory, a catalog with every kind of table, and provers over them.

What belongs here: what several modules need. What does not: expectations.
"""

from __future__ import annotations

import os
import sqlite3
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse_assets.entities.catalog import Catalog, parse_catalog
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.prove.nursery import Nursery
from lakehouse_assets.prove.proof import Proof, Prover, Trial
from lakehouse_assets.settings import Settings
from lakehouse_assets.simulators.kafka_mock import mock_cluster
from lakehouse_assets.sources.base import Source, open_source
from lakehouse_assets.sources.memory import MemorySource
from lakehouse_assets_tests.tables import partition_lab

ENGINE = "embedded"
SMALL = """
delta_live_store:
  - {entity_id: b, source: DIR/one.db, source_format: sqlite, destination: bronze.orders, source_schema: "id BIGINT, k STRING, v BIGINT"}
"""
"""One table, which sends rows to quarantine."""
CHAIN = """
delta_live_store:
  - {entity_id: a, source: DIR/one.db, source_format: sqlite, destination: bronze.t, source_schema: "id BIGINT, k STRING, v STRING", lakehouse: {feed: one}}
  - {entity_id: b, source: DIR/two.db, source_format: sqlite, destination: bronze.t, source_schema: "id BIGINT, k STRING, v STRING", lakehouse: {feed: two}}
  - {entity_id: s, source: bronze.t, source_format: dlt, destination: silver.t, select_expr: [k, CAST(v AS INT) AS v], is_quarantined: true, expectations: {expect_all: {small: v < 90}}}
  - {entity_id: q, source: "SELECT k, count(*) AS n, sum(v) AS s FROM silver.t GROUP BY k", source_format: sql, destination: gold.q, primary_keys: [k], lakehouse: {refresh_key: [k]}}
  - {entity_id: f, source: "SELECT max(n) AS most FROM gold.q", source_format: sql, destination: gold.f}
"""
"""Five tables in a chain, the first of them fed by two sources."""
EVERY = """
delta_live_store:
  - {entity_id: one, source: DIR/one.db, source_format: sqlite, destination: bronze.orders, source_schema: "id BIGINT, k STRING, v BIGINT", lakehouse: {feed: one}}
  - {entity_id: two, source: DIR/two.db, source_format: sqlite, destination: bronze.orders, source_schema: "id BIGINT, k STRING, v BIGINT", lakehouse: {feed: two}}
  - {entity_id: cursor, source: DIR/keyed.db, source_format: sqlite, destination: bronze.keyed, read_options: {sqlite.cursor: at}}
  - {entity_id: found, source: DIR/found, source_format: cloudFiles, destination: bronze.found, read_options: {cloudFiles.format: csv, header: "true"}, source_schema: "k STRING, day DATE, n INT"}
  - {entity_id: wider, source: DIR/wider, source_format: cloudFiles, destination: bronze.wider, read_options: {cloudFiles.format: json}}
  - {entity_id: rescued, source: DIR/wider, source_format: cloudFiles, destination: bronze.rescued, read_options: {cloudFiles.format: json}, source_schema: k STRING, lakehouse: {evolution: rescue}}
  - {entity_id: whole, source: DIR/whole, source_format: csv, destination: bronze.whole, read_options: {header: "true"}, source_schema: "k STRING, name STRING"}
  - {entity_id: columns, source: DIR/columns, source_format: parquet, destination: bronze.columns}
  - {entity_id: memory, source: memory, source_format: json, destination: bronze.memory, source_schema: "k STRING, x DOUBLE"}
  - {entity_id: elsewhere, source: DIR/elsewhere, source_format: delta, destination: bronze.elsewhere}
  - entity_id: judged
    source: bronze.orders
    source_format: dlt
    destination: silver.orders
    is_quarantined: true
    select_expr: [id, k, CAST(v AS INT) AS v, "CAST(v AS DOUBLE) / 7 AS ratio"]
    expectations: {expect_all: {small: v < 90, even: v % 2 = 0}}
  - {entity_id: dropped, source: bronze.found, source_format: dlt, destination: silver.found, expectations: {expect_all_or_drop: {positive: n > 0}}}
  - {entity_id: widened, source: bronze.wider, source_format: dlt, destination: silver.wider}
  - {entity_id: replaced, source: bronze.whole, source_format: dlt, destination: silver.names, select_expr: [k, upper(name) AS name]}
  - entity_id: versions
    source: bronze.orders
    source_format: dlt
    destination: silver.versions
    primary_keys: [k]
    is_quarantined: true
    expectations: {expect_all: {small: v < 90}}
    apply_changes: {sequence_by: id, stored_as_scd_type: 2, apply_as_deletes: v % 7 = 0, except_column_list: [id]}
  - {entity_id: newest, source: silver.orders, source_format: dlt, destination: silver.newest, primary_keys: [k], apply_changes: {sequence_by: "struct(v, id)", ignore_null_updates: true}}
  - {entity_id: of_versions, source: "SELECT k, count(*) AS n FROM silver.versions GROUP BY k", source_format: sql, destination: gold.versions, primary_keys: [k], lakehouse: {refresh_key: [k]}}
  - {entity_id: broken, source: silver.orders_quarantine, source_format: dlt, destination: silver.broken, select_expr: [id, k, _reasons AS reasons]}
  - {entity_id: seen, source: "SELECT k, v FROM silver.orders WHERE v > 20", source_format: sql, destination: silver.large, destination_type: view}
  - {entity_id: over_view, source: silver.large, source_format: dlt, destination: silver.copied}
  - {entity_id: by_key, source: "SELECT k, count(*) AS n, sum(v) AS s FROM silver.orders GROUP BY k", source_format: sql, destination: gold.by_key, primary_keys: [k], lakehouse: {refresh_key: [k]}}
  - {entity_id: by_day, source: "SELECT day, count(*) AS n, sum(n) AS s FROM silver.found GROUP BY day", source_format: sql, destination: gold.by_day, partition_cols: [day], lakehouse: {refresh_key: [day]}}
  - {entity_id: full, source: "SELECT max(n) AS most, sum(ratio) AS ratio FROM gold.by_key CROSS JOIN silver.orders", source_format: sql, destination: gold.full}
  - {entity_id: of_view, source: "SELECT l.k, count(*) AS n, CAST(:run_date AS STRING) AS day FROM silver.large AS l JOIN silver.names AS s ON l.k = s.k GROUP BY l.k", source_format: sql, destination: gold.large}
"""
"""Every source and every kind of table that there is, but those that are made by partition."""
EVERY += partition_lab.ENTITIES


TOPIC = """
  - {entity_id: topic, source: topic, source_format: kafka, destination: bronze.topic, read_options: {kafka.bootstrap.servers: "SERVERS", kafka.api.version: "2.0"}}
  - {entity_id: of_topic, source: bronze.topic, source_format: dlt, destination: silver.topic, select_expr: ["CAST(value AS STRING) AS k", offset]}
"""
"""What `EVERY` holds besides where there is a broker: a topic and a table that follows it."""


@contextmanager
def topic() -> Iterator[str]:
    """A stand-in for a broker, in this process, with a filled topic; the entities of `TOPIC` that read it."""
    from confluent_kafka import Producer

    with mock_cluster() as servers:
        producer = Producer({"bootstrap.servers": servers, "log_level": 0})
        for n in range(40):
            producer.produce("topic", f"{n}", key="abc"[n % 3], partition=n % 3)
        assert producer.flush(30) == 0
        yield TOPIC.replace("SERVERS", servers)


def open_any(entity: Entity) -> Source:
    """The source of an entity; `memory` is a stream in memory, the same in every process, and so are days of kdb+."""
    if entity.kind == "extract":
        return partition_lab.Memory(entity, partition_lab.days_of(entity.source, 3), [])
    if entity.source != "memory":
        return open_source(entity)
    source = MemorySource(entity, batch_rows=5)
    source.append([{"k": "abc"[n % 3], "x": n / 7} for n in range(12)])
    return source


def orders(database: Path, count: int, first: int = 0) -> None:
    """Append rows to the table of a database; every ninth does not fit its column."""
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY AUTOINCREMENT, k TEXT, v)")
        rows = [("abcde"[n % 5], "n/a" if n % 9 == 4 else n * 37 % 100) for n in range(first, first + count)]
        connection.executemany("INSERT INTO orders (k, v) VALUES (?, ?)", rows)


def furnish(directory: Path) -> None:
    """Put the sources of `EVERY` into a directory."""
    orders(directory / "one.db", 30)
    orders(directory / "two.db", 21, first=100)
    with closing(sqlite3.connect(directory / "keyed.db")) as connection, connection:
        connection.execute("CREATE TABLE keyed (k TEXT, at TEXT, PRIMARY KEY (k, at)) WITHOUT ROWID")
        rows = [("abc"[n % 3], f"2025-05-01T00:00:{n // 2:02d}") for n in range(18)]
        connection.executemany("INSERT INTO keyed VALUES (?, ?)", rows)
    for name in ("found", "wider", "whole", "columns"):
        (directory / name).mkdir()
    for n in range(6):
        lines = [f"{'abc'[i % 3]},2025-05-0{1 + (n + i) % 4},{'x' if i == 3 else i - 1}" for i in range(5)]
        (directory / "found" / f"{n}.csv").write_text("\n".join(["k,day,n", *lines]) + "\n")
        more = f', "since_{n // 2}": {n}' if n > 1 else ""
        (directory / "wider" / f"{n}.json").write_text(f'{{"k": "{n}"{more}}}\n')
        for name in (f"found/{n}.csv", f"wider/{n}.json"):
            os.utime(directory / name, (1_700_000_000 + n, 1_700_000_000 + n))
        names = [f"{'abcde'[i % 5]},name {n} {i}" for i in range(3)]
        (directory / "whole" / f"{n}.csv").write_text("\n".join(["k,name", *names]) + "\n")
    pq.write_table(pa.table({"n": pa.array(range(9)), "x": [n / 3 for n in range(9)]}), directory / "columns/a.parquet")
    deltalake.write_deltalake(str(directory / "elsewhere"), pa.table({"k": ["a", "b"]}))


def catalog_of(directory: Path, yaml: str) -> Catalog:
    """The catalog in `yaml`, over the sources in a directory."""
    return parse_catalog({"lab.yaml": textwrap.dedent(yaml).replace("DIR", str(directory))}, {}, {})


def wrong(trials: Iterable[Trial]) -> list[str]:
    """The trials that did not end equal, for a message."""
    return [str(trial.row()) for trial in trials if trial.state != "equal"]


@contextmanager
def prover(directory: Path, yaml: str, *, seed: int = 1, root: str | None = None, **more: Any) -> Iterator[Prover]:
    """A prover over the sources in a directory."""
    catalog, desk = catalog_of(directory, yaml), directory / "desk"
    desk.mkdir(exist_ok=True)
    place = root or str(directory / "lakes")
    environ: Mapping[str, str] = {**os.environ, **more.pop("environ", {})}
    with ExitStack() as opened:
        nursery = opened.enter_context(Nursery(ENGINE, environ))
        tables = tuple(catalog.order())
        how = {"open_source": f"{__name__}:open_any", **more}
        yield Prover(Proof(Settings(root=place), catalog, environ, tables, place, desk, seed, **how), nursery)
