"""Tests of landed tables."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import islice

import pyarrow as pa
import pytest

from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import IncarnationChanged, LakeError, SchemaDrift
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.sources.base import MISFIT_SCHEMA, Batch, open_source
from lakehouse_assets.sources.memory import MemorySource
from lakehouse_assets.tables.refresh import preview, refresh
from lakehouse_assets_tests.tables.lab import NOW, Lab

YAML = """
delta_live_store:
  - entity_id: b
    source: stream
    source_format: sqlite
    destination: bronze.t
    source_schema: id BIGINT, v STRING
"""
CSV = """
delta_live_store:
  - entity_id: c
    source: {source}
    source_format: csv
    destination: bronze.c
    source_schema: id BIGINT, v STRING
    read_options: {{header: "true"}}
"""


class Misfitting(MemorySource):
    """A stream whose rows with v = 'bad' do not fit their columns."""

    def read(self, start, end):
        """Rows that fit, and rows that do not."""
        for batch in super().read(start, end):
            bad = pa.compute.equal(batch.rows.column("v"), "bad")
            bad_rows = batch.rows.filter(bad)
            misfits = pa.RecordBatch.from_pylist(
                [
                    {
                        "_upstream": f'{{"id": "{r["id"]}", "v": "bad"}}',
                        "_reasons": ["cast_failed:v"],
                        "_position": r["_position"],
                        "_source": r["_source"],
                    }
                    for r in bad_rows.to_pylist()
                ],
                schema=MISFIT_SCHEMA,
            )
            yield Batch(batch.rows.filter(pa.compute.invert(bad)), misfits)


def misfitting(it: Lab) -> None:
    """Make the lab's streams misfit."""
    it.work = replace(it.work, open_source=lambda e: Misfitting(e, it.streams.setdefault(e.source, []), batch_rows=2))


def test_rows_land_as_received_with_where_and_when(tmp_path):
    """A landed row is what was received, plus `_position`, `_source` and `_ingested_at`."""
    it = Lab(tmp_path / "lake", YAML)
    it.feed("stream", [{"id": 1, "v": "a"}, {"id": 2, "v": None}])
    it.run()
    rows = it.engine.rows(it.engine.read(it.engine.find(str(tmp_path / "lake/bronze/t"))))
    assert rows[1] == {"id": 2, "v": None, "_position": "1", "_source": "stream", "_ingested_at": NOW}


def test_an_empty_source_makes_an_empty_table(tmp_path):
    """A source without rows makes the table, so that what reads it can run."""
    it = Lab(tmp_path / "lake", YAML)
    it.run()
    assert it.rows("bronze.t") == []
    it.feed("stream", [{"id": 1, "v": "a"}])
    it.run()
    assert it.rows("bronze.t", "id") == [(1,)]


def test_misfits_go_to_quarantine_as_a_whole(tmp_path):
    """U: a value that does not fit its column sends the row to quarantine, as received, and aborts nothing."""
    it = Lab(tmp_path / "lake", YAML)
    misfitting(it)
    it.feed("stream", [{"id": 1, "v": "a"}, {"id": 2, "v": "bad"}, {"id": 3, "v": "c"}])
    (outcome,) = it.run()
    assert it.rows("bronze.t", "id") == [(1,), (3,)]
    assert it.rows("bronze.t_quarantine", "_raw", "_reasons", "_position", "_batch") == [
        ('{"id": "2", "v": "bad"}', ["cast_failed:v"], "1", 1)
    ]
    assert (outcome.rows_in, outcome.valid, outcome.quarantined) == (3, 2, 1)


def test_misfits_and_broken_rules_share_the_quarantine(tmp_path):
    """Rows that do not fit and rows that break a rule are in one quarantine, in one commit."""
    rules = YAML + "    is_quarantined: true\n    expectations: {expect_all: {small: id < 3}}\n"
    it = Lab(tmp_path / "lake", rules)
    misfitting(it)
    it.feed("stream", [{"id": 1, "v": "a"}, {"id": 2, "v": "bad"}, {"id": 3, "v": "c"}])
    (outcome,) = it.run()
    assert it.rows("bronze.t", "id") == [(1,)]
    assert it.rows("bronze.t_quarantine", "id", "_reasons") == [(3, ["small"]), (None, ["cast_failed:v"])]
    assert (outcome.rows_in, outcome.valid, outcome.quarantined) == (3, 1, 2)
    assert it.version("bronze.t_quarantine") == 1


