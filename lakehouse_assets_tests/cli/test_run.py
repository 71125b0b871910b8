"""`lakehouse run`."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import time
from pathlib import Path

from lakehouse_assets_tests.cli.lab import COMMAND, Machine, eventually, execute, readings, reports, write
from lakehouse_assets_tests.conftest import Elsewhere

LATER = """
    delta_live_store:
      - entity_id: h
        source: trades
        source_format: kinesis
        destination: silver.joined
        source_schema: price DOUBLE
      - entity_id: d
        source: silver.joined
        source_format: dlt
        destination: gold.of_joined
"""
VIEW = """
    delta_live_store:
      - entity_id: v
        source: silver.readings
        source_format: dlt
        destination: silver.few
        destination_type: view
        select_expr: [id]
"""


def test_run_carries_rows_through_the_layers(lab: Machine) -> None:
    """Every table is made, upstream tables first; rows in = valid + quarantined + dropped."""
    done = reports(lab, "run", "*")
    assert list(done) == ["bronze.readings", "silver.readings", "gold.thirds"]
    silver = done["silver.readings"]
    assert (silver["state"], silver["rows_in"], silver["valid"], silver["quarantined"]) == ("written", 200, 180, 20)
    assert silver["version"] == 1
    assert len(lab.rows("bronze.readings")) == 200
    assert len(lab.rows("silver.readings_quarantine")) == 20
    assert sum(n for _, n, _ in lab.rows("gold.thirds", "third", "n", "total")) == 180


def test_a_second_run_writes_nothing_and_says_so(lab: Machine) -> None:
    """Nothing new: no file of the lake changes, and stderr says so."""
    assert lab.lakehouse("run", "*").exit_code == 0
    before = lab.files()
    done = lab.lakehouse("run", "*")
    assert done.exit_code == 0
    assert "nothing new: no table was written" in done.stderr
    assert lab.files() == before


def test_a_run_takes_only_what_is_new(lab: Machine) -> None:
    """New rows alone are read; the tables equal those of one run over everything."""
    lab.lakehouse("run", "*")
    write(lab.database, readings(30, first=200))
    assert reports(lab, "run", "*")["bronze.readings"]["rows_in"] == 30
    at_once = Machine(lab.directory, root=str(lab.directory / "clean"))
    at_once.lakehouse("run", "*")
    for table in ("bronze.readings", "silver.readings", "silver.readings_quarantine", "gold.thirds"):
        assert lab.rows(table) == at_once.rows(table)


def test_a_run_ends_while_rows_keep_arriving(lab: Machine) -> None:
    """What comes after a batch was planned belongs to the next run: a source that never rests does not hold a run."""
    child = lab.start("simulate", "sensors", "--database", lab.database, "--live", "--rate", "500", "--sensors", "5")
    lab.declare(
        "delta_live_store:\n  - {{entity_id: b, source: {database}, source_format: sqlite, destination: bronze.live, "
        "read_options: {{sqlite.table: sensor_readings}}}}"
    )
    try:
        lab.declare(name="other.yaml", yaml="delta_live_store: []")
        eventually(lambda: "sensor_readings" in tables_of(lab.database))
        began = time.monotonic()
        done = lab.process("run", "*", "--format", "json")
        assert done.returncode == 0, done.stderr
        assert 1 <= json.loads(done.stdout)[0]["batches"] <= 10  # more than one where rows come between two looks
        assert time.monotonic() - began < 30
    finally:
        child.terminate()
        child.communicate(timeout=30)


def tables_of(database: Path) -> set[str]:
    """The tables of a database."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(database)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}


def test_a_selection_runs_its_tables_alone(lab: Machine) -> None:
    """`bronze.readings` runs one table; `+silver.readings` what it is made from as well."""
    assert list(reports(lab, "run", "bronze.readings")) == ["bronze.readings"]
    assert list(reports(lab, "run", "+silver.readings")) == ["bronze.readings", "silver.readings"]
    assert not lab.exists("gold.thirds")


def test_an_unknown_table_is_wrong_use(lab: Machine) -> None:
    """A selection that names nothing exits with 2 and points at the nearest table."""
    done = lab.lakehouse("run", "silver.reading")
    assert done.exit_code == 2
    assert "did you mean 'silver.readings'?" in done.stderr


def test_run_without_tables_is_wrong_use(lab: Machine) -> None:
    """Neither SELECTION nor --full-refresh: exit code 2, and what to write."""
    done = lab.lakehouse("run")
    assert done.exit_code == 2
    assert "SELECTION" in done.stderr


