"""`lakehouse upload` as a process: arguments, signals, exit codes."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse_assets_tests.cli.lab import Machine, execute, readings, rows_of, write
from lakehouse_assets_tests.conftest import Elsewhere

READS_UPLOADED = """
    delta_live_store:
      - entity_id: b
        source: {database}
        source_format: sqlite
        destination: bronze.readings
        lakehouse: {{landed_by: upload}}
      - entity_id: s
        source: bronze.readings
        source_format: dlt
        destination: silver.readings
        select_expr: [id, v]
        expectations: {{expect_all_or_drop: {{small: v < 90}}}}
      - entity_id: q
        source: bronze.readings_quarantine
        source_format: dlt
        destination: gold.broken
        select_expr: ["try_element_at(_reasons, 1) AS reason"]
"""


@pytest.fixture
def lab(machine: Machine) -> Machine:
    """A database with 100 readings, and a configuration that uploads to bronze of a lake."""
    write(machine.database, readings(100))
    machine.configure(sqlite=str(machine.database), table_path=f"{machine.root}/bronze/readings", interval=0.2)
    return machine


def config(machine: Machine) -> str:
    """The path of the configuration."""
    return str(machine.directory / "uploader.yaml")


def test_once(lab: Machine) -> None:
    """`--once` uploads what is there and ends with 0; its log has times and counts, and stdout is empty."""
    done = lab.process("upload", "--config", config(lab), "--once")
    assert (done.returncode, done.stdout) == (0, "")
    first, second, last = (line.split(" ", 1) for line in done.stderr.splitlines())
    assert first[0].endswith("Z")
    assert first[1] == f"uploading {lab.database} to {lab.root}/bronze/readings, once"
    assert second[1].startswith("uploaded 100 rows (batch 1, table version 1")
    assert last[1] == "done"
    assert len(lab.rows("bronze.readings")) == 100


def test_a_catalog_reads_an_uploaded_table(lab: Machine) -> None:
    """`landed_by: upload`: a run never lands the table, and what reads it and its quarantine follows."""
    write(lab.database, [("2025-05-02T00:00:00", "n/a")])
    lab.declare(READS_UPLOADED)
    lab.lakehouse("upload", "--config", config(lab), "--once")
    done = lab.lakehouse("run", "*", "--format", "json")
    assert done.exit_code == 0, done.stderr
    assert {row["table"]: (row["state"], row["valid"]) for row in json.loads(done.stdout)} == {
        "bronze.readings": ("landed elsewhere", 0),
        "silver.readings": ("written", 90),
        "gold.broken": ("written", 1),
    }
    write(lab.database, readings(3))
    lab.lakehouse("upload", "--config", config(lab), "--once")
    again = {row["table"]: row["rows_in"] for row in json.loads(lab.lakehouse("run", "*", "--format", "json").stdout)}
    assert again == {"bronze.readings": 0, "silver.readings": 3, "gold.broken": 0}


def test_a_catalog_that_lands_the_table_itself_is_refused(lab: Machine) -> None:
    """Without `landed_by: upload` a run would land the same rows again: it is refused."""
    lab.lakehouse("upload", "--config", config(lab), "--once")
    lab.declare(READS_UPLOADED.replace("        lakehouse: {{landed_by: upload}}\n", ""))
    done = lab.lakehouse("run", "bronze.readings")
    assert done.exit_code == 1
    assert "was not made for bronze.readings" in done.stderr
    assert len(lab.rows("bronze.readings")) == 100


def test_an_uploader_is_always_embedded(lab: Machine) -> None:
    """What computes elsewhere does not matter at the edge."""
    assert lab.lakehouse("upload", "--config", config(lab), "--once", LAKEHOUSE_ENGINE="spark").exit_code == 0


def test_dry_run_prints_the_plan_and_writes_nothing(lab: Machine) -> None:
    """`--dry-run` says what would be read, on stdout."""
    done = lab.lakehouse("upload", "--config", config(lab), "--dry-run", "--format", "json")
    assert done.exit_code == 0
    (row,) = json.loads(done.stdout)
    assert (row["table"], row["does"], row["end"]["rowid"]) == (f"{lab.root}/bronze/readings", "append", 100)
    assert not Path(lab.root).exists()


def test_state_dir_is_explained(lab: Machine) -> None:
    """U4: a given `state_dir` is accepted, not made, and explained."""
    done = lab.lakehouse("upload", "--config", config(lab), "--once", STATE_DIR=str(lab.directory / "state"))
    assert done.exit_code == 0
    assert "state_dir" in done.stderr
    assert "is not needed any more" in done.stderr
    assert not (lab.directory / "state").exists()


def test_a_timestamp_column_is_explained(lab: Machine) -> None:
    """U3, U8: what telling rows by a time costs is said."""
    done = lab.lakehouse("upload", "--config", config(lab), "--once", "--timestamp-col", "timestamp")
    assert "new rows are told by timestamp" in done.stderr


def test_command_line_before_environment_before_file(lab: Machine) -> None:
    """U20: all three are taken, in this order."""
    environ = {"TABLE_PATH": f"{lab.root}/env/t", "ONCE": "true"}
    assert lab.lakehouse("upload", "--config", config(lab), **environ).exit_code == 0
    assert len(rows_of(f"{lab.root}/env/t")) == 100
    assert (
        lab.lakehouse("upload", "--config", config(lab), "--storage-uri", f"{lab.root}/cli/t", **environ).exit_code == 0
    )
    assert len(rows_of(f"{lab.root}/cli/t")) == 100


def _missing(lab: Machine) -> None:
    lab.database.unlink()


def _no_table(lab: Machine) -> None:
    execute(lab.database, "DROP TABLE readings")


def _two_tables(lab: Machine) -> None:
    execute(lab.database, "CREATE TABLE other (n INTEGER)")


def _no_table_path(lab: Machine) -> None:
    lab.configure(sqlite=str(lab.database))


def _no_timestamp(lab: Machine) -> None:
    execute(lab.database, "DROP TABLE readings", "CREATE TABLE readings (k TEXT PRIMARY KEY) WITHOUT ROWID")


@pytest.mark.parametrize(
    ("break_", "told"),
    [
        (_missing, "there is no such database file"),
        (_no_table, "holds no table"),
        (_two_tables, "holds 2 tables: other, readings"),
        (_no_table_path, "which table to upload to (table_path)"),
        (_no_timestamp, "no column that is called `timestamp`"),
    ],
)
@pytest.mark.parametrize("once", ["--once", "--no-once"])
def test_what_is_missing_at_the_start_ends_it(lab: Machine, break_, told: str, once: str) -> None:  # type: ignore[no-untyped-def]
    """U2, U3: no file, no table, several tables, no time, no destination: exit code 1, with and without --once."""
    break_(lab)
    done = lab.lakehouse("upload", "--config", config(lab), once)
    assert done.exit_code == 1
    assert told in done.stderr
    assert "next: " in done.stderr
    assert not lab.exists("bronze.readings")


def _no_database(lab: Machine) -> None:
    lab.database.write_text("no database " * 1000)


def _corrupt(lab: Machine) -> None:
    text = bytearray(lab.database.read_bytes())
    text[4096:8192] = b"\xff" * 4096
    lab.database.write_bytes(text)


@pytest.mark.parametrize(("break_", "told"), [(_no_database, "is not an SQLite database"), (_corrupt, "is corrupt")])
def test_an_unreadable_database_is_terminal_once(lab: Machine, break_, told: str) -> None:  # type: ignore[no-untyped-def]
    """Not a database, a corrupt page: with --once exit code 1."""
    break_(lab)
    done = lab.lakehouse("upload", "--config", config(lab), "--once")
    assert done.exit_code == 1
    assert told in done.stderr


def test_a_configuration_that_is_not_there_is_wrong_use(lab: Machine) -> None:
    """Exit code 2, with the path."""
    done = lab.lakehouse("upload", "--config", lab.directory / "none.yaml")
    assert done.exit_code == 2
    assert "none.yaml" in done.stderr


def test_a_configuration_with_faults_is_wrong_use(lab: Machine) -> None:
    """Exit code 2, with file and line."""
    lab.configure("sqllite: a.db\n")
    done = lab.lakehouse("upload", "--config", config(lab))
    assert done.exit_code == 2
    assert "uploader.yaml:1: unknown key 'sqllite' (did you mean 'sqlite'?)" in done.stderr


@pytest.mark.parametrize("what", ["database", "lake"])
def test_missing_permission_is_named(lab: Machine, as_nobody: Elsewhere, what: str) -> None:
    """An unprivileged user who may not read the database, or not write the lake: exit code 1, and what to do."""
    Path(lab.root).mkdir(mode=0o755 if what == "database" else 0o555)
    lab.database.chmod(0o000 if what == "database" else 0o644)
    done = lab.in_(as_nobody, "upload", "--config", config(lab), "--once")
    assert done.returncode == 1
    assert ("cannot be opened by user" if what == "database" else f"{lab.root}/bronze") in done.stderr
    assert "next: " in done.stderr
    assert "Traceback" not in done.stderr
    assert lab.files() == {}


@pytest.mark.slow
def test_a_full_disk_is_tried_again_and_named(lab: Machine, on_tiny_disk: Elsewhere) -> None:
    """Space may come back: with --once it is tried some times, each said; then exit code 1."""
    write(lab.database, [(str(n) * 10, n / 7) for n in range(100_000)])
    path = lab.directory / "disk" / "lake" / "readings"
    done = lab.in_(on_tiny_disk, "upload", "--config", config(lab), "--once", "--table-path", path)
    assert done.returncode == 1
    assert "FAILED (transient; attempt 1" in done.stderr
    assert "is full; nothing was half-written" in done.stderr


class Loop:
    """An uploader in its loop, with its log."""

    def __init__(self, machine: Machine, *arguments: str) -> None:
        self.child = machine.start("upload", "--config", config(machine), *arguments)
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()

    def wait_for(self, text: str) -> None:
        """Wait until a line holds `text`."""
        with self._news:
            found = self._news.wait_for(lambda: any(text in line for line in self.lines), timeout=60)
        assert found, self.lines

    def end(self, how: int) -> int:
        """Send a signal; the exit code."""
        self.child.send_signal(how)
        code = self.child.wait(timeout=60)
        self._thread.join(timeout=60)
        assert self.child.stdout is not None
        self.child.stdout.close()
        assert self.child.stderr is not None
        self.child.stderr.close()
        return code


@pytest.fixture
def loop(lab: Machine) -> Iterator[Loop]:
    """An uploader in its loop."""
    found = Loop(lab)
    yield found
    if found.child.poll() is None:
        found.end(signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_it_cleanly(lab: Machine, loop: Loop, how: signal.Signals) -> None:
    """SIGTERM and Ctrl-C end it with 0, after new rows were taken up in the loop."""
    loop.wait_for("uploaded 100 rows")
    write(lab.database, readings(7))
    loop.wait_for("uploaded 7 rows")
    assert loop.end(how) == 0
    assert loop.lines[-2:][0] == f"{how.name}: stopping after the batch at hand"
    assert loop.lines[-1].endswith(" stopped")
    assert "Traceback" not in "\n".join(loop.lines)
    assert len(lab.rows("bronze.readings")) == 107


def test_a_failure_in_the_loop_is_said_and_tried_again(lab: Machine, loop: Loop) -> None:
    """U5: a database that is replaced is refused loudly, again and again; when the old one is back, it goes on."""
    loop.wait_for("uploaded 100 rows")
    good = lab.database.read_bytes()
    other = lab.directory / "other.db"
    write(other, readings(3, first=50))
    other.replace(lab.database)
    loop.wait_for("attempt 2")
    assert any("FAILED (needs somebody" in line for line in loop.lines)
    restored = lab.directory / "restored.db"
    restored.write_bytes(good)
    write(restored, readings(1))
    restored.replace(lab.database)
    loop.wait_for("uploaded 1 rows")
    assert loop.end(signal.SIGTERM) == 0
    assert len(lab.rows("bronze.readings")) == 101
