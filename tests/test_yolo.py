"""YOLO labels: where they lie, what is drawn, and that no lost label makes a photo normal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import read_dataset
from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError
from helpers.data.samples import relative_path

HEIGHT, WIDTH = 20, 30
POLYGON = "0 0.2 0.25 0.5 0.25 0.5 0.5 0.2 0.5"  # x 6 to 15, y 5 to 10
BOX = "1 0.5 0.5 0.2 0.3"  # x 12 to 18, y 7 to 13


def put(root: Path, photo: str, label: str | None = None, text: str = "") -> None:
    file = root / photo
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH), 90, np.uint8)).save(file)
    if label is not None:
        (root / label).parent.mkdir(parents=True, exist_ok=True)
        (root / label).write_text(text)


def name_classes(root: Path, text: str = "names: [dent, crack]\n") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(text)


@pytest.fixture
def read(tmp_path):
    """``read(**options)`` of the folder ``set`` with a cache of its own."""
    return lambda **options: read_dataset(tmp_path / "set", mask_cache=tmp_path / "cache", **options)


def labels(table) -> dict[str, tuple[str, str]]:
    return dict(
        zip(relative_path(table), table[["defect_type", "split"]].itertuples(index=False, name=None), strict=True)
    )


def codes(table) -> list[tuple[str, str]]:
    return [(row["severity"], row["code"]) for row in table.attrs["findings"] if row["code"] != "unused-pictures"]


@pytest.mark.parametrize(
    ("photo", "label"),
    [
        ("images/{}/{}.jpg", "labels/{}/{}.txt"),
        ("{}/images/{}.jpg", "{}/labels/{}.txt"),
        ("{}/{}.jpg", "{}/{}.txt"),
        ("images/{}/{}.jpg", "labels/{}/{}.jpg.txt"),
    ],
)
def test_polygons_in_each_place(tmp_path, read, photo, label):
    root = tmp_path / "set"
    for split in ("train", "valid"):
        put(root, photo.format(split, "a"), label.format(split, "a"), f"{POLYGON}\n\n{POLYGON}\n")
        put(root, photo.format(split, "b"), label.format(split, "b"))
        put(root, photo.format(split, "c"))
    name_classes(root)
    table = read()
    assert table.attrs["layout"] == "yolo" and table.attrs["published_split"] is True
    expected = {
        photo.format(split, name): kind
        for split in ("train", "valid")
        for name, kind in zip("abc", ("dent", "good", "good"), strict=True)
    }
    assert {name: kind for name, (kind, _) in labels(table).items()} == expected
    assert set(table["split"]) == {"train", "val"}
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:10, 6:15] = True
    assert np.array_equal(read_mask(table["mask_path"][0]), mask)
    assert codes(table) == [("info", "photos-not-annotated")]


def test_boxes_are_masks_on_request_only(tmp_path, read):
    put(tmp_path / "set", "images/a.png", "labels/a.txt", BOX)
    put(tmp_path / "set", "images/b.png", "labels/b.txt", f"{POLYGON}\n{BOX}")
    name_classes(tmp_path / "set", "names:\n  0: dent\n  '1': crack\n")
    table = read()
    assert table["defect_type"].tolist() == ["crack", "crack+dent"] and table["mask_path"].tolist() == ["", ""]
    assert codes(table) == [("warning", "boxes-only")]
    table = read(boxes_as_masks=True)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[7:13, 12:18] = True
    assert np.array_equal(read_mask(table["mask_path"][0]), mask)
    assert codes(table) == [("warning", "boxes-as-masks")]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("0 0.1 0.1 0.2 0.2 0.3", "invalid-polygon"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.1 0.5", "invalid-polygon"),
        ("0 0.5 0.5 nan 0.2", "invalid-polygon"),
        ("0 0.5 0.5 inf 0.2", "invalid-polygon"),
        ("0 0.5 1e300 0.2 0.2", "invalid-polygon"),
        ("0 15 10 4 4", "invalid-polygon"),
        ("0 0.5 0.5 0 0.2", "no-area"),
        ("0 0.5 0.5 -0.2 0.2", "no-area"),
        ("0 1.5 1.5 0.2 0.2", "outside"),
        ("0 x 0.5 0.2 0.2", "invalid-polygon"),
        ("7 0.5 0.5 0.2 0.2", "unknown-category"),
        ("-1 0.5 0.5 0.2 0.2", "unknown-category"),
        ("dent 0.5 0.5 0.2 0.2", "unknown-category"),
        ("0", "invalid-polygon"),
    ],
)
def test_a_photo_with_a_line_that_cannot_be_used_is_left_out(tmp_path, read, line, code):
    put(tmp_path / "set", "images/a.png", "labels/a.txt", f"{POLYGON}\n{line}\n")
    put(tmp_path / "set", "images/b.png", "labels/b.txt", f"{POLYGON}\n")
    name_classes(tmp_path / "set")
    table = read()
    assert labels(table) == {"images/b.png": ("dent", "")} and codes(table) == [("error", code)]


def test_what_reaches_beyond_the_photo_is_cut_off(tmp_path, read):
    put(tmp_path / "set", "images/a.png", "labels/a.txt", "0 0.9 0.5 0.4 0.2")
    put(tmp_path / "set", "images/b.png", "labels/b.txt", "")
    table = read()
    assert codes(table) == [("warning", "clipped"), ("warning", "boxes-only")]
    assert table["defect_type"].tolist() == ["class_0", "good"]


def test_labels_without_a_photo_and_photos_that_are_no_photos(tmp_path, read):
    root = tmp_path / "set"
    put(root, "images/train/a.png", "labels/train/a.txt", POLYGON)
    put(root, "images/val/b.png", "labels/train/b.txt", POLYGON)
    put(root, "masks/a.png")
    name_classes(root)
    table = read()
    # the label of train is not that of the photo in val, which may have been moved
    assert labels(table) == {"images/train/a.png": ("dent", "")}
    assert ("error", "missing-photo") in codes(table)


def test_a_folder_without_any_label_was_not_labelled(tmp_path, read):
    root = tmp_path / "set"
    put(root, "images/train/a.png", "labels/train/a.txt", POLYGON)
    for name in ("train/b", "test/c"):
        put(root, f"images/{name}.png")
    table = read()
    assert table.attrs["layout"] == "yolo"
    assert set(labels(table)) == {"images/train/a.png", "images/train/b.png"}


def test_labels_that_may_be_of_two_photos_leave_both_out(tmp_path, read):
    root = tmp_path / "set"
    put(root, "images/a.png", "labels/a.txt", POLYGON)
    put(root, "images/a.jpg")
    put(root, "images/b.jpg", "labels/b.txt", POLYGON)
    table = read()
    assert set(labels(table)) == {"images/b.jpg"} and codes(table) == [("error", "ambiguous-name")]
    (root / "labels/b.txt").unlink()
    with pytest.raises(LayoutError):
        read()


BOMB = (
    "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9)) + "names: *a9\n"
)

MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i + 1}: &a{i + 1} {{'<<': [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(9)
)


@pytest.mark.parametrize(
    "about",
    ["names: [dent\n", "names: [ok]\n", BOMB, f"{MERGES}names: [dent]\n", "names: !!python/object/apply:os.getcwd []"],
)
def test_names_of_classes(tmp_path, read, about):
    put(tmp_path / "set", "images/a.png", "labels/a.txt", POLYGON)
    name_classes(tmp_path / "set", about)
    if "ok" in about:
        assert labels(read()) == {"images/a.png": ("good", "")}
    else:
        with pytest.raises(LayoutError, match="data.yaml"):
            read()


def test_lists_of_splits_and_names_beside_the_photos(tmp_path, read):
    """As CVAT writes YOLO 1.1."""
    root = tmp_path / "set"
    for name in "abc":
        put(root, f"obj_train_data/{name}.png", f"obj_train_data/{name}.txt", BOX if name == "a" else "")
    (root / "obj.names").write_text("dent\ncrack\n")
    (root / "train.txt").write_text("data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    (root / "test.txt").write_text("data/obj_train_data/c.png\n")
    table = read()
    assert [kind for kind, _ in labels(table).values()] == ["crack", "good", "good"]
    assert table["split"].tolist() == ["train", "train", "test"]
