"""Which files an entity's `source` means, and how they are opened: a directory, a file, a glob or `s3://…`.

What belongs here: file systems, listing, hidden files, globs, and what an operating system's error means.
What does not: what is in a file, and which files were read before.

Every file is known by its path relative to the source (`/` between the parts), its size and its time of
modification in nanoseconds (an object store: of seconds).

- Names that begin with `_` or `.`, names that end with `._COPYING_`, and all below such directories are hidden
  (`_key=value` directories are not); a file of 0 bytes holds no row yet and is left out.
- `key=value` directories are always looked into; other directories below the source only where the lookup is
  recursive.
- A glob has Hadoop's meaning: `*`, `?`, `[a-z]` and `{a,b}` match within one part of the path; a directory that
  matches is read like a source directory.
"""

from __future__ import annotations

import difflib
import errno
import fnmatch
import functools
import itertools
import os
import re
import stat
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from lakehouse_assets.errors import (
    LakehouseError,
    NotRunnable,
    SettingsError,
    SourceBusy,
    SourceMissing,
    SourceUnreadable,
    StoreFailed,
)

SETTLED_SECONDS = 1.0
"""A file that is younger than this is looked at twice before it is taken."""
_SETTLING_SECONDS = 0.1
_GLOB = re.compile(r"[*?\[{]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_PASSING = ("NETWORK_CONNECTION", "SLOW_DOWN", "THROTTLING", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE",
            "REQUEST_TIMEOUT", "curlCode", "timed out", "timeout")  # fmt: skip


class FileStat(NamedTuple):
    """A file as it was listed: its path under the source, bytes, nanoseconds since 1970."""

    path: str
    size: int
    mtime: int

    @classmethod
    def of(cls, entry: Sequence[Any]) -> Self:
        """The file that an entry of a position names."""
        return cls(str(entry[0]), int(entry[1]), int(entry[2]))

    def entry(self) -> list[Any]:
        """This file as an entry of a position."""
        return [self.path, self.size, self.mtime]


