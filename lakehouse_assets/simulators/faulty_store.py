"""A bad network before an object store: a proxy that answers for it, delays, cuts connections, or calls you back.

A stand-in for what happens between a process and a store: requests and answers are passed on as they are, until a
rule strikes at a counted request. The client should be another process: delta-rs holds the interpreter's lock while
it waits for some answers, and nobody of this process could answer then. What belongs here: HTTP as bytes, faults of a
network. What does not: S3, Azure, what a client makes of it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO
from urllib.parse import urlsplit

NO_BODY = (204, 304)


@dataclass(frozen=True)
class Fault:
    """What happens to one request; several things may.

    Attributes:
        delay: seconds for which it is held before anything else happens.
        answer: an HTTP status that is answered instead of asking the store; 0: the store is asked.
        code: the error code of that answer, as S3 and Azure name it.
        done: whether the store does what it was asked all the same before that answer is given.
        request: the share of the request that reaches the store; less than 1: then both connections are cut.
        response: the share of the answer's body that reaches the client, after the store did what it was asked; less
            than 1: then the connection is cut. 0: nothing of the answer arrives, as where it has no body.
        status_only: whether the connection is cut after the first line of the answer.
        call: called when the fault strikes: where it cuts, else before the request is passed on.
    """

    delay: float = 0.0
    answer: int = 0
    code: str = "SlowDown"
    done: bool = False
    request: float = 1.0
    response: float = 1.0
    status_only: bool = False
    call: Callable[[], object] | None = None

    @property
    def cuts(self) -> bool:
        """Whether a connection is cut."""
        return self.request < 1 or self.response < 1 or self.status_only


BUSY = Fault(answer=503)
"""The store asks for patience."""
BROKEN_AFTER = Fault(answer=500, code="InternalError", done=True)
"""The store does what it was asked, and says that it failed."""
CUT_UPLOAD = Fault(request=0.5)
"""Half of the request reaches the store."""
CUT_DOWNLOAD = Fault(response=0.5)
"""Half of the answer reaches the client."""
CUT_HEAD = Fault(status_only=True)
"""The client hears that all is well, and nothing else: some take that for an empty answer."""
LOST_REQUEST = Fault(request=0.0)
"""The store never hears of it."""
LOST_ANSWER = Fault(response=0.0)
"""The store does what it was asked, and nobody hears of it."""


@dataclass
class _Rule:
    fault: Fault
    wanted: Collection[int] | None
    method: str
    path: re.Pattern[str]
    seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        """Count a request, if it is one of those that the rule is about; whether it is to be struck."""
        if self.method not in ("", method) or self.path.search(path) is None:
            return False
        self.seen += 1
        return self.wanted is None or self.seen in self.wanted


class FaultyProxy:
    """Stands before the HTTP server at `target` (`http://host:port[/path]`) for as long as the `with` block lasts.

    Attributes:
        url: where clients find the store.
        requests: every request that arrived so far, as (method, path with query), in the order of arrival.
        struck: those of them that a fault happened to.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"a proxy stands before http://host:port, not {target!r}")
        self._target = (parts.hostname, parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        self.requests: list[tuple[str, str]] = []
        self.struck: list[tuple[str, str]] = []
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = threading.Event()

    def at(self, k: int | Collection[int], fault: Fault, *, method: str = "", path: str = "") -> None:
        """Let `fault` happen to the k-th request from now on (1: the next one), or to several.

        Args:
            k: one place or several in the row of the requests that `method` and `path` select.
            method: only requests of this method count.
            path: only requests whose path (with query, as it was sent) this pattern finds count.
        """
        self._add(_Rule(fault, (k,) if isinstance(k, int) else k, method, re.compile(path)))

    def always(self, fault: Fault, *, method: str = "", path: str = "") -> None:
        """Let `fault` happen to every request that `method` and `path` select, until `heal`."""
        self._add(_Rule(fault, None, method, re.compile(path)))

    def _add(self, rule: _Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def heal(self) -> None:
        """Forget all rules."""
        with self._lock:
            self._rules.clear()

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._accept, name="faulty-store", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for connection in left:
            _cut(connection)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, client.makefile("rb") as stream, contextlib.suppress(OSError, EOFError):
                while self._pass_on(client, stream):
                    pass
        finally:
            with self._lock:
                self._open.discard(client)

    def _pass_on(self, client: socket.socket, stream: BinaryIO) -> bool:
        """One request and its answer; whether another may follow on the connection."""
        head = _head(stream)
        if not head:
            return False
        method, path = head.split(b" ", 2)[:2]
        fault = self._counted(method.decode("latin-1"), path.decode("latin-1"))
        if _header(head, "Expect"):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head)
        request = head + _body(stream, head)
        if fault.delay:
            self._closed.wait(fault.delay)
        if fault.call is not None and not fault.cuts:
            fault.call()
        if fault.answer:
            if fault.done:
                self._asked(request, len(head), fault, bodiless=method == b"HEAD")
            client.sendall(_answer(fault))
            return True
        answer, keeps = self._asked(request, len(head), fault, bodiless=method == b"HEAD")
        if fault.cuts:
            if fault.call is not None:
                fault.call()
            client.sendall(_share(answer, fault))
            _cut(client)
            return False
        client.sendall(answer)
        return keeps

    def _counted(self, method: str, path: str) -> Fault:
        """Note a request; what is to happen to it."""
        with self._lock:
            self.requests.append((method, path))
            faults = [rule.fault for rule in self._rules if rule.strikes(method, path)]
            if faults:
                self.struck.append((method, path))
        return faults[0] if faults else Fault()

    def _asked(self, request: bytes, head: int, fault: Fault, *, bodiless: bool) -> tuple[bytes, bool]:
        """What the store answers, and whether the connection lives on; nothing where it hears but a part of it."""
        if fault.request <= 0:
            return b"", False
        with socket.create_connection(self._target) as store:
            store.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if fault.request < 1:
                body = len(request) - head
                store.sendall(request[: head + int(body * fault.request)] if body else request[: head // 2])
                return b"", False
            store.sendall(request)
            with store.makefile("rb") as stream:
                status = 100
                while status < 200:
                    if not (answered := _head(stream)):
                        raise EOFError("the store gave no answer")
                    status = int(answered.split(b" ", 2)[1])
                if bodiless or status in NO_BODY:
                    return answered, _lives_on(answered, framed=True)
                framed = bool(_header(answered, "Content-Length") or _header(answered, "Transfer-Encoding"))
                body_ = _body(stream, answered) if framed else stream.read()
                return answered + body_, _lives_on(answered, framed=framed)


def _head(stream: BinaryIO) -> bytes:
    """The first line and the headers of a message with the empty line after them; nothing where none comes."""
    lines = [stream.readline()]
    while lines[-1] not in (b"\r\n", b""):
        lines.append(stream.readline())
    return b"".join(lines) if lines[-1] else b""


def _header(head: bytes, name: str) -> str:
    found = re.search(rb"(?i)\r\n" + name.encode() + rb":[ \t]*([^\r]*)", head)
    return found[1].decode("latin-1").strip() if found else ""


def _body(stream: BinaryIO, head: bytes) -> bytes:
    """The body of a message, as it stands on the wire."""
    if _header(head, "Transfer-Encoding").lower() != "chunked":
        return _exactly(stream, int(_header(head, "Content-Length") or 0))
    parts: list[bytes] = []
    while True:
        size = stream.readline()
        parts.append(size)
        if (length := int(size.split(b";")[0] or b"0", 16)) == 0:
            break
        parts.append(_exactly(stream, length + 2))
    while parts[-1] not in (b"\r\n", b""):  # trailers
        parts.append(stream.readline())
    return b"".join(parts)


def _exactly(stream: BinaryIO, length: int) -> bytes:
    found = stream.read(length)
    if len(found) < length:
        raise EOFError("the message ends before its body does")
    return found


def _share(answer: bytes, fault: Fault) -> bytes:
    """What the client hears of an answer before the connection is cut."""
    if fault.status_only:
        return answer[: answer.find(b"\r\n") + 2]
    head, end, body = answer.partition(b"\r\n\r\n")
    return head + end + body[: int(len(body) * fault.response)] if body and fault.response > 0 else b""


def _lives_on(answered: bytes, *, framed: bool) -> bool:
    return framed and answered.startswith(b"HTTP/1.1") and _header(answered, "Connection").lower() != "close"


def _answer(fault: Fault) -> bytes:
    """An error as S3 (body) and Azure (header) say it."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{fault.code}</Code><Message>later</Message></Error>'
    head = f"HTTP/1.1 {fault.answer} {fault.code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return f"{head}x-ms-error-code: {fault.code}\r\n\r\n{body}".encode()


def _cut(connection: socket.socket) -> None:
    """End a connection whatever it is doing."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
