"""The classifier: its loss, mixup, sampling and data by hand; whole trainings on drawn photos."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score
from torch import nn

from helpers import read_dataset
from helpers.data.images import read_image
from helpers.inference.train import classifier_thresholds, train_classifier
from helpers.models.backbones import resolve_backbone
from helpers.models.classifier import (
    Classifier,
    abnormal_scores,
    build_classifier,
    known_classes,
    load_classifier,
    soft_target_loss,
)
from helpers.models.parts import make_pre_processor
from helpers.runs import Run
from helpers.thresholds import conformal_threshold

SIZE = 64
SPLIT_OF = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
P = ["p_good", "p_p", "p_q"]
SETTINGS = {"image_size": SIZE, "batch_size": 8, "augmentation": {"flips": False, "rotation": 0, "scale": 0}}
LAYERS = {"learning_rate": 3e-3, "hidden": 16}
CORNERS = {"p": (0, 0), "q": (0, 32), "r": (32, 0), "s": (32, 32)}


def draw_classes(folder: Path, counts: dict[str, int]) -> pd.DataFrame:
    """Good photos are grey noise; classes p, q, r and s have a bright square in another corner."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir()
        for number in range(count):
            picture = rng.integers(90, 130, (64, 64, 3), dtype=np.uint8)
            if name in CORNERS:
                top, left = CORNERS[name]
                picture[top + 4 : top + 26, left + 4 : left + 26] = 255
            Image.fromarray(picture).save(folder / name / f"{number:02d}.png")
    return read_dataset(folder)


def kept(table: pd.DataFrame, rows: pd.Series) -> pd.DataFrame:
    found = table[rows].reset_index(drop=True)
    found.attrs = table.attrs
    return found


@pytest.fixture(scope="module")
def backbone():
    return resolve_backbone("builtin:")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pd.DataFrame:
    """24 photos of each of three classes: half of them train, a quarter val, a quarter test."""
    whole = draw_classes(tmp_path_factory.mktemp("squares"), {"good": 24, "p": 24, "q": 24})
    whole["split"] = whole.groupby("defect_type").cumcount().map(lambda number: SPLIT_OF[number % len(SPLIT_OF)])
    return whole


@pytest.fixture(scope="module")
def draft(tmp_path_factory, table, backbone) -> Run:
    return train(tmp_path_factory.mktemp("runs"), table, backbone, 8)


@pytest.fixture(scope="module")
def small(table) -> pd.DataFrame:
    """Nine photos of each of two kinds."""
    two = kept(table, table["defect_type"] != "q")
    return kept(two, two.groupby(["defect_type", "split"]).cumcount() < 3)


