"""The tables of a stand-in as its process sees them: dates, their versions, their columns, and rows of them.

A date is made when it is asked for, and kept while there is room. It can be corrected, added, emptied, and from a date
on the columns of a table can change, as they do when a feed is changed and nobody mends the older partitions: then, as
in q, the columns of the newest partition are those of the table, and a date that lacks one of them fails.

What belongs here: what is in the database. What does not: questions (`kdb_answers.py`), numbers (`kdb_market.py`).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import date

import numpy as np
import pyarrow as pa

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.simulators.kdb_config import CHANGES, KdbConfig
from lakehouse_assets.simulators.kdb_market import TABLES, Market
from lakehouse_assets.simulators.kdb_prices import trading_days
from lakehouse_assets.sources import qipc
from lakehouse_assets.sources.kdb_types import BY_NAME, field, kind_of

DATE = "date"
"""The partition column."""
MILLION = 1_000_000
"""Rows of one step of a fingerprint, as in `kdb_queries.FINGERPRINT`."""
_FEW = 4096
_Key = tuple[str, date]


class Database:
    """Tables by name, each by date. Used by several threads."""

    def __init__(self, config: KdbConfig) -> None:
        self.config = config
        self.market = Market(config)
        self._dates = {day for wanted in config.dates for day in trading_days(wanted, wanted)}
        self._empty: set[date] = set()
        self._revisions: dict[_Key, int] = {}
        self._dropped: dict[_Key, int] = {}
        self._changes: list[tuple[date, str, str]] = []
        self._lock = threading.Lock()
        self._making: dict[_Key, threading.Lock] = {}
        self._kept: OrderedDict[tuple[_Key, object], pa.Table] = OrderedDict()
        self._prints: dict[tuple[_Key, object], bytes] = {}

    @property
    def dates(self) -> Sequence[date]:
        """All dates, those without rows too."""
        return sorted(self._dates)

    def add(self, day: date) -> None:
        """Add a date, or give an emptied one its rows again."""
        trading_days(day, day)
        self._dates.add(day)
        self._empty.discard(day)

    def empty(self, day: date) -> None:
        """Take all rows of a date away, or add a date without rows; the partition is there."""
        self._dates.add(day)
        self._empty.add(day)

    def remove(self, day: date) -> None:
        """Take a date away, partition and all."""
        self._dates.discard(day)

    def correct(self, day: date, table: str = "trade", dropped: int = 0) -> None:
        """Change about a hundredth of a date's rows, at least one: sizes of trades, bids of quotes; drop the last."""
        self.check(table)
        if day not in self._dates:
            raise SettingsError("the stand-in has no such date", value=str(day), choices=map(str, self.dates))
        with self._lock:
            self._revisions[table, day] = self._revisions.get((table, day), 0) + 1
            self._dropped[table, day] = dropped

    def change(self, day: date, how: str, table: str = "trade") -> None:
        """Change the columns from a date on.

        Args:
            how: `added`: a column `venue`; `retyped`: sizes are ints, not longs; `dropped`: the last column is gone.
        """
        self.check(table)
        if how not in CHANGES:
            raise SettingsError("a change of columns", value=how, choices=CHANGES)
        with self._lock:
            self._changes.append((day, how, table))

    def check(self, table: str) -> None:
        """See that there is such a table.

        Raises:
            QServerError: as q says it: the name.
        """
        if table not in TABLES:
            raise qipc.QServerError(table)
        if table in self.config.denied:
            raise qipc.QServerError("access")

    def schema(self, table: str) -> pa.Schema:
        """The columns of a table, `date` first: those of its newest date."""
        return pa.schema([field(DATE, "date", pa.date32()), *self._schema(table, max(self._dates, default=date.max))])

    def _schema(self, table: str, day: date) -> pa.Schema:
        found = TABLES[table]
        for how in self._applied(table, day):
            if how == "added":
                found = found.append(field("venue", "symbol", pa.dictionary(pa.int32(), pa.string())))
            elif how == "retyped":
                small = [field(of.name, "int", pa.int32()) if kind_of(of) == "long" else of for of in found]
                found = pa.schema(small)
            else:
                found = found.remove(len(found) - 1)
        return found

    def _applied(self, table: str, day: date) -> tuple[str, ...]:
        return tuple(how for since, how, of in sorted(self._changes) if of == table and since <= day)

    def count(self, table: str, day: date) -> int:
        """Rows of a date; it need not be made for that."""
        if day not in self._dates or day in self._empty:
            return 0
        config = self.config
        rows = config.rows if table == "trade" else round(config.rows * config.quotes)
        return max(0, rows - self._dropped.get((table, day), 0))

    def rows(self, table: str, day: date) -> pa.Table:
        """All rows of a date in stored order, without the column `date`; the columns are those of its partition."""
        schema = self._schema(table, day)
        many = self.count(table, day)
        if not many:
            return schema.empty_table()
        key = table, day
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            version = self._version(key)
            with self._lock:
                found = self._kept.get((key, version))
                if found is not None:
                    self._kept.move_to_end((key, version))
                    return found
            made = self._made(key, schema).slice(0, many)
            with self._lock:
                self._keep((key, version), made)
        return made

    def _version(self, key: _Key) -> tuple[object, ...]:
        return self._revisions.get(key, 0), self.count(*key), self._applied(*key)

    def _keep(self, key: tuple[_Key, object], made: pa.Table) -> None:
        for older in [known for known in self._kept if known[0] == key[0]]:
            del self._kept[older]
        self._kept[key] = made
        while len(self._kept) > 1 and sum(table.nbytes for table in self._kept.values()) > self.config.cache:
            self._kept.popitem(last=False)

    def _made(self, key: _Key, schema: pa.Schema) -> pa.Table:
        table, day = key
        made = self.market.table(table, day)
        if revision := self._revisions.get(key, 0):
            made = _corrected(made, table, revision)
        if "venue" in schema.names and "venue" not in made.column_names:
            codes = pa.array(np.arange(made.num_rows, dtype=np.int32) % 3)
            venue = pa.DictionaryArray.from_arrays(codes, pa.array(["X", "Y", "Z"]))
            made = made.append_column(schema.field("venue"), venue)
        made = made.select(schema.names)
        return made if made.schema == schema else made.cast(schema)

    def select(self, table: str, day: date, columns: Sequence[str]) -> pa.Table:
        """Columns of a date; `date`, if it is one of them, is made.

        Raises:
            QServerError: the partition lacks a column.
        """
        found = self.rows(table, day)
        arrays, fields = [], []
        for name in columns:
            if name == DATE:
                fields.append(field(DATE, "date", pa.date32()))
                arrays.append(pa.repeat(pa.scalar(day, pa.date32()), found.num_rows))
                continue
            if name not in found.column_names:
                raise qipc.QServerError(f"./{day:%Y.%m.%d}/{table}/{name}. OS reports: No such file or directory")
            fields.append(found.schema.field(name))
            arrays.append(found.column(name))
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def stored(self, table: str, day: date) -> pa.Table:
        """What a slice is cut from: the columns of the newest partition without `date`."""
        return self.select(table, day, self.schema(table).names[1:])

    def meta(self, table: str) -> pa.Table:
        """What q's `meta` says, not keyed."""
        schema = self.schema(table)
        kinds = [BY_NAME[kind_of(of) or ""].char for of in schema]
        sorted_by = {"partitioned": {"sym": "p"}, "memory": {"sym": "g"}}[self.config.kind]
        columns = {"c": schema.names, "t": kinds, "f": [None] * len(kinds), "a": list(map(sorted_by.get, schema.names))}
        fields = [field(name, "char" if name == "t" else "symbol", pa.string()) for name in columns]
        return pa.table(columns, schema=pa.schema(fields))

    def fingerprint(self, table: str, day: date) -> bytes:
        """The 16 bytes of `kdb_queries.FINGERPRINT`."""
        key = (table, day), self._version((table, day)) + tuple(self.schema(table).names)
        if key not in self._prints:
            self._prints[key] = digest(self.stored(table, day))
        return self._prints[key]


