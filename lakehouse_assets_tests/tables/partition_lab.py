"""A lake whose extracts come from days in memory: the honest stand-in of a partitioned source, everything else real.

`python -m lakehouse_assets_tests.tables.partition_lab ROOT FILE DAY …` makes days of it when the file is there.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import SourceMissing
from lakehouse_assets.sources.base import Batch, Fingerprint, PartitionedSource, Past, Position, Source
from lakehouse_assets_tests.tables.lab import Lab

NS = 1_000
ENTITIES = """
  - &extract
    entity_id: xt
    source: trade
    source_format: kdb
    destination: extract.trade
    read_options: {kdb.host: localhost, kdb.port: 5000, kdb.partition: date}
    lakehouse: {partitions: {cadence: daily, start: 2024-01-02}}
  - {<<: *extract, entity_id: xq, source: quote, destination: extract.quote}
  - &load {entity_id: t, source: extract.trade, source_format: dlt, destination: bronze.trades, partition_cols: [date]}
  - {<<: *load, entity_id: q, source: extract.quote, destination: bronze.quotes}
  - entity_id: j
    source: bronze.trades
    source_format: asof
    destination: silver.joined
    partition_cols: [date]
    read_options: {asof.by: sym, asof.time: time, asof.tie: _row, asof.columns: "bid, ask"}
    select_expr: [date, sym, time, price, bid, ask, (bid + ask) / 2 AS mid]
    lakehouse: {tables: [bronze.trades, bronze.quotes]}
  - entity_id: g
    source: "SELECT date, sym, count(*) AS trades, max(price) AS high FROM silver.joined GROUP BY date, sym"
    source_format: sql
    destination: gold.bars
    primary_keys: [date, sym]
    partition_cols: [date]
    lakehouse: {refresh_key: [date]}
"""
"""Extract, load, as-of join, and a table that follows it."""
MADE = ("extract.trade", "extract.quote", "bronze.trades", "bronze.quotes", "silver.joined", "gold.bars")
CATALOG = f"delta_live_store:{ENTITIES}"
TRADE = pa.schema([pa.field("time", pa.int64()), pa.field("sym", pa.string()), pa.field("price", pa.float64())])
QUOTE = pa.schema([*TRADE.remove(2), pa.field("bid", pa.float64()), pa.field("ask", pa.float64())])
SCHEMAS = {"trade": TRADE, "quote": QUOTE}
Days = dict[str, pa.Table]


def days_of(table: str, count: int = 6) -> Days:
    """The first days of January, always the same; the second is empty, from the fourth on there is a column more."""
    return {f"2024-01-{n + 2:02d}": _day_of(table, n) for n in range(count)}


def _day_of(table: str, n: int) -> pa.Table:
    rows = [] if n == 1 else [(i * 7 % 5, ("A", "B", None)[i % 3], float(10 * n + i), float(i)) for i in range(6)]
    schema = SCHEMAS[table].append(pa.field("cond", pa.float64())) if n > 2 else SCHEMAS[table]
    return table_of(schema, [(*row, row[-1])[: len(schema)] for row in rows])


def table_of(schema: pa.Schema, rows: Sequence[tuple]) -> pa.Table:
    """Rows as a table."""
    return pa.table([pa.array([row[at] for row in rows], field.type) for at, field in enumerate(schema)], schema=schema)


class Memory(PartitionedSource):
    """Days in memory; `asked` counts what was asked of it."""

    def __init__(self, entity: Entity, days: Days, asked: list[str]) -> None:
        super().__init__(entity)
        self.days, self.asked = days, asked

    def partitions(self) -> Mapping[str, str]:
        """Each day and how many rows it has."""
        return {key: str(rows.num_rows) for key, rows in sorted(self.days.items())}

    def fingerprint(self, key: str) -> Fingerprint:
        """Of all rows."""
        rows = self._day(key)
        return Fingerprint(rows.num_rows, hashlib.md5(repr(rows.to_pylist()).encode()).hexdigest())

    def columns_of(self, key: str) -> pa.Schema:
        """The day's own, and `_row`."""
        return pa.schema([*self._day(key).schema, pa.field("_row", pa.int64())])

    def read_partition(self, key: str) -> Iterator[pa.RecordBatch]:
        """Two rows at a time."""
        self.asked.append(key)
        rows = self._day(key).append_column("_row", pa.array(range(self._day(key).num_rows), pa.int64()))
        yield from rows.to_batches(max_chunksize=2)

    def _day(self, key: str) -> pa.Table:
        if key not in self.days:
            raise SourceMissing(f"no partition {key}", fix="look")
        return self.days[key]

    def schema(self) -> pa.Schema:
        """Of the table."""
        return SCHEMAS[self.entity.source]

    def earliest(self) -> Position:
        """Nothing: it is read by partition."""
        return {}

    def latest(self, past: Past) -> Position:
        """Nothing, as above."""
        return {}

    def read(self, start: Position, end: Position) -> Iterator[Batch]:
        """Nothing, as above."""
        return iter(())

    def incarnation(self, position: Position) -> str:
        """The table's name."""
        return self.entity.source

    def describe(self) -> dict[str, Any]:
        """What it is."""
        return {"kind": "memory"}


def open_days(entity: Entity) -> Source:
    """The days of an entity, the same in every process."""
    return Memory(entity, days_of(entity.source), [])


class PartitionLab(Lab):
    """A lake at `root`; `put` changes a day of `trade` or `quote`."""

    def __init__(self, root: Path | str, yaml: str = CATALOG, **how: Any) -> None:
        self.days: dict[str, Days] = {"trade": {}, "quote": {}}
        self.asked: list[str] = []
        super().__init__(root, yaml, **how)

    def open(self, entity: Entity) -> Source:
        """Days in memory in place of kdb+."""
        if entity.kind != "extract":
            return super().open(entity)
        return Memory(entity, self.days[entity.source], self.asked)

    def put(self, table: str, key: str, *rows: tuple, schema: pa.Schema | None = None) -> None:
        """Let a day hold these rows."""
        self.days[table][key] = table_of(schema or SCHEMAS[table], rows)

    def day(self, key: str, price: float = 10.0) -> None:
        """A day of two trades and two quotes."""
        self.put("trade", key, (5, "A", price), (1, "A", price + 1), (7, None, price + 2))
        self.put("quote", key, (2, "A", 1.0, 3.0), (4, "A", 2.0, 4.0), (4, "A", 3.0, 5.0), (0, None, 9.0, 9.0))


def main(root: str, begin: str, *keys: str) -> None:
    """Make days of the first five tables of a lake, as soon as the file `begin` is there: a process of its own does."""
    it = PartitionLab(root)
    it.days = {table: days_of(table) for table in SCHEMAS}
    print("ready", flush=True)
    while not Path(begin).exists():
        time.sleep(0.01)
    for table in MADE[:5]:
        it.run(table, partitions=keys)


if __name__ == "__main__":
    main(*sys.argv[1:])
