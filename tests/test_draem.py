"""DRAEM: a test for each thing that anomalib's has lost, and whole trainings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from anomalib.models import Draem as StockDraem
from anomalib.models.image.draem.loss import DraemLoss as StockLoss
from conftest import draw_photos, split_table
from PIL import Image
from skimage.metrics import structural_similarity
from torch.export import Dim

from helpers.inference.train import train_on_synthetic
from helpers.models.catalog import build_model, load_model
from helpers.models.draem import (
    Draem,
    DraemLoss,
    TextureAnomalies,
    make_pre_processor,
    smoothed_maximum,
    validation_figures,
)
from helpers.pictures.anomaly_source import resolve_anomaly_source
from helpers.thresholds import Threshold

MEND = "anomalib no longer needs this mend of helpers/models/draem.py: remove it."
SIZE = 64
NARROW = {"base_width": 4, "discriminative_width": 4}
THRESHOLDS = {"image": Threshold(value=0.5, origin="by hand"), "pixel": Threshold(value=0.5, origin="by hand")}


@pytest.fixture(scope="module")
def textures(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("textures")
    draw = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return str(folder)


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


def gradient_on_normal_pixels(loss, masks: torch.Tensor) -> torch.Tensor:
    logits = torch.zeros(len(masks), 2, *masks.shape[-2:], requires_grad=True)
    loss(logits).backward()
    return logits.grad.abs().sum(1)[masks[:, 0] == 0]


@pytest.fixture
def masks() -> torch.Tensor:
    found = torch.zeros(1, 1, 16, 16)
    found[..., 2:6, 2:6] = 1
    return found


def test_normal_pixels_have_a_gradient(masks):
    assert (gradient_on_normal_pixels(lambda logits: terms(logits, masks)["focal"], masks) > 0).all()


def test_anomalibs_loss_gives_normal_pixels_none(masks):
    photos = torch.rand(1, 3, 16, 16)
    stock = StockLoss()
    found = gradient_on_normal_pixels(lambda logits: stock(photos, photos, masks, logits), masks)
    assert (found == 0).all(), MEND


def test_focal_loss_by_hand(masks):
    # every pixel: probability 0.8 of a defect; q is 0.8 on 16 of 256 pixels, 0.2 on the others
    logits = torch.zeros(1, 2, 16, 16)
    logits[:, 1] = math.log(4)
    on, off = (-((1 - q) ** 2) * math.log(q) for q in (0.8, 0.2))
    assert float(terms(logits, masks)["focal"]) == pytest.approx((16 * on + 240 * off) / 256, rel=1e-5)


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


def test_outside_the_photo_the_mean_counts_zeros_as_the_authors_do():
    maps = torch.zeros(1, 1, 256, 256)
    maps[0, 0, 0:11, 0:11] = 1  # all that the window in the corner can see, and nothing that others see more of
    assert float(smoothed_maximum(maps)) == pytest.approx(121 / 441)


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


def test_anomalib_scores_by_a_single_pixel(textures):
    stock = StockDraem(textures, post_processor=False, evaluator=False, visualizer=False).model.eval()
    with torch.no_grad():
        found = stock(torch.rand(1, 3, 32, 32))
    assert found.anomaly_map.shape == (1, 32, 32), MEND
    torch.testing.assert_close(found.pred_score, found.anomaly_map.amax(dim=(1, 2)), msg=MEND)


def test_an_exported_model_takes_any_batch():
    model = build().model.eval()
    photos = torch.rand(3, 3, SIZE, SIZE)
    with torch.no_grad():
        program = torch.export.export(model, (photos[:2],), dynamic_shapes=({0: Dim("batch", min=1, max=64)},))
        for batch in (photos[:1], photos):
            found, expected = program.module()(batch), model(batch)
            torch.testing.assert_close(found.anomaly_map, expected.anomaly_map)
            torch.testing.assert_close(found.pred_score, expected.pred_score)


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


def test_anomalibs_learning_rate_falls_at_fixed_epochs(textures):
    stock = StockDraem(textures, post_processor=False, evaluator=False, visualizer=False)
    _, (schedule,) = stock.configure_optimizers()
    assert sorted(schedule.milestones) == [400, 600], MEND


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


def test_widths_are_those_asked_for():
    model = build(base_width=8, discriminative_width=6).model
    assert model.reconstructive_subnetwork.encoder.block1[0].out_channels == 8
    assert model.discriminative_subnetwork.encoder_segment.block1[0].out_channels == 6


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


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_torchvision_still_rounds_what_it_turns_in_mixed_precision(precision):
    from torchvision.transforms.v2.functional import rotate

    with torch.autocast("cpu", precision):
        values = rotate(torch.full((3, 64, 64), 0.4), 30.0).unique().tolist()
    assert values == [0.0], "torchvision no longer needs autocast switched off in Draem.invent: remove it"


def test_turned_photos_are_interpolated(textures):
    """A ramp along the columns: nearest neighbours of it have steps of whole columns, bilinear values lie between."""
    model = build(textures, rotate_probability=1.0, anomaly_probability=0.0)
    ramp = torch.arange(64.0).div(64).expand(1, 3, 64, 64)
    turned = model.invent(ramp)[0][0, 0, 24:40, 24:40] * 64
    assert ((turned - turned.round()).abs() > 0.05).float().mean() > 0.5


def test_sizes_that_the_network_cannot_take_are_named():
    with pytest.raises(ValueError, match="center_crop.*larger than image_size"):
        make_pre_processor((64, 64), (96, 64))
    with pytest.raises(ValueError, match="image_size.*multiples of 32"):
        make_pre_processor((64, 100))
    with pytest.raises(ValueError, match="center_crop.*multiples of 32"):
        make_pre_processor((64, 64), (48, 64))
    photo = torch.rand(1, 3, 100, 90)
    assert make_pre_processor((100, 96), (64, 96))(photo).shape == (1, 3, 64, 96)
    assert float(make_pre_processor((64, 64))(torch.full((1, 3, 80, 80), 0.25)).mean()) == pytest.approx(0.25)


def test_textures_come_in_the_order_of_their_names(textures):
    names = [path.name for path in TextureAnomalies(textures, 0.5, (0.1, 1.0)).anomaly_source_paths]
    assert names == ["0.png", "1.png", "2.png"]


def test_textures_are_needed_to_train_and_only_then(textures, tmp_path):
    with pytest.raises(ValueError, match="ANOMALY_SOURCE"):
        build(str(tmp_path))
    with pytest.raises(ValueError, match="ANOMALY_SOURCE"):
        build().on_train_start()
    build(textures).on_train_start()


def test_anomalib_takes_an_empty_folder_and_draws_noise(tmp_path):
    stock = StockDraem(tmp_path, post_processor=False, evaluator=False, visualizer=False)
    assert stock.augmenter.anomaly_source_paths == [], MEND


@pytest.mark.parametrize(
    "wrong",
    [
        {"anomaly_probability": 1.5},
        {"rotate_probability": -0.1},
        {"base_width": 0},
        {"beta": (0.5, 0.1)},
        {"learning_rate": 0.0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_wrong_parameters_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        build(**wrong)


# ------------------------------------------------------------------------------------------------------ whole trainings


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
    found = validation_figures([torch.tensor([scores, labels], dtype=torch.float32)])
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)
    assert validation_figures([]) == {}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return split_table(draw_photos(tmp_path_factory.mktemp("data") / "rings", n_train=8, n_good=4, n_defect=4))


def train(folder, table, textures, epochs: int = 4, **options):
    source = resolve_anomaly_source(textures, folder)
    common = {"image_size": SIZE, "epochs": epochs, "batch_size": 4, "predict_batch_size": 4, "device": "cpu"}
    return train_on_synthetic(
        folder, "draem", table, None, source, {"learning_rate": 1e-3, **NARROW}, **{**common, **options}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, table, textures):
    return train(tmp_path_factory.mktemp("whole"), table, textures).finish(THRESHOLDS)


def test_a_training_logs_every_term_and_lowers_the_loss(run):
    history = run.history()
    parts = history[["train_l2_loss", "train_ssim_loss", "train_focal_loss"]]
    assert len(history) == 4 and np.isfinite(parts).all(axis=None) and np.isfinite(history["val_normal_score"]).all()
    np.testing.assert_allclose(history["train_loss"], parts.sum(axis=1), rtol=1e-5)
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


@pytest.mark.parametrize("eval_epochs", [1, 2])
def test_an_interrupted_training_ends_with_the_same_weights(run, tmp_path, table, textures, monkeypatch, eval_epochs):
    class Stopped(Exception):  # noqa: N818
        pass

    step = Draem.training_step

    def interrupt(self, batch, *args, **kwargs):
        if self.trainer.current_epoch == 3:
            raise Stopped
        return step(self, batch, *args, **kwargs)

    monkeypatch.setattr(Draem, "training_step", interrupt)
    with pytest.raises(Stopped):
        train(tmp_path, table, textures, eval_epochs=eval_epochs)
    monkeypatch.undo()
    resumed = train(tmp_path, table, textures, eval_epochs=eval_epochs)
    first, second = (
        torch.load(found.folder / "model.ckpt", weights_only=True)["state_dict"] for found in (run, resumed)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_checkpoint_loads_as_plain_data_without_textures(run):
    model = load_model("draem", run.folder / "model.ckpt", "")
    assert model.augmenter is None and model.model.reconstructive_subnetwork.encoder.block1[0].out_channels == 4
    photo = run.photo_at_map_size(run.predictions("test")["image_path"].iloc[0])
    with torch.no_grad():
        score = model.model(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255).pred_score
    # the photo here went through 8 bits once more after it was resized
    assert float(score) == pytest.approx(run.predictions("test")["score"].iloc[0], abs=5e-3)


def test_the_best_epoch_on_val_is_kept_beside_the_last(tmp_path, table, textures):
    with_defects = table.copy()
    with_defects.attrs = table.attrs
    defects = with_defects.index[with_defects["label_index"] == 1]
    with_defects.loc[defects[:2], "split"] = "val"
    run = train(tmp_path, with_defects, textures, select_on_val=True)
    history = run.history()
    assert run.info["epochs"]["epoch"] == int(history["val_auroc"].idxmax())
    assert run.info["epochs"]["value"] == pytest.approx(history["val_auroc"].max())
    assert (run.folder / "model_last.ckpt").is_file()
