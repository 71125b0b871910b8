"""Extracts: each partition of a table of the outside world as one Parquet file, replaced when the source's changes.

An extract is a copy of what the source says now: the footer of its file is all that is remembered of it, so there is
no plan, and whoever was killed leaves the old file.
What belongs here: which partitions are behind, and copying them. What does not: the files (`lake/extracts.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import pyarrow as pa

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import LakeError, LakehouseError
from lakehouse_assets.lake.extracts import Extract, Extracts
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.values import Commit
from lakehouse_assets.sources.base import Notice, PartitionedSource
from lakehouse_assets.tables.base import Draft, Feed, Outcome, Work

SHOWN = 5
"""Days that a message names."""
NOTHING = "no_such_partition"
"""The code of a notice: a partition was asked for that the source does not have."""
GONE = "partition_gone"
"""The code of a notice: an extract whose partition the source no longer has."""


def column_of(entity: Entity) -> str:
    """The column by which the source is partitioned."""
    return entity.read_options["kdb.partition"]


def extracts_of(work: Work, entity: Entity) -> Extracts:
    """The files of an extract."""
    return Extracts(work.lake.storage, work.uri(entity.table), column_of(entity))


def refresh(
    work: Work, entity: Entity, keys: Collection[str] | None = None, *, rebuild: bool = False
) -> Iterator[Outcome]:
    """Copy the partitions that are behind; one that fails holds up no other.

    Args:
        keys: only these; `None`: all that the source has.
        rebuild: copy them whether they are behind or not.

    Raises:
        LakehouseError: what the first partition that failed raised, once the others are done.
    """
    failed: list[tuple[str, LakehouseError]] = []
    with _opened(work, entity) as source:
        store = extracts_of(work, entity)
        held = source.partitions()
        if missing := sorted(set(keys or ()) - set(held)):
            span = f"{min(held)} to {max(held)}" if held else "no day at all"
            message = f"{entity.source} has nothing of {days(missing)}; it has {span}"
            work.notify(entity, [Notice(NOTHING, message)])
        for key in held if keys is None else sorted(set(keys) & set(held)):
            try:
                outcome = _copied(work, entity, source, store, key, rebuild=rebuild)
            except LakehouseError as error:
                failed.append((key, error))
                continue
            if outcome is not None:
                yield outcome
        if keys is None and (gone := sorted(set(store.partitions()) - set(held))):
            message = f"{entity.source} no longer has {days(gone)}: what was extracted of it stays"
            work.notify(entity, [Notice(GONE, message)])
    if failed:
        raise first_of(entity, failed) from failed[0][1]


def first_of(entity: Entity, failed: list[tuple[str, LakehouseError]]) -> LakehouseError:
    """The error of the first of several partitions that failed, naming all of them; a retry helps if it helps one."""
    keys = days([key for key, _ in failed])
    error = next((error for _, error in failed if error.transient), failed[0][1])
    problem = f"{entity.table}: {len(failed)} partition(s) failed ({keys}): {error.problem}"
    return type(error)(problem, value=error.value, choices=error.choices, fix=error.fix, **error.facts)


def behind(work: Work, entity: Entity, keys: Collection[str] | None = None) -> Iterator[tuple[Feed, Draft]]:
    """What `refresh` would copy."""
    with _opened(work, entity) as source:
        store = extracts_of(work, entity)
        for key in source.partitions():
            if keys is not None and key not in keys:
                continue
            old = store.find(key)
            if (now := _moved(source, old, key)) is not None:
                name = FeedName(str(entity.table), partition=key)
                start = {"fingerprint": old.fingerprint} if old else {}
                yield Feed(entity, name, None), Draft("replace", start, {"fingerprint": now}, entity.source)


def _opened(work: Work, entity: Entity) -> PartitionedSource:
    source = work.open_source(entity)
    if not isinstance(source, PartitionedSource):
        raise LakeError(f"{entity.table}: {entity.source_format} is not read by partition", fix="land it as a table")
    return source


def _moved(source: PartitionedSource, old: Extract | None, key: str) -> str | None:
    """What the source says about a partition, if that is not what it said when it was extracted."""
    now = str(source.fingerprint(key))
    return None if old is not None and old.fingerprint == now else now


def _copied(
    work: Work, entity: Entity, source: PartitionedSource, store: Extracts, key: str, *, rebuild: bool
) -> Outcome | None:
    """One partition, if it is behind."""
    old = store.find(key)
    now = _moved(source, None if rebuild else old, key)
    if now is None:
        return None
    columns = source.columns_of(key)
    new = store.write(key, columns, _told(work, entity, source.read_partition(key)), now)
    plan = Plan(
        FeedName(str(entity.table), partition=key), 0, "replace", {}, {"fingerprint": now}, entity.source,
        run_date=work.clock().date(), planned_at=work.clock(),
    )  # fmt: skip
    removed = old.rows if old else 0
    commit = Commit(0, rows_added=new.rows, rows_removed=removed, bytes_added=new.bytes)
    return Outcome(plan, {entity.table: commit}, new.rows, new.rows)


def _told(work: Work, entity: Entity, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    count = 0
    for batch in batches:
        count += batch.num_rows
        work.progress(str(entity.table), count)
        yield batch


def offers(work: Work, entity: Entity) -> Mapping[str, Extract | LakeError]:
    """The extracts that are there, by partition, or what is wrong with the file in the place of one."""
    store, found = extracts_of(work, entity), dict[str, Extract | LakeError]()
    for key in store.partitions():
        try:
            extract = store.find(key)
        except LakeError as error:  # that day alone is held up
            found[key] = error
            continue
        if extract is not None:
            found[key] = extract
    return found


def days(keys: Collection[str]) -> str:
    """Days for a message: the first ones, and how many more."""
    few = sorted(keys)[:SHOWN]
    return ", ".join(few) + (f" and {len(keys) - SHOWN:,} more" if len(keys) > SHOWN else "")
