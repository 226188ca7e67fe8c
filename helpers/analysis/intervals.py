"""The one interval of a share (Wilson) and the one bootstrap (photos drawn with replacement within strata)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Statistics = Callable[[NDArray[np.float64]], dict[str, NDArray[np.float64]]]
LEVEL = 0.95  # of every interval
_ELEMENTS_A_CHUNK = 4_000_000  # resamples x photos held at once: 32 MB an array


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share seen in n photos, as every rate here has it; NaN for n = 0."""
    from scipy.stats import binomtest

    if n == 0 or np.isnan(share):
        return np.nan, np.nan
    interval = binomtest(round(share * n), n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def share_interval(hits: ArrayLike) -> tuple[float, float, float]:
    """(share, low, high) of a (N,) bool array; NaN for N = 0."""
    flags = np.asarray(hits, dtype=bool)
    share = float(flags.mean()) if flags.size else np.nan
    return share, *wilson_interval(share, flags.size)


def share_columns(name: str, hits: ArrayLike) -> dict[str, float]:
    """`share_interval` as ``name``, ``name_low`` and ``name_high``."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), share_interval(hits), strict=True))


def bootstrap(
    statistics: Statistics, strata: ArrayLike, *, n: int = 1000, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """(n, ...) draws of each statistic; photos are drawn with replacement within each stratum.

    ``statistics`` makes (B, ...) arrays of (B, N) weights: how often each photo counts. Which photos are drawn depends
    on strata, n and seed alone, so models of the same photos are compared in pairs.
    """
    groups = np.asarray(strata)
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    chunk = max(1, _ELEMENTS_A_CHUNK // max(1, groups.size))
    rng, parts = np.random.default_rng(seed), []
    for start in range(0, n, chunk):
        size = min(chunk, n - start)
        drawn = [each[rng.integers(0, each.size, (size, each.size))] for each in members]
        cells = np.concatenate(drawn or [np.empty((size, 0), int)], axis=1) + np.arange(size)[:, None] * groups.size
        weights = np.bincount(cells.ravel(), minlength=size * groups.size).reshape(size, groups.size)
        parts.append(statistics(weights.astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentile_interval(draws: ArrayLike) -> tuple[float, float]:
    """Percentile interval of bootstrap draws (n,); NaN where there is none or one of them is NaN."""
    values = np.asarray(draws, dtype=np.float64)
    if not values.size or np.isnan(values).any():
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def interval_table(
    values: Mapping[str, float], draws: Mapping[str, NDArray], counts: Mapping[str, int]
) -> pd.DataFrame:
    """Index ``metric``; ``value``, ``low``, ``high``, ``level``, ``method``: "wilson" for a rate that ``counts`` has
    the photos of, "bootstrap" for what there are draws of, "" where there is no interval.
    """
    rows = []
    for name, value in values.items():
        wilson = name in counts
        ends = wilson_interval(value, int(counts[name])) if wilson else percentile_interval(draws.get(name, []))
        rows.append((name, value, *ends, LEVEL, "" if np.isnan(ends[0]) else "wilson" if wilson else "bootstrap"))
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "level", "method"]).set_index("metric")


def weighted_auroc(truth: NDArray[np.bool_], values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray:
    """AUROC (B,) of scores (N,), photo k counted weights[b, k] times; ties count half; NaN with one class only."""
    if truth.all() or not truth.any():
        return np.full(len(weights), np.nan)
    positive, negative = (counts_by_score(values, weights * side) for side in (truth, ~truth))
    wins = (negative * (positive.cumsum(axis=1) - 0.5 * positive)).sum(axis=1)
    with np.errstate(invalid="ignore"):  # a draw that holds one class only
        return wins / (positive.sum(axis=1) * negative.sum(axis=1))


def counts_by_score(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, D) weights (B, N) summed over equal scores, the highest of the D distinct scores first."""
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return np.add.reduceat(weights[:, order], starts, axis=1)
