"""What goes wrong with a kdb+ process while a table is read: each fault its error, and nothing half-read is used."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from lakehouse_assets.errors import (
    LakehouseError,
    SourceBusy,
    SourceError,
    SourceMissing,
    SourceUnreachable,
    SourceUnreadable,
)
from lakehouse_assets.sources import qipc
from lakehouse_assets_tests.sources.kdb_desk import ONE, Desk, Office, table
from lakehouse_assets_tests.sources.kdb_wire import Peer, Wire

ROWS = table({"sym": "symbol", "size": "long"}, sym=["a", "b", "c"], size=[1, 2, 3])


@pytest.fixture
def office() -> Iterator[Office]:
    """A process with three trades of one date."""
    desk = Desk()
    desk.stored["trade"] = {ONE: ROWS}
    with Wire(desk.serve) as wire:
        made = Office(desk, wire)
        yield made
        made.close()


def cut(peer: Peer) -> None:
    """Half an answer, then the end."""
    frame = b"".join(qipc.encode(ROWS))
    peer.send(frame[: len(frame) // 2])
    peer.connection.shutdown(socket.SHUT_RDWR)


def stall(peer: Peer) -> None:
    """Half an answer, then nothing."""
    frame = b"".join(qipc.encode(ROWS))
    peer.send(frame[: len(frame) // 2])
    peer.stall()


def garbage(peer: Peer) -> None:
    """No frame of q."""
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    peer.stall()


def second_slice(answer: Any) -> Callable[[str, list[Any]], Any]:
    """Give this instead of the second row."""
    return lambda name, given: answer if name == "SLICE" and given[3] == 1 else None


@pytest.mark.parametrize(
    ("answer", "error", "fault"),
    [
        (cut, SourceUnreachable, "broken"),
        (stall, SourceUnreachable, "timeout"),
        (garbage, SourceUnreadable, "header"),
        (qipc.QServerError("wsfull"), SourceBusy, "server"),
        (qipc.QServerError("access"), SourceUnreadable, "server"),
        (qipc.QServerError("type"), SourceError, "server"),
        (qipc.QServerError("trade"), SourceMissing, "server"),
    ],
    ids=["cut", "stall", "garbage", "wsfull", "access", "type", "dropped"],
)
def test_a_fault_in_the_middle_of_a_date(office: Office, answer: Any, error: type, fault: str) -> None:
    """It names server, table and rows, with the text of the query; transient where trying again may help."""
    office.desk.before = second_slice(answer)
    source = office.open(partition="date", sliceRows=1, timeout="0.3")
    batches = source.read_partition(str(ONE))
    assert next(batches).num_rows == 1
    with pytest.raises(LakehouseError) as told:
        list(batches)
    assert type(told.value) is error
    assert told.value.facts["fault"] == fault
    assert told.value.facts["query"].startswith("{[t;p;d;i;n]")
    assert f"127.0.0.1:{office.wire.port}, table 'trade', rows 1 to 2 of date 2024-01-02: " in str(told.value)


def test_a_lost_connection_is_told_as_what_it_was(office: Office) -> None:
    """Nothing more is asked of a process that answered with no q: its first fault is the one that is told."""
    office.desk.before = second_slice(garbage)
    source = office.open(partition="date", sliceRows=1)
    batches = source.read_partition(str(ONE))
    next(batches)
    with pytest.raises(SourceUnreadable) as told:
        next(batches)
    assert told.value.facts["fault"] == "header"
    assert office.desk.asked[-1] == "SLICE"
    assert office.wire.connections == 1


@pytest.mark.parametrize("answer", [cut, stall, garbage, qipc.QServerError("wsfull")])
def test_the_date_can_be_read_again(office: Office, answer: Any) -> None:
    """After any fault the same source reads the date from its start: reconnected where the connection was lost."""
    office.desk.before = second_slice(answer)
    source = office.open(partition="date", sliceRows=1, timeout="0.3")
    with pytest.raises(LakehouseError):
        list(source.read_partition(str(ONE)))
    office.desk.before = lambda *_: None
    assert pa.Table.from_batches(source.read_partition(str(ONE))).column("size").to_pylist() == [1, 2, 3]
    assert office.wire.connections == (1 if isinstance(answer, qipc.QServerError) else 2)


def test_a_connection_that_ended_between_questions_is_made_again(office: Office) -> None:
    """The process was restarted: nobody notices."""
    source = office.open(partition="date")
    before = source.fingerprint(str(ONE))
    for connection in office.wire._open:
        connection.shutdown(socket.SHUT_RDWR)
    assert source.fingerprint(str(ONE)) == before
    assert office.wire.connections == 2


def test_wrong_credentials_are_told(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user is named, the password is not; trying again cannot help."""
    monkeypatch.setenv("KDB_WORD", "hunter2")
    with pytest.raises(SourceUnreadable, match="it refuses user 'nobody'") as told:
        office.open(user="nobody", password="${secret:KDB_WORD}").schema()
    assert told.value.facts["fault"] == "credentials"
    assert "hunter2" not in f"{told.value}{told.value.facts}"


def test_nobody_listens() -> None:
    """Host and port are named; trying again may help."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Wire(Desk().serve) as wire:
        office = Office(Desk(), wire)
        with pytest.raises(SourceUnreachable, match=f"127.0.0.1:{port}") as told:
            office.open(port=port).schema()
    assert told.value.facts["fault"] == "unreachable"
    assert told.value.transient


@pytest.mark.parametrize("name", ["TABLES", "META", "PARTITION_FIELD", "PARTITIONS", "FINGERPRINT", "SLICE"])
def test_access_may_be_refused_at_any_question(office: Office, name: str) -> None:
    """The error says at which, and what to do."""
    office.desk.before = lambda asked, _: qipc.QServerError("access") if asked == name else None
    source = office.open(partition="date")
    with pytest.raises(SourceUnreadable, match="'access") as told:
        list(source.read_partition(next(iter(source.partitions()))))
    assert "let the user read the table" in str(told.value)
    assert "table 'trade'" in str(told.value)


@pytest.mark.parametrize("answer", [7, [7], ["7", "x"], [True, None]], ids=str)
def test_a_fingerprint_that_is_none_is_refused(office: Office, answer: Any) -> None:
    """A process that answers something else is not taken at its word."""
    office.desk.before = lambda name, _: answer if name == "FINGERPRINT" else None
    with pytest.raises(SourceUnreadable, match="is no fingerprint"):
        office.open(partition="date").fingerprint(str(ONE))


def test_an_answer_that_is_no_table_is_refused(office: Office) -> None:
    """An atom instead of rows."""
    office.desk.before = lambda name, _: 7 if name == "SLICE" else None
    with pytest.raises(SourceError, match="gives a int, not a table"):
        office.open(partition="date").columns_of(str(ONE))


def test_a_process_without_tables_is_told(office: Office) -> None:
    """Its data is not loaded."""
    office.desk.stored.clear()
    with pytest.raises(SourceMissing, match="see whether the process loaded its data"):
        office.open().schema()