def digest(rows: pa.Table) -> bytes:
    """The MD5 of the MD5s of each million of rows, as q serializes them."""
    parts = []
    for first in range(0, max(1, rows.num_rows), MILLION):
        made = hashlib.md5(usedforsecurity=False)
        for view in qipc.encode(narrowed(rows.slice(first, MILLION)), qipc.Kind.ASYNC):
            made.update(view)
        parts.append(made.digest())
    return hashlib.md5(b"".join(parts), usedforsecurity=False).digest()


def narrowed(rows: pa.Table) -> pa.Table:
    """The same rows; of long lists of symbols only those between the first and the last that they need.

    Encoding takes time for every symbol of a dictionary, whether a row has it or not.
    """
    for place, of in enumerate(rows.schema):
        if pa.types.is_dictionary(of.type):
            column = rows.column(place).combine_chunks()
            if isinstance(column, pa.ChunkedArray):
                column = column.chunk(0) if column.num_chunks else pa.array([], of.type)
            if len(column.dictionary) > _FEW:
                rows = rows.set_column(place, of, _narrow(column))
    return rows


def _narrow(column: pa.DictionaryArray) -> pa.DictionaryArray:
    codes = column.indices
    if codes.null_count == len(codes):
        return pa.DictionaryArray.from_arrays(codes, column.dictionary.slice(0, 1))
    valid = codes.drop_null().to_numpy()
    low, high = int(valid.min()), int(valid.max())
    fewer = pa.array(codes.fill_null(low).to_numpy() - low, mask=codes.is_null().to_numpy(zero_copy_only=False))
    return pa.DictionaryArray.from_arrays(fewer, column.dictionary.slice(low, high - low + 1))


def _corrected(made: pa.Table, table: str, revision: int) -> pa.Table:
    """A hundredth of the rows with other values: sizes get larger, bids lower, so high and low and the spread hold."""
    picked = np.zeros(made.num_rows, np.bool_)
    picked[revision % 97 % max(1, made.num_rows) :: 97] = True
    name = "size" if table == "trade" else "bid"
    column = made.column(name).combine_chunks()
    by = 100 * revision if table == "trade" else -0.01 * revision
    values = column.fill_null(0).to_numpy() + np.where(picked, by, 0)
    values = values.astype(np.int64) if table == "trade" else np.round(values, 2)
    null = column.is_null().to_numpy(zero_copy_only=False)
    return made.set_column(made.schema.get_field_index(name), made.schema.field(name), pa.array(values, mask=null))
