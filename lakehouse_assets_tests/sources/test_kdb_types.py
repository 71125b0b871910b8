"""The one table of kdb's types: what the lake holds of each, and the page that is made of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse_assets.errors import TypeRefused
from lakehouse_assets.lake.schemas import check_columns, plain
from lakehouse_assets.sources import qipc
from lakehouse_assets.sources.kdb_types import (
    BY_NAME,
    arrow_of,
    field,
    held,
    held_schema,
    kind_of_char,
    number_name,
    page,
    schema_of,
)
from lakehouse_assets_tests.sources.qipc_lab import CASES, NUMBERS, TIMESTAMPS, Q

PAGE = Path(__file__).parents[2] / "docs" / "kdb_types.md"
NS, US = pa.timestamp("ns", "UTC"), pa.timestamp("us", "UTC")
EPOCH = 946_684_800 * 10**9


def timestamps(values: list[int | None], name: str = "time") -> pa.Table:
    """A table with a column of timestamps, of nanoseconds since 1970."""
    return pa.Table.from_arrays(
        [pa.array(values, pa.int64()).view(NS)], schema=pa.schema([field(name, "timestamp", NS)])
    )


def test_the_page_is_up_to_date() -> None:
    """`python -m lakehouse_assets.sources.kdb_types > docs/kdb_types.md` would change nothing."""
    assert PAGE.read_text() == page()


def test_every_type_stands_on_the_page_once() -> None:
    """K25: with its letter, its null and what the lake holds."""
    lines = [line for line in page().splitlines() if any(line.startswith(f"| {name} |") for name in BY_NAME)]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == list(BY_NAME)
    assert all(line.split(" | ")[6].strip() for line in lines)


def test_the_numbers_of_q() -> None:
    """Each type has its number and its letter, none twice; 3 is no type of q."""
    assert {q.number for q in BY_NAME.values()} == set(range(1, 20)) - {3}
    assert "".join(q.char for q in BY_NAME.values()) == "bgxhijefcspmdznuvt"


def test_what_meta_shows() -> None:
    """Small letters are simple columns, capitals columns of vectors, `C` text."""
    assert [kind_of_char(char) for char in "jJcCsS"] == [
        "long",
        "long list",
        "char",
        "char vector",
        "symbol",
        "symbol list",
    ]
    schema = schema_of({"sym": "s", "sizes": "J", "note": "C"})
    assert schema.types == [pa.string(), pa.list_(pa.int64()), pa.string()]
    assert [of.metadata[b"kdb.type"] for of in schema] == [b"symbol", b"long list", b"char vector"]


@pytest.mark.parametrize("char", [" ", "?", ""])
def test_a_column_without_a_type_is_refused(char: str) -> None:
    """K25: a column of several types has no letter."""
    with pytest.raises(TypeRefused, match="column 'c' has no single type"):
        schema_of({"c": char})


def test_names_of_what_is_no_type() -> None:
    """Errors say what something is, not its number alone."""
    assert [number_name(number) for number in (-7, 0, 20, 98, 99, 100, 3)] == [
        "long", "list", "enumeration (type 20)", "table", "dictionary", "function (type 100)", "type 3"
    ]  # fmt: skip
    with pytest.raises(TypeRefused, match="no such type"):
        arrow_of("decimal list")


@pytest.mark.parametrize("name", NUMBERS)
def test_every_type_is_one_that_delta_holds(name: str) -> None:
    """K25: after `held` no column is refused or changed by the lake: no uint8, time, duration or nanoseconds."""
    q = Q()
    table = held(qipc.decode(q.frame(q.table([("c", q.case(name))]))))
    check_columns(table.schema, "bronze.t")
    assert plain(table.schema).types == table.schema.types


def test_timestamps_are_microseconds_beside_their_nanoseconds() -> None:
    """K25: rounded down, before 1970 too; NULL in both; the nanoseconds right behind, exact to the last."""
    exact = [None, *(value + EPOCH for value in TIMESTAMPS[1:]), -1, 1_999]
    table = timestamps(exact).append_column(field("size", "long", pa.int64()), pa.array(range(len(exact))))
    found = held(table)
    assert found.column_names == ["time", "time_ns", "size"]
    assert found.schema.types == [US, pa.int64(), pa.int64()]
    assert found.column("time_ns").to_pylist() == exact
    assert found.column("time").cast(pa.int64()).to_pylist() == [
        None if value is None else value // 1000 for value in exact
    ]
    assert found.schema.field("time").metadata == {b"kdb.type": b"timestamp"}
    found.validate(full=True)


def test_slices_and_chunks_of_timestamps() -> None:
    """Columns that begin in the middle of a buffer, with nulls; empty ones."""
    whole = timestamps([1_000, None, 3_000, 4_000, None])
    pieces = pa.concat_tables([whole.slice(1, 3), whole.slice(4), whole.slice(0, 0), whole.slice(2)])
    found = held(pieces)
    assert found.column("time_ns").to_pylist() == [None, 3_000, 4_000, None, 3_000, 4_000, None]
    assert found.column("time").cast(pa.int64()).to_pylist() == [None, 3, 4, None, 3, 4, None]
    assert held(whole.slice(0, 0)).num_rows == 0


def test_lists_of_timestamps_are_two_lists() -> None:
    """K25: nanoseconds inside of lists are kept, too."""
    q = Q()
    rows = q.list(q.vector(12, "q", [1, -(2**63)]), q.list())
    found = held(qipc.decode(q.frame(q.table([("c", rows)]))))
    assert found.schema.types == [pa.list_(US), pa.list_(pa.int64())]
    assert found.column("c_ns").to_pylist() == [[EPOCH + 1, None], []]
    assert found.column("c").cast(pa.list_(pa.int64())).to_pylist() == [[EPOCH // 1000, None], []]
    sliced = held(qipc.decode(q.frame(q.table([("c", rows)]))).slice(1))
    assert sliced.column("c_ns").to_pylist() == [[]]


def test_a_column_where_the_nanoseconds_go_is_refused() -> None:
    """K25: nothing is overwritten or renamed."""
    table = timestamps([1]).append_column("time_ns", pa.array([1]))
    with pytest.raises(TypeRefused, match="'time_ns', which is a column"):
        held(table)


def test_the_schema_of_what_is_held() -> None:
    """Known from `meta` alone, before a row is read."""
    schema = held_schema(schema_of({"time": "p", "sym": "s"}))
    assert schema.names == ["time", "time_ns", "sym"]
    assert schema.equals(held(schema_of({"time": "p", "sym": "s"}).empty_table()).schema, check_metadata=True)


def test_other_columns_are_left_alone() -> None:
    """Every type but timestamp is held as it was decoded."""
    q = Q()
    for name in CASES:
        table = qipc.decode(q.frame(q.table([("c", q.case(name))])))
        assert held(table).equals(table, check_metadata=True)
