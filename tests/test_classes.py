import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_calibration_error

from helpers.analysis import classes
from helpers.analysis.classes import accepted_shares, classification_report, decide, open_set_report
from helpers.analysis.intervals import wilson_interval
from helpers.thresholds import conformal_threshold

CLASSES = ["crack", "fray", "hole"]


def _photos(n=300, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.choice(CLASSES, n, p=[0.6, 0.3, 0.1])
    logits = rng.normal(size=(n, 3)) + 1.5 * (truth[:, None] == np.array(CLASSES))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return truth, np.array(CLASSES)[chances.argmax(axis=1)], chances


def test_figures_are_scikit_learns_and_torchmetrics():
    truth, predicted, chances = _photos()
    report = classification_report(truth, predicted, CLASSES, chances, n_bootstrap=400)
    for name, function in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        np.testing.assert_allclose(report.by_class[name], function(truth, predicted, average=None, labels=CLASSES))
        assert report.overall[name] == pytest.approx(function(truth, predicted, average="macro"))
    expected = sk.roc_auc_score(truth, chances, multi_class="ovr", average="macro", labels=CLASSES)
    assert report.overall["auroc"] == pytest.approx(expected)
    np.testing.assert_array_equal(report.confusion, sk.confusion_matrix(truth, predicted, labels=CLASSES))
    labels = torch.tensor([CLASSES.index(name) for name in truth])
    error = multiclass_calibration_error(torch.tensor(chances), labels, 3, n_bins=15, norm="l1")
    assert report.overall["ece"] == pytest.approx(float(error), abs=1e-6)
    assert report.overall["accuracy"] == (truth == predicted).mean() and report.overall["n_classes"] == 3
    assert report.intervals["method"].tolist() == ["wilson"] + ["bootstrap"] * 4
    assert (report.intervals["n"] == 300).all() and report.by_class["n"].sum() == 300
    assert report.intervals["value"].between(report.intervals["low"], report.intervals["high"]).all()
    rows = report.by_class.set_index("class")
    ends = wilson_interval(rows.loc["fray", "recall"], rows.loc["fray", "n"])
    assert tuple(rows.loc["fray", ["recall_low", "recall_high"]]) == ends
    for name in ("f1", "auroc"):
        assert rows[name].between(rows[f"{name}_low"], rows[f"{name}_high"]).all()
    assert classification_report(truth, predicted, CLASSES, chances, n_bootstrap=400).intervals.equals(report.intervals)
    with pytest.raises(ValueError, match="other classes"):
        classification_report(truth, predicted, ["crack"], chances)


def test_two_classes_have_one_auroc():
    truth = np.array(["good", "defect", "good", "defect", "good"])
    p_defect = np.array([0.1, 0.7, 0.6, 0.35, 0.2])
    predicted = np.where(p_defect > 0.3, "defect", "good")  # by a threshold, not by the highest probability
    chances = np.stack([1 - p_defect, p_defect], axis=1)
    report = classification_report(truth, predicted, ["good", "defect"], chances, n_bootstrap=50)
    # pairs: 0.7 beats 0.1, 0.6, 0.2; 0.35 beats 0.1 and 0.2
    assert [report.overall["auroc"], *report.by_class["auroc"]] == pytest.approx([5 / 6] * 3)
    # the confidence is the probability of what was said: 0.35 for a photo called defect all the same
    assert report.reliability["confidence"].min() == pytest.approx(0.35)


def test_classes_without_photos_or_predictions():
    truth, predicted = ["crack", "crack", "fray"], ["crack", "hole", "crack"]
    report = classification_report(truth, predicted, CLASSES, np.full((3, 3), 1 / 3), n_bootstrap=50)
    rows = report.by_class.set_index("class")
    assert rows.loc["fray", ["precision", "recall", "f1"]].tolist() == [0, 0, 0]  # never predicted
    assert rows.loc["hole", "precision"] == 0
    assert rows.loc["hole", ["recall", "f1", "auroc", "recall_low", "f1_low"]].isna().all()  # no photo of it
    assert report.overall["n_classes"] == 2
    assert report.overall["recall"] == pytest.approx((1 / 2 + 0) / 2)
    assert report.overall["auroc"] == 0.5
    unused = classification_report(["crack"], ["crack"], CLASSES, np.eye(3)[:1], n_bootstrap=5)
    assert unused.by_class["precision"].isna().tolist() == [False, True, True]


def test_reliability_by_hand():
    """15 bins: 1/3 belongs to the bin that ends there, 0 to the first and 1 to the last."""
    table = classes.reliability_table([0.0, 0.3, 1 / 3, 0.95, 1.0], [False, True, False, True, True])
    assert table["n"].tolist() == [1, 0, 0, 0, 2] + [0] * 9 + [2]
    assert table["confidence"][4] == pytest.approx((0.3 + 1 / 3) / 2)
    assert table["accuracy"][[0, 4, 14]].tolist() == [0, 0.5, 1]
    assert table["accuracy"].isna().sum() == 12
    assert (table["accuracy_low"][4], table["accuracy_high"][4]) == pytest.approx(wilson_interval(0.5, 2))


def test_confusion_with_the_unknown_and_classes_that_can_be_learned():
    truth, predicted = ["crack", "crack", "dent", "stain"], ["crack", "unknown", "unknown", "fray"]
    table = classes.confusion_table(truth, predicted, [*CLASSES, "dent", "stain"], [*CLASSES, "unknown"])
    assert table.to_numpy().tolist() == [[1, 0, 0, 1], [0] * 4, [0] * 4, [0, 0, 0, 1], [0, 1, 0, 0]]
    table = pd.DataFrame({"defect_type": list("aaabbbbcc"), "group": list("123112245")})
    assert classes.learnable_classes(table) == ["a"]  # the four photos of b are of two groups


def test_decisions_by_hand():
    scores, confidence = [1.0, 2.0, 3.0, 1.0], [0.9, 0.9, 0.9, 0.4]
    assert decide(scores, None, 2.0).tolist() == [False, False, True, False]
    assert decide(scores, confidence, 2.0, 0.5).tolist() == [False, False, True, True]
    assert decide(scores, confidence, None, 0.4).tolist() == [False] * 4
    with pytest.raises(ValueError, match="not finite"):
        decide(scores, None, 2.0, 0.5)
    rng = np.random.default_rng(5)
    scores, confidence = rng.normal(30, 1, 400), rng.random(400)
    thresholds = classes.open_set_thresholds(scores, confidence)
    assert thresholds["tau"] == conformal_threshold(scores, population="known")
    rounded = decide(scores.astype(np.float32), confidence.astype(np.float32), *thresholds.values())
    np.testing.assert_array_equal(rounded, decide(scores, confidence, *thresholds.values()))


def test_accepted_shares_beside_the_promise():
    val = {"tau": np.arange(1.0, 40), "kappa": np.linspace(0.5, 0.9, 39)}
    # 15 of 20 within tau = 38; the last two are far, and unsure too
    test = {"tau": np.array([1.0] * 15 + [38.5] * 5), "kappa": np.array([0.9] * 18 + [0.1] * 2)}
    shares = accepted_shares(classes.open_set_thresholds(*val.values()), val, test).set_index(["rule", "split"])
    tau = shares.loc[("tau", "test")]
    assert (tau["n"], tau["accepted"], tau["share"], tau["promised"]) == (20, 15, 0.75, pytest.approx(38 / 40))
    # Of 20 new photos a beta-binomial number is accepted: 95 % of it lies between 16 and 20.
    share = np.random.default_rng(0).beta(38, 2, 200_000)
    drawn = np.quantile(np.random.default_rng(1).binomial(20, share), [0.025, 0.975])
    assert [tau["expected_low"], tau["expected_high"]] == (drawn / 20).tolist() == [0.8, 1.0]
    assert not tau["as_promised"] and tau["share_low"] < 0.75 < tau["share_high"]
    both = shares.loc[("tau and kappa", "test")]
    assert (both["accepted"], both["promised"]) == (15, pytest.approx(0.9))
    assert np.isnan(both["expected_low"]) and both["as_promised"] is pd.NA
    assert shares.loc[("kappa", "test"), "accepted"] == 18 and shares.loc[("kappa", "test"), "as_promised"]
    assert shares.loc[("tau", "val"), "accepted"] == 38 and np.isnan(shares.loc[("tau", "val"), "expected_low"])
    few = accepted_shares(classes.open_set_thresholds([1.0, 2, 3, 4, 5]), {"tau": [1.0]}, {"tau": np.zeros(40)}).iloc[1]
    assert few["promised"] == pytest.approx(5 / 6) and few["as_promised"]  # more than promised is no failure
    none = accepted_shares(classes.open_set_thresholds([1.0, 2]), {"tau": [1.0]}, {"tau": []})
    assert none["share"].isna().tolist() == [False, True]


def _report(truth, predicted, scores, rejected=None, **options):
    rejected = np.zeros(len(truth), bool) if rejected is None else rejected
    return open_set_report(truth, predicted, scores, rejected, ["a", "b"], **{"n_bootstrap": 20, **options})


def _strange(seed, n_known=60, n_unknown=40):
    rng = np.random.default_rng(seed)
    truth = np.r_[rng.choice(["a", "b"], n_known), rng.choice(["x", "y"], n_unknown)]
    guess = rng.choice(["a", "b"], truth.size)
    predicted = np.where(rng.random(truth.size) < 0.2, guess, np.where(truth == "a", *"ab"))
    return truth, predicted, (rng.normal(size=truth.size) + 1.2 * (np.arange(truth.size) >= n_known)).round(1)  # ties


def test_oscr_by_hand():
    """Known: scores 1 (right), 2 (wrong), 3 (right), 5 (right); unknown: 4 and 6."""
    fpr, ccr = classes.oscr_curve(np.array([1, 2, 3, 5]), np.array([True, False, True, True]), np.array([4, 6]))
    np.testing.assert_allclose(fpr, [0, 0, 0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(ccr, [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75])
    report = _report(["a", "a", "a", "a", "x", "x"], ["a", "b", "a", "a", "a", "b"], [1, 2, 3, 5, 4, 6])
    # unknown at 4: two right ones below it, at 6: three; of 4 known photos
    assert report.intervals["value"]["oscr"] == report.curves["oscr"] == pytest.approx((2 / 4 + 3 / 4) / 2)
    wrong = _report(["a", "x"], ["b", "a"], [1, 2])
    assert wrong.curves["oscr"] == wrong.intervals.loc["oscr", "high"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_oscr_and_fpr_are_those_of_pytorch_ood(seed):
    from pytorch_ood.metrics.functional import fpr_at_tpr, oscr_score

    truth, predicted, scores = _strange(seed)
    known = np.isin(truth, ["a", "b"])
    values = _report(truth, predicted, scores).intervals["value"]
    assert values["auroc"] == pytest.approx(sk.roc_auc_score(~known, scores))
    codes = torch.tensor([-1 if name in "xy" else "ab".index(name) for name in truth])
    said = torch.tensor(["ab".index(name) for name in predicted])
    assert values["oscr"] == pytest.approx(oscr_score(torch.tensor(scores), said, codes))
    # pytorch-ood takes unknown for positive; known and unknown change places, and larger and smaller
    swapped = fpr_at_tpr(-torch.tensor(scores), torch.tensor(np.where(known, -1, 0)))
    assert values["fpr_at_95_tpr"] == pytest.approx(float(swapped))


def test_rates_at_the_thresholds_by_hand():
    truth = ["a", "a", "b", "b", "x", "x", "x", "y"]
    predicted = ["a", "b", "b", "b", "a", "a", "b", "b"]
    rejected = [False, False, True, False, True, True, False, False]
    report = _report(truth, predicted, [1, 2, 5, 1, 6, 7, 2, 1], rejected)
    expected = {"closed_set_accuracy": 0.75, "known_accepted": 0.75, "known_right": 0.5, "unknown_detected": 0.5}
    expected["open_set_accuracy"] = 0.5  # 2 known and 2 unknown of 8
    assert report.intervals["value"].iloc[3:].to_dict() == expected
    assert report.intervals["n"].iloc[3:].tolist() == [4, 4, 4, 4, 8]
    assert (report.curves["n_known"], report.curves["n_unknown"]) == (4, 4)
    by_class = report.by_class.set_index("class")
    assert by_class["known"].tolist() == [True, True, False, False]
    assert by_class["n"].tolist() == [2, 2, 3, 1]
    assert by_class["rejected"].tolist() == [0, 0.5, pytest.approx(2 / 3), 0]
    assert by_class["right"].tolist() == [0.5, 0.5, pytest.approx(2 / 3), 0]
    assert by_class["right"].between(by_class["right_low"], by_class["right_high"]).all()
    assert by_class["auroc"].isna().tolist() == [True, True, False, False]
    assert by_class.loc["y", "auroc"] == pytest.approx((0 + 0 + 0.5 + 0.5) / 4)  # 1 against 1, 2, 5, 1


def test_the_interval_of_oscr_is_as_wide_as_its_spread_over_fresh_draws():
    fresh = [_report(*_strange(seed), n_bootstrap=1).curves["oscr"] for seed in range(60)]
    low, value, high = _report(*_strange(0), n_bootstrap=1000).intervals.loc["oscr", ["low", "value", "high"]]
    assert low < value < high and high - low == pytest.approx(2 * 1.96 * np.std(fresh), rel=0.3)


def test_only_known_or_only_unknown_photos():
    known = _report(["a", "b"], ["a", "a"], [1, 2], [False, True]).intervals["value"]
    assert known[["auroc", "oscr", "fpr_at_95_tpr", "unknown_detected"]].isna().all()
    assert known["known_accepted"] == 0.5
    unknown = _report(["x"], ["a"], [1], [True]).intervals["value"]
    assert math.isnan(unknown["closed_set_accuracy"]) and unknown["unknown_detected"] == 1
