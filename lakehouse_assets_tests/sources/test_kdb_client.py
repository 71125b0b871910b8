"""The connection to kdb+: what is sent, and that each fault is an error of its own, in time."""

from __future__ import annotations

import datetime as dt
import pickle
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trustme

from lakehouse_assets.errors import (
    LakehouseError,
    SettingsError,
    SourceBusy,
    SourceError,
    SourceMissing,
    SourceUnreachable,
    SourceUnreadable,
    TypeRefused,
)
from lakehouse_assets.sources import kdb_pykx, qipc
from lakehouse_assets.sources.kdb_client import KdbServer, KdbTls, OwnClient
from lakehouse_assets.sources.kdb_pykx import PykxClient
from lakehouse_assets_tests.sources.kdb_wire import TRADES, Act, Peer, Wire
from lakehouse_assets_tests.sources.qipc_lab import Q

QUERY = "{[t;d] select from t where date=d}"
SECRET = "s3cret-word"
DAY = dt.date(2024, 1, 2)
WHOLE = b"".join(qipc.encode(TRADES))


@contextmanager
def client(wire: Wire, **options: Any) -> Iterator[OwnClient]:
    """A client of a server on the loopback, impatient."""
    given = {"host": "127.0.0.1", "user": "me", "password": SECRET, "timeout": 5.0, "connect_timeout": 5.0, **options}
    asking = OwnClient(KdbServer(port=wire.port, **given))
    try:
        yield asking
    finally:
        asking.close()


def fault(error: LakehouseError) -> str:
    """The name of a fault; no message ever holds the password."""
    assert SECRET not in f"{error} {error.facts} {error!r}"
    return str(error.facts["fault"])


def after(*acts: Callable[[Peer], None]) -> Act:
    """Let the client in, take its query, then do this."""

    def play(peer: Peer) -> None:
        peer.handshake()
        peer.asked()
        for act in acts:
            act(peer)

    return play


@pytest.fixture(scope="module")
def apart() -> Iterator[int]:
    """The port of a server in a process of its own: PyKX holds the interpreter while it connects."""
    command = [sys.executable, "-m", "lakehouse_assets_tests.sources.kdb_wire"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate("\n")


@pytest.mark.parametrize("of", [OwnClient, PykxClient])
def test_both_clients_give_the_same(of: type[OwnClient | PykxClient], apart: int) -> None:
    """K23: keyed tables come flat, q's nulls as NULL, vectors as Arrow, server errors by name."""
    asking = of(KdbServer("127.0.0.1", apart, "me", SECRET, timeout=5.0))
    table = asking.table(QUERY, "trade", DAY)
    assert table.to_pydict() == TRADES.to_pydict()
    assert table.schema.metadata is None
    assert table.schema.field("size").metadata == {b"kdb.type": b"long"}
    assert asking.value("tables[]").to_pylist() == ["trade"]
    with pytest.raises(SourceError, match="'type to: fail") as caught:
        asking.value("fail", "type", DAY)
    assert fault(caught.value) == "server"
    asking.close()
    assert asking.table(QUERY, "trade", DAY).num_rows == 3
    asking.close()


@pytest.mark.parametrize("of", [OwnClient, PykxClient])
def test_both_clients_tell_a_wrong_password_and_a_dead_port(of: type[OwnClient | PykxClient], apart: int) -> None:
    """A refused user is terminal, a server that is not there is not."""
    with pytest.raises(SourceUnreadable, match="refuses user 'me'") as caught:
        of(KdbServer("127.0.0.1", apart, "me", "wrong" + SECRET)).value("1")
    assert fault(caught.value) == "credentials"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(SourceUnreachable) as absent:
        of(KdbServer("127.0.0.1", port, "me", SECRET)).value("1")
    assert fault(absent.value) == "unreachable"


def test_pykx_is_no_client_with_tls() -> None:
    """PyKX does not check the host name of a certificate: refused, not weakened."""
    with pytest.raises(SettingsError, match="host name"):
        PykxClient(KdbServer("localhost", 1, tls=KdbTls()))


def test_the_handshake_and_the_query() -> None:
    """User, password and capability 6; then the query's text as chars, and parameters as what they are."""
    with Wire() as wire, client(wire) as asking:
        asking.value(QUERY, 'x";exit 0', DAY, ["a", "b"], [DAY], b"text", 5, 2.5, True)
        asking.value("tables[]")
        assert wire.said == [f"me:{SECRET}".encode() + b"\x06\0"]
        text, symbol, day, symbols, days, *rest = wire.asked[0]
        assert (text, symbol, day) == (QUERY.encode(), 'x";exit 0', DAY)
        assert (symbols.to_pylist(), days.to_pylist()) == (["a", "b"], [DAY])
        assert rest == [b"text", 5, 2.5, True]
        assert wire.asked[1] == b"tables[]"
        assert wire.connections == 1


@pytest.mark.parametrize("user", ["a:b", "a\0"])
def test_a_user_that_q_cannot_be_told_is_refused(user: str) -> None:
    """A colon ends the user: what follows would become the password."""
    with pytest.raises(SettingsError, match="':'"):
        OwnClient(KdbServer("127.0.0.1", 1, user)).value("1")


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (after(), "ended the connection before an answer"),
        (after(lambda peer: peer.send(WHOLE[:4])), "ended the connection before an answer"),
        (after(lambda peer: peer.send(WHOLE[:-1])), r"in the middle of an answer of \d+ bytes"),
    ],
    ids=["before", "in the header", "in the middle"],
)
def test_a_server_that_dies(act: Act, problem: str) -> None:
    """Said as such, at once, and transient; the query is not sent again; the next one finds a new connection."""
    with Wire() as wire, client(wire) as asking:
        wire.acts = (act, wire.serve)
        start = time.monotonic()
        with pytest.raises(SourceUnreachable, match=problem) as caught:
            asking.value(QUERY, "trade")
        assert time.monotonic() - start < 2
        assert (fault(caught.value), caught.value.facts["query"]) == ("broken", QUERY)
        assert caught.value.transient
        assert (wire.connections, wire.asked) == (1, [])
        assert asking.table("again", 1).num_rows == 3
        assert (wire.connections, len(wire.asked)) == (2, 1)


