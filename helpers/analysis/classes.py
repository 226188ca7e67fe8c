"""How well a classifier names the classes it knows, and what it makes of those it does not: rates with intervals.

Known photos are those of classes that the classifier was trained on; all others are unknown. Scores are oriented so
that larger is more unknown; a positive is a known photo that is accepted. What needs a class that is not there is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from helpers.analysis.intervals import (
    LEVEL,
    bootstrap,
    interval_table,
    percentile_interval,
    share_columns,
    weighted_auroc,
    wilson_interval,
)
from helpers.analysis.metrics import image_draws, image_metrics
from helpers.thresholds import Threshold, conformal_threshold, exceeds

UNKNOWN = "unknown"
N_BINS = 15  # Guo et al. 2017


def learnable_classes(table: pd.DataFrame, least: int = 3) -> list[str]:
    """Classes of a sample table that can be learned, chosen by and tested: one group each for train, val and test."""
    groups = table.groupby("defect_type")["group"].nunique()
    return sorted(groups.index[groups >= least])


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
    true, named = (pd.Categorical(names, list(classes)).codes.astype(int) for names in (truth, predicted))
    if min(*true, *named) < 0:
        raise ValueError(f"truth or predicted holds other classes than {', '.join(classes)}; leave those photos out.")
    chances, of_class, called = np.asarray(probabilities, float), *np.eye(len(classes))[[true, named]]
    support, n_called = of_class.sum(axis=0).astype(int), called.sum(axis=0).astype(int)
    here = support > 0

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        hits, n_true, n_named = weights @ (of_class * called), weights @ of_class, weights @ called
        ranked = [weighted_auroc(true == label, chances[:, label], weights) for label in range(len(classes))]
        return {
            "precision": np.where(here | (n_called > 0), hits / np.maximum(n_named, 1), np.nan),
            "recall": np.where(here, hits / np.maximum(n_true, 1), np.nan),
            "f1": np.where(here, 2 * hits / np.maximum(n_named + n_true, 1), np.nan),
            "auroc": np.column_stack(ranked),
        }

    values = {name: once[0] for name, once in statistics(np.ones((1, true.size))).items()}
    draws = bootstrap(statistics, true, n=n_bootstrap, seed=seed)
    by_class = pd.DataFrame({"class": list(classes), "n": support, "n_predicted": n_called})
    for name, each in values.items():
        ends = [percentile_interval(draw) for draw in draws[name].T]
        if name in ("precision", "recall"):
            counts = n_called if name == "precision" else support
            ends = [wilson_interval(share, int(n)) for share, n in zip(each, counts, strict=True)]
        by_class[[name, f"{name}_low", f"{name}_high"]] = np.column_stack([each, ends])

    means = {"accuracy": float((true == named).mean())} | {name: each[here].mean() for name, each in values.items()}
    macro = {name: draw[:, here].mean(axis=1) for name, draw in draws.items()}
    intervals = interval_table(means, macro, {"accuracy": true.size}).assign(n=true.size)
    reliability = reliability_table(chances[np.arange(true.size), named], true == named)
    gaps = reliability["n"] * (reliability["accuracy"] - reliability["confidence"]).abs()
    overall = {"n": true.size, "n_classes": int(here.sum()), **means, "ece": float(gaps.sum() / true.size)}
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
    values, hits, edges = np.asarray(confidence, float), np.asarray(right, bool), np.linspace(0, 1, N_BINS + 1)
    place, rows = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, N_BINS - 1), []
    for number, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        inside = place == number
        row = {"low": low, "high": high, "n": int(inside.sum())}
        row["confidence"] = values[inside].mean() if inside.any() else np.nan
        rows.append(row | share_columns("accuracy", hits[inside]))
    return pd.DataFrame(rows)


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
    thresholds: Mapping[str, Threshold], val: Mapping[str, ArrayLike], test: Mapping[str, ArrayLike]
) -> pd.DataFrame:
    """The share of known photos that each rule (tau, kappa, both) accepts, beside what was promised.

    ``val`` and ``test``: the values (N,) that each threshold looks at. Of m new photos the number that is accepted
    follows, over draws of val and test, a beta-binomial distribution (m; k, n + 1 - k): ``expected_low`` and
    ``expected_high`` on test, and ``as_promised``: not below. They are missing where nothing exact can be said: on val
    and for both rules together, whose ``promised`` is what Bonferroni leaves.
    """
    from scipy.stats import betabinom

    rows = []
    for used in {(name,): None for name in thresholds} | {tuple(thresholds): None}:
        for split, values in (("val", val), ("test", test)):
            accepted = ~np.any([thresholds[name].exceeds(values[name]) for name in used], axis=0)
            row = {"rule": " and ".join(used), "split": split, "n": accepted.size, "accepted": int(accepted.sum())}
            row |= share_columns("share", accepted)
            row["promised"] = max(0.0, 1 - sum(1 - thresholds[name].guaranteed for name in used))
            row |= {"expected_low": np.nan, "expected_high": np.nan, "as_promised": pd.NA}
            if split == "test" and len(used) == 1 and accepted.size:
                limit = thresholds[used[0]]
                drawn = betabinom(accepted.size, limit.rank, limit.n_normal + 1 - limit.rank)
                low, high = drawn.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2]) / accepted.size
                row |= {"expected_low": low, "expected_high": high, "as_promised": bool(row["share"] >= low)}
            rows.append(row)
    return pd.DataFrame(rows).astype({"as_promised": "boolean"})


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
    counted = ~known | right

    def oscr(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        # the share of pairs whose known photo is right and scores lower
        share = weights[:, known & right].sum(axis=1) / max(1, known.sum())
        ranked = weighted_auroc(~known[counted], values[counted], weights[:, counted])
        return {"oscr": np.where(share > 0, share * ranked, 0.0 if 0 < known.sum() < known.size else np.nan)}

    fpr, ccr = oscr_curve(values[known], right[known], values[~known])
    ranking, area = image_metrics(known, -values), float(oscr(np.ones((1, values.size)))["oscr"][0])
    figures = {"auroc": ranking["image_auroc"], "fpr_at_95_tpr": ranking["fpr_at_95_recall"], "oscr": area}
    resampled = image_draws(known, -values, None, n=n_bootstrap, seed=seed)
    draws = {"auroc": resampled["image_auroc"], "fpr_at_95_tpr": resampled["fpr_at_95_recall"]}
    draws |= bootstrap(oscr, known, n=n_bootstrap, seed=seed)
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
    numbers = {"oscr": area, "n_known": known.sum(), "n_unknown": (~known).sum()}
    curves = {"fpr": fpr, "ccr": ccr} | {name: np.asarray(number) for name, number in numbers.items()}
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
