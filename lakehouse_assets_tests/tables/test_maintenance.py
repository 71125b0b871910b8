"""Tests of maintenance: compaction and vacuum change no row and take nothing from a reader."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import ConcurrentWriter, ExpectationFailed, ForeignTable
from lakehouse_assets.lake.names import BATCHES, FeedName
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.values import Number, TableSpec
from lakehouse_assets.tables.maintenance import (
    RETENTION,
    YOUNGEST,
    Hold,
    Upkeep,
    chosen,
    compact,
    maintain,
    vacuum,
)
from lakehouse_assets_tests.tables.lab import Lab

YAML = """
delta_live_store:
  - {entity_id: b, source: stream, source_format: sqlite, destination: bronze.t, source_schema: "id BIGINT, v STRING"}
  - entity_id: s
    source: bronze.t
    source_format: dlt
    destination: silver.t
    select_expr: [id, CAST(v AS INT) AS v]
    is_quarantined: true
    expectations: {expect_all: {positive: v > 0}, expect_all_or_fail: {known: id < LIMIT}}
  - {entity_id: q, source: "SELECT v, count(*) AS n FROM silver.t GROUP BY v", source_format: sql, destination: gold.q, primary_keys: [v], lakehouse: {refresh_key: [v]}}
  - {entity_id: r, source: "SELECT v, max(n) AS n FROM gold.q GROUP BY v", source_format: sql, destination: gold.r, primary_keys: [v], lakehouse: {refresh_key: [v]}}
  - {entity_id: w, source: silver.t, source_format: dlt, destination: silver.seen, destination_type: view, select_expr: [id]}
  - {entity_id: x, source: "SELECT max(id) AS id FROM silver.seen", source_format: sql, destination: gold.x}
"""
BRONZE, SILVER = TableName("bronze", "t"), TableName("silver", "t")
NOTHING = timedelta(0)


class Meddling(EmbeddedEngine):
    """An engine in whose first compaction somebody else commits."""

    meddle: Callable[[], None] | None

    def compact(self, handle, target_bytes):
        """Compact from a handle that is stale the first time."""
        if self.meddle:
            self.meddle()
            self.meddle = None
        return super().compact(handle, target_bytes)


@pytest.fixture
def lab(tmp_path):
    """A lake with a small pipeline."""
    it = Lab(tmp_path / "lake", YAML.replace("LIMIT", "100"))
    yield it
    it.engine.close()


def feed(lab, first, count=2, runs=1, table="bronze.t"):
    """Land rows in so many batches."""
    for n in range(runs):
        lab.feed("stream", [{"id": first + n * count + i, "v": str(i)} for i in range(count)])
        lab.run(table)


def swept(lab, table=BRONZE, retention=NOTHING, youngest=NOTHING):
    """Vacuum a table, keeping only what somebody needs."""
    return vacuum(lab.work, table, retention=retention, youngest=youngest)[0]


def data_files(lab, table):
    """How many Parquet files stand in the table's directory."""
    return len(list(Path(lab.work.uri(table)).rglob("*.parquet")))


def test_compaction_rewrites_the_table_its_quarantine_and_the_plans(lab):
    """Small files of a table, its quarantine and the table of plans become one each; rows and numbers stay."""
    for n in range(3):
        feed(lab, 2 * n)
        lab.run()
    before = {t: lab.rows(t) for t in ("silver.t", "silver.t_quarantine", "control.batches")}
    done = {**compact(lab.work, SILVER), **compact(lab.work, BATCHES)}
    assert {str(name) for name, commit in done.items() if not commit.skipped} == set(before)
    assert {t: lab.rows(t) for t in before} == before
    assert all(len(lab.engine.find(lab.work.uri(name)).files()) == 1 for name in done)
    assert all(commit.skipped for commit in compact(lab.work, SILVER).values())


def test_compaction_moves_nobody_downstream(lab):
    """After a compaction of every table there is nothing to run, and the next rows arrive exactly once."""
    for n in range(2):
        feed(lab, 2 * n)
        lab.run()
    for table in (*lab.catalog.order(), BATCHES):
        compact(lab.work, table)
    assert lab.run() == []
    feed(lab, 10)
    lab.run()
    assert lab.rows("silver.t", "id") == [(1,), (11,), (3,)]
    assert lab.rows("gold.q") == [(1, 3)]


