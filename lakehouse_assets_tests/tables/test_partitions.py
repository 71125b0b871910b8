"""Tests of tables that are made partition by partition: extracts, what is loaded from them, as-of joins, and what follows."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import (
    CatalogError,
    LakeError,
    LakehouseError,
    SchemaDrift,
    SourceBusy,
    SourceError,
    SourceMissing,
)
from lakehouse_assets.sources.base import Fingerprint
from lakehouse_assets.tables.refresh import plan_rebuild
from lakehouse_assets_tests.tables.partition_lab import CATALOG, TRADE, Memory, PartitionLab

DAYS = ("2024-01-02", "2024-01-03", "2024-01-04")
EVERY = ("extract.trade", "extract.quote", "bronze.trades", "bronze.quotes", "silver.joined", "gold.bars")


def lake(tmp_path, *days):
    """A lake with these days, made once."""
    it = PartitionLab(tmp_path / "lake")
    for key in days or DAYS:
        it.day(key)
    it.run()
    return it


def made(outcomes):
    """(table, partition) of what was made."""
    return [(str(next(iter(o.commits))), o.plan.feed.partition) for o in outcomes]


def day(key):
    """A key as a date."""
    return dt.date.fromisoformat(key)


def test_each_day_goes_from_the_source_to_gold(tmp_path):
    """K34: the last quote at or before each trade, of the last in row order; a NULL symbol matches nothing and is kept."""
    it = lake(tmp_path)
    assert it.rows("silver.joined", "date", "sym", "time", "bid", "mid") == sorted(
        (
            row
            for key in DAYS
            for row in [(day(key), "A", 1, None, None), (day(key), "A", 5, 3.0, 4.0), (day(key), None, 7, None, None)]
        ),
        key=repr,
    )
    assert it.rows("gold.bars", "date", "sym", "trades") == sorted(
        (row for key in DAYS for row in [(day(key), "A", 2), (day(key), None, 1)]), key=repr
    )


def test_a_second_run_does_nothing(tmp_path):
    """K24, K39: every table has a batch for each day, and a run without news makes none and reads no row."""
    it = lake(tmp_path)
    it.asked.clear()
    assert it.run() == []
    assert it.asked == []


def test_one_commit_makes_a_day(tmp_path):
    """K37: a day of the as-of join is one commit."""
    it = lake(tmp_path, DAYS[0])
    before = it.version("silver.joined")
    it.day(DAYS[1])
    assert made(it.run()) == [(table, DAYS[1]) for table in EVERY[:5]] + [("gold.bars", "")]
    assert it.version("silver.joined") == before + 1


def test_a_corrected_day_is_made_again_however_old_and_no_other(tmp_path):
    """K24: equal row counts do not hide a correction; everything downstream of that day follows, and only that day."""
    it = lake(tmp_path)
    it.put("trade", DAYS[0], (5, "A", 99.0), (1, "A", 98.0), (7, None, 97.0))
    assert made(it.run()) == [
        ("extract.trade", DAYS[0]),
        ("bronze.trades", DAYS[0]),
        ("silver.joined", DAYS[0]),
        ("gold.bars", ""),
    ]
    assert it.rows("gold.bars", "date", "high")[1] == (day(DAYS[0]), 99.0)
    assert len(it.rows("bronze.trades")) == 9


def test_an_empty_day_is_a_day(tmp_path):
    """An empty date has a file, a batch and no row; later it may get some, and lose them."""
    it = lake(tmp_path, DAYS[0])
    it.put("trade", DAYS[1])
    it.put("quote", DAYS[1])
    assert (("silver.joined", DAYS[1])) in made(it.run())
    assert {row[0] for row in it.rows("silver.joined", "date")} == {day(DAYS[0])}
    it.day(DAYS[1])
    it.run()
    assert len(it.rows("silver.joined")) == 6
    it.put("trade", DAYS[1])
    it.run()
    assert len(it.rows("silver.joined")) == 3
    assert it.run() == []


def test_only_the_days_that_are_asked_for(tmp_path):
    """A run over some days leaves the others; a day that the source lacks is told of and holds nothing up."""
    it = PartitionLab(tmp_path / "lake")
    for key in DAYS:
        it.day(key)
    told = []
    for table in EVERY[:5]:
        it.run(table, partitions=[DAYS[1], "2024-01-06"], notify=lambda _, notices: told.extend(notices))
    assert {row[0] for row in it.rows("silver.joined", "date")} == {day(DAYS[1])}
    assert {notice.code for notice in told} == {"no_such_partition"}


def test_a_day_that_fails_holds_up_no_other(tmp_path):
    """§5.4: partitions of one table never fail each other; the error names the day."""
    it = lake(tmp_path, DAYS[0])
    it.put("trade", DAYS[1], (1, "A", "text"), schema=TRADE.set(2, pa.field("price", pa.string())))
    it.day(DAYS[2])
    it.put("quote", DAYS[1])
    for table in ("extract.trade", "extract.quote"):
        it.run(table)
    with pytest.raises(SchemaDrift, match=r"1 partition\(s\) failed \(2024-01-03\).*price is string, not double"):
        it.run("bronze.trades")
    assert {row[0] for row in it.rows("bronze.trades", "date")} == {day(DAYS[0]), day(DAYS[2])}


def test_a_new_column_of_a_later_day_is_null_before(tmp_path):
    """K24: a schema that grows between dates."""
    it = lake(tmp_path, DAYS[0])
    it.put("trade", DAYS[1], (1, "A", 1.0, "Z"), schema=TRADE.append(pa.field("cond", pa.string())))
    it.put("quote", DAYS[1])
    it.run()
    assert sorted(set(it.rows("bronze.trades", "date", "cond")), key=repr) == [
        (day(DAYS[0]), None),
        (day(DAYS[1]), "Z"),
    ]


def test_a_rebuild_makes_every_day_again_and_takes_a_changed_type(tmp_path):
    """--full-refresh replaces the table in one commit and the other days follow; a kill between loses none."""
    it = lake(tmp_path, *DAYS[:2])
    for key in DAYS[:2]:
        it.put("trade", key, (1, "A", "9"), schema=TRADE.set(2, pa.field("price", pa.string())))
    it.run("extract.trade")
    outcomes = it.run("bronze.trades", rebuild=True)
    assert [outcome.plan.mode for outcome in outcomes] == ["replace", "partitions"]
    assert it.rows("bronze.trades", "date", "price") == [(day(key), "9") for key in DAYS[:2]]


def test_a_rebuild_does_not_drop_days_that_nothing_offers_any_more(tmp_path):
    """A day whose extract is gone stays, and a rebuild that would lose it is refused unless that is meant."""
    it = lake(tmp_path, *DAYS[:2])
    path = tmp_path / "lake" / "extract" / "trade" / f"date={DAYS[0]}" / "trade.parquet"
    path.unlink()
    del it.days["trade"][DAYS[0]]
    assert it.run("extract.trade", "bronze.trades") == []
    with pytest.raises(SourceError, match="would lose the partitions 2024-01-02"):
        it.run("bronze.trades", rebuild=True)
    it.run("bronze.trades", rebuild=True, accept_loss=True)
    assert {row[0] for row in it.rows("bronze.trades", "date")} == {day(DAYS[1])}


class Torn(Memory):
    """A source whose day changes while it is read."""

    def read_partition(self, key):
        """Half a day."""
        yield next(iter(super().read_partition(key)))
        raise SourceBusy("it changed while it was read", fix="run again")


def test_an_extract_that_fails_leaves_the_old_file(tmp_path):
    """A file appears under its name when all of it is there."""
    it = lake(tmp_path, DAYS[0])
    it.put("trade", DAYS[0], (1, "B", 1.0), (2, "B", 1.0), (3, "B", 1.0))
    whole = it.open
    it.work = it.work.__class__(
        **{
            **it.work.__dict__,
            "open_source": lambda e: Torn(e, it.days[e.source], []) if e.kind == "extract" else whole(e),
        }
    )
    directory = tmp_path / "lake" / "extract" / "trade" / f"date={DAYS[0]}"
    before = (directory / "trade.parquet").read_bytes()
    with pytest.raises(SourceBusy, match="2024-01-02"):
        it.run("extract.trade")
    assert [path.name for path in directory.iterdir()] == ["trade.parquet"]
    assert (directory / "trade.parquet").read_bytes() == before


def test_an_asof_join_without_partitions_is_made_as_a_whole(tmp_path):
    """Without partition_cols the join reads whole tables, again when one of them moved."""
    yaml = CATALOG.replace(
        "    partition_cols: [date]\n    read_options: {asof.by: sym", "    read_options: {asof.by: 'sym, date'"
    )
    it = PartitionLab(tmp_path / "lake", yaml)
    it.day(DAYS[0])
    it.run(*EVERY[:5])
    it.day(DAYS[1])
    (*_, last) = it.run(*EVERY[:5])
    assert (last.plan.mode, last.plan.feed.partition, last.valid) == ("replace", "", 6)
    assert it.run("silver.joined") == []
    assert len(it.rows("silver.joined")) == 6


def test_fingerprints_tell_days_apart():
    """A fingerprint is its text, and back."""
    assert Fingerprint.parse(str(Fingerprint(3, "ab"))) == Fingerprint(3, "ab")


def test_a_join_follows_a_table_whose_feed_has_a_name(tmp_path):
    """The batches of a partition are known by the name of the feed that made them."""
    named = CATALOG.replace(
        "destination: bronze.trades, partition_cols: [date]",
        "destination: bronze.trades, partition_cols: [date], lakehouse: {feed: nyse}",
    )
    it = PartitionLab(
        tmp_path / "lake", named.replace("{<<: *load, entity_id: q", "{<<: *load, lakehouse: {}, entity_id: q")
    )
    it.day(DAYS[0])
    it.run()
    it.day(DAYS[0], price=20.0)
    it.run()
    assert it.rows("silver.joined", "price") == [(20.0,), (21.0,), (22.0,)]


def test_a_table_is_joined_with_itself(tmp_path):
    """The trade before each trade, of the same symbol."""
    yaml = CATALOG.replace("tables: [bronze.trades, bronze.quotes]", "tables: [bronze.trades, bronze.trades]")
    yaml = yaml.replace('asof.columns: "bid, ask"', 'asof.columns: "price AS bid, _row AS ask", asof.strict: "true"')
    it = PartitionLab(tmp_path / "lake", yaml)
    it.day(DAYS[0])
    it.run()
    assert it.rows("silver.joined", "sym", "time", "bid") == [("A", 1, None), ("A", 5, 11.0), (None, 7, None)]
    assert it.run() == []


def test_two_entities_cannot_make_the_days_of_one_table(tmp_path):
    """One of them would never be read: the catalog says so."""
    more = "  - {<<: *load, entity_id: t2, source: extract.quote, destination: bronze.trades, lakehouse: {feed: two}}\n"
    with pytest.raises(CatalogError, match="a table that is loaded from the extract extract.quote has one feed"):
        PartitionLab(tmp_path / "lake", CATALOG + more)


def test_a_rebuild_takes_the_widest_types_of_all_days(tmp_path):
    """K24: an older day may have a narrower type: the rebuilt table holds both, and what no type holds is refused first."""
    it = lake(tmp_path, DAYS[1])
    narrow = TRADE.set(2, pa.field("price", pa.float32()))
    it.put("trade", DAYS[0], (1, "A", 0.5), schema=narrow)
    it.put("quote", DAYS[0])
    it.run()
    it.run("bronze.trades", rebuild=True)
    assert it.rows("bronze.trades", "price") == [(0.5,), (10.0,), (11.0,), (12.0,)]
    it.put("trade", DAYS[0], (1, "A", "text"), schema=TRADE.set(2, pa.field("price", pa.string())))
    it.run("extract.trade")
    with pytest.raises(
        SchemaDrift, match=f"price is string in the extract of {DAYS[0]} and double in that of {DAYS[1]}"
    ):
        it.run("bronze.trades", rebuild=True)
    assert len(it.rows("bronze.trades")) == 4


def test_a_join_is_mended_in_the_catalog(tmp_path):
    """A column that is not there fails; once the catalog is right, the day is made as it says now."""
    right = "select_expr: [date, sym, time, price, bid, ask, (bid + ask) / 2 AS mid]"
    it = PartitionLab(tmp_path / "lake", CATALOG.replace(right, "select_expr: [date, symm]"))
    it.day(DAYS[0])
    with pytest.raises(LakehouseError, match="symm"):
        it.run(*EVERY[:5])
    it.declare(CATALOG)
    it.run(*EVERY[4:])
    assert len(it.rows("silver.joined")) == 3


def test_a_row_belongs_to_the_day_that_it_is_made_of(tmp_path):
    """A select list that makes the partition column of something else would lose rows to other days."""
    for column in ("CAST(date_add(date, 1) AS DATE) AS date", "date AS day"):
        with pytest.raises(CatalogError, match="the partition column 'date' has to come as it is"):
            PartitionLab(tmp_path / "lake", CATALOG.replace("[date, sym, time,", f"[{column}, sym, time,"))


def test_a_file_that_is_no_extract_holds_up_its_day_alone(tmp_path):
    """A foreign or misplaced file is named; other days are loaded; directories that are no day are nobody's business."""
    it = lake(tmp_path, DAYS[0])
    it.day(DAYS[1])
    it.day(DAYS[2])
    it.run("extract.trade")
    files = tmp_path / "lake" / "extract" / "trade"
    (files / f"date={DAYS[1]}" / "trade.parquet").write_bytes(
        (files / f"date={DAYS[2]}" / "trade.parquet").read_bytes()
    )
    (files / "date=20240102").mkdir()
    (files / "date=20240102" / "trade.parquet").write_bytes((files / f"date={DAYS[0]}" / "trade.parquet").read_bytes())
    with pytest.raises(LakeError, match=rf"failed \({DAYS[1]}\).*is no extract of {DAYS[1]}"):
        it.run("bronze.trades")
    assert {row[0] for row in it.rows("bronze.trades", "date")} == {day(DAYS[0]), day(DAYS[2])}


