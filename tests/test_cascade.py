"""Cascades: the stages by hand, every rule, nothing lost or done twice, and refusals that say what to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from cascade_runs import CLASSES, KnownBackend, shrink, write_run
from conftest import REPOSITORY, dead_process
from PIL import Image

from helpers.data.images import find_images, map_at_photo_size
from helpers.drawing import draw_overlay
from helpers.inference import Cascade, Predictor, predictor
from helpers.inference.cascade import VERDICT_COLUMNS, CascadeError
from helpers.inference.object_mask import clean_mask
from helpers.inference.presets import PRESETS_FOLDER
from helpers.inference.stages import STAGE_COLUMNS, CutterStage, Item, Rule, RunStage
from helpers.models.open_set import MahalanobisScorer
from helpers.paths import InUseError, hold, partial_path, write_json
from helpers.runs import MissingRunError
from helpers.thresholds import Threshold

PAIR = {
    "name": "pair",
    "parameters": {"DATASET": "drawn", "area_thresh": 0.25, "LIMIT": "image"},
    "stages": [
        {"run": "first", "pixel_threshold": "start", "rule": "area >= area_thresh", "otherwise": "OK"},
        {"run": "second", "rule": "score > LIMIT", "then": "DEFECT", "otherwise": "OK"},
    ],
}


@pytest.fixture(autouse=True)
def known_networks(monkeypatch):
    monkeypatch.setitem(predictor.BACKENDS, "torch", KnownBackend)
    monkeypatch.setattr(KnownBackend, "seen", 0)


@pytest.fixture
def artifacts(tmp_path) -> Path:
    """Runs ``first``, ``second``, ``classifier`` (with a normal class) and ``kinds`` (without)."""
    folder = tmp_path / "artifacts"
    home = folder / "drawn" / "quick"
    for name in ("first", "second"):
        write_run(home / name)
    write_run(home / "classifier", classes=CLASSES, normal="good")
    write_run(home / "kinds", classes=CLASSES[1:] + ["stain"])
    return folder


def photo(red: float = 0.0, green: float = 0.0, blue: float = 0.0, red_columns: int = 8) -> np.ndarray:
    """A photo of 16 x 24 pixels: so much red (0 to 1) in so many eighths of its width, green and blue everywhere."""
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:, : 3 * red_columns, 0] = round(255 * red)
    picture[:, :, 1], picture[:, :, 2] = round(255 * green), round(255 * blue)
    return picture


def save(folder: Path, **pictures: np.ndarray) -> Path:
    for name, picture in pictures.items():
        file = folder / f"{name.replace('__', '/')}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    return folder


def write(tmp_path: Path, content: dict, name: str = "pair.yml") -> Path:
    file = tmp_path / name
    file.write_text(yaml.safe_dump(content))
    return file


def open_pair(tmp_path: Path, artifacts: Path, content: dict | None = None, **settings) -> Cascade:
    return Cascade.from_yaml(write(tmp_path, content or PAIR), {"ARTIFACTS": str(artifacts), **settings})


def stage(artifacts: Path, run: str, rule: str, **options) -> RunStage:
    return RunStage(Predictor(artifacts / "drawn" / "quick" / run), rule, **options)


def judged(stage: RunStage, picture: np.ndarray, tmp_path: Path) -> dict:
    item = Item("a.png", "a", picture)
    stage.run([item], tmp_path / "out", ())
    return item.rows[0]


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def drawn(tmp_path) -> Path:
    """20 photos: red grows with the number, green falls."""
    pictures = {f"{n:02d}": photo(red=n / 20, green=1 - n / 20, red_columns=4) for n in range(20)}
    return save(tmp_path / "photos", **pictures)


# ----------------------------------------------------------------------------------------------------- stages by hand


def test_a_cascade_is_its_stages_one_after_the_other(tmp_path, artifacts, drawn):
    """Verdicts, scores and rows worked out from the colours."""
    verdicts = open_pair(tmp_path, artifacts).run(drawn, tmp_path / "out")
    first = Predictor(artifacts / "drawn/quick/first").predict(find_images(drawn))
    second = Predictor(artifacts / "drawn/quick/second").predict(find_images(drawn))
    expected = []
    for n in range(20):
        # half of the columns are red; a quarter of the map must be above 0.25
        passes = round(255 * n / 20) / 255 > 0.25
        expected.append("DEFECT" if passes and round(255 * (1 - n / 20)) / 255 > 0.5 else "OK")
        assert passes == (verdicts["stage"][n] == "second")
        score = second.scores[n] if passes else first.scores[n]
        assert verdicts["score"][n] == pytest.approx(score, rel=1e-6)
    assert verdicts["verdict"].tolist() == expected
    assert 3 < expected.count("DEFECT") < 10
    assert verdicts["abnormal"].tolist() == [word == "DEFECT" for word in expected]
    assert list(verdicts.columns) == list(VERDICT_COLUMNS)
    assert verdicts["photo"].tolist() == [f"{n:02d}.png" for n in range(20)]

    rows = pd.read_csv(tmp_path / "out" / "stages.csv")
    assert list(rows.columns) == list(STAGE_COLUMNS)
    firsts = rows[rows["stage"] == "first"]
    assert firsts["photo"].tolist() == verdicts["photo"].tolist()
    np.testing.assert_allclose(firsts["area"], [0.5 if round(255 * n / 20) / 255 > 0.25 else 0.0 for n in range(20)])
    assert firsts["value"].equals(firsts["area"].rename("value"))
    assert set(firsts["threshold"]) == {0.25} and set(firsts["origin"]) == {"parameter area_thresh"}
    seconds = rows[rows["stage"] == "second"]
    assert seconds["photo"].tolist() == firsts["photo"][firsts["passed"]].tolist()
    assert set(seconds["threshold"]) == {0.5} and set(seconds["origin"]) == {"by hand (image)"}
    assert (rows["milliseconds"] >= 0).all()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_batch_size_changes_nothing(tmp_path, artifacts, drawn, batch_size):
    file = write(tmp_path, PAIR)
    common = {"settings": {"ARTIFACTS": str(artifacts)}}
    one = Cascade.from_yaml(file, batch_size=batch_size, **common).run(drawn, tmp_path / "one", save=())
    other = Cascade.from_yaml(file, batch_size=8, **common).run(drawn, tmp_path / "other", save=())
    pd.testing.assert_frame_equal(one.drop(columns="milliseconds"), other.drop(columns="milliseconds"))


def test_files_say_the_same_as_the_table(tmp_path, artifacts, drawn):
    verdicts = open_pair(tmp_path, artifacts).run(drawn, tmp_path / "out")
    out = tmp_path / "out"
    stored = json.loads((out / "verdicts.json").read_text())
    assert [list(row) for row in stored] == [list(VERDICT_COLUMNS)] * 20
    for name in ("photo", "verdict", "abnormal", "score", "threshold"):
        assert [row[name] for row in stored] == verdicts[name].tolist()
    assert pd.read_csv(out / "verdicts.csv")["verdict"].tolist() == verdicts["verdict"].tolist()
    rows = json.loads((out / "stages.json").read_text())
    by_stage = {name: json.loads((out / name / "inference_results.json").read_text()) for name in ("first", "second")}
    assert len(by_stage["first"]) == 20
    assert [row for row in rows if row["stage"] == "second"] == by_stage["second"]
    about = json.loads((out / "cascade.json").read_text())
    assert about["parameters"]["area_thresh"] == 0.25
    assert [one["run"] for one in about["stages"]] == ["first", "second"]


def test_pictures_are_those_of_the_map(tmp_path, artifacts):
    picture = photo(red=0.8, green=0.9, red_columns=4)
    open_pair(tmp_path, artifacts).run(save(tmp_path / "photos", a=picture), tmp_path / "out")
    found = Predictor(artifacts / "drawn/quick/first").predict(picture).maps[0]
    stored = np.load(tmp_path / "out/first/maps/a.npy")
    assert stored.dtype == np.float16 and stored.shape == (16, 24)
    np.testing.assert_allclose(stored, found, rtol=2**-10, atol=1e-6)
    mask = np.asarray(Image.open(tmp_path / "out/first/masks/a.png"))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.uint8(255) * (found > 0.25))
    row = json.loads((tmp_path / "out/stages.json").read_text())[0]
    assert row["mask_pixels"] == (found > 0.25).sum() and row["mask"] == "first/masks/a.png"
    overlay = np.asarray(Image.open(tmp_path / "out" / row["overlay"]), dtype=float)
    drawn_again = draw_overlay(picture, found, found > 0.25, 0.25)
    assert overlay.shape == (16, 24, 3) and abs(overlay - drawn_again).mean() < 6, "JPEG is near it"


def test_an_overlay_is_the_photo_where_the_map_is_zero():
    picture, found = photo(green=0.5), np.zeros((16, 24), np.float32)
    np.testing.assert_array_equal(draw_overlay(picture, found, found > 1, 1.0), picture)
    found[4:8, 4:8] = 2.0
    changed = (draw_overlay(picture, found, found > 1, 1.0) != picture).any(2)
    np.testing.assert_array_equal(changed, found > 0)


def test_nothing_but_results_is_left_behind(tmp_path, artifacts, drawn, monkeypatch):
    """No temporary inputs for the second stage, here or in the system's folder for such files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = files_below(drawn)
    verdicts = open_pair(tmp_path, artifacts).run(drawn, tmp_path / "out")
    assert not files_below(temporary) and files_below(drawn) == before
    second = [Path(name).stem for name in verdicts["photo"][verdicts["stage"] == "second"]]
    expected = {"cascade.json", "journal.jsonl", "verdicts.csv", "verdicts.json", "stages.csv", "stages.json"}
    for name, stems in (("first", [f"{n:02d}" for n in range(20)]), ("second", second)):
        expected.add(f"{name}/inference_results.json")
        for kind in ("masks/{}.png", "maps/{}.npy", "overlays/{}.jpg"):
            expected |= {f"{name}/{kind.format(stem)}" for stem in stems}
    assert files_below(tmp_path / "out") == expected


