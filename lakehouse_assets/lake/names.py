"""Where each table of a lake stands, and under which name its numbers are kept.

What belongs here: paths and application ids. What does not: opening anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lakehouse_assets.entities.model import TableName
from lakehouse_assets.lake.storage import Storage, normalize

BATCHES = TableName("control", "batches")
"""The Delta table that holds the plans of a lake."""
MAINTENANCE = "lakehouse/maintenance"
"""The id under which compactions are numbered where their commits need a number."""


@dataclass(frozen=True)
class Lake:
    """A root directory or URI and the way to reach it: `<root>/<layer>/<table>`."""

    root: str
    storage: Storage = field(default_factory=Storage, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", normalize(self.root))

    def uri(self, table: TableName) -> str:
        """The URI of `table`."""
        return f"{self.root}/{table.layer}/{table.name}"


@dataclass(frozen=True)
class FeedName:
    """What a destination consumes, as a name: never a host or a path, so that streams can move.

    Attributes:
        destination: the table that is fed.
        feed: the configured name; empty where the destination has one feed only.
        partition: the partition key, where each partition is numbered on its own.
    """

    destination: str
    feed: str = ""
    partition: str = ""

    @property
    def app_id(self) -> str:
        """The id of the `txn` action that carries the numbers of this feed."""
        return f"lakehouse/{self.destination}/{self.feed}/{self.partition}".rstrip("/")
