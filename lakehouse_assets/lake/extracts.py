"""Parquet extracts: one file for each partition of a table of the outside world, replaced as a whole.

    <table>/date=2024-01-02/trade.parquet     its footer says how many rows it has, their checksum, and what the
                                              source was like when it was read

A file is its own record: it appears under its name when all of it is there, so a process that dies leaves the old one.
What belongs here: writing, finding and reading these files. What does not: what is extracted, and when.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from lakehouse_assets.errors import LakeError, SourceBusy
from lakehouse_assets.lake.storage import Storage, first_line, is_local, store_faults

FOOTER = b"lakehouse.extract"
"""The key of the footer's metadata under which a JSON object says what the file is."""
GROUP_ROWS = 250_000
"""Rows of a row group: what is held in memory while a partition is written."""
UNFINISHED = "_unfinished-"
"""What the name of a file begins with while it is written; readers of Parquet pass over such names."""
ABANDONED_SECONDS = 86_400
"""How old an unfinished file is that nobody writes any more."""
_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,100}")


@dataclass(frozen=True)
class Extract:
    """One partition as a file.

    Attributes:
        key: the partition, such as `2024-01-02`.
        path: of the file, in the file system of its storage.
        rows: how many it has.
        checksum: of the rows, in their order, whatever row groups they stand in.
        fingerprint: what the source said about the partition when it was read.
        schema: the columns; the partition's own column is not among them.
    """

    key: str
    path: str
    rows: int
    checksum: str
    fingerprint: str
    schema: pa.Schema
    bytes: int = 0