def test_only_what_is_asked_for_is_saved(tmp_path, artifacts, drawn):
    open_pair(tmp_path, artifacts).run(drawn, tmp_path / "out", save=("mask",))
    assert (tmp_path / "out/first/masks/00.png").is_file()
    assert not (tmp_path / "out/first/maps").exists() and not (tmp_path / "out/first/overlays").exists()
    with pytest.raises(CascadeError, match="heatmap is not known; known: mask, map, overlay"):
        open_pair(tmp_path, artifacts).run(drawn, tmp_path / "out2", save=("heatmap",))


# ---------------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("rule", "picture", "passed", "value", "limit", "origin"),
    [
        ("score > image", photo(red=0.6), True, 153 / 255, 0.5, "by hand (image)"),
        ("score > image", photo(red=0.4), False, 102 / 255, 0.5, "by hand (image)"),
        ("score > 0.4", photo(red=0.4), False, 0.4, 0.4, "given"),
        ("score >= 0.4", photo(red=0.4), True, 0.4, 0.4, "given"),
        ("score < LOW", photo(red=0.4), False, 0.4, 0.3, "parameter LOW"),
        ("score<=start", photo(red=0.2), True, 0.2, 0.25, "starting value, not calibrated"),
        ("peak > pixel", photo(red=0.8), True, 0.8, 0.6, "by hand (pixel)"),
        ("peak > pixel", photo(red=0.6), False, 0.6, 0.6, "by hand (pixel)"),
        ("area >= 0.5", photo(red=0.8, red_columns=4), True, 0.5, 0.5, "given"),
        ("area > 0.5", photo(red=0.8, red_columns=4), False, 0.5, 0.5, "given"),
        ("area >= LOW", photo(red=0.5, red_columns=4), False, 0.0, 0.3, "parameter LOW"),
    ],
)
def test_rules_of_a_detector(tmp_path, artifacts, rule, picture, passed, value, limit, origin):
    options = {"then": "BAD", "otherwise": "FINE", "parameters": {"LOW": 0.3}}
    row = judged(stage(artifacts, "first", rule, **options), picture, tmp_path)
    assert (row["passed"], row["decision"]) == (passed, "BAD" if passed else "FINE")
    assert row["value"] == pytest.approx(value, abs=1e-6)
    assert (row["threshold"], row["origin"], row["rule"]) == (limit, origin, rule)


@pytest.mark.parametrize(
    ("rule", "colours", "passed", "named"),
    [
        ("class in [hole, scratch]", (0.2, 0.5, 0.3), True, "hole"),
        ("class in [scratch]", (0.2, 0.5, 0.3), False, "hole"),
        ("class not in [good]", (0.6, 0.2, 0.2), False, "good"),
        ("class in KNOWN", (0.2, 0.3, 0.5), True, "scratch"),
        ("probability of scratch > 0.25", (0.4, 0.3, 0.3), True, "good"),
        ("probability of scratch > 0.35", (0.4, 0.3, 0.3), False, "good"),
        ("score > 0.4", (0.5, 0.3, 0.2), True, "hole"),  # good is likeliest, but the photo is called abnormal
        ("score > 0.6", (0.5, 0.3, 0.2), False, "good"),
        ("always", (0.5, 0.3, 0.2), True, "good"),
    ],
)
def test_rules_of_a_classifier(tmp_path, artifacts, rule, colours, passed, named):
    otherwise = "" if rule == "always" else "no"
    options = {"then": "class", "otherwise": otherwise, "parameters": {"KNOWN": ["hole", "scratch"]}}
    one = stage(artifacts, "classifier", rule, **options)
    item = Item("a.png", "a", photo(*colours))
    one.run([item], tmp_path / "out", ())
    row = item.rows[0]
    assert (row["passed"], row["class"]) == (passed, named)
    assert item.verdict == (named if passed else "no")
    assert item.abnormal == (passed and named != "good")
    assert row["probability"] == pytest.approx(dict(zip(CLASSES, colours, strict=True))[named], abs=0.01)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("scroe > 0.4", "rules are: always, score > LIMIT"),
        ("score = 0.4", "rules are"),
        ("area >= image", "no number and no parameter"),
        ("class in []", "rules are"),
        ("class in KNOWN", "KNOWN is no parameter"),
        ("score > FLAG", "which is no threshold"),
        ("", "rules are"),
    ],
)
def test_what_is_no_rule(rule, message):
    with pytest.raises(ValueError, match=message):
        Rule.parse(rule, {"FLAG": [1]})


@pytest.mark.parametrize(
    ("run", "rule", "options", "message"),
    [
        ("first", "class in [hole]", {}, "needs a classifier, and first is a detector"),
        ("first", "always", {"then": "class"}, "'then: class' needs a classifier"),
        ("classifier", "area >= 0.1", {}, "needs a detector's map"),
        ("classifier", "class in [hoel]", {}, "knows no class hoel; it knows good, hole, scratch"),
        ("classifier", "probability of rust > 0.1", {}, "knows no class rust"),
        ("classifier", "always", {"morphology": {"min_area": 3}}, "'morphology' needs a detector's map"),
        ("first", "score > imagee", {}, "it has image, pixel, start"),
        ("first", "always", {"pixel_threshold": "pixle"}, "it has image, pixel, start"),
        ("first", "always", {"object_mask": "otsuu"}, "expected none, otsu or foreground"),
        ("first", "always", {"morphology": {"opening_diameter": 4}}, "odd number"),
    ],
)
def test_rules_and_options_that_a_run_does_not_take(artifacts, run, rule, options, message):
    with pytest.raises(ValueError, match=message):
        stage(artifacts, run, rule, **options)


