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


@pytest.mark.parametrize(("n", "rank"), [(19, 19), (20, 20), (38, 38), (39, 38), (99, 95), (100, 96)])
def test_rank_by_hand(n, rank):
    scores = np.random.default_rng(0).permutation(np.arange(1, n + 1))
    threshold = conformal_threshold(scores, 0.95)
    assert threshold.rank == rank
    assert threshold.value == rank  # the k-th smallest of 1..n is k
    assert threshold.guaranteed == pytest.approx(rank / (n + 1))
    assert threshold.guaranteed >= 0.95
    assert threshold.warning == ""
    assert threshold.n_normal == n
    assert threshold.origin == "95 % of held-out normal photos accepted"


def test_rank_does_not_jump_on_a_rounding_error():
    # In floats 100 * 0.07 is 7.000000000000001, whose ceiling is 8.
    assert conformal_threshold(np.arange(1.0, 100.0), 0.07).rank == 7


def test_too_few_photos_say_what_they_can_promise():
    threshold = conformal_threshold([0.3, 0.1, 0.2], 0.95)
    assert threshold.value == 0.3
    assert threshold.guaranteed == pytest.approx(3 / 4)
    assert "75 %" in threshold.warning
    assert "at least 19" in threshold.warning
    assert "too few for 95 %" in threshold.origin
    assert "75 %" in describe(threshold)
    assert conformal_threshold(np.arange(18.0)).warning and not conformal_threshold(np.arange(19.0)).warning
    one = conformal_threshold([0.5])
    assert (one.value, one.guaranteed) == (0.5, 0.5)
    assert "1 held-out normal photo " in one.warning


def test_interval_is_the_beta_distributions():
    threshold = conformal_threshold(np.arange(100.0), 0.95)
    assert threshold.interval_low == pytest.approx(beta.ppf(0.05, 96, 5), abs=1e-9)
    assert threshold.interval_high == pytest.approx(beta.ppf(0.95, 96, 5), abs=1e-9)
    # Rank n of n: the distribution function is x^n, so the quantiles are the n-th roots.
    all_of = conformal_threshold(np.arange(19.0), 0.95)
    ends = (all_of.interval_low, all_of.interval_high)
    assert ends == (pytest.approx(0.05 ** (1 / 19)), pytest.approx(0.95 ** (1 / 19)))


def test_a_pixel_threshold_says_what_it_promises():
    threshold = conformal_threshold(np.arange(40.0), 0.9, kind="pixel")
    assert (threshold.kind, threshold.origin) == ("pixel", "no defect pixel on 90 % of held-out normal photos")
    assert "show no defect pixel" in describe(threshold)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"scores": []}, "scores"),
        ({"scores": [0.1, np.nan]}, "scores"),
        ({"scores": [0.1, np.inf]}, "scores"),
        ({"scores": [[0.1, 0.2]]}, "scores"),
        ({"scores": [0.1], "accept": 0.0}, "accept"),
        ({"scores": [0.1], "accept": 1.0}, "accept"),
        ({"scores": [0.1], "accept": 95}, "accept"),
        ({"scores": [0.1], "accept": float("nan")}, "accept"),
    ],
)
def test_wrong_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        conformal_threshold(**arguments)


def test_json_round_trip():
    for threshold in (conformal_threshold(np.arange(40, dtype=np.float32)), best_f1_threshold([0.1, 0.9], [0, 1])):
        text = json.dumps(threshold.to_dict(), allow_nan=False)
        assert Threshold.from_dict(json.loads(text)) == threshold
        assert float(threshold) == threshold.value
    assert Threshold.from_dict({"value": 1.0, "origin": "x", "from_a_later_version": 3}).value == 1.0
    good = {"value": 1.0, "origin": "x"}
    for damaged in ({"value": 1.0}, ["value"], good | {"warning": 3}, good | {"n_normal": True}, good | {"below": 1}):
        with pytest.raises(ValueError, match="stored threshold"):
            Threshold.from_dict(damaged)


def test_best_f1_by_hand():
    threshold = best_f1_threshold([0.1, 0.2, 0.4, 0.6, 0.8], [0, 0, 1, 0, 1])
    # Flag > 0.2: tp 2, fp 1 -> F1 0.8; flag only 0.8: tp 1, fn 1 -> 0.667. Midway between 0.2 and 0.4.
    assert threshold.value == pytest.approx(0.3)
    assert threshold.origin == "best F1 on 5 photos of val (2 abnormal)"
    assert (threshold.n_normal, threshold.n_abnormal) == (3, 2)
    assert threshold.guaranteed is None
    assert "no rate" in describe(threshold)


