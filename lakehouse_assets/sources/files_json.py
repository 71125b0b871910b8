"""JSON files: one record a line, or with `multiLine` one value a file.

What belongs here: lines to records, and the types of records without declared columns. What does not: what a value
must be (`files_values.py`).

- A line holds an object, or an array of objects (each is a record). Anything else is malformed, and so is an object
  that has one name twice. Empty lines are no records.
- With `multiLine` a file is one object or one array of objects, and is held in memory as a whole.
- Without declared columns all records of all files are looked at: whole numbers are BIGINT (DECIMAL(p,0) beyond it),
  other numbers DOUBLE; values of several kinds are STRING, as their JSON text; a column that is always NULL is STRING;
  an object that is always empty is left out. Columns stand in the order in which they first come.
- Columns are found by exact name. An absent one is NULL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lakehouse_assets.sources.files_blocks import RECORD_BYTES, chunks, is_utf8, line_blocks, shown
from lakehouse_assets.sources.files_csv import _Faults
from lakehouse_assets.sources.files_formats import Format, Piece
from lakehouse_assets.sources.files_listing import FileStat
from lakehouse_assets.sources.files_types import check_name, united
from lakehouse_assets.sources.files_values import Number, column, text_of

_MAX_DIGITS = 38
_LONG = 1 << 63


@dataclass
class Found:
    """Some records of a file with their numbers, and the malformed ones."""

    numbers: list[int] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    malformed: list[tuple[int, str]] = field(default_factory=list)


class JsonFormat(Format):
    """JSON lines, and JSON files."""

    def learn(self, files: Sequence[FileStat]) -> pa.Schema:
        """The columns that hold every record of these files."""
        known = Shape("struct")
        for file in files:
            for found in self._found(file):
                for record in found.records:
                    known.learn(record)
        columns = pa.schema([(check_name(name), shape.type()) for name, shape in known.parts.items() if shape.type()])
        return united([(self.place.source, columns)], self.who)

    def pieces(self, file: FileStat, target: pa.Schema) -> Iterator[Piece]:
        """The rows of a file, a block at a time."""
        for found in self._found(file):
            columns, failed = {}, {}
            for wanted in target:
                values = [record.get(wanted.name) for record in found.records]
                columns[wanted.name], mask = column(values, wanted.type, self.patterns)
                if mask is not None:
                    failed[wanted.name] = mask
            numbers = pa.array(found.numbers, pa.int64())
            yield Piece(numbers, columns, failed, found.records.__getitem__, found.malformed)

    def _found(self, file: FileStat) -> Iterator[Found]:
        with (
            self.place.reading(file),
            self.place.stream(file) as stream,
            _Faults(f"{self.who}: {self.place.uri(file.path)}", self.options.encoding),
        ):
            parts = chunks(stream, self.options.encoding)
            number = 0
            for block in [b"".join(parts)] if self.options.multi_line else line_blocks(parts):
                texts = [block] if self.options.multi_line else block.split(b"\n")
                found = Found()
                for text in texts:
                    if text.strip():
                        number = _take(text, number, found)
                yield found


def _take(text: bytes, number: int, found: Found) -> int:
    """Add what one JSON text holds; the number of the next record."""
    value = _parsed(text)
    records = value if isinstance(value, list) else [value]
    for record in records:
        if isinstance(record, dict):
            found.numbers.append(number)
            found.records.append(record)
        else:
            if len(text) > RECORD_BYTES:
                raise ValueError(f"it is larger than {RECORD_BYTES >> 20} MiB and not JSON, or not of objects")
            raw = shown(text) if record is _BROKEN or records is not value else text_of(record)
            found.malformed.append((number, raw))
        number += 1
    return number


_BROKEN = object()


def _parsed(text: bytes) -> Any:
    """The value of a JSON text; `_BROKEN` where it is none."""
    if not is_utf8(text):
        return _BROKEN
    try:
        value = json.loads(text, parse_float=Number, object_pairs_hook=_object)
        if b"\\u" in text:
            text_of(value).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError):
        return _BROKEN
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


class Shape:
    """What is known of the type of a value: nothing yet, a primitive, a list or a struct.

    Attributes:
        kind: "", "bigint", "decimal", "double", "boolean", "string", "list" or "struct".
        parts: the fields of a struct; the items of a list under "".
    """

    __slots__ = ("digits", "kind", "parts")

    def __init__(self, kind: str = "") -> None:
        self.kind = kind
        self.digits = 0
        self.parts: dict[str, Shape] = {}

    def learn(self, value: Any) -> None:
        """Take one more value into account."""
        if value is None or self.kind == "string":
            return
        kind = _kind(value)
        if kind == "decimal":
            self.digits = max(self.digits, len(str(abs(value))), 20)
        if not self.kind or self.kind == kind:
            self.kind = kind
        elif {self.kind, kind} <= {"bigint", "decimal", "double"}:
            self.kind = max(self.kind, kind, key=("bigint", "decimal", "double").index)
        else:
            self.kind = "string"
        if self.digits > _MAX_DIGITS:
            self.kind = "string"
        if self.kind == "struct":
            for name, part in value.items():
                self.parts.setdefault(name, Shape()).learn(part)
        elif self.kind == "list":
            items = self.parts.setdefault("", Shape())
            for part in value:
                items.learn(part)

    def type(self) -> pa.DataType | None:
        """The type that holds all values so far; `None` for an object that was always empty."""
        if self.kind == "struct":
            fields = [pa.field(check_name(name), kind) for name, part in self.parts.items() if (kind := part.type())]
            return pa.struct(fields) if fields else None
        if self.kind == "list":
            item = self.parts[""].type()
            return pa.list_(item) if item else None
        return _primitive(self.kind, self.digits)


def _primitive(kind: str, digits: int) -> pa.DataType:
    types: Mapping[str, pa.DataType] = {"bigint": pa.int64(), "double": pa.float64(), "boolean": pa.bool_()}
    return pa.decimal128(digits, 0) if kind == "decimal" else types.get(kind, pa.string())


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "bigint" if -_LONG <= value < _LONG else "decimal"
    if isinstance(value, Number | float):
        return "double"
    return "list" if isinstance(value, list) else "struct" if isinstance(value, dict) else "string"
