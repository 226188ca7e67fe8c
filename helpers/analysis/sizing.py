"""How large each defect is, where it lies and how far from the edge, in pixels and in millimetres.

A map or a mask becomes separate defects (`label_defects`), and each defect a row (`measure_labels`); `measure_defects`
does both. A pixel is a square, not a point: outlines run along the edges of pixels, so that a defect of one pixel is
1 px wide and 1.41 px long (its diagonal). Coordinates are COCO's: (x, y) from the photo's upper left corner, centres of
pixels at halves. An outline of pixels cannot be better than the pixels: a strip of 7.5 px along the grid is 7 or 8 px
wide in any mask. The columns ``*_error`` carry the error of the pixel size alone, not this one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, SupportsFloat

import cv2
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from skimage.measure import regionprops_table
from skimage.morphology import disk

from helpers.analysis.shapes import (
    axes,
    corners,
    crossings,
    edge_distances,
    feret,
    hull_of,
    perimeter,
    second_moments,
)
from helpers.thresholds import exceeds

MM_PER_UNIT = {"mm": 1.0, "cm": 10.0, "inch": 25.4}
UNITS = ("px", *MM_PER_UNIT)
DISC, MARGIN = disk(1), 4  # what opens and closes, and how far beyond the pixels above a threshold it is felt
LENGTHS = ("length", "width", "perimeter", "equivalent_diameter", "major_axis", "minor_axis", "edge_distance")
MEASURES = ("area", *LENGTHS)
WHOLE = ("defect", "bbox_x", "bbox_y", "bbox_width", "bbox_height")
COLUMNS = (
    "defect",
    *(f"{name}_px" for name in MEASURES),
    *(column for name in MEASURES for column in (name, f"{name}_error")),
    *("unit", "orientation_deg", "solidity", "centroid_x", "centroid_y", "relative_x", "relative_y", *WHOLE[1:]),
    *("length_x0", "length_y0", "length_x1", "length_y1", "touches_border", "mean_score", "peak_score"),
)


@dataclass(frozen=True)
class PixelSize:
    """Width and height of a pixel in ``unit`` (1 by 1 in px), their standard error (one factor for both), origin."""

    value_x: float
    value_y: float
    error: float = 0.0
    unit: str = "mm"
    origin: str = "given"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit={self.unit!r} is unknown; use one of {', '.join(UNITS)}.")
        if not all(math.isfinite(value) and value > 0 for value in (self.value_x, self.value_y)):
            raise ValueError(f"pixel_size={self.value_x, self.value_y} must be above 0, in {self.unit} a pixel.")
        if not (math.isfinite(self.error) and self.error >= 0):
            raise ValueError(f"The error of the pixel size is {self.error}; it must not be negative.")
        if self.unit == "px" and (self.value_x, self.value_y) != (1, 1):
            raise ValueError(
                f"pixel_size={self.value_x, self.value_y} with unit='px': a pixel is 1 px. "
                f"Name the unit that the pixel size is given in: {', '.join(MM_PER_UNIT)}."
            )

    @property
    def relative_error(self) -> float:
        """Standard error as a share of the (geometric mean) pixel size."""
        return self.error / math.sqrt(self.value_x * self.value_y)

    def to(self, unit: str) -> PixelSize:
        """The same size in another unit of length."""
        if unit == self.unit:
            return self
        if unit not in MM_PER_UNIT or self.unit not in MM_PER_UNIT:
            raise ValueError(f"A pixel size in {self.unit} cannot be given in {unit!r}; use {', '.join(MM_PER_UNIT)}.")
        factor = MM_PER_UNIT[self.unit] / MM_PER_UNIT[unit]
        return PixelSize(self.value_x * factor, self.value_y * factor, self.error * factor, unit, self.origin)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        both = f"{self.value_x:.4g}" if self.value_x == self.value_y else f"{self.value_x:.4g} x {self.value_y:.4g}"
        return f"{both} ± {self.error:.1g} {self.unit} a pixel ({self.origin})"


IN_PIXELS = PixelSize(1, 1, unit="px")
PixelSizeLike = float | tuple[float, float] | PixelSize


def as_pixel_size(pixel_size: PixelSizeLike, unit: str = "px") -> PixelSize:
    """A number or a pair (x, y) in a unit as a `PixelSize`; a `PixelSize` keeps its own unit where ``unit`` is px."""
    if isinstance(pixel_size, PixelSize):
        return pixel_size if unit == "px" else pixel_size.to(unit)
    width, height = np.broadcast_to(np.asarray(pixel_size, dtype=float), 2).tolist()
    return PixelSize(width, height, 0.0, unit)


def measure_defects(
    map_or_mask: np.ndarray,
    threshold: SupportsFloat = 0.5,
    pixel_size: PixelSizeLike = 1.0,
    unit: str = "px",
    *,
    score_map: np.ndarray | None = None,
    product_mask: np.ndarray | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Measure every defect of a map or mask: `label_defects` (its ``options``), then `measure_labels`."""
    size = as_pixel_size(pixel_size, unit)
    labels = label_defects(map_or_mask, threshold, size, **options)
    if score_map is None and np.issubdtype(np.asarray(map_or_mask).dtype, np.floating):
        score_map = map_or_mask
    return measure_labels(labels, size, score_map=score_map, product_mask=product_mask)


