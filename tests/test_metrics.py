import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.metrics.aupro import _AUPRO
from skimage.measure import label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from helpers.analysis.intervals import wilson_interval
from helpers.analysis.metrics import (
    IMAGE_METRICS,
    LEADERBOARD_COLUMNS,
    PIXEL_METRICS,
    PixelMetrics,
    _key_scores,
    _order_keys,
    by_defect_type,
    evaluate,
    image_curves,
    image_draws,
    image_intervals,
    image_metrics,
    leaderboard_row,
    photo_overlap,
)
from helpers.thresholds import conformal_threshold

LABELS = [0, 0, 0, 1, 1, 0, 1, 1]
SCORES = [1, 2, 3, 4, 5, 6, 7, 8]


# ---------------------------------------------------------------------------------------------------- images


def test_image_metrics_by_hand():
    got = image_metrics(LABELS, SCORES, threshold=4)
    assert (got["n_normal"], got["n_abnormal"]) == (4, 4)
    # Of 16 pairs only (6 normal) against 4 and 5 is lost.
    assert got["image_auroc"] == pytest.approx(14 / 16)
    # Precision at each hit from the top: 1/1, 2/2, 3/4, 4/5.
    assert got["image_ap"] == pytest.approx((1 + 1 + 3 / 4 + 4 / 5) / 4)
    assert got["image_f1max"] == pytest.approx(8 / 9)  # flag >= 4: tp 4, fp 1
    assert got["fpr_at_95_recall"] == pytest.approx(1 / 4)
    assert got["recall_at_threshold"] == pytest.approx(3 / 4)  # 4 itself is not above 4
    assert got["false_alarm_at_threshold"] == pytest.approx(1 / 4)


def test_ties_count_half():
    assert image_metrics([0, 1], [1.0, 1.0])["image_auroc"] == 0.5
    assert image_metrics([0, 1], [1.0, 1.0])["fpr_at_95_recall"] == 1.0


def test_fpr_at_95_recall_takes_exactly_95_percent():
    scores = np.concatenate([[0.5], np.arange(2, 21), [1.0, 0.0]])  # 19 of 20 defects above both normals
    labels = np.r_[np.ones(20), 0, 0]
    assert image_metrics(labels, scores)["fpr_at_95_recall"] == 0.0


@pytest.mark.parametrize("present", [0, 1])
def test_one_class_gives_nan_not_a_traceback(present):
    got = image_metrics([present] * 3, [0.1, 0.2, 0.3], threshold=0.25)
    assert np.isnan([got["image_auroc"], got["image_ap"], got["image_f1max"], got["fpr_at_95_recall"]]).all()
    known, unknown = ("recall_at_threshold", "false_alarm_at_threshold")[:: 1 if present else -1]
    assert got[known] == pytest.approx(1 / 3)
    assert np.isnan(got[unknown])
    assert np.isnan(interval([present] * 3, [0.1, 0.2, 0.3], n=10)).all()
    assert image_curves([present] * 3, [0.1, 0.2, 0.3])["fpr"].size == 0
    assert np.isnan(image_metrics([present], [0.1])[known])  # no threshold given


def test_wrong_scores_are_refused():
    with pytest.raises(ValueError, match="finite"):
        image_metrics([0, 1], [0.1, np.nan])
    with pytest.raises(ValueError, match="one length"):
        image_metrics([0, 1], [0.1])
    with pytest.raises(ValueError, match="level"):
        interval([0, 1], [0.1, 0.2], level=95)


