"""DRAEM: a test for each thing that anomalib's has lost, and whole trainings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from helpers.models.catalog import build_model
from helpers.models.draem import (
    Draem,
    DraemLoss,
    smoothed_maximum,
)

SIZE = 64
NARROW = {"base_width": 4, "discriminative_width": 4}


def build(source: str = "", **parameters) -> Draem:
    torch.manual_seed(0)
    return build_model("draem", None, image_size=SIZE, anomaly_source=source, **{**NARROW, **parameters})


class ATrainer:
    """Stands in for Lightning's."""

    def __init__(self, max_epochs: int) -> None:
        self.max_epochs = max_epochs


# ------------------------------------------------------------------------------------------------------------ the loss


def terms(logits: torch.Tensor, masks: torch.Tensor) -> dict[str, torch.Tensor]:
    photos = torch.rand(len(masks), 3, *masks.shape[-2:], generator=torch.Generator().manual_seed(0))
    return DraemLoss()(photos, photos, masks, logits)


@pytest.fixture
def masks() -> torch.Tensor:
    found = torch.zeros(1, 1, 16, 16)
    found[..., 2:6, 2:6] = 1
    return found


def test_focal_loss_by_hand(masks):
    # every pixel: probability 0.8 of a defect; q is 0.8 on 16 of 256 pixels, 0.2 on the others
    logits = torch.zeros(1, 2, 16, 16)
    logits[:, 1] = math.log(4)
    logits.requires_grad_()
    on, off = (-((1 - q) ** 2) * math.log(q) for q in (0.8, 0.2))
    focal = terms(logits, masks)["focal"]
    assert float(focal.detach()) == pytest.approx((16 * on + 240 * off) / 256, rel=1e-5)
    focal.backward()
    assert (logits.grad != 0).all(), "normal pixels too"


def test_reconstruction_terms_agree_with_scikit_image():
    draw = torch.Generator().manual_seed(0)
    photos, drawn = torch.rand(2, 3, 48, 48, generator=draw), torch.rand(2, 3, 48, 48, generator=draw)
    drawn = 0.7 * photos + 0.3 * drawn
    found = DraemLoss()(photos, drawn, torch.zeros(2, 1, 48, 48), torch.zeros(2, 2, 48, 48))
    assert float(found["l2"]) == pytest.approx(float(((photos - drawn) ** 2).mean()), rel=1e-6)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    similar = np.mean(
        [
            structural_similarity(first.numpy(), second.numpy(), channel_axis=0, **options)
            for first, second in zip(photos, drawn, strict=True)
        ]
    )
    # the border is filled in another way
    assert float(found["ssim"]) == pytest.approx(1 - similar, rel=0.02)


# ----------------------------------------------------------------------------------------------------- score and map


@pytest.mark.parametrize(("side", "window"), [(256, 21), (128, 11), (384, 31), (64, 5), (8, 1)])
def test_the_window_is_the_authors_21_of_256_pixels(side, window):
    maps = torch.zeros(2, 1, side, side + 9)
    maps[0, 0, side // 2, side // 2] = 1
    maps[1, 0, :window, 3 : 3 + window] = 1
    torch.testing.assert_close(smoothed_maximum(maps), torch.tensor([1 / window**2, 1.0]))
    maps[:, 0] = 0
    maps[:, 0, : window // 2 + 1, : window // 2 + 1] = 1  # all that the window in the corner sees; zeros outside
    assert float(smoothed_maximum(maps)[0]) == pytest.approx((window // 2 + 1) ** 2 / window**2)


def test_score_and_map_of_a_photo(textures):
    model = build().model.eval()
    photos = torch.rand(3, 3, SIZE, SIZE)
    with torch.no_grad():
        found = model(photos)
        drawn = model.reconstructive_subnetwork(photos)
        logits = model.discriminative_subnetwork(torch.cat([photos, drawn], 1))
    assert found.anomaly_map.shape == (3, 1, SIZE, SIZE)
    torch.testing.assert_close(found.anomaly_map[:, 0], (logits[:, 1] - logits[:, 0]).sigmoid())
    torch.testing.assert_close(found.pred_score, smoothed_maximum(found.anomaly_map))
    torch.testing.assert_close(build().reconstruct(photos).shape, photos.shape)


# ----------------------------------------------------------------------------------------------- schedule and beginning


def test_the_learning_rate_falls_to_a_fifth_at_80_and_at_90_percent(monkeypatch):
    monkeypatch.setattr(Draem, "trainer", ATrainer(50))
    (optimizer,), (schedule,) = build(learning_rate=1e-3).configure_optimizers()
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, [1e-3] * 40 + [2e-4] * 5 + [4e-5] * 5)


def test_weights_begin_as_the_authors_have_them():
    model = build(base_width=16, discriminative_width=16).model
    weights = torch.cat(
        [module.weight.detach().flatten() for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    )
    scales = torch.cat(
        [module.weight.detach().flatten() for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    )
    assert float(weights.std()) == pytest.approx(0.02, rel=0.01) and abs(float(weights.mean())) < 1e-3
    assert float(scales.mean()) == pytest.approx(1, abs=0.01) and float(scales.std()) == pytest.approx(0.02, rel=0.2)


# ----------------------------------------------------------------- invented defects


def test_only_the_share_asked_for_is_turned(textures):
    photos = torch.rand(400, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    turned, _, _ = build(textures, anomaly_probability=0.0).invent(photos)
    share = float((turned != photos).flatten(1).any(1).float().mean())
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 400))
    alike, damaged, masks = build(textures, anomaly_probability=0.0, rotate_probability=0.0).invent(photos)
    assert torch.equal(alike, photos) and torch.equal(damaged, photos) and not masks.any()


def test_a_defect_changes_what_its_mask_says(textures):
    photos = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    turned, damaged, masks = build(textures, anomaly_probability=1.0).invent(photos)
    changed = (damaged != turned).any(1, keepdim=True)
    assert masks.amax(dim=(1, 2, 3)).sum() == 8
    assert not (changed & (masks == 0)).any()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision_invents_the_same(textures, precision):
    """A photo all of 0.4, turned: every pixel inside is 0.4 still, and so is what full precision makes of it."""
    model = build(textures, rotate_probability=1.0, anomaly_probability=1.0)
    photos = torch.full((6, 3, 64, 64), 0.4)
    torch.manual_seed(1)
    expected = model.invent(photos)
    torch.manual_seed(1)
    with torch.autocast("cpu", precision):
        found = model.invent(photos)
    torch.testing.assert_close(found[0][:, :, 22:42, 22:42], torch.full((6, 3, 20, 20), 0.4))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
