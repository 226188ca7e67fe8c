"""How large each defect is, where it lies and how far from the edge, in pixels and in millimetres.

A map or a mask becomes separate defects (`label_defects`), and each defect a row (`measure_labels`); `measure_defects`
does both. A pixel is a square, not a point: outlines run along the edges of pixels, so that a defect of one pixel is
1 px wide and 1.41 px long (its diagonal). Coordinates are COCO's: (x, y) from the photo's upper left corner, centres of
pixels at halves. An outline of pixels cannot be better than the pixels: a strip of 7.5 px along the grid is 7 or 8 px
wide in any mask. The columns ``*_error`` carry the error of the pixel size alone, not this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self, SupportsFloat

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from skimage.measure import regionprops_table
from skimage.morphology import disk

from helpers.thresholds import exceeds

MM_PER_UNIT = {"mm": 1.0, "cm": 10.0, "inch": 25.4}
UNITS = ("px", *MM_PER_UNIT)
DISC, SQUARE = disk(1), np.ones((3, 3), np.uint8)
MARGIN = 4  # how far beyond the pixels above a threshold opening and closing are felt
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
        both = self.value_x, self.value_y
        if self.unit not in UNITS or (self.unit == "px" and both != (1, 1)):
            raise ValueError(f"pixel_size={both} with unit={self.unit!r}: name its unit, {', '.join(MM_PER_UNIT)}.")
        if not (all(0 < value < math.inf for value in both) and 0 <= self.error < math.inf):
            raise ValueError(f"pixel_size={both} must be above 0, and its error {self.error} not negative.")

    @property
    def scale(self) -> np.ndarray:
        return np.array([self.value_x, self.value_y])

    @property
    def relative_error(self) -> float:
        """Standard error as a share of the (geometric mean) pixel size."""
        return self.error / math.sqrt(self.value_x * self.value_y)

    def to(self, unit: str) -> Self:
        """The same size in another unit of length."""
        if unit == self.unit:
            return self
        if unit not in MM_PER_UNIT or self.unit not in MM_PER_UNIT:
            raise ValueError(f"A pixel size in {self.unit} cannot be given in {unit!r}; use {', '.join(MM_PER_UNIT)}.")
        factor = MM_PER_UNIT[self.unit] / MM_PER_UNIT[unit]
        return PixelSize(self.value_x * factor, self.value_y * factor, self.error * factor, unit, self.origin)

    def to_dict(self) -> dict[str, Any]:
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
    ``use_morphology`` opens and closes by a disc of 3 px; opening is by reconstruction (Vincent 1993): a region that
    nowhere holds the disc goes, any other keeps its outline, and a thin one stays if it has ``min_defect_area`` pixels
    and 9. ``fill_holes``: those that do not reach the border belong to the defect. Fragments with a gap (edge to edge,
    in the unit) below ``merge_distance`` are one defect. ``min_defect_area`` pixels are counted last.
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
        # In a frame of background, so that nothing grows towards the photo's border.
        closed = cv2.morphologyEx(np.pad(_opened(mask, min_defect_area), 2), cv2.MORPH_CLOSE, DISC)
        mask = np.ascontiguousarray(closed[2:-2, 2:-2])
    if fill_holes:
        filled = np.pad(mask, 1)
        cv2.floodFill(filled, None, (0, 0), 2, flags=4)
        mask = np.ascontiguousarray((filled[1:-1, 1:-1] != 2).astype(np.uint8))
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

    - length, width: largest and smallest Feret diameter (rotating calipers on the convex hull; Toussaint 1983). Of a
      bent defect, length is that of the chord.
    - perimeter: by the Cauchy-Crofton formula in four directions, weighted by the angle each stands for (Legland, Kiêu,
      Devaux 2007, "Computation of Minkowski measures on 2D and 3D binary images"), holes included.
    - major and minor axis: of the ellipse with the same second moments, those of a pixel's square (1/12 px²) included;
      orientation_deg of the major one against the horizontal, counterclockwise, above -90 to 90.
    - edge_distance: smallest gap to the edge of the product (its bool mask, if given) or of the photo; relative_x and
      relative_y: of the centroid in the box around it, 0 to 1.
    - mean_score, peak_score: of the (H, W) score map over its pixels; NaN without one.
    """
    wanted = ["label", "bbox", "num_pixels", "centroid"]
    product = None if product_mask is None else np.asarray(product_mask, dtype=np.uint8)
    if score_map is not None:
        score_map = np.asarray(score_map, dtype=np.float32)
        wanted += ["intensity_mean", "intensity_max"]
    found = regionprops_table(labels, score_map, properties=wanted)
    top, left, bottom, right = (found[f"bbox-{side}"].astype(np.int64) for side in range(4))
    height, width = labels.shape
    gaps = np.array([left, top, width - right, height - bottom], dtype=float).reshape(4, -1)
    boxes = zip(found["label"], top, left, bottom, right, strict=True)
    parts = [labels[y0:y1, x0:x1] == number for number, y0, x0, y1, x1 in boxes]
    hulls, powers = [hull_of(part) for part in parts], [2 if name == "area" else 1 for name in MEASURES]
    edges = None if product is None else lambda scale: ndimage.minimum(gap_map(product, scale), labels, found["label"])
    in_pixels, ends, orientation = _measures(found["num_pixels"], gaps, parts, hulls, edges, IN_PIXELS.scale)
    measured = [values * size.value_x**power for values, power in zip(in_pixels, powers, strict=True)]
    if size.value_x != size.value_y:
        measured, ends, orientation = _measures(found["num_pixels"], gaps, parts, hulls, edges, size.scale)
    columns: dict[str, Any] = {"defect": found["label"], "unit": pd.array([size.unit] * len(parts), dtype="str")}
    for name, pixels, values, power in zip(MEASURES, in_pixels, measured, powers, strict=True):
        columns |= {f"{name}_px": pixels, name: values, f"{name}_error": values * size.relative_error * power}
    x, y = found["centroid-1"] + 0.5, found["centroid-0"] + 0.5
    box = (0, 0, width, height) if product is None or not product.any() else cv2.boundingRect(product)
    columns |= {"orientation_deg": orientation, "centroid_x": x, "centroid_y": y}
    columns |= {"relative_x": (x - box[0]) / box[2], "relative_y": (y - box[1]) / box[3]}
    columns |= {"bbox_x": left, "bbox_y": top, "bbox_width": right - left, "bbox_height": bottom - top}
    hull_areas = [cv2.contourArea(hull.astype(np.float32)) for hull in hulls]
    columns |= {"solidity": found["num_pixels"] / np.maximum(hull_areas, 1), "touches_border": gaps.min(0) == 0}
    corners = np.array(ends).reshape(-1, 4) + np.column_stack([left, top, left, top])
    columns |= dict(zip(("length_x0", "length_y0", "length_x1", "length_y1"), corners.T, strict=True))
    for name, score in (("mean_score", "intensity_mean"), ("peak_score", "intensity_max")):
        columns[name] = found.get(score, np.full(len(parts), np.nan))
    # cast by NumPy, in a tenth of the time of Series
    kinds = dict.fromkeys(WHOLE, np.int64) | {"touches_border": bool, "unit": "str"}
    table = pd.DataFrame({name: columns[name].astype(kinds.get(name, np.float64)) for name in COLUMNS})
    table.attrs["pixel_size"] = size.to_dict()
    return table


