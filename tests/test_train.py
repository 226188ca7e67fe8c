"""Training of every model that learns by epochs, on drawn photos; devices; predictions on their way to disk."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import draw_photos, split_table
from lightning.pytorch.callbacks import Callback
from PIL import Image

from helpers.analysis.pixels import photo_overlap
from helpers.compute import torch_device, trainer_device
from helpers.data.augment import make_augmentations
from helpers.data.datamodule import SampleDataModule, SampleDataset
from helpers.data.images import read_mask, to_network_frame
from helpers.data.samples import supervised_table, write_table
from helpers.inference import train as training
from helpers.inference.train import (
    MinuteLines,
    find_or_train,
    make_trainer,
    train,
    train_classifier,
    trainer_precision,
)
from helpers.models.backbones import resolve_backbone
from helpers.models.catalog import build_model, load_model, network_frame
from helpers.models.segmentation import Segmenter
from helpers.runs import MissingRunError, Run, find_runs, open_run
from helpers.thresholds import Threshold


@pytest.mark.parametrize(
    ("cuda", "mps", "found", "refused"),
    [
        (0, False, {"auto": "cpu", "cpu": "cpu"}, ("cuda", "cuda:0", "mps")),
        (0, True, {"auto": "mps", "mps": "mps", "cpu": "cpu"}, ("cuda",)),
        (2, False, {"auto": "cuda:0", "cuda": "cuda:0", "cuda:1": "cuda:1"}, ("cuda:2", "", "gpu", "CPU", "cuda:-1")),
    ],
)
def test_devices(monkeypatch, cuda, mps, found, refused):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    for word, device in found.items():
        kind, _, index = device.partition(":")
        assert torch_device(word) == device
        assert trainer_device(word) == {"accelerator": kind, "devices": [int(index)] if index else 1}
        assert trainer_precision("auto", word) == ("16-mixed" if kind == "cuda" else "32-true")
    assert trainer_precision("bf16-mixed", "cpu") == "bf16-mixed"
    for word in refused:
        with pytest.raises(ValueError, match=f"DEVICE='{word}'"):
            trainer_device(word)


# ------------------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("crop", [None, (40, 56)])
def test_masks_lie_as_anomalib_lays_them(make_model, tmp_path, crop):
    """Photos of two sizes go through anomalib's own resizing in the datamodule and the crop in the model."""
    folder = draw_photos(tmp_path / "one", n_train=3, n_good=2, n_defect=4, size=(72, 96))
    for file in folder.rglob("00[02]*.png"):
        Image.open(file).resize((57, 131), Image.Resampling.NEAREST).save(file)
    table, seen = split_table(folder), {}

    class Masks(Callback):
        def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            masks = (mask.squeeze().cpu().numpy().astype(bool) for mask in outputs.gt_mask)
            seen.update(zip(outputs.image_path, masks, strict=True))

    model = make_model(image_size=(64, 80), center_crop=crop)
    data = SampleDataModule(table, train_batch_size=2, eval_batch_size=4)
    make_trainer(model, "cpu", [], limit_val_batches=0).fit(model, datamodule=data)
    make_trainer(model, "cpu", [Masks()]).predict(model, datamodule=data, return_predictions=False)
    defects = table.query("split == 'test' and label_index == 1")
    assert len(defects) == 4
    for row in defects.itertuples():
        frame = to_network_frame(read_mask(row.mask_path), {"image_size": [64, 80], "center_crop": crop})
        assert frame.dtype == bool and frame.shape == (crop or (64, 80))
        assert np.array_equal(frame, seen[row.image_path]), row.image_path


def test_predictions_are_in_float32_and_in_the_order_of_the_table(make_model, table, settings, tmp_path, tf32_seen):
    model, run = make_model(), open_run(tmp_path, "patchcore", settings, table, seed=0)
    train(run, model, SampleDataModule(table, train_batch_size=4, eval_batch_size=4), device="cpu")  # 4 + 4 + 1
    predictions, expected = run.predictions("test"), table[table["split"] == "test"]
    assert tf32_seen == {False} and predictions["image_path"].tolist() == expected["image_path"].tolist()
    row = predictions.iloc[-1]  # the photo alone in the last batch, scored here
    with Image.open(row["image_path"]) as image:
        photo = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        found = model.eval().model(model.pre_processor.transform(photo))
    assert row["score"] == pytest.approx(float(found.pred_score), rel=1e-4)
    assert row["map_max"] == pytest.approx(float(found.anomaly_map.max()), rel=1e-4)
    np.testing.assert_allclose(run.maps("test")[-1], found.anomaly_map[0, 0], rtol=2e-3)


def test_one_line_a_minute(monkeypatch, capsys):
    clock = iter([0.0, 30.0, 61.0, 100.0])
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    lines = MinuteLines()
    trainer = SimpleNamespace(current_epoch=0, max_epochs=1, num_training_batches=40)
    for index in range(3):  # at 30, 61 and 100 s
        lines.on_train_batch_end(trainer, None, None, None, index)
    assert capsys.readouterr().out.splitlines() == ["training, epoch 1/1: batch 2/40, 61 s"]


