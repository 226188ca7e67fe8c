"""How large each defect is, where it lies and how far from the edge, in pixels and in millimetres.

A map or a mask becomes separate defects (:func:`label_defects`), and each defect a row (:func:`measure_labels`);
:func:`measure_defects` does both. A pixel is a square, not a point: outlines run along the edges of pixels, so that a
defect of one pixel is 1 px wide and 1.41 px long (its diagonal), and a strip of one row has a minor axis. Coordinates
are those of COCO: (x, y) from the photo's upper left corner, centres of pixels at halves.

An outline of pixels cannot be better than the pixels: a strip of 7.5 px that lies along the grid is 7 or 8 px wide in
any mask. The columns ``*_error`` carry the error of the pixel size alone, not this one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import Any, SupportsFloat

import cv2
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from skimage.measure import regionprops_table
from skimage.morphology import disk

from helpers.analysis.outlines import connected_regions
from helpers.analysis.regions import region_of
from helpers.progress import progress
from helpers.thresholds import exceeds

MM_PER_UNIT = {"mm": 1.0, "cm": 10.0, "inch": 25.4}
UNITS = ("px", *MM_PER_UNIT)
LENGTHS = (
    "length",
    "width",
    "perimeter",
    "equivalent_diameter",
    "major_axis",
    "minor_axis",
    "edge_distance",
)
MEASURES = ("area", *LENGTHS)
COLUMNS: dict[str, str] = {
    "defect": "int64",
    **dict.fromkeys([f"{name}_px" for name in MEASURES], "float64"),
    **dict.fromkeys([column for name in MEASURES for column in (name, f"{name}_error")], "float64"),
    "unit": "str",
    "orientation_deg": "float64",
    "solidity": "float64",
    **dict.fromkeys(["centroid_x", "centroid_y", "relative_x", "relative_y"], "float64"),
    **dict.fromkeys(["bbox_x", "bbox_y", "bbox_width", "bbox_height"], "int64"),
    **dict.fromkeys(["length_x0", "length_y0", "length_x1", "length_y1"], "float64"),
    "touches_border": "bool",
    "mean_score": "float64",
    "peak_score": "float64",
}


@dataclass(frozen=True)
class PixelSize:
    """How large a pixel is, and how well that is known.

    Attributes:
        value_x: Width of a pixel in ``unit``, above 0.
        value_y: Its height.
        error: Standard error of both, in ``unit``; they are taken to be wrong by the same factor.
        unit: px, mm, cm or inch; in px a pixel is 1 by 1.
        origin: Where it comes from, in words.

    Raises:
        ValueError: For a size that is not above 0, a negative error or an unknown unit.
    """

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
        """The same size in another unit.

        Raises:
            ValueError: Between px and a unit of length.
        """
        if unit == self.unit:
            return self
        if unit not in MM_PER_UNIT or self.unit not in MM_PER_UNIT:
            raise ValueError(f"A pixel size in {self.unit} cannot be given in {unit!r}; use {', '.join(MM_PER_UNIT)}.")
        factor = MM_PER_UNIT[self.unit] / MM_PER_UNIT[unit]
        return PixelSize(self.value_x * factor, self.value_y * factor, self.error * factor, unit, self.origin)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        both = f"{self.value_x:.4g}" if self.value_x == self.value_y else f"{self.value_x:.4g} x {self.value_y:.4g}"
        return f"{both} ± {self.error:.1g} {self.unit} a pixel ({self.origin})"


PixelSizeLike = float | tuple[float, float] | PixelSize


def as_pixel_size(pixel_size: PixelSizeLike, unit: str = "px") -> PixelSize:
    """A number, a pair (x, y) or a calibration as a `PixelSize` in a unit.

    Args:
        pixel_size: ``unit`` a pixel. A `PixelSize` keeps its own unit where ``unit`` is px.
        unit: px, mm, cm or inch.

    Raises:
        ValueError: As `PixelSize` does; and for what is none of the three.
    """
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} is unknown; use one of {', '.join(UNITS)}.")
    if isinstance(pixel_size, PixelSize):
        return pixel_size if unit == "px" else pixel_size.to(unit)
    try:
        values = np.broadcast_to(np.asarray(pixel_size, dtype=float), 2).tolist()
    except (TypeError, ValueError) as error:
        raise ValueError(f"pixel_size={pixel_size!r} must be a number, a pair (x, y) or a PixelSize.") from error
    return PixelSize(values[0], values[1], 0.0, unit)


# ------------------------------------------------------------------------------------------------------------- measures


def measure_defects(
    map_or_mask: np.ndarray,
    threshold: SupportsFloat = 0.5,
    pixel_size: PixelSizeLike = 1.0,
    unit: str = "px",
    *,
    score_map: np.ndarray | None = None,
    product_mask: np.ndarray | None = None,
    min_defect_area: int = 10,
    use_morphology: bool = True,
    opening_diameter: int = 3,
    closing_diameter: int = 3,
    fill_holes: bool = True,
    merge_distance: float = 0.0,
) -> pd.DataFrame:
    """Measure every defect of a map or mask: one row a defect, the largest first.

    Args:
        map_or_mask: (H, W): bool, or numbers that are compared with the threshold (defect: above it).
        threshold: in the map's units; a bool mask is taken as it is.
        pixel_size: as for `measure_labels`.
        unit: likewise.
        score_map: likewise; a map of floats is its own.
        product_mask: likewise.
        min_defect_area: as for `label_defects`, like all that follow.
        use_morphology: see there.
        opening_diameter: see there.
        closing_diameter: see there.
        fill_holes: see there.
        merge_distance: see there; in the unit of the result.

    Returns:
        The table of `measure_labels`.

    Raises:
        ValueError: naming the parameter at fault.
    """
    size = as_pixel_size(pixel_size, unit)
    labels = label_defects(
        map_or_mask,
        threshold,
        size,
        min_defect_area=min_defect_area,
        use_morphology=use_morphology,
        opening_diameter=opening_diameter,
        closing_diameter=closing_diameter,
        fill_holes=fill_holes,
        merge_distance=merge_distance,
    )
    return measure_labels(labels, size, score_map=_scores(map_or_mask, score_map), product_mask=product_mask)


def label_defects(
    map_or_mask: np.ndarray,
    threshold: SupportsFloat = 0.5,
    pixel_size: PixelSizeLike = 1.0,
    unit: str = "px",
    *,
    min_defect_area: int = 10,
    use_morphology: bool = True,
    opening_diameter: int = 3,
    closing_diameter: int = 3,
    fill_holes: bool = True,
    merge_distance: float = 0.0,
) -> np.ndarray:
    """Number the defects of a map or mask; pixels that touch, also at a corner, are of one defect.

    Opening is by reconstruction (Vincent 1993, "Morphological grayscale reconstruction in image analysis"), for it must
    not cost a defect its tips: a region that nowhere holds a disc of ``opening_diameter`` goes, before anything is
    closed or merged; any other keeps its outline. A thin region stays if it has ``min_defect_area`` pixels, and
    ``opening_diameter`` squared: a scratch of one or two pixels' width is no speck.

    Args:
        map_or_mask: (H, W): bool, or numbers; a pixel is a defect's where they lie above the threshold.
        threshold: in the map's units; a bool mask is taken as it is.
        pixel_size: as for `measure_labels`; needed for ``merge_distance`` alone.
        unit: likewise.
        min_defect_area: defects of fewer pixels are left out; counted last, when all else is done.
        use_morphology: whether to open and close.
        opening_diameter: pixels, odd; 0 or 1: none.
        closing_diameter: pixels, odd; gaps that are narrower close; 0 or 1: none.
        fill_holes: whether holes, which do not reach the border, belong to the defect around them.
        merge_distance: in ``unit``; fragments with a gap below it are one defect. Gaps are measured from edge to edge
            and are not filled: the area is that of the fragments, the length that of all together.

    Returns:
        (H, W) int32: 0 is background, 1 to N the defects, the largest first; of equal ones the upper, then the left.

    Raises:
        ValueError: for a map that is not (H, W), holds NaN or no numbers, or a parameter outside its range.
    """
    size = as_pixel_size(pixel_size, unit)
    for name, value in (("opening_diameter", opening_diameter), ("closing_diameter", closing_diameter)):
        if value < 0 or (value > 0 and value % 2 == 0):
            raise ValueError(f"{name} must be an odd number of pixels, or 0 for none; got {value}.")
    if min_defect_area < 0 or not merge_distance >= 0:
        raise ValueError(f"min_defect_area={min_defect_area} and merge_distance={merge_distance} must not be negative.")
    whole = _thresholded(map_or_mask, threshold)
    labels = np.zeros(whole.shape, dtype=np.int32)
    left, top, width, height = cv2.boundingRect(whole)
    if not width:
        return labels
    # Nothing happens far from pixels above the threshold; the margin keeps the cut from acting as the photo's border.
    margin = max(opening_diameter, closing_diameter) + 1
    part = np.s_[max(0, top - margin) : top + height + margin, max(0, left - margin) : left + width + margin]
    mask = np.ascontiguousarray(whole[part])
    if use_morphology:
        mask = _opened(mask, opening_diameter // 2, min_defect_area)
        mask = _closed(mask, closing_diameter // 2)
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
    pixel_size: PixelSizeLike = 1.0,
    unit: str = "px",
    *,
    score_map: np.ndarray | None = None,
    product_mask: np.ndarray | None = None,
) -> pd.DataFrame:
    """Measure numbered defects: one row a number, in the order of the numbers.

    Each measure comes as ``<name>_px`` in pixels, ``<name>`` in the unit and ``<name>_error``, the standard error that
    the pixel size carries into it: to first order its relative error, twice that for areas. Where pixels are not
    square, ``_px`` counts them as if they were; the unit's columns are right.

    =====================  ==========================================================================================
    defect                 the number in ``labels``
    area                   of the pixels
    length, width          largest and smallest Feret diameter: of all pairs of parallel lines that touch the outline
                           from both sides, the distance of the farthest and of the nearest (rotating calipers on the
                           convex hull; Toussaint 1983, "Solving geometric problems with the rotating calipers"). Of
                           a bent defect, ``length`` is that of the chord
    perimeter              by the Cauchy-Crofton formula in four directions, weighted by the angle each stands for
                           (Legland, Kiêu, Devaux 2007, "Computation of Minkowski measures on 2D and 3D binary
                           images"), holes included
    equivalent_diameter    of the disc of the same area
    major, minor axis      full axes of the ellipse with the same second moments; those of a pixel's square, 1/12 px²,
                           are part of them
    edge_distance          smallest gap to the edge of the product, if its mask is given, or of the photo
    unit                   of the columns without ``_px``
    orientation_deg        of the major axis against the photo's horizontal, counterclockwise, above -90 to 90
    solidity               area over that of the convex hull, above 0 to 1
    centroid_x, _y         pixels; relative_x, relative_y: in the box around the product, or in the photo, 0 to 1
    bbox_x, _y, ...        pixels: left, top, width, height
    length_x0, _y0, ...    pixels: both ends of the length
    touches_border         whether the photo's border cuts it: it may be larger than it looks
    mean_score, peak_...   of the score map over its pixels; NaN without one
    =====================  ==========================================================================================

    Args:
        labels: (H, W) of integers, 0 the background.
        pixel_size: ``unit`` a pixel: a number, a pair (x, y), or a `PixelSize` with its error.
        unit: px, mm, cm or inch. A `PixelSize` is converted, and keeps its own unit where this is px.
        score_map: (H, W) of floats.
        product_mask: (H, W) bool, where the product is; without one it fills the photo.

    Returns:
        The table with the columns and types of ``COLUMNS``, also where there is no defect; ``attrs["pixel_size"]``.

    Raises:
        ValueError: for shapes that do not fit, labels that are no integers, or an unknown unit.
    """
    size = as_pixel_size(pixel_size, unit)
    return _frame([_measured(labels, size, score_map, product_mask)], size)


def measure_table(
    maps: Iterable[np.ndarray],
    image_paths: Sequence[str],
    threshold: SupportsFloat = 0.5,
    pixel_size: PixelSizeLike = 1.0,
    unit: str = "px",
    *,
    defect_types: Sequence[str] | None = None,
    score_maps: Iterable[np.ndarray | None] | None = None,
    product_masks: Iterable[np.ndarray | None] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Measure the defects of many photos, one at a time; photos without a defect have no row.

    Args:
        maps: maps or masks, (H, W) each; sizes may differ. Read once, one by one.
        image_paths: one a map; they name the photo in the result.
        threshold: as for `measure_defects`.
        pixel_size: likewise, one for all photos.
        unit: likewise.
        defect_types: one a map, given to every defect of it.
        score_maps: one a map, or None.
        product_masks: likewise.
        **options: of `label_defects`.

    Returns:
        ``image_path`` (and ``defect_type``, where given), then the columns of `measure_labels`.

    Raises:
        ValueError: naming the photo at fault; or where the numbers of maps and of names differ.
    """
    size = as_pixel_size(pixel_size, unit)
    n = len(image_paths)
    types = [""] * n if defect_types is None else list(defect_types)
    scores = repeat(None) if score_maps is None else iter(score_maps)
    products = repeat(None) if product_masks is None else iter(product_masks)
    parts, paths, kinds = [], [], []
    n_maps = 0
    for n_maps, picture in enumerate(progress(maps, "Measuring defects", total=n), start=1):
        if n_maps > n:
            break
        path, kind = image_paths[n_maps - 1], types[n_maps - 1]
        try:
            score_map, product_mask = next(scores), next(products)
            labels = label_defects(picture, threshold, size, **options)
            part = _measured(labels, size, _scores(picture, score_map), product_mask)
        except StopIteration as error:
            raise ValueError(f"{path}: score_maps or product_masks is shorter than maps; give one a map.") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        parts.append(part)
        paths += [path] * len(part["defect"])
        kinds += [kind] * len(part["defect"])
    if n_maps != n or len(types) != n:
        raise ValueError(f"{n} image_paths and {len(types)} defect_types do not fit {n_maps} maps; give one a map.")
    table = _frame(parts, size)
    table.insert(0, "image_path", pd.Series(paths, dtype="str"))
    if defect_types is not None:
        table.insert(1, "defect_type", pd.Series(kinds, dtype="str"))
    return table


def defect_statistics(
    table: pd.DataFrame, measure: str = "area", *, image_paths: Sequence[str] | None = None
) -> pd.DataFrame:
    """Count and sizes of the defects of each photo, and of all together.

    Args:
        table: from `measure_table`.
        measure: column that is summed up, such as area or length.
        image_paths: all photos looked at, so that those without a defect count too; default: those in the table.

    Returns:
        Index ``image_path``, last row ``all``; columns count, total, mean, median, std (n - 1; NaN below two defects)
        and largest, in the unit of the measure. Without defects the count and total are 0, the others NaN.

    Raises:
        ValueError: for an unknown measure, or a photo of the table that is not among ``image_paths``.
    """
    if measure not in table.columns or "image_path" not in table.columns:
        raise ValueError(f"The table has no column {measure!r} or no image_path; give what measure_table returns.")
    photos = list(dict.fromkeys(table["image_path"] if image_paths is None else image_paths))
    unknown = sorted(set(table["image_path"]) - set(photos))
    if unknown:
        raise ValueError(f"image_paths lacks {unknown[0]} and {len(unknown) - 1} more photos of the table.")

    def summary(values: pd.Series) -> dict[str, float]:
        return {
            "count": len(values),
            "total": values.sum(),
            "mean": values.mean(),
            "median": values.median(),
            "std": values.std(),
            "largest": values.max(),
        }

    by_photo = {path: group for path, group in table.groupby("image_path", sort=False)[measure]}
    none = table[measure].iloc[:0]
    rows = [summary(by_photo.get(path, none)) for path in photos] + [summary(table[measure])]
    return pd.DataFrame(rows, index=pd.Index([*photos, "all"], name="image_path"))


def size_error_by_threshold(
    maps: Iterable[np.ndarray],
    masks: Iterable[np.ndarray | None],
    thresholds: Sequence[float],
    pixel_size: PixelSizeLike = 1.0,
    unit: str = "px",
    *,
    min_defect_area: int = 10,
    **options: Any,
) -> pd.DataFrame:
    """How much of a detector's size error is the threshold: its maps against true masks, over thresholds.

    A true defect is compared with the measured one that covers most of its pixels; where none covers any, it is not
    found, and counts in no error. Masks are measured as they are, without morphology.

    Args:
        maps: (H, W) float maps, read once.
        masks: (H, W) bool true masks of the same size; None, or empty: the photo is left out.
        thresholds: to measure at.
        pixel_size: as for `measure_labels`.
        unit: likewise.
        min_defect_area: pixels; of true and measured defects alike.
        **options: of `label_defects`, for the maps.

    Returns:
        One row a threshold: threshold, n (true defects), n_found, found (share), area_error (median over found defects
        of measured over true area, minus 1), area_error_low and _high (quartiles), length_error (median of measured
        minus true length, in the unit), length_error_low and _high, unit. NaN where nothing is found.

    Raises:
        ValueError: if no mask has a defect, or the shapes of a map and its mask differ.
    """
    size = as_pixel_size(pixel_size, unit)
    n_true = 0
    errors: list[list[tuple[float, float]]] = [[] for _ in thresholds]
    pairs = ((a, m) for a, m in zip(maps, masks, strict=True) if m is not None and np.any(m))
    for picture, mask in progress(pairs, "Measuring at every threshold"):
        if np.shape(picture) != np.shape(mask):
            raise ValueError(f"A map has the shape {np.shape(picture)} and its mask {np.shape(mask)}; they must agree.")
        true = label_defects(mask, 0, size, min_defect_area=min_defect_area, use_morphology=False)
        truth = _measured(true, size)
        n_true += len(truth["defect"])
        for place, threshold in enumerate(thresholds):
            found = label_defects(picture, threshold, size, min_defect_area=min_defect_area, **options)
            for row, number in enumerate(truth["defect"]):
                covered = np.bincount(found[true == number], minlength=1)[1:]
                if covered.any():
                    area, length = _area_and_length(found == int(covered.argmax()) + 1, size)
                    errors[place].append((area / truth["area"][row] - 1, length - truth["length"][row]))
    if not n_true:
        raise ValueError("masks holds no defect of min_defect_area or more: there is no truth to compare with.")
    rows = []
    for threshold, found_errors in zip(thresholds, errors, strict=True):
        values = np.array(found_errors).reshape(-1, 2)
        quartiles = np.quantile(values, [0.25, 0.5, 0.75], axis=0) if len(values) else np.full((3, 2), np.nan)
        row = {"threshold": float(threshold), "n": n_true, "n_found": len(values), "found": len(values) / n_true}
        for column, name in enumerate(("area_error", "length_error")):
            low, middle, high = quartiles[:, column]
            row |= {name: middle, f"{name}_low": low, f"{name}_high": high}
        rows.append(row | {"unit": size.unit})
    return pd.DataFrame(rows)


# --------------------------------------------------------------------------------------------------------------- export


def coco_of_defects(
    photos: Iterable[tuple[str, np.ndarray]], table: pd.DataFrame, *, types: Sequence[str] | None = None
) -> dict[str, Any]:
    """Measured defects as the content of a COCO file; write it with `helpers.paths.write_json`.

    An outline without holes is stored as polygons along the edges of its pixels, any other as compressed run lengths;
    pycocotools draws exactly the pixels of either. The custom keys length, width, unit and, where the table has it,
    severity of an annotation are those of the table.

    Args:
        photos: image path and labels (H, W) of each, as from `label_defects`; paths as in the table.
        table: from `measure_table`; its ``defect_type`` names the category, "defect" where it has none.
        types: names of the categories; default: those in the table.

    Raises:
        ValueError: where a photo's labels are not the numbers of the table's rows.
    """
    kinds = table["defect_type"] if "defect_type" in table else pd.Series("defect", index=table.index)
    names = sorted(kinds.unique()) if types is None else list(types)
    categories = {name: number for number, name in enumerate(names, start=1)}
    custom = [column for column in ("length", "width", "unit", "severity") if column in table]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rows_of = dict(list(table.groupby("image_path", sort=False)))
    for path, labels in photos:
        height, width = labels.shape
        images.append({"id": len(images) + 1, "file_name": str(path), "height": height, "width": width})
        rows = rows_of.get(path, table.iloc[:0])
        if sorted(rows["defect"]) != sorted(np.unique(labels[labels > 0])):
            raise ValueError(f"{path}: the labels are not those the table was measured on; label and measure it again.")
        for index, row in rows.iterrows():
            annotation = {
                "id": len(annotations) + 1,
                "image_id": len(images),
                "category_id": categories[kinds[index]],
                "segmentation": _segmentation(labels == row["defect"]),
                "bbox": [int(row[f"bbox_{side}"]) for side in ("x", "y", "width", "height")],
                "area": int(row["area_px"]),
                "iscrowd": 0,
            }
            annotations.append(annotation | {column: row[column] for column in custom})
    listed = [{"id": number, "name": name, "supercategory": "defect"} for name, number in categories.items()]
    return {"info": {}, "licenses": [], "categories": listed, "images": images, "annotations": annotations}


def _segmentation(mask: np.ndarray) -> list[list[float]] | dict[str, Any]:
    outlines = [region["segmentation"] for region in connected_regions(mask)]
    if all(isinstance(outline, list) for outline in outlines):
        return [polygon for outline in outlines for polygon in outline]
    region = region_of(mask)
    return {"size": region["size"], "counts": region["counts"].decode("ascii")}


# --------------------------------------------------------------------------------------------------- from map to labels


def _scores(map_or_mask: np.ndarray, score_map: np.ndarray | None) -> np.ndarray | None:
    """The score map: the one given, or the map itself where it is one."""
    own = np.issubdtype(np.asarray(map_or_mask).dtype, np.floating)
    return map_or_mask if score_map is None and own else score_map


def _thresholded(map_or_mask: np.ndarray, threshold: SupportsFloat) -> np.ndarray:
    """(H, W) uint8, 0 or 1."""
    picture = np.asarray(map_or_mask)
    if picture.ndim != 2 or not picture.size:
        raise ValueError(f"map_or_mask has the shape {picture.shape}; it must be (H, W), one channel, not empty.")
    if picture.dtype == bool:
        return picture.astype(np.uint8)
    if not np.issubdtype(picture.dtype, np.integer) and not np.issubdtype(picture.dtype, np.floating):
        raise ValueError(f"map_or_mask is of type {picture.dtype}; it must hold bool or real numbers.")
    return exceeds(picture, threshold).astype(np.uint8)


def _opened(mask: np.ndarray, radius: int, min_defect_area: int) -> np.ndarray:
    if not radius:
        return mask
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, disk(radius))
    _, regions = cv2.connectedComponents(mask, connectivity=8, ltype=cv2.CV_32S)
    stays = np.bincount(regions.ravel()) >= max(min_defect_area, (2 * radius + 1) ** 2)  # faster than OpenCV's stats
    stays[regions[opened > 0]] = True
    stays[0] = False
    return stays.astype(np.uint8)[regions]


