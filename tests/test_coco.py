"""COCO annotations: what is drawn, how photos are labelled, and that broken files give findings."""

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from readers import HEIGHT, WIDTH, boxes, codes, columns, photos, read, types, write

from helpers import check_dataset, read_dataset
from helpers.data.coco import read_instances
from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError
from helpers.data.samples import read_table, write_table

CAR_DAMAGE = SHARED / "data" / "car_damage_coco"
SQUARE = [2, 3, 7, 3, 7, 6, 2, 6]  # x 2 to 7, y 3 to 6: 5 x 3 pixels
OTHER = [10, 10, 14, 10, 14, 12, 10, 12]
CATEGORIES = [{"id": 1, "name": "scratch"}, {"id": 2, "name": "dent"}]
ROBOFLOW = "{}/_annotations.coco.json"


def annotation(number: int, image, segmentation, category=1, **more) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


def coco(names: list[str], annotations: list[dict], **more) -> dict:
    """Content of a file; ids of photos count from 0."""
    images = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": list(CATEGORIES), **more}


def drawn(table, row: int = 0) -> np.ndarray:
    return read_mask(table["mask_path"][row])


@pytest.fixture
def put(tmp_path):
    """``put(names, annotations, file, **more)``: root of a dataset with a COCO file more and its photos beside it."""

    def put(names: list[str], annotations: list[dict], file: str = "_annotations.coco.json", **more) -> Path:
        beside = photos(*(str(Path(file).parent / name) for name in names))
        return write(tmp_path / "set", {file: coco(names, annotations, **more), **beside})

    return put


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([SQUARE, OTHER], boxes((3, 6, 2, 7), (10, 12, 10, 14))),
        ([[2.4, 3.6, 6.6, 3.6, 6.6, 5.4, 2.4, 5.4]], boxes((4, 5, 2, 7))),  # the centre 2.5 is inside, 3.5 is not
        # a line into a hole and back: even-odd leaves it empty
        (
            [[2, 2, 10, 2, 10, 10, 2, 10, 2, 4, 4, 4, 4, 8, 6, 8, 6, 4, 2, 4]],
            boxes((2, 10, 2, 10)) & ~boxes((4, 8, 4, 6)),
        ),
        (SQUARE, boxes((3, 6, 2, 7))),  # the list around a single part left out
        ([[-0.3, -0.3, 30.4, -0.3, 30.4, 20.4, -0.3, 20.4]], boxes((0, 20, 0, 30))),  # a hair beyond the border
    ],
)
def test_polygons_have_the_pixels_whose_centres_they_hold(put, segmentation, expected):
    table = read(put(["a.png"], [annotation(1, 0, segmentation)]))
    assert table.attrs["layout"] == "coco" and codes(table) == []
    assert np.array_equal(drawn(table), expected)


def test_run_lengths_of_a_crowd(put):
    truth = np.random.default_rng(3).random((HEIGHT, WIDTH)) < 0.4  # full of holes
    counts = coco_mask.encode(np.asfortranarray(truth.astype(np.uint8)))["counts"].decode()
    root = put(["a.png"], [annotation(1, 0, {"size": [HEIGHT, WIDTH], "counts": counts}, iscrowd=1)], "result.json")
    assert np.array_equal(drawn(read(root)), truth)
    (photo,) = read_instances(root)
    assert photo.crowd == [True] and np.array_equal(photo.instance_masks()[0], truth)


def test_a_photo_has_the_masks_of_all_its_annotations_and_their_categories(put):
    marks = [annotation(1, 0, [SQUARE], 1), annotation(2, 0, [OTHER], 2), annotation(3, 0, [[20, 0, 22, 0, 22, 2]], 1)]
    root = put(["a.png", "b.png", "c.png"], [*marks, annotation(4, 1, [SQUARE], 2)], "x.json")
    table = read(root)
    assert list(types(table).values()) == ["dent+scratch", "dent", "good"] and table["mask_path"][2] == ""
    assert drawn(table)[boxes((3, 6, 2, 7), (10, 12, 10, 14))].all()
    assert set(table["split"]) == {""} and table.attrs["published_split"] is False
    photo, *_, empty = read_instances(root)
    assert (photo.image_path, photo.size) == (root / "a.png", (HEIGHT, WIDTH))
    assert photo.categories == ["scratch", "dent", "scratch"], "in the order of the file"
    assert np.array_equal(photo.instance_masks()[1], boxes((10, 12, 10, 14)))
    assert empty.categories == [] and empty.instance_masks().shape == (0, HEIGHT, WIDTH)


