"""Comparisons: paired differences against DeLong, operating points and counts by hand, one table over data sets."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from helpers.analysis import comparison
from helpers.analysis.comparison import decision_rates, operating_points, paired_differences, recall_by_size, size_edges
from helpers.analysis.intervals import wilson_interval
from helpers.studies.evaluation import overall_leaderboard, published_results
from helpers.thresholds import Threshold, zero_miss_threshold

N_NORMAL, N_ABNORMAL = 120, 80


def predicted(scores, labels) -> pd.DataFrame:
    names = [f"{number:03d}.png" for number in range(len(labels))]
    return pd.DataFrame({"image_path": names, "label_index": labels, "score": scores})


@pytest.fixture(scope="module")
def pair() -> dict[str, pd.DataFrame]:
    """Two models whose scores share most of what makes a photo hard."""
    draw = np.random.default_rng(0)
    labels = np.r_[np.zeros(N_NORMAL, int), np.ones(N_ABNORMAL, int)]
    shared = draw.normal(size=labels.size)
    return {
        name: predicted(gap * labels + shared + 0.5 * draw.normal(size=labels.size), labels)
        for name, gap in (("a", 1.8), ("b", 1.4))
    }


def delong(first: np.ndarray, second: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Difference of two AUROCs on the same photos and its standard error (DeLong et al. 1988), by its definition."""
    placed = []
    for scores in (first, second):
        wins = (scores[truth][:, None] > scores[~truth][None]) + 0.5 * (scores[truth][:, None] == scores[~truth][None])
        placed.append((wins.mean(axis=1), wins.mean(axis=0)))
    (a_abnormal, a_normal), (b_abnormal, b_normal) = placed
    over_abnormal, over_normal = a_abnormal - b_abnormal, a_normal - b_normal
    variance = over_abnormal.var(ddof=1) / truth.sum() + over_normal.var(ddof=1) / (~truth).sum()
    return float(over_abnormal.mean()), float(np.sqrt(variance))


def test_the_difference_of_aurocs_is_delongs(pair):
    row = paired_differences(pair, n=4000).iloc[0]
    truth = pair["a"]["label_index"].to_numpy().astype(bool)
    difference, error = delong(pair["a"]["score"].to_numpy(), pair["b"]["score"].to_numpy(), truth)
    assert row["difference"] == pytest.approx(difference)
    assert row["difference"] == pytest.approx(row["value_a"] - row["value_b"])
    assert (row["high"] - row["low"]) / (2 * norm.ppf(0.975)) == pytest.approx(error, rel=0.08)
    assert row["share_above"] == pytest.approx(norm.cdf(difference / error), abs=0.03)
    assert (row["n_normal"], row["n_abnormal"], row["n_resamples"]) == (N_NORMAL, N_ABNORMAL, 4000)
    # the same photos: much narrower than if each model had its own
    apart = [delong(pair[name]["score"].to_numpy(), np.zeros(truth.size), truth)[1] for name in "ab"]
    assert error < 0.6 * np.hypot(*apart)


def test_the_same_ranking_differs_in_no_resample(pair):
    """What is drawn must be the same photos: a model against its own scores stretched, rows shuffled."""
    stretched = pair["a"].assign(score=np.exp(pair["a"]["score"])).sample(frac=1, random_state=1)
    row = paired_differences({"a": pair["a"], "again": stretched}, n=200).iloc[0]
    assert row[["difference", "low", "high", "share_above", "share_below"]].tolist() == [0] * 5


