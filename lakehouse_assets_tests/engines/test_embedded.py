"""The embedded engine keeps the contract, and what only it promises."""

from __future__ import annotations

import gc
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lakehouse_assets.engines.base import open_engine
from lakehouse_assets.engines.embedded import DuckRelation, EmbeddedEngine
from lakehouse_assets.errors import ConcurrentWriter, FeatureRefused
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number, TableSpec
from lakehouse_assets.settings import load_settings
from lakehouse_assets_tests.engines.bench import APP, KV, Bench, move_file
from lakehouse_assets_tests.engines.contract import EngineContract


@pytest.fixture(scope="module")
def shared():
    """One engine for all tests, closed at the end."""
    engine = EmbeddedEngine(Storage())
    yield engine
    engine.close()


class TestEmbedded(EngineContract):
    """The contract, run by DuckDB and delta-rs."""

    @pytest.fixture
    def engine(self, shared):
        """The engine."""
        return shared


def append_once(place: str, who: str) -> str:
    """Append under number 1 in a process of its own, from a handle that was opened before the others wrote."""
    engine = EmbeddedEngine(Storage())
    handle = engine.find(place)
    Path(place, f"ready-{who}").touch()
    while len(list(Path(place).glob("ready-*"))) < PROCESSES:
        time.sleep(0.01)
    try:
        skipped = engine.append(handle, engine.from_arrow(pa.table({"k": [1], "v": [who]})), Number(APP, 1)).skipped
    except ConcurrentWriter:
        return "refused"
    finally:
        engine.close()
    return "skipped" if skipped else "done"


PROCESSES = 3


@pytest.mark.slow
def test_processes_commit_a_number_once(shared, tmp_path, in_process):
    """Of several processes that opened the table at the same version, one commits the number."""
    table = Bench(shared, str(tmp_path)).table(KV)
    with ThreadPoolExecutor(PROCESSES) as pool:
        outcomes = list(pool.map(lambda who: in_process.call(append_once, table.uri, who), "abc"))
    assert sorted(outcomes) == ["done", "refused", "refused"]
    assert len(table.rows()) == 1


def stream_in(place: str) -> list[int]:
    """Append a stream much larger than what may be kept of it; the most that Arrow kept, in megabytes, and the rows."""
    schema = pa.schema([("x", pa.float64())])
    batches = (pa.record_batch([pc.random(1_000_000)], schema=schema) for _ in range(40))
    engine = EmbeddedEngine(Storage())
    rows = engine.from_arrow(pa.RecordBatchReader.from_batches(schema, batches))
    commit = engine.append(engine.create(place, TableSpec(schema)), rows, Number(APP, 1))
    engine.close()
    return [pa.default_memory_pool().max_memory() >> 20, commit.rows_added]


@pytest.mark.slow
def test_a_stream_is_appended_in_bounded_memory(tmp_path, in_process):
    """320 MB pass through less than 200 MB, although the writer is slower than the source."""
    most, rows = in_process.call(stream_in, tmp_path / "t")
    assert rows == 40_000_000
    assert most < 200


@pytest.mark.parametrize("kind", ["stream", "table"])
def test_tiny_batches_are_no_burden(kind):
    """Tens of thousands of batches of a row are held in as little memory as one large batch."""
    batch = pa.record_batch([[1], ["x"]], schema=KV)
    rows = pa.Table.from_batches([batch] * 30_000)
    engine = EmbeddedEngine(Storage(), memory_limit="50MB", threads=2)
    relation = engine.from_arrow(rows if kind == "table" else rows.to_reader())
    with engine.held(relation) as held:
        assert len(engine.rows(held)) == 30_000
    engine.close()


