"""Daily prices as messages: the rows of a CSV file, the days after its last, and messages that are no rows.

What belongs here: reading the CSV (the packaged one: source and licence in `data/prices.md`), key and value of a
message, what is made up. What does not: Kafka (`kafka.py`).
"""

from __future__ import annotations

import csv
import gzip
import heapq
import io
import itertools
import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path
from typing import IO, NamedTuple

from lakehouse_assets.errors import SourceMissing, SourceUnreadable

COLUMNS = ("Index", "Date", "Open", "High", "Low", "Close", "Adj Close", "Volume")
PACKAGED = "the packaged prices.csv"
_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
DAILY_CHANGE, DAILY_RANGE, DAILY_VOLUME = 0.01, 0.003, 0.1
"""Standard deviations of the made-up days: of the close, of high and low about open and close, of the volume."""


class Message(NamedTuple):
    """What is sent: the key (the Index in UTF-8; `None` without one) and the value (JSON)."""

    key: bytes | None
    value: bytes


class Row(NamedTuple):
    """A row of a CSV file: its number from 1, and its fields by column."""

    number: int
    fields: Mapping[str, str]

    @property
    def message(self) -> Message:
        """The row as it is sent."""
        return message(self.fields)


def message(fields: Mapping[str, str]) -> Message:
    """JSON of the fields that are not empty, as texts, in the order of `COLUMNS`, without blanks."""
    given = {name: fields[name] for name in COLUMNS if fields.get(name)}
    index = given.get("Index")
    return Message(index.encode() if index else None, _JSON.encode(given).encode())


@dataclass(frozen=True)
class Selection:
    """Which rows of a file are meant: those from a day to a day (both included), and of these the first `rows`."""

    since: date | None = None
    until: date | None = None
    rows: int | None = None

    def mark(self, rows: Iterable[Row]) -> Iterator[tuple[Row, bool]]:
        """Every row, and whether it is meant; a Date is compared as the text that it is."""
        since = self.since.isoformat() if self.since else ""
        until = self.until.isoformat() if self.until else None
        left = self.rows
        for row in rows:
            day = row.fields["Date"]
            meant = day >= since and (until is None or day <= until) and left != 0
            if meant and left is not None:
                left -= 1
            yield row, meant


def read_rows(path: Path | None = None) -> Iterator[Row]:
    """The rows of a CSV file (or one in gzip: `.gz`), one after the other; without a path those of the package.

    Raises:
        SourceMissing: there is no such file, or its header lacks a column.
        SourceUnreadable: a row has too many or too few fields, or the file is not text in UTF-8.
    """
    name = str(path or PACKAGED)
    try:
        with _opened(path) as file:
            yield from _rows(csv.reader(file, strict=True), name)
    except FileNotFoundError as error:
        raise SourceMissing(f"there is no file {name}", fix="give --csv the path of a CSV file") from error
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise SourceUnreadable(f"{name} cannot be read: {error}", fix="give a CSV file in UTF-8") from error


def _opened(path: Path | None) -> IO[str]:
    if path is None:
        return io.StringIO(files(__package__).joinpath("data/prices.csv").read_text(encoding="utf-8"), newline="")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _rows(lines: Iterator[list[str]], name: str) -> Iterator[Row]:
    header = next(lines, [])
    missing, unknown = [c for c in COLUMNS if c not in header], [c for c in header if c not in COLUMNS]
    if missing or unknown or len(header) != len(COLUMNS):
        faults = [f"lacks {', '.join(missing)}"] if missing else []
        faults += [f"has the unknown {', '.join(map(repr, unknown))}"] if unknown else []
        problem = f"the header of {name} {' and '.join(faults) or 'names a column twice'}"
        raise SourceMissing(problem, value=",".join(header), fix=f"write this header: {','.join(COLUMNS)}")
    for number, fields in enumerate((line for line in lines if line), 1):
        if len(fields) != len(header):
            problem = f"row {number:,} of {name} has {len(fields)} fields, and the header {len(header)}"
            raise SourceUnreadable(problem, value=",".join(fields)[:200], fix="correct the file")
        yield Row(number, dict(zip(header, fields, strict=True)))


def faults(many: int, path: Path | None = None) -> Iterator[Message]:
    """So many messages that no pipeline may take for prices: cut JSON, a Close that is no number, no Index, in turn.

    They are made of the first rows of the file: the same for every call.
    """
    rows = itertools.islice(itertools.cycle(itertools.islice(read_rows(path), 3)), many)
    for number, row in enumerate(rows):
        key, value = row.message
        if number % 3 == 0:
            yield Message(key, value[: len(value) // 2])
        elif number % 3 == 1:
            yield message({**row.fields, "Close": "n/a"})
        else:
            yield message({**row.fields, "Index": ""})


def walk(last: Iterable[Mapping[str, str]], seed: int) -> Iterator[Message]:
    """The working days after the last row of each Index, without end: a random walk of the close, in order of Date.

    A day of an Index depends on the seed and the row before it alone: who goes on from any day goes on alike.

    Args:
        last: one row of each Index; those without an Index or a readable Date and Close are passed over.
        seed: what all chance is drawn from.
    """
    days = [(following, fields["Index"], fields) for fields in last if (following := _next_day(fields))]
    heapq.heapify(days)
    while days:
        day, index, before = days[0]
        fields = _walked(before, day, random.Random(f"{seed}/{index}/{day}"))
        yield message(fields)
        heapq.heapreplace(days, (_next_day(fields) or day, index, fields))


def _next_day(fields: Mapping[str, str]) -> date | None:
    try:
        day = date.fromisoformat(fields["Date"]) + timedelta(days=1)
        if not math.isfinite(float(fields["Close"])):
            return None
    except (KeyError, ValueError):
        return None
    return day + timedelta(days=max(0, 7 - day.isoweekday() + 1)) if day.isoweekday() > 5 else day


def _walked(before: Mapping[str, str], day: date, chance: random.Random) -> dict[str, str]:
    """The day after a row; a field that the row lacks stays empty."""
    opened = float(before["Close"])
    close = opened * (1 + chance.gauss(0, DAILY_CHANGE))
    high = max(opened, close) * (1 + abs(chance.gauss(0, DAILY_RANGE)))
    low = min(opened, close) * (1 - abs(chance.gauss(0, DAILY_RANGE)))
    volume = float(before.get("Volume") or 0) * (1 + chance.gauss(0, DAILY_VOLUME))
    prices = {"Open": opened, "High": high, "Low": low, "Close": close, "Adj Close": close}
    made = {name: f"{value:.6f}" for name, value in prices.items()} | {"Volume": str(max(1, round(volume)))}
    return {"Index": before["Index"], "Date": day.isoformat()} | {name: made[name] for name in made if before.get(name)}
