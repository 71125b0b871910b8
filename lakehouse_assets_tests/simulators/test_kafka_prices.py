"""Daily prices as messages: the packaged file, other files, what is made up."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.resources
import itertools
import json
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from lakehouse_assets.errors import SourceMissing, SourceUnreadable
from lakehouse_assets.simulators.kafka_prices import COLUMNS, Selection, faults, message, read_rows, walk

HEADER = ",".join(COLUMNS)
FIRST = {"Index": "A", "Date": "2020-01-03", "Open": "1.5", "High": "2", "Low": "1", "Close": "1.75"}
FULL = FIRST | {"Adj Close": "1.75", "Volume": "12"}


def test_the_packaged_prices_are_what_their_note_says() -> None:
    """Q1: rows, series and checksum of `prices.csv` stand in `prices.md`, with source, licence and header."""
    data = importlib.resources.files("lakehouse_assets.simulators").joinpath("data")
    content, note = data.joinpath("prices.csv").read_bytes(), data.joinpath("prices.md").read_text("utf-8")
    assert hashlib.sha256(content).hexdigest() in note
    assert content.decode().splitlines()[0] == "Index,Date,Open,High,Low,Close,Adj Close,Volume"
    rows = list(read_rows())
    assert f"{len(rows):,} rows" in note
    for index, count in Counter(row.fields["Index"] for row in rows).items():
        days = [row.fields["Date"] for row in rows if row.fields["Index"] == index]
        assert days == sorted(set(days))
        found = next(line for line in note.splitlines() if line.startswith(f"| `{index}` |"))
        assert f"| {count:,} | {days[0]} | {days[-1]} |" in found
    assert "arch" in note
    assert "Permission is hereby granted" in note
    order = [(row.fields["Date"], row.fields["Index"]) for row in rows]
    assert order == sorted(order)


def test_a_message_is_json_of_texts_keyed_by_index() -> None:
    """Q2: fields as texts in the header's order, no blanks, empty ones left out; the key is the Index."""
    first = next(row for row in read_rows() if row.fields["Index"] == "SP500")
    assert first.message.key == b"SP500"
    assert first.message.value.decode() == (
        '{"Index":"SP500","Date":"1999-01-04","Open":"1229.22998","High":"1248.810059","Low":"1219.099976",'
        '"Close":"1228.099976","Adj Close":"1228.099976","Volume":"877000000"}'
    )
    assert message({"Close": "1", "Index": "É", "Date": "", "Open": ""}) == (
        "É".encode(),
        '{"Index":"É","Close":"1"}'.encode(),
    )
    assert message({"Index": "", "Close": "1"}).key is None


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("Index,Date,Open,High,Low,Close,Volume", "lacks Adj Close"),
        ("Symbol,Date,Open,High,Low,Close,Adj Close,Volume", "lacks Index and has the unknown 'Symbol'"),
        (f"{HEADER},Currency", "has the unknown 'Currency'"),
        (f"{HEADER},Date", "names a column twice"),
        ("", "lacks Index, Date"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, header: str, told: str) -> None:
    """The error names the file, what is missing and what nobody knows, and the header that is due."""
    path = tmp_path / "prices.csv"
    path.write_text(f"{header}\n1\n")
    with pytest.raises(SourceMissing, match=told) as error:
        next(read_rows(path))
    assert str(path) in str(error.value)
    assert HEADER in str(error.value)


@pytest.mark.parametrize("content", [b"A,2020-01-01,1\n", b"A,2020-01-01,\xff,1,1,1,1,1\n", b'A,"2020-01-01\n'])
def test_a_row_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    """Too few fields, bytes that are no UTF-8, a quote without end: the error names the file."""
    path = tmp_path / "prices.csv"
    path.write_bytes(HEADER.encode() + b"\n" + content)
    with pytest.raises(SourceUnreadable, match="prices.csv"):
        list(read_rows(path))


