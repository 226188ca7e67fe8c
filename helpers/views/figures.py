"""Figures of the series: data in, a matplotlib Figure out. Nothing here loads, saves or shows.

Every function takes ``note``, printed small in the lower right corner (say "untrained backbone"). Colours are those of
Okabe and Ito (2008), told apart with any colour vision; maps that are compared share one scale.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatter, MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from helpers.thresholds import Threshold, exceeds, percent

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#000000", "#B8B8B8"
CYCLE: tuple[str, ...] = (BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, BLACK)
MASK_COLOUR, PREDICTED_COLOUR = ORANGE, SKY
MAP_COLOURS = "magma"
WIDTH = 10.0  # inches: the width of a notebook
matplotlib.rcParams["text.parse_math"] = False  # a class named $x_{$ is a name: as a formula it would stop the figure


class NotebookFigure(Figure):
    """A Figure that a notebook displays also before pyplot has set up the inline backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def sample_grid(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    titles: Sequence[str],
    columns: int = 6,
    *,
    label: str = "labelled defect",
    note: str | None = None,
) -> Figure:
    """Shows photos in a grid, with the outlines of their masks.

    Args:
        images: (H, W) or (H, W, 3) uint8 photos; sizes may differ.
        masks: (H, W) bool or None for each.
        titles: One line each; long ones are shortened in the middle.
        columns: Photos a row.
        label: What the masks are, for the legend.
        note: Printed in the corner.

    Raises:
        ValueError: When the sequences differ in length or are empty.
    """
    _same_length(images=images, masks=masks, titles=titles)
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    cell = WIDTH / max(columns, 4)
    figure = new_figure(rows * (cell * _aspect(images) + 0.3) + 0.3, note, width=cell * columns + 0.2)
    axes = figure.subplots(rows, columns, squeeze=False)
    limit = max(8, int(14.5 * cell))  # characters of 8 points on an inch
    for place, axis in enumerate(axes.ravel()):
        axis.set_axis_off()
        if place < len(images):
            _photo(axis, images[place])
            _outline(axis, masks[place], images[place], MASK_COLOUR)
            axis.set_title(shorten(titles[place], limit), fontsize=8)
    if any(mask is not None and np.any(mask) for mask in masks):
        _legend_above(figure, [_line(MASK_COLOUR, label)])
    return figure


def split_bars(counts: pd.DataFrame, *, note: str | None = None) -> Figure:
    """Shows how many photos of each type every split holds, as stacked bars.

    Args:
        counts: Photos; index = splits (top to bottom), columns = types, "good" first where present.
        note: Printed in the corner.
    """
    order = sorted(counts.columns, key=lambda name: (name != "good", str(name)))
    totals = counts.sum(axis=1)
    figure = new_figure(1.5 + 0.55 * len(counts), note)
    axis = figure.subplots()
    widest = max(float(totals.max()) if len(totals) else 0.0, 1.0)
    places = np.arange(len(counts))
    left = np.zeros(len(counts))
    for number, name in enumerate(order):
        colour, hatch = type_style(name, number - ("good" in order))
        values = counts[name].to_numpy(dtype=float)
        label = f"{shorten(name, 22)} (n={int(values.sum())})"
        axis.barh(places, values, left=left, color=colour, hatch=hatch, edgecolor="white", linewidth=0.6, label=label)
        for place, value, start in zip(places, values, left, strict=True):
            if value >= 0.05 * widest:
                dark = colour in (BLUE, BLACK, VERMILLION, GREEN) and not hatch
                text = axis.text(start + value / 2, place, f"{int(value)}", ha="center", va="center", fontsize=9)
                text.set_color("white" if dark else "black")
                if hatch:
                    text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
        left += values
    for place, total in zip(places, totals, strict=True):
        axis.text(total + 0.01 * widest, place, f"{int(total)}", va="center", fontweight="bold")
    axis.set_yticks(places, [str(name) for name in counts.index])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.08 * widest)
    axis.set(xlabel="photos", ylabel="split", title=f"Photos by split and type (n={int(totals.sum())})")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    clean_axis(axis)
    legend_right(figure, axis, "type")
    return figure