def _closed(mask: np.ndarray, radius: int) -> np.ndarray:
    if not radius:
        return mask
    # In a frame of background, so that nothing grows towards the photo's border.
    padded = cv2.copyMakeBorder(mask, *[2 * radius] * 4, cv2.BORDER_CONSTANT, value=0)
    height, width = mask.shape
    inner = np.s_[2 * radius : 2 * radius + height, 2 * radius : 2 * radius + width]
    return np.ascontiguousarray(cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disk(radius))[inner])


def _filled(mask: np.ndarray) -> np.ndarray:
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(padded, None, (0, 0), 2, flags=4)
    return np.ascontiguousarray((padded[1:-1, 1:-1] != 2).astype(np.uint8))


def _merged(labels: np.ndarray, distance: float, size: PixelSize) -> np.ndarray:
    """Give fragments one number where the gap between their pixels' edges is below a distance.

    Between pixels of one grid the smallest gap always lies between two corners, so a search among corners is exact.
    """
    n = int(labels.max())
    if n < 2:
        return labels
    points, owners = [], []
    background = cv2.erode((labels > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    rows, columns = np.nonzero((labels > 0) & background)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        points.append(np.column_stack([columns + right, rows + down]) * (size.value_x, size.value_y))
        owners.append(labels[rows, columns])
    corners, owner = np.concatenate(points), np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    corners, owner = corners[order], owner[order]
    starts = np.searchsorted(owner, np.arange(1, n + 2))
    parts = [corners[first:last] for first, last in zip(starts[:-1], starts[1:], strict=True)]
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


# ------------------------------------------------------------------------------------------------- from labels to table


def _measured(
    labels: np.ndarray,
    size: PixelSize,
    score_map: np.ndarray | None = None,
    product_mask: np.ndarray | None = None,
) -> dict[str, Any]:
    """The columns of `measure_labels` without those that follow from the unit."""
    labels = np.asarray(labels)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}; they must be integers of shape (H, W).")
    for name, picture in (("score_map", score_map), ("product_mask", product_mask)):
        if picture is not None and np.shape(picture) != labels.shape:
            raise ValueError(
                f"{name} has the shape {np.shape(picture)} and the labels {labels.shape}: resize it first."
            )
    height, width = labels.shape
    wanted = ["label", "bbox", "num_pixels", "centroid"]
    if score_map is not None:
        score_map = np.asarray(score_map, dtype=np.float32)
        if not np.isfinite(score_map).all():
            raise ValueError("score_map has pixels that are NaN or infinite; mend the detector's map first.")
        wanted += ["intensity_mean", "intensity_max"]
    found = regionprops_table(labels, score_map, properties=wanted)
    top, left, bottom, right = (found[f"bbox-{side}"].astype(np.int64) for side in range(4))
    n = len(top)
    scale = np.array([size.value_x, size.value_y])
    square, same = np.ones(2), size.value_x == size.value_y
    shapes = np.zeros((n, 3))  # length, width, perimeter
    shapes_px = np.zeros((n, 3))
    ends = np.zeros((n, 4))
    hulls = np.zeros(n)
    moments = np.zeros((3, n))
    for row in range(n):
        part = labels[top[row] : bottom[row], left[row] : right[row]] == found["label"][row]
        hull = _hull(part)
        hulls[row] = _polygon_area(hull)
        moments[:, row] = _second_moments(part)
        crossings = _crossings(part)
        length, breadth, (first, second) = _feret(hull)
        shapes_px[row] = length, breadth, _perimeter(crossings, square)
        if not same:
            length, breadth, (first, second) = _feret(hull * scale)
            shapes[row] = length, breadth, _perimeter(crossings, scale)
        ends[row] = (hull[[first, second]] + (left[row], top[row])).ravel()
    if same:
        shapes = shapes_px * scale[0]
    area = found["num_pixels"].astype(float)
    axes_px, _ = _axes(moments, square)
    axes, orientation = _axes(moments, scale)
    gaps_px = np.array([left, top, width - right, height - bottom], dtype=float).reshape(4, -1)
    gaps = gaps_px * np.array([scale[0], scale[1]] * 2)[:, None]
    edge_px, edge = gaps_px.min(0), gaps.min(0)
    box_left, box_top, box_width, box_height = 0, 0, width, height
    if product_mask is not None and np.any(product_mask):
        box_left, box_top, box_width, box_height = cv2.boundingRect(np.asarray(product_mask, dtype=np.uint8))
    if product_mask is not None and n:
        edge_px = _edge_distances(labels, found["label"], np.asarray(product_mask, dtype=bool), square)
        edge = _edge_distances(labels, found["label"], np.asarray(product_mask, dtype=bool), scale)
    centroid_x, centroid_y = found["centroid-1"] + 0.5, found["centroid-0"] + 0.5
    values_px = (area, *shapes_px.T, np.sqrt(4 * area / np.pi), *axes_px, edge_px)
    area_scale = size.value_x * size.value_y
    values = (area * area_scale, *shapes.T, np.sqrt(4 * area * area_scale / np.pi), *axes, edge)
    return {
        "defect": found["label"],
        **{f"{name}_px": value for name, value in zip(MEASURES, values_px, strict=True)},
        **dict(zip(MEASURES, values, strict=True)),
        "orientation_deg": orientation,
        "solidity": area / np.maximum(hulls, 1),
        "centroid_x": centroid_x,
        "centroid_y": centroid_y,
        "relative_x": (centroid_x - box_left) / box_width,
        "relative_y": (centroid_y - box_top) / box_height,
        "bbox_x": left,
        "bbox_y": top,
        "bbox_width": right - left,
        "bbox_height": bottom - top,
        **dict(zip(("length_x0", "length_y0", "length_x1", "length_y1"), ends.T, strict=True)),
        "touches_border": gaps_px.min(0) == 0,
        "mean_score": found.get("intensity_mean", np.full(n, np.nan)),
        "peak_score": found.get("intensity_max", np.full(n, np.nan)),
    }


def _frame(parts: Sequence[dict[str, Any]], size: PixelSize) -> pd.DataFrame:
    """The columns of several photos as one table, with unit and errors."""
    computed = [name for name in COLUMNS if name != "unit" and not name.endswith("_error")]
    columns = {name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0) for name in computed}
    for name in MEASURES:
        columns[f"{name}_error"] = columns[name] * size.relative_error * (2 if name == "area" else 1)
    columns["unit"] = [size.unit] * len(columns["defect"])
    # cast by NumPy, in a tenth of the time of Series
    cast = {
        name: pd.array(columns[name], dtype="str") if kind == "str" else columns[name].astype(kind)
        for name, kind in COLUMNS.items()
    }
    table = pd.DataFrame(cast)
    table.attrs["pixel_size"] = size.to_dict()
    return table


