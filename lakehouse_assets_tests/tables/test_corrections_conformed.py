"""Tests of corrections of conformed tables: requeued and discarded rows, rebuilds, and kills between any two commits."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from lakehouse_assets.engines.base import Engine
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import LakeError, SettingsError
from lakehouse_assets.lake.values import Commit
from lakehouse_assets.tables import corrections
from lakehouse_assets.tables.base import Work, written_with
from lakehouse_assets.tables.corrections_given import Requeued
from lakehouse_assets.tables.corrections_ids import id_of
from lakehouse_assets.tables.maintenance import maintain
from lakehouse_assets_tests.tables.lab import NOW, Lab

BRONZE = """
delta_live_store:
  - entity_id: b
    source: stream
    source_format: sqlite
    destination: bronze.t
    source_schema: id BIGINT, v STRING, w DOUBLE
"""
SILVER = """
  - entity_id: s
    source: bronze.t
    source_format: dlt
    destination: silver.t
    select_expr: {select}
    is_quarantined: true
    expectations: {rules}
"""
SELECT = "[id, CAST(v AS INT) AS n, w]"
RULES = "{expect_all: {positive: w > 0}}"
T = TableName("silver", "t")
ROWS = [(1, "1", 1.0), (2, "x", 1.0), (3, "3", -1.5), (4, "4", None)]
"""One right row, one whose `v` is no number, two that break a rule."""


class Killed(BaseException):
    """A process that is no more."""


class Mortal(EmbeddedEngine):
    """The embedded engine; it dies before or after its n-th write (the creation of a table is one, too)."""

    def __init__(self, storage, write: int, *, after: bool):
        super().__init__(storage)
        self.left, self.after = write, after

    def _write(self, write: Callable[..., Commit], *args) -> Commit:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        done = write(*args)
        if self.left == 0:
            raise Killed
        return done

    def create(self, uri, spec):
        """A write."""
        return self._write(super().create, uri, spec) if self.find(uri) is None else super().create(uri, spec)

    def append(self, handle, relation, number):
        """A write."""
        return self._write(super().append, handle, relation, number)

    def replace(self, handle, relation, number, partitions=None):
        """A write."""
        return self._write(super().replace, handle, relation, number, partitions)

    def rebuild(self, handle, relation, columns, number):
        """A write."""
        return self._write(super().rebuild, handle, relation, columns, number)


class Meddled(EmbeddedEngine):
    """The embedded engine; once, something else happens when rows are looked up, or before corrections are kept."""

    def __init__(self, storage, meanwhile: Callable[[], object], *, early: bool = False):
        super().__init__(storage)
        self.meanwhile, self.early = [meanwhile], early

    def from_arrow(self, data):
        """The ids that are asked for."""
        if self.early and self.meanwhile and isinstance(data, pa.Table) and data.num_rows:
            self.meanwhile.pop()()
        return super().from_arrow(data)

    def append(self, handle, relation, number):
        """A write, and what comes between."""
        if not self.early and self.meanwhile and handle.uri.endswith("__corrections"):
            self.meanwhile.pop()()
        return super().append(handle, relation, number)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, list]:
    """A lake and its stream, which nobody may write."""
    root = tmp_path_factory.mktemp("corrections")
    return root, lab(root).streams["stream"]


@pytest.fixture
def it(made, tmp_path) -> Lab:
    """A copy of it."""
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    own = Lab(tmp_path / "lake", BRONZE + SILVER.format(select=SELECT, rules=RULES))
    own.streams["stream"] = list(made[1])
    return own


def lab(tmp_path, rules=RULES, select=SELECT, rows=ROWS, more="") -> Lab:
    """A bronze stream and a silver table over it, both of them run."""
    it = Lab(tmp_path / "lake", BRONZE + SILVER.format(select=select, rules=rules) + more)
    feed(it, rows)
    it.run()
    return it


def declare(it: Lab, rules=RULES, select=SELECT) -> None:
    """Other rules, or another select list, from now on."""
    it.declare(BRONZE + SILVER.format(select=select, rules=rules))


def feed(it: Lab, rows) -> None:
    """Append rows to the stream."""
    it.feed("stream", [dict(zip(("id", "v", "w"), row, strict=True)) for row in rows])


def ids(it: Lab) -> dict[int, str]:
    """`id` of the rows in quarantine -> their `_event`."""
    return {row["id"]: row["_event"] for row in it.engine.rows(corrections.quarantined(it.work, T))}


def requeue(it: Lab, *patch: str, engine: Engine | None = None, **how) -> Requeued:
    """Requeue rows of the silver table."""
    work: Work = it.work if engine is None else replace(it.work, engine=engine)
    return corrections.requeue(work, T, patch=patch, **how)


def tables(it: Lab) -> list[list[tuple]]:
    """Target and quarantine; of the quarantine what was received is left out, which the target's columns tell."""
    return [it.rows("silver.t"), it.rows("silver.t_quarantine", "id", "n", "w", "_reasons")]


