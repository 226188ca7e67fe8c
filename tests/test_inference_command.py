"""The command: a run or a cascade, a photo or a folder, and what it says when it cannot."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import operator
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from cascade_runs import CLASSES, KnownBackend, write_run
from conftest import REPOSITORY
from PIL import Image

from helpers.inference import predictor
from helpers.inference.__main__ import main
from helpers.paths import file_sha256, hold


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


def test_a_good_verdict_on_a_photo_whose_map_marks_a_defect_is_said(run, photos, tmp_path, capsys):
    """The score's threshold is above the map's."""
    verdicts = tmp_path / "out" / "verdicts.csv"
    rule = "stages: [{run: first, pixel_threshold: 0.15, rule: score > 0.9, then: DEFECT, otherwise: OK}]"
    (tmp_path / "one.yml").write_text(f"name: one\nparameters: {{DATASET: wire}}\n{rule.replace('first', str(run))}\n")
    assert main([str(tmp_path / "one.yml"), str(photos), "--out", str(tmp_path / "out")]) == 0
    rows = pd.read_csv(verdicts).set_index("photo")
    assert rows.loc["a.png", "verdict"] == "OK" and rows.loc["a.png", "marked_pixels"] > 0
    assert "marked_pixels" in capsys.readouterr().out


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


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Where each value of nested ones lies."""
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


DROP = object()
ANYTHING = [DROP, None, [], {}, "", "../x", True, -1, 0.5, 1e308, float("nan"), 10**400, [[[]]], ["a", "b"], {"a": 1}]


def mutations(content: Any) -> Iterator[tuple[tuple, Any]]:
    """Each value of nested ones in turn dropped, or replaced by anything."""
    for at in places(content):
        for value in ANYTHING:
            changed = copy.deepcopy(content)
            holder = functools.reduce(operator.getitem, at[:-1], changed)
            if not at and value is not DROP:
                yield at, value
            elif at and value is DROP:
                del holder[at[-1]]
                yield at, changed
            elif at:
                holder[at[-1]] = value
                yield at, changed


def says(arguments: list[str], capsys) -> tuple[int, str]:
    """Status and words of the command; none of the words is one of an error that nobody foresaw."""
    status = main(arguments)
    said = capsys.readouterr().err
    assert status in (0, 1, 2) and "worth a report" not in said, said
    assert (status != 2) or said.strip()
    return status, said


@pytest.mark.parametrize("classes", [(), tuple(CLASSES)])
def test_a_run_that_is_damaged_anywhere_is_refused_in_a_sentence(run, photos, tmp_path, capsys, classes):
    if classes:
        run = write_run(run.with_name("classifier"), classes=classes, normal=classes[0])
    info = json.loads((run / "run.json").read_text())
    info |= {"note": None, "counts": {"train": 1}, "files": {}, "versions": {"torch": "1.2"}, "samples": "a", "seed": 1}
    arguments = [str(run), str(photos), "--save", "none", "--restart", "--out", str(tmp_path / "out")]
    refused = set()
    for at, changed in mutations(info):
        if at in (("parameters", "normal_class"), ("parameters", "task")):
            continue  # the backend of these tests cannot be another one
        (run / "run.json").write_text(json.dumps(changed))
        if says(arguments, capsys)[0] == 2:
            refused.add(at)
    vital = [("model",), ("fingerprint",), ("parameters",), ("thresholds",), ("parameters", "image_size")]
    assert refused >= {(), *vital, ("thresholds", "image"), ("thresholds", "image", "value")}
    for text in ("", "{", "[" * 100_000, "\x00", "7"):
        (run / "run.json").write_text(text)
        assert says(arguments, capsys)[0] == 2
    (run / "run.json").write_bytes(b'{"model": "\xff"}')
    assert says(arguments, capsys)[0] == 2


