"""Tests of `evolution: rescue` for files: CSV, JSON and Parquet, discovered and read whole."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse_assets.errors import TypeRefused
from lakehouse_assets_tests.tables.lab import Lab
from lakehouse_assets_tests.tables.shifting import rescued

I32, I64, F64, TEXT = pa.int32(), pa.int64(), pa.float64(), pa.string()
RULES = "expectations: {expect_all: {some: id > 0}}"
BOTH_WAYS = pytest.mark.parametrize("bronze", ["", RULES], ids=["streamed", "judged"])


FILES = """
delta_live_store:
  - entity_id: c
    source: {source}
    destination: bronze.c
    {fields}
    read_options: {{cloudFiles.format: {kind}{options}}}
    lakehouse: {{evolution: rescue}}
"""


def files(tmp_path, kind, fields="", options=""):
    """A lake that lands a directory of files."""
    drop = tmp_path / "drop"
    drop.mkdir()
    return Lab(tmp_path / "lake", FILES.format(source=drop, fields=fields, kind=kind, options=options)), drop


def test_csv_fields_beyond_the_declared_ones_and_misfits_are_rescued(tmp_path):
    """CSV: unknown columns and texts that do not fit are kept as they were written; malformed rows go to quarantine."""
    it, drop = files(tmp_path, "csv", 'source_schema: "id BIGINT, v DOUBLE"', ', header: "true"')
    (drop / "a.csv").write_text("id,v,More\n1,2.5,\n2,n/a,01.50\nx,3,\n1,2\n")
    (outcome,) = it.run()
    assert rescued(it.rows("bronze.c", "id", "v", "_rescued_data")) == [
        (1, 2.5, None),
        (2, None, {"More": "01.50", "v": "n/a"}),
        (None, 3.0, {"id": "x"}),
    ]
    assert it.rows("bronze.c_quarantine", "_raw", "_reasons") == [('{"_raw": "1,2"}', ["malformed_row"])]
    assert (outcome.rows_in, outcome.valid, outcome.quarantined) == (4, 3, 1)
    ((text,),) = [row for row in it.rows("bronze.c", "_rescued_data") if row[0] and "n/a" in row[0]]
    assert json.loads(text)["_position"] == "a.csv#1"
    assert json.loads(text)["_source"].endswith("drop/a.csv")


def test_json_fields_are_rescued_as_they_were_written(tmp_path):
    """JSON: numbers keep their digits, nested values are JSON text."""
    it, drop = files(tmp_path, "json", "source_schema: id BIGINT")
    (drop / "a.json").write_text('{"id":1,"n":1.10,"o":{"a":[1,null]},"t":"é\\"x"}\n{"id":"one"}\n')
    it.run()
    assert rescued(it.rows("bronze.c", "id", "_rescued_data")) == [
        (1, {"n": "1.10", "o": '{"a":[1,null]}', "t": 'é"x'}),
        (None, {"id": "one"}),
    ]


def test_parquet_fields_beyond_the_declared_ones_are_rescued(tmp_path):
    """Parquet: typed values become texts, nested ones JSON text."""
    it, drop = files(tmp_path, "parquet", "source_schema: id INT")
    pq.write_table(pa.table({"id": [1, 1 << 40], "d": [0.5, None], "l": [[1], None]}), drop / "a.parquet")
    it.run()
    assert rescued(it.rows("bronze.c", "id", "_rescued_data")) == [
        (1, {"d": "0.5", "l": "[1]"}),
        (None, {"id": str(1 << 40)}),
    ]


def test_files_that_gain_a_column_without_a_declared_schema(tmp_path):
    """Without `source_schema` the first batch makes the columns; what a later file adds is rescued."""
    it, drop = files(tmp_path, "csv", options=', header: "true", inferSchema: "true"')
    (drop / "a.csv").write_text("id,v\n1,2\n")
    it.run()
    (drop / "b.csv").write_text("V,id,w\nthree,2,x\n4,3,\n")
    it.run()
    assert rescued(it.rows("bronze.c", "id", "v", "_rescued_data")) == [
        (1, 2, None),
        (2, None, {"V": "three", "w": "x"}),
        (3, 4, None),
    ]


def test_a_field_that_no_column_can_be_named_after_is_refused(tmp_path):
    """A field that cannot be read is an error with a way out, never left out in silence."""
    it, drop = files(tmp_path, "csv", "source_schema: id BIGINT", ', header: "true"')
    (drop / "a.csv").write_text("id,max temp\n1,2\n")
    with pytest.raises(TypeRefused, match=r"bronze.c: a field beyond source_schema cannot be rescued") as error:
        it.run()
    assert "then it is left out" in str(error.value)
    assert not it.exists("bronze.c")


def test_csv_by_place_has_no_further_fields(tmp_path):
    """Without a header fields have no names: a row with more of them is malformed, as ever."""
    it, drop = files(tmp_path, "csv", 'source_schema: "id BIGINT, v BIGINT"')
    (drop / "a.csv").write_text("1,2\n3,x\n5,6,7\n")
    it.run()
    assert rescued(it.rows("bronze.c", "id", "v", "_rescued_data")) == [(1, 2, None), (3, None, {"v": "x"})]
    assert it.rows("bronze.c_quarantine", "_reasons") == [(["malformed_row"],)]


def test_a_file_read_whole_is_rescued_again_when_it_changes(tmp_path):
    """Whole-read formats replace the rows, and what was rescued with them."""
    data = tmp_path / "c.csv"
    text = FILES.replace("cloudFiles.format: {kind}", 'header: "true"').replace("{fields}", "source_format: csv")
    it = Lab(tmp_path / "lake", text.format(source=data, options=""))
    data.write_text("id,v\n1,a\n")
    it.run()
    data.write_text("id,v,w\n1,b,c\n")
    it.run()
    assert rescued(it.rows("bronze.c", "id", "v", "_rescued_data")) == [("1", "b", {"w": "c"})]
