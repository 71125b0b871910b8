"""Extracts: a file says what it holds, is whole or absent, and its checksum knows every row and no batch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.errors import LakeError, LakehouseError, SourceBusy
from lakehouse_assets.lake.extracts import Checksum, Extracts
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.simulators.faulty_store import CUT_UPLOAD, LOST_ANSWER, LOST_REQUEST, Fault, FaultyProxy
from lakehouse_assets_tests.conftest import Bucket

DAY = "2024-01-02"
SCHEMA = pa.schema(
    [
        pa.field("n", pa.int64()),
        pa.field("text", pa.string(), metadata={"kdb.type": "symbol"}),
        pa.field("x", pa.float64()),
        pa.field("day", pa.date32()),
        pa.field("many", pa.list_(pa.string())),
        pa.field("yes", pa.bool_()),
        pa.field("at", pa.timestamp("us", "UTC")),
    ]
)
ROW = {"n": 1, "text": "a", "x": 0.5, "day": date(2024, 1, 2), "many": ["p", None], "yes": True, "at": 0}


def table(*changes: dict) -> pa.Table:
    """Rows like `ROW`, each changed."""
    return pa.Table.from_pylist([{**ROW, **change} for change in changes], schema=SCHEMA)


def checksum(rows: pa.Table, size: int = 1_000) -> str:
    """The checksum of rows that come in batches of this size."""
    found = Checksum(rows.schema)
    for batch in rows.to_batches(max_chunksize=size):
        found.add(batch)
    return found.text()


def put(store: Extracts, rows: pa.Table, key: str = DAY, fingerprint: str = "1:a"):
    """Write rows, two at a time."""
    return store.write(key, rows.schema, iter(rows.to_batches(max_chunksize=2)), fingerprint)


@pytest.fixture
def store(tmp_path: Path) -> Extracts:
    """The extracts of a table on this disk."""
    return Extracts(Storage(), f"{tmp_path}/extract/trade", "date")


def test_what_is_written_is_found_and_read(store: Extracts) -> None:
    """Rows in their order, the columns with their metadata, what the source said, and how many bytes there are."""
    rows = table({}, {"n": None, "text": None, "many": None}, {"text": "ü"})
    put(store, rows)
    found = store.find(DAY)
    assert found is not None
    assert (found.rows, found.fingerprint, found.checksum) == (3, "1:a", checksum(rows))
    assert found.bytes == os.path.getsize(found.path)
    assert store.read(found).read_all() == rows
    assert found.schema.field("text").metadata == {b"kdb.type": b"symbol"}
    assert store.partitions() == [DAY]


def test_an_empty_day_is_a_file_with_columns(store: Extracts) -> None:
    """No row, and every column."""
    put(store, SCHEMA.empty_table())
    found = store.find(DAY)
    assert found is not None
    assert (found.rows, store.read(found).read_all()) == (0, SCHEMA.empty_table())


def test_what_is_not_there_is_not_found(store: Extracts) -> None:
    """Neither a table nor a day that nobody extracted."""
    assert (store.partitions(), store.find(DAY)) == ([], None)
    put(store, table({}))
    assert store.find("2024-01-03") is None


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all"])
def test_what_is_left_of_a_damaged_file_is_replaced(store: Extracts, tmp_path: Path, content: bytes) -> None:
    """The source has the rows still: a file that nobody can read counts as none, and is written anew."""
    place = tmp_path / "extract" / "trade" / f"date={DAY}"
    place.mkdir(parents=True)
    (place / "trade.parquet").write_bytes(content)
    assert store.find(DAY) is None
    put(store, table({}))
    assert _read(store) == table({})


def test_a_file_of_somebody_else_is_refused(store: Extracts, tmp_path: Path) -> None:
    """Parquet without our footer: nobody knows of what it is a copy."""
    place = tmp_path / "extract" / "trade" / f"date={DAY}"
    place.mkdir(parents=True)
    pq.write_table(table({}), place / "trade.parquet")
    with pytest.raises(LakeError, match=r"(?s)is no extract of.*move it away"):
        store.find(DAY)


def test_a_file_that_was_replaced_is_not_read_for_the_old_one(store: Extracts) -> None:
    """Between finding and reading: the rows would be others than those that were planned."""
    found = put(store, table({}))
    put(store, table({"n": 2}))
    with pytest.raises(SourceBusy, match="was replaced"):
        store.read(found).read_all()


def test_a_file_that_is_replaced_by_the_same_rows_is_read(store: Extracts) -> None:
    """Two processes that extract one day disturb nobody."""
    found = put(store, table({}))
    put(store, table({}))
    assert store.read(found).read_all() == table({})


@pytest.mark.parametrize("key", ["", "../up", "a/b", "a b", "x" * 101])
def test_a_key_that_could_not_be_a_directory_is_refused(store: Extracts, key: str) -> None:
    """Nothing outside the table's own directory is ever written."""
    with pytest.raises(LakeError, match="cannot name a partition"):
        put(store, table({}), key)


def test_rows_that_fail_leave_the_old_file_and_nothing_else(store: Extracts, tmp_path: Path) -> None:
    """An unfinished file is removed by the process that could not finish it."""
    put(store, table({}))

    def torn() -> Iterator[pa.RecordBatch]:
        yield table({"n": 2}).to_batches()[0]
        raise SourceBusy("it changed", fix="run again")

    with pytest.raises(SourceBusy):
        store.write(DAY, SCHEMA, torn(), "2:b")
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["trade.parquet"]
    found = store.find(DAY)
    assert found is not None
    assert store.read(found).read_all() == table({})