def test_a_run_ends_while_rows_arrive(tmp_path):
    """What arrives while a batch is drafted or made is the next run's: a source that never rests holds no run."""
    it = Lab(tmp_path / "lake", YAML)

    class Busy(MemorySource):
        def latest(self, past):
            end = super().latest(past)
            it.feed("stream", [{"id": 2, "v": "later"}])
            return end

    it.feed("stream", [{"id": 1, "v": "a"}])
    work = replace(it.work, open_source=lambda entity: Busy(entity, it.streams[entity.source]))
    for _ in range(2):
        (outcome,) = islice(refresh(work, TableName("bronze", "t")), 3)
        assert outcome.valid == 1


def test_batches_that_a_bound_cut_are_one_run(tmp_path):
    """`sqlite.maxRowsPerBatch` and `maxFilesPerTrigger` bound batches, not runs; a batch that is not full is the last."""
    path = tmp_path / "edge.db"
    with closing(sqlite3.connect(path)) as edge, edge:
        edge.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
        edge.executemany("INSERT INTO t (v) VALUES (?)", [("a",)] * 5)
    drop = tmp_path / "drop"
    drop.mkdir()
    for n in range(5):
        (drop / f"{n}.csv").write_text(f"id,v\n{n},a\n")
    yaml = f"""
delta_live_store:
  - entity_id: b
    source: {path}
    source_format: sqlite
    destination: bronze.t
    read_options: {{sqlite.maxRowsPerBatch: "2"}}
  - entity_id: c
    source: {drop}
    source_format: cloudFiles
    destination: bronze.c
    source_schema: id BIGINT, v STRING
    read_options: {{cloudFiles.format: csv, header: "true", cloudFiles.maxFilesPerTrigger: "2"}}
"""
    it = Lab(tmp_path / "lake", yaml)
    for table in ("bronze.t", "bronze.c"):
        outcomes = it.run(table, open_source=open_source)
        assert [(outcome.valid, outcome.more) for outcome in outcomes] == [(2, True), (2, True), (1, False)]


def test_select_expr_applies_to_what_is_read(tmp_path):
    """D41: `select_expr` of an entity that reads outside is honoured."""
    it = Lab(tmp_path / "lake", YAML + "    select_expr: [id, upper(v) AS big]\n")
    it.feed("stream", [{"id": 1, "v": "a"}])
    it.run()
    assert it.rows("bronze.t", "id", "big") == [(1, "A")]


def test_another_stream_is_refused(tmp_path):
    """A changed incarnation is refused, naming the choices; the table stays as it was."""
    it = Lab(tmp_path / "lake", YAML)
    it.feed("stream", [{"id": 1, "v": "a"}])
    it.run()
    it.streams["stream"].clear()
    it.feed("stream", [{"id": 9, "v": "z"}, {"id": 10, "v": "y"}])
    with pytest.raises(IncarnationChanged, match="full-refresh bronze.t"):
        it.run()
    assert it.rows("bronze.t", "id") == [(1,)]


def test_a_rebuild_reads_the_new_stream(tmp_path):
    """`--full-refresh` overwrites, under the next number, and the feed goes on from there."""
    it = Lab(tmp_path / "lake", YAML)
    it.feed("stream", [{"id": 1, "v": "a"}])
    it.run()
    it.streams["stream"].clear()
    it.feed("stream", [{"id": 9, "v": "z"}])
    it.run(rebuild=True)
    it.feed("stream", [{"id": 10, "v": "y"}])
    it.run()
    assert it.rows("bronze.t", "id") == [(9,), (10,)] or it.rows("bronze.t", "id") == [(10,), (9,)]


