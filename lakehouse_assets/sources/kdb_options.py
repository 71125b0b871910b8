"""What the read options of a kdb+ table mean; judged without a connection.

| option | default | meaning |
| --- | --- | --- |
| `kdb.host`, `kdb.port` | (required) | where the process listens |
| `kdb.table` | the entity's `source` | the table that is read |
| `kdb.partition` | | the date column by which the table is extracted; without it the table is read whole |
| `kdb.user`, `kdb.password` | none | who reads; the password as a reference to a secret |
| `kdb.tls` | false | whether the connection is TLS; the certificate's host name is checked |
| `kdb.tlsCaFile` | the system's | the authorities that are trusted, as a PEM file |
| `kdb.client` | qipc | the project's own client, or pykx |
| `kdb.timeout` | 60 | seconds from a query to the last byte of its answer |
| `kdb.connectTimeout` | 5 | seconds for connection, TLS and handshake |
| `kdb.sliceRows` | 250000 | the rows of one query: what bounds the memory |
| `kdb.infinities` | refuse | infinities of integers and times: refuse them by name, or take them for null |
| `kdb.nanoseconds` | column | timestamps are microseconds: keep nanoseconds in a column `<name>_ns`, or refuse others |

What belongs here: reading options, and the server made of them. What does not: connections (`kdb_client.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.secrets import resolve
from lakehouse_assets.sources.kdb_client import KdbClient, KdbServer, KdbTls, OwnClient
from lakehouse_assets.sources.kdb_pykx import PykxClient

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import Entity

_HOST, _PORT, _TABLE, _PARTITION = "kdb.host", "kdb.port", "kdb.table", "kdb.partition"
_USER, _PASSWORD, _TLS, _AUTHORITIES = "kdb.user", "kdb.password", "kdb.tls", "kdb.tlsCaFile"
_CLIENT, _TIMEOUT, _CONNECT, _SLICE = "kdb.client", "kdb.timeout", "kdb.connectTimeout", "kdb.sliceRows"
_INFINITIES, _NANOSECONDS = "kdb.infinities", "kdb.nanoseconds"
OPTIONS = (
    _HOST, _PORT, _TABLE, _PARTITION, _USER, _PASSWORD, _TLS, _AUTHORITIES, _CLIENT, _TIMEOUT, _CONNECT, _SLICE,
    _INFINITIES, _NANOSECONDS,
)  # fmt: skip
CLIENTS = ("qipc", "pykx")
_TRUE_FALSE = ("false", "true")
_SECONDS = r"0*[1-9]\d{0,5}(\.\d{1,3})?|0+\.\d{0,2}[1-9]\d{0,2}"
_NAME = r"[A-Za-z]\w{0,199}"


@dataclass(frozen=True)
class KdbOptions:
    """The options of one table, checked; the password still is a reference.

    Attributes:
        partition: the date column, or `None`: the table is read whole.
        authorities: a PEM file; `None`: those of the system.
        timeout, connect_timeout: seconds.
        nanoseconds: `column` or `refuse`.
    """

    host: str
    port: int
    table: str
    partition: str | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    authorities: str | None = None
    client: str = CLIENTS[0]
    timeout: float = 60.0
    connect_timeout: float = 5.0
    slice_rows: int = 250_000
    infinities: str = "refuse"
    nanoseconds: str = "column"

    def server(self, environ: Mapping[str, str]) -> KdbServer:
        """The server, with the password in clear.

        Raises:
            SecretError: a reference has no value here.
        """
        return KdbServer(
            self.host,
            self.port,
            resolve(self.user, environ),
            resolve(self.password, environ),
            KdbTls(self.authorities) if self.tls else None,
            self.timeout,
            self.connect_timeout,
            infinities=self.infinities,
        )

    def connect(self, environ: Mapping[str, str]) -> KdbClient:
        """A client that connects at its first query."""
        return (PykxClient if self.client == "pykx" else OwnClient)(self.server(environ))


def options_of(entity: Entity) -> KdbOptions:
    """The options of an entity.

    Raises:
        SettingsError: one is missing, unknown, or has a value that it cannot have.
    """
    reader = _Reader(entity)
    reader.refuse_unknown()
    reader.refuse_schema()
    tls = reader.tls()
    return KdbOptions(
        host=reader.host(),
        port=reader.port(),
        table=reader.table(),
        partition=reader.partition(),
        user=reader.user(),
        password=reader.password(),
        tls=tls,
        authorities=reader.given.get(_AUTHORITIES),
        client=reader.one_of(_CLIENT, CLIENTS),
        timeout=reader.seconds(_TIMEOUT, 60.0),
        connect_timeout=reader.seconds(_CONNECT, 5.0),
        slice_rows=reader.rows(),
        infinities=reader.one_of(_INFINITIES, ("refuse", "null")),
        nanoseconds=reader.one_of(_NANOSECONDS, ("column", "refuse")),
    )


def faults_of(entity: Entity) -> list[SettingsError]:
    """Everything that is wrong with the options of an entity, as errors; no server is asked, no secret resolved."""
    reader = _Reader(entity)
    judged: tuple[Callable[[], object], ...] = (
        reader.refuse_unknown,
        reader.refuse_schema,
        reader.host,
        reader.port,
        reader.table,
        reader.partition,
        reader.user,
        reader.password,
        reader.tls,
        lambda: reader.one_of(_CLIENT, CLIENTS),
        lambda: reader.seconds(_TIMEOUT, 60.0),
        lambda: reader.seconds(_CONNECT, 5.0),
        reader.rows,
        lambda: reader.one_of(_INFINITIES, ("refuse", "null")),
        lambda: reader.one_of(_NANOSECONDS, ("column", "refuse")),
    )
    found: dict[str, SettingsError] = {}
    for judge in judged:
        try:
            judge()
        except SettingsError as error:
            found.setdefault(str(error), error)
    return list(found.values())


class _Reader:
    def __init__(self, entity: Entity) -> None:
        self.entity = entity
        self.given = entity.read_options

    def refuse_unknown(self) -> None:
        for name in self.given:
            if name not in OPTIONS:
                raise self._error("a kdb source has no such read option", name, OPTIONS, "correct or remove it")

    def refuse_schema(self) -> None:
        if self.entity.source_schema:
            fix = "remove source_schema; type columns in a table that reads this one"
            raise self._error("the columns of a kdb table come from its `meta`", None, (), fix)

    def host(self) -> str:
        fix = f"give read_options: {{{_HOST}: kdb.example.com, {_PORT}: 5010}}"
        return self._matched(_HOST, r"[A-Za-z0-9._:-]{1,253}", "the name or address of a machine, without a port", fix)

    def port(self) -> int:
        legal = "a port from 1 to 65535"
        found = int(self._matched(_PORT, r"\d{1,5}", legal, f"give read_options: {{{_PORT}: 5010}}"))
        if not 1 <= found <= 65_535:
            raise self._illegal(_PORT, str(found), (legal,))
        return found

    def table(self) -> str:
        name = self.given.get(_TABLE, self.entity.source).strip()
        if not re.fullmatch(_NAME, name, re.ASCII):
            fix = f"name the table as `source`, or as {_TABLE}"
            raise self._error("this cannot be a table of kdb+", name, ("a letter, then letters, digits and '_'",), fix)
        return name

    def partition(self) -> str | None:
        return self._optional(_PARTITION, _NAME, "a date column, such as date")

    def user(self) -> str:
        return self._optional(_USER, r"[^:\0]+", "a user without ':'") or ""

    def password(self) -> str:
        found = self.given.get(_PASSWORD, "")
        if found and not self.given.get(_USER):
            fix = f"give {_USER}, too, or remove {_PASSWORD}"
            raise self._error(f"{_PASSWORD} is given without {_USER}", None, (), fix)
        return found

    def tls(self) -> bool:
        found = self.one_of(_TLS, _TRUE_FALSE) == "true"
        if not found and _AUTHORITIES in self.given:
            fix = f"say {_TLS}: true, or remove it"
            raise self._error(f"{_AUTHORITIES} is given, but the connection is not TLS", None, (), fix)
        if found and self.given.get(_CLIENT, "").strip().lower() == "pykx":
            fix = f"leave {_CLIENT} out: the project's own client checks it"
            raise self._error("PyKX does not check the host name of a certificate", "pykx", CLIENTS[:1], fix)
        return found

    def seconds(self, name: str, default: float) -> float:
        found = self._optional(name, _SECONDS, "a number of seconds such as 60 or 0.5")
        return default if found is None else float(found)

    def rows(self) -> int:
        found = self._optional(_SLICE, r"0*[1-9]\d{0,8}", "a number of rows from 1 to 999999999")
        return 250_000 if found is None else int(found)

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        """The value of an option, the first choice where it is not given."""
        value = self.given.get(name, choices[0]).strip()
        found = next((choice for choice in choices if choice == value.lower()), None)
        if found is None:
            raise self._illegal(name, value, choices)
        return found

    def _matched(self, name: str, pattern: str, legal: str, fix: str) -> str:
        if not self.given.get(name, "").strip():
            raise self._error(f"the read option {name} is required", None, (legal,), fix)
        return self._optional(name, pattern, legal) or ""

    def _optional(self, name: str, pattern: str, legal: str) -> str | None:
        value = self.given.get(name)
        if value is None:
            return None
        if not re.fullmatch(pattern, value.strip(), re.ASCII):
            raise self._illegal(name, value, (legal,))
        return value.strip()

    def _illegal(self, name: str, value: str, choices: tuple[str, ...]) -> SettingsError:
        problem = f"the read option {name} has a value that it cannot have"
        return self._error(problem, value, choices, "correct or remove it")

    def _error(self, problem: str, value: object, choices: tuple[str, ...], fix: str) -> SettingsError:
        return SettingsError(f"{self.entity.destination}: {problem}", value=value, choices=choices, fix=fix)
