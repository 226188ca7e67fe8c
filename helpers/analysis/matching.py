"""From a distance map to separate objects, and how well they agree with the truth.

The map is that of :mod:`helpers.models.foreground`: depth inside an object, 0 on the background, 1 in the middle of
every object. Its peaks are the objects; the watershed (Vincent & Soille 1991, "Watersheds in digital spaces") draws the
lines between touching ones. Objects of the truth and of the result are matched one to one by intersection over union.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.measure import label, regionprops
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from helpers.thresholds import exceeds

TOUCH_DISTANCE = 2.0  # pixels between the nearest pixel centres of two masks that count as touching


def separate(
    distance_map: np.ndarray,
    *,
    threshold: float = 0.2,
    h: float = 0.2,
    min_peak: float = 0.5,
    min_area: int = 50,
    restore: bool = True,
) -> np.ndarray:
    """Cut a distance map into objects.

    The seeds are the map's h-maxima (Soille 2003, "Morphological image analysis", 6.3.4): peaks that rise by at least
    ``h`` over the saddle to any higher one. The watershed of the inverted map, flooded from them, divides the pixels
    above ``threshold``.

    What lies above the threshold is smaller than the object: where the map is exact, of a depth ``d`` out of a largest
    depth ``r``, it lacks a border of ``threshold * r`` pixels. ``restore`` gives each object that border back, but
    never a pixel that is nearer to another object. A higher threshold then costs no area and is safe from the
    noise of the background.

    Args:
        distance_map: (H, W) float, 0 to 1.
        threshold: from where on a pixel belongs to an object, above 0 and below 1.
        h: how much a peak must rise over the saddle to its neighbour to be an object of its own, above 0.
        min_peak: objects whose largest value is lower are dropped; the target's is 1 in every object.
        min_area: objects of fewer pixels, the border included, are dropped.
        restore: whether the border that the threshold takes away is given back.

    Returns:
        (H, W) int32: 0 is background, 1 to N the objects, numbered by their topmost row, then leftmost column.

    Raises:
        ValueError: a map that is not (H, W), or a threshold or ``h`` outside its range.
    """
    surface = np.asarray(distance_map, dtype=np.float64)
    if surface.ndim != 2:
        raise ValueError(f"distance_map has the shape {surface.shape}; it must be (H, W).")
    if not 0 < threshold < 1 or h <= 0:
        raise ValueError(f"threshold={threshold} must lie between 0 and 1, and h={h} above 0.")
    inside = exceeds(surface, threshold)
    if not inside.any():
        return np.zeros(surface.shape, dtype=np.int32)
    labels = watershed(-surface, _peaks(surface, h), mask=inside)
    highest = np.zeros(labels.max() + 1)
    np.maximum.at(highest, labels[inside], surface[inside])
    labels = np.where(highest[labels] >= min_peak, labels, 0)
    if restore:
        labels = _restore_border(labels, threshold)
    regions = [region for region in regionprops(labels) if region.area >= min_area]
    numbers = np.zeros(labels.max() + 1, dtype=np.int32)
    ordered = sorted(regions, key=lambda region: (region.bbox[0], region.bbox[1], region.label))
    numbers[[region.label for region in ordered]] = np.arange(1, len(ordered) + 1)
    return numbers[labels]


def _peaks(surface: np.ndarray, h: float) -> np.ndarray:
    """Labels (H, W) of the h-maxima."""
    padded = np.pad(surface, 1)  # so that a map without any slope, an object as large as the photo, has a maximum too
    lowered = reconstruction(padded - h, padded, method="dilation")
    return label(local_maxima(lowered, connectivity=2)[1:-1, 1:-1], connectivity=2)


def _restore_border(labels: np.ndarray, threshold: float) -> np.ndarray:
    """Grow each object by the depth that the threshold took from it."""
    if not labels.any():
        return labels
    distance, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    owner = labels[tuple(nearest)]
    depth = np.zeros(labels.max() + 1)
    for region in regionprops(labels):
        # As in the target, the photo's border is no edge; elsewhere the window gets one pixel of background.
        top, left, bottom, right = region.bbox
        beyond = [
            (int(low > 0), int(high < side))
            for low, high, side in ((top, bottom, labels.shape[0]), (left, right, labels.shape[1]))
        ]
        mask = np.pad(region.image_filled, beyond)
        if not mask.all():
            depth[region.label] = ndimage.distance_transform_edt(mask).max()
    missing = depth * threshold / (1 - threshold)  # (1 - threshold) of the object's depth is left
    return np.where(distance <= missing[owner], owner, 0)


# --------------------------------------------------------------------------------------------- agreement with the truth


@dataclass(frozen=True)
class Match:
    """How the objects found in one photo agree with the true ones.

    Attributes:
        pairs: matched objects: index of the true mask, number in the labels, intersection over union (IoU).
        n_true: true objects.
        n_found: objects found.
        touching: pairs of indices of true objects that touch.
        n_separated: how many of those pairs have both their objects matched, each to one of its own.
        foreground_iou: IoU of all true objects together with all found ones; NaN where there are neither.
    """

    pairs: list[tuple[int, int, float]]
    n_true: int
    n_found: int
    touching: list[tuple[int, int]]
    n_separated: int
    foreground_iou: float

    @property
    def recall(self) -> float:
        """Share of the true objects that are matched; NaN where there are none."""
        return _share(len(self.pairs), self.n_true)

    @property
    def precision(self) -> float:
        """Share of the objects found that are matched; NaN where there are none."""
        return _share(len(self.pairs), self.n_found)

    @property
    def count_error(self) -> int:
        """Objects found minus true objects."""
        return self.n_found - self.n_true

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the matched pairs; NaN where there are none."""
        return float(np.mean([iou for *_, iou in self.pairs])) if self.pairs else float("nan")


