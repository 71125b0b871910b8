"""Tests of staged Parquet files: layout, partition values, and statistics that never hide a row."""

from __future__ import annotations

import datetime as dt
import json
import math
import resource
import shutil
import tempfile
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.errors import SchemaDrift, TypeRefused
from lakehouse_assets.lake import parquet
from lakehouse_assets.lake.delta import create_table, find_table
from lakehouse_assets.lake.parquet import ParquetStage, by_partition, partition_text, statistics
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number, TableSpec

KV = pa.schema([("k", pa.int64()), ("v", pa.string())])
TYPED = pa.schema(
    [
        ("i", pa.int64()),
        ("t", pa.int8()),
        ("d", pa.date32()),
        ("s", pa.string()),
        ("f", pa.float64()),
        ("n", pa.timestamp("us")),
        ("p", pa.string()),
    ]
)
DATES = st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31))
TEXTS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["a" * 64, "a" * 65, "a" * 300, "é" * 40, "\U0010ffff" * 20, "", "a\0b", "'"]),
)
ROW = st.fixed_dictionaries(
    {
        "i": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
        "t": st.none() | st.integers(-128, 127),
        "d": st.none() | DATES,
        "s": st.none() | TEXTS,
        "f": st.none() | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 0.0, 1.5]),
        "n": st.none() | st.datetimes(dt.datetime.fromisoformat("1700-01-01"), dt.datetime.fromisoformat("2200-01-01")),
        "p": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=3),
    }
)


def made(tmp_path, schema=KV, partition_by=()):
    """A new table."""
    return create_table(str(tmp_path / "t"), Storage(), TableSpec(schema, tuple(partition_by)))


def staged(table, *batches, **how):
    """Data files of batches, staged beside a table."""
    stage = ParquetStage(table, **how)
    for batch in batches:
        stage.write(batch)
    return stage.finish()


def batch(schema=KV, *rows):
    """A record batch of tuples."""
    return pa.RecordBatch.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


def bounds(values, dtype):
    """The statistics of a file with these values: (nulls, least, greatest)."""
    stats = statistics(footer_of(pa.table({"x": pa.array(values, dtype)})), pa.schema([("x", dtype)]))
    return stats["nullCount"].get("x"), stats["minValues"].get("x"), stats["maxValues"].get("x")


