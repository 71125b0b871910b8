"""Tests of lakes over a bad network: what a store refuses, delays, cuts off or forgets to say harms no table.

A failing test prints its seed; LAKEHOUSE_TEST_SEED repeats it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pyarrow as pa
import pytest

from lakehouse_assets.engines.base import OPERATION, Engine, Handle
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.errors import ConcurrentWriter, StoreFailed, TransientError
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.plans import Plan, PlanBook
from lakehouse_assets.lake.values import Commit, Number
from lakehouse_assets.simulators.faulty_store import (
    BROKEN_AFTER,
    BUSY,
    CUT_DOWNLOAD,
    CUT_HEAD,
    CUT_UPLOAD,
    LOST_ANSWER,
    LOST_REQUEST,
    Fault,
)
from lakehouse_assets_tests.conftest import Bucket
from lakehouse_assets_tests.engines.bench import APP, KV, Bench, Table
from lakehouse_assets_tests.stores.conftest import Wire
from lakehouse_assets_tests.stores.graph import assert_equal, feed, graph
from lakehouse_assets_tests.tables.lab import Lab

CHANGED = pa.schema([*KV, pa.field(OPERATION, pa.string())])
WRITES: dict[str, Callable[[Engine, Table, Handle, Number], Commit]] = {
    "append": lambda engine, table, handle, n: engine.append(handle, table.relation([(2, "b")]), n),
    "replace": lambda engine, table, handle, n: engine.replace(handle, table.relation([(2, "b")]), n),
    "merge": lambda engine, table, handle, n: engine.merge(
        handle, table.relation([(2, "b", "u"), (9, "z", "d")], CHANGED), ["k"], n
    ),
    "compact": lambda engine, _table, handle, _n: engine.compact(handle, 1 << 20),
}
AFTER = {
    "append": [(1, "a"), (2, "b"), (9, "z")],
    "replace": [(2, "b")],
    "merge": [(1, "a"), (2, "b")],
    "compact": [(1, "a"), (9, "z")],
}
BEFORE = [(1, "a"), (9, "z")]
COMMIT = r"_delta_log/0+\d+\.json"
FILE = r"part-.*\.parquet"
FAULTS = (BUSY, CUT_UPLOAD, CUT_DOWNLOAD, LOST_REQUEST, LOST_ANSWER, BROKEN_AFTER)


@contextmanager
def bench_on(bucket: Bucket) -> Iterator[Bench]:
    """Fresh tables on a bucket."""
    with closing(EmbeddedEngine(bucket.storage)) as engine:
        yield Bench(engine, bucket.root)


def two_files(bench: Bench) -> Table:
    """A table of two files."""
    table = bench.table(KV, (1, "a"), feed=True)
    table.append((9, "z"))
    return table


def assert_done_once(table: Table, write: str, commit: Commit, number: Number) -> None:
    """The write stands in the table, says so, and is not done again."""
    assert table.rows() == AFTER[write], write
    assert (commit.skipped, commit.version) == (False, 3)
    carried = (0, 2) if write == "compact" else (number.value,)  # a compaction leaves the number as it was
    assert table.open().number(number.app_id) in carried
    with suppress(ConcurrentWriter):
        assert WRITES[write](table.engine, table, table.open(), number).skipped
    assert (table.rows(), table.version) == (AFTER[write], 3), write


@pytest.mark.parametrize(
    ("fault", "retries"),
    [
        (LOST_ANSWER, {}),
        pytest.param(BROKEN_AFTER, {}, marks=pytest.mark.slow),
        pytest.param(LOST_ANSWER, {"max_retries": "0"}, marks=pytest.mark.slow),
    ],
    ids=["lost", "denied", "lost for good"],
)
def test_a_commit_whose_answer_is_lost_is_a_commit(wire: Wire, fault: Fault, retries: dict[str, str]) -> None:
    """The store executed the commit, and its answer never came or says that it failed: nothing is doubled or deleted.

    A client that tries again finds a commit with its own number in its way, and must know it for its own.
    """
    with bench_on(wire.trying(**retries)) as bench:
        for write, call in WRITES.items():
            table, number = two_files(bench), Number(f"{APP}/{write}", 1, "plan")
            handle = table.open()
            wire.proxy.at(1, fault, method="PUT", path=COMMIT)
            commit = call(bench.engine, table, handle, number)
            assert_done_once(table, write, commit, number)
        assert [path.endswith("3.json") for _, path in wire.proxy.struck] == [True] * len(WRITES)


def test_what_is_lost_of_a_merge_is_counted_all_the_same(wire: Wire) -> None:
    """Rows inserted, updated and deleted are known from the commit, where the answer said nothing."""
    with bench_on(wire.trying()) as bench:
        table = two_files(bench)
        wire.proxy.at(1, LOST_ANSWER, method="PUT", path=COMMIT)
        commit = table.merge([(1, "A"), (2, "b")], [(9, "z")])
        assert (commit.rows_added, commit.rows_updated, commit.rows_removed) == (1, 1, 1)


def test_a_plan_whose_answer_is_lost_is_recorded_once(wire: Wire) -> None:
    """Recording a plan is a commit like any other."""
    book, name = PlanBook(f"{wire.bucket.root}/control/batches", wire.trying().storage), FeedName("silver.t")
    for number in (1, 2):
        wire.proxy.at(1, LOST_ANSWER, method="PUT", path=COMMIT)
        ledger = book.open(name)
        ledger.record(Plan(name, number, "append", {}, {"v": number}, "stream", follows=number - 1))
    assert [plan.number for plan in book.open(name).history(name)] == [1, 2]


@pytest.mark.slow
def test_another_writer_of_the_same_plan_is_not_taken_for_oneself(wire: Wire) -> None:
    """Two processes that replay one plan carry the same number and plan id: the second is still refused."""
    with bench_on(wire.trying()) as bench:
        for write in ("append", "replace", "merge"):
            table, number = two_files(bench), Number(APP, 7, "plan")
            first, second = table.open(), table.open()
            WRITES[write](bench.engine, table, first, number)
            with pytest.raises(ConcurrentWriter):
                WRITES[write](bench.engine, table, second, number)
            assert (table.rows(), table.version) == (AFTER[write], 3)


@pytest.mark.slow
@pytest.mark.parametrize("path", [COMMIT, FILE], ids=["commit", "file"])
def test_a_busy_store_is_asked_again(wire: Wire, path: str) -> None:
    """503 once: the write goes through as if nothing had been, for whoever uploads files and whoever commits."""
    with bench_on(wire.trying()) as bench:
        for write, call in WRITES.items():
            table, number = two_files(bench), Number(APP, 7)
            wire.proxy.at(1, BUSY, method="PUT", path=path)
            assert_done_once(table, write, call(bench.engine, table, table.open(), number), Number(APP, 7))


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (COMMIT, BUSY),
        pytest.param(COMMIT, CUT_UPLOAD, marks=pytest.mark.slow),
        pytest.param(FILE, BUSY, marks=pytest.mark.slow),
        pytest.param(FILE, CUT_UPLOAD, marks=pytest.mark.slow),
    ],
    ids=["commit-busy", "commit-cut", "file-busy", "file-cut"],
)
@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_store_that_takes_nothing_is_named_and_nothing_is_half_written(wire: Wire, path: str, fault: Fault) -> None:
    """503 for ever, uploads that are always cut: an error to try again later, and every table as it was."""
    with bench_on(wire.bucket) as bench:
        for write, call in list(WRITES.items())[::2]:
            table, number = two_files(bench), Number(APP, 7)
            wire.proxy.always(fault, method="PUT", path=path)
            with pytest.raises(StoreFailed, match=r"the object store failed for s3://(.|\n)*next: run again") as caught:
                call(bench.engine, table, table.open(), number)
            assert caught.value.transient
            wire.proxy.heal()
            assert (table.rows(), table.version, table.number) == (BEFORE, 2, 2)
            assert_done_once(table, write, call(bench.engine, table, table.open(), number), number)


@pytest.mark.slow
@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_commit_that_arrives_after_its_writer_gave_up(wire: Wire) -> None:
    """The writer is told to try again; what it staged stays, because the commit may name it, and then does."""
    with bench_on(wire.trying(max_retries="0", timeout="500ms")) as bench:
        for write, call in list(WRITES.items())[::3]:
            table, number = two_files(bench), Number(f"{APP}/{write}", 1)
            wire.proxy.at(1, Fault(delay=1.2), method="PUT", path=COMMIT)
            with pytest.raises(StoreFailed):
                call(bench.engine, table, table.open(), number)
            end = time.monotonic() + 10
            while table.version < 3 and time.monotonic() < end:
                time.sleep(0.1)
            assert_done_once(table, write, Commit(table.version), number)


@pytest.mark.slow
@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_slow_store_is_waited_for(wire: Wire) -> None:
    """Requests that are held for a second are no failures."""
    with bench_on(wire.bucket) as bench:
        table = two_files(bench)
        wire.proxy.at({2, 4, 6, 8}, Fault(delay=1.0))
        table.append((2, "b"))
        assert (table.rows(), table.number) == (AFTER["append"], 3)


@pytest.mark.slow
@pytest.mark.parametrize("store", ["s3"], indirect=True)
@pytest.mark.parametrize("fault", [BUSY, CUT_DOWNLOAD, LOST_ANSWER], ids=["busy", "cut", "lost"])
def test_a_table_that_cannot_be_read_to_its_end(wire: Wire, fault: Fault) -> None:
    """Every request of a read fails in its turn: an error to try again later, never fewer rows."""
    with bench_on(wire.bucket) as bench:
        table = two_files(bench)
        k = 0
        while True:
            k += 1
            struck = len(wire.proxy.struck)
            wire.proxy.at(k, fault)
            found = None
            with suppress(StoreFailed):
                found = (table.open().number(APP), table.rows(), table.moved(1))
            if found is not None:
                assert found == (2, BEFORE, ("append", [(9, "z")]))
                if len(wire.proxy.struck) == struck:
                    break
            wire.proxy.heal()
        assert k > 5


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_file_whose_length_was_cut_off_is_not_an_empty_one(wire: Wire) -> None:
    """The answer to "how long is it?" ends with its first line, which S3's client takes for zero: no row is lost."""
    with bench_on(wire.bucket) as bench:
        table = two_files(bench)
        for path, read in ((COMMIT, lambda: table.moved(1)), (FILE, table.rows)):
            wire.proxy.at(1, CUT_HEAD, method="HEAD", path=path)
            with pytest.raises(StoreFailed, match="next: run again"):
                read()
        assert len(wire.proxy.struck) == 2
        assert (table.rows(), table.moved(1)) == (BEFORE, ("append", [(9, "z")]))


