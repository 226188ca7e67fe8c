"""Image and pixel metrics with counts and bootstrap intervals; pixels are streamed.

One rule everywhere: abnormal is what :func:`helpers.thresholds.exceeds` says. A metric that needs a class which is not
there is NaN.
Sums over curves are scikit-learn's; this module brings the pixels into a form that does not grow with the test set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from helpers.analysis.intervals import bootstrap, counts_by_score, percentile_interval, resampled, wilson_interval
from helpers.thresholds import exceeds

IMAGE_METRICS: tuple[str, ...] = (
    "image_auroc",
    "image_ap",
    "image_f1max",
    "fpr_at_95_recall",
    "recall_at_threshold",
    "false_alarm_at_threshold",
)
PIXEL_METRICS: tuple[str, ...] = (
    "pixel_auroc",
    "pixel_ap",
    "pixel_f1max",
    "pixel_aupro",
    "pixel_iou",
    "pixel_dice",
    "mean_dice_defect_photos",
    "normal_photos_with_defect_pixels",
)
PIXEL_COUNTS: tuple[str, ...] = ("n_photos", "n_defect_photos", "n_empty_masks", "n_regions", "n_pixels")
LEADERBOARD_COLUMNS: tuple[str, ...] = (
    "model",
    "n_test_normal",
    "n_test_abnormal",
    "image_auroc",
    "image_ap",
    "image_f1max",
    "pixel_auroc",
    "pixel_aupro",
    "pixel_dice",
    "threshold",
    "recall_at_threshold",
    "false_alarm_at_threshold",
    "fit_seconds",
    "ms_per_image",
)
_RATES = ("recall_at_threshold", "false_alarm_at_threshold", "normal_photos_with_defect_pixels")


# ---------------------------------------------------------------------------------------------------- images


def image_metrics(labels: ArrayLike, scores: ArrayLike, threshold: SupportsFloat | None = None) -> dict[str, float]:
    """Computes the metrics of one score per photo.

    Args:
        labels: (N,) bool or 0/1, 1 = abnormal.
        scores: (N,) finite scores, higher = more abnormal.
        threshold: Abnormal is ``score > threshold``; None leaves the two rates at it NaN.

    Returns:
        ``n_normal``, ``n_abnormal`` and `IMAGE_METRICS`: AUROC; average precision; F1-max, the best F1 over all
        thresholds; the lowest false-positive rate among thresholds that find at least 95 % of the abnormal photos;
        recall and false-alarm rate at the threshold. All in [0, 1]; NaN where a class it needs is missing.

    Raises:
        ValueError: When shapes differ or a score is not finite.
    """
    truth, values = check_scores(labels, scores)
    n_abnormal = int(truth.sum())
    n_normal = int(truth.size - n_abnormal)
    result: dict[str, float] = {"n_normal": n_normal, "n_abnormal": n_abnormal, **dict.fromkeys(IMAGE_METRICS, np.nan)}
    if n_normal and n_abnormal:
        fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
        precision, recall, _ = precision_recall_curve(truth, values)
        result["image_auroc"] = float(roc_auc_score(truth, values))
        result["image_ap"] = float(average_precision_score(truth, values))
        result["image_f1max"] = float(_f1(precision, recall).max())
        result["fpr_at_95_recall"] = float(fpr[tpr >= 0.95 - 1e-12].min())
    if threshold is not None:
        flagged = exceeds(values, threshold)
        if n_abnormal:
            result["recall_at_threshold"] = float(flagged[truth].mean())
        if n_normal:
            result["false_alarm_at_threshold"] = float(flagged[~truth].mean())
    return result


def image_curves(labels: ArrayLike, scores: ArrayLike, threshold: SupportsFloat | None = None) -> dict[str, np.ndarray]:
    """Returns the ROC and precision-recall curves and what a figure of them needs.

    Returns:
        ``fpr``, ``tpr``, ``roc_thresholds`` (first entry inf), ``precision``, ``recall``, ``pr_thresholds`` (one entry
        less) as scikit-learn gives them; ``image_auroc``, ``image_ap``, ``n_normal``, ``n_abnormal`` as 0-d arrays;
        ``operating_point`` (3,): false-alarm rate, recall and precision at the threshold. With one class only the
        curves are empty and the numbers NaN.
    """
    truth, values = check_scores(labels, scores)
    numbers = image_metrics(truth, values, threshold)
    empty = np.empty(0)
    fpr = tpr = roc_thresholds = precision = recall = pr_thresholds = empty
    if numbers["n_normal"] and numbers["n_abnormal"]:
        fpr, tpr, roc_thresholds = roc_curve(truth, values)
        precision, recall, pr_thresholds = precision_recall_curve(truth, values)
    precision_at = np.nan
    if threshold is not None:
        flagged = exceeds(values, threshold)
        precision_at = float(truth[flagged].mean()) if flagged.any() else np.nan
    curves = {
        "fpr": fpr,
        "tpr": tpr,
        "roc_thresholds": roc_thresholds,
        "precision": precision,
        "recall": recall,
        "pr_thresholds": pr_thresholds,
        "operating_point": np.array(
            [numbers["false_alarm_at_threshold"], numbers["recall_at_threshold"], precision_at], dtype=float
        ),
    }
    scalars = ("image_auroc", "image_ap", "n_normal", "n_abnormal")
    return curves | {name: np.asarray(numbers[name]) for name in scalars}


def by_defect_type(
    labels: ArrayLike,
    scores: ArrayLike,
    types: Iterable[str],
    threshold: SupportsFloat | None = None,
    *,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Computes `image_metrics` for each defect type against all normal photos.

    Args:
        labels: (N,) bool or 0/1, 1 = abnormal.
        scores: (N,) finite scores.
        types: (N,) defect type of each photo; ignored for normal ones.
        threshold: As in `image_metrics`.
        n: Bootstrap resamples; 0 leaves the interval columns out.
        level: Level of the intervals.
        seed: Seed of the resamples.

    Returns:
        One row a defect type, sorted by name: ``defect_type``, ``n_normal``, ``n_abnormal``, `IMAGE_METRICS`, and
        for each of them ``<metric>_low`` and ``<metric>_high``.
    """
    truth, values = check_scores(labels, scores)
    names = np.asarray(list(types), dtype=object)
    if names.shape != truth.shape:
        raise ValueError(f"types has {names.size} entries but there are {truth.size} scores; give one per photo.")
    rows = []
    for name in sorted({str(value) for value in names[truth]}):
        chosen = ~truth | (names == name)
        row: dict[str, Any] = {"defect_type": name, **image_metrics(truth[chosen], values[chosen], threshold)}
        if n:
            table = image_intervals(truth[chosen], values[chosen], threshold, n=n, level=level, seed=seed)
            for metric, low, high in zip(table.index, table["low"], table["high"], strict=True):
                row[f"{metric}_low"], row[f"{metric}_high"] = low, high
        rows.append(row)
    columns = ["defect_type", "n_normal", "n_abnormal", *IMAGE_METRICS]
    if n:
        columns += [f"{metric}_{end}" for metric in IMAGE_METRICS for end in ("low", "high")]
    return pd.DataFrame(rows, columns=columns)


