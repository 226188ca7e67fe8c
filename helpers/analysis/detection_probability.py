"""Probability of detection (POD) against defect size, from hits and misses, as non-destructive testing asks for it.

After MIL-HDBK-1823A (2009), "Nondestructive evaluation system reliability assessment", hit/miss analysis: every known
defect is found or missed, and a logistic curve in the logarithm of its size is fitted by maximum likelihood,

    logit POD(a) = intercept + slope * ln(a).

a50 and a90 are the sizes found with probability 0.5 and 0.9; a90/95 is the size of which one can be 95 % confident that
at least 90 % are found. Bounds are one-sided at 95 % and hold at one size at a time. They come from the likelihood
ratio profiled over the slope. Its signed root r alone covers 91 to 94 % with few defects, so it is corrected to
r* = r + ln(q / r) / r (Barndorff-Nielsen 1986; q for canonical parameters as in Davison, "Statistical models", 2003,
section 12.3); the lower bound of the curve crosses 0.9 at a90/95. Of 3,000 studies each, simulated
with 30, 60 and 120 defects of a curve of slope 3, a90/95 lay above the true a90 in 96.1, 94.7 and 94.9 % (slope 2:
94.4, 94.5, 94.9; slope 4: 97.6, 95.6, 95.3, since what few defects of a steep curve often give, no overlap of hits and
misses, is refused). `python tests/test_detection_probability.py` draws them again.

Sizes outside those that were tested are not given. Nor is a curve where the share found does not come down to 0 or up
to 1, as the handbook's model has it: where one with a floor and a ceiling describes hits and misses clearly better.

A curve is only as good as its defects: it speaks of the kinds and sizes in the test set, and belongs beside the
false-alarm rate at the same threshold. Defects are taken as independent; several on one photo or part make the true
bounds wider than those given here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit
from scipy.stats import chi2, norm

from helpers.analysis.comparison import recall_by_size, size_edges, size_groups
from helpers.analysis.sizing import MEASURES, PixelSizeLike, as_pixel_size, label_defects, measure_labels
from helpers.data.images import map_at_photo_size, read_mask
from helpers.progress import progress
from helpers.thresholds import exceeds, percent

if TYPE_CHECKING:
    from helpers.runs import Run

CONFIDENCE = 0.95
MIN_DEFECTS, MIN_PHOTOS, MIN_SIZES = 20, 10, 5  # fewer hold no curve
RECOMMENDED_DEFECTS = 60  # what the handbook asks for in a hit/miss study
HIT_COLUMNS = ("image_path", "defect_type", "defect", "size", "unit", "measure", "covered", "detected")
POD_COLUMNS = (
    "model",
    "unit",
    "measure",
    "n",
    "n_hits",
    "n_photos",
    "a50",
    "a90",
    "a90_95",
    "fit_p",
    "warning",
    "refused",
)

_ROOT = float(norm.ppf(CONFIDENCE))  # signed root of the likelihood ratio at a one-sided bound
_FLOOR_RATIO = float(chi2.ppf(0.99, 2))  # rise of twice the log-likelihood by a floor and a ceiling


class PodRefusedError(ValueError):
    """These hits and misses hold no POD curve; the message says why and what would mend it."""


# --------------------------------------------------------------------------------------------------- hits and misses


def defect_hits(
    photos: Iterable[tuple[np.ndarray | None, np.ndarray]],
    image_paths: Sequence[str],
    defect_types: Sequence[str],
    threshold: SupportsFloat,
    *,
    pixel_size: PixelSizeLike = 1.0,
    unit: str = "px",
    measure: str = "length",
    min_share: float = 0.0,
    min_defect_area: int = 10,
) -> pd.DataFrame:
    """Says of every true defect how large it is and whether the map shows it.

    A defect is a connected region of the mask (eight neighbours), measured as it was drawn. It is found where the map,
    at the mask's size (:func:`helpers.data.images.map_at_photo_size`), is above the threshold: in the pixels that are
    saved and drawn as defects.

    Args:
        photos: true mask and anomaly map of each photo, read once. Masks are (H, W) bool, at the size that
            ``pixel_size`` is meant for; None, or empty: left out. Maps are (h, w) floats.
        image_paths: one a photo.
        defect_types: likewise.
        threshold: a pixel of the map is called defect above it.
        pixel_size: as for `helpers.analysis.sizing.measure_labels`.
        unit: likewise.
        measure: size to use: length (largest Feret diameter), equivalent_diameter, width, ...
        min_share: share of a defect's pixels that must be above the threshold, 0 to 1; 0: any pixel.
        min_defect_area: smaller regions of a mask, in pixels, are taken as specks and left out.

    Returns:
        One row a defect, columns `HIT_COLUMNS`: ``size`` in ``unit``, ``covered`` (share of its pixels above the
        threshold), ``detected`` (bool).

    Raises:
        ValueError: for a parameter out of range, a map that is not (h, w) or holds NaN (the message names the photo),
            or where the numbers of photos, paths and types differ.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure={measure!r} is unknown; use one of {', '.join(MEASURES)}.")
    if not 0 <= min_share <= 1:
        raise ValueError(f"min_share={min_share} must lie in 0 to 1.")
    size = as_pixel_size(pixel_size, unit)
    of_measure = f"{size.unit}²" if measure == "area" else size.unit
    rows: list[tuple[Any, ...]] = []
    n, n_photos = len(image_paths), 0
    for n_photos, (mask, anomaly_map) in enumerate(progress(photos, "Finding true defects", total=n), start=1):
        if n_photos > min(n, len(defect_types)):
            break
        path, kind = image_paths[n_photos - 1], defect_types[n_photos - 1]
        if mask is None or not np.any(mask):
            continue
        truth = np.asarray(mask, dtype=bool)
        values = np.asarray(anomaly_map, dtype=np.float32)
        if values.ndim != 2:
            raise ValueError(f"{path}: the map has the shape {values.shape}; it must be (h, w).")
        try:
            flagged = exceeds(map_at_photo_size(values, truth.shape, {}), threshold)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        labels = label_defects(truth, min_defect_area=min_defect_area, use_morphology=False, fill_holes=False)
        sizes = measure_labels(labels, size)[measure]
        pixels = np.bincount(labels.ravel(), minlength=1)[1:]
        covered = np.bincount(labels[flagged], minlength=len(pixels) + 1)[1:] / pixels
        found = (covered > 0) & (covered >= min_share)
        for number, (value, share, hit) in enumerate(zip(sizes, covered, found, strict=True), start=1):
            rows.append((path, kind, number, value, of_measure, measure, share, hit))
    if not n_photos == n == len(defect_types):
        raise ValueError(
            f"{n} image_paths and {len(defect_types)} defect_types do not fit the photos; give one a photo."
        )
    types = {"defect": int, "size": float, "covered": float, "detected": bool}
    return pd.DataFrame(rows, columns=list(HIT_COLUMNS)).astype(types)


