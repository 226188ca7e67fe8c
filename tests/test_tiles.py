"""Maps at a photo's own size: tiles that blend into what the whole would give, and the plain way back from a resize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch
from torch import nn

from helpers.inference.tiles import blend_window, predict_photo, predict_tiled, tile_starts
from helpers.models.backbones import resolve_backbone
from helpers.models.catalog import build_model

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
SIZES = [(64, 64), (97, 301), (20, 500), (31, 17), (1, 1), (128, 65)]


class Stub(nn.Module):
    """A network that is known: it keeps what it was given."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, batch: torch.Tensor) -> InferenceBatch:
        self.sizes.append(tuple(batch.shape))
        found = self.function(batch)
        return InferenceBatch(pred_score=found.amax((1, 2, 3)), anomaly_map=found)


def detector(function, **options):
    model = build_model("unet", resolve_backbone("builtin:"), **{"image_size": 64, **options})
    model.model = Stub(function)
    return model


def photo(height: int, width: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * width))


def constant(batch: torch.Tensor) -> torch.Tensor:
    return torch.full_like(batch[:, :1], 0.37)


def pixelwise(batch: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor([0.7, -0.2, 0.4]).view(1, 3, 1, 1)
    return (batch * weights).sum(1, keepdim=True).sigmoid()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_tiles_of_a_constant_network_are_the_whole(size, overlap):
    found = predict_tiled(detector(constant), photo(*size), (32, 48), overlap=overlap)
    assert found.shape == size
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 0.37, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_tiles_of_a_pixelwise_network_are_the_whole(size):
    picture = photo(*size)
    normalised = (picture - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    expected = pixelwise(normalised[None])[0, 0].numpy()
    np.testing.assert_allclose(predict_tiled(detector(pixelwise), picture, (32, 48)), expected, atol=1e-5)


def test_tiles_go_in_at_their_own_size_and_in_batches():
    model = detector(constant)
    predict_tiled(model, photo(100, 100), (64, 64), overlap=0.25, batch_size=3)  # starts 0 and 36 along both sides
    assert model.model.sizes == [(3, 3, 64, 64), (1, 3, 64, 64)]


def test_where_tiles_differ_the_nearer_centre_counts_more():
    """Two tiles side by side; one says 0, the other 1. From the first to the second, the map only rises."""
    number = iter([0.0, 1.0])
    model = detector(lambda batch: torch.full_like(batch[:, :1], next(number)))
    row = predict_tiled(model, photo(32, 48), (32, 32), overlap=0.5, batch_size=1)[16]
    assert (row[:16] == 0).all()
    assert (row[32:] == 1).all()
    between = row[16:32]
    assert (np.diff(between) > 0).all()
    assert between[0] < 0.01
    np.testing.assert_allclose(between + between[::-1], 1, atol=1e-5)
    np.testing.assert_allclose(row[23:25].mean(), 0.5, atol=1e-5)


def test_starts_cover_the_side_with_the_overlap_asked_for():
    assert tile_starts(100, 64, 0.25) == [0, 36]
    assert tile_starts(64, 64, 0.25) == tile_starts(10, 64, 0.25) == [0]
    assert tile_starts(12, 4, 0.0) == [0, 4, 8]
    for length, tile, overlap in [(1000, 96, 0.3), (97, 32, 0.5), (301, 48, 0.0), (65, 64, 0.9)]:
        starts = tile_starts(length, tile, overlap)
        assert starts[0] == 0
        assert starts[-1] == length - tile
        assert max(np.diff(starts)) <= np.ceil(tile * (1 - overlap))
    with pytest.raises(ValueError, match="overlap"):
        tile_starts(100, 64, 1.0)


def test_window_by_hand():
    window = blend_window((2, 4))
    assert window.shape == (2, 4)
    rows, columns = [0.5, 0.5], [0.146447, 0.853553, 0.853553, 0.146447]  # sin^2 of 45, 22.5 and 67.5 degrees
    np.testing.assert_allclose(window, np.outer(rows, columns), atol=1e-5)
    assert blend_window((512, 512)).min() > 0


# ------------------------------------------------------------------------------------------------------ whole photos


def test_whole_photo_comes_back_at_its_size():
    """A map that is linear across the frame stays so when enlarged, but for half a pixel of the map at the rim.

    The pixel at the middle of a cell has at least the cell's value, which is right for its middle: half a pixel away.
    """

    def ramp(batch: torch.Tensor) -> torch.Tensor:
        width = batch.shape[-1]
        return ((torch.arange(width) + 0.5) / width).expand(len(batch), 1, *batch.shape[-2:])

    model = detector(ramp)
    found = predict_photo(model, photo(97, 301))
    assert model.model.sizes == [(1, 3, 64, 64)]
    assert found.shape == (97, 301)
    assert found.dtype == np.float32
    expected = (np.arange(301) + 0.5) / 301
    difference = (found[40] - expected)[3:-3]
    assert difference.min() >= -1e-5 and difference.max() <= 0.5 / 301 + 1e-5


def test_what_the_crop_cuts_off_is_zero():
    model = detector(lambda batch: torch.ones_like(batch[:, :1]), image_size=(64, 80), center_crop=(32, 41))
    found = predict_photo(model, photo(64, 80))
    assert model.model.sizes == [(1, 3, 32, 41)]
    expected = np.zeros((64, 80), np.float32)
    expected[16:48, 20:61] = 1  # round((80 - 41) / 2) = round(19.5) = 20
    np.testing.assert_array_equal(found, expected)


def test_photo_of_the_networks_size_is_what_the_network_says():
    model = build_model("unet", resolve_backbone("builtin:"), image_size=64).eval()
    picture = photo(64, 64)
    with torch.no_grad():
        expected = model(picture[None]).anomaly_map[0, 0].numpy()
    np.testing.assert_allclose(predict_photo(model, picture), expected, atol=1e-5)
    np.testing.assert_allclose(predict_tiled(model, picture, (64, 64)), expected, atol=1e-5)


def test_patchcore_takes_tiles_too(make_model, table, tmp_path):
    from helpers.data.datamodule import SampleDataModule
    from helpers.inference.train import make_trainer

    model = make_model()
    make_trainer(model, "cpu", [], limit_val_batches=0).fit(model, datamodule=SampleDataModule(table))
    found = predict_tiled(model, photo(70, 130), (64, 64))
    assert found.shape == (70, 130)
    assert (found > 0).all()


@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 3, 8, 8), torch.zeros(8, 8, 3), torch.zeros(3, 8, 8, dtype=torch.uint8)]
)
def test_what_is_no_photo(wrong):
    model = detector(constant)
    for predict in (predict_photo, lambda *arguments: predict_tiled(*arguments, (8, 8))):
        with pytest.raises(ValueError, match=r"Expected a photo \(3, H, W\)"):
            predict(model, wrong)


def test_tile_out_of_range():
    with pytest.raises(ValueError, match="1 or more"):
        predict_tiled(detector(constant), photo(8, 8), (0, 8))