def test_three_models_are_three_pairs_and_one_class_has_no_difference(pair):
    three = pair | {"c": pair["b"].assign(score=-pair["b"]["score"])}
    rows = paired_differences(three, n=50, seed=3)
    assert list(zip(rows["model_a"], rows["model_b"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert rows["low"].iloc[2] > 0 and rows["share_above"].iloc[2] == 1
    normal = {name: table[table["label_index"] == 0] for name, table in pair.items()}
    row = paired_differences(normal, n=20).iloc[0]
    assert np.isnan(row[["difference", "low", "high", "share_above"]].astype(float)).all()


def test_what_cannot_be_paired_is_refused(pair):
    for other in (pair["b"].iloc[1:], pair["b"].assign(label_index=1)):
        with pytest.raises(ValueError, match="b was tested on other"):
            paired_differences({"a": pair["a"], "b": other})


VAL = predicted([0.1, 0.2, 0.3, 0.55, 0.4, 0.6, 0.8], [0, 0, 0, 0, 1, 1, 1])
TEST = predicted([0.1, 0.35, 0.37, 0.5, 0.9, 0.2, 0.38, 0.5, 0.7, 0.9], [0] * 5 + [1] * 5)


def test_rates_of_decisions():
    defect, first = [False] * 4 + [True] * 4, np.array([0, 0, 1, 1, 0, 0, 1, 1], bool)
    rates = decision_rates({"one": first, "both": first & [False, True] * 4}, defect).set_index("decided_by")
    assert rates["found"].tolist() == rates["false_alarms"].tolist() == [2, 1]
    assert rates["recall"].tolist() == rates["false_alarm"].tolist() == [0.5, 0.25]
    assert (rates[["n_normal", "n_abnormal"]] == 4).all(axis=None)
    assert rates.loc["both", ["recall_low", "recall_high"]].tolist() == pytest.approx(wilson_interval(0.25, 4))
    normal = decision_rates({"all": first[:4]}, defect[:4])
    assert normal["recall"].isna().all() and normal["false_alarm"].item() == 0.5


def test_operating_points_by_hand():
    stored = Threshold(0.55, "95 % of held-out normal photos accepted", accept=0.95, n_normal=4)
    points = operating_points(VAL, TEST, stored).set_index("point")
    assert points.index.tolist() == ["acceptance", "best F1", "zero misses"]
    # val: 0.55 flags 2 of 3 defects and no good photo (F1 0.8); just below 0.4 all 3 and one good (F1 6 / 7)
    assert points.loc["acceptance", "threshold"] == 0.55
    assert 0.3 < points.loc["zero misses", "threshold"] < 0.4
    assert points.loc["best F1", "threshold"] == points.loc["zero misses", "threshold"] == pytest.approx(0.35)
    assert points["found"].tolist() == [2, 4, 4] and points["false_alarms"].tolist() == [1, 3, 3]
    assert points["recall"].tolist() == [0.4, 0.8, 0.8] and points["false_alarm"].tolist() == [0.2, 0.6, 0.6]
    assert (points["n_normal"] == 5).all() and (points["refused"] == "").all()


def test_points_that_need_defects_are_refused_where_val_has_none():
    good = VAL[VAL["label_index"] == 0]
    points = operating_points(good, TEST, Threshold(0.55, "given")).set_index("point")
    assert points["found"].isna().tolist() == [False, True, True] and points["found"].iloc[0] == 2
    assert (points["refused"] != "").tolist() == [False, True, True]
    assert points[["threshold", "recall", "n_normal"]].iloc[1:].isna().all(axis=None)
    only = operating_points(VAL[VAL["label_index"] == 1], TEST, Threshold(0.55, "given")).set_index("point")
    assert only["found"].isna().tolist() == [False, True, False] and only.loc["zero misses", "found"] == 3


def test_no_defect_is_missed_even_once_scores_are_float32():
    draw = np.random.default_rng(0)
    for _ in range(50):
        scores = draw.uniform(size=30).astype(np.float32)
        labels = np.arange(30) < 10
        threshold = zero_miss_threshold(scores.astype(float), labels)
        lowest = scores[labels].min()
        assert (scores[labels] > threshold.value).all()
        assert ((scores > threshold.value) == (scores >= lowest)).all(), "the highest such threshold"
    assert threshold.n_abnormal == 10 and "91 %" in threshold.warning  # 10 of 11
    tied = zero_miss_threshold([0.5, 0.5, 0.2], [0, 1, 0])
    assert 0.2 <= tied.value < 0.5


def test_counts_at_every_threshold_by_hand():
    counts = comparison.threshold_counts([0, 0, 1, 1], [1.0, 2.0, 2.0, 3.0])
    assert counts["threshold"].iloc[0] < 1.0 and counts["threshold"].tolist()[1:] == [1.0, 2.0, 3.0]
    assert counts["found"].tolist() == [2, 2, 1, 0] and counts["missed"].tolist() == [0, 0, 1, 2]
    assert counts["false_alarms"].tolist() == [2, 1, 0, 0] and counts["accepted"].tolist() == [0, 1, 2, 2]


def test_recall_by_size_by_hand():
    defects = pd.DataFrame({"size": [0.5, 1, 1.5, 2, 3, 3], "detected": [0, 0, 1, 1, 1, 0], "unit": "mm"})
    bins = recall_by_size(defects, [0, 1, 2, 3, 9])
    assert bins["n"].tolist() == [1, 2, 1, 2], "each with its lower edge"
    assert bins["found"].tolist() == [0, 1, 1, 1]
    np.testing.assert_array_equal(bins["recall"], [0, 0.5, 1, 0.5])
    assert bins["recall_low"].iloc[0] == 0 and bins["recall_high"].iloc[2] == 1 and set(bins["unit"]) == {"mm"}
    last = recall_by_size(defects, [0, 1, 3])
    assert last["n"].tolist() == [1, 5], "the last with its upper edge"
    empty = recall_by_size(defects, [0, 4, np.inf])
    assert empty["n"].tolist() == [6, 0] and np.isnan(empty["recall"].iloc[1])
    halves = recall_by_size(defects, size_edges(defects["size"], 2))
    assert halves["n"].tolist() == [3, 3] and halves["size_high"].iloc[-1] == 3
    np.testing.assert_array_equal(comparison.size_groups([0, 1, 2, 3], np.array([0, 1, 3])), [0, 1, 1, 1])
    for n in (1, 5):  # defects of one size are one bin
        same = pd.DataFrame({"size": [3.0] * n, "detected": [True] * n, "unit": "mm"})
        rows = recall_by_size(same, size_edges(same["size"], 4))
        assert rows[["size_low", "size_high", "n", "found"]].to_numpy().tolist() == [[3, 3, n, n]]


def test_one_table_over_all_data_sets(tmp_path):
    boards = {"nuts/quick": "unet,0.7\npatchcore,0.9\n", "mesh/full": "unet,0.5\n", "mesh/.x": "no,1\n"}
    for folder, rows in boards.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "leaderboard.csv").write_text("model,image_auroc\n" + rows)
    (tmp_path / "mesh" / "smoke").mkdir()
    board = overall_leaderboard(tmp_path)
    assert board["dataset"].tolist() == ["mesh", "nuts", "nuts"] and board["profile"].iloc[0] == "full"
    assert board["image_auroc"].tolist() == [0.5, 0.9, 0.7], "the best of a data set first"
    for damaged in ("", "a,b\n1,2\n"):
        (tmp_path / "mesh" / "full" / "leaderboard.csv").write_text(damaged)
        with pytest.raises(ValueError, match="full/leaderboard.csv cannot be read"):
            overall_leaderboard(tmp_path)


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"name": "screw", "layout": "mvtec", "root": "/data/mvtec/screw"}, 0.999),
        ({"name": "screw", "layout": "mvtec", "root": "C:\\data\\MVTec_anomaly_detection\\screw"}, 0.999),
        ({"name": "candle", "layout": "visa", "root": "/data/x"}, 0.988),
        ({"name": "MPDD", "layout": "mvtec", "root": "/data/x"}, 0.996),
        # many data sets have the MVTec layout, and a name that only begins alike is another's
        ({"name": "advisable", "layout": "mvtec", "root": "/data/mvtec3d"}, None),
        ({}, None),
    ],
)
def test_published_numbers_stand_beside_their_data_set(attrs, expected):
    table = pd.DataFrame()
    table.attrs |= attrs
    published = published_results(table)
    assert published["image_auroc"].tolist() == ([] if expected is None else [expected])
    assert published["cited"].all() and published["source"].str.contains("GLASS").all()
