"""Measured sizes against the drawn truth: the built-in datasets know the outline of every defect beyond its pixels.

What is off already in the mask is told apart: a strip along the grid wins or loses up to half a pixel on each side in
any mask.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.analysis.sizing import label_defects, measure_labels
from helpers.data.images import read_mask
from helpers.data.samples import relative_path
from helpers.pictures.scene import feret_diameter, polygon_mask
from helpers.progress import progress

TRUTH_FILES = ("annotations.coco.json", "defects.csv")  # what only a dataset drawn by code has both of
LIMITS = {"area": {200: 0.05, 400: 0.02}, "length": {0: 1.5}}
"""From which drawn size (px², px) by how much the measured one may be off: a share of the area; pixels of length."""


def is_drawn(root: str | Path) -> bool:
    """Whether a dataset's folder holds the outlines of :mod:`helpers.pictures.datasets`."""
    return all((Path(root) / name).is_file() for name in TRUTH_FILES)


def compare_with_drawn(table: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Each drawn defect against what is measured in its mask; ``options`` are those of `label_defects`.

    One row a defect: image_path (relative), defect_type, true_area and area (px²), true_length and length (largest
    diameters, px), area_error (measured over true, minus 1), length_error (measured minus true), and mask_area_error,
    mask_length_error: those of the defect's own pixels in the mask. A defect that is not found has NaN.
    """
    root = Path(table.attrs["root"])
    if not is_drawn(root):
        raise FileNotFoundError(f"{root} is not drawn by code: it has no {' and '.join(TRUTH_FILES)}.")
    content = json.loads((root / TRUTH_FILES[0]).read_text(encoding="utf-8"))
    kinds = {category["id"]: category["name"] for category in content["categories"]}
    names = {image["id"]: image["file_name"] for image in content["images"]}
    masks = dict(zip(relative_path(table), table["mask_path"], strict=True))
    rows = []
    annotations = pd.DataFrame(content["annotations"]).groupby("image_id", sort=False)
    for image, drawn in progress(annotations, "Comparing with the drawn truth"):
        if not masks.get(names[image]):
            continue
        mask = read_mask(masks[names[image]])
        labels = label_defects(mask, **options)
        measured = measure_labels(labels).set_index("defect")
        for one in drawn.to_dict("records"):
            about = {"image_path": names[image], "defect_type": kinds[one["category_id"]]}
            rows.append(about | _compared(one, mask, labels, measured))
    return pd.DataFrame(rows)


def accuracy_summary(compared: pd.DataFrame) -> pd.DataFrame:
    """How many drawn defects are measured within the limits, and where the others are off.

    One row a criterion: what, limit, n, within, beyond, beyond_in_mask (of those beyond, how many the mask alone is off
    by more than the limit), median and largest (absolute error, in the unit of the limit).
    """
    area = compared["true_area"]
    criteria = [
        ("area of 200 to 400 px", "area", (area > 200) & (area <= 400), LIMITS["area"][200]),
        ("area above 400 px", "area", area > 400, LIMITS["area"][400]),
        ("length", "length", area > 0, LIMITS["length"][0]),
    ]
    rows = []
    for what, measure, chosen, limit in criteria:
        error = compared.loc[chosen, f"{measure}_error"].abs()
        beyond = ~(error <= limit)  # what is not found is beyond
        own = compared.loc[chosen, f"mask_{measure}_error"].abs() > limit
        text = f"{limit:.0%}" if measure == "area" else f"{limit:g} px"
        row = {"what": what, "limit": text, "n": len(error), "within": int((~beyond).sum())}
        row |= {"beyond": int(beyond.sum()), "beyond_in_mask": int((beyond & own).sum())}
        rows.append(row | {"median": error.median(), "largest": error.max()})
    return pd.DataFrame(rows)


def _compared(drawn: dict[str, Any], mask: np.ndarray, labels: np.ndarray, measured: pd.DataFrame) -> dict[str, float]:
    """One drawn defect against the measured one that covers most of it, and against its own pixels in the mask."""
    polygon = np.array(drawn["segmentation"][0], dtype=float).reshape(-1, 2)
    inside = polygon_mask(polygon, mask.shape) & mask
    area, length, true_area, true_length = np.nan, np.nan, float(drawn["area"]), feret_diameter(polygon)
    covered = np.bincount(labels[inside], minlength=1)[1:]
    if covered.any():
        area, length = measured.loc[covered.argmax() + 1, ["area_px", "length_px"]]
    own = measure_labels(inside.astype(np.uint8)).iloc[0] if inside.any() else {"area_px": 0.0, "length_px": 0.0}
    row = {"true_area": true_area, "area": area, "true_length": true_length, "length": length}
    row |= {"area_error": area / true_area - 1, "length_error": length - true_length}
    return row | {
        "mask_area_error": own["area_px"] / true_area - 1,
        "mask_length_error": own["length_px"] - true_length,
    }
