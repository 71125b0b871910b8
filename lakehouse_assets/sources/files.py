"""Files: read as a whole when they change, or discovered one by one and read once.

What belongs here: what is new, which stream it is, what happened to files that were read; rows and misfits.
What does not: listing (`files_listing.py`), formats (`files_csv.py` and the like), options (`files_options.py`).

**Whole** (`csv`, `json`, `parquet`, `avro`, `orc`): the position is `{"fingerprint": …}` over path, size and time of
modification of every file; when it changes, everything is read again. Any content is this source's content, so it has
no incarnation to lose.

**Discovered** (`cloudFiles`): the position of a plan is `{"files": [[path, size, mtime], …], "count": n, "before":
[…]}`: the files that this batch adds, in the order in which they are read (oldest first), how many the stream had
then, and up to 8 files that were read before. A file is known by its path: one that comes late with an old date is
found, one that is rewritten is not read again but reported by `audit`, as is one that vanished.

Its incarnation is the manifest of these files, judged by what is there now: the stream is another one when two or more
of them are there under their paths and every one of those has another size. Files that are gone say nothing (a
retention job may empty the directory), one rewritten file says nothing (writers rewrite files), and another time
says nothing (copying a directory changes it); all of that is reported.

Every row's `_source` is its file as the entity spells it, `_position` is `path#number`: the number of the row in its
file, from 0, malformed rows counted.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from lakehouse_assets.errors import SourceBusy, SourceError, SourceMissing
from lakehouse_assets.sources.base import Batch, Notice, Past, Position, Source
from lakehouse_assets.sources.files_formats import Format, open_format
from lakehouse_assets.sources.files_listing import FileStat, Place
from lakehouse_assets.sources.files_options import FileOptions, file_options
from lakehouse_assets.sources.files_partitions import partition_columns
from lakehouse_assets.sources.files_rows import Columns, Layout
from lakehouse_assets.sources.files_types import declared_type
from lakehouse_assets.sql.types import arrow_schema

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import Entity

_KEPT_BEFORE = 8
_SHOWN = 5


class _Files(Source):
    """What both kinds share: options, place, format, columns, rows."""

    def __init__(self, entity: Entity) -> None:
        super().__init__(entity)
        self.options: FileOptions = file_options(entity)
        self._declared = arrow_schema(entity.source_schema) if entity.source_schema else None
        self._opened: tuple[Place, Format] | None = None
        self._known: Columns | None = None
        self._learned: tuple[tuple[FileStat, ...], Columns] | None = None

    @property
    def place(self) -> Place:
        """Where the files stand."""
        return self._open()[0]

    def schema(self) -> pa.Schema:
        """The columns of all files that are there now; batches that this source reads afterwards have exactly these.

        Raises:
            SourceMissing: there is no file to learn them from, and none are declared.
        """
        if self._known is None:
            self._known = self._columns(self.place.files())
        return self._known.schema

    def columns(self, start: Position, end: Position) -> pa.Schema:
        """The columns of a closed range: of its own files only, the same at every call whatever came since.

        Raises:
            SourceMissing: its files hold no columns, and none are declared.
        """
        return self._columns(self._range(start, end)).schema

    def read(self, start: Position, end: Position) -> Iterator[Batch]:
        """The rows of the files between two positions.

        Raises:
            SourceBusy: a file changed since the position was taken.
            SourceMissing: a file of the range is gone.
            SourceUnreadable: a file is broken, or may not be read.
        """
        files = self._range(start, end)
        if not files:
            return
        layout = Layout(self.place, self.options, self._format, self._known or self._columns(files))
        for file in files:
            yield from layout.batches(file)
        self._finish(end)

    def describe(self) -> dict[str, Any]:
        """Kind, format, location, number and size of the files, the newest, and the zone of times without one."""
        files = self.place.files()
        newest = max(files, key=lambda file: (file.mtime, file.path), default=None)
        return {
            "kind": "files",
            "format": self.options.format,
            "location": self.entity.source,
            "files": len(files),
            "bytes": sum(file.size for file in files),
            "newest": self.place.uri(newest.path) if newest else None,
            "source_timezone": f"{self.options.zone}{' (default)' if self.options.zone_is_default else ''}",
        }

    def close(self) -> None:
        """Forget what was opened; files are open only while they are read."""
        self._opened = None
        self._known = None
        self._learned = None

    @abstractmethod
    def _range(self, start: Position, end: Position) -> Sequence[FileStat]:
        """The files of a closed range, in the order in which they are read."""

    def _finish(self, end: Position) -> None:
        """Called when a range was read to its end."""

    @property
    def _format(self) -> Format:
        return self._open()[1]

    def _open(self) -> tuple[Place, Format]:
        if self._opened is None:
            recursive = self.options.recursive
            place = Place(
                self.entity.source,
                recursive=self.incremental if recursive is None else recursive,
                name_glob=self.options.path_glob_filter,
                who=self.entity.destination,
            )
            declared = self._declared is not None
            self._opened = place, open_format(place, self.options, declared=declared, who=self.entity.destination)
        return self._opened

    def _columns(self, files: Sequence[FileStat]) -> Columns:
        if self._learned is None or self._learned[0] != tuple(files):
            self._learned = tuple(files), self._learn(files)
        return self._learned[1]

    def _learn(self, files: Sequence[FileStat]) -> Columns:
        in_paths = pa.schema([]) if self.options.recursive else partition_columns(files)
        keys = {name.lower() for name in in_paths.names}
        if self._declared is None:
            found = [column for column in self._format.learn(files) if column.name.lower() not in keys]
        else:
            found = [pa.field(column.name, declared_type(column.type)) for column in self._declared]
        if not found:
            raise SourceMissing(
                f"{self.entity.destination}: there is no file with columns at {self.entity.source!r} to learn the "
                "columns from",
                fix="wait for the first file, or declare the columns in source_schema",
            )
        known = {column.name.lower() for column in found}
        schema = pa.schema([*found, *(column for column in in_paths if column.name.lower() not in known)])
        return Columns(schema, frozenset(name for name in schema.names if name.lower() in keys))


class WholeFiles(_Files):
    """Files that are read as a whole whenever one of them changes."""

    incremental: ClassVar[bool] = False

    def earliest(self) -> Position:
        """The position of no files at all."""
        return _fingerprint(())

    def latest(self, past: Past) -> Position:
        """The fingerprint of the files that are there now."""
        return _fingerprint(self.place.files())

    def incarnation(self, position: Position) -> str:
        """Always the same: a source that is read as a whole may change as it likes."""
        return "whole"

    def holds(self, start: Position, end: Position) -> bool:
        """Whether the files still are those of `end`: `read` cannot give its rows where they are not."""
        return self.latest(Past()) == end

    def _range(self, start: Position, end: Position) -> Sequence[FileStat]:
        if end == start:
            return ()
        files = self.place.files()
        self._compare(end, files)
        return files

    def _finish(self, end: Position) -> None:
        self._compare(end, self.place.files())

    def _compare(self, end: Position, files: Sequence[FileStat]) -> None:
        if _fingerprint(files) != end:
            raise SourceBusy(
                f"{self.entity.destination}: the files at {self.entity.source!r} are not those that were to be read: "
                "one came, went or changed",
                fix="try again: the plan is made anew for the files that are there then",
            )


class DiscoveredFiles(_Files):
    """Files that are read once each, in the order in which they are discovered."""

    incremental: ClassVar[bool] = True

    def earliest(self) -> Position:
        """Before the first file."""
        return {"files": [], "count": 0, "before": []}

    def latest(self, past: Past) -> Position:
        """The files that no earlier plan has, at most `cloudFiles.maxFilesPerTrigger` of them, oldest first."""
        known: set[str] = set()
        before: list[Any] = []
        for position in past.positions():
            known.update(entry[0] for entry in position["files"])
            before = [*before, *position["files"]][-_KEPT_BEFORE:]
        found = sorted(self.place.files(known), key=lambda file: (file.mtime, file.path))
        fresh = self.place.settled(found[: self.options.max_files])
        last = past.last or self.earliest()
        if not fresh:
            return last
        return {"files": [file.entry() for file in fresh], "count": last["count"] + len(fresh), "before": before}

    def more(self, past: Past, end: Position) -> bool:
        """Whether the batch is full."""
        return len(end["files"]) >= self.options.max_files

    def incarnation(self, position: Position) -> str:
        """A hash of the manifest at `position`, or of what is there in its place where that is another stream."""
        recorded = [FileStat.of(entry) for entry in (*position["before"], *position["files"])]
        if not recorded:
            return "empty"
        there = [now for file in recorded if (now := self.place.stat(file.path))]
        sizes = {file.path: file.size for file in recorded}
        if len(there) >= 2 and all(now.size != sizes[now.path] for now in there):
            recorded = there
        return hashlib.sha256(json.dumps([[file.path, file.size] for file in recorded]).encode()).hexdigest()

    def audit(self, past: Past) -> list[Notice]:
        """Files that were read and are rewritten or gone, declared columns that the newest file lacks, idle options."""
        now = {file.path: file for file in self.place.files()}
        read = [FileStat.of(entry) for position in past.positions() for entry in position["files"]]
        table = self.entity.destination
        rewritten = [file.path for file in read if file.path in now and now[file.path] != file]
        gone = [file.path for file in read if file.path not in now]
        found = []
        if rewritten:
            found.append(Notice("file_rewritten", _told(rewritten, f"{table}: rewritten after it was read, and not "
                "read again", f"lakehouse run --full-refresh {table}")))  # fmt: skip
        if gone:
            found.append(Notice("file_vanished", _told(gone, f"{table}: gone after it was read; its rows stay",
                f"nothing, where a retention job removed it; a rebuild of {table} would lose its rows")))  # fmt: skip
        return [*found, *self._missing_columns(read, now), *self._idle_options()]

    def holds(self, start: Position, end: Position) -> bool:
        """Whether no file of the range was rewritten since: `read` cannot give its rows where one was."""
        return not any(self.place.changed(FileStat.of(entry)) for entry in end["files"])

    def _range(self, start: Position, end: Position) -> Sequence[FileStat]:
        if end == start:
            return ()
        files = [FileStat.of(entry) for entry in end["files"]]
        if start["count"] + len(files) != end["count"]:
            raise SourceError(
                f"{self.entity.destination}: files are read plan by plan: the range from file {start['count']} to "
                f"file {end['count']} is not one plan of {len(files)} files",
                fix="read each recorded plan by itself",
            )
        return files

    def _missing_columns(self, read: Sequence[FileStat], now: dict[str, FileStat]) -> list[Notice]:
        newest = next((file for file in reversed(read) if now.get(file.path) == file), None)
        if self._declared is None or newest is None:
            return []
        names = {name.lower() for name in self._format.names(newest)}
        in_paths = {name.lower() for name in partition_columns([newest]).names}
        lacking = [name for name in self._declared.names if name.lower() not in names | in_paths]
        if not names or not lacking or self.options.enforce_schema or self._by_place:
            return []
        where = f"{self.entity.destination}: {self.place.uri(newest.path)}"
        text = f"{where} lacks the declared columns {', '.join(lacking)}: they are NULL there"
        return [Notice("column_missing", text)]

    @property
    def _by_place(self) -> bool:
        return self.options.format == "csv" and not self.options.header

    def _idle_options(self) -> list[Notice]:
        text = f"{self.entity.destination}: the option has no meaning here and may be left out: "
        return [Notice("option_unneeded", text + name) for name in self.options.unneeded]


def _fingerprint(files: Sequence[FileStat]) -> Position:
    text = json.dumps([file.entry() for file in files], separators=(",", ":"))
    return {"fingerprint": hashlib.sha256(text.encode()).hexdigest()}


def _told(paths: Sequence[str], what: str, remedy: str) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{what}: {', '.join(paths[:_SHOWN])}{more}; next: {remedy}"
