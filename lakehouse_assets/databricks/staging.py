"""The files of launched steps in the workspace: DBFS of old workspaces, or a Unity Catalog volume.

What belongs here: writing, reading and deleting them. What does not: what is in them.
"""

from __future__ import annotations

import base64
import io
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

TEMPORARY = "temp"
"""The directory in a volume where steps stage rows: driver and workers must both see them."""
_BLOCK = 1 << 20
"""Bytes that the DBFS API takes, or gives, at a time."""


class Staging(ABC):
    """A directory in the workspace; paths are below it."""

    def __init__(self, client: WorkspaceClient, base: str) -> None:
        self._client, self.base = client, base

    @abstractmethod
    def on_cluster(self, path: str) -> str:
        """The path as the cluster's file system has it."""

    def as_file(self, path: str) -> str:
        """The path as the Jobs API wants it for a `spark_python_task`."""
        return f"{self.base}/{path}"

    def make(self, path: str) -> None:
        """Make a directory; nothing where writing a file makes it."""

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Write a file, replacing it."""

    @abstractmethod
    def get(self, path: str) -> bytes | None:
        """A file's bytes; `None` if there is none."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a directory with all that is in it; nothing if there is none."""

    @abstractmethod
    def directories(self, path: str = "") -> Iterator[tuple[str, float]]:
        """The directories in one, and when each was last changed, in seconds since 1970."""


class DbfsStaging(Staging):
    """In the DBFS root."""

    def on_cluster(self, path: str) -> str:
        return f"/dbfs{self.base}/{path}"

    def as_file(self, path: str) -> str:
        return f"dbfs:{self.base}/{path}"

    def put(self, path: str, data: bytes) -> None:
        handle = self._client.dbfs.create(f"{self.base}/{path}", overwrite=True).handle
        if handle is None:
            raise ValueError("DBFS gave no handle for a new file")
        for start in range(0, len(data), _BLOCK):
            self._client.dbfs.add_block(handle, base64.b64encode(data[start : start + _BLOCK]).decode())
        self._client.dbfs.close(handle)

    def get(self, path: str) -> bytes | None:
        from databricks.sdk.errors import NotFound

        found = bytearray()
        try:
            while True:
                block = self._client.dbfs.read(f"{self.base}/{path}", length=_BLOCK, offset=len(found))
                found += base64.b64decode(block.data or "")
                if (block.bytes_read or 0) < _BLOCK:
                    return bytes(found)
        except NotFound:
            return None

    def delete(self, path: str) -> None:
        self._client.dbfs.delete(f"{self.base}/{path}".rstrip("/"), recursive=True)

    def directories(self, path: str = "") -> Iterator[tuple[str, float]]:
        from databricks.sdk.errors import NotFound

        try:
            for entry in self._client.dbfs.list(f"{self.base}/{path}".rstrip("/")):
                if entry.is_dir and entry.path:
                    yield posixpath.basename(entry.path.rstrip("/")), (entry.modification_time or 0) / 1000
        except NotFound:
            return


class VolumeStaging(Staging):
    """In a Unity Catalog volume, through the Files API."""

    def on_cluster(self, path: str) -> str:
        return f"{self.base}/{path}"

    def make(self, path: str) -> None:
        self._client.files.create_directory(f"{self.base}/{path}")

    def put(self, path: str, data: bytes) -> None:
        self._client.files.upload(f"{self.base}/{path}", io.BytesIO(data), overwrite=True)

    def get(self, path: str) -> bytes | None:
        from databricks.sdk.errors import NotFound

        try:
            contents = self._client.files.download(f"{self.base}/{path}").contents
        except NotFound:
            return None
        if contents is None:
            return b""
        with contents:
            return contents.read()

    def delete(self, path: str) -> None:
        from databricks.sdk.errors import NotFound

        place = f"{self.base}/{path}".rstrip("/")
        try:
            for entry in list(self._client.files.list_directory_contents(place)):
                if entry.is_directory:
                    self.delete(posixpath.join(path, entry.name or ""))
                elif entry.path:
                    self._client.files.delete(entry.path)
            self._client.files.delete_directory(place)
        except NotFound:
            return

    def directories(self, path: str = "") -> Iterator[tuple[str, float]]:
        from databricks.sdk.errors import NotFound

        try:
            for entry in self._client.files.list_directory_contents(f"{self.base}/{path}".rstrip("/")):
                if entry.is_directory and entry.name:
                    yield entry.name.rstrip("/"), (entry.last_modified or 0) / 1000
        except NotFound:
            return