# -------------------------------------------------------------------------------------------------- what stages can do


def test_masks_are_cleaned_and_confined(tmp_path, artifacts):
    """A bright block and a speck on a bright object; the mask is by hand, the score and area stay."""
    picture = np.full((64, 64, 3), 10, np.uint8)
    picture[8:56, 8:56, 1:] = 220  # the object
    picture[:24, :24, 0] = 100  # block, partly outside the object
    picture[40:42, 40, 0] = 100  # speck
    options = {"then": "BAD", "pixel_threshold": 0.3, "object_mask": "otsu", "morphology": {"opening_diameter": 9}}
    one = stage(artifacts, "first", "always", **options)
    item = Item("a.png", "a", picture)
    one.run([item], tmp_path / "out", ("mask",))
    (judged,) = Predictor(artifacts / "drawn/quick/first").predict_stream(picture)
    inside = np.zeros(judged.network_map.shape, bool)
    inside[1:-1, 1:-1] = True
    found = map_at_photo_size(judged.network_map * inside, (64, 64), {}) > 0.3
    assert found[8:24, 8:24].any() and found[36:46, 36:46].any()
    expected = clean_mask(found, opening_diameter=9)
    assert expected[:20, :20].any() and not expected[36:46, 36:46].any() and not expected[:8].any()
    stored = np.asarray(Image.open(tmp_path / "out/first/masks/a.png")) > 0
    np.testing.assert_array_equal(stored, expected)
    assert item.rows[0]["mask_pixels"] == expected.sum() < found.sum()
    on_object = shrink(picture[:, :, 0]) * shrink(inside)
    assert item.rows[0]["area"] == pytest.approx((on_object > 0.3 * 255).mean())
    assert item.rows[0]["peak"] == pytest.approx(100 / 255) and item.rows[0]["score"] == pytest.approx(100 / 255)


def test_the_gates_word_can_be_noted_and_ignored(tmp_path, artifacts):
    folder = save(tmp_path / "photos", faint=photo(red=0.1, green=0.6, blue=0.1), clear=photo(red=0.9, blue=0.1))
    gate = {"run": "first", "rule": "score > image", "otherwise": "no_defect"}
    content = {
        "parameters": {"DATASET": "drawn"},
        "stages": [gate, {"run": "kinds", "rule": "always", "then": "class"}],
    }
    obeyed = open_pair(tmp_path, artifacts, content).run(folder, tmp_path / "obeyed")
    assert obeyed["verdict"].tolist() == ["hole", "no_defect"]  # clear.png, faint.png; red is the class hole of kinds
    gate["ignore_no_defect"] = True
    ignored = open_pair(tmp_path, artifacts, content).run(folder, tmp_path / "ignored")
    assert ignored["verdict"].tolist() == ["hole", "scratch"]
    row = json.loads((tmp_path / "ignored/stages.json").read_text())[2]
    assert (row["stage"], row["passed"], row["decision"]) == ("first", False, "goes on (no_defect ignored)")


def write_open_set(folder: Path, classes: Sequence[str] = ("hole", "scratch", "stain"), tau: float = 5.0):
    """Three known classes, each 200 in one colour and 50 in the next, with a spread of 10 in every direction."""
    centres = np.repeat([[200.0, 50.0, 0.0], [0.0, 200.0, 50.0], [50.0, 0.0, 200.0]], 200, axis=0)
    noise = np.random.default_rng(0).normal(0, 10, centres.shape)
    scorer = MahalanobisScorer.fit(centres + noise, np.repeat(classes, 200))
    scorer.save(folder / "open_set.npz")
    limits = {
        "tau": Threshold(value=tau, origin="by hand"),
        "kappa": Threshold(value=0.7, origin="by hand", below=True),
    }
    write_json({name: limit.to_dict() for name, limit in limits.items()}, folder / "thresholds.json")
    return scorer


def test_a_defect_like_none_that_is_known_is_unknown(tmp_path, artifacts):
    scorer = write_open_set(artifacts / "drawn/quick/open_set")
    hole, strange = photo(red=200 / 255, green=50 / 255), photo(red=0.5, green=0.5, blue=0.5)
    folder = save(tmp_path / "photos", hole=hole, strange=strange)
    last = {"run": "kinds", "rule": "always", "then": "class", "unknown": "open_set"}
    content = {"parameters": {"DATASET": "drawn"}, "stages": [last]}
    verdicts = open_pair(tmp_path, artifacts, content).run(folder, tmp_path / "out")
    assert verdicts["verdict"].tolist() == ["hole", "unknown"] and verdicts["abnormal"].all()
    rows = pd.read_csv(tmp_path / "out/stages.csv")
    expected = scorer.scores([[200.0, 50.0, 0.0], [128.0, 128.0, 128.0]])
    np.testing.assert_allclose(rows["distance"], expected, rtol=1e-6)
    assert expected[0] < 5 < expected[1] and set(rows["tau"]) == {5.0} and rows["kappa"].isna().all()
    stops = {"run": "kinds", "rule": "class in [unknown]", "then": "NEW", "otherwise": "KNOWN", "unknown": "open_set"}
    content["stages"] = [stops]
    verdicts = open_pair(tmp_path, artifacts, content).run(folder, tmp_path / "out2")
    assert verdicts["verdict"].tolist() == ["KNOWN", "NEW"]


@pytest.mark.parametrize(("by", "expected"), [("distance", ["hole", "unknown"]), ("confidence", ["unknown", "hole"])])
def test_unknown_by_distance_or_by_confidence(tmp_path, artifacts, by, expected):
    """A near one of 67 % and a far one of 75 %, where 70 % are asked for."""
    write_open_set(artifacts / "drawn/quick/open_set")
    near = photo(red=200 / 255, green=60 / 255, blue=40 / 255)
    far = photo(red=60 / 255, green=10 / 255, blue=10 / 255)
    folder = save(tmp_path / "photos", a_near=near, b_far=far)
    last = {"run": "kinds", "rule": "always", "then": "class", "unknown": "open_set", "unknown_by": by}
    content = {"parameters": {"DATASET": "drawn"}, "stages": [last]}
    assert open_pair(tmp_path, artifacts, content).run(folder, tmp_path / "one")["verdict"].tolist() == expected
    last["unknown_by"] = "both"
    both = open_pair(tmp_path, artifacts, content).run(folder, tmp_path / "both")
    assert both["verdict"].tolist() == ["unknown", "unknown"]
    last["unknown_by"] = "distanec"
    with pytest.raises(CascadeError, match="expected distance, confidence, both"):
        open_pair(tmp_path, artifacts, content)


def test_an_open_set_must_belong_to_the_classifier(tmp_path, artifacts):
    content = {"parameters": {"DATASET": "drawn"}}
    content["stages"] = [{"run": "kinds", "rule": "always", "then": "class", "unknown": "open_set"}]
    with pytest.raises(MissingRunError, match="05_train_classifiers first, or say 'unknown: none'"):
        open_pair(tmp_path, artifacts, content)
    write_open_set(artifacts / "drawn/quick/open_set", classes=("hole", "rust", "stain"))
    with pytest.raises(CascadeError, match="fitted on other classes than .*kinds: rust, scratch"):
        open_pair(tmp_path, artifacts, content)
    content["stages"][0]["unknown"] = "none"
    assert open_pair(tmp_path, artifacts, content).stages[0].unknown is None