def _measures(
    n_pixels: np.ndarray,
    gaps: np.ndarray,
    parts: list[np.ndarray],
    hulls: list[np.ndarray],
    edges: Callable[[np.ndarray], np.ndarray] | None,
    scale: np.ndarray,
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """`MEASURES` (N,) each, the corners that the length lies between, and the orientation."""
    ferets, (major, minor, orientation) = [feret(hull * scale) for hull in hulls], axes(parts, scale)
    area = n_pixels * scale.prod()
    length, width = np.array([each[:2] for each in ferets]).reshape(-1, 2).T
    around = np.array([perimeter(part, scale) for part in parts])
    edge = (gaps * np.tile(scale, 2)[:, None]).min(0) if edges is None else edges(scale)
    ends = [hull[list(each[2:])] for hull, each in zip(hulls, ferets, strict=True)]
    return [area, length, width, around, np.sqrt(4 * area / np.pi), major, minor, edge], ends, orientation


def _opened(mask: np.ndarray, min_defect_area: int) -> np.ndarray:
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, DISC)
    _, regions = cv2.connectedComponents(mask, connectivity=8, ltype=cv2.CV_32S)
    stays = np.bincount(regions.ravel()) >= max(min_defect_area, 9)  # faster than OpenCV's stats
    stays[regions[opened > 0]] = True
    stays[0] = False
    return stays.astype(np.uint8)[regions]


