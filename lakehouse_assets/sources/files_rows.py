"""Pieces of files as batches of a source: rows that fit, and misfits with everything that was received.

What belongs here: putting columns of files and of paths side by side, and taking apart what fits and what does not.
What does not: formats and casts.

A misfit's `_upstream` holds every value of the row as received (as text), the path's included; of a malformed row it
holds the text under `_raw`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.errors import SourceUnreadable
from lakehouse_assets.sources.base import MISFIT_SCHEMA, ROW_FIELDS, Batch
from lakehouse_assets.sources.files_formats import Format, Piece
from lakehouse_assets.sources.files_listing import FileStat, Place, partition_of
from lakehouse_assets.sources.files_options import FileOptions
from lakehouse_assets.sources.files_partitions import partition_values
from lakehouse_assets.sources.files_values import received


@dataclass(frozen=True)
class Columns:
    """The columns of some files: all of them, and the names of those that stand in paths."""

    schema: pa.Schema
    in_paths: frozenset[str]


class Layout:
    """How the pieces of files become batches with the same columns."""

    def __init__(self, place: Place, options: FileOptions, reader: Format, columns: Columns) -> None:
        self.place = place
        self.options = options
        self.reader = reader
        self.schema = columns.schema
        self.row_schema = pa.schema([*columns.schema, *ROW_FIELDS])
        self.in_paths = {column.name: column.type for column in columns.schema if column.name in columns.in_paths}
        self.in_files = pa.schema([column for column in columns.schema if column.name not in columns.in_paths])

    def batches(self, file: FileStat) -> Iterator[Batch]:
        """The rows of one file.

        Raises:
            SourceUnreadable: a row does not fit and the mode is FAILFAST.
        """
        named = partition_of(file.path) if self.in_paths else {}
        constants, unfit = partition_values(named, self.in_paths, self.reader.patterns)
        for piece in self.reader.pieces(file, self.in_files):
            yield self._batch(piece, file, constants, unfit, named)

    def _batch(
        self,
        piece: Piece,
        file: FileStat,
        constants: dict[str, pa.Scalar],
        unfit: set[str],
        named: dict[str, str | None],
    ) -> Batch:
        size = len(piece.numbers)
        columns = []
        for column in self.schema:
            if column.name in constants:
                columns.append(pa.repeat(constants[column.name], size))
            else:
                found = piece.columns.get(column.name)
                columns.append(pa.nulls(size, column.type) if found is None else found)
        positions = pc.binary_join_element_wise(file.path, piece.numbers.cast(pa.string()), "#")
        sources = pa.repeat(pa.scalar(self.place.uri(file.path), pa.string()), size)
        rows = pa.RecordBatch.from_arrays([*columns, positions, sources], schema=self.row_schema)
        broken = self._broken(piece, unfit)
        if broken is None and not piece.malformed:
            return Batch(rows)
        misfits = self._misfits(piece, file, broken, unfit, named)
        if broken is None:
            return Batch(rows, misfits)
        return Batch(rows.filter(pc.invert(broken)), misfits, rows.filter(broken))

    def _broken(self, piece: Piece, unfit: set[str]) -> pa.Array | None:
        """Which rows do not fit, for whatever reason."""
        if unfit:
            return pa.repeat(True, len(piece.numbers))
        masks = list(piece.failed.values())
        if not masks:
            return None
        mask = masks[0]
        for other in masks[1:]:
            mask = pc.or_(mask, other)
        return mask

    def _misfits(
        self, piece: Piece, file: FileStat, broken: pa.Array | None, unfit: set[str], named: dict[str, str | None]
    ) -> pa.RecordBatch:
        found: list[tuple[int, list[str], dict[str, str | None]]]
        found = [(number, ["malformed_row"], {"_raw": text}) for number, text in piece.malformed]
        at = pc.indices_nonzero(broken).to_pylist() if broken is not None else []
        for row in at:
            reasons = [f"cast_failed:{name}" for name in self._names(piece, row, unfit)]
            upstream: dict[str, str | None] = {name: received(value) for name, value in piece.received(row).items()}
            found.append((piece.numbers[row].as_py(), reasons, {**upstream, **named}))
        found.sort(key=lambda one: one[0])
        source = self.place.uri(file.path)
        if self.options.mode == "FAILFAST":
            number, reasons, upstream = found[0]
            raise SourceUnreadable(
                f"{self.reader.who}: row {number} of {source} does not fit ({', '.join(reasons)}) and the mode is "
                f"FAILFAST: {json.dumps(upstream, ensure_ascii=False)[:300]}",
                fix="mend the file, or use mode PERMISSIVE: such rows go to quarantine",
                file=file.path,
            )
        return pa.RecordBatch.from_pylist(
            [
                {
                    "_upstream": json.dumps(upstream, ensure_ascii=False),
                    "_reasons": reasons,
                    "_position": f"{file.path}#{number}",
                    "_source": source,
                }
                for number, reasons, upstream in found
            ],
            schema=MISFIT_SCHEMA,
        )

    def _names(self, piece: Piece, row: int, unfit: set[str]) -> list[str]:
        """The columns that a row does not fit, in the order of the table."""
        return [
            column.name
            for column in self.schema
            if column.name in unfit or (column.name in piece.failed and piece.failed[column.name][row].as_py())
        ]
