"""Connections of the stand-in: handshake, frames in, frames out in pieces, and the faults that a test asks for.

Each connection has a thread, so a long answer keeps nobody waiting. As q does: credentials that are refused end the
connection, an asynchronous message gets no answer, a frame is compressed only if it is longer than 2000 bytes and
becomes less than half as long (and, because deflating is slow here, only up to the size that the options say).

What belongs here: sockets. What does not: what is answered (`kdb_answers.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from lakehouse_assets.errors import LakehouseError, SettingsError
from lakehouse_assets.simulators.kdb_answers import Answers
from lakehouse_assets.simulators.kdb_config import Fault, KdbConfig
from lakehouse_assets.sources import qipc

CAPABILITY = 6
PIECE = 1 << 20
"""Bytes that are given to the socket at once."""
COMPRESSED_FROM = 2000
NO_TYPE = b"\x7e"
"""A type that q does not have."""
_SMALL = 1 << 16
_LONGEST_QUERY = 1 << 24
_LONGEST_NAME = 4096


class _Over(Exception):
    """The connection ends."""


class Listener:
    """Listens, admits, answers, until it is closed.

    Attributes:
        port: where it listens.
        connections: how many were admitted.
        queries: the text of every query that was taken, in order.

    Raises:
        SettingsError: the port is taken.
    """

    def __init__(self, config: KdbConfig, answers: Answers) -> None:
        self.config, self.answers = config, answers
        self.connections = 0
        self.queries: list[str] = []
        self._faults: list[_Armed] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._over = threading.Event()
        try:
            self._socket = socket.create_server((config.host, config.port), backlog=64)
        except OSError as error:
            raise SettingsError(
                f"the kdb+ stand-in cannot listen on {config.host}, port {config.port}: {error.strerror}",
                fix="name another port; 0 takes a free one",
            ) from None
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def arm(self, fault: Fault) -> None:
        """Let something go wrong with an answer to come."""
        with self._lock:
            self._faults.append(_Armed(fault))

    def close(self) -> None:
        """End every connection."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            capability = self._admit(connection)
            with self._lock:
                self.connections += 1
            while not self._over.is_set():
                self._turn(connection, capability)
        except (_Over, OSError):
            pass  # the client has gone, or a fault sent it away
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _admit(self, connection: socket.socket) -> int:
        """The handshake: what both can."""
        said = b""
        while not said.endswith(b"\0"):
            if len(said) > _LONGEST_NAME:
                raise _Over
            said += _some(connection, 1)
        said = said[:-1]
        capability = said[-1] if said and said[-1] <= CAPABILITY else 0
        name = said[:-1] if said and said[-1] <= CAPABILITY else said
        if self.config.user and name != f"{self.config.user}:{self.config.password}".encode():
            raise _Over
        connection.sendall(bytes([capability]))
        return capability

    def _turn(self, connection: socket.socket, capability: int) -> None:
        """Take a message, and answer it if it asks for an answer."""
        first = _exactly(connection, 8)
        try:
            said = qipc.header(first)
        except LakehouseError:
            raise _Over from None
        if said.length > _LONGEST_QUERY:
            raise _Over
        frame = first + _exactly(connection, said.length - 8)
        if said.kind != qipc.Kind.SYNC:
            return
        value, text = self._answered(frame)
        fault = self._fault(text)
        if fault and fault.kind == "error":
            value = qipc.QServerError(fault.text)
        self._send(connection, self._framed(value, capability), fault)

    def _answered(self, frame: bytes) -> tuple[Any, str]:
        """The answer to a query, and its text."""
        text = ""
        try:
            query = qipc.decode(frame)
            said = query[0] if isinstance(query, list) and query else query
            text = said.decode("utf-8", "replace") if isinstance(said, bytes) else ""
            with self._lock:
                self.queries.append(text)
            return self.answers.answer(query), text
        except qipc.QServerError as error:
            return error, text
        except LakehouseError:
            return qipc.QServerError("type"), text

    def _framed(self, value: Any, capability: int) -> Sequence[memoryview]:
        views = qipc.encode(value)
        size = sum(view.nbytes for view in views)
        if capability and COMPRESSED_FROM < size <= self.config.compress:
            return [memoryview(qipc.compress(b"".join(views)))]
        return views

    def _fault(self, text: str) -> Fault | None:
        with self._lock:
            for armed in self._faults:
                if armed.strikes(text):
                    return armed.fault
        return None

    def _send(self, connection: socket.socket, views: Sequence[memoryview], fault: Fault | None) -> None:
        if fault is None or fault.kind == "error":
            for piece in _pieces(views):
                connection.sendall(piece)
            return
        whole = b"".join(views)
        if fault.kind == "header":
            connection.sendall(b"\x07\x07\x07\x07" + whole[4:])
        elif fault.kind == "garbage":
            connection.sendall(whole[:8] + NO_TYPE + Random(fault.after).randbytes(len(whole) - 9))
        elif fault.kind == "cut":
            size = max(9, min(fault.after, len(whole) - 1))
            connection.sendall(whole[:4] + size.to_bytes(4, "little") + whole[8:size])
        else:
            connection.sendall(whole[: fault.after])
            self._end(fault)

    def _end(self, fault: Fault) -> None:
        """What follows when only a part of an answer is sent."""
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind == "stall":
            self._over.wait()
        raise _Over


class _Armed:
    """A fault, and how often it is still to come."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._skip, self._times = fault.skip, fault.times

    def strikes(self, text: str) -> bool:
        """Whether it befalls the answer to this query."""
        if self.fault.query not in text or not self._times:
            return False
        if self._skip:
            self._skip -= 1
            return False
        self._times -= 1
        return True


def _pieces(views: Sequence[memoryview]) -> Iterator[bytes | memoryview]:
    """What is sent at once: long buffers cut, short ones together."""
    short = bytearray()
    for view in views:
        if view.nbytes + len(short) <= _SMALL:
            short += view
            continue
        yield bytes(short)
        short.clear()
        for at in range(0, view.nbytes, PIECE):
            yield view[at : at + PIECE]
    yield bytes(short)


def _some(connection: socket.socket, count: int) -> bytes:
    found = connection.recv(count)
    if not found:
        raise _Over
    return found


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        found += _some(connection, min(count - len(found), PIECE))
    return bytes(found)
