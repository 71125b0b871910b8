"""What the peers do, each in the shortest way that its documentation shows: run with the peers' own environment.

    benchmarks/.venv/bin/python benchmarks/peers.py sqlite_pandas DATABASE TARGET

Imports nothing of the project. Printed is JSON: how long the function took, and what it gave. Libraries are imported
before the clock starts.
"""

from __future__ import annotations

import importlib
import json
import logging
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

BATCH_ROWS = 65_536
RANGES = {
    "temperature": (-20, 60),
    "humidity": (5, 95),
    "pressure": (950, 1050),
    "vibration": (float("-inf"), 10),
    "voltage": (20, 25),
}


# SQLite -> bronze


def sqlite_pandas(database: str, target: str) -> None:
    """With pandas, which reads the whole table; delta-rs writes it."""
    import pandas as pd
    from deltalake import write_deltalake

    with closing(sqlite3.connect(database)) as connection:
        write_deltalake(target, pd.read_sql("SELECT * FROM sensor_readings", connection))


def sqlite_dlt(database: str, target: str) -> None:
    """With dlt's `sql_database` with its pyarrow backend, into a Delta table on disk."""
    import dlt
    from dlt.sources.sql_database import sql_database

    source = sql_database(f"sqlite:///{database}", backend="pyarrow", chunk_size=BATCH_ROWS).with_resources(
        "sensor_readings"
    )
    pipeline = dlt.pipeline(
        "bench",
        pipelines_dir=f"{target}/state",
        destination=dlt.destinations.filesystem(f"{target}/lake"),
        dataset_name="d",
    )
    pipeline.run(source, table_format="delta", write_disposition="append").raise_on_failed_jobs()


def sqlite_adbc(database: str, target: str) -> None:
    """The SQLite driver's Arrow stream, into delta-rs: types are those of the first batch."""
    _adbc(database, target, "SELECT * FROM sensor_readings")


def sqlite_adbc_checked(database: str, target: str) -> None:
    """The same, after a scan that looks at the type of every cell."""
    with closing(sqlite3.connect(database)) as connection:
        kinds = {"INTEGER": "'integer', 'null'", "REAL": "'real', 'null'", "TEXT": "'text', 'null'"}
        columns = connection.execute("SELECT name, type FROM pragma_table_info('sensor_readings')").fetchall()
        sums = ", ".join(f'sum(typeof("{name}") NOT IN ({kinds[kind]}))' for name, kind in columns)
        misfits = connection.execute(f"SELECT {sums} FROM sensor_readings").fetchone()
    if any(misfits):
        raise SystemExit(f"misfits: {misfits}")
    _adbc(database, target, "SELECT * FROM sensor_readings")


def _adbc(database: str, target: str, query: str) -> None:
    import adbc_driver_sqlite.dbapi as driver
    from deltalake import write_deltalake

    with driver.connect(f"file:{database}?mode=ro") as connection, connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(BATCH_ROWS)})
        cursor.execute(query)
        write_deltalake(target, cursor.fetch_record_batch())


def sqlite_connectorx(database: str, target: str) -> None:
    """With connectorx's Arrow stream, into delta-rs: a value that does not fit its column ends it."""
    import connectorx as cx
    from deltalake import write_deltalake

    stream = cx.read_sql(
        f"sqlite://{database}", "SELECT * FROM sensor_readings", return_type="arrow_stream", batch_size=BATCH_ROWS
    )
    write_deltalake(target, stream)


# bronze -> silver


def silver_pandas(bronze: str, target: str, typed: str) -> None:
    """pandas: everything at once, two tables."""
    import pandas as pd
    from deltalake import DeltaTable, write_deltalake

    rows = DeltaTable(bronze).to_pandas().rename(columns={"id": "reading_id"})
    if typed == "typed":
        rows["at"] = pd.to_datetime(rows["at"], format="ISO8601", utc=True).astype("datetime64[us, UTC]")
    fits = pd.Series(True, index=rows.index)
    for name, (low, high) in RANGES.items():
        fits &= rows[name].between(low, high)
    write_deltalake(f"{target}/quarantine", rows[~fits])
    write_deltalake(f"{target}/silver", rows[fits])


