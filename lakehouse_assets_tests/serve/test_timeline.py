"""The drawing of a key's history: places, texts, lines, and the PNG."""

from __future__ import annotations

import datetime as dt
import os
import struct
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from rich.cells import cell_len

from lakehouse_assets.serve.timeline import Interval, Mark, Timeline, draw, layout, order, places, text_of
from lakehouse_assets.serve.timeline_png import png


def day(number: int, hour: int = 0) -> dt.datetime:
    """A moment of May 2025."""
    return dt.datetime(2025, 5, number, hour, tzinfo=dt.UTC)


def rows(*spans: tuple[object, object], **values: object) -> tuple[Interval, ...]:
    """Intervals (start, end), each with its number as the value of `n`."""
    return tuple(Interval(start, end, {"n": n, **values}) for n, (start, end) in enumerate(spans))


def quarantined(sequence: object) -> Mark:
    """An event in quarantine."""
    return Mark(sequence, "upsert", "quarantined", "4be1c09d5a3f7702", "edge1 120", "ambiguous_sequence")


GAPPED = Timeline({"id": 7}, rows((5, 12), (12, 15), (20, None)), (quarantined(7),))


# places


@pytest.mark.parametrize(
    "sequences",
    [
        (0, 25, 100),
        (Decimal("0.0"), Decimal("2.5"), Decimal("10.0")),
        (dt.date(2025, 1, 1), dt.date(2025, 1, 26), dt.date(2025, 4, 11)),
        (day(1), day(2), day(5)),
        (day(1).replace(tzinfo=None), day(2).replace(tzinfo=None), day(5).replace(tzinfo=None)),
    ],
)
def test_numbers_and_times_are_drawn_to_scale(sequences: tuple[object, ...]) -> None:
    """A quarter of the way is a quarter of the axis."""
    place = places(sequences)
    assert [place(sequence) for sequence in sequences] == [0, 0.25, 1]


@pytest.mark.parametrize(
    "sequences",
    [
        ("a", "b", "z"),
        ({"d": dt.date(2025, 1, 1), "n": None}, {"d": dt.date(2025, 1, 1), "n": 1}, {"d": dt.date(2026, 1, 1), "n": 0}),
        (1.0, 2.0, float("nan")),
        (1.0, 5.0, float("inf")),
        (False, True, None),
    ],
)
def test_others_are_drawn_by_rank(sequences: tuple[object, ...]) -> None:
    """Texts, several columns, NaN and infinity have an order and no distance; NULL has no place."""
    place, known = places(sequences), [sequence for sequence in sequences if sequence is not None]
    assert [place(sequence) for sequence in known] == [rank / (len(known) - 1) for rank in range(len(known))]


def test_order_is_that_of_sql() -> None:
    """NULL first, NaN after infinity, several columns one by one with NULL first in each."""
    nan = float("nan")
    ordered = [None, -1.0, float("inf"), nan]
    assert sorted([nan, float("inf"), None, -1.0], key=order)[:3] == ordered[:3]
    pairs = [{"a": 1, "b": None}, {"a": 1, "b": 2}, {"a": 2, "b": None}]
    assert sorted([pairs[2], pairs[0], pairs[1]], key=order) == pairs


def test_one_sequence_alone_is_at_the_start() -> None:
    """There is nothing to scale by."""
    assert places([5])(5) == 0


# the terminal


def test_a_row_is_a_line_with_its_range_its_bar_and_what_changed() -> None:
    """The first row shows all values, a later one those that differ; bars stand end to end on one axis."""
    history = (Interval(0, 50, {"name": "Ada", "city": None}), Interval(50, None, {"name": "Ada", "city": "Graz"}))
    title, _, _, _, first, second = draw(Timeline({"id": 7}, history, ()), 100).splitlines()
    assert title == "id=7"
    assert first.startswith("[0, 50)  █")
    assert first.endswith("name=Ada, city=NULL")
    assert second.endswith("▶  city=Graz")
    assert second.index("█") == first.rindex("█") + 1


def test_bars_are_as_long_as_their_rows() -> None:
    """A row that held twice as long has a bar twice as long."""
    bars = [line.count("█") for line in draw(Timeline({"id": 7}, rows((0, 14), (14, 42)), ())).splitlines()[4:6]]
    assert bars[1] == 2 * bars[0]


def test_a_gap_is_a_line_of_its_own() -> None:
    """Where a key had no row, dots stand between the bars; after the last row, too."""
    lines = draw(GAPPED).splitlines()
    assert [line.split("  ")[0] for line in lines[4:8]] == ["[5, 12)", "[12, 15)", "[15, 20)", "[20, …)"]
    assert "·" in lines[6]
    assert lines[6].endswith("no row")
    assert draw(Timeline({"id": 7}, rows((5, 9)), ())).splitlines()[-1].startswith("[9, …)")


def test_an_event_that_does_not_show_is_marked_at_its_place() -> None:
    """One line a mark, in the order of sequences: where, what, why, which event, from where."""
    line = draw(GAPPED, 140).splitlines()[-1]
    assert line.startswith("7 ")
    assert line.endswith("upsert quarantined: ambiguous_sequence, 4be1c09d5a3f7702, edge1 120")
    rule, first = draw(GAPPED, 140).splitlines()[3:5]
    assert line.index("!") == [at for at, sign in enumerate(rule) if sign == "┬"][1]
    assert first.index("█") < line.index("!") < first.rindex("█")


