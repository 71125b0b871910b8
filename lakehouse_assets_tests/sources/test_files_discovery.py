"""What is new, what was rewritten, what vanished, what is still being written: files as streams."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lakehouse_assets.errors import IncarnationChanged, SourceBusy, SourceError, SourceMissing, SourceUnreadable
from lakehouse_assets.sources.base import Past, Position, open_source
from lakehouse_assets.sources.files import DiscoveredFiles, WholeFiles
from lakehouse_assets.sources.files_blocks import BLOCK_BYTES
from lakehouse_assets_tests.sources.contract import drain, ids_of, table_of
from lakehouse_assets_tests.sources.files_making import FORMATS, aged, discovered, entity, put, write


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A landing place."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def stream(directory: Path, **options: object) -> DiscoveredFiles:
    """The directory's files, one by one; each holds ids."""
    found = open_source(discovered(directory, schema="id bigint", **options))
    assert isinstance(found, DiscoveredFiles)
    return found


def whole(directory: Path) -> WholeFiles:
    """The directory's files, all at once."""
    found = open_source(entity(directory, schema="id bigint"))
    assert isinstance(found, WholeFiles)
    return found


def names(position: Position) -> list[str]:
    """The files of a batch."""
    return [path for path, _, _ in position["files"]]


def notices(source: DiscoveredFiles, past: Past) -> dict[str, str]:
    """What `audit` reports: code to message."""
    return {notice.code: notice.message for notice in source.audit(past)}


def test_a_position_names_the_files_of_its_batch_only(directory: Path) -> None:
    """Path, size and time of each, how many there are in all, and a few that came before."""
    put(directory / "a.csv", "1\n")
    source = stream(directory)
    first = source.latest(Past())
    put(directory / "b.csv", "22\n")
    second = source.latest(Past.of(first))
    assert names(first) == ["a.csv"]
    assert names(second) == ["b.csv"]
    assert second["files"][0][1:] == [3, (directory / "b.csv").stat().st_mtime_ns]
    assert (second["count"], second["before"]) == (2, first["files"])


def test_a_late_older_file_is_found(directory: Path) -> None:
    """New is what no plan has, whatever its date and name."""
    put(directory / "b.csv", "1\n")
    source = stream(directory)
    _, past = drain(source, Past())
    put(directory / "a.csv", "0\n")
    os.utime(directory / "a.csv", (1, 1))
    assert drain(source, past)[0] == [0]


def test_old_files_come_first_and_batches_are_bounded(directory: Path) -> None:
    """`cloudFiles.maxFilesPerTrigger`: the oldest first, the rest in the batches that follow."""
    for name in ("c", "a", "b"):
        put(directory / f"{name}.csv", f"{ord(name)}\n")
    source = stream(directory, cloudFiles__maxFilesPerTrigger=2)
    first = source.latest(Past())
    assert names(first) == ["c.csv", "a.csv"]
    assert names(source.latest(Past.of(first))) == ["b.csv"]
    assert drain(source, Past())[0] == [ord("c"), ord("a"), ord("b")]


def test_a_rewritten_file_is_not_read_again_but_reported(directory: Path) -> None:
    """`audit` names it and the remedy."""
    put(directory / "a.csv", "1\n")
    put(directory / "b.csv", "2\n")
    source = stream(directory)
    _, past = drain(source, Past())
    put(directory / "a.csv", "100\n")
    assert source.latest(past) == past.last
    (code,) = notices(source, past)
    message = notices(source, past)[code]
    assert code == "file_rewritten"
    assert "a.csv" in message
    assert "b.csv" not in message
    assert "lakehouse run --full-refresh bronze.files" in message


def test_a_rewritten_file_is_known_by_its_time_too(directory: Path) -> None:
    """Other content of the same length."""
    put(directory / "a.csv", "1\n")
    source = stream(directory)
    _, past = drain(source, Past())
    put(directory / "a.csv", "2\n")
    assert "file_rewritten" in notices(source, past)


def test_an_empty_file_is_not_there_yet(directory: Path) -> None:
    """It holds no row, and somebody may be about to write it: it is found when it has content, of any format."""
    put(directory / "a.parquet", b"")
    source = open_source(discovered(directory, "parquet", schema="id bigint"))
    assert source.latest(Past()) == source.earliest()
    write(directory / "a.parquet", "parquet", [{"id": 1}])
    assert drain(source, Past())[0] == [1]


def test_a_vanished_file_is_reported(directory: Path) -> None:
    """Its rows stay; many are counted, and a few named."""
    for at in range(9):
        put(directory / f"{at}.csv", f"{at}\n")
    source = stream(directory)
    _, past = drain(source, Past())
    for at in range(8):
        (directory / f"{at}.csv").unlink()
    assert "0.csv, 1.csv, 2.csv, 3.csv, 4.csv and 3 more" in notices(source, past)["file_vanished"]
    assert source.latest(past) == past.last


