"""Augmentations: photo and mask move together, light touches the photo only, and a seed repeats all of it."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.tv_tensors import Image, Mask

from helpers.data.augment import RandomTurn, make_augmentations
from helpers.data.images import to_network_frame

OFF = {"flips": False, "rotation": 0, "scale": 0, "light": 0, "blur": False, "noise": 0}


def pair(height: int = 60, width: int = 90) -> tuple[Image, Mask]:
    """A photo that equals its mask: an L, so that no flip or turn leaves it as it is."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[10:50, 20:35] = 1
    mask[38:50, 20:70] = 1
    return Image(mask.float().expand(3, -1, -1).clone()), Mask(mask)


def test_photo_and_mask_move_together():
    augment = make_augmentations(**{**OFF, "flips": True, "rotation": 25, "scale": 0.2})
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        runs.append([augment(*pair()) for _ in range(20)])
    for photo, mask in runs[0]:
        assert (photo.shape, mask.shape, mask.dtype) == ((3, 60, 90), (60, 90), torch.uint8)
        assert set(mask.unique().tolist()) == {0, 1}
        # bilinear above half, against nearest: they differ in a few pixels of the border only
        assert (photo[0].gt(0.5) != mask.bool()).float().mean() < 0.005
    assert len({bytes(mask.numpy()) for _, mask in runs[0]}) == 20
    assert all(torch.equal(first[0], second[0]) for first, second in zip(*runs, strict=True)), "a seed repeats it"


def test_flips_are_exact():
    original = pair()[1]
    torch.manual_seed(0)
    expected = [original, original.flip(-1), original.flip(-2), original.flip(-1, -2)]
    for flips, reached in ((True, {0, 1, 2, 3}), (False, {0})):
        augment, found = make_augmentations(**{**OFF, "flips": flips}), set()
        for _ in range(40):
            photo, mask = augment(*pair())
            assert torch.equal(photo[0], mask.float())
            found.add(next(index for index, one in enumerate(expected) if torch.equal(mask, one)))
        assert found == reached


@pytest.mark.parametrize("step", [{"light": 0.5}, {"blur": True}, {"noise": 0.1}])
def test_light_leaves_the_mask_alone(step):
    augment, texture = make_augmentations(**{**OFF, **step}), Image(torch.rand(3, 60, 90))
    torch.manual_seed(1)
    changed = 0
    for _ in range(20):
        photo, mask = augment(texture, pair()[1])
        assert torch.equal(mask, pair()[1]) and 0 <= photo.min() <= photo.max() <= 1
        changed += not torch.equal(photo, texture)
    assert changed == 20 if "light" in step else 1 <= changed < 20, "blur and noise for every second photo"


def test_resize_first_gives_the_network_frame():
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    augment = make_augmentations(image_size=(32, 40), **OFF)
    small, mask = augment(Image(torch.from_numpy(photo).permute(2, 0, 1) / 255), pair()[1])
    parameters = {"image_size": (32, 40), "center_crop": None}
    expected = to_network_frame(photo, parameters)
    assert np.abs(small.permute(1, 2, 0).numpy() * 255 - expected).max() <= 1.01  # to the rounding of 8 bits
    assert np.array_equal(mask.numpy().astype(bool), to_network_frame(pair()[1].numpy().astype(bool), parameters))


def test_turn_is_rigid_and_mirrors_at_the_border():
    """Against SciPy, whose ``reflect`` continues a picture in the same way (d c b a | a b c d | d c b a)."""
    picture = np.random.default_rng(1).random((40, 70))
    angle, factor = math.radians(12), 1.15
    cosine, sine = math.cos(angle) / factor, math.sin(angle) / factor
    rows_columns = np.array([[cosine, sine], [-sine, cosine]])  # from where (row, column) comes
    centre = (np.array(picture.shape) - 1) / 2
    offset = centre - rows_columns @ centre
    expected = ndimage.affine_transform(picture, rows_columns, offset=offset, order=1, mode="reflect")
    turned = RandomTurn(10, 0.2).transform(torch.from_numpy(picture), {"angle": angle, "factor": factor})
    np.testing.assert_allclose(turned.numpy(), expected, atol=1e-3)


def test_angles_and_sizes_stay_within_what_was_asked():
    torch.manual_seed(0)
    drawn = [RandomTurn(10, 0.2).make_params([]) for _ in range(300)]
    angles, factors = [math.degrees(one["angle"]) for one in drawn], [one["factor"] for one in drawn]
    assert -10 <= min(angles) < -9.5 and 9.5 < max(angles) <= 10
    assert 1 / 1.2 <= min(factors) < 0.85 and 1.18 < max(factors) <= 1.2


@pytest.mark.parametrize("wrong", [{"rotation": -1}, {"scale": 1.0}, {"light": -0.1}, {"noise": 2}])
def test_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_augmentations(**wrong)
