"""Thresholds with a stated origin: set on held-out normal photos, never on test data.

Every verdict, mask, size, metric, cascade, export and page goes through one rule, `Threshold.exceeds`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

Kind = Literal["image", "pixel"]

FITTED = "Fitted to these photos: it promises no rate on new ones."  # the warning of what is set on labelled photos
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Threshold:
    """A number with its origin (in words). Abnormal is a score strictly above ``value`` (``below``: strictly under it).

    ``accept`` is the share of photos of the ``population`` (normal, or of known classes) asked to be accepted, ``rank``
    the place of the value among their n_normal scores; None: nothing is promised.
    """

    value: float
    origin: str
    kind: Kind = "image"
    accept: float | None = None
    n_normal: int = 0
    n_abnormal: int = 0
    rank: int | None = None
    warning: str = ""
    population: Literal["normal", "known"] = "normal"
    below: bool = False

    def __post_init__(self) -> None:
        try:
            value = math.nan if isinstance(self.value, (bool, str)) else float(self.value)
        except (TypeError, OverflowError):
            value = math.nan
        if not abs(value) <= _FLOAT32_MAX:
            raise ValueError(f"A threshold is a finite number, got {self.value!r} ({self.origin or 'no origin'}).")
        object.__setattr__(self, "value", value)

    def __float__(self) -> float:
        return self.value

    @property
    def guaranteed(self) -> float | None:
        """The share of photos of the population that is accepted in expectation at least."""
        return None if self.rank is None else self.rank / (self.n_normal + 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Central 90 % interval of the true share: of Beta(rank, n_normal + 1 - rank)."""
        from scipy.special import betaincinv

        low, high = (betaincinv(self.rank, self.n_normal + 1 - self.rank, end) for end in (0.05, 0.95))
        return float(low), float(high)

    def exceeds(self, values: ArrayLike) -> np.ndarray:
        """Whether values of any shape are abnormal, compared as float32; ValueError where one is not finite."""
        return exceeds(values, self)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild what `to_dict` gave, perhaps in a file; unknown fields are ignored, those of a wrong type refused."""
        if not isinstance(fields, dict) or not {"value", "origin"} <= set(fields):
            raise ValueError(f"A stored threshold is a table with the fields value and origin, got {fields!r:.60}.")
        given = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        kinds = dict.fromkeys(("origin", "kind", "warning", "population"), str) | {"below": bool, "value": object}
        for name, found in given.items():
            kind = kinds.get(name, (int, float, type(None)))
            if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
                raise ValueError(f"Field {name} of a stored threshold cannot be {found!r:.60}.")
        return cls(**given)


def exceeds(values: ArrayLike, threshold: SupportsFloat) -> np.ndarray:
    """`Threshold.exceeds` for a threshold that may also be a plain number."""
    array = np.asarray(values, dtype=np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{(~np.isfinite(array)).sum()} of {array.size} values are not finite: that is no verdict.")
    limit = threshold if isinstance(threshold, Threshold) else Threshold(value=float(threshold), origin="given")
    return array < np.float32(limit.value) if limit.below else array > np.float32(limit.value)


def conformal_threshold(
    scores: ArrayLike, accept: float = 0.95, kind: Kind = "image", *, population: str = "normal", below: bool = False
) -> Threshold:
    """The k-th smallest of n held-out scores, k = ceil((n + 1) * accept): the split-conformal rank.

    If a new normal photo is exchangeable with the held-out ones, it is accepted with probability at least
    k / (n + 1) >= accept; over draws of these, the true rate is distributed as Beta(k, n + 1 - k) (Vovk 2012,
    "Conditional validity of inductive conformal predictors"); ties can only raise it. With fewer than
    accept / (1 - accept) photos the largest score is taken, which promises n / (n + 1), and ``warning`` says so.
    For ``kind="pixel"`` scores are the maxima of photos' maps. ``below``: a confidence is accepted from the value on.
    """
    if not 0.0 < accept < 1.0:
        raise ValueError(f"accept must lie between 0 and 1 (both excluded), got {accept}.")
    ordered = np.sort(_finite_vector(scores))
    ordered = ordered[::-1] if below else ordered
    n = ordered.size
    if n == 0:
        raise ValueError(f"scores is empty: hold out at least one {population} photo (val) to set a threshold on.")
    wanted, share, warning = _ceil((n + 1) * accept), percent(accept), ""
    before, after = ("", " accepted") if kind == "image" else ("no defect pixel on ", "")
    rank, origin = min(wanted, n), f"{before}{share} of held-out {population} photos{after}"
    if wanted > n:
        photos = f"{n} held-out {population} photo{'' if n == 1 else 's'}"
        origin = f"{'lowest' if below else 'highest'} of {photos} (too few for {share})"
        warning = (
            f"{photos} cannot promise {share}: in expectation at least {percent(n / (n + 1))} of {population} photos "
            f"are accepted. Hold out at least {_ceil(accept / (1 - accept))} for {share}."
        )
    promise = {"accept": float(accept), "n_normal": n, "rank": rank, "population": population, "below": below}
    return Threshold(float(ordered[rank - 1]), origin, kind, warning=warning, **promise)


def best_f1_threshold(scores: ArrayLike, labels: ArrayLike) -> Threshold:
    """The threshold with the best F1 on labelled val photos; offered beside the conformal one, never instead.

    It lies midway between the lowest score that is called abnormal and the next lower one; of several equally good ones
    the highest is taken (fewest alarms).
    """
    from sklearn.metrics import precision_recall_curve

    values, truth, counts = _labelled(scores, labels)
    if 0 in counts.values():
        raise ValueError("labels holds one class only: a best-F1 threshold needs normal and abnormal photos.")
    precision, recall, cuts = precision_recall_curve(truth, values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    f1 = f1[:-1]  # the last point is the end of the curve and has no threshold
    cut = float(cuts[np.flatnonzero(f1 >= f1.max() - 1e-12)[-1]])  # sklearn's rule: score >= cut
    origin = f"best F1 on {truth.size} photos of val ({counts['n_abnormal']} abnormal)"
    return Threshold(_just_below(cut, values), origin, warning=FITTED, **counts)


def zero_miss_threshold(scores: ArrayLike, labels: ArrayLike) -> Threshold:
    """The highest threshold that misses no labelled defect photo of val: just below the lowest of their n scores."""
    values, truth, counts = _labelled(scores, labels)
    n = counts["n_abnormal"]
    if not n:
        raise ValueError("labels holds no defect photo: there is none that could be missed.")
    warning = (
        f"Set on {n} defect photos: of new ones like these it finds {100 * n / (n + 1):.0f} % in expectation at least. "
        "It promises no false-alarm rate."
    )
    value = _just_below(float(values[truth].min()), values)
    return Threshold(value, f"no defect photo of val missed (n = {n})", warning=warning, **counts)


def best_dice_threshold(maps: Iterable[np.ndarray], masks: Iterable[np.ndarray | None]) -> Threshold:
    """The pixel threshold with the best mean Dice over labelled defect photos; it fits the defects known today.

    99 candidates lie evenly between the smallest and the largest value of the (H, W) maps. Photos without a mask (None)
    or without a defect are left out.
    """
    pairs = zip(maps, masks, strict=True)
    pairs = [(np.asarray(found, np.float32), mask) for found, mask in pairs if mask is not None and mask.any()]
    if not pairs:
        raise ValueError("masks holds no defect: a best-Dice threshold needs defect photos with their masks.")
    ends = min(float(found.min()) for found, _ in pairs), max(float(found.max()) for found, _ in pairs)
    candidates = np.linspace(*ends, 101)[1:-1].astype(np.float32)
    sizes = np.array([[(found > limit).sum() for found, _ in pairs] for limit in candidates])
    both = np.array([[(found[mask] > limit).sum() for found, mask in pairs] for limit in candidates])
    mean = (2 * both / (sizes + [mask.sum() for _, mask in pairs])).mean(axis=1)
    origin = f"best mean Dice on {len(pairs)} defect photos of val ({mean.max():.3f})"
    return Threshold(float(candidates[mean.argmax()]), origin, "pixel", n_abnormal=len(pairs))


def held_out_thresholds(val: pd.DataFrame, accept: float = 0.95, *, start: float | None = None) -> dict[str, Threshold]:
    """The thresholds that every run stores, from its ``predictions("val")``; without a good photo: ``start``."""
    normal = val[val["label_index"] == 0]
    if normal.empty and start is not None:
        origin = "starting value, not calibrated: val holds no good photo"
        return {kind: Threshold(start, origin, kind) for kind in ("image", "pixel")}
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
        rejected = {"normal": "abnormal", "known": "unknown"}[threshold.population]
        rule, accepted = f"A photo is called {rejected} {'below' if threshold.below else 'above'}", "are accepted"
    text = f"{rule} {threshold.value:.4g} ({threshold.origin}"
    if threshold.rank is None:
        return f"{text}). {threshold.warning}".rstrip()
    if threshold.warning:
        text += f"). {threshold.warning} With"
    else:
        promised = f"{percent(threshold.guaranteed)} of new {threshold.population} photos"
        text += f", n = {threshold.n_normal}). In expectation at least {promised} {accepted}; with"
    low, high = map(percent, threshold.interval)
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
        raise ValueError(f"scores are (N,) finite numbers; of {array.shape} {(~np.isfinite(array)).sum()} are not.")
    return array


def _labelled(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    values, truth = _finite_vector(scores), np.asarray(labels).astype(bool)
    return values, truth, {"n_normal": int((~truth).sum()), "n_abnormal": int(truth.sum())}


def _just_below(cut: float, values: np.ndarray) -> float:
    """Threshold for ``score > threshold`` that flags what ``score >= cut`` flags, also once scores are float32."""
    below = values[values < cut]
    if below.size == 0:
        return float(np.nextafter(np.float32(cut), np.float32(-np.inf)))
    lower = float(below.max())
    middle = lower + (cut - lower) / 2.0
    return middle if lower <= middle < cut and lower <= float(np.float32(middle)) < cut else lower
