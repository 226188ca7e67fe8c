import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta
from sklearn.metrics import f1_score

from helpers.thresholds import (
    Threshold,
    best_dice_threshold,
    best_f1_threshold,
    conformal_threshold,
    describe,
    held_out_thresholds,
    percent,
)


# In floats 100 * 0.07 is 7.000000000000001, whose ceiling is 8.
@pytest.mark.parametrize(
    ("n", "accept", "rank"),
    [(19, 0.95, 19), (20, 0.95, 20), (38, 0.95, 38), (39, 0.95, 38), (100, 0.95, 96), (99, 0.07, 7)],
)
def test_rank_by_hand(n, accept, rank):
    threshold = conformal_threshold(np.random.default_rng(0).permutation(np.arange(1, n + 1)), accept)
    assert threshold.value == threshold.rank == rank  # the k-th smallest of 1..n is k
    assert threshold.guaranteed == pytest.approx(rank / (n + 1)) and threshold.guaranteed >= accept
    assert (threshold.warning, threshold.n_normal) == ("", n)


def test_too_few_photos_say_what_they_can_promise():
    threshold = conformal_threshold([0.3, 0.1, 0.2], 0.95)
    assert (threshold.value, threshold.guaranteed) == (0.3, pytest.approx(3 / 4))
    assert "75 %" in threshold.warning and "at least 19" in threshold.warning and "75 %" in describe(threshold)
    assert conformal_threshold(np.arange(18.0)).warning and not conformal_threshold(np.arange(19.0)).warning
    assert "1 held-out normal photo " in conformal_threshold([0.5]).warning


def test_interval_is_the_beta_distributions():
    ends = conformal_threshold(np.arange(100.0), 0.95).interval
    assert ends == pytest.approx(beta.ppf([0.05, 0.95], 96, 5), abs=1e-9)
    # Rank n of n: the distribution function is x^n, so the quantiles are the n-th roots.
    assert conformal_threshold(np.arange(19.0)).interval == pytest.approx((0.05 ** (1 / 19), 0.95 ** (1 / 19)))


def test_words_name_the_population_the_kind_and_the_side():
    pixel = conformal_threshold(np.arange(40.0), 0.9, kind="pixel")
    assert "90 % of held-out normal photos" in pixel.origin and "show no defect pixel" in describe(pixel)
    known = conformal_threshold(np.arange(39.0), population="known")
    assert known.value == conformal_threshold(np.arange(39.0)).value
    assert "called unknown above 37" in describe(known) and "95 % of new known photos are accepted" in describe(known)
    five = conformal_threshold(np.arange(5.0), population="known")
    assert "83.3 % of known photos" in five.warning  # 5 / 6
    assert "normal" not in describe(known) + describe(five) + five.origin
    confidences = np.random.default_rng(0).permutation(np.arange(1, 40))
    below = conformal_threshold(confidences, population="known", below=True)
    assert below.value == 2 and (~below.exceeds(confidences)).sum() == 38  # k = 38 of n = 39: the 38th largest
    assert "called unknown below 2" in describe(below)
    few = conformal_threshold([0.7, 0.9], below=True)
    assert few.value == 0.7 and "lowest of 2" in few.origin


@pytest.mark.parametrize(
    ("scores", "accept"),
    [([], 0.9), ([0.1, np.nan], 0.9), ([[0.1, 0.2]], 0.9), ([0.1], 0.0), ([0.1], 95), ([0.1], np.nan)],
)
def test_wrong_arguments_are_named(scores, accept):
    with pytest.raises(ValueError, match="scores" if accept == 0.9 else "accept"):
        conformal_threshold(scores, accept)


def test_json_round_trip():
    for threshold in (conformal_threshold(np.arange(40, dtype=np.float32)), best_f1_threshold([0.1, 0.9], [0, 1])):
        text = json.dumps(threshold.to_dict(), allow_nan=False)
        assert Threshold.from_dict(json.loads(text)) == threshold
        assert float(threshold) == threshold.value
    assert Threshold.from_dict({"value": 1.0, "origin": "x", "from_a_later_version": 3}).value == 1.0


@pytest.mark.parametrize(
    "damaged",
    [
        {"origin": None},
        {"value": "0.5"},
        {"value": True},
        {"below": "false"},
        {"below": 1},
        {"kind": 3},
        {"rank": "19"},
    ],
)
def test_stored_fields_of_a_wrong_type_are_refused(damaged):
    assert Threshold.from_dict({"value": 1, "origin": "x"}).value == 1
    for stored in ({"value": 1.0, "origin": "x"} | damaged, damaged, [damaged]):
        with pytest.raises(ValueError, match="threshold"):
            Threshold.from_dict(stored)


