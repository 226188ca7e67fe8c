"""Pictures in rows: `gallery`, one of the primitives that figures are composed of, and photos with their maps by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from helpers.drawing import CYCLE, MASK_COLOUR, PREDICTED_COLOUR, shorten
from helpers.thresholds import Threshold, exceeds
from helpers.views.style import WIDTH, legend_above, new_figure

_HALO = [patheffects.withStroke(linewidth=2.6, foreground="black")]
Masks = Sequence[np.ndarray | None] | None


def gallery(
    pictures: Sequence[np.ndarray],
    titles: Sequence[object],
    masks: Masks = None,
    *,
    found: Masks = None,
    columns: int = 6,
    outlined: str = "labelled defect",
    called: str = "",
    scale: tuple[float, float] | None = None,
    label: str = "",
    line: float | None = None,
    heading: str = "",
    cell: float | None = None,
    note: str | None = None,
) -> Figure:
    """Pictures in rows: photos (H, W[, 3]) uint8, and maps (H, W) of floats, which share one scale (default: from their
    lowest to their highest value) and one bar, named ``label``, on which ``line`` is marked.

    ``masks`` and ``found`` (H, W) are outlined in two colours, named ``outlined`` and ``called`` in the legend; of a
    mask of numbers each has its own. ``cell`` is the width of a picture in inches.

    Raises:
        ValueError: no picture.
    """
    if not len(pictures):
        raise ValueError("there is no picture to show.")
    nothing, columns = [None] * len(pictures), max(1, min(columns, len(pictures)))
    masks, found, rows = masks or nothing, found or nothing, -(-len(pictures) // columns)
    aspect = float(np.clip(np.median([picture.shape[0] / picture.shape[1] for picture in pictures]), 0.3, 2.0))
    cell = cell or min(WIDTH / max(columns, 3.6), 3.3 / aspect)
    maps = [picture for picture in pictures if picture.dtype != np.uint8]
    labelled = outlined and any(mask is not None and mask.any() for mask in masks)
    named = {outlined: MASK_COLOUR} if labelled else {}
    named |= {called: PREDICTED_COLOUR} if called else {}
    height = rows * (cell * aspect + 0.3) + (0.8 if maps or named or heading else 0.3)
    figure = new_figure(height, note, width=columns * cell + (1.2 if maps else 0.2))
    axes = figure.subplots(rows, columns, squeeze=False)
    ends = (min(map(np.nanmin, maps)), max(map(np.nanmax, maps))) if maps else (0, 1)
    low, high = scale or ends
    for axis in axes.flat:
        axis.set_axis_off()
    panels = list(zip(pictures, titles, masks, found, strict=True))
    for axis, (picture, title, mask, other) in zip(axes.flat, panels, strict=False):
        if picture.dtype == np.uint8:
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
        else:
            image = axis.imshow(picture, interpolation="nearest", vmin=low, vmax=high if high > low else low + 1.0)
        _outline(axis, mask, MASK_COLOUR)
        _outline(axis, other, PREDICTED_COLOUR)
        axis.set_title(shorten(title, max(8, int(12.5 * cell))), fontsize=9, loc="left")
    if maps:
        extend = ("neither", "min", "max", "both")[int(ends[0] < low) + 2 * int(ends[1] > high)]
        _add_bar(axes, image, line, label=label, extend=extend)
    look = {"linewidth": 2, "path_effects": _HALO}
    legend_above(
        figure, [Line2D([], [], color=colour, label=words, **look) for words, colour in named.items()], heading
    )
    return figure


def _add_bar(axes: np.ndarray, image: AxesImage, line: float | None, **named: str) -> None:
    # A bar as tall as a long gallery would be far from most of its rows' eyes; two rows are enough.
    place = {"shrink": min(1.0, 2.0 / len(axes)) if len(axes) > 2 else 0.9, "anchor": (0, 1.0), "pad": 0.015}
    bar = axes[0, 0].get_figure().colorbar(image, ax=axes, location="right", aspect=25, **place, **named)
    if line is not None:
        bar.ax.axhline(line, color=PREDICTED_COLOUR, linewidth=2)


def _outline(axis: Axes, mask: np.ndarray | None, colour: str) -> None:
    """Outline a mask, or each number of one in its own colour; the frame of zeros closes what touches the border."""
    if mask is None:
        return
    height, width = mask.shape
    grid = np.arange(-1, width + 1), np.arange(-1, height + 1)
    for number in np.unique(mask[mask > 0]):
        shade = colour if mask.dtype == bool else CYCLE[int(number - 1) % len(CYCLE)]
        lines = axis.contour(*grid, np.pad(mask == number, 1), [0.5], colors=shade, linewidths=1.4)
        lines.set(path_effects=_HALO)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def map_gallery(
    photos: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    titles: Sequence[str],
    threshold: float | Threshold | None = None,
    *,
    redrawn: Sequence[np.ndarray] | None = None,
    label: str = "anomaly score",
    **options: Any,
) -> Figure:
    """Rows of photo, (its reconstruction,) map with the mask's outline, and photo with what is called defect.

    Maps (H, W) have the size of their photos; without a pixel threshold the last column is left out. ``options`` are
    those of `gallery`.
    """
    panels, row = [], []
    for number, (photo, values, mask, title) in enumerate(zip(photos, maps, masks, titles, strict=True)):
        row = [(photo, title, None, None), (values, f"map, highest {np.max(values):.3g}", mask, None)]
        if redrawn is not None:
            row.insert(1, (redrawn[number], "reconstruction", None, None))
        if threshold is not None:
            flagged = exceeds(values, threshold)
            row.append((photo, f"{100 * flagged.mean():.3g} % above threshold", mask, flagged))
        panels += row
    if threshold is not None:
        options |= {"line": float(threshold), "called": f"pixel score > {float(threshold):.4g}"}
    pictures, words, outlines, found = zip(*panels, strict=True) if panels else [()] * 4
    return gallery(pictures, words, outlines, found=found, columns=len(row), label=label, **options)