def test_a_table_that_fails_holds_up_only_what_reads_it(lab: Machine) -> None:
    """A failing table is named, its downstream is skipped by name, the others run; exit code 1."""
    lab.declare(
        "delta_live_store:\n"
        "  - {{entity_id: x, source: {database}.gone, source_format: sqlite, destination: bronze.gone}}\n"
        "  - {{entity_id: y, source: bronze.gone, source_format: dlt, destination: silver.gone}}\n"
        "  - {{entity_id: z, source: silver.gone, source_format: dlt, destination: gold.gone}}\n",
        name="gone.yaml",
    )
    done = reports(lab, "run", "*", code=1)
    states = {table: row["state"] for table, row in done.items()}
    assert states == {
        "bronze.gone": "failed",
        "silver.gone": "skipped",
        "gold.gone": "skipped",
        "bronze.readings": "written",
        "silver.readings": "written",
        "gold.thirds": "written",
    }
    assert "sensor.db.gone" in done["bronze.gone"]["error"]
    assert done["silver.gone"]["because"] == "bronze.gone"
    told = lab.lakehouse("run", "*").stderr
    assert "failed: bronze.gone; skipped: silver.gone, gold.gone; written: 0 of 6 tables" in told


def test_what_this_version_does_not_run_fails_by_name_while_the_others_run(lab: Machine) -> None:
    """An entity of a kind of later versions fails naming it and what is missing; the others run; exit code 1."""
    lab.declare(LATER, "later.yaml")
    done = reports(lab, "run", "*", code=1)
    assert done["silver.joined"]["state"] == "failed"
    assert "'h' (silver.joined)" in done["silver.joined"]["error"]
    assert "'kinesis'" in done["silver.joined"]["error"]
    assert done["gold.of_joined"]["state"] == "skipped"
    assert done["gold.thirds"]["state"] == "written"


def test_a_view_is_not_stored(lab: Machine) -> None:
    """A view is passed over."""
    lab.declare(VIEW, "view.yaml")
    assert reports(lab, "run", "*")["silver.few"]["state"] == "view"
    assert not lab.exists("silver.few")


def test_full_refresh_names_and_rebuilds_all_that_is_made_from_the_table(lab: Machine) -> None:
    """`--full-refresh TABLE` needs no selection, says which tables start over, and starts them over."""
    lab.lakehouse("run", "*")
    execute(lab.database, "UPDATE readings SET v = 1000 WHERE id <= 10")
    assert lab.lakehouse("run", "*").exit_code == 0
    done = lab.lakehouse("run", "--full-refresh", "bronze.readings", "--format", "json")
    assert done.exit_code == 0, done.stderr
    assert "to be started over: bronze.readings, silver.readings, gold.thirds" in done.stderr
    assert [row["state"] for row in json.loads(done.stdout)] == ["written"] * 3
    assert "interrupted" not in done.stderr
    assert [v for (v,) in lab.rows("silver.readings_quarantine", "v")].count(1000.0) == 10
    assert lab.lakehouse("run", "*").stderr.endswith("nothing new: no table was written\n")


def test_full_refresh_of_a_view_is_refused(lab: Machine) -> None:
    """What is not written by a run cannot be rebuilt."""
    lab.declare(VIEW, "view.yaml")
    done = lab.lakehouse("run", "--full-refresh", "silver.few")
    assert done.exit_code == 2
    assert "silver.few is not written by a run" in done.stderr


def test_a_rebuild_that_would_lose_rows_is_refused_unless_told(lab: Machine) -> None:
    """`--accept-loss`: the source no longer holds rows that the table has."""
    lab.lakehouse("run", "*")
    execute(lab.database, "DELETE FROM readings WHERE id <= 50")
    refused = lab.lakehouse("run", "--full-refresh", "bronze.readings")
    assert refused.exit_code == 1
    assert "--accept-loss" in refused.stderr
    assert len(lab.rows("bronze.readings")) == 200
    assert lab.lakehouse("run", "--full-refresh", "bronze.readings", "--accept-loss").exit_code == 0
    assert len(lab.rows("bronze.readings")) == 150


def test_deleted_rows_are_told_even_when_nothing_is_new(lab: Machine) -> None:
    """Deletes are outside incremental mode: the count check says so, also in a run that writes nothing."""
    lab.lakehouse("run", "*")
    execute(lab.database, "DELETE FROM readings WHERE id = 7")
    told = lab.lakehouse("run", "bronze.readings").stderr
    assert "rows_missing" in told
    assert "1 rows were deleted" in told


