"""What a stand-in for a kdb+ process serves and how it behaves, as values that travel to a process of their own.

What belongs here: options and their checks. What does not: data (`kdb_market.py`), sockets (`kdb_wire.py`).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Self

from lakehouse_assets.errors import SettingsError

KINDS = ("partitioned", "memory")
CHANGES = ("added", "retyped", "dropped")
FAULTS = ("kill", "close", "stall", "cut", "header", "garbage", "error")


@dataclass(frozen=True)
class KdbConfig:
    """What the stand-in serves. The same values give the same rows.

    Attributes:
        host, port: where it listens; port 0: a free one.
        user, password: whom it admits; no user: everybody.
        dates: the partitions, trading days from 1999-01-04 to 2018-12-31 (`kdb_prices.trading_days`).
        symbols: how many; the first four are the indices, the others are made from them and named after them.
        rows: trades of a date over all symbols.
        quotes: quotes of a date for each trade of it.
        seed: what all chance is drawn from.
        skew: the share of all rows that the symbol `SP500` has; `None`: as chance has it.
        nulls: the share of rows whose symbol is NULL, and of prices, bids and asks that are.
        ties: the share of rows that are moved back to a full ten seconds, or to the instant of the row before.
        kind: `partitioned` by date, each date sorted by symbol and time; or `memory`: one table sorted by time.
        denied: tables that nobody may read: `'access`.
        compress: the bytes of the largest frame that is sent compressed; 0, as q does on a loopback: none is.
        cache: bytes of dates that are kept when they were made; one is always kept.
    """

    host: str = "127.0.0.1"
    port: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    dates: tuple[date, ...] = (date(2018, 12, 19), date(2018, 12, 20), date(2018, 12, 21))
    symbols: int = 4
    rows: int = 10_000
    quotes: float = 5.0
    seed: int = 7
    skew: float | None = None
    nulls: float = 0.001
    ties: float = 0.02
    kind: str = "partitioned"
    denied: tuple[str, ...] = ()
    compress: int = 0
    cache: int = 1 << 30

    def __post_init__(self) -> None:
        for name, least in (("port", 0), ("symbols", 1), ("rows", 0), ("quotes", 0), ("compress", 0)):
            if getattr(self, name) < least:
                raise SettingsError(f"a kdb+ stand-in with `{name}` below {least}", value=getattr(self, name))
        for name in ("skew", "nulls", "ties"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise SettingsError(f"`{name}` of a kdb+ stand-in is a share from 0 to 1", value=getattr(self, name))
        if self.kind not in KINDS:
            raise SettingsError("`kind` of a kdb+ stand-in", value=self.kind, choices=KINDS)

    def to_json(self) -> str:
        """As text in one line."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        given: dict[str, Any] = json.loads(text)
        given["dates"] = tuple(map(date.fromisoformat, given["dates"]))
        given["denied"] = tuple(given["denied"])
        return cls(**given)


@dataclass(frozen=True)
class Fault:
    """What goes wrong with an answer.

    Attributes:
        kind: of the answer at hand,
            `kill`: the process ends (SIGKILL) when `after` bytes of it are sent;
            `close`: the connection ends then;
            `stall`: nothing more is sent then, the connection stays;
            `cut`: the frame is `after` bytes long, and says so: its message is cut;
            `header`: it starts with 8 bytes that are no header;
            `garbage`: its message is random bytes behind a type that q does not have, in a frame of the right length;
            `error`: it is q's error `text`.
        after: bytes, the header included.
        query: only answers to queries that hold this text.
        times: so many answers; then all is well again.
        skip: so many answers before are well.
        text: of `error`: `wsfull`, `type`, ….
    """

    kind: str
    after: int = 0
    query: str = ""
    times: int = 1
    skip: int = 0
    text: str = "wsfull"

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise SettingsError("a fault of a kdb+ stand-in", value=self.kind, choices=FAULTS)
