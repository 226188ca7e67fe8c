"""Pixel metrics of anomaly maps against masks, from exact counts of each photo's float16 values (65,536 at most)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from skimage.measure import label
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from helpers.analysis.intervals import Statistics, bootstrap, interval_table
from helpers.thresholds import exceeds

PIXEL_METRICS = (
    *("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro", "pixel_iou", "pixel_dice"),
    *("mean_dice_defect_photos", "normal_photos_with_defect_pixels"),
)
N_KEYS = 2**16
FPR_LIMIT = 0.3  # of the per-region overlap
_BINS = 300  # by rank among normal pixels and likewise among those of defects, for resamples


class PhotoPixels(NamedTuple):
    """One photo: counts of its pixels by key (see `order_keys`), and what lies above the threshold (NaN: none given).

    ``weights``: defect pixels over the size of their region (connected component, eight neighbours). ``unusable``: its
    mask is missing or empty, so where its defect lies is unknown and its pixels are in no metric.
    """

    keys: np.ndarray
    normal: np.ndarray
    defect: np.ndarray
    weights: np.ndarray
    n_regions: int
    tp: float
    fp: float
    fn: float
    abnormal: bool
    unusable: bool


def count_pixels(
    anomaly_map: ArrayLike, mask: ArrayLike | None, threshold: SupportsFloat | None = None, abnormal: bool | None = None
) -> PhotoPixels:
    """Counts of an (H, W) map, ranked as float16 (as runs store maps) and compared with the threshold as it is.

    ``abnormal`` says whether the photo shows a defect; None: it does where its (H, W) bool mask is not empty.
    """
    scores = np.asarray(anomaly_map)
    truth = np.zeros(scores.shape, bool) if mask is None else np.asarray(mask, dtype=bool)
    with np.errstate(over="ignore"):
        ranked = scores.astype(np.float16)
    if not np.isfinite(ranked).all():
        raise ValueError("anomaly_map holds values that are not finite as float16; look at the detector's maps.")
    has_defect = bool(truth.any())
    if abnormal is False and has_defect:
        raise ValueError("a photo labelled normal has defect pixels in its mask; correct its label or its mask.")
    tp = fp = fn = np.nan
    if threshold is not None:
        flagged = exceeds(scores, threshold)
        tp, fp, fn = (int(np.count_nonzero(each)) for each in (flagged & truth, flagged & ~truth, ~flagged & truth))
    keys, place = np.unique(order_keys(ranked), return_inverse=True)
    place, n_regions = place.reshape(scores.shape), 0
    normal = np.bincount(place[~truth], minlength=keys.size).astype(np.uint32)
    defect = weights = np.broadcast_to(np.uint32(0), keys.shape)  # takes no memory
    if has_defect:
        regions, n_regions = label(truth, connectivity=2, return_num=True)
        defect = np.bincount(place[truth], minlength=keys.size).astype(np.uint32)
        weights = np.bincount(place[truth], 1 / np.bincount(regions.ravel())[regions[truth]], minlength=keys.size)
    abnormal = has_defect if abnormal is None else abnormal
    return PhotoPixels(keys, normal, defect, weights, n_regions, tp, fp, fn, abnormal, abnormal and not has_defect)


def order_keys(values: np.ndarray) -> np.ndarray:
    """uint16 in the order of float16 values: the bit pattern, negative numbers reversed."""
    pattern = (values + np.float16(0)).view(np.uint16)  # + 0 turns -0.0 into 0.0
    return np.where(pattern & 0x8000, ~pattern, pattern | 0x8000)


def pixel_counts(photos: Sequence[PhotoPixels]) -> dict[str, int]:
    """How many photos, regions and pixels; the last two leave out the photos in ``n_empty_masks``."""
    usable = [photo for photo in photos if not photo.unusable]
    return {
        "n_photos": len(photos),
        "n_defect_photos": sum(photo.abnormal for photo in photos),
        "n_empty_masks": len(photos) - len(usable),
        "n_regions": sum(photo.n_regions for photo in usable),
        "n_pixels": sum(int(photo.normal.sum() + photo.defect.sum()) for photo in usable),
    }


def pixel_metrics(photos: Sequence[PhotoPixels]) -> dict[str, float]:
    """`PIXEL_METRICS`; NaN where a class or the threshold is missing.

    ``pixel_aupro`` is the area under (false-positive rate, per-region overlap) up to a rate of 0.3, over 0.3 (Bergmann
    et al., "The MVTec anomaly detection dataset", IJCV 2021). IoU and Dice pool all pixels of all photos;
    ``mean_dice_defect_photos`` is over photos with a mask; ``normal_photos_with_defect_pixels`` the share of photos
    without defect that show any pixel above the threshold.
    """
    usable = [photo for photo in photos if not photo.unusable]
    result = dict.fromkeys(PIXEL_METRICS, np.nan)
    truth, keys, counts, weights = _pooled(usable)
    if 0 < truth.sum() < truth.size:
        precision, recall, _ = precision_recall_curve(truth, keys, sample_weight=counts)
        result["pixel_auroc"] = float(roc_auc_score(truth, keys, sample_weight=counts))
        result["pixel_ap"] = float(average_precision_score(truth, keys, sample_weight=counts))
        result["pixel_f1max"] = float((2 * precision * recall / np.maximum(precision + recall, 1e-300)).max())
        # pixels weighted by 1 / region size: the true-positive rate becomes the mean overlap over regions
        fpr, pro, _ = roc_curve(truth, keys, sample_weight=weights)
        inside = fpr <= FPR_LIMIT
        upto = np.append(fpr[inside], FPR_LIMIT), np.append(pro[inside], np.interp(FPR_LIMIT, fpr, pro))
        result["pixel_aupro"] = float(auc(*upto) / FPR_LIMIT)
    return result | {name: float(each[0]) for name, each in _at_threshold(usable)(np.ones((1, len(usable)))).items()}


def pixel_intervals(photos: Sequence[PhotoPixels], *, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Intervals of `PIXEL_METRICS` over photos, not pixels: photos with and without a mask are resampled apart.

    The ranking metrics of a resample come from `_BINS` bins, whose small offset from the exact value is taken out.
    """
    numbers, usable = pixel_metrics(photos), [photo for photo in photos if not photo.unusable]
    has_defect = np.array([photo.n_regions > 0 for photo in usable], bool)
    at_threshold, ranking = _at_threshold(usable), None if np.isnan(numbers["pixel_auroc"]) else _ranking(usable)
    once = ranking(np.ones((1, len(usable)))) if ranking else {}

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = ranking(weights) if ranking else {}
        found = {name: np.clip(each + numbers[name] - once[name], 0, 1) for name, each in found.items()}
        return found | at_threshold(weights)

    draws, n_normal = bootstrap(statistics, has_defect, n=n, seed=seed), int((~has_defect).sum())
    table = interval_table(numbers, draws, {"normal_photos_with_defect_pixels": n_normal})
    return table.assign(n_normal=n_normal, n_abnormal=int(has_defect.sum()))