class Place:
    """Where the files of an entity stand.

    Args:
        source: a path, a `file:` or `s3://` URI, or a glob over these.
        recursive: look into directories that are not `key=value` too.
        name_glob: only files whose name matches (`pathGlobFilter`).
        who: the entity, for messages.
    """

    def __init__(self, source: str, *, recursive: bool, name_glob: str | None, who: str) -> None:
        self.source = source
        self.recursive = recursive
        self.who = who
        self._name_globs = [re.compile(fnmatch.translate(glob)) for glob in _braces(name_glob)] if name_glob else None
        self.filesystem, path = _filesystem(source, who)
        self._whole = path
        self._base: str | None = None
        self._patterns: list[list[re.Pattern[str]]] = []
        self._only: str | None = None

    def files(self, besides: Container[str] = ()) -> tuple[FileStat, ...]:
        """All files there are now, ordered by path.

        Args:
            besides: paths that are not asked for; a file system that tells names alone is not asked for more of them.

        Raises:
            SourceMissing: there is no such path.
            SourceUnreadable: it may not be read.
        """
        with self.errors():
            self._resolve()
            if self._only is not None:
                found = self._stats([self.filesystem.get_file_info(self._whole)])
                return tuple(file for file in found if file.path not in besides)
            return tuple(sorted(self._walk(str(self._base), (), besides)))

    def settled(self, files: Sequence[FileStat]) -> list[FileStat]:
        """Those of `files` that nobody writes to at this moment, as far as a second look can tell.

        An object store shows whole objects only, so there it is all of them.
        """
        if not isinstance(self.filesystem, fs.LocalFileSystem):
            return list(files)
        young = {file for file in files if abs(time.time() - file.mtime / 1e9) < SETTLED_SECONDS}
        if young:
            time.sleep(_SETTLING_SECONDS)
        return [file for file in files if file not in young or self.stat(file.path) == file]

    def stat(self, path: str) -> FileStat | None:
        """The file at `path` under the source as it is now; `None` where there is none."""
        return next(iter(self._stats([self._info(path)])), None)

    def uri(self, path: str) -> str:
        """Where the file stands, as the entity spells its source."""
        self._resolve()
        if self._only is not None:
            return self.source
        parts = self.source.rstrip("/").split("/")
        if self._patterns:
            parts = list(itertools.takewhile(lambda part: not _GLOB.search(part), parts))
        return "/".join([*parts, path])

    @contextmanager
    def reading(self, file: FileStat) -> Iterator[None]:
        """What goes wrong while `file` is read becomes an error that names it; so does its change meanwhile.

        Raises:
            SourceMissing: it vanished.
            SourceBusy: it changed since it was listed.
            SourceUnreadable: it may not be read, or is broken.
            StoreFailed: the object store failed.
        """
        try:
            with self.errors(file.path):
                yield
        except LakehouseError:
            self.check(file)
            raise
        self.check(file)

    def check(self, file: FileStat) -> None:
        """Make sure that `file` is there as it was listed."""
        info = self._info(file.path)
        if self._stats([info]) == (file,):
            return
        if info.type == fs.FileType.NotFound:
            raise SourceMissing(
                f"{self.who}: the file {self.uri(file.path)} is gone; it was listed and not read yet",
                fix="put it back; an empty file in its place gives its rows up",
                file=file.path,
            )
        raise SourceBusy(
            f"{self.who}: the file {self.uri(file.path)} changed since it was listed ({file.size} bytes "
            f"then, {info.size} now): somebody writes to it",
            fix="try again when it is complete; write new files under a name that begins with '_' and rename them",
            file=file.path,
        )

    def changed(self, file: FileStat) -> bool:
        """Whether `file` is there, and not as it was listed."""
        info = self._info(file.path)
        return info.type != fs.FileType.NotFound and self._stats([info]) != (file,)

    def stream(self, file: FileStat) -> pa.NativeFile:
        """The bytes of `file`, decompressed where its name says so (.gz, .bz2, .zst, .lz4)."""
        return self.filesystem.open_input_stream(self._full(file.path), compression="detect")

    def seekable(self, file: FileStat) -> pa.NativeFile:
        """The bytes of `file` for random access."""
        return self.filesystem.open_input_file(self._full(file.path))

    @contextmanager
    def errors(self, path: str | None = None) -> Iterator[None]:
        """The seam at which errors of file systems and formats become ours."""
        try:
            yield
        except LakehouseError:
            raise
        except (OSError, UnicodeError, pa.ArrowException) as error:
            raise self.fault(error, path) from error

    def fault(self, error: Exception, path: str | None) -> LakehouseError:
        """The error of ours that says what `error` means for the file at `path` (or for the source itself)."""
        name = self.source if path is None else self.uri(path)
        text = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        code = getattr(error, "errno", None)
        if code in (errno.EACCES, errno.EPERM) or "ACCESS_DENIED" in text or "Access Denied" in text:
            return SourceUnreadable(
                f"{self.who}: no permission to read {name}",
                fix="give this user read permission (and search permission on the directories above)",
                file=name,
            )
        if isinstance(self.filesystem, fs.S3FileSystem) and any(word in text for word in _PASSING):
            return StoreFailed(f"{self.who}: the object store failed for {name}: {text}", fix="try again")
        return SourceUnreadable(
            f"{self.who}: {name} cannot be read: {text}", fix="mend, replace or remove it", file=name
        )

    def _resolve(self) -> None:
        """Decide once what the source is: a file, a directory or a glob."""
        if self._base is not None:
            return
        info = self.filesystem.get_file_info(self._whole)
        if info.type == fs.FileType.NotFound and _GLOB.search(self._whole):
            self._resolve_glob()
        elif info.type == fs.FileType.Directory:
            self._base = self._whole
        elif info.type == fs.FileType.NotFound:
            raise self._missing(self._whole)
        else:
            parent, _, name = self._whole.rpartition("/")
            self._only, self._base = name, parent or "/"

    def _resolve_glob(self) -> None:
        parts = self._whole.split("/")
        fixed = list(itertools.takewhile(lambda part: not _GLOB.search(part), parts))
        base = "/".join(fixed) or "/"
        if self.filesystem.get_file_info(base).type != fs.FileType.Directory:
            raise self._missing(base)
        expanded = [pattern.split("/") for pattern in _braces("/".join(parts[len(fixed) :]))]
        self._patterns = [[re.compile(fnmatch.translate(part.replace("[^", "[!"))) for part in one] for one in expanded]
        self._base = base

    def _missing(self, path: str) -> SourceMissing:
        parent, name = path.rpartition("/")[::2]
        while parent and self.filesystem.get_file_info(parent).type != fs.FileType.Directory:
            parent, name = parent.rpartition("/")[::2]
        if not parent and isinstance(self.filesystem, fs.LocalFileSystem):
            parent = "/"
        others = sorted(info.base_name for info in self._children(parent)) if parent else []
        close = difflib.get_close_matches(name, others, n=3)
        near = [*close, *(other for other in others if other not in close)]
        shown = f"{parent or 'the store'} holds {len(near)} other entries"
        return SourceMissing(
            f"{self.who}: there is no file or directory at {self.source!r}; {shown}",
            value=name,
            choices=near[:20],
            fix="correct `source`, or create the directory (an empty one is legal)",
        )

    def _children(self, directory: str) -> list[fs.FileInfo]:
        return self.filesystem.get_file_info(fs.FileSelector(directory))

    def _walk(self, directory: str, parts: tuple[str, ...], besides: Container[str]) -> Iterator[FileStat]:
        above = "".join(f"{part}/" for part in parts)
        for name, is_directory, look in self._entries(directory):
            if _hidden(name) or not self._leads_on((*parts, name), is_directory):
                continue
            if is_directory:
                yield from self._walk(f"{directory.rstrip('/')}/{name}", (*parts, name), besides)
            elif (path := above + name) not in besides and (found := look()) is not None:
                yield FileStat(path, *found)

    def _entries(self, directory: str) -> Iterator[tuple[str, bool, Callable[[], tuple[int, int] | None]]]:
        """Names in a directory, whether each is one too, and how to learn size and time of a file that holds something.

        A local directory tells names at a tenth of what it takes to look at the files, and there may be very many.
        """
        if isinstance(self.filesystem, fs.LocalFileSystem):
            with os.scandir(directory) as entries:
                for entry in entries:
                    entry.name.encode()  # a name that is no text is refused
                    yield entry.name, entry.is_dir(), functools.partial(_look, entry)
            return
        for info in self._children(directory):
            seen = (info.size, info.mtime_ns or 0) if info.type == fs.FileType.File and info.size else None
            yield info.base_name, info.type == fs.FileType.Directory, functools.partial(_as_seen, seen)

    def _leads_on(self, parts: tuple[str, ...], is_directory: bool) -> bool:
        """Whether a path (relative to the base) is a file of the source, or a directory that may hold some."""
        is_file = not is_directory
        if is_file and self._name_globs and not any(glob.match(parts[-1]) for glob in self._name_globs):
            return False
        if not self._patterns:
            return self._is_open(parts if not is_file else parts[:-1])
        for pattern in self._patterns:
            depth = len(pattern)
            if not all(glob.match(part) for glob, part in zip(pattern, parts, strict=False)):
                continue
            if len(parts) <= depth:
                if len(parts) == depth or not is_file:
                    return True
            elif self._is_open(parts[depth:] if not is_file else parts[depth:-1]):
                return True
        return False

    def _is_open(self, directories: Sequence[str]) -> bool:
        return self.recursive or all("=" in name for name in directories)

    def _stats(self, infos: Sequence[fs.FileInfo]) -> tuple[FileStat, ...]:
        start = len(str(self._base).rstrip("/")) + 1
        return tuple(
            FileStat(info.path[start:], info.size, info.mtime_ns or 0)
            for info in infos
            if info.type == fs.FileType.File and info.size
        )

    def _info(self, path: str) -> fs.FileInfo:
        with self.errors(path):
            return self.filesystem.get_file_info(self._full(path))

    def _full(self, path: str) -> str:
        self._resolve()
        return f"{str(self._base).rstrip('/')}/{path}"