def _hull(part: np.ndarray) -> np.ndarray:
    """Convex hull (N, 2) float of the corners of a mask's pixels, as x and y in the mask; at least four points."""
    rows = np.flatnonzero(part.any(1))
    part = part[rows]
    first, last = part.argmax(1), part.shape[1] - part[:, ::-1].argmax(1)
    x, y = np.concatenate([first, first, last, last]), np.concatenate([rows, rows + 1] * 2)
    return cv2.convexHull(np.column_stack([x, y]).astype(np.int32))[:, 0].astype(float)


def _feret(hull: np.ndarray) -> tuple[float, float, tuple[int, int]]:
    """Largest and smallest diameter of a convex polygon (N, 2), and the two points the largest lies between."""
    between = hull[None] - hull[:, None]  # [i, j]: from i to j
    squared = (between**2).sum(-1)
    first, second = divmod(int(squared.argmax()), len(hull))
    edges = np.roll(hull, -1, axis=0) - hull
    # The strip of the least width has an edge of the hull on one side.
    heights = np.abs(edges[:, None, 0] * between[..., 1] - edges[:, None, 1] * between[..., 0]).max(1)
    return math.sqrt(squared[first, second]), float((heights / np.hypot(*edges.T)).min()), (first, second)


def _area_and_length(mask: np.ndarray, size: PixelSize) -> tuple[float, float]:
    """Area and largest Feret diameter of a mask, in the unit."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    part = mask[top : top + height, left : left + width]
    scale = np.array([size.value_x, size.value_y])
    return float(part.sum() * scale.prod()), _feret(_hull(part) * scale)[0]


def _polygon_area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _second_moments(part: np.ndarray) -> tuple[float, float, float]:
    """Variances of x and y and their covariance over a mask's area."""
    y, x = np.nonzero(part)
    x, y = x - x.mean(), y - y.mean()
    return x @ x / len(x) + 1 / 12, y @ y / len(x) + 1 / 12, x @ y / len(x)  # 1/12: of a square's own points