def size_scatter(widths: ArrayLike, heights: ArrayLike, *, note: str | None = None) -> Figure:
    """Shows the sizes of photos: one bubble a size, its area by the number of photos.

    Args:
        widths: (N,) in pixels.
        heights: (N,) in pixels.
        note: Printed in the corner.

    Raises:
        ValueError: When the two differ in length or are empty.
    """
    sizes = np.stack([np.asarray(widths).ravel(), np.asarray(heights).ravel()], axis=1).astype(int)
    if not len(sizes):
        raise ValueError("widths is empty: there is no photo to show.")
    distinct, counts = np.unique(sizes, axis=0, return_counts=True)
    figure = new_figure(4.2, note, width=8)
    axis = figure.subplots()
    photo_area = min(20.0, 700.0 / counts.max())
    bubble: dict[str, Any] = {"color": BLUE, "alpha": 0.55, "edgecolor": BLACK, "linewidth": 0.4}
    axis.scatter(*distinct.T, s=np.maximum(18.0, photo_area * counts), **bubble)
    largest = distinct.max() * 1.12
    smallest = min(distinct.min() * 0.85, distinct.min() - 0.1 * largest)
    axis.set(xlim=(smallest, largest * 1.05), ylim=(smallest, largest))
    axis.plot([smallest, largest], [smallest, largest], color=GREY, linewidth=1, zorder=0)
    axis.annotate(
        "square",
        (largest, largest),
        xytext=(-40, -1),
        textcoords="offset points",
        color="#606060",
        fontsize=8,
        ha="right",
        va="top",
    )
    if len(distinct) == 1:
        width, height = distinct[0]
        title = f"All {counts[0]} photos are {width} × {height} px"
    else:
        title = f"Photo sizes: {len(distinct)} sizes (n={counts.sum()})"
        shown = sorted({int(counts.max()), int(np.median(counts)), int(counts.min())}, reverse=True)
        handles = [axis.scatter([], [], s=max(18.0, photo_area * count), **bubble) for count in shown]
        labels = [f"{count} photo{'' if count == 1 else 's'}" for count in shown]
        figure.legend(
            handles, labels, loc="outside right upper", frameon=False, labelspacing=1.6, borderpad=1, title="bubble"
        )
    axis.set(xlabel="width (px)", ylabel="height (px)", title=title)
    clean_axis(axis)
    return figure


