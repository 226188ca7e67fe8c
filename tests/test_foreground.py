"""The distance-map network: its target, crops, training and prediction."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.analysis.matching import match_instances, match_table, separate
from helpers.data.images import read_image
from helpers.inference.train import train_or_load_foreground
from helpers.models.backbones import resolve_backbone
from helpers.models.foreground import ForegroundNet, FrameCrops, distance_target, predict_distance


def test_target_of_a_square_by_hand():
    mask = np.zeros((1, 7, 8), bool)
    mask[0, 1:6, 1:6] = True
    target, expected = distance_target(mask), np.zeros((7, 8))
    expected[1:6, 1:6], expected[2:5, 2:5], expected[3, 3] = 1 / 3, 2 / 3, 1
    assert target.dtype == np.float32
    np.testing.assert_allclose(target, expected, atol=1e-6)


def test_every_object_has_its_own_peak_of_one_even_where_they_touch():
    masks = np.zeros((2, 12, 20), bool)
    masks[0, 1:10, 1:10] = True
    masks[1, 1:6, 10:15] = True  # touches the first
    target = distance_target(masks)
    assert target[5, 5] == 1 and target[3, 12] == 1
    assert target[3, 9] == pytest.approx(1 / 5) and target[3, 10] == pytest.approx(1 / 3)  # the valley
    np.testing.assert_array_equal(target, distance_target(masks[::-1]))


def test_a_bore_is_filled_and_the_border_of_the_photo_is_no_edge():
    ring = np.zeros((1, 11, 11), bool)
    ring[0, 1:10, 1:10] = True
    whole = distance_target(ring)
    ring[0, 4:7, 4:7] = False
    np.testing.assert_array_equal(distance_target(ring), whole)
    cut = np.zeros((1, 5, 6), bool)
    cut[0, :, :3] = True  # a strip at the left border, as high as the photo: 3, 2 and 1 pixels deep
    np.testing.assert_allclose(distance_target(cut)[2], [1, 2 / 3, 1 / 3, 0, 0, 0], atol=1e-6)
    assert not distance_target(np.zeros((0, 4, 5), bool)).any() and not distance_target(np.zeros((1, 4, 5), bool)).any()
    assert (distance_target(np.ones((1, 4, 5), bool)) == 1).all(), "one that is everything"


def draw_discs(folder: Path, number: int, shape: tuple[int, int] = (96, 128)) -> SimpleNamespace:
    """Bright discs on a dark ground, two that touch and one alone, as far as `read_instances` says it of a photo."""
    rng = np.random.default_rng(number)
    rows, columns = np.indices(shape)
    y, x, turn = rng.uniform(36, 60), rng.uniform(36, 48), rng.uniform(-0.6, 0.6)
    centres = [(y, x, 17), (y + 29 * np.sin(turn), x + 29 * np.cos(turn), 12), (rng.uniform(20, 76), 108, 15)]
    masks = np.stack([np.hypot(rows - cy, columns - cx) <= radius for cy, cx, radius in centres])
    masks[1] &= ~masks[0]
    masks[2] &= ~masks[:2].any(axis=0)
    pixels = np.where(masks.any(axis=0)[..., None], (190, 170, 150), (60, 70, 80)) + rng.normal(0, 8, (*shape, 3))
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    about = {"size": shape, "crowd": [], "split": "", "masks": masks, "instance_masks": lambda: masks}
    return SimpleNamespace(image_path=folder / f"{number}.png", **about)


def test_crops_follow_from_seed_and_order_and_their_target_from_the_photo(tmp_path):
    photos = [draw_discs(tmp_path, number) for number in range(2)]
    crops = [FrameCrops(photos, 128, 64, 6, seed) for seed in (1, 1, 2)]
    first, again, other = ([each[0] for _ in range(12)] for each in crops)  # two epochs
    assert len(crops[0]) == 6
    for (photo, target), same in zip(first, again, strict=True):
        assert torch.equal(photo, same[0]) and torch.equal(target, same[1])
        assert photo.shape == (3, 64, 64) and target.shape == (1, 64, 64)
        # Discs are brighter than the ground whatever the light: photo and target were turned and cut alike.
        inside, outside = photo.mean(0)[target[0] > 0.2], photo.mean(0)[target[0] == 0]
        assert len(inside) == 0 or inside.quantile(0.05) > outside.quantile(0.95)
    assert not torch.equal(first[3][0], other[3][0]) and not torch.equal(first[3][0], first[9][0])


def test_photos_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(ValueError, match="no photo"):
        FrameCrops([], 64, 32, 4, 0)
    for wrong, named in (
        ({"size": (96, 127)}, r"0\.png is 128x96 .* 127x96"),
        ({"crowd": [True]}, r"0\.png .*iscrowd"),
    ):
        photo = draw_discs(tmp_path, 0)
        vars(photo).update(wrong)
        with pytest.raises(ValueError, match=named):
            FrameCrops([photo], 64, 32, 4, 0)


class Brightness(nn.Module):
    """Logit of the mean of the channels, so that the map is the grey photo."""

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        assert not torch.backends.cudnn.allow_tf32
        return torch.logit(photos.mean(1, keepdim=True).clamp(1e-6, 1 - 1e-6))


@pytest.mark.parametrize("shape", [(40, 90), (300, 200), (7, 5)])
def test_the_map_has_the_size_and_the_place_of_the_photo(shape):
    rows, columns = np.indices(shape)
    grey = (40 + 150 * rows / shape[0] + 40 * columns / shape[1]).astype(np.uint8)  # smooth: survives the resizing
    net = ForegroundNet("test_resnet", [0, 0, 0], [1, 1, 1], image_size=128, network=Brightness())
    predicted = predict_distance(net, np.repeat(grey[..., None], 3, axis=2))
    assert predicted.shape == shape and predicted.dtype == np.float32
    assert np.abs(predicted - grey / 255).max() < 0.02


def test_training_on_discs_finds_and_parts_those_of_photos_never_seen(tmp_path):
    photos = [draw_discs(tmp_path / "photos", number) for number in range(6)]
    options = {"image_size": 96, "crop_size": 64, "crops_per_photo": 16, "batch_size": 4, "epochs": 4}
    parts, backbone = {"train": photos[:4], "val": []}, resolve_backbone("builtin:")
    net = train_or_load_foreground(parts, backbone, tmp_path, seed=3, device="cpu", **options)
    assert pd.read_csv(tmp_path / "metrics.csv").groupby("epoch")["train_loss"].mean().is_monotonic_decreasing
    for photo in photos[4:]:
        match = match_instances(photo.masks, separate(predict_distance(net, read_image(photo.image_path))))
        row = match_table([match], ["photo"]).loc["photo"]
        assert row["recall"] == row["precision"] == row["n_separated"] == row["n_touching"] == 1
        assert row["mean_iou"] > 0.85


def test_the_same_seed_gives_the_same_network_and_the_checkpoint_gives_it_back(tmp_path, backbone_folder):
    photo = draw_discs(tmp_path, 0)
    options = {"image_size": 64, "crop_size": 32, "crops_per_photo": 4, "epochs": 1, "batch_size": 2, "device": "cpu"}
    backbone = resolve_backbone(f"local-dir:{backbone_folder}")
    parts = {"train": [photo], "val": []}
    first, again = (train_or_load_foreground(parts, backbone, tmp_path / name, seed=5, **options) for name in "ab")
    weights = first.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in again.state_dict().items())
    loaded = ForegroundNet.load_from_checkpoint(tmp_path / "a/foreground.ckpt", map_location="cpu", weights_only=True)
    assert loaded.hparams.architecture == "test_resnet" and loaded.hparams.image_size == 64
    pixels = read_image(photo.image_path)
    np.testing.assert_array_equal(predict_distance(loaded.eval(), pixels), predict_distance(first, pixels))
