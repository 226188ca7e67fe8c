"""Writing a new dataset from an old one."""

from __future__ import annotations

import json
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.data import preprocess
from helpers.data.checks import check_dataset
from helpers.data.formats import read_dataset
from helpers.data.preprocess import preprocess_dataset
from helpers.data.samples import relative_path

COLUMNS = ["image_path", "mask_path", "label_index", "defect_type", "split", "group"]


@pytest.fixture
def dataset(tmp_path):
    """Two class folders without a split; the photo of the defect is stored turned (EXIF 6), its mask upright."""
    root = tmp_path / "old"
    for folder in ("good", "scratch", "masks"):
        (root / folder).mkdir(parents=True)
    good = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(good).save(root / "good" / "0.png")
    upright = np.arange(100, 100 + 24, dtype=np.uint8).reshape(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright, 1)).save(root / "scratch" / "0.png", exif=exif)
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:4] = 1
    Image.fromarray(mask).save(root / "masks" / "0.png")
    return root, good, upright, mask


def table_of(root, rows, **attrs):
    rows = [[str(root / image), str(root / mask) if mask else "", *rest] for image, mask, *rest in rows]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.attrs = {"root": str(root), "name": "old", "pixel_size": None, "published_split": False, **attrs}
    return table


@pytest.fixture
def table(dataset):
    rows = [
        ["good/0.png", "", 0, "good", "", "good/0.png"],
        ["scratch/0.png", "masks/0.png", 1, "scratch", "", "scratch/0.png"],
    ]
    return table_of(dataset[0], rows)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def snapshot(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_layout_orientation_and_mask(dataset, table, tmp_path):
    root, good, upright, mask = dataset
    before = snapshot(root)
    out = preprocess_dataset(table, tmp_path / "new")
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == [
        "dataset.json",
        "ground_truth/scratch/0_mask.png",
        "samples.csv",
        "samples.csv.json",
        "test/scratch/0.png",
        "train/good/0.png",
    ]
    np.testing.assert_array_equal(read(out / "train/good/0.png"), good)
    np.testing.assert_array_equal(read(out / "test/scratch/0.png"), np.dstack([upright] * 3))
    np.testing.assert_array_equal(read(out / "ground_truth/scratch/0_mask.png"), mask * 255)
    assert json.loads((out / "dataset.json").read_text())["name"] == "new"
    assert snapshot(root) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]
    written = read_dataset(out / "samples.csv")
    assert list(written["source"]) == ["scratch/0.png", "good/0.png"] and written.attrs["root"] == str(out)
    assert list(relative_path(written)) == list(written["group"]) == ["test/scratch/0.png", "train/good/0.png"]
    assert set(written["split"]) == {""} and written.attrs["published_split"] is False


def test_grey_and_keep(dataset, table, tmp_path):
    _, good, upright, _ = dataset
    out = preprocess_dataset(table, tmp_path / "grey", mode="L")
    # ITU-R 601 luma, as Pillow documents it for RGB -> L
    expected = good @ np.array([299, 587, 114]) / 1000
    assert np.abs(read(out / "train/good/0.png") - expected).max() <= 1
    out = preprocess_dataset(table, tmp_path / "kept", mode=None)
    assert read(out / "train/good/0.png").shape == (4, 6, 3)
    np.testing.assert_array_equal(read(out / "test/scratch/0.png"), upright)


@pytest.mark.parametrize("crop", [(1, 2, 2, 3), "center:2x3"])
def test_crop_of_photo_and_mask(dataset, table, tmp_path, crop):
    _, good, upright, mask = dataset
    top, left = (1, 2) if crop != "center:2x3" else (1, 1)
    out = preprocess_dataset(table, tmp_path / "new", crop=crop, mode=None)
    window = np.s_[top : top + 2, left : left + 3]
    np.testing.assert_array_equal(read(out / "train/good/0.png"), good[window])
    np.testing.assert_array_equal(read(out / "test/scratch/0.png"), upright[window])
    np.testing.assert_array_equal(read(out / "ground_truth/scratch/0_mask.png"), mask[window] * 255)


def test_size_keeps_the_mask_binary(dataset, table, tmp_path):
    mask = dataset[3]
    out = preprocess_dataset(table, tmp_path / "double", size=(8, 12))
    assert read(out / "test/scratch/0.png").shape == (8, 12, 3)
    np.testing.assert_array_equal(read(out / "ground_truth/scratch/0_mask.png"), np.kron(mask, np.ones((2, 2))) * 255)
    out = preprocess_dataset(table, tmp_path / "odd", size=(7, 5))
    assert set(np.unique(read(out / "ground_truth/scratch/0_mask.png"))) == {0, 255}
    out = preprocess_dataset(table, tmp_path / "square", size=5)
    assert read(out / "train/good/0.png").shape == (5, 5, 3)
    out = preprocess_dataset(table, tmp_path / "inside", size=12, keep_aspect=True)
    assert read(out / "train/good/0.png").shape == (8, 12, 3)


