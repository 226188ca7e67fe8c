"""The command: a run or a cascade, a photo or a folder, and what it says when it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from cascade_runs import KnownBackend, write_run
from conftest import REPOSITORY
from PIL import Image

from helpers.inference import predictor
from helpers.inference.__main__ import main


@pytest.fixture(autouse=True)
def known_networks(monkeypatch):
    monkeypatch.setitem(predictor.BACKENDS, "torch", KnownBackend)


@pytest.fixture
def run(tmp_path) -> Path:
    write_run(tmp_path / "artifacts/drawn/quick/second")
    return write_run(tmp_path / "artifacts/drawn/quick/first")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two photos, one of them in a folder below."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for name, red in (("a.png", 51), ("below/b.jpg", 204)):
        picture = np.zeros((16, 24, 3), np.uint8)
        picture[:, :, 0] = red
        Image.fromarray(picture).save(folder / name)
    return folder


def test_a_run_on_one_photo(run, photos, tmp_path, capsys):
    assert main([str(run), str(photos / "a.png"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "a.png: OK (score > threshold: 0.2, 0.5)" in said and str(tmp_path / "out") in said
    verdicts = pd.read_csv(tmp_path / "out/verdicts.csv")
    assert verdicts["verdict"].tolist() == ["OK"] and verdicts["score"][0] == pytest.approx(0.2)
    assert 0 <= verdicts["confidence"][0] <= 1
    for name in ("first/masks/a.png", "first/maps/a.npy", "first/overlays/a.jpg", "stages.json"):
        assert (tmp_path / "out" / name).is_file()


def test_a_folder_with_those_below_and_a_setting(run, photos, tmp_path):
    arguments = [str(run), str(photos), "--out", str(tmp_path / "out"), "--save", "none", "--batch-size", "1"]
    assert main([*arguments, "--set", "threshold=1e-1"]) == 0
    verdicts = pd.read_csv(tmp_path / "out/verdicts.csv")
    assert verdicts["photo"].tolist() == ["a.png", "below/b.jpg"] and verdicts["abnormal"].all()
    assert set(verdicts["threshold"]) == {0.1} and set(verdicts["origin"]) == {"parameter threshold"}
    assert not (tmp_path / "out/first/masks").exists()
    assert main(arguments) == 2, "with another threshold the folder is not mixed"
    assert main([*arguments, "--restart"]) == 0
    assert pd.read_csv(tmp_path / "out/verdicts.csv")["verdict"].tolist() == ["OK", "DEFECT"]


def test_a_cascade_of_a_file(run, photos, tmp_path):
    first = {"run": "first", "rule": "score > limit", "otherwise": "OK"}
    stages = [first, {"run": "second", "rule": "score > image", "then": "BAD", "otherwise": "FINE"}]
    file = tmp_path / "mine.yml"
    file.write_text(yaml.safe_dump({"parameters": {"limit": 0.1}, "stages": stages}))
    places = ["--set", f"ARTIFACTS={tmp_path / 'artifacts'}", "--set", "DATASET=drawn", "--set", "limit=0.5"]
    assert main([str(file), str(photos), "--out", str(tmp_path / "out"), *places]) == 0
    assert pd.read_csv(tmp_path / "out/verdicts.csv")["verdict"].tolist() == ["OK", "FINE"]


def test_photos_that_cannot_be_judged_are_said_and_counted(run, photos, tmp_path, capsys):
    (photos / "c.png").write_bytes(b"no picture")
    assert main([str(run), str(photos), "--out", str(tmp_path / "out"), "--save", "mask"]) == 1
    said = capsys.readouterr()
    assert "not judged" in said.err and "c.png" in said.err and "a.png: OK" in said.out
    assert len(pd.read_csv(tmp_path / "out/verdicts.csv")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "{photos}/nowhere"], "There is no"),
        (["nowhere", "{photos}"], "give a YAML file or a preset: bicycle, mesh, nuts, steel"),
        (["{photos}", "{photos}"], "holds no finished run"),
        (["{run}", "{photos}", "--set", "threshold"], "expected NAME=VALUE"),
        (["{run}", "{photos}", "--set", "threshold=.nan"], "finite"),
        (["{run}", "{photos}", "--set", "threshold=["], "threshold=["),
        (["{run}", "{photos}", "--set", "limit=1"], "Known: pixel_threshold, threshold"),
        (["{run}", "{photos}", "--set", "threshold=imagee"], "it has image, pixel, start"),
        (["{run}", "{photos}", "--save", "maps"], "maps is not known; known: mask, map, overlay"),
        (["{run}", "{photos}", "--batch-size", "0"], "batch_size must be 1 or more"),
        (["mesh", "{photos}", "--set", "DATASET=none_such"], "03_train_unet_deeplabv3plus first"),
    ],
)
def test_refusals_say_why(run, photos, tmp_path, capsys, arguments, message):
    arguments = [word.format(run=run, photos=photos) for word in arguments]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_default_folder_is_in_artifacts(run, photos, monkeypatch, tmp_path):
    from helpers import runs

    monkeypatch.setattr(runs, "PROJECT_ROOT", tmp_path / "project")
    assert main([str(run), str(photos), "--save", "none"]) == 0
    assert (tmp_path / "project/artifacts/inference/first/photos/verdicts.csv").is_file()


def test_an_interruption_has_a_status_of_its_own(run, photos, tmp_path, monkeypatch, capsys):
    def interrupt(self, pictures):
        raise KeyboardInterrupt

    monkeypatch.setattr(KnownBackend, "__call__", interrupt)
    assert main([str(run), str(photos), "--out", str(tmp_path / "out")]) == 130
    assert "goes on with the rest" in capsys.readouterr().err


def test_as_a_module_it_explains_itself_and_imports_nothing_heavy():
    """``--help`` and ``import helpers.inference`` need neither torch nor anomalib."""
    script = "import sys, runpy; sys.argv = ['x', '--help']\n"
    script += "try: runpy.run_module('helpers.inference', run_name='__main__')\n"
    script += (
        "except SystemExit as end: print('status', end.code, [m for m in ('torch', 'anomalib') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert "RUN_OR_CASCADE PHOTO_OR_FOLDER" in result.stdout
    assert result.stdout.splitlines()[-1] == "status 0 []", result.stdout + result.stderr
