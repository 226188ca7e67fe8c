"""GLASS: the same loss as anomalib's where anomalib is right, and a test for each thing that it is not."""

from types import SimpleNamespace

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
SMALL = {"pretrain_embed_dim": 32, "target_embed_dim": 32, "discriminator_hidden": 16}


@pytest.fixture(scope="module")
def backbone():
    return resolve_backbone("builtin:")


@pytest.fixture(scope="module")
def build(backbone, textures):
    def make(**parameters) -> Glass:
        torch.manual_seed(0)
        return build_model("glass", backbone, image_size=SIZE, anomaly_source=textures, steps=6, **SMALL | parameters)

    return make


@pytest.fixture(scope="module")
def stock(backbone, textures):
    def make(**parameters) -> StockGlass:
        options = SMALL | {"backbone": backbone.name, "layers": list(backbone.layers), "step": 6} | parameters
        off = {"post_processor": False, "evaluator": False, "visualizer": False}
        return StockGlass(input_shape=(SIZE, SIZE), anomaly_source_path=textures, **options, **off)

    return make


@pytest.fixture
def photos() -> torch.Tensor:
    """Two photos, normalised."""
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def damage(photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with a bright square: rows 8 to 32 and columns 16 to 40."""
    masks = torch.zeros(len(photos), 1, SIZE, SIZE)
    masks[:, :, 8:32, 16:40] = 1
    return torch.where(masks > 0, photos + 2, photos), masks


# ----------------------------------------------------------------------------------- what is as it should be


@pytest.mark.parametrize(
    ("distribution", "options"),
    [("hypersphere", {"radius_quantile": 0.5}), ("manifold", {"pre_projection": 0}), ("manifold", {"mining": False})],
)
def test_the_loss_and_its_gradients_are_anomalibs_for_the_same_defects(build, stock, photos, distribution, options):
    ours = build(distribution=distribution, **options).model.train()
    theirs = stock(svd=DISTRIBUTIONS.index(distribution), **options).model.train()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    ours.center = theirs.center = torch.randn(64, 32, generator=torch.Generator().manual_seed(2))
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
    for name, value in {"true": true_loss, "gaus": gaus_loss, "focal": focal_loss}.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)
    for name, parameter in theirs.named_parameters():
        # of the hypersphere anomalib's gradient also goes through the radius, the authors' does not
        if parameter.grad is not None and distribution == "manifold":
            torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_photos_without_any_defect_give_a_finite_loss(build, photos, distribution):
    model = build(distribution=distribution).model.train()
    model.center = torch.zeros(64, 32)
    terms, figures = model.train_step(photos, photos, torch.zeros(2, 1, SIZE, SIZE))
    assert all(torch.isfinite(value) for value in [*terms.values(), *figures.values()])
    assert "radius_fake" not in figures


def test_map_and_score_are_anomalibs(build, stock, photos):
    model, theirs = build().model.eval(), stock().model.eval()
    theirs.load_state_dict(model.state_dict(), strict=False)
    found, expected = model(photos), theirs(photos)
    assert found.anomaly_map.shape == (2, 1, SIZE, SIZE) and found.pred_score.shape == (2,)
    torch.testing.assert_close(found.anomaly_map[:, 0], expected.anomaly_map)
    torch.testing.assert_close(found.pred_score, expected.pred_score)


# ----------------------------------------------------------------------------------- what is repaired


@pytest.mark.parametrize("layers", [0, 2])
def test_the_centre_is_the_mean_of_normalised_photos_in_every_epoch(build, backbone, monkeypatch, layers):
    raw = list(torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4)))
    collate = lambda photos: ImageBatch(image=torch.stack(photos))  # noqa: E731
    loader = DataLoader(raw, batch_size=2, shuffle=True, collate_fn=collate)
    monkeypatch.setattr(Glass, "trainer", SimpleNamespace(train_dataloader=loader))
    model = build(pre_projection=layers).eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (backbone.mean, backbone.std))
    for _ in range(2):
        model.on_train_epoch_start()
        with torch.no_grad():
            by_hand = torch.stack([model.model.embed((photo[None] - mean) / std)[0] for photo in raw]).mean(0)
            torch.testing.assert_close(model.model.center, by_hand, rtol=1e-4, atol=1e-5)
            for parameter in model.model.projection.parameters() if layers else []:  # as an epoch of training would
                parameter.add_(0.1 * torch.randn_like(parameter))


def test_masks_are_single_union_and_intersection_a_third_each(textures, monkeypatch):
    anomalies, counts = GlassAnomalies(textures), {2: 0, 3: 0, 1: 0}  # by the number of pixels: single, union, ...
    first, second = torch.tensor([[True, True], [False, False]]), torch.tensor([[True, False], [True, False]])
    torch.manual_seed(0)
    for _ in range(600):
        drawn = iter([first, second])
        monkeypatch.setattr(anomalies, "noise_mask", lambda *_, drawn=drawn: next(drawn))
        counts[int(anomalies.mask(2, 2, torch.device("cpu")).sum())] += 1
    assert all(abs(count - 200) < 4 * np.sqrt(600 * (1 / 3) * (2 / 3)) for count in counts.values())


def test_the_photo_keeps_a_share_of_half_in_a_defect_give_or_take(textures, monkeypatch):
    anomalies = GlassAnomalies(textures)
    monkeypatch.setattr(anomalies, "texture", lambda height, width: torch.zeros(3, height, width))
    monkeypatch.setattr(anomalies, "mask", lambda height, width, device: torch.ones(height, width, dtype=torch.bool))
    torch.manual_seed(0)
    damaged, masks = anomalies(torch.ones(2000, 3, 2, 2))
    shares = damaged[:, 0, 0, 0]  # of a white photo under a black texture
    assert masks.all() and shares.min() >= 0.2 and shares.max() <= 0.8
    assert float(shares.mean()) == pytest.approx(0.5, abs=4 * 0.1 / np.sqrt(2000))
    assert float(shares.std()) == pytest.approx(0.1, abs=0.01)


def test_defects_change_what_the_mask_says_and_stay_in_the_foreground(textures):
    anomalies = GlassAnomalies(textures)
    photos = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    foreground = torch.zeros(8, 1, 32, 32)
    foreground[:, :, 4:28, 8:24] = 1
    torch.manual_seed(1)
    damaged, masks = anomalies(photos, foreground)
    assert masks.amax(dim=(1, 2, 3)).sum() >= 6 and not (masks * (1 - foreground)).any()
    changed = (damaged != photos).any(1, keepdim=True)
    assert not (changed & (masks == 0)).any() and (changed & (masks > 0)).sum() > 0.9 * masks.sum()


def test_projection_and_discriminator_learn_and_the_backbone_is_frozen(build, backbone):
    model = build().train()
    learns = [*model.model.discriminator.parameters(), *model.model.projection.parameters()]
    groups = [group["params"] for optimizer in model.configure_optimizers() for group in optimizer.param_groups]
    assert {id(value) for group in groups for value in group} == {id(value) for value in learns}
    assert not any(parameter.requires_grad for parameter in model.model.forward_modules.parameters())
    assert not any(module.training for module in model.model.forward_modules.modules())
    assert model.model.discriminator.training
    Glass(backbone.architecture, list(backbone.layers), pre_trained=False, image_size=(SIZE, SIZE), **SMALL)


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


def test_without_a_photo_there_is_nothing_to_judge():
    with pytest.raises(ValueError, match="no good photo"):
        judge_distribution([])
