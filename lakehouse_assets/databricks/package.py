"""What is sent to a cluster: this project's package, a snapshot of the catalog in use, and their hashes.

What belongs here: files and versions. What does not: sending them (`staging.py`).
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path

from lakehouse_assets.databricks.step_main import CATALOG, LEFT_OUT, PACKAGE, tree_hash
from lakehouse_assets.entities.catalog import Catalog

DISTRIBUTION = "lakehouse-assets"
NOT_NEEDED = frozenset({"dagster-webserver"})
"""What the project needs to show a graph, not to load it."""
BESIDE_ARROW = ("numpy", "pandas")
"""Old runtimes have a NumPy that today's pyarrow refuses to be imported with, and a pandas that goes with that one."""
_ROOT = Path(__file__).parents[1]
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """The archive for a step.

    Attributes:
        data: a zip file.
        sha256: of `data`.
        package_sha256: of the package's files, wherever they are installed.
    """

    data: bytes
    sha256: str
    package_sha256: str


def build(catalog: Catalog, *, with_code: bool = True) -> Package:
    """The archive with the catalog and, unless a wheel is installed on the cluster, the package.

    The same files give the same bytes.
    """
    files = dict(_code()) if with_code else {}
    files |= {f"{CATALOG}/{name}": text.encode() for name, text in snapshot(catalog).items()}
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), files[name], zipfile.ZIP_DEFLATED)
    data = held.getvalue()
    return Package(data, hashlib.sha256(data).hexdigest(), _code_hash())


def snapshot(catalog: Catalog) -> Mapping[str, str]:
    """The files of a catalog as they were read: YAML and SQL; references to secrets stay references."""
    return {**catalog.files, **catalog.queries}


def catalog_hash(catalog: Catalog) -> str:
    """A hash over the files of a catalog."""
    found = hashlib.sha256()
    for name, text in sorted(snapshot(catalog).items()):
        found.update(f"{name}\0{len(text)}\0{text}".encode())
    return found.hexdigest()


@functools.cache
def _code() -> tuple[tuple[str, bytes], ...]:
    """The package's files: name in the archive, bytes. Read once: this process runs them as they were."""
    files = (p for p in _ROOT.rglob("*") if p.is_file() and not any(part in str(p) for part in LEFT_OUT))
    return tuple((f"{PACKAGE}/{path.relative_to(_ROOT).as_posix()}", path.read_bytes()) for path in files)


@functools.cache
def _code_hash() -> str:
    return tree_hash(_ROOT)


def libraries(extras: Iterable[str] = ()) -> tuple[str, ...]:
    """The packages that loading the definitions and running a step need, at the versions that are installed here."""
    wanted = set(extras)
    found = []
    for line in requires(DISTRIBUTION) or ():
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra == [\"'](\w+)[\"']", line)
        if name and name[0] not in NOT_NEEDED and (extra is None or extra[1] in wanted):
            found.append(name[0])
    return tuple(f"{name}=={version(name)}" for name in (*found, *BESIDE_ARROW))