# --------------------------------------------------------------------------------------------------------- by epochs

PARAMETERS = {
    "unet": {"learning_rate": 1e-3},
    "draem": {"base_width": 4, "discriminative_width": 4, "learning_rate": 1e-3},
    "glass": {"pretrain_embed_dim": 32, "target_embed_dim": 32, "discriminator_hidden": 16, "steps": 6},
    "classifier": {"hidden": 16, "mixup": 0.4, "learning_rate": 3e-3},
}
PARAMETERS["glass"] |= {"distribution": "hypersphere", "learning_rate": 2e-3}
LOGGED = {
    "unet": (["dice", "focal"], ["val_loss", "val_iou", "val_dice"]),
    "draem": (["l2", "ssim", "focal"], ["val_normal_score"]),
    "glass": (["true", "gaus", "focal"], ["radius_true", "radius_fake", "score_true", "score_fake"]),
    "classifier": ([], ["val_loss", "val_accuracy", "val_f1"]),
}
INVENTING, EPOCHS = ("draem", "glass"), 4
THRESHOLDS = dict.fromkeys(("image", "pixel"), Threshold(value=0.5, origin="by hand"))


def build(name: str, source: str = ""):
    options = PARAMETERS[name] | ({"anomaly_source": source} if name in INVENTING else {})
    return build_model(name, None if name == "draem" else resolve_backbone("builtin:"), image_size=64, **options)


@pytest.fixture(scope="module")
def one_class(tmp_path_factory) -> pd.DataFrame:
    return split_table(draw_photos(tmp_path_factory.mktemp("data") / "squares", n_train=6, n_good=2, n_defect=12))


@pytest.fixture(scope="module")
def mixed(one_class) -> pd.DataFrame:
    return supervised_table(one_class)


@pytest.fixture(scope="module")
def fit(one_class, mixed, textures):
    """Train a model by its name: the draft."""

    def train_one(folder, name: str, table: pd.DataFrame | None = None, monitor: str = "", **options) -> Run:
        how = {"device": "cpu", "eval_batch_size": 4}
        if name == "classifier":
            settings = {"image_size": 64, "epochs": EPOCHS, "batch_size": 4, "augmentation": {}}
            return train_classifier(folder, mixed, resolve_backbone("builtin:"), settings, PARAMETERS[name], **how)
        settings = network_frame(64) | {"epochs": EPOCHS, "batch_size": 4, "scheme": "one_class", **options}
        if name == "unet":
            how |= {"allow_abnormal_train": True, "train_augmentations": make_augmentations()}
            settings, monitor = settings | {"scheme": "supervised", "start_threshold": 0.3}, "val_dice"
        table = table if table is not None else mixed if name == "unet" else one_class
        return find_or_train(folder, name, table, settings, lambda: build(name, textures), monitor=monitor, **how)

    return train_one


@pytest.fixture(scope="module")
def runs(fit, tmp_path_factory) -> dict[str, Run]:
    return {name: fit(tmp_path_factory.mktemp(name), name).finish(THRESHOLDS) for name in PARAMETERS}


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.folder / "model.ckpt", weights_only=True)["state_dict"]


def assert_same_weights(run: Run, other: Run) -> None:
    first, second = weights(run), weights(other)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", PARAMETERS)
def test_history_has_a_row_an_epoch_and_every_term_of_a_falling_loss(runs, name):
    history, (terms, figures) = runs[name].history(), LOGGED[name]
    terms = [f"train_{term}_loss" for term in terms]
    assert history["epoch"].tolist() == list(range(EPOCHS))
    assert np.isfinite(history[["train_loss", *terms, *figures]]).all(axis=None)
    assert list((runs[name].folder / "logs").glob("events.out.tfevents.*"))
    if terms:
        np.testing.assert_allclose(history["train_loss"], history[terms].sum(axis=1), rtol=1e-5)
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in PARAMETERS), *((name, {"eval_epochs": 2}) for name in INVENTING)]
)
def test_an_interrupted_training_ends_with_the_same_weights(runs, fit, tmp_path, monkeypatch, name, options):
    seen, seed_epoch = [], training.SeededEpochs.on_train_epoch_start

    def interrupt(self, trainer, *rest) -> None:
        if len(seen) == EPOCHS - 1:
            raise OSError("power cut")
        seen.append(trainer.current_epoch)
        seed_epoch(self, trainer, *rest)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr(training.SeededEpochs, "on_train_epoch_start", interrupt)
        fit(tmp_path, name, **options)
    with pytest.raises(MissingRunError):
        Run.load(tmp_path / name)
    resumed = fit(tmp_path, name, **options).finish(THRESHOLDS)
    assert_same_weights(resumed, runs[name])
    assert resumed.info["epochs"] == runs[name].info["epochs"]
    pd.testing.assert_series_equal(resumed.history()["train_loss"], runs[name].history()["train_loss"])
    assert not list(resumed.folder.rglob("*.partial")) and not (resumed.folder / "checkpoints").exists()
    assert not (resumed.folder / "logs" / "csv").exists()


