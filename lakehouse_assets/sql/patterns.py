"""Patterns that Spark (Java) and DuckDB (RE2, strftime) read alike: regular expressions, LIKE, dates and times.

What belongs here: turning a pattern that a transform holds into one that means the same on both engines, or refusing
it. What does not: the functions that use them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lakehouse_assets.errors import SqlError
from lakehouse_assets.sql.coerce import YEAR
from lakehouse_assets.sql.typed import refused

_CLASSES = {"d": "0-9", "w": "a-zA-Z0-9_", "s": " \\t\\n\\x0B\\f\\r"}
_ESCAPED = frozenset(".\\/-+*?()[]{}|^$\"'`~!@#%&=:;,<>_ ") | frozenset("tnrf")
_MAX_REPEAT = 1000


def regex(pattern: str) -> str:
    r"""A regular expression that both engines read alike.

    `.` becomes "anything but a line feed", `$` the very end of the text, `\\d \\w \\s` their ASCII members.

    Args:
        pattern: a Java pattern.

    Raises:
        SqlError: it uses what the engines do not share (look-around, back references, flags, `\\b`, …).
    """
    found = _Regex(pattern).read()
    try:
        re.compile(found.replace("\\z", "\\Z"))
    except re.error as error:
        raise refused(f"the pattern {pattern!r} is not a regular expression: {error}", "mend it") from None
    return found


def matches_empty(pattern: str) -> bool:
    """Whether a pattern (of `regex`) matches the empty text."""
    return re.compile(pattern.replace("\\z", "\\Z")).match("") is not None


class _Regex:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def refused(self, what: str) -> SqlError:
        return refused(
            f"{what} in the pattern {self.pattern!r} is not the same on both engines",
            "use literals, classes [..], groups (..), alternatives | and the quantifiers * + ? {n,m}",
        )

    def read(self) -> str:
        out: list[str] = []
        while self.at < len(self.pattern):
            char = self.pattern[self.at]
            self.at += 1
            if char == "\\":
                out.append(self.escape(inside=False))
            elif char == "[":
                out.append(self.char_class())
            elif char == ".":
                out.append("[^\\n]")
            elif char == "$":
                out.append("\\z")
            elif char == "(":
                out.append(self.group())
            elif char in "*+?" or char == "{":
                out.append(self.quantifier(char))
            else:
                out.append(char)
        return "".join(out)

    def escape(self, inside: bool) -> str:
        if self.at >= len(self.pattern):
            raise self.refused("a backslash at the end")
        char = self.pattern[self.at]
        self.at += 1
        if char in _CLASSES:
            return _CLASSES[char] if inside else f"[{_CLASSES[char]}]"
        if char.lower() in _CLASSES and not inside:
            return f"[^{_CLASSES[char.lower()]}]"
        if char not in _ESCAPED:
            raise self.refused(f"\\{char}")
        return f"\\{char}"

    def char_class(self) -> str:
        out = ["["]
        if self.pattern[self.at : self.at + 1] == "^":
            out.append("^")
            self.at += 1
        start = self.at
        while self.at < len(self.pattern):
            char = self.pattern[self.at]
            self.at += 1
            if char == "]":
                if self.at - 1 == start:
                    raise self.refused("an empty class")
                return "".join([*out, "]"])
            if char == "[" or self.pattern.startswith("&&", self.at - 1):
                raise self.refused("a class in a class")
            out.append(self.escape(inside=True) if char == "\\" else char)
        raise self.refused("a class without its end")

    def group(self) -> str:
        if self.pattern[self.at : self.at + 1] != "?":
            return "("
        if self.pattern.startswith("?:", self.at):
            self.at += 2
            return "(?:"
        raise self.refused(f"({self.pattern[self.at : self.at + 3]}")

    def quantifier(self, char: str) -> str:
        out = char
        if char == "{":
            counted = re.compile(r"(\d+)(,(\d*))?\}").match(self.pattern, self.at)
            if not counted or any(int(n) > _MAX_REPEAT for n in (counted[1], counted[3]) if n):
                raise self.refused("{ without a count up to 1000")
            self.at = counted.end()
            out += counted[0]
        if self.pattern[self.at : self.at + 1] == "+":
            raise self.refused("a possessive quantifier")
        return out


def replacement(java: str) -> str:
    r"""The replacement of `regexp_replace`: Java's `$1` as RE2's `\\1`.

    Raises:
        SqlError: it holds a backslash, or a `$` that is no group.
    """
    if "\\" in java or re.search(r"\$(?![0-9])|\$[0-9]{2}", java):
        raise refused(
            f"the replacement {java!r} is not the same on both engines", "use text and the groups $0 to $9 only"
        )
    return re.sub(r"\$([0-9])", r"\\\1", java)


def like(pattern: str, escape: str) -> str:
    """A LIKE pattern, if both engines accept it.

    Raises:
        SqlError: the escape character stands before something else than `%`, `_` or itself.
    """
    rest = re.sub(f"{re.escape(escape)}[%_{re.escape(escape)}]", "", pattern)
    if escape in rest:
        raise refused(
            f"in the LIKE pattern {pattern!r} the escape character {escape!r} stands before something else than "
            "'%', '_' or itself",
            "double it",
        )
    return pattern


@dataclass(frozen=True)
class Moment:
    """A date and time pattern: how it is written with strftime, and which texts fit it.

    Attributes:
        strftime: DuckDB's format.
        regex: what a text must look like to be read by it (RE2 and Java).
        letters: the pattern letters that occur.
    """

    strftime: str
    regex: str
    letters: frozenset[str]


_MOMENT = {
    "yyyy": ("%Y", YEAR),
    "yy": ("%y", None),
    "MM": ("%m", "[0-9]{2}"),
    "M": ("%-m", "[0-9]{1,2}"),
    "MMM": ("%b", None),
    "MMMM": ("%B", None),
    "dd": ("%d", "[0-9]{2}"),
    "d": ("%-d", "[0-9]{1,2}"),
    "EEE": ("%a", None),
    "EEEE": ("%A", None),
    "HH": ("%H", "[0-9]{2}"),
    "H": ("%-H", "[0-9]{1,2}"),
    "hh": ("%I", None),
    "h": ("%-I", None),
    "a": ("%p", None),
    "mm": ("%M", "[0-9]{2}"),
    "m": ("%-M", "[0-9]{1,2}"),
    "ss": ("%S", "[0-9]{2}"),
    "s": ("%-S", "[0-9]{1,2}"),
    "SSS": ("%g", "[0-9]{3}"),
    "SSSSSS": ("%f", "[0-9]{6}"),
}
_PART = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|(.)", re.DOTALL)


def moment(pattern: str, parsing: bool) -> Moment:
    """What a date and time pattern of Spark means.

    Args:
        pattern: such as `yyyy-MM-dd HH:mm:ss`.
        parsing: it reads text, rather than writes it.

    Raises:
        SqlError: a letter is not shared by both engines.
    """
    strftime, fits, letters = "", "", []
    for part in _PART.finditer(pattern):
        if part[2]:
            written, accepted = _MOMENT.get(part[0], (None, None))
            if written is None or (parsing and accepted is None):
                legal = [token for token, (_, read) in _MOMENT.items() if read or not parsing]
                raise refused(
                    f"{part[0]!r} in the pattern {pattern!r} is not the same on both engines", f"use {' '.join(legal)}"
                )
            strftime += written
            fits += accepted or ""
            letters.append(part[0][0])
        else:
            plain = part[3] if part[3] is not None else (part[1].replace("''", "'") or "'")
            strftime += plain.replace("%", "%%")
            fits += re.escape(plain)
    if parsing and len(set(letters)) != len(letters):
        raise refused(f"the pattern {pattern!r} names a part twice", "name each part once")
    if parsing and not {"y", "M", "d"} <= set(letters):
        raise refused(f"the pattern {pattern!r} lacks the year, the month or the day", "name all three")
    return Moment(strftime, fits, frozenset(letters))
