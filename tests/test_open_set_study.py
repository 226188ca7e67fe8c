"""Known and unknown classes: verdicts and shares by hand, and one split from end to end."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers import read_dataset
from helpers.data.known_unknown import ClassSplit
from helpers.models.backbones import resolve_backbone
from helpers.models.open_set import MahalanobisScorer
from helpers.studies import open_set as study
from helpers.thresholds import Threshold

LIMITS = {
    "tau": Threshold(value=2.0, origin="given"),
    "kappa": Threshold(value=0.6, origin="given", below=True),
    "gate": Threshold(value=0.5, origin="given"),
}


def photos() -> pd.DataFrame:
    """Six photos: two known, right; one far; one doubtful; one that the gate lets go; one unknown that looks known."""
    return pd.DataFrame(
        {
            "image_path": list("123456"),
            "defect_type": ["a", "b", "x", "x", "a", "x"],
            "known": [True, True, False, False, True, False],
            "predicted": ["a", "b", "a", "b", "a", "b"],
            "mahalanobis": [1.0, 2.0, 3.0, 1.0, 1.0, 1.0],
            "confidence": [0.9, 0.6, 0.9, 0.5, 0.9, 0.9],
            "gate": [0.9, 0.9, 0.9, 0.9, 0.5, 0.9],
        }
    )


def test_each_approach_gives_its_verdicts():
    verdicts = study._verdicts(photos(), LIMITS, True, "confidence", False)
    assert verdicts["one stage"].tolist() == ["a", "b", "unknown", "b", "a", "b"]
    assert verdicts["one stage with kappa"].tolist() == ["a", "b", "unknown", "unknown", "a", "b"]
    assert verdicts["two stages"].tolist() == ["a", "b", "a", "unknown", "no_defect", "b"]
    ignoring = study._verdicts(photos(), LIMITS, False, "distance", True)
    assert ignoring["two stages"].tolist() == ["a", "b", "unknown", "b", "a", "b"]
    assert "one stage with kappa" not in ignoring
    good = study._verdicts(photos().replace({"predicted": {"b": "good"}}), LIMITS, False, "confidence", False)
    assert good["one stage"].tolist() == ["a", "good", "unknown", "good", "a", "good"]
    # flagged, but good by the classifier: no defect that it knows; what the gate lets go is good
    assert good["two stages"].tolist() == ["a", "unknown", "a", "unknown", "good", "unknown"]


def test_shares_of_an_approach_by_hand():
    verdicts = study._verdicts(photos(), LIMITS, True, "confidence", False)
    row = study.approach_row(verdicts, "two stages", ["a", "b"])
    assert (row["n_known"], row["n_unknown"]) == (3, 3)
    assert row["known_right"] == pytest.approx(2 / 3)  # the third was let go
    assert row["known_accepted"] == 1  # none was called unknown
    assert row["unknown_detected"] == pytest.approx(1 / 3)
    assert row["lost"] == pytest.approx(1 / 6)
    assert row["open_set_accuracy"] == pytest.approx(3 / 6)
    table = study.confusion(verdicts["defect_type"], verdicts["two stages"], ["a", "b"])
    assert table.loc["x"].to_dict() == {"a": 1, "b": 1, "no_defect": 0, "unknown": 1}
    assert table.loc["a", "no_defect"] == 1


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Good photos are grey noise; classes p, q and r have a square in another corner."""
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for name, corner in (("good", None), ("p", (0, 0)), ("q", (0, 32)), ("r", (32, 0))):
        (folder / name).mkdir()
        for number in range(20):
            picture = rng.integers(90, 130, (64, 64, 3), dtype=np.uint8)
            if corner:
                picture[corner[0] + 4 : corner[0] + 26, corner[1] + 4 : corner[1] + 26] = 255
            Image.fromarray(picture).save(folder / name / f"{number:02d}.png")
    return folder


def test_a_split_leaves_its_folder_and_never_trains_on_the_unknown(squares, tmp_path):
    table = read_dataset(squares)
    backbone = resolve_backbone("builtin:")
    options = {"image_size": 64, "epochs": 1, "batch_size": 8, "predict_batch_size": 16, "learning_rate": 1e-3}
    options |= {"augmentation": {}, "device": "cpu", "hidden": 16, "n_bootstrap": 20}
    result = study.run_split(tmp_path, table, ClassSplit("A", ("p", "q"), ("r",)), backbone, **options)
    place = tmp_path / "A"
    folders = {entry.name for entry in place.iterdir()}
    assert folders == {"classifier", "embeddings", "osr", "cascade", "plots", "metrics.json"}
    used = result.run.table
    assert set(used.loc[used["defect_type"] == "r", "split"]) == {"test"}
    assert result.run.info["parameters"]["classes"] == ["good", "p", "q"]
    metrics = json.loads((place / "metrics.json").read_text())
    assert metrics["known"] == ["p", "q"] and metrics["unknown"] == ["r"]
    assert {row["method"] for row in metrics["methods"]} == set(study.METHODS)
    assert all(row["n_unknown"] == 20 for row in metrics["methods"])
    # the stored scorer gives the stored scores, from the stored embeddings
    scorer = MahalanobisScorer.load(place / "osr" / "open_set.npz")
    stored = pd.read_csv(place / "osr" / "scores.csv")
    found = scorer.scores(np.load(place / "embeddings" / "embeddings_test.npy"))
    np.testing.assert_allclose(found, stored.loc[stored["split"] == "test", "mahalanobis"], rtol=1e-6)
    drawn = study.split_figures(result)
    assert {file.name for file in (place / "plots").iterdir()} == {
        f"{name.replace(', ', '_').replace(' ', '_')}.png" for name in drawn
    }
    board = study.summary([result])
    assert board["split"].unique().tolist() == ["A"] and {"one stage", "one stage with kappa"} == set(board["approach"])
    with pytest.raises(ValueError, match="UNKNOWN_BY"):
        study.run_split(tmp_path, table, result.split, backbone, unknown_by="guess", **options)