@pytest.mark.slow
def test_closing_leaves_nothing_behind(tmp_path, monkeypatch):
    """No thread, no spilled file, no open file; the engine may be used again, and closed twice."""
    monkeypatch.chdir(tmp_path)
    threads, before = threading.active_count(), open_files()
    engine = EmbeddedEngine(Storage(), memory_limit="30MB", temp_directory=str(tmp_path / "spill"))
    for _ in range(2):
        table = Bench(engine, str(tmp_path / "lake")).table(KV, *((n, "x") for n in range(10)))
        rows = pa.table({"a": pa.array(range(4_000_000), pa.int64())})
        with engine.held(engine.from_arrow(rows)) as held:
            assert len(engine.rows(held, 5)) == 5
            assert list((tmp_path / "spill").rglob("*.tmp"))
        half = engine.batches(engine.read(table.open()))
        half.read_next_batch()
        del half
        engine.close()
        engine.close()
        shutil.rmtree(tmp_path / "lake")
    gc.collect()
    assert open_files() == before
    assert threading.active_count() <= threads  # those of earlier tests may end meanwhile
    assert list((tmp_path / "spill").rglob("*")) == []
    assert not (tmp_path / ".tmp").exists()


def open_files() -> int:
    """How many regular files this process has open."""
    return sum(os.path.isfile(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))


def test_the_settings_describe_the_engine(tmp_path):
    """Memory, threads and the directory to spill to come from the settings."""
    settings = load_settings(memory_limit="123MB", threads=1, temp_directory=tmp_path / "spill")
    engine = open_engine(settings, Storage())
    sql = "SELECT current_setting('{}') AS v"
    assert isinstance(engine, EmbeddedEngine)
    found = [engine.rows(DuckRelation(sql.format(name), V))[0]["v"] for name in ("memory_limit", "threads")]
    assert found == ["117.3 MiB", "1"]
    spill = engine.rows(DuckRelation(sql.format("temp_directory"), V))[0]["v"]
    assert Path(spill).parent == tmp_path / "spill"
    assert engine.rows(DuckRelation(sql.format("autoinstall_known_extensions"), V)) == [{"v": "false"}]
    engine.close()


V = pa.schema([("v", pa.string())])


@pytest.mark.parametrize("how", ["replace", "merge", "rebuild", "compact"])
def test_files_that_could_not_be_removed_are_left_to_spark(shared, tmp_path, how):
    """A path that another writer logged with letters as they are: delta-rs would remove another one, and rows double."""
    schema = pa.schema([("p", pa.string()), ("v", pa.int64())])
    table = Bench(shared, str(tmp_path)).table(schema, ("Köln", 0), partition_by=["p"])
    table.append(("Köln", 1))
    move_file(table, table.version, "p=Köln/part-1.parquet")
    rows, version = table.rows(), table.version
    assert rows == [("Köln", 0), ("Köln", 1)]
    writes = {
        "replace": lambda: table.replace(("x", 1)),
        "merge": lambda: table.merge([("x", 1)], keys=["v"]),
        "rebuild": lambda: shared.rebuild(table.open(), table.relation([("x", 1)]), schema, table.next()),
        "compact": table.compact,
    }
    with pytest.raises(FeatureRefused, match="--engine spark"):
        writes[how]()
    assert (table.rows(), table.version) == (rows, version)
    table.append(("Köln", 2))
    assert len(table.rows()) == 3


def test_one_large_file_is_read_by_its_own_columns(shared, tmp_path):
    """A table's only file is read whether it has the table's columns or was written before they were added."""
    table = Bench(shared, str(tmp_path)).table(KV)
    values = [f"{n:040d}" for n in range(400_000)]
    shared.append(table.open(), shared.from_arrow(pa.table({"k": range(400_000), "v": values})), table.next())
    assert len(list(Path(table.uri).glob("*.parquet"))) == 1
    sums = "SELECT count(*) AS n, sum(k) AS k, max(v) AS v FROM t"
    expected = [{"n": 400_000, "k": sum(range(400_000)), "v": values[-1]}]
    assert "schema" not in shared.read(table.open()).sql
    assert shared.rows(shared.query(sums, {"t": shared.read(table.open())})) == expected
    shared.add_columns(table.open(), [pa.field("w", pa.int64())])
    assert "schema" in shared.read(table.open()).sql
    assert shared.rows(shared.query(sums, {"t": shared.read(table.open())})) == expected
