"""Augmentations: photo and mask move together, light touches the photo only, and a seed repeats all of it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from scipy import ndimage
from torchvision.tv_tensors import Image, Mask

from helpers.data.augment import RandomTurn, augmented_examples, make_augmentations, turn

OFF = {"flips": False, "rotation": 0, "scale": 0, "light": 0, "blur": False, "noise": 0}


def pair(height: int = 60, width: int = 90) -> tuple[Image, Mask]:
    """A photo that equals its mask: an L, so that no flip or turn leaves it as it is."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[10:50, 20:35] = 1
    mask[38:50, 20:70] = 1
    return Image(mask.float().expand(3, -1, -1).clone()), Mask(mask)


def texture(height: int = 40, width: int = 50) -> Image:
    return Image(torch.rand(3, height, width, generator=torch.Generator().manual_seed(3)))


def test_photo_and_mask_move_together():
    augment = make_augmentations(**{**OFF, "flips": True, "rotation": 25, "scale": 0.2})
    torch.manual_seed(0)
    seen = set()
    for _ in range(20):
        photo, mask = augment(*pair())
        assert (photo.shape, mask.shape) == ((3, 60, 90), (60, 90))
        assert mask.dtype == torch.uint8
        assert set(mask.unique().tolist()) == {0, 1}
        # bilinear above half, against nearest: they differ in a few pixels of the border only
        assert (photo[0].gt(0.5) != mask.bool()).float().mean() < 0.005
        seen.add(bytes(mask.numpy()))
    assert len(seen) == 20


def test_flips_are_exact():
    original = pair()[1]
    torch.manual_seed(0)
    for flips, expected in (
        ("horizontal", [original, original.flip(-1)]),
        ("vertical", [original, original.flip(-2)]),
        (True, [original, original.flip(-1), original.flip(-2), original.flip(-1, -2)]),
        (False, [original]),
    ):
        augment = make_augmentations(**{**OFF, "flips": flips})
        found = set()
        for _ in range(40):
            photo, mask = augment(*pair())
            assert torch.equal(photo[0], mask.float())
            found.add(next(index for index, one in enumerate(expected) if torch.equal(mask, one)))
        assert found == set(range(len(expected)))


@pytest.mark.parametrize("step", [{"light": 0.5}, {"blur": True}, {"noise": 0.1}])
def test_light_leaves_the_mask_alone(step):
    augment = make_augmentations(**{**OFF, **step})
    torch.manual_seed(1)
    changed = 0
    for _ in range(20):
        photo, mask = augment(texture(60, 90), pair()[1])
        assert torch.equal(mask, pair()[1])
        assert isinstance(mask, Mask)
        assert 0 <= photo.min() <= photo.max() <= 1
        changed += not torch.equal(photo, texture(60, 90))
    assert 1 <= changed <= 20
    if "light" not in step:
        assert changed < 20, "every second photo"


def test_noise_has_its_standard_deviation():
    augment = make_augmentations(**{**OFF, "noise": 0.05})
    grey = Image(torch.full((3, 100, 100), 0.5))
    torch.manual_seed(0)
    noisy = next(found for found in (augment(grey) for _ in range(20)) if not torch.equal(found, grey))
    assert float((noisy - 0.5).std()) == pytest.approx(0.05, rel=0.03)  # of 30,000 values


def test_resize_first_gives_the_network_frame():
    from helpers.data.images import to_network_frame

    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    small, mask = make_augmentations(image_size=(32, 40), **OFF)(
        Image(torch.from_numpy(photo).permute(2, 0, 1) / 255), pair()[1]
    )
    parameters = {"image_size": (32, 40), "center_crop": None}
    expected = to_network_frame(photo, parameters)
    assert np.abs(small.permute(1, 2, 0).numpy() * 255 - expected).max() <= 1.01  # to the rounding of 8 bits
    assert np.array_equal(mask.numpy().astype(bool), to_network_frame(pair()[1].numpy().astype(bool), parameters))


def test_turn_by_a_right_angle_is_exact():
    picture = torch.rand(3, 31, 31, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        turn(picture, math.pi / 2, 1.0, "bilinear"), picture.rot90(1, (-2, -1)), atol=1e-4, rtol=0
    )
    whole = torch.randint(0, 2, (31, 31), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(turn(whole, math.pi / 2, 1.0, "nearest"), whole.rot90(1, (-2, -1)))


def test_turn_is_rigid_and_mirrors_at_the_border():
    """Against SciPy, whose ``reflect`` continues a picture in the same way (d c b a | a b c d | d c b a)."""
    picture = np.random.default_rng(1).random((40, 70))
    angle, factor = math.radians(12), 1.15
    cosine, sine = math.cos(angle) / factor, math.sin(angle) / factor
    rows_columns = np.array([[cosine, sine], [-sine, cosine]])  # from where (row, column) comes
    centre = (np.array(picture.shape) - 1) / 2
    expected = ndimage.affine_transform(
        picture, rows_columns, offset=centre - rows_columns @ centre, order=1, mode="reflect"
    )
    found = turn(torch.from_numpy(picture), angle, factor, "bilinear").numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert not np.allclose(found[0, :5], 0)


def test_angles_and_sizes_stay_within_what_was_asked():
    torch.manual_seed(0)
    drawn = [RandomTurn(10, 0.2).make_params([]) for _ in range(300)]
    angles = [math.degrees(one["angle"]) for one in drawn]
    factors = [one["factor"] for one in drawn]
    assert -10 <= min(angles) < -9.5
    assert 9.5 < max(angles) <= 10
    assert 1 / 1.2 <= min(factors) < 0.85
    assert 1.18 < max(factors) <= 1.2


@pytest.mark.parametrize(
    "wrong", [{"flips": "both"}, {"rotation": -1}, {"rotation": 200}, {"scale": 1.0}, {"light": -0.1}, {"noise": 2}]
)
def test_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_augmentations(**wrong)


def test_examples_are_the_photo_and_its_mask_followed_by_copies(tmp_path):
    """A white square on black is its own mask: so it is in every copy, up to the edge of a turned square."""
    picture = np.zeros((40, 60), np.uint8)
    picture[10:30, 20:40] = 255
    PIL.Image.fromarray(picture).save(tmp_path / "photo.png")
    rows = pd.DataFrame(
        {
            "image_path": [str(tmp_path / "photo.png")],
            "mask_path": [str(tmp_path / "photo.png")],
            "defect_type": ["square"],
        }
    )
    chosen = make_augmentations(light=0, blur=False, noise=0)
    state = torch.get_rng_state()
    photos, masks, titles = augmented_examples(rows, chosen, copies=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert titles == ["square", "augmented", "augmented", "augmented"]
    assert np.array_equal(photos[0][..., 0], picture) and np.array_equal(masks[0], picture > 0)
    for photo, mask in zip(photos, masks, strict=True):
        assert mask.dtype == bool
        assert ((photo[..., 0] > 127) != mask).mean() < 0.02
    again, *_ = augmented_examples(rows, chosen, copies=3, seed=1)
    assert all(np.array_equal(first, second) for first, second in zip(photos, again, strict=True))
    assert not np.array_equal(photos[1], photos[2])
