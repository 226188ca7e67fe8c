"""The run folder: found again when nothing changed, and nothing that only looks finished."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, draw_photos, split_table
from PIL import Image

from helpers.data.datamodule import SampleDataModule
from helpers.data.samples import fingerprint, write_table
from helpers.inference import train as training
from helpers.inference.train import train
from helpers.models import recipes
from helpers.paths import InUseError, write_json
from helpers.runs import MissingRunError, Run, find_runs, load_samples, open_run
from helpers.thresholds import Threshold

THRESHOLDS = {"image": Threshold(value=1.5, origin="by hand"), "pixel": Threshold(value=2.5, origin="by hand")}


@pytest.fixture
def folder(finished_folder, tmp_path) -> Path:
    """A copy of a finished run's artifacts folder that a test may change."""
    return Path(shutil.copytree(finished_folder, tmp_path / "artifacts"))


@pytest.fixture
def run(finished_folder) -> Run:
    """The finished run; for reading."""
    return Run.load(finished_folder / "patchcore")


def state(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def test_samples_of_this_dataset(finished_folder, photos, table, tmp_path):
    found = load_samples(finished_folder, photos)
    pd.testing.assert_frame_equal(found, table)
    assert found.attrs == table.attrs
    for missing in (lambda: load_samples(finished_folder / "none", photos), lambda: find_runs(photos, table)):
        with pytest.raises(MissingRunError, match="notebook 0[12]_"):
            missing()
    with pytest.raises(MissingRunError) as caught:  # another dataset of the same name
        load_samples(finished_folder, tmp_path / "stripes")
    for word in (str(photos), str(tmp_path / "stripes"), "01_setup_and_validate", "NAME"):
        assert word in str(caught.value)


def test_same_again_finds_the_finished_run_without_a_look_at_the_package_s_source(folder, settings, table, monkeypatch):
    """A comment changes a file's bytes, and costs nobody a training."""
    before, opened, real = state(folder), [], io.open
    monkeypatch.setattr("io.open", lambda path, *rest, **more: opened.append(str(path)) or real(path, *rest, **more))
    found = open_run(folder, "patchcore", settings, table, seed=0)
    assert found.finished and found.folder == folder / "patchcore" and state(folder) == before
    assert "trained on 5 photos" in found.describe() and "calibrated on 3" in found.describe()
    assert opened and not [path for path in opened if path.endswith(".py")]


@pytest.mark.parametrize("change", [{"num_neighbors": 3}, {"image_size": [64, 65]}, {"more": 1}])
def test_other_parameters_are_another_run(folder, settings, table, change):
    draft = open_run(folder, "patchcore", settings | change, table, seed=0)
    assert not draft.finished and draft.info["parameters"] == settings | change
    assert Run.load(folder / "patchcore").info["parameters"] == settings, "the finished one stays for now"


def test_another_seed_or_split_is_another_run_and_is_not_compared(folder, settings, table):
    assert not open_run(folder, "patchcore", settings, table, seed=1).finished
    moved = table.copy()
    moved.loc[moved.index[moved["split"] == "val"][0], "split"] = "train"
    assert not open_run(folder, "patchcore", settings, moved, seed=0).finished
    with pytest.raises(MissingRunError, match="patchcore: .*delete that run's folder"):
        find_runs(folder, moved)


@pytest.mark.parametrize("part", ["train/good", "ground_truth/square"])
def test_changed_photo_or_mask_is_another_run(tmp_path, finished_folder, settings, photos, part):
    """Photos elsewhere and of another time with the same content are the same; one that was drawn anew is not."""
    copied = Path(shutil.copytree(photos, tmp_path / "stripes", copy_function=shutil.copyfile))
    folder = Path(shutil.copytree(finished_folder, tmp_path / "artifacts"))
    assert open_run(folder, "patchcore", settings, split_table(copied), seed=0).finished
    photo = next((copied / part).iterdir())
    Image.fromarray(np.zeros((72, 96, 3), np.uint8)).save(photo)
    assert not open_run(folder, "patchcore", settings, split_table(copied), seed=0).finished


def test_another_recipe_or_library_is_another_run(folder, settings, table, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "unet", 2)
    assert open_run(folder, "patchcore", settings, table, seed=0).finished, "another model's"
    with monkeypatch.context() as patch:
        patch.setitem(recipes.RECIPES, "patchcore", 2)
        draft = open_run(folder, "patchcore", settings, table, seed=0)
        assert (draft.finished, draft.info["recipe"]) == (False, 2)
    version = metadata.version
    for package, same in (("torch", False), ("pandas", True)):
        with monkeypatch.context() as patch:
            patch.setattr(metadata, "version", lambda name, package=package: "9" if name == package else version(name))
            assert open_run(folder, "patchcore", settings, table, seed=0).finished is same


def test_draft_is_left_alone_until_it_is_finished(tmp_path, settings, table, fit_run, monkeypatch):
    """Others ask for the same run and try to train it, while one trains and before thresholds are set."""
    write_table(table, tmp_path / "data" / "samples.csv")
    folder, refused = tmp_path / "artifacts", []
    script = f"""
from helpers.data.samples import read_table
from helpers.runs import Path, open_run
table = read_table(Path({str(tmp_path / "data" / "samples.csv")!r}))
open_run(Path({str(folder)!r}), "patchcore", {settings!r}, table, seed=1)
"""
    draft = open_run(folder, "patchcore", settings, table, seed=0)

    def meanwhile(*arguments, real=training.write_table):
        for disturb in (
            lambda: open_run(folder, "patchcore", settings, table, seed=1),
            lambda: train(draft, None, None),
        ):
            with pytest.raises(InUseError, match=rf"patchcore is in use by process {os.getpid()}"):
                disturb()
            refused.append(1)
        return real(*arguments)

    def finish(thresholds, real=draft.finish):
        asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
        assert asked.returncode == 1 and f"patchcore is in use by process {os.getpid()}" in asked.stderr
        refused.append(1)
        return real(thresholds)

    monkeypatch.setattr(training, "write_table", meanwhile)
    draft.finish = finish
    assert fit_run(draft).finished and len(refused) == 3
    assert (folder / "patchcore" / "model.ckpt").is_file()
    assert [path.name for path in folder.iterdir()] == ["patchcore"], "no lock, no draft"


def test_interrupted_run_leaves_nothing_that_looks_finished(tmp_path, settings, table, fit_run, monkeypatch):
    """The power fails after the training and before the end."""
    draft = open_run(tmp_path, "patchcore", settings, table, seed=0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "finish", lambda self, thresholds: (_ for _ in ()).throw(KeyboardInterrupt))
        fit_run(draft)
    assert (draft.folder / "model.ckpt").is_file(), "it had got that far"
    assert not list(tmp_path.rglob("run.json")) and not (tmp_path / "patchcore").exists()
    with pytest.raises(MissingRunError, match="02_train_patchcore"):
        find_runs(tmp_path, table)
    again = open_run(tmp_path, "patchcore", settings, table, seed=0)
    assert not again.finished and not list(again.folder.iterdir()), "the draft starts empty"


def test_finish_replaces_the_old_run_at_once(folder, settings, table):
    draft = open_run(folder, "patchcore", settings | {"num_neighbors": 3}, table, seed=0)
    shutil.copytree(folder / "patchcore", draft.folder, dirs_exist_ok=True)
    (draft.folder / "run.json").unlink()
    (folder / "patchcore" / "left_over.txt").write_text("of the old run")
    finished = draft.finish(THRESHOLDS)
    assert finished.folder == folder / "patchcore" and not (finished.folder / "left_over.txt").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["patchcore", "samples.csv", "samples.csv.json"]
    assert [found.info["parameters"]["num_neighbors"] for found in find_runs(folder, table)] == [3]


def test_old_run_stays_when_the_new_one_fails(folder, settings, table, fit_run, monkeypatch):
    draft = open_run(folder, "patchcore", settings | {"num_neighbors": 3}, table, seed=0)
    monkeypatch.setattr("helpers.inference.train.write_table", lambda *args: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        fit_run(draft)
    assert [found.info["parameters"] for found in find_runs(folder, table)] == [settings]


def test_finished_run_is_not_trained_or_finished_again(run, make_model):
    before = state(run.folder)
    with pytest.raises(RuntimeError, match="finished run"):
        train(run, make_model(), None)
    assert run.finish(THRESHOLDS) is run and state(run.folder) == before


def test_several_runs_are_found_by_name(folder, table):
    second = Path(shutil.copytree(folder / "patchcore", folder / "another"))
    write_json(json.loads((second / "run.json").read_text()) | {"model": "another"}, second / "run.json")
    (folder / "records").mkdir()
    assert [found.name for found in find_runs(folder, table)] == ["another", "patchcore"]


@pytest.mark.parametrize("content", ["", "{", '{"model": "patchcore"'])
def test_damaged_run_json(folder, table, settings, content):
    (folder / "patchcore" / "run.json").write_text(content)
    for look in (lambda: find_runs(folder, table), lambda: open_run(folder, "patchcore", settings, table, seed=0)):
        with pytest.raises(ValueError, match=r"run\.json is damaged.*delete the folder and train again"):
            look()


def test_run_json_holds_what_is_needed_to_repeat_it(run, settings, table):
    info = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    assert [info[name] for name in ("model", "parameters", "seed")] == ["patchcore", settings, 0]
    assert info["samples"] == fingerprint(table)
    assert info["files"] == {"model.ckpt": hashlib.sha256((run.folder / "model.ckpt").read_bytes()).hexdigest()}
    assert (run.note, run.title) == ("untrained backbone", "patchcore (untrained backbone)")
    assert info["counts"] == {"train": 5, "val_normal": 3, "val_abnormal": 0, "test_normal": 5, "test_abnormal": 4}
    assert info["timings"]["fit_seconds"] > 0
    assert all(info["versions"][package] for package in ("python", "torch", "anomalib", "timm"))


def test_run_folder_holds_the_documented_files_and_no_more(run):
    files = ["maps_test.npy", "maps_val.npy", "model.ckpt", "predictions.csv", "run.json", "samples.csv"]
    assert sorted(path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*")) == [
        *files,
        "samples.csv.json",
    ]


@pytest.mark.parametrize("split", ["val", "test"])
def test_predictions_have_the_rows_of_the_table(folder, run, table, split):
    predictions = run.predictions(split)
    pd.testing.assert_frame_equal(Run.load(folder / "patchcore").predictions(split), predictions)  # artifacts moved
    expected = table[table["split"] == split].reset_index(drop=True)
    for column in ("image_path", "mask_path", "label_index", "defect_type", "split"):
        assert predictions[column].tolist() == expected[column].tolist()
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in predictions["image_path"])
    assert np.isfinite(predictions[["score", "map_max"]]).all(axis=None)
    stored = pd.read_csv(run.folder / "predictions.csv")
    assert stored["image_path"].str.startswith(("train/", "test/")).all(), "stored relative to the dataset"


def test_defect_type_called_na_stays_text(tmp_path, settings, fit_run):
    folder = draw_photos(tmp_path / "data", n_train=4, n_good=1, n_defect=1)
    (folder / "test" / "square").rename(folder / "test" / "NA")
    (folder / "ground_truth" / "square").rename(folder / "ground_truth" / "NA")
    finished = fit_run(open_run(tmp_path / "artifacts", "patchcore", settings, split_table(folder), seed=0))
    assert sorted(finished.predictions("test")["defect_type"]) == ["NA", "good"]


def test_maps_belong_to_their_rows(run):
    test, maps = run.predictions("test"), run.maps("test")
    assert (maps.dtype, maps.shape) == (np.float16, (9, 48, 56))
    np.testing.assert_allclose(maps.reshape(9, -1).max(1), test["map_max"], rtol=2**-10)
    assert test["map_max"].nunique() == 9, "so that a row out of place would show"


def test_masks_are_those_of_the_rows(run):
    test, masks = run.predictions("test"), list(run.masks("test"))
    assert {(mask.shape, mask.dtype) for mask in masks} == {((48, 56), np.dtype(bool))}
    assert all(mask.any() <= label for mask, label in zip(masks, test["label_index"], strict=True)), "none on good ones"
    assert run.mask_at_map_size("", 1) is None
    # Row 5 is the first defect: a square of 20 x 20 pixels of 72 x 96, resized to 64 x 64 and cropped in the middle.
    with Image.open(test["mask_path"][5]) as image:
        resized = np.array(image.resize((64, 64), Image.Resampling.NEAREST))[8:56, 4:60] > 0
    assert (masks[5] & resized).sum() / (masks[5] | resized).sum() > 0.8


def test_examples_are_pictures_of_those_rows(run):
    test = run.predictions("test")
    rows = test.iloc[[6, 1]]
    examples = run.examples(rows)
    assert {name: len(values) for name, values in examples.items()} == dict.fromkeys(examples, 2)
    assert np.array_equal(examples["maps"][0], run.maps("test")[6].astype(np.float32))
    assert examples["photos"][0].shape == (48, 56, 3)
    assert examples["titles"][0].startswith("square: ")
    assert Path(test["image_path"][1]).name in examples["titles"][1]


def test_training_again_gives_the_same_scores(tmp_path, run, settings, table, fit_run):
    again = fit_run(open_run(tmp_path, "patchcore", settings, table, seed=0))
    pd.testing.assert_frame_equal(again.predictions("test"), run.predictions("test"), rtol=1e-6)
    assert again.info["fingerprint"] == run.info["fingerprint"]


@pytest.mark.parametrize(
    ("options", "val", "test"), [({"val_fraction": 0}, 0, 9), ({"val_abnormal_fraction": 0.5}, 5, 7)]
)
def test_val_may_be_empty_or_hold_defects(tmp_path, make_model, settings, photos, options, val, test):
    table = split_table(photos, **options)
    draft = open_run(tmp_path, "patchcore", settings, table, seed=0)
    train(draft, make_model(center_crop=(48, 56)), SampleDataModule(table, eval_batch_size=4), device="cpu")
    assert (len(draft.predictions("val")), len(draft.predictions("test"))) == (val, test)
    assert len(draft.maps("test")) == test


def test_table_of_the_run_is_its_own(folder, table, photos):
    """Splitting the dataset anew for another run leaves this run's record as it was."""
    write_table(split_table(photos, val_fraction=0.2), folder / "samples.csv")
    pd.testing.assert_frame_equal(Run.load(folder / "patchcore").table, table)
