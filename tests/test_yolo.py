"""YOLO labels: where they lie, what is drawn, and that no lost label makes a photo normal."""

from __future__ import annotations

import numpy as np
import pytest
from readers import boxes, columns, photos, read, types, write
from readers import codes as all_codes

from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError

POLYGON = "0 0.2 0.25 0.5 0.25 0.5 0.5 0.2 0.5"  # x 6 to 15, y 5 to 10
BOX = "1 0.5 0.5 0.2 0.3"  # x 12 to 18, y 7 to 13
NAMES = {"data.yaml": "names: [dent, crack]\n"}


@pytest.fixture
def put(tmp_path):
    """``put(files, **options)``: the table of the folder ``set`` with these files more."""
    return lambda files=(), **options: read(write(tmp_path / "set", dict(files)), **options)


def labelled(**labels: str) -> dict:
    return {f"images/{name}.png": None for name in labels} | {f"labels/{name}.txt": t for name, t in labels.items()}


def codes(table) -> list[tuple[str, str]]:
    return [each for each in all_codes(table) if each[1] != "unused-pictures"]


@pytest.mark.parametrize(
    ("photo", "label"),
    [
        ("images/{}/{}.jpg", "labels/{}/{}.txt"),
        ("{}/images/{}.jpg", "{}/labels/{}.txt"),
        ("{}/{}.jpg", "{}/{}.txt"),
        ("images/{}/{}.jpg", "labels/{}/{}.jpg.txt"),
    ],
)
def test_polygons_in_each_place(put, photo, label):
    files, expected = dict(NAMES), {}
    for split, word in (("train", "train"), ("valid", "val")):
        files |= {label.format(split, "a"): f"{POLYGON}\n\n{POLYGON}\n", label.format(split, "b"): ""}
        files |= photos(*(photo.format(split, name) for name in "abc"))
        expected |= {photo.format(split, name): (kind, word) for name, kind in zip("abc", KINDS, strict=True)}
    table = put(files)
    assert table.attrs["layout"] == "yolo" and table.attrs["published_split"] is True
    assert columns(table, "defect_type", "split") == expected
    assert np.array_equal(read_mask(table["mask_path"][0]), boxes((5, 10, 6, 15)))
    assert codes(table) == [("info", "photos-not-annotated")]


KINDS = ("dent", "good", "good")


def test_boxes_are_masks_on_request_only(put):
    names = {"data.yaml": "names:\n  0: dent\n  '1': crack\nkpt_shape: [2, 2]\n"}
    table = put(labelled(a=BOX, b=f"{BOX} 0.1 0.1 0.2 0.2") | names)
    assert list(types(table).values()) == ["crack", "crack"] and table["mask_path"].tolist() == ["", ""]
    assert codes(table) == [("warning", "boxes-only")]
    table = put(boxes_as_masks=True)
    assert np.array_equal(read_mask(table["mask_path"][0]), boxes((7, 13, 12, 18)))
    assert codes(table) == [("warning", "boxes-as-masks")]
    table = put(labelled(c=f"{POLYGON}\n{BOX}") | NAMES)
    assert columns(table, "defect_type", "mask_path")["images/c.png"] == ("crack+dent", "")
    with pytest.raises(ValueError, match="boxes_as_masks"):
        put(boxes_as_masks="yes")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("0 0.1 0.1 0.2 0.2 0.3", "invalid-polygon"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.1 0.5", "invalid-polygon"),
        ("0 0.5 0.5 nan 0.2", "invalid-polygon"),
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
def test_a_photo_with_a_line_that_cannot_be_used_is_left_out(put, line, code):
    table = put(labelled(a=f"{POLYGON}\n{line}\n", b=POLYGON) | NAMES)
    assert types(table) == {"images/b.png": "dent"} and codes(table) == [("error", code)]


def test_what_reaches_beyond_the_photo_is_cut_off(put):
    table = put(labelled(a="0 0.9 0.5 0.4 0.2", b=""))
    assert codes(table) == [("warning", "boxes-only"), ("warning", "clipped")]
    assert list(types(table).values()) == ["class_0", "good"]


def test_labels_without_a_photo_and_photos_that_were_not_labelled(put):
    files = {"labels/train/a.txt": POLYGON, "labels/train/b.txt": POLYGON, **NAMES}
    table = put(files | photos("images/train/a.png", "images/val/b.png", "images/train/c.png", "test/d.png"))
    # the label of train is not that of the photo in val, which may have been moved; test has no label at all
    assert types(table) == {"images/train/a.png": "dent", "images/train/c.png": "good"}
    assert ("error", "missing-photo") in codes(table) and ("warning", "photos-not-annotated") in codes(table)


def test_labels_that_may_be_of_two_photos_or_cannot_be_read_leave_them_out(put):
    table = put(labelled(a=POLYGON, b=POLYGON) | {"images/a.jpg": None, **labelled(c=""), "labels/c.txt": b"\xff\xff"})
    assert list(types(table)) == ["images/b.png"]
    assert codes(table) == [("error", "ambiguous-name"), ("error", "invalid-annotation")]


ALIASES = "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))
MERGES = "".join(f"a{i + 1}: &a{i + 1} {{'<<': [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(9))


@pytest.mark.parametrize(
    "about",
    [
        "names: [dent\n",
        "names: [[dent]]\n",
        "a0: &a0 [x]\n" + ALIASES + "names: *a9\n",
        "a0: &a0 {x: 1}\n" + MERGES + "names: [dent]\n",
        "names: !!python/object/apply:os.getcwd []",
    ],
)
def test_names_of_classes_that_cannot_be_read(put, about):
    with pytest.raises(LayoutError, match=r"data\.yaml"):
        put(labelled(a=POLYGON) | {"data.yaml": about})


def test_names_of_classes(put):
    assert types(put(labelled(a=POLYGON) | {"data.yaml": "names: [ok]\n"})) == {"images/a.png": "good"}
    with pytest.raises(LayoutError, match=r"other\.yaml"):
        put({"other.yaml": "names: [dent]\n"})


def test_labels_without_any_photo_of_theirs_are_refused(put):
    with pytest.raises(LayoutError, match="set"):
        put(labelled(a=POLYGON) | {"images/a.jpg": None})


def test_splits_of_the_yaml_file(put):
    about = {"data.yaml": "names: [dent]\ntrain: ./first\nval: [../second]\n"}
    files = photos("first/a.png", "second/b.png") | {"first/a.txt": POLYGON, "second/b.txt": ""}
    assert columns(put(files | about), "split") == {"first/a.png": "train", "second/b.png": "val"}


def test_lists_of_splits_and_names_beside_the_photos(put):
    """As CVAT writes YOLO 1.1."""
    files = {f"obj_train_data/{name}.txt": BOX if name == "a" else "" for name in "abc"}
    lists = {
        "train.txt": "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n",
        "test.txt": "obj_train_data/c.png\n",
    }
    table = put(files | lists | {"obj.names": "dent\ncrack\n"} | photos(*(f"obj_train_data/{n}.png" for n in "abc")))
    assert list(columns(table, "defect_type", "split").values()) == [
        ("crack", "train"),
        ("good", "train"),
        ("good", "test"),
    ]
