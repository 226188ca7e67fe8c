"""The A/B of the repairs: both arms as narrow, as long and as fast, and the table by another library."""

from types import SimpleNamespace

import pytest
from conftest import draw_photos, split_table
from sklearn.metrics import roc_auc_score

from benchmarks import repairs
from helpers.models.backbones import resolve_backbone
from helpers.pictures.anomaly_source import resolve_anomaly_source


@pytest.fixture
def parts(textures, tmp_path) -> dict:
    return {"backbone": resolve_backbone("builtin:"), "source": resolve_anomaly_source(textures, tmp_path)}


@pytest.mark.parametrize("name", ["draem", "glass"])
def test_both_arms_have_the_same_weights_to_learn_and_the_same_learning_rates(parts, name, monkeypatch):
    shapes, rates = [], []
    for build in (repairs.stock_model, repairs.repaired_model):
        arm = build(name, distribution="manifold", **parts)
        monkeypatch.setattr(type(arm), "trainer", SimpleNamespace(max_epochs=10), raising=False)
        configured = arm.configure_optimizers()
        groups = [one.param_groups for one in (configured[0] if isinstance(configured, tuple) else configured)]
        shapes.append(sorted(tuple(value.shape) for (group,) in groups for value in group["params"]))
        rates.append(sorted(group["lr"] for (group,) in groups))
    assert shapes[0] == shapes[1] and len(shapes[0]) > 4
    assert rates[0] == rates[1] and repairs.LEARNING_RATE[name] in rates[0]


def test_an_arm_is_trained_once_and_its_row_agrees_with_scikit_learn(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(repairs, "SIZE", 64)
    monkeypatch.setattr(repairs, "WIDTH", 4)
    table = split_table(draw_photos(tmp_path / "rings", n_train=12, n_good=4, n_defect=4))
    key = ("draem", "repaired", 0)
    arguments = (tmp_path / "runs", key, table, {"steps": 2, "precision": "32-true"})
    run, again = (repairs.train_arm(*arguments, distribution="", **parts) for _ in range(2))
    assert again.info["finished_at"] == run.info["finished_at"]
    assert run.history()["step"].iloc[-1] + 1 >= 2
    row, test = repairs.compare({key: run}, n_bootstrap=20).iloc[0], run.predictions("test")
    assert row["image_auroc"] == pytest.approx(roc_auc_score(test["label_index"], test["score"]))
    assert row["n_normal"] == 4 and row["n_abnormal"] == 4
    assert row["image_auroc_low"] <= row["image_auroc"] <= row["image_auroc_high"]
