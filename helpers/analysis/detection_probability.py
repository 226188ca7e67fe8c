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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit
from scipy.stats import chi2, norm

from helpers.analysis.comparison import recall_by_size, size_edges, size_groups
from helpers.thresholds import percent

CONFIDENCE = 0.95
MIN_DEFECTS, MIN_PHOTOS, MIN_SIZES = 20, 10, 5  # fewer hold no curve
RECOMMENDED_DEFECTS = 60  # what the handbook asks for in a hit/miss study
POD_NUMBERS = ("a50", "a90", "a90_95", "fit_p", "warning")
POD_COLUMNS = ("model", "unit", "measure", "n", "n_hits", "n_photos", *POD_NUMBERS, "refused")

_ROOT = float(norm.ppf(CONFIDENCE))  # signed root of the likelihood ratio at a one-sided bound
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

    @property
    def n(self) -> int:
        return len(self.sizes)

    @property
    def n_hits(self) -> int:
        return int(self.detected.sum())

    def pod(self, sizes: ArrayLike) -> np.ndarray:
        """Probability of detection, in (0, 1), at sizes above 0."""
        return expit(self.intercept + self.slope * np.log(np.asarray(sizes, dtype=float)))

    @cached_property
    def logs(self) -> np.ndarray:
        return np.log(self.sizes)

    @cached_property
    def a50(self) -> float:
        return self._tested(-self.intercept / self.slope)

    @cached_property
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
        n_groups, statistic = int(np.clip(self.n // 10, 3, 10)), 0.0
        pod = expit(self.intercept + self.slope * self.logs)
        for group in np.array_split(np.argsort(self.sizes, kind="stable"), n_groups):
            expected, mean = pod[group].sum(), pod[group].mean()
            statistic += (self.detected[group].sum() - expected) ** 2 / max(expected * (1 - mean), 1e-12)
        return float(chi2.sf(statistic, n_groups - 2))

    @property
    def warning(self) -> str:
        warnings = []
        if self.n < RECOMMENDED_DEFECTS:
            warnings.append(f"{self.n} defects; the handbook asks for {RECOMMENDED_DEFECTS} at least.")
        if self.n_photos < self.n:
            warnings.append(
                f"{self.n} defects on {self.n_photos} photos are taken as independent; the true bounds are wider."
            )
        for name in ("a50", "a90", "a90_95"):
            if np.isinf(size := getattr(self, name)):
                span = f"({self.sizes.min():.3g} to {self.sizes.max():.3g} {self.unit})"
                warnings.append(f"{name.replace('_', '/')} is {size_words(size)} {span}.")
        if self.fit_p < 0.05:
            p = f"Hosmer-Lemeshow p = {self.fit_p:.2g}"
            warnings.append(f"The curve does not describe the data well ({p}); see the bins.")
        return " ".join(warnings)

    def bounds_at(self, log_size: float) -> tuple[float, float]:
        """Lower and upper bound of the POD at a size."""
        middle = self.intercept + self.slope * log_size

        def beyond(target: float) -> float:
            return np.sign(middle - target) * self._root(log_size, target) - _ROOT

        ends = (brentq(beyond, middle, _step_out(beyond, middle, step), xtol=1e-6) for step in (-0.5, 0.5))
        low, high = (float(expit(end)) for end in ends)
        return low, high

    def _root(self, log_size: float, target: float) -> float:
        """r* of the hypothesis logit POD(size) = target; above 0 where the fitted curve is higher.

        logit POD(size) and the slope are both canonical parameters, so q needs the information of both at the likeliest
        curve, and that of the slope at the likeliest curve through the target.
        """
        distance = self.logs - log_size
        scale = np.abs(distance).max()  # the slope's unit shrinks as the size goes far from the data
        # the likeliest slope through the target: the score falls in it, and hits and misses overlap in size
        unit = distance / scale
        slope = brentq(lambda each: unit @ (self.detected - expit(target + each * unit)), -1e4, 1e4)
        through = _log_likelihood(target + slope * unit, self.detected)
        logits = self.intercept + self.slope * self.logs
        above = self.intercept + self.slope * log_size - target
        r = np.sign(above) * np.sqrt(max(2 * (_log_likelihood(logits, self.detected) - through), 0.0))
        if abs(r) < 0.01:
            return float(r)  # 0 / 0; bounds lie far from here
        design = np.column_stack([np.ones(len(distance)), distance])
        full = (design * _variance(logits)[:, None]).T @ design
        of_slope = _variance(target + slope * unit) @ distance**2
        return float(r + np.log(above * np.sqrt(np.linalg.det(full) / of_slope) / r) / r)


def fit_pod(defects: pd.DataFrame) -> PodFit:
    """Fit a POD curve to defects: ``size``, ``detected``, ``unit``, ``measure``, ``image_path``.

    Raises `PodRefusedError` for too few defects, photos or sizes, and where hits and misses hold no such curve.
    """
    sizes, detected = defects["size"].to_numpy(dtype=float), defects["detected"].to_numpy(dtype=bool)
    words = {name: str(defects[name].iloc[0]) if len(defects) else "" for name in ("unit", "measure")}
    n, n_hits = len(sizes), int(detected.sum())
    n_photos = defects["image_path"].nunique()
    _refuse_what_holds_no_curve(sizes, detected, words["unit"], n_photos)
    # Centred and scaled, so that the steps are well conditioned for any unit.
    logs = np.log(sizes)
    centre, scale = logs.mean(), logs.std()
    x = (logs - centre) / scale
    beta, best = _maximise(x, detected)
    if beta[1] <= 0:
        raise PodRefusedError(
            f"Larger defects are found less often than smaller ones (slope {beta[1] / scale:.2g} on ln size, n = {n}): "
            "size is not what decides detection here. Look at the missed defects by type."
        )
    share = n_hits / n
    if 2 * (best - n * (share * np.log(share) + (1 - share) * np.log1p(-share))) <= _ROOT**2:
        raise PodRefusedError(
            f"Detection does not clearly grow with size: one rate for all sizes, {n_hits} of {n} found, describes hits "
            "and misses nearly as well, so a90/95 has no upper end. Test more defects, or look at the missed ones by "
            "type: size may not be what decides."
        )
    _refuse_floor_and_ceiling(x, detected, beta, best)
    slope, intercept = float(beta[1] / scale), float(beta[0] - beta[1] * centre / scale)
    return PodFit(intercept, slope, **words, n_photos=n_photos, sizes=sizes, detected=detected)


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
    bins["agrees"] = bins["expected"].between(bins["low"], bins["high"])
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
            row |= {name: getattr(fit, name) for name in POD_NUMBERS}
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


# ------------------------------------------------------------------------------------------------------------ refusals


def _refuse_what_holds_no_curve(sizes: np.ndarray, detected: np.ndarray, unit: str, n_photos: int) -> None:
    n, n_hits, n_sizes = len(sizes), int(detected.sum()), len(np.unique(sizes))
    if n < MIN_DEFECTS or n_sizes < MIN_SIZES or n_photos < MIN_PHOTOS:
        raise PodRefusedError(
            f"{n} defects of {n_sizes} sizes on {n_photos} photos are too few: a curve needs {MIN_DEFECTS} defects of "
            f"{MIN_SIZES} sizes on {MIN_PHOTOS} photos at least, and the handbook asks for {RECOMMENDED_DEFECTS}. Test "
            "more."
        )
    span = f"from {sizes.min():.3g} to {sizes.max():.3g} {unit}"
    one_sided = (1 - CONFIDENCE) ** (1 / n)  # exact (Clopper and Pearson) for n of n
    if n_hits == n:
        raise PodRefusedError(
            f"All {n} defects {span} are found: where detection fails is unknown. Over these sizes the share found is "
            f"at least {percent(one_sided)} with 95 % confidence. Test smaller defects."
        )
    if n_hits == 0:
        raise PodRefusedError(
            f"All {n} defects {span} are missed: where detection begins is unknown. Over these sizes the share found "
            f"is at most {percent(1 - one_sided)} with 95 % confidence. Test larger defects, or look at the threshold."
        )
    hits, misses = sizes[detected], sizes[~detected]
    if hits.max() <= misses.min():
        raise PodRefusedError(
            f"No missed defect is smaller than a found one (found up to {hits.max():.3g}, missed from "
            f"{misses.min():.3g} {unit}): larger defects are the missed ones, and size is not what decides detection."
        )
    if misses.max() <= hits.min():
        raise PodRefusedError(
            f"Hits and misses do not overlap in size: nothing below {hits.min():.3g} {unit} is found and nothing above "
            f"{misses.max():.3g} {unit} is missed, so no curve is the most likely one. a50 lies about there; test more "
            "defects of such sizes."
        )


def _refuse_floor_and_ceiling(x: np.ndarray, detected: np.ndarray, beta: np.ndarray, best: float) -> None:
    """Refuses where POD = floor + (ceiling - floor) expit(b0 + b1 x) is clearly likelier, at the 1 % level."""

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        b0, b1, floor, ceiling = values
        p = expit(b0 + b1 * x)
        pod = np.clip(floor + (ceiling - floor) * p, 1e-12, 1 - 1e-12)
        pull = np.where(detected, 1 / pod, -1 / (1 - pod))
        bend = pull * (ceiling - floor) * p * (1 - p)
        gradient = [bend.sum(), (bend * x).sum(), (pull * (1 - p)).sum(), (pull * p).sum()]
        return -float(np.log(np.where(detected, pod, 1 - pod)).sum()), -np.array(gradient)

    limits = [(None, None), (1e-3, 200), (0, 0.95), (0.05, 1)]
    starts = [[*(3 * beta), 0.05, 0.95], [*(10 * beta), 0.15, 0.85]]  # such a curve is steeper than one from 0 to 1
    found = min((minimize(loss, start, jac=True, bounds=limits) for start in starts), key=lambda each: each.fun)
    floor, ceiling = found.x[2:]
    if 2 * (-found.fun - best) > _FLOOR_RATIO:
        raise PodRefusedError(
            f"The share found does not run from 0 to 1 with size: about {percent(floor)} of the smallest and "
            f"{percent(ceiling)} of the largest defects are found, whatever their size, and MIL-HDBK-1823A's curve "
            "describes no such data. Look at the small ones that are found and the large ones that are missed."
        )


# ---------------------------------------------------------------------------------------------------------- likelihood


def _log_likelihood(logits: np.ndarray, detected: np.ndarray) -> float:
    return float(-np.logaddexp(0, np.where(detected, -logits, logits)).sum())


def _maximise(x: np.ndarray, detected: np.ndarray) -> tuple[np.ndarray, float]:
    """Top of the concave log-likelihood of logit p = beta[0] + beta[1] x: (beta, its value)."""
    design = np.column_stack([np.ones(len(x)), x])
    found = minimize(
        lambda beta: -_log_likelihood(design @ beta, detected),
        np.zeros(2),
        jac=lambda beta: design.T @ (expit(design @ beta) - detected),
        hess=lambda beta: (design * _variance(design @ beta)[:, None]).T @ design,
        method="trust-exact",
        options={"gtol": 1e-9},
    )
    return found.x, -float(found.fun)


def _variance(logits: np.ndarray) -> np.ndarray:
    return expit(logits) * expit(-logits)


def _step_out(function: Callable[[float], float], start: float, step: float) -> float:
    """A place beyond start, by growing steps, where the function is above 0."""
    place = start + step
    while function(place) <= 0:
        step *= 2
        place += step
    return place
