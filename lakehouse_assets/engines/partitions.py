"""Predicates that select partitions, in the SQL of whoever evaluates them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Quotes:
    """How a dialect of SQL writes a name and a text."""

    name: Callable[[str], str]
    text: Callable[[str], str]


def partitions_predicate(partitions: Sequence[Mapping[str, Any]], sql: Quotes) -> str:
    """What selects the rows of these partitions (column -> value)."""
    names = list(partitions[0])
    if len(names) == 1:
        return _is_one_of(names[0], [values[names[0]] for values in partitions], sql)
    grouped: dict[str, tuple[Any, list[Mapping[str, Any]]]] = {}
    for values in partitions:
        rest = {name: item for name, item in values.items() if name != names[0]}
        grouped.setdefault(repr(values[names[0]]), (values[names[0]], []))[1].append(rest)
    terms = [
        f"({_is_one_of(names[0], [first], sql)} AND {partitions_predicate(rest, sql)})"
        for first, rest in grouped.values()
    ]
    return _any(terms)


def _any(terms: Sequence[str]) -> str:
    """Terms joined by OR as a balanced tree: a chain of thousands exhausts the stack of whoever plans it."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({_any(terms[:half])} OR {_any(terms[half:])})"


def _is_one_of(name: str, values: Sequence[Any], sql: Quotes) -> str:
    texts = dict.fromkeys(_text(item) for item in values if item is not None)
    terms = [f"{sql.name(name)} IN ({', '.join(map(sql.text, texts))})"] if texts else []
    terms += [f"{sql.name(name)} IS NULL"] if None in values else []
    return f"({' OR '.join(terms)})"


def _text(item: Any) -> str:
    return str(item).lower() if isinstance(item, bool) else str(item)
