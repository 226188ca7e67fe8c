"""From a distance map of `helpers.models.foreground` to separate objects, and how well they agree with the truth.

The map is depth inside an object, 1 in its middle. The watershed (Vincent & Soille 1991, "Watersheds in digital
spaces") draws the lines between touching objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.measure import label, regionprops
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from helpers.thresholds import exceeds

LEAST_IOU = 0.5
TOUCH_DISTANCE = 2.0  # pixels between the nearest pixel centres of two masks that count as touching


def separate(
    distance_map: np.ndarray, *, threshold: float = 0.2, h: float = 0.2, min_peak: float = 0.5, min_area: int = 50
) -> np.ndarray:
    """Cut an (H, W) distance map into objects: int32, 0 background, numbered by topmost row, then leftmost column.

    The seeds are the map's h-maxima (Soille 2003, "Morphological image analysis", 6.3.4): peaks that rise by ``h``
    over the saddle to any higher one. The watershed, flooded from them, divides the pixels above ``threshold``. Objects
    whose peak is below ``min_peak``, or of fewer pixels than ``min_area``, are dropped. The border that the threshold
    takes from an object is given back, but never a pixel that is nearer to another one.
    """
    surface = np.asarray(distance_map, dtype=np.float64)
    if not 0 < threshold < 1 or h <= 0:
        raise ValueError(f"threshold={threshold} must lie between 0 and 1, and h={h} above 0.")
    inside = exceeds(surface, threshold)
    if not inside.any():
        return np.zeros(surface.shape, dtype=np.int32)
    padded = np.pad(surface, 1)  # so that a map without any slope, an object as large as the photo, has a maximum too
    lowered = reconstruction(padded - h, padded, method="dilation")
    peaks = label(local_maxima(lowered, connectivity=2)[1:-1, 1:-1], connectivity=2)
    labels = watershed(-surface, peaks, mask=inside)
    high = [region.label for region in regionprops(labels, surface) if region.intensity_max >= min_peak]
    labels = _restore_border(np.where(np.isin(labels, high), labels, 0), threshold)
    regions = [region for region in regionprops(labels) if region.area >= min_area]
    numbers = np.zeros(labels.max() + 1, dtype=np.int32)
    for number, region in enumerate(sorted(regions, key=lambda region: (*region.bbox[:2], region.label)), start=1):
        numbers[region.label] = number
    return numbers[labels]


def _restore_border(labels: np.ndarray, threshold: float) -> np.ndarray:
    """Grow each object by the depth that the threshold took from it."""
    if not labels.any():
        return labels
    distance, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    owner, depth, (height, width) = labels[tuple(nearest)], np.zeros(labels.max() + 1), labels.shape
    for region in regionprops(labels):
        # As in the target, the photo's border is no edge; elsewhere the window gets one pixel of background.
        top, left, bottom, right = region.bbox
        sides = (min(top, 1), min(height - bottom, 1)), (min(left, 1), min(width - right, 1))
        mask = np.pad(region.image_filled, sides)
        if not mask.all():
            depth[region.label] = ndimage.distance_transform_edt(mask).max()
    missing = depth * threshold / (1 - threshold)  # (1 - threshold) of the object's depth is left
    return np.where(distance <= missing[owner], owner, 0)


class Match(NamedTuple):
    """How the objects of one photo agree: ``pairs`` (index of the true mask, number in the labels, IoU), ``touching``
    pairs of true objects and how many of them have both matched, and the IoU of all objects together.
    """

    pairs: list[tuple[int, int, float]]
    n_true: int
    n_found: int
    touching: list[tuple[int, int]]
    n_separated: int
    foreground_iou: float


def match_instances(true_masks: np.ndarray, labels: np.ndarray) -> Match:
    """Match true masks (N, H, W) with labels (H, W) of `separate`, one to one with an IoU of `LEAST_IOU` at least, so
    that the sum of the IoU is largest (Kuhn 1955, "The Hungarian method"). A mask with holes is compared with them.
    """
    masks, numbers = np.asarray(true_masks, dtype=bool), np.unique(labels[labels > 0])
    overlap = np.zeros((len(masks), len(numbers)))
    for column, number in enumerate(numbers):
        found = labels == number
        shared = (masks & found).sum(axis=(1, 2))
        overlap[:, column] = shared / (masks.sum(axis=(1, 2)) + found.sum() - shared)
    # Pairs below the limit weigh nothing: they must not draw an object away from one it does match.
    allowed = np.where(overlap >= LEAST_IOU, overlap, 0)
    chosen = zip(*linear_sum_assignment(allowed, maximize=True), strict=True)
    pairs = [(int(i), int(numbers[j]), float(allowed[i, j])) for i, j in chosen if allowed[i, j] > 0]
    touching, matched = touching_pairs(masks), {row for row, *_ in pairs}
    n_separated = sum(first in matched and second in matched for first, second in touching)
    everything, found = masks.any(axis=0), labels > 0
    whole = (everything & found).sum() / ((everything | found).sum() or np.nan)
    return Match(pairs, len(masks), len(numbers), touching, n_separated, float(whole))


def touching_pairs(masks: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of indices of masks (N, H, W) bool that have pixels `TOUCH_DISTANCE` or less apart, centre to centre."""
    pairs = []
    for i, mask in enumerate(masks):
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))  # of no size without a pixel
        window = np.s_[max(y - 2, 0) : y + height + 2, max(x - 2, 0) : x + width + 2] if width else np.s_[:0, :0]
        near = ndimage.distance_transform_edt(~mask[window]) <= TOUCH_DISTANCE
        pairs += [(i, j) for j in range(i + 1, len(masks)) if (near & masks[j][window]).any()]
    return pairs


def match_table(matches: Sequence[Match], names: Sequence[str]) -> pd.DataFrame:
    """One row a photo, and a last row ``all`` over all their objects.

    In ``all``, ``count_error`` (found minus true) is the mean absolute value over photos, ``foreground_iou`` the mean.
    """
    names_of = ["n_true", "n_found", "n_matched", "overlap", "n_touching", "n_separated"]
    rows = [
        (m.n_true, m.n_found, len(m.pairs), sum(p[2] for p in m.pairs), len(m.touching), m.n_separated) for m in matches
    ]
    counts = pd.DataFrame(rows, pd.Index(names, name="photo"), names_of)
    counts.loc["all"] = counts.sum()
    errors, overlaps = counts["n_found"] - counts["n_true"], [match.foreground_iou for match in matches]
    table = counts[["n_true", "n_found"]].astype(int).assign(count_error=errors.astype(float))
    table.loc["all", "count_error"] = errors.iloc[:-1].abs().mean()
    for name, part, whole in (
        ("precision", "n_matched", "n_found"),
        ("recall", "n_matched", "n_true"),
        ("mean_iou", "overlap", "n_matched"),
        ("separated", "n_separated", "n_touching"),
    ):
        table[name] = counts[part] / counts[whole]
    table["foreground_iou"] = [*overlaps, pd.Series(overlaps, dtype=float).mean()]
    return table.join(counts[["n_touching", "n_separated"]].astype(int))