def test_a_foreign_commit_stops_the_table_unless_accepted(lab: Machine) -> None:
    """Rows that somebody else wrote are refused by version; `--accept-foreign` keeps them and goes on."""
    import deltalake

    lab.lakehouse("run", "*")
    uri = f"{lab.root}/bronze/readings"
    deltalake.write_deltalake(
        uri, deltalake.DeltaTable(uri).to_pyarrow_dataset().head(1, use_threads=False), mode="append"
    )
    write(lab.database, readings(1, first=200))
    refused = lab.lakehouse("run", "bronze.readings")
    assert refused.exit_code == 1
    assert "version 2 of bronze.readings changed rows and was not written by this project" in refused.stderr
    assert len(lab.rows("bronze.readings")) == 201
    assert lab.lakehouse("run", "--accept-foreign", "bronze.readings").exit_code == 0
    assert len(lab.rows("bronze.readings")) == 202


def test_a_table_of_somebody_else_is_refused(lab: Machine) -> None:
    """A destination that holds another's table is left as it is."""
    import deltalake
    import pyarrow as pa

    uri = f"{lab.root}/bronze/readings"
    deltalake.write_deltalake(uri, pa.table({"a": [1]}))
    done = lab.lakehouse("run", "bronze.readings")
    assert done.exit_code == 1
    assert "was not made for bronze.readings" in done.stderr
    assert lab.rows("bronze.readings") == [(1,)]


def test_a_partition_of_tables_without_partitions_is_wrong_use(lab: Machine) -> None:
    """`--partition` belongs to tables that are read by partition."""
    done = lab.lakehouse("run", "*", "--partition", "2025-05-01")
    assert done.exit_code == 2
    assert "--partition" in done.stderr


def test_another_database_in_its_place_is_refused(lab: Machine) -> None:
    """A changed incarnation is named, with the remedy; the tables stay as they are."""
    lab.lakehouse("run", "*")
    lab.database.unlink()
    write(lab.database, readings(20, first=5000))
    done = lab.lakehouse("run", "*")
    assert done.exit_code == 1
    assert "is not as it was when 200 rows were read" in done.stderr
    assert "lakehouse run --full-refresh bronze.readings" in done.stderr
    assert len(lab.rows("bronze.readings")) == 200


def test_rows_go_to_stdout_and_words_to_stderr(lab: Machine) -> None:
    """Without a terminal there are plain lines; the summary is alone on stdout."""
    done = lab.process("run", "*")
    assert done.stdout.split()[:3] == ["table", "state", "rows_in"]
    assert "bronze.readings: 200 rows in, version 1" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_a_terminal_shows_progress_and_lines_that_stay(lab: Machine) -> None:
    """Where stderr is a terminal there are bars; stdout stays free of them."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "run", "*"], env=lab.variables(TERM="xterm"), stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as child:
        os.close(theirs)
        told = b""
        with contextlib.suppress(OSError):  # how Linux says that the other side has closed
            while part := os.read(ours, 4096):
                told += part
        os.close(ours)
        assert child.stdout is not None
        assert child.stdout.read().split()[:2] == ["table", "state"]
    assert child.returncode == 0
    assert b"\x1b[" in told
    assert b"bronze.readings: 200 rows in, version 1" in told


def test_a_root_without_permission_is_named(lab: Machine, as_nobody: Elsewhere) -> None:
    """An unprivileged user who may not write the root is told so, and what to do; exit code 1."""
    Path(lab.root).mkdir(mode=0o555)
    done = lab.in_(as_nobody, "run", "*")
    assert done.returncode == 1
    assert f"the lake's root '{lab.root}' is not writable for user" in done.stderr
    assert "chmod" in done.stderr
    assert "Traceback" not in done.stderr
    assert lab.files() == {}


def test_a_database_without_permission_is_named(lab: Machine, as_nobody: Elsewhere) -> None:
    """An unprivileged user who may not read the database is told so; no table is made."""
    lab.database.chmod(0o000)
    done = lab.in_(as_nobody, "run", "*")
    assert done.returncode == 1
    assert f"{lab.database} cannot be opened by user" in done.stderr
    assert lab.files() == {}


def test_a_full_disk_is_named_and_harms_nothing(lab: Machine, on_tiny_disk: Elsewhere) -> None:
    """A lake on a disk of one megabyte: the table fails with the remedy, what reads it is skipped; exit code 1."""
    write(lab.database, [(str(n) * 10, n / 7) for n in range(100_000)])
    done = lab.in_(on_tiny_disk, "run", "*", "--root", lab.directory / "disk" / "lake")
    assert done.returncode == 1
    assert "is full; nothing was half-written" in done.stderr
    assert "next: free space, run again" in done.stderr
    assert "failed: bronze.readings; skipped: silver.readings, gold.thirds" in done.stderr


def test_a_root_that_cannot_be_made_is_named(lab: Machine) -> None:
    """A root below a directory that the user may not write, or below a file, cannot be made."""
    done = lab.lakehouse("run", "*", "--root", lab.database / "lake")
    assert done.exit_code == 1
    assert "cannot be made" in done.stderr