def _crossings(part: np.ndarray) -> tuple[int, int, int]:
    """How often lines through the pixels' centres enter or leave a mask: along rows, columns, both diagonals."""
    padded = np.zeros((part.shape[0] + 2, part.shape[1] + 2), dtype=bool)
    padded[1:-1, 1:-1] = part
    rows = np.count_nonzero(padded[:, 1:] != padded[:, :-1])
    columns = np.count_nonzero(padded[1:] != padded[:-1])
    falling = np.count_nonzero(padded[1:, 1:] != padded[:-1, :-1])
    return rows, columns, falling + np.count_nonzero(padded[1:, :-1] != padded[:-1, 1:])


def _perimeter(crossings: tuple[int, int, int], scale: np.ndarray) -> float:
    """Half the integral over directions of the number of crossings (Cauchy-Crofton)."""
    x, y = scale
    diagonal = math.atan2(y, x)
    rows, columns, diagonals = crossings
    lines = x * y / math.hypot(x, y)  # distance between neighbouring diagonal lines
    # Each direction stands for the angles that are nearest to it.
    total = diagonal * y * rows + (math.pi / 2 - diagonal) * x * columns + math.pi / 4 * lines * diagonals
    return total / 2


def _axes(moments: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Full axes (2, N) and orientation in degrees (N,) from variances of x and y and their covariance (3, N)."""
    xx, yy, xy = moments * np.array([scale[0] ** 2, scale[1] ** 2, scale[0] * scale[1]])[:, None]
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    axes = 4 * np.sqrt(np.maximum([middle + spread, middle - spread], 0))
    degrees = np.rad2deg(np.arctan2(-2 * xy, xx - yy) / 2)  # y points down
    return axes, np.where(degrees <= -90, degrees + 180, degrees)


def _edge_distances(labels: np.ndarray, numbers: np.ndarray, product: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Smallest gap (N,) of each defect to what is not the product, outside the photo included; 0 where it overlaps."""
    inside = np.pad(product, 1).astype(np.uint8)
    rim = (inside == 0) & (cv2.dilate(inside, np.ones((3, 3), np.uint8)) > 0)
    if not rim.any():
        return np.zeros(len(numbers))
    tree = cKDTree(_corners(rim, (-1, -1)) * scale)
    distances = np.zeros(len(numbers))
    for row, number in enumerate(numbers):
        part = labels == number
        if product[part].all():
            distances[row] = tree.query(_corners(part, (0, 0)) * scale)[0].min()
    return distances


def _corners(mask: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """Corners (N, 2) of a mask's pixels, x and y."""
    rows, columns = np.nonzero(mask)
    x, y = columns + offset[0], rows + offset[1]
    return np.concatenate([np.column_stack([x + right, y + down]) for right in (0, 1) for down in (0, 1)])
