"""DRAEM: a test for each thing that anomalib's has lost, what it shares with GLASS, and its reconstructions."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import nn

from helpers.models.catalog import build_model
from helpers.models.draem import Draem, draem_loss, reconstruction_errors, smoothed_maximum

SIZE = 64


def build(source: str = "", **parameters) -> Draem:
    torch.manual_seed(0)
    narrow = {"base_width": 4, "discriminative_width": 4}
    return build_model("draem", None, image_size=SIZE, anomaly_source=source, **narrow | parameters)


def random_photos(n: int, side: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_focal_loss_by_hand():
    # every pixel: probability 0.8 of a defect; q is 0.8 on 16 of 256 pixels, 0.2 on the others
    masks, logits, photos = torch.zeros(1, 1, 16, 16), torch.zeros(1, 2, 16, 16), random_photos(1, 16)
    masks[..., 2:6, 2:6], logits[:, 1] = 1, math.log(4)
    logits.requires_grad_()
    on, off = (-((1 - q) ** 2) * math.log(q) for q in (0.8, 0.2))
    focal = draem_loss(photos, photos, logits, masks)["focal"]
    assert float(focal.detach()) == pytest.approx((16 * on + 240 * off) / 256, rel=1e-5)
    focal.backward()
    assert (logits.grad != 0).all(), "normal pixels too"


def test_reconstruction_terms_agree_with_scikit_image():
    photos, other = random_photos(4, 48).chunk(2)
    drawn = 0.7 * photos + 0.3 * other
    found = draem_loss(photos, drawn, torch.zeros(2, 2, 48, 48), torch.zeros(2, 1, 48, 48))
    assert float(found["l2"]) == pytest.approx(float(((photos - drawn) ** 2).mean()), rel=1e-6)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    pairs = zip(photos.numpy(), drawn.numpy(), strict=True)
    similar = np.mean([structural_similarity(*pair, channel_axis=0, **options) for pair in pairs])
    # the border is filled in another way
    assert float(found["ssim"]) == pytest.approx(1 - similar, rel=0.02)


@pytest.mark.parametrize(("side", "window"), [(256, 21), (128, 11), (64, 5)])
def test_the_window_is_the_authors_21_of_256_pixels(side, window):
    maps = torch.zeros(2, 1, side, side + 9)
    maps[0, 0, side // 2, side // 2] = 1
    maps[1, 0, :window, 3 : 3 + window] = 1
    torch.testing.assert_close(smoothed_maximum(maps), torch.tensor([1 / window**2, 1.0]))


def test_score_and_map_of_a_photo():
    model, photos = build().model.eval(), random_photos(3, SIZE)
    with torch.no_grad():
        found = model(photos)
        drawn = model.reconstructive_subnetwork(photos)
        logits = model.discriminative_subnetwork(torch.cat([photos, drawn], 1))
    assert found.anomaly_map.shape == (3, 1, SIZE, SIZE)
    torch.testing.assert_close(found.anomaly_map[:, 0], (logits[:, 1] - logits[:, 0]).sigmoid())
    torch.testing.assert_close(found.pred_score, smoothed_maximum(found.anomaly_map))


def test_the_learning_rate_falls_to_a_fifth_at_80_and_at_90_percent(monkeypatch):
    monkeypatch.setattr(Draem, "trainer", SimpleNamespace(max_epochs=50))
    (optimizer,), (schedule,) = build(learning_rate=1e-3).configure_optimizers()
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, [1e-3] * 40 + [2e-4] * 5 + [4e-5] * 5)


@pytest.mark.parametrize(("kind", "mean"), [(nn.Conv2d, 0), (nn.BatchNorm2d, 1)])
def test_weights_begin_as_the_authors_have_them(kind, mean):
    modules = build(base_width=16, discriminative_width=16).model.modules()
    weights = torch.cat([module.weight.detach().flatten() for module in modules if isinstance(module, kind)])
    assert float(weights.std()) == pytest.approx(0.02, rel=0.1)
    assert float(weights.mean()) == pytest.approx(mean, abs=0.01)


def test_only_the_share_asked_for_is_turned(textures):
    photos, model = random_photos(400), build(textures)
    torch.manual_seed(0)
    model.augmenter.probability = 0.0
    turned, _, _ = model.invent(photos)
    share = float((turned != photos).flatten(1).any(1).float().mean())
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 400))
    model.rotate_probability = 0.0
    alike, damaged, masks = model.invent(photos)
    assert torch.equal(alike, photos) and torch.equal(damaged, photos) and not masks.any()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_a_defect_changes_what_its_mask_says_and_mixed_precision_invents_the_same(textures, precision):
    """A photo all of 0.4, turned: every pixel inside is 0.4 still, and so is what full precision makes of it."""
    model = build(textures, rotate_probability=1.0)
    model.augmenter.probability = 1.0
    torch.manual_seed(1)
    turned, damaged, masks = model.invent(torch.full((6, 3, 64, 64), 0.4))
    assert masks.amax(dim=(1, 2, 3)).sum() == 6 and not ((damaged != turned).any(1, keepdim=True) & (masks == 0)).any()
    torch.manual_seed(1)
    with torch.autocast("cpu", precision):
        found = model.invent(torch.full((6, 3, 64, 64), 0.4))
    torch.testing.assert_close(found[0][:, :, 22:42, 22:42], torch.full((6, 3, 20, 20), 0.4))
    assert all(torch.equal(*pair) for pair in zip(found, (turned, damaged, masks), strict=True))


def test_reconstructions_and_their_errors_by_hand():
    photo = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    model = build().eval()
    with torch.no_grad():
        values = model.model.reconstructive_subnetwork(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255)
    (drawn,) = model.redraw([photo])
    np.testing.assert_allclose(drawn, 255 * values[0].clamp(0, 1).permute(1, 2, 0), atol=0.51)
    grey, lighter = np.full((40, 50, 3), 100, np.uint8), np.full((40, 50, 3), 151, np.uint8)
    found = reconstruction_errors([photo, grey], [photo, lighter])
    assert found["mse"].tolist() == pytest.approx([0.0, (51 / 255) ** 2])
    assert found["ssim"][0] == pytest.approx(1) and found["ssim"][1] < 1


# ------------------------------------------------------------------------------------------------- shared with GLASS


def test_textures_are_needed_to_train_and_only_then(textures, tmp_path):
    with pytest.raises(ValueError, match="ANOMALY_SOURCE"):
        build(str(tmp_path))
    with pytest.raises(ValueError, match="ANOMALY_SOURCE"):
        build().on_train_start()
    build(textures).on_train_start()


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.3], [0, 0], {"val_normal_score": 0.2}),
        ([0.1, 0.3, 0.2, 0.9], [0, 0, 1, 1], {"val_normal_score": 0.2, "val_auroc": 0.75}),
        ([12.0, 30.0, 31.0], [0, 0, 1], {"val_normal_score": 21.0, "val_auroc": 1.0}),  # scores are no probabilities
        ([0.4], [1], {}),
    ],
)
def test_figures_of_val_by_hand(scores, labels, expected):
    model, found = build(), {}
    model.log = lambda name, value: found.update({name: float(value)})
    model.model.forward = lambda values: SimpleNamespace(pred_score=values)
    model.on_validation_epoch_start()
    for score, label in zip(scores, labels, strict=True):
        batch = SimpleNamespace(image=torch.tensor([score]), gt_label=torch.tensor([label], dtype=torch.bool))
        model.validation_step(batch, 0)
    model.on_validation_epoch_end()
    assert found == pytest.approx(expected)
