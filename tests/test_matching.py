"""Separating objects on a distance map and matching them with the truth."""

import numpy as np
import pytest
from scipy import ndimage

from helpers.analysis.matching import match_instances, match_table, separate, touching_pairs


def disc(x: float, y: float, radius: float, shape: tuple[int, int] = (80, 120)) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.hypot(columns - x, rows - y) <= radius


def exact_map(*masks: np.ndarray) -> np.ndarray:
    """Depth in each object over its largest depth; the pictures here have free room around every object."""
    depths = [ndimage.distance_transform_edt(mask) for mask in masks]
    return np.maximum.reduce([depth / depth.max() for depth in depths]).astype(np.float32)


def test_touching_discs_of_two_sizes_are_two_objects_of_their_own_size():
    large, small = disc(40, 40, 25), disc(78, 40, 12)
    small &= ~large
    assert ndimage.label(large | small)[1] == 1  # they do touch
    labels = separate(exact_map(large, small), threshold=0.3)
    assert labels.dtype == np.int32 and labels.max() == 2
    match = match_instances(np.stack([large, small]), labels)
    assert match.touching == [(0, 1)] and match.n_separated == 1
    assert min(iou for *_, iou in match.pairs) > 0.97


def test_an_object_does_not_shrink_by_the_threshold():
    restored = separate(exact_map(disc(50, 40, 30)), threshold=0.4)
    assert (restored > 0).sum() == pytest.approx(np.pi * 30**2, rel=0.05)


def test_a_peak_that_hardly_rises_over_the_saddle_is_no_object_of_its_own():
    profile = np.interp(np.arange(60), [0, 10, 25, 40, 50, 59], [0, 0.9, 0.7, 1.0, 0, 0])  # rises 0.2 over the saddle
    surface = np.tile(profile, (20, 1))
    assert separate(surface, h=0.25).max() == 1
    assert separate(surface, h=0.15).max() == 2


def test_low_and_small_objects_are_dropped():
    surface = exact_map(disc(30, 40, 20)) + 0.4 * exact_map(disc(80, 40, 20)) + exact_map(disc(110, 10, 3))
    assert [separate(surface, **o).max() for o in ({}, {"min_peak": 0.3}, {"min_area": 5})] == [1, 2, 2]


def test_an_object_cut_by_the_border_keeps_its_border():
    whole = disc(0, 40, 24)  # half a disc: deepest at the border of the photo, where its centre is
    padded = np.pad(whole, ((0, 0), (60, 0)), mode="symmetric")
    surface = (ndimage.distance_transform_edt(padded) / 25)[:, 60:]
    labels = separate(surface, threshold=0.3)
    assert labels.max() == 1
    assert match_instances(whole[None], labels).pairs[0][2] > 0.95


def test_objects_are_numbered_from_the_top_and_an_empty_map_has_none():
    low, high = disc(20, 60, 12), disc(90, 20, 12)
    labels = separate(exact_map(low, high))
    assert labels[20, 90] == 1 and labels[60, 20] == 2
    empty = separate(np.zeros((5, 7)))
    assert empty.shape == (5, 7) and not empty.any()
    assert (separate(np.ones((20, 20))) == 1).all()  # one object as large as the photo
    for options in ({"threshold": 0.0}, {"threshold": 1.0}, {"h": 0.0}):
        with pytest.raises(ValueError, match="must lie"):
            separate(np.zeros((4, 4)), **options)


def squares(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    masks = np.zeros((len(boxes), 40, 60), dtype=bool)
    for mask, (top, left, height, width) in zip(masks, boxes, strict=True):
        mask[top : top + height, left : left + width] = True
    return masks


def as_labels(masks: np.ndarray, numbers: list[int]) -> np.ndarray:
    return np.max(masks * np.array(numbers)[:, None, None], axis=0)


def test_match_by_hand():
    # 10 x 10 against one moved by 2: 80 shared of 120. The second true one is missed; the object 9 is none.
    truth = squares((0, 0, 10, 10), (20, 0, 10, 10))
    labels = as_labels(squares((0, 2, 10, 10), (0, 40, 5, 5)), [4, 9])
    match = match_instances(truth, labels)
    assert match.pairs == [(0, 4, pytest.approx(80 / 120))]
    row = match_table([match], ["photo"]).loc["photo"]
    assert row[["n_true", "n_found", "count_error", "recall", "precision"]].tolist() == [2, 2, 0, 0.5, 0.5]
    assert row["mean_iou"] == pytest.approx(2 / 3)
    assert match.foreground_iou == pytest.approx(80 / (200 + 125 - 80))


def test_two_touching_objects_found_as_one_are_not_separated():
    truth = squares((0, 0, 10, 12), (0, 12, 10, 10), (0, 40, 10, 10))
    merged = as_labels(squares((0, 0, 10, 22), (0, 40, 10, 10)), [1, 2])
    match = match_instances(truth, merged)
    assert match.touching == [(0, 1)] and match.n_separated == 0
    row = match_table([match], ["photo"]).loc["photo"]
    assert row[["count_error", "recall", "precision"]].tolist() == [-1, pytest.approx(2 / 3), 1]
    assert match.foreground_iou == 1


def test_pairs_that_hardly_overlap_draw_no_object_away():
    # One row high: true 0-9 and 10-13, found 4-11 and 0-3. IoU: 6/12 and 4/10 of the first, 2/10 and 0 of the second.
    truth = squares((0, 0, 1, 10), (0, 10, 1, 4))
    labels = as_labels(squares((0, 4, 1, 8), (0, 0, 1, 4)), [1, 2])
    assert match_instances(truth, labels).pairs == [(0, 1, 0.5)]  # a pair that is too poor pulls nothing


def test_touching_is_a_matter_of_pixels():
    truth = squares((0, 0, 10, 10), (0, 11, 10, 10), (0, 23, 10, 10))  # centres 2 and 3 pixels apart
    assert touching_pairs(truth) == [(0, 1)]
    assert touching_pairs(truth[:, :, ::-1]) == [(0, 1)]
    assert touching_pairs(np.concatenate([np.zeros_like(truth[:1]), truth])) == [(1, 2)], "an empty mask touches none"


def test_the_table_pools_objects_not_photos():
    three = squares((0, 0, 10, 10), (0, 20, 10, 10), (0, 40, 10, 10))
    one = squares((0, 0, 10, 10))
    matches = [
        match_instances(three, as_labels(three, [1, 2, 3])),
        match_instances(one, as_labels(squares((20, 0, 5, 5), (30, 0, 5, 5)), [1, 2])),
    ]
    table = match_table(matches, ["a.png", "b.png"])
    assert table.index.tolist() == ["a.png", "b.png", "all"]
    assert table.loc["b.png", "recall"] == 0 and table.loc["b.png", "count_error"] == 1
    pooled = table.loc["all"]
    assert pooled["recall"] == 3 / 4 and pooled["precision"] == 3 / 5 and pooled["mean_iou"] == 1
    assert pooled["count_error"] == 0.5 and pooled["foreground_iou"] == 0.5  # means over the photos
    assert np.isnan(pooled["separated"])
    nothing = match_instances(np.zeros((0, 4, 4), bool), np.zeros((4, 4), int))
    assert nothing.pairs == [] and np.isnan(nothing.foreground_iou)
    rates = match_table([nothing], ["photo"]).loc["photo", ["recall", "precision", "mean_iou", "separated"]]
    assert rates.isna().all()
