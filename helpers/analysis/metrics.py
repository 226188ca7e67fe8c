"""What is known about one model on one test set; a metric that needs a class which is not there is NaN."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import precision_recall_curve, roc_curve

from helpers.analysis.intervals import Statistics, bootstrap, counts_by_score, interval_table
from helpers.analysis.pixels import count_pixels, pixel_counts, pixel_intervals, pixel_metrics
from helpers.thresholds import exceeds

_RANKING = ("image_auroc", "image_ap", "image_f1max")
_AT_THRESHOLD = ("recall_at_threshold", "false_alarm_at_threshold")
IMAGE_METRICS = (*_RANKING, "fpr_at_95_recall", *_AT_THRESHOLD)
LEADERBOARD_COLUMNS = (
    *("model", "n_test_normal", "n_test_abnormal", *_RANKING, "pixel_auroc", "pixel_aupro", "pixel_dice"),
    *("threshold", *_AT_THRESHOLD, "fit_seconds", "ms_per_image"),
)


def image_metrics(labels: ArrayLike, scores: ArrayLike, threshold: SupportsFloat | None = None) -> dict[str, float]:
    """``n_normal``, ``n_abnormal`` and `IMAGE_METRICS` of (N,) labels (1 = abnormal) and scores (higher = abnormal).

    F1-max is the best F1 over all thresholds, ``fpr_at_95_recall`` the lowest false-positive rate among thresholds that
    find at least 95 % of the abnormal photos; without a threshold the two rates at it are NaN.
    """
    truth, values = check_scores(labels, scores)
    once = _statistics(truth, values, threshold)(np.ones((1, truth.size)))
    counts = {"n_normal": int((~truth).sum()), "n_abnormal": int(truth.sum())}
    return counts | {name: float(each[0]) for name, each in once.items()}


def image_curves(labels: ArrayLike, scores: ArrayLike, threshold: SupportsFloat | None = None) -> dict[str, np.ndarray]:
    """What a figure of ROC and precision-recall curves needs; empty curves with one class only.

    ``fpr``, ``tpr``, ``precision``, ``recall`` as scikit-learn gives them; 0-d ``image_auroc``, ``image_ap``,
    ``n_normal``, ``n_abnormal``; ``operating_point``: false-alarm rate, recall and precision at the threshold.
    """
    truth, values = check_scores(labels, scores)
    numbers = image_metrics(truth, values, threshold)
    fpr = tpr = precision = recall = np.empty(0)
    if 0 < truth.sum() < truth.size:
        fpr, tpr, _ = roc_curve(truth, values)
        precision, recall, _ = precision_recall_curve(truth, values)
    flagged = np.zeros(truth.shape, bool) if threshold is None else exceeds(values, threshold)
    precision_at = float(truth[flagged].mean()) if flagged.any() else np.nan
    point = np.array([numbers["false_alarm_at_threshold"], numbers["recall_at_threshold"], precision_at])
    curves = {"fpr": fpr, "tpr": tpr, "precision": precision, "recall": recall, "operating_point": point}
    return curves | {name: np.asarray(numbers[name]) for name in ("image_auroc", "image_ap", "n_normal", "n_abnormal")}


def image_intervals(
    labels: ArrayLike, scores: ArrayLike, threshold: SupportsFloat | None = None, *, n: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """`interval_table` of `IMAGE_METRICS`: rates at the threshold get Wilson's, the others all the same resamples."""
    truth, values = check_scores(labels, scores)
    numbers = image_metrics(truth, values, threshold)
    draws = image_draws(truth, values, threshold, n=n, seed=seed)
    counts = {"recall_at_threshold": numbers["n_abnormal"], "false_alarm_at_threshold": numbers["n_normal"]}
    table = interval_table({name: numbers[name] for name in IMAGE_METRICS}, draws, counts)
    return table.assign(n_normal=numbers["n_normal"], n_abnormal=numbers["n_abnormal"])


def image_draws(
    truth: np.ndarray, values: np.ndarray, threshold: SupportsFloat | None, *, n: int, seed: int
) -> dict[str, np.ndarray]:
    """(n,) resampled values of each image metric, normal and abnormal photos drawn apart."""
    return bootstrap(_statistics(truth, values, threshold), truth, n=n, seed=seed)


