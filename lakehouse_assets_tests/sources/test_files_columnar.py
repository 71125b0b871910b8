"""Parquet and ORC: their types become columns without loss, their files are united or named."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from lakehouse_assets.entities.model import LakehouseOptions
from lakehouse_assets.errors import SourceUnreadable, TypeRefused
from lakehouse_assets.sources.base import open_source
from lakehouse_assets.sources.files_columnar import BATCH_ROWS
from lakehouse_assets_tests.sources.files_making import aged, entity, everything, misfits, naive, put, rows, table

NOON = naive(2024, 7, 1, 12)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the files of a test go."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> None:
    """Write a Parquet file."""
    pq.write_table(pa.table(columns), path, **options)
    aged(path)


def test_files_unite_by_name_and_widen(directory: Path) -> None:
    """A column that came later is NULL before; integers widen; upper and lower case are one name."""
    parquet(directory / "1.parquet", {"a": [1], "b": pa.array([1], pa.int8())})
    parquet(directory / "2.parquet", {"B": pa.array([300], pa.int32()), "c": ["x"]})
    assert rows(entity(directory, "parquet")) == [{"a": 1, "b": 1, "c": None}, {"a": None, "b": 300, "c": "x"}]


def test_files_that_disagree_are_named(directory: Path) -> None:
    """File, column and both types; a declaration reads both, and what does not fit goes to quarantine."""
    parquet(directory / "1.parquet", {"a": [1]})
    parquet(directory / "2.parquet", {"a": ["x"]})
    with pytest.raises(SourceUnreadable, match=r"'a' is BIGINT in .*1\.parquet and STRING in .*2\.parquet"):
        rows(entity(directory, "parquet"))
    assert rows(entity(directory, "parquet", schema="a int")) == [{"a": 1}]
    (misfit,) = misfits(entity(directory, "parquet", schema="a int"))
    assert (misfit["_reasons"], misfit["_upstream"], misfit["_position"]) == (
        ["cast_failed:a"], {"a": "x"}, "2.parquet#0",
    )  # fmt: skip


def test_a_declared_type_that_no_value_can_have_is_refused(directory: Path) -> None:
    """The declaration is wrong, not a row."""
    parquet(directory / "1.parquet", {"a": [1]})
    with pytest.raises(SourceUnreadable, match=r"'a' is int64 in .*1\.parquet; it cannot be read as ARRAY<INT>"):
        rows(entity(directory, "parquet", schema="a array<int>"))


@pytest.mark.parametrize("broken", [b"nonsense", b"PAR1" + bytes(60) + b"PAR1", b"ORC"])
@pytest.mark.parametrize("kind", ["parquet", "orc", "avro"])
def test_a_broken_file_is_named(directory: Path, kind: str, broken: bytes) -> None:
    """It is an error of the file, by its name, for every format."""
    put(directory / f"1.{kind}", broken)
    with pytest.raises(SourceUnreadable, match=rf"1\.{kind} "):
        rows(entity(directory, kind))


def test_a_file_that_lost_its_end_is_named(directory: Path) -> None:
    """A page that is corrupt inside of a sound file, too: nothing half-read goes on."""
    parquet(directory / "1.parquet", {"a": list(range(10_000))}, compression="snappy", use_dictionary=False)
    data = bytearray((directory / "1.parquet").read_bytes())
    data[200:4000] = bytes(3800)
    put(directory / "1.parquet", bytes(data))
    with pytest.raises(SourceUnreadable, match=r"1\.parquet"):
        rows(entity(directory, "parquet"))


def test_nanoseconds_are_never_cut(directory: Path) -> None:
    """A value with a part below the microsecond goes to quarantine in full; others are exact."""
    parquet(directory / "1.parquet", {"t": pa.array([1, 1000], pa.timestamp("ns")), "i": [1, 2]})
    assert rows(entity(directory, "parquet")) == [{"t": dt.datetime(1970, 1, 1, 0, 0, 0, 1, dt.UTC), "i": 2}]
    (misfit,) = misfits(entity(directory, "parquet"))
    assert misfit["_upstream"] == {"t": "1970-01-01 00:00:00.000000001", "i": "1"}


def test_nested_nanoseconds_are_never_cut(directory: Path) -> None:
    """Inside of lists and structs too."""
    inside = pa.array([[{"t": 1}], [{"t": 1000}]], pa.list_(pa.struct([("t", pa.timestamp("ns", "UTC"))])))
    parquet(directory / "1.parquet", {"l": inside})
    assert rows(entity(directory, "parquet")) == [{"l": [{"t": dt.datetime(1970, 1, 1, 0, 0, 0, 1, dt.UTC)}]}]
    (misfit,) = misfits(entity(directory, "parquet"))
    assert misfit["_upstream"] == {"l": '[{"t":"1970-01-01 00:00:00.000000001Z"}]'}


def test_int96_times_are_instants_of_any_year(directory: Path) -> None:
    """Nanoseconds would wrap outside of 1678 to 2261 and microseconds alone would be cut: neither happens."""
    times = [naive(9999, 12, 31), naive(1, 1, 1), NOON]
    parquet(directory / "1.parquet", {"t": pa.array(times)}, use_deprecated_int96_timestamps=True)
    assert [row["t"] for row in rows(entity(directory, "parquet"))] == [t.replace(tzinfo=dt.UTC) for t in times]
    parquet(
        directory / "1.parquet", {"t": pa.array([1, 1000], pa.timestamp("ns"))}, use_deprecated_int96_timestamps=True
    )
    assert len(rows(entity(directory, "parquet"))) == 1
    assert misfits(entity(directory, "parquet"))[0]["_upstream"] == {"t": "1970-01-01 00:00:00.000000001Z"}


def test_times_without_a_zone_are_read_in_the_zone_of_the_source(directory: Path) -> None:
    """As `source_timezone` says; a declared TIMESTAMP_NTZ keeps them."""
    parquet(directory / "1.parquet", {"t": pa.array([NOON])})
    declared = entity(directory, "parquet")
    declared.lakehouse = LakehouseOptions(source_timezone="Europe/Vienna")
    assert rows(declared) == [{"t": dt.datetime(2024, 7, 1, 10, tzinfo=dt.UTC)}]
    assert rows(entity(directory, "parquet", schema="t timestamp_ntz")) == [{"t": NOON}]


def test_a_type_without_a_column_is_refused(directory: Path) -> None:
    """With what to declare; declared so, it is read."""
    parquet(directory / "1.parquet", {"t": pa.array([1], pa.time64("us")), "u": pa.array([2**63], pa.uint64())})
    with pytest.raises(TypeRefused, match=r"column 't'[\s\S]*BIGINT \(the count of its unit, us\)"):
        rows(entity(directory, "parquet"))
    assert rows(entity(directory, "parquet", schema="t bigint, u decimal(20,0)")) == [{"t": 1, "u": Decimal(2**63)}]


def test_batches_are_small(directory: Path) -> None:
    """A file is streamed, not loaded: no batch is larger than the limit, and rows are numbered through."""
    parquet(directory / "1.parquet", {"a": range(3 * BATCH_ROWS + 1)})
    with open_source(entity(directory, "parquet")) as source:
        sizes = [batch.rows.num_rows for batch in everything(source)]
    assert sizes == [BATCH_ROWS, BATCH_ROWS, BATCH_ROWS, 1]
    assert table(entity(directory, "parquet")).column("_position")[-1].as_py() == f"1.parquet#{3 * BATCH_ROWS}"


def test_nested_columns_are_read_as_they_are(directory: Path) -> None:
    """Lists, structs and maps, from Parquet and ORC."""
    pairs = pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32()))
    columns = {"l": [[1, None]], "s": [{"x": 1, "y": ["z"]}], "m": pairs, "d": [Decimal("1.50")]}
    expected = [{"l": [1, None], "s": {"x": 1, "y": ["z"]}, "m": [("k", 1)], "d": Decimal("1.50")}]
    parquet(directory / "1.parquet", columns)
    orc.write_table(pa.table(columns), str(directory / "1.orc"))
    assert rows(entity(directory, "parquet", pathGlobFilter="*.parquet")) == expected
    assert rows(entity(directory, "orc", pathGlobFilter="*.orc")) == expected


def test_orc_times_are_exact_or_refused(directory: Path) -> None:
    """Microseconds are kept; a year beyond nanoseconds, which is all that Arrow reads from ORC, is an error."""
    orc.write_table(pa.table({"t": pa.array([NOON.replace(microsecond=1)])}), str(directory / "1.orc"))
    assert rows(entity(directory, "orc")) == [{"t": NOON.replace(microsecond=1, tzinfo=dt.UTC)}]
    orc.write_table(pa.table({"t": pa.array([naive(9999, 12, 31)])}), str(directory / "1.orc"))
    with pytest.raises(SourceUnreadable, match="out of range"):
        rows(entity(directory, "orc"))
