"""How well a classifier names the classes it knows: rates by class, confusion, ranking and calibration, with counts.

Rates are scikit-learn's. A figure that needs a class which is not there is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from helpers.analysis.intervals import bootstrap, percentile_interval, weighted_auroc, wilson_interval
from helpers.thresholds import Threshold

UNKNOWN = "unknown"
N_BINS = 15  # Guo et al. 2017
_MACRO = ("precision", "recall", "f1", "auroc")


def learnable_classes(table: pd.DataFrame, least: int = 3) -> list[str]:
    """Classes of a sample table that can be learned, chosen by and tested: one group each for train, val and test.

    Args:
        table: sample table.
        least: groups of photos that a class needs.

    Returns:
        Names, sorted.
    """
    groups = table.groupby("defect_type")["group"].nunique()
    return sorted(groups.index[groups >= least])


@dataclass(frozen=True)
class ClassificationReport:
    """What is known about one classifier on one test set.

    Attributes:
        overall: ``n`` photos, ``n_classes`` (those with photos), ``accuracy``; ``precision``, ``recall``, ``f1``
            (macro: the mean over classes with photos); ``auroc`` (each class against the rest, the mean over classes;
            with two classes simply theirs) and ``ece``, the expected calibration error; both NaN without
            probabilities.
        by_class: a row a class: ``class``, ``n`` photos of it, ``n_predicted``; ``precision``, ``recall``, ``f1``,
            ``auroc`` (against the rest), each with ``_low`` and ``_high``. A class that is never predicted has
            precision 0; one without photos has only the precision 0 of its false predictions.
        confusion: photos, rows true, columns predicted.
        reliability: as from `reliability_table`; empty without probabilities.
        intervals: index ``metric``; ``value``, ``low``, ``high``, ``level``, ``n``, ``method``: "wilson" for the
            accuracy, "bootstrap" for the macro figures (photos resampled within each class). The calibration error
            has none: it is biased upwards, and more so in resamples.
    """

    overall: dict[str, float]
    by_class: pd.DataFrame
    confusion: pd.DataFrame
    reliability: pd.DataFrame
    intervals: pd.DataFrame


def classification_report(
    truth: Sequence[str] | NDArray[Any],
    predicted: Sequence[str] | NDArray[Any],
    classes: Sequence[str],
    probabilities: ArrayLike | None = None,
    *,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> ClassificationReport:
    """Evaluates the predictions of photos of known classes.

    Intervals of precision and recall are Wilson's; those of F1, AUROC and the macro figures are percentile intervals
    of resampled photos, each class resampled by itself. Photos are taken as independent.

    Args:
        truth: (N,) names of the true classes.
        predicted: (N,) names of the predicted ones; by a threshold or the highest probability.
        classes: all names, in the order of the columns of ``probabilities``.
        probabilities: (N, C) in [0, 1], or None.
        n_bootstrap: resamples, 1 or more.
        level: of the intervals, in (0, 1).
        seed: of the resamples.

    Raises:
        ValueError: When lengths differ, there is no photo, or a name is not among the classes.
    """
    names = [str(name) for name in classes]
    true, said = _indices(truth, names, "truth"), _indices(predicted, names, "predicted")
    if true.shape != said.shape or not true.size:
        raise ValueError(f"truth has {true.size} entries and predicted {said.size}; give one a photo, and some.")
    if n_bootstrap < 1 or not 0 < level < 1:
        raise ValueError(f"n_bootstrap must be 1 or more and level in (0, 1); got {n_bootstrap} and {level}.")
    chances = None if probabilities is None else _probabilities(probabilities, true.size, len(names))

    labels = np.arange(len(names))
    precision, recall, f1, support = precision_recall_fscore_support(true, said, labels=labels, zero_division=0.0)
    n_predicted = np.bincount(said, minlength=len(names))
    here = support > 0
    by_class = pd.DataFrame({"class": names, "n": support, "n_predicted": n_predicted})
    by_class["precision"] = np.where(here | (n_predicted > 0), precision, np.nan)
    by_class["recall"] = np.where(here, recall, np.nan)
    by_class["f1"] = np.where(here, f1, np.nan)
    by_class["auroc"] = np.nan
    if chances is not None:
        by_class["auroc"] = [
            roc_auc_score(true == label, chances[:, label]) if 0 < support[label] < true.size else np.nan
            for label in labels
        ]
    macro = {name: _mean(by_class.loc[here, name].to_numpy(dtype=float)) for name in _MACRO}
    accuracy = float((true == said).mean())
    overall: dict[str, float] = {"n": int(true.size), "n_classes": int(here.sum()), "accuracy": accuracy, **macro}
    reliability = reliability_table(np.empty(0), np.empty(0))
    overall["ece"] = np.nan
    if chances is not None:
        reliability = reliability_table(chances[np.arange(true.size), said], true == said)
        overall["ece"] = expected_calibration_error(reliability)

    draws = _draws(true, said, chances, len(names), n_bootstrap, seed)
    for name in ("precision", "recall"):
        counts = by_class["n_predicted" if name == "precision" else "n"]
        ends = [wilson_interval(share, int(n), level) for share, n in zip(by_class[name], counts, strict=True)]
        by_class[[f"{name}_low", f"{name}_high"]] = ends
    for name in ("f1", "auroc"):
        ends = [percentile_interval(draws[name][:, label], level) for label in labels] if name in draws else np.nan
        by_class[[f"{name}_low", f"{name}_high"]] = ends
    by_class = by_class[["class", "n", "n_predicted", *(f"{m}{end}" for m in _MACRO for end in ("", "_low", "_high"))]]

    rows = [("accuracy", accuracy, *wilson_interval(accuracy, true.size, level), "wilson")]
    for name in _MACRO:
        low, high = percentile_interval(draws[name][:, here].mean(axis=1), level) if name in draws else (np.nan, np.nan)
        rows.append((name, macro[name], low, high, "" if np.isnan(low) else "bootstrap"))
    intervals = pd.DataFrame(rows, columns=["metric", "value", "low", "high", "method"]).set_index("metric")
    intervals[["level", "n"]] = level, true.size
    intervals = intervals.astype({"n": int})[["value", "low", "high", "level", "n", "method"]]
    return ClassificationReport(overall, by_class, confusion_table(truth, predicted, names), reliability, intervals)


def confusion_table(
    truth: Sequence[str] | NDArray[Any],
    predicted: Sequence[str] | NDArray[Any],
    classes: Sequence[str],
    *,
    rows: Sequence[str] | None = None,
    unknown: bool = False,
) -> pd.DataFrame:
    """Counts photos by true and predicted class.

    Args:
        truth: (N,) names of the true classes.
        predicted: (N,) names of the predicted ones; with ``unknown`` also ``unknown``.
        classes: names, in the order of the columns.
        rows: names in the order of the rows; None: the classes, and with ``unknown`` one row ``unknown`` for the photos
            of all other classes.
        unknown: adds a column ``unknown``.

    Returns:
        Int counts; index ``truth``, columns ``predicted``.

    Raises:
        ValueError: When lengths differ or a name is among neither.
    """
    columns = [*map(str, classes), *([UNKNOWN] if unknown else [])]
    index = columns if rows is None else [str(name) for name in rows]
    names = np.asarray([str(name) for name in truth], dtype=object)
    if rows is None and unknown:
        names = np.where(np.isin(names.astype(str), columns), names, UNKNOWN)
    true, said = _indices(names, index, "truth"), _indices(predicted, columns, "predicted")
    if true.shape != said.shape:
        raise ValueError(f"truth has {true.size} entries and predicted {said.size}; give one a photo.")
    counts = np.zeros((len(index), len(columns)), int)
    if true.size:
        size = max(counts.shape)
        counts = confusion_matrix(true, said, labels=np.arange(size))[: len(index), : len(columns)]
    return pd.DataFrame(counts, pd.Index(index, name="truth"), pd.Index(columns, name="predicted"))


def threshold_rates(
    thresholds: Mapping[str, Threshold], val: pd.DataFrame, test: pd.DataFrame, level: float = 0.95
) -> pd.DataFrame:
    """What each threshold accepts of the good photos, and what it finds of the defects, on val and on test.

    Args:
        thresholds: by name; accepted is a score of at most the value.
        val: ``label_index`` and ``score``; the photos that thresholds were set on, so its rates flatter.
        test: likewise.
        level: of Wilson's intervals.

    Returns:
        A row a threshold and split: ``name``, ``value``, ``origin``, ``split``; ``n_normal``, ``accepted`` (share) with
        ``_low`` and ``_high``, and ``n_abnormal``, ``found`` (share) likewise; NaN where there is no photo.
    """
    rows = []
    for name, threshold in thresholds.items():
        for split, photos in (("val", val), ("test", test)):
            row: dict[str, Any] = {"name": name, "value": threshold.value, "origin": threshold.origin, "split": split}
            beyond = pd.Series(threshold.exceeds(photos["score"]), photos.index)
            abnormal = photos["label_index"] == 1
            for count, share, chosen in (
                ("n_normal", "accepted", ~beyond[~abnormal]),
                ("n_abnormal", "found", beyond[abnormal]),
            ):
                value = float(chosen.mean()) if len(chosen) else np.nan
                low, high = wilson_interval(value, len(chosen), level)
                row |= {count: len(chosen), share: value, f"{share}_low": low, f"{share}_high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def reliability_table(
    confidence: ArrayLike, right: ArrayLike, n_bins: int = N_BINS, level: float = 0.95
) -> pd.DataFrame:
    """Confidence against accuracy in bins of equal width (Guo et al. 2017, "On calibration of modern neural networks").

    Args:
        confidence: (N,) in [0, 1], probability of the predicted class.
        right: (N,) bool, whether it is the true one.
        n_bins: bins (low, high]; the first holds 0 too.
        level: of Wilson's interval of the accuracy.

    Returns:
        A row a bin: ``low``, ``high``, ``n``, ``confidence`` (mean), ``accuracy``, ``accuracy_low``, ``accuracy_high``;
        NaN in an empty bin.

    Raises:
        ValueError: When shapes differ, a value lies outside [0, 1], or n_bins is not positive.
    """
    values, hits = np.asarray(confidence, dtype=np.float64), np.asarray(right).astype(bool)
    if values.ndim != 1 or values.shape != hits.shape:
        raise ValueError(f"confidence {values.shape} and right {hits.shape} must be two (N,) arrays of one length.")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("confidence must lie in [0, 1]; give probabilities, not logits.")
    if n_bins < 1:
        raise ValueError(f"n_bins must be 1 or more, got {n_bins}.")
    edges = np.linspace(0, 1, n_bins + 1)
    place = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, n_bins - 1)
    n = np.bincount(place, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, values, minlength=n_bins) / n
        accuracy = np.bincount(place, hits, minlength=n_bins) / n
    ends = [wilson_interval(share, int(count), level) for share, count in zip(accuracy, n, strict=True)]
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": n, "confidence": mean, "accuracy": accuracy})
    table[["accuracy_low", "accuracy_high"]] = ends
    return table


def expected_calibration_error(reliability: pd.DataFrame) -> float:
    """Mean distance of accuracy and confidence over the bins, weighted by their photos (Guo et al. 2017, equation 3).

    Args:
        reliability: from `reliability_table`.

    Returns:
        In [0, 1]; NaN without photos.
    """
    n = reliability["n"].to_numpy()
    gaps = (reliability["accuracy"] - reliability["confidence"]).abs().fillna(0).to_numpy()
    return float((n * gaps).sum() / n.sum()) if n.sum() else np.nan


# --------------------------------------------------------------------------------------------------------- resamples


def _draws(
    true: NDArray[np.intp], said: NDArray[np.intp], chances: NDArray[np.float64] | None, size: int, n: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """(n, C) draws of the figures of each class, photos drawn within their classes; NaN for a class without photos."""
    of_class, called = np.eye(size)[true], np.eye(size)[said]
    missing = np.where(of_class.any(axis=0), 0.0, np.nan)

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        hits, n_true, n_called = weights @ (of_class * called), weights @ of_class, weights @ called
        draws = {
            "precision": missing + hits / np.maximum(n_called, 1),
            "recall": missing + hits / np.maximum(n_true, 1),
            "f1": missing + 2 * hits / np.maximum(n_called + n_true, 1),
        }
        if chances is not None:
            sides = [weighted_auroc(true == label, chances[:, label], weights) for label in range(size)]
            draws["auroc"] = np.column_stack(sides)
        return draws

    return bootstrap(statistics, true, n=n, seed=seed)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size and not np.isnan(values).any() else np.nan


def _indices(names: Sequence[str] | NDArray[Any], classes: Sequence[str], what: str) -> NDArray[np.intp]:
    index = {name: number for number, name in enumerate(classes)}
    if len(index) < len(classes):
        raise ValueError(f"classes must be different names, got {', '.join(classes)}.")
    strange = sorted({str(name) for name in names} - set(index))
    if strange:
        raise ValueError(
            f"{what} holds {', '.join(strange)}, which is not among {', '.join(classes)}; leave those photos out, or "
            "evaluate them with helpers.analysis.unknown."
        )
    return np.array([index[str(name)] for name in names], dtype=np.intp)


def _probabilities(values: ArrayLike, n: int, size: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (n, size):
        raise ValueError(f"probabilities must be ({n}, {size}), a row a photo and a column a class; got {array.shape}.")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1]; give the softmax of the logits.")
    return array
