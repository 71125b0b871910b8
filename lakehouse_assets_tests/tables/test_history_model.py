"""Tests of the model of history itself: by hand, and by what must hold of any history."""

from __future__ import annotations

import random

import pytest

from lakehouse_assets_tests.tables.history_cases import CASES, TABLES, batches, shown
from lakehouse_assets_tests.tables.history_lab import check_invariants, declared, expected, of, random_events, rm, up
from lakehouse_assets_tests.tables.history_model import (
    APPLIED,
    FILTERED,
    QUARANTINED,
    RETRACTED,
    SUPERSEDED,
    answer,
    plain,
    rank,
)

EVENTS = [row for rows in batches() for row in rows]


@pytest.mark.parametrize("name", CASES)
def test_the_model_says_what_a_person_says(name):
    """Spec changes 5.2, 5.5: rows and quarantine of every case, worked out by hand."""
    case = CASES[name]
    events = of(name, *(event for batch in case.batches for event in batch))
    for order in (events, events[::-1]):
        found = answer(TABLES[case.table][1], order)
        assert expected(found.rows, *case.shown) == expected(
            [dict(zip(case.shown, row, strict=True)) for row in case.rows], *case.shown
        )
        broken = sorted(
            ((order[n]["ts"], reason) for n, reasons in found.reasons.items() for reason in reasons), key=repr
        )
        assert broken == sorted(case.broken, key=repr)


def test_every_event_has_a_fate():
    """Each event of all cases is one of applied, superseded, quarantined, filtered, retracted."""
    for _, declaration in TABLES.values():
        found = answer(declaration, EVENTS, retracted={3, 5})
        assert found.fates.keys() == set(range(len(EVENTS)))
        assert [found.fates[n] for n in (3, 5)] == [RETRACTED, RETRACTED]
        assert set(found.fates.values()) <= {APPLIED, SUPERSEDED, QUARANTINED, FILTERED, RETRACTED}


def test_fates_of_type_2():
    """A copy and what a delete beats are superseded; everything else that counts is applied."""
    events = of(
        "k", up(5, "x"), up(5, "x"), up(9, "x"), rm(12), up(12, "y"), rm(15), up(20, "y"), up(20, "z"), up(None)
    )
    found = answer(declared(), events)
    assert [found.fates[n] for n in range(9)] == [
        APPLIED, SUPERSEDED, APPLIED, APPLIED, SUPERSEDED, APPLIED, QUARANTINED, QUARANTINED, QUARANTINED,
    ]  # fmt: skip


def test_fates_of_type_1():
    """What is older than the event that decides is superseded."""
    found = answer(declared(scd=1), of("k", up(9, "y"), up(5, "x"), rm(7), up(9, "y")))
    assert [found.fates[n] for n in range(4)] == [APPLIED, SUPERSEDED, SUPERSEDED, SUPERSEDED]


def test_a_retracted_event_counts_no_more():
    """Without the event that made another ambiguous, the other counts again."""
    events = of("k", up(5, "x"), up(5, "y"))
    assert answer(declared(), events).rows == []
    assert [row["a"] for row in answer(declared(), events, retracted={1}).rows] == ["x"]


def test_a_truncate_is_a_delete_of_every_key():
    """Type 2: what is open is closed; type 1: what is not newer is gone; the same sequence: the truncate wins."""
    events = [*of("k", up(5, "x"), up(20, "y")), *of("l", up(12, "z")), *of(None, up(12, op="t"), up(12, op="t"))]
    rows = answer(declared(), events).rows
    assert sorted((r["k"], r["a"], r["__START_AT"], r["__END_AT"]) for r in rows) == [
        ("k", "x", 5, 12),
        ("k", "y", 20, None),
    ]
    found = answer(declared(scd=1), events)
    assert [(r["k"], r["a"]) for r in found.rows] == [("k", "y")]
    assert [found.fates[n] for n in range(5)] == [SUPERSEDED, APPLIED, SUPERSEDED, APPLIED, SUPERSEDED]


def test_values_that_are_equal():
    """NaN is NaN, 0.0 is -0.0, a NULL struct is no struct of NULLs; NULL sorts first, NaN last."""
    assert plain(float("nan")) == plain(float("nan"))
    assert plain([-0.0]) == plain([0.0])
    assert plain(None) != plain({"x": None})
    values = [float("nan"), float("inf"), -1.0, None]
    assert sorted(values, key=rank)[:3] == [None, -1.0, float("inf")]
    assert rank({"a": 1, "b": None}) < rank({"a": 1, "b": 0}) < rank({"a": 2, "b": None})


@pytest.mark.parametrize("name", TABLES)
def test_what_holds_of_any_history(name):
    """Spec changes 5.2: periods of a key do not overlap or are empty, one is open at most, equal neighbours never touch."""
    declaration = TABLES[name][1]
    for seed in range(60):
        chance = random.Random(seed)
        events = random_events(chance, "k")
        found = answer(declaration, events)
        check_invariants(declaration, found.rows)
        again = [*events, *events[:4]]
        chance.shuffle(again)
        assert expected(answer(declaration, again).rows, *shown(name)) == expected(found.rows, *shown(name))
