"""Probability of detection (POD) against defect size, from hits and misses, as non-destructive testing asks for it.

After MIL-HDBK-1823A (2009), "Nondestructive evaluation system reliability assessment", hit/miss analysis: a logistic
curve in the logarithm of the size is fitted by maximum likelihood, logit POD(a) = intercept + slope * ln(a). a90 is
found with probability 0.9; a90/95 is the size of which one can be 95 % confident that at least 90 % are found. Bounds
are one-sided at 95 % and hold at one size at a time. They come from the likelihood ratio profiled over the slope. Its
signed root r alone covers 91 to 94 % with few defects, so it is corrected to r* = r + ln(q / r) / r (Barndorff-Nielsen
1986; q for canonical parameters as in Davison, "Statistical models", 2003, section 12.3): of 3,000 simulated studies
each with 30, 60 and 120 defects and slopes 2 to 4, a90/95 lay above the true a90 in 94.4 to 97.6 %.
`python tests/test_detection_probability.py` draws them again.

Sizes outside those that were tested are not given, nor a curve where the share found does not run from 0 to 1. A curve
speaks of the kinds and sizes in the test set, and belongs beside the false-alarm rate at the same threshold. Defects
are taken as independent; several on one photo or part make the true bounds wider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit
from scipy.stats import chi2, norm
from sklearn.linear_model import LogisticRegression

from helpers.analysis.comparison import recall_by_size, size_edges, size_groups
from helpers.thresholds import percent

MIN_DEFECTS, MIN_PHOTOS, MIN_SIZES = 20, 10, 5  # fewer hold no curve
RECOMMENDED_DEFECTS = 60  # what the handbook asks for in a hit/miss study
POD_SIZES = ("a50", "a90", "a90_95")
POD_COLUMNS = ("model", "unit", "measure", "n", "n_hits", "n_photos", *POD_SIZES, "fit_p", "warning", "refused")

_ROOT = float(norm.ppf(0.95))  # signed root of the likelihood ratio at a one-sided bound
_LOGIT_90 = float(logit(0.9))
_FLOOR_RATIO = float(chi2.ppf(0.99, 2))  # rise of twice the log-likelihood by a floor and a ceiling


class PodRefusedError(ValueError):
    """These hits and misses hold no POD curve; the message says why and what would help."""


@dataclass(frozen=True, eq=False)
class PodFit:
    """logit POD(a) = intercept + slope ln(a), the likeliest curve through hits and misses.

    ``a50``, ``a90``, ``a90_95``: infinite where tested sizes do not reach them, minus infinity where all are larger.
    """

    intercept: float
    slope: float
    unit: str
    measure: str
    n_photos: int
    sizes: np.ndarray = field(repr=False)
    detected: np.ndarray = field(repr=False)

    @cached_property
    def logs(self) -> np.ndarray:
        return np.log(self.sizes)

    def pod(self, sizes: ArrayLike) -> np.ndarray:
        """Probability of detection, in (0, 1), at sizes above 0."""
        return expit(self.intercept + self.slope * np.log(np.asarray(sizes, dtype=float)))

    @property
    def a50(self) -> float:
        return self._tested(-self.intercept / self.slope)

    @property
    def a90(self) -> float:
        return self._tested((_LOGIT_90 - self.intercept) / self.slope)

    @cached_property
    def a90_95(self) -> float:
        """The largest size at which the POD may still be 0.9."""
        start, end = (_LOGIT_90 - self.intercept) / self.slope, self.logs.max()
        if start >= end or self._root(end, _LOGIT_90) <= _ROOT:
            return float("inf")
        return self._tested(brentq(lambda size: self._root(size, _LOGIT_90) - _ROOT, start, end, xtol=1e-8))

    def _tested(self, log_size: float) -> float:
        if self.logs.min() <= log_size <= self.logs.max():
            return float(np.exp(log_size))
        return float("inf") if log_size > self.logs.max() else float("-inf")

    @cached_property
    def fit_p(self) -> float:
        """p of Hosmer and Lemeshow's test (1980); small: the curve does not describe the data.

        Groups are of equal counts by size, ten of them, or fewer so that each has ten defects.
        """
        n_groups, statistic, pod = int(np.clip(len(self.sizes) // 10, 3, 10)), 0.0, self.pod(self.sizes)
        for group in np.array_split(np.argsort(self.sizes, kind="stable"), n_groups):
            expected, mean = pod[group].sum(), pod[group].mean()
            statistic += (self.detected[group].sum() - expected) ** 2 / max(expected * (1 - mean), 1e-12)
        return float(chi2.sf(statistic, n_groups - 2))

    @property
    def warning(self) -> str:
        n, words = len(self.sizes), []
        if n < RECOMMENDED_DEFECTS:
            words.append(f"{n} defects; the handbook asks for {RECOMMENDED_DEFECTS} at least.")
        if self.n_photos < n:
            words.append(f"{n} defects on {self.n_photos} photos are taken as independent; the true bounds are wider.")
        for name in POD_SIZES:
            if np.isinf(size := getattr(self, name)):
                span = f"({self.sizes.min():.3g} to {self.sizes.max():.3g} {self.unit})"
                words.append(f"{name.replace('_', '/')} is {size_words(size)} {span}.")
        if self.fit_p < 0.05:
            p = f"Hosmer-Lemeshow p = {self.fit_p:.2g}"
            words.append(f"The curve does not describe the data well ({p}); see the bins.")
        return " ".join(words)

    def bounds_at(self, log_size: float) -> list[float]:
        """Lower and upper bound of the POD at a size."""
        middle = self.intercept + self.slope * log_size
        signs = (1, -1)  # of r* at the lower and at the upper bound
        beyond = [lambda target, sign=sign: sign * self._root(log_size, target) - _ROOT for sign in signs]
        return [float(expit(brentq(f, middle, middle - 60 * s, xtol=1e-9))) for f, s in zip(beyond, signs, strict=True)]

    def _root(self, log_size: float, target: float) -> float:
        """r* of the hypothesis logit POD(size) = target; above 0 where the fitted curve is higher.

        logit POD(size) and the slope are both canonical parameters, so q needs the information of both at the likeliest
        curve, and that of the slope at the likeliest curve through the target.
        """
        distance = self.logs - log_size
        # the likeliest slope through the target: the score falls in it, and hits and misses overlap in size
        unit = distance / np.abs(distance).max()  # the slope's unit shrinks as the size goes far from the data
        slope = brentq(lambda each: unit @ (self.detected - expit(target + each * unit)), -1e4, 1e4)
        held, logits = target + slope * unit, self.intercept + self.slope * self.logs
        above = self.intercept + self.slope * log_size - target
        rise = _log_likelihood(logits, self.detected) - _log_likelihood(held, self.detected)
        r = np.sign(above) * np.sqrt(max(2 * rise, 0.0))
        if abs(r) < 0.01:
            return float(r)  # 0 / 0; bounds lie far from here
        design = np.column_stack([np.ones(len(distance)), distance])
        full, of_slope = (design * _variance(logits)[:, None]).T @ design, _variance(held) @ distance**2
        return float(r + np.log(above * np.sqrt(np.linalg.det(full) / of_slope) / r) / r)


def fit_pod(defects: pd.DataFrame) -> PodFit:
    """Fit a POD curve to defects: ``size``, ``detected``, ``unit``, ``measure``, ``image_path``.

    Raises `PodRefusedError` for too few defects, photos or sizes, and where hits and misses hold no such curve.
    """
    sizes, detected = defects["size"].to_numpy(dtype=float), defects["detected"].to_numpy(dtype=bool)
    n, n_hits, n_photos = len(sizes), int(detected.sum()), defects["image_path"].nunique()
    if n < MIN_DEFECTS or len(np.unique(sizes)) < MIN_SIZES or n_photos < MIN_PHOTOS:
        raise PodRefusedError(
            f"{n} defects of {len(np.unique(sizes))} sizes on {n_photos} photos are too few: a curve needs "
            f"{MIN_DEFECTS} defects of {MIN_SIZES} sizes on {MIN_PHOTOS} photos at least. Test more."
        )
    unit, measure = (str(defects[name].iloc[0]) for name in ("unit", "measure"))
    _refuse_one_kind_or_no_overlap(sizes, detected, unit)
    found = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-9).fit(np.log(sizes)[:, None], detected)
    fit = PodFit(float(found.intercept_[0]), float(found.coef_[0, 0]), unit, measure, n_photos, sizes, detected)
    share, best = n_hits / n, _log_likelihood(fit.intercept + fit.slope * fit.logs, detected)
    if fit.slope <= 0 or 2 * (best - n * (share * np.log(share) + (1 - share) * np.log1p(-share))) <= _ROOT**2:
        raise PodRefusedError(
            f"Detection does not clearly grow with size (slope {fit.slope:.2g} on ln size, {n_hits} of {n} found): "
            "size may not be what decides it. Look at the missed defects by type, or test more."
        )
    _refuse_floor_and_ceiling(fit, best)
    return fit


def pod_curve(fit: PodFit, n: int = 60) -> pd.DataFrame:
    """``size``, ``pod``, ``low`` and ``high`` (each one-sided at 95 %) over the tested sizes, equally spaced in log."""
    sizes = np.geomspace(fit.sizes.min(), fit.sizes.max(), n)
    low, high = np.array([fit.bounds_at(np.log(size)) for size in sizes]).T
    return pd.DataFrame({"size": sizes, "pod": fit.pod(sizes), "low": low, "high": high})


def pod_bins(fit: PodFit, n_bins: int = 6) -> pd.DataFrame:
    """`recall_by_size` in bins of about equally many defects, with the curve's mean (``expected``) and whether it lies
    in the interval (``agrees``); one in twenty is expected not to.
    """
    edges = size_edges(fit.sizes, n_bins)
    bins = recall_by_size(pd.DataFrame({"size": fit.sizes, "detected": fit.detected, "unit": fit.unit}), edges)
    bins["expected"] = pd.Series(fit.pod(fit.sizes)).groupby(size_groups(fit.sizes, edges)).mean()
    bins["agrees"] = bins["expected"].between(bins["recall_low"], bins["recall_high"])
    return bins


def pod_table(defects: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`POD_COLUMNS`, one row a model: the sizes it finds, or why there is no curve (``refused``)."""
    rows = []
    for model, hits in defects.items():
        row: dict[str, Any] = {"model": model, "n": len(hits), "n_hits": int(hits["detected"].sum())}
        row |= {name: hits[name].iloc[0] if len(hits) else "" for name in ("unit", "measure")}
        row |= {"n_photos": hits["image_path"].nunique(), "refused": "", "warning": ""}
        try:
            fit = fit_pod(hits)
            row |= {name: getattr(fit, name) for name in (*POD_SIZES, "fit_p", "warning")}
        except PodRefusedError as error:
            row["refused"] = str(error)
        rows.append(row)
    return pd.DataFrame(rows, columns=list(POD_COLUMNS))