def test_two_feeds_share_a_table(tmp_path):
    """Several entities feed one destination, each under its own numbers; a rebuild takes all of them."""
    yaml = """
delta_live_store:
  - {entity_id: a, source: one, source_format: sqlite, destination: bronze.t, source_schema: id BIGINT, lakehouse: {feed: one}}
  - {entity_id: b, source: two, source_format: sqlite, destination: bronze.t, source_schema: id BIGINT, lakehouse: {feed: two}}
"""
    it = Lab(tmp_path / "lake", yaml)
    it.feed("one", [{"id": 1}])
    it.feed("two", [{"id": 100}, {"id": 101}])
    it.run()
    it.feed("two", [{"id": 102}])
    it.run()
    expected = [(1, "one"), (100, "two"), (101, "two"), (102, "two")]
    assert sorted(it.rows("bronze.t", "id", "_source")) == expected
    it.run(rebuild=True)
    assert sorted(it.rows("bronze.t", "id", "_source")) == expected
    assert it.run() == []


def test_a_new_column_is_added(tmp_path):
    """`evolution: add_columns` is the default: a new source column is added, earlier rows hold NULL."""
    it = Lab(tmp_path / "lake", YAML)
    it.feed("stream", [{"id": 1, "v": "a"}])
    it.run()
    it.streams["stream"] = [
        pa.RecordBatch.from_pylist([{"id": 1, "v": "a"}, {"id": 2, "v": "b"}], schema=it.streams["stream"][0].schema)
    ]
    it.declare(YAML.replace("v STRING", "v STRING, w DOUBLE"))
    it.streams["stream"] = [
        b.append_column("w", pa.array([0.5] * b.num_rows)) if i else b for i, b in enumerate(it.streams["stream"])
    ]
    frozen = YAML.replace("v STRING", "v STRING, w DOUBLE") + "    lakehouse: {evolution: freeze}\n"
    wide = [it.streams["stream"][0].append_column("w", pa.array([None, 2.5], pa.float64()))]
    it.streams["stream"] = wide
    it.declare(frozen)
    it.work = _trusting(it)
    with pytest.raises(SchemaDrift, match=r"new columns \(w\) and the table is frozen"):
        it.run()
    it.declare(YAML.replace("v STRING", "v STRING, w DOUBLE"))
    it.work = _trusting(it)
    it.run()
    assert it.rows("bronze.t", "id", "w") == [(1, None), (2, 2.5)]


def _trusting(it: Lab):
    """The lab's work over a stream that is the same although its rows got a column."""

    class Same(MemorySource):
        def incarnation(self, position):
            return "same"

        def verify(self, position, recorded):
            return []

    return replace(it.work, open_source=lambda e: Same(e, it.streams[e.source]))


def test_a_column_of_another_type_is_refused(tmp_path):
    """A changed type is an error with a remedy; nothing is converted silently."""
    it = Lab(tmp_path / "lake", YAML)
    it.feed("stream", [{"id": 1, "v": "a"}])
    it.run()
    it.declare(YAML.replace("v STRING", "v BIGINT"))
    it.streams["stream"] = [pa.RecordBatch.from_pylist([{"id": 1, "v": 1}, {"id": 2, "v": 2}])]
    it.work = _trusting(it)
    with pytest.raises(SchemaDrift, match="v is int64, not string"):
        it.run()
    assert it.rows("bronze.t", "id", "v") == [(1, "a")]


def test_a_file_read_whole_replaces_the_table_when_it_changes(tmp_path):
    """Whole-read formats replace the table when the fingerprint changes, and write nothing otherwise."""
    data = tmp_path / "c.csv"
    data.write_text("id,v\n1,a\n2,b\n")
    it = Lab(tmp_path / "lake", CSV.format(source=data))
    it.run()
    assert it.run() == []
    data.write_text("id,v\n3,c\n")
    it.run()
    assert it.rows("bronze.c", "id", "v") == [(3, "c")]


