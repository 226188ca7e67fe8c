"""Folders as the field has them: masks find their photos, nothing becomes a class or is left out without a word."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.data.checks import check_dataset
from helpers.data.convert import write_dataset
from helpers.data.formats import read_dataset
from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError
from helpers.data.pieces import resized
from helpers.data.samples import make_table, read_table, relative_path, write_table
from helpers.paths import NOTEBOOKS_FOLDER
from helpers.session import collect_parameters

SIZE = (24, 32)


def photo(root: Path, *names: str, size: tuple[int, int] = SIZE) -> Path:
    """Write a photo of its own under each name."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(list(str(name).encode()))
        kind = "JPEG" if file.suffix.lower() == ".jfif" else None
        Image.fromarray(rng.integers(40, 200, (*size, 3), dtype=np.uint8)).save(file, kind)
    return root


def mask(root: Path, *names: str, value: int = 255, box: tuple[int, int, int, int] = (2, 8, 3, 12)) -> Path:
    """Write a mask under each name; ``box`` is top, bottom, left, right."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros(SIZE, np.uint8)
        pixels[box[0] : box[1], box[2] : box[3]] = value
        Image.fromarray(pixels).save(file)
    return root


def types(table: pd.DataFrame) -> dict[str, int]:
    return table["defect_type"].value_counts().to_dict()


def masks(table: pd.DataFrame) -> dict[str, str]:
    """Name of the photo -> path of its mask below the root, for the photos that have one."""
    root = Path(table.attrs["root"])
    pairs = zip(relative_path(table), table["mask_path"], strict=True)
    return {name: Path(path).relative_to(root).as_posix() for name, path in pairs if path}


def told(table: pd.DataFrame, *severities: str) -> set[tuple[str, str]]:
    found = check_dataset(table, near_duplicates=False)
    return set(found.loc[found["severity"].isin(severities), ["code", "path"]].itertuples(index=False, name=None))


# -------------------------------------------------------------------------------------------------------- class folders


@pytest.mark.parametrize("place", ["mask/{type}", "ground_truth/{type}", "{type}_mask", "mask_{type}", "{type}/masks"])
def test_masks_of_class_folders_lie_beside_them(tmp_path, place):
    photo(tmp_path, "good/0.jpg", "good/1.jpg", "good/2.jpg", "crack/0.jpg", "crack/1.jpg", "colour/0.jpg")
    for name in ("crack/0", "crack/1", "colour/0"):
        kind, number = name.split("/")
        mask(tmp_path, f"{place.format(type=kind)}/{number}.png")
    table = read_dataset(tmp_path)
    assert table.attrs["layout"] == "classes" and types(table) == {"good": 3, "crack": 2, "colour": 1}
    assert masks(table) == {
        f"{kind}/{number}.jpg": f"{place.format(type=kind)}/{number}.png"
        for kind, number in (("crack", 0), ("crack", 1), ("colour", 0))
    }
    assert not {code for code, _ in told(table, "error", "warning")} - {"too-few-train", "one-class-test"}


def test_classes_in_a_folder_of_images_beside_one_of_masks(tmp_path):
    photo(tmp_path, "images/good/0.jpg", "images/good/1.jpg", "images/hole/0.jpg", "images/hole/1.jpg")
    mask(tmp_path, "masks/hole/0.png")
    table = read_dataset(tmp_path)
    assert types(table) == {"good": 2, "hole": 2}, "a photo without a mask is not good where its folder says hole"
    assert masks(table) == {"images/hole/0.jpg": "masks/hole/0.png"}
    assert ("missing-mask", "images/hole/1.jpg") in told(table, "error")


def test_empty_masks_of_good_photos_are_read(tmp_path):
    photo(tmp_path, "train/good/0.png", "test/good/0.png", "test/hole/0.png")
    mask(tmp_path, "ground_truth/hole/0_mask.png")
    mask(tmp_path, "ground_truth/good/0_mask.png", value=0)
    assert {code for code, _ in told(read_dataset(tmp_path), "error", "warning")} <= {"too-few-train", "too-few-val"}
    photo(tmp_path, "test/gt/0.png")
    assert ("named-as-masks", "") in told(read_dataset(tmp_path), "warning")


def test_masks_under_a_name_that_nobody_knows_are_no_photos(tmp_path):
    photo(tmp_path, *(f"{kind}/{i}.png" for kind in ("good", "crack") for i in range(3)))
    mask(tmp_path, "umrisse/0.png", "umrisse/1.png")
    table = read_dataset(tmp_path)
    assert {("mask-as-photo", "umrisse/0.png"), ("mask-as-photo", "umrisse/1.png")} <= told(table, "error")


def test_a_folder_of_empty_masks_is_no_class_and_one_black_photo_is_a_photo(tmp_path):
    photo(tmp_path, *(f"{kind}/{i}.png" for kind in ("good", "crack") for i in range(3)))
    mask(tmp_path, "leer/0.png", "leer/1.png", "crack/9.png", value=0)
    found = told(read_dataset(tmp_path), "error")
    assert {path for code, path in found if code == "mask-as-photo"} == {"leer/0.png", "leer/1.png"}


def test_a_defect_type_may_be_called_label(tmp_path):
    photo(tmp_path, "train/good/0.png", "test/good/1.png", "test/label/0.png")
    mask(tmp_path, "ground_truth/label/0_mask.png")
    assert masks(read_dataset(tmp_path)) == {"test/label/0.png": "ground_truth/label/0_mask.png"}


def test_results_of_another_tool_are_no_class(tmp_path):
    photo(
        tmp_path,
        *(f"{kind}/{i}.jpg" for kind in ("good", "ng", "results", "thumbs_128", "Anomaly Maps") for i in range(2)),
    )
    table = read_dataset(tmp_path)
    assert types(table) == {"good": 2, "ng": 2}
    unused = {("unused-pictures", name) for name in ("results", "thumbs_128", "Anomaly Maps")}
    assert unused <= told(table, "warning")
    assert ("defect-types", "") in told(table, "info")


def test_small_pictures_of_a_class_are_said(tmp_path):
    photo(tmp_path, "good/0.jpg", "good/1.jpg", "ng/0.jpg")
    photo(tmp_path, "klein/0.jpg", "klein/1.jpg", size=(12, 16))
    assert {code for code, path in told(read_dataset(tmp_path), "warning") if path.startswith("klein")} == {
        "small-photos"
    }


def test_photos_of_one_stem_are_two_photos(tmp_path):
    photo(tmp_path, *(f"{kind}/{name}" for kind in ("good", "scratch") for name in ("1.jpg", "1.png", "2.png")))
    table = read_dataset(tmp_path)
    assert types(table) == {"good": 3, "scratch": 3} and masks(table) == {}
    # a PNG that looks like one is a mask, one that does not stays a photo
    mask(tmp_path, "scratch/3.png")
    photo(tmp_path, "scratch/3.jpg")
    table = read_dataset(tmp_path)
    assert types(table) == {"good": 3, "scratch": 4} and masks(table) == {"scratch/3.jpg": "scratch/3.png"}


def test_a_mask_beside_a_good_photo_that_marks_pixels_is_an_error(tmp_path):
    photo(tmp_path, "good/1.jpg", "good/2.jpg", "hole/1.jpg")
    mask(tmp_path, "hole/1.png", "good/1.png")
    mask(tmp_path, "good/2.png", value=0)
    table = read_dataset(tmp_path)
    assert set(masks(table)) == {"good/1.jpg", "hole/1.jpg"}
    assert ("mask-on-good", "good/1.png") in told(table, "error")


# -------------------------------------------------------------------------------------------------------- the word good


@pytest.mark.parametrize("names", ["ok_front def_front", "cast_ok cast_def", "OK NG", "Good-Parts bad", "normal_2 n2"])
def test_the_word_for_good_in_split_folders(tmp_path, names):
    good, bad = names.split()
    photo(tmp_path, *(f"{split}/{kind}/{i}.jpg" for split in ("train", "test") for kind in (good, bad) for i in (0, 1)))
    table = read_dataset(tmp_path)
    assert types(table) == {"good": 4, bad: 4}
    guessed = ("normal-by-word", "") in told(table, "warning")
    assert guessed == (good in ("ok_front", "Good-Parts")), "a guess is said"


@pytest.mark.parametrize("names", ["a b", "not_ok ng", "ok_a ok_b", "almost_good torn"])
@pytest.mark.parametrize("split", ["train/", ""])
def test_which_of_unknown_folders_is_good_is_asked(tmp_path, names, split):
    first, second = names.split()
    photo(tmp_path, f"{split}{first}/0.jpg", f"{split}{second}/0.jpg")
    with pytest.raises(LayoutError) as caught:
        read_dataset(tmp_path)
    given = [hint["normal"] for hint in caught.value.hints if "normal" in hint]
    assert sorted(given) == sorted([first, second])
    for hint in caught.value.hints:
        table = read_dataset(tmp_path, **hint)
        assert table.loc[table["label_index"] == 0, "group"].tolist() == [f"{split}{hint['normal']}/0.jpg"]
        # without the layout's name too
        assert types(read_dataset(tmp_path, normal=hint["normal"])) == types(table)
    everything = read_dataset(tmp_path, normal="")
    assert everything["label_index"].tolist() == [1, 1]


def test_several_folders_of_good_photos(tmp_path):
    photo(tmp_path, "test/ok_a/0.jpg", "test/ok_b/0.jpg", "test/rest/0.jpg", "good_2/0.jpg")
    assert types(read_dataset(tmp_path, normal=["ok_a", "OK_B"])) == {"good": 2, "rest": 1}
    assert types(read_dataset(tmp_path)) == {"good": 2, "rest": 1}
    photo(tmp_path, "test/good/0.jpg")
    table = read_dataset(tmp_path)
    assert types(table) == {"good": 1, "ok_a": 1, "ok_b": 1, "rest": 1}
    assert ("normal-by-word", "") in told(table, "warning"), "called ok, and read as defects"


def test_the_command_line_names_the_folder_of_good_photos():
    parameters = collect_parameters(
        NOTEBOOKS_FOLDER, "quick", ["NORMAL=whole", "LAYOUT=classes", "OPTIONS={image_dir: raw}"], {}
    )
    first = parameters["01_setup_and_validate"]
    assert (first["NORMAL"], first["LAYOUT"], first["OPTIONS"]) == ("whole", "classes", {"image_dir": "raw"})


# ------------------------------------------------------------------------------------------- masks beside split folders


@pytest.mark.parametrize(
    "place",
    ["masks/{type}", "gt/{type}", "label/{type}", "masks/test/{type}", "test/ground_truth/{type}", "test/{type}/mask"],
)
def test_masks_beside_split_folders(tmp_path, place):
    photo(tmp_path, "train/good/0.png", "test/good/0.png", "test/scratch/0.png", "test/scratch/1.png")
    folder = place.format(type="scratch")
    mask(tmp_path, f"{folder}/0_mask.png", f"{folder}/1_mask.png")
    table = read_dataset(tmp_path)
    assert table.attrs["layout"] == "mvtec" and types(table) == {"good": 2, "scratch": 2}
    assert masks(table) == {f"test/scratch/{i}.png": f"{folder}/{i}_mask.png" for i in (0, 1)}


def test_masks_in_one_folder_for_all_types(tmp_path):
    photo(tmp_path, "train/good/0.png", "test/good/5.png", "test/hole/0.png", "test/cut/1.png", "test/cut/2.png")
    mask(tmp_path, "gt/0.png", "gt/1.png")
    table = read_dataset(tmp_path)
    assert masks(table) == {"test/hole/0.png": "gt/0.png", "test/cut/1.png": "gt/1.png"}
    # whose mask it is cannot be known: nobody's, which is an error
    photo(tmp_path, "test/cut/0.png")
    table = read_dataset(tmp_path)
    assert masks(table) == {"test/cut/1.png": "gt/1.png"}
    assert ("mask-without-photo", "gt/0.png") in told(table, "error")


def test_mvtec_ad_2(tmp_path):
    photo(
        tmp_path,
        *(f"{part}/good/{i:03d}_regular.png" for part in ("train", "validation", "test_public") for i in (0, 1)),
    )
    photo(tmp_path, "test_public/bad/000_overexposed.png", "test_private/000.png", "test_private_mixed/000.png")
    mask(tmp_path, "test_public/ground_truth/bad/000_overexposed_mask.png")
    table = read_dataset(tmp_path)
    assert table.groupby(["split", "defect_type"]).size().to_dict() == {
        ("train", "good"): 2,
        ("val", "good"): 2,
        ("test", "good"): 2,
        ("test", "bad"): 1,
    }
    name = "bad/000_overexposed"
    assert masks(table) == {f"test_public/{name}.png": f"test_public/ground_truth/{name}_mask.png"}
    unread = {("unused-pictures", "test_private"), ("unused-pictures", "test_private_mixed")}
    assert unread <= told(table, "warning")


def test_several_masks_of_one_photo_are_one(tmp_path):
    """MVTec LOCO: a folder of masks a photo, their values from 236 to 255."""
    photo(tmp_path, "train/good/0.png", "test/good/0.png", "test/logical/000.png", "test/logical/001.png")
    mask(tmp_path, "ground_truth/logical/000/000.png", value=236)
    mask(tmp_path, "ground_truth/logical/000/001.png", value=255, box=(20, 24, 0, 32))
    mask(tmp_path, "ground_truth/logical/001/000.png", value=244)
    table = read_dataset(tmp_path, mask_cache=tmp_path / "cache").set_index("group")
    both = read_mask(table.loc["test/logical/000.png", "mask_path"])
    assert both.sum() == 6 * 9 + 4 * 32 and both[2:8, 3:12].all() and both[20:].all()
    assert read_mask(table.loc["test/logical/001.png", "mask_path"]).sum() == 6 * 9


@pytest.mark.parametrize(
    ("name", "content", "layout"),
    [
        ("test/dent/0.json", {"shapes": [], "imagePath": "0.png"}, "labelme"),
        ("annotations.json", {"images": [], "annotations": []}, "coco"),
    ],
)
def test_annotations_among_folders_of_types_are_said(tmp_path, name, content, layout):
    photo(tmp_path, "train/good/0.png", "test/good/0.png", "test/dent/0.png")
    (tmp_path / name).write_text(json.dumps(content))
    assert ("unused-annotations", name) in told(read_dataset(tmp_path), "warning")


def test_ignored_files_beyond_those_that_are_listed_are_counted(tmp_path):
    photo(tmp_path, "good/0.png", "dent/0.png")
    for i in range(103):
        (tmp_path / f"good/{i}.log").write_text("x")
    found = told(read_dataset(tmp_path), "info")
    assert sum(code == "ignored-file" and bool(path) for code, path in found) == 100
    assert ("ignored-file", "") in found


def test_annotations_that_masks_were_drawn_from_are_no_warning(tmp_path):
    photo(tmp_path, "train/good/0.png", "test/good/0.png", "test/dent/0.png")
    mask(tmp_path, "ground_truth/dent/0_mask.png")
    (tmp_path / "dataset.json").write_text("{}")
    (tmp_path / "a.coco.json").write_text('{"images": [], "annotations": []}')
    assert ("unused-annotations", "a.coco.json") in told(read_dataset(tmp_path), "info")


def test_photos_in_formats_that_are_not_read_are_said(tmp_path):
    photo(tmp_path, "train/good/0.JPG", "train/good/web.jfif", "test/good/1.jpg", "test/dent/0.jpg")
    (tmp_path / "train/good/IMG_1.HEIC").write_bytes(b"x")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/0.CR2").write_bytes(b"x")
    table = read_dataset(tmp_path)
    assert len(table) == 4
    assert {("unread-format", "train/good/IMG_1.HEIC"), ("unread-format", "raw/0.CR2")} <= told(table, "warning")


@pytest.mark.parametrize("kind", ["OK", "good_2", "ok_front", "results", "no_defect", "defect_free", "mask", "label"])
def test_defect_types_of_any_name_come_back_from_folders(tmp_path, kind):
    photo(tmp_path / "old", "a.png", "b.png", "c.png")
    rows = [{"image_path": f"{name}.png", "label_index": int(name != "a"), "split": "test"} for name in "abc"]
    rows = [{**row, "defect_type": kind if row["label_index"] else "good"} for row in rows]
    table = make_table(rows, root=tmp_path / "old", layout="table", name="old", published_split=True)
    for name, change in (("copied", None), ("resized", resized(table, size=8))):
        write_dataset(table, tmp_path / name, change=change)
        back = read_dataset(tmp_path / name)
        assert back.attrs["layout"] != "table" and sorted(back["label_index"]) == [0, 1, 1]


# -------------------------------------------------------------------------------------------------------------- pairing

PAIRS = [
    ("{}.jpg", "{}_segmentation.png"),  # ISIC
    ("img{}.png", "img{}_seg_mask.png"),
    ("{}.png", "mask_{}.png"),
    ("img_{}.png", "mask_{}.png"),
    ("img_{}.tif", "img_{}_masks.tif"),
    ("{}.png", "{}_GT.png"),
    ("{}.png", "{}-lesion.png"),
    ("{}.png", "defect {}.png"),
    ("cam1_{}.png", "cam1_{}_0.png"),
    ("{}.jpg", "{}.jpg.png"),
    ("a/{}.png", "a/{}_mask.png"),
    ("a/{}.png", "{}.png"),
]


@pytest.mark.parametrize(("photos", "named"), PAIRS)
def test_masks_are_paired_by_what_names_have_in_common(tmp_path, photos, named):
    for i in range(4):
        photo(tmp_path / "images", photos.format(f"{i:04d}"))
        mask(tmp_path / "masks", named.format(f"{i:04d}"), value=255 * (i > 1))
    table = read_dataset(tmp_path)
    assert masks(table) == {f"images/{photos.format(f'{i:04d}')}": f"masks/{named.format(f'{i:04d}')}" for i in (2, 3)}
    assert "mask-without-photo" not in {code for code, _ in told(table, "error", "warning")}


@pytest.mark.parametrize("named", ["x{}.png", "0{}.png", "0001_{}.png", "{}_a_0.png"])
def test_masks_whose_photo_cannot_be_told_are_an_error(tmp_path, named):
    photo(tmp_path / "images", *(f"{i:04d}.png" for i in range(3)), "0002.jpg", "0002_a.png")
    mask(tmp_path / "masks", named.format("0002"))
    table = read_dataset(tmp_path)
    assert masks(table) == {}
    assert ("mask-without-photo", f"masks/{named.format('0002')}") in told(table, "error")


def test_of_two_masks_of_one_name_the_second_is_said(tmp_path):
    photo(tmp_path / "images", "a.png", "b.png")
    mask(tmp_path / "masks", "a.png", "a.bmp", "b.png")
    table = read_dataset(tmp_path)
    assert masks(table) == {"images/a.png": "masks/a.bmp", "images/b.png": "masks/b.png"}
    assert ("mask-without-photo", "masks/a.png") in told(table, "error")


def test_parts_of_a_photo_in_masks_of_their_own(tmp_path):
    photo(tmp_path / "images", "0001.png", "0002.png")
    mask(tmp_path / "masks", "0001_crack.png")
    mask(tmp_path / "masks", "0001_hole.png", box=(20, 24, 0, 32))
    table = read_dataset(tmp_path, mask_cache=tmp_path / "cache")
    assert table["label_index"].tolist() == [1, 0]
    assert read_mask(table["mask_path"][0]).sum() == 6 * 9 + 4 * 32


@pytest.mark.parametrize("ending", ["_GT", "_label", "-mask"])
def test_masks_beside_their_photos_without_folders_of_types(tmp_path, ending):
    """KolektorSDD and KolektorSDD2."""
    for split, first in (("train", 10), ("test", 20)):
        for i in range(first, first + 3):
            photo(tmp_path, f"{split}/{i}.png")
            mask(tmp_path, f"{split}/{i}{ending}.png", value=255 * (i % 10 == 2))
    table = read_dataset(tmp_path)
    assert table.groupby(["split", "label_index"]).size().to_dict() == {
        (split, label): 2 - label for split in ("train", "test") for label in (0, 1)
    }
    assert masks(table) == {f"{s}/{i}.png": f"{s}/{i}{ending}.png" for s, i in (("train", 12), ("test", 22))}


def test_folders_of_images_and_masks_of_each_split_side_by_side(tmp_path):
    photo(tmp_path, "train_images/a.png", "train_images/b.png", "test_images/a.png", "extra_images/c.png")
    mask(tmp_path, "train_masks/a.png", "test_masks/a.png")
    table = read_dataset(tmp_path)
    assert table["split"].tolist() == ["test", "train", "train"] and table["label_index"].tolist() == [1, 1, 0]
    assert ("unused-pictures", "extra_images") in told(table, "warning")


def calls_of(function: Callable[[], object]) -> int:
    """Calls of Python and C functions while it runs: work that no other process disturbs."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def test_metadata_of_many_photos_takes_time_in_proportion(tmp_path):
    calls = {}
    for number in (300, 1200):
        root = tmp_path / str(number)
        names = [f"{i:05d}.png" for i in range(number)]
        for name in names:
            file = photo(root, f"images/{name}", size=(2, 2)) / f"masks/{name}"
            file.parent.mkdir(exist_ok=True)
            Image.new("L", (2, 2), 0).save(file)
        records = [{"file_name": f"/other/machine/images/{name}", "label": "good"} for name in names]
        (root / "metadata.json").write_text(json.dumps(records))
        calls[number] = calls_of(lambda root=root: read_dataset(root))
    assert calls[1200] < 5 * calls[300]


