"""YAML with the line of every value, and without YAML's guesses.

What belongs here: text to plain data and line numbers; `${VAR}` in its strings. What does not: what a key means.

Only `true` and `false` (in any usual case) are booleans and only `~`, `null` and nothing are null: `012`, `1.10`,
`on`, `no` and `2024-01-31` stay the text that was written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]
"""Where a value stands: keys and list indices from the top."""

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<body>[^}]*)\}")
_BODY = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)
_MERGE = "tag:yaml.org,2002:merge"
_KEPT = {
    "tag:yaml.org,2002:bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    "tag:yaml.org,2002:null": (re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    _MERGE: (re.compile(r"^<<$"), "<"),
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C parser where it is built
    """A safe loader that resolves booleans, null and merges, and nothing else."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - the library's own


for _tag, (_pattern, _first) in _KEPT.items():
    _Loader.add_implicit_resolver(_tag, _pattern, list(_first))


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong in a file: its line (from 1), where it stands, what it is."""

    line: int
    problem: str
    path: Path = ()
    value: object = None
    fix: str | None = None


@dataclass
class Document:
    """The data of one YAML file, the line of each value, and what is wrong with the text itself."""

    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """The line of a value, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read(text: str) -> Document:
    """The document in `text`; faults of the text (syntax, a key given twice) are collected in it."""
    document = Document()
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is not None:
                _walk(root, (), document, frozenset(), set())
                document.data = loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        document.troubles.append(Trouble(mark.line + 1 if mark else 1, f"not YAML: {problem}"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        document.troubles.append(Trouble(1, f"not YAML: {error}"))
    return document


def _walk(node: yaml.Node, path: Path, document: Document, above: frozenset[int], seen: set[int]) -> None:
    if id(node) in above:
        raise yaml.constructor.ConstructorError(None, None, "an anchor that contains itself", node.start_mark)
    if id(node) in seen:
        return  # an alias: its lines are those of the anchor, and are found there
    seen.add(id(node))
    above |= {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            document.lines[(*path, index)] = value.start_mark.line + 1
            _walk(value, (*path, index), document, above, seen)
    elif isinstance(node, yaml.MappingNode):
        _walk_mapping(node, path, document, above, seen)


def _walk_mapping(
    node: yaml.MappingNode, path: Path, document: Document, above: frozenset[int], seen: set[int]
) -> None:
    first: dict[str, int] = {}
    for key, value in node.value:
        if key.tag == _MERGE:
            _walk(value, path, document, above, seen)
            continue
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            document.troubles.append(Trouble(line, "a key must be text", path))
            continue
        where = (*path, key.value)
        if key.value in first:
            problem = f"the key {key.value!r} is given twice (first in line {first[key.value]})"
            document.troubles.append(Trouble(line, problem, where, fix="keep one of them"))
        first[key.value] = line
        document.lines[where] = line
        _walk(value, where, document, above, seen)


@dataclass
class Expansion:
    """Replaces `${VAR}` and `${VAR:-default}` in strings; remembers which variables were used.

    `${secret:NAME}` stays, `$${` stands for `${`. A value comes after the YAML was read, so it cannot add keys.
    """

    environ: Mapping[str, str]
    used: dict[str, str] = field(default_factory=dict)

    def __call__(self, text: str) -> tuple[str, list[str]]:
        """The text with its variables replaced, and what is wrong with them."""
        problems: list[str] = []

        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            if match["body"].startswith("secret:"):
                return match[0]
            body = _BODY.fullmatch(match["body"])
            if not body:
                problems.append(f"{match[0]} is not a variable: write ${{NAME}} or ${{NAME:-default}}, or $${{ for ${{")
                return match[0]
            return self._value(body, match[0], problems)

        return (_VARIABLE.sub(replace, text) if "${" in text else text), problems

    def _value(self, body: re.Match[str], written: str, problems: list[str]) -> str:
        value = self.environ.get(body["name"], "")
        if body["name"] in self.environ:
            self.used[body["name"]] = value
        if body["default"] is not None:
            return value or body["default"]
        if body["name"] not in self.environ:
            problems.append(f"the variable {body['name']} is not set and {written} has no default")
            return written
        return value
