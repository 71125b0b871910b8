"""What an as-of join is asked for: each left row with the row of the right side that was the case at its time.

What belongs here: the value that callers hand to an engine. What does not: whether columns fit (`asof_columns.py`),
or any way to compute it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Direction: TypeAlias = Literal["backward", "forward", "nearest"]
DIRECTIONS: tuple[Direction, ...] = ("backward", "forward", "nearest")


@dataclass(frozen=True)
class AsOf:
    """An as-of join; the result has every left row once, in the left columns, then the brought ones.

    Attributes:
        by: key columns, called alike on both sides; NULL matches nothing, not even NULL.
        time: the left side's time: a timestamp, or an integer of nanoseconds. NULL matches nothing.
        right_time: the right side's, of the same type.
        tie: right columns that order rows of one instant. What they leave undecided is decided by the brought columns
            in their order (NULL first, NaN last), so the answer never depends on the order of rows.
        columns: right column -> its name in the result.
        direction: `backward`: the last row at or before the left row's time; `forward`: the first at or after it;
            `nearest`: the closer of these two, and the earlier if they are equally far.
        tolerance: how far the right row may be away, in nanoseconds, inclusive; `None`: any time.
        strict: a right row of exactly the left row's instant does not count.
        skip_nulls: only right rows count whose brought columns are all not NULL.
    """

    by: tuple[str, ...]
    time: str
    right_time: str
    tie: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    direction: Direction = "backward"
    tolerance: int | None = None
    strict: bool = False
    skip_nulls: bool = False

    @property
    def right_columns(self) -> tuple[str, ...]:
        """The columns of the right side that the join reads, each once."""
        return tuple(dict.fromkeys((*self.by, self.right_time, *self.order)))

    @property
    def order(self) -> tuple[str, ...]:
        """The right columns that order rows of one key and instant, each once."""
        return tuple(dict.fromkeys((*self.tie, *self.columns)))

    @property
    def passes(self) -> tuple[Direction, ...]:
        """The directions to look in."""
        return ("backward", "forward") if self.direction == "nearest" else (self.direction,)
