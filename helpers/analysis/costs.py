"""What a cascade of two stages is for, in numbers: what it finds, loses and costs.

A photo goes on to stage 2 when its ``score_1`` is above the first threshold, and is called defect when its ``score_2``
is above the second one too. All it needs are both scores of every photo, of those too that stage 1 would stop:
DataFrames with ``label_index`` (0 normal, 1 defect), ``score_1`` and ``score_2``.

The share of defects in a test set is rarely that of the line. Costs are therefore put together from the rates of normal
and of defect photos, each measured apart, at a stated share of defects (``prevalence``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.analysis.intervals import wilson_interval
from helpers.thresholds import Threshold, exceeds, percent

SCORE_COLUMNS = ("label_index", "score_1", "score_2")


@dataclass(frozen=True)
class Prices:
    """What mistakes and time cost, in one unit of any currency.

    Attributes:
        miss: of a defect photo that passes as good.
        false_alarm: of a good photo that is called defect.
        second: of a second of computing.
        stage_ms: milliseconds per photo of stage 1 and of stage 2.

    Raises:
        ValueError: For a negative number.
    """

    miss: float
    false_alarm: float = 1.0
    second: float = 0.0
    stage_ms: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if not all(np.isfinite(value) and value >= 0 for value in np.atleast_1d(values)):
                raise ValueError(f"{name} must be finite and not negative, got {values}.")
        if len(self.stage_ms) != 2:
            raise ValueError(f"stage_ms must hold the milliseconds of two stages, got {self.stage_ms}.")


def cascade_rates(
    scores: pd.DataFrame, threshold_1: SupportsFloat, threshold_2: SupportsFloat, *, level: float = 0.95
) -> pd.DataFrame:
    """Recall and false alarms of stage 1 alone, of stage 2 alone, and of both in a row.

    Args:
        scores: `SCORE_COLUMNS`, a row a photo of test.
        threshold_1: defect, or going on, is a score_1 above it.
        threshold_2: defect is a score_2 above it.
        level: of Wilson's intervals.

    Returns:
        Rows ``stage 1 alone``, ``stage 2 alone``, ``both`` (column ``decided_by``): ``n_normal``, ``n_defect``,
        ``found`` (defect photos called so), ``false_alarms`` (normal photos called defect), and ``recall``,
        ``false_alarm_rate``, each with ``_low`` and ``_high``; NaN where a class is missing.

    Raises:
        ValueError: When a column is missing or a score not finite.
    """
    defect, first, second = _columns(scores)
    flagged_1, flagged_2 = exceeds(first, threshold_1), exceeds(second, threshold_2)
    rows = []
    for name, flagged in (
        ("stage 1 alone", flagged_1),
        ("stage 2 alone", flagged_2),
        ("both", flagged_1 & flagged_2),
    ):
        row: dict[str, Any] = {"decided_by": name, "n_normal": int((~defect).sum()), "n_defect": int(defect.sum())}
        row |= {"found": int(flagged[defect].sum()), "false_alarms": int(flagged[~defect].sum())}
        for rate, photos in (("recall", flagged[defect]), ("false_alarm_rate", flagged[~defect])):
            share = float(photos.mean()) if photos.size else np.nan
            low, high = wilson_interval(share, photos.size, level)
            row |= {rate: share, f"{rate}_low": low, f"{rate}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def lost_photos(scores: pd.DataFrame, threshold_1: SupportsFloat, threshold_2: SupportsFloat) -> pd.DataFrame:
    """The defect photos that stage 1 stops: no later stage can find them.

    Args:
        scores: `SCORE_COLUMNS` and any more; see `cascade_rates`.
        threshold_1: of stage 1.
        threshold_2: of stage 2.

    Returns:
        Their rows, nearest to the first threshold first, with ``found_by_stage_2``: whether stage 2 would have found
        the photo, so that stage 1 alone is to blame.
    """
    defect, first, second = _columns(scores)
    stopped = defect & ~exceeds(first, threshold_1)
    lost = scores[stopped].assign(found_by_stage_2=exceeds(second[stopped], threshold_2))
    return lost.sort_values("score_1", ascending=False, kind="stable")


def expected_costs(
    scores: pd.DataFrame,
    thresholds_1: Iterable[float],
    threshold_2: SupportsFloat,
    *,
    prevalence: float,
    prices: Prices,
) -> pd.DataFrame:
    """Expected cost of a photo for every first threshold.

        cost = prevalence (1 - recall) miss + (1 - prevalence) false-alarm rate * false_alarm
               + (stage_ms[0] + passed * stage_ms[1]) / 1000 * second

    Args:
        scores: `SCORE_COLUMNS`.
        thresholds_1: first thresholds; minus infinity lets every photo pass.
        threshold_2: of stage 2.
        prevalence: share of defects on the line, in [0, 1].
        prices: of mistakes and of time.

    Returns:
        A row a threshold: ``threshold_1``; of the whole cascade ``recall`` and ``false_alarm_rate``; ``passed``, the
        share of the line's photos that stage 2 sees; ``miss_cost``, ``false_alarm_cost``, ``time_cost`` and their sum
        ``cost``.

    Raises:
        ValueError: When a column is missing, a class has no photo that the prevalence needs, or a number lies outside
            its range.
    """
    defect, first, second = _columns(scores)
    if not 0 <= prevalence <= 1:
        raise ValueError(f"prevalence must lie in [0, 1], got {prevalence}.")
    if (prevalence > 0 and not defect.any()) or (prevalence < 1 and defect.all()):
        raise ValueError(f"scores holds no {'normal' if defect.any() else 'defect'} photo: its rate is not known.")
    limits = np.array([float(value) for value in thresholds_1], dtype=np.float32)
    flagged_2 = exceeds(second, threshold_2)
    # the share of photos above each limit: those that go on, and of these the ones that stage 2 flags
    passed = {kind: _above(first[defect == kind], limits, (defect == kind).sum()) for kind in (False, True)}
    called = {
        kind: _above(first[(defect == kind) & flagged_2], limits, (defect == kind).sum()) for kind in (False, True)
    }
    table = pd.DataFrame(
        {"threshold_1": limits.astype(np.float64), "recall": called[True], "false_alarm_rate": called[False]}
    )
    table["passed"] = _mixed(passed[True], passed[False], prevalence)
    table["miss_cost"] = _mixed(1 - called[True], np.zeros(limits.size), prevalence) * prices.miss
    table["false_alarm_cost"] = _mixed(np.zeros(limits.size), called[False], prevalence) * prices.false_alarm
    milliseconds = prices.stage_ms[0] + table["passed"] * prices.stage_ms[1]
    table["time_cost"] = milliseconds / 1000 * prices.second
    table["cost"] = table["miss_cost"] + table["false_alarm_cost"] + table["time_cost"]
    return table


def cost_without_stage_1(
    scores: pd.DataFrame, threshold_2: SupportsFloat, *, prevalence: float, prices: Prices
) -> float:
    """Expected cost of a photo when stage 2 sees them all and stage 1 does not run; see `expected_costs`."""
    alone = Prices(prices.miss, prices.false_alarm, prices.second, (0.0, prices.stage_ms[1]))
    table = expected_costs(scores, [-np.inf], threshold_2, prevalence=prevalence, prices=alone)
    return float(table["cost"].iloc[0])


def first_thresholds(scores: pd.DataFrame) -> NDArray[np.float64]:
    """The first thresholds worth comparing, rising: one just below all scores (every photo goes on), then each score.

    Args:
        scores: `SCORE_COLUMNS`, of val.
    """
    distinct = np.unique(_columns(scores)[1])
    return np.r_[np.nextafter(distinct[0], np.float32(-np.inf)), distinct].astype(np.float64)


def best_first_threshold(
    val: pd.DataFrame, threshold_2: SupportsFloat, *, prevalence: float, prices: Prices
) -> Threshold:
    """The first threshold of lowest expected cost on val; of equally cheap ones the lowest, which stops fewest photos.

    It is fitted to these photos and promises nothing about new ones: on test its cost is measured by `expected_costs`.

    Args:
        val: `SCORE_COLUMNS`, of val photos, both classes.
        threshold_2: of stage 2.
        prevalence: share of defects on the line.
        prices: of mistakes and of time.
    """
    table = expected_costs(val, first_thresholds(val), threshold_2, prevalence=prevalence, prices=prices)
    best = table.iloc[_cheapest(table)]
    n_defect = int((val["label_index"] == 1).sum())
    return Threshold(
        value=float(best["threshold_1"]),
        origin=(
            f"lowest expected cost on {len(val)} photos of val ({n_defect} defect) at {percent(prevalence)} defects, "
            f"a miss at {prices.miss:g} and a false alarm at {prices.false_alarm:g}"
        ),
        n_normal=len(val) - n_defect,
        n_abnormal=n_defect,
        warning="Fitted to these photos: it promises no rate on new ones.",
    )


def best_threshold_table(
    val: pd.DataFrame,
    threshold_2: SupportsFloat,
    *,
    prevalences: Sequence[float],
    price_ratios: Sequence[float],
    prices: Prices,
) -> pd.DataFrame:
    """How the best first threshold moves with the share of defects and with the price of a miss.

    Args:
        val: `SCORE_COLUMNS`, of val photos, both classes.
        threshold_2: of stage 2.
        prevalences: shares of defects on the line.
        price_ratios: price of a miss over that of a false alarm.
        prices: of a false alarm and of time; its price of a miss is not used.

    Returns:
        A row a share and ratio: ``prevalence``, ``price_ratio``, the columns of `expected_costs` at the best threshold
        (`best_first_threshold`), and ``cost_without_stage_1``; all on val.
    """
    limits = first_thresholds(val)
    rows = []
    for prevalence in prevalences:
        for ratio in price_ratios:
            now = Prices(ratio * prices.false_alarm, prices.false_alarm, prices.second, prices.stage_ms)
            table = expected_costs(val, limits, threshold_2, prevalence=prevalence, prices=now)
            row = {"prevalence": prevalence, "price_ratio": ratio, **table.iloc[_cheapest(table)]}
            alone = cost_without_stage_1(val, threshold_2, prevalence=prevalence, prices=now)
            rows.append(row | {"cost_without_stage_1": alone})
    return pd.DataFrame(rows)


def _cheapest(table: pd.DataFrame) -> int:
    cost = table["cost"].to_numpy()
    return int(np.flatnonzero(cost <= cost.min() * (1 + 1e-12))[0])  # equal but for rounding


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
    missing = [name for name in SCORE_COLUMNS if name not in scores]
    if missing or scores.empty:
        raise ValueError(f"scores lacks {', '.join(missing) or 'rows'}; it needs {', '.join(SCORE_COLUMNS)}.")
    values = [scores[name].to_numpy(dtype=np.float32) for name in SCORE_COLUMNS[1:]]
    for name, column in zip(SCORE_COLUMNS[1:], values, strict=True):
        if not np.isfinite(column).all():
            raise ValueError(
                f"{name} must be finite; {int((~np.isfinite(column)).sum())} of {column.size} are not. Score every "
                "photo with both stages, those too that stage 1 stops."
            )
    return scores["label_index"].to_numpy() == 1, values[0], values[1]
