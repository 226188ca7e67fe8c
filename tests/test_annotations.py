"""Annotations in a file a photo (labelme, Pascal VOC, YOLO): whose they are, what is drawn, and what is left out."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from readers import HEIGHT, WIDTH, boxes, codes, columns, photos, read, types, write

from helpers import check_dataset, read_dataset
from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError
from helpers.data.samples import relative_path

NEU = SHARED / "data" / "neu_det"
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH] + 0.5
LAYOUTS = {"labelme": "json", "voc": "xml", "yolo": "txt"}
NAMES = ["dent", "crack", "ok"]
SIDES = (6, 5, 15, 10)  # left, top, right, bottom
SQUARE = [[2, 3], [7, 3], [7, 6], [2, 6]]
POLYGON = "0 0.2 0.25 0.5 0.25 0.5 0.5 0.2 0.5"  # SIDES in shares
BOX = (3, 4, 7, 6)  # xmin, ymin, xmax, ymax: columns 2 to 6, rows 3 to 5, counted from 0


def shape(points, kind="polygon", label: str = "dent", **more) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def labelme(*shapes, path: str = "", **more) -> str:
    about = {"version": "5.4.1", "flags": {}, "imagePath": path, "imageData": None}
    return json.dumps({**about, "shapes": list(shapes), "imageHeight": HEIGHT, "imageWidth": WIDTH, **more})


def voc(*objects: tuple[str, tuple], height: int = HEIGHT, more: str = "") -> str:
    def tags(**values) -> str:
        return "".join(f"<{name}>{value}</{name}>" for name, value in values.items())

    things = ""
    for name, (xmin, ymin, xmax, ymax) in objects:
        box = tags(xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
        things += f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
    return f"<annotation>{more}<size>{tags(width=WIDTH, height=height)}</size>{things}</annotation>"


def text(layout: str, *labels: str, path: str = "", spoiled=None) -> str:
    """A file with an object of SIDES for each label, that may name its photo, and one that is spoiled."""
    left, top, right, bottom = SIDES
    more = [] if spoiled is None else [spoiled]
    if layout == "labelme":
        shapes = [shape([[left, top], [right, bottom]], "rectangle", label) for label in labels]
        return labelme(*shapes, *more, path=path)
    if layout == "voc":
        objects = [(label, (left + 1, top + 1, right, bottom)) for label in labels]
        return voc(*objects, *more, more=f"<filename>{path}</filename>")
    return "\n\n".join([f"{NAMES.index(label)}{POLYGON[1:]}" for label in labels] + more)


def files(layout: str, **labels: tuple[str, ...]) -> dict:
    """Photos with the objects of their file beside them."""
    texts = {f"{name}.{LAYOUTS[layout]}": text(layout, *those) for name, those in labels.items()}
    return photos(*(f"{name}.png" for name in labels)) | texts | {"data.yaml": f"names: {json.dumps(NAMES)}"}


def told(table) -> list[tuple[str, str]]:
    """Codes without those that say that boxes are no outlines."""
    return [each for each in codes(table) if not each[1].startswith("boxes-")]


@pytest.fixture
def put(tmp_path):
    """``put(files, **options)``: the table of the folder ``set`` with these files more."""
    return lambda files=(), **options: read(write(tmp_path / "set", dict(files)), **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "places", ["{}/{}.png {}/{}", "images/{}/{}.png labels/{}/{}", "{}/photos/{}.png {}/json/{}.png"]
)
def test_places_and_split_folders(put, layout, places):
    (photo, file), there, expected = places.split(), {"data.yaml": "names: [dent, crack]"}, {}
    for split, word in (("train", "train"), ("valid", "val")):
        there |= photos(*(photo.format(split, name) for name in "abc"))
        for name, labels in (("a", ["dent", "dent"]), ("b", [])):
            there[f"{file.format(split, name)}.{LAYOUTS[layout]}"] = text(layout, *labels)
        # a photo without a file is normal, but in VOC not known
        kinds = {"a": "dent", "b": "good"} | ({} if layout == "voc" else {"c": "good"})
        expected |= {photo.format(split, name): (kind, word) for name, kind in kinds.items()}
    table = put(there)
    assert table.attrs["layout"] == layout and table.attrs["published_split"] is True
    assert columns(table, "defect_type", "split") == expected
    missed = [("warning", "photos-not-annotated")] * 2
    assert told(table) == (missed if layout == "voc" else [("info", "photos-not-annotated")])
    if layout != "voc":
        assert np.array_equal(read_mask(table["mask_path"][0]), boxes((5, 10, 6, 15)))


@pytest.mark.parametrize(
    ("photo", "file", "written"),
    [
        ("images/a.png", "json/x.json", "../images/a.png"),
        ("images/a.png", "json/a.json", "a.bmp"),
        ("images/cam1/a.png", "json/cam1/a.json", "a.png"),
        ("images/Gro\u0308\u00dfe.png", "json/Gr\u00f6\u00dfe.json", "Gr\u00f6\u00dfe.png"),
        ("images/a.PNG", "images/A.json", "old name.png"),
        ("images/dents/a.png", "json/a.json", ""),
    ],
)
def test_files_in_a_folder_of_their_own(put, photo, file, written):
    others = {"images/cam2/b.png": None, "json/o.json": labelme(path="../images/cam2/b.png")}
    table = put({photo: None, file: text("labelme", "dent", path=written), **others}, layout="labelme")
    assert types(table) == {"images/cam2/b.png": "good", photo: "dent"}
    assert not [code for severity, code in codes(table) if severity == "error"]


def test_photos_in_folders_of_their_classes(put):
    """As NEU is found on Kaggle."""
    for kind in ("crazing", "patches"):
        for split in ("train", "validation"):
            there = {f"{split}/images/{kind}/{kind}_1.jpg": None, f"{split}/annotations/{kind}_1.xml": voc((kind, BOX))}
            table = put(there)
    expected = [(kind, split) for split in ("train", "val") for kind in ("crazing", "patches")]
    assert list(columns(table, "defect_type", "split").values()) == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_without_its_photo_is_not_that_of_another_camera(put, layout):
    there = {f"{cam}/{name}": text for cam in ("cam1", "cam2") for name, text in files(layout, b=("ok",)).items()}
    strays = {f"{cam}/1.{LAYOUTS[layout]}": text(layout, "dent") for cam in ("cam1", "cam3")}
    table = put(there | strays | {"cam2/1.png": None})
    # their photo may have been moved, so 1.png is not known to be normal either
    assert list(types(table)) == ["cam1/b.png", "cam2/b.png"] and told(table) == [("error", "missing-photo")] * 2


def test_photos_of_one_stem(put):
    there = files("labelme", b=(), c=()) | photos("a.png", "a.jpg")
    table = put(there | {"a.json": text("labelme", "dent", path="a.png")})
    # a.jpg may be a copy of the photo with the dent
    assert types(table) == {"a.png": "dent", "b.png": "good", "c.png": "good"}
    assert codes(table) == [("warning", "photo-left-out")]
    table = put({"a.json": text("labelme", "dent", path="old.png")})
    assert types(table) == {"b.png": "good", "c.png": "good"} and codes(table) == [("error", "ambiguous-name")]
    table = put({"old/b.json": text("labelme", "dent", path="../b.png")})
    assert ("error", "photo-listed-twice") in codes(table) and types(table) == {"c.png": "good"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_elsewhere_do_not_become_normal(put, layout):
    there = {f"photos/{name}": content for name, content in files(layout, a=("dent",), b=()).items()}
    table = put(there | photos("viz/a.png", "out/b.png", "good/c.png"), layout=layout)
    normal = {} if layout == "voc" else {"good/c.png": "good"}
    assert types(table) == {**normal, "photos/a.png": "dent", "photos/b.png": "good"}
    assert told(table).count(("warning", "photos-not-annotated")) == (3 if layout == "voc" else 2)


def test_errors(put):
    for layout in LAYOUTS:
        with pytest.raises(LayoutError, match=layout):
            put(photos("a.png"), layout=layout)
    with pytest.raises(LayoutError, match=r"a\.png"):
        put({"a.json": labelme(shape([[1, 1]], "point"))})
    wrong = {"labelme": {"line_width": 0}, "voc": {"class_from": "file"}, "yolo": {"boxes_as_masks": "yes"}}
    for layout, options in (*wrong.items(), ("labelme", {"encoding": "klingon"})):
        with pytest.raises(ValueError, match=next(iter(options))):
            put(layout=layout, **options)


@pytest.mark.parametrize("folder", ["ImageSets/Main", "imagesets/main", "ImageSets", "."])
def test_lists_of_splits_are_kept(put, folder):
    lists = {"train": "p0\np1 \nP2\n", "val": "JPEGImages/p3.jpg Annotations/p3.xml\r\n\n", "test": "p4\np9\np0\n"}
    there = {f"{folder}/{split}.txt": names for split, names in (lists | {"trainval": "p5"}).items()}
    for i in range(7):
        objects = [("dent", BOX)] * (i % 2)
        there |= {f"JPEGImages/p{i}.jpg": None, f"Annotations/p{i}.xml": voc(*objects)}
    table = put(there | {f"{folder}/dent_train.txt": "p0 -1\np1 1\n"})
    assert list(columns(table, "split").values()) == ["train", "train", "val", "test"]  # of p1 to p4
    assert table.attrs["published_split"] is True
    expected = [("error", "missing-photo"), ("error", "split-contradiction"), ("warning", "photos-not-in-lists")]
    assert told(table) == expected


def test_trainval_is_train_where_there_is_no_other_list(put):
    lists = {"ImageSets/Main/trainval.txt": "a\n", "ImageSets/Main/test.txt": "b\n"}
    assert put(pair("a", ("x", BOX)) | pair("b", ("x", BOX)) | lists)["split"].tolist() == ["train", "test"]


def test_lists_of_cvat_and_folders_of_the_yaml_file(put, tmp_path):
    there = {f"obj_train_data/{name}": content for name, content in files("yolo", a=("crack",), b=(), c=()).items()}
    lists = {"train.txt": "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n", "test.txt": "obj_train_data/c.png"}
    table = put(there | lists)
    assert list(columns(table, "split").values()) == ["train", "train", "test"]
    about = {"data.yaml": "names: [dent]\ntrain: ./first\nval: [../second]\n"}
    there = photos("first/a.png", "second/b.png") | {"first/a.txt": POLYGON, "second/b.txt": ""}
    table = read(write(tmp_path / "other", there | about))
    assert columns(table, "split") == {"first/a.png": "train", "second/b.png": "val"}


DOCTYPE = '<!DOCTYPE a [<!ENTITY x "y">]><annotation><object><name>&x;</name></object></annotation>'


@pytest.mark.parametrize(
    ("layout", "content"),
    [
        ("labelme", '{"shapes": 3}'),
        ("voc", "<annotation><object>"),
        ("voc", ""),
        ("voc", '<?xml version="1.0" encoding="nonsense"?><annotation/>'),
        ("voc", DOCTYPE),
        ("voc", f'<?xml version="1.0" encoding="utf-16"?>{DOCTYPE}'.encode("utf-16")),
        ("yolo", b"\xff\xff"),
    ],
)
def test_files_that_cannot_be_read_leave_their_photos_out(put, layout, content):
    table = put(files(layout, a=("dent",), b=()) | {f"b.{LAYOUTS[layout]}": content})
    assert types(table) == {"a.png": "dent"}
    assert told(table) == [("error", "invalid-annotation"), ("error", "photo-left-out")]
    assert check_dataset(table).set_index("code").loc["invalid-annotation", "path"] == "b.png"


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


LOST = {
    "labelme": [
        (shape([[40, 5], [50, 5], [50, 9]]), "outside"),
        (shape([[40, 5], [45, 5]], "mask", mask=png(np.ones((2, 2), bool))), "outside"),
        (shape([[4, 5], [6, 7]], "mask", mask=png(np.zeros((2, 2), bool))), "no-area"),
        (shape([[0, 0], [1, 1]], "mask", mask="????"), "invalid-polygon"),
        (shape([[2, 2], [3, 3]]), "too-few-points"),
        (shape([[10, 5], [15, 10]], "rotation"), "too-few-points"),
        (shape([[2, 2], [None, 3]], "line"), "too-few-points"),
        (shape([[2, 2], [2, 2]], "circle"), "no-area"),
        (shape(SQUARE, ["polygon"]), "unknown-shape"),
        (shape(SQUARE, label=""), "unknown-category"),
        ("no shape", "invalid-polygon"),
        (shape([[3, 3]], "point"), "point"),  # it says that there is something, and not where
    ],
    "voc": [
        (("", BOX), "unknown-category"),
        (("dent", ("a", 1, 2, 3)), "invalid-box"),
        (("dent", (90, 90, 95, 95)), "outside"),
        (("dent", (7, 4, 3, 6)), "no-area"),
    ],
    "yolo": [
        ("0 0.1 0.1 0.2 0.2 0.3", "invalid-polygon"),
        ("0 0.5 0.5 nan 0.2", "invalid-polygon"),
        ("0 15 10 4 4", "invalid-polygon"),
        ("0", "invalid-polygon"),
        ("0 0.5 0.5 -0.2 0.2", "no-area"),
        ("0 1.5 1.5 0.2 0.2", "outside"),
        ("7 0.5 0.5 0.2 0.2", "unknown-category"),
        ("dent 0.5 0.5 0.2 0.2", "unknown-category"),
    ],
}


@pytest.mark.parametrize(("layout", "spoiled", "code"), [(key, *each) for key, those in LOST.items() for each in those])
def test_a_lost_object_does_not_make_a_photo_normal(put, layout, spoiled, code):
    there, suffix = files(layout, a=(), b=(), c=("ok",)), LAYOUTS[layout]
    there |= {f"{name}.{suffix}": text(layout, label, spoiled=spoiled) for name, label in (("a", "ok"), ("b", "dent"))}
    table = put(there)
    lost = ("warning" if code == "point" else "error", code)
    assert told(table) == sorted([lost, lost, ("error", "photo-left-out")])
    assert types(table) == {"b.png": "dent", "c.png": "good"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_photo_beyond_the_limit_of_pillow_is_a_finding(put, monkeypatch, layout):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH)
    big = {"big.png": np.zeros((2 * HEIGHT, 3 * WIDTH), np.uint8)}
    table = put(files(layout, big=("dent",), small=("dent",)) | big)
    assert list(types(table)) == ["small.png"] and told(table) == [("error", "too-large")]


@pytest.mark.parametrize("layout", ["labelme", "voc"])
def test_other_encodings(put, layout):
    label, suffix = "\u5212\u75d5", LAYOUTS[layout]
    content = text(layout, label).replace('"\\u5212\\u75d5"', f'"{label}"')
    table = put(files(layout, b=()) | {"a.png": None, f"a.{suffix}": content.encode("gb18030")})
    assert types(table) == {"b.png": "good"}
    finding = next(row for row in table.attrs["findings"] if row["code"] == "invalid-annotation")
    assert "gb18030" in finding["problem"] and "iconv" in finding["problem"]
    assert types(put(encoding="gb18030"))["a.png"] == label
    declared = '<?xml version="1.0" encoding="gb2312"?>' if layout == "voc" else ""
    for data in (content.encode("utf-16"), (declared + content).encode("gb2312" if declared else "utf-8")):
        assert types(put({f"a.{suffix}": data}))["a.png"] == label


def near(radius: float, *points: tuple[float, float]) -> np.ndarray:
    """Pixels nearer to a line than the radius, by many points on it."""
    line = np.concatenate([np.linspace(a, b, 2001) for a, b in zip(points[:-1], points[1:], strict=True)])
    return (np.hypot(COLUMNS[..., None] - line[:, 0], ROWS[..., None] - line[:, 1]) < radius).any(axis=-1)


STAMP = np.array([[1, 0, 1], [1, 1, 0]], bool)
DIAMOND = [[10, 5], [15.2, 10], [10, 15], [4.8, 10]]


@pytest.mark.parametrize(
    ("drawn", "options", "expected"),
    [
        (shape(SQUARE), {}, boxes((3, 6, 2, 7))),
        (shape([[7, 6], [2, 3]], "rectangle"), {}, boxes((3, 6, 2, 7))),
        (shape([[10, 10], [10, 14]], "circle"), {}, (COLUMNS - 10) ** 2 + (ROWS - 10) ** 2 < 16),
        (shape([[3, 3], [3, 9], [9, 9]], "linestrip"), {"line_width": 4.2}, near(2.1, (3, 3), (3, 9), (9, 9))),
        (shape([[4, 5], [7, 7]], "mask", mask=png(STAMP)), {}, boxes((5, 6, 4, 5), (5, 6, 6, 7), (6, 7, 4, 6))),
        *((shape(SQUARE, kind), {}, boxes((3, 6, 2, 7))) for kind in ("rotation", "robndbox", "rectangle")),
    ],
)
def test_shapes(put, drawn, options, expected):
    table = put({"a.png": None, "a.json": labelme(drawn)}, **options)
    assert codes(table) == [] and np.array_equal(read_mask(table["mask_path"][0]), expected)


@pytest.mark.parametrize("kind", ["rectangle", "mask"])
def test_shapes_partly_outside_are_clipped(put, kind):
    drawn = shape([[-3, 15], [5, 23]], kind, mask=png(np.ones((8, 8), bool)))
    circle = labelme(shape([[0, 10], [9, 10]], "circle"))
    table = put(photos("a.png", "b.png") | {"a.json": labelme(drawn), "b.json": circle})
    assert codes(table) == [("warning", "clipped")] * 2
    assert np.array_equal(read_mask(table["mask_path"][0]), boxes((15, 20, 0, 5)))


def test_labels_and_flags(put):
    flags = {"c.json": labelme(flags={"crack": True, "dent": False})}
    table = put(files("labelme", a=("dent", "crack", "dent"), b=("ok",), c=()) | flags)
    assert types(table) == {"a.png": "crack+dent", "b.png": "good", "c.png": "crack"}


def pair(name: str, *objects) -> dict:
    return {f"IMAGES/{name}.jpg": None, f"ANNOTATIONS/{name}.xml": voc(*objects)}


def kinds(table) -> dict[str, str]:
    return {Path(path).stem: kind for path, kind in types(table).items()}


def test_classes_from_names_where_they_are_names_of_objects(put):
    there = pair("crazing_1", ("crazing", BOX)) | pair("rolled-in_scale_2", ("crazing", BOX), ("rolled-in_scale", BOX))
    table = put(there | pair("normal_1") | pair("crazing_3") | photos("IMAGES/crazing_4.jpg"))
    assert table.attrs["published_split"] is False and codes(table) == []
    expected = {"crazing_1": "crazing", "crazing_3": "crazing", "crazing_4": "crazing", "normal_1": "good"}
    assert kinds(table) == expected | {"rolled-in_scale_2": "rolled-in_scale"}
    assert table["defect_types"].tolist() == ["crazing", "crazing", "crazing", "", "crazing+rolled-in_scale"]
    assert (table["mask_path"] == "").all()


def test_classes_from_objects_where_names_are_numbers(put):
    both = ("dent", (1, 1, 4, 4)), ("scratch", (1, 1, 3, 3))
    there = pair("2008_1", *both, ("scratch", (11, 11, 13, 13))) | pair("2008_2", *both, ("scratch", (2, 2, 4, 4)))
    table = put(there | pair("2008_3"))
    # 16 pixels against 9 + 9, and against 14: two boxes that overlap in four
    assert kinds(table) == {"2008_1": "scratch", "2008_2": "dent", "2008_3": "good"}
    assert told(table) == [("warning", "several-classes")]


def test_the_source_of_the_class_can_be_chosen(put):
    there = pair("crazing_1", ("patches", BOX)) | pair("patches_1", ("patches", BOX)) | pair("good_2", ("patches", BOX))
    assert set(kinds(put(there)).values()) == {"patches"}  # no object is called crazing
    outside = ("dent", (90, 90, 95, 95))
    table = put(pair("dent_3", outside) | pair("good_4", outside), class_from="name")
    assert kinds(table) == {"crazing_1": "crazing", "patches_1": "patches", "dent_3": "dent"}
    assert {("error", "mask-on-good"), ("error", "photo-left-out")} < set(codes(table))
    for nameless in ("000123", "a_b", "_7"):
        with pytest.raises(LayoutError, match="class_from='objects'"):
            put(pair(nameless), class_from="name")


@pytest.mark.parametrize("class_from", ["objects", "name"])
@pytest.mark.parametrize(  # the last by a tool that counts from 0
    ("corners", "code", "left", "right"),
    [(BOX, "", 2, 7), ((25, 4, 34, 6), "clipped", 24, 30), ((0, 4, 7, 6), "", 0, 7)],
)
def test_boxes_become_masks_on_request(put, corners, code, left, right, class_from):
    there = pair("x_7", ("dent", corners), ("dent", (30, 20, 30, 20))) | pair("ok_8")
    table = put(there, boxes_as_masks=True, class_from=class_from)
    masks = dict(zip(kinds(table), table["mask_path"], strict=True))
    assert np.array_equal(read_mask(masks["x_7"]), boxes((3, 6, left, right), (19, 20, 29, 30)))  # the last pixel
    assert masks["ok_8"] == "" and codes(table) == [("warning", each) for each in ("boxes-as-masks", code) if each]


@pytest.mark.skipif(not NEU.is_dir(), reason="../shared/data/neu_det is not there")
def test_neu():
    table = read_dataset(NEU)
    names = relative_path(table).str.extract(r"^IMAGES/(.+)_\d+\.jpg$")[0]
    assert len(table) == 1770 and (table["defect_type"] == names).all() and (table["label_index"] == 1).all()
    # counted in the files: 121 have an object of another name than the file
    several = table["defect_types"].str.split("+").map(set) != table["defect_type"].map(lambda kind: {kind})
    assert several.sum() == 121


def labelled(**labels: str) -> dict:
    return {f"images/{name}.png": None for name in labels} | {f"labels/{name}.txt": t for name, t in labels.items()}


def test_boxes_are_masks_on_request_only(put):
    box = "1 0.5 0.5 0.2 0.3"  # x 12 to 18, y 7 to 13
    names = {"data.yaml": "names:\n  0: dent\n  '1': crack\nkpt_shape: [2, 2]\n"}
    table = put(labelled(a=box, b=f"{box} 0.1 0.1 0.2 0.2") | names)
    assert list(types(table).values()) == ["crack", "crack"] and table["mask_path"].tolist() == ["", ""]
    assert codes(table) == [("warning", "boxes-only")]
    table = put(boxes_as_masks=True)
    assert np.array_equal(read_mask(table["mask_path"][0]), boxes((7, 13, 12, 18)))
    assert codes(table) == [("warning", "boxes-as-masks")]
    table = put(labelled(c=f"{POLYGON}\n{box}") | {"data.yaml": "names: [dent, crack]"})
    assert columns(table, "defect_type", "mask_path")["images/c.png"] == ("crack+dent", "")


ALIASES = "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))


@pytest.mark.parametrize(
    "about", ["names: [[dent]]", f"a0: &a0 [x]\n{ALIASES}names: *a9\n", "names: !!python/object/apply:os.getcwd []"]
)
def test_names_of_classes_that_cannot_be_read(put, about):
    with pytest.raises(ValueError, match="YAML|yaml"):
        put(labelled(a=POLYGON) | {"data.yaml": about})


def test_names_of_classes(put):
    assert types(put(labelled(a=POLYGON) | {"obj.names": "crack\n"})) == {"images/a.png": "crack"}
    assert types(put({"data.yaml": "names: [ok]\n"})) == {"images/a.png": "good"}
    with pytest.raises(LayoutError, match=r"other\.yaml"):
        put({"other.yaml": "names: [dent]\n"})
