"""The part of the engine contract that tables with history need: merges that lie within bounds, properties, layout."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from lakehouse_assets.lake.values import Within
from lakehouse_assets_tests.engines.bench import KV, Bench

UTC = dt.UTC
MOMENTS = {
    pa.int64(): (5, 10, 20),
    pa.string(): ("a", "a'b", "c"),
    pa.date32(): (dt.date(2024, 1, 1), dt.date(2024, 2, 29), dt.date(2025, 1, 1)),
    pa.timestamp("us", "UTC"): (
        dt.datetime(2024, 1, 1, tzinfo=UTC),
        dt.datetime(2024, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC),
        dt.datetime(2024, 1, 2, tzinfo=UTC),
    ),
    pa.timestamp("us"): (dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, 0, 0, 0, 1), dt.datetime(2024, 1, 2)),
}
"""Types of a sequence, and three values in order."""
KEYS = ("k", "start")


def versions(kind: pa.DataType) -> pa.Schema:
    """A table of versions that end in a column of this type."""
    return pa.schema([("k", pa.int64()), ("v", pa.string()), ("start", kind), ("end", kind)])


class HistoryContract:
    """What tables with history need."""

    @pytest.mark.parametrize("kind", MOMENTS, ids=str)
    def test_a_merge_finds_its_rows_within_a_bound(self, bench: Bench, kind: pa.DataType) -> None:
        """Open rows and those that end at the bound or later are found, whatever the type and however files lie."""
        first, second, third = MOMENTS[kind]
        table = bench.table(versions(kind), (1, "a", first, second), feed=True)
        table.append((1, "b", second, third))
        table.append((1, "c", third, None))
        change = table.changes_to([(1, "B", second, third), (1, "c", third, None)], [(1, "a", first, second)])
        bench.engine.merge(table.open(), change, KEYS, table.next(), Within("end", second))
        assert table.rows() == [(1, "B", second, third), (1, "c", third, None)]
        close = table.changes_to([(1, "c", third, third), (2, "d", first, None)])
        bench.engine.merge(table.open(), close, KEYS, table.next(), Within("end"))
        assert table.rows() == [(1, "B", second, third), (1, "c", third, third), (2, "d", first, None)]

    def test_a_merge_within_open_rows_of_a_struct(self, bench: Bench) -> None:
        """An end of several parts is NULL as a whole."""
        end = pa.struct([("a", pa.int64()), ("b", pa.int64())])
        schema = pa.schema([("k", pa.int64()), ("v", pa.string()), ("start", end), ("end", end)])
        one, two = {"a": 1, "b": None}, {"a": 1, "b": 2}
        table = bench.table(schema, (1, "a", one, None), feed=True)
        change = table.changes_to([(1, "a", one, two), (1, "b", two, None)])
        bench.engine.merge(table.open(), change, KEYS, table.next(), Within("end"))
        assert table.rows() == [(1, "a", one, two), (1, "b", two, None)]

    def test_properties_change_and_no_row_does(self, bench: Bench) -> None:
        """A changed property is there for the next handle; nobody downstream moves, and the commit is ours."""
        table = bench.table(KV, (1, "a"), properties={"lakehouse.tracked": "a"})
        before = table.version
        bench.engine.set_properties(table.open(), {"lakehouse.tracked": "a,b", "lakehouse.other": "it's"})
        found = table.open().properties
        assert (found["lakehouse.tracked"], found["lakehouse.other"]) == ("a,b", "it's")
        assert table.moved(before) == ("none", [])
        assert table.open().foreign_since_own() == []

    def test_foreign_rows_since_our_own_are_told(self, bench: Bench) -> None:
        """What others wrote counts until this project writes again."""
        import deltalake

        table = bench.table(KV, (1, "a"))
        deltalake.write_deltalake(table.uri, pa.table({"k": [2], "v": ["b"]}, KV), mode="append")
        assert table.open().foreign_since_own() == [table.version]
        table.append((3, "c"))
        assert table.open().foreign_since_own() == []