def _statistics(truth: np.ndarray, values: np.ndarray, threshold: SupportsFloat | None) -> Statistics:
    """What makes `IMAGE_METRICS` (B,) of the photos' weights (B, N); normal and abnormal ones keep their number."""
    flagged = np.zeros(truth.size, bool) if threshold is None else exceeds(values, threshold)
    n_positive, n_negative = int(truth.sum()), int((~truth).sum())

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = dict.fromkeys(IMAGE_METRICS, np.full(len(weights), np.nan))
        for side, name in ((truth, "recall_at_threshold"), (~truth, "false_alarm_at_threshold")):
            if threshold is not None and side.any():
                found[name] = weights[:, flagged & side].sum(axis=1) / side.sum()
        if n_positive and n_negative:
            positive, negative = (counts_by_score(values, weights * side) for side in (truth, ~truth))
            tp, fp = positive.cumsum(axis=1), negative.cumsum(axis=1)
            enough = (tp >= (0.95 - 1e-12) * n_positive).argmax(axis=1)
            wins = (negative * (tp - 0.5 * positive)).sum(axis=1)
            found["image_auroc"] = wins / (n_positive * n_negative)
            found["image_ap"] = (positive * (tp / np.maximum(tp + fp, 1))).sum(axis=1) / n_positive
            found["image_f1max"] = (2.0 * tp / (tp + fp + n_positive)).max(axis=1)
            found["fpr_at_95_recall"] = fp[np.arange(len(fp)), enough] / n_negative
        return found

    return statistics


class Evaluation(NamedTuple):
    """``overall`` counts and metrics with both thresholds; ``by_type`` the same of each defect type against all normal
    photos, with ``<metric>_low`` and ``_high``; ``intervals`` as `interval_table`; ``curves`` as `image_curves`.
    """

    overall: dict[str, float]
    by_type: pd.DataFrame
    intervals: pd.DataFrame
    curves: dict[str, np.ndarray]


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
    """Evaluate one model's predictions (``label_index``, ``defect_type``, ``score``), one row a test photo.

    ``maps`` (H, W) and bool ``masks`` of the same size (None: a photo without one) come in the order of the rows, and
    are read once; without them there are no pixel metrics.
    """
    labels = predictions["label_index"].to_numpy().astype(bool)
    scores = predictions["score"].to_numpy(dtype=np.float64)
    types = predictions["defect_type"].astype(str).to_numpy()
    pixels = None
    if maps is not None and masks is not None:
        paths = predictions.get("image_path", pd.Series(range(len(predictions)))).astype(str)
        pixels = []
        for label, path, anomaly_map, mask in zip(labels, paths, maps, masks, strict=True):
            try:
                pixels.append(count_pixels(anomaly_map, mask, pixel_threshold, abnormal=bool(label)))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error

    def intervals(chosen: np.ndarray) -> tuple[dict[str, float], pd.DataFrame]:
        table = image_intervals(labels[chosen], scores[chosen], image_threshold, n=n_bootstrap, seed=seed)
        numbers = table[["n_normal", "n_abnormal"]].iloc[0].to_dict() | table["value"].to_dict()
        if pixels is None:
            return numbers, table
        photos = [pixels[row] for row in np.flatnonzero(chosen)]
        of_pixels = pixel_intervals(photos, n=n_bootstrap, seed=seed)
        return numbers | pixel_counts(photos) | of_pixels["value"].to_dict(), pd.concat([table, of_pixels])

    numbers, table = intervals(np.ones(labels.size, bool))
    rows = []
    for name in np.unique(types[labels]):
        of_type, ends = intervals(~labels | (types == name))
        lows_and_highs = {f"{metric}_{end}": ends.at[metric, end] for metric in ends.index for end in ("low", "high")}
        rows.append({"defect_type": name, **of_type, **lows_and_highs})
    columns = ["defect_type", *numbers, *(f"{metric}_{end}" for metric in table.index for end in ("low", "high"))]
    limits = [np.nan if limit is None else float(limit) for limit in (image_threshold, pixel_threshold)]
    names = ["n_normal", "n_abnormal", *IMAGE_METRICS]
    overall = {name: numbers.pop(name) for name in names} | {"threshold": limits[0]}
    overall |= pixel_counts([]) | pixel_metrics([]) | numbers | {"pixel_threshold": limits[1]}
    curves = image_curves(labels, scores, image_threshold)
    return Evaluation(overall, pd.DataFrame(rows, columns=columns), table, curves)


def leaderboard_row(model: str, evaluation: Evaluation, **extra: Any) -> dict[str, Any]:
    """`LEADERBOARD_COLUMNS` in their order, then ``extra`` (such as ``fit_seconds``), then the remaining figures."""
    overall = dict(evaluation.overall)
    known = {"model": model, "n_test_normal": overall.pop("n_normal"), "n_test_abnormal": overall.pop("n_abnormal")}
    return dict.fromkeys(LEADERBOARD_COLUMNS, np.nan) | known | extra | (overall | extra)


def check_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Labels as (N,) bool and finite scores as (N,) float64."""
    truth = np.asarray(labels).astype(bool)
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite; {int((~np.isfinite(values)).sum())} of {values.size} are not.")
    return truth, values
