"""Tests of a lake on each object store: everything that a local lake does, against a real HTTP server."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from lakehouse_assets.engines.base import OPERATION
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.errors import ConcurrentWriter, FeedExpired, LakeError
from lakehouse_assets.lake import log
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.plans import Plan, PlanBook
from lakehouse_assets.lake.values import Number, TableSpec
from lakehouse_assets_tests.engines.bench import APP, KV, Bench


@pytest.fixture
def engine(store):
    """An engine that reaches the bucket."""
    engine = EmbeddedEngine(store.storage)
    yield engine
    engine.close()


@pytest.fixture
def bench(engine, store):
    """Fresh tables below a prefix of the bucket that an address has to encode."""
    return Bench(engine, f"{store.root}/a b/ü&+")


def files_of(store, uri):
    """The data files that stand in a table's directory."""
    from pyarrow.fs import FileSelector

    fs, root = store.storage.filesystem(uri)
    paths = [info.path for info in fs.get_file_info(FileSelector(root, recursive=True))]
    return [path for path in paths if path.endswith(".parquet") and "_delta_log" not in path]


def test_a_table_is_written_read_and_followed(bench):
    """Create, append files, merge, replace, add columns, rebuild, old versions and what moved between them."""
    table = bench.table(KV, (1, "a"), (2, None), feed=True)
    assert (table.rows(), table.number) == ([(1, "a"), (2, None)], 1)
    before = table.version
    table.append((3, "c"))
    assert table.moved(before) == ("append", [(3, "c")])
    before = table.version
    commit = table.merge([(1, "A"), (4, "d")], [(2, None)])
    assert (commit.rows_added, commit.rows_updated, commit.rows_removed) == (1, 1, 1)
    kind, images = table.moved(before)
    assert (kind, images) == (
        "images",
        [(1, "A", "update_postimage"), (1, "a", "update_preimage"), (2, None, "delete"), (4, "d", "insert")],
    )
    table.merge([], [(99, None)])
    table.replace((9, "z"))
    bench.engine.add_columns(table.open(), [pa.field("w", pa.int64())])
    assert table.rows() == [(9, "z", None)]
    assert table.rows(before) == [(1, "a"), (2, None), (3, "c")]
    columns = pa.schema([("x", pa.string())])
    bench.engine.rebuild(table.open(), table.relation([("new",)], columns), columns, table.next())
    assert (table.rows(), table.number, table.open().foreign_commits(0, table.version)) == ([("new",)], 6, [])


def test_partitions_of_odd_texts(bench):
    """Partition values that an address has to encode are written, read, replaced and compacted."""
    schema = pa.schema([("p", pa.string()), ("d", pa.date32()), ("v", pa.int64())])
    odd = ["a b/ü", "50%", "%20", "x:y=+#", None]
    day = dt.date(2024, 1, 1)
    table = bench.table(schema, *((p, day, i) for i, p in enumerate(odd)), partition_by=["p", "d"])
    table.append(*((p, day, 10 + i) for i, p in enumerate(odd)))
    table.replace(*((p, day, 100) for p in odd[:2]), partitions=[{"p": p, "d": day} for p in odd[:2]])
    expected = sorted(
        [(p, day, 100) for p in odd[:2]] + [(p, day, n + i) for n in (0, 10) for i, p in enumerate(odd) if i > 1],
        key=repr,
    )
    assert table.rows() == expected
    table.append(*((p, day, 7) for p in odd))
    before = table.rows()
    assert not table.compact().skipped
    assert table.rows() == before


def test_compaction_and_vacuum(bench, store):
    """Small files become one, a stale compaction is refused and leaves no file, vacuum deletes what nobody needs."""
    table = bench.table(KV)
    for n in range(3):
        table.append((n, "x"))
    stale = table.open()
    table.compact()
    with pytest.raises(ConcurrentWriter):
        bench.engine.compact(stale, 1 << 20)
    assert len(files_of(store, table.uri)) == 4
    assert bench.engine.vacuum(table.open(), 1) == []
    assert len([path for path in bench.engine.vacuum(table.open(), 0) if path.endswith(".parquet")]) == 3
    assert len(files_of(store, table.uri)) == 1
    assert table.rows() == [(0, "x"), (1, "x"), (2, "x")]
    with pytest.raises(FeedExpired):
        table.moved(1)


def test_many_commits_and_a_checkpoint(bench):
    """Tables, plans and numbers are read over checkpoints."""
    table = bench.table(KV, properties={"delta.checkpointInterval": "4"})
    for n in range(10):
        table.append((n, "x"))
    assert ([k for k, _ in table.rows()], table.number) == (list(range(10)), 10)
    assert table.moved(7) == ("append", [(7, "x"), (8, "x"), (9, "x")])


