"""The page of allowed functions says what the translator knows."""

from __future__ import annotations

from pathlib import Path

from lakehouse_assets.sql.dialect import FUNCTIONS
from lakehouse_assets.sql.page import page

PAGE = Path(__file__).parents[2] / "docs" / "functions.md"


def test_the_page_is_up_to_date():
    """`python -m lakehouse_assets.sql.page > docs/functions.md` would change nothing."""
    assert PAGE.read_text() == page()


def test_every_function_stands_on_the_page_once():
    """Each allowed function has one line with a note."""
    lines = [line for line in page().split("## Refused")[0].splitlines() if line.startswith("| `")]
    assert sorted(line.split("`")[1] for line in lines) == sorted(FUNCTIONS)
    assert all(line.split("|")[2].strip() for line in lines)