def size_words(size: float, unit: str = "") -> str:
    """A size of `PodFit` or `pod_table` in words, "-" where it was refused."""
    if np.isnan(size):
        return "-"
    if np.isinf(size):
        return "not reached within the tested sizes" if size > 0 else "below the tested sizes"
    return f"{size:.3g} {unit}".rstrip()


def _refuse_one_kind_or_no_overlap(sizes: np.ndarray, detected: np.ndarray, unit: str) -> None:
    n, hits, misses = len(sizes), sizes[detected], sizes[~detected]
    if not len(hits) or not len(misses):
        one_sided = 0.05 ** (1 / n)  # exact (Clopper and Pearson) for n of n
        what, test = f"missed: the share found is at most {percent(1 - one_sided)}", "larger"
        if len(hits):
            what, test = f"found: the share found is at least {percent(one_sided)}", "smaller"
        span = f"from {sizes.min():.3g} to {sizes.max():.3g} {unit}"
        raise PodRefusedError(f"All {n} defects {span} are {what} with 95 % confidence. Test {test} defects.")
    if misses.max() <= hits.min() or hits.max() <= misses.min():
        raise PodRefusedError(
            f"Hits and misses do not overlap in size (found {hits.min():.3g} to {hits.max():.3g}, missed "
            f"{misses.min():.3g} to {misses.max():.3g} {unit}), so no curve is the most likely one. Test more defects "
            "of sizes between; if larger ones are missed, look at them by type."
        )


