"""What is not finite is never a verdict: networks, thresholds at every door, stored predictions."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from cascade_runs import CLASSES, KnownBackend, write_run
from PIL import Image

from helpers.inference import Cascade, Predictor, predictor
from helpers.inference.__main__ import main
from helpers.inference.pictures import ERROR, Item
from helpers.inference.stages import RunStage
from helpers.runs import Run
from helpers.thresholds import held_out_thresholds
from helpers.video import main as video_main

SICK = 200  # green of a photo that the network answers with NaN


class SickBackend(KnownBackend):
    """Says NaN of photos with much green: in the scores alone, the maps alone or the probabilities."""

    what = "scores"

    def __call__(self, photos):
        output = super().__call__(photos)
        for number, photo in enumerate(photos):
            if photo[0, 0, 1] >= SICK:
                getattr(output, self.what)[number : number + 1].flat[0] = np.nan
        return output


@pytest.fixture(autouse=True)
def sick_networks(monkeypatch):
    monkeypatch.setitem(predictor.BACKENDS, "torch", SickBackend)


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "artifacts/wire/quick/first")


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    for name, colour in (("bad", (255, 0, 0)), ("good", (10, 0, 0)), ("sick", (255, SICK, 0))):
        Image.new("RGB", (24, 16), colour).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("what", ["scores", "maps", "probabilities"])
def test_a_photo_that_is_answered_with_nan_is_an_error_and_the_rest_goes_on(run, photos, tmp_path, monkeypatch, what):
    monkeypatch.setattr(SickBackend, "what", what)
    if what == "probabilities":
        run = write_run(run.with_name("classifier"), classes=CLASSES, normal="good")
    assert main([str(run), str(photos), "--out", str(tmp_path / "out")]) == 1
    verdicts = pd.read_csv(tmp_path / "out/verdicts.csv").set_index("photo")
    assert (verdicts["verdict"] == ERROR).tolist() == verdicts["score"].isna().tolist() == [False, False, True]
    with pytest.raises(ValueError, match=r"sick\.png"):
        Predictor(run).predict(photos)


@pytest.mark.parametrize("rule", ["score > image", "peak > 0.1", "area >= 0.1", "always"])
def test_no_rule_passes_it(run, rule):
    stage = RunStage(Predictor(run), rule, then="BAD", otherwise="" if rule == "always" else "OK")
    item = Item("a.png", "a", np.full((16, 24, 3), SICK, np.uint8))
    assert stage.run([item], Path(), ()) == [] and (item.verdict, item.abnormal) == (ERROR, None)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_thresholds_are_refused_at_every_door(run, photos, tmp_path, value):
    out, clip = ["--out", str(tmp_path / "out")], [str(photos), str(tmp_path / "a.mp4"), "--run", str(run)]
    for setting in (f"threshold=.{value}".replace(".-", "-."), f"pixel_threshold={value}", "threshold=null"):
        assert main([str(run), str(photos), *out, "--set", setting]) == 2
    assert video_main([*clip, f"--threshold={value}"]) == 2
    file = tmp_path / "mine.yml"
    for limit in (float(value), True, None):
        stage = {"run": str(run), "rule": "score > LIMIT", "then": "BAD", "otherwise": "OK"}
        file.write_text(yaml.safe_dump({"parameters": {"LIMIT": limit}, "stages": [stage]}))
        with pytest.raises(ValueError, match="threshold"):
            Cascade.from_yaml(file)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null", "1e39", '"much"', "[1]"])
def test_a_threshold_in_run_json_is_refused_and_the_file_named(run, value):
    info = json.loads((run / "run.json").read_text())
    info["thresholds"]["image"]["value"] = "HERE"
    (run / "run.json").write_text(json.dumps(info).replace('"HERE"', value))
    with pytest.raises(ValueError, match=r"run\.json.*finite"):
        Predictor(run)


@pytest.mark.parametrize("column", ["score", "map_max"])
def test_stored_predictions_and_trainings_that_ended_in_nan_set_no_threshold(run, column):
    val, table = Run.load(run).predictions("val"), pd.read_csv(run / "predictions.csv")
    with pytest.raises(ValueError, match="finite"):
        held_out_thresholds(val.assign(**{column: [0.1, np.nan, 0.3]}))
    for value in (np.nan, np.inf):
        table.assign(**{column: [0.1, value, 0.3]}).to_csv(run / "predictions.csv", index=False)
        with pytest.raises(ValueError, match=r"predictions\.csv"):
            Run.load(run).predictions("val")


@pytest.mark.parametrize(
    ("values", "verdict"), [((0.6, 0.9, np.nan), "BAD"), ((0.5, np.nan), ERROR), ((0.1, 0.4), "OK")]
)
def test_the_worst_part_decides_and_one_that_failed_is_no_good_one(values, verdict):
    """A photo of objects, judged by a rule with the limit 0.5; NaN could not be judged. It is the second each time."""
    item = Item("a.png", "a", np.zeros((4, 4, 3), np.uint8))
    for number, value in enumerate(values, start=1):
        item.parts.append(part := Item("a.png", f"a{number}", item.photo, number))
        if np.isnan(value):
            part.fail("last", "its scores are not finite")
            continue
        part.verdict, part.abnormal = ("BAD", True) if value > 0.5 else ("OK", False)
        part.add_row("last", value=value, rule="score > 0.5")
    assert item.settle()["object"] == 2 and item.verdict == verdict and bool(item.error) == (verdict == ERROR)
    assert item.abnormal is {"BAD": True, "OK": False}.get(verdict)