def test_a_declared_column_that_files_lack_is_reported(directory: Path) -> None:
    """It is NULL there, which a misspelt declaration would be too."""
    put(directory / "a.csv", "id,name\n1,x\n")
    source = open_source(discovered(directory, schema="id bigint, nmae string", header=True))
    _, past = drain(source, Past())
    (notice,) = source.audit(past)
    assert notice.code == "column_missing"
    assert "a.csv lacks the declared columns nmae" in notice.message


def test_an_emptied_directory_is_the_same_stream(directory: Path) -> None:
    """A retention job takes files away; new ones are new, nothing is refused."""
    put(directory / "a.csv", "1\n")
    put(directory / "b.csv", "2\n")
    source = stream(directory)
    _, past = drain(source, Past())
    recorded = source.incarnation(past.last or {})
    for file in directory.iterdir():
        file.unlink()
    source.verify(past.last or {}, recorded)
    put(directory / "c.csv", "3\n")
    source.verify(past.last or {}, recorded)
    assert drain(source, past)[0] == [3]


def test_a_copy_of_the_directory_is_the_same_stream(directory: Path, tmp_path: Path) -> None:
    """Paths are no identity, and a copy has other times: nothing is read twice."""
    put(directory / "a.csv", "1\n")
    put(directory / "b.csv", "2\n")
    source = stream(directory)
    _, past = drain(source, Past())
    shutil.copytree(directory, tmp_path / "moved", copy_function=shutil.copyfile)
    moved = stream(tmp_path / "moved")
    moved.verify(past.last or {}, source.incarnation(past.last or {}))
    assert drain(moved, past)[0] == []


def test_one_rewritten_file_is_the_same_stream(directory: Path) -> None:
    """Also where it is the only one: writers rewrite files, and `audit` says so."""
    put(directory / "a.csv", "1\n")
    source = stream(directory)
    _, past = drain(source, Past())
    recorded = source.incarnation(past.last or {})
    put(directory / "a.csv", "100\n")
    source.verify(past.last or {}, recorded)


def test_a_recreated_directory_is_refused_though_batches_had_one_file(directory: Path) -> None:
    """Files that were read before are remembered as witnesses: all of them have other content, so it is another one."""
    source = stream(directory)
    past = Past()
    for at in range(3):
        put(directory / f"{at}.csv", f"{at}\n")
        _, past = drain(source, past)
    recorded = source.incarnation(past.last or {})
    for at in range(3):
        put(directory / f"{at}.csv", f"{at}00\n")
    with pytest.raises(IncarnationChanged, match=r"--full-refresh bronze\.files"):
        source.verify(past.last or {}, recorded)