class Extracts:
    """The extracts of one table.

    Args:
        uri: the table's directory.
        column: the partition column, which names the directories.
    """

    def __init__(self, storage: Storage, uri: str, column: str) -> None:
        self.uri, self.column = uri, column
        self._fs, self._root = storage.filesystem(uri)
        self._table = uri.rstrip("/").rsplit("/", 1)[-1]

    def partitions(self) -> list[str]:
        """The partitions that are there, in order."""
        with store_faults(self.uri, LakeError):
            found = self._fs.get_file_info(pafs.FileSelector(self._root, allow_not_found=True, recursive=True))
        prefix, name = f"{self.column}=", f"{self._table}.parquet"
        files = [info.path.split("/") for info in found if info.type == pafs.FileType.File]
        found = (p[-2].removeprefix(prefix) for p in files if p[-1] == name and p[-2].startswith(prefix))
        return sorted(key for key in found if _is_day(key))

    def find(self, key: str) -> Extract | None:
        """The extract of a partition; `None` if there is none, or only what is left of a damaged one.

        Raises:
            LakeError: a file is there that this project did not write.
        """
        import pyarrow.parquet as pq

        path = self._path(key)
        with store_faults(self.uri, LakeError):
            info = self._fs.get_file_info(path)
            if info.type == pafs.FileType.NotFound:
                return None
            with self._fs.open_input_file(path) as source:
                try:
                    found = pq.ParquetFile(source)
                except (pa.ArrowInvalid, OSError):
                    return None
                said = (found.metadata.metadata or {}).get(FOOTER)
                schema = found.schema_arrow
        facts = json.loads(said or b"{}")
        if facts.get("partition") != key or not facts.keys() >= {"rows", "checksum", "fingerprint"}:
            raise LakeError(
                f"the file {path} is no extract of {key} by this project: its footer does not say so",
                fix="move it away, and run again",
            )
        named = {field.name: field.metadata for field in schema}
        plain = pa.schema([field.with_metadata(named[field.name]) for field in schema])
        return Extract(key, path, facts["rows"], facts["checksum"], facts["fingerprint"], plain, info.size)

    def read(self, extract: Extract) -> pa.RecordBatchReader:
        """The rows of an extract, in bounded memory; the file must not be replaced meanwhile.

        Raises:
            SourceBusy: it was replaced since it was found.
        """
        return pa.RecordBatchReader.from_batches(extract.schema, self._batches(extract))

    def _batches(self, extract: Extract) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        with store_faults(self.uri, LakeError), self._fs.open_input_file(extract.path) as source:
            found = pq.ParquetFile(source, page_checksum_verification=True)
            said = json.loads((found.metadata.metadata or {}).get(FOOTER, b"{}"))
            if said.get("checksum") != extract.checksum:
                raise SourceBusy(f"the extract {extract.path} was replaced while it was read", fix="run again")
            try:
                for batch in found.iter_batches(batch_size=GROUP_ROWS):
                    yield pa.RecordBatch.from_arrays(batch.columns, schema=extract.schema)
            except (OSError, pa.ArrowInvalid) as error:
                raise LakeError(
                    f"the extract {extract.path} is damaged: {first_line(error)}",
                    fix=f"remove it, and extract the day again: lakehouse run … --partition {extract.key}",
                ) from error

    def write(self, key: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], fingerprint: str) -> Extract:
        """Put rows in the place of a partition's; until all of them are written, the old ones stand.

        Args:
            fingerprint: what the source says about the partition.
        """
        import pyarrow.parquet as pq

        path, rows, checksum = self._path(key), 0, Checksum(schema)
        with store_faults(self.uri, LakeError), self._unfinished(path) as written:
            with pq.ParquetWriter(written, schema, compression="snappy", write_page_checksum=True) as writer:
                for batch in batches:
                    rows += batch.num_rows
                    checksum.add(batch)
                    writer.write_batch(batch, row_group_size=GROUP_ROWS)
                said = {"rows": rows, "checksum": checksum.text(), "fingerprint": fingerprint, "partition": key}
                writer.add_key_value_metadata({FOOTER.decode(): json.dumps(said)})
            size = os.path.getsize(written)
            self._put(written, path)
        return Extract(key, path, rows, checksum.text(), fingerprint, schema, size)

    @contextlib.contextmanager
    def _unfinished(self, path: str) -> Iterator[str]:
        """A file of this machine, gone afterwards unless it was given its name; beside its place where that is here."""
        directory = path.rsplit("/", 1)[0]
        self._fs.create_dir(directory)
        place = directory if is_local(self.uri) else tempfile.gettempdir()
        for left in Path(place).glob(f"{UNFINISHED}*"):  # by a process that was killed
            with contextlib.suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                    left.unlink()
        written = f"{place}/{UNFINISHED}{uuid.uuid4().hex}.parquet"
        try:
            yield written
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(written)

    def _put(self, written: str, path: str) -> None:
        """Give a finished file its name; a store of objects shows one when all of it has arrived."""
        if not is_local(self.uri):
            here = pafs.LocalFileSystem()
            try:
                pafs.copy_files(written, path, source_filesystem=here, destination_filesystem=self._fs)
            except BaseException:
                self._remove_torn(path)
                raise
            return
        with open(written, "rb") as file:
            os.fsync(file.fileno())
        os.replace(written, path)
        directory = os.open(path.rsplit("/", 1)[0], os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _remove_torn(self, path: str) -> None:
        """Remove what an upload left that failed: Arrow completes one of several parts with the parts that arrived."""
        import pyarrow.parquet as pq

        with contextlib.suppress(OSError):
            try:
                with self._fs.open_input_file(path) as source:
                    pq.ParquetFile(source)
            except pa.ArrowInvalid:
                self._fs.delete_file(path)

    def _path(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise LakeError(f"{key!r} cannot name a partition", value=key, fix="use a date such as 2024-01-31")
        return f"{self._root}/{self.column}={key}/{self._table}.parquet"


class Checksum:
    """A checksum of rows in their order that does not depend on how they are cut into batches: sha256 over columns."""

    def __init__(self, schema: pa.Schema) -> None:
        self._columns = [_Column(field.name, field.type) for field in schema]

    def add(self, rows: pa.RecordBatch) -> None:
        """Take the next rows."""
        for column, values in zip(self._columns, rows.columns, strict=True):
            column.add(values)

    def text(self) -> str:
        """What the checksum is now."""
        return _digest(column.digest() for column in self._columns)


class _Column:
    """What was seen of a column: which values are there, how long they are, and what they hold."""

    def __init__(self, name: str, kind: pa.DataType) -> None:
        self._name = f"{name}:{kind}"
        self._there, self._values, self._texts = (hashlib.sha256() for _ in range(3))
        nested = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        self._inner = _Column("", kind.value_type) if nested else None

    def add(self, values: pa.Array) -> None:
        if not len(values):
            return
        self._there.update(_bytes(values.is_valid()))
        if self._inner is not None:
            self._values.update(_bytes(pc.list_value_length(values).fill_null(-1).cast(pa.int64())))
            self._inner.add(values.flatten())
        elif pa.types.is_string(values.type) or pa.types.is_binary(values.type):
            self._values.update(_bytes(pc.binary_length(values).fill_null(-1).cast(pa.int64())))
            self._texts.update(_joined(values))
        else:
            self._values.update(_plain(values))

    def digest(self) -> str:
        inner = self._inner.digest() if self._inner else ""
        return _digest([self._name, *(part.hexdigest() for part in (self._there, self._values, self._texts)), inner])


def _is_day(key: str) -> bool:
    """Whether a key is a date as this project writes it."""
    try:
        return date.fromisoformat(key).isoformat() == key
    except ValueError:
        return False


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _joined(values: pa.Array) -> memoryview:
    """The bytes of all texts, one after the other."""
    filled = values.fill_null("" if pa.types.is_string(values.type) else b"") if values.null_count else values
    _, offsets, content = filled.buffers()
    ends = (
        np.frombuffer(offsets, np.int32, len(filled) + 1, filled.offset * 4) if len(filled) else np.zeros(1, np.int32)
    )
    return memoryview(content)[int(ends[0]) : int(ends[-1])] if content is not None else memoryview(b"")


def _plain(values: pa.Array) -> memoryview:
    """The bytes of values of a fixed width, NULL as zero."""
    if pa.types.is_boolean(values.type):
        return _bytes(values.fill_null(False))
    if pa.types.is_temporal(values.type):
        values = values.view(pa.int32() if values.type.bit_width == 32 else pa.int64())
    return _bytes(values.fill_null(0))


def _bytes(values: pa.Array) -> memoryview:
    return np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).data.cast("B")
