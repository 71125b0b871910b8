"""A small kdb+ process for the tests of the source: tables in memory or by date, over the wire of `kdb_wire.py`.

What belongs here: answers to the texts of `kdb_queries.py`, as q would give them. What does not: a market's data.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.sources import kdb_queries as q
from lakehouse_assets.sources import qipc
from lakehouse_assets.sources.kdb import KdbSource
from lakehouse_assets.sources.kdb_types import BY_NAME, CHARS, OF, field, kind_of
from lakehouse_assets_tests.sources.kdb_wire import Peer, Wire

ONE, TWO, THREE = (dt.date(2024, 1, day) for day in (2, 3, 4))
TEXTS = ("TABLES", "META", "PARTITION_FIELD", "PARTITIONS", "FINGERPRINT", "SLICE", "WHOLE_FINGERPRINT", "WHOLE_SLICE")
NAMES = {getattr(q, name).encode(): name for name in TEXTS}


def table(kinds: Mapping[str, str], **columns: list[Any]) -> pa.Table:
    """A table of q: `table({"size": "long"}, size=[1, 2])`."""
    from lakehouse_assets.sources.kdb_types import arrow_of

    fields = [field(name, kind, arrow_of(kind)) for name, kind in kinds.items()]
    arrays = [pa.array(columns.get(of.name, []), of.type) for of in fields]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def letter(of: pa.Field) -> str:
    """What `meta` shows of a column."""
    kind = kind_of(of) or ""
    if kind == CHARS:
        return "C"
    return BY_NAME[kind.removesuffix(OF)].char.upper() if kind.endswith(OF) else BY_NAME[kind].char


BY_DAY = {"partitions": {"cadence": "daily", "start": "2018-12-03"}}
"""What the entity of an extract says beside its options."""


def placed(by_date: bool) -> str:
    """Where a table goes that is read by date, or whole."""
    return "extract.trades" if by_date else "bronze.trades"


class Desk:
    """The process.

    Attributes:
        tables: in memory.
        stored: by date, as a database on disk; the newest date gives the columns.
        field: the column by which those are partitioned.
        before: called with the name of the question and its parameters before an answer; what it gives is sent instead.
        asked: names of the questions.
    """

    def __init__(self) -> None:
        self.tables: dict[str, pa.Table] = {}
        self.stored: dict[str, dict[dt.date, pa.Table]] = {}
        self.field = "date"
        self.before: Callable[[str, list[Any]], Any] = lambda *_: None
        self.asked: list[str] = []

    def serve(self, peer: Peer) -> None:
        """Play one connection; a user `nobody` is not let in."""
        said = b""
        while not said.endswith(b"\0"):
            said += peer.connection.recv(1) or b"\0"
        if said.startswith(b"nobody:"):
            return
        peer.send(b"\x06")
        while (asked := peer.asked()) is not None:
            text, given = (asked, []) if isinstance(asked, bytes) else (asked[0], asked[1:])
            name = NAMES[text]
            self.asked.append(name)
            instead = self.before(name, given)
            if callable(instead):
                instead(peer)
                return
            peer.answer(self.answer(name, given) if instead is None else instead)

    def answer(self, name: str, given: list[Any]) -> Any:
        """What q would give."""
        if name == "TABLES":
            return pa.array(sorted({*self.tables, *self.stored}))
        if name == "META":
            return self._meta(*given)
        if name == "PARTITION_FIELD":
            return self.field if given[0] in self.stored else ""
        if name == "PARTITIONS":
            return self._partitions(*given)
        whole = name.startswith("WHOLE")
        rows = self.tables[given[0]] if whole else self._rows(*given[:3])
        if name.endswith("SLICE"):
            return rows.slice(*given[-2:])
        checksum = hashlib.md5(b"".join(qipc.encode(rows)), usedforsecurity=False).digest()
        return [rows.num_rows, qipc.QVector(pa.array(list(checksum), pa.int16()), "byte")]

    def _meta(self, name: str) -> pa.Table:
        stored = self.stored.get(name)
        fields = list(stored[max(stored)].schema if stored is not None else self.tables[name].schema)
        letters = [letter(of) for of in fields]
        if stored is not None:
            fields, letters = (
                [field(self.field, "date", pa.date32()), *fields],
                ["d" if self.field == "date" else "m", *letters],
            )
        kinds = {"c": "symbol", "t": "char", "f": "symbol", "a": "symbol"}
        blank = [None] * len(fields)
        return table(kinds, c=[of.name for of in fields], t=letters, f=blank, a=blank)

    def _partitions(self, name: str, column: str) -> pa.Table:
        kinds = {"date": "date", "rows": "long"}
        if name in self.stored:
            stored = self.stored[name]
            return table(kinds, date=sorted(stored), rows=[stored[day].num_rows for day in sorted(stored)])
        days = self.tables[name].column(column).to_pylist()
        found = sorted(set(days), key=lambda day: (day is not None, day))
        return table(kinds, date=found, rows=[days.count(day) for day in found])

    def _rows(self, name: str, column: str, day: dt.date) -> pa.Table:
        if name in self.stored:
            stored = self.stored[name]
            return stored.get(day, stored[max(stored)].slice(0, 0))
        rows = self.tables[name]
        return rows.filter(pc.equal(rows.column(column), pa.scalar(day))).drop_columns([column])


class Office:
    """A desk behind a port, and sources that read it."""

    def __init__(self, desk: Desk, wire: Wire) -> None:
        self.desk = desk
        self.wire = wire
        self._opened: list[KdbSource] = []

    def entity(self, source: str = "trade", destination: str = "", **options: object) -> Entity:
        """An entity that reads a table; names of options without `kdb.`."""
        given = {"host": "127.0.0.1", "port": self.wire.port, "timeout": 5, **options}
        return Entity(
            entity_id="trades",
            source=source,
            destination=destination or placed("partition" in given),
            source_format="kdb",
            read_options={f"kdb.{name}": value for name, value in given.items()},
            lakehouse=BY_DAY if "partition" in given else {},
        )

    def open(self, source: str = "trade", **options: object) -> KdbSource:
        """A source, closed with the office."""
        self._opened.append(KdbSource(self.entity(source, **options)))
        return self._opened[-1]

    def close(self) -> None:
        """Close every source."""
        for source in self._opened:
            source.close()