def _trickle(peer: Peer) -> None:
    for at in range(len(WHOLE)):
        peer.send(WHOLE[at : at + 1])
        if peer.over.wait(0.1):
            return


@pytest.mark.parametrize(
    "act",
    [
        after(Peer.stall),
        after(lambda peer: peer.send(WHOLE[:20]), Peer.stall),
        after(_trickle),
        after(lambda peer: [peer.answer(1, qipc.Kind.ASYNC) for _ in range(10)], Peer.stall),
    ],
    ids=["silent", "in the middle", "byte by byte", "pushes alone"],
)
def test_a_server_that_stalls(act: Act) -> None:
    """The deadline is that of the whole answer: bytes that trickle do not extend it."""
    with Wire(act) as wire, client(wire, timeout=0.4) as asking:
        start = time.monotonic()
        with pytest.raises(SourceUnreachable, match=r"no whole answer came in 0\.4 s") as caught:
            asking.value(QUERY, "trade")
        assert 0.3 < time.monotonic() - start < 2
        assert fault(caught.value) == "timeout"


def test_a_connection_with_half_an_answer_is_not_used_again() -> None:
    """What comes of the first answer later is never taken for the second's."""
    late = after(
        lambda peer: peer.send(WHOLE[:20]), lambda peer: peer.over.wait(0.6), lambda peer: peer.send(WHOLE[20:])
    )
    with Wire() as wire, client(wire, timeout=0.3) as asking:
        wire.acts = (late, wire.serve)
        with pytest.raises(SourceUnreachable):
            asking.value(QUERY, "trade")
        asking.server = KdbServer("127.0.0.1", wire.port, "me", SECRET, timeout=5)
        assert asking.value("tables[]").to_pylist() == ["trade"]
        assert (wire.connections, wire.asked) == (2, [b"tables[]"])


def test_a_server_that_stalls_in_the_handshake() -> None:
    """A port that takes connections and says nothing."""
    with Wire(Peer.stall) as wire, client(wire, connect_timeout=0.3) as asking:
        with pytest.raises(SourceUnreachable, match=r"no handshake in 0\.3 s") as caught:
            asking.value("1")
        assert fault(caught.value) == "timeout"


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (after(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")), "a header that no q frame has"),
        (after(lambda peer: peer.send(b"\x01\x02\0\x01\xff\xff\xff\xff")), "more than the"),
        (after(lambda peer: peer.answer(1, qipc.Kind.SYNC)), "question of its own"),
        (lambda peer: (peer.connection.recv(99), peer.send(b"H")), "answers the handshake with 72"),
    ],
    ids=["http", "huge", "question", "handshake"],
)
def test_a_server_that_is_no_kdb(act: Act, problem: str) -> None:
    """What comes is no frame of q, or none that would be taken: terminal, and nothing is allocated for it."""
    with Wire(act) as wire, client(wire, most=1 << 20) as asking:
        with pytest.raises(SourceUnreadable, match=problem) as caught:
            asking.value(QUERY, "trade")
        assert fault(caught.value) == "header"


