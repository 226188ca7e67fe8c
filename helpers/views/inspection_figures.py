"""One inspected photo to look at: drawn on, as a page shows and hands it out, and as a static figure."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from helpers.drawing import PREDICTED_COLOUR, annotate_photo, draw_boxes, draw_overlay, folded, shorten
from helpers.views.app.inspection import Inspection, Sizes, contradiction
from helpers.views.style import new_figure

SYMBOLS = {True: "✕", False: "✓", None: "?"}


def verdict_words(inspection: Inspection, sizes: Sizes | None = None) -> str:
    """The verdict with a sign that does not depend on colour: ``✕ DEFECT``; ``? OK`` where sizes speak against it."""
    doubt = inspection.abnormal is False and contradiction(inspection, sizes)
    return f"{SYMBOLS[None if doubt else inspection.abnormal]} {inspection.verdict}"


def draw_inspection(inspection: Inspection, sizes: Sizes | None = None, opacity: float = 0.5) -> np.ndarray:
    """A photo under the colours of its map, with objects framed, defects outlined and measured, and its verdict.

    Args:
        inspection: of the photo.
        sizes: of its defects; None: nothing is outlined.
        opacity: of the map, 0 to 1.

    Returns:
        (kH, kW, 3) uint8; a small photo is enlarged by a whole factor k, see
        :func:`helpers.drawing.annotate_photo`.
    """
    picture = inspection.photo
    if inspection.anomaly_map is not None:
        nothing = np.zeros(picture.shape[:2], bool)
        overlay = draw_overlay(
            picture, inspection.anomaly_map, nothing, inspection.pixel_threshold, opacity=float(opacity)
        )
        picture = overlay
    if inspection.boxes:
        picture = draw_boxes(picture, inspection.boxes, inspection.boxes_abnormal)
    if sizes is None:
        return picture
    return annotate_photo(picture, sizes.labels, sizes.table, sizes.size, caption=verdict_words(inspection, sizes))


def inspection_figure(inspection: Inspection, sizes: Sizes, *, opacity: float = 0.5) -> Figure:
    """The photo, its map with the threshold marked on the scale, and the annotated photo; the verdict above them.

    Args:
        inspection: of the photo.
        sizes: of its defects.
        opacity: of the map over the annotated photo.
    """
    drawn = draw_inspection(inspection, sizes, opacity)
    photo = folded(inspection.photo)
    height, width = photo.shape[:2]
    columns = 2 if inspection.anomaly_map is None else 3
    cell = 10.0 / 3
    figure = new_figure(min(cell * height / width, 6.0) + 1.0, inspection.note, width=cell * columns + 0.6)
    axes = figure.subplots(1, columns)
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(photo)
    axes[0].set_title(shorten(inspection.name, 40), fontsize=9)
    axes[-1].imshow(folded(drawn))
    axes[-1].set_title(f"called defect by {sizes.by}: {len(sizes.table)}, map at {100 * opacity:.0f} %", fontsize=9)
    if inspection.anomaly_map is not None:
        image = axes[1].imshow(folded(inspection.anomaly_map))
        axes[1].set_title(f"map of {inspection.stage}", fontsize=9)
        bar = figure.colorbar(image, ax=axes[1], location="bottom", shrink=0.9, pad=0.02, aspect=25)
        bar.set_label(f"score of a pixel; line: threshold {inspection.pixel_threshold:.4g}", fontsize=8)
        bar.ax.axvline(inspection.pixel_threshold, color=PREDICTED_COLOUR, linewidth=2)
    against = contradiction(inspection, sizes)
    words = f"{verdict_words(inspection, sizes)}: {why(inspection)}" + (f"\nyet: {against}" if against else "")
    figure.suptitle(words, fontsize=12, fontweight="bold")
    return figure


def why(inspection: Inspection) -> str:
    """What decided, in a few words: the rule's value against its threshold, and where that comes from."""
    if inspection.error:
        return inspection.error
    row = inspection.deciding
    if row.get("value") is None:
        return f"{row['stage']}, rule {row['rule']}"
    words = f"{row['stage']}, {row['rule'].split(' ')[0]} {row['value']:.4g}"
    return f"{words}, threshold {row['threshold']:.4g} ({row['origin']})" if row.get("threshold") is not None else words