def label_defects(
    map_or_mask: np.ndarray,
    threshold: SupportsFloat = 0.5,
    size: PixelSize = IN_PIXELS,
    *,
    min_defect_area: int = 10,
    use_morphology: bool = True,
    fill_holes: bool = True,
    merge_distance: float = 0.0,
) -> np.ndarray:
    """Number the defects of an (H, W) bool mask, or of a map where it exceeds the threshold; corners touch too.

    (H, W) int32: 0 is background, 1 to N the defects, the largest first; of equal ones the upper, then the left.
    ``use_morphology`` opens and closes by a disc of 3 px. Opening is by reconstruction (Vincent 1993, "Morphological
    grayscale reconstruction in image analysis"), for it must not cost a defect its tips: a region that nowhere holds
    the disc goes, any other keeps its outline. A thin region stays if it has ``min_defect_area`` pixels and 9: a
    scratch of one or two pixels' width is no speck. ``fill_holes``: those that do not reach the border belong to the
    defect. Fragments with a gap (edge to edge, in the unit) below ``merge_distance`` are one defect; gaps are not
    filled. ``min_defect_area`` pixels are counted last.
    """
    if min_defect_area < 0 or not merge_distance >= 0:
        raise ValueError(f"min_defect_area={min_defect_area} and merge_distance={merge_distance} must not be negative.")
    picture = np.asarray(map_or_mask)
    if picture.ndim != 2 or not picture.size or picture.dtype.kind not in "biuf":
        raise ValueError(f"map_or_mask is {picture.dtype} of shape {picture.shape}; it must be (H, W) numbers or bool.")
    whole = (picture if picture.dtype == bool else exceeds(picture, threshold)).astype(np.uint8)
    labels = np.zeros(whole.shape, dtype=np.int32)
    left, top, width, height = cv2.boundingRect(whole)
    if not width:
        return labels
    # Nothing happens far from pixels above the threshold; the margin keeps the cut from acting as the photo's border.
    part = np.s_[max(0, top - MARGIN) : top + height + MARGIN, max(0, left - MARGIN) : left + width + MARGIN]
    mask = np.ascontiguousarray(whole[part])
    if use_morphology:
        mask = _closed(_opened(mask, min_defect_area))
    if fill_holes:
        mask = _filled(mask)
    _, regions = cv2.connectedComponents(mask, connectivity=8, ltype=cv2.CV_32S)
    if merge_distance > 0:
        regions = _merged(regions, merge_distance, size)
    areas = np.bincount(regions.ravel())
    areas[0] = 0
    kept = np.flatnonzero(areas >= max(min_defect_area, 1))
    kept = kept[np.argsort(-areas[kept], kind="stable")]
    numbers = np.zeros(len(areas), dtype=np.int32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    labels[part] = numbers[regions]
    return labels


def measure_labels(
    labels: np.ndarray,
    size: PixelSize = IN_PIXELS,
    *,
    score_map: np.ndarray | None = None,
    product_mask: np.ndarray | None = None,
) -> pd.DataFrame:
    """Measure numbered defects (H, W): one row a number, columns `COLUMNS`.

    Each measure comes as ``<name>_px`` in pixels, ``<name>`` in the unit and ``<name>_error``, the standard error that
    the pixel size carries into it. Where pixels are not square, ``_px`` counts them as if they were.

    - length, width: largest and smallest Feret diameter (rotating calipers on the convex hull; Toussaint 1983, "Solving
      geometric problems with the rotating calipers"). Of a bent defect, length is that of the chord.
    - perimeter: by the Cauchy-Crofton formula in four directions, weighted by the angle each stands for (Legland, Kiêu,
      Devaux 2007, "Computation of Minkowski measures on 2D and 3D binary images"), holes included.
    - major and minor axis: of the ellipse with the same second moments, those of a pixel's square (1/12 px²) included.
    - edge_distance: smallest gap to the edge of the product (its bool mask, if given) or of the photo.
    - orientation_deg: of the major axis against the horizontal, counterclockwise, above -90 to 90.
    - relative_x, relative_y: of the centroid in the box around the product, or in the photo, 0 to 1.
    - mean_score, peak_score: of the (H, W) score map over its pixels; NaN without one.
    """
    columns = _measured(labels, size, score_map, product_mask)
    for name in MEASURES:
        columns[f"{name}_error"] = columns[name] * size.relative_error * (2 if name == "area" else 1)
    # cast by NumPy, in a tenth of the time of Series
    kinds = dict.fromkeys(COLUMNS, np.float64) | dict.fromkeys(WHOLE, np.int64) | {"touches_border": bool}
    columns["unit"] = pd.array([size.unit] * len(columns["defect"]), dtype="str")
    table = pd.DataFrame(
        {name: columns[name] if name == "unit" else columns[name].astype(kinds[name]) for name in COLUMNS}
    )
    table.attrs["pixel_size"] = size.to_dict()
    return table


def area_and_length(mask: np.ndarray, size: PixelSize) -> tuple[float, float]:
    """Of one defect (H, W) bool, in the unit: what `measure_labels` says, without the rest."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    part, scale = mask[top : top + height, left : left + width], np.array([size.value_x, size.value_y])
    return float(part.sum() * scale.prod()), feret(hull_of(part) * scale)[0]


def _opened(mask: np.ndarray, min_defect_area: int) -> np.ndarray:
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, DISC)
    _, regions = cv2.connectedComponents(mask, connectivity=8, ltype=cv2.CV_32S)
    stays = np.bincount(regions.ravel()) >= max(min_defect_area, 9)  # faster than OpenCV's stats
    stays[regions[opened > 0]] = True
    stays[0] = False
    return stays.astype(np.uint8)[regions]


def _closed(mask: np.ndarray) -> np.ndarray:
    # In a frame of background, so that nothing grows towards the photo's border.
    padded = cv2.morphologyEx(np.pad(mask, 2), cv2.MORPH_CLOSE, DISC)
    return np.ascontiguousarray(padded[2:-2, 2:-2])


def _filled(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    cv2.floodFill(padded, None, (0, 0), 2, flags=4)
    return np.ascontiguousarray((padded[1:-1, 1:-1] != 2).astype(np.uint8))


def _merged(labels: np.ndarray, distance: float, size: PixelSize) -> np.ndarray:
    """Give fragments one number where the gap between their pixels' edges is below a distance.

    Between pixels of one grid the smallest gap always lies between two corners, so a search among corners is exact.
    """
    n = int(labels.max())
    if n < 2:
        return labels
    inner = cv2.erode((labels > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    edges = np.where(inner, 0, labels)
    parts = [corners(edges == number) * (size.value_x, size.value_y) for number in range(1, n + 1)]
    low, high = np.array([part.min(0) for part in parts]), np.array([part.max(0) for part in parts])
    linked = []
    for i in range(n - 1):
        gaps = np.maximum(np.maximum(low[i + 1 :] - high[i], low[i] - high[i + 1 :]), 0)
        near = i + 1 + np.flatnonzero(np.hypot(*gaps.T) < distance)
        tree = cKDTree(parts[i]) if len(near) else None
        linked += [(i, j) for j in near if tree.query(parts[j])[0].min() < distance]
    if not linked:
        return labels
    first, second = np.array(linked).T
    _, group = connected_components(coo_array((np.ones(len(first)), (first, second)), shape=(n, n)), directed=False)
    return np.concatenate([[0], group + 1]).astype(np.int32)[labels]


def _measured(
    labels: np.ndarray, size: PixelSize, score_map: np.ndarray | None, product_mask: np.ndarray | None
) -> dict[str, Any]:
    wanted = ["label", "bbox", "num_pixels", "centroid"]
    if score_map is not None:
        score_map = np.asarray(score_map, dtype=np.float32)
        wanted += ["intensity_mean", "intensity_max"]
    found = regionprops_table(labels, score_map, properties=wanted)
    top, left, bottom, right = (found[f"bbox-{side}"].astype(np.int64) for side in range(4))
    parts = [
        labels[y0:y1, x0:x1] == number
        for number, y0, x0, y1, x1 in zip(found["label"], top, left, bottom, right, strict=True)
    ]
    n, (height, width) = len(parts), labels.shape
    square, scale = np.ones(2), np.array([size.value_x, size.value_y])
    hulls = [hull_of(part) for part in parts]
    area, cell = found["num_pixels"].astype(float), scale.prod()
    gaps = np.array([left, top, width - right, height - bottom], dtype=float).reshape(4, -1)
    box_left, box_top, box_width, box_height = 0, 0, width, height
    if product_mask is not None and np.any(product_mask):
        box_left, box_top, box_width, box_height = cv2.boundingRect(np.asarray(product_mask, dtype=np.uint8))
    columns: dict[str, Any] = {"defect": found["label"]}
    outlines = np.zeros((n, 3))
    for suffix, steps in (("_px", square), ("", scale)):
        (major, minor), orientation = axes([second_moments(part) for part in parts], steps)
        edge = (gaps * np.tile(steps, 2)[:, None]).min(0)
        if product_mask is not None and n:
            edge = edge_distances(labels, found["label"], np.asarray(product_mask, dtype=bool), steps)
        scaled = area * (cell if suffix == "" else 1)
        if suffix == "" and steps[0] == steps[1]:
            outlines = outlines * steps[0]
        else:
            ferets = [feret(hull * steps) for hull in hulls]
            around = [perimeter(crossings(part), steps) for part in parts]
            outlines = np.array([(*each[:2], p) for each, p in zip(ferets, around, strict=True)]).reshape(n, 3)
        values = (scaled, *outlines.T, np.sqrt(4 * scaled / np.pi), major, minor, edge)
        columns |= {f"{name}{suffix}": value for name, value in zip(MEASURES, values, strict=True)}
    ends = np.array([hull[list(each[2])] for hull, each in zip(hulls, ferets, strict=True)]).reshape(n, 4)
    ends = ends + np.column_stack([left, top, left, top])
    centroid_x, centroid_y = found["centroid-1"] + 0.5, found["centroid-0"] + 0.5
    return columns | {
        "orientation_deg": orientation,
        "solidity": area / np.maximum([cv2.contourArea(hull.astype(np.float32)) for hull in hulls], 1),
        "centroid_x": centroid_x,
        "centroid_y": centroid_y,
        "relative_x": (centroid_x - box_left) / box_width,
        "relative_y": (centroid_y - box_top) / box_height,
        "bbox_x": left,
        "bbox_y": top,
        "bbox_width": right - left,
        "bbox_height": bottom - top,
        **dict(zip(("length_x0", "length_y0", "length_x1", "length_y1"), ends.T, strict=True)),
        "touches_border": gaps.min(0) == 0,
        "mean_score": found.get("intensity_mean", np.full(n, np.nan)),
        "peak_score": found.get("intensity_max", np.full(n, np.nan)),
    }
