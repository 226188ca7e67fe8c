"""The A/B of the repairs: both arms as narrow, as long and as fast, and the table by another library."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import draw_photos, split_table
from PIL import Image
from sklearn.metrics import roc_auc_score

from benchmarks import repairs
from helpers.models.backbones import resolve_backbone
from helpers.pictures.anomaly_source import resolve_anomaly_source


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("textures")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    return {"backbone": resolve_backbone("builtin:"), "source": resolve_anomaly_source(str(folder), folder)}


class ATrainer:
    max_epochs = 10


@pytest.mark.parametrize("name", ["draem", "glass"])
def test_both_arms_have_the_same_weights_to_learn_and_the_same_learning_rates(parts, name, monkeypatch):
    arms = [build(name, distribution="manifold", **parts) for build in (repairs.stock_model, repairs.repaired_model)]
    shapes, rates = [], []
    for arm in arms:
        monkeypatch.setattr(type(arm), "trainer", ATrainer(), raising=False)
        configured = arm.configure_optimizers()
        optimizers = configured[0] if isinstance(configured, tuple) else configured
        groups = [group["params"] for optimizer in optimizers for group in optimizer.param_groups]
        shapes.append(sorted(tuple(value.shape) for group in groups for value in group))
        rates.append(sorted(optimizer.param_groups[0]["lr"] for optimizer in optimizers))
        for optimizer in optimizers:
            optimizer.step()
    assert shapes[0] == shapes[1] and len(shapes[0]) > 4
    assert rates[0] == rates[1] and repairs.LEARNING_RATE[name] in rates[0]


def test_an_arm_is_trained_once_and_its_row_agrees_with_scikit_learn(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(repairs, "SIZE", 64)
    monkeypatch.setattr(repairs, "WIDTH", 4)
    table = split_table(draw_photos(tmp_path / "rings", n_train=12, n_good=4, n_defect=4))
    arguments = (tmp_path / "runs", ("draem", "repaired", 0), table, {"steps": 2, "precision": "32-true"})
    run, again = (repairs.train_arm(*arguments, distribution="", **parts) for _ in range(2))
    assert again.info["finished_at"] == run.info["finished_at"]
    assert run.history()["step"].iloc[-1] + 1 >= 2
    row = repairs.compare({("draem", "repaired", 0): run}, n_bootstrap=20).iloc[0]
    test = run.predictions("test")
    assert row["image_auroc"] == pytest.approx(roc_auc_score(test["label_index"], test["score"]))
    assert row["n_normal"] == 4 and row["n_abnormal"] == 4
    assert row["image_auroc_low"] <= row["image_auroc"] <= row["image_auroc_high"]