def test_a_source_that_is_gone_is_named(tmp_path):
    """A missing source is an error that names it, and no table is made."""
    it = Lab(tmp_path / "lake", CSV.format(source=tmp_path / "nowhere.csv"))
    with pytest.raises(Exception, match=r"nowhere\.csv"):
        it.run()
    assert not it.exists("bronze.c")


def test_a_table_of_somebody_else_is_refused(tmp_path):
    """A table that this project did not make is never touched."""
    import deltalake

    deltalake.write_deltalake(str(tmp_path / "lake/bronze/t"), pa.table({"x": [1]}))
    it = Lab(tmp_path / "lake", YAML)
    it.feed("stream", [{"id": 1, "v": "a"}])
    with pytest.raises(LakeError, match="was not made for bronze.t"):
        it.run()
    assert deltalake.DeltaTable(str(tmp_path / "lake/bronze/t")).version() == 0


def test_a_changed_file_without_rules_is_replaced_with_its_quarantine(tmp_path):
    """Whole-read formats without select or rules: the second version replaces rows and misfits alike."""
    data = tmp_path / "c.csv"
    data.write_text("id,v\n1,a\nx,b\n")
    it = Lab(tmp_path / "lake", CSV.format(source=data))
    it.run()
    assert it.rows("bronze.c_quarantine", "_reasons") == [(["cast_failed:id"],)]
    data.write_text("id,v\n3,c\n")
    it.run()
    assert it.rows("bronze.c", "id", "v") == [(3, "c")]
    assert it.rows("bronze.c_quarantine") == []


def test_a_file_rewritten_after_a_kill_is_planned_again(tmp_path):
    """An interrupted plan over files that were rewritten since is made again over what is there now."""
    drop = tmp_path / "drop"
    drop.mkdir()
    yaml = f"""
delta_live_store:
  - entity_id: c
    source: {drop}
    destination: bronze.c
    source_schema: id BIGINT, v STRING
    read_options: {{cloudFiles.format: csv, header: "true"}}
"""
    it = Lab(tmp_path / "lake", yaml)
    (drop / "a.csv").write_text("id,v\n1,a\n")
    it.run()
    (drop / "b.csv").write_text("id,v\n2,b\n")
    ((feed, draft),) = preview(it.work, TableName("bronze", "c"))
    plan = Plan(feed.name, 2, draft.mode, draft.start, draft.end, draft.incarnation, draft.recipe, feed.target.version)
    it.work.book.open(feed.name).record(plan)
    (drop / "b.csv").write_text("id,v\n2,better\n3,more\n")
    it.run()
    assert it.rows("bronze.c", "id", "v") == [(1, "a"), (2, "better"), (3, "more")]
    assert it.run() == []


def test_a_frozen_table_with_rules_refuses_new_columns(tmp_path):
    """`evolution: freeze` holds whether rows are judged or only pass through."""
    rules = "    expectations: {expect_all: {some: id > 0}}\n    lakehouse: {evolution: freeze}\n"
    it = Lab(tmp_path / "lake", YAML + rules)
    it.feed("stream", [{"id": 1, "v": "a"}])
    it.run()
    it.declare(YAML.replace("v STRING", "v STRING, w DOUBLE") + rules)
    it.streams["stream"] = [pa.RecordBatch.from_pylist([{"id": 1, "v": "a", "w": 1.5}, {"id": 2, "v": "b", "w": 2.5}])]
    it.work = _trusting(it)
    with pytest.raises(SchemaDrift, match="the table is frozen"):
        it.run()


def test_a_column_name_with_a_quote_is_no_sql(tmp_path):
    """Names are quoted wherever they stand in a text of SQL."""
    yaml = """
delta_live_store:
  - {entity_id: b, source: stream, source_format: sqlite, destination: bronze.t, source_schema: "`it's` BIGINT"}
  - {entity_id: s, source: bronze.t, source_format: dlt, destination: silver.t, is_quarantined: true}
"""
    it = Lab(tmp_path / "lake", yaml)
    it.feed("stream", [{"it's": 1}])
    it.run()
    assert it.rows("silver.t", "it's") == [(1,)]
