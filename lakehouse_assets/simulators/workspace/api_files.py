"""Files of Unity Catalog volumes and of the workspace, over their REST APIs, and what the catalog says of a volume.

What belongs here: `/api/2.0/fs/*`, `/api/2.0/workspace/*`, `/api/2.1/unity-catalog/{volumes,permissions}`. What does
not: DBFS (`api_dbfs.py`).
"""

# ruff: noqa: ARG001 - every endpoint is given the workspace and the call

from __future__ import annotations

import base64
import re
import shutil
from email.parser import BytesParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse_assets.simulators.workspace.api import ApiError, Call, Routes, bad, missing, not_found

if TYPE_CHECKING:
    from lakehouse_assets.simulators.workspace.server import Workspace

NOBODY = "account admins"
"""Who owns what nobody was said to own."""


def _place(workspace: Workspace, path: str) -> Path:
    """Where a path of a volume is on this disk; the volume has to exist."""
    parts = path.strip("/").split("/")
    if len(parts) < 4 or parts[0] != "Volumes" or ".." in parts:
        raise bad(f"Invalid path: {path}. A path of a volume is /Volumes/<catalog>/<schema>/<volume>/...")
    name = ".".join(parts[1:4])
    if name not in workspace.volumes():
        raise not_found(f"Volume '{name}' does not exist.")
    return workspace.path("/" + "/".join(parts))


def _directory(workspace: Workspace, path: str) -> Path:
    place = _place(workspace, path)
    if not place.is_dir():
        raise not_found(f"The directory being accessed is not found: {path}")
    return place


def _file(workspace: Workspace, path: str) -> Path:
    place = _place(workspace, path)
    if not place.is_file():
        raise not_found(f"The file being accessed is not found: {path}")
    return place


def make_directory(workspace: Workspace, call: Call, path: str) -> None:
    """Make a directory and those above it."""
    place = _place(workspace, path)
    if place.is_file():
        raise ApiError(409, "ALREADY_EXISTS", f"A file exists at the path: {path}")
    place.mkdir(parents=True, exist_ok=True)


def delete_directory(workspace: Workspace, call: Call, path: str) -> None:
    """Delete an empty directory."""
    place = _directory(workspace, path)
    if any(place.iterdir()):
        raise ApiError(400, "FILES_API_DIRECTORY_IS_NOT_EMPTY", f"The directory is not empty: {path}")
    place.rmdir()


def head_directory(workspace: Workspace, call: Call, path: str) -> dict[str, Any]:
    """Whether a directory exists."""
    _directory(workspace, path)
    return {}


def list_directory(workspace: Workspace, call: Call, path: str) -> dict[str, Any]:
    """What is in a directory."""
    return {"contents": [_entry(child, path) for child in sorted(_directory(workspace, path).iterdir())]}


def _entry(place: Path, parent: str) -> dict[str, Any]:
    found, directory = place.stat(), place.is_dir()
    name = f"{parent.rstrip('/')}/{place.name}{'/' if directory else ''}"
    size = {} if directory else {"file_size": found.st_size}
    modified = int(found.st_mtime * 1000)
    return {"path": name, "name": place.name, "is_directory": directory, "last_modified": modified, **size}


def upload(workspace: Workspace, call: Call, path: str) -> None:
    """Write a file."""
    place = _place(workspace, path)
    if place.is_dir() or (place.exists() and not call.query.get("overwrite") == "true"):
        raise ApiError(409, "ALREADY_EXISTS", f"The file being created already exists: {path}")
    if not place.parent.is_dir():
        raise not_found(f"The parent directory of the file being created is not found: {path}")
    place.write_bytes(call.cut(call.raw))


def download(workspace: Workspace, call: Call, path: str) -> bytes:
    """A file, or the stretch of it that the header `Range` names."""
    content = call.cut(_file(workspace, path).read_bytes())
    if match := re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range") or ""):
        return content[int(match[1]) : int(match[2]) + 1 if match[2] else None]
    return content


def delete_file(workspace: Workspace, call: Call, path: str) -> None:
    """Delete a file."""
    _file(workspace, path).unlink()


def _workspace_place(workspace: Workspace, path: str) -> Path:
    return workspace.path("/Workspace/" + path.removeprefix("/Workspace").lstrip("/"))


def _workspace_path(workspace: Workspace, call: Call) -> tuple[str, Path]:
    path = str(call.need("path"))
    return path, _workspace_place(workspace, path)


def workspace_mkdirs(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Make a directory of workspace files."""
    _workspace_path(workspace, call)[1].mkdir(parents=True, exist_ok=True)
    return {}


def workspace_import(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Write a workspace file."""
    form = _form(call)
    path = str(form["path"].decode() if form else call.need("path"))
    content = form["content"] if form else base64.b64decode(call.need("content"))
    overwrite = form.get("overwrite") == b"true" if form else call.flag("overwrite")
    place = _workspace_place(workspace, path)
    if place.exists() and not overwrite:
        raise ApiError(400, "RESOURCE_ALREADY_EXISTS", f"Path ({path}) already exists.")
    if not place.parent.is_dir():
        raise missing(f"The parent folder ({path.rpartition('/')[0]}) does not exist.")
    place.write_bytes(call.cut(content))
    return {}


def _form(call: Call) -> dict[str, bytes]:
    """The fields of a form, as the SDK sends a workspace file; nothing where the body is JSON."""
    kind = call.headers.get("Content-Type") or ""
    if not kind.startswith("multipart/"):
        return {}
    message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + call.raw)
    fields: dict[str, bytes] = {}
    for part in message.walk():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content
    return fields