def _merged(labels: np.ndarray, distance: float, size: PixelSize) -> np.ndarray:
    """Give fragments one number where the gap between their pixels' edges is below a distance.

    Between pixels of one grid the smallest gap always lies between two corners, so a search among corners is exact.
    """
    inner = cv2.erode((labels > 0).astype(np.uint8), SQUARE) > 0
    rows, columns = np.nonzero(np.where(inner, 0, labels))
    points = [np.column_stack([columns + right, rows + down]) for right in (0, 1) for down in (0, 1)]
    points, owner = np.concatenate(points) * size.scale, np.tile(labels[rows, columns], 4)
    order, linked, n = np.argsort(owner, kind="stable"), [], int(labels.max())
    points, owner = points[order], owner[order]
    for number in range(1, n):
        start, stop = np.searchsorted(owner, [number, number + 1])
        own, later, others = points[start:stop], points[stop:], owner[stop:]
        near = np.maximum(own.min(0) - later, later - own.max(0)).max(1) < distance
        gaps, _ = cKDTree(own).query(later[near], distance_upper_bound=distance)
        linked += [(number, other) for other in np.unique(others[near][gaps < distance])]
    first, second = np.array(linked, dtype=int).reshape(-1, 2).T
    _, group = connected_components(coo_array((np.ones(len(linked)), (first, second)), shape=(n + 1, n + 1)), False)
    return group.astype(np.int32)[labels]  # background is linked to nothing, so that its number stays 0


def hull_of(part: np.ndarray) -> np.ndarray:
    """Convex hull (N, 2) float of the corners of a mask's pixels, as x and y in the mask; at least four points."""
    rows = np.flatnonzero(part.any(1))
    part = part[rows]
    first, last = part.argmax(1), part.shape[1] - part[:, ::-1].argmax(1)
    x, y = np.concatenate([first, first, last, last]), np.concatenate([rows, rows + 1] * 2)
    return cv2.convexHull(np.column_stack([x, y]).astype(np.int32))[:, 0].astype(float)


def feret(hull: np.ndarray) -> tuple[float, float, int, int]:
    """Largest and smallest diameter of a convex polygon (N, 2), and which two points the largest lies between."""
    between = hull[None] - hull[:, None]  # [i, j]: from i to j
    squared = (between**2).sum(-1)
    first, second = divmod(int(squared.argmax()), len(hull))
    edges = np.roll(hull, -1, axis=0) - hull
    # The strip of the least width has an edge of the hull on one side.
    heights = np.abs(edges[:, None, 0] * between[..., 1] - edges[:, None, 1] * between[..., 0]).max(1)
    return math.sqrt(squared[first, second]), float((heights / np.hypot(*edges.T)).min()), first, second


def axes(parts: list[np.ndarray], scale: np.ndarray) -> np.ndarray:
    """Full axes and orientation in degrees (3, N) of the ellipses with the second moments of N masks."""
    moments = []
    for part in parts:
        y, x = np.nonzero(part)
        x, y = x - x.mean(), y - y.mean()
        moments.append((x @ x / len(x) + 1 / 12, y @ y / len(x) + 1 / 12, x @ y / len(x)))  # 1/12: of a square's points
    xx, yy, xy = (np.array(moments).reshape(-1, 3) * (scale[0] ** 2, scale[1] ** 2, scale.prod())).T
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    degrees = np.rad2deg(np.arctan2(-2 * xy, xx - yy) / 2)  # y points down
    both = 4 * np.sqrt(np.maximum([middle + spread, middle - spread], 0))
    return np.stack([*both, np.where(degrees <= -90, degrees + 180, degrees)])


def perimeter(part: np.ndarray, scale: np.ndarray) -> float:
    """Half the integral over directions of how often lines through the pixels' centres enter or leave a mask."""
    padded = np.pad(part, 1)
    rows = np.count_nonzero(padded[:, 1:] != padded[:, :-1])
    columns = np.count_nonzero(padded[1:] != padded[:-1])
    diagonals = np.count_nonzero(padded[1:, 1:] != padded[:-1, :-1])
    diagonals += np.count_nonzero(padded[1:, :-1] != padded[:-1, 1:])
    x, y = scale
    diagonal, lines = math.atan2(y, x), x * y / math.hypot(x, y)  # its angle, and the distance between such lines
    # Each direction stands for the angles that are nearest to it.
    total = diagonal * y * rows + (math.pi / 2 - diagonal) * x * columns + math.pi / 4 * lines * diagonals
    return total / 2


def gap_map(product: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Gap (H, W) between each pixel and the nearest one that is not the product, outside the photo included."""
    # Between two pixels' edges it is as far as from one's centre to the eight neighbours of the other.
    near = cv2.dilate((np.pad(product, 1) == 0).astype(np.uint8), SQUARE)
    return ndimage.distance_transform_edt(near == 0, sampling=scale[::-1])[1:-1, 1:-1]
