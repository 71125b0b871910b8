"""What tables share that are kept partition by partition: each has plans and numbers of its own.

So partitions can be made in any order, at the same time and again, and none waits for another. What a partition is
made of is its offer: while that is the one of its last batch, there is nothing to do.
What belongs here: the draft and the write of one partition. What does not: what it holds (`loaded.py`, `asof.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from lakehouse_assets.engines.base import Handle, Relation
from lakehouse_assets.errors import SettingsError, TransientError
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.tables import evolution
from lakehouse_assets.tables.base import Draft, Feed, Idle, Outcome, Work, target_of, with_comments
from lakehouse_assets.tables.rows import padded

WHOLE = ""
"""The key of a table that is kept as one partition."""
Offer = Mapping[str, Any]
"""What a partition would be made of: a JSON object, equal as long as nothing moved."""


class Outdated(TransientError):
    """A rebuild would drop partitions that were made since it was planned: it has to be planned anew."""


def day_of(key: str) -> date:
    """The date that a partition's key is.

    Raises:
        SettingsError: it is none.
    """
    try:
        return date.fromisoformat(key)
    except ValueError:
        raise SettingsError("a partition is named by its date", value=key, fix="write it as 2024-01-31") from None


def drafted(
    feed: Feed, offer: Offer | None, incarnation: str, recipe: Mapping[str, Any], *, moved: bool
) -> Draft | Idle:
    """The batch that makes a partition of its offer; `None`: nothing offers it any more, and what there is stays.

    Args:
        moved: whether the offer is another one than that of the last batch.
    """
    if offer is None:
        return Idle()
    if feed.last is not None and not (moved or feed.rebuild) and feed.last.recipe_hash == Plan.hash_of(recipe):
        return Idle()
    whole = feed.name.partition == WHOLE or feed.starts_over
    start = dict(feed.last.end) if feed.last else {}
    return Draft("replace" if whole else "partitions", start, offer, incarnation, recipe)


def put(work: Work, feed: Feed, plan: Plan, rows: Relation) -> Outcome:
    """Put the rows of a partition in the place of the old ones, in one commit that carries the plan's number.

    Raises:
        SchemaDrift: a column does not fit the table's; nothing was written.
    """
    entity, engine = feed.entity, work.engine
    found = engine.schema(rows)
    frozen = entity.lakehouse.evolution == "freeze" and not plan.rebuild
    mode: evolution.Mode = "freeze" if frozen else "add_columns"
    fit = evolution.settle(found, evolution.columns_of(feed, plan), mode, entity.table)
    target = target_of(work, entity, plan, fit.columns, change_feed=True)
    if plan.mode == "replace":
        _check_covered(work, plan, target)
        columns = with_comments(found, entity.lakehouse.columns)
        commit = engine.rebuild(target, rows, columns, plan.as_number)
    else:
        key = {entity.partition_cols[0]: day_of(plan.feed.partition)}
        commit = engine.replace(target, padded(engine, rows, target.schema), plan.as_number, [key])
    return Outcome(plan, {entity.table: commit}, commit.rows_added, commit.rows_added)


def _check_covered(work: Work, plan: Plan, target: Handle) -> None:
    """Raise `Outdated` if the batch that replaces the table does not know of a partition that may be in it.

    Its plan was recorded before its commit: one that comes after this look is in the way of the commit that follows.
    """
    if plan.feed.partition == WHOLE or target.number(plan.feed.app_id) >= plan.number:
        return
    known, made = {plan.feed.app_id, *plan.also}, work.book.open().partitions(plan.feed.destination)
    if new := sorted(key for key, other in made.items() if other.end and other.feed.app_id not in known):
        raise Outdated(
            f"{plan.feed.destination}: the partitions {', '.join(new)} were made since the rebuild was planned",
            fix="run again",
        )


def is_offer(end: Mapping[str, Any], offer: Offer) -> bool:
    """Whether a batch that ended like this was made of the offer, whatever else its plan says."""
    return bool(offer) and all(end.get(name) == value for name, value in offer.items())
