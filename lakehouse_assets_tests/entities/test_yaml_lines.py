"""YAML with lines, and without guesses."""

from __future__ import annotations

import pytest

from lakehouse_assets.entities.yaml_lines import Expansion, read


@pytest.mark.parametrize(
    "text", ["012", "1.10", "on", "no", "yes", "2024-01-31", "1_000", "0x1f", "1e3", "12:30:45", "=", "y"]
)
def test_yaml_does_not_guess(text):
    """`012`, `on`, `no` and dates stay the text that was written."""
    assert read(f"a: {text}\n").data == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("FALSE", False), ("~", None), ("null", None), ("", None)]
)
def test_what_is_no_text(text, value):
    """Only booleans and null are more than text."""
    assert read(f"a: {text}\n").data == {"a": value}


def test_quoted_words_are_text():
    """`"true"` in quotes is text."""
    assert read('a: "true"\n').data == {"a": "true"}


def test_every_value_has_its_line():
    """Keys and list items know their line; what has none of its own is found by what is around it."""
    document = read("top:\n  - id: 1\n    keys:\n      - a\n      - b\n  - id: 2\n")
    assert document.line(("top", 0, "keys", 1)) == 5
    assert document.line(("top", 1)) == 6
    assert document.line(("top", 1, "missing", "deeper")) == 6
    assert document.line(("nowhere",)) == 1


def test_a_key_given_twice_is_told_with_both_lines():
    """YAML would keep the last one in silence."""
    (trouble,) = read("a: 1\nb: 2\na: 3\n").troubles
    assert (trouble.line, trouble.problem) == (3, "the key 'a' is given twice (first in line 1)")


@pytest.mark.parametrize(
    "text", ["a: [1", "a: b: c", "\ta: 1", "a: &x", "- *nowhere", "a: !!python/object:os.system x"]
)
def test_text_that_is_no_yaml(text):
    """Syntax errors, unknown anchors and foreign tags are told with a line."""
    document = read(text)
    assert document.troubles or document.data == {"a": None}
    assert all(trouble.line >= 1 for trouble in document.troubles)


def test_an_anchor_that_holds_itself_is_refused():
    """Endless data is told, not followed."""
    assert read("a: &x\n  b: *x\n").troubles


def test_anchors_and_merges_work():
    """Parts that repeat may be written once."""
    document = read("base: &b {x: one}\nother:\n  <<: *b\n  y: two\n")
    assert document.data["other"] == {"x": "one", "y": "two"}


def test_a_nest_of_aliases_is_walked_once():
    """Aliases of aliases do not multiply the work."""
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    assert not read("\n".join(lines)).troubles


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}/x", "one/x"),
        ("${A:-z}", "one"),
        ("${B:-z}", "z"),
        ("${EMPTY:-z}", "z"),
        ("${EMPTY}", ""),
        ("${B:-}", ""),
        ("$${A}", "${A}"),
        ("${secret:A}", "${secret:A}"),
        ("$A", "$A"),
        ("cost: $5", "cost: $5"),
    ],
)
def test_variables_are_expanded(text, value):
    """`${VAR}` and `${VAR:-default}`; `$${` stands for `${`; secrets stay references."""
    assert Expansion({"A": "one", "EMPTY": ""})(text) == (value, [])


@pytest.mark.parametrize("text", ["${B}", "${}", "${1A}", "${A B}"])
def test_variables_that_cannot_be_expanded(text):
    """A variable that is not set and has no default, or is none, is a fault."""
    value, problems = Expansion({"A": "one"})(text)
    assert value == text
    assert len(problems) == 1


def test_the_used_variables_are_remembered():
    """A snapshot of the catalog takes them along, and no others."""
    expansion = Expansion({"A": "one", "B": "two"})
    expansion("${A} ${C:-x}")
    assert expansion.used == {"A": "one"}
