"""What a cascade of two stages is for, in numbers: what it finds, loses and costs.

A photo goes on to stage 2 when its ``score_1`` is above the first threshold, and is called defect when its ``score_2``
is above the second one too. All it needs are both scores of every photo, of those too that stage 1 would stop:
DataFrames with ``label_index`` (0 normal, 1 defect), ``score_1`` and ``score_2``. The share of defects in a test set is
rarely that of the line, so costs are put together from the rates of normal and of defect photos at a stated share of
defects (``prevalence``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.thresholds import FITTED, Threshold, exceeds, percent


@dataclass(frozen=True)
class Prices:
    """What a missed defect, a false alarm and a second of computing cost, in one unit of any currency; and the
    milliseconds a photo of both stages.
    """

    miss: float
    false_alarm: float = 1.0
    second: float = 0.0
    stage_ms: tuple[float, float] = (0.0, 0.0)


def expected_costs(
    scores: pd.DataFrame, thresholds_1: Iterable[float], threshold_2: SupportsFloat, prevalence: float, prices: Prices
) -> pd.DataFrame:
    """Expected cost of a photo for every first threshold; minus infinity lets every photo pass.

        cost = prevalence (1 - recall) miss + (1 - prevalence) false-alarm rate * false_alarm
               + (stage_ms[0] + passed * stage_ms[1]) / 1000 * second

    ``recall`` and ``false_alarm`` are the whole cascade's rates, ``passed`` the share of the line's photos that stage 2
    sees, ``cost`` the sum of ``miss_cost``, ``false_alarm_cost`` and ``time_cost``.
    """
    limits = np.array([float(value) for value in thresholds_1], dtype=np.float32)
    first, flagged = scores["score_1"].to_numpy(dtype=np.float32), exceeds(scores["score_2"], threshold_2)
    table = pd.DataFrame({"threshold_1": limits.astype(float)})
    passed, shares = {}, {"recall": prevalence, "false_alarm": 1 - prevalence}
    for name, kind in (("recall", 1), ("false_alarm", 0)):
        of_kind = scores["label_index"].to_numpy() == kind
        for rates, photos in ((table, of_kind & flagged), (passed, of_kind)):
            above = photos.sum() - np.searchsorted(np.sort(first[photos]), limits, side="right")
            rates[name] = above / (of_kind.sum() or np.nan)
    # a class that does not occur on the line may be unknown (NaN)
    table["passed"] = np.sum([share * passed[name] for name, share in shares.items() if share > 0], axis=0)
    table["miss_cost"] = prevalence * (1 - table["recall"]) * prices.miss if prevalence > 0 else 0.0
    table["false_alarm_cost"] = (1 - prevalence) * table["false_alarm"] * prices.false_alarm if prevalence < 1 else 0.0
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
    distinct = np.unique(scores["score_1"].to_numpy(dtype=np.float32))
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
    origin = (
        f"lowest expected cost on {len(val)} photos of val ({n_defect} defect) at {percent(prevalence)} defects, a "
        f"miss at {prices.miss:g} and a false alarm at {prices.false_alarm:g}"
    )
    counts = {"n_normal": len(val) - n_defect, "n_abnormal": n_defect}
    return Threshold(float(table["threshold_1"][cheapest]), origin, warning=FITTED, **counts)
