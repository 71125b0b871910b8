"""What each event of a key did, in words, and the timeline of a key: over plain values."""

from __future__ import annotations

from typing import Any

import pytest

from lakehouse_assets.serve.effects import Fact, explained, fact_of, intervals_of, timeline_of, with_truncates
from lakehouse_assets.serve.timeline import Interval, Mark
from lakehouse_assets.sql.scd import Shape

SHAPE = Shape(("id",), ("_sequence",), ("ts",), ("id", "name"))


def fact(sequence: Any, effect: str = "opened", opens: Any = None, **more: Any) -> Fact:
    """An applied upsert, the n-th that came if `logged` is n."""
    operation = "delete" if effect == "closed" else "upsert"
    opens = sequence if effect == "opened" and opens is None else opens
    given = {"event": f"e{sequence}", "kind": "event", "operation": operation, "fate": "applied", "logged": 0}
    return Fact(**given | {"sequence": sequence, "effect": effect, "opens": opens} | more)


def spans(*spans: tuple[Any, Any]) -> list[Interval]:
    """Rows (start, end)."""
    return [Interval(start, end, {}) for start, end in spans]


def effects(facts: list[Fact], rows: list[Interval]) -> list[str]:
    """What is said of each fact."""
    return [line.effect for line in explained(facts, rows)]


def test_an_upsert_opens_a_row_and_closes_the_one_before() -> None:
    """Both are said, with their ranges."""
    said = effects([fact(5, logged=1), fact(9, logged=2)], spans((5, 9), (9, None)))
    assert said == ["opened [5, 9)", "opened [9, …), closed [5, 9)"]


def test_a_delete_closes_a_row() -> None:
    """And leaves a gap up to the next one, if there is one."""
    facts = [fact(5), fact(9, "closed", opens=5), fact(12), fact(20, "closed", opens=12)]
    said = effects(facts, spans((5, 9), (12, 20)))
    assert said[1] == "closed [5, 9), no row until 12"
    assert said[3] == "closed [12, 20)"


def test_a_run_is_extended_and_its_last_event_gives_the_values() -> None:
    """Upserts that change nothing that is tracked extend the row; the last one's values show."""
    said = effects([fact(5), fact(10, "extended", opens=5), fact(15, "extended", opens=5)], spans((5, None)))
    assert said == ["opened [5, …)", "extended [5, …)", "extended [5, …), its values show"]


def test_a_late_event_splits_a_closed_row() -> None:
    """It came after events on both sides of it, and an upsert before it: what was one row is two and more."""
    said = effects([fact(5, logged=1), fact(20, logged=2), fact(12, logged=3)], spans((5, 12), (12, 20), (20, None)))
    assert said[1] == "split a row: [5, 12) ends here, opened [12, 20)"


def test_late_bob_splits_the_run_of_alice() -> None:
    """5.2: late 12 Bob in Alice's run of 5, 10 and 15; 15, which extended it, opens a row now."""
    facts = [
        fact(5, logged=1), fact(10, "extended", opens=5, logged=1), fact(15, logged=2), fact(20, logged=2),
        fact(12, logged=3),
    ]  # fmt: skip
    said = effects(facts, spans((5, 12), (12, 15), (15, 20), (20, None)))
    assert said[2] == "split a row: [5, 12) ends here, opened [12, 15)"
    assert said[3] == "opened [15, 20), closed [12, 15)"


def test_a_late_delete_splits_a_row() -> None:
    """The row ends there, and the next one keeps its start."""
    facts = [fact(5, logged=1), fact(20, logged=1), fact(12, "closed", opens=5, logged=2)]
    assert effects(facts, spans((5, 12), (20, None)))[1] == "split a row: closed [5, 12), no row until 20"


@pytest.mark.parametrize(
    "facts",
    [
        [fact(20, logged=1), fact(12, logged=2)],  # before the first row
        [fact(5, logged=1), fact(8, "closed", opens=5, logged=1), fact(20, logged=1), fact(12, logged=2)],  # in a gap
        [fact(5, logged=1), fact(12, logged=1), fact(20, logged=1)],  # in one batch
        [fact(5, logged=1), fact(12, logged=2), fact(20, logged=3)],  # in order
    ],
)
def test_an_event_that_hits_no_row_splits_none(facts: list[Fact]) -> None:
    """Before the first row, in a gap, in one batch with its neighbours or in order: a row is opened, none is split."""
    said = {line.sequence: line.effect for line in explained(facts, spans((5, 8), (12, 20), (20, None)))}
    assert said[12] == "opened [12, 20)"


def test_what_came_into_a_gap_split_nothing_though_a_row_ends_there_now() -> None:
    """12 came into the gap after the delete of 8; 10, whose row it ends, came after it."""
    facts = [
        fact(5, logged=1), fact(8, "closed", opens=5, logged=1), fact(20, logged=1), fact(12, logged=2), fact(10, logged=3),
    ]  # fmt: skip
    said = effects(facts, spans((5, 8), (10, 12), (12, 20), (20, None)))
    assert said[3] == "opened [12, 20), closed [10, 12)"


def test_what_never_counted_splits_nothing() -> None:
    """Events that were not applied are no neighbours."""
    facts = [fact(5, logged=1), fact(20, logged=1, fate="retracted"), fact(12, logged=2)]
    assert effects(facts, spans((5, 12), (12, None)))[1] == "opened [12, …), closed [5, 12)"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"fate": "superseded", "why": "a delete has the same sequence"},
            "not visible: a delete has the same sequence",
        ),
        ({"fate": "quarantined", "why": "amount_positive"}, "not visible: amount_positive"),
        ({"fate": "retracted"}, "not visible: retracted"),
        ({"effect": "none", "operation": "delete"}, "no effect: there was no row to close"),
        ({"kind": "correction", "refers": "e4"}, "opened [5, …), corrects e4"),
        ({"kind": "retracted", "refers": "e4", "fate": "retracted"}, "not visible: e4 was retracted"),
        ({"operation": "delete"}, "opened [5, …) as deleted"),
        ({"opens": 3}, "opened a row that the table does not show yet: it has to be run"),
    ],
)
def test_what_is_said_of_an_event(given: dict[str, Any], said: str) -> None:
    """Why it does not show, what it corrects, that it left a row marked as deleted."""
    assert effects([fact(5, **given)], spans((5, None))) == [said]