def test_by_defect_type_is_each_type_against_all_normals():
    labels = [0, 0, 1, 1, 1]
    scores = [0.1, 0.4, 0.9, 0.3, 0.05]
    table = by_defect_type(labels, scores, ["good", "good", "hole", "scratch", "scratch"], 0.35, n=50)
    assert table["defect_type"].tolist() == ["hole", "scratch"]
    assert table["n_normal"].tolist() == [2, 2]
    assert table["n_abnormal"].tolist() == [1, 2]
    assert table["image_auroc"].tolist() == [1.0, 0.25]  # 0.3 beats 0.1 only; 0.05 none
    assert table["recall_at_threshold"].tolist() == [1.0, 0.0]
    assert table["false_alarm_at_threshold"].tolist() == [0.5, 0.5]
    assert (table["recall_at_threshold_low"] <= table["recall_at_threshold"]).all()
    assert by_defect_type([0, 0], [1, 2], ["good", "good"]).empty
    with pytest.raises(ValueError, match="types"):
        by_defect_type([0, 1], [1, 2], ["good"])


# ------------------------------------------------------------------------------------------------- intervals


def test_bootstrap_draws_are_the_metric_on_the_resampled_photos():
    rng = np.random.default_rng(0)
    labels = np.repeat([False, True], [12, 9])
    scores = (rng.normal(size=21) + labels).round(1)
    draws = image_draws(labels, scores, 0.5, n=20, seed=4)
    # The same resamples by hand: per draw block, normal photos first, then abnormal ones.
    rng = np.random.default_rng(4)
    normal = scores[:12][rng.integers(0, 12, (20, 12))]
    abnormal = scores[12:][rng.integers(0, 9, (20, 9))]
    for row in range(20):
        expected = image_metrics(labels, np.r_[normal[row], abnormal[row]], 0.5)
        for name in IMAGE_METRICS:
            assert draws[name][row] == pytest.approx(expected[name], abs=1e-12), name


def interval(*args, metric="image_auroc", **options):
    return tuple(image_intervals(*args, **options).loc[metric, ["low", "high"]])


def test_bootstrap_interval_agrees_with_the_known_spread():
    rng = np.random.default_rng(1)
    n = 200
    labels = np.repeat([0, 1], n)
    scores = rng.normal(size=2 * n) + labels
    low, high = interval(labels, scores, n=2000)
    auroc = roc_auc_score(labels, scores)
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)  # Hanley and McNeil 1982
    spread = np.sqrt((auroc * (1 - auroc) + (n - 1) * (q1 + q2 - 2 * auroc**2)) / n**2)
    assert low == pytest.approx(auroc - 1.96 * spread, abs=0.012)
    assert high == pytest.approx(auroc + 1.96 * spread, abs=0.012)
    assert interval(labels, scores, n=2000) == (low, high)  # seeded
    low80, high80 = interval(labels, scores, n=2000, level=0.8)
    assert low < low80 < high80 < high


def test_rates_have_wilsons_interval_whatever_they_are():
    labels = np.r_[np.zeros(5), np.ones(100)]
    scores = np.r_[np.zeros(5), np.ones(80), np.zeros(20)]
    table = image_intervals(labels, scores, 0.5, n=10)
    assert table.loc[["recall_at_threshold", "false_alarm_at_threshold"], "method"].tolist() == ["wilson"] * 2
    low, high = table.loc["recall_at_threshold", ["low", "high"]]
    assert (low, high) == (pytest.approx(0.7112, abs=1e-4), pytest.approx(0.8666, abs=1e-4))  # 80 of 100, by hand


def test_perfect_recall_gets_an_interval_with_width():
    table = image_intervals([0] * 10 + [1] * 10, np.arange(20), 9.5, n=100)
    assert table.loc["recall_at_threshold", "method"] == "wilson"
    assert table.loc["recall_at_threshold", "low"] == pytest.approx(0.7225, abs=1e-4)  # published Wilson 10 of 10
    assert table.loc["recall_at_threshold", "high"] == 1.0
    assert table.loc["false_alarm_at_threshold", "low"] == 0.0
    assert table.loc["image_auroc", "method"] == "bootstrap"
    assert list(table.index) == list(IMAGE_METRICS)
    assert wilson_interval(0.5, 10)[0] == pytest.approx(0.2366, abs=1e-4)
    assert np.isnan(wilson_interval(np.nan, 0)).all()