def tiny(classes: tuple[str, ...] = ("good", "p"), **parameters) -> Classifier:
    """A classifier on one convolution: nothing to load."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
    network.num_features = 4
    return Classifier("none", (0.5,) * 3, (0.25,) * 3, classes, network=network, **{"hidden": 8, **parameters})


def train(folder, table, backbone, epochs: int, settings: dict | None = None, **layers) -> Run:
    settings = SETTINGS | {"epochs": epochs} | (settings or {})
    return train_classifier(folder, table, backbone, settings, LAYERS | layers, device="cpu", eval_batch_size=8)


# ------------------------------------------------------------------------------------------------------ loss and mixup


def test_focal_loss_by_hand():
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.25, 0.75]]))
    # by the paper: (1 - p)^2 * -log(p) of the true class
    expected = (0.1**2 * -np.log(0.9) + 0.75**2 * -np.log(0.25)) / 2
    hard = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert soft_target_loss(logits, hard, gamma=2.0).item() == pytest.approx(expected, rel=1e-5)
    first = 0.8 * 0.1**2 * -np.log(0.9) + 0.2 * 0.9**2 * -np.log(0.1)
    second = 0.5 * 0.75**2 * -np.log(0.25) + 0.5 * 0.25**2 * -np.log(0.75)
    soft = torch.tensor([[0.8, 0.2], [0.5, 0.5]])
    assert soft_target_loss(logits, soft, gamma=2.0).item() == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_mixup_photos_stay_and_gamma_zero_is_torchs_cross_entropy(smoothing):
    torch.manual_seed(1)
    logits, labels, images = 4 * torch.randn(20, 5), torch.randint(0, 5, (20,)), torch.rand(20, 3, 8, 8)
    same, targets = tiny(tuple("abcde"), label_smoothing=smoothing).mix(images, labels)
    assert torch.equal(same, images)
    reference = nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert soft_target_loss(logits, targets).item() == pytest.approx(reference.item(), rel=1e-5)


@pytest.mark.parametrize("n", [1, 4, 5])
def test_mixup_mixes_photos_and_targets_by_the_same_share(n):
    values = torch.arange(1.0, n + 1)  # photo i is i all over
    images, labels = values.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous(), torch.arange(n) % 2
    before, hot, pairs = images.clone(), nn.functional.one_hot(labels, 2).float(), n // 2 * 2
    np.random.seed(3)  # noqa: NPY002  (timm draws from it)
    mixed, targets = tiny(mixup=0.8, label_smoothing=0.0).mix(images, labels)
    assert torch.equal(images, before), "the batch itself is left alone"
    if pairs:
        share = ((mixed[0, 0, 0, 0] - values[pairs - 1]) / (values[0] - values[pairs - 1])).item()
        assert 0.01 < share < 0.99
        expected = share * values[:pairs] + (1 - share) * values[:pairs].flip(0)
        torch.testing.assert_close(mixed[:pairs, 0, 0, 0], expected)
        torch.testing.assert_close(targets[:pairs], share * hot[:pairs] + (1 - share) * hot[:pairs].flip(0))
    assert torch.equal(mixed[pairs:], before[pairs:]) and torch.equal(targets[pairs:], hot[pairs:])  # the odd one


def test_scores_by_hand():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.6, 0.4]])
    np.testing.assert_allclose(abnormal_scores(probabilities, 0), [0.3, 1.0], rtol=1e-6)
    np.testing.assert_allclose(abnormal_scores(probabilities, None), [0.3, 0.4], rtol=1e-6)
    # 1 - p is 0 for both in single precision; the order is kept
    np.testing.assert_allclose(abnormal_scores(torch.tensor([[1.0, 1e-12], [1.0, 3e-12]]), 0), [1e-12, 3e-12], 1e-6)


# ----------------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("name", ["builtin:", "untrained:resnet18", "untrained:mobilenetv3_small_050"])
def test_head_on_the_embedding_gives_the_logits(name):
    model = build_classifier(resolve_backbone(name), ["good", "a", "b"], hidden=12).eval()
    images = torch.rand(2, 3, 64, 96)
    embedding = model.embed(images)
    assert embedding.shape == (2, 12) and model(images).shape == (2, 3) and model.classes == ("good", "a", "b")
    torch.testing.assert_close(model.head(embedding), model(images))


def test_backbone_learns_at_its_own_rate(backbone):
    model = build_classifier(backbone, ["good", "p"], learning_rate=0.1, backbone_lr_factor=0.25)
    model._trainer = SimpleNamespace(estimated_stepping_batches=10)
    groups = model.configure_optimizers()["optimizer"].param_groups
    assert [group["initial_lr"] for group in groups] == pytest.approx([0.1, 0.025])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(("name", "options"), [("builtin:", {"freeze_norm": False}), ("untrained:resnet10t", {})])
def test_batch_statistics_are_learnt_where_they_are_not_frozen(tmp_path, small, backbone, name, options):
    norms = lambda model: [each for each in model.backbone.modules() if isinstance(each, nn.BatchNorm2d)]  # noqa: E731
    run = train(tmp_path, small, resolve_backbone(name), 1, **options)
    assert run.info["parameters"]["model"]["freeze_norm"] is False
    frozen = build_classifier(backbone, ["a", "b"]).train()
    assert frozen.hidden.training and not any(module.training for module in norms(frozen))
    model = load_classifier(run.folder / "model.ckpt", run.info["parameters"]["backbone"]["architecture"])
    assert all(module.num_batches_tracked > 0 for module in norms(model))


# ------------------------------------------------------------------------------------------------------ whole training


def test_shapes_are_learnt_and_predictions_hold_together(draft, table):
    test, stored = draft.predictions("test"), pd.read_csv(draft.folder / "predictions.csv")
    assert (test["predicted"] == test["defect_type"]).mean() > 0.9
    np.testing.assert_allclose(test[P].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(test["score"], test["p_p"] + test["p_q"], atol=1e-6)
    np.testing.assert_allclose(test["confidence"], test[P].max(axis=1), atol=1e-8)
    assert (test["predicted"] == test[P].idxmax(axis=1).str.removeprefix("p_")).all()
    columns = ["image_path", "label_index", "defect_type", "split", "score", "predicted", "confidence", *P]
    assert list(stored.columns) == columns and not stored["image_path"].str.startswith("/").any()
    assert list(test["image_path"]) == list(table.loc[table["split"] == "test", "image_path"])


def test_the_run_says_how_it_was_made_and_history_agrees_with_the_predictions(draft):
    parameters, history, val = draft.info["parameters"], draft.history(), draft.predictions("val")
    assert parameters["classes"] == ["good", "p", "q"] and parameters["normal_class"] == "good"
    assert draft.info["epochs"] == {"trained": 8} and list(history["epoch"]) == list(range(8))
    last, own = history.iloc[-1], [row[f"p_{row['defect_type']}"] for _, row in val.iterrows()]
    assert last["val_accuracy"] == pytest.approx((val["predicted"] == val["defect_type"]).mean(), abs=1e-6)
    assert last["val_f1"] == pytest.approx(f1_score(val["defect_type"], val["predicted"], average="macro"), abs=1e-6)
    assert last["val_loss"] == pytest.approx(-np.log(own).mean(), rel=1e-3)
    assert not draft.finished and (draft.folder / "checkpoints").exists()  # until it is finished


def test_reloaded_it_gives_the_same_and_another_model_is_refused(draft, tmp_path):
    model, test = load_classifier(draft.folder / "model.ckpt", "helpers_r10t"), draft.predictions("test")
    resize = make_pre_processor((SIZE, SIZE)).transform
    photos = [torch.from_numpy(read_image(path)).permute(2, 0, 1).float() / 255 for path in test["image_path"]]
    photos, stored = torch.stack([resize(photo) for photo in photos]), np.load(draft.folder / "embeddings_test.npy")
    with torch.no_grad():
        np.testing.assert_allclose(model(photos).softmax(1), test[P], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(model.embed(photos), stored, rtol=1e-4, atol=1e-5)
    assert stored.dtype == np.float32
    with pytest.raises(ValueError, match="resnet18"):
        load_classifier(draft.folder / "model.ckpt", "resnet18")
    torch.save({"state_dict": {}}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="holds no classifier"):
        load_classifier(tmp_path / "model.ckpt", "helpers_r10t")


def test_thresholds_come_from_good_photos_of_val(draft):
    thresholds = classifier_thresholds(draft, accept=0.8)
    good = draft.predictions("val").query("defect_type == 'good'")["score"]
    assert thresholds["image"] == conformal_threshold(good, 0.8) and thresholds["image"].n_normal == 6
    assert thresholds["image_best_f1"].n_abnormal == 12
    assert thresholds["image_start"].value == 0.4 and thresholds["image_start"].origin == "starting value"
    assert set(thresholds) == {"image", "image_best_f1", "image_start"}


def test_finished_run_is_found_and_two_classes_are_enough(tmp_path, small, backbone):
    arguments = (tmp_path, small, backbone, 2, {"weighted_sampling": False, "binary": True})
    run = train(*arguments, loss="focal", mixup=0.4)
    val = run.predictions("val")
    own = val["p_good"].where(val["label_index"] == 0, val["p_defect"])  # focal loss with gamma 2
    assert (-((1 - own) ** 2) * np.log(own)).mean() == pytest.approx(run.history()["val_loss"].iloc[-1], rel=1e-3)
    assert run.info["parameters"]["classes"] == ["good", "defect"]
    finished = run.finish(classifier_thresholds(run, start=0.4))
    again = train(*arguments, loss="focal", mixup=0.4)
    assert again.finished and again.info == finished.info


def test_without_a_normal_class_nothing_is_calibrated(tmp_path, table, backbone):
    defects = kept(table, (table["defect_type"] != "good") | (table["split"] == "test"))
    run = train(tmp_path, defects, backbone, 1, {"allow_unknown": True})
    assert run.info["parameters"]["normal_class"] is None
    assert run.info["parameters"]["classes"] == ["p", "q"]
    test = run.predictions("test")
    assert (test["defect_type"] == "good").sum() == 6  # of an unknown class, and predicted
    np.testing.assert_allclose(test["score"], 1 - test["confidence"], atol=1e-6)
    threshold = classifier_thresholds(run, start=0.4)["image"]
    assert threshold.value == 0.4 and "not calibrated" in threshold.origin


def test_bad_tables_are_refused(table):
    strange = table.assign(defect_type=[*table["defect_type"][:-1], "dent"])
    for rows, named in (
        (table[table["defect_type"] == "good"], "train holds good"),
        (table[:0], "train holds no photo"),
        (strange, "1 photos are of a class .*dent"),
    ):
        with pytest.raises(ValueError, match=named):
            known_classes(rows)
