"""Avro: its schema as columns, its files streamed, what has no lossless column refused."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pytest

from lakehouse_assets.errors import SourceUnreadable, TypeRefused
from lakehouse_assets.sources.base import open_source
from lakehouse_assets.sources.files_avro import BATCH_ROWS
from lakehouse_assets_tests.sources.files_making import aged, entity, everything, misfits, naive, rows


def write(path: Path, fields: dict[str, Any], *records: dict[str, Any]) -> Path:
    """Write an Avro file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = {
        "type": "record", "name": "row", "namespace": "a.b",
        "fields": [{"name": name, "type": kind} for name, kind in fields.items()],
    }  # fmt: skip
    with path.open("wb") as stream:
        fastavro.writer(stream, schema, records)
    return aged(path)


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    """A logical type."""
    return {"type": kind, "logicalType": name, **more}


ONE, NOON = uuid.UUID(int=1), naive(2024, 7, 1, 12)
CASES: list[tuple[str, Any, Any, Any]] = [
    ("int", "int", 1, 1),
    ("null or long", ["null", "long"], None, None),
    ("int or long", ["null", "int", "long"], 2**40, 2**40),
    ("double", "double", 0.5, 0.5),
    ("string", "string", "ü", "ü"),
    ("bytes", "bytes", b"\xff", b"\xff"),
    ("fixed", {"type": "fixed", "name": "f", "size": 2}, b"ab", b"ab"),
    ("enum", {"type": "enum", "name": "e", "symbols": ["A", "B"]}, "B", "B"),
    ("date", logical("int", "date"), NOON.date(), NOON.date()),
    ("decimal", logical("bytes", "decimal", precision=5, scale=2), Decimal("1.25"), Decimal("1.25")),
    ("uuid", logical("string", "uuid"), ONE, str(ONE)),
    ("instant", logical("long", "timestamp-micros"), NOON.replace(tzinfo=dt.UTC), NOON.replace(tzinfo=dt.UTC)),
    ("local time", logical("long", "local-timestamp-millis"), NOON, NOON.replace(tzinfo=dt.UTC)),
    ("nanoseconds", logical("long", "timestamp-nanos"), 1000, dt.datetime(1970, 1, 1, 0, 0, 0, 1, dt.UTC)),
    ("array", {"type": "array", "items": logical("string", "uuid")}, [ONE], [str(ONE)]),
    ("map", {"type": "map", "values": "int"}, {"k": 1}, [("k", 1)]),
    ("record", {"type": "record", "name": "in", "fields": [{"name": "x", "type": {"type": "map", "values": "long"}}]},
     {"x": {"k": 1}}, {"x": [("k", 1)]}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_type_becomes_a_column(tmp_path: Path, kind: Any, value: Any, expected: Any) -> None:
    """The table of types in the module's docstring."""
    write(tmp_path / "in" / "1.avro", {"v": kind}, {"v": value})
    assert rows(entity(tmp_path / "in", "avro")) == [{"v": expected}]


def test_a_named_type_may_come_again(tmp_path: Path) -> None:
    """Later fields refer to it by name."""
    enum = {"type": "enum", "name": "e", "symbols": ["A", "B"]}
    write(tmp_path / "in" / "1.avro", {"a": enum, "b": ["null", "e"]}, {"a": "A", "b": "B"})
    assert rows(entity(tmp_path / "in", "avro")) == [{"a": "A", "b": "B"}]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (["int", "string"], 1),
        (logical("int", "time-millis"), dt.time(1)),
        ({"type": "record", "name": "n", "fields": [{"name": "next", "type": ["null", "n"]}]}, {"next": None}),
        (logical("bytes", "decimal", precision=50, scale=2), Decimal(1)),
    ],
    ids=["union", "time", "recursive", "decimal"],
)
def test_a_type_without_a_column_is_refused(tmp_path: Path, kind: Any, value: Any) -> None:
    """The message names the column."""
    write(tmp_path / "in" / "1.avro", {"v": kind}, {"v": value})
    with pytest.raises(TypeRefused, match="column 'v"):
        rows(entity(tmp_path / "in", "avro"))


def test_nanoseconds_are_never_cut(tmp_path: Path) -> None:
    """A value with a part below the microsecond goes to quarantine."""
    write(tmp_path / "in" / "1.avro", {"v": logical("long", "timestamp-nanos")}, {"v": 1001})
    assert misfits(entity(tmp_path / "in", "avro"))[0]["_upstream"] == {"v": "1970-01-01 00:00:00.000001001Z"}


def test_a_file_that_lost_its_end_is_named(tmp_path: Path) -> None:
    """Cut in the middle of a block."""
    path = write(tmp_path / "in" / "1.avro", {"v": "string"}, *({"v": "x" * 50} for _ in range(100)))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SourceUnreadable, match=r"1\.avro is not a whole Avro file"):
        rows(entity(tmp_path / "in", "avro"))


def test_values_that_are_no_records_are_refused(tmp_path: Path) -> None:
    """A file of bare numbers has no columns."""
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "1.avro").open("wb") as stream:
        fastavro.writer(stream, "int", [1])
    with pytest.raises(SourceUnreadable, match="not records"):
        rows(entity(tmp_path / "in", "avro"))


def test_files_unite_and_are_streamed(tmp_path: Path) -> None:
    """Columns by name over files; batches of a bounded number of rows."""
    write(tmp_path / "in" / "1.avro", {"a": "int"}, *({"a": at} for at in range(BATCH_ROWS + 1)))
    write(tmp_path / "in" / "2.avro", {"a": "long", "b": "string"}, {"a": 2**40, "b": "x"})
    with open_source(entity(tmp_path / "in", "avro")) as source:
        batches = everything(source)
    assert [batch.rows.num_rows for batch in batches] == [BATCH_ROWS, 1, 1]
    assert batches[-1].rows.to_pylist()[0]["a"] == 2**40
    assert batches[0].rows.schema.names == ["a", "b", "_position", "_source"]