# ------------------------------------------------------------------------------------------------- intervals


def image_intervals(
    labels: ArrayLike,
    scores: ArrayLike,
    threshold: SupportsFloat | None = None,
    *,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Intervals for all `IMAGE_METRICS`: rates at the threshold get Wilson's, the others all the same resamples.

    Returns:
        Index ``metric``; columns ``value``, ``low``, ``high``, ``level``, ``n_normal``, ``n_abnormal``, ``method``
        ("bootstrap", "wilson" or "" where the metric is NaN).
    """
    truth, values = check_scores(labels, scores)
    numbers = image_metrics(truth, values, threshold)
    draws = image_draws(truth, values, threshold, n=n, seed=seed)
    counts = {"recall_at_threshold": numbers["n_abnormal"], "false_alarm_at_threshold": numbers["n_normal"]}
    rows = []
    for metric in IMAGE_METRICS:
        row = _interval_row(metric, numbers[metric], draws[metric], level, counts.get(metric))
        rows.append(row | {"n_normal": numbers["n_normal"], "n_abnormal": numbers["n_abnormal"]})
    return _interval_table(rows)


def image_draws(
    truth: np.ndarray, values: np.ndarray, threshold: SupportsFloat | None, *, n: int, seed: int
) -> dict[str, np.ndarray]:
    """(n,) resampled values of each image metric, normal and abnormal photos drawn apart."""
    flagged = np.zeros(truth.size, bool) if threshold is None else exceeds(values, threshold)
    n_positive, n_negative = int(truth.sum()), int((~truth).sum())

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        draws = dict.fromkeys(IMAGE_METRICS, np.full(len(weights), np.nan))
        for side, name in ((truth, "recall_at_threshold"), (~truth, "false_alarm_at_threshold")):
            if threshold is not None and side.any():
                draws[name] = weights[:, flagged & side].sum(axis=1) / side.sum()
        if n_positive and n_negative:
            positive, negative = (counts_by_score(values, weights * side) for side in (truth, ~truth))
            tp, fp = positive.cumsum(axis=1), negative.cumsum(axis=1)
            enough = (tp >= (0.95 - 1e-12) * n_positive).argmax(axis=1)
            wins = (negative * (tp - 0.5 * positive)).sum(axis=1)
            draws["image_auroc"] = wins / (n_positive * n_negative)
            draws["image_ap"] = (positive * (tp / np.maximum(tp + fp, 1))).sum(axis=1) / n_positive
            draws["image_f1max"] = (2.0 * tp / (tp + fp + n_positive)).max(axis=1)
            draws["fpr_at_95_recall"] = fp[np.arange(len(fp)), enough] / n_negative
        return draws

    return bootstrap(statistics, truth, n=n, seed=seed)


def _interval_row(metric: str, value: float, draws: np.ndarray, level: float, count: int | None) -> dict[str, Any]:
    rate = metric in _RATES and count is not None
    low, high = wilson_interval(value, count, level) if rate else percentile_interval(draws, level)
    method = "" if np.isnan(low) else "wilson" if rate else "bootstrap"
    return {"metric": metric, "value": value, "low": low, "high": high, "level": level, "method": method}


def _interval_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = ["metric", "value", "low", "high", "level", "n_normal", "n_abnormal", "method"]
    return pd.DataFrame(rows, columns=columns).set_index("metric")


# ---------------------------------------------------------------------------------------------------- pixels


class PixelMetrics:
    """Pixel metrics of a stream of (anomaly map, mask) pairs.

    Scores are counted under a key: the leading ``bits`` of the float32 pattern, made to keep order. With 24 bits a key
    spans 2^-15 of the score (0.003 %), so ranking metrics see scores that close as ties. Three counts are kept a key:
    normal pixels, defect pixels, and defect pixels weighted by 1 / size of their region (connected component, eight
    neighbours), from which the per-region overlap follows. Memory is set by the number of distinct keys, not of
    photos; beside it stays a digest of at most 6 KB a photo (0.1 byte a pixel at 256 x 256), from which photos are
    resampled for the intervals.

    Pixels compared with ``threshold`` (IoU, Dice) use the scores themselves, not their keys.
    """

    def __init__(self, threshold: SupportsFloat | None = None, *, bits: int = 24, buffer_pixels: int = 4_000_000):
        """Starts an empty accumulator.

        Args:
            threshold: A pixel is called defect when its score > threshold; None leaves IoU and Dice NaN.
            bits: Leading bits of the float32 pattern that make a key, 10 to 32.
            buffer_pixels: Pixels held (4 bytes each) before they are merged into the counts.

        Raises:
            ValueError: When bits lies outside 10..32.
        """
        if not 10 <= bits <= 32:
            raise ValueError(f"bits must lie in 10..32, got {bits}.")
        self.threshold = None if threshold is None else float(threshold)
        self.bits = bits
        self.buffer_pixels = buffer_pixels
        self.n_photos = self.n_defect_photos = self.n_empty_masks = self.n_regions = self.n_pixels = 0
        self.n_normal_photos_flagged = 0
        self.tp = self.fp = self.fn = 0
        self._digests: list[_Digest] = []
        self._normal = _SparseCounts()
        self._defect = _SparseCounts(weighted=True)
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._pending_pixels = 0

    def update(self, anomaly_map: ArrayLike, mask: ArrayLike | None = None, *, abnormal: bool | None = None) -> None:
        """Adds one photo.

        A defect photo (``abnormal=True``) whose mask is missing or empty, say lost by resizing, is only counted in
        ``n_empty_masks``: where its defect lies is unknown at this size, so its pixels are in no metric.

        Args:
            anomaly_map: (H, W) finite scores; compared as float32.
            mask: (H, W) bool, True = defect; None means no defect pixel.
            abnormal: Whether the photo shows a defect; None: it does when its mask is not empty.

        Raises:
            ValueError: When shapes differ, a score is not finite or a normal photo has defect pixels.
        """
        from skimage.measure import label

        scores = np.asarray(anomaly_map)
        if scores.ndim != 2:
            raise ValueError(f"anomaly_map must be (H, W), got shape {scores.shape}.")
        scores = scores.astype(np.float32, copy=False)
        if not np.isfinite(scores).all():
            raise ValueError("anomaly_map holds values that are not finite; mend the detector before it is measured.")
        truth = np.zeros(scores.shape, bool) if mask is None else np.asarray(mask).astype(bool, copy=False)
        if truth.shape != scores.shape:
            raise ValueError(f"mask has shape {truth.shape} but anomaly_map has {scores.shape}; resize one of them.")
        has_defect = bool(truth.any())
        if abnormal is False and has_defect:
            raise ValueError("a photo said to be normal has defect pixels in its mask; correct its label or its mask.")

        self.n_photos += 1
        self.n_defect_photos += int(has_defect or bool(abnormal))
        if abnormal and not has_defect:
            self.n_empty_masks += 1
            return
        self.n_pixels += scores.size
        tp = fp = fn = 0
        if self.threshold is not None:
            flagged = exceeds(scores, self.threshold)
            tp = int(np.count_nonzero(flagged & truth))
            fp = int(np.count_nonzero(flagged)) - tp
            fn = int(np.count_nonzero(truth)) - tp
            self.tp, self.fp, self.fn = self.tp + tp, self.fp + fp, self.fn + fn
            self.n_normal_photos_flagged += int(fp > 0 and not has_defect)

        keys = _order_keys(scores, self.bits)
        if has_defect:
            regions = label(truth, connectivity=2)
            sizes = np.bincount(regions.ravel())
            n_regions = sizes.size - 1
            self._pending.append((keys[~truth], keys[truth], 1.0 / sizes[regions[truth]]))
        else:
            n_regions = 0
            self._pending.append((keys.ravel(), keys[:0].ravel(), np.empty(0)))
        self.n_regions += n_regions
        normal, defect, weights = self._pending[-1]
        self._digests.append(_digest(normal, defect, weights, n_regions, tp, fp, fn))
        self._pending_pixels += keys.size
        if self._pending_pixels >= self.buffer_pixels:
            self._flush()

    def __iadd__(self, other: PixelMetrics) -> PixelMetrics:
        if not isinstance(other, PixelMetrics):
            return NotImplemented
        if (self.threshold, self.bits) != (other.threshold, other.bits):
            raise ValueError("only accumulators with the same threshold and bits can be merged.")
        other._flush()
        self._flush()
        for name in _PIXEL_SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._digests = self._digests + other._digests
        self._normal = self._normal.merged(other._normal.keys, other._normal.counts)
        self._defect = self._defect.merged(other._defect.keys, other._defect.counts, other._defect.weights)
        return self

    def __add__(self, other: PixelMetrics) -> PixelMetrics:
        if not isinstance(other, PixelMetrics):
            return NotImplemented
        total = PixelMetrics(self.threshold, bits=self.bits, buffer_pixels=self.buffer_pixels)
        total += self
        total += other
        return total

    @property
    def n_keys(self) -> int:
        """Distinct keys held: what memory depends on (about 40 bytes each)."""
        self._flush()
        return self._normal.keys.size + self._defect.keys.size

    @property
    def photo_dice(self) -> np.ndarray:
        """(photos with a mask,) Dice of each at the threshold, in the order they came; meaningless without one."""
        return np.array([2 * d.tp / (2 * d.tp + d.fp + d.fn) for d in self._digests if d.n_regions and d.tp + d.fn])

    def compute(self) -> dict[str, float]:
        """Returns `PIXEL_COUNTS` and `PIXEL_METRICS`; NaN where a class or the threshold is missing.

        ``pixel_aupro`` is the area under (false-positive rate, per-region overlap) up to a rate of 0.3, divided by
        0.3 (Bergmann et al., "The MVTec anomaly detection dataset", IJCV 2021). ``pixel_iou`` and ``pixel_dice`` pool
        all pixels of all photos; ``mean_dice_defect_photos`` is the mean over photos with a mask;
        ``normal_photos_with_defect_pixels`` is the share of photos without defect that show any pixel above the
        threshold. ``n_pixels`` and ``n_regions`` leave out the photos in ``n_empty_masks``.
        """
        result: dict[str, float] = {name: getattr(self, name) for name in PIXEL_COUNTS}
        result |= dict.fromkeys(PIXEL_METRICS, np.nan)
        truth, scores, counts, _ = self._bins()
        if 0 < truth.sum() < truth.size:
            precision, recall, _ = precision_recall_curve(truth, scores, sample_weight=counts)
            result["pixel_auroc"] = float(roc_auc_score(truth, scores, sample_weight=counts))
            result["pixel_ap"] = float(average_precision_score(truth, scores, sample_weight=counts))
            result["pixel_f1max"] = float(_f1(precision, recall).max())
            result["pixel_aupro"] = _area_up_to(*self.pro_curve(), limit=0.3)
        if self.threshold is not None:
            if self.tp + self.fn:
                result["pixel_iou"] = self.tp / (self.tp + self.fp + self.fn)
                result["pixel_dice"] = 2 * self.tp / (2 * self.tp + self.fp + self.fn)
            if self.photo_dice.size:
                result["mean_dice_defect_photos"] = float(self.photo_dice.mean())
            if self.n_photos > self.n_defect_photos:
                share = self.n_normal_photos_flagged / (self.n_photos - self.n_defect_photos)
                result["normal_photos_with_defect_pixels"] = share
        return result

    def intervals(self, *, n: int = 1000, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """Percentile bootstrap intervals of `PIXEL_METRICS` over photos, not pixels: those of a photo go together.

        Photos with and without a mask are resampled apart. IoU, Dice and the shares of photos are exact; the ranking
        metrics come from the photos' digests, whose small offset from the exact value is taken out.

        Returns:
            As `image_intervals`; ``n_normal`` and ``n_abnormal`` count the photos that were resampled.
        """
        numbers = self.compute()
        has_defect = np.array([d.n_regions > 0 for d in self._digests], bool)
        n_abnormal = int(has_defect.sum())
        n_normal = has_defect.size - n_abnormal
        draws = {name: np.full(1, np.nan) for name in PIXEL_METRICS}
        if self._digests:
            times = np.concatenate(list(resampled(has_defect, n, seed)))
            draws |= self._rank_draws(times, numbers) | self._threshold_draws(times, has_defect)
        rows = []
        for metric in PIXEL_METRICS:
            count = n_normal if metric in _RATES else None
            row = _interval_row(metric, numbers[metric], draws[metric], level, count)
            rows.append(row | {"n_normal": n_normal, "n_abnormal": n_abnormal})
        return _interval_table(rows)

    def _threshold_draws(self, times: np.ndarray, has_defect: np.ndarray) -> dict[str, np.ndarray]:
        if self.threshold is None:
            return {}
        tp, fp, fn = (times @ np.array([getattr(d, name) for d in self._digests], float) for name in ("tp", "fp", "fn"))
        draws = {}
        if has_defect.any():
            draws["pixel_iou"] = tp / (tp + fp + fn)
            draws["pixel_dice"] = 2 * tp / (2 * tp + fp + fn)
            draws["mean_dice_defect_photos"] = times[:, has_defect] @ self.photo_dice / has_defect.sum()
        if not has_defect.all():
            flagged = np.array([d.fp > 0 for d in self._digests])[~has_defect]
            draws["normal_photos_with_defect_pixels"] = times[:, ~has_defect] @ flagged / (~has_defect).sum()
        return draws

    def _rank_draws(self, times: np.ndarray, numbers: dict[str, float]) -> dict[str, np.ndarray]:
        if np.isnan(numbers["pixel_auroc"]):
            return {}
        once = self._digest_metrics(np.ones((1, times.shape[1])))  # says how far the digests are off
        return {
            name: np.clip(values + numbers[name] - once[name], 0, 1)
            for name, values in self._digest_metrics(times).items()
        }

    def _digest_metrics(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """Ranking metrics (B,) of the digests, photo k counted times[b, k] times in row b."""
        cuts = _shared_bins(self._digests)
        totals = [np.zeros((len(times), cuts.size + 1)) for _ in range(3)]
        n_regions = times @ np.array([d.n_regions for d in self._digests], float)
        for start in range(0, len(self._digests), 1000):
            part = self._digests[start : start + 1000]
            for total, table in zip(totals, _binned(part, cuts), strict=True):
                total += times[:, start : start + 1000] @ table
        # Bins from the highest score down, with the empty beginning of the curve before them.
        fp, tp, overlap = (np.pad(total[:, ::-1].cumsum(axis=1), ((0, 0), (1, 0))) for total in totals)
        fpr, tpr, pro = fp / fp[:, -1:], tp / tp[:, -1:], overlap / n_regions[:, None]
        metrics = {
            "pixel_auroc": (np.diff(fpr) * (tpr[:, 1:] + tpr[:, :-1]) / 2).sum(axis=1),
            "pixel_ap": (np.diff(tpr) * (tp / np.maximum(tp + fp, 1e-12))[:, 1:]).sum(axis=1),
            "pixel_f1max": (2 * tp / (tp + fp + tp[:, -1:])).max(axis=1),
        }
        step = np.diff(fpr)
        width = np.clip(0.3 - fpr[:, :-1], 0, step)
        rise = np.diff(pro) * width / np.maximum(step, 1e-300)
        metrics["pixel_aupro"] = (width * (pro[:, :-1] + rise / 2)).sum(axis=1) / 0.3
        return metrics

    def roc_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """(fpr, tpr) over pixels; empty with one class only."""
        truth, scores, counts, _ = self._bins()
        if not 0 < truth.sum() < truth.size:
            return np.empty(0), np.empty(0)
        return roc_curve(truth, scores, sample_weight=counts)[:2]

    def pro_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """(fpr, per-region overlap averaged over regions), the whole curve; empty with one class only."""
        truth, scores, _, weights = self._bins()
        if not 0 < truth.sum() < truth.size:
            return np.empty(0), np.empty(0)
        # Pixels weighted by 1 / region size: the true-positive rate becomes the mean overlap over regions.
        return roc_curve(truth, scores, sample_weight=weights)[:2]

    def _bins(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(truth, representative score, pixel count, pixel count or region weight), one entry a key and class."""
        self._flush()
        truth = np.repeat([False, True], [self._normal.keys.size, self._defect.keys.size])
        scores = _key_scores(np.concatenate([self._normal.keys, self._defect.keys]), self.bits)
        counts = np.concatenate([self._normal.counts, self._defect.counts]).astype(np.float64)
        weights = np.concatenate([self._normal.counts.astype(np.float64), self._defect.weights])
        return truth, scores, counts, weights

    def _flush(self) -> None:
        if not self._pending:
            return
        normal, defect, weights = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        self._pending, self._pending_pixels = [], 0
        keys, counts = np.unique(normal, return_counts=True)
        self._normal = self._normal.merged(keys, counts)
        self._defect = self._defect.merged(defect, np.ones(defect.size, np.int64), weights)


class _Digest(NamedTuple):
    """What is kept of a photo: groups of neighbouring scores, by the key in their middle, and counts."""

    normal_keys: np.ndarray
    normal_counts: np.ndarray
    defect_keys: np.ndarray
    defect_counts: np.ndarray
    defect_weights: np.ndarray
    n_regions: int
    tp: int
    fp: int
    fn: int


def _digest(
    normal: np.ndarray, defect: np.ndarray, weights: np.ndarray, n_regions: int, tp: int, fp: int, fn: int
) -> _Digest:
    """Groups normal pixels finer towards high scores, where few of them weigh much, and defect pixels evenly."""
    normal = np.sort(normal)
    # Ranks from the top grow by 4 % a group; from the bottom they read n - rank.
    starts = normal.size - _geometric_ranks(normal.size)[::-1]
    ends = np.append(starts[1:], normal.size)
    order = np.argsort(defect, kind="stable")
    defect, weights = defect[order], weights[order]
    bounds = np.unique(np.linspace(0, defect.size, 257).astype(int))
    first, last = bounds[:-1], bounds[1:]
    return _Digest(
        normal[(starts + ends - 1) // 2],
        (ends - starts).astype(np.float32),
        defect[(first + last - 1) // 2],
        (last - first).astype(np.float32),
        (np.add.reduceat(weights, first) if defect.size else weights).astype(np.float32),
        n_regions,
        tp,
        fp,
        fn,
    )


def _geometric_ranks(n: int) -> np.ndarray:
    """Rising ranks from 1 to n, about 4 % apart."""
    if n == 0:
        return np.empty(0, int)
    count = int(np.log(n) / np.log(1.04)) + 2
    return np.unique(np.r_[np.geomspace(1, n, count).round().astype(int), n])


def _shared_bins(digests: list[_Digest], n: int = 300) -> np.ndarray:
    """Keys that cut all photos' scores: n by rank among normal pixels, finer at the top, n evenly among defects."""
    cuts = []
    for side in ("normal", "defect"):
        keys = np.concatenate([getattr(d, f"{side}_keys") for d in digests])
        counts = np.concatenate([getattr(d, f"{side}_counts") for d in digests])
        order = np.argsort(keys)[::-1]
        below = counts[order].cumsum(dtype=np.float64)
        ranks = np.geomspace(1, below[-1], n) if side == "normal" else np.linspace(0, below[-1], n)
        cuts.append(keys[order][np.clip(np.searchsorted(below, ranks), 0, keys.size - 1)])
    return np.unique(np.concatenate(cuts))


def _binned(digests: list[_Digest], cuts: np.ndarray) -> list[np.ndarray]:
    """Three (photos, bins) tables, bins by rising score: normal pixels, defect pixels, region weights."""
    shape = (len(digests), cuts.size + 1)
    tables = []
    for keys, values in (
        ("normal_keys", "normal_counts"),
        ("defect_keys", "defect_counts"),
        ("defect_keys", "defect_weights"),
    ):
        photo = np.repeat(np.arange(len(digests)), [getattr(d, keys).size for d in digests])
        place = np.searchsorted(cuts, np.concatenate([getattr(d, keys) for d in digests]), side="right")
        mass = np.concatenate([getattr(d, values) for d in digests])
        tables.append(np.bincount(photo * shape[1] + place, mass, minlength=shape[0] * shape[1]).reshape(shape))
    return tables


_PIXEL_SUMS = (*PIXEL_COUNTS, "n_normal_photos_flagged", "tp", "fp", "fn")


class _SparseCounts:
    """Counts (and weights) under sorted distinct keys."""

    def __init__(self, weighted: bool = False):
        self.weighted = weighted
        self.keys = np.empty(0, np.uint32)
        self.counts = np.empty(0, np.int64)
        self.weights = np.empty(0, np.float64)

    def merged(self, keys: np.ndarray, counts: np.ndarray, weights: np.ndarray | None = None) -> _SparseCounts:
        """Returns the sum with counts under other, possibly repeated, keys."""
        if keys.size == 0:
            return self
        total = _SparseCounts(self.weighted)
        total.keys, place = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
        total.counts = np.zeros(total.keys.size, np.int64)
        np.add.at(total.counts, place, np.concatenate([self.counts, counts]))  # exact, unlike float bincount weights
        if weights is not None:
            total.weights = np.bincount(place, np.concatenate([self.weights, weights]), minlength=total.keys.size)
        return total


def _order_keys(scores: np.ndarray, bits: int) -> np.ndarray:
    """uint32 keys in the order of float32 scores: the leading bits of the pattern, negative numbers reversed."""
    pattern = (scores + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0
    sign = np.uint32(0x80000000)
    ordered = np.where(pattern & sign, ~pattern, pattern | sign)
    return ordered >> np.uint32(32 - bits)


def _key_scores(keys: np.ndarray, bits: int) -> np.ndarray:
    """float32 score at the lower edge of each key."""
    sign = np.uint32(0x80000000)
    ordered = keys << np.uint32(32 - bits)
    pattern = np.where(ordered & sign, ordered ^ sign, ~ordered)
    return pattern.astype(np.uint32).view(np.float32)


def _area_up_to(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Area under a rising curve from x = 0 to limit, over limit; linear between its points."""
    inside = x <= limit
    last = int(inside.sum()) - 1
    x_part, y_part = x[inside], y[inside]
    if x_part[-1] < limit:
        share = (limit - x[last]) / (x[last + 1] - x[last])
        x_part = np.append(x_part, limit)
        y_part = np.append(y_part, y[last] + share * (y[last + 1] - y[last]))
    return float(auc(x_part, y_part) / limit)


def _f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)


def check_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Labels as (N,) bool and scores as (N,) float64.

    Raises:
        ValueError: when shapes differ or a score is not finite.
    """
    truth = np.asarray(labels).astype(bool)
    values = np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(f"labels {truth.shape} and scores {values.shape} must be two (N,) arrays of one length.")
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite; {int((~np.isfinite(values)).sum())} of {values.size} are not.")
    return truth, values


# ---------------------------------------------------------------------------------------------- whole test set


def photo_overlap(
    maps: Iterable[np.ndarray], masks: Iterable[np.ndarray | None], threshold: SupportsFloat
) -> pd.DataFrame:
    """Overlap of what is called defect with the mask, for each photo by itself.

    Args:
        maps: (H, W) anomaly maps.
        masks: (H, W) bool masks likewise; None where a photo has none.
        threshold: a pixel is called defect above it.

    Returns:
        One row a photo: ``dice`` = 2 |A and B| / (|A| + |B|) and ``iou`` = |A and B| / |A or B|; NaN where there is
        neither a defect nor a pixel called one, or no mask.
    """
    rows = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        if mask is None:
            rows.append((np.nan, np.nan))
            continue
        called = exceeds(anomaly_map, threshold)
        both, either = int((called & mask).sum()), int((called | mask).sum())
        rows.append((2 * both / (both + either), both / either) if either else (np.nan, np.nan))
    return pd.DataFrame(rows, columns=["dice", "iou"])


@dataclass(frozen=True)
class Evaluation:
    """What is known about one model on one test set.

    Attributes:
        overall: Counts, `IMAGE_METRICS`, ``threshold``, `PIXEL_COUNTS`, `PIXEL_METRICS`, ``pixel_threshold``.
        by_type: One row a defect type against all normal photos: `by_defect_type` with the pixel metrics beside.
        intervals: 95 % intervals of the overall figures, as from `image_intervals`.
        curves: Arrays for figures: those of `image_curves`, and ``pro_fpr``, ``pro`` when there were maps.
    """

    overall: dict[str, float]
    by_type: pd.DataFrame
    intervals: pd.DataFrame
    curves: dict[str, np.ndarray] = field(repr=False)


def evaluate(
    predictions: pd.DataFrame,
    maps: Iterable[np.ndarray] | None = None,
    masks: Iterable[np.ndarray | None] | None = None,
    image_threshold: SupportsFloat | None = None,
    pixel_threshold: SupportsFloat | None = None,
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Evaluates one model's predictions of a test set.

    Args:
        predictions: One row a photo: ``label_index`` (0 or 1), ``defect_type``, ``score``.
        maps: (H, W) anomaly maps in the order of the rows, read once, one at a time; None without pixel metrics.
        masks: (H, W) bool masks likewise, at the size of the maps; an item is None for a photo without one.
        image_threshold: A `Threshold` or number; abnormal is score > threshold.
        pixel_threshold: Likewise for every pixel of a map.
        n_bootstrap: Resamples of the intervals.
        seed: Seed of the resamples.

    Raises:
        ValueError: When a column is missing or maps or masks end before the rows do or go on after them.
    """
    missing = [name for name in ("label_index", "defect_type", "score") if name not in predictions.columns]
    if missing:
        raise ValueError(f"predictions has no column {', '.join(missing)}.")
    if (maps is None) != (masks is None):
        raise ValueError("give maps and masks together, or neither of them.")
    labels = predictions["label_index"].to_numpy().astype(bool)
    scores = predictions["score"].to_numpy(dtype=np.float64)
    types = [str(value) for value in predictions["defect_type"]]

    image = image_metrics(labels, scores, image_threshold)
    overall = dict(image)
    overall["threshold"] = np.nan if image_threshold is None else float(image_threshold)
    by_type = by_defect_type(labels, scores, types, image_threshold, n=n_bootstrap, seed=seed)
    intervals = image_intervals(labels, scores, image_threshold, n=n_bootstrap, seed=seed)
    curves = image_curves(labels, scores, image_threshold)

    pixels = {name: PixelMetrics(pixel_threshold) for name in ("", *by_type["defect_type"])}
    if maps is not None and masks is not None:
        paths = predictions.get("image_path", pd.Series(range(len(predictions)))).astype(str).tolist()
        _stream(pixels, labels, types, paths, maps, masks)
    normal = pixels.pop("")
    total = normal
    pixel_rows = []
    for accumulator in pixels.values():
        total = total + accumulator
        together = normal + accumulator
        row: dict[str, Any] = together.compute()
        table = together.intervals(n=n_bootstrap, seed=seed)
        for metric, low, high in zip(table.index, table["low"], table["high"], strict=True):
            row[f"{metric}_low"], row[f"{metric}_high"] = low, high
        pixel_rows.append(row)
    overall |= total.compute()
    overall["pixel_threshold"] = np.nan if pixel_threshold is None else float(pixel_threshold)
    if maps is not None:
        ends = [f"{metric}_{end}" for metric in PIXEL_METRICS for end in ("low", "high")]
        columns = [*PIXEL_COUNTS, *PIXEL_METRICS, *ends]  # said here too for a test set without defects
        by_type = pd.concat([by_type, pd.DataFrame(pixel_rows, index=by_type.index, columns=columns)], axis=1)
        intervals = pd.concat([intervals, total.intervals(n=n_bootstrap, seed=seed)])
        curves["pro_fpr"], curves["pro"] = total.pro_curve()
    return Evaluation(overall=overall, by_type=by_type, intervals=intervals, curves=curves)


def leaderboard_row(model: str, evaluation: Evaluation, **extra: Any) -> dict[str, Any]:
    """Makes one row of the leaderboard.

    Args:
        model: Name of the model.
        evaluation: From `evaluate`.
        **extra: More columns; ``fit_seconds`` and ``ms_per_image`` go to their place, NaN without them.

    Returns:
        `LEADERBOARD_COLUMNS` in their order, then ``extra``, then the remaining figures.
    """
    overall = dict(evaluation.overall)
    known = {"model": model, "n_test_normal": overall.pop("n_normal"), "n_test_abnormal": overall.pop("n_abnormal")}
    known |= overall | extra
    row = {name: known.get(name, np.nan) for name in LEADERBOARD_COLUMNS}
    for source in (extra, overall):
        row |= {name: value for name, value in source.items() if name not in row}
    return row


def _stream(
    pixels: dict[str, PixelMetrics],
    labels: np.ndarray,
    types: list[str],
    paths: list[str],
    maps: Iterable[np.ndarray],
    masks: Iterable[np.ndarray | None],
) -> None:
    map_stream, mask_stream = iter(maps), iter(masks)
    end = object()
    for number, (abnormal, name, path) in enumerate(zip(labels, types, paths, strict=True)):
        anomaly_map, mask = next(map_stream, end), next(mask_stream, end)
        if anomaly_map is end or mask is end:
            which = "maps" if anomaly_map is end else "masks"
            raise ValueError(f"{which} ended after {number} photos but predictions has {labels.size} rows.")
        try:
            pixels[name if abnormal else ""].update(anomaly_map, mask, abnormal=bool(abnormal))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if next(map_stream, end) is not end or next(mask_stream, end) is not end:
        raise ValueError(f"maps or masks go on after the {labels.size} rows of predictions; give one of each per row.")
