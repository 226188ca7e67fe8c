"""How well a classifier names the classes it knows, and what it makes of those it does not: rates with intervals.

Known photos are those of classes that the classifier was trained on; all others are unknown. Scores are oriented so
that larger is more unknown; a positive is a known photo that is accepted. What needs a class that is not there is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from helpers.analysis.intervals import (
    LEVEL,
    bootstrap,
    counts_by_score,
    interval_table,
    percentile_interval,
    share_columns,
    share_interval,
    weighted_auroc,
    wilson_interval,
)
from helpers.analysis.metrics import image_draws, image_metrics
from helpers.thresholds import Threshold, conformal_threshold, exceeds

UNKNOWN = "unknown"
N_BINS = 15  # Guo et al. 2017
_MACRO = ("precision", "recall", "f1", "auroc")
_ENDS = ("", "_low", "_high")


def learnable_classes(table: pd.DataFrame, least: int = 3) -> list[str]:
    """Classes of a sample table that can be learned, chosen by and tested: one group each for train, val and test."""
    groups = table.groupby("defect_type")["group"].nunique()
    return sorted(groups.index[groups >= least])


# -------------------------------------------------------------------------------------------------- classes it knows


class ClassificationReport(NamedTuple):
    """``overall``: accuracy, macro means over the classes with photos, and ``ece``, the expected calibration error (Guo
    et al. 2017, equation 3), without an interval: it is biased upwards, more so in resamples. AUROC is of each class
    against the rest; ``confusion``: rows true, columns predicted; ``intervals``: as `interval_table`.
    """

    overall: dict[str, float]
    by_class: pd.DataFrame
    confusion: pd.DataFrame
    reliability: pd.DataFrame
    intervals: pd.DataFrame


def classification_report(
    truth: Sequence[str],
    predicted: Sequence[str],
    classes: Sequence[str],
    probabilities: ArrayLike,
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> ClassificationReport:
    """Evaluate (N,) predicted names of photos of known classes; ``probabilities`` (N, C) in the order of the classes.

    Intervals of accuracy, precision and recall are Wilson's, the others of photos resampled within each class.
    """
    true, named = _codes(truth, classes, "truth"), _codes(predicted, classes, "predicted")
    labels = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(true, named, labels=labels, zero_division=0.0)
    called, here = np.bincount(named, minlength=labels.size), support > 0
    by_class = pd.DataFrame({"class": list(classes), "n": support, "n_predicted": called})
    by_class["precision"] = np.where(here | (called > 0), precision, np.nan)
    by_class["recall"], by_class["f1"] = np.where(here, recall, np.nan), np.where(here, f1, np.nan)
    by_class["auroc"], chances = np.nan, np.asarray(probabilities, dtype=np.float64)
    asked = [label for label in labels if 0 < support[label] < true.size]
    by_class.loc[asked, "auroc"] = [roc_auc_score(true == label, chances[:, label]) for label in asked]
    reliability = reliability_table(chances[np.arange(true.size), named], true == named)
    gaps = (reliability["accuracy"] - reliability["confidence"]).abs().fillna(0)
    ece = float((reliability["n"] * gaps).sum() / true.size)
    draws = _draws(true, named, chances, labels.size, n_bootstrap, seed)
    for name, counts in (("precision", called), ("recall", support)):
        ends = [wilson_interval(share, int(n)) for share, n in zip(by_class[name], counts, strict=True)]
        by_class[[f"{name}_low", f"{name}_high"]] = ends
    for name in ("f1", "auroc"):
        by_class[[f"{name}_low", f"{name}_high"]] = [percentile_interval(each) for each in draws[name].T]
    by_class = by_class[["class", "n", "n_predicted", *(f"{name}{end}" for name in _MACRO for end in _ENDS)]]

    values = {"accuracy": float((true == named).mean())}
    values |= {name: float(by_class.loc[here, name].mean(skipna=False)) for name in _MACRO}
    macro = {name: draws[name][:, here].mean(axis=1) for name in _MACRO}
    intervals = interval_table(values, macro, {"accuracy": true.size}).assign(n=true.size)
    overall = {"n": int(true.size), "n_classes": int(here.sum()), **values, "ece": ece}
    confusion = confusion_table(truth, predicted, classes, classes)
    return ClassificationReport(overall, by_class, confusion, reliability, intervals)


def confusion_table(
    truth: Sequence[str], predicted: Sequence[str], rows: Sequence[str], columns: Sequence[str]
) -> pd.DataFrame:
    """Counts of photos: rows true, columns predicted."""
    names = pd.DataFrame({"truth": np.asarray(truth, str), "predicted": np.asarray(predicted, str)})
    return pd.crosstab(names["truth"], names["predicted"]).reindex(index=rows, columns=columns, fill_value=0)


def reliability_table(confidence: ArrayLike, right: ArrayLike) -> pd.DataFrame:
    """Mean confidence (N,) in [0, 1] against accuracy (``right``, bool) in `N_BINS` bins (low, high] of equal width."""
    values, hits = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    edges = np.linspace(0, 1, N_BINS + 1)
    place = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, N_BINS - 1)
    rows = []
    for number in range(N_BINS):
        inside = place == number
        mean = values[inside].mean() if inside.any() else np.nan
        row = {"low": edges[number], "high": edges[number + 1], "n": int(inside.sum()), "confidence": mean}
        rows.append(row | share_columns("accuracy", hits[inside]))
    return pd.DataFrame(rows)


def threshold_rates(thresholds: Mapping[str, Threshold], val: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """What each threshold accepts of the good photos (``accepted``), and what it finds of the defects (``found``).

    On val, where thresholds were set, rates flatter.
    """
    rows = []
    for name, threshold in thresholds.items():
        for split, photos in (("val", val), ("test", test)):
            beyond, abnormal = threshold.exceeds(photos["score"]), photos["label_index"].to_numpy() == 1
            row: dict[str, Any] = {"name": name, "value": threshold.value, "origin": threshold.origin, "split": split}
            row |= {"n_normal": int((~abnormal).sum()), **share_columns("accepted", ~beyond[~abnormal])}
            rows.append(row | {"n_abnormal": int(abnormal.sum()), **share_columns("found", beyond[abnormal])})
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------ classes it does not know


def decide(
    scores: ArrayLike, confidence: ArrayLike | None, tau: SupportsFloat | None, kappa: SupportsFloat | None = None
) -> NDArray[np.bool_]:
    """(N,) bool, which photos are called unknown: score above tau, or confidence below kappa; None: off."""
    unknown = np.zeros(np.shape(scores), dtype=bool) if tau is None else exceeds(scores, tau)
    if kappa is None:
        return unknown
    return unknown | exceeds(confidence, Threshold(float(kappa), "kappa", below=True))


def open_set_thresholds(
    val_scores: ArrayLike, val_confidence: ArrayLike | None = None, accept: float = 0.95
) -> dict[str, Threshold]:
    """``tau`` and, where there are confidences, ``kappa``, each accepting a share of held-out known photos.

    Photos that pass both are fewer: at least 2 accept - 1 (Bonferroni).
    """
    thresholds = {"tau": conformal_threshold(val_scores, accept, population="known")}
    if val_confidence is not None:
        thresholds["kappa"] = conformal_threshold(val_confidence, accept, population="known", below=True)
    return thresholds


def accepted_shares(
    thresholds: Mapping[str, Threshold],
    val_scores: ArrayLike,
    test_scores: ArrayLike,
    val_confidence: ArrayLike | None = None,
    test_confidence: ArrayLike | None = None,
) -> pd.DataFrame:
    """The share of known photos that each rule (tau, kappa, both) accepts, beside what was promised.

    Of m new photos the number that is accepted follows, over draws of val and test, a beta-binomial distribution
    (m; k, n + 1 - k): ``expected_low`` and ``expected_high`` on test, and ``as_promised``: not below. They are missing
    where nothing exact can be said: on val, for both rules together, for a threshold that promises nothing.
    ``promised`` of both rules is what Bonferroni leaves.
    """
    rows = []
    for names in (["tau"], ["kappa"], ["tau", "kappa"]) if "kappa" in thresholds else (["tau"],):
        used = {name: thresholds[name] for name in names}
        for split, scores, confidence in (("val", val_scores, val_confidence), ("test", test_scores, test_confidence)):
            accepted = ~decide(scores, confidence, used.get("tau"), used.get("kappa"))
            row = {"rule": " and ".join(names), "split": split, "n": accepted.size, "accepted": int(accepted.sum())}
            row |= dict(zip(("share", "low", "high"), share_interval(accepted), strict=True))
            for column, field in (("asked", "accept"), ("promised", "guaranteed")):
                shares = [getattr(limit, field) for limit in used.values()]
                row[column] = np.nan if None in shares else max(0.0, 1 - sum(1 - share for share in shares))
            if split == "test" and len(used) == 1:
                row |= _expected(*used.values(), row)
            rows.append(row)
    last = ["expected_low", "expected_high", "as_promised"]
    columns = ["rule", "split", "n", "accepted", "share", "low", "high", "asked", "promised", *last]
    return pd.DataFrame(rows, columns=columns).astype({"as_promised": "boolean", **dict.fromkeys(last[:2], float)})


def _expected(threshold: Threshold, row: Mapping[str, Any]) -> dict[str, Any]:
    from scipy.stats import betabinom

    if threshold.rank is None or not row["n"]:
        return {}
    drawn = betabinom(row["n"], threshold.rank, threshold.n_normal + 1 - threshold.rank)
    low, high = (float(drawn.ppf(end)) / row["n"] for end in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return {"expected_low": low, "expected_high": high, "as_promised": bool(row["share"] >= low)}


class OpenSetReport(NamedTuple):
    """``intervals``: as `interval_table`, with ``n`` photos; ``oscr`` is the area under `oscr_curve`,
    ``closed_set_accuracy`` that of known photos if nothing were rejected. ``by_class``: known ones first, ``right``
    verdicts, and ``auroc`` of each unknown one against all known. ``curves``: ``fpr`` and ``ccr``, and 0-d numbers.
    """

    intervals: pd.DataFrame
    by_class: pd.DataFrame
    curves: dict[str, NDArray[np.float64]]


def open_set_report(
    truth: Sequence[str],
    predicted: Sequence[str],
    scores: ArrayLike,
    rejected: ArrayLike,
    classes: Sequence[str],
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> OpenSetReport:
    """Evaluate (N,) scores and rejections of test photos, however they came about.

    A name of ``truth`` that is not in ``classes`` is an unknown class; ``predicted`` is what the classifier
    would say if nothing were rejected.
    """
    names, values, away = np.asarray(truth, str), np.asarray(scores, np.float64), np.asarray(rejected, bool)
    known, right = np.isin(names, list(classes)), names == np.asarray(predicted, str)
    verdict = np.where(known, right & ~away, away)
    rates = {
        "closed_set_accuracy": right[known],
        "known_accepted": ~away[known],
        "known_right": verdict[known],
        "unknown_detected": verdict[~known],
        "open_set_accuracy": verdict,
    }
    fpr, ccr = oscr_curve(values[known], right[known], values[~known])
    ranking = image_metrics(known, -values)
    oscr = float(np.trapezoid(ccr, fpr)) if fpr.size else np.nan
    figures = {"auroc": ranking["image_auroc"], "fpr_at_95_tpr": ranking["fpr_at_95_recall"], "oscr": oscr}
    draws = {"oscr": _oscr_draws(values, known, right, n_bootstrap, seed)}
    resampled = image_draws(known, -values, None, n=n_bootstrap, seed=seed)
    draws |= {"auroc": resampled["image_auroc"], "fpr_at_95_tpr": resampled["fpr_at_95_recall"]}
    shares = {name: float(photos.mean()) if photos.size else np.nan for name, photos in rates.items()}
    sizes = {name: photos.size for name, photos in rates.items()}
    intervals = interval_table(figures | shares, draws, sizes)
    intervals["n"] = [sizes.get(name, values.size) for name in intervals.index]

    rows = []
    for name in [*classes, *sorted(set(names[~known]))]:
        chosen, pair = names == name, (names == name) | known
        auroc = np.nan if name in classes else image_metrics(chosen[pair], values[pair])["image_auroc"]
        share = float(away[chosen].mean()) if chosen.any() else np.nan
        row = {"class": name, "known": name in classes, "n": int(chosen.sum()), "rejected": share}
        rows.append(row | share_columns("right", verdict[chosen]) | {"auroc": auroc})
    curves = {"fpr": fpr, "ccr": ccr, "oscr": np.asarray(oscr)}
    curves |= {"n_known": np.asarray(known.sum()), "n_unknown": np.asarray((~known).sum())}
    return OpenSetReport(intervals, pd.DataFrame(rows), curves)


def oscr_curve(
    known_scores: NDArray[np.float64], known_right: NDArray[np.bool_], unknown_scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Open-set classification rate of Dhamija et al. 2018, "Reducing network agnostophobia" (section 4).

    ``fpr``, the share of unknown photos that is accepted, and ``ccr``, that of known photos accepted and named rightly;
    both rise from 0. Photos with a score of at most the limit are accepted. (The paper accepts known photos strictly
    below it: with ties that would count them against the method.) Empty with one kind only.
    """
    if not known_scores.size or not unknown_scores.size:
        return np.empty(0), np.empty(0)
    limits = np.unique(np.concatenate([known_scores, unknown_scores]))
    ccr = np.searchsorted(np.sort(known_scores[known_right]), limits, side="right") / known_scores.size
    fpr = np.searchsorted(np.sort(unknown_scores), limits, side="right") / unknown_scores.size
    return np.r_[0.0, fpr], np.r_[0.0, ccr]