# ------------------------------------------------------------------------------------------------------------- objects


@pytest.fixture
def cutter(tmp_path, monkeypatch) -> CutterStage:
    """A foreground network that finds what is blue."""
    from helpers.inference import cutting
    from helpers.models import foreground

    folder = tmp_path / "artifacts/drawn/quick/foreground"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "foreground.json").write_text('{"fingerprint": "of the foreground"}')

    class Network:
        def to(self, device):
            return self

    monkeypatch.setattr(cutting, "load_foreground", lambda folder: Network())
    monkeypatch.setattr(foreground, "predict_distance", lambda net, picture: picture[:, :, 2].astype(np.float32) / 255)
    return CutterStage(folder, window=16, separate={"min_area": 20, "restore": False})


def frame(*reds: float) -> np.ndarray:
    """Blue squares of 12 pixels, 20 apart, with so much red in the middle of each."""
    picture = np.zeros((30, 20 * max(1, len(reds)) + 4, 3), np.uint8)
    for number, red in enumerate(reds):
        left = 6 + 20 * number
        picture[8:20, left : left + 12, 2] = 255
        picture[12:16, left + 4 : left + 8, 0] = round(255 * red)
    return picture


def test_each_object_is_judged_and_one_bad_one_makes_a_bad_photo(tmp_path, artifacts, cutter):
    pictures = {"bad": frame(0.1, 0.9, 0.6), "empty": frame(), "fine": frame(0.1, 0.2)}
    folder = save(tmp_path / "frames", **pictures)
    judge = stage(artifacts, "first", "score > image", then="DEFECT", otherwise="OK")
    verdicts = Cascade("frames", [cutter, judge]).run(folder, tmp_path / "out")
    assert verdicts["verdict"].tolist() == ["DEFECT", "NO OBJECT", "OK"]
    assert verdicts["abnormal"].tolist() == [True, None, False]
    assert verdicts["n_objects"].tolist()[::2] == [3, 2] and verdicts["n_abnormal"].tolist()[::2] == [2, 0]
    assert verdicts["score"][0] == pytest.approx(230 / 255), "that of the worst object"
    rows = pd.read_csv(tmp_path / "out/stages.csv")
    of_bad = rows[(rows["photo"] == "bad.png") & (rows["stage"] == "first")]
    assert of_bad["object"].tolist() == [1, 2, 3] and of_bad["decision"].tolist() == ["OK", "DEFECT", "DEFECT"]
    assert of_bad[["x", "y", "width", "height"]].to_numpy().tolist() == [
        [6, 8, 12, 12],
        [26, 8, 12, 12],
        [46, 8, 12, 12],
    ]
    # the window of 16 pixels around the second object is the photo from (24, 6) on
    alone = judge.predictor.predict(frame(0.1, 0.9, 0.6)[6:22, 24:40])
    stored = np.load(tmp_path / "out/first/maps/bad.objects/002.npy")
    np.testing.assert_allclose(stored, alone.maps[0], rtol=2**-10, atol=1e-6)
    boxes = np.asarray(Image.open(tmp_path / "out/foreground/overlays/bad.jpg")).astype(int)
    assert boxes[8, 12, 1] > boxes[8, 12, 0], "a green box around the good one"
    assert boxes[8, 32, 0] > boxes[8, 32, 1], "a red box around the bad one"


def test_a_neighbour_in_the_window_does_not_count(tmp_path, artifacts, cutter):
    """A window of 60 pixels shows all three; peak and area are of each object alone."""
    cutter.window = 60
    judge = stage(artifacts, "first", "peak > 0.5", then="DEFECT", otherwise="OK")
    picture = frame(0.0, 0.0, 0.0)
    picture[8:20, 26:38, 0] = 230  # all of the second one
    item = Item("a.png", "a", picture)
    judge.run(cutter.run([item], tmp_path, ()), tmp_path, ())
    rows = [part.rows[0] for part in item.parts]
    assert [row["decision"] for row in rows] == ["OK", "DEFECT", "OK"]
    assert all(row["score"] == pytest.approx(230 / 255) for row in rows), "the run's own score is of the whole picture"
    assert [row["area"] > 0 for row in rows] == [False, True, False]


def test_objects_at_the_border_and_without_background(tmp_path, artifacts, cutter):
    picture = frame(0.5, 0.5)[:, 6:]  # the first square begins at the left border
    cutter.background = "remove"
    item = Item("a.png", "a", picture)
    first, second = cutter.run([item], tmp_path, ())
    assert first.box == (0, 8, 12, 12) and first.photo.shape == second.photo.shape == (16, 16, 3)
    cutter.window = 40
    first, second = cutter.run([Item("a.png", "a", picture)], tmp_path, ())
    # its own pixels and the two by which they are grown, which the mirrored photo continues; not the neighbour
    assert (first.photo[:, :, 2] > 0).sum() == 144 + 2 * 12
    cutter.window = 0
    first, _ = cutter.run([Item("a.png", "a", picture)], tmp_path, ())
    assert first.photo.shape == (14, 14, 3), "12 pixels and a tenth on each side"


def test_an_object_along_a_strip_is_an_error_and_no_picture_of_gigabytes(tmp_path, cutter):
    cutter.window, cutter.options = 0, {"min_area": 20, "restore": False}
    strip = Item("strip.png", "strip", np.full((20, 8000, 3), 255, np.uint8))
    whole = Item("a.png", "a", frame(0.5))
    assert len(cutter.run([strip, whole], tmp_path, ())) == 1
    assert (strip.verdict, whole.verdict) == ("ERROR", "") and "strip.png" in strip.error
    cutter.window = 100_000
    assert cutter.run([Item("a.png", "a", frame(0.5))], tmp_path, ()) == []


