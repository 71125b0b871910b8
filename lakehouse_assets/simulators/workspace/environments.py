"""Python environments of tasks: what the runtime brings, what is declared, and nothing else; made without a network.

What belongs here: which installed distributions a list of requirements amounts to, and a directory that holds only
those. What does not: what a task declares (`clusters.py`), running it.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from functools import cache
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lakehouse_assets.simulators.workspace.runtimes import Runtime, own_packages


class LibraryFailed(Exception):
    """A declared library cannot be had: what the run says then."""

    def __init__(self, library: object, why: str) -> None:
        super().__init__(
            f"Library installation failed for library due to user error for {library}. Error messages:\n{why}"
        )


@dataclass(frozen=True)
class Package:
    """One version of one package: installed on this machine (`origin` is its dist-info), or a wheel."""

    name: str
    version: str
    origin: Path

    @property
    def is_wheel(self) -> bool:
        """Whether it is a wheel."""
        return self.origin.suffix == ".whl"

    def metadata(self) -> Mapping[str, Any]:
        """What it says about itself: `requires` (texts) and `python` (which versions it runs on, or nothing)."""
        return _metadata(self.origin)

    def fits(self, requirement: Requirement) -> bool:
        """Whether its version is one that is asked for."""
        return requirement.specifier.contains(self.version, prereleases=True)


@cache
def _metadata(origin: Path) -> Mapping[str, Any]:
    if origin.suffix == ".whl":
        with zipfile.ZipFile(origin) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            text = wheel.read(name).decode()
    else:
        text = (origin / "METADATA").read_text()
    headers = HeaderParser().parsestr(text)
    return {"requires": tuple(headers.get_all("Requires-Dist") or ()), "python": headers.get("Requires-Python")}


@cache
def _installed(site: Path) -> Mapping[str, Package]:
    """The packages of a directory by name, but for those that are installed as a link to their sources."""
    found: dict[str, Package] = {}
    for origin in site.glob("*.dist-info"):
        name, _, version = origin.name.removesuffix(".dist-info").rpartition("-")
        url = origin / "direct_url.json"
        if url.exists() and json.loads(url.read_text()).get("dir_info", {}).get("editable"):
            continue
        found[canonicalize_name(name)] = Package(canonicalize_name(name), version, origin)
    return found


class Resolver:
    """Chooses packages of this machine for one environment."""

    def __init__(self, runtime: Runtime, python: str) -> None:
        own = own_packages()
        sites = [runtime.site_packages]
        if own != runtime.site_packages and own.parent.name == runtime.site_packages.parent.name:
            sites.append(own)
        self._sites = [_installed(site) for site in sites]
        self._runtime, self._python = runtime, python
        self._markers = {str(name): str(value) for name, value in default_environment().items()}
        self._markers["python_version"] = runtime.site_packages.parent.name.removeprefix("python")
        self.chosen: dict[str, Package] = {}
        self._seen: set[tuple[str, str]] = set()

    def declare(self, requirements: Sequence[str], wheels: Sequence[Path]) -> None:
        """Add what a task declares, with all that it requires.

        Raises:
            LibraryFailed: something is not on this machine in a version that fits.
        """
        for wheel in wheels:
            package = _package_of(wheel)
            self.chosen[package.name] = package
            self._runs(package, wheel.name)
        for wheel in wheels:
            self._require(Requirement(_package_of(wheel).name), wheel.name, strict=True)
        for text in requirements:
            self._require(_requirement(text), text, strict=True)

    def complete(self) -> None:
        """Add what the runtime brings, where nothing else was declared."""
        for name in self._runtime.base:
            self._require(Requirement(name), f"the runtime {self._runtime.name}", strict=False)

    def _require(self, requirement: Requirement, by: str, *, strict: bool) -> None:
        name = canonicalize_name(requirement.name)
        package = self.chosen.get(name)
        if package is None:
            package = self.chosen[name] = self._choose(name, requirement, by, strict=strict)
            self._runs(package, by)
        elif strict and not package.fits(requirement):
            why = f"ERROR: {requirement} (from {by}) conflicts with {package.name}=={package.version}"
            raise LibraryFailed(requirement, why)
        for extra in ("", *requirement.extras):
            if (name, extra) not in self._seen:
                self._seen.add((name, extra))
                for text in package.metadata()["requires"]:
                    needed = Requirement(text)
                    if self._applies(needed, extra):
                        self._require(needed, f"{package.name}=={package.version}", strict=strict)

    def _applies(self, needed: Requirement, extra: str) -> bool:
        if needed.marker is None:
            return not extra
        wanted = needed.marker.evaluate({**self._markers, "extra": extra})
        return wanted and (not extra or not needed.marker.evaluate({**self._markers, "extra": ""}))

    def _choose(self, name: str, requirement: Requirement, by: str, *, strict: bool) -> Package:
        there = [site[name] for site in self._sites if name in site]
        if requirement.url:
            raise LibraryFailed(
                requirement, f"ERROR: {requirement} (from {by}) is an address: there is no network here"
            )
        for package in there:
            if package.fits(requirement):
                return package
        if there and not strict:
            return there[0]
        versions = ", ".join(package.version for package in there) or "none"
        why = f"ERROR: Could not find a version that satisfies the requirement {requirement} (from {by})"
        raise LibraryFailed(requirement, f"{why} (installed on this machine: {versions})")

    def _runs(self, package: Package, by: str) -> None:
        python = package.metadata()["python"]
        if python and not SpecifierSet(python).contains(f"{self._python}.99", prereleases=True):
            why = f"ERROR: Package {package.name!r} requires a different Python: {self._python} not in {python!r}"
            raise LibraryFailed(by, why)


def _requirement(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise LibraryFailed(text, f"ERROR: Invalid requirement: {text!r}: {error}") from None


def _package_of(wheel: Path) -> Package:
    if not wheel.is_file():
        raise LibraryFailed(wheel.name, f"ERROR: there is no file {wheel.name}")
    name, version = wheel.name.split("-")[:2]
    return Package(canonicalize_name(name), version, wheel)


class Environments:
    """Environments in `directory`, each made once; several processes may share one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    def make(self, runtime: Runtime, python: str, requirements: Sequence[str], wheels: Sequence[Path]) -> Path:
        """The Python of an environment with these libraries over the runtime's.

        Args:
            python: the minor version that the task reports.
            requirements: as pip takes them.
            wheels: files on this disk.

        Raises:
            LibraryFailed: one of them cannot be had.
        """
        resolver = Resolver(runtime, python)
        resolver.declare(requirements, wheels)
        resolver.complete()
        packages = sorted(resolver.chosen.values(), key=lambda package: package.name)
        home = self._directory / _digest(runtime, packages)
        with self._lock:
            if not home.exists():
                self._build(home, runtime, packages)
        return home / "bin" / "python"

    def jars(self, runtime: Runtime) -> Path:
        """Delta's jars of a runtime, where tasks can see them."""
        names = sorted(path.name for path in runtime.jars.glob("*.jar"))
        home = self._directory / f"jars-{hashlib.sha256(''.join(names).encode()).hexdigest()[:16]}"
        with self._lock:
            if not home.exists():
                scratch = self._scratch()
                for name in names:
                    _link(str(runtime.jars / name), str(scratch / name))
                _settle(scratch, home)
        return home

    def _build(self, home: Path, runtime: Runtime, packages: Sequence[Package]) -> None:
        scratch = self._scratch()
        (scratch / "bin").mkdir()
        for name in ("python", "python3"):
            (scratch / "bin" / name).symlink_to(runtime.interpreter)
        config = f"home = {runtime.interpreter.parent}\ninclude-system-site-packages = false\n"
        (scratch / "pyvenv.cfg").write_text(config)
        site = scratch / "lib" / runtime.site_packages.parent.name / "site-packages"
        site.mkdir(parents=True)
        for package in packages:
            if package.is_wheel:
                _unpack(package.origin, site)
            else:
                _copy(package, site, runtime.tag)
        (scratch / "packages.txt").write_text("".join(f"{one.name}=={one.version}\n" for one in packages))
        _settle(scratch, home)

    def _scratch(self) -> Path:
        scratch = self._directory / f".{os.getpid()}-{next(self._numbers)}"
        scratch.mkdir(parents=True)
        return scratch


