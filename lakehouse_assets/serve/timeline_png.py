"""The drawing of `timeline.py` as a PNG: the same lines, the same texts, bounded in size.

What belongs here: pixels. What does not: what is drawn where (`timeline.py`), figures and texts (`canvas.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakehouse_assets.serve import canvas
from lakehouse_assets.serve.canvas import BLUE, GREY, GRID, OCHRE, RED, SLATE, VIOLET, Pen
from lakehouse_assets.serve.timeline import Layout, Line, Timeline, fit, layout, left_out_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 60
"""Rows and marks of a picture; of a longer history the newest are drawn."""
INCHES_WIDE = 14.0
INCHES_A_LINE = 0.26
DPI = 100
LABEL_CELLS, NOTE_CELLS, TITLE_CELLS = 42, 78, 150
"""Cells of text that have room to the left of the bars, to the right, and above."""
LEFT, WIDE = 0.235, 0.36
"""Where the bars begin and how wide they are, in parts of the picture."""
OPEN = 1.08
"""Where on the axis, whose last event is at 1, an open row ends."""
MARKS = {"quarantined": ("X", RED), "superseded": ("d", OCHRE), "retracted": ("x", VIOLET), "filtered": ("_", SLATE)}
"""Marker and colour of an event that does not show, by its fate."""
APPLIED_IN_SILENCE = ("o", SLATE)


def png(timeline: Timeline) -> bytes:
    """A timeline as a PNG: 1,400 pixels wide, at most 3,300 high.

    Raises:
        NotRunnable: matplotlib is not installed.
    """
    canvas.check_installed("the drawing for the terminal needs nothing")
    drawing = layout(timeline, MOST_LINES)
    return canvas.png((INCHES_WIDE, _inches_high(drawing)), DPI, lambda figure: _paint(figure, drawing, Pen()))


def _inches_high(drawing: Layout) -> float:
    return 1.3 + INCHES_A_LINE * max(len(drawing.lines), 1)


def _paint(figure: Figure, drawing: Layout, pen: Pen) -> None:
    high = _inches_high(drawing)
    axes = figure.add_axes((LEFT, 0.35 / high, WIDE, 1 - 1.2 / high))
    count = max(len(drawing.lines), 1)
    axes.set_xlim(-0.01, OPEN)
    axes.set_ylim(count - 0.4, -0.6)  # the first line on top
    axes.set_xticks(drawing.ticks, labels=[])
    axes.set_yticks([])
    axes.xaxis.tick_top()
    axes.grid(visible=True, axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("left", "right", "bottom"):
        axes.spines[side].set_visible(False)
    above = {"transform": axes.get_xaxis_transform(), "va": "bottom"}
    for (_, text), place, side in zip(drawing.ends, (0, 1), ("left", "right"), strict=False):
        pen.write(axes, place, 1 + 0.1 / (high - 1.2), fit(text, 30).rstrip(), ha=side, **above)
    pen.write(
        axes, -LEFT / WIDE * 1.05, 1 + 0.45 / (high - 1.2), fit(drawing.title, TITLE_CELLS).rstrip(), size=11, **above
    )
    for number, line in enumerate(drawing.lines):
        _paint_line(axes, number, line, pen)
    if drawing.left_out or not drawing.lines:
        pen.write(axes, 0, count - 0.2, left_out_text(drawing) if drawing.lines else "no row and no event", va="top")


def _paint_line(axes: Axes, number: int, line: Line, pen: Pen) -> None:
    pen.write(axes, -0.025, number, fit(line.label, LABEL_CELLS).rstrip(), ha="right", va="center", size=8)
    pen.write(axes, OPEN + 0.03, number, fit(line.text, NOTE_CELLS).rstrip(), ha="left", va="center", size=8)
    if line.kind in ("row", "gap"):
        _paint_bar(axes, number, line)
    elif line.left is not None:
        marker, colour = MARKS.get(line.kind, APPLIED_IN_SILENCE)
        axes.plot([line.left], [number], marker=marker, color=colour, markersize=7, linestyle="none", clip_on=False)


def _paint_bar(axes: Axes, number: int, line: Line) -> None:
    left = line.left or 0.0
    width = max((OPEN if line.right is None else line.right) - left, 0.004)
    if line.kind == "gap":
        axes.plot([left, left + width], [number, number], color=GREY, linestyle=":", linewidth=2)
        return
    axes.barh(number, width, left=left, height=0.62, color=BLUE, linewidth=0)
    if line.right is None:
        axes.plot([OPEN], [number], marker=">", color=BLUE, markersize=9, linestyle="none", clip_on=False)
