"""The connection to a kdb+ process: handshake, TLS, one deadline for a whole answer, and an error for each fault.

| fault | error | again? |
| --- | --- | --- |
| `unreachable`: nobody listens, or the name is unknown | SourceUnreachable | yes |
| `timeout`: no connection, or no whole answer, in time | SourceUnreachable | yes |
| `broken`: the connection ended before or within an answer | SourceUnreachable | yes |
| `credentials`: the server ended the handshake | SourceUnreadable | no |
| `tls`: another name in the certificate, an unknown authority, no TLS at all | SourceUnreadable | no |
| `header`, `frame`: what came is no q, or too large | SourceUnreadable | no |
| `server`: an error of q (`server_error`) | by its text | by its text |

Each carries its name in `error.facts["fault"]`. A connection that failed within an answer is closed for good: the next
query makes a new one. A query is never sent twice.

What belongs here: the transport. What does not: frames (`qipc.py`), queries and tables (`kdb.py`).
"""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np
import pyarrow as pa

from lakehouse_assets.errors import LakehouseError, SettingsError, SourceError, SourceUnreachable, SourceUnreadable
from lakehouse_assets.sources import qipc
from lakehouse_assets.sources.kdb_faults import broken, late, server_error, shown, unreadable
from lakehouse_assets.sources.kdb_types import KEYS

Param = bool | int | float | str | bytes | dt.date | list[str] | list[dt.date]
"""What a query is given: str is a symbol, bytes a char vector; lists are vectors of symbols or dates."""
CAPABILITY = 6
"""Said in the handshake: timestamps, guids, compression, frames of more than 2 GB, vectors of more than 2^31."""
_CHUNK = 1 << 20


class KdbClient(Protocol):
    """What a source needs of a kdb+ process. One client is used by one thread."""

    def table(self, query: str, *params: Param) -> pa.Table:
        """The table that a query gives; of a keyed one the key columns, then the others."""

    def value(self, query: str, *params: Param) -> Any:
        """What a query gives: atoms as Python, vectors as `pa.Array` (`qipc.decode`)."""

    def close(self) -> None:
        """End the connection."""


@dataclass(frozen=True)
class KdbTls:
    """How a server is believed: always by name, and by the authorities in a PEM file or the system's.

    Attributes:
        authorities: a PEM file; `None`: those of the system.
        certificate, key: PEM files of this client, where the server asks for them.
    """

    authorities: str | None = None
    certificate: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """The settings of TLS; the host name is checked.

        Raises:
            SettingsError: a file cannot be read.
        """
        try:
            made = ssl.create_default_context(cafile=self.authorities)
            if self.certificate:
                made.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            files = [name for name in (self.authorities, self.certificate, self.key) if name]
            raise SettingsError(f"a certificate for kdb+ cannot be read: {error}", value=files) from None
        return made


@dataclass(frozen=True)
class KdbServer:
    """Where a kdb+ process is, and how it is talked to. It holds a password in clear: never pickled, never shown.

    Attributes:
        timeout: seconds from a query to the last byte of its answer.
        connect_timeout: seconds for the connection, TLS and the handshake together.
        most: bytes of the largest answer that is taken.
        infinities: `refuse`, or `null`.
    """

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    tls: KdbTls | None = None
    timeout: float = 120.0
    connect_timeout: float = 10.0
    most: int = 1 << 33
    infinities: str = "refuse"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a server with its password is not pickled: pass on the options, with references to secrets")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def credentials(self) -> bytes:
        """What the handshake starts with.

        Raises:
            SettingsError: a user or a password that q cannot be told.
        """
        if ":" in self.user or "\0" in self.user + self.password:
            raise SettingsError("a user of kdb+ holds no ':', and neither user nor password a NUL", value=self.user)
        return f"{self.user}:{self.password}".encode() + bytes((CAPABILITY, 0))


