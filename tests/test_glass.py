"""GLASS: the same loss as anomalib's where anomalib is right, and a test for each thing that it is not."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.models import Glass as StockGlass
from torch.utils.data import DataLoader

from helpers.models.backbones import resolve_backbone
from helpers.models.catalog import build_model
from helpers.models.glass import DISTRIBUTIONS, Glass, GlassAnomalies, judge_distribution

SIZE = 64
SMALL = {"pretrain_embed_dim": 32, "target_embed_dim": 32, "discriminator_hidden": 16, "steps": 6}


@pytest.fixture(scope="module")
def backbone():
    return resolve_backbone("builtin:")


def build(backbone, source: str = "", **parameters) -> Glass:
    torch.manual_seed(0)
    return build_model("glass", backbone, image_size=SIZE, anomaly_source=source, **{**SMALL, **parameters})


def stock(backbone, textures: str, **parameters) -> StockGlass:
    torch.manual_seed(0)
    off = {"post_processor": False, "evaluator": False, "visualizer": False}
    return StockGlass(
        input_shape=(SIZE, SIZE),
        anomaly_source_path=textures,
        backbone=backbone.name,
        layers=list(backbone.layers),
        pretrain_embed_dim=32,
        target_embed_dim=32,
        discriminator_hidden=16,
        step=6,
        **off,
        **parameters,
    )


@pytest.fixture
def photos() -> torch.Tensor:
    """Two photos, normalised, and the same with a bright square."""
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def damage(photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    masks = torch.zeros(len(photos), 1, SIZE, SIZE)
    masks[:, :, 8:32, 16:40] = 1
    return torch.where(masks > 0, photos + 2, photos), masks


# ----------------------------------------------------------------------------------- what is as it should be


@pytest.mark.parametrize(
    ("distribution", "options"),
    [
        ("manifold", {}),
        ("hypersphere", {}),
        ("manifold", {"pre_projection": 0}),
        ("manifold", {"mining": False}),
        ("hypersphere", {"radius_quantile": 0.5}),
    ],
    ids=["manifold", "hypersphere", "no_projection", "no_mining", "median_radius"],
)
def test_the_loss_and_its_gradients_are_anomalibs_for_the_same_defects(
    backbone, textures, photos, distribution, options
):
    ours = build(backbone, textures, distribution=distribution, **options).model.train()
    theirs = stock(backbone, textures, svd=DISTRIBUTIONS.index(distribution), **options).model.train()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    center = torch.randn(64, 32, generator=torch.Generator().manual_seed(2))
    ours.center = theirs.center = center
    damaged, masks = damage(photos)
    mean, std = theirs._img_mean, theirs._img_std
    theirs.augmentor.forward = lambda raw: (damaged * std + mean, masks)

    torch.manual_seed(3)
    true_loss, gaus_loss, _, focal_loss, loss = theirs(photos)
    loss.backward()
    torch.manual_seed(3)
    terms, _ = ours.train_step(photos, damaged, masks)
    sum(terms.values()).backward()
    for name, value in theirs.discriminator.named_buffers():  # of batch normalisation, also moved by the ascent
        torch.testing.assert_close(ours.discriminator.get_buffer(name), value, rtol=1e-4, atol=1e-6)
    expected = {"true": true_loss, "gaus": gaus_loss, "focal": focal_loss}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)
    for name, parameter in theirs.named_parameters():
        # of the hypersphere anomalib's gradient also goes through the radius, the authors' does not
        if parameter.grad is not None and distribution == "manifold":
            torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-6)


def test_radii_and_scores_are_reported(backbone, textures, photos):
    model = build(backbone, textures).model.train()
    model.center = torch.zeros(64, 32)
    damaged, masks = damage(photos)
    with torch.no_grad():
        features = model.embed(torch.cat([damaged, photos]))[0].reshape(4, 64, 32)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[1:4, 2:5] = True  # rows 8 to 32 and columns 16 to 40 of places of 8 pixels
    lengths = features.norm(dim=2)
    good = torch.cat([lengths[:2][:, ~inside.flatten()].flatten(), lengths[2:].flatten()])
    _, figures = model.train_step(photos, damaged, masks)
    assert float(figures["radius_true"]) == pytest.approx(np.quantile(good.numpy(), 0.75), rel=1e-5)
    fake = lengths[:2][:, inside.flatten()]
    assert float(figures["radius_fake"]) == pytest.approx(np.quantile(fake.numpy(), 0.75), rel=1e-5)
    assert 0 < figures["score_true"] < 1 and 0 < figures["score_fake"] < 1


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_photos_without_any_defect_give_a_finite_loss(backbone, textures, photos, distribution):
    model = build(backbone, textures, distribution=distribution).model.train()
    model.center = torch.zeros(64, 32)
    terms, figures = model.train_step(photos, photos, torch.zeros(2, 1, SIZE, SIZE))
    assert all(torch.isfinite(value) for value in [*terms.values(), *figures.values()])
    assert "radius_fake" not in figures


# ----------------------------------------------------------------------------------- what is mended


class OneLoader:
    """Stands in for the trainer: training photos in a random order, two a batch."""

    def __init__(self, photos: torch.Tensor) -> None:
        self.passes = 0
        self.train_dataloader = DataLoader(list(photos), batch_size=2, shuffle=True, collate_fn=self.collate)

    def collate(self, photos: list[torch.Tensor]) -> ImageBatch:
        self.passes += 1
        return ImageBatch(image=torch.stack(photos))


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_centre_is_the_mean_of_normalised_photos_in_every_epoch(backbone, textures, monkeypatch, layers):
    raw = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    model = build(backbone, textures, pre_projection=layers).eval()
    trainer = OneLoader(raw)
    monkeypatch.setattr(Glass, "trainer", trainer)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (backbone.mean, backbone.std))
    for _ in range(2):
        model.on_train_epoch_start()
        with torch.no_grad():
            by_hand = torch.stack([model.model.embed((photo[None] - mean) / std)[0] for photo in raw]).mean(0)
        torch.testing.assert_close(model.model.center, by_hand, rtol=1e-4, atol=1e-5)
        with torch.no_grad():  # as an epoch of training would
            for parameter in model.model.projection.parameters() if layers else []:
                parameter.add_(0.1 * torch.randn_like(parameter))
    assert trainer.passes == 2  # batches: the photos were looked at once, in the first epoch


def test_masks_are_single_union_and_intersection_a_third_each(textures, monkeypatch):
    anomalies = GlassAnomalies(textures)
    first, second = torch.zeros(2, 2, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool)
    first[0], second[:, 0] = True, True
    counts = {"single": 0, "union": 0, "intersection": 0}
    names = {2: "single", 3: "union", 1: "intersection"}  # by the number of pixels
    torch.manual_seed(0)
    for _ in range(600):
        drawn = iter([first, second])
        monkeypatch.setattr(anomalies, "noise_mask", lambda *_, drawn=drawn: next(drawn))
        counts[names[int(anomalies.mask(2, 2, torch.device("cpu")).sum())]] += 1
    assert sum(counts.values()) == 600
    for count in counts.values():
        assert abs(count - 200) < 4 * np.sqrt(600 * (1 / 3) * (2 / 3))


def test_the_photo_keeps_a_share_of_half_in_a_defect_give_or_take(textures, monkeypatch):
    anomalies = GlassAnomalies(textures)
    monkeypatch.setattr(anomalies, "texture", lambda height, width: torch.zeros(3, height, width))
    monkeypatch.setattr(anomalies, "mask", lambda height, width, device: torch.ones(height, width, dtype=torch.bool))
    torch.manual_seed(0)
    damaged, masks = anomalies(torch.ones(2000, 3, 2, 2))
    shares = damaged[:, 0, 0, 0]  # of a white photo under a black texture
    assert masks.all()
    assert shares.min() >= 0.2 and shares.max() <= 0.8
    assert float(shares.mean()) == pytest.approx(0.5, abs=4 * 0.1 / np.sqrt(2000))
    assert float(shares.std()) == pytest.approx(0.1, abs=0.01)


def test_textures_and_masks_follow_from_torchs_seed_alone(textures):
    found = []
    for other_seed in (1, 2):
        random.seed(other_seed)
        np.random.seed(other_seed)
        torch.manual_seed(5)
        anomalies = GlassAnomalies(textures)
        found.append(anomalies(torch.full((4, 3, 64, 64), 0.5)))
    assert [path.name for path in anomalies.anomaly_source_paths] == ["0.png", "1.png", "2.png"]
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_defects_change_what_the_mask_says_and_stay_in_the_foreground(textures):
    anomalies = GlassAnomalies(textures)
    photos = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    foreground = torch.zeros(8, 1, 32, 32)
    foreground[:, :, 4:28, 8:24] = 1
    torch.manual_seed(1)
    damaged, masks = anomalies(photos, foreground)
    assert masks.amax(dim=(1, 2, 3)).sum() >= 6
    assert not (masks * (1 - foreground)).any()
    changed = (damaged != photos).any(1, keepdim=True)
    assert not (changed & (masks == 0)).any()
    assert (changed & (masks > 0)).sum() > 0.9 * masks.sum()
    damaged, masks = anomalies(photos[:1], torch.zeros(1, 1, 32, 32))
    assert torch.equal(damaged, photos[:1]) and not masks.any()


def test_projection_and_discriminator_learn(backbone):
    torch.manual_seed(0)
    model = Glass(backbone.architecture, list(backbone.layers), pre_trained=False, image_size=(SIZE, SIZE), **SMALL)
    trained = {id(value) for optimizer in model.configure_optimizers() for value in optimizer.param_groups[0]["params"]}
    assert trained == {
        id(value) for value in [*model.model.discriminator.parameters(), *model.model.projection.parameters()]
    }


def test_map_and_score_are_anomalibs(backbone, textures, photos):
    model = build(backbone).model.eval()
    found = model(photos)
    assert found.anomaly_map.shape == (2, 1, SIZE, SIZE) and found.pred_score.shape == (2,)
    theirs = stock(backbone, textures).model.eval()
    theirs.load_state_dict(model.state_dict(), strict=False)
    expected = theirs(photos)
    torch.testing.assert_close(found.anomaly_map[:, 0], expected.anomaly_map)
    torch.testing.assert_close(found.pred_score, expected.pred_score)


def test_the_backbone_is_frozen_and_stays_in_evaluation_mode(backbone, textures):
    model = build(backbone, textures).train()
    assert not any(parameter.requires_grad for parameter in model.model.forward_modules.parameters())
    assert not any(module.training for module in model.model.forward_modules.modules())
    assert model.model.discriminator.training


# ----------------------------------------------------------------------------------- the judgement


def test_a_fixed_pattern_is_a_manifold_and_ever_new_ones_are_a_hypersphere():
    draw = np.random.default_rng(0)

    def blocks() -> np.ndarray:
        return np.kron(draw.integers(0, 2, (24, 24)) * 255, np.ones((4, 4)))[..., None].repeat(3, 2).astype(np.uint8)

    product = blocks()
    fixed, mean_photo, _ = judge_distribution(product for _ in range(8))
    new, _, _ = judge_distribution(blocks() for _ in range(60))
    assert fixed["distribution"] == "manifold" and fixed["n_photos"] == 8 and fixed["density"] < 0.1
    assert new["distribution"] == "hypersphere" and new["n_photos"] == 60 and new["density"] > 0.3
    assert fixed["radius"] > 5 * new["radius"]
    np.testing.assert_array_equal(mean_photo, product)


def test_the_spectrum_of_an_even_photo_is_one_point():
    judged, _, spectrum = judge_distribution([np.full((289, 289, 3), 100, np.uint8)])
    assert spectrum[144, 144] == pytest.approx(20 * np.log(100 * 289**2), rel=1e-5)
    assert judged == {"distribution": "manifold", "density": 1.0, "radius": 0.0, "n_points": 1, "n_photos": 1}
    with pytest.raises(ValueError, match="no good photo"):
        judge_distribution([])
