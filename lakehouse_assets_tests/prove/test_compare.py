"""Comparing lakes: nothing that differs is called equal, and nothing else is called different."""

from __future__ import annotations

from typing import Any

import pytest

from lakehouse_assets.prove.compare import difference

NAN = float("nan")


def table(*rows: tuple, exact: bool = True, types: tuple[str, ...] = ("int64", "double")) -> dict[str, Any]:
    """A table as a child reports it."""
    return {"names": ["k", "v"], "types": list(types), "rows": sorted(rows, key=repr), "exact": exact}


def answer(found: dict[str, Any], end: object = None, moved: tuple[str, ...] = (), **feed: int) -> dict[str, Any]:
    """A report of one table and its feed."""
    numbers = {"carried": 2, "planned": 2} | feed
    return {"moved": list(moved), "feeds": [{"feed": "f", "end": end, **numbers}], "tables": {"bronze.t": found}}


def told(clean: dict[str, Any], found: dict[str, Any]) -> str | None:
    """The difference of two tables."""
    return difference(answer(clean), answer(found))


def test_order_is_no_difference_and_rows_are_counted() -> None:
    """A table is a multiset of rows: NaN equals NaN, and a row that is there twice is not there once."""
    assert told(table((1, NAN), (2, 0.5)), table((2, 0.5), (1, NAN))) is None
    assert "3 rows, not 2; 0 missing, 1 too many, too many: {'k': 2, 'v': 0.5}" in str(
        told(table((1, 1.0), (2, 0.5)), table((1, 1.0), (2, 0.5), (2, 0.5)))
    )


@pytest.mark.parametrize(
    ("one", "two"),
    [((1, None), (1, 0.0)), ((1, 0.0), (1, -0.0)), ((1, 1.0), (1, 1)), ((1, "1"), (1, 1)), ((1, NAN), (1, None))],
)
def test_values_differ_by_type_sign_and_null(one: tuple, two: tuple) -> None:
    """NULL is not zero, zero is not minus zero, a number is not its text."""
    assert "1 missing, 1 too many" in str(told(table(one), table(two)))


def test_columns_and_types_are_compared() -> None:
    """Equal rows in columns of another type or name are a difference."""
    assert "columns ['int64', 'string']" in str(told(table(), table(types=("int64", "string"))))


def test_a_table_that_is_missing_or_left_over_is_named() -> None:
    """Both sides have the same tables."""
    empty = answer(table())
    bare = {**empty, "tables": {}}
    assert difference(empty, bare) == "bronze.t is missing"
    assert difference(bare, empty) == "bronze.t should not be there"


def test_the_last_digits_of_sums_are_no_difference() -> None:
    """Where floats may be sums, their last digits depend on the order of rows; where they are not, every bit counts."""
    clean, found = ((1, 0.1 + 0.2), (2, NAN), (3, 5.0)), ((1, 0.3), (2, NAN), (3, 5.0))
    assert told(table(*clean, exact=False), table(*found, exact=False)) is None
    assert "1 missing, 1 too many" in str(told(table(*clean), table(*found)))
    assert "1 missing" in str(told(table((1, 0.3), exact=False), table((1, 0.3001), exact=False)))
    assert "1 missing" in str(told(table((1, 0.3), exact=False), table((2, 0.3), exact=False)))


def test_plans_and_numbers_agree() -> None:
    """A batch that is planned and not made, another end of what was read, and a write that never rests are told."""
    assert "carries batch 2, and its plans end with 3" in str(difference(answer(table()), answer(table(), planned=3)))
    assert "has read up to 5, not 4" in str(difference(answer(table(), end=4), answer(table(), end=5)))
    assert "a further run wrote gold.x" in str(difference(answer(table()), answer(table(), moved=("gold.x",))))


def test_a_run_that_fails_after_the_kill_is_a_difference() -> None:
    """What stops the run that mends is told in its words."""
    assert difference(answer(table()), {"error": "it is broken"}) == "the run after the kill failed: it is broken"


def test_a_partition_that_only_one_side_has_is_told() -> None:
    """Each partition is a feed of its own, and a kill may leave one that a clean run does not make."""
    clean, found = answer(table((1, 1.0))), answer(table((1, 1.0)))
    found["feeds"].append({"feed": "f//2024-01-02", "end": None, "carried": 1, "planned": 2})
    assert difference(clean, found) == "f//2024-01-02 carries batch 1, and its plans end with 2"
