"""What people say about rows that are there: corrections of quarantined ones, retractions, and taking these back.

On a table with history each of these is a fact that is appended to its log; target and quarantine follow. Asked again,
it finds nothing left to do. What belongs here: which rows are meant, and what is said about them. What does not: tables
without a log (`corrections_conformed.py`), printing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from lakehouse_assets.engines.base import Relation
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import ConcurrentWriter, LakeError
from lakehouse_assets.lake.values import Commit
from lakehouse_assets.sql.expand import text_literal
from lakehouse_assets.sql.scd import EVENT
from lakehouse_assets.tables import corrections_conformed, corrections_history
from lakehouse_assets.tables.base import Work, feeding, upstream
from lakehouse_assets.tables.corrections_given import Asked, Requeued, Rewound

T = TypeVar("T")
ATTEMPTS = 4


def quarantined(work: Work, table: TableName, rule: str | None = None, limit: int | None = None) -> Relation:
    """The rows in quarantine, with their ids (`_event`).

    Args:
        rule: only those with this reason.
    """
    box = upstream(work, table.quarantine)
    where = f" WHERE array_contains(_reasons, {text_literal(rule)})" if rule else ""
    some = f" ORDER BY {EVENT} LIMIT {limit:d}" if limit is not None else ""
    rows = work.engine.read(box)
    if not _has_log(work, table):
        rows = corrections_conformed.with_ids(work, rows)
    return work.engine.query(f"SELECT * FROM quarantined{where}{some}", {"quarantined": rows})


def requeue(
    work: Work,
    table: TableName,
    *,
    ids: Sequence[str] = (),
    rule: str | None = None,
    file: Path | None = None,
    patch: Sequence[str] = (),
    dry_run: bool = False,
) -> Requeued:
    """Judge quarantined rows again, corrected or as received, and weave in those that keep the rules of today.

    A row takes the place that its own sequence gives it. A row that was corrected before is left alone.

    Args:
        ids: events, by their ids or the beginning of these.
        rule: all that have this reason.
        file: corrected rows (.csv, .json, .parquet) with `_event`.
        patch: `column = expression`, in Spark SQL over the quarantined row.

    Raises:
        SettingsError: an id or a column is not there, or an expression is none.
    """
    asked = Asked(tuple(ids), rule, file, tuple(patch))
    kind = corrections_history if _has_log(work, table) else corrections_conformed
    return _retrying(lambda: kind.requeue(work, table, asked, dry_run=dry_run))


def discard(work: Work, table: TableName, ids: Sequence[str]) -> Mapping[TableName, Commit]:
    """Retract quarantined rows: they stay in the log, and nothing is to come of them."""
    kind = corrections_history if _has_log(work, table) else corrections_conformed
    return _retrying(lambda: kind.discard(work, table, tuple(ids)))


def rewind(
    work: Work,
    table: TableName,
    *,
    after: Sequence[object] | None = None,
    position: str | None = None,
    undo: bool = False,
    dry_run: bool = False,
) -> Rewound:
    """Retract the events after a sequence or a position, or let them count again; only their keys are made again.

    Args:
        after: the parts of a sequence, typed: later ones are meant.
        position: where a batch of a feed began or ended: what was read after it is meant.
        undo: bring back what was retracted.

    Raises:
        SettingsError: no batch began or ended there.
    """
    return _retrying(lambda: corrections_history.rewind(work, table, after, position, undo=undo, dry_run=dry_run))


def _has_log(work: Work, table: TableName) -> bool:
    feeds = feeding(work, table)
    if not feeds:
        raise LakeError(f"no entity makes {table}", fix="name a table of the catalog")
    return feeds[0].kind == "history"


def _retrying(call: Callable[[], T]) -> T:
    retrying = Retrying(
        retry=retry_if_exception_type(ConcurrentWriter),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
    )
    return retrying(call)
