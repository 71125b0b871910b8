"""Cursor columns: how the values of a column become keys that order the rows.

What belongs here: keys as SQL, conditions on them, time zones. What does not: positions (`sqlite_cursor.py`).

A column of numbers is its own key. A column of times in text has the instant as key, in whole seconds since 1970 (UTC):
ISO 8601 with blank or T, with any fraction, with Z, +02:00, +0200, +02 or no zone (then that of the entity), mixed as
they come. Keys only group and order rows; rows of
one key are told apart by their contents, so coarse keys lose nothing.
Values without a key (NULL, text that is no time, numbers among times, blobs, infinities) are *loose*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.sources.sqlite_reader import Place
from lakehouse_assets.sources.sqlite_table import Table
from lakehouse_assets.sources.sqlite_types import ref

Key = int | float
TIME, NUMBER = "time", "number"
_DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"
_MARGIN = timedelta(hours=16)
"""More than any zone is apart from UTC: texts are compared with this much room."""
_YEARS = range(1970, 2101)


@dataclass(frozen=True)
class Cursor:
    """A cursor column.

    Args:
        name: the column.
        lookback: how far behind the last key late rows are looked for.
        zone: of times that name no zone; `None`: UTC, and the count check says so.
    """

    name: str
    lookback: timedelta
    zone: str | None

    @property
    def ref(self) -> str:
        """The column in a query on the table `t`."""
        return ref(self.name)

    @property
    def _text(self) -> str:
        return f"{self.ref} COLLATE BINARY"

    def place(self, table: Table) -> Place:
        """`_position`: the value as it stands there, and what else it takes to tell the row from all others."""
        value = f"CASE WHEN typeof({self.ref}) IN ('null', 'blob') THEN quote({self.ref}) ELSE {self.ref} END"
        others = [ref(name) for name in table.key if name != self.name] if not table.rowid else [ref(table.rowid)]
        return Place(" || ' ' || ".join([f"({value} || '')", *(f"quote({other})" for other in others)]))

    def key(self, kind: str) -> str:
        """The key as SQL; NULL for loose values."""
        if kind == NUMBER:
            return f"CASE WHEN {self._finite} THEN {self.ref} END"
        return f"CASE WHEN typeof({self.ref}) = 'text' AND {self.ref} GLOB '{_DATE}' THEN {self._instant} END"

    @property
    def _finite(self) -> str:
        return f"({self.ref} > -9.0e+999 AND {self.ref} < 9.0e+999)"

    @cached_property
    def _instant(self) -> str:
        text = f"replace({self.ref}, ',', '.')"
        zone = f"substr({self.ref}, 12)"
        spelt = (
            f"CASE WHEN {zone} GLOB '*[-+][0-9][0-9][0-9][0-9]' "
            f"THEN unixepoch(substr({text}, 1, length({text}) - 2) || ':' || substr({text}, -2)) "
            f"WHEN {zone} GLOB '*[-+][0-9][0-9]' THEN unixepoch({text} || ':00') ELSE unixepoch({text}) END"
        )
        instant = f"coalesce(unixepoch({self.ref}), {spelt})"
        if self.zone in (None, "UTC"):
            return instant
        return f"CASE WHEN {zone} GLOB '*[-+Zz]*' THEN {instant} ELSE {_to_utc(instant, ZoneInfo(str(self.zone)))} END"

    def near(self, kind: str, low: Key | None) -> str:
        """A condition that an index can serve and that all rows with a key from `low` on meet."""
        if low is None:
            return "1"
        if kind == NUMBER:
            return f"{self.ref} >= {low!r}"
        return f"{self._text} >= '{_wall(low)}'"

    def between(self, kind: str, low: Key | None, high: Key | None, *, above: bool = False, below: bool = False) -> str:
        """Rows with a key from `low` (or above it) up to `high` (or below it)."""
        key = self.key(kind)
        if low is not None and high is not None and not (above or below):
            return f"{self.near(kind, low)} AND ({key}) BETWEEN {low!r} AND {high!r}"
        parts = [self.near(kind, low), f"({key}) {'>' if above else '>='} {low!r}"] if low is not None else []
        if high is not None:
            parts.append(f"({key}) {'<' if below else '<='} {high!r}")
        return " AND ".join(parts) or f"({key}) IS NOT NULL"

    def loose(self, kind: str, low: Key | None = None) -> list[str]:
        """Rows without a key: all of them, or those that can be found near `low` by an index.

        Several conditions that exclude each other: SQLite may not use an index where they are joined by OR.
        """
        if kind == NUMBER:
            return [f"{self.ref} IS NULL", f"{self.ref} >= 9.0e+999", f"{self.ref} <= -9.0e+999"]
        if low is None:
            return [f"({self.key(kind)}) IS NULL"]
        below, near = f"{self._text} < ''", f"{self.near(kind, low)} AND ({self.key(kind)}) IS NULL"
        return [f"{self.ref} IS NULL", below, near]

    @property
    def zoneless(self) -> str:
        """Rows whose time names no zone."""
        return f"{self.ref} GLOB '{_DATE}' AND NOT substr({self.ref}, 12) GLOB '*[-+Zz]*'"

    def back(self, kind: str, key: Key) -> Key:
        """The key from which on late rows are looked for, when `key` is the last one.

        Raises:
            SettingsError: the keys are numbers that count no seconds.
        """
        seconds = self.lookback.total_seconds()
        if not seconds:
            return key
        if kind == TIME:
            return key - math.ceil(seconds)
        if abs(key) < 1e8:
            raise SettingsError(
                f"`lookback` needs a cursor of times, but {self.name!r} holds numbers such as {key}, too small for the "
                f"seconds, milli-, micro- or nanoseconds since 1970",
                fix="take `lookback` out: rows of a counter that come late are found by the count check",
            )
        unit = next((unit for limit, unit in ((1e11, 1), (1e14, 10**3), (1e17, 10**6)) if abs(key) < limit), 10**9)
        return key - math.ceil(seconds * unit)


def _wall(seconds: Key) -> str:
    """The earliest time of day, as text sorts it, that a clock of any zone shows at an instant or later."""
    try:
        return (datetime.fromtimestamp(seconds, UTC) - _MARGIN).strftime("%Y-%m-%d %H:%M:%S").zfill(19)
    except (OverflowError, ValueError, OSError):
        return ""


def _to_utc(seconds: str, zone: ZoneInfo) -> str:
    """Seconds of a wall clock as seconds in UTC: a decision tree over the changes of the zone's offset.

    A time that the clock shows twice counts as the first of the two; one that it skips, as if it had not been set.
    """
    starts, offsets = _changes(zone)
    return f"(SELECT wall - {_tree('wall', starts, offsets)} FROM (SELECT {seconds} AS wall LIMIT 1))"


def _tree(seconds: str, starts: list[int], offsets: list[int]) -> str:
    if not starts:
        return f"({offsets[0]})"
    half = len(starts) // 2
    earlier = _tree(seconds, starts[:half], offsets[: half + 1])
    later = _tree(seconds, starts[half + 1 :], offsets[half + 1 :])
    return f"CASE WHEN {seconds} < {starts[half]} THEN {earlier} ELSE {later} END"


def _changes(zone: ZoneInfo) -> tuple[list[int], list[int]]:
    """The wall-clock seconds at which offsets begin, and the offsets, one more than there are beginnings."""
    at = int(datetime(_YEARS.start, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(_YEARS.stop, 1, 1, tzinfo=UTC).timestamp())
    starts: list[int] = []
    offsets = [_offset(zone, at)]
    while at < end:
        after = at + 7 * 86400
        if (new := _offset(zone, after)) != offsets[-1]:
            change = _first(zone, at, after, offsets[-1])
            starts.append(change + max(offsets[-1], new))
            offsets.append(new)
        at = after
    return starts, offsets


def _first(zone: ZoneInfo, low: int, high: int, offset: int) -> int:
    """The first second after `low` at which the offset is another one; at `high` it is."""
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, middle) == offset:
            low = middle
        else:
            high = middle
    return high


def _offset(zone: ZoneInfo, seconds: int) -> int:
    found = datetime.fromtimestamp(seconds, zone).utcoffset()
    return int(found.total_seconds()) if found else 0
