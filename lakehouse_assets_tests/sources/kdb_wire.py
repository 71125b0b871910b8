"""A server on the loopback that does to each connection what a test says, and one that answers as q would.

What belongs here: sockets that behave and misbehave. What does not: data that looks like a market's.
`python -m lakehouse_assets_tests.sources.kdb_wire` answers in a process of its own, and prints its port.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pyarrow as pa

from lakehouse_assets.sources import qipc

Act = Callable[["Peer"], None]
TRADES = pa.table({"sym": ["a", None, "b"], "size": [1, None, 3]})


class Peer:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket, over: threading.Event) -> None:
        self.connection = connection
        self.over = over

    def handshake(self, capability: int = 6) -> bytes:
        """Take the credentials, and let the client in."""
        said = b""
        while not said.endswith(b"\0"):
            said += self.connection.recv(1) or b"\0"
        self.connection.sendall(bytes([capability]))
        return said

    def asked(self) -> Any:
        """The next query, decoded; `None` when the client has gone."""
        first = self._exactly(8)
        return qipc.decode(first + self._exactly(qipc.header(first).length - 8)) if first else None

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            some = self.connection.recv(count - len(found))
            if not some:
                return b""
            found += some
        return found

    def send(self, frame: bytes) -> None:
        """Send bytes as they are."""
        self.connection.sendall(frame)

    def answer(self, value: Any, kind: int = qipc.Kind.RESPONSE) -> None:
        """Send a value as a frame."""
        self.send(b"".join(qipc.encode(value, kind)))

    def stall(self) -> None:
        """Say nothing until the test is over."""
        self.over.wait(30)


class Wire:
    """Listens on the loopback; the n-th connection gets the n-th act, those after the last the last.

    Attributes:
        said: what each client said in its handshake, where the act asks for it.
        asked: the queries that acts of `serve` have seen.
        connections: how many there were.
    """

    def __init__(self, *acts: Act, tls: ssl.SSLContext | None = None) -> None:
        self.acts = acts or (self.serve,)
        self.tls = tls
        self.said: list[bytes] = []
        self.asked: list[Any] = []
        self.connections = 0
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def __enter__(self) -> Wire:
        self._start(self._listen)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for made in self._open:
            with contextlib.suppress(OSError):
                made.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            act = self.acts[min(self.connections, len(self.acts) - 1)]
            self.connections += 1
            self._start(self._play, act, connection)

    def _play(self, act: Act, connection: socket.socket) -> None:
        try:
            with self.tls.wrap_socket(connection, server_side=True) if self.tls else connection as made:
                self._open.append(made)
                act(Peer(made, self._over))
        except OSError:
            connection.close()

    def serve(self, peer: Peer) -> None:
        """Answer every query with the trades, keyed by symbol; `fail` with its parameter as the error."""
        said = b""
        while not said.endswith(b"\0"):
            said += peer.connection.recv(1) or b"\0"
        self.said.append(said)
        if b":wrong" in said:
            return
        peer.send(b"\x06")
        while (asked := peer.asked()) is not None:
            self.asked.append(asked)
            if asked[0] == b"fail":
                peer.answer(qipc.QServerError(asked[1]))
            else:
                peer.answer(pa.array(["trade"]) if asked == b"tables[]" else qipc.keyed(TRADES))


def main() -> None:
    """Serve until standard input ends."""
    with Wire() as wire:
        print(wire.port, flush=True)
        input()


if __name__ == "__main__":
    main()