def test_a_file_that_is_not_there() -> None:
    """Named, with the option that gives another."""
    with pytest.raises(SourceMissing, match="nowhere.csv") as error:
        next(read_rows(Path("nowhere.csv")))
    assert "--csv" in str(error.value)


def test_other_forms_of_a_file(tmp_path: Path) -> None:
    """In gzip, with a byte order mark, Windows' line ends, other order of columns, empty lines: the same rows."""
    plain, other = tmp_path / "a.csv", tmp_path / "b.csv.gz"
    with plain.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerow(FULL)
    turned = list(reversed(COLUMNS))
    text = "\r\n".join([",".join(turned), "", ",".join(FULL[name] for name in turned), ""])
    other.write_bytes(gzip.compress(text.encode("utf-8-sig")))
    assert [row.message for row in read_rows(other)] == [row.message for row in read_rows(plain)]


def test_a_selection() -> None:
    """From a day to a day, both included, and of these the first so many; all rows pass, marked."""
    rows = list(itertools.islice(read_rows(), 50))
    days = sorted(row.fields["Date"] for row in rows)
    chosen = Selection(date.fromisoformat(days[10]), date.fromisoformat(days[30]), 15)
    marked = list(chosen.mark(rows))
    assert [row for row, _ in marked] == rows
    assert [row.fields["Date"] for row, meant in marked if meant] == days[10:25]
    assert [meant for _, meant in Selection().mark(rows)] == [True] * 50
    assert not any(meant for _, meant in Selection(rows=0).mark(rows))


def test_faults_are_no_prices_and_always_the_same() -> None:
    """Cut JSON, a Close that is no number, no Index, in turn."""
    made = list(faults(7))
    assert made == list(faults(7))
    assert made[:3] == list(faults(3))
    for number, (key, value) in enumerate(made):
        if number % 3 == 0:
            with pytest.raises(json.JSONDecodeError):
                json.loads(value)
        elif number % 3 == 1:
            assert json.loads(value)["Close"] == "n/a"
            assert key == json.loads(value)["Index"].encode()
        else:
            assert key is None
            assert "Index" not in json.loads(value)


def test_a_walk_goes_on_from_the_last_rows() -> None:
    """The next working days of each Index, in order of Date; a field that a series lacks stays away."""
    close_only = {"Index": "B", "Date": "2020-01-01", "Close": "10"}
    made = [json.loads(value) for _, value in itertools.islice(walk([FULL, close_only], 7), 40)]
    days = [row["Date"] for row in made]
    assert days == sorted(days)
    assert all(date.fromisoformat(day).isoweekday() <= 5 for day in days)
    one, two = ([row for row in made if row["Index"] == index] for index in "AB")
    assert (one[0]["Date"], two[0]["Date"]) == ("2020-01-06", "2020-01-02")
    assert len({row["Date"] for row in one}) == len(one)
    assert set(two[0]) == {"Index", "Date", "Close"}
    assert set(one[0]) == set(COLUMNS)
    before = 1.75
    for row in one:
        assert float(row["Open"]) == pytest.approx(before, abs=1e-6)
        assert float(row["Low"]) <= min(float(row["Open"]), float(row["Close"]))
        assert float(row["High"]) >= max(float(row["Open"]), float(row["Close"]))
        before = float(row["Close"])


def test_a_walk_that_was_stopped_goes_on_alike() -> None:
    """Who goes on from any of its days makes the same days; another seed makes others."""
    whole = list(itertools.islice(walk([FULL], 7), 10))
    assert list(itertools.islice(walk([json.loads(whole[3].value)], 7), 6)) == whole[4:]
    assert list(itertools.islice(walk([FULL], 8), 10)) != whole


def test_a_walk_passes_over_what_is_no_price() -> None:
    """Rows without a readable Date or Close do not stop the others."""
    broken = [
        FULL | {"Index": "X", "Date": "soon"},
        FULL | {"Index": "Y", "Close": "n/a"},
        FULL | {"Index": "Z", "Close": "nan"},
        FULL,
    ]
    assert {key for key, _ in itertools.islice(walk(broken, 7), 5)} == {b"A"}