@pytest.mark.parametrize("far", [3, 1e5])
def test_what_reaches_beyond_the_picture_is_cut_off(put, far):
    polygon = [-far, 15, 5, 15, 5, 20 + far, -far, 20 + far]
    half = [-1e5, -1e5, 1e5, 1e5, -1e5, 1e5]  # y > x
    table = read(put(["a.png", "b.png"], [annotation(1, 0, [polygon]), annotation(2, 1, [half])]))
    assert codes(table) == [("warning", "clipped")] * 2
    assert np.array_equal(drawn(table), boxes((15, 20, 0, 5)))
    assert np.array_equal(drawn(table, 1) & ~np.eye(HEIGHT, WIDTH, dtype=bool), np.tri(HEIGHT, WIDTH, -1))


def test_roboflow_folders_are_the_published_split_copies_share_a_group_and_a_lone_folder_is_no_split(put, tmp_path):
    root = put(["p1_png.rf.0a.png", "p1_png.rf.0b.png"], [], ROBOFLOW.format("train"))
    assert read(root)["split"].tolist() == ["", ""] and read(root).attrs["published_split"] is False
    put(["p1_png.rf.0c.png", "q.png"], [], ROBOFLOW.format("valid"))
    table = read(put([], [], ROBOFLOW.format("test")))
    assert table["split"].tolist() == ["train", "train", "val", "val"] and table.attrs["published_split"] is True
    assert table["group"].tolist() == ["p1_png"] * 3 + ["valid/q.png"]
    assert "group-leak" in set(check_dataset(table)["code"])


@pytest.mark.parametrize(
    ("file", "photo", "name"),
    [
        ("annotations/instances_default.json", "images/default/a.png", "a.png"),  # CVAT
        ("annotations/instances_train2017.json", "train2017/a.png", "a.png"),  # COCO
        ("result.json", "images/a.png", "images\\a.png"),  # Label Studio on Windows
        ("labels.json", "data/a.png", "a.png"),  # FiftyOne
        ("result.json", "images/a b.png", "/data/local-files/?d=line/images/a%20b.png"),
        ("exports/b.json", "raw/2026/a.png", "a.png"),
    ],
)
def test_exports_of_other_tools_and_names_of_other_machines(tmp_path, file, photo, name):
    table = read(write(tmp_path / "set", {photo: None, file: coco([name], [annotation(1, 0, [SQUARE])])}))
    assert types(table) == {photo: "scratch"} and codes(table) == []


def test_several_files_in_one_folder_that_name_their_splits(tmp_path):
    # the same file name in both: each belongs to the folder of its split
    files = {f"annotations/instances_{split}.json": coco(["a.png"], []) for split in ("train", "val")}
    files["annotations/captions_train.json"] = coco([], [])
    table = read(write(tmp_path / "set", files | photos("images/train/a.png", "images/val/a.png")))
    assert columns(table, "split") == {"images/train/a.png": "train", "images/val/a.png": "val"}


def test_several_files_have_to_be_chosen_from(put):
    for split in ("train", "val"):
        for kind, marks in (("damage", [annotation(1, 0, [SQUARE])]), ("parts", [])):
            root = put([f"{split}.png"], marks, f"{split}/{kind}_{split}.json")
    with pytest.raises(LayoutError, match=r"annotations='damage_\{split\}.json'"):
        read(root)
    for pattern, labels in (("damage_{split}.json", [1, 1]), ("parts_*", [0, 0]), ("train/damage_train.json", [1])):
        table = read(root, annotations=pattern)
        assert table["label_index"].tolist() == labels
    assert codes(table) == [("warning", "photos-not-annotated")]
    with pytest.raises(LayoutError, match="train/damage_train.json"):
        read(root, annotations="nothing.json")