def figures(outcomes) -> tuple[int, ...]:
    """Rows in, valid, quarantined and dropped of the last outcome."""
    last = outcomes[-1]
    assert last.rows_in == last.valid + last.quarantined + last.dropped
    return last.rows_in, last.valid, last.quarantined, last.dropped


# requeue


def test_a_corrected_row_moves_from_the_quarantine_to_the_table(it):
    """A correction is kept with its id and what was said, and the row changes its place; the others stay."""
    known = ids(it)
    done = requeue(it, "n = 22", ids=[known[2]])
    assert (done.asked, done.woven, done.still_broken, done.unchanged) == (1, 1, (), 0)
    assert list(done.commits) == [T.corrections, T.quarantine, T]
    assert tables(it) == [
        [(1, 1, 1.0), (2, 22, 1.0)],
        [(3, 3, -1.5, ["positive"]), (4, 4, None, ["positive"])],
    ]
    said = (known[2], 2, 22, 1.0, ["id", "n", "w"], "correction: n = 22", NOW)
    assert it.rows("silver.t__corrections") == [said]


def test_rows_are_meant_by_rule(it):
    """Only the rows that broke the rule are corrected; those that break it still are named and stay."""
    known = ids(it)
    done = requeue(it, "w = abs(w)", rule="positive")
    assert (done.asked, done.woven) == (2, 1)
    assert done.still_broken == ({"id": 4, "n": 4, "w": None, "_event": known[4], "_reasons": ["positive"]},)
    assert tables(it) == [
        [(1, 1, 1.0), (3, 3, 1.5)],
        [(2, None, 1.0, ["cast_failed:n"]), (4, 4, None, ["positive"])],
    ]


def test_a_patch_without_a_choice_means_all_rows(it):
    """A row that keeps the rules with it is woven in, whatever it broke."""
    assert requeue(it, "w = 7e0", "n = CAST(id AS INT)").woven == 3
    assert tables(it) == [[(1, 1, 1.0), (2, 2, 7.0), (3, 3, 7.0), (4, 4, 7.0)], []]


def test_a_patch_reads_the_row_as_received(it):
    """An expression may use what did not fit its column."""
    requeue(it, "n = length(_upstream.v) + 40", ids=[ids(it)[2]])
    assert it.rows("silver.t") == [(1, 1, 1.0), (2, 41, 1.0)]


def test_a_cast_that_failed_is_not_corrected_by_correcting_another_column(it):
    """A value that did not fit stays a reason until somebody says what it is; NULL can be said."""
    (broken,) = requeue(it, "w = 2e0", ids=[ids(it)[2]]).still_broken
    assert broken["_reasons"] == ["cast_failed:n"]
    requeue(it, "n = NULL", ids=[ids(it)[2]])
    assert it.rows("silver.t") == [(1, 1, 1.0), (2, None, 1.0)]


@pytest.mark.parametrize("patch", ["n = 'seven'", "n = _upstream.v", "n = CAST('seven' AS INT)", "n = 3000000000"])
def test_a_value_that_does_not_fit_the_column_is_still_broken(it, patch):
    """A correction is cast as a received value is, and fails as one."""
    (broken,) = requeue(it, patch, ids=[ids(it)[2]]).still_broken
    assert broken["_reasons"] == ["cast_failed:n"]
    assert not it.exists("silver.t__corrections")


def test_rows_are_judged_again_by_mended_rules(it):
    """Without a correction a row goes through today's select list and rules as it was received."""
    declare(
        it, rules="{expect_all: {present: w IS NOT NULL}}", select='[id, "coalesce(TRY_CAST(v AS INT), -1) AS n", w]'
    )
    (broken,) = requeue(it).still_broken
    assert (broken["id"], broken["_reasons"]) == (4, ["present"])
    assert tables(it) == [[(1, 1, 1.0), (2, -1, 1.0), (3, 3, -1.5)], [(4, 4, None, ["positive"])]]


