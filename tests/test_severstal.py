"""Severstal's run lengths: hand-made rectangles in both published tables, and broken rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import check_dataset, read_dataset
from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError
from helpers.data.samples import read_table, relative_path, write_table
from helpers.data.severstal import runs_to_counts

HEIGHT, WIDTH = 256, 1600


def rectangle(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def runs_of(top: int, left: int, height: int, width: int) -> str:
    """One run a column, as Kaggle describes it: pixel 1 is (1, 1), pixel 2 is (2, 1)."""
    return " ".join(f"{column * HEIGHT + top + 1} {height}" for column in range(left, left + width))


CORNER = (0, 0, 3, 2)
MIDDLE = (100, 700, 20, 30)
END = (250, 1590, 6, 10)  # touches the last pixel, 256 * 1600
DEFECTS = {"a.jpg": {1: CORNER, 3: MIDDLE}, "b.jpg": {4: END}}
PHOTOS = ("a.jpg", "b.jpg", "c.jpg")


def write_photos(root: Path, names: tuple[str, ...] = PHOTOS, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    (root / "train_images").mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.full(size, 90, np.uint8)).save(root / "train_images" / name)


def joint_table(root: Path, rows: dict[str, str] | None = None) -> Path:
    """The first variant: four rows a photo; ``rows`` changes or adds some."""
    runs = {f"{name}_{kind}": "" for name in PHOTOS for kind in range(1, 5)}
    runs |= {f"{name}_{kind}": runs_of(*box) for name, kinds in DEFECTS.items() for kind, box in kinds.items()}
    lines = [f"{name},{text}" for name, text in (runs | (rows or {})).items()]
    root.mkdir(parents=True, exist_ok=True)
    (root / "train.csv").write_text("\n".join(["ImageId_ClassId,EncodedPixels", *lines]) + "\n")
    return root


def defects_table(root: Path, rows: tuple[str, ...] = ()) -> Path:
    """The second variant: defects only."""
    lines = [f"{name},{kind},{runs_of(*box)}" for name, kinds in DEFECTS.items() for kind, box in kinds.items()]
    root.mkdir(parents=True, exist_ok=True)
    (root / "train.csv").write_text("\n".join(["ImageId,ClassId,EncodedPixels", *lines, *rows]) + "\n")
    return root


@pytest.fixture
def read(tmp_path):
    """``read(folder, **options)`` with a cache of its own."""
    return lambda folder, **options: read_dataset(folder, mask_cache=tmp_path / "cache", **options)


def codes(table) -> list[tuple[str, str]]:
    return [(row["severity"], row["code"]) for row in table.attrs["findings"]]


@pytest.mark.parametrize("write", [joint_table, defects_table])
def test_rectangles_come_back_from_both_tables(tmp_path, read, write):
    write_photos(tmp_path / "set")
    table = read(write(tmp_path / "set"))
    assert table.attrs["layout"] == "severstal" and table.attrs["published_split"] is False
    assert relative_path(table).tolist() == [f"train_images/{name}" for name in PHOTOS]
    assert table["label_index"].tolist() == [1, 1, 0]
    assert table["defect_type"].tolist() == ["class_3", "class_4", "good"]  # 600 pixels of 3, 6 of 1
    assert table["defect_types"].tolist() == ["class_1+class_3", "class_4", ""]
    expected = [rectangle(*CORNER) | rectangle(*MIDDLE), rectangle(*END)]
    for mask, pixels in zip(table["mask_path"], expected, strict=False):
        assert np.array_equal(read_mask(mask, (HEIGHT, WIDTH)), pixels)
    assert table["mask_path"][2] == ""
    # where only defects are listed, that the third photo is normal is an assumption, and said
    assert codes(table) == ([] if write is joint_table else [("info", "photos-not-annotated")])


def test_names_and_classes_in_other_writing_are_met(tmp_path, read):
    write_photos(tmp_path / "set")
    rows = [f"D:\\kaggle\\train_images\\A.JPG,1.0,{runs_of(*CORNER)}", f"train_images/b.jpg,4,{runs_of(*END)}"]
    (tmp_path / "set" / "train.csv").write_text("\n".join(["ImageId,ClassId,EncodedPixels", *rows]) + "\n")
    table = read(tmp_path / "set")
    assert table["defect_type"].tolist() == ["class_1", "class_4", "good"]
    assert codes(table) == [("info", "photos-not-annotated")]


def test_names_that_are_not_clear_leave_no_photo_normal(tmp_path, read):
    write_photos(tmp_path / "set" / "1")
    write_photos(tmp_path / "set" / "2", ("a.jpg",))
    table = read(defects_table(tmp_path / "set"), image_dir=".")
    assert [Path(path).name for path in table["image_path"]] == ["b.jpg", "c.jpg"]
    assert codes(table)[:2] == [("error", "ambiguous-name"), ("info", "photos-not-annotated")]
    (tmp_path / "set" / "train.csv").write_text("ImageId,ClassId,EncodedPixels\nx.jpg,1,1 2\n")
    with pytest.raises(LayoutError, match="image_dir"):
        read(tmp_path / "set", image_dir="1/train_images")


def test_masks_are_drawn_once(tmp_path, read):
    write_photos(tmp_path / "set")
    joint_table(tmp_path / "set")
    first = read(tmp_path / "set")["mask_path"].tolist()
    times = [Path(mask).stat().st_mtime_ns for mask in first if mask]
    assert read(tmp_path / "set")["mask_path"].tolist() == first
    assert [Path(mask).stat().st_mtime_ns for mask in first if mask] == times


def test_the_table_comes_back_from_a_file(tmp_path, read):
    write_photos(tmp_path / "set")
    table = read(joint_table(tmp_path / "set"))
    back = read_table(write_table(table, tmp_path / "samples.csv"))
    assert back["defect_types"].tolist() == ["class_1+class_3", "class_4", ""]


def test_a_photo_in_no_row(tmp_path, read):
    write_photos(tmp_path / "set", (*PHOTOS, "d.jpg"))
    table = read(joint_table(tmp_path / "set"))
    assert len(table) == 3 and codes(table) == [("warning", "photos-not-annotated")]
    defects = read(defects_table(tmp_path / "set"))
    assert defects["label_index"].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ("b.jpg,2,5 1 9", "invalid-rle", "odd number"),
        ("b.jpg,2,409600 2", "invalid-rle", "beyond the 409600 pixels"),
        ("b.jpg,2,409601 1", "invalid-rle", "beyond"),
        ("b.jpg,2,0 4", "invalid-rle", "below 1"),
        ("b.jpg,2,7 0", "invalid-rle", "below 1"),
        ("b.jpg,2,7 x", "invalid-rle", "no whole numbers"),
        ("b.jpg,2,1.5 2", "invalid-rle", "no whole numbers"),
        ("b.jpg,5,1 2", "unknown-category", "class '5'"),
        ("b.jpg,4,1 2", "class-listed-twice", "repeats class_4"),
    ],
)
def test_a_photo_with_a_broken_row_is_left_out(tmp_path, read, row, code, words):
    write_photos(tmp_path / "set")
    table = read(defects_table(tmp_path / "set", (row,)))
    assert [Path(path).name for path in table["image_path"]] == ["a.jpg", "c.jpg"]
    finding = next(row for row in table.attrs["findings"] if row["severity"] == "error")
    assert finding["code"] == code and words in finding["problem"] and finding["path"] == "train.csv"
    assert "row 5" in finding["problem"] and "b.jpg is left out" in finding["problem"]
    assert code in check_dataset(table)["code"].tolist()


def test_missing_photos_and_photos_of_another_size(tmp_path, read):
    write_photos(tmp_path / "set", ("a.jpg", "c.jpg"))
    write_photos(tmp_path / "set", ("a.jpg",), (128, 800))
    table = read(joint_table(tmp_path / "set"))
    assert [Path(path).name for path in table["image_path"]] == ["c.jpg"]
    assert codes(table) == [("error", "missing-photo"), ("error", "annotation-size")]
    assert "1 photo(s) that are not there (b.jpg)" in table.attrs["findings"][0]["problem"]


def test_overlapping_runs_count_once(tmp_path, read):
    write_photos(tmp_path / "set")
    table = read(joint_table(tmp_path / "set", {"c.jpg_2": "3 4 1 5 20 2"}))  # pixels 1 to 6, of which 3 to 5 twice
    mask = read_mask(table["mask_path"][2])
    assert np.flatnonzero(mask.ravel(order="F")).tolist() == [0, 1, 2, 3, 4, 5, 19, 20]
    assert codes(table) == [("warning", "overlapping-runs")]
    assert "3 pixel(s)" in table.attrs["findings"][0]["problem"]


def test_counts_against_painted_pixels():
    """Random runs, painted one by one on a picture of 4x5 pixels."""
    draw = np.random.default_rng(0)
    for _ in range(200):
        starts = draw.integers(1, 21, size=draw.integers(1, 5))
        lengths = [int(draw.integers(1, 22 - start)) for start in starts]
        painted = np.zeros(20, dtype=int)
        for start, length in zip(starts, lengths, strict=True):
            painted[start - 1 : start - 1 + length] += 1
        text = " ".join(f"{start} {length}" for start, length in zip(starts, lengths, strict=True))
        counts, overlap = runs_to_counts(text, (4, 5))
        assert np.array_equal(np.repeat(np.arange(len(counts)) % 2, counts), painted > 0)
        assert overlap == (painted - 1).clip(0).sum()


def test_photos_in_another_folder(tmp_path, read):
    write_photos(tmp_path / "set")
    (tmp_path / "set" / "train_images").rename(tmp_path / "set" / "photos")
    joint_table(tmp_path / "set")
    with pytest.raises(LayoutError, match=r"train_images .*image_dir="):
        read(tmp_path / "set")
    assert len(read(tmp_path / "set", image_dir="photos")) == 3


def test_a_table_without_the_columns(tmp_path):
    write_photos(tmp_path)
    (tmp_path / "train.csv").write_text("photo,EncodedPixels\na.jpg,1 2\n")
    with pytest.raises(LayoutError, match="neither a column ImageId_ClassId nor ImageId and ClassId"):
        read_dataset(tmp_path)
