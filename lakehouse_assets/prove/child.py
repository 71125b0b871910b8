"""What a process of a proof does: measure the sources, or run the tables of a lake, and say what stands there then.

A job is JSON: which catalog, which lake, which tables, how much of the sources is shown, where to be killed. A process
that is not killed runs a second time, which must find nothing new, and leaves every table as rows in a file.
What belongs here: one job. What does not: starting and killing processes (`nursery.py`), comparing (`compare.py`).
"""

from __future__ import annotations

import importlib
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import SecretStr

from lakehouse_assets.engines.base import Engine, Handle, open_engine
from lakehouse_assets.entities.catalog import from_snapshot
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import LakehouseError
from lakehouse_assets.lake.names import BATCHES, Lake
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.prove.pace import measure, paced
from lakehouse_assets.prove.points import EXTRACT, Kill, Points, watched
from lakehouse_assets.settings import Settings
from lakehouse_assets.tables import extract
from lakehouse_assets.tables.base import Work, numbered, written_with
from lakehouse_assets.tables.batch import by_partition
from lakehouse_assets.tables.maintenance import maintain
from lakehouse_assets.tables.refresh import feeds_of, refresh

Job = dict[str, Any]
IGNORED = frozenset({"_batch", "_event", "_refers", "_origin"})
"""Columns in which equal tables may differ: numbers that a rebuild which was never planned did not use up, and ids and
versions of upstream tables, which go by such numbers."""

COMPUTED = ("query", "asof")
"""Kinds in whose tables floats may be sums, and differ in their last digits with the order of the rows."""


def perform(job: Job, order: Callable[[float], None]) -> int:
    """Do a job, and write its answer where the job says; returns the exit code of the process."""
    os.environ.clear()
    os.environ.update(job["environ"])
    answer: dict[str, Any] = {}
    try:
        with ExitStack() as opened:
            work = _work(job)
            opened.callback(work.engine.close)
            tables = [TableName(*name.split(".")) for name in job["tables"]]
            if job["does"] == "measure":
                answer = {"batch": _measured(work, tables, job)}
            else:
                answer = _run(work, tables, job, order)
    except LakehouseError as error:
        answer = {"error": str(error)}
    Path(job["answer"]).write_bytes(pickle.dumps(answer))
    return 1 if "error" in answer else 0


def _work(job: Job) -> Work:
    settings = Settings(**job["settings"])
    lake = Lake(settings.root, Storage.of(settings, os.environ))
    engine = _named(job["engine_class"]).of(settings, lake.storage) if job["engine_class"] else None
    clock = datetime.fromisoformat(job["clock"])
    return Work(
        from_snapshot(job["catalog"]),
        lake,
        engine or open_engine(settings, lake.storage),
        open_source=_named(job["open_source"]),
        clock=lambda: clock,
    )