@pytest.mark.parametrize(
    "text", ["[]", '{"images": {}, "annotations": []}', '{"images": [], "annotations": []}', '{"a": [']
)
def test_a_file_that_is_not_coco_is_an_error(tmp_path, text):
    with pytest.raises(LayoutError, match=str(tmp_path)):
        read_dataset(write(tmp_path, {"a.json": text}), layout="coco")


def test_a_photo_folder_can_be_named(put, tmp_path):
    content = coco(["a.png", "b.png"], [annotation(1, 1, [SQUARE])])
    root = write(tmp_path / "set", {"labels.json": content, **photos("raw/a.png", "raw/b.png", "other/b.png")})
    assert ("error", "ambiguous-name") in codes(read(root)) and read(root)["label_index"].tolist() == [0]
    assert types(read(root, image_dir="raw")) == {"raw/a.png": "good", "raw/b.png": "scratch"}
    with pytest.raises(FileNotFoundError, match="image_dir"):
        read(root, image_dir="nowhere")
    for split in ("train", "test"):
        write(tmp_path / "splits", {ROBOFLOW.format(split): coco(["a.png"], []), f"{split}/pictures/a.png": None})
    for options in ({}, {"image_dir": "pictures"}):
        assert read(tmp_path / "splits", **options)["split"].tolist() == ["test", "train"]


def test_objects_that_are_no_defects_and_a_category_called_ok(put):
    marks = [annotation(i, i, [SQUARE], defect_type=kind) for i, kind in enumerate(("good", "crack", ""))]
    categories = [{"id": 1, "name": "OK"}, {"id": 2, "name": "dent"}]
    root = put(["a.png", "b.png", "c.png"], [*marks, annotation(9, 2, [OTHER], 2)], categories=categories)
    table = read(root, objects_are_defects=False)
    assert list(types(table).values()) == ["good", "crack", "good"] and set(table["mask_path"]) == {""}
    table = read(root)
    assert list(types(table).values()) == ["good", "good", "dent"]
    assert np.array_equal(drawn(table, 2), boxes((10, 12, 10, 14)))


def test_masks_are_drawn_once_and_again_when_the_annotation_changes(put, tmp_path, monkeypatch):
    for split in ("train", "test"):
        root = put(["a.png"], [annotation(1, 0, [SQUARE])], ROBOFLOW.format(split))
    first = read(root)["mask_path"]
    assert first.nunique() == 2, "of photos of one name"
    times = [Path(path).stat().st_mtime_ns for path in first]
    assert [Path(path).stat().st_mtime_ns for path in read(root)["mask_path"]] == times
    put(["a.png"], [annotation(1, 0, [[0, 0, 4, 0, 4, 4, 0, 4]])], ROBOFLOW.format("test"))
    table = read(root)
    assert table["mask_path"][0] != first[0] and table["mask_path"][1] == first[1]
    assert np.array_equal(drawn(table), boxes((0, 4, 0, 4)))
    assert not list(root.rglob("*mask*")), "nothing is written into the dataset"
    monkeypatch.setattr("helpers.paths.PROJECT_ROOT", tmp_path / "project")
    table = read_dataset(root)
    assert Path(table["mask_path"][0]).parents[1] == tmp_path / "project" / "artifacts" / ".masks"
    assert "outside-root" not in set(check_dataset(table)["code"]), "the cache is as it should be"
    table.loc[0, "mask_path"] = str(write(tmp_path, {"x.png": boxes((3, 6, 2, 7))}) / "x.png")
    assert "outside-root" in set(check_dataset(table)["code"])


