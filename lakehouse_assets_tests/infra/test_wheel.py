"""The wheel: what is in it, and that it works where the checkout is not.

It is installed into an empty directory and run by an interpreter that reads no `.pth` file (`-S`), so that the
editable installation of the checkout is out of reach; the packages that it depends on are those of this environment.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from lakehouse_assets.entities.catalog import load_catalog
from lakehouse_assets.settings import PACKAGED_CATALOG

TOP = Path(__file__).parents[2]
UV = Path(sys.executable).parent / "uv"
AS_A_TASK = (
    "import sys; from importlib.metadata import distribution; name, entry, *sys.argv[1:] = sys.argv[1:]; "
    "[found] = [e for e in distribution(name).entry_points if e.name == entry]; found.load()()"
)
"""How a Python wheel task calls an entry point: by the names of package and entry point, as a function."""


def _uv(*arguments: str) -> None:
    done = subprocess.run([str(UV), *arguments], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(name="wheel", scope="module")
def _wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the build backend in uv's cache if it is there (`make setup` puts it there)."""
    out = tmp_path_factory.mktemp("dist")
    build = (str(UV), "build", "--quiet", "--wheel", "--python", sys.executable, "--out-dir", str(out))
    if subprocess.run([*build, "--offline"], cwd=TOP, capture_output=True).returncode:
        _uv(*build[1:])
    (wheel,) = out.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Installed:
    """The wheel's own directory, and an empty one to work in."""

    packages: Path
    place: Path

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python where the wheel is installed and the checkout is not."""
        path = os.pathsep.join([str(self.packages), sysconfig.get_paths()["purelib"]])
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "HOME": str(self.place), "TMPDIR": str(self.place)}
        return subprocess.run(
            [sys.executable, "-S", "-W", "ignore", *arguments], cwd=self.place, env=env, capture_output=True, text=True
        )

    def lakehouse(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command that the installation made."""
        return self.python(str(self.packages / "bin" / "lakehouse"), *arguments)

    def task(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the entry point as a Python wheel task of the bundle does."""
        return self.python("-c", AS_A_TASK, "lakehouse_assets", "lakehouse-task", *arguments)


@pytest.fixture(name="packages", scope="module")
def _packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages = tmp_path_factory.mktemp("packages")
    _uv(
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--no-deps",
        "--python",
        sys.executable,
        "--target",
        str(packages),
        str(wheel),
    )
    return packages


@pytest.fixture(name="installed")
def _installed(packages: Path, tmp_path: Path) -> Installed:
    return Installed(packages, tmp_path)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every file of the package is in the wheel (catalog, SQL, data, settings, scripts), and no other file."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "lakehouse_assets"],
        cwd=TOP, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    wanted = {name for name in listed if (TOP / name).exists()}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert found == wanted
    assert {"lakehouse_assets/py.typed", "lakehouse_assets/catalog/sensors.yaml"} <= found


def test_only_the_package_is_installed(installed: Installed) -> None:
    """The wheel puts one package, its metadata and one command into an environment; no tests, no infra."""
    (metadata,) = installed.packages.glob("lakehouse_assets-*.dist-info")
    assert {path.name for path in installed.packages.iterdir()} - {".lock"} == {
        "lakehouse_assets",
        metadata.name,
        "bin",
    }
    assert sorted(path.name for path in (installed.packages / "bin").iterdir()) == ["lakehouse", "lakehouse-task"]


def test_the_checkout_is_out_of_reach(installed: Installed) -> None:
    """What the other tests run is the installed package: neither the checkout nor its tests can be imported."""
    code = (
        "import importlib.util as u, json, lakehouse_assets; "
        "print(json.dumps([lakehouse_assets.__file__, u.find_spec('lakehouse_assets_tests') is None]))"
    )
    done = installed.python("-c", code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [str(installed.packages / "lakehouse_assets" / "__init__.py"), True]


def test_the_command_answers(installed: Installed) -> None:
    """`lakehouse --help` and `--version` work from the wheel."""
    assert "Commands:" in installed.lakehouse("--help").stdout
    assert installed.lakehouse("--version").stdout.startswith("lakehouse, version ")


@pytest.mark.slow
def test_the_packaged_catalog_runs(installed: Installed) -> None:
    """The wheel plans and runs the catalog that it holds, with the simulator's data that it holds."""
    database = installed.place / "demo" / "sensors.db"
    made = installed.lakehouse("simulate", "sensors", "--database", str(database), "--hours", "1")
    assert made.returncode == 0, made.stderr

    planned = installed.lakehouse("plan", "group:sensors", "--format", "json")
    assert planned.returncode == 0, planned.stderr
    tables = {row["table"] for row in json.loads(planned.stdout)}
    assert tables == {str(table) for table in load_catalog(PACKAGED_CATALOG, {}).select("group:sensors")}

    done = installed.task("run", "group:sensors", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert {row["state"] for row in json.loads(done.stdout)} == {"written"}


@pytest.mark.slow
def test_the_graph_loads(installed: Installed) -> None:
    """Dagster's definitions load from the wheel: nothing is looked for beside it."""
    code = "from lakehouse_assets.definitions import defs; print(defs().resolve_job_def('everything').name)"
    done = installed.python("-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "everything"), done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("run", "nowhere.nothing"), ("run",), ("run", "bronze.sensor_readings", "--root", "lake")],
    ids=["wrong table", "no table", "failing table"],
)
def test_a_failed_task_raises(installed: Installed, arguments: tuple[str, ...]) -> None:
    """The entry point, called as a function, raises what the command failed with: Databricks shows that as the error."""
    done = installed.task(*arguments)
    assert done.returncode == 1, done.stderr
    assert "RuntimeError: lakehouse" in done.stderr


def test_a_task_that_went_well_returns(installed: Installed) -> None:
    """It does not end its process, as a command line does: Databricks takes every SystemExit for a failure."""
    done = installed.python("-c", f"{AS_A_TASK}; print('returned')", "lakehouse_assets", "lakehouse-task", "--help")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "returned"), done.stderr


def test_the_bundle_calls_what_is_there(installed: Installed) -> None:
    """The names of package and entry point in the bundle's tasks are those of the wheel."""
    spec = importlib.util.spec_from_file_location("bundle_jobs_of_wheel", TOP / "infra" / "bundle" / "jobs.py")
    assert spec is not None
    assert spec.loader is not None
    jobs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(jobs)

    done = installed.python("-c", AS_A_TASK, jobs.PACKAGE, jobs.ENTRY_POINT, "--version")
    assert done.returncode == 0, done.stderr