def test_resize_averages(tmp_path):
    root = tmp_path / "old"
    root.mkdir()
    # Pillow's antialiased triangle over a checkerboard of single pixels is grey in the middle, not one of its pixels
    board = (np.indices((16, 16)).sum(axis=0) % 2 * 200).astype(np.uint8)
    Image.fromarray(board).save(root / "a.png")
    table = table_of(root, [["a.png", "", 0, "good", "", "a"]])
    out = preprocess_dataset(table, tmp_path / "new", size=8, mode="L")
    inner = read(out / "train/good/a.png")[1:-1, 1:-1]
    assert np.abs(inner.astype(int) - 100).max() <= 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.1),
        ({"size": (2, 3)}, 0.2),
        ({"crop": (0, 0, 4, 4), "size": 8}, 0.05),
        ({"crop": "center:2x2"}, 0.1),
        ({"size": 8}, None),  # 4x6 stretched to a square
    ],
)
def test_pixel_size(table, tmp_path, caplog, options, expected):
    table.attrs["pixel_size"] = 0.1
    out = preprocess_dataset(table, tmp_path / "new", **options)
    about = json.loads((out / "dataset.json").read_text())
    if expected is None:
        assert "pixel_size_mm" not in about
        assert "no pixel size" in caplog.text
    else:
        assert about["pixel_size_mm"] == pytest.approx(expected)


def test_published_split_and_name_collisions(tmp_path):
    root = tmp_path / "old"
    grey = np.zeros((4, 4), np.uint8)
    rows = []
    for number, (folder, label, kind, split) in enumerate(
        [
            ("line1", 0, "good", "train"),
            ("line2", 0, "good", "train"),
            ("line3", 0, "good", "test"),
            ("line4", 1, "dent", "test"),
            ("line5", 1, "dent", "val"),
            ("line6", 1, "ok", "test"),
        ]
    ):
        (root / folder).mkdir(parents=True)
        Image.fromarray(grey + number).save(root / folder / "a.png")
        Image.fromarray(grey + 255).save(root / folder / "m.png")
        rows.append([f"{folder}/a.png", f"{folder}/m.png" if label else "", label, kind, split, folder])
    table = table_of(root, rows, published_split=True)
    out = preprocess_dataset(table, tmp_path / "new", mode="L")
    expected = {
        "train/good/a.png": 0,
        "train/good/a_2.png": 1,
        "test/good/a_3.png": 2,
        "test/dent/a.png": 3,
        "val/dent/a_2.png": 4,
        "test/defect_ok/a.png": 5,  # a folder "ok" would be read as normal
    }
    assert {name: int(read(out / name)[0, 0]) for name in expected} == expected
    masks = sorted(path.relative_to(out / "ground_truth").as_posix() for path in out.rglob("*_mask.png"))
    assert masks == ["defect_ok/a_mask.png", "dent/a_2_mask.png", "dent/a_mask.png"]

    # once split again, the published split is still what is written
    again = table.assign(published_split=table["split"], split="test")
    assert (preprocess_dataset(again, tmp_path / "again") / "train/good/a.png").is_file()


def test_defects_in_train_keep_their_split_group_and_mask(tmp_path):
    root, rows = tmp_path / "old", []
    for number, split in enumerate(("train", "train", "val", "test")):
        for kind in ("good", "dent"):
            (root / kind).mkdir(parents=True, exist_ok=True)
            name, mask = f"{kind}/{number}.png", f"{kind}/{number}_mask.png" if kind == "dent" else ""
            Image.fromarray(np.full((4, 6), number, np.uint8)).save(root / name)
            if mask:
                Image.fromarray(np.eye(4, 6, dtype=np.uint8)).save(root / mask)
            rows.append([name, mask, int(kind == "dent"), kind, split, f"part {number // 2}"])
    out = preprocess_dataset(table_of(root, rows, published_split=True), tmp_path / "new", size=2)
    for path in (out, out / "samples.csv"):
        table = read_dataset(path)
        assert table.attrs["published_split"] and len(table) == 8
        assert table.groupby(["split", "defect_type"]).size().to_dict() == {
            (split, kind): 2 if split == "train" else 1
            for split in ("train", "val", "test")
            for kind in ("good", "dent")
        }
        assert (table["mask_path"] != "").sum() == 4
    parts = table.set_index("source")["group"].to_dict()
    assert parts["dent/1.png"] == parts["good/0.png"] == "part 0" and parts["dent/3.png"] == "part 1"