def run_defect_hits(run: Run, threshold: SupportsFloat | None = None, **options: Any) -> pd.DataFrame:
    """`defect_hits` of a finished run on its test photos: masks at the photos' own size, and the maps it stored.

    What a centre crop kept the network from seeing is missed.

    Args:
        run: finished, with masks of its defect photos; one without a mask is left out.
        threshold: of its maps' pixels; default: the one stored with the run.
        **options: of `defect_hits`.

    Raises:
        ValueError: as `defect_hits` does, for a mask that cannot be read, or a run without a pixel threshold.
    """
    test, maps = run.predictions("test"), run.test_maps()
    rows = test[(test["label_index"] == 1) & (test["mask_path"] != "")]

    def photos() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index, path in rows["mask_path"].items():
            mask = read_mask(path)
            yield mask, map_at_photo_size(maps[index], mask.shape, run.info["parameters"])

    limit = run.thresholds.get("pixel") if threshold is None else threshold
    if limit is None:
        raise ValueError(f"{run.name} has no pixel threshold; give threshold=, a value of its maps' pixels.")
    return defect_hits(photos(), rows["image_path"].tolist(), rows["defect_type"].tolist(), limit, **options)


# ------------------------------------------------------------------------------------------------------------- the fit


@dataclass(frozen=True)
class PodFit:
    """A fitted curve: logit POD(a) = intercept + slope ln(a).

    Attributes:
        intercept: of the logit, at size 1.
        slope: of the logit on the natural logarithm of the size, above 0.
        unit: of sizes.
        measure: which size.
        n: defects.
        n_hits: of them detected.
        n_photos: photos they lie on; 0 where that is not known.
        a50: size found with probability 0.5; infinite where the tested sizes do not reach it, minus infinity where all
            are larger (`size_words`).
        a90: size found with probability 0.9; likewise.
        a90_95: upper bound of a90, one-sided at 95 %; likewise.
        fit_p: p-value of Hosmer and Lemeshow's test (1980) that the curve describes the data; small: it does not.
        warning: what the numbers cannot promise; "" when all is well.
        sizes: (N,) sizes it was fitted to.
        detected: (N,) bool.
    """

    intercept: float
    slope: float
    unit: str
    measure: str
    n: int
    n_hits: int
    n_photos: int
    a50: float
    a90: float
    a90_95: float
    fit_p: float
    warning: str
    sizes: np.ndarray = field(repr=False, compare=False)
    detected: np.ndarray = field(repr=False, compare=False)

    def pod(self, sizes: ArrayLike) -> np.ndarray:
        """Probability of detection, in (0, 1), at sizes above 0."""
        return expit(self.intercept + self.slope * np.log(np.asarray(sizes, dtype=float)))


