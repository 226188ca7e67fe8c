"""Training by epochs: resumed as if never interrupted, the best epoch's weights, logs, and fair comparison."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import draw_photos, split_table

from helpers.analysis.metrics import photo_overlap
from helpers.data.augment import make_augmentations
from helpers.data.datamodule import SampleDataModule
from helpers.data.samples import supervised_table, write_table
from helpers.models.backbones import resolve_backbone
from helpers.models.catalog import build_model, load_model
from helpers.models.segmentation import Segmenter
from helpers.runs import MissingRunError, Run, find_runs, open_run
from helpers.thresholds import Threshold

SETTINGS = {"image_size": [64, 64], "center_crop": None, "scheme": "supervised"}
THRESHOLDS = {"image": Threshold(value=0.5, origin="by hand"), "pixel": Threshold(value=0.5, origin="by hand")}


@pytest.fixture(scope="module")
def one_class(tmp_path_factory) -> pd.DataFrame:
    return split_table(draw_photos(tmp_path_factory.mktemp("data") / "squares", n_train=6, n_good=2, n_defect=12))


@pytest.fixture(scope="module")
def table(one_class) -> pd.DataFrame:
    return supervised_table(one_class)


def fit(draft: Run, epochs: int = 3) -> Run:
    torch.manual_seed(0)
    model = build_model("unet", resolve_backbone("builtin:"), image_size=64, learning_rate=1e-3)
    data = SampleDataModule(
        draft.table, train_batch_size=4, allow_abnormal_train=True, train_augmentations=make_augmentations()
    )
    draft.fit(model, data, device="cpu", epochs=epochs, monitor="val_dice", area_threshold=0.3)
    return draft


@pytest.fixture(scope="module")
def run(tmp_path_factory, table) -> Run:
    return fit(open_run(tmp_path_factory.mktemp("whole"), "unet", SETTINGS, table, seed=0)).finish(THRESHOLDS)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.folder / "model.ckpt", weights_only=True)["state_dict"]


def test_history_has_a_row_an_epoch_with_losses_and_overlap(run):
    history = run.history()
    assert list(history["epoch"]) == [0, 1, 2]
    columns = ["train_loss", "train_dice_loss", "train_focal_loss", "val_loss", "val_iou", "val_dice"]
    assert np.isfinite(history[columns]).all(axis=None)
    np.testing.assert_allclose(
        history["train_loss"], history["train_dice_loss"] + history["train_focal_loss"], rtol=1e-5
    )
    assert list((run.folder / "logs").glob("events.out.tfevents.*"))


def test_the_best_epochs_weights_are_the_runs(run):
    history = run.history()
    best = int(history["val_dice"].idxmax())
    assert run.info["epochs"]["epoch"] == best
    assert run.info["epochs"]["value"] == pytest.approx(history["val_dice"][best], abs=1e-6)
    assert run.info["epochs"]["trained"] == 3
    overlap = photo_overlap(run.val_maps(), run.val_masks(), 0.5)[run.predictions("val")["label_index"] == 1]
    assert overlap["dice"].mean() == pytest.approx(history["val_dice"][best], abs=2e-3)  # maps in half precision
    assert overlap["iou"].mean() == pytest.approx(history["val_iou"][best], abs=2e-3)
    model = load_model("unet", run.folder / "model.ckpt", "helpers_r10t")
    assert isinstance(model, Segmenter)
    for name, value in weights(run).items():
        assert torch.equal(model.state_dict()[name], value)


def test_area_is_the_share_of_the_map_above_the_limit(run):
    test = run.predictions("test")
    expected = [(anomaly_map > 0.3).mean() for anomaly_map in run.test_maps().astype(np.float32)]
    np.testing.assert_allclose(test["area"], expected, atol=2 / 64**2)  # maps are kept in half precision


@pytest.mark.parametrize("broken_epoch", [1, 2])
def test_resumed_training_ends_with_the_same_weights(tmp_path, table, run, monkeypatch, broken_epoch):
    def fail(self):
        if self.current_epoch == broken_epoch:
            raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "on_train_epoch_start", fail)
        with pytest.raises(OSError, match="power cut"):
            fit(open_run(tmp_path, "unet", SETTINGS, table, seed=0))
    with pytest.raises(MissingRunError):
        Run.load(tmp_path / "unet")
    epochs = []
    monkeypatch.setattr(Segmenter, "on_train_epoch_start", lambda self: epochs.append(self.current_epoch))
    resumed = fit(open_run(tmp_path, "unet", SETTINGS, table, seed=0)).finish(THRESHOLDS)
    assert epochs == list(range(broken_epoch, 3))
    assert resumed.info["epochs"] == run.info["epochs"]
    for name, value in weights(run).items():
        assert torch.equal(weights(resumed)[name], value), name
    columns = ["epoch", "train_loss", "val_dice"]
    pd.testing.assert_frame_equal(resumed.history()[columns], run.history()[columns])
    assert not list(resumed.folder.rglob("*.partial")) and not (resumed.folder / "checkpoints").exists()


def test_a_training_that_was_never_finished_is_not_done_again(tmp_path, table, run, monkeypatch):
    """A notebook may stop between training and thresholds."""
    fit(open_run(tmp_path, "unet", SETTINGS, table, seed=0))
    epochs = []
    monkeypatch.setattr(Segmenter, "on_train_epoch_start", lambda self: epochs.append(self.current_epoch))
    again = fit(open_run(tmp_path, "unet", SETTINGS, table, seed=0)).finish(THRESHOLDS)
    assert epochs == []
    assert again.info["epochs"] == run.info["epochs"]
    for name, value in weights(run).items():
        assert torch.equal(weights(again)[name], value), name
    pd.testing.assert_frame_equal(again.predictions("test"), run.predictions("test"))
    assert len(again.history()) == 3
    assert not (again.folder / "checkpoints").exists() and not (again.folder / "logs" / "csv").exists()


def test_draft_of_other_parameters_is_begun_again(tmp_path, table):
    draft = open_run(tmp_path, "unet", SETTINGS, table, seed=0)
    (draft.folder / "checkpoints").mkdir()
    (draft.folder / "checkpoints" / "last.ckpt").write_bytes(b"of other parameters")
    (draft.folder / "draft.json").write_text(json.dumps({"fingerprint": "another"}))
    assert list(open_run(tmp_path, "unet", SETTINGS, table, seed=0).folder.iterdir()) == []


def test_patience_stops_training(tmp_path, table, monkeypatch):
    monkeypatch.setattr(Segmenter, "on_validation_epoch_end", lambda self: self.log("val_dice", 0.5))
    draft = open_run(tmp_path, "unet", SETTINGS, table, seed=0)
    torch.manual_seed(0)
    model = build_model("unet", resolve_backbone("builtin:"), image_size=64)
    data = SampleDataModule(table, train_batch_size=16, allow_abnormal_train=True)
    draft.fit(model, data, device="cpu", epochs=9, monitor="val_dice", patience=2)
    assert len(draft.history()) == 3 and draft.info["epochs"]["epoch"] == 0


# ------------------------------------------------------------------------------------------------------ fair comparison


@pytest.fixture
def both(tmp_path, one_class, run, fit_run, settings) -> list[Run]:
    """PatchCore, which tests all defects, beside U-Net, which tests those it has not learned from."""
    shutil.copytree(run.folder, tmp_path / "unet")
    write_table(one_class, tmp_path / "samples.csv")
    fit_run(open_run(tmp_path, "patchcore", settings, one_class, seed=0))
    return find_runs(tmp_path, one_class)


def test_runs_are_compared_on_the_photos_that_all_of_them_test(both, one_class, table):
    patchcore, unet = both
    tested = set(table.loc[table["split"] == "test", "image_path"])
    assert tested < set(one_class.loc[one_class["split"] == "test", "image_path"])
    for found in both:
        assert set(found.predictions("test")["image_path"]) == tested
        assert len(found.test_maps()) == len(list(found.test_masks())) == len(tested)
    assert unet.compared_on is None and "compared on" not in unet.describe()
    whole = Run.load(patchcore.folder)
    assert f"{len(tested)} of its {len(whole.predictions('test'))} test photos" in patchcore.describe()
    # each map is still that of its row
    rows = whole.predictions("test").reset_index().merge(patchcore.predictions("test"), on="image_path")
    assert np.array_equal(patchcore.test_maps(), whole.test_maps()[rows["index"].to_numpy()])
    assert np.array_equal(patchcore.examples(patchcore.predictions("test"))["maps"][-1], patchcore.test_maps()[-1])


def test_run_of_an_older_split_is_refused(both, one_class):
    from helpers.data.samples import assign_splits

    other = assign_splits(one_class, "one_class", val_fraction=0.4, seed=7)
    with pytest.raises(MissingRunError, match="patchcore, unet: made with other photos or splits"):
        find_runs(both[0].folder.parent, other)
