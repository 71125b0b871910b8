"""Whether two lakes hold the same: every table whole, as a multiset of typed rows, and plans that agree with them.

What belongs here: the difference, in words. What does not: reading tables (`child.py`).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 2
"""Rows of a difference that a person is shown."""
CLOSE = 1e-9
"""Floats that differ by less, relatively, are sums of the same numbers in another order."""


def difference(clean: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """How the answer of a child differs from that of the run that was never killed; `None` if it does not."""
    if "error" in found:
        return f"the run after the kill failed: {found['error']}"
    told = [f"a further run wrote {name} once more" for name in found["moved"]]
    ends = {feed["feed"]: feed["end"] for feed in clean["feeds"]}
    for feed in found["feeds"]:
        if feed["carried"] != feed["planned"]:
            told.append(f"{feed['feed']} carries batch {feed['carried']}, and its plans end with {feed['planned']}")
        if feed["end"] != ends.get(feed["feed"]):
            told.append(f"{feed['feed']} has read up to {feed['end']}, not {ends.get(feed['feed'])}")
    for name in sorted({*clean["tables"], *found["tables"]}):
        if name not in found["tables"] or name not in clean["tables"]:
            told.append(f"{name} {'is missing' if name in clean['tables'] else 'should not be there'}")
        elif (words := _table(clean["tables"][name], found["tables"][name])) is not None:
            told.append(f"{name}: {words}")
    return "; ".join(told) or None


def _table(clean: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    for what in ("names", "types"):
        if clean[what] != found[what]:
            return f"columns {found[what]}, not {clean[what]}"
    missing, extra = _apart(clean["rows"], found["rows"])
    if (not missing and not extra) or (not clean["exact"] and _rounded(missing, extra)):
        return None
    counts = f"{len(found['rows'])} rows, not {len(clean['rows'])}; {len(missing)} missing, {len(extra)} too many"
    parts = [counts]
    for word, rows in (("missing", missing), ("too many", extra)):
        parts += [f"{word}: {dict(zip(clean['names'], row, strict=True))}" for row in rows[:SHOWN]]
    return ", ".join(parts)


def _apart(clean: Sequence[Any], found: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The rows that only one side has, as often as it has them more often."""
    if repr(clean) == repr(found):
        return [], []
    wanted, there = Counter(map(repr, clean)), Counter(map(repr, found))
    rows = {repr(row): row for row in (*clean, *found)}
    missing, extra = wanted - there, there - wanted
    return [rows[text] for text in missing.elements()], [rows[text] for text in extra.elements()]


def _rounded(missing: Sequence[Any], extra: Sequence[Any]) -> bool:
    """Whether rows differ in nothing but the last digits of floats: the order of a sum decides about those."""
    if len(missing) != len(extra):
        return False
    sides: list[dict[str, list[list[float]]]] = []
    for rows in (missing, extra):
        by_shape: dict[str, list[list[float]]] = defaultdict(list)
        for row in rows:
            floats: list[float] = []
            by_shape[repr(_masked(row, floats))].append(floats)
        sides.append(by_shape)
    one, two = sides
    return one.keys() == two.keys() and all(
        len(one[shape]) == len(two[shape])
        and all(
            math.isclose(a, b, rel_tol=CLOSE)
            for left, right in zip(sorted(one[shape]), sorted(two[shape]), strict=True)
            for a, b in zip(left, right, strict=True)
        )
        for shape in one
    )


def _masked(value: Any, floats: list[float]) -> Any:
    """The value without its finite floats, which are put into `floats`."""
    if isinstance(value, float) and math.isfinite(value) and value != 0:
        floats.append(value)
        return float
    if isinstance(value, Mapping):
        return {key: _masked(item, floats) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item, floats) for item in value]
    return value
