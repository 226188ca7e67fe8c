import numpy as np
import pandas as pd
import pytest

from helpers.analysis.costs import (
    Prices,
    best_first_threshold,
    best_threshold_table,
    cascade_rates,
    cost_without_stage_1,
    expected_costs,
    first_thresholds,
    lost_photos,
)
from helpers.analysis.metrics import wilson_interval
from helpers.thresholds import describe

# Four normal photos, four defect ones; thresholds 0.5 and 0.5.
SCORES = pd.DataFrame(
    {
        "image_path": list("abcdefgh"),
        "label_index": [0, 0, 0, 0, 1, 1, 1, 1],
        "score_1": [0.1, 0.2, 0.6, 0.7, 0.3, 0.4, 0.8, 0.9],
        "score_2": [0.1, 0.9, 0.2, 0.8, 0.9, 0.1, 0.9, 0.2],
    }
)
PRICES = Prices(miss=100, false_alarm=10, second=2, stage_ms=(50, 500))


def _draw(n=400, seed=0):
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.3).astype(int)
    first, second = rng.normal(size=(2, n)).round(1) + label * [[1.5], [2.0]]
    return pd.DataFrame({"label_index": label, "score_1": first, "score_2": second})


def test_rates_by_hand():
    rates = cascade_rates(SCORES, 0.5, 0.5).set_index("decided_by")
    assert list(rates.index) == ["stage 1 alone", "stage 2 alone", "both"]
    assert rates["found"].tolist() == [2, 2, 1]  # g, h; e, g; g
    assert rates["false_alarms"].tolist() == [2, 2, 1]  # c, d; b, d; d
    assert rates["recall"].tolist() == [0.5, 0.5, 0.25]
    assert rates["false_alarm_rate"].tolist() == [0.5, 0.5, 0.25]
    assert (rates["n_normal"] == 4).all()
    assert (rates["n_defect"] == 4).all()
    assert rates.loc["both", ["recall_low", "recall_high"]].tolist() == pytest.approx(wilson_interval(0.25, 4))


def test_a_score_at_the_threshold_does_not_pass():
    rates = cascade_rates(SCORES, 0.8, 0.5).set_index("decided_by")
    assert rates.loc["stage 1 alone", "found"] == 1  # h alone: g is at 0.8
    assert "g" in lost_photos(SCORES, 0.8, 0.5)["image_path"].tolist()


def test_both_is_never_more_than_either():
    scores = _draw()
    for first in (-1.0, 0.5, 2.0):
        rates = cascade_rates(scores, first, 0.8).set_index("decided_by")
        for name in ("found", "false_alarms"):
            assert rates.loc["both", name] <= rates[name].min()


def test_lost_photos_by_hand():
    lost = lost_photos(SCORES, 0.5, 0.5)
    assert lost["image_path"].tolist() == ["f", "e"]  # nearest to the threshold first
    assert lost["found_by_stage_2"].tolist() == [False, True]
    assert lost_photos(SCORES, 0.2, 0.5).empty
    assert list(lost_photos(SCORES, 0.2, 0.5).columns) == [*SCORES.columns, "found_by_stage_2"]


def test_cost_by_hand():
    """At 10 % defects: misses 0.1 * 0.75 * 100, false alarms 0.9 * 0.25 * 10, time 50 + 0.5 * 500 ms at 2 a second."""
    row = expected_costs(SCORES, [0.5], 0.5, prevalence=0.1, prices=PRICES).iloc[0]
    assert row["recall"] == 0.25
    assert row["false_alarm_rate"] == 0.25
    assert row["passed"] == pytest.approx(0.5)
    assert row["miss_cost"] == pytest.approx(7.5)
    assert row["false_alarm_cost"] == pytest.approx(2.25)
    assert row["time_cost"] == pytest.approx(0.6)
    assert row["cost"] == pytest.approx(10.35)
    # without stage 1: recall 0.5, false alarms 0.5, 500 ms
    alone = cost_without_stage_1(SCORES, 0.5, prevalence=0.1, prices=PRICES)
    assert alone == pytest.approx(0.1 * 0.5 * 100 + 0.9 * 0.5 * 10 + 1.0)
    everything = expected_costs(SCORES, [-np.inf], 0.5, prevalence=0.1, prices=PRICES).iloc[0]
    assert everything["cost"] == pytest.approx(alone + 0.1)  # stage 1 still takes its 50 ms
    assert everything["passed"] == 1


def test_the_share_of_defects_in_the_table_does_not_matter():
    """Normal photos twice: another share of defects, the same rates, the same cost on the line."""
    doubled = pd.concat([SCORES, SCORES[SCORES["label_index"] == 0]])
    arguments = {"prevalence": 0.02, "prices": PRICES}
    one = expected_costs(SCORES, [0.15, 0.5], 0.5, **arguments)
    pd.testing.assert_frame_equal(one, expected_costs(doubled, [0.15, 0.5], 0.5, **arguments))


def test_costs_are_those_of_a_loop():
    scores, prices = _draw().astype({"score_1": np.float32, "score_2": np.float32}), Prices(50, 3, 1, (20, 200))
    limits = first_thresholds(scores)
    table = expected_costs(scores, limits, 0.7, prevalence=0.05, prices=prices)
    for limit, cost in zip(limits, table["cost"], strict=True):
        total = 0.0
        for label, weight in ((0, 0.95), (1, 0.05)):
            photos = scores[scores["label_index"] == label]
            goes_on = photos["score_1"] > np.float32(limit)
            called = goes_on & (photos["score_2"] > np.float32(0.7))
            wrong = called.mean() * 3 if label == 0 else (1 - called.mean()) * 50
            total += weight * (wrong + (20 + 200 * goes_on.mean()) / 1000)
        assert cost == pytest.approx(total)