def test_best_f1_by_hand():
    threshold = best_f1_threshold([0.1, 0.2, 0.4, 0.6, 0.8], [0, 0, 1, 0, 1])
    # Flag > 0.2: tp 2, fp 1 -> F1 0.8; flag only 0.8: tp 1, fn 1 -> 0.667. Midway between 0.2 and 0.4.
    assert threshold.value == pytest.approx(0.3)
    assert (threshold.n_normal, threshold.n_abnormal, threshold.guaranteed) == (3, 2, None)
    assert "no rate" in describe(threshold)


@pytest.mark.parametrize("seed", range(3))
def test_best_f1_is_the_brute_force_best(seed):
    rng = np.random.default_rng(seed)
    labels = rng.random(60) < 0.3
    scores = (rng.normal(size=60) + labels).round(1).astype(np.float32)  # ties among them
    best = max(f1_score(labels, scores > value) for value in [-100.0, *np.unique(scores)])
    assert f1_score(labels, best_f1_threshold(scores, labels).exceeds(scores)) == pytest.approx(best, abs=1e-12)


def test_best_f1_at_the_ends():
    assert 0.5 > best_f1_threshold([0.5, 0.5, 0.5], [1, 1, 0]).value > 0.4999
    adjacent = np.array([1, np.nextafter(np.float32(1), np.float32(2))], np.float32)
    assert best_f1_threshold(adjacent, [0, 1]).exceeds(adjacent).tolist() == [False, True]
    with pytest.raises(ValueError, match="one class"):
        best_f1_threshold([0.1, 0.2], [1, 1])


def test_percent():
    assert [percent(share) for share in (0.95, 0.975, 0.9999, 1.0)] == ["95 %", "97.5 %", "99.99 %", "100 %"]


def test_best_dice_by_hand():
    """Mask of two pixels with values 0.9 and 0.5, another pixel at 0.4: between 0.4 and 0.5 the overlap is perfect."""
    maps = [np.array([[0.9, 0.5], [0.4, 0.0]], np.float16)] * 3
    masks = [np.array([[True, True], [False, False]]), None, np.zeros((2, 2), bool)]
    threshold = best_dice_threshold(maps, iter(masks))
    assert 0.4 <= threshold.value < 0.5
    assert (threshold.kind, threshold.n_abnormal) == ("pixel", 1) and "1.000" in threshold.origin
    with pytest.raises(ValueError, match="no defect"):
        best_dice_threshold([np.zeros((2, 2))], [None])


def test_held_out_thresholds_are_those_of_the_good_photos():
    val = pd.DataFrame(
        {"label_index": [0] * 39 + [1] * 2, "score": [*range(1, 40), 90, 91], "map_max": [*range(101, 140), 190, 191]}
    )
    found = held_out_thresholds(val, 0.95)
    assert found["image"] == conformal_threshold(range(1, 40), 0.95)
    assert found["pixel"] == conformal_threshold(range(101, 140), 0.95, kind="pixel")
    assert found["image_best_f1"] == best_f1_threshold(val["score"], val["label_index"])
    assert set(held_out_thresholds(val[:39])) == {"image", "pixel"}
    with pytest.raises(ValueError, match="normal photo"):
        held_out_thresholds(val[39:])
    start = held_out_thresholds(val[39:], start=0.3)
    assert {threshold.value for threshold in start.values()} == {0.3} and start["image"].guaranteed is None
    assert all("not calibrated" in threshold.origin for threshold in start.values())


def test_the_rule_compares_as_float32():
    threshold = Threshold(value=0.1, origin="given")
    assert not threshold.exceeds(np.float32(0.1)).any()  # float32(0.1) is 0.100000001490116
    assert threshold.exceeds(np.nextafter(np.float32(0.1), np.float32(1)))
    assert not threshold.exceeds(np.full((8, 8), 0.1, np.float64)).any()
    for score in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not finite"):
            threshold.exceeds([0.1, score])
    confidence = Threshold(value=0.1, origin="given", below=True)
    assert confidence.exceeds([0.05, 0.1, 0.2]).tolist() == [True, False, False]


@pytest.mark.parametrize("value", [float("nan"), -float("inf"), None, "0.5", True, 1e39])
def test_a_threshold_is_finite(value):
    for build in (Threshold, lambda **fields: Threshold.from_dict(fields)):
        with pytest.raises(ValueError, match="threshold"):
            build(value=value, origin="given")
