"""How values are printed."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from lakehouse_assets.cli.output import plain, print_rows, shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**63 - 1, 2**63 - 1),
        (0.1, 0.1),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-0.10"), "-0.10"),
        (date(2025, 5, 1), "2025-05-01"),
        (datetime(2025, 5, 1, 23, 59, 59, 5, tzinfo=UTC), "2025-05-01T23:59:59.000005Z"),
        (datetime(2025, 5, 1, 23, 59, 59), "2025-05-01T23:59:59"),
        (b"\x00\xff", "AP8="),
        ({"a": [Decimal("1.5"), None]}, {"a": ["1.5", None]}),
        ([("k", b"v")], [["k", "dg=="]]),
    ],
)
def test_values_in_json(value: object, expected: object) -> None:
    """Nothing is rounded, dropped or confused with NULL."""
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)


def test_json_is_one_array(capsys: pytest.CaptureFixture[str]) -> None:
    """An array of objects, and an empty array without rows."""
    print_rows([{"a": 1, "b": "ü"}, {"a": None, "b": "\n"}], ["a", "b"], "json")
    assert json.loads(capsys.readouterr().out) == [{"a": 1, "b": "ü"}, {"a": None, "b": "\n"}]
    print_rows([], ["a"], "json")
    assert json.loads(capsys.readouterr().out) == []


def test_csv_is_rfc_4180(capsys: pytest.CaptureFixture[str]) -> None:
    """CRLF, a header, quotes where they are needed; NULL is an empty field, an empty text is not."""
    rows: list[dict[str, Any]] = [
        {"a": 'say "hi"', "b": "x,y"},
        {"a": None, "b": ""},
        {"a": "two\nlines", "b": [1, "z"]},
    ]
    print_rows(rows, ["a", "b"], "csv")
    text = capsys.readouterr().out
    assert text == 'a,b\r\n"say ""hi""","x,y"\r\n,""\r\n"two\nlines","[1, ""z""]"\r\n'
    assert list(csv.reader(io.StringIO(text, newline="")))[3] == ["two\nlines", '[1, "z"]']


def test_csv_of_one_column_has_no_empty_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A NULL alone on its line is written so that readers do not skip the line."""
    print_rows([{"a": None}, {"a": 1}], ["a"], "csv")
    assert len(list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))) == 3


def test_a_table_shows_whole_values_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """Off a terminal no value is cut; what a terminal would obey is shown as text; markup is text."""
    print_rows([{"a": "x" * 300, "b": "[red]\x1b[31m"}], ["a", "b"], "table")
    text = capsys.readouterr().out
    assert "x" * 300 in text
    assert "[red]\\x1b[31m" in text


def test_shown_keeps_letters() -> None:
    """Only control characters are replaced."""
    assert shown("Zürich\t№") == "Zürich\\t№"