def test_neighbours_are_hidden_by_what_the_background_looks_like(tmp_path, cutter):
    """A background that grows brighter to the right, with a grain of 4 levels; the squares are 12 pixels."""
    picture = frame(0.0, 0.0, 0.0)
    grain = np.random.default_rng(0).normal(0, 4, picture.shape[:2])
    bench = np.clip(60 + np.arange(picture.shape[1])[None] + grain, 0, 255).astype(np.uint8)
    labels = picture[:, :, 2] > 0
    picture[~labels] = bench[~labels][:, None]
    # what the network of the fixture looks at
    picture[:, :, 2] = np.where(labels, 255, picture[:, :, 2] // 8)
    cutter.background, cutter.window = "hide_neighbours", 60
    item = Item("a.png", "a", picture)
    cutter.run([item], tmp_path, ())
    middle = item.parts[1]
    assert middle.photo.shape == (60, 60, 3)
    own = middle.mask
    assert own.sum() == 144 and (middle.photo[own][:, 2] == 255).all()
    assert (middle.photo[~own][:, 2] < 128).all(), "no neighbour is left"
    # where the first square was (columns 6 to 18 of the photo; the window begins at column 2 and 16 rows above it)
    painted = middle.photo[24:36, 4:16, 0].astype(float)
    assert abs(painted.mean() - (60 + 12)) < 12 and 1 < painted.std() < 10
    with pytest.raises(ValueError, match="expected keep, hide_neighbours, remove"):
        CutterStage(tmp_path, background="blur")


def test_a_missing_foreground_names_the_notebook(tmp_path):
    with pytest.raises(MissingRunError, match="03_train_unet_deeplabv3plus"):
        CutterStage(tmp_path)


# ------------------------------------------------------------------------------------------------ names, broken photos


def test_photos_of_one_name_do_not_overwrite_each_other(tmp_path, artifacts):
    folder = save(tmp_path / "photos", a=photo(red=0.1), day__a=photo(red=0.5), night__a=photo(red=0.9))
    Image.fromarray(photo(red=0.3)).save(folder / "a.bmp")
    Image.fromarray(photo(red=0.7)).save(folder / "A.PNG")
    verdicts = Cascade.of_run(artifacts / "drawn/quick/first").run(folder, tmp_path / "out")
    assert verdicts["photo"].tolist() == ["A.PNG", "a.bmp", "a.png", "day/a.png", "night/a.png"]
    rows = json.loads((tmp_path / "out/stages.json").read_text())
    for name, red in zip(verdicts["photo"], (0.7, 0.3, 0.1, 0.5, 0.9), strict=True):
        row = next(row for row in rows if row["photo"] == name)
        assert np.load(tmp_path / "out" / row["map"]).max() == pytest.approx(red, abs=0.005)
    assert len({row["map"].casefold() for row in rows}) == 5


def test_an_unreadable_photo_is_a_row_and_the_rest_goes_on(tmp_path, artifacts, drawn):
    (drawn / "05b.png").write_bytes(b"")
    (drawn / "07b.png").write_bytes((drawn / "07.png").read_bytes()[:60])
    verdicts = open_pair(tmp_path, artifacts).run(drawn, tmp_path / "out")
    assert len(verdicts) == 22
    failed = verdicts[verdicts["error"].notna()]
    assert failed["photo"].tolist() == ["05b.png", "07b.png"]
    assert (failed["verdict"] == "ERROR").all() and failed["abnormal"].isna().all() and failed["score"].isna().all()
    assert "zero bytes" in failed["error"].iloc[0] and "07b.png" in failed["error"].iloc[1]
    rows = pd.read_csv(tmp_path / "out/stages.csv")
    assert rows[rows["photo"] == "05b.png"]["decision"].tolist() == ["ERROR"]
    shutil.copy(drawn / "19.png", drawn / "05b.png")
    mended = open_pair(tmp_path, artifacts).run(drawn, tmp_path / "out")
    assert mended["error"].notna().sum() == 1
    assert mended.set_index("photo")["score"]["05b.png"] == mended.set_index("photo")["score"]["19.png"]


def test_a_photo_that_failed_is_tried_again(tmp_path, artifacts, drawn):
    """Repaired with the same size and time, as by a change of its rights or of what it needs."""
    whole = (drawn / "05.png").read_bytes()
    (drawn / "05.png").write_bytes(bytes(len(whole)))
    os.utime(drawn / "05.png", (1e9, 1e9))
    cascade = open_pair(tmp_path, artifacts)
    assert cascade.run(drawn, tmp_path / "out")["verdict"].tolist().count("ERROR") == 1
    (drawn / "05.png").write_bytes(whole)
    os.utime(drawn / "05.png", (1e9, 1e9))
    seen = KnownBackend.seen
    assert cascade.run(drawn, tmp_path / "out")["error"].isna().all()
    assert KnownBackend.seen == seen + 2, "that one alone, in both stages"


def test_odd_names_are_judged_and_the_rest_goes_on(tmp_path, artifacts, drawn, cutter):
    long = ["x" * 251 + ".png", "x" * 250 + "y.png", "ö" * 125 + ".png"]
    bytes_name = os.fsencode(tmp_path / "photos") + b"/caf\xe9.png"
    for name in [*(drawn / name for name in long), bytes_name]:
        try:
            shutil.copy(drawn / "19.png", name)
        except OSError:
            pytest.skip("this file system takes no such names")
    judge = stage(artifacts, "first", "score > image", then="DEFECT", otherwise="OK")
    for number, cascade in enumerate([Cascade("plain", [judge]), Cascade("objects", [cutter, judge])]):
        out = tmp_path / f"out{number}"
        verdicts = cascade.run(drawn, out).set_index("photo")
        assert len(verdicts) == 24 and verdicts["error"].isna().all()
        odd = verdicts.loc[[*long, "caf\\xe9.png"]]
        assert set(odd["verdict"]) == {verdicts["verdict"]["19.png"]}
        assert pd.read_csv(out / "verdicts.csv")["photo"].tolist() == verdicts.index.tolist()
        rows = json.loads((out / "stages.json").read_text())
        assert len({row["map"] for row in rows if row["map"]}) == sum(bool(row["map"]) for row in rows)
        assert all((out / row["map"]).is_file() for row in rows if row["map"])
        seen = KnownBackend.seen
        cascade.run(drawn, out)
        assert KnownBackend.seen == seen


def test_a_path_that_is_too_long_is_an_error_and_the_rest_goes_on(tmp_path, artifacts, drawn):
    """The photo can still be read, its mask in a deeper folder not be written any more."""
    cascade = Cascade.of_run(artifacts / "drawn/quick/first")
    limit = os.pathconf(tmp_path, "PC_PATH_MAX") if hasattr(os, "pathconf") else 4096
    folder = drawn
    while len(os.fsencode(folder)) + 203 < limit - 30:
        folder = folder / ("d" * 200)
    folder = folder / ("d" * (limit - 30 - len(os.fsencode(folder))))
    folder.mkdir(parents=True)
    shutil.copy(drawn / "19.png", folder / "deep.png")
    verdicts = cascade.run(drawn, tmp_path / "a_longer_name_than_photos")
    assert verdicts["verdict"].tolist().count("ERROR") == 1 and len(verdicts) == 21
    assert verdicts.set_index("photo")["error"].dropna().index[0].endswith("deep.png")


def test_pictures_without_a_path(tmp_path, artifacts):
    one = open_pair(tmp_path, artifacts)
    pictures = [photo(red=0.9, green=0.9), photo(), Image.fromarray(photo(red=0.9, green=0.1))]
    listed = one.run(pictures, tmp_path / "listed", save=())
    assert listed["verdict"].tolist() == ["DEFECT", "OK", "OK"] and listed["photo"].tolist() == [
        "000000",
        "000001",
        "000002",
    ]
    streamed = one.run(iter(pictures), tmp_path / "streamed", save=())
    assert streamed["verdict"].tolist() == listed["verdict"].tolist()
    pictures[1] = photo(red=0.9, green=0.8)
    before = KnownBackend.seen
    assert one.run(pictures, tmp_path / "listed", save=())["verdict"].tolist() == ["DEFECT", "DEFECT", "OK"]
    assert KnownBackend.seen - before == 2, "the changed one, in both stages"


def test_photos_that_are_not_there(tmp_path, artifacts, drawn):
    one = open_pair(tmp_path, artifacts)
    with pytest.raises(FileNotFoundError, match="There is no"):
        one.run(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CascadeError, match="given twice"):
        one.run([drawn / "00.png", drawn / "00.png"], tmp_path / "out")
    with pytest.raises(CascadeError, match="lies among the photos"):
        one.run(drawn, drawn / "out")


# ----------------------------------------------------------------------------------------------------- kill and resume


def test_what_is_done_is_not_done_again(tmp_path, artifacts, drawn):
    cascade = open_pair(tmp_path, artifacts)
    before = cascade.run(drawn, tmp_path / "out")
    seen = KnownBackend.seen
    pd.testing.assert_frame_equal(open_pair(tmp_path, artifacts).run(drawn, tmp_path / "out"), before)
    assert KnownBackend.seen == seen
    save(drawn, new=photo(red=0.9, green=0.9))
    after = cascade.run(drawn, tmp_path / "out")
    assert KnownBackend.seen == seen + 2 and after["photo"].tolist() == [*before["photo"], "new.png"]


def test_a_torn_line_is_dropped_and_its_photo_done_again(tmp_path, artifacts, drawn, monkeypatch):
    cascade = open_pair(tmp_path, artifacts)
    expected = cascade.run(drawn, tmp_path / "out")
    journal = tmp_path / "out/journal.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[: content.rindex(b"\n", 0, -1) + 40])
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", dead_process)
        half = partial_path(tmp_path / "out/first/masks/19.png")
    half.write_bytes(b"half")
    again = cascade.run(drawn, tmp_path / "out")
    pd.testing.assert_frame_equal(again.drop(columns="milliseconds"), expected.drop(columns="milliseconds"))
    assert sum(json.loads(line)["key"] == "19" for line in journal.read_bytes().splitlines()[1:]) == 1
    assert not half.exists()
    lines = content.splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:5], lines[5][:40] + b"\n", *lines[6:]]))
    with pytest.raises(CascadeError, match="damaged at byte"):
        cascade.run(drawn, tmp_path / "out")
    assert len(cascade.run(drawn, tmp_path / "out", restart=True)) == 20