def test_unfinished_files_are_no_partitions_and_go_when_they_are_old(store: Extracts, tmp_path: Path) -> None:
    """Somebody may be writing a young one; a day later nobody is."""
    put(store, table({}))
    place = tmp_path / "extract" / "trade" / f"date={DAY}"
    young, old = place / "_unfinished-1.parquet", place / "_unfinished-2.parquet"
    for path in (young, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 86_401,) * 2)
    assert store.partitions() == [DAY]
    put(store, table({}))
    assert sorted(path.name for path in place.iterdir()) == [young.name, "trade.parquet"]


CHANGES = [
    {"n": 2}, {"n": None}, {"n": 0}, {"text": ""}, {"text": None}, {"text": "b"}, {"x": -0.5}, {"x": None}, {"day": None},
    {"many": []}, {"many": None}, {"many": ["p"]}, {"many": ["p", ""]}, {"many": ["", "p"]}, {"yes": False}, {"yes": None},
    {"at": 1}, {"at": None},
]  # fmt: skip


def test_every_change_of_a_value_changes_the_checksum() -> None:
    """NULL is not zero, nor an empty text, nor an empty list; none of these is another."""
    found = [checksum(table({}, change)) for change in [{}, *CHANGES]]
    assert len(set(found)) == len(found)


def test_order_boundaries_and_names_count() -> None:
    """Rows in another order, letters that moved to the next text, another name or type of a column: other rows."""
    ab = table({"text": "ab"}, {"text": "c"})
    others = [ab, table({"text": "a"}, {"text": "bc"}), table({"text": "c"}, {"text": "ab"}), ab.slice(0, 1)]
    others += [ab.rename_columns(["m", *ab.column_names[1:]]), ab.set_column(0, "n", ab.column("n").cast(pa.int32()))]
    assert len({checksum(rows) for rows in others}) == len(others)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "n": st.none() | st.integers(-(2**63), 2**63 - 1),
            "text": st.none() | st.text(max_size=3),
            "x": st.none() | st.floats(),
            "many": st.none() | st.lists(st.none() | st.text(max_size=2), max_size=3),
            "yes": st.none() | st.booleans(),
        }
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 5), st.integers(0, 3))
def test_a_checksum_is_of_rows_and_not_of_batches(rows: list[dict], size: int, skipped: int) -> None:
    """However rows are cut, and from whatever they are a slice."""
    whole = table(*rows)
    part = whole.slice(skipped)
    copied = pa.Table.from_pylist(part.to_pylist(), schema=SCHEMA)
    assert checksum(part, size) == checksum(part) == checksum(copied)


FAULTS = {
    "request lost": LOST_REQUEST,
    "request cut": CUT_UPLOAD,
    "answer lost": LOST_ANSWER,
    "refused": Fault(answer=403, code="AccessDenied"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_in_an_object_store_a_file_is_whole_or_absent(s3: Bucket, name: str) -> None:
    """An upload that fails in its middle, however often it is tried: no file, or the old one, or all of the new one."""
    with FaultyProxy(s3.options["AWS_ENDPOINT_URL"]) as proxy:
        through = Storage({**s3.options, "AWS_ENDPOINT_URL": proxy.url})
        direct = Extracts(s3.storage, f"{s3.root}/extract/trade", "date")
        store = Extracts(through, f"{s3.root}/extract/trade", "date")
        for method in ("PUT", "POST"):
            proxy.always(FAULTS[name], method=method, path="parquet")
        old, new = table({}), pa.concat_tables([table({"n": n, "text": str(n) * 40}) for n in range(50)])
        assert _tried(store, direct, old) in (None, old)
        proxy.heal()
        put(store, old)
        for method in ("PUT", "POST"):
            proxy.always(FAULTS[name], method=method, path="parquet")
        assert _tried(store, direct, new) in (old, new)
        assert proxy.struck
        proxy.heal()
        put(store, new)
        assert _read(direct) == new


def _tried(store: Extracts, direct: Extracts, rows: pa.Table) -> pa.Table | None:
    """What is there when rows were put there, or could not be."""
    with suppress(LakehouseError):
        put(store, rows)
    return _read(direct)


def _read(store: Extracts) -> pa.Table | None:
    found = store.find(DAY)
    return None if found is None else store.read(found).read_all()


@pytest.mark.slow
def test_an_upload_in_parts_that_breaks_in_its_middle_leaves_no_half(s3: Bucket) -> None:
    """A large file travels in parts, and an upload that fails may be completed with the parts that arrived: none stays."""
    large = table(*({"n": n, "text": os.urandom(1 << 19).hex()} for n in range(24)))
    with FaultyProxy(s3.options["AWS_ENDPOINT_URL"]) as proxy:
        through = Storage({**s3.options, "AWS_ENDPOINT_URL": proxy.url})
        direct = Extracts(s3.storage, f"{s3.root}/extract/trade", "date")
        store = Extracts(through, f"{s3.root}/extract/trade", "date")
        put(store, table({}))
        proxy.always(LOST_REQUEST, method="PUT", path="partNumber=2")
        with pytest.raises(LakehouseError):
            put(store, large)
        assert proxy.struck
        assert direct.partitions() == []
        proxy.heal()
        put(store, large)
        assert _read(direct) == large