def fit_pod(defects: pd.DataFrame) -> PodFit:
    """Fit a POD curve to hits and misses.

    Args:
        defects: one row a defect, as from `defect_hits`: ``size`` (above 0) and ``detected``; where there, ``unit``
            and ``measure`` (one each) and ``image_path``.

    Raises:
        PodRefusedError: for fewer than 20 defects, 10 photos or 5 sizes; where all are found or all missed; where hits
            and misses do not overlap in size, so that no curve is the most likely one; where larger defects are found
            less often, or not clearly more often (the bounds hold a slope of 0); or where the share found does not
            come down to 0 or up to 1.
        ValueError: for a missing column, a size that is not above 0, or mixed units.
    """
    sizes, detected, unit, measure, n_photos = _checked(defects)
    n, n_hits = len(sizes), int(detected.sum())
    _refuse_what_holds_no_curve(sizes, detected, unit, n_photos)
    # Centred and scaled, so that Newton's steps are well conditioned for any unit.
    logs = np.log(sizes)
    centre, scale = logs.mean(), logs.std()
    x = (logs - centre) / scale
    beta, best = _maximise(np.column_stack([np.ones(n), x]), np.zeros(n), detected)
    if beta[1] <= 0:
        raise PodRefusedError(
            f"Larger defects are found less often than smaller ones (slope {beta[1] / scale:.2g} on ln size, n = {n}): "
            "size is not what decides detection here. Look at the missed defects by type."
        )
    slope, intercept = beta[1] / scale, beta[0] - beta[1] * centre / scale
    if 2 * (best - _flat_log_likelihood(n, n_hits)) <= _ROOT**2:
        raise PodRefusedError(
            f"Detection does not clearly grow with size: one rate for all sizes, {n_hits} of {n} found, describes hits "
            "and misses nearly as well, so a90/95 has no upper end. Test more defects, or look at the missed ones by "
            "type: size may not be what decides."
        )
    _refuse_floor_and_ceiling(x, detected, beta, best)
    likelihood = _Likelihood(logs, detected, float(intercept), float(slope))
    places = (-intercept / slope, (logit(0.9) - intercept) / slope, likelihood.upper_log_size(float(logit(0.9))))
    a50, a90, a90_95 = (_size_within(float(place), logs) for place in places)
    fit_p = _hosmer_lemeshow(sizes, detected, expit(intercept + slope * logs))
    warning = _warnings(n, n_photos, {"a50": a50, "a90": a90, "a90/95": a90_95}, sizes, unit, fit_p)
    return PodFit(
        intercept=float(intercept),
        slope=float(slope),
        unit=unit,
        measure=measure,
        n=n,
        n_hits=n_hits,
        n_photos=n_photos,
        a50=a50,
        a90=a90,
        a90_95=a90_95,
        fit_p=fit_p,
        warning=warning,
        sizes=sizes,
        detected=detected,
    )


def pod_curve(fit: PodFit, n: int = 60) -> pd.DataFrame:
    """The curve and its bounds, at sizes from the smallest to the largest defect, equally spaced on a log scale.

    Returns:
        ``size``, ``pod``, ``low`` and ``high``: each bound one-sided at 95 % (90 % lies between the two).
    """
    sizes = np.geomspace(fit.sizes.min(), fit.sizes.max(), n)
    likelihood = _Likelihood(np.log(fit.sizes), fit.detected, fit.intercept, fit.slope)
    low, high = np.array([likelihood.bounds_at(np.log(size)) for size in sizes]).T
    return pd.DataFrame({"size": sizes, "pod": fit.pod(sizes), "low": low, "high": high})


def pod_bins(fit: PodFit, n_bins: int = 6) -> pd.DataFrame:
    """Checks the curve against the plain shares found, in bins of size with about the same number of defects each.

    Returns:
        As `helpers.analysis.comparison.recall_by_size` (``recall`` with Wilson's 95 % interval), and ``expected``: the
        mean of the fitted POD over the bin's defects, and ``agrees``: whether it lies in the interval. Of many bins one
        in twenty is expected not to.
    """
    edges = size_edges(fit.sizes, n_bins)
    data = pd.DataFrame({"size": fit.sizes, "detected": fit.detected, "unit": fit.unit})
    bins = recall_by_size(data, edges)
    bins["expected"] = pd.Series(fit.pod(fit.sizes)).groupby(size_groups(fit.sizes, edges)).mean()
    bins["agrees"] = bins["expected"].between(bins["low"], bins["high"])
    return bins


