import numpy as np
import pytest
from skimage.measure import label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from helpers.analysis.pixels import (
    PIXEL_METRICS,
    count_pixels,
    order_keys,
    photo_overlap,
    pixel_counts,
    pixel_intervals,
    pixel_metrics,
)


def photos_with_masks(rng, n, size=40):
    """float16 maps, every third without a defect, and their masks of one to three rectangles."""
    maps, masks = [], []
    for number in range(n):
        mask = np.zeros((size, size), bool)
        if number % 3:
            for _ in range(int(rng.integers(1, 4))):
                y, x, h, w = rng.integers(1, size - 9, 2).tolist() + rng.integers(2, 8, 2).tolist()
                mask[y : y + h, x : x + w] = True
        maps.append((rng.normal(size=(size, size)) * 0.15 + 0.3 + 0.25 * mask).astype(np.float16))
        masks.append(mask)
    return maps, masks


def _counts(maps, masks, threshold=0.5):
    return [count_pixels(values, mask, threshold) for values, mask in zip(maps, masks, strict=True)]


def _metrics(maps, masks, threshold=0.5):
    return pixel_metrics(_counts(maps, masks, threshold))


def test_pixel_metrics_equal_scikit_learn_on_all_pixels():
    maps, masks = photos_with_masks(np.random.default_rng(0), 9)
    got = _metrics(maps, masks)
    truth, scores = np.concatenate(masks).ravel(), np.concatenate(maps).ravel().astype(np.float32)
    precision, recall, _ = precision_recall_curve(truth, scores)
    flagged, pairs = scores > 0.5, [(found > 0.5, mask) for found, mask in zip(maps, masks, strict=True)]
    tp, fp, fn = (flagged & truth).sum(), (flagged & ~truth).sum(), (~flagged & truth).sum()
    dice = [2 * (mask & found).sum() / (mask.sum() + found.sum()) for found, mask in pairs if mask.any()]
    flags = [found.any() for found, mask in pairs if not mask.any()]
    expected = {
        "pixel_auroc": roc_auc_score(truth, scores),
        "pixel_ap": average_precision_score(truth, scores),
        "pixel_f1max": (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max(),
        "pixel_aupro": got["pixel_aupro"],
        "pixel_iou": tp / (tp + fp + fn),
        "pixel_dice": 2 * tp / (2 * tp + fp + fn),
        "mean_dice_defect_photos": np.mean(dice),
        "normal_photos_with_defect_pixels": np.mean(flags),
    }
    assert got == pytest.approx(expected, abs=1e-9)
    n_regions = sum(label(mask, connectivity=2).max() for mask in masks)
    assert list(pixel_counts(_counts(maps, masks)).values()) == [9, 6, 0, n_regions, 9 * 40 * 40]
    overlap = photo_overlap(maps, masks, 0.5)
    assert overlap["dice"][[mask.any() for mask in masks]].tolist() == pytest.approx(dice)


def test_aupro_by_hand():
    # Ten normal pixels 0..9; region A (1 pixel) at 9.5, region B (2 pixels) at 8.5 and -1.
    scores = np.full((3, 9), np.nan)
    mask = np.zeros((3, 9), bool)
    mask[0, 0] = mask[2, 0] = mask[2, 1] = True
    scores[0, 0], scores[2, 0], scores[2, 1] = 9.5, 8.5, -1
    scores[~mask] = np.r_[np.arange(10), np.full(14, -5)]
    # 24 normal pixels. Points (fpr, pro): (0, 1/2), (1/24, 1/2), (1/24, 3/4), then flat to 10/24 > 0.3.
    expected = (1 / 24 * 0.5 + (0.3 - 1 / 24) * 0.75) / 0.3
    assert _metrics([scores], [mask])["pixel_aupro"] == pytest.approx(expected, abs=1e-9)


def test_perfect_useless_and_missing():
    mask = np.zeros((20, 20), bool)
    mask[5:9, 5:9] = True
    perfect = _metrics([mask.astype(float)], [mask])
    assert [perfect[name] for name in PIXEL_METRICS[:7]] == pytest.approx([1.0] * 7)
    useless = _metrics([np.zeros((20, 20))], [mask])
    assert useless["pixel_auroc"] == pytest.approx(0.5)
    assert useless["pixel_aupro"] == pytest.approx(0.15)  # the diagonal up to 0.3
    assert useless["pixel_dice"] == 0.0
    normal = _metrics([np.random.default_rng(0).random((5, 5))], [None], threshold=2.0)
    assert normal.pop("normal_photos_with_defect_pixels") == 0.0
    only_defect = _metrics([np.ones((5, 5))], [np.ones((5, 5), bool)])
    assert np.isnan(only_defect["pixel_auroc"]) and only_defect["pixel_dice"] == 1.0
    assert np.isnan([*normal.values(), *pixel_metrics([]).values()]).all()
    assert pixel_counts(_counts([np.zeros((4, 4))], [np.eye(4, dtype=bool)]))["n_regions"] == 1  # a diagonal is one
    assert np.isnan(_metrics([np.zeros((4, 4))], [np.eye(4, dtype=bool)], None)["pixel_iou"])


def test_intervals_resample_whole_photos():
    maps, masks = photos_with_masks(np.random.default_rng(8), 15, size=24)
    photos = _counts(maps, masks)
    table = pixel_intervals(photos, n=400)
    assert list(table.index) == list(PIXEL_METRICS)
    assert table.loc[:, "value"].to_dict() == pixel_metrics(photos)
    # The plain way: pick photos, and measure them anew.
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero([mask.any() == kind for mask in masks]) for kind in (False, True)]
    chosen = [np.concatenate([rng.choice(group, group.size) for group in groups]) for _ in range(100)]
    resampled = [pixel_metrics([photos[k] for k in row]) for row in chosen]
    for name, row in table.iloc[:6].iterrows():
        low, high = np.quantile([each[name] for each in resampled], [0.025, 0.975])
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.35 * (high - low)), name
        assert row["low"] < row["value"] < row["high"], name
    assert (table["n_normal"] == 5).all() and (table["n_abnormal"] == 10).all()
    assert table.loc["normal_photos_with_defect_pixels", "method"] == "wilson"
    assert pixel_intervals([], n=5)["low"].isna().all()


