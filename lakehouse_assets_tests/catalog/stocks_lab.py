"""The shipped stocks pipeline over messages in memory, and a model of what its tables have to hold.

The model is plain Python over all messages at once: it knows no batches, no engine and no Delta.
What does not belong here: brokers (`test_stocks_broker.py`).
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakehouse_assets.engines.base import Engine
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.catalog import Catalog, load_catalog
from lakehouse_assets.lake.names import Lake
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.sources.kafka_reader import COLUMNS
from lakehouse_assets.sources.memory import MemorySource
from lakehouse_assets.tables.base import Outcome, Work
from lakehouse_assets.tables.refresh import refresh

FIELDS = ("Index", "Date", "Open", "High", "Low", "Close", "Adj Close", "Volume")
SENT = datetime(2024, 5, 31, 23, 59, 58, 123000, tzinfo=UTC)
Prices = tuple[Decimal | None, Decimal | None]
"""Close and adjusted close."""
Version = tuple[str, Decimal | None, Decimal | None, date, date | None]
"""Index, close, adjusted close, from, until."""


def message(index: str | None, day: str | None, close: str | None, adjusted: str | None = None, **more: str) -> bytes:
    """A message as the producer makes it: a JSON object of texts, without the fields that have no value."""
    given = {"Index": index, "Date": day, "Close": close, "Adj Close": adjusted or close, **more}
    texts = {name: given[name] for name in FIELDS if given.get(name) is not None}
    return json.dumps(texts, separators=(",", ":")).encode()


def shipped(**environ: str) -> Catalog:
    """The shipped catalog."""
    return load_catalog(Path(str(importlib.resources.files("lakehouse_assets").joinpath("catalog"))), environ)


def columns(table: pa.Table | Sequence[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    """Some columns of rows, in one order."""
    rows = table.to_pylist() if isinstance(table, pa.Table) else table
    return sorted((tuple(row[name] for name in names) for row in rows), key=repr)


class Pipeline:
    """The tables of group `stocks` over a topic of one partition that lives in memory."""

    def __init__(self, directory: Path, engine: Engine | None = None) -> None:
        storage = Storage()
        self.stream: list[pa.RecordBatch] = []
        self.sent = 0
        self.work = Work(
            shipped(),
            Lake(str(directory / "lake"), storage),
            engine or EmbeddedEngine(storage),
            open_source=lambda entity: MemorySource(entity, self.stream, schema=COLUMNS),
        )

    def send(self, *values: bytes | None, key: bytes | None = b"k") -> None:
        """Put messages at the end of the topic."""
        rows = [
            {
                "key": key, "value": value, "topic": "Stocks", "partition": 0, "offset": self.sent + at,
                "timestamp": SENT + timedelta(milliseconds=self.sent + at), "timestampType": 0, "headers": None,
            }
            for at, value in enumerate(values)
        ]  # fmt: skip
        self.sent += len(rows)
        self.stream.append(pa.RecordBatch.from_pylist(rows, schema=COLUMNS))

    def run(self, *names: str, rebuild: bool = False) -> dict[str, Outcome]:
        """Refresh every table of the group, or those named; what was written."""
        tables = [t for t in self.work.catalog.select("group:stocks") if not names or str(t) in names]
        return {str(t): outcome for t in tables for outcome in refresh(self.work, t, rebuild=rebuild)}

    def table(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table; none where it was not made."""
        engine = self.work.engine
        handle = engine.find(f"{self.work.lake.root}/{name.replace('.', '/')}")
        return [] if handle is None else [dict(row) for row in engine.rows(engine.read(handle))]

    def history(self) -> list[Version]:
        """The versions of `silver.close_price`, in order."""
        return _in_order(
            (r["Index"], r["Close"], r["Adj_Close"], r["effective_date"], r["end_date"])
            for r in self.table("silver.close_price")
        )


@dataclass(frozen=True)
class Model:
    """What the tables hold after all of `messages`, in whatever order and batches they came."""

    messages: tuple[bytes | None, ...]

    def events(self) -> list[dict[str, Any]]:
        """The messages that are prices: those of `silver.stocks`, with repetitions."""
        return [row for row in map(_row, self.messages) if row is not None]

    def days(self) -> dict[str, dict[date, Prices]]:
        """The close of each day of each index; a day with several closes has none."""
        found: dict[str, dict[date, set[Prices]]] = {}
        for row in self.events():
            days = found.setdefault(row["Index"], {})
            days.setdefault(row["Date"], set()).add((row["Close"], row["Adj_Close"]))
        return {
            index: {day: next(iter(days[day])) for day in sorted(days) if len(days[day]) == 1}
            for index, days in found.items()
        }

    def history(self) -> list[Version]:
        """Runs of days with one close."""
        found: list[Version] = []
        for index, days in self.days().items():
            runs: list[tuple[date, Prices]] = []
            for day, prices in days.items():
                if not runs or runs[-1][1] != prices:
                    runs.append((day, prices))
            ends = [*(day for day, _ in runs[1:]), None]
            found += [(index, *prices, day, end) for (day, prices), end in zip(runs, ends, strict=False)]
        return _in_order(found)

    def beside(self) -> list[tuple[Any, ...]]:
        """`gold.updated_stocks`: each day's close, the newest one, and the difference."""
        found = []
        for index, days in self.days().items():
            for day, (close, adjusted) in days.items():
                latest, latest_adjusted = list(days.values())[-1]
                assert latest is not None
                assert close is not None
                found.append((index, day, close, adjusted, latest, latest_adjusted, latest - close))
        return sorted(found, key=repr)


def _in_order(versions: Iterable[Version]) -> list[Version]:
    return sorted(versions, key=lambda version: (version[0], version[3]))


def _row(value: bytes | None) -> dict[str, Any] | None:
    try:
        texts = json.loads((value or b"").decode())
        day = texts.get("Date")
        row = {
            "Index": texts.get("Index"),
            "Date": None if day is None else date.fromisoformat(day),
            "Close": _money(texts.get("Close")),
            "Adj_Close": _money(texts.get("Adj Close")),
        }
    except (ValueError, ArithmeticError, AttributeError):
        return None
    return None if None in (row["Index"], row["Date"], row["Close"]) else row


def _money(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text).quantize(Decimal("0.000001"))
