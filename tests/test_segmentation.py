"""U-Net and DeepLabV3+: losses by hand, any size in and out, what validation counts, training through the engine."""

import math
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from conftest import SHARED_BACKBONE, draw_photos, split_table
from torch import nn

from helpers.data.datamodule import SampleDataModule
from helpers.data.samples import supervised_table
from helpers.inference.train import make_trainer
from helpers.models.backbones import bare_backbone, model_args, resolve_backbone
from helpers.models.catalog import SEGMENTERS, build_model, load_model
from helpers.models.parts import rate_factor
from helpers.models.segmentation import LOSSES, SegmenterModel, build_network, segmentation_loss

# Two by two pixels: probabilities 0.8, 0.4, 0.1 and 0.5; the first two are defect.
LOGITS = torch.tensor([math.log(p / (1 - p)) for p in (0.8, 0.4, 0.1, 0.5)]).view(1, 1, 2, 2)
MASK = torch.tensor([1, 1, 0, 0], dtype=torch.uint8).view(1, 1, 2, 2)
BY_HAND = {
    # 1 - 2 (0.8 + 0.4) / ((0.8 + 0.4 + 0.1 + 0.5) + 2) = 1 - 2.4 / 3.8
    "dice": 0.368421,
    # q = 0.8, 0.4, 0.9, 0.5: mean of 0.04 * 0.223144, 0.36 * 0.916291, 0.01 * 0.105361, 0.25 * 0.693147
    "focal": (0.0089257 + 0.3298647 + 0.0010536 + 0.1732868) / 4,
    # mean of -log(q)
    "bce": (0.2231436 + 0.9162907 + 0.1053605 + 0.6931472) / 4,
}


