"""The command: a run or a cascade, a photo or a folder, and what it says when it cannot."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
import yaml
from cascade_runs import CLASSES, KnownBackend, write_run
from conftest import REPOSITORY
from PIL import Image

from helpers import paths
from helpers.inference import predictor
from helpers.inference.__main__ import main
from helpers.paths import file_sha256, hold


@pytest.fixture(autouse=True)
def known_networks(monkeypatch):
    monkeypatch.setitem(predictor.BACKENDS, "torch", KnownBackend)


@pytest.fixture
def run(tmp_path) -> Path:
    write_run(tmp_path / "artifacts/wire/quick/second")
    return write_run(tmp_path / "artifacts/wire/quick/first")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two photos, one of them in a folder below."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for name, red in (("a.png", 51), ("below/b.jpg", 204)):
        Image.new("RGB", (24, 16), (red, 0, 0)).save(folder / name)
    return folder


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def verdicts(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "verdicts.csv").set_index("photo")


def test_a_run_on_one_photo_and_on_a_folder_with_those_below(run, photos, out, capsys):
    assert main([str(run), str(photos / "a.png"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "a.png: OK" in said and str(out) in said
    (row,) = verdicts(out).itertuples()
    assert row.verdict == "OK" and row.score == pytest.approx(0.2) and 0 <= row.confidence <= 1
    for name in ("first/masks/a.png", "first/maps/a.npy", "first/overlays/a.jpg", "stages.json"):
        assert (out / name).is_file()
    arguments = [str(run), str(photos), "--out", str(out / "folder"), "--save", "none", "--batch-size", "1"]
    assert main([*arguments, "--set", "threshold=1e-1"]) == 0
    rows = verdicts(out / "folder")
    assert list(rows.index) == ["a.png", "below/b.jpg"] and rows["abnormal"].all()
    assert set(rows["threshold"]) == {0.1} and set(rows["origin"]) == {"parameter threshold"}
    assert not (out / "folder/first/masks").exists()
    assert main(arguments) == 2, "with another threshold the folder is not mixed"
    (photos / "c.png").write_bytes(b"no picture")
    assert main([*arguments, "--restart"]) == 1
    assert verdicts(out / "folder")["verdict"].tolist() == ["OK", "DEFECT", "ERROR"]
    assert "c.png" in capsys.readouterr().err


def test_a_cascade_of_a_file(run, photos, out, tmp_path, capsys):
    """The last photo's map marks a defect, though its verdict is good: that is said."""
    first = {"run": "first", "rule": "score > limit", "otherwise": "OK", "pixel_threshold": 0.75}
    stages = [first, {"run": "second", "rule": "score > image", "then": "BAD", "otherwise": "FINE"}]
    file = tmp_path / "mine.yml"
    file.write_text(yaml.safe_dump({"parameters": {"limit": 0.1}, "stages": stages}))
    places = ["--set", f"ARTIFACTS={tmp_path / 'artifacts'}", "--set", "DATASET=wire", "--set", "limit=0.5"]
    assert main([str(file), str(photos), "--out", str(out), *places]) == 0
    assert verdicts(out)["verdict"].tolist() == ["OK", "FINE"]
    assert (verdicts(out)["marked_pixels"] > 0).tolist() == [False, True]
    assert "marked_pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "{photos}/nowhere"], "nowhere"),
        (["nowhere", "{photos}"], "bicycle, mesh, nuts, steel"),
        (["{photos}", "{photos}"], "run.json"),
        (["{run}", "{photos}", "--set", "threshold"], "NAME=VALUE"),
        (["{run}", "{photos}", "--set", "threshold=["], "threshold=["),
        (["{run}", "{photos}", "--set", "limit=1"], "pixel_threshold, threshold"),
        (["{run}", "{photos}", "--set", "threshold=imagee"], "image, pixel, start"),
        (["{run}", "{photos}", "--save", "maps"], "mask, map, overlay"),
        (["{run}", "{photos}", "--batch-size", "0"], "batch_size"),
        (["mesh", "{photos}", "--set", "DATASET=none_such"], "03_train_unet_deeplabv3plus"),
    ],
)
def test_refusals_say_why(run, photos, out, capsys, arguments, message):
    arguments = [word.format(run=run, photos=photos) for word in arguments]
    assert main([*arguments, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err and not out.exists()


ANYTHING = [None, "../x", True, -1, 10**400, [[[]]], {"a": 1}]


def mutations(value: Any, at: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Each value of nested ones in turn dropped, or replaced by anything, and where that was."""
    if isinstance(value, list):
        for place, changed in mutations(dict(enumerate(value)), at):
            yield place, list(changed.values())
    elif isinstance(value, dict):
        for key, old in value.items():
            yield (*at, key), {name: one for name, one in value.items() if name != key}
            yield from (((*at, key), value | {key: new}) for new in ANYTHING)
            yield from ((place, value | {key: new}) for place, new in mutations(old, (*at, key)))


def status_of(arguments: list[str], capsys) -> int:
    """Status of the command; what it says is no error that nobody foresaw."""
    status, said = main(arguments), capsys.readouterr().err
    assert status in (0, 1, 2) and "worth a report" not in said and (status != 2 or said.strip()), said
    return status


@pytest.mark.filterwarnings("ignore:.*was trained with")
@pytest.mark.parametrize("classes", [(), tuple(CLASSES)])
def test_a_run_that_is_damaged_anywhere_is_refused_in_a_sentence(run, photos, out, capsys, classes):
    """And not one photo gets a verdict by a limit that is no number, or turned round."""
    if classes:
        run = write_run(run.with_name("classifier"), classes=classes, normal=classes[0])
    info = json.loads((run / "run.json").read_text())
    info |= {"note": None, "counts": {"train": 1}, "files": {}, "versions": {"torch": "1.2"}, "samples": "a", "seed": 1}
    arguments = [str(run), str(photos / "a.png"), "--save", "none", "--restart", "--out", str(out)]
    refused = set()
    for at, changed in mutations(info):
        if at in (("parameters", "normal_class"), ("parameters", "task")):
            continue  # the backend of these tests cannot be another one
        (run / "run.json").write_text(json.dumps(changed))
        refused |= {at} if status_of(arguments, capsys) == 2 else set()
    vital = [("model",), ("fingerprint",), ("parameters",), ("thresholds",), ("parameters", "image_size")]
    assert refused >= {*vital, ("thresholds", "image"), ("thresholds", "image", "value")}
    info["thresholds"]["image"]["below"] = 1
    for text in ["", "{", "[" * 100_000, "\x00", "7", '{"model": "\xff"}', json.dumps(info)]:
        (run / "run.json").write_text(text, encoding="latin-1")
        assert status_of(arguments, capsys) == 2


@pytest.mark.parametrize("name", ["samples.csv", "samples.csv.json", "predictions.csv", "model.ckpt"])
def test_other_files_of_a_run_that_are_damaged(run, photos, out, capsys, name):
    info = json.loads((run / "run.json").read_text())
    info["files"] = {"model.ckpt": file_sha256(run / "model.ckpt")}
    (run / "run.json").write_text(json.dumps(info))
    for content in (b"", b"\x00\xff\xfe", b"a,b\n1,2,3\n", b"image_path\n\n", b'{"root": 5}', b"[1]"):
        (run / name).write_bytes(content)
        assert status_of([str(run), str(photos), "--out", str(out)], capsys) == 2


def test_a_cascade_that_is_damaged_anywhere_is_refused_in_a_sentence(run, photos, out, tmp_path, capsys):
    first = {"run": "first", "rule": "score > limit", "otherwise": "OK", "name": "one", "object_mask": "none"}
    first |= {"pixel_threshold": 0.5, "ignore_no_defect": False, "morphology": {"opening_diameter": 3}}
    last = {"run": "second", "rule": "score > image", "then": "BAD", "otherwise": "FINE"}
    content = {"name": "mine", "about": "it", "parameters": {"limit": 0.1, "DATASET": "wire"}, "stages": [first, last]}
    file, refused = tmp_path / "mine.yml", set()
    arguments = [str(file), str(photos / "a.png"), "--save", "none", "--restart", "--out", str(out)]
    arguments += ["--set", f"ARTIFACTS={tmp_path / 'artifacts'}"]
    file.write_text(yaml.safe_dump(content))
    assert status_of(arguments, capsys) == 0
    for at, changed in mutations(content):
        file.write_text(yaml.safe_dump(changed))
        refused |= {at} if status_of(arguments, capsys) == 2 else set()
    assert refused >= {("name",), ("stages",), ("stages", 0), ("stages", 0, "run"), ("stages", 1, "then")}


def test_yaml_that_is_none_or_means_harm_ends_at_once(run, photos, out, tmp_path, capsys):
    steps = list(itertools.pairwise("abcdefghi"))
    laughs = [f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in steps]
    merges = [f"{new}: &{new} {{'<<': [{', '.join(['*' + old] * 9)}]}}\n" for old, new in steps]
    texts = ["".join(["a: &a [x, x]\n", *laughs]), "".join(["a: &a {x: 1}\n", *merges]), "stages: &a [*a]", "[" * 5000]
    texts += ["!!python/object/apply:os.system [true]", "a: b: c", "? [a]\n: 1", "\x00", "--- 1\n--- 2", ""]
    file = tmp_path / "mine.yml"
    for text in [*texts, "!!timestamp x", "!!int ''", "!!bool x", "2024-13-45"]:
        file.write_text(text)
        for arguments in ([str(file), str(photos)], [str(run), str(photos), "--set", f"threshold={text}"]):
            assert status_of([*arguments, "--out", str(out)], capsys) == 2
    assert not out.exists()


def test_a_place_that_cannot_be_written_to(run, photos, tmp_path, out, capsys):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file/out", Path("/proc/none"), tmp_path / ("x" * 300)):
        assert status_of([str(run), str(photos), "--out", str(place)], capsys) == 2
    with hold(out / ".lock", "it"):
        assert status_of([str(run), str(photos), "--out", str(out)], capsys) == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_the_default_folder_is_in_artifacts_below_the_cascade_s(run, photos, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "PROJECT_ROOT", tmp_path / "project")
    for place, name in ((photos, "photos"), (photos / "below/../below", "below")):
        assert main([str(run), str(place), "--save", "none"]) == 0
        assert (tmp_path / "project/artifacts/inference/first" / name / "verdicts.csv").is_file()


def test_an_interruption_has_a_status_of_its_own(run, photos, out, monkeypatch):
    monkeypatch.setattr(KnownBackend, "__call__", Mock(side_effect=KeyboardInterrupt))
    assert main([str(run), str(photos), "--out", str(out)]) == 130


def test_as_a_module_it_explains_itself_and_imports_nothing_heavy():
    """``--help`` and ``import helpers.inference`` need neither torch nor anomalib."""
    script = "import sys, runpy; sys.argv = ['x', '--help']\n"
    script += "try: runpy.run_module('helpers.inference', run_name='__main__')\n"
    script += "except SystemExit as end: print('status', end.code, {'torch', 'anomalib'} & {*sys.modules})"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert "RUN_OR_CASCADE PHOTO_OR_FOLDER" in said.stdout
    assert said.stdout.splitlines()[-1] == "status 0 set()", said.stdout + said.stderr
