"""COCO annotations: what is drawn, how photos are labelled, and that broken files give findings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from pycocotools import mask as coco_mask

from helpers import check_dataset, read_dataset
from helpers.analysis.regions import draw_polygon, pixels_of
from helpers.data.coco import read_instances
from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError
from helpers.data.samples import read_table, relative_path, write_table

CAR_DAMAGE = SHARED / "data" / "car_damage_coco"
HEIGHT, WIDTH = 20, 30
SQUARE = [2, 3, 7, 3, 7, 6, 2, 6]  # x 2 to 7, y 3 to 6: 5 x 3 pixels
CATEGORIES = [{"id": 1, "name": "scratch"}, {"id": 2, "name": "dent"}]


def pixels(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Mask of boxes (top, bottom, left, right)."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def save_photo(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng([seed, *path.name.encode()])
    Image.fromarray(draw.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)


def annotation(number: int, image: int, segmentation, category: int = 1, **more) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


def write_coco_file(file: Path, names: list[str], annotations: list[dict], photos: Path | None = None, **more) -> dict:
    """A COCO file and its photos, beside it or in ``photos``; ids count from 0."""
    for name in names:
        save_photo((photos or file.parent) / name)
    images = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": list(CATEGORIES), **more}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return content


@pytest.fixture
def read(tmp_path):
    """``read(folder, **options)`` with a cache of its own."""
    return lambda folder, **options: read_dataset(folder, mask_cache=tmp_path / "cache", **options)


def codes(table) -> list[tuple[str, str]]:
    return [(row["severity"], row["code"]) for row in table.attrs["findings"]]


# ------------------------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([SQUARE], pixels((3, 6, 2, 7))),
        ([SQUARE, [10, 10, 14, 10, 14, 12, 10, 12]], pixels((3, 6, 2, 7), (10, 12, 10, 14))),
        # centres decide: 2.4 keeps column 2 (centre 2.5), 6.6 keeps column 6
        ([[2.4, 3.4, 6.6, 3.4, 6.6, 5.6, 2.4, 5.6]], pixels((3, 6, 2, 7))),
        ([[2.6, 3.6, 6.4, 3.6, 6.4, 5.4, 2.6, 5.4]], pixels((4, 5, 3, 6))),
        # a line into a hole and back: even-odd leaves x 4 to 6, y 4 to 8 empty
        (
            [[2, 2, 10, 2, 10, 10, 2, 10, 2, 4, 4, 4, 4, 8, 6, 8, 6, 4, 2, 4]],
            pixels((2, 10, 2, 10)) & ~pixels((4, 8, 4, 6)),
        ),
        (SQUARE, pixels((3, 6, 2, 7))),  # the list around a single part left out
    ],
    ids=["square", "two-parts", "outwards", "inwards", "keyhole", "flat"],
)
def test_polygons_have_the_pixels_whose_centres_they_hold(tmp_path, read, segmentation, expected):
    write_coco_file(tmp_path / "set" / "_annotations.coco.json", ["a.png"], [annotation(1, 0, segmentation)])
    table = read(tmp_path / "set")
    assert table.attrs["layout"] == "coco"
    assert np.array_equal(read_mask(table["mask_path"][0]), expected)
    assert table.attrs["findings"] == []


@pytest.mark.parametrize("compressed", [False, True], ids=["counts", "compressed"])
@pytest.mark.parametrize("crowd", [0, 1])
def test_run_lengths(tmp_path, read, compressed, crowd):
    rng = np.random.default_rng(3)
    truth = rng.random((HEIGHT, WIDTH)) < 0.4  # full of holes
    if compressed:
        counts = coco_mask.encode(np.asfortranarray(truth.astype(np.uint8)))["counts"].decode()
    else:
        flat = truth.ravel(order="F")
        changes = np.flatnonzero(np.diff(np.concatenate([[False], flat]).astype(int))).tolist()
        counts = np.diff([0, *changes, flat.size]).tolist()
    rle = {"size": [HEIGHT, WIDTH], "counts": counts}
    write_coco_file(tmp_path / "set" / "result.json", ["a.png"], [annotation(1, 0, rle, iscrowd=crowd)])
    assert np.array_equal(read_mask(read(tmp_path / "set")["mask_path"][0]), truth)
    photo = read_instances(tmp_path / "set")[0]
    assert photo.crowd == [bool(crowd)]
    assert np.array_equal(photo.instance_masks()[0], truth)


def test_a_photo_has_the_masks_of_all_its_annotations_and_their_categories(tmp_path, read):
    annotations = [
        annotation(1, 0, [SQUARE], 1),
        annotation(2, 0, [[10, 10, 14, 10, 14, 12, 10, 12]], 2),
        annotation(3, 0, [[20, 0, 22, 0, 22, 2, 20, 2]], 1),
        annotation(4, 1, [SQUARE], 2),
    ]
    write_coco_file(tmp_path / "set" / "x.json", ["a.png", "b.png", "c.png"], annotations)
    table = read(tmp_path / "set")
    assert table["defect_type"].tolist() == ["dent+scratch", "dent", "good"]
    assert table["label_index"].tolist() == [1, 1, 0]
    assert table["mask_path"][2] == ""
    expected = pixels((3, 6, 2, 7), (10, 12, 10, 14), (0, 2, 20, 22))
    assert np.array_equal(read_mask(table["mask_path"][0]), expected)
    stored = Image.open(table["mask_path"][0])
    assert stored.mode == "L" and sorted(set(stored.get_flattened_data())) == [0, 255]
    assert table["split"].tolist() == ["", "", ""] and table.attrs["published_split"] is False


def test_instances_in_the_order_of_the_file(tmp_path):
    annotations = [annotation(5, 0, [[10, 10, 14, 10, 14, 12, 10, 12]], 2), annotation(6, 0, [SQUARE], 1)]
    write_coco_file(tmp_path / "frames" / "_annotations.coco.json", ["b.png", "a.png"], annotations)
    empty, photo = read_instances(tmp_path / "frames")
    assert photo.image_path == tmp_path / "frames" / "b.png" and photo.size == (HEIGHT, WIDTH)
    assert photo.categories == ["dent", "scratch"]
    masks = photo.instance_masks()
    assert masks.dtype == bool and masks.shape == (2, HEIGHT, WIDTH)
    assert np.array_equal(masks[0], pixels((10, 12, 10, 14))) and np.array_equal(masks[1], pixels((3, 6, 2, 7)))
    assert empty.categories == [] and empty.instance_masks().shape == (0, HEIGHT, WIDTH)


# ----------------------------------------------------------------------------------------------------- where files lie


def test_roboflow_folders_are_the_published_split(tmp_path, read):
    for folder in ("train", "valid", "test"):
        write_coco_file(tmp_path / "set" / folder / "_annotations.coco.json", [f"{folder}.png"], [])
    table = read(tmp_path / "set")
    assert dict(zip(relative_path(table), table["split"], strict=True)) == {
        "train/train.png": "train",
        "valid/valid.png": "val",
        "test/test.png": "test",
    }
    assert table.attrs["published_split"] is True


def test_a_lone_split_folder_is_no_split(tmp_path, read):
    write_coco_file(tmp_path / "set" / "train" / "_annotations.coco.json", ["a.png"], [annotation(1, 0, [SQUARE])])
    table = read(tmp_path / "set")
    assert table["split"].tolist() == [""] and table.attrs["published_split"] is False


def test_copies_that_roboflow_made_of_a_photo_share_a_group(tmp_path, read):
    names = ["p1_png.rf.aaa.png", "p1_png.rf.bbb.png", "p2_png.rf.ccc.png"]
    write_coco_file(tmp_path / "set" / "_annotations.coco.json", names, [])
    groups = read(tmp_path / "set")["group"].tolist()
    assert groups[0] == groups[1] != groups[2]


def test_copies_that_roboflow_made_of_a_photo_and_put_into_two_splits_are_a_leak(tmp_path, read):
    for split, names in {
        "train": ["p1_png.rf.0a.png", "p1_png.rf.0b.png"],
        "valid": ["p1_png.rf.0c.png", "q.png"],
    }.items():
        write_coco_file(tmp_path / "set" / split / "_annotations.coco.json", names, [])
    table = read(tmp_path / "set")
    assert table["group"].tolist() == ["p1_png"] * 3 + ["valid/q.png"]
    assert "group-leak" in set(check_dataset(table)["code"])


@pytest.mark.parametrize(
    ("file", "photos", "name"),
    [
        ("annotations/instances_default.json", "images", "a.png"),  # CVAT
        ("annotations/instances_default.json", "images/default", "a.png"),
        ("annotations/instances_train2017.json", "train2017", "a.png"),  # COCO
        ("result.json", "", "images/a.png"),  # Label Studio
        ("result.json", "", "images\\a.png"),  # the same, exported on Windows
        ("result.json", "images", "../../label-studio/data/media/upload/3/a.png"),
        ("labels.json", "data", "a.png"),  # FiftyOne
    ],
)
def test_exports_of_other_tools(tmp_path, read, file, photos, name):
    root = tmp_path / "set"
    save_photo(root / photos / (name.replace("\\", "/") if "images" in name else "a.png"))
    images = [{"id": 7, "file_name": name, "height": HEIGHT, "width": WIDTH}]
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": [annotation(1, 7, [SQUARE])], "categories": CATEGORIES}
    (root / file).write_text(json.dumps(content))
    table = read(root)
    assert table["label_index"].tolist() == [1] and table.attrs["findings"] == []


def test_several_files_in_one_folder_that_name_their_splits(tmp_path, read):
    for split in ("train", "val"):
        file = tmp_path / "set" / "annotations" / f"instances_{split}.json"
        # the same file name in both: each belongs to the folder of its split
        write_coco_file(file, ["a.png"], [], photos=tmp_path / "set" / "images" / split)
    (tmp_path / "set" / "annotations" / "captions_train.json").write_text('{"images": [], "annotations": []}')
    table = read(tmp_path / "set")
    assert dict(zip(relative_path(table), table["split"], strict=True)) == {
        "images/train/a.png": "train",
        "images/val/a.png": "val",
    }


def test_several_files_have_to_be_chosen_from(tmp_path, read):
    for split in ("train", "val"):
        folder = tmp_path / "set" / split
        write_coco_file(folder / f"damage_{split}.json", [f"{split}.png"], [annotation(1, 0, [SQUARE])])
        write_coco_file(folder / f"parts_{split}.json", [f"{split}.png"], [])
    with pytest.raises(
        LayoutError, match=r"train holds 2 COCO files \(damage_train.json, parts_train.json\)"
    ) as caught:
        read(tmp_path / "set")
    assert "annotations='damage_{split}.json'" in str(caught.value)
    assert read(tmp_path / "set", annotations="damage_{split}.json")["label_index"].tolist() == [1, 1]
    assert read(tmp_path / "set", annotations="parts_*")["label_index"].tolist() == [0, 0]
    only_train = read(tmp_path / "set", annotations="damage_train.json")
    assert only_train["label_index"].tolist() == [1]
    assert ("warning", "annotations-not-read") in codes(only_train)
    with pytest.raises(LayoutError, match=r"no COCO file called 'nothing.json'; it has: train/damage_train.json, "):
        read(tmp_path / "set", annotations="nothing.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"shapes": []}', "is no COCO file: it lacks images and annotations"),
        ('[{"images": 1, "annotations": 2}]', "is no COCO file: it needs the lists"),
        ('{"images": {}, "annotations": []}', "is no COCO file: it needs the lists"),
        ('{"images": [], "annotations": [', "is not valid JSON"),
        ('{"images": [], "annotations": []}', "no photo that can be used"),
    ],
)
def test_a_file_that_is_not_coco_is_an_error(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(LayoutError, match=words):
        read_dataset(tmp_path, layout="coco")


def test_what_is_no_coco_is_not_taken_for_it(tmp_path):
    save_photo(tmp_path / "a.png")
    (tmp_path / "other.json").write_text('{"images": 3}')
    with pytest.raises(LayoutError, match="no layout that is known"):
        read_dataset(tmp_path)


# -------------------------------------------------------------------------------------------------- objects or defects


def test_objects_that_are_no_defects(tmp_path, read):
    annotations = [
        annotation(1, 0, [SQUARE], defect_type="good"),
        annotation(2, 1, [SQUARE], defect_type="crack"),
        annotation(3, 2, [SQUARE]),
    ]
    write_coco_file(tmp_path / "set" / "_annotations.coco.json", ["a.png", "b.png", "c.png"], annotations)
    table = read(tmp_path / "set", objects_are_defects=False)
    assert table["defect_type"].tolist() == ["good", "crack", "good"]
    assert table["mask_path"].tolist() == ["", "", ""]
    with pytest.raises(ValueError, match="objects_are_defects is 'no'"):
        read(tmp_path / "set", objects_are_defects="no")


def test_a_category_called_ok_marks_no_defect(tmp_path, read):
    categories = [{"id": 1, "name": "OK"}, {"id": 2, "name": "dent"}]
    annotations = [annotation(1, 0, [SQUARE]), annotation(2, 1, [SQUARE]), annotation(3, 1, [[9, 9, 12, 9, 12, 12]], 2)]
    write_coco_file(tmp_path / "set" / "x.json", ["a.png", "b.png"], annotations, categories=categories)
    table = read(tmp_path / "set")
    assert table["defect_type"].tolist() == ["good", "dent"]
    assert not read_mask(table["mask_path"][1])[3:6, 2:7].any()


@pytest.mark.parametrize("name", ["nuts", "mesh"])
def test_built_in_datasets_are_still_mvtec_and_their_coco_files_agree_with_their_masks(tmp_path, read, name):
    from helpers.pictures.datasets import draw_dataset

    counts = {"n_train": 1, "n_test_normal": 1, "n_test_per_defect": 1, "image_size": 96}
    root = draw_dataset(name, tmp_path, n_frames=2, **counts)
    mvtec = read_dataset(root)
    assert mvtec.attrs["layout"] == "mvtec"
    coco = read(root, layout="coco").set_index("image_path")
    for row in mvtec[mvtec["label_index"] == 1].itertuples():
        assert coco.loc[row.image_path, "defect_type"] == row.defect_type
        truth, drawn = read_mask(row.mask_path), read_mask(coco.loc[row.image_path, "mask_path"])
        # two ways to decide which pixels of the border belong to a polygon
        assert (truth & drawn).sum() / (truth | drawn).sum() > 0.7
    if name == "nuts":
        photos = read_instances(root / "frames")
        listed = json.loads((root / "frames" / "_annotations.coco.json").read_text())["annotations"]
        assert sum(len(photo.categories) for photo in photos) == len(listed)
        areas = [mask.sum() for photo in photos for mask in photo.instance_masks()]
        assert areas == pytest.approx([each["area"] for each in listed], rel=0.03)


# ------------------------------------------------------------------------------------------------------------ the cache


def test_masks_are_drawn_once_and_again_when_the_annotation_changes(tmp_path, read):
    file = tmp_path / "set" / "x.json"
    annotations = [annotation(1, 0, [SQUARE]), annotation(2, 1, [SQUARE])]
    write_coco_file(file, ["a.png", "b.png"], annotations)
    first = read(tmp_path / "set")["mask_path"]
    times = [Path(path).stat().st_mtime_ns for path in first]
    again = read(tmp_path / "set")["mask_path"]
    assert again.tolist() == first.tolist()
    assert [Path(path).stat().st_mtime_ns for path in again] == times
    annotations[0]["segmentation"] = [[0, 0, 4, 0, 4, 4, 0, 4]]
    write_coco_file(file, ["a.png", "b.png"], annotations)
    changed = read(tmp_path / "set")["mask_path"]
    assert changed[0] != first[0] and changed[1] == first[1]
    assert np.array_equal(read_mask(changed[0]), pixels((0, 4, 0, 4)))
    assert not list((tmp_path / "set").rglob("*mask*")), "nothing is written into the dataset"


def test_masks_of_photos_with_one_name_are_kept_apart(tmp_path, read):
    for split in ("train", "test"):
        write_coco_file(tmp_path / "set" / split / "x.json", ["a.png"], [annotation(1, 0, [SQUARE])])
    assert read(tmp_path / "set")["mask_path"].nunique() == 2


def test_the_default_cache_is_in_the_artifacts(tmp_path, monkeypatch):
    import helpers.paths

    monkeypatch.setattr(helpers.paths, "PROJECT_ROOT", tmp_path / "project")
    write_coco_file(tmp_path / "set" / "x.json", ["a.png"], [annotation(1, 0, [SQUARE])])
    mask = Path(read_dataset(tmp_path / "set")["mask_path"][0])
    assert mask.parent.parent == tmp_path / "project" / "artifacts" / ".masks"
    assert mask.parent.name.startswith("set-")


# -------------------------------------------------------------------------------------------------------- broken files


def broken(tmp_path, read, annotations, *, names=("a.png", "b.png"), change=None):
    """Table of a file with a sound photo b.png, whose content ``change`` may spoil before it is read."""
    file = tmp_path / "set" / "_annotations.coco.json"
    sound = annotation(99, 1, [SQUARE])
    content = write_coco_file(file, list(names), [*annotations, sound])
    if change is not None:
        change(content)
        file.write_text(json.dumps(content))
    table = read(tmp_path / "set")
    row = table[table["image_path"].str.endswith("b.png")].iloc[0]
    assert np.array_equal(read_mask(row["mask_path"]), pixels((3, 6, 2, 7))), "the sound photo is read"
    return table


def test_missing_photo(tmp_path, read):
    def change(content):
        content["images"].append({"id": 5, "file_name": "gone.png", "height": HEIGHT, "width": WIDTH})
        content["annotations"].append(annotation(7, 5, [SQUARE]))

    table = broken(tmp_path, read, [], change=change)
    assert codes(table) == [("error", "missing-photo")] and len(table) == 2
    assert "gone.png" in table.attrs["findings"][0]["problem"]


def test_a_photo_outside_the_dataset_is_not_read(tmp_path, read):
    save_photo(tmp_path / "secret.png")

    def change(content):
        content["images"][0]["file_name"] = "../secret.png"

    table = broken(tmp_path, read, [], change=change)
    assert ("error", "missing-photo") in codes(table)
    assert not table["image_path"].str.contains("secret").any()


@pytest.mark.parametrize("far", [3, 1e6])
def test_polygon_partly_outside_is_clipped(tmp_path, read, far):
    polygon = [-far, 15, 5, 15, 5, 20 + far, -far, 20 + far]
    table = broken(tmp_path, read, [annotation(1, 0, [polygon])])
    assert codes(table) == [("warning", "clipped")]
    assert table.attrs["findings"][0]["path"] == "a.png"
    assert np.array_equal(read_mask(table["mask_path"][0]), pixels((15, 20, 0, 5)))


def test_slanted_polygon_from_far_away_keeps_its_slope(tmp_path, read):
    # half plane y > x, from -1e6 to 1e6: columns c have the rows below c
    table = broken(tmp_path, read, [annotation(1, 0, [[-1e6, -1e6, 1e6, 1e6, -1e6, 1e6]])])
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    drawn = read_mask(table["mask_path"][0])
    assert drawn[rows > columns].all() and not drawn[rows < columns].any()


def test_a_hair_beyond_the_border_is_nothing(tmp_path, read):
    table = broken(tmp_path, read, [annotation(1, 0, [[-0.3, -0.3, 30.4, -0.3, 30.4, 20.4, -0.3, 20.4]])])
    assert codes(table) == []
    assert read_mask(table["mask_path"][0]).all()


LINE = [2, 2, 5, 5, 9, 9]
BAD_PARTS = {
    "outside": ([[40, 5, 50, 5, 50, 9, 40, 9]], "outside"),
    "outside-left": ([[-9, 5, -1, 5, -1, 9]], "outside"),
    "line": ([LINE], "no-area"),
    "sliver": ([[2.1, 2.1, 2.2, 2.1, 2.2, 2.2]], "no-area"),
    "two-points": ([[2, 2, 5, 5]], "too-few-points"),
    "empty-part": ([[]], "too-few-points"),
    "odd": ([[2, 2, 5, 5, 9]], "invalid-polygon"),
    "words": ([["x", "y", "z", 1, 2, 3]], "invalid-polygon"),
    "not-a-number": ([[2, 2, float("nan"), 5, 9, 1]], "invalid-polygon"),
    "enormous": ([[2, 2, 1e300, 5, 9, 1]], "invalid-polygon"),
    "text": ("2,2,5,5", "invalid-polygon"),
    "rle-of-another-size": ({"size": [5, 5], "counts": [25]}, "invalid-rle"),
    "rle-too-long": ({"size": [HEIGHT, WIDTH], "counts": [500, 500]}, "invalid-rle"),
    "rle-too-short": ({"size": [HEIGHT, WIDTH], "counts": [5, 5]}, "invalid-rle"),
    "rle-negative": ({"size": [HEIGHT, WIDTH], "counts": [-5, 605]}, "invalid-rle"),
    "rle-garbage": ({"size": [HEIGHT, WIDTH], "counts": "\u00e9!?"}, "invalid-rle"),
    "rle-without-counts": ({"size": [HEIGHT, WIDTH]}, "invalid-rle"),
    "rle-empty": ({"size": [HEIGHT, WIDTH], "counts": [600]}, "no-area"),
}


@pytest.mark.parametrize("case", BAD_PARTS)
def test_outlines_that_cannot_be_drawn(tmp_path, read, case):
    segmentation, code = BAD_PARTS[case]
    table = broken(tmp_path, read, [annotation(1, 0, segmentation)])
    # whether the photo is normal is not known, so it goes
    assert codes(table) == [("error", code), ("error", "photo-left-out")]
    assert len(table) == 1


@pytest.mark.parametrize("part", [LINE, [1, 1, 2, 2]])
def test_a_part_of_no_area_beside_a_sound_one_is_a_warning(tmp_path, read, part):
    table = broken(tmp_path, read, [annotation(1, 0, [part, SQUARE])])
    assert [severity for severity, _ in codes(table)] == ["warning"]
    assert np.array_equal(read_mask(table["mask_path"][0]), pixels((3, 6, 2, 7)))


def test_a_part_inside_another_is_no_hole(tmp_path, read):
    table = broken(tmp_path, read, [annotation(1, 0, [[2, 2, 10, 2, 10, 10, 2, 10], [4, 4, 6, 4, 6, 6, 4, 6]])])
    assert codes(table) == [("warning", "part-inside-part")]
    assert np.array_equal(read_mask(table["mask_path"][0]), pixels((2, 10, 2, 10)))


@pytest.mark.parametrize("category", [77, None, [1]])
def test_unknown_category(tmp_path, read, category):
    table = broken(tmp_path, read, [annotation(1, 0, [SQUARE], category)])
    assert codes(table) == [("error", "unknown-category"), ("error", "photo-left-out")]
    assert len(table) == 1


def test_annotation_of_an_unknown_photo(tmp_path, read):
    table = broken(tmp_path, read, [annotation(1, 55, [SQUARE]), annotation(2, {}, [SQUARE])])
    # {} may be any photo, so none without annotations is known to be normal
    assert codes(table) == [("error", "unknown-photo")] * 2 + [("error", "photo-left-out")]
    assert table["label_index"].tolist() == [1]
    table = broken(tmp_path, read, [annotation(1, 55, [SQUARE])])
    assert codes(table) == [("error", "unknown-photo")] and table["label_index"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("photo", "image", "named", "category"),
    [("1", 1, 1, "1"), (1, "1", "1", 1), (1.0, " 1", 1, 1.0), ("0001", 1, "01", 1), ("a", "a", "x", "x")],
)
def test_ids_that_differ_in_type_only_are_one(tmp_path, read, photo, image, named, category):
    content = write_coco_file(
        tmp_path / "set" / "labels.json", ["a.png", "b.png"], [annotation(7, image, [SQUARE], category)]
    )
    content["images"][0]["id"], content["images"][1]["id"] = photo, 2
    content["categories"] = [{"id": named, "name": "dent"}]
    (tmp_path / "set" / "labels.json").write_text(json.dumps(content))
    table = read(tmp_path / "set")
    assert codes(table) == [] and table["defect_type"].tolist() == ["dent", "good"]


@pytest.mark.parametrize("image", ["a.png", None, True, 1e300, "a"])
def test_annotations_whose_photo_cannot_be_known_leave_no_photo_normal(tmp_path, read, image):
    write_coco_file(tmp_path / "set" / "labels.json", ["a.png", "b.png"], [annotation(7, image, [SQUARE])])
    with pytest.raises(LayoutError):
        read(tmp_path / "set")


def test_a_sound_object_beside_a_broken_defect_does_not_make_a_photo_normal(tmp_path, read):
    def change(content):
        content["categories"].append({"id": 3, "name": "ok"})

    table = broken(tmp_path, read, [annotation(1, 0, [SQUARE], 3), annotation(2, 0, [[1, 1]])], change=change)
    assert ("error", "photo-left-out") in codes(table)
    assert table["label_index"].tolist() == [1]


def test_a_category_id_of_two_names_is_neither(tmp_path, read):
    def change(content):
        content["categories"] += [{"id": 3, "name": "ok"}, {"id": "3", "name": "crack"}]

    table = broken(tmp_path, read, [annotation(1, 0, [SQUARE], 3)], change=change)
    expected = ["duplicate-category-id", "photo-left-out", "unknown-category"]
    assert sorted(code for _, code in codes(table)) == expected and len(table) == 1


def test_files_that_disagree_whether_a_photo_is_normal(tmp_path, read):
    root = tmp_path / "set"
    write_coco_file(root / "train" / "labels.json", ["a.png", "b.png"], [])
    content = {"images": [{"id": 1, "file_name": "../train/a.png"}], "categories": CATEGORIES}
    (root / "test").mkdir()
    (root / "test" / "labels.json").write_text(json.dumps({**content, "annotations": [annotation(1, 1, [SQUARE])]}))
    table = read(root)
    assert codes(table) == [("error", "photo-listed-twice")] and relative_path(table).tolist() == ["train/b.png"]


@pytest.mark.parametrize("folder", ["pictures", "raw/2026"])
def test_a_photo_folder_of_another_name_is_found_or_named(tmp_path, read, folder):
    root = tmp_path / "set"
    write_coco_file(root / "labels.json", ["a.png", "b.png"], [annotation(1, 1, [SQUARE])], photos=root / folder)
    for options in ({}, {"image_dir": folder}):
        table = read(root, **options)
        assert relative_path(table).tolist() == [f"{folder}/a.png", f"{folder}/b.png"]
        assert table["label_index"].tolist() == [0, 1] and codes(table) == []
    save_photo(root / "other" / "b.png")
    table = read(root)
    assert ("error", "ambiguous-name") in codes(table) and table["label_index"].tolist() == [0]
    assert read(root, image_dir=folder)["label_index"].tolist() == [0, 1]
    with pytest.raises(FileNotFoundError, match="image_dir"):
        read(root, image_dir="nowhere")


def test_a_photo_folder_is_named_for_every_split(tmp_path, read):
    root = tmp_path / "set"
    for split in ("train", "test"):
        file = root / split / "_annotations.coco.json"
        write_coco_file(file, ["a.png"], [annotation(1, 0, [SQUARE])], photos=root / split / "pictures")
    for options in ({}, {"image_dir": "pictures"}):
        table = read(root, **options)
        assert table["split"].tolist() == ["test", "train"] and codes(table) == []


def test_a_file_in_another_folder_can_be_named(tmp_path, read):
    root = tmp_path / "set"
    write_coco_file(root / "exports" / "b.json", ["a.png"], [annotation(1, 0, [SQUARE])], photos=root / "photos")
    assert read(root)["label_index"].tolist() == [1]
    write_coco_file(root / "exports" / "old.json", ["a.png"], [], photos=root / "photos")
    assert read(root, annotations="exports/b.json")["label_index"].tolist() == [1]


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("part%20A%20%231.png", "images/part A #1.png"),
        ("Gr\u00f6\u00dfe.png", "images/Gro\u0308\u00dfe.png"),
        ("D:\\line3\\images\\cam1\\1.png", "images/cam1/1.png"),
        ("/data/local-files/?d=line/images/a%20b.png", "images/a b.png"),
        ("IMAGES/A.PNG", "images/a.png"),
    ],
)
def test_names_of_another_machine(tmp_path, read, written, stored):
    root = tmp_path / "set"
    for name in (stored, "images/cam2/1.png"):
        save_photo(root / name)
    images = [{"id": 1, "file_name": written}, {"id": 2, "file_name": "D:\\line3\\images\\cam2\\1.png"}]
    content = {"images": images, "annotations": [annotation(1, 1, [SQUARE])], "categories": CATEGORIES}
    (root / "result.json").write_text(json.dumps(content))
    table = read(root)
    assert codes(table) == []
    assert relative_path(table)[table["label_index"] == 1].tolist() == [stored]


def test_an_encoding_is_named_and_can_be_given(tmp_path, read):
    file = tmp_path / "set" / "labels.json"
    content = write_coco_file(file, ["a.png"], [annotation(1, 0, [SQUARE])])
    content["categories"] = [{"id": 1, "name": "\u5212\u75d5"}]
    file.write_bytes(json.dumps(content, ensure_ascii=False).encode("gb18030"))
    with pytest.raises(LayoutError, match="gb18030"):
        read(tmp_path / "set")
    assert read(tmp_path / "set", encoding="gb18030")["defect_type"].tolist() == ["\u5212\u75d5"]
    with pytest.raises(ValueError, match="encoding"):
        read(tmp_path / "set", encoding="klingon")


def test_duplicate_photo_ids_of_different_photos_leave_both_out(tmp_path, read):
    def change(content):
        content["images"][2]["id"] = 0

    table = broken(tmp_path, read, [annotation(1, 0, [SQUARE])], names=("a.png", "b.png", "c.png"), change=change)
    assert codes(table) == [("error", "duplicate-photo-id")]
    assert relative_path(table).tolist() == ["b.png"]


def test_a_photo_that_is_listed_twice_is_one_row(tmp_path, read):
    def change(content):
        content["images"].append(dict(content["images"][0]))  # same id
        content["images"].append({**content["images"][0], "id": 8})
        content["annotations"].append(annotation(3, 8, [[10, 10, 14, 10, 14, 12, 10, 12]], 2))

    table = broken(tmp_path, read, [annotation(1, 0, [SQUARE])], change=change)
    assert codes(table) == [("warning", "duplicate-photo-id"), ("warning", "photo-listed-twice")]
    assert table["defect_type"].tolist() == ["dent+scratch", "scratch"]


def test_duplicate_annotation_ids(tmp_path, read):
    same = annotation(1, 0, [SQUARE])
    other = annotation(1, 0, [[10, 10, 14, 10, 14, 12, 10, 12]])
    table = broken(tmp_path, read, [same, dict(same), other])
    assert codes(table) == [("warning", "duplicate-annotation-id")] * 2
    assert np.array_equal(read_mask(table["mask_path"][0]), pixels((3, 6, 2, 7), (10, 12, 10, 14)))
    counts = [len(photo.categories) for photo in read_instances(tmp_path / "set")]
    assert counts == [2, 1], "the copy is no object of its own"


def test_size_that_is_not_the_photos(tmp_path, read):
    def change(content):
        content["images"][0].update(height=HEIGHT * 2, width=WIDTH * 2)

    table = broken(tmp_path, read, [annotation(1, 0, [SQUARE])], change=change)
    assert codes(table) == [("error", "annotation-size")] and len(table) == 1
    assert "30x20 pixels" in table.attrs["findings"][0]["problem"]
    assert "60x40" in table.attrs["findings"][0]["problem"]


def test_size_need_not_be_stated(tmp_path, read):
    def change(content):
        del content["images"][0]["height"]

    table = broken(tmp_path, read, [annotation(1, 0, [SQUARE])], change=change)
    assert codes(table) == [] and len(table) == 2


@pytest.mark.parametrize("record", [{"id": 3}, {"file_name": "c.png"}, "c.png", {"id": [], "file_name": "c.png"}])
def test_records_without_name_or_id(tmp_path, read, record):
    table = broken(tmp_path, read, [], change=lambda content: content["images"].append(record))
    assert codes(table) == [("error", "invalid-photo")]


def test_entries_that_are_no_objects(tmp_path, read):
    def change(content):
        content["annotations"].append(None)
        content["categories"] += ["dent", {"id": 2, "name": "again"}]

    table = broken(tmp_path, read, [], change=change)
    expected = ["duplicate-category-id", "invalid-annotation", "invalid-category"]
    assert sorted(code for _, code in codes(table)) == expected


def test_boxes_without_outlines_give_no_mask(tmp_path, read):
    boxes = [annotation(1, 0, [], bbox=[2, 3, 5, 3])]
    table = broken(tmp_path, read, boxes)
    assert codes(table) == [("warning", "boxes-only")]
    assert (table["label_index"][0], table["mask_path"][0]) == (1, "")
    assert [photo.image_path.name for photo in read_instances(tmp_path / "set")] == ["b.png"]
    table = broken(tmp_path, read, [annotation(1, 0, [])])
    assert codes(table) == [("error", "invalid-polygon"), ("error", "photo-left-out")]


def test_photos_that_no_file_lists_are_left_out(tmp_path, read):
    save_photo(tmp_path / "set" / "new.png")
    table = broken(tmp_path, read, [])
    assert codes(table) == [("warning", "photos-not-annotated")]
    assert "new.png" in table.attrs["findings"][0]["problem"] and len(table) == 2


def test_findings_survive_the_file_and_are_part_of_the_check(tmp_path, read):
    table = broken(tmp_path, read, [annotation(1, 0, [SQUARE], 77)])
    stored = read_table(write_table(table, tmp_path / "samples.csv"))
    assert stored.attrs["findings"] == table.attrs["findings"]
    for each in (table, stored):
        checked = check_dataset(each).set_index("code")
        assert checked.loc["unknown-category", "severity"] == "error"
        assert checked.loc["unknown-category", "path"] == "a.png"
        # masks lie outside the dataset, in the cache, and that is as it should be
        assert "outside-root" not in checked.index


def test_another_mask_outside_the_root_is_still_an_error(tmp_path, read):
    table = broken(tmp_path, read, [])
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(tmp_path / "elsewhere.png")
    table.loc[table["label_index"] == 1, "mask_path"] = str(tmp_path / "elsewhere.png")
    assert "outside-root" in check_dataset(table)["code"].tolist()


def test_drawing_says_what_is_wrong():
    drawn = draw_polygon([(-2, 0), (4, 0), (4, 4), (-2, 4)], (HEIGHT, WIDTH))
    assert drawn.code == "clipped" and "reaches 2 pixels beyond" in drawn.problem
    assert pixels_of(drawn.region).sum() == 16


# --------------------------------------------------------------------------------------------------------- real photos


@pytest.mark.skipif(not CAR_DAMAGE.is_dir(), reason=f"{CAR_DAMAGE} is not there: real photos are not part of it")
def test_car_damage(read):
    with pytest.raises(LayoutError, match=r"annotations='COCO_mul_\{split\}_annos.json'"):
        read(CAR_DAMAGE)
    table = read(CAR_DAMAGE, annotations="COCO_{split}_annos.json")
    assert table["split"].value_counts().to_dict() == {"train": 59, "val": 11}
    assert set(table["defect_type"]) == {"damage"}
    # the 8 photos of test have no annotations: they show damage, and are not taken for good ones
    # img holds copies
    assert [(row["code"], row["path"]) for row in table.attrs["findings"]] == [
        ("photos-not-annotated", "img"),
        ("photos-not-annotated", "test"),
    ]
    for split, number in (("train", 140), ("val", 24)):
        listed = json.loads((CAR_DAMAGE / split / f"COCO_{split}_annos.json").read_text())
        photos = [photo for photo in read_instances(CAR_DAMAGE, annotations="COCO_{split}_annos.json")]
        counts = [len(photo.categories) for photo in photos if photo.split == split]
        assert sum(counts) == number == len(listed["annotations"])
    from pycocotools.coco import COCO

    coco = COCO(CAR_DAMAGE / "val" / "COCO_val_annos.json")
    for number, image in coco.imgs.items():
        truth = np.max([coco.annToMask(each) for each in coco.imgToAnns[number]], axis=0).astype(bool)
        row = table[table["image_path"] == str(CAR_DAMAGE / "val" / image["file_name"])].iloc[0]
        assert np.array_equal(read_mask(row["mask_path"]), truth)
    parts = read(CAR_DAMAGE, annotations="COCO_mul_{split}_annos.json")
    assert len(parts) == 70 and "door+headlamp" in set(parts["defect_type"])
    assert sorted(code for _, code in codes(parts)) == ["clipped"] * 2 + ["photos-not-annotated"] * 2
