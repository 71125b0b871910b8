"""The kdb+ stand-in as a process: connections, frames, faults on purpose, and that it ends with who started it."""

from __future__ import annotations

import datetime as dt
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.errors import LakehouseError, SettingsError, SourceUnreachable
from lakehouse_assets.simulators.kdb import KdbServer
from lakehouse_assets.simulators.kdb_config import Fault, KdbConfig
from lakehouse_assets.simulators.kdb_database import Database
from lakehouse_assets.sources import kdb_client, qipc
from lakehouse_assets.sources import kdb_queries as q

DAY = dt.date(2018, 12, 21)
CONFIG = KdbConfig(user="me", password="word", rows=2000, quotes=1)
ALL = "select from trade where date=2018.12.21"
FLAT = "select sym,size from trade where date=2018.12.21"


@pytest.fixture(scope="module")
def shared() -> Iterator[KdbServer]:
    """A stand-in that tests leave as it is; a fault that is armed is spent by its test."""
    with KdbServer(CONFIG) as server:
        yield server


def client(server: KdbServer, **options: Any) -> kdb_client.OwnClient:
    """A client with the right password."""
    given = {"user": "me", "password": "word", "timeout": 10.0, **options}
    return kdb_client.OwnClient(kdb_client.KdbServer(server.host, server.port, **given))


def raw(server: KdbServer, said: bytes = b"me:word\x06\0") -> tuple[socket.socket, bytes]:
    """A connection after the handshake, and what the server answered."""
    connection = socket.create_connection((server.host, server.port), 10)
    connection.sendall(said)
    return connection, connection.recv(1)


