"""One inspected photo to look at: drawn on, as a page shows and hands it out, and as a static figure."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from helpers.drawing import annotate_photo, draw_boxes, draw_overlay, folded
from helpers.views.app.inspection import Inspection, Sizes, contradiction
from helpers.views.gallery import gallery

SYMBOLS = {True: "✕", False: "✓", None: "?"}


def verdict_words(inspection: Inspection, sizes: Sizes | None = None) -> str:
    """The verdict with a sign that does not depend on colour: ``✕ DEFECT``; ``? OK`` where sizes speak against it."""
    doubt = inspection.abnormal is False and contradiction(inspection, sizes)
    return f"{SYMBOLS[None if doubt else inspection.abnormal]} {inspection.verdict}"


def draw_inspection(inspection: Inspection, sizes: Sizes | None = None, opacity: float = 0.5) -> np.ndarray:
    """A photo (kH, kW, 3) uint8 under the colours of its map, objects framed; defects measured where sizes are given.

    With sizes a small photo is enlarged by a whole factor k (`annotate_photo`).
    """
    picture = inspection.photo
    if inspection.anomaly_map is not None:
        nothing, threshold = np.zeros(picture.shape[:2], bool), inspection.pixel_threshold
        picture = draw_overlay(picture, inspection.anomaly_map, nothing, threshold, opacity=float(opacity))
    if inspection.boxes:
        picture = draw_boxes(picture, inspection.boxes, inspection.boxes_abnormal)
    if sizes is None:
        return picture
    return annotate_photo(picture, sizes.labels, sizes.table, sizes.size, caption=verdict_words(inspection, sizes))


def inspection_figure(inspection: Inspection, sizes: Sizes, *, opacity: float = 0.5) -> Figure:
    """The photo, its map with the threshold marked on the scale, and the annotated photo; the verdict above them."""
    pictures, titles, label = [inspection.photo], [inspection.name], ""
    if inspection.anomaly_map is not None:
        pictures.append(inspection.anomaly_map)
        titles.append(f"map of {inspection.stage}")
        label = f"score of a pixel; line: threshold {inspection.pixel_threshold:.4g}"
    pictures.append(draw_inspection(inspection, sizes, opacity))
    titles.append(f"called defect by {sizes.by}: {len(sizes.table)}, map at {100 * opacity:.0f} %")
    against = contradiction(inspection, sizes)
    heading = f"{verdict_words(inspection, sizes)}: {why(inspection)}" + (f"\nyet: {against}" if against else "")
    options = {"label": label, "line": inspection.pixel_threshold, "heading": heading, "note": inspection.note}
    return gallery([folded(picture) for picture in pictures], titles, cell=3.2, **options)


def why(inspection: Inspection) -> str:
    """What decided, in a few words: the rule's value against its threshold, and where that comes from."""
    if inspection.error:
        return inspection.error
    row = inspection.deciding
    if row.get("value") is None:
        return f"{row['stage']}, rule {row['rule']}"
    words = f"{row['stage']}, {row['rule'].split(' ')[0]} {row['value']:.4g}"
    return f"{words}, threshold {row['threshold']:.4g} ({row['origin']})" if row.get("threshold") is not None else words
