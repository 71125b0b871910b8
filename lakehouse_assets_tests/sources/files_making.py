"""Files for the tests of file sources: written in any format, with times of modification that lie back and go up."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.sources.base import ROW_FIELDS, Batch, Past, Source, open_source

FORMATS = ("csv", "json", "parquet", "avro", "orc")
_CLOCK = itertools.count(1_700_000_000)


def entity(source: object, source_format: str = "csv", *, schema: str | None = None, **options: object) -> Entity:
    """An entity that reads files; names of options may hold `__` for a dot."""
    return Entity(
        entity_id="f",
        source=str(source),
        destination="bronze.files",
        source_format=source_format,  # type: ignore[arg-type]
        source_schema=schema,
        read_options={name.replace("__", "."): str(text) for name, text in options.items()},
    )


def discovered(source: object, kind: str = "csv", *, schema: str | None = None, **options: object) -> Entity:
    """An entity that discovers files of a format."""
    return entity(source, "cloudFiles", schema=schema, cloudFiles__format=kind, **options)


def naive(*parts: int) -> dt.datetime:
    """A time without a zone."""
    return dt.datetime(*parts)  # type: ignore[arg-type]


def put(path: Path, data: bytes | str) -> Path:
    """Write a file as if it had been there for long, a second later than the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return aged(path)


def aged(path: Path) -> Path:
    """Set a file's time of modification to the next second of a clock that starts in 2023."""
    seconds = next(_CLOCK)
    os.utime(path, (seconds, seconds))
    return path


def write(path: Path, kind: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows in a format, without `source_schema` readable with `header: true` where it is csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    {"csv": _csv, "json": _json, "parquet": _parquet, "avro": _avro, "orc": _orc}[kind](path, rows)
    return aged(path)


def table(entity: Entity) -> pa.Table:
    """All rows that a source offers now."""
    with open_source(entity) as source:
        batches = [batch.rows for batch in everything(source)]
        return pa.Table.from_batches(
            batches, batches[0].schema if batches else pa.schema([*source.schema(), *ROW_FIELDS])
        )


def rows(entity: Entity) -> list[dict[str, Any]]:
    """All rows that a source offers now, without `_position` and `_source`."""
    return table(entity).drop_columns(["_position", "_source"]).to_pylist()


def misfits(entity: Entity) -> list[dict[str, Any]]:
    """All misfits that a source offers now, `_upstream` as an object."""
    with open_source(entity) as source:
        found = [row for batch in everything(source) if batch.misfits for row in batch.misfits.to_pylist()]
    return [{**row, "_upstream": json.loads(row["_upstream"])} for row in found]


def everything(source: Source) -> list[Batch]:
    """The first batch of a source, from its start."""
    return list(source.read(source.earliest(), source.latest(Past())))


def _csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def _json(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def _orc(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    from pyarrow import orc

    orc.write_table(pa.Table.from_pylist(list(rows)), str(path))


def _avro(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import fastavro

    names = {int: "long", str: "string", float: "double", bool: "boolean"}
    fields = [{"name": name, "type": names[type(value)]} for name, value in rows[0].items()]
    with path.open("wb") as stream:
        fastavro.writer(stream, {"type": "record", "name": "r", "fields": fields}, rows)
