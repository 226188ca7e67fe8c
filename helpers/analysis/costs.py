"""What a cascade of two stages is for, in numbers: what it finds, loses and costs.

A photo goes on to stage 2 when its ``score_1`` is above the first threshold, and is called defect when its ``score_2``
is above the second one too. All it needs are both scores of every photo, of those too that stage 1 would stop:
DataFrames with ``label_index`` (0 normal, 1 defect), ``score_1`` and ``score_2``. The share of defects in a test set is
rarely that of the line, so costs are put together from the rates of normal and of defect photos at a stated share of
defects (``prevalence``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from helpers.analysis.intervals import share_columns
from helpers.thresholds import Threshold, exceeds, percent


@dataclass(frozen=True)
class Prices:
    """What a missed defect, a false alarm and a second of computing cost, in one unit of any currency; and the
    milliseconds a photo of both stages.
    """

    miss: float
    false_alarm: float = 1.0
    second: float = 0.0
    stage_ms: tuple[float, float] = (0.0, 0.0)


def decision_rates(called: Mapping[str, ArrayLike], defect: ArrayLike) -> pd.DataFrame:
    """Recall and false alarms of several ways to decide on the same photos, with Wilson's intervals.

    ``called``: name -> (N,) bool, whether each photo is called defect; ``defect``: (N,) bool, whether it is one. NaN
    where a class is missing.
    """
    defect, rows = np.asarray(defect, dtype=bool), []
    for name, flags in called.items():
        flagged = np.asarray(flags, dtype=bool)
        row: dict[str, Any] = {"decided_by": name, "n_normal": int((~defect).sum()), "n_defect": int(defect.sum())}
        row |= {"found": int(flagged[defect].sum()), "false_alarms": int(flagged[~defect].sum())}
        row |= share_columns("recall", flagged[defect])
        rows.append(row | share_columns("false_alarm_rate", flagged[~defect]))
    return pd.DataFrame(rows)


def expected_costs(
    scores: pd.DataFrame,
    thresholds_1: Iterable[float],
    threshold_2: SupportsFloat,
    prevalence: float,
    prices: Prices,
) -> pd.DataFrame:
    """Expected cost of a photo for every first threshold; minus infinity lets every photo pass.

        cost = prevalence (1 - recall) miss + (1 - prevalence) false-alarm rate * false_alarm
               + (stage_ms[0] + passed * stage_ms[1]) / 1000 * second

    ``recall`` and ``false_alarm_rate`` are the whole cascade's, ``passed`` the share of the line's photos that stage 2
    sees, ``cost`` the sum of ``miss_cost``, ``false_alarm_cost`` and ``time_cost``.
    """
    defect, first, second = _columns(scores)
    limits = np.array([float(value) for value in thresholds_1], dtype=np.float32)
    flagged_2 = exceeds(second, threshold_2)
    passed, called = {}, {}  # the share of photos above each limit: those that go on, and of these the flagged ones
    for kind in (False, True):
        n = int((defect == kind).sum())
        passed[kind] = _above(first[defect == kind], limits, n)
        called[kind] = _above(first[(defect == kind) & flagged_2], limits, n)
    table = pd.DataFrame(
        {"threshold_1": limits.astype(float), "recall": called[True], "false_alarm_rate": called[False]}
    )
    table["passed"] = _mixed(passed[True], passed[False], prevalence)
    table["miss_cost"] = _mixed(1 - called[True], np.zeros(limits.size), prevalence) * prices.miss
    table["false_alarm_cost"] = _mixed(np.zeros(limits.size), called[False], prevalence) * prices.false_alarm
    table["time_cost"] = (prices.stage_ms[0] + table["passed"] * prices.stage_ms[1]) / 1000 * prices.second
    table["cost"] = table["miss_cost"] + table["false_alarm_cost"] + table["time_cost"]
    return table


def cost_without_stage_1(
    scores: pd.DataFrame, threshold_2: SupportsFloat, *, prevalence: float, prices: Prices
) -> float:
    """Expected cost of a photo when stage 2 sees them all and stage 1 does not run."""
    alone = replace(prices, stage_ms=(0.0, prices.stage_ms[1]))
    return float(expected_costs(scores, [-np.inf], threshold_2, prevalence=prevalence, prices=alone)["cost"].iloc[0])


def first_thresholds(scores: pd.DataFrame) -> NDArray[np.float64]:
    """The first thresholds worth comparing, rising: one just below all scores (all photos go on), then each score."""
    distinct = np.unique(_columns(scores)[1])
    return np.r_[np.nextafter(distinct[0], np.float32(-np.inf)), distinct].astype(np.float64)


def best_first_threshold(
    val: pd.DataFrame, threshold_2: SupportsFloat, *, prevalence: float, prices: Prices
) -> Threshold:
    """The first threshold of lowest expected cost on val; of equally cheap ones the lowest, which stops fewest photos.

    It is fitted to these photos and promises nothing about new ones: on test its cost is measured by `expected_costs`.
    """
    table = expected_costs(val, first_thresholds(val), threshold_2, prevalence=prevalence, prices=prices)
    cheapest = np.flatnonzero(table["cost"] <= table["cost"].min() * (1 + 1e-12))[0]  # equal but for rounding
    n_defect = int((val["label_index"] == 1).sum())
    return Threshold(
        value=float(table["threshold_1"][cheapest]),
        origin=f"lowest expected cost on {len(val)} photos of val ({n_defect} defect) at {percent(prevalence)} "
        f"defects, a miss at {prices.miss:g} and a false alarm at {prices.false_alarm:g}",
        n_normal=len(val) - n_defect,
        n_abnormal=n_defect,
        warning="Fitted to these photos: it promises no rate on new ones.",
    )


def _above(values: NDArray[np.float32], limits: NDArray[np.float32], n: int) -> NDArray[np.float64]:
    if not n:
        return np.full(limits.size, np.nan)
    return (values.size - np.searchsorted(np.sort(values), limits, side="right")) / n


def _mixed(defect: NDArray[np.float64], normal: NDArray[np.float64], prevalence: float) -> NDArray[np.float64]:
    """Mean over the line; a class that does not occur there may be unknown (NaN)."""
    parts = [share * rate for share, rate in ((prevalence, defect), (1 - prevalence, normal)) if share > 0]
    return np.sum(parts, axis=0)


def _columns(scores: pd.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    """Whether each photo shows a defect, and both scores as thresholds compare them."""
    first, second = (scores[name].to_numpy(dtype=np.float32) for name in ("score_1", "score_2"))
    return scores["label_index"].to_numpy() == 1, first, second