def received(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer if the connection ends."""
    found = bytearray()
    while len(found) < count and (some := connection.recv(min(count - len(found), 1 << 20))):
        found += some
    return bytes(found)


def frame(connection: socket.socket, query: str, kind: int = qipc.Kind.SYNC) -> bytes:
    """The frame that answers a query."""
    connection.sendall(b"".join(qipc.encode((query,), kind)))
    first = received(connection, 8)
    return first + received(connection, qipc.header(first).length - 8)


def fault_of(server: KdbServer, fault: Fault, **options: Any) -> str:
    """What the client calls a fault; after it, all is well again."""
    server.arm(fault)
    with closing(client(server, **options)) as asking:
        with pytest.raises(LakehouseError) as caught:
            asking.table(ALL)
        if fault.kind != "kill":
            assert asking.table(ALL).num_rows == 2000
    return str(caught.value.facts["fault"])


@pytest.mark.parametrize("capability", [0, 3, 6])
def test_the_handshake_answers_with_what_both_can(shared: KdbServer, capability: int) -> None:
    """One byte, the lesser capability; a client that says none has none."""
    connection, answered = raw(shared, b"me:word" + bytes([capability]) + b"\0")
    connection.close()
    assert answered == bytes([capability])
    connection, answered = raw(shared, b"me:word\0")
    connection.close()
    assert answered == b"\0"


@pytest.mark.parametrize("said", [b"me:wrong\x06\0", b"you:word\x06\0", b"me\x06\0", b"\x06\0"])
def test_other_credentials_end_the_connection(shared: KdbServer, said: bytes) -> None:
    """As q: no answer, the connection is closed."""
    connection, answered = raw(shared, said)
    connection.close()
    assert answered == b""


def test_without_a_user_everybody_is_admitted() -> None:
    """The default."""
    with KdbServer(KdbConfig(rows=10)) as server, closing(client(server, user="any", password="thing")) as asking:
        assert asking.value("count trade") == 30


def test_it_serves_what_the_options_say(shared: KdbServer) -> None:
    """The same values give the same rows in another process."""
    with closing(client(shared)) as asking:
        rows, digest = asking.value(q.FINGERPRINT, "quote", "date", DAY)
        assert rows == 2000
        assert bytes(digest.to_pylist()) == Database(CONFIG).fingerprint("quote", DAY)


def test_a_message_without_answer_gets_none(shared: KdbServer) -> None:
    """An asynchronous message is taken and ignored: the next answer is that of the next query."""
    connection, _ = raw(shared)
    with connection:
        connection.sendall(b"".join(qipc.encode(("select from nosuch",), qipc.Kind.ASYNC)))
        assert qipc.decode(frame(connection, "tables[]")).to_pylist() == ["quote", "trade"]


def test_a_frame_that_is_none_ends_the_connection(shared: KdbServer) -> None:
    """Bytes that are no header, and a query that claims to be huge."""
    for sent in (b"GET / HTTP/1.1\r\n", struct.pack("<BBBBI", 1, 1, 0, 0, 1 << 30)):
        connection, _ = raw(shared)
        with connection:
            connection.sendall(sent)
            with suppress(ConnectionResetError):  # it did not read all
                assert connection.recv(1) == b""


def test_what_cannot_be_decoded_is_a_type_error(shared: KdbServer) -> None:
    """A whole frame without a meaning: `'type`, and the connection goes on."""
    connection, _ = raw(shared)
    with connection:
        connection.sendall(struct.pack("<BBBBI", 1, 1, 0, 0, 12) + b"\x64\x00\x0a\x00")
        assert received(connection, 14)[8:] == b"\x80type\0"
        assert qipc.decode(frame(connection, "count trade")) == 6000


def test_frames_are_compressed_where_q_would() -> None:
    """Of more than 2000 bytes, less than half as long, for a client that can, and up to the size of the option."""
    with KdbServer(KdbConfig(rows=2000, quotes=0, compress=40_000)) as server:
        connection, _ = raw(server)
        with connection:
            short = "select date from trade where date=2018.12.21, sym=`SP500"
            flat, few, many = (frame(connection, text) for text in (FLAT, short, ALL))
            assert [qipc.header(one).compressed for one in (flat, few, many)] == [1, 0, 0]
            assert len(qipc.compress(few)) < len(few) / 2 < 1000
        old, _ = raw(server, b"me:word\0")
        with old:
            plain = frame(old, FLAT)
        assert qipc.header(plain).compressed == 0
        assert bytes(qipc.decompress(flat)) == plain
        assert len(flat) < len(plain) / 2


def test_no_frame_is_compressed_unless_asked_for(shared: KdbServer) -> None:
    """The default is what q does on a loopback."""
    connection, _ = raw(shared)
    with connection:
        assert qipc.header(frame(connection, FLAT)).compressed == 0


def test_a_long_answer_keeps_nobody_waiting() -> None:
    """While one client does not take its answer of megabytes, another is answered."""
    with KdbServer(KdbConfig(rows=200_000, quotes=0)) as server:
        slow, _ = raw(server)
        with slow, closing(client(server, timeout=5.0)) as other:
            slow.sendall(b"".join(qipc.encode((ALL,), qipc.Kind.SYNC)))
            size = qipc.header(received(slow, 8)).length
            assert size > 6_000_000
            assert other.value("count trade") == 600_000
            assert other.table(ALL).num_rows == 200_000
            assert len(received(slow, size - 8)) == size - 8


@pytest.mark.parametrize(
    ("fault", "called"),
    [
        (Fault("close", after=5000), "broken"),
        (Fault("close"), "broken"),
        (Fault("cut", after=5000), "frame"),
        (Fault("header"), "header"),
        (Fault("garbage"), "frame"),
        (Fault("error", text="wsfull"), "server"),
    ],
    ids=lambda given: f"{given.kind}-{given.after}" if isinstance(given, Fault) else given,
)
def test_faults(shared: KdbServer, fault: Fault, called: str) -> None:
    """Each is one that the client tells from the others, and befalls one answer."""
    assert fault_of(shared, fault) == called


def test_a_stall(shared: KdbServer) -> None:
    """A part of an answer, then nothing: the client gives up in time, others are answered."""
    assert fault_of(shared, Fault("stall", after=5000), timeout=0.5) == "timeout"


def test_faults_choose_their_answers(shared: KdbServer) -> None:
    """By a part of the query's text, how many are spared, and how many it befalls."""
    shared.arm(Fault("error", text="stop", query="sublist", skip=1, times=2))
    with closing(client(shared)) as asking:
        met = []
        for number in range(4):
            assert asking.value("count trade") == 6000
            try:
                asking.table(q.SLICE, "trade", "date", DAY, number, 1)
                met.append("well")
            except LakehouseError as error:
                met.append(str(error.facts["text"]))
    assert met == ["well", "stop", "stop", "well"]


def test_killed_in_the_middle_of_an_answer_and_started_again() -> None:
    """The process dies after so many bytes; started again it has its port, its data and what was ordered."""
    with KdbServer(CONFIG) as server:
        server.correct(DAY)
        server.empty(dt.date(2018, 12, 20))
        with closing(client(server)) as asking:
            before = asking.value(q.FINGERPRINT, "trade", "date", DAY)
        assert before[1].to_pylist() != list(Database(CONFIG).fingerprint("trade", DAY))
        port = server.port
        assert fault_of(server, Fault("kill", after=20_000)) == "broken"
        with pytest.raises(SourceUnreachable, match="has ended"):
            server.queries()
        assert server.start().port == port
        with closing(client(server)) as asking:
            assert asking.value(q.FINGERPRINT, "trade", "date", DAY) == before
            assert asking.value("count trade") == 4000


def test_orders() -> None:
    """Dates, columns and corrections change while it runs; it tells what it was asked, over how many connections."""
    with KdbServer(CONFIG) as server, closing(client(server)) as asking:
        server.add(dt.date(2018, 12, 24))
        server.remove(dt.date(2018, 12, 19))
        server.change(DAY, "retyped")
        server.correct(DAY, dropped=10)
        rows = asking.table(q.PARTITIONS, "trade", "date").to_pydict()["rows"]
        assert rows == [2000, 1990, 2000]
        assert asking.table(q.META, "trade").column("t").to_pylist()[4] == "i"
        assert server.queries() == [q.PARTITIONS, q.META]
        assert server.connections() == 1
        with pytest.raises(SettingsError, match="no such date"):
            server.correct(dt.date(2018, 12, 19))
        assert asking.value("count trade") == 5990


def test_a_port_that_is_taken(shared: KdbServer) -> None:
    """It says so, and nothing is left running."""
    second = KdbServer(KdbConfig(port=shared.port))
    with pytest.raises(SettingsError, match=f"port {shared.port}"):
        second.start()
    assert not second.running


@contextmanager
def child(code: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A Python process that starts a stand-in and prints its id."""
    command = [sys.executable, "-c", f"from lakehouse_assets.simulators.kdb import KdbServer\n{code}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def gone(pid: int, seconds: float) -> bool:
    """Whether a process ends in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("keeper", ["", "import os, time\nif not os.fork(): time.sleep(20); os._exit(0)\n"])
def test_it_ends_with_who_started_it(keeper: str) -> None:
    """Even if that one is killed, and another process holds the pipe to it open."""
    with child(f"server = KdbServer().start()\n{keeper}print(server.pid, flush=True)\ninput()") as (process, pid):
        os.kill(pid, 0)
        process.kill()
        process.wait()
        assert gone(pid, 10)


@pytest.mark.slow
def test_two_million_rows_are_served_in_a_second() -> None:
    """Four columns, 66 MB in one frame, made before: the best of three is well under a second."""
    with KdbServer(KdbConfig(rows=2_000_000, quotes=0, symbols=500)) as server:
        connection, _ = raw(server)
        connection.settimeout(60)
        taken = []
        with connection:
            for _ in range(4):
                begun = time.perf_counter()
                answer = frame(connection, "select time,sym,price,size from trade where date=2018.12.21")
                taken.append(time.perf_counter() - begun)
    assert len(answer) > 57_000_000
    assert min(taken[1:]) < 1