def photo_overlap(
    maps: Iterable[np.ndarray], masks: Iterable[np.ndarray | None], threshold: SupportsFloat
) -> pd.DataFrame:
    """``dice`` = 2 |A and B| / (|A| + |B|) and ``iou`` = |A and B| / |A or B| of each photo by itself.

    NaN where there is no mask (None), or neither a defect nor a pixel called one.
    """
    counts = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        called = exceeds(anomaly_map, threshold)
        counts.append((0, 0) if mask is None else ((called & mask).sum(), (called | mask).sum()))
    both, either = np.array(counts).reshape(-1, 2).T
    either = np.where(either > 0, either, np.nan)
    return pd.DataFrame({"dice": 2 * both / (both + either), "iou": both / either})


def _pooled(photos: Sequence[PhotoPixels]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(truth, key, pixel count, pixel count or region weight), one entry a key and class."""
    keys = np.concatenate([photo.keys for photo in photos] or [np.empty(0, np.uint16)])
    normal, defect, weights = (
        np.bincount(keys, np.concatenate([getattr(photo, name) for photo in photos] or [np.empty(0)]), N_KEYS)
        for name in ("normal", "defect", "weights")
    )
    here, there = np.flatnonzero(normal), np.flatnonzero(defect)
    truth = np.repeat([False, True], [here.size, there.size])
    counts = np.concatenate([normal[here], defect[there]])
    return truth, np.concatenate([here, there]), counts, np.concatenate([normal[here], weights[there]])


def _at_threshold(photos: Sequence[PhotoPixels]) -> Statistics:
    """What makes, of the photos' weights (B, N), the metrics (B,) at the threshold."""
    tp, fp, fn = np.array([(photo.tp, photo.fp, photo.fn) for photo in photos], float).reshape(-1, 3).T
    has_defect = np.array([photo.n_regions > 0 for photo in photos], bool)
    total, unknown = 2 * tp + fp + fn, 0.0 if has_defect.any() else np.nan
    dice, flagged = 2 * tp[has_defect] / total[has_defect], np.sign(fp[~has_defect])

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        hits, both = weights @ tp, weights @ total + unknown
        return {
            "pixel_iou": hits / (both - hits),
            "pixel_dice": 2 * hits / both,
            "mean_dice_defect_photos": weights[:, has_defect] @ dice / (dice.size or np.nan),
            "normal_photos_with_defect_pixels": weights[:, ~has_defect] @ flagged / (flagged.size or np.nan),
        }

    return statistics


def _ranking(photos: Sequence[PhotoPixels]) -> Statistics:
    """What makes, of the photos' weights (B, N), the ranking metrics (B,), from bins that are finer at high scores."""
    truth, keys, counts, _ = _pooled(photos)
    cuts = []
    for side, spaced, first in ((~truth, np.geomspace, 1), (truth, np.linspace, 0)):
        above = counts[side][::-1].cumsum()
        ranks = spaced(first, above[-1], _BINS)
        cuts.append(keys[side][::-1][np.clip(np.searchsorted(above, ranks), 0, above.size - 1)])
    bins = np.searchsorted(np.unique(np.concatenate(cuts)), np.arange(N_KEYS), side="right")
    # (N, bins) from the highest score down, with the empty beginning of the curve before them
    tables = [
        np.stack([np.bincount(bins[p.keys], getattr(p, name), bins[-1] + 1)[::-1].cumsum() for p in photos])
        for name in ("normal", "defect", "weights")
    ]
    tables, n_regions = np.pad(tables, ((0, 0), (0, 0), (1, 0))), np.array([photo.n_regions for photo in photos])

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        fp, tp, overlap = (weights @ table for table in tables)
        fpr, tpr, pro = fp / fp[:, -1:], tp / tp[:, -1:], overlap / (weights @ n_regions)[:, None]
        step = np.diff(fpr)
        width = np.clip(FPR_LIMIT - fpr[:, :-1], 0, step)
        rise = np.diff(pro) * width / np.maximum(step, 1e-300)
        return {
            "pixel_auroc": (step * (tpr[:, 1:] + tpr[:, :-1]) / 2).sum(axis=1),
            "pixel_ap": (np.diff(tpr) * (tp / np.maximum(tp + fp, 1e-12))[:, 1:]).sum(axis=1),
            "pixel_f1max": (2 * tp / (tp + fp + tp[:, -1:])).max(axis=1),
            "pixel_aupro": (width * (pro[:, :-1] + rise / 2)).sum(axis=1) / FPR_LIMIT,
        }

    return statistics
