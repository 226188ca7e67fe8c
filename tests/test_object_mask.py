"""Objects found by construction, and masks cleaned by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.inference.object_mask import ObjectMasks, clean_mask, otsu_object_mask
from helpers.models.draem import smoothed_maximum

FRAME = {"image_size": [20, 30], "center_crop": None}
WHOLE = {"image_size": [60, 90], "center_crop": None}


def disc(height: int = 60, width: int = 90, radius: int = 20) -> np.ndarray:
    rows, columns = np.indices((height, width))
    return np.hypot(rows - height // 2, columns - width // 2) <= radius


def photograph(mask: np.ndarray, dark: int, bright: int) -> np.ndarray:
    draw = np.random.default_rng(0)
    return (np.where(mask, bright, dark)[..., None] + draw.integers(-5, 6, (*mask.shape, 3))).astype(np.uint8)


@pytest.mark.parametrize(("background", "foreground"), [(30, 180), (200, 60)])
def test_otsu_finds_the_object_on_a_dark_or_bright_ground_with_its_holes(background, foreground):
    truth = disc()
    photo = photograph(truth & ~disc(radius=5), background, foreground)
    photo[2:6, 2:6] = foreground  # a speck of dirt
    np.testing.assert_array_equal(otsu_object_mask(photo), truth)
    assert otsu_object_mask(np.full((8, 9, 3), background, np.uint8)).all(), "an even photo is all object"


def test_cleaning_by_hand():
    mask = np.zeros((30, 40), dtype=bool)
    mask[2, 2] = True  # a speck
    mask[10:20, 5:15] = mask[10:20, 17:27] = True  # two halves, two pixels apart
    mask[24:27, 33:36] = True  # 9 pixels, of which a disc of 3 keeps all five of a cross
    opened = clean_mask(mask, opening_diameter=3, closing_diameter=0)
    assert not opened[2, 2] and opened[25, 34] and not opened[24, 33]
    joined = clean_mask(mask, opening_diameter=0, closing_diameter=5)
    assert joined[15, 15] and joined[15, 16] and not mask[15, 15]
    none = {"opening_diameter": 0, "closing_diameter": 0}
    assert clean_mask(mask, **none, min_area=10).sum() == 200 and clean_mask(mask, **none, min_area=9)[25, 34]
    np.testing.assert_array_equal(clean_mask(mask, **none), mask)


@pytest.mark.parametrize("wrong", [{"opening_diameter": 4}, {"closing_diameter": -1}, {"min_area": -1}])
def test_wrong_sizes_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        clean_mask(np.zeros((3, 3), bool), **wrong)


def test_outside_the_object_the_map_is_zero_and_the_score_is_new(tmp_path):
    file, masks = str(tmp_path / "a.png"), ObjectMasks("otsu", FRAME)
    Image.fromarray(photograph(disc(), 30, 180)).save(file)
    inside = masks([file])
    assert inside.shape == (1, 1, 20, 30) and set(inside.unique().tolist()) == {0.0, 1.0}
    maps = np.full((1, 20, 30), 0.25, np.float32)
    maps[0, 0, 0], maps[0, 10, 15] = 0.9, 0.5  # background, object
    scores, confined = masks.confine([file], maps)
    np.testing.assert_array_equal(confined, maps * inside[:, 0].numpy())
    assert confined[0, 0, 0] == 0 and confined[0, 10, 15] == 0.5
    np.testing.assert_array_equal(scores, smoothed_maximum(torch.from_numpy(confined)[:, None]))


def test_a_folder_of_masks_by_name_or_by_subfolder_and_name(tmp_path):
    (tmp_path / "masks" / "hole").mkdir(parents=True)
    for name, radius in (("a.png", 20), ("hole/a.png", 5)):
        Image.fromarray(disc(radius=radius).astype(np.uint8) * 255).save(tmp_path / "masks" / name)
    masks = ObjectMasks(str(tmp_path / "masks"), WHOLE)
    np.testing.assert_array_equal(masks.mask("/photos/good/a.jpg"), disc(radius=20))
    np.testing.assert_array_equal(masks.mask("/photos/hole/a.jpg"), disc(radius=5))
    with pytest.raises(FileNotFoundError, match=r"b\.png.*/photos/good/b\.jpg"):
        masks.mask("/photos/good/b.jpg")


def test_the_foreground_network_is_asked_and_needed():
    masks = ObjectMasks("foreground", WHOLE, lambda photo: disc(*photo.shape[:2]))
    np.testing.assert_array_equal(masks.mask("", np.zeros((60, 90, 3), np.uint8)), disc())
    for kind in ("foreground", "otzu"):
        with pytest.raises(ValueError, match=f"OBJECT_MASK='{kind}'"):
            ObjectMasks(kind, FRAME)
