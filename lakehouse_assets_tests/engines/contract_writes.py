"""The part of the engine contract about writes: append, replace, merge, rebuild, columns, what a table is made with."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from lakehouse_assets.engines.base import OPERATION, Relation
from lakehouse_assets.errors import LakehouseError, SchemaDrift, TypeRefused
from lakehouse_assets.lake.values import Number, TableSpec
from lakehouse_assets_tests.engines.bench import APP, KV, Bench, Table

PV = pa.schema([("p", pa.string()), ("v", pa.int64())])
ODD = (
    "a b", "a/b", "o'x", 'q"q', "ü", "a=b", "50%", "%20", "^GSPC", "x:y", "#", "?", "null", "None", "a\\b", "\n", "..",
    " ", "+", "a,b", "[x]", "*", "é", "2024-01-01", "1",
)  # fmt: skip
"""Texts that a path cannot hold as they are."""


class WriteContract:
    """Writes."""

    def test_append_adds_rows_under_a_number(self, bench: Bench) -> None:
        """Rows and number are one commit, and the commit says what it did."""
        table = bench.table()
        commit = table.append((1, "a"), (2, None))
        assert table.rows() == [(1, "a"), (2, None)]
        assert (commit.version, commit.rows_added, commit.skipped) == (table.version, 2, False)
        assert commit.bytes_added > 0
        assert table.number == 1

    def test_an_empty_append_carries_the_number(self, bench: Bench) -> None:
        """A batch without rows still moves the number, in a commit of its own."""
        table = bench.table(KV, (1, "a"))
        for relation in (None, table.relation([])):
            before, number = table.version, table.next()
            commit = bench.engine.append(table.open(), relation, number)
            assert (table.version, commit.version, table.number) == (before + 1, before + 1, number.value)
        assert table.rows() == [(1, "a")]

    def test_a_replay_is_a_no_op(self, bench: Bench) -> None:
        """A number that the table carries, or a lower one, is skipped by every write and leaves no version."""
        table = bench.table(KV, (1, "a"))
        table.append((2, "b"))
        before = table.version
        for number in (Number(APP, 2), Number(APP, 1)):
            rows = table.relation([(9, "z")])
            writes = (
                lambda n=number, r=rows: bench.engine.append(table.open(), r, n),
                lambda n=number, r=rows: bench.engine.replace(table.open(), r, n),
                lambda n=number: bench.engine.merge(table.open(), table.changes_to([(9, "z")]), ["k"], n),
                lambda n=number, r=rows: bench.engine.rebuild(table.open(), r, KV, n),
            )
            for write in writes:
                assert write().skipped
        assert (table.version, table.rows()) == (before, [(1, "a"), (2, "b")])

    def test_numbers_of_different_feeds_are_kept_apart(self, bench: Bench) -> None:
        """Two feeds of one table count on their own."""
        table = bench.table(KV, (1, "a"))
        bench.engine.append(table.open(), table.relation([(2, "b")]), Number("lakehouse/silver.t/other", 1))
        assert (table.number, table.open().number("lakehouse/silver.t/other")) == (1, 1)
        assert table.open().number("lakehouse/silver.t/never") == 0
        assert len(table.rows()) == 2

    def test_columns_may_come_in_any_order(self, bench: Bench) -> None:
        """Rows go by the names of their columns."""
        table = bench.table()
        turned = pa.schema([KV.field("v"), KV.field("k")])
        bench.engine.append(table.open(), table.relation([("a", 1)], turned), table.next())
        bench.engine.merge(
            table.open(),
            table.relation([("u", "b", 2)], pa.schema([pa.field(OPERATION, pa.string()), *turned])),
            ["k"],
            table.next(),
        )
        assert table.rows() == [(1, "a"), (2, "b")]
        bench.engine.replace(table.open(), table.relation([("c", 3)], turned), table.next())
        assert table.rows() == [(3, "c")]

    @pytest.mark.parametrize("how", ["append", "replace", "merge", "rebuild", "appender"])
    @pytest.mark.parametrize(
        "columns",
        [
            [("k", pa.int32()), ("v", pa.string())],
            [("k", pa.float64()), ("v", pa.string())],
            [("k", pa.string()), ("v", pa.string())],
            [("k", pa.int64())],
            [("k", pa.int64()), ("v", pa.string()), ("w", pa.string())],
            [("K", pa.int64()), ("v", pa.string())],
        ],
        ids=["narrower", "float", "text", "missing", "extra", "case"],
    )
    def test_rows_of_other_columns_are_refused(self, bench: Bench, how: str, columns: list) -> None:
        """Nothing is converted silently: other columns or types are `SchemaDrift`, and nothing is written."""
        table = bench.table(KV, (1, "a"))
        before = table.version
        schema = pa.schema(columns + ([(OPERATION, pa.string())] if how == "merge" else []))
        rows = bench.engine.from_arrow(schema.empty_table())
        with pytest.raises(SchemaDrift, match="do not have the table's columns"):
            write(table, how, rows, schema)
        assert (table.version, table.number) == (before, 1)

    def test_replace_takes_the_place_of_all_rows(self, bench: Bench) -> None:
        """One commit removes and adds; it says how many rows went and came."""
        table = bench.table(KV, (1, "a"), (2, "b"), (3, "c"))
        before = table.version
        commit = table.replace((9, "z"), (8, "y"))
        assert table.rows() == [(8, "y"), (9, "z")]
        assert (table.version, commit.rows_added, commit.rows_removed) == (before + 1, 2, 3)

    def test_replace_by_nothing_empties_the_table(self, bench: Bench) -> None:
        """No rows are a legal content, also of a table that is empty already."""
        table = bench.table(KV, (1, "a"))
        for expected in (2, 3):
            table.replace()
            assert (table.rows(), table.number) == ([], expected)

    def test_replace_by_partition_leaves_the_others(self, bench: Bench) -> None:
        """Only the named partitions are touched; one that has no rows any more disappears."""
        table = bench.table(PV, ("a", 1), ("b", 2), ("c", 3), (None, 4), partition_by=["p"])
        commit = table.replace(("a", 10), (None, 40), partitions=[{"p": "a"}, {"p": "c"}, {"p": None}])
        assert table.rows() == in_text_order([("a", 10), ("b", 2), (None, 40)])
        assert (commit.rows_added, commit.rows_removed) == (2, 3)

    def test_replacing_a_partition_that_is_not_there_adds_it(self, bench: Bench) -> None:
        """A partition may appear; replacing nothing by nothing still carries the number."""
        table = bench.table(PV, ("a", 1), partition_by=["p"])
        table.replace(("n", 5), partitions=[{"p": "n"}])
        table.replace(partitions=[{"p": "never"}])
        table.replace(partitions=[])
        assert (table.rows(), table.number) == ([("a", 1), ("n", 5)], 4)

    def test_rows_outside_the_replaced_partitions_are_refused(self, bench: Bench) -> None:
        """A row that would land beside the partitions that are replaced stops the write."""
        table = bench.table(PV, ("a", 1), partition_by=["p"])
        with pytest.raises(LakehouseError):
            table.replace(("b", 5), partitions=[{"p": "a"}])
        assert (table.rows(), table.number) == ([("a", 1)], 1)

    @pytest.mark.parametrize(
        ("dtype", "values"),
        [
            (pa.date32(), [dt.date(1, 1, 1), dt.date(2024, 2, 29), dt.date(9999, 12, 31)]),
            (pa.int32(), [-1, 0, 2_147_483_647]),
            (pa.int64(), [-(2**63), 0, 2**63 - 1]),
            (pa.bool_(), [True, False]),
            (pa.string(), list(ODD)),
        ],
        ids=["date", "int", "bigint", "boolean", "odd texts"],
    )
    def test_partition_values_of_each_type(self, bench: Bench, dtype: pa.DataType, values: list) -> None:
        """Every legal partition value is written, read, replaced and compacted as it is, NULL included."""
        schema = pa.schema([("p", dtype), ("v", pa.int64())])
        values = [*values, None]
        table = bench.table(schema, *((value, i) for i, value in enumerate(values)), partition_by=["p"])
        assert table.rows() == in_text_order((value, i) for i, value in enumerate(values))
        for i, value in enumerate(values[:3] + values[-1:]):
            table.replace((value, 100 + i), partitions=[{"p": value}])
        replaced = table.rows()
        assert [v for _, v in replaced].count(0) == 0
        assert len(replaced) == len(values)
        table.replace(*((value, -i) for i, value in enumerate(values)))
        table.append(*((value, i) for i, value in enumerate(values)))
        before = table.rows()
        table.compact()
        assert table.rows() == before

    def test_two_partition_columns(self, bench: Bench) -> None:
        """Partitions are named by all of their columns."""
        schema = pa.schema([("d", pa.date32()), ("p", pa.string()), ("v", pa.int64())])
        day = dt.date(2024, 1, 1)
        rows = [(d, p, 1) for d in (day, None) for p in ("a", "b", None)]
        table = bench.table(schema, *rows, partition_by=["d", "p"])
        table.replace((day, "b", 2), (None, None, 2), partitions=[{"d": day, "p": "b"}, {"d": None, "p": None}])
        table.replace(partitions=[{"d": day, "p": "a"}, {"d": None, "p": "a"}])
        expected = [(day, "b", 2), (day, None, 1), (None, "b", 1), (None, None, 2)]
        assert table.rows() == in_text_order(expected)

    def test_thousands_of_partitions_are_replaced_at_once(self, bench: Bench) -> None:
        """The number of partitions of a replace is not bounded by the depth of a predicate."""
        schema = pa.schema([("d", pa.int32()), ("p", pa.int32()), ("v", pa.int64())])
        table = bench.table(schema, (1, 1, 1), (2, 2, 2), partition_by=["d", "p"])
        table.replace((1, 1, 5), partitions=[{"d": n, "p": n} for n in range(1500) if n != 2])
        assert table.rows() == [(1, 1, 5), (2, 2, 2)]

    @pytest.mark.parametrize("how", ["append", "replace", "merge"])
    @pytest.mark.parametrize("text", ["", "__HIVE_DEFAULT_PARTITION__"])
    def test_partition_texts_that_delta_reads_as_null_are_refused(self, bench: Bench, how: str, text: str) -> None:
        """Delta would read these back as NULL: they are refused with what to write instead."""
        table = bench.table(PV, ("a", 1), partition_by=["p"])
        with pytest.raises(TypeRefused, match="nullif"):
            table.merge([(text, 2)], keys=["v"]) if how == "merge" else getattr(table, how)((text, 2))
        assert table.rows() == [("a", 1)]

    def test_merge_updates_inserts_and_deletes(self, bench: Bench) -> None:
        """One commit upserts and deletes by key, and says how many rows it touched."""
        table = bench.table(KV, (1, "a"), (2, "b"), (3, "c"))
        before = table.version
        commit = table.merge([(2, "B"), (4, "D")], [(3, "whatever"), (99, "not there")])
        assert table.rows() == [(1, "a"), (2, "B"), (4, "D")]
        assert (table.version, table.number) == (before + 1, 2)
        assert (commit.rows_added, commit.rows_updated, commit.rows_removed) == (1, 1, 1)

    def test_null_keys_match_null_keys(self, bench: Bench) -> None:
        """A NULL key is a key like any other, in each of several key columns."""
        schema = pa.schema([("a", pa.int64()), ("b", pa.string()), ("v", pa.int64())])
        table = bench.table(schema, (None, None, 1), (1, None, 2), (None, "x", 3), (1, "x", 4))
        table.merge([(None, None, 10), (1, None, 20), (2, None, 50)], [(None, "x", 0)], keys=["a", "b"])
        assert table.rows() == in_text_order([(None, None, 10), (1, None, 20), (1, "x", 4), (2, None, 50)])

    @pytest.mark.parametrize("deletes", [[], [(99, None)]], ids=["no row", "no match"])
    def test_a_merge_that_changes_nothing_carries_the_number(self, bench: Bench, deletes: list) -> None:
        """A merge without rows, or of deletes that match nothing, still moves the number in one commit."""
        table = bench.table(KV, (1, "a"), feed=True)
        before = table.version
        commit = table.merge([], deletes)
        assert (table.version, commit.version, table.number) == (before + 1, before + 1, 2)
        assert table.rows() == [(1, "a")]
        assert table.moved(before) == ("none", [])

    def test_a_partitioned_table_is_merged_across_partitions(self, bench: Bench) -> None:
        """A row may move to another partition."""
        schema = pa.schema([("k", pa.int64()), ("d", pa.date32())])
        one, two = dt.date(2024, 1, 1), dt.date(2024, 1, 2)
        table = bench.table(schema, (1, one), (2, one), (3, None), partition_by=["d"])
        table.merge([(1, two), (3, one), (4, None)])
        assert table.rows() == in_text_order([(1, two), (2, one), (3, one), (4, None)])

    def test_columns_with_odd_names(self, bench: Bench) -> None:
        """Every name that Delta can hold works in every write."""
        names = ["a.b", "a-b", 'q"x', "a'b", "`t`", "ü", "1x", "select", "a:b", "a/b", "$", "@x", "[x]", "filename"]
        schema = pa.schema([(name, pa.int64()) for name in names])
        table = bench.table(schema, tuple(range(len(names))), partition_by=["a.b", "ü"])
        table.merge([tuple(range(len(names)))], [], keys=names)
        table.merge([tuple(range(1, len(names) + 1))], [], keys=names)
        table.compact()
        table.replace(tuple(range(2, len(names) + 2)), partitions=[{"a.b": 2, "ü": 7}])
        assert table.rows() == [tuple(range(n, len(names) + n)) for n in range(3)]

    def test_rebuild_gives_the_table_other_columns(self, bench: Bench) -> None:
        """Rows, schema and comments change in one commit with the number; the table stays the same table."""
        table = bench.table(KV, (1, "a"))
        before, identity = table.version, table.open().id
        columns = pa.schema(
            [
                pa.field("k", pa.string(), metadata={"comment": "now a text"}),
                pa.field("t", pa.timestamp("us")),
                pa.field("n", pa.struct([("x", pa.list_(pa.int32()))])),
            ]
        )
        moment = dt.datetime.fromisoformat("2024-01-01T12:00")
        row = ("one", moment, {"x": [1, None]})
        commit = bench.engine.rebuild(
            table.open(), table.relation([row], columns.remove_metadata()), columns, table.next()
        )
        handle = table.open()
        assert table.rows() == [row]
        assert (handle.version, handle.number(APP), handle.id) == (commit.version, 2, identity)
        assert table.rows(commit.version - 1) == table.rows(before) == [(1, "a")]
        assert [f.name for f in handle.schema] == ["k", "t", "n"]
        assert handle.schema.field("k").metadata == {b"comment": b"now a text"}
        assert (commit.rows_added, commit.rows_removed) == (1, 1)

    def test_rebuild_with_equal_columns_keeps_the_schema(self, bench: Bench) -> None:
        """A rebuild that changes no column is a replace."""
        table = bench.table(KV, (1, "a"))
        bench.engine.rebuild(table.open(), table.relation([(2, "b")]), KV, table.next())
        assert (table.rows(), table.open().schema.names) == ([(2, "b")], ["k", "v"])

    def test_added_columns_are_null_in_older_rows(self, bench: Bench) -> None:
        """New columns stand at the end; rows from before hold NULL, numbers stay."""
        table = bench.table(KV, (1, "a"))
        new = [pa.field("t", pa.timestamp("us", tz="UTC")), pa.field("s", pa.struct([("x", pa.int64())]))]
        handle = bench.engine.add_columns(table.open(), new)
        assert handle.schema.names == ["k", "v", "t", "s"]
        assert handle.number(APP) == 1
        moment = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
        table.append((2, "b", moment, {"x": 1}))
        assert table.rows() == [(1, "a", None, None), (2, "b", moment, {"x": 1})]
        assert table.moved(table.version - 1) == ("append", [(2, "b", moment, {"x": 1})])

    def test_a_table_is_made_with_comments_and_properties(self, bench: Bench) -> None:
        """Schema, partitions, properties (of any name) and comments stand in version 0."""
        schema = pa.schema(
            [
                pa.field("k", pa.int64(), metadata={"comment": "the key, it's called"}),
                pa.field("d", pa.date32()),
                pa.field("n", pa.timestamp("us")),
            ]
        )
        properties = {"lakehouse.destination": "silver.t", "delta.enableChangeDataFeed": "true", "owner.team": "ü"}
        handle = bench.engine.create(bench.place(), TableSpec(schema, ("d",), properties, "What it is"))
        assert handle.version == 0
        assert (handle.partition_by, handle.comment) == (("d",), "What it is")
        assert {name: handle.properties[name] for name in properties} == properties
        assert [(f.name, f.type, f.nullable, f.metadata) for f in handle.schema] == [
            (f.name, f.type, f.nullable, f.metadata) for f in schema
        ]

    def test_creating_a_table_that_is_there_opens_it(self, bench: Bench) -> None:
        """Creation never replaces a table."""
        table = bench.table(KV, (1, "a"))
        handle = bench.engine.create(table.uri, TableSpec(pa.schema([("other", pa.int64())])))
        assert (handle.id, handle.schema.names) == (table.open().id, ["k", "v"])
        assert table.rows() == [(1, "a")]

    def test_a_table_that_is_not_there_is_none(self, bench: Bench) -> None:
        """Looking for a table is no error."""
        assert bench.engine.find(bench.place()) is None


def write(table: Table, how: str, rows: Relation, schema: pa.Schema = KV) -> None:
    """Write rows in one of the ways that there are."""
    engine, handle, number = table.engine, table.open(), table.next()
    if how == "appender":
        engine.appender(handle).write(pa.RecordBatch.from_pylist([], schema=schema))
    elif how == "merge":
        engine.merge(handle, rows, ["k"], number)
    elif how == "rebuild":
        engine.rebuild(handle, rows, KV, number)
    else:
        getattr(engine, how)(handle, rows, number)


def in_text_order(rows) -> list[tuple]:
    """Rows sorted as `Table.rows` sorts them."""
    return sorted(rows, key=repr)