def test_a_message_that_is_cut_within_a_whole_frame() -> None:
    """The header's length is right, the message is not: terminal, and the connection is not used again."""
    cut = Q().frame(WHOLE[8:-4])
    with Wire() as wire, client(wire) as asking:
        wire.acts = (after(lambda peer: peer.send(cut), Peer.stall), wire.serve)
        with pytest.raises(SourceUnreadable, match="it is cut") as caught:
            asking.value(QUERY, "trade")
        assert (fault(caught.value), caught.value.facts["query"]) == ("frame", QUERY)
        assert asking.table("again", 1).num_rows == 3
        assert wire.connections == 2


def test_pushes_before_the_answer_are_dropped() -> None:
    """An asynchronous message, however large, is not the answer."""
    pushes = after(
        lambda peer: peer.answer(7, qipc.Kind.ASYNC),
        lambda peer: peer.answer(pa.array(range(300_000)), qipc.Kind.ASYNC),
        lambda peer: peer.answer(TRADES),
    )
    with Wire(pushes) as wire, client(wire) as asking:
        assert asking.table(QUERY, "trade").equals(TRADES)


def test_a_value_that_is_refused_leaves_the_connection() -> None:
    """The whole answer was read: the column and the query are told, and the next query goes on."""
    frame = Q().frame(Q().table([("size", Q().vector(7, "q", [2**63 - 1]))]))

    def play(peer: Peer) -> None:
        peer.handshake()
        while peer.asked() is not None:
            peer.send(frame)

    with Wire(play) as wire, client(wire) as asking:
        for _ in range(2):
            with pytest.raises(TypeRefused, match="row 0 of column 'size' is an infinity") as caught:
                asking.table(QUERY, "trade")
            assert caught.value.facts["query"] == QUERY
        assert wire.connections == 1
        with client(wire, infinities="null") as lenient:
            assert lenient.table(QUERY).to_pydict() == {"size": [None]}


@pytest.mark.parametrize("made", ["compressed", "big-endian"])
def test_compressed_and_big_endian_answers(made: str) -> None:
    """What q sends to another machine, and what an old processor sends."""
    frame = Q(">").frame(Q(">").table([("c", Q(">").vector(7, "q", [7] * 1000))]))
    if made == "compressed":
        frame = qipc.compress(b"".join(qipc.encode(pa.table({"c": [7] * 1000}))))
        assert qipc.header(frame).compressed
    with Wire(after(lambda peer: peer.send(frame))) as wire, client(wire) as asking:
        assert asking.table(QUERY).to_pydict() == {"c": [7] * 1000}


@pytest.mark.parametrize(
    ("text", "kind", "transient"),
    [
        ("type", SourceError, False),
        ("length", SourceError, False),
        ("nyi", SourceError, False),
        ("wsfull", SourceBusy, True),
        ("stop", SourceBusy, True),
        ("access", SourceUnreadable, False),
        ("trade", SourceMissing, False),
        ("quote", SourceMissing, False),
        ("a text of the server's own", SourceError, False),
    ],
)
def test_errors_of_the_server(text: str, kind: type[LakehouseError], transient: bool) -> None:
    """Each has the class of what can be done, the text, and the query; a name that was asked for is missing."""
    with Wire(after(lambda peer: peer.answer(qipc.QServerError(text)))) as wire, client(wire) as asking:
        with pytest.raises(kind, match=f"'{text} to: ") as caught:
            asking.value("{[t]\n  select from t}", "trade", ["quote", "type"])
        error = caught.value
        assert type(error) is kind
        assert (fault(error), error.facts["text"], error.transient) == ("server", text, transient)
        assert error.facts["query"] == "{[t] select from t}"
        assert error.fix


