"""What the stand-in answers: the texts of `kdb_queries.py`, each as it stands there, and a little of what people type.

| typed | answer |
| --- | --- |
| `tables[]`, ``tables `.`` | the names |
| `meta t`, `cols t`, `count t` | as q |
| `select [c[, c]] from t [where k[, k]]` | rows; k is `date=D`, `date within (D;D)`, ``sym=`a`` or ``sym in `a`b`` |
| `count select …` | how many |

Anything else is the error `'nyi`, with the text: this is no interpreter of q.

What belongs here: what a query means. What does not: what is in the tables (`kdb_database.py`), sockets
(`kdb_wire.py`).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.simulators.kdb_database import DATE, Database, digest, narrowed
from lakehouse_assets.simulators.kdb_market import TABLES
from lakehouse_assets.sources import kdb_queries as q
from lakehouse_assets.sources import qipc
from lakehouse_assets.sources.kdb_types import field

_DAY = r"(\d{4}\.\d\d\.\d\d)"
_SYMBOLS = r"((?:`[\w.:]*)+)"
_SELECT = re.compile(
    r"select\s+(?:(?P<columns>[A-Za-z]\w*(?:\s*,\s*[A-Za-z]\w*)*)\s+)?from\s+(?P<table>\w+)(?:\s+where\s+(?P<where>.+))?"
)
_CONDITIONS = {
    "days": re.compile(rf"date\s*=\s*{_DAY}"),
    "span": re.compile(rf"date\s+within\s*\(?\s*{_DAY}\s*[; ]\s*{_DAY}\s*\)?"),
    "symbol": re.compile(rf"sym\s*=\s*{_SYMBOLS}"),
    "symbols": re.compile(rf"sym\s+in\s+(?:enlist\s*)?{_SYMBOLS}"),
}
_KEYWORD = re.compile(r"(meta|cols|count)\s+`?(\w+)")


class Answers:
    """Answers queries from a database; used by several threads."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._known: Mapping[str, tuple[Callable[..., Any], tuple[type, ...]]] = {
            q.TABLES: (self._tables, ()),
            q.META: (database.meta, (str,)),
            q.COUNT: (self._count, (str,)),
            q.PARTITION_FIELD: (self._field, (str,)),
            q.PARTITIONS: (self._partitions, (str, str)),
            q.FINGERPRINT: (self._fingerprint, (str, str, dt.date)),
            q.WHOLE_FINGERPRINT: (self._whole_fingerprint, (str,)),
            q.SLICE: (self._slice, (str, str, dt.date, int, int)),
            q.WHOLE_SLICE: (self._whole_slice, (str, int, int)),
        }

    def answer(self, query: Any) -> Any:
        """The value of a query: a text, or a list of a text and its parameters.

        Raises:
            QServerError: what q would answer with.
        """
        text, parameters = (query[0], query[1:]) if isinstance(query, list) and query else (query, [])
        if not isinstance(text, bytes):
            raise qipc.QServerError("nyi")
        asked = text.decode("utf-8", "replace").strip()
        if asked in self._known:
            return self._call(*self._known[asked], parameters)
        if parameters:
            raise _unknown(asked)
        return self._typed(asked.rstrip("; "))

    def _call(self, function: Callable[..., Any], kinds: Sequence[type], parameters: Sequence[Any]) -> Any:
        if len(parameters) != len(kinds):
            raise qipc.QServerError("rank")
        for kind, given in zip(kinds, parameters, strict=True):
            if not isinstance(given, kind) or isinstance(given, bool):
                raise qipc.QServerError("type")
        if kinds:
            self.database.check(parameters[0])
        return function(*parameters)

    @property
    def _partitioned(self) -> bool:
        return self.database.config.kind == "partitioned"

    def _tables(self) -> pa.Array:
        return pa.array(sorted(TABLES))

    def _field(self, table: str) -> str:
        return DATE if self._partitioned else ""

    def _count(self, table: str) -> int:
        return sum(self.database.count(table, day) for day in self.database.dates)

    def _partitions(self, table: str, column: str) -> pa.Table:
        self._dated(column)
        rows = {day: self.database.count(table, day) for day in self.database.dates}
        shown = [day for day, many in rows.items() if many or self._partitioned]
        fields = [field("date", "date", pa.date32()), field("rows", "long", pa.int64())]
        return pa.Table.from_arrays(
            [pa.array(shown, pa.date32()), pa.array([rows[day] for day in shown], pa.int64())], schema=pa.schema(fields)
        )

    def _dated(self, column: str) -> None:
        if column != DATE:
            raise qipc.QServerError(column or "type")

    def _fingerprint(self, table: str, column: str, day: dt.date) -> list[Any]:
        self._dated(column)
        return [self.database.count(table, day), _bytes(self.database.fingerprint(table, day))]

    def _slice(self, table: str, column: str, day: dt.date, first: int, many: int) -> pa.Table:
        self._dated(column)
        return narrowed(_cut(self.database.stored(table, day), first, many))

    def _whole(self, table: str) -> pa.Table:
        if self._partitioned:
            raise qipc.QServerError("par")
        return self._rows(table, self.database.schema(table).names, self.database.dates)

    def _whole_fingerprint(self, table: str) -> list[Any]:
        rows = self._whole(table)
        return [rows.num_rows, _bytes(digest(rows))]

    def _whole_slice(self, table: str, first: int, many: int) -> pa.Table:
        return narrowed(_cut(self._whole(table), first, many))

    def _rows(self, table: str, columns: Sequence[str], days: Sequence[dt.date]) -> pa.Table:
        parts = [self.database.select(table, day, columns) for day in days]
        if not parts:
            names = [self.database.schema(table).field(name) for name in columns]
            return pa.schema(names).empty_table()
        try:
            return pa.concat_tables(parts).unify_dictionaries() if len(parts) > 1 else parts[0]
        except pa.ArrowInvalid:  # the dates' columns are of several types
            raise qipc.QServerError("mismatch") from None

    def _typed(self, text: str) -> Any:
        if text in ("tables[]", "tables`.", "tables `.", "tables `"):
            return self._tables()
        if found := _KEYWORD.fullmatch(text):
            return self._keyword(*found.groups())
        if text.startswith("count "):
            return self._selected(text.removeprefix("count ").strip(), text).num_rows
        return self._selected(text, text)

    def _keyword(self, word: str, table: str) -> Any:
        self.database.check(table)
        if word == "meta":
            return qipc.keyed(self.database.meta(table))
        if word == "cols":
            return pa.array(self.database.schema(table).names)
        return self._count(table)

    def _selected(self, text: str, asked: str) -> pa.Table:
        found = _SELECT.fullmatch(text)
        if not found:
            raise _unknown(asked)
        table = found["table"]
        self.database.check(table)
        given = [name.strip() for name in found["columns"].split(",")] if found["columns"] else []
        names = given or self.database.schema(table).names
        for name in names:
            if name not in self.database.schema(table).names:
                raise qipc.QServerError(name)
        days: Sequence[dt.date] = self.database.dates
        symbols: list[set[str]] = []
        for condition in (found["where"] or "").split(",") if found["where"] else []:
            days = _narrowed_days(condition.strip(), days, symbols, asked)
        distinct = list(dict.fromkeys([*names, "sym"] if symbols else names))
        rows = self._rows(table, distinct, days)
        for wanted in symbols:
            rows = rows.filter(_matches(rows.column("sym"), wanted))
        return narrowed(_numbered(rows, names))


