"""Patterns that both engines read alike."""

from __future__ import annotations

import pytest

from lakehouse_assets.errors import SqlError
from lakehouse_assets.sql.patterns import like, matches_empty, moment, regex, replacement


@pytest.mark.parametrize(
    ("java", "portable"),
    [
        ("^[0-9]+$", "^[0-9]+\\z"),
        ("a.c", "a[^\\n]c"),
        ("\\d\\D", "[0-9][^0-9]"),
        ("[\\w.-]+", "[a-zA-Z0-9_.-]+"),
        ("\\s", "[ \\t\\n\\x0B\\f\\r]"),
        ("(a|b){1,3}?(?:c)", "(a|b){1,3}?(?:c)"),
        ("\\.\\$", "\\.\\$"),
    ],
)
def test_a_pattern_is_made_portable(java, portable):
    r"""`.`, `$`, `\\d`, `\\w` and `\\s` differ between Java and RE2; they are written out."""
    assert regex(java) == portable


@pytest.mark.parametrize(
    "java",
    ["(?=a)", "(?i)a", "(?<n>a)", "\\bword", "a*+", "\\1", "\\p{L}", "[a[b]]", "[a&&b]", "a{1001}", "a{", "(", "[", "a\\", "[]", "\\Qa"],
)  # fmt: skip
def test_what_the_engines_do_not_share_is_refused(java):
    """Look-around, flags, named groups, boundaries, possessive quantifiers and the like are refused by name."""
    with pytest.raises(SqlError):
        regex(java)


def test_replacements_use_groups_only():
    """`$1` is a group on both; a backslash or a lone `$` is refused."""
    assert replacement("<$1>") == "<\\1>"
    for odd in ("a\\b", "$", "$x", "$12"):
        with pytest.raises(SqlError):
            replacement(odd)


@pytest.mark.parametrize(("pattern", "empty"), [("a*", True), ("a+", False), ("(a|)", True), ("^", True)])
def test_empty_matches_are_seen(pattern, empty):
    """A pattern that matches the empty text replaces differently on the engines."""
    assert matches_empty(pattern) is empty


def test_like_escapes_must_mean_something():
    """Spark raises where an escape character stands before an ordinary letter."""
    assert like("100\\%", "\\") == "100\\%"
    with pytest.raises(SqlError, match="escape"):
        like("a\\bc", "\\")


def test_moments_become_strftime_and_a_regex():
    """A date and time pattern is written with strftime, and says which texts fit it."""
    found = moment("dd.MM.yyyy 'at' HH:mm", parsing=True)
    assert found.strftime == "%d.%m.%Y at %H:%M"
    assert found.regex.startswith("[0-9]{2}\\.[0-9]{2}")


@pytest.mark.parametrize(
    ("pattern", "parsing"), [("YYYY-MM-dd", False), ("yyyy-DDD", False), ("yyyy-MM-dd MMM", True), ("HH:mm", True), ("yyyy-MM-dd d", True), ("yyyy Q", False)]
)  # fmt: skip
def test_letters_that_differ_are_refused(pattern, parsing):
    """Week years, month names when reading, a missing or doubled part: refused with the letters that may be used."""
    with pytest.raises(SqlError):
        moment(pattern, parsing=parsing)