def test_a_day_that_a_rebuild_did_not_reach_is_not_forgotten(tmp_path):
    """A rebuild was interrupted before it made a day, and the extract of that day is gone: that is said."""
    it = lake(tmp_path)
    plan_rebuild(it.work, [(it.work.catalog.destinations[TableName("bronze", "trades")][0], key) for key in DAYS])
    it.run("bronze.trades", partitions=[DAYS[0]])
    (tmp_path / "lake" / "extract" / "trade" / f"date={DAYS[2]}" / "trade.parquet").unlink()
    with pytest.raises(SourceMissing, match=f"interrupted before it made {DAYS[2]}"):
        it.run("bronze.trades")


@pytest.mark.slow
def test_an_object_store_holds_the_same(tmp_path, s3):
    """Extracts, tables, a correction and a rebuild on an object store are those of a disk."""
    here, there = lake(tmp_path, *DAYS[:2]), PartitionLab(f"{s3.root}/lake", storage=s3.storage)
    there.days = here.days
    there.run()
    here.day(DAYS[0], price=20.0)
    for it in (here, there):
        it.run()
        it.run("silver.joined", rebuild=True)
        it.run()
    assert [there.rows(table) for table in EVERY[2:]] == [here.rows(table) for table in EVERY[2:]]
    assert there.run() == []
