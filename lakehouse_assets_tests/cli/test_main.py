"""The command itself: its help, its start, its exit codes."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lakehouse_assets.cli.main import COMMANDS, code_of, main
from lakehouse_assets.errors import CatalogError, LakeError, SecretError, SettingsError, SqlError, StoreFailed
from lakehouse_assets_tests.cli.lab import Machine, readings, write

HEAVY = ("duckdb", "deltalake", "pyarrow", "pydantic", "sqlglot", "rich", "dagster", "yaml")


def test_help_is_fast_and_imports_no_heavy_library() -> None:
    """`lakehouse --help` takes less than 0.4 s of this machine's time: no command is imported for it."""
    code = (
        "import sys\nfrom lakehouse_assets.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr.strip() == "[]"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.4


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_list_says(name: str) -> None:
    """The list of commands names commands that exist, and each explains itself."""
    command = main.commands[name]
    assert command.name == name
    assert command.help


def test_the_help_lists_every_command(machine: Machine) -> None:
    """The commands stand in the help without being imported."""
    told = machine.lakehouse("--help").stdout
    assert all(f"\n  {name}" in told for name in COMMANDS)


def test_version(machine: Machine) -> None:
    """`lakehouse --version` says the version of the distribution."""
    from importlib.metadata import version

    assert machine.lakehouse("--version").stdout == f"lakehouse, version {version('lakehouse-assets')}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("x"), 2),
        (SecretError("x"), 2),
        (CatalogError("x"), 2),
        (SqlError("x"), 2),
        (LakeError("x"), 1),
        (StoreFailed("x"), 1),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    """2: the command, its settings or the catalog are wrong; 1: it failed."""
    assert code_of(error) == code  # type: ignore[arg-type]


def test_an_unknown_command_is_wrong_use(machine: Machine) -> None:
    """An unknown command exits with 2."""
    done = machine.lakehouse("rum")
    assert done.exit_code == 2
    assert "rum" in done.stderr


def test_an_error_is_a_message_not_a_traceback(machine: Machine) -> None:
    """A wrong setting is said in a sentence on stderr; stdout stays empty; exit code 2."""
    done = machine.process("entities", "list", LAKEHOUSE_CATALOG=str(machine.directory / "nowhere"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no such catalog directory" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", [("--debug",), ()])
def test_debug_shows_the_traceback(machine: Machine, how: tuple[str, ...]) -> None:
    """`--debug` and LAKEHOUSE_DEBUG show where an error came from; the exit code stays."""
    environ = {} if how else {"LAKEHOUSE_DEBUG": "1"}
    done = machine.lakehouse(*how, "entities", "list", "--catalog", "nowhere", **environ)
    assert done.exit_code == 2
    assert "Traceback" in done.stderr


def test_a_wrong_setting_names_its_variable(machine: Machine) -> None:
    """A setting that is not legal is named with its environment variable; exit code 2."""
    done = machine.lakehouse("sql", "SELECT 1", LAKEHOUSE_ENGINE="dusk")
    assert done.exit_code == 2
    assert "LAKEHOUSE_ENGINE" in done.stderr


def test_an_engine_that_cannot_start_says_what_is_missing(machine: Machine, tmp_path: Path) -> None:
    """`--engine spark` without Delta's jars names them and the remedy; nothing is written."""
    write(machine.database, readings(3))
    machine.declare()
    child = machine.start("run", "*", "--engine", "spark", LAKEHOUSE_SPARK_JARS=str(tmp_path))
    _, told = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "make setup-jvm" in told
    assert machine.files() == {}


def test_a_reader_that_stops_reading_is_no_error(machine: Machine) -> None:
    """`lakehouse sql … | head -1` ends without a traceback."""
    digits = "d AS (" + " UNION ALL ".join(f"SELECT {n} AS n" for n in range(10)) + ")"
    joins = " ".join(f"CROSS JOIN d AS d{n}" for n in range(4))
    child = machine.start("sql", "--format", "csv", f"WITH {digits} SELECT d.n FROM d {joins}")
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == "n\n"
    child.stdout.close()
    assert "Traceback" not in child.stderr.read()
    child.stderr.close()
    child.wait(timeout=60)
