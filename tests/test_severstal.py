"""Severstal's run lengths: hand-made rectangles in both published tables, and broken rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from readers import codes, read, types, write

from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError

HEIGHT, WIDTH = 256, 1600
PHOTO = np.full((HEIGHT, WIDTH), 90, np.uint8)
CORNER, MIDDLE = (0, 0, 3, 2), (100, 700, 20, 30)  # top, left, height, width
END = (250, 1590, 6, 10)  # touches the last pixel, 256 * 1600
NAMES = ("a.jpg", "b.jpg", "c.jpg")


def runs_of(top: int, left: int, height: int, width: int) -> str:
    """One run a column, as Kaggle describes it: pixel 1 is (1, 1), pixel 2 is (2, 1)."""
    return " ".join(f"{column * HEIGHT + top + 1} {height}" for column in range(left, left + width))


DEFECTS = {("a.jpg", 1): runs_of(*CORNER), ("a.jpg", 3): runs_of(*MIDDLE), ("b.jpg", 4): runs_of(*END)}


def joint_table(**changed: str) -> str:
    """The first variant: four rows a photo."""
    runs = {f"{name}_{kind}": DEFECTS.get((name, kind), "") for name in NAMES for kind in range(1, 5)} | changed
    return "\n".join(["ImageId_ClassId,EncodedPixels", *(f"{name},{text}" for name, text in runs.items())])


def defects_table(*rows: str) -> str:
    """The second variant: defects only."""
    lines = [f"{name},{kind},{runs}" for (name, kind), runs in DEFECTS.items()]
    return "\n".join(["ImageId,ClassId,EncodedPixels", *lines, *rows])


def dataset(root: Path, table: str, folder: str = "train_images", names=NAMES) -> Path:
    return write(root, {f"{folder}/{name}": PHOTO for name in names} | {"train.csv": table + "\n"})


@pytest.mark.parametrize("content", [joint_table(), defects_table()])
def test_rectangles_come_back_from_both_tables(tmp_path, content):
    table = read(dataset(tmp_path / "set", content))
    assert table.attrs["layout"] == "severstal" and table.attrs["published_split"] is False
    # 600 pixels of class 3, 6 of 1
    kinds = ("class_3", "class_4", "good")
    assert types(table) == {f"train_images/{name}": kind for name, kind in zip(NAMES, kinds, strict=True)}
    assert table["defect_types"].tolist() == ["class_1+class_3", "class_4", ""]
    for path, sides in zip(table["mask_path"], ((CORNER, MIDDLE), (END,)), strict=False):
        expected = np.zeros((HEIGHT, WIDTH), bool)
        for top, left, height, width in sides:
            expected[top : top + height, left : left + width] = True
        assert np.array_equal(read_mask(path), expected)
    # where only defects are listed, that the third photo is normal is an assumption, and said
    assert table["mask_path"][2] == ""
    assert codes(table) == ([] if "ImageId_" in content else [("info", "photos-not-annotated")])


def test_names_and_classes_in_other_writing_are_met(tmp_path):
    rows = [f"D:\\kaggle\\train_images\\A.JPG,1.0,{runs_of(*CORNER)}", f"train_images/b.jpg,4,{runs_of(*END)}"]
    table = read(dataset(tmp_path / "set", "\n".join(["ImageId,ClassId,EncodedPixels", *rows])))
    assert list(types(table).values()) == ["class_1", "class_4", "good"]
    assert codes(table) == [("info", "photos-not-annotated")]


def test_names_that_are_not_clear_leave_no_photo_normal(tmp_path):
    dataset(tmp_path / "set", "", "1")
    root = dataset(tmp_path / "set", defects_table(), "2", ("a.jpg",))
    table = read(root, image_dir=".")
    assert list(types(table)) == ["1/b.jpg", "1/c.jpg"]
    assert codes(table)[:1] == [("error", "ambiguous-name")]
    write(root, {"train.csv": "ImageId,ClassId,EncodedPixels\nx.jpg,1,1 2\n"})
    with pytest.raises(LayoutError, match="image_dir"):
        read(root, image_dir="1")


def test_a_photo_in_no_row(tmp_path):
    names = (*NAMES, "d.jpg")
    table = read(dataset(tmp_path / "set", joint_table(), names=names))
    assert len(table) == 3 and codes(table) == [("warning", "photos-not-annotated")]
    table = read(dataset(tmp_path / "set", defects_table(), names=names))
    assert table["label_index"].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("c.jpg,2,5 1 9", "invalid-rle"),
        ("c.jpg,2,409600 2", "invalid-rle"),
        ("c.jpg,2,409601 1", "invalid-rle"),
        ("c.jpg,2,0 4", "invalid-rle"),
        ("c.jpg,2,7 0", "invalid-rle"),
        ("c.jpg,2,7 x", "invalid-rle"),
        ("c.jpg,2,1.5 2", "invalid-rle"),
        ("c.jpg,,1 2", "unknown-category"),
    ],
)
def test_a_broken_row_makes_no_photo_normal(tmp_path, row, code):
    table = read(dataset(tmp_path / "set", defects_table(row.replace("c.jpg", "b.jpg"), row)))
    assert list(types(table).values()) == ["class_3", "class_4"], "c is not known to be normal"
    lost, left_out = table.attrs["findings"][-2:]
    assert (lost["code"], lost["path"], left_out["code"]) == (code, "train_images/c.jpg", "photo-left-out")
    assert "row 6 of train.csv" in lost["problem"]


def test_missing_photos_and_photos_of_another_size(tmp_path):
    root = dataset(tmp_path / "set", joint_table(), names=("c.jpg",))
    table = read(write(root, {"train_images/a.jpg": PHOTO[:128]}))
    assert list(types(table)) == ["train_images/c.jpg"]
    assert codes(table) == [("error", "annotation-size"), ("error", "missing-photo")]


def test_overlapping_runs_count_once(tmp_path):
    table = read(dataset(tmp_path / "set", joint_table(**{"c.jpg_2": "3 4 1 5 20 2"})))
    mask = read_mask(table["mask_path"][2])
    assert np.flatnonzero(mask.ravel(order="F")).tolist() == [0, 1, 2, 3, 4, 5, 19, 20]
    assert codes(table) == []


def test_photos_in_another_folder_and_tables_without_the_columns(tmp_path):
    root = dataset(tmp_path / "set", joint_table(), "photos")
    with pytest.raises(LayoutError, match="image_dir="):
        read(root)
    assert len(read(root, image_dir="photos")) == 3
    for text in ("photo,EncodedPixels\na.jpg,1 2\n", "photo,Pixels\n", "EncodedPixels\n1,2,3\n4\n5,6,7,8\n"):
        write(root, {"train.csv": text})
        with pytest.raises(LayoutError, match=r"train\.csv"):
            read(root, layout="severstal", image_dir="photos")
