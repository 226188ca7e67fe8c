"""COCO annotations: what is drawn, how photos are labelled, and that broken files give findings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from pycocotools import mask as coco_mask
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


def annotation(number: int, image, segmentation, category=1, **more) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


def coco(names: list[str], annotations: list[dict], **more) -> dict:
    """Content of a file; ids of photos count from 0."""
    images = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": list(CATEGORIES), **more}


def dataset(root: Path, names: list[str], annotations: list[dict], file: str = "_annotations.coco.json", **more):
    """A COCO file with its photos beside it."""
    folder = Path(file).parent
    return write(root, {file: coco(names, annotations, **more), **photos(*(str(folder / name) for name in names))})


def drawn(table, row: int = 0) -> np.ndarray:
    return read_mask(table["mask_path"][row])


# ------------------------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([SQUARE], boxes((3, 6, 2, 7))),
        ([SQUARE, OTHER], boxes((3, 6, 2, 7), (10, 12, 10, 14))),
        # centres decide: 2.4 keeps column 2 (centre 2.5), 6.6 keeps column 6
        ([[2.4, 3.4, 6.6, 3.4, 6.6, 5.6, 2.4, 5.6]], boxes((3, 6, 2, 7))),
        ([[2.6, 3.6, 6.4, 3.6, 6.4, 5.4, 2.6, 5.4]], boxes((4, 5, 3, 6))),
        # a line into a hole and back: even-odd leaves x 4 to 6, y 4 to 8 empty
        (
            [[2, 2, 10, 2, 10, 10, 2, 10, 2, 4, 4, 4, 4, 8, 6, 8, 6, 4, 2, 4]],
            boxes((2, 10, 2, 10)) & ~boxes((4, 8, 4, 6)),
        ),
        (SQUARE, boxes((3, 6, 2, 7))),  # the list around a single part left out
        ([[-0.3, -0.3, 30.4, -0.3, 30.4, 20.4, -0.3, 20.4]], boxes((0, 20, 0, 30))),  # a hair beyond the border
    ],
)
def test_polygons_have_the_pixels_whose_centres_they_hold(tmp_path, segmentation, expected):
    table = read(dataset(tmp_path / "set", ["a.png"], [annotation(1, 0, segmentation)]))
    assert table.attrs["layout"] == "coco" and codes(table) == []
    assert np.array_equal(drawn(table), expected)


def test_run_lengths_of_a_crowd(tmp_path):
    truth = np.random.default_rng(3).random((HEIGHT, WIDTH)) < 0.4  # full of holes
    counts = coco_mask.encode(np.asfortranarray(truth.astype(np.uint8)))["counts"].decode()
    rle = {"size": [HEIGHT, WIDTH], "counts": counts}
    root = dataset(tmp_path / "set", ["a.png"], [annotation(1, 0, rle, iscrowd=1)], "result.json")
    assert np.array_equal(drawn(read(root)), truth)
    (photo,) = read_instances(root)
    assert photo.crowd == [True] and np.array_equal(photo.instance_masks()[0], truth)


def test_a_photo_has_the_masks_of_all_its_annotations_and_their_categories(tmp_path):
    marks = [annotation(1, 0, [SQUARE], 1), annotation(2, 0, [OTHER], 2), annotation(3, 0, [[20, 0, 22, 0, 22, 2]], 1)]
    root = dataset(tmp_path / "set", ["a.png", "b.png", "c.png"], [*marks, annotation(4, 1, [SQUARE], 2)], "x.json")
    table = read(root)
    assert list(types(table).values()) == ["dent+scratch", "dent", "good"] and table["mask_path"][2] == ""
    assert drawn(table)[boxes((3, 6, 2, 7), (10, 12, 10, 14))].all()
    stored = Image.open(table["mask_path"][0])
    assert stored.mode == "L" and sorted(set(stored.get_flattened_data())) == [0, 255]
    assert set(table["split"]) == {""} and table.attrs["published_split"] is False
    photo, *_, empty = read_instances(root)
    assert (photo.image_path, photo.size) == (root / "a.png", (HEIGHT, WIDTH))
    assert photo.categories == ["scratch", "dent", "scratch"], "in the order of the file"
    assert np.array_equal(photo.instance_masks()[1], boxes((10, 12, 10, 14)))
    assert empty.categories == [] and empty.instance_masks().shape == (0, HEIGHT, WIDTH)


@pytest.mark.parametrize("far", [3, 1e5])
def test_what_reaches_beyond_the_picture_is_cut_off(tmp_path, far):
    polygon = [-far, 15, 5, 15, 5, 20 + far, -far, 20 + far]
    # half plane y > x, from -1e5 to 1e5: its slope is kept
    half = [-1e5, -1e5, 1e5, 1e5, -1e5, 1e5]
    table = read(dataset(tmp_path / "set", ["a.png", "b.png"], [annotation(1, 0, [polygon]), annotation(2, 1, [half])]))
    assert codes(table) == [("warning", "clipped")] * 2 and table.attrs["findings"][0]["path"] == "a.png"
    assert np.array_equal(drawn(table), boxes((15, 20, 0, 5)))
    down, along = np.mgrid[:HEIGHT, :WIDTH]
    assert drawn(table, 1)[down > along].all() and not drawn(table, 1)[down < along].any()


# ----------------------------------------------------------------------------------------------------- where files lie


def test_roboflow_folders_are_the_published_split_copies_share_a_group_and_a_lone_folder_is_no_split(tmp_path):
    names = {"train": ["p1_png.rf.0a.png", "p1_png.rf.0b.png"], "valid": ["p1_png.rf.0c.png", "q.png"], "test": []}
    for split, those in names.items():
        root = dataset(tmp_path / "set", those, [], f"{split}/_annotations.coco.json")
    table = read(root)
    assert table["split"].tolist() == ["train", "train", "val", "val"] and table.attrs["published_split"] is True
    assert table["group"].tolist() == ["p1_png"] * 3 + ["valid/q.png"]
    assert "group-leak" in set(check_dataset(table)["code"])
    table = read(dataset(tmp_path / "lone", ["a.png"], [annotation(1, 0, [SQUARE])], "train/_annotations.coco.json"))
    assert table["split"].tolist() == [""] and table.attrs["published_split"] is False


@pytest.mark.parametrize(
    ("file", "photo", "name"),
    [
        ("annotations/instances_default.json", "images/a.png", "a.png"),  # CVAT
        ("annotations/instances_default.json", "images/default/a.png", "a.png"),
        ("annotations/instances_train2017.json", "train2017/a.png", "a.png"),  # COCO
        ("result.json", "images/a.png", "images/a.png"),  # Label Studio
        ("result.json", "images/a.png", "images\\a.png"),  # the same, exported on Windows
        ("result.json", "images/a.png", "../../label-studio/data/media/upload/3/a.png"),
        ("labels.json", "data/a.png", "a.png"),  # FiftyOne
        ("result.json", "images/a b.png", "/data/local-files/?d=line/images/a%20b.png"),
        ("labels.json", "pictures/a.png", "a.png"),
        ("labels.json", "raw/2026/a.png", "a.png"),
        ("exports/b.json", "photos/a.png", "a.png"),
    ],
)
def test_exports_of_other_tools_and_names_of_other_machines(tmp_path, file, photo, name):
    table = read(write(tmp_path / "set", {photo: None, file: coco([name], [annotation(1, 0, [SQUARE])])}))
    assert types(table) == {photo: "scratch"} and codes(table) == []


def test_several_files_in_one_folder_that_name_their_splits(tmp_path):
    # the same file name in both: each belongs to the folder of its split
    files = {f"annotations/instances_{split}.json": coco(["a.png"], []) for split in ("train", "val")}
    others = {"annotations/captions_train.json": '{"images": [], "annotations": []}'}
    table = read(write(tmp_path / "set", {**files, **others, **photos("images/train/a.png", "images/val/a.png")}))
    assert columns(table, "split") == {"images/train/a.png": "train", "images/val/a.png": "val"}


def test_several_files_have_to_be_chosen_from(tmp_path):
    for split in ("train", "val"):
        for kind, marks in (("damage", [annotation(1, 0, [SQUARE])]), ("parts", [])):
            root = dataset(tmp_path / "set", [f"{split}.png"], marks, f"{split}/{kind}_{split}.json")
    with pytest.raises(LayoutError, match=r"annotations='damage_\{split\}.json'"):
        read(root)
    for pattern, labels in (("damage_{split}.json", [1, 1]), ("parts_*", [0, 0]), ("train/damage_train.json", [1])):
        table = read(root, annotations=pattern)
        assert table["label_index"].tolist() == labels
    assert ("warning", "photos-not-annotated") in codes(table)
    with pytest.raises(LayoutError, match="train/damage_train.json"):
        read(root, annotations="nothing.json")


@pytest.mark.parametrize(
    "text",
    [
        '{"shapes": []}',
        '[{"images": 1, "annotations": 2}]',
        '{"images": {}, "annotations": []}',
        '{"images": [], "annotations": [',
        '{"images": [], "annotations": []}',
    ],
)
def test_a_file_that_is_not_coco_is_an_error(tmp_path, text):
    with pytest.raises(LayoutError, match=str(tmp_path)):
        read_dataset(write(tmp_path, {"a.json": text}), layout="coco")
    write(tmp_path, {"a.png": None, "a.json": '{"images": 3}'})
    with pytest.raises(LayoutError, match="no layout that is known"):
        read_dataset(tmp_path)


def test_a_photo_folder_can_be_named(tmp_path):
    root = tmp_path / "set"
    write(root, {"labels.json": coco(["a.png", "b.png"], [annotation(1, 1, [SQUARE])])})
    write(root, photos("raw/a.png", "raw/b.png", "other/b.png"))
    table = read(root)
    assert ("error", "ambiguous-name") in codes(table) and table["label_index"].tolist() == [0]
    assert types(read(root, image_dir="raw")) == {"raw/a.png": "good", "raw/b.png": "scratch"}
    with pytest.raises(FileNotFoundError, match="image_dir"):
        read(root, image_dir="nowhere")
    for split in ("train", "test"):
        file = {f"{split}/_annotations.coco.json": coco(["a.png"], [annotation(1, 0, [SQUARE])])}
        write(tmp_path / "splits", {**file, f"{split}/pictures/a.png": None})
    for options in ({}, {"image_dir": "pictures"}):
        table = read(tmp_path / "splits", **options)
        assert table["split"].tolist() == ["test", "train"] and codes(table) == []


# -------------------------------------------------------------------------------------------------- objects or defects


def test_objects_that_are_no_defects(tmp_path):
    kinds = ({"defect_type": "good"}, {"defect_type": "crack"}, {})
    marks = [annotation(i, i, [SQUARE], **kind) for i, kind in enumerate(kinds)]
    table = read(dataset(tmp_path / "set", ["a.png", "b.png", "c.png"], marks), objects_are_defects=False)
    assert list(types(table).values()) == ["good", "crack", "good"] and set(table["mask_path"]) == {""}
    with pytest.raises(ValueError, match="objects_are_defects"):
        read(tmp_path / "set", objects_are_defects="no")


def test_a_category_called_ok_marks_no_defect(tmp_path):
    categories = [{"id": 1, "name": "OK"}, {"id": 2, "name": "dent"}]
    marks = [annotation(1, 0, [SQUARE]), annotation(2, 1, [SQUARE]), annotation(3, 1, [[9, 9, 12, 9, 12, 12]], 2)]
    table = read(dataset(tmp_path / "set", ["a.png", "b.png"], marks, categories=categories))
    assert list(types(table).values()) == ["good", "dent"] and not drawn(table, 1)[3:6, 2:7].any()


@pytest.mark.parametrize("name", ["nuts", "mesh"])
def test_built_in_datasets_are_still_mvtec_and_their_coco_files_agree_with_their_masks(tmp_path, name):
    from helpers.pictures.datasets import draw_dataset

    counts = {"n_train": 1, "n_test_normal": 1, "n_test_per_defect": 1, "image_size": 96}
    root = draw_dataset(name, tmp_path, n_frames=2, **counts)
    mvtec = read_dataset(root)
    assert mvtec.attrs["layout"] == "mvtec"
    coco_table = read(root, layout="coco").set_index("image_path")
    for row in mvtec[mvtec["label_index"] == 1].itertuples():
        assert coco_table.loc[row.image_path, "defect_type"] == row.defect_type
        truth, other = read_mask(row.mask_path), read_mask(coco_table.loc[row.image_path, "mask_path"])
        # two ways to decide which pixels of the border belong to a polygon
        assert (truth & other).sum() / (truth | other).sum() > 0.7


# ------------------------------------------------------------------------------------------------------------ the cache


def test_masks_are_drawn_once_and_again_when_the_annotation_changes(tmp_path):
    for split in ("train", "test"):
        file = f"{split}/_annotations.coco.json"
        root = dataset(tmp_path / "set", ["a.png"], [annotation(1, 0, [SQUARE])], file)
    first = read(root)["mask_path"]
    assert first.nunique() == 2, "of photos of one name"
    times = [Path(path).stat().st_mtime_ns for path in first]
    again = read(root)["mask_path"]
    assert again.tolist() == first.tolist() and [Path(path).stat().st_mtime_ns for path in again] == times
    dataset(root, ["a.png"], [annotation(1, 0, [[0, 0, 4, 0, 4, 4, 0, 4]])], "test/_annotations.coco.json")
    table = read(root)
    assert table["mask_path"][0] != first[0] and table["mask_path"][1] == first[1]
    assert np.array_equal(drawn(table), boxes((0, 4, 0, 4)))
    assert not list(root.rglob("*mask*")), "nothing is written into the dataset"


def test_the_default_cache_is_in_the_artifacts(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.paths.PROJECT_ROOT", tmp_path / "project")
    table = read_dataset(dataset(tmp_path / "set", ["a.png"], [annotation(1, 0, [SQUARE])]))
    mask = Path(table["mask_path"][0])
    assert mask.parent.parent == tmp_path / "project" / "artifacts" / ".masks" and mask.parent.name.startswith("set-")
    assert "outside-root" not in set(check_dataset(table)["code"]), "the cache is as it should be"
    table.loc[0, "mask_path"] = str(write(tmp_path, {"x.png": boxes((3, 6, 2, 7))}) / "x.png")
    assert "outside-root" in set(check_dataset(table)["code"])


# -------------------------------------------------------------------------------------------------------- broken files


def broken(tmp_path, annotations, *, names=("a.png", "b.png"), change=None):
    """Table of a file with a sound photo b.png, whose content ``change`` may spoil before it is read."""
    content = coco(list(names), [*annotations, annotation(99, 1, [SQUARE])])
    if change is not None:
        change(content)
    table = read(write(tmp_path / "set", {"x.json": content, **photos(*names)}))
    mask = columns(table, "mask_path")["b.png"]
    assert np.array_equal(read_mask(mask), boxes((3, 6, 2, 7))), "the sound photo is read"
    return table


LINE = [2, 2, 5, 5, 9, 9]
SIZE = [HEIGHT, WIDTH]


@pytest.mark.parametrize(
    ("segmentation", "code"),
    [
        ([[40, 5, 50, 5, 50, 9, 40, 9]], "outside"),
        ([[-9, 5, -1, 5, -1, 9]], "outside"),
        ([LINE], "no-area"),
        ([[2.1, 2.1, 2.2, 2.1, 2.2, 2.2]], "no-area"),
        ([[2, 2, 5, 5]], "too-few-points"),
        ([[]], "too-few-points"),
        ([[2, 2, 5, 5, 9]], "invalid-polygon"),
        ([["x", "y", "z", 1, 2, 3]], "invalid-polygon"),
        ([[2, 2, float("nan"), 5, 9, 1]], "invalid-polygon"),
        ([[2, 2, 1e300, 5, 9, 1]], "invalid-polygon"),
        ("2,2,5,5", "invalid-polygon"),
        ([], "invalid-polygon"),  # and no box
        ({"size": [5, 5], "counts": [25]}, "invalid-rle"),
        ({"size": SIZE, "counts": [500, 500]}, "invalid-rle"),
        ({"size": SIZE, "counts": [-5, 605]}, "invalid-rle"),
        ({"size": SIZE, "counts": "\u00e9!?"}, "invalid-rle"),
        ({"size": SIZE}, "invalid-rle"),
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


@pytest.mark.parametrize("part", [LINE, [1, 1, 2, 2]])
def test_a_part_of_no_area_beside_a_sound_one_is_a_warning(tmp_path, part):
    table = broken(tmp_path, [annotation(1, 0, [part, SQUARE])])
    assert [severity for severity, _ in codes(table)] == ["warning"]
    assert np.array_equal(drawn(table), boxes((3, 6, 2, 7)))


def test_a_part_inside_another_is_no_hole(tmp_path):
    table = broken(tmp_path, [annotation(1, 0, [[2, 2, 10, 2, 10, 10, 2, 10], [4, 4, 6, 4, 6, 6, 4, 6]])])
    assert codes(table) == [("warning", "part-inside-part")]
    assert np.array_equal(drawn(table), boxes((2, 10, 2, 10)))


def added(key: str, *entries):
    return lambda content: content[key].extend(entries)


GONE = {"id": 5, "file_name": "gone.png", "height": HEIGHT, "width": WIDTH}
SIZED = [{"id": 0, "file_name": "a.png", "height": 2 * HEIGHT, "width": 2 * WIDTH}, {"id": 1, "file_name": "b.png"}]


@pytest.mark.parametrize(
    ("marks", "change", "expected", "kept"),
    [
        ([annotation(1, 0, [SQUARE], 77)], None, "error unknown-category, error photo-left-out", "b"),
        ([annotation(1, 0, [SQUARE], [1])], None, "error unknown-category, error photo-left-out", "b"),
        ([annotation(1, 55, [SQUARE])], None, "error unknown-photo", "a b"),
        # {} may be any photo, so none without annotations is known to be normal
        ([annotation(2, {}, [SQUARE])], None, "error unknown-photo, error photo-left-out", "b"),
        ([annotation(7, 5, [SQUARE])], added("images", GONE), "error missing-photo", "a b"),
        ([], added("images", GONE | {"file_name": "../secret.png"}), "error missing-photo", "a b"),
        ([], added("images", {"id": 3}), "error invalid-photo", "a b"),
        (
            [],
            added("images", {"file_name": "c.png"}, "c.png", {"id": [], "file_name": "c"}),
            "error invalid-photo",
            "a b",
        ),
        ([], added("annotations", None), "error unknown-photo, error photo-left-out", "b"),
        ([], added("categories", "dent", {"id": 2, "name": "again"}), "", "a b"),
        # an id of two names is neither
        (
            [annotation(1, 0, [SQUARE], 3)],
            added("categories", {"id": 3, "name": "ok"}, {"id": "3", "name": "crack"}),
            "error unknown-category, error photo-left-out",
            "b",
        ),
        # a sound object beside a broken defect does not make a photo normal
        (
            [annotation(1, 0, [SQUARE], 3), annotation(2, 0, [[1, 1]])],
            added("categories", {"id": 3, "name": "ok"}),
            "error too-few-points, error photo-left-out",
            "b",
        ),
        ([annotation(1, 0, [SQUARE])], lambda content: content.update(images=SIZED), "error annotation-size", "b"),
        ([], lambda content: content["images"][0].pop("height"), "", "a b"),
        (
            [annotation(1, 0, [SQUARE])],
            added("images", {"id": 0, "file_name": "b.png"}),
            "error duplicate-photo-id",
            "b",
        ),
        ([], added("images", {"id": 0, "file_name": "a.png"}), "", "a b"),
    ],
)
def test_what_is_broken_is_a_finding(tmp_path, marks, change, expected, kept):
    write(tmp_path, {"secret.png": None})
    table = broken(tmp_path, marks, change=change)
    assert set(codes(table)) == {tuple(each.split()) for each in expected.split(", ") if each}
    assert list(types(table)) == [f"{name}.png" for name in kept.split()]


def test_a_photo_that_is_listed_twice_is_one_row(tmp_path):
    def change(content):
        content["images"].append({**content["images"][0], "id": 8})
        content["annotations"].append(annotation(3, 8, [OTHER], 2))

    table = broken(tmp_path, [annotation(1, 0, [SQUARE])], change=change)
    assert codes(table) == [] and list(types(table).values()) == ["dent+scratch", "scratch"]


def test_duplicate_annotation_ids(tmp_path):
    same = annotation(1, 0, [SQUARE])
    table = broken(tmp_path, [same, dict(same), annotation(1, 0, [OTHER])])
    assert np.array_equal(drawn(table), boxes((3, 6, 2, 7), (10, 12, 10, 14)))
    counts = [len(photo.categories) for photo in read_instances(tmp_path / "set")]
    assert counts == [2, 1], "the copy is no object of its own"


@pytest.mark.parametrize(
    ("photo", "image", "named", "category"),
    [("1", 1, 1, "1"), (1, "1", "1", 1), (1.0, " 1", 1, 1.0), ("0001", 1, "01", 1), ("a", "a", "x", "x")],
)
def test_ids_that_differ_in_type_only_are_one(tmp_path, photo, image, named, category):
    content = coco(["a.png", "b.png"], [annotation(7, image, [SQUARE], category)])
    content["images"][0]["id"], content["images"][1]["id"] = photo, 2
    content["categories"] = [{"id": named, "name": "dent"}]
    table = read(write(tmp_path / "set", {"labels.json": content, **photos("a.png", "b.png")}))
    assert codes(table) == [] and types(table) == {"a.png": "dent", "b.png": "good"}


@pytest.mark.parametrize("image", ["a.png", None, True, 1e300, "a"])
def test_annotations_whose_photo_cannot_be_known_leave_no_photo_normal(tmp_path, image):
    with pytest.raises(LayoutError):
        read(dataset(tmp_path / "set", ["a.png", "b.png"], [annotation(7, image, [SQUARE])]))


def test_files_that_disagree_whether_a_photo_is_normal(tmp_path):
    root = dataset(tmp_path / "set", ["a.png", "b.png"], [], "train/labels.json")
    write(root, {"test/labels.json": coco(["../train/a.png"], [annotation(1, 0, [SQUARE])])})
    table = read(root)
    assert codes(table) == [("error", "photo-listed-twice")]
    assert types(table) == {"train/a.png": "scratch", "train/b.png": "good"}


def test_boxes_without_outlines_give_no_mask(tmp_path):
    table = broken(tmp_path, [annotation(1, 0, [], bbox=[2, 3, 5, 3])])
    assert codes(table) == [("warning", "boxes-only")]
    assert columns(table, "label_index", "mask_path")["a.png"] == (1, "")
    assert [photo.image_path.name for photo in read_instances(tmp_path / "set")] == ["b.png"]


def test_photos_that_no_file_lists_are_left_out(tmp_path):
    write(tmp_path / "set", {"new.png": None})
    table = broken(tmp_path, [])
    assert codes(table) == [("warning", "photos-not-annotated")] and list(types(table)) == ["a.png", "b.png"]


# --------------------------------------------------------------------------------------------------------- real photos


@pytest.mark.skipif(not CAR_DAMAGE.is_dir(), reason=f"{CAR_DAMAGE} is not there: real photos are not part of it")
def test_car_damage(tmp_path):
    options = {"mask_cache": tmp_path}
    with pytest.raises(LayoutError, match=r"annotations='COCO_mul_\{split}_annos.json'"):
        read_dataset(CAR_DAMAGE, **options)
    table = read_dataset(CAR_DAMAGE, annotations="COCO_{split}_annos.json", **options)
    assert table["split"].value_counts().to_dict() == {"train": 59, "val": 11}
    assert set(table["defect_type"]) == {"damage"}
    # the 8 photos of test have no annotations: they show damage, and are not taken for good ones; img holds copies
    found = [(row["code"], row["path"]) for row in table.attrs["findings"]]
    assert found == [("photos-not-annotated", "img"), ("photos-not-annotated", "test")]
    instances = read_instances(CAR_DAMAGE, annotations="COCO_{split}_annos.json")
    counts = {split: sum(len(p.categories) for p in instances if p.split == split) for split in ("train", "val")}
    assert counts == {"train": 140, "val": 24}
    from pycocotools.coco import COCO

    files = COCO(CAR_DAMAGE / "val" / "COCO_val_annos.json")
    drawn_masks = table.set_index("image_path")["mask_path"]
    for number, image in files.imgs.items():
        truth = np.max([files.annToMask(each) for each in files.imgToAnns[number]], axis=0).astype(bool)
        assert np.array_equal(read_mask(drawn_masks[str(CAR_DAMAGE / "val" / image["file_name"])]), truth)