def test_a_training_that_was_never_finished_is_not_done_again(runs, fit, tmp_path, monkeypatch):
    """A notebook may stop between training and thresholds."""
    fit(tmp_path, "unet")
    epochs = []
    monkeypatch.setattr(Segmenter, "on_train_epoch_start", lambda self: epochs.append(self.current_epoch))
    again = fit(tmp_path, "unet").finish(THRESHOLDS)
    assert epochs == [] and len(again.history()) == EPOCHS
    assert_same_weights(again, runs["unet"])
    pd.testing.assert_frame_equal(again.predictions("test"), runs["unet"].predictions("test"))


@pytest.mark.parametrize("name", ["unet", *INVENTING])
def test_the_checkpoint_loads_as_plain_data_without_textures_or_pretrained_weights(runs, name):
    run = runs[name]
    model = load_model(name, run.folder / "model.ckpt", "" if name == "draem" else "helpers_r10t")
    data = SampleDataset(run.table, "test")
    with torch.no_grad():
        photos = model.pre_processor.transform(torch.stack([data[index].image for index in range(2)]))
        scores = model.model(photos).pred_score
    np.testing.assert_allclose(scores, run.predictions("test")["score"].head(2), rtol=1e-4)
    if name == "unet":
        with pytest.raises(RuntimeError, match="state_dict"):
            load_model("deeplabv3plus", run.folder / "model.ckpt", "helpers_r10t")


def test_the_best_epochs_weights_are_the_runs(runs):
    run, history = runs["unet"], runs["unet"].history()
    best = int(history["val_dice"].idxmax())
    assert run.info["epochs"]["epoch"] == best and run.info["epochs"]["trained"] == EPOCHS
    assert run.info["epochs"]["value"] == pytest.approx(history["val_dice"][best], abs=1e-6)
    overlap = photo_overlap(run.maps("val"), run.masks("val"), 0.5)[run.predictions("val")["label_index"] == 1]
    assert overlap["dice"].mean() == pytest.approx(history["val_dice"][best], abs=2e-3)  # maps in half precision
    assert overlap["iou"].mean() == pytest.approx(history["val_iou"][best], abs=2e-3)
    shares = [(anomaly_map > 0.3).mean() for anomaly_map in run.maps("test").astype(np.float32)]
    np.testing.assert_allclose(run.predictions("test")["area"], shares, atol=2 / 64**2)


def test_the_best_epoch_on_val_is_kept_beside_the_last(fit, one_class, tmp_path):
    table = one_class.copy()
    table.attrs = one_class.attrs
    table.loc[table.index[table["label_index"] == 1][:2], "split"] = "val"
    run = fit(tmp_path, "draem", table, "val_auroc", select_on_val=True)
    assert run.info["epochs"]["epoch"] == int(run.history()["val_auroc"].idxmax())
    assert (run.folder / "model_last.ckpt").is_file()


def test_draft_of_other_parameters_is_begun_again(tmp_path, mixed):
    draft = open_run(tmp_path, "unet", {}, mixed, seed=0)
    (draft.folder / "checkpoints").mkdir()
    (draft.folder / "draft.json").write_text('{"fingerprint": "another"}')
    assert list(open_run(tmp_path, "unet", {}, mixed, seed=0).folder.iterdir()) == []


def test_patience_stops_training(fit, tmp_path, monkeypatch):
    monkeypatch.setattr(Segmenter, "on_validation_epoch_end", lambda self: self.log("val_dice", 0.5))
    draft = fit(tmp_path, "unet", epochs=9, patience=2)
    assert len(draft.history()) == 3 and draft.info["epochs"]["epoch"] == 0


# --------------------------------------------------------------------------------------------------- fair comparison


def test_runs_are_compared_on_the_photos_that_all_of_them_test(tmp_path, one_class, mixed, runs, fit_run, settings):
    """PatchCore tests all defects, U-Net those it has not learned from."""
    shutil.copytree(runs["unet"].folder, tmp_path / "unet")
    write_table(one_class, tmp_path / "samples.csv")
    fit_run(open_run(tmp_path, "patchcore", settings, one_class, seed=0))
    both = patchcore, unet = find_runs(tmp_path, one_class)
    tested = set(mixed.loc[mixed["split"] == "test", "image_path"])
    assert tested < set(one_class.loc[one_class["split"] == "test", "image_path"])
    for found in both:
        assert set(found.predictions("test")["image_path"]) == tested
        assert len(found.maps("test")) == len(list(found.masks("test"))) == len(tested)
    assert unet.compared_on is None and "compared on" not in unet.describe()
    whole = Run.load(patchcore.folder)
    assert f"{len(tested)} of its {len(whole.predictions('test'))} test photos" in patchcore.describe()
    # each map is still that of its row
    rows = whole.predictions("test").reset_index().merge(patchcore.predictions("test"), on="image_path")
    assert np.array_equal(patchcore.maps("test"), whole.maps("test")[rows["index"].to_numpy()])
    assert np.array_equal(patchcore.examples(patchcore.predictions("test"))["maps"][-1], patchcore.maps("test")[-1])