def _oscr_draws(values: NDArray, known: NDArray, right: NDArray, n: int, seed: int) -> NDArray[np.float64]:
    if known.all() or not known.any():
        return np.empty(0)

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        right_ones, unknown = (counts_by_score(-values, weights * side) for side in (known & right, ~known))
        # the trapezoid: right ones below an unknown photo count, those level with it by half
        return {
            "oscr": (unknown * (right_ones.cumsum(axis=1) - 0.5 * right_ones)).sum(axis=1)
            / (known.sum() * (~known).sum())
        }

    return bootstrap(statistics, known, n=n, seed=seed)["oscr"]


def _draws(
    true: NDArray[np.intp], named: NDArray[np.intp], chances: NDArray[np.float64], size: int, n: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """(n, C) draws of the figures of each class, photos drawn within their classes; NaN for a class without photos."""
    of_class, called = np.eye(size)[true], np.eye(size)[named]
    missing = np.where(of_class.any(axis=0), 0.0, np.nan)

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        hits, n_true, n_called = weights @ (of_class * called), weights @ of_class, weights @ called
        sides = [weighted_auroc(true == label, chances[:, label], weights) for label in range(size)]
        return {
            "precision": missing + hits / np.maximum(n_called, 1),
            "recall": missing + hits / np.maximum(n_true, 1),
            "f1": missing + 2 * hits / np.maximum(n_called + n_true, 1),
            "auroc": np.column_stack(sides),
        }

    return bootstrap(statistics, true, n=n, seed=seed)


def _codes(names: Sequence[str], classes: Sequence[str], what: str) -> NDArray[np.intp]:
    values = np.asarray(names, str)
    codes = pd.Categorical(values, categories=list(classes)).codes.astype(np.intp)
    if (codes < 0).any():
        strange = ", ".join(sorted(set(values[codes < 0])))
        raise ValueError(f"{what} holds {strange}, which is not among {', '.join(classes)}; leave those photos out.")
    return codes