def score_histogram(
    scores: ArrayLike,
    types: Iterable[str],
    threshold: float | Threshold | None = None,
    log: bool = False,
    *,
    note: str | None = None,
) -> Figure:
    """Shows how the scores of normal photos and of each defect type spread about the threshold.

    Args:
        scores: (N,) raw image scores.
        types: (N,) defect types; "good" is the normal one.
        threshold: Drawn as a labelled line.
        log: Logarithmic counts.
        note: Printed in the corner.
    """
    values = np.asarray(scores, dtype=float)
    names = np.asarray([str(name) for name in types], dtype=object)
    if values.shape != names.shape or not values.size:
        raise ValueError(f"scores {values.shape} and types {names.shape} must be two (N,) arrays with N > 0.")
    ends = [values.min(), values.max()]
    if threshold is not None:
        ends = [min(ends[0], float(threshold)), max(ends[1], float(threshold))]
    if ends[0] == ends[1]:
        ends = [ends[0] - 0.5, ends[1] + 0.5]
    bins = np.linspace(*ends, 41)
    figure = new_figure(4.2, note)
    axis = figure.subplots()
    normal = values[names == "good"]
    axis.hist(normal, bins, color=GREY, label=f"good (n={normal.size})")
    for number, name in enumerate(sorted(set(names) - {"good"})):
        chosen = values[names == name]
        axis.hist(
            chosen,
            bins,
            histtype="step",
            linewidth=1.8,
            color=CYCLE[number % len(CYCLE)],
            linestyle=("-", "--", ":")[number // len(CYCLE) % 3],
            label=f"{shorten(name, 22)} (n={chosen.size})",
        )
    if log:
        axis.set_yscale("log")
        axis.set_ylim(bottom=0.7)
        axis.yaxis.set_major_formatter(lambda count, _: f"{count:g}")
        axis.yaxis.set_minor_formatter(LogFormatter())
    else:
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    if threshold is not None:
        threshold_line(axis, float(threshold))
    axis.set(xlabel="image score (raw, higher = more abnormal)", ylabel="photos")
    axis.set_title(f"Scores by type (n={values.size})", pad=22 if threshold is not None else 6)
    clean_axis(axis)
    legend_right(figure, axis, "type")
    return figure


def roc_and_pr(curves_by_model: Mapping[str, Mapping[str, np.ndarray]], *, note: str | None = None) -> Figure:
    """Shows the ROC and precision-recall curves of models, with each one's operating point.

    Args:
        curves_by_model: Name of the model -> curves as from `helpers.analysis.metrics.image_curves`: ``fpr``, ``tpr``,
            ``precision``, ``recall``, ``image_auroc``, ``image_ap``, ``n_normal``, ``n_abnormal`` and
            ``operating_point`` (false-alarm rate, recall, precision), NaN where there is no threshold.
        note: Printed in the corner.
    """
    figure = new_figure(5.1 + 0.22 * max(0, len(curves_by_model) - 2), note)
    roc, pr = figure.subplots(1, 2)
    roc.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
    marked = False
    for number, (name, curves) in enumerate(curves_by_model.items()):
        style: dict[str, Any] = {
            "color": CYCLE[number % len(CYCLE)],
            "linestyle": ("-", "--", ":")[number // len(CYCLE) % 3],
            "linewidth": 1.8,
            "clip_on": False,
        }
        short = shorten(name, 36)
        count = f"n={int(curves['n_normal'])}+{int(curves['n_abnormal'])}"
        roc.plot(
            curves["fpr"],
            curves["tpr"],
            label=f"{short}: AUROC {number_text(curves['image_auroc'])} ({count})",
            **style,
        )
        # Recall falls along the arrays; "post" draws the steps that average precision sums up.
        pr.step(
            curves["recall"],
            curves["precision"],
            where="post",
            label=f"{short}: AP {number_text(curves['image_ap'])} ({count})",
            **style,
        )
        false_alarm, recall, precision = np.asarray(curves["operating_point"], dtype=float)
        dot = {"color": style["color"], "marker": "o", "markersize": 9, "markeredgecolor": "black", "clip_on": False}
        if np.isfinite([false_alarm, recall]).all():
            roc.plot([false_alarm], [recall], linestyle="", zorder=5, **dot)
            marked = True
        if np.isfinite([recall, precision]).all():
            pr.plot([recall], [precision], linestyle="", zorder=5, **dot)
    roc.set(xlabel="false-alarm rate", ylabel="recall", title="ROC")
    pr.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    for axis in (roc, pr):
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.set_xticks(np.linspace(0, 1, 6))
        axis.set_yticks(np.linspace(0, 1, 6))
        axis.grid(color="#E5E5E5")
        clean_axis(axis)
        handles, labels = axis.get_legend_handles_labels()
        if marked:
            handles.append(
                Line2D([], [], linestyle="", marker="o", markersize=8, color="white", markeredgecolor="black")
            )
            labels.append("at the stored threshold")
        legend = axis.legend(
            handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=9
        )
        legend.set_title("n = normal + abnormal photos", {"size": 8})
    return figure


def map_gallery(
    photos: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    titles: Sequence[str],
    threshold: float | Threshold | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    *,
    heading: str = "",
    label: str = "anomaly score",
    note: str | None = None,
) -> Figure:
    """Shows rows of photo, anomaly map with the mask's outline, and photo with what is called defect.

    Args:
        photos: (H, W) or (H, W, 3) uint8.
        maps: (h, w) anomaly maps, stretched over their photo; all drawn on one colour scale.
        masks: (H, W) or (h, w) bool, or None.
        titles: One each; shortened.
        threshold: Pixel threshold; None leaves the third column out.
        vmin: Lower end of the scale; None: the lowest value of all maps.
        vmax: Upper end; None: the highest.
        heading: Title of the figure.
        label: What the maps show.
        note: Printed in the corner.

    Raises:
        ValueError: When the sequences differ in length or are empty.
    """
    _same_length(photos=photos, maps=maps, masks=masks, titles=titles)
    low = float(min(np.min(values) for values in maps)) if vmin is None else float(vmin)
    high = float(max(np.max(values) for values in maps)) if vmax is None else float(vmax)
    if high <= low:
        high = low + 1.0
    columns = 2 if threshold is None else 3
    aspect = _aspect(photos)
    cell = min(2.75, 3.3 / aspect)
    figure = new_figure(len(photos) * (cell * aspect + 0.3) + 0.8, note, width=columns * cell + 1.2)
    axes = figure.subplots(len(photos), columns, squeeze=False)
    image = None
    for row, photo, values, mask, title in zip(axes, photos, maps, masks, titles, strict=True):
        for axis in row:
            axis.set_axis_off()
        height, width = photo.shape[:2]
        _photo(row[0], photo)
        row[0].set_title(shorten(title, int(12.5 * cell)), fontsize=9, loc="left")
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        image = row[1].imshow(values, cmap=MAP_COLOURS, vmin=low, vmax=high, extent=extent, interpolation="nearest")
        row[1].set_title(f"map, highest {np.max(values):.3g}", fontsize=9, loc="left")
        _outline(row[1], mask, photo, MASK_COLOUR)
        if threshold is not None:
            flagged = exceeds(values, threshold)
            _photo(row[2], photo)
            _outline(row[2], mask, photo, MASK_COLOUR)
            _outline(row[2], flagged, photo, PREDICTED_COLOUR)
            row[2].set_title(f"{100 * flagged.mean():.3g} % above threshold", fontsize=9, loc="left")
    beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    ends = (any(np.min(v) < low for v in maps), any(np.max(v) > high for v in maps))
    # A bar as tall as a long gallery would be far from most of its rows' eyes; two rows are enough.
    shrink = min(1.0, 2.0 / len(photos)) if len(photos) > 2 else 0.9
    bar = figure.colorbar(
        image, ax=axes, location="right", shrink=shrink, anchor=(0, 1.0), extend=beyond[ends], pad=0.015, aspect=25
    )
    bar.set_label(label)
    handles = []
    if any(mask is not None and np.any(mask) for mask in masks):
        handles.append(_line(MASK_COLOUR, "labelled defect"))
    if threshold is not None:
        bar.ax.axhline(float(threshold), color=PREDICTED_COLOUR, linewidth=2)
        handles.append(_line(PREDICTED_COLOUR, f"pixel score > {float(threshold):.4g}"))
    _legend_above(figure, handles, heading)
    return figure


def instances_gallery(
    photos: Sequence[np.ndarray],
    distance_maps: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    note: str | None = None,
) -> Figure:
    """Shows rows of photo, predicted distance map, and photo with the outlines of the objects that were told apart.

    Args:
        photos: (H, W, 3) uint8.
        distance_maps: (H, W) in [0, 1], one colour scale for all.
        labels: (H, W) int, 0 the background, every other number an object.
        titles: One line each.
        note: Printed in the corner.
    """
    _same_length(photos=photos, distance_maps=distance_maps, labels=labels, titles=titles)
    columns = len(photos)
    cell = min(WIDTH / columns, 3.2)
    figure = new_figure(3 * cell * _aspect(photos) + 0.8, note, width=cell * columns + 0.8)
    axes = figure.subplots(3, columns, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for place, photo in enumerate(photos):
        _photo(axes[0, place], photo)
        axes[0, place].set_title(shorten(titles[place], max(8, int(14.5 * cell))), fontsize=8)
        image = axes[1, place].imshow(distance_maps[place], cmap=MAP_COLOURS, vmin=0, vmax=1)
        _photo(axes[2, place], photo)
        for number in np.unique(labels[place][labels[place] > 0]):
            colour = CYCLE[int(number) % (len(CYCLE) - 1)]
            _outline(axes[2, place], labels[place] == number, photo, colour)
        n_objects = len(np.unique(labels[place])) - int((labels[place] == 0).any())
        axes[2, place].set_title(f"{n_objects} objects", fontsize=8)
    figure.colorbar(image, ax=axes[1, :], shrink=0.8, label="relative distance to the edge")
    return figure


def reconstruction_gallery(
    photos: Sequence[np.ndarray],
    reconstructions: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    titles: Sequence[str],
    *,
    threshold: float | Threshold,
    note: str | None = None,
) -> Figure:
    """Shows rows of photo, its reconstruction, anomaly map, and photo with what is called defect.

    Args:
        photos: (H, W, 3) uint8.
        reconstructions: (H, W, 3) uint8.
        maps: (H, W) probabilities of a defect; the scale is 0 to 1.
        masks: (H, W) bool, or None.
        titles: One each; shortened.
        threshold: Pixel threshold.
        note: Printed in the corner.

    Raises:
        ValueError: When the sequences differ in length or are empty.
    """
    _same_length(photos=photos, reconstructions=reconstructions, maps=maps, masks=masks, titles=titles)
    cell = min(2.2, 3.3 / _aspect(photos))
    figure = new_figure(len(photos) * (cell * _aspect(photos) + 0.3) + 0.8, note, width=4 * cell + 1.2)
    axes = figure.subplots(len(photos), 4, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    image = None
    for row, photo, drawn, values, mask, title in zip(axes, photos, reconstructions, maps, masks, titles, strict=True):
        _photo(row[0], photo)
        row[0].set_title(shorten(title, int(12.5 * cell)), fontsize=9, loc="left")
        _photo(row[1], drawn)
        row[1].set_title("reconstruction", fontsize=9, loc="left")
        image = row[2].imshow(values, cmap=MAP_COLOURS, vmin=0, vmax=1)
        row[2].set_title(f"map, highest {np.max(values):.3g}", fontsize=9, loc="left")
        flagged = exceeds(values, threshold)
        _photo(row[3], photo)
        _outline(row[3], mask, photo, MASK_COLOUR)
        _outline(row[3], flagged, photo, PREDICTED_COLOUR)
        row[3].set_title(f"{100 * flagged.mean():.3g} % above threshold", fontsize=9, loc="left")
    shrink = min(1.0, 2.0 / len(photos)) if len(photos) > 2 else 0.9
    bar = figure.colorbar(image, ax=axes, location="right", shrink=shrink, anchor=(0, 1.0), pad=0.015, aspect=25)
    bar.set_label("probability of a defect")
    lines = [_line(PREDICTED_COLOUR, f"probability > {float(threshold):.4g}")]
    if any(mask is not None and np.any(mask) for mask in masks):
        lines.insert(0, _line(MASK_COLOUR, "labelled defect"))
    _legend_above(figure, lines)
    return figure


def judgement_figure(
    mean_photo: np.ndarray, spectrum: np.ndarray, bright: float, radius: float, title: str, *, note: str | None = None
) -> Figure:
    """Shows what GLASS judges the distribution by: the mean photo, its spectrum, and the points that are bright in it.

    Args:
        mean_photo: (H, W, 3) uint8.
        spectrum: (S, S) of a blurred grey version, 20 log of the magnitude, frequency 0 in the middle.
        bright: From where on a point counts as bright.
        radius: Of the disc that holds all bright points, in frequency steps.
        title: Of the last panel: what was judged.
        note: Printed in the corner.
    """
    figure = new_figure(3.4, note)
    axes = figure.subplots(1, 3)
    _photo(axes[0], mean_photo)
    axes[0].set_axis_off()
    axes[0].set_title("mean of the good photos", fontsize=10)
    half = spectrum.shape[0] // 2
    extent = (-half - 0.5, half + 0.5, half + 0.5, -half - 0.5)
    image = axes[1].imshow(spectrum, cmap=MAP_COLOURS, extent=extent, vmin=max(0.0, float(spectrum.min())))
    axes[1].set_title("its spectrum", fontsize=10)
    figure.colorbar(image, ax=axes[1], shrink=0.8, label="20 ln of the magnitude")
    axes[2].imshow(spectrum > bright, cmap="gray", extent=extent)
    turn = np.linspace(0, 2 * np.pi, 200)
    axes[2].plot(radius * np.cos(turn), radius * np.sin(turn), color=ORANGE, label=f"radius {radius:.3g}")
    shown = min(half, max(20, 1.3 * radius))
    axes[2].set(xlim=(-shown, shown), ylim=(shown, -shown))
    axes[2].set_title(title, fontsize=10)
    axes[2].legend(fontsize=8, loc="upper right")
    for axis in axes[1:]:
        axis.set_xlabel("cycles across the photo")
    axes[1].set_ylabel("cycles down the photo")
    return figure


def calibration_figure(scores_val_normal: ArrayLike, threshold: Threshold, *, note: str | None = None) -> Figure:
    """Shows the held-out normal scores, the threshold set on them and the acceptance to expect of new photos.

    Args:
        scores_val_normal: (N,) scores (for a pixel threshold: map maxima) of held-out normal photos.
        threshold: As set on them.
        note: Printed in the corner.
    """
    values = np.sort(np.asarray(scores_val_normal, dtype=float))
    if not values.size:
        raise ValueError("scores_val_normal is empty: there is nothing to show.")
    figure = new_figure(4.4, note)
    axis = figure.subplots()
    margin = 0.05 * max(values[-1] - values[0], abs(threshold.value - values[0]), 1e-9)
    ends = min(values[0], threshold.value) - margin, max(values[-1], threshold.value) + 2 * margin
    share = np.arange(1, values.size + 1) / values.size
    axis.step(
        np.r_[ends[0], values, ends[1]],
        np.r_[0, share, 1],
        where="post",
        color=BLUE,
        linewidth=1.8,
        label=f"held-out normal photos (n={values.size})",
    )
    if threshold.accept is not None:
        axis.axhline(
            threshold.accept,
            color=BLACK,
            linestyle="--",
            linewidth=1.2,
            label=f"asked for: {percent(threshold.accept)}",
        )
    if threshold.interval_low is not None and threshold.interval_high is not None:
        span = f"{percent(threshold.interval_low)} to {percent(threshold.interval_high)}"
        label = f"true rate, with 90 % probability:\n{span}"
        axis.axhspan(
            threshold.interval_low, threshold.interval_high, color=ORANGE, alpha=0.25, linewidth=0, label=label
        )
    threshold_line(axis, threshold.value)
    axis.set(xlim=ends, ylim=(0, 1.02))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    what = "image score" if threshold.kind == "image" else "highest pixel score of a photo"
    axis.set(xlabel=f"{what} (raw)", ylabel="photos at or below")
    axis.set_title(f"Threshold: {threshold.origin}", pad=22)
    clean_axis(axis)
    legend_right(figure, axis, None)
    return figure


def training_curves(
    histories: Mapping[str, pd.DataFrame],
    panels: Mapping[str, Sequence[str]],
    best: Mapping[str, int] | None = None,
    *,
    note: str | None = None,
) -> Figure:
    """Shows what training logged, epoch by epoch: one panel a quantity, one colour a model.

    Args:
        histories: A table by model: column ``epoch`` (from 0) and one column a logged value.
        panels: Names of such columns by the label of the axis they share; the first is drawn solid, the next dashed.
        best: Epoch (from 0) by model whose weights were kept; marked by a circle.
        note: Printed in the corner.
    """
    figure = new_figure(3.8, note)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    styles = ("-", "--", ":", "-.")
    for axis, (label, columns) in zip(axes, panels.items(), strict=True):
        for colour, (model, history) in zip(CYCLE, histories.items(), strict=False):
            for style, column in zip(styles, columns, strict=False):
                if column not in history:
                    continue
                # what is measured every few epochs is a line nevertheless, and a single value a dot
                known = history[["epoch", column]].dropna()
                marker = "o" if len(known) == 1 else None
                name = f"{model}, {column}" if len(columns) > 1 else model
                options = {"color": colour, "label": name, "linewidth": 1.5, "marker": marker, "markersize": 4}
                axis.plot(known["epoch"] + 1, known[column], style, **options)
                if best and column == columns[0]:
                    row = history[history["epoch"] == best[model]]
                    axis.plot(row["epoch"] + 1, row[column], "o", color=colour, markerfacecolor="none", markersize=8)
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        # below the axis: curves may run anywhere above it
        ncols = 1 if len(axis.get_lines()) <= 3 else 2
        axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=ncols)
        clean_axis(axis)
        axis.set_title(f"{label} by epoch" + (" (circle: weights kept)" if best else ""), fontsize=10)
    return figure


def coreset_figure(radii: ArrayLike, *, note: str | None = None) -> Figure:
    """Shows how far the farthest patch is from its nearest centre, as centres are picked.

    Args:
        radii: (K,) distance in feature units after 1, 2, ..., K picks.
        note: Printed in the corner.
    """
    values = np.asarray(radii, dtype=float).ravel()
    if not values.size:
        raise ValueError("radii is empty: there is nothing to show.")
    figure = new_figure(3.8, note, width=8)
    axis = figure.subplots()
    picks = np.arange(1, values.size + 1)
    axis.plot(picks, values, color=BLUE, linewidth=1.8, marker="o" if values.size == 1 else None)
    axis.plot([picks[-1]], [values[-1]], marker="o", color=ORANGE, markeredgecolor="black", linestyle="", clip_on=False)
    if values.size > 10:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_minor_formatter(LogFormatter())
    axis.set_ylim(0, 1.08 * float(values.max()) or 1.0)
    axis.set(
        xlabel="centres picked",
        ylabel="largest distance to the\nnearest centre (feature units)",
        title=f"Coverage of the patches: {values[-1]:.3g} after {picks[-1]:,} centre{'' if picks[-1] == 1 else 's'}",
    )
    clean_axis(axis)
    return figure


def metric_bars(
    by_type: pd.DataFrame, metric: str = "recall_at_threshold", *, label: str | None = None, note: str | None = None
) -> Figure:
    """Shows one metric for each defect type with its interval and count.

    Args:
        by_type: As from `helpers.analysis.metrics.Evaluation`: ``defect_type``, ``n_abnormal``, the metric and,
            where known, ``<metric>_low`` and ``<metric>_high``.
        metric: Column to show, in [0, 1].
        label: Name on the axis; made from the column's name by default.
        note: Printed in the corner.

    Raises:
        ValueError: When the metric is no column.
    """
    if metric not in by_type.columns:
        raise ValueError(f"by_type has no column {metric!r}; it has {', '.join(map(str, by_type.columns))}.")
    table = by_type.sort_values(metric, ascending=False, na_position="last")
    figure = new_figure(1.4 + 0.42 * max(1, len(table)), note, width=8)
    axis = figure.subplots()
    places = np.arange(len(table))
    values = table[metric].to_numpy(dtype=float)
    axis.barh(places, np.nan_to_num(values), color=SKY, height=0.65)
    text = [f"{value:.2f}" if np.isfinite(value) else "no value" for value in values]
    if f"{metric}_low" in table and f"{metric}_high" in table:
        low, high = table[f"{metric}_low"].to_numpy(dtype=float), table[f"{metric}_high"].to_numpy(dtype=float)
        known = np.isfinite(values) & np.isfinite(low) & np.isfinite(high)
        # An interval may leave its estimate just outside (a max over thresholds is biased): no negative bar lengths.
        errors = np.maximum([(values - low)[known], (high - values)[known]], 0)
        axis.errorbar(
            values[known], places[known], xerr=errors, fmt="none", ecolor=BLACK, capsize=4, linewidth=1.2, clip_on=False
        )
        text = [
            f"{words}  [{a:.2f}, {b:.2f}]" if ok else words
            for words, a, b, ok in zip(text, low, high, known, strict=True)
        ]
    for place, words in zip(places, text, strict=True):
        axis.text(1.03, place, words, va="center", fontsize=9, transform=axis.get_yaxis_transform())
    names = [
        f"{shorten(name, 24)} (n={int(count)})"
        for name, count in zip(table["defect_type"], table["n_abnormal"], strict=True)
    ]
    axis.set_yticks(places, names)
    axis.set_ylim(len(table) - 0.4, -0.6)
    axis.set_xlim(0, 1)
    name = label or metric.replace("_", " ")
    axis.set(xlabel=name, ylabel="defect type", title=f"{name[:1].upper()}{name[1:]} by defect type")
    clean_axis(axis)
    return figure


def weak_defect_curves(rates: pd.DataFrame, *, note: str | None = None) -> Figure:
    """Shows how the share of photos called abnormal grows with the strength of the same defects, model by model.

    The unchanged photos, at opacity 0, show each model's false-alarm rate; a dotted line carries it on: a rate that is
    no higher is no detection.

    Args:
        rates: As from `helpers.studies.weak_defects.detection_rates`: ``model``, ``opacity``, ``n``, ``rate``,
            ``low``, ``high``.
        note: Printed in the corner.

    Raises:
        ValueError: When a column is missing or there is no row.
    """
    missing = [column for column in ("model", "opacity", "n", "rate", "low", "high") if column not in rates]
    if missing or rates.empty:
        raise ValueError(f"rates lacks {', '.join(missing) or 'rows'}; give what detection_rates returns.")
    figure = new_figure(4.4, note)
    axis = figure.subplots()
    for number, (model, unsorted) in enumerate(rates.groupby("model", sort=False)):
        rows = unsorted.sort_values("opacity")
        style: dict[str, Any] = {
            "color": CYCLE[number % len(CYCLE)],
            "linestyle": ("-", "--", "-.")[number // len(CYCLE) % 3],
            "marker": "osD^vPX"[number % 7],
        }
        label = shorten(model, 32)
        unchanged = rows["rate"][rows["opacity"] == 0]
        if len(unchanged):
            label = f"{label}\n{percent(float(unchanged.iloc[0]))} false alarms"
            axis.axhline(float(unchanged.iloc[0]), color=style["color"], linestyle=":", linewidth=1.2, zorder=1)
        axis.fill_between(rows["opacity"], rows["low"], rows["high"], color=style["color"], alpha=0.15, linewidth=0)
        axis.plot(rows["opacity"], rows["rate"], **style, linewidth=1.8, markersize=6, clip_on=False, label=label)
    axis.set(xlim=(-0.02, 1.02), ylim=(0, 1.02))
    axis.set_xticks(np.linspace(0, 1, 6))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set(xlabel="opacity of the defect (0: unchanged photo, 1: full strength)", ylabel="photos called abnormal")
    fewest, most = int(rates["n"].min()), int(rates["n"].max())
    count = f"n={most}" if fewest == most else f"n={fewest} to {most}"
    axis.set_title(f"The same defects, weak to strong ({count} photos a point)")
    axis.grid(axis="y", color="#E5E5E5")
    clean_axis(axis)
    handles, labels = axis.get_legend_handles_labels()
    if (rates["opacity"] == 0).any():
        handles.append(Line2D([], [], color="#606060", linestyle=":", linewidth=1.2))
        labels.append("false-alarm rate")
    handles.append(Patch(color="#606060", alpha=0.25, linewidth=0))
    labels.append("95 % interval")
    figure.legend(handles, labels, loc="outside right upper", frameon=False, title="model", fontsize=9)
    return figure


def shorten(text: object, limit: int = 24) -> str:
    """One line, cut in the middle where it is long, keeping its end, where names of files differ."""
    words = " ".join(str(text).split())
    if len(words) <= limit:
        return words
    tail = max(1, (limit - 1) * 2 // 3)
    return f"{words[: limit - 1 - tail]}…{words[-tail:]}"


def new_figure(height: float, note: str | None, width: float = WIDTH) -> NotebookFigure:
    """An empty figure, sizes in inches, with its note in the lower right corner."""
    figure = NotebookFigure(figsize=(width, height), layout="constrained")
    if note:
        # As a supxlabel the layout keeps room for it; a plain text would lie over the axes' labels.
        figure.supxlabel(note, x=0.995, ha="right", fontsize=8, color="#A00000")
    return figure


def _same_length(**sequences: Sequence[Any]) -> None:
    lengths = {name: len(values) for name, values in sequences.items()}
    if len(set(lengths.values())) != 1 or not next(iter(lengths.values())):
        raise ValueError(f"give one entry a photo, and at least one photo; got {lengths}.")


def _aspect(photos: Sequence[np.ndarray]) -> float:
    """Height over width that most photos fit in, kept within reason."""
    return float(np.clip(np.median([photo.shape[0] / photo.shape[1] for photo in photos]), 0.3, 2.0))


def _photo(axis: Axes, photo: np.ndarray) -> None:
    axis.imshow(photo, cmap="gray" if photo.ndim == 2 else None, vmin=0, vmax=255)


def _outline(axis: Axes, mask: np.ndarray | None, photo: np.ndarray, colour: str) -> None:
    if mask is None or not np.any(mask):
        return
    from skimage.measure import find_contours

    height, width = np.shape(mask)
    down, across = photo.shape[0] / height, photo.shape[1] / width
    # The frame of zeros closes the outline of a region that touches the border.
    for line in find_contours(np.pad(np.asarray(mask, dtype=float), 1), 0.5):
        y, x = ((line - 1 + 0.5) * (down, across) - 0.5).T
        axis.plot(x, y, color=colour, linewidth=1.4, path_effects=_HALO)
    axis.set(xlim=(-0.5, photo.shape[1] - 0.5), ylim=(photo.shape[0] - 0.5, -0.5))


_HALO = [patheffects.withStroke(linewidth=2.6, foreground="black")]


def _line(colour: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, linewidth=2, label=label, path_effects=_HALO)


def type_style(name: object, number: int) -> tuple[str, str]:
    """Colour and hatch of a defect type, the number-th of those shown; good is grey."""
    if name == "good":
        return GREY, ""
    return CYCLE[number % len(CYCLE)], ("", "//", "..")[number // len(CYCLE) % 3]


def threshold_line(axis: Axes, value: float) -> None:
    """A vertical line with its value above the frame; the title needs room for it (``pad=22``)."""
    axis.axvline(value, color=BLACK, linewidth=1.6)
    # Above the frame, so that it covers no bar and no curve.
    axis.annotate(
        f"threshold {value:.4g}",
        (value, 1.0),
        xycoords=axis.get_xaxis_transform(),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=9,
    )


def legend_right(figure: Figure, axis: Axes, title: str | None) -> None:
    """The legend of an axis, to the right of the figure."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, title=title, fontsize=9)


def _legend_above(figure: Figure, handles: list[Line2D], heading: str = "") -> None:
    """A legend with the heading as its title: the layout would lay a suptitle and a legend over each other."""
    if handles:
        legend = figure.legend(
            handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, fontsize=9, alignment="left"
        )
        legend.set_title(heading, {"size": 12})
    elif heading:
        figure.suptitle(heading, fontsize=12, x=0.01, ha="left")


def clean_axis(axis: Axes) -> None:
    """Takes away the frame at the top and on the right."""
    axis.spines[["top", "right"]].set_visible(False)


def number_text(value: ArrayLike) -> str:
    """A number with three decimals, or "undefined"."""
    number = float(np.asarray(value))
    return f"{number:.3f}" if np.isfinite(number) else "undefined"