def test_an_event_without_a_sequence_is_listed_without_a_place() -> None:
    """NULL is said, and nothing is drawn on the axis."""
    line = draw(Timeline({"id": 7}, rows((5, None)), (quarantined(None),))).splitlines()[-1]
    assert line.startswith("NULL")
    assert "!" not in line


def test_a_short_row_has_a_cell() -> None:
    """A row of a second among years is seen."""
    history = rows((0, 1), (1, 2), (2, 10_000_000), (10_000_000, None))
    assert all("█" in line for line in draw(Timeline({"id": 7}, history, ())).splitlines()[4:])


@pytest.mark.parametrize("width", [40, 57, 80, 200])
def test_lines_keep_to_the_width(width: int) -> None:
    """No line is longer than asked, whatever stands in keys and values, and wide characters count twice."""
    history = rows((day(1, 3), day(2)), (day(3), None), text="東京" * 80)
    drawn = draw(Timeline({"名": "東" * 150}, history, (quarantined(day(4)),)), width).splitlines()
    assert max(map(cell_len, drawn)) <= width
    assert any("…" in line for line in drawn)


def test_times_are_as_short_as_they_can_be() -> None:
    """Midnights are dates, full minutes have no seconds; one time with seconds keeps them for all."""
    first = [layout(Timeline({}, rows((start, None), (end, None)), ())).lines[0].label for start, end in [
        (day(1), day(2)), (day(1), day(2, 5)), (day(1), day(2) + dt.timedelta(seconds=1)),
    ]]  # fmt: skip
    assert first == ["[2025-05-01, …)", "[2025-05-01T00:00Z, …)", "[2025-05-01T00:00:00Z, …)"]


def test_a_terminal_is_told_nothing() -> None:
    """Control characters in data are shown, not obeyed; texts that could be misread stand in quotes."""
    assert "\x1b" not in draw(Timeline({"id": "\x1b[2J"}, rows((1, None), bad="a\nb\x9b"), ()))
    assert [text_of(value) for value in ("NULL", None, "a, b=c", "plain text", "", True)] == [
        '"NULL"', "NULL", '"a, b=c"', "plain text", '""', "true",
    ]  # fmt: skip


def test_a_long_history_is_drawn_from_its_newest_rows() -> None:
    """What is left out is counted; old marks do not squeeze the new rows together."""
    history = Timeline({"id": 7}, rows(*((n, n + 1) for n in range(1000))), (quarantined(3), quarantined(990)))
    drawing = layout(history, 40)
    assert drawing.lines[0].label == "[962, 963)"
    assert [line.label for line in drawing.lines if line.kind == "quarantined"] == ["990"]
    assert drawing.lines[0].left == 0
    assert draw(history).splitlines()[-1] == "803 older rows and events are not drawn"


def test_a_key_without_anything() -> None:
    """No row and no event is said."""
    assert draw(Timeline({"id": 7}, (), ())) == "id=7\nno row and no event"


# the PNG


def size(picture: bytes) -> tuple[int, int]:
    """Width and height in pixels."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", picture[16:24])


def test_a_picture_is_bounded() -> None:
    """A line more is a bit higher, a thousand lines are no larger than the newest sixty."""
    few, many = (
        size(png(Timeline({"id": 7}, rows(*((2 * n, 2 * n + 1) for n in range(count))), ()))) for count in (3, 1000)
    )
    assert few[0] == many[0] == 1400
    assert few[1] < 400
    assert many[1] <= 3300


def test_equal_timelines_are_equal_bytes(tmp_path: Path) -> None:
    """Nothing of the machine goes in: another process with other settings draws the same."""
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nfont.size: 30\n")
    code = (
        "import sys; from lakehouse_assets_tests.serve.test_timeline import GAPPED; "
        "from lakehouse_assets.serve.timeline_png import png; sys.stdout.buffer.write(png(GAPPED))"
    )
    environ = os.environ | {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "TZ": "Asia/Tokyo"}
    elsewhere = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, check=True)
    assert elsewhere.stdout == png(GAPPED)


def test_a_picture_differs_where_the_history_does() -> None:
    """An interval, a mark and a value each change the picture."""
    seen = {
        png(GAPPED),
        png(Timeline(GAPPED.key, GAPPED.intervals[:2], GAPPED.marks)),
        png(Timeline(GAPPED.key, GAPPED.intervals, ())),
        png(Timeline({"id": 8}, GAPPED.intervals, GAPPED.marks)),
    }
    assert len(seen) == 4


def test_a_picture_takes_any_text() -> None:
    """Dollar signs are no mathematics, and a character that the font lacks is a box, without a warning."""
    strange = Timeline({"id": "$\\frac$ 東京"}, rows((5, None), text="\\frac $ \u0000 🦆"), (quarantined(None),))
    assert size(png(strange))[0] == 1400


def test_a_picture_of_nothing() -> None:
    """A key without rows has a picture, too."""
    assert size(png(Timeline({"id": 7}, (), ())))[0] == 1400
