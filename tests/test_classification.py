import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_calibration_error

from helpers.analysis.classes import (
    classification_report,
    confusion_table,
    expected_calibration_error,
    learnable_classes,
    reliability_table,
    threshold_rates,
)
from helpers.analysis.intervals import wilson_interval
from helpers.analysis.metrics import image_intervals
from helpers.thresholds import Threshold

CLASSES = ["crack", "fray", "hole"]


def _draw(n=300, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.choice(CLASSES, n, p=[0.6, 0.3, 0.1])
    logits = rng.normal(size=(n, 3)) + 1.5 * (truth[:, None] == np.array(CLASSES))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return truth, np.array(CLASSES)[chances.argmax(axis=1)], chances


def test_rates_by_hand():
    """crack: 3 photos, 2 found, 3 called so; fray: 2 photos, 1 found, 2 called so; hole: 1 photo, found."""
    truth = ["crack", "crack", "crack", "fray", "fray", "hole"]
    predicted = ["crack", "crack", "fray", "crack", "fray", "hole"]
    report = classification_report(truth, predicted, CLASSES, n_bootstrap=50)
    rows = report.by_class.set_index("class")
    assert rows["n"].tolist() == [3, 2, 1]
    assert rows["n_predicted"].tolist() == [3, 2, 1]
    assert rows["precision"].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert rows["recall"].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert rows["f1"].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert report.overall["n"] == 6
    assert report.overall["n_classes"] == 3
    assert report.overall["accuracy"] == pytest.approx(4 / 6)
    assert report.overall["f1"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert report.confusion.to_numpy().tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert rows.loc["fray", ["recall_low", "recall_high"]].tolist() == pytest.approx(wilson_interval(0.5, 2))
    assert report.intervals.loc["accuracy", "low"] == pytest.approx(wilson_interval(4 / 6, 6)[0])
    assert math.isnan(report.overall["auroc"])
    assert math.isnan(report.overall["ece"])
    assert report.reliability["n"].sum() == 0


def test_figures_are_scikit_learns():
    truth, predicted, chances = _draw()
    report = classification_report(truth, predicted, CLASSES, chances, n_bootstrap=50)
    for name, function in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        np.testing.assert_allclose(report.by_class[name], function(truth, predicted, average=None, labels=CLASSES))
        assert report.overall[name] == pytest.approx(function(truth, predicted, average="macro"))
    assert report.overall["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
    expected = sk.roc_auc_score(truth, chances, multi_class="ovr", average="macro", labels=CLASSES)
    assert report.overall["auroc"] == pytest.approx(expected)
    np.testing.assert_array_equal(report.confusion, sk.confusion_matrix(truth, predicted, labels=CLASSES))


def test_two_classes_have_one_auroc():
    truth = np.array(["good", "defect", "good", "defect", "good"])
    p_defect = np.array([0.1, 0.7, 0.6, 0.35, 0.2])
    predicted = np.where(p_defect > 0.3, "defect", "good")  # by a threshold, not by the highest probability
    chances = np.stack([1 - p_defect, p_defect], axis=1)
    report = classification_report(truth, predicted, ["good", "defect"], chances, n_bootstrap=50)
    # pairs: 0.7 beats 0.1, 0.6, 0.2; 0.35 beats 0.1 and 0.2
    assert report.overall["auroc"] == pytest.approx(5 / 6)
    assert report.by_class["auroc"].tolist() == pytest.approx([5 / 6, 5 / 6])
    # the confidence is the probability of what was said: 0.35 for a photo called defect all the same
    occupied = report.reliability[report.reliability["n"] > 0]
    assert occupied["confidence"].min() == pytest.approx(0.35)


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
    unused = classification_report(["crack"], ["crack"], CLASSES, n_bootstrap=5)
    assert unused.by_class["precision"].isna().tolist() == [False, True, True]
    assert math.isnan(unused.overall["auroc"])


def test_intervals_hold_their_value_and_name_their_method():
    report = classification_report(*_draw()[:2], CLASSES, _draw()[2], n_bootstrap=400)
    assert report.intervals["method"].tolist() == ["wilson", "bootstrap", "bootstrap", "bootstrap", "bootstrap"]
    assert (report.intervals["n"] == 300).all()
    for table, value in ((report.intervals, "value"), *((report.by_class, name) for name in ("f1", "auroc"))):
        low, high = ("low", "high") if value == "value" else (f"{value}_low", f"{value}_high")
        assert ((table[low] < table[value]) & (table[value] < table[high])).all()


def test_bootstrap_agrees_with_drawing_photos_one_by_one():
    """Macro F1 and AUROC of photos that are drawn class by class and given to scikit-learn."""
    truth, predicted, chances = _draw(120)
    rng = np.random.default_rng(9)
    f1, auroc = [], []
    for _ in range(400):
        drawn = np.concatenate([rng.choice(np.flatnonzero(truth == name), (truth == name).sum()) for name in CLASSES])
        f1.append(sk.f1_score(truth[drawn], predicted[drawn], average="macro", zero_division=0))
        auroc.append(sk.roc_auc_score(truth[drawn], chances[drawn], multi_class="ovr", labels=CLASSES))
    rows = classification_report(truth, predicted, CLASSES, chances, n_bootstrap=2000).intervals
    for name, draws in (("f1", f1), ("auroc", auroc)):
        assert rows.loc[name, "high"] - rows.loc[name, "low"] == pytest.approx(
            np.ptp(np.quantile(draws, [0.025, 0.975])), rel=0.2
        )
        assert rows.loc[name, "low"] == pytest.approx(np.quantile(draws, 0.025), abs=0.02)


def test_auroc_interval_of_two_classes_is_the_image_metrics_one():
    rng = np.random.default_rng(3)
    defect = rng.random(150) < 0.4
    score = (rng.random(150) * 0.6 + 0.4 * defect * rng.random(150)).round(2)  # with ties
    truth = np.where(defect, "defect", "good")
    chances = np.stack([1 - score, score], axis=1)
    report = classification_report(truth, truth, ["good", "defect"], chances, n_bootstrap=3000)
    expected = image_intervals(defect, score, n=3000).loc["image_auroc", ["low", "high"]]
    assert report.intervals.loc["auroc", ["low", "high"]].tolist() == pytest.approx(expected, abs=0.01)


def test_intervals_are_repeatable():
    truth, predicted, chances = _draw(60)
    first, second, other = (
        classification_report(truth, predicted, CLASSES, chances, n_bootstrap=100, seed=seed).intervals["low"]
        for seed in (0, 0, 1)
    )
    assert first.equals(second)
    assert not first.equals(other)


def test_reliability_by_hand():
    """Two bins: 0.2 and 0.4 (one right), and 0.5 with 1.0 (one right): 0.5 belongs to the lower bin."""
    table = reliability_table([0.2, 0.4, 0.5, 0.9, 1.0], [True, False, True, True, False], n_bins=2)
    assert table["n"].tolist() == [3, 2]
    assert table["confidence"].tolist() == pytest.approx([1.1 / 3, 0.95])
    assert table["accuracy"].tolist() == pytest.approx([2 / 3, 0.5])
    assert expected_calibration_error(table) == pytest.approx(3 / 5 * (2 / 3 - 1.1 / 3) + 2 / 5 * 0.45)
    low, high = wilson_interval(0.5, 2)
    assert (table["accuracy_low"][1], table["accuracy_high"][1]) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_torchmetrics(seed):
    truth, predicted, chances = _draw(400, seed)
    report = classification_report(truth, predicted, CLASSES, chances, n_bootstrap=5)
    labels = torch.tensor([CLASSES.index(name) for name in truth])
    expected = multiclass_calibration_error(torch.tensor(chances), labels, 3, n_bins=15, norm="l1")
    assert report.overall["ece"] == pytest.approx(float(expected), abs=1e-6)
    assert report.reliability["n"].sum() == 400
    assert len(report.reliability) == 15


def test_empty_bins_and_the_ends_of_the_scale():
    table = reliability_table([0.0, 1.0], [False, True])
    assert table["n"].tolist() == [1] + [0] * 13 + [1]
    assert table["accuracy"].isna().sum() == 13
    assert expected_calibration_error(table) == 0
    assert math.isnan(expected_calibration_error(reliability_table([], [])))
    with pytest.raises(ValueError, match="not logits"):
        reliability_table([2.0], [True])
    with pytest.raises(ValueError, match="n_bins"):
        reliability_table([0.5], [True], 0)


def test_confusion_with_the_unknown():
    truth, predicted = ["crack", "crack", "dent", "stain"], ["crack", "unknown", "unknown", "fray"]
    table = confusion_table(truth, predicted, CLASSES, unknown=True)
    assert list(table.columns) == list(table.index) == [*CLASSES, "unknown"]
    assert table.loc["unknown"].tolist() == [0, 1, 0, 1]
    assert table.loc["crack"].tolist() == [1, 0, 0, 1]
    named = confusion_table(truth, predicted, CLASSES, rows=[*CLASSES, "dent", "stain"], unknown=True)
    assert named.loc["stain"].tolist() == [0, 1, 0, 0]
    assert named.shape == (5, 4)
    assert confusion_table([], [], CLASSES).to_numpy().sum() == 0
    with pytest.raises(ValueError, match="dent, stain"):
        confusion_table(truth, ["crack"] * 4, CLASSES)
    with pytest.raises(ValueError, match="predicted holds unknown"):
        confusion_table(["crack"], ["unknown"], CLASSES)


def test_bad_arguments_are_named():
    truth, predicted, chances = _draw(20)
    for arguments, message in [
        ((truth, predicted[:-1], CLASSES), "20 entries and predicted 19"),
        (([], [], CLASSES), "some"),
        ((truth, predicted, CLASSES[:2]), "not among"),
        ((truth, predicted, ["crack", "crack", "fray", "hole"]), "different names"),
        ((truth, predicted, CLASSES, chances[:, :2]), r"\(20, 3\)"),
        ((truth, predicted, CLASSES, np.log(chances)), "softmax"),
    ]:
        with pytest.raises(ValueError, match=message):
            classification_report(*arguments)
    with pytest.raises(ValueError, match="n_bootstrap"):
        classification_report(truth, predicted, CLASSES, n_bootstrap=0)


def test_what_a_threshold_accepts_and_finds_by_hand():
    val = pd.DataFrame({"label_index": [0, 0, 0, 0], "score": [0.1, 0.2, 0.3, 0.5]})
    test = pd.DataFrame({"label_index": [0, 0, 1, 1, 1], "score": [0.4, 0.5, 0.4, 0.41, 0.9]})
    rates = threshold_rates({"start": Threshold(value=0.4, origin="given")}, val, test).set_index("split")
    assert rates["accepted"].to_dict() == {"val": 0.75, "test": 0.5}  # a score of 0.4 is accepted
    assert rates.loc["test", "found"] == pytest.approx(2 / 3) and rates.loc["test", "n_abnormal"] == 3
    assert math.isnan(rates.loc["val", "found"]) and rates.loc["val", "n_abnormal"] == 0
    assert (rates.loc["test", "found_low"], rates.loc["test", "found_high"]) == wilson_interval(2 / 3, 3)


def test_classes_that_can_be_learned_have_three_groups():
    table = pd.DataFrame({"defect_type": list("aaabbbbcc"), "group": list("123112245")})
    assert learnable_classes(table) == ["a"]  # the four photos of b are of two groups
    assert learnable_classes(table, least=2) == ["a", "b", "c"]