def test_an_interruption_keeps_what_is_done(tmp_path, artifacts, drawn, monkeypatch):
    cascade = open_pair(tmp_path, artifacts)
    cascade.batch_size = 4
    original = KnownBackend.__call__

    def interrupt(self, photos):
        if KnownBackend.seen >= 12:
            raise KeyboardInterrupt
        return original(self, photos)

    with monkeypatch.context() as patch:
        patch.setattr(KnownBackend, "__call__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cascade.run(drawn, tmp_path / "out")
    done = len(pd.read_csv(tmp_path / "out/verdicts.csv"))
    assert 0 < done < 20 and done % 4 == 0
    assert len(cascade.run(drawn, tmp_path / "out")) == 20


SLOW = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
from cascade_runs import KnownBackend, use_known_networks
from helpers.inference import Cascade
use_known_networks()
KnownBackend.seconds_a_photo = 0.03
cascade = Cascade.from_yaml({file!r}, {{"ARTIFACTS": {artifacts!r}}}, batch_size=3)
cascade.run(Path({photos!r}), Path({out!r}))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_a_killed_run_goes_on_and_every_photo_is_there_exactly_once(tmp_path, artifacts):
    """A real SIGKILL in the middle, twice."""
    folder = save(tmp_path / "photos", **{f"{n:03d}": photo(red=n / 90, green=0.9) for n in range(90)})
    out, journal = tmp_path / "out", tmp_path / "out/journal.jsonl"
    words = {"tests": str(REPOSITORY / "tests"), "root": str(REPOSITORY), "file": str(write(tmp_path, PAIR))}
    script = SLOW.format(**words, artifacts=str(artifacts), photos=str(folder), out=str(out))
    done = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"HELPERS_HEADLESS": "1"})
        try:
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                lines = journal.read_bytes().count(b"\n") - 1 if journal.is_file() else 0
                if lines >= done + 9:
                    break
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            assert process.wait(30) == -signal.SIGKILL, "it must still have been at work"
        done = journal.read_bytes().count(b"\n") - 1
    assert 18 <= done < 90
    assert not (out / "verdicts.csv").exists(), "no table that only looks complete"
    cascade = Cascade.from_yaml(words["file"], {"ARTIFACTS": str(artifacts)}, batch_size=3)
    verdicts = cascade.run(folder, out)
    passing = sum(
        json.loads(line)["verdict"]["stage"] == "second" for line in journal.read_bytes().splitlines()[done + 1 :]
    )
    assert KnownBackend.seen == 90 - done + passing, "only what was missing"
    assert verdicts["photo"].tolist() == [f"{n:03d}.png" for n in range(90)]
    keys = [json.loads(line)["key"] for line in journal.read_bytes().splitlines()[1:]]
    assert sorted(keys) == [f"{n:03d}" for n in range(90)]
    fresh = cascade.run(folder, tmp_path / "fresh")
    pd.testing.assert_frame_equal(verdicts.drop(columns="milliseconds"), fresh.drop(columns="milliseconds"))
    pictures = {name for name in files_below(out) if "/" in name and not name.endswith(".json")}
    assert pictures == {name for name in files_below(tmp_path / "fresh") if "/" in name and not name.endswith(".json")}


