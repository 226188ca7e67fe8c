"""Figures that say how far sizes can be trusted: against the drawn truth, and by way of calibration.

As everywhere in :mod:`helpers.views`: data in, a matplotlib Figure out; nothing is loaded, saved or shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from helpers.drawing import folded
from helpers.pictures.size_truth import AREA_LIMITS, LARGE_AREA, LENGTH_LIMIT, MIDDLE_AREA
from helpers.views.figures import BLUE, VERMILLION, new_figure, shorten, type_style


def size_accuracy(compared: pd.DataFrame, *, note: str | None = None) -> Figure:
    """Shows how far measured sizes are off the drawn ones, against the drawn size, with the limits.

    Args:
        compared: from :func:`helpers.pictures.size_truth.compare_with_drawn`, with at least one defect.
        note: Printed in the corner.

    Raises:
        ValueError: When there is no defect.
    """
    if compared.empty:
        raise ValueError("compared has no defect: there is nothing to show.")
    figure = new_figure(4.4, note)
    left, right = figure.subplots(1, 2)
    for number, (kind, rows) in enumerate(compared.groupby("defect_type")):
        colour, _ = type_style(kind, number)
        style = {"s": 20, "color": colour, "alpha": 0.75, "linewidth": 0, "marker": "os^D"[number % 4]}
        left.scatter(rows["true_area"], rows["area_error"], label=f"{shorten(kind)} (n={len(rows)})", **style)
        right.scatter(rows["true_length"], rows["length_error"], **style)
    largest = max(1.15 * compared["true_area"].max(), 1.5 * LARGE_AREA)
    for sign in (-1, 1):
        middle, large = sign * AREA_LIMITS[MIDDLE_AREA], sign * AREA_LIMITS[LARGE_AREA]
        steps = ([MIDDLE_AREA, LARGE_AREA, LARGE_AREA, largest], [middle, middle, large, large])
        left.plot(*steps, color=VERMILLION, linestyle="--", linewidth=1.2)
        right.axhline(sign * LENGTH_LIMIT, color=VERMILLION, linestyle="--", linewidth=1.2)
    right.lines[0].set_label("limit")
    for axis in (left, right):
        axis.axhline(0, color="black", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    left.set_xscale("log")
    left.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    left.set(xlabel="drawn area (px²)", ylabel="measured minus drawn area", xlim=(None, largest))
    right.set(xlabel="drawn length (px)", ylabel="measured minus drawn length (px)")
    left.set_title(f"Area of {len(compared)} drawn defects")
    right.set_title("Length")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def calibration_errors(trial: pd.DataFrame, *, note: str | None = None) -> Figure:
    """Shows what each way of calibration makes of one known length, with twice the error it states.

    Args:
        trial: from :func:`helpers.pictures.calibration_scene.calibration_trial`.
        note: Printed in the corner.
    """
    cameras = list(dict.fromkeys(trial["camera"]))
    figure = new_figure(1.4 + 0.42 * len(trial), note)
    axes = figure.subplots(
        len(cameras), 1, sharex=True, squeeze=False, height_ratios=[(trial["camera"] == one).sum() for one in cameras]
    )[:, 0]
    truth = trial["true_length"].iloc[0]
    for axis, camera in zip(axes, cameras, strict=True):
        rows = trial[trial["camera"] == camera]
        places = np.arange(len(rows))
        axis.axvline(truth, color=VERMILLION, linewidth=1.4, label=f"true length {truth:.2f} mm")
        stated = "measured; bar: twice the stated standard error"
        axis.errorbar(
            rows["length"], places, xerr=2 * rows["length_error"], fmt="o", color=BLUE, capsize=4, label=stated
        )
        axis.set_yticks(places, rows["calibration"])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_title(f"camera: {camera}", fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    figure.supylabel("calibration", fontsize=10)
    axes[-1].set_xlabel("length of the bar (mm)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def photos_side_by_side(
    photos: Sequence[np.ndarray], titles: Sequence[str], columns: int = 2, *, note: str | None = None
) -> Figure:
    """Shows finished pictures, such as annotated or rectified photos, large enough to be read.

    Args:
        photos: (H, W) or (H, W, 3) uint8; sizes may differ.
        titles: one a photo.
        columns: Photos a row.
        note: Printed in the corner.

    Raises:
        ValueError: When there is no photo, or the numbers differ.
    """
    if not photos or len(photos) != len(titles):
        raise ValueError(f"{len(photos)} photos and {len(titles)} titles: give as many, and at least one.")
    photos = [folded(np.dstack([photo] * 3) if photo.ndim == 2 else photo) for photo in photos]
    columns = min(columns, len(photos))
    n_rows = -(-len(photos) // columns)
    width = 9.6 if columns > 1 else 6.4
    aspect = min(2.0, max(photo.shape[0] / photo.shape[1] for photo in photos))
    figure = new_figure(n_rows * (width / columns * aspect + 0.3), note, width=width)
    axes = figure.subplots(n_rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, photo, title in zip(axes, photos, titles, strict=False):
        axis.imshow(photo, interpolation="antialiased")
        axis.set_title(shorten(title, 60), fontsize=9)
    return figure