# ---------------------------------------------------------------------------------------------------------------- hints


@pytest.mark.parametrize("photos", ["bilder", "pictures_of_2024"])
def test_a_refusal_names_folders_that_may_be_photos_and_masks(tmp_path, photos):
    photo(tmp_path / photos, "a.png", "b.png", "c.png")
    mask(tmp_path / "umrisse", "a.png", "b.png")
    with pytest.raises(LayoutError) as caught:
        read_dataset(tmp_path)
    (hint,) = caught.value.hints
    assert hint == {"layout": "image_mask", "image_dir": photos, "mask_dir": "umrisse"}
    assert read_dataset(tmp_path, **hint)["label_index"].tolist() == [1, 1, 0]
    options = {name: folder for name, folder in hint.items() if name != "layout"}
    assert len(read_dataset(tmp_path, **options)) == 3


@pytest.mark.parametrize("inner", ["casting_data", "data/v2"])
def test_a_refusal_names_the_folder_inside_that_can_be_read(tmp_path, inner):
    photo(tmp_path / inner, "train/good/0.png", "test/good/1.png", "test/dent/0.png")
    with pytest.raises(LayoutError) as caught:
        read_dataset(tmp_path)
    (hint,) = caught.value.hints
    assert len(read_dataset(**{"path": tmp_path, **hint})) == 3


