"""Scratch lakes: made, copied and removed, on a disk or in an object store.

What belongs here: whole lakes as files. What does not: what is in them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from lakehouse_assets.errors import LakeError
from lakehouse_assets.lake.storage import Storage, is_local, local_path, normalize, store_faults


class Scratch:
    """A directory or URI below which lakes stand by name; everything in it is removed in the end.

    Args:
        root: it is this process's alone.
    """

    def __init__(self, root: str, storage: Storage) -> None:
        self.root = normalize(root)
        self._storage = storage

    def lake(self, name: str) -> str:
        """The root of a lake."""
        return f"{self.root}/{name}"

    def copy(self, name: str, to: str) -> None:
        """Copy a lake, if it is there; data files, which nobody ever rewrites, are linked where they can be."""
        source, target = self.lake(name), self.lake(to)
        if is_local(source):
            if Path(local_path(source)).is_dir():
                shutil.copytree(local_path(source), local_path(target), copy_function=_linked)
            return
        from pyarrow.fs import FileSelector, copy_files

        fs, path = self._storage.filesystem(source)
        with store_faults(source, LakeError):
            if fs.get_file_info(FileSelector(path, allow_not_found=True)):
                copy_files(path, self._storage.filesystem(target)[1], source_filesystem=fs, destination_filesystem=fs)

    def remove(self, name: str = "") -> None:
        """Remove a lake, or all of them."""
        uri = self.lake(name) if name else self.root
        if is_local(uri):
            shutil.rmtree(local_path(uri), ignore_errors=True)
            return
        fs, path = self._storage.filesystem(uri)
        with store_faults(uri, LakeError), contextlib.suppress(FileNotFoundError):
            fs.delete_dir(path)


def _linked(source: str, target: str) -> None:
    if source.endswith(".parquet"):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)
