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
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow import types as pat

from lakehouse_assets.sources.files_blocks import RECORD_BYTES, chunks, is_utf8, line_blocks, shown, text_faults
from lakehouse_assets.sources.files_formats import Format, Piece
from lakehouse_assets.sources.files_listing import FileStat
from lakehouse_assets.sources.files_shapes import Shape
from lakehouse_assets.sources.files_texts import cast_texts
from lakehouse_assets.sources.files_types import check_name, united
from lakehouse_assets.sources.files_values import Number, column, text_of

_BROKEN = object()
_HUGE = re.compile(rb"\d{19}")
"""A whole number that may be beyond BIGINT: Arrow would take it for a DOUBLE."""
_DEEP = 500
_SPECIAL = re.compile(rb"[:\[,]\s*[-+]?(?:NaN|Inf)")
"""Numbers that are not JSON: Arrow takes more of them than are taken here."""


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
            for block in self._blocks(file):
                table = None if self.options.multi_line or _HUGE.search(block) else _arrow(block, None)
                if table is not None:
                    known.learn_type(pa.struct(list(table.schema)))
                    continue
                for record in self._found(block, 0)[0].records:
                    known.learn(record)
        columns = pa.schema([(check_name(name), shape.type()) for name, shape in known.parts.items() if shape.type()])
        return united([(self.place.source, columns)], self.who)

    def pieces(self, file: FileStat, target: pa.Schema) -> Iterator[Piece]:
        """The rows of a file, a block at a time."""
        number = 0
        quick = None if self.options.multi_line else _quick_schema(target)
        for block in self._blocks(file):
            table = None if quick is None else _arrow(block, quick)
            if table is not None:
                yield self._quick_piece(table, block, number, target)
                number += table.num_rows
                continue
            found, number = self._found(block, number)
            yield self._piece(found, target)

    def _piece(self, found: Found, target: pa.Schema) -> Piece:
        columns, failed = {}, {}
        for wanted in target:
            values = [record.get(wanted.name) for record in found.records]
            columns[wanted.name], mask = column(values, wanted.type, self.patterns)
            if mask is not None:
                failed[wanted.name] = mask
        numbers = pa.array(found.numbers, pa.int64())
        return Piece(numbers, columns, failed, found.records.__getitem__, found.malformed)

    def _quick_piece(self, table: pa.Table, block: bytes, number: int, target: pa.Schema) -> Piece:
        columns, failed = {}, {}
        for wanted in target:
            values = table.column(wanted.name).combine_chunks()
            if values.type != wanted.type:
                values, mask = cast_texts(values, wanted.type, self.patterns)
                if mask is not None:
                    failed[wanted.name] = mask
            columns[wanted.name] = values

        def received(row: int) -> dict[str, Any]:
            record: dict[str, Any] = _parsed(block.split(b"\n", row + 1)[row].decode())
            return record

        return Piece(pa.array(range(number, number + table.num_rows), pa.int64()), columns, failed, received)

    def _blocks(self, file: FileStat) -> Iterator[bytes]:
        """The file, some lines at a time; with `multiLine` all of it."""
        where = f"{self.who}: {self.place.uri(file.path)}"
        with self.place.reading(file), self.place.stream(file) as stream, text_faults(where, self.options.encoding):
            parts = chunks(stream, self.options.encoding)
            if self.options.multi_line:
                yield b"".join(parts)
            else:
                yield from line_blocks(parts)

    def _found(self, block: bytes, number: int) -> tuple[Found, int]:
        """The records of a block one by one, and the number of the next."""
        found = Found()
        if is_utf8(block):
            text = block.decode()
            for one in [text] if self.options.multi_line else text.split("\n"):
                number = _take(one, number, found)
            return found, number
        for line in [block] if self.options.multi_line else block.split(b"\n"):
            if is_utf8(line):
                number = _take(line.decode(), number, found)
            else:
                found.malformed.append((number, _bounded(shown(line))))
                number += 1
        return found, number


def _quick_schema(target: pa.Schema) -> pa.Schema | None:
    """How Arrow's own JSON reader gives these columns exactly as value by value; `None` where it does not."""
    fields = []
    for wanted in target:
        as_text = pat.is_date(wanted.type) or pat.is_timestamp(wanted.type)
        if not as_text and not _is_quick(wanted.type):
            return None
        fields.append(pa.field(wanted.name, pa.string() if as_text else wanted.type))
    return pa.schema(fields)


def _is_quick(dt: pa.DataType) -> bool:
    if pat.is_struct(dt):
        return all(_is_quick(part.type) for part in dt.fields)
    if pat.is_list(dt):
        return _is_quick(dt.value_type)
    return pat.is_integer(dt) or pat.is_boolean(dt) or pat.is_string(dt) or pat.is_float64(dt)


def _arrow(block: bytes, schema: pa.Schema | None) -> pa.Table | None:
    """A block as Arrow's JSON reader reads it; `None` where a line needs a closer look.

    That is: where a line is not one object by itself, where a name is not in `schema`, or where Arrow objects to
    anything (a broken line, a value of another type, a name that comes twice): it would stop at the first of these.
    """
    from pyarrow import json as arrow_json

    block = block if block.endswith(b"\n") else block + b"\n"
    lines = block.count(b"\n")
    if not (block.startswith(b"{") and block.endswith(b"}\n") and block.count(b"}\n{") == lines - 1):
        return None
    if _SPECIAL.search(block) or _is_deep(block, lines):
        return None
    parse = arrow_json.ParseOptions(
        explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "error"
    )
    read = arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1)
    try:
        table = arrow_json.read_json(pa.BufferReader(block), read, parse)
    except (pa.ArrowException, UnicodeError):
        return None
    return table if table.num_rows == lines else None


def _is_deep(block: bytes, lines: int) -> bool:
    """Whether a value may be nested so deep that Arrow's reader, which recurses, would end the process."""
    if block.count(b"{") + block.count(b"[") <= lines + _DEEP:
        return False
    return any(line.count(b"{") + line.count(b"[") > _DEEP for line in block.split(b"\n"))


def _take(text: str, number: int, found: Found) -> int:
    """Add what one JSON text holds; the number of the next record."""
    if not text or text.isspace():
        return number
    value = _parsed(text)
    records = value if isinstance(value, list) else [value]
    for record in records:
        if isinstance(record, dict):
            found.numbers.append(number)
            found.records.append(record)
        else:
            raw = text_of(record) if records is value else text
            found.malformed.append((number, _bounded(raw)))
        number += 1
    return number


def _bounded(raw: str) -> str:
    if len(raw) > RECORD_BYTES:
        raise ValueError(f"it is larger than {RECORD_BYTES >> 20} MiB and not JSON")
    return raw


def _parsed(text: str) -> Any:
    """The value of a JSON text; `_BROKEN` where it is none."""
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:
            text_of(value).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError):
        return _BROKEN
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


_DECODER = json.JSONDecoder(parse_float=Number, object_pairs_hook=_object)