def test_a_refusal_names_a_table_and_photos_that_cannot_be_read(tmp_path):
    photo(tmp_path, "a.png")
    (tmp_path / "b.heic").write_bytes(b"x")
    (tmp_path / "list.csv").write_text("image_path,label\na.png,good\n")
    with pytest.raises(LayoutError, match=r"\.heic") as caught:
        read_dataset(tmp_path)
    assert [read_dataset(**hint)["label_index"].tolist() for hint in caught.value.hints] == [[0]]


# --------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("listed", "mask_listed"),
    [
        ("photos\\ng\\Nähe 9.png", "masks\\9.png"),
        ("photos/ng/Na\u0308he 9.png", "masks/9.png"),
        ("photos/ng/N%C3%A4he%209.png", "masks/9.png"),
        ("D:\\line 3\\photos\\ng\\Nähe 9.png", "D:\\line 3\\masks\\9.png"),
        ("/home/me/set/photos/ng/Nähe 9.png", "/home/me/set/masks/9.png"),
        ("Photos/NG/Nähe 9.PNG", "masks/9.png"),
    ],
)
def test_names_in_a_table_from_elsewhere(tmp_path, listed, mask_listed):
    photo(tmp_path, "photos/ok/9.png", "photos/ng/N\u00e4he 9.png")
    mask(tmp_path, "masks/9.png")
    (tmp_path / "list.csv").write_text(
        f"image_path,label,mask_path\nphotos/ok/9.png,good,\n{listed},dent,{mask_listed}\n"
    )
    table = read_dataset(tmp_path / "list.csv")
    assert masks(table) == {"photos/ng/N\u00e4he 9.png": "masks/9.png"}
    assert not {code for code, _ in told(table, "error")} & {"missing-file", "missing-mask"}


