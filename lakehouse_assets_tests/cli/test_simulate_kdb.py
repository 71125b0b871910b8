"""`lakehouse simulate kdb`."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from lakehouse_assets.simulators.kdb import KdbServer
from lakehouse_assets.simulators.kdb_config import KdbConfig
from lakehouse_assets.sources import kdb_client
from lakehouse_assets.sources import kdb_queries as q
from lakehouse_assets_tests.cli.lab import Machine

SMALL = ("--port", "0", "--dates", "2018-12-19..2018-12-21", "--rows", "100", "--quotes", "2", "--symbols", "6")


def client(port: int, *who: str) -> kdb_client.OwnClient:
    """A client of the command's server."""
    return kdb_client.OwnClient(kdb_client.KdbServer("127.0.0.1", port, *who))


@contextmanager
def serving(machine: Machine, *how: object) -> Iterator[tuple[subprocess.Popen[str], int, list[str]]]:
    """The command, the port where it listens, and what it said."""
    child = machine.start("simulate", "kdb", *SMALL, *how)
    try:
        assert child.stderr is not None
        said = [child.stderr.readline() for _ in range(4)]
        yield child, int(re.findall(r"port (\d+)", said[0])[0]), said
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_stopped(machine: Machine, number: signal.Signals) -> None:
    """It says where it listens, what it has, and how to read it; stopped, it ends with 0, connected clients or not."""
    with serving(machine, "--user", "me", "--password", "word") as (child, port, said):
        assert "127.0.0.1" in said[0]
        assert "trade: 100 rows a date, quote: 200; symbols: 6" in said[1]
        assert "3 from 2018-12-19 to 2018-12-21" in said[2]
        assert f"kdb.port: '{port}'" in said[3]
        assert "kdb.user: me" in said[3]
        assert "word'" not in "".join(said)
        with closing(client(port, "me", "word")) as asking:
            assert asking.value(q.COUNT, "quote") == 600
            child.send_signal(number)
            out, _ = child.communicate(timeout=20)
    assert child.returncode == 0
    assert out == ""


def fingerprints(machine: Machine, *how: str) -> list[list]:
    """Those of all dates that it serves."""
    with serving(machine, *how) as (_, port, _said), closing(client(port)) as asking:
        days = asking.table(q.PARTITIONS, "trade", "date").to_pydict()["date"]
        return [asking.value(q.FINGERPRINT, "trade", "date", day) for day in days]


def test_dates_that_are_corrected_or_empty(machine: Machine) -> None:
    """Served again with a correction, one date has another fingerprint, and one no rows; the other is as it was."""
    prints = [fingerprints(machine, *how) for how in ((), ("--correct", "2018-12-19", "--empty", "2018-12-20"))]
    same = [one[0] == two[0] and one[1].equals(two[1]) for one, two in zip(*prints, strict=True)]
    assert same == [False, False, True]
    assert prints[1][1][0] == 0


@pytest.mark.parametrize(
    "how",
    [
        ("--dates", "yesterday"),
        ("--dates", "2018-12-21..2018-12-19"),
        ("--dates", "2018-12-22..2018-12-23"),
        ("--password", "word"),
        ("--skew", "2"),
        ("--symbols", "0"),
        ("--correct", "2018-12-03"),
    ],
)
def test_arguments_that_are_wrong(machine: Machine, how: tuple[str, ...]) -> None:
    """Wrong use: exit code 2, before anything listens."""
    assert machine.lakehouse("simulate", "kdb", *SMALL, *how).exit_code == 2


def test_a_port_that_is_taken(machine: Machine) -> None:
    """It names the port and what to do."""
    with KdbServer(KdbConfig(rows=1)) as other:
        done = machine.lakehouse("simulate", "kdb", *SMALL, "--port", other.port)
    assert done.exit_code == 2
    assert f"port {other.port}" in done.stderr
    assert "name another port" in done.stderr
