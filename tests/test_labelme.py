"""labelme files: what is drawn, whose they are, and that no lost shape makes a photo normal."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from readers import HEIGHT, WIDTH, boxes, codes, columns, photos, read, types, write

from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError

SQUARE = [[2, 3], [7, 3], [7, 6], [2, 6]]
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH] + 0.5


def shape(points, kind="polygon", label: str = "dent", **more) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def content(*shapes, path: str = "", **more) -> dict:
    about = {"version": "5.4.1", "flags": {}, "imagePath": path, "imageData": None}
    return {**about, "shapes": list(shapes), "imageHeight": HEIGHT, "imageWidth": WIDTH, **more}


def labelled(**files: list) -> dict:
    """Photos with the shapes of their file beside them."""
    return {f"{name}.png": None for name in files} | {
        f"{name}.json": content(*shapes) for name, shapes in files.items()
    }


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def near(radius: float, *points: tuple[float, float]) -> np.ndarray:
    """Pixels nearer to a line than the radius, by many points on it."""
    line = np.concatenate([np.linspace(a, b, 2001) for a, b in zip(points[:-1], points[1:], strict=True)])
    return (np.hypot(COLUMNS[..., None] - line[:, 0], ROWS[..., None] - line[:, 1]) < radius).any(axis=-1)


@pytest.mark.parametrize(
    ("drawn", "options", "expected"),
    [
        (shape(SQUARE), {}, boxes((3, 6, 2, 7))),
        (shape([[7, 6], [2, 3]], "rectangle"), {}, boxes((3, 6, 2, 7))),
        (shape([[10, 10], [10, 14]], "circle"), {}, (COLUMNS - 10) ** 2 + (ROWS - 10) ** 2 < 16),
        (shape([[5, 10], [12, 10]], "line"), {"line_width": 4.2}, near(2.1, (5, 10), (12, 10))),
        (shape([[3, 3], [3, 9], [9, 9]], "linestrip"), {"line_width": 2.2}, near(1.1, (3, 3), (3, 9), (9, 9))),
        (
            shape([[4, 5], [7, 7]], "mask", mask=png(np.array([[1, 0, 1], [1, 1, 0]], bool))),
            {},
            boxes((5, 6, 4, 5), (5, 6, 6, 7), (6, 7, 4, 6)),
        ),
    ],
)
def test_shapes(tmp_path, drawn, options, expected):
    table = read(write(tmp_path / "set", labelled(a=[drawn])), **options)
    assert table.attrs["layout"] == "labelme" and codes(table) == []
    assert np.array_equal(read_mask(table["mask_path"][0]), expected)


@pytest.mark.parametrize("kind", ["rotation", "robndbox", "oriented_rectangle", "rectangle"])
def test_shapes_of_four_corners(tmp_path, kind):
    shapes = {"a": [shape([[10, 5], [15, 10], [10, 15], [5, 10]], kind)], "b": [shape([[10, 5], [15, 10]], "rotation")]}
    table = read(write(tmp_path / "set", labelled(**shapes)))
    mask, distance = read_mask(table["mask_path"][0]), np.abs(COLUMNS - 10) + np.abs(ROWS - 10)
    assert mask[distance < 4.5].all() and not mask[distance > 5.5].any()
    assert list(types(table)) == ["a.png"] and ("error", "photo-left-out") in codes(table)


@pytest.mark.parametrize(
    "drawn",
    [
        shape([[-3, 15], [5, 15], [5, 23], [-3, 23]]),
        shape([[-3, 15], [5, 23]], "rectangle"),
        shape([[-3, 15], [5, 23]], "mask", mask=png(np.ones((8, 8), bool))),
    ],
)
def test_shapes_partly_outside_are_clipped(tmp_path, drawn):
    table = read(write(tmp_path / "set", labelled(a=[drawn], b=[shape([[0, 10], [9, 10]], "circle")])))
    assert codes(table) == [("warning", "clipped")] * 2
    assert np.array_equal(read_mask(table["mask_path"][0]), boxes((15, 20, 0, 5)))


@pytest.mark.parametrize(
    ("spoiled", "code"),
    [
        (shape([[40, 5], [50, 5], [50, 9]]), "outside"),
        (shape([[40, 5], [45, 5]], "circle"), "outside"),
        (shape([[40, 5], [45, 5]], "mask", mask=png(np.ones((2, 2), bool))), "outside"),
        (shape([[4, 5], [6, 7]], "mask", mask=png(np.zeros((2, 2), bool))), "no-area"),
        (shape([[4, 5], [6, 7]], "mask", mask=png(np.ones((2, 2, 3), np.uint8))), "invalid-polygon"),
        (shape([[2, 2], [3, 3]]), "too-few-points"),
        (shape([[2, 2]], "rectangle"), "too-few-points"),
        (shape([[2, 2], [3, 3], [4, 4]]), "no-area"),
        (shape([[2, 2], [2, 2]], "circle"), "no-area"),
        (shape("nowhere"), "invalid-polygon"),
        (shape([[2, 2], [None, 3]], "line"), "too-few-points"),
        (shape([[0, 0], [1, 1]], "mask", mask="????"), "invalid-polygon"),
        (shape(SQUARE, "cuboid"), "unknown-shape"),
        (shape(SQUARE, ["polygon"]), "unknown-shape"),
        (shape(SQUARE, label=""), "unknown-category"),
        ("no shape", "invalid-polygon"),
        (shape([[3, 3]], "point"), "point"),  # it says that there is something, and not where
    ],
)
def test_a_lost_shape_does_not_make_a_photo_normal(tmp_path, spoiled, code):
    files = labelled(a=[shape(SQUARE, label="ok"), spoiled], b=[shape(SQUARE), spoiled])
    table = read(write(tmp_path / "set", files))
    lost = ("warning" if code == "point" else "error", code)
    assert codes(table) == sorted([lost, lost, ("error", "photo-left-out")])
    assert types(table) == {"b.png": "dent"}
    assert np.array_equal(read_mask(table["mask_path"][0]), boxes((3, 6, 2, 7)))


def test_labels_flags_splits_and_photos_without_a_file(tmp_path):
    root = write(tmp_path / "set/train", labelled(a=[], c=[]) | photos("b.png")).parent
    write(root / "train", {"c.json": content(flags={"crack": True, "dent": False})})
    crack = shape([[10, 10], [12, 12]], "rectangle", "crack")
    write(root / "test", labelled(a=[shape(SQUARE), crack], b=[shape(SQUARE, label="ok")]))
    table = read(root)
    assert columns(table, "defect_type", "split") == {
        "test/a.png": ("crack+dent", "test"),
        "test/b.png": ("good", "test"),
        "train/a.png": ("good", "train"),
        "train/b.png": ("good", "train"),
        "train/c.png": ("crack", "train"),
    }
    assert [bool(path) for path in table["mask_path"]] == [True, False, False, False, False]
    assert codes(table) == [("info", "photos-not-annotated")]


def test_files_that_cannot_be_read_or_have_no_photo(tmp_path):
    files = labelled(a=[shape(SQUARE)], b=[], c=[], d=[])
    files |= {"b.json": content(imageHeight=40), "c.json": '{"shapes": [', "d.json": '{"shapes": 3}'}
    table = read(write(tmp_path / "set", files | {"e.json": content(shape(SQUARE))}))
    assert list(types(table)) == ["a.png"]
    assert sorted((row["path"], row["severity"], row["code"]) for row in table.attrs["findings"]) == [
        ("b.png", "error", "annotation-size"),
        ("c.json", "error", "invalid-annotation"),
        ("d.json", "error", "invalid-annotation"),
        ("e.json", "error", "missing-photo"),
    ]


def test_a_file_of_two_photos_of_one_stem(tmp_path):
    files = {"a.jpg": None, "b.png": None, "a.png": None}
    root = write(tmp_path / "set", {**files, "a.json": content(shape(SQUARE), path="a.png"), "b.json": content()})
    table = read(root)
    # a.jpg may be a copy of the photo with the dent
    assert types(table) == {"a.png": "dent", "b.png": "good"} and codes(table) == [("warning", "photo-left-out")]
    write(root, {"a.json": content(shape(SQUARE), path="old.png")})
    table = read(root)
    assert types(table) == {"b.png": "good"} and ("error", "ambiguous-name") in codes(table)


@pytest.mark.parametrize(
    ("photo", "file", "written"),
    [
        ("images/a.png", "json/a.json", "..\\images\\a.png"),
        ("images/a.png", "json/x.json", "../images/a.png"),
        ("images/a.png", "json/a.json", "a.bmp"),
        ("images/a.png", "json/a.json", "D:\\line 3\\raw\\a.png"),
        ("images/cam1/a.png", "json/cam1/a.json", "a.png"),
        ("images/Gro\u0308\u00dfe.png", "json/Gr\u00f6\u00dfe.json", "Gr\u00f6\u00dfe.png"),
        ("images/a.PNG", "images/A.json", "old name.png"),
        ("cam3/photos/c.png", "cam3/labels/c.json", "c.png"),
    ],
)
def test_files_in_a_folder_of_their_own(tmp_path, photo, file, written):
    others = {**photos("images/cam2/b.png", "images/good.png"), "json/o.json": content(path="../images/cam2/b.png")}
    root = write(tmp_path / "set", {photo: None, file: content(shape(SQUARE), path=written), **others})
    table = read(root, layout="labelme")
    assert {name for name, kind in types(table).items() if kind == "dent"} == {photo}
    assert not [code for severity, code in codes(table) if severity == "error"]


def test_a_file_without_its_photo_is_not_that_of_another_camera(tmp_path):
    write(tmp_path / "set/cam1", {"1.json": content(shape(SQUARE)), **labelled(**{"2": []})})
    write(tmp_path / "set/cam2", photos("1.png", "2.png") | labelled(**{"3": []}))
    table = read(tmp_path / "set")
    # its photo may have been moved, so 1.png is not known to be normal either
    assert types(table) == dict.fromkeys(("cam1/2.png", "cam2/2.png", "cam2/3.png"), "good")
    assert [code for severity, code in codes(table) if severity == "error"] == ["missing-photo"]


def test_a_photo_with_two_files_is_left_out(tmp_path):
    files = labelled(a=[], b=[shape(SQUARE)]) | {"old/a.json": content(shape(SQUARE), path="..\\a.png")}
    table = read(write(tmp_path / "set", files))
    assert types(table) == {"b.png": "dent"} and codes(table) == [("error", "photo-listed-twice")]


def test_other_encodings(tmp_path):
    text = json.dumps(content(shape(SQUARE, label="\u5212\u75d5")), ensure_ascii=False)
    root = write(tmp_path / "set", labelled(b=[]) | {"a.png": None, "a.json": text.encode("gb18030")})
    table = read(root)
    (finding,) = table.attrs["findings"]
    assert finding["code"] == "invalid-annotation" and "gb18030" in finding["fix"] and "iconv" in finding["fix"]
    assert types(table) == {"b.png": "good"}
    assert types(read(root, encoding="gb18030"))["a.png"] == "\u5212\u75d5"
    assert types(read(write(root, {"a.json": text.encode("utf-16")})))["a.png"] == "\u5212\u75d5"


def test_pictures_that_are_no_photos_do_not_become_normal(tmp_path):
    write(tmp_path / "set/photos", labelled(a=[shape(SQUARE)]))
    root = write(tmp_path / "set", photos("a_json/img.png", "a_json/label.png", "viz/a.png", "good/b.png"))
    table = read(root, layout="labelme")
    assert types(table) == {"good/b.png": "good", "photos/a.png": "dent"}
    assert codes(table) == [("info", "photos-not-annotated")] + [("warning", "photos-not-annotated")] * 2


def test_errors(tmp_path):
    with pytest.raises(LayoutError, match="has no labelme file"):
        read(write(tmp_path / "set", {"a.png": None}), layout="labelme")
    root = write(tmp_path / "set", labelled(a=[shape([[1, 1]], "point")]))
    with pytest.raises(LayoutError, match=r"a\.png"):
        read(root)
    for option, value in (("line_width", 0), ("encoding", "klingon")):
        with pytest.raises(ValueError, match=f"(?i){option}"):
            read(root, **{option: value})