def test_a_photo_that_is_gone_is_not_found_in_its_mask(tmp_path):
    photo(tmp_path, "photos/1.png")
    mask(tmp_path, "masks/9.png")
    (tmp_path / "list.csv").write_text("image_path,label,mask_path\nphotos/1.png,good,\n9.png,dent,masks/9.png\n")
    assert ("missing-file", "9.png") in told(read_dataset(tmp_path / "list.csv"), "error")


def test_numbers_that_are_names_stay_text(tmp_path):
    photo(tmp_path, "a.png", "b.png")
    text = "image_path,label,defect_type,defect_types,serial,size\na.png,good,,,,1\nb.png,1,007,007,0012,2.5\n"
    (tmp_path / "list.csv").write_text(text)
    table = read_dataset(tmp_path / "list.csv")
    back = read_table(write_table(table, tmp_path / "out.csv"))
    for read in (table, back):
        assert read["defect_types"].tolist() == ["", "007"] and read["defect_type"][1] == "007"
        assert read["serial"].tolist() == ["", "0012"] and read["size"].tolist() == [1, 2.5]


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "a\0.png", "../../etc/passwd", "C:\\a.png"])
def test_names_in_a_table_that_no_file_can_have_are_findings(tmp_path, name):
    photo(tmp_path, "b.png")
    (tmp_path / "list.csv").write_text(f"image_path,label\nb.png,good\n{name},dent\n")
    table = read_dataset(tmp_path / "list.csv")
    assert len(table) == (1 if "\0" in name else 2)  # a name that no table can hold is left out
    assert len({path for _, path in told(table, "error") if path}) == 1


