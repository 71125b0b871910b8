"""The part of the engine contract about relations: queries over them, streams, held results, batches, errors."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pyarrow as pa
import pytest

from lakehouse_assets.engines.base import Relation
from lakehouse_assets.errors import ExpectationFailed, LakeError, LakehouseError, SourceBusy, SqlError, TerminalError
from lakehouse_assets_tests.engines.bench import KV, Bench, Table
from lakehouse_assets_tests.engines.contract_writes import write

DAY = dt.date(2024, 3, 1)


def stream(rows: int = 10, fails: Exception | None = None, size: int = 2) -> pa.RecordBatchReader:
    """Small batches, which end with an error if one is given."""

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, size):
            yield pa.record_batch([range(start, start + size), ["x"] * size], schema=KV)
        if fails:
            raise fails

    return pa.RecordBatchReader.from_batches(KV, batches())


def use(table: Table, how: str, relation: Relation) -> None:
    """Read a relation in one of the ways that there are."""
    engine = table.engine
    if how == "held":
        engine.held(relation).__enter__()
    elif how == "query":
        engine.rows(engine.query("SELECT max(k) AS k FROM s", {"s": relation}))
    elif how == "batches":
        engine.batches(relation).read_all()
    else:
        write(table, how, relation)


class QueryContract:
    """Relations."""

    def test_a_query_joins_named_relations(self, bench: Bench) -> None:
        """A query names tables, Arrow data and other queries; names may have layers."""
        table = bench.table(KV, (1, "a"), (2, "b"))
        names = bench.engine.from_arrow(pa.table({"v": ["a", "b"], "name": ["first", "second"]}))
        sql = "SELECT t.k AS k, n.name AS name FROM silver.t AS t JOIN names AS n ON t.v = n.v"
        joined = bench.engine.query(sql, {"silver.t": bench.engine.read(table.open()), "names": names})
        again = bench.engine.query("SELECT name FROM j WHERE k > 1", {"j": joined})
        assert bench.engine.rows(again) == [{"name": "second"}]
        assert bench.engine.schema(joined).equals(pa.schema([("k", pa.int64()), ("name", pa.string())]))

    def test_a_query_takes_parameters(self, bench: Bench) -> None:
        """`:name` stands for a value; a day is a DATE."""
        rows = bench.engine.from_arrow(pa.table({"d": [DAY, DAY - dt.timedelta(days=1)]}))
        found = bench.engine.query(
            "SELECT count(*) AS n, :run_date AS d FROM t WHERE d = :run_date", {"t": rows}, {"run_date": DAY}
        )
        assert bench.engine.rows(found) == [{"n": 1, "d": DAY}]

    def test_sessions_run_in_utc(self, bench: Bench) -> None:
        """The text of an instant is that of UTC, wherever the machine stands."""
        moment = dt.datetime(2024, 7, 1, 12, tzinfo=dt.UTC)
        rows = bench.engine.from_arrow(pa.table({"t": pa.array([moment], pa.timestamp("us", tz="Asia/Tokyo"))}))
        found = bench.engine.query("SELECT CAST(t AS DATE) AS d, hour(t) AS h FROM r", {"r": rows})
        assert bench.engine.rows(found) == [{"d": moment.date(), "h": 12}]

    def test_rows_are_limited(self, bench: Bench) -> None:
        """A look at a few rows of a large relation does not read it all, and leaves nothing open."""
        pulled = []

        def batches() -> Iterator[pa.RecordBatch]:
            for start in range(0, 1_000_000, 1000):
                pulled.append(start)
                yield pa.record_batch([range(start, start + 1000), ["x"] * 1000], schema=KV)

        relation = bench.engine.from_arrow(pa.RecordBatchReader.from_batches(KV, batches()))
        assert bench.engine.rows(relation, 3) == [{"k": n, "v": "x"} for n in range(3)]
        assert len(pulled) < 500

    def test_a_stream_is_read_once(self, bench: Bench) -> None:
        """Reading a stream a second time is an error, never an empty result."""
        relation = bench.engine.from_arrow(stream())
        assert len(bench.engine.rows(relation)) == 10
        with pytest.raises(LakeError, match="read twice"):
            bench.engine.rows(relation)
        counted = bench.engine.query("SELECT count(*) AS n FROM s", {"s": relation})
        with pytest.raises(LakeError, match="read twice"):
            bench.engine.rows(counted)

    def test_a_stream_may_be_named_twice_in_a_query(self, bench: Bench) -> None:
        """A query that reads a stream in two places sees all rows in both."""
        sql = "SELECT a.k AS k FROM s AS a JOIN s AS b ON a.k = b.k + 1"
        found = bench.engine.query(sql, {"s": bench.engine.from_arrow(stream())})
        assert sorted(row["k"] for row in bench.engine.rows(found)) == list(range(1, 10))

    def test_two_relations_of_one_stream_do_not_share_it(self, bench: Bench) -> None:
        """Two relations made of one stream cannot both be read by a query: the error says to hold it."""
        source = bench.engine.from_arrow(stream())
        even = bench.engine.query("SELECT k FROM s WHERE k % 2 = 0", {"s": source})
        odd = bench.engine.query("SELECT k FROM s WHERE k % 2 = 1", {"s": source})
        with pytest.raises(LakeError, match="hold"):
            bench.engine.query("SELECT k FROM a UNION ALL SELECT k FROM b", {"a": even, "b": odd})
        with bench.engine.held(bench.engine.from_arrow(stream())) as held:
            even = bench.engine.query("SELECT k FROM s WHERE k % 2 = 0", {"s": held})
            odd = bench.engine.query("SELECT k FROM s WHERE k % 2 = 1", {"s": held})
            both = bench.engine.query("SELECT k FROM a UNION ALL SELECT k FROM b", {"a": even, "b": odd})
            assert sorted(row["k"] for row in bench.engine.rows(both)) == list(range(10))

    def test_a_held_relation_is_computed_once(self, bench: Bench) -> None:
        """What is held can be read again and again, with the same columns, until the block ends."""
        with bench.engine.held(bench.engine.from_arrow(stream())) as held:
            assert bench.engine.schema(held).equals(KV)
            assert bench.engine.rows(held) == bench.engine.rows(held)
        with pytest.raises(LakehouseError, match="held"):
            bench.engine.rows(held)

    @pytest.mark.parametrize("how", ["append", "replace", "rebuild", "merge", "held", "query", "batches"])
    def test_an_error_of_a_stream_stays_what_it_is(self, bench: Bench, how: str) -> None:
        """What a source raises while it is read passes through every reader, and nothing is written."""
        table = bench.table(KV, (1, "a"))
        before = table.version
        error = SourceBusy("the file changed while it was read", fix="run again")
        relation = bench.engine.from_arrow(stream(300_000, error, 1000))
        if how == "merge":
            relation = bench.engine.query("SELECT k, v, 'u' AS _op FROM s", {"s": relation})
        with pytest.raises(SourceBusy, match="changed while it was read"):
            use(table, how, relation)
        assert (table.version, table.rows()) == (before, [(1, "a")])

    def test_a_terminal_error_of_a_stream_stays_terminal(self, bench: Bench) -> None:
        """The class decides whether a retry can help, so it must not change."""
        relation = bench.engine.from_arrow(stream(10, ExpectationFailed("a rule was broken")))
        with pytest.raises(ExpectationFailed):
            bench.engine.rows(bench.engine.query("SELECT count(*) AS n FROM s", {"s": relation}))

    def test_a_query_that_cannot_run_names_itself(self, bench: Bench) -> None:
        """An unknown column or table is an error of the query, not of the lake."""
        rows = bench.engine.from_arrow(pa.table({"a": [1]}))
        for sql in ("SELECT b FROM t", "SELECT a FROM nowhere"):
            with pytest.raises(TerminalError):
                bench.engine.query(sql, {"t": rows})

    def test_a_value_that_breaks_a_query_half_way(self, bench: Bench) -> None:
        """A cast that fails at a late row is an error of the query, and nothing is written."""
        values = [str(n) for n in range(200_000)]
        values[150_000] = "not a number"
        rows = bench.engine.from_arrow(pa.table({"k": pa.array(range(200_000), pa.int64()), "v": values}))
        broken = bench.engine.query("SELECT CAST(v AS BIGINT) AS k, v FROM t", {"t": rows})
        table = bench.table(KV, (1, "a"))
        with pytest.raises(SqlError):
            bench.engine.append(table.open(), broken, table.next())
        with pytest.raises(SqlError):
            bench.engine.replace(table.open(), broken, table.next())
        assert table.rows() == [(1, "a")]

    def test_an_empty_relation_keeps_its_columns(self, bench: Bench) -> None:
        """No rows still have columns, in a new table and in a query over it."""
        relation = bench.engine.read(bench.table().open())
        assert bench.engine.schema(relation).equals(KV)
        with bench.engine.batches(relation) as reader:
            assert reader.read_all().schema.equals(KV)
        counted = bench.engine.query("SELECT count(*) AS n FROM t", {"t": relation})
        assert bench.engine.rows(counted) == [{"n": 0}]