def test_a_full_disk_says_so_and_the_rest_comes_later(tmp_path, artifacts, drawn):
    """The system's own limit on the size of a file: the journal breaks off within a line."""
    resource = pytest.importorskip("resource")
    cascade = open_pair(tmp_path, artifacts)
    cascade.batch_size = 4
    fresh = cascade.run(drawn, tmp_path / "fresh")
    size = (tmp_path / "fresh/journal.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(CascadeError, match="cannot be written to .*File too large"):
            cascade.run(drawn, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    done = (tmp_path / "out/journal.jsonl").read_bytes()
    n_done = len(done.splitlines()) - 1
    assert 0 < n_done < 20 and n_done % 4 == 0 and done.endswith(b"\n")
    before = KnownBackend.seen
    again = cascade.run(drawn, tmp_path / "out")
    pd.testing.assert_frame_equal(again.drop(columns="milliseconds"), fresh.drop(columns="milliseconds"))
    assert KnownBackend.seen - before < 36


@pytest.mark.parametrize("place", ["write", "fsync"])
def test_what_did_not_get_to_the_disk_is_not_noted(tmp_path, artifacts, drawn, monkeypatch, place):
    cascade = open_pair(tmp_path, artifacts)
    cascade.batch_size = 4
    calls = []

    def full(*_: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if place == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            original = Image.Image.save
            patch.setattr(Image.Image, "save", lambda *given, **options: (full(), original(*given, **options)))
        with pytest.raises(CascadeError, match="No space left on device"):
            cascade.run(drawn, tmp_path / "out")
    assert len(cascade.run(drawn, tmp_path / "out")) == 20
    assert (tmp_path / "out/verdicts.csv").is_file()


def test_a_folder_that_is_deleted_meanwhile_can_be_gone_on_with(tmp_path, artifacts, drawn, monkeypatch):
    cascade = open_pair(tmp_path, artifacts)
    cascade.batch_size = 4
    original = KnownBackend.__call__

    def delete(self, photos):
        if KnownBackend.seen == 8:
            shutil.rmtree(tmp_path / "out")
        return original(self, photos)

    with monkeypatch.context() as patch:
        patch.setattr(KnownBackend, "__call__", delete)
        with pytest.raises(CascadeError, match="deleted or moved meanwhile"):
            cascade.run(drawn, tmp_path / "out")
    again = cascade.run(drawn, tmp_path / "out")
    fresh = cascade.run(drawn, tmp_path / "fresh")
    pd.testing.assert_frame_equal(again.drop(columns="milliseconds"), fresh.drop(columns="milliseconds"))


def test_results_of_something_else_are_not_mixed_in(tmp_path, artifacts, drawn):
    open_pair(tmp_path, artifacts).run(drawn, tmp_path / "out", save=())
    with pytest.raises(CascadeError, match=r"another cascade \(stages differ.*--restart"):
        open_pair(tmp_path, artifacts, area_thresh=0.4).run(drawn, tmp_path / "out", save=())
    with pytest.raises(CascadeError, match=r"another cascade \(save differ"):
        open_pair(tmp_path, artifacts).run(drawn, tmp_path / "out")
    other = Path(shutil.copytree(drawn, tmp_path / "other"))
    with pytest.raises(CascadeError, match="results of the photos in .*photos.*--out"):
        open_pair(tmp_path, artifacts).run(other, tmp_path / "out", save=())
    write_run(artifacts / "drawn/quick/second", thresholds={"image": 0.8})
    with pytest.raises(CascadeError, match="another cascade"):
        open_pair(tmp_path, artifacts).run(drawn, tmp_path / "out", save=())
    again = open_pair(tmp_path, artifacts).run(drawn, tmp_path / "out", save=(), restart=True)
    assert set(again["threshold"]) == {0.25, 0.8}
    with pytest.raises(CascadeError, match="holds other files"):
        open_pair(tmp_path, artifacts).run(drawn, artifacts)
    assert (artifacts / "drawn/quick/second/run.json").is_file()


def test_restart_deletes_nothing_that_is_no_result(tmp_path, artifacts, drawn):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(CascadeError, match="holds other files"):
        open_pair(tmp_path, artifacts).run(drawn, tmp_path / "mine", restart=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_restart_removes_what_the_journal_names_and_nothing_else(tmp_path, artifacts, drawn):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere.txt"
    open_pair(tmp_path, artifacts).run(drawn, out)
    mine = [out / "letter.txt", out / "first/masks/notes.txt", out / "mine/photo.png", elsewhere]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("dear")
    lines = (out / "journal.jsonl").read_text().splitlines()
    forged = json.loads(lines[1])
    for name in ("../elsewhere.txt", str(elsewhere), "first/../../elsewhere.txt"):
        forged["stages"][0]["mask"] = name
        lines.append(json.dumps(forged))
    (out / "journal.jsonl").write_text("\n".join([*lines, '{"no": "record"}', "null", ""]))
    (drawn / "19.png").unlink()
    other = Cascade.of_run(artifacts / "drawn/quick/second")
    assert len(other.run(drawn, out, save=("mask",), restart=True)) == 19
    assert all(file.read_text() == "dear" for file in mine)
    names = {name for name in files_below(out) if "letter" not in name and "mine" not in name}
    own = {"journal.jsonl", "cascade.json", "verdicts.csv", "verdicts.json", "stages.csv", "stages.json"}
    masks = {f"second/masks/{n:02d}.png" for n in range(19)}
    assert names == own | masks | {"second/inference_results.json", "first/masks/notes.txt"}


@pytest.mark.parametrize("name", ["../out", "a/b", "..", "", ".lock", "verdicts.csv", "/tmp/x", "a\\b", "x" * 300])
def test_names_that_would_write_elsewhere_are_refused(tmp_path, artifacts, drawn, name):
    judge = stage(artifacts, "first", "score > image", then="DEFECT", otherwise="OK")
    judge.name = name
    with pytest.raises(CascadeError, match="'name'"):
        Cascade("fine", [judge])
    if name != "verdicts.csv":
        judge.name = "fine"
        with pytest.raises(CascadeError, match="'name'"):
            Cascade(name, [judge])


MEASURE = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
import numpy as np
from pathlib import Path
from cascade_runs import use_known_networks
from helpers.inference import Cascade
use_known_networks()
cascade = Cascade.from_yaml({file!r}, {{"ARTIFACTS": {artifacts!r}}})
verdicts = cascade.run(Path({photos!r}), Path({out!r}), save=("mask", "map"))
# not ru_maxrss, which a new program inherits from the one that started it
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(verdicts), peak.split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux says a process's peak memory, others do not")
def test_memory_does_not_grow_with_the_number_of_photos(tmp_path, artifacts):
    peaks = {}
    for n in (1_000, 10_000):
        folder = tmp_path / f"photos{n}"
        folder.mkdir()
        Image.fromarray(photo(red=0.9, green=0.9)).save(folder / "0.png")
        for number in range(1, n):
            os.link(folder / "0.png", folder / f"{number}.png")
        words = {"tests": str(REPOSITORY / "tests"), "root": str(REPOSITORY), "file": str(write(tmp_path, PAIR))}
        script = MEASURE.format(**words, artifacts=str(artifacts), photos=str(folder), out=str(tmp_path / f"out{n}"))
        environment = os.environ | {"HELPERS_HEADLESS": "1"}
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        count, peaks[n] = map(int, result.stdout.split()[-2:])
        assert count == n
    assert peaks[10_000] < 1.1 * peaks[1_000], peaks


# ----------------------------------------------------------------------------------------------------------------- YAML


def changed(*path, value) -> dict:
    content = json.loads(json.dumps(PAIR))
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("stagess", value=[]), "unknown key stagess. Known: about, name, parameters, stages"),
        (changed("stages", 0, "rull", value="always"), "stage 1: unknown key rull. Known: .*rule"),
        (changed("stages", value=[]), "at least one stage"),
        (changed("stages", value="unet"), "list of at least one stage"),
        (changed("stages", 0, value="unet"), "stage 1: a stage is either 'run: NAME' or 'foreground: NAME'"),
        (changed("stages", 0, "foreground", value="foreground"), "a stage is either"),
        (changed("stages", 1, "rule", value="score >> 1"), "stage 2: rule 'score >> 1' is none"),
        (changed("stages", 1, "then", value=""), "stage second has no way on; say 'then: VERDICT'"),
        (changed("stages", 0, "then", value="BAD"), "stage first has no way on; leave 'then' out"),
        (changed("stages", 0, "otherwise", value=""), "stage first needs 'otherwise: VERDICT'"),
        (changed("stages", 0, "rule", value="always"), "stops nothing"),
        (changed("stages", 0, "name", value="second"), "two stages are called second"),
        (changed("stages", 1, "ignore_no_defect", value=True), "another one behind it"),
        (changed("stages", 0, "ignore_no_defect", value="yes"), "ignore_no_defect='yes' must be true or false"),
        (changed("stages", 0, "morphology", value=3), "'morphology' must be names with their values"),
        (changed("stages", 0, "morphology", value={"opening": 3}), "stage 1: .*opening"),
        (changed("stages", 0, "run", value=3), "a run is the name of its folder"),
        (changed("parameters", value=["a"]), "'parameters' must be names with their values"),
        (changed("parameters", "DATASET", value=""), "DATASET is empty"),
    ],
)
def test_yaml_that_says_something_unknown(tmp_path, artifacts, content, message):
    with pytest.raises(CascadeError, match=message):
        open_pair(tmp_path, artifacts, content)


def test_files_that_are_no_cascade(tmp_path):
    (tmp_path / "broken.yml").write_text("stages: [")
    with pytest.raises(CascadeError, match=r"broken\.yml is no YAML"):
        Cascade.from_yaml(tmp_path / "broken.yml")
    (tmp_path / "list.yml").write_text("- a")
    with pytest.raises(CascadeError, match="expected keys"):
        Cascade.from_yaml(tmp_path / "list.yml")
    with pytest.raises(CascadeError, match="give a YAML file or a preset: bicycle, mesh, nuts, steel"):
        Cascade.from_yaml("mehs")


def test_settings(tmp_path, artifacts):
    one = open_pair(tmp_path, artifacts, area_thresh=0.7, LIMIT=0.9)
    assert [stage.limit.value for stage in one.stages] == [0.7, 0.9]
    assert [stage.limit.origin for stage in one.stages] == ["parameter area_thresh", "parameter LIMIT"]
    with pytest.raises(
        CascadeError, match="AREA is no parameter of pair.yml. Known: ARTIFACTS, DATASET, PROFILE, LIMIT, area"
    ):
        open_pair(tmp_path, artifacts, AREA=1)
    with pytest.raises(CascadeError, match="give the same kind"):
        open_pair(tmp_path, artifacts, area_thresh=True)
    with pytest.raises(MissingRunError, match=str(artifacts / "drawn" / "full" / "first")):
        open_pair(tmp_path, artifacts, PROFILE="full")
    assert open_pair(tmp_path, artifacts, DATASET="datasets/drawn").parameters["DATASET"] == "drawn"
    shutil.copytree(artifacts / "drawn" / "quick" / "first", tmp_path / "elsewhere" / "first")
    content = changed("stages", 0, "run", value=str(tmp_path / "elsewhere" / "first"))
    assert open_pair(tmp_path, artifacts, content).stages[0].predictor.run.folder == tmp_path / "elsewhere" / "first"


@pytest.mark.parametrize("file", sorted(PRESETS_FOLDER.glob("*.yml")), ids=lambda file: file.stem)
def test_presets_open_with_their_defaults(tmp_path, file, cutter, monkeypatch):
    """Each with the runs that its notebooks leave."""
    home = tmp_path / "artifacts" / ("nuts" if file.stem == "nuts" else "mesh") / "quick"
    for name in ("patchcore", "unet", "deeplabv3plus", "draem"):
        write_run(home / name)
    write_run(home / "classifier", classes=CLASSES, normal="good")
    write_open_set(home / "open_set", classes=CLASSES)
    shutil.copytree(tmp_path / "artifacts/drawn/quick/foreground", home / "foreground")
    one = Cascade.from_yaml(file, {"ARTIFACTS": str(tmp_path / "artifacts")})
    rules = {
        "mesh": ["area > area_thresh", "score > THRESHOLD"],
        "nuts": ["peak > THRESHOLD"],
        "bicycle": ["score > DAMAGED_THRESHOLD", "always"],
        "steel": ["score > THRESHOLD", "always"],
    }
    found = [stage for stage in one.stages if isinstance(stage, RunStage)]
    assert [stage.rule.text for stage in found] == rules[file.stem]
    if file.stem == "mesh":
        assert (found[0].limit.value, found[0].pixel_limit.value) == (0, 0.6), "any pixel above what val has set"
    if file.stem == "bicycle":
        assert (found[0].limit.value, found[1].pixel_limit.value) == (0.5, 0.6), "image and pixel of these runs"


def test_a_run_is_a_cascade_of_one_stage(tmp_path, artifacts, drawn):
    home = artifacts / "drawn" / "quick"
    verdicts = Cascade.of_run(home / "first").run(drawn, tmp_path / "one", save=())
    assert verdicts["verdict"].tolist() == ["DEFECT" if round(255 * n / 20) / 255 > 0.5 else "OK" for n in range(20)]
    p_values = [(1 + sum(score >= round(255 * n / 20) / 255 for score in (0.1, 0.2, 0.3))) / 4 for n in range(20)]
    expected = [1 - p if word == "DEFECT" else p for p, word in zip(p_values, verdicts["verdict"], strict=True)]
    np.testing.assert_allclose(verdicts["confidence"], expected)
    low = Cascade.of_run(home / "first", {"threshold": 0.1}).run(drawn, tmp_path / "low", save=())
    assert (low["verdict"] == "DEFECT").sum() > (verdicts["verdict"] == "DEFECT").sum()
    with pytest.raises(CascadeError, match="unknown key limit. Known: pixel_threshold, threshold"):
        Cascade.of_run(home / "first", {"limit": 1})
    named = Cascade.of_run(home / "classifier").run([photo(0.9, 0.1, 0.0), photo(0.3, 0.2, 0.5)], tmp_path / "named")
    assert named["verdict"].tolist() == ["good", "scratch"] and named["abnormal"].tolist() == [False, True]
    kinds = Cascade.of_run(home / "kinds").run([photo(0.9, 0.1, 0.0)], tmp_path / "kinds")
    assert kinds["verdict"].tolist() == ["hole"] and kinds["abnormal"].tolist() == [True]


def test_no_stage_and_two_cutters(artifacts, cutter):
    with pytest.raises(CascadeError, match="no stages"):
        Cascade("empty", [])
    with pytest.raises(CascadeError, match="it judges none"):
        Cascade("cut", [cutter])
    last = stage(artifacts, "first", "always", then="BAD")
    other = CutterStage(artifacts / "drawn/quick/foreground", name="again")
    with pytest.raises(CascadeError, match="two stages with 'foreground'"):
        Cascade("cut", [cutter, other, last])


def test_one_process_at_a_time_writes_into_a_folder_of_results(artifacts, drawn, tmp_path):
    cascade = open_pair(tmp_path, artifacts)
    with hold(tmp_path / "out/.lock", "it"), pytest.raises(InUseError, match="out is in use by process"):
        cascade.run(drawn, tmp_path / "out")
    assert len(cascade.run(drawn, tmp_path / "out")) and not (tmp_path / "out/.lock").exists()


@pytest.mark.parametrize("limit", [150 / 255, 0.5, 0.9, float(np.float32(200 / 255))])
def test_a_peak_rule_says_defect_exactly_where_there_is_a_mask(tmp_path, artifacts, limit):
    """One pixel of the network's map (every eighth of the photo) is 200/255, which is less once it is enlarged."""
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[4, 10, 0] = 200
    one = stage(artifacts, "first", f"peak > {limit}", then="DEFECT", otherwise="OK", pixel_threshold=limit)
    item = Item("a.png", "a", picture)
    one.run([item], tmp_path / "out", ("mask",))
    mask = np.asarray(Image.open(tmp_path / "out/first/masks/a.png")) > 0
    assert item.rows[0]["peak"] == np.float32(200 / 255)
    assert (item.verdict == "DEFECT") == (item.rows[0]["mask_pixels"] > 0) == mask.any() == (limit < 0.78)


# ---------------------------------------------------------------------------------------- 12 bits, and strips of a line


def set_parameters(run: Path, **parameters) -> None:
    info = json.loads((run / "run.json").read_text())
    info["parameters"] |= parameters
    (run / "run.json").write_text(json.dumps(info))


def test_photos_of_twelve_bits_are_judged_as_the_runs_have_learned(artifacts, tmp_path):
    home = artifacts / "drawn/quick"
    for name, level in (("bright", 2800), ("dark", 200), ("beyond", 5000)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(np.full((16, 24), level, np.uint16)).save(tmp_path / f"photos/{name}.png")
    set_parameters(home / "first", bit_depth=12)
    found = Cascade.of_run(home / "first").run(tmp_path / "photos", tmp_path / "out").set_index("photo")
    assert found["verdict"].to_dict() == {"beyond.png": "ERROR", "bright.png": "DEFECT", "dark.png": "OK"}
    assert found.at["bright.png", "score"] == pytest.approx((2800 >> 4) / 255)
    set_parameters(home / "second", bit_depth=10)
    with pytest.raises(CascadeError, match="10 and 12 bits"):
        open_pair(tmp_path, artifacts)
    set_parameters(home / "second", bit_depth=3)
    with pytest.raises(ValueError, match="bit_depth"):
        Predictor(home / "second")


def test_a_strip_that_cannot_be_resized_is_an_error_and_the_rest_goes_on(artifacts, tmp_path):
    home = artifacts / "drawn/quick"
    set_parameters(home / "first", image_size=[512], center_crop=[512, 512])
    photos = save(tmp_path / "photos", a=photo(), b=np.zeros((1, 5000, 3), np.uint8), c=photo(red=1))
    found = Cascade.of_run(home / "first").run(photos, tmp_path / "out")
    assert found["verdict"].tolist() == ["OK", "ERROR", "DEFECT"]