def test_keys_keep_the_order_of_all_float16_values():
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = np.sort(values[np.isfinite(values)])
    keys = order_keys(values).astype(int)
    assert (np.diff(keys) >= 0).all()
    assert (np.diff(keys)[np.diff(values) > 0] > 0).all()
    assert order_keys(np.float16([-0.0])) == order_keys(np.float16([0.0]))


def test_a_mask_lost_by_resizing_is_counted_and_left_out():
    photos = _counts(*photos_with_masks(np.random.default_rng(4), 3))
    lost = count_pixels(np.full((40, 40), 9.0), np.zeros((40, 40), bool), 0.5, abnormal=True)
    before, after = pixel_counts(photos), pixel_counts([*photos, lost])
    assert after == before | {"n_photos": 4, "n_defect_photos": before["n_defect_photos"] + 1, "n_empty_masks": 1}
    assert pixel_metrics([*photos, lost]) == pixel_metrics(photos)


@pytest.mark.parametrize(
    ("value", "mask", "words"), [(np.nan, None, "finite"), (1e5, None, "float16"), (0, np.ones((4, 4), bool), "normal")]
)
def test_wrong_pixels_are_refused(value, mask, words):
    with pytest.raises(ValueError, match=words):
        count_pixels(np.full((4, 4), value), mask, abnormal=False)


def test_overlap_of_each_photo_by_hand():
    mask = np.array([[True, True, False, False]])
    maps = np.array([[[0.9, 0.2, 0.9, 0.3]], [[0.9, 0.9, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.9]]])
    got = photo_overlap(maps, [mask, mask, np.zeros((1, 4), bool), None], 0.3)  # 0.3 itself is not above it
    # photo 0: called {0, 2}, mask {0, 1}: one pixel in both, three in either
    np.testing.assert_allclose(got["dice"], [2 / 4, 1, np.nan, np.nan])
    np.testing.assert_allclose(got["iou"], [1 / 3, 1, np.nan, np.nan])
