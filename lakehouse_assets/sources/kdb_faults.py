"""The errors of a connection to kdb+, each with the name of its fault in `error.facts["fault"]` (`kdb_client.py`).

What belongs here: what each fault is called, whether trying again helps, and the next step. What does not: connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lakehouse_assets.errors import (
    LakehouseError,
    SourceBusy,
    SourceError,
    SourceMissing,
    SourceUnreachable,
    SourceUnreadable,
)

_SHOWN = 400
_BUSY = ("wsfull", "stop", "timeout", "conn", "hop", "close")
_FORBIDDEN = ("access", "noaccess", "noamend", "restricted")
_MEANT = {
    "type": "the server's table has other types than the query expects: see `meta` of it",
    "length": "the server's table has columns of unequal length: it is damaged, or half written",
    "domain": "the server's table holds values that the query does not expect",
    "rank": "the server's version of q does not know the query's functions as they are called",
    "nyi": "the server's version of q does not do this",
    "par": "the server's table is partitioned in a way that the query does not know",
    "part": "a partition of the server's table is damaged, or half written",
    "limit": "the answer is too large for the server: fewer rows in a query",
}


def late(server: object, why: str) -> SourceUnreachable:
    """The answer, or the connection, did not come in time."""
    return SourceUnreachable(
        f"kdb+ {server}: {why}", fix="try again, with a longer timeout or fewer rows in a query", fault="timeout"
    )


def broken(server: object, why: str) -> SourceUnreachable:
    """The connection ended where it should not."""
    return SourceUnreachable(
        f"kdb+ {server}: {why}", fix="try again; if it stays, see the log of the kdb+ process", fault="broken"
    )


def unreadable(server: object, why: str, fault: str, fix: str | None = None) -> SourceUnreadable:
    """The server is there, and what it says cannot be used."""
    usual = "see that the address is that of a kdb+ process, and whether it wants TLS"
    return SourceUnreadable(f"kdb+ {server}: {why}", fix=fix or usual, fault=fault)


def shown(query: str) -> str:
    """A query as messages show it: in one line, shortened."""
    line = " ".join(query.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def server_error(server: object, text: str, query: str, params: Sequence[Any]) -> LakehouseError:
    """The error of a query that q answered with an error; what q says is the name of it, or of what it misses."""
    said = text.lstrip("'")
    names = {name for given in params for name in (given if isinstance(given, list) else [given])}
    problem = f"kdb+ {server} answers '{said} to: {shown(query)}"
    facts = {"fault": "server", "text": said, "query": shown(query)}
    if said not in (*_MEANT, *_BUSY, *_FORBIDDEN) and said in {name for name in names if isinstance(name, str)}:
        return SourceMissing(problem, fix=f"{said!r} is not known to the server: see its name", **facts)
    if said.split(":")[0] in _BUSY:
        return SourceBusy(problem, fix="the process lacks memory or time: fewer rows in a query, or later", **facts)
    if said in _FORBIDDEN:
        return SourceUnreadable(problem, fix="let the user read the table, or name another user", **facts)
    return SourceError(problem, fix=_MEANT.get(said, "see the log of the kdb+ process"), **facts)
