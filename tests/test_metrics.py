import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from test_pixels import photos_with_masks

from helpers.analysis.intervals import bootstrap, percentile_interval, wilson_interval
from helpers.analysis.metrics import (
    IMAGE_METRICS,
    LEADERBOARD_COLUMNS,
    evaluate,
    image_curves,
    image_draws,
    image_intervals,
    image_metrics,
    leaderboard_row,
)
from helpers.analysis.pixels import PIXEL_METRICS, count_pixels, pixel_counts, pixel_metrics
from helpers.thresholds import conformal_threshold

LABELS = [0, 0, 0, 1, 1, 0, 1, 1]
SCORES = [1, 2, 3, 4, 5, 6, 7, 8]


def test_image_metrics_by_hand():
    got = image_metrics(LABELS, SCORES, threshold=4)
    assert (got["n_normal"], got["n_abnormal"]) == (4, 4)
    assert got["image_auroc"] == pytest.approx(14 / 16)  # of 16 pairs only (6 normal) against 4 and 5 is lost
    assert got["image_ap"] == pytest.approx((1 + 1 + 3 / 4 + 4 / 5) / 4)  # precision at each hit from the top
    assert got["image_f1max"] == pytest.approx(8 / 9)  # flag >= 4: tp 4, fp 1
    assert got["fpr_at_95_recall"] == pytest.approx(1 / 4)
    assert got["recall_at_threshold"] == pytest.approx(3 / 4)  # 4 itself is not above 4
    assert got["false_alarm_at_threshold"] == pytest.approx(1 / 4)
    assert image_metrics([0, 1], [1.0, 1.0])["image_auroc"] == 0.5  # a tie counts half
    scores = np.concatenate([[0.5], np.arange(2, 21), [1.0, 0.0]])  # exactly 19 of 20 defects above both normals
    assert image_metrics(np.r_[np.ones(20), 0, 0], scores)["fpr_at_95_recall"] == 0.0
    curves = image_curves(LABELS, SCORES, 4)
    assert curves["operating_point"].tolist() == [1 / 4, 3 / 4, 3 / 4]
    assert curves["image_auroc"] == got["image_auroc"] and curves["tpr"][-1] == 1


@pytest.mark.parametrize("present", [0, 1])
def test_one_class_gives_nan_not_a_traceback(present):
    got = image_metrics([present] * 3, [0.1, 0.2, 0.3], threshold=0.25)
    assert np.isnan([got["image_auroc"], got["image_ap"], got["image_f1max"], got["fpr_at_95_recall"]]).all()
    known, unknown = ("recall_at_threshold", "false_alarm_at_threshold")[:: 1 if present else -1]
    assert got[known] == pytest.approx(1 / 3)
    assert np.isnan(got[unknown])
    assert image_intervals([present] * 3, [0.1, 0.2, 0.3], n=10)["low"].isna().all()
    assert image_curves([present] * 3, [0.1, 0.2, 0.3])["fpr"].size == 0
    with pytest.raises(ValueError, match="scores"):
        image_metrics([0, present], [0.1, np.nan])


def test_draws_are_the_metric_on_the_resampled_photos():
    rng = np.random.default_rng(0)
    labels = np.repeat([False, True], [12, 9])
    scores = (rng.normal(size=21) + labels).round(1)
    draws = image_draws(labels, scores, 0.5, n=20, seed=4)
    # The same resamples by hand: normal photos first, then abnormal ones.
    rng = np.random.default_rng(4)
    normal = scores[:12][rng.integers(0, 12, (20, 12))]
    abnormal = scores[12:][rng.integers(0, 9, (20, 9))]
    for row in range(20):
        expected = image_metrics(labels, np.r_[normal[row], abnormal[row]], 0.5)
        for name in IMAGE_METRICS:
            assert draws[name][row] == pytest.approx(expected[name], abs=1e-12), name


def test_bootstrap_draws_within_strata_whatever_the_chunks():
    strata = np.repeat(["a", "b"], [3, 5])
    counts = bootstrap(lambda weights: {"weights": weights}, strata, n=200)["weights"]
    assert (counts[:, :3].sum(axis=1) == 3).all() and (counts[:, 3:].sum(axis=1) == 5).all()
    many = np.zeros(1_500_000, int)  # more than one chunk
    assert bootstrap(lambda weights: {"n": weights.sum(axis=1)}, many, n=3)["n"].tolist() == [1_500_000] * 3
    assert np.isnan(percentile_interval([1.0, np.nan])).all() and np.isnan(percentile_interval([])).all()


def test_rates_have_wilsons_interval_whatever_they_are():
    labels = np.r_[np.zeros(10), np.ones(100)]
    scores = np.r_[np.zeros(10), np.ones(80), np.zeros(20)]
    table = image_intervals(labels, scores, 0.5, n=10)
    assert table["method"].tolist() == ["bootstrap"] * 4 + ["wilson"] * 2
    assert table.loc["recall_at_threshold", ["low", "high"]].tolist() == pytest.approx([0.7112, 0.8666], abs=1e-4)
    perfect = table.loc["false_alarm_at_threshold", ["low", "high"]].tolist()  # published Wilson 0 of 10
    assert perfect == pytest.approx([0, 1 - 0.7225], abs=1e-4)
    assert np.isnan(wilson_interval(np.nan, 0)).all()


