"""Open-set recognition in numbers: thresholds on held-out known photos, what they accept, what stays undetected.

Known photos are those of classes that the classifier was trained on; all others are unknown. Scores are oriented so
that larger is more unknown (:mod:`helpers.models.open_set`). Where one class must be called positive it is the known
one, as in the literature on out-of-distribution detection: a true positive is a known photo that is accepted, a false
positive an unknown one that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from helpers.analysis.classes import UNKNOWN, confusion_table
from helpers.analysis.intervals import bootstrap, counts_by_score, percentile_interval, wilson_interval
from helpers.analysis.metrics import image_intervals, image_metrics
from helpers.models.open_set import decide
from helpers.thresholds import Threshold, conformal_threshold

_RANKING = {"image_auroc": "auroc", "fpr_at_95_recall": "fpr_at_95_tpr"}  # with the known photos as positives


# ------------------------------------------------------------------------------------------------------- thresholds


def open_set_thresholds(
    val_scores: ArrayLike,
    val_confidence: ArrayLike | None = None,
    accept: float = 0.95,
    *,
    use_confidence: bool = True,
) -> dict[str, Threshold]:
    """Sets tau and kappa on held-out photos of known classes.

    By :func:`helpers.thresholds.conformal_threshold` each of the two accepts a share ``accept`` by itself.
    Photos that pass both are fewer: at least 2 accept - 1 (90 % for 95 %; the bound of Bonferroni), and as many as
    ``accept`` only where both reject the same photos. What both accept together is reported by `accepted_shares`; set
    ``accept`` to (1 + share) / 2 for a share of both together.

    Args:
        val_scores: (N,) finite scores of val photos of known classes, larger is more unknown.
        val_confidence: (N,) probability of the predicted class of the same photos.
        accept: in (0, 1).
        use_confidence: False switches kappa off.

    Returns:
        ``tau`` (accepted is a score of at most it) and, unless it is off, ``kappa`` (accepted is a confidence of at
        least it); with too few photos for ``accept`` each says in ``warning`` what it can promise.

    Raises:
        ValueError: Naming the parameter at fault.
    """
    thresholds = {"tau": conformal_threshold(val_scores, accept, population="known")}
    if use_confidence:
        if val_confidence is None:
            raise ValueError("val_confidence is missing; give it, or switch kappa off with use_confidence=False.")
        if np.shape(val_confidence) != np.shape(val_scores):
            raise ValueError(
                f"val_scores {np.shape(val_scores)} and val_confidence {np.shape(val_confidence)} must have one length."
            )
        thresholds["kappa"] = conformal_threshold(val_confidence, accept, population="known", below=True)
    return thresholds


def accepted_shares(
    thresholds: Mapping[str, Threshold],
    val_scores: ArrayLike,
    test_scores: ArrayLike,
    val_confidence: ArrayLike | None = None,
    test_confidence: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> pd.DataFrame:
    """The share of known photos that is accepted, on val and on test, beside what was promised.

    On val, where the thresholds were set, the share only shows that they were set rightly. Of m new photos the number
    that is accepted follows, over draws of val and test, a beta-binomial distribution (m; k, n + 1 - k): that is the
    error of the test and that of the threshold together.

    Args:
        thresholds: from `open_set_thresholds`; ``kappa`` may be missing.
        val_scores: (N,) of val photos of known classes.
        test_scores: (M,) of test photos of known classes.
        val_confidence: (N,); needed where there is a kappa.
        test_confidence: (M,) likewise.
        level: of the intervals.

    Returns:
        Rows ``tau``, ``kappa`` and ``tau and kappa`` (``rule``) on val and on test (``split``): ``n``, ``accepted``,
        ``share`` with its Wilson interval ``low``, ``high``; ``asked``; ``promised``, the least share to expect (of
        both rules: what Bonferroni leaves); on test ``expected_low``, ``expected_high``, the central interval of the
        share that is accepted if val and test are alike, and ``as_promised``: not below it. These are missing where
        nothing exact can be said: on val, for both rules together, and for a threshold that promises nothing.
    """
    tau, kappa = thresholds["tau"], thresholds.get("kappa")
    rules: dict[str, tuple[Threshold | None, Threshold | None]] = {"tau": (tau, None)}
    if kappa is not None:
        rules |= {"kappa": (None, kappa), "tau and kappa": (tau, kappa)}
    rows = []
    for rule, (score_limit, confidence_limit) in rules.items():
        used = [limit for limit in (score_limit, confidence_limit) if limit is not None]
        for split, scores, confidence in (
            ("val", val_scores, val_confidence),
            ("test", test_scores, test_confidence),
        ):
            accepted = ~decide(scores, confidence, score_limit, confidence_limit)
            n, share = accepted.size, float(accepted.mean()) if accepted.size else np.nan
            low, high = wilson_interval(share, n, level)
            row: dict[str, Any] = {"rule": rule, "split": split, "n": n, "accepted": int(accepted.sum())}
            row |= {"share": share, "low": low, "high": high}
            row |= {"asked": _together([each.accept for each in used])}
            row |= {"promised": _together([each.guaranteed for each in used])}
            row |= _expected(used[0], n, share, level) if split == "test" and len(used) == 1 else _NOTHING_EXPECTED
            rows.append(row)
    return pd.DataFrame(rows).astype({"as_promised": "boolean"})


_NOTHING_EXPECTED = {"expected_low": np.nan, "expected_high": np.nan, "as_promised": None}


def _together(shares: Sequence[float | None]) -> float:
    """What is left of shares that are accepted, in the worst case: the rejected ones add up (Bonferroni)."""
    if any(share is None for share in shares):
        return np.nan
    return max(0.0, 1.0 - sum(1.0 - share for share in shares if share is not None))


def _expected(threshold: Threshold, n: int, share: float, level: float) -> dict[str, Any]:
    from scipy.stats import betabinom

    if threshold.rank is None or not n:
        return _NOTHING_EXPECTED
    drawn = betabinom(n, threshold.rank, threshold.n_normal + 1 - threshold.rank)
    low, high = (float(drawn.ppf(end)) / n for end in ((1 - level) / 2, (1 + level) / 2))
    return {"expected_low": low, "expected_high": high, "as_promised": bool(share >= low)}


# ------------------------------------------------------------------------------------------------------- evaluation


def oscr_curve(
    known_scores: ArrayLike, known_right: ArrayLike, unknown_scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The open-set classification rate curve of Dhamija et al. 2018, "Reducing network agnostophobia" (section 4).

    Photos with a score of at most t are accepted, t running over all scores. (The paper accepts known photos strictly
    below t; with ties that would count them against the method.) The area under the curve is
    ``sklearn.metrics.auc(fpr, ccr)``: at most the closed-set accuracy.

    Args:
        known_scores: (N,) of photos of known classes, larger is more unknown.
        known_right: (N,) bool, whether the classifier names the photo's class rightly.
        unknown_scores: (M,).

    Returns:
        ``fpr``, share of unknown photos that is accepted, and ``ccr``, share of known photos that is accepted and
        named rightly; both rise from 0 as t rises. Empty where there is no known or no unknown photo.
    """
    known, unknown = np.asarray(known_scores, np.float64), np.asarray(unknown_scores, np.float64)
    right = np.asarray(known_right).astype(bool)
    if not known.size or not unknown.size:
        return np.empty(0), np.empty(0)
    limits = np.unique(np.concatenate([known, unknown]))
    ccr = np.searchsorted(np.sort(known[right]), limits, side="right") / known.size
    fpr = np.searchsorted(np.sort(unknown), limits, side="right") / unknown.size
    return np.r_[0.0, fpr], np.r_[0.0, ccr]