def broken(tmp_path, annotations, *, change=None):
    """Table of a file with a sound photo b.png, whose content ``change`` may spoil before it is read."""
    content = coco(["a.png", "b.png"], [*annotations, annotation(99, 1, [SQUARE])])
    if change is not None:
        change(content)
    table = read(write(tmp_path / "set", {"x.json": content, **photos("a.png", "b.png")}))
    mask = columns(table, "mask_path")["b.png"]
    assert np.array_equal(read_mask(mask), boxes((3, 6, 2, 7))), "the sound photo is read"
    return table


LINE = [2, 2, 5, 5, 9, 9]
SIZE = [HEIGHT, WIDTH]


@pytest.mark.parametrize(
    ("segmentation", "code"),
    [
        ([[40, 5, 50, 5, 50, 9, 40, 9]], "outside"),
        ([LINE], "no-area"),
        ([[]], "too-few-points"),
        ([["x", "y", "z", 1, 2, 3]], "invalid-polygon"),
        ([LINE, [2, 2, 5, 5, 9]], "invalid-polygon"),
        ([], "invalid-polygon"),  # and no box
        ({"size": [5, 5], "counts": [25]}, "invalid-rle"),
        ({"size": SIZE, "counts": [500, 500]}, "invalid-rle"),
        ({"size": SIZE, "counts": [600]}, "no-area"),
    ],
)
def test_outlines_that_cannot_be_drawn(tmp_path, segmentation, code):
    table = broken(tmp_path, [annotation(1, 0, segmentation)])
    # whether the photo is normal is not known, so it goes
    assert codes(table) == sorted([("error", code), ("error", "photo-left-out")]) and len(table) == 1
    found = check_dataset(read_table(write_table(table, tmp_path / "samples.csv"))).set_index("code")
    assert tuple(found.loc[code, ["severity", "path"]]) == ("error", "a.png"), "it survives the file"
    assert [photo.image_path.name for photo in read_instances(tmp_path / "set")] == ["b.png"]


@pytest.mark.parametrize(
    ("part", "severity", "code"),
    [
        (LINE, "warning", "no-area"),
        ([1, 1, 2, 2], "warning", "too-few-points"),
        ([1, 1, 2], "error", "invalid-polygon"),
        ([4, 4, 6, 4, 6, 5, 4, 5], "warning", "part-inside-part"),  # COCO has no holes
    ],
)
def test_a_part_beside_a_sound_one(tmp_path, part, severity, code):
    table = broken(tmp_path, [annotation(1, 0, [part, SQUARE])])
    assert codes(table) == [(severity, code)] and np.array_equal(drawn(table), boxes((3, 6, 2, 7)))


def added(key: str, *entries):
    return lambda content: content[key].extend(entries)


GONE = {"id": 5, "file_name": "gone.png", "height": HEIGHT, "width": WIDTH}
SIZED = [{"id": 0, "file_name": "a.png", "height": 2 * HEIGHT, "width": 2 * WIDTH}, {"id": 1, "file_name": "b.png"}]
UNKNOWN, FEW = (f"error {code}, error photo-left-out" for code in ("unknown-category", "too-few-points"))
OK = {"id": 3, "name": "ok"}


@pytest.mark.parametrize(
    ("marks", "change", "expected", "kept"),
    [
        ([annotation(1, 0, [SQUARE], 77)], None, UNKNOWN, "b"),
        ([annotation(1, 55, [SQUARE])], None, "error unknown-photo", "a b"),
        # {} may be any photo, so none without annotations is known to be normal
        ([annotation(2, {}, [SQUARE])], None, "error unknown-photo, error photo-left-out", "b"),
        ([annotation(7, 5, [SQUARE])], added("images", GONE), "error missing-photo", "a b"),
        ([], added("images", GONE | {"file_name": "../secret.png"}), "error missing-photo", "a b"),
        ([], added("images", {"id": 3}, "c", {"id": [], "file_name": "c"}), "error invalid-photo", "a b"),
        # an id of two names is neither
        ([annotation(1, 0, [SQUARE], 3)], added("categories", OK, {"id": "3", "name": "crack"}), UNKNOWN, "b"),
        # a sound object beside a broken defect does not make a photo normal
        ([annotation(1, 0, [SQUARE], 3), annotation(2, 0, [[1, 1]])], added("categories", OK), FEW, "b"),
        ([annotation(1, 0, [SQUARE])], lambda content: content.update(images=SIZED), "error annotation-size", "b"),
        ([], added("images", {"id": 0, "file_name": "b.png"}), "error duplicate-photo-id", "b"),
        ([], added("images", {"id": 0, "file_name": "a.png"}), "", "a b"),
    ],
)
def test_what_is_broken_is_a_finding(tmp_path, marks, change, expected, kept):
    write(tmp_path, {"secret.png": None})
    table = broken(tmp_path, marks, change=change)
    assert set(codes(table)) == {tuple(each.split()) for each in expected.split(", ") if each}
    assert list(types(table)) == [f"{name}.png" for name in kept.split()]