def test_limits_that_are_no_numbers_are_never_used(run, photos, tmp_path, capsys):
    """Not one photo gets a verdict by a limit of NaN, infinity, null, or one turned round."""
    info = json.loads((run / "run.json").read_text())
    for name, value in [
        ("value", float("nan")),
        ("value", float("inf")),
        ("value", None),
        ("value", "high"),
        ("below", 1),
    ]:
        changed = copy.deepcopy(info)
        changed["thresholds"]["image"][name] = value
        (run / "run.json").write_text(json.dumps(changed))
        assert says([str(run), str(photos), "--out", str(tmp_path / "out")], capsys)[0] == 2
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["samples.csv", "samples.csv.json", "predictions.csv", "model.ckpt"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b"a,b\n1,2,3\n", b"image_path\n\n", b"[]", b'{"root": 5}'])
def test_other_files_of_a_run_that_are_damaged(run, photos, tmp_path, capsys, name, content):
    info = json.loads((run / "run.json").read_text())
    info["files"] = {"model.ckpt": file_sha256(run / "model.ckpt")}
    (run / "run.json").write_text(json.dumps(info))
    (run / name).write_bytes(content)
    assert says([str(run), str(photos), "--out", str(tmp_path / "out")], capsys)[0] == 2


def test_a_cascade_that_is_damaged_anywhere_is_refused_in_a_sentence(run, photos, tmp_path, capsys):
    first = {"run": "first", "rule": "score > limit", "otherwise": "OK", "name": "one", "object_mask": "none"}
    first |= {"pixel_threshold": 0.5, "ignore_no_defect": False, "morphology": {"opening_diameter": 3}}
    last = {"run": "second", "rule": "score > image", "then": "BAD", "otherwise": "FINE"}
    content = {"name": "mine", "about": "it", "parameters": {"limit": 0.1, "DATASET": "drawn"}, "stages": [first, last]}
    file = tmp_path / "mine.yml"
    arguments = [str(file), str(photos), "--save", "none", "--restart", "--out", str(tmp_path / "out")]
    arguments += ["--set", f"ARTIFACTS={tmp_path / 'artifacts'}"]
    file.write_text(yaml.safe_dump(content))
    assert says(arguments, capsys)[0] == 0
    refused = set()
    for at, changed in mutations(content):
        file.write_text(yaml.safe_dump(changed))
        if says(arguments, capsys)[0] == 2:
            refused.add(at)
    assert refused >= {(), ("name",), ("stages",), ("stages", 0), ("stages", 0, "run"), ("stages", 1, "then")}


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in itertools.pairwise("abcdefghi")
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{'<<': [{', '.join(['*' + old] * 9)}]}}\n" for old, new in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    "text",
    [LAUGHS, MERGES, "stages: &a [*a]", "[" * 5000, "!!timestamp x", "!!int ''", "!!bool x", "2024-13-45", "? [a]\n: 1"]
    + ["!!python/object/apply:os.system [true]", "a: b: c", "\x00", "--- 1\n--- 2", ""],
)
def test_yaml_that_is_none_or_means_harm_ends_at_once(run, photos, tmp_path, capsys, text):
    file = tmp_path / "mine.yml"
    file.write_text(text)
    assert says([str(file), str(photos), "--out", str(tmp_path / "out")], capsys)[0] == 2
    assert says([str(run), str(photos), "--set", f"threshold={text}", "--out", str(tmp_path / "out")], capsys)[0] == 2
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to(run, photos, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file/out", Path("/proc/none"), tmp_path / ("x" * 300)):
        assert says([str(run), str(photos), "--out", str(out)], capsys)[0] == 2
    with hold(tmp_path / "out/.lock", "it"):
        assert "process" in says([str(run), str(photos), "--out", str(tmp_path / "out")], capsys)[1]
    assert (tmp_path / "file").read_text() == "mine"


def test_the_default_folder_lies_below_the_cascade_s(run, photos, monkeypatch, tmp_path):
    from helpers import runs

    monkeypatch.setattr(runs, "PROJECT_ROOT", tmp_path / "project")
    (photos / "below/x").mkdir()
    assert main([str(run), str(photos / "below/x/.."), "--save", "none"]) == 0
    assert (tmp_path / "project/artifacts/inference/first/below/verdicts.csv").is_file()


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
