"""Classes from file names and Pascal VOC files."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SHARED
from readers import HEIGHT, WIDTH, boxes, codes, columns, photos, read, types, write

from helpers import check_dataset, read_dataset
from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError
from helpers.data.samples import assign_splits, relative_path, split_counts

NEU = SHARED / "data" / "neu_det"
BOX = (3, 4, 7, 6)  # xmin, ymin, xmax, ymax: columns 2 to 6, rows 3 to 5, counted from 0


def tags(names: str, values) -> str:
    return "".join(f"<{name}>{value}</{name}>" for name, value in zip(names.split(), values, strict=True))


def voc(*objects: tuple[str, tuple], height: int = HEIGHT, more: str = "") -> str:
    things = ""
    for name, corners in objects:
        box = tags("xmin ymin xmax ymax", corners)
        things += f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
    return f"<annotation>{more}<size>{tags('width height', (WIDTH, height))}</size>{things}</annotation>"


def pair(name: str, *objects, images: str = "IMAGES", files: str = "ANNOTATIONS") -> dict:
    return {f"{images}/{name}.jpg": None, f"{files}/{name}.xml": voc(*objects)}


def kinds(table) -> dict[str, str]:
    return {path.rpartition("/")[2].partition(".")[0]: kind for path, kind in types(table).items()}


@pytest.fixture
def put(tmp_path):
    """``put(files, **options)``: the table of the folder ``set`` with these files more."""
    return lambda files=(), **options: read(write(tmp_path / "set", dict(files)), **options)


def test_classes_from_names_where_they_are_names_of_objects(put):
    files = pair("crazing_1", ("crazing", BOX)) | pair("rolled-in_scale_2", ("crazing", BOX), ("rolled-in_scale", BOX))
    table = put(files | pair("normal_1") | pair("crazing_3") | photos("IMAGES/crazing_4.jpg"))
    assert table.attrs["layout"] == "voc" and table.attrs["published_split"] is False
    expected = {"crazing_1": "crazing", "crazing_3": "crazing", "crazing_4": "crazing", "normal_1": "good"}
    assert kinds(table) == expected | {"rolled-in_scale_2": "rolled-in_scale"}
    assert table["defect_types"].tolist() == ["crazing", "crazing", "crazing", "", "crazing+rolled-in_scale"]
    assert (table["mask_path"] == "").all()
    assert [code for _, code in codes(table)] == ["several-classes", "no-objects", "photos-not-annotated"]


def test_classes_from_objects_where_names_are_numbers(put):
    table = put(
        pair("2008_1", ("dent", (1, 1, 4, 4)), ("scratch", (1, 1, 3, 3)), ("scratch", (11, 11, 13, 13)))
        | pair("2008_2", ("dent", (1, 1, 4, 4)), ("scratch", (1, 1, 3, 3)), ("scratch", (2, 2, 4, 4)))
        | pair("2008_3")
    )
    # 16 pixels against 9 + 9, and against 14: two boxes that overlap in four
    assert kinds(table) == {"2008_1": "scratch", "2008_2": "dent", "2008_3": "good"}
    assert codes(table) == [("warning", "several-classes")]


def test_the_source_of_the_class_can_be_chosen(put):
    files = pair("crazing_1", ("patches", BOX)) | pair("patches_1", ("patches", BOX)) | pair("good_2", ("patches", BOX))
    assert set(kinds(put(files)).values()) == {"patches"}  # no object is called crazing
    table = put(class_from="name")
    assert kinds(table) == {"crazing_1": "crazing", "patches_1": "patches"} and ("error", "mask-on-good") in codes(
        table
    )
    with pytest.raises(ValueError, match="class_from is 'file'"):
        put(class_from="file")
    for nameless in ("000123", "a_b", "_7"):
        with pytest.raises(LayoutError, match="class_from='objects'"):
            put(pair(nameless), class_from="name")


@pytest.mark.parametrize(
    ("corners", "code", "columns_left"),
    [
        (BOX, "", slice(2, 7)),
        ((25, 4, 34, 6), "clipped", slice(24, 30)),
        ((0, 4, 7, 6), "", slice(0, 7)),  # a tool that counts from 0
        ((31, 4, 40, 6), "outside", slice(0, 0)),
        ((7, 4, 3, 6), "no-area", slice(0, 0)),
        (("", 4, 7, 6), "invalid-box", slice(0, 0)),
    ],
)
def test_boxes_become_masks_on_request(put, corners, code, columns_left):
    table = put(pair("7", ("dent", corners), ("dent", (30, 20, 30, 20))) | pair("8"), boxes_as_masks=True)
    expected = boxes((3, 6, columns_left.start, columns_left.stop), (19, 20, 29, 30))  # the last pixel
    assert np.array_equal(read_mask(table["mask_path"][0]), expected) and table["mask_path"][1] == ""
    found = [("warning" if code == "clipped" else "error", code)] if code else []
    assert codes(table) == sorted([("warning", "boxes-as-masks"), *found])


def test_boxes_that_are_turned(put):
    def thing(width: object) -> str:
        box = tags("cx cy w h angle", (10, 8, width, 4, np.pi / 2))
        return f"<annotation><object><name>dent</name><robndbox>{box}</robndbox></object></annotation>"

    files = {"ANNOTATIONS/1.xml": thing(8), "ANNOTATIONS/2.xml": thing("nan")}
    table = put(files | photos("IMAGES/1.jpg", "IMAGES/2.jpg"), boxes_as_masks=True)
    assert np.array_equal(read_mask(table["mask_path"][0]), boxes((4, 12, 8, 12)))
    assert len(table) == 1 and ("error", "photo-left-out") in codes(table)


DOCTYPE = '<!DOCTYPE a [<!ENTITY x "y">]><annotation><object><name>&x;</name></object></annotation>'


@pytest.mark.parametrize(
    "content",
    [
        "<annotation><object>",
        "",
        "<html></html>",
        '<?xml version="1.0" encoding="nonsense"?><annotation/>',
        DOCTYPE,
        f'<?xml version="1.0" encoding="utf-16"?>{DOCTYPE}'.encode("utf-16"),
    ],
)
def test_files_that_cannot_be_read(put, content):
    table = put(pair("1", ("dent", BOX)) | pair("2") | {"ANNOTATIONS/2.xml": content})
    assert kinds(table) == {"1": "dent"}, "whether the other is normal is not known"
    assert codes(table) == [("error", "invalid-annotation"), ("error", "photo-left-out")]
    assert table.attrs["findings"][0]["path"] == "ANNOTATIONS/2.xml"
    assert "invalid-annotation" in check_dataset(table)["code"].tolist()


def test_photos_and_files_that_do_not_go_together(put):
    files = pair("1", ("dent", BOX)) | pair("4", ("dent", (90, 90, 95, 95))) | photos("IMAGES/2.jpg", "IMAGES/3.jpg")
    files |= {"ANNOTATIONS/3.xml": voc(("dent", BOX), height=HEIGHT + 1), "ANNOTATIONS/5.xml": voc()}
    table = put(files)
    assert kinds(table) == {"1": "dent"}
    assert codes(table) == [
        ("error", "annotation-size"),
        ("error", "missing-photo"),
        ("error", "outside"),
        ("error", "photo-left-out"),
        ("warning", "photos-not-annotated"),
    ]


@pytest.mark.parametrize("spoiled", [("", BOX), ("dent", ("a", 1, 2, 3)), ("dent", (90, 90, 95, 95))])
def test_a_lost_object_does_not_make_a_photo_normal(put, spoiled):
    files = pair("1_1", ("ok", BOX), spoiled) | pair("ok_2", ("ok", BOX)) | pair("good_3", spoiled)
    assert kinds(put(files | pair("dent_4", ("dent", BOX)), class_from="objects")) == {"ok_2": "good", "dent_4": "dent"}
    assert kinds(put(class_from="name")) == {"1_1": "1", "ok_2": "good", "dent_4": "dent"}


def test_split_folders_and_photos_in_folders_of_their_classes(put):
    """As NEU is found on Kaggle."""
    files = {}
    for split, number in (("train", 1), ("validation", 2)):
        for kind in ("crazing", "patches"):
            folders = {"images": f"{split}/images/{kind}", "files": f"{split}/annotations"}
            files |= pair(f"{kind}_{number}", (kind, BOX), **folders)
    table = put(files)
    assert table["split"].tolist() == ["train", "train", "val", "val"] and table.attrs["published_split"] is True
    assert kinds(table)["patches_2"] == "patches" and codes(table) == []


def test_files_beside_their_photos(put):
    places = [{"images": split, "files": split} for split in ("train", "valid")]
    table = put({k: v for place in places for k, v in (pair("1", ("dent", BOX), **place) | pair("2", **place)).items()})
    assert table.attrs["layout"] == "voc" and codes(table) == []
    assert list(columns(table, "label_index", "split").values()) == [(1, "train"), (0, "train"), (1, "val"), (0, "val")]


def test_lists_of_splits_are_kept(put):
    names = {"train": "p0\np1 \nP2\n", "val": "p3.jpg\n\n", "test": "p4\np9\np0\n", "trainval": "p5"}
    files = {f"ImageSets/Main/{split}.txt": text for split, text in names.items()}
    for number in range(7):
        files |= pair(f"p{number}", *[("dent", BOX)] * (number % 2), images="JPEGImages", files="Annotations")
    table = put(files | {"ImageSets/Main/dent_train.txt": "p0 -1\np1 1\n"})
    assert list(columns(table, "split").values()) == ["train", "train", "val", "test"]  # of p1 to p4
    assert table.attrs["published_split"] is True
    expected = [("error", "missing-photo"), ("error", "split-contradiction"), ("warning", "photos-not-in-lists")]
    assert codes(table) == expected


@pytest.mark.parametrize("folder", ["ImageSets", "imagesets/main", "ImageSets/Segmentation", "."])
def test_lists_of_splits_in_other_places(put, folder):
    lists = {
        f"{folder}/trainval.txt": b"JPEGImages/p0.jpg Annotations/p0.xml\r\n",
        f"{folder}/test.txt": b"./JPEGImages/p1.jpg ./Annotations/p1.xml\r\n",
    }
    place = {"images": "JPEGImages", "files": "Annotations"}
    table = put(lists | pair("p0", **place) | pair("p1", ("dent", BOX), **place))
    assert table["split"].tolist() == ["train", "test"] and codes(table) == []


def test_names_in_other_writing_and_two_photos_of_one_stem(put):
    cameras = photos("IMAGES/cam1/1.jpg", "IMAGES/cam2/1.jpg") | {"ANNOTATIONS/1.xml": voc(("dent", BOX))}
    named = {"ANNOTATIONS/2.xml": voc(("dent", BOX), more="<filename>2.png</filename>")}
    twins = photos("IMAGES/2.jpg", "IMAGES/2.png", "IMAGES/Gro\u0308\u00dfe.jpg")
    table = put(cameras | named | twins | {"ANNOTATIONS/GR\u00d6\u00dfE.xml": voc(("dent", BOX))})
    assert types(table) == dict.fromkeys(("IMAGES/2.png", "IMAGES/Gro\u0308\u00dfe.jpg"), "dent")
    assert ("error", "ambiguous-name") in codes(table)


def test_files_in_other_encodings(put):
    text, files = voc(("\u5212\u75d5", BOX)), photos(*(f"IMAGES/{name}.jpg" for name in "abcd"))
    for name, encoding in (("a", "gb2312"), ("b", "utf-16"), ("c", "utf-8"), ("d", "gb18030")):
        first = "" if encoding == "gb18030" else f'<?xml version="1.0" encoding="{encoding}"?>'
        files[f"ANNOTATIONS/{name}.xml"] = (first + text).encode(encoding)
    table = put(files)
    assert kinds(table) == dict.fromkeys("abc", "\u5212\u75d5")
    finding = table.attrs["findings"][0]
    assert finding["code"] == "invalid-annotation" and "gb18030" in finding["fix"]
    assert kinds(put(encoding="gb18030"))["d"] == "\u5212\u75d5"


def test_folders_of_other_names_are_no_voc(tmp_path):
    write(tmp_path, pair("1", ("dent", BOX), images="a", files="b"))
    for options in ({}, {"layout": "voc"}):
        with pytest.raises(LayoutError):
            read_dataset(tmp_path, **options)


@pytest.mark.skipif(not NEU.is_dir(), reason="../shared/data/neu_det is not there")
def test_neu():
    table = read_dataset(NEU)
    names = relative_path(table).str.extract(r"^IMAGES/(.+)_\d+\.jpg$")[0]
    assert len(table) == 1770 and (table["defect_type"] == names).all() and (table["label_index"] == 1).all()
    # counted in the files: 121 have an object of another name than the file
    several = table["defect_types"].str.split("+").map(set) != table["defect_type"].map(lambda kind: {kind})
    assert several.sum() == 121 and ("info", "several-classes") in codes(table)
    counts = split_counts(assign_splits(table, "supervised")).drop(columns=["normal", "abnormal"])
    assert np.abs((counts / counts.sum()).to_numpy() - [[0.7], [0.15], [0.15]]).max() < 0.005  # half a photo of 294
