"""Tests of what feeds a table with history: several feeds, snapshots, late events, rules, and what stocks got wrong."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta

import pytest

from lakehouse_assets.errors import CatalogError, ExpectationFailed, LakehouseError
from lakehouse_assets_tests.tables.history_lab import (
    ALL,
    PERIOD,
    REBUILD,
    history,
    lab,
    landed,
    of,
    rm,
    up,
)
from lakehouse_assets_tests.tables.history_lab import embedded as embedded  # a fixture
from lakehouse_assets_tests.tables.history_lab import engine as engine  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


TWO = (
    landed("one", "bronze.one"),
    landed("two", "bronze.two"),
    history(feed="first", source="bronze.one"),
    history(feed="second", source="bronze.two"),
)


def test_two_flows_into_one_target(tmp_path, engine):
    """Spec changes 5.2: several feeds make one history, whichever came first; each goes on by itself."""
    it = lab(tmp_path, engine, *TWO)
    it.feed("one", of("k", up(5, "x"), up(20, "z")))
    it.feed("two", of("k", up(12, "y")))
    it.run()
    assert it.found("silver.t", *PERIOD) == [("k", "x", 5, 12), ("k", "y", 12, 20), ("k", "z", 20, None)]
    it.feed("two", of("k", rm(15), up(20, "other")))
    it.run()
    assert it.found("silver.t", *PERIOD) == [("k", "x", 5, 12), ("k", "y", 12, 15)]
    assert it.found("silver.t_quarantine", "a", "_feed") == [("other", "second"), ("z", "first")]


def test_a_flow_that_is_added_later(tmp_path, embedded):
    """A second feed may join a table that is there."""
    it = lab(tmp_path, embedded, *TWO[:3])
    it.feed("one", of("k", up(5, "x")))
    it.run()
    it.redeclare(*TWO)
    it.feed("two", of("k", up(3, "w")))
    it.run()
    assert it.found("silver.t", *PERIOD) == [("k", "w", 3, 5), ("k", "x", 5, None)]


def test_two_flows_without_names_are_refused(tmp_path, embedded):
    """Feeds of one table need names of their own."""
    with pytest.raises(CatalogError, match="flow_name"):
        lab(
            tmp_path,
            embedded,
            *TWO[:2],
            history(source="bronze.one"),
            history(source="bronze.two") | {"entity_id": "u"},
        )


def test_once(tmp_path, embedded):
    """D3: a feed with `once` is read once, also when there is more; the other feed goes on, a rebuild keeps all."""
    backfill = history(feed="first", source="bronze.one", once=True)
    it = lab(tmp_path, embedded, *TWO[:2], backfill, TWO[3])
    it.feed("one", of("k", up(5, "x")))
    it.feed("two", of("k", up(9, "y")))
    it.run()
    it.feed("one", of("k", up(7, "never")))
    it.feed("two", of("k", up(12, "z")))
    it.run()
    want = [("k", "x", 5, 9), ("k", "y", 9, 12), ("k", "z", 12, None)]
    assert it.found("silver.t", *PERIOD) == want
    it.run("silver.t", rebuild=True)
    assert it.found("silver.t", *PERIOD) == want
    assert it.run() == []


def test_a_full_refresh_after_another_upstream_reads_that_too(tmp_path, embedded):
    """Spec changes 5.2: an upstream that was made again is refused; a rebuild appends it to the log, copies collapse."""
    it = lab(tmp_path, embedded)
    it.batch(*of("k", up(5, "x"), up(9, "y")))
    shutil.rmtree(tmp_path / "lake" / "bronze")
    it.run("bronze.events", rebuild=True)
    it.feed("stream", of("k", up(12, "z")))
    it.run("bronze.events")
    with pytest.raises(LakehouseError, match=REBUILD):
        it.run("silver.t")
    it.run("silver.t", rebuild=True)
    assert it.found("silver.t", *PERIOD) == [("k", "x", 5, 9), ("k", "y", 9, 12), ("k", "z", 12, None)]
    assert it.run() == []


def test_what_reads_the_target_follows_its_rewrites(tmp_path, engine):
    """Spec changes 5.2: late data rewrites the target; a table that reads it ends with its rows."""
    follows = {"entity_id": "g", "source": "silver.t", "source_format": "dlt", "destination": "gold.g"}
    query = {
        "entity_id": "q",
        "source": "SELECT k, count(*) AS n FROM silver.t GROUP BY k",
        "source_format": "sql",
        "destination": "gold.q",
    }
    it = lab(tmp_path, engine, history(), follows, query)
    it.batch(*of("k", up(5, "x"), up(20, "z")), *of("l", up(1, "v")))
    it.batch(*of("k", up(12, "y")))
    assert it.found("gold.g", *PERIOD) == it.found("silver.t", *PERIOD)
    assert len(it.found("gold.g")) == 4
    assert it.found("gold.q", "k", "n") == [("k", 3), ("l", 1)]


SNAPSHOTS = history(lakehouse={"history": {"snapshots": True}}, apply_as_deletes=None)


def extract(at, **rows):
    """A complete extract."""
    return [{"k": k, **up(at, a)} for k, a in rows.items()]


def test_snapshots(tmp_path, engine):
    """Spec changes 5.2: a key that is absent from an extract is deleted then; several extracts in one batch are in order."""
    it = lab(tmp_path, engine, SNAPSHOTS)
    it.batch(*extract(1, k="x", l="y"))
    it.batch(*extract(3, k="z"), *extract(2, k="x", m="v"))
    it.batch(*extract(4, k="z", l="w"))
    want = [("k", "x", 1, 3), ("k", "z", 3, None), ("l", "y", 1, 2), ("l", "w", 4, None), ("m", "v", 2, 3)]
    assert it.found("silver.t", *PERIOD) == sorted(want, key=repr)
    rows = it.found("silver.t__changes", "k", "_operation", "_sequence")
    assert [row for row in rows if row[1] == "delete"] == [("l", "delete", 2), ("m", "delete", 3)]
    assert it.run() == []
    it.run("silver.t", rebuild=True)
    assert it.found("silver.t", *PERIOD) == sorted(want, key=repr)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (extract(2, k="y"), "newer|older|order"),
        (extract(1, k="y"), "newer|older|order"),
        ([*extract(3, k="y"), *extract(3, k="z")], "twice|duplicate|several|more than once"),
        ([*extract(3, k="y"), *extract(3, k="y")], "twice|duplicate|several|more than once"),
    ],
    ids=["the same again", "an older one", "a key twice", "a row twice"],
)
def test_snapshots_that_are_refused(tmp_path, embedded, rows, message):
    """Spec changes 5.2: extracts come in order, and hold a key once; nothing is written."""
    it = lab(tmp_path, embedded, SNAPSHOTS)
    it.batch(*extract(2, k="x"))
    before = it.versions(*ALL)
    it.feed("stream", rows)
    with pytest.raises(LakehouseError, match=message):
        it.run()
    assert it.versions(*ALL) == before


TIMED = "id BIGINT, k STRING, ts TIMESTAMP, op STRING, a STRING, b BIGINT"


def test_the_horizon(tmp_path, engine):
    """Spec changes 5.2, F20: what is older than the newest of earlier batches less the horizon goes to quarantine."""
    it = lab(tmp_path, engine, history(lakehouse={"horizon": "2 days"}), columns=TIMED)
    days = [datetime.fromisoformat("2024-01-01T12:00:00+00:00") + timedelta(days=n) for n in range(12)]
    it.batch(*of("k", up(days[10], "z"), up(days[0], "w")))  # nothing is there that it could be older than
    it.batch(*of("k", up(days[8], "y"), up(days[8] - timedelta(seconds=1), "late")), *of("l", rm(days[2])))
    assert it.found("silver.t", "a", "__START_AT", "__END_AT") == [
        ("w", days[0], days[8]),
        ("y", days[8], days[10]),
        ("z", days[10], None),
    ]
    assert it.found("silver.t_quarantine", "k", "a", "_reasons") == [
        ("k", "late", ("beyond_horizon",)),
        ("l", None, ("beyond_horizon",)),
    ]
    rows = it.found("silver.t"), it.found("silver.t_quarantine", "k", "a", "_reasons")
    it.run("silver.t", rebuild=True)
    assert (it.found("silver.t"), it.found("silver.t_quarantine", "k", "a", "_reasons")) == rows


def test_a_horizon_needs_times(tmp_path, embedded):
    """A horizon over a sequence of numbers is refused; nothing is written."""
    with pytest.raises(LakehouseError, match="horizon"):
        lab(tmp_path, embedded, history(lakehouse={"horizon": "2 days"})).batch(*of("k", up(5, "x")))
    assert not (tmp_path / "lake" / "silver").exists()


RULES = {"expect_all": {"small": "b < 90", "odd": "b = 1 OR a = 'y'"}, "expect_all_or_drop": {"named": "a IS NOT NULL"}}


def ruled(quarantined, **given):
    """A table with rules."""
    return history(rules=RULES, quarantined=quarantined, **given)


def test_rules_send_events_to_quarantine(tmp_path, engine):
    """D42, D43, D44, D45, D46: judged before sequencing, NULL is broken, rules stand apart, all reasons are told."""
    it = lab(tmp_path, engine, ruled(True))
    it.batch(*of("k", up(5, "x", 1), up(9, "x", 95), up(12, "y", None), up(15, None, 2)))
    it.batch(*of("k", up(7, "y", 2), up(8, "x", 2)), *of("l", up(1, None, None)))
    assert it.found("silver.t", *PERIOD, "b") == [("k", "x", 5, 7, 1), ("k", "y", 7, None, 2)]
    assert it.found("silver.t_quarantine", "k", "ts", "_reasons") == [
        ("k", 12, ("small",)),
        ("k", 15, ("odd", "named")),
        ("k", 8, ("odd",)),
        ("k", 9, ("small", "odd")),
        ("l", 1, ("small", "odd", "named")),
    ]
    assert [u["b"] for (u,) in it.rows("silver.t_quarantine", "_upstream") if u["ts"] == 9] == [95]


def test_a_broken_event_makes_nothing_ambiguous(tmp_path, engine):
    """F1: what is in quarantine for a rule does not contradict what is right."""
    it = lab(tmp_path, engine, ruled(True))
    it.batch(*of("k", up(5, "x", 1), up(5, "x", 95)))
    assert it.found("silver.t", *PERIOD) == [("k", "x", 5, None)]
    assert it.found("silver.t_quarantine", "b", "_reasons") == [(95, ("small", "odd"))]


def test_rules_without_quarantine(tmp_path, embedded):
    """`expect_all` keeps and counts; `expect_all_or_drop` leaves the event out, and the log says so."""
    it = lab(tmp_path, embedded, ruled(False))
    outcome = it.batch(*of("k", up(5, "x", 1), up(9, "z", 95), up(12, None, 1)))[-1]
    assert it.found("silver.t", *PERIOD) == [("k", "x", 5, 9), ("k", "z", 9, None)]
    assert it.found("silver.t_quarantine") == []
    assert it.found("silver.t__changes", "ts", "_filtered", "_reasons") == [
        (12, True, ("named",)),
        (5, False, ()),
        (9, False, ()),
    ]
    assert {v.rule: v.broken for v in outcome.verdicts if v.broken} == {"small": 1, "odd": 1, "named": 1}


def test_or_fail_stops_before_any_write(tmp_path, embedded):
    """`expect_all_or_fail`: nothing is written."""
    it = lab(tmp_path, embedded, history(rules={"expect_all_or_fail": {"small": "b < 90"}}))
    it.batch(*of("k", up(5, "x", 1)))
    before = it.versions(*ALL)
    it.feed("stream", of("k", up(9, "y", 95)))
    with pytest.raises(ExpectationFailed, match="small"):
        it.run()
    assert it.versions(*ALL) == before


def test_a_failed_cast_always_goes_to_quarantine(tmp_path, engine):
    """A failed cast is never a silent NULL, whether it makes a value, a key or a sequence."""
    select = ["CAST(k AS INT) AS k", "ts", "op", "CAST(a AS INT) AS a"]
    it = lab(tmp_path, engine, history(select=select, except_column_list=["ts", "op"]))
    it.batch(*of("1", up(5, "7"), up(9, "x7")), *of("z", up(5, "7")))
    assert it.found("silver.t", *PERIOD) == [(1, 7, 5, None)]
    found = it.rows("silver.t_quarantine", "_upstream", "_reasons")
    assert sorted((u["k"], u["a"], set(why) & {"cast_failed:a", "cast_failed:k"}) for u, why in found) == [
        ("1", "x7", {"cast_failed:a"}),
        ("z", "7", {"cast_failed:k"}),
    ]


def test_where_comes_before_the_rules(tmp_path, embedded):
    """An event that is not taken breaks nothing: its fate is filtered."""
    it = lab(tmp_path, embedded, ruled(True, where="a != 'skip'"))
    it.batch(*of("k", up(5, "x", 1), up(9, "skip", 95)), *of(None, up(None, "skip", 1)))
    assert it.found("silver.t", *PERIOD) == [("k", "x", 5, None)]
    assert it.found("silver.t_quarantine", "a") == []
    assert it.found("silver.t__changes", "a", "_filtered") == [("skip", True), ("skip", True), ("x", False)]


def test_an_empty_quarantine_is_there_when_asked_for(tmp_path, embedded):
    """D46, D49: `is_quarantined` beside `apply_changes` makes a quarantine, empty where nothing is broken."""
    it = lab(tmp_path, embedded, ruled(True))
    it.batch(*of("k", up(5, "x", 1)))
    assert it.exists("silver.t_quarantine")
    assert it.found("silver.t_quarantine") == []


STOCKS = "id BIGINT, k STRING, ts DATE, op STRING, a STRING, b BIGINT"
FRIDAY = datetime(2021, 1, 1).date()


def close(day, price):
    """The close of a day."""
    return up(FRIDAY + timedelta(days=day), price)


def test_closes_of_an_index(tmp_path, embedded):
    """Q8-Q13: same close, older date, dates between, replay, NULL index, two closes of a date: none spoils the history."""
    it = lab(tmp_path, embedded, columns=STOCKS)
    it.batch(*of("HSI", close(4, "14"), close(2, "12"), close(3, "13")), *of("NYA", close(0, "7")))
    it.batch(*of("HSI", close(4, "14"), close(5, "14")), *of(None, close(0, "1")), *of("NYA", close(0, "7")))
    it.batch(*of("HSI", close(0, "10")), *of(None, close(0, "1")), *of("NYA", close(1, "8"), close(1, "9")))
    days = [FRIDAY + timedelta(days=n) for n in range(6)]
    assert it.found("silver.t", *PERIOD) == [
        ("HSI", "10", days[0], days[2]),
        ("HSI", "12", days[2], days[3]),
        ("HSI", "13", days[3], days[4]),
        ("HSI", "14", days[4], None),
        ("NYA", "7", days[0], None),
    ]
    assert it.found("silver.t_quarantine", "k", "a", "_reasons") == [
        ("NYA", "8", ("ambiguous_sequence",)),
        ("NYA", "9", ("ambiguous_sequence",)),
        (None, "1", ("null_key",)),
        (None, "1", ("null_key",)),
    ]


def test_history_does_not_depend_on_batches(tmp_path, embedded):
    """Q11, Q12: all closes at once, or one a day: the same versions, and none of them knows when it was loaded."""
    rows = of("HSI", *(close(n, f"{n // 2}") for n in range(6)))
    it = lab(tmp_path / "one", embedded, columns=STOCKS)
    it.batch(*rows)
    other = lab(tmp_path / "many", embedded, columns=STOCKS)
    for row in rows[::-1]:
        other.batch(row)
    assert other.found("silver.t") == it.found("silver.t")
    assert len(it.found("silver.t")) == 3


def test_one_open_row_of_a_key_that_comes_twice(tmp_path, embedded):
    """D14: the same key twice in one batch, new or known, leaves one open row."""
    it = lab(tmp_path, embedded)
    it.batch(*of("k", up(5, "x"), up(6, "y")))
    it.batch(*of("k", up(7, "z"), up(8, "w")))
    assert [row for row in it.found("silver.t", *PERIOD) if row[-1] is None] == [("k", "w", 8, None)]
    assert len(it.found("silver.t")) == 4