# ---------------------------------------------------------------------------------------------------- pixels


def _photos(rng, n, size=40, quantised=True):
    maps, masks = [], []
    for number in range(n):
        mask = np.zeros((size, size), bool)
        if number % 3:
            for _ in range(int(rng.integers(1, 4))):
                y, x, h, w = rng.integers(1, size - 9, 2).tolist() + rng.integers(2, 8, 2).tolist()
                mask[y : y + h, x : x + w] = True
        scores = rng.normal(size=(size, size)) * 0.15 + 0.3 + 0.25 * mask
        maps.append((np.round(scores * 256) / 256 if quantised else scores).astype(np.float32))
        masks.append(mask)
    return maps, masks


def _accumulate(maps, masks, threshold=0.5, **options):
    metrics = PixelMetrics(threshold, **options)
    for scores, mask in zip(maps, masks, strict=True):
        metrics.update(scores, mask)
    return metrics


def _brute_force_aupro(maps, masks, limit=0.3):
    """Every threshold in turn, every region in turn."""
    regions = []
    for scores, mask in zip(maps, masks, strict=True):
        labelled = label(mask, connectivity=2)
        regions += [scores[labelled == k] for k in range(1, labelled.max() + 1)]
    normal = np.concatenate([scores[~mask] for scores, mask in zip(maps, masks, strict=True)])
    points = [(0.0, 0.0)]
    for cut in np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]:
        points.append(((normal >= cut).mean(), np.mean([(region >= cut).mean() for region in regions])))
    fpr, pro = np.array(points).T
    # Where several thresholds share a rate the curve is vertical; the area is the same on a fine, exact grid.
    grid = np.unique(np.r_[fpr[fpr < limit], limit])
    low = np.array([pro[fpr == x].min() if (fpr == x).any() else np.interp(x, fpr, pro) for x in grid])
    high = np.array([pro[fpr == x].max() if (fpr == x).any() else np.interp(x, fpr, pro) for x in grid])
    return float((np.diff(grid) * (high[:-1] + low[1:]) / 2).sum() / limit)


