"""kdb+ to Delta: days of a kdb+ process over q IPC to Parquet extracts to a Delta table; and the client by itself."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

from benchmarks import common
from benchmarks.common import Case, Report

DAYS = 10
TIMES = 5
"""How often a process reads the table: the first time warms it up, the rest are its figure."""
OURS, PYKX = "ours: read and convert", "PyKX: read and .pa()"
LIMIT = "the stand-in, its bytes only"
CATALOG = """
delta_live_store:
  - entity_id: x
    source: trade
    source_format: kdb
    destination: extract.trade
    read_options: {{kdb.host: 127.0.0.1, kdb.port: "{port}", kdb.partition: date}}
    lakehouse: {{partitions: {{cadence: daily, start: 2018-01-02}}}}
  - {{entity_id: t, source: extract.trade, source_format: dlt, destination: bronze.trades, partition_cols: [date]}}
"""
ABOUT = (
    "A stand-in for a kdb+ process serves trades (timestamp, symbol, price, size, side, condition) over q IPC. The "
    "pipeline reads ten days into Parquet extracts and these into a Delta table, each run into an empty lake, in a "
    "fresh process. The client by itself reads `select time, sym, price, size` of one day into Arrow, six times in a "
    "process; *inside* is the median of the five after the first. PyKX runs without a licence."
)
NOTES = [
    "The stand-in and the reader share two cores. Days are made by the stand-in before anything is measured.",
    "kdb+ itself was not at hand: how fast a q process serves is not in these figures.",
]


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `results/kdb_to_delta.json`."""
    given = common.options(ABOUT, 10_000_000, 50_000, argv)
    report = Report("kdb_to_delta", "kdb+ to Delta", ABOUT, given, notes=NOTES)
    with common.workplace() as place:
        with stand_in(DAYS, given.rows // DAYS) as server:
            catalog = common.catalog_of(place / "catalog", CATALOG.format(port=server.port))
            lake = place / "lake"
            pipeline = Case(
                "kdb+ to Parquet to Delta",
                lambda: common.run_command(catalog, common.fresh(lake)),
                rows=given.rows,
                check=lambda sample: _whole(sample, given.rows),
            )
            rows = common.measured([pipeline], given.repeat)
        report.table(f"{given.rows:,} rows, {DAYS} days", rows)
        report.target("peak memory", "at most 1 GB", 1_000, rows[0]["peak_mb"]["median"], "MB")
        with stand_in(1, given.rows // 5) as server:
            reads = common.measured(list(_reads(server, given)), given.repeat)
        report.table(f"The client by itself, {given.rows // 5:,} rows of four columns", reads, against=OURS)
    served = next(row for row in reads if row["name"] == LIMIT)["inside_seconds"]["median"]
    report.target("the stand-in serves them", "under 1 s", 1, served, "s")
    if given.peers:
        found = common.ratio(reads, PYKX, OURS, "inside_seconds")
        report.target("PyKX / ours", "at least 1", 1, found, "x", least=True)
    report.write()


def _whole(sample: common.Sample, rows: int) -> None:
    assert [row["rows_in"] for row in sample.said] == [rows, rows], sample.said


def _reads(server: Any, given: Any) -> Iterator[Case]:
    """The reads of one day: ours, PyKX's, and as a limit the bytes alone."""
    rows = given.rows // 5
    yield Case(OURS, lambda: common.ours("kdb_to_delta", "read_ours", server.port), rows=rows, inside=_median)
    if given.peers:
        pykx = common.ours("kdb_to_delta", "read_pykx", server.port)
        yield Case(PYKX, lambda: pykx, "peer", rows=rows, inside=_median, environ={"PYKX_UNLICENSED": "true"})
    yield Case(
        LIMIT, lambda: common.ours("kdb_to_delta", "read_bytes", server.port), "limit", rows=rows, inside=_median
    )


def _median(said: Any) -> float:
    return statistics.median(said[1:])


@contextmanager
def stand_in(days: int, rows: int) -> Iterator[Any]:
    """A kdb+ stand-in whose days are made already."""
    from lakehouse_assets.simulators.kdb import KdbServer
    from lakehouse_assets.simulators.kdb_config import KdbConfig
    from lakehouse_assets.simulators.kdb_prices import trading_days

    found = trading_days(date(2018, 1, 2), date(2018, 12, 31))[:days]
    with KdbServer(KdbConfig(dates=tuple(found), symbols=500, rows=rows, quotes=0, cache=4 << 30)) as server:
        client = _client(server.port)
        for day in found:
            client.table(f"select time, sym, price, size from trade where date={day:%Y.%m.%d}")
        client.close()
        yield server


def _client(port: int) -> Any:
    from lakehouse_assets.sources.kdb_client import KdbServer, OwnClient

    return OwnClient(KdbServer("127.0.0.1", port))


QUERY = "select time, sym, price, size from trade where date=2018.01.02"


def _timed(read: Any) -> list[float]:
    seconds = []
    for _ in range(TIMES + 1):
        began = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - began)
    return seconds


def read_ours(port: str) -> list[float]:
    """Our client, to Arrow."""
    client = _client(int(port))
    return _timed(lambda: client.table(QUERY))


def read_pykx(port: str) -> list[float]:
    """PyKX without a licence, to Arrow."""
    import pykx

    with pykx.SyncQConnection("127.0.0.1", int(port), no_ctx=True) as q:
        return _timed(lambda: q(QUERY).pa())


def read_bytes(port: str) -> list[float]:
    """The answer's bytes, thrown away."""
    import socket
    import struct

    from lakehouse_assets.sources import qipc

    asked = b"".join(qipc.encode((QUERY,), qipc.Kind.SYNC))
    with socket.create_connection(("127.0.0.1", int(port))) as sock:
        sock.sendall(b"bench:\x06\x00")
        sock.recv(1)
        buffer = bytearray(1 << 20)

        def read() -> None:
            sock.sendall(asked)
            first = b""
            while len(first) < 8:
                first += sock.recv(8 - len(first))
            left = struct.unpack("<I", first[4:])[0] - 8
            while left:
                left -= sock.recv_into(buffer, min(left, len(buffer)))

        return _timed(read)


if __name__ == "__main__":
    main()