@pytest.mark.parametrize("separator", [";", "\t"])
def test_tables_of_other_separators(tmp_path, separator):
    photo(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text(f"image_path{separator}label\na.png{separator}good\n")
    assert read_dataset(tmp_path / "list.csv")["label_index"].tolist() == [0]


@pytest.mark.parametrize(
    "content", [b"image_path,label\nN\xe4he.png,good\n", b"", b"image_path,label\na,b,c\nd\n,,,,\n"]
)
def test_tables_that_are_none_are_named(tmp_path, content):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"list\.csv"):
        read_dataset(tmp_path / "list.csv")


# --------------------------------------------------------------------------------------------------------- dataset.json


@pytest.mark.parametrize("value", ["-0.05", "0", "NaN", "Infinity", '"0,05"', '"0.05"', "[0.05]", "true"])
def test_a_pixel_size_that_is_none_is_refused(tmp_path, value):
    photo(tmp_path, "good/0.png", "dent/0.png")
    (tmp_path / "dataset.json").write_text(f'{{"pixel_size_mm": {value}}}')
    with pytest.raises(ValueError, match=r"dataset\.json: pixel_size_mm"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("value", [-1.0, 0, float("nan"), float("inf"), "0,05", True])
def test_a_given_pixel_size_that_is_none_is_refused(tmp_path, value):
    photo(tmp_path, "good/0.png", "dent/0.png")
    with pytest.raises(ValueError, match="pixel_size is"):
        read_dataset(tmp_path, pixel_size=value)


# ------------------------------------------------------------------------------------ what would make a defect normal


@pytest.mark.parametrize("name", ["x.gif", "x.npy", "x_mask.tga", "x.png/"])
def test_a_mask_that_cannot_be_read_makes_no_photo_normal(tmp_path, name):
    photo(tmp_path, "images/x.png", "images/y.png")
    mask(tmp_path, "masks/y.png", value=0)
    if name.endswith("/"):
        (tmp_path / "masks" / name).mkdir()
    else:
        (tmp_path / "masks" / name).write_bytes(b"no picture")
    table = read_dataset(tmp_path)
    assert dict(zip(relative_path(table), table["label_index"], strict=True)) == {"images/x.png": 1, "images/y.png": 0}
    named = {code for code, path in told(table, "error") if path == f"masks/{name.rstrip('/')}"}
    assert named & {"not-an-image", "unreadable"}


def test_a_folder_of_masks_may_have_the_suffix_of_its_photo(tmp_path):
    photo(tmp_path, "images/x.png", "images/y.png")
    table = read_dataset(mask(tmp_path, "masks/x.png/000.png", "masks/y/000.png"))
    assert masks(table) == {"images/x.png": "masks/x.png/000.png", "images/y.png": "masks/y/000.png"}


@pytest.mark.parametrize(
    ("inner", "error"),
    [(name, True) for name in ("ng", "not_ok", "OK but dirty", "defect_2", "Hole")]
    + [(name, False) for name in ("camera_1", "no_flash", "anomaly_free", "non-defective", "no_defect", "ok")],
)
def test_defects_inside_a_folder_of_good_photos_are_an_error(tmp_path, inner, error):
    photo(tmp_path, "train/good/0.png", f"train/good/{inner}/1.png", "test/good/2.png", "test/hole/3.png")
    found = told(read_dataset(tmp_path), "error")
    assert (("defect-in-good", f"train/good/{inner}") in found) == error


def test_masks_beside_annotations_that_contradict_them_are_an_error(tmp_path):
    photo(tmp_path, "0.jpg", "1.jpg", "2.jpg")
    mask(tmp_path, "masks/0_mask.png", "masks/1_mask.png")
    mask(tmp_path, "masks/2_mask.png", value=0)
    outline = {"label": "hole", "shape_type": "polygon", "points": [[2, 2], [12, 2], [12, 9]]}
    for name, shapes in (("0", [outline]), ("1", []), ("2", [])):
        content = {"imagePath": f"{name}.jpg", "imageHeight": SIZE[0], "imageWidth": SIZE[1], "shapes": shapes}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert ("mask-on-good", "masks/1_mask.png") in told(read_dataset(tmp_path), "error")


@pytest.mark.parametrize("columns", ["label_index,defect_type", "label_index,label"])
def test_a_table_that_calls_a_defect_normal_is_refused(tmp_path, columns):
    photo(tmp_path, "a.png", "b.png")
    file = tmp_path / "t.csv"
    for word in ("good", "none", "OK", "-", ""):
        file.write_text(f"image_path,{columns}\na.png,0,{word}\nb.png,1,hole\n")
        assert types(read_dataset(file))["good"] == 1
    file.write_text(f"image_path,{columns}\na.png,0,good\nb.png,0,hole\n")
    with pytest.raises(ValueError):
        read_dataset(file)


def test_links_to_a_folder_around_are_no_types(tmp_path):
    photo(tmp_path, "good/0.png", "crack/0.png")
    mask(tmp_path, "mask/crack/0.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "crack" / "again").symlink_to(tmp_path / "crack")
    table = read_dataset(tmp_path)
    assert masks(table) == {"crack/0.png": "mask/crack/0.png"}
    assert types(table) == {"good": 1, "crack": 1}
    loops = {("link-loop", "loop"), ("link-loop", "crack/again")}
    assert told(table, "error", "warning") >= loops
    assert not {code for code, _ in told(table, "error", "warning")} & {"mask-without-photo", "unused-pictures"}


def test_the_folder_of_good_photos_may_be_a_number(tmp_path):
    photo(tmp_path, "0/a.png", "1/b.png")
    assert types(read_dataset(tmp_path, normal=0)) == {"good": 1, "1": 1}


def test_photos_called_defects_that_have_no_mask_are_an_error(tmp_path):
    photo(tmp_path, "OK/0.jpg", "NG/0.jpg", "NG/1.jpg")
    table = read_dataset(mask(tmp_path, "NG/0.png"), layout="image_mask", image_dir=".", mask_dir=".")
    assert masks(table) == {"NG/0.jpg": "NG/0.png"}
    assert ("defect-in-good", "NG") in told(table, "error")


@pytest.mark.parametrize("photos", [".", "Train"])
def test_masks_in_a_folder_among_the_photos_are_hinted_at_and_are_no_photos(tmp_path, photos):
    root = tmp_path / "set"
    photo(root / photos, "0.png", "1.png")
    mask(root / photos, "Label/1_label.png")
    with pytest.raises(LayoutError) as caught:
        read_dataset(root)
    assert len(caught.value.hints) == 1
    table = read_dataset(root, **caught.value.hints[0])
    top = "" if photos == "." else f"{photos}/"
    assert masks(table) == {f"{top}1.png": f"{top}Label/1_label.png"}
    assert set(relative_path(table)) == {f"{top}0.png", f"{top}1.png"}


def test_many_files_beside_the_photos_take_time_in_proportion(tmp_path):
    def calls(count: int) -> int:
        root = tmp_path / str(count)
        photo(root, "good/0.png", "hole/0.png")
        for number in range(count):
            (root / "good" / f"{number}.meta").touch()
        return calls_of(lambda: read_dataset(root))

    assert calls(800) < 3 * calls(400)


def test_metadata_that_calls_a_defect_normal_is_refused_and_fields_nobody_reads_are_said(tmp_path):
    photo(tmp_path, "images/a.png", "images/b.png")
    mask(tmp_path, "masks/a.png", "masks/b.png", value=0)
    file = tmp_path / "metadata.json"
    file.write_text(json.dumps({"a": {"label": 0, "defect_type": "hole"}, "b": {}}))
    with pytest.raises(LayoutError):
        read_dataset(tmp_path)
    file.write_text(json.dumps({"a": {"class": "hole"}, "b": {"label": "good", "group": "1"}}))
    assert ("unread-fields", "metadata.json") in told(read_dataset(tmp_path), "warning")
    file.write_text(json.dumps({"a": {"label": "good", "split": "train"}, "b": {"label": "good", "group": "1"}}))
    assert "unread-fields" not in {code for code, _ in told(read_dataset(tmp_path), "warning")}
