"""The stand-in against clients that know nothing of this project: PyKX, and qpython3 in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakehouse_assets.simulators.kdb import KdbServer
from lakehouse_assets.simulators.kdb_config import KdbConfig
from lakehouse_assets.simulators.kdb_database import Database
from lakehouse_assets.sources import kdb_queries
from lakehouse_assets_tests.conftest import ROOT, need

DAY = date(2018, 12, 21)
CONFIG = KdbConfig(user="me", password="word", rows=3000, quotes=2, nulls=0.01, symbols=8, compress=1 << 20)
HERE = Path(__file__).parent
QPYTHON = ROOT / "infra" / "local" / "qpython" / ".venv" / "bin" / "python"


@pytest.fixture(scope="module")
def server() -> Iterator[KdbServer]:
    """A stand-in that compresses what gets half as long."""
    with KdbServer(CONFIG) as server:
        yield server


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """What it serves of trades on the day."""
    return Database(CONFIG).rows("trade", DAY)


def read(*command: object) -> dict[str, Any]:
    """What a client in a process of its own reads."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def check(found: dict[str, Any], rows: pa.Table) -> None:
    """What every client reads: nulls as q has them, errors with their texts."""
    assert found["tables"] == ["quote", "trade"]
    assert found["count"] == 3 * 3000
    assert found["partitions"] == [3000, 3000, 3000]
    assert found["times"] == rows.column("time").cast(pa.int64()).to_pylist()
    assert found["sym"] == [name or "" for name in rows.column("sym").to_pylist()]
    assert found["price"] == rows.column("price").fill_null(-1.0).to_pylist()
    assert found["price"].count(-1.0) > 5
    assert found["size"] == rows.column("size").to_pylist()
    assert found["slice"] == rows.column("size").to_pylist()[5:8]
    assert "nyi: 1+1" in found["1+1"]
    assert found["select from nosuch"] == "nosuch"
    assert "refused" in found


def test_pykx_reads_it(server: KdbServer, rows: pa.Table) -> None:
    """K23: tables, `meta`, rows with nulls, parameters, errors, a refused password, compressed frames."""
    found = read(sys.executable, "-W", "ignore", "-m", "lakehouse_assets_tests.simulators.kdb_pykx", server.port)
    check(found, rows)
    assert found["meta"] == {
        "c": ["date", "time", "sym", "bid", "ask", "bsize", "asize"],
        "t": list("dpsffjj"),
        "a": ["", "", "p", "", "", "", ""],
    }
    assert found["cols"] == ["date", *rows.column_names]
    assert found["side"] == rows.column("side").to_pylist()


def test_qpython_reads_it(server: KdbServer, rows: pa.Table) -> None:
    """K23: the same with qpython3, which also sends a message that asks for no answer."""
    need(QPYTHON.exists(), "qpython3", "`make setup-qpython`")
    texts = {name: getattr(kdb_queries, name) for name in ("SLICE", "COUNT", "PARTITIONS")}
    found = read(QPYTHON, "-W", "ignore", HERE / "kdb_qpython.py", server.port, json.dumps(texts))
    check(found, rows)
    assert found["meta"] == dict(zip(("date", *rows.column_names), "dpsfjcs", strict=True))
