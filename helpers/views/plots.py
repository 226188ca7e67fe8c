"""Primitives that figures are composed of: `interval_bars`, `curves`, `grouped_histogram`, `stacked_bars` and
`confusion_figure` (and `helpers.views.gallery`). Data in, a Figure out; nothing is loaded, saved or shown.

Each draws on ``axis`` where one is given (of a figure with several panels), else into a figure of its own with its
legend and its ``note`` in the corner. ``**named`` goes to ``axis.set``: xlabel, ylabel, title, xlim, xscale, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import ArrayLike

from helpers.drawing import BLACK, BLUE, CYCLE, GREY, shorten
from helpers.thresholds import Threshold
from helpers.views.style import MARKERS, legend_right, new_figure, percents, plain_log, series_style, threshold_line

_HATCHES = ("", "//", "..")


def interval_bars(
    table: pd.DataFrame,
    value: str,
    names: Sequence[str],
    *,
    ends: tuple[str, str] | None = None,
    words: Sequence[str] | None = None,
    colours: str | Sequence[str] = BLUE,
    axis: Axes | None = None,
    note: str | None = None,
    **named: Any,
) -> Figure:
    """A row a value: a dot with its interval, its name on the left, ``words`` on the right (default: the numbers).

    ``ends`` are the columns of the interval; default: ``<value>_low`` and ``<value>_high``, or ``low`` and ``high``.
    ``colours`` are those of the rows. Without ``xlim`` values are shares from 0 to 1. A value that is NaN is said.
    """
    axis = axis or new_figure(1.6 + 0.42 * max(1, len(table)), note).subplots()
    ends = ends or ((f"{value}_low", f"{value}_high") if f"{value}_low" in table else ("low", "high"))
    low, middle, high = table[[ends[0], value, ends[1]]].to_numpy(dtype=float).T
    places, numbers = range(len(table)), zip(middle, low, high, strict=True)
    axis.hlines(places, low, high, color=colours, linewidth=2.5)
    axis.scatter(middle, places, s=60, color=colours, edgecolor=BLACK, zorder=3, clip_on=False)
    if words is None:
        words = [f"{at:.2f}  [{left:.2f}, {right:.2f}]" if at == at else "no value" for at, left, right in numbers]
    for place, text in enumerate(words):
        axis.text(1.03, place, text, va="center", fontsize=9, transform=axis.get_yaxis_transform())
    axis.set_yticks(places, [shorten(name, 34) for name in names])
    axis.set_ylim(len(table) - 0.4, -0.6)
    axis.grid(axis="x")
    if "xlim" not in named:
        percents(axis.xaxis)
    _name(axis, {"xlim": (0, 1)} | named)
    return axis.get_figure()


def curves(
    tables: Mapping[str, Mapping[str, ArrayLike]],
    x: str,
    y: str,
    *,
    band: tuple[str, str] | None = None,
    step: bool = False,
    marker: bool = False,
    dots: Mapping[str, tuple[float, float]] | None = None,
    dot: str = "",
    levels: Mapping[str, float] | None = None,
    level: str = "",
    legend: str | None = None,
    axis: Axes | None = None,
    note: str | None = None,
    **named: Any,
) -> Figure:
    """One curve a table, named by its key: the column (or entry) ``y`` over ``x``, rows without a value left out.

    ``band`` are two columns that an area lies between. ``dots`` marks a point of a curve by its name and ``levels`` a
    height, dotted, in the curve's colour; ``dot`` and ``level`` are their words in the legend, whose title is
    ``legend``. A step stays at its value until the next x.
    """
    alone, axis = axis is None, axis or new_figure(4.4, note).subplots()
    for number, (name, table) in enumerate(tables.items()):
        look = series_style(number, name)
        points = pd.DataFrame({column: np.asarray(table[column], float) for column in (x, y, *(band or ()))})
        points = points[np.isfinite(points[[x, y]]).all(axis=1)]
        mark = MARKERS[number % len(MARKERS)] if marker or len(points) == 1 else ""
        way = {"drawstyle": "steps-post" if step else "default", "marker": mark, "markersize": 5}
        axis.plot(points[x], points[y], label=name, clip_on=False, **look, **way)
        if band is not None:
            area = {"step": "post" if step else None, "alpha": 0.18, "linewidth": 0, "color": look["color"]}
            axis.fill_between(points[x], points[band[0]], points[band[1]], **area)
        if name in (levels or {}):
            axis.axhline(levels[name], color=look["color"], linestyle=":", linewidth=1.2, zorder=1)
        if np.isfinite((dots or {}).get(name, np.nan)).all():
            round_ = {"color": look["color"], "markeredgecolor": BLACK, "markersize": 9, "clip_on": False, "zorder": 4}
            axis.plot(*([each] for each in dots[name]), "o", **round_)
    axis.grid()
    _name(axis, named)
    if alone:
        extra = [Line2D([], [], linestyle="", marker="o", color="white", markeredgecolor=BLACK, label=dot)] * bool(dot)
        extra += [Line2D([], [], linestyle=":", color="#606060", linewidth=1.2, label=level)] * bool(level)
        legend_right(axis, legend, extra)
    return axis.get_figure()


def grouped_histogram(
    values: ArrayLike,
    groups: ArrayLike,
    *,
    filled: str = "good",
    threshold: float | Threshold | None = None,
    legend: str | None = "type",
    note: str | None = None,
    **named: Any,
) -> Figure:
    """How the values (N,) of each group (N,) spread: one group as filled bars, the others as lines, with their counts.

    The bins are of equal width, on ``xscale="log"`` of equal ratio; a threshold lies within the axis.
    """
    numbers, names = np.asarray(values, dtype=float), np.array([str(name) for name in groups], dtype=object)
    marks = numbers if threshold is None else np.r_[numbers, float(threshold)]
    low, high = float(marks.min()), float(marks.max())
    if named.get("xscale") == "log":
        bins = np.geomspace(low / 1.1, high * 1.1, 31)
    else:
        bins = np.linspace(low, high, 41) if high > low else np.linspace(low - 0.5, low + 0.5, 41)
    axis = new_figure(4.2, note).subplots()
    for number, name in enumerate(sorted(set(names), key=lambda name: (name != filled, name))):
        look = {"histtype": "step", "linewidth": 1.8, **series_style(number - (filled in names))}
        look = {"color": GREY} if name == filled else look
        axis.hist(numbers[names == name], bins, label=f"{shorten(name)} (n={(names == name).sum()})", **look)
    _name(axis, named)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))  # photos are whole
    if named.get("yscale") == "log":
        axis.set_ylim(0.7, None)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    if threshold is not None:
        threshold_line(axis, float(threshold))
    legend_right(axis, legend)
    return axis.get_figure()


def stacked_bars(
    counts: pd.DataFrame,
    *,
    colours: Mapping[str, str] | None = None,
    legend: str | None = "type",
    axis: Axes | None = None,
    note: str | None = None,
    **named: Any,
) -> Figure:
    """A bar a row, a piece a column, with its count inside and the row's total behind it.

    ``colours`` is column -> colour (default: those of defect types).
    """
    alone, axis = axis is None, axis or new_figure(1.5 + 0.55 * len(counts), note).subplots()
    order = list(colours or sorted(counts.columns, key=lambda name: (name != "good", str(name))))
    left, longest = np.zeros(len(counts)), max(counts.sum(axis=1).max(), 1)
    for number, name in enumerate(order, start=-("good" in order)):
        look = {"color": CYCLE[number % len(CYCLE)], "hatch": _HATCHES[number // len(CYCLE) % len(_HATCHES)]}
        look = {"color": colours[name] if colours else GREY} if colours or name == "good" else look
        label = f"{shorten(name, 24)} (n={counts[name].sum():.0f})"
        bars = axis.barh(range(len(counts)), counts[name], 0.7, left, edgecolor="white", label=label, **look)
        words = counts[name].where(counts[name] >= 0.05 * longest, "").astype(str)
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "boxstyle": "round,pad=0.15"}
        axis.bar_label(bars, words, label_type="center", fontsize=9, bbox=box)
        left += counts[name]
    for place, total in enumerate(left):
        axis.text(total + 0.01 * longest, place, f"{total:.0f}", va="center", fontweight="bold")
    axis.set_yticks(range(len(counts)), [shorten(name, 30) for name in counts.index])
    axis.set(ylim=(len(counts) - 0.5, -0.5), xlim=(0, 1.08 * longest))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name(axis, named)
    if alone:
        legend_right(axis, legend)
    return axis.get_figure()


def confusion_figure(confusion: pd.DataFrame, *, note: str | None = None, **named: Any) -> Figure:
    """Photos of each class (rows) by what they were called (columns): the count, and below it the share of the row."""
    counts, totals = confusion.to_numpy(), confusion.sum(axis=1)
    shares = counts / np.maximum(totals.to_numpy(), 1)[:, None]
    rows = [f"{shorten(name, 22)} (n={total})" for name, total in totals.items()]
    columns = [shorten(name, 22) for name in confusion.columns]
    figure = new_figure(2.3 + 0.6 * len(rows), note, width=min(11.0, 4.5 + 0.75 * len(columns)))
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        words = f"{counts[row, column]}\n{100 * share:.0f} %" if counts[row, column] else "0"
        axis.text(column, row, words, ha="center", va="center", fontsize=8, color="white" if share > 0.55 else "black")
    axis.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(rows)), rows)
    bar = figure.colorbar(image, ax=axis, pad=0.015, aspect=25, label="share of the true class")
    percents(bar.ax.yaxis)
    axis.set(**{"xlabel": "predicted", "ylabel": "true", "title": f"Confusion of {totals.sum()} photos"} | named)
    return figure


def _name(axis: Axes, named: Mapping[str, Any]) -> None:
    axis.set(**named)
    for side in (axis.xaxis, axis.yaxis):
        if side.get_scale() == "log":
            plain_log(side)
