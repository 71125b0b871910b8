"""Tests of the bad network: what it lets through is untouched, and each fault does what it says, where it is told to."""

from __future__ import annotations

import http.client
import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from lakehouse_assets.simulators.faulty_store import (
    BROKEN_AFTER,
    BUSY,
    CUT_DOWNLOAD,
    CUT_HEAD,
    CUT_UPLOAD,
    LOST_ANSWER,
    LOST_REQUEST,
    Fault,
    FaultyProxy,
)

BROKEN = (http.client.HTTPException, ConnectionError)


class Store(http.server.BaseHTTPRequestHandler):
    """Keeps what is put, and gives it back."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, bytes]

    def do_PUT(self) -> None:
        """Keep a body, if all of it came."""
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) == length:
            self.kept[self.path] = body
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """Give it back, in chunks."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (self.kept[self.path], b""):
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")

    def do_HEAD(self) -> None:
        """Say how long it is."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.kept[self.path])))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def kept() -> dict[str, bytes]:
    """What the store holds."""
    return {}


@pytest.fixture
def proxy(kept: dict[str, bytes]) -> Iterator[FaultyProxy]:
    """A proxy before a store."""
    handler = type("Kept", (Store,), {"kept": kept})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with FaultyProxy(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
            yield proxy
        server.shutdown()


@pytest.fixture
def client(proxy: FaultyProxy) -> Iterator[http.client.HTTPConnection]:
    """A connection that is used again and again."""
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=20)
    yield connection
    connection.close()


def ask(client: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, **headers: str):
    """A request: status and body of the answer."""
    client.request(method, path, body, headers)
    with client.getresponse() as answer:
        return answer.status, answer.read()


def test_what_is_passed_on_is_untouched(proxy, client, kept):
    """Bodies with a length, in chunks, announced with `Expect`, none at all: all as without the proxy, and counted."""
    body = bytes(range(256)) * 5000
    assert ask(client, "PUT", "/a?x=%2F", body, Expect="100-continue") == (201, b"")
    assert ask(client, "GET", "/a?x=%2F") == (200, body)
    assert ask(client, "HEAD", "/a?x=%2F") == (200, b"")
    assert kept == {"/a?x=%2F": body}
    assert (proxy.requests, proxy.struck) == ([(m, "/a?x=%2F") for m in ("PUT", "GET", "HEAD")], [])


def test_the_chosen_request_is_struck(proxy, client, kept):
    """Rules count from where they are made, each for itself, and only what they are about; `heal` ends them."""
    proxy.at(2, BUSY, method="PUT", path="^/b")
    found = [ask(client, "PUT", path, b"x")[0] for path in ("/a", "/b1", "/a", "/b2", "/b3")]
    proxy.at({1, 3}, Fault(answer=500, code="InternalError"))
    found += [ask(client, "HEAD", "/a")[0] for _ in range(4)]
    proxy.always(BUSY)
    assert ask(client, "GET", "/a")[1].count(b"<Code>SlowDown</Code>") == 1
    proxy.heal()
    assert found == [201, 201, 201, 503, 201, 500, 200, 500, 200]
    assert sorted(kept) == ["/a", "/b1", "/b3"]
    assert [path for _, path in proxy.struck] == ["/b2", "/a", "/a", "/a"]
    assert ask(client, "GET", "/a") == (200, b"x")


def test_a_store_may_say_that_it_failed_although_it_did_not(proxy, client, kept):
    """The request is executed, and the answer is an error in place of the store's."""
    proxy.at(1, BROKEN_AFTER)
    assert ask(client, "PUT", "/a", b"x")[0] == 500
    assert ask(client, "GET", "/a") == (200, b"x")


@pytest.mark.parametrize(("fault", "arrived"), [(LOST_REQUEST, False), (CUT_UPLOAD, False), (LOST_ANSWER, True)])
def test_a_connection_is_cut_where_it_is_told_to(proxy, client, kept, fault, arrived):
    """A lost or halved request is not executed; a lost answer hides a request that was."""
    proxy.at(1, fault)
    with pytest.raises(BROKEN):
        ask(client, "PUT", "/a", b"x" * 1000)
    assert (kept == {"/a": b"x" * 1000}) is arrived
    assert ask(client, "PUT", "/a", b"y") == (201, b"")


def test_half_of_an_answer_is_half_of_it(proxy, client, kept):
    """The request is executed, and a part of what was to come is missing."""
    kept["/a"] = b"x" * 100_000
    proxy.at(1, CUT_DOWNLOAD)
    client.request("GET", "/a")
    with client.getresponse() as answer, pytest.raises(http.client.IncompleteRead):
        answer.read()


def test_an_answer_may_end_with_its_first_line(proxy, client, kept):
    """The status arrives, and the length of what was to come does not."""
    kept["/a"] = b"x" * 100
    proxy.at(1, CUT_HEAD)
    client.request("GET", "/a")
    with client.getresponse() as answer:
        assert (answer.status, answer.headers.items(), answer.read()) == (200, [], b"")


def test_a_delay_holds_one_request(proxy, client, kept):
    """The others are not kept waiting, and the end of the block does not wait for it either."""
    proxy.at(1, Fault(delay=0.3))
    start = time.monotonic()
    assert ask(client, "PUT", "/a", b"x") == (201, b"")
    assert time.monotonic() - start >= 0.3
    start = time.monotonic()
    ask(client, "PUT", "/a", b"x")
    assert time.monotonic() - start < 0.25


@pytest.mark.parametrize(("fault", "there"), [({"request": 0.5}, False), ({"response": 0.0}, True), ({}, False)])
def test_a_call_comes_where_the_fault_strikes(proxy, client, kept, fault, there):
    """Within the request, after it was executed, or before it is passed on."""
    seen: list[bool] = []
    proxy.at(1, Fault(call=lambda: seen.append("/a" in kept), **fault))
    try:
        ask(client, "PUT", "/a", b"x" * 100)
    except BROKEN:
        assert fault
    assert seen == [there]


def test_a_proxy_says_what_it_can_stand_before():
    """TLS cannot be cut into halves by a stranger."""
    with pytest.raises(ValueError, match="https://s3"):
        FaultyProxy("https://s3.example.com")
