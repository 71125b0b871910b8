"""DBFS of the simulated workspace, over its REST API: files in blocks of one MiB.

What belongs here: `/api/2.0/dbfs/*`. What does not: volumes and workspace files (`api_files.py`), what a task sees.
"""

from __future__ import annotations

import base64
import binascii
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse_assets.simulators.workspace.api import MIB, ApiError, Call, Routes, bad, denied, missing

if TYPE_CHECKING:
    from lakehouse_assets.simulators.workspace.server import Workspace


def _named(call: Call) -> str:
    path = str(call.need("path"))
    if path.startswith("dbfs:"):
        path = "/" + path.removeprefix("dbfs:").lstrip("/")
    if not path.startswith("/"):
        raise bad(f"Path must be absolute: {path}")
    return path


def _place(workspace: Workspace, path: str) -> Path:
    if path.startswith("/Volumes/"):
        raise bad(f"The DBFS API does not support Unity Catalog volumes: use the Files API for {path}")
    if not workspace.options.dbfs:
        raise denied(f"Public DBFS root is disabled. Access is denied on path: {path}")
    return workspace.path("dbfs:" + path)


def _there(workspace: Workspace, path: str) -> Path:
    place = _place(workspace, path)
    if not place.exists():
        raise missing(f"No file or directory exists on path {path}.")
    return place


def _content(call: Call, name: str) -> bytes:
    try:
        content = base64.b64decode(call.body.get(name) or "", validate=True)
    except binascii.Error:
        raise bad(f"{name} is not base64") from None
    if len(content) > MIB:
        raise ApiError(400, "MAX_BLOCK_SIZE_EXCEEDED", f"{name} exceeds the limit of 1048576 bytes")
    return call.cut(content)


def _free(workspace: Workspace, call: Call) -> Path:
    path = _named(call)
    place = _place(workspace, path)
    if place.is_dir() or (place.exists() and not call.flag("overwrite")):
        raise ApiError(400, "RESOURCE_ALREADY_EXISTS", f"A file or directory already exists at the input path {path}.")
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def create(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Open a file for writing; the handle names it in the calls that follow."""
    place = _free(workspace, call)
    place.write_bytes(b"")
    handle = workspace.next_id()
    workspace.handles[handle] = place
    return {"handle": handle}


def _handle(workspace: Workspace, call: Call) -> int:
    handle = call.number("handle")
    if handle not in workspace.handles:
        raise missing(f"No file handle {handle} is open.")
    return handle


def add_block(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Append to an open file."""
    content, handle = _content(call, "data"), _handle(workspace, call)
    with workspace.handles[handle].open("ab") as file:
        file.write(content)
    return {}


def close(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Close an open file."""
    del workspace.handles[_handle(workspace, call)]
    return {}


def put(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Write a small file at once."""
    content = _content(call, "contents")
    _free(workspace, call).write_bytes(content)
    return {}


def read(workspace: Workspace, call: Call) -> dict[str, Any]:
    """A stretch of a file, at most one MiB."""
    path = _named(call)
    place = _there(workspace, path)
    if place.is_dir():
        raise bad(f"{path} is a directory")
    offset, length = int(call.query.get("offset") or 0), int(call.query.get("length") or MIB // 2)
    if length > MIB:
        raise ApiError(400, "MAX_READ_SIZE_EXCEEDED", "The read length exceeds the limit of 1048576 bytes")
    with place.open("rb") as file:
        file.seek(offset)
        content = call.cut(file.read(length))
    return {"bytes_read": len(content), "data": base64.b64encode(content).decode()}


def _status(place: Path, path: str) -> dict[str, Any]:
    found = place.stat()
    size = 0 if place.is_dir() else found.st_size
    return {
        "path": path, "is_dir": place.is_dir(), "file_size": size, "modification_time": int(found.st_mtime * 1000)
    }  # fmt: skip


def get_status(workspace: Workspace, call: Call) -> dict[str, Any]:
    """What is known of a file or a directory."""
    path = _named(call)
    return _status(_there(workspace, path), path)


def list_files(workspace: Workspace, call: Call) -> dict[str, Any]:
    """What is in a directory; a file lists itself."""
    path = _named(call).rstrip("/")
    place = _there(workspace, path or "/")
    if not place.is_dir():
        return {"files": [_status(place, path)]}
    return {"files": [_status(child, f"{path}/{child.name}") for child in sorted(place.iterdir())]}


def mkdirs(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Make a directory and those above it."""
    path = _named(call)
    place = _place(workspace, path)
    if place.is_file():
        raise ApiError(400, "RESOURCE_ALREADY_EXISTS", f"A file exists at the input path {path}.")
    place.mkdir(parents=True, exist_ok=True)
    return {}


def delete(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Delete a file or a directory; what is not there is deleted already."""
    path = _named(call)
    place = _place(workspace, path)
    if place.is_dir():
        if any(place.iterdir()) and not call.flag("recursive"):
            raise ApiError(400, "IO_ERROR", f"The directory is not empty and recursive was not set: {path}")
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    return {}


ROUTES: Routes = (
    ("POST", "/api/2.0/dbfs/create", create),
    ("POST", "/api/2.0/dbfs/add-block", add_block),
    ("POST", "/api/2.0/dbfs/close", close),
    ("POST", "/api/2.0/dbfs/put", put),
    ("GET", "/api/2.0/dbfs/read", read),
    ("GET", "/api/2.0/dbfs/get-status", get_status),
    ("GET", "/api/2.0/dbfs/list", list_files),
    ("POST", "/api/2.0/dbfs/mkdirs", mkdirs),
    ("POST", "/api/2.0/dbfs/delete", delete),
)