def workspace_status(workspace: Workspace, call: Call) -> dict[str, Any]:
    """What is known of a workspace file."""
    path, place = _workspace_path(workspace, call)
    if not place.exists():
        raise missing(f"Path ({path}) doesn't exist.")
    kind = "DIRECTORY" if place.is_dir() else "FILE"
    return {"path": path, "object_type": kind, "object_id": place.stat().st_ino}


def workspace_delete(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Delete a workspace file or directory."""
    path, place = _workspace_path(workspace, call)
    if place.is_dir():
        if any(place.iterdir()) and not call.flag("recursive"):
            raise ApiError(400, "DIRECTORY_NOT_EMPTY", f"Folder ({path}) is not empty.")
        shutil.rmtree(place)
    elif place.exists():
        place.unlink()
    else:
        raise missing(f"Path ({path}) doesn't exist.")
    return {}


def _volume(workspace: Workspace, name: str) -> dict[str, Any]:
    if name not in workspace.volumes():
        raise ApiError(404, "VOLUME_DOES_NOT_EXIST", f"Volume '{name}' does not exist.")
    catalog, schema, volume = name.split(".")
    return {
        "full_name": name,
        "catalog_name": catalog,
        "schema_name": schema,
        "name": volume,
        "volume_type": "MANAGED",
        "owner": workspace.options.user,
        "storage_location": f"dbfs:/Volumes/{catalog}/{schema}/{volume}",
    }


def get_volume(workspace: Workspace, call: Call, name: str) -> dict[str, Any]:
    """What the catalog says of a volume."""
    return _volume(workspace, name)


def list_volumes(workspace: Workspace, call: Call) -> dict[str, Any]:
    """The volumes of a schema."""
    prefix = f"{call.need('catalog_name')}.{call.need('schema_name')}."
    return {"volumes": [_volume(workspace, name) for name in workspace.volumes() if name.startswith(prefix)]}


def create_volume(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Make a volume; its catalog and schema come with it."""
    name = ".".join(str(call.need(part)) for part in ("catalog_name", "schema_name", "name"))
    if name in workspace.volumes():
        raise ApiError(409, "VOLUME_ALREADY_EXISTS", f"Volume '{name}' already exists.")
    workspace.make_volume(name)
    return _volume(workspace, name)


def get_catalog(workspace: Workspace, call: Call, name: str) -> dict[str, Any]:
    """What is said of a catalog; every name is one here."""
    return {"name": name, "full_name": name, "owner": workspace.owners.get(("catalog", name), NOBODY)}


def get_schema(workspace: Workspace, call: Call, full: str) -> dict[str, Any]:
    """What is said of a schema; every name is one here."""
    catalog, _, name = full.partition(".")
    owner = workspace.owners.get(("schema", full), NOBODY)
    return {"name": name, "catalog_name": catalog, "full_name": full, "owner": owner}


def _grants(workspace: Workspace, kind: str, name: str) -> dict[str, set[str]]:
    if kind == "volume":
        _volume(workspace, name)
    return workspace.grants.setdefault((kind, name), {workspace.options.user: {"ALL_PRIVILEGES"}})


def grants(workspace: Workspace, call: Call, kind: str, name: str) -> dict[str, Any]:
    """Who may do what with a securable: the user everything, unless it was taken away."""
    found = _grants(workspace, kind.lower(), name)
    return {"privilege_assignments": [{"principal": who, "privileges": sorted(may)} for who, may in found.items()]}


def effective_grants(workspace: Workspace, call: Call, kind: str, name: str) -> dict[str, Any]:
    """The same, in the shape that names where a privilege comes from."""
    found = _grants(workspace, kind.lower(), name)
    assignments = [
        {"principal": who, "privileges": [{"privilege": one} for one in sorted(may)]} for who, may in found.items()
    ]
    return {"privilege_assignments": assignments}


def change_grants(workspace: Workspace, call: Call, kind: str, name: str) -> dict[str, Any]:
    """Grant and revoke."""
    found = _grants(workspace, kind.lower(), name)
    for change in call.need("changes"):
        may = found.setdefault(change["principal"], set())
        may |= set(change.get("add") or ())
        may -= set(change.get("remove") or ())
    return grants(workspace, call, kind, name)


_FILE, _DIRECTORY = "/api/2.0/fs/files(/.*)", "/api/2.0/fs/directories(/.*)"
_CATALOG = "/api/2.1/unity-catalog"
ROUTES: Routes = (
    ("PUT", _DIRECTORY, make_directory),
    ("DELETE", _DIRECTORY, delete_directory),
    ("HEAD", _DIRECTORY, head_directory),
    ("GET", _DIRECTORY, list_directory),
    ("PUT", _FILE, upload),
    ("GET", _FILE, download),
    ("HEAD", _FILE, download),
    ("DELETE", _FILE, delete_file),
    ("POST", "/api/2.0/workspace/mkdirs", workspace_mkdirs),
    ("POST", "/api/2.0/workspace/import", workspace_import),
    ("POST", "/api/2.0/workspace/delete", workspace_delete),
    ("GET", "/api/2.0/workspace/get-status", workspace_status),
    ("GET", f"{_CATALOG}/volumes", list_volumes),
    ("POST", f"{_CATALOG}/volumes", create_volume),
    ("GET", f"{_CATALOG}/volumes/([^/]+)", get_volume),
    ("GET", f"{_CATALOG}/catalogs/([^/]+)", get_catalog),
    ("GET", f"{_CATALOG}/schemas/([^/]+)", get_schema),
    ("GET", f"{_CATALOG}/permissions/([^/]+)/([^/]+)", grants),
    ("PATCH", f"{_CATALOG}/permissions/([^/]+)/([^/]+)", change_grants),
    ("GET", f"{_CATALOG}/effective-permissions/([^/]+)/([^/]+)", effective_grants),
)
