"""PyKX: the client by choice (`kdb.client: pykx`), and the inflater of large compressed frames.

What comes over PyKX's connection is serialized by PyKX and read by this project's own codec, so that types are the same
with both clients. What PyKX's connection itself does not do stays so: it does not check the host name of a certificate,
and a server that dies or stalls within an answer is waited for without end, whatever the timeout says.

What belongs here: all that imports pykx, lazily. What does not: q's types (`kdb_types.py`).
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

import pyarrow as pa

from lakehouse_assets.errors import LakehouseError, NotRunnable, SettingsError, SourceUnreachable, SourceUnreadable
from lakehouse_assets.sources import qipc
from lakehouse_assets.sources.kdb_client import KdbServer, Param, as_table
from lakehouse_assets.sources.kdb_faults import server_error, shown


def installed() -> bool:
    """Whether PyKX can be imported; it is not."""
    return importlib.util.find_spec("pykx") is not None


def inflate(frame: bytes) -> bytes | None:
    """The plain frame of a compressed one, or `None` where PyKX does not read it: an error of q, a damaged frame."""
    kx = load()
    try:
        made = kx.serialize(kx.deserialize(frame), wait=frame[1])
    except kx.exceptions.PyKXException:
        return None
    return bytes(made.data)


class PykxClient:
    """A connection of PyKX, with the interface and the types of `OwnClient`; made when the first query is asked."""

    def __init__(self, server: KdbServer) -> None:
        if server.tls:
            raise SettingsError(
                "`kdb.client: pykx` with TLS would not check the host name of the certificate",
                fix="leave `kdb.client` out: the project's own client checks it",
            )
        self.server = server
        self._connection: Any = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("a connection to kdb+ is not pickled")

    def table(self, query: str, *params: Param) -> pa.Table:
        """The table that a query gives; of a keyed one the key columns, then the others."""
        return as_table(self.value(query, *params), query)

    def value(self, query: str, *params: Param) -> Any:
        """What a query gives: atoms as Python, vectors as `pa.Array` (`qipc.decode`).

        Raises:
            SourceUnreachable, SourceUnreadable, SourceBusy, SourceMissing, SourceError: as with `OwnClient`.
            TypeRefused: the answer holds what has no place, with its column and row.
        """
        kx = load()
        given = [kx.deserialize(_joined(param)) for param in params]
        if self._connection is None:
            self._connection = self._connect(kx)
        try:
            answer = self._connection(query, *given)
        except kx.exceptions.QError as error:
            raise self._fault(str(error), query, params) from None
        except (OSError, RuntimeError, kx.exceptions.PyKXException) as error:
            self.close()
            raise _lost(self.server, str(error), query) from None
        try:
            made = kx.serialize(answer)
        except kx.exceptions.QError as error:
            raise SourceUnreadable(f"PyKX does not give the answer to {shown(query)}: {error}", fault="frame") from None
        return qipc.decode(bytes(made.data), self.server.infinities)

    def close(self) -> None:
        """End the connection; a further query makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self, kx: Any) -> Any:
        self.server.credentials()
        try:
            return kx.SyncQConnection(
                self.server.host,
                self.server.port,
                username=self.server.user,
                password=self.server.password,
                timeout=self.server.timeout,
                connection_timeout=self.server.connect_timeout,
                no_ctx=True,
            )
        except kx.exceptions.PyKXException as error:
            if "Authentication" in str(error):
                raise SourceUnreadable(
                    f"kdb+ {self.server}: it refuses user {self.server.user!r}",
                    fix="see user and password, and whether the process lets this machine in",
                    fault="credentials",
                ) from None
            raise _lost(self.server, str(error)) from None
        except (OSError, RuntimeError) as error:
            raise _lost(self.server, str(error)) from None

    def _fault(self, text: str, query: str, params: tuple[Param, ...]) -> LakehouseError:
        """The error of PyKX's one class for what q says and what fails on the way."""
        if "timed out" in text or "closed" in text.lower():
            self.close()
            return _lost(self.server, text, query)
        return server_error(self.server, text, query, params)


def _lost(server: KdbServer, why: str, query: str = "") -> SourceUnreachable:
    fault = "timeout" if "timed out" in why.lower() else "broken" if query else "unreachable"
    return SourceUnreachable(
        f"kdb+ {server}, over PyKX: {why}",
        fix="see that the process runs; leave `kdb.client` out for errors that say more",
        fault=fault,
        query=shown(query),
    )


def _joined(value: Param) -> bytes:
    return b"".join(qipc.encode(value))


def has_licence(environ: Mapping[str, str]) -> bool:
    """Whether the environment says where a licence of kdb+ is: PyKX takes it from there."""
    return any(environ.get(name) for name in ("QLIC", "KDB_LICENSE_B64", "KDB_K4LICENSE_B64"))


def load() -> Any:
    """PyKX, imported without questions, and without a licence unless there is one.

    Raises:
        NotRunnable: it is not installed.
    """
    if not has_licence(os.environ):
        os.environ.setdefault("PYKX_UNLICENSED", "true")
    try:
        import pykx  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise NotRunnable(
            "`kdb.client: pykx` needs PyKX, which is not installed",
            fix="leave `kdb.client` out, or install it: pip install 'lakehouse-assets[kdb]'",
        ) from None
    warnings.filterwarnings("ignore", "The q datetime type is deprecated", DeprecationWarning)
    return pykx