def _narrowed_days(condition: str, days: Sequence[dt.date], symbols: list[set[str]], asked: str) -> Sequence[dt.date]:
    """The days that a condition leaves; symbols that it names are added to `symbols`."""
    for kind, pattern in _CONDITIONS.items():
        if found := pattern.fullmatch(condition):
            if kind in ("symbol", "symbols"):
                names = found[1].split("`")[1:]
                if kind == "symbol" and len(names) > 1:
                    raise qipc.QServerError("length")
                symbols.append(set(names))
                return days
            first, last = _day(found[1]), _day(found[found.lastindex or 1])
            return [day for day in days if first <= day <= last]
    raise _unknown(asked)


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text.replace(".", "-"))
    except ValueError:
        raise qipc.QServerError(text) from None


def _unknown(text: str) -> qipc.QServerError:
    return qipc.QServerError(f"nyi: {text[:400]}")


def _bytes(given: bytes) -> qipc.QVector:
    return qipc.QVector(pa.array(np.frombuffer(given, np.uint8)), "byte")


def _cut(rows: pa.Table, first: int, many: int) -> pa.Table:
    return rows.slice(max(0, first), max(0, many))


def _matches(column: pa.ChunkedArray, names: set[str]) -> pa.ChunkedArray:
    """Where a symbol is one of these; the empty name is NULL."""
    found = pc.is_in(column.cast(pa.string()), pa.array(sorted(names - {""}), pa.string()))
    return pc.or_(found, column.is_null()) if "" in names else found


def _numbered(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The columns in this order; one that comes again is called as q does: `size`, `size1`."""
    seen: dict[str, int] = {}
    columns, fields = [], []
    for name in names:
        times = seen[name] = seen.get(name, -1) + 1
        columns.append(rows.column(name))
        fields.append(rows.schema.field(name).with_name(f"{name}{times}" if times else name))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))
