"""Corrections of a table without a log: kept beside it, so that a rebuild can make them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lakehouse_assets.engines.base import Relation
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.lake.values import Commit
from lakehouse_assets.tables.base import Work
from lakehouse_assets.tables.corrections_given import Asked, Requeued


def with_ids(work: Work, rows: Relation) -> Relation:
    """Rows of a quarantine with an id of each (`_event`)."""
    del work
    return rows


def requeue(work: Work, table: TableName, asked: Asked, *, dry_run: bool) -> Requeued:
    """See `corrections.requeue`."""
    del work, table, asked, dry_run
    return Requeued()


def discard(work: Work, table: TableName, ids: Sequence[str]) -> Mapping[TableName, Commit]:
    """See `corrections.discard`."""
    del work, table, ids
    return {}