def _settle(scratch: Path, home: Path) -> None:
    """Give a finished directory its name, unless another process was faster."""
    try:
        scratch.rename(home)
    except OSError:
        if not home.exists():
            raise
        shutil.rmtree(scratch)


def _digest(runtime: Runtime, packages: Iterable[Package]) -> str:
    said: list[Any] = [runtime.name, str(runtime.interpreter)]
    for package in packages:
        content = hashlib.sha256(package.origin.read_bytes()).hexdigest() if package.is_wheel else str(package.origin)
        said.append((package.name, package.version, content))
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _copy(package: Package, site: Path, tag: str) -> None:
    """Put the files of an installed package into `site`, as further names of the same files where that is possible."""
    source, target = str(package.origin.parent), str(site)
    record = Distribution.at(package.origin).read_text("RECORD") or ""
    made: set[str] = set()
    for name, *_ in csv.reader(record.splitlines()):
        if name.startswith(("..", "/")) or "__pycache__/" in name:
            continue
        directory, _, file = name.rpartition("/")
        if directory not in made:
            os.makedirs(f"{target}/{directory}/__pycache__" if directory else target, exist_ok=True)
            made.add(directory)
        _link(f"{source}/{name}", f"{target}/{name}")
        if file.endswith(".py") and directory:
            compiled = f"{directory}/__pycache__/{file[:-3]}.{tag}.pyc"
            _link(f"{source}/{compiled}", f"{target}/{compiled}")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        return
    except OSError:  # another disk, or somebody else's file
        shutil.copy2(source, target)


def _unpack(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            top, _, rest = name.partition("/")
            if not top.endswith(".data"):
                archive.extract(name, site)
            elif rest.startswith(("purelib/", "platlib/")) and not name.endswith("/"):
                place = site / rest.partition("/")[2]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))