def match_instances(true_masks: np.ndarray, labels: np.ndarray, iou: float = 0.5) -> Match:
    """Match objects one to one, so that the sum of their IoU is largest (Kuhn 1955, "The Hungarian method").

    A true mask counts as it is given. For nuts of the built-in frames that is the outline with the bore filled, which
    is also what :func:`separate` gives; a mask with holes would be compared with its holes.

    Args:
        true_masks: (N, H, W) bool, one an object.
        labels: (H, W) int, from :func:`separate`.
        iou: least intersection over union of a matched pair, above 0.

    Raises:
        ValueError: shapes that do not fit, or an ``iou`` outside (0, 1].
    """
    masks, labels = np.asarray(true_masks, dtype=bool), np.asarray(labels)
    if masks.ndim != 3 or masks.shape[1:] != labels.shape:
        raise ValueError(f"True masks {masks.shape} and labels {labels.shape} do not fit: (N, H, W) and (H, W).")
    if not 0 < iou <= 1:
        raise ValueError(f"iou={iou} must lie in (0, 1].")
    numbers = np.unique(labels[labels > 0])
    areas = np.array([(labels == number).sum() for number in numbers], dtype=np.int64)
    overlap = np.zeros((len(masks), len(numbers)))
    for index, mask in enumerate(masks):
        inside = labels[mask]
        shared = np.array([(inside == number).sum() for number in numbers], dtype=np.int64)
        overlap[index] = shared / np.maximum(mask.sum() + areas - shared, 1)
    # Pairs below the limit weigh nothing: they must not draw an object away from one it does match.
    allowed = np.where(overlap >= iou, overlap, 0)
    rows, columns = linear_sum_assignment(allowed, maximize=True)
    pairs = [
        (int(row), int(numbers[column]), float(overlap[row, column]))
        for row, column in zip(rows, columns, strict=True)
        if allowed[row, column] > 0
    ]
    touching = touching_pairs(masks)
    matched = {row for row, *_ in pairs}
    everything, found = masks.any(axis=0), labels > 0
    return Match(
        pairs=pairs,
        n_true=len(masks),
        n_found=len(numbers),
        touching=touching,
        n_separated=sum(first in matched and second in matched for first, second in touching),
        foreground_iou=_share(int((everything & found).sum()), int((everything | found).sum())),
    )


def touching_pairs(masks: np.ndarray, distance: float = TOUCH_DISTANCE) -> list[tuple[int, int]]:
    """Pairs of indices of masks (N, H, W) bool that have pixels ``distance`` pixels or less apart, centre to centre."""
    boxes = [None if not mask.any() else cv2.boundingRect(mask.astype(np.uint8)) for mask in masks]
    reach = int(np.ceil(distance))
    pairs = []
    for i, box in enumerate(boxes):
        if box is None:
            continue
        x, y, width, height = box
        window = np.s_[max(y - reach, 0) : y + height + reach, max(x - reach, 0) : x + width + reach]
        near = ndimage.distance_transform_edt(~masks[i][window]) <= distance
        pairs += [(i, j) for j in range(i + 1, len(masks)) if (near & masks[j][window]).any()]
    return pairs


def match_table(matches: Sequence[Match], names: Sequence[str]) -> pd.DataFrame:
    """One row a photo, and a last row ``all`` over all their objects (not the mean of the rows).

    Columns: n_true, n_found, count_error (in ``all``: the mean of its absolute values over the photos), precision,
    recall, mean_iou (of matched pairs), foreground_iou (in ``all``: the mean over the photos), n_touching (pairs),
    n_separated, separated (share; NaN where nothing touches).

    Args:
        matches: from :func:`match_instances`.
        names: of the photos, for the index.
    """
    rows = [
        {
            "n_true": match.n_true,
            "n_found": match.n_found,
            "count_error": float(match.count_error),
            "precision": match.precision,
            "recall": match.recall,
            "mean_iou": match.mean_iou,
            "foreground_iou": match.foreground_iou,
            "n_touching": len(match.touching),
            "n_separated": match.n_separated,
            "separated": _share(match.n_separated, len(match.touching)),
        }
        for match in matches
    ]
    table = pd.DataFrame(rows, index=pd.Index(names, name="photo"))
    totals = table[["n_true", "n_found", "n_touching", "n_separated"]].sum()
    overlaps = [iou for match in matches for *_, iou in match.pairs]
    table.loc["all"] = {
        **totals,
        "count_error": table["count_error"].abs().mean(),
        "precision": _share(len(overlaps), totals["n_found"]),
        "recall": _share(len(overlaps), totals["n_true"]),
        "mean_iou": float(np.mean(overlaps)) if overlaps else float("nan"),
        "foreground_iou": table["foreground_iou"].mean(),
        "separated": _share(totals["n_separated"], totals["n_touching"]),
    }
    counts = ["n_true", "n_found", "n_touching", "n_separated"]
    return table.astype(dict.fromkeys(counts, "int64"))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
