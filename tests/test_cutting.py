"""From raw photos to cut-outs: splits of frames, a network found again, each object with its type."""

import ast
import builtins
import dataclasses
import json
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from helpers import pipeline, read_dataset
from helpers.data.coco import read_instances
from helpers.data.images import read_image
from helpers.inference.cutting import cut_out, load_foreground, split_photos
from helpers.inference.train import train_or_load_foreground
from helpers.models import foreground
from helpers.models.backbones import resolve_backbone
from helpers.paths import InUseError, hold
from helpers.pictures.datasets import draw_dataset
from helpers.runs import MissingRunError


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> list:
    """Eight frames of four to nine nuts, 256 x 256."""
    out = tmp_path_factory.mktemp("data")
    folder = draw_dataset("nuts", out, image_size=128, n_train=1, n_test_normal=1, n_test_per_defect=1, n_frames=8)
    return read_instances(folder / "frames")


def test_every_photo_is_in_one_part_and_the_seed_decides(frames):
    parts = split_photos(frames, seed=0)
    names = [photo.image_path.name for part in parts.values() for photo in part]
    assert sorted(names) == sorted(photo.image_path.name for photo in frames)
    assert {name: len(part) for name, part in parts.items()} == {"train": 5, "val": 1, "test": 2}
    assert parts == split_photos(frames, seed=0) != split_photos(frames, seed=1)
    assert split_photos([]) == {"train": [], "val": [], "test": []}


def test_network_is_found_again_until_something_changes(frames, tmp_path, monkeypatch):
    parts = split_photos(frames)
    budget = {"image_size": 64, "crop_size": 64, "crops_per_photo": 1, "epochs": 1, "device": "cpu"}
    backbone = resolve_backbone("builtin:")
    first = train_or_load_foreground(parts, backbone, tmp_path, **budget)
    file = tmp_path / "foreground.ckpt"
    made = file.stat().st_mtime_ns
    photo = np.zeros((64, 64, 3), np.uint8)
    again = train_or_load_foreground(parts, backbone, tmp_path, **budget)
    assert file.stat().st_mtime_ns == made
    np.testing.assert_array_equal(foreground.predict_distance(again, photo), foreground.predict_distance(first, photo))
    assert json.loads((tmp_path / "foreground.json").read_text())["note"] == "built-in backbone"
    changed = {**budget, "epochs": 2}
    with hold(tmp_path.with_name(f".{tmp_path.name}.lock"), "it"), pytest.raises(InUseError):
        train_or_load_foreground(parts, backbone, tmp_path, **changed)
    train_or_load_foreground(parts, backbone, tmp_path, **changed)
    assert file.stat().st_mtime_ns > made
    (tmp_path / "foreground.json").unlink()
    with pytest.raises(MissingRunError, match="03_train_unet_deeplabv3plus"):
        load_foreground(tmp_path)


@pytest.fixture
def perfect(frames, monkeypatch) -> None:
    """A network that gives the true distance map of the frame it is shown."""
    maps = {
        read_image(photo.image_path).tobytes(): foreground.distance_target(photo.instance_masks()) for photo in frames
    }
    monkeypatch.setattr(foreground, "predict_distance", lambda network, photo: maps[photo.tobytes()])


def test_each_nut_is_cut_out_once_with_its_own_type_and_without_types_is_good(frames, tmp_path, perfect):
    table = read_dataset(cut_out(None, frames, tmp_path / "cutouts", size=64))
    true = pd.Series([kind for photo in frames for kind in photo.defect_types]).value_counts().to_dict()
    assert table["defect_type"].value_counts().to_dict() == true
    assert len(true) > 1, "the frames hold good and defective nuts"
    assert table.loc[table["split"] == "train", "label_index"].eq(0).all()
    # once more: the folder is replaced, not doubled
    nameless = [dataclasses.replace(photo, defect_types=[]) for photo in frames]
    again = read_dataset(cut_out(None, nameless, tmp_path / "cutouts", size=64))
    assert len(again) == len(table) and set(again["defect_type"]) == {"good"}
    assert {Path(path).parent.name for path in again["image_path"]} == {"good"}


def test_the_part_of_notebook_03_stands_alone():
    """Every name that its cells read is made in one of them, before; and it trains no segmenter."""
    file = Path(pipeline.NOTEBOOKS_FOLDER) / f"{pipeline.FOREGROUND.file}.ipynb"
    cells = [
        cell
        for cell in nbformat.read(file, as_version=4).cells
        if cell.cell_type == "code" and pipeline.FOREGROUND.without not in cell.metadata.get("tags", [])
    ]
    known = set(dir(builtins))
    for cell in cells:
        nodes = list(ast.walk(ast.parse(cell.source)))
        known |= {name.id for name in nodes if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
        imports = [one for one in nodes if isinstance(one, ast.Import | ast.ImportFrom)]
        known |= {each.asname or each.name.split(".")[0] for one in imports for each in one.names}
        read = {name.id for name in nodes if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load)}
        assert read <= known, cell.source
    text = "\n".join(cell.source for cell in cells)
    assert "train_or_load_foreground(" in text and "train_segmenter(" not in text
