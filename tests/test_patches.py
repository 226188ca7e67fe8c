"""Patches: their pixels, labels and groups, by masks known by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import read_dataset
from helpers.data.images import read_image, read_mask
from helpers.data.patches import PatchCounts, main, patch_starts, write_patches
from helpers.data.samples import assign_splits, make_table

HEIGHT, WIDTH, SIZE = 16, 56, 16  # patches at 0, 16, 32 and, to end with the photo, 40


def make(folder: Path, boxes: dict[str, tuple[int, int, int, int] | None], **more: dict[str, str]):
    """A table of photos of noise; a box (top, bottom, left, right) is the mask, None a normal photo."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for name, box in boxes.items():
        Image.fromarray(draw.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(folder / f"{name}.png")
        row = {"image_path": f"{name}.png", "label_index": int(box is not None)}
        if box is not None:
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[box[0] : box[1], box[2] : box[3]] = 255
            Image.fromarray(mask).save(folder / f"{name}_mask.png")
            row |= {"mask_path": f"{name}_mask.png", "defect_type": "dent"}
        rows.append(row | {key: values.get(name, "") for key, values in more.items()})
    return make_table(rows, root=folder, layout="pairs", name="strips", published_split=False, pixel_size=0.1)


@pytest.mark.parametrize(
    ("length", "stride", "expected"),
    [
        (48, 16, [0, 16, 32]),
        (56, 16, [0, 16, 32, 40]),
        (16, 16, [0]),
        (17, 16, [0, 1]),
        (48, 8, [0, 8, 16, 24, 32]),
        (50, 12, [0, 12, 24, 34]),
    ],
)
def test_patches_cover_the_whole_side(length, stride, expected):
    starts = patch_starts(length, 16, stride)
    assert starts == expected
    assert {start + pixel for start in starts for pixel in range(16)} == set(range(length))


def test_patches_have_the_pixels_and_labels_of_their_place(tmp_path):
    table = make(tmp_path / "strips", {"a": (2, 12, 12, 24), "b": None})
    counts = write_patches(table, tmp_path / "out", size=SIZE, min_area=41)
    # columns 12 to 23: 4 x 10 pixels in the patch at 0, 8 x 10 in that at 16, none in those at 32 and 40
    assert counts == PatchCounts(normal=6, abnormal=1, too_small=1)
    patches = read_dataset(tmp_path / "out" / "samples.csv")
    assert len(patches) == 7 and patches.attrs["pixel_size"] == 0.1
    for patch in patches.itertuples():
        window = (slice(patch.top, patch.top + SIZE), slice(patch.left, patch.left + SIZE))
        assert np.array_equal(read_image(patch.image_path), read_image(tmp_path / "strips" / patch.photo)[window])
    abnormal = patches[patches["label_index"] == 1].iloc[0]
    assert (abnormal["photo"], abnormal["left"], abnormal["defect_type"]) == ("a.png", 16, "dent")
    expected = np.zeros((SIZE, SIZE), dtype=bool)
    expected[2:12, :8] = True
    assert np.array_equal(read_mask(abnormal["mask_path"]), expected)
    assert read_dataset(tmp_path / "out").attrs["layout"] == "mvtec"
    assert not list(tmp_path.glob(".*")), "nothing is left beside the new folder"


def test_patches_of_a_photo_never_part(tmp_path):
    boxes = {f"bad{i}": (2, 12, 2, 12) for i in range(10)} | {f"good{i}": None for i in range(20)}
    groups = {"group": {name: f"part{name[-1]}" for name in boxes if name.startswith("good")}}
    write_patches(make(tmp_path / "strips", boxes, **groups), tmp_path / "out", size=SIZE)
    patches = read_dataset(tmp_path / "out" / "samples.csv")
    bad = patches[patches["photo"].str.startswith("bad")]
    assert (bad["group"] == bad["photo"]).all() and set(bad["label_index"]) == {0, 1}
    assert set(patches["group"]) == {*bad["photo"], *(f"part{i}" for i in range(10))}
    for scheme in ("one_class", "supervised"):
        split = assign_splits(patches, scheme)
        assert split.groupby("group")["split"].nunique().max() == 1
        assert set(split["split"]) == {"train", "val", "test"}


def test_a_split_is_kept(tmp_path):
    splits = {"split": {"a": "test", "b": "train"}}
    write_patches(make(tmp_path / "strips", {"a": (0, 16, 0, 56), "b": None}, **splits), tmp_path / "out", size=SIZE)
    patches = read_dataset(tmp_path / "out" / "samples.csv")
    assert patches.groupby("photo")["split"].unique().map(list).to_dict() == {"a.png": ["test"], "b.png": ["train"]}


def test_what_cannot_be_labelled_is_counted(tmp_path):
    types = {"defect_types": {"a": "dent+hole", "c": "dent"}}
    table = make(tmp_path / "strips", {"a": (0, 16, 0, 16), "b": None, "c": (0, 16, 0, 16)}, **types)
    table.loc[2, "mask_path"] = ""
    counts = write_patches(table, tmp_path / "out", size=SIZE)
    # of a, the patch with the defect; the other three show none. c has no mask
    assert counts == PatchCounts(normal=7, several_types=1, without_mask=1)
    patches = read_dataset(tmp_path / "out" / "samples.csv")
    assert set(patches["defect_type"]) == {"good"} and set(patches["photo"]) == {"a.png", "b.png"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 17}, r"a.png is 56x16 pixels \(width x height\), smaller than size 17"),
        ({"size": 0}, "size is 0"),
        ({"stride": 17}, "stride is 17, more than size 16"),
        ({"stride": 0}, "stride is 0"),
        ({"min_area": 0}, "min_area is 0"),
        ({"min_area": 10_000}, "No patch can be written"),
    ],
)
def test_wrong_parameters_leave_nothing(tmp_path, options, words):
    table = make(tmp_path / "strips", {"a": (0, 16, 0, 56)})
    with pytest.raises(ValueError, match=words):
        write_patches(table, tmp_path / "out", **{"size": SIZE, **options})
    assert [path.name for path in tmp_path.iterdir()] == ["strips"]