def test_rows_judged_again_may_bring_a_new_column(it):
    """A column that the select list has gained is added to the table."""
    declare(it, rules="{}", select='[id, CAST(v AS INT) AS n, w, "upper(v) AS said"]')
    assert requeue(it, rule="positive").woven == 2
    assert it.rows("silver.t") == [(1, 1, 1.0, None), (3, 3, -1.5, "3"), (4, 4, None, "4")]


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_corrections_come_from_a_file(it, tmp_path, form):
    """Rows are found by `_event`, of which the beginning is enough; columns that the file lacks stay as they are."""
    known = ids(it)
    path = tmp_path / f"fixed.{form}"
    if form == "csv":
        path.write_text(f"_event,w\n{known[3][:8]},3.5\n{known[4]},\n")
    elif form == "json":
        path.write_text(f'{{"_event": "{known[3][:8]}", "w": 3.5}}\n{{"_event": "{known[4]}", "w": null}}\n')
    else:
        parquet.write_table(pa.table({"_event": [known[3][:8], known[4]], "w": [3.5, None]}), path)
    done = requeue(it, file=path)
    assert (done.asked, done.woven, [row["id"] for row in done.still_broken]) == (2, 1, [4])
    assert it.rows("silver.t") == [(1, 1, 1.0), (3, 3, 3.5)]
    assert it.rows("silver.t__corrections", "_event", "_correction") == [(known[3], f"correction from fixed.{form}")]


def test_a_file_that_corrects_a_row_in_two_ways_is_refused(it, tmp_path):
    """Nobody knows which of them is meant."""
    path = tmp_path / "fixed.csv"
    path.write_text(f"_event,w\n{ids(it)[3]},1\n{ids(it)[3]},2\n")
    with pytest.raises(SettingsError, match="in two ways"):
        requeue(it, file=path)


def test_a_dry_run_writes_nothing(it):
    """It tells what would come of the rows."""
    before = tables(it), it.version("silver.t"), it.version("silver.t_quarantine")
    done = requeue(it, "w = abs(w)", rule="positive", dry_run=True)
    assert (done.asked, done.woven, len(done.still_broken), done.commits) == (2, 1, 1, {})
    assert (tables(it), it.version("silver.t"), it.version("silver.t_quarantine")) == before
    assert not it.exists("silver.t__corrections")


def test_the_same_correction_twice_changes_nothing(it):
    """A row that left the quarantine is counted as unchanged, and nothing is committed."""
    chosen = [ids(it)[3][:9]]
    requeue(it, "w = 1e0", ids=chosen)
    before = tables(it), it.version("silver.t__corrections"), it.version("silver.t"), it.version("silver.t_quarantine")
    done = requeue(it, "w = 1e0", ids=chosen)
    assert (done.asked, done.woven, done.unchanged, done.commits) == (1, 0, 1, {})
    assert before == (
        tables(it), it.version("silver.t__corrections"), it.version("silver.t"), it.version("silver.t_quarantine"),
    )  # fmt: skip


def test_rows_that_were_received_alike_are_corrected_together(tmp_path):
    """They share an id, and each of them gets into the table."""
    it = lab(tmp_path, rows=[], more=twins())
    feed(it, [(1, "x", 1.0), (1, "x", 1.0), (2, "y", 1.0)])
    it.run()
    found = it.engine.rows(corrections.quarantined(it.work, TableName("gold", "t")))
    assert sorted(Counter(row["_event"] for row in found).values()) == [1, 2]
    twin = Counter(row["_event"] for row in found).most_common(1)[0][0]
    done = corrections.requeue(it.work, TableName("gold", "t"), ids=[twin], patch=["n = 5"])
    assert (done.asked, done.woven) == (2, 2)
    assert it.rows("gold.t") == [(1, 5), (1, 5)]
    assert it.rows("gold.t_quarantine", "id") == [(2,)]


def twins() -> str:
    """A table over rows without their positions, so that rows may be alike."""
    return """
  - entity_id: plain
    source: SELECT id, v FROM bronze.t
    source_format: sql
    destination: bronze.plain
    destination_type: view
  - entity_id: g
    source: bronze.plain
    source_format: dlt
    destination: gold.t
    select_expr: [id, CAST(v AS INT) AS n]
    is_quarantined: true
"""


# discard