def disturbed(wire: Wire, chance: random.Random, clean: Lab, lab: Lab, fault: Fault, requests: int) -> int:
    """One run with one fault at a random request, and a run after it; how many requests the latter two made."""
    before = len(wire.proxy.requests)
    wire.proxy.at(chance.randrange(1, requests), fault)
    with suppress(TransientError):  # anything else fails the test
        lab.run()
    wire.proxy.heal()
    lab.run()
    clean.run()
    assert_equal(lab, clean)
    assert lab.run() == []
    return len(wire.proxy.requests) - before


def rounds(wire: Wire, tmp_path: os.PathLike, faults: tuple[Fault, ...]) -> None:
    """A round for each fault, on one lake; tables equal those of a lake on a disk after each."""
    seed = int(os.environ.get("LAKEHOUSE_TEST_SEED") or random.randrange(1 << 30))
    print("LAKEHOUSE_TEST_SEED =", seed)
    chance, requests = random.Random(seed), 400
    lab, clean = graph(f"{wire.bucket.root}/lake", wire.bucket.storage), graph(f"{tmp_path}/clean")
    for fault in faults:
        feed(chance, lab, clean)
        requests = max(requests, disturbed(wire, chance, clean, lab, fault, requests))


@pytest.mark.slow
@pytest.mark.parametrize("fault", [LOST_ANSWER, CUT_UPLOAD], ids=["lost", "cut"])
@pytest.mark.parametrize("store", ["azure"], indirect=True)
def test_a_run_over_a_bad_network_ends_in_the_tables_of_a_good_one(wire: Wire, tmp_path, fault: Fault) -> None:
    """§7.1: one fault at a random request of a run over every kind of write; the next run makes it good."""
    rounds(wire, tmp_path, (fault,))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_runs_over_a_bad_network(wire: Wire, tmp_path) -> None:
    """§7.1: every fault in its turn, at random requests, on each store."""
    rounds(wire, tmp_path, FAULTS)