@pytest.mark.parametrize(("quantised", "tolerance"), [(True, 1e-9), (False, 1e-4)])
def test_pixel_metrics_equal_scikit_learn_on_all_pixels(quantised, tolerance):
    maps, masks = _photos(np.random.default_rng(0), 9, quantised=quantised)
    got = _accumulate(maps, masks).compute()
    truth, scores = np.concatenate(masks).ravel(), np.concatenate(maps).ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    flagged = scores > 0.5
    tp, fp, fn = (flagged & truth).sum(), (flagged & ~truth).sum(), (~flagged & truth).sum()
    assert got["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=tolerance)
    assert got["pixel_ap"] == pytest.approx(average_precision_score(truth, scores), abs=tolerance)
    best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert got["pixel_f1max"] == pytest.approx(best, abs=tolerance)
    assert got["pixel_iou"] == pytest.approx(tp / (tp + fp + fn), abs=1e-12)
    assert got["pixel_dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-12)
    dice = [
        2 * (m & (s > 0.5)).sum() / (m.sum() + (s > 0.5).sum()) for s, m in zip(maps, masks, strict=True) if m.any()
    ]
    assert got["mean_dice_defect_photos"] == pytest.approx(np.mean(dice), abs=1e-12)
    assert got["pixel_aupro"] == pytest.approx(_brute_force_aupro(maps, masks), abs=max(tolerance, 1e-9))
    assert got["n_photos"] == 9
    assert got["n_defect_photos"] == 6
    assert got["n_pixels"] == 9 * 40 * 40
    assert got["n_regions"] == sum(label(mask, connectivity=2).max() for mask in masks)


@pytest.mark.parametrize("seed", range(3))
def test_aupro_agrees_with_anomalib(seed):
    maps, masks = _photos(np.random.default_rng(seed), 8, quantised=seed == 0)
    reference = _AUPRO(fpr_limit=0.3)
    reference.update(torch.from_numpy(np.stack(maps)), torch.from_numpy(np.stack(masks)).int())
    assert _accumulate(maps, masks).compute()["pixel_aupro"] == pytest.approx(float(reference.compute()), abs=2e-3)


def test_aupro_by_hand():
    # Ten normal pixels 0..9; region A (1 pixel) at 9.5, region B (2 pixels) at 8.5 and -1.
    scores = np.full((3, 9), np.nan)
    mask = np.zeros((3, 9), bool)
    mask[0, 0] = mask[2, 0] = mask[2, 1] = True
    scores[0, 0], scores[2, 0], scores[2, 1] = 9.5, 8.5, -1
    scores[~mask] = np.r_[np.arange(10), np.full(14, -5)]
    # 24 normal pixels. Points (fpr, pro): (0, 1/2), (1/24, 1/2), (1/24, 3/4), then flat to 10/24 > 0.3.
    expected = (1 / 24 * 0.5 + (0.3 - 1 / 24) * 0.75) / 0.3
    assert _accumulate([scores], [mask]).compute()["pixel_aupro"] == pytest.approx(expected, abs=1e-9)


def test_diagonal_neighbours_are_one_region():
    assert _accumulate([np.zeros((4, 4))], [np.eye(4, dtype=bool)]).compute()["n_regions"] == 1


def test_perfect_and_useless_maps():
    mask = np.zeros((20, 20), bool)
    mask[5:9, 5:9] = True
    perfect = _accumulate([mask.astype(float)], [mask]).compute()
    for name in ("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro", "pixel_iou", "pixel_dice"):
        assert perfect[name] == pytest.approx(1.0), name
    useless = _accumulate([np.zeros((20, 20))], [mask]).compute()
    assert useless["pixel_auroc"] == pytest.approx(0.5)
    assert useless["pixel_aupro"] == pytest.approx(0.15)  # the diagonal up to 0.3
    assert useless["pixel_dice"] == 0.0


def test_merging_equals_accumulating_together():
    maps, masks = _photos(np.random.default_rng(5), 9, quantised=False)
    together = _accumulate(maps, masks)
    parts = [_accumulate(maps[i::3], masks[i::3], buffer_pixels=1000) for i in range(3)]
    before = parts[0].compute()
    merged = parts[0] + parts[1] + parts[2]
    assert merged.compute() == pytest.approx(together.compute(), abs=1e-12)
    assert parts[0].compute() == before  # addition leaves its operands alone
    with pytest.raises(ValueError, match="same threshold"):
        PixelMetrics(0.1) + PixelMetrics(0.2)


def test_memory_does_not_grow_with_photos():
    rng = np.random.default_rng(2)
    maps, masks = _photos(rng, 6)
    metrics = _accumulate(maps, masks, buffer_pixels=5000)
    keys = metrics.n_keys
    for _ in range(5):
        for scores, mask in zip(maps, masks, strict=True):
            metrics.update(rng.permutation(scores), mask[::-1])
    assert metrics.n_keys <= 2 * keys  # only where a score is now under the other class too
    assert metrics.n_keys <= 2 * np.unique(np.concatenate(maps)).size
    coarse = _accumulate(*_photos(rng, 60, quantised=False), bits=12)
    assert coarse.n_keys < 2 * 2**12
    assert len(coarse._pending) == 0


def test_intervals_resample_whole_photos():
    maps, masks = _photos(np.random.default_rng(8), 15, quantised=False)
    table = _accumulate(maps, masks, 0.5).intervals(n=400)
    assert list(table.index) == list(PIXEL_METRICS)
    # The plain way: pick photos, concatenate their pixels, ask scikit-learn.
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero([mask.any() == kind for mask in masks]) for kind in (False, True)]
    drawn = {"pixel_auroc": [], "pixel_ap": [], "pixel_dice": [], "pixel_aupro": [], "pixel_f1max": []}
    for _ in range(120):
        chosen = np.concatenate([rng.choice(group, group.size) for group in groups])
        picked = _accumulate([maps[k] for k in chosen], [masks[k] for k in chosen], 0.5).compute()
        for name, values in drawn.items():
            values.append(picked[name])
    for name, values in drawn.items():
        low, high = np.quantile(values, [0.025, 0.975])
        width = high - low
        assert table.loc[name, "low"] == pytest.approx(low, abs=0.35 * width), name
        assert table.loc[name, "high"] == pytest.approx(high, abs=0.35 * width), name
        assert table.loc[name, "low"] < table.loc[name, "value"] < table.loc[name, "high"], name
    assert (table["n_normal"] == 5).all()
    assert (table["n_abnormal"] == 10).all()


def test_digests_hardly_move_the_metrics():
    maps, masks = _photos(np.random.default_rng(9), 12, size=64, quantised=False)
    metrics = _accumulate(maps, masks)
    exact = metrics.compute()
    for name, values in metrics._digest_metrics(np.ones((2, 12))).items():
        assert values == pytest.approx([exact[name]] * 2, abs=4e-3), name
    sizes = [sum(part.nbytes for part in digest[:5]) for digest in metrics._digests]
    assert max(sizes) < 6000


def test_keys_keep_order_and_come_back():
    values = np.array([-np.float32(3e38), -2.5, -1e-30, -0.0, 0.0, 1e-30, 0.25, 0.2501, 7.0, 3e38], np.float32)
    keys = _order_keys(values, 32)
    assert (np.diff(keys.astype(np.int64)) >= 0).all()
    assert keys[3] == keys[4]
    np.testing.assert_array_equal(_key_scores(keys, 32), values)
    drawn = np.sort(np.random.default_rng(0).normal(size=2000).astype(np.float32))
    coarse = _order_keys(drawn, 24)
    assert (np.diff(coarse.astype(np.int64)) >= 0).all()
    np.testing.assert_allclose(_key_scores(coarse, 24), drawn, rtol=2.0**-15)


def test_threshold_is_compared_as_float32():
    # 0.1 as float64 lies below float32(0.1), which is no pixel above a threshold of 0.1.
    scores = np.full((2, 2), np.float32(0.1))
    mask = np.array([[True, False], [False, False]])
    assert _accumulate([scores], [mask], threshold=0.1).compute()["pixel_iou"] == 0
    assert _accumulate([scores], [mask], threshold=float(np.float32(0.1))).compute()["pixel_iou"] == 0.0


def test_missing_classes_are_nan():
    normal = _accumulate([np.random.default_rng(0).random((5, 5))], [np.zeros((5, 5), bool)], threshold=2.0).compute()
    assert normal["normal_photos_with_defect_pixels"] == 0.0
    rest = [name for name in PIXEL_METRICS if name != "normal_photos_with_defect_pixels"]
    assert np.isnan([normal[name] for name in rest]).all()
    only_defect = _accumulate([np.ones((5, 5))], [np.ones((5, 5), bool)]).compute()
    assert np.isnan(only_defect["pixel_auroc"])
    assert only_defect["pixel_dice"] == 1.0
    empty = PixelMetrics().compute()
    assert np.isnan([empty[name] for name in PIXEL_METRICS]).all()
    assert empty["n_pixels"] == 0


def test_normal_photos_above_the_pixel_threshold_are_counted_by_photo():
    metrics = PixelMetrics(0.5)
    for peak in (0.4, 0.5, 0.6, 0.9):
        scores = np.zeros((3, 3))
        scores[1, 1] = peak
        metrics.update(scores)
    assert metrics.compute()["normal_photos_with_defect_pixels"] == 0.5
    table = metrics.intervals(n=200)
    assert table.loc["normal_photos_with_defect_pixels", "low"] < 0.5
    assert np.isnan(table.loc["mean_dice_defect_photos", "low"])


def test_a_mask_lost_by_resizing_is_counted_and_left_out():
    maps, masks = _photos(np.random.default_rng(4), 3)
    metrics = _accumulate(maps, masks)
    before = metrics.compute()
    metrics.update(np.full((40, 40), 9.0), np.zeros((40, 40), bool), abnormal=True)
    after = metrics.compute()
    assert after["n_empty_masks"] == 1
    assert after["n_defect_photos"] == before["n_defect_photos"] + 1
    for name in PIXEL_METRICS:
        assert after[name] == before[name], name


def test_wrong_pixels_are_refused():
    metrics = PixelMetrics()
    with pytest.raises(ValueError, match="resize"):
        metrics.update(np.zeros((4, 4)), np.zeros((8, 8), bool))
    with pytest.raises(ValueError, match="finite"):
        metrics.update(np.full((4, 4), np.nan), np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        metrics.update(np.zeros((1, 4, 4)), np.zeros((1, 4, 4), bool))
    with pytest.raises(ValueError, match="said to be normal"):
        metrics.update(np.zeros((4, 4)), np.ones((4, 4), bool), abnormal=False)
    with pytest.raises(ValueError, match="bits"):
        PixelMetrics(bits=40)
    assert metrics.compute()["n_photos"] == 0


# ---------------------------------------------------------------------------------------------- whole test set


def _test_set():
    rng = np.random.default_rng(11)
    maps, masks = _photos(rng, 12)
    labels = [int(mask.any()) for mask in masks]
    types = ["good" if not flag else ("hole", "scratch")[i % 2] for i, flag in enumerate(labels)]
    table = pd.DataFrame(
        {
            "image_path": [f"/data/{i}.png" for i in range(12)],
            "label_index": labels,
            "defect_type": types,
            "score": [float(scores.max()) for scores in maps],
        }
    )
    return table, maps, masks


def test_evaluate_streams_and_splits_by_type():
    table, maps, masks = _test_set()
    image_threshold = conformal_threshold(table["score"][table["label_index"] == 0], 0.5)
    evaluation = evaluate(table, iter(maps), (mask for mask in masks), image_threshold, 0.5, n_bootstrap=100)
    joint = _accumulate(maps, masks, 0.5).compute()
    for name in PIXEL_METRICS:
        assert evaluation.overall[name] == pytest.approx(joint[name], abs=1e-12), name
    expected = image_metrics(table["label_index"], table["score"], float(image_threshold))
    for name in IMAGE_METRICS:
        assert evaluation.overall[name] == expected[name]
    assert evaluation.overall["threshold"] == image_threshold.value
    assert evaluation.overall["pixel_threshold"] == 0.5

    holes = [i for i in range(12) if table["defect_type"][i] in ("good", "hole")]
    against_normals = _accumulate([maps[i] for i in holes], [masks[i] for i in holes], 0.5).compute()
    row = evaluation.by_type.set_index("defect_type").loc["hole"]
    assert row["pixel_aupro"] == pytest.approx(against_normals["pixel_aupro"], abs=1e-12)
    assert row["n_regions"] == against_normals["n_regions"]
    assert row["n_normal"] == 4
    assert row["pixel_aupro_low"] < row["pixel_aupro"] < row["pixel_aupro_high"]
    assert row["mean_dice_defect_photos_low"] <= row["mean_dice_defect_photos"] <= row["mean_dice_defect_photos_high"]
    assert {"image_auroc", "mean_dice_defect_photos"} <= set(evaluation.intervals.index)
    inside = evaluation.intervals.dropna(subset=["low"])
    assert len(inside) >= 6
    assert ((inside["low"] <= inside["value"] + 1e-9) & (inside["value"] <= inside["high"] + 1e-9)).all()
    operating = evaluation.curves["operating_point"]
    flagged = table["score"] > image_threshold.value
    assert operating[2] == pytest.approx(table["label_index"][flagged].mean())
    assert evaluation.curves["pro"][-1] == pytest.approx(1.0)


def test_evaluate_without_maps_and_without_masks():
    table, maps, masks = _test_set()
    evaluation = evaluate(table, n_bootstrap=20)
    assert np.isnan(evaluation.overall["pixel_auroc"])
    assert np.isnan(evaluation.overall["threshold"])
    assert evaluation.overall["image_auroc"] == roc_auc_score(table["label_index"], table["score"])
    unmasked = evaluate(table, maps, [None] * 12, 0.5, 0.5, n_bootstrap=20)
    assert unmasked.overall["n_empty_masks"] == 8
    assert np.isnan(unmasked.overall["pixel_auroc"])
    assert unmasked.overall["normal_photos_with_defect_pixels"] == 1.0


def test_evaluate_without_a_defect_keeps_its_columns():
    table, maps, masks = _test_set()
    normal = table["label_index"] == 0
    chosen = np.flatnonzero(normal)
    evaluation = evaluate(table[normal], [maps[k] for k in chosen], [None] * 4, 0.5, 0.5, n_bootstrap=20)
    full = evaluate(table, maps, masks, 0.5, 0.5, n_bootstrap=20)
    assert evaluation.by_type.empty
    assert list(evaluation.by_type.columns) == list(full.by_type.columns)
    assert np.isnan(evaluation.overall["image_auroc"])
    assert evaluation.overall["false_alarm_at_threshold"] == (table["score"][normal] > 0.5).mean()


def test_evaluate_refuses_streams_of_another_length():
    table, maps, masks = _test_set()
    with pytest.raises(ValueError, match="maps ended after 11 photos"):
        evaluate(table, maps[:-1], masks, n_bootstrap=2)
    with pytest.raises(ValueError, match="go on after"):
        evaluate(table, [*maps, maps[0]], masks, n_bootstrap=2)
    with pytest.raises(ValueError, match="together"):
        evaluate(table, maps, n_bootstrap=2)
    with pytest.raises(ValueError, match="score"):
        evaluate(table.drop(columns="score"), n_bootstrap=2)
    with pytest.raises(ValueError, match=r"/data/1\.png: mask has shape"):
        evaluate(table, maps, [masks[0], masks[1][:5], *masks[2:]], n_bootstrap=2)


def test_leaderboard_row_keeps_the_published_columns_in_order():
    table, maps, masks = _test_set()
    evaluation = evaluate(table, maps, masks, 0.5, 0.5, n_bootstrap=20)
    row = leaderboard_row("patchcore", evaluation, fit_seconds=3.5, backbone="untrained")
    assert tuple(row)[: len(LEADERBOARD_COLUMNS)] == LEADERBOARD_COLUMNS
    assert list(row)[len(LEADERBOARD_COLUMNS)] == "backbone"
    assert row["fit_seconds"] == 3.5
    assert np.isnan(row["ms_per_image"])
    assert (row["n_test_normal"], row["n_test_abnormal"]) == (4, 8)
    assert row["pixel_aupro"] == evaluation.overall["pixel_aupro"]
    assert "pixel_iou" in row


def test_overlap_of_each_photo_by_hand():
    mask = np.array([[True, True, False, False]])
    maps = np.array([[[0.9, 0.2, 0.9, 0.3]], [[0.9, 0.9, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.9]]])
    masks = [mask, mask, np.zeros((1, 4), bool), None]
    got = photo_overlap(maps, masks, 0.3)  # 0.3 itself is not above it
    # photo 0: called {0, 2}, mask {0, 1}: one pixel in both, three in either
    np.testing.assert_allclose(got["dice"], [2 / 4, 1, np.nan, np.nan])
    np.testing.assert_allclose(got["iou"], [1 / 3, 1, np.nan, np.nan])
