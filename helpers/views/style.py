"""One style sheet for all figures (its palette is `helpers.drawing`'s), and the few things that every figure does."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from cycler import cycler
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from helpers.drawing import BLACK, CYCLE

STYLE = {
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "errorbar.capsize": 3,
    "grid.color": "#E5E5E5",
    "image.cmap": "magma",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.parse_math": False,  # a class named $x_{$ is a name: as a formula it would stop the figure
}
matplotlib.rcParams.update(STYLE)
WIDTH = 10.0  # inches: the width of a notebook
MODELS = ("patchcore", "unet", "deeplabv3plus", "draem", "glass", "classifier")  # each has its colour
DASHES, MARKERS = ("-", "--", ":", "-."), "osD^vPX"


class NotebookFigure(Figure):
    """A Figure that a notebook displays also before pyplot has set up the inline backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def new_figure(height: float, note: str | None = None, width: float = WIDTH) -> NotebookFigure:
    """An empty figure, sizes in inches; its note (say "untrained backbone") stands in the lower right corner."""
    figure = NotebookFigure(figsize=(width, height), layout="constrained")
    if note:
        # As a supxlabel the layout keeps room for it; a plain text would lie over the axes' labels.
        figure.supxlabel(note, x=0.995, ha="right", fontsize=8, color="#A00000")
    return figure


def series_style(number: int, name: object = "") -> dict[str, str]:
    """Colour and dash of the number-th curve; they repeat after 28. A model has its own in every figure."""
    model = str(name).split(" (")[0]
    number = MODELS.index(model) if model in MODELS else number
    return {"color": CYCLE[number % len(CYCLE)], "linestyle": DASHES[number // len(CYCLE) % len(DASHES)]}


def legend_right(axis: Axes, title: str | None = None, more: Sequence[Artist] = ()) -> None:
    """The legend of an axis, and more handles, to the right of its figure."""
    handles = [*axis.get_legend_handles_labels()[0], *more]
    axis.get_figure().legend(handles=handles, loc="outside right upper", title=title)


def legend_above(figure: Figure, handles: Sequence[Artist], heading: str = "") -> None:
    """A legend with the heading as its title: the layout would lay a suptitle and a legend over each other."""
    if handles:
        columns = min(4, len(handles))
        legend = figure.legend(handles=handles, loc="outside upper left", ncols=columns, alignment="left")
        legend.set_title(heading, {"size": 12})
    elif heading:
        figure.suptitle(heading, fontsize=12, x=0.01, ha="left")


def threshold_line(axis: Axes, value: float) -> None:
    """A vertical line with its value above the frame, where it covers no curve; the title moves up for it."""
    axis.axvline(value, color=BLACK, linewidth=1.6)
    where = {"xycoords": axis.get_xaxis_transform(), "xytext": (0, 4), "textcoords": "offset points"}
    axis.annotate(f"threshold {value:.4g}", (value, 1.0), **where, ha="center", va="bottom", fontsize=9)
    axis.set_title(axis.get_title(), pad=22)


def percents(axis: Axis) -> None:
    axis.set_major_formatter(PercentFormatter(1.0))


def plain_log(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis, several of them also where the range holds no power of ten."""
    low, high = axis.get_view_interval()
    steps = (1, 1.5, 2, 3, 4, 5, 7) if high <= 20 * low else (1, 2, 5) if high < 100 * low else (1,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())