def test_type_1_deletes_the_row() -> None:
    """A table without starts and ends has no range to close."""
    assert effects([fact(5, "closed", opens=None)], []) == ["deleted the row"]


def test_events_stand_in_the_order_of_sequences_and_of_arrival() -> None:
    """NULL first; those of one sequence as they came."""
    facts = [
        fact(9, logged=1),
        fact(5, logged=3, event="b"),
        fact(5, logged=2, event="c"),
        fact(None, fate="quarantined"),
    ]
    assert [line.event for line in explained(facts, spans((5, None)))] == ["eNone", "c", "b", "e9"]


def test_many_events_are_explained_fast() -> None:
    """Twenty thousand late events take a moment, not a square of it."""
    facts = [fact(n, logged=-n) for n in range(20_000)]
    rows = spans(*((n, n + 1) for n in range(20_000)))
    assert explained(facts, rows)[9].effect == "opened [9, 10), closed [8, 9)"


# rows


def log_row(**given: Any) -> dict[str, Any]:
    """A row of the log with its fate."""
    return {
        "id": 1, "name": "Ada", "_fact": "event", "_event": "e5", "_refers": None, "_operation": "upsert",
        "_sequence": 5, "_filtered": False, "_reasons": [], "_upstream": None, "_feed": "f", "_batch": 3,
        "_origin": "edge1 120", "_logged": 7, "_fate": "applied", "_why": None, "_effect": "opened", "_opens": 5,
    } | given  # fmt: skip


def test_a_row_of_the_log_is_a_fact() -> None:
    """All that is explained is taken from it; the reasons where no other word is said."""
    assert fact_of(log_row(), SHAPE) == fact(5, feed="f", batch=3, origin="edge1 120", logged=7)
    broken = fact_of(log_row(_fate="quarantined", _reasons=["a", "b"], _effect=None), SHAPE)
    assert (broken.why, broken.effect) == ("a, b", "none")


def test_a_sequence_of_several_columns_has_their_names() -> None:
    """As `__START_AT` has them, so that both compare."""
    shape = Shape(("id",), ("_sequence_1", "_sequence_2"), ("day", "n"), ("id", "name"))
    found = fact_of(log_row(_sequence_1=2, _sequence_2=None, _opens={"day": 2, "n": None}), shape)
    assert found.sequence == found.opens == {"day": 2, "n": None}


def test_rows_become_intervals() -> None:
    """Type 2: start and end as they are called, in order, without the keys; the flag of soft deletes is a value."""
    shape = Shape(("id",), ("_sequence",), ("ts",), ("id", "name"), start="since", end="until", soft="gone")
    rows = [
        {"id": 1, "name": name, "gone": False, "since": a, "until": b} for name, a, b in [("B", 9, None), ("A", 5, 9)]
    ]
    assert intervals_of(rows, shape, []) == (
        Interval(5, 9, {"name": "A", "gone": False}),
        Interval(9, None, {"name": "B", "gone": False}),
    )


def test_a_row_of_type_1_began_with_the_event_that_decided() -> None:
    """It has no start of its own."""
    shape = Shape(("id",), ("_sequence",), ("ts",), ("id", "name"), scd=1)
    facts = [fact(5, fate="superseded"), fact(9), fact(12, fate="quarantined")]
    assert intervals_of([{"id": 1, "name": "Ada"}], shape, facts) == (Interval(9, None, {"name": "Ada"}),)


def test_events_that_do_not_show_are_marks() -> None:
    """Those that were not applied, and those that changed nothing, each with the reason."""
    facts = [
        fact(5), fact(7, "extended", opens=5), fact(8, "none", operation="delete", origin="edge1 4"),
        fact(9, fate="quarantined", why="ambiguous_sequence"),
    ]  # fmt: skip
    assert timeline_of({"id": 1}, spans((5, None)), facts).marks == (
        Mark(8, "delete", "applied", "e8", "edge1 4", "there was no row to close"),
        Mark(9, "upsert", "quarantined", "e9", "", "ambiguous_sequence"),
    )


def test_a_truncate_that_closed_a_row_is_told() -> None:
    """It belongs to no key: only one that did something to this key has a line."""
    truncates = [fact(n, "none", operation="truncate") for n in (3, 9, 11)]
    rows = spans((5, 9), (12, None))
    facts = with_truncates([fact(5), fact(12)], truncates, rows)
    said = [(line.sequence, line.operation, line.effect) for line in explained(facts, rows)]
    assert said == [
        (5, "upsert", "opened [5, 9)"), (9, "truncate", "closed [5, 9), no row until 12"), (12, "upsert", "opened [12, …)"),
    ]  # fmt: skip


def test_a_truncate_takes_a_row_of_type_1_away() -> None:
    """The event that decided counts no more, and says why."""
    decided = fact(5, "none", fate="superseded", why="a later event decides")
    facts = with_truncates([decided], [fact(9, "none", operation="truncate")], [])
    assert [(line.fate, line.effect) for line in explained(facts, [])] == [
        ("superseded", "not visible: a truncate came after it"),
        ("applied", "deleted the row"),
    ]
