"""The q texts: no q is at hand here, so what is tested is their form, and what they must not say."""

from __future__ import annotations

import re

import pytest

from lakehouse_assets.sources import kdb_queries

TEXTS = {name: text for name, text in vars(kdb_queries).items() if name.isupper() and not name.startswith("_")}
PARAMETERS = {
    "TABLES": None, "META": "t", "COUNT": "t", "PARTITION_FIELD": "t", "PARTITIONS": "t;p", "FINGERPRINT": "t;p;d",
    "WHOLE_FINGERPRINT": "t", "SLICE": "t;p;d;i;n", "WHOLE_SLICE": "t;i;n",
}  # fmt: skip


def test_every_text_is_a_function_of_its_parameters() -> None:
    """Each but the first is one lambda, whose parameters are those that are sent beside it."""
    assert set(TEXTS) == set(PARAMETERS)
    for name, parameters in PARAMETERS.items():
        assert parameters is None or TEXTS[name].startswith(f"{{[{parameters}] ")


@pytest.mark.parametrize("name", TEXTS)
def test_brackets_match(name: str) -> None:
    """Every bracket that opens closes, in its order, and only the last one closes the function."""
    opened: list[str] = []
    text = re.sub(r'"[^"]*"', "", TEXTS[name])
    for place, letter in enumerate(text):
        if letter in "{[(":
            opened.append(letter)
        elif letter in "}])":
            assert opened.pop() + letter in ("{}", "[]", "()")
            assert opened or place == len(text) - 1
    assert not opened


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_is_changed_on_the_server(name: str) -> None:
    """No global is assigned, nothing is run, and no count is kept there: a gateway may evaluate read-only."""
    assert not re.search(r"::|\bset\b|system|\\|\.Q\.cn|\.Q\.ind|\.z\.|hopen|\bget\b|\bexec\b", TEXTS[name])
