"""Environments of tasks: what is declared, with what it requires, and nothing else."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

from lakehouse_assets.simulators.workspace.environments import Environments, LibraryFailed, Resolver
from lakehouse_assets.simulators.workspace.runtimes import Runtime, runtimes
from lakehouse_assets_tests.simulators.workspace.lab import hollow


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """A runtime that brings nothing."""
    return hollow(tmp_path / "runtime")["4.2"]


def make_wheel(directory: Path, name: str = "thing", *, requires: Sequence[str] = (), python: str = ">=3.9") -> Path:
    """A wheel with a module of its name, a file among its data, and an entry point."""
    wheel, info = directory / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    head = [
        f"Name: {name}",
        "Version: 1.0",
        f"Requires-Python: {python}",
        *(f"Requires-Dist: {one}" for one in requires),
    ]
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", "def main():\n    import sys\n    print('called with', sys.argv[1:])\n")
        archive.writestr(f"{name}-1.0.data/purelib/{name}_more.py", "")
        archive.writestr(f"{info}/METADATA", "\n".join(["Metadata-Version: 2.1", *head, ""]))
        archive.writestr(f"{info}/entry_points.txt", f"[console_scripts]\nstart = {name}:main\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def chosen(runtime: Runtime, *requirements: str, wheels: Sequence[Path] = (), python: str | None = None) -> set[str]:
    """The packages that these requirements amount to."""
    resolver = Resolver(runtime, python or runtime.python)
    resolver.declare(requirements, wheels)
    resolver.complete()
    return set(resolver.chosen)


def imports(python: Path, *modules: str) -> list[bool]:
    """Which modules an environment has."""
    code = "import importlib.util as u, sys; print(*[int(u.find_spec(m) is not None) for m in sys.argv[1:]])"
    done = subprocess.run([str(python), "-c", code, *modules], capture_output=True, text=True, env={}, cwd="/")
    assert done.returncode == 0, done.stderr
    return [found == "1" for found in done.stdout.split()]


def test_what_is_not_declared_is_not_there(runtime: Runtime, tmp_path: Path) -> None:
    """Neither another package of this machine nor this project is importable; what is declared is, with its needs."""
    python = Environments(tmp_path / "envs").make(runtime, runtime.python, ["rich"], ())
    assert imports(python, "rich", "pygments", "markdown_it") == [True, True, True]
    assert imports(python, "click", "pip", "lakehouse_assets") == [False, False, False]


def test_an_environment_is_made_once(runtime: Runtime, tmp_path: Path) -> None:
    """The same libraries are the same directory, also for another workspace that shares it; others are another one."""
    first, second = Environments(tmp_path / "envs"), Environments(tmp_path / "envs")
    made = first.make(runtime, runtime.python, ["click"], ())
    assert second.make(runtime, runtime.python, [f"click=={version('click')}"], ()) == made
    assert first.make(runtime, runtime.python, ["click", "rich"], ()) != made
    assert not list((tmp_path / "envs").glob(".*"))


def test_extras_and_markers(runtime: Runtime) -> None:
    """An extra brings what it names; a marker that does not hold here brings nothing."""
    plain, more = chosen(runtime, "uvicorn"), chosen(runtime, "uvicorn[standard]")
    assert "click" in plain
    assert "httptools" in more - plain
    assert chosen(runtime, "click") == {"click"}  # colorama is for Windows


@pytest.mark.parametrize(
    ("requirement", "named"),
    [
        ("click==0.0.1", rf"installed on this machine: {version('click')}"),
        ("no-such-package", "installed on this machine: none"),
        ("lakehouse-assets", "installed on this machine: none"),
        ("click @ https://example.com/click.whl", "there is no network"),
        ("click==1 --index-url x", "Invalid requirement"),
    ],
)
def test_what_cannot_be_had_is_named(runtime: Runtime, requirement: str, named: str) -> None:
    """As a failed library installation, with what is there; a link to sources (this project) is no package."""
    with pytest.raises(LibraryFailed, match=named) as failed:
        chosen(runtime, requirement)
    assert "Library installation failed for library due to user error" in str(failed.value)


def test_requirements_that_conflict(runtime: Runtime, tmp_path: Path) -> None:
    """Two that ask for different versions of a package fail, and both are named."""
    wheels = [make_wheel(tmp_path, requires=["click>8"]), make_wheel(tmp_path, "other", requires=["click<1"])]
    with pytest.raises(LibraryFailed, match=r"click<1 \(from other==1.0\) conflicts with click==8"):
        chosen(runtime, wheels=wheels)


def test_a_wheel(runtime: Runtime, tmp_path: Path) -> None:
    """Its files are there, those among its data too, and what it requires."""
    wheel = make_wheel(tmp_path, requires=["click", "rich; extra == 'more'"])
    python = Environments(tmp_path / "envs").make(runtime, runtime.python, (), [wheel])
    assert imports(python, "thing", "thing_more", "click", "rich") == [True, True, True, False]


def test_a_changed_wheel_of_the_same_name_is_another_environment(runtime: Runtime, tmp_path: Path) -> None:
    """A wheel is known by its content: developers build the same version again and again."""
    environments = Environments(tmp_path / "envs")
    first = environments.make(runtime, runtime.python, (), [make_wheel(tmp_path)])
    assert environments.make(runtime, runtime.python, (), [make_wheel(tmp_path, requires=["click"])]) != first


def test_a_package_for_another_python(runtime: Runtime, tmp_path: Path) -> None:
    """`Requires-Python` is held against the Python that the task is told it runs on."""
    wheel = make_wheel(tmp_path, python="<3.12")
    assert chosen(runtime, wheels=[wheel], python="3.11") == {"thing"}
    with pytest.raises(LibraryFailed, match="requires a different Python: 3.12 not in '<3.12'"):
        chosen(runtime, wheels=[wheel], python="3.12")


def test_what_is_declared_goes_before_what_the_runtime_brings(tmp_path: Path) -> None:
    """The runtime's own packages stand back, and are there where nothing else was declared."""
    base = hollow(tmp_path / "runtime")["4.2"]
    runtime = Runtime(
        base.name, base.python, base.spark, base.delta, base.site_packages, base.jars, base=("rich", "thing")
    )
    assert {"rich", "pygments", "thing"} <= chosen(runtime, wheels=[make_wheel(tmp_path)])


def test_files_are_not_copied_where_they_can_be_linked(runtime: Runtime, tmp_path: Path) -> None:
    """A gigabyte of Spark costs no disk."""
    import click

    python = Environments(tmp_path / "envs").make(runtime, runtime.python, ["click"], ())
    made = next(python.parents[1].glob("lib/*/site-packages/click/__init__.py"))
    same_disk = tmp_path.stat().st_dev == Path(click.__file__).stat().st_dev
    assert made.samefile(click.__file__) == same_disk


def test_runtimes_say_what_they_are_and_what_is_missing(tmp_path: Path) -> None:
    """The names are spark_versions; one that is not installed names what is missing, and where."""
    known = runtimes()
    assert set(known) == {"15.4.x-scala2.12", "4.2", "serverless"}
    assert (known["15.4.x-scala2.12"].spark, known["15.4.x-scala2.12"].setup) == ("3.5.0", "make setup-runtime")
    empty = Runtime("x", "3.11", "1.0", "1.0", tmp_path, tmp_path)
    assert "pyspark 1.0 is not in" in str(empty.missing())