def test_compaction_gives_way_to_a_writer(lab):
    """A compaction that meets a commit is made again; the writer's rows are there, once."""
    feed(lab, 0, runs=3)
    engine = Meddling(lab.storage)
    engine.meddle = lambda: feed(lab, 100)
    commit = compact(replace(lab.work, engine=engine), BRONZE)[BRONZE]
    engine.close()
    assert not commit.skipped
    assert sorted(row[0] for row in lab.rows("bronze.t", "id")) == [0, 1, 2, 3, 4, 5, 100, 101]


def test_the_plans_are_read_after_their_compaction(lab):
    """Interrupted or not, plans are found in compacted files, and two compactions of the plans are fenced."""
    for n in range(3):
        feed(lab, 2 * n)
    stale = lab.engine.find(lab.work.uri(BATCHES))
    compact(lab.work, BATCHES)
    with pytest.raises(ConcurrentWriter):
        lab.engine.compact(stale, 1 << 20)
    name = FeedName("bronze.t")
    assert [plan.number for plan in lab.work.book.open(name).history(name)] == [1, 2, 3]
    feed(lab, 10)
    assert lab.work.book.open(name).last(name).number == 4


def test_vacuum_keeps_what_a_slow_consumer_has_not_read(lab):
    """Rows that were appended, compacted and vacuumed still reach the consumer exactly; then the files go."""
    feed(lab, 0)
    lab.run()
    feed(lab, 10, runs=3)
    compact(lab.work, BRONZE)
    held = swept(lab)
    assert held.deleted == ()
    assert [(hold.consumer, hold.version) for hold in held.held_back_by] == [(SILVER, 1)]
    assert held.retention > timedelta(hours=1)
    lab.run()
    assert sorted(row[0] for row in lab.rows("silver.t", "id")) == [1, 11, 13, 15]
    free = swept(lab)
    assert free.held_back_by == ()
    assert len(free.deleted) == 4
    assert data_files(lab, BRONZE) == 1


def test_vacuum_does_not_wait_for_a_consumer_that_has_read_everything(lab):
    """A compaction after the last row that anybody read holds nothing: idle consumers do not keep files for ever."""
    feed(lab, 0, runs=3)
    lab.run()
    compact(lab.work, BRONZE)
    lab.run()
    assert (swept(lab).held_back_by, data_files(lab, BRONZE)) == ((), 1)


def test_vacuum_keeps_both_images_for_a_consumer(lab):
    """Change data and replaced files stay until the reader of the images has read them."""
    feed(lab, 0, 4)
    lab.run()
    feed(lab, 10, 4)
    lab.run("silver.t", "gold.q")
    lab.run("gold.q")
    held = swept(lab, TableName("gold", "q"))
    assert [hold.consumer for hold in held.held_back_by] == [TableName("gold", "r")]
    assert held.deleted == ()
    lab.run("gold.r")
    assert lab.rows("gold.r") == [(1, 2), (2, 2), (3, 2)]
    assert swept(lab, TableName("gold", "q")).deleted
    assert lab.run() == [] or lab.rows("gold.x") == [(13,)]


def test_vacuum_keeps_the_version_that_an_interrupted_plan_pins(tmp_path):
    """A plan that was recorded and not made good is made from the versions it names, however old they become."""
    lab = Lab(tmp_path / "lake", YAML.replace("LIMIT", "2"))
    feed(lab, 0)
    lab.run()
    feed(lab, 1, 3)
    compact(lab.work, BRONZE)  # takes away what the plan below is to read
    with pytest.raises(ExpectationFailed):
        lab.run("silver.t")
    held = swept(lab)
    assert [hold.consumer for hold in held.held_back_by] == [SILVER]
    assert held.deleted == ()
    feed(lab, 50, runs=2)
    lab.declare(YAML.replace("LIMIT", "100"))
    lab.run()
    assert sorted(row[0] for row in lab.rows("silver.t", "id")) == [1, 2, 3, 51, 53]
    assert swept(lab).deleted
    lab.engine.close()


