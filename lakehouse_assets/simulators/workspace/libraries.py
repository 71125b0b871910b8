"""The libraries that a task declares: in the forms that clusters and serverless environments have for them.

What belongs here: which libraries are declared, and which kinds are refused. What does not: finding
them on this machine (`environments.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse_assets.simulators.workspace.api import bad
from lakehouse_assets.simulators.workspace.environments import LibraryFailed
from lakehouse_assets.simulators.workspace.runtimes import PYTHON_OF_SERVERLESS

if TYPE_CHECKING:
    from lakehouse_assets.simulators.workspace.server import Workspace

KINDS = ("pypi", "whl", "requirements")


def name_of(library: Mapping[str, Any]) -> str:
    """What makes two libraries the same one, in whatever version."""
    if "pypi" in library:
        return re.split(r"[\s=<>~!;\[@]", str(library["pypi"]["package"]).strip())[0].lower().replace("_", "-")
    return json.dumps(library, sort_keys=True)


def check_libraries(libraries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse libraries of a kind that the simulator does not install."""
    for library in libraries:
        kinds = [kind for kind in library if kind in KINDS]
        if len(kinds) != 1:
            raise bad(f"The simulator installs libraries of the kinds {', '.join(KINDS)}, not {library}")
        if "pypi" in library and "package" not in library["pypi"]:
            raise bad("Missing required field: package")


def declared(workspace: Workspace, libraries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Path]]:
    """Libraries as requirements and as wheels on this disk.

    Raises:
        LibraryFailed: a file is not there.
    """
    requirements: list[str] = []
    wheels: list[Path] = []
    for library in libraries:
        if "pypi" in library:
            requirements.append(str(library["pypi"]["package"]))
        elif "whl" in library:
            wheels.append(workspace.path(library["whl"]))
        else:
            requirements += _lines(workspace, str(library["requirements"]))
    return requirements, wheels


def _lines(workspace: Workspace, name: str) -> list[str]:
    place = workspace.path(name)
    if not place.is_file():
        raise LibraryFailed(name, f"ERROR: Could not open requirements file: {name}")
    lines = (line.partition("#")[0].strip() for line in place.read_text().splitlines())
    return [line for line in lines if line]


def of_serverless(dependencies: Sequence[str]) -> list[dict[str, Any]]:
    """The dependencies of a serverless environment, in the form that libraries of clusters have."""
    found: list[dict[str, Any]] = []
    for text in dependencies:
        if text.endswith(".whl"):
            found.append({"whl": text})
        elif text.startswith("-r "):
            found.append({"requirements": text.removeprefix("-r ").strip()})
        else:
            found.append({"pypi": {"package": text}})
    return found


def python_of_serverless(spec: Mapping[str, Any]) -> str:
    """The Python of an environment version.

    Raises:
        ApiError: there is no such version.
    """
    version = str(spec.get("environment_version") or spec.get("client") or "")
    if version not in PYTHON_OF_SERVERLESS:
        raise bad(f"Invalid environment version {version!r}: one of {', '.join(PYTHON_OF_SERVERLESS)}")
    return PYTHON_OF_SERVERLESS[version]