def test_never_in_place(dataset, table, tmp_path):
    root = dataset[0]
    before = snapshot(root)
    for out in (root / "new", root / "good" / "new", tmp_path / "missing" / ".." / "old" / "new"):
        with pytest.raises(ValueError, match="folder of its own"):
            preprocess_dataset(table, out)
    for out in (root, tmp_path):
        with pytest.raises(FileExistsError, match="exists"):
            preprocess_dataset(table, out)
    table.attrs["root"] = str(tmp_path / "around" / "old")  # a root below a folder that does not exist yet
    with pytest.raises(ValueError, match="folder of its own"):
        preprocess_dataset(table, tmp_path / "around")
    assert snapshot(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_nothing_is_left_on_failure_and_all_errors_are_listed(dataset, table, tmp_path):
    root = dataset[0]
    (root / "good" / "0.png").write_bytes(b"")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(root / "masks" / "0.png")
    with pytest.raises(ValueError, match="2 photo") as caught:
        preprocess_dataset(table, tmp_path / "new")
    assert "zero bytes" in str(caught.value)
    assert "5x5" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_nothing_is_left_when_interrupted(table, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(preprocess, "_write_about", interrupted)
    with pytest.raises(KeyboardInterrupt):
        preprocess_dataset(table, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "CMYK"}, "mode"),
        ({"size": 0}, "size"),
        ({"size": (4, 4, 4)}, "size"),
        ({"crop": "middle:2x2"}, "crop"),
        ({"crop": (0, 0, 0, 2)}, "crop"),
        ({"crop": (0, 0, 5, 2)}, "does not lie in"),
        ({"image_format": "gif"}, "image_format"),
        ({"keep_aspect": True}, "keep_aspect"),
    ],
)
def test_invalid_parameters(table, tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        preprocess_dataset(table, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_lost_masks_are_said(table, tmp_path, caplog):
    preprocess_dataset(table, tmp_path / "new", crop=(0, 0, 1, 1))
    assert "1 mask(s) became empty" in caplog.text


def test_command_line(dataset, tmp_path, capsys):
    root = dataset[0]
    mvtec = tmp_path / "mvtec"
    for source, target in (
        ("good/0.png", "train/good/0.png"),
        ("scratch/0.png", "test/scratch/0.png"),
        ("masks/0.png", "ground_truth/scratch/0_mask.png"),
    ):
        (mvtec / target).parent.mkdir(parents=True)
        (mvtec / target).write_bytes((root / source).read_bytes())
    arguments = [str(mvtec), str(tmp_path / "new"), "--mode", "L", "--crop", "center:4x4", "--size", "8,8"]
    assert preprocess.main(arguments) == 0
    assert "2 photos written" in capsys.readouterr().out
    assert read(tmp_path / "new/test/scratch/0.png").shape == (8, 8)
    assert read(tmp_path / "new/ground_truth/scratch/0_mask.png").sum() == 16 * 255
    assert preprocess.main(arguments) == 1
    assert "exists" in capsys.readouterr().err


def findings_with_commands(root):
    """A folder with every finding that names a command: defects in train, in a layout that has to be named."""
    grey = np.random.default_rng(0).integers(0, 255, (8, 12), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = {
        "train/good/palette.png": (Image.fromarray(grey).convert("P"), {}),
        "train/good/deep.png": (Image.fromarray(grey.astype(np.uint16) * 16), {}),
        "train/good/cmyk.jpg": (Image.fromarray(grey).convert("CMYK"), {}),
        "train/dent/alpha.png": (Image.fromarray(np.dstack([grey] * 4)), {}),
        "train/dent/turned.png": (Image.fromarray(grey[:6]), {"exif": exif}),
        "test/good/small.png": (Image.fromarray(grey[:4]), {}),
        "test/dent/plain.png": (Image.fromarray(grey.T.copy()), {}),
    }
    for name, (picture, options) in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name, **options)


@pytest.mark.parametrize("layout", ["mvtec", "table"])
def test_the_command_of_every_finding_works_on_the_dataset_that_has_it(tmp_path, layout, capsys):
    root = tmp_path / "old set"
    findings_with_commands(root)
    table = read_dataset(root, layout="plain")
    read = {
        "mvtec": [str(root), "--layout", "plain"],
        "table": [str(tmp_path / "list.csv"), "--option", f"root={root}"],
    }
    listed = table.assign(image_path=relative_path(table)).drop(columns="mask_path")
    listed.to_csv(tmp_path / "list.csv", index=False)
    findings = check_dataset(table, min_train=2, min_val=0)
    named = findings[findings["fix"].str.contains("python -m ")]
    assert set(named["code"]) == {"palette", "16-bit", "cmyk", "alpha", "exif-rotation", "mixed-sizes", "mixed-modes"}
    for command in sorted({fix[fix.index("python -m ") :] for fix in named["fix"]}):
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "helpers.data.preprocess"]
        rest = [word for word in words[3:] if word not in ("DATASET", "OUT")]
        rest = [word.replace("H,W", "6,8") for word in rest]
        assert preprocess.main([*read[layout], str(tmp_path / "new"), *rest]) == 0, capsys.readouterr().err
        again = read_dataset(tmp_path / "new" / "samples.csv")
        assert again["split"].tolist() == table["split"].tolist()
        assert again["defect_type"].tolist() == table["defect_type"].tolist()
        left = set(check_dataset(again, min_train=2, min_val=0)["code"])
        assert not left & {"palette", "16-bit", "cmyk", "alpha", "exif-rotation"}, command
        assert ("mixed-sizes" in left) == ("--size" not in words) and ("mixed-modes" in left) == ("keep" in words)
        shutil.rmtree(tmp_path / "new")
