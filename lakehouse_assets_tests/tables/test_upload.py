"""The edge uploader: its table, its nodes, its loop."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lakehouse_assets.errors import (
    ForeignTable,
    IncarnationChanged,
    LakehouseError,
    RootUnusable,
    SecretError,
    SettingsError,
    SourceBusy,
    SourceMissing,
    SourceUnreadable,
    TransientError,
)
from lakehouse_assets.settings import Settings
from lakehouse_assets.sources.base import Source
from lakehouse_assets.tables.upload import (
    ATTEMPTS,
    Uploader,
    UploadWork,
    nodes,
    of_uploader,
    open_upload,
    upload,
    what_next,
)
from lakehouse_assets.tables.upload_config import UploadConfig
from lakehouse_assets_tests.cli.lab import execute, readings, rows_of, write


class Bench:
    """A database, a table path and the lines that an uploader says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = directory / "sensor.db"
        self.table = str(directory / "lake" / "bronze" / "readings")
        self.said: list[str] = []
        self.stop = threading.Event()

    def config(self, **keys: object) -> UploadConfig:
        """The configuration."""
        return UploadConfig.model_validate(
            {"sqlite": str(self.database), "table_path": self.table, "interval": 0.01} | keys
        )

    def work(self, **keys: object) -> UploadWork:
        """The work of a configuration."""
        return open_upload(self.config(**keys), Settings(), {})

    def once(self, rebuild: bool = False, **keys: object) -> list[str]:
        """Upload once, as a fresh process would; what was said."""
        before = len(self.said)
        config = self.config(**keys)
        Uploader(config, open_upload(config, Settings(), {}), self.stop, self.said.append).once(rebuild=rebuild)
        return self.said[before:]

    def values(self) -> list[tuple]:
        """(id, v) of the rows that were uploaded."""
        return rows_of(self.table, "id", "v")

    def failing(self, errors: list[LakehouseError], **keys: object) -> Uploader:
        """An uploader whose database fails in these ways first, one after the other, and is stopped when it is fine."""
        config = self.config(**keys)
        work = open_upload(config, Settings(), {})

        def open_(entity: object) -> Source:
            if errors:
                raise errors.pop(0)
            return work.open_source(entity)  # type: ignore[arg-type]

        def say(line: str) -> None:
            self.said.append(line)
            if line.startswith(("uploaded", "nothing")):
                self.stop.set()

        return Uploader(config, replace(work, open_source=open_), self.stop, say)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A database with 100 readings."""
    found = Bench(tmp_path)
    write(found.database, readings(100))
    return found


def test_rows_are_uploaded_once(bench: Bench) -> None:
    """U4, U6, U7: a restart uploads nothing twice, whatever became of a state file; only new rows follow."""
    assert "uploaded 100 rows (batch 1, table version 1" in bench.once()[0]
    assert bench.once() == ["nothing new"]
    write(bench.database, readings(10, first=100))
    assert bench.once()[0].startswith("uploaded 10 rows")
    assert sorted(number for number, _ in bench.values()) == list(range(1, 111))


def test_text_timestamps_are_no_trouble(bench: Bench) -> None:
    """U6: texts stay texts as they were; no state file is made, nothing is uploaded again after a restart."""
    bench.once()
    assert rows_of(bench.table, "timestamp")[0] == ("2025-05-01T00:00:00",)
    assert sorted(path.name for path in bench.directory.iterdir()) == ["lake", "sensor.db"]


def test_equal_and_older_timestamps_are_uploaded(bench: Bench) -> None:
    """U8, U9, U24: rows that come later with an equal, an earlier or an oddly written time are uploaded."""
    bench.once()
    late = ["2025-05-01T00:00:59", "2025-04-30T00:00:00", "2025-05-01 23:59:59", "2025-05-01T00:00:00+00:00", None, ""]
    write(bench.database, [(text, 1.0) for text in late])
    bench.once(batch_rows=2)
    assert len(bench.values()) == 106


def test_a_batch_ends_after_batch_rows(bench: Bench) -> None:
    """U5: batches are bounded."""
    assert len(bench.once(batch_rows=30)) == 4
    assert len(bench.values()) == 100


def test_odd_names_and_new_columns(bench: Bench) -> None:
    """U10: names that need quotes and columns that are added later are no trouble."""
    execute(
        bench.database,
        'ALTER TABLE readings RENAME TO "select ""from"',
        'ALTER TABLE "select ""from" RENAME v TO "group"',
    )
    bench.once()
    execute(
        bench.database,
        'ALTER TABLE "select ""from" ADD COLUMN note TEXT',
        'INSERT INTO "select ""from" (note) VALUES (\'x\')',
    )
    bench.once()
    assert rows_of(bench.table, "id", "note")[-1] == (99, None)
    assert (101, "x") in rows_of(bench.table, "id", "note")


def test_a_value_that_does_not_fit_goes_to_quarantine_beside_the_table(bench: Bench) -> None:
    """A row that does not fit never stops the upload and is never lost."""
    write(bench.database, [("2025-05-02", "n/a")])
    assert "101 rows, 1 of them to quarantine" in bench.once()[0]
    assert len(bench.values()) == 100
    assert rows_of(f"{bench.table}_quarantine", "_reasons") == [(["cast_failed:v"],)]


def test_plans_stand_beside_the_table(bench: Bench) -> None:
    """The plans of the table are in `<table_path>__batches`, and nowhere else."""
    bench.once()
    found = sorted(path.name for path in Path(bench.table).parent.iterdir())
    assert found == ["readings", "readings__batches"]
    assert not (bench.directory / "lake" / "control").exists()


def test_two_nodes_feed_one_table(bench: Bench) -> None:
    """Nodes are known by `node_id`: equal paths and equal row numbers are no trouble, and rows say whose they are."""
    bench.once(node_id="one")
    other = Bench(bench.directory)
    other.database = bench.directory / "two" / "sensor.db"
    write(other.database, readings(70, first=500))
    other.once(node_id="two")
    write(bench.database, readings(5, first=100))
    bench.once(node_id="one")
    found = rows_of(bench.table, "_source", "id")
    assert [source for source, _ in found].count("one") == 105
    assert [source for source, _ in found].count("two") == 70
    assert nodes(bench.work()) == ["one", "two"]


def test_a_second_node_without_a_name_is_found_out(bench: Bench) -> None:
    """Two nodes without `node_id` are one name: the other database is refused, and the error says to set node_id."""
    bench.once()
    other = Bench(bench.directory)
    other.database = bench.directory / "two" / "sensor.db"
    write(other.database, readings(300, first=500))
    with pytest.raises(IncarnationChanged, match=r"give each its own node_id(.|\n)*--full-refresh"):
        other.once()
    assert len(bench.values()) == 100


def test_a_replaced_database_under_a_new_name(bench: Bench) -> None:
    """The remedies work: a new node_id uploads the new database beside what is there; a rebuild starts over."""
    bench.once()
    bench.database.unlink()
    write(bench.database, readings(20, first=900))
    with pytest.raises(IncarnationChanged):
        bench.once()
    bench.once(node_id="again")
    assert len(bench.values()) == 120
    with pytest.raises(SettingsError, match="would remove the rows of other nodes: ''"):
        bench.once(rebuild=True, node_id="again")


def test_a_rebuild_starts_the_table_over(bench: Bench) -> None:
    """`--full-refresh` takes the database as it is now: updated rows are mended."""
    bench.once()
    execute(bench.database, "UPDATE readings SET v = -1 WHERE id = 1")
    assert bench.once() == ["nothing new"]
    bench.once(rebuild=True)
    assert (1, -1.0) in bench.values()
    assert len(bench.values()) == 100
    assert bench.once() == ["nothing new"]


def test_a_preview_writes_nothing(bench: Bench) -> None:
    """`what_next` makes no directory."""
    ((_, draft),) = what_next(bench.work())
    assert draft.end["rowid"] == 100  # type: ignore[union-attr]
    assert not (bench.directory / "lake").exists()


def test_a_table_that_moved_stays_its_own(bench: Bench) -> None:
    """A path is never identity: a table that is moved with its plans is gone on with."""
    bench.once()
    moved = bench.directory / "elsewhere"
    moved.mkdir()
    for name in ("readings", "readings__batches"):
        (Path(bench.table).parent / name).rename(moved / name.replace("readings", "rows"))
    bench.table = str(moved / "rows")
    assert bench.once() == ["nothing new"]


def test_a_table_of_somebody_else_is_refused(bench: Bench) -> None:
    """A table that the uploader did not make is left as it is."""
    import deltalake
    import pyarrow as pa

    deltalake.write_deltalake(bench.table, pa.table({"id": [1], "v": [0.0]}))
    with pytest.raises(ForeignTable, match="move it away"):
        bench.once()
    assert bench.values() == [(1, 0.0)]


def test_remedies_are_those_of_an_uploader(bench: Bench) -> None:
    """No error of an uploader sends people to `lakehouse run`."""
    bench.once()
    import shutil

    shutil.rmtree(f"{bench.table}__batches")
    with pytest.raises(LakehouseError) as caught:
        bench.once()
    assert "lakehouse upload --config FILE --full-refresh" in str(caught.value)
    assert "lakehouse run" not in str(caught.value)


def test_errors_keep_their_facts() -> None:
    """The class, value, choices and facts of an error stay."""
    error = SourceBusy("locked", value="x", choices=["y"], fix="lakehouse run --full-refresh edge.upload", n=1)
    found = of_uploader(error)
    assert (type(found), found.value, found.choices, found.facts) == (SourceBusy, "x", ("y",), {"n": 1})
    assert found.fix == "lakehouse upload --config FILE --full-refresh"


@pytest.mark.parametrize("path", ["s3://bucket", "s3://bucket/", "/"])
def test_a_table_path_needs_a_place_beside_it(bench: Bench, path: str) -> None:
    """The plans stand beside the table, so the table cannot be a whole bucket or disk."""
    bench.table = path
    with pytest.raises(SettingsError, match="table_path must name a directory"):
        bench.work()


@pytest.mark.parametrize("path", ["abfss://c@a.dfs.core.windows.net/t/t", "/lake/[t]/t"])
def test_a_table_path_that_no_store_has(bench: Bench, path: str) -> None:
    """An unknown scheme or an illegal character is named."""
    bench.table = path
    with pytest.raises(RootUnusable):
        bench.work()


def test_a_secret_is_resolved_when_it_is_needed(bench: Bench) -> None:
    """§7.9: `${secret:NAME}` is looked up in the environment; a missing one is named, never a value."""
    config = bench.config(storage_options={"AWS_SECRET_ACCESS_KEY": "${secret:KEY}"})
    assert open_upload(config, Settings(), {"KEY": "v"}).lake.storage.options["AWS_SECRET_ACCESS_KEY"] == "v"
    with pytest.raises(SecretError, match="KEY"):
        open_upload(config, Settings(), {})


def test_tables_and_columns_are_chosen(bench: Bench) -> None:
    """U2, U20: with several tables one must be named; `timestamp_col` is the cursor."""
    execute(bench.database, "CREATE TABLE other (n INTEGER)")
    with pytest.raises(SourceMissing, match=r"2 tables: other, readings"):
        bench.once()
    bench.once(table="readings", timestamp_col="timestamp")
    assert len(bench.values()) == 100


def test_a_transient_failure_is_tried_again(bench: Bench) -> None:
    """A locked database is tried again, said each time; then rows are uploaded."""
    bench.failing([SourceBusy("locked"), SourceBusy("locked")]).once()
    assert [line.split(":")[0].split(",")[0] for line in bench.said[:2]] == [
        "FAILED (transient; attempt 1",
        "FAILED (transient; attempt 2",
    ]
    assert len(bench.values()) == 100


def test_once_gives_up_after_some_attempts(bench: Bench) -> None:
    """With --once a failure that stays ends in its error."""
    with pytest.raises(TransientError):
        bench.failing([SourceBusy("locked")] * 50).once()
    assert len(bench.said) == ATTEMPTS - 1


def test_once_ends_at_a_terminal_failure(bench: Bench) -> None:
    """With --once what somebody has to mend is not tried again."""
    with pytest.raises(SourceUnreadable):
        bench.failing([SourceUnreadable("corrupt")]).once()
    assert bench.said == []


def test_the_loop_never_gives_up_and_says_so(bench: Bench) -> None:
    """U5, U25: whatever fails is said each time and tried again; in the end every row is there once."""
    errors: list[LakehouseError] = [SourceUnreadable("corrupt"), SourceBusy("locked"), SourceUnreadable("corrupt")]
    bench.failing(errors).run()
    assert ["needs somebody" in line for line in bench.said[:3]] == [True, False, True]
    assert all("FAILED" in line for line in bench.said[:3])
    assert len(bench.values()) == 100


@pytest.mark.parametrize("error", [SourceMissing("no such file"), SettingsError("no such option")])
def test_the_loop_does_not_start_without_what_its_configuration_names(bench: Bench, error: LakehouseError) -> None:
    """U2: a missing database or table at the start ends it."""
    with pytest.raises(type(error)):
        bench.failing([error]).run()


def test_a_database_that_goes_missing_later_is_waited_for(bench: Bench) -> None:
    """After a good start a missing database is a failure that is tried again."""
    bench.once()
    hidden = bench.database.with_suffix(".away")

    def say(line: str) -> None:
        bench.said.append(line)
        if line == "nothing new" and bench.database.exists():
            bench.database.rename(hidden)
        elif line.startswith("FAILED"):
            hidden.rename(bench.database)
            write(bench.database, readings(1, first=100))
        elif line.startswith("uploaded"):
            bench.stop.set()

    config = bench.config()
    Uploader(config, bench.work(), bench.stop, say).run()
    assert any("no such database file" in line for line in bench.said)
    assert len(bench.values()) == 101


def test_a_stop_is_heeded_between_batches(bench: Bench) -> None:
    """A stop ends the uploader after the batch at hand; the next start goes on behind it."""
    config = bench.config(batch_rows=10)

    def say(line: str) -> None:
        bench.said.append(line)
        bench.stop.set()

    Uploader(config, bench.work(batch_rows=10), bench.stop, say).run()
    assert len(bench.said) == 1
    assert len(bench.values()) == 10
    bench.stop.clear()
    bench.once()
    assert len(bench.values()) == 100


def test_a_stop_ends_the_waiting(bench: Bench) -> None:
    """A stop while the next attempt is waited for ends it at once, and says what was wrong."""
    uploader = bench.failing([SourceBusy("locked")] * 1000, interval=60)
    threading.Timer(0.5, bench.stop.set).start()
    uploader.run()
    assert bench.said[-1].startswith("stopped while this was wrong: locked")


def test_a_notice_is_told_once(bench: Bench) -> None:
    """Deleted rows are told of, also when nothing is new, with an uploader's remedy; each text once."""
    bench.once()
    execute(bench.database, "DELETE FROM readings WHERE id = 3")
    config = bench.config()
    uploader = Uploader(config, bench.work(), bench.stop, bench.said.append)
    uploader.once()
    uploader.once()
    told = [line for line in bench.said if line.startswith("notice")]
    assert len(told) == 1
    assert told[0].startswith("notice rows_missing: ")
    assert told[0].endswith("lakehouse upload --config FILE --full-refresh")


def test_upload_yields_nothing_when_nothing_is_new(bench: Bench) -> None:
    """The generator is empty."""
    assert len(list(upload(bench.work()))) == 1
    assert list(upload(bench.work())) == []
