"""What moves between the plan of a partition and its commit: extracts, upstream tables, other partitions.

A batch is planned and not written (the engine ends in between, as a kill would), then the world goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date

import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import IncarnationChanged, SourceMissing
from lakehouse_assets.lake.values import Number
from lakehouse_assets.tables.batch import step
from lakehouse_assets_tests.tables.partition_lab import CATALOG, PartitionLab

FIRST, SECOND, THIRD = DAYS = ("2024-01-02", "2024-01-03", "2024-01-04")
TABLES = ("bronze.trades", "bronze.quotes", "silver.joined", "gold.bars")


class Ended(BaseException):
    """The process came to its end."""


class Ending(EmbeddedEngine):
    """The embedded engine; it ends before the commit that follows `left` others to one table."""

    def __init__(self, storage, table: str, left: int) -> None:
        super().__init__(storage)
        self._place, self._left = table.replace(".", "/"), left

    def _end(self, handle) -> None:
        if not handle.uri.endswith(self._place):
            return
        if self._left == 0:
            raise Ended
        self._left -= 1

    def _replace(self, handle, *args):
        self._end(handle)
        return super()._replace(handle, *args)

    def _rebuild(self, handle, *args):
        self._end(handle)
        return super()._rebuild(handle, *args)


@contextmanager
def ended(it: PartitionLab, table: str, left: int = 0) -> Iterator[None]:
    """What runs in here ends before a commit of a table."""
    work, it.work = it.work, replace(it.work, engine=Ending(it.storage, table, left))
    try:
        with pytest.raises(Ended):
            yield
    finally:
        it.work = work


def lake(tmp_path, name="lake", days=DAYS[:2]) -> PartitionLab:
    """A lake with these days, made."""
    it = PartitionLab(tmp_path / name)
    for key in days:
        it.day(key)
    it.run()
    return it


def whole(it: PartitionLab) -> dict:
    """Every table, and that nothing is left to do."""
    it.run()
    assert it.run() == []
    check_plans(it)
    return {table: it.rows(table) for table in TABLES}


def check_plans(it: PartitionLab) -> None:
    """Every table carries the newest plan of each of its partitions."""
    for table in TABLES[:3]:
        handle = it.engine.find(it.work.uri(TableName(*table.split("."))))
        plans = it.work.book.open().partitions(table)
        assert {key: handle.number(plan.feed.app_id) for key, plan in plans.items()} == {
            key: plan.number for key, plan in plans.items()
        }


def made_at_once(it: PartitionLab, tmp_path) -> dict:
    """The tables of a lake that is made in one run of the same days."""
    other = PartitionLab(tmp_path / "at once")
    other.days = it.days
    return whole(other)


def test_an_extract_that_is_replaced_between_plan_and_write_is_loaded_as_it_is_now(tmp_path):
    """The interrupted batch cannot be made any more; nothing of it was written, so the partition is planned anew."""
    it = lake(tmp_path)
    it.day(FIRST, price=20.0)
    it.run("extract.trade")
    with ended(it, "bronze.trades"):
        it.run("bronze.trades")
    it.day(FIRST, price=30.0)
    it.run("extract.trade")
    (outcome,) = it.run("bronze.trades")
    assert (outcome.plan.number, outcome.plan.follows) == (3, 1)
    assert whole(it) == made_at_once(it, tmp_path)


def test_an_extract_that_goes_between_plan_and_write_leaves_what_was_there(tmp_path):
    """There is nothing to load: the rows of before stay, the other days go on, and its return is loaded."""
    it = lake(tmp_path)
    it.day(FIRST, price=20.0)
    it.run("extract.trade")
    with ended(it, "bronze.trades"):
        it.run("bronze.trades")
    file = tmp_path / "lake" / "extract" / "trade" / f"date={FIRST}" / "trade.parquet"
    held = file.read_bytes()
    file.unlink()
    it.day(THIRD)
    it.run("extract.trade", partitions=[THIRD])
    assert [outcome.plan.feed.partition for outcome in it.run("bronze.trades")] == [THIRD]
    assert len(it.rows("bronze.trades")) == 9
    file.write_bytes(held)
    it.run("extract.quote")
    assert whole(it) == made_at_once(it, tmp_path)


@pytest.mark.parametrize(
    ("key", "left"),
    [
        (FIRST, 0),
        (SECOND, 1),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((FIRST, 1), (SECOND, 0), (THIRD, 0), (THIRD, 1))),
    ],
)
def test_an_extract_that_is_replaced_in_the_middle_of_a_rebuild(tmp_path, key, left):
    """A rebuild ends before its first or its second commit, then a day is corrected: no day is lost."""
    it = lake(tmp_path, days=DAYS)
    with ended(it, "bronze.trades", left):
        it.run("bronze.trades", rebuild=True)
    it.day(key, price=30.0)
    assert whole(it) == made_at_once(it, tmp_path)


def test_an_extract_that_goes_in_the_middle_of_a_rebuild_is_named(tmp_path):
    """The day that would replace the table is gone: the table stays as it is, and the error says what to do."""
    it = lake(tmp_path, days=DAYS)
    with ended(it, "bronze.trades"):
        it.run("bronze.trades", rebuild=True)
    before = it.rows("bronze.trades")
    (tmp_path / "lake" / "extract" / "trade" / f"date={FIRST}" / "trade.parquet").unlink()
    with pytest.raises(SourceMissing, match=r"(?s)2024-01-02.*extract\.trade.*--full-refresh bronze\.trades"):
        it.run("bronze.trades")
    assert it.rows("bronze.trades") == before
    it.run("extract.trade")
    assert whole(it) == made_at_once(it, tmp_path)


def test_one_day_of_a_table_whose_rebuild_was_interrupted(tmp_path):
    """The commit that replaces the table comes first, whichever day is asked for."""
    it = lake(tmp_path, days=DAYS)
    with ended(it, "bronze.trades"):
        it.run("bronze.trades", rebuild=True)
    outcomes = it.run("bronze.trades", partitions=[SECOND])
    assert [outcome.plan.feed.partition for outcome in outcomes] == [FIRST, SECOND]
    assert whole(it) == made_at_once(it, tmp_path)


def test_a_day_that_is_made_between_a_rebuilds_plan_and_its_first_commit_is_not_lost(tmp_path):
    """Another process makes a new day after a rebuild was planned and before the table is replaced."""
    it = lake(tmp_path, days=DAYS[:2])
    it.day(THIRD)
    with ended(it, "bronze.trades"):
        it.run("bronze.trades", rebuild=True)
    it.run("extract.trade", "extract.quote", partitions=[THIRD])
    step(it.work, next(e for e in it.catalog.entities if str(e.table) == "bronze.trades"), THIRD)
    assert whole(it) == made_at_once(it, tmp_path)


def test_a_day_that_a_rebuild_lost_is_loaded_when_it_comes_back(tmp_path):
    """A loss that was accepted is known: the join follows it, and the same day that comes back is another batch."""
    it = lake(tmp_path)
    day = it.days["trade"].pop(SECOND)
    shutil.rmtree(tmp_path / "lake" / "extract" / "trade" / f"date={SECOND}")
    with ended(it, "bronze.trades"):
        it.run("bronze.trades", rebuild=True, accept_loss=True)
    it.run()
    assert len(it.rows("bronze.trades")) == len(it.rows("silver.joined")) == 3
    check_plans(it)
    it.run("bronze.trades", rebuild=True)  # nothing more to lose
    it.days["trade"][SECOND] = day
    assert whole(it) == made_at_once(it, tmp_path)


def test_an_upstream_table_that_was_rebuilt_is_joined_again(tmp_path):
    """It is the same table with other numbers: each of its days is joined again, and the tables are the same."""
    it = lake(tmp_path)
    before = whole(it)
    it.run("bronze.quotes", rebuild=True)
    assert [o.plan.feed.partition for o in it.run("silver.joined")] == list(DAYS[:2])
    assert whole(it) == before


@pytest.mark.parametrize("side", ["bronze.trades", "bronze.quotes"])
def test_an_upstream_table_that_was_dropped_and_made_again_is_named(tmp_path, side):
    """It is another table: the join says so and names the way on; a rebuild takes it."""
    it = lake(tmp_path)
    shutil.rmtree(tmp_path / "lake" / side.replace(".", "/"))
    it.run(side, rebuild=True)
    with pytest.raises(IncarnationChanged, match=r"(?s)silver\.joined.*--full-refresh silver\.joined") as failed:
        it.run("silver.joined")
    assert side in str(failed.value)
    it.run("silver.joined", rebuild=True)
    assert whole(it) == made_at_once(it, tmp_path)


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_version_that_was_vacuumed_before_a_planned_join_was_written(tmp_path, partitioned):
    """A plan pins versions of both tables; where they moved on meanwhile, the join is planned anew."""
    by = "    partition_cols: [date]\n    read_options: {asof.by: sym"
    yaml = CATALOG if partitioned else CATALOG.replace(by, "    read_options: {asof.by: 'sym, date'")
    it = PartitionLab(tmp_path / "lake", yaml)
    it.day(FIRST)
    it.run()
    it.day(FIRST, price=20.0)
    it.run("extract.trade", "bronze.trades")
    with ended(it, "silver.joined"):
        it.run("silver.joined")
    it.day(FIRST, price=30.0)
    it.run("extract.trade", "bronze.trades")
    table = it.engine.find(str(tmp_path / "lake/bronze/trades"))
    assert table.vacuum(0)
    (outcome,) = it.run("silver.joined")
    assert outcome.plan.number == 3
    assert {row[0] for row in it.rows("silver.joined", "price")} == {30.0, 31.0, 32.0}
    assert it.run("silver.joined") == []


def test_files_that_were_vacuumed_before_a_planned_join_was_written(tmp_path):
    """The partition is of the same batches, but its files were written anew and the pinned ones are gone."""
    it = lake(tmp_path)
    it.day(FIRST, price=20.0)
    it.run("extract.trade", "bronze.trades")
    with ended(it, "silver.joined"):
        it.run("silver.joined")
    uri = it.work.uri(TableName("bronze", "trades"))
    rows = it.engine.read(it.engine.find(uri), partition={"date": date.fromisoformat(FIRST)})
    it.engine.replace(it.engine.find(uri), rows, Number("upkeep", 1), [{"date": date.fromisoformat(FIRST)}])
    assert it.engine.find(uri).vacuum(0)
    (outcome,) = it.run("silver.joined")
    assert outcome.plan.number == 3
    assert whole(it) == made_at_once(it, tmp_path)