def test_photos_and_annotations_that_are_listed_twice(tmp_path, put):
    same, again = annotation(1, 0, [SQUARE]), {"id": 8, "file_name": "a.png"}
    table = broken(tmp_path, [same, dict(same), annotation(3, 8, [OTHER], 2)], change=added("images", again))
    assert codes(table) == [] and list(types(table).values()) == ["dent+scratch", "scratch"]
    counts = [len(photo.categories) for photo in read_instances(tmp_path / "set")]
    assert counts == [2, 1], "the copy is no object of its own"
    table = read(put(["../a.png"], [annotation(1, 0, [OTHER], 2)], "test/labels.json"))
    assert codes(table) == [("error", "photo-listed-twice")] and len(table) == 2


@pytest.mark.parametrize(
    ("photo", "image", "named", "category"), [("1", 1, 1, "1"), (1.0, " 1", "01", 1), ("a", "a", "x", "x")]
)
def test_ids_that_differ_in_type_only_are_one(tmp_path, photo, image, named, category):
    content = coco(["a.png", "b.png"], [annotation(7, image, [SQUARE], category)])
    content["images"][0]["id"], content["images"][1]["id"] = photo, 2
    content["categories"] = [{"id": named, "name": "dent"}]
    table = read(write(tmp_path / "set", {"labels.json": content, **photos("a.png", "b.png")}))
    assert codes(table) == [] and types(table) == {"a.png": "dent", "b.png": "good"}


@pytest.mark.parametrize("image", ["a.png", None, True, 1e300])
def test_annotations_whose_photo_cannot_be_known_leave_no_photo_normal(put, image):
    with pytest.raises(LayoutError):
        read(put(["a.png", "b.png"], [annotation(7, image, [SQUARE])]))


def test_boxes_without_outlines_give_no_mask_and_unlisted_photos_are_left_out(tmp_path):
    write(tmp_path / "set", {"new.png": None})
    table = broken(tmp_path, [annotation(1, 0, [], bbox=[2, 3, 5, 3])])
    assert codes(table) == [("warning", "boxes-only"), ("warning", "photos-not-annotated")]
    assert columns(table, "label_index", "mask_path")["a.png"] == (1, "") and len(table) == 2


@pytest.mark.skipif(not CAR_DAMAGE.is_dir(), reason=f"{CAR_DAMAGE} is not there: real photos are not part of it")
def test_car_damage(tmp_path):
    table = read_dataset(CAR_DAMAGE, mask_cache=tmp_path, annotations="COCO_{split}_annos.json")
    assert table["split"].value_counts().to_dict() == {"train": 59, "val": 11}
    # the 8 photos of test have no annotations: they show damage, and are not taken for good ones; img holds copies
    found = [(row["code"], row["path"]) for row in table.attrs["findings"]]
    assert found == [("photos-not-annotated", "img"), ("photos-not-annotated", "test")]
    files = COCO(CAR_DAMAGE / "val" / "COCO_val_annos.json")
    drawn_masks = table.set_index("image_path")["mask_path"]
    for number, image in files.imgs.items():
        truth = np.max([files.annToMask(each) for each in files.imgToAnns[number]], axis=0).astype(bool)
        assert np.array_equal(read_mask(drawn_masks[str(CAR_DAMAGE / "val" / image["file_name"])]), truth)
