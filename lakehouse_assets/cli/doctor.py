"""`lakehouse doctor`: what this machine has, what it lacks, and the command that mends it.

What belongs here: the list of checks and their report. What does not: mending anything; nothing is changed but a probe
file that is removed at once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from lakehouse_assets.cli.options import catalog_option, format_option, open_catalog, open_settings, root_option
from lakehouse_assets.cli.output import print_rows, say
from lakehouse_assets.databricks.findings import Finding
from lakehouse_assets.errors import CatalogError, LakehouseError, NotRunnable, SourceMissing, SourceUnreachable

if TYPE_CHECKING:
    from lakehouse_assets.entities.catalog import Catalog
    from lakehouse_assets.entities.model import Entity
    from lakehouse_assets.settings import Settings

LEAST_JAVA = 17
LEAST_BYTES = 1 << 30
"""Free space below which a disk is called full."""
DISTRIBUTION = "lakehouse-assets"
INSTALL = "make setup"
_KDB = ("LAKEHOUSE_KDB_HOST", "lakehouse simulate kdb")
_SHIPPED = {
    "stocks-bronze": ("LAKEHOUSE_KAFKA", "lakehouse simulate kafka --broker --address-file kafka.address"),
    "market-trade": _KDB,
    "market-quote": _KDB,
}
"""Entity of the shipped catalog -> the variable that names its server, and the command that stands in for it."""


@click.command()
@catalog_option
@root_option
@click.option(
    "--target",
    type=click.Choice(["local", "databricks"]),
    help="Where steps are to run (LAKEHOUSE_TARGET; default: local).",
)
@format_option("table", "json")
def doctor(catalog: Path | None, root: str | None, target: str | None, form: str) -> None:
    """Check Python, packages, Java, the catalog's sources, the lake, permissions and space.

    For the target databricks: the configuration, the workspace, who signs in, compute, volumes, secrets and grants.
    Exit code 1 if something is missing that runs on the target need; what is optional is only told.
    """
    settings = open_settings(catalog=catalog, root=root, target=target)
    findings = list(_there(settings) if settings.target == "databricks" else examine(settings))
    print_rows([finding.row() for finding in findings], ("check", "state", "found", "mend"), form)
    missing = [finding.check for finding in findings if finding.state == "missing"]
    if missing:
        say(f"missing: {', '.join(missing)}")
        raise click.exceptions.Exit(1)
    runs = "steps on Databricks" if settings.target == "databricks" else "embedded runs"
    say(f"everything that {runs} need is there")


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding about this machine and these settings."""
    yield _python()
    yield from _packages(needs_aws="://" in settings.root)
    yield from _spark(settings)
    finding, catalog = _catalog(settings)
    yield finding
    if catalog is not None:
        yield from _sources(catalog)
    yield from _lake(settings)
    yield _space("space for the lake", settings.root)
    yield _space("space to spill", str(settings.temp_directory or tempfile.gettempdir()))
    yield _spill(settings)


def _there(settings: Settings) -> Iterator[Finding]:
    """Every finding about steps on Databricks: what sends them from here, and what they find there."""
    from lakehouse_assets.databricks.doctor import examine as examine_databricks

    yield _python()
    yield from _packages(needs_aws=False)
    finding, catalog = _catalog(settings)
    yield finding
    yield from examine_databricks(settings, catalog, os.environ)


def _python() -> Finding:
    from importlib.metadata import metadata

    from packaging.specifiers import SpecifierSet

    wanted = metadata(DISTRIBUTION)["Requires-Python"]
    found = ".".join(map(str, sys.version_info[:3]))
    fits = found in SpecifierSet(wanted)
    return Finding(
        "python", "ok" if fits else "missing", f"{found} ({wanted})", None if fits else "python3.11 -m venv .venv"
    )


def _packages(*, needs_aws: bool) -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    for line in requires(DISTRIBUTION) or ():
        need = Requirement(line)
        extra = re.search(r"extra == [\"'](\w+)[\"']", line)
        if extra and extra[1] != "aws":
            continue
        required = extra is None or needs_aws
        mend = INSTALL if extra is None else f"pip install '{DISTRIBUTION}[{extra[1]}]'"
        try:
            found = version(need.name)
        except PackageNotFoundError:
            yield Finding(f"package {need.name}", "missing" if required else "optional", "not installed", mend)
            continue
        fits = need.specifier.contains(found, prereleases=True)
        state: Literal["ok", "missing", "optional"] = "ok" if fits else "missing" if required else "optional"
        yield Finding(f"package {need.name}", state, f"{found} ({need.specifier})", None if fits else mend)