def test_a_discarded_row_leaves_the_quarantine_for_good(it):
    """It is remembered as discarded, nothing comes of it, and a rebuild counts it as dropped."""
    known = ids(it)
    corrections.discard(it.work, T, [known[3], known[4]])
    assert tables(it) == [[(1, 1, 1.0)], [(2, None, 1.0, ["cast_failed:n"])]]
    assert it.rows("silver.t__corrections", "_event", "_correction") == sorted(
        [(known[3], "discarded"), (known[4], "discarded")]
    )
    assert figures(it.run("silver.t", rebuild=True)) == (4, 1, 1, 2)
    assert tables(it) == [[(1, 1, 1.0)], [(2, None, 1.0, ["cast_failed:n"])]]
    assert corrections.discard(it.work, T, [known[3]]) == {}


def test_a_killed_requeue_over_a_view_is_made_good_by_a_run(tmp_path):
    """A table that is replaced whenever its view moved is replaced once for its corrections, too."""
    it = lab(tmp_path, more=twins())
    gold = TableName("gold", "t")
    work = replace(it.work, engine=Mortal(it.storage, 2, after=True))
    with pytest.raises(Killed):
        corrections.requeue(work, gold, patch=["n = 5"])
    it.run("gold.t")
    assert (it.rows("gold.t"), it.rows("gold.t_quarantine")) == ([(1, 1), (2, 5), (3, 3), (4, 4)], [])
    assert it.run() == []


# rebuilds


def test_a_rebuild_makes_the_corrections_again(it):
    """The table is the same as before, and the counts add up."""
    known = ids(it)
    requeue(it, "n = 22", ids=[known[2]])
    requeue(it, "w = abs(w)", ids=[known[3]])
    corrections.discard(it.work, T, [known[4]])
    before = tables(it)
    assert figures(it.run("silver.t", rebuild=True)) == (4, 3, 0, 1)
    assert tables(it) == before == [[(1, 1, 1.0), (2, 22, 1.0), (3, 3, 1.5)], []]
    assert it.run() == []


def test_a_table_that_starts_over_makes_the_corrections_again(it):
    """An upstream that was rebuilt changes no id, although its rows were received at another time."""
    requeue(it, "w = abs(w)", rule="positive")
    before = tables(it)
    it.work = replace(it.work, clock=lambda: datetime(2027, 1, 1, tzinfo=UTC))
    it.run("bronze.t", rebuild=True)
    (outcome,) = it.run("silver.t")
    assert outcome.plan.mode == "replace"
    assert figures([outcome]) == (4, 2, 2, 0)
    assert tables(it) == before


def test_ids_stay_over_a_rebuild_and_a_new_column(it):
    """An id comes from what was received: not from the batch, nor from columns that were not there."""
    known = ids(it)
    it.declare(BRONZE.replace("w DOUBLE", "w DOUBLE, z STRING") + SILVER.format(select=SELECT, rules=RULES))
    it.streams["stream"] = [rows.append_column("z", pa.nulls(len(rows), pa.string())) for rows in it.streams["stream"]]
    it.run("bronze.t", rebuild=True)
    it.run("silver.t", rebuild=True)
    assert ids(it) == known
    assert "z" in it.engine.find(it.work.uri(T.quarantine)).schema.field("_upstream").type.names


def test_a_correction_that_breaks_todays_rules_is_not_made_again(it):
    """The row stays in quarantine with its own reasons; a better correction takes the place of the first one."""
    requeue(it, "w = abs(w)", rule="positive")
    declare(it, rules="{expect_all: {positive: w > 2}}")
    assert figures(it.run("silver.t", rebuild=True)) == (4, 0, 4, 0)
    requeue(it, "w = 9e0", ids=[ids(it)[3]])
    assert figures(it.run("silver.t", rebuild=True)) == (4, 1, 3, 0)
    assert it.rows("silver.t") == [(3, 3, 9.0)]


def test_a_correction_holds_for_a_row_that_comes_again(tmp_path):
    """A row that is received like one that was corrected goes the same way: so a rebuild changes nothing."""
    it = lab(tmp_path, rows=[], more=twins())
    gold = TableName("gold", "t")
    feed(it, [(1, "x", 1.0), (2, "y", 1.0)])
    it.run()
    corrections.requeue(it.work, gold, patch=["n = 5"])
    feed(it, [(1, "x", 1.0), (3, "z", 1.0)])
    it.run()
    assert it.rows("gold.t") == [(1, 5), (1, 5), (2, 5)]
    assert it.rows("gold.t_quarantine", "id") == [(3,)]