def partition_of(path: str) -> dict[str, str | None]:
    """The `key=value` directories of a path, in order; Hive's name for NULL becomes `None`."""
    pairs = [part.split("=", 1) for part in path.split("/")[:-1] if "=" in part]
    return {unquote(key): None if text == "__HIVE_DEFAULT_PARTITION__" else unquote(text) for key, text in pairs}


def _look(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    """Size and time of a file that is there and holds something."""
    try:
        found = entry.stat()
    except FileNotFoundError:  # it vanished, or is a link to nothing
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) and found.st_size else None


def _as_seen(seen: tuple[int, int] | None) -> tuple[int, int] | None:
    return seen


def _hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith("._COPYING_")


def _braces(glob: str) -> list[str]:
    """`a{b,c}` as `ab` and `ac`."""
    found = re.search(r"\{([^{}]*)\}", glob)
    if not found:
        return [glob]
    return [one for part in found[1].split(",") for one in _braces(glob[: found.start()] + part + glob[found.end() :])]


def _filesystem(source: str, who: str) -> tuple[fs.FileSystem, str]:
    scheme = _SCHEME.match(source)
    name = scheme[1].lower() if scheme else ""
    if name in ("s3", "s3a", "s3n"):
        parts = urlsplit(source)
        if "@" in parts.netloc:
            raise SettingsError(
                f"{who}: the source holds credentials", fix="take them out; the AWS_* variables provide them"
            )
        return _s3(os.environ), source.split("://", 1)[1].rstrip("/")
    if name == "file":
        return fs.LocalFileSystem(), os.path.abspath(unquote(urlsplit(source).path))
    if name:
        raise NotRunnable(f"{who}: no file system for {source!r}", value=name, choices=("a local path", "file", "s3"))
    return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(source))


def _s3(environ: Mapping[str, str]) -> fs.FileSystem:
    """The S3 of the `AWS_*` variables; keys come from the usual chain (variables, profile, role)."""
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    return fs.S3FileSystem(endpoint_override=endpoint or None, region=region or None, background_writes=False)