def test_an_answer_that_is_no_table() -> None:
    """Said with the query, not with an attribute that is missing."""
    problem = r"gives a StringArray, not a table: tables\[\]"
    with Wire() as wire, client(wire) as asking, pytest.raises(SourceError, match=problem):
        asking.table("tables[]")


def test_a_connection_that_the_server_ended_in_between_is_made_anew() -> None:
    """Between two queries, unseen by the caller; the second query is sent once."""

    def once(peer: Peer) -> None:
        peer.handshake()
        peer.asked()
        peer.answer(1)

    with Wire() as wire, client(wire) as asking:
        wire.acts = (once, wire.serve)
        assert asking.value("1") == 1
        time.sleep(0.1)
        assert asking.table(QUERY, 1).num_rows == 3
        assert (wire.connections, len(wire.asked)) == (2, 1)


def test_nothing_with_a_password_is_pickled_or_shown() -> None:
    """Neither the server nor a connection; and the password is not in their text."""
    server = KdbServer("h", 5000, "me", SECRET)
    for value in (server, OwnClient(server), PykxClient(server)):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(value)
        assert SECRET not in f"{value!r} {value}"
    assert str(server) == "h:5000"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """An authority of this test alone, and its PEM file."""
    made = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    made.cert_pem.write_to_path(path)
    return made, path


def speaking_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def test_tls_with_the_right_name(authority: tuple[trustme.CA, Path]) -> None:
    """An answer of several megabytes, over TLS; one connection for two queries."""
    table = pa.table({"x": pa.array(range(500_000))})

    def play(peer: Peer) -> None:
        peer.handshake()
        while peer.asked() is not None:
            peer.answer(table)

    tls = speaking_tls(authority[0], "localhost")
    with Wire(play, tls=tls) as wire, client(wire, host="localhost", tls=KdbTls(str(authority[1]))) as asking:
        assert asking.table(QUERY).equals(table)
        assert asking.table(QUERY).equals(table)
        assert wire.connections == 1


@pytest.mark.parametrize(
    ("name", "trusted", "problem"), [("other.example", True, "mismatch"), ("localhost", False, "certificate")]
)
def test_tls_with_the_wrong_name_or_authority(
    name: str, trusted: bool, problem: str, authority: tuple[trustme.CA, Path]
) -> None:
    """The certificate of another host is refused, and that of an unknown authority; no password was sent."""
    tls = KdbTls(str(authority[1]) if trusted else None)
    with Wire(tls=speaking_tls(authority[0], name)) as wire, client(wire, host="localhost", tls=tls) as asking:
        with pytest.raises(SourceUnreadable, match=f"its certificate is not believed: .*{problem}") as caught:
            asking.value("1")
        assert fault(caught.value) == "tls"
        assert wire.said == []


def test_tls_asked_of_a_server_without(authority: tuple[trustme.CA, Path]) -> None:
    """What it answers is no TLS: said, with what to look at."""
    tls = KdbTls(str(authority[1]))
    with (
        Wire(lambda peer: (peer.connection.recv(99), peer.send(b"\x06" * 20))) as wire,
        client(wire, host="localhost", tls=tls) as asking,
    ):
        with pytest.raises(SourceUnreadable, match="TLS fails") as caught:
            asking.value("1")
        assert fault(caught.value) == "tls"


def test_a_server_with_tls_asked_without(authority: tuple[trustme.CA, Path]) -> None:
    """It ends the handshake, or answers with an alert: no value, no hang."""
    refused = pytest.raises((SourceUnreadable, SourceUnreachable))
    with Wire(tls=speaking_tls(authority[0], "localhost")) as wire, client(wire) as asking, refused:
        asking.value("1")


def test_a_certificate_that_cannot_be_read() -> None:
    """A wrong path is a wrong setting, told before anything is sent."""
    refused = pytest.raises(SettingsError, match="certificate for kdb")
    with Wire() as wire, client(wire, tls=KdbTls("/no/such/file.pem")) as asking, refused:
        asking.value("1")


@pytest.mark.parametrize(("environ", "licensed"), [({}, False), ({"QLIC": ""}, False), ({"QLIC": "/opt/kx"}, True)])
def test_pykx_takes_a_licence_where_there_is_one(environ, licensed):
    """K20: it runs without a licence unless QLIC (or the licence itself) is in the environment."""
    assert kdb_pykx.has_licence(environ) is licensed
