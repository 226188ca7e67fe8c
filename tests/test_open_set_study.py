"""What is left beside a classifier, where its maps point; known against unknown classes, by hand and in one split."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_classifier import draw_classes

from helpers.analysis.classes import decide
from helpers.data.known_unknown import ClassSplit
from helpers.data.samples import assign_splits, supervised_table
from helpers.inference.predictor import Predictor
from helpers.inference.stages import OpenSet
from helpers.inference.train import classifier_thresholds, find_or_train, train_classifier
from helpers.models.backbones import resolve_backbone
from helpers.models.catalog import build_model
from helpers.models.open_set import MahalanobisScorer
from helpers.runs import MissingRunError, Run
from helpers.studies import gate as gate_study
from helpers.studies import open_set as study
from helpers.thresholds import Threshold, held_out_thresholds

SETTINGS = {"image_size": 64, "epochs": 2, "batch_size": 8, "augmentation": {}}
LAYERS, HOW = {"learning_rate": 2e-3, "hidden": 16}, {"eval_batch_size": 16, "device": "cpu"}
SPLIT = ClassSplit("A", ("p", "q"), ("r", "s"), "squares")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pd.DataFrame:
    """20 good photos and as many of p, q and r; s has a single photo."""
    whole = draw_classes(tmp_path_factory.mktemp("squares"), dict.fromkeys(["good", "p", "q", "r"], 20) | {"s": 1})
    return assign_splits(whole, "one_class", seed=3)


@pytest.fixture(scope="module")
def backbone():
    return resolve_backbone("builtin:")


@pytest.fixture(scope="module")
def run(table, backbone, tmp_path_factory) -> Run:
    divided = supervised_table(table, ["s"])
    settings = SETTINGS | {"allow_unknown": True}
    draft = train_classifier(tmp_path_factory.mktemp("runs"), divided, backbone, settings, LAYERS, **HOW)
    return draft.finish(classifier_thresholds(draft))


@pytest.fixture(scope="module")
def gate(table, backbone, tmp_path_factory) -> gate_study.Gate:
    """A gate in a folder of artifacts, as notebook 02 leaves it."""
    folder = tmp_path_factory.mktemp("artifacts")
    settings = {"image_size": [64, 64], "center_crop": None, "batch_size": 4, "backbone": backbone.to_dict()}
    build = partial(build_model, "patchcore", backbone, image_size=64, coreset_sampling_ratio=0.05)
    draft = find_or_train(folder, "patchcore", table, settings, build, device="cpu")
    draft.finish(held_out_thresholds(draft.predictions("val")))
    return gate_study.open_gate("auto", folder, table, Path("nowhere"), backbone)


def test_what_is_left_is_what_a_cascade_opens(run, tmp_path):
    scorer, limits, accepted = study.leave_open_set(run, tmp_path / "open_set", 0.9)
    assert scorer.classes == ("good", "p", "q", "r")
    opened = OpenSet.load(tmp_path / "open_set", Predictor(run, device="cpu"), "both")
    assert (opened.tau, opened.kappa) == (limits["tau"], limits["kappa"])
    # by hand: at most the k-th of n distances, k = ceil((n + 1) 0.9), and the same from the other end for confidence
    val, test = run.predictions("val"), run.predictions("test")
    n, rank = len(val), int(np.ceil((len(val) + 1) * 0.9))
    distances = scorer.scores(np.load(run.folder / "embeddings_val.npy"))
    assert limits["tau"].value == np.sort(distances)[rank - 1]
    assert limits["kappa"].value == np.sort(val["confidence"])[n - rank]
    # the single photo of s is no photo of a known class
    shares, known = accepted.set_index(["rule", "split"]), (test["defect_type"] != "s").to_numpy()
    assert shares.loc[("tau", "test"), "n"] == known.sum() == len(test) - 1
    found = scorer.scores(np.load(run.folder / "embeddings_test.npy")[known])
    assert shares.loc[("tau", "test"), "accepted"] == (~decide(found, None, limits["tau"])).sum()


# ------------------------------------------------------------------------------------------------ splits and their gate


def test_splits_come_from_files_or_are_made_with_each_class_unknown_once(table, tmp_path):
    made = study.find_splits([], "squares", table, 2)
    hidden = [name for split in made for name in split.unknown if name != "s"]
    assert sorted(hidden) == ["p", "q", "r"] and len(made) == 3  # two ways would leave one class known
    assert all("s" in split.unknown for split in made), "one photo cannot be learned from"
    file = tmp_path / "mine.yml"
    file.write_text("name: A\ndataset: squares\nknown: [p, q]\nunknown: [r, s]\n")
    assert study.find_splits([str(file)], "", table) == [SPLIT]
    with pytest.raises(ValueError, match="A, A"):
        study.find_splits([str(file)] * 2, "", table)
    assert study.find_splits([], "squares", table[table["defect_type"].isin(["good", "p", "q"])]) == []


def test_files_for_a_dataset_are_found_by_its_name_and_classes():
    classes = ["broken_strand", "contamination", "hole", "shifted_strand"]
    photos = pd.DataFrame({"defect_type": [*classes, "good"] * 3})
    photos["group"] = [str(number) for number in photos.index]
    splits = study.find_splits([], "mesh", photos)
    assert len(splits) == 2 and {each for split in splits for each in split.unknown} == set(classes)
    other = study.find_splits([], "mesh", photos.replace({classes[0]: "dent"}))
    assert all(split.unknown != splits[0].unknown for split in other), "of other classes"


def test_good_photos_stay_where_notebook_01_put_them(table):
    divided = study.split_table(table, SPLIT)
    good = table["defect_type"] == "good"
    assert (divided.loc[good, "split"] == table.loc[good, "split"]).all()
    assert set(divided.loc[divided["defect_type"].isin(["r", "s"]), "split"]) == {"test"}
    assert divided.attrs["class_split"] == "A" and divided.attrs["known_types"] == ["p", "q"]


def test_the_gate_is_that_of_notebook_02_or_one_of_stand_ins(table, gate, backbone, tmp_path):
    assert not gate.stand_in and gate.about.startswith("13 good photos of squares")
    with pytest.raises(MissingRunError, match="02_train_patchcore"):
        gate_study.open_gate("auto", tmp_path, table, Path("nowhere"), backbone)
    defects = table[table["label_index"] == 1].reset_index(drop=True)
    defects.attrs = table.attrs | {"root": "elsewhere"}
    options = {"image_size": 64, "coreset_ratio": 0.05, "device": "cpu"}
    other = gate_study.open_gate("auto", tmp_path, defects, Path(table.attrs["root"]), backbone, **options)
    assert other.stand_in and "stand-ins" in other.about
    assert other.run.folder == tmp_path / "open_set" / "gate" / "patchcore"
    assert set(other.run.table["defect_type"]) == {"good"}
    named = gate_study.open_gate(str(gate.run.folder), tmp_path, defects, Path("nowhere"), backbone)
    assert named.run.folder == gate.run.folder and named.stand_in


def test_a_gate_that_knows_test_photos_is_refused(table, gate):
    divided = study.split_table(assign_splits(table, "one_class", seed=4), SPLIT)
    with pytest.raises(ValueError, match="trained or calibrated on"):
        gate.refuse_seen(divided)
    gate.refuse_seen(study.split_table(table, SPLIT))


# ------------------------------------------------------------------------------------------------- one split, measured

LIMITS = {"tau": Threshold(value=2.0, origin="given"), "kappa": Threshold(value=0.6, origin="given", below=True)}
LIMITS["gate"] = Threshold(value=0.5, origin="given")
# two known, right; one far; one doubtful; one that the gate lets go; one unknown that looks known
PHOTOS = pd.DataFrame({"image_path": list("123456"), "defect_type": list("abxxax")})
PHOTOS["known"] = PHOTOS["defect_type"] != "x"
PHOTOS["predicted"] = list("abab" + "ab")
PHOTOS["mahalanobis"] = [1.0, 2.0, 3.0, 1.0, 1.0, 1.0]
PHOTOS["confidence"] = [0.9, 0.6, 0.9, 0.5, 0.9, 0.9]
PHOTOS["gate"] = [0.9, 0.9, 0.9, 0.9, 0.5, 0.9]


def test_each_approach_gives_its_verdicts():
    verdicts = study.verdicts(PHOTOS, LIMITS, True, "confidence", False)
    assert verdicts["one stage"].tolist() == ["a", "b", "unknown", "b", "a", "b"]
    assert verdicts["one stage with kappa"].tolist() == ["a", "b", "unknown", "unknown", "a", "b"]
    assert verdicts["two stages"].tolist() == ["a", "b", "a", "unknown", "no_defect", "b"]
    ignoring = study.verdicts(PHOTOS, LIMITS, False, "distance", True)
    assert ignoring["two stages"].tolist() == ["a", "b", "unknown", "b", "a", "b"]
    assert "one stage with kappa" not in ignoring
    good = study.verdicts(PHOTOS.replace({"predicted": {"b": "good"}}), LIMITS, False, "confidence", False)
    assert good["one stage"].tolist() == ["a", "good", "unknown", "good", "a", "good"]
    # flagged, but good by the classifier: no defect that it knows; what the gate lets go is good
    assert good["two stages"].tolist() == ["a", "unknown", "a", "unknown", "good", "unknown"]


def test_shares_of_an_approach_by_hand():
    verdicts = study.verdicts(PHOTOS, LIMITS, True, "confidence", False)
    row = study.approach_row(verdicts, "two stages", ["a", "b"])
    assert (row["n_known"], row["n_unknown"]) == (3, 3)
    assert row["known_right"] == pytest.approx(2 / 3)  # the third was let go
    assert row["known_accepted"] == 1  # none was called unknown
    assert row["unknown_detected"] == pytest.approx(1 / 3)
    assert row["lost"] == pytest.approx(1 / 6)
    assert row["open_set_accuracy"] == pytest.approx(3 / 6)
    table = study.confusion(verdicts, "two stages", ["a", "b"])
    assert table.loc["x"].to_dict() == {"a": 1, "b": 1, "no_defect": 0, "unknown": 1}
    assert table.loc["a", "no_defect"] == 1


def test_a_split_leaves_its_folder_and_never_trains_on_the_unknown(table, backbone, gate, tmp_path):
    arguments, place = (tmp_path, table, SPLIT, backbone, SETTINGS | {"epochs": 1}, LAYERS, gate), tmp_path / "A"
    result = study.run_split(*arguments, n_bootstrap=20, **HOW)
    assert {entry.name for entry in place.iterdir()} == {"classifier", "osr", "cascade", "metrics.json"}
    used = result.run.table
    assert set(used.loc[used["defect_type"].isin(["r", "s"]), "split"]) == {"test"}
    assert result.run.info["parameters"]["classes"] == ["good", "p", "q"]
    metrics = json.loads((place / "metrics.json").read_text())
    assert metrics["known"] == ["p", "q"] and metrics["unknown"] == ["r", "s"] and metrics["gate"] == gate.about
    assert [row["method"] for row in metrics["methods"]] == list(study.METHODS)
    assert all(row["n_unknown"] == 21 for row in metrics["methods"])
    # the stored scorer gives the stored scores, from the stored embeddings
    scorer, stored = MahalanobisScorer.load(place / "osr" / "open_set.npz"), pd.read_csv(place / "osr" / "scores.csv")
    found = scorer.scores(np.load(result.run.folder / "embeddings_test.npy"))
    np.testing.assert_allclose(found, stored.loc[stored["split"] == "test", "mahalanobis"], rtol=1e-6)
    assert set(json.loads((place / "osr" / "thresholds.json").read_text())) == {"tau", "kappa", "gate"}
    assert result.approaches["approach"].tolist() == ["one stage", "one stage with kappa", "two stages"]
