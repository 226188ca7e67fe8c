"""What DRAEM and GLASS share: textures, val's figures, and whole trainings on drawn photos."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import draw_photos, split_table

from helpers.data.datamodule import SampleDataset
from helpers.inference.train import find_or_train
from helpers.models.backbones import resolve_backbone
from helpers.models.catalog import build_model, load_model, network_frame
from helpers.thresholds import Threshold

SIZE = 64
PARAMETERS = {
    "draem": {"base_width": 4, "discriminative_width": 4, "learning_rate": 1e-3},
    "glass": {"pretrain_embed_dim": 32, "target_embed_dim": 32, "discriminator_hidden": 16, "steps": 6},
}
PARAMETERS["glass"] |= {"distribution": "hypersphere", "learning_rate": 2e-3}
TERMS = {"draem": ("l2", "ssim", "focal"), "glass": ("true", "gaus", "focal")}
FIGURES = {"draem": [], "glass": ["radius_true", "radius_fake", "score_true", "score_fake"]}
THRESHOLDS = dict.fromkeys(("image", "pixel"), Threshold(value=0.5, origin="by hand"))


def build(name: str, source: str = ""):
    backbone = resolve_backbone("builtin:") if name == "glass" else None
    return build_model(name, backbone, image_size=SIZE, anomaly_source=source, **PARAMETERS[name])


def train(folder, name, table, textures, **options):
    settings = network_frame(SIZE) | {"scheme": "one_class", "epochs": 4, "batch_size": 4, **options}
    how = {"device": "cpu", "eval_batch_size": 4, "monitor": "val_auroc" if "select_on_val" in options else ""}
    return find_or_train(folder, name, table, settings, lambda: build(name, textures), **how)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return split_table(draw_photos(tmp_path_factory.mktemp("data") / "rings", n_train=8, n_good=4, n_defect=4))


@pytest.fixture(scope="module", params=PARAMETERS)
def run(request, tmp_path_factory, table, textures):
    return train(tmp_path_factory.mktemp("whole"), request.param, table, textures).finish(THRESHOLDS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_textures_are_needed_to_train_and_only_then(name, textures, tmp_path):
    with pytest.raises(ValueError, match="ANOMALY_SOURCE"):
        build(name, str(tmp_path))
    with pytest.raises(ValueError, match="ANOMALY_SOURCE"):
        build(name).on_train_start()
    build(name, textures).on_train_start()


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([], [], {}),
        ([0.1, 0.3], [0, 0], {"val_normal_score": 0.2}),
        ([0.1, 0.3, 0.2, 0.9], [0, 0, 1, 1], {"val_normal_score": 0.2, "val_auroc": 0.75}),
        ([12.0, 30.0, 31.0], [0, 0, 1], {"val_normal_score": 21.0, "val_auroc": 1.0}),  # scores are no probabilities
        ([0.4], [1], {}),
    ],
)
def test_figures_of_val_by_hand(scores, labels, expected):
    model, found = build("draem"), {}
    model.log = lambda name, value: found.update({name: float(value)})
    model.model.forward = lambda values: SimpleNamespace(pred_score=values)
    model.on_validation_epoch_start()
    for score, label in zip(scores, labels, strict=True):
        batch = SimpleNamespace(image=torch.tensor([score]), gt_label=torch.tensor([label], dtype=torch.bool))
        model.validation_step(batch, 0)
    model.on_validation_epoch_end()
    assert found == pytest.approx(expected)


def test_a_training_logs_every_term_and_lowers_the_loss(run):
    history, terms = run.history(), [f"train_{term}_loss" for term in TERMS[run.name]]
    columns = ["train_loss", *terms, *FIGURES[run.name], "val_normal_score"]
    assert len(history) == 4 and np.isfinite(history[columns]).all(axis=None)
    assert "val_auroc" not in history  # val holds good photos only
    np.testing.assert_allclose(history["train_loss"], history[terms].sum(axis=1), rtol=1e-5)
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


@pytest.mark.parametrize("eval_epochs", [1, 2])
def test_an_interrupted_training_ends_with_the_same_weights(run, tmp_path, table, textures, monkeypatch, eval_epochs):
    kind = type(build(run.name))
    step = kind.training_step

    def interrupt(self, batch, *args, **kwargs):
        if self.trainer.current_epoch == 3:
            raise OSError("power cut")
        return step(self, batch, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr(kind, "training_step", interrupt)
        train(tmp_path, run.name, table, textures, eval_epochs=eval_epochs)
    resumed = train(tmp_path, run.name, table, textures, eval_epochs=eval_epochs)
    first, second = (torch.load(one.folder / "model.ckpt", weights_only=True)["state_dict"] for one in (run, resumed))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_checkpoint_loads_as_plain_data_without_textures_or_pretrained_weights(run, table):
    model = load_model(run.name, run.folder / "model.ckpt", "helpers_r10t" if run.name == "glass" else "")
    data = SampleDataset(table, "test")
    with torch.no_grad():
        photos = model.pre_processor.transform(torch.stack([data[index].image for index in range(2)]))
        scores = model.model(photos).pred_score
    np.testing.assert_allclose(scores, run.predictions("test")["score"].head(2), rtol=1e-4)


def test_the_best_epoch_on_val_is_kept_beside_the_last(tmp_path, table, textures):
    with_defects = table.copy()
    with_defects.attrs = table.attrs
    with_defects.loc[with_defects.index[with_defects["label_index"] == 1][:2], "split"] = "val"
    run = train(tmp_path, "draem", with_defects, textures, select_on_val=True)
    history = run.history()
    assert run.info["epochs"]["epoch"] == int(history["val_auroc"].idxmax())
    assert run.info["epochs"]["value"] == pytest.approx(history["val_auroc"].max())
    assert (run.folder / "model_last.ckpt").is_file()