def footer_of(table, **how):
    """The footer of a Parquet file in memory."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **how)
    return pq.ParquetFile(pa.BufferReader(sink.getvalue())).metadata


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (pa.int64(), [3, None, -(2**63)], (1, -(2**63), 3)),
        (pa.int8(), [1, 2], (0, 1, 2)),
        (pa.date32(), [dt.date(1, 1, 1), dt.date(9999, 12, 31), None], (1, "0001-01-01", "9999-12-31")),
        (pa.string(), ["b", "a", "é"], (0, "a", "é")),
        (pa.string(), ["", "x" * 64], (0, "", "x" * 64)),
        (pa.string(), ["a", "x" * 65], (0, None, None)),
        (pa.int64(), [None, None], (2, None, None)),
        (pa.float64(), [1.0, math.nan], (0, None, None)),
        (pa.float64(), [1.0, 2.0], (0, None, None)),
        (pa.timestamp("us"), [0, 1], (0, None, None)),
        (pa.timestamp("us", tz="UTC"), [-(2**62), 2**62], (0, None, None)),
        (pa.bool_(), [True, None], (1, None, None)),
        (pa.binary(), [b"a"], (0, None, None)),
        (pa.decimal128(38, 2), [None, 1], (1, None, None)),
    ],
)
def test_bounds_are_given_where_they_are_exact(dtype, values, expected):
    """Integers, dates and short texts have bounds; what Delta cuts or cannot order has none, but its NULLs counted."""
    assert bounds(values, dtype) == expected


def test_dates_beyond_the_calendar_have_no_bounds():
    """A date that no ISO text holds is kept, without bounds."""
    assert bounds(pa.array([-800_000, 3_000_000], pa.int32()).cast(pa.date32()), pa.date32()) == (0, None, None)


def test_bounds_span_all_row_groups():
    """A row group without values does not hide the others."""
    table = pa.table({"x": pa.array([None, None, 5, 7, None, -1])})
    stats = statistics(footer_of(table, row_group_size=2), table.schema)
    assert (stats["numRecords"], stats["nullCount"], stats["minValues"], stats["maxValues"]) == (
        6,
        {"x": 3},
        {"x": -1},
        {"x": 7},
    )


def test_nested_columns_have_no_statistics():
    """Neither a struct nor a column whose name looks like a path into one is taken for the other."""
    table = pa.table(
        {"s": [{"x": 1}], "l": [[1]], "s.x": [5], "m": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))}
    )
    stats = statistics(footer_of(table), table.schema)
    assert set(stats["nullCount"]) <= {"s.x"}
    assert stats["minValues"].get("s.x", 5) == 5


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_statistics_never_hide_a_row(data):
    """Every predicate finds through delta-rs, which skips files by our statistics, what Arrow finds in all rows."""
    place = Path(tempfile.mkdtemp(prefix="lakehouse-statistics-"))
    try:
        create_table(str(place), Storage(), TableSpec(TYPED, ("p",)))
        files = data.draw(st.lists(st.lists(ROW, min_size=1, max_size=4), min_size=2, max_size=4))
        for number, rows in enumerate(files, 1):
            table = find_table(str(place), Storage())
            table.append_files(staged(table, pa.RecordBatch.from_pylist(rows, schema=TYPED)), Number("t", number))
        everything = pa.Table.from_pylist([row for rows in files for row in rows], schema=TYPED)
        opened = deltalake.DeltaTable(str(place))
        for column in ("i", "t", "d", "s", "p", "n"):
            value = data.draw(st.sampled_from(everything.column(column).to_pylist()))
            compare(opened, everything, column, value)
    finally:
        shutil.rmtree(place)


def compare(opened, everything, column, value):
    """Rows that a scan finds by a predicate on one column, against those that Arrow finds."""
    if value is None:
        expected = pc.sum(pc.is_null(everything.column(column))).as_py()
        assert pa.table(opened.scan(predicate=f'"{column}" IS NULL')).num_rows == expected
        return
    text = str(value).replace("'", "''")
    literal = text if isinstance(value, int) else f"'{text}'"
    dtype = everything.schema.field(column).type
    for sign, function in (("=", pc.equal), ("<", pc.less), (">=", pc.greater_equal), ("<>", pc.not_equal)):
        found = pa.table(opened.scan(predicate=f'"{column}" {sign} {literal}')).num_rows
        expected = pc.sum(pc.fill_null(function(everything.column(column), pa.scalar(value, dtype)), False)).as_py()
        assert found == (expected or 0), f"{column} {sign} {value!r}"


def test_the_log_holds_what_the_files_hold(tmp_path):
    """Rows, sizes and partition values of the commit are those of the files."""
    schema = pa.schema([("d", pa.date32()), ("v", pa.int64())])
    table = made(tmp_path, schema, ["d"])
    files = staged(table, batch(schema, (dt.date(2024, 1, 1), 1), (None, 2), (dt.date(2024, 1, 1), 3)))
    assert [(f.rows, f.partition_values, Path(f.path).stat().st_size) for f in files] == [
        (2, {"d": "2024-01-01"}, files[0].size),
        (1, {"d": None}, files[1].size),
    ]
    assert all("d" not in pq.read_schema(f.path).names for f in files)
    assert json.loads(files[0].stats)["minValues"] == {"v": 1}


def test_rows_of_a_partition_keep_their_order():
    """Sorting by partition is stable, and the partition columns leave the rows."""
    table = pa.table({"p": ["b", "a", None, "b", "a"], "n": [1, 2, 3, 4, 5]})
    assert [
        (values, rows.column("n").to_pylist(), rows.schema.names) for values, rows in by_partition(table, ["p"])
    ] == [
        (("a",), [2, 5], ["n"]),
        (("b",), [1, 4], ["n"]),
        ((None,), [3], ["n"]),
    ]
    assert [values for values, _ in by_partition(table, [])] == [()]


def test_partition_columns_may_have_any_name():
    """Names that an aggregation uses itself are no exception."""
    table = pa.table({"count_all": [1, 1], "k0": [2, 3], "x": [0, 0]})
    assert [values for values, _ in by_partition(table, ["count_all", "k0"])] == [("1", "2"), ("1", "3")]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, None), ("a b", "a b"), (5, "5"), (True, "true"), (False, "false"), (dt.date(2024, 1, 2), "2024-01-02")],
)
def test_partition_values_have_one_text(value, text):
    """As Delta writes them."""
    assert partition_text("p", value) == text


@pytest.mark.parametrize(
    "value", ["", "__HIVE_DEFAULT_PARTITION__", 1.5, dt.datetime.fromisoformat("2024-01-01"), b"x"]
)
def test_partition_values_without_a_text_are_refused(value):
    """What would come back as NULL, or as something else."""
    with pytest.raises(TypeRefused, match="'p'"):
        partition_text("p", value)


def test_a_large_batch_becomes_several_files(tmp_path):
    """Files are closed when they are large enough, and all rows are in one of them."""
    rows = pa.record_batch([range(200_000), [str(n) for n in range(200_000)]], schema=KV)
    files = staged(made(tmp_path), *[rows] * 6, file_bytes=1_000_000)
    assert len(files) > 1
    assert sum(f.rows for f in files) == 1_200_000


def stage_many_partitions(place: str) -> list[int]:
    """Stage more partitions than this process may have files open: partitions and rows."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * parquet.OPEN_FILES, 2 * parquet.OPEN_FILES))
    schema = pa.schema([("p", pa.int64()), ("v", pa.int64())])
    count = 3 * parquet.OPEN_FILES
    table = create_table(place, Storage(), TableSpec(schema, ("p",)))
    rows = pa.record_batch([[n % count for n in range(2 * count)], range(2 * count)], schema=schema)
    files = staged(table, rows)
    return [len({f.partition_values["p"] for f in files}), sum(f.rows for f in files)]