def test_a_file_that_grows_while_it_is_read_is_busy(directory: Path) -> None:
    """The end of the read notices: the rows so far must not be committed."""
    put(directory / "a.csv", f"{1:039}\n" * (BLOCK_BYTES // 20))
    source = stream(directory)
    batches = source.read(source.earliest(), source.latest(Past()))
    next(batches)
    with (directory / "a.csv").open("a") as file:
        file.write("2\n")
    with pytest.raises(SourceBusy, match=r"a\.csv changed since it was listed \(8388600 bytes then, 8388602 now\)"):
        list(batches)


@pytest.mark.parametrize("text", ["11\n", "x\n"], ids=["other size", "other time"])
def test_a_file_that_changed_since_the_plan_is_busy(directory: Path, text: str) -> None:
    """`holds` says beforehand that the recorded range cannot be read any more: the caller plans anew."""
    put(directory / "a.csv", "1\n")
    source = stream(directory)
    end = source.latest(Past())
    assert source.holds(source.earliest(), end)
    put(directory / "a.csv", text)
    assert not source.holds(source.earliest(), end)
    with pytest.raises(SourceBusy):
        list(source.read(source.earliest(), end))


def test_a_planned_file_that_vanished_is_missing(directory: Path) -> None:
    """Its rows are lost, and nobody decides that silently; an empty file in its place gives them up."""
    put(directory / "a.csv", "1\n")
    put(directory / "b.csv", "2\n")
    source = stream(directory)
    end = source.latest(Past())
    (directory / "a.csv").unlink()
    assert source.holds(source.earliest(), end)
    with pytest.raises(SourceMissing, match=r"a\.csv is gone[\s\S]*empty file in its place"):
        list(source.read(source.earliest(), end))
    put(directory / "a.csv", "")
    assert not source.holds(source.earliest(), end)
    assert drain(source, Past())[0] == [2]


def test_a_file_that_is_being_written_is_left_for_later(directory: Path) -> None:
    """A young file that changes under a second look is not planned; the others are."""
    put(directory / "a.csv", "1\n")
    done = threading.Event()

    def write() -> None:
        with (directory / "b.csv").open("w") as file:
            while not done.wait(0.01):
                file.write("2\n")
                file.flush()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not (directory / "b.csv").exists() or not (directory / "b.csv").stat().st_size:
            done.wait(0.01)
        assert names(stream(directory).latest(Past())) == ["a.csv"]
    finally:
        done.set()
        writer.join()
    aged(directory / "b.csv")
    assert names(stream(directory).latest(Past())) == ["a.csv", "b.csv"]


def test_a_young_file_at_rest_is_read_at_once(directory: Path) -> None:
    """Nobody waits for a second tick."""
    (directory / "a.csv").write_text("1\n")
    assert drain(stream(directory), Past())[0] == [1]


def test_files_are_read_plan_by_plan(directory: Path) -> None:
    """A range over several plans is not a position's range: it is refused, not read in part."""
    put(directory / "a.csv", "1\n")
    source = stream(directory)
    first = source.latest(Past())
    put(directory / "b.csv", "2\n")
    second = source.latest(Past.of(first))
    assert ids_of(source, first, second) == [2]
    with pytest.raises(SourceError, match="plan by plan"):
        list(source.read(source.earliest(), second))


def test_the_columns_of_a_range_are_those_of_its_files(directory: Path) -> None:
    """Learned columns of a recorded range stay the same when other files come: a replay gives the same rows."""
    put(directory / "a.json", '{"a":1}\n')
    end = open_source(discovered(directory, "json")).latest(Past())
    put(directory / "b.json", '{"a":1.5,"b":"x"}\n')
    source = open_source(discovered(directory, "json"))
    assert isinstance(source, DiscoveredFiles)
    assert source.columns(source.earliest(), end).to_string() == "a: int64"
    assert table_of(source, source.earliest(), end).schema.names == ["a", "_position", "_source"]


def test_a_source_that_told_its_schema_keeps_to_it(directory: Path) -> None:
    """Who asked for the columns of everything gets batches with exactly these."""
    put(directory / "a.json", '{"a":1}\n')
    end = open_source(discovered(directory, "json")).latest(Past())
    put(directory / "b.json", '{"a":1.5,"b":"x"}\n')
    source = open_source(discovered(directory, "json"))
    assert source.schema().names == ["a", "b"]
    assert table_of(source, source.earliest(), end).to_pylist()[0]["b"] is None


def test_whole_files_are_read_again_when_one_changes(directory: Path) -> None:
    """Any change of any file gives another fingerprint, and everything is read."""
    put(directory / "a.csv", "1\n")
    put(directory / "b.csv", "2\n")
    source = whole(directory)
    first = source.latest(Past())
    assert source.latest(Past.of(first)) == first
    put(directory / "b.csv", "3\n")
    second = source.latest(Past.of(first))
    assert second != first
    assert ids_of(source, source.earliest(), second) == [1, 3]


def test_whole_files_that_changed_since_the_plan_are_busy(directory: Path) -> None:
    """A fingerprint is read exactly or not at all: before, and while it is read."""
    put(directory / "a.csv", "1\n")
    put(directory / "b.csv", "2\n")
    source = whole(directory)
    end = source.latest(Past())
    batches = source.read(source.earliest(), end)
    next(batches)
    put(directory / "c.csv", "3\n")
    with pytest.raises(SourceBusy, match="one came, went or changed"):
        list(batches)
    assert not source.holds(source.earliest(), end)
    with pytest.raises(SourceBusy):
        list(source.read(source.earliest(), end))


def test_a_half_written_file_is_busy_before_it_is_broken(directory: Path) -> None:
    """A file that cannot be parsed because it still changes is worth another try; one at rest is not."""
    put(directory / "a.parquet", b"PAR1")
    source = open_source(discovered(directory, "parquet", schema="id bigint"))
    end = source.latest(Past())
    with pytest.raises(SourceUnreadable):
        list(source.read(source.earliest(), end))
    put(directory / "a.parquet", b"PAR1....")
    with pytest.raises(SourceBusy):
        list(source.read(source.earliest(), end))


def test_the_description_says_what_is_there(directory: Path) -> None:
    """Number, bytes, the newest file, and the zone in which times are read."""
    put(directory / "a.csv", "1\n")
    put(directory / "b.csv", "22\n")
    assert stream(directory).describe() == {
        "kind": "files", "format": "csv", "location": str(directory), "files": 2, "bytes": 5,
        "newest": f"{directory}/b.csv", "source_timezone": "UTC (default)",
    }  # fmt: skip
    assert stream(directory, timeZone="Asia/Tokyo").describe()["source_timezone"] == "Asia/Tokyo"


def test_reading_needs_no_heavy_library(directory: Path) -> None:
    """No format needs pandas, or imports what costs start-up time or crashes at exit."""
    for kind in FORMATS:
        write(directory / kind / f"a.{kind}", kind, [{"id": 1}])
    code = f"""
import sys
class NoPandas:  # Arrow would import it, where it is installed
    def find_spec(name, *_):
        if name == "pandas":
            raise ImportError(name)
sys.meta_path.insert(0, NoPandas)
from lakehouse_assets_tests.sources.files_making import entity, rows
for kind in {FORMATS!r}:
    assert rows(entity("{directory}/" + kind, kind, **({{"header": True}} if kind == "csv" else {{}}))), kind
print(sorted(name for name in ("pyarrow.dataset", "duckdb", "deltalake", "dagster") if name in sys.modules))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
