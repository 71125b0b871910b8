"""The source against the stand-in server, which is a process of its own: the contract, faults, and both clients."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import date

import pyarrow as pa
import pytest

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import SourceBusy, SourceMissing, SourceUnreachable, SourceUnreadable
from lakehouse_assets.simulators.kdb import KdbServer
from lakehouse_assets.simulators.kdb_config import Fault, KdbConfig
from lakehouse_assets.simulators.kdb_prices import trading_days
from lakehouse_assets.sources import kdb_queries as q
from lakehouse_assets.sources.base import Source
from lakehouse_assets.sources.kdb import KdbSource
from lakehouse_assets_tests.sources.contract import Case, SourceContract
from lakehouse_assets_tests.sources.kdb_desk import BY_DAY, placed

DAYS = tuple(trading_days(date(2018, 12, 3), date(2018, 12, 31)))
FIRST, SECOND, THIRD = DAYS[:3]
ROWS = 500


@pytest.fixture(autouse=True)
def word(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password, where a reference finds it."""
    monkeypatch.setenv("KDB_WORD", "hunter2")


def source(server: KdbServer, table: str = "trade", **options: object) -> KdbSource:
    """A source on the stand-in; names of options without `kdb.`."""
    given = {
        "host": server.host, "port": server.port, "user": "me", "password": "${secret:KDB_WORD}", "timeout": 30, **options
    }  # fmt: skip
    return KdbSource(
        Entity(
            entity_id="trades",
            source=table,
            destination=placed("partition" in given),
            source_format="kdb",
            read_options={f"kdb.{name}": value for name, value in given.items()},
            lakehouse=BY_DAY if "partition" in given else {},
        )
    )


@pytest.fixture(scope="module")
def daily() -> Iterator[KdbServer]:
    """A stand-in with one trade a date."""
    with KdbServer(KdbConfig(user="me", password="hunter2", rows=1, quotes=1, nulls=0, dates=(DAYS[0],))) as server:
        yield server


class DailyCase(Case):
    """A stand-in whose dates have one trade each: the n-th date stands for the id n."""

    secrets = ("hunter2",)

    def __init__(self, server: KdbServer) -> None:
        self.server = server
        self.there: list[date] = []
        for day in DAYS:
            server.remove(day)

    def add(self, ids: Sequence[int]) -> None:
        """One more date for each."""
        for value in ids:
            self.server.add(DAYS[value])
            self.there.append(DAYS[value])

    def ids(self, table: pa.Table) -> list[int]:
        """The numbers of the dates."""
        return [DAYS.index(day) for day in table.column("date").to_pylist()]

    def open(self) -> Source:
        """A fresh source."""
        return source(self.server, partition="date")

    def swap(self) -> None:
        """Other rows on every date."""
        for day in self.there:
            self.server.correct(day)


class TestStandIn(SourceContract):
    """The contract of a source, against the stand-in."""

    @pytest.fixture
    def case(self, daily: KdbServer) -> DailyCase:
        """A database without a date."""
        return DailyCase(daily)


@pytest.fixture(scope="module")
def shared() -> Iterator[KdbServer]:
    """A stand-in with some hundred trades a date; nobody may read the quotes."""
    given = KdbConfig(
        user="me", password="hunter2", rows=ROWS, quotes=1, nulls=0.01, dates=(FIRST, SECOND, THIRD), denied=("quote",)
    )
    with KdbServer(given) as server:
        yield server


@pytest.fixture
def server(shared: KdbServer) -> KdbServer:
    """The stand-in with three dates, whatever a test before did to them."""
    for day in DAYS:
        shared.remove(day)
    for day in (FIRST, SECOND, THIRD):
        shared.add(day)
    return shared


def revive(server: KdbServer) -> None:
    """Start the stand-in anew after it was killed: it takes a moment to be gone."""
    end = time.monotonic() + 5
    while server.running and time.monotonic() < end:
        time.sleep(0.005)
    server.start()


def read(of: KdbSource, day: date) -> pa.Table:
    """A date as extracted."""
    return pa.Table.from_batches(of.read_partition(str(day)), of.columns_of(str(day)))


def test_a_database_without_a_date_has_columns(daily: KdbServer) -> None:
    """Nothing was stored yet: what `meta` says, and no rows."""
    for day in DAYS:
        daily.remove(day)
    with source(daily, partition="date") as opened:
        assert opened.partitions() == {}
        empty = opened.schema()
        daily.add(FIRST)
    with source(daily, partition="date") as again:
        assert again.schema().equals(empty)
        assert empty.names[0] == "date"