def test_more_partitions_than_open_files(tmp_path, in_process):
    """However many partitions a batch has, few files are open at the same time."""
    partitions, rows = in_process.call(stage_many_partitions, tmp_path / "t")
    assert (partitions, rows) == (3 * parquet.OPEN_FILES, 6 * parquet.OPEN_FILES)


def test_nothing_staged_is_no_file(tmp_path):
    """Batches without rows leave no file."""
    table = made(tmp_path)
    assert staged(table, batch()) == []
    assert list(Path(table.uri).glob("*.parquet")) == []


def test_a_discarded_stage_leaves_no_file(tmp_path):
    """Closed files and open ones alike; discarding twice is harmless."""
    table = made(tmp_path)
    stage = ParquetStage(table, 100_000)
    for _ in range(3):
        stage.write(pa.record_batch([range(300_000), ["x"] * 300_000], schema=KV))
    stage.discard()
    stage.discard()
    finished = ParquetStage(table)
    finished.write(batch(KV, (1, "a")))
    finished.finish()
    finished.discard()
    assert list(Path(table.uri).glob("*.parquet")) == []


def test_rows_that_do_not_fit_are_refused_at_once(tmp_path):
    """A batch of other columns is refused when it is given, also when it has no rows."""
    stage = ParquetStage(made(tmp_path))
    for schema in (pa.schema([("k", pa.int64())]), pa.schema([("k", pa.int64()), ("v", pa.int64())])):
        with pytest.raises(SchemaDrift):
            stage.write(pa.RecordBatch.from_pylist([], schema=schema))
    stage.discard()


def test_pages_carry_checksums(tmp_path):
    """A bit that flips on the disk is noticed by readers that look."""
    (file,) = staged(made(tmp_path), batch(KV, *((n, "text") for n in range(1000))))
    pq.ParquetFile(file.path, page_checksum_verification=True).read()
    data = bytearray(Path(file.path).read_bytes())
    data[data.index(b"text") + 1] ^= 0xFF
    Path(file.path).write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(file.path, page_checksum_verification=True).read()


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({}, set("abcdefgh")),
        ({"delta.dataSkippingNumIndexedCols": "2"}, {"a", "b"}),
        ({"delta.dataSkippingNumIndexedCols": "-1"}, set("abcdefghi")),
        ({"delta.dataSkippingStatsColumns": "`i`,b"}, {"b", "i"}),
    ],
)
def test_the_log_says_of_few_columns_what_a_file_holds(tmp_path, properties, expected):
    """Opening a table costs what its log holds, so by default the first columns have statistics; rows always count."""
    schema = pa.schema([(name, pa.int64()) for name in "abcdefghi"])
    table = create_table(str(tmp_path / "t"), Storage(), TableSpec(schema, properties=properties))
    stage = ParquetStage(table)
    stage.write(pa.record_batch([[1, 2]] * 9, schema=schema))
    (file,) = stage.finish()
    stats = json.loads(file.stats)
    assert (set(stats["minValues"]), set(stats["nullCount"]), stats["numRecords"]) == (expected, expected, 2)