def test_one_number_is_committed_once(bench):
    """Two writers with one number, by every kind of write; threads that race for it."""
    table = bench.table(KV, (1, "a"))
    operation = pa.schema([*KV, pa.field(OPERATION, pa.string())])
    writes = {
        "append": lambda h, n: bench.engine.append(h, table.relation([(5, "x")]), n),
        "replace": lambda h, n: bench.engine.replace(h, table.relation([(6, "x")]), n),
        "merge": lambda h, n: bench.engine.merge(h, table.relation([(7, "x", "u")], operation), ["k"], n),
    }
    for value, (name, write) in enumerate(writes.items(), 2):
        first, second = table.open(), table.open()
        write(first, Number(APP, value))
        rows = table.rows()
        with pytest.raises(ConcurrentWriter):
            write(second, Number(APP, value))
        assert table.rows() == rows, name

    def race(thread):
        try:
            return not bench.engine.append(handles[thread], table.relation([(thread, "r")], KV), Number(APP, 5)).skipped
        except ConcurrentWriter:
            return False

    handles = [table.open() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(race, range(4))) == 1
    assert len([row for row in table.rows() if row[1] == "r"]) == 1


def test_a_table_is_created_once(bench):
    """Threads that create one table at once get the same one."""
    place = bench.place()
    with ThreadPoolExecutor(4) as pool:
        assert (
            len({handle.id for handle in pool.map(lambda _: bench.engine.create(place, TableSpec(KV)), range(4))}) == 1
        )


def test_plans_are_recorded_once(store):
    """Ledgers on an object store exclude each other, from the first plan on."""
    book, feed = PlanBook(f"{store.root}/control/batches", store.storage), FeedName("silver.t")
    stale = book.open(feed)
    for number in (1, 2, 3):
        book.open(feed).record(Plan(feed, number, "append", {}, {"v": number}, "stream", follows=number - 1))
        with pytest.raises(ConcurrentWriter):
            stale.record(Plan(feed, number, "append", {}, {"v": 0}, "stream"))
        stale = book.open(feed)
    assert [plan.end["v"] for plan in book.open(feed).history(feed)] == [1, 2, 3]
    assert book.open(feed).last(feed).number == 3


def test_queries_over_tables_of_a_bucket(bench):
    """DuckDB joins and aggregates them, partition values and all, without an extension from the network."""
    table = bench.table(KV, *((n, str(n % 3)) for n in range(3000)), partition_by=["v"])
    other = bench.table(KV, (1, "one"), (2, "two"))
    relations = {"t": bench.engine.read(table.open()), "o": bench.engine.read(other.open())}
    sql = "SELECT o.v AS v, count(*) AS n FROM t JOIN o ON CAST(t.v AS BIGINT) = o.k GROUP BY o.v ORDER BY o.v"
    with bench.engine.held(bench.engine.query(sql, relations)) as held:
        assert bench.engine.rows(held) == [{"v": "one", "n": 1000}, {"v": "two", "n": 1000}]


def test_an_engine_reads_local_and_remote_tables_together(store, engine, tmp_path):
    """One query may read a file system and a bucket."""
    here, there = Bench(engine, str(tmp_path)).table(KV, (1, "a")), Bench(engine, store.root).table(KV, (1, "b"))
    relations = {"here": engine.read(here.open()), "there": engine.read(there.open())}
    joined = engine.query("SELECT here.v AS a, there.v AS b FROM here JOIN there ON here.k = there.k", relations)
    assert engine.rows(joined) == [{"a": "a", "b": "b"}]


def test_a_version_that_left_the_log(bench):
    """A missing version is `FeedExpired` here as on a disk."""
    table = bench.table(KV, (1, "a"))
    with pytest.raises(FeedExpired):
        list(log.commits(bench.engine._storage, table.uri, 5, 6))
    with pytest.raises(LakeError, match="no version 9"):
        bench.engine.find(table.uri, 9)
    assert bench.engine.find(bench.place()) is None


def test_a_file_that_was_vacuumed_is_named_as_such(bench, store):
    """A relation whose file is gone by the time it is read is `FeedExpired`, not a fault of the query."""
    table = bench.table(KV, (1, "a"))
    relation = bench.engine.read(table.open())
    store.storage.filesystem(store.root)[0].delete_file(files_of(store, table.uri)[0])
    with pytest.raises(FeedExpired, match="vacuumed before it was read"):
        bench.engine.rows(relation)