def test_a_correction_whose_column_changed_its_type_is_made_again_if_it_fits(tmp_path):
    """A value that the new type does not hold leaves its row in quarantine."""
    it = lab(tmp_path, select="[id, v, w]")
    known = ids(it)
    requeue(it, "v = '33'", "w = 1e0", ids=[known[3]])
    requeue(it, "v = 'four'", "w = 1e0", ids=[known[4]])
    declare(it, select="[id, CAST(v AS INT) AS v, w]")
    it.run("silver.t", rebuild=True)
    assert it.rows("silver.t") == [(1, 1, 1.0), (3, 33, 1.0)]
    assert it.rows("silver.t_quarantine", "id", "v", "w", "_reasons") == [
        (2, None, 1.0, ["cast_failed:v"]),
        (4, 4, None, ["positive"]),
    ]


def test_a_column_that_a_correction_does_not_know_is_as_received(tmp_path):
    """The select list has gained it since; where it cannot be made the row stays in quarantine."""
    it = lab(tmp_path, select="[id, w]", rows=[*ROWS, (5, "five", -5.0)])
    requeue(it, "w = 9e0", rule="positive")
    declare(it)
    it.run("silver.t", rebuild=True)
    assert it.rows("silver.t", "id", "n", "w") == [(1, 1, 1.0), (3, 3, 9.0), (4, 4, 9.0)]
    assert it.rows("silver.t_quarantine", "id", "n", "w", "_reasons") == [
        (2, None, 1.0, ["cast_failed:n"]),
        (5, None, -5.0, ["cast_failed:n", "positive"]),
    ]


def test_readers_of_the_quarantine_start_over(tmp_path):
    """A quarantine that lost rows is read again by the tables over it."""
    more = """
  - entity_id: r
    source: silver.t_quarantine
    source_format: dlt
    destination: gold.open
    select_expr: [id, _reasons AS reasons]
"""
    it = lab(tmp_path, more=more)
    assert it.rows("gold.open", "id") == [(2,), (3,), (4,)]
    requeue(it, "w = 1e0", rule="positive")
    it.run()
    assert it.rows("gold.open", "id") == [(2,)]


SIDES = ("silver/t", "silver/t_quarantine")


@pytest.mark.parametrize(
    ("gone", "rebuild"),
    [pytest.param(SIDES, True, marks=pytest.mark.slow), ((*SIDES, "control/batches", "bronze/t"), False)],
)
def test_a_table_made_anew_beside_its_corrections_shows_them_once(it, tmp_path, gone, rebuild):
    """Corrections outlive the table; none of them is made twice when its rows come again."""
    requeue(it, "w = 1e0", rule="positive")
    before = tables(it)
    for name in gone:
        (tmp_path / "lake" / name).rename(tmp_path / name.replace("/", "_"))
    it.run("bronze.t")
    it.run("silver.t", rebuild=rebuild)
    assert tables(it) == before
    assert it.run() == []


# kills


FAST = [("run", 2, True), ("requeue", 3, True)]
"""Corrections made (1), appended to (2), the quarantine (3), the target (4): before and after each."""
SLOW = [
    pytest.param(who, write, after, marks=pytest.mark.slow)
    for who in ("run", "requeue")
    for write in range(1, 5)
    for after in (False, True)
    if (who, write, after) not in FAST
]


@pytest.mark.parametrize(("mended_by", "write", "after"), [*FAST, *SLOW])
def test_a_killed_requeue_is_made_good(it, write, after, mended_by):
    """Whoever comes next finds nothing doubled and nothing lost; what was said already comes true by itself."""
    chosen, before = [ids(it)[3], ids(it)[2]], tables(it)
    expected = [[(1, 1, 1.0), (2, 5, 1.0), (3, 5, 1.0)], [(4, 4, None, ["positive"])]]
    with pytest.raises(Killed):
        requeue(it, "w = 1e0", "n = 5", ids=chosen, engine=Mortal(it.storage, write, after=after))
    if mended_by == "run":
        it.run()
        assert tables(it) == (expected if (write, after) >= (2, True) else before)
    done = requeue(it, "w = 1e0", "n = 5", ids=chosen)
    assert (done.asked, done.woven + done.unchanged, done.still_broken) == (2, 2, ())
    assert tables(it) == expected
    it.run("silver.t", rebuild=True)
    assert tables(it) == expected


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize(("write", "after"), [(2, True), pytest.param(3, True, marks=pytest.mark.slow)])
def test_a_killed_requeue_is_made_good_by_a_batch(it, write, after, rebuild):
    """A run that has new rows, or starts over, leaves what it would have without the kill."""
    with pytest.raises(Killed):
        requeue(it, "w = 1e0", ids=[ids(it)[3]], engine=Mortal(it.storage, write, after=after))
    feed(it, [(5, "5", 5.0), (6, "6", -6.0)])
    it.run("bronze.t")
    it.run("silver.t", rebuild=rebuild)
    assert tables(it) == [
        [(1, 1, 1.0), (3, 3, 1.0), (5, 5, 5.0)],
        [(2, None, 1.0, ["cast_failed:n"]), (4, 4, None, ["positive"]), (6, 6, -6.0, ["positive"])],
    ]
    assert it.run() == []


