"""Tests of the error tree: drawn, terminal or transient, with facts that survive, and messages that help."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from lakehouse_assets import errors
from lakehouse_assets.errors import (
    CatalogError,
    LakehouseError,
    SettingsError,
    TerminalError,
    TransientError,
    did_you_mean,
)

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, LakehouseError)]


def drawn() -> dict[str, str]:
    """Class name -> the name of the class it stands under, in the drawing of the module."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"(?P<indent>[ │├└─]*)(?P<name>[A-Z]\w+)(\s{2,}|$)", line)
        if not match or not hasattr(errors, match["name"]):
            continue
        depth = len(match["indent"])
        above = [(d, name) for d, name in above if d < depth]
        parents[match["name"]] = above[-1][1] if above else "Exception"
        above.append((depth, match["name"]))
    return parents


def test_the_tree_is_drawn_as_it_is():
    """The drawing in the module shows every class under its base, and nothing else."""
    assert drawn() == {cls.__name__: cls.__base__.__name__ for cls in CLASSES}


@pytest.mark.parametrize("cls", [c for c in CLASSES if c is not LakehouseError], ids=lambda cls: cls.__name__)
def test_every_class_is_terminal_or_transient(cls):
    """Whether a retry can help is a matter of the class, and of one of the two only."""
    assert issubclass(cls, TerminalError) != issubclass(cls, TransientError)
    assert cls.transient is issubclass(cls, TransientError)
    assert cls.__doc__.strip()


def test_a_message_names_thing_value_choices_and_next_step():
    """In this order; the nearest legal value is pointed out."""
    error = SettingsError("the engine is unknown", value="sprak", choices=("embedded", "spark"), fix="set --engine")
    assert str(error) == (
        "the engine is unknown (got 'sprak')\n  legal: embedded, spark (did you mean 'spark'?)\n  next: set --engine"
    )


def test_parts_that_are_not_given_are_left_out():
    """A sentence alone is a legal error; so is an empty text as the value."""
    assert str(SettingsError("wrong")) == "wrong"
    assert str(SettingsError("wrong", value="")) == "wrong (got '')"
    assert str(SettingsError("wrong", value=0, choices=[1, 2])) == "wrong (got 0)\n  legal: 1, 2"


@pytest.mark.parametrize(
    ("value", "hint"), [("bronz.t", " (did you mean 'bronze.t'?)"), ("bronze.t", ""), ("xyz", ""), (None, "")]
)
def test_the_nearest_choice_is_pointed_out(value, hint):
    """Only where one is near, and not the value itself."""
    assert did_you_mean(value, ["bronze.t", "silver.u"]) == hint


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_survives_pickling_and_copying(cls):
    """Facts and message reach another process as they were."""
    error = cls("a problem", value={"a": 1}, choices=("x", "y"), fix="do this", version=7, faults=[("f", 1)])
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls
        assert str(again) == str(error)
        assert (again.value, again.choices, again.fix, again.facts) == (
            error.value,
            error.choices,
            error.fix,
            {"version": 7, "faults": [("f", 1)]},
        )


def test_facts_are_there_for_callers():
    """What a caller may want to read back stands in `facts`, not in the text."""
    error = CatalogError("2 faults", faults=["one", "two"])
    assert error.facts == {"faults": ["one", "two"]}
    assert str(error) == "2 faults"