def test_folders_that_are_not_written_to(tmp_path):
    table = make(tmp_path / "strips", {"a": None})
    for folder in ("strips", "strips/out", "."):
        with pytest.raises(ValueError, match="lies in the dataset"):
            write_patches(table, tmp_path / folder, size=SIZE, force=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(FileExistsError, match="not empty"):
        write_patches(table, tmp_path / "out", size=SIZE)
    write_patches(table, tmp_path / "out", size=SIZE, force=True)
    assert not (tmp_path / "out" / "mine.txt").exists() and (tmp_path / "out" / "samples.csv").is_file()


def test_the_command_cuts_strips_of_severstal(tmp_path, capsys):
    root = tmp_path / "severstal"
    (root / "train_images").mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(np.full((256, 1600), 90, np.uint8)).save(root / "train_images" / f"{name}.jpg")
    runs = " ".join(f"{column * 256 + 101} 20" for column in range(500, 520))  # 12 columns in one patch, 8 in the next
    (root / "train.csv").write_text(f"ImageId,ClassId,EncodedPixels\na.jpg,3,{runs}\n")
    arguments = [str(root), str(tmp_path / "out"), "--min-area", "240", "--option", f"mask_cache={tmp_path / 'cache'}"]
    assert main(arguments) == 0
    # seven patches a photo; 240 pixels in the one that begins at 256, 160 in the one at 512
    assert "12 normal and 1 abnormal patches" in capsys.readouterr().out
    patches = read_dataset(tmp_path / "out" / "samples.csv")
    abnormal = patches[patches["label_index"] == 1].iloc[0]
    assert abnormal["left"] == 256 and abnormal["defect_type"] == abnormal["defect_types"] == "class_3"
    mask = read_mask(abnormal["mask_path"], (256, 256))
    assert mask.sum() == 240 and mask[100:120, 244:256].all()
    assert main(arguments) == 1
    assert "not empty" in capsys.readouterr().err
