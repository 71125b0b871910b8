"""The part of the engine contract about several writers: one number is committed once, whoever tries."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from lakehouse_assets.errors import ConcurrentWriter
from lakehouse_assets.lake.values import Commit, Number, TableSpec
from lakehouse_assets_tests.engines.bench import APP, KV, Bench, Table

WRITES = {
    "append": lambda t, h, n: t.engine.append(h, t.relation([(50, "x")]), n),
    "empty": lambda t, h, n: t.engine.append(h, None, n),
    "replace": lambda t, h, n: t.engine.replace(h, t.relation([(60, "x")]), n),
    "merge": lambda t, h, n: t.engine.merge(h, t.changes_to([(1, "x")], [(2, None)]), ["k"], n),
    "rebuild": lambda t, h, n: t.engine.rebuild(h, t.relation([(70, "x")]), t.open().schema, n),
    "compact": lambda t, h, _: t.engine.compact(h, 1 << 20),
}
BEFORE = [(1, "a"), (2, "b"), (3, "c")]
EFFECTS = {
    "append": lambda rows: [*rows, (50, "x")],
    "empty": lambda rows: rows,
    "replace": lambda _: [(60, "x")],
    "merge": lambda rows: [row for row in rows if row[0] not in (1, 2)] + [(1, "x")],
    "rebuild": lambda _: [(70, "x")],
    "compact": lambda rows: rows,
}
"""What each write makes of the rows that it finds."""
OTHER = "lakehouse/silver.t/other"


def outcome(table: Table, name: str, handle, number: Number) -> str:
    """Make one write: `done` or `refused`."""
    try:
        commit: Commit = WRITES[name](table, handle, number)
    except ConcurrentWriter:
        return "refused"
    assert not commit.skipped
    return "done"


class RaceContract:
    """Writers that do not know of each other."""

    @pytest.fixture(scope="class")
    @classmethod
    def started(cls) -> dict[str, Table]:
        """A table with three rows in two files, made once; the tests work on copies of it."""
        return {}

    @pytest.fixture
    def table(self, bench: Bench, started: dict[str, Table]) -> Table:
        """A copy of that table."""
        if not started:
            started["table"] = bench.table(KV, *BEFORE[:2], feed=True)
            started["table"].append(BEFORE[2])
        return bench.copy(started["table"])

    @pytest.mark.parametrize("winner", [name for name in WRITES if name != "compact"])
    @pytest.mark.parametrize("loser", WRITES)
    def test_one_number_is_committed_once(self, table: Table, loser: str, winner: str) -> None:
        """Two writers that opened the table at the same version and carry the same number: the second is refused."""
        first, second = table.open(), table.open()
        number = Number(OTHER, 1)
        assert outcome(table, winner, first, number) == "done"
        version = table.version
        assert outcome(table, loser, second, number) == "refused"
        assert table.version == version
        assert table.rows() == sorted(EFFECTS[winner](BEFORE))

    @pytest.mark.parametrize("winner", WRITES)
    @pytest.mark.parametrize("loser", WRITES)
    def test_a_stale_writer_is_right_or_refused(self, table: Table, loser: str, winner: str) -> None:
        """With another number a stale write is refused, or gives what the two writes give one after the other."""
        first, second = table.open(), table.open()
        assert outcome(table, winner, first, Number(OTHER, 1)) == "done"
        expected = EFFECTS[winner](BEFORE)
        if outcome(table, loser, second, Number(APP, 9)) == "done":
            assert loser != "compact", "a compaction may not follow a commit that it did not see"
            expected = EFFECTS[loser](expected)
        assert table.rows() == sorted(expected)

    def test_many_writers_of_one_number(self, bench: Bench) -> None:
        """Of many threads that write the same number at once, one commits; the others are refused or skip."""
        table = bench.table(KV)
        start = threading.Barrier(6)

        def write(thread: int) -> str:
            handle = table.open()
            start.wait()
            try:
                commit = bench.engine.append(handle, table.relation([(thread, "x")], KV), Number(APP, 1))
            except ConcurrentWriter:
                return "refused"
            return "skipped" if commit.skipped else "done"

        with ThreadPoolExecutor(6) as pool:
            outcomes = list(pool.map(write, range(6)))
        assert outcomes.count("done") == 1
        assert (len(table.rows()), table.number) == (1, 1)

    def test_a_table_is_created_once(self, bench: Bench) -> None:
        """Threads that create the same table at once all get the same one, at its first version."""
        place, start = bench.place(), threading.Barrier(6)

        def create(_: int) -> tuple[str, int]:
            start.wait()
            handle = bench.engine.create(place, TableSpec(KV))
            return handle.id, handle.version

        with ThreadPoolExecutor(6) as pool:
            created = set(pool.map(create, range(6)))
        assert len(created) == 1
        assert created.pop() == (bench.engine.find(place).id, 0)

    def test_feeds_append_beside_each_other(self, bench: Bench) -> None:
        """Appends of several feeds from stale handles are all kept: they do not touch each other's rows."""
        table = bench.table(KV)
        handles = [table.open() for _ in range(4)]
        for index, handle in enumerate(handles):
            bench.engine.append(handle, table.relation([(index, "x")]), Number(f"{OTHER}{index}", 1))
        assert [row[0] for row in table.rows()] == [0, 1, 2, 3]

    def test_one_engine_serves_several_threads(self, bench: Bench) -> None:
        """Reads, queries and writes of different tables run at the same time in one engine."""

        def work(index: int) -> list[tuple]:
            table = bench.table(KV, *((n, str(index)) for n in range(50)))
            for _ in range(3):
                sums = bench.engine.query(
                    "SELECT sum(k) AS k, max(v) AS v FROM t", {"t": bench.engine.read(table.open())}
                )
                with bench.engine.held(sums) as held:
                    table.append(*((int(row["k"]), row["v"]) for row in bench.engine.rows(held)))
            return table.rows()

        alone = [work(index) for index in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(work, range(4))) == alone

    def test_a_handle_keeps_its_version(self, bench: Bench) -> None:
        """A handle reads what stood there when it was opened, whatever was committed since."""
        table = bench.table(KV, (1, "a"))
        handle = table.open()
        table.replace((2, "b"))
        bench.engine.add_columns(table.open(), [pa.field("w", pa.int64())])
        assert bench.engine.rows(bench.engine.read(handle)) == [{"k": 1, "v": "a"}]
