"""Severstal's run lengths: rectangles in both published tables, and broken rows."""

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


@pytest.fixture
def put(tmp_path):
    """Root of a dataset with this table and these photos."""
    return lambda table, folder="train_images", names=NAMES: write(
        tmp_path / "set", {f"{folder}/{name}": PHOTO for name in names} | {"train.csv": table + "\n"}
    )


@pytest.mark.parametrize("content", [joint_table(), defects_table()])
def test_rectangles_come_back_from_both_tables(put, content):
    table = read(put(content))
    assert table.attrs["layout"] == "severstal" and table.attrs["published_split"] is False
    # 600 pixels of class 3, 6 of 1
    kinds = ("class_3", "class_4", "good")
    assert types(table) == {f"train_images/{name}": kind for name, kind in zip(NAMES, kinds, strict=True)}
    assert table["defect_types"].tolist() == ["class_1+class_3", "class_4", ""]
    for path, sides in zip(table["mask_path"][:2], ((CORNER, MIDDLE), (END,)), strict=True):
        expected = np.zeros((HEIGHT, WIDTH), bool)
        for top, left, height, width in sides:
            expected[top : top + height, left : left + width] = True
        assert np.array_equal(read_mask(path), expected)
    # where only defects are listed, that the third photo is normal is an assumption, and said
    assert codes(table) == ([] if "ImageId_" in content else [("info", "photos-not-annotated")])


def test_names_in_other_writing_runs_that_overlap_and_photos_in_no_row(put):
    rows = f"D:\\kaggle\\train_images\\A.JPG,1.0,3 4 1 5 20 2\ntrain_images/b.jpg,4,{runs_of(*END)}"
    table = read(put(f"ImageId,ClassId,EncodedPixels\n{rows}"))
    assert list(types(table).values()) == ["class_1", "class_4", "good"]
    assert np.flatnonzero(read_mask(table["mask_path"][0]).ravel(order="F")).tolist() == [0, 1, 2, 3, 4, 5, 19, 20]
    table = read(put(joint_table(), names=(*NAMES, "d.jpg")))
    assert len(table) == 3 and codes(table) == [("warning", "photos-not-annotated")]


def test_names_that_are_not_clear_leave_no_photo_normal(put):
    put("", "1")
    root = put(defects_table(), "2", ("a.jpg",))
    table = read(root, image_dir=".")
    assert list(types(table)) == ["1/b.jpg", "1/c.jpg"] and codes(table)[:1] == [("error", "ambiguous-name")]
    write(root, {"train.csv": "ImageId,ClassId,EncodedPixels\nx.jpg,1,1 2\n"})
    for folder in ("1", "3"):
        with pytest.raises(LayoutError, match="image_dir"):
            read(root, image_dir=folder)


@pytest.mark.parametrize("row", ["2,5 1 9", "2,409600 2", "2,7 x", ",1 2"])
def test_a_broken_row_makes_no_photo_normal(put, row):
    code = "invalid-rle" if row[0] == "2" else "unknown-category"
    table = read(put(defects_table(f"b.jpg,{row}", f"c.jpg,{row}")))
    assert list(types(table).values()) == ["class_3", "class_4"], "c is not known to be normal"
    lost, left_out = table.attrs["findings"][-2:]
    assert (lost["code"], lost["path"], left_out["code"]) == (code, "train_images/c.jpg", "photo-left-out")
    assert "row 6 of train.csv" in lost["problem"]


def test_missing_photos_and_photos_of_another_size(put):
    table = read(write(put(joint_table(), names=("c.jpg",)), {"train_images/a.jpg": PHOTO[:128]}))
    assert list(types(table)) == ["train_images/c.jpg"]
    assert codes(table) == [("error", "annotation-size"), ("error", "missing-photo")]


@pytest.mark.parametrize("text", ["photo,EncodedPixels\na,1 2\n", "photo,Pixels\n", "EncodedPixels\n1,2,3\n4\n5,6,7\n"])
def test_tables_without_the_columns(put, text):
    with pytest.raises(LayoutError, match=r"train\.csv"):
        read(put(text), layout="severstal")