class Fixed(nn.Module):
    """A network whose logits are known: those of one channel of the photo."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen = batch
        return batch[:, :1]


@pytest.fixture(scope="module")
def tiny(backbone_folder):
    """The tiny ResNet of the tests as a backbone."""
    return resolve_backbone(f"local-dir:{backbone_folder}")


@pytest.fixture(scope="module")
def supervised(tmp_path_factory) -> pd.DataFrame:
    """12 photos with a bright square, divided into train, val and test, among normal ones."""
    folder = draw_photos(tmp_path_factory.mktemp("data") / "squares", n_train=6, n_good=2, n_defect=12)
    return supervised_table(split_table(folder))


def photos(n: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(7))


# ------------------------------------------------------------------------------------------------------------ losses


@pytest.mark.parametrize("name", LOSSES)
def test_losses_by_hand(name):
    found = {term: float(value) for term, value in segmentation_loss(LOGITS, MASK, name).items()}
    assert found == pytest.approx({term: BY_HAND[term] for term in name.split("_")}, abs=1e-5)


def test_dice_is_that_of_each_photo():
    """The photo of the case by hand beside one without a defect (term 0), and beside one that is right everywhere."""
    logits, masks = torch.cat([LOGITS, LOGITS, 60.0 * MASK.float() - 30.0]), torch.cat([MASK, 0 * MASK, MASK])
    for pair in ([0, 1], [0, 2]):
        dice = segmentation_loss(logits[pair], masks[pair], "dice")["dice"]
        assert float(dice) == pytest.approx(BY_HAND["dice"] / 2, abs=1e-5)


def test_extreme_logits_and_half_precision_stay_finite():
    logits = torch.tensor([80.0, -80.0, 80.0, -80.0], dtype=torch.float16).view(1, 1, 2, 2)
    terms = segmentation_loss(logits, MASK)
    # p = 1, 0, 1, 0 against 1, 1, 0, 0: Dice 1/2; focal (0 + 80 + 80 + 0) / 4
    assert float(terms["dice"]) == pytest.approx(0.5, abs=1e-4)
    assert float(terms["focal"]) == pytest.approx(40, abs=1e-3)


# ------------------------------------------------------------------------------------------- networks and prediction


@pytest.mark.parametrize("architecture", SEGMENTERS)
@pytest.mark.parametrize("name", ["builtin:", "untrained:resnet18", f"local-dir:{SHARED_BACKBONE}"])
def test_encoders_go_in_with_their_weights_and_come_back_without(architecture, name):
    if name.startswith("local-dir") and not SHARED_BACKBONE.is_dir():
        pytest.skip("the shared MobileNetV2 is not here")
    backbone = resolve_backbone(name)
    network = build_network(architecture, backbone.name, pretrained=backbone.pretrained).train()
    assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 1, 64, 96), "a batch of one photo trains too"
    with bare_backbone(backbone.architecture, model_args(backbone.name)) as bare:
        again = build_network(architecture, bare, pretrained=False)
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(photos(1, 64, 64)), network.eval()(photos(1, 64, 64)))
    with pytest.raises(ValueError, match="vit_tiny_patch16_224"):
        build_network(architecture, "vit_tiny_patch16_224", pretrained=False)


def test_padding_is_copies_of_the_border_cut_off_again():
    batch, network = photos(1, 30, 33), Fixed()
    assert torch.equal(SegmenterModel(network).logits(batch), batch[:, :1])
    assert np.array_equal(network.seen, np.pad(batch.numpy(), ((0, 0), (0, 0), (0, 2), (0, 31)), mode="edge"))


def test_score_is_the_maximum_of_the_smoothed_map():
    probabilities = np.full((1, 1, 6, 7), 0.1)
    probabilities[0, 0, 2, 3] = 0.9  # one pixel within: (8 * 0.1 + 0.9) / 9
    probabilities[0, 0, 5, 6] = 0.8  # a corner, a mean of four: (3 * 0.1 + 0.8) / 4
    batch = torch.from_numpy(np.log(probabilities / (1 - probabilities))).float().expand(1, 3, 6, 7)
    with torch.no_grad():
        found = SegmenterModel(Fixed()).eval()(batch)
    np.testing.assert_allclose(found.anomaly_map, probabilities, atol=1e-6)
    assert float(found.pred_score) == pytest.approx(0.275, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------- training


def logged(model, batches: list[SimpleNamespace]) -> dict[str, list[float]]:
    """Run validation by hand; each logged name with its values."""
    lines: dict[str, list] = {}
    model.log = lambda name, value, **options: lines.setdefault(name, []).append(float(value))
    model.eval().on_validation_epoch_start()
    with torch.no_grad():
        for number, batch in enumerate(batches):
            model.validation_step(batch, number)
        model.on_validation_epoch_end()
    return lines


def test_validation_counts_abnormal_photos_only(tiny):
    """Photo 1 has 3 of 4 defect pixels and 2 false ones, photo 3 has 1 of 4; normal ones are all false."""
    model = build_model("unet", tiny, image_size=64, loss="bce")
    model.model.network = Fixed()
    masks, images = torch.zeros(4, 4, 4, dtype=torch.uint8), torch.full((4, 3, 4, 4), -5.0)
    masks[1, 0], masks[3, 0] = 1, 1
    images[0] = images[2] = 5.0
    images[1, :, 0, :3] = images[1, :, 3, :2] = images[3, :, 0, 0] = 5.0
    labels = torch.tensor([0, 1, 0, 1])
    parts = [slice(0, 2), slice(2, 3), slice(3, 4)]
    batches = [SimpleNamespace(image=images[at], gt_mask=masks[at], gt_label=labels[at]) for at in parts]
    lines = logged(model, batches)
    right, wrong = math.log1p(math.exp(-5)), math.log1p(math.exp(5))  # -log q of a pixel
    assert lines["val_loss"] == pytest.approx([(13 * right + 3 * wrong) / 16] * 2, rel=1e-4)
    # the first: 3 hits, 2 false, 1 missed; the second: 1 hit, 3 missed
    assert lines["val_iou"] == pytest.approx([(3 / 6 + 1 / 4) / 2])
    assert lines["val_dice"] == pytest.approx([(6 / 9 + 2 / 5) / 2])
    with pytest.raises(ValueError, match="supervised"):
        logged(model, batches[1:2])
    with pytest.raises(ValueError, match="mask of every abnormal photo"):
        model.training_step(SimpleNamespace(image=photos(2, 8, 8), gt_mask=None), 0)


def test_learning_rate_rises_and_falls_to_zero():
    factors = [rate_factor(step, 100) for step in range(101)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[52] == pytest.approx(0.5)  # 48 of the 96 steps of the cosine are over
    assert factors[100] == pytest.approx(0) and factors[4:] == sorted(factors[4:], reverse=True)
    assert rate_factor(0, 1) == 1.0


@pytest.mark.parametrize("name", ["patchcore", "unet"])
def test_a_backbone_with_arguments_of_its_own_is_rebuilt_with_them(name, supervised, tmp_path):
    """Other padding, same weights: loaded without it, a model would see other features and say nothing."""
    folder, network = tmp_path / "weights", timm.create_model("test_efficientnet", pad_type="same")
    timm.models.save_for_hf(network, folder, model_args={"pad_type": "same"}, safe_serialization=True)
    backbone = resolve_backbone(f"local-dir:{folder}")
    model = build_model(name, backbone, image_size=64)
    table = supervised[supervised["label_index"] == 0] if name == "patchcore" else supervised
    trainer = make_trainer(model, "cpu", [], limit_val_batches=0, max_epochs=1)
    trainer.fit(model, datamodule=SampleDataModule(table, train_batch_size=4, allow_abnormal_train=True))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    shutil.rmtree(folder)
    assert not torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "model.ckpt"), "plain data"
    loaded = load_model(name, tmp_path / "model.ckpt", backbone.architecture)
    assert loaded.hparams["backbone"] == "test_efficientnet"
    with torch.no_grad():
        expected, found = model.eval()(photos(2, 90, 70)), loaded(photos(2, 90, 70))
    torch.testing.assert_close(found.anomaly_map, expected.anomaly_map, rtol=1e-5, atol=1e-6)