def silver_polars(bronze: str, target: str, typed: str) -> None:
    """polars: lazily read, streamed, the names of the broken rules kept; two tables."""
    import polars as pl
    from deltalake import write_deltalake

    at = pl.col("at").str.to_datetime("%+", time_unit="us", time_zone="UTC") if typed == "typed" else pl.col("at")
    rows = pl.scan_delta(bronze).rename({"id": "reading_id"}).with_columns(at)
    broken = {name: ~pl.col(name).is_between(low, high).fill_null(False) for name, (low, high) in RANGES.items()}
    reasons = pl.concat_list([pl.when(rule).then(pl.lit(name)) for name, rule in broken.items()]).list.drop_nulls()
    whole = rows.with_columns(_broken=pl.any_horizontal(*broken.values())).collect(engine="streaming")
    write_deltalake(f"{target}/quarantine", whole.filter("_broken").with_columns(_reasons=reasons).drop("_broken"))
    write_deltalake(f"{target}/silver", whole.filter(~pl.col("_broken")).drop("_broken"))


# reading


def _repeated(query: Callable[[], list[dict[str, Any]]], times: str) -> dict[str, Any]:
    """How long a query took each time, and its rows."""
    seconds, rows = [], []
    for _ in range(int(times)):
        began = time.perf_counter()
        rows = query()
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "rows": rows}


QUERY = (
    "SELECT sensor_id, count(*) AS readings, avg(temperature) AS mean FROM {table} "
    "WHERE status = 1 AND humidity > 50 GROUP BY sensor_id ORDER BY sensor_id"
)


def read_duckdb(table: str, times: str) -> dict[str, Any]:
    """DuckDB over the files that delta-rs names."""
    import duckdb
    from deltalake import DeltaTable

    with duckdb.connect() as connection:

        def query() -> list[dict[str, Any]]:
            files = DeltaTable(table).file_uris()
            return connection.execute(QUERY.format(table=f"read_parquet({files})")).to_arrow_table().to_pylist()

        return _repeated(query, times)


def read_polars(table: str, times: str) -> dict[str, Any]:
    """polars, streaming."""
    import polars as pl

    def query() -> list[dict[str, Any]]:
        rows = pl.scan_delta(table).filter((pl.col("status") == 1) & (pl.col("humidity") > 50))
        grouped = rows.group_by("sensor_id").agg(readings=pl.len(), mean=pl.col("temperature").mean())
        return grouped.sort("sensor_id").collect(engine="streaming").to_dicts()

    return _repeated(query, times)


def read_datafusion(table: str, times: str) -> dict[str, Any]:
    """delta-rs's own query engine, DataFusion."""
    import pyarrow as pa
    from deltalake import DeltaTable, QueryBuilder

    def query() -> list[dict[str, Any]]:
        found = QueryBuilder().register("t", DeltaTable(table)).execute(QUERY.format(table="t"))
        return pa.table(found.read_all()).to_pylist()

    return _repeated(query, times)


# small runs


def land_delta(table: str, times: str) -> dict[str, Any]:
    """delta-rs appends one row, without a plan or a number: again and again, each with a fresh handle."""
    import pyarrow as pa
    from deltalake import write_deltalake

    def land() -> list[dict[str, Any]]:
        write_deltalake(table, pa.table({"id": [1], "v": ["x"]}), mode="append")
        return []

    return _repeated(land, times)


def idle_dlt(database: str, target: str) -> None:
    """With dlt and an incremental cursor: the first run loads, the next find nothing new."""
    import dlt
    from dlt.sources.sql_database import sql_table

    table = sql_table(
        f"sqlite:///{database}",
        "sensor_readings",
        backend="pyarrow",
        incremental=dlt.sources.incremental("id", range_start="open"),
    )
    pipeline = dlt.pipeline(
        "bench",
        pipelines_dir=f"{target}/state",
        destination=dlt.destinations.filesystem(f"{target}/lake"),
        dataset_name="d",
    )
    pipeline.run(table, table_format="delta", write_disposition="append").raise_on_failed_jobs()


_LIBRARIES = {
    "pandas": ("pandas", "deltalake"),
    "dlt": ("dlt", "dlt.sources.sql_database", "pyarrow", "deltalake"),
    "adbc": ("adbc_driver_sqlite.dbapi", "deltalake"),
    "connectorx": ("connectorx", "pyarrow", "deltalake"),
    "polars": ("polars", "deltalake"),
}
"""Part of a function's name -> what it imports."""


def _run(name: str, *words: str) -> None:
    for part, libraries in _LIBRARIES.items():
        if part in name:
            for library in libraries:
                importlib.import_module(library)
    began = time.perf_counter()
    answer = globals()[name](*words)
    sys.stdout.write(json.dumps({"inside": time.perf_counter() - began, "answer": answer}) + "\n")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    _run(*sys.argv[1:])
