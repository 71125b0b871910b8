"""How far a landed table is behind its source: what was read last, and what the source offers now.

What belongs here: one cheap look, for observations and for sensors. What does not: reading rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse_assets.entities.catalog import Catalog
from lakehouse_assets.entities.model import Entity, TableName

if TYPE_CHECKING:
    from lakehouse_assets.lake.plans import Plan
    from lakehouse_assets.sources.base import Position
    from lakehouse_assets.tables.base import Work


@dataclass(frozen=True)
class Look:
    """One feed of a landed table as it stands.

    Attributes:
        number: the last batch in the table; 0 if there is none.
        last: the newest plan; its number is one more than `number` if the batch was interrupted.
        latest: where a batch would end now.
        facts: what the source says of itself, for people.
        lag: what is still to be read, by part of the stream; `None` where the source cannot tell.
    """

    feed: str
    number: int
    last: Plan | None
    latest: Position
    facts: dict[str, Any]
    lag: Mapping[str, int] | None = None

    @property
    def interrupted(self) -> bool:
        """Whether a batch was planned and not written."""
        return self.last is not None and self.last.number > self.number

    @property
    def waiting(self) -> int | None:
        """How much is still to be read; `None` where the source cannot tell."""
        return None if self.lag is None else sum(self.lag.values())

    @property
    def is_behind(self) -> bool:
        """Whether a refresh would have something to do."""
        return self.interrupted or self.last is None or dict(self.last.end) != self.latest


def watchable(catalog: Catalog) -> list[TableName]:
    """The landed tables whose sources this version can read."""
    from lakehouse_assets.sources.base import FORMATS

    return [
        table
        for table, feeds in catalog.destinations.items()
        if all(f.kind == "landed" and not f.lakehouse.landed_by and f.source_format in FORMATS for f in feeds)
    ]


def look(work: Work, entity: Entity, *, describe: bool = False) -> Look:
    """What a feed has read and what its source offers, without reading rows.

    Raises:
        LakehouseError: the source or the lake cannot be read.
    """
    from lakehouse_assets.sources.base import Past

    name = work.feed_name(entity)
    ledger = work.book.open(name)
    last = ledger.last(name)
    target = work.engine.find(work.uri(entity.table))
    number = target.number(name.app_id) if target else 0
    read = last if last is None or last.number <= number else next(reversed(ledger.history(name, number)), None)
    past = Past(lambda: [dict(plan.end) for plan in ledger.history(name)], dict(last.end) if last else None)
    with work.open_source(entity) as source:
        latest = source.latest(past)
        facts = source.describe() if describe else {}
        lag = source.lag(dict(read.end) if read else None) if describe else None
    return Look(name.app_id, number, last, latest, facts, lag)
