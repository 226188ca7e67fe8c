"""On real photos, where they are: magnetic tiles with an ImageNet MobileNetV2."""

import hashlib

import pytest
from conftest import SHARED, SHARED_BACKBONE
from sklearn.metrics import roc_auc_score

from helpers import read_dataset
from helpers.data.datamodule import SampleDataModule
from helpers.data.samples import assign_splits, relative_path
from helpers.inference.train import train
from helpers.models.backbones import resolve_backbone
from helpers.models.catalog import build_model
from helpers.runs import open_run
from helpers.thresholds import conformal_threshold

TILES = SHARED / "data" / "magnetic_tile"
MISSING = [str(folder) for folder in (TILES, SHARED_BACKBONE) if not folder.is_dir()]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not part of the project, and not there: {', '.join(MISSING)}")
def test_patchcore_on_a_subset_of_magnetic_tiles(tmp_path):
    """Every second good photo and every fourth with a defect, chosen by the hash of its path."""
    photos = read_dataset(TILES)
    good = photos["label_index"] == 0
    assert (good.sum(), (~good).sum()) == (952, 392)
    number = relative_path(photos).map(lambda path: int(hashlib.sha256(path.encode()).hexdigest(), 16))
    table = assign_splits(photos[good & (number % 2 == 0) | ~good & (number % 4 == 0)], "one_class")

    settings = {"image_size": [256, 256], "center_crop": None, "coreset_sampling_ratio": 0.01}
    backbone = resolve_backbone(f"local-dir:{SHARED_BACKBONE}")
    model = build_model("patchcore", backbone, image_size=(256, 256), coreset_sampling_ratio=0.01)
    run = open_run(tmp_path, "patchcore", settings, table, seed=0)
    train(run, model, SampleDataModule(table, train_batch_size=4, eval_batch_size=4), device="cpu")

    test = run.predictions("test")
    normal = test["label_index"] == 0
    assert min(normal.sum(), (~normal).sum()) > 60
    assert roc_auc_score(test["label_index"], test["score"]) >= 0.93
    threshold = conformal_threshold(run.predictions("val")["score"], 0.9).value
    assert (test["score"] > threshold)[normal].mean() <= 0.3, "asked for 10 % of false alarms, on few photos"
    assert (test["score"] > threshold)[~normal].mean() >= 0.6