def test_both_clients_give_the_same(server: KdbServer) -> None:
    """K39: dates, fingerprints, columns and rows with `kdb.client: pykx` are those of the project's own client."""
    with source(server, partition="date") as own, source(server, partition="date", client="pykx", sliceRows=64) as pykx:
        assert own.partitions() == pykx.partitions() == {str(day): str(ROWS) for day in (FIRST, SECOND, THIRD)}
        assert own.fingerprint(str(FIRST)) == pykx.fingerprint(str(FIRST))
        assert read(own, FIRST).equals(read(pykx, FIRST), check_metadata=True)


def test_a_corrected_date_has_another_fingerprint(server: KdbServer) -> None:
    """The others keep theirs."""
    with source(server, partition="date") as opened:
        before = {key: opened.fingerprint(key) for key in opened.partitions()}
        server.correct(SECOND)
        after = {key: opened.fingerprint(key) for key in opened.partitions()}
    assert [key for key in before if before[key] != after[key]] == [str(SECOND)]


def test_dates_come_and_are_emptied(server: KdbServer) -> None:
    """A date that is added is there, one that is emptied has no batch and keeps its columns."""
    with source(server, partition="date") as opened:
        columns = opened.columns_of(str(FIRST))
        server.add(DAYS[3])
        server.empty(FIRST)
        assert opened.partitions()[str(FIRST)] == "0"
        assert opened.partitions()[str(DAYS[3])] == str(ROWS)
        assert list(opened.read_partition(str(FIRST))) == []
        assert opened.columns_of(str(FIRST)).equals(columns)


def test_columns_that_are_retyped_from_a_date_on() -> None:
    """Each date is read with the types that it has."""
    with KdbServer(KdbConfig(rows=10, quotes=1, dates=(FIRST, SECOND, THIRD))) as server:
        server.change(SECOND, "retyped")
        with source(server, partition="date") as opened:
            types = [read(opened, day).schema.field("size").type for day in (FIRST, SECOND, THIRD)]
    assert types == [pa.int64(), pa.int32(), pa.int32()]


def test_a_correction_between_slices_is_refused(server: KdbServer) -> None:
    """What was read is of two states."""
    with source(server, partition="date", sliceRows=100) as opened:
        batches = opened.read_partition(str(SECOND))
        next(batches)
        server.correct(SECOND)
        with pytest.raises(SourceBusy, match=f"date {SECOND} changed while it was read"):
            list(batches)


@pytest.mark.parametrize(
    ("fault", "error", "named"),
    [
        (Fault("kill", 2000, q.SLICE, skip=2), SourceUnreachable, "broken"),
        (Fault("stall", 2000, q.SLICE, skip=2), SourceUnreachable, "timeout"),
        (Fault("cut", 2000, q.SLICE, skip=2), SourceUnreadable, "frame"),
        (Fault("header", 0, q.SLICE, skip=2), SourceUnreadable, "header"),
        (Fault("error", 0, q.SLICE, skip=2, text="wsfull"), SourceBusy, "server"),
    ],
    ids=["kill", "stall", "cut", "header", "wsfull"],
)
def test_a_fault_in_mid_answer(server: KdbServer, fault: Fault, error: type, named: str) -> None:
    """It has its own error; when the process is back, the same source reads the date from its start."""
    patience = 1 if fault.kind == "stall" else 30
    with source(server, partition="date", sliceRows=100, timeout=patience) as opened:
        list(opened.read_partition(str(FIRST)))  # the stand-in has made the date: no answer takes long from here on
        server.arm(fault)
        batches = opened.read_partition(str(FIRST))
        assert next(batches).num_rows == 100
        with pytest.raises(error, match="rows 100 to 200") as told:
            list(batches)
        assert told.value.facts["fault"] == named
        if fault.kind == "kill":
            revive(server)
        assert read(opened, FIRST).column("_row").to_pylist() == list(range(ROWS))


def test_a_wrong_password(server: KdbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by name of the user; the password is not told."""
    monkeypatch.setenv("KDB_WORD", "swordfish")
    with source(server) as opened, pytest.raises(SourceUnreadable, match="refuses user 'me'") as told:
        opened.schema()
    assert "swordfish" not in str(told.value)


def test_a_table_that_nobody_may_read(server: KdbServer) -> None:
    """`'access`, with the table and what to do."""
    with source(server, "quote") as opened, pytest.raises(SourceUnreadable, match="table 'quote'.*'access"):
        opened.schema()


def test_an_unknown_table_names_those_that_are_there(server: KdbServer) -> None:
    """The nearest is pointed out."""
    with source(server, "trades") as opened, pytest.raises(SourceMissing, match="did you mean 'trade'") as told:
        opened.schema()
    assert told.value.choices == ("quote", "trade")
