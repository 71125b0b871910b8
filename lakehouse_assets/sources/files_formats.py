"""What a file format must do, and what the formats share: pieces of a file, already in the columns of the table.

What belongs here: the abstract base, the registry of formats, finding a declared column in a file.
What does not: any one format.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lakehouse_assets.errors import SourceUnreadable
from lakehouse_assets.sources.files_casts import cast_values, python_value
from lakehouse_assets.sources.files_listing import FileStat, Place
from lakehouse_assets.sources.files_options import FileOptions
from lakehouse_assets.sources.files_texts import Patterns
from lakehouse_assets.sources.files_types import columns_of, united
from lakehouse_assets.sql.types import spark_type


@dataclass(frozen=True)
class Piece:
    """Some rows of one file.

    Attributes:
        numbers: the number of each row in the file, from 0; malformed rows are counted too.
        columns: the table's columns that the file can give, each as long as `numbers`.
        failed: for some columns, which rows hold a value that does not fit.
        received: row (place in `numbers`) to the values as received, by the file's own names.
        malformed: number and text of the rows that are no rows.
    """

    numbers: pa.Array
    columns: Mapping[str, pa.Array]
    failed: Mapping[str, pa.Array]
    received: Callable[[int], Mapping[str, Any]]
    malformed: Sequence[tuple[int, str]] = field(default=())


class Format(ABC):
    """A reader of one format.

    Args:
        declared: whether the columns are declared (`source_schema`) and not learned.
        who: the entity, for messages.
    """

    def __init__(self, place: Place, options: FileOptions, *, declared: bool, who: str) -> None:
        self.place = place
        self.options = options
        self.declared = declared
        self.who = who
        self.patterns = Patterns.of(options.date_format, options.timestamp_format, options.zone)

    @abstractmethod
    def learn(self, files: Sequence[FileStat]) -> pa.Schema:
        """The columns of these files, whatever is declared; none where no file has any."""

    @abstractmethod
    def pieces(self, file: FileStat, target: pa.Schema) -> Iterator[Piece]:
        """The rows of a file, in order and in bounded memory; a column that the file lacks may be left out."""

    def names(self, file: FileStat) -> list[str]:
        """The names of the columns that the file itself declares; none where its rows name their values."""
        return []


class TypedFormat(Format):
    """A format whose files know their columns and types."""

    @abstractmethod
    def own_schema(self, file: FileStat) -> pa.Schema:
        """The columns of a file in its own types."""

    @abstractmethod
    def batches(self, file: FileStat) -> Iterator[pa.RecordBatch]:
        """The rows of a file in its own types, in bounded memory."""

    def learn(self, files: Sequence[FileStat]) -> pa.Schema:
        """The columns of all files, united by name and widened."""
        return united(((self.place.uri(file.path), columns_of(self.own_schema(file))) for file in files), self.who)

    def names(self, file: FileStat) -> list[str]:
        """The names of the file's columns."""
        return list(self.own_schema(file).names)

    def pieces(self, file: FileStat, target: pa.Schema) -> Iterator[Piece]:
        """The rows of the file, each column cast to the table's."""
        first = 0
        for batch in self.batches(file):
            numbers = pa.array(range(first, first + batch.num_rows), pa.int64())
            first += batch.num_rows
            wanted = matched(batch.schema.names, target, self.place.uri(file.path), self.who)
            yield self._piece(batch, numbers, wanted, target, file)

    def _piece(
        self, batch: pa.RecordBatch, numbers: pa.Array, wanted: Mapping[str, int], target: pa.Schema, file: FileStat
    ) -> Piece:
        columns, failed = {}, {}
        for name, at in wanted.items():
            to = target.field(name).type
            try:
                columns[name], mask = cast_values(batch.column(at), to, self.patterns)
            except LookupError:
                raise self._mismatch(name, batch.schema.field(at), to, file) from None
            if mask is not None:
                failed[name] = mask
        return Piece(numbers, columns, failed, lambda row: _received(batch, row))

    def _mismatch(self, name: str, own: pa.Field, to: pa.DataType, file: FileStat) -> SourceUnreadable:
        return SourceUnreadable(
            f"{self.who}: the column {name!r} is {own.type} in {self.place.uri(file.path)}; "
            f"it cannot be read as {spark_type(to)}",
            fix="correct its type in source_schema, or mend the file",
            file=file.path,
            column=name,
        )


def _received(batch: pa.RecordBatch, row: int) -> dict[str, Any]:
    return {name: _value(batch.column(at)[row]) for at, name in enumerate(batch.schema.names)}


def _value(scalar: pa.Scalar) -> Any:
    try:
        return python_value(scalar)
    except ValueError:  # a part below the microsecond has no Python value
        if isinstance(scalar, pa.StructScalar):
            return {name: _value(scalar[name]) for name in scalar}
        if isinstance(scalar, pa.MapScalar):
            return {str(_value(pair["key"])): _value(pair["value"]) for pair in scalar.values}
        if isinstance(scalar, pa.ListScalar):
            return [_value(item) for item in scalar.values]
        return scalar.cast(pa.string()).as_py()


def matched(names: Sequence[str], target: pa.Schema, file: str, who: str) -> dict[str, int]:
    """Where the table's columns stand in a file: by exact name, else by a name that differs in case only.

    Raises:
        SourceUnreadable: the file has columns, and none of them is in the table; or a name is ambiguous.
    """
    found: dict[str, int] = {}
    for column in target.names:
        exact = [at for at, name in enumerate(names) if name == column]
        near = exact or [at for at, name in enumerate(names) if name.lower() == column.lower()]
        if len(near) > 1:
            raise SourceUnreadable(
                f"{who}: {file} has several columns that could be {column!r}: {[names[at] for at in near]}",
                fix="rename one of them in the file",
                file=file,
            )
        if near:
            found[column] = near[0]
    if names and target.names and not found:
        raise SourceUnreadable(
            f"{who}: {file} has none of the declared columns ({', '.join(target.names)})",
            value=", ".join(names[:20]),
            choices=target.names,
            fix="correct source_schema; for csv see the options header and sep",
            file=file,
        )
    return found


_FORMATS = {
    "csv": "files_csv:CsvFormat",
    "json": "files_json:JsonFormat",
    "parquet": "files_columnar:ParquetFormat",
    "orc": "files_columnar:OrcFormat",
    "avro": "files_avro:AvroFormat",
}


def open_format(place: Place, options: FileOptions, *, declared: bool, who: str) -> Format:
    """The reader of `options.format`."""
    module, name = _FORMATS[options.format].split(":")
    found = getattr(importlib.import_module(f"lakehouse_assets.sources.{module}"), name)
    return found(place, options, declared=declared, who=who)
