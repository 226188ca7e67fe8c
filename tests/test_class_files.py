"""Classes from file names and Pascal VOC files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image

from helpers import check_dataset, read_dataset
from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError
from helpers.data.samples import assign_splits, relative_path, split_counts
from helpers.data.voc import class_in_name

NEU = SHARED / "data" / "neu_det"
HEIGHT, WIDTH = 20, 30
BOX = (3, 4, 7, 6)  # xmin, ymin, xmax, ymax: columns 2 to 6, rows 3 to 5, counted from 0


def voc(objects: list[tuple[str, tuple]], size: tuple[int, int] = (HEIGHT, WIDTH)) -> str:
    things = ""
    for name, corners in objects:
        tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
        things += f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
    return f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>{things}</annotation>"


def put(root: Path, name: str, content: str | list | None, *, images: str = "IMAGES", files: str = "ANNOTATIONS"):
    """A photo and its VOC file: objects, raw text, or None for no file."""
    for folder in (images, files):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH), 90, np.uint8)).save(root / images / f"{name}.jpg")
    if content is not None:
        text = voc(content) if isinstance(content, list) else content
        (root / files / f"{name}.xml").write_text(text, encoding="utf-8")


@pytest.fixture
def read(tmp_path):
    """``read(**options)`` of the folder ``set`` with a cache of its own."""
    return lambda **options: read_dataset(tmp_path / "set", mask_cache=tmp_path / "cache", **options)


def types(table) -> dict[str, str]:
    return {Path(path).stem: kind for path, kind in zip(table["image_path"], table["defect_type"], strict=True)}


def codes(table) -> list[tuple[str, str]]:
    return [(row["severity"], row["code"]) for row in table.attrs["findings"]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("crazing_1", "crazing"), ("rolled-in_scale_295", "rolled-in_scale"), ("000123", ""), ("a_b", ""), ("_7", "")],
)
def test_class_in_name(name, expected):
    assert class_in_name(Path(f"{name}.jpg")) == expected


def test_classes_from_names_where_they_are_names_of_objects(tmp_path, read):
    put(tmp_path / "set", "crazing_1", [("crazing", BOX)])
    put(tmp_path / "set", "rolled-in_scale_2", [("crazing", BOX), ("rolled-in_scale", BOX)])
    put(tmp_path / "set", "normal_1", [])
    table = read()
    assert table.attrs["layout"] == "voc" and table.attrs["published_split"] is False
    assert types(table) == {"crazing_1": "crazing", "normal_1": "good", "rolled-in_scale_2": "rolled-in_scale"}
    assert table["label_index"].tolist() == [1, 0, 1]
    assert table["defect_types"].tolist() == ["crazing", "", "crazing+rolled-in_scale"]
    assert (table["mask_path"] == "").all()
    assert codes(table) == [("info", "several-classes")]


def test_classes_from_objects_where_names_are_numbers(tmp_path, read):
    put(tmp_path / "set", "2008_1", [("dent", (1, 1, 4, 4)), ("scratch", (1, 1, 3, 3)), ("scratch", (11, 11, 13, 13))])
    put(tmp_path / "set", "2008_2", [("dent", (1, 1, 4, 4)), ("scratch", (1, 1, 3, 3)), ("scratch", (2, 2, 4, 4))])
    put(tmp_path / "set", "2008_3", [])
    table = read()
    # 16 pixels against 9 + 9, and against 14: two boxes that overlap in four
    assert types(table) == {"2008_1": "scratch", "2008_2": "dent", "2008_3": "good"}
    assert codes(table) == [("warning", "several-classes")]
    assert "2 photo(s)" in table.attrs["findings"][0]["problem"]


def test_the_source_of_the_class_can_be_chosen(tmp_path, read):
    put(tmp_path / "set", "crazing_1", [("patches", BOX)])
    put(tmp_path / "set", "patches_1", [("patches", BOX)])
    assert types(read()) == {"crazing_1": "patches", "patches_1": "patches"}  # no object is called crazing
    assert types(read(class_from="name")) == {"crazing_1": "crazing", "patches_1": "patches"}
    with pytest.raises(ValueError, match="class_from is 'file'; use one of auto, name, objects"):
        read(class_from="file")
    put(tmp_path / "set", "nameless", [])
    with pytest.raises(LayoutError, match=r"nameless.jpg and 0 more: the name is not <class>_<number>"):
        read(class_from="name")


def test_boxes_become_masks_on_request(tmp_path, read):
    put(tmp_path / "set", "dent_1", [("dent", BOX), ("dent", (30, 20, 30, 20))])
    put(tmp_path / "set", "good_1", [])
    table = read(boxes_as_masks=True)
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[3:6, 2:7] = True
    expected[19, 29] = True  # the last pixel
    assert np.array_equal(read_mask(table["mask_path"][0]), expected)
    assert table["mask_path"][1] == ""
    assert codes(table) == [("warning", "boxes-as-masks")]


@pytest.mark.parametrize(
    ("corners", "code", "columns"),
    [
        ((25, 4, 34, 6), "clipped", 6),  # columns 24 to 29 are left
        ((0, 4, 7, 6), "", 7),  # a tool that counts from 0
        ((31, 4, 40, 6), "outside", 0),
        ((7, 4, 3, 6), "no-area", 0),
        (("", 4, 7, 6), "invalid-box", 0),
    ],
)
def test_boxes_at_and_beyond_the_border(tmp_path, read, corners, code, columns):
    put(tmp_path / "set", "7", [("dent", corners), ("dent", (1, 20, 1, 20))])
    table = read(boxes_as_masks=True)
    mask = read_mask(table["mask_path"][0])
    assert mask[3:6].sum() == 3 * columns and mask.sum() == 3 * columns + 1
    severity = "warning" if code == "clipped" else "error"
    assert codes(table)[:-1] == ([(severity, code)] if code else [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("<annotation><object>", "is not valid XML"),
        ("", "is not valid XML"),
        ("<html></html>", "begins with <html>"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "is not encoded"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation><object><name>&x;</name></object></annotation>', "DOCTYPE"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, read, content, words):
    put(tmp_path / "set", "1", [("dent", BOX)])
    put(tmp_path / "set", "2", content)
    table = read()
    assert types(table) == {"1": "dent"}, "whether the other is normal is not known"
    assert codes(table) == [("error", "invalid-annotation"), ("error", "photo-left-out")]
    finding = table.attrs["findings"][0]
    assert finding["path"] == "ANNOTATIONS/2.xml" and words in finding["problem"]
    assert "invalid-annotation" in check_dataset(table)["code"].tolist()


def test_a_document_type_is_refused_in_two_bytes_a_letter_too(tmp_path, read):
    put(tmp_path / "set", "1", [("dent", BOX)])
    put(tmp_path / "set", "2", [])
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY x "y">]><annotation/>'
    (tmp_path / "set" / "ANNOTATIONS" / "2.xml").write_bytes(text.encode("utf-16"))
    assert codes(read()) == [("error", "invalid-annotation"), ("error", "photo-left-out")]


def test_photos_and_files_that_do_not_go_together(tmp_path, read):
    put(tmp_path / "set", "1", [("dent", BOX)])
    put(tmp_path / "set", "2", None)
    put(tmp_path / "set", "3", voc([("dent", BOX)], (HEIGHT + 1, WIDTH)))
    put(tmp_path / "set", "4", [("dent", (90, 90, 95, 95))])
    (tmp_path / "set" / "ANNOTATIONS" / "5.xml").write_text(voc([]))
    table = read()
    assert types(table) == {"1": "dent"}
    assert codes(table) == [
        ("error", "missing-photo"),
        ("error", "annotation-size"),
        ("error", "outside"),
        ("error", "photo-left-out"),
        ("warning", "photos-not-annotated"),
    ]


def test_by_name_a_photo_without_a_file_keeps_its_class(tmp_path, read):
    put(tmp_path / "set", "dent_1", [("dent", BOX)])
    put(tmp_path / "set", "dent_2", None)
    put(tmp_path / "set", "dent_3", [])
    put(tmp_path / "set", "good_4", [("dent", BOX)])
    table = read()
    assert types(table) == {"dent_1": "dent", "dent_2": "dent", "dent_3": "dent"}
    assert table["defect_types"].tolist() == ["dent", "dent", "dent"]
    assert codes(table) == [("warning", "no-objects"), ("error", "mask-on-good"), ("warning", "photos-not-annotated")]


def test_split_folders_and_photos_in_folders_of_their_classes(tmp_path, read):
    """As NEU is found on Kaggle."""
    for split, number in (("train", 1), ("validation", 2)):
        for kind in ("crazing", "patches"):
            images = f"{split}/images/{kind}"
            put(tmp_path / "set", f"{kind}_{number}", [(kind, BOX)], images=images, files=f"{split}/annotations")
    table = read()
    assert table["split"].tolist() == ["train", "train", "val", "val"] and table.attrs["published_split"] is True
    assert types(table)["patches_2"] == "patches" and table.attrs["findings"] == []


def test_lists_of_splits_are_kept(tmp_path, read):
    root = tmp_path / "set"
    for number in range(7):
        put(root, f"p{number}", [("dent", BOX)] if number % 2 else [], images="JPEGImages", files="Annotations")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, names in {
        "train": "p0\np1 \nP2\n",
        "val": "p3.jpg\n\n",
        "test": "p4\np9\np0\n",
        "trainval": "p5",
    }.items():
        (lists / f"{split}.txt").write_text(names)
    (lists / "dent_train.txt").write_text("p0 -1\np1 1\n")
    table = read()
    assert dict(zip(types(table), table["split"], strict=True)) == {
        "p1": "train",
        "p2": "train",
        "p3": "val",
        "p4": "test",
    }
    assert table.attrs["published_split"] is True
    assert codes(table) == [
        ("error", "missing-photo"),
        ("error", "split-contradiction"),
        ("warning", "photos-not-in-lists"),
    ]


@pytest.mark.parametrize("folder", ["ImageSets", "imagesets/main", "ImageSets/Segmentation", "."])
def test_lists_of_splits_in_other_places(tmp_path, read, folder):
    root = tmp_path / "set"
    put(root, "p0", [], images="JPEGImages", files="Annotations")
    put(root, "p1", [("dent", BOX)], images="JPEGImages", files="Annotations")
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "train.txt").write_bytes(b"JPEGImages/p0.jpg Annotations/p0.xml\r\n")
    (root / folder / "test.txt").write_bytes(b"./JPEGImages/p1.jpg ./Annotations/p1.xml\r\n")
    table = read()
    assert table["split"].tolist() == ["train", "test"] and codes(table) == []


def test_files_beside_their_photos(tmp_path, read):
    for split in ("train", "valid"):
        for name, objects in (("1", [("dent", BOX)]), ("2", [])):
            put(tmp_path / "set", name, objects, images=split, files=split)
    table = read()
    assert table.attrs["layout"] == "voc" and table["label_index"].tolist() == [1, 0, 1, 0]
    assert table["split"].tolist() == ["train", "train", "val", "val"] and codes(table) == []


def test_names_in_other_writing_and_two_photos_of_one_stem(tmp_path, read):
    root = tmp_path / "set"
    put(root, "Gro\u0308\u00dfe", None)
    (root / "ANNOTATIONS" / "GR\u00d6\u00dfE.xml").write_text(voc([("dent", BOX)]))
    for folder in ("cam1", "cam2"):
        put(root, "1", None, images=f"IMAGES/{folder}")
    (root / "ANNOTATIONS" / "1.xml").write_text(voc([("dent", BOX)]))
    table = read()
    assert table["defect_type"].tolist() == ["dent"]
    assert codes(table)[0] == ("error", "ambiguous-name")
    put(root, "2", None)
    for suffix in ("jpg", "png"):
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(root / "IMAGES" / f"2.{suffix}")
    text = voc([("dent", BOX)]).replace("<size>", "<filename>2.png</filename><size>")
    (root / "ANNOTATIONS" / "2.xml").write_text(text)
    assert [name for name in relative_path(read()) if "/2." in name] == ["IMAGES/2.png"]


@pytest.mark.parametrize("spoiled", [("", BOX), ("dent", ("a", 1, 2, 3)), ("dent", (90, 90, 95, 95))])
def test_a_lost_object_does_not_make_a_photo_normal(tmp_path, read, spoiled):
    put(tmp_path / "set", "1", [("ok", BOX), spoiled])
    put(tmp_path / "set", "2", [("ok", BOX)])
    assert types(read()) == {"2": "good"}
    put(tmp_path / "set", "good_3", [spoiled])
    put(tmp_path / "set", "dent_4", [("dent", BOX)])
    assert types(read(class_from="objects")) == {"2": "good", "dent_4": "dent"}
    for name in ("1", "2"):
        (tmp_path / "set" / "IMAGES" / f"{name}.jpg").unlink()
    assert types(read(class_from="name")) == {"dent_4": "dent"}


def test_files_in_other_encodings(tmp_path, read):
    root = tmp_path / "set"
    text = voc([("\u5212\u75d5", BOX)])
    for name, encoding in (("a", "gb2312"), ("b", "utf-16"), ("c", "utf-8"), ("d", "gb18030")):
        put(root, name, None)
        first = "" if encoding == "gb18030" else f'<?xml version="1.0" encoding="{encoding}"?>'
        (root / "ANNOTATIONS" / f"{name}.xml").write_bytes((first + text).encode(encoding))
    table = read()
    assert types(table) == dict.fromkeys("abc", "\u5212\u75d5")
    finding = table.attrs["findings"][0]
    assert finding["code"] == "invalid-annotation" and "gb18030" in finding["fix"]
    (root / "ANNOTATIONS" / "b.xml").unlink()
    (root / "ANNOTATIONS" / "c.xml").unlink()
    assert types(read(encoding="gb18030")) == dict.fromkeys("ad", "\u5212\u75d5")


def test_boxes_that_are_turned(tmp_path, read):
    box = "".join(
        f"<{tag}>{value}</{tag}>"
        for tag, value in zip(("cx", "cy", "w", "h", "angle"), (10, 8, 8, 4, np.pi / 2), strict=True)
    )
    thing = (
        f"<annotation><object><type>robndbox</type><name>dent</name><robndbox>{box}</robndbox></object></annotation>"
    )
    put(tmp_path / "set", "1", thing)
    mask = read_mask(read(boxes_as_masks=True)["mask_path"][0])
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[4:12, 8:12] = True
    assert np.array_equal(mask, expected)
    put(tmp_path / "set", "2", thing.replace("8</w>", "nan</w>"))
    assert ("error", "photo-left-out") in codes(read())


def test_folders_of_other_names_are_no_voc(tmp_path):
    put(tmp_path, "1", [("dent", BOX)], images="a", files="b")
    with pytest.raises(LayoutError, match="no layout that is known"):
        read_dataset(tmp_path)
    with pytest.raises(LayoutError, match="no XML files"):
        read_dataset(tmp_path, layout="voc")


@pytest.mark.skipif(not NEU.is_dir(), reason="../shared/data/neu_det is not there")
def test_neu():
    table = read_dataset(NEU)
    names = relative_path(table).str.extract(r"^IMAGES/(.+)_\d+\.jpg$")[0]
    assert len(table) == 1770 and (table["defect_type"] == names).all() and (table["label_index"] == 1).all()
    # counted in the files: 121 have an object of another name than the file
    mixed = next(row for row in table.attrs["findings"] if row["code"] == "several-classes")
    assert mixed["problem"].startswith("121 photo(s)")
    counts = split_counts(assign_splits(table, "supervised"))
    assert counts["normal"].tolist() == [0, 0, 0]
    shares = counts.drop(columns=["normal", "abnormal"]) / counts.drop(columns=["normal", "abnormal"]).sum()
    expected = np.array([[0.7], [0.15], [0.15]])
    assert np.abs(shares.to_numpy() - expected).max() < 0.005  # half a photo of 294
