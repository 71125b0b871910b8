"""Tests of the plans: recorded once, found quickly, counted by number and revision."""

from __future__ import annotations

import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse_assets.errors import ConcurrentWriter
from lakehouse_assets.lake.delta import CHECKPOINT_INTERVAL
from lakehouse_assets.lake.names import FeedName
from lakehouse_assets.lake.plans import FOLD, SCHEMA, Plan, PlanBook
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number

FEED = FeedName("silver.t")
STORAGE = Storage()


@pytest.fixture
def book(tmp_path):
    """The plans of a new lake."""
    return PlanBook(str(tmp_path / "control" / "batches"), STORAGE)


def plan(number, feed=FEED, **more):
    """A plan of a feed."""
    return Plan(feed, number, "append", {"v": number - 1}, {"v": number}, "stream", **{"follows": number - 1} | more)


def record(book, *plans):
    """Record plans through a fresh ledger."""
    return book.open(*(p.feed for p in plans)).record(*plans)


def test_a_plan_comes_back_as_it_was(book):
    """Every field of a plan survives, whatever its texts hold."""
    recipe = {"select": ["a AS `ü`", "'\u2028'"], "rules": {"expect_all": {"x": "a > '1'"}}, "quarantine": True}
    (written,) = record(
        book,
        plan(
            1,
            FeedName("silver.t", "feed", "2024-01-01"),
            recipe=recipe,
            target_version=7,
            run_date=dt.date(2024, 2, 29),
            planned_at=dt.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=dt.UTC),
            rebuild=True,
        ),
    )
    found = book.open(written.feed).last(written.feed)
    assert found == written
    assert (found.revision, found.recipe, found.rebuild) == (1, recipe, True)
    assert found.as_number == Number("lakehouse/silver.t/feed/2024-01-01", 1, found.plan_id)


def test_a_lake_without_plans_has_none(book):
    """Looking does not make the table."""
    ledger = book.open(FEED)
    assert (ledger.last(FEED), ledger.history(FEED)) == (None, [])
    assert not book.uri.startswith("s3")
    assert ledger.last(FEED) is None


def test_the_newest_revision_counts(book):
    """A plan that was made again has the same number and the next revision; the history shows it once."""
    for number in (1, 2, 2, 3):
        record(book, plan(number, recipe={"made": number}))
    ledger = book.open(FEED)
    assert (ledger.last(FEED).number, ledger.last(FEED).revision) == (3, 4)
    assert [(p.number, p.revision) for p in ledger.history(FEED)] == [(1, 1), (2, 3), (3, 4)]


def test_a_rebuild_starts_the_history_over(book):
    """Plans from before a rebuild do not count; the rebuild made again is still the start."""
    for p in (plan(1), plan(2), plan(3, rebuild=True), plan(3, rebuild=True), plan(4)):
        record(book, p)
    assert [p.number for p in book.open(FEED).history(FEED)] == [3, 4]


def test_feeds_are_counted_on_their_own(book):
    """Several plans may be recorded in one commit, each under its feed's next revision, or none of them."""
    one, two = FeedName("bronze.t", "one"), FeedName("bronze.t", "two")
    record(book, plan(1, one))
    version = book.create().version
    both = record(book, plan(2, one), plan(1, two))
    assert [p.revision for p in both] == [2, 1]
    assert book.create().version == version + 1
    ledger = book.open(one, two)
    assert (ledger.last(one).number, ledger.last(two).number) == (2, 1)
    stale = book.open(one, two)
    record(book, plan(2, two))
    with pytest.raises(ConcurrentWriter):
        stale.record(plan(3, one), plan(2, two))
    assert book.open(one).last(one).number == 2


def test_the_next_plan_is_recorded_once(book):
    """Two ledgers that were opened at the same plan: the second is refused, and finds the other's plan."""
    record(book, plan(1))
    first, second = book.open(FEED), book.open(FEED)
    first.record(plan(2, recipe={"by": "first"}))
    with pytest.raises(ConcurrentWriter):
        second.record(plan(2, recipe={"by": "second"}))
    assert [p.recipe for p in book.open(FEED).history(FEED)] == [{}, {"by": "first"}]


def test_the_first_plan_is_recorded_once(book):
    """Two ledgers that were opened before the table of plans was there: the table that appears is no fresh start."""
    first, second, other = book.open(FEED), book.open(FEED), book.open(FeedName("gold.x"))
    first.record(plan(1))
    with pytest.raises(ConcurrentWriter):
        second.record(plan(1))
    other.record(plan(1, FeedName("gold.x")))
    assert len(book.open(FEED).history(FEED)) == 1


def record_next(uri: str, by: str) -> str:
    """Record plan 2 in a process of its own."""
    ledger = PlanBook(uri, STORAGE).open(FEED)
    try:
        return f"revision {ledger.record(plan(2, recipe={'by': by}))[0].revision}"
    except ConcurrentWriter:
        return "refused"


