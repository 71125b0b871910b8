"""The shape of the code as tests: who may import what, and how large a module may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lakehouse_assets

ROOT = Path(lakehouse_assets.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in MODULES]

ALLOWED = {
    "dagster": ("definitions.py", "build.py", "assets/", "automation/", "databricks/", "cli/"),
    "deltalake": ("lake/delta.py", "lake/faults.py"),
    "duckdb": ("engines/embedded.py",),
    "pyspark": ("engines/spark", "simulators/workspace/"),
    "delta": ("engines/spark", "simulators/workspace/"),
    "databricks": ("databricks/", "simulators/workspace/"),
    "dagster_databricks": ("databricks/",),
    "pykx": ("sources/kdb_pykx.py", "engines/asof_pykx.py"),
    "matplotlib": ("serve/canvas.py",),
    "kafka": ("sources/kafka_", "simulators/kafka"),
    "confluent_kafka": ("sources/kafka_", "simulators/kafka"),
    "adbc_driver_sqlite": ("sources/sqlite_db.py",),
    "adbc_driver_manager": ("sources/sqlite_db.py",),
    "sqlite3": ("simulators/",),
    "pandas": (),
}
"""Library -> the only places that import it."""
LONGEST_MODULE = 400
LONGEST_FUNCTION = 80


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(path: Path) -> Iterator[str]:
    """The top names of everything that a module imports at run time."""
    tree = ast.parse(path.read_text())
    typed = {id(n) for node in ast.walk(tree) if _for_types(node) for child in node.body for n in ast.walk(child)}
    for node in ast.walk(tree):
        if id(node) in typed:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_rooms_are_entered_from_above_only():
    """The import contract in pyproject.toml holds."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_a_library_is_imported_in_its_place_only(path):
    """Vendor libraries have one place each; Dagster stays out of the rooms below it."""
    place = str(path.relative_to(ROOT))
    wrong = [name for name in imported(path) if name in ALLOWED and not place.startswith(ALLOWED[name] or "-")]
    assert not wrong, f"{place} imports {wrong}; legal places: {[ALLOWED[name] for name in wrong]}"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_a_module_says_what_it_is_and_stays_short(path):
    """Every module has a docstring and at most 400 lines, every function at most 80."""
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no docstring"
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


def test_the_definitions_load_without_heavy_libraries():
    """Loading the graph imports no engine, no client and no pandas."""
    heavy = [name for name in ALLOWED if name not in ("dagster", "sqlite3")] + ["boto3", "dagster_databricks"]
    code = (
        "import sys; from lakehouse_assets.build import build_defs; build_defs(); "
        f"found = [n for n in {heavy!r} + ['pyarrow.dataset'] if n in sys.modules]; assert not found, found"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
