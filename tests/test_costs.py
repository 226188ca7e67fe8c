"""What a cascade of two stages finds and costs, worked out by hand and by a loop."""

import numpy as np
import pandas as pd
import pytest

from helpers.analysis.costs import Prices, best_first_threshold, cost_without_stage_1, expected_costs, first_thresholds

# Four normal photos, four defect ones; thresholds 0.5 and 0.5.
SCORES = pd.DataFrame(
    {
        "label_index": [0, 0, 0, 0, 1, 1, 1, 1],
        "score_1": [0.1, 0.2, 0.6, 0.7, 0.3, 0.4, 0.8, 0.9],
        "score_2": [0.1, 0.9, 0.2, 0.8, 0.9, 0.1, 0.9, 0.2],
    }
)
PRICES = Prices(miss=100, false_alarm=10, second=2, stage_ms=(50, 500))


def test_cost_by_hand():
    """At 10 % defects: misses 0.1 * 0.75 * 100, false alarms 0.9 * 0.25 * 10, time 50 + 0.5 * 500 ms at 2 a second."""
    row = expected_costs(SCORES, [0.5], 0.5, prevalence=0.1, prices=PRICES).iloc[0]
    assert (row["recall"], row["false_alarm"], row["passed"]) == pytest.approx((0.25, 0.25, 0.5))
    costs = row[["miss_cost", "false_alarm_cost", "time_cost", "cost"]].tolist()
    assert costs == pytest.approx([7.5, 2.25, 0.6, 10.35])
    # without stage 1: recall 0.5, false alarms 0.5, 500 ms
    alone = cost_without_stage_1(SCORES, 0.5, prevalence=0.1, prices=PRICES)
    assert alone == pytest.approx(0.1 * 0.5 * 100 + 0.9 * 0.5 * 10 + 1.0)
    everything = expected_costs(SCORES, [-np.inf], 0.5, prevalence=0.1, prices=PRICES).iloc[0]
    assert everything["cost"] == pytest.approx(alone + 0.1) and everything["passed"] == 1  # stage 1 takes its 50 ms
    normal = SCORES[SCORES["label_index"] == 0]
    assert expected_costs(normal, [0.5], 0.5, prevalence=0, prices=PRICES)["cost"].item() == pytest.approx(2.5 + 0.6)


def test_costs_are_those_of_a_loop_whatever_share_of_defects_the_table_has():
    scores, prices = SCORES.astype(dict.fromkeys(["score_1", "score_2"], "float32")), Prices(50, 3, 1, (20, 200))
    limits = first_thresholds(scores)
    assert (np.diff(limits) > 0).all() and (scores["score_1"] > np.float32(limits[0])).all()
    table = expected_costs(scores, limits, 0.7, prevalence=0.05, prices=prices)
    assert table["passed"].iloc[[0, -1]].tolist() == [1, 0]
    for limit, cost in zip(limits, table["cost"], strict=True):
        total = 0.0
        for label, weight in ((0, 0.95), (1, 0.05)):
            photos = scores[scores["label_index"] == label]
            goes_on = photos["score_1"] > np.float32(limit)
            called = goes_on & (photos["score_2"] > np.float32(0.7))
            wrong = called.mean() * 3 if label == 0 else (1 - called.mean()) * 50
            total += weight * (wrong + (20 + 200 * goes_on.mean()) / 1000)
        assert cost == pytest.approx(total)
    doubled = pd.concat([scores, scores[scores["label_index"] == 0]])
    pd.testing.assert_frame_equal(table, expected_costs(doubled, limits, 0.7, prevalence=0.05, prices=prices))


@pytest.mark.parametrize(
    ("prevalence", "prices", "best"),
    [
        (0.5, Prices(1, 10), 4),  # only 5 is called: half the defects missed, no false alarm
        (0.5, Prices(100, 10), 2),  # 3, 4 and 5 are called
        (0.001, Prices(100, 10), 4),
        (0.5, Prices(100, 0), 1),  # nothing speaks for stopping a photo: just below the lowest
        (0.1, Prices(0, 0, 1, (1, 100)), 5),  # time alone: all are stopped
    ],
)
def test_best_threshold(prevalence, prices, best):
    """score_2 tells nothing (both thresholds below all): stage 1 decides alone."""
    val = pd.DataFrame({"label_index": [0, 0, 0, 1, 1], "score_1": [1.0, 2, 4, 3, 5], "score_2": 1.0})
    found = best_first_threshold(val, 0, prevalence=prevalence, prices=prices)
    assert found.value == pytest.approx(best) and (found.value < 1) == (best == 1)
    assert (found.n_normal, found.n_abnormal, found.guaranteed) == (3, 2, None) and found.warning