def _refuse_floor_and_ceiling(fit: PodFit, best: float) -> None:
    """Refuses where POD = floor + (ceiling - floor) expit(b0 + b1 x) is clearly likelier, at the 1 % level."""
    centre, scale = fit.logs.mean(), fit.logs.std()  # so that the steps are well conditioned for any unit
    x, beta = (fit.logs - centre) / scale, np.array([fit.intercept + fit.slope * centre, fit.slope * scale])

    def loss(values: np.ndarray) -> float:
        b0, b1, floor, ceiling = values
        pod = np.clip(floor + (ceiling - floor) * expit(b0 + b1 * x), 1e-12, 1 - 1e-12)
        return -float(np.log(np.where(fit.detected, pod, 1 - pod)).sum())

    limits = [(None, None), (1e-3, 200), (0, 0.95), (0.05, 1)]
    starts = [[*(3 * beta), 0.05, 0.95], [*(10 * beta), 0.15, 0.85]]  # such a curve is steeper than one from 0 to 1
    found = min((minimize(loss, start, bounds=limits) for start in starts), key=lambda each: each.fun)
    floor, ceiling = found.x[2:]
    if 2 * (-found.fun - best) > _FLOOR_RATIO:
        raise PodRefusedError(
            f"The share found does not run from 0 to 1 with size: about {percent(floor)} of the smallest and "
            f"{percent(ceiling)} of the largest defects are found, whatever their size, and MIL-HDBK-1823A's curve "
            "describes no such data. Look at the small ones that are found and the large ones that are missed."
        )


def _log_likelihood(logits: np.ndarray, detected: np.ndarray) -> float:
    return float(-np.logaddexp(0, np.where(detected, -logits, logits)).sum())


def _variance(logits: np.ndarray) -> np.ndarray:
    return expit(logits) * expit(-logits)