def test_candidates_let_all_or_none_pass():
    limits = first_thresholds(SCORES)
    assert (np.diff(limits) > 0).all()
    table = expected_costs(SCORES, limits, 0.5, prevalence=0.5, prices=PRICES)
    assert table["passed"].iloc[[0, -1]].tolist() == [1, 0]
    single = SCORES.astype({"score_1": np.float32, "score_2": np.float32})
    assert (single["score_1"] > np.float32(first_thresholds(single)[0])).all()


def test_best_threshold_by_hand():
    """score_2 tells nothing (both thresholds below all): stage 1 decides alone, with 0.5 between the classes."""
    val = pd.DataFrame({"label_index": [0, 0, 0, 1, 1], "score_1": [1.0, 2, 4, 3, 5], "score_2": 1.0})
    cheap_miss = best_first_threshold(val, 0, prevalence=0.5, prices=Prices(miss=1, false_alarm=10))
    assert cheap_miss.value == 4  # only 5 is called: half the defects missed, no false alarm
    dear_miss = best_first_threshold(val, 0, prevalence=0.5, prices=Prices(miss=100, false_alarm=10))
    assert dear_miss.value == 2  # 3, 4 and 5 are called
    rare = best_first_threshold(val, 0, prevalence=0.001, prices=Prices(miss=100, false_alarm=10))
    assert rare.value == 4
    free_alarms = best_first_threshold(val, 0, prevalence=0.5, prices=Prices(miss=100, false_alarm=0))
    assert free_alarms.value < 1  # nothing speaks for stopping a photo: of equally cheap ones the lowest
    assert "5 photos of val (2 defect) at 0.1 % defects" in rare.origin
    assert (rare.n_normal, rare.n_abnormal, rare.guaranteed) == (3, 2, None)
    assert "promises no rate" in describe(rare)


def test_time_alone_raises_the_threshold():
    val = pd.DataFrame(
        {"label_index": [0] * 50 + [1] * 5, "score_1": np.r_[np.arange(50), 60:65], "score_2": [0] * 50 + [1] * 5}
    )
    free = best_first_threshold(val, 0.5, prevalence=0.1, prices=Prices(miss=10))
    dear = best_first_threshold(val, 0.5, prevalence=0.1, prices=Prices(miss=10, second=1, stage_ms=(1, 100)))
    assert free.value < 0  # stage 2 is never wrong: without a price of time nothing need be stopped
    assert dear.value == 49  # all normal photos are


def test_table_moves_with_prevalence_and_price():
    val = _draw()
    prices = Prices(miss=1, false_alarm=1, second=1, stage_ms=(5, 100))
    table = best_threshold_table(val, 0.7, prevalences=[0.001, 0.05, 0.5], price_ratios=[1, 10, 1000], prices=prices)
    assert len(table) == 9
    values = table.pivot(index="prevalence", columns="price_ratio", values="threshold_1").to_numpy()
    assert (np.diff(values, axis=0) <= 0).all()  # more defects: stop fewer photos
    assert (np.diff(values, axis=1) <= 0).all()  # dearer misses: likewise
    assert values[0, 0] > values[-1, -1]
    row = table.iloc[4]
    single = best_first_threshold(val, 0.7, prevalence=0.05, prices=Prices(10, 1, 1, (5, 100)))
    assert row["threshold_1"] == single.value
    costs = expected_costs(val, first_thresholds(val), 0.7, prevalence=0.05, prices=Prices(10, 1, 1, (5, 100)))
    assert row["cost"] == costs["cost"].min()
    assert row["cost_without_stage_1"] == cost_without_stage_1(
        val, 0.7, prevalence=0.05, prices=Prices(10, 1, 1, (5, 100))
    )


def test_one_class_only():
    normal = SCORES[SCORES["label_index"] == 0]
    rates = cascade_rates(normal, 0.5, 0.5)
    assert rates["recall"].isna().all()
    assert rates["false_alarm_rate"].notna().all()
    row = expected_costs(normal, [0.5], 0.5, prevalence=0, prices=PRICES).iloc[0]
    assert row["cost"] == pytest.approx(0.25 * 10 + 0.6)
    with pytest.raises(ValueError, match="no defect photo"):
        expected_costs(normal, [0.5], 0.5, prevalence=0.1, prices=PRICES)
    with pytest.raises(ValueError, match="no normal photo"):
        expected_costs(SCORES[4:], [0.5], 0.5, prevalence=0.1, prices=PRICES)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="lacks score_2"):
        cascade_rates(SCORES.drop(columns="score_2"), 0.5, 0.5)
    with pytest.raises(ValueError, match="lacks rows"):
        cascade_rates(SCORES[:0], 0.5, 0.5)
    with pytest.raises(ValueError, match="score_2 must be finite; 1 of 8"):
        cascade_rates(SCORES.assign(score_2=[np.nan] + [0.5] * 7), 0.5, 0.5)
    with pytest.raises(ValueError, match="prevalence"):
        expected_costs(SCORES, [0.5], 0.5, prevalence=5, prices=PRICES)
    for wrong in ({"miss": -1}, {"miss": 1, "false_alarm": np.nan}, {"miss": 1, "stage_ms": (1, -1)}):
        with pytest.raises(ValueError, match=list(wrong)[-1]):
            Prices(**wrong)
    with pytest.raises(ValueError, match="two stages"):
        Prices(1, stage_ms=(1,))
