"""Positions of tables that are read by a cursor column: which rows were read at the end of a range.

What belongs here: the position, packed and unpacked, and the rows that it remembers.
What does not: reading (`sqlite_cursor.py`).
"""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import dataclass, field

from lakehouse_assets.errors import IncarnationChanged
from lakehouse_assets.sources.base import Position
from lakehouse_assets.sources.sqlite_instants import Key

_SIZE = 12


@dataclass(frozen=True)
class Mark:
    """A position, unpacked.

    Args:
        at: the last key; `None` before any.
        since: the key from which on rows are remembered.
        kind: what the keys are.
        key: the columns by which rows are told apart.
        seen: hashes of the rows with a key from `since` to `at` that were read, with their number.
        loose: the same of rows without key, since the first position.
        rows: how many rows were read until here.
    """

    at: Key | None = None
    since: Key | None = None
    kind: str | None = None
    key: tuple[str, ...] = ()
    seen: Counter[bytes] = field(default_factory=Counter)
    loose: Counter[bytes] = field(default_factory=Counter)
    rows: int = 0

    @classmethod
    def of(cls, position: Position) -> Mark:
        """Unpack a position.

        Raises:
            IncarnationChanged: it was made by another way of reading.
        """
        if "at" not in position:
            raise IncarnationChanged(
                "the table was read by its rowid before, and is read by a cursor column now",
                value=position,
                fix="remove the read option sqlite.cursor, or rebuild with --full-refresh",
                seen="cursor",
            )
        return cls(
            position["at"],
            position.get("from"),
            position.get("kind"),
            tuple(position.get("key", ())),
            _unpack(position.get("seen", "")),
            _unpack(position.get("loose", "")),
            position["rows"],
        )

    def position(self) -> Position:
        """The position as JSON."""
        return {
            "at": self.at,
            "from": self.since,
            "kind": self.kind,
            "key": list(self.key),
            "seen": _pack(self.seen),
            "loose": _pack(self.loose),
            "rows": self.rows,
        }

    def holds(self, key: object) -> bool:
        """Whether rows of this key are remembered."""
        if self.at is None or self.since is None or not isinstance(key, int | float):
            return False
        return self.since <= key <= self.at


class Left:
    """What is left of the rows that a position remembers, while the rows of a table pass by."""

    def __init__(self, mark: Mark) -> None:
        self._mark = mark
        self._seen = mark.seen.copy()
        self._loose = mark.loose.copy()

    def reaches(self, key: object) -> bool:
        """Whether the position knows all rows of this key that were there."""
        return key is None or self._mark.holds(key)

    def take(self, key: object, hashed: bytes) -> bool:
        """Whether the row is one that is remembered and did not pass yet."""
        left = self._loose if key is None else self._seen
        if not self.reaches(key) or left[hashed] < 1:
            return False
        left[hashed] -= 1
        return True


def packed(hashes: Counter[bytes]) -> bytes:
    """The hashes in a row, each as often as it was counted, in an order of their own."""
    return b"".join(sorted(hashes.elements()))


def _pack(hashes: Counter[bytes]) -> str:
    return base64.b64encode(packed(hashes)).decode()


def _unpack(text: str) -> Counter[bytes]:
    hashes = base64.b64decode(text)
    return Counter(hashes[at : at + _SIZE] for at in range(0, len(hashes), _SIZE))
