"""What an as-of join is asked for, as an entity says it: read options named `asof.…`.

What belongs here: their names, their values, their faults. What does not: the join.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import Entity

OPTIONS = {
    "asof.by": "the key columns, called alike on both sides: `sym` or `sym, venue`",
    "asof.time": "the left time column: a timestamp, or an integer of nanoseconds",
    "asof.rightTime": "the right one; absent: called as the left one",
    "asof.tie": "right columns that order rows of one instant, of which the last one wins",
    "asof.columns": "right columns that are brought: `bid, ask, size AS quote_size`",
    "asof.direction": "backward (absent), forward or nearest",
    "asof.strict": "true: a right row of exactly the left row's instant does not count",
    "asof.skipNulls": "true: only right rows whose brought columns are all not NULL count",
}
NEEDED = ("asof.by", "asof.time", "asof.columns")
CHOICES = {
    "asof.direction": ("backward", "forward", "nearest"),
    "asof.strict": ("false", "true"),
    "asof.skipNulls": ("false", "true"),
}
"""The values of options that have only some; the first is that of an absent one."""
_ITEM = re.compile(r"\s*(\w+)(?:\s+[Aa][Ss]\s+(\w+))?\s*")


@dataclass(frozen=True)
class Fault:
    """An option that is wrong."""

    option: str
    problem: str
    value: str | None = None
    choices: tuple[str, ...] = ()


def faults(entity: Entity) -> Iterator[Fault]:
    """What is wrong with the options of an as-of join."""
    options = entity.read_options
    for name in options:
        if name not in OPTIONS:
            yield Fault(name, "is no option of an as-of join", name, tuple(OPTIONS))
    for name in NEEDED:
        if not options.get(name, "").strip(" ,"):
            yield Fault(name, f"is missing: {OPTIONS[name]}")
    for name, choices in CHOICES.items():
        if options.get(name, choices[0]) not in choices:
            yield Fault(name, "has another value than it can have", options[name], choices)
    for name in ("asof.by", "asof.tie", "asof.columns"):
        for item in filter(None, options.get(name, "").split(",")):
            found = _ITEM.fullmatch(item)
            if not found or (found[2] and name != "asof.columns"):
                yield Fault(name, f"{item.strip()!r} is no column", item.strip())
    yield from _twice(entity)


def _twice(entity: Entity) -> Iterator[Fault]:
    """Columns that are brought twice, or under one name."""
    items = [found for item in listed(entity, "asof.columns") if (found := _ITEM.fullmatch(item))]
    for what, names in (("", [item[1] for item in items]), (" as a name", [item[2] or item[1] for item in items])):
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Fault("asof.columns", f"{name!r} stands there twice{what}: bring it once", name)


def listed(entity: Entity, option: str) -> tuple[str, ...]:
    """The columns that an option lists."""
    return tuple(item.strip() for item in entity.read_options.get(option, "").split(",") if item.strip())


def brought(entity: Entity) -> dict[str, str]:
    """Right column -> its name in the result."""
    found = [_ITEM.fullmatch(item) for item in listed(entity, "asof.columns")]
    return {item[1]: item[2] or item[1] for item in found if item}
