"""Tests of the write protocol: replays, two writers, foreign commits. Kills: `lakehouse_assets_tests/prove/`."""

from __future__ import annotations

import json
import shutil
import threading

import deltalake
import pytest

from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import (
    FeatureRefused,
    ForeignCommit,
    IncarnationChanged,
    LakeError,
    SourceBusy,
)
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.tables import landed
from lakehouse_assets.tables.base import Feed, Idle
from lakehouse_assets.tables.refresh import feeds_of, plan_rebuild, preview
from lakehouse_assets_tests.tables.lab import Lab

ONE = """
delta_live_store:
  - {entity_id: b, source: stream, source_format: sqlite, destination: bronze.t, source_schema: id BIGINT}
"""


def test_two_writers_never_double(tmp_path):
    """A second writer with the same number fails and tries again, or stands down: rows are there once."""
    lake = tmp_path / "lake"
    labs = [Lab(lake, ONE) for _ in range(3)]
    faults = []

    def work(it: Lab) -> None:
        try:
            for _ in range(4):
                it.run()
        except Exception as error:
            faults.append(error)

    for n in range(3):
        for it in labs:
            it.feed("stream", [{"id": 10 * n + i} for i in range(4)])
        threads = [threading.Thread(target=work, args=(it,)) for it in labs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []
    assert labs[0].rows("bronze.t", "id") == sorted(((10 * n + i,) for n in range(3) for i in range(4)), key=repr)


def test_a_foreign_commit_is_named_and_stops_the_table(tmp_path):
    """A commit that somebody else made is refused, the choices are named, and nothing is written."""
    it = Lab(tmp_path / "lake", ONE)
    it.feed("stream", [{"id": 1}])
    it.run()
    table = deltalake.DeltaTable(str(tmp_path / "lake/bronze/t"))
    table.delete("id = 1")
    it.feed("stream", [{"id": 2}])
    with pytest.raises(ForeignCommit, match=r"version 2 of bronze.t changed rows.*\n.*--accept-foreign bronze.t"):
        it.run()
    assert it.rows("bronze.t") == []
    it.run("bronze.t", accept_foreign=True)
    assert it.rows("bronze.t", "id") == [(2,)]
    it.feed("stream", [{"id": 3}])
    it.run()
    assert it.rows("bronze.t", "id") == [(2,), (3,)]


def test_maintenance_of_others_is_no_foreign_commit(tmp_path):
    """Compaction by another tool changes no row: the feed goes on under the next number."""
    it = Lab(tmp_path / "lake", ONE)
    for i in range(3):
        it.feed("stream", [{"id": i}])
        it.run()
    deltalake.DeltaTable(str(tmp_path / "lake/bronze/t")).optimize.z_order(["id"])
    it.feed("stream", [{"id": 3}])
    it.run()
    assert it.rows("bronze.t", "id") == [(i,) for i in range(4)]


def test_a_removed_table_is_not_filled_up_by_guessing(tmp_path):
    """Plans without their table: refused, with the remedy; the remedy works."""
    it = Lab(tmp_path / "lake", ONE)
    for i in (1, 2):
        it.feed("stream", [{"id": i}])
        it.run()
    shutil.rmtree(tmp_path / "lake/bronze/t")
    it.feed("stream", [{"id": 3}])
    with pytest.raises(LakeError, match="bronze.t is not there, but the plans .* end with batch 2"):
        it.run()
    it.run(rebuild=True)
    assert it.rows("bronze.t", "id") == [(1,), (2,), (3,)]


def test_a_preview_writes_nothing(tmp_path):
    """`lakehouse plan` shows what `lakehouse run` would commit, and leaves the disk as it was."""
    it = Lab(tmp_path / "lake", ONE)
    it.feed("stream", [{"id": 1}])
    ((feed, draft),) = preview(it.work, TableName("bronze", "t"))
    assert (feed.name.destination, dict(draft.start), dict(draft.end)) == ("bronze.t", {"row": 0}, {"row": 1})
    assert not (tmp_path / "lake").exists()
    it.run()
    ((_, nothing),) = preview(it.work, TableName("bronze", "t"))
    assert isinstance(nothing, Idle)


def test_the_rows_of_a_plan_carry_its_number(tmp_path):
    """The number stands in the commit that holds the rows, with the plan's id beside it."""
    it = Lab(tmp_path / "lake", ONE)
    it.feed("stream", [{"id": 1}])
    (outcome,) = it.run()
    log = [json.loads(line) for line in (tmp_path / f"lake/bronze/t/_delta_log/{1:020d}.json").read_text().splitlines()]
    assert next(a["txn"] for a in log if "txn" in a) == {"appId": "lakehouse/bronze.t", "version": 1}
    assert next(a["commitInfo"] for a in log if "commitInfo" in a)["lakehouse"] == outcome.plan.plan_id
    assert any("add" in action for action in log)


def test_a_restored_table_is_noticed(tmp_path):
    """`restore` rewinds the rows but not the number: noticed as a foreign commit, never skipped."""
    it = Lab(tmp_path / "lake", ONE)
    for i in range(2):
        it.feed("stream", [{"id": i}])
        it.run()
    deltalake.DeltaTable(str(tmp_path / "lake/bronze/t")).restore(1)
    it.feed("stream", [{"id": 2}])
    with pytest.raises(ForeignCommit):
        it.run()


TWO = """
delta_live_store:
  - {entity_id: a, source: one, source_format: sqlite, destination: bronze.t, source_schema: id BIGINT, lakehouse: {feed: one}}
  - {entity_id: b, source: two, source_format: sqlite, destination: bronze.t, source_schema: id BIGINT, lakehouse: {feed: two}}
"""
FILES = """
delta_live_store:
  - entity_id: c
    source: {drop}
    destination: bronze.c
    source_schema: id BIGINT, v STRING
    read_options: {{cloudFiles.format: csv, header: "true"}}
"""
JUDGED = """
delta_live_store:
  - {entity_id: b, source: stream, source_format: sqlite, destination: bronze.t, source_schema: id BIGINT}
  - {entity_id: b2, source: other, source_format: sqlite, destination: bronze.u, source_schema: id BIGINT}
  - entity_id: s
    source: bronze.t
    source_format: dlt
    destination: silver.t
    is_quarantined: true
    expectations: {expect_all: {positive: id > 0}}
"""


def planned(it: Lab, table: str) -> None:
    """Record the next plan of a table, as a run does that is killed right after."""
    name = TableName(*table.split("."))
    ((feed, draft),) = preview(it.work, name)
    target = feed.target
    number = target.number(feed.name.app_id) if target else 0
    it.work.book.open(feed.name).record(
        Plan(
            feed.name, number + 1, draft.mode, draft.start, draft.end, draft.incarnation, draft.recipe,
            target.version if target else -1, follows=number,
        )
    )  # fmt: skip


def test_a_killed_rebuild_over_rewritten_files_still_replaces(tmp_path):
    """A rebuild whose files were rewritten after the kill starts the table over: no row is there twice."""
    drop = tmp_path / "drop"
    drop.mkdir()
    (drop / "a.csv").write_text("id,v\n1,a\n2,b\n")
    it = Lab(tmp_path / "lake", FILES.format(drop=drop))
    it.run()
    plan_rebuild(it.work, [(entity, "") for entity in feeds_of(it.work, TableName("bronze", "c"))])
    (drop / "a.csv").write_text("id,v\n1,a\n2,b2\n9,z\n")
    it.run()
    assert it.rows("bronze.c", "id", "v") == [(1, "a"), (2, "b2"), (9, "z")]
    assert it.run() == []


def test_a_stalled_writer_and_the_plan_that_superseded_it_do_not_mix(tmp_path):
    """A plan that was superseded never shares its number: what came since is read, nothing is doubled or lost."""
    drop = tmp_path / "drop"
    drop.mkdir()
    it = Lab(tmp_path / "lake", FILES.format(drop=drop))
    (drop / "a.csv").write_text("id,v\n1,a\n")
    it.run()
    (drop / "b.csv").write_text("id,v\n2,b\n")
    planned(it, "bronze.c")
    stalled = it.work.book.open(FeedName("bronze.c")).last(FeedName("bronze.c"))
    (drop / "b.csv").write_text("id,v\n2,b2\n20,more\n")
    (drop / "c.csv").write_text("id,v\n3,c\n")
    it.run()
    with pytest.raises(SourceBusy):
        landed.write(it.work, Feed(it.catalog.entities[0], stalled.feed, None), stalled)
    assert it.rows("bronze.c", "id", "v") == [(1, "a"), (2, "b2"), (20, "more"), (3, "c")]
    assert it.run() == []


def test_a_rebuild_uses_up_the_numbers_of_every_feed(tmp_path):
    """A batch of another feed that was under way when a rebuild began can no longer be committed."""
    it = Lab(tmp_path / "lake", TWO)
    it.feed("one", [{"id": 1}])
    it.feed("two", [{"id": 100}])
    it.run()
    it.feed("two", [{"id": 101}])
    names = [FeedName("bronze.t", "one"), FeedName("bronze.t", "two")]
    before = it.engine.find(it.work.uri(TableName("bronze", "t"))).number(names[1].app_id)
    it.run(rebuild=True)
    after = it.engine.find(it.work.uri(TableName("bronze", "t"))).number(names[1].app_id)
    assert after > before + 1
    assert it.rows("bronze.t", "id") == [(1,), (100,), (101,)]


def test_a_table_with_two_feeds_is_rebuilt_after_it_was_removed(tmp_path):
    """The remedy that the error names works, for every feed."""
    it = Lab(tmp_path / "lake", TWO)
    for i in range(3):
        it.feed("one", [{"id": i}])
        it.feed("two", [{"id": 100 + i}])
        it.run()
    shutil.rmtree(tmp_path / "lake/bronze/t")
    with pytest.raises(LakeError, match="full-refresh bronze.t"):
        it.run()
    it.run("bronze.t", rebuild=True)
    assert len(it.rows("bronze.t", "id")) == 6
    assert it.run() == []


def test_a_feed_that_lost_its_name_is_refused(tmp_path):
    """A renamed feed would read everything again: refused, with the old name."""
    it = Lab(tmp_path / "lake", ONE.replace("stream", "one"))
    it.feed("one", [{"id": 1}])
    it.run()
    it.declare(TWO)
    with pytest.raises(LakeError, match="was fed under the name '', which no entity has any more"):
        it.run()
    assert it.rows("bronze.t", "id") == [(1,)]


def test_a_quarantine_that_was_left_over_is_replaced(tmp_path):
    """Target and plans gone, quarantine left: the first batch replaces both, so every row is somewhere, once."""
    it = Lab(tmp_path / "lake", JUDGED)
    for i in (-1, 2, -3):
        it.feed("stream", [{"id": i}])
        it.run()
    for gone in ("silver/t", "control", "bronze/t", "bronze/u"):
        shutil.rmtree(tmp_path / "lake" / gone)
    it.run()
    assert it.rows("silver.t", "id") == [(2,)]
    assert it.rows("silver.t_quarantine", "id") == [(-1,), (-3,)]


def test_a_replay_reads_the_stream_that_was_planned(tmp_path):
    """A source that was changed in the catalog between kill and rerun is refused, and nothing of it is written."""
    it = Lab(tmp_path / "lake", JUDGED)
    it.feed("stream", [{"id": 1}])
    it.feed("other", [{"id": 7}])
    it.run()
    it.feed("stream", [{"id": 2}])
    it.feed("other", [{"id": 8}])
    it.run("bronze.t", "bronze.u")
    planned(it, "silver.t")
    it.declare(JUDGED.replace("source: bronze.t", "source: bronze.u"))
    with pytest.raises(IncarnationChanged):
        it.run("silver.t")
    assert it.rows("silver.t", "id") == [(1,)]


def test_a_foreign_commit_on_the_quarantine_is_named(tmp_path):
    """The quarantine is guarded as its table is."""
    it = Lab(tmp_path / "lake", JUDGED)
    for i in (-1, -2):
        it.feed("stream", [{"id": i}])
        it.run()
    deltalake.DeltaTable(str(tmp_path / "lake/silver/t_quarantine")).delete("id = -2")
    it.feed("stream", [{"id": 3}])
    with pytest.raises(ForeignCommit, match="silver.t_quarantine changed rows"):
        it.run()


def test_a_query_that_gains_a_table_is_refreshed_whole(tmp_path):
    """Another upstream is another query: no error about streams, no KeyError, a full refresh."""
    yaml = JUDGED + '  - {entity_id: q, source: "SELECT id FROM bronze.t", source_format: sql, destination: gold.q}\n'
    it = Lab(tmp_path / "lake", yaml)
    it.feed("stream", [{"id": 1}])
    it.feed("other", [{"id": 7}])
    it.run()
    it.declare(yaml.replace("SELECT id FROM bronze.t", "SELECT id FROM bronze.t UNION ALL SELECT id FROM bronze.u"))
    it.run()
    assert it.rows("gold.q") == [(1,), (7,)]


def test_a_table_of_another_engine_is_refused_before_it_is_planned(tmp_path):
    """`writers: spark` and the embedded engine: neither the table nor a plan is made."""
    lab = Lab(
        tmp_path,
        """
        delta_live_store:
          - {entity_id: b, source: one, source_format: sqlite, destination: bronze.t, source_schema: "k STRING, v INT", lakehouse: {writers: spark}}
        """,
    )
    lab.feed("one", [{"k": "a", "v": 1}])
    with pytest.raises(FeatureRefused, match="--engine spark"):
        lab.run()
    assert not (tmp_path / "bronze").exists()
    assert not (tmp_path / "control").exists()


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("delta.enableDeletionVectors", "True", True),
        ("delta.feature.deletionVectors", "supported", True),
        ("delta.enableDeletionVectors", "False", False),
        ("delta.columnMapping.mode", "none", False),
        ("owner.team", "true", False),
    ],
)
def test_properties_that_only_spark_can_read(tmp_path, name, value, refused):
    """A table of both engines turns on no feature that one of them lacks; the error names the property."""
    lab = Lab(
        tmp_path,
        f"""
        delta_live_store:
          - {{entity_id: b, source: one, source_format: sqlite, destination: bronze.t, source_schema: "k STRING", table_properties: {{{name}: "{value}"}}}}
        """,
    )
    lab.feed("one", [{"k": "a"}])
    if refused:
        with pytest.raises(FeatureRefused, match=name):
            lab.run()
        return
    lab.run()
    assert lab.rows("bronze.t", "k") == [("a",)]