def _spark(settings: Settings) -> Iterator[Finding]:
    """What the Spark engine needs: the package, Java and Delta's jars; optional unless it is the engine in use."""
    from importlib.metadata import PackageNotFoundError, version

    from lakehouse_assets.engines.spark_session import REPOSITORY_JARS, java

    def finding(check: str, ok: bool, found: str, mend: str) -> Finding:
        lacking: Literal["missing", "optional"] = "missing" if settings.engine == "spark" else "optional"
        return Finding(check, "ok" if ok else lacking, found, None if ok else f"{mend} (only --engine spark needs it)")

    try:
        yield finding("package pyspark", True, version("pyspark"), "")
    except PackageNotFoundError:
        yield finding("package pyspark", False, "not installed", "make setup-jvm")
    found = java()
    release = _release(found) if found else None
    fits = release is not None and int(release[1]) >= LEAST_JAVA
    yield finding("java", fits, f"{found} {release[0] if release else ''}" if found else "not installed",
                  f"install a JDK {LEAST_JAVA}, or set JAVA_HOME to one")  # fmt: skip
    place = settings.spark_jars or REPOSITORY_JARS
    jars = sorted(path.name for path in place.glob("delta-spark_*.jar"))
    yield finding("spark jars", bool(jars), ", ".join(jars) or f"no Delta in {place}", "make setup-jvm")


def _release(java: str) -> re.Match[str] | None:
    """What Java says its version is."""
    told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    return re.search(r'"(\d+)[^"]*"', told.stderr + told.stdout)


def _catalog(settings: Settings) -> tuple[Finding, Catalog | None]:
    try:
        catalog = open_catalog(settings)
    except CatalogError as error:
        mend = f"lakehouse entities validate --catalog {settings.catalog}"
        return Finding("catalog", "missing", str(error), mend), None
    return Finding("catalog", "ok", f"{settings.catalog}: {len(catalog.destinations)} tables"), catalog


def _sources(catalog: Catalog) -> Iterator[Finding]:
    from lakehouse_assets.sources.base import open_source

    for feeds in catalog.destinations.values():
        for entity in feeds:
            if not entity.reads_outside or entity.lakehouse.landed_by or entity.kind not in ("landed", "extract"):
                continue
            name = f"source of {entity.table}" + (f" ({entity.feed})" if entity.feed else "")
            try:
                with open_source(entity) as source:
                    facts = source.describe()
            except NotRunnable as error:
                yield Finding(name, "optional", error.problem, error.fix)
            except LakehouseError as error:
                unasked = entity.entity_id in _SHIPPED and _SHIPPED[entity.entity_id][0] not in os.environ
                yield Finding(name, "optional" if unasked else "missing", _one_line(error), _mend_source(entity, error))
            else:
                yield Finding(name, "ok", ", ".join(f"{key} {value}" for key, value in facts.items()))


def _mend_source(entity: Entity, error: LakehouseError) -> str | None:
    if entity.entity_id == "sensors-bronze" and isinstance(error, SourceMissing):
        return f"lakehouse simulate sensors --database {entity.source}"
    if entity.entity_id in _SHIPPED and isinstance(error, SourceUnreachable):
        variable, stand_in = _SHIPPED[entity.entity_id]
        return f"set {variable}; without one: {stand_in}"
    return error.fix


def _one_line(error: LakehouseError) -> str:
    return error.problem + (f" (got {error.value!r})" if error.value is not None else "")


def _lake(settings: Settings) -> Iterator[Finding]:
    from lakehouse_assets.lake.names import BATCHES, Lake
    from lakehouse_assets.lake.storage import Storage

    try:
        lake = Lake(settings.root, Storage.of(settings, os.environ))
        yield _writable("lake", lake)
        from lakehouse_assets.lake.delta import find_table

        plans = find_table(lake.uri(BATCHES), lake.storage)
        known = f"version {plans.version}" if plans else "none yet: the first run makes them"
        yield Finding("plans", "ok", f"{lake.uri(BATCHES)}: {known}")
    except LakehouseError as error:
        yield Finding("lake", "missing", _one_line(error), error.fix)


def _writable(name: str, lake: Any) -> Finding:
    """Write a probe file into the lake's root, or into the nearest directory above that exists, and remove it."""
    from lakehouse_assets.errors import RootUnusable
    from lakehouse_assets.lake.storage import is_local, store_fault

    fs, path = lake.storage.filesystem(lake.root)
    place, note = path, "writable"
    if is_local(lake.root) and not Path(path).is_dir():
        place = str(next(parent for parent in Path(path).parents if parent.exists()))
        note = f"is made by the first run in {place}, which is writable"
    probe = f"{place}/.lakehouse-doctor-{os.getpid()}"
    try:
        with fs.open_output_stream(probe) as stream:
            stream.write(b"probe")
        fs.delete_file(probe)
    except OSError as error:
        raise store_fault(place, error, RootUnusable) from error
    return Finding(name, "ok", f"{lake.root} {note}")


def _space(name: str, place: str) -> Finding:
    if "://" in place and not place.startswith("file://"):
        return Finding(name, "ok", f"{place}: an object store")
    path = Path(place.removeprefix("file://")).absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    enough = free >= LEAST_BYTES
    mend = None if enough else f"free space on the disk of {there}: df -h {there}"
    return Finding(name, "ok" if enough else "missing", f"{free / 1e9:.1f} GB free at {there}", mend)


def _spill(settings: Settings) -> Finding:
    place = str(settings.temp_directory or tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(dir=place):
            return Finding("temporary files", "ok", f"{place} writable")
    except OSError as error:
        mend = "set LAKEHOUSE_TEMP_DIRECTORY to a directory that this user can write"
        return Finding("temporary files", "missing", f"{place}: {error.strerror}", mend)
