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

_INTERVAL_LEVEL = 0.90
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Threshold:
    """A number with its origin and with what it can promise.

    Attributes:
        value: Abnormal is a score strictly above it, in the detector's raw score units (with ``below`` strictly under);
            finite, also as float32.
        origin: Where it comes from, in words.
        kind: "image" (compared with a photo's score) or "pixel" (compared with every pixel of an anomaly map).
        accept: Share of normal photos asked to be accepted, in (0, 1); None for a threshold that asks for no share.
        n_normal: Normal photos it was set on; for ``population`` "known" photos of known classes.
        n_abnormal: Labelled defect photos it was set on (0 for conformal thresholds).
        rank: The value is the rank-th smallest of the n_normal scores; None when it is no order statistic.
        guaranteed: Lower bound on the share of new normal photos accepted, in expectation: rank / (n_normal + 1).
            None when nothing is promised.
        interval_low: Lower end of the central 90 % interval of the true acceptance rate; None likewise.
        interval_high: Upper end.
        warning: What it cannot promise, and what would mend that; "" when all is well.
        population: Whose photos are accepted: "normal" ones, or those of "known" classes (open-set recognition), where
            what is not accepted is called unknown.
        below: The rule is turned round, as for a confidence: accepted is a value of at least ``value``.
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
        """Whether values are abnormal: above the threshold (under it with ``below``), compared as float32.

        Scores and maps are stored as float32, so a value that set the threshold must not lie a hair above it.

        Args:
            values: any shape; CPU tensors too. A number gives an array of shape ().

        Raises:
            ValueError: A value is not finite: that is no verdict.
        """
        return exceeds(values, self)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Threshold:
        """Rebuilds what `to_dict` gave; fields that are unknown here are ignored.

        Raises:
            ValueError: When ``value`` or ``origin`` is missing, or a field is of another kind.
        """
        if not isinstance(fields, dict):
            raise ValueError(f"A stored threshold is a table of its fields, got {fields!r:.60}.")
        for name in ("value", "origin"):
            if name not in fields:
                raise ValueError(f"A stored threshold needs the field '{name}'; it has {sorted(fields)}.")
        kinds = {"origin": str, "kind": str, "warning": str, "population": str, "below": bool}
        for name in ({*cls.__dataclass_fields__} & {*fields}) - {"value"}:
            kind = kinds.get(name, (int, float, type(None)))
            if not isinstance(fields[name], kind) or (isinstance(fields[name], bool) and name != "below"):
                raise ValueError(f"Field '{name}' of a stored threshold cannot be {fields[name]!r:.60}.")
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__ if name in fields})


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
    """Sets a threshold that accepts a share of normal photos, by the split-conformal rank.

    The threshold is the k-th smallest of n held-out normal scores, k = ceil((n + 1) * accept). If a new normal
    photo is exchangeable with the held-out ones, it is accepted (score <= threshold) with probability at least
    k / (n + 1) >= accept. Over draws of the held-out photos, and for continuous scores, the true acceptance rate is
    distributed as Beta(k, n + 1 - k). Ties can only raise it. With fewer than accept / (1 - accept) photos no score
    is high enough: the largest is taken, which promises n / (n + 1), and ``warning`` says so.

    Source: Vovk, "Conditional validity of inductive conformal predictors" (2012); Angelopoulos and Bates, "A gentle
    introduction to conformal prediction" (2021), section on the coverage distribution.

    Args:
        scores: (N,) finite scores of held-out normal photos. For ``kind="pixel"`` the maximum of each photo's map, at
            the size at which maps are compared with the threshold; then the promise is about photos too: a share
            ``accept`` of normal photos shows no defect pixel.
        accept: Share of normal photos to accept, in (0, 1).
        kind: "image" or "pixel"; says what the threshold is compared with.
        population: Whose photos the scores are of, "normal" or "known" (of known classes): the word in origin and
            warning. Read it for "normal" above.
        below: Accept at and above the threshold instead, for a confidence: the k-th largest of the scores is taken.

    Raises:
        ValueError: Naming the parameter at fault.
    """
    if kind not in ("image", "pixel"):
        raise ValueError(f"kind must be 'image' or 'pixel', got {kind!r}.")
    if population not in _REJECTED:
        raise ValueError(f"population must be 'normal' or 'known', got {population!r}.")
    if not 0.0 < accept < 1.0:
        raise ValueError(f"accept must lie between 0 and 1 (both excluded), got {accept}.")
    ordered = np.sort(_finite_vector(scores, "scores"))
    ordered = ordered[::-1] if below else ordered
    n = ordered.size
    if n == 0:
        raise ValueError(f"scores is empty: hold out at least one {population} photo (val) to set a threshold on.")

    wanted = _ceil((n + 1) * accept)
    rank = min(wanted, n)
    low, high = acceptance_interval(rank, n)
    share = percent(accept)
    if kind == "image":
        origin = f"{share} of held-out {population} photos accepted"
    else:
        origin = f"no defect pixel on {share} of held-out {population} photos"
    warning = ""
    if wanted > n:
        needed = photos_needed(accept)
        photos = f"{n} held-out {population} photo{'' if n == 1 else 's'}"
        origin = f"{'lowest' if below else 'highest'} of {photos} (too few for {share})"
        warning = (
            f"{photos} cannot promise {share}: in expectation at least {percent(n / (n + 1))} of {population} photos "
            f"are accepted. Hold out at least {needed} for {share}."
        )
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


def best_f1_threshold(scores: ArrayLike, labels: ArrayLike, kind: Kind = "image", split: str = "val") -> Threshold:
    """Finds the threshold with the best F1 on labelled photos; offered beside the conformal one, never instead.

    It lies midway between the lowest score that is called abnormal and the next lower one. Of several equally good
    thresholds the highest is taken (fewest alarms). It promises nothing about new photos.

    Args:
        scores: (N,) finite scores.
        labels: (N,) bool or 0/1, 1 = abnormal.
        kind: What the threshold is compared with.
        split: Name of the split the photos come from, for ``origin``.

    Raises:
        ValueError: When the arrays do not match or one class is missing.
    """
    from sklearn.metrics import precision_recall_curve

    values = _finite_vector(scores, "scores")
    truth = np.asarray(labels).astype(bool)
    if truth.shape != values.shape:
        raise ValueError(f"labels has shape {truth.shape} but scores has {values.shape}; give one label per score.")
    n_abnormal = int(truth.sum())
    if n_abnormal in (0, truth.size):
        raise ValueError("labels holds one class only: a best-F1 threshold needs normal and abnormal photos.")

    precision, recall, cuts = precision_recall_curve(truth, values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    f1 = f1[:-1]  # the last point is the end of the curve and has no threshold
    cut = float(cuts[np.flatnonzero(f1 >= f1.max() - 1e-12)[-1]])  # sklearn's rule: score >= cut
    return Threshold(
        value=_just_below(cut, values),
        origin=f"best F1 on {truth.size} photos of {split} ({n_abnormal} abnormal)",
        kind=kind,
        n_normal=int(truth.size - n_abnormal),
        n_abnormal=n_abnormal,
        warning="Fitted to these photos: it promises no rate on new ones.",
    )


def best_dice_threshold(
    maps: Sequence[np.ndarray], masks: Iterable[np.ndarray | None], *, n_values: int = 99, split: str = "val"
) -> Threshold:
    """The pixel threshold with the best mean Dice over labelled defect photos; it fits the defects known today.

    Candidates are equally spaced between the smallest and the largest value of the maps. The Dice of a photo is
    2 |A and B| / (|A| + |B|), A the pixels above the threshold, B the mask.

    Args:
        maps: (H, W) anomaly maps, such as a memory-mapped array: one at a time is read, twice each.
        masks: (H, W) bool, read once; photos without a mask (None) or without a defect are left out.
        n_values: number of candidates.
        split: name of the split, for the origin.

    Raises:
        ValueError: if no photo has a defect.
    """
    rows = {row: mask for row, mask in zip(range(len(maps)), masks, strict=True) if mask is not None and mask.any()}
    if not rows:
        raise ValueError("masks holds no defect: a best-Dice threshold needs defect photos with their masks.")
    low, high = min(float(np.min(maps[row])) for row in rows), max(float(np.max(maps[row])) for row in rows)
    candidates = np.linspace(low, high, n_values + 2)[1:-1].astype(np.float32)
    dice = np.zeros((len(rows), n_values))
    for place, (row, mask) in enumerate(rows.items()):
        anomaly_map = np.asarray(maps[row], np.float32)
        everywhere, inside = np.sort(anomaly_map, axis=None), np.sort(anomaly_map[mask])
        called = everywhere.size - np.searchsorted(everywhere, candidates, side="right")
        both = inside.size - np.searchsorted(inside, candidates, side="right")
        dice[place] = 2 * both / (called + inside.size)
    best = int(dice.mean(0).argmax())
    return Threshold(
        value=float(candidates[best]),
        origin=f"best mean Dice on {len(rows)} defect photos of {split} ({dice.mean(0)[best]:.3f})",
        kind="pixel",
        n_abnormal=len(rows),
    )


def held_out_thresholds(val: pd.DataFrame, accept: float = 0.95, *, start: float | None = None) -> dict[str, Threshold]:
    """The thresholds that every run stores, from its predictions on held-out photos.

    Args:
        val: a run's ``predictions("val")``: columns label_index, score and map_max (maximum of the photo's map).
        accept: share of good photos to accept.
        start: value to fall back on where val holds no good photo; its origin then says that nothing was calibrated.

    Returns:
        ``image`` on the scores and ``pixel`` on the maxima of the maps of good photos (`conformal_threshold`); with
        good and defect photos in val also ``image_best_f1``.

    Raises:
        ValueError: if val holds no good photo and there is no ``start``.
    """
    normal = val[val["label_index"] == 0]
    if normal.empty and start is not None:
        origin = "starting value, not calibrated: val holds no good photo"
        return {
            "image": Threshold(value=start, origin=origin),
            "pixel": Threshold(value=start, origin=origin, kind="pixel"),
        }
    thresholds = {
        "image": conformal_threshold(normal["score"], accept),
        "pixel": conformal_threshold(normal["map_max"], accept, kind="pixel"),
    }
    if (val["label_index"] == 1).any():
        thresholds["image_best_f1"] = best_f1_threshold(val["score"], val["label_index"])
    return thresholds


def acceptance_interval(rank: int, n: int, level: float = _INTERVAL_LEVEL) -> tuple[float, float]:
    """Central interval of Beta(rank, n + 1 - rank), the true acceptance rate of a conformal threshold.

    Args:
        rank: The threshold is the rank-th smallest of the scores, 1 <= rank <= n.
        n: Number of held-out normal photos.
        level: Probability inside, in (0, 1).

    Raises:
        ValueError: When rank is outside 1..n.
    """
    from scipy.special import betaincinv

    if not 1 <= rank <= n:
        raise ValueError(f"rank must lie in 1..n, got rank {rank} of n {n}.")
    tail = (1.0 - level) / 2.0
    return float(betaincinv(rank, n + 1 - rank, tail)), float(betaincinv(rank, n + 1 - rank, 1.0 - tail))


def photos_needed(accept: float) -> int:
    """Fewest held-out normal photos that can promise ``accept``: accept / (1 - accept), rounded up (19 for 0.95)."""
    return _ceil(accept / (1.0 - accept))


def describe(threshold: Threshold) -> str:
    """Says in one to three plain sentences where a threshold comes from and what it promises."""
    if threshold.kind == "image":
        side = "below" if threshold.below else "above"
        rule, accepted = f"A photo is called {_REJECTED[threshold.population]} {side}", "are accepted"
    else:
        rule, accepted = "A pixel is called defect above", "show no defect pixel"
    text = f"{rule} {threshold.value:.4g} ({threshold.origin}"
    if threshold.guaranteed is None:
        return f"{text}). {threshold.warning}".rstrip()
    text += "). " if threshold.warning else f", n = {threshold.n_normal}). "
    if threshold.warning:
        text += f"{threshold.warning} With"
    else:
        promised = f"{percent(threshold.guaranteed)} of new {threshold.population} photos"
        text += f"In expectation at least {promised} {accepted}; with"
    assert threshold.interval_low is not None and threshold.interval_high is not None  # set with `guaranteed`
    low, high = percent(threshold.interval_low), percent(threshold.interval_high)
    return f"{text} 90 % probability the true rate lies between {low} and {high}."


def percent(share: float) -> str:
    """Formats a share as a percentage with at most one decimal: 0.95 -> "95 %"; never rounds up to 100 %."""
    number = share * 100.0
    text = f"{number:.1f}"
    if text == "100.0" and share < 1.0:
        text = f"{math.floor(number * 100) / 100:.2f}"
    return f"{text.removesuffix('.0')} %"


def _ceil(number: float) -> int:
    # 0.9 * 10 and 0.95 / 0.05 are a hair off their exact values; a rank must not jump for that.
    return math.ceil(number - 1e-9)


def _finite_vector(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional (N,), got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; {int((~np.isfinite(array)).sum())} of {array.size} values are not.")
    return array


def _just_below(cut: float, values: np.ndarray) -> float:
    """Threshold for ``score > threshold`` that flags what ``score >= cut`` flags, also once scores are float32."""
    below = values[values < cut]
    if below.size == 0:
        return float(np.nextafter(np.float32(cut), np.float32(-np.inf)))
    lower = float(below.max())
    middle = lower + (cut - lower) / 2.0
    return middle if lower <= middle < cut and lower <= float(np.float32(middle)) < cut else lower
