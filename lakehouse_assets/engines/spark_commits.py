"""Which commit a write of Spark became: a number is committed once, whoever tries.

Spark starts a transaction when a write runs, and skips in silence a number that is there already. So numbers are
compared before, and afterwards the log is searched for the mark that the write bears.
What does not belong here: making the write.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from lakehouse_assets.engines.base import Handle
from lakehouse_assets.errors import ConcurrentWriter, StoreFailed
from lakehouse_assets.lake import log
from lakehouse_assets.lake.delta import DeltaTable, open_table
from lakehouse_assets.lake.log import MARK, WRITE
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Commit, Number


def mark_of(name: str) -> str:
    """What a commit says about itself: that this project made it, for which plan, and in which write."""
    return json.dumps({MARK: name, WRITE: uuid.uuid4().hex})


class Commits:
    """Fences writes by their numbers, and finds what they became."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def once(
        self,
        handle: Handle,
        number: Number,
        write: Callable[[str], None],
        use_up: Callable[[DeltaTable, Number], Any],
    ) -> Commit:
        """Write under a number that nobody committed since the handle was opened, and find the commit.

        A Delta write of Spark carries one number. The further ones fence writers that must not come after this one,
        so their commits, which hold no rows, come before it.

        Args:
            write: makes the write, which bears the mark that it is given.
            use_up: commits a number without rows.

        Raises:
            ConcurrentWriter: somebody else committed the number, before or meanwhile; nothing was written.
        """
        before = self.check(handle, number)
        for app_id, value in number.also:
            if before.number(app_id) < value:
                use_up(before, Number(app_id, value, number.plan))
        before = open_table(handle.uri, self._storage) if number.also else before
        held = {file.path: file.rows for file in before.named_files()}
        mark = mark_of(number.plan or number.app_id)
        try:
            write(mark)
        except (ConcurrentWriter, StoreFailed):  # the store may have executed a commit, and its answer was lost
            if (found := self.made(before, mark, held)) is None:
                raise
            return found
        if (found := self.made(before, mark, held)) is None:
            raise _raced(handle.uri)
        return found

    def check(self, handle: Handle, number: Number) -> DeltaTable:
        """A fresh handle, if the numbers of a write are as the handle found them; else `ConcurrentWriter`."""
        table = open_table(handle.uri, self._storage)
        watched = (number.app_id, *(app_id for app_id, _ in number.also))
        if any(table.number(app_id) != handle.number(app_id) for app_id in watched):
            raise _raced(handle.uri)
        return table

    def newest(self, handle: Handle) -> DeltaTable:
        """A fresh handle, if nobody committed anything since this one was opened; else `ConcurrentWriter`."""
        table = open_table(handle.uri, self._storage)
        if table.version != handle.version:
            raise _raced(handle.uri)
        return table

    def made(self, before: DeltaTable, mark: str, held: Mapping[str, int | None]) -> Commit | None:
        """What the write with that mark did; `None` if it is in no version: its number was there already."""
        after = open_table(before.uri, self._storage)
        for version, commit in after.commits(before.version, after.version):
            if log.info(commit).get("userMetadata") == mark:
                return after.outcome(version, commit, held)
        return None


def _raced(uri: str) -> ConcurrentWriter:
    return ConcurrentWriter(
        f"another process committed to {uri} first; nothing of this write was kept",
        fix="run again: the same batch is taken up from its plan",
    )