def test_vacuum_keeps_the_snapshot_that_an_interrupted_query_pins(lab):
    """A query that was planned over a version reads that version, although its files were compacted meanwhile."""
    for first in (0, 10):
        feed(lab, first)
        lab.run("silver.t")
    name = FeedName("gold.x")
    silver = lab.engine.find(lab.work.uri(SILVER))
    ledger = lab.work.book.open(name)
    recipe = {"sql": "SELECT max(id) AS id FROM silver.t", "key": [], "keys": []}
    ledger.record(Plan(name, 1, "replace", {}, {"silver.t": silver.version}, silver.id, recipe))
    compact(lab.work, SILVER)
    held = swept(lab, SILVER)
    assert [(hold.consumer, hold.version) for hold in held.held_back_by] == [(TableName("gold", "x"), silver.version)]
    assert held.deleted == ()
    assert len(lab.engine.rows(lab.engine.read(lab.engine.find(silver.uri, silver.version)))) == 2


def test_a_consumer_of_another_table_holds_nothing(lab):
    """A consumer that has to be rebuilt anyway, or that reads through another feed, keeps no file."""
    feed(lab, 0)
    lab.run()
    before = lab.engine.find(lab.work.uri(BRONZE))
    name = FeedName("silver.t")
    plan = lab.work.book.open(name).last(name)
    assert before.id == plan.incarnation
    lab.work.book.open(name).record(replace(plan, number=2, incarnation="of a table that is gone"))
    feed(lab, 10, runs=2)
    compact(lab.work, BRONZE)
    assert swept(lab).held_back_by == ()


def test_vacuum_spares_what_a_running_batch_has_staged(lab):
    """Files that no commit names yet stay while they are young, whatever retention is asked for; then they go."""
    feed(lab, 0)
    table = lab.engine.find(lab.work.uri(BRONZE))
    rows = pa.RecordBatch.from_pylist([{"id": 1}] * 600_000, schema=pa.schema([("id", pa.int64())]))
    rows = pa.RecordBatch.from_arrays(
        [rows.column(0) if f.name == "id" else pa.nulls(len(rows), f.type) for f in table.schema], schema=table.schema
    )
    running = lab.engine.appender(table)
    running.write(rows)
    deadline = time.monotonic() + 30
    while data_files(lab, BRONZE) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert swept(lab, youngest=YOUNGEST).deleted == ()
    commit = running.commit(Number("lakehouse/bronze.t", 2))
    assert commit.rows_added == 600_000
    orphan = Path(table.uri) / "part-of-a-run-that-was-killed.parquet"
    orphan.write_bytes(b"half")
    assert swept(lab, youngest=YOUNGEST).deleted == ()
    old = time.time() - (YOUNGEST + timedelta(hours=2)).total_seconds()
    os.utime(orphan, (old, old))
    assert swept(lab, youngest=YOUNGEST).deleted == (orphan.name,)
    assert len(lab.rows("bronze.t", "id")) == 600_002


def test_the_default_retention_is_a_week(lab):
    """Without being told otherwise nothing of the last seven days goes."""
    feed(lab, 0, runs=2)
    compact(lab.work, BRONZE)
    done = vacuum(lab.work, BRONZE)
    assert [(str(d.table), d.deleted, d.retention) for d in done] == [("bronze.t", (), RETENTION)]


def test_a_vacuum_that_deletes_nothing_makes_no_commit(lab):
    """Versions are for changes."""
    feed(lab, 0)
    before = lab.version("bronze.t")
    swept(lab)
    assert lab.version("bronze.t") == before


def test_foreign_tables_are_left_alone(lab):
    """Neither compaction nor vacuum touches a table that this project did not make."""
    lab.engine.create(lab.work.uri(BRONZE), TableSpec(pa.schema([("k", pa.int64())])))
    with pytest.raises(ForeignTable):
        compact(lab.work, BRONZE)
    with pytest.raises(ForeignTable):
        vacuum(lab.work, BRONZE)


def test_tables_that_are_not_there_are_left_out(lab):
    """An empty lake is maintained without a word."""
    assert compact(lab.work, SILVER) == {}
    assert vacuum(lab.work, SILVER) == ()