@dataclass(frozen=True)
class OpenSetReport:
    """What is known about one way of recognising the unknown, on test.

    Attributes:
        overall: ``n_known``, ``n_unknown``; ``auroc`` (known against unknown), ``fpr_at_95_tpr`` (share of unknown
            photos accepted by the lowest limit that accepts 95 % of the known test photos), ``oscr`` (area under
            `oscr_curve`); ``closed_set_accuracy`` (known photos, nothing rejected); with the rejections
            ``known_accepted``, ``known_right`` (accepted and named rightly), ``unknown_detected`` and
            ``open_set_accuracy`` (right verdicts of all photos: it depends on the share of unknown photos in test).
        intervals: index ``metric``; ``value``, ``low``, ``high``, ``level``, ``n`` (photos that the figure is over),
            ``method``: "bootstrap" (photos resampled, known and unknown apart), "wilson", or "" where it is NaN.
        by_class: a row a class, known ones first: ``class``, ``known``, ``n``, ``rejected`` (share called unknown),
            ``right`` (share of right verdicts) with ``right_low``, ``right_high`` (Wilson), and for unknown classes
            ``auroc`` against all known photos.
        confusion: photos; rows are the true classes (unknown ones by their names), columns the known classes and
            ``unknown``.
        curves: ``fpr``, ``ccr`` of `oscr_curve`, and ``oscr``, ``n_known``, ``n_unknown`` as 0-d arrays.
    """

    overall: dict[str, float]
    intervals: pd.DataFrame
    by_class: pd.DataFrame
    confusion: pd.DataFrame
    curves: dict[str, NDArray[np.float64]] = field(repr=False)


