"""Sizes to look at: photos with measured defects drawn on them, and figures of their table.

As everywhere in :mod:`helpers.views`: data in, a picture or a matplotlib Figure out; nothing is loaded, saved or shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from helpers.analysis.severity import LEVELS, p_chart_limits
from helpers.drawing import SEVERITY_COLOURS
from helpers.thresholds import percent
from helpers.views.figures import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    MAP_COLOURS,
    VERMILLION,
    new_figure,
    shorten,
    type_style,
)

_HISTOGRAM_BINS = 20
_MIN_HEAT_CELLS = 8


def size_distribution(table: pd.DataFrame, measure: str = "length", *, note: str | None = None) -> Figure:
    """Shows how a size is distributed, type by type: a histogram with bins of equal ratio, and each defect's size.

    Args:
        table: from `measure_table`, with at least one defect; without ``defect_type`` all are one.
        measure: column, above 0, such as length or area.
        note: Printed in the corner.

    Raises:
        ValueError: When there is no defect, or the measure is no column.
    """
    _need(table, measure)
    kinds = table["defect_type"] if "defect_type" in table else pd.Series("defect", index=table.index)
    order = kinds.value_counts().index.tolist()
    values = table[measure].to_numpy(dtype=float)
    low, high = values.min() / 1.1, values.max() * 1.1
    bins = np.geomspace(low, high, _HISTOGRAM_BINS + 1)
    figure = new_figure(3.6 + 0.36 * len(order), note)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 0.6 + 0.36 * len(order)))
    parts = [values[(kinds == kind).to_numpy()] for kind in order]
    colours, hatches = zip(*(type_style(kind, number) for number, kind in enumerate(order)), strict=True)
    upper.hist(parts, bins, stacked=True, color=colours, hatch=hatches, edgecolor="white", linewidth=0.5)
    spread = np.random.default_rng(0)
    for number, (part, colour) in enumerate(zip(parts, colours, strict=True)):
        places = number + spread.uniform(-0.25, 0.25, len(part))
        lower.scatter(part, places, s=12, color=colour, marker="o^s"[number // len(CYCLE) % 3], alpha=0.6, linewidth=0)
        lower.plot([np.median(part)] * 2, [number - 0.38, number + 0.38], color="black", linewidth=1.8)
    lower.set_yticks(
        range(len(order)), [f"{shorten(kind)} (n={len(part)})" for kind, part in zip(order, parts, strict=True)]
    )
    lower.set_ylim(len(order) - 0.4, -0.6)
    upper.set_xscale("log")
    upper.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    upper.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if high / low < 30 and _is_shown(value) else "")
    upper.set(xlim=(low, high), ylabel="defects")
    upper.yaxis.set_major_locator(MaxNLocator(integer=True))
    lower.set(xlabel=_axis_name(measure, table), ylabel="type")
    upper.set_title(f"{_words(measure).capitalize()} of {len(table)} defects by type (bar: median)")
    for axis in (upper, lower):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def severity_bars(table: pd.DataFrame, *, note: str | None = None) -> Figure:
    """Shows how many defects of each type are low, medium, high and critical.

    Args:
        table: with ``severity`` and perhaps ``defect_type``; at least one defect.
        note: Printed in the corner.

    Raises:
        ValueError: When there is no defect or no severity.
    """
    _need(table, "severity")
    kinds = table["defect_type"] if "defect_type" in table else pd.Series("defect", index=table.index)
    counts = pd.crosstab(kinds, table["severity"].astype(str)).reindex(columns=list(LEVELS), fill_value=0)
    counts = counts.sort_values(["critical", "high", "medium", "low"], ascending=False)
    figure = new_figure(1.7 + 0.5 * len(counts), note)
    axis = figure.subplots()
    left = np.zeros(len(counts))
    places = np.arange(len(counts))
    for level in LEVELS:
        values = counts[level].to_numpy()
        label = f"{level} (n={values.sum()})"
        axis.barh(places, values, left=left, color=SEVERITY_COLOURS[level], edgecolor="white", height=0.65, label=label)
        for place, value, start in zip(places, values, left, strict=True):
            if value >= 0.04 * counts.sum(axis=1).max():
                axis.text(start + value / 2, place, str(value), ha="center", va="center", fontsize=9)
        left += values
    axis.set_yticks(places, [f"{shorten(kind)} (n={total})" for kind, total in counts.sum(axis=1).items()])
    axis.invert_yaxis()
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="defects", ylabel="type", title=f"Severity of {len(table)} defects by type")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, title="severity", fontsize=9)
    return figure


def position_heatmap(
    table: pd.DataFrame, photo: np.ndarray | None = None, *, n_photos: int | None = None, note: str | None = None
) -> Figure:
    """Shows where on the product defects lie: counts in cells, and each centre.

    Positions are shares of the box around the product where the table was measured with its mask, else of the photo;
    then products must lie alike in all photos.

    Args:
        table: from `measure_table`, with at least one defect.
        photo: (H, W, 3) or (H, W) uint8, a typical product to lay under, cut out if the
            table was measured with masks; also gives the shape. Default: a blank square.
        n_photos: Photos looked at, for the title.
        note: Printed in the corner.

    Raises:
        ValueError: When there is no defect.
    """
    _need(table, "relative_x")
    height, width = (1, 1) if photo is None else photo.shape[:2]
    # About one cell for every two defects, square in the photo.
    cells = min(24, max(_MIN_HEAT_CELLS, round(math.sqrt(len(table) / 2))))
    rows, columns = max(2, round(cells * min(1, height / width))), max(2, round(cells * min(1, width / height)))
    counts, _, _ = np.histogram2d(
        table["relative_y"], table["relative_x"], bins=(rows, columns), range=((0, 1), (0, 1))
    )
    figure = new_figure(min(7.0, max(3.2, 6.2 * height / width)), note, width=8)
    axis = figure.subplots()
    extent = (0, 100, 100, 0)
    if photo is not None:
        grey = photo if photo.ndim == 2 else cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
        axis.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=extent, aspect=height / width)
    shown = np.ma.masked_equal(counts, 0)
    image = axis.imshow(
        shown, cmap=MAP_COLOURS, extent=extent, aspect=height / width, vmin=0, vmax=max(counts.max(), 1), alpha=0.75
    )
    axis.scatter(
        100 * table["relative_x"], 100 * table["relative_y"], s=9, color="white", edgecolor="black", linewidth=0.5
    )
    axis.set(xlim=(0, 100), ylim=(100, 0), xlabel="across the product (%)", ylabel="down the product (%)")
    photos = f" on {n_photos} photos" if n_photos else ""
    axis.set_title(f"Where {len(table)} defects lie{photos} (dots: their centres)")
    bar = figure.colorbar(image, ax=axis, shrink=0.85, label="defects a cell")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def p_chart(
    n_defective: Sequence[int],
    n_inspected: Sequence[int],
    names: Sequence[str] | None = None,
    *,
    note: str | None = None,
) -> Figure:
    """Shows the share of defective photos in each subgroup, with limits of three standard deviations (a p-chart).

    The limits are those of `helpers.analysis.severity.p_chart_limits`. A point outside them calls for a look at what
    changed; with a few photos a subgroup the normal approximation behind them is rough.

    Args:
        n_defective: Defective photos in each subgroup, in order of time.
        n_inspected: Photos in each, above 0.
        names: Of the subgroups; default: their numbers.
        note: Printed in the corner.

    Raises:
        ValueError: When the sequences do not fit, or more are defective than inspected.
    """
    centre, lower, upper = p_chart_limits(n_defective, n_inspected)
    defective, inspected = np.asarray(n_defective, dtype=float), np.asarray(n_inspected, dtype=float)
    share, x = defective / inspected, np.arange(len(defective))
    outside = (share > upper) | (share < lower)
    figure = new_figure(4.2, note)
    axis = figure.subplots()
    edges = np.arange(len(x) + 1) - 0.5
    axis.stairs(upper, edges, baseline=None, color=VERMILLION, linestyle="--", label="limits: 3 standard deviations")
    axis.stairs(lower, edges, baseline=None, color=VERMILLION, linestyle="--")
    axis.axhline(centre, color=GREEN, linewidth=1.4, label=f"all: {percent(centre)} of {int(inspected.sum())}")
    axis.plot(x, share, color=BLUE, marker="o", markersize=5, linewidth=1.2, label="share of a subgroup")
    axis.scatter(x[outside], share[outside], s=110, facecolor="none", edgecolor=VERMILLION, linewidth=2, zorder=4)
    _name_subgroups(axis, names, len(x))
    axis.set_ylim(0, min(1.02, 1.15 * max(upper.max(), share.max(), 0.01)))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    fewest, most = int(inspected.min()), int(inspected.max())
    counts = f"n={most}" if fewest == most else f"n={fewest} to {most}"
    axis.set(xlabel="subgroup, in sequence", ylabel="defective photos")
    axis.set_title(f"p-chart: {int(outside.sum())} of {len(x)} subgroups outside the limits ({counts} photos each)")
    axis.spines[["top", "right"]].set_visible(False)
    handles, _ = axis.get_legend_handles_labels()
    handles.append(_ring("outside the limits"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def largest_size_chart(
    largest: Sequence[float],
    unit: str,
    names: Sequence[str] | None = None,
    *,
    measure: str = "length",
    limit: float | None = None,
    note: str | None = None,
) -> Figure:
    """Shows the largest defect of each photo (or subgroup) in order of time.

    Args:
        largest: Largest size of each in ``unit``; NaN or 0: no defect.
        unit: Of the sizes, such as mm; areas as mm².
        names: Of the photos; default: their numbers.
        measure: What is shown.
        limit: A limit to draw, in ``unit``.
        note: Printed in the corner.

    Raises:
        ValueError: When there is no photo.
    """
    values = np.nan_to_num(np.asarray(largest, dtype=float))
    if values.ndim != 1 or not len(values):
        raise ValueError("largest is empty; give one size a photo.")
    x, over = np.arange(len(values)), np.zeros(len(values), dtype=bool) if limit is None else values > limit
    figure = new_figure(4.2, note)
    axis = figure.subplots()
    none = values == 0
    axis.vlines(x[~none], 0, values[~none], color=GREY, linewidth=1)
    axis.scatter(x[none], values[none], s=10, color=GREY, label=f"no defect (n={none.sum()})", clip_on=False, zorder=3)
    fine = ~none & ~over
    axis.scatter(x[fine], values[fine], s=28, color=BLUE, label=f"largest defect (n={fine.sum()})", zorder=3)
    if limit is not None:
        axis.axhline(limit, color=VERMILLION, linestyle="--", label=f"limit {limit:g} {unit}")
        axis.scatter(
            x[over], values[over], s=44, color=VERMILLION, marker="D", label=f"over it (n={over.sum()})", zorder=4
        )
    _name_subgroups(axis, names, len(values))
    axis.set_ylim(0, 1.12 * max(values.max(), limit or 0, 1e-9))
    axis.set(xlabel="photo, in sequence", ylabel=f"largest {_words(measure)} ({unit})")
    axis.set_title(f"Largest defect of each of {len(values)} photos")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def size_error_curves(
    curves: Mapping[str, pd.DataFrame],
    thresholds: Mapping[str, float] | None = None,
    *,
    note: str | None = None,
) -> Figure:
    """Shows, detector by detector, how the error of size depends on the pixel threshold.

    Scores of different detectors have different units, so each has a column of its own; errors share one scale. Shaded
    are the quartiles over the defects found; how many of all those are is in the last row.

    Args:
        curves: Detector -> as from `helpers.analysis.sizing.size_error_by_threshold`.
        thresholds: Detector -> its own pixel threshold, drawn as a line.
        note: Printed in the corner.

    Raises:
        ValueError: When there is no detector.
    """
    if not curves:
        raise ValueError("curves is empty; give one table a detector.")
    figure = new_figure(6.6, note, width=max(6.0, min(12.0, 1.6 + 2.8 * len(curves))))
    axes = figure.subplots(3, len(curves), sharex="col", sharey="row", squeeze=False, height_ratios=(3, 3, 2))
    unit = next(iter(curves.values()))["unit"].iloc[0]
    names = {"area_error": "measured over\ntrue area (median)", "length_error": f"length error\n(median, {unit})"}
    for column, (model, unsorted) in enumerate(curves.items()):
        rows, colour = unsorted.sort_values("threshold"), CYCLE[column % len(CYCLE)]
        for place, name in enumerate(names):
            axis = axes[place, column]
            right = 1 if name == "area_error" else 0  # areas are shown as ratios
            axis.axhline(right, color="black", linewidth=0.8)
            low, high = right + rows[f"{name}_low"], right + rows[f"{name}_high"]
            axis.fill_between(rows["threshold"], low, high, color=colour, alpha=0.2)
            axis.plot(rows["threshold"], right + rows[name], color=colour, marker="o", markersize=3.5, linewidth=1.6)
        axes[2, column].plot(rows["threshold"], rows["found"], color=colour, marker="o", markersize=3.5, linewidth=1.6)
        axes[0, column].set_title(f"{shorten(model, 20)}\n(n={int(rows['n'].max())} defects)", fontsize=10)
        axes[2, column].set_xlabel("pixel threshold (raw)")
        axes[2, column].xaxis.set_major_locator(MaxNLocator(4))
        for axis in axes[:, column]:
            axis.spines[["top", "right"]].set_visible(False)
            if thresholds and model in thresholds:
                axis.axvline(thresholds[model], color="black", linestyle="--", linewidth=1.2)
    for place, name in enumerate(names.values()):
        axes[place, 0].set_ylabel(name)
    # Outliers at the ends of the curves would flatten all the rest.
    axes[0, 0].set_yscale("log")
    axes[0, 0].set(ylim=(0.08, 25), yticks=[0.1, 0.2, 0.5, 1, 2, 5, 10, 20])
    axes[0, 0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[0, 0].yaxis.set_minor_locator(NullLocator())
    lengths = pd.concat(
        [pd.concat([table["length_error_low"], table["length_error_high"]]) for table in curves.values()]
    )
    reach = lengths.abs().quantile(0.9)
    reach = 1.3 * reach if np.isfinite(reach) and reach > 0 else 1.0
    axes[1, 0].set_ylim(-reach, reach)
    axes[2, 0].set(ylabel="defects found", ylim=(-0.03, 1.05))
    axes[2, 0].yaxis.set_major_formatter(PercentFormatter(1.0))
    handles: list[Line2D | Patch] = [Patch(color="#606060", alpha=0.25, label="quartiles of the defects found")]
    if thresholds:
        handles.insert(
            0, Line2D([], [], color="black", linestyle="--", linewidth=1.2, label="the run's pixel threshold")
        )
    legend = figure.legend(
        handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=9, alignment="left"
    )
    legend.set_title("Size error against the threshold", {"size": 12})
    return figure


def _need(table: pd.DataFrame, column: str) -> None:
    if column not in table:
        raise ValueError(f"The table has no column {column!r}; it has {', '.join(map(str, table.columns))}.")
    if table.empty:
        raise ValueError("The table has no defect: there is nothing to show.")


def _words(measure: str) -> str:
    return measure.removesuffix("_px").replace("_", " ")


def _axis_name(measure: str, table: pd.DataFrame) -> str:
    unit = "px" if measure.endswith("_px") else str(table["unit"].iloc[0])
    return f"{_words(measure)} ({unit}{'²' if measure.startswith('area') else ''})"


def _is_shown(value: float) -> bool:
    """Whether a minor mark of a logarithmic axis is 2 or 5 times a power of ten."""
    return f"{value:.0e}"[0] in "25"


def _ring(label: str) -> Line2D:
    return Line2D(
        [],
        [],
        marker="o",
        markersize=10,
        markerfacecolor="none",
        markeredgecolor=VERMILLION,
        markeredgewidth=2,
        linestyle="",
        label=label,
    )


def _name_subgroups(axis: object, names: Sequence[str] | None, n: int) -> None:
    """Names under the points: of at most twelve, evenly spread."""
    if names is not None and len(names) != n:
        raise ValueError(f"names has {len(names)} entries for {n} points.")
    shown = np.arange(0, n, math.ceil(n / 12))
    texts = [str(place + 1) if names is None else shorten(names[place], 14) for place in shown]
    turned = max(map(len, texts)) > 5
    axis.set_xticks(shown, texts, rotation=35 if turned else 0, ha="right" if turned else "center")
    axis.set_xlim(-0.7, n - 0.3)