class OwnClient:
    """A connection over this project's own transport and codec; it is made when the first query is asked."""

    def __init__(self, server: KdbServer) -> None:
        self.server = server
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a connection to kdb+ is not pickled")

    def table(self, query: str, *params: Param) -> pa.Table:
        """The table that a query gives; of a keyed one the key columns, then the others."""
        return as_table(self.value(query, *params), query)

    def value(self, query: str, *params: Param) -> Any:
        """What a query gives: atoms as Python, vectors as `pa.Array` (`qipc.decode`).

        Raises:
            SourceUnreachable, SourceUnreadable, SourceBusy, SourceMissing, SourceError: as the module says.
            TypeRefused: the answer holds what has no place, with its column and row.
        """
        frame = qipc.encode((query, *params), qipc.Kind.SYNC)
        with self._lock:
            answer = self._ask(frame, query)
        try:
            return qipc.decode(answer, self.server.infinities)
        except qipc.QServerError as error:
            raise server_error(self.server, error.text, query, params) from None
        except LakehouseError as error:
            if isinstance(error, SourceUnreadable):
                self.close()
            error.facts["query"] = shown(query)
            raise

    def close(self) -> None:
        """End the connection; a further query makes a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, frame: Sequence[memoryview], query: str) -> memoryview:
        connection = self._connected()
        end = time.monotonic() + self.server.timeout
        try:
            self._send(connection, frame, end)
            while True:
                kind, answer = self._frame(connection, end)
                if kind == qipc.Kind.RESPONSE:
                    return answer
                if kind == qipc.Kind.SYNC:
                    raise unreadable(self.server, "it asks a question of its own", "header")
        except BaseException as error:
            self.close()
            if isinstance(error, LakehouseError):
                error.facts["query"] = shown(query)
            raise

    def _connected(self) -> socket.socket:
        if self._socket is not None and _ended(self._socket):
            self.close()
        if self._socket is None:
            self._socket = connect(self.server)
        return self._socket

    def _send(self, connection: socket.socket, frame: Sequence[memoryview], end: float) -> None:
        try:
            connection.settimeout(_left(end, self.server, "the query was not taken"))
            connection.sendall(b"".join(frame))
        except TimeoutError:
            raise late(self.server, f"the query was not taken in {self.server.timeout:g} s") from None
        except OSError as error:
            raise broken(self.server, f"the connection ended as the query was sent: {error}") from None

    def _frame(self, connection: socket.socket, end: float) -> tuple[int, memoryview]:
        first = memoryview(bytearray(8))
        self._fill(connection, first, end, "before an answer")
        try:
            said = qipc.header(first)
        except SourceUnreadable as error:
            raise unreadable(self.server, error.problem, "header") from None
        if said.length > self.server.most:
            raise unreadable(
                self.server,
                f"an answer of {said.length:,} bytes, more than the {self.server.most:,} that are taken",
                "header",
                "let the query give fewer rows",
            )
        whole = np.empty(said.length, np.uint8).data
        whole[:8] = first
        self._fill(connection, whole[8:], end, f"in the middle of an answer of {said.length:,} bytes")
        return said.kind, whole

    def _fill(self, connection: socket.socket, into: memoryview, end: float, when: str) -> None:
        got = 0
        while got < len(into):
            why = f"no whole answer came in {self.server.timeout:g} s"
            connection.settimeout(_left(end, self.server, why))
            try:
                some = connection.recv_into(into[got:], min(len(into) - got, _CHUNK))
            except TimeoutError:
                raise late(self.server, why) from None
            except OSError as error:
                raise broken(self.server, f"the connection ended {when}: {error}") from None
            if not some:
                raise broken(self.server, f"the server ended the connection {when}")
            got += some


def connect(server: KdbServer) -> socket.socket:
    """A connection whose handshake is done.

    Raises:
        SourceUnreachable: nobody answers, or not in time.
        SourceUnreadable: the credentials or the certificate are refused, or what answers is no kdb+ process.
    """
    said = server.credentials()
    end = time.monotonic() + server.connect_timeout
    try:
        plain = socket.create_connection((server.host, server.port), server.connect_timeout)
    except TimeoutError:
        raise late(server, f"no connection in {server.connect_timeout:g} s") from None
    except OSError as error:
        raise SourceUnreachable(
            f"nobody answers at kdb+ {server}: {error}",
            fix="see that the process runs, and that host and port are right",
            fault="unreachable",
        ) from None
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made = _secured(plain, server, end) if server.tls else plain
        _shake(made, server, said, end)
    except BaseException:
        plain.close()
        raise
    return made


def _secured(plain: socket.socket, server: KdbServer, end: float) -> socket.socket:
    assert server.tls is not None
    context = server.tls.context()
    try:
        plain.settimeout(_left(end, server, "no TLS in time"))
        return context.wrap_socket(plain, server_hostname=server.host)
    except ssl.SSLCertVerificationError as error:
        raise unreadable(
            server,
            f"its certificate is not believed: {error.verify_message}",
            "tls",
            "connect by the name in the certificate, and say which authorities to trust",
        ) from None
    except ssl.SSLError as error:
        raise unreadable(server, f"TLS fails: {error.reason}", "tls", "see whether the port speaks TLS") from None
    except TimeoutError:
        raise late(server, f"no TLS in {server.connect_timeout:g} s") from None
    except OSError as error:
        raise broken(server, f"the connection ended within TLS: {error}") from None


def _shake(made: socket.socket, server: KdbServer, said: bytes, end: float) -> None:
    """Say who we are; the answer is one byte, the server's capability."""
    try:
        made.settimeout(_left(end, server, "no handshake in time"))
        made.sendall(said)
        answer = made.recv(1)
    except TimeoutError:
        raise late(server, f"no handshake in {server.connect_timeout:g} s") from None
    except ssl.SSLError as error:
        raise unreadable(server, f"TLS fails: {error.reason}", "tls", "see which certificate the server asks") from None
    except OSError as error:
        raise broken(server, f"the connection ended within the handshake: {error}") from None
    if not answer:
        raise unreadable(
            server,
            f"it refuses user {server.user!r}",
            "credentials",
            "see user and password, and whether the process lets this machine in",
        )
    if answer[0] > CAPABILITY:
        raise unreadable(server, f"it answers the handshake with {answer[0]}", "header", "see whether it wants TLS")


def _ended(connection: socket.socket) -> bool:
    """Whether the server ended a connection on which no answer is due."""
    connection.settimeout(0)
    try:
        return socket.socket.recv(connection, 1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _left(end: float, server: KdbServer, why: str) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise late(server, why)
    return left


def as_table(found: Any, query: str) -> pa.Table:
    """The table of an answer, keys and all.

    Raises:
        SourceError: the answer is no table.
    """
    if not isinstance(found, pa.Table):
        raise SourceError(
            f"a query gives a {type(found).__name__}, not a table: {shown(query)}",
            fix="see whether the name is that of a table",
        )
    left = {key: value for key, value in (found.schema.metadata or {}).items() if key != KEYS}
    return found.replace_schema_metadata(left or None)
