"""Separating objects on a distance map, matching them with the truth, and cutting them out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from helpers import check_dataset, read_dataset
from helpers.analysis.matching import match_instances, match_table, separate, touching_pairs
from helpers.data.cutouts import write_cutouts

GREY, RED, BLUE = (90, 90, 90), (200, 0, 0), (0, 0, 200)


def disc(x: float, y: float, radius: float, shape: tuple[int, int] = (80, 120)) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.hypot(columns - x, rows - y) <= radius


def exact_map(*masks: np.ndarray) -> np.ndarray:
    """Depth in each object over its largest depth; the pictures here have free room around every object."""
    depths = [ndimage.distance_transform_edt(mask) for mask in masks]
    return np.maximum.reduce([depth / depth.max() for depth in depths]).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------- separate


def test_touching_discs_of_two_sizes_are_two_objects_of_their_own_size():
    large, small = disc(40, 40, 25), disc(78, 40, 12)
    small &= ~large
    assert ndimage.label(large | small)[1] == 1  # they do touch
    labels = separate(exact_map(large, small), threshold=0.3)
    assert labels.dtype == np.int32 and labels.max() == 2
    match = match_instances(np.stack([large, small]), labels)
    assert match.touching == [(0, 1)] and match.n_separated == 1
    assert min(iou for *_, iou in match.pairs) > 0.97


def test_without_restoring_the_border_an_object_shrinks_by_the_threshold():
    labels = separate(exact_map(disc(50, 40, 30)), threshold=0.4, restore=False)
    assert (labels > 0).sum() == pytest.approx(np.pi * (0.6 * 30) ** 2, rel=0.05)
    restored = separate(exact_map(disc(50, 40, 30)), threshold=0.4)
    assert (restored > 0).sum() == pytest.approx(np.pi * 30**2, rel=0.05)


def test_a_peak_that_hardly_rises_over_the_saddle_is_no_object_of_its_own():
    profile = np.interp(np.arange(60), [0, 10, 25, 40, 50, 59], [0, 0.9, 0.7, 1.0, 0, 0])  # rises 0.2 over the saddle
    surface = np.tile(profile, (20, 1))
    assert separate(surface, h=0.25, restore=False).max() == 1
    assert separate(surface, h=0.15, restore=False).max() == 2


def test_low_and_small_objects_are_dropped():
    surface = exact_map(disc(30, 40, 20)) + 0.4 * exact_map(disc(80, 40, 20)) + exact_map(disc(110, 10, 3))
    assert separate(surface).max() == 1
    assert separate(surface, min_peak=0.3).max() == 2
    assert separate(surface, min_area=5).max() == 2


def test_an_object_cut_by_the_border_keeps_its_border():
    whole = disc(0, 40, 24)  # half a disc: deepest at the border of the photo, where its centre is
    padded = np.pad(whole, ((0, 0), (60, 0)), mode="symmetric")
    surface = (ndimage.distance_transform_edt(padded) / 25)[:, 60:]
    labels = separate(surface, threshold=0.3)
    assert labels.max() == 1
    assert match_instances(whole[None], labels).mean_iou > 0.95


def test_objects_are_numbered_from_the_top_and_an_empty_map_has_none():
    low, high = disc(20, 60, 12), disc(90, 20, 12)
    labels = separate(exact_map(low, high))
    assert labels[20, 90] == 1 and labels[60, 20] == 2
    empty = separate(np.zeros((5, 7)))
    assert empty.shape == (5, 7) and not empty.any()
    assert (separate(np.ones((20, 20))) == 1).all()  # one object as large as the photo


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.0}, {"h": 0.0}])
def test_senseless_parameters_are_refused(options):
    with pytest.raises(ValueError, match="must lie"):
        separate(np.zeros((4, 4)), **options)


# ------------------------------------------------------------------------------------------------------ match_instances


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
    assert (match.n_true, match.n_found, match.count_error) == (2, 2, 0)
    assert match.recall == 0.5 and match.precision == 0.5
    assert match.mean_iou == pytest.approx(2 / 3)
    assert match.foreground_iou == pytest.approx(80 / (200 + 125 - 80))
    assert match_instances(truth, labels, iou=0.7).pairs == []


def test_two_touching_objects_found_as_one_are_not_separated():
    truth = squares((0, 0, 10, 12), (0, 12, 10, 10), (0, 40, 10, 10))
    merged = as_labels(squares((0, 0, 10, 22), (0, 40, 10, 10)), [1, 2])
    match = match_instances(truth, merged)
    assert match.touching == [(0, 1)] and match.n_separated == 0
    assert match.count_error == -1 and match.recall == pytest.approx(2 / 3) and match.precision == 1
    assert match.foreground_iou == 1


def test_the_sum_of_the_overlaps_decides_not_the_best_pair():
    # One row high: true 0-9 and 10-13, found 4-11 and 0-3. IoU: 6/12 and 4/10 of the first, 2/10 and 0 of the second.
    truth = squares((0, 0, 1, 10), (0, 10, 1, 4))
    labels = as_labels(squares((0, 4, 1, 8), (0, 0, 1, 4)), [1, 2])
    assert match_instances(truth, labels, iou=0.1).pairs == [(0, 2, 0.4), (1, 1, 0.2)]  # 0.6 beats 0.5
    assert match_instances(truth, labels, iou=0.3).pairs == [(0, 1, 0.5)]  # a pair that is too poor pulls nothing


def test_touching_is_a_matter_of_pixels():
    truth = squares((0, 0, 10, 10), (0, 11, 10, 10), (0, 23, 10, 10))  # centres 2 and 3 pixels apart
    assert touching_pairs(truth) == [(0, 1)]
    assert touching_pairs(truth, 3) == [(0, 1), (1, 2)]
    assert touching_pairs(truth[:, :, ::-1], 3) == [(0, 1), (1, 2)]


def test_nothing_there_and_nothing_found():
    match = match_instances(np.zeros((0, 4, 4), bool), np.zeros((4, 4), int))
    assert match.pairs == [] and match.count_error == 0 and np.isnan(match.recall) and np.isnan(match.foreground_iou)


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


# ------------------------------------------------------------------------------------------------------------ cut-outs


@pytest.fixture
def scene(tmp_path):
    """Two grey photos of 60 x 40 pixels: a red 10 x 10 and a blue 8 x 6 that touch; a red one at the corner."""
    first, second = np.full((40, 60, 3), GREY, np.uint8), np.full((40, 60, 3), GREY, np.uint8)
    labels = [np.zeros((40, 60), np.int32), np.zeros((40, 60), np.int32)]
    first[15:25, 20:30], first[17:25, 30:36] = RED, BLUE
    labels[0][15:25, 20:30], labels[0][17:25, 30:36] = 1, 2
    second[0:10, 50:60] = RED
    labels[1][0:10, 50:60] = 5
    photos = [tmp_path / "raw" / "a.png", tmp_path / "raw" / "b.png"]
    for photo, pixels in zip(photos, (first, second), strict=True):
        photo.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(photo)
    return photos, labels


def read(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_cutouts_are_square_and_centred_and_their_table_leads_back(scene, tmp_path):
    photos, labels = scene
    out = write_cutouts(photos, labels, tmp_path / "out", size=20, margin=0.5, pixel_size=0.1)
    picture = read(out / "train" / "good" / "0000_001.png")
    expected = read(photos[0])[10:30, 15:35]  # the largest object is 10 wide, a margin of 5 around it
    np.testing.assert_array_equal(picture, expected)
    table = pd.read_csv(out / "cutouts.csv")
    assert table["image"].tolist() == [f"train/good/{name}.png" for name in ("0000_001", "0000_002", "0001_005")]
    second = table.loc[1]
    assert (second["x"], second["y"], second["width"], second["height"]) == (30, 17, 6, 8)
    assert (second["window_x"], second["window_y"], second["window_side"], second["scale"]) == (23, 11, 20, 1.0)
    assert second["photo"] == str(photos[0]) and second["label"] == 2
    assert json.loads((out / "dataset.json").read_text())["pixel_size_mm"] == 0.1


def test_the_photo_goes_on_beyond_its_border(scene, tmp_path):
    photos, labels = scene
    mirrored = read(write_cutouts(photos, labels, tmp_path / "m", size=20, margin=0.5) / "train/good/0001_005.png")
    assert (mirrored == RED).all(axis=2).sum() == 15 * 15  # 5 mirrored pixels above and to the right
    edge = read(
        write_cutouts(photos, labels, tmp_path / "e", size=20, margin=0.5, border="edge") / "train/good/0001_005.png"
    )
    assert (edge[0] == edge[5]).all() and (edge[:, 19] == edge[:, 14]).all()


def test_pixel_size_follows_the_scale(scene, tmp_path):
    photos, labels = scene
    out = write_cutouts(photos, labels, tmp_path / "out", size=80, margin=0.5, pixel_size=0.1)
    assert json.loads((out / "dataset.json").read_text())["pixel_size_mm"] == pytest.approx(0.025)  # 4 times enlarged
    assert read_dataset(out).attrs["pixel_size"] == pytest.approx(0.025)
    each = write_cutouts(photos, labels, tmp_path / "each", size=80, margin=0.5, pixel_size=0.1, same_scale=False)
    assert "pixel_size_mm" not in json.loads((each / "dataset.json").read_text())
    assert pd.read_csv(each / "cutouts.csv")["window_side"].tolist() == [20, 16, 20]


def test_without_background_only_the_object_is_left(scene, tmp_path):
    photos, labels = scene
    options = {"size": 20, "margin": 0.5, "remove_background": True}
    out = write_cutouts(photos, labels, tmp_path / "black", fill=(0, 0, 0), grow=0, **options)
    expected = np.zeros((20, 20, 3), np.uint8)
    expected[5:15, 5:15] = RED
    np.testing.assert_array_equal(read(out / "train/good/0000_001.png"), expected)
    # Grown by 1: a ring of background comes back, but nothing of the blue neighbour on the right.
    out = write_cutouts(photos, labels, tmp_path / "grown", fill=(0, 0, 0), grow=1, **options)
    grown = read(out / "train/good/0000_001.png")
    assert (grown[4, 5:15] == GREY).all() and not (grown == BLUE).all(axis=2).any()
    median = read(write_cutouts(photos, labels, tmp_path / "median", grow=0, **options) / "train/good/0000_001.png")
    assert (median == RED).all(axis=2).sum() == 100 and (median == GREY).all(axis=2).sum() == 300


def test_types_make_a_dataset_that_is_read_and_has_no_errors(scene, tmp_path):
    photos, labels = scene
    out = write_cutouts(
        photos, labels, tmp_path / "out", size=20, types=[{1: "good", 2: "dent"}, {5: "OK"}], test_share=0.5
    )
    table = read_dataset(out)
    names = [Path(path).relative_to(out).as_posix() for path in table["image_path"]]
    assert sorted(zip(names, table["split"], table["defect_type"], table["label_index"], strict=True)) == [
        ("test/dent/0000_002.png", "test", "dent", 1),
        ("test/good/0001_005.png", "test", "good", 0),
        ("train/good/0000_001.png", "train", "good", 0),
    ]
    assert table.attrs["published_split"]
    findings = check_dataset(table)  # three pictures are too few to train on; nothing else is wrong
    assert findings.loc[findings["severity"] == "error", "code"].tolist() == ["too-few-train"]


def test_a_folder_with_something_else_is_left_alone(scene, tmp_path):
    photos, labels = scene
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    for force in (False, True):
        with pytest.raises(FileExistsError, match="out"):
            write_cutouts(photos, labels, out, force=force)
    assert (out / "mine.txt").read_text() == "keep"
    with pytest.raises(ValueError, match="folder of their own"):
        write_cutouts(photos, labels, photos[0].parent)


def test_cutouts_are_replaced_only_when_asked_and_never_by_half(scene, tmp_path):
    photos, labels = scene
    out = write_cutouts(photos, labels, tmp_path / "out", size=20)
    with pytest.raises(FileExistsError, match="force"):
        write_cutouts(photos, labels, out, size=30)
    broken = tmp_path / "raw" / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png"):
        write_cutouts([photos[0], broken], labels, out, size=30, force=True)
    assert read(out / "train/good/0000_001.png").shape == (20, 20, 3)
    write_cutouts(photos, labels, out, size=30, force=True)
    assert read(out / "train/good/0000_001.png").shape == (30, 30, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_what_does_not_fit_is_refused_by_name(scene, tmp_path):
    photos, labels = scene
    with pytest.raises(ValueError, match=r"a\.png: object 2 has the type"):
        write_cutouts(photos, labels, tmp_path / "out", types=[{1: "good"}, {5: "good"}])
    with pytest.raises(ValueError, match="object 1 has the type '../x'"):
        write_cutouts(photos, labels, tmp_path / "out", types=[{1: "../x", 2: "good"}, {5: "good"}])
    with pytest.raises(ValueError, match=r"a\.png is 60x40 pixels but its labels 60x39"):
        write_cutouts(photos, [labels[0][:39], labels[1]], tmp_path / "out")
    with pytest.raises(ValueError, match="no object"):
        write_cutouts(photos, [np.zeros((40, 60), int)] * 2, tmp_path / "out")
    assert not (tmp_path / "out").exists()