@pytest.mark.parametrize("seed", range(5))
def test_best_f1_is_the_brute_force_best(seed):
    rng = np.random.default_rng(seed)
    labels = rng.random(60) < 0.3
    scores = (rng.normal(size=60) + labels).round(1).astype(np.float32)  # ties among them
    candidates = np.concatenate([[-100.0], np.unique(scores)])
    best = max(f1_score(labels, scores > value) for value in candidates)
    threshold = best_f1_threshold(scores, labels)
    assert f1_score(labels, scores > threshold.value) == pytest.approx(best, abs=1e-12)


def test_best_f1_at_the_ends():
    all_flagged = best_f1_threshold([0.5, 0.5, 0.5], [1, 1, 0])
    assert 0.5 > all_flagged.value > 0.4999
    lower, upper = np.float32(1.0), np.nextafter(np.float32(1.0), np.float32(2.0))
    adjacent = best_f1_threshold(np.array([lower, upper]), [0, 1])
    assert not lower > np.float32(adjacent.value)
    assert upper > np.float32(adjacent.value)
    with pytest.raises(ValueError, match="one class"):
        best_f1_threshold([0.1, 0.2], [1, 1])


def test_known_photos_are_called_known():
    threshold = conformal_threshold(np.arange(39.0), population="known")
    assert threshold.value == conformal_threshold(np.arange(39.0)).value
    assert threshold.origin == "95 % of held-out known photos accepted"
    assert "called unknown above 37" in describe(threshold)
    assert "95 % of new known photos are accepted" in describe(threshold)
    five = conformal_threshold(np.arange(5.0), population="known")
    assert "5 held-out known photos cannot promise 95 %" in five.warning
    assert "83.3 % of known photos" in five.warning  # 5 / 6
    assert "normal" not in describe(threshold) + describe(five) + five.origin
    with pytest.raises(ValueError, match="known photo"):
        conformal_threshold([], population="known")


def test_a_confidence_is_accepted_from_the_threshold_on():
    confidences = np.random.default_rng(0).permutation(np.arange(1, 40))
    threshold = conformal_threshold(confidences, population="known", below=True)
    assert threshold.value == 2  # k = 38 of n = 39: the 38th largest
    assert (confidences >= threshold.value).sum() == 38
    assert "called unknown below 2" in describe(threshold)
    assert Threshold.from_dict(json.loads(json.dumps(threshold.to_dict()))) == threshold
    few = conformal_threshold([0.7, 0.9], below=True)
    assert (few.value, few.origin) == (0.7, "lowest of 2 held-out normal photos (too few for 95 %)")


def test_percent():
    assert percent(0.95) == "95 %"
    assert percent(0.975) == "97.5 %"
    assert percent(0.9999) == "99.99 %"
    assert percent(1.0) == "100 %"


def test_best_dice_by_hand():
    """Mask of two pixels with values 0.9 and 0.5, another pixel at 0.4: between 0.4 and 0.5 the overlap is perfect."""
    anomaly_map = np.array([[0.9, 0.5], [0.4, 0.0]], np.float32)
    mask = np.array([[True, True], [False, False]])
    normal = np.zeros((2, 2), np.float32)
    threshold = best_dice_threshold([anomaly_map, normal], [mask, np.zeros((2, 2), bool)])
    assert 0.4 <= threshold.value < 0.5
    assert threshold.kind == "pixel"
    assert threshold.n_abnormal == 1
    assert threshold.origin == "best mean Dice on 1 defect photos of val (1.000)"


def test_best_dice_holds_one_map_at_a_time():
    class Maps:
        """As a memory-mapped file: it gives a map where it is asked for one."""

        asked: list[int] = []  # noqa: RUF012

        def __len__(self):
            return 3

        def __getitem__(self, row):
            self.asked.append(row)
            return np.array([[0.9, 0.5], [0.4, 0.0]], np.float16)

        def __iter__(self):
            raise AssertionError("all of them are read")

    masks = iter([np.array([[True, True], [False, False]]), None, np.zeros((2, 2), bool)])
    assert 0.4 <= best_dice_threshold(Maps(), masks).value < 0.5 and set(Maps.asked) == {0}
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


def test_nothing_is_calibrated_without_good_photos():
    val = pd.DataFrame({"label_index": [1], "score": [0.9], "map_max": [0.9]})
    with pytest.raises(ValueError, match="normal photo"):
        held_out_thresholds(val)
    found = held_out_thresholds(val, start=0.3)
    assert {threshold.value for threshold in found.values()} == {0.3}
    assert all("not calibrated" in threshold.origin for threshold in found.values())
    assert found["image"].guaranteed is None


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None, "high", "0.5", True, 1e39])
def test_a_threshold_is_finite(value):
    with pytest.raises(ValueError, match="finite"):
        Threshold(value=value, origin="given")
    with pytest.raises(ValueError, match="finite"):
        Threshold.from_dict({"value": value, "origin": "stored"})