def _test_set():
    maps, masks = photos_with_masks(np.random.default_rng(11), 12)
    labels = [int(mask.any()) for mask in masks]
    types = ["good" if not flag else ("hole", "scratch")[i % 2] for i, flag in enumerate(labels)]
    paths = [f"/data/{i}.png" for i in range(12)]
    scores = [float(values.max()) for values in maps]
    table = pd.DataFrame({"image_path": paths, "label_index": labels, "defect_type": types, "score": scores})
    return table, maps, masks


def test_evaluate_splits_by_type():
    table, maps, masks = _test_set()
    image_threshold = conformal_threshold(table["score"][table["label_index"] == 0], 0.5)
    found = evaluate(table, iter(maps), (mask for mask in masks), image_threshold, 0.5, n_bootstrap=100)
    photos = [count_pixels(values, mask, 0.5) for values, mask in zip(maps, masks, strict=True)]
    expected = image_metrics(table["label_index"], table["score"], image_threshold)
    expected |= pixel_counts(photos) | pixel_metrics(photos)
    expected |= {"threshold": image_threshold.value, "pixel_threshold": 0.5}
    assert found.overall == expected

    chosen = table["defect_type"].isin(["good", "hole"])
    holes = [photo for photo, inside in zip(photos, chosen, strict=True) if inside]
    row = found.by_type.set_index("defect_type").loc["hole"]
    expected = image_metrics(table["label_index"][chosen], table["score"][chosen], image_threshold)
    expected |= pixel_metrics(holes) | pixel_counts(holes)
    assert row[[*expected]].to_dict() == expected
    for name in ("pixel_aupro", "mean_dice_defect_photos", "recall_at_threshold"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert found.by_type["defect_type"].tolist() == ["hole", "scratch"]
    assert found.intervals.index.tolist() == [*IMAGE_METRICS, *PIXEL_METRICS]
    inside = found.intervals.dropna(subset=["low"])
    assert len(inside) >= 6 and (inside["low"] <= inside["value"] + 1e-9).all()
    flagged = table["score"] > image_threshold.value
    assert found.curves["operating_point"][2] == pytest.approx(table["label_index"][flagged].mean())


def test_evaluate_without_maps_masks_or_defects():
    table, maps, masks = _test_set()
    plain = evaluate(table, n_bootstrap=20)
    assert np.isnan([plain.overall[name] for name in (*PIXEL_METRICS, "threshold", "recall_at_threshold")]).all()
    assert plain.overall["image_auroc"] == roc_auc_score(table["label_index"], table["score"])
    unmasked = evaluate(table, maps, [None] * 12, 0.5, 0.5, n_bootstrap=20)
    assert unmasked.overall["n_empty_masks"] == 8
    assert np.isnan(unmasked.overall["pixel_auroc"])
    assert unmasked.overall["normal_photos_with_defect_pixels"] == 1.0
    normal = table["label_index"] == 0
    good = [maps[k] for k in np.flatnonzero(normal)]
    nothing = evaluate(table[normal], good, [None] * 4, 0.5, 0.5, n_bootstrap=20)
    full = evaluate(table, maps, masks, 0.5, 0.5, n_bootstrap=20)
    assert nothing.by_type.empty and list(nothing.by_type.columns) == list(full.by_type.columns)
    assert nothing.overall["false_alarm_at_threshold"] == (table["score"][normal] > 0.5).mean()


def test_evaluate_names_the_photo_at_fault():
    table, maps, masks = _test_set()
    with pytest.raises(ValueError, match=r"/data/1\.png: .*finite"):
        evaluate(table, [maps[0], maps[1] * np.nan, *maps[2:]], masks, n_bootstrap=2)
    with pytest.raises(ValueError, match="shorter"):
        evaluate(table, maps[:-1], masks, n_bootstrap=2)


def test_leaderboard_row_keeps_the_published_columns_in_order():
    evaluation = evaluate(*_test_set(), 0.5, 0.5, n_bootstrap=20)
    row = leaderboard_row("patchcore", evaluation, fit_seconds=3.5, backbone="untrained")
    assert tuple(row)[: len(LEADERBOARD_COLUMNS)] == LEADERBOARD_COLUMNS
    assert list(row)[len(LEADERBOARD_COLUMNS)] == "backbone"
    assert row["fit_seconds"] == 3.5 and np.isnan(row["ms_per_image"])
    assert (row["n_test_normal"], row["n_test_abnormal"]) == (4, 8)
    assert row["pixel_aupro"] == evaluation.overall["pixel_aupro"] and "pixel_iou" in row
