"""What every picture is drawn on and with: figures of matplotlib that become a PNG, and its texts.

What belongs here: the settings, the font, and what is told when matplotlib is not installed. What does not: what is
drawn. Equal drawings give equal bytes under one version of matplotlib: nothing of the machine goes in (its own font,
default settings, no time).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lakehouse_assets.errors import NotRunnable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

INK, GRID, GREY = "#1f2328", "#e6e8eb", "#b9bec5"
BLUE, RED, VIOLET, OCHRE, SLATE = "#2f6fb3", "#c62f2f", "#6f42c1", "#8a6d00", "#57606a"

TITLE_LETTERS, AXIS_LETTERS = 90, 32
"""Letters that have room above the panels of a chart, and beside one."""


def check_installed(instead: str = "") -> None:
    """Refuse early: before rows are read for a picture that cannot be drawn.

    Args:
        instead: what works without matplotlib, for the error.

    Raises:
        NotRunnable: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise NotRunnable(
            f"drawing needs matplotlib, which is not installed ({error})",
            fix=f"install it: pip install 'lakehouse-assets[charts]'{instead and f'; {instead}'}",
        ) from error


def png(
    inches: tuple[float, float],
    dpi: int,
    paint: Callable[[Figure], None],
    layout: Literal["constrained"] | None = None,
) -> bytes:
    """A PNG of what `paint` draws into an empty figure.

    Args:
        inches: how wide and how high it is.
        layout: `constrained`: panels leave room for each other's texts.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever this machine's matplotlibrc says
        figure = Figure(figsize=inches, dpi=dpi, facecolor="white", layout=layout)
        paint(figure)
        FigureCanvasAgg(figure).print_png(target, metadata={"Software": None})
    return target.getvalue()


class Pen:
    """Texts in matplotlib's own font: a letter that it lacks becomes "□", nothing is taken for mathematics."""

    def __init__(self) -> None:
        import matplotlib as mpl
        from matplotlib.font_manager import get_font

        self._path = str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
        self._known = get_font(self._path).get_charmap()

    def font(self, size: float) -> FontProperties:
        """The font at a size in points."""
        from matplotlib.font_manager import FontProperties

        return FontProperties(fname=self._path, size=size)

    def legible(self, text: str, most: int | None = None) -> str:
        """The text in letters of the font, at most so many."""
        cut = text if most is None or len(text) <= most else f"{text[: most - 1]}…"
        return "".join(letter if ord(letter) in self._known else "□" for letter in cut)

    def write(self, axes: Axes, x: float, y: float, text: str, **how: Any) -> None:
        """Put text at a place of the axes."""
        axes.text(
            x, y, self.legible(text), fontproperties=self.font(how.pop("size", 9)), parse_math=False, color=INK, **how
        )


def settle(axes: Axes) -> None:
    """A panel as all have it: small numbers, a faint grid, no box."""
    axes.tick_params(labelsize=7)
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def name_days(axes: Axes) -> None:
    """Places along `x` are days since 1970-01-01: tell them as dates and times."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def name_amounts(axes: Axes) -> None:
    """Values are large numbers: tell few of them, shortly, such as 250k."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(2))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