@pytest.mark.parametrize(
    ("write", "after"),
    [(1, True), *(pytest.param(*at, marks=pytest.mark.slow) for at in ((1, False), (2, False), (2, True)))],
)
def test_a_killed_rebuild_makes_the_corrections_again(it, write, after):
    """Quarantine and target are those of a rebuild that was never killed."""
    requeue(it, "w = 1e0", rule="positive")
    before = tables(it)
    with pytest.raises(Killed):
        it.run("silver.t", rebuild=True, engine=Mortal(it.storage, write, after=after))
    it.run("silver.t")
    assert tables(it) == before
    assert it.run() == []


def test_nothing_is_corrected_while_a_batch_is_interrupted(it):
    """Its rows are in quarantine, and those beside them are not in the table yet: run first."""
    feed(it, [(5, "5", 5.0), (6, "6", -6.0)])
    it.run("bronze.t")
    with pytest.raises(Killed):
        it.run("silver.t", engine=Mortal(it.storage, 1, after=True))
    with pytest.raises(LakeError, match=r"lakehouse run silver\.t"):
        requeue(it, "w = 1e0")
    it.run("silver.t")
    requeue(it, "w = 1e0", rule="positive")
    assert it.rows("silver.t", "id") == [(1,), (3,), (4,), (5,), (6,)]


def test_a_batch_that_is_made_again_knows_no_later_corrections(tmp_path):
    """A row that the batch quarantined already stays there, although its like was corrected before the batch went on."""
    it = Lab(tmp_path / "lake", BRONZE + PLAIN)
    gold = TableName("gold", "t")
    feed(it, [(1, "x", 1.0)])
    it.run()

    def meanwhile():
        feed(it, [(1, "x", 1.0), (2, "2", 1.0)])
        it.run("bronze.t")
        it.run("bronze.plain")
        with pytest.raises(Killed):
            it.run("gold.t", engine=Mortal(it.storage, 1, after=True))

    work = replace(it.work, engine=Meddled(it.storage, meanwhile))
    corrections.requeue(work, gold, patch=["n = 5"])
    it.run()
    assert it.rows("gold.t") == [(1, 5), (2, 2)]
    assert it.rows("gold.t_quarantine", "id") == [(1,)]
    corrections.requeue(it.work, gold, patch=["n = 5"])
    assert it.rows("gold.t") == [(1, 5), (1, 5), (2, 2)]
    it.run("gold.t", rebuild=True)
    assert it.rows("gold.t") == [(1, 5), (1, 5), (2, 2)]


def test_a_rebuild_that_was_interrupted_meanwhile_is_made_good_first(it):
    """A correction waits until the table was replaced, or it would be lost with the old rows."""

    def meanwhile():
        with pytest.raises(Killed):
            it.run("silver.t", rebuild=True, engine=Mortal(it.storage, 1, after=True))

    requeue(it, "w = 1e0", ids=[ids(it)[3]], engine=Meddled(it.storage, meanwhile))
    assert it.rows("silver.t") == [(1, 1, 1.0)]
    it.run("silver.t")
    assert tables(it) == [
        [(1, 1, 1.0), (3, 3, 1.0)],
        [(2, None, 1.0, ["cast_failed:n"]), (4, 4, None, ["positive"])],
    ]


