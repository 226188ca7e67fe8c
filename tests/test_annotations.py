"""labelme files, and folders of images and masks with metadata."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import check_dataset, read_dataset
from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError
from helpers.data.samples import relative_path

HEIGHT, WIDTH = 20, 30


def save_photo(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(list(path.name.encode()))
    Image.fromarray(draw.integers(0, 255, size, dtype=np.uint8)).save(path)


def save_mask(path: Path, *boxes: tuple[int, int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(box_mask(*boxes).astype(np.uint8) * 255).save(path)


def box_mask(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Mask of boxes (top, bottom, left, right)."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def codes(table) -> list[tuple[str, str]]:
    return [(row["severity"], row["code"]) for row in table.attrs["findings"]]


def labels(table) -> dict[str, tuple]:
    values = table[["defect_type", "split"]].itertuples(index=False, name=None)
    return dict(zip(relative_path(table), values, strict=True))


# -------------------------------------------------------------------------------------------------------------- labelme


def shape(points, kind: str = "polygon", label: str = "dent", **more) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def save_labelme(photo: Path, shapes: list, **more) -> None:
    save_photo(photo)
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": photo.name, "imageData": None}
    content |= {"imageHeight": HEIGHT, "imageWidth": WIDTH, **more}
    photo.with_suffix(".json").write_text(json.dumps(content))


SQUARE = [[2, 3], [7, 3], [7, 6], [2, 6]]


@pytest.fixture
def read(tmp_path):
    """``read(folder, **options)`` with a cache of its own."""
    return lambda folder, **options: read_dataset(folder, mask_cache=tmp_path / "cache", **options)


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH] + 0.5


@pytest.mark.parametrize(
    ("drawn", "options", "expected"),
    [
        (shape(SQUARE), {}, box_mask((3, 6, 2, 7))),
        (shape([[7, 6], [2, 3]], "rectangle"), {}, box_mask((3, 6, 2, 7))),
        (shape([[10, 10], [10, 14]], "circle"), {}, (COLUMNS - 10) ** 2 + (ROWS - 10) ** 2 < 16),
        # 4 wide around y = 10, with round ends: column 4 (centre 4.5) is half a pixel before the start
        (shape([[5, 10], [12, 10]], "line"), {"line_width": 4}, None),
        (shape([[3, 3], [3, 9], [9, 9]], "linestrip"), {"line_width": 2}, None),
        (shape([[4, 5], [7, 7]], "mask", mask=png(np.array([[1, 0, 1], [1, 1, 0]], bool))), {}, None),
    ],
    ids=["polygon", "rectangle", "circle", "line", "linestrip", "mask"],
)
def test_labelme_shapes(tmp_path, read, drawn, options, expected):
    save_labelme(tmp_path / "set" / "a.png", [drawn])
    table = read(tmp_path / "set", **options)
    assert table.attrs["layout"] == "labelme" and codes(table) == []
    mask = read_mask(table["mask_path"][0])
    if drawn["shape_type"] == "line":
        expected = box_mask((8, 12, 5, 12))
        assert mask[expected].all()
        assert not mask[:8].any() and not mask[12:].any() and not mask[:, :3].any() and not mask[:, 14:].any()
        assert mask[9:11, 3:14].all() and not mask[8, 3], "round ends"
        return
    if drawn["shape_type"] == "linestrip":
        expected = box_mask((2, 9, 2, 4), (8, 10, 3, 10))
        difference = mask ^ expected
        # the three round ends and corners
        assert set(map(tuple, np.argwhere(difference).tolist())) <= {(2, 2), (2, 3), (9, 2), (9, 3), (8, 9), (9, 9)}
        return
    if drawn["shape_type"] == "mask":
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[5, 4] = expected[5, 6] = expected[6, 4] = expected[6, 5] = True
    assert np.array_equal(mask, expected)


def test_labelme_labels_splits_and_photos_without_a_file(tmp_path, read):
    save_labelme(tmp_path / "set/train/a.png", [])
    save_photo(tmp_path / "set/train/b.png")
    save_labelme(tmp_path / "set/test/a.png", [shape(SQUARE), shape([[10, 10], [12, 12]], "rectangle", "crack")])
    save_labelme(tmp_path / "set/test/b.png", [shape(SQUARE, label="ok")])
    table = read(tmp_path / "set")
    assert labels(table) == {
        "test/a.png": ("crack+dent", "test"),
        "test/b.png": ("good", "test"),
        "train/a.png": ("good", "train"),
        "train/b.png": ("good", "train"),
    }
    assert np.array_equal(read_mask(table["mask_path"][0]), box_mask((3, 6, 2, 7), (10, 12, 10, 12)))
    assert table["mask_path"].tolist()[1:] == ["", "", ""]
    assert codes(table) == [("info", "photos-not-annotated")]
    assert "1 photo(s)" in table.attrs["findings"][0]["problem"]
    assert table.attrs["ignored"] == []
    assert "outside-root" not in check_dataset(table)["code"].tolist()


def test_labelme_points_are_ignored_with_a_finding(tmp_path, read):
    save_labelme(tmp_path / "set/a.png", [shape([[3, 3]], "point"), shape(SQUARE)])
    save_labelme(tmp_path / "set/b.png", [shape([[3, 3]], "point")])
    table = read(tmp_path / "set")
    # a point says that there is something, and not where: b.png is neither normal nor of use
    assert codes(table) == [("warning", "point"), ("warning", "point"), ("error", "photo-left-out")]
    assert relative_path(table).tolist() == ["a.png"]
    assert np.array_equal(read_mask(table["mask_path"][0]), box_mask((3, 6, 2, 7)))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (shape([[40, 5], [50, 5], [50, 9]]), "outside"),
        (shape([[40, 5], [45, 5]], "circle"), "outside"),
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
    ],
)
def test_labelme_broken_shapes(tmp_path, read, spoil, expected):
    save_labelme(tmp_path / "set/a.png", [spoil])
    save_labelme(tmp_path / "set/b.png", [shape(SQUARE)])
    table = read(tmp_path / "set")
    assert codes(table) == [("error", expected), ("error", "photo-left-out")]
    assert relative_path(table).tolist() == ["b.png"]


@pytest.mark.parametrize(
    "drawn",
    [
        shape([[-3, 15], [5, 15], [5, 23], [-3, 23]]),
        shape([[-3, 15], [5, 23]], "rectangle"),
        shape([[-3, 15], [5, 23]], "mask", mask=png(np.ones((8, 8), bool))),
    ],
)
def test_labelme_shapes_partly_outside_are_clipped(tmp_path, read, drawn):
    save_labelme(tmp_path / "set/a.png", [drawn])
    table = read(tmp_path / "set")
    assert codes(table) == [("warning", "clipped")]
    assert np.array_equal(read_mask(table["mask_path"][0]), box_mask((15, 20, 0, 5)))


def test_labelme_broken_files(tmp_path, read):
    root = tmp_path / "set"
    save_labelme(root / "a.png", [shape(SQUARE)])
    save_labelme(root / "b.png", [shape(SQUARE)], imageHeight=40)
    save_labelme(root / "c.png", [])
    (root / "c.json").write_text('{"shapes": [')
    save_labelme(root / "d.png", [])
    (root / "d.json").write_text('{"shapes": 3}')
    save_labelme(root / "e.png", [shape(SQUARE)])
    (root / "e.png").unlink()
    table = read(root)
    assert relative_path(table).tolist() == ["a.png"]
    assert sorted((row["path"], row["severity"], row["code"]) for row in table.attrs["findings"]) == [
        ("b.png", "error", "annotation-size"),
        ("c.json", "error", "invalid-annotation"),
        ("d.json", "error", "invalid-annotation"),
        ("e.json", "error", "missing-photo"),
    ]


def test_labelme_file_of_two_photos_with_one_stem(tmp_path, read):
    save_photo(tmp_path / "set/a.jpg")
    save_labelme(tmp_path / "set/a.png", [shape(SQUARE)])
    table = read(tmp_path / "set")
    # a.jpg may be a copy of the photo with the dent
    assert labels(table) == {"a.png": ("dent", "")} and codes(table) == [("warning", "photo-left-out")]
    content = json.loads((tmp_path / "set/a.json").read_text())
    save_photo(tmp_path / "set/b.png")
    (tmp_path / "set/a.json").write_text(json.dumps(content | {"imagePath": "old.png"}))
    table = read(tmp_path / "set")
    assert labels(table) == {"b.png": ("good", "")} and ("error", "ambiguous-name") in codes(table)


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
def test_labelme_files_in_a_folder_of_their_own(tmp_path, read, photo, file, written):
    root = tmp_path / "set"
    for each in (photo, "images/cam2/b.png", "images/good.png"):
        save_labelme(root / each, [])
        (root / each).with_suffix(".json").unlink()
    content = {"shapes": [shape(SQUARE)], "imagePath": written, "imageHeight": HEIGHT, "imageWidth": WIDTH}
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))
    (root / "json").mkdir(exist_ok=True)
    other = content | {"shapes": [], "imagePath": "../images/cam2/b.png"}
    (root / "json" / "other.json").write_text(json.dumps(other))
    table = read(root, layout="labelme")
    assert {name for name, (kind, _) in labels(table).items() if kind == "dent"} == {photo}
    assert not [code for severity, code in codes(table) if severity == "error"]


def test_labelme_file_without_its_photo_is_not_that_of_another_camera(tmp_path, read):
    save_labelme(tmp_path / "set/cam1/1.png", [shape(SQUARE)])
    save_labelme(tmp_path / "set/cam1/2.png", [])
    (tmp_path / "set/cam1/1.png").unlink()
    for name in ("1.png", "2.png"):
        save_photo(tmp_path / "set/cam2" / name)
    save_labelme(tmp_path / "set/cam2/3.png", [])
    table = read(tmp_path / "set")
    # its photo may have been moved, so 1.png is not known to be normal either
    assert labels(table) == {name: ("good", "") for name in ("cam1/2.png", "cam2/2.png", "cam2/3.png")}
    assert [code for severity, code in codes(table) if severity == "error"] == ["missing-photo"]


def test_labelme_photo_with_two_files_is_left_out(tmp_path, read):
    save_labelme(tmp_path / "set/a.png", [])
    save_labelme(tmp_path / "set/b.png", [shape(SQUARE)])
    (tmp_path / "set/old").mkdir()
    (tmp_path / "set/old/a.json").write_text(json.dumps({"shapes": [shape(SQUARE)], "imagePath": "..\\a.png"}))
    table = read(tmp_path / "set")
    assert labels(table) == {"b.png": ("dent", "")} and codes(table) == [("error", "photo-listed-twice")]


def test_labelme_in_another_encoding(tmp_path, read):
    save_labelme(tmp_path / "set/a.png", [shape(SQUARE, label="\u5212\u75d5")])
    file = tmp_path / "set/a.json"
    file.write_bytes(json.dumps(json.loads(file.read_text()), ensure_ascii=False).encode("gb18030"))
    save_labelme(tmp_path / "set/b.png", [])
    table = read(tmp_path / "set")
    (finding,) = table.attrs["findings"]
    assert (
        finding["code"] == "invalid-annotation" and "encoding='gb18030'" in finding["fix"] and "iconv" in finding["fix"]
    )
    assert labels(table) == {"b.png": ("good", "")}
    assert labels(read(tmp_path / "set", encoding="gb18030"))["a.png"] == ("\u5212\u75d5", "")
    file.write_bytes(b"\xff\xfe" + file.read_bytes().decode("gb18030").encode("utf-16-le"))
    assert labels(read(tmp_path / "set"))["a.png"] == ("\u5212\u75d5", "")


@pytest.mark.parametrize("kind", ["rotation", "robndbox", "oriented_rectangle", "rectangle"])
def test_labelme_shapes_of_four_corners(tmp_path, read, kind):
    save_labelme(tmp_path / "set/a.png", [shape([[10, 5], [15, 10], [10, 15], [5, 10]], kind)])
    mask = read_mask(read(tmp_path / "set")["mask_path"][0])
    distance = np.abs(COLUMNS - 10) + np.abs(ROWS - 10)
    assert mask[distance < 4.5].all() and not mask[distance > 5.5].any()
    save_labelme(tmp_path / "set/b.png", [shape([[10, 5], [15, 10]], "rotation")])
    assert ("error", "photo-left-out") in codes(read(tmp_path / "set"))


def test_labelme_lost_shapes_and_flags_do_not_make_a_photo_normal(tmp_path, read):
    save_labelme(tmp_path / "set/a.png", [shape(SQUARE, label="ok"), shape([[3, 3]], "point", "crack")])
    save_labelme(tmp_path / "set/b.png", [], flags={"crack": True, "dent": False})
    save_labelme(tmp_path / "set/c.png", [], flags={"ok": True})
    table = read(tmp_path / "set")
    assert labels(table) == {"b.png": ("crack", ""), "c.png": ("good", "")} and table["mask_path"].tolist() == ["", ""]
    assert ("error", "photo-left-out") in codes(table)


def test_labelme_pictures_that_are_no_photos_do_not_become_normal(tmp_path, read):
    root = tmp_path / "set"
    save_labelme(root / "photos/a.png", [shape(SQUARE)])
    for name in ("a_json/img.png", "a_json/label.png", "viz/a.png", "good/b.png"):
        save_photo(root / name)
    table = read(root, layout="labelme")
    assert labels(table) == {"good/b.png": ("good", ""), "photos/a.png": ("dent", "")}
    assert sorted(codes(table)) == [("info", "photos-not-annotated")] + [("warning", "photos-not-annotated")] * 2


def test_labelme_takes_a_time_proportional_to_the_number_of_photos(tmp_path, read):
    counts = []
    for number in (20, 200):
        for index in range(number):
            save_labelme(tmp_path / str(number) / f"{index}.png", [])
        calls = 0

        def count(frame, event, argument):
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        try:
            read(tmp_path / str(number))
        finally:
            sys.setprofile(None)
        counts.append(calls)
    assert counts[1] < 20 * counts[0]


def test_labelme_masks_are_drawn_again_when_the_file_changes(tmp_path, read):
    save_labelme(tmp_path / "set/a.png", [shape(SQUARE)])
    first = Path(read(tmp_path / "set")["mask_path"][0])
    drawn = first.stat().st_mtime_ns
    assert Path(read(tmp_path / "set")["mask_path"][0]) == first and first.stat().st_mtime_ns == drawn
    save_labelme(tmp_path / "set/a.png", [shape([[0, 0], [4, 4]], "rectangle")])
    assert np.array_equal(read_mask(read(tmp_path / "set")["mask_path"][0]), box_mask((0, 4, 0, 4)))


def test_labelme_errors(tmp_path):
    save_photo(tmp_path / "a.png")
    with pytest.raises(LayoutError, match="has no labelme file"):
        read_dataset(tmp_path, layout="labelme")
    save_labelme(tmp_path / "a.png", [shape([[1, 1]], "point")])
    with pytest.raises(LayoutError, match="no photo that can be used"):
        read_dataset(tmp_path)
    with pytest.raises(ValueError, match="line_width is 0"):
        read_dataset(tmp_path, line_width=0)


# ---------------------------------------------------------------------------------------------------- images and masks


def test_images_and_masks(tmp_path):
    for name in ("a", "b", "c", "d"):
        save_photo(tmp_path / f"images/{name}.jpg")
    save_mask(tmp_path / "masks/a.png", (3, 6, 2, 7))
    save_mask(tmp_path / "masks/b.png")  # empty
    save_mask(tmp_path / "masks/d_mask.png", (0, 1, 0, 1))
    save_mask(tmp_path / "masks/z.png", (0, 1, 0, 1))
    table = read_dataset(tmp_path)
    assert table.attrs["layout"] == "image_mask"
    assert table["label_index"].tolist() == [1, 0, 0, 1]
    assert table["defect_type"].tolist() == ["defect", "good", "good", "defect"]
    assert [Path(path).name for path in table["mask_path"]] == ["a.png", "", "", "d_mask.png"]
    assert table.attrs["unused_masks"] == ["masks/z.png"]
    assert codes(table) == [("info", "photos-without-mask")] and "c.jpg" in table.attrs["findings"][0]["problem"]
    assert table.attrs["published_split"] is False


@pytest.mark.parametrize("order", ["{split}/{kind}", "{kind}/{split}"])
def test_images_and_masks_in_splits(tmp_path, order):
    for split in ("train", "test"):
        for name in ("a", "b"):
            save_photo(tmp_path / order.format(split=split, kind="images") / f"{name}.png")
        save_mask(tmp_path / order.format(split=split, kind="masks") / "b.png", (1, 2, 1, 2))
        save_mask(tmp_path / order.format(split=split, kind="masks") / "a.png")
    table = read_dataset(tmp_path)
    assert sorted(table[["split", "label_index"]].itertuples(index=False, name=None)) == [
        ("test", 0),
        ("test", 1),
        ("train", 0),
        ("train", 1),
    ]
    assert table.attrs["published_split"] is True and codes(table) == []
    folders = {(Path(row.image_path).parts, Path(row.mask_path).parts) for row in table.itertuples() if row.mask_path}
    assert all(("train" in image) == ("train" in mask) for image, mask in folders)


@pytest.mark.parametrize("form", ["records", "mapping", "stems"])
def test_metadata(tmp_path, form):
    about = {
        "a.png": {"split": "train", "label": "good", "group": "roll 1"},
        "b.png": {"split": "test", "defect_type": "hole", "group": 2},
        "c.png": {"split": "Validation", "label": 0, "group": None},
        "d.png": {"split": "test", "label": 1, "defect_type": "thread"},
        "e.png": {"split": "test", "label": "stain"},
    }
    for name in about:
        save_photo(tmp_path / "images" / name)
    for name in ("b", "d"):
        save_mask(tmp_path / f"masks/{name}.png", (1, 2, 1, 2))
    content = {Path(name).stem if form == "stems" else name: fields for name, fields in about.items()}
    if form == "records":
        content = [{"file_name": f"images/{name}", **fields} for name, fields in about.items()]
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    table = read_dataset(tmp_path)
    assert labels(table) == {
        "images/a.png": ("good", "train"),
        "images/b.png": ("hole", "test"),
        "images/c.png": ("good", "val"),
        "images/d.png": ("thread", "test"),
        "images/e.png": ("stain", "test"),  # by its label, though it has no mask
    }
    assert table["group"].tolist() == ["roll 1", "2", "images/c.png", "images/d.png", "images/e.png"]
    assert [bool(path) for path in table["mask_path"]] == [False, True, False, True, False]
    assert table.attrs["published_split"] is True and codes(table) == []


def test_metadata_and_photos_that_do_not_agree(tmp_path):
    for name in ("a", "b", "c"):
        save_photo(tmp_path / f"images/{name}.png")
        save_mask(tmp_path / f"masks/{name}.png", (1, 2, 1, 2))
    content = [{"image": "a.png", "label": "normal"}, {"image": "b.png", "label": "hole"}, {"image": "gone.png"}]
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    table = read_dataset(tmp_path)
    assert sorted(codes(table)) == [
        ("error", "mask-on-good"),
        ("error", "missing-photo"),
        ("warning", "photos-not-in-metadata"),
    ]
    assert labels(table) == {"images/b.png": ("hole", ""), "images/c.png": ("defect", "")}


def test_folders_and_metadata_that_are_named(tmp_path):
    save_photo(tmp_path / "frames/raw/a.png")
    save_photo(tmp_path / "frames/raw/b.png")
    save_mask(tmp_path / "frames/truth/a.png", (1, 2, 1, 2))
    (tmp_path / "about.json").write_text('{"a": {"defect_type": "hole"}, "b": {}}')
    options = {"image_dir": "raw", "mask_dir": tmp_path / "frames/truth", "metadata_path": "../about.json"}
    table = read_dataset(tmp_path / "frames", layout="image_mask", **options)
    assert labels(table) == {"raw/a.png": ("hole", ""), "raw/b.png": ("good", "")}
    outside = read_dataset(tmp_path / "frames/raw", layout="image_mask", image_dir=".", mask_dir="../truth")
    assert outside.attrs["root"] == str(tmp_path / "frames"), "a root that holds the masks too"
    for name, value in (("mask_dir", "nothing"), ("image_dir", "nothing"), ("metadata_path", "nothing.json")):
        with pytest.raises(FileNotFoundError, match=f"nothing.*check {name}"):
            read_dataset(tmp_path / "frames", layout="image_mask", **{**options, name: value})
    with pytest.raises(LayoutError, match="image_dir and mask_dir go together"):
        read_dataset(tmp_path / "frames", layout="image_mask", image_dir="raw")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "is not valid JSON"),
        ("3", "neither a list of records nor an object"),
        ('[{"label": 1}]', "record 0 has no file_name"),
        ('{"a.png": {"label": 7}}', "has the label 7"),
        ('{"a.png": {"split": "practice"}}', "has the split 'practice'"),
        ('[{"file": "a.png"}, {"file": "A.png"}]', "has two records of A.png"),
    ],
)
def test_metadata_that_cannot_be_read(tmp_path, text, words):
    save_photo(tmp_path / "images/a.png")
    save_mask(tmp_path / "masks/a.png")
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_dataset(tmp_path)
    assert "metadata.json" in str(caught.value)


def test_a_mask_that_cannot_be_read_is_found_by_the_check(tmp_path):
    for name in ("a", "b", "c"):
        save_photo(tmp_path / f"images/{name}.png")
    save_mask(tmp_path / "masks/a.png", (1, 2, 1, 2))
    (tmp_path / "masks/b.png").write_bytes(b"no picture")
    table = read_dataset(tmp_path)
    assert table["label_index"].tolist() == [1, 1, 0]
    checked = check_dataset(table)
    assert checked[checked["code"] == "not-an-image"]["path"].tolist() == ["masks/b.png"]
    assert "photos-without-mask" in checked["code"].tolist()


def test_yolo_folders_are_no_masks(tmp_path):
    save_photo(tmp_path / "images/a.png")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(LayoutError, match="no layout that is known"):
        read_dataset(tmp_path)
