"""Thresholds with a stated origin: set on held-out normal photos, never on test data.

Every verdict, mask, size, metric, cascade, export and page goes through one rule, `Threshold.exceeds`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

Kind = Literal["image", "pixel"]
Population = Literal["normal", "known"]

_REJECTED = {"normal": "abnormal", "known": "unknown"}  # what a photo that is not accepted is called
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Threshold:
    """A number with its origin (in words) and with what it can promise.

    Abnormal is a score strictly above ``value`` (with ``below``, for a confidence, strictly under it). ``accept`` is
    the share of photos of the ``population`` (normal, or of known classes) asked to be accepted, ``rank`` the
    place of the value among their n_normal scores, ``guaranteed`` the share accepted in expectation at least,
    rank / (n_normal + 1), and ``interval_*`` the central 90 % interval of the true rate; None: nothing is promised.
    """

    value: float
    origin: str
    kind: Kind = "image"
    accept: float | None = None
    n_normal: int = 0
    n_abnormal: int = 0
    rank: int | None = None
    guaranteed: float | None = None
    interval_low: float | None = None
    interval_high: float | None = None
    warning: str = ""
    population: Population = "normal"
    below: bool = False

    def __post_init__(self) -> None:
        try:
            value = math.nan if isinstance(self.value, (bool, str)) else float(self.value)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not abs(value) <= _FLOAT32_MAX:
            raise ValueError(f"A threshold is a finite number, got {self.value!r} ({self.origin or 'no origin'}).")
        object.__setattr__(self, "value", value)

    def __float__(self) -> float:
        return self.value

    def exceeds(self, values: ArrayLike) -> np.ndarray:
        """Whether values of any shape are abnormal, compared as float32, as scores and maps are stored.

        Raises ValueError for a value that is not finite: that is no verdict.
        """
        return exceeds(values, self)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Threshold:
        """Rebuild what `to_dict` gave, perhaps in a file; unknown fields are ignored, damaged ones refused."""
        if not isinstance(fields, dict) or not {"value", "origin"} <= set(fields):
            raise ValueError(f"A stored threshold is a table with the fields value and origin, got {fields!r:.60}.")
        kinds = {"origin": str, "kind": str, "warning": str, "population": str, "below": bool}
        known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        for name, value in known.items():
            number = isinstance(value, (int, float, type(None))) and not isinstance(value, bool)
            if name != "value" and not (isinstance(value, kinds[name]) if name in kinds else number):
                raise ValueError(f"Field '{name}' of a stored threshold cannot be {value!r:.60}.")
        return cls(**known)


def exceeds(values: ArrayLike, threshold: SupportsFloat) -> np.ndarray:
    """`Threshold.exceeds` for a threshold that may also be a plain number."""
    array = np.asarray(values, dtype=np.float32)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{int((~np.isfinite(array)).sum())} of {array.size} values are not finite: that is no verdict."
        )
    limit = threshold if isinstance(threshold, Threshold) else Threshold(value=float(threshold), origin="given")
    return array < np.float32(limit.value) if limit.below else array > np.float32(limit.value)


def conformal_threshold(
    scores: ArrayLike,
    accept: float = 0.95,
    kind: Kind = "image",
    *,
    population: Population = "normal",
    below: bool = False,
) -> Threshold:
    """The k-th smallest of n held-out scores, k = ceil((n + 1) * accept): the split-conformal rank.

    If a new normal photo is exchangeable with the held-out ones, it is accepted (score <= threshold) with probability
    at least k / (n + 1) >= accept; over draws of the held-out photos, and for continuous scores, the true rate is
    distributed as Beta(k, n + 1 - k). Ties can only raise it. With fewer than accept / (1 - accept) photos the largest
    score is taken, which promises n / (n + 1), and ``warning`` says so. For ``kind="pixel"`` scores are the maxima of
    photos' maps, and the promise is that a share of normal photos shows no defect pixel. With ``below`` a confidence is
    accepted at and above the threshold.

    Vovk, "Conditional validity of inductive conformal predictors" (2012); Angelopoulos and Bates, "A gentle
    introduction to conformal prediction" (2021), section on the coverage distribution.
    """
    from scipy.special import betaincinv

    if not 0.0 < accept < 1.0:
        raise ValueError(f"accept must lie between 0 and 1 (both excluded), got {accept}.")
    ordered = np.sort(_finite_vector(scores))
    ordered = ordered[::-1] if below else ordered
    n = ordered.size
    if n == 0:
        raise ValueError(f"scores is empty: hold out at least one {population} photo (val) to set a threshold on.")
    wanted = _ceil((n + 1) * accept)
    rank, share, warning = min(wanted, n), percent(accept), ""
    origin = f"no defect pixel on {share} of held-out {population} photos"
    if kind == "image":
        origin = f"{share} of held-out {population} photos accepted"
    if wanted > n:
        photos = f"{n} held-out {population} photo{'' if n == 1 else 's'}"
        origin = f"{'lowest' if below else 'highest'} of {photos} (too few for {share})"
        warning = (
            f"{photos} cannot promise {share}: in expectation at least {percent(n / (n + 1))} of {population} photos "
            f"are accepted. Hold out at least {_ceil(accept / (1 - accept))} for {share}."
        )
    low, high = (float(betaincinv(rank, n + 1 - rank, end)) for end in (0.05, 0.95))
    return Threshold(
        value=float(ordered[rank - 1]),
        origin=origin,
        kind=kind,
        accept=float(accept),
        n_normal=int(n),
        rank=int(rank),
        guaranteed=rank / (n + 1),
        interval_low=low,
        interval_high=high,
        warning=warning,
        population=population,
        below=below,
    )


def best_f1_threshold(scores: ArrayLike, labels: ArrayLike) -> Threshold:
    """The threshold with the best F1 on labelled val photos; offered beside the conformal one, never instead.

    It lies midway between the lowest score that is called abnormal and the next lower one; of several equally good ones
    the highest is taken (fewest alarms).
    """
    from sklearn.metrics import precision_recall_curve

    values, truth = _finite_vector(scores), np.asarray(labels).astype(bool)
    n_abnormal = int(truth.sum())
    if n_abnormal in (0, truth.size):
        raise ValueError("labels holds one class only: a best-F1 threshold needs normal and abnormal photos.")
    precision, recall, cuts = precision_recall_curve(truth, values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    f1 = f1[:-1]  # the last point is the end of the curve and has no threshold
    cut = float(cuts[np.flatnonzero(f1 >= f1.max() - 1e-12)[-1]])  # sklearn's rule: score >= cut
    return Threshold(
        value=_just_below(cut, values),
        origin=f"best F1 on {truth.size} photos of val ({n_abnormal} abnormal)",
        n_normal=int(truth.size - n_abnormal),
        n_abnormal=n_abnormal,
        warning="Fitted to these photos: it promises no rate on new ones.",
    )


def zero_miss_threshold(scores: ArrayLike, labels: ArrayLike) -> Threshold:
    """The highest threshold that misses no labelled defect photo of val: just below the lowest of their n scores."""
    values, truth = _finite_vector(scores), np.asarray(labels).astype(bool)
    n = int(truth.sum())
    return Threshold(
        value=_just_below(float(values[truth].min()), values),
        origin=f"no defect photo of val missed (n = {n})",
        n_normal=int(truth.size - n),
        n_abnormal=n,
        warning=f"Set on {n} defect photos: of new ones like these it finds {100 * n / (n + 1):.0f} % in expectation "
        "at least. It promises no false-alarm rate.",
    )


def best_dice_threshold(maps: Sequence[np.ndarray], masks: Iterable[np.ndarray | None]) -> Threshold:
    """The pixel threshold with the best mean Dice over labelled defect photos; it fits the defects known today.

    99 candidates lie evenly between the smallest and the largest value of the (H, W) maps, of which one at a time
    is read, twice each. Photos without a mask (None) or without a defect are left out.
    """
    rows = {row: mask for row, mask in zip(range(len(maps)), masks, strict=True) if mask is not None and mask.any()}
    if not rows:
        raise ValueError("masks holds no defect: a best-Dice threshold needs defect photos with their masks.")
    low, high = min(float(np.min(maps[row])) for row in rows), max(float(np.max(maps[row])) for row in rows)
    candidates = np.linspace(low, high, 101)[1:-1].astype(np.float32)
    dice = np.zeros((len(rows), candidates.size))
    for place, (row, mask) in enumerate(rows.items()):
        anomaly_map = np.asarray(maps[row], np.float32)
        everywhere, inside = np.sort(anomaly_map, axis=None), np.sort(anomaly_map[mask])
        called = everywhere.size - np.searchsorted(everywhere, candidates, side="right")
        both = inside.size - np.searchsorted(inside, candidates, side="right")
        dice[place] = 2 * both / (called + inside.size)
    best = int(dice.mean(0).argmax())
    return Threshold(
        value=float(candidates[best]),
        origin=f"best mean Dice on {len(rows)} defect photos of val ({dice.mean(0)[best]:.3f})",
        kind="pixel",
        n_abnormal=len(rows),
    )


def held_out_thresholds(val: pd.DataFrame, accept: float = 0.95, *, start: float | None = None) -> dict[str, Threshold]:
    """The thresholds that every run stores, from its ``predictions("val")``; without a good photo: ``start``."""
    normal = val[val["label_index"] == 0]
    if normal.empty and start is not None:
        origin = "starting value, not calibrated: val holds no good photo"
        return {kind: Threshold(value=start, origin=origin, kind=kind) for kind in ("image", "pixel")}
    thresholds = {
        "image": conformal_threshold(normal["score"], accept),
        "pixel": conformal_threshold(normal["map_max"], accept, kind="pixel"),
    }
    if (val["label_index"] == 1).any():
        thresholds["image_best_f1"] = best_f1_threshold(val["score"], val["label_index"])
    return thresholds


def describe(threshold: Threshold) -> str:
    """Where a threshold comes from and what it promises, in one to three plain sentences."""
    rule, accepted = "A pixel is called defect above", "show no defect pixel"
    if threshold.kind == "image":
        side = "below" if threshold.below else "above"
        rule, accepted = f"A photo is called {_REJECTED[threshold.population]} {side}", "are accepted"
    text = f"{rule} {threshold.value:.4g} ({threshold.origin}"
    if threshold.guaranteed is None:
        return f"{text}). {threshold.warning}".rstrip()
    if threshold.warning:
        text += f"). {threshold.warning} With"
    else:
        promised = f"{percent(threshold.guaranteed)} of new {threshold.population} photos"
        text += f", n = {threshold.n_normal}). In expectation at least {promised} {accepted}; with"
    low, high = percent(threshold.interval_low), percent(threshold.interval_high)
    return f"{text} 90 % probability the true rate lies between {low} and {high}."


def percent(share: float) -> str:
    """A share as a percentage with at most one decimal: 0.95 -> "95 %"; never rounds up to 100 %."""
    number = share * 100.0
    text = f"{number:.1f}"
    if text == "100.0" and share < 1.0:
        text = f"{math.floor(number * 100) / 100:.2f}"
    return f"{text.removesuffix('.0')} %"


def _ceil(number: float) -> int:
    # 0.9 * 10 and 0.95 / 0.05 are a hair off their exact values; a rank must not jump for that.
    return math.ceil(number - 1e-9)


def _finite_vector(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(
            f"scores must be (N,) finite numbers; of shape {array.shape} "
            f"{int((~np.isfinite(array)).sum())} are not finite."
        )
    return array


def _just_below(cut: float, values: np.ndarray) -> float:
    """Threshold for ``score > threshold`` that flags what ``score >= cut`` flags, also once scores are float32."""
    below = values[values < cut]
    if below.size == 0:
        return float(np.nextafter(np.float32(cut), np.float32(-np.inf)))
    lower = float(below.max())
    middle = lower + (cut - lower) / 2.0
    return middle if lower <= middle < cut and lower <= float(np.float32(middle)) < cut else lower
