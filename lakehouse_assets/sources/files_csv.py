"""CSV files: records to columns of texts, texts to the table's types.

What belongs here: headers, numbers of fields, NULL, inference of types. What does not: quotes (`files_records.py`),
what a text must look like (`files_texts.py`).

- Without `header` the columns are `_c0`, `_c1`, … of the first record of the first file that has one, or the declared
  ones by their place. With `header` each file has its own, and columns are found by name; `enforceSchema: true` takes
  the declared columns by their place instead. Names that are empty become `_c<place>`; names that come twice get their
  place at the end.
- A field without text is NULL, `""` is an empty text. A text equal to `nullValue` is NULL, quoted or not; as its
  default is the empty text, `""` is NULL too unless `nullValue` is set.
- A record with more or fewer fields than its file has columns is malformed.
- `inferSchema` looks at all records of all files: INT, BIGINT, DECIMAL(p,0), DOUBLE, DATE (yyyy-MM-dd), TIMESTAMP,
  BOOLEAN, the first that fits every text; else STRING.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.errors import SourceUnreadable
from lakehouse_assets.sources.files_blocks import chunks, text_faults
from lakehouse_assets.sources.files_formats import Format, Piece, matched
from lakehouse_assets.sources.files_listing import FileStat, Place
from lakehouse_assets.sources.files_options import FileOptions
from lakehouse_assets.sources.files_records import Dialect, Records
from lakehouse_assets.sources.files_texts import Patterns, cast_texts
from lakehouse_assets.sources.files_types import check_name, united
from lakehouse_assets.sql.types import TIMESTAMP

_CANDIDATES = ("int", "bigint", "decimal", "double", "date", "timestamp", "boolean")
_TYPES = {"int": pa.int32(), "bigint": pa.int64(), "decimal": pa.decimal128(38, 0), "double": pa.float64(),
          "date": pa.date32(), "timestamp": TIMESTAMP, "boolean": pa.bool_()}  # fmt: skip
_STRICT = {"date": re.compile(r"^\d{4}-\d{2}-\d{2}$"), "decimal": re.compile(r"^[+-]?\d+$")}


class CsvFormat(Format):
    """Comma separated values, and their relatives."""

    def __init__(self, place: Place, options: FileOptions, *, declared: bool, who: str) -> None:
        super().__init__(place, options, declared=declared, who=who)
        self._dialect = Dialect(options.separator, options.quote, options.escape, options.comment, options.multi_line)
        self._names: dict[FileStat, list[str]] = {}

    def learn(self, files: Sequence[FileStat]) -> pa.Schema:
        """Columns of texts, or of inferred types with `inferSchema`."""
        heads = ((self.place.uri(file.path), _texts_of(names)) for file in files if (names := self.names(file)))
        texts = united(heads if self.options.header else islice(heads, 1), self.who)
        return self._inferred(files, texts) if self.options.infer_schema and len(texts) else texts

    def names(self, file: FileStat) -> list[str]:
        """The columns of one file by its header, or by the number of fields of its first record."""
        if file not in self._names:
            fields = self._head(file) or []
            null = self.options.null_value
            self._names[file] = _headings(fields, null) if self.options.header else _places(len(fields))
        return self._names[file]

    def pieces(self, file: FileStat, target: pa.Schema) -> Iterator[Piece]:
        """The rows of a file, a block at a time."""
        names, places = self._layout(file, target)
        if not names:
            return
        for records, texts, malformed in self._texts(file, len(names)):
            yield self._piece(records, texts, malformed, names, places, target)

    def _piece(
        self,
        numbers: pa.Array,
        texts: pa.RecordBatch,
        malformed: list[tuple[int, str]],
        names: Sequence[str],
        places: dict[str, int],
        target: pa.Schema,
    ) -> Piece:
        columns, failed = {}, {}
        for name, at in places.items():
            to = target.field(name).type
            try:
                columns[name], mask = cast_texts(texts.column(at), to, self.patterns)
            except LookupError as error:
                raise SourceUnreadable(
                    f"{self.who}: the column {name!r}: {error}",
                    fix="declare it as STRING in source_schema, and take it apart with from_json in the next table",
                ) from None
            if mask is not None:
                failed[name] = mask

        def received(row: int) -> dict[str, Any]:
            return {name: texts.column(at)[row].as_py() for at, name in enumerate(names)}

        return Piece(numbers, columns, failed, received, malformed)

    def _layout(self, file: FileStat, target: pa.Schema) -> tuple[Sequence[str], dict[str, int]]:
        """The names of a file's fields, and where the table's columns stand among them."""
        if not self.options.header:
            return target.names, {name: at for at, name in enumerate(target.names)}
        names = self.names(file)
        where = self.place.uri(file.path)
        if not (self.options.enforce_schema and self.declared):
            return names, matched(names, target, where, self.who)
        if names and len(names) != len(target):
            raise SourceUnreadable(
                f"{self.who}: {where} has {len(names)} columns ({', '.join(names)}), source_schema has {len(target)}; "
                "enforceSchema takes them by their place",
                fix="declare all columns of the file, or leave enforceSchema out: columns are found by name then",
                file=file.path,
            )
        return names, {name: at for at, name in enumerate(target.names)} if names else {}

    def _head(self, file: FileStat) -> list[str | None] | None:
        with self.place.reading(file), self.place.stream(file) as stream, self._faults(file):
            record = self._dialect.head(chunks(stream, self.options.encoding))
            return None if record is None else self._dialect.split(record)

    def _texts(self, file: FileStat, width: int) -> Iterator[tuple[pa.Array, pa.RecordBatch, list[tuple[int, str]]]]:
        """Numbers and fields (as texts) of the records that have `width` fields, and the malformed ones."""
        with self.place.reading(file), self.place.stream(file) as stream, self._faults(file):
            skip = 1 if self.options.header else 0
            for records in self._dialect.records(chunks(stream, self.options.encoding), skip):
                yield self._parsed(records, width)

    def _parsed(self, records: Records, width: int) -> tuple[pa.Array, pa.RecordBatch, list[tuple[int, str]]]:
        from pyarrow import csv

        names = [str(at) for at in range(width)]
        rejected: list[tuple[int, str]] = []

        def reject(row: csv.InvalidRow) -> str:
            rejected.append((row.number - 1, row.text))
            return "skip"

        if records.text.strip(b"\n"):
            table = csv.read_csv(
                pa.BufferReader(records.text),
                csv.ReadOptions(column_names=names, use_threads=False, block_size=len(records.text) + 1),
                csv.ParseOptions(
                    delimiter=self.options.separator,
                    quote_char=self.options.quote or False,
                    newlines_in_values=self.options.multi_line,
                    invalid_row_handler=reject,
                ),
                csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=not self.options.null_value,
                ),
            )
        else:
            table = pa.schema([(name, pa.string()) for name in names]).empty_table()
        texts = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
        numbers, bad = _numbered(records, table.num_rows, rejected)
        return numbers, self._with_nulls(texts[0]), sorted([*records.malformed, *bad])

    def _with_nulls(self, texts: pa.RecordBatch) -> pa.RecordBatch:
        null = self.options.null_value
        if not null:
            return texts
        columns = [pc.if_else(pc.equal(column, null), pa.scalar(None, pa.string()), column) for column in texts.columns]
        return pa.RecordBatch.from_arrays(columns, schema=texts.schema)

    def _inferred(self, files: Sequence[FileStat], texts: pa.Schema) -> pa.Schema:
        """The narrowest types that every text of every file fits."""
        left = {name: list(_CANDIDATES) for name in texts.names}
        digits = dict.fromkeys(texts.names, 0)
        for file in files:
            for piece in self.pieces(file, texts):
                for name, column in piece.columns.items():
                    if column.null_count < len(column):
                        left[name] = [kind for kind in left[name] if _fits(column, kind, self.patterns)]
                        digits[name] = max(digits[name], _digits(column) if "decimal" in left[name] else 0)
        return pa.schema([(name, _narrowest(left[name], digits[name])) for name in texts.names])

    def _faults(self, file: FileStat) -> AbstractContextManager[None]:
        return text_faults(f"{self.who}: {self.place.uri(file.path)}", self.options.encoding)


def _numbered(records: Records, good: int, rejected: list[tuple[int, str]]) -> tuple[pa.Array, list[tuple[int, str]]]:
    """The record numbers of the rows that were parsed, and of those that were rejected."""
    total = good + len(rejected)
    numbers = records.numbers if records.numbers is not None else range(records.first, records.first + total)
    if not rejected:
        return pa.array(numbers, pa.int64()), []
    bad = {at for at, _ in rejected}
    kept = [number for at, number in enumerate(numbers) if at not in bad]
    return pa.array(kept, pa.int64()), [(numbers[at], text) for at, text in rejected]


def _texts_of(names: Sequence[str]) -> pa.Schema:
    return pa.schema([(check_name(name), pa.string()) for name in names])


def _places(count: int) -> list[str]:
    return [f"_c{at}" for at in range(count)]


def _headings(fields: Sequence[str | None], null: str) -> list[str]:
    """The names of a header: empty ones by their place, those that come twice with their place at the end."""
    lower = [(field or "").lower() for field in fields]
    return [
        f"_c{at}" if not field or field == null else f"{field}{at}" if lower.count(field.lower()) > 1 else field
        for at, field in enumerate(fields)
    ]


def _fits(column: pa.Array, kind: str, patterns: Patterns) -> bool:
    strict = _STRICT.get(kind)
    if strict and not pc.all(pc.match_substring_regex(column, strict.pattern)).as_py():
        return False
    return cast_texts(column, _TYPES[kind], patterns)[1] is None


def _digits(column: pa.Array) -> int:
    plain = pc.replace_substring_regex(column, r"^[+-]?0*", "")
    return int(pc.max(pc.utf8_length(plain)).as_py() or 1)


def _narrowest(left: list[str], digits: int) -> pa.DataType:
    if left == list(_CANDIDATES) or not left:
        return pa.string()
    return pa.decimal128(digits, 0) if left[0] == "decimal" else _TYPES[left[0]]
