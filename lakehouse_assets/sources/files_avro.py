"""Avro: files of records with a schema at their head, read record by record (fastavro).

What belongs here: Avro's schema as Arrow types, and streaming. What does not: casts.

Unions of NULL and one type are that type; `int | long` is a long and `float | double` a double, as for Spark; other
unions are refused. `timestamp-*` are instants, `local-timestamp-*` times without a zone; enums and UUIDs are texts.
Times of day, durations and types that contain themselves are refused.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa

from lakehouse_assets.errors import SourceUnreadable, TypeRefused
from lakehouse_assets.sources.files_formats import TypedFormat
from lakehouse_assets.sources.files_listing import FileStat

BATCH_ROWS = 8_192
_PRIMITIVE = {
    "null": pa.null(), "boolean": pa.bool_(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(),
    "double": pa.float64(), "bytes": pa.binary(), "string": pa.string(),
}  # fmt: skip
_LOGICAL = {
    "date": pa.date32(), "uuid": pa.string(),
    "timestamp-millis": pa.timestamp("us", tz="UTC"), "timestamp-micros": pa.timestamp("us", tz="UTC"),
    "local-timestamp-millis": pa.timestamp("us"), "local-timestamp-micros": pa.timestamp("us"),
    "time-millis": pa.time32("ms"), "time-micros": pa.time64("us"),
    "timestamp-nanos": pa.timestamp("ns", tz="UTC"), "local-timestamp-nanos": pa.timestamp("ns"),
}  # fmt: skip


class AvroFormat(TypedFormat):
    """Avro object container files."""

    def own_schema(self, file: FileStat) -> pa.Schema:
        """The fields of the record at the file's head."""
        with self.place.reading(file), self.place.stream(file) as stream:
            return self._fields(self._open(stream, file), file)

    def batches(self, file: FileStat) -> Iterator[pa.RecordBatch]:
        """Batches of at most `BATCH_ROWS` records."""
        with self.place.reading(file), self.place.stream(file) as stream:
            reader = self._open(stream, file)
            schema = self._fields(reader, file)
            while records := self._some(reader, file):
                columns = [_column([record[f.name] for record in records], f.type) for f in schema]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def _open(self, stream: pa.NativeFile, file: FileStat) -> Any:
        import fastavro

        try:
            return fastavro.reader(stream)
        except OSError:
            raise
        except Exception as error:
            raise self._broken(file, error) from error

    def _some(self, reader: Any, file: FileStat) -> list[dict[str, Any]]:
        try:
            return list(islice(reader, BATCH_ROWS))
        except OSError:
            raise
        except Exception as error:
            raise self._broken(file, error) from error

    def _broken(self, file: FileStat, error: Exception) -> SourceUnreadable:
        return SourceUnreadable(
            f"{self.who}: {self.place.uri(file.path)} is not a whole Avro file: {type(error).__name__}: {error}",
            fix="mend, replace or remove it",
            file=file.path,
        )

    def _fields(self, reader: Any, file: FileStat) -> pa.Schema:
        schema = reader.writer_schema
        if not isinstance(schema, Mapping) or schema.get("type") != "record":
            raise SourceUnreadable(
                f"{self.who}: {self.place.uri(file.path)} holds values that are not records",
                value=schema,
                fix="write records",
                file=file.path,
            )
        types = _Types(f"{self.who}: {self.place.uri(file.path)}")
        return pa.schema(types.record(schema, ""))


class _Types:
    """Avro types as Arrow types, with the named ones met so far."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.named: dict[str, pa.DataType | None] = {}

    def record(self, schema: Mapping[str, Any], column: str) -> list[pa.Field]:
        self.named[schema["name"]] = None
        fields = [pa.field(f["name"], self.arrow(f["type"], f"{column}{f['name']}")) for f in schema["fields"]]
        self.named[schema["name"]] = pa.struct(fields)
        return fields

    def arrow(self, schema: Any, column: str) -> pa.DataType:
        if isinstance(schema, list):
            return self.union(schema, column)
        if isinstance(schema, str):
            found = _PRIMITIVE.get(schema) or self.named.get(schema)
            return found if found is not None else self.refuse(schema, column, "it contains itself")
        if logical := self.logical(schema, column):
            return logical
        return self.complex(schema, column)

    def union(self, branches: list[Any], column: str) -> pa.DataType:
        kinds = [branch for branch in branches if branch != "null"]
        if not kinds:
            return pa.null()
        if len(kinds) == 1:
            return self.arrow(kinds[0], column)
        for numbers, wide in (({"int", "long"}, pa.int64()), ({"float", "double"}, pa.float64())):
            if all(isinstance(kind, str) for kind in kinds) and set(kinds) == numbers:
                return wide
        return self.refuse(branches, column, "a union of several types is no column type")

    def logical(self, schema: Mapping[str, Any], column: str) -> pa.DataType | None:
        name = schema.get("logicalType")
        if name == "decimal" and schema["precision"] <= 38:
            return pa.decimal128(schema["precision"], schema.get("scale", 0))
        if name in ("decimal", "duration"):
            return self.refuse(name, column, "it has no lossless column type")
        return _LOGICAL.get(str(name)) if name else None

    def complex(self, schema: Mapping[str, Any], column: str) -> pa.DataType:
        kind = schema["type"]
        if kind == "record":
            return pa.struct(self.record(schema, f"{column}."))
        if kind == "array":
            return pa.list_(self.arrow(schema["items"], f"{column}[]"))
        if kind == "map":
            return pa.map_(pa.string(), self.arrow(schema["values"], f"{column}.value"))
        if kind in ("enum", "fixed"):
            self.named[schema["name"]] = pa.string() if kind == "enum" else pa.binary()
            return self.named[schema["name"]]
        return self.arrow(kind, column)

    def refuse(self, schema: Any, column: str, why: str) -> pa.DataType:
        raise TypeRefused(
            f"{self.where}: the column {column!r} cannot be read: {why}",
            value=schema,
            fix="write the file with another type for it",
        )


def _column(values: list[Any], dt: pa.DataType) -> pa.Array:
    if pa.types.is_nested(dt) or pa.types.is_string(dt):
        values = [_plain(value) for value in values]
    return pa.array(values, dt)


def _plain(value: Any) -> Any:
    """A value of fastavro's as Arrow takes it: UUIDs as texts."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
