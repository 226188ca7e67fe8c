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
    """Each drawn defect of a dataset (`is_drawn`) against what is measured in its mask; ``options``: `label_defects`'.

    One row a defect: image_path (relative), defect_type, true_area and area (px²), true_length and length (largest
    diameters, px), area_error (measured over true, minus 1), length_error (measured minus true), and mask_area_error,
    mask_length_error: those of the defect's own pixels in the mask. A defect that is not found has NaN.
    """
    content = json.loads((Path(table.attrs["root"]) / TRUTH_FILES[0]).read_text(encoding="utf-8"))
    kinds = {category["id"]: category["name"] for category in content["categories"]}
    names = {image["id"]: image["file_name"] for image in content["images"]}
    masks, rows = dict(zip(relative_path(table), table["mask_path"], strict=True)), []
    annotations = pd.DataFrame(content["annotations"]).groupby("image_id", sort=False)
    for image, drawn in progress(annotations, "Comparing with the drawn truth"):
        if not masks.get(names[image]):
            continue
        mask = read_mask(masks[names[image]])
        labels = label_defects(mask, **options)
        measured = measure_labels(labels)[["area_px", "length_px"]].to_numpy()
        for one in drawn.itertuples():
            polygon = np.array(one.segmentation[0], dtype=float).reshape(-1, 2)
            inside = polygon_mask(polygon, mask.shape) & mask
            covered = np.bincount(labels[inside], minlength=1)[1:]  # the measured one that covers most of it
            found = measured[covered.argmax()] if covered.any() else (np.nan, np.nan)
            own = measure_labels(inside.astype(np.uint8))[["area_px", "length_px"]].sum()  # one row, or none
            truth = (one.area, feret_diameter(polygon))
            rows.append((names[image], kinds[one.category_id], *truth, *found, *own))
    sizes = ["true_area", "true_length", "area", "length", "own_area", "own_length"]
    found = pd.DataFrame(rows, columns=["image_path", "defect_type", *sizes])
    for own, prefix in (("", ""), ("own_", "mask_")):
        found[f"{prefix}area_error"] = found[f"{own}area"] / found["true_area"] - 1
        found[f"{prefix}length_error"] = found[f"{own}length"] - found["true_length"]
    return found.drop(columns=["own_area", "own_length"])