@pytest.mark.slow
def test_processes_record_the_next_plan_once(book, in_process):
    """Of several processes that start together one records plan 2, or they follow each other in revisions."""
    record(book, plan(1))
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda by: in_process.call(record_next, book.uri, by), "abc"))
    recorded = sorted(answer for answer in found if answer != "refused")
    assert recorded == [f"revision {n}" for n in range(2, 2 + len(recorded))]
    assert recorded
    assert book.open(FEED).last(FEED).revision == 1 + len(recorded)


@pytest.mark.slow
def test_the_last_of_many_plans_is_found_in_one_file(book):
    """After hundreds of plans of many feeds, statistics leave one file to open; also for ids that share a long start."""
    start = "silver." + "a_very_long_name_of_a_table_" * 6
    feeds = [FeedName(start + end) for end in ("", "x", "z" * 70)] + [FEED]
    for number in range(1, 52):
        for feed in feeds:
            record(book, plan(number, feed))
    table = book.create()
    assert len(table.files()) <= FOLD
    for feed in feeds:
        assert book.open(feed).last(feed).number == 51
        few = table.files(bounds={"app_id": feed.app_id, "revision": 51})
        assert len(few) <= (1 if feed == FEED else 3)
        assert [p.number for p in book.open(feed).history(feed)] == list(range(1, 52))


@pytest.mark.slow
def test_many_plans_are_folded_into_few_files(book):
    """However many plans there are, few small files hold them, few commits follow the last checkpoint, none is lost."""
    for number in range(1, FOLD + 30):
        record(book, plan(number, recipe={"made": number}))
        table = book.create()
        assert len(table.files()) <= FOLD + 1
        summed_up = Path(book.uri, "_delta_log", "_last_checkpoint")
        behind = json.loads(summed_up.read_text())["version"] if summed_up.exists() else 0
        assert table.version - behind <= CHECKPOINT_INTERVAL
    history = book.open(FEED).history(FEED)
    assert [(p.number, p.revision, p.recipe["made"]) for p in history] == [(n, n, n) for n in range(1, FOLD + 30)]
    assert book.open(FEED).last(FEED) == history[-1]


def test_a_ledger_that_was_overtaken_folds_nothing_away(book):
    """Folding is fenced like any compaction: a ledger that is behind another process is refused, and nothing is lost."""
    for number in range(1, FOLD + 1):
        record(book, plan(number))
    late, other = book.open(FEED), book.open(FeedName("gold.x"))
    other.record(plan(1, FeedName("gold.x")))
    with pytest.raises(ConcurrentWriter):
        late.record(plan(FOLD + 1))
    record(book, plan(FOLD + 1))
    assert [p.number for p in book.open(FEED).history(FEED)] == list(range(1, FOLD + 2))
    assert len(book.open(FeedName("gold.x")).history(FeedName("gold.x"))) == 1
    assert {Path(file.path).name for file in book.create().files()} <= {
        p.name for p in Path(book.uri).glob("*.parquet")
    }


def test_plans_of_an_older_version_are_folded(book):
    """Files that lack a column which the table gained are folded too: the column is NULL in their rows."""
    for number in range(1, FOLD + 1):
        record(book, plan(number))
    book.create().add_columns([pa.field("of_the_future", pa.int64())])
    table = book.folded(book.create())
    assert len(table.files()) == 1
    assert [p.number for p in book.open(FEED).history(FEED)] == list(range(1, FOLD + 1))


def test_the_last_plan_is_found_after_compaction(book):
    """Plans that were compacted are found by their feed and revision."""
    from lakehouse_assets.engines.embedded import EmbeddedEngine

    for number in (1, 2, 3):
        record(book, plan(number), plan(number, FeedName("gold.x")))
    engine = EmbeddedEngine(STORAGE)
    engine.compact(engine.find(book.uri), 1 << 20)
    engine.close()
    assert len(book.create().files()) == 1
    assert [book.open(feed).last(feed).number for feed in (FEED, FeedName("gold.x"))] == [3, 3]


def test_a_recipe_has_one_hash():
    """The order of keys does not matter, everything else does."""
    one = plan(1, recipe={"a": 1, "b": [1, 2]})
    assert one.recipe_hash == Plan.hash_of({"b": [1, 2], "a": 1}) != Plan.hash_of({"a": 1, "b": [2, 1]})


def test_columns_of_later_versions_are_left_alone():
    """A row with a column that this version does not know is read."""
    row = plan(1).row()
    assert set(row) == set(SCHEMA.names)
    assert Plan.of_row(row | {"of_the_future": 5}) == replace(
        plan(1), plan_id=row["plan_id"], planned_at=row["planned_at"]
    )


@pytest.mark.parametrize(
    ("feed", "app_id"),
    [
        (FeedName("a.b"), "lakehouse/a.b"),
        (FeedName("a.b", "f"), "lakehouse/a.b/f"),
        (FeedName("a.b", "", "p"), "lakehouse/a.b//p"),
        (FeedName("a.b", "f", "p"), "lakehouse/a.b/f/p"),
    ],
)
def test_each_feed_has_its_own_id(feed, app_id):
    """Destination, feed and partition stand apart in the id, so that no two feeds share one."""
    assert feed.app_id == app_id
