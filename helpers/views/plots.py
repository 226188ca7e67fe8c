"""Primitives that figures are composed of: `interval_bars`, `curves`, `grouped_histogram`, `stacked_shares` and
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

from helpers.drawing import BLACK, BLUE, GREEN, GREY, VERMILLION, shorten
from helpers.thresholds import Threshold
from helpers.views.style import (
    MARKERS,
    legend_right,
    new_figure,
    percents,
    plain_log,
    series_style,
    threshold_line,
    type_style,
)

_DARK = (BLUE, BLACK, VERMILLION, GREEN)  # white letters on them


def interval_bars(
    table: pd.DataFrame,
    value: str,
    names: Sequence[str],
    *,
    ends: tuple[str, str] | None = None,
    words: Sequence[str] | None = None,
    series: str | None = None,
    colours: str | Sequence[str] = BLUE,
    axis: Axes | None = None,
    note: str | None = None,
    **named: Any,
) -> Figure:
    """A row a value: a dot with its interval, its name on the left, ``words`` on the right (default: the numbers).

    ``ends`` are the columns of the interval; default: ``<value>_low`` and ``<value>_high``, or ``low`` and ``high``.
    Rows of one name that differ in the column ``series`` lie close together, each series in its colour; without one
    ``colours`` are those of the rows. Without ``xlim`` values are shares from 0 to 1. A value that is NaN is said.
    """
    alone = axis is None
    places, number = pd.factorize(pd.Series(list(names), dtype=object))[0].astype(float), np.zeros(len(table), int)
    if series is not None:
        number, kinds = pd.factorize(table[series])
        places += 0.8 * ((number + 0.5) / len(kinds) - 0.5)
        colours = [series_style(each, kinds[each])["color"] for each in number]
    if axis is None:
        axis = new_figure(1.6 + 0.42 * max(1, len(table) if series is None else 0.6 * len(table)), note).subplots()
    if ends is None:
        ends = (f"{value}_low", f"{value}_high") if f"{value}_low" in table else ("low", "high")
    colours = [colours] * len(table) if isinstance(colours, str) else colours
    middle = table[value].to_numpy(dtype=float)
    low, high = (table[end].to_numpy(dtype=float) for end in ends)
    for place, at, left, right, colour, kind in zip(places, middle, low, high, colours, number, strict=True):
        axis.plot([left, right], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        marker = MARKERS[kind % len(MARKERS)]
        axis.plot([at], [place], marker, color=colour, markeredgecolor=BLACK, markersize=8, clip_on=False, zorder=3)
    if words is None and series is None:
        words = [
            f"{at:.2f}  [{left:.2f}, {right:.2f}]" if np.isfinite(at) else "no value"
            for at, left, right in zip(middle, low, high, strict=True)
        ]
    for place, text in zip(places, words or (), strict=False):
        axis.text(1.03, place, text, va="center", fontsize=9, transform=axis.get_yaxis_transform())
    axis.set_yticks(range(len(set(names))), [shorten(name, 34) for name in dict.fromkeys(names)])
    axis.set_ylim(len(set(names)) - 0.4, -0.6)
    axis.grid(axis="x")
    if "xlim" not in named:
        percents(axis.xaxis)
    _name(axis, {"xlim": (0, 1)} | named)
    if alone and series is not None:
        looks = [
            {**series_style(each, kind), "marker": MARKERS[each % len(MARKERS)]} for each, kind in enumerate(kinds)
        ]
        handles = [Line2D([], [], label=shorten(kind), **look) for kind, look in zip(kinds, looks, strict=True)]
        legend_right(axis, series, handles)
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
    alone = axis is None
    axis = new_figure(4.4, note).subplots() if axis is None else axis
    for number, (name, table) in enumerate(tables.items()):
        style = series_style(number, name)
        across, up = (np.asarray(table[column], dtype=float) for column in (x, y))
        known = np.isfinite(across) & np.isfinite(up)
        options = {"marker": MARKERS[number % len(MARKERS)] if marker or known.sum() == 1 else "", "markersize": 5}
        options["drawstyle"] = "steps-post" if step else "default"
        axis.plot(across[known], up[known], label=name, clip_on=False, **style, **options)
        if band is not None:
            low, high = (np.asarray(table[column], dtype=float)[known] for column in band)
            area = {"step": "post" if step else None, "alpha": 0.18, "linewidth": 0}
            axis.fill_between(across[known], low, high, color=style["color"], **area)
        if name in (levels or {}):
            axis.axhline(levels[name], color=style["color"], linestyle=":", linewidth=1.2, zorder=1)
        if np.isfinite((dots or {}).get(name, np.nan)).all():
            options = {"markersize": 9, "markeredgecolor": BLACK, "clip_on": False, "zorder": 4}
            axis.plot(*([each] for each in dots[name]), "o", color=style["color"], **options)
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
    log: bool = False,
    legend: str | None = "type",
    axis: Axes | None = None,
    note: str | None = None,
    **named: Any,
) -> Figure:
    """How the values (N,) of each group (N,) spread: one group as filled bars, the others as lines, with their counts.

    Raises:
        ValueError: not one group each, or no value.
    """
    numbers, names = np.asarray(values, dtype=float), np.array([str(name) for name in groups], dtype=object)
    if numbers.shape != names.shape or not numbers.size:
        raise ValueError(f"values {numbers.shape} and groups {names.shape} must be two (N,) arrays with N > 0.")
    alone = axis is None
    axis = new_figure(4.2, note).subplots() if axis is None else axis
    marks = numbers if threshold is None else np.r_[numbers, float(threshold)]
    low, high = float(marks.min()), float(marks.max())
    bins = np.linspace(low, high, 41) if high > low else np.linspace(low - 0.5, low + 0.5, 41)
    if filled in names:
        chosen = numbers[names == filled]
        axis.hist(chosen, bins, color=GREY, label=f"{shorten(filled)} (n={chosen.size})")
    for number, name in enumerate(sorted(set(names) - {filled})):
        chosen, style = numbers[names == name], series_style(number)
        axis.hist(chosen, bins, histtype="step", linewidth=1.8, label=f"{shorten(name)} (n={chosen.size})", **style)
    if log:
        axis.set(yscale="log", ylim=(0.7, None))
        plain_log(axis.yaxis)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # photos are whole
    else:
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    _name(axis, named)
    if threshold is not None:
        threshold_line(axis, float(threshold))
    if alone:
        legend_right(axis, legend)
    return axis.get_figure()


def stacked_shares(
    counts: pd.DataFrame,
    *,
    colours: Mapping[str, str] | None = None,
    shares: bool = False,
    legend: str | None = "type",
    axis: Axes | None = None,
    note: str | None = None,
    **named: Any,
) -> Figure:
    """A bar a row, a piece a column, with its count inside and the row's total behind it.

    ``colours`` is column -> colour (default: those of defect types); with ``shares`` all bars are equally long.
    """
    alone = axis is None
    axis = new_figure(1.5 + 0.55 * len(counts), note).subplots() if axis is None else axis
    order = list(colours or sorted(counts.columns, key=lambda name: (name != "good", str(name))))
    totals = counts.sum(axis=1).to_numpy(dtype=float)
    whole = np.where(totals > 0, totals, 1) if shares else np.ones(len(counts))
    longest = 1.0 if shares else max(float(totals.max(initial=0)), 1.0)
    left = np.zeros(len(counts))
    for number, name in enumerate(order):
        style = {"color": colours[name]} if colours else type_style(name, number - ("good" in order))
        values = counts[name].to_numpy(dtype=float)
        label = f"{shorten(name, 24)} (n={int(values.sum())})"
        bars = axis.barh(range(len(counts)), values / whole, left=left, edgecolor="white", height=0.7, **style)
        bars.set_label(label)
        words = [
            f"{int(value)}" if value / all_ >= 0.05 * longest else "" for value, all_ in zip(values, whole, strict=True)
        ]
        dark = style["color"] in _DARK and not style.get("hatch")
        for text in axis.bar_label(bars, words, label_type="center", fontsize=9, color="white" if dark else "black"):
            if style.get("hatch"):
                text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
        left += values / whole
    for place, (end, total) in enumerate(zip(left, totals, strict=True)):
        axis.text(end + 0.01 * longest, place, f"{int(total)}", va="center", fontweight="bold")
    axis.set_yticks(range(len(counts)), [shorten(name, 30) for name in counts.index])
    axis.set(ylim=(len(counts) - 0.5, -0.5), xlim=(0, 1.08 * longest))
    if shares:
        axis.set_xticks(np.linspace(0, 1, 6))
        percents(axis.xaxis)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name(axis, named)
    if alone:
        legend_right(axis, legend)
    return axis.get_figure()


def confusion_figure(confusion: pd.DataFrame, *, note: str | None = None, **named: Any) -> Figure:
    """Photos of each class (rows) by what they were called (columns): the count, and below it the share of the row."""
    counts = confusion.to_numpy()
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    rows = [f"{shorten(name, 22)} (n={total})" for name, total in zip(confusion.index, totals, strict=True)]
    columns = [shorten(name, 22) for name in confusion.columns]
    cell = float(np.clip(7.0 / len(columns), 0.5, 0.95))
    left, below = 0.075 * max(map(len, rows)) + 0.5, 0.06 * max(map(len, columns)) + 0.7
    width = max(4.5, cell * len(columns) + left + 1.1)
    figure = new_figure(0.8 * cell * len(rows) + below + 0.5, note, width=width)
    axis = figure.subplots()
    image = axis.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolor="white", linewidth=1.5)
    for row, column in np.ndindex(counts.shape):
        count, share = counts[row, column], shares[row, column]
        look = {"fontsize": 9 if cell > 0.7 else 7, "color": "white" if share > 0.55 else "black"}
        words = f"{count}\n{100 * share:.0f} %" if count else "0"
        axis.text(column + 0.5, row + 0.5, words, ha="center", va="center", linespacing=1.1, **look)
    axis.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.invert_yaxis()
    bar = figure.colorbar(image, ax=axis, pad=0.015, aspect=25, label="share of the true class")
    percents(bar.ax.yaxis)
    axis.set(**{"xlabel": "predicted", "ylabel": "true", "title": f"Confusion of {totals.sum()} photos"} | named)
    return figure


def _name(axis: Axes, named: Mapping[str, Any]) -> None:
    axis.set(**named)
    for side in (axis.xaxis, axis.yaxis):
        if side.get_scale() == "log":
            plain_log(side)