def open_set_report(
    truth: Sequence[str] | NDArray[Any],
    predicted: Sequence[str] | NDArray[Any],
    scores: ArrayLike,
    rejected: ArrayLike,
    classes: Sequence[str],
    *,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> OpenSetReport:
    """Evaluates scores and rejections of test photos, however they came about.

    Args:
        truth: (N,) names of the true classes; a name not in ``classes`` is an unknown class.
        predicted: (N,) names among ``classes``: what the classifier would say if nothing were rejected.
        scores: (N,) finite, larger is more unknown.
        rejected: (N,) bool, whether the photo is called unknown (:func:`helpers.models.open_set.decide`).
        classes: the known classes.
        n_bootstrap: resamples, 1 or more.
        level: of the intervals.
        seed: of the resamples.

    Raises:
        ValueError: When lengths differ, there is no photo, a prediction is no known class or a score not finite.
    """
    names, said = np.asarray(truth, dtype=object), np.asarray(predicted, dtype=object)
    values, away = np.asarray(scores, dtype=np.float64), np.asarray(rejected).astype(bool)
    for name, array in (("predicted", said), ("scores", values), ("rejected", away)):
        if array.shape != names.shape:
            raise ValueError(f"{name} has {array.size} entries, but truth has {names.size}; give one a photo.")
    if not names.size:
        raise ValueError("truth is empty: there is no photo to evaluate.")
    strange = sorted({str(name) for name in said} - set(classes))
    if strange:
        raise ValueError(f"predicted holds no known class: {', '.join(strange)}; known: {', '.join(classes)}.")
    known = np.isin(names.astype(str), list(classes))
    right = names == said
    verdict = np.where(known, right & ~away, away)

    numbers = image_metrics(known, -values)
    overall: dict[str, float] = {"n_known": int(known.sum()), "n_unknown": int((~known).sum())}
    overall |= {ours: numbers[name] for name, ours in _RANKING.items()}
    fpr, ccr = oscr_curve(values[known], right[known], values[~known])
    overall["oscr"] = float(np.trapezoid(ccr, fpr)) if fpr.size else np.nan
    rates = {
        "closed_set_accuracy": right[known],
        "known_accepted": ~away[known],
        "known_right": verdict[known],
        "unknown_detected": verdict[~known],
        "open_set_accuracy": verdict,
    }
    overall |= {name: float(photos.mean()) if photos.size else np.nan for name, photos in rates.items()}
    curves = {"fpr": fpr, "ccr": ccr}
    curves |= {name: np.asarray(overall[name]) for name in ("oscr", "n_known", "n_unknown")}

    table = image_intervals(known, -values, n=n_bootstrap, level=level, seed=seed)
    rows = []
    for name, ours in _RANKING.items():
        rows.append({"metric": ours, **table.loc[name, ["value", "low", "high", "method"]], "n": values.size})
    draws = _oscr_draws(values, known, right, n_bootstrap, seed)
    low, high = percentile_interval(draws, level)
    method = "bootstrap" if draws.size else ""
    rows.append(
        {"metric": "oscr", "value": overall["oscr"], "low": low, "high": high, "method": method, "n": values.size}
    )
    for name, photos in rates.items():
        low, high = wilson_interval(overall[name], photos.size, level)
        row = {"metric": name, "value": overall[name], "low": low, "high": high, "n": photos.size}
        rows.append(row | {"method": "wilson" if photos.size else ""})
    columns = ["metric", "value", "low", "high", "level", "n", "method"]
    intervals = pd.DataFrame([row | {"level": level} for row in rows], columns=columns).set_index("metric")

    final = np.where(away, UNKNOWN, said)
    order = [*classes, *sorted({str(name) for name in names[~known]})]
    return OpenSetReport(
        overall=overall,
        intervals=intervals,
        by_class=_by_class(names, values, known, away, verdict, order, level),
        confusion=confusion_table(names, final, classes, rows=order, unknown=True),
        curves=curves,
    )


def _by_class(
    names: NDArray[Any],
    values: NDArray[np.float64],
    known: NDArray[np.bool_],
    away: NDArray[np.bool_],
    verdict: NDArray[np.bool_],
    order: Sequence[str],
    level: float,
) -> pd.DataFrame:
    rows = []
    for name in order:
        chosen = names == name
        n = int(chosen.sum())
        is_known = bool(known[chosen].any()) if n else True  # an unknown class is one that some photo is of
        share = float(verdict[chosen].mean()) if n else np.nan
        low, high = wilson_interval(share, n, level)
        auroc = np.nan
        if not is_known:
            pair = chosen | known
            auroc = image_metrics(chosen[pair], values[pair])["image_auroc"]
        rejected = float(away[chosen].mean()) if n else np.nan
        rows.append((name, is_known, n, rejected, share, low, high, auroc))
    return pd.DataFrame(rows, columns=["class", "known", "n", "rejected", "right", "right_low", "right_high", "auroc"])


def _oscr_draws(
    values: NDArray[np.float64], known: NDArray[np.bool_], right: NDArray[np.bool_], n: int, seed: int
) -> NDArray[np.float64]:
    """OSCR of resampled photos, known and unknown ones resampled apart; empty where there is none of one kind."""
    if known.all() or not known.any():
        return np.empty(0)

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        named, unknown = (counts_by_score(-values, weights * side) for side in (known & right, ~known))
        # the trapezoid: right ones below an unknown photo count, those level with it by half
        return {"oscr": (unknown * (named.cumsum(axis=1) - 0.5 * named)).sum(axis=1) / (known.sum() * (~known).sum())}

    return bootstrap(statistics, known, n=n, seed=seed)["oscr"]


def embedding_plane(
    train_embeddings: ArrayLike, embeddings: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Projects embeddings on the two directions in which those of train vary most (PCA); for a figure only.

    Args:
        train_embeddings: (N, D), N and D at least 2.
        embeddings: (M, D).

    Returns:
        Coordinates (M, 2), and the two shares of train's variance that the directions hold (2,).

    Raises:
        ValueError: When the widths differ.
    """
    from sklearn.decomposition import PCA

    train, photos = np.asarray(train_embeddings, np.float64), np.asarray(embeddings, np.float64)
    if train.shape[1] != photos.shape[1]:
        raise ValueError(f"train_embeddings are {train.shape[1]} wide, embeddings {photos.shape[1]}.")
    plane = PCA(2, svd_solver="full").fit(train)
    return plane.transform(photos), plane.explained_variance_ratio_