def _named(place: str) -> Any:
    """What stands at `module:name`."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def _measured(work: Work, tables: list[TableName], job: Job) -> dict[str, int]:
    """The size of a batch of each source, by entity."""
    found = {}
    for entity in (e for table in tables for e in feeds_of(work, table) if e.kind in ("landed", "extract")):
        with work.open_source(entity) as source:
            found[entity.entity_id] = measure(source, job["rounds"], job["most"])
    return found


def _run(work: Work, tables: list[TableName], job: Job, order: Callable[[float], None]) -> dict[str, Any]:
    kill = Kill(**job["kill"]) if job["kill"] else None
    with open(job["trail"], "w", encoding="utf-8") as trail:
        points = Points(work.lake.root, trail, kill, order)
        shown = paced(work.open_source, job["batch"], job["shown"])
        _refresh(replaced(watched(work, points), shown), tables, job, points)
    moved = [str(table) for table in tables if list(refresh(replaced(work, shown), table))]
    answer: dict[str, Any] = {"moved": moved, "feeds": list(_feeds(work, tables)), "tables": {}}
    for table in tables:
        exact = not any(e.kind in COMPUTED for name in work.catalog.select(f"+{table}") for e in _entities(work, name))
        for name in written_with(work, table):
            handle = work.engine.find(work.uri(name))
            if handle is not None:
                answer["tables"][str(name)] = {**_rows(work.engine, handle), "exact": exact}
        if (extracted := _extract(work, table)) is not None:
            answer["tables"][str(table)] = _files(work, extracted)
    return answer


def replaced(work: Work, shown: Callable[[Entity], Any]) -> Work:
    """`work` over sources of which a part is shown."""
    return replace(work, open_source=shown)


def _refresh(work: Work, tables: list[TableName], job: Job, points: Points) -> None:
    for upkeep in maintain(work, [*tables, BATCHES]) if job["maintain"] else ():
        if upkeep.error is not None:
            raise upkeep.error
    for table in tables:
        outcomes = refresh(work, table, rebuild=job["rebuild"])
        if _extract(work, table) is not None:  # no engine writes it: each partition is a write of its own
            uri = work.uri(table)
            while points.around(EXTRACT, lambda _, outcomes=outcomes: next(outcomes, None), uri):
                pass
        for _ in outcomes:
            pass


def _feeds(work: Work, tables: list[TableName]) -> Iterator[Mapping[str, Any]]:
    """Each feed: the number that its table carries, that of its newest plan, and how far it has read the outside."""
    for table in tables:
        for entity in (e for e in feeds_of(work, table) if e.kind != "extract"):  # its files are numbered by nobody
            target = work.engine.find(work.uri(numbered(entity)))
            keys = work.book.open().partitions(str(table)) if by_partition(work, entity) else ("",)
            yield from (_feed(work, entity, key, target) for key in sorted(keys))


def _feed(work: Work, entity: Entity, key: str, target: Handle | None) -> Mapping[str, Any]:
    name = work.feed_name(entity, key)
    plan = work.book.open(name).last(name)
    return {
        "feed": name.app_id,
        "carried": target.number(name.app_id) if target else 0,
        "planned": plan.number if plan else 0,
        "end": dict(plan.end) if plan and entity.kind == "landed" else None,
    }


def _entities(work: Work, table: TableName) -> tuple[Entity, ...]:
    return work.catalog.destinations.get(table, ())


def _extract(work: Work, table: TableName) -> Entity | None:
    """The entity that extracts a table; `None`: it is kept otherwise."""
    return next((entity for entity in _entities(work, table) if entity.kind == "extract"), None)


def _files(work: Work, entity: Entity) -> dict[str, Any]:
    """An extract, whole: a row of each file, of what its footer says and of the rows that are in it."""
    found = []
    store = extract.extracts_of(work, entity)
    for key, file in extract.offers(work, entity).items():
        if isinstance(file, LakehouseError):
            raise file
        rows = store.read(file).read_all()
        columns = [(field.name, str(field.type), _values(rows.column(field.name))) for field in rows.schema]
        found.append((key, file.rows, file.checksum, file.fingerprint, columns))
    names = ["partition", "rows", "checksum", "fingerprint", "columns"]
    return {"names": names, "types": ["extract"], "rows": found, "exact": True}


def _rows(engine: Engine, handle: Handle) -> dict[str, Any]:
    """A table, whole: its columns, and its rows in an order of their own."""
    names = [name for name in handle.schema.names if name not in IGNORED]
    rows: list[tuple[Any, ...]] = []
    with engine.batches(engine.read(handle)) as reader:
        for batch in reader:
            columns = [_values(batch.column(name)) for name in names]
            rows += zip(*columns, strict=True) if columns else []
    types = [str(handle.schema.field(name).type) for name in names]
    return {"names": names, "types": types, "rows": sorted(rows, key=repr)}


def _values(column: pa.Array) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError):  # a time that Python cannot hold
        return list(column.cast(_counted(column.type)).to_pylist())


def _counted(kind: pa.DataType) -> pa.DataType:
    """The type with times and dates as the numbers that they are stored as."""
    if pa.types.is_timestamp(kind) or pa.types.is_time64(kind) or pa.types.is_duration(kind):
        return pa.int64()
    if pa.types.is_date32(kind):
        return pa.int32()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_counted(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_counted(kind.key_type), _counted(kind.item_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(kind.value_field.with_type(_counted(kind.value_type)))
    return kind


def revealed(settings: Settings) -> dict[str, Any]:
    """Settings as JSON can carry them to a child through a pipe, secrets in clear."""
    return {name: _revealed(getattr(settings, name)) for name in Settings.model_fields}


def _revealed(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {key: _revealed(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