PLAIN = """
  - entity_id: plain
    source: bronze.t
    source_format: dlt
    destination: bronze.plain
    select_expr: [id, v]
  - entity_id: g
    source: bronze.plain
    source_format: dlt
    destination: gold.t
    select_expr: [id, CAST(v AS INT) AS n]
"""
"""A table over rows without their positions that only appends."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_requeues_batches_and_rebuilds_in_any_order_end_alike(tmp_path, seed):
    """Each row ends where its last word puts it, however corrections, new rows, rebuilds and kills come."""
    chance = random.Random(seed)
    it = lab(tmp_path, rows=[])
    sent: dict[int, tuple[str, float]] = {}
    said: dict[int, str] = {}
    for _ in range(9):
        step = chance.choice(("feed", "feed", "fix", "fix", "discard", "rebuild"))
        open_ = ids(it) if it.exists("silver.t_quarantine") else {}
        if step == "feed":
            rows = [(len(sent) + n, str(chance.randrange(9)), float(chance.randint(-2, 2))) for n in range(3)]
            sent |= {number: (v, w) for number, v, w in rows}
            feed(it, rows)
            it.run()
        elif step == "rebuild":
            it.run("silver.t", rebuild=True)
        elif open_:
            number = chance.choice(sorted(open_))
            said[number] = step
            engine = Mortal(it.storage, chance.randint(1, 6), after=chance.random() < 0.5)
            for one in (engine, it.engine):  # killed, perhaps, and again
                try:
                    if step == "fix":
                        requeue(it, "w = 7e0", ids=[open_[number]], engine=one)
                    else:
                        corrections.discard(replace(it.work, engine=one), T, [open_[number]])
                except Killed:
                    continue
    it.run()
    assert tables(it) == [
        sorted(
            ((k, int(v), 7.0 if said.get(k) == "fix" else w) for k, (v, w) in sent.items()
             if w > 0 or said.get(k) == "fix"),
            key=repr,
        ),
        sorted(
            ((k, int(v), w, ["positive"]) for k, (v, w) in sent.items() if w <= 0 and k not in said), key=repr
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("early", [True, False])
def test_a_row_that_two_people_correct_is_corrected_once(it, early):
    """Who comes second finds it corrected."""
    chosen = [ids(it)[3]]
    engine = Meddled(it.storage, lambda: requeue(it, "w = 1e0", ids=chosen), early=early)
    done = requeue(it, "w = 2e0", ids=chosen, engine=engine)
    assert (done.asked, done.woven, done.unchanged) == (1, 0, 1)
    assert it.rows("silver.t") == [(1, 1, 1.0), (3, 3, 1.0)]


def test_a_row_that_a_rebuild_took_out_of_the_quarantine_is_not_corrected(it):
    """It is in the table once."""

    def rebuilt():
        declare(it, rules="{}")
        it.run("silver.t", rebuild=True)

    with pytest.raises(SettingsError, match="has this id"):
        requeue(it, "w = 2e0", ids=[ids(it)[3]], engine=Meddled(it.storage, rebuilt, early=True))
    assert it.rows("silver.t", "id", "w") == [(1, 1.0), (3, -1.5), (4, None)]


# what is refused


def test_an_id_that_no_row_has_is_refused(it):
    """The ids that there are are named."""
    with pytest.raises(SettingsError, match="no row in the quarantine of silver.t has this id") as raised:
        requeue(it, ids=["zz"])
    assert sorted(raised.value.choices) == sorted(ids(it).values())


def test_the_beginning_of_several_ids_is_refused(tmp_path):
    """The rows that it could mean are named."""
    it = lab(tmp_path, rows=[(n, "x", 1.0) for n in range(20)])
    starts = Counter(event[0] for event in ids(it).values())
    start, count = starts.most_common(1)[0]
    with pytest.raises(SettingsError, match="begin with") as raised:
        requeue(it, ids=[start])
    assert len(raised.value.choices) == min(count, 10)


def test_a_patch_that_would_lose_digits_is_refused(it):
    """A DOUBLE does not become an INT in silence."""
    with pytest.raises(SettingsError, match="n of silver.t would become DOUBLE, and it is INT") as raised:
        requeue(it, "n = w / 2")
    assert "CAST" in str(raised.value.fix)


def test_a_landed_table_is_corrected_where_it_is_read(it):
    """The error names the conformed table over it."""
    with pytest.raises(SettingsError, match="as they were received") as raised:
        corrections.requeue(it.work, TableName("bronze", "t"))
    assert "silver.t" in str(raised.value.fix)


def test_a_table_without_a_quarantine_says_so(tmp_path):
    """There is nothing to correct."""
    it = lab(tmp_path, rows=[(1, "1", 1.0)])
    it.declare(BRONZE + SILVER.format(select=SELECT, rules="{}").replace("is_quarantined: true", ""))
    (tmp_path / "lake/silver/t_quarantine").rename(tmp_path / "gone")
    with pytest.raises(SettingsError, match="has no quarantine"):
        requeue(it, "n = 1")


def test_rows_of_several_feeds_are_not_judged_again_by_one_of_them(tmp_path):
    """A quarantine does not tell which select list made a row; what people say of rows is judged all the same."""
    one = SILVER.format(select=SELECT, rules=RULES)
    feeds = "".join(one.replace("entity_id: s", f"entity_id: {x}") + f"    lakehouse: {{feed: {x}}}\n" for x in "pq")
    it = Lab(tmp_path / "lake", BRONZE + feeds.replace("AS n, w", "AS n, w - 1 AS w", 1))
    feed(it, ROWS)
    it.run()
    with pytest.raises(SettingsError, match="different select lists"):
        requeue(it, rule="positive")
    done = requeue(it, "w = 5e0", ids=[ids(it)[3]])
    assert (done.asked, done.woven) == (2, 2)
    assert it.rows("silver.t") == [(1, 1, 1.0), (3, 3, 5.0), (3, 3, 5.0)]


# what stands beside it


def test_the_table_of_corrections_is_looked_after(it):
    """It is maintained with the table that it belongs to, once it is there."""
    assert T.corrections not in written_with(it.work, T)
    requeue(it, "w = 1e0", rule="positive")
    assert T.corrections in written_with(it.work, T)
    assert [(upkeep.table, upkeep.state) for upkeep in maintain(it.work, [T])] == [
        (name, "done") for name in (T, T.quarantine, T.corrections)
    ]


# ids


ODD = pa.table(
    {
        "x": [1.5, 0.1, 1e-19, 1e30, float("nan"), float("inf"), -float("inf"), None, 0.0, 123456789.123456789],
        "b": [b"\x00\xff", b"text"] * 5,
        "d": [Decimal("1.50")] * 10,
        "at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 10, pa.timestamp("us", tz="UTC")),
        "day": [date(2026, 1, 1)] * 10,
        "yes": [True, None] * 5,
        "l": pa.array([[{"a": 1.0, "b": "x|"}, None]] * 10),
        "m": pa.array([[("k", 1.5)]] * 10, pa.map_(pa.string(), pa.float64())),
    }
)


def events(engine: Engine) -> list[str]:
    """The ids of odd rows."""
    fields = ", ".join(f"'{name}', {name}" for name in ODD.schema.names)
    sql = f"SELECT named_struct({fields}) AS _upstream, CAST(NULL AS STRING) AS _raw FROM t"
    rows = engine.query(sql, {"t": engine.from_arrow(ODD)})
    return [r["i"] for r in engine.rows(engine.query(f"SELECT {id_of(engine.schema(rows))} AS i FROM r", {"r": rows}))]


def test_rows_that_differ_in_anything_have_ids_of_their_own(tmp_path):
    """Numbers, bytes, times and nested values tell rows apart."""
    found = events(lab(tmp_path, rows=[]).engine)
    assert len(set(found)) == 10
    assert all(len(event) == 16 and set(event) <= set("0123456789abcdef") for event in found)


@pytest.mark.slow
def test_ids_are_the_same_on_both_engines(tmp_path, spark):
    """A row that one engine quarantined is found by its id on the other."""
    assert events(spark) == events(lab(tmp_path, rows=[]).engine)


@pytest.mark.slow
def test_either_engine_corrects_what_the_other_quarantined(it, spark):
    """A requeue, a discard and a rebuild on Spark end in the same tables."""
    known = ids(it)
    on_spark = replace(it.work, engine=spark)
    done = corrections.requeue(on_spark, T, rule="positive", patch=["w = abs(w)"])
    assert (done.asked, done.woven, [row["id"] for row in done.still_broken]) == (2, 1, [4])
    corrections.discard(on_spark, T, [known[2]])
    expected = [[(1, 1, 1.0), (3, 3, 1.5)], [(4, 4, None, ["positive"])]]
    assert tables(it) == expected
    assert figures(it.run("silver.t", rebuild=True, engine=spark)) == (4, 2, 1, 1)
    assert tables(it) == expected
    assert ids(it) == {4: known[4]}