def test_a_hold_says_since_when(lab):
    """The result names the consumer, what it has read, and how long files have been kept for it."""
    feed(lab, 0)
    lab.run()
    feed(lab, 10, runs=2)
    earliest = datetime.now(UTC)
    compact(lab.work, BRONZE)
    (hold,) = swept(lab).held_back_by
    assert earliest - timedelta(seconds=1) <= hold.since <= datetime.now(UTC)


def test_upkeep_does_all_and_says_what(lab):
    """Compaction, vacuum and checkpoint of each table: files before and after, what was deleted, for whom it waits."""
    feed(lab, 0)
    lab.run()
    feed(lab, 10, runs=3)
    done = {str(one.table): one for one in maintain(lab.work, chosen(lab.work, "*"))}
    bronze = done["bronze.t"]
    assert (bronze.files, bronze.rewritten, bronze.state, bronze.checkpoint) == ((4, 1), 4, "done", True)
    assert bronze.bytes[1] < bronze.bytes[0]
    assert list(done)[-1] == "control.batches"
    assert "silver.seen" not in done
    again = {str(one.table): one for one in maintain(lab.work, chosen(lab.work, "*"))}
    assert {(one.rewritten, one.deleted, one.checkpoint) for one in again.values()} == {(0, 0, False)}
    lab.run()
    assert sorted(row[0] for row in lab.rows("silver.t", "id")) == [1, 11, 13, 15]


def test_a_dry_run_looks_only(lab):
    """What would be done is counted as it would be done, and no file changes."""
    feed(lab, 0)
    lab.run()
    feed(lab, 10, runs=3)
    root = Path(lab.lake.root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    planned = {one.table: one for one in maintain(lab.work, chosen(lab.work, "*"), dry_run=True)}
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    done = {one.table: one for one in maintain(lab.work, chosen(lab.work, "*"))}
    assert {name: one.rewritten for name, one in planned.items()} == {name: one.rewritten for name, one in done.items()}


def test_numbers_survive_a_log_that_is_read_from_its_checkpoint(lab):
    """Numbers and rows stand in the checkpoint: the entries before it are not needed to go on."""
    feed(lab, 0, runs=3)
    list(maintain(lab.work, (BRONZE, BATCHES)))
    rows = lab.rows("bronze.t")
    for name in (BRONZE, BATCHES):
        for path in Path(lab.work.uri(name), "_delta_log").glob("*.json"):
            path.unlink()
    assert lab.engine.find(lab.work.uri(BRONZE)).number(FeedName("bronze.t").app_id) == 3
    assert lab.work.book.open(FeedName("bronze.t")).last(FeedName("bronze.t")).number == 3
    assert lab.rows("bronze.t") == rows


def test_upkeep_gives_way_to_a_writer(lab):
    """Somebody commits while a table is maintained: both are done, no row is lost or doubled."""
    feed(lab, 0, runs=3)
    engine = Meddling(lab.storage)
    engine.meddle = lambda: feed(lab, 100)
    (done, *_) = maintain(replace(lab.work, engine=engine), (BRONZE,))
    engine.close()
    assert (done.state, done.files) == ("done", (3, 1))
    assert sorted(row[0] for row in lab.rows("bronze.t", "id")) == [0, 1, 2, 3, 4, 5, 100, 101]


def test_upkeep_leaves_out_what_somebody_else_looks_after(lab):
    """A foreign table is named with the reason; the others are done; what a consumer needs is told in the row."""
    lab.engine.create(lab.work.uri(TableName("gold", "x")), TableSpec(pa.schema([("k", pa.int64())])))
    feed(lab, 0)
    lab.run("bronze.t", "silver.t")
    feed(lab, 10, runs=2)
    done = {str(one.table): one.row() for one in maintain(lab.work, chosen(lab.work, "*"))}
    assert done["gold.x"]["state"] == "left out"
    assert "was not made for gold.x" in done["gold.x"]["error"]
    assert done["bronze.t"]["state"] == "done"
    hold = Upkeep(BRONZE, "done", held_back_by=(Hold(SILVER, 1, datetime(2026, 3, 1, tzinfo=UTC)),))
    assert hold.row()["held_back_by"] == ["silver.t, which has read up to version 1, since 2026-03-01 00:00"]
    assert "files are kept for silver.t" in str(hold)
