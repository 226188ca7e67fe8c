"""Pictures in rows: `gallery`, one of the primitives that figures are composed of, and what shows photos by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from helpers.drawing import MASK_COLOUR, PREDICTED_COLOUR, shorten
from helpers.thresholds import Threshold, exceeds
from helpers.views.style import WIDTH, legend_above, new_figure

_HALO = [patheffects.withStroke(linewidth=2.6, foreground="black")]


@dataclass(frozen=True)
class Panel:
    """One picture of a gallery.

    picture: a photo (H, W[, 3]) uint8, or a map (h, w) of floats in the gallery's one scale of colours.
    outlines: (mask (h, w), colour) pairs; a mask may be None.
    shape: (H, W) of the photo that a smaller map and its outlines are stretched over; default: the picture's own.
    """

    picture: np.ndarray
    title: object = ""
    outlines: Sequence[tuple[np.ndarray | None, str]] = ()
    shape: tuple[int, int] | None = None


def gallery(
    panels: Sequence[Panel],
    columns: int = 6,
    *,
    scale: tuple[float, float] | None = None,
    label: str = "",
    line: float | None = None,
    legend: Mapping[str, str] | None = None,
    heading: str = "",
    cell: float | None = None,
    note: str | None = None,
) -> Figure:
    """Pictures in rows. All maps share one scale (default: from their lowest to their highest value) and one bar, named
    ``label``, on which ``line`` is marked. ``legend`` is words -> colour, ``cell`` the width of a picture in inches.

    Raises:
        ValueError: no panel.
    """
    if not panels:
        raise ValueError("there is no picture to show.")
    columns = max(1, min(columns, len(panels)))
    rows = -(-len(panels) // columns)
    shapes = [panel.shape or panel.picture.shape[:2] for panel in panels]
    aspect = float(np.clip(np.median([height / width for height, width in shapes]), 0.3, 2.0))
    cell = cell or min(WIDTH / max(columns, 3.6), 3.3 / aspect)
    maps = [panel.picture for panel in panels if panel.picture.dtype != np.uint8]
    bottom = 0.8 if maps or legend or heading else 0.3
    figure = new_figure(rows * (cell * aspect + 0.3) + bottom, note, width=columns * cell + (1.2 if maps else 0.2))
    axes = figure.subplots(rows, columns, squeeze=False)
    low, high = scale or ((min(map(np.nanmin, maps)), max(map(np.nanmax, maps))) if maps else (0, 1))
    limits = {"vmin": low, "vmax": high if high > low else low + 1.0}
    image = None
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, panel, (height, width) in zip(axes.flat, panels, shapes, strict=False):
        if panel.picture.dtype == np.uint8:
            axis.imshow(panel.picture, cmap="gray" if panel.picture.ndim == 2 else None, vmin=0, vmax=255)
        else:
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            image = axis.imshow(panel.picture, extent=extent, interpolation="nearest", **limits)
        for mask, colour in panel.outlines:
            _outline(axis, mask, (height, width), colour)
        axis.set_title(shorten(panel.title, max(8, int(12.5 * cell))), fontsize=9, loc="left")
    if image is not None:
        ends = min(map(np.nanmin, maps)) < limits["vmin"], max(map(np.nanmax, maps)) > limits["vmax"]
        extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[ends]
        # A bar as tall as a long gallery would be far from most of its rows' eyes; two rows are enough.
        place = {"shrink": min(1.0, 2.0 / rows) if rows > 2 else 0.9, "anchor": (0, 1.0), "pad": 0.015, "aspect": 25}
        bar = figure.colorbar(image, ax=axes, location="right", extend=extend, **place)
        bar.set_label(label)
        if line is not None:
            bar.ax.axhline(line, color=PREDICTED_COLOUR, linewidth=2)
    style = {"linewidth": 2, "path_effects": _HALO}
    lines = [Line2D([], [], color=colour, label=words, **style) for words, colour in (legend or {}).items()]
    legend_above(figure, lines, heading)
    return figure


def _outline(axis: Axes, mask: np.ndarray | None, shape: tuple[int, int], colour: str) -> None:
    if mask is None or not np.any(mask):
        return
    from skimage.measure import find_contours

    stretch = np.divide(shape, np.shape(mask))
    # The frame of zeros closes the outline of a region that touches the border.
    for line in find_contours(np.pad(np.asarray(mask, dtype=float), 1), 0.5):
        y, x = ((line - 0.5) * stretch - 0.5).T
        axis.plot(x, y, color=colour, linewidth=1.4, path_effects=_HALO)
    axis.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))


def sample_grid(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    titles: Sequence[str],
    columns: int = 6,
    *,
    label: str = "labelled defect",
    note: str | None = None,
) -> Figure:
    """Photos in a grid, with the outlines of their masks (H, W) bool."""
    panels = [Panel(*each[:2], [(each[2], MASK_COLOUR)]) for each in zip(images, titles, masks, strict=True)]
    legend = {label: MASK_COLOUR} if any(mask is not None and np.any(mask) for mask in masks) else {}
    return gallery(panels, columns, legend=legend, note=note)


def map_gallery(
    photos: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    titles: Sequence[str],
    threshold: float | Threshold | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    *,
    redrawn: Sequence[np.ndarray] | None = None,
    heading: str = "",
    label: str = "anomaly score",
    note: str | None = None,
) -> Figure:
    """Rows of photo, (its reconstruction,) map with the mask's outline, and photo with what is called defect.

    Maps (h, w) are stretched over their photos; without a pixel threshold the last column is left out.
    """
    panels = []
    drawn = redrawn or [None] * len(photos)
    for photo, values, mask, title, again in zip(photos, maps, masks, titles, drawn, strict=True):
        labelled, shape = (mask, MASK_COLOUR), photo.shape[:2]
        panels.append(Panel(photo, title))
        if again is not None:
            panels.append(Panel(again, "reconstruction"))
        panels.append(Panel(np.asarray(values, float), f"map, highest {np.max(values):.3g}", [labelled], shape))
        if threshold is not None:
            flagged = exceeds(values, threshold)
            words = f"{100 * flagged.mean():.3g} % above threshold"
            panels.append(Panel(photo, words, [labelled, (flagged, PREDICTED_COLOUR)]))
    low = min((float(np.min(values)) for values in maps), default=0) if vmin is None else float(vmin)
    high = max((float(np.max(values)) for values in maps), default=1) if vmax is None else float(vmax)
    legend = {"labelled defect": MASK_COLOUR} if any(mask is not None and np.any(mask) for mask in masks) else {}
    if threshold is not None:
        legend[f"pixel score > {float(threshold):.4g}"] = PREDICTED_COLOUR
    columns = len(panels) // max(1, len(photos))
    options = {"legend": legend, "heading": heading, "label": label, "note": note}
    line = None if threshold is None else float(threshold)
    return gallery(panels, columns, scale=(low, high), line=line, **options)