def pod_table(defects: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a model: the sizes it finds, or why there is no curve.

    Args:
        defects: model -> its defects, as `fit_pod` takes them.

    Returns:
        Columns `POD_COLUMNS`; numbers are NaN where ``refused`` says why.
    """
    rows = []
    for model, hits in defects.items():
        row: dict[str, Any] = {"model": model, "n": len(hits), "n_hits": int(hits["detected"].sum()), "refused": ""}
        for name in ("unit", "measure"):
            row[name] = hits[name].iloc[0] if name in hits and len(hits) else ""
        row["n_photos"] = hits["image_path"].nunique() if "image_path" in hits else 0
        try:
            fit = fit_pod(hits)
            row |= {name: getattr(fit, name) for name in ("a50", "a90", "a90_95", "fit_p", "warning")}
        except PodRefusedError as error:
            row |= {"refused": str(error), "warning": ""}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(POD_COLUMNS))


def size_words(size: float, unit: str = "") -> str:
    """A size of `PodFit` or `pod_table` in words, "-" where it was refused."""
    if np.isnan(size):
        return "-"
    if np.isinf(size):
        return "not reached within the tested sizes" if size > 0 else "below the tested sizes"
    return f"{size:.3g} {unit}".rstrip()


# ------------------------------------------------------------------------------------------------ checks and refusals


def _checked(defects: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, str, str, int]:
    missing = [name for name in ("size", "detected") if name not in defects]
    if missing:
        raise ValueError(f"defects lacks the column(s) {', '.join(missing)}; give what defect_hits returns.")
    sizes = defects["size"].to_numpy(dtype=float)
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError("defects has sizes that are not above 0; a curve on log size needs sizes above 0.")
    if not defects["detected"].isin([0, 1]).all():
        raise ValueError("detected must hold True or False (or 1 and 0) for every defect.")
    words = {}
    for name, default in (("unit", "px"), ("measure", "size")):
        values = defects[name].unique().tolist() if name in defects else []
        if len(values) > 1:
            raise ValueError(f"defects mixes the {name}s {', '.join(map(str, values))}; fit one curve for each.")
        words[name] = str(values[0]) if values else default
    n_photos = defects["image_path"].nunique() if "image_path" in defects else 0
    return sizes, defects["detected"].to_numpy(dtype=bool), words["unit"], words["measure"], n_photos


def _refuse_what_holds_no_curve(sizes: np.ndarray, detected: np.ndarray, unit: str, n_photos: int) -> None:
    n, n_hits, n_sizes = len(sizes), int(detected.sum()), len(np.unique(sizes))
    if n < MIN_DEFECTS or n_sizes < MIN_SIZES or 0 < n_photos < MIN_PHOTOS:
        photos = f" on {n_photos} photos" if n_photos else ""
        raise PodRefusedError(
            f"{n} defects of {n_sizes} sizes{photos} are too few: a curve needs {MIN_DEFECTS} defects of {MIN_SIZES} "
            f"sizes on {MIN_PHOTOS} photos at least, and the handbook asks for {RECOMMENDED_DEFECTS}. Test more."
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


def _size_within(log_size: float, logs: np.ndarray) -> float:
    if logs.min() <= log_size <= logs.max():
        return float(np.exp(log_size))
    return float("inf") if log_size > logs.max() else float("-inf")


def _warnings(n: int, n_photos: int, found: Mapping[str, float], sizes: np.ndarray, unit: str, fit_p: float) -> str:
    said = []
    if n < RECOMMENDED_DEFECTS:
        said.append(f"{n} defects; the handbook asks for {RECOMMENDED_DEFECTS} at least.")
    if 0 < n_photos < n:
        said.append(f"{n} defects on {n_photos} photos are taken as independent; the true bounds are wider.")
    span = f"({sizes.min():.3g} to {sizes.max():.3g} {unit})"
    for name, size in found.items():
        if np.isinf(size):
            said.append(f"{name} is {size_words(size)} {span}.")
    if fit_p < 0.05:
        said.append(f"The curve does not describe the data well (Hosmer-Lemeshow p = {fit_p:.2g}); see the bins.")
    return " ".join(said)


def _hosmer_lemeshow(sizes: np.ndarray, detected: np.ndarray, pod: np.ndarray) -> float:
    """p-value with groups of equal counts by size, ten of them, or fewer so that each has ten defects."""
    n_groups = int(np.clip(len(sizes) // 10, 3, 10))
    statistic = 0.0
    for group in np.array_split(np.argsort(sizes, kind="stable"), n_groups):
        expected, mean = pod[group].sum(), pod[group].mean()
        statistic += (detected[group].sum() - expected) ** 2 / max(expected * (1 - mean), 1e-12)
    return float(chi2.sf(statistic, n_groups - 2))


# ---------------------------------------------------------------------------------------------------------- likelihood


def _log_likelihood(logits: np.ndarray, detected: np.ndarray) -> float:
    return float(-np.logaddexp(0, np.where(detected, -logits, logits)).sum())


def _flat_log_likelihood(n: int, n_hits: int) -> float:
    share = n_hits / n
    return float(n * (share * np.log(share) + (1 - share) * np.log1p(-share)))


def _maximise(design: np.ndarray, offset: np.ndarray, detected: np.ndarray) -> tuple[np.ndarray, float]:
    """Newton's method on the concave log-likelihood of logit p = offset + design @ beta; (beta, its value)."""
    beta = np.zeros(design.shape[1])
    value = _log_likelihood(offset, detected)
    for _ in range(100):
        p = expit(offset + design @ beta)
        gradient = design.T @ (detected - p)
        curvature = (design * (p * (1 - p))[:, None]).T @ design
        # far from the top the curvature can vanish; a hair of it keeps the step finite, and halving makes it safe
        step = np.linalg.solve(curvature + 1e-10 * np.eye(len(beta)), gradient)
        rise = float(gradient @ step)
        if rise < 1e-12:
            break
        for halving in range(60):
            trial = beta + step / 2**halving
            reached = _log_likelihood(offset + design @ trial, detected)
            if reached > value:
                beta, value = trial, reached
                break
        else:
            break
    return beta, value


@dataclass(frozen=True)
class _Likelihood:
    """Of hits and misses around the likeliest curve."""

    logs: np.ndarray
    detected: np.ndarray
    intercept: float
    slope: float

    def root(self, log_size: float, target: float) -> float:
        """r* of the hypothesis logit POD(size) = target; above 0 where the fitted curve is higher.

        logit POD(size) and the slope are both canonical parameters, so q needs the information of both at the likeliest
        curve, and that of the slope at the likeliest curve through the target.
        """
        distance = self.logs - log_size
        scale = np.abs(distance).max()  # the slope's unit shrinks as the size goes far from the data
        slope, through = _maximise((distance / scale)[:, None], np.full(len(distance), target), self.detected)
        logits = self.intercept + self.slope * self.logs
        above = self.intercept + self.slope * log_size - target
        r = np.sign(above) * np.sqrt(max(2 * (_log_likelihood(logits, self.detected) - through), 0.0))
        if abs(r) < 0.01:
            return float(r)  # 0 / 0; bounds lie far from here
        design = np.column_stack([np.ones(len(distance)), distance])
        full = (design * _variance(logits)[:, None]).T @ design
        of_slope = _variance(target + slope[0] / scale * distance) @ distance**2
        return float(r + np.log(above * np.sqrt(np.linalg.det(full) / of_slope) / r) / r)

    def upper_log_size(self, target: float) -> float:
        """Largest size at which the POD may still be the target's; infinite beyond the tested ones."""
        start, end = (target - self.intercept) / self.slope, self.logs.max()
        if start >= end or self.root(end, target) <= _ROOT:
            return float("inf")
        return float(brentq(lambda log_size: self.root(log_size, target) - _ROOT, start, end, xtol=1e-8))

    def bounds_at(self, log_size: float) -> tuple[float, float]:
        """Lower and upper bound of the POD at a size."""
        middle = self.intercept + self.slope * log_size

        def beyond(target: float) -> float:
            return np.sign(middle - target) * self.root(log_size, target) - _ROOT

        ends = (brentq(beyond, middle, _step_out(beyond, middle, step), xtol=1e-6) for step in (-0.5, 0.5))
        low, high = (float(expit(end)) for end in ends)
        return low, high


def _variance(logits: np.ndarray) -> np.ndarray:
    return expit(logits) * expit(-logits)


def _step_out(function: Callable[[float], float], start: float, step: float) -> float:
    """A place beyond start, by growing steps, where the function is above 0."""
    place = start + step
    while function(place) <= 0:
        step *= 2
        place += step
    return place
