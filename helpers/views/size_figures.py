"""Figures of measured sizes: how they spread, where defects lie, and how far sizes can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from helpers.drawing import VERMILLION, shorten
from helpers.views.style import (
    MARKERS,
    legend_above,
    new_figure,
    percents,
    plain_log,
    series_style,
    type_style,
)


def size_distribution(table: pd.DataFrame, measure: str = "length", *, note: str | None = None) -> Figure:
    """How a size is distributed, type by type: a histogram in bins of equal ratio, each defect, and the medians."""
    kinds = table["defect_type"] if "defect_type" in table else pd.Series("defect", index=table.index)
    parts = {kind: table.loc[kinds == kind, measure].to_numpy(dtype=float) for kind in kinds.value_counts().index}
    low, high = table[measure].min() / 1.1, table[measure].max() * 1.1
    figure = new_figure(3.6 + 0.36 * len(parts), note)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 0.6 + 0.36 * len(parts)))
    styles = [type_style(kind, number) for number, kind in enumerate(parts)]
    looks = {"color": [style["color"] for style in styles], "hatch": [style["hatch"] for style in styles]}
    upper.hist(list(parts.values()), np.geomspace(low, high, 21), stacked=True, edgecolor="white", **looks)
    spread = np.random.default_rng(0)
    for number, (part, colour) in enumerate(zip(parts.values(), looks["color"], strict=True)):
        places = number + spread.uniform(-0.25, 0.25, len(part))
        lower.scatter(part, places, s=12, color=colour, alpha=0.6, linewidth=0)
        lower.plot([np.median(part)] * 2, [number - 0.38, number + 0.38], color="black")
    lower.set_yticks(range(len(parts)), [f"{shorten(kind)} (n={len(part)})" for kind, part in parts.items()])
    lower.set_ylim(len(parts) - 0.4, -0.6)
    unit = "px" if measure.endswith("_px") else table["unit"].iloc[0]
    words = measure.removesuffix("_px").replace("_", " ")
    lower.set(xlabel=f"{words} ({unit}{'²' if measure.startswith('area') else ''})", ylabel="type")
    title = f"{words.capitalize()} of {len(table)} defects by type (bar: median)"
    upper.set(xscale="log", xlim=(low, high), ylabel="defects", title=title)
    upper.yaxis.set_major_locator(MaxNLocator(integer=True))
    plain_log(upper.xaxis)
    return figure


def position_heatmap(
    table: pd.DataFrame, photo: np.ndarray | None = None, *, n_photos: int | None = None, note: str | None = None
) -> Figure:
    """Where on the product defects lie: counts in cells, and each centre, over a typical photo (uint8) of one product.

    Positions (``relative_x``, ``relative_y``) are shares of the box around the product where the table was measured
    with its mask, else of the photo; then products must lie alike in all photos.
    """
    height, width = (1, 1) if photo is None else photo.shape[:2]
    cells = min(24, max(8, round(math.sqrt(len(table) / 2))))  # about one for every two defects, square in the photo
    shape = max(2, round(cells * min(1, height / width))), max(2, round(cells * min(1, width / height)))
    y, x = table["relative_y"], table["relative_x"]
    counts, _, _ = np.histogram2d(y, x, bins=shape, range=((0, 1), (0, 1)))
    figure = new_figure(min(7.0, max(3.2, 6.2 * height / width)), note, width=8)
    axis = figure.subplots()
    place = {"extent": (0, 100, 100, 0), "aspect": height / width}
    if photo is not None:
        grey = photo if photo.ndim == 2 else cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
        axis.imshow(grey, cmap="gray", vmin=0, vmax=255, **place)
    image = axis.imshow(np.ma.masked_equal(counts, 0), vmin=0, vmax=max(counts.max(), 1), alpha=0.75, **place)
    axis.scatter(100 * x, 100 * y, s=9, color="white", edgecolor="black", linewidth=0.5)
    axis.set(xlim=(0, 100), ylim=(100, 0), xlabel="across the product (%)", ylabel="down the product (%)")
    photos = f" on {n_photos} photos" if n_photos else ""
    axis.set_title(f"Where {len(table)} defects lie{photos} (dots: their centres)")
    bar = figure.colorbar(image, ax=axis, shrink=0.85, label="defects a cell")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def size_error_curves(
    tables: Mapping[str, pd.DataFrame], thresholds: Mapping[str, float], *, note: str | None = None
) -> Figure:
    """How the error of size depends on the pixel threshold, a column a detector: their scores have different units.

    ``tables`` are of `helpers.studies.sizes.threshold_errors`; ``thresholds`` are marked. Shaded are the
    quartiles over the defects found; how many of all those are is in the last row.
    """
    figure = new_figure(6.6, note, width=max(6.0, min(12.0, 1.6 + 2.8 * len(tables))))
    axes = figure.subplots(3, len(tables), sharex="col", sharey="row", squeeze=False, height_ratios=(3, 3, 2))
    unit = next(iter(tables.values()))["unit"].iloc[0]
    ylabels = ("measured over\ntrue area (median)", f"length error\n(median, {unit})", "defects found")
    for column, (model, unsorted) in enumerate(tables.items()):
        rows, style = unsorted.sort_values("threshold"), {"color": series_style(column, model)["color"]}
        for axis, name, right in zip(
            axes[:, column], ("area_error", "length_error", "found"), (1, 0, None), strict=True
        ):
            value = rows[name] + (right or 0)  # areas are shown as ratios
            axis.plot(rows["threshold"], value, marker="o", markersize=3.5, linewidth=1.6, **style)
            if right is not None:
                axis.axhline(right, color="black", linewidth=0.8)
                quartiles = right + rows[f"{name}_low"], right + rows[f"{name}_high"]
                axis.fill_between(rows["threshold"], *quartiles, alpha=0.2, **style)
            if model in thresholds:
                axis.axvline(thresholds[model], color="black", linestyle="--", linewidth=1.2)
        axes[0, column].set_title(f"{shorten(model, 20)}\n(n={int(rows['n'].max())} defects)", fontsize=10)
        axes[2, column].set_xlabel("pixel threshold (raw)")
        axes[2, column].xaxis.set_major_locator(MaxNLocator(4))
    for axis, ylabel in zip(axes[:, 0], ylabels, strict=True):
        axis.set_ylabel(ylabel)
    axes[0, 0].set(yscale="log", ylim=(0.08, 25))  # outliers at the ends of the curves would flatten all the rest
    plain_log(axes[0, 0].yaxis)
    lengths = pd.concat(
        [table[[f"length_error_{end}" for end in ("low", "high")]].stack() for table in tables.values()]
    )
    reach = lengths.abs().quantile(0.9)
    reach = 1.3 * reach if np.isfinite(reach) and reach > 0 else 1.0
    axes[1, 0].set_ylim(-reach, reach)
    axes[2, 0].set_ylim(-0.03, 1.05)
    percents(axes[2, 0].yaxis)
    line = Line2D([], [], color="black", linestyle="--", linewidth=1.2, label="the run's pixel threshold")
    shade = Patch(color="#606060", alpha=0.25, label="quartiles of the defects found")
    legend_above(figure, [line, shade], "Size error against the threshold")
    return figure


def size_accuracy(
    compared: pd.DataFrame, limits: Mapping[str, Mapping[float, float]], *, note: str | None = None
) -> Figure:
    """How far measured sizes are off the drawn ones, against the drawn size, type by type.

    ``limits`` is ``area`` and ``length`` -> {drawn size from which it holds: largest error}.
    """
    figure = new_figure(4.4, note)
    axes = figure.subplots(1, 2)
    for axis, measure, unit in zip(axes, ("area", "length"), ("px²", "px"), strict=True):
        for number, (kind, rows) in enumerate(compared.groupby("defect_type")):
            style = {"s": 20, "color": type_style(kind, number)["color"], "alpha": 0.75, "linewidth": 0}
            label, marker = f"{shorten(kind)} (n={len(rows)})", MARKERS[number % len(MARKERS)]
            axis.scatter(rows[f"true_{measure}"], rows[f"{measure}_error"], label=label, marker=marker, **style)
        axis.axhline(0, color="black", linewidth=0.8)
        starts = list(limits[measure])
        ends = [*starts[1:], max(1.15 * compared[f"true_{measure}"].max(), 1.5 * starts[-1])]
        for (start, error), end in zip(limits[measure].items(), ends, strict=True):
            for sign in (-1, 1):
                axis.plot([start, end], [sign * error] * 2, color=VERMILLION, linestyle="--", linewidth=1.2)
        axis.set(xlabel=f"drawn {measure} ({unit})", ylabel=f"measured minus drawn {measure}")
    axes[0].set(xscale="log", title=f"Area of {len(compared)} drawn defects")
    axes[1].set(title="Length", ylabel="measured minus drawn length (px)")
    plain_log(axes[0].xaxis)
    percents(axes[0].yaxis)
    line = Line2D([], [], color=VERMILLION, linestyle="--", linewidth=1.2, label="limit")
    handles = [*axes[0].get_legend_handles_labels()[0], line]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
